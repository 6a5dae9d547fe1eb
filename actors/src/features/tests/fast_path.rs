//! Predicates without the interpreter mean the same as with it, on any event.

use proptest::prelude::*;

use super::{
    super::{expression::Predicate, syntax, typing::Names},
    *,
};

fn path() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["event", "plan", "n", "flag", "o.a", "o.b.c", "nothing"])
}

fn literal() -> impl Strategy<Value = String> {
    let words = vec![
        "'x'", "'y'", "''", "'ä'", "'a\"b'", "0", "1", "-1", "2.5", "1e3", "3u", "true", "false", "null", "'1'", "'xy'",
    ];
    prop::sample::select(words).prop_map(str::to_owned)
}

fn test() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        6 => (path(), prop::sample::select(vec!["==", "!="]), literal()).prop_map(|(p, o, l)| format!("{p} {o} {l}")),
        2 => (literal(), prop::sample::select(vec!["==", "!="]), path()).prop_map(|(l, o, p)| format!("{l} {o} {p}")),
        3 => (path(), prop::sample::select(vec!["<", "<=", ">", ">="]), literal()).prop_map(|(p, o, l)| format!("{p} {o} {l}")),
        2 => (path(), prop::collection::vec(literal(), 0..4)).prop_map(|(p, l)| format!("{p} in [{}]", l.join(", "))),
        1 => path().prop_map(str::to_owned),
        1 => prop::sample::select(vec!["has(o.a)", "has(o.b.c)", "has(plan.x)", "has(nothing.x)", "true", "false"]).prop_map(str::to_owned),
        2 => (path(), prop::sample::select(vec!["contains", "startsWith", "endsWith"]), prop::sample::select(vec!["x", "", "ä"]))
            .prop_map(|(p, f, t)| format!("{p}.{f}('{t}')")),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) && ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) || ({b})")),
            inner.clone().prop_map(|a| format!("!({a})")),
            (inner.clone(), inner.clone(), inner).prop_map(|(c, a, b)| format!("({c}) ? ({a}) : ({b})")),
        ]
    })
}

fn value() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        r#""x""#,
        r#""y""#,
        r#""""#,
        r#""ä""#,
        r#""\u0078""#,
        r#""\u00e4""#,
        r#""a\"b""#,
        r#""xy""#,
        "0",
        "-0",
        "1",
        "1.0",
        "-1",
        "2.5",
        "25e-1",
        "1000",
        "3",
        "1e999",
        "true",
        "false",
        "null",
        "[]",
        "{}",
        r#"{"a":1}"#,
        r#"{"a":"x","b":{"c":2.5}}"#,
        r#"{"b":{"c":null}}"#,
        r#"{"b":[1]}"#,
    ])
}

fn event() -> impl Strategy<Value = String> {
    let names = ["event", "plan", "n", "flag", "o"];
    prop::collection::vec(prop::option::weighted(0.8, value()), names.len()).prop_map(move |values| {
        let fields = names.iter().zip(values).filter_map(|(name, value)| Some(format!("\"{name}\":{}", value?)));
        fields.collect::<Vec<_>>().join(",")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_fast_path_is_cel(text in test(), events in prop::collection::vec(event(), 1..20)) {
        let parsed = syntax::parse(&text).expect("generated expressions parse");
        let Some(test) = super::super::predicate::Test::of(&parsed.expr) else {
            // A truth value beside `<` is left to the interpreter, and nothing else that is generated here.
            prop_assert!(text.contains("true") || text.contains("false") || text.contains("null"), "{}", text);
            return Ok(());
        };
        let (fast, slow) = (Predicate::Test(test), Predicate::interpreted(&text).expect("it parses"));
        let events: Vec<_> = events.into_iter().map(|rest| (DAY_BEGIN, rest)).collect();
        for event in decode(&events).iter() {
            prop_assert_eq!(fast.holds(event), slow.holds(event), "{} on {}", text, &event.event().text);
        }
    }

    #[test]
    fn any_text_compiles_or_is_refused(text in "\\PC{0,40}", code in "[a-z0-9 .()\\[\\]'\"!&|?:<>=+*/%{},-]{0,40}") {
        for text in [text, code] {
            if let Err(wrong) = Predicate::compile(&text, &Names::Fields(None)) {
                prop_assert!(!wrong.text.is_empty());
                prop_assert!(wrong.at.is_none_or(|at| at.start <= at.end && at.end <= text.len() && text.is_char_boundary(at.start)), "{}", text);
            }
        }
    }
}
