//! Undoes the content encoding of a request body, never beyond a limit: a few kilobytes can unpack to gigabytes.
//!
//! Pure. Not here: files, see [`crate::ingest::source`].

use std::io::{self, Read};

/// Largest window that a zstd frame may ask for, as a power of two: 8 MiB, what RFC 9659 lets HTTP clients use. Without
/// the limit one small request could make the decoder allocate 128 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// Bytes unpacked between two looks at the limits.
const STEP_BYTES: u64 = 64 * 1024;

/// How a request body is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// As it is.
    Identity,
    /// gzip, also of several members.
    Gzip,
    /// HTTP's `deflate`: the zlib format.
    Deflate,
    /// Zstandard.
    Zstd,
}

/// Why a body could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It is more than the limit when unpacked.
    #[error("the body is larger than the limit when unpacked")]
    TooLarge,
    /// It is not in the format that the header names, or cut off.
    #[error("the body is not valid {encoding}: {problem}", encoding = .0.name(), problem = .1)]
    Damaged(Encoding, io::Error),
    /// The caller has no room for more.
    #[error("no room to unpack the body")]
    NoRoom,
}

impl Encoding {
    /// The encoding with this name in a `Content-Encoding` header; `None` when it is not supported.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.trim();
        let is = |wanted: &[&str]| wanted.iter().any(|w| name.eq_ignore_ascii_case(w));
        if is(&["", "identity"]) {
            Some(Self::Identity)
        } else if is(&["gzip", "x-gzip"]) {
            Some(Self::Gzip)
        } else if is(&["deflate"]) {
            Some(Self::Deflate)
        } else if is(&["zstd"]) {
            Some(Self::Zstd)
        } else {
            None
        }
    }

    /// Its name in headers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
        }
    }
}

/// Unpacks `packed`, at most `limit` bytes. `room` is told of each step's bytes before they are kept and may say no.
pub fn decode(
    encoding: Encoding,
    packed: &[u8],
    limit: usize,
    room: &mut dyn FnMut(usize) -> bool,
) -> Result<Vec<u8>, DecodeError> {
    let damaged = |error| DecodeError::Damaged(encoding, error);
    match encoding {
        Encoding::Identity => read_all(encoding, packed, limit, room),
        Encoding::Gzip => read_all(encoding, flate2::bufread::MultiGzDecoder::new(packed), limit, room),
        Encoding::Deflate => read_all(encoding, flate2::bufread::ZlibDecoder::new(packed), limit, room),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(damaged)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(damaged)?;
            read_all(encoding, decoder, limit, room)
        }
    }
}

fn read_all(
    encoding: Encoding,
    mut from: impl Read,
    limit: usize,
    room: &mut dyn FnMut(usize) -> bool,
) -> Result<Vec<u8>, DecodeError> {
    let mut body = Vec::new();
    loop {
        let read = from.by_ref().take(STEP_BYTES).read_to_end(&mut body);
        let read = read.map_err(|error| DecodeError::Damaged(encoding, error))?;
        if read == 0 {
            return Ok(body);
        }
        if body.len() > limit {
            return Err(DecodeError::TooLarge);
        }
        if !room(read) {
            return Err(DecodeError::NoRoom);
        }
    }
}

#[cfg(test)]
pub(crate) fn encode(encoding: Encoding, body: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let level = flate2::Compression::default();
    match encoding {
        Encoding::Identity => body.to_vec(),
        Encoding::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(body).and_then(|()| encoder.finish()).expect("memory takes everything")
        }
        Encoding::Deflate => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(body).and_then(|()| encoder.finish()).expect("memory takes everything")
        }
        Encoding::Zstd => zstd::encode_all(body, 3).expect("memory takes everything"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACKED: [Encoding; 3] = [Encoding::Gzip, Encoding::Deflate, Encoding::Zstd];

    #[test]
    fn a_bomb_stops_at_the_limit() {
        for encoding in PACKED {
            let bomb = encode(encoding, &vec![0; 32 << 20]);
            assert!(bomb.len() < 64 << 10);
            let mut unpacked = 0;
            let result = decode(encoding, &bomb, 1 << 20, &mut |n| {
                unpacked += n;
                true
            });
            assert!(matches!(result, Err(DecodeError::TooLarge)), "{encoding:?}");
            assert!(unpacked <= (1 << 20) + STEP_BYTES as usize);
            assert!(matches!(decode(encoding, &bomb, 64 << 20, &mut |_| false), Err(DecodeError::NoRoom)));
        }
    }

    #[test]
    fn a_huge_window_is_refused_before_it_is_allocated() {
        // A frame header that asks for a window of 128 MiB.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x88, 0x01, 0x00, 0x00];
        assert!(matches!(decode(Encoding::Zstd, &frame, 100, &mut |_| true), Err(DecodeError::Damaged(..))));
    }

    proptest! {
        #[test]
        fn bodies_round_trip_and_cut_ones_are_damaged(body in proptest::collection::vec(any::<u8>(), 1..2000), cut in 1usize..8) {
            for encoding in PACKED {
                let packed = encode(encoding, &body);
                let whole = decode(encoding, &packed, body.len(), &mut |_| true);
                prop_assert!(whole.is_ok_and(|whole| whole == body), "{:?}", encoding);
                let short = decode(encoding, &packed[..packed.len() - cut], usize::MAX, &mut |_| true);
                prop_assert!(matches!(short, Err(DecodeError::Damaged(..))), "{:?}", encoding);
            }
        }
    }
}
