//! Logs and metrics of the process: where they go and what they look like.

use std::{io::IsTerminal, panic, time::Duration};

use keyloom_actors::{complaints::Complaints, observe::LAKE_PUT_SECONDS};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, filter::LevelFilter, fmt};

/// What is logged unless `KEYLOOM_LOG` says otherwise. ractor makes a span per actor at its info level, which nobody can
/// afford with a session per user.
const DEFAULT_FILTER: &str = "info,ractor=warn,async_nats=warn,fjall=warn,lsm_tree=warn,aws=warn,hyper=warn,h2=warn";

/// Buckets of every histogram in seconds: from 50 µs to a minute.
const SECONDS: &[f64] = &[
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0,
];

/// Further buckets of puts into the lake, which give up after a quarter of an hour.
const PUT_SECONDS: &[f64] = &[120.0, 300.0, 900.0];

/// Buckets of histograms of keys per request.
const KEYS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];

/// How often samples of histograms are summed up. Between two times each one is kept, whether somebody asks for metrics or not.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Panics at one place of a handler may come with every event.
static PANICS: Complaints = Complaints::new();

/// Starts logging to stderr, and makes panics of handlers log lines instead of backtraces.
pub fn start_logs(format: LogFormat) {
    let wanted = std::env::var("KEYLOOM_LOG").ok();
    let filter = wanted.and_then(|wanted| EnvFilter::try_new(without_actors(wanted)).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new(DEFAULT_FILTER));
    let logs = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        LogFormat::Text => logs.with_target(false).try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
    started.ok(); // a test, or a program around the library, may have its own
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let Some(left_out) = PANICS.due_now(&place) else { return };
        let text = panic.payload().downcast_ref::<&str>().map(|s| (*s).to_owned());
        let text = text.or_else(|| panic.payload().downcast_ref::<String>().cloned()).unwrap_or_default();
        tracing::error!(place, text, left_out, "panic");
    }));
}

/// `filter` without the spans of actors, unless it names them itself or is quieter than they are anyway.
fn without_actors(filter: String) -> String {
    let directives = || filter.split(',');
    let names_actors = directives().any(|directive| directive.starts_with("ractor"));
    let others = directives().filter_map(|directive| directive.parse::<LevelFilter>().ok()).next_back();
    if names_actors || others.is_none_or(|level| level <= LevelFilter::WARN) {
        return filter;
    }
    format!("{filter},ractor=warn")
}

/// The buckets of each histogram; a whole name goes before the end of one.
fn with_buckets() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(LAKE_PUT_SECONDS.to_owned()), &[SECONDS, PUT_SECONDS].concat())?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_keys".to_owned()), KEYS)
}

/// Installs the recorder behind every metric of the process; the handle renders the Prometheus text. Within a runtime.
pub fn start_metrics() -> anyhow::Result<PrometheusHandle> {
    let metrics = with_buckets()?.install_recorder()?;
    let kept = metrics.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP_EVERY).await;
            kept.run_upkeep();
        }
    });
    Ok(metrics)
}

#[cfg(test)]
mod tests {
    use tracing::{Level, subscriber::with_default};

    use super::*;

    #[test]
    fn puts_into_the_lake_are_timed_for_minutes() {
        let recorder = with_buckets().expect("buckets").build_recorder();
        let metrics = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            keyloom_actors::observe::put(200.0);
            metrics::histogram!("x_seconds").record(200.0);
        });
        let text = metrics.render();
        let count = |bucket: &str| text.lines().find_map(|line| line.strip_prefix(bucket)?.trim().parse::<u64>().ok());
        let put = |le: &str| count(&format!("{LAKE_PUT_SECONDS}_bucket{{le=\"{le}\"}}"));
        assert_eq!(["60", "120", "300", "900"].map(put), [Some(0), Some(0), Some(1), Some(1)], "{text}");
        assert_eq!((count("x_seconds_bucket{le=\"60\"}"), count("x_seconds_bucket{le=\"300\"}")), (Some(0), None));
    }

    #[test]
    fn spans_of_actors_cost_nothing_unless_they_are_asked_for() {
        // Whether there are spans of actors, and what others log.
        let cases = [
            (DEFAULT_FILTER, false, Level::INFO),
            ("info", false, Level::INFO),
            ("keyloom_engine=warn,debug", false, Level::DEBUG),
            ("trace,ractor=info", true, Level::TRACE),
            ("ractor::actor=info,warn", true, Level::WARN),
            ("error", false, Level::ERROR),
        ];
        for (wanted, actors, others) in cases {
            let filter = EnvFilter::new(without_actors(wanted.to_owned()));
            let log = fmt().with_env_filter(filter).with_writer(std::io::sink).finish();
            with_default(log, || {
                assert_eq!(tracing::span_enabled!(target: "ractor::actor", Level::INFO), actors, "{wanted}");
                let is_logged = [
                    (tracing::enabled!(target: "other", Level::ERROR), Level::ERROR),
                    (tracing::enabled!(target: "other", Level::WARN), Level::WARN),
                    (tracing::enabled!(target: "other", Level::INFO), Level::INFO),
                    (tracing::enabled!(target: "other", Level::DEBUG), Level::DEBUG),
                    (tracing::enabled!(target: "other", Level::TRACE), Level::TRACE),
                ];
                for (is_logged, level) in is_logged {
                    assert_eq!(is_logged, level <= others, "{wanted} {level}");
                }
            });
        }
        assert_eq!(without_actors("error".to_owned()), "error", "actors are not louder than the rest");
        assert_eq!(without_actors("off".to_owned()), "off");
    }
}
