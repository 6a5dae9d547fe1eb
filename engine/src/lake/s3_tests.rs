//! The S3 lake against a real server: moto, started here on a free port of this machine.
//!
//! `KEYLOOM_MOTO_SERVER` names the program: `pip install 'moto[server]==5.2.5'` brings it as `moto_server`.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use keyloom_actors::ports::{Lake, LakeError};

use super::{NAME_BYTES_MAX, S3Credentials, S3Lake, S3Options};

/// Starting Python takes seconds on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(120);

struct Moto {
    server: Child,
    endpoint: String,
}

impl Moto {
    /// `open_actions`: how many requests are answered before credentials are checked; `None`: never checked.
    fn start(open_actions: Option<u32>) -> Self {
        let program = std::env::var_os("KEYLOOM_MOTO_SERVER").expect(
            "the tests of the S3 lake need moto: pip install 'moto[server]==5.2.5' into a virtual environment and set \
             KEYLOOM_MOTO_SERVER to the path of its program moto_server",
        );
        let mut command = Command::new(&program);
        command.args(["-H", "127.0.0.1", "-p", "0"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        if let Some(actions) = open_actions {
            command.env("INITIAL_NO_AUTH_ACTION_COUNT", actions.to_string());
        }
        let mut server = command.spawn().unwrap_or_else(|e| panic!("KEYLOOM_MOTO_SERVER={program:?}: {e}"));
        let lines = BufReader::new(server.stderr.take().expect("piped")).lines();
        let (said, heard) = mpsc::channel();
        // Reads on to the end, or the server would stop at a full pipe.
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("Running on http://") {
                    said.send(address.trim().to_owned()).ok();
                }
            }
        });
        let mut moto = Self { server, endpoint: String::new() };
        let address = heard.recv_timeout(START_TIMEOUT).expect("moto says where it listens");
        moto.endpoint = format!("http://{address}");
        moto
    }

    fn options(&self, bucket: &str) -> S3Options {
        let credentials = S3Credentials { access_key: "test".into(), secret_key: "test".into(), session_token: None };
        S3Options {
            bucket: bucket.to_owned(),
            prefix: "prod".to_owned(),
            region: Some("us-east-1".to_owned()),
            endpoint: Some(self.endpoint.clone()),
            profile: None,
            credentials: Some(credentials),
        }
    }

    async fn create_bucket(&self, name: &str) {
        let (client, _) = super::s3::connect(&self.options(name)).await.expect("a client");
        client.create_bucket().bucket(name).send().await.expect("a bucket");
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

fn refused(result: Result<S3Lake, LakeError>) -> String {
    match result {
        Err(LakeError::Refused(text)) => text,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn objects_are_put_listed_and_deleted() {
    let moto = Moto::start(None);
    moto.create_bucket("lake").await;
    let lake = S3Lake::open(&moto.options("lake")).await.expect("open");
    let name = "prod/raw_events/year=2026/month=11/day=20/hour=12/part-0000.parquet";
    lake.put(name, Bytes::from_static(b"first")).await.expect("put");
    let large = Bytes::from(vec![7; 3_000_000]);
    lake.put(name, large.clone()).await.expect("put again");
    lake.put("prod/other", Bytes::new()).await.expect("put empty");
    let object = (name.to_owned(), 3_000_000);
    assert_eq!(lake.list("").await.expect("list"), [("prod/other".to_owned(), 0), object.clone()]);
    for prefix in ["prod/raw_", "prod/raw_events/", name] {
        assert_eq!(lake.list(prefix).await.expect("list"), std::slice::from_ref(&object), "{prefix}");
    }
    assert_eq!(lake.list("absent/").await.expect("list"), []);
    let (client, _) = super::s3::connect(&moto.options("lake")).await.expect("a client");
    let stored = client.get_object().bucket("lake").key(name).send().await.expect("get");
    assert_eq!(stored.body.collect().await.expect("body").into_bytes(), large);
    lake.delete(name).await.expect("delete");
    lake.delete(name).await.expect("delete again");
    assert_eq!(lake.list("prod/raw_").await.expect("list"), []);

    // Longer than S3 takes: refused here, without asking it.
    let long = format!("prod/{}", "n/".repeat(NAME_BYTES_MAX / 2) + "n");
    let refusal = lake.put(&long, Bytes::new()).await;
    assert!(matches!(&refusal, Err(LakeError::Refused(text)) if text.contains("at most 1024")), "{refusal:?}");
    for name in ["../x", "/x", "a//b", ""] {
        assert!(matches!(lake.put(name, Bytes::new()).await, Err(LakeError::Refused(_))), "{name}");
        assert!(matches!(lake.delete(name).await, Err(LakeError::Refused(_))), "{name}");
    }
}

#[tokio::test]
async fn listings_go_over_many_pages() {
    let moto = Moto::start(None);
    moto.create_bucket("lake").await;
    let lake = S3Lake::open(&moto.options("lake")).await.expect("open");
    let names: Vec<String> = (0..1_005).map(|n| format!("prod/{n:04}")).collect();
    for name in &names {
        lake.put(name, Bytes::from_static(b"x")).await.expect("put");
    }
    let listed: Vec<String> = lake.list("prod/").await.expect("list").into_iter().map(|(name, _)| name).collect();
    assert_eq!(listed, names);
}

#[tokio::test]
async fn a_missing_bucket_is_refused_with_the_command_that_creates_it() {
    let moto = Moto::start(None);
    let text = refused(S3Lake::open(&moto.options("absent")).await);
    let command = format!("aws s3 mb s3://absent --region us-east-1 --endpoint-url {}", moto.endpoint);
    assert!(text.contains("NoSuchBucket") && text.contains(&command), "{text}");

    // One that goes away later is told in the same words.
    moto.create_bucket("lake").await;
    let lake = S3Lake::open(&moto.options("lake")).await.expect("open");
    let (client, _) = super::s3::connect(&moto.options("lake")).await.expect("a client");
    client.delete_bucket().bucket("lake").send().await.expect("bucket deleted");
    let put = lake.put("prod/x", Bytes::new()).await;
    assert!(matches!(&put, Err(LakeError::Refused(text)) if text.contains("aws s3 mb s3://lake")), "{put:?}");
}

#[tokio::test]
async fn wrong_credentials_are_refused_as_such() {
    let moto = Moto::start(Some(1));
    moto.create_bucket("lake").await;
    let text = refused(S3Lake::open(&moto.options("lake")).await);
    assert!(text.contains("InvalidAccessKeyId") && text.contains("does not know these credentials"), "{text}");

    // A profile that is not there is said to be missing; nothing else is tried in its place, and nobody is asked.
    let profile = Some("keyloom-test-no-such-profile".to_owned());
    let text = refused(S3Lake::open(&S3Options { profile, credentials: None, ..moto.options("lake") }).await);
    assert!(text.contains("no credentials for the lake were found") && text.contains("AWS_ACCESS_KEY_ID"), "{text}");
}

#[tokio::test]
async fn wrong_endpoints_are_told_apart() {
    let moto = Moto::start(None);
    let mut options = moto.options("lake");
    for (endpoint, problem) in [("http://192.0.2.1:9000", "plain http"), ("nonsense", "must look like")] {
        options.endpoint = Some(endpoint.to_owned());
        let text = refused(S3Lake::open(&options).await);
        assert!(text.contains(problem), "{text}");
    }
    // Somebody took the port and went away: nobody listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    options.endpoint = Some(format!("http://127.0.0.1:{port}"));
    let unreachable = S3Lake::open(&options).await;
    assert!(
        matches!(&unreachable, Err(LakeError::Unavailable(text)) if text.contains("cannot reach")),
        "{unreachable:?}"
    );
    drop(moto);
}
