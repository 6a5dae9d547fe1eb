//! What the engine says of its own interfaces in /openapi.json, held against what it does: schemathesis makes requests of the
//! document, good ones and bad ones, and looks whether the answers are what the document says. Its seed is fixed; the number
//! of requests bounds the time.

use std::time::Duration;

use keyloom_tests::support::{
    clients,
    engine::{Engine, Topology, folder},
    http,
    process::Process,
};

/// How long the whole run may take: a little less than a test.
const RUN_MAX: Duration = Duration::from_secs(330);
/// Requests made up for each operation, beside those that cover the edges of what the document says.
const EXAMPLES: &str = "100";
const SEED: &str = "7";

#[test]
fn the_engine_does_what_its_document_says() {
    let folder = folder();
    let engine = Engine::start(folder.path(), &Topology::default());
    engine.post_events("{\"domain_userid\":\"0\",\"event_id\":\"1\"}\n");
    let document = http::get(engine.port, "/openapi.json").expect("an answer");
    assert_eq!(document.status, 200, "{}", document.body);

    let url = format!("http://127.0.0.1:{}/openapi.json", engine.port);
    let mut command = clients::python_module("KEYLOOM_CLIENTS_PYTHON", "schemathesis.cli");
    command
        .arg("--config-file")
        .arg(clients::scripts().join("schemathesis.toml"))
        .args(["run", &url, "--seed", SEED, "--max-examples", EXAMPLES, "--generation-database", "none"])
        // One worker: parsing code in several threads breaks CPython 3.11 now and then.
        .args(["--workers", "1", "--request-timeout", "20", "--warnings", "off", "--no-color"])
        .current_dir(folder.path());
    let mut process = Process::start("schemathesis", folder.path(), &mut command);
    let code = process.wait(RUN_MAX);
    let (said, also) = (process.stdout(), process.stderr());
    assert_eq!(code, 0, "{said}\n{also}");

    // It asked all of it but the address it had the document from, and the engine goes on.
    let paths = document.json()["paths"].as_object().map_or(0, serde_json::Map::len);
    assert!(paths > 10 && said.contains(&format!("Tested: {}", paths - 1)), "{paths} paths\n{said}");
    assert_eq!(http::get(engine.port, "/readyz").expect("an answer").status, 200);
}
