//! A process that a test started: its output in files, its end certain.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{POLL, wait_for};

/// How much of a log is shown when something fails.
const SHOWN_BYTES: usize = 8 * 1024;

/// A running process. Killed by its id when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `command`; its output goes to `<name>.out` and `<name>.err` in `folder`, replacing earlier ones.
    pub fn start(name: &str, folder: &Path, command: &mut Command) -> Self {
        let (stdout, stderr) = (folder.join(format!("{name}.out")), folder.join(format!("{name}.err")));
        let file = |path: &Path| File::create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        command.stdin(Stdio::null()).stdout(file(&stdout)).stderr(file(&stderr));
        let child = command.spawn().unwrap_or_else(|e| panic!("{name}: cannot start {command:?}: {e}"));
        Self { name: name.to_owned(), child, stdout, stderr }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of this process")
    }

    /// Sends a signal, by name: `TERM`, `STOP`, `CONT`.
    pub fn signal(&self, signal: &str) {
        let done = Command::new("kill").arg(format!("-{signal}")).arg(self.id().to_string()).status();
        assert!(done.is_ok_and(|status| status.success()), "kill -{signal} {} ({})", self.id(), self.name);
    }

    /// kill -9, and gone when this returns.
    pub fn kill(&mut self) {
        // An error means that it has ended already.
        drop(self.child.kill());
        self.child.wait().expect("a child of this process");
    }

    /// Waits for its end and answers with the exit code; `-1` when a signal ended it.
    pub fn wait(&mut self, patience: Duration) -> i32 {
        let what = format!("the end of {}", self.name);
        let status = wait_for(&what, patience, || self.ended().ok_or_else(|| "still running".to_owned()));
        status.code().unwrap_or(-1)
    }

    /// Bytes of memory that it holds.
    pub fn memory(&self) -> u64 {
        memory_of(self.id(), "VmRSS").expect("a running process has a resident size")
    }

    /// Whether a signal has stopped it.
    pub fn is_stopped(&self) -> bool {
        let stat = read(&PathBuf::from(format!("/proc/{}/stat", self.id())));
        // The state follows the name, which stands in brackets and may hold anything.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    /// How it ended, if it does within `patience`.
    pub fn ended_within(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            match self.ended() {
                None if Instant::now() < deadline => thread::sleep(POLL),
                ended => return ended,
            }
        }
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// The end of both, for a failing test.
    pub fn output(&self) -> String {
        let end = |text: String| {
            let start = (text.len().saturating_sub(SHOWN_BYTES)..=text.len()).find(|at| text.is_char_boundary(*at));
            text[start.unwrap_or(0)..].to_owned()
        };
        format!("--- {} stdout\n{}\n--- stderr\n{}", self.name, end(self.stdout()), end(self.stderr()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.output());
        }
        self.kill();
    }
}

/// Bytes that the system says of a process, `None` once it has ended: `VmRSS` is what it holds, `VmHWM` the most it held.
pub fn memory_of(pid: u32, field: &str) -> Option<u64> {
    let status = read(&PathBuf::from(format!("/proc/{pid}/status")));
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

/// Processor time of a process so far, user and system, in the system's hundredths of a second.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = read(&PathBuf::from(format!("/proc/{pid}/stat")));
    // The fields after the name, which stands in brackets and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
