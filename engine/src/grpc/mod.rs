//! gRPC: `keyloom.v1` of `proto/`, with the reflection and health services.
//!
//! Thin: events go through the front door, features come from the same reader as over HTTP. The services are plain routes, so
//! they share address, limits and TLS with HTTP; who may call is decided before them, and what a message may take of memory and
//! time while it comes is for [`arrival`] to say.

mod arrival;
mod codec;
mod event;
mod features;
mod frame;
mod health;
mod ingest;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::{Router, middleware};
use tonic::{codec::CompressionEncoding, server::NamedService};

use self::{
    arrival::Intake,
    features::FeatureCalls,
    ingest::IngestCalls,
    proto::{features_server::FeaturesServer, ingest_server::IngestServer},
};
pub use self::{
    event::KeyMember,
    health::{HEALTH_EVERY, Health},
};
use crate::{
    features::{ANSWER_BYTES_MAX, BODY_BYTES_MAX, BODY_TIMEOUT, FeatureReader},
    front_door::FrontDoor,
    server,
};

/// Largest message to the reflection and health services, which hold a few names: no more than tonic sets aside for any call, so
/// half a message costs nothing that the call without it would not.
const NAMES_BYTES_MAX: usize = 8 << 10;

/// The call of `Ingest` whose client sends many messages.
const INGEST_STREAM: &str = "/keyloom.v1.Ingest/Stream";

/// The messages, and what serves them, as generated.
#[allow(missing_docs, clippy::all, reason = "generated from proto/, where the comments are")]
pub mod proto {
    tonic::include_proto!("keyloom.v1");
    pub(super) const DESCRIPTION: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/keyloom.v1.bin"));
}

/// The route of `Ingest`. The key of an event goes to `key`.
pub fn ingest_routes(door: Arc<FrontDoor>, key: Option<KeyMember>) -> Router {
    let limits = *door.limits();
    // The room of HTTP's bodies: the events of both are the same work.
    let intake = Arc::new(Intake {
        gate: door.gate().clone(),
        bytes_max: limits.body_bytes_max,
        timeout: limits.body_timeout,
        refused: status::of_missed_events,
    });
    let server = IngestServer::new(IngestCalls::new(door, key))
        .max_decoding_message_size(limits.body_bytes_max)
        .accept_compressed(CompressionEncoding::Gzip);
    let stream = Router::new().route_service(INGEST_STREAM, server.clone());
    let stream = stream.route_layer(middleware::from_fn_with_state(Arc::clone(&intake), arrival::each));
    let calls = Router::new().route_service(&path_of(&server), server);
    calls.route_layer(middleware::from_fn_with_state(intake, arrival::whole)).merge(stream)
}

/// The route of `Features`.
pub fn features_routes(reader: Arc<FeatureReader>) -> Router {
    let gate = reader.gate().clone();
    let server = FeaturesServer::new(FeatureCalls::new(reader))
        .max_decoding_message_size(BODY_BYTES_MAX)
        .max_encoding_message_size(2 * ANSWER_BYTES_MAX)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    let intake = Arc::new(Intake {
        gate,
        bytes_max: BODY_BYTES_MAX,
        timeout: BODY_TIMEOUT,
        refused: status::of_missed_question,
    });
    let calls = Router::new().route_service(&path_of(&server), server);
    calls.route_layer(middleware::from_fn_with_state(intake, arrival::whole))
}

/// The routes of the reflection services, v1 and v1alpha.
pub fn reflection_routes() -> Result<Router, tonic_reflection::server::Error> {
    let about = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTION)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let new = about().build_v1()?.max_decoding_message_size(NAMES_BYTES_MAX);
    let old = about().build_v1alpha()?.max_decoding_message_size(NAMES_BYTES_MAX);
    let routes = Router::new().route_service(&path_of(&new), new).route_service(&path_of(&old), old);
    Ok(routes.route_layer(middleware::from_fn(server::waived)))
}

fn path_of<S: NamedService>(_: &S) -> String {
    format!("/{}/{{*call}}", S::NAME)
}
