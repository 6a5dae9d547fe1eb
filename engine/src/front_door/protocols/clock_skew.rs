//! Event time from three clocks: what the device said when it made the event and when it sent it, and the front door's own.
//!
//! Pure.

use keyloom_actors::timestamp::Timestamp;

/// Epoch milliseconds from this on are not taken: the year 5138, far beyond any clock that is only wrong.
const MILLIS_MAX: i64 = 100_000_000_000_000;

/// When the event happened by the front door's clock: received, less the time that it waited on the device. A device whose
/// two times do not fit together, or that says only one, leaves the time of receiving.
pub fn derived(received: Timestamp, created: Option<Timestamp>, sent: Option<Timestamp>) -> Timestamp {
    match (created, sent) {
        (Some(created), Some(sent)) if created < sent => {
            Timestamp(received.0.saturating_sub(sent.0.saturating_sub(created.0)))
        }
        _ => received,
    }
}

/// Reads epoch milliseconds, also those of a clock that was never set: only the difference of two may count.
pub fn epoch_millis(text: &str) -> Option<Timestamp> {
    let millis = text.trim_ascii().parse::<i64>().ok().filter(|m| (0..MILLIS_MAX).contains(m))?;
    Some(Timestamp(millis * 1_000))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_wrong_clock_is_set_right() {
        let at = |secs: i64| Timestamp(secs * 1_000_000);
        assert_eq!(derived(at(1_000), Some(at(50)), Some(at(53))), at(997), "a clock of 1970");
        assert_eq!(derived(at(1_000), Some(at(5_000)), Some(at(5_060))), at(940), "a clock ahead");
        assert_eq!(derived(at(1_000), Some(at(53)), Some(at(50))), at(1_000), "sent before it was made");
        assert_eq!(derived(at(1_000), Some(at(53)), None), at(1_000));
        assert_eq!(derived(at(1_000), None, Some(at(53))), at(1_000));
        assert_eq!(epoch_millis("86400000"), Some(at(86_400)));
        for bad in ["", "-1", "1.5", "100000000000000", "soon"] {
            assert_eq!(epoch_millis(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_later_than_received(received in 0i64.., created in any::<i64>(), sent in any::<i64>()) {
            let derived = derived(Timestamp(received), Some(Timestamp(created)), Some(Timestamp(sent)));
            prop_assert!(derived.0 <= received);
        }
    }
}
