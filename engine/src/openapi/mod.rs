//! The description of the HTTP interface, OpenAPI 3.1: served at `/openapi.json`, printed by `keyloom openapi`.
//!
//! Made from the types of requests and answers where there are such; paths and their errors are said in the files here, one
//! per face. Not here: protocols of trackers, which have descriptions of their own, and gRPC.

mod admin;
mod events;
mod features;

use axum::{Router, http::StatusCode, response::Response, routing::get};
use bytes::Bytes;
use serde::Serialize;
use utoipa::{OpenApi, ToSchema};

/// Where it is served.
pub const OPENAPI_PATH: &str = "/openapi.json";

/// What every error says.
#[derive(Serialize, ToSchema)]
struct Problem {
    /// What is wrong.
    error: String,
    /// What to do about it.
    hint: String,
    /// The event waited for was not processed in time (reads of features only).
    #[schema(required = false)]
    behind: Option<bool>,
    /// What was done before it failed (changes of dead letters only).
    #[schema(required = false)]
    report: Option<crate::dead_letters::Report>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Keyloom",
        description = "Events in, features per user out. Errors say what is wrong in `error` and what to do in `hint`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(
        events::send,
        features::get_features,
        features::get_many_features,
        features::get_online_features,
        admin::livez,
        admin::health,
        admin::readyz,
        admin::readyz_ingest,
        admin::status,
        admin::metrics,
        admin::key,
        admin::list_dead_letters,
        admin::show_dead_letter,
        admin::redrive,
        admin::purge,
        document,
    ),
    tags(
        (name = "events", description = "Send events"),
        (name = "features", description = "Read features"),
        (name = "admin", description = "Look after the engine"),
    ),
)]
struct Api;

/// The description as JSON.
pub fn document_text() -> String {
    Api::openapi().to_pretty_json().expect("a description without odd keys is JSON") + "\n"
}

/// This description
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "openapi", tag = "admin",
    responses((status = 200, description = "OpenAPI 3.1", body = Object)),
)]
async fn document(text: Bytes) -> Response {
    crate::faces::json(StatusCode::OK, text)
}

/// The route.
pub fn routes() -> Router {
    let text = Bytes::from(document_text());
    Router::new().route(OPENAPI_PATH, get(move || document(text.clone())))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    #[test]
    fn every_operation_says_its_errors_and_every_reference_leads_somewhere() {
        let text = super::document_text();
        let document: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(document["openapi"].as_str().map(|version| &version[..3]), Some("3.1"));
        let paths = document["paths"].as_object().expect("paths");
        assert!(paths.len() >= 13, "{}", paths.len());
        for (path, operations) in paths {
            for (method, operation) in operations.as_object().expect("operations") {
                let responses = operation["responses"].as_object().expect("responses");
                assert!(responses.contains_key("200"), "{method} {path}");
                for (code, response) in responses.iter().filter(|(code, _)| code.starts_with(['4', '5'])) {
                    let schema = &response["content"]["application/json"]["schema"];
                    assert!(schema.is_object(), "{method} {path} {code}");
                }
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    assert!(parameter["description"].is_string(), "{method} {path} {parameter}");
                }
            }
        }
        let schemas = &document["components"]["schemas"];
        for reference in text.split("\"#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(schemas[reference].is_object(), "{reference}");
        }
    }
}
