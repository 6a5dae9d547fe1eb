//! The contract of the port `FeatureBackend`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use keyloom_actors::{
    backend::{BackendError, FeatureBackend, Mark, Outcome, Put, Version},
    key::Key,
    timestamp::{Clock, SECOND, SystemClock, Timestamp},
};
use keyloom_tests::support::homes::{BACKEND_PREFIX, BackendHome};
use tokio::time::timeout;

contract!(
    BackendHome: redis, dynamodb;
    an_answer_is_put_and_read_as_it_is,
    a_later_answer_is_never_replaced_by_an_earlier_one,
    the_mark_moves_from_where_it_was_and_nowhere_else,
    partitions_have_marks_of_their_own,
    hundreds_of_answers_go_in_one_call_and_are_told_apart,
    a_backend_that_has_lost_everything_says_so,
    what_somebody_else_put_there_stays,
    answers_leave_when_their_time_is_over,
    a_server_that_is_gone_is_unavailable,
);

/// Longest wait for anything here.
const PATIENCE: Duration = Duration::from_secs(60);

fn mark(epoch: u64, count: u64) -> Mark {
    Mark { generation: 1, epoch, count, seq: 7 }
}

fn put(key: &str, version: Version) -> Put {
    let (key, event_time) = (Key::new(key).expect("a valid key"), Timestamp(1_795_176_000_123_000));
    let (name, time, seq) = (serde_json::json!(key.as_str()), event_time.to_rfc3339(), version.seq);
    let what = serde_json::json!(version.to_text());
    let answer = format!(
        "{{\"key\":{name},\"profile\":null,\"partition\":0,\"features\":{{\"what\":{what}}},\
         \"event_time\":\"{time}\",\"seq\":{seq}}}"
    );
    Put { key, version, event_time, answer: Bytes::from(answer) }
}

fn version(generation: u64, seq: u64, epoch: u64, number: u64) -> Version {
    Version { generation, seq, epoch, number }
}

async fn call(
    backend: &dyn FeatureBackend,
    puts: &[Put],
    from: Option<Mark>,
    to: Mark,
) -> Result<Vec<Outcome>, BackendError> {
    timeout(PATIENCE, backend.put(0, puts, from, to)).await.expect("in time")
}

async fn mark_of(backend: &dyn FeatureBackend, partition: u32) -> Option<Mark> {
    timeout(PATIENCE, backend.mark(partition)).await.expect("in time").expect("a mark, or none")
}

fn shows(home: &BackendHome, put: &Put) {
    let expected: serde_json::Value = serde_json::from_slice(&put.answer).expect("JSON");
    assert_eq!(home.answer(put.key.as_str()), Some(expected), "{put:?}");
}

async fn an_answer_is_put_and_read_as_it_is(home: Option<BackendHome>) {
    let Some(home) = home else { return };
    let backend = home.open(None);
    assert!(backend.place().contains(BACKEND_PREFIX), "{}", backend.place());
    assert_eq!((mark_of(&*backend, 0).await, home.answer("u")), (None, None));
    let first = put("u", version(1, 2, 3, 4));
    for to in [mark(1, 1), mark(1, 1)] {
        // The second time it is there already.
        assert_eq!(call(&*backend, std::slice::from_ref(&first), None, to).await, Ok(vec![Outcome::Written]));
        shows(&home, &first);
    }
    assert_eq!(mark_of(&*home.open(None), 0).await, Some(mark(1, 1)));
}

async fn a_later_answer_is_never_replaced_by_an_earlier_one(home: Option<BackendHome>) {
    let Some(home) = home else { return };
    let backend = home.open(None);
    // In order: the number, the owner, the sequence, the log.
    let versions = [(1, 9, 1, 9), (1, 10, 1, 0), (1, 10, 1, 11), (1, 10, 2, 0), (1, 11, 1, 0), (2, 1, 1, 0)];
    let puts: Vec<Put> = versions.map(|(g, s, e, n)| put("u", version(g, s, e, n))).into();
    let mut count = 0;
    for (at, latest) in puts.iter().enumerate() {
        let from = (count > 0).then(|| mark(1, count));
        let written = call(&*backend, std::slice::from_ref(latest), from, mark(1, count + 1)).await;
        assert_eq!(written, Ok(vec![Outcome::Written]), "{latest:?}");
        count += 1;
        for earlier in &puts[..at] {
            let refused =
                call(&*backend, std::slice::from_ref(earlier), Some(mark(1, count)), mark(1, count + 1)).await;
            assert_eq!(refused, Ok(vec![Outcome::Older(latest.version)]), "{earlier:?}");
            count += 1;
            shows(&home, latest);
        }
    }
}

async fn the_mark_moves_from_where_it_was_and_nowhere_else(home: Option<BackendHome>) {
    let Some(home) = home else { return };
    let backend = home.open(None);
    assert_eq!(call(&*backend, &[], None, mark(1, 1)).await, Ok(vec![]));
    assert_eq!(call(&*backend, &[], Some(mark(1, 1)), mark(1, 2)).await, Ok(vec![]));
    assert_eq!(call(&*backend, &[], Some(mark(1, 1)), mark(1, 2)).await, Ok(vec![]), "the answer was lost");
    for (from, to) in [(None, mark(1, 1)), (Some(mark(1, 1)), mark(1, 3)), (None, mark(2, 1))] {
        assert_eq!(call(&*backend, &[], from, to).await, Err(BackendError::Moved), "{from:?}");
        assert_eq!(mark_of(&*backend, 0).await, Some(mark(1, 2)));
    }
    // The next owner.
    assert_eq!(call(&*backend, &[], Some(mark(1, 2)), mark(2, 1)).await, Ok(vec![]));
    assert_eq!(call(&*backend, &[], Some(mark(1, 2)), mark(1, 3)).await, Err(BackendError::Moved), "a zombie");
    assert_eq!(mark_of(&*backend, 0).await, Some(mark(2, 1)));
}

async fn partitions_have_marks_of_their_own(home: Option<BackendHome>) {
    let Some(home) = home else { return };
    let backend = home.open(None);
    let first = timeout(PATIENCE, backend.put(0, &[], None, mark(1, 1))).await.expect("in time");
    let second = timeout(PATIENCE, backend.put(10, &[], None, mark(5, 1))).await.expect("in time");
    assert_eq!((first, second), (Ok(vec![]), Ok(vec![])));
    assert_eq!((mark_of(&*backend, 0).await, mark_of(&*backend, 10).await), (Some(mark(1, 1)), Some(mark(5, 1))));
    assert_eq!(mark_of(&*backend, 1).await, None);
}

async fn hundreds_of_answers_go_in_one_call_and_are_told_apart(home: Option<BackendHome>) {
    let Some(home) = home else { return };
    let backend = home.open(None);
    let long = "k".repeat(512);
    let odd = ["a b", "a:b", "ключ", "\"quoted\"\n", "a\0b", "{tag}", "%41", "*", long.as_str()];
    let many: Vec<String> = (0..256).map(|n| format!("user-{n}")).collect();
    let names = odd.into_iter().chain(many.iter().map(String::as_str));
    let puts: Vec<Put> = names.enumerate().map(|(n, key)| put(key, version(1, n as u64, 1, 1))).collect();
    let outcomes = call(&*backend, &puts, None, mark(1, 1)).await.expect("outcomes");
    assert!(outcomes.len() == puts.len() && outcomes.iter().all(|outcome| *outcome == Outcome::Written));
    puts.iter().for_each(|put| shows(&home, put));
    // Half of them later, half earlier: each has its own outcome.
    let again: Vec<Put> = puts.iter().map(|p| put(p.key.as_str(), version(1, 200, 1, 1))).collect();
    let outcomes = call(&*backend, &again, Some(mark(1, 1)), mark(1, 2)).await.expect("outcomes");
    for ((before, after), outcome) in puts.iter().zip(&again).zip(outcomes) {
        let is_later = before.version > after.version;
        assert_eq!(outcome, if is_later { Outcome::Older(before.version) } else { Outcome::Written });
        shows(&home, if is_later { before } else { after });
    }
}

async fn a_backend_that_has_lost_everything_says_so(home: Option<BackendHome>) {
    let Some(home) = home else { return };
    let backend = home.open(None);
    let first = put("u", version(1, 2, 3, 4));
    assert_eq!(call(&*backend, std::slice::from_ref(&first), None, mark(1, 1)).await, Ok(vec![Outcome::Written]));
    home.wipe();
    assert_eq!(call(&*backend, &[], Some(mark(1, 1)), mark(1, 2)).await, Err(BackendError::Moved));
    assert_eq!(mark_of(&*backend, 0).await, None);
    assert_eq!(call(&*backend, std::slice::from_ref(&first), None, mark(1, 3)).await, Ok(vec![Outcome::Written]));
    shows(&home, &first);
}

async fn what_somebody_else_put_there_stays(home: Option<BackendHome>) {
    let Some(home) = home else { return };
    let backend = home.open(None);
    let name = format!("{BACKEND_PREFIX}u");
    match &home {
        BackendHome::Redis(redis, _) => drop(redis.ask(&["SET", &name, "theirs"])),
        BackendHome::Dynamodb(dynamo, _) => {
            let item = serde_json::json!({ "key": { "S": name }, "theirs": { "S": "yes" } });
            dynamo.ask("PutItem", &serde_json::json!({ "TableName": "features", "Item": item }));
        }
    }
    let puts = [put("u", version(1, 2, 3, 4)), put("v", version(1, 2, 3, 4))];
    let outcomes = call(&*backend, &puts, None, mark(1, 1)).await.expect("outcomes");
    assert!(matches!(&outcomes[..], [Outcome::Unfit(_), Outcome::Written]), "{outcomes:?}");
    match &home {
        BackendHome::Redis(redis, _) => assert_eq!(redis.ask(&["GET", &name]), [Some("theirs".to_owned())]),
        BackendHome::Dynamodb(dynamo, _) => {
            assert!(dynamo.item("features", &name).is_some_and(|item| item["theirs"]["S"] == "yes"));
        }
    }
}

async fn answers_leave_when_their_time_is_over(home: Option<BackendHome>) {
    let Some(home) = home else { return };
    let backend = home.open(Some(Duration::from_secs(3_600)));
    assert_ne!(backend.place(), home.open(None).place(), "what is put is another thing");
    let now = SystemClock.now();
    let at = |key: &str, at: i64| Put { event_time: Timestamp(at), ..put(key, version(1, 1, 1, 1)) };
    let puts = [at("new", now.0), at("old", now.0 - 7_200 * SECOND)];
    let outcomes = call(&*backend, &puts, None, mark(1, 1)).await;
    assert_eq!(outcomes, Ok(vec![Outcome::Written, Outcome::Written]));
    let key = |name: &str| format!("{BACKEND_PREFIX}{name}");
    match &home {
        BackendHome::Redis(redis, _) => {
            assert!(home.answer("new").is_some() && home.answer("old").is_none());
            let left = redis.ask(&["PTTL", &key("new")]).pop().flatten().and_then(|left| left.parse::<i64>().ok());
            assert!(left.is_some_and(|left| (3_500_000..=3_600_000).contains(&left)), "{left:?} ms");
        }
        BackendHome::Dynamodb(dynamo, _) => {
            // DynamoDB removes what has expired when it has time; the attribute is what counts.
            for (name, event_time) in [("new", now.0), ("old", now.0 - 7_200 * SECOND)] {
                let item = dynamo.item("features", &key(name)).expect("an item");
                assert_eq!(item["expires"]["N"], (event_time / SECOND + 3_600).to_string());
            }
        }
    }
}

async fn a_server_that_is_gone_is_unavailable(home: Option<BackendHome>) {
    let Some(mut home) = home else { return };
    let backend: Arc<dyn FeatureBackend> = home.open(None);
    assert_eq!(mark_of(&*backend, 0).await, None);
    home.kill();
    let gone = call(&*backend, &[put("u", version(1, 1, 1, 1))], None, mark(1, 1)).await;
    assert!(matches!(gone, Err(BackendError::Unavailable(_))), "{gone:?}");
    let gone = timeout(PATIENCE, backend.mark(0)).await.expect("in time");
    assert!(matches!(gone, Err(BackendError::Unavailable(_))), "{gone:?}");
}
