//! `keyloom ingest`: a file of events into the log of a topology.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use keyloom_actors::{ports::Log, timestamp::SystemClock};

use super::{listening::Owner, restart::StartAgain, run, token::TokenFile, topology_file};
use crate::{
    Engine,
    embedded::{EmbeddedError, EmbeddedHome, EmbeddedLog},
    homes::{self, OWNER_FILE},
    ingest::{self, HttpSink, IngestSink, LogSink, Source},
    nats,
    running::{Broken, Running},
    topology::Topology,
};

/// The arguments of `keyloom ingest`.
#[derive(clap::Args)]
pub struct IngestArguments {
    /// The topology whose log takes the events
    #[arg(short, long, default_value = "keyloom.toml")]
    topology: PathBuf,
    /// Also process them: run the engine here until every event is in features and lake
    #[arg(long)]
    process: bool,
    #[command(flatten)]
    token: TokenFile,
    /// JSON lines, plain or packed with gzip or zstd; - for standard input
    file: String,
}

/// How often `--process` looks how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Loads the topology that the arguments name.
pub fn load(arguments: &IngestArguments, engine: &Engine) -> anyhow::Result<Topology> {
    let load = if arguments.process { topology_file::load } else { topology_file::load_for_its_log };
    load(&arguments.topology, engine)
}

/// See the module.
pub async fn ingest(arguments: IngestArguments, topology: Topology, engine: &Engine) -> anyhow::Result<()> {
    if arguments.process {
        return process(&arguments, &topology, engine).await;
    }
    let (mut sink, log_max, _keep): (Box<dyn IngestSink>, usize, _) = open(&arguments.token, &topology).await?;
    let report = read_into(&arguments, &topology, sink.as_mut(), log_max).await?;
    println!("{report}");
    Ok(())
}

async fn read_into(
    arguments: &IngestArguments,
    topology: &Topology,
    sink: &mut dyn IngestSink,
    log_max: usize,
) -> anyhow::Result<ingest::Report> {
    let source = Source::open(&arguments.file)?;
    let progress = ingest::progress::for_stderr(source.file_bytes_total());
    let acceptor = run::acceptor(topology, log_max);
    ingest::run(source, acceptor, Arc::new(SystemClock), sink, progress.as_ref()).await
}

/// The log itself, or the engine that has it.
async fn open(
    token: &TokenFile,
    topology: &Topology,
) -> anyhow::Result<(Box<dyn IngestSink>, usize, Option<EmbeddedHome>)> {
    match homes::embedded_options(topology) {
        None => {
            let connection = homes::connect(topology).await?;
            let log = Arc::new(nats::open_log(&connection, homes::log_options(topology)?).await?);
            let max = log.event_bytes_max();
            Ok((Box::new(LogSink::new(log)), max, None))
        }
        Some(options) => match tokio::task::spawn_blocking(move || EmbeddedHome::open(&options)).await? {
            Ok(home) => {
                let log = Arc::new(EmbeddedLog::new(&home, Arc::new(SystemClock)));
                let max = log.event_bytes_max();
                Ok((Box::new(LogSink::new(log)), max, Some(home)))
            }
            Err(EmbeddedError::Locked(_)) => {
                let address = engine_of(topology)?.listen.to_string();
                let way = token.way(topology)?;
                eprintln!("an engine runs on this topology; sending to {}://{address}", way.scheme());
                let events_max = usize::try_from(topology.http.events_max).unwrap_or(usize::MAX);
                let body_max = usize::try_from(topology.http.body_max).unwrap_or(usize::MAX);
                let sink = HttpSink::by(&address, way).map_err(|e| anyhow!(e))?.within(events_max, body_max);
                Ok((Box::new(sink), usize::MAX, None))
            }
            Err(error) => Err(error.into()),
        },
    }
}

/// Where the engine listens that has the data folder.
pub fn engine_of(topology: &Topology) -> anyhow::Result<Owner> {
    let path = topology.engine.data_dir.join(OWNER_FILE);
    let advice = "another process uses the data folder, but does not say where it listens; is another command at work? Try again";
    let text = std::fs::read_to_string(&path).context(advice)?;
    Owner::read(&text).context(advice)
}

async fn process(arguments: &IngestArguments, topology: &Topology, engine: &Engine) -> anyhow::Result<()> {
    run::describe_metrics();
    let began = Instant::now();
    let mut running = run::start(topology, engine).await?;
    let log = Arc::clone(&running.homes.homes.log);
    let statuses = running.statuses.clone();
    let routed = move |partition: u32| {
        statuses.get(partition as usize).map_or(u64::MAX, |status| status.routed.load(Ordering::Relaxed))
    };
    let mut sink = LogSink::new(Arc::clone(&log)).with_engine(Arc::new(routed));
    let report = tokio::select! {
        report = read_into(arguments, topology, &mut sink, log.event_bytes_max()) => report?,
        broken = running.broken() => return Err(ended_by(broken)),
    };
    println!("{report}");
    finish(&mut running, log.as_ref()).await?;
    let seconds = began.elapsed().as_secs_f64();
    let events: u64 = running.statuses.iter().map(|s| s.counters().total()).sum();
    let lines = report.lines as f64;
    println!(
        "processed: {events} events in the log, all in features and lake, after {seconds:.3} s ({:.0} lines/s)",
        lines / seconds
    );
    Ok(())
}

/// Waits until the partitions have read to the end of their logs, then drains.
async fn finish(running: &mut Running, log: &dyn Log) -> anyhow::Result<()> {
    for partition in 0..running.statuses.len() {
        let status = Arc::clone(&running.statuses[partition]);
        let last = log.info(u32::try_from(partition)?).await?.last_seq;
        while status.routed.load(Ordering::Relaxed) < last {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                broken = running.broken() => return Err(ended_by(broken)),
            }
        }
    }
    if running.drain(Duration::MAX).await {
        return Ok(());
    }
    Err(anyhow!("the engine ended before everything was written; run it again to go on"))
}

/// No new process by itself: it would read its file from the beginning, and what the log does not absorb would be there twice.
fn ended_by(broken: Broken) -> anyhow::Error {
    match broken {
        Broken::Lost(reason) => anyhow!("{reason}"),
        Broken::Stuck => {
            StartAgain("a handler did not come back from an event; run it again to go on without it".to_owned()).into()
        }
    }
}
