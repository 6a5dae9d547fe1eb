//! A feature backend in a Redis: `<prefix><key>` is the answer as JSON, so that a model server gets many keys with one MGET.
//!
//! The answer ends with its version, which is compared inside of Redis, by a script: one call for hundreds of keys, and
//! nobody can come between. The mark moves in the same call. A Redis that was restarted or failed over keeps a prefix of
//! its writes, so its mark says whether any of them are gone. Not for a Redis Cluster, whose nodes have no order in common.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use keyloom_actors::{
    backend::{BackendError, FeatureBackend, Mark, Outcome, Put, TEXT_LEN, Version},
    timestamp::SECOND,
};
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError, RedisResult, Script,
    TlsCertificates, aio::MultiplexedConnection,
};
use tokio::sync::Mutex;

use super::MARKS;
use crate::pem;

/// Longest wait for a connection, TLS and authentication included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for an answer: a call costs a Redis that is there a few milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Where it is and how to get in.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// `redis://host:port/db` or `rediss://...` with TLS, without credentials.
    pub url: String,
    /// User of the password; absent, the default one.
    pub user: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// Certificates to trust instead of the system's, PEM.
    pub ca: Option<PathBuf>,
    /// What stands before each key.
    pub prefix: String,
    /// Answers expire when their event time is this long ago.
    pub ttl: Option<Duration>,
}

/// See the module.
pub struct RedisBackend {
    client: Client,
    url: String,
    prefix: String,
    ttl: Option<Duration>,
    script: Script,
    /// Shared by all partitions; gone after an error, because what is left of it may answer something else.
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl RedisBackend {
    /// Prepares it; connects with the first call.
    pub fn new(options: &RedisOptions) -> anyhow::Result<Self> {
        // Fails when a provider is installed already, and then it is the same one.
        rustls::crypto::ring::default_provider().install_default().ok();
        let mut info: ConnectionInfo = options.url.as_str().into_connection_info()?;
        let mut settings = info.redis_settings().clone().set_skip_set_lib_name();
        if let Some(user) = &options.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &options.password {
            settings = settings.set_password(password);
        }
        info = info.set_redis_settings(settings);
        let client = match &options.ca {
            None => Client::open(info)?,
            Some(ca) => {
                // The client would take a file without certificates for none, and trust nobody.
                pem::certificates(ca).map_err(|problem| anyhow::anyhow!("ca: {} {problem}", ca.display()))?;
                let root_cert = Some(std::fs::read(ca)?);
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })?
            }
        };
        Ok(Self {
            client,
            url: options.url.clone(),
            prefix: options.prefix.clone(),
            ttl: options.ttl,
            script: Script::new(include_str!("put.lua")),
            connection: Mutex::default(),
        })
    }

    /// Not below the prefix, where keys of any form may be.
    fn mark_key(&self, partition: u32) -> String {
        format!("{MARKS}{partition}:{}", self.prefix)
    }

    async fn connection(&self) -> RedisResult<MultiplexedConnection> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = &*held {
            return Ok(connection.clone());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT));
        let opened = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(held.insert(opened).clone())
    }

    async fn failure(&self, error: &RedisError) -> BackendError {
        *self.connection.lock().await = None;
        let url = &self.url;
        match error.code() {
            Some("NOAUTH" | "WRONGPASS" | "NOPERM") => BackendError::Refused(format!(
                "redis at {url}: {error}; check user and password of [backend]: the user needs GET, SET, GETRANGE, \
                 PEXPIREAT, EVALSHA and SCRIPT LOAD on all keys of its prefix"
            )),
            Some("CROSSSLOT" | "MOVED" | "CLUSTERDOWN") => BackendError::Refused(format!(
                "redis at {url} is a cluster ({error}): a backend is one primary, with replicas as you like"
            )),
            Some("OOM") => BackendError::Unavailable(format!("redis at {url}: {error}; raise its maxmemory")),
            _ if error.kind() == ErrorKind::AuthenticationFailed => {
                BackendError::Refused(format!("redis at {url}: {error}; check user and password of [backend]"))
            }
            _ => BackendError::Unavailable(format!("redis at {url}: {error}")),
        }
    }
}

#[async_trait]
impl FeatureBackend for RedisBackend {
    fn place(&self) -> String {
        let ttl = self.ttl.map(|ttl| format!(", ttl {} ms", ttl.as_millis())).unwrap_or_default();
        format!("{}, prefix {:?}{ttl}", self.url, self.prefix)
    }

    async fn mark(&self, partition: u32) -> Result<Option<Mark>, BackendError> {
        let key = self.mark_key(partition);
        let read =
            async { redis::cmd("GET").arg(&key).query_async::<Option<String>>(&mut self.connection().await?).await };
        let found = match read.await {
            Ok(found) => found,
            Err(error) => return Err(self.failure(&error).await),
        };
        let foreign = || {
            BackendError::Refused(format!("redis at {}: {key} is not a mark of ours: choose another prefix", self.url))
        };
        found.map(|text| Mark::from_text(&text).ok_or_else(foreign)).transpose()
    }

    async fn put(
        &self,
        partition: u32,
        puts: &[Put],
        from: Option<Mark>,
        to: Mark,
    ) -> Result<Vec<Outcome>, BackendError> {
        let mut call = self.script.prepare_invoke();
        call.key(self.mark_key(partition)).arg(from.map(Mark::to_text).unwrap_or_default()).arg(to.to_text());
        for put in puts {
            let version = put.version.to_text();
            call.key(format!("{}{}", self.prefix, put.key.as_str()));
            call.arg(with_version(&put.answer, &version)).arg(version);
            call.arg(self.ttl.map(|ttl| expires(put, ttl).to_string()).unwrap_or_default());
        }
        let put = async { call.invoke_async::<Vec<String>>(&mut self.connection().await?).await };
        let answer = match put.await {
            Ok(answer) => answer,
            Err(error) => return Err(self.failure(&error).await),
        };
        if answer.first().is_none_or(|first| first != "ok") {
            return Err(BackendError::Moved);
        }
        let outcome = |said: &String| match said.as_str() {
            "" => Outcome::Written,
            "foreign" => Outcome::Unfit(
                "its key holds something that Keyloom has not written, which is left alone: choose another prefix, or \
                 remove it"
                    .to_owned(),
            ),
            version => Version::from_text(version).map_or_else(|| Outcome::Failed(version.to_owned()), Outcome::Older),
        };
        Ok(answer[1..].iter().map(outcome).collect())
    }
}

/// When an answer expires, in milliseconds since 1970; at once when that was before.
fn expires(put: &Put, ttl: Duration) -> i64 {
    let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
    (put.event_time.0 / (SECOND / 1_000)).saturating_add(ttl).max(1)
}

/// The answer with its version as the last member, where the script looks for it.
fn with_version(answer: &[u8], version: &str) -> Vec<u8> {
    debug_assert_eq!(version.len(), TEXT_LEN);
    let open = answer.strip_suffix(b"}").unwrap_or(answer);
    [open, b",\"version\":\"", version.as_bytes(), b"\"}"].concat()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use keyloom_actors::{key::Key, timestamp::Timestamp};

    use super::*;

    #[test]
    fn the_version_is_the_end_of_the_json() {
        let version = Version { generation: 1, seq: 2, epoch: 3, number: 4 }.to_text();
        let text = with_version(br#"{"key":"u","seq":2}"#, &version);
        assert_eq!(&text[text.len() - 78..], format!(",\"version\":\"{version}\"}}").as_bytes());
        let json: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!((&json["seq"], &json["version"]), (&2.into(), &version.into()));
    }

    #[test]
    fn answers_expire_by_their_event_time() {
        let version = Version::default();
        let put =
            |at| Put { key: Key::new("u").expect("a key"), version, event_time: Timestamp(at), answer: Bytes::new() };
        assert_eq!(expires(&put(5 * SECOND + 1_000), Duration::from_millis(7)), 5_008);
        assert_eq!(expires(&put(i64::MIN), Duration::from_secs(1)), 1);
        assert_eq!(expires(&put(i64::MAX), Duration::MAX), i64::MAX);
    }

    #[test]
    fn secrets_stay_where_they_are() {
        let url = "redis://127.0.0.1:1/2".to_owned();
        let options = RedisOptions { url, password: Some("hunter2".to_owned()), ..RedisOptions::default() };
        let backend = RedisBackend::new(&options).expect("a client");
        assert_eq!(backend.place(), "redis://127.0.0.1:1/2, prefix \"\"");
    }
}
