//! The envelope of a NATS message, its headers and subject, in both forms that a message comes in.
//!
//! Pure. Both forms must say the same: an event that is read again, by itself, belongs to the key that it had before. Not
//! for the engine's own headers: those are `leader`'s and `pull`'s, and spelled one way only.

use std::borrow::Cow;

use async_nats::Message;
use keyloom_actors::event::key_paths::Envelope;

use super::{headers::lines, leader::StoredMessage};

/// A message of a subscription.
pub(super) struct Delivered<'a>(pub(super) &'a Message);

/// Names that differ in case alone are different headers to NATS, and a message of a subscription does not keep their
/// order. So the first in the order of bytes counts.
impl Envelope for Delivered<'_> {
    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        let headers = self.0.headers.as_ref()?.iter();
        let spelled = |header: &str| header.eq_ignore_ascii_case(name);
        let named = headers.filter_map(|(name, values)| {
            let name: &str = name.as_ref();
            spelled(name).then_some((name, values.first()?))
        });
        named.min_by_key(|(name, _)| *name).map(|(_, value)| Cow::Borrowed(value.as_str()))
    }

    fn subject(&self) -> Option<&str> {
        Some(&self.0.subject)
    }
}

impl Envelope for StoredMessage {
    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        let named = lines(&self.headers).filter(|(found, _)| found.eq_ignore_ascii_case(name));
        // Of equal names the first, as above.
        named.min_by_key(|(name, _)| *name).map(|(_, value)| value)
    }

    fn subject(&self) -> Option<&str> {
        Some(&self.subject)
    }
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;
    use bytes::Bytes;
    use keyloom_actors::timestamp::Timestamp;

    use super::*;

    /// The same message in both forms.
    fn both(lines: &[(&str, &str)]) -> (Message, StoredMessage) {
        let mut headers = HeaderMap::new();
        let mut block = "NATS/1.0\r\n".to_owned();
        for (name, value) in lines {
            headers.append(*name, value.replace("\r\n", ""));
            block += &format!("{name}: {value}\r\n");
        }
        block += "\r\n";
        let message = Message {
            subject: "events.d1.temp".into(),
            reply: None,
            payload: Bytes::new(),
            headers: Some(headers),
            status: None,
            description: None,
            length: 0,
        };
        let stored = StoredMessage::new(7, Timestamp(0), "events.d1.temp".to_owned(), block.into_bytes(), Bytes::new());
        (message, stored)
    }

    #[test]
    fn both_forms_find_the_same_headers_whatever_their_case() {
        let (message, stored) = both(&[("x-user", "low"), ("X-User", "first"), ("X-User", "second"), ("Other", "o")]);
        let delivered = Delivered(&message);
        for (name, value) in [("x-user", Some("first")), ("other", Some("o")), ("absent", None)] {
            assert_eq!(delivered.header(name).as_deref(), value, "{name}");
            assert_eq!(stored.header(name).as_deref(), value, "{name}");
        }
        assert_eq!((delivered.subject(), stored.subject()), (Some("events.d1.temp"), Some("events.d1.temp")));
    }

    #[test]
    fn a_value_over_several_lines_is_one() {
        let (_, stored) = both(&[("X-User", "a\r\n  b"), ("Y", "y")]);
        assert_eq!(stored.header("x-user").as_deref(), Some("a  b"), "as the client library has it");
        assert_eq!(stored.header("y").as_deref(), Some("y"));
        let (_, damaged) = both(&[("X-User", "a\r\n\u{fffd}no colon\r\nZ: z")]);
        assert_eq!(damaged.header("z").as_deref(), Some("z"));
    }
}
