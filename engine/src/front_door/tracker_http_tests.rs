//! Tests of the faces of trackers and of CloudEvents, over real connections.

use axum::{Extension, http::HeaderMap};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use keyloom_actors::{
    event::{EventBatch, KeyPaths},
    ports::{LogError, LogRecord},
    timestamp::{SystemClock, Timestamp},
};
use serde_json::{Value, json};

use super::*;
use crate::{
    access::{IpPolicy, Peer, Rules, Source, privacy::Pseudonyms},
    front_door::{
        Acceptor, Limits,
        admission::Admissions,
        decode::encode,
        http,
        protocols::cookie::{CollectorCookie, SameSite},
        test_log::MemoryLog,
    },
};

struct Face {
    door: Arc<FrontDoor>,
    log: Arc<MemoryLog>,
    client: Client<HttpConnector, Full<Bytes>>,
    address: String,
}

struct Answered {
    code: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answered {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

impl Face {
    async fn open(limits: Limits, cookie: Option<CollectorCookie>) -> Self {
        Self::guarded(limits, cookie, Rules::default()).await
    }

    async fn guarded(limits: Limits, cookie: Option<CollectorCookie>, rules: Rules) -> Self {
        let log = Arc::new(MemoryLog::default());
        let keys = KeyPaths::new(["domain_userid", "user_id", "subject"]);
        let acceptor = Acceptor { keys, partitions: 1, event_bytes_max: 60_000 };
        let door = FrontDoor::new(acceptor, Arc::<MemoryLog>::clone(&log), Arc::new(SystemClock), limits);
        let door = Arc::new(door.with_cookie(cookie).with_admissions(Admissions::new(Arc::new(rules))));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let peer = Peer { address: ([203, 0, 113, 7], 4711).into(), certificate_names: Arc::from([]) };
        let routes = http::routes(Arc::clone(&door)).layer(Extension(peer));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { door, log, client: Client::builder(TokioExecutor::new()).build_http(), address }
    }

    async fn usual() -> Self {
        Self::open(Limits::default(), Some(CollectorCookie::default())).await
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answered {
        let mut request = axum::http::Request::builder().method(method).uri(format!("{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let (head, body) = self.client.request(request).await.expect("an answer").into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Answered { code: head.status.as_u16(), headers: head.headers, body: body.to_vec() }
    }

    async fn post(&self, path: &str, body: &Value) -> Answered {
        self.send("POST", path, &[("content-type", "text/plain")], body.to_string()).await
    }

    /// What is stored, in order.
    fn events(&self) -> Vec<Value> {
        let records = self.log.records().remove(&0).unwrap_or_default();
        records.iter().map(|r| serde_json::from_slice(&r.payload).expect("JSON")).collect()
    }
}

fn payload(events: Value) -> Value {
    json!({"schema": "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4", "data": events})
}

#[tokio::test]
async fn a_snowplow_post_is_stored_and_gets_its_cookie() {
    let face = Face::usual().await;
    let body = payload(json!([{"e": "pv", "duid": "d", "eid": "e1"}, {"e": "pp", "duid": "d", "eid": "e2"}]));
    let first = face.post(SNOWPLOW_PATH, &body).await;
    assert_eq!((first.code, first.body.as_slice()), (200, b"ok".as_slice()));
    let cookie = first.header("set-cookie").expect("a cookie");
    let id = cookie.strip_prefix("sp=").and_then(|rest| rest.split(';').next()).expect("an id").to_owned();
    assert!(cookie.ends_with("; Max-Age=31536000; Path=/; SameSite=None; Secure; HttpOnly"), "{cookie}");
    let events = face.events();
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|e| e["network_userid"] == id && e["user_ipaddress"] == "203.0.113.0"), "{events:?}");
    let later = payload(json!([{"e": "pv", "duid": "d", "eid": "e3"}]));
    let again = face.send("POST", SNOWPLOW_PATH, &[("cookie", &format!("a=b; sp={id}"))], later.to_string()).await;
    assert!(again.header("set-cookie").is_some_and(|cookie| cookie.starts_with(&format!("sp={id};"))));
    assert_eq!(face.events()[2]["network_userid"], id);
    let anonymous = payload(json!([{"e": "pv", "duid": "d", "eid": "e4"}]));
    let headers = [("cookie", "sp=secret"), ("sp-anonymous", "*")];
    let anonymous = face.send("POST", SNOWPLOW_PATH, &headers, anonymous.to_string()).await;
    assert_eq!((anonymous.code, anonymous.header("set-cookie")), (200, None));
    let event = &face.events()[3];
    assert!(event.get("network_userid").is_none() && event.get("user_ipaddress").is_none(), "{event}");
}

#[tokio::test]
async fn a_source_keeps_no_names_and_no_addresses_of_any_protocol() {
    let key = b"0123456789abcdef";
    let pseudonyms = || Some(Arc::new(Pseudonyms::new(["domain_userid", "user_id", "traits.email"], key)));
    let web = Source {
        write_keys: vec!["wk".into()],
        app_ids: vec!["shop".into()],
        pseudonyms: pseudonyms(),
        ..Source::default()
    };
    let trusted = vec!["203.0.113.0/24".parse().expect("a network")];
    let rules = Rules::new(Vec::new(), vec![web], IpPolicy::Truncate, trusted);
    let face = Face::guarded(Limits::default(), None, rules).await;
    let of = |text: &str| json!(pseudonyms().expect("some").of(text));
    let forwarded = ("x-forwarded-for", "6.6.6.6, 198.51.100.77");
    let snowplow = payload(
        json!([{"e": "pv", "duid": "alice", "aid": "shop"}, {"e": "pv", "duid": "bob", "aid": "shop", "ip": "203.0.113.7"}]),
    );
    let stored = face.send("POST", SNOWPLOW_PATH, &[forwarded], snowplow.to_string()).await;
    assert_eq!(stored.code, 200, "{}", String::from_utf8_lossy(&stored.body));
    let basic = ("authorization", "Basic d2s6"); // wk:
    let segment = json!({"type": "identify", "userId": "carol", "traits": {"email": "c@x", "plan": "a"}, "context": {"ip": "203.0.113.7"}});
    assert_eq!(face.send("POST", "/v1/identify", &[basic, forwarded], segment.to_string()).await.code, 200);
    // What nobody can read, and what has no key.
    assert_eq!(
        face.send("POST", "/v1/identify", &[basic], "{\"type\":\"nonsense\",\"userId\":\"dave\"}").await.code,
        200
    );
    let own = json!({"domain_userid": "erin", "user_ipaddress": "203.0.113.7"}).to_string();
    assert_eq!(face.send("POST", http::EVENTS_PATH, &[basic], own).await.code, 200);
    let events = face.events();
    let text = Value::from(events.clone()).to_string();
    for name in ["alice", "bob", "carol", "dave", "erin", "c@x", "198.51.100.77"] {
        assert!(!text.contains(name), "{name} is in {text}");
    }
    let shown = |at: usize, field: &str| events[at][field].clone();
    assert_eq!((shown(0, "domain_userid"), shown(0, "user_ipaddress")), (of("alice"), json!("198.51.100.0")));
    assert_eq!((shown(1, "domain_userid"), shown(1, "user_ipaddress")), (of("bob"), json!("203.0.113.0")));
    assert_eq!(
        (shown(2, "user_id"), events[2]["traits"].clone()),
        (of("carol"), json!({"email": of("c@x"), "plan": "a"}))
    );
    assert_eq!((shown(4, "domain_userid"), shown(4, "user_ipaddress")), (of("erin"), json!("203.0.113.7")));
    // Who has no such key is not let in, by none of the protocols.
    let nobody = payload(json!([{"e": "pv", "duid": "d", "aid": "other"}]));
    assert_eq!(face.post(SNOWPLOW_PATH, &nobody).await.code, 401);
    assert_eq!(face.send("GET", "/i?e=pv&duid=d", &[], "").await.code, 401);
    assert_eq!(face.post("/v1/track", &json!({"event": "x", "userId": "u"})).await.code, 401);
    assert_eq!(face.post(CLOUDEVENTS_PATH, &json!({})).await.code / 100, 4);
    assert_eq!(face.events().len(), 5);
}

#[tokio::test]
async fn events_of_several_applications_in_one_body_are_treated_as_their_sources_want_it() {
    let b = Pseudonyms::new(["user_id"], b"0123456789abcdef");
    let source =
        |app: &str, ip, pseudonyms| Source { app_ids: vec![app.into()], ip: Some(ip), pseudonyms, ..Source::default() };
    let sources = vec![source("a", IpPolicy::Keep, None), source("b", IpPolicy::Drop, Some(Arc::new(b.clone())))];
    let rules = Rules::new(Vec::new(), sources, IpPolicy::Truncate, Vec::new());
    let face = Face::guarded(Limits::default(), None, rules).await;
    let pv = |aid: &str, uid: &str| json!({"e": "pv", "aid": aid, "uid": uid, "eid": uid});
    let (bob, carl, alice) = (pv("b", "bob"), pv("c", "carl"), pv("a", "alice"));
    let mixed =
        payload(json!([alice, bob, carl, {"e": "pv", "uid": "dora"}, 7, pv("b", "erin"), {"e": "xx", "aid": "a"}]));
    assert_eq!(face.post(SNOWPLOW_PATH, &mixed).await.code, 200);
    let events = face.events();
    let users: Vec<_> = events.iter().filter_map(|e| e["user_id"].as_str()).collect();
    assert_eq!(users, ["alice", &b.of("bob"), &b.of("erin")], "in their order");
    assert_eq!((&events[0]["user_ipaddress"], events[1].get("user_ipaddress")), (&json!("203.0.113.7"), None));
    let letter = |at: usize| (events[at]["error"].as_str().unwrap_or_default(), events[at]["payload"].as_str());
    assert!(letter(2).0.starts_with("no source has this write key or app id; "), "{}", letter(2).0);
    assert_eq!((letter(2).1, letter(3).1), (Some(""), Some("")), "nobody has said what may be kept");
    assert!(letter(3).0.starts_with("this address needs credentials"), "{}", letter(3).0);
    assert_eq!((&events[4]["keyloom.rejected"], letter(4).1), (&json!("parse"), Some("")));
    assert!(events.len() == 7 && letter(6).1.is_some_and(|sent| sent.contains("\"xx\"")), "{}", events[6]);
    assert_eq!(face.post(SNOWPLOW_PATH, &payload(json!([carl]))).await.code, 401, "none of a source");
    // What the query says counts for all.
    let path = format!("{SNOWPLOW_PATH}?aid=b");
    assert_eq!(face.post(&path, &payload(json!([pv("a", "fred")]))).await.code, 200);
    assert_eq!(face.events()[7]["user_id"], b.of("fred"));
}

#[tokio::test]
async fn no_address_and_no_name_is_kept_aside() {
    let web = Source {
        app_ids: vec!["shop".into()],
        write_keys: vec!["wk".into()],
        ip: Some(IpPolicy::Drop),
        pseudonyms: Some(Arc::new(Pseudonyms::new(["user_id"], b"0123456789abcdef"))),
        ..Source::default()
    };
    let rules = Rules::new(Vec::new(), vec![web], IpPolicy::Truncate, Vec::new());
    let face = Face::guarded(Limits::default(), None, rules).await;
    let events = payload(json!([
        {"e": "pv", "duid": "d", "ip": "198.51.100.1", "page": "x"},
        {"e": "pv", "duid": "d", "ip": ["198.51.100.2"]},
        "alice@example.com",
        {"e": "ue", "duid": "d", "ue_pr": "\"alice@example.com\""},
        {"e": "pv", "duid": "d", "co": "{\"data\":\"alice@example.com\"}"},
    ]));
    for path in [format!("{SNOWPLOW_PATH}?aid=shop&ip=198.51.100.3"), format!("{SNOWPLOW_PATH}?aid=shop")] {
        assert_eq!(face.post(&path, &events).await.code, 200);
    }
    let basic = [("authorization", "Basic d2s6")]; // wk:
    let batch = json!({"batch": [{"type": "page", "anonymousId": "d", "ip": "198.51.100.4"}, "alice@example.com"], "ip": "198.51.100.5"});
    assert_eq!(face.send("POST", "/v1/batch", &basic, batch.to_string()).await.code, 200);
    let events = face.events();
    let text = Value::from(events.clone()).to_string();
    assert!(!text.contains("198.51.100") && !text.contains("alice"), "{text}");
    assert_eq!((&events[0]["extra"], &events[0]["page_title"]), (&json!({"body.ip": null}), &json!("x")));
}

#[tokio::test]
async fn the_cookie_is_a_setting() {
    let own =
        CollectorCookie { name: "kl".into(), same_site: SameSite::Lax, secure: false, ..CollectorCookie::default() };
    let face = Face::open(Limits::default(), Some(own)).await;
    let answer = face.send("GET", "/i?e=pv&duid=d", &[], "").await;
    assert!(answer.header("set-cookie").is_some_and(|cookie| cookie.starts_with("kl=") && cookie.contains("Lax")));
    let face = Face::open(Limits::default(), None).await;
    let answer = face.send("GET", "/i?e=pv&duid=d", &[("cookie", "sp=x")], "").await;
    assert_eq!((answer.code, answer.header("set-cookie")), (200, None));
    assert!(face.events()[0].get("network_userid").is_none());
}

#[tokio::test]
async fn a_pixel_is_a_picture_that_nobody_keeps() {
    let face = Face::usual().await;
    let answer = face.send("GET", "/i?e=pv&duid=d&page=a+b", &[("user-agent", "Mozilla/5.0")], "").await;
    assert_eq!((answer.code, answer.header("content-type")), (200, Some("image/gif")));
    assert!(answer.header("cache-control").is_some_and(|value| value.contains("no-store")));
    assert!(answer.body.starts_with(b"GIF89a\x01\x00\x01\x00") && answer.body.ends_with(b";"));
    let event = &face.events()[0];
    let cookie = answer.header("set-cookie").and_then(|cookie| cookie.strip_prefix("sp=")).expect("a cookie");
    assert!(event["network_userid"].as_str().is_some_and(|id| cookie.starts_with(&format!("{id};"))), "{event}");
    assert_eq!((&event["page_title"], &event["useragent"]), (&json!("a b"), &json!("Mozilla/5.0")));
    let empty = face.send("GET", "/i", &[], "").await;
    assert_eq!((empty.code, empty.json()["hint"].is_string()), (400, true));
    let wrong = face.send("POST", "/i", &[], "x").await;
    assert_eq!((wrong.code, wrong.header("allow")), (405, Some("GET, HEAD")));
}

#[tokio::test]
async fn every_path_of_segment_is_there() {
    let face = Face::usual().await;
    let event = |n: usize| json!({"type": "track", "event": "x", "anonymousId": "a", "messageId": format!("m{n}")});
    for (n, (path, call)) in SEGMENT_PATHS.iter().enumerate() {
        let body = if *call == Call::Batch { json!({"batch": [event(n)], "writeKey": "k"}) } else { event(n) };
        let answer = face.post(path, &body).await;
        assert_eq!((answer.code, answer.json()), (200, json!({"success": true})), "{path}");
        assert_eq!(face.events().len(), n + 1, "{path}");
    }
    let types: Vec<_> = face.events().iter().map(|e| e["message_type"].as_str().expect("a type").to_owned()).collect();
    assert_eq!(types[..4], ["track", "track", "identify", "identify"]);
    let metrics = face.post("/v1/m", &json!({"series": [{"type": "Counter"}]})).await;
    assert_eq!((metrics.code, metrics.json(), face.events().len()), (200, json!({"success": true}), 16));
    let wrong = face.send("GET", "/v1/track", &[], "").await;
    assert_eq!((wrong.code, wrong.header("allow")), (405, Some("POST")));
}

#[tokio::test]
async fn packed_batches_are_unpacked() {
    let face = Face::usual().await;
    let body = json!({"batch": [{"type": "page", "anonymousId": "a"}], "sentAt": "2026-11-20T11:59:59Z"}).to_string();
    let packed = encode(Encoding::Gzip, body.as_bytes());
    let answer = face.send("POST", "/v1/batch", &[("content-encoding", "gzip")], packed).await;
    assert_eq!((answer.code, face.events().len()), (200, 1));
}

#[tokio::test]
async fn what_a_tracker_sent_in_vain_becomes_a_dead_letter() {
    let face = Face::usual().await;
    let large = "x".repeat(70_000);
    let body = payload(json!([
        {"e": "pv", "eid": "1"}, {"e": "??", "duid": "d"}, {"e": "pv", "duid": "d", "eid": "2"}, {"e": "pv", "duid": "d", "page": large}
    ]));
    let answer = face.post(SNOWPLOW_PATH, &body).await;
    assert_eq!(answer.code, 200);
    let events = face.events();
    let reasons: Vec<_> = events.iter().map(|e| e["keyloom.rejected"].as_str()).collect();
    assert_eq!(reasons, [None, Some("schema"), None, Some("too_large")]);
    assert_eq!((&events[0]["event"], &events[0]["event_id"]), (&json!("page_view"), &json!("1")), "as the event it is");
    let sent: Value = serde_json::from_str(events[1]["payload"].as_str().expect("text")).expect("as it was sent");
    let error = "e=?? is no kind of event; known are pv, pp, ue, se, tr, ti";
    assert_eq!(
        (&events[1]["protocol"], &events[1]["error"], &sent),
        (&json!("snowplow"), &json!(error), &body["data"][1])
    );
    let head = events[3]["payload"].as_str().expect("text");
    assert!(head.len() > 8_000 && events[3]["bytes"].as_u64().is_some_and(|bytes| bytes > 70_000), "its beginning");
    let again = face.post(SNOWPLOW_PATH, &body).await;
    assert_eq!((again.code, face.events().len()), (200, 4), "a repeat is absorbed, dead letters too");

    let segment = face.post("/v1/batch", &json!({"batch": [{"type": "track", "anonymousId": "a"}, 7]})).await;
    assert_eq!((segment.code, segment.json()), (200, json!({"success": true})));
    assert_eq!(face.events()[4]["protocol"], "segment");

    // Behind the log they are what the engine gives up.
    let records = face.log.records().remove(&0).expect("records");
    let record = |(seq, r): (usize, keyloom_actors::ports::NewRecord)| LogRecord {
        seq: seq as u64 + 1,
        stored: Timestamp(0),
        key: Some(r.key),
        payload: r.payload,
        envelope: None,
        scanned: None,
    };
    let records = records.into_iter().enumerate().map(record).collect();
    let batch = EventBatch::decode(0, records, &KeyPaths::new(["domain_userid"]), None);
    let refused: Vec<_> = batch.events.iter().map(|e| e.refused.as_ref().map(|r| r.reason.label())).collect();
    assert_eq!(refused, [Some("no_key"), Some("schema"), None, Some("too_large"), Some("schema"), Some("parse")]);
}

#[tokio::test]
async fn dead_letters_are_as_many_as_what_was_sent_in_vain() {
    // What was written holds when it came, and that is another time for a repeat.
    let face = Face::usual().await;
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(70), "]".repeat(70));
    let message = format!("{{\"type\":\"page\",\"anonymousId\":\"a\",\"properties\":{deep}}}");
    for _ in 0..2 {
        let batch = format!("{{\"batch\":[{message}]}}");
        assert_eq!(face.send("POST", "/v1/batch", &[], batch).await.code, 200);
    }
    let letters = face.events();
    assert_eq!((letters.len(), &letters[0]["keyloom.rejected"]), (1, &json!("parse")), "{letters:?}");
    assert!(letters[0]["payload"].as_str().is_some_and(|payload| payload.contains("collector_tstamp")));
    assert_eq!(letters[0]["bytes"], message.len());

    // Where nothing may be kept, letters of different events are equal but for their sizes.
    let pseudonyms = Some(Arc::new(Pseudonyms::new(["user_id"], b"0123456789abcdef")));
    let shop = Source { app_ids: vec!["shop".into()], pseudonyms, ..Source::default() };
    let face =
        Face::guarded(Limits::default(), None, Rules::new(Vec::new(), vec![shop], IpPolicy::Keep, Vec::new())).await;
    let event = |e: &str, aid: &str, uid: &str| json!({"e": e, "aid": aid, "uid": uid});
    let events = [
        event("pv", "shop", "alice"),
        event("xx", "shop", "alice"),
        event("xx", "shop", "carol"),
        event("pv", "other", "alice"),
        event("pv", "other", "carol"),
    ];
    for _ in 0..2 {
        assert_eq!(face.post(SNOWPLOW_PATH, &payload(json!(events))).await.code, 200);
    }
    let stored = face.events();
    let letters: Vec<_> = stored.iter().filter(|e| e["keyloom.rejected"] == "schema").collect();
    assert_eq!(letters.len(), 4, "{letters:?}");
    for (letter, sent) in letters.iter().zip(&events[1..]) {
        assert_eq!((&letter["payload"], &letter["bytes"]), (&json!(""), &json!(sent.to_string().len())));
    }
}

#[tokio::test]
async fn a_dead_letter_holds_no_write_key() {
    let web = Source { write_keys: vec!["web-1".into()], ip: Some(IpPolicy::Keep), ..Source::default() };
    let rules = Rules::new(Vec::new(), vec![web], IpPolicy::Truncate, Vec::new());
    let face = Face::guarded(Limits::default(), None, rules).await;
    let nothing = json!({"writeKey": "web-1", "anonymousId": "a", "messageId": "m", "event": ""});
    assert_eq!(face.post("/v1/t", &nothing).await.code, 200);
    let other = json!({"writeKey": "web-1", "type": "nonsense"});
    let in_batch = json!({"writeKey": "web-1", "batch": [other, [other]]});
    assert_eq!(face.post("/v1/b", &in_batch).await.code, 200);
    let letters = face.events();
    assert!(letters.len() == 3 && letters.iter().all(|e| e["keyloom.rejected"].is_string()), "{letters:?}");
    assert!(letters[0]["payload"].as_str().is_some_and(|kept| kept.contains("\"messageId\":\"m\"")), "{letters:?}");
    assert!(!Value::from(letters).to_string().contains("web-1"));
}

#[tokio::test]
async fn a_cloudevent_alone_is_answered_without_words_and_others_by_index() {
    let face = Face::usual().await;
    let event = |id: &str| json!({"specversion": "1.0", "id": id, "source": "/s", "type": "t", "subject": "user-7"});
    let structured = [("content-type", "application/cloudevents+json")];
    let answer = face.send("POST", CLOUDEVENTS_PATH, &structured, event("1").to_string()).await;
    assert_eq!((answer.code, answer.body.len()), (204, 0));
    let batch = [("content-type", "application/cloudevents-batch+json")];
    let body = json!([event("1"), event(""), event("2")]).to_string();
    let answer = face.send("POST", CLOUDEVENTS_PATH, &batch, body).await.json();
    assert_eq!(
        (&answer["accepted"], &answer["duplicates"], &answer["rejected"][0]["index"]),
        (&json!(1), &json!(1), &json!(1))
    );
    let binary =
        [("ce-specversion", "1.0"), ("ce-id", "3"), ("ce-source", "/s"), ("ce-type", "t"), ("ce-subject", "user-7")];
    let answer = face.send("POST", CLOUDEVENTS_PATH, &binary, "").await;
    assert_eq!((answer.code, answer.body.len()), (204, 0), "all in the headers");
    let answer = face.send("POST", CLOUDEVENTS_PATH, &structured, event("").to_string()).await;
    assert_eq!((answer.code, &answer.json()["rejected"][0]["index"]), (400, &json!(0)));
    let answer = face.send("POST", CLOUDEVENTS_PATH, &[("content-type", "text/html")], "<p>").await;
    assert_eq!(answer.code, 400);
    assert_eq!(face.events().len(), 3, "what was rejected is not stored");
}

#[tokio::test]
async fn cloudevents_of_two_sources_may_have_the_same_id() {
    let face = Face::usual().await;
    let event =
        |source: &str| json!({"specversion": "1.0", "id": "1", "source": source, "type": "t", "subject": "user-7"});
    let batch = [("content-type", "application/cloudevents-batch+json")];
    let body = json!([event("/shop"), event("/bank"), event("/shop")]).to_string();
    let answer = face.send("POST", CLOUDEVENTS_PATH, &batch, body).await.json();
    assert_eq!((&answer["accepted"], &answer["duplicates"]), (&json!(2), &json!(1)), "{answer}");
    // Sessions tell them apart by what is stored.
    let ids: Vec<_> = face.events().iter().map(|e| (e["event_id"].clone(), e["extra"]["id"].clone())).collect();
    assert_eq!(ids, [(json!("/shop 1"), json!("1")), (json!("/bank 1"), json!("1"))]);
}

#[tokio::test]
async fn refusals_are_those_of_the_front_door() {
    let limits = Limits { body_bytes_max: 600, events_max: 2, in_flight_bytes_max: 1_200, ..Limits::default() };
    let face = Face::open(limits, None).await;
    let message = json!({"type": "page", "anonymousId": "a"});
    let track = json!({"type": "track", "event": "x", "anonymousId": "a"});
    let cases = [
        ("/v1/batch", json!({"batch": [message, message, message]}).to_string(), 413),
        ("/v1/import/", json!({"batch": [message, message, message]}).to_string(), 413),
        ("/v1/batch", "hello".to_owned(), 400),
        (SNOWPLOW_PATH, String::new(), 400),
        ("/v1/track", format!("{:700}", track.to_string()), 413),
    ];
    for (path, body, expected) in cases {
        let answer = face.send("POST", path, &[], body).await;
        assert_eq!((answer.code, answer.json()["hint"].is_string()), (expected, true), "{path}");
    }
    face.log.fail_next(LogError::Unavailable("no leader".into()));
    let away = face.post("/v1/track", &track).await;
    assert_eq!((away.code, away.header("retry-after")), (503, Some("1")));
    let mut hold = face.door.gate().enter(0).expect("room");
    while hold.grow(20).is_ok() {}
    let full = face.post("/v1/track", &track).await;
    assert_eq!((full.code, full.header("retry-after")), (429, Some("1")));
    drop(hold);
    assert_eq!(face.post("/v1/track", &track).await.code, 200);
    assert_eq!(face.door.gate().in_flight(), 0);
}
