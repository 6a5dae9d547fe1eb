//! What reads the inputs, what must hold of it, and how much memory it may hold meanwhile.
//!
//! The limits of memory are those of the decoder, a base and a multiple of the input: of what a span, an element or a header
//! costs at most. They are several times what was seen, so that a new library does not fail the test, and a bomb does.

use std::{borrow::Cow, io::Write, ops::Range, path::Path, sync::Arc, time::Duration};

use axum::http::HeaderMap;
use bytes::Bytes;
use keyloom_actors::{
    answer,
    careful::Care,
    checkpoint::record::{self, Checkpoint, Head as HeadRecord, Intent, Output, StateVersion, Tag, VersionHead},
    dead_letter::{DeadLetter, Reason},
    event::{
        EventBatch, fields,
        key_paths::{Envelope, Gate, KeyPaths},
    },
    features::{Definition, FeatureSet, FeatureState, Function, Settings, Window},
    handler::{
        look_ups::{LookUp, LookUps},
        timers::Timers,
        waiting::Waiting,
    },
    key::{self, Key},
    ports::{LogRecord, RecordKey},
    table::outbox::Block,
    timestamp::Timestamp,
};
use keyloom_engine::{
    Engine,
    dead_letters::{ChangeRequest, ListRequest},
    embedded::block,
    front_door::{
        Acceptor,
        decode::{self, Encoding},
        depth,
        protocols::{self, Head, Stamps, Wire, segment},
        schema::Schemas,
        split::split,
    },
    nats::headers,
    topology,
};
use keyloom_tests::support::random::Random;

use crate::inputs::{
    self, CLOUD_EVENTS, EXPRESSIONS, HEADERS, INPUT_BYTES_MAX, JSON, PATHS, SEGMENT, SNOWPLOW, TOPOLOGIES,
};

/// When everything happens.
const NOW: Timestamp = Timestamp(1_795_176_000_000_000);
/// Limits that a small front door has.
const BODY_BYTES_MAX: usize = 256 << 10;
const EVENT_BYTES_MAX: usize = 64 << 10;
const EVENTS_MAX: usize = 10_000;
/// The heads of CloudEvents, among all.
const CLOUD_EVENT_HEADS: Range<usize> = 2..5;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Something that reads input.
pub struct Target {
    /// Its name in the report.
    pub name: &'static str,
    /// Its share of the inputs.
    weight: u64,
    /// Bytes that it may hold for any input ...
    pub peak_base: u64,
    /// ... and so many more for each byte of input.
    pub peak_factor: u64,
    /// Longest time for one input, in seconds: of an unoptimised program on a busy machine.
    pub seconds_max: u64,
    /// Makes one.
    pub input: fn(&World, &mut Random) -> Vec<u8>,
    /// Reads it, and says whether it was sound. Panics where something does not hold.
    pub run: fn(&World, &[u8], &mut Random) -> bool,
}

/// What the targets share, made once in each thread.
pub struct World {
    acceptor: Acceptor,
    /// The same for trackers, whose events have a key in any case.
    trackers: Acceptor,
    schemas: Schemas,
    heads: Vec<Head>,
    engine: Engine,
    features: FeatureSet,
    /// Records of each kind, as stored.
    records: Vec<Bytes>,
    states: Vec<Vec<u8>>,
    blocks: Vec<Vec<u8>>,
}

/// All of them.
pub fn targets() -> &'static [Target] {
    const fn target(
        name: &'static str,
        weight: u64,
        peak: (u64, u64),
        input: fn(&World, &mut Random) -> Vec<u8>,
        run: fn(&World, &[u8], &mut Random) -> bool,
    ) -> Target {
        Target { name, weight, peak_base: peak.0, peak_factor: peak.1, seconds_max: 5, input, run }
    }
    const ALL: &[Target] = &[
        // The limit and one step beyond, and a vector that doubled just before.
        target("unpack", 40, (4 * BODY_BYTES_MAX as u64 + MIB, 8), packed, unpack),
        target("split", 80, (64 * KIB, 64), json, split_body),
        // An event with a schema becomes a tree of values.
        target("accept", 260, (MIB, 64), json, accept),
        target("event", 140, (MIB, 64), json, event),
        target("key paths", 60, (64 * KIB, 64), |_, random| inputs::text(random, PATHS), key_paths),
        target("schema gate", 40, (4 * MIB, 200), json, gate),
        target("nats headers", 60, (64 * KIB, 8), header_block, nats_headers),
        target("snowplow", 80, (4 * MIB, 64), |_, random| inputs::text(random, SNOWPLOW), snowplow),
        target("segment", 80, (4 * MIB, 64), |_, random| inputs::text(random, SEGMENT), segment_call),
        target("cloudevents", 60, (4 * MIB, 64), |_, random| inputs::text(random, CLOUD_EVENTS), cloud_events),
        // A list may say any length; serde reserves a MiB for it before it has read that much.
        target("records", 60, (2 * MIB, 64), a_record, records),
        target("states", 40, (2 * MIB, 64), a_state, states),
        // LZ4 unpacks to 255 times at most, and a record takes eight times the 14 bytes that it has there at least.
        target("log blocks", 30, (256 * KIB, 255 * 9), a_block, log_block),
        target("requests", 30, (256 * KIB, 64), |_, random| inputs::text(random, REQUESTS), requests),
        target("expressions", 3, (64 * MIB, 2_000), |_, random| inputs::text(random, EXPRESSIONS), expressions),
        // Its own parser of what is broken is quadratic in brackets that stay open: 18,000 of them, all that fit, take 3 s.
        Target {
            seconds_max: 30,
            ..target("topologies", 3, (64 * MIB, 2_000), |_, random| inputs::text(random, TOPOLOGIES), topologies)
        },
    ];
    ALL
}

/// Requests about dead letters, answers that are stored, keys in subjects.
const REQUESTS: &[&str] = &[
    "reason=panic&limit=10&after=0:9&key=u%201&since=2026-11-20T12:00:00Z&partition=2",
    r#"{"ids":["0:1","2:3"],"dry_run":true}"#,
    r#"{"all":true,"reason":"schema","limit":7,"after":"1:2:3"}"#,
    r#"{"key":"u","profile":null,"partition":0,"features":{"a":1},"event_time":"2026-11-20T12:00:00.000000Z","seq":1,"keyloom.decaying":{"from":5,"to":9,"state":"AAAA"}}"#,
    "a=2Eb=2A=3E=C3=BC",
];

const TREE: &str =
    r##"{"properties":{"c":{"anyOf":[{"$ref":"#"},{"type":"number"},{"allOf":[{"$ref":"#"}],"required":["c"]}]}}}"##;
const ORDER: &str = r#"{"properties":{"price":{"type":"number"},"items":{"type":"array","uniqueItems":true,"maxItems":50,
    "items":{"properties":{"sku":{"pattern":"^(a+)+$"}},"additionalProperties":{"type":"integer"}}}}}"#;

impl World {
    pub fn new() -> Self {
        let schema = |(name, text): (&str, &str)| (name.to_owned(), text.as_bytes().to_vec());
        let schemas = || Schemas::compile([("tree", TREE), ("order", ORDER)].map(schema)).expect("good schemas");
        let keys = KeyPaths::new(["domain_userid", "user.id", "header:x-user", "subject:2"]);
        let keys = keys.with_gate(Some(Arc::new(schemas())));
        let acceptor = Acceptor { keys, partitions: 4, event_bytes_max: EVENT_BYTES_MAX };
        let trackers = Acceptor { keys: acceptor.keys.clone().with_fallback(Some("nobody")), ..acceptor.clone() };
        let features = features();
        let states = stored_states(&features);
        Self {
            acceptor,
            trackers,
            schemas: schemas(),
            heads: heads(),
            engine: Engine::new(),
            records: stored_records(&states),
            states,
            blocks: stored_blocks(),
            features,
        }
    }

    /// The target of an input.
    pub fn choose<'t>(&self, random: &mut Random, targets: &'t [Target]) -> &'t Target {
        let mut at = random.below(targets.iter().map(|target| target.weight).sum());
        for target in targets {
            if at < target.weight {
                return target;
            }
            at -= target.weight;
        }
        unreachable!("the weights are those that were added up")
    }
}

// ---- input ----------------------------------------------------------------------------------------------------------

fn json(_: &World, random: &mut Random) -> Vec<u8> {
    inputs::text(random, JSON)
}

fn header_block(_: &World, random: &mut Random) -> Vec<u8> {
    inputs::text(random, HEADERS)
}

/// A body, packed; changed before, behind, or not at all, and a bomb now and then.
fn packed(_: &World, random: &mut Random) -> Vec<u8> {
    let mut body = inputs::text(random, JSON);
    if random.chance(5) {
        body = vec![b' '; 2 * BODY_BYTES_MAX];
    }
    let level = flate2::Compression::fast();
    let mut packed = match random.below(4) {
        0 => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), level);
            out.write_all(&body).and_then(|()| out.finish()).expect("memory takes everything")
        }
        1 => {
            let mut out = flate2::write::ZlibEncoder::new(Vec::new(), level);
            out.write_all(&body).and_then(|()| out.finish()).expect("memory takes everything")
        }
        2 => zstd::encode_all(&body[..], 1).expect("memory takes everything"),
        _ => body,
    };
    if random.chance(60) {
        inputs::change(random, &mut packed, JSON);
    }
    packed
}

/// One of `stored`, changed; with its checksum made right again most of the time, or nothing behind it would be tried.
fn sealed(random: &mut Random, stored: &[u8]) -> Vec<u8> {
    let mut bytes = stored.to_vec();
    if random.chance(20) {
        inputs::change(random, &mut bytes, JSON);
        return bytes;
    }
    let mut body = bytes.split_off(5.min(bytes.len()));
    body.truncate(body.len().saturating_sub(4));
    inputs::change(random, &mut body, JSON);
    bytes.extend(body);
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

fn a_record(world: &World, random: &mut Random) -> Vec<u8> {
    let stored = random.pick(&world.records).clone();
    sealed(random, &stored)
}

fn a_state(world: &World, random: &mut Random) -> Vec<u8> {
    let mut bytes = random.pick(&world.states).clone();
    inputs::change(random, &mut bytes, JSON);
    bytes
}

fn a_block(world: &World, random: &mut Random) -> Vec<u8> {
    let mut bytes = random.pick(&world.blocks).clone();
    inputs::change(random, &mut bytes, JSON);
    if bytes.len() > 32 && random.chance(80) {
        let crc = crc32c::crc32c(&bytes[32..]).to_le_bytes();
        bytes[28..32].copy_from_slice(&crc);
        bytes[..4].copy_from_slice(b"KLb1");
    }
    bytes
}

// ---- the front door -------------------------------------------------------------------------------------------------

fn unpack(_: &World, input: &[u8], random: &mut Random) -> bool {
    let encoding = *random.pick(&[Encoding::Identity, Encoding::Gzip, Encoding::Deflate, Encoding::Zstd]);
    let mut told = 0;
    let unpacked = decode::decode(encoding, input, BODY_BYTES_MAX, &mut |more| {
        told += more;
        told < 3 * BODY_BYTES_MAX / 4
    });
    let Ok(unpacked) = unpacked else { return false };
    assert!(unpacked.len() <= BODY_BYTES_MAX && unpacked.len() == told);
    encoding != Encoding::Identity
}

fn split_body(_: &World, input: &[u8], _: &mut Random) -> bool {
    let Ok(events) = split(input, 10_000) else { return false };
    let mut end = 0;
    for event in events {
        assert!(end <= event.start && event.start < event.end && event.end <= input.len(), "{event:?} behind {end}");
        end = event.end;
    }
    end > 0
}

fn accept(world: &World, input: &[u8], random: &mut Random) -> bool {
    let body = Bytes::copy_from_slice(input);
    let (mut found, mut ids, mut sound) = (Vec::new(), 0, false);
    let head = random.pick(&world.heads);
    let envelope = world.acceptor.keys.note(head);
    let Ok(events) = split(input, 10_000) else { return false };
    for place in events.into_iter().take(20) {
        let mut new_id = || {
            ids += 1;
            format!("new-{ids}")
        };
        found.clear();
        let accepted =
            world.acceptor.accept_slice_from(envelope.as_deref(), &body, place, &mut found, NOW, &mut new_id);
        let Ok((accepted, known)) = accepted else { continue };
        let record = accepted.record;
        sound = true;
        assert!(accepted.partition < 4 && record.payload.len() <= EVENT_BYTES_MAX);
        let text = std::str::from_utf8(&record.payload).expect("what is accepted is text");
        assert!(depth::is_within(text, depth::LEVELS_MAX));
        let mut scanned = Vec::new();
        let again = fields::scan(text, &mut scanned).expect("what is accepted is an object");
        if let Some((_, known)) = known {
            assert_eq!(known, again, "fields go along with the text they describe");
        }
        if record.key.is_empty() {
            continue; // what a tool refused
        }
        // The engine finds the same behind the log, and does not refuse it.
        let key = std::str::from_utf8(&record.key).expect("keys are text");
        assert_eq!(key::check(key), Ok(()));
        let stored = LogRecord {
            seq: 1,
            stored: NOW,
            key: Some(record.key.clone()),
            payload: record.payload.clone(),
            scanned: None,
            envelope: None,
        };
        let batch = EventBatch::decode(0, vec![stored], &world.acceptor.keys, None);
        let event = &batch.events[0];
        assert!(event.refused.is_none() && event.key == *key && event.id_hash.is_some(), "{:?}", event.refused);
    }
    sound
}

/// A record of a foreign writer, which may be anything.
fn event(world: &World, input: &[u8], random: &mut Random) -> bool {
    let key = random.chance(30).then(|| Bytes::copy_from_slice(&input[..input.len().min(20)]));
    let payload = Bytes::copy_from_slice(input);
    let head: &Head = random.pick(&world.heads);
    let envelope = world.acceptor.keys.note(head);
    let record = LogRecord { seq: 9, stored: NOW, key, payload, scanned: None, envelope };
    let batch = EventBatch::decode(0, vec![record], &world.acceptor.keys, None);
    let event = batch.get(0);
    match &event.event().refused {
        Some(refused) => {
            assert!(!refused.text.is_empty());
            let letter = DeadLetter::of(event.event(), refused.reason, refused.text.clone(), 0);
            let stored = record::encode_dead_letter(&letter, Tag::default());
            assert_eq!(record::decode_dead_letter(&stored).map(|(letter, _)| letter), Ok(letter));
        }
        None => {
            assert_eq!(key::check(event.key_str()), Ok(()));
            let mut state = FeatureState::new(&world.features);
            state.apply(&world.features, event);
        }
    }
    for field in event.fields() {
        let _either_way = event.find(field.id, field.raw_name(&event.event().text).trim_matches('"'));
    }
    event.event().refused.is_none()
}

fn key_paths(world: &World, input: &[u8], random: &mut Random) -> bool {
    let text = String::from_utf8_lossy(input);
    let keys = KeyPaths::new(text.split(',').take(8));
    let subject: String = text.chars().take(100).collect();
    let message = Message { head: random.pick(&world.heads), subject: random.chance(70).then_some(&subject) };
    let envelope = keys.note(&message);
    assert!(envelope.as_ref().is_none_or(|envelope| envelope.bytes() < 8 * 600), "no more than a key of each");
    let payload = random.pick(JSON);
    let mut found = Vec::new();
    if let Ok(known) = fields::scan(payload, &mut found)
        && let Ok(key) = keys.find(&found, &known, payload, envelope.as_deref())
    {
        assert_eq!(key::check(key.as_str()), Ok(()));
    }
    let _either_way = Timestamp::parse(&text);
    if let Ok(key) = Key::new(&text) {
        assert_eq!(Key::from_subject_token(&key.to_subject_token()), Some(key));
    }
    envelope.is_some()
}

/// A message of NATS: what a request has, and a subject.
struct Message<'a> {
    head: &'a Head,
    subject: Option<&'a String>,
}

impl Envelope for Message<'_> {
    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.head.header(name)
    }
    fn subject(&self) -> Option<&str> {
        self.subject.map(String::as_str)
    }
}

fn gate(world: &World, input: &[u8], random: &mut Random) -> bool {
    let text = String::from_utf8_lossy(input);
    let name = *random.pick(&["tree", "order", "none"]);
    let judged = world.schemas.check(name, &text);
    if let Err(problem) = &judged {
        assert!(!problem.is_empty() && problem.len() < 300 && name != "none");
    }
    judged.is_ok()
}

fn nats_headers(_: &World, input: &[u8], _: &mut Random) -> bool {
    let mut bytes = 0;
    for (name, value) in headers::lines(input) {
        bytes += name.len() + value.len();
        let key = headers::key_from_header(&value);
        let header = headers::key_to_header(&key);
        assert!(header.bytes().all(|b| b.is_ascii_graphic()) && headers::key_from_header(&header) == key);
    }
    assert!(bytes <= input.len());
    bytes > 0
}

fn snowplow(world: &World, input: &[u8], random: &mut Random) -> bool {
    let wire = if random.chance(70) { Wire::SnowplowBody } else { Wire::SnowplowQuery };
    request(world, &wire, input, random.pick(&world.heads))
}

fn segment_call(world: &World, input: &[u8], random: &mut Random) -> bool {
    use segment::MessageType::{Identify, Page, Track};
    let one = |kind| Wire::Segment(segment::Call::One(kind));
    let wire = random.pick(&[Wire::Segment(segment::Call::Batch), one(Track), one(Page), one(Identify)]).clone();
    request(world, &wire, input, random.pick(&world.heads))
}

fn cloud_events(world: &World, input: &[u8], random: &mut Random) -> bool {
    // Those that say what the body is, more often than not.
    let heads = if random.chance(80) { &world.heads[CLOUD_EVENT_HEADS] } else { &world.heads };
    request(world, &Wire::CloudEvents, input, random.pick(heads))
}

/// What the desk of the front door does with a request.
fn request(world: &World, wire: &Wire, input: &[u8], head: &Head) -> bool {
    let Ok(outline) = protocols::read(wire, input, head, EVENTS_MAX) else { return false };
    assert!(outline.events() <= EVENTS_MAX);
    let _either_way =
        (outline.write_key().map(str::len), outline.app_ids().flatten().map(|id| id.len()).sum::<usize>());
    let stamps = Stamps { now: NOW, address: Some("192.0.2.7"), head };
    let mut room = 4 * BODY_BYTES_MAX;
    let written = outline.write(&|_| stamps, &mut |more| {
        room = room.checked_sub(more).ok_or(keyloom_engine::front_door::Refusal::Busy)?;
        Ok(())
    });
    let Ok(Some(decoded)) = written else { return false };
    let text = Bytes::from(decoded.text);
    let (mut found, mut sound) = (Vec::new(), false);
    for event in decoded.events {
        assert!(event.sent.start <= event.sent.end && event.sent.end <= input.len(), "{:?}", event.sent);
        let Ok(place) = event.place else { continue };
        assert!(serde_json::from_slice::<&serde_json::value::RawValue>(&text[place.clone()]).is_ok(), "no JSON");
        found.clear();
        let accepted = world.trackers.accept_slice(&text, place, &mut found, NOW, &mut || "new".to_owned());
        sound |= accepted.is_ok();
    }
    sound
}

// ---- what is stored -------------------------------------------------------------------------------------------------

fn records(world: &World, input: &[u8], _: &mut Random) -> bool {
    let bytes = Bytes::copy_from_slice(input);
    let checkpoint = Checkpoint { lines: [(1, 9)].into(), ..Checkpoint::default() };
    let found = record::valid_version(&bytes, &checkpoint);
    if let Ok(Some((_, version))) = found.as_ref().map(|found| found.newest.clone()) {
        version_of(world, &version);
    }
    let checkpoint = Checkpoint::decode(input);
    if let Ok(checkpoint) = &checkpoint {
        assert_eq!(Checkpoint::decode(&checkpoint.encode()).as_ref(), Ok(checkpoint));
    }
    let care = Care::decode(input);
    if let Ok(care) = &care {
        let _either_way = (care.verdicts(), care.is_careful(1));
    }
    let block = Block::decode(1, &bytes);
    if let Ok(block) = &block {
        let _either_way = block.rows().count();
    }
    [
        found.is_ok(),
        checkpoint.is_ok(),
        care.is_ok(),
        block.is_ok(),
        HeadRecord::decode(input).is_ok(),
        Intent::decode(input).is_ok(),
        Output::decode(input).is_ok(),
        record::decode_dead_letter(input).is_ok(),
        record::decode_first_timer(input).is_ok(),
    ]
    .contains(&true)
}

fn version_of(world: &World, version: &Bytes) -> bool {
    let _either_way = (record::next_due_of(version), record::with_owed(version, &[1, 2]), record::applied_of(version));
    let Ok(StateVersion { features, payload, .. }) = record::decode_version(version) else { return false };
    if let Ok(state) = FeatureState::decode(&world.features, &features) {
        let mut out = Vec::new();
        state.encode(&world.features, &mut out);
        assert!(FeatureState::decode(&world.features, &out).is_ok(), "what was read can be written");
    }
    rmp_serde::from_slice::<serde_json::Value>(&payload).is_ok()
}

fn states(world: &World, input: &[u8], _: &mut Random) -> bool {
    let _either_way = FeatureState::decode(&world.features, input);
    version_of(world, &Bytes::copy_from_slice(input))
}

fn log_block(_: &World, input: &[u8], random: &mut Random) -> bool {
    let _either_way = block::header(input);
    let Ok(records) = block::decode(input, random.below(4)) else { return false };
    assert!(records.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
    true
}

fn requests(world: &World, input: &[u8], _: &mut Random) -> bool {
    let text = String::from_utf8_lossy(input);
    let change = serde_json::from_str::<ChangeRequest>(&text).ok().filter(|request| request.check().is_ok());
    let key = Key::from_subject_token(&text).map(|key| RecordKey::Feature(key).subject("b"));
    let list = ListRequest::from_query(&text);
    change.is_some() || key.is_some() || list.is_ok() || answer::read(input, &world.features, NOW).is_some()
}

// ---- configuration --------------------------------------------------------------------------------------------------

fn expressions(_: &World, input: &[u8], random: &mut Random) -> bool {
    let text = String::from_utf8_lossy(input).into_owned();
    let name = *random.pick(&["count", "sum", "last", "top_k", "derived"]);
    let function = Function::of_name(name).expect("a function");
    let mut definition = Definition::new(function);
    if random.chance(50) || function == Function::of_name("count").expect("a function") {
        definition.filter = Some(text);
    } else {
        definition.of = Some(text);
    }
    match FeatureSet::compile(vec![("f".to_owned(), definition)], Settings::default()) {
        Err(problems) => {
            assert!(!problems.is_empty());
            false
        }
        Ok(set) => {
            drop(applied(&set, JSON));
            true
        }
    }
}

fn topologies(world: &World, input: &[u8], _: &mut Random) -> bool {
    let text = String::from_utf8_lossy(input);
    match topology::parse(&text, Path::new("/nowhere/t.toml"), &world.engine) {
        Err(problems) => {
            assert!(!problems.render(false).is_empty());
            false
        }
        Ok(_) => true,
    }
}

// ---- the world ------------------------------------------------------------------------------------------------------

fn heads() -> Vec<Head> {
    let head = |headers: &[(&'static str, &'static str)], query: &str| {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().expect("a header"));
        }
        Head { headers: map, query: query.to_owned(), ..Head::default() }
    };
    vec![
        Head::default(),
        head(&[("x-user", "u-9"), ("content-type", "application/json")], "aid=q&uid=u"),
        head(&[("content-type", "application/cloudevents+json; charset=utf-8"), ("sp-anonymous", "*")], "&&=%"),
        head(&[("content-type", "application/cloudevents-batch+json"), ("anonymousid", "0b8a1a6e")], ""),
        head(
            &[
                ("ce-id", "1"),
                ("ce-type", "t"),
                ("ce-source", "%20"),
                ("ce-specversion", "1.0"),
                ("ce-subject", "u%C3"),
            ],
            "",
        ),
        head(&[("authorization", "Basic a2V5Og=="), ("user-agent", "x"), ("referer", "https://x/")], "cv=%F0%9F&a=1"),
    ]
}

fn features() -> FeatureSet {
    let definition = |name: &str, of: Option<&str>, window: Option<Window>| {
        let function = Function::of_name(name).expect("a function");
        let definition = Definition { of: of.map(str::to_owned), window, ..Definition::new(function) };
        (format!("{name}_feature"), definition)
    };
    let hour = Some(Window::Sliding(Duration::from_secs(3_600)));
    let definitions = vec![
        definition("count", None, hour),
        definition("sum", Some("price"), None),
        definition("avg", Some("price * 2"), hour),
        definition("last_k", Some("page_url"), None),
        definition("top_k", Some("event"), hour),
        definition("distinct", Some("coupon"), None),
        definition("approx_distinct", Some("event_id"), hour),
    ];
    FeatureSet::compile(definitions, Settings::default()).expect("good definitions")
}

fn applied(set: &FeatureSet, events: &[&str]) -> FeatureState {
    let record = |(i, text): (usize, &&str)| LogRecord {
        seq: i as u64 + 1,
        stored: NOW,
        key: Some(Bytes::from_static(b"u")),
        payload: Bytes::copy_from_slice(text.as_bytes()),
        scanned: None,
        envelope: None,
    };
    let records = events.iter().enumerate().map(record).collect();
    let batch = EventBatch::decode(0, records, &KeyPaths::new(["domain_userid"]), None);
    let mut state = FeatureState::new(set);
    for event in batch.iter().filter(|event| event.event().refused.is_none()) {
        state.apply(set, event);
    }
    state
}

/// Versions of a session's state, as stored.
fn stored_states(set: &FeatureSet) -> Vec<Vec<u8>> {
    let mut timers = Timers::default();
    for (name, due) in [("a", 5), ("b", 7)] {
        timers.set(name, Timestamp(due)).expect("room for two");
    }
    let look_up = LookUp {
        name: "price".into(),
        asked: 7,
        time: NOW,
        timeout: Duration::from_secs(1),
        question: Bytes::from_static(b"{}"),
    };
    let full = Waiting { timers, look_ups: LookUps::from_stored(vec![look_up]) };
    [Waiting::default(), full]
        .iter()
        .map(|waiting| {
            let head = VersionHead { applied: 7, event_time: NOW, handler: "h", state_version: 3, waiting };
            let state = serde_json::json!({"a": [1, 2.5, null], "b": {"c": "d"}});
            let payload = rmp_serde::to_vec_named(&state).expect("a value");
            let features = |out: &mut Vec<u8>| applied(set, JSON).encode(set, out);
            record::encode_version(head, [1, 2].into_iter(), features, |out| out.extend(&payload)).to_vec()
        })
        .collect()
}

fn stored_records(states: &[Vec<u8>]) -> Vec<Bytes> {
    let tag = Tag { n: 3, epoch: 1 };
    let letter = DeadLetter {
        seq: 9,
        key: "u".to_owned(),
        reason: Reason::Schema,
        error: "why".to_owned(),
        attempts: 3,
        stored: NOW,
        payload: Bytes::from_static(b"{}"),
        payload_bytes: 2,
    };
    let checkpoint =
        Checkpoint { n: 3, cut: 9, lagging: vec!["u".into()], lines: [(1, 3)].into(), ..Checkpoint::default() };
    let rows = [&8u32.to_le_bytes()[..], b"\x81\xa1a\x93\x01\x02\xc0\x01"].concat();
    vec![
        record::encode_state(Some((tag, &states[0])), Tag { n: 4, epoch: 1 }, &states[1]),
        checkpoint.encode(),
        record::encode_dead_letter(&letter, tag),
        HeadRecord { epoch: 1, batch: 2, published: 3 }.encode(),
        Intent { first: 1, last: 2, names: vec!["a".into()] }.encode(),
        Output::default().encode(),
        Care { trying: [1, 2].into(), reading: ["u".to_owned()].into(), ..Care::default() }.encode(),
        record::encode_block(tag, 1, &rows),
        record::encode_first_timer(NOW),
    ]
}

fn stored_blocks() -> Vec<Vec<u8>> {
    let record = |(i, text): (usize, &&str)| LogRecord {
        seq: i as u64 + 1,
        stored: NOW,
        key: (i % 2 == 0).then(|| Bytes::from_static(b"u")),
        payload: Bytes::copy_from_slice(text.as_bytes()),
        scanned: None,
        envelope: None,
    };
    let records: Vec<LogRecord> = JSON.iter().enumerate().map(record).collect();
    let large = [LogRecord { payload: vec![b'a'; INPUT_BYTES_MAX].into(), ..records[0].clone() }];
    [&records[..], &records[..1], &large].iter().filter_map(|records| block::encode(&mut records.to_vec())).collect()
}
