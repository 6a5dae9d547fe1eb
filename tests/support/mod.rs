//! Servers, the engine, and questions to them. Every wait here polls for a condition until a deadline, and says what it
//! saw when the deadline passes; nothing sleeps and hopes. Failures panic: these are tests.

pub mod audit;
pub mod certificates;
pub mod clients;
pub mod disk;
pub mod engine;
pub mod golden;
pub mod grpc;
pub mod homes;
pub mod http;
pub mod ledger;
pub mod metrics;
pub mod oracle;
pub mod process;
pub mod proxy;
pub mod random;
pub mod servers;

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(25);

/// The folder of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is inside the workspace").to_owned()
}

/// A setting of `scripts/tools.sh`: from the environment, else from the file it wrote. Empty counts as absent.
pub fn setting(name: &str) -> Option<String> {
    let from_file = || {
        let text = std::fs::read_to_string(workspace().join(".tools/env.sh")).ok()?;
        let prefix = format!("export {name}=");
        let value = text.lines().find_map(|line| line.strip_prefix(&prefix))?;
        Some(value.trim_matches('\'').to_owned())
    };
    std::env::var(name).ok().or_else(from_file).filter(|value| !value.is_empty())
}

/// A setting without which a test cannot run.
pub fn tool(name: &str) -> String {
    setting(name).unwrap_or_else(|| panic!("{name} is not set: run `make tools` first"))
}

/// Whether `scripts/tools.sh` found that this machine has no such tool and says to skip it; never with CI=true.
pub fn skipped(what: &str) -> bool {
    let skip = setting("KEYLOOM_SKIP").is_some_and(|list| list.split([',', ' ']).any(|item| item == what));
    assert!(!(skip && std::env::var("CI").is_ok_and(|ci| ci == "true")), "CI skips nothing, but {what} is missing");
    if skip {
        eprintln!("skipped: {what} is not on this machine");
    }
    skip
}

/// Waits until `look` answers with `Ok`; panics with its last `Err` after `patience`.
pub fn wait_for<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if Instant::now() >= deadline => panic!("{what}: not within {patience:?}; last seen: {seen}"),
            Err(_) => thread::sleep(POLL),
        }
    }
}
