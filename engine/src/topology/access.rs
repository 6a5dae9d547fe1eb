//! `[http]`, `[ingest]`, `[access.NAME]` and `[source.NAME]`: where the engine listens, and who may come in there.
//!
//! Reads them, and checks what must hold between them. What the rules mean is for `crate::access` to say.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
};

use toml::de::DeTable;

use super::{
    keys, names,
    problems::printable,
    reader::{Reader, Section},
    resolved::{Access, Http, HttpTls, Ingest, Listen, Pseudonyms, Source},
    sections::named,
};
use crate::{
    access::{IpPolicy, Role, Roles, TokenHash},
    front_door::protocols::cookie::{CollectorCookie, SameSite},
    server::Tls,
};

/// Most `[access.NAME]`, and most `[source.NAME]`: each token that comes in is compared with all of them.
pub(super) const ACCESS_MAX: usize = 200;
/// Shortest key of pseudonyms, in bytes.
const PSEUDONYM_KEY_BYTES_MIN: usize = 16;

/// The sections that say where the faces listen.
pub(super) struct Faces<'s, 'a> {
    pub(super) http: &'s Section<'a>,
    pub(super) ingest: &'s Section<'a>,
    pub(super) features: &'s Section<'a>,
    pub(super) admin: &'s Section<'a>,
}

/// Who may come in.
#[derive(Default)]
pub(super) struct Guests {
    pub(super) access: BTreeMap<String, Access>,
    pub(super) sources: BTreeMap<String, Source>,
}

pub(super) fn read_http(r: &mut Reader<'_>, faces: &Faces<'_, '_>) -> Option<Http> {
    let s = faces.http;
    let shared = r.address(s, "listen");
    let mut own = |section: &Section<'_>| if section.has("listen") { r.address(section, "listen") } else { shared };
    let (ingest, features, admin) = (own(faces.ingest), own(faces.features), own(faces.admin));
    let (body_max, event_max) = (r.size(s, "body_max"), r.size(s, "event_max"));
    let events_max = r.count(s, "events_max");
    let (in_flight_max, connections_max) = (r.size(s, "in_flight_max"), r.count(s, "connections_max"));
    let (header_timeout, idle_timeout) = (r.duration(s, "header_timeout"), r.duration(s, "idle_timeout"));
    let write_timeout = r.duration(s, "write_timeout");
    let trusted_proxies = if s.has("trusted_proxies") { r.texts(s, "trusted_proxies") } else { Some(Vec::new()) };
    let tls = r.inner(s, "tls");
    let tls = if tls.is_given() { Some(read_tls(r, &tls)?) } else { None };
    Some(Http {
        listen: Listen { ingest: ingest?, features: features?, admin: admin? },
        body_max: body_max?,
        event_max: event_max?,
        events_max: events_max?,
        in_flight_max: in_flight_max?,
        connections_max: connections_max?,
        header_timeout: header_timeout?,
        idle_timeout: idle_timeout?,
        write_timeout: write_timeout?,
        trusted_proxies: trusted_proxies?.iter().filter_map(|text| names::parse_network(text)).collect(),
        tls,
    })
}

fn read_tls(r: &mut Reader<'_>, s: &Section<'_>) -> Option<HttpTls> {
    let (cert, key) = (r.existing(s, "cert", false), r.existing(s, "key", true));
    let client_ca = r.existing(s, "client_ca", false);
    if !(s.has("cert") && s.has("key")) {
        let help = "write tls = { cert = \"server.pem\", key = \"server.key\" }";
        r.relation(s.span(), "[http] tls: it takes a certificate and its key", help);
    }
    let (cert, key) = (cert?, key?);
    if client_ca.is_some() == s.has("client_ca")
        && let Err(error) = Tls::load(&cert, &key, client_ca.as_deref())
    {
        r.problem(s.span(), error.to_string(), "name files in PEM that belong together");
        return None;
    }
    Some(HttpTls { cert, key, client_ca })
}

pub(super) fn read_ingest(r: &mut Reader<'_>, s: &Section<'_>) -> Option<Ingest> {
    let ip = r.choice(s, "ip").and_then(IpPolicy::of_name);
    let c = r.inner(s, "cookie");
    let is_on = |r: &mut Reader<'_>, name| if c.has(name) { r.flag(&c, name) } else { Some(true) };
    let (enabled, secure) = (is_on(r, "enabled"), is_on(r, "secure"));
    let (name, max_age, domain) = (r.text(&c, "name"), r.duration(&c, "max_age"), r.text(&c, "domain"));
    let same_site = r.choice(&c, "same_site").map(|word| match word {
        "lax" => SameSite::Lax,
        "strict" => SameSite::Strict,
        _ => SameSite::None,
    });
    if secure == Some(false) && same_site == Some(SameSite::None) {
        let message =
            "[ingest] cookie.secure: browsers refuse a cookie for all pages (same_site = \"none\") that is not secure";
        r.relation(c.span_of("secure"), message, "set same_site = \"lax\", or remove secure");
    }
    let cookie = CollectorCookie {
        name: name?,
        expires_after: max_age?,
        domain,
        same_site: same_site?,
        secure: secure?,
        ..CollectorCookie::default()
    };
    Some(Ingest { ip: ip?, cookie: enabled?.then_some(cookie) })
}

/// Reads `[access.NAME]` and `[source.NAME]`, and checks that every face beyond loopback has somebody who may come in.
pub(super) fn read_guests<'a>(
    r: &mut Reader<'_>,
    root: &'a DeTable<'a>,
    faces: &Faces<'_, '_>,
    http: Option<&Http>,
) -> Guests {
    let before = r.found.len();
    let mut guests = Guests::default();
    let mut taken = Taken::default();
    for (name, field) in few(r, root, "access") {
        let section = r.section(&format!("access.{}", printable(name)), keys::ACCESS.keys, Some(field));
        let access = read_access(r, name, &section, faces.http, &mut taken);
        guests.access.extend(access.map(|a| (name.to_owned(), a)));
    }
    for (name, field) in few(r, root, "source") {
        let section = r.section(&format!("source.{}", printable(name)), keys::SOURCE.keys, Some(field));
        let source = read_source(r, name, &section, &mut taken);
        guests.sources.extend(source.map(|s| (name.to_owned(), s)));
    }
    // Of a section that cannot be read nobody knows what it was to grant.
    if let Some(http) = http.filter(|_| r.found.len() == before) {
        refuse_open_doors(r, faces, http.listen, &guests);
    }
    guests
}

fn few<'a>(r: &mut Reader<'_>, root: &'a DeTable<'a>, group: &str) -> Vec<(&'a str, super::reader::Field<'a>)> {
    let given = named(r, root, group).unwrap_or_default();
    if let Some((_, field)) = given.get(ACCESS_MAX) {
        let message = format!("{} sections [{group}.NAME] are too many; at most {ACCESS_MAX} are allowed", given.len());
        r.problem(field.key.clone(), message, "remove some, or give several senders the same one");
    }
    given
}

/// What must not stand in two sections, with the section that has it.
#[derive(Default)]
struct Taken(HashMap<(&'static str, String), String>);

impl Taken {
    fn take(&mut self, r: &mut Reader<'_>, s: &Section<'_>, key: &'static str, value: &str, title: &str) {
        if let Some(other) = self.0.insert((key, value.to_owned()), title.to_owned()) {
            let message = format!("[{title}] {key}: [{other}] has the same");
            r.relation(s.span_of(key), message, "keep it in one of the two: they may not mean different things by it");
        }
    }
}

fn read_access(
    r: &mut Reader<'_>,
    name: &str,
    s: &Section<'_>,
    http: &Section<'_>,
    taken: &mut Taken,
) -> Option<Access> {
    let title = format!("access.{}", printable(name));
    let before = r.found.len();
    let token = r.text(s, "token_sha256").and_then(|text| TokenHash::from_hex(&text));
    let certificate = r.text(s, "certificate");
    match (s.has("token_sha256"), s.has("certificate")) {
        (false, false) => {
            let help = "add token_sha256 = \"...\" (keyloom token new prints one), or certificate = \"NAME\"";
            r.relation(s.span(), format!("[{title}]: nothing says who this is"), help);
        }
        (true, true) => {
            let message = format!("[{title}] certificate: token_sha256 is given too");
            r.relation(s.span_of("certificate"), message, "make two sections of it");
        }
        _ => {}
    }
    if let Some(token) = token {
        taken.take(r, s, "token_sha256", &token.to_hex(), &title);
    }
    if let Some(certificate) = &certificate {
        taken.take(r, s, "certificate", &certificate.to_ascii_lowercase(), &title);
        let tls = r.inner(http, "tls");
        if !tls.has("client_ca") {
            let message = format!("[{title}] certificate: nobody vouches for certificates of clients");
            let help = "set tls = { cert = \"...\", key = \"...\", client_ca = \"...\" } in [http]";
            r.relation(s.span_of("certificate"), message, help);
        }
    }
    let roles = if s.has("roles") {
        r.texts(s, "roles")
    } else {
        let help = format!("add roles = [\"ingest\"]; there are {}", Role::NAMES.join(", "));
        r.relation(s.span(), format!("[{title}]: roles are missing"), help);
        None
    };
    let rate = if s.has("rate") { r.small(s, "rate") } else { None };
    let roles: Roles = roles?.iter().filter_map(|role| Role::of_name(role)).collect();
    (r.found.len() == before).then_some(Access { token, certificate, roles, rate })
}

fn read_source(r: &mut Reader<'_>, name: &str, s: &Section<'_>, taken: &mut Taken) -> Option<Source> {
    let title = format!("source.{}", printable(name));
    let before = r.found.len();
    let list = |r: &mut Reader<'_>, key| if s.has(key) { r.texts(s, key) } else { Some(Vec::new()) };
    let (write_keys, app_ids, origins) = (list(r, "write_keys"), list(r, "app_ids"), list(r, "origins"));
    for (key, values) in [("write_keys", &write_keys), ("app_ids", &app_ids)] {
        for value in values.iter().flatten() {
            taken.take(r, s, key, value, &title);
        }
    }
    if !s.has("write_keys") && !s.has("app_ids") {
        let help = "add write_keys = [\"...\"], or app_ids = [\"...\"] for Snowplow";
        r.relation(s.span(), format!("[{title}]: nothing says whose events are meant"), help);
    }
    let ip = if s.has("ip") { r.choice(s, "ip").and_then(IpPolicy::of_name) } else { None };
    let p = r.inner(s, "pseudonyms");
    let pseudonyms = if p.is_given() { read_pseudonyms(r, &p, &title) } else { None };
    let rate = if s.has("rate") { r.small(s, "rate") } else { None };
    let source = Source { write_keys: write_keys?, app_ids: app_ids?, origins: origins?, ip, pseudonyms, rate };
    (r.found.len() == before).then_some(source)
}

fn read_pseudonyms(r: &mut Reader<'_>, p: &Section<'_>, title: &str) -> Option<Pseudonyms> {
    for name in ["fields", "key"] {
        if !p.has(name) {
            let help = "write pseudonyms = { fields = [\"user_id\"], key = { env = \"PSEUDONYM_KEY\" } }";
            r.relation(p.span(), format!("[{title}] pseudonyms: {name} is missing"), help);
        }
    }
    let (fields, key) = (r.texts(p, "fields"), r.secret(p, "key"));
    if key.as_ref().is_some_and(|key| key.expose().len() < PSEUDONYM_KEY_BYTES_MIN) {
        let message = format!("[{title}] pseudonyms.key: it has fewer than {PSEUDONYM_KEY_BYTES_MIN} characters");
        r.problem(p.span_of("key"), message, "use a random one, such as `openssl rand -hex 32` makes");
    }
    Some(Pseudonyms { fields: fields?, key: key? })
}

/// A face that others than this machine can reach needs somebody who may come in, or everybody could.
fn refuse_open_doors(r: &mut Reader<'_>, faces: &Faces<'_, '_>, listen: Listen, guests: &Guests) {
    let granted = |roles: &[Role]| guests.access.values().any(|a| roles.iter().any(|role| a.roles.permit(*role)));
    let may_send = granted(&[Role::Ingest]) || !guests.sources.is_empty();
    let of_admin = [Role::Metrics, Role::AdminRead, Role::AdminWrite];
    let doors: [(&str, &Section<'_>, SocketAddr, bool, &str); 3] = [
        ("ingest", faces.ingest, listen.ingest, may_send, "ingest"),
        ("features", faces.features, listen.features, granted(&[Role::Features]), "features"),
        ("admin", faces.admin, listen.admin, granted(&of_admin), "admin-read"),
    ];
    let is_open = |address: SocketAddr, granted: bool| !address.ip().to_canonical().is_loopback() && !granted;
    let mut shared = Vec::new();
    for (name, section, address, granted, role) in doors {
        if !is_open(address, granted) {
            continue;
        }
        if section.has("listen") {
            refuse(r, name, section, &[role], "listen on loopback");
        } else {
            shared.push((name, role));
        }
    }
    if !shared.is_empty() {
        let roles: Vec<&str> = shared.iter().map(|(_, role)| *role).collect();
        let own: Vec<String> = shared.iter().map(|(name, _)| format!("[{name}]")).collect();
        let elsewhere = format!("set listen in {} to an address on loopback", own.join(", "));
        refuse(r, "http", faces.http, &roles, &elsewhere);
    }
}

fn refuse(r: &mut Reader<'_>, name: &str, section: &Section<'_>, roles: &[&str], elsewhere: &str) {
    let roles = roles.join(", ");
    let message = format!(
        "[{name}] listen: this address is not on loopback, and nobody has been given the roles that it takes: {roles}"
    );
    let source = if roles.contains("ingest") { ", or for trackers a [source.NAME] with write_keys" } else { "" };
    let flags = roles.split(", ").map(|role| format!(" --role {role}")).collect::<String>();
    let help =
        format!("add a section [access.NAME] with them (`keyloom token new{flags}` makes one){source}; or {elsewhere}");
    r.relation(section.span_of("listen"), message, help);
}
