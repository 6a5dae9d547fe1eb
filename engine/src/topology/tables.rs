//! The tables of a topology: `[table.NAME]`, and how they fit to the rows that the handler emits.

use std::collections::BTreeMap;

use toml::de::DeTable;

use super::{
    HandlerCatalog, keys, names,
    problems::{printable, quoted},
    reader::{Reader, Section},
    resolved::{Cut, Table, TableFrom},
    sections::named,
};

/// Most tables: each costs buffers in every partition.
pub(super) const TABLES_MAX: usize = 32;

/// Reads every `[table.NAME]`; `handler` is what sessions run, as far as that is known.
pub(super) fn read(
    r: &mut Reader<'_>,
    root: &DeTable<'_>,
    catalog: &dyn HandlerCatalog,
    sessions: &Section<'_>,
    handler: Option<&str>,
) -> BTreeMap<String, Table> {
    let mut tables = BTreeMap::new();
    let emitted = handler.and_then(|handler| catalog.tables(handler));
    match named(r, root, "table") {
        None => {
            let nothing = Section::absent("table.raw_events", keys::TABLE.keys);
            tables.extend(read_one(r, &nothing, "raw_events", handler, None).map(|t| ("raw_events".to_owned(), t)));
        }
        Some(given) => {
            if let Some((_, field)) = given.get(TABLES_MAX) {
                let message = format!("{} tables are too many; at most {TABLES_MAX} are allowed", given.len());
                r.problem(field.key.clone(), message, "remove some");
            }
            for (name, field) in given {
                if let Err(wrong) = names::table_name(name) {
                    r.problem(field.key.clone(), format!("[table.NAME]: {}", wrong.what), wrong.help);
                }
                let section = r.section(&format!("table.{}", printable(name)), keys::TABLE.keys, Some(field));
                let table = read_one(r, &section, name, handler, emitted.as_deref());
                tables.extend(table.map(|t| (name.to_owned(), t)));
            }
        }
    }
    let is_there = |name: &String| tables.get(name).is_some_and(|table| table.from == TableFrom::Handler);
    for name in emitted.iter().flatten().filter(|name| !is_there(name)) {
        let handler = handler.unwrap_or_default();
        let message = format!("[sessions] handler: {} emits rows to table {name}, which is not here", quoted(handler));
        let help = format!("add a section [table.{name}] with handler = \"{handler}\"");
        r.relation(sessions.span_of("handler"), message, help);
    }
    tables
}

fn read_one(
    r: &mut Reader<'_>,
    s: &Section<'_>,
    name: &str,
    handler: Option<&str>,
    emitted: Option<&[String]>,
) -> Option<Table> {
    let from = if let (Some(field), Some(of)) = (s.field("handler"), r.text(s, "handler")) {
        if s.has("from") {
            let message = format!("[table.{}] handler: from is given too", printable(name));
            r.relation(field.key.clone(), message, "keep one: a table has every event, or the rows of a handler");
        }
        if handler.is_some_and(|handler| handler != of) {
            let message = format!("[table.{}] handler: sessions run {}", printable(name), quoted(handler?));
            r.relation(field.key, message, "name the handler of [sessions], or remove this table");
        } else if let Some(emitted) = emitted
            && !emitted.iter().any(|table| table == name)
        {
            let message = format!("[table.{}] handler: {} emits no rows to this table", printable(name), quoted(&of));
            let help = if emitted.is_empty() {
                "it emits no rows at all: use from = \"events\", or remove this table".to_owned()
            } else {
                format!("its tables: {}", emitted.join(", "))
            };
            r.relation(field.key, message, help);
        }
        TableFrom::Handler
    } else {
        r.choice(s, "from");
        TableFrom::Events
    };
    let inner = r.inner(s, "cut");
    let (rows, bytes) = (r.count(&inner, "rows"), r.size(&inner, "bytes"));
    let age = r.duration(&inner, "age");
    Some(Table { from, cut: Cut { rows: rows?, bytes: bytes?, age: age? } })
}
