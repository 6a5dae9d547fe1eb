//! From a topology to open homes: which log, which store, which lake.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use keyloom_actors::{
    backend::FeatureBackend,
    handler::row::EmittedTable,
    ports::{Durability, Homes, Lake, LakeError, Log, Store, TableFormat},
    timestamp::SystemClock,
};

use crate::{
    backend::{AwsCredentials, DynamoBackend, DynamoOptions, RedisBackend, RedisOptions},
    embedded::{EmbeddedHome, EmbeddedLog, EmbeddedOptions, EmbeddedStore},
    lake, nats,
    running::key_paths,
    topology::{self, Topology},
};

/// Compression of table files: level 1 halves the time of level 3 for a few percent of size.
const ZSTD_LEVEL: i32 = 1;

/// The homes of a running engine.
pub struct OpenHomes {
    /// Behind the ports.
    pub homes: Homes,
    /// What an acknowledged event survives.
    pub durability: Durability,
    /// Prefix of object names in the lake.
    pub lake_prefix: String,
    /// Where feature answers go beside the store.
    pub backend: Option<Arc<dyn FeatureBackend>>,
}

/// Where an embedded home says who has it: read by other commands to find the engine's address.
pub const OWNER_FILE: &str = "owner.json";

/// What the embedded home of a topology is.
pub fn embedded_options(topology: &Topology) -> Option<EmbeddedOptions> {
    let topology::Log::Embedded { fsync, retention, dedupe_window } = &topology.log else { return None };
    Some(EmbeddedOptions {
        data_dir: topology.engine.data_dir.clone(),
        fsync: matches!(fsync, topology::Fsync::Group),
        retention_age: retention.age,
        retention_bytes: retention.bytes,
        dedupe_window: *dedupe_window,
    })
}

/// Opens everything a topology names.
pub async fn open(topology: &Topology) -> anyhow::Result<OpenHomes> {
    let (lake, lake_prefix) = open_lake(topology).await?;
    let backend = topology.backend.as_ref().map(open_backend).transpose()?;
    match embedded_options(topology) {
        Some(options) => {
            let (home, log, store) = open_embedded(options).await?;
            Ok(OpenHomes { durability: home.durability(), homes: Homes { log, store, lake }, lake_prefix, backend })
        }
        None => {
            let (connection, log, store) = open_nats(topology).await?;
            let durability = nats::probe(&connection).await;
            Ok(OpenHomes { homes: Homes { log, store, lake }, durability, lake_prefix, backend })
        }
    }
}

/// Opens log and store alone: for commands that look after what is stored and run no engine.
pub async fn open_log_and_store(topology: &Topology) -> anyhow::Result<(Arc<dyn Log>, Arc<dyn Store>)> {
    match embedded_options(topology) {
        Some(options) => open_embedded(options).await.map(|(_, log, store)| (log, store)),
        None => open_nats(topology).await.map(|(_, log, store)| (log, store)),
    }
}

async fn open_embedded(options: EmbeddedOptions) -> anyhow::Result<(EmbeddedHome, Arc<dyn Log>, Arc<dyn Store>)> {
    let home = tokio::task::spawn_blocking(move || EmbeddedHome::open(&options)).await??;
    let log: Arc<dyn Log> = Arc::new(EmbeddedLog::new(&home, Arc::new(SystemClock)));
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::new(&home));
    Ok((home, log, store))
}

async fn open_nats(topology: &Topology) -> anyhow::Result<(nats::Connection, Arc<dyn Log>, Arc<dyn Store>)> {
    let connection = connect(topology).await?;
    let log: Arc<dyn Log> = Arc::new(nats::open_log(&connection, log_options(topology)?).await?);
    let topology::StoreHome::Nats { bucket, replicas } = &topology.store.home else {
        return Err(anyhow!("the log and the store live in the same home"));
    };
    let options = nats::StoreOptions { bucket: bucket.clone(), replicas: usize::from(*replicas) };
    let store: Arc<dyn Store> = Arc::new(nats::open_store(&connection, options).await?);
    Ok((connection, log, store))
}

/// Connects to the NATS server that a topology names.
pub async fn connect(topology: &Topology) -> anyhow::Result<nats::Connection> {
    let section = topology.nats.as_ref().context("the topology has no [nats] section")?;
    let auth = match &section.auth {
        topology::NatsAuth::None => nats::NatsAuth::None,
        topology::NatsAuth::Token(token) => nats::NatsAuth::Token(token.expose().to_owned()),
        topology::NatsAuth::User { user, password } => {
            nats::NatsAuth::User { user: user.clone(), password: password.expose().to_owned() }
        }
        topology::NatsAuth::Nkey(seed) => nats::NatsAuth::Nkey(seed.expose().to_owned()),
        topology::NatsAuth::Creds(creds) => nats::NatsAuth::Creds(creds.expose().to_owned()),
    };
    let tls = section.tls.as_ref().map(|tls| nats::NatsTls {
        ca: tls.ca.clone(),
        cert: tls.cert.clone(),
        key: tls.key.clone(),
        first: tls.first,
    });
    let name = format!("keyloom {}", topology.engine.name);
    Ok(nats::connect(&nats::NatsOptions { url: section.url.clone(), auth, tls, name }).await?)
}

/// The log of a topology on NATS.
pub fn log_options(topology: &Topology) -> anyhow::Result<nats::LogOptions> {
    let topology::Log::Nats { stream, subjects, replicas, retention, dedupe_window } = &topology.log else {
        return Err(anyhow!("the log is not on NATS"));
    };
    Ok(nats::LogOptions {
        stream: stream.clone(),
        subjects: subjects.clone(),
        partitions: topology.engine.partitions,
        replicas: usize::from(*replicas),
        max_age: retention.age,
        max_bytes: retention.bytes,
        dedupe_window: *dedupe_window,
        keys: key_paths(topology),
    })
}

async fn open_lake(topology: &Topology) -> anyhow::Result<(Arc<dyn Lake>, String)> {
    match &topology.lake {
        topology::Lake::Dir { path } => Ok((Arc::new(lake::DirLake::open(path)?), String::new())),
        topology::Lake::S3(s3) => {
            let credentials = match (&s3.access_key, &s3.secret_key) {
                (Some(access), Some(secret)) => Some(lake::S3Credentials {
                    access_key: access.expose().to_owned(),
                    secret_key: secret.expose().to_owned(),
                    session_token: s3.session_token.as_ref().map(|t| t.expose().to_owned()),
                }),
                _ => None,
            };
            let options = lake::S3Options {
                bucket: s3.bucket.clone(),
                prefix: s3.prefix.clone(),
                region: s3.region.clone(),
                endpoint: s3.endpoint.clone(),
                profile: s3.profile.clone(),
                credentials,
            };
            match lake::S3Lake::open(&options).await {
                Ok(opened) => Ok((Arc::new(opened), s3.prefix.clone())),
                Err(error @ LakeError::Refused(_)) => Err(error.into()),
                Err(LakeError::Unavailable(error)) => {
                    tracing::warn!(error, "the lake is not reachable; features go on, files wait for it");
                    Ok((Arc::new(lake::LateLake::new(options)), s3.prefix.clone()))
                }
            }
        }
    }
}

/// Prepares the feature backend; it connects when there is something to put.
fn open_backend(backend: &topology::Backend) -> anyhow::Result<Arc<dyn FeatureBackend>> {
    let topology::Backend { home, prefix, ttl } = backend.clone();
    Ok(match home {
        topology::BackendHome::Redis { url, user, password, ca } => {
            let password = password.map(|password| password.expose().to_owned());
            let options = RedisOptions { url, user, password, ca, prefix, ttl };
            Arc::new(RedisBackend::new(&options).context("[backend] cannot be used")?)
        }
        topology::BackendHome::Dynamodb { table, region, endpoint, profile, access_key, secret_key, session_token } => {
            let credentials = access_key.zip(secret_key).map(|(access, secret)| AwsCredentials {
                access_key: access.expose().to_owned(),
                secret_key: secret.expose().to_owned(),
                session_token: session_token.map(|token| token.expose().to_owned()),
            });
            Arc::new(DynamoBackend::new(DynamoOptions { table, prefix, ttl, region, endpoint, profile, credentials }))
        }
    })
}

/// The file format of table `raw_events`.
pub fn raw_events_format(partition: u32) -> Arc<dyn TableFormat> {
    Arc::new(lake::RawEvents::new(partition, ZSTD_LEVEL))
}

/// The file format of a table of emitted rows.
pub fn emitted_rows_format(table: &EmittedTable, partition: u32) -> anyhow::Result<Arc<dyn TableFormat>> {
    let format = lake::EmittedRows::new(table, partition, ZSTD_LEVEL);
    Ok(Arc::new(format.map_err(|e| anyhow!("table {}: {e}", table.name))?))
}
