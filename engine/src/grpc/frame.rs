//! Cuts messages out of the bytes of a call: one byte that says whether the message is packed, four that say how long it is,
//! the first of them the highest, and the message.
//!
//! Pure. Not here: whether there is room for the bytes, and how long they may take, see [`super::arrival`].

use bytes::{Buf as _, Bytes};

/// Bytes before each message.
pub(super) const PREFIX_BYTES: usize = 5;
/// Bytes that a message which comes in pieces gets at once, if it is that long.
const FIRST_BYTES: usize = 4 << 10;

/// A message as it came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Framed {
    /// Its sender packed it, in the way that the head of the call says.
    pub(super) is_packed: bool,
    pub(super) bytes: Bytes,
}

/// What cannot be a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wrong {
    /// It says that it is longer than is allowed.
    TooLarge,
    /// Its first byte is none of those that have a meaning.
    Flag(u8),
}

/// Puts a message together from pieces; never has more than one, and no memory for what was only announced.
#[derive(Debug)]
pub(super) struct Cutter {
    bytes_max: usize,
    prefix: [u8; PREFIX_BYTES],
    prefix_length: usize,
    body: Vec<u8>,
}

impl Cutter {
    /// For messages of at most `bytes_max` bytes, as they come.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, prefix: [0; PREFIX_BYTES], prefix_length: 0, body: Vec::new() }
    }

    /// Whether no message has begun.
    pub(super) fn is_empty(&self) -> bool {
        self.prefix_length == 0
    }

    /// Takes from `piece` up to the end of a message, and that message; without one, all of `piece`.
    pub(super) fn take(&mut self, piece: &mut Bytes) -> Result<Option<Framed>, Wrong> {
        let more = piece.split_to(piece.len().min(PREFIX_BYTES - self.prefix_length));
        self.prefix[self.prefix_length..][..more.len()].copy_from_slice(&more);
        self.prefix_length += more.len();
        if self.prefix_length < PREFIX_BYTES {
            return Ok(None);
        }
        let [flag, length @ ..] = self.prefix;
        let length = u32::from_be_bytes(length) as usize;
        if flag > 1 {
            return Err(Wrong::Flag(flag));
        }
        if length > self.bytes_max {
            return Err(Wrong::TooLarge);
        }
        let bytes = if self.body.is_empty() && piece.len() >= length {
            piece.split_to(length)
        } else {
            self.add(piece, length);
            if self.body.len() < length {
                return Ok(None);
            }
            Bytes::from(std::mem::take(&mut self.body))
        };
        self.prefix_length = 0;
        Ok(Some(Framed { is_packed: flag == 1, bytes }))
    }

    /// Moves what belongs to a message of `length` bytes; takes at most twice the memory of what has come.
    fn add(&mut self, piece: &mut Bytes, length: usize) {
        let missing = length - self.body.len();
        let count = missing.min(piece.len());
        if self.body.capacity() - self.body.len() < count {
            self.body.reserve_exact(missing.min((self.body.len() + count).max(FIRST_BYTES)));
        }
        self.body.extend_from_slice(&piece[..count]);
        piece.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(is_packed: bool, message: &[u8]) -> Vec<u8> {
        let length = (message.len() as u32).to_be_bytes();
        [&[u8::from(is_packed)][..], &length, message].concat()
    }

    #[test]
    fn the_length_is_read_from_its_highest_byte_on_and_refused_before_anything_is_kept() {
        let mut cutter = Cutter::new(0x1_0203);
        assert_eq!(cutter.take(&mut Bytes::from_static(&[0, 0, 1, 2])), Ok(None));
        assert!(!cutter.is_empty());
        let mut rest = Bytes::from(vec![7; 2 + 0x1_0203]);
        let (first, mut behind) = (rest.split_to(1), rest);
        let mut last = Bytes::from_static(&[3]);
        assert_eq!(cutter.take(&mut last), Ok(None));
        assert_eq!((cutter.body.capacity(), cutter.take(&mut first.clone())), (0, Ok(None)));
        assert!(cutter.body.capacity() <= FIRST_BYTES, "what is announced has no memory yet");
        let whole = cutter.take(&mut behind).expect("good").expect("whole");
        assert_eq!((whole.bytes.len(), behind.len(), cutter.is_empty()), (0x1_0203, 2, true));
        assert_eq!(cutter.take(&mut Bytes::from_static(&[0, 0, 1, 2, 4])), Err(Wrong::TooLarge));
        assert_eq!(Cutter::new(9).take(&mut Bytes::from_static(&[2, 0, 0, 0, 0])), Err(Wrong::Flag(2)));
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_however_they_are_cut(
            messages in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..8),
            sizes in proptest::collection::vec(1usize..60, 1..60),
        ) {
            let mut all = Bytes::from(messages.iter().flat_map(|(packed, message)| framed(*packed, message)).collect::<Vec<_>>());
            let (mut cutter, mut found, mut sizes) = (Cutter::new(40), Vec::new(), sizes.into_iter().cycle());
            while !all.is_empty() {
                let mut piece = all.split_to(sizes.next().unwrap_or(1).min(all.len()));
                while let Some(framed) = cutter.take(&mut piece).expect("none is too long") {
                    found.push((framed.is_packed, framed.bytes.to_vec()));
                }
                prop_assert!(piece.is_empty(), "what makes no message yet is kept");
            }
            prop_assert!(cutter.is_empty());
            prop_assert_eq!(found, messages);
        }

        #[test]
        fn no_bytes_make_it_keep_more_than_the_limit(pieces in proptest::collection::vec(proptest::collection::vec(0u8..3, 0..30), 0..20)) {
            let mut cutter = Cutter::new(300);
            for piece in pieces {
                let mut piece = Bytes::from(piece);
                while let Ok(Some(framed)) = cutter.take(&mut piece) {
                    prop_assert!(framed.bytes.len() <= 300);
                }
                prop_assert!(cutter.body.capacity() <= 300.max(FIRST_BYTES));
            }
        }
    }
}
