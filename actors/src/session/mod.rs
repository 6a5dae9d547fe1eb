//! The session actor: one per key. A thin shell that takes a turn over its cell whenever it is woken.
//!
//! Not here: what a turn does (`cell`, `step`), and what happens when it fails (`shard`).

pub mod cell;
pub mod recent_ids;
pub mod shard;
pub mod slots;
pub mod step;
pub mod workers;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use self::{
    cell::{Cell, TURN_EVENTS_MAX, Turn},
    shard::ShardMsg,
};
use crate::{
    careful::{Subject, TRIAL_EVENTS_MAX, Verdicts, trials::Trials},
    checkpoint::{committer::CommitterMsg, counts::Counts},
    dead_letter::DeadLetter,
    fault_point,
    handler::LogicFactory,
    key::Key,
    observe,
    partition::{
        asker::Asker,
        status::{Status, lock},
    },
    timestamp::Timestamp,
};

/// A cell, shared by a shard and the session of its key. Both run on one thread, so the lock is never contended.
pub type SharedCell = Arc<Mutex<Cell>>;

/// What sessions of one shard report to: read by the shard at the barrier and when the committer asks.
#[derive(Default)]
pub struct Books {
    /// Ends of events at or below the cut under way; of all events while there is none.
    pub counts: Counts,
    /// Ends of events behind the cut.
    pub counts_behind: Counts,
    /// Ends that the partition's numbers do not show yet: sessions of all workers write there, so it is done per message
    /// of the shard, not per turn.
    pub unreported: Counts,
    /// The cut under way; `u64::MAX` while there is none.
    pub cut: u64,
    /// By how many bytes the rows that wait for a checkpoint have changed, not reported either.
    pub rows_change: i64,
    /// Events given up and not yet in a checkpoint.
    pub dead: Vec<DeadLetter>,
    /// The same, of keys that the checkpoint under way already cut as lagging: they belong to the next one, whatever
    /// their sequence.
    pub dead_behind: Vec<DeadLetter>,
    /// Cells whose feature answer is due.
    pub due: Vec<SharedCell>,
    /// Keys whose first timer is due at another time than the partition knows.
    pub first_timers: Vec<(Key, Option<Timestamp>)>,
}

impl Books {
    /// Books the ends of events of one turn.
    pub fn add(&mut self, turn: &mut Turn) {
        self.counts.merge(&turn.counts);
        self.counts_behind.merge(&turn.counts_behind);
        self.unreported.merge(&turn.counts);
        self.unreported.merge(&turn.counts_behind);
        self.rows_change += turn.rows_change;
        let letters = if turn.is_behind { &mut self.dead_behind } else { &mut self.dead };
        letters.append(&mut turn.dead);
    }
}

/// What all sessions of a shard share.
pub struct Desk {
    /// The handler.
    pub factory: Arc<dyn LogicFactory>,
    /// See [`Books`].
    pub books: Mutex<Books>,
    /// The partition's numbers.
    pub status: Arc<Status>,
    /// Who reads events again for a session that ran out of them.
    pub shard: ActorRef<ShardMsg>,
    /// Who is told when answers are due ...
    pub committer: ActorRef<CommitterMsg>,
    /// ... and whether it knows already.
    pub announced: AtomicBool,
    /// Who may try events while some partition of the process is careful ...
    pub trials: Arc<Trials>,
    /// ... and what is known of some events.
    pub verdicts: Arc<Verdicts>,
    /// Who asks the world outside.
    pub asker: Arc<Asker>,
    /// For what is rehearsed.
    pub partition: u32,
}

/// The permission to try something in careful mode: the store knows of it. When it is dropped, whatever the reason, the store
/// is told that it did not kill anybody, and then others may go on.
pub struct Trial {
    /// What is noted: nothing while another partition is careful, which this one must only not disturb.
    subject: Option<Subject>,
    permit: Option<OwnedSemaphorePermit>,
    committer: ActorRef<CommitterMsg>,
}

impl Trial {
    /// Waits for the permission to try what is next in `cell`.
    async fn begin(cell: &SharedCell, desk: &Desk) -> Result<Self, ActorProcessingErr> {
        let next = lock(cell).next_to_try(TRIAL_EVENTS_MAX);
        let seqs = next[..desk.verdicts.together(&next)].to_vec();
        Self::of(Subject::Events(seqs), desk).await
    }

    /// Waits for the permission to try this.
    pub async fn of(subject: Subject, desk: &Desk) -> Result<Self, ActorProcessingErr> {
        let (weight, is_empty) = match &subject {
            Subject::Events(seqs) => (seqs.len(), seqs.is_empty()),
            Subject::State(_) => (1, false),
        };
        let permit = desk.trials.permit(weight, desk.verdicts.is_alone(&subject)).await;
        let is_noted = desk.status.careful.load(Ordering::Relaxed) && !is_empty;
        let trial =
            Self { subject: is_noted.then_some(subject), permit: Some(permit), committer: desk.committer.clone() };
        if let Some(subject) = &trial.subject {
            let (noted, waits) = oneshot::channel();
            trial.committer.cast(CommitterMsg::Try(subject.clone(), noted))?;
            waits.await?;
        }
        Ok(trial)
    }

    fn events_max(&self) -> usize {
        if let Some(Subject::Events(seqs)) = &self.subject { seqs.len() } else { TURN_EVENTS_MAX }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let (Some(permit), Some(subject)) = (self.permit.take(), self.subject.take()) {
            // A committer that is gone takes the whole partition with it; its successor knows that nobody died.
            drop(self.committer.cast(CommitterMsg::Tried(subject, permit)));
        }
    }
}

/// The actor.
pub struct Session;

/// Its only message: there is something in the queue.
pub struct Wake;

/// Its arguments and its state.
pub struct SessionState {
    /// The queue and the state.
    pub cell: SharedCell,
    /// Where it reports.
    pub desk: Arc<Desk>,
}

impl Actor for Session {
    type Msg = Wake;
    type State = SessionState;
    type Arguments = SessionState;

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        arguments: SessionState,
    ) -> Result<SessionState, ActorProcessingErr> {
        Ok(arguments)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        _: Wake,
        state: &mut SessionState,
    ) -> Result<(), ActorProcessingErr> {
        let desk = &state.desk;
        let trial = if desk.trials.are_on() { Some(Trial::begin(&state.cell, desk).await?) } else { None };
        let events_max = trial.as_ref().map_or(TURN_EVENTS_MAX, Trial::events_max);
        let cut = lock(&desk.books).cut;
        let turn = lock(&state.cell).turn_of(&desk.factory, cut, events_max);
        match turn {
            Ok(mut turn) => {
                let mut books = lock(&state.desk.books);
                books.add(&mut turn);
                if let Some(due) = turn.first_timer {
                    books.first_timers.push((lock(&state.cell).key().clone(), due));
                }
                if turn.feature_due {
                    books.due.push(Arc::clone(&state.cell));
                }
                drop(books);
                observe::beside_events(&turn.beside);
                for look_up in turn.asks {
                    desk.asker.ask(lock(&state.cell).key().clone(), look_up);
                }
                fault_point::reached(fault_point::APPLIED);
                if turn.feature_due && !state.desk.announced.swap(true, Ordering::AcqRel) {
                    // A committer that is gone takes the whole partition with it.
                    drop(state.desk.committer.cast(CommitterMsg::AnswersDue));
                }
                if turn.hungry {
                    // A shard that is gone takes its sessions with it.
                    drop(state.desk.shard.cast(ShardMsg::Hungry(lock(&state.cell).key().clone())));
                }
                if turn.more {
                    myself.cast(Wake)?;
                }
                if trial.is_some() {
                    let rehearsed = lock(&state.cell).rehearse(&state.desk.factory, state.desk.partition);
                    return rehearsed.map_err(|error| error.0.into());
                }
                Ok(())
            }
            Err(failure) => Err(failure.text.into()),
        }
    }
}
