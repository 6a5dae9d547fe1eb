//! "Did you mean": the known word that a misspelt one is closest to.
//!
//! Pure. Only for words in error messages; nothing is ever accepted because it is close.

/// Longer words are not compared: the comparison is quadratic, and nobody misspells a word of this length by accident.
const WORD_CHARS_MAX: usize = 48;

/// The candidate closest to `word`, if it is close enough to be what was meant.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = plain(word);
    let allowed = (plain.chars().count() / 3).clamp(1, 3);
    let close = |candidate: &&str| distance(&plain, &self::plain(candidate)).filter(|d| *d <= allowed);
    candidates.into_iter().filter_map(|c| close(&c).map(|d| (d, c))).min_by_key(|(d, _)| *d).map(|(_, c)| c)
}

/// Case and the choice between `-` and `_` are no difference worth counting.
fn plain(word: &str) -> String {
    word.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`; `None` when a word is too long.
fn distance(a: &str, b: &str) -> Option<usize> {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().max(b.len()) > WORD_CHARS_MAX {
        return None;
    }
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last.last().copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_closest_known_word_is_found() {
        let known = ["handler", "idle_after", "resident_max", "key"];
        for (word, meant) in [
            ("handlr", Some("handler")),
            ("hanlder", Some("handler")),
            ("idle-after", Some("idle_after")),
            ("Resident_Max", Some("resident_max")),
            ("residents_max", Some("resident_max")),
            ("kye", Some("key")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(100_000), known), None);
    }

    proptest! {
        #[test]
        fn distance_is_symmetric_and_zero_for_equals(a in "[a-d]{0,8}", b in "[a-d]{0,8}") {
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert_eq!(distance(&a, &b) == Some(0), a == b);
        }
    }
}
