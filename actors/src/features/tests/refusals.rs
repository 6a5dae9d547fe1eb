//! What definitions are refused for, and where that is said.

use std::collections::BTreeMap;

use super::*;

fn problems(definitions: Vec<(&str, Definition)>, settings: Settings) -> Vec<DefinitionProblem> {
    let definitions = definitions.into_iter().map(|(name, d)| (name.to_owned(), d)).collect();
    FeatureSet::compile(definitions, settings).err().unwrap_or_default()
}

fn one(name: &str, definition: Definition) -> (&'static str, String, Option<std::ops::Range<usize>>) {
    let mut found = problems(vec![(name, definition)], Settings::default());
    assert_eq!(found.len(), 1, "{found:?}");
    let problem = found.remove(0);
    assert!(!problem.help.is_empty() && problem.feature == name);
    (problem.field, problem.text, problem.at)
}

#[test]
fn mistakes_are_found_where_they_are() {
    let filter = |text: &str| one("f", define("count", "", text, None));
    assert_eq!(filter("event = 'x'").0, "where");
    assert_eq!(filter("event == 'x").0, "where");
    let (field, text, at) = filter("event == 'x' && plan.lower() == 'y'");
    assert_eq!((field, text.as_str()), ("where", "there is no function lower"));
    assert_eq!(at.map(|at| at.start), Some(16));
    let (_, text, at) = filter("plan == 'pro' && page_url == 3");
    assert_eq!(
        (text.as_str(), at.map(|at| at.start)),
        ("compares a text with a number: they are never equal", Some(17))
    );
    assert_eq!(filter("page_url").1, "is a text, and a predicate is true or false");
    assert_eq!(filter("price + 1").1, "is a number, and a predicate is true or false");
    assert_eq!(filter("page_url > 3").1, "compares a text with a number: they have no order");
    assert_eq!(filter("page_url.path == 'x'").1, "page_url is a text: it has no member path");
    assert_eq!(filter("page_url.matches('(a+)+$')").1, "there is no function matches");
    assert_eq!(filter("a.all(x, b.all(y, x == y))").1, "a macro over a list stands inside of another");
    assert_eq!(filter(&"!".repeat(600).replace('!', "!(")).0, "where");
    // Each costs the parser stack: more than a thread has.
    for unit in ["(", "[", "{a = ", "{ a: ", "x[", "f(", "a ? b : ", "!(", "- !("] {
        assert_eq!(filter(&unit.repeat(EXPRESSION_BYTES_MAX / unit.len())).0, "where", "{unit}");
        assert_eq!(filter(&unit.repeat(47)).0, "where", "{unit}");
    }
    assert_eq!(filter(&format!("a == '{}'", "x".repeat(EXPRESSION_BYTES_MAX))).1, "is too long");
    assert_eq!(filter(" ").1, "is empty");
    let of = |function: &str, text: &str| one("f", define(function, text, "", None));
    assert_eq!(of("sum", "page_url").1, "is a text, and sum needs numbers");
    assert_eq!(of("avg", "'x'").1, "is a text, and avg needs numbers");
    assert_eq!(of("sum", "price > 3").1, "is true or false, and sum needs numbers");
    assert_eq!(of("last", "[1, 2]").1, "is a list, and last needs single values");
    assert_eq!(of("time_since_last", "price"), ("of", "has no meaning for time_since_last".to_owned(), None));
    assert_eq!(one("f", define("sum", "", "", None)).0, "function");
}

#[test]
fn keys_out_of_place_or_range_are_refused() {
    let base = || define("count", "", "", None);
    for (key, definition) in [
        ("k", Definition { k: Some(3), ..base() }),
        ("max", Definition { max: Some(3), ..base() }),
        ("precision", Definition { precision: Some(3), ..base() }),
        ("half_life", Definition { half_life: Some(Duration::from_secs(3)), ..base() }),
        ("scale", Definition { scale: Some(3), ..base() }),
        ("window", define("time_since_last", "", "", sliding(60))),
        ("where", define("session_pages", "", "event == 'x'", None)),
        ("ttl", Definition { ttl: Some(Duration::from_secs(60)), ..define("session_pages", "", "", None) }),
        ("k", Definition { k: Some(0), ..define("last_k", "a", "", None) }),
        ("k", Definition { k: Some(K_MAX + 1), ..define("last_k", "a", "", None) }),
        ("max", Definition { max: Some(DISTINCT_SLIDING_MAX + 1), ..define("distinct", "a", "", sliding(60)) }),
        ("max", Definition { k: Some(10), max: Some(9), ..define("top_k", "a", "", None) }),
        ("precision", Definition { precision: Some(3), ..define("approx_distinct", "a", "", None) }),
        ("precision", Definition { precision: Some(13), ..define("approx_distinct", "a", "", sliding(60)) }),
        ("scale", Definition { scale: Some(13), ..define("sum", "a", "", None) }),
        ("window", define("count", "", "", sliding(0))),
        ("ttl", Definition { ttl: Some(Duration::ZERO), ..base() }),
        ("half_life", Definition { half_life: Some(Duration::ZERO), ..define("exp_decay", "", "", None) }),
        ("function", define("exp_decay", "", "", None)),
    ] {
        assert_eq!(one("f", definition).0, key);
    }
    for name in ["", "Pv", "1a", "a-b", "late_events"] {
        assert_eq!(one(name, base()).0, "name", "{name}");
    }
}

#[test]
fn features_of_features_are_checked_together() {
    let derived = |text: &str| define("derived", text, "", None);
    let found = problems(
        vec![
            ("a", derived("b + 1")),
            ("b", derived("c + 1")),
            ("c", derived("a + 1")),
            ("d", derived("nothing + 1")),
            ("e", define("ratio", "n / n / n", "", None)),
            ("f", derived("f + 1")),
            ("g", derived("title + 1")),
            ("n", define("count", "", "", None)),
            ("title", define("last", "page_url", "", None)),
        ],
        Settings::default(),
    );
    let mut told: Vec<_> = found.iter().map(|p| (p.feature.as_str(), p.field, p.text.as_str())).collect();
    told.sort();
    let circle = |needs| format!("needs {needs}, which needs this feature, or too many others in a row");
    assert_eq!(
        told,
        [
            ("a", "of", circle("b").as_str()),
            ("b", "of", circle("c").as_str()),
            ("c", "of", circle("a").as_str()),
            ("d", "of", "there is no feature nothing"),
            ("e", "of", "is no ratio of two features"),
            ("f", "of", "there is no feature f"),
            ("g", "of", "adds a text and a number"),
        ]
    );
    let many = |n: usize| (0..n).map(|i| (format!("f{i}"), define("count", "", "", None))).collect::<Vec<_>>();
    assert!(FeatureSet::compile(many(FEATURES_MAX), Settings::default()).is_ok());
    let found = FeatureSet::compile(many(FEATURES_MAX + 1), Settings::default()).err().unwrap_or_default();
    assert_eq!(found.len(), 1);
}

#[test]
fn names_of_declared_fields_are_checked() {
    let fields: BTreeMap<_, _> = [("price".to_owned(), FieldType::Number), ("plan".to_owned(), FieldType::Text)].into();
    let settings = || Settings { fields: Some(fields.clone()), ..Settings::default() };
    let found = problems(vec![("f", define("sum", "prize", "plan == 'x'", None))], settings());
    assert_eq!((found[0].field, found[0].text.as_str()), ("of", "there is no field prize"));
    assert!(found[0].help.starts_with("did you mean price?"), "{}", found[0].help);
    let found = problems(vec![("f", define("sum", "plan", "page_url == 'x'", None))], settings());
    assert_eq!((found.len(), found[0].text.as_str()), (1, "is a text, and sum needs numbers"));
}
