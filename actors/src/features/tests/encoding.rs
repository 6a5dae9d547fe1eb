//! States as bytes: damaged ones are refused or read, never more; hostile events do not make them large.

use proptest::prelude::*;

use super::*;

fn set() -> FeatureSet {
    let windows = [None, sliding(60), Some(Window::Session), Some(Window::Tumbling(Duration::from_secs(3_600)))];
    let functions = [
        "count",
        "sum",
        "avg",
        "stddev",
        "min",
        "first",
        "last",
        "last_k",
        "last_distinct_k",
        "approx_distinct",
        "distinct",
        "top_k",
    ];
    let mut definitions = Vec::new();
    for (w, window) in windows.into_iter().enumerate() {
        for function in functions {
            let of = if matches!(function, "count") { "" } else { "v" };
            definitions.push((format!("{function}_{w}"), define(function, of, "", window)));
        }
    }
    definitions.push(("since".to_owned(), define("time_since_first", "", "", None)));
    let half_life = Some(Duration::from_secs(60));
    definitions.push(("warmth".to_owned(), Definition { half_life, ..define("exp_decay", "", "", None) }));
    definitions.push(("entry".to_owned(), define("session_entry_page", "", "", None)));
    FeatureSet::compile(definitions, Settings::default()).expect("valid definitions")
}

fn state_of(set: &FeatureSet, events: usize) -> FeatureState {
    let events: Vec<(i64, String)> = (0..events as i64)
        .map(|i| {
            (DAY_BEGIN + secs(i * 7 % 900), format!(r#""event":"page_view","page_url":"/{i}","v":{}"#, i * 37 % 101))
        })
        .collect();
    applied(set, &decode(&events))
}

proptest! {
    #[test]
    fn damaged_bytes_are_refused_or_read(
        at in any::<prop::sample::Index>(),
        put in prop::collection::vec(any::<u8>(), 0..12),
        cut in 0usize..24,
    ) {
        let set = set();
        let mut bytes = Vec::new();
        state_of(&set, 60).encode(&set, &mut bytes);
        let start = at.index(bytes.len());
        let end = (start + cut).min(bytes.len());
        bytes.splice(start..end, put);
        if let Ok(mut state) = FeatureState::decode(&set, &bytes) {
            // What is read can be used.
            for event in at_seconds(&[(1_000, r#""v":1"#), (2_000, r#""v":"x""#)]).iter() {
                state.apply(&set, event);
            }
            written(&set, &state, 3_000);
            let (mut once, mut again) = (Vec::new(), Vec::new());
            state.encode(&set, &mut once);
            if let Ok(back) = FeatureState::decode(&set, &once) {
                back.encode(&set, &mut again);
                prop_assert_eq!(once, again);
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let set = set();
        let _either_way = FeatureState::decode(&set, &bytes);
        let mut versioned = vec![1u8];
        versioned.extend(bytes);
        let _either_way = FeatureState::decode(&set, &versioned);
    }
}

#[test]
fn the_order_of_definitions_makes_no_difference() {
    let definitions = || {
        vec![
            ("b", define("count", "", "event == 'page_view'", sliding(60))),
            ("a", define("sum", "v", "", None)),
            ("c", define("ratio", "a / b", "", None)),
            ("d", define("last", "page_url", "", None)),
        ]
    };
    let (one, other) = (compiled(definitions()), compiled(definitions().into_iter().rev().collect()));
    let bytes = [&one, &other].map(|set| {
        let mut bytes = Vec::new();
        state_of(set, 100).encode(set, &mut bytes);
        bytes
    });
    assert_eq!(bytes[0], bytes[1]);
    assert_eq!(
        (one.hash(), written(&one, &state_of(&one, 9), 99)),
        (other.hash(), written(&other, &state_of(&other, 9), 99))
    );
}

#[test]
fn hostile_events_do_not_make_a_state_large() {
    let long = "x".repeat(100_000);
    let definitions = vec![
        ("last", define("last_k", "v", "", None)),
        ("recent", define("last_distinct_k", "v", "", sliding(60))),
        ("which", define("distinct", "v", "", None)),
        ("about", define("approx_distinct", "v", "", sliding(60))),
        ("top", define("top_k", "v", "", None)),
        ("now", define("sum", "n", "", sliding(60))),
        ("pages", define("session_engaged", "", "", None)),
    ];
    let set = compiled(definitions);
    let mut state = FeatureState::new(&set);
    for i in 0..4_000i64 {
        // Times that jump far and back, so that every tile and every piece of a session comes into being.
        let time = DAY_BEGIN + secs((i * 7_919) % 1_700);
        let rest = format!(r#""event":"page_view","page_url":"{i}{long}","v":"{i}{long}","n":1e308"#);
        let batch = decode(&[(time, rest)]);
        state.apply(&set, batch.get(0));
    }
    let mut bytes = Vec::new();
    state.encode(&set, &mut bytes);
    // 10 + 10 + 100 + 100 + 2 texts of a kilobyte, 62 tiles of hashes, and little else.
    let texts = (10 + 10 + 100 + 100 + 2) * (TEXT_BYTES_MAX + 40);
    assert!(bytes.len() < texts + 62 * 4_200 + 8_192, "{} bytes", bytes.len());
    let back = FeatureState::decode(&set, &bytes).expect("its own bytes");
    assert_eq!(written(&set, &back, 1_700), written(&set, &state, 1_700));
}
