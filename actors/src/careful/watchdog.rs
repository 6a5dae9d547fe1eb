//! The watchdog: notices that a handler does not come back, and names the event.
//!
//! A thread cannot be killed, so all that helps is to end the process; whoever runs the engine says how, through the door
//! [`Watchdog::start`] takes. Handler code publishes what it works on in its worker's [`Slot`], at the cost of a few stores; a
//! plain thread looks at the slots. Time is counted in looks, so that a process that was frozen blames nobody.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use super::Care;
use crate::{
    checkpoint::record::Head,
    event::EventRef,
    features::FeatureSet,
    handler::{Answer, Context, Fault, Features, Logic, LogicFactory, Looking, StateError, row::EmittedTable},
    ports::{RecordKey, Store, StoreError},
};

/// Looks in the time that a handler has for one event.
const LOOKS: u32 = 8;
/// Shortest and longest time between two looks.
const LOOK_EVERY: [Duration; 2] = [Duration::from_millis(5), Duration::from_secs(1)];

/// What one worker is doing. Written by that worker alone.
#[derive(Default)]
pub struct Slot {
    /// Odd while handler code runs; another number for every call.
    calls: AtomicU64,
    partition: AtomicU32,
    seq: AtomicU64,
}

/// A handler that does not come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stuck {
    /// The partition ...
    pub partition: u32,
    /// ... and the event: the one it was given, or the last one before it was asked for features or its state. `None` when it
    /// was making or reading a state.
    pub seq: Option<u64>,
}

/// One call of handler code: over when dropped, after a panic too.
struct Call<'a>(&'a Slot, u64);

impl Slot {
    fn call(&self, partition: u32, seq: u64) -> Call<'_> {
        let number = self.calls.load(Ordering::Relaxed) + 1;
        self.partition.store(partition, Ordering::Relaxed);
        self.seq.store(seq, Ordering::Relaxed);
        self.calls.store(number, Ordering::Release);
        Call(self, number)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.calls.store(self.1 + 1, Ordering::Release);
    }
}

/// Makes logic whose every call shows in `slot`.
pub struct Watched {
    factory: Arc<dyn LogicFactory>,
    slot: Arc<Slot>,
    partition: u32,
}

impl Watched {
    /// What `factory` makes, for sessions of `partition` on the worker that has `slot`.
    pub fn new(factory: Arc<dyn LogicFactory>, slot: Arc<Slot>, partition: u32) -> Self {
        Self { factory, slot, partition }
    }

    fn logic(&self, inner: Box<dyn Logic>) -> Box<dyn Logic> {
        Box::new(WatchedLogic { inner, slot: Arc::clone(&self.slot), partition: self.partition, seq: 0 })
    }
}

impl LogicFactory for Watched {
    fn name(&self) -> &str {
        self.factory.name()
    }

    fn state_version(&self) -> u32 {
        self.factory.state_version()
    }

    fn tables(&self) -> &[EmittedTable] {
        self.factory.tables()
    }

    fn declared(&self) -> &FeatureSet {
        self.factory.declared()
    }

    fn look_up(&self, key: &str, name: &str, question: &[u8]) -> Looking {
        self.factory.look_up(key, name, question)
    }

    fn create(&self) -> Box<dyn Logic> {
        let call = self.slot.call(self.partition, 0);
        let inner = self.factory.create();
        drop(call);
        self.logic(inner)
    }

    fn decode(&self, version: u32, bytes: &[u8]) -> Result<Box<dyn Logic>, StateError> {
        let call = self.slot.call(self.partition, 0);
        let inner = self.factory.decode(version, bytes)?;
        drop(call);
        Ok(self.logic(inner))
    }
}

struct WatchedLogic {
    inner: Box<dyn Logic>,
    slot: Arc<Slot>,
    partition: u32,
    /// The last event that it was given; 0 when there was none since its state was read.
    seq: u64,
}

impl Logic for WatchedLogic {
    fn on_event(&mut self, event: EventRef<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        self.seq = context.seq;
        let _call = self.slot.call(self.partition, context.seq);
        self.inner.on_event(event, context)
    }

    fn on_timer(&mut self, timer: &str, context: &mut Context<'_>) -> Result<(), Fault> {
        self.seq = context.seq;
        let _call = self.slot.call(self.partition, context.seq);
        self.inner.on_timer(timer, context)
    }

    fn on_answer(&mut self, answer: Answer<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        self.seq = context.seq;
        let _call = self.slot.call(self.partition, context.seq);
        self.inner.on_answer(answer, context)
    }

    fn features(&self, features: &mut Features<'_>) {
        let _call = self.slot.call(self.partition, self.seq);
        self.inner.features(features);
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), StateError> {
        let _call = self.slot.call(self.partition, self.seq);
        self.inner.encode(out)
    }
}

/// What was seen of one slot.
#[derive(Clone, Copy, Default)]
struct Seen {
    call: u64,
    looks: u32,
}

/// Looks once at all slots; those whose call has not ended for [`LOOKS`] looks are stuck.
fn look(slots: &[Arc<Slot>], seen: &mut [Seen]) -> Vec<Stuck> {
    let mut stuck = Vec::new();
    for (slot, seen) in slots.iter().zip(seen) {
        let call = slot.calls.load(Ordering::Acquire);
        if call.is_multiple_of(2) || call != seen.call {
            *seen = Seen { call, looks: 0 };
            continue;
        }
        seen.looks += 1;
        if seen.looks >= LOOKS {
            let seq = slot.seq.load(Ordering::Relaxed);
            stuck.push(Stuck { partition: slot.partition.load(Ordering::Relaxed), seq: (seq > 0).then_some(seq) });
        }
    }
    stuck
}

/// A running watchdog; it ends when this is dropped.
pub struct Watchdog {
    _end: mpsc::Sender<()>,
}

impl Watchdog {
    /// Calls `on_stuck`, once, on a thread of its own, when handlers have not come back from a call for `stuck_after`.
    pub fn start(
        slots: Vec<Arc<Slot>>,
        stuck_after: Duration,
        on_stuck: impl FnOnce(Vec<Stuck>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (end, ended) = mpsc::channel::<()>();
        let every = (stuck_after / LOOKS).clamp(LOOK_EVERY[0], LOOK_EVERY[1]);
        let looks_apart = (stuck_after.as_micros() / u128::from(LOOKS)).div_ceil(every.as_micros()).max(1);
        thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            let mut seen = vec![Seen::default(); slots.len()];
            loop {
                // Short sleeps, so that being frozen in one of them does not count for much.
                for _ in 0..looks_apart {
                    if ended.recv_timeout(every) != Err(RecvTimeoutError::Timeout) {
                        return;
                    }
                }
                let stuck = look(&slots, &mut seen);
                if !stuck.is_empty() {
                    on_stuck(stuck);
                    return;
                }
            }
        })?;
        Ok(Self { _end: end })
    }
}

/// Records that the handler did not come back from an event, for the next start to give it up. Claims the partition anew: its
/// committer may wait for the very worker that is stuck, and nothing of this process may count afterwards.
pub async fn record_stuck(store: &dyn Store, owner: &str, partition: u32, seq: u64) -> Result<(), StoreError> {
    let damaged = |error: crate::checkpoint::record::RecordError| StoreError::Corrupt(error.to_string());
    let mut claim = store.claim(partition, owner).await?;
    let mut records = store.get(&[RecordKey::Care(partition), RecordKey::Head(partition)]).await?.into_iter();
    let mut next = || records.next().flatten();
    let mut care = next().map(|r| Care::decode(&r)).transpose().map_err(damaged)?.unwrap_or_default();
    let head = next().map(|r| Head::decode(&r)).transpose().map_err(damaged)?.unwrap_or_default();
    care.epoch = claim.epoch;
    care.blame_stuck(seq);
    let head = Head { epoch: claim.epoch, batch: 0, published: head.published };
    store.commit(&mut claim, head.encode(), vec![(RecordKey::Care(partition), Some(care.encode()))], true).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_does_not_end_is_stuck_and_many_short_ones_are_not() {
        let slots = [Arc::new(Slot::default()), Arc::new(Slot::default())];
        let mut seen = [Seen::default(); 2];
        let long = slots[1].call(7, 42);
        for _ in 0..LOOKS {
            let short = slots[0].call(7, 41); // the same event each time, and never over when somebody looks
            assert_eq!(look(&slots, &mut seen), []);
            drop(short);
        }
        assert_eq!(look(&slots, &mut seen), [Stuck { partition: 7, seq: Some(42) }]);
        drop(long);
        assert_eq!(look(&slots, &mut seen), []);
    }

    #[test]
    fn the_watchdog_calls_once_and_ends_with_its_owner() {
        let slot = Arc::new(Slot::default());
        let (say, said) = mpsc::channel();
        let tell = move |stuck| drop(say.send(stuck));
        let watchdog = Watchdog::start(vec![Arc::clone(&slot)], Duration::from_millis(40), tell);
        let call = slot.call(1, 0);
        assert_eq!(said.recv(), Ok(vec![Stuck { partition: 1, seq: None }]));
        drop((call, watchdog));
        let (say, said) = mpsc::channel::<Vec<Stuck>>();
        let watchdog = Watchdog::start(vec![slot], Duration::from_secs(3_600), move |stuck| drop(say.send(stuck)));
        drop(watchdog);
        assert!(said.recv().is_err(), "its thread is gone");
    }
}
