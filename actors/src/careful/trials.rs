//! Trials: the permission to try events in careful mode, one set of permits for a whole process, and the notes that a
//! committer keeps of them.
//!
//! While some partition of the process is careful, every turn of every partition needs a permit, so that nothing else can
//! kill the process while a suspect is tried alone. Otherwise a turn costs one look at a counter that nobody writes. Not
//! here: what follows from a death (`careful`).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Care, Subject, TRIED_EVENTS_MAX};

/// See the module. One per process.
pub struct Trials {
    careful: AtomicUsize,
    permits: Arc<Semaphore>,
}

impl Default for Trials {
    fn default() -> Self {
        Self { careful: AtomicUsize::new(0), permits: Arc::new(Semaphore::new(TRIED_EVENTS_MAX as usize)) }
    }
}

impl Trials {
    /// Whether turns need a permit.
    pub fn are_on(&self) -> bool {
        self.careful.load(Ordering::Relaxed) > 0
    }

    /// A permit for `events`; for all that there are when nothing else may run. First come, first served.
    pub async fn permit(&self, events: usize, alone: bool) -> OwnedSemaphorePermit {
        let permits = if alone { TRIED_EVENTS_MAX } else { (events as u32).clamp(1, TRIED_EVENTS_MAX) };
        let permit = Arc::clone(&self.permits).acquire_many_owned(permits).await;
        permit.expect("the semaphore is never closed")
    }
}

/// One partition is careful, for as long as this lives.
struct Careful(Arc<Trials>);

impl Careful {
    fn begin(trials: &Arc<Trials>) -> Self {
        trials.careful.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(trials))
    }
}

impl Drop for Careful {
    fn drop(&mut self) {
        self.0.careful.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a committer knows of its partition's trials. What sessions ask for while a batch is under way goes into the next one
/// together.
pub struct Notes {
    care: Care,
    careful: Option<Careful>,
    noted: Vec<oneshot::Sender<()>>,
    closed: Vec<OwnedSemaphorePermit>,
}

impl Notes {
    /// Of an owner that has begun with `care` at `progress`.
    pub fn new(care: Care, progress: u64, trials: &Arc<Trials>) -> Self {
        let careful = care.is_careful(progress).then(|| Careful::begin(trials));
        Self { care, careful, noted: Vec::new(), closed: Vec::new() }
    }

    /// Whether events are tried carefully.
    pub fn are_careful(&self) -> bool {
        self.careful.is_some()
    }

    /// Starts without progress so far.
    pub fn starts(&self) -> u32 {
        self.care.starts
    }

    /// Somebody waits to try this.
    pub fn open(&mut self, subject: &Subject, noted: oneshot::Sender<()>) {
        self.care.note(subject);
        self.noted.push(noted);
    }

    /// It was tried; the permit may go once the store knows.
    pub fn close(&mut self, subject: &Subject, permit: OwnedSemaphorePermit) {
        self.care.acquit(subject);
        self.closed.push(permit);
    }

    /// What the store does not know yet.
    pub fn due(&self) -> Option<&Care> {
        (!self.noted.is_empty() || !self.closed.is_empty()).then_some(&self.care)
    }

    /// The store knows all of it.
    pub fn written(&mut self) {
        for noted in self.noted.drain(..) {
            noted.send(()).ok(); // who is gone takes its note back by itself
        }
        self.closed.clear();
    }

    /// A checkpoint committed, and `progress` is the oldest event that it does not cover. True when careful mode ends here.
    pub fn progressed(&mut self, progress: u64) -> bool {
        if progress > self.care.progress {
            self.care.starts = 0; // for who looks; to a successor the progress says the same
        }
        !self.care.is_careful(progress) && self.careful.take().is_some()
    }

    /// This process ends in order: the record that says so, if any has to.
    pub fn drained(&mut self) -> Option<&Care> {
        self.care.end().then_some(&self.care)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_suspect_is_tried_when_nobody_else_is_and_notes_are_closed_before_others_go_on() {
        let trials = Arc::new(Trials::default());
        let care = Care { until: 9, progress: 1, starts: 3, ..Care::default() };
        let mut notes = Notes::new(care, 1, &trials);
        assert!(trials.are_on());
        let (noted, mut waits) = oneshot::channel();
        let permit = trials.permit(2, false).await;
        let subject = Subject::Events(vec![1, 2]);
        notes.open(&subject, noted);
        assert!(waits.try_recv().is_err(), "not before the store knows");
        assert_eq!(notes.due().map(|care| care.trying.len()), Some(2));
        notes.written();
        assert!(waits.try_recv().is_ok() && notes.due().is_none());
        notes.close(&subject, permit);
        let mut alone = std::pin::pin!(trials.permit(1, true));
        assert!(futures_util::poll!(&mut alone).is_pending(), "a note is open");
        assert_eq!(notes.due().map(|care| care.trying.len()), Some(0));
        notes.written();
        let held = alone.await;
        let mut another = std::pin::pin!(trials.permit(1, false));
        assert!(futures_util::poll!(&mut another).is_pending(), "a suspect is tried");
        drop(held);
        drop(another.await);
        assert!(!notes.progressed(9) && notes.progressed(10) && !notes.progressed(11));
        assert!(!trials.are_on() && notes.drained().is_none());
    }
}
