//! Expressions that need CEL's interpreter: arithmetic, functions, macros over lists.
//!
//! Pure. Only what an expression names is taken out of the event. Its steps are bounded by its size, the lists it may go
//! through by [`LIST_MAX`], its texts by the event's size.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock},
};

use cel::{Context, Env, IdedExpr, Value as Cel, objects};

use super::expression::LIST_MAX;

/// The standard functions; `syntax` lets only some of them in.
static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// An expression, ready to run.
#[derive(Debug)]
pub(super) struct Interpreted {
    expr: IdedExpr,
}

impl Interpreted {
    pub(super) fn new(expr: IdedExpr) -> Self {
        Self { expr }
    }

    /// The value with these variables; `None` for any error, a variable that is not there among them.
    pub(super) fn run<'n>(&self, variables: impl Iterator<Item = (&'n str, Cel)>) -> Option<Cel> {
        // The interpreter is not ours: what it cannot do must not end a session.
        catch_unwind(AssertUnwindSafe(|| {
            let mut context = Context::with_env(ENV.clone());
            variables.for_each(|(name, value)| context.add_variable_from_value(name, value));
            Cel::resolve(&self.expr, &context).ok()
        }))
        .ok()
        .flatten()
    }
}

/// A JSON value as CEL has it, all numbers doubles; `None` when a list or an object has too many members.
pub(super) fn from_json(json: serde_json::Value) -> Option<Cel> {
    use serde_json::Value as Json;
    Some(match json {
        Json::Null => Cel::Null,
        Json::Bool(flag) => Cel::Bool(flag),
        Json::Number(number) => Cel::Float(number.as_f64().filter(|n| n.is_finite())?),
        Json::String(text) => Cel::String(Arc::new(text)),
        Json::Array(list) if list.len() <= LIST_MAX => {
            Cel::List(Arc::new(list.into_iter().map(from_json).collect::<Option<_>>()?))
        }
        Json::Object(map) if map.len() <= LIST_MAX => {
            let members = map.into_iter().map(|(name, value)| Some((name, from_json(value)?)));
            let members = members.collect::<Option<std::collections::HashMap<String, Cel>>>()?;
            Cel::Map(objects::Map::from(members))
        }
        Json::Array(_) | Json::Object(_) => return None,
    })
}

/// A result as JSON text; `None` for what is no single value.
pub(super) fn to_json(value: &Cel) -> Option<String> {
    match value {
        Cel::Bool(flag) => Some(flag.to_string()),
        Cel::Int(n) => Some(n.to_string()),
        Cel::UInt(n) => Some(n.to_string()),
        Cel::Float(n) => float_to_json(*n),
        Cel::String(text) => Some(super::scalar::quoted(text)),
        Cel::Null => Some("null".to_owned()),
        _ => None,
    }
}

/// As JSON; whole numbers without a point. `None` for what is not finite.
pub(super) fn float_to_json(number: f64) -> Option<String> {
    if number == 0.0 {
        return Some("0".to_owned()); // also for the negative one
    }
    number.is_finite().then(|| super::scalar::float_text(number))
}
