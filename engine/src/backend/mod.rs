//! Feature backends: databases of somebody else's that have the feature answers too.
//!
//! - `redis`: one string per key, in a Redis; `put.lua` is what runs there.
//! - `dynamodb`: one item per key, in a table of DynamoDB; `dynamodb_answers` says what its errors mean.
//!
//! What is put, and when, is decided in the actors' `forward`. Nothing here keeps answers, and nothing here tries again.

/// What names of marks begin with: behind it the partition, a colon, and the prefix of keys.
pub const MARKS: &str = "keyloom.mark:";

mod dynamodb;
mod dynamodb_answers;
mod redis;

pub use self::{
    dynamodb::{DynamoBackend, DynamoOptions},
    redis::{RedisBackend, RedisOptions},
};
pub use crate::aws::AwsCredentials;
