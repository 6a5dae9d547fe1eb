//! Dead letters from the outside: the command line with and without a running engine, the admin API, both homes. What was
//! given up because of a handler is sent again once the handler is mended, and counts once.

use std::{fs, path::Path, process::Output, sync::Arc, time::Duration};

use keyloom_actors::{
    dead_letter::redrive_id,
    ports::{Log, NewRecord},
    timestamp::SystemClock,
};
use keyloom_engine::embedded::{EmbeddedHome, EmbeddedLog, EmbeddedOptions};
use keyloom_tests::support::{
    engine::{Engine, SETTLE_MAX, Topology, binary, folder, keyloom, succeed},
    http,
    servers::Nats,
    wait_for,
};
use serde_json::Value;

/// The handler `poison` panics on the events of `user`.
fn topology(user: &str, nats: Option<&Nats>) -> Topology {
    Topology {
        handler: "poison".to_owned(),
        more: format!("[handler.poison]\nuser = \"{user}\"\n"),
        nats: nats.map(Nats::url),
        ..Topology::default()
    }
}

fn event(user: &str, n: u32) -> String {
    format!(r#"{{"domain_userid":"{user}","event_id":"{user}-{n}","event":"page_view","n":{n}}}"#)
}

fn events() -> String {
    [event("eve", 1), event("ada", 1), event("eve", 2), event("eve", 3), event("ada", 2)].join("\n")
}

fn list(folder: &Path, more: &[&str]) -> Value {
    let json = succeed(&[&["dead-letters", "list", "--format", "json"], more].concat(), folder);
    serde_json::from_str(&json).unwrap_or_else(|e| panic!("{e}: {json}"))
}

fn ids(listing: &Value) -> Vec<String> {
    let letters = listing["dead_letters"].as_array().expect("a list");
    assert_eq!(listing["count"], letters.len());
    letters.iter().map(|letter| letter["id"].as_str().expect("a name").to_owned()).collect()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Waits until the engine has committed so many letters.
fn wait_letters(folder: &Path, count: usize) -> Vec<String> {
    wait_for("the dead letters", SETTLE_MAX, || {
        let found = ids(&list(folder, &[]));
        if found.len() == count { Ok(found) } else { Err(format!("{found:?}")) }
    })
}

/// Ends the engine, mends its handler, and starts it again.
fn mend(engine: &mut Engine, nats: Option<&Nats>) {
    fs::write(engine.folder.join("keyloom.toml"), topology("nobody", nats).text(engine.port)).expect("writable");
    engine.restart();
}

fn count(engine: &Engine, user: &str) -> Value {
    engine.features(user).map_or(Value::Null, |answer| answer["features"]["event_count"].clone())
}

/// Everything that was sent is applied, once.
fn check_applied(engine: &Engine, letters: u64) {
    wait_for("the events that were sent again", SETTLE_MAX, || match count(engine, "eve") {
        n if n == letters => Ok(()),
        n => Err(format!("{n} of eve's events")),
    });
    // Again from outside: the sessions remember what was sent again like any other event.
    engine.post_events(&events());
    let metrics = engine.wait_settled(5 + letters, 0);
    let outcome = |name| metrics.count("keyloom_events_total", &[("outcome", name)]);
    assert_eq!((outcome("applied"), outcome("dead_lettered")), (5, letters));
    assert_eq!((count(engine, "eve"), count(engine, "ada")), (letters.into(), 2.into()));
}

#[test]
fn what_a_handler_gave_up_counts_once_after_it_is_mended() {
    let folder = folder();
    let at = folder.path();
    let none = keyloom(&["dead-letters", "list"], at);
    assert_eq!(none.status.code(), Some(78), "without a topology: {}", said(&none));
    let mut engine = Engine::start_binary(&binary("poison"), at, &topology("eve", None));
    engine.post_events(&events());
    let letters = wait_letters(at, 3);

    // Through the engine that runs.
    let listing = list(at, &["--reason", "panic", "--key", "eve", "--since", "1h", "--until", "2999-01-01T00:00:00Z"]);
    assert_eq!(ids(&listing), letters);
    let first = &listing["dead_letters"][0];
    assert_eq!((&first["attempts"], &first["reason"], &first["key"]), (&3.into(), &"panic".into(), &"eve".into()));
    assert!(first["error"].as_str().is_some_and(|e| e.contains("on purpose")), "{first}");
    for none in [["--reason", "error"], ["--key", "ada"], ["--until", "1h"]] {
        assert_eq!(ids(&list(at, &none)).len(), 0, "{none:?}");
    }
    let page = list(at, &["--limit", "2"]);
    assert_eq!((&ids(&page)[..], page["next"].as_str()), (&letters[..2], Some(letters[1].as_str())));
    assert_eq!(ids(&list(at, &["--after", &letters[1]])), letters[2..]);
    let text = succeed(&["dead-letters", "list"], at);
    assert!(text.contains("panic") && text.ends_with("3 dead letters\n"), "{text}");
    let shown = succeed(&["dead-letters", "show", &letters[2]], at);
    assert!(shown.contains(r#""event_id":"eve-3""#) && shown.contains("on purpose"), "{shown}");
    let missing = keyloom(&["dead-letters", "show", "0:99999"], at);
    assert_eq!(missing.status.code(), Some(1), "{}", said(&missing));

    // What is sent again too early is given up again, under another name; and the command ends all the same.
    let text = succeed(&["dead-letters", "redrive", &letters[0]], at);
    assert!(text.contains("1 dead letter sent again"), "{text}");
    let again = keyloom(&["dead-letters", "redrive", &letters[0]], at);
    assert_eq!(again.status.code(), Some(1), "it is no letter any more: {}", said(&again));
    let letters = wait_letters(at, 3);
    assert_eq!(engine.metrics().count("keyloom_dead_letters_changed_total", &[("action", "redrive")]), 1);

    // In the data folder, while no engine runs.
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
    assert_eq!(ids(&list(at, &[])), letters);
    let text = succeed(&["dead-letters", "redrive", "--all", "--dry-run"], at);
    assert!(text.contains("3 dead letters would be sent again"), "{text}");
    mend(&mut engine, None);
    let text = succeed(&["dead-letters", "redrive", "--reason", "panic"], at);
    assert!(text.contains("3 dead letters sent again"), "{text}");
    let text = succeed(&["dead-letters", "redrive", "--all"], at);
    assert!(text.contains("0 dead letters sent again"), "{text}");
    assert_eq!(ids(&list(at, &[])).len(), 0);
    wait_for("eve", SETTLE_MAX, || match count(&engine, "eve") {
        n if n == 3 => Ok(()),
        n => Err(n.to_string()),
    });
    engine.post_events(&events());
    let metrics = engine.wait_settled(9, 0);
    let outcome = |name| metrics.count("keyloom_events_total", &[("outcome", name)]);
    assert_eq!((outcome("applied"), outcome("dead_lettered")), (5, 4));
    assert_eq!((count(&engine, "eve"), count(&engine, "ada")), (3.into(), 2.into()));
}

/// Redrive sends first and removes then. In between the machine loses power, and with it goes what the embedded log knew of
/// the ids of letters.
#[test]
fn a_redrive_that_was_cut_off_counts_once() {
    let folder = folder();
    let at = folder.path();
    let mut engine = Engine::start_binary(&binary("poison"), at, &topology("eve", None));
    engine.post_events(&events());
    let letters = wait_letters(at, 3);
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let options = EmbeddedOptions {
            data_dir: at.join("data"),
            fsync: true,
            retention_age: None,
            retention_bytes: None,
            dedupe_window: Duration::from_secs(120),
        };
        let home = EmbeddedHome::open(&options).expect("the engine has ended");
        let log = EmbeddedLog::new(&home, Arc::new(SystemClock));
        for (n, id) in (1..).zip(&letters) {
            let seq = id.split_once(':').and_then(|(_, seq)| seq.parse().ok()).expect("a name");
            let dedupe_id = Some(redrive_id(0, seq));
            let record = NewRecord { key: "eve".into(), dedupe_id, payload: event("eve", n).into(), scanned: None };
            log.append(0, vec![record]).await.expect("stored");
        }
    });
    drop(runtime);
    let free = || keyloom(&["dead-letters", "list"], at);
    wait_for("the data folder to be free", SETTLE_MAX, || {
        if free().status.success() { Ok(()) } else { Err(said(&free())) }
    });
    mend(&mut engine, None);
    let text = succeed(&["dead-letters", "redrive", "--all"], at);
    assert!(text.contains("3 dead letters sent again"), "{text}");
    let metrics = engine.wait_settled(11, 0);
    let outcome = |name| metrics.count("keyloom_events_total", &[("outcome", name)]);
    assert_eq!((outcome("applied"), outcome("dead_lettered"), outcome("duplicate")), (5, 3, 3));
    wait_for("what was applied to be published", SETTLE_MAX, || {
        match ["eve", "ada"].map(|user| count(&engine, user)) {
            counts if counts == [3, 2] => Ok(()),
            counts => Err(format!("{counts:?}")),
        }
    });
}

#[test]
fn what_nobody_can_process_is_left_and_purged() {
    let folder = folder();
    let at = folder.path();
    let engine = Engine::start(at, &Topology::default());
    let lines = ["{broken", r#"{"event":"no key"}"#, r#"{"domain_userid":"ada"}"#, "\u{1b}[2J"];
    fs::write(at.join("bad.jsonl"), lines.join("\n")).expect("writable");
    engine.ingest(&at.join("bad.jsonl"));
    let letters = wait_letters(at, 3);

    for wrong in [
        &["redrive"][..],
        &["purge", "--dry-run"],
        &["purge", "--all", "--key", "ada"],
        &["purge", "17"],
        &["list", "--reason", "panics"],
        &["list", "--since", "yesterday"],
        &["list", "--partition", "7"],
    ] {
        let refused = keyloom(&[&["dead-letters"], wrong].concat(), at);
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}: {}", said(&refused));
    }
    let text = succeed(&["dead-letters", "redrive", "--all"], at);
    assert!(text.contains("0 dead letters sent again") && text.contains("no_key: none of these fields"), "{text}");
    let named = keyloom(&["dead-letters", "redrive", &letters[0]], at);
    assert_eq!(named.status.code(), Some(1), "{}", said(&named));
    assert!(!succeed(&["dead-letters", "list"], at).contains('\u{1b}'));

    // The same over HTTP.
    let get = |path: &str| http::get(engine.port, path).expect("an answer");
    let page = get("/api/dead-letters?reason=parse&limit=1").json();
    assert_eq!((&ids(&page)[..], page["next"].as_str()), (&letters[..1], Some(letters[0].as_str())));
    let (partition, seq) = letters[1].split_once(':').expect("a name");
    let letter = get(&format!("/api/dead-letters/{partition}/{seq}")).json();
    assert_eq!((&letter["reason"], letter["id"].as_str()), (&"no_key".into(), Some(letters[1].as_str())));
    assert!(letter["payload"].as_str().is_some_and(|payload| payload.contains("no key")), "{letter}");
    for (path, status) in [("0/99999", 404), ("0/x", 400), ("x/1", 400), ("?limit=0", 400), ("?raeson=panic", 400)] {
        let slash = if path.starts_with('?') { "" } else { "/" };
        let answer = get(&format!("/api/dead-letters{slash}{path}"));
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert!(answer.json()["hint"].is_string());
    }
    let post = |action: &str, kind: &str, body: &str| {
        http::post(engine.port, &format!("/api/dead-letters/{action}"), kind, body.as_bytes()).expect("an answer")
    };
    assert_eq!(post("purge", "text/plain", r#"{"all":true}"#).status, 415, "a browser on a foreign page");
    for wrong in ["", "{}", r#"{"all":true,"kee":"x"}"#, r#"{"reason":"panics"}"#] {
        assert_eq!(post("purge", "application/json", wrong).status, 400, "{wrong}");
    }
    let report = post("redrive", "application/json", r#"{"reason":"no_key","dry_run":true,"force":true}"#).json();
    assert_eq!((&report["done"], &report["dry_run"]), (&1.into(), &true.into()), "{report}");
    let report = post("purge", "application/json; charset=utf-8", r#"{"reason":"no_key"}"#).json();
    assert_eq!((&report["done"], &report["next"]), (&1.into(), &Value::Null), "{report}");

    let text = succeed(&["dead-letters", "purge", "--reason", "parse", "--limit", "1"], at);
    assert!(text.contains("1 dead letter removed"), "{text}");
    assert_eq!(ids(&list(at, &[])), letters[2..]);
    let json = succeed(&["dead-letters", "purge", "--all", "--format", "json"], at);
    let report: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&report["action"], &report["done"]), (&"purge".into(), &1.into()));
    assert_eq!(ids(&list(at, &[])).len(), 0);
}

#[test]
fn on_nats_no_engine_is_needed() {
    let folder = folder();
    let at = folder.path();
    let nats = Nats::start(at, "");
    let mut engine = Engine::start_binary(&binary("poison"), at, &topology("eve", Some(&nats)));
    engine.post_events(&events());
    let letters = wait_letters(at, 3);
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());

    assert_eq!(ids(&list(at, &["--key", "eve"])), letters);
    assert!(succeed(&["dead-letters", "show", &letters[0]], at).contains("eve-1"));
    let text = succeed(&["dead-letters", "redrive", "--all"], at);
    assert!(text.contains("3 dead letters sent again"), "{text}");
    let text = succeed(&["dead-letters", "redrive", "--all"], at);
    assert!(text.contains("0 dead letters sent again"), "{text}");
    mend(&mut engine, Some(&nats));
    check_applied(&engine, 3);

    // What a foreign publisher sends is no event, and goes.
    for line in ["{broken", "null"] {
        fs::write(at.join("bad.jsonl"), line).expect("writable");
        engine.ingest(&at.join("bad.jsonl"));
    }
    wait_letters(at, 2);
    let text = succeed(&["dead-letters", "purge", "--reason", "parse"], at);
    assert!(text.contains("2 dead letters removed"), "{text}");
    assert_eq!(ids(&list(at, &[])).len(), 0);
}
