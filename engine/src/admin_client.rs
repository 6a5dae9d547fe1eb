//! Asks a running engine over its admin API: what commands do when another process has the data folder.
//!
//! For this machine only: no TLS, no credentials.

use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::de::DeserializeOwned;

use crate::ingest::http_sink::said;

/// Longest wait for one answer: a request changes at most 1,000 dead letters.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest answer that is read: a list of 1,000 dead letters, or one with a payload that is all escaped.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// See the module.
pub struct AdminClient {
    http: Http<HttpConnector, Full<Bytes>>,
    address: String,
}

impl AdminClient {
    /// Of the engine at `address`, such as `127.0.0.1:8080`.
    pub fn new(address: String) -> Self {
        Self { http: Http::builder(TokioExecutor::new()).build_http(), address }
    }

    /// `None` for a 404.
    pub async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Option<T>> {
        let address = &self.address;
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{address}{path}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
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
            status => Err(anyhow!("{address} answered with status {}: {}", status.as_u16(), said(&body))),
        }
    }
}
