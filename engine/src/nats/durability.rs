//! How safe an acknowledged write is on this broker: what the engine prints at start and exports.
//!
//! A server tells its fsync policy only to its system account, over HTTP, or to an account that imports that service, so
//! often the answer is "unknown" with the way to find out. Not for judging: refusing to run is the topology's choice.

use std::time::Duration;

use async_nats::StatusCode;
use bytes::Bytes;
use futures_util::StreamExt;
use keyloom_actors::ports::Durability;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::Connection;

/// Where servers answer with their JetStream settings, where our account may ask: every server that hears it does.
const SETTINGS_SUBJECT: &str = "$SYS.REQ.SERVER.PING.JSZ";
/// How long their answers are gathered, because nobody says how many there are. Most accounts hear at once that nobody answers.
const SETTINGS_WAIT: Duration = Duration::from_millis(500);
/// Servers that are listened to.
const SERVERS_MAX: usize = 1_000;

/// Finds out how safe an acknowledged write is. After the log and the store are opened it knows the replicas, too.
pub async fn probe(connection: &Connection) -> Durability {
    let replicas = connection.replicas();
    let fsync_always = of_all(&ask_servers(connection).await, replicas);
    let description = describe(&connection.server_version(), replicas, fsync_always);
    Durability { description, fsync_always }
}

/// What each server says that tells.
async fn ask_servers(connection: &Connection) -> Vec<bool> {
    let (client, until) = (&connection.control().client, Instant::now() + SETTINGS_WAIT);
    let inbox = client.new_inbox();
    let mut told = Vec::new();
    let Ok(mut answers) = client.subscribe(inbox.clone()).await else { return told };
    if client.publish_with_reply(SETTINGS_SUBJECT, inbox, Bytes::new()).await.is_err() {
        return told; // as if nobody answered
    }
    while told.len() < SERVERS_MAX
        && let Ok(Some(answer)) = timeout_at(until, answers.next()).await
        && answer.status != Some(StatusCode::NO_RESPONDERS)
    {
        told.extend(serde_json::from_slice(&answer.payload).ok().as_ref().and_then(fsync_always));
    }
    told
}

/// What holds wherever a stream has its copies, now or later: one server that does not fsync is enough to lose, and fewer
/// answers than copies say nothing about the others.
fn of_all(told: &[bool], replicas: Option<usize>) -> Option<bool> {
    let all = told.iter().all(|always| *always);
    (!all || told.len() >= replicas.unwrap_or(1).max(1)).then_some(all)
}

/// What a server's answer says: `sync_always` is there when it is true, and absent otherwise.
fn fsync_always(answer: &Value) -> Option<bool> {
    let config = answer.pointer("/data/config").or_else(|| answer.get("config"))?;
    config.get("sync_interval")?;
    Some(config.get("sync_always").and_then(Value::as_bool).unwrap_or(false))
}

fn describe(version: &str, replicas: Option<usize>, fsync_always: Option<bool>) -> String {
    let copies = match replicas {
        None => "an unknown number of copies".to_owned(),
        Some(1) => "one copy (R1)".to_owned(),
        Some(n) => format!("{n} copies (R{n})"),
    };
    let alone = replicas.is_none_or(|n| n <= 1);
    let meaning = match (fsync_always, alone) {
        (Some(true), _) => "every acknowledged write is on disk (sync_interval: always)",
        (Some(false), true) => {
            "an acknowledged write survives a killed server, but a power failure takes back what was not yet synced \
             (sync_interval, 2 minutes unless set; `sync_interval: always` closes the gap)"
        }
        (Some(false), false) => {
            "an acknowledged write survives the loss of a minority of the servers, but not a power failure of all of \
             them (`sync_interval: always` closes the gap)"
        }
        (None, true) => {
            "an acknowledged write survives a killed server; whether it survives a power failure depends on the server's \
             sync_interval, which it does not tell our account: `\"sync_always\": true` at http://<server>:8222/jsz says \
             that it does"
        }
        (None, false) => {
            "an acknowledged write survives the loss of a minority of the servers; whether it survives a power failure \
             of all of them depends on their sync_interval, which they do not tell our account: `\"sync_always\": true` \
             at http://<server>:8222/jsz says that it does"
        }
    };
    format!("NATS {version}, {copies}: {meaning}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_server_that_tells_is_believed() {
        let with = |config: Value| fsync_always(&json!({ "data": { "config": config } }));
        assert_eq!(with(json!({ "sync_interval": 120_000_000_000_u64 })), Some(false));
        assert_eq!(with(json!({ "sync_interval": 120_000_000_000_u64, "sync_always": true })), Some(true));
        assert_eq!(with(json!({})), None);
        assert_eq!(fsync_always(&json!({ "error": "no" })), None);
    }

    #[test]
    fn all_servers_must_say_it() {
        assert_eq!(of_all(&[], None), None);
        assert_eq!((of_all(&[true], Some(1)), of_all(&[true; 3], Some(3))), (Some(true), Some(true)));
        assert_eq!((of_all(&[true, false, true], Some(3)), of_all(&[false], Some(3))), (Some(false), Some(false)));
        assert_eq!(of_all(&[true; 2], Some(3)), None, "the third may be another one");
    }

    #[test]
    fn the_description_says_how_many_copies_there_are() {
        for (replicas, text) in [(Some(1), "R1"), (Some(3), "R3"), (None, "unknown")] {
            for fsync in [None, Some(true), Some(false)] {
                assert!(describe("2.15.1", replicas, fsync).contains(text));
            }
        }
    }
}
