//! The contract of the port `Lake`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use keyloom_actors::ports::{Lake, LakeError};
use keyloom_tests::support::homes::LakeHome;
use tokio::time::timeout;

contract!(
    LakeHome: dir, s3;
    an_object_is_put_replaced_and_deleted,
    a_delete_may_be_repeated,
    names_are_listed_by_what_they_begin_with,
    names_keep_their_odd_characters,
    an_object_of_20_megabytes_arrives_whole,
    names_that_lead_elsewhere_are_refused,
    whoever_looks_sees_an_object_whole_or_not_at_all,
    an_abandoned_put_leaves_the_old_object_or_the_new_one,
    objects_are_there_for_whoever_opens_the_lake_next,
);

/// Longest wait for anything here.
const PATIENCE: Duration = Duration::from_secs(60);
const MEGABYTE: usize = 1_000_000;
const NAME: &str = "raw_events/year=2026/month=01/day=02/hour=03/part-0000-00000000000000000001.parquet";

/// An object of one letter: it shows whether it is whole.
fn of(letter: char, len: usize) -> Bytes {
    vec![letter as u8; len].into()
}

async fn put(lake: &dyn Lake, name: &str, object: impl Into<Bytes>) {
    let done = timeout(PATIENCE, lake.put(name, object.into())).await;
    done.expect("in time").unwrap_or_else(|e| panic!("{name}: {e}"));
}

async fn delete(lake: &dyn Lake, name: &str) {
    timeout(PATIENCE, lake.delete(name)).await.expect("in time").unwrap_or_else(|e| panic!("{name}: {e}"));
}

/// In order of name; the port promises none.
async fn list(lake: &dyn Lake, prefix: &str) -> Vec<(String, u64)> {
    let listed = timeout(PATIENCE, lake.list(prefix)).await.expect("in time");
    let mut listed = listed.unwrap_or_else(|e| panic!("{prefix}: {e}"));
    listed.sort();
    listed
}

async fn names(lake: &dyn Lake, prefix: &str) -> Vec<String> {
    list(lake, prefix).await.into_iter().map(|(name, _)| name).collect()
}

async fn an_object_is_put_replaced_and_deleted(home: LakeHome) {
    let lake = home.open().await;
    assert_eq!(list(&*lake, "").await, [], "a new lake is empty");
    assert_eq!(home.read(NAME), None);
    // Longer, shorter, and empty ones.
    for object in ["first", "the second one", "3", "", "last"] {
        put(&*lake, NAME, object).await;
        assert_eq!(list(&*lake, "").await, [(NAME.to_owned(), object.len() as u64)]);
        assert_eq!(home.read(NAME).as_deref(), Some(object));
    }
    delete(&*lake, NAME).await;
    assert_eq!(list(&*lake, "").await, []);
    assert_eq!(home.read(NAME), None);
    put(&*lake, NAME, "again").await;
    assert_eq!(home.read(NAME).as_deref(), Some("again"));
}

async fn a_delete_may_be_repeated(home: LakeHome) {
    let lake = home.open().await;
    for name in [NAME, "never", "never/there"] {
        delete(&*lake, name).await;
    }
    put(&*lake, NAME, "x").await;
    put(&*lake, "t/other", "y").await;
    for _ in 0..3 {
        delete(&*lake, NAME).await;
    }
    // Not what begins with the name, and not what the name begins with.
    for name in ["t", "t/oth", "t/other/x"] {
        delete(&*lake, name).await;
    }
    assert_eq!(list(&*lake, "").await, [("t/other".to_owned(), 1)]);
}

async fn names_are_listed_by_what_they_begin_with(home: LakeHome) {
    let lake = home.open().await;
    let all = [
        "a",
        "events/year=2026/hour=01/p1",
        "events/year=2026/hour=01/p2",
        "events/year=2026/hour=02/p1",
        "events/year=2027/hour=01/p1",
        "events_2/year=2026/p1",
        "eventsx",
    ];
    for (at, name) in all.iter().enumerate() {
        put(&*lake, name, of('x', at)).await;
    }
    let sized: Vec<_> = all.iter().enumerate().map(|(at, name)| ((*name).to_owned(), at as u64)).collect();
    assert_eq!(list(&*lake, "").await, sized);
    let cases: [(&str, &[&str]); 10] = [
        ("a", &all[..1]),
        ("events", &all[1..]),
        ("events/", &all[1..5]),
        ("events/year=2026", &all[1..4]),
        ("events/year=2026/hour=0", &all[1..4]),
        ("events/year=2026/hour=01/", &all[1..3]),
        ("events/year=2026/hour=01/p2", &all[2..3]),
        ("a/", &[]),
        ("events/year=2025/", &[]),
        ("vents", &[]),
    ];
    for (prefix, expected) in cases {
        assert_eq!(names(&*lake, prefix).await, expected, "{prefix}");
    }
    delete(&*lake, all[2]).await;
    assert_eq!(names(&*lake, "events/year=2026/hour=01/").await, [all[1]]);
}

async fn names_keep_their_odd_characters(home: LakeHome) {
    let lake = home.open().await;
    let deep = format!("{}/x", ["d=1"; 20].join("/"));
    let long = "n".repeat(255);
    let mut all = [
        "t/year=2026/a b",
        "t/a+b",
        "t/a%20b",
        "t/a%2Fb",
        "t/ü/é",
        "t/a&b=c;d",
        "t/what?",
        "t/#1",
        "t/<x>'\"",
        "t/~@:,!$()[]{}|^`",
        "t/..a",
        "t/a..",
        "t/a..b/...",
        "t/.hidden",
        "T/a",
        "t/UPPER",
        "t/upper",
        "-",
        &deep,
        &long,
    ];
    all.sort_unstable();
    for name in all {
        put(&*lake, name, name.to_owned()).await;
    }
    assert_eq!(names(&*lake, "").await, all);
    for name in all {
        assert_eq!(home.read(name).as_deref(), Some(name));
        assert_eq!(list(&*lake, name).await.first(), Some(&(name.to_owned(), name.len() as u64)), "{name}");
    }
    for name in all {
        delete(&*lake, name).await;
    }
    assert_eq!(names(&*lake, "").await, [""; 0]);
}

async fn an_object_of_20_megabytes_arrives_whole(home: LakeHome) {
    let lake = home.open().await;
    let object: String = (0..)
        .map(|n| format!("{n}\n"))
        .scan(0, |bytes, line| {
            *bytes += line.len();
            (*bytes <= 20 * MEGABYTE).then_some(line)
        })
        .collect();
    assert!(object.len() > 19 * MEGABYTE);
    put(&*lake, NAME, object.clone()).await;
    assert_eq!(list(&*lake, "raw_events/").await, [(NAME.to_owned(), object.len() as u64)]);
    assert!(home.read(NAME) == Some(object), "it is not what was put");
}

async fn names_that_lead_elsewhere_are_refused(home: LakeHome) {
    let lake = home.open().await;
    put(&*lake, "a/b", "x").await;
    let outside = home.outside();
    let (long_part, long_name) = ("x".repeat(256), format!("{}x", "x/".repeat(512)));
    let bad = [
        "",
        "/",
        "/x",
        "x/",
        "a//b",
        "..",
        "../x",
        "a/../b",
        "a/../../x",
        "a/..",
        ".",
        "./a",
        "a/./b",
        "a\\b",
        "..\\x",
        "a\nb",
        "a\0b",
        &long_part,
        &long_name,
    ];
    for name in bad {
        let stored = lake.put(name, "evil".into()).await;
        assert!(matches!(stored, Err(LakeError::Refused(_))), "{name:?}: {stored:?}");
        let deleted = lake.delete(name).await;
        assert!(matches!(deleted, Err(LakeError::Refused(_))), "{name:?}: {deleted:?}");
    }
    for prefix in ["../", "a/../", "/", "a//", "./", "../x"] {
        let listed = lake.list(prefix).await;
        assert!(matches!(listed, Err(LakeError::Refused(_))), "{prefix:?}: {listed:?}");
    }
    assert_eq!(list(&*lake, "").await, [("a/b".to_owned(), 1)]);
    assert_eq!(home.outside(), outside);
}

async fn whoever_looks_sees_an_object_whole_or_not_at_all(home: LakeHome) {
    let lake = home.open().await;
    let sizes = [('a', MEGABYTE), ('b', 2 * MEGABYTE), ('c', 10)];
    let names = ["t/one", "t/two"];
    // Each writer puts one name over and over, and each time a new one.
    let writers: Vec<_> = names
        .map(|name| {
            let lake = Arc::clone(&lake);
            tokio::spawn(async move {
                for round in 0..8 {
                    let (letter, len) = sizes[round % sizes.len()];
                    put(&*lake, name, of(letter, len)).await;
                    put(&*lake, &format!("{name}-{round}"), of(letter, len)).await;
                }
            })
        })
        .into();
    let mut looks = 0;
    while looks < 3 || writers.iter().any(|writer| !writer.is_finished()) {
        let Some(listed) = list_again(&*lake).await else { continue };
        for (name, bytes) in listed {
            assert!(sizes.iter().any(|(_, len)| *len as u64 == bytes), "{name} has {bytes} bytes");
        }
        if home.reads_while_it_writes() {
            for name in names {
                check_whole(&home, name, &sizes);
            }
        }
        looks += 1;
    }
    for writer in writers {
        timeout(PATIENCE, writer).await.expect("in time").expect("no panic");
    }
    assert_eq!(list(&*lake, "").await.len(), 18, "nothing else is left over");
    for name in names {
        check_whole(&home, name, &sizes);
    }
}

/// All names; `None` when the lake says that it is worth trying again.
async fn list_again(lake: &dyn Lake) -> Option<Vec<(String, u64)>> {
    match timeout(PATIENCE, lake.list("")).await.expect("in time") {
        Ok(listed) => Some(listed),
        Err(LakeError::Unavailable(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Whether an object, if it is there, is one of those that were put.
fn check_whole(home: &LakeHome, name: &str, put: &[(char, usize)]) {
    let Some(object) = home.read(name) else { return };
    let first = object.chars().next();
    let known = put.iter().find(|(letter, _)| first == Some(*letter));
    assert!(known.is_some_and(|(_, len)| *len == object.len()), "{name} begins with {first:?}, {} bytes", object.len());
    assert!(object.chars().all(|letter| Some(letter) == first), "{name} is a mixture");
}

async fn an_abandoned_put_leaves_the_old_object_or_the_new_one(home: LakeHome) {
    let lake = home.open().await;
    let objects = [('o', 10 * MEGABYTE), ('n', 12 * MEGABYTE)];
    put(&*lake, NAME, of('o', objects[0].1)).await;
    let new = of('n', objects[1].1);
    for millis in [0, 1, 3, 6, 12, 25, 50] {
        // Whether it came through in time does not matter.
        drop(timeout(Duration::from_millis(millis), lake.put(NAME, new.clone())).await);
        if home.reads_while_it_writes() {
            check_whole(&home, NAME, &objects);
        }
        let Some(listed) = list_again(&*lake).await else { continue };
        let [(name, bytes)] = &listed[..] else { panic!("{listed:?}") };
        assert!(name == NAME && objects.iter().any(|(_, len)| *len as u64 == *bytes), "{name}, {bytes} bytes");
    }
    // The abandoned ones may still be on their way, and are in nobody's way.
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = lake.put(NAME, new.clone()).await {
        assert!(matches!(error, LakeError::Unavailable(_)) && Instant::now() < deadline, "{error}");
    }
    let listed = list(&*lake, "").await;
    assert_eq!(listed, [(NAME.to_owned(), new.len() as u64)]);
}

async fn objects_are_there_for_whoever_opens_the_lake_next(home: LakeHome) {
    let first = home.open().await;
    put(&*first, NAME, "x").await;
    let second = home.open().await;
    assert_eq!(list(&*second, "").await, [(NAME.to_owned(), 1)]);
    drop(first);
    put(&*second, "other", "yy").await;
    let third = home.open().await;
    assert_eq!(list(&*third, "").await, [("other".to_owned(), 2), (NAME.to_owned(), 1)]);
}
