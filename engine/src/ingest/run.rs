//! One ingest from its source to its sink, and the report about it. A bad line never stops it.
//!
//! A thread reads, a thread judges lines, the caller's task sends: three stages with short queues between them, so that
//! reading, parsing and storing overlap while memory stays bounded.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use keyloom_actors::{dead_letter::Reason, event::fields::Scanned, timestamp::Clock};
use tokio::sync::mpsc::{Sender, channel};

use super::{
    progress::Progress,
    refused::refused_event,
    sink::{IngestSink, SendCount},
    source::{LINE_BYTES_MAX, Piece, Source, SourceError},
};
use crate::front_door::{Accepted, Acceptor, Rejection, ids::IdSource, split::line_length};

/// Pieces of the source that wait to be judged.
const PIECES_WAITING_MAX: usize = 2;
/// Batches of events that wait to be sent.
const BATCHES_WAITING_MAX: usize = 2;
/// Bad lines that a report quotes the reason of.
const BAD_EXAMPLES_MAX: usize = 20;

/// What an ingest did. Every line that is not blank was sent as one event: `lines - blank = stored + duplicates + refused`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Report {
    /// Lines read.
    pub lines: u64,
    /// Lines with nothing on them.
    pub blank: u64,
    /// Events newly stored, recorded bad lines included.
    pub stored: u64,
    /// Events stored before and absorbed.
    pub duplicates: u64,
    /// Events that the sink's other side refused; not stored.
    pub refused: u64,
    /// Why it refused the first of them.
    pub first_refusal: Option<String>,
    /// Lines that are no events; recorded in the log, where they become dead letters.
    pub bad: u64,
    /// The first of them: number, counted from 1, and reason.
    pub bad_examples: Vec<(u64, String)>,
    /// Bytes of text read.
    pub bytes: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// What the judging thread hands on.
enum Step {
    Batch(Batch),
    /// The source ended, or broke after the lines so far.
    End(Option<SourceError>),
}

#[derive(Default)]
struct Batch {
    events: Vec<Accepted>,
    lines: u64,
    blank: u64,
    bytes: u64,
    bad: Vec<(u64, String)>,
    bad_count: u64,
}

/// Sends every line of `source` to `sink`. Lines that `acceptor` rejects are recorded as dead letters and counted.
///
/// Fails when the source breaks or the sink gives up; what was sent before stays, and running again is safe for events
/// that carry an `event_id`.
pub async fn run(
    source: Source,
    acceptor: Acceptor,
    clock: Arc<dyn Clock>,
    sink: &mut dyn IngestSink,
    progress: &dyn Progress,
) -> Result<Report, anyhow::Error> {
    let result = drive(source, acceptor, clock, sink, progress).await;
    progress.ended();
    result
}

async fn drive(
    source: Source,
    acceptor: Acceptor,
    clock: Arc<dyn Clock>,
    sink: &mut dyn IngestSink,
    progress: &dyn Progress,
) -> Result<Report, anyhow::Error> {
    let started = Instant::now();
    let name = source.name().to_owned();
    let file_bytes = source.file_bytes();
    let (pieces, waiting_pieces) = sync_channel(PIECES_WAITING_MAX);
    let (batches, mut waiting_batches) = channel(BATCHES_WAITING_MAX);
    let judge =
        Judge { acceptor, clock, ids: IdSource::new(), source: name.clone(), line: 0, known_bad: 0, fields_before: 0 };
    // Plain threads, never joined: one may be stuck in a read of a silent pipe, which must not keep the process from ending.
    // They end by themselves when the other side of their queue is gone.
    thread::Builder::new()
        .name("ingest-read".to_owned())
        .spawn(move || read(source, &pieces))
        .context("cannot start the reading thread")?;
    thread::Builder::new()
        .name("ingest-judge".to_owned())
        .spawn(move || judge.run(&waiting_pieces, &batches))
        .context("cannot start the parsing thread")?;

    let mut report = Report::default();
    let broken = loop {
        let step = waiting_batches.recv().await;
        match step.ok_or_else(|| anyhow!("{name}: reading stopped because of a defect after line {}", report.lines))? {
            Step::Batch(batch) => {
                report.lines += batch.lines;
                report.blank += batch.blank;
                report.bytes += batch.bytes;
                report.bad += batch.bad_count;
                report.bad_examples.extend(batch.bad);
                if !batch.events.is_empty() {
                    let sent = sink.send(batch.events).await;
                    report
                        .add(sent.map_err(|problem| anyhow!("{name}: stopped near line {}: {problem}", report.lines))?);
                }
                progress.reached(file_bytes.load(Ordering::Relaxed), report.lines);
            }
            Step::End(broken) => break broken,
        }
    };
    report
        .add(sink.finish().await.map_err(|problem| anyhow!("{name}: the last events were not confirmed: {problem}"))?);
    report.first_refusal = sink.first_refusal().map(str::to_owned);
    report.elapsed = started.elapsed();
    match broken {
        None => Ok(report),
        Some(error) => Err(anyhow!("{error}\nuntil then: {report}")),
    }
}

fn read(mut source: Source, pieces: &SyncSender<Result<Piece, SourceError>>) {
    while let Some(piece) = source.next_piece().transpose() {
        let is_last = piece.is_err();
        if pieces.send(piece).is_err() || is_last {
            return;
        }
    }
}

/// Turns lines into events, in order.
struct Judge {
    acceptor: Acceptor,
    clock: Arc<dyn Clock>,
    ids: IdSource,
    source: String,
    line: u64,
    known_bad: usize,
    /// Fields of the piece before: the next one will have about as many.
    fields_before: usize,
}

impl Judge {
    fn run(mut self, pieces: &Receiver<Result<Piece, SourceError>>, batches: &Sender<Step>) {
        for piece in pieces {
            let step = match piece {
                Ok(Piece::Lines(lines)) => Step::Batch(self.lines(&lines)),
                Ok(Piece::Overlong { bytes, head }) => Step::Batch(self.overlong(bytes, &head)),
                Err(error) => Step::End(Some(error)),
            };
            let is_end = matches!(step, Step::End(_));
            if batches.blocking_send(step).is_err() || is_end {
                return;
            }
        }
        // Whether it is received does not matter: nothing comes after it.
        drop(batches.blocking_send(Step::End(None)));
    }

    fn lines(&mut self, text: &Bytes) -> Batch {
        let mut batch = Batch { bytes: text.len() as u64, ..Batch::default() };
        let now = self.clock.now();
        let mut fields = Vec::with_capacity(self.fields_before + self.fields_before / 8);
        let mut found = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let end = at + line_length(&text[at..]);
            self.line += 1;
            batch.lines += 1;
            let line = text[at..end].trim_ascii();
            if line.is_empty() {
                batch.blank += 1;
            } else {
                let mut new_id = || self.ids.next(now);
                match self.acceptor.accept_slice(text, at..end, &mut fields, now, &mut new_id) {
                    Ok((accepted, fields)) => {
                        found.extend(fields.map(|fields| (batch.events.len(), fields)));
                        batch.events.push(accepted);
                    }
                    Err(rejection) => self.refuse(&mut batch, rejection, line.len() as u64, line),
                }
            }
            at = end;
        }
        self.fields_before = fields.len();
        let fields = Arc::new(fields);
        for (index, (range, known)) in found {
            batch.events[index].record.scanned = Some(Scanned::new(Arc::clone(&fields), range, known));
        }
        batch
    }

    fn overlong(&mut self, bytes: u64, head: &[u8]) -> Batch {
        let mut batch = Batch { bytes, lines: 1, ..Batch::default() };
        self.line += 1;
        let text = format!("the line has {bytes} bytes; lines above {LINE_BYTES_MAX} are not read");
        self.refuse(&mut batch, Rejection { reason: Reason::TooLarge, text }, bytes, head);
        batch
    }

    /// Puts the record of a bad line where its event would have been.
    fn refuse(&mut self, batch: &mut Batch, rejection: Rejection, bytes: u64, head: &[u8]) {
        let now = self.clock.now();
        let limit = self.acceptor.event_bytes_max;
        let record = |head| refused_event(&rejection, &self.source, self.line, bytes, head, limit);
        let accepted = self.acceptor.accept(&record(head), now, &mut || self.ids.next(now));
        let mut reason = rejection.to_string();
        match accepted {
            Ok(accepted) => batch.events.push(accepted),
            // Only with an event limit of a few kilobytes; the report must say that nothing was recorded.
            Err(second) => reason = format!("{reason} (not recorded: {})", second.text),
        }
        batch.bad_count += 1;
        if self.known_bad < BAD_EXAMPLES_MAX {
            self.known_bad += 1;
            batch.bad.push((self.line, reason));
        }
    }
}

impl Report {
    fn add(&mut self, count: SendCount) {
        self.stored += count.stored;
        self.duplicates += count.duplicates;
        self.refused += count.refused;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        let rate = if seconds > 0.0 { self.lines as f64 / seconds } else { 0.0 };
        write!(
            f,
            "{} lines read ({:.1} MB, {seconds:.1} s, {rate:.0} lines/s): {} stored, {} duplicates absorbed",
            self.lines,
            self.bytes as f64 / 1e6,
            self.stored,
            self.duplicates
        )?;
        if self.blank > 0 {
            write!(f, ", {} blank", self.blank)?;
        }
        if self.refused > 0 {
            let why = self.first_refusal.as_deref().unwrap_or("no reason given");
            write!(f, "\n{} events refused by the engine and not stored, the first: {why}", self.refused)?;
        }
        if self.bad > 0 {
            write!(f, "\n{} bad lines, recorded as dead letters:", self.bad)?;
            for (line, reason) in &self.bad_examples {
                write!(f, "\n  line {line}: {reason}")?;
            }
            let more = self.bad - self.bad_examples.len() as u64;
            if more > 0 {
                write!(f, "\n  and {more} more")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use keyloom_actors::{event::KeyPaths, timestamp::SystemClock};

    use super::*;
    use crate::{
        front_door::{
            decode::{Encoding, encode},
            test_log::MemoryLog,
        },
        ingest::{LogSink, progress::Silent, source::from_bytes},
    };

    async fn ingest(log: &Arc<MemoryLog>, text: Vec<u8>) -> Result<Report, anyhow::Error> {
        let acceptor = Acceptor { keys: KeyPaths::new(["k"]), partitions: 2, event_bytes_max: 1 << 20 };
        let mut sink = LogSink::new(Arc::<MemoryLog>::clone(log));
        run(from_bytes("f.json", text), acceptor, Arc::new(SystemClock), &mut sink, &Silent).await
    }

    fn event(n: usize) -> String {
        format!(r#"{{"k":"u{}","event_id":"{n}","collector_tstamp":"2026-11-20T12:00:00Z"}}"#, n % 11)
    }

    #[tokio::test]
    async fn every_line_is_accounted_for_and_bad_ones_are_numbered_right() {
        let mut lines: Vec<String> = (1..=60_000).map(event).collect();
        lines[16] = "nope".into();
        lines[30] = String::new();
        lines[40_000] = "{\"x\":1}".into();
        lines[50_000] = format!("{{\"k\":\"u\",\"x\":\"{}\"}}", "x".repeat(10 << 20));
        let text = format!("\u{feff}{}", lines.join("\r\n"));
        let log = Arc::new(MemoryLog::default());
        let report = ingest(&log, text.clone().into()).await.expect("bad lines never stop it");
        assert_eq!((report.lines, report.blank, report.stored, report.duplicates), (60_000, 1, 59_999, 0));
        let examples: Vec<_> =
            report.bad_examples.iter().map(|(n, r)| (*n, r.split(':').next().expect("a label"))).collect();
        assert_eq!(examples, [(17, "parse"), (40_001, "no_key"), (50_001, "too_large")]);
        let bad: Vec<String> = log.records()[&0]
            .iter()
            .filter(|r| r.key.is_empty())
            .map(|r| String::from_utf8_lossy(&r.payload).into_owned())
            .collect();
        assert_eq!(bad.len(), 3);
        assert!(bad[0].contains(r#""source":"f.json:17","bytes":4,"payload":"nope""#), "{}", bad[0]);
        assert!(bad[2].contains(r#""keyloom.rejected":"too_large""#) && bad[2].len() < 70_000);
        let again = ingest(&log, text.into()).await.expect("a second time");
        assert_eq!((again.stored, again.duplicates, again.bad), (0, 59_999, 3));
        let shown = report.to_string();
        assert!(shown.contains("59999 stored") && shown.contains("line 17: parse: not a JSON object"), "{shown}");
    }

    #[tokio::test]
    async fn order_per_key_is_the_order_of_the_file() {
        let text = (0..30_000).map(event).collect::<Vec<_>>().join("\n");
        let log = Arc::new(MemoryLog::default());
        let report = ingest(&log, encode(Encoding::Zstd, text.as_bytes())).await.expect("a good file");
        assert_eq!((report.stored, report.bad, report.bytes), (30_000, 0, text.len() as u64));
        for (partition, records) in log.records() {
            let expected = (0..30_000).filter(|n| {
                let key = format!("u{}", n % 11);
                keyloom_actors::key::partition_of(key.as_bytes(), 2) == partition
            });
            assert!(expected.map(event).eq(records.iter().map(|r| String::from_utf8_lossy(&r.payload).into_owned())));
        }
    }

    #[tokio::test]
    async fn empty_sources_and_many_bad_lines() {
        let log = Arc::new(MemoryLog::default());
        let report = ingest(&log, Vec::new()).await.expect("nothing to do");
        assert_eq!((report.lines, report.stored), (0, 0));
        let report = ingest(&log, "x\n".repeat(50).into()).await.expect("bad, not broken");
        assert_eq!((report.bad, report.bad_examples.len(), report.stored), (50, 20, 50));
        assert!(report.to_string().ends_with("and 30 more"));
    }

    #[tokio::test]
    async fn a_broken_source_keeps_what_came_before_and_says_how_far_it_got() {
        let text = (0..50_000).map(event).collect::<Vec<_>>().join("\n");
        let packed = encode(Encoding::Gzip, text.as_bytes());
        let log = Arc::new(MemoryLog::default());
        let error = ingest(&log, packed[..packed.len() / 2].to_vec()).await.expect_err("it is cut off");
        let stored: usize = log.records().values().map(Vec::len).sum();
        assert!(stored > 1_000, "{error}");
        let message = error.to_string();
        assert!(message.contains("gzip data is broken or cut off"), "{message}");
        assert!(message.contains(&format!("{stored} lines read")), "{message}");
    }

    #[tokio::test]
    async fn a_sink_that_gives_up_ends_the_run() {
        let log = Arc::new(MemoryLog::default());
        log.fail_next(keyloom_actors::ports::LogError::Corrupt("a bad block".into()));
        let text = (0..200_000).map(event).collect::<Vec<_>>().join("\n");
        let error = ingest(&log, text.into()).await.expect_err("the log is damaged").to_string();
        assert!(error.contains("f.json: ") && error.contains("a bad block"), "{error}");
    }
}
