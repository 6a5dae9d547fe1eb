//! `keyloom dead-letters`: list, show, redrive and purge what the engine gave up.
//!
//! Finds who has the letters, asks page by page, and words the answers. What is done is the desk's, see `dead_letters`.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use anyhow::anyhow;
use keyloom_actors::timestamp::{Clock, SystemClock};

use super::{
    WrongUse,
    data::{Data, Format},
    dead_letters_text::{self, in_words, letters},
    token::TokenFile,
    topology_file,
};
use crate::{
    Engine,
    dead_letters::{
        Action, ChangeRequest, Client, Desk, DeskError, Filter, Halted, LIST_DEFAULT, LIST_MAX, Letter, LetterId,
        ListRequest, Listing, Place, Report,
    },
    running::key_paths,
    topology::Topology,
};

/// The arguments of `keyloom dead-letters`.
#[derive(clap::Args)]
pub struct DeadLettersArguments {
    /// The topology whose dead letters are meant
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
    /// List dead letters, oldest first in each partition
    List {
        #[command(flatten)]
        filter: Filter,
        /// At most so many
        #[arg(long, default_value_t = LIST_DEFAULT)]
        limit: usize,
        /// Go on behind this one
        #[arg(long, value_name = "PARTITION:SEQ")]
        after: Option<Place>,
    },
    /// Show one dead letter with its payload
    Show {
        /// PARTITION:SEQ, as the list shows it
        id: LetterId,
    },
    /// Send events to the log again, oldest first, and remove their letters
    Redrive {
        #[command(flatten)]
        choice: Choice,
        /// Send also what would be a dead letter again
        #[arg(long)]
        force: bool,
    },
    /// Remove dead letters
    Purge {
        #[command(flatten)]
        choice: Choice,
    },
}

/// Which letters are changed.
#[derive(clap::Args)]
struct Choice {
    /// PARTITION:SEQ, as the list shows it; instead of a filter
    ids: Vec<LetterId>,
    #[command(flatten)]
    filter: Filter,
    /// All of them
    #[arg(long)]
    all: bool,
    /// At most so many
    #[arg(long)]
    limit: Option<usize>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Who has the letters.
enum Office {
    /// This process.
    Here(Box<Desk>),
    /// An engine that runs.
    There(Box<Client>),
}

/// Loads the topology that the arguments name.
pub fn load(arguments: &DeadLettersArguments, engine: &Engine) -> anyhow::Result<Topology> {
    topology_file::load_for_its_log(&arguments.topology, engine)
}

/// See the module.
pub async fn dead_letters(arguments: DeadLettersArguments, topology: Topology) -> anyhow::Result<()> {
    let mut out = Vec::new();
    let (format, token) = (arguments.format, arguments.token);
    match arguments.command {
        Command::List { filter, limit, after } => {
            if limit == 0 {
                return Err(WrongUse("a limit is at least 1".to_owned()).into());
            }
            check_partition(&filter, &topology)?;
            let office = Office::open(&topology, &token).await?;
            finished(list(&office, ListRequest { filter, limit, after }, format).await)
        }
        Command::Show { id } => {
            let found = Office::open(&topology, &token).await?.show(id).await?;
            let letter = found.ok_or_else(|| anyhow!("there is no dead letter {id}"))?;
            match format {
                Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&letter)?)?,
                Format::Text => dead_letters_text::show(&mut out, &letter)?,
            }
            finished(io::stdout().write_all(&out).map_err(Into::into))
        }
        Command::Redrive { choice, force } => {
            change((&topology, &token), Action::Redrive, choice.request(force)?, format).await
        }
        Command::Purge { choice } => change((&topology, &token), Action::Purge, choice.request(false)?, format).await,
    }
}

/// Whoever reads our output may have seen enough.
fn finished(done: anyhow::Result<()>) -> anyhow::Result<()> {
    let is_closed = |error: &anyhow::Error| {
        error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    done.or_else(|error| if is_closed(&error) { Ok(()) } else { Err(error) })
}

impl Choice {
    fn request(self, force: bool) -> Result<ChangeRequest, WrongUse> {
        let Self { ids, filter, all, limit, dry_run } = self;
        // Relative times are fixed here, so that they do not move from one request to the next.
        let filter = filter.fixed(SystemClock.now());
        let request = ChangeRequest { ids, all, limit, dry_run, force, ..ChangeRequest::default() }.with_filter(filter);
        request.check().map_err(|wrong| WrongUse(format!("{wrong} (see keyloom dead-letters --help)")))?;
        Ok(request)
    }
}

impl Office {
    /// The broker, or the data folder, or the engine that has it.
    async fn open(topology: &Topology, token: &TokenFile) -> anyhow::Result<Self> {
        Ok(match Data::of(topology, token).await? {
            Data::Here(log, store) => {
                let (keys, partitions) = (key_paths(topology), topology.engine.partitions);
                Self::Here(Box::new(Desk::new(log, store, keys, partitions, Arc::new(SystemClock))))
            }
            Data::There(client) => Self::There(Box::new(Client::new(*client))),
        })
    }

    async fn list(&self, request: &ListRequest) -> anyhow::Result<Listing> {
        match self {
            Self::Here(desk) => desk.list(request).await.map_err(told),
            Self::There(client) => client.list(request).await,
        }
    }

    async fn show(&self, id: LetterId) -> anyhow::Result<Option<Letter>> {
        match self {
            Self::Here(desk) => Ok(desk.show(id).await?),
            Self::There(client) => client.show(id).await,
        }
    }

    async fn change(&self, action: Action, request: &ChangeRequest) -> Result<Report, Halted<anyhow::Error>> {
        match self {
            Self::Here(desk) => {
                let changed = desk.change(action, request).await;
                changed.map_err(|Halted { report, error }| Halted { report, error: told(error) })
            }
            Self::There(client) => client.change(action, request).await,
        }
    }
}

fn check_partition(filter: &Filter, topology: &Topology) -> Result<(), WrongUse> {
    let partitions = topology.engine.partitions;
    match filter.partition {
        Some(partition) if partition >= partitions => {
            Err(WrongUse(format!("there is no partition {partition}; this topology has {partitions}")))
        }
        _ => Ok(()),
    }
}

fn told(error: DeskError) -> anyhow::Error {
    match error {
        DeskError::Wrong(wrong) => WrongUse(wrong).into(),
        error => error.into(),
    }
}

/// Prints page by page, so that it does not matter how many there are.
async fn list(office: &Office, request: ListRequest, format: Format) -> anyhow::Result<()> {
    let mut out = io::stdout();
    let filter = request.filter.fixed(SystemClock.now());
    let (mut count, mut after) = (0, request.after);
    let mut begin = if format == Format::Json { "{\"dead_letters\":[" } else { "" };
    loop {
        let limit = (request.limit - count).min(LIST_MAX);
        let page = office.list(&ListRequest { filter: filter.clone(), limit, after }).await?;
        write!(out, "{}", std::mem::take(&mut begin))?;
        for letter in &page.dead_letters {
            match format {
                Format::Json => {
                    let comma = if count == 0 { "" } else { "," };
                    write!(out, "{comma}\n{}", serde_json::to_string(letter)?)?;
                }
                Format::Text => {
                    if count == 0 {
                        dead_letters_text::header(&mut out)?;
                    }
                    dead_letters_text::row(&mut out, letter)?;
                }
            }
            count += 1;
        }
        after = page.next;
        if count >= request.limit || after.is_none() {
            break;
        }
    }
    match (format, after) {
        (Format::Json, next) => writeln!(out, "\n],\"count\":{count},\"next\":{}}}", serde_json::to_string(&next)?)?,
        (Format::Text, None) => writeln!(out, "{}", letters(count as u64))?,
        (Format::Text, Some(next)) => {
            writeln!(
                out,
                "{} shown, and there are more: raise --limit, or go on with --after {next}",
                letters(count as u64)
            )?;
        }
    }
    Ok(())
}

/// Asks until everything is done; one request does only so much.
async fn change(
    (topology, token): (&Topology, &TokenFile),
    action: Action,
    mut request: ChangeRequest,
    format: Format,
) -> anyhow::Result<()> {
    check_partition(&request.filter(), topology)?;
    let office = Office::open(topology, token).await?;
    let (is_named, limit) = (!request.ids.is_empty(), request.limit);
    let mut report = Report::new(action, request.dry_run);
    let failed = loop {
        match office.change(action, &request).await {
            Ok(more) => report.add(more),
            Err(Halted { report: before, error }) => {
                report.add(*before);
                break Some(error);
            }
        }
        request.limit = limit.map(|limit| limit.saturating_sub(usize::try_from(report.done).unwrap_or(usize::MAX)));
        request.after = report.next;
        if report.next.is_none() || request.limit == Some(0) {
            break None;
        }
    };
    let text = match format {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&report)?),
        Format::Text => in_words(&report),
    };
    finished(io::stdout().write_all(text.as_bytes()).map_err(Into::into))?;
    match failed {
        Some(error) => Err(error.context("not everything was done; do it again, nothing is done twice")),
        None if is_named && (!report.missing.is_empty() || !report.skipped.is_empty()) => {
            Err(anyhow!("not every letter that was named could be taken"))
        }
        None => Ok(()),
    }
}
