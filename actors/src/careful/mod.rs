//! Careful mode: what a partition's store remembers of starts that came to nothing, and which events, or stored states that
//! were read, are suspected of it.
//!
//! Pure: decides from records. A process that is killed by an event cannot say so, so its successors have to find out: they
//! count starts without progress, and after a few of them note every event in the store before it is tried. Not here: who
//! waits for the note (`trials`, `session`), who writes it (`committer`), its bytes (`record`).

pub mod trials;
pub mod watchdog;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    dead_letter::Reason,
    key::Key,
    partition::router::{PULL_EVENTS_MAX, UNCOMMITTED_EVENTS_MAX},
};

/// Starts of a process at the same oldest unprocessed event, this one included, from which on events are tried carefully.
pub const CAREFUL_AFTER_STARTS: u32 = 3;
/// Deaths of the process while an event was tried alone, after which the event is given up.
pub const LONE_DEATHS_MAX: u32 = 2;
/// Events of one process that may be tried at the same time in careful mode. More of them share the two commits that a
/// trial costs; after a death all of them are suspects, and suspects are tried one by one.
pub const TRIED_EVENTS_MAX: u32 = 256;
/// Events of one key in one trial: what [`TRIED_EVENTS_MAX`] allows is shared by several keys.
pub const TRIAL_EVENTS_MAX: usize = 32;
/// Suspects that the record holds, about 10 bytes each.
const SUSPECTS_MAX: usize = 4_096;
/// Keys whose stored states the record holds something against. With more of them, starts find out again.
const STATES_MAX: usize = 256;
/// How far behind its cut a process may have come, at most.
const REACH_EVENTS_MAX: u64 = UNCOMMITTED_EVENTS_MAX + PULL_EVENTS_MAX as u64;

/// What the store knows: one small record for each partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Care {
    /// Epoch of the owner that wrote it.
    pub epoch: u64,
    /// Starts of a process, since the last orderly end, that found the same progress.
    pub starts: u32,
    /// The oldest event that was not processed at the last start.
    pub progress: u64,
    /// Everything up to this sequence is tried carefully: dead processes may have come as far.
    pub until: u64,
    /// Events being tried in careful mode.
    pub trying: BTreeSet<u64>,
    /// Events that were being tried when a process died, or that a process did not come back from.
    pub suspects: BTreeMap<u64, Suspect>,
    /// Keys whose stored state is being read in careful mode.
    #[serde(default)]
    pub reading: BTreeSet<String>,
    /// Keys whose stored state was being read when a process died, and how many died while nothing else was tried.
    #[serde(default)]
    pub states: BTreeMap<String, u32>,
}

/// What a process may die of.
#[derive(Clone, Debug)]
pub enum Subject {
    /// Processing these events of one key.
    Events(Vec<u64>),
    /// Reading the stored state of a key.
    State(Key),
}

/// What is known against an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// Deaths while it was tried alone.
    pub deaths: u32,
    /// The watchdog saw that its handler did not come back from it.
    pub stuck: bool,
}

/// What an owner finds when it has claimed a partition.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Its epoch ...
    pub epoch: u64,
    /// ... and the first one that the same process claimed: actors that start again inside of it are no start.
    pub first_epoch: u64,
    /// The oldest event that is not processed, lagging keys included; the end of the log and one when all are.
    pub progress: u64,
    /// The checkpoint's cut.
    pub cut: u64,
    /// The end of the log.
    pub log_last: u64,
}

/// What sessions must know of suspects. Does not change while an owner runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Events that are given up without another try: why, and after how many deaths.
    pub condemned: BTreeMap<u64, (Reason, u32)>,
    /// Events that are tried alone.
    pub suspects: BTreeSet<u64>,
    /// Keys whose stored state is not read, and the deaths that it cost.
    pub unreadable: BTreeMap<String, u32>,
    /// Keys whose stored state is read when nothing else is tried.
    pub suspect_states: BTreeSet<String>,
}

impl Care {
    /// What the record becomes with this start.
    pub fn begin(before: Option<&Self>, start: &Start) -> Self {
        let mut care = before.cloned().unwrap_or_default();
        if care.epoch < start.first_epoch {
            care.starts = match () {
                () if start.progress > start.log_last => 0, // there was nothing that could have killed anybody
                () if start.progress == care.progress => care.starts.saturating_add(1),
                () => 1,
            };
            care.progress = start.progress;
            care.accuse();
        }
        // Another owner of the same process: it did not die, so what it was trying is innocent.
        care.trying.clear();
        care.reading.clear();
        care.suspects.retain(|seq, _| *seq >= start.progress);
        while care.suspects.len() > SUSPECTS_MAX {
            care.suspects.pop_last();
        }
        if care.starts >= CAREFUL_AFTER_STARTS {
            care.until = care.until.max(start.log_last.min(start.cut.saturating_add(REACH_EVENTS_MAX)));
        }
        if !care.is_careful(start.progress) {
            care.states.retain(|_, deaths| *deaths >= LONE_DEATHS_MAX); // what asked for the others has been processed
        }
        while care.states.len() > STATES_MAX {
            care.states.pop_last();
        }
        care.epoch = start.epoch;
        care
    }

    /// A process died over what it was trying. The first time an event may have been tried in company, so that it is only
    /// suspected; from then on it was tried alone.
    fn accuse(&mut self) {
        for seq in std::mem::take(&mut self.trying) {
            self.suspects.entry(seq).and_modify(|suspect| suspect.deaths += 1).or_default();
        }
        for key in std::mem::take(&mut self.reading) {
            self.states.entry(key).and_modify(|deaths| *deaths += 1).or_default();
        }
    }

    /// This is about to be tried.
    pub fn note(&mut self, subject: &Subject) {
        match subject {
            Subject::Events(seqs) => self.trying.extend(seqs),
            Subject::State(key) => drop(self.reading.insert(key.to_string())),
        }
    }

    /// This was tried and killed nobody.
    pub fn acquit(&mut self, subject: &Subject) {
        match subject {
            Subject::Events(seqs) => self.acquit_events(seqs),
            Subject::State(key) => {
                self.reading.remove(key.as_str());
                self.states.remove(key.as_str()); // one that is given up was not read
            }
        }
    }

    /// These were tried and killed nobody. Who was suspected is so no more: only deaths one after the other condemn, so that
    /// kills from outside have to hit the same event each time it is tried. Who is condemned was not tried, and stays it: until
    /// a checkpoint has the dead letter, a successor must know.
    fn acquit_events(&mut self, seqs: &[u64]) {
        for seq in seqs {
            self.trying.remove(seq);
            if self.suspects.get(seq).is_some_and(|suspect| suspect.verdict().is_none()) {
                self.suspects.remove(seq);
            }
        }
    }

    /// This process ends in order: what follows may be a program that is mended, which reads all states again. True when that
    /// must be written.
    pub fn end(&mut self) -> bool {
        let (starts, states) = (std::mem::take(&mut self.starts), std::mem::take(&mut self.states));
        starts > 0 || !states.is_empty()
    }

    /// The handler did not come back from this event: known for sure, and nothing else is to blame.
    pub fn blame_stuck(&mut self, seq: u64) {
        self.suspects.entry(seq).or_default().stuck = true;
        self.trying.clear();
    }

    /// Whether events are tried carefully while `progress` is the oldest one not processed.
    pub fn is_careful(&self, progress: u64) -> bool {
        progress <= self.until
    }

    /// Whether the store must know it, where it has `before`. Progress alone matters only once starts are counted.
    pub fn differs_from(&self, before: Option<&Self>) -> bool {
        let mut before = before.cloned().unwrap_or_default();
        before.epoch = self.epoch;
        if self.starts == 0 {
            before.progress = self.progress;
        }
        *self != before
    }

    /// What follows for sessions.
    pub fn verdicts(&self) -> Verdicts {
        let mut verdicts = Verdicts::default();
        for (seq, suspect) in &self.suspects {
            if let Some(verdict) = suspect.verdict() {
                verdicts.condemned.insert(*seq, verdict);
            } else {
                verdicts.suspects.insert(*seq);
            }
        }
        for (key, deaths) in &self.states {
            if *deaths >= LONE_DEATHS_MAX {
                verdicts.unreadable.insert(key.clone(), *deaths);
            } else {
                verdicts.suspect_states.insert(key.clone());
            }
        }
        verdicts
    }
}

impl Suspect {
    /// Whether the event is given up: why, and after how many deaths.
    fn verdict(self) -> Option<(Reason, u32)> {
        if self.stuck {
            Some((Reason::Stuck, self.deaths + 1))
        } else if self.deaths >= LONE_DEATHS_MAX {
            Some((Reason::Killer, self.deaths))
        } else {
            None
        }
    }
}

impl Verdicts {
    /// How many of the next events of a key, in order, may be tried together; a suspect stands alone.
    pub fn together(&self, next: &[u64]) -> usize {
        let tried = next.iter().take(TRIAL_EVENTS_MAX).take_while(|seq| !self.suspects.contains(*seq)).count();
        tried.max(usize::from(!next.is_empty()))
    }

    /// Whether this trial must be the only one of the process.
    pub fn is_alone(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Events(seqs) => seqs.iter().any(|seq| self.suspects.contains(seq)),
            Subject::State(key) => self.suspect_states.contains(key.as_str()),
        }
    }

    /// Why the stored state of `key` is not read, if it is not.
    pub fn unreadable(&self, key: &str) -> Option<String> {
        let deaths = self.unreadable.get(key)?;
        Some(format!(
            "the process died {deaths} times while it read this state; it is read again after an orderly restart"
        ))
    }

    /// What a dead letter says.
    pub fn text(reason: Reason, deaths: u32) -> String {
        match reason {
            Reason::Stuck => {
                "the handler did not come back from it within stuck_after; the process was restarted".to_owned()
            }
            _ => format!("the process died {deaths} times while this event was tried alone"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn start(epoch: u64, progress: u64, log_last: u64) -> Start {
        Start { epoch, first_epoch: epoch, progress, cut: progress - 1, log_last }
    }

    #[test]
    fn only_starts_of_a_process_that_found_the_same_work_count() {
        let mut care = Care::begin(None, &start(1, 1, 0));
        assert_eq!(care.starts, 0, "an empty log");
        assert!(!care.differs_from(None));
        for (epoch, progress, log_last, starts) in [
            (2, 1, 9, 1),
            (3, 1, 9, 2),
            (4, 5, 9, 1),
            (5, 5, 9, 2),
            (6, 10, 9, 0),
            (7, 10, 9, 0),
            (8, 10, 10, 1),
            (9, 10, 99, 2),
        ] {
            let before = care.clone();
            care = Care::begin(Some(&before), &start(epoch, progress, log_last));
            assert_eq!((care.starts, care.is_careful(progress)), (starts, false), "epoch {epoch}");
            assert_eq!(care.differs_from(Some(&before)), starts > 0 || before.starts > 0, "epoch {epoch}");
        }
        let again = Start { first_epoch: 9, ..start(10, 10, 99) };
        assert_eq!(Care::begin(Some(&care), &again).starts, 2, "actors that start again are no start");
        care = Care::begin(Some(&care), &start(11, 10, 99));
        assert_eq!((care.starts, care.until, care.is_careful(10)), (3, 99, true));
        // Progress within what a dead process may have reached: still careful; behind it no more.
        care = Care::begin(Some(&care), &start(12, 50, 200));
        assert_eq!((care.starts, care.until, care.is_careful(99), care.is_careful(100)), (1, 99, true, false));
    }

    #[test]
    fn a_death_in_company_makes_suspects_and_two_alone_condemn() {
        let mut care = Care { starts: 2, progress: 1, ..Care::default() };
        let die = |care: &mut Care, trying: &[u64]| {
            care.trying = trying.iter().copied().collect();
            *care = Care::begin(Some(care), &start(care.epoch + 1, 1, 9));
        };
        die(&mut care, &[4, 5, 6]);
        assert_eq!(care.verdicts().suspects, [4, 5, 6].into());
        die(&mut care, &[5]);
        die(&mut care, &[]);
        die(&mut care, &[4]);
        assert!(care.verdicts().condemned.is_empty());
        care.acquit(&Subject::Events(vec![6]));
        die(&mut care, &[5]);
        assert_eq!(care.verdicts().condemned, [(5, (Reason::Killer, 2))].into());
        assert_eq!(care.verdicts().suspects, [4].into());
        let same_process = Start { first_epoch: care.epoch, ..start(care.epoch + 1, 1, 9) };
        care.trying = [4].into();
        care = Care::begin(Some(&care), &same_process);
        assert_eq!((care.suspects[&4].deaths, care.trying.len()), (1, 0), "nobody died");
        care.trying = [4].into();
        care.blame_stuck(6);
        care = Care::begin(Some(&care), &start(care.epoch + 1, 5, 9));
        let condemned = [(5, (Reason::Killer, 2)), (6, (Reason::Stuck, 1))];
        assert_eq!(care.verdicts(), Verdicts { condemned: condemned.into(), ..Verdicts::default() }, "4 is done");
    }

    #[test]
    fn a_state_that_kills_whoever_reads_it_is_not_read_until_an_orderly_end() {
        let mut care = Care { starts: 2, progress: 1, ..Care::default() };
        let (ada, eve) = (Key::new("ada").expect("a key"), Key::new("eve").expect("a key"));
        let die = |care: &mut Care, reading: &[&Key]| {
            reading.iter().for_each(|key| care.note(&Subject::State((*key).clone())));
            *care = Care::begin(Some(care), &start(care.epoch + 1, 1, 9));
        };
        die(&mut care, &[&ada, &eve]);
        let alone = |care: &Care, key: &Key| care.verdicts().is_alone(&Subject::State(key.clone()));
        assert!(alone(&care, &ada) && alone(&care, &eve));
        care.acquit(&Subject::State(ada.clone()));
        die(&mut care, &[&eve]);
        let same_process = Start { first_epoch: care.epoch, ..start(care.epoch + 1, 1, 9) };
        care.note(&Subject::State(eve.clone()));
        care = Care::begin(Some(&care), &same_process);
        assert_eq!(care.verdicts().unreadable("eve"), None, "one death alone, and one claim without a death");
        die(&mut care, &[&eve]);
        assert!(care.verdicts().unreadable("eve").is_some() && !alone(&care, &eve) && !alone(&care, &ada));
        // Careful mode ends, and processes are killed for other reasons: it stays.
        care.states.insert("bob".to_owned(), 1);
        care = Care::begin(Some(&care), &start(care.epoch + 1, 10, 12));
        assert!(!care.is_careful(10));
        assert_eq!(care.states, [("eve".to_owned(), 2)].into(), "nothing asks for bob any more");
        assert!(care.end() && care.verdicts().unreadable("eve").is_none());
        assert!(!care.end());
    }

    #[test]
    fn suspects_stand_alone_and_others_do_not_wait_for_them() {
        let verdicts = Verdicts { suspects: [3, 4].into(), ..Verdicts::default() };
        let together = |next: &[u64]| verdicts.together(next);
        assert_eq!([together(&[]), together(&[1, 2, 3]), together(&[3, 4, 5]), together(&[5])], [0, 2, 1, 1]);
        assert_eq!(together(&(10..100).collect::<Vec<_>>()), TRIAL_EVENTS_MAX);
        let is_alone = |trial: &[u64]| verdicts.is_alone(&Subject::Events(trial.to_vec()));
        assert!(is_alone(&[3]) && !is_alone(&[1, 2]));
    }

    proptest! {
        /// A world of one partition and one killer: whatever the order in which events are tried and however many kills
        /// come from outside, the killer is condemned after a bounded number of deaths, and nobody else while the kills from
        /// outside do not hit the same event twice.
        #[test]
        fn a_killer_is_found_and_nobody_else(
            seed in proptest::collection::vec((any::<u8>(), 0u64..40), 1..60),
            killer in 1u64..40,
            size in 1usize..10,
        ) {
            let (mut care, mut done, mut deaths) = (Care::default(), 0u64, 0u32);
            let mut outside: BTreeMap<u64, u32> = BTreeMap::new();
            let mut kills = seed.into_iter();
            for epoch in 1.. {
                care = Care::begin(Some(&care), &start(epoch, done + 1, 40));
                let verdicts = care.verdicts();
                for seq in verdicts.condemned.keys() {
                    prop_assert!(*seq == killer || outside.get(seq).is_some_and(|n| *n >= LONE_DEATHS_MAX));
                }
                let mut died = false;
                let mut at = done;
                while at < 40 && !died {
                    let next: Vec<u64> = (at + 1..=40).take(size).collect();
                    let trial = &next[..verdicts.together(&next)];
                    if care.is_careful(done + 1) {
                        care.trying = trial.iter().copied().collect();
                    }
                    let killed = trial.contains(&killer) && !verdicts.condemned.contains_key(&killer);
                    let from_outside = !killed && kills.next().is_some_and(|(dice, _)| dice < 40);
                    died = killed || from_outside;
                    deaths += u32::from(killed);
                    if from_outside && verdicts.is_alone(&Subject::Events(trial.to_vec())) {
                        *outside.entry(trial[0]).or_default() += 1;
                    }
                    if !died {
                        at = trial[trial.len() - 1];
                        if care.is_careful(done + 1) {
                            care.acquit(&Subject::Events(trial.to_vec()));
                        }
                    }
                    if at % 7 == 0 {
                        done = at; // a checkpoint
                    }
                }
                if !died {
                    break;
                }
            }
            prop_assert!(deaths <= 2 * CAREFUL_AFTER_STARTS + LONE_DEATHS_MAX + 1, "{deaths} deaths");
        }
    }
}
