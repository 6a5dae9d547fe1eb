//! `keyloom check`, `init` and `schema`, and how other commands load their topology.

use std::{
    fmt,
    fs::OpenOptions,
    io::{IsTerminal, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, anyhow};

use super::BAD_CONFIGURATION;
use crate::{
    Engine,
    topology::{self, HandlerCatalog, Topology},
};

/// Where `init` writes.
const FILE_NAME: &str = "keyloom.toml";

/// The problems of a topology, ready to print.
#[derive(Debug)]
pub struct BadConfiguration(String);

impl fmt::Display for BadConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadConfiguration {}

/// Loads a topology.
pub fn load(path: &Path, engine: &Engine) -> anyhow::Result<Topology> {
    load_with(path, engine)
}

fn load_with(path: &Path, handlers: &dyn HandlerCatalog) -> anyhow::Result<Topology> {
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    Ok(topology::load(path, handlers).map_err(|problems| BadConfiguration(problems.render(color)))?)
}

/// Loads a topology for a command that runs no handler: it may name handlers of another binary.
pub fn load_for_its_log(path: &Path, engine: &Engine) -> anyhow::Result<Topology> {
    load_with(path, &AnyHandler(engine))
}

struct AnyHandler<'a>(&'a Engine);

impl HandlerCatalog for AnyHandler<'_> {
    fn names(&self) -> Vec<String> {
        self.0.names()
    }
    fn knows(&self, _: &str) -> bool {
        true
    }
    fn check(&self, handler: &str, config: &serde_json::Value) -> Result<(), String> {
        if self.0.knows(handler) { self.0.check(handler, config) } else { Ok(()) }
    }
    fn features(&self, handler: &str, config: &serde_json::Value) -> Vec<String> {
        self.0.features(handler, config)
    }
    fn tables(&self, handler: &str) -> Option<Vec<String>> {
        self.0.tables(handler)
    }
}

/// Says whether a topology is good.
pub fn check(path: &Path, engine: &Engine) -> ExitCode {
    match load(path, engine) {
        Ok(topology) => {
            println!(
                "{} is good: engine {}, handler {}",
                path.display(),
                topology.engine.name,
                topology.sessions.handler
            );
            ExitCode::SUCCESS
        }
        Err(problems) => {
            eprint!("{problems}");
            ExitCode::from(BAD_CONFIGURATION)
        }
    }
}

/// Writes a topology to begin with.
pub fn init(force: bool) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true);
    if force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    let mut file = options.open(FILE_NAME).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => anyhow!("{FILE_NAME} is there already; --force replaces it"),
        _ => anyhow!("{FILE_NAME} cannot be written: {error}"),
    })?;
    file.write_all(topology::TEMPLATE.as_bytes()).with_context(|| format!("{FILE_NAME} cannot be written"))?;
    println!("wrote {FILE_NAME}; run it with: keyloom run");
    Ok(())
}

/// Prints the schema.
pub fn schema() -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(&topology::json_schema())?);
    Ok(())
}
