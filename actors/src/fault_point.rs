//! Named moments at which the process can be told to end itself, so that tests aim their kills.
//!
//! An armed point aborts: no destructor runs and nothing is flushed, as with kill -9. Or it lets the process stand still
//! until somebody sends SIGCONT, as a machine that is starved would. Nothing is armed unless [`arm`] is called; then a
//! point costs one relaxed load. Points stand at the grain of batches, turns and files, never of events. Not for errors
//! that the engine should handle: those come from outside, through the ports.

use std::{
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// The log has a group of events; nobody was answered yet.
pub const APPENDED: &str = "appended";
/// The router handed a batch to all shards and tables.
pub const DISPATCHED: &str = "dispatched";
/// A session took a turn over its queue.
pub const APPLIED: &str = "applied";
/// A batch of feature answers was committed.
pub const PUBLISHED: &str = "published";
/// A session left memory.
pub const EVICTED: &str = "evicted";
/// States arrived from the store, and no session has them yet.
pub const HYDRATING: &str = "hydrating";
/// All of a batch but its commit was handed to the store's connection (NATS only).
pub const BATCH_SENT: &str = "batch_sent";
/// A batch of a checkpoint was committed, and there are more.
pub const BATCH_COMMITTED: &str = "batch_committed";
/// Only the batch with the checkpoint's record is missing.
pub const BEFORE_RECORD: &str = "before_record";
/// The checkpoint's record was committed; nobody was told yet.
pub const RECORD_COMMITTED: &str = "record_committed";
/// A table encoded rows of a batch: a file is open.
pub const ROWS_TAKEN: &str = "rows_taken";
/// The intent of a table's cut was committed.
pub const INTENT_COMMITTED: &str = "intent_committed";
/// One file of a cut was put.
pub const FILE_PUT: &str = "file_put";
/// All files of a cut were put; its cursor has not moved.
pub const BEFORE_CURSOR: &str = "before_cursor";
/// The cursor of a table moved; its batcher was not told yet.
pub const CURSOR_COMMITTED: &str = "cursor_committed";
/// A partition was claimed; nothing was read yet.
pub const CLAIMED: &str = "claimed";
/// The records of a claimed partition were read; nothing runs yet.
pub const RECORDS_READ: &str = "records_read";
/// Rows of a cut that was interrupted are being encoded again.
pub const RECUTTING: &str = "recutting";

/// All points, in the order of an event's way.
pub const ALL: [&str; 18] = [
    APPENDED,
    DISPATCHED,
    APPLIED,
    PUBLISHED,
    EVICTED,
    HYDRATING,
    BATCH_SENT,
    BATCH_COMMITTED,
    BEFORE_RECORD,
    RECORD_COMMITTED,
    ROWS_TAKEN,
    INTENT_COMMITTED,
    FILE_PUT,
    BEFORE_CURSOR,
    CURSOR_COMMITTED,
    CLAIMED,
    RECORDS_READ,
    RECUTTING,
];

/// The smallest batch that a checkpoint can be cut into: a state, its answer, and the record.
const BATCH_MIN: usize = 3;

static IS_ARMED: AtomicBool = AtomicBool::new(false);
static ARMED: OnceLock<Armed> = OnceLock::new();
static BATCH_MAX: OnceLock<usize> = OnceLock::new();

struct Armed {
    name: &'static str,
    /// Times that it may still be reached, the last one included.
    left: AtomicU64,
    freezes: bool,
}

/// Arms a point, `name:count` or `name:count:freeze`: the process ends, or stands still, when the point is reached for the
/// `count`-th time. Once per process.
pub fn arm(text: &str) -> Result<(), String> {
    let wrong = || {
        format!("{text:?} is not name:count or name:count:freeze with a count from 1 on and one of the names {ALL:?}")
    };
    let (name, count) = text.split_once(':').ok_or_else(wrong)?;
    let (count, freezes) = count.strip_suffix(":freeze").map_or((count, false), |count| (count, true));
    let name = ALL.into_iter().find(|known| *known == name).ok_or_else(wrong)?;
    let left = count.parse().ok().filter(|count| *count > 0).ok_or_else(wrong)?;
    ARMED
        .set(Armed { name, left: AtomicU64::new(left), freezes })
        .map_err(|_| "a fault point is armed already".to_owned())?;
    IS_ARMED.store(true, Ordering::Relaxed);
    Ok(())
}

/// The process has come to point `name`.
#[inline]
pub fn reached(name: &'static str) {
    if IS_ARMED.load(Ordering::Relaxed) {
        count_down(name);
    }
}

#[cold]
fn count_down(name: &'static str) {
    let Some(armed) = ARMED.get().filter(|armed| armed.name == name) else { return };
    if armed.left.fetch_sub(1, Ordering::Relaxed) != 1 {
        return; // wraps around after the last time, and then takes an eternity
    }
    if !armed.freezes {
        eprintln!("fault point {name} reached: the process ends itself");
        std::process::abort();
    }
    eprintln!("fault point {name} reached: the process stands still until SIGCONT");
    // This thread waits for a child that ends only after the process goes on; the others stop a moment later.
    if let Err(error) = Command::new("kill").arg("-STOP").arg(std::process::id().to_string()).status() {
        eprintln!("fault point {name}: {error}");
    }
}

/// Cuts checkpoints into batches of at most `entries`, so that few keys make many batches. Once per process.
pub fn limit_batches(entries: usize) {
    BATCH_MAX.get_or_init(|| entries.max(BATCH_MIN));
}

/// How many entries a batch may have where the store takes `store_max`.
pub fn batch_max(store_max: usize) -> usize {
    BATCH_MAX.get().map_or(store_max, |max| store_max.min(*max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_points_are_armed_and_others_pass() {
        for wrong in ["", "applied", "applied:", "applied:0", "applied:x", "applied:1:x", "nowhere:1"] {
            assert!(arm(wrong).is_err_and(|text| text.contains("batch_committed")), "{wrong}");
        }
        arm("applied:3").expect("the first one of this process");
        assert!(arm("applied:3").is_err());
        reached(DISPATCHED);
        reached(APPLIED);
        reached(APPLIED); // the third one would end this process
        assert_eq!(ARMED.get().map(|armed| armed.left.load(Ordering::Relaxed)), Some(1));
        assert_eq!(batch_max(4_096), 4_096);
        limit_batches(1);
        assert_eq!((batch_max(4_096), batch_max(2)), (BATCH_MIN, 2));
    }
}
