//! What is done to an event's personal fields on the way in: pseudonyms in their place, addresses cut.
//!
//! Pure. A pseudonym is an HMAC-SHA-256 of the value: the same value gives the same pseudonym, so sessions and joins work,
//! and without the key nobody finds the value by trying out all the likely ones.

use std::{borrow::Cow, fmt, ops::Range, sync::Arc};

use hmac::{Hmac, KeyInit as _, Mac as _};
use keyloom_actors::event::fields::{self, Kind};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};
use sha2::Sha256;

use super::{IpPolicy, token::hex};

/// Where addresses stand in events, beside the one that is stamped: also where a tracker's is kept that did not become the
/// field, because another one has, or because it is no text.
const ADDRESS_FIELDS: [&str; 8] = [
    "user_ipaddress",
    "context.ip",
    "extra.ip",
    "extra.user_ipaddress",
    "extra.body.ip",
    "extra.body.user_ipaddress",
    "extra.batch.ip",
    "extra.batch.user_ipaddress",
];

/// Fields whose values are replaced, and the key that it is done with.
#[derive(Clone)]
pub struct Pseudonyms {
    paths: Vec<Path>,
    mac: Hmac<Sha256>,
}

impl Pseudonyms {
    /// Of `fields`, names at the top level or paths such as `traits.email`.
    pub fn new<'a>(fields: impl IntoIterator<Item = &'a str>, key: &[u8]) -> Self {
        let mac = Hmac::new_from_slice(key).expect("HMAC takes keys of any length");
        Self { paths: fields.into_iter().map(Path::new).collect(), mac }
    }

    /// The pseudonym of `value`: 64 hexadecimal digits.
    pub fn of(&self, value: &str) -> String {
        let mut mac = self.mac.clone();
        mac.update(value.as_bytes());
        hex(&mac.finalize().into_bytes())
    }
}

impl fmt::Debug for Pseudonyms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pseudonyms").field("paths", &self.paths).finish_non_exhaustive()
    }
}

/// A path into an event. A name may hold dots itself, so each rest of the path is kept whole, too.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Path {
    /// `a.b.c`, `b.c`, `c`
    rests: Vec<String>,
    /// `a`, `b`, `c`
    names: Vec<String>,
}

impl Path {
    fn new(path: &str) -> Self {
        let names: Vec<String> = path.split('.').map(str::to_owned).collect();
        Self { rests: (0..names.len()).map(|from| names[from..].join(".")).collect(), names }
    }
}

/// What is done at the end of a path.
#[derive(Clone, Copy)]
enum Deed<'a> {
    Replace(&'a Pseudonyms),
    Cut(IpPolicy),
}

impl Deed<'_> {
    /// What stands there afterwards; `None`: what stood there before. `text` is that of a JSON string, else all of it.
    fn on(&self, kind: Kind, text: &str) -> Option<Value> {
        match self {
            _ if kind == Kind::Null => None,
            Self::Replace(_) if kind == Kind::String && text.is_empty() => None,
            Self::Replace(pseudonyms) => Some(Value::from(pseudonyms.of(text))),
            Self::Cut(policy) if kind == Kind::String => {
                let kept = policy.apply_text(text);
                if kept.as_deref() == Some(text) { None } else { Some(kept.into()) }
            }
            Self::Cut(_) => Some(Value::Null),
        }
    }
}

/// What is done to the events of one request.
#[derive(Clone, Debug)]
pub struct Privacy {
    /// Of addresses that a tracker's event holds.
    ip: IpPolicy,
    /// Of addresses in events of our own formats: only a source can ask for that.
    ip_of_own: IpPolicy,
    pseudonyms: Option<Arc<Pseudonyms>>,
}

impl Default for Privacy {
    fn default() -> Self {
        Self::new(IpPolicy::default(), None, None)
    }
}

impl Privacy {
    /// What a source wants, and the policy for addresses where it wants none of its own.
    pub fn new(default: IpPolicy, source: Option<IpPolicy>, pseudonyms: Option<Arc<Pseudonyms>>) -> Self {
        Self { ip: source.unwrap_or(default), ip_of_own: source.unwrap_or(IpPolicy::Keep), pseudonyms }
    }

    /// What is kept of the client's address.
    pub fn stamp(&self, address: std::net::IpAddr) -> Option<String> {
        self.ip.apply(address).map(|address| address.to_string())
    }

    /// What may be kept of what a tracker sent, as it was sent, where no event could be made of it. `None`: nothing, because
    /// values are to be replaced, or it cannot be looked into.
    pub fn of_sent<'a>(&self, sent: &'a [u8], is_anonymous: bool) -> Option<Cow<'a, [u8]>> {
        /// Trackers' own names of what the event has under others.
        const ADDRESSES: [&str; 3] = ["ip", "context.ip", "user_ipaddress"];
        const IDENTIFIERS: [&str; 2] = ["nuid", "tnuid"];
        /// Of Segment's; kept by nobody, whatever the source wants.
        const CREDENTIAL: &str = "writeKey";
        if self.pseudonyms.is_some() {
            return None;
        }
        let ip = if is_anonymous { IpPolicy::Drop } else { self.ip };
        if serde_json::from_slice::<Members<'_>>(sent).is_err() {
            // A query, a number or a text holds no credential; what only looks like an object or is an array may.
            let may_hold_one = matches!(sent.trim_ascii().first(), Some(b'{' | b'['));
            return (ip == IpPolicy::Keep && !may_hold_one).then_some(Cow::Borrowed(sent));
        }
        let addresses = ADDRESSES.iter().filter(|_| ip != IpPolicy::Keep).map(|name| (*name, ip));
        let identifiers = IDENTIFIERS.iter().filter(|_| is_anonymous).map(|name| (*name, IpPolicy::Drop));
        let named = addresses.chain(identifiers).chain([(CREDENTIAL, IpPolicy::Drop)]);
        let deeds = named.map(|(name, policy)| (Cow::Owned(Path::new(name)), Deed::Cut(policy))).collect();
        Some(Rewriting { deeds }.apply(sent))
    }

    fn deeds(&self, ip: IpPolicy) -> Vec<(Cow<'_, Path>, Deed<'_>)> {
        let replaced = self.pseudonyms.iter().flat_map(|p| p.paths.iter().map(|path| (path, Deed::Replace(p))));
        let mut deeds: Vec<_> = replaced.map(|(path, deed)| (Cow::Borrowed(path), deed)).collect();
        if ip != IpPolicy::Keep {
            let addresses = ADDRESS_FIELDS.map(Path::new);
            let cut = addresses.into_iter().filter(|path| deeds.iter().all(|(known, _)| **known != *path));
            let cut: Vec<_> = cut.map(|path| (Cow::Owned(path), Deed::Cut(ip))).collect();
            deeds.extend(cut);
        }
        deeds
    }

    /// What is done to events as JSON text: to those of our own formats as they were sent, or to those of trackers in our
    /// form. Made once per request.
    pub fn rewriting(&self, is_tracker: bool) -> Rewriting<'_> {
        Rewriting { deeds: self.deeds(if is_tracker { self.ip } else { self.ip_of_own }) }
    }
}

/// What is done to the events of one request as JSON text.
pub struct Rewriting<'p> {
    deeds: Vec<(Cow<'p, Path>, Deed<'p>)>,
}

impl Rewriting<'_> {
    /// The event with its changes; a copy only if there are some. What is no JSON object stays as it is: whoever reads it
    /// refuses it.
    pub fn apply<'a>(&self, event: &'a [u8]) -> Cow<'a, [u8]> {
        if self.deeds.is_empty() {
            return Cow::Borrowed(event);
        }
        let Ok(text) = std::str::from_utf8(event) else { return Cow::Borrowed(event) };
        let open: Vec<_> = self.deeds.iter().map(|(path, deed)| (&**path, 0, *deed)).collect();
        let mut changes = Vec::new();
        find(text, 0, &open, &mut changes);
        if changes.is_empty() {
            return Cow::Borrowed(event);
        }
        let mut out = Vec::with_capacity(event.len() + 64 * changes.len());
        let mut copied = 0;
        for (range, value) in changes {
            out.extend_from_slice(&event[copied..range.start]);
            out.extend_from_slice(value.to_string().as_bytes());
            copied = range.end;
        }
        out.extend_from_slice(&event[copied..]);
        Cow::Owned(out)
    }
}

/// Finds what changes in the object `text`, which begins at `offset` of the event, in the order of the text. A name that
/// stands there twice is found twice, and the objects in an array on the way are each gone through. The depth is that of the
/// longest path.
fn find(text: &str, offset: usize, open: &[(&Path, usize, Deed<'_>)], changes: &mut Vec<(Range<usize>, Value)>) {
    let Ok(Members(members)) = serde_json::from_str(text) else {
        // The event itself is refused by whoever reads it. What stands inside of it is not looked into any more, so what
        // should be private there must not stay: a name may be half a surrogate pair, for instance.
        if open.iter().any(|(_, level, _)| *level > 0) {
            changes.push((offset..offset + text.len(), Value::Null));
        }
        return;
    };
    for (name, raw) in members {
        let raw = raw.get();
        let Some(start) = (raw.as_ptr() as usize).checked_sub(text.as_ptr() as usize) else { continue };
        let place = offset + start..offset + start + raw.len();
        let value = fields::Value::of(raw);
        let ends = open.iter().find(|(path, level, _)| path.rests[*level] == name);
        if let Some((_, _, deed)) = ends {
            let string = if value.kind == Kind::String { value.as_str() } else { None };
            let new = deed.on(value.kind, string.as_deref().unwrap_or(value.raw));
            changes.extend(new.map(|new| (place, new)));
        } else if matches!(value.kind, Kind::Object | Kind::Array) {
            let deeper =
                open.iter().filter(|(path, level, _)| level + 1 < path.names.len() && path.names[*level] == name);
            let deeper: Vec<_> = deeper.map(|(path, level, deed)| (*path, level + 1, *deed)).collect();
            if deeper.is_empty() {
                continue;
            }
            for object in objects(value.raw) {
                find(&value.raw[object.clone()], place.start + object.start, &deeper, changes);
            }
        }
    }
}

/// Where the outermost objects of `json` are, one sound JSON value: itself, or those in an array, however many arrays are
/// around them. No recursion, because nobody has looked yet how deep it is.
fn objects(json: &str) -> Vec<Range<usize>> {
    let (mut found, mut level, mut start) = (Vec::new(), 0usize, 0);
    let (mut is_text, mut is_escaped) = (false, false);
    for (at, byte) in json.bytes().enumerate() {
        match (is_text, byte) {
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (_, b'"') => is_text = !is_text,
            (false, b'{') => {
                if level == 0 {
                    start = at;
                }
                level += 1;
            }
            (false, b'}') => {
                level = level.saturating_sub(1);
                if level == 0 {
                    found.push(start..at + 1);
                }
            }
            _ => {}
        }
    }
    found
}

/// The members of an object in their order, repeated names included: whoever reads the log later may take either.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(All)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pseudonyms() -> Pseudonyms {
        Pseudonyms::new(["user_id", "traits.email", "a.b.c"], b"Jefe")
    }

    fn privacy(ip: Option<IpPolicy>) -> Privacy {
        Privacy::new(IpPolicy::Truncate, ip, Some(Arc::new(pseudonyms())))
    }

    fn json_of(privacy: &Privacy, event: &str) -> String {
        String::from_utf8(privacy.rewriting(false).apply(event.as_bytes()).into_owned()).expect("text")
    }

    #[test]
    fn a_pseudonym_is_the_hmac_of_the_value() {
        // RFC 4231, test case 2.
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(pseudonyms().of("what do ya want for nothing?"), expected);
    }

    #[test]
    fn own_events_change_where_a_source_says_so_and_nowhere_else() {
        let of = |text: &str| pseudonyms().of(text);
        let privacy = privacy(None);
        for (event, expected) in [
            (r#"{"user_id":"u", "x":1.50}"#, format!(r#"{{"user_id":"{}", "x":1.50}}"#, of("u"))),
            (r#"{"user\u005fid":"\u0075"}"#, format!(r#"{{"user\u005fid":"{}"}}"#, of("u"))),
            (r#"{"user_id":"a","user_id":"b"}"#, format!(r#"{{"user_id":"{}","user_id":"{}"}}"#, of("a"), of("b"))),
            (r#"{"user_id":17}"#, format!(r#"{{"user_id":"{}"}}"#, of("17"))),
            (r#"{"traits":{"n":1,"email":"e"}}"#, format!(r#"{{"traits":{{"n":1,"email":"{}"}}}}"#, of("e"))),
            (r#"{"traits.email":"e"}"#, format!(r#"{{"traits.email":"{}"}}"#, of("e"))),
            (r#"{"a":{"b.c":"e"}}"#, format!(r#"{{"a":{{"b.c":"{}"}}}}"#, of("e"))),
            (r#"{"user_id":{"no":"way"}}"#, format!(r#"{{"user_id":"{}"}}"#, of(r#"{"no":"way"}"#))),
            (r#"{"user_id":["u"]}"#, format!(r#"{{"user_id":"{}"}}"#, of(r#"["u"]"#))),
            (
                r#"{"traits":["}\\\"", {"email":"e"},7 ,[[{"email":"f"}]], {"a":{"email":"g"}}],"n":1}"#,
                format!(
                    r#"{{"traits":["}}\\\"", {{"email":"{}"}},7 ,[[{{"email":"{}"}}]], {{"a":{{"email":"g"}}}}],"n":1}}"#,
                    of("e"),
                    of("f")
                ),
            ),
            (
                r#"{"a":[{"b":[{"c":1},{"c":2}]}]}"#,
                format!(r#"{{"a":[{{"b":[{{"c":"{}"}},{{"c":"{}"}}]}}]}}"#, of("1"), of("2")),
            ),
            (r#"{"traits":[{"\ud800":1,"email":"e"},{"n":1}]}"#, r#"{"traits":[null,{"n":1}]}"#.to_owned()),
        ] {
            assert_eq!(json_of(&privacy, event), expected);
        }
        for same in [
            r#"{"user_id":null,"traits":["email"],"email":"e"}"#,
            r#"{"user_id":"","user_ipaddress":"203.0.113.7"}"#,
            "{broken",
            "[]",
            "",
        ] {
            assert!(matches!(privacy.rewriting(false).apply(same.as_bytes()), Cow::Borrowed(_)), "{same}");
        }
        let no_text = b"{\"user_id\":\"\xff\"}";
        assert!(matches!(privacy.rewriting(false).apply(no_text), Cow::Borrowed(_)));
        let odd = r#"{"traits":{"\ud800":1,"email":"e"}}"#;
        assert_eq!(json_of(&privacy, odd), r#"{"traits":null}"#, "what cannot be looked into does not stay");
        let own = r#"{"user_ipaddress":"203.0.113.7"}"#;
        let no_source = Privacy::new(IpPolicy::Drop, None, None);
        assert_eq!(json_of(&no_source, own), own, "what is said of trackers does not change own events");
        assert_eq!(&*no_source.rewriting(true).apply(own.as_bytes()), br#"{"user_ipaddress":null}"#);
        let sent = br#"{"ip":"203.0.113.7","nuid":"n","e":"xx"}"#;
        assert_eq!(privacy.of_sent(sent, false), None, "nothing as it was sent beside pseudonyms");
        let kept = |policy, anonymous| {
            let privacy = Privacy::new(policy, None, None);
            privacy.of_sent(sent, anonymous).map(|text| String::from_utf8_lossy(&text).into_owned())
        };
        let said = |text: &str| Some(text.to_owned());
        assert_eq!(kept(IpPolicy::Keep, false), said(r#"{"ip":"203.0.113.7","nuid":"n","e":"xx"}"#));
        assert_eq!(kept(IpPolicy::Truncate, false), said(r#"{"ip":"203.0.113.0","nuid":"n","e":"xx"}"#));
        assert_eq!(kept(IpPolicy::Keep, true), said(r#"{"ip":null,"nuid":null,"e":"xx"}"#));
        assert_eq!(no_source.of_sent(b"e=pv&ip=203.0.113.7", false), None, "not to be looked into");
    }

    #[test]
    fn a_write_key_is_not_kept_whatever_a_source_keeps() {
        let kept = |policy, sent: &str| {
            let privacy = Privacy::new(policy, None, None);
            privacy.of_sent(sent.as_bytes(), false).map(|text| String::from_utf8_lossy(&text).into_owned())
        };
        let message = r#"{"writeKey":"web-1","write\u004bey":["web-1"],"context":{"writeKey":1},"event":""}"#;
        let cut = r#"{"writeKey":null,"write\u004bey":null,"context":{"writeKey":1},"event":""}"#;
        for policy in [IpPolicy::Keep, IpPolicy::Truncate, IpPolicy::Drop] {
            assert_eq!(kept(policy, message).as_deref(), Some(cut), "{policy:?}");
            for odd in [r#"{"\ud800":1,"writeKey":"web-1"}"#, r#"[{"writeKey":"web-1"}]"#] {
                assert_eq!(kept(policy, odd), None, "{policy:?}: what cannot be looked into does not stay");
            }
        }
        for same in ["e=xx&ip=203.0.113.7", "7", "\"alice\"", r#"{"ip":"203.0.113.7","e":"xx"}"#] {
            assert_eq!(kept(IpPolicy::Keep, same).as_deref(), Some(same));
        }
    }

    #[test]
    fn addresses_in_events_follow_the_policy() {
        let own = r#"{"user_ipaddress":"203.0.113.7","context":{"ip":"2001:db8:1:2::3"},"n":1}"#;
        let cut = r#"{"user_ipaddress":"203.0.113.0","context":{"ip":"2001:db8:1::"},"n":1}"#;
        let gone = r#"{"user_ipaddress":null,"context":{"ip":null},"n":1}"#;
        assert_eq!(json_of(&privacy(Some(IpPolicy::Truncate)), own), cut);
        assert_eq!(json_of(&privacy(Some(IpPolicy::Drop)), own), gone);
        assert_eq!(json_of(&privacy(Some(IpPolicy::Keep)), own), own);
        assert_eq!(
            json_of(&privacy(Some(IpPolicy::Truncate)), r#"{"user_ipaddress":"alice"}"#),
            r#"{"user_ipaddress":null}"#
        );
        let sent = br#"{"user_ipaddress":"203.0.113.7","context":{"ip":7}}"#;
        let of_tracker = br#"{"user_ipaddress":"203.0.113.0","context":{"ip":null}}"#;
        assert_eq!(
            &*privacy(None).rewriting(true).apply(sent),
            of_tracker,
            "a tracker's, without a word of its source"
        );
    }

    proptest! {
        /// Nothing personal is left, and nothing else changes, whichever arrays are around it.
        #[test]
        fn only_what_is_named_changes(
            id in "[a-zé\"\\\\\n]{1,6}",
            email in "[a-z@.]{1,8}",
            other in "\\PC{0,8}|[\\[\\]{}\"\\\\]{0,8}",
            n in any::<i64>(),
            arrays in proptest::array::uniform3(0usize..3),
        ) {
            let inside = |arrays: usize, value: Value| {
                (0..arrays).fold(value, |value, _| json!([other, value, { "\"{[": other }]))
            };
            let event = |id: Value, email: Value, c: Value| {
                let traits = inside(arrays[0], json!({ "email": email, "plan": other }));
                let a = inside(arrays[1], json!({ "b": inside(arrays[2], json!({ "c": c })) }));
                json!({ "user_id": id, "traits": traits, "n": n, "a": a })
            };
            let of = |text: &str| Value::from(pseudonyms().of(text));
            let sent = event(json!(id), json!(email), json!(n));
            let text = json_of(&privacy(Some(IpPolicy::Drop)), &sent.to_string());
            let expected = event(of(&id), of(&email), of(&n.to_string()));
            prop_assert_eq!(serde_json::from_str::<Value>(&text).expect("still JSON"), expected);
        }
    }
}
