//! Why an actor gives up, in a form that its supervisor can tell apart from a panic.

use std::error::Error;

use crate::{
    observe::Cause,
    ports::{LogError, StoreError},
};

/// See the module.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ActorFailure {
    /// Starting again may help.
    #[error("{0}")]
    Again(String),
    /// Starting again cannot help: a person must act, or another engine has the partition.
    #[error("{0}")]
    Final(String),
}

impl From<StoreError> for ActorFailure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::Again(error.to_string()),
            StoreError::Fenced(_) | StoreError::Corrupt(_) => Self::Final(error.to_string()),
        }
    }
}

impl From<LogError> for ActorFailure {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Corrupt(_) => Self::Final(error.to_string()),
            _ => Self::Again(error.to_string()),
        }
    }
}

impl From<crate::checkpoint::record::RecordError> for ActorFailure {
    fn from(error: crate::checkpoint::record::RecordError) -> Self {
        Self::Final(error.to_string())
    }
}

/// What a supervisor makes of a child's error: errors are ours, anything else was a panic.
pub fn classify(error: &(dyn Error + Send + Sync + 'static)) -> (Cause, bool) {
    match error.downcast_ref::<ActorFailure>() {
        Some(ActorFailure::Again(_)) => (Cause::Error, false),
        Some(ActorFailure::Final(_)) => (Cause::Error, true),
        None => (Cause::Panic, false),
    }
}
