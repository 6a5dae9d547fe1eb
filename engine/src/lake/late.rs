//! An S3 lake that was away when the engine started: opened when a file is to be put.
//!
//! A bucket that is away must not keep features from starting. One that refuses us is a mistake in the topology, and that
//! is told at the start.

use async_trait::async_trait;
use bytes::Bytes;
use keyloom_actors::ports::{Lake, LakeError};
use tokio::sync::OnceCell;

use super::{S3Lake, S3Options};

/// See the module.
pub struct LateLake {
    options: S3Options,
    opened: OnceCell<S3Lake>,
}

impl LateLake {
    /// A lake to be opened later.
    pub fn new(options: S3Options) -> Self {
        Self { options, opened: OnceCell::new() }
    }

    async fn lake(&self) -> Result<&S3Lake, LakeError> {
        self.opened.get_or_try_init(|| S3Lake::open(&self.options)).await
    }
}

#[async_trait]
impl Lake for LateLake {
    async fn put(&self, name: &str, object: Bytes) -> Result<(), LakeError> {
        self.lake().await?.put(name, object).await
    }

    async fn delete(&self, name: &str) -> Result<(), LakeError> {
        self.lake().await?.delete(name).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, LakeError> {
        self.lake().await?.list(prefix).await
    }
}
