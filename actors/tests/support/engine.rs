//! One incarnation of an engine: its own runtime and workers around the real actors, so that it can be killed.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use keyloom_actors::{
    answer::cache::FeatureCache,
    backend::forwarder::BackendPlan,
    careful::watchdog::{Stuck, Watchdog, record_stuck},
    checkpoint::record::Follows,
    event::KeyPaths,
    handler::row::Row,
    partition::{PartitionPlan, status::Status},
    ports::Homes,
    root::{RootArguments, RootHandle},
    session::{cell::KeyLimits, workers::Workers},
    table::{batcher::TableSpec, cut::CutPolicy},
    timestamp::{Clock, SystemClock},
};
use tokio::{
    runtime::{self, Runtime},
    sync::mpsc,
};

use super::{
    expect::Expect,
    gate::Life,
    handler::{Counting, Factory, TallyRow},
    lock, meter,
    table::{self, Lines},
    wait,
    world::{Ports, World},
};

/// What an engine is made of. Fields have the names of [`PartitionPlan`].
#[derive(Clone)]
pub struct Setup {
    pub shards: usize,
    pub resident_max: usize,
    pub idle_after: Duration,
    pub attempts: u32,
    pub limits: KeyLimits,
    pub checkpoint_every: Duration,
    pub in_flight_max: u64,
    pub tables: Vec<TableSpec>,
    /// When rows that the handler emits become files; none: it emits no rows.
    pub emitted: Option<CutPolicy>,
    pub outbox_max: u64,
    pub handler: Arc<Counting>,
    /// Bytes of answers that may wait for the feature backend; none: there is no such backend.
    pub backend: Option<u64>,
    /// With it a watchdog looks after the handlers, and ends the process as the real one does.
    pub stuck_after: Option<Duration>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            shards: 2,
            resident_max: 100_000,
            idle_after: Duration::from_secs(3_600),
            attempts: 3,
            limits: KeyLimits::default(),
            checkpoint_every: Duration::from_millis(20),
            in_flight_max: 64 << 20,
            tables: vec![table::table("raw", Lines::default(), cut_at(1_000))],
            emitted: None,
            outbox_max: u64::MAX,
            handler: Arc::default(),
            backend: None,
            stuck_after: None,
        }
    }
}

impl Setup {
    /// The plan of one incarnation.
    pub fn plan(
        &self,
        world: &Arc<World>,
        life: &Arc<Life>,
        clock: Arc<dyn Clock>,
        workers: Arc<Workers>,
    ) -> PartitionPlan {
        let ports = Arc::new(Ports { world: Arc::clone(world), life: Arc::clone(life) });
        PartitionPlan {
            partition: world.partition,
            owner: "a scenario".to_owned(),
            homes: Homes {
                log: Arc::clone(&ports) as _,
                store: Arc::clone(&ports) as _,
                lake: Arc::clone(&ports) as _,
            },
            factory: Arc::new(Factory::new(Arc::clone(&self.handler), Arc::clone(life))),
            keys: KeyPaths::new(["domain_userid"]),
            shards: self.shards,
            resident_max: self.resident_max,
            idle_after: self.idle_after,
            attempts: self.attempts,
            limits: self.limits,
            checkpoint_every: self.checkpoint_every,
            in_flight_max: self.in_flight_max,
            tables: self.specs(),
            outbox_max: self.outbox_max,
            cache: Arc::new(FeatureCache::new(100_000)),
            backend: self.backend.map(|waiting_max| BackendPlan { backend: Arc::clone(&ports) as _, waiting_max }),
            status: Arc::default(),
            clock,
            workers,
        }
    }

    /// One whose handler emits rows, which become files as `cut` says.
    pub fn emitting(cut: CutPolicy) -> Self {
        let handler = Arc::new(Counting::emitting());
        Self { emitted: Some(cut), handler, ..Self::default() }
    }

    fn specs(&self) -> Vec<TableSpec> {
        let emitted = |cut: &CutPolicy| TableSpec {
            follows: Follows::Outbox,
            ..table::table(TallyRow::TABLE, Lines::default(), *cut)
        };
        self.tables.iter().cloned().chain(self.emitted.iter().map(emitted)).collect()
    }

    /// Names of its tables.
    pub fn tables(&self) -> Vec<String> {
        self.specs().into_iter().map(|t| t.name).collect()
    }
}

/// Cuts at `rows`, or soon.
pub fn cut_at(rows: u64) -> CutPolicy {
    CutPolicy { rows, bytes: u64::MAX, age: Duration::from_millis(100) }
}

/// A running engine.
pub struct Engine {
    pub status: Arc<Status>,
    pub cache: Arc<FeatureCache>,
    pub life: Arc<Life>,
    lost: Mutex<(mpsc::UnboundedReceiver<String>, bool)>,
    world: Arc<World>,
    setup: Setup,
    root: RootHandle,
    runtime: Option<Runtime>,
    _watchdog: Option<Watchdog>,
}

impl Engine {
    pub fn start(world: &Arc<World>, setup: &Setup) -> Self {
        Self::start_mortal(world, setup, Life::long())
    }

    /// Starts an engine that dies by itself, as `life` says.
    pub fn start_mortal(world: &Arc<World>, setup: &Setup, life: Life) -> Self {
        meter::counter(""); // begins to count
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let life = Arc::new(life);
        let workers = Arc::new(Workers::start(2).expect("workers"));
        let watchdog = setup.stuck_after.map(|after| {
            let ports = Ports { world: Arc::clone(world), life: Arc::clone(&life) };
            let (runtime, life) = (runtime.handle().clone(), Arc::clone(&life));
            let end = move |stuck: Vec<Stuck>| {
                for Stuck { partition, seq } in stuck {
                    let seq = seq.expect("it was given an event");
                    runtime.block_on(record_stuck(&ports, "the watchdog", partition, seq)).expect("the store is there");
                }
                life.end();
            };
            Watchdog::start(workers.slots(), after, end).expect("a thread")
        });
        let plan = setup.plan(world, &life, Arc::new(SystemClock), workers);
        let (cache, status) = (Arc::clone(&plan.cache), Arc::clone(&plan.status));
        let (lost_sender, lost) = mpsc::unbounded_channel();
        let root = RootHandle::start(RootArguments { partitions: vec![plan], lost: lost_sender });
        let root = runtime.block_on(root).expect("a root");
        let (world, setup, runtime) = (Arc::clone(world), setup.clone(), Some(runtime));
        let lost = Mutex::new((lost, false));
        Self { status, cache, life, lost, world, setup, root, runtime, _watchdog: watchdog }
    }

    /// Whether it said that it has lost the partition.
    pub fn is_lost(&self) -> bool {
        let (lost, said) = &mut *lock(&self.lost);
        *said |= lost.try_recv().is_ok();
        *said
    }

    /// Names of its tables.
    pub fn tables(&self) -> Vec<String> {
        self.setup.tables()
    }

    /// Polls until `reached`.
    pub fn wait(&self, what: &str, reached: impl FnMut() -> bool) {
        wait(what, reached, || self.describe());
    }

    /// Waits until the partition is claimed and runs.
    pub fn wait_running(&self) {
        self.wait("the partition runs", || self.status.running.load(Ordering::Relaxed));
    }

    /// Waits until the world is as the log says, in every place, and checks all of it.
    pub fn settle(&self) -> Expect {
        let (expect, tables) = (Expect::of(&self.world, self.setup.attempts), self.tables());
        let lacks = || expect.lacks(&self.world, &tables);
        let done = || !self.world.violations().is_empty() || lacks().is_none();
        wait("everything is done", done, || format!("{:?}; {}", lacks(), self.describe()));
        // Whether an event was given up although it killed nobody is known only now.
        let expect = if self.world.has_unlucky() { Expect::of(&self.world, self.setup.attempts) } else { expect };
        expect.check(&self.world, &tables);
        self.wait("the numbers agree", || self.status.counters() == *expect.counters());
        expect
    }

    fn describe(&self) -> String {
        format!("{:?}; live {:?}; violations {:?}", self.status, self.status.counters(), self.world.violations())
    }

    /// See [`RootHandle::drain`].
    pub fn drain(&self, limit: Duration) -> bool {
        self.runtime.as_ref().expect("it runs").block_on(self.root.drain(limit))
    }

    /// Ends it without any notice. Nothing of it has an effect after this returns.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.life.end();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
