//! The distributed home of the ports `Log` and `Store`: NATS JetStream.
//!
//! A tour: [`connect()`] opens connections and explains what is wrong when it cannot; `settings` says how streams
//! should be and how existing ones differ, `provision` makes or adopts them; `log`, `reader` and `pull` are the port `Log`;
//! `store`, `batch`, `letters` and `features` are the port `Store`; `leader` is what a stream's leader answers to both; `durability` finds out
//! how safe an acknowledged write is. Types of the client library appear in this folder only.
//!
//! Not for serving NATS, and not for consumers with acknowledgements: the engine keeps its own position.

use std::{fmt, path::PathBuf, time::Duration};

use keyloom_actors::event::key_paths::KeyPaths;

mod batch;
mod connect;
mod durability;
mod envelope;
mod error;
mod features;
mod first_timers;
pub mod headers;
mod leader;
mod letters;
mod log;
mod provision;
mod publish;
mod pull;
mod reader;
mod settings;
mod store;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail that way")]
mod tests;

pub use connect::{Connection, connect};
pub use durability::probe;
pub use error::{Conflict, NatsError};
pub use log::{NatsLog, open_log};
pub use publish::Publisher;
pub use store::{NatsStore, open_store};

/// Where the servers are and who we are: `[nats]` of the topology.
#[derive(Clone, Debug)]
pub struct NatsOptions {
    /// `nats://host:4222`; several servers of one cluster separated by commas.
    pub url: String,
    /// Who we are.
    pub auth: NatsAuth,
    /// TLS, where the server asks for more than the certificates of this machine.
    pub tls: Option<NatsTls>,
    /// Name of the connections, as the server's monitoring shows it.
    pub name: String,
}

/// Credentials. Never printed.
#[derive(Clone)]
pub enum NatsAuth {
    /// None.
    None,
    /// A shared token.
    Token(String),
    /// A user and a password.
    User {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// The seed of an nkey.
    Nkey(String),
    /// The contents of a `.creds` file.
    Creds(String),
}

/// TLS of the connections.
#[derive(Clone, Debug)]
pub struct NatsTls {
    /// PEM file of the authorities to trust instead of those of this machine.
    pub ca: Option<PathBuf>,
    /// PEM file of our certificate, where the server wants one.
    pub cert: Option<PathBuf>,
    /// PEM file of its key.
    pub key: Option<PathBuf>,
    /// The server expects TLS before anything else (`handshake_first`).
    pub first: bool,
}

/// The log: `[log]` of the topology.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Name of the stream; of several partitions, the beginning of their names.
    pub stream: String,
    /// What the stream listens to. One partition only; several listen to `keyloom.events.<p>.>`.
    pub subjects: Vec<String>,
    /// How many partitions. Cannot change while the streams hold events.
    pub partitions: u32,
    /// Copies of every event.
    pub replicas: usize,
    /// Events older than this may go; `None`: never for age.
    pub max_age: Option<Duration>,
    /// The oldest events go when a stream is larger than this many bytes; `None`: never for size.
    pub max_bytes: Option<u64>,
    /// How long the log absorbs a repeated event id.
    pub dedupe_window: Duration,
    /// What is noted of an event whose publisher does not say its key.
    pub keys: KeyPaths,
}

/// The store: `[store]` of the topology.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Name of the key-value bucket.
    pub bucket: String,
    /// Copies of every record.
    pub replicas: usize,
}

impl fmt::Debug for NatsAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Token(_) => "Token(..)",
            Self::User { .. } => "User(..)",
            Self::Nkey(_) => "Nkey(..)",
            Self::Creds(_) => "Creds(..)",
        })
    }
}
