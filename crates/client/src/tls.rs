use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;

use crate::error::Error;

/// What https is done with: certificates that the system trusts. Without https nothing of the system is asked, so that a
/// machine without certificates reaches a server beside it.
pub(crate) fn config(is_https: bool) -> Result<ClientConfig, Error> {
    let failed = |error: rustls::Error| Error::Tls { reason: error.to_string() };
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    if is_https {
        return Ok(builder.with_platform_verifier().map_err(failed)?.with_no_client_auth());
    }
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}
