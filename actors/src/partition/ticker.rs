//! The ticker actor: wakes keys that have a timer due and no events, by appending ticks to their partition's log.
//!
//! A tick is an event that says nothing but its time. What it causes is then in the order of the log, the same on every
//! replay, and a session that is not in memory comes back for it as for any other event. One tick too many does no harm, so
//! nothing here has to be exact, only never too early. Not here: which timers fire (`session::step`).

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;

use super::{
    status::{Status, lock},
    timer_index::{TIMED_KEYS_MAX, TimerIndex},
};
use crate::{
    budget::Backoff,
    event, observe,
    ports::{Log, NewRecord, Store},
    timestamp::{Clock, Timestamp},
};

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Ticks appended at once.
const TICKS_MAX: usize = 1_024;
/// A partition that has routed all there is for this long is idle: then the wall clock says what is due.
pub const IDLE_AFTER: Duration = Duration::from_secs(1);
/// Wait before an append, or a read of the store, is tried again.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));

/// The actor.
pub struct Ticker;

/// What a ticker is made of.
pub struct TickerArguments {
    /// The partition.
    pub partition: u32,
    /// Where ticks go.
    pub log: Arc<dyn Log>,
    /// What says which keys had timers when the partition started.
    pub store: Arc<dyn Store>,
    /// What the shards say since.
    pub timers: Arc<Mutex<TimerIndex>>,
    /// The partition's numbers.
    pub status: Arc<Status>,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
}

/// What a ticker is told.
pub enum TickerMsg {
    /// Look what is due (to itself).
    Look,
    /// Append nothing any more: the partition drains.
    Stop,
}

/// The state.
pub struct TickerState {
    args: TickerArguments,
    loaded: bool,
    stopped: bool,
    backoff: Backoff,
    /// Since when everything in the log is routed, and up to where.
    idle: Option<(u64, Instant)>,
}

impl Actor for Ticker {
    type Msg = TickerMsg;
    type State = TickerState;
    type Arguments = TickerArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<TickerMsg>,
        args: TickerArguments,
    ) -> Result<TickerState, ActorProcessingErr> {
        myself.send_after(LOOK_EVERY, || TickerMsg::Look);
        Ok(TickerState { args, loaded: false, stopped: false, backoff: BACKOFF, idle: None })
    }

    async fn handle(
        &self,
        myself: ActorRef<TickerMsg>,
        message: TickerMsg,
        state: &mut TickerState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            TickerMsg::Look if state.stopped => {}
            TickerMsg::Look => {
                let wait = state.look().await;
                myself.send_after(wait, || TickerMsg::Look);
            }
            TickerMsg::Stop => state.stopped = true,
        }
        Ok(())
    }
}

impl TickerState {
    /// Does what is to do now, and says when to look again.
    async fn look(&mut self) -> Duration {
        if !self.loaded || lock(&self.args.timers).should_reload() {
            match self.args.store.first_timers(self.args.partition, TIMED_KEYS_MAX).await {
                Ok(stored) => {
                    let is_cut = stored.len() >= TIMED_KEYS_MAX;
                    lock(&self.args.timers).load(stored, is_cut);
                    self.loaded = true;
                }
                Err(error) => {
                    let partition = self.args.partition;
                    tracing::warn!(partition, %error, "reading which keys have timers failed, trying again");
                    self.loaded = false;
                    return self.backoff.wait();
                }
            }
        }
        let time = self.time();
        let due = {
            let mut index = lock(&self.args.timers);
            observe::timed_keys(self.args.partition, index.len());
            index.take_due(time, TICKS_MAX)
        };
        if due.is_empty() {
            return LOOK_EVERY;
        }
        let records = due.iter().map(|(due, key)| NewRecord {
            key: Bytes::copy_from_slice(key.as_str().as_bytes()),
            dedupe_id: None,
            payload: event::tick(*due),
            scanned: None,
        });
        match self.args.log.append(self.args.partition, records.collect()).await {
            Ok(_) => {
                observe::ticks_appended(due.len() as u64);
                self.backoff.reset();
                if due.len() == TICKS_MAX { Duration::ZERO } else { LOOK_EVERY }
            }
            Err(error) => {
                tracing::warn!(partition = self.args.partition, %error, "appending ticks failed, trying again");
                observe::ticks_retried();
                lock(&self.args.timers).load(due, false); // what a session has said meanwhile is newer
                self.backoff.wait()
            }
        }
    }

    /// The partition's clock: the highest event time so far, none later than it was stored; while nothing comes, the wall clock if that is later.
    fn time(&mut self) -> Timestamp {
        let status = &self.args.status;
        let routed = status.routed.load(Ordering::Relaxed);
        let clock = Timestamp(status.clock.load(Ordering::Relaxed));
        if routed < status.log_last.load(Ordering::Relaxed) {
            self.idle = None;
            return clock;
        }
        match self.idle {
            Some((through, since)) if through == routed => {
                if since.elapsed() >= IDLE_AFTER {
                    clock.max(self.args.clock.now())
                } else {
                    clock
                }
            }
            _ => {
                self.idle = Some((routed, Instant::now()));
                clock
            }
        }
    }
}
