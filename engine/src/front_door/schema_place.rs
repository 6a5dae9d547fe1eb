//! Where an event does not fit its schema, and what is asked of it there, in a short text.
//!
//! Pure. The library's own errors list what every branch of every choice says, level by level; for a nested event and a
//! schema that refers to itself that is more than any memory. So we go down from the root ourselves, only asking parts of
//! the schema yes or no, which the library answers in bounded time; its error is asked for where nothing branches any more.

use std::collections::HashMap;

use jsonschema::{Validator, ValidatorMap};
use serde_json::{Map, Value};

/// Steps down a schema, references included.
const STEPS_MAX: usize = 256;
/// Keywords that try several schemas, or that this file does not follow.
const BRANCHES: [&str; 20] = [
    "$dynamicRef",
    "$recursiveRef",
    "$ref",
    "additionalItems",
    "anyOf",
    "contains",
    "dependencies",
    "dependentSchemas",
    "else",
    "if",
    "items",
    "not",
    "oneOf",
    "patternProperties",
    "prefixItems",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contentSchema",
];

/// A schema and the validators of all of its parts, by `#` and JSON pointer.
pub(super) struct Parts {
    pub(super) schema: Value,
    pub(super) validators: ValidatorMap,
}

/// A part of a schema, and the part of the event that does not fit it.
struct At<'a> {
    event: &'a str,
    pointer: String,
    schema: &'a Value,
    value: &'a Value,
    /// Where `value` is in the event, as a JSON pointer.
    place: String,
}

/// Where `value` does not fit the schema of `event`, and what that asks there; values of the event's are not in the text,
/// its names may be. Unbounded: the caller cuts it.
pub(super) fn explain(all: &HashMap<String, Parts>, event: &str, value: &Value) -> (String, String) {
    let Some((event, parts)) = all.get_key_value(event) else { return (String::new(), "it does not fit".to_owned()) };
    let mut at = At { event, pointer: "#".to_owned(), schema: &parts.schema, value, place: String::new() };
    for _ in 0..STEPS_MAX {
        match at.down(all) {
            Some(below) => at = below,
            None => break,
        }
    }
    let asked = at.asked(all);
    (at.place, asked)
}

impl<'a> At<'a> {
    fn validator(&self, all: &'a HashMap<String, Parts>) -> Option<&'a Validator> {
        all.get(self.event)?.validators.get(&self.pointer)
    }

    /// The first part of this one that the event does not fit either.
    fn down(&self, all: &'a HashMap<String, Parts>) -> Option<Self> {
        let schema = self.schema.as_object()?;
        self.referred(schema, all)
            .or_else(|| {
                let list = schema.get("allOf")?.as_array()?;
                (0..list.len()).find_map(|i| self.part(all, &["allOf", &i.to_string()], &list[i], self.value, None))
            })
            .or_else(|| self.member(schema, all))
            .or_else(|| {
                let (items, values) = (schema.get("items")?, self.value.as_array()?);
                let bad =
                    |(i, value): (usize, &'a Value)| self.part(all, &["items"], items, value, Some(&i.to_string()));
                values.iter().enumerate().find_map(bad)
            })
    }

    fn member(&self, schema: &'a Map<String, Value>, all: &'a HashMap<String, Parts>) -> Option<Self> {
        let members = self.value.as_object()?;
        let named = schema.get("properties").and_then(Value::as_object);
        let bad = |(name, part): (&String, &'a Value)| {
            self.part(all, &["properties", name], part, members.get(name)?, Some(name))
        };
        named.into_iter().flatten().find_map(bad).or_else(|| {
            let others = schema.get("additionalProperties").filter(|_| !schema.contains_key("patternProperties"))?;
            let others_of = members.iter().filter(|(name, _)| named.is_none_or(|named| !named.contains_key(*name)));
            let mut others_of = others_of.filter(|_| others.is_object());
            others_of.find_map(|(name, value)| self.part(all, &["additionalProperties"], others, value, Some(name)))
        })
    }

    /// What `$ref` leads to, in this schema or a neighbour.
    fn referred(&self, schema: &'a Map<String, Value>, all: &'a HashMap<String, Parts>) -> Option<Self> {
        let reference = schema.get("$ref")?.as_str()?;
        let (file, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let file = file.strip_suffix(".json").unwrap_or(file).replace("%20", " ");
        let (event, parts) = all.get_key_value(if file.is_empty() { self.event } else { &file })?;
        let below = At {
            event,
            pointer: format!("#{fragment}"),
            schema: parts.schema.pointer(fragment)?,
            value: self.value,
            place: self.place.clone(),
        };
        below.validator(all).filter(|validator| !validator.is_valid(self.value)).map(|_| below)
    }

    /// The part at `path` below, if `value` does not fit it.
    fn part(
        &self,
        all: &'a HashMap<String, Parts>,
        path: &[&str],
        schema: &'a Value,
        value: &'a Value,
        segment: Option<&str>,
    ) -> Option<Self> {
        let mut pointer = self.pointer.clone();
        path.iter().for_each(|part| pointer = format!("{pointer}/{}", escaped(part)));
        let place = segment.map_or_else(|| self.place.clone(), |s| format!("{}/{}", self.place, escaped(s)));
        let below = At { event: self.event, pointer, schema, value, place };
        below.validator(all).filter(|validator| !validator.is_valid(value)).map(|_| below)
    }

    /// What is asked where nothing below is wrong by itself.
    fn asked(&self, all: &'a HashMap<String, Parts>) -> String {
        let Some(schema) = self.schema.as_object() else { return "nothing is allowed here".to_owned() };
        // All items were seen to fit, unless each has a schema of its own.
        let is_followed = |name: &str| name == "items" && !schema["items"].is_array();
        let names = schema.keys().map(String::as_str);
        let branches: Vec<&str> = names.filter(|name| BRANCHES.contains(name) && !is_followed(name)).collect();
        if branches.is_empty()
            && let Some(Err(error)) = self.validator(all).map(|validator| validator.validate(self.value))
        {
            return error.masked_with("it").to_string();
        }
        let asks = schema.keys().map(String::as_str).filter(|name| {
            branches.contains(name) || matches!(*name, "type" | "required" | "enum" | "const" | "additionalProperties")
        });
        format!("it does not fit {}", asks.collect::<Vec<_>>().join(", "))
    }
}

/// A name as a part of a JSON pointer.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
