//! Who may send events, and what is done to them on the way in because of who sent them.
//!
//! Every protocol asks here once per request, when it knows what the request claims and how many events it holds. Not here:
//! how a token is checked and what a source wants, see `access`.

use std::{net::IpAddr, sync::Arc};

use axum::http::HeaderMap;

use super::refusal::Refusal;
use crate::access::{self, Credentials, Peer, Privacy, Rules, rules::Sender};

/// What a request says of its sender. Protocols fill in what they know; a claim proves nothing by itself.
#[derive(Clone, Debug, Default)]
pub struct Claims<'a> {
    /// The secret of an `Authorization: Bearer` header.
    pub bearer: Option<&'a str>,
    /// A tracker's write key: the user name of HTTP Basic, or what the protocol's body or query calls it.
    pub write_key: Option<&'a str>,
    /// The application that a tracker says it is, where its protocol has no key.
    pub app_id: Option<&'a str>,
    /// The `Origin` header: the page whose browser sends.
    pub origin: Option<&'a str>,
    /// Names in the client's certificate, checked by TLS.
    pub certificate_names: &'a [String],
    /// Where the request comes from, behind trusted proxies.
    pub address: Option<IpAddr>,
}

/// A request that may come in.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    /// The address to stamp on events of trackers, already as private as the source wants it; `None`: stamp none.
    pub stamped_address: Option<String>,
    /// What is done to each event on the way in, once. If it [`Privacy::hides`], nothing is kept as it was sent.
    pub privacy: Privacy,
}

/// The rules by which senders come in.
#[derive(Clone, Debug, Default)]
pub struct Admissions {
    rules: Arc<Rules>,
}

impl Admissions {
    /// By `rules`; the default lets everybody in.
    pub fn new(rules: Arc<Rules>) -> Self {
        Self { rules }
    }

    /// What the head of a request says of its sender; protocols add what their bodies and queries say.
    pub fn credentials(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Credentials {
        Credentials::of(headers, peer, &self.rules)
    }

    /// Lets a request of `events` events in, or says why not.
    pub fn admit(&self, claims: &Claims<'_>, events: usize) -> Result<Admission, Refusal> {
        let sender = Sender {
            token: claims.bearer,
            write_key: claims.write_key,
            app_id: claims.app_id,
            origin: claims.origin,
            certificate_names: claims.certificate_names,
        };
        let privacy = self.rules.admit(&sender, events).inspect_err(access::observe::refused)?;
        Ok(Admission { stamped_address: claims.address.and_then(|address| privacy.stamp(address)), privacy })
    }
}

impl<'a> From<&'a Credentials> for Claims<'a> {
    /// The user of HTTP Basic is the write key.
    fn from(credentials: &'a Credentials) -> Self {
        Self {
            bearer: credentials.bearer.as_deref(),
            write_key: credentials.basic_user.as_deref(),
            app_id: None,
            origin: credentials.origin.as_deref(),
            certificate_names: credentials.names(),
            address: credentials.address,
        }
    }
}
