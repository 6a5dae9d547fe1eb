//! Readers of features that wait until they are shown what they have written themselves.
//!
//! Pure but for the wake-up itself. Nothing here costs anything per event, and one load of a number per batch while nobody
//! waits. A reader waits for a key and a sequence: until an answer of the key is published that has come so far, or until
//! the shard of the key says that nothing of it up to there is still to be shown.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::oneshot;

use crate::{
    key::{Key, KeyHash},
    partition::status::lock,
};

/// Readers of one partition that may wait at once; about 200 bytes each.
pub const READERS_MAX: usize = 4_096;

/// The readers of one partition that wait.
#[derive(Debug, Default)]
pub struct Readers {
    count: AtomicUsize,
    waiting: Mutex<HashMap<Key, Vec<Reader>, KeyHash>>,
}

#[derive(Debug)]
struct Reader {
    seq: u64,
    shown: oneshot::Sender<()>,
}

impl Readers {
    /// Waits for `key` to show everything up to `seq`; `None` when too many wait already. Who looks at the answer only
    /// after this misses nothing. Dropping what it returns ends the wait.
    pub fn wait(&self, key: &Key, seq: u64) -> Option<oneshot::Receiver<()>> {
        let mut waiting = lock(&self.waiting);
        if self.count.load(Ordering::Acquire) >= READERS_MAX {
            self.forget_gone(&mut waiting);
            if self.count.load(Ordering::Acquire) >= READERS_MAX {
                return None;
            }
        }
        let (shown, waits) = oneshot::channel();
        waiting.entry(key.clone()).or_default().push(Reader { seq, shown });
        self.count.fetch_add(1, Ordering::AcqRel);
        Some(waits)
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// These keys show everything up to these sequences.
    pub fn shown<'a>(&self, keys: impl Iterator<Item = (&'a Key, u64)>) {
        if self.is_empty() {
            return;
        }
        let mut waiting = lock(&self.waiting);
        for (key, seq) in keys {
            let Some(readers) = waiting.get_mut(key) else { continue };
            let (done, rest) = std::mem::take(readers).into_iter().partition(|reader| reader.seq <= seq);
            *readers = rest;
            let done: Vec<Reader> = done;
            self.count.fetch_sub(done.len(), Ordering::AcqRel);
            if readers.is_empty() {
                waiting.remove(key);
            }
            for reader in done {
                reader.shown.send(()).ok(); // it may have given up
            }
        }
    }

    /// What is waited for up to sequence `routed`: worth asking the shards about.
    pub fn asked(&self, routed: u64) -> Vec<(Key, u64)> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut waiting = lock(&self.waiting);
        self.forget_gone(&mut waiting);
        let furthest = |readers: &Vec<Reader>| readers.iter().map(|reader| reader.seq).filter(|s| *s <= routed).max();
        waiting.iter().filter_map(|(key, readers)| Some((key.clone(), furthest(readers)?))).collect()
    }

    fn forget_gone(&self, waiting: &mut HashMap<Key, Vec<Reader>, KeyHash>) {
        waiting.retain(|_, readers| {
            readers.retain(|reader| !reader.shown.is_closed());
            !readers.is_empty()
        });
        self.count.store(waiting.values().map(Vec::len).sum(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).expect("a key")
    }

    #[test]
    fn a_reader_is_told_when_its_key_has_come_so_far() {
        let readers = Readers::default();
        let (a, b) = (key("a"), key("b"));
        let mut early = readers.wait(&a, 5).expect("room");
        let mut late = readers.wait(&a, 9).expect("room");
        let mut other = readers.wait(&b, 5).expect("room");
        assert_eq!(readers.asked(4), []);
        readers.shown([(&a, 4)].into_iter());
        assert!(early.try_recv().is_err());
        readers.shown([(&a, 7)].into_iter());
        assert!(early.try_recv().is_ok() && late.try_recv().is_err() && other.try_recv().is_err());
        let mut asked = readers.asked(9);
        asked.sort();
        assert_eq!(asked, [(a.clone(), 9), (b.clone(), 5)]);
        readers.shown([(&b, 5), (&a, 9)].into_iter());
        assert!(late.try_recv().is_ok() && other.try_recv().is_ok());
        assert!(readers.is_empty());
    }

    #[test]
    fn those_who_gave_up_make_room() {
        let readers = Readers::default();
        let mut held: Vec<_> = (0..READERS_MAX).map(|_| readers.wait(&key("a"), 1).expect("room")).collect();
        assert!(readers.wait(&key("a"), 1).is_none());
        drop(held.pop());
        let again = readers.wait(&key("b"), 2);
        assert!(again.is_some() && readers.wait(&key("b"), 2).is_none());
        drop((held, again));
        assert_eq!(readers.asked(9), []);
        assert!(readers.is_empty());
    }
}
