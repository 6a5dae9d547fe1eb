//! The bytes of all requests being worked on, and the limit on them: beyond it a request is turned away, not queued. The
//! front door has one for events; questions about features have their own.
//!
//! Counts body bytes, packed and unpacked. The records made of a body are slices of it; with their bookkeeping tiny events
//! take a small multiple of what is counted here.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{observe, refusal::Refusal};

/// The gate that all requests pass.
#[derive(Clone, Debug)]
pub struct Gate {
    free: Arc<Semaphore>,
    bytes_max: usize,
    tell: fn(usize),
}

/// What one request holds; dropping it gives the bytes back, whatever way the request ends.
#[derive(Debug)]
pub struct Hold {
    gate: Gate,
    permit: Option<OwnedSemaphorePermit>,
}

impl Gate {
    /// The front door's gate, for `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self::telling(bytes_max, observe::in_flight)
    }

    /// A gate for `bytes_max` bytes that tells how many are inside, whenever that changes.
    pub fn telling(bytes_max: usize, tell: fn(usize)) -> Self {
        let bytes_max = bytes_max.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self { free: Arc::new(Semaphore::new(bytes_max)), bytes_max, tell }
    }

    /// Lets `bytes` in, or says that there is no room now.
    pub fn enter(&self, bytes: usize) -> Result<Hold, Refusal> {
        let mut hold = Hold { gate: self.clone(), permit: None };
        hold.grow(bytes)?;
        Ok(hold)
    }

    /// Bytes inside now.
    pub fn in_flight(&self) -> usize {
        self.bytes_max - self.free.available_permits()
    }

    fn told(&self) {
        (self.tell)(self.in_flight());
    }
}

impl Hold {
    /// Adds `bytes`, or says that there is no room now.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let count = u32::try_from(bytes).map_err(|_| Refusal::Busy)?;
        let more = Arc::clone(&self.gate.free).try_acquire_many_owned(count).map_err(|_| Refusal::Busy)?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        self.gate.told();
        Ok(())
    }

    /// Takes `bytes` out of it, which are given back with what this answers; nothing where it holds fewer.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Self {
        let permit = self.permit.as_mut().and_then(|permit| permit.split(bytes));
        Self { gate: self.gate.clone(), permit }
    }

    /// Gives `bytes` back early.
    pub fn shrink(&mut self, bytes: usize) {
        drop(self.permit.as_mut().and_then(|permit| permit.split(bytes)));
        self.gate.told();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.gate.told();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_goes_out() {
        let gate = Gate::new(100);
        let mut hold = gate.enter(60).expect("room");
        assert!(matches!(gate.enter(41), Err(Refusal::Busy)));
        hold.grow(40).expect("exactly full");
        assert!(matches!(hold.grow(1), Err(Refusal::Busy)));
        hold.shrink(30);
        assert_eq!(gate.in_flight(), 70);
        let part = hold.split(50);
        drop(hold);
        assert_eq!(gate.in_flight(), 50, "what was split off stays");
        drop(part);
        assert_eq!(gate.in_flight(), 0);
        assert!(matches!(gate.enter(usize::MAX), Err(Refusal::Busy)));
    }
}
