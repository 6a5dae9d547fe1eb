//! TOML cut into coarse pieces, however broken it is: for masking secrets and for finding brackets that never close.
//!
//! Pure. Not a parser: it never refuses anything, and values are not understood.

use std::ops::Range;

/// What a piece is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Piece {
    /// `#` to the end of the line.
    Comment,
    /// A quoted text, of any of the four kinds.
    Text { closed: bool },
    /// Anything else without blanks.
    Word,
    /// One of `= [ ] { } ,`.
    Sign(u8),
    /// Blanks within a line.
    Blank,
    /// The end of a line.
    Newline,
}

/// Cuts `text` into pieces that lie side by side and cover it.
pub(super) fn lex(text: &str) -> Vec<(Piece, Range<usize>)> {
    let bytes = text.as_bytes();
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let piece = match bytes[at] {
            b'\n' => {
                at += 1;
                Piece::Newline
            }
            b' ' | b'\t' | b'\r' => {
                at = until(bytes, at, |b| !matches!(b, b' ' | b'\t' | b'\r'));
                Piece::Blank
            }
            b'#' => {
                at = until(bytes, at, |b| b == b'\n');
                Piece::Comment
            }
            sign @ (b'=' | b'[' | b']' | b'{' | b'}' | b',') => {
                at += 1;
                Piece::Sign(sign)
            }
            quote @ (b'"' | b'\'') => {
                let (end, closed) = quoted(bytes, at, quote);
                at = end;
                Piece::Text { closed }
            }
            _ => {
                at = until(bytes, at, |b| b" \t\r\n#=[]{},\"'".contains(&b));
                Piece::Word
            }
        };
        pieces.push((piece, start..at));
    }
    pieces
}

fn until(bytes: &[u8], from: usize, end: impl Fn(u8) -> bool) -> usize {
    bytes[from..].iter().position(|b| end(*b)).map_or(bytes.len(), |n| from + n)
}

/// The end of the quoted text at `start`, and whether it is closed. One-line texts end with their line at the latest.
fn quoted(bytes: &[u8], start: usize, quote: u8) -> (usize, bool) {
    let lines = bytes[start..].starts_with(&[quote; 3]);
    let delimiter = &[quote; 3][..if lines { 3 } else { 1 }];
    let mut at = start + delimiter.len();
    while at < bytes.len() {
        if bytes[at..].starts_with(delimiter) {
            at += delimiter.len();
            if lines {
                at = until(bytes, at, |b| b != quote).min(at + 2); // up to two quotes may stand before the closing three
            }
            return (at, true);
        }
        match bytes[at] {
            b'\n' if !lines => return (at, false),
            b'\\' if quote == b'"' && bytes.get(at + 1).is_some_and(|b| lines || *b != b'\n') => at += 2,
            _ => at += 1,
        }
    }
    (bytes.len(), false)
}

/// Brackets that are still open where the next section begins or the file ends: the range of each with all it swallowed.
pub(super) fn never_closed(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let mut value = false; // behind an equals sign: brackets elsewhere are headers
    let mut line_start = true;
    for (piece, range) in lex(text) {
        match piece {
            Piece::Newline => {
                line_start = true;
                value = !open.is_empty();
                continue;
            }
            Piece::Blank => continue,
            Piece::Sign(b'[') if line_start && !open.is_empty() && is_header(&text[range.start..]) => {
                found.push(open[0]..range.start);
                open.clear();
                value = false;
            }
            Piece::Sign(b'=') => value = true,
            Piece::Sign(b'[' | b'{') if value => open.push(range.start),
            Piece::Sign(b']' | b'}') if value => drop(open.pop()),
            _ => {}
        }
        line_start = false;
    }
    if let Some(first) = open.first() {
        found.push(*first..text.len());
    }
    found
}

/// Whether `text` begins with something like `[word.word]` alone on its line.
fn is_header(text: &str) -> bool {
    let line = text.lines().next().unwrap_or_default();
    let line = line.split('#').next().unwrap_or_default().trim();
    let inner = line.trim_start_matches('[').trim_end_matches(']').trim();
    let words = inner.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.\"' ".contains(&b));
    line.ends_with(']') && words && inner.starts_with(|c: char| c.is_ascii_alphabetic() || c == '"' || c == '\'')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn open_brackets_are_found_up_to_the_next_section() {
        let open = |text: &str| -> Vec<String> { never_closed(text).into_iter().map(|r| text[r].to_owned()).collect() };
        assert_eq!(open("a = { b = 1\nc = 2\n[d]\ne = 1\n"), ["{ b = 1\nc = 2\n"]);
        assert_eq!(open("a = [1, [2]\n[d]\ne = [\n"), ["[1, [2]\n", "[\n"]);
        assert_eq!(open("[a]\nb = [\n  [\"x\"],\n]\nc = { d = '[' } # {\n[[e]]\n"), [""; 0]);
    }

    proptest! {
        #[test]
        fn pieces_cover_any_text(text in "[a\\[\\]{}=,#\"'\\\\\n\r \té]{0,60}") {
            let mut at = 0;
            for (_, range) in lex(&text) {
                prop_assert_eq!(range.start, at);
                prop_assert!(range.end > at && text.is_char_boundary(range.end));
                at = range.end;
            }
            prop_assert_eq!(at, text.len());
            for range in never_closed(&text) {
                prop_assert!(text.get(range).is_some());
            }
        }
    }
}
