//! Keeps secrets out of excerpts: the text of a topology with everything that may be a secret replaced by stars.
//!
//! Pure. Masks too much rather than too little, also in broken files and in comments. The length in bytes stays, so that
//! positions stay; nobody but the owner of the file sees the excerpt's length anyway.

use std::ops::Range;

use super::{
    keys,
    lex::{Piece, lex},
    near,
};

/// Parts of words that make a key's value a secret, wherever the key stands.
const TELLTALES: [&str; 12] =
    ["secret", "token", "passw", "passphrase", "pwd", "cred", "nkey", "seed", "bearer", "apikey", "api_key", "private"];

/// Not a secret itself, but where somebody puts the token in place of its hash.
const MISTAKEN: &str = "token_sha256";

/// `text` with secrets as stars and control characters as blanks. Same length in bytes.
pub(super) fn mask(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for range in secrets(text) {
        for byte in &mut bytes[range] {
            if *byte != b'\n' {
                *byte = b'*';
            }
        }
    }
    for byte in &mut bytes {
        if byte.is_ascii_control() && !matches!(byte, b'\n' | b'\t') {
            *byte = b' ';
        }
    }
    // Ranges end at character boundaries, and only whole characters were replaced.
    String::from_utf8_lossy(&bytes).into_owned()
}

fn secrets(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    Walk::default().pieces(text, 0, &mut found);
    // Once more, line by line: an open quote hides what follows from the walk above, but not from the reader's eye.
    let mut walk = Walk::default();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        walk.pieces(line, start, &mut found);
        user_info(line, start, &mut found);
        start += line.len();
    }
    found
}

/// Credentials in addresses: from `://` to the last `@` of the line.
fn user_info(line: &str, offset: usize, found: &mut Vec<Range<usize>>) {
    if let (Some(scheme), Some(at)) = (line.find("://"), line.rfind('@'))
        && scheme + 3 < at
    {
        found.push(offset + scheme + 3..offset + at);
    }
}

/// Where the walk is.
#[derive(Default)]
struct Walk {
    /// Name of the section.
    section: String,
    /// The section itself has a secret's name: `[nats.token]`.
    section_is_secret: bool,
}

impl Walk {
    fn pieces(&mut self, text: &str, offset: usize, found: &mut Vec<Range<usize>>) {
        let pieces = lex(text);
        let mut word: Option<&str> = None;
        let mut secret_braces: Vec<bool> = Vec::new();
        let mut line_start = true;
        let mut i = 0;
        while i < pieces.len() {
            let (piece, range) = pieces[i].clone();
            i += 1;
            match piece {
                Piece::Newline => {
                    line_start = true;
                    word = None;
                    continue;
                }
                Piece::Blank => continue,
                Piece::Comment => {
                    // Values that were commented out; without its # signs a comment holds no further comments.
                    let inner = text[range.clone()].replace('#', " ");
                    let mut walk = Self { section: self.section.clone(), section_is_secret: self.section_is_secret };
                    walk.pieces(&inner, offset + range.start, found);
                }
                Piece::Sign(b'[') if line_start && secret_braces.is_empty() => {
                    let line = text[range.end..].lines().next().unwrap_or_default();
                    let header = line.split(']').next().unwrap_or_default().trim_start_matches('[');
                    self.section = last_part(header.split('.').next().unwrap_or_default()).to_owned();
                    self.section_is_secret = header.contains('.') && is_secret(last_part(header), "");
                    let rest = pieces[i..].iter().position(|(p, _)| matches!(p, Piece::Newline | Piece::Comment));
                    i = rest.map_or(pieces.len(), |n| i + n);
                }
                Piece::Word | Piece::Text { .. } => word = Some(&text[range]),
                Piece::Sign(b'=') => {
                    let key = last_part(word.take().unwrap_or_default());
                    let reference = matches!(key, "env" | "file");
                    let inherited = secret_braces.last().copied().unwrap_or(self.section_is_secret);
                    let secret = if inherited { !reference } else { is_secret(key, &self.section) };
                    i = skip_blanks(&pieces, i);
                    if pieces.get(i).is_some_and(|(p, _)| *p == Piece::Sign(b'{')) {
                        secret_braces.push(secret);
                        i += 1;
                    } else if secret {
                        let (range, next) = value(text, &pieces, i);
                        found.push(offset + range.start..offset + range.end);
                        i = next;
                    }
                }
                Piece::Sign(b'{') => secret_braces.push(secret_braces.last().copied().unwrap_or(false)),
                Piece::Sign(b'}') => drop(secret_braces.pop()),
                Piece::Sign(_) => {}
            }
            line_start = false;
        }
    }
}

fn skip_blanks(pieces: &[(Piece, Range<usize>)], mut i: usize) -> usize {
    while pieces.get(i).is_some_and(|(p, _)| *p == Piece::Blank) {
        i += 1;
    }
    i
}

fn next_line(pieces: &[(Piece, Range<usize>)], from: usize) -> usize {
    pieces[from..].iter().position(|(p, _)| *p == Piece::Newline).map_or(pieces.len(), |n| from + n)
}

/// The range of the value that begins with piece `i`, and the piece behind it. A quoted text with nothing odd behind it is
/// taken exactly, without its quotes; a list up to its end; anything else to the end of its line.
fn value(text: &str, pieces: &[(Piece, Range<usize>)], i: usize) -> (Range<usize>, usize) {
    let Some((piece, range)) = pieces.get(i).cloned() else { return (text.len()..text.len(), i) };
    let behind = skip_blanks(pieces, i + 1);
    let ends = pieces
        .get(behind)
        .is_none_or(|(p, _)| matches!(p, Piece::Newline | Piece::Comment | Piece::Sign(b',' | b'}' | b']')));
    match piece {
        Piece::Text { closed: true } if ends => (range.start + 1..range.end - 1, behind),
        Piece::Sign(b'[') => {
            let mut depth = 0usize;
            for (n, (piece, inner)) in pieces.iter().enumerate().skip(i) {
                match piece {
                    Piece::Sign(b'[') => depth += 1,
                    Piece::Sign(b']') => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    return (range.start..inner.end, n + 1);
                }
            }
            (range.start..text.len(), pieces.len())
        }
        _ => {
            let next = next_line(pieces, i);
            // An open multi-line text contains its newlines, so its own end counts.
            let end = pieces.get(next).map_or(text.len(), |(_, r)| r.start).max(range.start);
            (range.start..end, next)
        }
    }
}

fn last_part(key: &str) -> &str {
    let quotes: &[char] = &['"', '\'', ' ', '\t'];
    let key = key.trim_matches(quotes);
    key.rsplit('.').next().unwrap_or_default().trim_matches(quotes)
}

fn is_secret(key: &str, section: &str) -> bool {
    if keys::secret_names().any(|name| name == key) || key == MISTAKEN {
        return true;
    }
    if keys::plain_names(section).any(|name| name == key) {
        return false;
    }
    let plain = key.to_ascii_lowercase().replace('-', "_");
    TELLTALES.iter().any(|part| plain.contains(part))
        || near::nearest(&plain, keys::secret_names()).is_some()
        || matches!(section, "nats" | "lake" | "source")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_are_masked_wherever_they_hide() {
        for text in [
            "[nats]\ntoken = \"hunter2\" # mine\n",
            "[nats]\ntoken = 'hunter2'",
            "[nats]\ntoken = \"\"\"\nhunter2\n\"\"\"\n",
            "[nats]\ntoken = hunter2\n",
            "[nats]\ntoken = hun\"ter2 hunter2\"\n",
            "[nats]\ntoken = \"hunter2\n[log]\n",
            "[nats]\ntoken = [\"hunter2\",\n \"hunter2\"]\n",
            "[nats]\ntoken = { value = \"hunter2\" }\n",
            "[nats]\ntoken = { env = \"X\", or = \"hunter2\" }\n",
            "[nats]\ntokn = \"hunter2\"\n",
            "[nats]\nthe_word = \"hunter2\"\n",
            "[nats.token]\nliteral = \"hunter2\"\n",
            "nats.token = \"hunter2\"\n",
            "nats = { url = \"nats://h\", password = \"hunter2\" }\n",
            "[nats]\n\"password\" = \"hunter2\"\n",
            "[nats]\nurl = \"nats://u:hunter2@h\"\n",
            "[nats]\nurl = \"nats://u:hunter2@\n",
            "[lake]\nkey = \"hunter2\"\n",
            "[source.web]\npseudonyms = { fields = [\"a\"], key = \"hunter2\" }\n",
            "[source.web.pseudonyms]\nkey = \"hunter2\"\n",
            "[access.x]\ntoken = \"hunter2\"\n",
            "[access.x]\ntoken_sha256 = \"hunter2\"\n",
            "[lake]\nsecret_key = \"a\\\"hunter2\"\n",
            "# token = \"hunter2\"\n",
            "[nats] # password = hunter2\n",
            "# one # token = hun#hunter2 # three\n",
            "[engine]\nname = \"\"\"x\ntoken = \"hunter2\"\n",
            "[handler.x]\napi_key = \"hunter2\"\n",
            "[handler.x]\nDB_PASSWORD = \"hunter2\"\n",
        ] {
            let masked = mask(text);
            assert!(!masked.contains("hunter2"), "{text:?} -> {masked:?}");
            assert_eq!(masked.len(), text.len());
        }
    }

    #[test]
    fn everything_else_stays() {
        for text in [
            "[nats]\ntoken = { env = \"NATS_TOKEN\" }\ncreds = { file = \"nats.creds\" }\nurl = \"nats://h:1\"\n",
            "[sessions]\nkey = [\"domain_userid\"]\n[lake]\npath = \"lake\"\nkind = \"dir\"\n",
            "[source.web]\nwrite_keys = [\"k\"]\npseudonyms = { fields = [\"a\"], key = { env = \"X\" } }\n",
            "[access.x]\nroles = [\"ingest\"]\n[http]\ntls = { key = \"k.pem\" }\n",
            "[handler.session-features]\nsession_gap = \"30m\"\n[nats]\ntls = { key = \"k.pem\" }\n",
        ] {
            assert_eq!(mask(text), text);
        }
    }

    proptest! {
        #[test]
        fn length_and_lines_stay(text in "[tokenurl\\[\\]{}=,#\"'\\\\\n\r@:/é ]{0,60}") {
            let masked = mask(&text);
            prop_assert_eq!(masked.len(), text.len());
            prop_assert_eq!(masked.matches('\n').count(), text.matches('\n').count());
        }

        #[test]
        fn a_quoted_secret_never_shows(secret in "[a-z]{6,12}", before in "[a-z=\"'\n#]{0,10}") {
            let text = format!("{before}\npassword = \"zz{secret}\"\n");
            let shows = mask(&text).contains(&secret);
            prop_assert!(!shows);
        }
    }
}
