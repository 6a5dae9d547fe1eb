//! The session actor: one per key. A thin shell that takes a turn over its cell whenever it is woken.
//!
//! Not here: what a turn does (`cell`, `session_core`), and what happens when it fails (`shard`).

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::{
    cell::Cell,
    committer::CommitterMsg,
    counts::Counts,
    dead_letter::DeadLetter,
    fault_point,
    handler::LogicFactory,
    shard::ShardMsg,
    status::{Status, lock},
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
        let cut = lock(&state.desk.books).cut;
        let turn = lock(&state.cell).turn(&state.desk.factory, cut);
        match turn {
            Ok(turn) => {
                let mut books = lock(&state.desk.books);
                books.counts.merge(&turn.counts);
                books.counts_behind.merge(&turn.counts_behind);
                books.unreported.merge(&turn.counts);
                books.unreported.merge(&turn.counts_behind);
                books.rows_change += turn.rows_change;
                if turn.is_behind {
                    books.dead_behind.extend(turn.dead)
                } else {
                    books.dead.extend(turn.dead)
                }
                if turn.feature_due {
                    books.due.push(Arc::clone(&state.cell));
                }
                drop(books);
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
                Ok(())
            }
            Err(failure) => Err(failure.text.into()),
        }
    }
}
