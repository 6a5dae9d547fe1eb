//! A real Prometheus understands `/metrics`, and its linter has nothing to say against them.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use keyloom_tests::support::{
    engine::{Engine, Topology, folder, generate},
    http, oracle,
    servers::Prometheus,
    skipped, tool, wait_for, workspace,
};

/// A few scrapes, one per second.
const SCRAPES_MAX: Duration = Duration::from_secs(30);

#[test]
fn prometheus_scrapes_the_engine() {
    if skipped("prometheus") {
        return;
    }
    let folder = folder();
    let input = generate(folder.path(), 2_000, 100, &[]);
    let distinct: u64 = oracle::events_per_user(&input).values().sum();
    let engine = Engine::start(folder.path(), &Topology::default());
    engine.ingest(&input);
    engine.wait_settled(distinct, distinct);

    let prometheus = Prometheus::start(folder.path(), engine.port);
    let becomes = |query: &str, wanted: f64| {
        wait_for(query, SCRAPES_MAX, || match prometheus.value(query)? {
            Some(value) if (value - wanted).abs() < 1e-9 => Ok(()),
            other => Err(format!("{other:?} instead of {wanted}")),
        });
    };
    becomes("up", 1.0);
    becomes("sum(keyloom_events_total{outcome=\"applied\"})", distinct as f64);
    becomes("sum(keyloom_lag_events)", 0.0);
    // A real histogram, not a summary: only that can be added up over engines.
    becomes("count(histogram_quantile(0.99, sum by (le) (keyloom_feature_freshness_seconds_bucket)))", 1.0);
}

#[test]
fn promtool_is_content() {
    if skipped("prometheus") {
        return;
    }
    let folder = folder();
    let input = generate(folder.path(), 2_000, 100, &[]);
    let engine = Engine::start(folder.path(), &Topology::default());
    engine.ingest(&input);
    engine.wait_settled(0, 1);
    let metrics = http::get(engine.port, "/metrics").expect("an answer");
    assert_eq!(metrics.status, 200);

    let mut promtool = Command::new(tool("KEYLOOM_PROMTOOL"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    let mut stdin = promtool.stdin.take().expect("a pipe");
    stdin.write_all(metrics.body.as_bytes()).expect("promtool reads");
    drop(stdin);
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim().is_empty(), "{}\n{said}", output.status);

    let config = workspace().join("deploy/prometheus.yml");
    let output = Command::new(tool("KEYLOOM_PROMTOOL")).args(["check", "config"]).arg(config).output();
    assert!(output.expect("promtool starts").status.success(), "deploy/prometheus.yml");
}
