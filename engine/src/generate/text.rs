//! Writes the pieces of an event as JSON text: digits, hex, times. Not a JSON library: every text it gets is known to
//! need no escaping.
//!
//! Pure.

use keyloom_actors::timestamp::{DAY, SECOND, Timestamp};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `"name":"` after a comma.
pub(super) fn name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":\"");
}

/// Appends `,"name":"text"`.
pub(super) fn field(out: &mut Vec<u8>, field: &str, text: &str) {
    name(out, field);
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// Appends a number in decimal.
pub(super) fn decimal(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends 16 hexadecimal digits.
pub(super) fn hex(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(&hex_digits(n));
}

/// Appends 128 random bits in the form of a version 4 UUID.
pub(super) fn uuid(out: &mut Vec<u8>, high: u64, low: u64) {
    let high = hex_digits((high & !0xf000) | 0x4000);
    let low = hex_digits((low & !(0b11 << 62)) | (0b10 << 62));
    let mut text = [b'-'; 36];
    text[..8].copy_from_slice(&high[..8]);
    text[9..13].copy_from_slice(&high[8..12]);
    text[14..18].copy_from_slice(&high[12..]);
    text[19..23].copy_from_slice(&low[..4]);
    text[24..].copy_from_slice(&low[4..]);
    out.extend_from_slice(&text);
}

fn hex_digits(n: u64) -> [u8; 16] {
    let mut text = [0u8; 16];
    for (i, byte) in n.to_be_bytes().into_iter().enumerate() {
        text[2 * i] = HEX[usize::from(byte >> 4)];
        text[2 * i + 1] = HEX[usize::from(byte & 15)];
    }
    text
}

/// Writes times, remembering the date it wrote last: taking a date apart costs more than the rest of the text.
#[derive(Debug)]
pub(super) struct TimeText {
    day: i64,
    date: [u8; 10],
}

impl TimeText {
    pub(super) fn new() -> Self {
        Self { day: i64::MIN, date: *b"0000-00-00" }
    }

    /// Appends `2026-11-20T12:00:00.123Z`.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, time: Timestamp) {
        let day = time.0.div_euclid(DAY);
        if day != self.day {
            let (year, month, month_day, _) = time.year_month_day_hour();
            let year = year.clamp(0, 9_999).unsigned_abs();
            two(&mut self.date, 0, u64::from(year / 100));
            two(&mut self.date, 2, u64::from(year % 100));
            two(&mut self.date, 5, u64::from(month.unsigned_abs()));
            two(&mut self.date, 8, u64::from(month_day.unsigned_abs()));
            self.day = day;
        }
        let micros = time.0.rem_euclid(DAY) as u64;
        let seconds = micros / SECOND as u64;
        let millis = micros % SECOND as u64 / 1_000;
        let mut text = *b"0000-00-00T00:00:00.000Z";
        text[..10].copy_from_slice(&self.date);
        two(&mut text, 11, seconds / 3_600);
        two(&mut text, 14, seconds / 60 % 60);
        two(&mut text, 17, seconds % 60);
        text[20] = b'0' + (millis / 100) as u8;
        two(&mut text, 21, millis % 100);
        out.extend_from_slice(&text);
    }
}

fn two(text: &mut [u8], at: usize, n: u64) {
    text[at] = b'0' + (n / 10) as u8;
    text[at + 1] = b'0' + (n % 10) as u8;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn times_read_back(micros in 0i64..4_000_000_000_000_000, later in 0i64..200_000_000_000) {
            let mut text = TimeText::new();
            for time in [micros, micros + later] {
                let mut out = Vec::new();
                text.write(&mut out, Timestamp(time));
                let read = Timestamp::parse(std::str::from_utf8(&out).expect("ASCII"));
                prop_assert_eq!(read, Some(Timestamp(time / 1_000 * 1_000)));
            }
        }

        #[test]
        fn numbers_read_back(n in any::<u64>(), low in any::<u64>()) {
            let (mut dec, mut hexa, mut id) = (Vec::new(), Vec::new(), b"before".to_vec());
            decimal(&mut dec, n);
            hex(&mut hexa, n);
            uuid(&mut id, n, low);
            prop_assert_eq!(String::from_utf8(dec).expect("ASCII"), n.to_string());
            prop_assert_eq!(String::from_utf8(hexa).expect("ASCII"), format!("{n:016x}"));
            let id = String::from_utf8(id).expect("ASCII");
            let plain = format!("{:016x}{:016x}", (n & !0xf000) | 0x4000, (low & !(3 << 62)) | (1 << 63));
            prop_assert_eq!(&id[..6], "before");
            prop_assert_eq!(id[6..].replace('-', ""), plain);
            prop_assert_eq!(id[6..].split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        }
    }
}
