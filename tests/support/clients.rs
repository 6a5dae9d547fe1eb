//! Client packages, unmodified, each driven by a script of tests/clients that sends a known series of events.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{process::Process, skipped, tool, workspace};

/// How long a client may take; each waits half a minute for its own deliveries.
const CLIENT_MAX: Duration = Duration::from_secs(60);
/// The name under which `scripts/tools.sh` says that a machine has no Node.
const NO_NODE: &str = "node";

/// The script of a client.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// The file in tests/clients, without `.py` or `.mjs`.
    pub name: &'static str,
    is_node: bool,
}

impl Client {
    /// One of the packages from PyPI.
    pub fn python(name: &'static str) -> Self {
        Self { name, is_node: false }
    }

    /// One of the packages from npm; `None` on a machine without Node.
    pub fn node(name: &'static str) -> Option<Self> {
        (!skipped(NO_NODE)).then_some(Self { name, is_node: true })
    }

    /// Its script.
    pub fn script(self) -> PathBuf {
        scripts().join(format!("{}.{}", self.name, if self.is_node { "mjs" } else { "py" }))
    }

    /// Lets it send everything to the front door on `port`, and answers with how many events that were. Panics unless the
    /// client itself says that all were delivered.
    pub fn send(self, port: u16, folder: &Path) -> u64 {
        self.finish(&mut self.start(port, folder))
    }

    /// Starts it, for a test that does something meanwhile.
    pub fn start(self, port: u16, folder: &Path) -> Process {
        let mut command =
            if self.is_node { node(self, folder) } else { python("KEYLOOM_CLIENTS_PYTHON", &self.script()) };
        command.arg(format!("http://127.0.0.1:{port}")).current_dir(folder);
        Process::start(self.name, folder, &mut command)
    }

    /// Waits for its end, as [`Client::send`].
    pub fn finish(self, process: &mut Process) -> u64 {
        let code = process.wait(CLIENT_MAX);
        let (said, output) = (process.stdout(), process.output());
        assert_eq!(code, 0, "{} could not deliver everything\n{output}", self.name);
        let sent = said.lines().last().and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        sent.and_then(|line| line["sent"].as_u64()).unwrap_or_else(|| panic!("{} says no number\n{output}", self.name))
    }
}

/// The folder of the scripts.
pub fn scripts() -> PathBuf {
    workspace().join("tests/clients")
}

/// A script run by one of the Pythons of `scripts/tools.sh`, the same everywhere.
pub fn python(setting: &str, script: &Path) -> Command {
    let mut command = Command::new(tool(setting));
    command.arg(script);
    same_everywhere(&mut command);
    command
}

/// A program that is a Python package, as [`python`].
pub fn python_module(setting: &str, module: &str) -> Command {
    let mut command = Command::new(tool(setting));
    command.args(["-m", module]);
    same_everywhere(&mut command);
    command
}

fn same_everywhere(command: &mut Command) {
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("TZ", "UTC").env("LANG", "C.UTF-8");
    // A proxy of the machine is not for loopback.
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name);
    }
}

/// Node looks for packages beside the script that asks for them, so the scripts come to the packages.
fn node(client: Client, folder: &Path) -> Command {
    let place = folder.join("clients");
    fs::create_dir_all(&place).expect("the test's folder is writable");
    let entries = fs::read_dir(scripts()).expect("the folder of the scripts");
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        if path.extension().is_some_and(|extension| extension == "mjs") {
            fs::copy(&path, place.join(path.file_name().expect("a file"))).expect("the test's folder is writable");
        }
    }
    let packages = place.join("node_modules");
    if !packages.exists() {
        let installed = Path::new(&tool("KEYLOOM_CLIENTS_NODE")).join("node_modules");
        std::os::unix::fs::symlink(installed, packages).expect("the test's folder is writable");
    }
    let mut command = Command::new("node");
    command.arg(place.join(client.script().file_name().expect("a file")));
    same_everywhere(&mut command);
    command
}
