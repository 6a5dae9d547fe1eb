//! The collector's cookie: the id of a browser across the sites that send to the same front door (`network_userid`).
//!
//! Pure; randomness comes in as an argument.

use std::{fmt::Write as _, time::Duration};

use axum::http::{HeaderMap, header};

/// Longest id that is taken from a cookie, in bytes.
const ID_BYTES_MAX: usize = 128;

/// To which requests browsers add the cookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SameSite {
    /// To all, also from pages of other sites; browsers want `Secure` with it.
    None,
    /// To those of the same site, and when a link is followed.
    Lax,
    /// To those of the same site.
    Strict,
}

/// How the cookie is set. The defaults are those of Snowplow's collector.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CollectorCookie {
    /// Its name.
    pub name: String,
    /// How long browsers keep it, from the last request on.
    pub expires_after: Duration,
    /// The domain it is for; `None`: the host that the request went to.
    pub domain: Option<String>,
    /// See [`SameSite`].
    pub same_site: SameSite,
    /// Whether browsers send it over TLS only.
    pub secure: bool,
    /// Whether scripts of a page cannot see it.
    pub http_only: bool,
}

impl Default for CollectorCookie {
    fn default() -> Self {
        Self {
            name: "sp".to_owned(),
            expires_after: Duration::from_hours(365 * 24),
            domain: None,
            same_site: SameSite::None,
            secure: true,
            http_only: true,
        }
    }
}

impl CollectorCookie {
    /// The id that came with a request, if it is one: visible ASCII without what ends a cookie's value.
    pub fn id<'h>(&self, headers: &'h HeaderMap) -> Option<&'h str> {
        // Bytes, because what other cookies beside it hold need not be ASCII, or text at all.
        let lines = headers.get_all(header::COOKIE).iter().map(|line| line.as_bytes());
        let mut pairs = lines.flat_map(|line| line.split(|b| *b == b';')).map(<[u8]>::trim_ascii);
        let id = pairs.find_map(|pair| pair.strip_prefix(self.name.as_bytes())?.strip_prefix(b"="))?;
        let is_id = (1..=ID_BYTES_MAX).contains(&id.len())
            && id.iter().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b',' | b'\\'));
        std::str::from_utf8(id).ok().filter(|_| is_id)
    }

    /// The value of `Set-Cookie` for `id`.
    pub fn set(&self, id: &str) -> String {
        let mut text = format!("{}={id}; Max-Age={}; Path=/", self.name, self.expires_after.as_secs());
        if let Some(domain) = &self.domain {
            write!(text, "; Domain={domain}").expect("memory takes everything");
        }
        text.push_str(match self.same_site {
            SameSite::None => "; SameSite=None",
            SameSite::Lax => "; SameSite=Lax",
            SameSite::Strict => "; SameSite=Strict",
        });
        if self.secure {
            text.push_str("; Secure");
        }
        if self.http_only {
            text.push_str("; HttpOnly");
        }
        text
    }
}

/// A new id from 128 random bits, as a UUID of version 4.
pub fn new_id(random: u128) -> String {
    let bits = random & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        bits >> 96,
        (bits >> 80) & 0xffff,
        (bits >> 64) & 0xffff,
        (bits >> 48) & 0xffff,
        bits & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_id_comes_back_and_others_do_not() {
        let cookie = CollectorCookie::default();
        let id = |line: &str| {
            let mut headers = HeaderMap::new();
            headers.append(header::COOKIE, "other=1".parse().expect("a header"));
            headers.append(header::COOKIE, HeaderValue::from_bytes(line.as_bytes()).expect("a header"));
            cookie.id(&headers).map(str::to_owned)
        };
        assert_eq!(id("a=b; sp=0b8a1a6e-3f0f; c").as_deref(), Some("0b8a1a6e-3f0f"));
        assert_eq!(id("name=Jürgen; sp=0b8a").as_deref(), Some("0b8a"), "beside what is not ASCII");
        let long = format!("sp={}", "x".repeat(ID_BYTES_MAX + 1));
        for none in ["", "spx=1", "sp", "sp=", "sp=a b", "sp=\"a\"", "sp=a,b", "sp=ü", long.as_str()] {
            assert_eq!(id(none), None, "{none}");
        }
    }

    #[test]
    fn it_is_set_as_the_settings_say() {
        let text = "sp=i; Max-Age=31536000; Path=/; SameSite=None; Secure; HttpOnly";
        assert_eq!(CollectorCookie::default().set("i"), text);
        let own = CollectorCookie {
            name: "kl".into(),
            expires_after: Duration::from_secs(60),
            domain: Some("shop.example".into()),
            same_site: SameSite::Lax,
            secure: false,
            http_only: false,
        };
        assert_eq!(own.set("i"), "kl=i; Max-Age=60; Path=/; Domain=shop.example; SameSite=Lax");
    }

    #[test]
    fn new_ids_are_uuids_of_version_4() {
        assert_eq!(new_id(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(new_id(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
