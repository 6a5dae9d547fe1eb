//! The calls of `Features`: the same questions and answers as over HTTP, in messages.
//!
//! Not here: where answers come from, see [`crate::features`].

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use keyloom_actors::{
    answer::{Chosen, Stored},
    timestamp::Timestamp,
};
use tonic::{Request, Response, Status};

use super::{
    proto::{
        BatchGetRequest, BatchGetResponse, FeatureAnswer, GetRequest, Result as OfKey, features_server::Features,
        result,
    },
    status::of_features,
};
use crate::{
    faces::observe,
    features::{ANSWER_BYTES_MAX, Ask, FeatureReader, Found, Refusal, Status as Read, turn::Turn},
};

/// See the module.
pub(super) struct FeatureCalls {
    reader: Arc<FeatureReader>,
}

/// What one call asks, and as of when it is answered.
struct Answering<'a> {
    reader: &'a FeatureReader,
    at: Timestamp,
    chosen: Option<Chosen>,
}

impl FeatureCalls {
    pub(super) fn new(reader: Arc<FeatureReader>) -> Self {
        Self { reader }
    }

    async fn batch(&self, request: BatchGetRequest) -> Result<Vec<OfKey>, Refusal> {
        let BatchGetRequest { keys, features, min_seq, wait_ms } = request;
        let ask = ask(&keys, features, min_seq, wait_ms)?;
        let mut reading = self.reader.read(&ask).await?;
        let set = self.reader.declared();
        let chosen = ask.features.as_ref().map(|names| Chosen::new(names.iter().map(String::as_str), set));
        let mut answering = Answering { reader: &self.reader, at: self.reader.now(), chosen };
        let (mut results, mut bytes) = (Vec::with_capacity(keys.len()), 0);
        let (mut keys, mut turn) = (keys.into_iter(), Turn::new());
        while let Some(some) = reading.next().await {
            for (found, key) in some.iter().zip(&mut keys) {
                let (read, answer) = answering.of_key(key, found);
                bytes += answer.as_ref().map_or(0, bytes_of);
                if bytes > ANSWER_BYTES_MAX {
                    return Err(Refusal::AnswerTooLarge);
                }
                results.push(OfKey { status: status(read).into(), answer });
                turn.pause().await;
            }
        }
        let statuses: Vec<Read> = results.iter().map(|result| read(result.status())).collect();
        observe::feature_keys(&statuses);
        reading.end()?;
        Ok(results)
    }
}

fn ask(
    keys: &[String],
    features: Vec<String>,
    min_seq: BTreeMap<u32, u64>,
    wait_ms: Option<u32>,
) -> Result<Ask, Refusal> {
    let features = Some(features).filter(|names| !names.is_empty());
    let wait = wait_ms.map(|ms| Duration::from_millis(ms.into()));
    Ask::many(keys.iter().map(String::as_str), features, min_seq, wait)
}

impl Answering<'_> {
    fn of_key(&mut self, key: String, found: &Found) -> (Read, Option<FeatureAnswer>) {
        let Some(stored) = &found.stored else {
            return (found.without_answer(), None);
        };
        match self.answer(key, stored, found) {
            Some(answer) => (if found.behind { Read::Behind } else { Read::Found }, Some(answer)),
            None => (Read::Unreadable, None),
        }
    }

    fn answer(&mut self, key: String, stored: &[u8], found: &Found) -> Option<FeatureAnswer> {
        let stored = Stored::parse(stored)?;
        let mut features = vec![b'{'];
        stored.write_features(&mut features, self.reader.declared(), self.at, self.chosen.as_mut())?;
        let missing = self.chosen.as_ref().map(|chosen| chosen.missing(&features[1..])).unwrap_or_default();
        features.push(b'}');
        let progress = self.reader.progress(found.partition);
        Some(FeatureAnswer {
            key,
            partition: found.partition,
            features_json: String::from_utf8(features).ok()?,
            event_time: Some(time(stored.event_time)),
            seq: stored.seq,
            as_of: Some(time(self.at)),
            age_seconds: self.at.seconds_since(stored.event_time),
            lag_events: progress.lag_events,
            lag_seconds: progress.lag_seconds,
            stale: progress.stale,
            behind: found.behind,
            missing,
        })
    }
}

/// What an answer holds, beside its numbers.
fn bytes_of(answer: &FeatureAnswer) -> usize {
    let FeatureAnswer { key, features_json, missing, .. } = answer;
    let missing: usize = missing.iter().map(|name| name.len() + size_of::<String>()).sum();
    key.len() + features_json.len() + missing
}

fn time(at: Timestamp) -> prost_types::Timestamp {
    let nanos = at.0.rem_euclid(1_000_000) as i32 * 1_000;
    prost_types::Timestamp { seconds: at.0.div_euclid(1_000_000), nanos }
}

fn status(read: Read) -> result::Status {
    match read {
        Read::Found => result::Status::Found,
        Read::Unknown => result::Status::Unknown,
        Read::Behind => result::Status::Behind,
        Read::Unreadable => result::Status::Unreadable,
        Read::Unavailable => result::Status::Unavailable,
    }
}

fn read(status: result::Status) -> Read {
    match status {
        result::Status::Found => Read::Found,
        result::Status::Behind => Read::Behind,
        result::Status::Unreadable => Read::Unreadable,
        result::Status::Unavailable => Read::Unavailable,
        result::Status::Unknown | result::Status::Unspecified => Read::Unknown,
    }
}

/// Answers, and counts by the code that the same would have over HTTP.
fn answered<T>(began: Instant, outcome: Result<T, Refusal>) -> Result<Response<T>, Status> {
    let code = outcome.as_ref().map_or_else(Refusal::code, |_| 200);
    observe::feature_request(code, began.elapsed().as_secs_f64());
    outcome.map(Response::new).map_err(|refusal| of_features(&refusal))
}

#[tonic::async_trait]
impl Features for FeatureCalls {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<FeatureAnswer>, Status> {
        let began = Instant::now();
        let GetRequest { key, features, min_seq, wait_ms } = request.into_inner();
        let keys = vec![key];
        let found = self.batch(BatchGetRequest { keys, features, min_seq, wait_ms }).await;
        let OfKey { status, answer } = match found.map(|mut all| all.pop().unwrap_or_default()) {
            Ok(found) => found,
            Err(refusal) => return answered(began, Err(refusal)),
        };
        match answer {
            Some(answer) => answered(began, Ok(answer)),
            None if status == result::Status::Unreadable as i32 => {
                answered(began, Err(Refusal::Unreadable("this key".to_owned())))
            }
            None => {
                observe::feature_request(404, began.elapsed().as_secs_f64());
                Err(Status::not_found("no event of this key was processed yet; keys are case-sensitive"))
            }
        }
    }

    async fn batch_get(&self, request: Request<BatchGetRequest>) -> Result<Response<BatchGetResponse>, Status> {
        let began = Instant::now();
        let results = self.batch(request.into_inner()).await;
        answered(began, results.map(|results| BatchGetResponse { results }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{
        KEYS_MAX, NAME_BYTES_MAX, NAMES_MAX,
        tests::{reader, set, stored},
    };

    fn batch(keys: usize, names: usize) -> BatchGetRequest {
        let name = |n| format!("{n:0>width$}", width = NAME_BYTES_MAX);
        let features = (0..names).map(name).collect();
        BatchGetRequest { keys: vec!["u".to_owned(); keys], features, ..BatchGetRequest::default() }
    }

    #[tokio::test]
    async fn names_that_are_missing_count_as_a_part_of_the_answer() {
        let (reader, _, shelf) = reader();
        shelf.put("u", stored("u", &set(), |_| {}));
        let calls = FeatureCalls::new(reader);
        let refusal = calls.batch_get(Request::new(batch(KEYS_MAX, NAMES_MAX))).await.expect_err("too large");
        assert_eq!(refusal.code(), tonic::Code::InvalidArgument);
        assert!(refusal.message().contains(&ANSWER_BYTES_MAX.to_string()), "{refusal}");
        let found = calls.batch_get(Request::new(batch(10, NAMES_MAX))).await.expect("it fits").into_inner();
        assert!(found.results.iter().all(|r| r.answer.as_ref().is_some_and(|a| a.missing.len() == NAMES_MAX)));
    }
}
