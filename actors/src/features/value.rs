//! What a feature answers with.

use compact_str::CompactString;
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;

use super::decimal::Decimal;

/// The value of a feature. Serializes as it stands in feature answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing is known (yet, or any more).
    Null,
    /// A truth value.
    Bool(bool),
    /// A count.
    Count(u64),
    /// An exact number.
    Decimal(Decimal),
    /// A number in floating point; one that is not finite serializes as `null`.
    Float(f64),
    /// A single value of an event, as JSON text: a text, a number or a truth value.
    Scalar(CompactString),
    /// Several values.
    List(Vec<Value>),
    /// Values by name.
    Object(Vec<(&'static str, Value)>),
}

impl Value {
    /// As a number, if it is one.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Count(n) => Some(*n as f64),
            Self::Decimal(d) => Some(d.to_f64()),
            Self::Float(f) => Some(*f),
            Self::Scalar(text) => text.parse().ok().filter(|f: &f64| f.is_finite()),
            _ => None,
        }
    }

    /// As a text, if it is one.
    pub fn as_text(&self) -> Option<String> {
        match self {
            Self::Scalar(text) => serde_json::from_str(text).ok(),
            _ => None,
        }
    }

    /// As a truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(flag) => Some(*flag),
            Self::Scalar(text) => text.parse().ok(),
            _ => None,
        }
    }
}

fn raw<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(raw) => raw.serialize(serializer),
        Err(_) => serializer.serialize_unit(),
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(flag) => serializer.serialize_bool(*flag),
            Self::Count(n) => serializer.serialize_u64(*n),
            Self::Decimal(d) => raw(&d.to_string(), serializer),
            Self::Float(f) => serializer.serialize_f64(*f),
            Self::Scalar(text) => raw(text, serializer),
            Self::List(values) => serializer.collect_seq(values),
            Self::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                members.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
                map.end()
            }
        }
    }
}
