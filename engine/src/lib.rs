//! The library behind the `keyloom` binary: the topology, the homes behind the ports, the faces and the tools.

pub mod access;
mod admin_client;
mod aws;
pub mod backend;
mod builder;
pub mod cases;
mod cli;
pub mod dead_letters;
pub mod embedded;
mod engine_client;
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
mod pem;
pub mod running;
pub mod server;
pub mod telemetry;
pub mod topology;

pub use builder::Engine;
