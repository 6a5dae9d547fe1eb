//! What both benchmarks need: the binary beside them, one whole job, memory of a process, medians.

use std::{
    env,
    io::{Read, Seek},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, anyhow};
use keyloom_tests::support::process::{cpu_seconds, memory_of};

/// How often the memory of a running process is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The binary beside this one.
pub fn keyloom() -> anyhow::Result<PathBuf> {
    let here = env::current_exe()?;
    let keyloom = here.parent().context("this binary is in a folder")?.join("keyloom");
    if !keyloom.exists() {
        return Err(anyhow!("{} is missing: cargo build --release --bin keyloom", keyloom.display()));
    }
    Ok(keyloom)
}

/// What one whole job took.
pub struct Job {
    /// Events in the log, and seconds, as the job reports them itself.
    pub events: f64,
    pub seconds: f64,
    /// Seconds of processor time.
    pub cpu: f64,
    /// Most memory that it had, in bytes.
    pub peak: u64,
}

/// `keyloom ingest --process`.
pub fn process(keyloom: &Path, topology: &Path, file: &Path) -> anyhow::Result<Job> {
    let mut said = tempfile::tempfile()?;
    let mut command = Command::new(keyloom);
    command
        .args(["ingest", "--process", "-t"])
        .arg(topology)
        .arg(file)
        .stdout(Stdio::piped())
        .stderr(said.try_clone()?);
    let mut child = command.spawn()?;
    let (mut peak, mut cpu) = (0, 0.0);
    while child.try_wait()?.is_none() {
        peak = peak.max(memory_of(child.id(), "VmHWM").unwrap_or(0));
        cpu = cpu_seconds(child.id()).unwrap_or(cpu);
        std::thread::sleep(LOOK_EVERY);
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    let Some(line) = text.lines().find(|l| l.starts_with("processed:")) else {
        let mut why = String::new();
        said.rewind()?;
        said.read_to_string(&mut why)?;
        return Err(anyhow!("no result: {text}{why}"));
    };
    let word =
        |after: &str| line.split(after).nth(1).and_then(|rest| rest.split_whitespace().next()).map(str::to_owned);
    let events: f64 = word("processed: ").context("events")?.parse()?;
    let seconds: f64 = word("after ").context("seconds")?.parse()?;
    Ok(Job { events, seconds, cpu, peak })
}

/// The one in the middle; of an even number the upper of two.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
