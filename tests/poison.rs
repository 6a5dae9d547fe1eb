//! A handler that panics on one user's events: every other user stays exact, the panics are visible, and what caused
//! them ends up as dead letters. The binary is the example `poison`: `keyloom` with a handler of that name, which counts
//! events per user and panics on every event of the user named by `[handler.poison] user`.

use keyloom_tests::support::{
    engine::{Engine, Topology, binary, folder, generate},
    oracle,
};

#[test]
fn one_users_panics_are_nobody_elses_problem() {
    let folder = folder();
    let input = generate(folder.path(), 5_000, 300, &["--duplicates", "0.02"]);
    let users = oracle::events_per_user(&input);
    let distinct: u64 = users.values().sum();
    // A few events: every one of them is tried several times, with a pause before each restart.
    let (victim, victim_events) = users.iter().find(|(_, events)| (3..=6).contains(*events)).expect("a quiet user");

    let topology = Topology {
        handler: "poison".to_owned(),
        more: format!("[handler.poison]\nuser = \"{victim}\"\n"),
        ..Topology::default()
    };
    let mut engine = Engine::start_binary(&binary("poison"), folder.path(), &topology);
    engine.ingest(&input);
    let metrics = engine.wait_settled(distinct, distinct);

    assert_eq!(metrics.count("keyloom_dead_letters_total", &[("reason", "panic")]), *victim_events);
    let restarts = metrics.count("keyloom_actor_restarts_total", &[("actor", "session"), ("cause", "panic")]);
    assert!(restarts >= *victim_events, "{restarts} restarts");
    // The log is told at once, and then seldom.
    let said = |text: &str| engine.process.stderr().lines().filter(|line| line.contains(text)).count() as u64;
    for text in ["a session failed and starts again", "panic place="] {
        assert!((1..restarts).contains(&said(text)), "{text}: {} of {restarts}", said(text));
    }
    let outcome = |name| metrics.count("keyloom_events_total", &[("outcome", name)]);
    assert_eq!(outcome("dead_lettered"), *victim_events);
    assert_eq!(outcome("applied"), distinct - victim_events);
    check_others(&engine, &users, victim);
    // What a handler gives up is still an event: it stays in the table.
    let result = oracle::check_lake(&engine, &input);
    assert_eq!(result["rows"], distinct);

    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
    engine.restart();
    check_others(&engine, &users, victim);
}

fn check_others(engine: &Engine, users: &std::collections::BTreeMap<String, u64>, victim: &str) {
    for (user, events) in users.iter().filter(|(user, _)| *user != victim) {
        let answer = engine.features(user).unwrap_or_else(|| panic!("{user} is unknown"));
        assert_eq!(answer["features"]["event_count"], *events, "{answer}");
    }
}
