//! Asks a running engine about the dead letters that it has: the client of `faces/dead_letters.rs`.
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

use super::{API_PATH, Action, ChangeRequest, Letter, LetterId, ListRequest, Listing, Report};
use crate::ingest::http_sink::said;

/// Longest wait for one answer: a request changes at most 1,000 letters.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest answer that is read: a list of 1,000 letters, or one with a payload that is all escaped.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// See the module.
pub struct Client {
    http: Http<HttpConnector, Full<Bytes>>,
    address: String,
}

impl Client {
    /// Of the engine at `address`, such as `127.0.0.1:8080`.
    pub fn new(address: String) -> Self {
        Self { http: Http::builder(TokioExecutor::new()).build_http(), address }
    }

    /// As [`super::Desk::list`].
    pub async fn list(&self, request: &ListRequest) -> anyhow::Result<Listing> {
        let path = format!("{API_PATH}?{}", request.to_query());
        self.ask(Method::GET, &path, Bytes::new()).await?.context("this engine has no such address; is it older?")
    }

    /// As [`super::Desk::show`].
    pub async fn show(&self, id: LetterId) -> anyhow::Result<Option<Letter>> {
        self.ask(Method::GET, &format!("{API_PATH}/{}/{}", id.partition, id.seq), Bytes::new()).await
    }

    /// As [`super::Desk::change`].
    pub async fn change(&self, action: Action, request: &ChangeRequest) -> anyhow::Result<Report> {
        let path = format!("{API_PATH}/{}", action.label());
        let body = serde_json::to_vec(request)?.into();
        self.ask(Method::POST, &path, body).await?.context("this engine has no such address; is it older?")
    }

    /// `None` for a 404.
    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Option<T>> {
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
