//! Why somebody is turned away: status, words, what to do about it, and the label it is counted under.

use super::Role;

/// A request that may not come in.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Denied {
    /// It says nothing of who sends it.
    #[error("this address needs credentials with the role {}", .0.name())]
    NoCredentials(Role),
    /// Its token is nobody's.
    #[error("the token is not known here")]
    UnknownToken,
    /// Its write key or app id is of no source.
    #[error("no source has this write key or app id")]
    UnknownSource,
    /// Who sends it is known, and may not do this.
    #[error("these credentials do not have the role {}", .0.name())]
    MissingRole(Role),
    /// The page that sends it is not one of its source's.
    #[error("pages of this origin may not send to this source")]
    Origin,
    /// A page of another site tries to change something.
    #[error("this address takes no requests from pages of other sites")]
    CrossSite,
    /// Too much in a short time; in so many seconds there is room.
    #[error("the rate limit is reached")]
    Rate(u64),
    /// More events at once than the rate ever lets in.
    #[error("the rate limit of the sender lets in at most {0} events at once")]
    TooMany(u32),
}

impl Denied {
    /// The HTTP status code.
    pub fn code(&self) -> u16 {
        match self {
            Self::NoCredentials(_) | Self::UnknownToken | Self::UnknownSource => 401,
            Self::MissingRole(_) | Self::Origin | Self::CrossSite => 403,
            Self::TooMany(_) => 413,
            Self::Rate(_) => 429,
        }
    }

    /// The status of gRPC.
    pub fn grpc_code(&self) -> u8 {
        match self {
            Self::NoCredentials(_) | Self::UnknownToken | Self::UnknownSource => 16, // UNAUTHENTICATED
            Self::MissingRole(_) | Self::Origin | Self::CrossSite => 7,              // PERMISSION_DENIED
            Self::TooMany(_) => 3, // INVALID_ARGUMENT: never in this size
            Self::Rate(_) => 8,    // RESOURCE_EXHAUSTED
        }
    }

    /// What the sender can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoCredentials(Role::Ingest) => {
                "send `authorization: Bearer TOKEN`, a write key of a [source.NAME], or a client certificate"
            }
            Self::NoCredentials(_) => {
                "send `authorization: Bearer TOKEN`, or a client certificate; see keyloom token new"
            }
            Self::UnknownToken => {
                "is it the token of another engine, or was it rotated? See [access.NAME] in the topology"
            }
            Self::UnknownSource => "add it to write_keys or app_ids of a [source.NAME] in the topology",
            Self::MissingRole(_) => "add the role to its [access.NAME] in the topology, or use other credentials",
            Self::Origin => "add the page's origin to origins of its [source.NAME] in the topology",
            Self::CrossSite => "use the command line, or a page that this engine serves",
            Self::Rate(_) => "nothing was stored; try again after the seconds in retry-after",
            Self::TooMany(_) => "nothing was stored; send fewer events per request",
        }
    }

    /// The label of its metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCredentials(_) => "no_credentials",
            Self::UnknownToken => "unknown_token",
            Self::UnknownSource => "unknown_source",
            Self::MissingRole(_) => "missing_role",
            Self::Origin => "origin",
            Self::CrossSite => "cross_site",
            Self::Rate(_) => "rate",
            Self::TooMany(_) => "too_many",
        }
    }

    /// Seconds after which to try again, for what passes by itself.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Rate(seconds) => Some(*seconds),
            _ => None,
        }
    }
}
