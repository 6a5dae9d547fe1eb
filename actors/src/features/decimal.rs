//! Decimal numbers of events as integers: exact sums, whatever the order.
//!
//! Pure. A number is a count of *units*, 10^-scale each. Not for arithmetic of expressions, which is in floating point.

use std::fmt;

/// Digits behind the point that are kept unless a definition says otherwise.
pub const SCALE_DEFAULT: u8 = 6;
/// Most digits behind the point.
pub const SCALE_MAX: u8 = 12;

/// Numbers beyond this many units are cut to it and counted. Small enough that 2^37 of them and the exact sums of their
/// squares fit into what holds them; at scale 6 it is 1.2e21.
pub(super) const UNITS_MAX: i128 = 1 << 90;
/// Every number with this many digits fits into `UNITS_MAX`'s type with room to spare.
const DIGITS_MAX: i64 = 28;

/// An exact decimal number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimal {
    /// The number times 10^scale.
    pub units: i128,
    /// Digits behind the point.
    pub scale: u8,
}

impl Decimal {
    /// The nearest floating-point number, by two correctly rounded steps.
    pub fn to_f64(self) -> f64 {
        self.units as f64 / 10f64.powi(i32::from(self.scale))
    }
}

impl fmt::Display for Decimal {
    /// As short as it is exact: `12.5`, `-3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let factor = 10u128.pow(u32::from(self.scale));
        let (whole, mut part) = (self.units.unsigned_abs() / factor, self.units.unsigned_abs() % factor);
        if self.units < 0 {
            f.write_str("-")?;
        }
        write!(f, "{whole}")?;
        if part == 0 {
            return Ok(());
        }
        let mut width = usize::from(self.scale);
        while part.is_multiple_of(10) {
            part /= 10;
            width -= 1;
        }
        write!(f, ".{part:0width$}")
    }
}

/// A number of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Units {
    pub(super) units: i128,
    /// It was larger than can be held.
    pub(super) cut: bool,
}

/// Reads a JSON number exactly; what lies behind `scale` digits is rounded half to even. `None` for what is no number.
pub(super) fn parse(text: &str, scale: u8) -> Option<Units> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], exponent(&rest[at + 1..])?),
        None => (rest, 0),
    };
    let point = mantissa.find('.').unwrap_or(mantissa.len());
    let behind = mantissa.len().saturating_sub(point + 1) as i64;
    if mantissa.is_empty() || !mantissa.bytes().enumerate().all(|(i, b)| b.is_ascii_digit() || i == point) {
        return None;
    }
    // Significant digits, first to last.
    let digits = || mantissa.bytes().filter(|b| *b != b'.').skip_while(|b| *b == b'0').map(|b| b - b'0');
    let shift = i64::from(scale) + exponent - behind;
    let significant = mantissa.bytes().filter(|b| *b != b'.').skip_while(|b| *b == b'0').count() as i64;
    let kept = significant.saturating_add(shift);
    if significant == 0 || kept < 0 {
        return Some(Units { units: 0, cut: false });
    }
    if kept > DIGITS_MAX {
        return Some(Units { units: if negative { -UNITS_MAX } else { UNITS_MAX }, cut: true });
    }
    let mut rest = digits();
    let mut units = 0i128;
    for _ in 0..kept {
        units = units * 10 + i128::from(rest.next().unwrap_or(0));
    }
    if let Some(next) = rest.next() {
        let more = next > 5 || (next == 5 && (rest.any(|d| d > 0) || units % 2 == 1));
        units += i128::from(more);
    }
    let cut = units > UNITS_MAX;
    let units = units.min(UNITS_MAX);
    Some(Units { units: if negative { -units } else { units }, cut })
}

fn exponent(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if digits.is_empty() {
        return None;
    }
    let value = digits.bytes().try_fold(0i64, |n, b| {
        // An event has fewer than 2^32 digits, so beyond this the exponent alone decides.
        b.is_ascii_digit().then(|| (n * 10 + i64::from(b - b'0')).min(1 << 40))
    })?;
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(number: &str, scale: u8) -> String {
        let read = parse(number, scale).expect("a number");
        Decimal { units: read.units, scale }.to_string()
    }

    #[test]
    fn numbers_are_read_exactly_and_rounded_half_to_even() {
        for (number, scale, expected) in [
            ("12.5", 6, "12.5"),
            ("-0.1", 6, "-0.1"),
            ("1e3", 6, "1000"),
            ("1.5E-3", 6, "0.0015"),
            ("0.0000005", 6, "0"),
            ("0.0000015", 6, "0.000002"),
            ("0.00000050000000000000000000001", 6, "0.000001"),
            ("0.0000004999999999999999999999", 6, "0"),
            ("2.5", 0, "2"),
            ("3.5", 0, "4"),
            ("-2.5", 0, "-2"),
            ("1e-400", 6, "0"),
            ("0e999999999999999999999", 6, "0"),
            ("000", 6, "0"),
            ("123456789012345.678901", 6, "123456789012345.678901"),
        ] {
            assert_eq!(text(number, scale), expected, "{number}");
        }
        for bad in ["", "-", "e5", "1e", "1e+", "x", "1.2.3", "--1", "1x"] {
            assert_eq!(parse(bad, 6), None, "{bad}");
        }
    }

    #[test]
    fn what_is_too_large_is_cut_and_says_so() {
        for (number, units) in [("1e30", UNITS_MAX), ("-1e400", -UNITS_MAX), ("9999999999999999999999", UNITS_MAX)] {
            assert_eq!(parse(number, 6), Some(Units { units, cut: true }), "{number}");
        }
    }

    proptest! {
        #[test]
        fn integers_and_their_shifts_agree(n in -1_000_000_000_000i64..1_000_000_000_000, places in 0u8..6) {
            let shifted = format!("{n}e-{places}");
            let expected = i128::from(n) * 10i128.pow(u32::from(6 - places));
            prop_assert_eq!(parse(&shifted, 6).map(|u| u.units), Some(expected));
            let back = Decimal { units: expected, scale: 6 }.to_string();
            prop_assert_eq!(parse(&back, 6).map(|u| u.units), Some(expected));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[-+0-9.eE]{0,40}", scale in 0u8..=SCALE_MAX) {
            if let Some(read) = parse(&text, scale) {
                prop_assert!(read.units.abs() <= UNITS_MAX);
            }
        }
    }
}
