//! What the generated click stream promises: reproducible, in the shares asked for, shaped like a click stream.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::*;

fn lines(options: GeneratorOptions) -> Vec<String> {
    let (mut generator, mut out) = (Generator::new(options), Vec::new());
    while generator.write_next(&mut out) {}
    let text = String::from_utf8(out).expect("UTF-8");
    assert!(text.ends_with('\n'));
    text.lines().map(str::to_owned).collect()
}

fn some(events: u64) -> GeneratorOptions {
    GeneratorOptions { events: Some(events), ..GeneratorOptions::default() }
}

fn near(got: usize, share: f64, of: usize, what: &str) {
    let (expected, got) = (share * of as f64, got as f64);
    let tolerance = 6.0 * (expected * (1.0 - share)).sqrt() + 1.0;
    assert!((got - expected).abs() <= tolerance, "{what}: {got}, expected {expected} ± {tolerance}");
}

fn time(event: &Value, name: &str) -> i64 {
    Timestamp::parse(event[name].as_str().expect("a time")).expect("readable").0
}

#[test]
fn equal_options_give_equal_bytes_and_other_seeds_do_not() {
    let (mut one, mut two) = (Generator::new(some(20_000)), Generator::new(some(20_000)));
    let (mut a, mut b) = (Vec::new(), Vec::new());
    while one.write_next(&mut a) {}
    while two.write_next(&mut b) {}
    assert!(a == b);
    assert!(!one.write_next(&mut a) && a == b, "nothing after the end");
    assert_eq!(one.written(), 20_000);
    let other = lines(GeneratorOptions { seed: 2, ..some(1_000) });
    let first: HashSet<_> = lines(some(1_000)).into_iter().collect();
    assert!(other.iter().all(|line| !first.contains(line)));
}

#[test]
fn shares_are_as_asked_for() {
    let options = GeneratorOptions { users: 5_000, duplicates: 0.05, late: 0.04, skewed_clocks: 0.2, ..some(60_000) };
    let lines = lines(options.clone());
    let mut by_id: HashMap<String, &str> = HashMap::new();
    let (mut duplicates, mut late, mut newest) = (0, 0, 0);
    let mut skewed: HashMap<String, bool> = HashMap::new();
    for line in &lines {
        let event: Value = serde_json::from_str(line).expect("JSON");
        let id = event["event_id"].as_str().expect("an id").to_owned();
        if let Some(earlier) = by_id.insert(id, line) {
            assert_eq!(earlier, line, "a duplicate is exact");
            duplicates += 1;
            continue;
        }
        let (collected, created) = (time(&event, "collector_tstamp"), time(&event, "dvce_created_tstamp"));
        late += usize::from(newest - collected >= 59 * SECOND);
        newest = newest.max(collected);
        assert!((collected - created).abs() <= 2 * 3_600 * SECOND + 5 * SECOND);
        let off = (collected - created).abs() > 5 * SECOND;
        let user = event["domain_userid"].as_str().expect("a user").to_owned();
        assert_eq!(*skewed.entry(user).or_insert(off), off, "a clock stays as wrong as it is");
    }
    near(duplicates, 0.05, lines.len(), "duplicates");
    near(late, 0.04, lines.len() - duplicates, "late");
    near(skewed.values().filter(|off| **off).count(), 0.2, skewed.len(), "skewed clocks");
    assert!(newest > options.start.0 + 200 * SECOND, "57,000 new events at 250 per second");
}

#[test]
fn no_duplicates_and_none_late_when_not_asked_for() {
    let lines = lines(GeneratorOptions { duplicates: 0.0, late: 0.0, ..some(20_000) });
    let mut last = 0;
    let mut ids = HashSet::new();
    for line in &lines {
        let event: Value = serde_json::from_str(line).expect("JSON");
        assert!(ids.insert(event["event_id"].as_str().expect("an id").to_owned()));
        assert!(time(&event, "collector_tstamp") >= last);
        last = time(&event, "collector_tstamp");
    }
}

#[test]
fn it_looks_like_a_shop() {
    let options = GeneratorOptions { users: 300, rate: 2.0, duplicates: 0.0, late: 0.0, ..some(60_000) };
    let (mut kinds, mut per_user) = (HashMap::<String, usize>::new(), HashMap::<String, usize>::new());
    let mut last: HashMap<String, (i64, String)> = HashMap::new();
    let (mut long_gaps, mut logged_in, mut network) = (0, 0, 0);
    for line in lines(options) {
        let event: Value = serde_json::from_str(&line).expect("JSON");
        let text = |name: &str| event[name].as_str().map(str::to_owned);
        let (user, session) = (text("domain_userid").expect("a user"), text("session_id").expect("a session"));
        *kinds.entry(text("event").expect("a kind")).or_default() += 1;
        *per_user.entry(user.clone()).or_default() += 1;
        logged_in += usize::from(text("user_id").is_some());
        network += usize::from(text("network_userid").is_some());
        assert!(text("page_url").expect("a page").starts_with("https://shop.example/"));
        assert!(event["context"]["from"].is_string());
        let now = time(&event, "collector_tstamp");
        if let Some((before, earlier)) = last.insert(user, (now, session.clone())) {
            let gap = now - before > 30 * 60 * SECOND;
            long_gaps += usize::from(gap);
            if (now - before - 30 * 60 * SECOND).abs() > 2 * SECOND {
                assert_eq!(gap, earlier != session, "a session ends with a pause of 30 minutes");
            }
        }
    }
    for kind in ["page_view", "page_ping", "click", "search", "login", "add_to_cart", "purchase"] {
        assert!(kinds.get(kind).is_some_and(|n| *n > 50), "{kind}: {kinds:?}");
    }
    assert!(long_gaps > 500 && logged_in > 1_000 && network > 1_000, "{long_gaps} {logged_in} {network}");
    let mut counts: Vec<_> = per_user.values().copied().collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    assert!(counts[0] > 10 * counts[counts.len() / 2], "few users, many events: {counts:?}");
}

#[test]
fn events_have_about_the_size_asked_for() {
    for (event_bytes, most) in [(0, 420.0), (390, 420.0), (1_000, 1_000.0), (20_000, 20_000.0)] {
        let lines = lines(GeneratorOptions { event_bytes, users: 500, ..some(4_000) });
        let mean = lines.iter().map(|l| l.len() + 1).sum::<usize>() as f64 / lines.len() as f64;
        assert!(mean >= event_bytes as f64 && mean <= most, "{event_bytes}: {mean}");
        for line in lines {
            serde_json::from_str::<Value>(&line).expect("JSON");
        }
    }
}

#[test]
fn options_out_of_range_are_named_and_survived() {
    let bad = GeneratorOptions { users: 0, zipf: f64::NAN, duplicates: 7.0, rate: -1.0, ..some(100) };
    assert_eq!(bad.check().expect_err("no users").to_string(), "--users is 0; give a value from 1 to 100000000");
    assert_eq!(lines(bad).len(), 100);
    assert!(GeneratorOptions::default().check().is_ok());
}
