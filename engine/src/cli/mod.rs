//! The command line.
//!
//! Exit codes: 0 done, 1 failed while running, 2 used wrongly, 75 to be started again, 78 bad configuration.

mod data;
mod dead_letters;
mod dead_letters_text;
mod generate;
mod ingest;
mod key;
mod listening;
mod restart;
mod run;
mod test;
mod token;
mod topology_file;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{Engine, telemetry::LogFormat};

/// Exit code of a wrong use, as the parser of the command line has it too.
const WRONG_USE: u8 = 2;
/// Exit code when only a new process helps (`EX_TEMPFAIL` of sysexits.h).
const START_AGAIN: u8 = 75;
/// Exit code of a bad configuration (`EX_CONFIG` of sysexits.h).
const BAD_CONFIGURATION: u8 = 78;

/// The command line asks for what makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongUse(String);

/// Real-time features per user and a data lake, from one stream of events.
#[derive(Parser)]
#[command(
    name = "keyloom",
    version,
    about = "Real-time features per user and a data lake, from one stream of events",
    max_term_width = 100
)]
struct Arguments {
    /// How log lines on standard error look
    #[arg(long, global = true, value_enum, default_value_t)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the engine that a topology file describes
    Run {
        /// The topology file
        #[arg(default_value = "keyloom.toml")]
        topology: PathBuf,
    },
    /// Check a topology file and print all of its problems
    Check {
        /// The topology file
        #[arg(default_value = "keyloom.toml")]
        topology: PathBuf,
    },
    /// Write a commented topology file, keyloom.toml, that runs as it is
    Init {
        /// Replace a file that is there
        #[arg(long)]
        force: bool,
    },
    /// Print the JSON Schema of topology files
    Schema,
    /// Print the OpenAPI description of the HTTP interface
    Openapi,
    /// Make synthetic clickstream events
    Generate(generate::GenerateArguments),
    /// Put the events of a file, JSON lines, into the log of a topology
    Ingest(ingest::IngestArguments),
    /// List, show, redrive or purge the events that were given up
    DeadLetters(dead_letters::DeadLettersArguments),
    /// Play a topology's cases: events given, features and rows expected; no server is needed
    Test(test::TestArguments),
    /// Show what there is to know of one key
    Key(key::KeyArguments),
    /// Make tokens for those who may come in
    Token(token::TokenArguments),
}

/// Does what the command line says.
pub fn main(engine: &Engine) -> ExitCode {
    let arguments = Arguments::parse();
    crate::telemetry::start_logs(arguments.log_format);
    let done = match arguments.command {
        Command::Check { topology } => return topology_file::check(&topology, engine),
        Command::Init { force } => topology_file::init(force),
        Command::Schema => topology_file::schema(),
        Command::Openapi => {
            print!("{}", crate::openapi::document_text());
            Ok(())
        }
        Command::Run { topology } => topology_file::load(&topology, engine).and_then(|t| block_on(run::run(t, engine))),
        Command::Generate(arguments) => block_on(generate::generate(arguments)),
        Command::Ingest(arguments) => {
            ingest::load(&arguments, engine).and_then(|t| block_on(ingest::ingest(arguments, t, engine)))
        }
        Command::DeadLetters(arguments) => {
            dead_letters::load(&arguments, engine).and_then(|t| block_on(dead_letters::dead_letters(arguments, t)))
        }
        Command::Token(arguments) => token::token(arguments),
        Command::Test(arguments) => test::test(&arguments, engine),
        Command::Key(arguments) => key::load(&arguments, engine).and_then(|t| block_on(key::key(arguments, t, engine))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<topology_file::BadConfiguration>() {
            Some(problems) => {
                eprint!("{problems}");
                ExitCode::from(BAD_CONFIGURATION)
            }
            None => {
                eprintln!("keyloom: {error:#}");
                if error.is::<WrongUse>() {
                    ExitCode::from(WRONG_USE)
                } else if error.is::<restart::StartAgain>() {
                    ExitCode::from(START_AGAIN)
                } else {
                    ExitCode::FAILURE
                }
            }
        },
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    // What still runs is background work that was asked to end; a blocked handler must not keep the process alive.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    done
}
