//! Who is who: sections of the topology as rules, and what they say of one request.
//!
//! Pure but for the clock behind rates. Not here: how credentials are read from a request, see [`super::http`].

use std::{borrow::Cow, collections::HashMap, net::IpAddr, ptr, sync::Arc};

use ipnet::IpNet;

use super::{Denied, IpPolicy, Privacy, Role, Roles, TokenHash, address, privacy::Pseudonyms, rate::Rate};

/// `[access.NAME]`: who has a token or a certificate, and what they may do.
#[derive(Debug)]
pub struct Entry {
    /// Hash of the token.
    pub token: Option<TokenHash>,
    /// A name in the client's certificate, in lower case.
    pub certificate: Option<String>,
    /// What they may do.
    pub roles: Roles,
    events: Option<Rate>,
    requests: Option<Rate>,
}

impl Entry {
    /// With `rate` for events sent and, by itself, for other requests; both per second.
    pub fn new(token: Option<TokenHash>, certificate: Option<String>, roles: Roles, rate: Option<u32>) -> Self {
        let certificate = certificate.map(|name| name.to_ascii_lowercase());
        Self { token, certificate, roles, events: rate.map(Rate::new), requests: rate.map(Rate::new) }
    }
}

/// `[source.NAME]`: trackers and pages that send events with a key that is no secret.
#[derive(Debug, Default)]
pub struct Source {
    /// What its trackers send as their key.
    pub write_keys: Vec<String>,
    /// The applications of trackers without a key.
    pub app_ids: Vec<String>,
    /// Pages that may send; empty: it is not asked.
    pub origins: Vec<String>,
    /// How much of client addresses is kept, if it has a policy of its own.
    pub ip: Option<IpPolicy>,
    /// Which fields are replaced.
    pub pseudonyms: Option<Arc<Pseudonyms>>,
    /// Events per second.
    pub rate: Option<Rate>,
}

/// All rules of an engine. The default lets everybody in: for loopback.
#[derive(Debug, Default)]
pub struct Rules {
    entries: Vec<Entry>,
    sources: Vec<Source>,
    by_write_key: HashMap<String, usize>,
    by_app_id: HashMap<String, usize>,
    ip: IpPolicy,
    trusted_proxies: Vec<IpNet>,
}

/// What a sender of events says of itself; it proves nothing by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sender<'a> {
    /// A token.
    pub token: Option<&'a str>,
    /// A write key.
    pub write_key: Option<&'a str>,
    /// An application.
    pub app_id: Option<&'a str>,
    /// The page whose browser sends.
    pub origin: Option<&'a str>,
    /// Names in its certificate, checked by TLS.
    pub certificate_names: &'a [String],
}

/// What becomes of the events of one request, see [`Rules::admit_each`].
#[derive(Clone, Debug)]
pub struct Shares<T> {
    /// What is done to those that may come in, or why they may not; never empty.
    pub outcomes: Vec<Result<T, Denied>>,
    /// Which of the outcomes is that of each event; none: all have the first.
    of_event: Vec<usize>,
}

impl<T> Shares<T> {
    /// Which of the outcomes is that of the request's event `index`.
    pub fn at(&self, index: usize) -> usize {
        self.of_event.get(index).copied().unwrap_or_default()
    }

    /// The same with other words for what is done.
    pub fn map<U>(self, mut words: impl FnMut(T) -> U) -> Shares<U> {
        let outcomes = self.outcomes.into_iter().map(|outcome| outcome.map(&mut words)).collect();
        Shares { outcomes, of_event: self.of_event }
    }
}

impl Rules {
    /// The rules of these sections; `ip` is for addresses of clients where a source has no policy of its own.
    pub fn new(entries: Vec<Entry>, sources: Vec<Source>, ip: IpPolicy, trusted_proxies: Vec<IpNet>) -> Self {
        let index = |of: fn(&Source) -> &Vec<String>| -> HashMap<String, usize> {
            let all = sources.iter().enumerate();
            all.flat_map(|(at, source)| of(source).iter().map(move |text| (text.clone(), at))).collect()
        };
        let (by_write_key, by_app_id) = (index(|s| &s.write_keys), index(|s| &s.app_ids));
        Self { entries, sources, by_write_key, by_app_id, ip, trusted_proxies }
    }

    /// Whether everybody may do everything, because no section says otherwise.
    pub fn is_open(&self) -> bool {
        self.entries.is_empty() && self.sources.is_empty()
    }

    /// Where a request comes from, see [`address::client`].
    pub fn client<'a>(&self, peer: IpAddr, forwarded: impl DoubleEndedIterator<Item = &'a str>) -> IpAddr {
        address::client(peer, forwarded, &self.trusted_proxies)
    }

    /// Whether pages of `origin` may send events to some source.
    pub fn knows_origin(&self, origin: &str) -> bool {
        self.is_open() || self.sources.iter().any(|s| s.origins.iter().any(|known| known == origin))
    }

    /// Who has this token. Looks at all of them, so that the time says nothing about any.
    fn by_token(&self, token: &str) -> Result<&Entry, Denied> {
        let hash = TokenHash::of(token).ok_or(Denied::UnknownToken)?;
        let mut found = None;
        for entry in &self.entries {
            if entry.token.is_some_and(|known| known.matches(&hash).into()) {
                found = Some(entry);
            }
        }
        found.ok_or(Denied::UnknownToken)
    }

    fn by_certificate(&self, names: &[String]) -> Option<&Entry> {
        let shown = |entry: &&Entry| {
            entry.certificate.as_ref().is_some_and(|known| names.iter().any(|name| name.eq_ignore_ascii_case(known)))
        };
        self.entries.iter().find(shown)
    }

    /// Lets a request in that needs `role`, or says why not.
    pub fn enter(&self, role: Role, token: Option<&str>, certificate_names: &[String]) -> Result<(), Denied> {
        if self.is_open() {
            return Ok(());
        }
        let entry = match token {
            Some(token) => self.by_token(token)?,
            None => self.by_certificate(certificate_names).ok_or(Denied::NoCredentials(role))?,
        };
        if !entry.roles.permit(role) {
            return Err(Denied::MissingRole(role));
        }
        entry.requests.as_ref().map_or(Ok(()), |rate| rate.take(1))
    }

    /// Lets `events` events of `sender` in, or says why not; what is done to them on the way is the answer.
    pub fn admit(&self, sender: &Sender<'_>, events: usize) -> Result<Privacy, Denied> {
        let (privacy, rate) = self.entrance(sender)?;
        rate.map_or(Ok(()), |rate| rate.take(events))?;
        Ok(privacy)
    }

    /// As [`Rules::admit`], for `events` events of which each says its application: what one source wants of its events says
    /// nothing of those of another one. Refused when none of them may come in, or when a rate has no room for its events; it
    /// then may have been taken from other rates.
    pub fn admit_each<'a>(
        &self,
        sender: &Sender<'_>,
        events: usize,
        apps: impl Iterator<Item = Option<Cow<'a, str>>>,
    ) -> Result<Shares<Privacy>, Denied> {
        let mut apps = apps.peekable();
        if self.by_app_id.is_empty() || sender.write_key.is_some() || apps.peek().is_none() {
            let app = apps.next().flatten(); // it tells nobody apart
            let privacy = self.admit(&Sender { app_id: app.as_deref(), ..*sender }, events)?;
            return Ok(Shares { outcomes: vec![Ok(privacy)], of_event: Vec::new() });
        }
        // As many groups as there are sources, however many applications are named.
        let (mut groups, mut entrances, mut of_event) = (HashMap::new(), Vec::new(), Vec::new());
        for app in apps.take(events) {
            let sender = Sender { app_id: app.as_deref(), ..*sender };
            let group = (self.source_index(&sender), app.is_some());
            of_event.push(*groups.entry(group).or_insert_with(|| {
                entrances.push(self.entrance(&sender));
                entrances.len() - 1
            }));
        }
        let Some(first) = entrances.iter().position(Result::is_ok) else {
            return Err(entrances.into_iter().find_map(Result::err).unwrap_or(Denied::UnknownSource));
        };
        // What is turned away is work, too: it counts for who came along with it.
        let mut due: Vec<(&Rate, usize)> = Vec::new();
        for at in &of_event {
            let entrance = entrances[*at].as_ref().or(entrances[first].as_ref());
            if let Ok((_, Some(rate))) = entrance {
                match due.iter_mut().find(|(known, _)| ptr::eq(*known, *rate)) {
                    Some((_, count)) => *count += 1,
                    None => due.push((*rate, 1)),
                }
            }
        }
        due.into_iter().try_for_each(|(rate, count)| rate.take(count))?;
        let outcomes = entrances.into_iter().map(|entrance| entrance.map(|(privacy, _)| privacy)).collect();
        Ok(Shares { outcomes, of_event })
    }

    /// What is done to events of `sender`, and the rate that they count for.
    fn entrance(&self, sender: &Sender<'_>) -> Result<(Privacy, Option<&Rate>), Denied> {
        let source = self.source(sender);
        let privacy = || {
            let (ip, pseudonyms) = source.map_or((None, None), |source| (source.ip, source.pseudonyms.clone()));
            Privacy::new(self.ip, ip, pseudonyms)
        };
        if self.is_open() {
            return Ok((privacy(), None));
        }
        // A secret counts more than a key that everybody may know, and a wrong one is never overlooked.
        let entry = match (sender.token, source) {
            (Some(token), _) => self.by_token(token)?,
            (None, Some(source)) => {
                if let Some(origin) = sender.origin
                    && !source.origins.is_empty()
                    && source.origins.iter().all(|known| known != origin)
                {
                    return Err(Denied::Origin);
                }
                return Ok((privacy(), source.rate.as_ref()));
            }
            (None, None) => {
                let is_named = sender.write_key.is_some() || sender.app_id.is_some();
                let denied = if is_named { Denied::UnknownSource } else { Denied::NoCredentials(Role::Ingest) };
                self.by_certificate(sender.certificate_names).ok_or(denied)?
            }
        };
        if !entry.roles.permit(Role::Ingest) {
            return Err(Denied::MissingRole(Role::Ingest));
        }
        Ok((privacy(), entry.events.as_ref()))
    }

    fn source(&self, sender: &Sender<'_>) -> Option<&Source> {
        self.sources.get(self.source_index(sender)?)
    }

    fn source_index(&self, sender: &Sender<'_>) -> Option<usize> {
        let by_key = sender.write_key.and_then(|key| self.by_write_key.get(key));
        // A wrong key is not made good by an app id: that would make keys pointless.
        let by_app = if sender.write_key.is_some() { None } else { sender.app_id };
        by_key.or_else(|| by_app.and_then(|app| self.by_app_id.get(app))).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hash(token: &str) -> Option<TokenHash> {
        TokenHash::of(token)
    }

    fn rules() -> Rules {
        let entries = vec![
            Entry::new(hash("old"), None, Roles::from_iter([Role::Ingest]), None),
            Entry::new(hash("new"), None, Roles::from_iter([Role::Ingest]), None),
            Entry::new(hash("slow"), None, Roles::from_iter([Role::Ingest, Role::Features]), Some(1)),
            Entry::new(hash("reader"), None, Roles::from_iter([Role::Features, Role::AdminRead]), None),
            Entry::new(None, Some("Svc.Example".into()), Roles::from_iter([Role::Ingest, Role::Metrics]), None),
        ];
        let web = Source {
            write_keys: vec!["wk1".into(), "wk2".into()],
            app_ids: vec!["shop".into()],
            origins: vec!["https://shop.example".into()],
            ip: Some(IpPolicy::Drop),
            ..Source::default()
        };
        let app = Source { write_keys: vec!["wk3".into()], rate: Some(Rate::new(2)), ..Source::default() };
        Rules::new(entries, vec![web, app], IpPolicy::Truncate, Vec::new())
    }

    #[test]
    fn without_sections_everybody_comes_in() {
        let open = Rules::default();
        assert!(open.is_open() && open.knows_origin("https://anywhere.example"));
        assert_eq!(open.enter(Role::AdminWrite, None, &[]), Ok(()));
        assert!(
            open.admit(&Sender { write_key: Some("any"), token: Some("any"), ..Sender::default() }, 1_000_000).is_ok()
        );
    }

    #[test]
    fn a_role_needs_a_token_or_a_certificate_that_has_it() {
        let rules = rules();
        let names = ["other.example".to_owned(), "svc.EXAMPLE".to_owned()];
        for (role, token, names, expected) in [
            (Role::Features, Some("reader"), &[][..], Ok(())),
            (Role::Metrics, Some("reader"), &[], Ok(())),
            (Role::AdminWrite, Some("reader"), &[], Err(Denied::MissingRole(Role::AdminWrite))),
            (Role::Features, None, &[], Err(Denied::NoCredentials(Role::Features))),
            (Role::Features, Some(""), &[], Err(Denied::UnknownToken)),
            (Role::Features, Some("Reader"), &names, Err(Denied::UnknownToken)),
            (Role::Metrics, None, &names, Ok(())),
            (Role::Metrics, None, &names[..1], Err(Denied::NoCredentials(Role::Metrics))),
            (Role::Features, None, &names, Err(Denied::MissingRole(Role::Features))),
        ] {
            assert_eq!(rules.enter(role, token, names), expected, "{role:?} {token:?} {names:?}");
        }
        assert_eq!(rules.enter(Role::Features, Some("slow"), &[]), Ok(()));
        let mut last = Ok(());
        for _ in 0..20 {
            last = rules.enter(Role::Features, Some("slow"), &[]);
        }
        assert!(matches!(last, Err(Denied::Rate(1..=2))), "{last:?}");
    }

    #[test]
    fn senders_come_in_by_token_by_key_by_app_or_by_certificate() {
        let rules = rules();
        let names = ["svc.example".to_owned()];
        let sender = Sender::default();
        let admit = |sender: Sender<'_>| rules.admit(&sender, 1).map(drop);
        for (sender, expected) in [
            (Sender { token: Some("old"), ..sender }, Ok(())),
            (Sender { token: Some("new"), ..sender }, Ok(())), // both work while one is replaced by the other
            (Sender { token: Some("reader"), ..sender }, Err(Denied::MissingRole(Role::Ingest))),
            (Sender { token: Some("none"), write_key: Some("wk1"), ..sender }, Err(Denied::UnknownToken)),
            (Sender { write_key: Some("wk2"), ..sender }, Ok(())),
            (Sender { app_id: Some("shop"), ..sender }, Ok(())),
            (Sender { write_key: Some("wk9"), app_id: Some("shop"), ..sender }, Err(Denied::UnknownSource)),
            (Sender { write_key: Some("shop"), ..sender }, Err(Denied::UnknownSource)),
            (Sender { app_id: Some("wk1"), ..sender }, Err(Denied::UnknownSource)),
            (Sender { write_key: Some("wk1"), origin: Some("https://shop.example"), ..sender }, Ok(())),
            (Sender { write_key: Some("wk1"), origin: Some("https://evil.example"), ..sender }, Err(Denied::Origin)),
            (Sender { write_key: Some("wk1"), origin: Some("null"), ..sender }, Err(Denied::Origin)),
            (Sender { write_key: Some("wk3"), origin: Some("https://any.example"), ..sender }, Ok(())),
            (Sender { certificate_names: &names, ..sender }, Ok(())),
            (sender, Err(Denied::NoCredentials(Role::Ingest))),
        ] {
            assert_eq!(admit(sender), expected, "{sender:?}");
        }
        assert!(rules.knows_origin("https://shop.example") && !rules.knows_origin("https://shop.example.evil"));
    }

    #[test]
    fn a_source_has_its_own_policy_and_its_own_rate() {
        let rules = rules();
        let address = "203.0.113.7".parse().expect("an address");
        let stamped = |sender| rules.admit(&sender, 1).expect("let in").stamp(address);
        assert_eq!(stamped(Sender { write_key: Some("wk1"), ..Sender::default() }), None);
        assert_eq!(stamped(Sender { token: Some("old"), ..Sender::default() }).as_deref(), Some("203.0.113.0"));
        // A server that has a token may send for a source: its policy goes along.
        assert_eq!(stamped(Sender { token: Some("old"), write_key: Some("wk1"), ..Sender::default() }), None);
        let app = Sender { write_key: Some("wk3"), ..Sender::default() };
        assert_eq!(rules.admit(&app, 21).map(drop), Err(Denied::TooMany(20)));
        assert!(rules.admit(&app, 20).is_ok());
        assert!(matches!(rules.admit(&app, 10).map(drop), Err(Denied::Rate(_))));
    }

    #[test]
    fn each_event_comes_in_by_the_application_that_it_names() {
        let source = |apps: &[&str], ip, rate: Option<u32>| Source {
            app_ids: apps.iter().map(|app| (*app).to_owned()).collect(),
            ip: Some(ip),
            rate: rate.map(Rate::new),
            ..Source::default()
        };
        let server = Entry::new(hash("server"), None, Roles::from_iter([Role::Ingest]), Some(1));
        let sources = vec![source(&["a", "a2"], IpPolicy::Keep, Some(1)), source(&["b"], IpPolicy::Drop, None)];
        let rules = Rules::new(vec![server], sources, IpPolicy::Truncate, Vec::new());
        let address = "203.0.113.7".parse().expect("an address");
        let admit = |sender: Sender<'_>, apps: &[&'static str]| -> Result<Vec<_>, Denied> {
            let named = apps.iter().map(|app| Some(Cow::Borrowed(*app)).filter(|app| !app.is_empty()));
            let shares = rules.admit_each(&sender, apps.len(), named)?.map(|privacy| privacy.stamp(address));
            Ok((0..apps.len()).map(|at| shares.outcomes[shares.at(at)].clone()).collect::<Vec<_>>())
        };
        let (whole, part) = (Ok(Some("203.0.113.7".to_owned())), Ok(Some("203.0.113.0".to_owned())));
        let nobody = Err(Denied::NoCredentials(Role::Ingest));
        let found = admit(Sender::default(), &["a", "b", "other", "", "a2"]);
        assert_eq!(found, Ok(vec![whole.clone(), Ok(None), Err(Denied::UnknownSource), nobody, whole.clone()]));
        let token = Sender { token: Some("server"), ..Sender::default() };
        assert_eq!(admit(token, &["", "b", "other", "a"]), Ok(vec![part.clone(), Ok(None), part, whole.clone()]));
        // All of one source count together, and with them what comes in vain; four have come already.
        assert_eq!(admit(Sender::default(), &["a", "a2", "b", "b", "a", "x", "a"]).map(|all| all.len()), Ok(7));
        assert!(matches!(admit(Sender::default(), &["a", "a2", "a", "a2", "a", "a2"]), Err(Denied::Rate(_))));
        assert_eq!(admit(Sender::default(), &["a2"; 11]), Err(Denied::TooMany(10)));
        assert_eq!(admit(Sender::default(), &["x", ""]), Err(Denied::UnknownSource));
        assert!(rules.admit_each(&token, 3, std::iter::empty()).is_ok(), "a protocol that names none");
        assert!(matches!(admit(token, &["b"; 9]), Err(Denied::Rate(_))), "a token has one rate for all sources");
    }

    proptest! {
        #[test]
        fn no_other_token_comes_in(token in "[a-z]{0,8}") {
            let known = ["old", "new", "slow", "reader"].contains(&token.as_str());
            let denied = rules().admit(&Sender { token: Some(&token), ..Sender::default() }, 1).map(drop);
            prop_assert_eq!(denied == Err(Denied::UnknownToken), !known);
        }
    }
}
