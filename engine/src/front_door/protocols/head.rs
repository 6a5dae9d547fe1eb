//! What a request says beside its body: headers, query, where it comes from.
//!
//! Pure. Not here: whether any of it is true, see [`crate::front_door::admission`].

use std::{borrow::Cow, net::IpAddr};

use axum::http::{HeaderMap, HeaderName, header};

use super::base64_text;

/// Longest header value that becomes part of an event, in bytes.
const HEADER_BYTES_MAX: usize = 4 << 10;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The headers; metadata, where the request came by gRPC.
    pub headers: HeaderMap,
    /// The part of the address behind `?`, still encoded.
    pub query: String,
    /// Where the request comes from, behind trusted proxies.
    pub address: Option<IpAddr>,
    /// Names in the client's certificate, checked by TLS.
    pub certificate_names: Vec<String>,
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

    /// The secret of `Authorization: Bearer`.
    pub fn bearer(&self) -> Option<&str> {
        self.authorization("bearer")
    }

    /// The user name of `Authorization: Basic`: where trackers put their write key.
    pub fn basic_user(&self) -> Option<String> {
        let pair = base64_text::decode_text(self.authorization("basic")?)?;
        let user = pair.split_once(':').map_or(pair.as_str(), |(user, _)| user);
        (!user.is_empty()).then(|| user.to_owned())
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

    fn authorization(&self, scheme: &str) -> Option<&str> {
        let (found, rest) = self.text(header::AUTHORIZATION)?.trim().split_once(' ')?;
        found.eq_ignore_ascii_case(scheme).then_some(rest.trim()).filter(|rest| !rest.is_empty())
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
    fn credentials_are_read_from_their_header() {
        assert_eq!(head("authorization", "bearer  s3cret").bearer(), Some("s3cret"));
        assert_eq!(head("authorization", "Basic a2V5Og==").basic_user().as_deref(), Some("key"));
        assert_eq!(head("authorization", "Basic a2V5OnBhc3M").basic_user().as_deref(), Some("key"));
        for bad in ["Basic", "Basic ", "Basic *", "Basic Og==", "Digest x", ""] {
            let head = head("authorization", bad);
            assert_eq!((head.bearer(), head.basic_user()), (None, None), "{bad}");
        }
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
