//! A running engine: the actor tree over open homes, and its orderly end.

use std::{sync::Arc, time::Duration};

use anyhow::anyhow;
use keyloom_actors::{
    batcher::TableSpec,
    cell::KeyLimits,
    event::KeyPaths,
    feature_cache::FeatureCache,
    handler::LogicFactory,
    partition::PartitionPlan,
    record::Follows,
    root::{RootArguments, RootHandle},
    status::Status,
    table_cut::CutPolicy,
    timestamp::SystemClock,
    workers::Workers,
};
use tokio::sync::mpsc;

use crate::{
    homes::{OpenHomes, emitted_rows_format, raw_events_format},
    lake,
    topology::{TableFrom, Topology},
};

/// See the module.
pub struct Running {
    root: RootHandle,
    /// Numbers of each partition.
    pub statuses: Vec<Arc<Status>>,
    /// Answers of resident keys.
    pub cache: Arc<FeatureCache>,
    /// The homes it runs on.
    pub homes: OpenHomes,
    lost: mpsc::UnboundedReceiver<String>,
    _workers: Arc<Workers>,
}

/// How keys are found, as the topology says.
pub fn key_paths(topology: &Topology) -> KeyPaths {
    KeyPaths::new(&topology.sessions.key)
}

impl Running {
    /// Starts all partitions of `topology` on `homes`.
    pub async fn start(topology: &Topology, factory: Arc<dyn LogicFactory>, homes: OpenHomes) -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = Arc::new(Workers::start(cores)?);
        let sessions = &topology.sessions;
        let partitions = topology.engine.partitions;
        let resident_max = usize::try_from(sessions.resident_max)?;
        let cache = Arc::new(FeatureCache::new(resident_max + resident_max / 4));
        let statuses: Vec<Arc<Status>> = (0..partitions).map(|_| Arc::default()).collect();
        let plan = |partition: u32| -> anyhow::Result<PartitionPlan> {
            Ok(PartitionPlan {
                partition,
                owner: format!("{}@{}", topology.engine.name, std::process::id()),
                homes: homes.homes.clone(),
                factory: Arc::clone(&factory),
                keys: key_paths(topology),
                shards: topology.engine.shards.map_or(cores, |n| n as usize),
                resident_max: resident_max.div_ceil(partitions as usize),
                idle_after: sessions.idle_after,
                attempts: sessions.attempts,
                limits: KeyLimits::default(),
                checkpoint_every: topology.store.checkpoint_every,
                in_flight_max: topology.engine.in_flight_max / u64::from(partitions),
                tables: tables(topology, &*factory, &homes.lake_prefix, partition)?,
                outbox_max: topology.store.outbox_max / u64::from(partitions),
                cache: Arc::clone(&cache),
                status: Arc::clone(&statuses[partition as usize]),
                clock: Arc::new(SystemClock),
                workers: Arc::clone(&workers),
            })
        };
        let (lost, lost_partitions) = mpsc::unbounded_channel();
        let arguments = RootArguments { partitions: (0..partitions).map(plan).collect::<Result<_, _>>()?, lost };
        let root = RootHandle::start(arguments).await.map_err(|e| anyhow!("the engine does not start: {e}"))?;
        Ok(Self { root, statuses, cache, homes, lost: lost_partitions, _workers: workers })
    }

    /// Waits until a partition is lost for good; says why.
    pub async fn lost(&mut self) -> String {
        match self.lost.recv().await {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// Stops pulling, publishes, checkpoints and writes tables; false when `limit` passed first. Nothing is lost then: the
    /// next start goes on from the last checkpoint.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.root.drain(limit).await
    }
}

fn tables(
    topology: &Topology,
    factory: &dyn LogicFactory,
    lake_prefix: &str,
    partition: u32,
) -> anyhow::Result<Vec<TableSpec>> {
    let spec = |(name, table): (&String, &crate::topology::Table)| {
        let (prefix, table_name) = (lake_prefix.to_owned(), name.clone());
        let (follows, format) = match table.from {
            TableFrom::Events => (Follows::Log, raw_events_format(partition)),
            TableFrom::Handler => {
                let emitted = factory.tables().iter().find(|emitted| emitted.name == name);
                let emitted = emitted.ok_or_else(|| anyhow!("handler {} has no table {name}", factory.name()))?;
                (Follows::Outbox, emitted_rows_format(emitted, partition)?)
            }
        };
        let extension = format.extension();
        Ok(TableSpec {
            name: name.clone(),
            follows,
            format,
            object_name: Arc::new(move |hive, first, last| {
                lake::object_name(&prefix, &table_name, hive, partition, first, last, extension)
            }),
            cut: CutPolicy { rows: table.cut.rows, bytes: table.cut.bytes, age: table.cut.age },
        })
    };
    topology.tables.iter().map(spec).collect()
}
