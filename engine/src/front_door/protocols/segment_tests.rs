//! Tests of Segment's HTTP API: requests as real libraries of Segment and RudderStack send them.

use keyloom_actors::dead_letter::Reason;
use serde_json::{Value, json};

use super::{
    super::{
        Stamps, Wire, base64_text,
        members::tests::BYTES_READ,
        read,
        tests::{NOON, NOON_TEXT, decode, head, one},
    },
    Call, MessageType,
};

fn message(kind: MessageType, message: Value) -> Value {
    one(&Wire::Segment(Call::One(kind)), &message, &head(&[]))
}

fn batched(message: Value) -> Value {
    one(&Wire::Segment(Call::Batch), &json!({"batch": [message]}), &head(&[]))
}

#[test]
fn a_track_of_a_browser() {
    let context = json!({
        "page": {"path": "/shoes", "referrer": "https://search.example/", "search": "", "title": "Shoes", "url": "https://shop.example/shoes"},
        "userAgent": "Mozilla/5.0", "locale": "de-DE", "timezone": "Europe/Berlin",
        "library": {"name": "analytics.js", "version": "next-1.70.0"}, "campaign": {"source": "mail"}
    });
    let sent = json!({
        "timestamp": "2026-11-20T11:59:50.000Z", "sentAt": "2026-11-20T11:59:52.000Z", "integrations": {"All": true},
        "userId": null, "anonymousId": "23adfd82-aa0f-45a7-a756-24f2a7a4c895", "event": "Product Viewed", "type": "track",
        "properties": {"sku": "s-1", "price": 12.50}, "context": context, "messageId": "ajs-next-1795175990000-e8b6c8", "writeKey": "KEY",
        "_metadata": {"bundled": []}
    });
    let expected = json!({
        "event": "Product Viewed", "message_type": "track", "protocol": "segment", "collector_tstamp": NOON_TEXT,
        "dvce_created_tstamp": "2026-11-20T11:59:50.000000Z", "dvce_sent_tstamp": "2026-11-20T11:59:52.000000Z",
        "derived_tstamp": "2026-11-20T11:59:58.000000Z", "event_id": "ajs-next-1795175990000-e8b6c8",
        "domain_userid": "23adfd82-aa0f-45a7-a756-24f2a7a4c895", "properties": {"sku": "s-1", "price": 12.50},
        "page_url": "https://shop.example/shoes", "page_title": "Shoes", "page_referrer": "https://search.example/",
        "useragent": "Mozilla/5.0", "br_lang": "de-DE", "os_timezone": "Europe/Berlin", "name_tracker": "analytics.js",
        "v_tracker": "next-1.70.0", "platform": "web", "user_ipaddress": "192.0.2.7", "context": context,
        "extra": {"integrations": {"All": true}, "_metadata": {"bundled": []}}
    });
    assert_eq!(message(MessageType::Track, sent), expected);
}

#[test]
fn a_batch_of_a_server() {
    let body = json!({
        "batch": [
            {"type": "identify", "userId": 7, "anonymousId": null, "traits": {"email": "ada@shop.example"}, "messageId": "m1",
             "timestamp": "2026-11-20T11:59:50+00:00", "context": {"library": {"name": "analytics-python", "version": "2.3.3"}}},
            {"type": "nonsense", "userId": "u"}, 12, {"type": "track", "userId": "u"}
        ],
        "writeKey": "KEY", "sentAt": "2026-11-20T11:59:59Z", "context": {"app": {"name": "shop"}, "library": {"name": "other"}}
    });
    let text = body.to_string();
    let head = head(&[]);
    let outline = read(&Wire::Segment(Call::Batch), text.as_bytes(), &head, 10).expect("a batch");
    assert_eq!((outline.write_key(), outline.events()), (Some("KEY"), 4));
    let events = decode(&Wire::Segment(Call::Batch), text.as_bytes(), &head).expect("a batch");
    let identify = events[0].as_ref().expect("good");
    assert_eq!(
        *identify,
        json!({"event": "identify", "message_type": "identify", "protocol": "segment", "collector_tstamp": NOON_TEXT,
            "dvce_created_tstamp": "2026-11-20T11:59:50.000000Z", "dvce_sent_tstamp": "2026-11-20T11:59:59.000000Z",
            "derived_tstamp": "2026-11-20T11:59:51.000000Z", "user_id": "7", "traits": {"email": "ada@shop.example"},
            "event_id": "m1", "name_tracker": "analytics-python", "v_tracker": "2.3.3", "platform": "srv",
            "context": {"library": {"name": "analytics-python", "version": "2.3.3"}, "app": {"name": "shop"}}}),
        "the address of a server is none of its users"
    );
    let rejected: Vec<_> = events[1..].iter().map(|e| e.as_ref().err().map(ToString::to_string)).collect();
    assert_eq!(rejected[0].as_deref(), Some("schema: type is none of track, identify, page, screen, group, alias"));
    assert!(rejected[1].as_ref().is_some_and(|text| text.starts_with("parse: not a message")), "{rejected:?}");
    assert_eq!(rejected[2].as_deref(), Some("schema: a track message needs the name of what was done in event"));
}

#[test]
fn each_type_has_its_event_and_its_fields() {
    let page = message(
        MessageType::Page,
        json!({"name": "Shoes", "category": "Docs", "anonymousId": "a",
        "properties": {"url": "https://shop.example/p", "title": "P"}, "context": {"page": {"url": "https://shop.example/c", "referrer": "r"}}}),
    );
    assert_eq!(
        (&page["event"], &page["page_name"], &page["extra"]),
        (&json!("page_view"), &json!("Shoes"), &json!({"category": "Docs"}))
    );
    assert_eq!(
        (&page["page_url"], &page["page_title"], &page["page_referrer"]),
        (&json!("https://shop.example/p"), &json!("P"), &json!("r"))
    );
    let screen = message(MessageType::Screen, json!({"name": "Home", "userId": "u"}));
    assert_eq!((&screen["event"], &screen["screen_name"]), (&json!("screen_view"), &json!("Home")));
    let group = batched(json!({"type": "GROUP", "groupId": "g", "userId": "u", "event": "x"}));
    assert_eq!(
        (&group["event"], &group["group_id"], &group["extra"]),
        (&json!("group"), &json!("g"), &json!({"type": "GROUP", "event": "x"}))
    );
    let alias = message(MessageType::Alias, json!({"previousId": "old", "userId": "new", "type": "alias"}));
    assert_eq!(
        (&alias["event"], &alias["previous_id"], &alias["user_id"]),
        (&json!("alias"), &json!("old"), &json!("new"))
    );
}

#[test]
fn rudderstack_says_some_things_elsewhere() {
    let identify = batched(
        json!({"type": "identify", "channel": "web", "userId": "", "anonymousId": "a", "originalTimestamp": "2026-11-20T11:00:00.000Z",
        "sentAt": "2026-11-20T11:00:03.000Z", "messageId": "1795-r",
        "context": {"traits": {"email": "a@shop.example"}, "sessionId": 1_795_175_990_000_u64, "ip": "198.51.100.7"}}),
    );
    assert_eq!(identify["traits"], json!({"email": "a@shop.example"}));
    assert_eq!((&identify["session_id"], &identify["platform"]), (&json!("1795175990000"), &json!("web")));
    assert_eq!(
        (&identify["derived_tstamp"], &identify["user_ipaddress"]),
        (&json!("2026-11-20T11:59:57.000000Z"), &json!("198.51.100.7"))
    );
    assert_eq!((identify.get("user_id"), &identify["extra"]), (None, &json!({"channel": "web"})));
    let id = "0b8a1a6e-3f0f-4a59-9c5e-9f3f7f1d2c3b";
    let from_header = head(&[("anonymousid", &base64_text::encode(id.as_bytes()))]);
    let page = Wire::Segment(Call::One(MessageType::Page));
    assert_eq!(one(&page, &json!({}), &from_header)["domain_userid"], id);
    assert_eq!(one(&page, &json!({"anonymousId": "body"}), &from_header)["domain_userid"], "body");
}

#[test]
fn times_are_set_right() {
    let derived = |times: Value| message(MessageType::Page, times).get("derived_tstamp").cloned();
    let (ten, eleven) = ("2026-11-20T10:00:00Z", "2026-11-20T11:00:00Z");
    let at = |text: &str| Some(Value::from(text.replace('Z', ".000000Z")));
    assert_eq!(derived(json!({})), None);
    assert_eq!(derived(json!({"timestamp": ten})), at(ten), "a server that says when it was");
    assert_eq!(derived(json!({"originalTimestamp": ten})), at(ten));
    assert_eq!(
        derived(json!({"timestamp": ten, "sentAt": eleven})),
        at(eleven),
        "an hour on the device, received at noon"
    );
    assert_eq!(derived(json!({"originalTimestamp": ten, "sentAt": eleven})), at(eleven));
    assert_eq!(
        derived(json!({"originalTimestamp": ten, "timestamp": eleven, "sentAt": ten})),
        at(eleven),
        "set right before"
    );
    assert_eq!(derived(json!({"timestamp": 1_795_168_800_000_u64})), at(ten));
    assert_eq!(derived(json!({"timestamp": 20_261_120})), None, "neither a date nor milliseconds");
    let odd = message(MessageType::Page, json!({"timestamp": "soon", "sentAt": eleven}));
    assert_eq!((&odd["extra"], &odd["derived_tstamp"]), (&json!({"timestamp": "soon"}), &json!(NOON_TEXT)));
}

#[test]
fn a_write_key_is_found_in_body_or_query_and_never_kept() {
    let key = |body: &str, query: &str| {
        let mut head = head(&[]);
        head.query = query.to_owned();
        let outline = read(&Wire::Segment(Call::Batch), body.as_bytes(), &head, 10).expect("a batch");
        outline.write_key().map(str::to_owned)
    };
    assert_eq!(key(r#"{"batch":[{}],"writeKey":"b"}"#, "writeKey=q").as_deref(), Some("b"));
    assert_eq!(key(r#"{"batch":[{}],"writeKey":""}"#, "a=1&writeKey=q").as_deref(), Some("q"));
    assert_eq!(key(r#"[{}]"#, ""), None);
    let event = batched(json!({"type": "page", "writeKey": "KEY", "userId": "u"}));
    assert!(!event.to_string().contains("KEY"), "{event}");
    assert_eq!(decode(&Wire::Segment(Call::Batch), br#"[{"type":"page"}]"#, &head(&[])).map(|e| e.len()), Ok(1));
    let reason = |body: &[u8]| {
        decode(&Wire::Segment(Call::Batch), body, &head(&[])).expect("a batch").remove(0).map_err(|r| r.reason)
    };
    assert_eq!(reason(br#"[{"type":7}]"#), Err(Reason::Schema));
}

/// A message costs what it says itself and what is written of it, however much its batch says.
#[test]
fn what_a_batch_says_is_read_once() {
    let long = |name: &str| format!("\"{name}\":[{}1]", "1,".repeat(50_000));
    let flat = |names: std::ops::Range<usize>| names.map(|n| format!("\"{n}\":1")).collect::<Vec<_>>().join(",");
    let (many, more) = (flat(0..600), flat(600..1_100));
    for (shared, message, is_good) in [
        // What the message says itself is not read in the batch's, and neither is what is not written in the end.
        (format!("\"context\":{{{}}}", long("a")), "{\"type\":\"page\",\"context\":{\"a\":1}}".to_owned(), true),
        (
            format!("\"context\":{{\"page\":{{{}}}}}", long("a")),
            "{\"type\":\"page\",\"context\":{\"page\":{}}}".to_owned(),
            true,
        ),
        (format!("\"sentAt\":1795168800000.{}", "0".repeat(100_000)), "{\"type\":\"page\"}".to_owned(), true),
        (format!("{},\"context\":{{{}}}", long("a"), long("b")), "{\"type\":\"track\"}".to_owned(), false),
        (
            format!("{},\"context\":{{{}}}", long("a"), long("b")),
            "{\"type\":\"page\",\"context\":{\"page\":{\"\\ud800\":1}}}".to_owned(),
            false,
        ),
        (
            format!("\"context\":{{{many},{}}}", long("a")),
            format!("{{\"type\":\"page\",\"context\":{{{more}}}}}"),
            false,
        ),
        (format!("\"context\":{{\"\\ud800\":{{{}}}}}", long("a")), "{\"type\":\"page\"}".to_owned(), false),
    ] {
        let body = format!("{{{shared},\"batch\":[{}]}}", vec![message.as_str(); 50].join(","));
        let head = head(&[]);
        let outline = read(&Wire::Segment(Call::Batch), body.as_bytes(), &head, 50).expect("a batch");
        let (before, mut room) = (BYTES_READ.get(), 0);
        let decoded = outline.write(&|_| Stamps { now: NOON, address: None, head: &head }, &mut |more| {
            room += more;
            Ok(())
        });
        let events = decoded.expect("room").expect("written").events;
        assert!(events.iter().all(|event| event.place.is_ok() == is_good), "{:?}: {message}", events[0]);
        let read = BYTES_READ.get() - before;
        assert!(read < 2 * body.len(), "{read} bytes were read of {}: {message}", body.len());
        assert!(room < body.len() + 50 * 300, "room for {room} bytes was asked for: {message}");
    }
}
