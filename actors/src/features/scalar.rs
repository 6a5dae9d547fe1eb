//! Single values of events in one canonical form, so that equal values have equal bytes.
//!
//! Pure. A text, a number or a truth value as JSON text. Objects, arrays and `null` are no values here.

use std::borrow::Cow;

use compact_str::CompactString;

use crate::event::fields::{Kind, Value};

/// Longest text that is remembered, in bytes; longer ones are cut at a character, and equal beginnings are equal then.
pub const TEXT_BYTES_MAX: usize = 1_024;

/// Canonical JSON text of a value that is remembered.
pub(super) type Scalar = CompactString;

/// The canonical form of `value`; `None` for what is no single value.
pub(super) fn canonical<'a>(value: &Value<'a>) -> Option<Cow<'a, str>> {
    match value.kind {
        Kind::Bool => Some(Cow::Borrowed(value.raw)),
        Kind::Number => number(value.raw),
        Kind::String => Some(string(value)),
        Kind::Null | Kind::Array | Kind::Object => None,
    }
}

fn string<'a>(value: &Value<'a>) -> Cow<'a, str> {
    let plain = value.raw.len() <= TEXT_BYTES_MAX + 2 && memchr::memchr(b'\\', value.raw.as_bytes()).is_none();
    if plain {
        return Cow::Borrowed(value.raw);
    }
    let text = value.as_str().unwrap_or_default();
    Cow::Owned(quoted(&text[..text.floor_char_boundary(TEXT_BYTES_MAX)]))
}

/// `text` as JSON.
pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// Numbers that are equal have equal texts: no exponent where the digits fit, no zeros that say nothing.
fn number(raw: &str) -> Option<Cow<'_, str>> {
    let plain = !raw.bytes().any(|b| matches!(b, b'.' | b'e' | b'E')) && raw != "-0";
    if plain && raw.len() <= TEXT_BYTES_MAX {
        return Some(Cow::Borrowed(raw));
    }
    if let Some(read) = super::decimal::parse(raw, super::SCALE_MAX)
        && !read.cut
    {
        let exact = super::Decimal { units: read.units, scale: super::SCALE_MAX };
        if exact_at_scale(raw) {
            return Some(Cow::Owned(exact.to_string()));
        }
    }
    // Beyond what is exact: as the nearest floating-point number.
    let float: f64 = raw.parse().ok().filter(|f: &f64| f.is_finite())?;
    Some(Cow::Owned(float_text(float)))
}

/// The shortest text that reads as `number`, in one form whatever library writes it: JSON, an exponent where digits alone
/// would be many. Of finite numbers only.
pub(super) fn float_text(number: f64) -> String {
    if number == 0.0 || (1e-7..1e21).contains(&number.abs()) { format!("{number}") } else { format!("{number:e}") }
}

/// Whether no digit of `raw` lies behind the places that are kept.
fn exact_at_scale(raw: &str) -> bool {
    let (mantissa, exponent) = raw.split_once(['e', 'E']).unwrap_or((raw, "0"));
    let behind = mantissa.split_once('.').map_or(0, |(_, part)| part.trim_end_matches('0').len() as i64);
    exponent.parse::<i64>().is_ok_and(|e| behind.saturating_sub(e) <= i64::from(super::SCALE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_equal_texts() {
        let of = |raw: &str| canonical(&Value::of(raw)).map(Cow::into_owned);
        let some = |text: &str| Some(text.to_owned());
        for (raw, expected) in [
            ("\"a\"", some("\"a\"")),
            ("\"\\u0061\"", some("\"a\"")),
            ("\"a\\\"b\"", some("\"a\\\"b\"")),
            ("1", some("1")),
            ("1.0", some("1")),
            ("10e-1", some("1")),
            ("-0", some("0")),
            ("-0.0", some("0")),
            ("0.10", some("0.1")),
            ("1e2", some("100")),
            ("1e300", some("1e300")),
            ("1e-20", some("1e-20")),
            ("12345678901234567890123", some("12345678901234567890123")),
            ("true", some("true")),
            ("null", None),
            ("[1]", None),
            ("{}", None),
            ("1e999", None),
            ("0.3333333333333333", some("0.3333333333333333")),
        ] {
            assert_eq!(of(raw), expected, "{raw}");
        }
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let long = format!("\"{}\"", "ä".repeat(TEXT_BYTES_MAX));
        let kept = canonical(&Value::of(&long)).expect("a text");
        assert_eq!(kept.len(), TEXT_BYTES_MAX + 2);
        assert_eq!(kept, format!("\"{}\"", "ä".repeat(TEXT_BYTES_MAX / 2)));
    }
}
