//! What each function answers, on events that are few enough to follow by eye.

use serde_json::json;

use super::*;

#[test]
fn counts_and_numbers_are_exact() {
    let set = compiled(vec![
        ("n", define("count", "", "", None)),
        ("views", define("count", "", "event == 'page_view'", None)),
        ("priced", define("count", "price", "", None)),
        ("total", define("sum", "price", "", None)),
        ("mean", define("avg", "price", "", None)),
        ("least", define("min", "price", "", None)),
        ("most", define("max", "price", "", None)),
        ("spread", define("stddev", "price", "", None)),
    ]);
    let events = at_seconds(&[
        (0, r#""event":"page_view","price":0.1"#),
        (1, r#""event":"page_view","price":0.2"#),
        (2, r#""event":"order","price":null"#),
        (3, r#""event":"order","price":"free""#),
        (4, r#""price":-3"#),
    ]);
    let values = written(&set, &applied(&set, &events), 10);
    assert_eq!(values["n"], 5);
    assert_eq!(values["views"], 2);
    assert_eq!(values["priced"], 4, "null is no value, a text is one");
    assert_eq!(values["total"].to_string(), "-2.7", "0.1 + 0.2 - 3, without the dust of floating point");
    assert_eq!(values["mean"], -0.9);
    assert_eq!(values["least"], -3);
    assert_eq!(values["most"], 0.2);
    let spread = values["spread"].as_f64().expect("a number");
    assert!((spread - 1.485_485_3).abs() < 1e-6, "{spread}");
}

#[test]
fn values_by_time_and_by_kind() {
    let of = |function| define(function, "page_url", "", None);
    let set = compiled(vec![
        ("first", of("first")),
        ("last", of("last")),
        ("three", Definition { k: Some(3), ..of("last_k") }),
        ("distinct_three", Definition { k: Some(3), ..of("last_distinct_k") }),
        ("pages", Definition { max: Some(2), ..of("distinct") }),
        ("about", of("approx_distinct")),
        ("top", Definition { k: Some(2), ..of("top_k") }),
    ]);
    let page = |path: &str| format!(r#""page_url":"{path}""#);
    let events: Vec<(i64, String)> = [(5, "/c"), (1, "/a"), (2, "/b"), (9, "/b"), (9, "/a"), (7, "/b")]
        .into_iter()
        .map(|(at, path)| (DAY_BEGIN + secs(at), page(path)))
        .collect();
    let values = written(&set, &applied(&set, &decode(&events)), 10);
    assert_eq!(values["first"], "/a", "by event time");
    assert_eq!(values["last"], "/a", "of two at one time the later one in the log");
    assert_eq!(values["three"], json!(["/a", "/b", "/b"]));
    assert_eq!(values["distinct_three"], json!(["/a", "/b", "/c"]));
    assert_eq!(values["pages"], json!({"values": ["/a", "/b"], "more": true}));
    assert_eq!(values["about"], 3);
    let top = json!([{"value": "/b", "count": 3, "error": 0}, {"value": "/a", "count": 2, "error": 0}]);
    assert_eq!(values["top"], top);
}

#[test]
fn values_decay_while_nothing_happens() {
    let set = compiled(vec![
        ("five_minutes", define("count", "", "", sliding(300))),
        ("today", define("count", "", "", Some(Window::Tumbling(Duration::from_secs(86_400))))),
        ("in_session", define("count", "", "", Some(Window::Session))),
        ("since", define("time_since_last", "", "", None)),
        ("since_first", define("time_since_first", "", "", None)),
        ("warmth", Definition { half_life: Some(Duration::from_secs(60)), ..define("exp_decay", "", "", None) }),
        ("fresh", Definition { ttl: Some(Duration::from_secs(600)), ..define("last", "event", "", None) }),
        ("active", define("session_active", "", "", None)),
        ("always", define("count", "", "", None)),
        ("share", define("ratio", "five_minutes / always", "", None)),
    ]);
    let events = at_seconds(&[(0, r#""event":"a""#), (60, r#""event":"b""#)]);
    let state = applied(&set, &events);
    let at = |seconds| written(&set, &state, seconds);
    assert_eq!(at(60)["five_minutes"], 2);
    assert_eq!(at(420)["five_minutes"], 0, "six minutes after the last event");
    assert_eq!(at(60)["share"], 1.0);
    assert_eq!(at(420)["share"], 0.0);
    assert_eq!((at(86_399)["today"].clone(), at(86_400)["today"].clone()), (json!(2), json!(0)));
    assert_eq!((at(1_859)["in_session"].clone(), at(1_860)["in_session"].clone()), (json!(2), json!(0)));
    assert_eq!((at(1_859)["active"].clone(), at(1_860)["active"].clone()), (json!(true), json!(false)));
    assert_eq!((at(65)["since"].clone(), at(65)["since_first"].clone()), (json!(5), json!(65)));
    assert_eq!((at(60)["warmth"].clone(), at(120)["warmth"].clone()), (json!(1.5), json!(0.75)));
    assert_eq!((at(660)["fresh"].clone(), at(661)["fresh"].clone()), (json!("b"), json!(null)));
    assert_eq!(
        (at(660)["expired_features"].clone(), at(661)["expired_features"].clone()),
        (json!([]), json!(["fresh"]))
    );
    assert_eq!(at(1_000_000)["always"], 2);
    assert_eq!(at(-1_000)["five_minutes"], 2, "a key's time never goes back before its newest event");

    // The same without the session, from the part of the state that it takes.
    let mut kept = Vec::new();
    state.encode_decaying(&set, &mut kept);
    for seconds in [0, 60, 65, 420, 661, 1_860, 86_400] {
        let said = |picked: Option<&Picked>| {
            let mut out = b"{".to_vec();
            let time = Timestamp(DAY_BEGIN + secs(seconds));
            set.write_kept(&kept, time, picked, &mut Features::new(&mut out)).expect("its own bytes");
            out.push(b'}');
            serde_json::from_slice::<serde_json::Value>(&out).expect("features are JSON")
        };
        let decayed = said(None);
        let whole = at(seconds);
        let pick = |names: &[&str]| Picked::of(&set, names.iter().filter_map(|name| set.find_changing(name)));
        // Each alone, and with what nobody declared and what stays as it is.
        for name in set.decaying_names().chain(["expired_features"]) {
            let picked = pick(&[name, "no", "always", name]);
            assert_eq!(picked.len(), 1);
            assert_eq!(said(Some(&picked)), json!({name: whole[name]}), "at {seconds}");
        }
        let picked = pick(&["warmth", "share", "in_session"]);
        let some = json!({"in_session": whole["in_session"], "share": whole["share"], "warmth": whole["warmth"]});
        assert_eq!(said(Some(&picked)).to_string(), some.to_string(), "in the order of the answer");
        let names: Vec<&str> = set.decaying_names().collect();
        assert_eq!(names.len(), 9, "all but always");
        for name in names {
            assert_eq!(decayed[name], whole[name], "{name} at {seconds}");
        }
        assert_eq!(decayed["expired_features"], whole["expired_features"]);
        assert_eq!(decayed.get("always"), None);
    }
}

#[test]
fn late_events_are_counted_and_change_nothing_else() {
    let set = compiled(vec![("n", define("count", "", "", None)), ("index", define("session_index", "", "", None))]);
    let hours = |n: i64| n * 3_600;
    let events = at_seconds(&[(hours(100), ""), (hours(28), ""), (hours(28) - 1, ""), (hours(90), "")]);
    let mut state = FeatureState::new(&set);
    let told: Vec<_> = events.iter().map(|event| state.apply(&set, event)).collect();
    assert_eq!(told.iter().map(|a| a.late).collect::<Vec<_>>(), [false, false, true, false]);
    assert_eq!(told.iter().map(|a| a.late_session).collect::<Vec<_>>(), [false, true, false, true]);
    let values = written(&set, &state, hours(100));
    let counts = ["n", "late_events", "late_session_events", "index"].map(|name| values[name].clone());
    assert_eq!(counts, [json!(3), json!(1), json!(2), json!(1)]);
}

#[test]
fn sessions_say_what_happened_in_them() {
    let set = compiled(SESSION_FUNCTIONS.iter().map(|name| (*name, define(name, "", "", None))).collect());
    let of = |events: &[(i64, &str)]| {
        let values = written(&set, &applied(&set, &at_seconds(events)), events.iter().map(|e| e.0).max().unwrap_or(0));
        SESSION_FUNCTIONS.map(|name| values[name].clone())
    };
    let (a, b) = (r#""event":"page_view","page_url":"/a""#, r#""event":"page_view","page_url":"/b""#);
    let ping = r#""event":"page_ping""#;
    let one = [json!(1), json!(true), json!(25), json!(3), json!(1), json!("/a"), json!("/a"), json!(true), json!(30)];
    assert_eq!(of(&[(0, a), (15, ping), (25, ping)]), one);
    // A late event moves the beginning back; a pause of the gap begins anew.
    let two = [json!(2), json!(true), json!(11), json!(2), json!(2), json!("/b"), json!("/a"), json!(false), json!(20)];
    assert_eq!(of(&[(0, a), (1_810, a), (1_800, b), (1_811 - 12, b)])[..1], [json!(2)]);
    assert_eq!(of(&[(0, a), (1_811, a), (1_800, b)]), two);
    // What is not after the end of the session before belongs to it.
    assert_eq!(of(&[(100, a), (1_900, a), (101, b), (100, b)])[3], 2);
}

#[test]
fn expressions_reach_into_events() {
    let set = compiled(vec![
        ("spent", define("sum", "price * quantity", "event == 'order'", None)),
        ("skus", define("last_k", "product.sku", "", None)),
        ("big", define("count", "", "price * 2 > 15 && size(tags) > 1", None)),
        ("tagged", define("count", "", "tags.exists(t, t == 'new')", None)),
        ("steady", define("count", "", "!(plan in ['pro', 'team'])", None)),
        ("double", define("derived", "spent * 2", "", None)),
        ("level", define("derived", "spent > 10 ? 'high' : 'low'", "", None)),
        ("tags_seen", define("count", "tags", "", None)),
    ]);
    let events = at_seconds(&[
        (0, r#""event":"order","price":9.99,"quantity":2,"product":{"sku":"x"},"tags":["new","b"],"plan":"pro""#),
        (1, r#""event":"order","price":5,"product":{"sku":"y"},"tags":["b"],"plan":"free""#),
        (2, r#""event":"order","quantity":1,"product":[]"#),
    ]);
    let values = written(&set, &applied(&set, &events), 10);
    assert_eq!(values["spent"].to_string(), "19.98");
    assert_eq!(values["skus"], json!(["y", "x"]));
    assert_eq!(values["big"], 1);
    assert_eq!(values["tagged"], 1);
    assert_eq!(values["steady"], 1, "without the field the predicate is false, negated or not");
    assert_eq!(values["double"], 39.96);
    assert_eq!(values["level"], "high");
    assert_eq!(values["tags_seen"], 2);
}

#[test]
fn changed_definitions_start_empty_and_others_stay() {
    let old = compiled(vec![
        ("n", define("count", "", "", None)),
        ("gone", define("count", "", "event == 'x'", None)),
        ("pages", define("last_k", "page_url", "", None)),
    ]);
    let events = at_seconds(&[(0, r#""event":"x","page_url":"/a""#), (1, r#""event":"x","page_url":"/b""#)]);
    let mut bytes = Vec::new();
    applied(&old, &events).encode(&old, &mut bytes);
    let new = compiled(vec![
        ("renamed", define("count", "", " event == 'x' ", None)),
        ("added", define("count", "", "event == 'y'", None)),
        ("n", define("count", "", "", None)),
        ("pages", Definition { k: Some(2), ..define("last_k", "page_url", "", None) }),
    ]);
    let values = written(&new, &FeatureState::decode(&new, &bytes).expect("its own bytes"), 10);
    assert_eq!(values["n"], 2);
    assert_eq!(values["renamed"], 2, "the hash leaves out the name");
    assert_eq!(values["added"], 0);
    assert_eq!(values["pages"], json!([]), "another k is another definition");
    assert_eq!(old.hash_of("n"), new.hash_of("n"));
    assert_eq!(old.hash_of("gone"), new.hash_of("renamed"));
    assert_ne!(old.hash_of("pages"), new.hash_of("pages"));
    assert_ne!(old.hash(), new.hash());
}

#[test]
fn numbers_that_are_too_large_are_cut_and_counted() {
    let set = compiled(vec![("total", define("sum", "n", "", None))]);
    let events = at_seconds(&[(0, r#""n":1e40"#), (1, r#""n":1"#), (2, r#""n":-1e40"#)]);
    let values = written(&set, &applied(&set, &events), 3);
    assert_eq!((values["total"].clone(), values["cut_numbers"].clone()), (json!(1), json!(2)));
}
