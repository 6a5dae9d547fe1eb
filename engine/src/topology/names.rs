//! What single texts of a topology must look like: names, NATS subjects, addresses, buckets.
//!
//! Pure. Each check looks at one text; what must hold between keys is in `check.rs`.

use ipnet::IpNet;
use keyloom_actors::{
    event::key_paths::{HEADER, SUBJECT, TOKENS_MAX, Token},
    key,
};

use crate::{
    access::{Role, TokenHash},
    backend::MARKS,
};

/// Longest name of an engine, stream or bucket in NATS, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 64;

/// Longest subject, in bytes.
const SUBJECT_BYTES_MAX: usize = 256;

/// What is wrong with a text, and what to do about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) help: String,
}

impl Wrong {
    pub(super) fn new(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self { what: what.into(), help: help.into() }
    }
}

/// A check of one text.
pub(super) type Check = fn(&str) -> Result<(), Wrong>;

pub(super) fn filled(text: &str) -> Result<(), Wrong> {
    if text.trim().is_empty() { Err(Wrong::new("is empty", "give a value, or remove the line")) } else { Ok(()) }
}

pub(super) fn name(text: &str) -> Result<(), Wrong> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if plain && (1..=NAME_BYTES_MAX).contains(&text.len()) {
        return Ok(());
    }
    let what = format!("{} is not a valid name", super::problems::quoted(text));
    Err(Wrong::new(what, format!("use 1 to {NAME_BYTES_MAX} letters, digits, - and _")))
}

pub(super) fn table_name(text: &str) -> Result<(), Wrong> {
    let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if plain && text.len() <= NAME_BYTES_MAX && text.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Ok(());
    }
    let what = format!("{} is not a valid table name", super::problems::quoted(text));
    Err(Wrong::new(what, format!("use up to {NAME_BYTES_MAX} of a-z, 0-9 and _, beginning with a letter")))
}

/// Headers that carry secrets: a key is written down in features, states and names, so it cannot be one.
const SECRET_HEADERS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "set-cookie"];

/// Where the key of an event is found: a field name, a path such as `user.id`, `header:NAME` or `subject:NUMBER`.
pub(super) fn key_path(text: &str) -> Result<(), Wrong> {
    if let Some(name) = text.strip_prefix(HEADER) {
        return header_name(name);
    }
    if let Some(number) = text.strip_prefix(SUBJECT) {
        let help = format!(
            "count the tokens of the NATS subject from 1, or from -1 at its end, up to {TOKENS_MAX}: \"subject:2\" is \
             device42 in events.device42.temp"
        );
        let wrong = || Wrong::new(format!("{} names no token", super::problems::quoted(text)), help);
        return Token::parse(number).map(drop).ok_or_else(wrong);
    }
    let before = text.split_once(':').map(|(before, _)| before.trim().to_ascii_lowercase());
    if let Some(near) = before.as_deref().and_then(|before| match before {
        "header" | "headers" => Some("header:x-user-id"),
        "subject" | "subjects" | "topic" => Some("subject:2"),
        _ => None,
    }) {
        let what = format!("{} is not a path to a key", super::problems::quoted(text));
        return Err(Wrong::new(what, format!("did you mean something like \"{near}\"?")));
    }
    if text.split('.').all(|part| !part.is_empty() && part.trim() == part) {
        return Ok(());
    }
    let what = format!("{} is not a path to a field", super::problems::quoted(text));
    Err(Wrong::new(what, "write a field name, or names joined by dots for a field inside another: \"user.id\""))
}

/// The name of a header of HTTP and NATS.
fn header_name(name: &str) -> Result<(), Wrong> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(plain) {
        let what = format!("{} is not the name of a header", super::problems::quoted(name));
        let help = format!("write header: and up to {NAME_BYTES_MAX} letters, digits and -: \"header:x-user-id\"");
        return Err(Wrong::new(what, help));
    }
    if SECRET_HEADERS.iter().any(|secret| name.eq_ignore_ascii_case(secret)) {
        let what = format!("the header {} carries a secret, and keys are written down everywhere", name);
        return Err(Wrong::new(what, "let the sender put the key into a header of its own: \"header:x-user-id\""));
    }
    Ok(())
}

/// A key of events.
pub(super) fn event_key(text: &str) -> Result<(), Wrong> {
    let help = format!("give 1 to {} bytes, such as \"unknown\", or remove the line", key::KEY_BYTES_MAX);
    key::check(text).map_err(|error| Wrong::new(error.to_string(), help))
}

/// A subject, perhaps with wildcards, that a stream may take.
pub(super) fn subject(text: &str) -> Result<(), Wrong> {
    let wrong = |what: &str, help: &str| Err(Wrong::new(format!("{} {what}", super::problems::quoted(text)), help));
    let plain = |b: u8| b.is_ascii_graphic() || !b.is_ascii();
    if text.is_empty() || text.len() > SUBJECT_BYTES_MAX || !text.bytes().all(plain) {
        return wrong("is not a NATS subject", "use tokens joined by dots, without blanks, such as \"events.>\"");
    }
    let tokens: Vec<&str> = text.split('.').collect();
    for (i, token) in tokens.iter().enumerate() {
        if token.is_empty() {
            return wrong("is not a NATS subject: it has an empty token", "remove the extra dot");
        }
        if *token == ">" && i + 1 < tokens.len() {
            return wrong("is not a NATS subject: > stands at the end only", "use * for one token in the middle");
        }
        if token.len() > 1 && token.contains(['*', '>']) {
            return wrong("is not a NATS subject: * and > are whole tokens", "put a dot around the wildcard");
        }
    }
    match tokens[0] {
        "*" | ">" => wrong("would take subjects of the engine and of NATS itself", "begin with a word: \"events.>\""),
        "keyloom" => wrong("is reserved for the engine", "choose another first word, such as \"events.>\""),
        first if first.starts_with('$') => wrong("is reserved for NATS", "choose a first word without $"),
        _ => Ok(()),
    }
}

/// Whether some subject matches both patterns.
pub(super) fn subjects_overlap(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        match (a.next(), b.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some(x), Some(y)) if x == y || x == "*" || y == "*" => {}
            _ => return false,
        }
    }
}

/// `nats://host:port` or `tls://host:port`: one server, no credentials.
pub(super) fn nats_url(text: &str) -> Result<(), Wrong> {
    let example = "write \"nats://host:4222\", or \"tls://host:4222\" for an encrypted connection";
    let Some(rest) = text.strip_prefix("nats://").or_else(|| text.strip_prefix("tls://")) else {
        return Err(Wrong::new("the address must begin with nats:// or tls://", example));
    };
    if rest.contains('@') {
        let help = "remove what stands before the @ and add token, or user and password, by reference: \
                    password = { env = \"NATS_PASSWORD\" }";
        return Err(Wrong::new("credentials do not belong into the url", help));
    }
    if rest.contains(',') {
        return Err(Wrong::new("more than one server", "name one; the others of its cluster are learned from it"));
    }
    host_and_port(rest.strip_suffix('/').unwrap_or(rest))
        .ok_or_else(|| Wrong::new("is not the address of a server", example))
}

/// `redis://host:port` or `rediss://host:port`, perhaps with `/NUMBER`: one server, no credentials.
pub(super) fn redis_url(text: &str) -> Result<(), Wrong> {
    let example = "write \"redis://host:6379\", or \"rediss://host:6379\" for an encrypted connection";
    let Some(rest) = text.strip_prefix("redis://").or_else(|| text.strip_prefix("rediss://")) else {
        return Err(Wrong::new("the address must begin with redis:// or rediss://", example));
    };
    if rest.contains('@') {
        let help = "remove what stands before the @ and add user, and password by reference: \
                    password = { env = \"REDIS_PASSWORD\" }";
        return Err(Wrong::new("credentials do not belong into the url", help));
    }
    let (address, database) = rest.split_once('/').unwrap_or((rest, ""));
    let is_number = database.is_empty() || database.parse::<u16>().is_ok();
    host_and_port(address).filter(|()| is_number).ok_or_else(|| Wrong::new("is not the address of a server", example))
}

/// What stands before each key in a feature backend. No key behind it may read like the name of a mark, which some user
/// would find out.
pub(super) fn key_prefix(text: &str) -> Result<(), Wrong> {
    if !text.is_empty() && (MARKS.starts_with(text) || text.starts_with(MARKS)) {
        let what =
            format!("{} and a key could be the name of one of the engine's own marks", super::problems::quoted(text));
        return Err(Wrong::new(
            what,
            format!("choose one that neither begins {MARKS:?} nor goes on as it: \"keyloom:\""),
        ));
    }
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    let what = format!("{} is not a prefix of keys", super::problems::quoted(text));
    Err(Wrong::new(what, format!("use 1 to {NAME_BYTES_MAX} visible ASCII characters without blanks: \"keyloom:\"")))
}

/// The name of a table of DynamoDB.
pub(super) fn dynamo_table(text: &str) -> Result<(), Wrong> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if (3..=255).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(());
    }
    let what = format!("{} is not the name of a table", super::problems::quoted(text));
    Err(Wrong::new(what, "DynamoDB allows 3 to 255 letters, digits, -, _ and ."))
}

/// `http://host:port` of a service that speaks S3.
pub(super) fn endpoint(text: &str) -> Result<(), Wrong> {
    let example = "write \"http://127.0.0.1:9000\" or \"https://s3.example.com\"";
    let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) else {
        return Err(Wrong::new("the address must begin with http:// or https://", example));
    };
    if rest.contains('@') {
        let help = "remove what stands before the @ and add access_key and secret_key by reference";
        return Err(Wrong::new("credentials do not belong into the endpoint", help));
    }
    host_and_port(rest.strip_suffix('/').unwrap_or(rest))
        .ok_or_else(|| Wrong::new("is not the address of a server", example))
}

fn host_and_port(text: &str) -> Option<()> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (address, rest.strip_prefix(':').or(rest.is_empty().then_some("1"))?)
        }
        None => text.split_once(':').unwrap_or((text, "1")),
    };
    let host_is_plain = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b));
    (host_is_plain && !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0)).then_some(())
}

/// The name of an S3 bucket.
pub(super) fn bucket(text: &str) -> Result<(), Wrong> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let ends = edge(text.bytes().next()) && edge(text.bytes().last());
    if (3..=63).contains(&text.len()) && text.bytes().all(plain) && ends && !text.contains("..") {
        return Ok(());
    }
    let what = format!("{} is not the name of a bucket", super::problems::quoted(text));
    Err(Wrong::new(what, "S3 allows 3 to 63 of a-z, 0-9, - and ., beginning and ending with a letter or digit"))
}

/// What stands before the table in the name of every lake object; may be empty.
pub(super) fn prefix(text: &str) -> Result<(), Wrong> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.=".contains(&b);
    let good = |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(plain);
    if text.is_empty() || (text.len() <= SUBJECT_BYTES_MAX && text.split('/').all(good)) {
        return Ok(());
    }
    let what = format!("{} is not a prefix", super::problems::quoted(text));
    Err(Wrong::new(
        what,
        "use letters, digits, - _ . and =, with single slashes between, none at the ends: \"prod/clicks\"",
    ))
}

/// One of the roles.
pub(super) fn role(text: &str) -> Result<(), Wrong> {
    if Role::of_name(text).is_some() {
        return Ok(());
    }
    let list = Role::NAMES.join(", ");
    let help = match super::near::nearest(text, Role::NAMES) {
        Some(near) => format!("did you mean \"{near}\"? The roles are {list}"),
        None => format!("choose of these: {list}"),
    };
    Err(Wrong::new(format!("{} is not a role", super::problems::quoted(text)), help))
}

/// The SHA-256 of a token. Never quoted: somebody may put the token itself here.
pub(super) fn token_hash(text: &str) -> Result<(), Wrong> {
    if TokenHash::from_hex(text).is_some() {
        return Ok(());
    }
    let help = "write the 64 hexadecimal digits that `keyloom token new` prints; the token itself does not belong here";
    Err(Wrong::new("is not a SHA-256", help))
}

/// A write key or an application id: what a tracker sends.
pub(super) fn public_key(text: &str) -> Result<(), Wrong> {
    if (1..=SUBJECT_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control) && text.trim() == text {
        return Ok(());
    }
    let what = format!("{} cannot be sent by a tracker", super::problems::quoted(text));
    Err(Wrong::new(what, format!("use 1 to {SUBJECT_BYTES_MAX} bytes, without blanks around them")))
}

/// The origin of a page, as browsers write it.
pub(super) fn origin(text: &str) -> Result<(), Wrong> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_plain = rest.is_some_and(|rest| !rest.contains('@') && host_and_port(rest).is_some());
    let is_lower = !text.bytes().any(|b| b.is_ascii_uppercase());
    let usual_port =
        text.starts_with("https://") && text.ends_with(":443") || text.starts_with("http://") && text.ends_with(":80");
    if is_plain && is_lower && !usual_port {
        return Ok(());
    }
    let what = format!("{} is not the origin of a page", super::problems::quoted(text));
    let help = "write it as browsers do: \"https://shop.example.com\", in lower case, without a path and without the usual port";
    Err(Wrong::new(what, help))
}

/// A network, or a single address.
pub(super) fn network(text: &str) -> Result<(), Wrong> {
    if parse_network(text).is_some() {
        return Ok(());
    }
    let what = format!("{} is not a network", super::problems::quoted(text));
    Err(Wrong::new(what, "write an address and the length of its prefix, such as \"10.0.0.0/8\", or one address"))
}

/// What [`network`] accepts.
pub(super) fn parse_network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
}

/// A DNS name.
pub(super) fn domain(text: &str) -> Result<(), Wrong> {
    let good = |part: &str| {
        (1..=63).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if text.len() <= 253 && text.split('.').all(good) {
        return Ok(());
    }
    let what = format!("{} is not a DNS name", super::problems::quoted(text));
    Err(Wrong::new(what, "write it out, such as \"service.example.com\""))
}

/// The name of a cookie: a token of RFC 9110.
pub(super) fn cookie_name(text: &str) -> Result<(), Wrong> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    if plain && (1..=NAME_BYTES_MAX).contains(&text.len()) {
        return Ok(());
    }
    let what = format!("{} is not the name of a cookie", super::problems::quoted(text));
    Err(Wrong::new(what, format!("use 1 to {NAME_BYTES_MAX} letters, digits, - and _")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn subjects_are_checked() {
        for good in ["events.>", "events", "a.*.b", "clicks.eu.>", "événements.>"] {
            assert_eq!(subject(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "a..b", "a.>.b", "a b", "a.b*", ">", "*.a", "$JS.API", "keyloom.x", "a.", "a\tb", "x>"] {
            assert!(subject(bad).is_err(), "{bad}");
        }
        assert!(subjects_overlap("events.>", "events.http"));
        assert!(subjects_overlap("events.*", "*.http"));
        assert!(!subjects_overlap("events.>", "events"));
        assert!(!subjects_overlap("events.a", "events.a.b"));
    }

    #[test]
    fn addresses_are_checked() {
        for good in
            ["nats://127.0.0.1:4222", "tls://nats.example.com", "nats://[::1]:4222", "nats://n-1/", "tls://[::1]"]
        {
            assert_eq!(nats_url(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "127.0.0.1",
            "http://x",
            "nats://",
            "nats://x:y",
            "nats://u:p@x",
            "nats://a,nats://b",
            "nats://x/y",
            "nats://[x]:1",
        ] {
            assert!(nats_url(bad).is_err(), "{bad}");
        }
        assert_eq!(endpoint("http://127.0.0.1:9000"), Ok(()));
        for good in ["redis://127.0.0.1:6379", "rediss://r.example.com", "redis://[::1]:6379/15", "redis://r/"] {
            assert_eq!(redis_url(good), Ok(()), "{good}");
        }
        for bad in
            ["", "r:6379", "http://r", "redis://", "redis://u:p@r", "redis://r/x", "redis://r/1/2", "redis://r:x"]
        {
            assert!(redis_url(bad).is_err(), "{bad}");
        }
        assert!(endpoint("127.0.0.1:9000").is_err());
        for good in ["keyloom:", "shop.keyloom:", "keyloom.marks:", "f:"] {
            assert_eq!(key_prefix(good), Ok(()), "{good}");
        }
        for bad in ["", "a b", "k", "keyloom", "keyloom.", "keyloom.mark:", "keyloom.mark:0:x"] {
            assert!(key_prefix(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_lake_things_are_checked() {
        for good in ["lake", "my-lake.prod", "123"] {
            assert_eq!(bucket(good), Ok(()), "{good}");
        }
        for bad in ["", "ab", "Lake", "-lake", "lake-", "la..ke", "s3://lake", "lake/x"] {
            assert!(bucket(bad).is_err(), "{bad}");
        }
        for good in ["", "prod", "a/b=c/d.e"] {
            assert_eq!(prefix(good), Ok(()), "{good}");
        }
        for bad in ["/prod", "prod/", "a//b", "../x", "a b"] {
            assert!(prefix(bad).is_err(), "{bad}");
        }
        assert!(table_name("raw_events").is_ok() && table_name("9x").is_err() && table_name("Raw").is_err());
    }

    #[test]
    fn what_access_is_made_of_is_checked() {
        for good in ["https://shop.example.com", "http://localhost:3000", "https://[::1]:8443", "http://10.0.0.1"] {
            assert_eq!(origin(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "*",
            "null",
            "shop.example.com",
            "https://Shop.example",
            "https://a/",
            "https://a/b",
            "https://a:443",
            "http://u@a",
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
        for good in ["10.0.0.0/8", "10.1.2.3", "fd00::/8", "::1"] {
            assert_eq!(network(good), Ok(()), "{good}");
        }
        assert!(network("10.0.0.0/33").is_err() && network("proxy").is_err() && network("").is_err());
        assert!(role("ingest").is_ok() && role("admin").is_err());
        assert!(domain("a.example").is_ok() && domain("*.example").is_err() && domain("a..b").is_err());
        assert!(cookie_name("sp").is_ok() && cookie_name("s p").is_err() && cookie_name("").is_err());
        assert!(public_key("wk 1").is_ok() && public_key(" wk").is_err() && public_key("").is_err());
        let secret = token_hash("keyloom-hunter2").expect_err("a token, not its hash");
        assert!(!format!("{secret:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn overlap_is_symmetric_and_holds_for_equals(a in "([ab*]\\.){0,3}[ab*>]", b in "([ab*]\\.){0,3}[ab*>]") {
            prop_assert_eq!(subjects_overlap(&a, &b), subjects_overlap(&b, &a));
            prop_assert!(subjects_overlap(&a, &a));
        }

        #[test]
        fn no_text_breaks_a_check(text in "\\PC{0,40}") {
            let of_access = [role, token_hash, public_key, origin, network, domain, cookie_name];
            for check in [name, table_name, key_path, event_key, subject, nats_url, redis_url, key_prefix, dynamo_table, endpoint, bucket, prefix, filled].into_iter().chain(of_access) {
                prop_assert!(check(&text).is_ok() || check(&text).is_err_and(|w| !w.what.is_empty() && !w.help.is_empty()));
            }
        }
    }
}
