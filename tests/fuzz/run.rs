//! Runs inputs in worker threads and collects what they broke. Each input has a seed of its own, from which it is made again.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use keyloom_tests::support::random::Random;

use crate::targets::{World, targets};

/// Longest time for one input: of an unoptimised program on a busy machine. What is quadratic in a body takes longer.
const INPUT_MAX: Duration = Duration::from_secs(5);
/// Failures that are told one by one.
const FAILURES_MAX: usize = 20;
/// Inputs between two signs of life.
const TOLD_EVERY: u64 = 1_000_000;
/// Memory of the process at its peak, in bytes: the world of each thread, and what C code takes.
const PROCESS_BYTES_MAX: u64 = 1 << 30;
/// Stack of a worker: that of the engine's threads.
const STACK_BYTES: usize = 2 << 20;
/// A number that has nothing to do with others.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// What came of a run.
#[derive(Default)]
pub struct Report {
    /// Inputs that broke something, in words.
    pub failures: Vec<String>,
    told: BTreeMap<&'static str, Told>,
    seconds: f64,
    process_bytes: u64,
}

/// What came of the inputs of one target.
#[derive(Default)]
struct Told {
    inputs: u64,
    /// Those that were taken: a corpus that nobody takes finds nothing.
    sound: u64,
    /// Bytes held at most for one.
    peak: u64,
}

impl Told {
    fn add(&mut self, other: &Self) {
        self.inputs += other.inputs;
        self.sound += other.sound;
        self.peak = self.peak.max(other.peak);
    }
}

/// A single input again.
pub fn one(seed: u64) -> Report {
    let began = Instant::now();
    let mut report = Report::default();
    with_stack(&mut report, |report| {
        let world = World::new();
        // Before it is tried: the process may die of it.
        let mut random = Random::new(seed);
        let target = world.choose(&mut random, targets());
        let input = (target.input)(&world, &mut random);
        println!("{} reads {} bytes: {:?}", target.name, input.len(), String::from_utf8_lossy(&input));
        try_one(&world, seed, report);
    });
    report.finish(began)
}

/// `count` inputs.
pub fn many(seed: u64, count: u64) -> Report {
    let began = Instant::now();
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(0);
    let whole = Mutex::new(Report::default());
    thread::scope(|scope| {
        for worker in 0..workers {
            let (next, whole) = (&next, &whole);
            let work = move || {
                let world = World::new();
                let at = Place::new(worker);
                let mut report = Report::default();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count || report.failures.len() >= FAILURES_MAX {
                        break;
                    }
                    if n > 0 && n.is_multiple_of(TOLD_EVERY) {
                        println!("{n} of {count} inputs, {:.0} s", began.elapsed().as_secs_f64());
                    }
                    let seed = seed.wrapping_mul(SPREAD).wrapping_add(n).wrapping_mul(SPREAD);
                    at.note(seed);
                    try_one(&world, seed, &mut report);
                }
                at.done();
                whole.lock().expect("no worker panics here").merge(report);
            };
            thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work).expect("a thread");
        }
    });
    whole.into_inner().expect("no worker panics here").finish(began)
}

fn with_stack(report: &mut Report, work: impl FnOnce(&mut Report) + Send) {
    thread::scope(|scope| {
        let started = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, || work(report));
        started.expect("a thread").join().expect("failures are caught");
    });
}

fn try_one(world: &World, seed: u64, report: &mut Report) {
    let mut random = Random::new(seed);
    let target = world.choose(&mut random, targets());
    let input = (target.input)(world, &mut random);
    let began = Instant::now();
    let mut outcome = Ok(false);
    let info = allocation_counter::measure(|| {
        let run = AssertUnwindSafe(|| (target.run)(world, &input, &mut random));
        outcome = catch_unwind(run).map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
        });
    });
    let is_sound = outcome == Ok(true);
    let (took, peak_max) = (began.elapsed(), target.peak_base + target.peak_factor * input.len() as u64);
    let problem = match outcome {
        Err(panic) => Some(format!("panicked: {panic}")),
        Ok(_) if took > INPUT_MAX => Some(format!("took {took:?}")),
        Ok(_) if info.bytes_max > peak_max => {
            Some(format!("held {} bytes for {}; at most {peak_max} are allowed", info.bytes_max, input.len()))
        }
        Ok(_) => None,
    };
    report.told.entry(target.name).or_default().add(&Told {
        inputs: 1,
        sound: u64::from(is_sound),
        peak: info.bytes_max,
    });
    if let Some(problem) = problem {
        let shown: String = String::from_utf8_lossy(&input).chars().take(400).collect();
        let failure = format!("{} {problem}\n  KEYLOOM_FUZZ_ONE={seed}: {shown:?}", target.name);
        eprintln!("FAILED: {failure}"); // at once: a long run may be ended before its end
        report.failures.push(failure);
    }
}

/// Says in a file what a worker is at, for the case that the process dies of it. One small write per input.
struct Place {
    file: File,
    path: std::path::PathBuf,
}

impl Place {
    fn new(worker: usize) -> Self {
        let path = std::env::temp_dir().join(format!("keyloom-fuzz-{}-{worker}", std::process::id()));
        Self { file: File::create(&path).expect("the temporary folder is writable"), path }
    }

    fn note(&self, seed: u64) {
        self.file.write_all_at(format!("KEYLOOM_FUZZ_ONE={seed:<20}\n").as_bytes(), 0).expect("writable");
    }

    fn done(self) {
        fs::remove_file(self.path).expect("it is there");
    }
}

impl Report {
    fn merge(&mut self, other: Self) {
        self.failures.extend(other.failures);
        other.told.iter().for_each(|(name, told)| self.told.entry(name).or_default().add(told));
    }

    fn finish(mut self, began: Instant) -> Self {
        self.seconds = began.elapsed().as_secs_f64();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        self.process_bytes = peak.unwrap_or(0) << 10;
        if self.process_bytes > PROCESS_BYTES_MAX {
            let failure = format!("the process held {} bytes", self.process_bytes);
            eprintln!("FAILED: {failure}");
            self.failures.push(failure);
        }
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: u64 = self.told.values().map(|told| told.inputs).sum();
        writeln!(f, "{:<14} {:>10} {:>10} {:>14}", "decoder", "inputs", "sound", "peak bytes")?;
        for (name, Told { inputs, sound, peak }) in &self.told {
            writeln!(f, "{name:<14} {inputs:>10} {sound:>10} {peak:>14}")?;
        }
        let (rate, mib) = (all as f64 / self.seconds, self.process_bytes >> 20);
        writeln!(f, "{all} inputs in {:.1} s, {rate:.0} inputs/s; process peak {mib} MiB", self.seconds)?;
        writeln!(f, "{} broke something", self.failures.len())
    }
}
