//! The calls of `Ingest`: events through the front door.
//!
//! Not here: what becomes of an event, see [`crate::front_door::batch`].

use std::{pin::Pin, sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::{Stream, stream};
use keyloom_actors::dead_letter::Reason;
use tonic::{Request, Response, Status, Streaming};

use super::{
    arrival::{Arrived, Waiting},
    codec,
    event::{KeyMember, to_json},
    proto::{Place, Rejected, SendRequest, SendResponse, ingest_server::Ingest},
    status::of_events,
};
use crate::{
    access::Peer,
    front_door::{FrontDoor, Refusal, batch::REJECTED_LISTED_MAX, observe, protocols::Head},
};

/// Requests whose events have more bytes than this are taken apart on a blocking thread: below it takes less than 0.2 ms.
const SORT_INLINE_BYTES_MAX: usize = 32 << 10;

/// See the module.
#[derive(Clone)]
pub(super) struct IngestCalls {
    door: Arc<FrontDoor>,
    key: Option<KeyMember>,
}

/// The events of one request that are JSON.
#[derive(Default)]
struct Sent {
    events: Vec<Bytes>,
    /// Where each was in the request.
    places: Vec<u32>,
    /// The others.
    rejected: Vec<Rejected>,
}

impl IngestCalls {
    pub(super) fn new(door: Arc<FrontDoor>, key: Option<KeyMember>) -> Self {
        Self { door, key }
    }

    async fn store(&self, request: SendRequest, head: Head) -> Result<SendResponse, Status> {
        let began = Instant::now();
        let stored = self.store_all(request, head).await;
        observe::answered(stored.as_ref().map_or_else(Refusal::code, |_| 200), began.elapsed());
        stored.map_err(|refusal| of_events(&refusal))
    }

    async fn store_all(&self, request: SendRequest, head: Head) -> Result<SendResponse, Refusal> {
        let events_max = self.door.limits().events_max;
        if request.events.len() > events_max {
            return Err(Refusal::TooMany(events_max));
        }
        // And the messages are gone while the events are stored.
        let bytes: usize = request.events.iter().map(|event| event.json.len()).sum();
        let sent = if bytes <= SORT_INLINE_BYTES_MAX {
            sort(request, self.key.as_ref())
        } else {
            let key = self.key.clone();
            let task = tokio::task::spawn_blocking(move || sort(request, key.as_ref()));
            task.await.map_err(|error| Refusal::Internal(error.to_string()))?
        };
        if sent.places.is_empty() {
            return if sent.rejected.is_empty() { Err(Refusal::Empty) } else { Ok(answer(Default::default(), sent)) };
        }
        let stored = self.door.submit_events(&sent.events, head).await?;
        Ok(answer(stored, sent))
    }

    /// What the call says beside its messages.
    fn head<T>(&self, request: &Request<T>) -> Head {
        let headers = request.metadata().clone().into_headers();
        let credentials = self.door.admissions().credentials(&headers, request.extensions().get::<Peer>());
        Head { headers, credentials, ..Head::default() }
    }
}

fn sort(request: SendRequest, key: Option<&KeyMember>) -> Sent {
    let mut sent = Sent::default();
    for (place, event) in request.events.into_iter().enumerate() {
        match to_json(&event, key) {
            Ok(json) => {
                sent.events.push(Bytes::from(json));
                sent.places.push(place as u32);
            }
            Err(reason) => {
                let label = if reason.starts_with("schema") { Reason::Schema } else { Reason::Parse };
                observe::rejected(label);
                sent.rejected.push(Rejected { index: place as u32, reason });
            }
        }
    }
    sent
}

/// What the front door says of the events that it was given, and what it was not given.
fn answer(stored: crate::front_door::Answer, sent: Sent) -> SendResponse {
    let in_request = |rejected: crate::front_door::Rejected| {
        let index = sent.places.get(rejected.index).copied().unwrap_or(u32::MAX);
        Rejected { index, reason: rejected.reason }
    };
    let mut rejected: Vec<_> = stored.rejected.into_iter().map(in_request).chain(sent.rejected).collect();
    rejected.sort_by_key(|rejected| rejected.index);
    let more = rejected.len().saturating_sub(REJECTED_LISTED_MAX) as u64;
    rejected.truncate(REJECTED_LISTED_MAX);
    SendResponse {
        accepted: stored.accepted,
        duplicates: stored.duplicates,
        rejected,
        rejected_more: stored.rejected_more + more,
        seq: stored.places.seq.map(|place| Place { partition: place.partition, seq: place.seq }),
        min_seq: stored.places.min_seq,
    }
}

#[tonic::async_trait]
impl Ingest for IngestCalls {
    async fn send(&self, request: Request<SendRequest>) -> Result<Response<SendResponse>, Status> {
        let head = self.head(&request);
        self.store(request.into_inner(), head).await.map(Response::new)
    }

    type StreamStream = Pin<Box<dyn Stream<Item = Result<SendResponse, Status>> + Send>>;

    /// One request at a time: that keeps the order of events, and bounds what a connection has in flight. A request has room from
    /// its first byte until it is answered.
    async fn stream(&self, request: Request<Streaming<SendRequest>>) -> Result<Response<Self::StreamStream>, Status> {
        let (calls, head) = (self.clone(), self.head(&request));
        let requests = request.extensions().get::<Waiting>().and_then(Waiting::take);
        let requests = requests.ok_or_else(|| Status::internal("the messages of the stream are not there"))?;
        let answers = stream::try_unfold(requests, move |mut requests| {
            let (calls, head) = (calls.clone(), head.clone());
            async move {
                let arrived = requests.next().await.map_err(|missed| requests.refused(missed))?;
                let Some(Arrived { bytes, hold }) = arrived else { return Ok(None) };
                let request = codec::decode(&bytes)?;
                drop(bytes);
                let answer = calls.store(request, head).await;
                drop(hold);
                answer.map(|answer| Some((answer, requests)))
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
