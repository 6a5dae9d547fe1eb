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
    handler::{Context, Fault, Features, Logic, LogicFactory, StateError},
    row::{EmittedTable, Row},
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

/// So that a factory can be shared with the sessions it makes.
pub struct Factory {
    counting: Arc<Counting>,
    life: Arc<Life>,
    tables: Vec<EmittedTable>,
}

impl Factory {
    pub fn new(counting: Arc<Counting>, life: Arc<Life>) -> Self {
        let tables = if counting.emits { vec![EmittedTable::of::<TallyRow>()] } else { Vec::new() };
        Self { counting, life, tables }
    }
}

struct Session {
    counting: Arc<Counting>,
    life: Arc<Life>,
    tally: Tally,
    spoiled: bool,
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

    fn create(&self) -> Box<dyn Logic> {
        Box::new(Session {
            counting: Arc::clone(&self.counting),
            life: Arc::clone(&self.life),
            tally: Tally::default(),
            spoiled: false,
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
        }))
    }
}

impl Logic for Session {
    fn on_event(&mut self, event: EventRef<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        let what = event.value_named("do").and_then(|v| v.as_str()).unwrap_or_default();
        let (what, number) = what.split_once(' ').unwrap_or((&what, ""));
        let number: u32 = number.parse().unwrap_or(u32::MAX);
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

    fn features(&self, features: &mut Features<'_>) {
        features.set("count", &self.tally.count);
        features.set("digest", &self.tally.digest);
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), StateError> {
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
