//! Tests of Snowplow's tracker protocol: requests as real trackers send them.

use keyloom_actors::dead_letter::Reason;
use serde_json::{Value, json};

use super::super::{
    Wire, base64_text,
    tests::{NOON_TEXT, decode, head, one},
};

const SELF_DESCRIBING: &str = r#"{"schema":"iglu:com.snowplowanalytics.snowplow/unstruct_event/jsonschema/1-0-0","data":{"schema":"iglu:com.snowplowanalytics.snowplow/link_click/jsonschema/1-0-1","data":{"targetUrl":"https://shop.example/?a=1&b=ü"}}}"#;
const CONTEXTS: &str = r#"{"schema":"iglu:com.snowplowanalytics.snowplow/contexts/jsonschema/1-0-0","data":[{"schema":"iglu:com.snowplowanalytics.snowplow/web_page/jsonschema/1-0-0","data":{"id":"a86c42e5-b831-45c8-b706-e214c26b4b3d"}},{"schema":"iglu:com.acme/user/jsonschema/2-0-0","data":{"plan":"gold"}}]}"#;

fn payload(events: Value) -> Value {
    json!({"schema": "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4", "data": events})
}

/// What one event's parameters become.
fn event(parameters: Value) -> Value {
    one(&Wire::SnowplowBody, &payload(json!([parameters])), &head(&[]))
}

fn rejection(parameters: Value) -> (Reason, String) {
    let body = payload(json!([parameters])).to_string();
    let mut events = decode(&Wire::SnowplowBody, body.as_bytes(), &head(&[])).expect("the protocol");
    let rejection = events.remove(0).expect_err("rejected");
    (rejection.reason, rejection.text)
}

#[test]
fn a_page_view_has_the_names_and_types_of_an_enriched_event() {
    let sent = json!({
        "e": "pv", "url": "https://shop.example/shoes?x=1", "page": "Shoes", "refr": "https://search.example/",
        "eid": "3d2d4f5e-0d5c-4b3a-9a3f-1a2b3c4d5e6f", "tv": "js-4.6.8", "tna": "sp1", "aid": "shop", "p": "web",
        "cookie": "1", "cs": "UTF-8", "lang": "de-DE", "res": "1920x1080", "cd": "24", "tz": "Europe/Berlin",
        "vp": "1280x720", "ds": "1265x4500", "f_pdf": "0", "vid": "3", "sid": "5f6c8c33-1e24-4b65-9d9c-0f0d7b1f7f42",
        "duid": "b1e2c3d4-0000-4000-8000-1234567890ab", "uid": "ada", "fp": "1234", "tid": "508780", "ua": "Mozilla/5.0",
        "dtm": "1795175990000", "stm": "1795175995000", "ip": "198.51.100.7"
    });
    let expected = json!({
        "event": "page_view", "protocol": "snowplow", "collector_tstamp": NOON_TEXT,
        "derived_tstamp": "2026-11-20T11:59:55.000000Z", "dvce_created_tstamp": "2026-11-20T11:59:50.000000Z",
        "dvce_sent_tstamp": "2026-11-20T11:59:55.000000Z",
        "page_url": "https://shop.example/shoes?x=1", "page_title": "Shoes", "page_referrer": "https://search.example/",
        "event_id": "3d2d4f5e-0d5c-4b3a-9a3f-1a2b3c4d5e6f", "v_tracker": "js-4.6.8", "name_tracker": "sp1",
        "app_id": "shop", "platform": "web", "br_cookies": true, "doc_charset": "UTF-8", "br_lang": "de-DE",
        "dvce_screenwidth": 1920, "dvce_screenheight": 1080, "br_colordepth": "24", "os_timezone": "Europe/Berlin",
        "br_viewwidth": 1280, "br_viewheight": 720, "doc_width": 1265, "doc_height": 4500, "br_features_pdf": false,
        "session_index": 3, "session_id": "5f6c8c33-1e24-4b65-9d9c-0f0d7b1f7f42",
        "domain_userid": "b1e2c3d4-0000-4000-8000-1234567890ab", "user_id": "ada", "user_fingerprint": "1234",
        "txn_id": 508_780, "useragent": "Mozilla/5.0", "user_ipaddress": "198.51.100.7"
    });
    assert_eq!(event(sent), expected);
}

#[test]
fn self_describing_events_and_contexts_come_plain_or_in_any_base64() {
    let pack = base64_text::encode;
    let url_safe = |text: &str| pack(text.as_bytes()).replace('+', "-").replace('/', "_").replace('=', "");
    for (name, event_text, contexts_name, contexts_text) in [
        ("ue_pr", SELF_DESCRIBING.to_owned(), "co", CONTEXTS.to_owned()),
        ("ue_px", pack(SELF_DESCRIBING.as_bytes()), "cx", pack(CONTEXTS.as_bytes())),
        ("ue_px", url_safe(SELF_DESCRIBING), "cx", url_safe(CONTEXTS)),
    ] {
        let found = event(json!({"e": "ue", name: event_text, contexts_name: contexts_text}));
        let inner: Value = serde_json::from_str(SELF_DESCRIBING).expect("JSON");
        let contexts: Value = serde_json::from_str(CONTEXTS).expect("JSON");
        assert_eq!(found["unstruct_event"], inner["data"], "{name}");
        assert_eq!(found["contexts"], contexts["data"], "{name}");
        assert_eq!((&found["event"], &found["event_name"]), (&json!("unstruct"), &json!("link_click")));
        assert_eq!(found["event_vendor"], "com.snowplowanalytics.snowplow");
        assert_eq!((&found["event_format"], &found["event_version"]), (&json!("jsonschema"), &json!("1-0-1")));
        assert_eq!(found["page_view_id"], "a86c42e5-b831-45c8-b706-e214c26b4b3d");
        assert!(found.get("extra").is_none(), "the usual envelopes are not kept: {found}");
    }
    let unusual =
        SELF_DESCRIBING.replace("/1-0-0\"", "/1-0-9\"").replace("\"data\":{\"schema\"", "\"x\":1,\"data\":{\"schema\"");
    let found = event(json!({"e": "ue", "ue_pr": unusual, "co": "", "cx": base64_text::encode(CONTEXTS.as_bytes())}));
    assert_eq!(found["extra"]["ue_pr.x"], 1);
    assert!(found["extra"]["ue_pr.schema"].as_str().is_some_and(|schema| schema.ends_with("1-0-9")));
    assert_eq!(found["contexts"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_phone_says_who_it_is_in_a_context() {
    let session = |user: &str| {
        json!({"schema": "iglu:com.snowplowanalytics.snowplow/contexts/jsonschema/1-0-1", "data": [{
            "schema": "iglu:com.snowplowanalytics.snowplow/client_session/jsonschema/1-0-2",
            "data": {"userId": user, "sessionId": "s1", "sessionIndex": 4, "previousSessionId": null}}]})
    };
    let phone = |user: &str| event(json!({"e": "pv", "p": "mob", "co": session(user).to_string()}));
    let found = phone("b1e2c3d4");
    assert_eq!(
        (&found["domain_userid"], &found["session_id"], &found["session_index"]),
        (&json!("b1e2c3d4"), &json!("s1"), &json!(4))
    );
    assert!(phone("00000000-0000-0000-0000-000000000000").get("domain_userid").is_none(), "nobody");
    let both = event(json!({"e": "pv", "duid": "web", "sid": "s9", "vid": 2, "co": session("b1e2c3d4").to_string()}));
    assert_eq!(
        (&both["domain_userid"], &both["session_id"], &both["session_index"]),
        (&json!("web"), &json!("s9"), &json!(2))
    );
}

#[test]
fn what_does_not_say_what_its_field_means_is_kept_aside() {
    let found = event(json!({
        "e": "se", "se_ca": "shop", "ev_ca": "old", "se_va": "12.50", "tr_tt": "dear", "vid": "x", "res": "wide", "cookie": "maybe",
        "dtm": "soon", "refr": null, "unknown": {"a": [1]}, "uid": "", "page_title": "mine", "event": "mine",
        "tr_tx": " 0", "ti_qu": "007", "vp": "010x20"
    }));
    assert_eq!(
        found,
        json!({"event": "struct", "protocol": "snowplow", "collector_tstamp": NOON_TEXT, "derived_tstamp": NOON_TEXT,
            "se_category": "shop", "se_value": 12.50, "user_ipaddress": "192.0.2.7",
            "tr_tax": 0, "ti_quantity": 7, "br_viewwidth": 10, "br_viewheight": 20,
            "extra": {"ev_ca": "old", "tr_tt": "dear", "vid": "x", "res": "wide", "cookie": "maybe", "dtm": "soon",
                "unknown": {"a": [1]}, "page_title": "mine", "event": "mine", "tr_tx": " 0", "ti_qu": "007", "vp": "010x20"}})
    );
}

#[test]
fn times_are_set_right() {
    let derived = |times: Value| {
        let mut sent = times;
        sent["e"] = "pp".into();
        event(sent)["derived_tstamp"].clone()
    };
    assert_eq!(derived(json!({"dtm": "1000", "stm": "3500"})), "2026-11-20T11:59:57.500000Z", "a clock never set");
    assert_eq!(derived(json!({"dtm": "3500", "stm": "1000"})), NOON_TEXT);
    assert_eq!(derived(json!({"dtm": "3500"})), NOON_TEXT);
    assert_eq!(derived(json!({"dtm": 1, "stm": 2, "ttm": "1795170000000"})), "2026-11-20T10:20:00.000000Z");
}

#[test]
fn many_events_share_the_query_and_bad_ones_stop_nobody() {
    let mut head = head(&[("user-agent", "curl/8"), ("referer", "https://shop.example/from")]);
    head.query = "aid=all&stm=5&x=q".to_owned();
    let body = payload(
        json!([{"e": "pv", "aid": "mine", "url": "https://shop.example/"}, 7, {"e": "xx"}, {"x": "own", "e": "pp"}]),
    );
    let events = decode(&Wire::SnowplowBody, body.to_string().as_bytes(), &head).expect("the protocol");
    let reasons: Vec<_> = events.iter().map(|e| e.as_ref().err().map(|r| r.reason)).collect();
    assert_eq!(reasons, [None, Some(Reason::Parse), Some(Reason::Schema), None]);
    let first = events[0].as_ref().expect("good");
    assert_eq!((&first["app_id"], &first["extra"]), (&json!("all"), &json!({"x": "q", "body.aid": "mine"})));
    assert_eq!((&first["useragent"], &first["page_url"]), (&json!("curl/8"), &json!("https://shop.example/")));
    let last = events[3].as_ref().expect("good");
    assert_eq!((&last["page_url"], &last["extra"]["body.x"]), (&json!("https://shop.example/from"), &json!("own")));
}

#[test]
fn a_pixel_says_one_event_in_its_query() {
    let cx = base64_text::encode(CONTEXTS.as_bytes());
    let query = format!("e=pv&page=Caf%C3%A9+au+lait&url=https%3A%2F%2Fshop.example%2F&duid=d1&cx={cx}&vp=10x20");
    let events = decode(&Wire::SnowplowQuery, query.as_bytes(), &head(&[])).expect("the protocol");
    let event = events[0].as_ref().expect("an event");
    assert_eq!((&event["page_title"], &event["page_url"]), (&json!("Café au lait"), &json!("https://shop.example/")));
    assert_eq!((&event["br_viewheight"], &event["domain_userid"]), (&json!(20), &json!("d1")));
    assert_eq!(event["contexts"][1]["data"]["plan"], "gold", "a plus in base64 that has become a blank");
}

#[test]
fn rejections_say_what_is_wrong() {
    let cases = [
        (json!({"url": "x"}), Reason::Schema, "the parameter e is missing"),
        (json!({"e": "zz"}), Reason::Schema, "e=zz is no kind of event"),
        (json!({"e": "ue"}), Reason::Schema, "e=ue without ue_pr or ue_px"),
        (json!({"e": "ue", "ue_px": "***"}), Reason::Parse, "ue_px is not base64"),
        (json!({"e": "ue", "ue_pr": "{\"schema\""}), Reason::Parse, "ue_pr is not a JSON object"),
        (
            json!({"e": "ue", "ue_pr": "{\"schema\":\"iglu:x/unstruct_event/jsonschema/1-0-0\",\"data\":1}"}),
            Reason::Schema,
            "ue_pr holds no self-describing event",
        ),
        (json!({"e": "pv", "co": "{\"data\":{}}"}), Reason::Schema, "co holds no array of contexts"),
        (json!({"e": "pv", "cx": "e30"}), Reason::Schema, "cx holds no array of contexts"),
    ];
    for (sent, reason, text) in cases {
        let found = rejection(sent.clone());
        assert_eq!(found.0, reason, "{sent}: {}", found.1);
        assert!(found.1.starts_with(text), "{sent}: {}", found.1);
    }
}

#[test]
fn network_ids_of_the_tracker_win_and_the_anonymous_have_none() {
    let with = |headers: &[(&str, &str)], parameters: Value| {
        let mut head = head(headers);
        head.network_userid = Some("cookie".to_owned());
        one(&Wire::SnowplowBody, &payload(json!([parameters])), &head)
    };
    assert_eq!(with(&[], json!({"e": "pv"}))["network_userid"], "cookie");
    assert_eq!(with(&[], json!({"e": "pv", "nuid": "n"}))["network_userid"], "n");
    let both = with(&[], json!({"e": "pv", "nuid": "n", "tnuid": "t"}));
    assert_eq!((&both["network_userid"], &both["extra"]["nuid"]), (&json!("t"), &json!("n")));
    let anonymous = with(
        &[("sp-anonymous", "*")],
        json!({"e": "pv", "nuid": "n", "tnuid": "t", "ip": "198.51.100.7", "duid": "d"}),
    );
    let expected = json!({"event": "page_view", "protocol": "snowplow", "collector_tstamp": NOON_TEXT,
        "derived_tstamp": NOON_TEXT, "domain_userid": "d"});
    assert_eq!(anonymous, expected);
}
