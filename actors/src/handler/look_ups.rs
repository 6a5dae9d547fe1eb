//! Questions that a key has asked the world outside, and whose answers it waits for.
//!
//! Pure. A part of the key's state, so a restart asks again what was not answered. An answer is an event of the key in the
//! log, appended before it is used: a replay finds it there and asks nobody. Of several answers to one question the first in
//! the log counts. Not here: who asks (`asker`).

use std::time::Duration;

use bytes::Bytes;
use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Fault;
use crate::{event::fields::ANSWER, timestamp::Timestamp};

/// Questions of one key without an answer, at most.
pub const LOOK_UPS_MAX: usize = 16;
/// Longest name of a look-up, in bytes.
pub const LOOK_UP_NAME_BYTES_MAX: usize = 64;
/// Largest question, in bytes of JSON: it is stored with the state until it is answered.
pub const QUESTION_BYTES_MAX: usize = 16 << 10;
/// Largest answer, in bytes of JSON; a larger one becomes a failure.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Longest time a look-up may take.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

/// A question without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookUp {
    /// Its name: one outstanding question each.
    pub name: CompactString,
    /// Sequence of the event that asked.
    pub asked: u64,
    /// Time of that event: the event time of the answer, so that an answer moves no clock.
    pub time: Timestamp,
    /// How long the answer may take.
    pub timeout: Duration,
    /// The question, as JSON.
    pub question: Bytes,
}

/// The outstanding questions of a key, in the order they were asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LookUps(Vec<LookUp>);

impl LookUps {
    /// From what was stored.
    pub fn from_stored(look_ups: Vec<LookUp>) -> Self {
        Self(look_ups)
    }

    /// One more; an outstanding one of the same name is forgotten, and its answer will be ignored. Too many, or one too
    /// large, is a defect of the handler.
    pub fn add(&mut self, look_up: LookUp) -> Result<(), Fault> {
        let name = &look_up.name;
        if name.is_empty() || name.len() > LOOK_UP_NAME_BYTES_MAX {
            let text = format!("a look-up's name has 1 to {LOOK_UP_NAME_BYTES_MAX} bytes, this one has {}", name.len());
            return Err(Fault::Crash(text));
        }
        if look_up.question.len() > QUESTION_BYTES_MAX {
            let bytes = look_up.question.len();
            let text = format!("the question of look-up {name:?} has {bytes} bytes, at most {QUESTION_BYTES_MAX} fit");
            return Err(Fault::Crash(text));
        }
        if look_up.timeout.is_zero() || look_up.timeout > TIMEOUT_MAX {
            let text = format!("the timeout of look-up {name:?} is not between 1 ms and {TIMEOUT_MAX:?}");
            return Err(Fault::Crash(text));
        }
        self.0.retain(|other| other.name != *name);
        if self.0.len() == LOOK_UPS_MAX {
            let text = format!("a key waits for at most {LOOK_UPS_MAX} answers; look-up {name:?} would be one more");
            return Err(Fault::Crash(text));
        }
        self.0.push(look_up);
        Ok(())
    }

    /// Takes the question that `answer` is for; none when it was answered before, or forgotten.
    pub fn take(&mut self, name: &str, asked: u64) -> Option<LookUp> {
        let at = self.0.iter().position(|look_up| look_up.asked == asked && look_up.name == name)?;
        Some(self.0.remove(at))
    }

    /// Whether an answer is waited for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &LookUp> {
        self.0.iter()
    }
}

/// What an answer event says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Said<'a> {
    /// Name of the look-up.
    pub name: CompactString,
    /// Sequence of the event that asked.
    pub asked: u64,
    /// The answer ...
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub value: Option<&'a RawValue>,
    /// ... or why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl<'a> Said<'a> {
    /// From the value of the field [`ANSWER`].
    pub fn parse(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }
}

/// The payload of an answer to `look_up`.
pub fn answer(look_up: &LookUp, result: Result<serde_json::Value, String>) -> Bytes {
    let text = result.and_then(|value| {
        let text = value.to_string();
        let fits = text.len() <= ANSWER_BYTES_MAX;
        fits.then_some(text).ok_or_else(|| format!("the answer has more than {ANSWER_BYTES_MAX} bytes"))
    });
    let (value, failure) = match text {
        Ok(text) => (RawValue::from_string(text).ok(), None),
        Err(failure) => (None, Some(failure.chars().take(2_000).collect())),
    };
    let said = Said { name: look_up.name.clone(), asked: look_up.asked, value: value.as_deref(), failure };
    let said = serde_json::to_string(&said).expect("plain values in memory serialize");
    format!("{{\"{ANSWER}\":{said},\"collector_tstamp\":\"{}\"}}", look_up.time.to_rfc3339()).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn look_up(name: &str, asked: u64) -> LookUp {
        let (time, timeout) = (Timestamp(1_795_176_000_000_000), Duration::from_secs(1));
        LookUp { name: name.into(), asked, time, timeout, question: Bytes::from_static(b"1") }
    }

    #[test]
    fn the_first_answer_to_the_newest_question_of_a_name_counts() {
        let mut look_ups = LookUps::default();
        look_ups.add(look_up("price", 3)).expect("room");
        look_ups.add(look_up("price", 5)).expect("it replaces the first");
        assert_eq!(look_ups.take("price", 3), None);
        assert!(look_ups.take("price", 5).is_some() && look_ups.take("price", 5).is_none());
    }

    #[test]
    fn what_is_too_much_is_a_defect() {
        let mut look_ups = LookUps::default();
        (0..LOOK_UPS_MAX).for_each(|i| look_ups.add(look_up(&i.to_string(), 1)).expect("room"));
        assert!(look_ups.add(look_up("more", 1)).is_err());
        let mut none = LookUps::default();
        assert!(none.add(look_up("", 1)).is_err());
        assert!(none.add(LookUp { timeout: Duration::ZERO, ..look_up("a", 1) }).is_err());
        let question = Bytes::from(vec![b'1'; QUESTION_BYTES_MAX + 1]);
        assert!(none.add(LookUp { question, ..look_up("a", 1) }).is_err());
    }

    #[test]
    fn answers_and_failures_are_read_back() {
        let read = |result| {
            let payload = answer(&look_up("price", 7), result);
            let text = std::str::from_utf8(&payload).expect("text").to_owned();
            let said = crate::event::fields::member(&text, ANSWER).expect("it is an answer");
            let said = Said::parse(said).expect("an answer");
            assert_eq!((said.name.as_str(), said.asked), ("price", 7));
            (said.value.map(|value| value.get().to_owned()), said.failure)
        };
        assert_eq!(read(Ok(json!({"cents": 5}))), (Some(r#"{"cents":5}"#.to_owned()), None));
        assert_eq!(read(Err("no \"such\" thing".to_owned())), (None, Some("no \"such\" thing".to_owned())));
        assert!(read(Ok(json!("x".repeat(ANSWER_BYTES_MAX)))).1.is_some());
    }
}
