//! How deep JSON from outside may nest. Nothing here or behind it takes values apart by recursion without this limit or one of
//! its own; the limit makes what is stored readable for everybody behind the log.
//!
//! Pure.

/// Most levels of objects and arrays in one event, the event itself included.
pub const LEVELS_MAX: usize = 64;

/// Whether `json`, one sound JSON value, has at most `levels` levels.
pub fn is_within(json: &str, levels: usize) -> bool {
    // A level takes two bytes, and one opening bracket: most values are done here, without looking at their texts.
    if json.len() < 2 * (levels + 1) {
        return true;
    }
    let opening: usize = json.as_bytes().chunks(4096).map(brackets).sum();
    opening <= levels || deepest(json.as_bytes()) <= levels
}

fn brackets(piece: &[u8]) -> usize {
    let count: u16 = piece.iter().map(|byte| u16::from(matches!(byte, b'{' | b'['))).sum();
    usize::from(count)
}

fn deepest(json: &[u8]) -> usize {
    let (mut level, mut deepest, mut is_text, mut is_escaped) = (0usize, 0, false, false);
    for byte in json {
        match (is_text, byte) {
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (_, b'"') => is_text = !is_text,
            (false, b'{' | b'[') => {
                level += 1;
                deepest = deepest.max(level);
            }
            (false, b'}' | b']') => level = level.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nested(levels: usize) -> String {
        format!("{}1{}", "[".repeat(levels), "]".repeat(levels))
    }

    #[test]
    fn levels_count_and_texts_do_not() {
        assert!(is_within(&nested(64), 64) && !is_within(&nested(65), 64) && !is_within(&nested(200_000), 64));
        let text = format!("[\"{}\\\"[\", {}]", "{".repeat(500), nested(10));
        assert!(is_within(&text, 11) && !is_within(&text, 10));
        assert!(is_within(&format!("[{}1]", "[[]],".repeat(300)), 3), "many, but not deep");
    }

    proptest! {
        #[test]
        fn agrees_with_counting_by_hand(shape in proptest::collection::vec(0usize..9, 1..9), levels in 0usize..12) {
            let text = format!("[{}]", shape.iter().map(|n| nested(*n)).collect::<Vec<_>>().join(","));
            let expected = 1 + shape.iter().max().copied().unwrap_or(0);
            prop_assert_eq!(is_within(&text, levels), expected <= levels);
        }
    }
}
