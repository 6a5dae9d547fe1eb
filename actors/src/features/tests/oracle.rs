//! A naive oracle beside every function: it keeps all events of a key and counts them again for every answer.
//!
//! Shares no code with what it judges: own windows, own sessions, own numbers. Events come with repeats, a tenth of them
//! late, some with clocks that are ahead; one state stays in memory, another is written and read at random moments, and
//! their bytes have to be equal all the time. `KEYLOOM_FEATURE_EVENTS` says how many events there are.

use std::collections::{BTreeMap, BTreeSet};

use proptest::test_runner::{RngAlgorithm, TestRng};

use super::*;
use crate::recent_ids::RecentIds;

/// Events unless the environment says otherwise.
const EVENTS: usize = 40_000;
const EVENTS_PER_KEY: usize = 500;
/// Every so many events all answers are compared.
const CHECK_EVERY: u64 = 60;
const LATENESS: i64 = secs(2 * 3_600);
const GAP: i64 = secs(600);

/// Random numbers from a seed.
struct Dice(TestRng);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        use proptest::prelude::Rng;
        self.0.next_u64() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}

#[derive(Debug, Clone)]
struct Ev {
    time: i64,
    kind: &'static str,
    page: Option<u64>,
    /// Hundredths.
    price: Option<i64>,
    quantity: Option<i64>,
    plan: Option<&'static str>,
}

impl Ev {
    fn random(dice: &mut Dice, time: i64) -> Self {
        let kind = dice.of(&["page_view", "page_view", "page_ping", "click", "order"]);
        let many = dice.of(&[3, 20, 500]);
        Self {
            time,
            kind,
            page: (!dice.one_in(5)).then(|| dice.below(many)),
            price: (!dice.one_in(3)).then(|| dice.below(100_000) as i64 - 20_000),
            quantity: dice.one_in(2).then(|| dice.below(5) as i64),
            plan: (!dice.one_in(4)).then(|| dice.of(&["free", "pro", "team"])),
        }
    }

    fn json(&self) -> String {
        let mut text = format!(r#""event":"{}""#, self.kind);
        self.page.iter().for_each(|page| text.push_str(&format!(r#","page_url":"{}""#, path(*page))));
        let cents = |price: &i64| (if *price < 0 { "-" } else { "" }, price.abs() / 100, price.abs() % 100);
        self.price.iter().map(cents).for_each(|(s, w, c)| text.push_str(&format!(r#","price":{s}{w}.{c:02}"#)));
        self.quantity.iter().for_each(|quantity| text.push_str(&format!(r#","cart":{{"quantity":{quantity}}}"#)));
        self.plan.iter().for_each(|plan| text.push_str(&format!(r#","plan":"{plan}""#)));
        text
    }
}

/// Some pages are longer than what is stored in place.
fn path(page: u64) -> String {
    if page.is_multiple_of(3) { format!("/a/rather/long/path/to/page/{page}") } else { format!("/{page}") }
}

/// The value of `of` in an event: hundredths, or JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Val {
    Cents(i128),
    Text(String),
}

impl Val {
    fn json(&self) -> String {
        match self {
            Self::Cents(cents) => decimal(*cents, 2),
            Self::Text(text) => text.clone(),
        }
    }
}

fn decimal(units: i128, places: usize) -> String {
    let digits = format!("{:0width$}", units.unsigned_abs(), width = places + 1);
    let (whole, part) = digits.split_at(digits.len() - places);
    let part = part.trim_end_matches('0');
    let sign = if units < 0 { "-" } else { "" };
    if part.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part}") }
}

/// What an answer has to be.
enum Expected {
    Exactly(String),
    Near(f64, f64),
    /// More values than are counted: their true counts, by JSON text.
    Top(BTreeMap<String, u64>),
}

struct Case {
    name: String,
    definition: Definition,
    filter: fn(&Ev) -> bool,
    value: fn(&Ev) -> Option<Val>,
}

fn page_of(event: &Ev) -> Option<Val> {
    event.page.map(|page| Val::Text(format!("\"{}\"", path(page))))
}

fn cents_of(event: &Ev) -> Option<Val> {
    event.price.map(|price| Val::Cents(price.into()))
}

type Filter = (&'static str, fn(&Ev) -> bool);
type Values = (&'static str, fn(&Ev) -> Option<Val>);

const ALL: Filter = ("", |_| true);
const VIEWS: Filter = ("event == 'page_view'", |e| e.kind == "page_view");
const PAID: Filter = ("plan in ['pro', 'team'] && price > 10", |e| {
    e.plan.is_some_and(|plan| plan != "free") && e.price.is_some_and(|price| price > 1_000)
});
const OTHERS: Filter =
    ("!(event == 'order') || plan != 'free'", |e| e.kind != "order" || e.plan.is_some_and(|p| p != "free"));
const BY_SIZE: Filter = ("size(page_url) > 4", |e| e.page.is_some_and(|page| path(page).len() > 4));
const PAGES: Values = ("page_url", page_of);
const PRICES: Values = ("price", cents_of);
const TOTALS: Values = ("price * cart.quantity", |e| Some(Val::Cents(i128::from(e.price?) * i128::from(e.quantity?))));
const QUANTITIES: Values = ("cart.quantity", |e| Some(Val::Cents(i128::from(e.quantity?) * 100)));
const NOTHING: Values = ("", |_| None);

fn cases() -> Vec<Case> {
    let windows = [
        ("life", None),
        ("hour", Some(Window::Tumbling(Duration::from_secs(3_600)))),
        ("minutes", sliding(300)),
        ("long", sliding(7_200)),
        ("session", Some(Window::Session)),
    ];
    let of: [(&str, Filter, Values); 17] = [
        ("count", ALL, NOTHING),
        ("count", VIEWS, PAGES),
        ("count", OTHERS, NOTHING),
        ("sum", PAID, PRICES),
        ("sum", ALL, TOTALS),
        ("avg", VIEWS, PRICES),
        ("stddev", ALL, PRICES),
        ("min", ALL, PRICES),
        ("max", BY_SIZE, QUANTITIES),
        ("first", VIEWS, PAGES),
        ("last", ALL, PRICES),
        ("last_k", VIEWS, PAGES),
        ("last_distinct_k", ALL, PAGES),
        ("approx_distinct", ALL, PAGES),
        ("distinct", OTHERS, PAGES),
        ("top_k", ALL, PAGES),
        ("top_k", ALL, PRICES),
    ];
    let mut cases = Vec::new();
    for (place, (function, (filter, filters), (values, value))) in of.into_iter().enumerate() {
        for (label, window) in windows {
            let mut definition = define(function, values, filter, window);
            match function {
                "last_k" | "last_distinct_k" => definition.k = Some(7),
                "approx_distinct" => definition.precision = Some(8),
                "distinct" => definition.max = Some(40),
                "top_k" => (definition.k, definition.max) = (Some(5), Some(60)),
                _ => {}
            }
            let name = format!("{function}_{label}_{place}");
            cases.push(Case { name, definition, filter: filters, value });
        }
    }
    for (name, function, (filter, filters)) in
        [("since_last", "time_since_last", VIEWS), ("since_first", "time_since_first", PAID)]
    {
        let definition = define(function, "", filter, None);
        cases.push(Case { name: name.to_owned(), definition, filter: filters, value: |_| None });
    }
    for (name, (values, value)) in [("warmth", NOTHING), ("heat", PRICES)] {
        let half_life = Some(Duration::from_secs(900));
        let definition = Definition { half_life, ..define("exp_decay", values, VIEWS.0, None) };
        cases.push(Case { name: name.to_owned(), definition, filter: VIEWS.1, value });
    }
    for name in [
        "session_index",
        "session_active",
        "session_duration",
        "session_events",
        "session_pages",
        "session_entry_page",
        "session_exit_page",
        "session_bounce",
        "session_engaged",
    ] {
        let definition = define(name, "", "", None);
        cases.push(Case { name: name.to_owned(), definition, filter: |_| true, value: |_| None });
    }
    cases
}

/// One key as the oracle sees it.
#[derive(Default)]
struct Naive {
    /// Events that were not late, in the order of the log.
    events: Vec<Ev>,
    /// Sessions, with the places of their events.
    sessions: Vec<Vec<usize>>,
    late: u64,
    late_session: u64,
}

impl Naive {
    fn newest(&self) -> i64 {
        self.events.iter().map(|e| e.time).max().unwrap_or(i64::MIN)
    }

    fn take(&mut self, event: &Ev) {
        if !self.events.is_empty() && event.time < self.newest() - LATENESS {
            self.late += 1;
            return;
        }
        let end = |session: &Vec<usize>| session.iter().map(|i| self.events[*i].time).max();
        let begin = |session: &Vec<usize>| session.iter().map(|i| self.events[*i].time).min();
        let place = self.events.len();
        let before = self.sessions.len().checked_sub(2).and_then(|i| end(&self.sessions[i]));
        match self.sessions.last() {
            Some(newest) if event.time - end(newest).expect("it has events") < GAP => {
                let over = begin(newest).expect("it has events") - event.time >= GAP;
                if over || before.is_some_and(|end| event.time <= end) {
                    self.late_session += 1;
                } else {
                    self.sessions.last_mut().expect("it is there").push(place);
                }
            }
            _ => self.sessions.push(vec![place]),
        }
        self.events.push(event.clone());
    }

    /// The events that a window at `now` covers; `exact` for functions that know the times of their events.
    fn covered(&self, window: Option<Window>, now: i64, exact: bool) -> Vec<&Ev> {
        let micros = |d: Duration| d.as_micros() as i64;
        let all = self.events.iter();
        match window {
            None | Some(Window::Lifetime) => all.collect(),
            Some(Window::Tumbling(length)) => {
                all.filter(|e| e.time.div_euclid(micros(length)) == now.div_euclid(micros(length))).collect()
            }
            Some(Window::Sliding(length)) => {
                let begin = now - micros(length);
                let hop = micros(length) / 60;
                let begin = if exact { begin } else { begin - begin.rem_euclid(hop) };
                all.filter(|e| e.time >= begin).collect()
            }
            Some(Window::Session) => {
                let Some(session) = self.sessions.last() else { return Vec::new() };
                let events: Vec<&Ev> = session.iter().map(|i| &self.events[*i]).collect();
                let end = events.iter().map(|e| e.time).max().unwrap_or(i64::MIN);
                if now - end < GAP { events } else { Vec::new() }
            }
        }
    }

    fn expected(&self, case: &Case, now: i64) -> Expected {
        let function = case.definition.function.name();
        if function.starts_with("session_") {
            return Expected::Exactly(self.of_session(function, now));
        }
        let exact = matches!(function, "last" | "last_k" | "last_distinct_k");
        let events: Vec<&Ev> =
            self.covered(case.definition.window, now, exact).into_iter().filter(|e| (case.filter)(e)).collect();
        let none = || Expected::Exactly("null".to_owned());
        if case.definition.of.is_none() {
            let first = events.iter().map(|e| e.time).min();
            let last = events.iter().map(|e| e.time).max();
            return match function {
                "count" => Expected::Exactly(events.len().to_string()),
                "time_since_first" => first.map_or_else(none, |t| Expected::Exactly(decimal((now - t).into(), 6))),
                "time_since_last" => last.map_or_else(none, |t| Expected::Exactly(decimal((now - t).into(), 6))),
                _ => Expected::Near(events.iter().map(|e| faded(now - e.time)).sum(), 1e-9),
            };
        }
        let valued: Vec<(i64, Val)> = events.iter().filter_map(|e| Some((e.time, (case.value)(e)?))).collect();
        let cents: Vec<i128> =
            valued.iter().filter_map(|(_, v)| if let Val::Cents(c) = v { Some(*c) } else { None }).collect();
        let n = cents.len() as i128;
        let sum: i128 = cents.iter().sum();
        let list = |values: &[String]| Expected::Exactly(format!("[{}]", values.join(",")));
        // A stable order by time keeps the log's order of equal times.
        let mut by_time: Vec<(i64, String)> = valued.iter().map(|(t, v)| (*t, v.json())).collect();
        by_time.sort_by_key(|(t, _)| *t);
        let newest_first: Vec<String> = by_time.iter().rev().map(|(_, v)| v.clone()).collect();
        let k = case.definition.k.unwrap_or(1) as usize;
        match function {
            "count" => Expected::Exactly(valued.len().to_string()),
            "sum" => Expected::Exactly(decimal(sum, 2)),
            "avg" if n == 0 => none(),
            "avg" => Expected::Near(sum as f64 / n as f64 / 100.0, 1e-12),
            "stddev" if n == 0 => none(),
            "stddev" => {
                let squares: i128 = cents.iter().map(|c| c * c).sum();
                Expected::Near(((n * squares - sum * sum) as f64).sqrt() / n as f64 / 100.0, 1e-12)
            }
            "min" => cents.iter().min().map_or_else(none, |c| Expected::Exactly(decimal(*c, 2))),
            "max" => cents.iter().max().map_or_else(none, |c| Expected::Exactly(decimal(*c, 2))),
            "first" => {
                // Of equal times the first in the log.
                by_time.first().map_or_else(none, |(_, v)| Expected::Exactly(v.clone()))
            }
            "last" => newest_first.first().map_or_else(none, |v| Expected::Exactly(v.clone())),
            "last_k" => list(&newest_first[..newest_first.len().min(k)]),
            "last_distinct_k" => {
                let mut kept: Vec<String> = Vec::new();
                for value in newest_first {
                    if !kept.contains(&value) && kept.len() < k {
                        kept.push(value);
                    }
                }
                list(&kept)
            }
            "approx_distinct" => {
                let distinct = valued.iter().map(|(_, v)| v.json()).collect::<BTreeSet<_>>().len();
                // Exact while hashes are kept; six standard errors else, for there are very many comparisons.
                let error = if distinct <= 256 / 8 { 0.0 } else { 6.0 * 1.04 / 16.0 };
                Expected::Near(distinct as f64, error)
            }
            "distinct" => {
                let all: BTreeSet<String> = valued.iter().map(|(_, v)| v.json()).collect();
                let kept: Vec<String> = all.iter().take(40).cloned().collect();
                Expected::Exactly(format!(r#"{{"values":[{}],"more":{}}}"#, kept.join(","), all.len() > 40))
            }
            "exp_decay" => {
                let faded = valued.iter().map(|(t, v)| match v {
                    Val::Cents(cents) => *cents as f64 / 100.0 * faded(now - t),
                    Val::Text(_) => 0.0,
                });
                Expected::Near(faded.sum(), 1e-9)
            }
            "top_k" => {
                let mut counts: BTreeMap<String, u64> = BTreeMap::new();
                valued.iter().for_each(|(_, v)| *counts.entry(v.json()).or_default() += 1);
                let mut order: Vec<(String, u64)> = counts.into_iter().collect();
                let exact = order.len() <= 60;
                order.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
                let entry = |(v, n): &(String, u64)| format!(r#"{{"value":{v},"count":{n},"error":0}}"#);
                if exact {
                    return list(&order.iter().take(k).map(entry).collect::<Vec<_>>());
                }
                Expected::Top(order.into_iter().collect())
            }
            other => panic!("the oracle does not know {other}"),
        }
    }

    fn of_session(&self, function: &str, now: i64) -> String {
        let Some(session) = self.sessions.last() else {
            return match function {
                "session_index" => "0",
                "session_active" => "false",
                _ => "null",
            }
            .to_owned();
        };
        let mut events: Vec<&Ev> = session.iter().map(|i| &self.events[*i]).collect();
        events.sort_by_key(|e| e.time);
        let (begin, end) = (events[0].time, events[events.len() - 1].time);
        let pages: Vec<&Ev> = events.iter().copied().filter(|e| e.kind == "page_view").collect();
        let quoted = |e: Option<&&Ev>| e.and_then(|e| e.page).map_or("null".to_owned(), |p| format!("\"{}\"", path(p)));
        match function {
            "session_index" => self.sessions.len().to_string(),
            "session_active" => (now - end < GAP).to_string(),
            "session_duration" => decimal((end - begin).into(), 6),
            "session_events" => events.len().to_string(),
            "session_pages" => pages.len().to_string(),
            "session_entry_page" => quoted(pages.iter().find(|e| e.page.is_some())),
            "session_exit_page" => quoted(pages.iter().rev().find(|e| e.page.is_some())),
            "session_bounce" => {
                let other = events.iter().filter(|e| e.kind != "page_ping").count();
                (pages.len() <= 1 && other <= 1).to_string()
            }
            _ => (10 * events.iter().map(|e| e.time.div_euclid(secs(10))).collect::<BTreeSet<_>>().len()).to_string(),
        }
    }
}

fn faded(age: i64) -> f64 {
    0.5f64.powf(age as f64 / secs(900) as f64)
}

fn top_is_within_bounds(answer: &str, truth: &BTreeMap<String, u64>) -> bool {
    let answer: serde_json::Value = serde_json::from_str(answer).expect("JSON");
    let entries = answer.as_array().expect("a list");
    let within = |entry: &serde_json::Value| {
        let number = |name: &str| entry[name].as_u64().expect("a count");
        // What is answered may not have occurred at all, if its error is as large as its count.
        let occurred = truth.get(&entry["value"].to_string()).copied().unwrap_or(0);
        (number("count") - number("error")..=number("count")).contains(&occurred)
    };
    entries.len() == 5 && entries.iter().all(within)
}

#[test]
fn every_function_agrees_with_the_naive_oracle() {
    let cases = cases();
    let settings = Settings {
        lateness: Duration::from_micros(LATENESS as u64),
        session_gap: Duration::from_micros(GAP as u64),
        fields: None,
    };
    let definitions = cases.iter().map(|case| (case.name.clone(), case.definition.clone())).collect();
    let set = FeatureSet::compile(definitions, settings).expect("valid definitions");
    let events = std::env::var("KEYLOOM_FEATURE_EVENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(EVENTS);
    let mut told = Told::default();
    for key in 0..events.div_ceil(EVENTS_PER_KEY) {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&(key as u64).to_le_bytes());
        one_key(&set, &cases, Dice(TestRng::from_seed(RngAlgorithm::ChaCha, &seed)), key, &mut told);
    }
    println!("{told:?}, {} features", cases.len());
    assert!(told.compared > 0 && told.repeats > 0 && told.late > 0 && told.restarts > 0 && told.within_bounds > 0);
}

#[derive(Debug, Default)]
struct Told {
    events: u64,
    repeats: u64,
    late: u64,
    restarts: u64,
    compared: u64,
    within_bounds: u64,
}

fn one_key(set: &FeatureSet, cases: &[Case], mut dice: Dice, key: usize, told: &mut Told) {
    let (mut naive, mut ids) = (Naive::default(), RecentIds::default());
    let (mut stays, mut returns) = (FeatureState::new(set), FeatureState::new(set));
    let mut clock = DAY_BEGIN + secs(dice.below(86_400) as i64);
    let mut sent: Vec<(u64, Ev)> = Vec::new();
    while sent.len() < EVENTS_PER_KEY {
        // Mostly seconds apart, sometimes more than a session, now and then at the same moment.
        clock += match dice.below(20) {
            0 => secs(dice.below(2 * 3_600) as i64),
            1..=4 => 0,
            _ => dice.below(20_000_000) as i64,
        };
        let time = match dice.below(100) {
            0..=5 => clock - dice.below(secs(600) as u64) as i64,
            6..=8 => clock - dice.below(2 * LATENESS as u64) as i64,
            9 => clock - dice.below(10 * LATENESS as u64) as i64,
            10 => clock + dice.below(secs(3_600) as u64) as i64,
            _ => clock,
        };
        let repeat = !sent.is_empty() && dice.one_in(20);
        if repeat {
            let back = dice.below(sent.len().min(30) as u64) as usize;
            let again = sent[sent.len() - 1 - back].clone();
            sent.push(again);
        } else {
            sent.push((1 + sent.len() as u64, Ev::random(&mut dice, time)));
        }
        told.events += 1;
        let (id, event) = sent.last().expect("it was just sent");
        if ids.contains(*id) {
            told.repeats += 1;
            continue;
        }
        ids.push(*id);
        naive.take(event);
        let batch = decode(&[(event.time, event.json())]);
        let first = stays.apply(set, batch.get(0));
        assert_eq!(returns.apply(set, batch.get(0)), first);
        if dice.one_in(20) {
            told.restarts += 1;
            let (mut bytes, mut again) = (Vec::new(), Vec::new());
            returns.encode(set, &mut bytes);
            returns = FeatureState::decode(set, &bytes).expect("its own bytes");
            returns.encode(set, &mut again);
            assert_eq!(bytes, again);
        }
        if dice.one_in(CHECK_EVERY) || sent.len() == EVENTS_PER_KEY {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            stays.encode(set, &mut a);
            returns.encode(set, &mut b);
            assert_eq!(a, b, "key {key}: what left and came back is what stayed");
            let ahead = if dice.one_in(2) { 0 } else { dice.below(secs(4_000) as u64) as i64 };
            compare(set, cases, &naive, &returns, clock + ahead, key, told);
        }
    }
    told.late += naive.late;
}

fn compare(
    set: &FeatureSet,
    cases: &[Case],
    naive: &Naive,
    state: &FeatureState,
    at: i64,
    key: usize,
    told: &mut Told,
) {
    let mut out = b"{".to_vec();
    state.write(set, Timestamp(at), &mut Features::new(&mut out));
    out.push(b'}');
    let answers: BTreeMap<&str, &serde_json::value::RawValue> = serde_json::from_slice(&out).expect("JSON");
    let now = at.max(naive.newest());
    for case in cases {
        told.compared += 1;
        let answer = answers[case.name.as_str()].get();
        let agrees = match naive.expected(case, now) {
            Expected::Top(counts) => {
                told.within_bounds += 1;
                top_is_within_bounds(answer, &counts)
            }
            Expected::Exactly(text) => answer == text,
            Expected::Near(expected, error) => {
                let number: f64 = answer.parse().unwrap_or(f64::NAN);
                (number - expected).abs() <= error * expected.abs().max(1e-9)
            }
        };
        if !agrees {
            let expected = match naive.expected(case, now) {
                Expected::Exactly(text) => text,
                Expected::Near(number, error) => format!("{number} within {error}"),
                Expected::Top(counts) => format!("{counts:?}"),
            };
            panic!("key {key}, {} at {now}, {} events: {answer}, but it is {expected}", case.name, naive.events.len());
        }
    }
    assert_eq!(answers["late_events"].get(), naive.late.to_string());
    assert_eq!(answers["late_session_events"].get(), naive.late_session.to_string());
}
