//! Access over HTTP: reads what requests say of their sender, guards routers, and words refusals; CORS for browsers.
//!
//! Who may do what is for [`super::rules`] to say.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::Response,
};
use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::{Denied, Role, Rules, observe, rules::Sender};

/// How long browsers may remember that a page may send.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(3600);
/// Base64 whose padding some trackers leave out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The other end of a connection: an extension of every request that came in through the server.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address: a client's, or that of a proxy.
    pub address: SocketAddr,
    /// DNS names in its certificate, checked against `[http] tls.client_ca`.
    pub certificate_names: Arc<[String]>,
}

/// What a request says of who sends it.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The secret of `authorization: Bearer`.
    pub bearer: Option<String>,
    /// The user of `authorization: Basic`, which trackers use for their write key.
    pub basic_user: Option<String>,
    /// The page whose browser sends.
    pub origin: Option<String>,
    /// Names in the client's certificate.
    pub certificate_names: Option<Arc<[String]>>,
    /// Where it comes from, behind trusted proxies.
    pub address: Option<IpAddr>,
}

impl Credentials {
    /// Of a request with these headers (metadata, where it came by gRPC) from `peer`.
    pub fn of(headers: &HeaderMap, peer: Option<&Peer>, rules: &Rules) -> Self {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let (bearer, basic_user) = text(header::AUTHORIZATION).map_or((None, None), authorization);
        Self {
            bearer,
            basic_user,
            // A picture that a page loads names no origin, but mostly where the page is.
            origin: text(header::ORIGIN).map(str::to_owned).or_else(|| text(header::REFERER).and_then(origin_of)),
            certificate_names: peer.map(|peer| Arc::clone(&peer.certificate_names)),
            address: peer.map(|peer| rules.client(peer.address.ip(), forwarded(headers))),
        }
    }

    /// What they say of a sender of events: the user of Basic is the write key. Protocols add what their bodies and queries say.
    pub fn sender(&self) -> Sender<'_> {
        Sender {
            token: self.bearer.as_deref(),
            write_key: self.basic_user.as_deref(),
            app_id: None,
            origin: self.origin.as_deref(),
            certificate_names: self.names(),
        }
    }

    /// Names in the client's certificate.
    pub fn names(&self) -> &[String] {
        self.certificate_names.as_deref().unwrap_or_default()
    }
}

/// The origin of an address.
fn origin_of(address: &str) -> Option<String> {
    let (scheme, rest) = address.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next()?;
    Some(format!("{scheme}://{host}").to_ascii_lowercase())
}

/// The secret of a bearer, or the user of Basic.
fn authorization(value: &str) -> (Option<String>, Option<String>) {
    let Some((scheme, rest)) = value.trim().split_once(' ') else { return (None, None) };
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return (Some(rest.to_owned()), None);
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return (None, None);
    }
    let decoded = BASE64.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let user = decoded.map(|pair| pair.split(':').next().unwrap_or_default().to_owned());
    (None, user.filter(|user| !user.is_empty()))
}

/// Guards the faces.
#[derive(Clone, Debug, Default)]
pub struct Gatekeeper(Arc<Rules>);

impl Gatekeeper {
    /// Who keeps `rules`.
    pub fn new(rules: Arc<Rules>) -> Self {
        Self(rules)
    }

    /// Routes that take events. They ask for themselves who may send, see `front_door::admission`, for only they know where
    /// a protocol has its key; here browsers learn which pages may send.
    pub fn ingest(&self, routes: Router) -> Router {
        let rules = Arc::clone(&self.0);
        let known = move |origin: &HeaderValue, _: &Parts| origin.to_str().is_ok_and(|o| rules.knows_origin(o));
        let cors = CorsLayer::new()
            .allow_origin(AllowOrigin::predicate(known))
            .allow_credentials(true)
            .allow_methods([Method::GET, Method::POST])
            // Trackers have headers of their own, and more with each release. Who sends is decided by the origin.
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers([header::RETRY_AFTER])
            .max_age(PREFLIGHT_MAX_AGE);
        routes.layer(cors)
    }

    /// Calls of gRPC that take events. They ask for themselves how many events may come; who may send none gets no further
    /// than here, before a message is read.
    pub fn ingest_calls(&self, routes: Router) -> Router {
        routes.route_layer(middleware::from_fn_with_state(Arc::clone(&self.0), pass_sender))
    }

    /// Routes that answer with features.
    pub fn features(&self, routes: Router) -> Router {
        self.guarded(routes, |_, _| Some(Role::Features))
    }

    /// Health, metrics and `/api/...`.
    pub fn admin(&self, routes: Router) -> Router {
        self.guarded(routes, admin_role)
    }

    fn guarded(&self, routes: Router, role: fn(&Method, &str) -> Option<Role>) -> Router {
        let guard = Guard { rules: Arc::clone(&self.0), role };
        routes.route_layer(middleware::from_fn_with_state(guard, pass))
    }
}

/// The role that an address of the admin face needs.
fn admin_role(method: &Method, path: &str) -> Option<Role> {
    match path {
        "/livez" | "/readyz" | "/readyz/ingest" => None,
        "/metrics" => Some(Role::Metrics),
        _ if matches!(*method, Method::GET | Method::HEAD) => Some(Role::AdminRead),
        _ => Some(Role::AdminWrite),
    }
}

/// What proxies say of whom they speak for; what is no text is no address.
fn forwarded(headers: &HeaderMap) -> impl DoubleEndedIterator<Item = &str> {
    headers.get_all("x-forwarded-for").iter().map(|value| value.to_str().unwrap_or("?"))
}

#[derive(Clone)]
struct Guard {
    rules: Arc<Rules>,
    role: fn(&Method, &str) -> Option<Role>,
}

async fn pass(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let Some(role) = (guard.role)(request.method(), request.uri().path()) else { return next.run(request).await };
    let (head, body) = request.into_parts();
    let entered = if (role == Role::AdminWrite && is_cross_site(&head, guard.rules.is_open()))
        || (guard.rules.is_open() && is_renamed(&head))
    {
        Err(Denied::CrossSite)
    } else {
        let credentials = Credentials::of(&head.headers, head.extensions.get::<Peer>(), &guard.rules);
        guard.rules.enter(role, credentials.bearer.as_deref(), credentials.names())
    };
    match entered {
        Ok(()) => next.run(Request::from_parts(head, body)).await,
        Err(denied) => {
            observe::refused(&denied);
            turned_away(&denied, is_grpc(&head.headers))
        }
    }
}

async fn pass_sender(State(rules): State<Arc<Rules>>, request: Request, next: Next) -> Response {
    let credentials = Credentials::of(request.headers(), request.extensions().get::<Peer>(), &rules);
    match rules.admit(&credentials.sender(), 0) {
        Ok(_) => next.run(request).await,
        Err(denied) => {
            observe::refused(&denied);
            turned_away(&denied, is_grpc(request.headers()))
        }
    }
}

/// Whether a page of another site may have made a browser send this. Programs that are no browsers say none of it.
fn is_cross_site(head: &Parts, is_open: bool) -> bool {
    let text = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = host(head);
    let fetched_elsewhere = text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let sent_elsewhere = text("origin").is_some_and(|origin| {
        let from = origin.split_once("://").map(|(_, from)| from);
        from.is_none_or(|from| host.is_none_or(|host| !from.eq_ignore_ascii_case(host)))
    });
    fetched_elsewhere || sent_elsewhere || (is_open && is_renamed(head))
}

/// Whether the request was made for a name of somebody else: without credentials a page could give its own name our
/// address, and then be of our site, and read.
fn is_renamed(head: &Parts) -> bool {
    host(head).is_some_and(|host| !is_of_this_machine(host))
}

fn host(head: &Parts) -> Option<&str> {
    let named = || head.headers.get(header::HOST).map(|value| value.to_str().unwrap_or("?"));
    head.uri.authority().map(|authority| authority.as_str()).or_else(named)
}

/// Whether `host` is written as an address, or as localhost.
fn is_of_this_machine(host: &str) -> bool {
    let name = host.strip_prefix('[').map_or_else(|| host.split(':').next(), |rest| rest.split(']').next());
    let name = name.unwrap_or_default();
    name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

/// Whether a request is one of gRPC.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The answer to who may not come in: JSON as everywhere, or in the way of gRPC.
pub fn turned_away(denied: &Denied, grpc: bool) -> Response {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    if let Some(seconds) = denied.retry_after() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if denied.code() == 401 {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"keyloom\""));
    }
    if grpc {
        // All of it in the head: gRPC's form of an answer without a message.
        let message = format!("{denied}: {}", denied.hint());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(u16::from(denied.grpc_code())));
        headers
            .extend(HeaderValue::from_str(&message).ok().map(|text| (HeaderName::from_static("grpc-message"), text)));
        return response;
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let body = serde_json::json!({ "error": denied.to_string(), "hint": denied.hint() }).to_string();
    *response.status_mut() = StatusCode::from_u16(denied.code()).unwrap_or(StatusCode::FORBIDDEN);
    *response.body_mut() = Body::from(body);
    response
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn head(headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri("/api/x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn authorization_is_a_token_or_a_write_key() {
        for (value, bearer, user) in [
            ("Bearer abc", Some("abc"), None),
            ("bearer  abc ", Some("abc"), None),
            ("Basic a2V5Og==", None, Some("key")),
            ("basic a2V5OnBhc3M", None, Some("key")), // without padding
            ("Basic a2V5", None, Some("key")),        // without a colon
            ("Basic Og==", None, None),
            ("Basic *", None, None),
            ("Digest x", None, None),
            ("Bearer", None, None),
        ] {
            let found = authorization(value);
            assert_eq!((found.0.as_deref(), found.1.as_deref()), (bearer, user), "{value}");
        }
    }

    #[test]
    fn the_page_that_sends_is_known_by_its_origin_or_its_address() {
        for (headers, expected) in [
            (&[][..], None),
            (&[("origin", "https://a.example"), ("referer", "https://b.example/x")], Some("https://a.example")),
            (&[("referer", "https://Shop.example:8443/cart?u=https://x#y")], Some("https://shop.example:8443")),
            (&[("referer", "https://shop.example")], Some("https://shop.example")),
            (&[("referer", "https://shop.example?x")], Some("https://shop.example")),
            (&[("referer", "about:blank")], None),
        ] {
            let found = Credentials::of(&head(headers).headers, None, &Rules::default());
            assert_eq!(found.origin.as_deref(), expected, "{headers:?}");
        }
    }

    #[tokio::test]
    async fn pages_may_send_the_headers_of_their_trackers_and_read_when_to_try_again() {
        use tower_service::Service as _;
        let routes = Router::new().route("/v1/events", axum::routing::post(|| async {}));
        let mut routes = Gatekeeper::default().ingest(routes);
        let page = ("origin", "https://shop.example");
        for names in ["sentat,anonymousid,authorization", "content-type,x-retry-count"] {
            let mut preflight = Request::options("/v1/events").header(page.0, page.1);
            preflight = preflight.header("access-control-request-method", "POST");
            let preflight = preflight.header("access-control-request-headers", names).body(Body::empty());
            let answer = routes.call(preflight.expect("a request")).await.expect("answered");
            assert_eq!(answer.headers()["access-control-allow-origin"], page.1);
            assert_eq!(answer.headers()["access-control-allow-headers"], names);
        }
        let event = Request::post("/v1/events").header(page.0, page.1).body(Body::empty()).expect("a request");
        let answer = routes.call(event).await.expect("answered");
        assert_eq!(answer.headers()["access-control-expose-headers"], "retry-after");
    }

    #[tokio::test]
    async fn on_an_open_address_questions_must_name_it_and_events_need_not() {
        use tower_service::Service as _;
        let keeper = Gatekeeper::default();
        let of = |path| Router::new().route(path, axum::routing::get(|| async {}));
        let routes = keeper.ingest(of("/i")).merge(keeper.features(of("/f"))).merge(keeper.admin(of("/api/x")));
        for (path, host, status) in [
            ("/i", "events.example:8080", 200), // the name that a tracker was given
            ("/f", "events.example:8080", 403),
            ("/api/x", "events.example:8080", 403),
            ("/f", "localhost:8080", 200),
            ("/api/x", "127.0.0.1:8080", 200),
        ] {
            let request = Request::get(path).header("host", host).body(Body::empty()).expect("a request");
            assert_eq!(routes.clone().call(request).await.expect("answered").status(), status, "{path} {host}");
        }
    }

    #[test]
    fn pages_of_other_sites_are_known_by_what_browsers_say() {
        let host = ("host", "127.0.0.1:8080");
        for (headers, is_open, expected) in [
            (&[host][..], true, false),
            (&[host, ("origin", "http://127.0.0.1:8080")], true, false),
            (&[host, ("origin", "http://127.0.0.1:8081")], true, true),
            (&[host, ("origin", "null")], true, true),
            (&[host, ("sec-fetch-site", "same-origin")], true, false),
            (&[host, ("sec-fetch-site", "none")], true, false),
            (&[host, ("sec-fetch-site", "same-site")], true, true),
            (&[("host", "localhost:8080")], true, false),
            (&[("host", "[::1]:8080")], true, false),
            // A name of their own that leads to our address: of our site, but not to be trusted without a token.
            (&[("host", "evil.example:8080"), ("origin", "http://evil.example:8080")], true, true),
            (&[("host", "keyloom.example"), ("origin", "https://keyloom.example")], false, false),
            (&[("origin", "https://keyloom.example")], false, true),
            (&[], true, false),
        ] {
            assert_eq!(is_cross_site(&head(headers), is_open), expected, "{headers:?} {is_open}");
        }
    }
}
