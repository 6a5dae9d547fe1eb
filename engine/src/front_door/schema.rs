//! The schema gate: events of some names must fit a JSON Schema.
//!
//! Pure: files come in as bytes. Schemas are compiled once; an event without one costs the look at its name. Patterns run on
//! an engine whose time is linear in the text, nothing is fetched from anywhere, and references end at the schemas that were
//! given. Not here: what becomes of an event that does not fit.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use jsonschema::{PatternOptions, Registry, ValidationError, Validator};
use keyloom_actors::event::key_paths::Gate;
use serde_json::Value;

use super::{
    depth,
    schema_place::{self, Parts},
};

/// Most schemas.
pub const SCHEMAS_MAX: usize = 1_000;
/// Largest schema, in bytes.
pub const SCHEMA_BYTES_MAX: usize = 256 << 10;
/// Largest schema whose parts are kept one by one, in bytes: to say where an event does not fit, and not only that.
const PARTS_BYTES_MAX: usize = 64 << 10;
/// How deep an event that has a schema may be nested: a schema may look at each level many times.
pub const DEPTH_MAX: usize = 32;
/// Compiled size of one pattern, at most, in bytes; and of what it keeps while it runs.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// Longest text about what does not fit, in bytes.
const TEXT_BYTES_MAX: usize = 240;
/// Longest place in an event that is said, in bytes.
const PLACE_BYTES_MAX: usize = 100;
/// Where schemas are to each other: `other.json` is a neighbour.
const BASE: &str = "keyloom-schemas:///";

/// Schemas by the names of the events that must fit them.
#[derive(Default)]
pub struct Schemas {
    validators: HashMap<String, Validator>,
    /// What says where an event does not fit.
    parts: HashMap<String, Parts>,
    /// What they were made from.
    sources: BTreeMap<String, Value>,
}

/// A schema that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadSchema {
    /// The event's name: the file's without `.json`.
    pub event: String,
    /// What is wrong with it.
    pub what: String,
}

impl Schemas {
    /// Compiles schemas, each for the events of its name; they may refer to each other as `NAME.json`. All that cannot be
    /// used are said together.
    pub fn compile(texts: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<Self, Vec<BadSchema>> {
        let (mut sources, mut bad) = (BTreeMap::new(), Vec::new());
        for (event, text) in texts {
            match parse(&text) {
                Ok(schema) => drop(sources.insert(event, schema)),
                Err(what) => bad.push(BadSchema { event, what }),
            }
        }
        if sources.len() > SCHEMAS_MAX {
            let event = sources.into_keys().next_back().unwrap_or_default();
            bad.push(BadSchema { event, what: format!("more than {SCHEMAS_MAX} schemas") });
            return Err(bad);
        }
        let whole = |what: String| BadSchema { event: String::new(), what };
        let neighbours = sources.iter().try_fold(Registry::new(), |registry, (event, schema)| {
            registry
                .add(address(event), schema.clone())
                .map_err(|error| BadSchema { event: event.clone(), what: error.to_string() })
        });
        let registry = neighbours.and_then(|registry| registry.prepare().map_err(|error| whole(error.to_string())));
        let registry = match registry {
            Ok(registry) => registry,
            // A reference that leads nowhere, most often; which of them, is found by compiling without neighbours.
            Err(error) => {
                bad.push(error);
                return Err(bad);
            }
        };
        let (mut validators, mut parts) = (HashMap::new(), HashMap::new());
        for (event, schema) in &sources {
            let options = jsonschema::options().with_base_uri(address(event)).with_registry(&registry).offline();
            let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX);
            let options = options.with_pattern_options(patterns);
            if schema.to_string().len() <= PARTS_BYTES_MAX
                && let Ok(validators) = options.build_map(schema)
            {
                parts.insert(event.clone(), Parts { schema: schema.clone(), validators });
            }
            match options.build(schema) {
                Ok(validator) => drop(validators.insert(event.clone(), validator)),
                Err(error) => bad.push(BadSchema { event: event.clone(), what: wrong_schema(&error) }),
            }
        }
        if bad.is_empty() { Ok(Self { validators, parts, sources }) } else { Err(bad) }
    }

    /// Which place of the event is wrong, and what is asked of it. Names of the event's are cut, its values are not said.
    fn explain(&self, event: &str, value: &Value) -> String {
        let (place, asked) = schema_place::explain(&self.parts, event, value);
        let place = if place.is_empty() { "the event" } else { &place };
        cut(&format!("{}: {asked}", cut(place, PLACE_BYTES_MAX)), TEXT_BYTES_MAX)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.validators.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.validators.is_empty()
    }
}

impl Gate for Schemas {
    fn check(&self, event: &str, json: &str) -> Result<(), String> {
        let Some(validator) = self.validators.get(event) else { return Ok(()) };
        if !depth::is_within(json, DEPTH_MAX) {
            return Err(format!("it is nested deeper than {DEPTH_MAX} levels"));
        }
        let value: Value = serde_json::from_str(json).map_err(|error| format!("it cannot be read: {error}"))?;
        // A panic here would end a partition for one event.
        let judged = catch_unwind(AssertUnwindSafe(|| {
            if validator.is_valid(&value) { Ok(()) } else { Err(self.explain(event, &value)) }
        }));
        judged.unwrap_or_else(|_| Err("the schema failed on it".to_owned()))
    }
}

impl fmt::Debug for Schemas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.sources.keys()).finish()
    }
}

impl PartialEq for Schemas {
    fn eq(&self, other: &Self) -> bool {
        self.sources == other.sources
    }
}

fn address(event: &str) -> String {
    let name: String = form_urlencoded::byte_serialize(event.as_bytes()).collect();
    format!("{BASE}{}.json", name.replace('+', "%20"))
}

fn parse(text: &[u8]) -> Result<Value, String> {
    if text.len() > SCHEMA_BYTES_MAX {
        return Err(format!("it has {} bytes; at most {SCHEMA_BYTES_MAX} are read", text.len()));
    }
    let schema: Value = serde_json::from_slice(text).map_err(|error| format!("not JSON: {error}"))?;
    match schema {
        Value::Object(_) | Value::Bool(_) => Ok(schema),
        _ => Err("not a JSON Schema: it is neither an object nor true or false".to_owned()),
    }
}

fn wrong_schema(error: &ValidationError<'_>) -> String {
    let place = error.instance_path().as_str();
    let place = if place.is_empty() { String::new() } else { format!("at {}: ", cut(place, PLACE_BYTES_MAX)) };
    cut(&format!("{place}{}", error.masked()), TEXT_BYTES_MAX)
}

/// `text`, or its beginning.
fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = (0..=bytes_max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}...", &text[..end])
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn compile(schemas: &[(&str, &str)]) -> Result<Schemas, Vec<BadSchema>> {
        let texts = schemas.iter().map(|(event, text)| ((*event).to_owned(), text.as_bytes().to_vec()));
        Schemas::compile(texts)
    }

    fn check(schema: &str, json: &str) -> Result<(), String> {
        compile(&[("e", schema)]).expect("a good schema").check("e", json)
    }

    const ORDER: &str = r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","required":["items"],
        "properties":{"items":{"type":"array","items":{"$ref":"item.json"},"minItems":1},
                      "coupon":{"type":"string","pattern":"^[A-Z]{3,8}$"}}}"#;
    const ITEM: &str = r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"object",
        "properties":{"price":{"type":"number","minimum":0},"sku":{"$ref":"order%20done.json#/properties/coupon"}},
        "required":["price"]}"#;

    #[test]
    fn events_of_a_name_with_a_schema_must_fit_it() {
        let schemas = compile(&[("order done", ORDER), ("item", ITEM)]).expect("good schemas");
        assert_eq!(schemas.len(), 2);
        assert_eq!(schemas.check("order done", r#"{"items":[{"price":1.5,"sku":"ABC"}],"coupon":"SAVE"}"#), Ok(()));
        assert_eq!(schemas.check("other", "nonsense"), Ok(()), "no schema, no look");
        for (json, place, asked) in [
            ("{}", "the event: ", "\"items\" is a required property"),
            (r#"{"items":[]}"#, "/items: ", "1 item"),
            (r#"{"items":[{"price":"1"}]}"#, "/items/0/price: ", "\"number\""),
            (r#"{"items":[{"price":1,"sku":"a"}]}"#, "/items/0/sku: ", "[A-Z]"),
            (r#"{"items":[{"price":1}],"coupon":"SECRET-VALUE"}"#, "/coupon: ", "[A-Z]"),
            (r#"{"items":[{"price":1,"sku":5}]}"#, "/items/0/sku: ", "\"string\""),
            (r#"{"items":[{"price":1e999}]}"#, "it cannot be read", "out of range"),
            (r#"{"items":"\ud800"}"#, "it cannot be read", "escape"),
        ] {
            let text = schemas.check("order done", json).expect_err(json);
            assert!(text.starts_with(place) && text.contains(asked) && !text.contains("SECRET"), "{json}: {text}");
        }
    }

    #[test]
    fn all_bad_schemas_are_named_together() {
        let bad = compile(&[
            ("a", "{"),
            ("b", "[]"),
            ("c", r#"{"type":"strange"}"#),
            ("d", r#"{"properties":{"x":{"pattern":"(a"}}}"#),
            ("e", r#"{"pattern":"(a)\\1"}"#),
            ("f", r#"{"minimum":"x"}"#),
            ("good", "true"),
            ("g", r#"{"pattern":"(((a{1,200}){1,200}){1,200}){1,200}"}"#),
        ]);
        let bad = bad.expect_err("seven are bad");
        let named: Vec<&str> = bad.iter().map(|bad| bad.event.as_str()).collect();
        assert_eq!(named, ["a", "b", "c", "d", "e", "f", "g"], "{bad:#?}");
        assert!(bad.iter().all(|bad| !bad.what.is_empty() && bad.what.len() < 300), "{bad:#?}");
    }

    #[test]
    fn nothing_is_fetched_and_no_file_is_read() {
        for reference in
            ["https://127.0.0.1:1/x.json", "file:///etc/passwd", "../secret.json", "missing.json", "/etc/passwd"]
        {
            let bad = compile(&[("e", &format!(r#"{{"$ref":"{reference}"}}"#))]).expect_err(reference);
            assert!(bad[0].what.len() < 300, "{bad:?}");
        }
        assert!(compile(&[("e", r#"{"$schema":"https://example.com/my-own-draft"}"#)]).is_err());
    }

    #[test]
    fn schemas_that_turn_in_circles_end() {
        for schema in [r##"{"$ref":"#"}"##, r##"{"allOf":[{"$ref":"#"}]}"##, r##"{"not":{"$ref":"#"}}"##] {
            if let Ok(schemas) = compile(&[("e", schema)]) {
                let _either_way = schemas.check("e", "{}");
            }
        }
        let a = r#"{"$ref":"b.json"}"#;
        if let Ok(schemas) = compile(&[("a", a), ("b", r#"{"$ref":"a.json"}"#)]) {
            let _either_way = schemas.check("a", "{}");
        }
    }

    #[test]
    fn nesting_and_patterns_cost_a_bounded_time() {
        let began = Instant::now();
        let branches = r##"{"anyOf":[{"type":"object","properties":{"c":{"$ref":"#"}},"required":["a"]},
            {"type":"object","properties":{"c":{"$ref":"#"}},"required":["b"]},{"type":"array","items":{"$ref":"#"}}]}"##;
        let nested = |n: usize| format!("{}{}{}", r#"{"c":"#.repeat(n), "1", "}".repeat(n));
        let text = check(branches, &nested(DEPTH_MAX)).expect_err("neither a nor b");
        assert_eq!(text, "the event: it does not fit anyOf");
        let below = r#"{"properties":{"d":{"type":"array","items":{"$ref":"branches.json"}}}}"#;
        let schemas = compile(&[("e", below), ("branches", branches)]).expect("good schemas");
        let text = schemas.check("e", &format!(r#"{{"d":[[],{}]}}"#, nested(DEPTH_MAX - 2))).expect_err("neither");
        assert_eq!(text, "/d/1: it does not fit anyOf");
        assert_eq!(check("true", &nested(DEPTH_MAX)), Ok(()));
        let deep = check("true", &nested(DEPTH_MAX + 1)).expect_err("too deep");
        assert!(deep.contains("32 levels"), "{deep}");
        assert!(check("true", &"[".repeat(200_000)).is_err());
        let evil = r#"{"pattern":"^(a+)+$"}"#;
        assert!(
            check(&format!(r#"{{"properties":{{"x":{evil}}}}}"#), &format!(r#"{{"x":"{}!"}}"#, "a".repeat(200_000)))
                .is_err()
        );
        let items: Vec<String> = (0..40_000).map(|n| format!(r#"{{"n":{n}}}"#)).collect();
        let unique = r#"{"properties":{"x":{"uniqueItems":true}}}"#;
        assert_eq!(check(unique, &format!(r#"{{"x":[{}]}}"#, items.join(","))), Ok(()));
        // An unoptimised program on a busy machine; what is exponential takes years.
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    }

    #[test]
    fn what_is_said_is_short() {
        let closed = r#"{"additionalProperties":false}"#;
        let text = check(closed, &format!(r#"{{"{}":1}}"#, "ü".repeat(5_000))).expect_err("not allowed");
        assert!(text.len() <= TEXT_BYTES_MAX + 3, "{text}");
        let inside = format!(r#"{{"additionalProperties":{closed}}}"#);
        let text = check(&inside, &format!(r#"{{"{}":{{"x":1}}}}"#, "ü".repeat(5_000))).expect_err("not allowed");
        assert!(text.len() <= TEXT_BYTES_MAX + 3 && text.contains("..."), "{text}");
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_gate(text in "\\PC{0,80}", schema in json()) {
            if let Ok(schemas) = compile(&[("e", &schema.to_string())]) {
                let _either_way = schemas.check("e", &text);
            }
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            "[\\\\\"{\\[ü]{0,4}".prop_map(Value::from)
        ];
        leaf.prop_recursive(5, 30, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a\"\\\\}]{0,3}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }
}
