//! How the embedded log keeps events: one block per group of appends.
//!
//! Pure. A block is a header, then the records, LZ4-compressed: clickstream JSON shrinks to a fifth, which costs less
//! than writing it twice (journal and table).
//!
//! ```text
//! magic "KLb1" | first seq u64 | records u32 | newest stored i64 | raw length u32 | CRC-32C of the rest u32 | LZ4 block
//! record: stored i64 | key length u16 | payload length u32 | key | payload      (all little endian)
//! ```

use bytes::{Buf, BufMut, Bytes};
use keyloom_actors::{event::fields::Scanned, ports::LogRecord, timestamp::Timestamp};

const MAGIC: &[u8; 4] = b"KLb1";
const HEADER: usize = 32;
/// Bytes of a record beside its key and payload.
const RECORD_BYTES_MIN: usize = 14;
/// LZ4 writes no byte of its own for more than this many: what says it unpacks to more is damaged, and not believed.
const PACKED_TIMES_MAX: usize = 255;

/// What the header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Sequence of the first record.
    pub first: u64,
    /// Sequence of the last record.
    pub last: u64,
    /// When the newest record was stored.
    pub stored: Timestamp,
}

/// Encodes records with contiguous sequences; `None` when there are none. Afterwards they are slices of memory that is theirs
/// alone, as those that [`decode`] answers: who keeps one keeps at most its block, and not the request that it came with.
pub fn encode(records: &mut [LogRecord]) -> Option<Vec<u8>> {
    let (encoded, raw) = encoded(records)?;
    let mut raw = Bytes::from(raw);
    for record in &mut *records {
        raw.advance(RECORD_BYTES_MIN);
        record.key = record.key.as_ref().map(|key| raw.split_to(key.len()));
        record.payload = raw.split_to(record.payload.len());
    }
    Scanned::gather(records.iter_mut().filter_map(|record| record.scanned.as_mut()));
    Some(encoded)
}

/// The block, and what is packed in it.
fn encoded(records: &[LogRecord]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (first, last) = (records.first()?, records.last()?);
    let raw_len: usize =
        records.iter().map(|r| RECORD_BYTES_MIN + r.payload.len() + r.key.as_ref().map_or(0, Bytes::len)).sum();
    let mut raw = Vec::with_capacity(raw_len);
    for record in records {
        let key = record.key.as_deref().unwrap_or_default();
        raw.put_i64_le(record.stored.0);
        raw.put_u16_le(key.len() as u16);
        raw.put_u32_le(record.payload.len() as u32);
        raw.put_slice(key);
        raw.put_slice(&record.payload);
    }
    let mut out = vec![0; HEADER + lz4_flex::block::get_maximum_output_size(raw.len())];
    let packed = lz4_flex::block::compress_into(&raw, &mut out[HEADER..]).expect("the output has the maximum size");
    out.truncate(HEADER + packed);
    let crc = crc32c::crc32c(&out[HEADER..]);
    let mut header = &mut out[..HEADER];
    header.put_slice(MAGIC);
    header.put_u64_le(first.seq);
    header.put_u32_le(records.len() as u32);
    header.put_i64_le(last.stored.0);
    header.put_u32_le(raw.len() as u32);
    header.put_u32_le(crc);
    Some((out, raw))
}

/// Reads the header alone.
pub fn header(block: &[u8]) -> Result<Header, String> {
    if block.len() < HEADER || &block[..4] != MAGIC {
        return Err("not a block of the log".to_owned());
    }
    let mut rest = &block[4..];
    let first = rest.get_u64_le();
    let count = u64::from(rest.get_u32_le());
    if count == 0 {
        return Err("an empty block".to_owned());
    }
    let last = first.checked_add(count - 1).ok_or("sequences that do not exist")?;
    Ok(Header { first, last, stored: Timestamp(rest.get_i64_le()) })
}

/// Decodes the records from sequence `from` on.
pub fn decode(block: &[u8], from: u64) -> Result<Vec<LogRecord>, String> {
    let Header { first, last, .. } = header(block)?;
    let mut lengths = &block[24..HEADER];
    let (raw_len, crc) = (lengths.get_u32_le() as usize, lengths.get_u32_le());
    if crc != crc32c::crc32c(&block[HEADER..]) {
        return Err(format!("the checksum of events {first} to {last} does not match"));
    }
    // The header is outside of the checksum: its numbers must not make anybody reserve what is not there.
    if raw_len > (block.len() - HEADER).saturating_mul(PACKED_TIMES_MAX) {
        return Err(format!("events {first} to {last} cannot have {raw_len} bytes"));
    }
    let raw = lz4_flex::block::decompress(&block[HEADER..], raw_len).map_err(|e| e.to_string())?;
    let mut raw = Bytes::from(raw);
    let mut records = Vec::with_capacity((last - first).min((raw_len / RECORD_BYTES_MIN) as u64) as usize + 1);
    for seq in first..=last {
        if raw.len() < RECORD_BYTES_MIN {
            return Err(format!("event {seq} is cut short"));
        }
        let stored = Timestamp(raw.get_i64_le());
        let (key_len, payload_len) = (usize::from(raw.get_u16_le()), raw.get_u32_le() as usize);
        if raw.len() < key_len + payload_len {
            return Err(format!("event {seq} is cut short"));
        }
        let key = raw.split_to(key_len);
        let payload = raw.split_to(payload_len);
        if seq >= from {
            let key = (!key.is_empty()).then_some(key);
            records.push(LogRecord { seq, stored, key, payload, scanned: None, envelope: None });
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use keyloom_actors::event::fields::Known;
    use proptest::prelude::*;

    use super::*;

    fn records(payloads: &[Vec<u8>]) -> Vec<LogRecord> {
        let record = |(i, payload): (usize, &Vec<u8>)| LogRecord {
            seq: 5 + i as u64,
            stored: Timestamp(i as i64),
            key: (i % 3 != 0).then(|| Bytes::from(format!("key{i}"))),
            payload: payload.clone().into(),
            scanned: None,
            envelope: None,
        };
        payloads.iter().enumerate().map(record).collect()
    }

    proptest! {
        #[test]
        fn blocks_round_trip(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 1..40)) {
            let before = records(&payloads);
            let mut kept = before.clone();
            let block = encode(&mut kept).expect("not empty");
            for (a, b) in kept.iter().zip(&before) {
                prop_assert_eq!((a.seq, a.stored, &a.key, &a.payload), (b.seq, b.stored, &b.key, &b.payload));
            }
            let last = 4 + payloads.len() as u64;
            prop_assert_eq!(header(&block), Ok(Header { first: 5, last, stored: Timestamp(payloads.len() as i64 - 1) }));
            let after = decode(&block, 6).expect("intact");
            prop_assert_eq!(after.len(), before.len() - 1);
            for (a, b) in after.iter().zip(&before[1..]) {
                prop_assert_eq!((a.seq, a.stored, &a.key, &a.payload), (b.seq, b.stored, &b.key, &b.payload));
            }
        }

        #[test]
        fn damage_is_noticed(at in 0usize..500, bit in 0u8..8) {
            let mut block = encode(&mut records(&vec![b"{\"some\":\"payload\"}".to_vec(); 20])).expect("not empty");
            let at = 32 + at % (block.len() - 32);
            block[at] ^= 1 << bit;
            prop_assert!(decode(&block, 0).is_err());
        }

        #[test]
        fn damaged_numbers_reserve_nothing(at in 4usize..32, byte in any::<u8>()) {
            let mut block = encode(&mut records(&vec![b"{}".to_vec(); 3])).expect("not empty");
            block[at] = byte;
            if let Ok(records) = decode(&block, 0) {
                prop_assert!(records.len() <= 3 && records.capacity() <= 8);
            }
        }

        #[test]
        fn records_keep_nothing_else_in_memory(sizes in proptest::collection::vec(0usize..50, 1..9)) {
            let body = Bytes::from(vec![b'x'; 10_000]);
            let fields = Arc::new(Vec::new());
            let mut kept = records(&vec![Vec::new(); sizes.len()]);
            for (record, size) in kept.iter_mut().zip(&sizes) {
                record.payload = body.slice(0..*size);
                record.key = Some(body.slice(5..6));
                record.scanned = Some(Scanned::new(Arc::clone(&fields), 0..0, Known::default()));
            }
            encode(&mut kept).expect("not empty");
            prop_assert!(body.is_unique(), "nobody but this test has the body");
            prop_assert_eq!(Arc::strong_count(&fields), 1);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _either_way = decode(&bytes, 0);
            let mut framed = b"KLb1".to_vec();
            framed.extend(bytes);
            let _either_way = header(&framed);
            let _either_way = decode(&framed, 0);
        }
    }
}
