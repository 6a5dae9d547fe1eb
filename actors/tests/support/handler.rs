//! The handler of the scenarios: counts, remembers the order in a digest, and fails as events tell it to.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use keyloom_actors::{
    event::EventRef,
    features::{Definition, FeatureSet, Function, Settings},
    handler::{
        Answer, Context, Fault, Features, Logic, LogicFactory, Looking, StateError,
        row::{EmittedTable, Row},
    },
    timestamp::{SECOND, Timestamp},
};
use serde::{Deserialize, Serialize};

use super::{gate::Life, lock};

pub const NAME: &str = "counting";

/// What is remembered of a key: equal for equal events in equal order only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub count: u64,
    pub digest: u64,
}

impl Tally {
    pub fn add(&mut self, seq: u64) {
        self.count += 1;
        self.digest = self.digest.wrapping_mul(1_000_003).wrapping_add(seq);
    }
}

/// The row that events of every third sequence emit, and those of every fifteenth twice: the tally with the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TallyRow {
    pub count: u64,
    pub digest: u64,
}

impl Row for TallyRow {
    const TABLE: &'static str = "emitted";
}

/// What a firing timer adds to the tally, as if it were a sequence.
pub fn mark_of_timer(name: &str, due: Timestamp) -> u64 {
    due.0 as u64 + name.len() as u64
}

/// When the timer `again` sets itself to.
pub fn again_after(due: Timestamp) -> Timestamp {
    Timestamp(due.0 + 40 * 60 * SECOND)
}

/// What the world outside answers.
fn answer_to(key: &str, question: &[u8]) -> u64 {
    let number: u64 = std::str::from_utf8(question).expect("text").parse().expect("a number");
    number.wrapping_mul(7) % 1_000 + key.len() as u64
}

/// What an answer adds to the tally, as if it were a sequence. Why there is none is not part of it.
pub fn mark_of_answer(name: &str, question: &str, result: Result<&str, ()>) -> u64 {
    let question: u64 = question.parse().expect("a number");
    let value = result.map_or(1_000_003, |value| value.parse().expect("a number"));
    question.wrapping_mul(31).wrapping_add(value).wrapping_add(name.len() as u64)
}

/// Whether a firing timer emits a row.
pub fn timer_emits(due: Timestamp) -> bool {
    due.0 / (60 * SECOND) % 2 == 0
}

/// How many rows the event at `seq` emits.
pub fn rows_of(seq: u64) -> u16 {
    u16::from(seq.is_multiple_of(3)) + u16::from(seq.is_multiple_of(15))
}

/// Makes counting handlers. How often each event was tried outlives sessions, unlike a tally.
#[derive(Default)]
pub struct Counting {
    /// Bytes that each stored state takes beside the tally.
    pub pad: usize,
    /// While set, the event `hold` does not come back, and its worker with it.
    pub held: AtomicBool,
    /// Whether rows are emitted.
    pub emits: bool,
    /// While set, the state that the event `spoil` leaves behind can be read again like any other.
    pub mended: AtomicBool,
    tries: Mutex<HashMap<u64, u32>>,
    /// Processes that an event has killed.
    kills: AtomicU64,
}

impl Counting {
    pub fn padded(pad: usize) -> Self {
        Self { pad, ..Self::default() }
    }

    pub fn emitting() -> Self {
        Self { emits: true, ..Self::default() }
    }

    /// How often the event at `seq` was tried.
    pub fn tries(&self, seq: u64) -> u32 {
        lock(&self.tries).get(&seq).copied().unwrap_or(0)
    }

    /// Processes that an event has killed.
    pub fn kills(&self) -> u64 {
        self.kills.load(Ordering::Relaxed)
    }

    fn try_again(&self, seq: u64) -> u32 {
        let mut tries = lock(&self.tries);
        let tries = tries.entry(seq).or_default();
        *tries += 1;
        *tries
    }
}

/// What is declared beside the handler: a count of the events that change the state.
pub fn declared() -> FeatureSet {
    let count = vec![("events".to_owned(), Definition::new(Function::Count))];
    FeatureSet::compile(count, Settings::default()).expect("a sound definition")
}

/// Name and minutes of `timer <name> <minutes>`.
pub fn timer_of(said: &str) -> (&str, i64) {
    let (name, minutes) = said.split_once(' ').expect("a name and minutes");
    (name, minutes.parse().expect("minutes"))
}

/// So that a factory can be shared with the sessions it makes.
pub struct Factory {
    counting: Arc<Counting>,
    life: Arc<Life>,
    tables: Vec<EmittedTable>,
    declared: FeatureSet,
}

impl Factory {
    pub fn new(counting: Arc<Counting>, life: Arc<Life>) -> Self {
        let tables = if counting.emits { vec![EmittedTable::of::<TallyRow>()] } else { Vec::new() };
        Self { counting, life, tables, declared: declared() }
    }
}

struct Session {
    counting: Arc<Counting>,
    life: Arc<Life>,
    tally: Tally,
    spoiled: bool,
    /// It cannot be encoded.
    sour: bool,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    tally: Tally,
    pad: String,
    spoiled: bool,
}

/// The tally in a stored state.
pub fn stored_tally(payload: &[u8]) -> Tally {
    rmp_serde::from_slice::<Stored>(payload).expect("a stored tally").tally
}

impl LogicFactory for Factory {
    fn name(&self) -> &str {
        NAME
    }

    fn state_version(&self) -> u32 {
        1
    }

    fn tables(&self) -> &[EmittedTable] {
        &self.tables
    }

    fn declared(&self) -> &FeatureSet {
        &self.declared
    }

    fn look_up(&self, key: &str, name: &str, question: &[u8]) -> Looking {
        let (answer, life) = (answer_to(key, question), Arc::clone(&self.life));
        let (name, wait) = (name.to_owned(), Duration::from_millis(answer % 300));
        Box::pin(async move {
            tokio::time::sleep(wait).await;
            assert!(!life.is_over() || name != "never", "what comes too late is nothing");
            match name.as_str() {
                "fails" => Err("as told".to_owned()),
                "panics" => panic!("told to panic"),
                "never" => std::future::pending().await,
                _ => Ok(answer.into()),
            }
        })
    }

    fn create(&self) -> Box<dyn Logic> {
        Box::new(Session {
            counting: Arc::clone(&self.counting),
            life: Arc::clone(&self.life),
            tally: Tally::default(),
            spoiled: false,
            sour: false,
        })
    }

    fn decode(&self, _: u32, bytes: &[u8]) -> Result<Box<dyn Logic>, StateError> {
        let stored: Stored = rmp_serde::from_slice(bytes).map_err(|e| StateError(e.to_string()))?;
        if stored.spoiled && !self.counting.mended.load(Ordering::SeqCst) {
            self.life.end();
            self.counting.kills.fetch_add(1, Ordering::Relaxed);
            panic!("the process ends here");
        }
        Ok(Box::new(Session {
            counting: Arc::clone(&self.counting),
            life: Arc::clone(&self.life),
            tally: stored.tally,
            spoiled: stored.spoiled,
            sour: false,
        }))
    }
}

impl Logic for Session {
    fn on_timer(&mut self, timer: &str, context: &mut Context<'_>) -> Result<(), Fault> {
        if timer == "no" {
            return Err(Fault::Reject("no".to_owned()));
        }
        let due = context.event_time;
        self.tally.add(mark_of_timer(timer, due));
        if self.counting.emits && timer_emits(due) {
            context.emit(&TallyRow { count: self.tally.count, digest: self.tally.digest })?;
        }
        match timer {
            "again" => context.set_timer("again", again_after(due)),
            "bad" => Err(Fault::Crash("bad".to_owned())),
            _ => Ok(()),
        }
    }

    fn on_event(&mut self, event: EventRef<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        let what = event.value_named("do").and_then(|v| v.as_str()).unwrap_or_default();
        let (what, said) = what.split_once(' ').unwrap_or((&what, ""));
        let number: u32 = said.parse().unwrap_or(u32::MAX);
        self.tally.add(context.seq); // first of all, so that a failure has something to undo
        if self.counting.emits {
            for _ in 0..rows_of(context.seq) {
                context.emit(&TallyRow { count: self.tally.count, digest: self.tally.digest })?;
            }
        }
        if what.is_empty() {
            return Ok(());
        }
        assert!(!self.life.is_over(), "nothing happens in a dead process");
        let tries = self.counting.try_again(context.seq);
        let fails = tries <= number;
        match what {
            "timer" => {
                let (name, minutes) = timer_of(said);
                context.set_timer(name, Timestamp(context.event_time.0 + minutes * 60 * SECOND))
            }
            "ask" => context.look_up(said, &context.seq.clone(), Duration::from_millis(400)),
            "cancel" => {
                context.cancel_timer("again");
                Ok(())
            }
            "kill" if fails => {
                self.life.end();
                self.counting.kills.fetch_add(1, Ordering::Relaxed);
                panic!("the process ends here");
            }
            "panic" if fails => panic!("told to panic by event {}", context.seq),
            "crash" if fails => Err(Fault::Crash("told to crash".to_owned())),
            "retry" if fails => Err(Fault::Retry(Duration::from_millis(1))),
            "wait" if tries == 1 => Err(Fault::Retry(Duration::from_millis(u64::from(number)))),
            "hold" => {
                while self.counting.held.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            }
            "sour" => {
                self.sour |= fails;
                Ok(())
            }
            "spoil" => {
                self.spoiled = true;
                Ok(())
            }
            "reject" => {
                // As the contract of `Fault::Reject` says: the state is as it was.
                self.tally.count -= 1;
                self.tally.digest = self.tally.digest.wrapping_sub(context.seq).wrapping_mul(INVERSE);
                Err(Fault::Reject("told to reject".to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn on_answer(&mut self, answer: Answer<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        let mark = mark_of_answer(answer.name, answer.question, answer.result.map_err(|_| ()));
        match answer.name {
            "reject" => return Err(Fault::Reject("no".to_owned())),
            "crash" => return Err(Fault::Crash("no".to_owned())),
            _ => self.tally.add(mark),
        }
        if mark.is_multiple_of(5) { context.look_up("next", &mark, Duration::from_secs(1)) } else { Ok(()) }
    }

    fn features(&self, features: &mut Features<'_>) {
        features.set("count", &self.tally.count);
        features.set("digest", &self.tally.digest);
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), StateError> {
        if self.sour {
            return Err(StateError("told to be sour".to_owned()));
        }
        let stored = Stored { tally: self.tally, pad: "x".repeat(self.counting.pad), spoiled: self.spoiled };
        rmp_serde::encode::write_named(out, &stored).map_err(|e| StateError(e.to_string()))
    }
}

/// Undoes the multiplication in [`Tally::add`].
const INVERSE: u64 = inverse(1_000_003);

const fn inverse(odd: u64) -> u64 {
    let mut x = odd; // correct to 3 bits; every round doubles them
    let mut round = 0;
    while round < 5 {
        x = x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x)));
        round += 1;
    }
    x
}
