//! Whether this engine is ready, for reads and for events, and what is wrong with each partition.
//!
//! One answer for everybody who asks: `/readyz`, `/readyz/ingest` and gRPC's health. Reads go on from what is here while the
//! log is away, and say that they are stale, so only events wait for it. Pure; not here: how it is asked and told.

use std::sync::{Arc, atomic::Ordering};

use keyloom_actors::partition::status::Status;
use serde::Serialize;
use utoipa::ToSchema;

/// So often in a row the log must not have answered before events should go elsewhere: two seconds or more. One slow answer of
/// a busy broker must not send them all away.
const LOG_MISSES_MAX: u64 = 4;

/// What one may want of the engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// To read features, and anything else that needs no log.
    Read,
    /// To send events.
    Ingest,
}

/// Whether the engine is ready, and why not.
#[derive(Serialize, ToSchema)]
pub struct Ready {
    /// All checks hold.
    pub ready: bool,
    /// The engine as a whole, then each partition.
    pub checks: Vec<Check>,
}

/// One thing that must hold.
#[derive(Serialize, ToSchema)]
pub struct Check {
    /// Which.
    pub check: String,
    /// It holds.
    pub ok: bool,
    /// Why it does not.
    pub reason: Option<String>,
    /// All that is wrong, also what this use does not need: answers may be stale, or events late.
    pub troubles: Vec<String>,
}

/// Whether an engine with these partitions is ready for `use_`.
pub fn of(is_draining: bool, partitions: &[Arc<Status>], use_: Use) -> Ready {
    let reason = is_draining.then(|| "the engine is draining".to_owned());
    let engine = Check { check: "accepting".to_owned(), ok: !is_draining, reason, troubles: Vec::new() };
    let partitions = partitions.iter().enumerate().map(|(number, status)| partition(number, status, use_));
    let checks: Vec<Check> = std::iter::once(engine).chain(partitions).collect();
    Ready { ready: checks.iter().all(|check| check.ok), checks }
}

fn partition(number: usize, status: &Status, use_: Use) -> Check {
    let away = status.log_away().then(|| "the log does not answer".to_owned());
    let trouble = status.trouble();
    let reason = if !status.running.load(Ordering::Relaxed) {
        Some(trouble.clone().unwrap_or_else(|| "starting".to_owned()))
    } else if use_ == Use::Ingest {
        away.clone().filter(|_| status.log_misses.load(Ordering::Relaxed) >= LOG_MISSES_MAX)
    } else {
        None
    };
    let troubles = away.into_iter().chain(trouble).collect();
    Check { check: format!("partition {number}"), ok: reason.is_none(), reason, troubles }
}

#[cfg(test)]
mod tests {
    use keyloom_actors::partition::status::Trouble;

    use super::*;

    #[test]
    fn events_wait_for_the_log_and_reads_do_not() {
        let partitions: Vec<Arc<Status>> = vec![Arc::default(), Arc::default()];
        let ready = |is_draining| [Use::Read, Use::Ingest].map(|use_| of(is_draining, &partitions, use_).ready);
        partitions[0].running.store(true, Ordering::Relaxed);
        assert_eq!(ready(false), [false, false], "partition 1 starts");
        assert_eq!(of(false, &partitions, Use::Read).checks[2].reason.as_deref(), Some("starting"));
        partitions[1].running.store(true, Ordering::Relaxed);
        assert_eq!((ready(false), ready(true)), ([true, true], [false, false]));

        partitions[1].log_misses.store(1, Ordering::Relaxed);
        assert_eq!(ready(false), [true, true], "it may only be slow for a moment");
        partitions[1].log_misses.store(LOG_MISSES_MAX, Ordering::Relaxed);
        partitions[1].set_trouble(Trouble::Store, Some("no store".to_owned()));
        assert_eq!(ready(false), [true, false]);
        for (use_, reason) in [(Use::Read, None), (Use::Ingest, Some("the log does not answer"))] {
            let checks = of(false, &partitions, use_).checks;
            assert_eq!(checks[2].reason.as_deref(), reason);
            assert_eq!(
                (checks[1].troubles.len(), &checks[2].troubles[..]),
                (0, &["the log does not answer".to_owned(), "no store".to_owned()][..])
            );
        }
        partitions[1].log_misses.store(0, Ordering::Relaxed);
        assert_eq!(ready(false), [true, true], "a store that is away keeps no event out");
    }
}
