//! `/metrics`: Prometheus text.

use std::sync::Arc;

use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};

use super::{View, observe};

/// The route.
pub fn routes(view: Arc<View>) -> Router {
    Router::new().route("/metrics", get(render)).with_state(view)
}

async fn render(State(view): State<Arc<View>>) -> impl IntoResponse {
    observe::export(&view);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], view.metrics.render())
}
