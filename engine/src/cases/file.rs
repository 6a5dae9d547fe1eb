//! How cases are written.

use std::{collections::BTreeMap, time::Duration};

use keyloom_actors::timestamp::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::topology::parse_duration;

/// Cases of one file, at most.
const CASES_MAX: usize = 10_000;

/// A file of cases.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    case: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    /// The clock's first time.
    at: Option<String>,
    #[serde(default)]
    step: Vec<WrittenStep>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStep {
    event: Option<toml::Table>,
    rejected: Option<String>,
    #[serde(default)]
    duplicate: bool,
    advance: Option<String>,
    expect: Option<WrittenExpectation>,
    answer: Option<WrittenAnswer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenAnswer {
    key: String,
    name: String,
    value: Option<toml::Value>,
    failure: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenExpectation {
    key: Option<String>,
    #[serde(default)]
    features: toml::Table,
    #[serde(default)]
    rows: BTreeMap<String, Vec<toml::Table>>,
    timers: Option<Vec<String>>,
}

/// One case.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// The clock's first time; none: as [`keyloom_actors::handler::testing::HandlerTest`] has it.
    pub at: Option<Timestamp>,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// What happens.
#[derive(Debug, Clone)]
pub enum Step {
    /// An event comes, and ends like this.
    Event(Value, Ends),
    /// Time passes.
    Advance(Duration),
    /// A question of a key is answered.
    Answer {
        /// The key.
        key: String,
        /// Name of the look-up.
        name: String,
        /// The answer, or why there is none.
        result: Result<Value, String>,
    },
    /// Something must be as it is said.
    Expect(Expectation),
}

/// How an event must end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ends {
    /// It changes the state.
    Applied,
    /// It is a repeat.
    Duplicate,
    /// It is rejected, with a reason that contains this.
    Rejected(String),
}

/// What must be.
#[derive(Debug, Clone, Default)]
pub struct Expectation {
    /// Of which key; needed for features and timers.
    pub key: Option<String>,
    /// Features that must have these values; others are not looked at.
    pub features: BTreeMap<String, Value>,
    /// Rows that must have been emitted since the last look at that table, in order; of each the fields that are named.
    pub rows: BTreeMap<String, Vec<Value>>,
    /// Names of the timers that must be set.
    pub timers: Option<Vec<String>>,
}

/// A file of cases makes no sense; the text says where and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CaseError(pub String);

/// Reads a file of cases.
pub fn read(text: &str) -> Result<Vec<Case>, CaseError> {
    let file: File = toml::from_str(text).map_err(|error| CaseError(error.to_string()))?;
    if file.case.is_empty() {
        return Err(CaseError("it has no [[case]]".to_owned()));
    }
    if file.case.len() > CASES_MAX {
        return Err(CaseError(format!("it has more than {CASES_MAX} cases; split it")));
    }
    file.case.into_iter().map(case).collect()
}

fn case(written: Written) -> Result<Case, CaseError> {
    let Written { name, at, step } = written;
    let wrong = |what: String| CaseError(format!("case {name:?}: {what}"));
    let at =
        at.map(|at| Timestamp::parse(&at).ok_or_else(|| wrong(format!("at is {at:?}, not a time")))).transpose()?;
    let steps = step
        .into_iter()
        .enumerate()
        .map(|(i, written)| self::step(written).map_err(|what| wrong(format!("step {}: {what}", i + 1))));
    let steps = steps.collect::<Result<Vec<_>, _>>()?;
    Ok(Case { name, at, steps })
}

fn step(written: WrittenStep) -> Result<Step, String> {
    let WrittenStep { event, rejected, duplicate, advance, expect, answer } = written;
    let is_event = event.is_some();
    let mut found = Vec::new();
    if let Some(event) = event {
        let ends = match (rejected, duplicate) {
            (None, false) => Ends::Applied,
            (None, true) => Ends::Duplicate,
            (Some(reason), false) => Ends::Rejected(reason),
            (Some(_), true) => return Err("an event is rejected or a duplicate, not both".to_owned()),
        };
        found.push(Step::Event(json(toml::Value::Table(event))?, ends));
    } else if rejected.is_some() || duplicate {
        return Err("`rejected` and `duplicate` say how an `event` ends; there is none".to_owned());
    }
    if let Some(advance) = advance {
        let by = parse_duration(&advance);
        found.push(Step::Advance(by.ok_or_else(|| format!("advance is {advance:?}, not a duration such as \"5m\""))?));
    }
    if let Some(WrittenAnswer { key, name, value, failure }) = answer {
        let result = match (value, failure) {
            (Some(value), None) => Ok(json(value)?),
            (None, Some(failure)) => Err(failure),
            _ => return Err("an answer has a `value` or a `failure`".to_owned()),
        };
        found.push(Step::Answer { key, name, result });
    }
    if let Some(expect) = expect {
        found.push(Step::Expect(expectation(expect)?));
    }
    match (found.len(), found.pop()) {
        (1, Some(step)) => Ok(step),
        (0, _) if !is_event => Err("it says nothing; expected `event`, `advance`, `answer` or `expect`".to_owned()),
        _ => Err("one step does one thing: `event`, `advance`, `answer` or `expect`".to_owned()),
    }
}

fn expectation(written: WrittenExpectation) -> Result<Expectation, String> {
    let WrittenExpectation { key, features, rows, timers } = written;
    if key.is_none() && (!features.is_empty() || timers.is_some()) {
        return Err("features and timers are a key's: say `key`".to_owned());
    }
    let features = features.into_iter().map(|(name, value)| Ok((name, json(value)?))).collect::<Result<_, String>>()?;
    let table = |rows: Vec<toml::Table>| -> Result<Vec<Value>, String> {
        rows.into_iter().map(|row| json(toml::Value::Table(row))).collect()
    };
    let rows = rows.into_iter().map(|(name, rows)| Ok((name, table(rows)?))).collect::<Result<_, String>>()?;
    Ok(Expectation { key, features, rows, timers })
}

/// What JSON has for a value of TOML; times become texts. TOML has no null: the text `"null"` in braces does, `{ null = true }`.
fn json(value: toml::Value) -> Result<Value, String> {
    Ok(match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(is) => Value::Bool(is),
        toml::Value::Datetime(time) => Value::String(time.to_string()),
        toml::Value::Array(values) => Value::Array(values.into_iter().map(json).collect::<Result<_, _>>()?),
        toml::Value::Table(table) if table.len() == 1 && table.get("null") == Some(&toml::Value::Boolean(true)) => {
            Value::Null
        }
        toml::Value::Table(table) => {
            let member = |(name, value)| Ok((name, json(value)?));
            Value::Object(table.into_iter().map(member).collect::<Result<_, String>>()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_read_in_order() {
        let text = r#"
            [[case]]
            name = "one"
            at = "2026-03-01T00:00:00Z"
            step = [
              { event = { user = "u", n = 1, list = [1.5, true], none = { null = true } } },
              { event = { user = "u" }, rejected = "no n" },
              { advance = "5m" },
              { answer = { key = "u", name = "price", failure = "down" } },
              { expect = { key = "u", features = { count = 1 }, rows = { t = [{ a = 1 }] }, timers = [] } },
            ]"#;
        let cases = read(text).expect("a file");
        let [case] = &cases[..] else { panic!("one case") };
        assert_eq!(case.at.map(|at| at.to_rfc3339()).as_deref(), Some("2026-03-01T00:00:00.000000Z"));
        let event = serde_json::json!({"user": "u", "n": 1, "list": [1.5, true], "none": null});
        assert!(matches!(&case.steps[0], Step::Event(e, Ends::Applied) if *e == event));
        assert!(matches!(&case.steps[1], Step::Event(_, Ends::Rejected(reason)) if reason == "no n"));
        assert!(matches!(&case.steps[2], Step::Advance(by) if by.as_secs() == 300));
        assert!(matches!(&case.steps[3], Step::Answer { result: Err(why), .. } if why == "down"));
        assert!(
            matches!(&case.steps[4], Step::Expect(e) if e.timers.as_deref() == Some(&[]) && e.rows["t"].len() == 1)
        );
    }

    #[test]
    fn what_makes_no_sense_says_where() {
        let wrong = |steps: &str| read(&format!("[[case]]\nname = \"c\"\nstep = [{steps}]")).expect_err(steps).0;
        assert!(read("").expect_err("empty").0.contains("no [[case]]"));
        for (steps, part) in [
            ("{}", "step 1: it says nothing"),
            ("{ advance = \"5m\", event = {} }", "step 1: one step does one thing"),
            ("{ advance = \"soon\" }", "step 1: advance is"),
            ("{ rejected = \"x\" }", "there is none"),
            ("{ expect = { features = { a = 1 } } }", "say `key`"),
            ("{ answer = { key = \"k\", name = \"n\" } }", "`value` or a `failure`"),
            ("{ evnt = {} }", "evnt"),
        ] {
            assert!(wrong(steps).contains(part), "{steps}: {}", wrong(steps));
        }
    }
}
