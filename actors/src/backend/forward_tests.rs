//! Histories of one partition, its store and its backend: kills, zombies, calls that are lost or late, a backend that
//! forgets, a machine that loses power. At the end the backend has what the store has.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const KEYS: u64 = 5;
const PLACE: &str = "a place";

fn key(at: u64) -> Key {
    Key::new(&format!("k{at}")).expect("a key")
}

/// An answer of `key` at `seq`; `what` tells it from another one at the same sequence.
fn answer(key: &Key, seq: u64, what: u64) -> Bytes {
    let head = answer::Head { key, partition: 3, event_time: Timestamp(seq as i64), seq };
    answer::write(head, |features| features.set("what", &what), None)
}

fn start(stored: Option<Progress>) -> Start {
    let place = PLACE.to_owned();
    Start { partition: 3, epoch: 1, place, stored, checkpoint: 0, cut: 0, log_last: 0, bytes_max: 1 << 20 }
}

#[derive(Clone, Default)]
struct Backend {
    mark: Option<Mark>,
    answers: BTreeMap<Key, Put>,
}

impl Backend {
    fn put(&mut self, call: &Call) -> Option<Vec<Outcome>> {
        if self.mark != call.from && self.mark != Some(call.to) {
            return None;
        }
        self.mark = Some(call.to);
        let put = |put: &Put| match self.answers.get(&put.key) {
            Some(held) if held.version > put.version => Outcome::Older(held.version),
            _ => {
                self.answers.insert(put.key.clone(), put.clone());
                Outcome::Written
            }
        };
        Some(call.puts.iter().map(put).collect())
    }
}

#[derive(Clone, Default)]
struct Store {
    features: BTreeMap<Key, Bytes>,
    progress: Option<Progress>,
    checkpoint: u64,
    cut: u64,
}

impl Store {
    fn page(&self, after: Option<&Bytes>, limit: usize) -> FeaturePage {
        let behind = |key: &Key| after.is_none_or(|after| key.as_str().as_bytes() > &after[..]);
        let rest = self.features.iter().filter(|(key, _)| behind(key));
        let answers: Vec<_> = rest.take(limit).map(|(key, answer)| (key.clone(), answer.clone())).collect();
        let last = answers.last().filter(|_| answers.len() == limit);
        let next = last.map(|(key, _)| Bytes::copy_from_slice(key.as_str().as_bytes()));
        FeaturePage { answers, next }
    }
}

struct World {
    /// The key of each event.
    log: Vec<u64>,
    store: Store,
    /// As it was at the last checkpoint, when all was on disk.
    on_disk: Store,
    backend: Backend,
    snapshots: Vec<Backend>,
    epoch: u64,
    now: Timestamp,
    bytes_max: u64,
    what: u64,
    forward: Forward,
    zombies: Vec<Forward>,
    late: Vec<Call>,
    /// On its way to the store.
    noting: Option<Progress>,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Fine,
    Lost,
    AnswerLost,
    Late,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Event(u64),
    /// The session of this key starts again and says another answer at the same sequence.
    Again(u64),
    Checkpoint,
    TakeNote,
    Note,
    Step(Fate),
    OfZombie(Fate),
    Arrive(usize),
    Snapshot,
    Forget(usize),
    Crash {
        keeps_zombie: bool,
    },
    PowerLoss {
        of_log: bool,
    },
}

impl World {
    fn new(bytes_max: u64) -> Self {
        let forward = Forward::new(Start { bytes_max, ..start(None) });
        let (store, on_disk, backend) = Default::default();
        let now = Timestamp(1_000_000);
        let (log, snapshots, zombies, late) = Default::default();
        let (epoch, what, noting) = (1, 0, None);
        Self { log, store, on_disk, backend, snapshots, epoch, now, bytes_max, what, forward, zombies, late, noting }
    }

    fn publish(&mut self, at: u64, seq: u64) {
        self.what += 1;
        let (key, answer) = (key(at), answer(&key(at), seq, self.what));
        self.store.features.insert(key.clone(), answer.clone());
        self.forward.published(&key, seq, &answer, self.now);
    }

    fn claim(&mut self) {
        self.epoch += 1;
        self.noting = None;
        let Store { progress, checkpoint, cut, .. } = self.store.clone();
        let (epoch, log_last, bytes_max) = (self.epoch, self.log.len() as u64, self.bytes_max);
        let forward = Forward::new(Start { epoch, checkpoint, cut, log_last, bytes_max, ..start(progress) });
        self.zombies.push(std::mem::replace(&mut self.forward, forward));
        let behind: HashMap<u64, u64> = (cut..log_last).map(|at| (self.log[at as usize], at + 1)).collect();
        let mut behind: Vec<_> = behind.into_iter().collect();
        behind.sort_unstable();
        behind.into_iter().for_each(|(key, seq)| self.publish(key, seq));
    }

    fn step(&mut self, zombie: bool, fate: Fate) {
        let last = self.zombies.len();
        let forward = if !zombie {
            &mut self.forward
        } else if last > 0 {
            &mut self.zombies[last - 1]
        } else {
            return;
        };
        match (forward.work(), fate) {
            (Work::Rest, _) => forward.beat(self.now),
            (_, Fate::Lost) => {}
            (Work::Put(call), Fate::Late) => self.late.push(call),
            (Work::Ask, _) => drop(forward.begin(self.backend.mark, self.now)),
            (Work::Read(after), _) => forward.read(self.store.page(after.as_ref(), 2)),
            (Work::Put(call), fate) => match (self.backend.put(&call), fate) {
                (_, Fate::AnswerLost) => {}
                (Some(outcomes), _) => forward.put(&outcomes, self.now),
                (None, _) => forward.moved(self.now),
            },
        }
    }

    fn note(&mut self) {
        if let Some(progress) = self.noting.take() {
            self.store.progress = Some(progress.clone());
            if progress.complete.is_none() {
                self.on_disk.progress = Some(progress.clone()); // written durably
            }
            self.forward.noted(progress);
        }
    }

    fn apply(&mut self, op: Op) {
        self.now.0 += SECOND;
        match op {
            Op::Event(at) => {
                self.log.push(at);
                self.publish(at, self.log.len() as u64);
            }
            Op::Again(at) => {
                // Only behind the cut: what is in a checkpoint is not applied again.
                let last = self.log.iter().rposition(|key| *key == at).filter(|last| *last as u64 >= self.store.cut);
                last.into_iter().for_each(|last| self.publish(at, last as u64 + 1));
            }
            Op::Checkpoint => {
                (self.store.checkpoint, self.store.cut) = (self.store.checkpoint + 1, self.log.len() as u64);
                self.on_disk = self.store.clone();
                self.forward.checkpointed(self.store.checkpoint, self.store.cut);
            }
            Op::TakeNote if self.noting.is_none() => self.noting = self.forward.due().cloned(),
            Op::TakeNote => {}
            Op::Note => self.note(),
            Op::Step(fate) => self.step(false, fate),
            Op::OfZombie(fate) => self.step(true, fate),
            Op::Arrive(at) if !self.late.is_empty() => {
                let call = self.late.remove(at % self.late.len());
                self.backend.put(&call);
            }
            Op::Arrive(_) => {}
            Op::Snapshot => self.snapshots.push(self.backend.clone()),
            Op::Forget(at) => {
                let kept = if self.snapshots.is_empty() { 0 } else { at % (self.snapshots.len() + 1) };
                self.snapshots.truncate(kept);
                self.backend = self.snapshots.last().cloned().unwrap_or_default();
            }
            Op::Crash { keeps_zombie } => {
                self.claim();
                if !keeps_zombie {
                    self.zombies.clear();
                }
            }
            Op::PowerLoss { of_log } => {
                self.store = self.on_disk.clone();
                if of_log {
                    self.log.truncate(self.store.cut as usize);
                    // A call of before, still on its way, would bring answers that nothing else remembers: where a log
                    // loses what it has acknowledged, there is no telling them from later ones.
                    self.late.clear();
                }
                self.claim();
                self.zombies.clear();
                if of_log {
                    // A log that loses what it has acknowledged is noticed if the backend answers before new events have
                    // taken the place of the lost ones.
                    self.step(false, Fate::Fine);
                    self.apply(Op::TakeNote);
                    self.note();
                }
            }
        }
    }

    fn rest(&mut self) {
        for round in 0..500 {
            self.apply(Op::TakeNote);
            self.note();
            self.step(false, Fate::Fine);
            if round < 50 {
                self.step(true, Fate::Fine); // its next batch is refused, and then it ends
            }
            self.apply(Op::Arrive(0));
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let fate = || {
        let bad = prop_oneof![Just(Fate::Lost), Just(Fate::AnswerLost), Just(Fate::Late)];
        prop_oneof![6 => Just(Fate::Fine), 1 => bad]
    };
    prop_oneof![
        8 => (0..KEYS).prop_map(Op::Event),
        2 => (0..KEYS).prop_map(Op::Again),
        2 => Just(Op::Checkpoint),
        4 => Just(Op::TakeNote),
        4 => Just(Op::Note),
        12 => fate().prop_map(Op::Step),
        2 => fate().prop_map(Op::OfZombie),
        2 => (0usize..5).prop_map(Op::Arrive),
        1 => Just(Op::Snapshot),
        1 => (0usize..5).prop_map(Op::Forget),
        1 => any::<bool>().prop_map(|keeps_zombie| Op::Crash { keeps_zombie }),
        1 => any::<bool>().prop_map(|of_log| Op::PowerLoss { of_log }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn whatever_happens_the_backend_comes_to_have_what_the_store_has(
        ops in proptest::collection::vec(op(), 0..120),
        bytes_max in prop_oneof![Just(1_000), Just(u64::MAX)],
    ) {
        let mut world = World::new(bytes_max);
        for op in ops {
            world.apply(op);
            prop_assert!(world.forward.bytes <= bytes_max.saturating_add(1_000));
            let seqs: Vec<u64> = world.forward.waiting.values().map(|w| w.seq).collect();
            let in_call = world.forward.call.iter().filter(|c| c.published).flat_map(|c| &c.puts).map(|p| p.version.seq);
            let owed = seqs.into_iter().chain(in_call).filter(|seq| *seq <= world.forward.cut).count();
            prop_assert_eq!(world.forward.owed, owed);
        }
        world.rest();
        prop_assert!(world.forward.is_complete(), "{:?}", world.forward.phase);
        prop_assert_eq!(world.forward.behind_since(), None);
        let has: BTreeMap<_, _> = world.backend.answers.into_iter().map(|(key, put)| (key, put.answer)).collect();
        // What a lost log had, and nobody has any more, may be left.
        let has: BTreeMap<_, _> = has.into_iter().filter(|(key, _)| world.store.features.contains_key(key)).collect();
        prop_assert_eq!(has, world.store.features);
    }
}

/// A partition that has nothing, up to where its first answers can go out.
fn begun() -> Forward {
    let mut forward = Forward::new(start(None));
    assert_eq!(forward.work(), Work::Ask);
    forward.begin(None, Timestamp(7)).expect("nobody is there");
    assert_eq!(forward.work(), Work::Rest, "the store is to know it first");
    let due = forward.due().cloned().expect("a record");
    assert_eq!((due.complete, due.generation), (None, 7));
    forward.noted(due);
    assert_eq!(forward.work(), Work::Read(None));
    forward.read(FeaturePage::default());
    assert_eq!((forward.work(), forward.behind_since()), (Work::Rest, None));
    forward
}

#[test]
fn the_newest_answer_of_a_key_goes_and_one_call_is_under_way() {
    let mut forward = begun();
    for seq in 1..=3 {
        forward.published(&key(1), seq, &answer(&key(1), seq, seq), Timestamp(10));
    }
    let Work::Put(call) = forward.work() else { panic!("there is something to put") };
    assert_eq!(call.puts.iter().map(|put| put.version.seq).collect::<Vec<_>>(), [3]);
    forward.published(&key(1), 4, &answer(&key(1), 4, 4), Timestamp(20));
    assert_eq!(forward.work(), Work::Put(call.clone()), "until it is answered it is the same");
    assert_eq!((forward.waiting(), forward.behind_since()), (2, Some(Timestamp(10))));
    forward.put(&[Outcome::Failed("throttled".to_owned())], Timestamp(30));
    let Work::Put(again) = forward.work() else { panic!("it is tried again") };
    assert_eq!((again.puts, again.from), (call.puts, Some(call.to)));
    forward.put(&[Outcome::Written], Timestamp(40));
    assert!(matches!(forward.work(), Work::Put(call) if call.puts[0].version.seq == 4));
}

#[test]
fn a_checkpoint_is_complete_when_nothing_up_to_its_cut_is_outstanding() {
    let mut forward = begun();
    forward.published(&key(1), 5, &answer(&key(1), 5, 5), Timestamp(10));
    forward.published(&key(2), 9, &answer(&key(2), 9, 9), Timestamp(10));
    forward.checkpointed(1, 5);
    assert_eq!(forward.due().and_then(|due| due.complete), Some(0), "of the start, nothing is outstanding");
    // Behind the cut now: whoever starts from the checkpoint publishes it again.
    forward.published(&key(1), 10, &answer(&key(1), 10, 10), Timestamp(11));
    assert_eq!(forward.due().and_then(|due| due.complete), Some(0));
    assert!(matches!(forward.work(), Work::Put(_)));
    forward.put(&[Outcome::Failed(String::new()), Outcome::Failed(String::new())], Timestamp(12));
    assert_eq!(forward.due().and_then(|due| due.complete), Some(1));
}

#[test]
fn what_is_on_its_way_to_the_store_cannot_say_that_all_is_well_when_it_is_not() {
    let mut forward = begun();
    let complete = forward.due().cloned().expect("the resync is done");
    assert_eq!(complete.complete, Some(0));
    // The committer writes it now; meanwhile the backend has lost what it had.
    forward.moved(Timestamp(20));
    forward.begin(None, Timestamp(21)).expect("nobody is there");
    assert_eq!(forward.work(), Work::Rest, "no mark may move while the store is about to say that it is complete");
    forward.noted(complete);
    assert_eq!(forward.work(), Work::Rest);
    let due = forward.due().cloned().expect("a record");
    assert_eq!(due.complete, None);
    forward.noted(due);
    assert_eq!(forward.work(), Work::Read(None));
}

#[test]
fn answers_of_a_later_generation_are_outdone_when_nobody_claims_them() {
    let mut forward = begun();
    forward.published(&key(1), 5, &answer(&key(1), 5, 5), Timestamp(10));
    assert!(matches!(forward.work(), Work::Put(_)));
    forward.put(&[Outcome::Older(Version { generation: 99, ..Version::default() })], Timestamp(11));
    assert_eq!(forward.work(), Work::Ask);
    forward.begin(None, Timestamp(12)).expect("nobody is there");
    assert_eq!(forward.due().map(|due| (due.generation, due.complete)), Some((100, None)));
}

#[test]
fn with_another_ttl_everything_is_put_again_at_once() {
    let generation = 50;
    let stored = Progress { place: "with another ttl".to_owned(), generation, complete: Some(0), mark: None };
    let mut forward = Forward::new(start(Some(stored)));
    forward.begin(Some(Mark { generation, epoch: 1, count: 1, seq: 0 }), Timestamp(SECOND)).expect("it is ours");
    let due = forward.due().cloned().expect("a record");
    assert_eq!((due.place.as_str(), due.complete), (PLACE, None));
    assert!(due.generation > generation, "or what is there would be as late as what is put");
    forward.noted(due);
    assert_eq!((forward.work(), forward.resyncs()), (Work::Read(None), 1));
}

#[test]
fn a_living_engine_of_another_store_is_left_alone_and_a_silent_one_is_replaced() {
    let mut forward = Forward::new(start(None));
    let other = |count| Some(Mark { generation: 50, epoch: 9, count, seq: 1_000 });
    let mut now = Timestamp(SECOND);
    for count in 0..10 {
        let refused = forward.begin(other(count), now).expect_err("it lives");
        assert!(refused.contains(PLACE) && refused.contains("prefix"), "{refused}");
        now.0 += SILENCE - 1;
    }
    now.0 += SILENCE;
    forward.begin(other(9), now).expect("it is silent");
    assert!(forward.due().expect("a record").generation > 50);
}
