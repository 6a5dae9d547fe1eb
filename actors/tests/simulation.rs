//! The simulation: the real actors in one thread with paused time, over homes in memory behind bad weather, killed at
//! chosen or at any moments, taken over while they still run. A seed is a history; the same seed is the same history.
//!
//! `SEED=7` repeats one history, `SEEDS=100000` runs more of them, `FIRST=5000` others. Not here: real homes (tests/faults.rs).

use std::{
    ops::AddAssign,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use keyloom_actors::{
    handler::row::Row,
    partition::status::Status,
    ports::{NewRecord, RecordKey, StoreEntry},
    root::{RootArguments, RootHandle},
    session::{cell::KeyLimits, workers::Workers},
    timestamp::{Clock, Timestamp},
};
use tokio::{sync::mpsc, time::Instant};

use crate::support::{
    engine::{Setup, cut_at},
    events::{BEGIN, Sender},
    expect::Expect,
    gate::{Gate, Life, Mode, Step},
    handler::TallyRow,
    random::Random,
    table::{Lines, table},
    world::World,
};

/// Histories in a usual run.
const SEEDS: u64 = 5_000;
/// Name of the threads that run them.
const THREAD: &str = "history";
/// How long, in its own time, a history may take to come to rest.
const REST_LIMIT: Duration = Duration::from_secs(600);
/// How long it may lack the same thing: far longer than anybody waits before trying again.
const STILL_LIMIT: Duration = Duration::from_secs(60);
/// Processes that a history may start because those before have ended by themselves.
const REPLACED_MAX: u64 = 1_000;
/// How often it is looked at meanwhile: first after this time, then after a hundredth more of what has passed.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Time as the runtime has it.
struct PausedClock(Instant);

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        Timestamp(BEGIN + self.0.elapsed().as_micros() as i64)
    }
}

/// What a history was made of.
#[derive(Clone, Copy, Default, Debug)]
struct Count {
    events: u64,
    lives: u64,
    kills: u64,
    zombies: u64,
    troubles: u64,
    /// Keys that checkpoints left behind.
    lagging: u64,
    /// Rows that the handler emitted to its table.
    emitted: u64,
    /// Ticks and answers in the logs.
    ticks: u64,
    answers: u64,
    /// Processes that an event has killed, and events that were given up for it.
    killed: u64,
    killers: u64,
    /// Keys of which something else was given up because processes ended from outside, twice, while it was tried alone.
    unlucky: u64,
    /// Starts in careful mode.
    careful: u64,
    /// Histories with a feature backend, and how often it was killed.
    backends: u64,
    backend_kills: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.lives += other.lives;
        self.kills += other.kills;
        self.zombies += other.zombies;
        self.troubles += other.troubles;
        self.lagging += other.lagging;
        self.emitted += other.emitted;
        self.ticks += other.ticks;
        self.answers += other.answers;
        self.killed += other.killed;
        self.killers += other.killers;
        self.unlucky += other.unlucky;
        self.careful += other.careful;
        self.backends += other.backends;
        self.backend_kills += other.backend_kills;
    }
}

/// One process as the world sees it.
struct Process {
    life: Arc<Life>,
    status: Arc<Status>,
    lost: mpsc::UnboundedReceiver<String>,
    is_lost: bool,
    _root: RootHandle,
}

impl Process {
    async fn start(world: &Arc<World>, setup: &Setup, clock: &Arc<PausedClock>, life: Life) -> Self {
        let life = Arc::new(life);
        let workers = Arc::new(Workers::on(tokio::runtime::Handle::current()));
        let plan = setup.plan(world, &life, Arc::clone(clock) as _, workers);
        let status = Arc::clone(&plan.status);
        let (lost_sender, lost) = mpsc::unbounded_channel();
        let root = RootHandle::start(RootArguments { partitions: vec![plan], lost: lost_sender }).await;
        Self { life, status, lost, is_lost: false, _root: root.expect("a root") }
    }

    fn is_over(&mut self) -> bool {
        self.is_lost |= self.lost.try_recv().is_ok();
        self.is_lost || self.life.is_over()
    }
}

/// Where a process dies by itself.
#[derive(Clone, Copy, Debug)]
enum Aim {
    Nowhere,
    AnyStep,
    Claim,
    Recovery,
    Hydration,
    ReadAgain,
    BetweenBatches,
    BeforeRecord,
    AfterRecord,
    Intent,
    Put,
    PutDone,
    Cursor,
    CursorDone,
    Blocks,
    Remove,
    Forward,
    Forwarded,
    Progress,
}

const AIMS: [Aim; 19] = [
    Aim::Nowhere,
    Aim::AnyStep,
    Aim::Claim,
    Aim::Recovery,
    Aim::Hydration,
    Aim::ReadAgain,
    Aim::BetweenBatches,
    Aim::BeforeRecord,
    Aim::AfterRecord,
    Aim::Intent,
    Aim::Put,
    Aim::PutDone,
    Aim::Cursor,
    Aim::CursorDone,
    Aim::Blocks,
    Aim::Remove,
    Aim::Forward,
    Aim::Forwarded,
    Aim::Progress,
];

impl Aim {
    fn hits(self, step: &Step<'_>) -> bool {
        let writes = |entries: &[StoreEntry], of: fn(&RecordKey) -> bool| entries.iter().any(|(key, _)| of(key));
        let is_record = |key: &RecordKey| matches!(key, RecordKey::Checkpoint(_));
        let is_state = |key: &RecordKey| matches!(key, RecordKey::State(..));
        let is_block = |key: &RecordKey| matches!(key, RecordKey::Outbox(..));
        let is_cursor = |key: &RecordKey| matches!(key, RecordKey::Output(..));
        match (self, step) {
            (Self::AnyStep, _) | (Self::Claim, Step::Claim) | (Self::ReadAgain, Step::ReadAgain) => true,
            (Self::Remove, Step::Remove) => true,
            (Self::Forward, Step::Forward) | (Self::Forwarded, Step::Forwarded) => true,
            (Self::Progress, Step::Commit(e)) => writes(e, |key| matches!(key, RecordKey::Backend(_))),
            (Self::Blocks, Step::Committed(e)) => writes(e, is_block) && !writes(e, is_record),
            (Self::Put, Step::Put(_)) | (Self::PutDone, Step::PutDone(_)) => true,
            (Self::Recovery, Step::Get(keys)) => keys.iter().any(is_record),
            (Self::Hydration, Step::Get(keys)) => keys.iter().any(is_state),
            (Self::BetweenBatches, Step::Committed(e)) => writes(e, is_state) && !writes(e, is_record),
            (Self::BeforeRecord, Step::Commit(e)) | (Self::AfterRecord, Step::Committed(e)) => writes(e, is_record),
            (Self::Intent, Step::Committed(e)) => {
                e.iter().any(|(key, value)| matches!(key, RecordKey::Intent(..)) && value.is_some())
            }
            (Self::Cursor, Step::Commit(e)) | (Self::CursorDone, Step::Committed(e)) => writes(e, is_cursor),
            _ => false,
        }
    }
}

fn random_setup(random: &mut Random) -> Setup {
    let emits = random.one_in(2);
    let setup = if emits { Setup::emitting(cut_at(random.range(3, 60))) } else { Setup::default() };
    Setup {
        outbox_max: [0, 2_000, u64::MAX][random.range(0, 3) as usize],
        shards: random.range(1, 4) as usize,
        resident_max: random.range(1, 30) as usize,
        idle_after: Duration::from_millis(250 * random.range(1, 8)),
        attempts: random.range(3, 5) as u32, // events that fail twice are never given up, whatever was killed between
        limits: KeyLimits {
            inbox_events_max: [1, 3, 20, 16_384][random.range(0, 4) as usize],
            lagging_after: Duration::from_millis([0, 10, 100, 1_000][random.range(0, 4) as usize]),
        },
        checkpoint_every: Duration::from_millis(random.range(1, 80)),
        in_flight_max: [8 << 10, 64 << 10, 64 << 20][random.range(0, 3) as usize],
        tables: vec![table("raw", Lines::default(), cut_at(random.range(3, 60)))],
        backend: [None, Some(u64::MAX), Some(3_000)][random.range(0, 3) as usize],
        ..setup
    }
}

async fn history(seed: u64) -> Count {
    let mut random = Random::new(seed);
    let clock = Arc::new(PausedClock(Instant::now()));
    let (world, setup) = (World::new(), random_setup(&mut random));
    world.batch_max.store(random.range(3, 40) as usize, Relaxed);
    world.read_max.store(random.range(2, 60) as usize, Relaxed);
    world.window.store(random.range(0, 30), Relaxed);
    let mut sender = Sender::new(random.range(2, 25));
    let (mut zombies, mut count) = (Vec::new(), Count::default());
    let killers = random.one_in(4); // some events of this history kill whoever tries them
    let timers = random.one_in(2);
    for _ in 0..random.range(2, 8) {
        let trouble_one_in = [0, 50, 12, 5][random.range(0, 4) as usize];
        world.weather.change(random.next(), Duration::from_millis(random.range(0, 30)), trouble_one_in);
        // Checkpoints go on while states that were asked for are still on their way.
        let slow_states_one_in = [0, 1, 3][random.range(0, 3) as usize];
        world.weather.slow_states(slow_states_one_in, Duration::from_millis(random.range(1, 1_000)));
        let (aim, mut after) = (AIMS[random.range(0, AIMS.len() as u64) as usize], random.range(1, 8));
        if matches!(aim, Aim::AnyStep) {
            after *= random.range(1, 20);
        }
        let life = Life::until(move |step| {
            after -= u64::from(aim.hits(step));
            after == 0
        });
        let mut process = Process::start(&world, &setup, &clock, life).await;
        count.lives += 1;
        let until = Instant::now() + Duration::from_millis(random.range(1, 1_500));
        while Instant::now() < until && !process.is_over() {
            let events = random.range(0, 25);
            world.append((0..events).map(|_| any_event(&mut random, &mut sender, killers, timers)));
            if random.one_in(12) {
                stop_or_start(&mut random, &world);
            }
            if setup.backend.is_some() && random.one_in(20) {
                count.backend_kills += u64::from(save_or_kill_backend(&mut random, &world));
            }
            tokio::time::sleep(Duration::from_micros(random.range(1, 60_000))).await;
        }
        open_gates(&world);
        if random.one_in(3) && !process.is_over() {
            zombies.push(process); // goes on, and must find out by itself that it has lost the partition
            continue;
        }
        count.kills += 1;
        process.life.end();
        if zombies.is_empty() && random.one_in(3) {
            world.lose_power(random.range(0, 10) as usize);
        }
    }
    count.troubles = world.weather.troubles();
    count.lagging = world.lagging();
    world.weather.change(random.next(), Duration::from_millis(random.range(0, 10)), 0);
    world.weather.slow_states(0, Duration::ZERO);
    let mut processes = zombies;
    count.zombies = processes.len() as u64;
    count.lives += 1;
    processes.push(Process::start(&world, &setup, &clock, Life::long()).await);
    let began = Instant::now();
    let mut replaced = 0;
    while !processes.iter().any(|process| process.status.running.load(Relaxed)) {
        assert!(began.elapsed() < REST_LIMIT, "no process comes to run");
        look_again(began).await;
        replace_lost(&world, &setup, &clock, &mut processes, &mut replaced).await;
    }
    world.append((0..50).map(|_| sender.send(&mut random)));
    count.unlucky = rest(&world, &setup, &clock, processes, replaced).await;
    count.backends = u64::from(setup.backend.is_some());
    count.events = world.last_seq();
    let own = |prefix: &[u8]| world.records().iter().filter(|record| record.payload.starts_with(prefix)).count() as u64;
    (count.ticks, count.answers) = (own(b"{\"keyloom.tick\""), own(b"{\"keyloom.answer\""));
    count.emitted = world.output(TallyRow::TABLE).rows;
    (count.killed, count.careful) = (setup.handler.kills(), world.careful_starts());
    count.killers = world.checkpoint().counters.dead_lettered.get("killer").copied().unwrap_or(0);
    count
}

/// Any event; some make their key wait, so that checkpoints leave it behind, and some may end the process.
fn any_event(random: &mut Random, sender: &mut Sender, killers: bool, timers: bool) -> NewRecord {
    if timers && random.one_in(30) {
        return sender.wait_for_something(random);
    }
    let what = match random.range(0, 300) {
        0..5 => format!("wait {}", random.range(1, 2_000)),
        5 if killers => ["kill", "kill", "kill 1"][random.range(0, 3) as usize].to_owned(),
        _ => return sender.send(random),
    };
    sender.doing(random, &what)
}

/// Some home does not answer, or answers only errors, or is well again.
fn stop_or_start(random: &mut Random, world: &World) {
    let gates: [&Gate; 4] = [&world.reads, &world.gets, &world.commits, &world.puts];
    let modes = [Mode::Open, Mode::Open, Mode::Hang, Mode::Fail];
    gates[random.range(0, 4) as usize].set(modes[random.range(0, 4) as usize]);
}

fn open_gates(world: &World) {
    let gates = [&world.reads, &world.gets, &world.commits, &world.puts, &world.backend.gate];
    gates.into_iter().for_each(|gate| gate.set(Mode::Open));
}

/// The backend stops, goes on, saves what it has, or is killed and comes back with what it saved; whether it was killed.
fn save_or_kill_backend(random: &mut Random, world: &World) -> bool {
    world.backend.gate.set([Mode::Open, Mode::Open, Mode::Hang, Mode::Fail][random.range(0, 4) as usize]);
    let kills = random.one_in(3);
    if kills {
        world.backend.kill()
    } else {
        world.backend.save()
    }
    kills
}

/// What a supervisor does: when nobody is left, it starts another; but not for ever.
async fn replace_lost(
    world: &Arc<World>,
    setup: &Setup,
    clock: &Arc<PausedClock>,
    processes: &mut Vec<Process>,
    replaced: &mut u64,
) {
    assert_eq!(world.violations(), [""; 0]);
    processes.retain_mut(|process| !process.is_over());
    if processes.is_empty() {
        *replaced += 1;
        assert!(*replaced <= REPLACED_MAX, "each process that is started ends by itself");
        processes.push(Process::start(world, setup, clock, Life::long()).await);
    }
}

async fn look_again(began: Instant) {
    tokio::time::sleep(LOOK_EVERY.max(began.elapsed() / 100)).await;
}

/// Waits until everything is as the log says and one process is left, then checks all of it. Which one does not matter: the
/// last to claim the partition owns it, and one that was late to start may be the last.
async fn rest(
    world: &Arc<World>,
    setup: &Setup,
    clock: &Arc<PausedClock>,
    mut processes: Vec<Process>,
    mut replaced: u64,
) -> u64 {
    let (mut expect, tables) = (Expect::of(world, setup.attempts), setup.tables());
    let mut checkpoint = 0;
    let began = Instant::now();
    let mut still = ((None, 0), began);
    loop {
        replace_lost(world, setup, clock, &mut processes, &mut replaced).await;
        let has_ticks = expect.last() < world.last_seq();
        if has_ticks || (checkpoint != world.checkpoint().n && world.has_unlucky()) {
            checkpoint = world.checkpoint().n;
            expect = Expect::of(world, setup.attempts);
        }
        let numbers = || processes.iter().map(|p| p.status.counters()).find(|numbers| numbers != expect.counters());
        let lacks = expect.lacks(world, &tables);
        let lacks = lacks.or_else(|| setup.backend.and_then(|_| world.lacks_in_backend()));
        let lacks = lacks.or_else(|| numbers().map(|is| format!("{is:?} instead of {:?}", expect.counters())));
        if lacks.is_none() && processes.len() == 1 {
            break;
        }
        if world.has_unlucky_state() && world.checkpoint().progress() > world.last_seq() && processes.len() == 1 {
            // Which events of its key were given up, nobody can say; but each has one end.
            assert_eq!(world.checkpoint().counters.total(), world.last_seq());
            return 1;
        }
        let owners = || processes.iter().map(|p| format!("{:?}", p.status)).collect::<Vec<_>>().join("\n");
        // A death is a step, too: who dies of an event makes the next one find out, before anything else moves.
        let stands = (lacks.clone(), setup.handler.kills());
        if stands != still.0 {
            still = (stands, Instant::now());
        }
        let is_late = began.elapsed() >= REST_LIMIT || still.1.elapsed() >= STILL_LIMIT;
        assert!(!is_late, "{lacks:?}\n{}", owners());
        look_again(began).await;
    }
    expect.check(world, &tables);
    assert_eq!(expect.counters().total(), world.last_seq(), "every event has one end");
    expect.unlucky()
}

fn run(seed: u64) -> Result<Count, String> {
    let one = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(history(seed))
    };
    catch_unwind(AssertUnwindSafe(one)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned())).unwrap_or_default()
    })
}

#[test]
fn no_history_loses_repeats_or_reorders_anything() {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().expect("a number"));
    let one = number("SEED");
    let first = number("FIRST").unwrap_or(0);
    let seeds = one.map_or(first..first + number("SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    if one.is_none() {
        // Handlers panic by the thousand here; what they say is no news.
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() != Some(THREAD) {
                before(info);
            }
        }));
    }
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let (mut sum, mut failed) = (Count::default(), Vec::new());
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= seeds.end {
                return (sum, failed);
            }
            match run(seed) {
                Err(error) => failed.push((seed, error)),
                Ok(count) => sum += count,
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (sums, failures): (Vec<Count>, Vec<_>) = std::thread::scope(|scope| {
        let start =
            |_| std::thread::Builder::new().name(THREAD.to_owned()).spawn_scoped(scope, work).expect("a thread");
        let handles: Vec<_> = (0..threads).map(start).collect();
        handles.into_iter().map(|h| h.join().expect("seeds fail apart")).unzip()
    });
    let mut failed: Vec<_> = failures.into_iter().flatten().collect();
    failed.sort();
    println!("{} seeds, {} failed; {sums:?}", seeds.end - seeds.start, failed.len());
    for (seed, error) in failed.iter().take(10) {
        println!("SEED={seed}: {}", error.chars().take(600).collect::<String>());
    }
    assert!(failed.is_empty(), "{} of {} seeds failed", failed.len(), seeds.end - seeds.start);
}
