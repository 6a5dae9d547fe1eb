//! `keyloom generate`: synthetic clickstream to standard output, a file, a front door or NATS.

use std::{
    fs::File,
    io::{BufWriter, Write},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use keyloom_actors::{
    event::KeyPaths,
    timestamp::{Clock, SystemClock, Timestamp},
};

use super::{WrongUse, token::TokenFile};
use crate::{
    engine_client::Way,
    front_door::{Acceptor, ids::IdSource},
    generate::{Generator, GeneratorOptions},
    ingest::{HttpSink, IngestSink},
    nats,
};

/// Lines per batch where they go over a network.
const BATCH_LINES_MAX: u64 = 1_000;
/// Shortest pause of a paced run: below, the timer costs more than the events.
const PACE: Duration = Duration::from_millis(10);

/// The arguments of `keyloom generate`.
#[derive(clap::Args)]
pub struct GenerateArguments {
    /// How many lines, duplicates included; without it, until it is stopped
    #[arg(long)]
    events: Option<u64>,
    /// How many users
    #[arg(long, default_value_t = GeneratorOptions::default().users)]
    users: u64,
    /// Another seed, other events; the same seed, the same bytes
    #[arg(long, default_value_t = GeneratorOptions::default().seed)]
    seed: u64,
    /// Events per second, at the clock's pace and with the clock's time; without it, as fast as possible and with times
    /// from --start on
    #[arg(long)]
    rate: Option<f64>,
    /// Share of lines that repeat an earlier one
    #[arg(long, default_value_t = GeneratorOptions::default().duplicates)]
    duplicates: f64,
    /// Share of events that come minutes to hours late
    #[arg(long, default_value_t = GeneratorOptions::default().late)]
    late: f64,
    /// Share of users whose clock is wrong
    #[arg(long, default_value_t = GeneratorOptions::default().skewed_clocks)]
    skewed_clocks: f64,
    /// How unevenly events fall on users: the exponent of Zipf's law, 0 for evenly
    #[arg(long, default_value_t = GeneratorOptions::default().zipf)]
    zipf: f64,
    /// About how many bytes an event has
    #[arg(long, default_value_t = GeneratorOptions::default().event_bytes)]
    event_bytes: usize,
    /// Time of the first event, RFC 3339, where --rate does not make it now
    #[arg(long)]
    start: Option<String>,
    /// - for standard output, a file, http://HOST:PORT of an engine, or nats://HOST:PORT[/SUBJECT] (events.generate)
    #[arg(long, default_value = "-")]
    to: String,
    #[command(flatten)]
    token: TokenFile,
}

/// See the module.
pub async fn generate(arguments: GenerateArguments) -> anyhow::Result<()> {
    let defaults = GeneratorOptions::default();
    let start = match (&arguments.start, arguments.rate) {
        (Some(text), _) => Timestamp::parse(text)
            .ok_or_else(|| WrongUse(format!("--start {text} is not a time; for instance 2026-11-20T08:00:00Z")))?,
        (None, Some(_)) => SystemClock.now(),
        (None, None) => defaults.start,
    };
    let options = GeneratorOptions {
        seed: arguments.seed,
        users: arguments.users,
        events: arguments.events,
        zipf: arguments.zipf,
        duplicates: arguments.duplicates,
        late: arguments.late,
        skewed_clocks: arguments.skewed_clocks,
        start,
        rate: arguments.rate.unwrap_or(defaults.rate),
        event_bytes: arguments.event_bytes,
    };
    options.check().map_err(|error| WrongUse(error.to_string()))?;
    let paced = arguments.rate.map(|rate| Pace { rate, began: Instant::now(), sent: 0 });
    let generator = Generator::new(options);
    if let Some(address) = arguments.to.strip_prefix("http://") {
        let way = Way::new(arguments.token.token()?.as_deref(), None)?;
        let sink = HttpSink::by(address.trim_end_matches('/'), way).map_err(WrongUse)?;
        return to_front_door(generator, paced, sink).await;
    }
    if arguments.to.starts_with("nats://") || arguments.to.starts_with("tls://") {
        return to_nats(generator, paced, &arguments.to).await;
    }
    if arguments.to == "-" {
        return to_writer(generator, paced, std::io::stdout().lock()).await;
    }
    let file = File::create(&arguments.to).with_context(|| format!("{} cannot be written", arguments.to))?;
    to_writer(generator, paced, file).await
}

/// Keeps a run at its rate.
struct Pace {
    rate: f64,
    began: Instant,
    sent: u64,
}

impl Pace {
    /// Waits until more is due; how many lines that is.
    async fn due(&mut self) -> u64 {
        loop {
            let due = (self.began.elapsed().as_secs_f64() * self.rate) as u64;
            if due > self.sent {
                let lines = (due - self.sent).min(BATCH_LINES_MAX);
                self.sent += lines;
                return lines;
            }
            tokio::time::sleep(PACE).await;
        }
    }
}

/// The next lines; empty at the end.
async fn next_lines(generator: &mut Generator, pace: &mut Option<Pace>) -> Vec<u8> {
    let lines = match pace {
        Some(pace) => pace.due().await,
        None => BATCH_LINES_MAX,
    };
    let mut text = Vec::new();
    for _ in 0..lines {
        if !generator.write_next(&mut text) {
            break;
        }
    }
    text
}

async fn to_writer(mut generator: Generator, mut pace: Option<Pace>, writer: impl Write) -> anyhow::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, writer);
    loop {
        let text = next_lines(&mut generator, &mut pace).await;
        let written = if text.is_empty() { out.flush() } else { out.write_all(&text) };
        match written {
            Ok(()) if text.is_empty() => return Ok(()),
            Ok(()) if pace.is_some() => out.flush()?,
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()), // `head` has seen enough
            Err(error) => return Err(error.into()),
        }
    }
}

async fn to_front_door(mut generator: Generator, mut pace: Option<Pace>, mut sink: HttpSink) -> anyhow::Result<()> {
    let acceptor = Acceptor { keys: KeyPaths::new(["domain_userid"]), partitions: 1, event_bytes_max: usize::MAX };
    let ids = IdSource::new();
    let began = Instant::now();
    loop {
        let text = next_lines(&mut generator, &mut pace).await;
        if text.is_empty() {
            break;
        }
        let now = SystemClock.now();
        let events = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        let accepted = events.map(|line| acceptor.accept(line, now, &mut || ids.next(now)).map_err(|e| anyhow!("{e}")));
        sink.send(accepted.collect::<anyhow::Result<_>>()?).await.map_err(|e| anyhow!(e))?;
    }
    sink.finish().await.map_err(|e| anyhow!(e))?;
    report(&generator, began);
    Ok(())
}

async fn to_nats(mut generator: Generator, mut pace: Option<Pace>, to: &str) -> anyhow::Result<()> {
    let (scheme, rest) = to.split_once("://").context("the address has a scheme")?;
    let (host, subject) = rest.split_once('/').unwrap_or((rest, ""));
    let subject = if subject.is_empty() { "events.generate" } else { subject };
    let options = nats::NatsOptions {
        url: format!("{scheme}://{host}"),
        auth: nats::NatsAuth::None,
        tls: None,
        name: "keyloom generate".to_owned(),
    };
    let publisher = nats::Publisher::new(&nats::connect(&options).await?, subject).await?;
    let began = Instant::now();
    loop {
        let text = next_lines(&mut generator, &mut pace).await;
        if text.is_empty() {
            break;
        }
        publisher.publish_lines(&text.into()).await?;
    }
    report(&generator, began);
    Ok(())
}

fn report(generator: &Generator, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    eprintln!("{} events sent in {seconds:.1} s ({:.0}/s)", generator.written(), generator.written() as f64 / seconds);
}
