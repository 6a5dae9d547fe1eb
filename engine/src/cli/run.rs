//! `keyloom run`: the whole engine until a signal ends it.

use std::{
    fs,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, anyhow};
use keyloom_actors::{fault_point, handler::LogicFactory, ports::Homes, timestamp::SystemClock};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    listening::{Faces, Listening},
    restart,
};
use crate::{
    Engine,
    access::{self, Gatekeeper, Rules},
    dead_letters::Desk,
    faces::{self, View},
    features::{FeatureReader, Sources},
    front_door::{self, Acceptor, FrontDoor, Limits, admission::Admissions},
    grpc::{self, KeyMember},
    homes::{self, OWNER_FILE},
    keys::Inspector,
    lake, openapi,
    running::{Broken, Running, key_paths},
    server, telemetry,
    topology::{self, Topology},
};

/// How long connections may take to get their last answers while the engine ends: a stream may stay open for ever.
const ANSWERS_LIMIT: Duration = Duration::from_secs(3);
/// How long partitions get to run before the address is announced anyway.
const START_LIMIT: Duration = Duration::from_secs(10);

/// For tests: the process ends itself, or stands still, where this says, see [`fault_point::arm`] ...
const FAULT_POINT: &str = "KEYLOOM_FAULT_POINT";
/// ... and a checkpoint is cut into batches of this many entries, so that few keys make many.
const FAULT_BATCH_MAX: &str = "KEYLOOM_FAULT_BATCH_MAX";

/// See the module.
pub async fn run(topology: Topology, engine: &Engine) -> anyhow::Result<()> {
    arm_faults()?;
    // Before anything is ready: who sees it ready may end it at once.
    let mut signals = Signals::listen()?;
    let metrics = telemetry::start_metrics()?;
    describe_metrics();
    restart::count_earlier();
    let mut running = tokio::select! {
        running = start(&topology, engine) => running?,
        () = signals.next() => {
            tracing::info!("told to end before anything ran");
            return Ok(());
        }
    };
    let view = Arc::new(View {
        name: topology.engine.name.clone(),
        statuses: running.statuses.clone(),
        cache: Arc::clone(&running.cache),
        store: Arc::clone(&running.homes.homes.store),
        factory: Arc::clone(&running.factory),
        durability: running.homes.durability.clone(),
        metrics,
        draining: Default::default(),
    });
    let rules = Arc::new(topology.rules());
    let door = Arc::new(front_door(&topology, &running, &rules));
    let Homes { log, store, .. } = running.homes.homes.clone();
    let (keys, partitions) = (key_paths(&topology), topology.engine.partitions);
    let factory = Arc::clone(&running.factory);
    let inspector = Inspector::new(Arc::clone(&log), Arc::clone(&store), keys, partitions, factory);
    let desk = Desk::new(log, store, key_paths(&topology), topology.engine.partitions, Arc::new(SystemClock));
    let reader = Arc::new(feature_reader(&running));
    let health = Arc::new(grpc::Health::new().await);
    let faces = Faces {
        ingest: front_door::http::routes(Arc::clone(&door)),
        ingest_calls: grpc::ingest_routes(door, key_member(&topology)),
        features: faces::features::routes(Arc::clone(&reader))
            .merge(faces::feast::routes(Arc::clone(&reader)))
            .merge(grpc::features_routes(reader)),
        admin: faces::health::routes(Arc::clone(&view))
            .merge(faces::metrics::routes(Arc::clone(&view)))
            .merge(faces::dead_letters::routes(desk))
            .merge(faces::keys::routes(Arc::clone(&view), inspector)),
        everywhere: openapi::routes().merge(grpc::reflection_routes()?).merge(health.routes()),
    };
    let listening = Listening::start(&topology, faces.guarded(&Gatekeeper::new(rules))).await?;
    let owner = OwnerFile::write(&topology, &listening)?;
    tokio::spawn(tell_health(Arc::clone(&health), Arc::clone(&view)));
    let is_up = tokio::select! {
        up = wait_until_running(&mut running) => up.map(|()| true)?,
        () = signals.next() => false,
    };
    let mut ended = Ok(());
    if is_up {
        health.tell(|use_| view.readiness(use_).ready).await;
        print!("{}", listening.announcement(&topology.engine.name));
        println!("durability: {}", running.homes.durability.description);
        ended = tokio::select! {
            () = signals.next() => Ok(()),
            broken = running.broken() => match broken {
                Broken::Lost(reason) => Err(anyhow!("{reason}")),
                Broken::Stuck => return Err(restart::this_process().into()),
            },
        };
    }
    view.draining.store(true, Ordering::Relaxed);
    health.tell(|use_| view.readiness(use_).ready).await;
    listening.server.stop();
    if ended.is_ok() && !view.statuses.iter().any(|status| status.running.load(Ordering::Relaxed)) {
        tracing::info!("no partition runs, so nothing is drained");
    } else if ended.is_ok() {
        let limit = topology.engine.drain_limit;
        tracing::info!(?limit, "draining; a second signal ends at once");
        // Requests under way are answered meanwhile; what they store is processed by the next start.
        let all = async {
            let (drained, _) = tokio::join!(running.drain(limit), listening.server.closed(limit.min(ANSWERS_LIMIT)));
            drained
        };
        let drained = tokio::select! {
            drained = all => drained,
            () = signals.next() => false,
        };
        if drained {
            tracing::info!("drained");
        } else {
            tracing::warn!(
                "not everything was written; nothing is lost, the next start goes on from the last checkpoint"
            );
        }
    }
    drop(owner);
    ended
}

/// The signals that ask for an orderly end, from the beginning on.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next one, also if it came while nobody waited.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn arm_faults() -> anyhow::Result<()> {
    if let Ok(point) = std::env::var(FAULT_POINT) {
        fault_point::arm(&point).map_err(|error| anyhow!("{FAULT_POINT}: {error}"))?;
        tracing::warn!(point, "{FAULT_POINT} is set: this process will END ITSELF or STOP there; for tests only");
    }
    if let Ok(entries) = std::env::var(FAULT_BATCH_MAX) {
        fault_point::limit_batches(entries.parse().with_context(|| format!("{FAULT_BATCH_MAX} is not a number"))?);
        tracing::warn!(entries, "{FAULT_BATCH_MAX} is set: checkpoints are cut into small batches; for tests only");
    }
    Ok(())
}

/// What the sessions of `topology` run.
pub fn factory(topology: &Topology, engine: &Engine) -> anyhow::Result<Arc<dyn LogicFactory>> {
    let handler = &topology.sessions.handler;
    let declared = Arc::clone(&topology.features.set);
    let factory = engine.registry().build(handler, topology.handler_config(), declared);
    factory.with_context(|| format!("handler {handler}"))
}

/// Opens the homes and starts the partitions.
pub async fn start(topology: &Topology, engine: &Engine) -> anyhow::Result<Running> {
    let homes = homes::open(topology).await?;
    Running::start(topology, factory(topology, engine)?, homes).await
}

/// Describes every metric of the process.
pub fn describe_metrics() {
    keyloom_actors::observe::describe();
    faces::observe::describe();
    front_door::observe::describe();
    lake::observe::describe();
    access::observe::describe();
    server::observe::describe();
}

/// The rules by which events enter the log of a topology.
pub fn acceptor(topology: &Topology, log_max: usize) -> Acceptor {
    let event_max = usize::try_from(topology.http.event_max).unwrap_or(usize::MAX);
    Acceptor {
        keys: key_paths(topology),
        partitions: topology.engine.partitions,
        event_bytes_max: event_max.min(log_max),
    }
}

/// Where the key of an event of gRPC goes: the first field that keys are taken from.
fn key_member(topology: &Topology) -> Option<KeyMember> {
    topology.sessions.key.iter().find(|path| !path.contains(':')).map(|path| KeyMember::new(path))
}

fn feature_reader(running: &Running) -> FeatureReader {
    FeatureReader::new(Sources {
        statuses: running.statuses.clone(),
        cache: Arc::clone(&running.cache),
        store: Arc::clone(&running.homes.homes.store),
        factory: Arc::clone(&running.factory),
    })
}

fn front_door(topology: &Topology, running: &Running, rules: &Arc<Rules>) -> FrontDoor {
    let log = Arc::clone(&running.homes.homes.log);
    let acceptor = acceptor(topology, log.event_bytes_max());
    let body_max = usize::try_from(topology.http.body_max).unwrap_or(usize::MAX);
    let events_max = usize::try_from(topology.http.events_max).unwrap_or(usize::MAX);
    let in_flight_max = usize::try_from(topology.http.in_flight_max).unwrap_or(usize::MAX);
    FrontDoor::new(
        acceptor,
        log,
        Arc::new(SystemClock),
        Limits { body_bytes_max: body_max, events_max, in_flight_bytes_max: in_flight_max, ..Limits::default() },
    )
    .with_admissions(Admissions::new(Arc::clone(rules)))
    .with_cookie(topology.ingest.cookie.clone())
}

/// Keeps gRPC's health at what `/readyz` says. It goes with the runtime.
async fn tell_health(health: Arc<grpc::Health>, view: Arc<View>) {
    loop {
        health.tell(|use_| view.readiness(use_).ready).await;
        tokio::time::sleep(grpc::HEALTH_EVERY).await;
    }
}

async fn wait_until_running(running: &mut Running) -> anyhow::Result<()> {
    let statuses = running.statuses.clone();
    let all_run = async {
        while !statuses.iter().all(|s| s.running.load(Ordering::Relaxed)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = all_run => Ok(()),
        broken = running.broken() => match broken {
            Broken::Lost(reason) => Err(anyhow!("{reason}")),
            Broken::Stuck => Err(restart::this_process().into()),
        },
        () = tokio::time::sleep(START_LIMIT) => {
            tracing::warn!("not all partitions run yet; /readyz says why");
            Ok(())
        }
    }
}

/// Tells other keyloom commands where the engine of this data folder listens; gone when the engine ends.
struct OwnerFile(Option<std::path::PathBuf>);

impl OwnerFile {
    fn write(topology: &Topology, listening: &Listening) -> anyhow::Result<Self> {
        if !matches!(topology.log, topology::Log::Embedded { .. }) {
            return Ok(Self(None));
        }
        let path = topology.engine.data_dir.join(OWNER_FILE);
        fs::write(&path, listening.owner()).with_context(|| format!("writing {}", path.display()))?;
        Ok(Self(Some(path)))
    }
}

impl Drop for OwnerFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            fs::remove_file(path).ok(); // a stale one only names a process that is gone
        }
    }
}
