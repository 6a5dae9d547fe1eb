//! Who may send events, and what is done to them on the way in because of who sent them.
//!
//! Every protocol asks here once per request, when it knows what the request claims and how many events it holds. Not here:
//! how a token is checked and what a source wants, see `access`.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use axum::http::HeaderMap;

use super::refusal::Refusal;
use crate::access::{self, Credentials, Peer, Privacy, Rules, Shares, rules::Sender};

/// Events that may come in.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    /// The address to stamp on events of trackers, already as private as the source wants it; `None`: stamp none.
    pub stamped_address: Option<String>,
    /// What is done to each event on the way in, once; and what may be kept of one that could not be read.
    pub privacy: Privacy,
}

impl Admission {
    fn new(privacy: Privacy, address: Option<IpAddr>) -> Self {
        Self { stamped_address: address.and_then(|address| privacy.stamp(address)), privacy }
    }
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

    /// Whether this sender could send something; nothing is counted.
    pub fn knows(&self, sender: &Sender<'_>) -> bool {
        self.rules.admit(sender, 0).is_ok()
    }

    /// Lets a request of `events` events in, or says why not. `address` is where it comes from, behind trusted proxies.
    pub fn admit(&self, sender: &Sender<'_>, address: Option<IpAddr>, events: usize) -> Result<Admission, Refusal> {
        let privacy = self.rules.admit(sender, events).inspect_err(access::observe::refused)?;
        Ok(Admission::new(privacy, address))
    }

    /// As [`Admissions::admit`], where each event says of which application it is, in their order; see
    /// [`Rules::admit_each`].
    pub fn admit_each<'a>(
        &self,
        sender: &Sender<'_>,
        address: Option<IpAddr>,
        events: usize,
        apps: impl Iterator<Item = Option<Cow<'a, str>>>,
    ) -> Result<Shares<Admission>, Refusal> {
        let shares = self.rules.admit_each(sender, events, apps).inspect_err(access::observe::refused)?;
        Ok(shares.map(|privacy| Admission::new(privacy, address)))
    }
}
