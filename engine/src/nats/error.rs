//! What can be wrong between Keyloom and a NATS server at start, in words: what, where, and what to do.
//!
//! Not for faults while running: those are the ports' `LogError` and `StoreError`.

use std::fmt;

/// Oldest server that works: the first with atomic batches.
pub(super) const SERVER_MIN: (i64, i64, i64) = (2, 12, 0);

/// Why the log or the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The address makes no sense.
    #[error(
        "`{url}` is not the address of a NATS server: {reason}; write nats://host:4222 as `url` under [nats], several \
         separated by commas"
    )]
    Address {
        /// The address, without secrets.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answers.
    #[error(
        "no NATS server can be reached at {url}: {reason}; start one (`nats-server -js`) or correct `url` under [nats]"
    )]
    Unreachable {
        /// The address, without secrets.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The server does not know us, or our credentials cannot be used.
    #[error(
        "the NATS server at {url} does not let us in: {reason}; compare `token`, `user`, `nkey` or `creds` under [nats] \
         with the server's configuration"
    )]
    Credentials {
        /// The address, without secrets.
        url: String,
        /// What happened.
        reason: String,
    },
    /// No secure connection.
    #[error(
        "the TLS connection to {url} failed: {reason}; under [nats], `tls.ca` must have signed the server's certificate, \
         `tls.cert` and `tls.key` must belong together, and `tls.first` must be as the server's `handshake_first`"
    )]
    Tls {
        /// The address, without secrets.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The server has no JetStream for us.
    #[error(
        "the NATS server at {url} offers us no JetStream: {reason}; start it with `-js` or a `jetstream` block, and \
         enable JetStream for our account"
    )]
    NoJetStream {
        /// The address, without secrets.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The server cannot do what we need.
    #[error(
        "the NATS server at {url} is version {version}; atomic batches, which keep features and position together, need \
         {}.{}.{} or later: upgrade the server", SERVER_MIN.0, SERVER_MIN.1, SERVER_MIN.2
    )]
    TooOld {
        /// The address, without secrets.
        url: String,
        /// Version of the server.
        version: String,
    },
    /// A stream of that name exists and is different.
    #[error("stream {stream} at {url} exists with other settings than the topology asks for:{}", Listed(conflicts))]
    Conflict {
        /// The address, without secrets.
        url: String,
        /// The stream.
        stream: String,
        /// Every setting that differs.
        conflicts: Vec<Conflict>,
    },
    /// A bucket of that name exists, lacks what the store needs, and could not be updated.
    #[error(
        "bucket {bucket} at {url} exists but cannot hold the store ({lacks}), and updating its stream failed: {reason}; \
         run, with an account that may: {command}"
    )]
    BucketUpdate {
        /// The address, without secrets.
        url: String,
        /// The bucket.
        bucket: String,
        /// What it lacks.
        lacks: String,
        /// Why the update failed.
        reason: String,
        /// What to run.
        command: String,
    },
    /// The server said no.
    #[error("the NATS server at {url} refused {what}: {reason}; {advice}")]
    Refused {
        /// The address, without secrets.
        url: String,
        /// What was asked.
        what: String,
        /// Its answer.
        reason: String,
        /// What to do.
        advice: String,
    },
    /// The server said nothing.
    #[error(
        "the NATS server at {url} did not answer {what}: {reason}; our account must be allowed to publish to \
         `$JS.API.>` and to subscribe to `_INBOX.>`, and in a cluster a majority of the servers must be up"
    )]
    NoAnswer {
        /// The address, without secrets.
        url: String,
        /// What was asked.
        what: String,
        /// What happened.
        reason: String,
    },
}

/// One setting of an existing stream that is not as the topology asks, and both ways out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// The setting.
    pub setting: &'static str,
    /// What the stream has.
    pub found: String,
    /// What the topology asks for.
    pub wanted: String,
    /// The change of the topology that would fit.
    pub topology: String,
    /// The change on the broker that would fit.
    pub broker: String,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, found, wanted, topology, broker } = self;
        write!(f, "{setting} is {found}, wanted {wanted}: in the topology, {topology}; or on the broker, {broker}")
    }
}

struct Listed<'a>(&'a [Conflict]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|conflict| write!(f, "\n  - {conflict}"))
    }
}
