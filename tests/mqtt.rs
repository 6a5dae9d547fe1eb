//! Devices over MQTT, end to end: a real MQTT client publishes to nats-server's own MQTT port, with the topology and the
//! server settings that `config/` ships. Each device has its features, named by its topic; what is no JSON becomes a dead
//! letter; keys survive a kill, are found by the tools too, and a letter that had no key is sent again to the right one.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use base64::Engine as _;
use keyloom_tests::support::{
    engine::{Engine, Topology, folder, succeed},
    servers::{Nats, free_port},
    tool, wait_for, workspace,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// A message of a device.
fn message(device: &str, kind: &str, qos: u8, payload: &[u8]) -> String {
    let payload = base64::engine::general_purpose::STANDARD.encode(payload);
    // NATS takes no dots in the name of a client, but in topics.
    let client = device.replace('.', "-");
    json!({"client": client, "topic": format!("events/{device}/{kind}"), "qos": qos, "payload": payload}).to_string()
}

/// Publishes messages and waits until the broker has taken them.
fn publish(port: u16, messages: &[String]) {
    let mut command = Command::new(tool("KEYLOOM_PYTHON"));
    command.arg(workspace().join("tests/devices.py")).arg(format!("127.0.0.1:{port}"));
    command.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut devices = command.spawn().expect("python starts");
    let mut stdin = devices.stdin.take().expect("a pipe");
    stdin.write_all(messages.join("\n").as_bytes()).expect("it listens");
    drop(stdin);
    let output = devices.wait_with_output().expect("it ends");
    let (said, problem) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {said}{problem}", output.status);
    assert_eq!(said.trim(), messages.len().to_string());
}

/// The lines of the shipped server settings that speak of MQTT, on a port of our own.
fn mqtt_settings(port: u16) -> String {
    let text = fs::read_to_string(workspace().join("config/devices.nats.conf")).expect("it is shipped");
    let lines = text.lines().filter(|line| line.starts_with("server_name") || line.starts_with("mqtt"));
    let settings = lines.collect::<Vec<_>>().join("\n");
    assert!(settings.contains("127.0.0.1:1883") && settings.contains("server_name"), "{settings}");
    settings.replace("127.0.0.1:1883", &format!("127.0.0.1:{port}"))
}

/// The shipped topology; `replace` is applied to its text.
fn topology(nats: &Nats, replace: &[(&str, &str)]) -> Topology {
    let mut text = fs::read_to_string(workspace().join("config/devices.toml")).expect("it is shipped");
    for (from, to) in replace {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    Topology { file: Some(text), nats: Some(nats.url()), ..Topology::default() }
}

fn feature(engine: &Engine, key: &str, name: &str) -> Value {
    engine.features(key).map_or(Value::Null, |answer| answer["features"][name].clone())
}

#[test]
fn devices_have_features_by_the_name_in_their_topic() {
    let folder = folder();
    let mqtt = free_port();
    let nats = Nats::start(folder.path(), &mqtt_settings(mqtt));
    let often = [("age = \"1m\"", "age = \"500ms\"")];
    let mut engine = Engine::start(folder.path(), &topology(&nats, &often));
    let mut messages = Vec::new();
    for n in 0..20 {
        for device in 0..10 {
            let reading = json!({"temperature": 20 + n, "battery": 100 - n}).to_string();
            messages.push(message(&format!("device{device}"), "climate", (n % 2) as u8, reading.as_bytes()));
        }
    }
    // No JSON, no text at all, and JSON that is no object; in between what is good goes on.
    messages.push(message("device3", "raw", 1, b"21.5 C"));
    messages.push(message("device3", "raw", 0, &[0xff, 0x00, 0x7f]));
    messages.push(message("device3", "raw", 1, b"21.5"));
    messages.push(message("device3", "climate", 1, br#"{"temperature": 60}"#));
    // The same message twice, as a client sends it that saw no PUBACK: its event id tells.
    for _ in 0..2 {
        messages.push(message("device4", "climate", 1, br#"{"event_id":"once","temperature":50}"#));
    }
    // A dot in a level is not a level of its own.
    messages.push(message("hall.7", "climate", 1, br#"{"temperature": 18}"#));
    publish(mqtt, &messages);
    engine.wait_settled(messages.len() as u64, messages.len() as u64 - 3);
    let told = |engine: &Engine| {
        assert_eq!(feature(engine, "device0", "event_count"), 20, "QoS 0 and QoS 1");
        assert_eq!(feature(engine, "device0", "temperature_avg_1h"), json!(29.5));
        assert_eq!(feature(engine, "device0", "battery_last"), 81);
        assert_eq!(feature(engine, "device3", "event_count"), 21);
        assert_eq!(feature(engine, "device3", "temperature_max_1d"), 60);
        assert_eq!((feature(engine, "device4", "event_count"), engine.features("climate")), (json!(21), None));
        assert_eq!(feature(engine, "hall//7", "event_count"), 1, "as NATS writes a dot of MQTT");
    };
    told(&engine);
    let dead = |engine: &Engine, reason| engine.metrics().count("keyloom_dead_letters_total", &[("reason", reason)]);
    assert_eq!((dead(&engine, "parse"), dead(&engine, "no_key")), (3, 0));

    // The process dies; what comes meanwhile is read by the next one, and the tools name the same keys.
    engine.process.kill();
    publish(mqtt, &[message("device0", "climate", 1, br#"{"battery": 7}"#)]);
    engine.launch_again();
    engine.wait_ready();
    wait_for("the next event of the device", PATIENCE, || match feature(&engine, "device0", "battery_last") {
        Value::Number(n) if n.as_u64() == Some(7) => Ok(()),
        other => Err(other.to_string()),
    });
    assert_eq!(feature(&engine, "device0", "event_count"), 21);
    let shown = succeed(&["key", "show", "-t", "keyloom.toml", "--format", "json", "device3"], folder.path());
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    let last = shown["last_events"].as_array().and_then(|events| events.last()?["event"].as_str()).unwrap_or_default();
    assert!(last.contains("60"), "{shown}");
}

#[test]
fn a_letter_without_a_key_finds_it_when_the_topology_says_where() {
    let folder = folder();
    let mqtt = free_port();
    let nats = Nats::start(folder.path(), &mqtt_settings(mqtt));
    let blind = [("key = [\"subject:2\"]", "key = [\"device_id\"]")];
    let mut engine = Engine::start(folder.path(), &topology(&nats, &blind));
    publish(mqtt, &[message("device1", "climate", 1, br#"{"temperature": 20}"#)]);
    wait_for("the dead letter", PATIENCE, || {
        let dead = engine.metrics().count("keyloom_dead_letters_total", &[("reason", "no_key")]);
        if dead == 1 { Ok(()) } else { Err(format!("{dead} dead letters")) }
    });
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());

    engine.topology = topology(&nats, &[]);
    fs::write(folder.path().join("keyloom.toml"), engine.topology.text(engine.port)).expect("writable");
    engine.restart();
    let said = succeed(&["dead-letters", "redrive", "-t", "keyloom.toml", "--all"], folder.path());
    wait_for("the feature of the device", PATIENCE, || match feature(&engine, "device1", "event_count") {
        Value::Number(n) if n.as_u64() == Some(1) => Ok(()),
        other => Err(format!("{other}, and redrive said {said}")),
    });
}

#[test]
fn what_comes_over_http_has_no_topic_and_takes_the_fallback() {
    let folder = folder();
    let nats = Nats::start(folder.path(), "");
    let keys = [("key = [\"subject:2\"]", "key = [\"subject:2\"]\nkey_fallback = \"nobody\"")];
    let engine = Engine::start(folder.path(), &topology(&nats, &keys));
    let answer = engine.post_events(r#"{"temperature": 20}"#);
    assert_eq!(answer["accepted"], 1, "{answer}");
    wait_for("the feature of nobody in particular", PATIENCE, || match feature(&engine, "nobody", "event_count") {
        Value::Number(n) if n.as_u64() == Some(1) => Ok(()),
        other => Err(other.to_string()),
    });
}
