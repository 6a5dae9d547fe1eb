//! Durations and sizes as the topology file writes them: one whole number and one unit.
//!
//! Pure. Not for time stamps or rates.

use std::time::Duration;

use super::names::Wrong;

/// What may follow the number of a duration, with its length in milliseconds.
const TIME_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// What may follow the number of a size, with its bytes.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

/// Units people write instead of ours, lower case.
const TIME_ALIASES: [(&str, &str); 17] = [
    ("msec", "ms"),
    ("millis", "ms"),
    ("milliseconds", "ms"),
    ("sec", "s"),
    ("secs", "s"),
    ("second", "s"),
    ("seconds", "s"),
    ("min", "m"),
    ("mins", "m"),
    ("minute", "m"),
    ("minutes", "m"),
    ("hr", "h"),
    ("hrs", "h"),
    ("hour", "h"),
    ("hours", "h"),
    ("day", "d"),
    ("days", "d"),
];

/// Units of sizes people write instead of ours, lower case; what differs in case alone is found without this list.
const SIZE_ALIASES: [(&str, &str); 6] =
    [("byte", "B"), ("bytes", "B"), ("k", "KiB"), ("m", "MiB"), ("g", "GiB"), ("t", "TiB")];

/// The units of durations, for people.
pub(super) const TIME_UNITS_TEXT: &str = "ms, s, m, h, d";

/// The units of sizes, for people.
pub(super) const SIZE_UNITS_TEXT: &str = "B, KB, MB, GB, TB, KiB, MiB, GiB, TiB";

/// Reads `"250ms"`, `"30s"`, `"5m"`, `"2h"`, `"7d"`.
pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    amount(text, "a duration", "30s", &TIME_UNITS, &TIME_ALIASES, TIME_UNITS_TEXT).map(Duration::from_millis)
}

/// The same for texts that are not of a topology; an error says what is wrong and what to do.
pub fn read_duration(text: &str) -> Result<Duration, String> {
    duration(text).map_err(|wrong| format!("{}: {}", wrong.what, wrong.help))
}

/// Reads `"64MiB"`, `"10GiB"`, `"1KB"` as bytes.
pub(super) fn size(text: &str) -> Result<u64, Wrong> {
    amount(text, "a size", "64MiB", &SIZE_UNITS, &SIZE_ALIASES, SIZE_UNITS_TEXT)
}

/// The shortest text that [`duration`] reads as `value` (whole milliseconds).
pub fn duration_text(value: Duration) -> String {
    text(u64::try_from(value.as_millis()).unwrap_or(u64::MAX), &TIME_UNITS)
}

/// The shortest text that [`size`] reads as `bytes`.
pub fn size_text(bytes: u64) -> String {
    text(bytes, &SIZE_UNITS)
}

fn text(amount: u64, units: &[(&str, u64)]) -> String {
    let exact = |&&(_, factor): &&(&str, u64)| amount > 0 && amount.is_multiple_of(factor);
    let (unit, factor) = units.iter().rev().find(exact).unwrap_or(&units[0]);
    format!("{}{unit}", amount / factor)
}

fn amount(
    text: &str,
    what: &str,
    example: &str,
    units: &[(&str, u64)],
    aliases: &[(&str, &str)],
    unit_names: &str,
) -> Result<u64, Wrong> {
    let wrong = |help: String| Wrong::new(format!("{} is not {what}", super::problems::quoted(text)), help);
    let shape = || format!("write one whole number and one unit ({unit_names}) without blanks, such as \"{example}\"");
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'_').count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() || number.starts_with('_') || number.ends_with('_') {
        return Err(wrong(shape()));
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        let plain = unit.trim().to_ascii_lowercase();
        let same = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(&plain)).map(|(name, _)| *name);
        let meant = same.or_else(|| aliases.iter().find(|(alias, _)| *alias == plain).map(|(_, unit)| *unit));
        return Err(wrong(match meant {
            Some(unit) => format!("did you mean \"{number}{unit}\"? The units are {unit_names}"),
            None => shape(),
        }));
    };
    let number = number.replace('_', "").parse::<u64>().ok();
    number.and_then(|n| n.checked_mul(*factor)).ok_or_else(|| wrong("it is too large; choose a smaller one".to_owned()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should fail")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_units_are_exact() {
        for (text, millis) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("7d", 604_800_000),
            ("1_000ms", 1000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for (text, bytes) in
            [("1B", 1), ("1KB", 1000), ("64MiB", 64 << 20), ("10GiB", 10 << 30), ("2TB", 2_000_000_000_000)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_unit_is_refused_with_advice() {
        for (text, advice) in [
            ("30sec", "did you mean \"30s\"?"),
            ("30 s", "did you mean \"30s\"?"),
            ("5Minutes", "did you mean \"5m\"?"),
            ("1.5h", "one whole number"),
            ("", "one whole number"),
            ("s", "one whole number"),
            ("_1s", "one whole number"),
            ("-1s", "one whole number"),
            ("30", "one whole number"),
            ("1w", "one whole number"),
            ("9999999999999999999999d", "too large"),
            ("18446744073709551615d", "too large"),
        ] {
            assert!(duration(text).unwrap_err().help.contains(advice), "{text}");
        }
        for (text, advice) in [("64mib", "\"64MiB\""), ("64M", "\"64MiB\""), ("1 GB", "\"1GB\""), ("1XB", "one whole")]
        {
            assert!(size(text).unwrap_err().help.contains(advice), "{text}");
        }
    }

    proptest! {
        #[test]
        fn units_round_trip(millis in 1u64..4_000_000_000_000, bytes in 1u64..) {
            let time = Duration::from_millis(millis);
            prop_assert_eq!(duration(&duration_text(time)), Ok(time));
            prop_assert_eq!(size(&size_text(bytes)), Ok(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,12}") {
            prop_assert!(duration(&text).is_ok() || duration(&text).is_err_and(|w| !w.help.is_empty()));
            prop_assert!(size(&text).is_ok() || size(&text).is_err_and(|w| !w.help.is_empty()));
        }
    }
}
