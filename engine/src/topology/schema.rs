//! The JSON schema of a topology file, for editors and for people: what `keyloom schema` prints.
//!
//! Made from the table in `keys.rs`. It describes single values; what must hold between them only `keyloom check` knows.

use keyloom_actors::features::{FEATURES_MAX, FieldType};
use serde_json::{Map, Value, json};

use super::{
    access::ACCESS_MAX,
    keys::{self, Key, Kind},
    tables::TABLES_MAX,
    units,
};

/// Draft 2020-12.
pub fn json_schema() -> Value {
    let mut properties = Map::new();
    let about = "Version of the file format.";
    properties.insert("version".into(), json!({ "const": keys::VERSION, "description": about }));
    for section in keys::SECTIONS {
        properties.insert(section.name.into(), object(section.keys, section.about));
    }
    for (section, title) in [
        (&keys::ACCESS, "[access.NAME]: somebody who may come in."),
        (&keys::SOURCE, "[source.NAME]: trackers and pages that may send events."),
    ] {
        properties.insert(
            section.name.into(),
            json!({
                "type": "object",
                "description": section.about,
                "maxProperties": ACCESS_MAX,
                "additionalProperties": object(section.keys, title),
            }),
        );
    }
    properties.insert(
        "handler".into(),
        json!({
            "type": "object",
            "description": "[handler.NAME]: the configuration of a handler, in its own words.",
            "additionalProperties": { "type": "object" },
        }),
    );
    properties.insert(
        "feature".into(),
        json!({
            "type": "object",
            "description": keys::FEATURE.about,
            "propertyNames": { "pattern": "^[a-z][a-z0-9_]*$" },
            "maxProperties": FEATURES_MAX,
            "additionalProperties": object(keys::FEATURE.keys, "[feature.NAME]: a declared feature."),
        }),
    );
    properties.insert(
        "table".into(),
        json!({
            "type": "object",
            "description": keys::TABLE.about,
            "propertyNames": { "pattern": "^[a-z][a-z0-9_]*$" },
            "maxProperties": TABLES_MAX,
            "additionalProperties": object(keys::TABLE.keys, "[table.NAME]: a table of the lake."),
        }),
    );
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Keyloom topology",
        "description": "What one keyloom engine runs: log, store, lake, sessions and tables.",
        "type": "object",
        "required": ["version"],
        "properties": properties,
        "additionalProperties": false,
        "$defs": {
            "secret": {
                "description": "A secret by reference; it never stands in the file.",
                "oneOf": [
                    by_reference("env", "Name of an environment variable."),
                    by_reference("file", "Path of a file that holds it, relative to this file; not readable by everyone."),
                ],
            },
        },
    })
}

fn by_reference(name: &str, about: &str) -> Value {
    json!({
        "type": "object",
        "required": [name],
        "properties": { name: { "type": "string", "minLength": 1, "description": about } },
        "additionalProperties": false,
    })
}

fn object(keys: &[Key], about: &str) -> Value {
    let properties: Map<String, Value> = keys.iter().map(|k| (k.name.to_owned(), property(k))).collect();
    json!({ "type": "object", "description": about, "properties": properties, "additionalProperties": false })
}

fn property(key: &Key) -> Value {
    let mut schema = match key.kind {
        Kind::Text(_) | Kind::Path | Kind::Address => json!({ "type": "string" }),
        Kind::Texts(_, most) => {
            json!({ "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": most, "uniqueItems": true })
        }
        Kind::Choice(words) => json!({ "enum": words }),
        Kind::Count(min, max) => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Size(..) => json!({ "type": "string", "pattern": amount(units::SIZE_UNITS_TEXT) }),
        Kind::Time(..) => json!({ "type": "string", "pattern": amount(units::TIME_UNITS_TEXT) }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Secret => json!({ "$ref": "#/$defs/secret" }),
        Kind::Keys(keys) => object(keys, key.about),
        Kind::Window => window(),
        Kind::Types => {
            let types: Vec<&str> = FieldType::NAMES.iter().map(|(name, _)| *name).collect();
            json!({ "type": "object", "additionalProperties": { "enum": types } })
        }
    };
    let only = key.only.map(|kind| format!(" Only with kind = \"{kind}\".")).unwrap_or_default();
    let limits = match key.kind {
        Kind::Size(min, max) => format!(" {} to {}.", units::size_text(min), units::size_text(max)),
        Kind::Time(min, max) => format!(" {} to {}.", units::duration_text(min), units::duration_text(max)),
        _ => String::new(),
    };
    schema["description"] = json!(format!("{}{limits}{only}", key.about));
    let value = |raw: &str| match key.kind {
        Kind::Texts(..) => json!([raw]),
        Kind::Count(..) => json!(raw.replace('_', "").parse::<u64>().unwrap_or_default()),
        _ => json!(raw),
    };
    match (key.default, key.kind) {
        (Some(default), _) => schema["default"] = value(default),
        (None, Kind::Secret | Kind::Keys(_) | Kind::Types | Kind::Flag) => {}
        (None, _) => schema["examples"] = json!([value(key.example)]),
    }
    schema
}

fn window() -> Value {
    let time = json!({ "type": "string", "pattern": amount(units::TIME_UNITS_TEXT) });
    let one = |name: &str| json!({ "type": "object", "required": [name], "properties": { name: time }, "additionalProperties": false });
    json!({ "anyOf": [{ "enum": ["lifetime", "session"] }, time, one("sliding"), one("tumbling")] })
}

fn amount(units: &str) -> String {
    format!("^[0-9][0-9_]*({})$", units.replace(", ", "|"))
}
