//! The schema gate, end to end: what comes over HTTP and does not fit is named in the answer; what others put into the stream
//! becomes a dead letter with its key and the place that is wrong, stays in the table, and goes through once the schema is
//! mended and the letter is sent again. Nothing else is held up.

use std::{fs, time::Duration};

use keyloom_tests::support::{
    engine::{Engine, Topology, folder, keyloom, succeed},
    servers::Nats,
    wait_for,
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const ORDER: &str = r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","required":["price"],
    "properties":{"price":{"type":"number","minimum":0}}}"#;

#[test]
fn what_does_not_fit_is_refused_at_the_door_and_dead_lettered_behind_it() {
    let folder = folder();
    let nats = Nats::start(folder.path(), "");
    let schemas = folder.path().join("schemas");
    fs::create_dir(&schemas).expect("writable");
    fs::write(schemas.join("order.json"), ORDER).expect("writable");
    let more = "[ingest]\nschemas = \"schemas\"\n".to_owned();
    let topology = Topology { nats: Some(nats.url()), more, ..Topology::default() };
    let mut engine = Engine::start(folder.path(), &topology);

    let order = |n: u32, price: &str| -> String {
        format!(r#"{{"domain_userid":"ada","event_id":"{n}","event":"order","price":{price}}}"#)
    };
    let view = r#"{"domain_userid":"ada","event_id":"view","event":"page_view","price":"anything"}"#;
    let answer = engine.post_events(&[order(1, "9.5").as_str(), &order(2, "\"free\""), view].join("\n"));
    assert_eq!((&answer["accepted"], &answer["rejected"][0]["index"]), (&Value::from(2), &Value::from(1)), "{answer}");
    let reason = answer["rejected"][0]["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("schema: /price: ") && reason.contains("number"), "{reason}");

    publish(&nats, &[&order(3, "-1"), &order(4, "4"), &view.replace("\"view\"", "\"other\"")]);
    let metrics = engine.wait_settled(5, 5);
    assert_eq!(metrics.count("keyloom_dead_letters_total", &[("reason", "schema")]), 1);
    let count = |engine: &Engine| engine.features("ada").map(|answer| answer["features"]["event_count"].clone());
    assert_eq!(count(&engine), Some(4.into()));
    let letters = succeed(&["dead-letters", "list", "-t", "keyloom.toml", "--format", "json"], folder.path());
    assert!(letters.contains("/price: ") && letters.contains("\"ada\"") && letters.contains("minimum"), "{letters}");

    // As long as the schema says so, sending it again leads nowhere; when it is mended, it does.
    let redrive = ["dead-letters", "redrive", "-t", "keyloom.toml", "--all"];
    let said = succeed(&redrive, folder.path());
    assert!(said.contains("0 dead letters sent again") && said.contains("schema: /price"), "{said}");
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
    fs::write(schemas.join("order.json"), ORDER.replace("\"minimum\":0", "\"minimum\":-5")).expect("writable");
    engine.restart();
    succeed(&redrive, folder.path());
    wait_for("the event that was sent again", PATIENCE, || match count(&engine) {
        Some(Value::Number(n)) if n.as_u64() == Some(5) => Ok(()),
        other => Err(format!("{other:?}")),
    });

    fs::write(schemas.join("order.json"), r#"{"type":"monny"}"#).expect("writable");
    let output = keyloom(&["check", "keyloom.toml"], folder.path());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("order.json: at /type") && said.contains("[ingest] schemas"), "{said}");
}

/// Publishes as any NATS client would: no headers.
fn publish(nats: &Nats, events: &[&str]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = async_nats::connect(nats.url()).await.expect("a connection");
        let context = async_nats::jetstream::new(client);
        for event in events {
            let stored = context.publish("events.shop", event.to_string().into()).await.expect("published");
            stored.await.expect("stored");
        }
    });
}
