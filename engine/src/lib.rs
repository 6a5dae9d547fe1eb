//! The library behind the `keyloom` binary: the topology, the homes behind the ports, the faces and the tools.

pub mod front_door;
pub mod generate;
pub mod ingest;
pub mod lake;
pub mod nats;
pub mod topology;
