//! Declared features, end to end: computed by the engine through kills, read over HTTP later than the last event, in both homes;
//! and the cases of the shipped topology, played by `keyloom test`. What each function computes is judged by an oracle in
//! `actors/src/features/tests`.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, time::Duration};

use keyloom_actors::timestamp::{Clock, SECOND, SystemClock, Timestamp};
use keyloom_tests::support::{
    engine::{Engine, Topology, folder, generate, keyloom, on_nats_and_s3, succeed},
    http, wait_for, workspace,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
const EVENTS: u64 = 20_000;
const USERS: u64 = 400;
const DAY: i64 = 86_400 * SECOND;

#[test]
fn embedded() {
    features_are_what_the_events_say(Topology { partitions: 2, ..Topology::default() });
}

#[test]
fn with_nats_and_s3() {
    on_nats_and_s3(features_are_what_the_events_say);
}

/// Naively: of each user, events and page views.
#[derive(Default)]
struct Expected {
    events: u64,
    views: u64,
}

fn expected(input: &Path) -> BTreeMap<String, Expected> {
    let mut seen = std::collections::BTreeSet::new();
    let mut users: BTreeMap<String, Expected> = BTreeMap::new();
    for line in fs::read_to_string(input).expect("it was generated").lines() {
        let event: Value = serde_json::from_str(line).expect("JSON");
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        if seen.insert((text("domain_userid"), text("event_id"))) {
            let user = users.entry(text("domain_userid")).or_default();
            user.events += 1;
            user.views += u64::from(text("event") == "page_view");
        }
    }
    users
}

fn features_are_what_the_events_say(topology: Topology) {
    let folder = folder();
    let mut more = String::from(
        "[features]\nlateness = \"365d\"\n[feature.events]\nfunction = \"count\"\n\
         [feature.views]\nfunction = \"count\"\nwhere = \"event == 'page_view'\"\n\
         [feature.today]\nfunction = \"count\"\nwindow = { tumbling = \"1d\" }\n\
         [feature.minute]\nfunction = \"count\"\nwindow = \"1m\"\n",
    );
    for i in 0..246 {
        writeln!(more, "[feature.f{i}]\nfunction = \"count\"\nwhere = \"event == 'page_view' || page_url == '/{i}'\"")
            .expect("a text");
    }
    let sessions = "resident_max = 100".to_owned(); // most are evicted between two of their events
    let topology = Topology { sessions, more, ..topology };
    let input = generate(folder.path(), EVENTS, USERS, &["--duplicates", "0.02", "--late", "0.1"]);
    let users = expected(&input);
    let distinct = users.values().map(|user| user.events).sum();
    let mut engine = Engine::start(folder.path(), &topology);
    engine.ingest(&input);
    engine.process.kill();
    engine.launch_again();
    engine.wait_ready();
    engine.wait_settled(distinct, 0);
    let answers = || users.iter().map(|(user, expected)| (user, expected, engine.features(user)));
    let shows = |expected: &Expected, answer: &Option<Value>| {
        let features = answer.as_ref().map(|answer| &answer["features"]);
        features.is_some_and(|features| {
            let views = Value::from(expected.views);
            features["events"] == expected.events && features["views"] == views && features["f245"] == views
        })
    };
    wait_for("all features to be published", PATIENCE, || {
        let wrong: Vec<_> =
            answers().filter(|(_, expected, answer)| !shows(expected, answer)).map(|(u, ..)| u).collect();
        if wrong.is_empty() { Ok(()) } else { Err(format!("{} users, {:?} first", wrong.len(), wrong[0])) }
    });
    for (user, _, answer) in answers() {
        let features = answer.expect("it was there")["features"].clone();
        // The events are of last year: their last minute and their last day are over.
        assert_eq!((&features["minute"], &features["today"]), (&json!(0), &json!(0)), "{user}");
        assert_eq!(features["late_events"], 0, "{user}");
        assert_eq!(features.as_object().map(|f| f.keys().filter(|name| name.starts_with('f')).count()), Some(247));
    }
    a_count_goes_down_by_itself(&engine);
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
}

/// An event of 45 seconds ago is in the last minute, and soon no longer, though nothing comes.
fn a_count_goes_down_by_itself(engine: &Engine) {
    let time = SystemClock.now().0 - 45 * SECOND;
    let tstamp = Timestamp(time).to_rfc3339();
    let event = json!({"domain_userid": "fresh", "event_id": "1", "event": "page_view", "collector_tstamp": tstamp});
    engine.post_events(&(event.to_string() + "\n"));
    let count = |name: &str| engine.features("fresh").map_or(Value::Null, |answer| answer["features"][name].clone());
    wait_for("the event to count", PATIENCE, || if count("events") == 1 { Ok(()) } else { Err(String::new()) });
    wait_for("it to be over", PATIENCE, || match count("minute") {
        over if over == 0 => Ok(()),
        counts => Err(counts.to_string()),
    });
    // Unless midnight has come since, it is of today.
    let is_of_today = || u64::from(time.div_euclid(DAY) == SystemClock.now().0.div_euclid(DAY));
    let before = is_of_today();
    let answer = engine.features("fresh").expect("an answer");
    assert_eq!(answer["features"]["events"], 1);
    let today = answer["features"]["today"].as_u64().expect("a count");
    assert!((is_of_today()..=before).contains(&today), "{answer}");
    assert!(answer["decaying"].is_null(), "that is the engine's business");
    // Anybody who reads the store finds values as of the event.
    let path = format!("/api/key?key={}", http::percent_encode("fresh"));
    let report = http::get(engine.port, &path).expect("an answer").json();
    assert_eq!(report["definitions"]["events"].as_str().map(str::len), Some(16), "{report}");
    assert_eq!(report["state"]["event_count"], 1, "{report}");
    assert_eq!(report["restarts"], 0);
}

#[test]
fn the_cases_of_a_topology_are_played_without_a_server() {
    let folder = folder();
    let config = workspace().join("config");
    for name in ["features.toml", "features.test.toml"] {
        fs::copy(config.join(name), folder.path().join(name)).expect("copied");
    }
    let said = succeed(&["test", "features.toml"], folder.path());
    assert!(said.contains("ok      orders count towards rate and revenue"), "{said}");
    assert!(said.contains("4 cases, 0 failed"), "{said}");
    assert!(!folder.path().join("data").exists(), "nothing was started");

    let cases = fs::read_to_string(folder.path().join("features.test.toml")).expect("cases");
    fs::write(folder.path().join("wrong.toml"), cases.replace("views_5m = 0", "views_5m = 7")).expect("written");
    let output = keyloom(&["test", "features.toml", "wrong.toml"], folder.path());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("step 8: feature views_5m of ada is 0, expected 7"), "{said}");
}
