//! A running engine: the actor tree over open homes, and its orderly end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::anyhow;
use keyloom_actors::{
    answer::cache::FeatureCache,
    backend::forwarder::BackendPlan,
    careful::watchdog::{self, Stuck, Watchdog},
    checkpoint::record::Follows,
    event::{EventBatch, KeyPaths, key_paths::Gate},
    handler::LogicFactory,
    partition::{PartitionPlan, status::Status},
    ports::Homes,
    root::{RootArguments, RootHandle},
    session::{cell::KeyLimits, workers::Workers},
    table::{batcher::TableSpec, cut::CutPolicy},
    timestamp::SystemClock,
};
use tokio::{runtime, sync::mpsc, time::timeout};

use crate::{
    homes::{OpenHomes, emitted_rows_format, raw_events_format},
    lake,
    topology::{TableFrom, Topology},
};

/// How long it may take to name a stuck event and to record it. Without the record, careful mode finds the event later.
const RECORD_LIMIT: Duration = Duration::from_secs(5);

/// Bytes of feature answers that may wait for the backend, shared by the partitions. When it is away for longer than that
/// lasts, all answers are put again once it is back.
const BACKEND_BYTES_MAX: u64 = 64 << 20;

/// See the module.
pub struct Running {
    root: RootHandle,
    /// The handler, and the features that are declared beside it.
    pub factory: Arc<dyn LogicFactory>,
    /// Numbers of each partition.
    pub statuses: Vec<Arc<Status>>,
    /// Answers of resident keys.
    pub cache: Arc<FeatureCache>,
    /// The homes it runs on.
    pub homes: OpenHomes,
    lost: mpsc::UnboundedReceiver<String>,
    stuck: mpsc::Receiver<()>,
    /// Some handler is stuck: its partition is being taken from ourselves, see [`watchdog::record_stuck`].
    is_stuck: Arc<AtomicBool>,
    _watchdog: Watchdog,
    _workers: Arc<Workers>,
}

/// Why an engine cannot go on.
#[derive(Debug)]
pub enum Broken {
    /// A partition is lost for good.
    Lost(String),
    /// A handler does not come back from an event; only a new process helps. The event is named and, if possible, recorded.
    Stuck,
}

/// What is needed to name a stuck event and to record it.
struct Witness {
    homes: Homes,
    keys: KeyPaths,
    handler: String,
    owner: String,
    stuck_after: Duration,
}

impl Witness {
    async fn testify(&self, all: &[Stuck]) {
        for stuck in all {
            if timeout(RECORD_LIMIT, self.name_and_record(*stuck)).await.is_err() {
                tracing::error!(?stuck, "the event could not be recorded in time; careful mode has to find it");
            }
        }
    }

    async fn name_and_record(&self, Stuck { partition, seq }: Stuck) {
        let (handler, stuck_after) = (&self.handler, self.stuck_after);
        let Some(seq) = seq else {
            tracing::error!(
                partition,
                handler,
                ?stuck_after,
                "a handler does not come back from reading a key's state"
            );
            return;
        };
        let key = match self.homes.log.read(partition, &[seq]).await {
            Ok(records) => {
                let batch = EventBatch::decode(partition, records, &self.keys, None);
                batch.events.first().map(|event| event.key.to_string()).unwrap_or_default()
            }
            Err(error) => format!("unknown: {error}"),
        };
        tracing::error!(
            partition,
            seq,
            key,
            handler,
            ?stuck_after,
            "a handler does not come back from an event: it is given up, and the process starts again"
        );
        if let Err(error) = watchdog::record_stuck(&*self.homes.store, &self.owner, partition, seq).await {
            tracing::error!(partition, seq, %error, "the event could not be recorded; careful mode has to find it");
        }
    }
}

/// How keys are found and what events must fit, as the topology says.
pub fn key_paths(topology: &Topology) -> KeyPaths {
    let gate = topology.schemas.clone().map(|schemas| schemas as Arc<dyn Gate>);
    KeyPaths::new(&topology.sessions.key).with_fallback(topology.sessions.key_fallback.as_deref()).with_gate(gate)
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
        let owner = format!("{}@{}", topology.engine.name, std::process::id());
        let plan = |partition: u32| -> anyhow::Result<PartitionPlan> {
            Ok(PartitionPlan {
                partition,
                owner: owner.clone(),
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
                backend: homes.backend.as_ref().map(|backend| BackendPlan {
                    backend: Arc::clone(backend),
                    waiting_max: BACKEND_BYTES_MAX / u64::from(partitions),
                }),
                status: Arc::clone(&statuses[partition as usize]),
                clock: Arc::new(SystemClock),
                workers: Arc::clone(&workers),
            })
        };
        let (lost, lost_partitions) = mpsc::unbounded_channel();
        let arguments = RootArguments { partitions: (0..partitions).map(plan).collect::<Result<_, _>>()?, lost };
        let root = RootHandle::start(arguments).await.map_err(|e| anyhow!("the engine does not start: {e}"))?;
        let is_stuck = Arc::new(AtomicBool::new(false));
        let (say, stuck) = mpsc::channel(1);
        let witness = Witness {
            homes: homes.homes.clone(),
            keys: key_paths(topology),
            handler: factory.name().to_owned(),
            owner,
            stuck_after: sessions.stuck_after,
        };
        let (runtime, fired) = (runtime::Handle::current(), Arc::clone(&is_stuck));
        let watchdog = Watchdog::start(workers.slots(), sessions.stuck_after, move |all| {
            fired.store(true, Ordering::Relaxed);
            runtime.block_on(witness.testify(&all));
            say.try_send(()).ok(); // nobody listens only while the process ends anyway
        })?;
        let lost = lost_partitions;
        Ok(Self {
            root,
            factory,
            statuses,
            cache,
            homes,
            lost,
            stuck,
            is_stuck,
            _watchdog: watchdog,
            _workers: workers,
        })
    }

    /// Waits until it cannot go on; says why.
    pub async fn broken(&mut self) -> Broken {
        loop {
            tokio::select! {
                Some(reason) = self.lost.recv() => {
                    // Else it was lost to ourselves, and the other arm comes.
                    if !self.is_stuck.load(Ordering::Relaxed) {
                        return Broken::Lost(reason);
                    }
                }
                Some(()) = self.stuck.recv() => return Broken::Stuck,
                else => std::future::pending().await,
            }
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
