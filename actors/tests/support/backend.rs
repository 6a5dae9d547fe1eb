//! A feature backend in memory: it may be stopped, lose calls and answers, get calls late, and forget what it had.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use keyloom_actors::{
    backend::{BackendError, FeatureBackend, Mark, Outcome, Put},
    key::Key,
    ports::RecordKey,
};

use super::{
    gate::{Gate, Step},
    lock,
    weather::Fate,
    world::{Answer, Ports, World},
};

/// See the module.
#[derive(Default)]
pub struct Backend {
    pub gate: Gate,
    held: Mutex<Held>,
    /// What it comes back with after it was killed.
    on_disk: Mutex<Held>,
    puts: AtomicUsize,
}

#[derive(Clone, Default)]
struct Held {
    mark: Option<Mark>,
    puts: BTreeMap<Key, Put>,
}

impl Backend {
    /// Now everything is on its disk.
    pub fn save(&self) {
        *lock(&self.on_disk) = lock(&self.held).clone();
    }

    /// It is killed and comes back with what it saved.
    pub fn kill(&self) {
        *lock(&self.held) = lock(&self.on_disk).clone();
    }

    /// How far it has come.
    pub fn mark(&self) -> Option<Mark> {
        lock(&self.held).mark
    }

    /// Answers that were put so far, again and again included.
    pub fn puts(&self) -> usize {
        self.puts.load(Ordering::Relaxed)
    }

    /// The answer of a key.
    pub fn answer(&self, key: &str) -> Option<Answer> {
        lock(&self.held).puts.get(&Key::new(key).expect("a key")).map(|put| Answer::parse(&put.answer))
    }

    fn put_now(&self, world: &World, puts: &[Put], from: Option<Mark>, to: Mark) -> Result<Vec<Outcome>, BackendError> {
        let mut held = lock(&self.held);
        if held.mark != from && held.mark != Some(to) {
            return Err(BackendError::Moved);
        }
        held.mark = Some(to);
        self.puts.fetch_add(puts.len(), Ordering::Relaxed);
        let put = |put: &Put| {
            let seq = Answer::parse(&put.answer).seq;
            if seq != put.version.seq {
                world.violated(format!("an answer of {seq} is put as {put:?}"));
            }
            match held.puts.get(&put.key) {
                Some(later) if later.version > put.version => Outcome::Older(later.version),
                _ => {
                    held.puts.insert(put.key.clone(), put.clone());
                    Outcome::Written
                }
            }
        };
        Ok(puts.iter().map(put).collect())
    }
}

impl World {
    /// The first key whose answer in the backend is not that of the store.
    pub fn lacks_in_backend(&self) -> Option<String> {
        let features = self.names().into_iter().filter_map(|name| match name {
            RecordKey::Feature(key) => Some(key),
            _ => None,
        });
        let said = |answer: Answer| (answer.seq, answer.tally);
        features.into_iter().find_map(|key| {
            let (wanted, found) = (self.feature(key.as_str()).map(said), self.backend.answer(key.as_str()).map(said));
            (wanted != found).then(|| format!("the backend has {found:?} of {key} instead of {wanted:?}"))
        })
    }
}

#[async_trait]
impl FeatureBackend for Ports {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    async fn mark(&self, _: u32) -> Result<Option<Mark>, BackendError> {
        self.life.breathe().await;
        self.world.backend.gate.pass().await.map_err(BackendError::Unavailable)?;
        let fate = self.world.weather.call().await;
        self.life.breathe().await;
        match fate {
            Fate::Fine => Ok(self.world.backend.mark()),
            _ => Err(BackendError::Unavailable("the network".to_owned())),
        }
    }

    async fn put(&self, _: u32, puts: &[Put], from: Option<Mark>, to: Mark) -> Result<Vec<Outcome>, BackendError> {
        self.life.breathe().await;
        self.world.backend.gate.pass().await.map_err(BackendError::Unavailable)?;
        let lost = || Err(BackendError::Unavailable("the network".to_owned()));
        let fate = self.world.weather.call().await;
        self.life.step(Step::Forward).await;
        let outcomes = match fate {
            Fate::Lost => return lost(),
            Fate::Fine | Fate::AnswerLost => self.world.backend.put_now(&self.world, puts, from, to),
            Fate::Late(delay) => {
                // It has left the machine: it arrives, whatever becomes of who sent it.
                let (world, puts) = (Arc::clone(&self.world), puts.to_vec());
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    world.backend.put_now(&world, &puts, from, to).ok(); // nobody hears what becomes of it
                });
                return lost();
            }
        };
        self.life.step(Step::Forwarded).await;
        if fate == Fate::AnswerLost { lost() } else { outcomes }
    }
}
