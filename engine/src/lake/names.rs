//! Names of objects: how they are made, and which names no lake takes.
//!
//! Pure. The form `<prefix>/<table>/year=../part-..` is a published interface: other people's queries and catalogs
//! rely on it, and so does exactly-once, because a range that is cut again must give the same names.

use keyloom_actors::{
    ports::LakeError,
    timestamp::{SECOND, Timestamp},
};

/// Longest name of an object, in bytes: the limit of S3.
pub const NAME_BYTES_MAX: usize = 1_024;
/// Longest part of a name between two slashes, in bytes: the limit of most file systems. It holds for S3 as well, so
/// that a lake can be copied from one home to the other.
pub const PART_BYTES_MAX: usize = 255;

/// How the names of unfinished files begin. No object is named so.
pub(super) const TEMP_PREFIX: &str = ".keyloom-tmp-";

const HOUR: i64 = 3_600 * SECOND;
/// 9999-12-30T21Z: later ones have no calendar date in every time zone, or more digits than the names give them.
const HOUR_MAX: i64 = 70_389_501;

/// The name of a table's file: `<prefix>/<table>/<hive>/part-<partition>-<first>-<last>.<extension>`, zero-padded so
/// that names sort as sequences do. `prefix` may be empty, and slashes at its ends do not count.
pub fn object_name(
    prefix: &str,
    table: &str,
    hive: &str,
    partition: u32,
    first: u64,
    last: u64,
    extension: &str,
) -> String {
    let prefix = prefix.trim_matches('/');
    let slash = if prefix.is_empty() { "" } else { "/" };
    format!("{prefix}{slash}{table}/{hive}/part-{partition:04}-{first:020}-{last:020}.{extension}")
}

/// The hour of `time`, counted from 1970-01-01T00Z. Times outside the years 1970 to 9999 count as the nearest hour
/// inside; event times are clamped long before, this only keeps the names well-formed whatever comes.
pub(super) fn hour_of(time: Timestamp) -> i64 {
    time.0.div_euclid(HOUR).clamp(0, HOUR_MAX)
}

/// The Hive partition of an hour of [`hour_of`]: `year=YYYY/month=MM/day=DD/hour=HH` in UTC.
pub(super) fn hive_of(hour: i64) -> String {
    let (year, month, day, hour) = Timestamp(hour.clamp(0, HOUR_MAX) * HOUR).year_month_day_hour();
    format!("year={year:04}/month={month:02}/day={day:02}/hour={hour:02}")
}

/// Checks that `name` may name an object: it stays inside the lake and means the same in every home.
///
/// Names are made by [`object_name`] of checked settings, so this refuses nothing in practice. It is the last door
/// before a file system, and does not rely on the others.
pub(super) fn check(name: &str) -> Result<(), LakeError> {
    let problem = if name.len() > NAME_BYTES_MAX {
        return Err(LakeError::Refused(format!(
            "an object name has {} bytes, at most {NAME_BYTES_MAX} are allowed; shorten the lake's prefix or the \
             table's name",
            name.len()
        )));
    } else if name.contains(|c: char| c.is_control() || c == '\\') {
        "it contains a control character or a backslash"
    } else if name.split('/').any(str::is_empty) {
        "it is empty, or begins or ends with a slash, or has two in a row"
    } else if name.split('/').any(|part| part == "." || part == "..") {
        "it contains the part '.' or '..'"
    } else if name.split('/').any(|part| part.len() > PART_BYTES_MAX) {
        "a part between two slashes is longer than 255 bytes"
    } else if name.split('/').any(|part| part.starts_with(TEMP_PREFIX)) {
        "a part begins as the names of unfinished files do"
    } else {
        return Ok(());
    };
    Err(LakeError::Refused(format!("the object name {name:?} is not usable: {problem}")))
}

/// Splits what names are to begin with into a folder, empty for the root, and the beginning of the next part.
/// The folder is checked like a name.
pub(super) fn split_prefix(prefix: &str) -> Result<(&str, &str), LakeError> {
    if prefix.len() > NAME_BYTES_MAX {
        check(prefix)?;
    }
    let (folder, start) = prefix.rsplit_once('/').unwrap_or(("", prefix));
    if !folder.is_empty() || prefix.starts_with('/') {
        check(folder)?;
    }
    Ok((folder, start))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_as_published() {
        let hive = hive_of(hour_of(Timestamp(1_795_176_000_123_000)));
        assert_eq!(hive, "year=2026/month=11/day=20/hour=12");
        let name = object_name("prod", "raw_events", &hive, 7, 12, 3_456, "parquet");
        let expected = "prod/raw_events/year=2026/month=11/day=20/hour=12/\
                        part-0007-00000000000000000012-00000000000000003456.parquet";
        assert_eq!(name, expected);
        for prefix in ["", "/"] {
            assert!(object_name(prefix, "raw_events", &hive, 0, 1, 2, "parquet").starts_with("raw_events/year="));
        }
        assert!(object_name("/a/b/", "t", &hive, 0, 1, 2, "parquet").starts_with("a/b/t/year="));
        let widest = object_name("p", "t", &hive, u32::MAX, u64::MAX, u64::MAX, "parquet");
        assert!(widest.ends_with("/part-4294967295-18446744073709551615-18446744073709551615.parquet"));
    }

    #[test]
    fn absurd_times_still_give_well_formed_partitions() {
        for (micros, hive) in [
            (i64::MIN, "year=1970/month=01/day=01/hour=00"),
            (-1, "year=1970/month=01/day=01/hour=00"),
            (HOUR - 1, "year=1970/month=01/day=01/hour=00"),
            (HOUR, "year=1970/month=01/day=01/hour=01"),
            (i64::MAX, "year=9999/month=12/day=30/hour=21"),
        ] {
            assert_eq!(hive_of(hour_of(Timestamp(micros))), hive, "{micros}");
        }
    }

    #[test]
    fn names_that_leave_the_lake_are_refused() {
        let long_part = "x".repeat(PART_BYTES_MAX + 1);
        let long_name = "x/".repeat(NAME_BYTES_MAX / 2) + "x";
        let bad = ["", "/", "/etc/passwd", "a/", "a//b", "..", "a/../b", "./a", "a/.", "a\\b", "a\nb", "a\0b"];
        for name in bad.into_iter().chain([&*long_part, &*long_name, "a/.keyloom-tmp-1"]) {
            assert!(matches!(check(name), Err(LakeError::Refused(_))), "{name:?}");
        }
        for name in ["a", "a/b.parquet", "a/..b", "a/year=2026/x", ".hidden", &"x".repeat(PART_BYTES_MAX)] {
            assert!(check(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn prefixes_split_at_their_last_slash() {
        for (prefix, split) in [("", ("", "")), ("a", ("", "a")), ("a/", ("a", "")), ("a/b/c", ("a/b", "c"))] {
            assert_eq!(split_prefix(prefix).ok(), Some(split), "{prefix}");
        }
        for bad in ["/", "/a", "../a", "a/../b", "a//b"] {
            assert!(split_prefix(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn names_sort_as_hours_and_sequences_do(a in (0..HOUR_MAX, 0u64.., 0u64..), b in (0..HOUR_MAX, 0u64.., 0u64..)) {
            let name = |(hour, first, last): (i64, u64, u64)| {
                object_name("p", "t", &hive_of(hour), 3, first, last, "parquet")
            };
            prop_assert_eq!(name(a).cmp(&name(b)), a.cmp(&b));
            prop_assert!(check(&name(a)).is_ok());
        }

        #[test]
        fn what_is_accepted_stays_inside_the_folder(name in "[a./\\\\~]{0,12}") {
            if check(&name).is_ok() {
                let normal = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
                prop_assert!(std::path::Path::new(&name).components().all(normal));
            }
        }
    }
}
