//! The library behind the `keyloom` binary: the topology, the homes behind the ports, the faces and the tools.

mod admin_client;
mod builder;
pub mod cases;
mod cli;
pub mod dead_letters;
pub mod embedded;
pub mod faces;
pub mod features;
pub mod front_door;
pub mod generate;
pub mod grpc;
pub mod homes;
pub mod ingest;
pub mod keys;
pub mod lake;
pub mod nats;
pub mod openapi;
pub mod running;
pub mod telemetry;
pub mod topology;

pub use builder::Engine;
