//! Why a request for features was refused: status, words, and what to do about it.
//!
//! Not for keys that nobody knows, which are answers.

use super::{ANSWER_BYTES_MAX, BODY_BYTES_MAX};

/// A request that was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It makes no sense.
    #[error("{0}")]
    Wrong(String),
    /// It asks for too much.
    #[error("{0}")]
    TooMuch(String),
    /// Its body is too large.
    #[error("the request body has more than {BODY_BYTES_MAX} bytes")]
    BodyTooLarge,
    /// The answer would be too large.
    #[error("the answer has more than {ANSWER_BYTES_MAX} bytes")]
    AnswerTooLarge,
    /// Its body did not arrive in time.
    #[error("the request body did not arrive in time")]
    Slow,
    /// Too many requests for many keys at once.
    #[error("too many requests for many keys are worked on")]
    Busy,
    /// Too many bytes of messages with questions are arriving or worked on.
    #[error("too many bytes of requests are in flight")]
    NoRoom,
    /// The store does not answer, and the answer is not in memory.
    #[error("{0}")]
    Unavailable(String),
    /// What is stored makes no sense.
    #[error("the stored features of {0} cannot be read")]
    Unreadable(String),
}

impl Refusal {
    /// The HTTP status code.
    pub fn code(&self) -> u16 {
        match self {
            Self::Wrong(_) => 400,
            Self::Slow => 408,
            Self::TooMuch(_) | Self::BodyTooLarge | Self::AnswerTooLarge => 413,
            Self::Busy | Self::NoRoom => 429,
            Self::Unreadable(_) => 500,
            Self::Unavailable(_) => 503,
        }
    }

    /// What the reader can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Wrong(_) => "see \"Features\" in the README, or /openapi.json",
            Self::TooMuch(_) | Self::BodyTooLarge => "ask for less at once",
            Self::AnswerTooLarge => "ask for fewer keys, or choose features",
            Self::Slow => "send the body at once",
            Self::Busy | Self::NoRoom => "try again in a moment",
            Self::Unavailable(_) => "the store does not answer; try again in a moment",
            Self::Unreadable(_) => {
                "trying again does not help until the next event of the key; look at the engine's log"
            }
        }
    }

    /// Whether it passes by itself: such answers carry a `Retry-After`.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Busy | Self::NoRoom | Self::Unavailable(_))
    }
}
