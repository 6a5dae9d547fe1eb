//! Connections to NATS: who we are, TLS, reconnecting, and what to tell a person when the first attempt fails.
//!
//! One [`Connection`] opens as many clients as are needed: pulls, appends and the store each have their own, so that a
//! busy one never holds up another. Not for streams: those are `provision`'s.

use std::{
    error::Error,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::{
    Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr,
    jetstream::{self, context::AccountErrorKind},
};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::{NatsAuth, NatsError, NatsOptions, error::SERVER_MIN};

/// Longest wait for one server to let us in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the answer to one request.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a silent connection is tested; two tests without an answer and it counts as lost.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Longest pause between two attempts to reconnect. There is no last attempt.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(2);
/// Messages a client buffers per subscription; one too many is dropped by the library, so pulls stay far below.
pub(super) const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// A server we are connected to, and what is needed to connect again. Cheap to clone.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    options: NatsOptions,
    url: String,
    control: Link,
    /// Fewest copies of any stream opened through this connection, 0 before the first.
    replicas: AtomicUsize,
}

/// One client: one TCP connection.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) context: jetstream::Context,
    /// Changes whenever the TCP connection is lost: what was on its way is gone.
    pub(super) lost: watch::Receiver<u64>,
    pub(super) url: Arc<str>,
}

/// Connects, and makes sure that the server is new enough and offers JetStream. The first failure is reported at once;
/// a connection lost later is made again for ever.
pub async fn connect(options: &NatsOptions) -> Result<Connection, NatsError> {
    let control = open(options, "control").await?;
    let url = control.url.to_string();
    let server = control.client.server_info();
    let (major, minor, patch) = SERVER_MIN;
    if !control.client.is_server_compatible(major, minor, patch) {
        return Err(NatsError::TooOld { url, version: server.version });
    }
    if let Err(error) = control.context.query_account().await {
        return Err(match error.kind() {
            AccountErrorKind::JetStreamUnavailable => {
                NatsError::NoJetStream { url, reason: "nobody answers JetStream requests".to_owned() }
            }
            AccountErrorKind::JetStream(reason) => NatsError::NoJetStream { url, reason: reason.to_string() },
            AccountErrorKind::TimedOut | AccountErrorKind::Other => {
                NatsError::NoAnswer { url, what: "a request for JetStream's state".to_owned(), reason: chain(&error) }
            }
        });
    }
    info!(url, version = server.version, server = server.server_name, "connected to nats");
    Ok(Connection { inner: Arc::new(Inner { options: options.clone(), url, control, replicas: AtomicUsize::new(0) }) })
}

impl Connection {
    /// The address, without secrets.
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// Version of the server.
    pub fn server_version(&self) -> String {
        self.inner.control.client.server_info().version
    }

    /// Opens a client of its own for `purpose`.
    pub(super) async fn link(&self, purpose: &str) -> Result<Link, NatsError> {
        open(&self.inner.options, purpose).await
    }

    /// The client for rare requests.
    pub(super) fn control(&self) -> &Link {
        &self.inner.control
    }

    pub(super) fn note_replicas(&self, replicas: usize) {
        let fewest = |old: usize| Some(if old == 0 { replicas } else { old.min(replicas) });
        let update = self.inner.replicas.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewest);
        debug_assert!(update.is_ok(), "the closure always returns a value");
    }

    pub(super) fn replicas(&self) -> Option<usize> {
        Some(self.inner.replicas.load(Ordering::Relaxed)).filter(|replicas| *replicas > 0)
    }
}

impl Link {
    /// A name nobody else has.
    pub(super) fn unique(&self) -> String {
        let inbox = self.client.new_inbox();
        inbox.rsplit('.').next().unwrap_or_default().to_owned()
    }

    /// What `work` answers; `None` when the connection is lost before. The answer to what was asked on it does not come any
    /// more, and waiting until its time is up would keep us from a server that is back long since.
    pub(super) async fn unless_lost<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut lost = self.lost.clone();
        lost.mark_unchanged();
        tokio::select! {
            biased;
            done = work => Some(done),
            _ = lost.changed() => None,
        }
    }
}

async fn open(options: &NatsOptions, purpose: &str) -> Result<Link, NatsError> {
    let url = without_secrets(&options.url);
    let addresses = options
        .url
        .split(',')
        .map(|one| one.trim().parse::<ServerAddr>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| NatsError::Address { url: url.clone(), reason: error.to_string() })?;
    let (lost_tx, lost) = watch::channel(0u64);
    let lost_tx = Arc::new(lost_tx);
    let label: Arc<str> = purpose.into();
    let seen = Arc::clone(&label);
    let connect = with_tls(with_auth(options, &url)?, options, &url)?
        .name(format!("{} {purpose}", options.name))
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .max_reconnects(None)
        .reconnect_delay_callback(|attempt| match u32::try_from(attempt) {
            Ok(attempt @ 2..12) => RECONNECT_PAUSE_MAX.min(Duration::from_millis(4 << attempt)),
            Ok(0 | 1) => Duration::ZERO,
            _ => RECONNECT_PAUSE_MAX,
        })
        .event_callback(move |event| {
            if matches!(event, Event::Disconnected) {
                lost_tx.send_modify(|times| *times += 1);
            }
            report(&seen, &event);
            std::future::ready(())
        });
    let client = connect.connect(addresses).await.map_err(|error| explain(&error, options, url.clone()))?;
    debug!(purpose = %label, "opened a nats connection");
    let context = jetstream::context::ContextBuilder::new().timeout(REQUEST_TIMEOUT).build(client.clone());
    Ok(Link { client, context, lost, url: url.into() })
}

/// Why there is no answer, where [`Link::unless_lost`] says so.
pub(super) const LOST: &str = "the connection was lost";

/// What the library reports of a connection, as log lines.
fn report(purpose: &str, event: &Event) {
    match event {
        Event::Connected => info!(purpose, "nats connection is up"),
        Event::Disconnected => warn!(purpose, "nats connection lost, reconnecting"),
        Event::LameDuckMode => warn!(purpose, "nats server is shutting down"),
        Event::SlowConsumer(_) => warn!(purpose, "nats messages dropped in the client, they will be read again"),
        Event::ServerError(error) => warn!(purpose, %error, "nats server reports an error"),
        Event::ClientError(error) => warn!(purpose, %error, "nats connection attempt failed"),
        Event::Draining | Event::Closed => debug!(purpose, "nats connection closed"),
    }
}

fn with_auth(options: &NatsOptions, url: &str) -> Result<ConnectOptions, NatsError> {
    Ok(match &options.auth {
        NatsAuth::None => ConnectOptions::new(),
        NatsAuth::Token(token) => ConnectOptions::with_token(token.clone()),
        NatsAuth::User { user, password } => ConnectOptions::with_user_and_password(user.clone(), password.clone()),
        NatsAuth::Nkey(seed) => ConnectOptions::with_nkey(seed.clone()),
        // The library's own words could quote what it was given.
        NatsAuth::Creds(contents) => {
            ConnectOptions::with_credentials(contents).map_err(|_| NatsError::Credentials {
                url: url.to_owned(),
                reason: "`creds` is not a credentials file with a JWT and a seed".to_owned(),
            })?
        }
    })
}

fn with_tls(mut connect: ConnectOptions, options: &NatsOptions, url: &str) -> Result<ConnectOptions, NatsError> {
    // The library asks for the process-wide provider of cryptography; whoever installs one first wins, and all are ring.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        debug!("a tls provider is already installed");
    }
    let Some(tls) = &options.tls else { return Ok(connect) };
    connect = connect.require_tls(true);
    if tls.first {
        connect = connect.tls_first();
    }
    if let Some(ca) = &tls.ca {
        connect = connect.add_root_certificates(ca.clone());
    }
    match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => Ok(connect.add_client_certificate(cert.clone(), key.clone())),
        (None, None) => Ok(connect),
        (cert, _) => Err(NatsError::Tls {
            url: url.to_owned(),
            reason: format!("`tls.{}` is missing", if cert.is_some() { "key" } else { "cert" }),
        }),
    }
}

fn explain(error: &ConnectError, options: &NatsOptions, url: String) -> NatsError {
    let reason = chain(error);
    match error.kind() {
        ConnectErrorKind::ServerParse => NatsError::Address { url, reason },
        ConnectErrorKind::Authentication => {
            NatsError::Credentials { url, reason: "the seed in `nkey` or `creds` cannot be used to sign".to_owned() }
        }
        ConnectErrorKind::AuthorizationViolation => {
            NatsError::Credentials { url, reason: "authorization violation".to_owned() }
        }
        ConnectErrorKind::Tls => NatsError::Tls { url, reason },
        _ if is_tls(error) || (options.tls.is_some() && reason.to_ascii_lowercase().contains("tls")) => {
            NatsError::Tls { url, reason }
        }
        ConnectErrorKind::TimedOut => {
            let hint = if options.tls.as_ref().is_some_and(|tls| tls.first) {
                "; without `handshake_first` on the server, `tls.first` must be false"
            } else {
                "; a server with `handshake_first` waits for `tls.first = true`"
            };
            NatsError::Unreachable { url, reason: format!("no answer within {} s{hint}", CONNECT_TIMEOUT.as_secs()) }
        }
        ConnectErrorKind::Dns | ConnectErrorKind::Io | ConnectErrorKind::MaxReconnects => {
            NatsError::Unreachable { url, reason }
        }
    }
}

/// Whether a TLS error is at the bottom of `error`. An `io::Error` hides what it wraps from `source`.
fn is_tls(error: &(dyn Error + 'static)) -> bool {
    if error.is::<rustls::Error>() {
        return true;
    }
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    wrapped.is_some_and(|inner| is_tls(inner)) || error.source().is_some_and(is_tls)
}

/// An error with its causes, each said once.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// `urls` without user, password and token.
fn without_secrets(urls: &str) -> String {
    let one = |url: &str| {
        let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        // A password with a comma or a slash leaves its first half here: what does not look like host:port is not shown.
        let port_is_number = host.rsplit_once(':').is_none_or(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
        let plain = host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b));
        let host = if plain && port_is_number { host } else { "(not shown)" };
        if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") }
    };
    urls.split(',').map(|url| one(url.trim())).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_out_of_addresses() {
        for (url, shown) in [
            ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
            ("nats://user:p@ss@host:4222", "nats://host:4222"),
            ("token@host", "host"),
            ("tls://a:b@one:1, nats://c@two:2", "tls://one:1,nats://two:2"),
            ("nats://user:se,cret@host:4222", "nats://(not shown),host:4222"),
            ("nats://[::1]:4222", "nats://[::1]:4222"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }

    #[test]
    fn secrets_stay_out_of_debug_texts() {
        for auth in [
            NatsAuth::Token("hush".into()),
            NatsAuth::User { user: "hush".into(), password: "hush".into() },
            NatsAuth::Nkey("hush".into()),
            NatsAuth::Creds("hush".into()),
        ] {
            assert!(!format!("{auth:?}").contains("hush"));
        }
    }
}
