//! The calls of `Ingest`: events through the front door.
//!
//! Not here: what becomes of an event, see [`crate::front_door::batch`].

use std::{pin::Pin, sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::{Stream, stream};
use keyloom_actors::dead_letter::Reason;
use tonic::{Request, Response, Status, Streaming};

use super::{
    event::{KeyMember, to_json},
    proto::{Place, Rejected, SendRequest, SendResponse, ingest_server::Ingest},
    status::of_events,
};
use crate::{
    access::Client,
    front_door::{FrontDoor, Refusal, batch::REJECTED_LISTED_MAX, observe, protocols::Head},
};

/// See the module.
#[derive(Clone)]
pub(super) struct IngestCalls {
    door: Arc<FrontDoor>,
    key: Option<KeyMember>,
}

/// The events of one request that are JSON.
#[derive(Default)]
struct Sent {
    /// As one array.
    body: Vec<u8>,
    /// Where each was in the request.
    places: Vec<u32>,
    /// The others.
    rejected: Vec<Rejected>,
}

impl IngestCalls {
    pub(super) fn new(door: Arc<FrontDoor>, key: Option<KeyMember>) -> Self {
        Self { door, key }
    }

    async fn store(&self, head: Head, request: SendRequest) -> Result<SendResponse, Status> {
        let began = Instant::now();
        let stored = self.store_all(head, request).await;
        observe::answered(stored.as_ref().map_or_else(Refusal::code, |_| 200), began.elapsed());
        stored.map_err(|refusal| of_events(&refusal))
    }

    async fn store_all(&self, head: Head, request: SendRequest) -> Result<SendResponse, Refusal> {
        let events_max = self.door.limits().events_max;
        if request.events.len() > events_max {
            return Err(Refusal::TooMany(events_max));
        }
        let sent = self.sort(&request);
        if sent.places.is_empty() {
            return if sent.rejected.is_empty() { Err(Refusal::Empty) } else { Ok(answer(Default::default(), sent)) };
        }
        let Sent { body, places, rejected } = sent;
        let stored = self.door.submit_from(head, Bytes::from(body)).await?;
        Ok(answer(stored, Sent { body: Vec::new(), places, rejected }))
    }

    fn sort(&self, request: &SendRequest) -> Sent {
        let mut sent = Sent::default();
        for (place, event) in request.events.iter().enumerate() {
            match to_json(event, self.key.as_ref()) {
                Ok(json) => {
                    sent.body.push(if sent.places.is_empty() { b'[' } else { b',' });
                    sent.body.extend_from_slice(json.as_bytes());
                    sent.places.push(place as u32);
                }
                Err(reason) => {
                    let label = if reason.starts_with("schema") { Reason::Schema } else { Reason::Parse };
                    observe::rejected(label);
                    sent.rejected.push(Rejected { index: place as u32, reason });
                }
            }
        }
        sent.body.push(b']');
        sent
    }
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

/// Who sends: metadata are headers, and the connection says the rest.
fn head<T>(request: &Request<T>) -> Head {
    let client = request.extensions().get::<Client>();
    Head {
        headers: request.metadata().clone().into_headers(),
        address: client.map(|client| client.address),
        certificate_names: client.map(|client| client.certificate_names.to_vec()).unwrap_or_default(),
        ..Head::default()
    }
}

#[tonic::async_trait]
impl Ingest for IngestCalls {
    async fn send(&self, request: Request<SendRequest>) -> Result<Response<SendResponse>, Status> {
        let head = head(&request);
        self.store(head, request.into_inner()).await.map(Response::new)
    }

    type StreamStream = Pin<Box<dyn Stream<Item = Result<SendResponse, Status>> + Send>>;

    /// One request at a time: that keeps the order of events, and bounds what a connection has in flight.
    async fn stream(&self, request: Request<Streaming<SendRequest>>) -> Result<Response<Self::StreamStream>, Status> {
        let (calls, head) = (self.clone(), head(&request));
        let answers = stream::try_unfold(request.into_inner(), move |mut requests| {
            let (calls, head) = (calls.clone(), head.clone());
            async move {
                let Some(request) = requests.message().await? else { return Ok(None) };
                calls.store(head, request).await.map(|answer| Some((answer, requests)))
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
