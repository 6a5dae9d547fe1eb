//! Dead letters and what became of them, in words for a terminal.
//!
//! Pure. The JSON of the same is made where the answers are, see `dead_letters/answer.rs`.

use std::io::{self, Write};

use crate::dead_letters::{Action, Letter, Report, shortened};

/// Longest key and error in a table, in characters.
const KEY_CHARS_MAX: usize = 32;
const ERROR_CHARS_MAX: usize = 80;

/// The names of the columns.
pub fn header(out: &mut impl Write) -> io::Result<()> {
    columns(out, ["ID", "REASON", "ATTEMPTS", "STORED", "KEY", "ERROR"])
}

/// One letter of a list.
pub fn row(out: &mut impl Write, letter: &Letter) -> io::Result<()> {
    let (key, error) = (plain(&letter.key, KEY_CHARS_MAX), plain(&letter.error, ERROR_CHARS_MAX));
    let (id, attempts) = (letter.id.to_string(), letter.attempts.to_string());
    columns(out, [&id, letter.reason.label(), &attempts, &letter.stored, &key, &error])
}

fn columns(out: &mut impl Write, [id, reason, attempts, stored, key, error]: [&str; 6]) -> io::Result<()> {
    writeln!(out, "{id:<12} {reason:<9} {attempts:>8}  {stored:<27} {key:<KEY_CHARS_MAX$} {error}")
}

/// One line that no terminal takes for a command.
fn plain(text: &str, chars_max: usize) -> String {
    let escaped: String = shortened(text, chars_max).chars().map(plain_char).collect();
    if escaped.is_empty() { "-".to_owned() } else { escaped }
}

fn plain_char(char: char) -> String {
    if char.is_control() { char.escape_default().to_string() } else { char.to_string() }
}

/// All of one letter.
pub fn show(out: &mut impl Write, letter: &Letter) -> io::Result<()> {
    let lines =
        |text: &str| text.chars().map(|c| if c == '\n' { c.to_string() } else { plain_char(c) }).collect::<String>();
    writeln!(out, "id        {}", letter.id)?;
    writeln!(out, "key       {}", plain(&letter.key, usize::MAX))?;
    writeln!(out, "reason    {}", letter.reason.label())?;
    writeln!(out, "error     {}", lines(&letter.error))?;
    writeln!(out, "attempts  {}", letter.attempts)?;
    writeln!(out, "stored    {}", letter.stored)?;
    let cut = if letter.payload_cut { ", of which the beginning was kept" } else { "" };
    let hex = if letter.payload_hex.is_some() { ", in hexadecimal because they are no text" } else { "" };
    writeln!(out, "payload   {} bytes{cut}{hex}", letter.payload_bytes)?;
    let payload = letter.payload.as_deref().or(letter.payload_hex.as_deref()).unwrap_or("");
    writeln!(out, "{}", lines(payload))
}

/// What was done, and what was not.
pub fn in_words(report: &Report) -> String {
    let done = match (report.action, report.dry_run) {
        (Action::Redrive, false) => "sent again",
        (Action::Redrive, true) => "would be sent again",
        (Action::Purge, false) => "removed",
        (Action::Purge, true) => "would be removed",
    };
    let mut text = format!("{} {done}", letters(report.done));
    if report.already_stored > 0 {
        text += &format!("; the log had {} of them already and absorbed the repeat", report.already_stored);
    }
    text.push('\n');
    for skipped in &report.skipped {
        text += &format!("left {}: {}\n", skipped.id, plain(&skipped.why, usize::MAX));
    }
    if report.skipped_more > 0 {
        text += &format!("left {} more for such reasons\n", report.skipped_more);
    }
    for id in &report.missing {
        text += &format!("there is no dead letter {id}\n");
    }
    text
}

/// So many of them.
pub fn letters(count: u64) -> String {
    if count == 1 { "1 dead letter".to_owned() } else { format!("{count} dead letters") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letters::LetterId;

    #[test]
    fn nothing_in_a_letter_commands_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\nc\u{9b}", 20), "a\\u{1b}[2Jb\\nc\\u{9b}");
        assert_eq!(plain("üüü", 2), "üü...");
        assert_eq!(plain("", 2), "-");
    }

    #[test]
    fn reports_are_said_in_words() {
        let mut report = Report::new(Action::Redrive, false);
        report.done = 1;
        report.already_stored = 1;
        let id = LetterId { partition: 0, seq: 7 };
        report.skip(id, "cut".to_owned());
        report.missing.push(id);
        assert_eq!(
            in_words(&report),
            "1 dead letter sent again; the log had 1 of them already and absorbed the repeat\nleft 0:7: cut\n\
             there is no dead letter 0:7\n"
        );
        assert_eq!(in_words(&Report::new(Action::Purge, true)), "0 dead letters would be removed\n");
    }
}
