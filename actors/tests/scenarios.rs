//! What the actors promise together, one scenario per behaviour: the real tree over homes in memory that can be stopped,
//! slowed, failed and killed at any step. Time limits are deadlines of polls, never waits in hope.
//!
//! Not here: the pure files (they test themselves) and the real homes (end-to-end tests).

mod simulation;
mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use keyloom_actors::{
    backend::Progress,
    careful::{CAREFUL_AFTER_STARTS, LONE_DEATHS_MAX},
    checkpoint::record::Checkpoint,
    key::Key,
    partition::router::POOL_BYTES_MAX,
    ports::{NewRecord, RecordKey, StoreEntry},
    root::{RootArguments, RootHandle},
    session::{cell::KeyLimits, workers::Workers},
    timestamp::{Clock, SystemClock, Timestamp},
};
use support::{
    engine::{Engine, Setup, cut_at},
    events::{Sender, at_hour, doing, event, foreign},
    expect::Expect,
    gate::{Life, Mode, Step},
    handler::Counting,
    lock,
    meter::{counted, counter, gauge},
    random::Random,
    table::{Lines, table},
    world::World,
};

const HOUR: Duration = Duration::from_secs(3_600);

/// `count` events with ids from `first` on, in turn over `keys` keys.
fn round_robin(keys: u64, first: u64, count: u64) -> impl Iterator<Item = NewRecord> {
    (first..first + count).map(move |id| event(&format!("user-{}", id % keys), id))
}

// ---- 1. nothing goes wrong ------------------------------------------------------------------------------------------

#[test]
fn every_event_counts_once_and_all_homes_agree() {
    let world = World::new();
    let engine = Engine::start(&world, &Setup::default());
    let mut random = Random::new(1);
    for first in (0..20_000).step_by(500) {
        let at = |id| at_hour(random.range(0, 3), &format!("user-{}", random.range(0, 700)), id);
        world.append((first..first + 500).map(at));
    }
    let expect = engine.settle();
    assert_eq!((expect.counters().applied, expect.rows()), (20_000, 20_000));
    assert_eq!(engine.status.routed.load(Relaxed), 20_000);
    engine.wait("the log may forget what is done", || world.released() == 20_000);
    let cached = engine.cache.get("user-1").map(|json| support::world::Answer::parse(&json).seq);
    assert_eq!(cached, world.feature("user-1").map(|a| a.seq), "the answer in memory is the one in the store");
}

// ---- 2. kills ---------------------------------------------------------------------------------------------------------

#[test]
fn kills_at_any_moment_lose_nothing_and_repeat_nothing() {
    let chosen = std::env::var("SEED").ok().map(|seed| seed.parse().expect("SEED is a number"));
    let seeds = chosen.map_or(0..30, |seed: u64| seed..seed + 1);
    // Two at a time: half of a run is waiting.
    let (odd, even): (Vec<u64>, Vec<u64>) = seeds.partition(|seed| seed % 2 == 1);
    let run = |seeds: Vec<u64>| std::thread::spawn(move || seeds.into_iter().for_each(one_history_of_kills));
    let ends = [odd, even].map(run).map(std::thread::JoinHandle::join);
    assert!(ends.iter().all(Result::is_ok), "a seed failed; it is the last one printed by its thread");
}

fn one_history_of_kills(seed: u64) {
    println!("SEED={seed}");
    let mut random = Random::new(seed);
    let world = World::new();
    world.batch_max.store(random.range(6, 200) as usize, Relaxed);
    world.read_max.store(random.range(5, 200) as usize, Relaxed);
    world.window.store(random.range(0, 30), Relaxed);
    let setup = Setup {
        shards: random.range(1, 4) as usize,
        resident_max: random.range(2, 60) as usize,
        idle_after: Duration::from_millis(250),
        checkpoint_every: Duration::from_millis(random.range(1, 40)),
        tables: vec![table("raw", Lines::default(), cut_at(random.range(5, 80)))],
        ..Setup::default()
    };
    let mut sender = Sender::new(random.range(3, 40));
    let mut zombies = Vec::new();
    for _ in 0..random.range(3, 8) {
        // It dies of its nth write, or lives until it is killed from outside.
        let (mut steps, own_end) = (random.range(1, 60), !random.one_in(4));
        let life = Life::until(move |_| {
            steps -= u64::from(own_end);
            steps == 0
        });
        let engine = Engine::start_mortal(&world, &setup, life);
        let until = Instant::now() + Duration::from_millis(random.range(1, 60));
        while Instant::now() < until && !engine.life.is_over() {
            world.append((0..random.range(0, 40)).map(|_| sender.send(&mut random)));
            std::thread::sleep(Duration::from_millis(1));
        }
        // (One that has not claimed yet could be the last to claim, and then it would be the owner.)
        if random.one_in(3) && !engine.life.is_over() && engine.status.running.load(Relaxed) {
            zombies.push(engine); // goes on, and must find out by itself that it has lost the partition
            continue;
        }
        engine.kill();
        if zombies.is_empty() && random.one_in(3) {
            world.lose_power(random.range(0, 10) as usize);
        }
    }
    let engine = Engine::start(&world, &setup);
    engine.wait_running();
    world.append((0..50).map(|_| sender.send(&mut random)));
    engine.settle();
    for zombie in zombies {
        zombie.wait("a zombie finds out", || zombie.is_lost() || zombie.life.is_over());
    }
    let expect = engine.settle();
    assert!(!engine.is_lost(), "the rightful owner keeps the partition");
    assert_eq!(expect.counters().total(), world.last_seq());
}

// ---- 3. and 4. sessions leave memory and come back ----------------------------------------------------------------------

#[test]
fn many_more_keys_than_may_be_resident_stay_exact_within_the_bound() {
    const KEYS: u64 = 5_000;
    const IN_FLIGHT_EVENTS: i64 = 300;
    let world = World::new();
    world.read_max.store(100, Relaxed);
    let setup = Setup { resident_max: 50, in_flight_max: 64 << 10, ..Setup::default() };
    let evicted = counter("keyloom_session_evictions_total lru");
    let engine = Engine::start(&world, &setup);
    world.append(round_robin(KEYS, 0, 3 * KEYS));
    let mut most = 0;
    engine.wait("all is routed", || {
        most = most.max(engine.status.sessions_live.load(Relaxed));
        engine.status.routed.load(Relaxed) == 3 * KEYS
    });
    let expect = engine.settle();
    assert_eq!(expect.counters().applied, 3 * KEYS);
    assert!(most <= 50 + IN_FLIGHT_EVENTS, "{most} sessions were live, 50 may be, and those with events in flight");
    engine
        .wait("what is over the bound goes without further events", || engine.status.sessions_live.load(Relaxed) <= 50);
    assert!(engine.cache.len() <= 50, "{} answers in memory, of sessions that have left it", engine.cache.len());
    let evicted = counter("keyloom_session_evictions_total lru") - evicted;
    assert!(evicted >= 3 * KEYS - 50, "{evicted} evictions; nearly every event of this pattern meets an evicted key");
    engine.wait("the pool is empty when all is committed", || engine.status.pool_bytes.load(Relaxed) == 0);
}

#[test]
fn idle_sessions_leave_memory_and_come_back_with_their_state() {
    // From the store, and from the pool: without checkpoints the store has nothing.
    for checkpoint_every in [Duration::from_millis(20), HOUR] {
        let world = World::new();
        let setup = Setup { idle_after: Duration::from_millis(250), checkpoint_every, ..Setup::default() };
        let evicted = counter("keyloom_session_evictions_total idle");
        let engine = Engine::start(&world, &setup);
        for round in 0..2 {
            world.append(round_robin(100, round * 500, 500));
            engine.wait("all is consumed", || engine.status.counters().applied == (round + 1) * 500);
            engine.wait("idle sessions end", || engine.status.sessions_live.load(Relaxed) == 0);
        }
        assert!(engine.cache.is_empty(), "answers in memory go with their sessions");
        assert!(counter("keyloom_session_evictions_total idle") - evicted >= 200);
        assert!(engine.drain(support::LIMIT));
        engine.settle();
    }
}

// ---- 5. handlers that fail ----------------------------------------------------------------------------------------------

#[test]
fn every_way_to_fail_ends_as_it_should_and_touches_no_other_event() {
    let world = World::new();
    let setup = Setup::default();
    let engine = Engine::start(&world, &setup);
    let ways = ["panic", "crash", "reject", "retry", "panic 2", "crash 1", "retry 2", "wait 30", "sour", "sour 1"];
    let mut events: Vec<NewRecord> = Vec::new();
    for round in 0..20 {
        events.extend(round_robin(50, round * 1_000, 100));
        for (way, id) in ways.iter().zip(round * 1_000 + 500..) {
            let key = format!("way {way}");
            if round == 10 {
                events.push(doing(way, &key, id));
            } else {
                events.push(event(&key, id));
            }
        }
    }
    world.append(events);
    let expect = engine.settle();
    expect.check_attempts(&world);
    let tries = |way: &str| {
        let records = world.records();
        let told = records.iter().find(|r| r.payload.ends_with(format!(r#""do":"{way}"}}"#).as_bytes()));
        setup.handler.tries(told.expect("an event").seq)
    };
    assert_eq!(ways.map(tries), [3, 3, 1, 3, 3, 2, 3, 2, 4, 2], "how often the handler saw each of {ways:?}");
    let dead = &expect.counters().dead_lettered;
    let dead = ["panic", "error", "reject"].map(|reason| dead.get(reason).copied().unwrap_or(0));
    assert_eq!(dead, [1, 3, 1], "panic; crash, retry and sour; reject");
}

#[test]
fn poison_among_the_events_of_a_hot_key_costs_only_itself() {
    let world = World::new();
    world.read_max.store(700, Relaxed);
    let engine = Engine::start(&world, &Setup { checkpoint_every: Duration::from_millis(2), ..Setup::default() });
    for id in 0..6_000 {
        let what = match id {
            // A dead letter right before the event that ends the incarnation, in the same turn.
            1_499 | 2_999 => "reject",
            1_500 => "panic",
            3_000 => "crash",
            4_500 => "crash 2",
            // What is behind them goes on from a state that cannot be stored, until somebody asks for it.
            5_000 | 5_001 => "sour",
            5_002 => "sour 1",
            _ => "",
        };
        world.append([doing(what, "hot", id), event("cold", id)]);
    }
    let expect = engine.settle();
    expect.check_attempts(&world);
    assert_eq!(expect.counters().dead(), 6);
}

#[test]
fn a_crash_right_behind_a_cut_keeps_the_dead_letters_before_it() {
    let world = World::new();
    let setup = Setup { shards: 1, checkpoint_every: HOUR, ..Setup::default() };
    let cuts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&cuts);
    let life = Life::until(move |step| {
        let Step::Committed(entries) = step else { return false };
        let is_checkpoint = |(name, _): &&StoreEntry| matches!(name, RecordKey::Checkpoint(_));
        let records = entries.iter().filter(is_checkpoint).filter_map(|(_, record)| record.as_ref());
        lock(&seen).extend(records.map(|record| Checkpoint::decode(record).expect("a checkpoint").cut));
        false
    });
    let engine = Engine::start_mortal(&world, &setup, life);
    engine.wait_running();
    // Checkpoints come while evicted state waits for one, or as good as that, and not otherwise.
    let press = |by: i64| {
        engine.status.pool_bytes.fetch_add(by, Relaxed);
    };
    let send = |record: NewRecord| {
        world.append([record]);
        engine.wait("it is routed", || engine.status.routed.load(Relaxed) == world.last_seq());
        world.last_seq()
    };
    for round in 0..8 {
        press(POOL_BYTES_MAX * 3 / 4);
        world.append([event("hot", 10 * round), event("other", 10 * round)]);
        engine.settle();
        press(-POOL_BYTES_MAX * 3 / 4);
        // While the worker stands still, a dead letter, the barrier, and an event that crashes queue up in this order: all
        // of them are then one turn of the session.
        setup.handler.held.store(true, SeqCst);
        let hold = send(doing("hold", "other", 10 * round + 1));
        engine.wait("the worker stands still", || setup.handler.tries(hold) == 1);
        let before = send(doing("reject", "hot", 10 * round + 1));
        press(POOL_BYTES_MAX * 3 / 4);
        // The barrier cannot be seen before the worker goes on. Where it was is seen in the end.
        std::thread::sleep(Duration::from_millis(50 << round));
        let behind = send(doing("crash 1", "hot", 10 * round + 2));
        setup.handler.held.store(false, SeqCst);
        engine.settle();
        press(-POOL_BYTES_MAX * 3 / 4);
        if lock(&cuts).iter().any(|cut| (before..behind).contains(cut)) {
            return;
        }
    }
    panic!("no barrier came in time: nothing is proven");
}

#[test]
fn a_key_that_waits_for_its_next_try_does_not_hold_up_the_features_of_others() {
    let world = World::new();
    let setup = Setup { checkpoint_every: Duration::from_millis(1), ..Setup::default() };
    let engine = Engine::start(&world, &setup);
    world.append([doing("wait 5000", "patient", 1)]);
    engine.wait("it waits", || setup.handler.tries(1) == 1);
    for round in 1..=20 {
        let last = world.last_seq() + 10;
        world.append(round_robin(10, round * 1_000, 10));
        engine.wait("features of the newest event", || world.answers().iter().any(|a| a.seq == last));
    }
    assert_eq!(setup.handler.tries(1), 1, "the others waited for it");
    engine.settle();
}

// ---- 6. the store stops -------------------------------------------------------------------------------------------------

#[test]
fn while_the_store_takes_no_writes_evicted_state_stays_bounded() {
    const STATE_BYTES: i64 = 256 << 10;
    const BATCH: i64 = 20;
    let world = World::new();
    world.batch_max.store(32, Relaxed);
    world.read_max.store(BATCH as usize, Relaxed);
    let handler = Arc::new(Counting::padded(STATE_BYTES as usize));
    // No table: what waits for a stopped store on its way to the lake would use the credit first.
    let setup = Setup { resident_max: 10, in_flight_max: 16 << 10, handler, tables: Vec::new(), ..Setup::default() };
    let engine = Engine::start(&world, &setup);
    engine.wait_running();
    world.commits.set(Mode::Hang);
    let fits = POOL_BYTES_MAX / STATE_BYTES;
    let keys = fits as u64 + 300;
    world.append(round_robin(keys, 0, keys));
    engine.wait("the pool is full", || engine.status.pool_bytes.load(Relaxed) > POOL_BYTES_MAX);
    let until = Instant::now() + Duration::from_millis(200);
    while Instant::now() < until {
        // The pull stops when the pool is over its limit; one batch may be on its way, and one be evicted meanwhile.
        let slack = 4 * BATCH;
        let (pool, routed) = (engine.status.pool_bytes.load(Relaxed), engine.status.routed.load(Relaxed));
        assert!(pool <= POOL_BYTES_MAX + slack * (STATE_BYTES + 4_096), "the pool holds {pool} bytes");
        assert!(routed as i64 <= fits + slack, "{routed} events were routed, {fits} states fit");
        std::thread::sleep(Duration::from_millis(1));
    }
    world.commits.set(Mode::Open);
    let expect = engine.settle();
    assert_eq!(expect.counters().applied, keys);
}

#[test]
fn a_store_that_fails_for_a_while_loses_nothing() {
    let world = World::new();
    let engine = Engine::start(&world, &Setup { resident_max: 20, ..Setup::default() });
    world.append(round_robin(200, 0, 2_000));
    engine.settle();
    engine.wait("most keys left memory", || engine.status.sessions_live.load(Relaxed) <= 20);
    world.commits.set(Mode::Fail);
    world.gets.set(Mode::Fail);
    world.append(round_robin(200, 2_000, 2_000));
    let (commits, gets) = (world.commits.calls(), world.gets.calls());
    engine.wait("both were tried again", || world.commits.calls() > commits + 2 && world.gets.calls() > gets + 2);
    assert!(engine.status.trouble().is_some(), "the operator is told");
    world.commits.set(Mode::Open);
    world.gets.set(Mode::Open);
    engine.settle();
    assert_eq!(engine.status.trouble(), None, "and told that it is over");
}

#[test]
fn while_states_cannot_be_read_the_pull_stops_at_its_credit() {
    const EVENT_BYTES: u64 = 400 + 100; // what a router takes for one, at least
    let world = World::new();
    world.read_max.store(50, Relaxed);
    let setup = Setup { resident_max: 10, in_flight_max: 256 << 10, ..Setup::default() };
    let engine = Engine::start(&world, &setup);
    world.append(round_robin(5_000, 0, 5_000));
    engine.settle();
    world.gets.set(Mode::Hang);
    world.append(round_robin(5_000, 5_000, 5_000));
    let fits = setup.in_flight_max / EVENT_BYTES + 50;
    let enough = setup.in_flight_max * 3 / 4;
    engine.wait("the credit is used", || engine.status.in_flight_bytes.load(Relaxed) >= enough);
    let until = Instant::now() + Duration::from_millis(200);
    while Instant::now() < until {
        let routed = engine.status.routed.load(Relaxed) - 5_000;
        assert!(routed <= fits + 50, "{routed} events are in flight, {fits} may be");
        assert!(engine.status.in_flight_bytes.load(Relaxed) <= setup.in_flight_max);
        std::thread::sleep(Duration::from_millis(1));
    }
    world.gets.set(Mode::Open);
    engine.settle();
    engine.wait("all credit is back", || engine.status.in_flight_bytes.load(Relaxed) == 0);
}

// ---- 7. the lake stops --------------------------------------------------------------------------------------------------

#[test]
fn a_lake_that_refuses_everything_holds_up_nothing_but_its_table() {
    a_lake_that_is_stopped_holds_up_nothing_but_its_table(Mode::Fail);
}

#[test]
fn a_lake_that_never_answers_holds_up_nothing_but_its_table() {
    a_lake_that_is_stopped_holds_up_nothing_but_its_table(Mode::Hang);
}

fn a_lake_that_is_stopped_holds_up_nothing_but_its_table(stopped: Mode) {
    const EVENTS: u64 = 8_000;
    let world = World::new();
    world.read_max.store(100, Relaxed);
    world.puts.set(stopped);
    let tables = vec![table("raw", Lines::default(), cut_at(300))];
    // A twentieth of the run fits into the credit: a table that held on to its feed would stop everything.
    let setup = Setup { tables, in_flight_max: 256 << 10, ..Setup::default() };
    let engine = Engine::start(&world, &setup);
    for first in (0..EVENTS).step_by(1_000) {
        world.append(round_robin(300, first, 1_000));
    }
    let expect = Expect::of(&world, setup.attempts);
    engine.wait("features and checkpoints come to the end", || expect.lacks(&world, &[]).is_none());
    engine.wait("all credit is back", || engine.status.in_flight_bytes.load(Relaxed) == 0);
    assert_eq!(world.objects().len(), 0);
    assert_eq!(world.output("raw").cursor, 0);
    engine.wait("the log was asked", || world.released() == 0);
    let of_table = |name: &str| gauge(&format!("{name} raw {}", world.partition));
    let [stalled, open] = ["keyloom_lake_stalled", "keyloom_lake_open_rows"].map(|name| move || of_table(name));
    engine.wait("the table says so", || stalled() == Some(1.0));
    assert!(open() >= Some(300.0), "rows of the cut that is stopped wait, too: {:?}", open());
    world.puts.set(Mode::Open);
    engine.settle();
    engine.wait("nothing waits any more", || (stalled(), open()) == (Some(0.0), Some(0.0)));
    // What a batcher held when it was killed waits nowhere any more.
    world.puts.set(stopped);
    world.append(round_robin(300, EVENTS, 100));
    engine.wait("rows wait", || open() > Some(0.0));
    engine.kill();
    support::wait("they are gone", || open() == Some(0.0), || format!("{:?}", open()));
}

#[test]
fn the_log_keeps_what_the_slowest_table_still_needs() {
    let world = World::new();
    // Both tables follow the same log; only the files of one are refused, because its format cannot make them in time.
    let slow = table("slow", Lines::default(), cut_at(u64::MAX));
    let slow = keyloom_actors::table::batcher::TableSpec {
        cut: keyloom_actors::table::cut::CutPolicy { rows: u64::MAX, bytes: u64::MAX, age: HOUR },
        ..slow
    };
    let setup = Setup { tables: vec![slow, table("raw", Lines::default(), cut_at(100))], ..Setup::default() };
    let engine = Engine::start(&world, &setup);
    world.append(round_robin(50, 0, 3_000));
    let expect = Expect::of(&world, setup.attempts);
    engine.wait("the other table is done", || expect.lacks(&world, &["raw".to_owned()]).is_none());
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_millis(1_100) {
        assert_eq!(world.released(), 0, "the slow table has nothing in the lake yet");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(engine.drain(support::LIMIT));
    engine.settle();
    engine.wait("the log may forget", || world.released() == 3_000);
}

// ---- 8. death between the steps of a table's cut ------------------------------------------------------------------------

#[test]
fn a_cut_that_was_interrupted_is_written_again_under_the_same_names() {
    fn has_intent(entries: &[StoreEntry], begun: bool) -> bool {
        entries.iter().any(|(key, value)| matches!(key, RecordKey::Intent(..)) && value.is_some() == begun)
    }
    fn nth(n: u32, mut hit: impl FnMut(&Step<'_>) -> bool + Send + 'static) -> Life {
        let mut left = n;
        Life::until(move |step| {
            left -= u32::from(hit(step));
            left == 0
        })
    }
    // Three hours, so three files per cut: the second cut's files are the fourth to sixth.
    let deaths: [(&str, Life); 8] = [
        ("before the intent", nth(2, |s| matches!(s, Step::Commit(e) if has_intent(e, true)))),
        ("behind the intent", nth(2, |s| matches!(s, Step::Committed(e) if has_intent(e, true)))),
        ("before the first file", nth(4, |s| matches!(s, Step::Put(_)))),
        ("behind the first file", nth(4, |s| matches!(s, Step::PutDone(_)))),
        ("behind the second file", nth(5, |s| matches!(s, Step::PutDone(_)))),
        ("behind the last file", nth(6, |s| matches!(s, Step::PutDone(_)))),
        ("before the cursor", nth(2, |s| matches!(s, Step::Commit(e) if has_intent(e, false)))),
        ("behind the cursor", nth(2, |s| matches!(s, Step::Committed(e) if has_intent(e, false)))),
    ];
    for (when, life) in deaths {
        let world = World::new();
        world.read_max.store(37, Relaxed); // so that cuts fall where another run would not cut
        let events = |range: std::ops::Range<u64>| range.map(|id| at_hour(id % 3, &format!("user-{}", id % 20), id));
        let setup = Setup { tables: vec![table("raw", Lines::default(), cut_at(100))], ..Setup::default() };
        let engine = Engine::start_mortal(&world, &setup, life);
        world.append(events(0..400));
        engine.wait(when, || engine.life.is_over());
        engine.kill();
        let before = world.objects();
        // Other limits than before: the range must come from the intent, not from the limits.
        let setup = Setup { tables: vec![table("raw", Lines::default(), cut_at(150))], ..Setup::default() };
        let engine = Engine::start(&world, &setup);
        world.append(events(400..500));
        engine.settle();
        let after = world.objects();
        assert!(before.iter().all(|(name, object)| after.get(name) == Some(object)), "{when}: no file was orphaned");
        let puts = world.put_names();
        let repeated = puts.len() - after.len();
        let wanted = match when {
            "behind the first file" => 1,
            "behind the second file" => 2,
            "behind the last file" | "before the cursor" => 3,
            _ => 0,
        };
        assert_eq!(repeated, wanted, "{when}: files put again, of {puts:?}");
    }
}

// ---- 9. drain -----------------------------------------------------------------------------------------------------------

#[test]
fn a_drain_makes_everything_durable_and_then_answers() {
    let world = World::new();
    let mut setup = Setup { checkpoint_every: HOUR, ..Setup::default() };
    setup.tables[0].cut.age = HOUR;
    let engine = Engine::start(&world, &setup);
    world.append(round_robin(300, 0, 5_500));
    world.append([foreign(b"the last event enters no table")]);
    engine.wait("all is routed", || engine.status.routed.load(Relaxed) == 5_501);
    assert_eq!(world.checkpoint().n, 0);
    assert!(engine.drain(support::LIMIT));
    let expect = Expect::of(&world, setup.attempts);
    expect.check(&world, &engine.tables());
    world.append(round_robin(300, 10_000, 100));
    assert!(engine.drain(support::LIMIT), "once more is fine");
    assert_eq!(engine.status.routed.load(Relaxed), 5_501, "nothing is pulled any more");
    engine.kill();
    Engine::start(&world, &Setup::default()).settle();
}

#[test]
fn a_drain_without_the_lake_gives_up_and_loses_nothing() {
    let world = World::new();
    let engine = Engine::start(&world, &Setup::default());
    world.puts.set(Mode::Fail);
    world.append(round_robin(300, 0, 5_500));
    engine.wait("all is routed", || engine.status.routed.load(Relaxed) == 5_500);
    assert!(!engine.drain(Duration::from_millis(500)), "it cannot be done");
    engine.wait("what does not need the lake is done", || world.checkpoint().cut == 5_500);
    engine.kill();
    world.puts.set(Mode::Open);
    Engine::start(&world, &Setup::default()).settle();
}

#[test]
fn a_partition_that_does_not_run_keeps_no_other_from_its_drain() {
    let worlds = [World::new(), World::new()];
    let mut setup = Setup { checkpoint_every: HOUR, ..Setup::default() };
    setup.tables[0].cut.age = HOUR;
    worlds[0].gets.set(Mode::Fail); // what it needs to know before it can start
    worlds[1].append(round_robin(300, 0, 5_500));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (life, workers) = (Arc::new(Life::long()), Arc::new(Workers::start(2).expect("workers")));
    let plan = |world| setup.plan(world, &life, Arc::new(SystemClock), Arc::clone(&workers));
    let partitions = vec![plan(&worlds[0]), plan(&worlds[1])];
    let statuses = [&partitions[0], &partitions[1]].map(|plan| Arc::clone(&plan.status));
    let (lost, _keep) = tokio::sync::mpsc::unbounded_channel();
    let root = runtime.block_on(RootHandle::start(RootArguments { partitions, lost })).expect("a root");
    let ready = || statuses[0].trouble().is_some() && statuses[1].routed.load(Relaxed) == 5_500;
    support::wait("one runs and the other does not", ready, || format!("{statuses:?}"));
    assert!(!runtime.block_on(root.drain(support::LIMIT)), "one is not drained");
    life.end();
    Expect::of(&worlds[1], setup.attempts).check(&worlds[1], &setup.tables());
    runtime.shutdown_background();
}

#[test]
fn a_drain_right_after_a_kill_completes() {
    let world = World::new();
    let setup = Setup { checkpoint_every: HOUR, ..Setup::default() };
    let engine = Engine::start(&world, &setup);
    world.append(round_robin(20, 0, 2_000));
    let expect = Expect::of(&world, setup.attempts);
    engine.wait("features are published", || expect.lacks_feature(&world).is_none());
    engine.kill();
    world.read_max.store(1, Relaxed);
    world.reads.set(Mode::Slow(Duration::from_millis(5)));
    let engine = Engine::start(&world, &setup);
    engine.wait("it catches up", || engine.status.routed.load(Relaxed) >= 20);
    assert!(engine.drain(support::LIMIT));
    assert!(engine.status.routed.load(Relaxed) < 2_000, "it stops far behind what is published already");
    engine.kill();
    world.reads.set(Mode::Open);
    Engine::start(&world, &Setup::default()).settle();
}

// ---- 10. and 11. what is no event, and what is a repeat -----------------------------------------------------------------

#[test]
fn what_is_no_event_is_dead_lettered_and_stops_nothing() {
    let world = World::new();
    let engine = Engine::start(&world, &Setup::default());
    let junk: [&[u8]; 6] =
        [b"", b"null", b"[1,2]", b"{\"domain_userid\":\"user-1\"", b"\xff\xfe", b"{\"domain_userid\":\"\"}"];
    for round in 0..50 {
        world.append(round_robin(20, round * 100, 40));
        world.append(junk.map(foreign));
        world.append([foreign(br#"{"event":"of nobody"}"#)]);
    }
    let expect = engine.settle();
    let dead = &expect.counters().dead_lettered;
    assert_eq!((dead["parse"], dead["no_key"]), (250, 100));
    assert_eq!(expect.rows(), 50 * 40, "the table has the events");
}

#[test]
fn repeats_that_the_log_no_longer_knows_are_absorbed_by_their_key() {
    let world = World::new();
    world.window.store(0, Relaxed);
    let setup = Setup { resident_max: 10, ..Setup::default() };
    let engine = Engine::start(&world, &setup);
    world.append(round_robin(100, 0, 3_000));
    engine.settle();
    world.append(round_robin(100, 0, 3_000)); // 30 events of each key, and keys remember 64
    let expect = engine.settle();
    assert_eq!((expect.counters().applied, expect.counters().duplicate), (3_000, 3_000));
    engine.kill();
    let engine = Engine::start(&world, &setup);
    world.append(round_robin(100, 2_000, 2_000)); // half of them repeats, also across a restart
    let expect = engine.settle();
    assert_eq!((expect.counters().applied, expect.counters().duplicate), (4_000, 4_000));
}

// ---- 12. another owner --------------------------------------------------------------------------------------------------

#[test]
fn whoever_loses_the_partition_says_so_and_stops() {
    for round in 0..8 {
        let world = World::new();
        world.read_max.store(20, Relaxed);
        // Small cuts: tables have writes queued at the committer nearly all the time.
        let tables = ["raw", "more", "most"].map(|name| table(name, Lines::default(), cut_at(10)));
        let setup = Setup { checkpoint_every: Duration::from_millis(1), tables: tables.into(), ..Setup::default() };
        let first = Engine::start(&world, &setup);
        world.append(round_robin(50, 0, 500));
        first.wait("the first one works", || first.status.cut.load(Relaxed) > 50 + round);
        let second = Engine::start(&world, &setup);
        let mut id = 500;
        first.wait("the first one says that it is lost", || {
            world.append(round_robin(50, id, 5));
            id += 5;
            first.is_lost()
        });
        assert_eq!(world.epoch(), 2, "and does not claim it back");
        let refused = world.refused();
        second.settle();
        assert_eq!(world.refused(), refused, "it writes no more");
        assert!(!first.status.running.load(Relaxed));
        assert!(!second.is_lost(), "the second one keeps it");
    }
}

// ---- 13. failures above the sessions --------------------------------------------------------------------------------------

#[test]
fn a_failed_table_restarts_the_partition_from_its_checkpoint() {
    let world = World::new();
    world.read_max.store(50, Relaxed);
    let lines = Lines::default();
    let tables = vec![table("raw", lines.clone(), cut_at(100))];
    let engine = Engine::start(&world, &Setup { tables, ..Setup::default() });
    for failures in 1..=2 {
        world.append(round_robin(100, failures * 10_000, 1_000));
        engine.wait("some of it is done", || engine.status.cut.load(Relaxed) > 50);
        lines.failures.store(1, SeqCst);
        world.append(round_robin(100, failures * 10_000 + 1_000, 1_000));
        engine.wait("it started again", || world.epoch() == failures + 1);
        engine.settle();
    }
    assert_eq!(engine.status.trouble(), None);
}

#[test]
fn what_is_served_behind_a_restart_is_what_the_store_has() {
    let world = World::new();
    let lines = Lines::default();
    let tables = vec![table("raw", lines.clone(), cut_at(10))];
    let engine = Engine::start(&world, &Setup { tables, ..Setup::default() });
    let cached = || engine.cache.get("user-1").map(|json| support::world::Answer::parse(&json).seq);
    world.append([event("user-1", 1)]);
    engine.wait("the first answer is there", || cached() == Some(1));
    let first = engine.cache.get("user-1").expect("an answer");
    world.append([event("user-1", 2)]);
    engine.settle();
    // The batch with the second answer landed, and the committer was ended before it could publish it.
    engine.cache.publish(std::iter::once((Key::new("user-1").expect("a key"), first)));
    assert_eq!(cached(), Some(1));
    lines.failures.store(1, SeqCst);
    world.append((100..200).map(|id| event(&format!("other-{}", id % 50), id)));
    engine.wait("it started again", || world.epoch() == 2);
    engine.settle();
    assert!(cached().is_none_or(|seq| seq == 2), "older than what the store has: {:?}", cached());
}

#[test]
fn a_log_that_fails_for_a_while_only_delays() {
    let world = World::new();
    world.read_max.store(50, Relaxed);
    let engine = Engine::start(&world, &Setup::default());
    world.append(round_robin(100, 0, 1_000));
    engine.wait("it reads", || engine.status.routed.load(Relaxed) > 50);
    world.reads.set(Mode::Fail);
    // A session that crashes now cannot have its events again until the log is back.
    world.append([doing("crash 1", "user-1", 5_000)]);
    world.append(round_robin(100, 10_000, 1_000));
    let calls = world.reads.calls();
    engine.wait("it tries again", || world.reads.calls() > calls + 4);
    world.reads.set(Mode::Open);
    engine.settle();
}

#[test]
fn a_state_that_cannot_be_read_costs_its_key_only() {
    let world = World::new();
    let engine = Engine::start(&world, &Setup::default());
    world.append(round_robin(20, 0, 200));
    engine.settle();
    engine.kill();
    let damaged = RecordKey::State(world.partition, Key::new("user-7").expect("a key"));
    world.damage(damaged.clone(), Bytes::from_static(b"not a state"));
    let engine = Engine::start(&world, &Setup::default());
    for round in 1..4 {
        world.append(round_robin(20, round * 200, 200));
        let last = world.last_seq();
        engine.wait("checkpoints go on", || world.checkpoint().cut == last);
        engine.wait("features go on", || world.feature("user-19").is_some_and(|a| a.seq == last));
    }
    let counters = world.checkpoint().counters;
    assert_eq!((counters.applied, counters.dead_lettered["error"], counters.total()), (770, 30, 800));
    assert_eq!(world.value(&damaged).as_deref(), Some(&b"not a state"[..]), "it is left for a person to mend");
    assert_eq!(world.violations(), [""; 0]);
}

// ---- 14. features -----------------------------------------------------------------------------------------------------------

#[test]
fn features_are_published_after_a_kill_without_waiting_for_a_checkpoint() {
    let world = World::new();
    world.read_max.store(10, Relaxed);
    let setup = Setup { checkpoint_every: HOUR, ..Setup::default() };
    let engine = Engine::start(&world, &setup);
    world.append(round_robin(5, 0, 500));
    let expect = Expect::of(&world, setup.attempts);
    engine.wait("features are published", || expect.lacks_feature(&world).is_none());
    engine.kill();
    world.append(round_robin(5, 500, 5));
    let engine = Engine::start(&world, &setup);
    let expect = Expect::of(&world, setup.attempts);
    engine.wait("features show the newest events", || expect.lacks_feature(&world).is_none());
    assert_eq!(world.checkpoint().n, 0);
    expect.check_answers(&world);
    assert_eq!(world.violations(), [""; 0]);
    engine.kill();
    Engine::start(&world, &Setup::default()).settle();
}

#[test]
fn features_never_go_back_when_sessions_are_evicted_while_catching_up() {
    let world = World::new();
    world.read_max.store(10, Relaxed);
    let setup = Setup { checkpoint_every: HOUR, resident_max: 4, ..Setup::default() };
    let engine = Engine::start(&world, &setup);
    world.append(round_robin(100, 0, 1_000));
    let expect = Expect::of(&world, setup.attempts);
    engine.wait("features are published", || expect.lacks_feature(&world).is_none());
    engine.kill();
    world.reads.set(Mode::Slow(Duration::from_millis(1))); // so that it publishes while it catches up
    let engine = Engine::start(&world, &setup);
    engine.wait("it caught up", || engine.status.counters().applied == 1_000);
    assert!(engine.drain(support::LIMIT));
    engine.settle();
}

#[test]
fn features_are_not_held_up_by_a_slow_store() {
    let world = World::new();
    world.commits.set(Mode::Slow(Duration::from_millis(10)));
    let done = AtomicBool::new(false);
    let engine = Engine::start(&world, &Setup { checkpoint_every: Duration::from_millis(1), ..Setup::default() });
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for id in 0..500 {
                world.append(round_robin(10, id * 10, 10));
                std::thread::sleep(Duration::from_millis(1));
            }
            done.store(true, SeqCst);
        });
        let mut last = 0;
        while !done.load(SeqCst) {
            let from = last;
            engine.wait("answers move", || {
                last = world.answers().last().map_or(0, |a| a.seq);
                last > from || done.load(SeqCst)
            });
        }
    });
    engine.settle();
}

#[test]
fn what_is_said_to_be_published_is_shown_although_its_session_waits_to_try_again() {
    let world = World::new();
    let setup = Setup { checkpoint_every: Duration::from_millis(1), ..Setup::default() };
    let engine = Engine::start(&world, &setup);
    world.append([event("user-1", 0)]);
    engine.settle();
    engine.kill();
    let engine = Engine::start(&world, &setup);
    engine.wait_running();
    world.gets.set(Mode::Hang);
    world.append([event("user-1", 1)]);
    engine.wait("it waits for its state", || engine.status.routed.load(Relaxed) == 2);
    // Time for the cut. Should it come too late there is nothing to see, and nothing wrong.
    std::thread::sleep(Duration::from_millis(200));
    world.append([doing("wait 3000", "user-1", 2)]);
    engine.wait("the other one does, too", || engine.status.routed.load(Relaxed) == 3);
    world.gets.set(Mode::Open); // now one turn has the last event of the cut and the one behind it
    engine.wait("a checkpoint", || engine.status.cut.load(Relaxed) >= 2);
    let published = engine.status.published();
    let shown = world.feature("user-1").map_or(0, |answer| answer.seq);
    assert!(shown >= published.min(2), "{published} is said to be published, {shown} is shown");
    engine.settle();
}

// ---- 11. events that end the process --------------------------------------------------------------------------------------

/// Starts engines until one has done everything, as a supervisor does; answers with it and the number of those before it.
fn supervise(world: &Arc<World>, setup: &Setup) -> (Engine, u32) {
    const STARTS_MAX: u32 = 30;
    for earlier in 0..STARTS_MAX {
        let engine = Engine::start(world, setup);
        let expect = Expect::of(world, setup.attempts);
        let done = || engine.life.is_over() || expect.lacks(world, &engine.tables()).is_none();
        engine.wait("an end of one kind or the other", done);
        if !engine.life.is_over() {
            return (engine, earlier);
        }
        engine.kill();
    }
    panic!("{STARTS_MAX} processes died; {:?}", world.care());
}

#[test]
fn events_that_kill_the_process_are_given_up_after_a_few_deaths_and_nothing_else_is() {
    // In a batch with everything else, or far behind it; and the second one in the memory of a key that is parked.
    for (read_max, inbox_events_max) in [(usize::MAX, 16_384), (50, 3)] {
        let world = World::new();
        world.read_max.store(read_max, Relaxed);
        let limits = KeyLimits { inbox_events_max, ..KeyLimits::default() };
        let setup = Setup { limits, ..Setup::default() };
        world.append(round_robin(50, 0, 1_000));
        world.append([doing("kill", "user-7", 1_000)]);
        world.append(round_robin(50, 1_001, 1_000));
        world.append([doing("kill", "user-8", 2_001)]);
        world.append(round_robin(10, 2_002, 500));
        let (engine, deaths) = supervise(&world, &setup);
        let expect = engine.settle();
        expect.check_attempts(&world);
        assert_eq!(expect.counters().dead_lettered, [("killer".to_owned(), 2)].into());
        // Until careful mode; in company; and alone. The second one is in what was reached before: still careful.
        let most = (CAREFUL_AFTER_STARTS - 1) + 2 * (1 + LONE_DEATHS_MAX);
        assert!((CAREFUL_AFTER_STARTS + LONE_DEATHS_MAX..=most).contains(&deaths), "{deaths} deaths, at most {most}");
        assert_eq!(u64::from(deaths), setup.handler.kills());
        engine.wait("careful mode ends", || !engine.status.careful.load(Relaxed));
        assert_eq!((engine.status.starts.load(Relaxed), world.care().trying.len()), (0, 0));
        engine.kill();
        let engine = Engine::start(&world, &setup);
        world.append(round_robin(50, 10_000, 500));
        engine.settle();
        assert!(!engine.status.careful.load(Relaxed), "it is over for the next one too");
    }
}

#[test]
fn an_event_that_kills_a_few_times_only_is_processed() {
    let world = World::new();
    let setup = Setup::default();
    world.append(round_robin(20, 0, 200));
    world.append([doing("kill 4", "user-3", 200)]);
    let (engine, deaths) = supervise(&world, &setup);
    assert_eq!(deaths, 4, "twice before careful mode, in company, alone");
    assert_eq!(engine.settle().counters().applied, 201);
    assert_eq!(world.care().suspects.len(), 0, "it was acquitted");
}

/// Deaths that a state costs that kills whoever reads it: until careful mode, which the third start begins; in company; alone.
const STATE_DEATHS: u32 = CAREFUL_AFTER_STARTS - 1 + 1 + LONE_DEATHS_MAX;

/// Whether the checkpoint covers `total` events, and each of them has an end.
fn all_counted(world: &World, total: u64) -> bool {
    let checkpoint = world.checkpoint();
    (checkpoint.progress(), checkpoint.counters.total()) == (total + 1, total)
}

/// Starts engines until one of them gets there; answers with it and the number of those before it.
fn until_counted(world: &Arc<World>, setup: &Setup, total: u64) -> (Engine, u32) {
    for deaths in 0..=STATE_DEATHS {
        let engine = Engine::start(world, setup);
        engine.wait("an end of one kind or the other", || engine.life.is_over() || all_counted(world, total));
        if !engine.life.is_over() {
            return (engine, deaths);
        }
        engine.kill();
    }
    panic!("too many processes died; {:?}", world.care());
}

#[test]
fn a_stored_state_that_kills_whoever_reads_it_is_read_again_only_after_an_orderly_restart() {
    let world = World::new();
    let setup = Setup::default();
    world.append([doing("spoil", "eve", 1), event("ada", 2)]);
    let engine = Engine::start(&world, &setup);
    engine.settle();
    engine.kill();

    world.append([event("ada", 3), event("eve", 4), event("ada", 5)]);
    let (engine, deaths) = until_counted(&world, &setup, 5);
    assert_eq!(deaths, STATE_DEATHS);
    assert_eq!(u64::from(deaths), setup.handler.kills());
    let counters = |applied: u64, dead: u64| {
        let counters = world.checkpoint().counters;
        assert_eq!(counters.applied, applied);
        assert_eq!(counters.dead_lettered, [("error".to_owned(), dead)].into());
    };
    counters(4, 1);
    world.append([event("eve", 6), event("ada", 7)]);
    engine.wait("nobody dies again", || all_counted(&world, 7));
    counters(5, 2);
    engine.kill();
    world.append([event("eve", 8)]);
    let (engine, deaths) = until_counted(&world, &setup, 8);
    counters(5, 3);
    assert_eq!(deaths, 0, "the next process knows it from the store");

    assert!(engine.drain(support::LIMIT));
    engine.kill();
    setup.handler.mended.store(true, SeqCst);
    world.append([event("eve", 9)]);
    let (engine, _) = until_counted(&world, &setup, 9);
    counters(6, 3);
    engine.wait("its features are there", || world.feature("eve").is_some_and(|a| (a.seq, a.tally.count) == (9, 2)));
}

#[test]
fn what_a_key_owes_is_given_up_when_its_stored_state_cannot_be_read() {
    let world = World::new();
    let limits = KeyLimits { lagging_after: Duration::from_millis(10), ..KeyLimits::default() };
    let setup = Setup { limits, ..Setup::default() };
    world.append([doing("spoil", "eve", 1), event("ada", 2)]);
    setup.handler.mended.store(true, SeqCst);
    let engine = Engine::start(&world, &setup);
    engine.settle();
    world.append([doing("wait 9000", "eve", 3)]);
    engine.wait("eve lags", || world.checkpoint().cut == 3 && world.checkpoint().lagging == ["eve"]);
    engine.kill();
    setup.handler.mended.store(false, SeqCst);
    let (engine, deaths) = until_counted(&world, &setup, 3);
    assert_eq!(deaths, STATE_DEATHS);
    let counters = world.checkpoint().counters;
    assert_eq!((counters.applied, counters.dead_lettered), (2, [("error".to_owned(), 1)].into()));

    // What was given up stays so, whoever reads the state later.
    assert!(engine.drain(support::LIMIT));
    engine.kill();
    setup.handler.mended.store(true, SeqCst);
    world.append([event("eve", 4)]);
    let (engine, _) = until_counted(&world, &setup, 4);
    engine.wait("its features are there", || world.feature("eve").is_some_and(|a| (a.seq, a.tally.count) == (4, 2)));
}

#[test]
fn an_event_that_leaves_a_state_that_cannot_be_read_is_found_before_the_state_is_stored() {
    let world = World::new();
    let setup = Setup { checkpoint_every: HOUR, ..Setup::default() };
    world.append([event("eve", 1), doing("spoil", "eve", 2), doing("kill 2", "ada", 3), event("eve", 4)]);
    let (mut deaths, mut careful) = (0, false);
    let engine = loop {
        let engine = Engine::start(&world, &setup);
        engine.wait("the end", || engine.life.is_over() || engine.status.counters().total() == 4);
        careful |= engine.status.careful.load(Relaxed);
        if !engine.life.is_over() {
            break engine;
        }
        deaths += 1;
        assert!(deaths < 10, "{:?}", world.care());
        engine.kill();
    };
    assert!(careful && deaths == 2 + 1 + LONE_DEATHS_MAX, "{deaths} deaths");
    let counters = engine.status.counters();
    assert_eq!((counters.applied, &counters.dead_lettered), (3, &[("killer".to_owned(), 1)].into()));
}

#[test]
fn kills_from_outside_condemn_nobody_unless_they_hit_the_same_event_twice() {
    fn writes_note(entries: &[StoreEntry]) -> bool {
        entries.iter().any(|(key, _)| matches!(key, RecordKey::Care(_)))
    }
    let world = World::new();
    let setup = Setup { checkpoint_every: HOUR, tables: Vec::new(), ..Setup::default() };
    world.append(round_robin(20, 0, 400));
    let mut careful = 0;
    for death in 0..40 {
        // Before or behind a note, or before or behind its end; each time so much later that the event of the last time is
        // mostly through.
        let mut left = 3 + 3 * death;
        let life = Life::until(move |step| {
            left -= u32::from(matches!(step, Step::Commit(e) | Step::Committed(e) if writes_note(e)));
            left == 0
        });
        let engine = Engine::start_mortal(&world, &setup, life);
        engine.wait_running();
        careful += u32::from(engine.status.careful.load(Relaxed));
        engine.wait("it dies", || engine.life.is_over() || engine.status.counters().applied == 400);
        engine.kill();
    }
    assert!(careful > 30, "only {careful} of 40 starts were careful");
    let engine = Engine::start(&world, &Setup { tables: Vec::new(), ..Setup::default() });
    engine.wait("all is done", || world.checkpoint().cut == 400 && world.checkpoint().lagging.is_empty());
    let expect = Expect::of(&world, setup.attempts); // whoever was hit twice in a row looks like a killer
    engine.wait("all is published", || expect.lacks(&world, &[]).is_none());
    expect.check(&world, &[]);
    assert!(expect.counters().applied >= 398, "{:?}", expect.counters());
}

#[test]
fn only_deaths_with_work_left_count_as_starts_without_progress() {
    let world = World::new();
    let setup = Setup::default();
    world.append(round_robin(5, 0, 10));
    Engine::start(&world, &setup).settle();
    let starts_of = |orderly: bool| {
        let engine = Engine::start(&world, &setup);
        engine.wait_running();
        if orderly {
            assert!(engine.drain(support::LIMIT));
        }
        let numbers = (engine.status.starts.load(Relaxed), engine.status.careful.load(Relaxed));
        engine.kill();
        numbers
    };
    assert_eq!([false; 5].map(starts_of), [(0, false); 5], "an idle engine is killed");
    world.reads.set(Mode::Fail);
    world.append(round_robin(5, 10, 10));
    assert_eq!([true; 5].map(starts_of), [(1, false); 5], "it ends in order, and has not come far");
    let numbers = [false, false, true, false, false, false].map(starts_of);
    assert_eq!(numbers.map(|(starts, _)| starts), [1, 2, 3, 1, 2, 3]);
    assert_eq!(numbers.map(|(_, careful)| careful), [false, false, true, true, true, true], "until all of it is done");
    let engine = Engine::start(&world, &setup);
    engine.wait("it is careful", || engine.status.careful.load(Relaxed));
    world.reads.set(Mode::Open);
    engine.settle();
    engine.wait("that is over", || !engine.status.careful.load(Relaxed) && engine.status.starts.load(Relaxed) == 0);
}

#[test]
fn a_killer_in_one_partition_accuses_nobody_in_another() {
    let worlds = [World::new(), World::new()];
    let killer = Setup::default();
    // Never a checkpoint, so that this one makes no progress either and everything of it is tried again each time.
    let innocent = Setup { checkpoint_every: HOUR, tables: Vec::new(), ..Setup::default() };
    worlds[0].append(round_robin(5, 0, 50));
    worlds[0].append([doing("kill", "user-1", 50)]);
    worlds[1].append(round_robin(3, 0, 6));
    for start in 0.. {
        assert!(start < 20, "{:?}", worlds.map(|world| world.care()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (life, workers) = (Arc::new(Life::long()), Arc::new(Workers::start(2).expect("workers")));
        let plan = |setup: &Setup, world| setup.plan(world, &life, Arc::new(SystemClock), Arc::clone(&workers));
        let partitions = vec![plan(&killer, &worlds[0]), plan(&innocent, &worlds[1])];
        let (lost, _keep) = tokio::sync::mpsc::unbounded_channel();
        let root = runtime.block_on(RootHandle::start(RootArguments { partitions, lost })).expect("a root");
        let expect = Expect::of(&worlds[0], killer.attempts);
        let done = || life.is_over() || expect.lacks(&worlds[0], &killer.tables()).is_none();
        support::wait("an end of one kind or the other", done, || format!("{:?}", worlds[0].care()));
        let is_over = life.is_over();
        life.end();
        drop(root);
        runtime.shutdown_background();
        if !is_over {
            break;
        }
    }
    Engine::start(&worlds[0], &killer).settle();
    assert_eq!(Engine::start(&worlds[1], &Setup::default()).settle().counters().applied, 6);
}

#[test]
fn a_handler_that_does_not_come_back_is_named_and_its_event_given_up_at_the_next_start() {
    let world = World::new();
    let setup = Setup { stuck_after: Some(Duration::from_millis(200)), ..Setup::default() };
    setup.handler.held.store(true, SeqCst);
    world.append(round_robin(50, 0, 500));
    world.append([doing("hold for good", "user-7", 500)]);
    world.append(round_robin(50, 501, 500));
    let (engine, deaths) = supervise(&world, &setup);
    assert_eq!(deaths, 1, "it is known for sure");
    let expect = engine.settle();
    expect.check_attempts(&world);
    assert_eq!(expect.counters().dead_lettered, [("stuck".to_owned(), 1)].into());
    assert_eq!(setup.handler.tries(501), 1);
    setup.handler.held.store(false, SeqCst); // the thread of the first process
}

// ---- 15. emitted rows -------------------------------------------------------------------------------------------------------

#[test]
fn a_full_outbox_pauses_the_partition_loudly_until_the_lake_takes_files() {
    let world = World::new();
    world.read_max.store(50, Relaxed);
    world.puts.set(Mode::Fail);
    let engine = Engine::start(&world, &Setup { outbox_max: 2_000, ..Setup::emitting(cut_at(5)) });
    world.append(round_robin(20, 0, 20_000));
    let full = || engine.status.trouble().is_some_and(|trouble| trouble.contains("the outbox is full"));
    engine.wait("it says that it pauses", full);
    let routed = engine.status.routed.load(Relaxed);
    assert!(routed < 20_000, "it reads on");
    assert!(engine.status.outbox_bytes() > 2_000);
    engine.wait("what was read is shown and committed", || {
        let routed = engine.status.routed.load(Relaxed);
        world.checkpoint().cut == routed && world.feature("user-3").is_some()
    });
    world.puts.set(Mode::Open);
    engine.settle();
    assert_eq!(engine.status.outbox_bytes(), 0);
    engine.wait("the router says that it goes on", || engine.status.trouble().is_none()); // with its next pull
}

#[test]
fn rows_left_of_a_table_that_is_gone_stop_nothing() {
    let world = World::new();
    world.puts.set(Mode::Fail);
    let engine = Engine::start(&world, &Setup::emitting(cut_at(5)));
    world.append(round_robin(20, 0, 500));
    engine.wait("rows wait for the lake", || world.outbox_last() > 0 && world.checkpoint().cut == 500);
    engine.kill();
    world.puts.set(Mode::Open);
    world.append(round_robin(20, 500, 500));
    let engine = Engine::start(&world, &Setup { outbox_max: 0, ..Setup::default() });
    engine.settle();
    engine.kill();
    // When it comes back, the table has what it missed, and goes on.
    let engine = Engine::start(&world, &Setup::emitting(cut_at(5)));
    engine.wait("what was left is written", || world.output("emitted").cursor == world.outbox_last());
    assert!(world.output("emitted").rows > 0);
    assert_eq!(world.violations(), [""; 0]);
}

// ---- 16. the feature backend -------------------------------------------------------------------------------------------

/// With a feature backend for which so many bytes of answers may wait.
fn with_backend(waiting_max: u64) -> Setup {
    Setup { backend: Some(waiting_max), ..Setup::default() }
}

fn wait_in_backend(world: &World, engine: &Engine) {
    engine.wait("the backend has what the store has", || world.lacks_in_backend().is_none());
}

/// Waits until the store knows that the backend has everything up to the newest checkpoint.
fn wait_complete(world: &World, engine: &Engine) {
    engine.wait("the store knows it", || {
        let record = world.value(&RecordKey::Backend(world.partition));
        let progress = record.map(|record| Progress::decode(&record).expect("a record"));
        progress.is_some_and(|progress| progress.complete == Some(world.checkpoint().n))
    });
}

fn a_backend_that_stops_holds_up_nothing(stopped: Mode) {
    // Room for all answers, and for a few: then the outage ends with a resync.
    for (room, resyncs) in [(u64::MAX, false), (3_000, true)] {
        let world = World::new();
        let engine = Engine::start(&world, &with_backend(room));
        world.append(round_robin(200, 0, 1_000));
        engine.settle();
        wait_in_backend(&world, &engine);
        wait_complete(&world, &engine);
        let before = world.pages();
        world.backend.gate.set(stopped);
        for first in (1_000..5_000).step_by(500) {
            world.append(round_robin(200, first, 500));
            let expect = engine.settle();
            assert_eq!(expect.counters().applied, first + 500, "features, checkpoints and tables go on");
        }
        assert!(world.lacks_in_backend().is_some(), "it was stopped");
        world.backend.gate.set(Mode::Open);
        wait_in_backend(&world, &engine);
        wait_complete(&world, &engine);
        assert_eq!(world.pages() > before, resyncs, "whether all answers of the store are walked through");
        assert!(engine.drain(support::LIMIT));
    }
}

#[test]
fn a_backend_that_refuses_everything_holds_up_nothing() {
    a_backend_that_stops_holds_up_nothing(Mode::Fail);
}

#[test]
fn a_backend_that_never_answers_holds_up_nothing() {
    a_backend_that_stops_holds_up_nothing(Mode::Hang);
}

#[test]
fn what_the_backend_lacks_is_shown_while_it_is_put() {
    let world = World::new();
    let engine = Engine::start(&world, &with_backend(u64::MAX));
    world.append(round_robin(300, 0, 300));
    engine.settle();
    wait_complete(&world, &engine);
    engine.kill();
    world.backend.kill(); // it has nothing any more: all answers are put, some three in a call
    world.backend.gate.set(Mode::Slow(Duration::from_millis(100)));
    let before = counter("keyloom_backend_resyncs_total");
    let engine = Engine::start(&world, &with_backend(u64::MAX));
    let lag = || gauge(&format!("keyloom_backend_lag_seconds {}", world.partition)).unwrap_or_default();
    engine.wait("the lag grows", || lag() > 1.5);
    assert!(world.lacks_in_backend().is_some(), "it is still being put");
    assert!(counter("keyloom_backend_resyncs_total") > before);
    world.backend.gate.set(Mode::Open);
    wait_in_backend(&world, &engine);
    engine.wait("nothing is left", || lag() == 0.0);
}

#[test]
fn what_a_kill_kept_from_the_backend_is_published_again_without_a_resync() {
    let world = World::new();
    let setup = Setup { checkpoint_every: HOUR, ..with_backend(u64::MAX) };
    let engine = Engine::start(&world, &Setup { checkpoint_every: Duration::from_millis(20), ..setup.clone() });
    world.append(round_robin(50, 0, 500));
    engine.settle();
    wait_complete(&world, &engine);
    assert!(engine.drain(support::LIMIT));
    engine.kill();
    // No checkpoint comes any more: all that follows is behind the cut.
    let engine = Engine::start(&world, &setup);
    engine.wait_running();
    world.backend.gate.set(Mode::Fail);
    world.append(round_robin(30, 500, 300));
    engine.wait("features are published", || {
        (0..30).all(|n| world.feature(&format!("user-{n}")).is_some_and(|a| a.seq > 500))
    });
    engine.kill();
    assert!(world.lacks_in_backend().is_some(), "the store has what the backend has not");
    world.backend.gate.set(Mode::Open);
    let marks = world.backend.mark();
    let puts = world.backend.puts();
    let engine = Engine::start(&world, &setup);
    wait_in_backend(&world, &engine);
    assert!(world.backend.mark() > marks);
    assert!(world.backend.puts() - puts < 50, "only what is behind the checkpoint was put again, not all 50 keys");
}

#[test]
fn a_backend_that_comes_back_without_its_last_writes_gets_them_again() {
    let world = World::new();
    let engine = Engine::start(&world, &with_backend(u64::MAX));
    world.append(round_robin(100, 0, 500));
    engine.settle();
    wait_in_backend(&world, &engine);
    world.backend.save();
    world.append(round_robin(100, 500, 500));
    engine.settle();
    wait_in_backend(&world, &engine);
    world.backend.kill();
    assert!(world.lacks_in_backend().is_some(), "it has lost something");
    // Any call shows it.
    world.append(round_robin(1, 1_000, 1));
    wait_in_backend(&world, &engine);
    wait_complete(&world, &engine);
}

// ---- 17. numbers ------------------------------------------------------------------------------------------------------------

#[test]
fn lag_is_counted_from_the_start_until_more_is_known_and_not_over_a_pause() {
    let world = World::new();
    world.append(round_robin(10, 0, 100));
    world.reads.set(Mode::Hang);
    let began = SystemClock.now();
    let engine = Engine::start(&world, &Setup::default());
    let lag = || engine.status.lag(SystemClock.now());
    engine.wait("it knows of the backlog", || lag().0 == 100);
    engine.wait("time passes", || lag().1 > 0.0);
    let (seconds, up) = (lag().1, SystemClock.now().seconds_since(began));
    assert!(seconds <= up, "{seconds} s, {up} s after the start");
    world.reads.set(Mode::Open);
    engine.settle();
    assert_eq!(lag(), (0, 0.0));
    // The log stored these events long ago. That it has no more is news.
    engine.wait("it has caught up", || engine.status.routed_stored() >= began);
}

#[test]
fn only_what_waits_for_a_checkpoint_has_an_age() {
    let world = World::new();
    let engine = Engine::start(&world, &Setup::default());
    world.append(round_robin(10, 0, 100));
    engine.settle();
    let age = || engine.status.uncommitted_for(SystemClock.now());
    engine.wait("all is committed", || engine.status.is_committed());
    let (idle, n) = (SystemClock.now(), world.checkpoint().n);
    // However long nothing comes, it is not what the next event waits for.
    engine.wait("it is seen that nothing waits", || Timestamp(engine.status.checkpoint_at.load(Relaxed)) >= idle);
    assert_eq!((world.checkpoint().n, age()), (n, 0.0));
    world.commits.set(Mode::Hang);
    world.append(round_robin(10, 100, 1));
    engine.wait("it waits", || age() > 0.1);
    assert!(age() <= SystemClock.now().seconds_since(idle));
    world.commits.set(Mode::Open);
    engine.settle();
    engine.wait("it waits no more", || age() == 0.0);
}

#[test]
fn what_goes_wrong_with_tables_and_the_backend_is_counted_from_0_on() {
    let world = World::new();
    let tables = vec![table("never overrun", Lines::default(), cut_at(1_000))];
    let engine = Engine::start(&world, &Setup { tables, backend: Some(u64::MAX), ..Setup::emitting(cut_at(5)) });
    engine.wait_running();
    let overrun = "keyloom_lake_overrun_events_total";
    assert_eq!(counted(&format!("{overrun} never overrun")), Some(0));
    // Others may have counted these.
    for begun in [
        "keyloom_outbox_removals_failed_total emitted",
        "keyloom_backend_puts_total failed",
        "keyloom_backend_resyncs_total",
    ] {
        assert!(counted(begun).is_some(), "{begun}");
    }
    assert_eq!(counted(&format!("{overrun} emitted")), None, "the log has nothing of it");
}

// ---- 18. orderly ends -------------------------------------------------------------------------------------------------------

#[test]
fn a_drain_waits_for_keys_that_lag() {
    let world = World::new();
    let limits = KeyLimits { lagging_after: Duration::ZERO, ..KeyLimits::default() };
    let setup = Setup { limits, checkpoint_every: Duration::from_millis(5), ..Setup::default() };
    let engine = Engine::start(&world, &setup);
    world.append(round_robin(10, 0, 100));
    world.append([doing("wait 3000", "user-3", 1_000)]);
    world.append(round_robin(10, 100, 100));
    engine.wait("a checkpoint leaves the key behind", || world.lagging() > 0);
    assert!(engine.drain(support::LIMIT));
    let checkpoint = world.checkpoint();
    assert_eq!((checkpoint.cut, checkpoint.counters.total()), (201, 201), "{:?}", checkpoint.lagging);
    assert!(checkpoint.lagging.is_empty());
    engine.settle();
}
