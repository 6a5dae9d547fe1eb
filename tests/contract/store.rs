//! The contract of the port `Store`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use keyloom_actors::{
    checkpoint::record,
    key::Key,
    ports::{Claim, RecordKey, Store, StoreEntry, StoreError},
    timestamp::Timestamp,
};
use keyloom_tests::support::homes::Home;
use tokio::time::timeout;

use super::noise;

contract!(
    Home: embedded, nats;
    epochs_grow_with_every_claim,
    of_claims_at_once_each_gets_its_own_epoch_and_one_stands,
    a_batch_is_visible_when_it_is_answered,
    values_come_in_the_order_asked_for,
    a_delete_removes_and_may_be_repeated,
    an_empty_value_is_a_value,
    of_two_entries_for_one_record_the_later_counts,
    a_new_claim_fences_the_former_owner,
    a_batch_must_follow_the_newest_one,
    of_two_batches_at_once_one_lands,
    a_batch_has_room_for_nothing_and_for_batch_max_entries,
    large_values_come_back_byte_for_byte,
    odd_keys_are_told_apart,
    every_kind_of_record_has_a_place_of_its_own,
    a_restart_keeps_everything_acknowledged,
    partitions_are_independent,
    dead_letters_are_listed_in_order_of_their_sequence,
    removed_dead_letters_are_gone_and_the_others_stay,
    removing_dead_letters_is_nothing_to_the_chain,
    letters_are_paged_while_some_go_and_others_come,
    the_earliest_first_timers_are_found,
    all_features_are_walked_through_page_by_page,
    a_walk_meets_what_changes_meanwhile,
);

/// Longest wait for anything here.
const PATIENCE: Duration = Duration::from_secs(60);

fn key(name: &str) -> Key {
    Key::new(name).expect("a valid key")
}

fn feature(name: &str) -> RecordKey {
    RecordKey::Feature(key(name))
}

fn text(value: &str) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(value.as_bytes()))
}

/// A put of `value` into the feature `name`.
fn put(name: &str, value: &str) -> StoreEntry {
    (feature(name), text(value))
}

async fn claim(store: &dyn Store, partition: u32) -> Claim {
    timeout(PATIENCE, store.claim(partition, "the contract")).await.expect("in time").expect("claimed")
}

async fn get(store: &dyn Store, keys: &[RecordKey]) -> Vec<Option<Bytes>> {
    let values = timeout(PATIENCE, store.get(keys)).await.expect("in time").expect("values");
    assert_eq!(values.len(), keys.len());
    values
}

async fn try_commit(
    store: &dyn Store,
    claim: &mut Claim,
    head: &str,
    entries: Vec<StoreEntry>,
) -> Result<(), StoreError> {
    let head = Bytes::copy_from_slice(head.as_bytes());
    timeout(PATIENCE, store.commit(claim, head, entries, true)).await.expect("in time")
}

async fn commit(store: &dyn Store, claim: &mut Claim, head: &str, entries: Vec<StoreEntry>) {
    try_commit(store, claim, head, entries).await.unwrap_or_else(|e| panic!("{head}: {e}"));
}

/// Tries a batch of one entry and one of none, and sees that both are refused.
async fn check_fenced(store: &dyn Store, claim: &Claim) {
    let zombie = || vec![put("zombie", "1"), (RecordKey::DeadLetter(claim.partition, 1), text("1"))];
    for entries in [zombie(), vec![]] {
        let refused = try_commit(store, &mut claim.clone(), "zombie", entries).await;
        assert!(matches!(refused, Err(StoreError::Fenced(p)) if p == claim.partition), "{refused:?}");
    }
    assert_eq!(get(store, &[feature("zombie"), RecordKey::DeadLetter(claim.partition, 1)]).await, [None, None]);
    assert_ne!(get(store, &[RecordKey::Head(claim.partition)]).await, [text("zombie")]);
}

async fn epochs_grow_with_every_claim(mut home: Home) {
    let mut store = home.store().await;
    let mut last = 0;
    for _ in 0..3 {
        for _ in 0..3 {
            let claim = claim(&*store, 7).await;
            assert_eq!(claim.partition, 7);
            assert!(claim.epoch > last, "{} after {last}", claim.epoch);
            last = claim.epoch;
        }
        drop(store);
        home.restart();
        store = home.store().await;
    }
}

async fn of_claims_at_once_each_gets_its_own_epoch_and_one_stands(home: Home) {
    let store = home.store().await;
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { claim(&*store, 0).await })
        })
        .collect();
    let mut claims = Vec::new();
    for task in tasks {
        claims.push(task.await.expect("no panic"));
    }
    claims.sort_by_key(|claim| claim.epoch);
    assert!(claims.is_sorted_by(|a, b| a.epoch < b.epoch), "{claims:?}");
    let mut last = claims.pop().expect("four");
    for former in &claims {
        check_fenced(&*store, former).await;
    }
    commit(&*store, &mut last, "h1", vec![put("x", "1")]).await;
    assert_eq!(get(&*store, &[feature("x")]).await, [text("1")]);
}

async fn a_batch_is_visible_when_it_is_answered(home: Home) {
    let store = home.store().await;
    let mut claim = claim(&*store, 0).await;
    assert_eq!(get(&*store, &[RecordKey::Head(0)]).await, [None], "before the first batch there is no head");
    let names: Vec<String> = (0..20).map(|n| format!("k{n}")).collect();
    let keys: Vec<RecordKey> = names.iter().map(|name| feature(name)).chain([RecordKey::Head(0)]).collect();
    for round in 0..20 {
        let value = format!("value {round}");
        let entries = names.iter().map(|name| put(name, &value)).collect();
        let durable = round % 2 == 0;
        store.commit(&mut claim, value.clone().into(), entries, durable).await.expect("committed");
        let values = get(&*store, &keys).await;
        assert!(values.iter().all(|found| *found == text(&value)), "{value}: {values:?}");
    }
}

async fn values_come_in_the_order_asked_for(home: Home) {
    let store = home.store().await;
    let mut claim = claim(&*store, 0).await;
    assert!(get(&*store, &[]).await.is_empty());
    let entries = (0..200).map(|n| put(&format!("k{n}"), &n.to_string())).collect();
    commit(&*store, &mut claim, "h1", entries).await;
    // Few and many: a home may read them in different ways. Every third was never written, and one is asked for twice.
    for count in [1u32, 3, 60, 400] {
        let numbers = || (0..count).rev().chain([0]);
        let name = |n: u32| if n % 3 == 2 { format!("missing{n}") } else { format!("k{}", n / 3) };
        let keys: Vec<RecordKey> = numbers().map(|n| feature(&name(n))).collect();
        let expected: Vec<_> = numbers().map(|n| if n % 3 == 2 { None } else { text(&(n / 3).to_string()) }).collect();
        assert_eq!(get(&*store, &keys).await, expected);
    }
}

async fn a_delete_removes_and_may_be_repeated(home: Home) {
    let store = home.store().await;
    let mut claim = claim(&*store, 0).await;
    let state = RecordKey::State(0, key("a"));
    commit(&*store, &mut claim, "h1", vec![put("a", "1"), put("b", "1"), (state.clone(), text("s"))]).await;
    for head in ["h2", "h3"] {
        let deletes = vec![(feature("a"), None), (state.clone(), None), (feature("never"), None)];
        commit(&*store, &mut claim, head, deletes).await;
        let few = [feature("a"), state.clone(), feature("never"), feature("b")];
        assert_eq!(get(&*store, &few).await, [None, None, None, text("1")]);
        // The same when many are read.
        let many: Vec<RecordKey> = few.iter().cycle().take(200).cloned().collect();
        let values = get(&*store, &many).await;
        assert!(values.iter().enumerate().all(|(at, value)| value.is_some() == (at % 4 == 3)), "{values:?}");
    }
    commit(&*store, &mut claim, "h4", vec![put("a", "2")]).await;
    assert_eq!(get(&*store, &[feature("a"), feature("b")]).await, [text("2"), text("1")]);
}

async fn an_empty_value_is_a_value(home: Home) {
    let store = home.store().await;
    let mut claim = claim(&*store, 0).await;
    commit(&*store, &mut claim, "h1", vec![put("a", ""), put("b", "1")]).await;
    assert_eq!(get(&*store, &[feature("a"), feature("b")]).await, [text(""), text("1")]);
    commit(&*store, &mut claim, "h2", vec![put("b", "")]).await;
    let many: Vec<RecordKey> = [feature("a"), feature("b")].iter().cycle().take(100).cloned().collect();
    assert!(get(&*store, &many).await.iter().all(|value| *value == text("")));
}

async fn of_two_entries_for_one_record_the_later_counts(home: Home) {
    let store = home.store().await;
    let mut claim = claim(&*store, 0).await;
    let entries =
        vec![put("a", "1"), put("b", "1"), put("a", "2"), (feature("b"), None), (feature("c"), None), put("c", "3")];
    commit(&*store, &mut claim, "h1", entries).await;
    assert_eq!(get(&*store, &[feature("a"), feature("b"), feature("c")]).await, [text("2"), None, text("3")]);
}

async fn a_new_claim_fences_the_former_owner(home: Home) {
    let store = home.store().await;
    let mut old = claim(&*store, 3).await;
    commit(&*store, &mut old, "old 1", vec![put("x", "old")]).await;
    let mut new = claim(&*store, 3).await;
    assert_eq!(get(&*store, &[RecordKey::Head(3), feature("x")]).await, [text("old 1"), text("old")], "all is left");
    check_fenced(&*store, &old).await;
    commit(&*store, &mut new, "new 1", vec![put("x", "new")]).await;
    check_fenced(&*store, &old).await;
    // Not even with what it could read of its successor.
    check_fenced(&*store, &Claim { head: new.head, ..old }).await;
    commit(&*store, &mut new, "new 2", vec![]).await;
    assert_eq!(get(&*store, &[RecordKey::Head(3), feature("x")]).await, [text("new 2"), text("new")]);
}

async fn a_batch_must_follow_the_newest_one(home: Home) {
    let store = home.store().await;
    let mut owner = claim(&*store, 0).await;
    let before_the_first = owner.clone();
    commit(&*store, &mut owner, "h1", vec![put("x", "1")]).await;
    let after_the_first = owner.clone();
    assert_ne!(before_the_first.head, after_the_first.head, "a commit moves the chain on");
    commit(&*store, &mut owner, "h2", vec![put("x", "2")]).await;
    for stale in [before_the_first, after_the_first] {
        check_fenced(&*store, &stale).await;
    }
    // A late batch changes nothing, and does not take the chain away from its owner.
    assert_eq!(get(&*store, &[feature("x"), RecordKey::Head(0)]).await, [text("2"), text("h2")]);
    commit(&*store, &mut owner, "h3", vec![put("x", "3")]).await;
    assert_eq!(get(&*store, &[feature("x"), RecordKey::Head(0)]).await, [text("3"), text("h3")]);
}

async fn of_two_batches_at_once_one_lands(home: Home) {
    let store = home.store().await;
    let mut owner = claim(&*store, 0).await;
    for round in 0..10 {
        let both: Vec<_> = ["left", "right"]
            .map(|side| {
                let (store, mut twin) = (Arc::clone(&store), owner.clone());
                tokio::spawn(async move {
                    let (head, value) = (format!("{side} {round}"), format!("{side} {round}"));
                    let done = try_commit(&*store, &mut twin, &head, vec![put("x", &value), put("y", &value)]).await;
                    (done, head, twin)
                })
            })
            .into();
        let mut landed = Vec::new();
        for one in both {
            match one.await.expect("no panic") {
                (Ok(()), head, twin) => landed.push((head, twin)),
                (Err(StoreError::Fenced(0)), ..) => {}
                (Err(error), ..) => panic!("{error}"),
            }
        }
        assert_eq!(landed.len(), 1, "{landed:?}");
        let (head, twin) = landed.remove(0);
        let keys = [feature("x"), feature("y"), RecordKey::Head(0)];
        assert_eq!(get(&*store, &keys).await, [text(&head), text(&head), text(&head)]);
        owner = twin;
    }
}

async fn a_batch_has_room_for_nothing_and_for_batch_max_entries(home: Home) {
    let store = home.store().await;
    let mut claim = claim(&*store, 0).await;
    let max = store.batch_max();
    assert!(max >= 2);
    let entries = |value: &str, count| (0..count).map(|n| put(&format!("k{n}"), value)).collect::<Vec<_>>();
    let keys: Vec<RecordKey> = entries("", max + 1).into_iter().map(|(key, _)| key).collect();
    for (head, durable) in [("none 1", true), ("none 2", false)] {
        store.commit(&mut claim, head.into(), vec![], durable).await.expect("a batch of only the head");
        assert_eq!(get(&*store, &[RecordKey::Head(0)]).await, [text(head)]);
    }
    for (head, durable) in [("full 1", false), ("full 2", true)] {
        store.commit(&mut claim, head.into(), entries(head, max), durable).await.expect("a full batch");
        let values = get(&*store, &keys[..max]).await;
        assert!(values.iter().all(|value| *value == text(head)), "{head}");
    }
    // One more is refused whole; the claim stands.
    let refused = try_commit(&*store, &mut claim, "too full", entries("too full", max + 1)).await;
    assert!(matches!(refused, Err(StoreError::Corrupt(_))), "{refused:?}");
    assert_eq!(get(&*store, &[keys[0].clone(), keys[max].clone()]).await, [text("full 2"), None]);
    commit(&*store, &mut claim, "last", entries("last", 1)).await;
    assert_eq!(get(&*store, &[RecordKey::Head(0), keys[0].clone()]).await, [text("last"), text("last")]);
}

async fn large_values_come_back_byte_for_byte(mut home: Home) {
    let store = home.store().await;
    let mut owner = claim(&*store, 0).await;
    let sizes = [1, 1 << 10, 64 << 10, (64 << 10) + 1, 200 << 10];
    let record = |n: usize| RecordKey::State(0, key(&format!("s{n}")));
    let keys: Vec<RecordKey> = (0..20).map(record).collect();
    let value = |n: usize| noise(n as u64, sizes[n % sizes.len()]);
    let entries = keys.iter().enumerate().map(|(n, key)| (key.clone(), Some(value(n)))).collect();
    let head = noise(99, 10 << 10);
    store.commit(&mut owner, head.clone(), entries, true).await.expect("committed");
    let check = |values: Vec<Option<Bytes>>| {
        for (n, found) in values.into_iter().enumerate() {
            assert!(found == Some(value(n % 20)), "value {n}");
        }
    };
    check(get(&*store, &keys).await);
    drop(store);
    home.restart();
    let store = home.store().await;
    check(get(&*store, &keys).await);
    check(get(&*store, &keys.iter().cycle().take(100).cloned().collect::<Vec<_>>()).await);
    assert_eq!(get(&*store, &[RecordKey::Head(0)]).await, [Some(head)]);
}

async fn odd_keys_are_told_apart(home: Home) {
    let store = home.store().await;
    let mut claim = claim(&*store, 0).await;
    let long = "ü".repeat(256);
    let longer = format!("{}x", "ü".repeat(255));
    let names = [
        "a", "A", "a b", "a=20b", "a%20b", "a+b", "a.b", "a..b", ".", "..", ">", "*", "a.>", "a.*", "$KV", "=", "==",
        "%", "/", "\\", "\"", "'", "{}", " ", "  ", "\t", "\r\n", "\0", "\u{7f}", "é", "e\u{301}", "😀", "0", "00",
        "-", "_", &long, &longer,
    ];
    // As features and as states of two partitions.
    let records = |name: &str| [feature(name), RecordKey::State(0, key(name)), RecordKey::State(1, key(name))];
    let keys: Vec<RecordKey> = names.iter().flat_map(|name| records(name)).collect();
    let value = |n: usize| text(&format!("value {n}"));
    let entries = keys.iter().enumerate().map(|(n, key)| (key.clone(), value(n))).collect();
    commit(&*store, &mut claim, "h1", entries).await;
    let expected: Vec<_> = (0..keys.len()).map(value).collect();
    assert_eq!(get(&*store, &keys).await, expected, "many at once");
    for (at, one) in keys.iter().enumerate() {
        assert_eq!(get(&*store, std::slice::from_ref(one)).await, [value(at)], "{one:?}");
    }
    // A delete takes its own record and no other.
    let gone: Vec<usize> = (0..keys.len()).step_by(4).collect();
    commit(&*store, &mut claim, "h2", gone.iter().map(|at| (keys[*at].clone(), None)).collect()).await;
    let expected: Vec<_> = (0..keys.len()).map(|at| if at % 4 == 0 { None } else { value(at) }).collect();
    assert_eq!(get(&*store, &keys).await, expected);
}

async fn every_kind_of_record_has_a_place_of_its_own(home: Home) {
    let store = home.store().await;
    let mut claim = claim(&*store, 1).await;
    let outbox = |table: &str, number| RecordKey::Outbox(1, table.to_owned(), number);
    let keys = [
        feature("1"),
        RecordKey::State(1, key("1")),
        RecordKey::Checkpoint(1),
        RecordKey::Checkpoint(11),
        outbox("t", 1),
        outbox("t", 11),
        outbox("t1", 1),
        outbox("tt", 1),
        RecordKey::Outbox(11, "t".to_owned(), 1),
        RecordKey::DeadLetter(1, 1),
        RecordKey::DeadLetter(1, 11),
        RecordKey::DeadLetter(11, 1),
        RecordKey::Intent(1, "t".to_owned()),
        RecordKey::Intent(1, "tt".to_owned()),
        RecordKey::Output(1, "t".to_owned()),
        RecordKey::Output(11, "t".to_owned()),
        RecordKey::Care(1),
        RecordKey::Timer(1, key("1")),
        RecordKey::Timer(11, key("1")),
        RecordKey::Backend(1),
        RecordKey::Backend(11),
    ];
    let entries = keys.iter().enumerate().map(|(n, key)| (key.clone(), text(&n.to_string()))).collect();
    commit(&*store, &mut claim, "head", entries).await;
    let expected: Vec<_> = (0..keys.len()).map(|n| text(&n.to_string())).collect();
    assert_eq!(get(&*store, &keys).await, expected);
    let [epoch, head] = &get(&*store, &[RecordKey::Epoch(1), RecordKey::Head(1)]).await[..] else { panic!("two") };
    assert!(epoch.is_some(), "the claim is a record");
    assert_eq!(*head, text("head"));
}

async fn a_restart_keeps_everything_acknowledged(mut home: Home) {
    let store = home.store().await;
    let mut old = claim(&*store, 0).await;
    for n in 0..10 {
        let entries = vec![put(&format!("k{n}"), "old"), put("newest", &n.to_string())];
        // The last ones are not durable: a crash of the machine may take them back, but an orderly end may not.
        store.commit(&mut old, format!("h{n}").into(), entries, n < 5).await.expect("committed");
    }
    commit(&*store, &mut old, "h10", vec![(feature("k3"), None)]).await;
    drop(store);
    home.restart();

    let store = home.store().await;
    let keys: Vec<RecordKey> = (0..10).map(|n| feature(&format!("k{n}"))).collect();
    let expected: Vec<_> = (0..10).map(|n| if n == 3 { None } else { text("old") }).collect();
    assert_eq!(get(&*store, &keys).await, expected);
    assert_eq!(get(&*store, &[feature("newest"), RecordKey::Head(0)]).await, [text("9"), text("h10")]);
    let mut new = claim(&*store, 0).await;
    assert!(new.epoch > old.epoch);
    check_fenced(&*store, &old).await;
    commit(&*store, &mut new, "h11", vec![put("newest", "11")]).await;
    assert_eq!(get(&*store, &[feature("newest"), RecordKey::Head(0)]).await, [text("11"), text("h11")]);
}

async fn partitions_are_independent(home: Home) {
    let store = home.store().await;
    let mut one = claim(&*store, 1).await;
    let mut eleven = claim(&*store, 11).await;
    commit(&*store, &mut one, "one 1", vec![(RecordKey::State(1, key("k")), text("one"))]).await;
    commit(&*store, &mut eleven, "eleven 1", vec![(RecordKey::State(11, key("k")), text("eleven"))]).await;
    // Neither batches nor claims of one are anything to the other.
    for n in 2..5 {
        commit(&*store, &mut one, &format!("one {n}"), vec![]).await;
    }
    claim(&*store, 2).await;
    let former = std::mem::replace(&mut one, claim(&*store, 1).await);
    commit(&*store, &mut eleven, "eleven 2", vec![]).await;
    check_fenced(&*store, &former).await;
    commit(&*store, &mut one, "one 5", vec![]).await;
    let keys = [
        RecordKey::Head(1),
        RecordKey::Head(11),
        RecordKey::Head(2),
        RecordKey::State(1, key("k")),
        RecordKey::State(11, key("k")),
        RecordKey::State(2, key("k")),
    ];
    let expected = [text("one 5"), text("eleven 2"), None, text("one"), text("eleven"), None];
    assert_eq!(get(&*store, &keys).await, expected);
}

async fn dead_letters_are_listed_in_order_of_their_sequence(mut home: Home) {
    let store = home.store().await;
    let mut claim = claim(&*store, 1).await;
    assert_eq!(store.dead_letters(1, 0, 10).await.expect("listed"), []);
    let letter = |partition, seq: u64| (RecordKey::DeadLetter(partition, seq), text(&format!("{partition} {seq}")));
    let seqs = [100, 9, 1_000_000_000_000, 2, 11, 10, 20, 1];
    let others = [letter(0, 3), letter(2, 3), letter(10, 3), letter(11, 12)];
    commit(&*store, &mut claim, "h1", seqs.map(|seq| letter(1, seq)).into_iter().chain(others).collect()).await;
    commit(&*store, &mut claim, "h2", vec![(RecordKey::DeadLetter(1, 10), None)]).await;
    drop(store);
    home.restart();
    let store = home.store().await;
    let cases: [(u64, usize, &[u64]); 8] = [
        (0, 100, &[1, 2, 9, 11, 20, 100, 1_000_000_000_000]),
        (0, 3, &[1, 2, 9]),
        (9, 3, &[11, 20, 100]),
        (10, 1, &[11]),
        (3, 2, &[9, 11]),
        (100, 10, &[1_000_000_000_000]),
        (1_000_000_000_000, 10, &[]),
        (0, 0, &[]),
    ];
    for (after, limit, expected) in cases {
        let letters = store.dead_letters(1, after, limit).await.expect("listed");
        let expected: Vec<_> = expected.iter().map(|seq| (*seq, Bytes::from(format!("1 {seq}")))).collect();
        assert_eq!(letters, expected, "after {after}, at most {limit}");
    }
    assert_eq!(store.dead_letters(10, 0, 10).await.expect("listed"), [(3, Bytes::from("10 3"))]);
    assert_eq!(store.dead_letters(3, 0, 10).await.expect("listed"), []);
}

async fn the_earliest_first_timers_are_found(mut home: Home) {
    let store = home.store().await;
    let mut claim = claim(&*store, 1).await;
    assert_eq!(store.first_timers(1, 10).await.expect("listed"), []);
    let timer = |partition, name: &str, due: i64| {
        (RecordKey::Timer(partition, key(name)), Some(record::encode_first_timer(Timestamp(due))))
    };
    let odd = "a.b *>\u{fc} c";
    let entries =
        vec![timer(1, "u1", 30), timer(1, odd, 10), timer(1, "u3", 20), timer(1, "u4", 5), timer(11, "u1", 1)];
    commit(&*store, &mut claim, "h1", entries).await;
    commit(&*store, &mut claim, "h2", vec![timer(1, "u1", 15), (RecordKey::Timer(1, key("u4")), None)]).await;
    drop(store);
    home.restart();
    let store = home.store().await;
    for (max, expected) in
        [(10, vec![(10, odd), (15, "u1"), (20, "u3")]), (2, vec![(10, odd), (15, "u1")]), (0, vec![])]
    {
        let mut found = store.first_timers(1, max).await.expect("listed");
        found.sort();
        let expected: Vec<_> = expected.into_iter().map(|(due, name)| (Timestamp(due), key(name))).collect();
        assert_eq!(found, expected, "at most {max}");
    }
    assert_eq!(store.first_timers(2, 10).await.expect("listed"), []);
}

/// Keys and answers of a whole walk, in the order it met them; `between` runs behind the first page.
async fn walk(
    store: &dyn Store,
    limit: usize,
    bytes_max: usize,
    between: impl AsyncFnOnce(),
) -> Vec<(Key, Option<Bytes>)> {
    let (mut met, mut after, mut between) = (Vec::new(), None, Some(between));
    loop {
        let page = timeout(PATIENCE, store.features(after.as_ref(), limit, bytes_max)).await.expect("in time");
        let page = page.expect("a page");
        assert!(page.answers.len() <= limit);
        met.extend(page.answers.into_iter().map(|(key, answer)| (key, Some(answer))));
        assert!(met.len() < 10_000, "a walk has an end");
        if let Some(between) = between.take() {
            between().await;
        }
        match page.next {
            None => return met,
            next => after = next,
        }
    }
}

async fn all_features_are_walked_through_page_by_page(mut home: Home) {
    let store = home.store().await;
    assert_eq!(walk(&*store, 10, 1 << 20, async || {}).await, []);
    let mut first = claim(&*store, 0).await;
    let mut other = claim(&*store, 1).await;
    let names: Vec<String> = (0..25).map(|n| format!("user {n}.ж")).collect();
    let answers: Vec<StoreEntry> = names.iter().map(|name| put(name, &format!("answer of {name}"))).collect();
    commit(&*store, &mut first, "a", answers[..20].to_vec()).await;
    commit(&*store, &mut other, "b", answers[20..].to_vec()).await;
    // Neither other records nor what was removed are features.
    let beside =
        vec![(RecordKey::State(1, key("s")), text("state")), put("gone", "1"), (RecordKey::Care(1), text("c"))];
    commit(&*store, &mut other, "c", beside).await;
    commit(&*store, &mut other, "d", vec![(feature("gone"), None)]).await;
    drop(store);
    home.restart();
    let store = home.store().await;
    let mut expected: Vec<_> = names.iter().map(|name| (key(name), text(&format!("answer of {name}")))).collect();
    expected.sort();
    for (limit, bytes_max) in [(7, 1 << 20), (1, 1 << 20), (100, 1 << 20), (25, 1 << 20), (100, 1), (100, 50)] {
        let mut met = walk(&*store, limit, bytes_max, async || {}).await;
        met.sort();
        assert_eq!(met, expected, "pages of {limit}, {bytes_max} bytes");
    }
}

async fn a_walk_meets_what_changes_meanwhile(home: Home) {
    let store = home.store().await;
    let mut claim = claim(&*store, 0).await;
    let entries = |what: &str| (0..30).map(|n| put(&format!("user-{n:02}"), what)).collect::<Vec<_>>();
    commit(&*store, &mut claim, "before", entries("before")).await;
    let change = async || {
        let changed = entries("after").into_iter().step_by(2).collect();
        commit(&*store, &mut claim, "after", changed).await;
    };
    let met = walk(&*store, 4, 1 << 20, change).await;
    for n in 0..30 {
        let of_key: Vec<_> = met.iter().filter(|(met, _)| *met == key(&format!("user-{n:02}"))).collect();
        assert!(!of_key.is_empty(), "user-{n:02} is missing");
    }
}

fn letters(partition: u32, seqs: impl IntoIterator<Item = u64>) -> Vec<StoreEntry> {
    let letter = |seq| (RecordKey::DeadLetter(partition, seq), text(&format!("{partition} {seq}")));
    seqs.into_iter().map(letter).collect()
}

/// Sequences of the letters behind `after`, at most `limit`.
async fn listed(store: &dyn Store, partition: u32, after: u64, limit: usize) -> Vec<u64> {
    let found = timeout(PATIENCE, store.dead_letters(partition, after, limit)).await.expect("in time").expect("listed");
    found.into_iter().map(|(seq, _)| seq).collect()
}

async fn remove(store: &dyn Store, partition: u32, seqs: &[u64]) {
    let names: Vec<_> = seqs.iter().map(|seq| RecordKey::DeadLetter(partition, *seq)).collect();
    let removed = timeout(PATIENCE, store.remove(&names)).await.expect("in time");
    removed.expect("removed");
}

async fn removed_dead_letters_are_gone_and_the_others_stay(mut home: Home) {
    let store = home.store().await;
    let mut claim = claim(&*store, 1).await;
    let others = letters(11, [2, 3]).into_iter().chain([(RecordKey::State(1, key("2")), text("state"))]);
    commit(&*store, &mut claim, "h1", letters(1, [1, 2, 3, 20, 200]).into_iter().chain(others).collect()).await;
    remove(&*store, 1, &[]).await;
    remove(&*store, 1, &[2, 200, 7]).await;
    remove(&*store, 1, &[2, 200]).await; // again, as after an answer that got lost
    let check = async |store: &dyn Store| {
        assert_eq!(listed(store, 1, 0, 10).await, [1, 3, 20]);
        assert_eq!(listed(store, 11, 0, 10).await, [2, 3]);
        let names = [RecordKey::DeadLetter(1, 2), RecordKey::DeadLetter(1, 3), RecordKey::State(1, key("2"))];
        assert_eq!(get(store, &names).await, [None, text("1 3"), text("state")]);
    };
    check(&*store).await;
    drop(store);
    home.restart();
    let store = home.store().await;
    check(&*store).await;
    // A name may be used again.
    let mut claim = self::claim(&*store, 1).await;
    commit(&*store, &mut claim, "h2", letters(1, [2])).await;
    assert_eq!(listed(&*store, 1, 0, 2).await, [1, 2]);
}

async fn removing_dead_letters_is_nothing_to_the_chain(home: Home) {
    let store = home.store().await;
    let mut former = claim(&*store, 0).await;
    commit(&*store, &mut former, "h1", letters(0, 1..=50)).await;
    remove(&*store, 0, &[1, 2]).await;
    commit(&*store, &mut former, "h2", vec![put("x", "1")]).await;
    let mut owner = claim(&*store, 0).await;
    remove(&*store, 0, &[3]).await;
    check_fenced(&*store, &former).await;
    // While batches are under way.
    let removals = async {
        for seq in 4..=50 {
            remove(&*store, 0, &[seq]).await;
        }
    };
    let batches = async {
        for n in 0..50 {
            commit(&*store, &mut owner, &format!("h{}", n + 3), letters(0, [n + 100])).await;
        }
    };
    tokio::join!(removals, batches);
    assert_eq!(get(&*store, &[RecordKey::Head(0), feature("x")]).await, [text("h52"), text("1")]);
    assert_eq!(listed(&*store, 0, 0, 100).await, (100..150).collect::<Vec<_>>());
}

async fn letters_are_paged_while_some_go_and_others_come(home: Home) {
    let store = home.store().await;
    let mut claim = claim(&*store, 0).await;
    commit(&*store, &mut claim, "h1", letters(0, 1..=400)).await;
    let (mut seen, mut after) = (Vec::new(), 0);
    loop {
        let page = listed(&*store, 0, after, 30).await;
        let Some(last) = page.last().copied() else { break };
        seen.extend(&page);
        // What was handed out goes, as does something in front; one more comes at the end.
        remove(&*store, 0, &page).await;
        remove(&*store, 0, &[last + 5]).await;
        if seen.len() < 300 {
            commit(&*store, &mut claim, &format!("h{last}"), letters(0, [1_000 + last])).await;
        }
        after = last;
    }
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    let skipped: Vec<u64> = (1..=400).filter(|seq| !seen.contains(seq)).collect();
    assert!((10..=14).contains(&skipped.len()), "what was removed in front is not there any more: {skipped:?}");
    assert!(seen.iter().filter(|seq| **seq > 1_000).count() >= 9, "what came meanwhile is found at the end: {seen:?}");
    assert!(listed(&*store, 0, 0, 10).await.is_empty());
}
