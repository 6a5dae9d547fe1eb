//! What the store holds: the byte forms of session state, checkpoints, dead letters, table cursors and intents.
//!
//! Pure. Every record is sealed: a magic, a format version, the body, a CRC-32C over all of it. A reader refuses what it
//! does not know instead of guessing.

use std::{collections::BTreeMap, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    backend::Progress,
    careful::Care,
    dead_letter::{DeadLetter, Reason},
    handler::{
        look_ups::{LookUp, LookUps},
        timers::Timers,
        waiting::Waiting,
    },
    table::outbox::OutboxEnd,
    timestamp::Timestamp,
};

const FORMAT: u8 = 1;
/// Of state records: 2 added questions and declared features.
const STATE_FORMAT: u8 = 2;
const STATE: &[u8; 4] = b"KLst";
const CHECKPOINT: &[u8; 4] = b"KLck";
const DEAD: &[u8; 4] = b"KLdl";
const INTENT: &[u8; 4] = b"KLin";
const OUTPUT: &[u8; 4] = b"KLou";
const HEAD: &[u8; 4] = b"KLhd";
const BLOCK: &[u8; 4] = b"KLob";
const CARE: &[u8; 4] = b"KLca";
const TIMER: &[u8; 4] = b"KLti";
const BACKEND: &[u8; 4] = b"KLbe";
const VERSION: &str = "state version";

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Other bytes than the record was written with.
    #[error("{0}: the checksum does not match")]
    Checksum(&'static str),
    /// Not this kind of record at all.
    #[error("{0}: not such a record")]
    Foreign(&'static str),
    /// Written by a newer Keyloom.
    #[error("{0}: format version {1} is newer than this program; run the newer release, or restore a backup")]
    Newer(&'static str, u8),
    /// The body does not decode.
    #[error("{0}: {1}")]
    Body(&'static str, String),
}

fn seal(magic: &[u8; 4], body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(body.len() + 9);
    out.put_slice(magic);
    out.put_u8(format_of(magic));
    out.put_slice(body);
    let crc = crc32c::crc32c(&out);
    out.put_u32_le(crc);
    out.freeze()
}

fn format_of(magic: &[u8; 4]) -> u8 {
    if magic == STATE { STATE_FORMAT } else { FORMAT }
}

/// The format and the body.
fn open<'a>(magic: &[u8; 4], what: &'static str, bytes: &'a [u8]) -> Result<(u8, &'a [u8]), RecordError> {
    if bytes.len() < 9 || &bytes[..4] != magic {
        return Err(RecordError::Foreign(what));
    }
    let (sealed, crc) = bytes.split_at(bytes.len() - 4);
    if crc != crc32c::crc32c(sealed).to_le_bytes() {
        return Err(RecordError::Checksum(what));
    }
    match sealed[4] {
        format if format <= format_of(magic) => Ok((format, &sealed[5..])),
        newer => Err(RecordError::Newer(what, newer)),
    }
}

fn seal_named<T: Serialize>(magic: &[u8; 4], value: &T) -> Bytes {
    let body = rmp_serde::to_vec_named(value).expect("plain values in memory serialize");
    seal(magic, &body)
}

fn open_named<T: DeserializeOwned>(magic: &[u8; 4], what: &'static str, bytes: &[u8]) -> Result<T, RecordError> {
    let (_, body) = open(magic, what, bytes)?;
    rmp_serde::from_slice(body).map_err(|e| RecordError::Body(what, e.to_string()))
}

// ---- checkpoint -----------------------------------------------------------------------------------------------------

/// How many events ended in which way, up to a cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Changed their session.
    pub applied: u64,
    /// Were absorbed as repeats by their session.
    pub duplicate: u64,
    /// Were given up, by reason.
    pub dead_lettered: BTreeMap<String, u64>,
    /// Were lost before they could be processed (retention), by reason.
    pub dropped: BTreeMap<String, u64>,
}

impl Counters {
    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        self.applied += other.applied;
        self.duplicate += other.duplicate;
        for (reason, n) in &other.dead_lettered {
            *self.dead_lettered.entry(reason.clone()).or_default() += n;
        }
        for (reason, n) in &other.dropped {
            *self.dropped.entry(reason.clone()).or_default() += n;
        }
    }

    /// Counts one dead letter.
    pub fn add_dead(&mut self, reason: Reason) {
        *self.dead_lettered.entry(reason.label().to_owned()).or_default() += 1;
    }

    /// All dead letters.
    pub fn dead(&self) -> u64 {
        self.dead_lettered.values().sum()
    }

    /// All dropped events.
    pub fn dropped(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// All events that ended.
    pub fn total(&self) -> u64 {
        self.applied + self.duplicate + self.dead() + self.dropped()
    }
}

/// The record that makes a checkpoint true. Committed last, by itself or at the end of its last batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Ordinal of the checkpoint.
    pub n: u64,
    /// It covers every event up to this sequence, except what lagging keys still owe.
    pub cut: u64,
    /// Keys that owe events at or below the cut; their state records list which.
    pub lagging: Vec<String>,
    /// The oldest event that they owe; 0 when there is none, or when the record is older than this field.
    #[serde(default)]
    pub owed_from: u64,
    /// Ends of events up to the cut.
    pub counters: Counters,
    /// For each epoch, the last ordinal that it committed.
    pub lines: BTreeMap<u64, u64>,
    /// The partition's clock: the highest event time so far, see [`crate::event::Event::proves`].
    pub clock: Timestamp,
    /// How far the outbox of each table of emitted rows goes.
    #[serde(default)]
    pub outbox: BTreeMap<String, OutboxEnd>,
}

impl Checkpoint {
    /// Whether what was written under `tag` counts.
    pub fn is_valid(&self, tag: Tag) -> bool {
        self.lines.get(&tag.epoch).is_some_and(|last| tag.n <= *last)
    }

    /// The oldest event that is not processed, what lagging keys owe included.
    pub fn progress(&self) -> u64 {
        let next = self.cut + 1;
        if self.owed_from > 0 { next.min(self.owed_from) } else { next }
    }

    /// As stored.
    pub fn encode(&self) -> Bytes {
        seal_named(CHECKPOINT, self)
    }

    /// From the store.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        open_named(CHECKPOINT, "checkpoint record", bytes)
    }
}

/// Which checkpoint wrote something: valid once that checkpoint's record committed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Tag {
    /// Ordinal of the checkpoint.
    pub n: u64,
    /// Epoch of the owner that wrote it.
    pub epoch: u64,
}

// ---- session state --------------------------------------------------------------------------------------------------

/// One version of a session's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateVersion {
    /// The last sequence consumed, dead letters included.
    pub applied: u64,
    /// Event time of the last event.
    pub event_time: Timestamp,
    /// Name of the handler that owns `payload`.
    pub handler: String,
    /// Version of the handler's state type.
    pub state_version: u32,
    /// Hashes of the last event ids, oldest first.
    pub recent_ids: Vec<u64>,
    /// Its timers and outstanding questions.
    pub waiting: Waiting,
    /// Sequences at or below the cut that the key still owes (lagging keys).
    pub owed: Vec<u64>,
    /// The state of the declared features, see [`crate::features`]; empty when there is none.
    pub features: Bytes,
    /// The handler's state, named MessagePack.
    pub payload: Bytes,
}

/// What a version says beside ids and payloads.
#[derive(Clone, Copy, Debug)]
pub struct VersionHead<'a> {
    /// The last sequence consumed.
    pub applied: u64,
    /// Event time of the last event.
    pub event_time: Timestamp,
    /// Name of the handler.
    pub handler: &'a str,
    /// Version of its state type.
    pub state_version: u32,
    /// The key's timers and outstanding questions.
    pub waiting: &'a Waiting,
}

/// Encodes a version without its tag: what the pool keeps until a checkpoint takes it.
pub fn encode_version(
    head: VersionHead<'_>,
    recent_ids: impl ExactSizeIterator<Item = u64>,
    features: impl FnOnce(&mut Vec<u8>),
    payload: impl FnOnce(&mut Vec<u8>),
) -> Bytes {
    let mut out = Vec::with_capacity(64 + recent_ids.len() * 8 + 512);
    out.put_u64_le(head.applied);
    out.put_i64_le(head.event_time.0);
    put_short(&mut out, head.handler);
    out.put_u32_le(head.state_version);
    out.put_u16_le(recent_ids.len().min(usize::from(u16::MAX)) as u16);
    recent_ids.take(usize::from(u16::MAX)).for_each(|id| out.put_u64_le(id));
    let Waiting { timers, look_ups } = head.waiting;
    out.put_u16_le(timers.iter().len() as u16);
    for (due, name) in timers.iter() {
        out.put_i64_le(due.0);
        put_short(&mut out, name);
    }
    out.put_u32_le(0); // owed sequences: see [`with_owed`]
    out.put_u8(look_ups.iter().len() as u8);
    for look_up in look_ups.iter() {
        put_short(&mut out, &look_up.name);
        out.put_u64_le(look_up.asked);
        out.put_i64_le(look_up.time.0);
        out.put_u32_le(look_up.timeout.as_millis() as u32);
        out.put_u32_le(look_up.question.len() as u32);
        out.put_slice(&look_up.question);
    }
    let at = out.len();
    out.put_u32_le(0);
    features(&mut out);
    let len = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
    payload(&mut out);
    out.into()
}

fn put_short(out: &mut Vec<u8>, text: &str) {
    out.put_u8(text.len().min(255) as u8);
    out.put_slice(&text.as_bytes()[..text.len().min(255)]);
}

fn short<'a>(rest: &mut &'a [u8], what: &'static str) -> Result<&'a str, RecordError> {
    let len = split(rest, 1, what)?[0];
    let text = split(rest, usize::from(len), what)?;
    std::str::from_utf8(text).map_err(|e| RecordError::Body(what, e.to_string()))
}

/// The last sequence consumed in an encoded version.
pub fn applied_of(version: &[u8]) -> u64 {
    version.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The same version, with these sequences as what its key still owes.
pub fn with_owed(version: &[u8], owed: &[u64]) -> Result<Bytes, RecordError> {
    let mut rest = version;
    to_timers(&mut rest)?;
    timers(&mut rest)?;
    let head = &version[..version.len() - rest.len()];
    owed_of(&mut rest)?;
    let mut out = Vec::with_capacity(version.len() + owed.len() * 8);
    out.put_slice(head);
    out.put_u32_le(owed.len() as u32);
    owed.iter().for_each(|seq| out.put_u64_le(*seq));
    out.put_slice(rest);
    Ok(out.into())
}

/// When the key of an encoded version must be looked after: when its first timer is due, and at once while an answer is
/// outstanding, because who starts from here does not know that it was asked for.
pub fn next_due_of(version: &[u8]) -> Option<Timestamp> {
    let mut rest = version;
    to_timers(&mut rest).ok()?;
    let timers = timers(&mut rest).ok()?;
    owed_of(&mut rest).ok()?;
    if rest.first().is_some_and(|look_ups| *look_ups > 0) { Some(Timestamp(0)) } else { timers.next_due() }
}

/// Passes over everything before the timers.
fn to_timers(rest: &mut &[u8]) -> Result<(), RecordError> {
    split(rest, 16, VERSION)?;
    short(rest, VERSION)?;
    split(rest, 4, VERSION)?;
    let ids = u16_le(rest, VERSION)?;
    split(rest, usize::from(ids) * 8, VERSION).map(drop)
}

fn timers(rest: &mut &[u8]) -> Result<Timers, RecordError> {
    let count = u16_le(rest, VERSION)?;
    let timer = |_| {
        let due = Timestamp(u64_le(rest, VERSION)? as i64);
        Ok((due, short(rest, VERSION)?.into()))
    };
    (0..count).map(timer).collect::<Result<_, _>>().map(Timers::from_stored)
}

fn look_ups(rest: &mut &[u8]) -> Result<LookUps, RecordError> {
    let count = split(rest, 1, VERSION)?[0];
    let look_up = |_| {
        let name = short(rest, VERSION)?.into();
        let asked = u64_le(rest, VERSION)?;
        let time = Timestamp(u64_le(rest, VERSION)? as i64);
        let timeout = Duration::from_millis(u64::from(u32_le(rest, VERSION)?));
        let len = u32_le(rest, VERSION)? as usize;
        let question = Bytes::copy_from_slice(split(rest, len, VERSION)?);
        Ok(LookUp { name, asked, time, timeout, question })
    };
    (0..count).map(look_up).collect::<Result<_, _>>().map(LookUps::from_stored)
}

fn owed_of(rest: &mut &[u8]) -> Result<Vec<u64>, RecordError> {
    let count = u32_le(rest, VERSION)? as usize;
    let bytes = split(rest, count.saturating_mul(8), VERSION)?;
    Ok(bytes.chunks_exact(8).map(|mut seq| seq.get_u64_le()).collect())
}

/// A state record: the committed version, if any, and the one that checkpoint `tag` writes.
pub fn encode_state(committed: Option<(Tag, &[u8])>, tag: Tag, version: &[u8]) -> Bytes {
    let both = [committed, Some((tag, version))];
    let mut body = Vec::with_capacity(both.iter().flatten().map(|v| v.1.len() + 20).sum());
    for (tag, version) in both.into_iter().flatten() {
        body.put_u64_le(tag.n);
        body.put_u64_le(tag.epoch);
        body.put_u32_le(version.len() as u32);
        body.put_slice(version);
    }
    seal(STATE, &body)
}

/// What a state record holds under some checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ValidVersion {
    /// The newest version that counts, still encoded.
    pub newest: Option<(Tag, Bytes)>,
    /// There is another one that does not: a checkpoint that wrote it was never finished. What that checkpoint wrote
    /// beside it without a tag may be of either.
    pub is_after_crash: bool,
}

/// The newest version in a state record that `checkpoint` makes valid.
pub fn valid_version(record: &Bytes, checkpoint: &Checkpoint) -> Result<ValidVersion, RecordError> {
    const WHAT: &str = "state record";
    let (format, mut rest) = open(STATE, WHAT, record)?;
    let mut found = ValidVersion::default();
    while !rest.is_empty() {
        let tag = Tag { n: u64_le(&mut rest, WHAT)?, epoch: u64_le(&mut rest, WHAT)? };
        let len = u32_le(&mut rest, WHAT)? as usize;
        let version = split(&mut rest, len, WHAT)?;
        if !checkpoint.is_valid(tag) {
            found.is_after_crash = true;
        } else if found.newest.as_ref().is_none_or(|(t, _)| *t < tag) {
            // A copy: a slice would keep the whole record, and whatever block of the store it came in, for as long as the
            // session is resident.
            let version = if format == 1 { from_format_1(version)? } else { Bytes::copy_from_slice(version) };
            found.newest = Some((tag, version));
        }
    }
    Ok(found)
}

/// Format 1 had neither questions nor declared features.
fn from_format_1(version: &[u8]) -> Result<Bytes, RecordError> {
    let mut rest = version;
    to_timers(&mut rest)?;
    timers(&mut rest)?;
    owed_of(&mut rest)?;
    let mut out = Vec::with_capacity(version.len() + 5);
    out.put_slice(&version[..version.len() - rest.len()]);
    out.put_u8(0);
    out.put_u32_le(0);
    out.put_slice(rest);
    Ok(out.into())
}

/// Decodes what [`encode_version`] made.
pub fn decode_version(version: &Bytes) -> Result<StateVersion, RecordError> {
    let mut rest: &[u8] = version;
    let applied = u64_le(&mut rest, VERSION)?;
    let event_time = Timestamp(u64_le(&mut rest, VERSION)? as i64);
    let handler = short(&mut rest, VERSION)?.to_owned();
    let state_version = u32_le(&mut rest, VERSION)?;
    let ids = u16_le(&mut rest, VERSION)?;
    let recent_ids = (0..ids).map(|_| u64_le(&mut rest, VERSION)).collect::<Result<_, _>>()?;
    let timers = timers(&mut rest)?;
    let owed = owed_of(&mut rest)?;
    let waiting = Waiting { timers, look_ups: look_ups(&mut rest)? };
    let len = u32_le(&mut rest, VERSION)? as usize;
    let features = version.slice_ref(split(&mut rest, len, VERSION)?);
    let payload = version.slice_ref(rest);
    Ok(StateVersion { applied, event_time, handler, state_version, recent_ids, waiting, owed, features, payload })
}

fn split<'a>(rest: &mut &'a [u8], len: usize, what: &'static str) -> Result<&'a [u8], RecordError> {
    let (head, tail) = rest.split_at_checked(len).ok_or_else(|| RecordError::Body(what, "cut short".to_owned()))?;
    *rest = tail;
    Ok(head)
}

fn u16_le(rest: &mut &[u8], what: &'static str) -> Result<u16, RecordError> {
    split(rest, 2, what).map(|b| u16::from_le_bytes([b[0], b[1]]))
}

fn u32_le(rest: &mut &[u8], what: &'static str) -> Result<u32, RecordError> {
    split(rest, 4, what).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn u64_le(rest: &mut &[u8], what: &'static str) -> Result<u64, RecordError> {
    let low = u32_le(rest, what)?;
    let high = u32_le(rest, what)?;
    Ok(u64::from(high) << 32 | u64::from(low))
}

// ---- the smaller records --------------------------------------------------------------------------------------------

/// The value of the head record: unique per batch, and how far published features may be ahead of the checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Epoch of the owner that wrote the batch.
    pub epoch: u64,
    /// Number of the batch in that epoch.
    pub batch: u64,
    /// No feature published so far is of a later sequence than this. A successor publishes nothing for a key before it
    /// has consumed that key's events up to here, so features never go back in time.
    pub published: u64,
}

impl Head {
    /// As stored.
    pub fn encode(&self) -> Bytes {
        seal_named(HEAD, self)
    }

    /// From the store.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        open_named(HEAD, "head record", bytes)
    }
}

/// When the first timer of a key is due, as stored.
pub fn encode_first_timer(due: Timestamp) -> Bytes {
    seal(TIMER, &due.0.to_le_bytes())
}

/// From the store.
pub fn decode_first_timer(bytes: &[u8]) -> Result<Timestamp, RecordError> {
    const WHAT: &str = "first timer of a key";
    let (_, mut rest) = open(TIMER, WHAT, bytes)?;
    u64_le(&mut rest, WHAT).map(|due| Timestamp(due as i64))
}

/// What a table is about to write: recorded before the first PUT, so that a crash repeats exactly this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// First position of the cut.
    pub first: u64,
    /// Last position of the cut.
    pub last: u64,
    /// Names of its files.
    pub names: Vec<String>,
}

impl Intent {
    /// As stored.
    pub fn encode(&self) -> Bytes {
        seal_named(INTENT, self)
    }

    /// From the store.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        open_named(INTENT, "table intent", bytes)
    }
}

/// What the positions of a table mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Follows {
    /// Sequences of the log.
    #[default]
    Log,
    /// Blocks of its outbox.
    Outbox,
}

/// A table's cursor and totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// What it follows.
    #[serde(default)]
    pub follows: Follows,
    /// Everything up to this position is in the lake.
    pub cursor: u64,
    /// Of an outbox, the bytes of the blocks up to the cursor ...
    #[serde(default)]
    pub block_bytes: u64,
    /// ... and up to which block they are removed for sure.
    #[serde(default)]
    pub removed: u64,
    /// Rows written so far.
    pub rows: u64,
    /// Files written so far.
    pub files: u64,
    /// Bytes written so far.
    pub bytes: u64,
}

impl Output {
    /// As stored.
    pub fn encode(&self) -> Bytes {
        seal_named(OUTPUT, self)
    }

    /// From the store.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        open_named(OUTPUT, "table cursor", bytes)
    }
}

/// A block of an outbox: `count` rows, each behind its length in 4 bytes. The tag is for people who look.
pub fn encode_block(tag: Tag, count: u32, rows: &[u8]) -> Bytes {
    let mut body = Vec::with_capacity(20 + rows.len());
    body.put_u64_le(tag.n);
    body.put_u64_le(tag.epoch);
    body.put_u32_le(count);
    body.put_slice(rows);
    seal(BLOCK, &body)
}

/// The rows of a block from the store.
pub fn decode_block(record: &Bytes) -> Result<Vec<Bytes>, RecordError> {
    const WHAT: &str = "outbox block";
    let (_, mut rest) = open(BLOCK, WHAT, record)?;
    split(&mut rest, 16, WHAT)?;
    let count = u32_le(&mut rest, WHAT)?;
    let row = |_| {
        let len = u32_le(&mut rest, WHAT)?;
        split(&mut rest, len as usize, WHAT).map(|row| record.slice_ref(row))
    };
    (0..count).map(row).collect()
}

impl Progress {
    /// To bytes.
    pub fn encode(&self) -> Bytes {
        seal_named(BACKEND, self)
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        open_named(BACKEND, "progress of the feature backend", bytes)
    }
}

impl Care {
    /// As stored.
    pub fn encode(&self) -> Bytes {
        seal_named(CARE, self)
    }

    /// From the store.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        open_named(CARE, "record of starts", bytes)
    }
}

#[derive(Serialize, Deserialize)]
struct DeadBody {
    tag: Tag,
    seq: u64,
    key: String,
    reason: Reason,
    error: String,
    attempts: u32,
    stored: Timestamp,
    payload: Bytes,
    payload_bytes: u64,
}

/// A dead letter as stored; it counts once checkpoint `tag` committed.
pub fn encode_dead_letter(letter: &DeadLetter, tag: Tag) -> Bytes {
    let body = DeadBody {
        tag,
        seq: letter.seq,
        key: letter.key.clone(),
        reason: letter.reason,
        error: letter.error.clone(),
        attempts: letter.attempts,
        stored: letter.stored,
        payload: letter.payload.clone(),
        payload_bytes: letter.payload_bytes,
    };
    seal_named(DEAD, &body)
}

/// A dead letter from the store, with the checkpoint that wrote it.
pub fn decode_dead_letter(bytes: &[u8]) -> Result<(DeadLetter, Tag), RecordError> {
    let body: DeadBody = open_named(DEAD, "dead letter", bytes)?;
    let letter = DeadLetter {
        seq: body.seq,
        key: body.key,
        reason: body.reason,
        error: body.error,
        attempts: body.attempts,
        stored: body.stored,
        payload: body.payload,
        payload_bytes: body.payload_bytes,
    };
    Ok((letter, body.tag))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(applied: u64, payload: &'static [u8]) -> Bytes {
        let timers = Timers::from_stored(vec![(Timestamp(8), "b".into()), (Timestamp(6), "a".into())]);
        let waiting = Waiting { timers, ..Waiting::default() };
        let event_time = Timestamp(5);
        let head = VersionHead { applied, event_time, handler: "h", state_version: 3, waiting: &waiting };
        let ids = [1u64, 2].into_iter();
        encode_version(head, ids, |out| out.extend_from_slice(b"feats"), |out| out.extend_from_slice(payload))
    }

    fn checkpoint(lines: &[(u64, u64)]) -> Checkpoint {
        Checkpoint { lines: lines.iter().copied().collect(), ..Checkpoint::default() }
    }

    #[test]
    fn a_version_counts_only_when_its_epoch_committed_its_ordinal() {
        let (old, new) = (version(10, b"old"), version(20, b"new"));
        let record = encode_state(Some((Tag { n: 4, epoch: 1 }, &old)), Tag { n: 5, epoch: 2 }, &new);
        let applied = |lines: &[(u64, u64)]| {
            let found = valid_version(&record, &checkpoint(lines)).expect("a record");
            found.newest.map(|(_, v)| decode_version(&v).expect("a version").applied)
        };
        let after_crash = |lines| valid_version(&record, &checkpoint(lines)).expect("a record").is_after_crash;
        assert!(after_crash(&[(1, 4)]) && !after_crash(&[(1, 4), (2, 5)]));
        assert_eq!(applied(&[(1, 4), (2, 5)]), Some(20));
        assert_eq!(applied(&[(1, 4), (2, 4)]), Some(10), "the newer half was never committed");
        assert_eq!(applied(&[(1, 4)]), Some(10), "a dead owner's half-written version stays invisible");
        assert_eq!(applied(&[(1, 3)]), None);
    }

    #[test]
    fn versions_round_trip() {
        let decoded = decode_version(&version(7, b"payload")).expect("a version");
        assert_eq!((decoded.applied, decoded.event_time, decoded.state_version), (7, Timestamp(5), 3));
        assert_eq!(
            (decoded.handler.as_str(), &decoded.recent_ids[..], &decoded.payload[..]),
            ("h", &[1, 2][..], &b"payload"[..])
        );
        assert_eq!(decoded.features, &b"feats"[..]);
        assert_eq!(decoded.waiting.timers.iter().collect::<Vec<_>>(), [(Timestamp(6), "a"), (Timestamp(8), "b")]);
        assert_eq!(next_due_of(&version(7, b"payload")), Some(Timestamp(6)));
    }

    #[test]
    fn outstanding_questions_round_trip_and_are_looked_after_at_once() {
        let question = Bytes::from_static(br#"{"sku":"a"}"#);
        let (time, timeout) = (Timestamp(9), Duration::from_millis(250));
        let look_up = LookUp { name: "price".into(), asked: 7, time, timeout, question };
        let waiting = Waiting { look_ups: LookUps::from_stored(vec![look_up]), ..Waiting::default() };
        let head = VersionHead { applied: 7, event_time: time, handler: "h", state_version: 1, waiting: &waiting };
        let version = encode_version(head, [].into_iter(), |_| {}, |out| out.push(1));
        let decoded = decode_version(&version).expect("a version");
        assert_eq!((decoded.waiting, &decoded.payload[..]), (waiting, &[1][..]));
        assert_eq!(next_due_of(&version), Some(Timestamp(0)));
        assert_eq!(next_due_of(&with_owed(&version, &[3]).expect("a version")), Some(Timestamp(0)));
    }

    #[test]
    fn a_state_of_format_1_is_still_read() {
        let mut old = version(7, b"").to_vec();
        let features = old.split_off(old.len() - 10);
        assert_eq!(&features[5..], b"feats");
        old.extend_from_slice(b"payload");
        let mut record = BytesMut::from(&STATE[..]);
        record.put_u8(1);
        for n in [4, 1] {
            record.put_u64_le(n);
        }
        record.put_u32_le(old.len() as u32);
        record.put_slice(&old);
        let crc = crc32c::crc32c(&record);
        record.put_u32_le(crc);
        let found = valid_version(&record.freeze(), &checkpoint(&[(1, 4)])).expect("a record");
        let decoded = decode_version(&found.newest.expect("a version").1).expect("a version");
        assert_eq!((decoded.applied, &decoded.features[..], &decoded.payload[..]), (7, &b""[..], &b"payload"[..]));
    }

    #[test]
    fn what_is_owed_is_replaced_and_all_else_stays() {
        let plain = version(7, b"payload");
        let owing = with_owed(&plain, &[8, 9, 12]).expect("a version");
        assert_eq!(decode_version(&owing).expect("a version").owed, [8, 9, 12]);
        assert_eq!(with_owed(&owing, &[]).expect("a version"), plain);
        assert_eq!(applied_of(&owing), 7);
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let mut bytes = checkpoint(&[]).encode().to_vec();
        bytes[4] = 9;
        let body = bytes.len() - 4;
        let crc = crc32c::crc32c(&bytes[..body]).to_le_bytes();
        bytes[body..].copy_from_slice(&crc);
        assert_eq!(Checkpoint::decode(&bytes), Err(RecordError::Newer("checkpoint record", 9)));
    }

    proptest! {
        #[test]
        fn one_flipped_bit_is_noticed(at in 0usize..200, bit in 0u8..8) {
            let record = encode_state(None, Tag { n: 1, epoch: 1 }, &version(3, b"some payload"));
            let mut bytes = record.to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(valid_version(&bytes.into(), &checkpoint(&[(1, 1)])).is_err());
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let bytes = Bytes::from(bytes);
            prop_assert!(valid_version(&bytes, &checkpoint(&[])).is_err());
            let _either_way = decode_version(&bytes);
        }
    }
}
