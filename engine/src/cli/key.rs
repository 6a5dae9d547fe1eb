//! `keyloom key show`: what there is to know of one key, from the engine that has it, or from its data.

use std::{
    fmt::Write as _,
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Context;
use bytes::Bytes;
use hyper::Method;
use keyloom_actors::key::Key;

use super::{
    WrongUse,
    data::{Data, Format},
    run,
    token::TokenFile,
    topology_file,
};
use crate::{
    Engine,
    keys::{API_PATH, Inspector, KeyReport},
    running::key_paths,
    topology::Topology,
};

/// The arguments of `keyloom key`.
#[derive(clap::Args)]
pub struct KeyArguments {
    /// The topology whose key is meant
    #[arg(short, long, default_value = "keyloom.toml", global = true)]
    topology: PathBuf,
    /// How the answer looks
    #[arg(long, value_enum, default_value_t, global = true)]
    format: Format,
    #[command(flatten)]
    token: TokenFile,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Show its state, features, timers, last events, and what went wrong
    Show {
        /// The key
        key: String,
    },
}

/// Loads the topology that the arguments name.
pub fn load(arguments: &KeyArguments, engine: &Engine) -> anyhow::Result<Topology> {
    topology_file::load(&arguments.topology, engine)
}

/// See the module.
pub async fn key(arguments: KeyArguments, topology: Topology, engine: &Engine) -> anyhow::Result<()> {
    let Command::Show { key } = arguments.command;
    let key = Key::new(&key).map_err(|error| WrongUse(error.to_string()))?;
    let report = find(&key, &topology, &arguments.token, engine).await?;
    let text = match arguments.format {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&report)?),
        Format::Text => in_words(&report)?,
    };
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

async fn find(key: &Key, topology: &Topology, token: &TokenFile, engine: &Engine) -> anyhow::Result<KeyReport> {
    match Data::of(topology, token).await? {
        Data::Here(log, store) => {
            let factory = run::factory(topology, engine)?;
            let inspector = Inspector::new(log, store, key_paths(topology), topology.engine.partitions, factory);
            Ok(inspector.inspect(key).await?)
        }
        Data::There(client) => {
            let query = form_urlencoded::Serializer::new(String::new()).append_pair("key", key.as_str()).finish();
            let report = client.ask(Method::GET, &format!("{API_PATH}?{query}"), Bytes::new()).await?;
            report.context("this engine has no such address; is it older?")
        }
    }
}

fn in_words(report: &KeyReport) -> anyhow::Result<String> {
    let mut out = String::new();
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    writeln!(out, "key            {}", report.key)?;
    writeln!(out, "partition      {} (epoch {})", report.partition, or_dash(report.epoch.map(|e| e.to_string())))?;
    writeln!(out, "owner          {}", or_dash(report.owner.clone()))?;
    let resident = report.resident.map(|is| if is { "in memory" } else { "not in memory" }.to_owned());
    writeln!(out, "session        {}", or_dash(resident))?;
    writeln!(out, "restarts       {}", or_dash(report.restarts.map(|n| n.to_string())))?;
    writeln!(out, "handler        {}", or_dash(report.handler.clone()))?;
    if !report.is_stored && report.features.is_none() && report.last_events.is_empty() {
        writeln!(out, "\nno event of this key was processed yet; keys are case-sensitive")?;
        return Ok(out);
    }
    writeln!(out, "last consumed  {}", or_dash(report.applied.map(|seq| format!("event {seq}"))))?;
    writeln!(out, "event time     {}", or_dash(report.event_time.clone()))?;
    writeln!(out, "event ids      {} remembered", report.recent_ids)?;
    writeln!(out, "lags behind    {:?}", report.owed)?;
    if let Some(error) = &report.unreadable {
        writeln!(out, "\nthe stored state cannot be read: {error}")?;
    }
    if let Some(state) = &report.state {
        let bytes = report.state_bytes.unwrap_or(0);
        writeln!(out, "\nstate as of the checkpoint at event {} ({bytes} bytes)", report.checkpoint)?;
        indented(&mut out, &serde_json::to_string_pretty(state)?)?;
    }
    if let Some(features) = report.features.as_ref().and_then(|answer| answer["features"].as_object()) {
        writeln!(out, "\nfeatures")?;
        for (name, value) in features {
            let hash = report.definitions.get(name).map(|hash| format!("  # {hash}")).unwrap_or_default();
            writeln!(out, "  {name} = {value}{hash}")?;
        }
    }
    writeln!(out, "\ntimers         {}", if report.timers.is_empty() { "none" } else { "" })?;
    for timer in &report.timers {
        writeln!(out, "  {}  {}", timer.due, timer.name)?;
    }
    if !report.questions.is_empty() {
        writeln!(out, "\nwaits for answers to")?;
        for question in &report.questions {
            writeln!(out, "  {} (event {}): {}", question.name, question.asked, question.question)?;
        }
    }
    if !report.dead_letters.is_empty() {
        let letter = |seq: &u64| format!("{}:{seq}", report.partition);
        let letters: Vec<String> = report.dead_letters.iter().map(letter).collect();
        writeln!(out, "\ndead letters   {} (keyloom dead-letters show)", letters.join(", "))?;
    }
    writeln!(out, "\nlast events (of the newest {} in its partition)", report.looked_at)?;
    for event in &report.last_events {
        writeln!(out, "  {}  {}  {}", event.seq, event.stored, event.event)?;
    }
    Ok(out)
}

fn indented(out: &mut String, text: &str) -> std::fmt::Result {
    text.lines().try_for_each(|line| writeln!(out, "  {line}"))
}
