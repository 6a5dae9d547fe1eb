//! The event that records what is none, a line of a file or what a tracker sent: it goes to the log like any other and ends
//! as a dead letter.
//!
//! Pure. The same line of the same source always gives the same bytes, so that the log absorbs it when a file is ingested
//! again. What a tracker sends again is absorbed by what it sent, not by these bytes: see the front door's desk.

use std::borrow::Cow;

use serde::Serialize;

use crate::front_door::Rejection;

/// How much of a refused line is kept, in bytes.
pub const HEAD_BYTES: usize = 64 << 10;
/// How much of a source's name is kept, in bytes.
const SOURCE_BYTES_MAX: usize = 1 << 10;
/// Room for everything but the line's head, escapes included: a name of which every byte becomes six, and the error.
const FRAME_BYTES: usize = 9 << 10;
/// A byte of the line takes at most this many in the event (`\u0000`).
const ESCAPED_BYTES_MAX: usize = 6;

#[derive(Serialize)]
struct Refused<'a> {
    #[serde(rename = "keyloom.rejected")]
    reason: &'static str,
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    bytes: u64,
    payload: Cow<'a, str>,
}

/// The event that records line `line` of `source`: `bytes` long, beginning with `head`, refused by `rejection`. Stays
/// within `event_bytes_max` unless that is below 9 KiB.
pub fn refused_event(
    rejection: &Rejection,
    source: &str,
    line: u64,
    bytes: u64,
    head: &[u8],
    event_bytes_max: usize,
) -> Vec<u8> {
    let start = source.len().saturating_sub(SOURCE_BYTES_MAX);
    let start = (start..=source.len()).find(|at| source.is_char_boundary(*at)).unwrap_or(0);
    let refused = Refused {
        reason: rejection.reason.label(),
        error: &rejection.text,
        source: Some(format!("{}:{line}", &source[start..])),
        protocol: None,
        bytes,
        payload: kept(head, event_bytes_max),
    };
    serde_json::to_vec(&refused).expect("numbers and texts are always serialisable")
}

/// The event that records what a tracker sent, `bytes` long, and `rejection` refused, with as much of `payload` as fits into
/// the same limits.
pub fn refused_by_tracker(
    rejection: &Rejection,
    protocol: &'static str,
    bytes: u64,
    payload: &[u8],
    event_bytes_max: usize,
) -> Vec<u8> {
    let refused = Refused {
        reason: rejection.reason.label(),
        error: &rejection.text,
        source: None,
        protocol: Some(protocol),
        bytes,
        payload: kept(payload, event_bytes_max),
    };
    serde_json::to_vec(&refused).expect("numbers and texts are always serialisable")
}

/// As much of `sent` as fits into an event of `event_bytes_max`.
fn kept(sent: &[u8], event_bytes_max: usize) -> Cow<'_, str> {
    let kept = HEAD_BYTES.min(event_bytes_max.saturating_sub(FRAME_BYTES) / ESCAPED_BYTES_MAX).min(sent.len());
    String::from_utf8_lossy(&sent[..kept])
}

#[cfg(test)]
mod tests {
    use keyloom_actors::{dead_letter::Reason, event::KeyPaths, timestamp::Timestamp};
    use proptest::prelude::*;

    use super::*;
    use crate::front_door::Acceptor;

    #[test]
    fn the_record_says_what_where_and_how_much() {
        let rejection = Rejection { reason: Reason::NoKey, text: "no key".into() };
        let event = refused_event(&rejection, "dir/f.json", 17, 9, b"{\"a\":1}\xff\x01", 1 << 20);
        let text = r#"{"keyloom.rejected":"no_key","error":"no key","source":"dir/f.json:17","bytes":9,"payload":"{\"a\":1}�\u0001"}"#;
        assert_eq!(std::str::from_utf8(&event), Ok(text));
    }

    proptest! {
        #[test]
        fn the_record_is_always_accepted(
            line in proptest::collection::vec(prop_oneof![Just(0u8), Just(255u8), any::<u8>()], 0..3000),
            name in "[\u{0}\u{1}aü/]{0,3000}",
            limit in 12_000usize..40_000,
        ) {
            let acceptor = Acceptor { keys: KeyPaths::new(["k"]), partitions: 9, event_bytes_max: limit };
            let rejection = Rejection { reason: Reason::Parse, text: "\u{1}".repeat(303) };
            let event = refused_event(&rejection, &name, u64::MAX, u64::MAX, &line.repeat(40), limit);
            let accepted = acceptor.accept(&event, Timestamp(0), &mut String::new);
            prop_assert!(accepted.is_ok_and(|a| a.partition == 0 && a.record.payload == event));
            let event = refused_by_tracker(&rejection, "snowplow", u64::MAX, &line.repeat(40), limit);
            let accepted = acceptor.accept(&event, Timestamp(0), &mut String::new);
            prop_assert!(accepted.is_ok_and(|a| a.partition == 0 && a.record.payload == event));
        }
    }
}
