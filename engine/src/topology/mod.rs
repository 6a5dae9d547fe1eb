//! The topology file: from TOML to values that are checked, complete and ready to use, or to all of its problems at once.
//!
//! Reads the file, the secrets and certificates it refers to, and environment variables it names. Opens no connections
//! and creates nothing.

mod access;
mod check;
mod features;
mod handlers;
mod keys;
mod lex;
mod mask;
mod names;
mod near;
mod problems;
mod reader;
mod resolved;
mod schema;
mod schemas;
mod secret;
mod sections;
mod syntax;
mod tables;
mod template;
mod units;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should fail")]
mod tests;

use std::{ffi::OsString, fs::File, io::Read as _, path::Path};

use toml::de::{DeTable, DeValue};

use self::{
    near::nearest,
    problems::{Found, quoted},
    reader::{Reader, field, found, whole},
};
pub use self::{
    problems::{Problem, Problems},
    resolved::*,
    schema::json_schema,
    secret::Secret,
    template::TEMPLATE,
    units::{duration_text, read_duration, size_text},
};

/// Largest topology file: room for a thousand features.
pub const FILE_BYTES_MAX: u64 = 256 << 10;

/// The handlers that exist.
pub trait HandlerCatalog {
    /// Their names.
    fn names(&self) -> Vec<String>;
    /// Whether there is one of this name.
    fn knows(&self, handler: &str) -> bool {
        self.names().iter().any(|name| name == handler)
    }
    /// Whether `config` is a valid configuration for `handler`; the error says what is wrong and what to do.
    fn check(&self, handler: &str, config: &serde_json::Value) -> Result<(), String>;
    /// Names of the features that `handler` has for a key without events, as far as it can be asked.
    fn features(&self, _handler: &str, _config: &serde_json::Value) -> Vec<String> {
        Vec::new()
    }
    /// The tables that `handler` emits rows to; `None` when that is not known here.
    fn tables(&self, handler: &str) -> Option<Vec<String>>;
}

/// Reads a duration as topologies have it, `"30s"` or `"2h"`; `None` for anything else.
pub fn parse_duration(text: &str) -> Option<std::time::Duration> {
    units::duration(text).ok()
}

/// Reads, parses, checks and resolves the topology file at `path`.
pub fn load(path: &Path, handlers: &dyn HandlerCatalog) -> Result<Topology, Problems> {
    let whole = |message: String, help: &str| Problems::whole(path.to_owned(), message, help);
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(|error| {
        let help = "write one with `keyloom init`, or give the path of yours: keyloom run PATH";
        whole(format!("the topology file cannot be read: {error}"), help)
    })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let message = format!("the file has more than {FILE_BYTES_MAX} bytes");
        return Err(whole(message, "is this a topology? One has a few kilobytes"));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let start = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        let help = "save the file as UTF-8".to_owned();
        let found = Found { span: start..start, message: "this is not valid UTF-8".to_owned(), label: None, help };
        Problems::place(path.to_owned(), &text, &mask::mask(&text), vec![found]).expect("there is one")
    })?;
    parse(&text, path, handlers)
}

/// Parses, checks and resolves `text`, the content of the topology file at `path`.
pub fn parse(text: &str, path: &Path, handlers: &dyn HandlerCatalog) -> Result<Topology, Problems> {
    resolve(text, path, handlers, &|name| std::env::var_os(name))
}

/// As [`parse`], with the environment as given.
fn resolve(
    text: &str,
    path: &Path,
    handlers: &dyn HandlerCatalog,
    variables: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Topology, Problems> {
    let masked = mask::mask(text);
    let repaired = syntax::check(text, &masked);
    let mut topology = None;
    let mut found = repaired.found;
    if let Some(kept) = repaired.text {
        let (root, _) = DeTable::parse_recoverable(&kept);
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut reader = Reader { broken: !found.is_empty(), found, folder, variables };
        topology = understand(&mut reader, root.get_ref(), path, handlers);
        found = reader.found;
    }
    match (Problems::place(path.to_owned(), text, &masked, found), topology) {
        (Some(problems), _) => Err(problems),
        (None, Some(topology)) => Ok(topology),
        (None, None) => {
            let message = "the topology is not complete, but no problem was found".to_owned();
            Err(Problems::whole(
                path.to_owned(),
                message,
                "this is a defect of keyloom: please report it with the file",
            ))
        }
    }
}

fn understand(r: &mut Reader<'_>, root: &DeTable<'_>, path: &Path, handlers: &dyn HandlerCatalog) -> Option<Topology> {
    if !version(r, root) {
        return None; // what the rest means is up to that version
    }
    refuse_unknown(r, root);
    let parts = sections::read(r, root, handlers);
    check::check(r, &parts, handlers);
    Some(Topology {
        path: path.to_owned(),
        engine: parts.engine.value?,
        log: parts.log.value?,
        store: parts.store.value?,
        lake: parts.lake.value?,
        backend: parts.backend.value,
        nats: parts.nats.value,
        http: parts.http.value?,
        ingest: parts.ingest?,
        access: parts.access,
        sources: parts.sources,
        sessions: parts.sessions.value?,
        handlers: parts.handlers,
        features: parts.features?,
        schemas: parts.schemas?,
        tables: parts.tables,
    })
}

/// Whether the rest of the file can be understood: it is of our version, or says nothing sensible about it.
fn version(r: &mut Reader<'_>, root: &DeTable<'_>) -> bool {
    let ours = keys::VERSION;
    let Some(field) = field(root, "version") else {
        r.relation(0..0, "the version of the file format is missing", format!("begin the file with version = {ours}"));
        return true;
    };
    match field.value {
        DeValue::Integer(n) if whole(n) == Some(i128::from(ours)) => true,
        DeValue::Integer(n) => {
            let message = format!("version: this keyloom reads version {ours}, and this file is of version {n}");
            r.problem(
                field.span,
                message,
                format!("use the keyloom that the file was written for, or set version = {ours}"),
            );
            false
        }
        other => {
            let message = format!("version: found {}, expected the number {ours}", found(other));
            r.problem(field.span, message, format!("write version = {ours}"));
            true
        }
    }
}

fn refuse_unknown(r: &mut Reader<'_>, root: &DeTable<'_>) {
    for (key, value) in root.iter() {
        let name = key.get_ref().as_ref();
        if keys::top_names().any(|known| known == name) {
            continue;
        }
        if keys::RESERVED.contains(&name) {
            let message = format!("[{name}] is reserved for a later version");
            r.problem(key.span(), message, "remove it; this version has no use for it");
            continue;
        }
        let is_section = matches!(value.get_ref(), DeValue::Table(_) | DeValue::Array(_));
        let home = keys::SECTIONS.iter().find(|s| s.keys.iter().any(|k| k.name == name));
        let help = match (nearest(name, keys::top_names()), home) {
            (_, Some(section)) if !is_section => {
                format!("{name} is a key of [{}]: move it below that line", section.name)
            }
            (Some(near), _) => format!("did you mean {near}?"),
            _ => format!("remove it; known here: {}", keys::top_names().collect::<Vec<_>>().join(", ")),
        };
        let what = if is_section { "section" } else { "key" };
        r.problem(key.span(), format!("unknown {what} {}", quoted(name)), help);
    }
}
