//! The envelope of a request: its HTTP headers, or what gRPC calls metadata. A request has no NATS subject.
//!
//! Pure.

use std::borrow::Cow;

use axum::http::HeaderMap;
use keyloom_actors::key_paths::Envelope;

/// The headers of a request. All of its events share them.
pub struct RequestHeaders<'a>(pub &'a HeaderMap);

impl Envelope for RequestHeaders<'_> {
    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        // What is no text can be no key.
        self.0.get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok()).map(Cow::Borrowed)
    }

    fn subject(&self) -> Option<&str> {
        None
    }
}
