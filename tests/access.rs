//! Who may come in, end to end: tokens from `keyloom token new`, roles, write keys, pages, rates, certificates, faces of
//! their own, and the commands that talk to an engine that asks for all this.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use keyloom_tests::support::{
    certificates,
    engine::{Engine, Topology, binary, folder, keyloom, succeed},
    http::{self, Answer},
    metrics::Metrics,
    servers::free_port,
    wait_for,
};

/// How long an engine behind TLS may take to answer.
const READY_MAX: Duration = Duration::from_secs(60);
const EVENT: &[u8] = br#"{"domain_userid":"u1","event_id":"e1","event":"page_view"}"#;

/// A token with `roles`, and the section that `keyloom token new` says to paste.
fn token(name: &str, roles: &[&str]) -> (String, String) {
    let mut arguments = vec!["token", "new", "--name", name];
    roles.iter().for_each(|role| arguments.extend(["--role", role]));
    let text = succeed(&arguments, &std::env::temp_dir());
    let (token, section) = text.split_once("\n\n").expect("the token, a blank line, the section");
    assert!(!section.contains(token), "the section does not hold the token itself");
    (token.to_owned(), section.to_owned())
}

fn ask(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    http::request(port, method, path, headers, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[test]
fn each_role_opens_its_own_door() {
    let folder = folder();
    let roles = ["ingest", "features", "metrics", "admin-read", "admin-write"];
    let tokens: Vec<(String, String)> = roles.iter().map(|role| token(role, &[role])).collect();
    let sections: String = tokens.iter().map(|(_, section)| section.as_str()).collect();
    let engine = Engine::start(folder.path(), &Topology { more: sections, ..Topology::default() });
    let json = ("content-type", "application/json");
    // Address, and which roles get past the door.
    let doors: [(&str, &str, &[u8], &[&str]); 5] = [
        ("POST", "/v1/events", EVENT, &["ingest"]),
        ("GET", "/v1/features/u1", b"", &["features"]),
        ("GET", "/metrics", b"", &["metrics", "admin-read", "admin-write"]),
        ("GET", "/api/status", b"", &["admin-read", "admin-write"]),
        ("POST", "/api/dead-letters/purge", br#"{"all":true,"dry_run":true}"#, &["admin-write"]),
    ];
    for (method, path, body, allowed) in doors {
        for (role, (token, _)) in roles.iter().zip(&tokens) {
            let answer = ask(engine.port, method, path, &[json, ("authorization", &bearer(token))], body);
            let said = format!("{role} {method} {path}: {} {}", answer.status, answer.body);
            if allowed.contains(role) {
                assert!(matches!(answer.status, 200 | 404), "{said}");
            } else {
                assert_eq!(answer.status, 403, "{said}");
                assert!(answer.json()["hint"].as_str().is_some_and(|hint| hint.contains("[access.NAME]")), "{said}");
            }
        }
        let wrong = bearer("keyloom_0000");
        for headers in [&[json][..], &[json, ("authorization", &wrong)], &[json, ("authorization", "Bearer ")]] {
            let answer = ask(engine.port, method, path, headers, body);
            assert_eq!(answer.status, 401, "{path}: {}", answer.body);
            assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"keyloom\""));
            assert!(answer.json()["error"].is_string() && answer.json()["hint"].is_string(), "{}", answer.body);
        }
    }
    for path in ["/livez", "/readyz", "/readyz/ingest"] {
        assert_eq!(ask(engine.port, "GET", path, &[], b"").status, 200, "{path}");
    }
    assert_eq!(ask(engine.port, "GET", "/nowhere", &[], b"").status, 404);
    // A page of another site that has the token in some way still cannot make a browser change anything.
    let write = bearer(&tokens[4].0);
    for (name, value) in [("origin", "https://evil.example"), ("origin", "null"), ("sec-fetch-site", "same-site")] {
        let headers = [json, ("authorization", write.as_str()), (name, value)];
        let answer = ask(engine.port, "POST", "/api/dead-letters/purge", &headers, br#"{"all":true}"#);
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (403, None), "{}", answer.body);
    }
    // In the way of gRPC: the status in the head.
    let grpc = ask(engine.port, "GET", "/v1/features/u1", &[("content-type", "application/grpc")], b"");
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("16")));
    assert!(grpc.header("grpc-message").is_some_and(|text| text.contains("role features")));
    let metrics = ask(engine.port, "GET", "/metrics", &[("authorization", &bearer(&tokens[2].0))], b"");
    let metrics = Metrics::parse(&metrics.body);
    let refused = |reason| metrics.count("keyloom_http_refused_total", &[("reason", reason)]);
    assert_eq!((refused("no_credentials"), refused("unknown_token"), refused("cross_site")), (11, 5, 3));
}

#[test]
fn sources_come_in_by_key_and_page_and_leave_no_names() {
    let folder = folder();
    let key = "0123456789abcdef0123";
    let more = "[ingest]\nip = \"drop\"\n\
        [source.web]\nwrite_keys = [\"web-1\", \"web-2\"]\napp_ids = [\"shop\"]\norigins = [\"https://shop.example\"]\n\
        pseudonyms = { fields = [\"domain_userid\"], key = { env = \"PSEUDONYM_KEY\" } }\n\
        [source.app]\nwrite_keys = [\"app-1\"]\nrate = 1\n\
        [access.reader]\ntoken_sha256 = \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"\n\
        roles = [\"features\", \"metrics\"]\n"
        .to_owned();
    let environment = vec![("PSEUDONYM_KEY".to_owned(), key.to_owned())];
    let engine = Engine::start(folder.path(), &Topology { more, environment, ..Topology::default() });
    let send = |headers: &[(&str, &str)], body: &str| ask(engine.port, "POST", "/v1/events", headers, body.as_bytes());
    let event = |n: u32| format!(r#"{{"domain_userid":"alice","event_id":"{n}","event":"page_view"}}"#);
    // Basic, `web-1:` and so on.
    let (web, app, none) = ("Basic d2ViLTE6", "Basic YXBwLTE6", "Basic bm9wZTo=");
    let origin = ("origin", "https://shop.example");
    let good = send(&[("authorization", web), origin], &event(1));
    assert_eq!(good.status, 200, "{}", good.body);
    assert_eq!(good.header("access-control-allow-origin"), Some("https://shop.example"));
    assert_eq!(good.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(good.header("access-control-expose-headers"), Some("retry-after"));
    assert_eq!(send(&[("authorization", web)], &event(2)).status, 200, "a server sends no origin");
    let elsewhere = send(&[("authorization", web), ("origin", "https://evil.example")], &event(3));
    assert_eq!((elsewhere.status, elsewhere.header("access-control-allow-origin")), (403, None), "{}", elsewhere.body);
    // A picture names no origin, but the page that it is on.
    let picture = |page: &str| {
        let path = "/i?e=pv&p=web&tv=t&aid=shop&duid=bob&eid=0f2c5f2e-3f3b-4b52-9d4e-1f3c5a7b9d0e";
        ask(engine.port, "GET", path, &[("referer", page)], b"").status
    };
    assert_eq!((picture("https://shop.example/cart"), picture("https://evil.example/cart")), (200, 403));
    assert_eq!(send(&[("authorization", none)], &event(3)).status, 401);
    assert_eq!(send(&[], &event(3)).status, 401);
    let preflight_with = |names, path, origin| {
        let asked =
            [("origin", origin), ("access-control-request-method", "POST"), ("access-control-request-headers", names)];
        ask(engine.port, "OPTIONS", path, &asked, b"")
    };
    // Those of Snowplow, of RudderStack, and of Segment when it tries again.
    for names in ["sp-anonymous", "anonymousid,authorization,content-type,sentat", "content-type,x-retry-count"] {
        let allowed = preflight_with(names, "/v1/events", "https://shop.example");
        assert_eq!(allowed.header("access-control-allow-origin"), Some("https://shop.example"));
        assert_eq!(allowed.header("access-control-allow-headers"), Some(names));
    }
    let preflight = |path, origin| preflight_with("sp-anonymous", path, origin);
    assert_eq!(preflight("/v1/events", "https://evil.example").header("access-control-allow-origin"), None);
    for path in ["/api/dead-letters/purge", "/v1/features/u", "/metrics"] {
        let answer = preflight(path, "https://shop.example");
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (405, None), "{path}");
    }
    // A rate of 1 lets 10 in at once, and then says when to come back.
    let many = |count: u32| (0..count).map(event).collect::<Vec<_>>().join("\n");
    assert_eq!(send(&[("authorization", app)], &many(11)).status, 413);
    assert_eq!(send(&[("authorization", app)], &many(10)).status, 200);
    let later = send(&[("authorization", app)], &many(10));
    let seconds: u32 = later.header("retry-after").and_then(|s| s.parse().ok()).expect("seconds");
    assert!(later.status == 429 && (1..=10).contains(&seconds), "{} {seconds} {}", later.status, later.body);
    // What the web source sent is known by its pseudonym only, which openssl agrees on.
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha256", "-hmac", key]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = openssl.spawn().expect("the command openssl is on this machine");
    child.stdin.take().expect("piped").write_all(b"alice").expect("written");
    let digest = String::from_utf8(child.wait_with_output().expect("it ends").stdout).expect("text");
    let pseudonym = digest.split_whitespace().last().expect("a digest");
    let count = |user: &str| {
        let answer = ask(engine.port, "GET", &format!("/v1/features/{user}"), &[("authorization", "Bearer abc")], b"");
        if answer.status == 200 { answer.json()["features"]["event_count"].as_u64() } else { None }
    };
    wait_for("both sources' events to be processed", READY_MAX, || match (count(pseudonym), count("alice")) {
        (Some(2), Some(10)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn a_door_to_the_world_needs_somebody_who_may_come_in() {
    let folder = folder();
    let check = |text: &str| {
        fs::write(folder.path().join("keyloom.toml"), format!("version = 1\n{text}")).expect("writable");
        let output = keyloom(&["check", "keyloom.toml"], folder.path());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let public = "[http]\nlisten = \"0.0.0.0:8080\"\n";
    let (code, told) = check(public);
    assert_eq!(code, Some(78));
    assert!(told.contains("keyloom.toml:3:10") && told.contains("not on loopback"), "{told}");
    assert!(told.contains("keyloom token new --role ingest --role features --role admin-read"), "{told}");
    let (_, all) = token("all", &["ingest", "features", "admin-read"]);
    assert_eq!(check(&format!("{public}{all}")), (Some(0), String::new()));
    let source = "[source.web]\nwrite_keys = [\"web-1\"]\n";
    let private = "[features]\nlisten = \"127.0.0.1:8081\"\n[admin]\nlisten = \"127.0.0.1:8081\"\n";
    assert_eq!(check(&format!("{public}{source}{private}")), (Some(0), String::new()));
    assert_eq!(check(&format!("{public}{private}")).0, Some(78));
    let (code, told) = check(&format!("[admin]\nlisten = \"[::]:9090\"\n{source}"));
    assert!(code == Some(78) && told.contains("[admin] listen") && told.contains("--role admin-read"), "{told}");
}

#[test]
fn each_face_may_have_an_address_of_its_own() {
    let folder = folder();
    let (features, admin) = (free_port(), free_port());
    let more = format!("[features]\nlisten = \"127.0.0.1:{features}\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n");
    let mut engine = Engine::launch(&binary("keyloom"), folder.path(), &Topology { more, ..Topology::default() });
    wait_for("the engine to be ready", READY_MAX, || match http::get(admin, "/readyz") {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let status = |port, method, path| ask(port, method, path, &[("content-type", "application/json")], EVENT).status;
    let faces = [("POST", "/v1/events"), ("GET", "/v1/features/nobody"), ("GET", "/api/status")];
    let found = [engine.port, features, admin].map(|port| faces.map(|(method, path)| status(port, method, path)));
    assert_eq!(found, [[200, 404, 404], [404, 404, 404], [404, 404, 200]]);
    let unknown = ask(features, "GET", "/v1/features/nobody", &[], b"");
    assert!(unknown.body.contains("no event of this key"), "{}", unknown.body);
    wait_for("the addresses to be printed", READY_MAX, || {
        let shown = engine.process.stdout();
        let port = engine.port;
        let expected = [
            format!("runs: http://127.0.0.1:{port}\n"),
            format!("features: http://127.0.0.1:{features}\n"),
            format!("admin: http://127.0.0.1:{admin}\n"),
        ];
        if expected.iter().all(|line| shown.contains(line.as_str())) { Ok(()) } else { Err(shown) }
    });
    // Commands find the face that they need.
    let file = folder.path().join("more.jsonl");
    fs::write(&file, "{\"domain_userid\":\"u2\",\"event_id\":\"x\"}\n").expect("writable");
    engine.ingest(&file);
    assert!(succeed(&["key", "show", "u1"], folder.path()).contains("key            u1"));
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());
}

/// `GET path` over TLS by the command openssl, with or without the client's certificate.
fn get_over_tls(folder: &Path, port: u16, path: &str, headers: &str, with_certificate: bool) -> String {
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-quiet", "-servername", "localhost", "-verify_return_error", "-CAfile", "ca.pem"]);
    openssl.args(["-connect", &format!("127.0.0.1:{port}")]).current_dir(folder);
    if with_certificate {
        openssl.args(["-cert", "client.pem", "-key", "client.key"]);
    }
    openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = openssl.spawn().expect("the command openssl is on this machine");
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n");
    // An engine that does not listen yet ends the command before it reads.
    child.stdin.as_mut().expect("piped").write_all(request.as_bytes()).ok();
    String::from_utf8_lossy(&child.wait_with_output().expect("it ends").stdout).into_owned()
}

#[test]
fn over_tls_certificates_and_tokens_open_doors_for_programs_and_commands() {
    let folder = folder();
    certificates::make(folder.path());
    let (token, section) = token("operator", &["ingest", "admin-write"]);
    let http = "tls = { cert = \"server.pem\", key = \"server.key\", client_ca = \"ca.pem\" }".to_owned();
    let more = format!("[access.svc]\ncertificate = \"svc.example\"\nroles = [\"metrics\"]\n{section}");
    let topology = Topology { http, more, ..Topology::default() };
    let mut engine = Engine::launch(&binary("keyloom"), folder.path(), &topology);
    let port = engine.port;
    let get = |path: &str, headers: &str, certificate| get_over_tls(folder.path(), port, path, headers, certificate);
    wait_for("the engine to be ready", READY_MAX, || {
        let answer = get("/readyz", "", false);
        if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer) }
    });
    assert!(get("/metrics", "", true).contains("keyloom_build_info"));
    assert!(get("/metrics", "", false).starts_with("HTTP/1.1 401"));
    assert!(get("/api/status", "", true).starts_with("HTTP/1.1 403"));
    let authorization = format!("authorization: {}\r\n", bearer(&token));
    assert!(get("/api/status", &authorization, false).starts_with("HTTP/1.1 200"));
    assert!(http::get(port, "/livez").is_err(), "nothing is answered in the clear");

    // Commands know the engine by its certificate in the topology, and come in by a token.
    let run = |arguments: &[&str], token: Option<&str>| {
        let mut command = Command::new(binary("keyloom"));
        command.args(arguments).current_dir(folder.path()).env_remove("KEYLOOM_TOKEN");
        let output = command.envs(token.map(|token| ("KEYLOOM_TOKEN", token))).output().expect("it starts");
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), text)
    };
    fs::write(folder.path().join("events.jsonl"), EVENT).expect("writable");
    fs::write(folder.path().join("token"), format!("{token}\n")).expect("writable");
    let (code, told) = run(&["ingest", "events.jsonl"], None);
    assert!(code == Some(1) && told.contains("--token-file"), "{told}");
    let (code, told) = run(&["ingest", "--token-file", "token", "events.jsonl"], None);
    assert!(code == Some(0) && told.contains(&format!("https://127.0.0.1:{port}")), "{told}");
    for command in [&["dead-letters", "list"][..], &["key", "show", "u1"]] {
        let (code, told) = run(command, None);
        assert!(code == Some(1) && told.contains("does not let this command in"), "{told}");
        let (code, told) = run(command, Some("keyloom_wrong"));
        assert!(code == Some(1) && told.contains("the token is not known here"), "{told}");
        let (code, told) = run(command, Some(&token));
        assert_eq!(code, Some(0), "{told}");
        let with_file = [command, &["--token-file", "token"]].concat();
        let (code, told) = run(&with_file, None);
        assert_eq!(code, Some(0), "{told}");
    }
    assert_eq!(engine.drain(), 0, "{}", engine.process.output());

    // Files that make no TLS are a problem of the topology.
    fs::copy(folder.path().join("client.key"), folder.path().join("server.key")).expect("ours");
    let (code, told) = run(&["check"], None);
    assert!(code == Some(78) && told.contains("cannot be used together"), "{told}");
}
