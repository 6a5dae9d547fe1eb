//! Real-looking input, and what hostile hands make of it.
//!
//! Pure: everything comes from the numbers given.

use keyloom_tests::support::random::Random;

/// Largest input, in bytes: a hundred times a usual one, and more than the limits of the targets.
pub const INPUT_BYTES_MAX: usize = 128 << 10;
/// Changes made to one input, at most.
const CHANGES_MAX: u64 = 6;

/// Events and bodies of the front door's own format.
pub const JSON: &[&str] = &[
    r#"{"domain_userid":"u1","event_id":"e-1","event":"page_view","page_url":"/p?a=1","collector_tstamp":"2026-11-20T12:00:00.000001Z"}"#,
    r#"{"user":{"id":"ü-7"},"event":"order","price":12.50,"items":[{"sku":"a","n":1},{"sku":"b","n":2}],"derived_tstamp":1795176000123}"#,
    r#"{"domain_userid":"d","event":"order","coupon":null,"price":"x","nested":{"a":{"b":[[],{},[1,2.5e-7,true,null]]}}}"#,
    "{\"domain_userid\":\"a\",\"event_id\":\"1\"}\n{\"domain_userid\":\"b\"}\r\n\n{\"user_id\":\"c\",\"n\":-0.0}",
    r#"[{"domain_userid":"a","event":"tree","c":{"c":{"c":1}}},{"domain_userid":"b"},7,"text",null,[]]"#,
    r#"{"keyloom.rejected":"parse","error":"no","source":"f:1","payload":"x"}"#,
    "{}",
    "[]",
];

/// Bodies of trackers.
pub const SNOWPLOW: &[&str] = &[
    r#"{"schema":"iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4","data":[{"e":"pv","url":"https://x.example/","page":"T","p":"web","tv":"js-4","aid":"shop","eid":"8c0b8b2e-1b6e-4d39-a5f7-3f2f5a1c0f2b","dtm":"1795176000000","stm":"1795176000100","duid":"d1","sid":"s1","vid":"3","res":"1920x1080","cx":"eyJzY2hlbWEiOiJ4IiwiZGF0YSI6W119"},{"e":"se","se_ca":"c","se_ac":"a","se_va":"1.5","uid":"u"},{"e":"ue","ue_pr":"{\"schema\":\"iglu:x/y/jsonschema/1-0-0\",\"data\":{\"schema\":\"iglu:a/b/jsonschema/1-0-0\",\"data\":{\"k\":[1,2]}}}","co":"{\"data\":[{\"schema\":\"iglu:q/w/jsonschema/1-0-0\",\"data\":{}}]}"}]}"#,
    "e=pv&url=https%3A%2F%2Fx.example%2F%3Fa%3D1&page=T&p=web&tv=js-4&duid=d1&dtm=1795176000000&ds=10x20&vp=3x4&cx=e30&ttm=1795176000000",
];

/// Calls of Segment's API.
pub const SEGMENT: &[&str] = &[
    r#"{"writeKey":"k","sentAt":"2026-11-20T12:00:01Z","batch":[{"type":"track","event":"Order Completed","anonymousId":"a1","userId":"u1","messageId":"m1","originalTimestamp":"2026-11-20T12:00:00Z","properties":{"price":1.5,"products":[{"sku":"a"}]},"context":{"ip":"8.8.8.8","page":{"url":"https://x/"},"traits":{"email":"a@b.c"}}},{"type":"identify","userId":"u1","traits":{"plan":"x"}},{"type":"alias","previousId":"a1","userId":"u1"}]}"#,
    r#"{"type":"page","anonymousId":"a1","name":"Home","timestamp":"2026-11-20T12:00:00Z","properties":{"url":"https://x/","title":"T"},"integrations":{"All":true}}"#,
];

/// CloudEvents, structured and as a batch.
pub const CLOUD_EVENTS: &[&str] = &[
    r#"{"specversion":"1.0","id":"1","source":"/s","type":"order.created","subject":"u1","time":"2026-11-20T12:00:00Z","datacontenttype":"application/json","data":{"price":1}}"#,
    r#"[{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"aGVsbG8="},{"specversion":"1.0","id":"2","source":"/s","type":"t","ext":true}]"#,
];

/// Topologies.
pub const TOPOLOGIES: &[&str] = &[
    include_str!("../../config/quickstart.toml"),
    include_str!("../../config/clickstream.toml"),
    include_str!("../../config/features.toml"),
    include_str!("../../config/devices.toml"),
];

/// Expressions of declared features.
pub const EXPRESSIONS: &[&str] = &[
    "event == 'page_view' && price * 2.0 > 10 || !(coupon in ['a', 'b'])",
    "has(product.sku) ? product.sku : 'none'",
    "size(page_url) > 3 && page_url.startsWith('/p') && !page_url.contains(\"x\")",
    "-price + quantity % 7 / 2 - 1e3 * double(x)",
    "[1, 2, 3].exists(n, n > price)",
];

/// Header blocks of NATS messages.
pub const HEADERS: &[&str] = &[
    "NATS/1.0\r\nNats-Msg-Id: 0f\r\nKeyloom-Key: a%20b%C3%BC\r\nX-User: u1\r\nx-user: u2\r\n\r\n",
    "NATS/1.0 503 No Responders\r\nX-Long: a\r\n folded\r\n\tmore\r\n\r\n",
];

/// Paths to keys, which are subjects too.
pub const PATHS: &[&str] = &[
    "domain_userid,user.id,header:x-user,subject:2",
    "events.device42.climate,subject:-1,header:X-User,header:content-type",
    "subject:1,subject:32,subject:-32,header:anonymousid,a.b.c",
    "2026-11-20T12:00:00.123456Z",
    "1795176000000",
];

/// What breaks parsers.
const TOKENS: &[&[u8]] = &[
    b"\\ud800",
    b"\\udc00\\ud800",
    b"\\u0000",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xc0\x80",
    b"1e400",
    b"-1e-400",
    b"99999999999999999999999999",
    b"-0",
    b"0x1f",
    b"NaN",
    b"null",
    b"true",
    b"\"",
    b"'",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"\n",
    b"\r\n",
    b"\"keyloom.tick\":1,",
    b"\"keyloom.rejected\":\"no_key\",",
    b"\"domain_userid\":\"\",",
    b"\"event\":\"tree\",",
    b"\"event_id\":{},",
    b"\"event_id\":\"\",",
    b"\"collector_tstamp\":\"9999-99-99\",",
    b"%",
    b"%zz",
    b"%00",
    b"&",
    b"=",
    b"..",
    b"../",
    b"data:",
    b"=====",
    b"\xe2\x80\xae",
    b"\xf0\x9f\x92\xa9",
    b"1795176000000",
    b"&&",
    b"||",
    b"(",
    b")",
    b"!",
    b"? :",
];
/// What is repeated until it hurts.
const REPEATED: &[&[u8]] = &[
    b"[",
    b"{\"a\":",
    b"{\"c\":",
    b"(",
    b"!",
    b"-",
    b"a",
    b"\"x\":1,",
    b"[],",
    b"{},",
    b" ",
    b"\n",
    b"\\u0041",
    b"%41",
    b"&a=1",
    b"\x80",
    b"a.",
    b"0",
    b"[[feature]]\n",
    b"[a.",
    b"{ a = ",
    b"X: y\r\n",
    b" f\r\n",
];

/// One of `corpus`, changed or not.
pub fn text(random: &mut Random, corpus: &[&str]) -> Vec<u8> {
    let mut bytes = random.pick(corpus).as_bytes().to_vec();
    if random.chance(3) {
        bytes = noise(random);
    }
    change(random, &mut bytes, corpus);
    bytes
}

/// Bytes without any meaning.
pub fn noise(random: &mut Random) -> Vec<u8> {
    (0..random.below(300)).map(|_| random.number() as u8).collect()
}

/// Changes `bytes` here and there.
pub fn change(random: &mut Random, bytes: &mut Vec<u8>, corpus: &[&str]) {
    // A few stay as they are: a corpus that nobody takes would find nothing.
    let most = random.below(CHANGES_MAX + 1);
    for _ in 0..random.below(most + 1) {
        let at = random.below(bytes.len() as u64 + 1) as usize;
        let length = if random.chance(80) { 1 + random.below(16) } else { 1 + random.below(2_000) } as usize;
        let end = (at + length).min(bytes.len());
        match random.below(9) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => insert(bytes, at, token(random)),
            3 => {
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len() as u64 + 1) as usize;
                insert(bytes, to, &piece);
            }
            4 => {
                let other = random.pick(corpus).as_bytes();
                let from = random.below(other.len() as u64 + 1) as usize;
                insert(bytes, at, &other[from..(from + length).min(other.len())]);
            }
            5 => {
                let unit = random.pick(REPEATED);
                let times = if random.chance(90) { random.below(70) } else { random.below(20_000) } as usize;
                insert(bytes, at, &unit.repeat(times));
            }
            6 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            7 if at < bytes.len() => bytes[at] = random.number() as u8,
            // Where a value could begin, so that more of what comes out is still sound.
            _ => {
                let places: Vec<usize> =
                    (0..bytes.len()).filter(|i| matches!(bytes[*i], b':' | b',' | b'{' | b'[')).collect();
                if !places.is_empty() {
                    let place = *random.pick(&places) + 1;
                    insert(bytes, place, token(random));
                }
            }
        }
        bytes.truncate(INPUT_BYTES_MAX);
    }
}

fn token(random: &mut Random) -> &'static [u8] {
    let token: &&[u8] = random.pick(TOKENS);
    token
}

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    bytes.splice(at..at, piece.iter().copied());
}
