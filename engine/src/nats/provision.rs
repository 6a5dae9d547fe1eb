//! Streams: makes those that are missing and adopts those that fit.
//!
//! Never changes a stream that holds somebody's settings, with one exception: a bucket that lacks only what the store
//! needs (atomic batches, direct reads, its second subject) is updated. What fits is decided in `settings`.

use async_nats::jetstream::{self, context::RequestErrorKind, stream::Config};
use serde_json::{Value, json};
use tracing::info;

use super::{
    Conflict, NatsError,
    connect::{Link, chain},
    settings::{LogStream, log_conflicts, missing_subjects, store_conflicts, store_lacks},
};

/// Attempts to look, create and look again, when somebody else creates the same stream at the same time.
const ENSURE_ATTEMPTS: usize = 3;
mod code {
    pub(super) const NO_PEERS: u64 = 10_005;
    pub(super) const STREAM_NAME_EXISTS: u64 = 10_058;
    pub(super) const STREAM_NOT_FOUND: u64 = 10_059;
    pub(super) const SUBJECT_OVERLAP: u64 = 10_065;
    pub(super) const REPLICAS_NOT_SUPPORTED: u64 = 10_074;
}

/// What the server says of a stream.
pub(super) struct Found {
    pub(super) config: Config,
    /// The configuration word for word, with what the library does not know.
    raw: Value,
}

enum Answer {
    Ok(Value),
    Error { code: u64, reason: String },
}

/// Makes the log's streams or adopts those that fit; answers what exists then, one per partition.
pub(super) async fn ensure_log(link: &Link, streams: &[LogStream]) -> Result<Vec<Config>, NatsError> {
    let mut configs = Vec::with_capacity(streams.len());
    for LogStream { config, .. } in streams {
        let found = ensure(link, config).await?;
        refuse(link, config, log_conflicts(&found.config, config))?;
        configs.push(found.config);
    }
    Ok(configs)
}

/// Makes the store's stream, adopts it, or updates a bucket that lacks only what the store adds.
pub(super) async fn ensure_store(link: &Link, wanted: &Config, bucket: &str) -> Result<Config, NatsError> {
    let found = ensure(link, wanted).await?;
    refuse(link, wanted, store_conflicts(&found.config, wanted))?;
    let lacks = store_lacks(&found.config, wanted);
    if lacks.is_empty() {
        return Ok(found.config);
    }
    let lacks = lacks.join(", ");
    let missing = missing_subjects(&found.config, wanted);
    let subjects = [&found.config.subjects[..], &missing[..]].concat();
    let fail = |reason: String| NatsError::BucketUpdate {
        url: link.url.to_string(),
        bucket: bucket.to_owned(),
        lacks: lacks.clone(),
        reason,
        command: format!(
            "nats stream edit {} --allow-batch --allow-direct --subjects '{}'",
            wanted.name,
            subjects.join(",")
        ),
    };
    // Word for word what the server has, so that settings unknown to the library survive.
    let mut config = found.raw;
    config["allow_atomic"] = json!(true);
    config["allow_direct"] = json!(true);
    config["subjects"] = json!(subjects);
    match api(&link.context, &format!("STREAM.UPDATE.{}", wanted.name), &config).await {
        Ok(Answer::Ok(info)) => {
            info!(bucket, added = %lacks, "updated the stream of an existing bucket");
            Ok(read_info(info).ok_or_else(|| fail("the server's answer is not a stream".to_owned()))?.config)
        }
        Ok(Answer::Error { reason, .. }) => Err(fail(reason)),
        Err(error) => Err(fail(format!("{}; probably our account may not", chain(&error)))),
    }
}

fn refuse(link: &Link, wanted: &Config, conflicts: Vec<Conflict>) -> Result<(), NatsError> {
    if conflicts.is_empty() {
        return Ok(());
    }
    Err(NatsError::Conflict { url: link.url.to_string(), stream: wanted.name.clone(), conflicts })
}

async fn ensure(link: &Link, wanted: &Config) -> Result<Found, NatsError> {
    let name = &wanted.name;
    let refused = |what: String, reason: String, advice: String| NatsError::Refused {
        url: link.url.to_string(),
        what,
        reason,
        advice,
    };
    if name.is_empty()
        || name.bytes().any(|b| b.is_ascii_whitespace() || b.is_ascii_control() || b".*>/\\".contains(&b))
    {
        let advice = "stream and bucket names have no blanks and none of . * > / \\".to_owned();
        return Err(refused(format!("stream `{name}`"), "not a valid name".to_owned(), advice));
    }
    let silent = |what: String, error: &jetstream::context::RequestError| match error.kind() {
        RequestErrorKind::NoResponders => {
            NatsError::NoJetStream { url: link.url.to_string(), reason: "nobody answers JetStream requests".to_owned() }
        }
        _ => NatsError::NoAnswer { url: link.url.to_string(), what, reason: chain(error) },
    };
    let odd =
        || refused(format!("stream {name}"), "the answer is not a stream".to_owned(), "upgrade the server".into());
    let mut raced = String::new();
    for _ in 0..ENSURE_ATTEMPTS {
        let what = format!("a look at stream {name}");
        match api(&link.context, &format!("STREAM.INFO.{name}"), &json!({})).await {
            Ok(Answer::Ok(info)) => return read_info(info).ok_or_else(odd),
            Ok(Answer::Error { code: code::STREAM_NOT_FOUND, .. }) => {}
            Ok(Answer::Error { reason, .. }) => return Err(refused(what, reason, "see the server's log".to_owned())),
            Err(error) => return Err(silent(what, &error)),
        }
        let what = format!("a new stream {name}");
        match api(&link.context, &format!("STREAM.CREATE.{name}"), wanted).await {
            Ok(Answer::Ok(info)) => {
                info!(stream = name, replicas = wanted.num_replicas, "made a stream");
                return read_info(info).ok_or_else(odd);
            }
            Ok(Answer::Error { code: code::STREAM_NAME_EXISTS, reason }) => raced = reason,
            Ok(Answer::Error { code, reason }) => return Err(refused(what, reason, advice(code, wanted))),
            Err(error) => return Err(silent(what, &error)),
        }
    }
    Err(refused(format!("a new stream {name}"), raced, "somebody else makes and removes it; try again".to_owned()))
}

fn advice(code: u64, wanted: &Config) -> String {
    match code {
        code::SUBJECT_OVERLAP => format!(
            "another stream listens to these subjects already: find it with `nats stream ls --subject '{}'`, then use \
             its name or other subjects in the topology",
            wanted.subjects.first().map_or("", String::as_str)
        ),
        code::REPLICAS_NOT_SUPPORTED | code::NO_PEERS => {
            format!("{} replicas need a cluster of as many servers; otherwise set replicas = 1", wanted.num_replicas)
        }
        _ => "change the topology, or the limits of our account on the server".to_owned(),
    }
}

async fn api<T: serde::Serialize + ?Sized>(
    context: &jetstream::Context,
    subject: &str,
    request: &T,
) -> Result<Answer, jetstream::context::RequestError> {
    let mut answer: Value = context.request(subject.to_owned(), request).await?;
    Ok(match answer.get_mut("error").map(Value::take) {
        Some(error) => Answer::Error {
            code: error["err_code"].as_u64().unwrap_or_default(),
            reason: error["description"].as_str().unwrap_or("no reason given").to_owned(),
        },
        None => Answer::Ok(answer),
    })
}

fn read_info(mut info: Value) -> Option<Found> {
    let raw = info.get_mut("config")?.take();
    let config = serde_json::from_value(raw.clone()).ok()?;
    Some(Found { config, raw })
}
