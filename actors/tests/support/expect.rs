//! What must have become of a log, found by reading it front to back without any of the engine's machinery.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use keyloom_actors::{
    careful::LONE_DEATHS_MAX,
    checkpoint::record::{self, Counters},
    dead_letter::Reason,
    features::{FeatureState, Value},
    handler::row::Row,
    key::Key,
    ports::RecordKey,
    session::recent_ids::RECENT_IDS_MAX,
    timestamp::{SECOND, Timestamp},
};

use super::{
    events::BEGIN,
    handler::{
        Tally, TallyRow, again_after, declared, mark_of_answer, mark_of_timer, rows_of, stored_tally, timer_emits,
        timer_of,
    },
    table,
    world::World,
};

/// What wall clocks do not reach in any history: behind it, ticks come by event times alone.
const WALL_CLOCK_MAX: i64 = BEGIN + 3_600 * SECOND;

/// See the module.
#[derive(Default)]
pub struct Expect {
    last: u64,
    /// Events of each key that changed its state, the engine's own left out.
    events: BTreeMap<String, u64>,
    /// Timers of each key that are still to fire, and the highest time of its events.
    timers: BTreeMap<String, (BTreeMap<String, i64>, i64)>,
    /// Questions of each key without an answer: by name, the event that asked and the question.
    questions: BTreeMap<String, BTreeMap<String, (u64, u64)>>,
    /// The highest event time of the log, of each event not later than it was stored.
    clock: i64,
    /// The tally of each key behind each event that it consumed.
    keys: BTreeMap<String, Vec<(u64, Tally)>>,
    dead: BTreeMap<u64, (Reason, u32)>,
    counters: Counters,
    rows: BTreeSet<u64>,
    /// Rows that the handler emits, if it does: by event and index.
    emitted: BTreeMap<(u64, u16), TallyRow>,
    /// Keys with an event that was given up because processes ended from outside, twice, while it was tried alone.
    unlucky: BTreeSet<String>,
    /// The first event of a key that was given up because its state could not be stored, which is found out later.
    soured: BTreeMap<String, u64>,
}

fn letter_of(world: &World, seq: u64) -> Option<Reason> {
    let value = world.value(&RecordKey::DeadLetter(world.partition, seq))?;
    Some(record::decode_dead_letter(&value).expect("a dead letter").0.reason)
}

/// What the event is told to ask.
fn said_of(json: &serde_json::Value) -> String {
    let (_, name) = json["do"].as_str().and_then(|what| what.split_once(' ')).expect("a name");
    name.to_owned()
}

impl Expect {
    /// Reads the log of `world`; every event has `attempts`.
    pub fn of(world: &World, attempts: u32) -> Self {
        let mut expect = Self::default();
        let mut recent: HashMap<String, VecDeque<String>> = HashMap::new();
        for record in world.records() {
            expect.last = record.seq;
            let json =
                serde_json::from_slice::<serde_json::Value>(&record.payload).ok().filter(|json| json.is_object());
            let Some(json) = json else {
                expect.give_up(record.seq, Reason::Parse, 0);
                continue;
            };
            let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
            let is_tick = json["keyloom.tick"].is_string();
            let answer = Some(&json["keyloom.answer"]).filter(|answer| answer.is_object());
            let is_own = is_tick || answer.is_some();
            let owner = record.key.as_ref().filter(|_| is_own).map(|key| String::from_utf8_lossy(key).into_owned());
            let key = owner.unwrap_or_else(|| text("domain_userid"));
            if key.is_empty() {
                expect.give_up(record.seq, Reason::NoKey, 0);
                continue;
            }
            if !is_own {
                expect.rows.insert(record.seq);
            }
            let time = json["collector_tstamp"].as_str().and_then(Timestamp::parse).expect("all say their time").0;
            assert!(!is_tick || time <= expect.clock.max(WALL_CLOCK_MAX), "the timer of {key} fires before its time");
            expect.clock = expect.clock.max(time.min(record.stored.0));
            let history = expect.keys.entry(key.clone()).or_default();
            let mut tally = history.last().map(|(_, tally)| *tally).unwrap_or_default();
            let recent = recent.entry(key.clone()).or_default();
            let id = text("event_id");
            if recent.contains(&id) {
                history.push((record.seq, tally));
                expect.counters.duplicate += 1;
                continue;
            }
            let questions = expect.questions.entry(key.clone()).or_default();
            let (timers, newest) = expect.timers.entry(key.clone()).or_default();
            let now = time.max(*newest);
            let what = text("do");
            let (what, said) = what.split_once(' ').unwrap_or((&what, ""));
            let fails = said.parse::<u32>().unwrap_or(u32::MAX) >= attempts;
            let is_given_up = |of: Reason| letter_of(world, record.seq) == Some(of);
            // What is due before the event, in order; unless one of it is bad, which takes all of it and the event along.
            let (before, mut index) = (timers.clone(), 0);
            let mut fired = (tally, Vec::new());
            let mut is_bad = false;
            while let Some((due, name)) =
                timers.iter().map(|(name, due)| (*due, name.clone())).min().filter(|t| t.0 <= now)
            {
                timers.remove(&name);
                let due = Timestamp(due);
                if name == "no" {
                    continue;
                }
                is_bad |= name == "bad";
                fired.0.add(mark_of_timer(&name, due));
                if timer_emits(due) {
                    fired.1.push(((record.seq, index), TallyRow { count: fired.0.count, digest: fired.0.digest }));
                    index += 1;
                }
                if name == "again" {
                    timers.insert(name, again_after(due).0);
                }
            }
            // An answer closes its question, whatever becomes of it.
            let answered = answer.and_then(|answer| {
                let name = answer["name"].as_str().expect("a name").to_owned();
                let asked = answer["asked"].as_u64().expect("a sequence");
                questions.get(&name).filter(|(seq, _)| *seq == asked)?;
                let (_, question) = questions.remove(&name)?;
                Some((name, question, answer["value"].as_u64()))
            });
            let end = match what {
                _ if world.is_unlucky(record.seq) && is_given_up(Reason::Killer) => {
                    expect.unlucky.insert(text("domain_userid"));
                    Some((Reason::Killer, LONE_DEATHS_MAX))
                }
                _ if is_bad => Some((Reason::Error, attempts)),
                _ if matches!(&answered, Some((name, ..)) if name == "reject") => Some((Reason::Reject, 1)),
                _ if matches!(&answered, Some((name, ..)) if name == "crash") => Some((Reason::Error, attempts)),
                "panic" if fails => Some((Reason::Panic, attempts)),
                "crash" | "retry" | "sour" if fails => Some((Reason::Error, attempts)),
                "reject" => Some((Reason::Reject, 1)),
                "kill" if said.is_empty() => Some((Reason::Killer, LONE_DEATHS_MAX)),
                "hold" if said == "for good" => Some((Reason::Stuck, 1)),
                _ => None,
            };
            if what == "sour" && end.is_some() {
                expect.soured.entry(key.clone()).or_insert(record.seq);
            }
            if is_bad || matches!(end, Some((Reason::Killer | Reason::Stuck, _))) {
                *timers = before.into_iter().filter(|(_, due)| *due > now).collect();
            } else {
                tally = fired.0;
                expect.emitted.extend(fired.1);
            }
            if end.is_none() {
                if let Some((name, question, value)) = answered {
                    let value = value.map(|value| value.to_string());
                    let mark = mark_of_answer(&name, &question.to_string(), value.as_deref().ok_or(()));
                    tally.add(mark);
                    if mark.is_multiple_of(5) {
                        questions.insert("next".to_owned(), (record.seq, mark));
                    }
                }
                if !is_own {
                    tally.add(record.seq);
                    for _ in 0..rows_of(record.seq) {
                        expect
                            .emitted
                            .insert((record.seq, index), TallyRow { count: tally.count, digest: tally.digest });
                        index += 1;
                    }
                    *newest = now;
                    *expect.events.entry(key.clone()).or_default() += 1;
                    recent.push_back(id);
                    if recent.len() > RECENT_IDS_MAX {
                        recent.pop_front();
                    }
                }
                if what == "timer" {
                    let (name, minutes) = timer_of(said);
                    timers.insert(name.to_owned(), time + minutes * 60 * SECOND);
                } else if what == "ask" {
                    questions.insert(said_of(&json), (record.seq, record.seq));
                } else if what == "cancel" {
                    timers.remove("again");
                }
                expect.counters.applied += 1;
            }
            history.push((record.seq, tally));
            if let Some((reason, attempts)) = end {
                expect.give_up(record.seq, reason, attempts);
            }
        }
        expect
    }

    fn give_up(&mut self, seq: u64, reason: Reason, attempts: u32) {
        self.dead.insert(seq, (reason, attempts));
        self.counters.add_dead(reason);
    }

    /// How events must have ended.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Keys with an event that was given up although it killed nobody.
    pub fn unlucky(&self) -> u64 {
        self.unlucky.len() as u64
    }

    /// Rows that the table must have.
    pub fn rows(&self) -> u64 {
        self.rows.len() as u64
    }

    /// The first thing that is not yet as it must be in the end. What can never become right is told by [`Expect::check`].
    pub fn lacks(&self, world: &World, tables: &[String]) -> Option<String> {
        let checkpoint = world.checkpoint();
        if checkpoint.cut < self.last {
            return Some(format!("the checkpoint is at {} of {}", checkpoint.cut, self.last));
        }
        if !checkpoint.lagging.is_empty() {
            return Some(format!("the checkpoint leaves {:?} behind", checkpoint.lagging));
        }
        for table in tables {
            let last = if table == TallyRow::TABLE { world.outbox_last() } else { self.last };
            let cursor = world.output(table).cursor;
            if cursor < last {
                return Some(format!("table {table} is at {cursor} of {last}"));
            }
        }
        self.lacks_feature(world).or_else(|| {
            let due = self.timers.iter().find(|(_, (timers, _))| timers.values().any(|due| *due <= self.clock));
            let due = due.map(|(key, (timers, _))| format!("timers of {key} are due at {}: {timers:?}", self.clock));
            let asked = self.questions.iter().find(|(_, questions)| !questions.is_empty());
            due.or_else(|| asked.map(|(key, questions)| format!("{key} waits for answers: {questions:?}")))
        })
    }

    /// The log that it was made from ended here.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The first key whose features do not show its last event.
    pub fn lacks_feature(&self, world: &World) -> Option<String> {
        self.keys.iter().find_map(|(key, history)| {
            let (last, published) = (history.last()?.0, world.feature(key).map(|a| a.seq));
            (published != Some(last)).then(|| format!("the features of {key} are at {published:?} of {last}"))
        })
    }

    /// Compares everything in the world with what must be there at the end.
    pub fn check(&self, world: &World, tables: &[String]) {
        let set = declared();
        assert_eq!(world.violations(), [""; 0]);
        let checkpoint = world.checkpoint();
        assert_eq!(checkpoint.cut, self.last, "the cut is the end of the log");
        assert_eq!(checkpoint.counters, self.counters, "ends of events");
        assert_eq!(checkpoint.counters.total(), self.last, "every event ended in one way");
        for (key, history) in &self.keys {
            let (last, tally) = history.last().expect("a key has events");
            let answer = world.feature(key).expect("features of every key");
            assert_eq!((answer.seq, answer.tally), (*last, *tally), "features of {key}");
            let name = RecordKey::State(world.partition, Key::new(key).expect("a key"));
            let state = world.value(&name).expect("state of every key");
            let valid = record::valid_version(&state, &checkpoint).expect("a state record");
            let (_, version) = valid.newest.expect("a version that counts");
            let version = record::decode_version(&version).expect("a version");
            assert_eq!((version.applied, stored_tally(&version.payload)), (*last, *tally), "state of {key}");
            let timers: BTreeMap<_, _> =
                version.waiting.timers.iter().map(|(due, name)| (name.to_owned(), due.0)).collect();
            assert_eq!(timers, self.timers[key].0, "timers of {key}");
            let features = FeatureState::decode(&set, &version.features).expect("declared features");
            let events = self.events.get(key).copied().unwrap_or(0);
            assert_eq!(features.value(&set, "events", Timestamp(self.clock)), Some(Value::Count(events)), "of {key}");
        }
        self.check_answers(world);
        self.check_dead_letters(world);
        for table in tables {
            if table == TallyRow::TABLE { self.check_emitted(world) } else { self.check_table(world, table) }
        }
    }

    fn check_emitted(&self, world: &World) {
        let (mut rows, mut files) = (BTreeMap::new(), 0);
        for (name, object) in world.objects().iter().filter(|(name, _)| name.starts_with("emitted/")) {
            files += 1;
            for (seq, index, row) in table::emitted_rows(object) {
                assert_eq!(rows.insert((seq, index), row), None, "row {seq}.{index} of {name} is in another file too");
            }
        }
        assert_eq!(rows, self.emitted, "emitted rows");
        let (output, last) = (world.output(TallyRow::TABLE), world.outbox_last());
        assert_eq!((output.cursor, output.files, output.rows), (last, files, rows.len() as u64));
        assert_eq!(output.block_bytes, world.checkpoint().outbox.get(TallyRow::TABLE).map_or(0, |end| end.bytes));
        for name in world.names() {
            // What is behind the cursor may still be about to be removed.
            let RecordKey::Outbox(_, _, number) = name else { continue };
            assert!(number > output.removed, "block {number} is left, {output:?}");
        }
    }

    /// Every answer ever published was true at its sequence.
    pub fn check_answers(&self, world: &World) {
        // What is given up later may have been published before.
        let may_be_untrue =
            |key: &str, seq| self.unlucky.contains(key) || self.soured.get(key).is_some_and(|at| seq >= *at);
        for answer in world.answers().into_iter().filter(|answer| !may_be_untrue(&answer.key, answer.seq)) {
            let history = self.keys.get(&answer.key).expect("a key of the log");
            let at = history.binary_search_by_key(&answer.seq, |(seq, _)| *seq);
            let at = at.unwrap_or_else(|_| panic!("{answer:?} is of a sequence that the key does not have"));
            assert_eq!(answer.tally, history[at].1, "the answer of {} at {}", answer.key, answer.seq);
        }
    }

    fn check_dead_letters(&self, world: &World) {
        let checkpoint = world.checkpoint();
        let mut found = BTreeMap::new();
        for name in world.names() {
            let RecordKey::DeadLetter(_, seq) = name else { continue };
            let value = world.value(&name).expect("it was there");
            let (letter, tag) = record::decode_dead_letter(&value).expect("a dead letter");
            assert_eq!(letter.seq, seq);
            assert!(checkpoint.is_valid(tag), "dead letter {seq} counts");
            let record = &world.records()[seq as usize - 1];
            assert_eq!(letter.payload, record.payload, "the payload of dead letter {seq}");
            found.insert(seq, letter.reason);
        }
        let wanted = self.dead.iter().map(|(seq, (reason, _))| (*seq, *reason)).collect();
        assert_eq!(found, wanted, "dead letters");
    }

    /// Attempts too: only where nothing was killed, because attempts are counted in memory. A rejected event is tried again
    /// when a later one of its key crashes.
    pub fn check_attempts(&self, world: &World) {
        for (seq, (_, attempts)) in &self.dead {
            let value = world.value(&RecordKey::DeadLetter(world.partition, *seq)).expect("a dead letter");
            let (letter, _) = record::decode_dead_letter(&value).expect("a dead letter");
            let wanted = if letter.reason == Reason::Reject { letter.attempts.max(1) } else { *attempts };
            assert_eq!(letter.attempts, wanted, "attempts of event {seq}");
        }
    }

    fn check_table(&self, world: &World, table: &str) {
        let mut seen = HashSet::new();
        let (mut rows, mut files) = (BTreeSet::new(), 0);
        for (name, object) in world.objects().iter().filter(|(name, _)| name.starts_with(&format!("{table}/"))) {
            files += 1;
            for seq in table::rows(object) {
                assert!(seen.insert(seq), "row {seq} of {name} is in another file of {table} too");
                rows.insert(seq);
            }
        }
        assert_eq!(rows.len(), self.rows.len(), "rows of {table}");
        assert_eq!(rows, self.rows, "rows of {table}");
        let output = world.output(table);
        assert_eq!(output.cursor, self.last, "the cursor of {table}");
        assert_eq!((output.rows, output.files), (self.rows(), files), "totals of {table}");
        let intent = RecordKey::Intent(world.partition, table.to_owned());
        assert_eq!(world.value(&intent), None, "nothing of {table} is half written");
    }
}
