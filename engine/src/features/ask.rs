//! What a reader asks for: keys, features, and how new they must be.
//!
//! Pure: from query or body to something checked.

use std::{collections::BTreeMap, marker::PhantomData, time::Duration};

use keyloom_actors::key::Key;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};

use super::{KEYS_MAX, NAME_BYTES_MAX, NAMES_MAX, Refusal, WAIT_DEFAULT, WAIT_MAX};
use crate::topology::read_duration;

/// Something to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// The keys, in the order of the answer.
    pub keys: Vec<Key>,
    /// The names of the features; `None`: all there are.
    pub features: Option<Vec<String>>,
    /// What must be shown.
    pub min_seq: MinSeq,
    /// How long to wait for that.
    pub wait: Duration,
}

/// The events that an answer must show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MinSeq {
    /// Whatever there is.
    #[default]
    Any,
    /// Up to this sequence, in the partition of the key.
    Own(u64),
    /// Up to these sequences, by partition.
    Of(BTreeMap<u32, u64>),
}

impl MinSeq {
    /// What a key of `partition` must show; 0 for anything.
    pub fn of(&self, partition: u32) -> u64 {
        match self {
            Self::Any => 0,
            Self::Own(seq) => *seq,
            Self::Of(seqs) => seqs.get(&partition).copied().unwrap_or(0),
        }
    }

    /// Reads `17`, or `3:17` of partition 3.
    fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None => text.parse().ok().map(Self::Own),
            Some((partition, seq)) => Some(Self::Of([(partition.parse().ok()?, seq.parse().ok()?)].into())),
        }
    }
}

/// The body of `POST /v1/features`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    #[serde(borrow)]
    keys: Bounded<std::borrow::Cow<'a, str>, KEYS_MAX>,
    features: Option<Bounded<String, NAMES_MAX>>,
    min_seq: Option<BTreeMap<u32, u64>>,
    wait: Option<String>,
}

impl Ask {
    /// One key, with what the query of its address says: `features`, `min_seq`, `wait`.
    pub fn from_query(key: &str, query: &str) -> Result<Self, Refusal> {
        let key = Key::new(key).map_err(|error| Refusal::Wrong(error.to_string()))?;
        let mut ask = Self { keys: vec![key], ..Self::default() };
        let mut wait = None;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "features" => {
                    let names = value.split(',').filter(|name| !name.is_empty()).map(str::to_owned);
                    ask.features.get_or_insert_default().extend(names);
                }
                "min_seq" => {
                    ask.min_seq = MinSeq::parse(&value).ok_or_else(|| {
                        Refusal::Wrong("min_seq is no sequence: write a number, or partition:number".to_owned())
                    })?;
                }
                "wait" => wait = Some(value.into_owned()),
                _ => {
                    let text = "the query has an unknown parameter; there are features, min_seq and wait";
                    return Err(Refusal::Wrong(text.to_owned()));
                }
            }
        }
        ask.wait = patience(read_wait(wait.as_deref())?)?;
        check_names(ask.features.as_deref())?;
        Ok(ask)
    }

    /// Many keys: `{"keys":[...],"features":[...],"min_seq":{"0":17},"wait":"100ms"}`, all but the keys optional.
    pub fn from_body(body: &[u8]) -> Result<Self, Refusal> {
        let Body { keys, features, min_seq, wait } =
            serde_json::from_slice(body).map_err(|error| Refusal::Wrong(format!("the body: {error}")))?;
        let keys = keys.within(too_many_keys)?;
        let features = features.map(|features| features.within(too_many_names)).transpose()?;
        Self::many(keys.iter().map(|key| &**key), features, min_seq.unwrap_or_default(), read_wait(wait.as_deref())?)
    }

    /// The same from its parts.
    pub fn many<'a>(
        keys: impl ExactSizeIterator<Item = &'a str>,
        features: Option<Vec<String>>,
        min_seq: BTreeMap<u32, u64>,
        wait: Option<Duration>,
    ) -> Result<Self, Refusal> {
        if keys.len() > KEYS_MAX {
            return Err(too_many_keys(keys.len()));
        }
        if keys.len() == 0 {
            return Err(Refusal::Wrong("no key is asked for".to_owned()));
        }
        check_names(features.as_deref())?;
        let check = |(place, key)| Key::new(key).map_err(|error| Refusal::Wrong(format!("keys[{place}]: {error}")));
        let keys = keys.enumerate().map(check).collect::<Result<_, _>>()?;
        let min_seq = if min_seq.is_empty() { MinSeq::Any } else { MinSeq::Of(min_seq) };
        let wait = patience(wait)?;
        Ok(Self { keys, features, min_seq, wait })
    }
}

fn read_wait(wait: Option<&str>) -> Result<Option<Duration>, Refusal> {
    wait.map(read_duration).transpose().map_err(|error| Refusal::Wrong(format!("wait: {error}")))
}

fn patience(wait: Option<Duration>) -> Result<Duration, Refusal> {
    let wait = wait.unwrap_or(WAIT_DEFAULT);
    if wait > WAIT_MAX {
        return Err(Refusal::Wrong(format!("wait is longer than {} s", WAIT_MAX.as_secs())));
    }
    Ok(wait)
}

fn too_many_keys(count: usize) -> Refusal {
    Refusal::TooMuch(format!("{count} keys are asked for; at most {KEYS_MAX} are answered"))
}

/// The refusal of so many names of features.
pub(super) fn too_many_names(count: usize) -> Refusal {
    Refusal::TooMuch(format!("{count} features are asked for; at most {NAMES_MAX} can be named"))
}

/// A list of which the first `MAX` elements are kept and the others only counted, so a short text of many of them takes no
/// multiple of its size.
#[derive(Debug)]
pub(super) struct Bounded<T, const MAX: usize> {
    kept: Vec<T>,
    count: usize,
}

impl<T, const MAX: usize> Default for Bounded<T, MAX> {
    fn default() -> Self {
        Self { kept: Vec::new(), count: 0 }
    }
}

impl<T, const MAX: usize> Bounded<T, MAX> {
    /// All of its elements, or the refusal of so many.
    pub(super) fn within(self, refusal: impl FnOnce(usize) -> Refusal) -> Result<Vec<T>, Refusal> {
        if self.count > MAX { Err(refusal(self.count)) } else { Ok(self.kept) }
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(BoundedVisitor(PhantomData))
    }
}

struct BoundedVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for BoundedVisitor<T, MAX> {
    type Value = Bounded<T, MAX>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut kept = Vec::new();
        while kept.len() < MAX {
            match elements.next_element()? {
                Some(element) => kept.push(element),
                None => return Ok(Bounded { count: kept.len(), kept }),
            }
        }
        let mut count = kept.len();
        while elements.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Bounded { kept, count })
    }
}

/// Whether that many features, of such names, may be asked for.
pub fn check_names(names: Option<&[String]>) -> Result<(), Refusal> {
    let names = names.unwrap_or_default();
    if names.len() > NAMES_MAX {
        return Err(too_many_names(names.len()));
    }
    match names.iter().position(|name| name.len() > NAME_BYTES_MAX) {
        Some(place) => Err(Refusal::TooMuch(format!("features[{place}] has more than {NAME_BYTES_MAX} bytes"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).expect("a key")
    }

    #[test]
    fn queries_and_bodies_say_the_same() {
        let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let ask = Ask::from_query("u", "features=a,b&features=c%20d&min_seq=3:17&wait=100ms").expect("sound");
        let body = br#"{"keys":["u"],"features":["a","b","c d"],"min_seq":{"3":17},"wait":"100ms"}"#;
        assert_eq!(ask, Ask::from_body(body).expect("sound"));
        assert_eq!((ask.features.clone(), ask.wait), (names(&["a", "b", "c d"]), Duration::from_millis(100)));
        assert_eq!((ask.min_seq.of(3), ask.min_seq.of(4)), (17, 0));
        let plain = Ask::from_query("u", "min_seq=5").expect("sound");
        assert_eq!((plain.min_seq.of(9), plain.wait, plain.features), (5, WAIT_DEFAULT, None));
        assert_eq!(Ask::from_query("u", "features=").expect("sound").features, names(&[]));
        assert_eq!(Ask::from_body(br#"{"keys":["b","a","b"]}"#).expect("sound").keys, [key("b"), key("a"), key("b")]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_words() {
        for (key, query, says) in [
            ("", "", "empty"),
            ("u", "min_seq=x", "no sequence"),
            ("u", "min_seq=-1", "no sequence"),
            ("u", "min_seq=1&wait=soon", "wait: "),
            ("u", "min_seq=1&wait=11s", "longer than 10 s"),
            ("u", "feature=a", "unknown parameter"),
        ] {
            let refusal = Ask::from_query(key, query).expect_err(query);
            assert!(refusal.to_string().contains(says) && refusal.code() == 400, "{query}: {refusal}");
        }
        let many = format!(r#"{{"keys":[{}"u"]}}"#, r#""u","#.repeat(KEYS_MAX));
        let names = format!(r#"{{"keys":["u"],"features":[{}"u"]}}"#, r#""u","#.repeat(NAMES_MAX));
        for (body, code, says) in [
            ("", 400, "the body: "),
            ("[]", 400, "the body: "),
            (r#"{"keys":[]}"#, 400, "no key"),
            (r#"{"keys":[7]}"#, 400, "the body: "),
            (r#"{"keys":["a",""]}"#, 400, "keys[1]: the key is empty"),
            (r#"{"keys":["a"],"feature":["x"]}"#, 400, "unknown field"),
            (r#"{"keys":["a"],"min_seq":{"x":1}}"#, 400, "the body: "),
            (many.as_str(), 413, "1001 keys"),
            (names.as_str(), 413, "1001 features"),
        ] {
            let refusal = Ask::from_body(body.as_bytes()).expect_err(body);
            assert!(refusal.to_string().contains(says) && refusal.code() == code, "{body}: {refusal}");
        }
    }

    proptest! {
        #[test]
        fn any_query_and_any_body_is_judged(query in "\\PC{0,60}", body in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _either_way = (Ask::from_query("u", &query), Ask::from_body(&body));
        }
    }
}
