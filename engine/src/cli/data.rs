//! Who has the data of a topology: this process, or an engine that runs on it. And how commands say what they found there.

use std::sync::Arc;

use anyhow::anyhow;
use keyloom_actors::ports::{Log, Store};

use super::{ingest::engine_of, token::TokenFile};
use crate::{admin_client::AdminClient, embedded::EmbeddedError, homes, topology::Topology};

/// How an answer looks.
#[derive(Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// One JSON document
    Json,
}

/// See the module.
pub enum Data {
    /// This process: the broker answers, or the data folder is free.
    Here(Arc<dyn Log>, Arc<dyn Store>),
    /// The engine that has the data folder.
    There(Box<AdminClient>),
}

impl Data {
    /// Finds out who has the data of `topology`.
    pub async fn of(topology: &Topology, token: &TokenFile) -> anyhow::Result<Self> {
        if let Some(options) = homes::embedded_options(topology)
            && !options.data_dir.exists()
        {
            let folder = options.data_dir.display();
            return Err(anyhow!("there is no data folder {folder}: no engine has run on this topology yet"));
        }
        match homes::open_log_and_store(topology).await {
            Ok((log, store)) => Ok(Self::Here(log, store)),
            Err(error) if matches!(error.downcast_ref(), Some(EmbeddedError::Locked(_))) => {
                let owner = engine_of(topology)?;
                let address = owner.admin.unwrap_or(owner.listen).to_string();
                Ok(Self::There(Box::new(AdminClient::new(address, token.way(topology)?))))
            }
            Err(error) => Err(error),
        }
    }
}
