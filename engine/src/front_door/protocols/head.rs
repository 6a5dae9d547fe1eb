//! What a request says beside its body: headers, query, where it comes from.
//!
//! Pure. Not here: whether any of it is true, see [`crate::front_door::admission`].

use std::borrow::Cow;

use axum::http::{HeaderMap, HeaderName, header};

use super::base64_text;
use crate::access::Credentials;

/// Longest header value that becomes part of an event, in bytes.
const HEADER_BYTES_MAX: usize = 4 << 10;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The headers; metadata, where the request came by gRPC.
    pub headers: HeaderMap,
    /// The part of the address behind `?`, still encoded.
    pub query: String,
    /// Who sends it, as far as headers and connection say.
    pub credentials: Credentials,
    /// The id in the collector's cookie: the one that came, or the one that goes with the answer.
    pub network_userid: Option<String>,
}

impl Head {
    /// A header that is text.
    pub fn text(&self, name: impl Into<HeaderName>) -> Option<&str> {
        self.headers.get(name.into())?.to_str().ok().filter(|text| text.len() <= HEADER_BYTES_MAX)
    }

    /// The media type of the body, without parameters, in lower case.
    pub fn media_type(&self) -> Option<String> {
        let text = self.text(header::CONTENT_TYPE)?;
        Some(text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
    }

    /// Whether a Snowplow tracker asks to be anonymous: no cookie, no address, no network id.
    pub fn is_anonymous(&self) -> bool {
        self.headers.contains_key("sp-anonymous")
    }

    /// RudderStack's `AnonymousId` header. Its browser client packs it in base64, others send it as it is.
    pub fn anonymous_id(&self) -> Option<Cow<'_, str>> {
        /// Ids shorter than this could be plain ones that are base64 by chance.
        const PACKED_BYTES_MIN: usize = 16;
        let text = self.text(HeaderName::from_static("anonymousid"))?.trim();
        let unpacked = base64_text::decode_text(text).filter(|id| {
            id.len() >= PACKED_BYTES_MIN && id.bytes().all(|b| b.is_ascii_graphic()) // a UUID has 36
        });
        Some(unpacked.map_or(Cow::Borrowed(text), Cow::Owned)).filter(|id| !id.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(name: &'static str, value: &str) -> Head {
        let mut head = Head::default();
        head.headers.insert(name, value.parse().expect("a header"));
        head
    }

    #[test]
    fn an_anonymous_id_is_unpacked_where_it_is_packed() {
        let id = "0b8a1a6e-3f0f-4a59-9c5e-9f3f7f1d2c3b";
        let packed = base64_text::encode(id.as_bytes());
        for sent in [id, packed.as_str()] {
            assert_eq!(head("anonymousid", sent).anonymous_id().as_deref(), Some(id));
        }
        assert_eq!(head("anonymousid", "YWJj").anonymous_id().as_deref(), Some("YWJj"), "too short to be sure");
        assert_eq!(head("anonymousid", " ").anonymous_id(), None);
    }

    #[test]
    fn a_media_type_has_no_parameters() {
        let head = head("content-type", "Application/CloudEvents+JSON; charset=utf-8");
        assert_eq!(head.media_type().as_deref(), Some("application/cloudevents+json"));
    }
}
