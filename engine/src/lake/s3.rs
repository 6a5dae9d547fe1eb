//! A lake in an S3 bucket, at AWS or at any store that speaks S3.
//!
//! One object, one PUT: S3 shows it whole or not at all. Nothing is retried here, because the batcher has a budget for
//! that; what S3's answers mean is decided in `s3_answers`. Buckets are never created.

use std::{error::Error, time::Duration};

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    config::{
        AppName, Config, Region, RequestChecksumCalculation, StalledStreamProtectionConfig, http::HttpResponse,
        retry::RetryConfig, timeout::TimeoutConfig,
    },
    error::{ProvideErrorMetadata, SdkError},
    primitives::ByteStream,
};
use bytes::Bytes;
use keyloom_actors::ports::{Lake, LakeError};

use super::{
    names,
    s3_answers::{self, Answer, Place},
};
use crate::aws::{self, AwsCredentials, NoWay, Way, causes};

/// Longest wait for a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for anything but an upload.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);
/// Slowest upload that is waited for, in bytes per second, on top of [`OPERATION_TIMEOUT`]: 128 MiB may take about
/// four and a half minutes.
const UPLOAD_BYTES_PER_SECOND_MIN: u64 = 512 * 1_024;
/// Longest wait for an upload, however large. Also the read timeout of every connection, which counts from the first
/// byte sent, so it must not be shorter; and it must not depend on the object, because the SDK keeps a pool of
/// connections per read timeout for ever.
const UPLOAD_TIMEOUT_MAX: Duration = Duration::from_secs(15 * 60);
/// How long an upload may stand still.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest object of a single PUT, in bytes: S3's limit.
const OBJECT_BYTES_MAX: u64 = 5 * 1_024 * 1_024 * 1_024;
/// Most pages of one listing; a page holds up to 1,000 names, so this is a million and some 200 MB of memory.
const LIST_PAGES_MAX: usize = 1_000;
/// Where the bucket is and how to get in.
#[derive(Clone, Debug, Default)]
pub struct S3Options {
    /// Name of the bucket. It must exist.
    pub bucket: String,
    /// What all names of this lake begin with; may be empty. Only used to look whether it may be listed: names given to
    /// the lake contain it already.
    pub prefix: String,
    /// AWS region; absent, from the environment or the profile, and with an endpoint `us-east-1`.
    pub region: Option<String>,
    /// Address of a store other than AWS. `https`, or `http` on this machine. Addresses in the environment
    /// (`AWS_ENDPOINT_URL`) do not count.
    pub endpoint: Option<String>,
    /// Profile of the AWS configuration files to take credentials and region from, and from nowhere else.
    pub profile: Option<String>,
    /// Fixed credentials; absent, those of the AWS default chain: environment, profile, web identity, container, machine.
    pub credentials: Option<AwsCredentials>,
}

/// A lake in an S3 bucket.
#[derive(Clone, Debug)]
pub struct S3Lake {
    client: Client,
    place: Place,
}

impl S3Lake {
    /// Finds credentials and region, and looks whether the bucket is there and may be listed. Says what to do when not:
    /// a refusal until someone changes something, unavailable when the store could not be asked.
    pub async fn open(options: &S3Options) -> Result<Self, LakeError> {
        if options.bucket.is_empty() {
            return Err(LakeError::Refused("[lake] bucket is empty: name the bucket".to_owned()));
        }
        if let Some(endpoint) = &options.endpoint {
            s3_answers::check_endpoint(endpoint)?;
        }
        let (client, place) = connect(options).await?;
        let lake = Self { client, place };
        let prefix = options.prefix.trim_matches('/');
        let asked = lake.client.list_objects_v2().bucket(&lake.place.bucket).prefix(prefix).max_keys(1).send().await;
        asked.map_err(|e| lake.failure("opening the lake", &e))?;
        Ok(lake)
    }

    fn failure<E>(&self, doing: &str, error: &SdkError<E, HttpResponse>) -> LakeError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let address = self.place.address();
        let answer = |raw: &HttpResponse| Answer { status: raw.status().as_u16(), ..Answer::default() };
        match error {
            SdkError::ServiceError(context) => {
                let (err, raw) = (context.err(), context.raw());
                let code = err.code().unwrap_or_default();
                let message = err.message().unwrap_or_default();
                let region = raw.headers().get("x-amz-bucket-region");
                self.place.judge(doing, Answer { code, message, region, ..answer(raw) })
            }
            SdkError::ResponseError(context) => {
                self.place.judge(doing, Answer { message: "an unreadable answer", ..answer(context.raw()) })
            }
            SdkError::TimeoutError(_) => LakeError::Unavailable(format!("{doing}: no answer in time from {address}")),
            SdkError::DispatchFailure(_) => LakeError::Unavailable(format!(
                "{doing}: cannot reach {address} ({}); check [lake] endpoint and region, and the network",
                causes(error)
            )),
            SdkError::ConstructionFailure(_) => LakeError::Refused(format!(
                "{doing}: no request to {address} could be made ({}); check [lake] bucket, region and endpoint",
                causes(error)
            )),
            _ => LakeError::Unavailable(format!("{doing} at {address}: {}", causes(error))),
        }
    }
}

pub(super) async fn connect(options: &S3Options) -> Result<(Client, Place), LakeError> {
    let way = Way {
        section: "[lake]",
        subject: "the lake",
        region: options.region.as_deref(),
        endpoint: options.endpoint.as_deref(),
        profile: options.profile.as_deref(),
        credentials: options.credentials.as_ref(),
    };
    let (shared, region) = aws::find(&way).await.map_err(|no_way| match no_way {
        NoWay::Unavailable(text) => LakeError::Unavailable(text),
        NoWay::Refused(text) => LakeError::Refused(text),
    })?;
    let mut config = Config::from(&shared)
        .to_builder()
        .region(Region::new(region.clone()))
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts(OPERATION_TIMEOUT))
        .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(STALL_TIMEOUT).build());
    // Only the topology's address counts: one from elsewhere would go round the check that it is encrypted.
    config.set_endpoint_url(options.endpoint.clone());
    if options.endpoint.is_some() {
        // Names of buckets are no host names there; and older look-alikes trip over checksums they do not know. The
        // signature covers the content either way.
        config = config.force_path_style(true).request_checksum_calculation(RequestChecksumCalculation::WhenRequired);
    }
    if let Ok(name) = AppName::new("keyloom") {
        config = config.app_name(name);
    }
    let place = Place { bucket: options.bucket.clone(), region, endpoint: options.endpoint.clone() };
    Ok((Client::from_conf(config.build()), place))
}

fn timeouts(operation: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(UPLOAD_TIMEOUT_MAX)
        .operation_timeout(operation)
        .build()
}

fn upload_timeout(bytes: u64) -> Duration {
    (OPERATION_TIMEOUT + Duration::from_secs(bytes / UPLOAD_BYTES_PER_SECOND_MIN)).min(UPLOAD_TIMEOUT_MAX)
}

#[async_trait]
impl Lake for S3Lake {
    async fn put(&self, name: &str, object: Bytes) -> Result<(), LakeError> {
        names::check(name)?;
        let bytes = object.len() as u64;
        if bytes > OBJECT_BYTES_MAX {
            let text =
                format!("{name} has {bytes} bytes, S3 takes at most {OBJECT_BYTES_MAX}; lower the table's cut.bytes");
            return Err(LakeError::Refused(text));
        }
        let config = Config::builder().timeout_config(timeouts(upload_timeout(bytes)));
        let put = self.client.put_object().bucket(&self.place.bucket).key(name).body(ByteStream::from(object));
        let stored = put.customize().config_override(config).send().await;
        stored.map(drop).map_err(|e| self.failure(&format!("storing {name}"), &e))
    }

    async fn delete(&self, name: &str) -> Result<(), LakeError> {
        names::check(name)?;
        match self.client.delete_object().bucket(&self.place.bucket).key(name).send().await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("NoSuchKey") => Ok(()),
            Err(error) => Err(self.failure(&format!("removing {name}"), &error)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, LakeError> {
        names::split_prefix(prefix)?;
        let mut found = Vec::new();
        let mut next = None;
        for _ in 0..LIST_PAGES_MAX {
            let request = self.client.list_objects_v2().bucket(&self.place.bucket).prefix(prefix);
            let page = request.set_continuation_token(next.take()).send().await;
            let page = page.map_err(|e| self.failure(&format!("listing {prefix}"), &e))?;
            for object in page.contents() {
                let bytes = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
                found.extend(object.key().map(|key| (key.to_owned(), bytes)));
            }
            next = page.next_continuation_token;
            if page.is_truncated != Some(true) || next.is_none() {
                return Ok(found);
            }
        }
        let many = found.len();
        Err(LakeError::Refused(format!("more than {many} objects begin with {prefix:?}; list a narrower prefix")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let credentials = AwsCredentials {
            access_key: "AKID".into(),
            secret_key: "s3cr3t".into(),
            session_token: Some("t0k3n".into()),
        };
        let options = S3Options { bucket: "lake".into(), credentials: Some(credentials), ..S3Options::default() };
        let shown = format!("{options:?}");
        assert!(shown.contains("lake"));
        assert!(!["AKID", "s3cr3t", "t0k3n"].iter().any(|secret| shown.contains(secret)), "{shown}");
    }

    #[test]
    fn uploads_get_time_by_size_within_bounds() {
        assert_eq!(upload_timeout(0), OPERATION_TIMEOUT);
        assert_eq!(upload_timeout(128 * 1_024 * 1_024), OPERATION_TIMEOUT + Duration::from_secs(256));
        assert_eq!(upload_timeout(u64::MAX), UPLOAD_TIMEOUT_MAX);
    }
}
