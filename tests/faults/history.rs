//! One history: an engine with its servers, senders that never stop, kills that are aimed, and audits in between.
//!
//! The engine is killed and started again many times on the same data, so that what one kill leaves behind is there for
//! the next. Not here: which faults make a scenario, see the file above.

use std::{collections::BTreeMap, os::unix::process::ExitStatusExt, path::Path, thread, time::Duration};

use keyloom_actors::fault_point;
use keyloom_tests::support::{
    audit::{self, Findings, audit},
    engine::{Engine, S3Lake, Topology, binary, folder},
    ledger::{self, Ledger},
    proxy::{Done, Mode, Proxy},
    random::Random,
    servers::{Nats, S3},
    wait_for,
};
use tempfile::TempDir;

use super::RECOVER_MAX;

/// A kill from outside, aimed at nothing.
pub const ANY_MOMENT: &str = "any moment";
/// An engine that could not start while its servers were being disturbed: whoever runs it starts it again.
pub const NO_START: &str = "no start";
/// Kills between two audits.
const AUDIT_EVERY: u64 = 20;
/// How long a point may take to be reached before the kill is given up as missed.
const REACH_MAX: Duration = Duration::from_secs(60);
/// A kill at any moment comes within this time after the start.
const MOMENT_MAX_MS: u64 = 900;
/// How often a fault must have shown that comes by chance.
const SHOWS: u64 = 2;
/// Batch sizes to kill between: the smallest possible, a few keys, most keys.
const BATCH_SIZES: [u64; 3] = [3, 8, 64];
/// The shortest times that the server takes: it sends its clients away, and ends.
const LAME_DUCK: &str = "lame_duck_grace_period: \"1s\"\nlame_duck_duration: \"30s\"";
/// SIGABRT: how an armed point ends the process.
const ABORTED: i32 = 6;

/// What a history runs on.
#[derive(Default)]
pub struct Servers {
    pub nats: Option<Nats>,
    pub s3: Option<S3>,
    /// Between the engine and NATS, when there is one.
    pub nats_link: Option<Proxy>,
    /// Between the engine and S3, when there is one.
    pub s3_link: Option<Proxy>,
}

/// What a history was about and how it ended: a line of the table.
#[derive(Clone, Debug)]
pub struct Report {
    pub scenario: String,
    /// Processes killed, by where; and what else was done.
    pub faults: BTreeMap<&'static str, u64>,
    /// Kills that were aimed at a point which was not reached in time: kills all the same.
    pub missed: BTreeMap<&'static str, u64>,
    pub sent: ledger::Counts,
    pub findings: Findings,
    /// What took its time.
    pub times: BTreeMap<&'static str, Times>,
}

/// How long something took each time, and how long it may take.
#[derive(Clone, Debug)]
pub struct Times {
    pub limit: Duration,
    pub all: Vec<Duration>,
}

impl Report {
    /// Things that must not be.
    pub fn violations(&self) -> u64 {
        self.findings.violations() + self.sent.went_back
    }
}

/// See the module.
pub struct History {
    pub engine: Engine,
    pub ledger: Ledger,
    pub random: Random,
    pub folder: TempDir,
    pub servers: Servers,
    /// Whether an engine that ends at its start is no news.
    pub may_not_start: bool,
    scenario: String,
    seed: u64,
    faults: BTreeMap<&'static str, u64>,
    missed: BTreeMap<&'static str, u64>,
    findings: Findings,
    times: BTreeMap<&'static str, Times>,
}

/// Everything often: checkpoints, cuts, evictions.
pub fn busy_topology() -> Topology {
    Topology {
        checkpoint_every: "200ms".to_owned(),
        cut_age: "300ms".to_owned(),
        sessions: format!("resident_max = {}", ledger::KEYS),
        ..Topology::default()
    }
}

impl Servers {
    /// NATS and S3, in `folder`, each behind a faulty network if asked for.
    pub fn start(folder: &TempDir, seed: u64, with_nats: bool, with_links: bool) -> Self {
        let s3 = S3::start(folder.path(), &["lake"], false);
        let nats = with_nats.then(|| Nats::start(folder.path(), LAME_DUCK));
        let nats_link = nats.as_ref().filter(|_| with_links).map(|nats| Proxy::tcp(nats.port, seed));
        let s3_link = with_links.then(|| Proxy::http(s3.port, !seed));
        Self { nats, s3: Some(s3), nats_link, s3_link }
    }

    /// `topology` on these servers.
    pub fn topology(&self, topology: Topology) -> Topology {
        let port = |link: &Option<Proxy>, port: u16| link.as_ref().map_or(port, Proxy::port);
        let nats = self.nats.as_ref().map(|nats| format!("nats://127.0.0.1:{}", port(&self.nats_link, nats.port)));
        let s3 = self.s3.as_ref().map(|s3| S3Lake {
            endpoint: format!("http://127.0.0.1:{}", port(&self.s3_link, s3.port)),
            bucket: "lake".to_owned(),
        });
        Topology { nats, s3, ..topology }
    }

    /// NATS; panics when there is none.
    pub fn nats(&mut self) -> &mut Nats {
        self.nats.as_mut().expect("this history has a NATS")
    }

    fn calm(&self) {
        for link in [&self.nats_link, &self.s3_link].into_iter().flatten() {
            link.set(Mode::Pass);
        }
    }
}

impl History {
    /// Starts everything. `servers` are asked for with the folder that they may use.
    pub fn start(scenario: &str, seed: u64, topology: Topology, servers: impl FnOnce(&TempDir) -> Servers) -> Self {
        let program = match &*topology.handler {
            "poison" => "poison",
            audit::ENRICHMENT => "enrichment",
            _ => "keyloom",
        };
        Self::start_in(folder(), &binary(program), scenario, seed, topology, servers)
    }

    /// The same in a folder that was prepared, with another program than usual.
    pub fn start_in(
        folder: TempDir,
        program: &Path,
        scenario: &str,
        seed: u64,
        topology: Topology,
        servers: impl FnOnce(&TempDir) -> Servers,
    ) -> Self {
        let servers = servers(&folder);
        let engine = Engine::start_binary(program, folder.path(), &servers.topology(topology));
        let ledger = Ledger::start(folder.path(), engine.port, seed);
        eprintln!("{scenario}: seed {seed}, in {}", folder.path().display());
        Self {
            engine,
            ledger,
            random: Random::new(seed),
            folder,
            servers,
            may_not_start: false,
            scenario: scenario.to_owned(),
            seed,
            faults: BTreeMap::new(),
            missed: BTreeMap::new(),
            findings: Findings::default(),
            times: BTreeMap::new(),
        }
    }

    /// Notes how long something took, and how long it may take; more than that is a failure.
    pub fn took(&mut self, what: &'static str, time: Duration, limit: Duration) {
        eprintln!("{}: {what}: {time:.3?}", self.scenario);
        self.times.entry(what).or_insert(Times { limit, all: Vec::new() }).all.push(time);
        assert!(time <= limit, "{what} took {time:?}, more than {limit:?}:\n{}", self.engine.process.output());
    }

    /// Counts one thing that was done.
    pub fn did(&mut self, what: &'static str) {
        *self.faults.entry(what).or_default() += 1;
    }

    /// Kills the engine `kills` times, at each of `points` and at any moment in turn, and audits every so often and in
    /// the end. `between` may disturb more before each start.
    pub fn kill_many(&mut self, kills: u64, points: &[&'static str], mut between: impl FnMut(&mut Self)) {
        let mut deck = Vec::new();
        let mut unaudited = 0;
        for done in 0..kills {
            if deck.is_empty() {
                deck = [points, &[ANY_MOMENT]].concat();
                for at in (1..deck.len()).rev() {
                    deck.swap(at, self.random.below(at as u64 + 1) as usize);
                }
            }
            self.down();
            between(self);
            match deck.pop() {
                Some(ANY_MOMENT) | None => self.kill_at_any_moment(),
                Some(fault_point::RECUTTING) => {
                    // There is a cut to repeat only after one was interrupted.
                    let cut = [fault_point::INTENT_COMMITTED, fault_point::FILE_PUT, fault_point::BEFORE_CURSOR];
                    let cut = *self.random.pick(&cut);
                    self.kill_at(cut);
                    self.kill_at(fault_point::RECUTTING);
                    unaudited += 1;
                }
                Some(point) => self.kill_at(point),
            }
            unaudited += 1;
            if unaudited >= AUDIT_EVERY && done + 1 < kills {
                self.audit();
                self.ledger.resume();
                unaudited = 0;
            }
        }
        self.audit();
    }

    /// Starts the engine with `point` armed, and waits for its end.
    fn kill_at(&mut self, point: &'static str) {
        let count = self.count(point);
        let batch = *self.random.pick(&BATCH_SIZES);
        self.launch(vec![
            ("KEYLOOM_FAULT_POINT".to_owned(), format!("{point}:{count}")),
            ("KEYLOOM_FAULT_BATCH_MAX".to_owned(), batch.to_string()),
        ]);
        match self.engine.process.ended_within(REACH_MAX) {
            Some(status) if status.signal() == Some(ABORTED) => {
                let said = self.engine.process.stderr();
                assert!(said.contains(&format!("fault point {point} reached")), "{}", self.engine.process.output());
                self.did(point);
            }
            Some(_) if self.may_not_start => self.did(NO_START),
            Some(status) => panic!("the engine ended with {status} by itself:\n{}", self.engine.process.output()),
            None => {
                self.engine.process.kill();
                *self.missed.entry(point).or_default() += 1;
            }
        }
    }

    fn kill_at_any_moment(&mut self) {
        self.launch(Vec::new());
        let moment = Duration::from_millis(self.random.below(MOMENT_MAX_MS));
        match self.engine.process.ended_within(moment) {
            None => {
                self.engine.process.kill();
                self.did(ANY_MOMENT);
            }
            Some(_) if self.may_not_start => self.did(NO_START),
            Some(status) => panic!("the engine ended with {status} by itself:\n{}", self.engine.process.output()),
        }
    }

    /// Starts the engine so that it stands still at `point`, as a machine that is starved would.
    pub fn freeze_at(&mut self, point: &'static str) {
        self.down();
        let count = self.count(point);
        let batch = *self.random.pick(&BATCH_SIZES);
        self.launch(vec![
            ("KEYLOOM_FAULT_POINT".to_owned(), format!("{point}:{count}:freeze")),
            ("KEYLOOM_FAULT_BATCH_MAX".to_owned(), batch.to_string()),
        ]);
        let process = &mut self.engine.process;
        wait_for("the engine to stand still", RECOVER_MAX, || match process.ended() {
            Some(status) => panic!("the engine ended with {status} by itself:\n{}", process.output()),
            None if process.is_stopped() => Ok(()),
            None => Err(format!("{point} was not reached {count} times")),
        });
        self.engine.topology.environment.clear();
        self.did("frozen, succeeded, woken");
    }

    fn count(&mut self, point: &str) -> u64 {
        let count = 1 + self.random.below(often(point));
        // A cut has two files nearly always: odd ones are those after which one is missing. `BEFORE_CURSOR` is for the rest.
        if point == fault_point::FILE_PUT { 2 * count - 1 } else { count }
    }

    fn launch(&mut self, environment: Vec<(String, String)>) {
        self.engine.topology.environment = environment;
        self.engine.launch_again();
    }

    /// Ends the engine if it runs.
    pub fn down(&mut self) {
        if self.engine.process.ended().is_none() {
            self.engine.process.kill();
            self.did(ANY_MOMENT);
        }
    }

    /// With nothing disturbed any more: starts the engine if it is down, and audits. The senders pause until they are
    /// told otherwise.
    pub fn audit(&mut self) {
        self.servers.calm();
        if self.engine.process.ended().is_some() {
            self.launch(Vec::new());
            self.engine.wait_ready();
        }
        let found = audit(&self.engine, &self.ledger);
        let is_clean = found.violations() == 0;
        self.findings += found;
        eprintln!("{}: {:?}, {:?}", self.scenario, self.findings, self.ledger.counts());
        if !is_clean {
            eprintln!("seed {}; after {:?}, missed {:?}", self.seed, self.faults, self.missed);
            self.folder.disable_cleanup(true);
        }
    }

    /// Lets the network to NATS or S3 be in `mode` for `time`, and calm again.
    pub fn disturb(&mut self, what: &'static str, link: fn(&Servers) -> &Option<Proxy>, mode: Mode, time: Duration) {
        let link = link(&self.servers).as_ref().expect("this history has that link");
        link.set(mode);
        thread::sleep(time); // how long the fault lasts; nothing is hoped for
        link.set(Mode::Pass);
        self.did(what);
    }

    /// The same until it has shown: `count` has grown by [`SHOWS`].
    pub fn disturb_until(
        &mut self,
        what: &'static str,
        link: fn(&Servers) -> &Option<Proxy>,
        mode: Mode,
        count: fn(&Done) -> u64,
    ) {
        let link = link(&self.servers).as_ref().expect("this history has that link");
        let before = count(&link.done());
        link.set(mode);
        wait_for(what, RECOVER_MAX, || match count(&link.done()) - before {
            SHOWS.. => Ok(()),
            fewer => Err(format!("{fewer} times")),
        });
        link.set(Mode::Pass);
        self.did(what);
    }

    /// How it went.
    pub fn report(&self) -> Report {
        Report {
            scenario: self.scenario.clone(),
            faults: self.faults.clone(),
            missed: self.missed.clone(),
            sent: self.ledger.counts(),
            findings: self.findings.clone(),
            times: self.times.clone(),
        }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        if thread::panicking() {
            self.folder.disable_cleanup(true);
            eprintln!("{}: seed {}; kept {}", self.scenario, self.seed, self.folder.path().display());
            eprintln!("after {:?}, missed {:?}", self.faults, self.missed);
        }
    }
}

/// A kill comes at one of so many times that a point is reached: enough to meet different states, few enough that it is
/// reached within a second or two.
fn often(point: &str) -> u64 {
    match point {
        fault_point::CLAIMED | fault_point::RECORDS_READ | fault_point::RECUTTING => 1,
        fault_point::INTENT_COMMITTED
        | fault_point::FILE_PUT
        | fault_point::BEFORE_CURSOR
        | fault_point::CURSOR_COMMITTED => 3,
        fault_point::BEFORE_RECORD | fault_point::RECORD_COMMITTED => 4,
        fault_point::BATCH_COMMITTED | fault_point::HYDRATING => 12,
        fault_point::APPLIED => 300,
        _ => 40,
    }
}
