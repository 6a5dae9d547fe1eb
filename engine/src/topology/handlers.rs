//! Handlers in a topology: which exist, and their configurations as they will read them.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::{
    HandlerCatalog,
    near::nearest,
    problems::quoted,
    reader::{Field, Reader, found, whole},
    sections::named,
};

/// Notes that the catalog has no handler of this name.
pub(super) fn refuse_unknown(
    r: &mut Reader<'_>,
    span: std::ops::Range<usize>,
    place: &str,
    name: &str,
    catalog: &dyn HandlerCatalog,
) {
    let known = catalog.names();
    let list = known.join(", ");
    let help = match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}? Known handlers: {list}"),
        None => format!("known handlers: {list}"),
    };
    r.problem(span, format!("{place}: there is no handler {}", quoted(name)), help);
}

/// Reads and checks every `[handler.NAME]`. `unnamed`: the handler that sessions run because the file names none.
pub(super) fn read(
    r: &mut Reader<'_>,
    root: &DeTable<'_>,
    catalog: &dyn HandlerCatalog,
    unnamed: Option<&str>,
) -> BTreeMap<String, serde_json::Value> {
    let mut handlers = BTreeMap::new();
    for (name, field) in named(r, root, "handler").unwrap_or_default() {
        if !catalog.knows(name) {
            refuse_unknown(r, field.key, &format!("[handler.{}]", super::problems::printable(name)), name, catalog);
            continue;
        }
        let before = r.found.len();
        let config = json(r, name, &field);
        if r.found.len() > before {
            continue;
        }
        if let Err(problem) = catalog.check(name, &config) {
            r.problem(field.span, format!("[handler.{name}]: {problem}"), "correct this section");
        } else if let Some(runs) = unnamed.filter(|runs| *runs != name) {
            let message = format!("[handler.{name}]: sessions run {runs}, because [sessions] names no handler");
            r.relation(
                field.key,
                message,
                format!("write handler = {} below [sessions], or remove this section", quoted(name)),
            );
        }
        handlers.insert(name.to_owned(), config);
    }
    handlers
}

/// A handler's configuration as the handler will read it. Depth is bounded by the parser.
fn json(r: &mut Reader<'_>, handler: &str, field: &Field<'_>) -> serde_json::Value {
    use serde_json::Value;
    let inner = |r: &mut Reader<'_>, value: &toml::Spanned<DeValue<'_>>| {
        json(r, handler, &Field { key: field.key.clone(), span: value.span(), value: value.get_ref() })
    };
    let too_large = |r: &mut Reader<'_>| {
        let message = format!("[handler.{handler}]: {} cannot be used", found(field.value));
        r.problem(field.span.clone(), message, "write a finite number of at most 64 bits");
        Value::Null
    };
    match field.value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Boolean(flag) => Value::from(*flag),
        DeValue::Datetime(time) => Value::from(time.to_string()),
        DeValue::Integer(integer) => match whole(integer) {
            Some(n) if i64::try_from(n).is_ok() => Value::from(n as i64),
            Some(n) if u64::try_from(n).is_ok() => Value::from(n as u64),
            _ => too_large(r),
        },
        DeValue::Float(float) => {
            let number = float.as_str().parse::<f64>().ok().and_then(serde_json::Number::from_f64);
            number.map_or_else(|| too_large(r), Value::Number)
        }
        DeValue::Array(list) => list.iter().map(|value| inner(r, value)).collect(),
        DeValue::Table(table) => {
            table.iter().map(|(key, value)| (key.get_ref().clone().into_owned(), inner(r, value))).collect()
        }
    }
}
