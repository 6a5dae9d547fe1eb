//! Credit: what bounds all events in flight. No credit, no pull.
//!
//! A batch owns its credit and gives it back when the last holder drops it, whatever way that happens.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One unit of credit is this many bytes, so that the counters of a semaphore reach far enough.
const UNIT: usize = 1024;

/// The bytes that may be in flight in one partition.
#[derive(Clone)]
pub struct Credit {
    semaphore: Arc<Semaphore>,
    units_max: usize,
}

/// The share of one batch; dropping it gives the credit back.
#[derive(Debug)]
pub struct CreditGuard {
    _permit: OwnedSemaphorePermit,
}

impl Credit {
    /// Credit for `bytes_max` bytes, at least one unit.
    pub fn new(bytes_max: u64) -> Self {
        let units_max = usize::try_from(bytes_max / UNIT as u64).unwrap_or(usize::MAX).clamp(1, u32::MAX as usize);
        Self { semaphore: Arc::new(Semaphore::new(units_max)), units_max }
    }

    /// Waits until `bytes` are free. A batch larger than everything takes everything: it must still pass, alone.
    pub async fn take(&self, bytes: usize) -> CreditGuard {
        let units = bytes.div_ceil(UNIT).clamp(1, self.units_max);
        let permit = Arc::clone(&self.semaphore).acquire_many_owned(units as u32).await;
        CreditGuard { _permit: permit.expect("the semaphore is never closed") }
    }

    /// Bytes in flight now.
    pub fn in_flight(&self) -> u64 {
        ((self.units_max - self.semaphore.available_permits()) * UNIT) as u64
    }

    /// The limit, in bytes.
    pub fn limit(&self) -> u64 {
        (self.units_max * UNIT) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_credit_no_progress_until_the_last_holder_drops() {
        let credit = Credit::new(10 * 1024);
        let held = Arc::new(credit.take(8 * 1024).await);
        let second_holder = Arc::clone(&held);
        assert_eq!(credit.in_flight(), 8 * 1024);
        let wait = std::time::Duration::from_secs(3600);
        assert!(tokio::time::timeout(wait, credit.take(4 * 1024)).await.is_err());
        drop(held);
        assert!(tokio::time::timeout(wait, credit.take(4 * 1024)).await.is_err());
        drop(second_holder);
        let oversized = credit.take(1 << 30).await;
        assert_eq!(credit.in_flight(), credit.limit());
        drop(oversized);
        assert_eq!(credit.in_flight(), 0);
    }
}
