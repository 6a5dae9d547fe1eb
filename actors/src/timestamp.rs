//! Points in time as microseconds since 1970-01-01 UTC, and the text forms that clients send.
//!
//! Pure: "now" comes in through the door, see [`Clock`].

use std::{fmt, str};

/// Microseconds since 1970-01-01T00:00:00Z. In serde's formats it is that number: for states and rows. An event says its times
/// otherwise, see [`EventTime`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

/// A time in a typed event, in any form that [`Timestamp::parse`] reads: text, or a number of epoch milliseconds. It can only be
/// read, so no state holds one by mistake.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EventTime(pub Timestamp);

impl<'de> serde::Deserialize<'de> for EventTime {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EventTimeVisitor)
    }
}

struct EventTimeVisitor;

impl serde::de::Visitor<'_> for EventTimeVisitor {
    type Value = EventTime;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time: RFC 3339, or epoch milliseconds of at least 13 digits")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<EventTime, E> {
        Timestamp::parse(text).map(EventTime).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }

    fn visit_u64<E: serde::de::Error>(self, millis: u64) -> Result<EventTime, E> {
        self.visit_str(&millis.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, millis: i64) -> Result<EventTime, E> {
        self.visit_str(&millis.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, millis: f64) -> Result<EventTime, E> {
        self.visit_str(&millis.to_string())
    }
}

/// One second, in the unit of [`Timestamp`].
pub const SECOND: i64 = 1_000_000;
/// One day, in the unit of [`Timestamp`].
pub const DAY: i64 = 86_400 * SECOND;

/// Numbers at least this large are taken for epoch milliseconds: 2001-09-09 on. Smaller ones are refused, because they
/// would be seconds as often as milliseconds.
const EPOCH_MILLIS_MIN: f64 = 1e12;

/// Where "now" comes from, so that tests can say what time it is.
pub trait Clock: Send + Sync + 'static {
    /// The current time.
    fn now(&self) -> Timestamp;
}

/// The wall clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "the one door through which wall-clock time comes in")]
        let now = std::time::SystemTime::now();
        match now.duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX)),
            Err(_) => Timestamp(0),
        }
    }
}

impl Timestamp {
    /// Reads what clients send: RFC 3339, the same without an offset (then UTC), with a blank instead of the `T`
    /// (Snowplow's form), or epoch milliseconds of at least 13 digits. `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(stamp) = parse_utc(text.as_bytes()) {
            return Some(stamp);
        }
        if let Ok(stamp) = text.parse::<jiff::Timestamp>() {
            return Some(Self(stamp.as_microsecond()));
        }
        if let Ok(civil) = text.parse::<jiff::civil::DateTime>() {
            return civil.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|z| Self(z.timestamp().as_microsecond()));
        }
        let millis = text.parse::<f64>().ok().filter(|m| *m >= EPOCH_MILLIS_MIN && *m < 1e14)?;
        Some(Self((millis * 1000.0) as i64))
    }

    /// `2026-11-20T10:00:00.000000Z`: always UTC, always six decimals.
    pub fn to_rfc3339(self) -> String {
        let stamp = jiff::Timestamp::from_microsecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        format!("{stamp:.6}")
    }

    /// Year, month, day and hour in UTC.
    pub fn year_month_day_hour(self) -> (i16, i8, i8, i8) {
        let stamp = jiff::Timestamp::from_microsecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let civil = jiff::tz::Offset::UTC.to_datetime(stamp);
        (civil.year(), civil.month(), civil.day(), civil.hour())
    }

    /// Seconds from `earlier` to `self`, never negative.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        (self.0.saturating_sub(earlier.0)).max(0) as f64 / SECOND as f64
    }
}

/// The common shape `YYYY-MM-DD(T| )HH:MM:SS[.f{1,9}][Z]` without the general parser: every event carries one or two of
/// these, and the general parser costs as much as the rest of the scan.
fn parse_utc(text: &[u8]) -> Option<Timestamp> {
    fn number(digits: &[u8]) -> Option<i64> {
        digits.iter().try_fold(0i64, |n, d| d.is_ascii_digit().then(|| n * 10 + i64::from(d - b'0')))
    }
    let text = text.strip_suffix(b"Z").unwrap_or(text);
    if text.len() < 19 || text[4] != b'-' || text[7] != b'-' || !matches!(text[10], b'T' | b' ') {
        return None;
    }
    if text[13] != b':' || text[16] != b':' {
        return None;
    }
    let (year, month, day) = (number(&text[..4])?, number(&text[5..7])?, number(&text[8..10])?);
    let (hour, minute, second) = (number(&text[11..13])?, number(&text[14..16])?, number(&text[17..19])?);
    if !(1..=12).contains(&month) || !(1..=28).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None; // the ends of months are left to the general parser
    }
    let micros = match &text[19..] {
        [] => 0,
        [b'.', digits @ ..] if (1..=9).contains(&digits.len()) => {
            let kept = &digits[..digits.len().min(6)];
            number(digits)?;
            number(kept)? * 10i64.pow(6 - kept.len() as u32)
        }
        _ => return None,
    };
    // Days from civil, Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year - era * 400;
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some(Timestamp(((days * 24 + hour) * 60 + minute) * 60 * SECOND + second * SECOND + micros))
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_forms_clients_send_are_read() {
        let noon = Some(Timestamp(1_795_176_000_123_000));
        assert_eq!(Timestamp::parse("2026-11-20T12:00:00.123Z"), noon);
        assert_eq!(Timestamp::parse("2026-11-20 12:00:00.123"), noon);
        assert_eq!(Timestamp::parse("2026-11-20T13:00:00.123+01:00"), noon);
        assert_eq!(Timestamp::parse("1795176000123"), noon);
        for bad in
            ["", "yesterday", "2026-13-01T00:00:00Z", "2026-11-31T00:00:00Z", "1795176000", "2026-11-20T12:00:00.Z"]
        {
            assert_eq!(Timestamp::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_typed_event_reads_the_forms_that_clients_send() {
        #[derive(serde::Deserialize)]
        #[serde(tag = "event", rename_all = "snake_case")]
        enum Event {
            Order { at: EventTime },
        }
        let read = |at: &str| {
            let event = serde_json::from_str(&format!(r#"{{"at":{at},"event":"order"}}"#));
            event.map(|Event::Order { at }| at.0).map_err(|e| e.to_string())
        };
        for at in ["1795176000123", "1795176000123.0", "\"1795176000123\"", "\"2026-11-20T13:00:00.123+01:00\""] {
            assert_eq!(read(at), Ok(Timestamp(1_795_176_000_123_000)), "{at}");
        }
        for at in ["1795176000", "-5", "\"noon\"", "null", "{}"] {
            assert!(read(at).is_err_and(|e| e.contains("epoch milliseconds of at least 13 digits")), "{at}");
        }
    }

    #[test]
    fn text_is_utc_with_micros() {
        assert_eq!(Timestamp(1_795_176_000_123_000).to_rfc3339(), "2026-11-20T12:00:00.123000Z");
        assert_eq!(Timestamp(1_795_176_000_123_000).year_month_day_hour(), (2026, 11, 20, 12));
    }

    proptest! {
        #[test]
        fn text_round_trips_and_both_parsers_agree(micros in 0i64..4_000_000_000_000_000) {
            let text = Timestamp(micros).to_rfc3339();
            prop_assert_eq!(Timestamp::parse(&text), Some(Timestamp(micros)));
            if let Some(fast) = parse_utc(text.as_bytes()) {
                prop_assert_eq!(fast, Timestamp(micros));
            }
        }
    }
}
