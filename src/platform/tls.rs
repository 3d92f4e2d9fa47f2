//! TLS as a client: the system's trust store, and further authorities where the configuration names them.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::ownership;

/// Makes a client's TLS settings: TLS 1.2 and up, the operating system's verifier, the authorities of `extra_ca` (PEM)
/// besides the system's, and `alpn` in the order of preference. Reads files: call it at a reload, not for a request.
///
/// # Errors
///
/// A sentence that names the file, if `extra_ca` cannot be read, could be changed by others, or holds no certificate.
pub fn client_config(extra_ca: Option<&Path>, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let extra = match extra_ca {
        Some(path) => {
            let file = ownership::open(path).map_err(|why| format!("extra_ca: {}: {why}", path.display()))?;
            CertificateDer::pem_reader_iter(file)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| format!("extra_ca: {}: {error}", path.display()))?
        }
        None => Vec::new(),
    };
    let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra, provider.clone())
        .map_err(|error| format!("the system's certificate authorities: {error}"))?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous() // rustls's name for any verifier but its own; this one checks everything
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}
