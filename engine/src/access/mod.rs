//! Who may come in, and as what: tokens, certificates, write keys, the pages of browsers, rates; and how much of a sender's
//! data is kept.
//!
//! The rules are pure: [`role`], [`token`], [`rules`], [`address`], [`privacy`]. [`http`] reads requests and answers
//! those that are turned away. Not here: connections and TLS, see `server`; what events are, see `front_door`.

pub mod address;
pub mod denied;
pub mod http;
pub mod observe;
pub mod privacy;
pub mod rate;
pub mod role;
pub mod rules;
pub mod token;

pub use address::IpPolicy;
pub use denied::Denied;
pub use http::{Credentials, Gatekeeper, Peer};
pub use privacy::Privacy;
pub use role::{Role, Roles};
pub use rules::{Entry, Rules, Shares, Source};
pub use token::TokenHash;
