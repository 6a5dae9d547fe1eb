//! The style that matters, as a check: which crates may be known where, where metric names are written, what may not be
//! left behind. Reads the sources; knows nothing of their meaning.

use std::{
    fs,
    path::{Path, PathBuf},
};

use keyloom_tests::support::workspace;

/// The files that may know ractor: thin shells around pure cores.
const ACTORS: [&str; 8] = [
    "root",
    "partition/mod",
    "partition/router",
    "partition/ticker",
    "session/mod",
    "session/shard",
    "checkpoint/committer",
    "table/batcher",
];

struct Source {
    /// Relative to the workspace, with forward slashes.
    path: String,
    text: String,
}

impl Source {
    /// Lines of code that run outside tests, with their numbers: comments are cut off, test modules come last in a file.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test = self.path.ends_with("tests.rs")
            || self.path.ends_with("/test_log.rs")
            || self.path.starts_with("tests/")
            || self.path.contains("/tests/");
        let lines = self.text.lines().take_while(move |line| !is_test && line.trim() != "#[cfg(test)]");
        lines.enumerate().map(|(at, line)| (at + 1, line.split("//").next().unwrap_or("")))
    }

    fn under(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| self.path.starts_with(folder))
    }
}

fn sources() -> Vec<Source> {
    let root = workspace();
    let mut sources = Vec::new();
    for crate_folder in ["actors", "engine", "examples", "tests", "benches"] {
        collect(&root, &root.join(crate_folder), &mut sources);
    }
    assert!(sources.len() > 20, "found only {} files", sources.len());
    sources
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(root, &path, sources);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let relative = path.strip_prefix(root).expect("inside the workspace");
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            sources.push(Source { path: relative.to_string_lossy().replace('\\', "/"), text });
        }
    }
}

/// Whether `line` holds an identifier that `fits`, outside of texts.
fn names(line: &str, fits: impl Fn(&str) -> bool) -> bool {
    let code = line.split('"').step_by(2);
    code.flat_map(|part| part.split(|c: char| !c.is_alphanumeric() && c != '_')).any(fits)
}

/// Panics with every line of code that is `wrong`, and with the rule that it breaks.
fn forbid(rule: &str, wrong: impl Fn(&Source, &str) -> bool) {
    let mut findings = Vec::new();
    for source in &sources() {
        for (number, line) in source.code().filter(|(_, line)| wrong(source, line)) {
            findings.push(format!("{}:{number}: {}", source.path, line.trim()));
        }
    }
    assert!(findings.is_empty(), "{rule}\n{}", findings.join("\n"));
}

#[test]
fn only_actor_files_know_ractor() {
    let allowed = ACTORS.map(|name| format!("actors/src/{name}.rs"));
    forbid("ractor belongs into the actor files; everything else is pure or stands behind a port", |source, line| {
        !allowed.contains(&source.path) && names(line, |word| word == "ractor")
    });
}

#[test]
fn only_the_adapters_know_nats_and_aws() {
    let shipped = ["actors/", "engine/", "examples/"];
    forbid("async_nats belongs into engine/src/nats", |source, line| {
        source.under(&shipped) && !source.under(&["engine/src/nats"]) && names(line, |word| word == "async_nats")
    });
    forbid("the AWS SDK belongs into engine/src/aws.rs, engine/src/lake and engine/src/backend", |source, line| {
        source.under(&shipped)
            && !source.under(&["engine/src/aws.rs", "engine/src/lake", "engine/src/backend"])
            && names(line, |word| {
                ["aws_sdk_", "aws_config", "aws_smithy_"].iter().any(|crate_| word.starts_with(crate_))
            })
    });
}

#[test]
fn metric_names_are_written_in_observe_files_only() {
    forbid("a metric has one place where its name is written: an observe.rs", |source, line| {
        let name = line.split("\"keyloom_").nth(1);
        let is_crate = |rest: &str| rest.starts_with("actors") || rest.starts_with("engine");
        source.under(&["actors/", "engine/"])
            && !source.path.ends_with("/observe.rs")
            && name.is_some_and(|rest| !is_crate(rest))
    });
}

#[test]
fn nothing_is_left_to_do_and_nothing_unwraps() {
    // Written in pieces, so that this file does not find itself.
    let forbidden = [["to", "do!("].concat(), ["unimpl", "emented!("].concat(), [".unw", "rap()"].concat()];
    forbid("handle it, or say with expect() why it cannot happen", |_, line| {
        forbidden.iter().any(|text| line.contains(text.as_str()))
    });
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent: Vec<_> = sources().into_iter().filter(|s| !s.text.starts_with("//!")).map(|s| s.path).collect();
    assert!(silent.is_empty(), "the first line says what the file is for, after //!: {silent:?}");
}
