//! A file or standard input as large pieces that end at line ends, whether packed with gzip, zstd or not at all.
//!
//! Blocking: runs on a thread of its own. Does not look into lines; memory stays bounded whatever they hold.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, Read},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use super::refused::HEAD_BYTES;
use crate::front_door::split::{BYTE_ORDER_MARK, line_length};

/// Bytes of text per piece. Large enough that what is done per piece does not matter, small enough for the cache levels
/// and for one request of [`super::HttpSink`].
pub const PIECE_BYTES: usize = 2 << 20;
/// Longest line that is held in memory. A longer one is read over; its length and its head are kept.
pub const LINE_BYTES_MAX: usize = 64 << 20;
/// Bytes asked of a pipe at once: what Linux lets a pipe hold.
const PIPE_READ_BYTES: usize = 64 << 10;
/// Buffer in front of a decoder.
const PACKED_READ_BYTES: usize = 256 << 10;
/// Bytes that tell the packing.
const MAGIC_BYTES: usize = 4;

/// Part of a source.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Whole lines with their ends; only the source's last one may lack it.
    Lines(Bytes),
    /// One line longer than [`LINE_BYTES_MAX`].
    Overlong {
        /// Its length without the line end.
        bytes: u64,
        /// How it begins.
        head: Bytes,
    },
}

/// How a source is packed; its first bytes say so, not its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// gzip, also of several members.
    Gzip,
    /// Zstandard, also of several frames.
    Zstd,
}

/// Why a source could not be read (to its end).
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It could not be opened.
    #[error("cannot open {name}: {problem}")]
    Open {
        /// The file.
        name: String,
        /// Why.
        problem: io::Error,
    },
    /// It broke on the way. Every whole line before that was handed out.
    #[error(
        "{name}: {what} after {file_bytes} bytes of the file ({text_bytes} bytes of whole lines, then {partial_bytes} bytes \
         of a line that was left out): {problem}",
        what = .packing.broken()
    )]
    Broken {
        /// The file.
        name: String,
        /// How it is packed.
        packing: Packing,
        /// Bytes of the file read so far; those of a packed file in its packed form.
        file_bytes: u64,
        /// Bytes of text handed out.
        text_bytes: u64,
        /// Bytes behind them that are no whole line.
        partial_bytes: u64,
        /// Why.
        problem: io::Error,
    },
}

/// A file or standard input being read.
pub struct Source {
    name: String,
    packing: Packing,
    reader: Box<dyn Read + Send>,
    file_bytes: Arc<AtomicU64>,
    file_bytes_total: Option<u64>,
    /// A pipe: hand out what is there rather than wait for a full piece.
    eager: bool,
    /// Text read and not yet handed out.
    pending: Vec<u8>,
    /// How much of `pending` is known to hold no line end.
    searched: usize,
    text_bytes: u64,
    started: bool,
    ended: bool,
    failure: Option<io::Error>,
}

impl Source {
    /// Opens the file at `path`, or standard input if it is `-`.
    pub fn open(path: &str) -> Result<Self, SourceError> {
        let name = if path == "-" { "stdin" } else { path };
        let opened =
            if path == "-" { io::stdin().as_fd().try_clone_to_owned().map(File::from) } else { File::open(path) };
        let from_file = |file: File| {
            let about = file.metadata()?;
            if about.is_dir() {
                return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory; name one file"));
            }
            let total = about.is_file().then_some(about.len());
            Self::from_reader(name, Box::new(file), total)
        };
        opened.and_then(from_file).map_err(|problem| SourceError::Open { name: name.to_owned(), problem })
    }

    /// Reads from `reader`. `file_bytes_total`: its length if known; without one it is taken for a pipe.
    pub fn from_reader(name: &str, reader: Box<dyn Read + Send>, file_bytes_total: Option<u64>) -> io::Result<Self> {
        let file_bytes = Arc::new(AtomicU64::new(0));
        let mut reader = Counted { reader, bytes: Arc::clone(&file_bytes) };
        let mut magic = Vec::with_capacity(MAGIC_BYTES);
        reader.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut magic)?;
        let packing = Packing::of(&magic);
        let whole = Cursor::new(magic).chain(reader);
        let packed = |reader| BufReader::with_capacity(PACKED_READ_BYTES, reader);
        let reader: Box<dyn Read + Send> = match packing {
            Packing::Plain => Box::new(whole),
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed(whole))),
            Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(packed(whole))?),
        };
        Ok(Self {
            name: name.to_owned(),
            packing,
            reader,
            file_bytes,
            file_bytes_total,
            eager: file_bytes_total.is_none(),
            pending: Vec::with_capacity(PIECE_BYTES),
            searched: 0,
            text_bytes: 0,
            started: false,
            ended: false,
            failure: None,
        })
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is packed.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// The file's length in bytes, if known.
    pub fn file_bytes_total(&self) -> Option<u64> {
        self.file_bytes_total
    }

    /// Bytes of the file read so far, updated while the source is read elsewhere.
    pub fn file_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.file_bytes)
    }

    /// The next piece; `None` at the end. After an error there is nothing more.
    pub fn next_piece(&mut self) -> Result<Option<Piece>, SourceError> {
        loop {
            if !self.ended {
                self.read_up_to(self.pending.len() + PIECE_BYTES);
            }
            let end = self.pending[self.searched..].iter().rposition(|b| *b == b'\n').map(|at| self.searched + at + 1);
            if let Some(end) = end {
                let mut rest = Vec::with_capacity(self.pending.len() - end + PIECE_BYTES);
                rest.extend_from_slice(&self.pending[end..]);
                let mut lines = std::mem::replace(&mut self.pending, rest);
                lines.truncate(end);
                self.searched = self.pending.len();
                return Ok(Some(self.lines(lines)));
            }
            self.searched = self.pending.len();
            if let Some(problem) = self.failure.take() {
                let partial_bytes = std::mem::take(&mut self.pending).len() as u64;
                self.searched = 0;
                return Err(self.broken(problem, partial_bytes));
            }
            if self.ended {
                self.searched = 0;
                let last = std::mem::take(&mut self.pending);
                return Ok(if last.is_empty() { None } else { Some(self.lines(last)) });
            }
            if self.pending.len() > LINE_BYTES_MAX {
                return Ok(Some(self.skip_line()));
            }
        }
    }

    fn lines(&mut self, lines: Vec<u8>) -> Piece {
        self.text_bytes += lines.len() as u64;
        let mark = if !self.started && lines.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        self.started = true;
        Piece::Lines(Bytes::from(lines).slice(mark..))
    }

    fn broken(&self, problem: io::Error, partial_bytes: u64) -> SourceError {
        SourceError::Broken {
            name: self.name.clone(),
            packing: self.packing,
            file_bytes: self.file_bytes.load(Ordering::Relaxed),
            text_bytes: self.text_bytes,
            partial_bytes,
            problem,
        }
    }

    /// Reads over the rest of the line that fills `pending`.
    fn skip_line(&mut self) -> Piece {
        let head = Bytes::copy_from_slice(&self.pending[..HEAD_BYTES.min(self.pending.len())]);
        let mut bytes = self.pending.len() as u64;
        self.pending = Vec::with_capacity(PIECE_BYTES);
        self.started = true;
        while !self.ended {
            self.pending.clear();
            self.read_up_to(PIECE_BYTES);
            let length = line_length(&self.pending);
            if self.pending[..length].ends_with(b"\n") {
                bytes += length as u64 - 1;
                self.text_bytes += 1;
                self.pending.drain(..length);
                break;
            }
            bytes += length as u64;
            if self.ended {
                self.pending.clear();
            }
        }
        self.text_bytes += bytes;
        self.searched = 0;
        Piece::Overlong { bytes, head }
    }

    /// Reads until `pending` has `target` bytes, or the end, or, from a pipe, once. A failure counts as an end here.
    fn read_up_to(&mut self, target: usize) {
        let before = self.pending.len();
        let wanted = target.saturating_sub(before);
        if wanted == 0 {
            return;
        }
        let read = if self.eager {
            self.pending.resize(before + wanted.min(PIPE_READ_BYTES), 0);
            let read = loop {
                match self.reader.read(&mut self.pending[before..]) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => break other,
                }
            };
            self.pending.truncate(before + read.as_ref().map_or(0, |n| *n));
            self.ended = matches!(read, Ok(0));
            read
        } else {
            let read = self.reader.by_ref().take(wanted as u64).read_to_end(&mut self.pending);
            self.ended = self.pending.len() < target;
            read
        };
        if let Err(problem) = read {
            self.ended = true;
            self.failure = Some(problem);
        }
    }
}

impl Packing {
    fn of(magic: &[u8]) -> Self {
        match magic {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // Parallel compressors begin with a skippable frame, whose first byte varies.
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Self::Zstd,
            _ => Self::Plain,
        }
    }

    fn broken(self) -> &'static str {
        match self {
            Self::Plain => "reading failed",
            Self::Gzip => "the gzip data is broken or cut off",
            Self::Zstd => "the zstd data is broken or cut off",
        }
    }
}

/// Counts the bytes of the file itself, below any decoder.
struct Counted {
    reader: Box<dyn Read + Send>,
    bytes: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buf)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
pub(crate) fn from_bytes(name: &str, bytes: Vec<u8>) -> Source {
    let total = bytes.len() as u64;
    Source::from_reader(name, Box::new(Cursor::new(bytes)), Some(total)).expect("memory can be read")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::front_door::decode::{Encoding, encode};

    /// Everything that `source` hands out, overlong lines as their lengths.
    fn drain(mut source: Source) -> (Vec<u8>, Vec<u64>, Option<SourceError>) {
        let (mut text, mut overlong) = (Vec::new(), Vec::new());
        loop {
            match source.next_piece() {
                Ok(Some(Piece::Lines(lines))) => text.extend_from_slice(&lines),
                Ok(Some(Piece::Overlong { bytes, head })) => {
                    assert_eq!(head.len(), HEAD_BYTES);
                    overlong.push(bytes);
                }
                Ok(None) => return (text, overlong, None),
                Err(error) => return (text, overlong, Some(error)),
            }
        }
    }

    fn text(lines: usize) -> Vec<u8> {
        (0..lines).flat_map(|i| format!("{{\"n\":{i},\"x\":\"{}\"}}\n", i % 977).into_bytes()).collect()
    }

    #[test]
    fn packed_and_plain_sources_give_the_same_lines() {
        let plain = text(200_000);
        assert!(plain.len() > PIECE_BYTES);
        let half = plain.len() / 2;
        let two_members = [encode(Encoding::Gzip, &plain[..half]), encode(Encoding::Gzip, &plain[half..])].concat();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9][..], &encode(Encoding::Zstd, &plain)].concat();
        let cases = [
            (Packing::Plain, plain.clone()),
            (Packing::Gzip, encode(Encoding::Gzip, &plain)),
            (Packing::Gzip, two_members),
            (Packing::Zstd, encode(Encoding::Zstd, &plain)),
            (Packing::Zstd, skippable),
        ];
        for (packing, bytes) in cases {
            let file = tempfile::NamedTempFile::new().expect("a file");
            std::fs::write(file.path(), &bytes).expect("written");
            let source = Source::open(file.path().to_str().expect("a plain path")).expect("opened");
            assert_eq!((source.packing(), source.file_bytes_total()), (packing, Some(bytes.len() as u64)));
            let read = source.file_bytes();
            let (found, _, error) = drain(source);
            assert!(found == plain && error.is_none(), "{packing:?} {error:?}");
            assert_eq!(read.load(Ordering::Relaxed), bytes.len() as u64);
        }
    }

    #[test]
    fn a_broken_tail_hands_out_the_lines_before_it_and_says_how_far_it_got() {
        let plain = text(100_000);
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let packed = encode(encoding, &plain);
            let cut = packed[..packed.len() * 2 / 3].to_vec();
            let cut_bytes = cut.len();
            let (found, _, error) = drain(from_bytes("e.json", cut));
            let message = error.expect("it is cut off").to_string();
            assert!(found.len() > 100_000 && found.ends_with(b"\n") && plain.starts_with(&found), "{message}");
            assert!(message.contains(&format!("after {cut_bytes} bytes of the file")), "{message}");
            assert!(message.contains(&format!("({} bytes of whole lines", found.len())), "{message}");
        }
    }

    #[test]
    fn odd_sources_are_read_whole() {
        for (bytes, expected) in [
            (&b""[..], &b""[..]),
            (b"\n", b"\n"),
            (b"a", b"a"),
            (b"a\r\nb", b"a\r\nb"),
            (b"\xef\xbb\xbfa\n\xef\xbb\xbfb", b"a\n\xef\xbb\xbfb"),
        ] {
            assert_eq!(drain(from_bytes("x", bytes.to_vec())).0, expected);
        }
        assert!(matches!(Source::open("/"), Err(SourceError::Open { .. })));
        assert!(matches!(Source::open("/no such file"), Err(SourceError::Open { .. })));
    }

    #[test]
    fn long_lines_pass_and_endless_ones_are_skipped_with_their_length() {
        let ten_mb = [&vec![b'x'; 10 << 20][..], b"\nshort\n"].concat();
        assert!(drain(from_bytes("x", ten_mb.clone())).0 == ten_mb);
        let endless = LINE_BYTES_MAX + 3 * PIECE_BYTES + 17;
        let bytes = [&b"before\n"[..], &vec![b'x'; endless], b"\nafter\n", &vec![b'y'; endless]].concat();
        let (found, overlong, error) = drain(from_bytes("x", encode(Encoding::Zstd, &bytes)));
        assert_eq!(std::str::from_utf8(&found), Ok("before\nafter\n"));
        assert_eq!((overlong, error.is_none()), (vec![endless as u64, endless as u64], true));
    }

    /// A pipe that gives little at a time.
    struct Drip(Vec<u8>, usize);

    impl Read for Drip {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buf.len());
            buf[..count].copy_from_slice(&self.0[..count]);
            self.0.drain(..count);
            Ok(count)
        }
    }

    proptest! {
        #[test]
        fn pipes_give_whole_lines_as_they_come(bytes in proptest::collection::vec(0u8..12, 0..300), step in 1usize..40) {
            let mut source = Source::from_reader("p", Box::new(Drip(bytes.clone(), step)), None).expect("readable");
            let mut found = Vec::new();
            while let Some(Piece::Lines(lines)) = source.next_piece().expect("never fails") {
                let is_last = found.len() + lines.len() == bytes.len();
                prop_assert!(lines.ends_with(b"\n") || is_last);
                found.extend_from_slice(&lines);
            }
            prop_assert_eq!(found, bytes);
        }
    }
}
