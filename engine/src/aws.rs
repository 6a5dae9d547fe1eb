//! How to get in at AWS, and at services like it: credentials, region and TLS for whoever talks to one of its services.
//!
//! Not for the services themselves, see `lake` and `backend`.

use std::{error::Error, fmt};

use aws_config::{
    BehaviorVersion, SdkConfig, profile::ProfileFileCredentialsProvider, provider_config::ProviderConfig,
};
use aws_sdk_s3::config::{Credentials, ProvideCredentials, Region, SharedCredentialsProvider};
use aws_smithy_http_client::tls;
use hyper::Uri;

/// The region for endpoints that have none: what most look-alikes expect.
const REGION_OF_ENDPOINTS: &str = "us-east-1";

/// Fixed credentials. Not shown by `Debug`.
#[derive(Clone)]
pub struct AwsCredentials {
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
    /// Session token of temporary credentials.
    pub session_token: Option<String>,
}

impl fmt::Debug for AwsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AwsCredentials(hidden)")
    }
}

/// What is known of the way in.
pub(crate) struct Way<'a> {
    /// The section of the topology, and what it is about, for those who read what is wrong.
    pub(crate) section: &'static str,
    pub(crate) subject: &'static str,
    pub(crate) region: Option<&'a str>,
    /// Another service than AWS. Addresses in the environment (`AWS_ENDPOINT_URL`) do not count.
    pub(crate) endpoint: Option<&'a str>,
    /// Profile to take credentials and region from, and from nowhere else.
    pub(crate) profile: Option<&'a str>,
    /// Absent, those of the AWS default chain: environment, profile, web identity, container, machine.
    pub(crate) credentials: Option<&'a AwsCredentials>,
}

/// Why there is no way in.
pub(crate) enum NoWay {
    /// Nobody who knows credentials answered.
    Unavailable(String),
    /// A person must change something.
    Refused(String),
}

/// Finds credentials and region: the configuration of a service's client, without its endpoint, and the region.
pub(crate) async fn find(way: &Way<'_>) -> Result<(SdkConfig, String), NoWay> {
    if let Some(endpoint) = way.endpoint {
        let refused = |problem| NoWay::Refused(format!("{} endpoint: {problem}", way.section));
        check_endpoint(endpoint).map_err(refused)?;
    }
    let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    let http = aws_smithy_http_client::Builder::new().tls_provider(provider).build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http.clone());
    let region = way.region.map(|region| Region::new(region.to_owned()));
    if let Some(region) = &region {
        loader = loader.region(region.clone());
    }
    if let Some(profile) = way.profile {
        // The default chain would pass over a profile that is not there, and take the next best credentials.
        let config = ProviderConfig::without_region().with_http_client(http).with_region(region);
        let provider = ProfileFileCredentialsProvider::builder().configure(&config).profile_name(profile).build();
        loader = loader.profile_name(profile).credentials_provider(provider);
    }
    if let Some(fixed) = way.credentials {
        let (key, secret, token) = (&fixed.access_key, &fixed.secret_key, fixed.session_token.clone());
        loader = loader.credentials_provider(Credentials::new(key, secret, token, None, "topology"));
    }
    let shared = loader.load().await;
    if way.endpoint.is_none() && shared.endpoint_url().is_some() {
        tracing::warn!("AWS_ENDPOINT_URL is ignored; set endpoint in {}", way.section);
    }
    check_credentials(way, shared.credentials_provider()).await?;
    let found = shared.region().map(ToString::to_string).filter(|region| !region.is_empty());
    let Some(region) = found.or_else(|| way.endpoint.map(|_| REGION_OF_ENDPOINTS.to_owned())) else {
        let text = format!("no region is known: set {} region, or AWS_REGION", way.section);
        return Err(NoWay::Refused(text));
    };
    Ok((shared, region))
}

/// Asks for credentials before the first request does: then it can be said that they, and nothing else, are missing.
async fn check_credentials(way: &Way<'_>, provider: Option<SharedCredentialsProvider>) -> Result<(), NoWay> {
    let (section, subject) = (way.section, way.subject);
    let advice = format!(
        "set access_key and secret_key of {section}, the environment variables AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY, a profile, or give this machine a role"
    );
    let Some(provider) = provider else {
        return Err(NoWay::Refused(format!("there are no credentials for {subject}: {advice}")));
    };
    match provider.provide_credentials().await {
        Ok(_) => Ok(()),
        Err(error) => {
            let text = format!("no credentials for {subject} were found ({})", causes(&error));
            // The type of the error is not exported to us, but the names of its cases are stable.
            if format!("{error:?}").starts_with("ProviderTimedOut") {
                return Err(NoWay::Unavailable(text));
            }
            Err(NoWay::Refused(format!("{text}: {advice}")))
        }
    }
}

/// Checks an endpoint's address: `https`, or `http` to this machine only, because data and signed requests would travel
/// readable for everyone on the way.
pub(crate) fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let form = "it must look like \"https://storage.example.com\" or \"http://127.0.0.1:9000\"";
    let Ok(uri) = endpoint.parse::<Uri>() else { return Err(form.to_owned()) };
    let Some(host) = uri.host().filter(|host| !host.is_empty()) else { return Err(form.to_owned()) };
    if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err("it contains credentials; they do not belong into an address".to_owned());
    }
    if uri.query().is_some() {
        return Err(format!("it has a query; {form}"));
    }
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if is_loopback(host) => Ok(()),
        Some("http") => Err(format!("plain http to {host} would send events readable for everyone; use https")),
        _ => Err(form.to_owned()),
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// An error and what caused it, on one line; without repetition.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_on_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("the lake did not answer")]
        struct Outer(#[source] std::io::Error);
        let inner = || std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "nobody listens");
        assert_eq!(causes(&inner()), "nobody listens");
        assert_eq!(causes(&Outer(inner())), "the lake did not answer: nobody listens");
    }

    #[test]
    fn credentials_are_not_shown() {
        let (access_key, secret_key) = ("AKID".to_owned(), "s3cr3t".to_owned());
        let shown = format!("{:?}", AwsCredentials { access_key, secret_key, session_token: Some("t0k3n".to_owned()) });
        assert!(!["AKID", "s3cr3t", "t0k3n"].iter().any(|secret| shown.contains(secret)), "{shown}");
    }
}
