//! A new process in place of this one, when a handler does not come back: a thread cannot be killed.
//!
//! The same program with the same arguments and the same process id, so whoever supervises it notices nothing. Files, sockets
//! and the lock of the data folder close on the way, as at any end.

use std::{env, os::unix::process::CommandExt, process::Command};

use keyloom_actors::observe::{self, Cause};

/// How often this engine has started itself again: handed on, because the metrics begin anew.
const RESTARTS: &str = "KEYLOOM_STUCK_RESTARTS";

/// The process has to be started again by somebody else.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartAgain(pub String);

/// Replaces this process by a new one; answers only if that is not possible.
pub fn this_process() -> StartAgain {
    tracing::warn!("the process starts again by itself");
    let earlier = earlier();
    let mut arguments = env::args_os();
    let name = arguments.next().unwrap_or_else(|| "keyloom".into());
    let error = match env::current_exe() {
        Ok(program) => {
            let mut command = Command::new(program);
            command.arg0(name).args(arguments).env(RESTARTS, (earlier + 1).to_string());
            command.exec()
        }
        Err(error) => error,
    };
    StartAgain(format!("a handler does not come back, and the process cannot start again by itself: {error}"))
}

/// Counts the times before this one.
pub fn count_earlier() {
    (0..earlier()).for_each(|_| observe::restarted("session", Cause::Stuck));
}

fn earlier() -> u64 {
    env::var(RESTARTS).ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}
