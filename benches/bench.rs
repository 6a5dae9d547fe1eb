//! `make bench`: the whole job beside its limits, from one run on one machine.
//!
//! Every whole job is the real binary on a real file or stream, timed by itself from the first byte read (or the first
//! message pulled) until all rows, features, state and checkpoints are committed. Compare by ratio: machines are noisy.

#[path = "shared.rs"]
mod shared;

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use async_nats::jetstream::{self, consumer};
use futures_util::StreamExt;

use keyloom_tests::support::process::memory_of;

use self::shared::{keyloom, median, process};

/// Events of the job, and how many users they fall on; `KEYLOOM_BENCH_EVENTS` changes the first.
const EVENTS: u64 = 3_000_000;
const USERS: u64 = 100_000;
/// Runs of each whole job; the median is reported.
const RUNS: usize = 3;
/// Messages per pull of the bare drain.
const DRAIN_BATCH: usize = 5_000;

fn main() -> anyhow::Result<()> {
    let keyloom = keyloom()?;
    let events: u64 = env::var("KEYLOOM_BENCH_EVENTS").ok().map_or(Ok(EVENTS), |n| n.parse())?;
    let folder = tempfile::tempdir_in(keyloom.parent().context("the binary is in a folder")?)?;
    let file = folder.path().join("events.jsonl");
    println!("{events} events, {USERS} users, {RUNS} runs each, medians");
    let args = ["generate", "--events", &events.to_string(), "--users", &USERS.to_string(), "--to"];
    run(Command::new(&keyloom).args(args).arg(&file))?;
    println!("file: {:.0} bytes per event", fs::metadata(&file)?.len() as f64 / events as f64);

    let (rate, cpu, peak) = embedded(&keyloom, folder.path(), &file)?;
    println!(
        "whole job, embedded, from the file:  {rate:>9.0} events/s   {cpu:.1} µs of CPU per event, peak memory {} MB",
        peak >> 20
    );

    match env::var("KEYLOOM_NATS_SERVER") {
        Ok(server) => jetstream(&keyloom, &server, folder.path(), &file, events)?,
        Err(_) => {
            println!("JetStream: left out, KEYLOOM_NATS_SERVER does not name a server (scripts/tools.sh installs one)")
        }
    }

    let bytes = session_memory(&keyloom, folder.path())?;
    println!("memory per live session:             {bytes:>9.0} bytes, its state, its copies and its actor together");
    Ok(())
}

/// Runs a command to its end; answers with its standard output.
fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(anyhow!("{command:?} failed"));
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn embedded(keyloom: &Path, folder: &Path, file: &Path) -> anyhow::Result<(f64, f64, u64)> {
    let (mut rates, mut cpus, mut peaks) = (Vec::new(), Vec::new(), 0);
    for _ in 0..RUNS {
        let home = tempfile::tempdir_in(folder)?;
        let topology = write(
            home.path(),
            "version = 1\n[sessions]\nhandler = \"session-features\"\n[table.raw_events]\nfrom = \"events\"\n",
        )?;
        let job = process(keyloom, &topology, file)?;
        rates.push(job.events / job.seconds);
        cpus.push(1e6 * job.cpu / job.events);
        peaks = peaks.max(job.peak);
    }
    Ok((median(rates), median(cpus), peaks))
}

fn write(folder: &Path, text: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join("keyloom.toml");
    fs::write(&path, text)?;
    Ok(path)
}

/// A server that ends with this value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn jetstream(keyloom: &Path, server: &str, folder: &Path, file: &Path, events: u64) -> anyhow::Result<()> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let home = tempfile::tempdir_in(folder)?;
    let mut command = Command::new(server);
    command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"]).arg(home.path().join("nats"));
    let _server = Server(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    let url = format!("nats://127.0.0.1:{port}");
    let topology = |bucket: &str| {
        format!(
            "version = 1\n[engine]\ndata_dir = \"{bucket}\"\n[nats]\nurl = \"{url}\"\n[log]\nkind = \"nats\"\n[store]\nkind = \"nats\"\nbucket = \
             \"{bucket}\"\n[lake]\nkind = \"dir\"\npath = \"lake-{bucket}\"\n[sessions]\nhandler = \
             \"session-features\"\n[table.raw_events]\nfrom = \"events\"\n"
        )
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(reachable(&url))?;
    let first = write(home.path(), &topology("fill"))?;
    let began = Instant::now();
    run(Command::new(keyloom).args(["ingest", "-t"]).arg(&first).arg(file))?;
    println!("ingest into JetStream, acknowledged:  {:>8.0} events/s", events as f64 / began.elapsed().as_secs_f64());
    let (mut drains, mut jobs) = (Vec::new(), Vec::new());
    for number in 0..RUNS {
        drains.push(runtime.block_on(drain(&url))?);
        let topology = write(home.path(), &topology(&format!("job{number}")))?;
        let job = process(keyloom, &topology, Path::new("/dev/null"))?;
        jobs.push(job.events / job.seconds);
    }
    let (drain, job) = (median(drains), median(jobs));
    println!("bare async-nats drain:               {drain:>9.0} events/s");
    println!("whole job, JetStream:                {job:>9.0} events/s   {:.0} % of the drain", 100.0 * job / drain);
    Ok(())
}

async fn reachable(url: &str) -> anyhow::Result<()> {
    for _ in 0..100 {
        if async_nats::connect(url).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(anyhow!("nats-server does not answer at {url}"))
}

/// Pulls the whole stream through one client with no acknowledgements and counts: the limit of anything on JetStream.
async fn drain(url: &str) -> anyhow::Result<f64> {
    let context = jetstream::new(async_nats::connect(url).await?);
    let stream = context.get_stream("raw_events").await?;
    let total = stream.cached_info().state.messages;
    let config =
        consumer::pull::Config { ack_policy: consumer::AckPolicy::None, memory_storage: true, ..Default::default() };
    let pull = stream.create_consumer(config).await?;
    let mut messages = pull.stream().max_messages_per_batch(DRAIN_BATCH).messages().await?;
    let began = Instant::now();
    let mut seen = 0;
    while seen < total {
        messages.next().await.context("the stream ended")??;
        seen += 1;
    }
    Ok(total as f64 / began.elapsed().as_secs_f64())
}

/// Memory that one more resident session takes: the same engine with few and with many users, at rest.
fn session_memory(keyloom: &Path, folder: &Path) -> anyhow::Result<f64> {
    let few = resident(keyloom, folder, 1_000)?;
    let many = resident(keyloom, folder, 200_000)?;
    Ok((many.1 - few.1) / (many.0 - few.0))
}

/// Sessions live and bytes of memory of an engine that has seen this many users and has nothing to do.
fn resident(keyloom: &Path, folder: &Path, users: u64) -> anyhow::Result<(f64, f64)> {
    let home = tempfile::tempdir_in(folder)?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let text = format!(
        "version = 1\n[http]\nlisten = \"127.0.0.1:{port}\"\n[store]\nkind = \"embedded\"\ncheckpoint_every = \"1s\"\n[sessions]\nhandler = \
         \"session-features\"\nresident_max = 1_000_000\n[table.raw_events]\nfrom = \"events\"\ncut = {{ rows = 1_000_000, bytes = \
         \"128MiB\", age = \"1s\" }}\n"
    );
    let topology = write(home.path(), &text)?;
    let file = home.path().join("events.jsonl");
    let count = (users * 5).to_string();
    let args = ["generate", "--zipf", "0", "--events", &count, "--users", &users.to_string(), "--to"];
    run(Command::new(keyloom).args(args).arg(&file))?;
    run(Command::new(keyloom).args(["ingest", "-t"]).arg(&topology).arg(&file))?;
    let mut command = Command::new(keyloom);
    command.arg("run").arg(&topology).stdout(Stdio::null()).stderr(Stdio::null());
    let engine = Server(command.spawn()?);
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        std::thread::sleep(Duration::from_millis(200));
        if let Ok(metrics) = get(port, "/metrics") {
            let value = |name: &str| -> f64 {
                let lines = metrics.lines().filter(|l| l.starts_with(name));
                lines.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
            };
            let done = value("keyloom_events_total") > 0.0 && value("keyloom_in_flight_events") == 0.0;
            if done && value("keyloom_checkpoints_total") > 0.0 && value("keyloom_lake_files_total") > 0.0 {
                std::thread::sleep(Duration::from_secs(3));
                let rss = memory_of(engine.0.id(), "VmRSS").context("the engine runs")?;
                return Ok((value("keyloom_sessions_live"), rss as f64));
            }
        }
        if Instant::now() > deadline {
            return Err(anyhow!("the engine does not come to rest"));
        }
    }
}

fn get(port: u16, path: &str) -> anyhow::Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
