//! gRPC's health: what a balancer that asks per service is told. Not here: what makes the engine ready, see
//! [`crate::faces::readiness`].

use std::time::Duration;

use axum::{Router, middleware};
use tokio::sync::Mutex;
use tonic::server::NamedService;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use super::{
    NAMES_BYTES_MAX,
    features::FeatureCalls,
    ingest::IngestCalls,
    path_of,
    proto::{features_server::FeaturesServer, ingest_server::IngestServer},
};
use crate::{faces::readiness::Use, server};

/// How often it is looked whether something has changed: the partitions look at their log twice a second.
pub const HEALTH_EVERY: Duration = Duration::from_millis(500);

/// Each service, and what it is used for; the empty name is the engine as a whole.
const SERVICES: [(&str, Use); 3] = [
    ("", Use::Read),
    (<FeaturesServer<FeatureCalls> as NamedService>::NAME, Use::Read),
    (<IngestServer<IngestCalls> as NamedService>::NAME, Use::Ingest),
];

/// Who tells the health service.
pub struct Health {
    reporter: HealthReporter,
    /// What was told last. Who watches a service hears of everything that is told, changed or not.
    told: Mutex<[bool; SERVICES.len()]>,
}

impl Health {
    /// Nothing is served yet.
    pub async fn new() -> Self {
        let reporter = HealthReporter::new();
        for (service, _) in SERVICES {
            reporter.set_service_status(service, ServingStatus::NotServing).await;
        }
        Self { reporter, told: Mutex::default() }
    }

    /// The route of the health service.
    pub fn routes(&self) -> Router {
        let service = HealthService::from_health_reporter(self.reporter.clone());
        let server = HealthServer::new(service).max_decoding_message_size(NAMES_BYTES_MAX);
        let routes = Router::new().route_service(&path_of(&server), server);
        routes.route_layer(middleware::from_fn(server::waived))
    }

    /// Tells what has changed. Asks `is_ready` when nobody else tells anything, so the last to begin has the last word.
    pub async fn tell(&self, is_ready: impl Fn(Use) -> bool) {
        let mut told = self.told.lock().await;
        for ((service, use_), told) in SERVICES.iter().zip(told.iter_mut()) {
            let now = is_ready(*use_);
            if now != *told {
                let status = if now { ServingStatus::Serving } else { ServingStatus::NotServing };
                self.reporter.set_service_status(service, status).await;
                *told = now;
            }
        }
    }
}
