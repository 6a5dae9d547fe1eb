//! From text to TOML values with positions, reporting every syntax error that can be told apart, and going on behind it.
//!
//! Pure. Knows TOML, not topologies.

use std::collections::BTreeMap;

use toml::de::DeTable;

use super::{lex, problems::Found};

/// How often broken lines are taken out and the rest is read again.
const ROUNDS_MAX: usize = 8;

/// The text without its broken parts, and what was wrong with them.
pub(super) struct Repaired {
    /// As long as the original; broken parts are blank. `None` when nothing could be saved.
    pub(super) text: Option<String>,
    /// The syntax errors.
    pub(super) found: Vec<Found>,
}

/// Finds the syntax errors of `text`; `masked` is what may be shown of it.
pub(super) fn check(text: &str, masked: &str) -> Repaired {
    let mut found: Vec<Found> = Vec::new();
    let mut kept = text.to_owned();
    let mut blanked = false;
    for round in 0..ROUNDS_MAX {
        let (_, errors) = DeTable::parse_recoverable(&kept);
        if errors.is_empty() {
            return Repaired { text: Some(kept), found };
        }
        if round == 0 {
            let open = lex::never_closed(&kept);
            if !open.is_empty() {
                for range in open {
                    found.push(open_bracket(text, range.start));
                    blank(&mut kept, line_start(text, range.start), range.end);
                }
                continue;
            }
        }
        // One error for each line: what follows on the same line is mostly a consequence of the first.
        let mut lines = BTreeMap::new();
        let mut errors: Vec<_> = errors.iter().map(|e| (e.span().unwrap_or(0..0), e)).collect();
        errors.sort_by_key(|(span, _)| span.start);
        for (span, error) in errors {
            if error.span().is_none() {
                found.push(explain(text, masked, 0..0, error.message()));
                return Repaired { text: None, found };
            }
            if lines.last_key_value().is_some_and(|(_, end)| span.start <= *end) {
                continue;
            }
            let start = line_start(text, span.start);
            lines.insert(start, line_end(text, start));
            // Taking out one line of several that belong together leaves brackets open that were not.
            if !(blanked && error.message().starts_with("unclosed")) {
                found.push(explain(text, masked, span, error.message()));
            }
        }
        blanked = true;
        for (start, line_end) in lines {
            let end = if text[start..line_end].trim_start().starts_with('[') {
                section_end(text, start) // without its header, the keys of a section belong nowhere
            } else {
                line_end
            };
            blank(&mut kept, start, end);
        }
    }
    Repaired { text: None, found }
}

fn line_start(text: &str, at: usize) -> usize {
    let at = text.floor_char_boundary(at.min(text.len()));
    text[..at].rfind('\n').map_or(0, |n| n + 1)
}

fn line_end(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |n| at + n)
}

fn section_end(text: &str, start: usize) -> usize {
    let mut at = line_end(text, start);
    while at < text.len() {
        let next = line_end(text, at + 1);
        if text[at + 1..next].trim_start().starts_with('[') {
            break;
        }
        at = next;
    }
    at
}

fn blank(text: &mut String, start: usize, end: usize) {
    let blanks: String = text[start..end].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }).collect();
    text.replace_range(start..end, &blanks);
}

fn open_bracket(text: &str, at: usize) -> Found {
    let (open, close) = if text[at..].starts_with('{') { ('{', '}') } else { ('[', ']') };
    Found {
        span: at..at + 1,
        message: format!("this {open} is never closed"),
        label: None,
        help: format!("add the missing {close}"),
    }
}

/// The parser's message in words that say what to do.
fn explain(text: &str, masked: &str, span: std::ops::Range<usize>, message: &str) -> Found {
    let end = span.end.min(line_end(text, line_start(text, span.start))).max(span.start);
    let marked = text.get(span.start..end).unwrap_or_default();
    let shown = masked.get(span.start..end).unwrap_or_default();
    let (what, label, help) = if message.starts_with("string values must be quoted") && marked.is_empty() {
        ("the value is missing".to_owned(), None, "write key = value, or remove the line".to_owned())
    } else if message.starts_with("string values must be quoted")
        || (message.starts_with("invalid")
            && marked.starts_with(|c: char| c.is_alphabetic())
            && !message.contains("key"))
    {
        let help = if shown == marked && !marked.contains(['"', '\'']) {
            format!("write \"{}\"", super::problems::printable(marked))
        } else {
            "put it between quotes".to_owned()
        };
        ("a text without quotes".to_owned(), None, help)
    } else if message.contains("basic string") || message.contains("literal string") {
        ("this text is not valid, or not closed".to_owned(), None, "end it with the quote it begins with".to_owned())
    } else if message.starts_with("duplicate key") {
        let what = format!("{} is given twice", super::problems::quoted(shown));
        (what, None, "keep one of the two".to_owned())
    } else if message.starts_with("key with no value") || marked == ":" {
        ("a key without a value".to_owned(), Some("expected =".to_owned()), "write key = value".to_owned())
    } else if message.starts_with("unclosed table") || message.starts_with("unclosed array table") {
        let help = "write the header of a section as [name], with nothing but letters, digits, - _ and .".to_owned();
        ("the header of a section is not closed".to_owned(), Some("expected ]".to_owned()), help)
    } else if message.contains("recurs") {
        ("nested too deeply".to_owned(), None, "a topology has two levels: sections and keys".to_owned())
    } else {
        let help = "every line is key = value, the header of a [section], or a # comment".to_owned();
        (format!("this is not TOML: {message}"), None, help)
    };
    Found { span: span.start..end, message: what, label, help }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reading_goes_on_behind_broken_lines() {
        let text = "version: 1\n[log\nkind = 1\n[a]\nb = 2m\nc = \"ok\"\nc = 2\n[d]\ne = { f = 1\n[g]\nh = 3\n";
        let repaired = check(text, text);
        let places: Vec<_> = repaired.found.iter().map(|f| text[..f.span.start].matches('\n').count() + 1).collect();
        assert_eq!(places, [9, 1, 2, 5, 7], "{:?}", repaired.found);
        let kept = repaired.text.expect("the rest can be read");
        assert_eq!(kept.split_whitespace().collect::<Vec<_>>().join(" "), "[a] c = \"ok\" [d] [g] h = 3");
        assert_eq!(kept.len(), text.len());
    }

    #[test]
    fn nesting_is_bounded() {
        for text in
            ["[".repeat(50_000), format!("a = {}", "{a=".repeat(50_000)), format!("{}a = 1", "a.".repeat(50_000))]
        {
            assert!(!check(&text, &text).found.is_empty());
        }
    }

    proptest! {
        #[test]
        fn any_text_is_repaired_or_given_up(text in "[ab.\\[\\]{}=,#\"'\\\\\n\r 1é]{0,60}") {
            let repaired = check(&text, &text);
            if let Some(kept) = repaired.text {
                prop_assert!(DeTable::parse(&kept).is_ok());
            }
            for found in repaired.found {
                prop_assert!(!found.help.is_empty());
            }
        }
    }
}
