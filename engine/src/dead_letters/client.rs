//! Asks a running engine about the dead letters that it has: the client of `faces/dead_letters.rs`.

use anyhow::Context;
use bytes::Bytes;
use hyper::Method;

use super::{API_PATH, Action, ChangeRequest, Letter, LetterId, ListRequest, Listing, Report};
use crate::admin_client::AdminClient;

/// See the module.
pub struct Client(AdminClient);

impl Client {
    /// Of the engine that `client` asks.
    pub fn new(client: AdminClient) -> Self {
        Self(client)
    }

    /// As [`super::Desk::list`].
    pub async fn list(&self, request: &ListRequest) -> anyhow::Result<Listing> {
        let path = format!("{API_PATH}?{}", request.to_query());
        self.0.ask(Method::GET, &path, Bytes::new()).await?.context("this engine has no such address; is it older?")
    }

    /// As [`super::Desk::show`].
    pub async fn show(&self, id: LetterId) -> anyhow::Result<Option<Letter>> {
        self.0.ask(Method::GET, &format!("{API_PATH}/{}/{}", id.partition, id.seq), Bytes::new()).await
    }

    /// As [`super::Desk::change`].
    pub async fn change(&self, action: Action, request: &ChangeRequest) -> anyhow::Result<Report> {
        let path = format!("{API_PATH}/{}", action.label());
        let body = serde_json::to_vec(request)?.into();
        self.0.ask(Method::POST, &path, body).await?.context("this engine has no such address; is it older?")
    }
}
