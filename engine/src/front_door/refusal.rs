//! Why a whole request was refused: status, words, and what to do about it.
//!
//! Not for single events, which are rejected by index in an [`super::Answer`].

use crate::access::Denied;

/// A request that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing was sent.
    #[error("the request body holds no event")]
    Empty,
    /// The body is not what it says it is.
    #[error("{0}")]
    Malformed(String),
    /// The body did not arrive in time.
    #[error("the request body did not arrive within {0} s")]
    Slow(u64),
    /// The body is larger than this limit, in bytes, packed or unpacked.
    #[error("the request body has more than {0} bytes")]
    TooLarge(usize),
    /// An event is larger than the log takes, in bytes; others of the request may be stored.
    #[error("an event of the request has more than the {0} bytes that the log takes")]
    TooLargeForLog(usize),
    /// The body holds more events than this.
    #[error("the request holds more than {0} events")]
    TooMany(usize),
    /// The body is packed in an unknown way.
    #[error("the content encoding is not supported")]
    Encoding,
    /// Another method than POST.
    #[error("this address takes POST only")]
    Method,
    /// Too much is being worked on; nothing of this request was stored.
    #[error("too many bytes of requests are in flight")]
    Busy,
    /// The log did not answer; the events may or may not be stored.
    #[error("the log did not confirm the events: {0}")]
    Unavailable(String),
    /// Who sends it may not, or not now; nothing of this request was stored.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// A defect; nothing of this request was stored.
    #[error("the engine failed on this request: {0}")]
    Internal(String),
}

/// Seconds after which a client should try again, for what passes by itself.
pub const RETRY_AFTER_SECONDS: u64 = 1;

impl Refusal {
    /// The HTTP status code.
    pub fn code(&self) -> u16 {
        match self {
            Self::Denied(denied) => denied.code(),
            Self::Empty | Self::Malformed(_) => 400,
            Self::Method => 405,
            Self::Slow(_) => 408,
            Self::TooLarge(_) | Self::TooLargeForLog(_) | Self::TooMany(_) => 413,
            Self::Encoding => 415,
            Self::Busy => 429,
            Self::Internal(_) => 500,
            Self::Unavailable(_) => 503,
        }
    }

    /// What the sender can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Denied(denied) => denied.hint(),
            Self::Empty => "send one JSON object, an array of objects, or one object per line",
            Self::Malformed(_) => "nothing was stored; correct the body and send it again",
            Self::Slow(_) => "nothing was stored; send smaller requests",
            Self::TooLarge(_) | Self::TooMany(_) => "nothing was stored; send fewer events per request",
            Self::TooLargeForLog(_) => {
                "other events of the request may be stored: send them again without the large one and with the same event \
                 ids, repeats are absorbed"
            }
            Self::Encoding => "use one of gzip, deflate, zstd, identity",
            Self::Method => "send events with POST",
            Self::Busy => "nothing was stored; try again in a second",
            Self::Unavailable(_) => {
                "the outcome is unknown: send the same events with the same event ids again, repeats are absorbed; \
                 events without an event_id may be stored twice"
            }
            Self::Internal(_) => "nothing was stored; please report this with the engine's log",
        }
    }

    /// Whether it passes by itself: such answers carry a `Retry-After`.
    pub fn passes(&self) -> bool {
        self.retry_after().is_some()
    }

    /// Seconds after which to try again, for what passes by itself.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Busy | Self::Unavailable(_) => Some(RETRY_AFTER_SECONDS),
            Self::Denied(denied) => denied.retry_after(),
            _ => None,
        }
    }

    /// The answer's body: `{"error","hint"}`.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::json!({ "error": self.to_string(), "hint": self.hint() }).to_string().into_bytes()
    }
}
