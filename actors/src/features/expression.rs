//! `where` and `of`: from text to what runs once per event, on the shortest way that there is for it.
//!
//! Pure. An error while an expression runs is no error of the event: the predicate is false, the value is absent.

use super::{
    interpreter::{Interpreted, from_json, to_json},
    path::Path,
    predicate::{Literal, Test, literal_of, path_of},
    slot::Input,
    syntax::{self, Parsed, Wrong},
    typing::{self, Names, Type},
};
use crate::event::EventRef;

/// Longest expression, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 1_024;
/// Deepest nesting of an expression.
pub const EXPRESSION_DEPTH_MAX: u16 = 48;
/// Most elements of a list or an object that an expression can look into; with more the value is absent.
pub const LIST_MAX: usize = 256;

/// A compiled `where`.
#[derive(Debug)]
pub(super) enum Predicate {
    Test(Test),
    Interpreted(OverFields),
}

/// A compiled `of`.
#[derive(Debug)]
pub(super) enum Source {
    Path(Path),
    Constant(String),
    Interpreted(OverFields),
}

/// An interpreted expression with the fields that it names.
#[derive(Debug)]
pub(super) struct OverFields {
    fields: Vec<Path>,
    expression: Interpreted,
}

impl OverFields {
    fn new(parsed: Parsed) -> Self {
        let fields = parsed.names.iter().map(|name| Path::new(&name.name, Vec::new())).collect();
        Self { fields, expression: Interpreted::new(parsed.expr) }
    }

    fn run(&self, event: EventRef<'_>) -> Option<cel::Value> {
        self.expression.run(self.fields.iter().filter_map(|path| {
            let json = serde_json::from_str(path.find(event)?.raw).ok()?;
            Some((path.root(), from_json(json)?))
        }))
    }
}

impl Predicate {
    pub(super) fn compile(text: &str, names: &Names<'_>) -> Result<Self, Wrong> {
        let parsed = syntax::parse(text)?;
        let result = typing::check(&parsed, names)?;
        if !matches!(result, Type::Bool | Type::Any) {
            let text = format!("is {result}, and a predicate is true or false");
            return Err(Wrong::new(text, "compare it with something: plan == 'pro'", parsed.at(&parsed.expr)));
        }
        Ok(match Test::of(&parsed.expr) {
            Some(test) => Self::Test(test),
            None => Self::Interpreted(OverFields::new(parsed)),
        })
    }

    /// As [`Predicate::compile`], without the fast path: what tests compare it with.
    #[cfg(test)]
    pub(super) fn interpreted(text: &str) -> Result<Self, Wrong> {
        syntax::parse(text).map(|parsed| Self::Interpreted(OverFields::new(parsed)))
    }

    pub(super) fn holds(&self, event: EventRef<'_>) -> bool {
        match self {
            Self::Test(test) => test.holds(event) == Some(true),
            Self::Interpreted(over) => matches!(over.run(event), Some(cel::Value::Bool(true))),
        }
    }
}

impl Source {
    /// Compiles `text`; answers also of which type its values are, as far as that is known.
    pub(super) fn compile(text: &str, names: &Names<'_>) -> Result<(Self, Type), Wrong> {
        let parsed = syntax::parse(text)?;
        let result = typing::check(&parsed, names)?;
        if let Some(path) = path_of(&parsed.expr) {
            return Ok((Self::Path(path), result));
        }
        let constant = match literal_of(&parsed.expr) {
            Some(Literal::Number(n)) => super::interpreter::float_to_json(n),
            Some(Literal::Text(text)) => Some(super::scalar::quoted(&text)),
            Some(Literal::Bool(flag)) => Some(flag.to_string()),
            Some(Literal::Null) | None => None,
        };
        Ok(match constant {
            Some(json) => (Self::Constant(json), result),
            None => (Self::Interpreted(OverFields::new(parsed)), result),
        })
    }

    /// The value in `event`, if there is one.
    pub(super) fn input<'a>(&'a self, event: EventRef<'a>) -> Option<Input<'a>> {
        match self {
            Self::Path(path) => path.find(event).map(Input::of),
            Self::Constant(json) => Some(Input::of(crate::event::fields::Value::of(json))),
            Self::Interpreted(over) => to_json(&over.run(event)?).map(Input::owned),
        }
    }
}
