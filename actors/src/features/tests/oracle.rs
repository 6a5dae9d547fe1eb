//! Every function beside a naive oracle that shares no code with it.
//!
//! Events come with repeats, a tenth of them late, some with clocks that are ahead; one state stays in memory, another is
//! written and read at random moments, and their bytes have to be equal all the time. `KEYLOOM_FEATURE_EVENTS` says how many
//! events there are.

use std::collections::BTreeMap;

use super::{
    cases::{Case, Dice, Ev, Expected, cases},
    naive::Naive,
    *,
};
use crate::session::recent_ids::RecentIds;

/// Events unless the environment says otherwise.
const EVENTS: usize = 40_000;
const EVENTS_PER_KEY: usize = 500;
/// Every so many events all answers are compared.
const CHECK_EVERY: u64 = 60;
pub(super) const LATENESS: i64 = secs(2 * 3_600);
pub(super) const GAP: i64 = secs(600);

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
        one_key(&set, &cases, Dice::new(key as u64), key, &mut told);
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
