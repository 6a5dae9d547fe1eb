//! The envelope of a request: its HTTP headers, or what gRPC calls metadata. A request has no NATS subject.
//!
//! Pure.

use std::borrow::Cow;

use keyloom_actors::event::key_paths::Envelope;

use super::protocols::Head;

/// All events of a request share it.
impl Envelope for Head {
    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        // What is no text can be no key.
        self.headers.get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok()).map(Cow::Borrowed)
    }

    fn subject(&self) -> Option<&str> {
        None
    }
}
