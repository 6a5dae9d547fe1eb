//! Plays one case.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use keyloom_actors::{
    event::KeyPaths,
    handler::{
        LogicFactory,
        testing::{Ended, HandlerTest},
    },
};
use serde_json::Value;

use super::file::{Case, Ends, Expectation, Step};

/// Where a case went wrong, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which of its steps, from 1; 0 before the first.
    pub step: usize,
    /// In words.
    pub text: String,
}

/// Plays `case` on a handler and its declared features; everything that is wrong in the first step that goes wrong.
pub fn play(case: &Case, factory: &Arc<dyn LogicFactory>, keys: &KeyPaths) -> Result<(), Failure> {
    let mut test = HandlerTest::new(Arc::clone(factory), keys.clone());
    // What the trial itself finds (a state that is not read back as it was) it says by a panic, as for a unit test.
    let mut guarded = |step: usize, work: &mut dyn FnMut(&mut HandlerTest) -> Result<(), String>| {
        let done = catch_unwind(AssertUnwindSafe(|| work(&mut test)));
        let done = done.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned())).unwrap_or_default())
        });
        done.map_err(|text| Failure { step, text })
    };
    if let Some(at) = case.at {
        guarded(0, &mut |test| {
            if at < test.now() {
                return Err(format!("`at` is before {}", test.now()));
            }
            test.advance_to(at);
            Ok(())
        })?;
    }
    for (i, step) in case.steps.iter().enumerate() {
        guarded(i + 1, &mut |test| play_step(step, test))?;
    }
    Ok(())
}

fn play_step(step: &Step, test: &mut HandlerTest) -> Result<(), String> {
    match step {
        Step::Event(event, ends) => ended(test.event(event.clone()), ends),
        Step::Answer { key, name, result } => {
            let result = match result {
                Ok(value) => Ok(value.clone()),
                Err(why) => Err(why.as_str()),
            };
            ended(test.answer(key, name, result), &Ends::Applied)
        }
        Step::Advance(by) => {
            test.advance(*by);
            Ok(())
        }
        Step::Expect(expectation) => expect(expectation, test),
    }
}

fn ended(is: Ended, expected: &Ends) -> Result<(), String> {
    match (&is, expected) {
        (Ended::Applied, Ends::Applied) | (Ended::Duplicate, Ends::Duplicate) => Ok(()),
        (Ended::Rejected(reason), Ends::Rejected(part)) if reason.contains(part.as_str()) => Ok(()),
        _ => Err(format!("the event ended as {is:?}, expected {expected:?}")),
    }
}

fn expect(expected: &Expectation, test: &mut HandlerTest) -> Result<(), String> {
    let mut wrong = Vec::new();
    let key = expected.key.as_deref().unwrap_or_default();
    let features = test.features(key);
    for (name, value) in &expected.features {
        match features.get(name) {
            Some(is) if same(is, value) => {}
            Some(is) => wrong.push(format!("feature {name} of {key} is {is}, expected {value}")),
            None => wrong.push(format!("{key} has no feature {name}, expected {value}")),
        }
    }
    if let Some(names) = &expected.timers {
        let (mut is, mut names): (Vec<String>, _) = (test.timers(key).into_keys().collect(), names.clone());
        is.sort();
        names.sort();
        if is != names {
            wrong.push(format!("timers of {key} are {is:?}, expected {names:?}"));
        }
    }
    for (table, rows) in &expected.rows {
        let is = test.rows_as_json(table);
        if is.len() != rows.len() || !is.iter().zip(rows).all(|(is, row)| contains(is, row)) {
            let text = |rows: &[Value]| rows.iter().map(Value::to_string).collect::<Vec<_>>().join("\n    ");
            wrong.push(format!("rows of {table} are\n    {}\n  expected\n    {}", text(&is), text(rows)));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n  ")) }
}

/// Whether the fields that `row` names are so.
fn contains(is: &Value, row: &Value) -> bool {
    match row.as_object() {
        Some(fields) => fields.iter().all(|(name, value)| is.get(name).is_some_and(|is| same(is, value))),
        None => same(is, row),
    }
}

/// Numbers are equal when their values are: TOML writes `1.0` where JSON has `1`.
fn same(is: &Value, expected: &Value) -> bool {
    match (is, expected) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        _ => is == expected,
    }
}

#[cfg(test)]
mod tests {
    use keyloom_actors::handler::{Registry, session_features::SessionFeatures};

    use super::*;

    fn outcome(steps: &str) -> Result<(), Failure> {
        let mut registry = Registry::default();
        registry.add::<SessionFeatures>("session-features");
        let factory = registry.build("session-features", serde_json::json!({}), Arc::default()).expect("a handler");
        let cases = super::super::read(&format!("[[case]]\nname = \"c\"\nstep = [{steps}]")).expect("a case");
        play(&cases[0], &factory, &KeyPaths::new(["domain_userid"]))
    }

    #[test]
    fn a_case_holds_or_says_what_does_not() {
        let event = r#"{ event = { domain_userid = "u", event = "page_view", event_id = "1" } }"#;
        assert_eq!(
            outcome(&format!(r#"{event}, {{ expect = {{ key = "u", features = {{ event_count = 1.0 }} }} }}"#)),
            Ok(())
        );
        let failure = outcome(&format!(
            r#"{event}, {{ expect = {{ key = "u", features = {{ event_count = 2, nothing = 1 }} }} }}"#
        ));
        let failure = failure.expect_err("two features are wrong");
        assert_eq!(failure.step, 2);
        assert!(
            failure.text.contains("event_count of u is 1, expected 2") && failure.text.contains("no feature nothing")
        );
        let again = event.replace(" } }", " }, duplicate = true }");
        assert_eq!(outcome(&format!("{event}, {again}")), Ok(()));
        let failure = outcome(&format!("{event}, {event}")).expect_err("it is a repeat");
        assert!(failure.text.contains("Duplicate"), "{}", failure.text);
        assert!(outcome("{ event = { event = \"nobody's\" } }").expect_err("no key").text.contains("no_key"));
    }
}
