//! Asks a running engine over its admin API: what commands do when another process has the data folder.
//!
//! How it is reached, and by what token it lets us in, is for [`crate::engine_client`] to say.

use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use serde::de::DeserializeOwned;

use crate::{
    engine_client::{HttpClient, Way},
    ingest::http_sink::said,
};

/// Longest wait for one answer: a request changes at most 1,000 dead letters.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest answer that is read: a list of 1,000 dead letters, or one with a payload that is all escaped.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// See the module.
pub struct AdminClient {
    http: HttpClient,
    way: Way,
    address: String,
}

/// The engine has not done it, or not all of it.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct NotDone {
    text: String,
    /// What it answered.
    pub body: Bytes,
}

impl AdminClient {
    /// Of the engine at `address`, such as `127.0.0.1:8080`.
    pub fn new(address: String, way: Way) -> Self {
        Self { http: way.client(), way, address }
    }

    /// `None` for a 404.
    pub async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Option<T>> {
        let address = &self.address;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}://{address}{path}", self.way.scheme()))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let authorization = self.way.authorization().cloned().map(|value| (header::AUTHORIZATION, value));
        request.headers_mut().extend(authorization);
        let exchange = async {
            let answer = self.http.request(request).await.with_context(|| format!("nothing answers at {address}"))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| anyhow!("{error}"))?;
            anyhow::Ok((head.status, body.to_bytes()))
        };
        let timed = tokio::time::timeout(REQUEST_TIMEOUT, exchange).await;
        let (status, body) =
            timed.map_err(|_| anyhow!("no answer from {address} within {} s", REQUEST_TIMEOUT.as_secs()))??;
        match status {
            StatusCode::OK => Ok(Some(serde_json::from_slice(&body).context("the engine's answer makes no sense")?)),
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(anyhow!(
                "{address} does not let this command in: {}; give a token by --token-file or KEYLOOM_TOKEN",
                said(&body)
            )),
            status => {
                let text = format!("{address} answered with status {}: {}", status.as_u16(), said(&body));
                Err(NotDone { text, body }.into())
            }
        }
    }
}
