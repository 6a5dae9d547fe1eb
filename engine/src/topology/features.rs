//! Declared features in a topology: `[features]`, `[feature.NAME]`, and where in the file each mistake of theirs is.
//!
//! Reads definitions; what they mean and what is wrong with them says `keyloom_actors::features`.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use keyloom_actors::features::{Definition, DefinitionProblem, FeatureSet, FieldType, Function, Settings, Window};
use toml::de::{DeTable, DeValue};

use super::{
    keys,
    names::Wrong,
    near::nearest,
    problems::{printable, quoted},
    reader::{Field, Reader, Section, field},
    resolved::DeclaredFeatures,
    sections::named,
    units,
};

/// A window of a feature, for what must hold between it and the log.
pub(super) struct Windowed {
    pub(super) feature: String,
    pub(super) length: Duration,
    pub(super) span: Range<usize>,
}

/// What was read.
pub(super) struct Read {
    pub(super) features: Option<DeclaredFeatures>,
    pub(super) windows: Vec<Windowed>,
    /// Every name, with its place.
    pub(super) names: Vec<(String, Range<usize>)>,
}

/// One `[feature.NAME]` while it is read.
struct Declared<'a> {
    name: &'a str,
    /// Of the name.
    key: Range<usize>,
    section: Section<'a>,
    /// Absent if something in it cannot be read.
    definition: Option<Definition>,
}

/// Reads `[features]` and every `[feature.NAME]`.
pub(super) fn read(r: &mut Reader<'_>, root: &DeTable<'_>, section: &Section<'_>) -> Read {
    let settings = settings(r, section);
    let mut declared = Vec::new();
    for (name, field) in named(r, root, "feature").unwrap_or_default() {
        let key = field.key.clone();
        let section = r.section(&format!("feature.{}", printable(name)), keys::FEATURE.keys, Some(field));
        let definition = definition(r, name, &section);
        declared.push(Declared { name, key, section, definition });
    }
    let windows = declared.iter().filter_map(|d| {
        let (Window::Sliding(length) | Window::Tumbling(length)) = d.definition.as_ref()?.window? else { return None };
        Some(Windowed { feature: d.name.to_owned(), length, span: d.section.span_of("window") })
    });
    let names = declared.iter().map(|d| (d.name.to_owned(), d.key.clone())).collect();
    let mut read = Read { features: None, windows: windows.collect(), names };
    let Some(settings) = settings else { return read };
    // Of a feature that cannot be read the others may still know the name.
    let stands_in = |d: &Declared<'_>| d.definition.clone().unwrap_or_else(|| Definition::new(Function::Count));
    let definitions: Vec<(String, Definition)> = declared.iter().map(|d| (d.name.to_owned(), stands_in(d))).collect();
    match FeatureSet::compile(definitions.clone(), settings.clone()) {
        Ok(set) => {
            let whole = declared.iter().all(|d| d.definition.is_some());
            let features = DeclaredFeatures { settings, definitions, set: Arc::new(set) };
            read.features = whole.then_some(features);
        }
        Err(problems) => {
            for problem in problems {
                if let Some(declared) = declared.iter().find(|d| d.name == problem.feature) {
                    place(r, declared, problem);
                }
            }
        }
    }
    read
}

/// Notes a problem where it is: inside of an expression, at a value, or at the section that lacks something.
fn place(r: &mut Reader<'_>, declared: &Declared<'_>, problem: DefinitionProblem) {
    let name = printable(declared.name);
    let DefinitionProblem { field, text, help, at, .. } = problem;
    if field == "name" {
        r.problem(declared.key.clone(), format!("[feature.{name}]: {text}"), help);
        return;
    }
    let mut span = declared.section.span_of(field);
    let value = declared.section.field(field).map(|f| f.value);
    if let (Some(at), Some(DeValue::String(text))) = (at, value)
        && span.len() == text.len() + 2
    {
        // Written in one pair of quotes and without escapes: its characters stand in the file as they are.
        span = span.start + 1 + at.start..span.start + 1 + at.end.max(at.start + 1);
    }
    r.problem(span, format!("[feature.{name}] {field}: {text}"), help);
}

fn settings(r: &mut Reader<'_>, s: &Section<'_>) -> Option<Settings> {
    let (lateness, session_gap) = (r.duration(s, "lateness"), r.duration(s, "session_gap"));
    let fields = match s.field("fields") {
        None => Some(None),
        Some(given) => fields(r, s, &given).map(Some),
    };
    Some(Settings { lateness: lateness?, session_gap: session_gap?, fields: fields? })
}

fn fields(r: &mut Reader<'_>, s: &Section<'_>, given: &Field<'_>) -> Option<BTreeMap<String, FieldType>> {
    let DeValue::Table(table) = given.value else {
        r.wrong_type(s, "fields", given);
        return None;
    };
    let before = r.found.len();
    let mut types = BTreeMap::new();
    let words = || FieldType::NAMES.iter().map(|(word, _)| *word);
    for (name, value) in table.iter() {
        let word = value.get_ref().as_str().unwrap_or_default();
        match FieldType::NAMES.iter().find(|(known, _)| *known == word) {
            Some((_, field_type)) => drop(types.insert(name.get_ref().clone().into_owned(), *field_type)),
            None => {
                let list = words().collect::<Vec<_>>().join(", ");
                let help = match nearest(word, words()) {
                    Some(near) => format!("did you mean \"{near}\"? The types are {list}"),
                    None => format!("choose one of these: {list}"),
                };
                let what = format!("{} is of no type that there is", quoted(name.get_ref()));
                r.wrong(s, "fields", value.span(), Wrong::new(what, help));
            }
        }
    }
    (r.found.len() == before).then_some(types)
}

fn definition(r: &mut Reader<'_>, name: &str, s: &Section<'_>) -> Option<Definition> {
    let before = r.found.len();
    let function = if s.has("function") {
        r.choice(s, "function").and_then(Function::of_name)
    } else {
        let help = "add function = \"count\", or another one: see the README";
        r.relation(s.span(), format!("[feature.{}]: function is missing", printable(name)), help);
        None
    };
    // Absent keys have no defaults here: the function decides about them.
    let text = |r: &mut Reader<'_>, name| if s.has(name) { r.text(s, name) } else { None };
    let time = |r: &mut Reader<'_>, name| if s.has(name) { r.duration(s, name) } else { None };
    let number = |r: &mut Reader<'_>, name| if s.has(name) { r.small(s, name) } else { None };
    let small = |n: u32| u8::try_from(n).unwrap_or(u8::MAX);
    let (of, filter) = (text(r, "of"), text(r, "where"));
    let window = window(r, s);
    let (k, max) = (number(r, "k"), number(r, "max"));
    let (precision, scale) = (number(r, "precision").map(small), number(r, "scale").map(small));
    let (half_life, ttl) = (time(r, "half_life"), time(r, "ttl"));
    let function = function?;
    let definition = Definition { function, of, filter, window, k, max, precision, half_life, scale, ttl };
    (r.found.len() == before).then_some(definition)
}

fn window(r: &mut Reader<'_>, s: &Section<'_>) -> Option<Window> {
    const FORMS: &str =
        "write \"1h\" for the last hour, { tumbling = \"1d\" } for the day that it is, \"session\" or \"lifetime\"";
    let given = s.field("window")?;
    let (text, span, tumbling) = match given.value {
        DeValue::String(text) => match text.as_ref() {
            "lifetime" => return Some(Window::Lifetime),
            "session" => return Some(Window::Session),
            _ => (text, given.span, false),
        },
        DeValue::Table(table) => {
            let inner = ["sliding", "tumbling"].into_iter().find_map(|name| Some((name, field(table, name)?)));
            match inner {
                Some((name, Field { span, value: DeValue::String(text), .. })) if table.len() == 1 => {
                    (text, span, name == "tumbling")
                }
                _ => {
                    r.wrong(s, "window", given.span, Wrong::new("is no window", FORMS));
                    return None;
                }
            }
        }
        _ => {
            r.wrong_type(s, "window", &given);
            return None;
        }
    };
    match units::duration(text) {
        Ok(length) if tumbling => Some(Window::Tumbling(length)),
        Ok(length) => Some(Window::Sliding(length)),
        Err(Wrong { what, help }) => {
            let near = nearest(text, ["lifetime", "session"]).map(|near| format!("did you mean \"{near}\"?"));
            r.wrong(s, "window", span, Wrong::new(what, near.unwrap_or_else(|| format!("{help}; or {FORMS}"))));
            None
        }
    }
}
