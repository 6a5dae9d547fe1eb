//! Reads typed values out of sections, collecting problems instead of stopping at the first.
//!
//! Knows kinds of value, not what a topology means. Touches the outside only for secrets and for files that must exist.

use std::{
    ffi::OsString,
    net::SocketAddr,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::de::{DeInteger, DeTable, DeValue};

use super::{
    Secret,
    keys::{self, Key, Kind},
    names::Wrong,
    near::nearest,
    problems::{Found, quoted},
    secret, units,
};

/// Collects problems while values are read.
pub(super) struct Reader<'a> {
    pub(super) found: Vec<Found>,
    /// Parts of the file could not be read at all: what seems missing may stand there.
    pub(super) broken: bool,
    /// The folder that paths are relative to.
    pub(super) folder: &'a Path,
    /// Environment variables.
    pub(super) variables: &'a dyn Fn(&str) -> Option<OsString>,
}

/// A section or an inline table, present or not.
pub(super) struct Section<'a> {
    /// How messages begin: `[log] ` or `[log] retention.`.
    pub(super) title: String,
    keys: &'static [Key],
    table: Option<&'a DeTable<'a>>,
    span: Range<usize>,
}

/// One key with its value.
pub(super) struct Field<'a> {
    pub(super) key: Range<usize>,
    pub(super) span: Range<usize>,
    pub(super) value: &'a DeValue<'a>,
}

/// The value of `name`, if it is there.
pub(super) fn field<'a>(table: &'a DeTable<'a>, name: &str) -> Option<Field<'a>> {
    let (key, value) = table.get_key_value(name)?;
    Some(Field { key: key.span(), span: value.span(), value: value.get_ref() })
}

impl<'a> Section<'a> {
    /// A section of which nothing is known but its name.
    pub(super) fn absent(name: &str, keys: &'static [Key]) -> Self {
        Self { title: format!("[{name}] "), keys, table: None, span: 0..0 }
    }

    pub(super) fn is_given(&self) -> bool {
        self.table.is_some()
    }

    /// Given, with nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_some_and(DeTable::is_empty)
    }

    /// Where it begins.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    pub(super) fn field(&self, name: &str) -> Option<Field<'a>> {
        self.table.and_then(|t| field(t, name))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.field(name).is_some()
    }

    /// Where the value of `name` is, or the section that lacks it.
    pub(super) fn span_of(&self, name: &str) -> Range<usize> {
        self.field(name).map_or_else(|| self.span(), |f| f.span)
    }

    fn key(&self, name: &str) -> &'static Key {
        self.keys.iter().find(|k| k.name == name).expect("only keys of the table in keys.rs are read")
    }
}

impl Reader<'_> {
    /// Notes a problem with one value.
    pub(super) fn problem(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.found.push(Found { span, message: message.into(), label: None, help: help.into() });
    }

    /// Notes a problem with what is absent or does not fit together: pointless while parts of the file are unreadable.
    pub(super) fn relation(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        if !self.broken {
            self.problem(span, message, help);
        }
    }

    /// Notes a problem with the value of `name`.
    pub(super) fn wrong(&mut self, section: &Section<'_>, name: &str, span: Range<usize>, wrong: Wrong) {
        self.problem(span, format!("{}{name}: {}", section.title, wrong.what), wrong.help);
    }

    /// Opens a section and notes what does not belong there.
    pub(super) fn section<'a>(&mut self, name: &str, keys: &'static [Key], field: Option<Field<'a>>) -> Section<'a> {
        let title = format!("[{name}] ");
        let Some(field) = field else { return Section::absent(name, keys) };
        let DeValue::Table(table) = field.value else {
            let help = format!("write [{name}] on a line of its own and its keys below");
            self.problem(field.key, format!("{name} is a section, found {}", found(field.value)), help);
            return Section::absent(name, keys);
        };
        let section = Section { title, keys, table: Some(table), span: field.span };
        self.refuse_unknown(&section);
        section
    }

    /// Opens the inline table at `name`.
    pub(super) fn inner<'a>(&mut self, section: &Section<'a>, name: &str) -> Section<'a> {
        let Kind::Keys(keys) = section.key(name).kind else { unreachable!("only keys with keys inside are opened") };
        let title = format!("{}{name}.", section.title);
        let absent = Section { title: title.clone(), keys, table: None, span: section.span() };
        let Some(field) = section.field(name) else { return absent };
        let DeValue::Table(table) = field.value else {
            self.wrong_type(section, name, &field);
            return absent;
        };
        let inner = Section { title, keys, table: Some(table), span: field.span };
        self.refuse_unknown(&inner);
        inner
    }

    fn refuse_unknown(&mut self, section: &Section<'_>) {
        for (key, _) in section.table.into_iter().flat_map(DeTable::iter) {
            let name = key.get_ref().as_ref();
            if section.keys.iter().any(|k| k.name == name) {
                continue;
            }
            let known = || section.keys.iter().map(|k| k.name);
            let elsewhere = || keys::SECTIONS.iter().find(|s| s.keys.iter().any(|k| k.name == name));
            let help = match (nearest(name, known()), elsewhere()) {
                (Some(near), _) => format!("did you mean {near}?"),
                (None, Some(other)) => format!("{name} is a key of [{}]", other.name),
                (None, None) => format!("remove it; known here: {}", known().collect::<Vec<_>>().join(", ")),
            };
            let title = section.title.trim_end_matches([' ', '.']);
            self.problem(key.span(), format!("{title}: unknown key {}", quoted(name)), help);
        }
    }

    /// Notes keys that belong to another `kind` of the section than the one it has.
    pub(super) fn refuse_other_kinds(&mut self, section: &Section<'_>, kind: &str) {
        if self.broken && !section.has("kind") {
            return; // the kind that was meant may stand in an unreadable line
        }
        for key in section.keys {
            if let (Some(only), Some(field)) = (key.only, section.field(key.name))
                && only != kind
            {
                let message =
                    format!("{}{}: belongs to kind = \"{only}\", and this is \"{kind}\"", section.title, key.name);
                self.problem(field.key, message, format!("remove it, or set kind = \"{only}\""));
            }
        }
    }

    pub(super) fn wrong_type(&mut self, section: &Section<'_>, name: &str, field: &Field<'_>) {
        let key = section.key(name);
        let expected = expected(key);
        let message = format!("{}{name}: found {}, expected {expected}", section.title, found(field.value));
        let help = format!("for example {name} = {}{}", key.toml(key.example), units_of(key));
        self.found.push(Found { span: field.span.clone(), message, label: Some(format!("expected {expected}")), help });
    }

    /// Reads a value that is written as text; the default when absent.
    fn written<T>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        convert: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let Some(field) = section.field(name) else {
            let default = section.key(name).default?;
            return Some(
                convert(default).unwrap_or_else(|_| unreachable!("the default of {name} in keys.rs is valid")),
            );
        };
        let DeValue::String(text) = field.value else {
            self.wrong_type(section, name, &field);
            return None;
        };
        convert(text).map_err(|wrong| self.wrong(section, name, field.span, wrong)).ok()
    }

    pub(super) fn text(&mut self, section: &Section<'_>, name: &str) -> Option<String> {
        let Kind::Text(check) = section.key(name).kind else { unreachable!("{name} is described as a text") };
        self.written(section, name, |text| check(text).map(|()| text.to_owned()))
    }

    pub(super) fn choice(&mut self, section: &Section<'_>, name: &str) -> Option<&'static str> {
        let Kind::Choice(words) = section.key(name).kind else { unreachable!("{name} is described as a choice") };
        self.written(section, name, |text| {
            words.iter().copied().find(|w| *w == text).ok_or_else(|| {
                let help = match nearest(text, words.iter().copied()) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => "choose one of these".to_owned(),
                };
                Wrong::new(format!("found {}, expected {}", quoted(text), expected(section.key(name))), help)
            })
        })
    }

    pub(super) fn duration(&mut self, section: &Section<'_>, name: &str) -> Option<Duration> {
        let Kind::Time(min, max) = section.key(name).kind else { unreachable!("{name} is described as a duration") };
        self.written(section, name, |text| {
            units::duration(text).and_then(|time| within(text, time, min, max, units::duration_text))
        })
    }

    pub(super) fn size(&mut self, section: &Section<'_>, name: &str) -> Option<u64> {
        let Kind::Size(min, max) = section.key(name).kind else { unreachable!("{name} is described as a size") };
        self.written(section, name, |text| {
            units::size(text).and_then(|size| within(text, size, min, max, units::size_text))
        })
    }

    pub(super) fn address(&mut self, section: &Section<'_>, name: &str) -> Option<SocketAddr> {
        self.written(section, name, |text| {
            let help = "write an IP address and a port: \"127.0.0.1:8080\", or \"[::1]:8080\"";
            text.parse().map_err(|_| Wrong::new(format!("{} is not an address with a port", quoted(text)), help))
        })
    }

    pub(super) fn path(&mut self, section: &Section<'_>, name: &str) -> Option<PathBuf> {
        let folder = self.folder;
        self.written(section, name, |text| {
            if text.trim().is_empty() || text.contains('\0') {
                return Err(Wrong::new("is not a path", "name a file or folder, relative to this file"));
            }
            if text.starts_with('~') {
                return Err(Wrong::new("~ is not understood here", "write the path out, or relative to this file"));
            }
            Ok(folder.join(text))
        })
    }

    /// A path of a file that must be readable now; with `private`, not by everyone.
    pub(super) fn existing(&mut self, section: &Section<'_>, name: &str, private: bool) -> Option<PathBuf> {
        let path = self.path(section, name)?;
        let checked = if private { secret::private(&path) } else { secret::readable(&path).map(drop) };
        checked.map(|()| path).map_err(|wrong| self.wrong(section, name, section.span_of(name), wrong)).ok()
    }

    pub(super) fn count(&mut self, section: &Section<'_>, name: &str) -> Option<u64> {
        let key = section.key(name);
        let Kind::Count(min, max) = key.kind else { unreachable!("{name} is described as a number") };
        let Some(field) = section.field(name) else {
            let default = key.default?.replace('_', "");
            return Some(default.parse().unwrap_or_else(|_| unreachable!("the default of {name} in keys.rs is valid")));
        };
        let DeValue::Integer(integer) = field.value else {
            self.wrong_type(section, name, &field);
            return None;
        };
        let Some(number) = whole(integer).and_then(|n| u64::try_from(n).ok()).filter(|n| (min..=max).contains(n))
        else {
            let what = format!("found {integer}, expected a number from {min} to {max}");
            self.wrong(section, name, field.span, Wrong::new(what, format!("for example {name} = {}", key.example)));
            return None;
        };
        Some(number)
    }

    /// A number whose limits fit into 32 bits.
    pub(super) fn small(&mut self, section: &Section<'_>, name: &str) -> Option<u32> {
        self.count(section, name).map(|n| u32::try_from(n).expect("the limits in keys.rs fit into 32 bits"))
    }

    /// The number of copies of a stream.
    pub(super) fn copies(&mut self, section: &Section<'_>) -> Option<u8> {
        self.count(section, "replicas").map(|n| u8::try_from(n).expect("the limits in keys.rs fit into 8 bits"))
    }

    pub(super) fn flag(&mut self, section: &Section<'_>, name: &str) -> Option<bool> {
        let Some(field) = section.field(name) else { return Some(false) };
        let DeValue::Boolean(flag) = field.value else {
            self.wrong_type(section, name, &field);
            return None;
        };
        Some(*flag)
    }

    pub(super) fn texts(&mut self, section: &Section<'_>, name: &str) -> Option<Vec<String>> {
        let key = section.key(name);
        let Kind::Texts(check, most) = key.kind else { unreachable!("{name} is described as a list of texts") };
        let Some(field) = section.field(name) else { return key.default.map(|d| vec![d.to_owned()]) };
        let DeValue::Array(list) = field.value else {
            self.wrong_type(section, name, &field);
            return None;
        };
        if list.is_empty() || list.len() > most {
            let what = format!("found a list of {}, expected 1 to {most} texts", list.len());
            let help = format!("for example {name} = {}", key.toml(key.example));
            self.wrong(section, name, field.span, Wrong::new(what, help));
            return None;
        }
        let before = self.found.len();
        let mut texts: Vec<String> = Vec::with_capacity(list.len());
        for item in list.iter() {
            match item.get_ref() {
                DeValue::String(text) if texts.iter().any(|t| t == text) => {
                    let wrong = Wrong::new(format!("{} is given twice", quoted(text)), "remove one of the two");
                    self.wrong(section, name, item.span(), wrong);
                }
                DeValue::String(text) => {
                    check(text).unwrap_or_else(|wrong| self.wrong(section, name, item.span(), wrong));
                    texts.push(text.clone().into_owned());
                }
                other => {
                    let item = Field { key: field.key.clone(), span: item.span(), value: other };
                    self.wrong_type(section, name, &item);
                }
            }
        }
        (self.found.len() == before).then_some(texts)
    }

    pub(super) fn secret(&mut self, section: &Section<'_>, name: &str) -> Option<Secret> {
        const BY_REFERENCE: &str = "secrets are given by reference: { env = \"NAME\" } or { file = \"path\" }";
        let field = section.field(name)?;
        let mut refuse = |span, what: &str| self.wrong(section, name, span, Wrong::new(what, BY_REFERENCE));
        let DeValue::Table(table) = field.value else {
            refuse(field.span, "a secret must not stand in this file");
            return None;
        };
        if let Some((key, _)) = table.iter().find(|(k, _)| !matches!(k.get_ref().as_ref(), "env" | "file")) {
            refuse(key.span(), "a reference to a secret has one key, env or file");
            return None;
        }
        let (env, file) = (self::field(table, "env"), self::field(table, "file"));
        let (by_env, reference) = match (env, file) {
            (Some(env), None) => (true, env),
            (None, Some(file)) => (false, file),
            _ => {
                refuse(field.span, "a reference to a secret has one key, env or file");
                return None;
            }
        };
        let DeValue::String(text) = reference.value else {
            refuse(reference.span, "a reference to a secret is a text");
            return None;
        };
        let read = if by_env {
            secret::from_env(text, self.variables)
        } else {
            secret::from_file(&self.folder.join(text.as_ref()))
        };
        read.map_err(|wrong| self.wrong(section, name, reference.span, wrong)).ok()
    }
}

/// The number, if it is not absurdly large.
pub(super) fn whole(integer: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn within<T: PartialOrd>(given: &str, value: T, min: T, max: T, text: impl Fn(T) -> String) -> Result<T, Wrong> {
    if min <= value && value <= max {
        return Ok(value);
    }
    let what = format!("{} is outside its limits", quoted(given));
    Err(Wrong::new(what, format!("choose a value from \"{}\" to \"{}\"", text(min), text(max))))
}

/// What a value is, for people.
pub(super) fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text {}", quoted(text)),
        DeValue::Integer(integer) => format!("the number {integer}"),
        DeValue::Float(float) => format!("the number {float}"),
        DeValue::Boolean(flag) => format!("{flag}"),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn expected(key: &Key) -> String {
    match key.kind {
        Kind::Text(_) => "a text".to_owned(),
        Kind::Texts(..) => "a list of texts".to_owned(),
        Kind::Choice(words) => words.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(" or "),
        Kind::Count(min, max) => format!("a whole number from {min} to {max}"),
        Kind::Size(..) => "a size".to_owned(),
        Kind::Time(..) => "a duration".to_owned(),
        Kind::Flag => "true or false".to_owned(),
        Kind::Path => "a path".to_owned(),
        Kind::Address => "an address with a port".to_owned(),
        Kind::Secret => "a reference to a secret".to_owned(),
        Kind::Keys(_) => "an inline table".to_owned(),
        Kind::Window => "a window".to_owned(),
        Kind::Types => "types by names of fields".to_owned(),
    }
}

fn units_of(key: &Key) -> String {
    match key.kind {
        Kind::Time(..) | Kind::Window => format!(" (units: {})", units::TIME_UNITS_TEXT),
        Kind::Size(..) => format!(" (units: {})", units::SIZE_UNITS_TEXT),
        _ => String::new(),
    }
}
