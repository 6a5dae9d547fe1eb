//! `[ingest] schemas`: the folder of JSON Schemas that events must fit, read and compiled, so that `check` finds every mistake.
//!
//! A file of the folder is found by the name of its events, `order_completed.json`; other files and folders there are left
//! alone. What a schema means is in `front_door/schema.rs`.

use std::{fs::File, io::Read as _, path::Path, sync::Arc};

use super::{
    problems::printable,
    reader::{Reader, Section},
};
use crate::front_door::schema::{SCHEMA_BYTES_MAX, SCHEMAS_MAX, Schemas};

/// Entries of the folder that are looked at.
const ENTRIES_MAX: usize = 10 * SCHEMAS_MAX;

/// The schemas; `Some(None)` when none are asked for, `None` when something is wrong with them.
pub(super) fn read(r: &mut Reader<'_>, ingest: &Section<'_>) -> Option<Option<Arc<Schemas>>> {
    if !ingest.has("schemas") {
        return Some(None);
    }
    let folder = r.path(ingest, "schemas")?;
    let span = ingest.span_of("schemas");
    let mut problem = |what: String, help: &str| r.problem(span.clone(), format!("[ingest] schemas: {what}"), help);
    let files = match files(&folder) {
        Ok(files) => files,
        Err(error) => {
            let help = "name a folder with a file NAME.json for each event name, relative to this file";
            problem(format!("{} cannot be read: {error}", printable(&folder.display().to_string())), help);
            return None;
        }
    };
    match Schemas::compile(files) {
        Ok(schemas) => Some(Some(Arc::new(schemas))),
        Err(bad) => {
            for bad in bad {
                let file = printable(&format!("{}.json", bad.event));
                problem(format!("{file}: {}", bad.what), "correct this schema, or move it out of the folder");
            }
            None
        }
    }
}

/// The schemas in a folder, by name; of one that is too large, one byte too many.
fn files(folder: &Path) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut files = Vec::new();
    for (at, entry) in std::fs::read_dir(folder).map_err(|error| error.to_string())?.enumerate() {
        if at == ENTRIES_MAX || files.len() > SCHEMAS_MAX {
            return Err(format!("it has more than {SCHEMAS_MAX} schemas or {ENTRIES_MAX} entries"));
        }
        let path = entry.map_err(|error| error.to_string())?.path();
        let (Some(name), true) = (path.file_stem().and_then(|name| name.to_str()), is_schema(&path)) else { continue };
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(SCHEMA_BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
        read.map_err(|error| format!("{name}.json: {error}"))?;
        files.push((name.to_owned(), bytes));
    }
    files.sort();
    Ok(files)
}

fn is_schema(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json") && path.is_file()
}
