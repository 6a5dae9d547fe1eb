//! Certificates in files.

use std::path::Path;

use rustls::pki_types::{CertificateDer, pem::PemObject as _};

/// All certificates of a file, at least one; or what is wrong with it, to be said behind its name.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err("holds no certificate in PEM".to_owned()),
        Err(error) => Err(format!("holds no certificates in PEM: {error}")),
    }
}
