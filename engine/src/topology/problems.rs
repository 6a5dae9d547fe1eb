//! Everything that is wrong with a topology, together: where, what was expected, what to do.
//!
//! Values that are rendered for people, never thrown one by one. Not for run-time errors.

use std::{fmt, ops::Range, path::PathBuf};

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteSpanContents, SourceCode, SourceSpan,
};

/// Problems told at once; a file with more is not a topology.
const PROBLEMS_MAX: usize = 50;

/// Longer lines are not shown as an excerpt.
const EXCERPT_BYTES_MAX: usize = 400;

/// Longest piece of the file that a message repeats, in characters.
const QUOTED_CHARS_MAX: usize = 60;

/// One problem, not yet placed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    /// Bytes of the file.
    pub(super) span: Range<usize>,
    /// What is wrong.
    pub(super) message: String,
    /// What was expected there, if that helps.
    pub(super) label: Option<String>,
    /// What to do.
    pub(super) help: String,
}

/// One problem of a topology file.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, with the section and the key.
    pub message: String,
    /// What was expected at this place, if that helps.
    pub expected: Option<String>,
    /// What to do about it.
    pub help: String,
    /// The line as it may be shown: secrets masked.
    #[serde(skip)]
    excerpt: String,
    /// Bytes of the excerpt to mark.
    #[serde(skip)]
    marked: Range<usize>,
}

/// The problems of a topology file, in the order of the file; at least one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problems {
    path: PathBuf,
    list: Vec<Problem>,
    total: usize,
}

impl Problems {
    /// Places `found` in `text`, of which `masked` is what may be shown. `None` when nothing was found.
    pub(super) fn place(path: PathBuf, text: &str, masked: &str, mut found: Vec<Found>) -> Option<Self> {
        found.sort_by(|a, b| (a.span.start, &a.message).cmp(&(b.span.start, &b.message)));
        found.dedup();
        let total = found.len();
        let list: Vec<Problem> = found.into_iter().take(PROBLEMS_MAX).map(|f| place(text, masked, f)).collect();
        (total > 0).then_some(Self { path, list, total })
    }

    /// A problem with the file as a whole.
    pub(super) fn whole(path: PathBuf, message: String, help: &str) -> Self {
        let found = Found { span: 0..0, message, label: None, help: help.to_owned() };
        Self { path, list: vec![place("", "", found)], total: 1 }
    }

    /// The file.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// The problems, in the order of the file; the first 50 if there are more.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }

    /// How many there are, also beyond those that are told.
    pub fn total(&self) -> usize {
        self.total
    }

    /// For people: each problem with its place as `path:line:column`, an excerpt and what to do; in colour for terminals.
    pub fn render(&self, color: bool) -> String {
        let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_wrap_lines(false)
            .with_links(false)
            .without_syntax_highlighting()
            .without_primary_span_start();
        let mut out = String::new();
        for problem in &self.list {
            let report = Report { problem, at: self.location(problem) };
            if handler.render_report(&mut out, &report).is_err() {
                // Formatting into a string fails only if the renderer itself gives up; the facts still have to come out.
                out.push_str(&format!("{report}\n  help: {}\n", problem.help));
            }
            out.push('\n');
        }
        let path = printable(&self.path.display().to_string());
        let many = if self.total == 1 { "1 problem".to_owned() } else { format!("{} problems", self.total) };
        let told = self.list.len();
        let shown = if self.total > told { format!(", the first {told} are shown") } else { String::new() };
        out.push_str(&format!("{many} in {path}{shown}\n"));
        out
    }

    fn location(&self, problem: &Problem) -> String {
        format!("{}:{}:{}", printable(&self.path.display().to_string()), problem.line, problem.column)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Problems {}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

fn place(text: &str, masked: &str, found: Found) -> Problem {
    let start = boundary(text, found.span.start);
    let end = boundary(text, found.span.end).max(start);
    let line_start = text[..start].rfind('\n').map_or(0, |n| n + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |n| start + n);
    Problem {
        line: text[..line_start].matches('\n').count() + 1,
        column: text[line_start..start].trim_start_matches('\u{feff}').chars().count() + 1,
        message: found.message,
        expected: found.label,
        help: found.help,
        excerpt: masked.get(line_start..line_end).unwrap_or_default().trim_end().to_owned(),
        marked: start - line_start..end.min(line_end) - line_start,
    }
}

/// The nearest place not behind `at` where a character begins.
fn boundary(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at.min(text.len()))
}

/// A piece of the file in a message: quoted, one line, not too long.
pub(super) fn quoted(text: &str) -> String {
    let cut = text.chars().count() > QUOTED_CHARS_MAX;
    let kept: String = text.chars().take(QUOTED_CHARS_MAX).collect();
    format!("\"{}{}\"", printable(&kept), if cut { "..." } else { "" })
}

/// Without anything that would act on a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// One problem in the terms of the renderer.
#[derive(Debug)]
struct Report<'a> {
    problem: &'a Problem,
    at: String,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.problem.message)
    }
}

impl std::error::Error for Report<'_> {}

impl Diagnostic for Report<'_> {
    fn help(&self) -> Option<Box<dyn fmt::Display + '_>> {
        Some(Box::new(&self.problem.help))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        let excerpt = &self.problem.excerpt;
        (!excerpt.trim().is_empty() && excerpt.len() <= EXCERPT_BYTES_MAX).then_some(self)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let length = self.problem.excerpt.len();
        let start = boundary(&self.problem.excerpt, self.problem.marked.start);
        let end = self.problem.marked.end.clamp(start, length);
        let label = LabeledSpan::new(self.problem.expected.clone(), start, end - start);
        Some(Box::new(std::iter::once(label)))
    }
}

/// The excerpt is one line that knows its number; reading it out of the whole file would show its neighbours too.
impl SourceCode for Report<'_> {
    fn read_span<'a>(
        &'a self,
        _span: &SourceSpan,
        _lines_before: usize,
        _lines_after: usize,
    ) -> Result<Box<dyn miette::SpanContents<'a> + 'a>, miette::MietteError> {
        let line = self.problem.excerpt.as_bytes();
        Ok(Box::new(MietteSpanContents::new(line, (0, line.len()).into(), self.problem.line - 1, 0, 1)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str, span: Range<usize>) -> Problems {
        let found = Found { span, message: "what".into(), label: Some("expected".into()), help: "help".into() };
        Problems::place("a/t.toml".into(), text, text, vec![found]).expect("one problem")
    }

    #[test]
    fn places_are_lines_and_characters_from_one() {
        let text = "\u{feff}ä = 1\r\nbö = 2\n";
        let at = |needle: &str| {
            let start = text.find(needle).expect("it is there");
            let problem = one(text, start..start + needle.len()).list[0].clone();
            (problem.line, problem.column)
        };
        assert_eq!((at("ä"), at("1"), at("bö"), at("2")), ((1, 1), (1, 5), (2, 1), (2, 6)));
        let end = &one(text, text.len()..text.len()).list[0];
        assert_eq!((end.line, end.column), (3, 1));
    }

    #[test]
    fn a_report_shows_place_excerpt_expectation_and_help() {
        let text = one("a = 1\nbcd = 2\n", 12..13).render(false);
        for part in ["a/t.toml:2:7: what", "2 │ bcd = 2", "expected", "help: help", "1 problem in a/t.toml"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("a = 1") && !text.contains('\u{1b}'));
        assert!(one("a = 1\n", 4..5).render(true).contains('\u{1b}'));
    }

    proptest! {
        #[test]
        fn any_place_in_any_text_renders(text in "[ab=\"é漢\t\n\r ]{0,40}", start in 0usize..60, length in 0usize..60) {
            let problems = one(&text, start..start + length);
            let rendered = problems.render(false);
            let location = format!("a/t.toml:{}:{}: what", problems.list[0].line, problems.list[0].column);
            prop_assert!(rendered.contains(&location));
            prop_assert!(!rendered.contains("Failed to read"));
        }
    }
}
