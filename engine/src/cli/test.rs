//! `keyloom test`: plays the cases of a topology.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, anyhow};

use super::{run, topology_file};
use crate::{Engine, cases, running::key_paths};

/// The arguments of `keyloom test`.
#[derive(clap::Args)]
pub struct TestArguments {
    /// The topology file
    #[arg(default_value = "keyloom.toml")]
    topology: PathBuf,
    /// The file of cases; else the topology's name with .test.toml instead of .toml
    cases: Option<PathBuf>,
    /// Only cases whose names contain this
    #[arg(long)]
    only: Option<String>,
}

/// See the module.
pub fn test(arguments: &TestArguments, engine: &Engine) -> anyhow::Result<()> {
    let began = Instant::now();
    let topology = topology_file::load(&arguments.topology, engine)?;
    let path = arguments.cases.clone().unwrap_or_else(|| beside(&arguments.topology));
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!("the cases are read from {}; write them there, or name another file", path.display())
    })?;
    let all = cases::read(&text).with_context(|| path.display().to_string())?;
    let (factory, keys) = (run::factory(&topology, engine)?, key_paths(&topology));
    let chosen = |case: &&cases::Case| arguments.only.as_ref().is_none_or(|part| case.name.contains(part.as_str()));
    let (mut played, mut failed) = (0, 0);
    // What a handler says when it panics is told with the case.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for case in all.iter().filter(chosen) {
        played += 1;
        match cases::play(case, &factory, &keys) {
            Ok(()) => println!("ok      {}", case.name),
            Err(failure) => {
                failed += 1;
                println!("FAILED  {}\n  step {}: {}", case.name, failure.step, failure.text);
            }
        }
    }
    std::panic::set_hook(hook);
    println!("{played} cases, {failed} failed, {:.2} s", began.elapsed().as_secs_f64());
    match (played, failed) {
        (0, _) => Err(anyhow!("no case of {} has such a name", path.display())),
        (_, 0) => Ok(()),
        (_, failed) => Err(anyhow!("{failed} of {played} cases failed")),
    }
}

/// `a/b.toml` has its cases in `a/b.test.toml`.
fn beside(topology: &Path) -> PathBuf {
    topology.with_extension("test.toml")
}
