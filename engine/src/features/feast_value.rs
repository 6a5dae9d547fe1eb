//! Values as the client of Feast 0.67 can read them. It guesses the type of each value by itself, and where it cannot, it fails the
//! whole question: on an empty list, on whole numbers beside others in one list, on lists of lists.
//!
//! Pure.

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::value::RawValue;

/// Levels of lists and objects that are looked into; what lies deeper goes as text.
const DEPTH_MAX: usize = 16;

/// The JSON text of a value in a form that the client reads: `null` for an empty list or object, decimal places for whole numbers
/// among others and for those beyond 64 bits. What Feast has no type for becomes a text that holds the JSON.
pub fn readable(value: &[u8]) -> Cow<'_, [u8]> {
    let Ok(text) = std::str::from_utf8(value) else { return Cow::Borrowed(b"null") };
    match form(text, 0) {
        Some(Cow::Borrowed(_)) => Cow::Borrowed(value),
        Some(Cow::Owned(text)) => Cow::Owned(text.into_bytes()),
        None => Cow::Owned(as_text(text).into_bytes()),
    }
}

/// `None`: Feast has no type for it.
fn form(value: &str, depth: usize) -> Option<Cow<'_, str>> {
    match value.as_bytes().first() {
        Some(b'[' | b'{') if depth == DEPTH_MAX => None,
        Some(b'[') => list(value, depth),
        Some(b'{') => object(value, depth),
        Some(b'-' | b'0'..=b'9') => Some(number(value, false)),
        _ => Some(Cow::Borrowed(value)),
    }
}

fn number(value: &str, has_places: bool) -> Cow<'_, str> {
    let is_whole = !value.contains(['.', 'e', 'E']);
    if is_whole && (has_places || value.parse::<i64>().is_err()) {
        Cow::Owned(format!("{value}.0"))
    } else {
        Cow::Borrowed(value)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Flag,
    Whole,
    Decimal,
    Object,
}

fn kind(value: &str) -> Option<Kind> {
    Some(match value.as_bytes().first()? {
        b'"' => Kind::Text,
        b't' | b'f' => Kind::Flag,
        b'{' => Kind::Object,
        b'-' | b'0'..=b'9' if number(value, false).contains(['.', 'e', 'E']) => Kind::Decimal,
        b'-' | b'0'..=b'9' => Kind::Whole,
        _ => return None,
    })
}

fn list(value: &str, depth: usize) -> Option<Cow<'_, str>> {
    let elements: Vec<&RawValue> = serde_json::from_str(value).ok()?;
    let kinds: Vec<Kind> = elements.iter().map(|element| kind(element.get())).collect::<Option<_>>()?;
    let Some(first) = kinds.first().copied() else { return Some(Cow::Owned("null".to_owned())) };
    let is_number = |kind: &Kind| matches!(kind, Kind::Whole | Kind::Decimal);
    let has_places = kinds.contains(&Kind::Decimal) && kinds.iter().all(is_number);
    if !has_places && kinds.iter().any(|kind| *kind != first) {
        return None;
    }
    if !has_places && first != Kind::Object {
        return Some(Cow::Borrowed(value));
    }
    let mut out = String::with_capacity(value.len() + elements.len() * 2);
    for element in elements {
        out.push(if out.is_empty() { '[' } else { ',' });
        match element.get() {
            element if has_places => out.push_str(&number(element, true)),
            element => out.push_str(&form(element, depth + 1)?),
        }
    }
    out.push(']');
    Some(Cow::Owned(out))
}

fn object(value: &str, depth: usize) -> Option<Cow<'_, str>> {
    let members: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(value).ok()?;
    if members.is_empty() && depth == 0 {
        return Some(Cow::Owned("null".to_owned()));
    }
    let mut out = String::with_capacity(value.len() + members.len());
    out.push('{');
    for (name, member) in members {
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(&as_text(&name));
        out.push(':');
        let member = member.get();
        out.push_str(&form(member, depth + 1).unwrap_or_else(|| Cow::Owned(as_text(member))));
    }
    out.push('}');
    Some(Cow::Owned(out))
}

fn as_text(json: &str) -> String {
    serde_json::Value::from(json).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(value: &str) -> String {
        String::from_utf8(readable(value.as_bytes()).into_owned()).expect("text")
    }

    /// Each of these was tried with the client itself.
    #[test]
    fn what_the_client_cannot_read_is_put_differently() {
        for same in
            ["null", "1", "-1.5", "true", "\"x\"", "[\"a\"]", "[1,2]", "[1.5,2.5]", "[true,false]", "[{\"a\":1}]"]
        {
            assert!(matches!(readable(same.as_bytes()), Cow::Borrowed(_)) || read(same) == same, "{same}");
        }
        for (value, wanted) in [
            ("[]", "null"),
            ("{}", "null"),
            ("[1, 2.5]", "[1.0,2.5]"),
            ("[1e3,2]", "[1e3,2.0]"),
            ("18446744073709551616", "18446744073709551616.0"),
            ("[1,18446744073709551616]", "[1.0,18446744073709551616.0]"),
            ("[[1],[2]]", "\"[[1],[2]]\""),
            ("[null]", "\"[null]\""),
            ("[\"a\",1]", "\"[\\\"a\\\",1]\""),
            ("[1,true]", "\"[1,true]\""),
            ("[{\"a\":1},null]", "\"[{\\\"a\\\":1},null]\""),
            ("{\"a\":{},\"b\":null}", "{\"a\":{},\"b\":null}"),
            ("{\"a\":[],\"b\":[1,2.5],\"c\":[[1]]}", "{\"a\":null,\"b\":[1.0,2.5],\"c\":\"[[1]]\"}"),
            ("[{\"a\":[]},{\"b\":18446744073709551616}]", "[{\"a\":null},{\"b\":18446744073709551616.0}]"),
        ] {
            assert_eq!(read(value), wanted, "{value}");
        }
        let deep = format!("{}1{}", "{\"a\":".repeat(40), "}".repeat(40));
        assert!(serde_json::from_str::<serde_json::Value>(&read(&deep)).is_ok_and(|value| value.is_object()));
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            (-1e9..1e9f64).prop_map(Into::into),
            "\\PC{0,4}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                proptest::collection::btree_map("[a-c\"]", inner, 0..4)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// What the client demands, in the words of its own checks.
    fn can_be_read(value: &serde_json::Value, is_top: bool) -> bool {
        use serde_json::Value::{Array, Bool, Null, Number, Object, String};
        match value {
            Null | Bool(_) | String(_) => true,
            Number(number) => number.is_i64() || number.is_f64(),
            Object(members) => !(is_top && members.is_empty()) && members.values().all(|m| can_be_read(m, false)),
            Array(elements) => {
                let one = |fits: &dyn Fn(&serde_json::Value) -> bool| elements.iter().all(fits);
                let is_one = one(&|e| e.is_string())
                    || one(&|e| e.is_boolean())
                    || one(&|e| e.is_i64())
                    || one(&|e| e.is_f64())
                    || one(&|e| e.is_object());
                !elements.is_empty() && is_one && elements.iter().all(|e| can_be_read(e, false))
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_a_feature_holds_can_be_read(value in any_json()) {
            let read = read(&value.to_string());
            let read: serde_json::Value = serde_json::from_str(&read).expect("JSON");
            prop_assert!(can_be_read(&read, true), "{value} became {read}");
        }
    }
}
