//! The pull protocol of one consumer: asks for events ahead of need, reads what comes, notices what is missing.
//!
//! On a plain subscription instead of the library's stream, which clones a whole context for every message and lets a
//! pull that found nobody lie until its timer. Not for recovery: a pull that broke is thrown away, see `reader`.

use std::time::Duration;

use async_nats::{
    Message, StatusCode, Subject, Subscriber,
    jetstream::consumer::{AckPolicy, DeliverPolicy, pull},
};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use keyloom_actors::{event::key_paths::KeyPaths, ports::LogRecord, timestamp::Timestamp};
use serde_json::json;
use tokio::{
    sync::watch,
    task,
    time::{Instant, sleep_until},
};
use tracing::debug;

use super::{
    connect::{Link, SUBSCRIPTION_CAPACITY, chain},
    envelope::Delivered,
    headers::key_from_header,
    leader::KEY_HEADER,
};

/// Events asked for at once. The next pull goes out when half of them have come, so it must exceed twice what arrives
/// during one round trip; and it bounds what lies in the client's buffer.
const PULL_EVENTS: usize = 5_000;
const _: () = assert!(PULL_EVENTS * 3 < SUBSCRIPTION_CAPACITY);
/// Bytes asked for at once; raised to what one largest message needs.
const PULL_BYTES: usize = 8 << 20;
/// What a message may have beside payload and headers: its subjects.
const MESSAGE_ROOM: usize = 64 << 10;
/// How long the server keeps an unanswered pull.
const PULL_EXPIRES: Duration = Duration::from_secs(10);
/// How often the server says that it has nothing.
const HEARTBEAT: Duration = Duration::from_millis(2_500);
/// Silence longer than this means that nobody serves our pull.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// The server removes a consumer nobody pulls from after this long.
const INACTIVE_MAX: Duration = Duration::from_secs(60);
/// What a 409 that ends one pull and leaves the consumer as it is says it still owed.
const OWED: &str = "Nats-Pending-Messages";
/// How the 409 begins that says that the next event has no room in what is left of a pull.
const NO_ROOM: &str = "Message Size";

/// A consumer of our own, and what was asked of it.
pub(super) struct Pull {
    link: Link,
    delete_subject: Subject,
    pull_subject: Subject,
    inbox: Subject,
    request: Bytes,
    subscriber: Subscriber,
    /// Messages asked for and not yet come.
    outstanding: usize,
    /// The consumer's number of the last message.
    delivered: u64,
    /// When the server last gave a sign of life, or was last asked.
    heard: Instant,
    lost: watch::Receiver<u64>,
    keys: KeyPaths,
}

/// One message of the subscription.
pub(super) enum Pulled {
    /// An event.
    Event(LogRecord),
    /// A sign of life.
    Nothing,
}

/// Why a pull is of no use any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Broken {
    /// The connection was lost.
    Lost,
    /// The next event is larger than a whole pull: the server's `max_payload` was larger once.
    TooLarge,
    /// Anything else.
    Other(&'static str),
}

impl Broken {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Lost => "the connection was lost",
            Self::TooLarge => "an event is larger than a pull",
            Self::Other(reason) => reason,
        }
    }
}

impl Pull {
    /// Makes a consumer of `stream` that begins at `from`.
    pub(super) async fn open(
        link: Link,
        stream: &str,
        partition: u32,
        from: u64,
        keys: KeyPaths,
    ) -> Result<Self, String> {
        // Before the subscription, so that a connection lost in between is not missed.
        let mut lost = link.lost.clone();
        lost.mark_unchanged();
        let inbox: Subject = link.client.new_inbox().into();
        let subscriber = link.client.subscribe(inbox.clone()).await.map_err(|error| chain(&error))?;
        let consumer = format!("keyloom-{partition}-{}", link.unique());
        let config = pull::Config {
            name: Some(consumer.clone()),
            description: Some("Keyloom: reader of a partition".to_owned()),
            ack_policy: AckPolicy::None,
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: INACTIVE_MAX,
            ..pull::Config::default()
        };
        link.context.create_consumer_on_stream(config, stream).await.map_err(|error| chain(&error))?;
        let request = json!({
            "batch": PULL_EVENTS,
            "max_bytes": PULL_BYTES.max(link.client.max_payload() + MESSAGE_ROOM),
            "expires": nanos(PULL_EXPIRES),
            "idle_heartbeat": nanos(HEARTBEAT),
        });
        debug!(stream, partition, from, consumer, "reading the log");
        Ok(Self {
            delete_subject: format!("$JS.API.CONSUMER.DELETE.{stream}.{consumer}").into(),
            pull_subject: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}").into(),
            inbox,
            request: request.to_string().into(),
            subscriber,
            outstanding: 0,
            delivered: 0,
            heard: Instant::now(),
            lost,
            link,
            keys,
        })
    }

    /// Asks for more when half of what was asked for has come.
    pub(super) async fn ask(&mut self) -> Result<(), Broken> {
        if self.outstanding > PULL_EVENTS / 2 {
            return Ok(());
        }
        let Self { pull_subject, inbox, request, .. } = self;
        let sent = self.link.client.publish_with_reply(pull_subject.clone(), inbox.clone(), request.clone()).await;
        sent.map_err(|_| Broken::Other("the connection is closed"))?;
        self.outstanding += PULL_EVENTS;
        self.heard = Instant::now();
        Ok(())
    }

    /// What has come already; `None` when nothing has.
    pub(super) fn ready(&mut self) -> Option<Result<Pulled, Broken>> {
        // Outside the runtime's budget, which would end every batch after 128 events.
        match task::unconstrained(self.subscriber.next()).now_or_never()? {
            Some(message) => Some(self.read(message)),
            None => Some(Err(Broken::Other("the subscription ended"))),
        }
    }

    /// Waits for one message, or for the reason why none comes. Cancel safe.
    pub(super) async fn wait(&mut self) -> Result<Pulled, Broken> {
        let silence = sleep_until(self.heard + SILENCE_MAX);
        tokio::select! {
            biased;
            message = self.subscriber.next() => match message {
                Some(message) => self.read(message),
                None => Err(Broken::Other("the subscription ended")),
            },
            _ = self.lost.changed() => Err(Broken::Lost),
            () = silence => Err(Broken::Other("no heartbeat")),
        }
    }

    /// Notes that the server lives; once per batch, because asking for the time costs.
    pub(super) fn heard(&mut self) {
        self.heard = Instant::now();
    }

    /// Removes the consumer. Only to be tidy: the server does it by itself when nobody pulls.
    pub(super) async fn close(self) {
        if let Err(error) = self.link.client.publish(self.delete_subject, Bytes::new()).await {
            debug!(%error, "could not remove an old consumer");
        }
    }

    fn read(&mut self, message: Message) -> Result<Pulled, Broken> {
        // What has a delivery subject is an event, even where a server stored a foreign writer's status line with it.
        let Some(delivery) = message.reply.as_deref().and_then(Delivery::parse) else {
            return self.control(&message).map(|()| Pulled::Nothing);
        };
        self.outstanding = self.outstanding.saturating_sub(1);
        self.delivered += 1;
        if delivery.consumer_seq != self.delivered {
            return Err(Broken::Other("a delivery is missing"));
        }
        let key = message.headers.as_ref().and_then(|headers| headers.get(KEY_HEADER));
        let key = key.map(|value| key_from_header(value.as_str())).filter(|key| !key.is_empty());
        let envelope = if key.is_none() { self.keys.note(&Delivered(&message)) } else { None };
        Ok(Pulled::Event(LogRecord {
            seq: delivery.stream_seq,
            stored: delivery.stored,
            key,
            envelope,
            payload: message.payload,
            scanned: None,
        }))
    }

    /// A message of the server's own.
    fn control(&mut self, message: &Message) -> Result<(), Broken> {
        self.heard();
        let description = message.description.as_deref().unwrap_or_default();
        let owed = message.headers.as_ref().and_then(|headers| headers.get(OWED));
        let owed = owed.and_then(|owed| owed.as_str().parse().ok());
        match (message.status, owed) {
            (Some(StatusCode::IDLE_HEARTBEAT), _) => {}
            (Some(StatusCode::NO_RESPONDERS), _) => return Err(Broken::Other("nobody serves the consumer")),
            (Some(StatusCode::REQUEST_TERMINATED), Some(PULL_EVENTS)) if description.starts_with(NO_ROOM) => {
                return Err(Broken::TooLarge);
            }
            // A pull ended, by its time or by its bytes. What it still owed does not come any more.
            (Some(StatusCode::TIMEOUT | StatusCode::REQUEST_TERMINATED), Some(owed)) => {
                self.outstanding = self.outstanding.saturating_sub(owed);
            }
            (status, _) => {
                debug!(?status, description, "a pull was refused");
                return Err(Broken::Other("the server removed the consumer or refused a pull"));
            }
        }
        Ok(())
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What the reply subject of a delivered message says.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Delivery {
    stream_seq: u64,
    consumer_seq: u64,
    stored: Timestamp,
}

impl Delivery {
    /// `$JS.ACK.<stream>.<consumer>.<times>.<stream seq>.<consumer seq>.<nanos>.<pending>`, or the newer form with
    /// domain and account before the stream and possibly more behind.
    fn parse(subject: &str) -> Option<Self> {
        let rest = subject.strip_prefix("$JS.ACK.")?;
        let skip = match rest.bytes().filter(|b| *b == b'.').count() + 1 {
            7 => 3,
            9.. => 5,
            _ => return None,
        };
        let mut numbers = rest.split('.').skip(skip);
        let stream_seq = numbers.next()?.parse().ok()?;
        let consumer_seq = numbers.next()?.parse().ok()?;
        let nanos: i64 = numbers.next()?.parse().ok()?;
        Some(Self { stream_seq, consumer_seq, stored: Timestamp(nanos.div_euclid(1_000)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_read_in_both_forms() {
        let expected = Delivery { stream_seq: 42, consumer_seq: 7, stored: Timestamp(1_700_000_000_123_456) };
        for subject in [
            "$JS.ACK.raw_events.keyloom-0-x.1.42.7.1700000000123456789.0",
            "$JS.ACK._.hash.raw_events.keyloom-0-x.1.42.7.1700000000123456789.0",
            "$JS.ACK.hub.hash.raw_events.keyloom-0-x.1.42.7.1700000000123456789.0.token",
        ] {
            assert_eq!(Delivery::parse(subject), Some(expected), "{subject}");
        }
        for subject in
            ["", "$JS.ACK.", "_INBOX.x", "$JS.ACK.a.b.1.2.3.4", "$JS.ACK.a.b.c.d.e.f.g", "$JS.FC.a.b.1.2.3.4.5"]
        {
            assert_eq!(Delivery::parse(subject), None, "{subject}");
        }
    }
}
