//! What is answered where there is nothing, or not with that method: JSON with a hint, like every other error.

use axum::{
    Router,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::Response,
};

use super::problem;

/// Paths in errors are cut to this many bytes.
const PATH_BYTES_MAX: usize = 200;

/// Adds the answers to a whole router; before the next one is merged with it, there must be only one such.
pub fn add(router: Router) -> Router {
    router.fallback(nothing_here).method_not_allowed_fallback(wrong_method)
}

async fn nothing_here(uri: Uri, headers: HeaderMap) -> Response {
    if is_grpc(&headers) {
        return unknown_call();
    }
    let path = shown(&uri);
    problem(StatusCode::NOT_FOUND, &format!("there is nothing at {path}"), "see /openapi.json for what there is")
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let error = format!("{} does not take {method}", shown(&uri));
    problem(StatusCode::METHOD_NOT_ALLOWED, &error, "see the Allow header, and /openapi.json for what there is")
}

fn shown(uri: &Uri) -> &str {
    let path = uri.path();
    path.get(..PATH_BYTES_MAX).unwrap_or(path)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    kind.starts_with("application/grpc")
}

/// gRPC has its own way to say that there is no such call.
fn unknown_call() -> Response {
    let mut response = Response::default();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static("12"));
    headers.insert("grpc-message", HeaderValue::from_static("there is no such call; ask the reflection service"));
    response
}
