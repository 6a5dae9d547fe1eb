//! Cuts a request body into the texts of its events: one object, an array of objects, or one object per line (NDJSON).
//!
//! Pure. The content decides, not the content type, because browsers send JSON as `text/plain`. Builds no values; whether
//! each piece is an event is for [`super::accept`] to say.

use std::{fmt, io::BufRead, ops::Range};

use serde::{
    Deserializer as _,
    de::{SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// The mark that some editors and exports put at the start of UTF-8 text.
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// An array that cannot be cut into its elements. Refused whole: where one event ends is uncertain from there on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the array is broken at byte {offset}: {problem}")]
pub struct BrokenArray {
    /// Where, in bytes from the start of the body.
    pub offset: usize,
    /// What is wrong, without quoting the body.
    pub problem: String,
}

/// The byte ranges of the events in `body`, in order; none in a blank body. Blank lines are not events and not counted. Of
/// more than `most` events one more is answered and the others are not: a list of tiny ones would be ten times their size.
pub fn split(body: &[u8], most: usize) -> Result<Vec<Range<usize>>, BrokenArray> {
    let start = if body.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    let text = trimmed(body, start..body.len());
    match body[text.clone()].first() {
        None => Ok(Vec::new()),
        Some(b'[') => elements(body, text, most),
        Some(b'{') if is_one_object(&body[text.clone()]) => Ok(vec![text]),
        Some(_) => Ok(lines(body, text, most)),
    }
}

/// Length of the first line of `text`, its line feed included.
pub fn line_length(text: &[u8]) -> usize {
    let mut rest = text;
    rest.skip_until(b'\n').unwrap_or(text.len()) // reading from memory never fails; this is the standard library's memchr
}

/// Whether `text` is a single value, on one line or on several (pretty printed). Costs little for lines: the attempt to read
/// them as one value ends with the first.
fn is_one_object(text: &[u8]) -> bool {
    line_length(text) == text.len() || serde_json::from_slice::<&RawValue>(text).is_ok()
}

fn lines(body: &[u8], text: Range<usize>, most: usize) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = text.start;
    while at < text.end && found.len() <= most {
        let end = at + line_length(&body[at..text.end]);
        let line = trimmed(body, at..end);
        if !line.is_empty() {
            found.push(line);
        }
        at = end;
    }
    found
}

fn elements(body: &[u8], text: Range<usize>, most: usize) -> Result<Vec<Range<usize>>, BrokenArray> {
    let array = &body[text.clone()];
    let mut parser = serde_json::Deserializer::from_slice(array);
    let read = parser.deserialize_seq(Elements { most, base: array.as_ptr() as usize, start: text.start });
    read.and_then(|found| parser.end().map(|()| found)).map_err(|error| {
        let offset = text.start + offset_of(array, error.line(), error.column());
        BrokenArray { offset, problem: error.to_string() }
    })
}

/// Collects where the elements of an array are: those that begin `start` bytes and more into the body, in memory from `base` on.
struct Elements {
    most: usize,
    base: usize,
    start: usize,
}

impl<'de> Visitor<'de> for Elements {
    type Value = Vec<Range<usize>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut found = Vec::new();
        while let Some(element) = elements.next_element::<&RawValue>()? {
            if found.len() <= self.most {
                let start = self.start + (element.get().as_ptr() as usize - self.base);
                found.push(start..start + element.get().len());
            }
        }
        Ok(found)
    }
}

/// The byte that a parser calls line `line`, column `column`, both counted from 1.
fn offset_of(text: &[u8], line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive(|b| *b == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    (before + column.saturating_sub(1)).min(text.len())
}

fn trimmed(body: &[u8], range: Range<usize>) -> Range<usize> {
    let text = &body[range.clone()];
    let start = range.start + (text.len() - text.trim_ascii_start().len());
    let end = range.end - (text.len() - text.trim_ascii_end().len());
    start..end.max(start)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use keyloom_actors::{event::KeyPaths, timestamp::Timestamp};
    use proptest::prelude::*;

    use super::*;
    use crate::front_door::accept::Acceptor;

    fn pieces(body: &str) -> Result<Vec<&str>, BrokenArray> {
        Ok(split(body.as_bytes(), usize::MAX)?.into_iter().map(|r| &body[r]).collect())
    }

    #[test]
    fn of_too_many_one_more_is_answered() {
        for body in ["[1,2,3,4,5]", "1\n2\n3\n4\n5"] {
            let counts = [2, 4, 5, 6].map(|most| split(body.as_bytes(), most).map(|found| found.len()));
            assert_eq!(counts, [Ok(3), Ok(5), Ok(5), Ok(5)], "{body}");
        }
        assert!(split(b"[1,2,3,", 1).is_err(), "also what is not answered must be an array");
    }

    #[test]
    fn the_content_decides_what_a_body_is() {
        let cases: [(&str, &[&str]); 13] = [
            ("", &[]),
            (" \r\n\n", &[]),
            ("{\"a\":1}", &["{\"a\":1}"]),
            ("\u{feff} {\"a\":1}\n", &["{\"a\":1}"]),
            ("{\n \"a\": 1,\n \"b\": {}\n}\n", &["{\n \"a\": 1,\n \"b\": {}\n}"]),
            ("{\"a\":1}\n{\"a\":2}", &["{\"a\":1}", "{\"a\":2}"]),
            ("{\"a\":1}\r\n\r\n \n{\"a\":2}\r\n", &["{\"a\":1}", "{\"a\":2}"]),
            ("{\"a\":\n{\"a\":2}", &["{\"a\":", "{\"a\":2}"]),
            ("{\"a\":1}{\"a\":2}", &["{\"a\":1}{\"a\":2}"]),
            ("nonsense\n{\"a\":2}", &["nonsense", "{\"a\":2}"]),
            ("[]", &[]),
            (" [ {\"a\":[1,\"]\"]} ,2 ]\n", &["{\"a\":[1,\"]\"]}", "2"]),
            ("\u{feff}[\n{},\n{}\n]", &["{}", "{}"]),
        ];
        for (body, expected) in cases {
            assert_eq!(pieces(body), Ok(expected.to_vec()), "{body}");
        }
    }

    #[test]
    fn a_broken_array_is_refused_whole_and_says_where() {
        for (body, offset) in [
            ("[", 1),
            ("[1", 2),
            ("[1,]", 3),
            ("[1 2]", 3),
            ("[{}]x", 4),
            ("[{}] []", 5),
            ("  [{\"a\":tru}]", 11),
            ("[{\"a\":1}, {\"b\"", 14),
        ] {
            let error = pieces(body).expect_err(body);
            assert!(error.offset.abs_diff(offset) <= 1, "{body}: {error}");
            assert!(!error.problem.is_empty() && error.problem.lines().count() == 1);
        }
        assert!(split(b"[\"\xff\"]", usize::MAX).is_err(), "not UTF-8");
    }

    type Outcome = Result<(u32, Bytes, Option<u128>, Bytes), String>;

    fn records(body: &[u8]) -> Vec<Outcome> {
        let acceptor = Acceptor { keys: KeyPaths::new(["k"]), partitions: 3, event_bytes_max: 10_000 };
        let body = Bytes::copy_from_slice(body);
        let mut count = 0;
        let mut new_id = || {
            count += 1;
            format!("id-{count}")
        };
        let ranges = split(&body, usize::MAX).expect("a sound body");
        let mut scratch = Vec::new();
        ranges
            .into_iter()
            .map(|range| {
                let accepted = acceptor.accept_slice(&body, range, &mut scratch, Timestamp(0), &mut new_id);
                let record = |(a, _): (crate::front_door::Accepted, _)| {
                    (a.partition, a.record.key, a.record.dedupe_id, a.record.payload)
                };
                accepted.map(record).map_err(|r| r.to_string())
            })
            .collect()
    }

    proptest! {
        #[test]
        fn any_bytes_are_cut_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for range in split(&bytes, usize::MAX).unwrap_or_default() {
                prop_assert!(!bytes[range].is_empty());
            }
        }

        #[test]
        fn bytes_that_look_like_json_are_cut_without_panic(text in "[\\[\\]{},:\"a1 \n\\\\]{0,40}") {
            for range in split(text.as_bytes(), usize::MAX).unwrap_or_default() {
                prop_assert!(!text[range].is_empty());
            }
        }

        #[test]
        fn an_array_and_lines_of_the_same_events_give_the_same_records(
            events in proptest::collection::vec(proptest::collection::btree_map("[kab]", "\\PC{0,9}", 0..4), 1..8),
        ) {
            let texts: Vec<String> = events.iter().map(|e| serde_json::to_string(e).expect("serializable")).collect();
            let array = records(format!(" [{}]", texts.join(" ,\n")).as_bytes());
            prop_assert_eq!(array.len(), events.len());
            prop_assert_eq!(&array, &records(texts.join("\r\n\n").as_bytes()));
            let singles: Vec<_> = texts.iter().map(|t| records(t.as_bytes()).len()).collect();
            prop_assert!(singles.iter().all(|n| *n == 1));
        }
    }
}
