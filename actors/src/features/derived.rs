//! `ratio` and `derived`: features computed from others when they are read.
//!
//! Pure. Floating point. Without the value of one of its inputs a derived feature has none, nor when it divides by zero.

use std::collections::BTreeMap;

use cel::common::ast::{Expr, operators as op};

use super::{
    definition::Function,
    interpreter::{Interpreted, from_json, to_json},
    scalar::Scalar,
    syntax::{self, Wrong},
    typing::{self, Names, Type},
    value::Value,
};

/// How a derived feature is computed; features are given by their places.
#[derive(Debug)]
pub(super) enum Derived {
    Ratio(usize, usize),
    Interpreted(Vec<(String, usize)>, Interpreted),
}

impl Derived {
    /// Compiles `text`; `types` says which features there are, `place` where.
    pub(super) fn compile(
        function: Function,
        text: &str,
        types: &BTreeMap<&str, Type>,
        place: impl Fn(&str) -> Option<usize>,
    ) -> Result<(Self, Type), Wrong> {
        let parsed = syntax::parse(text)?;
        let result = typing::check(&parsed, &Names::Features(types))?;
        if function == Function::Ratio {
            if let Expr::Call(call) = &parsed.expr.expr
                && call.func_name == op::DIVIDE
                && let [a, b] = call.args.as_slice()
                && let (Expr::Ident(a), Expr::Ident(b)) = (&a.expr, &b.expr)
                && let (Some(a), Some(b)) = (place(a), place(b))
            {
                return Ok((Self::Ratio(a, b), Type::Number));
            }
            let help = "write one feature divided by another, \"orders / visits\", or use derived";
            return Err(Wrong::new("is no ratio of two features", help, parsed.at(&parsed.expr)));
        }
        let inputs = parsed.names.iter().filter_map(|name| Some((name.name.clone(), place(&name.name)?))).collect();
        Ok((Self::Interpreted(inputs, Interpreted::new(parsed.expr)), result))
    }

    /// The features it needs.
    pub(super) fn inputs(&self) -> Vec<usize> {
        match self {
            Self::Ratio(a, b) => vec![*a, *b],
            Self::Interpreted(inputs, _) => inputs.iter().map(|(_, place)| *place).collect(),
        }
    }

    /// The value, given those of its inputs.
    pub(super) fn value<'v>(&self, of: impl Fn(usize) -> &'v Value) -> Value {
        match self {
            Self::Ratio(a, b) => match (of(*a).as_f64(), of(*b).as_f64()) {
                (Some(a), Some(b)) if b != 0.0 => Value::Float(a / b),
                _ => Value::Null,
            },
            Self::Interpreted(inputs, expression) => {
                let variables = inputs.iter().filter_map(|(name, place)| Some((name.as_str(), to_cel(of(*place))?)));
                match expression.run(variables) {
                    Some(cel::Value::Bool(flag)) => Value::Bool(flag),
                    Some(cel::Value::Float(number)) if number.is_finite() => Value::Float(number),
                    Some(cel::Value::Int(number)) => Value::Scalar(number.to_string().into()),
                    Some(other @ (cel::Value::UInt(_) | cel::Value::String(_))) => {
                        to_json(&other).map_or(Value::Null, |json| Value::Scalar(Scalar::from(json)))
                    }
                    _ => Value::Null,
                }
            }
        }
    }
}

/// `None` for what is null: then the name is not there.
fn to_cel(value: &Value) -> Option<cel::Value> {
    match value {
        Value::Null => None,
        Value::Bool(flag) => Some(cel::Value::Bool(*flag)),
        Value::Count(_) | Value::Decimal(_) | Value::Float(_) => {
            value.as_f64().filter(|n| n.is_finite()).map(cel::Value::Float)
        }
        Value::Scalar(text) => from_json(serde_json::from_str(text).ok()?),
        Value::List(_) | Value::Object(_) => from_json(serde_json::to_value(value).ok()?),
    }
}
