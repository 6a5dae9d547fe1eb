//! Asks a running engine about the dead letters that it has: the client of `faces/dead_letters.rs`.

use anyhow::Context;
use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;

use super::{API_PATH, Action, ChangeRequest, Halted, Letter, LetterId, ListRequest, Listing, Report};
use crate::admin_client::{AdminClient, NotDone};

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
    pub async fn change(&self, action: Action, request: &ChangeRequest) -> Result<Report, Halted<anyhow::Error>> {
        let changed = async {
            let path = format!("{API_PATH}/{}", action.label());
            let body = serde_json::to_vec(request)?.into();
            let report = self.0.ask(Method::POST, &path, body).await?;
            report.context("this engine has no such address; is it older?")
        };
        changed.await.map_err(|error| {
            let said = error.downcast_ref::<NotDone>().and_then(|no| serde_json::from_slice(&no.body).ok());
            let report = said.map_or_else(|| Report::new(action, request.dry_run), |Partial { report }| report);
            Halted { report: Box::new(report), error }
        })
    }
}

/// What is in the answer to a change that ended early.
#[derive(Deserialize)]
struct Partial {
    report: Report,
}
