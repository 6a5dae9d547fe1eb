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
    /// Where what comes in takes room as well.
    share: Option<Arc<Semaphore>>,
}

/// What one request holds; dropping it gives the bytes back, whatever way the request ends.
#[derive(Debug)]
pub struct Hold {
    gate: Gate,
    permit: Option<OwnedSemaphorePermit>,
    of_share: Option<OwnedSemaphorePermit>,
}

impl Gate {
    /// The front door's gate, for `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self::telling(bytes_max, observe::in_flight)
    }

    /// A gate for `bytes_max` bytes that tells how many are inside, whenever that changes.
    pub fn telling(bytes_max: usize, tell: fn(usize)) -> Self {
        let bytes_max = bytes_max.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self { free: Arc::new(Semaphore::new(bytes_max)), bytes_max, tell, share: None }
    }

    /// The same gate for those who may have `bytes_max` bytes of it together and no more, so that they cannot shut the others
    /// out.
    #[must_use]
    pub fn with_share(&self, bytes_max: usize) -> Self {
        Self { share: Some(Arc::new(Semaphore::new(bytes_max.min(self.bytes_max)))), ..self.clone() }
    }

    /// Lets `bytes` in, or says that there is no room now.
    pub fn enter(&self, bytes: usize) -> Result<Hold, Refusal> {
        let mut hold = Hold { gate: self.clone(), permit: None, of_share: None };
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
        let take = |room: &Arc<Semaphore>| Arc::clone(room).try_acquire_many_owned(count).map_err(|_| Refusal::Busy);
        let of_share = self.gate.share.as_ref().map(take).transpose()?;
        let more = take(&self.gate.free)?;
        add(&mut self.permit, more);
        if let Some(more) = of_share {
            add(&mut self.of_share, more);
        }
        self.gate.told();
        Ok(())
    }

    /// Takes `bytes` out of it, which are given back with what this answers; nothing where it holds fewer.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Self {
        let split = |permit: &mut Option<OwnedSemaphorePermit>| permit.as_mut().and_then(|permit| permit.split(bytes));
        Self { gate: self.gate.clone(), permit: split(&mut self.permit), of_share: split(&mut self.of_share) }
    }

    /// Gives `bytes` back early.
    pub fn shrink(&mut self, bytes: usize) {
        drop(self.split(bytes));
    }
}

fn add(permit: &mut Option<OwnedSemaphorePermit>, more: OwnedSemaphorePermit) {
    match permit {
        Some(permit) => permit.merge(more),
        None => *permit = Some(more),
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        drop((self.permit.take(), self.of_share.take()));
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

    #[test]
    fn those_who_share_leave_room_for_the_others() {
        let gate = Gate::new(100);
        let shared = gate.with_share(50);
        let mut hold = shared.enter(30).expect("room");
        assert!(matches!(hold.grow(21), Err(Refusal::Busy)));
        hold.grow(20).expect("half");
        assert!(matches!(shared.clone().enter(1), Err(Refusal::Busy)));
        assert_eq!(gate.in_flight(), 50);
        drop(gate.enter(50).expect("the other half"));
        drop(hold.split(25));
        hold.shrink(5);
        assert_eq!(gate.in_flight(), 20);
        let rest = gate.enter(70).expect("room");
        assert!(matches!(shared.enter(11), Err(Refusal::Busy)), "what the gate has not, nobody gets");
        drop((rest, hold));
        assert_eq!(gate.in_flight(), 0);
        drop(shared.enter(50).expect("all of it is back"));
    }
}
