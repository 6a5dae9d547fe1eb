//! TLS of the faces: the engine's certificate, and the names in those that clients show.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;

use crate::pem;

/// The protocols that are offered, the better one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// TLS cannot be had with these files.
#[derive(Debug, thiserror::Error)]
#[error("[http] tls: {} {problem}", path.display())]
pub struct TlsError {
    path: PathBuf,
    problem: String,
}

/// How connections are encrypted.
#[derive(Clone)]
pub struct Tls {
    pub(super) acceptor: TlsAcceptor,
}

impl Tls {
    /// With the certificate in `cert`, its key in `key`, and, if clients may show one of theirs, who vouches for it.
    pub fn load(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Self, TlsError> {
        let wrong = |path: &Path, problem: String| TlsError { path: path.to_owned(), problem };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = certificates(cert)?;
        let secret = PrivateKeyDer::from_pem_file(key)
            .map_err(|error| wrong(key, format!("holds no private key in PEM: {error}")))?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(cert, error.to_string()))?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots
                        .add(certificate)
                        .map_err(|error| wrong(path, format!("cannot vouch for clients: {error}")))?;
                }
                // Who shows none may still have a token, or ask for /livez only.
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| wrong(path, format!("cannot vouch for clients: {error}")))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(chain, secret)
            .map_err(|error| wrong(cert, format!("and {} cannot be used together: {error}", key.display())))?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)) })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    pem::certificates(path).map_err(|problem| TlsError { path: path.to_owned(), problem })
}

/// The DNS names in the first of `certificates`, which the handshake has checked.
pub(super) fn names(certificates: Option<&[CertificateDer<'_>]>) -> Arc<[String]> {
    let Some(first) = certificates.and_then(<[_]>::first) else { return Arc::default() };
    let Ok(parsed) = webpki::EndEntityCert::try_from(first) else { return Arc::default() };
    parsed.valid_dns_names().map(str::to_owned).collect()
}
