//! Certificates of a story's own.

use std::path::Path;
use std::sync::Arc;

/// A certificate for 127.0.0.1, and an acceptor that offers these protocols.
pub fn certified(folder: &Path, protocols: &[&[u8]]) -> tokio_rustls::TlsAcceptor {
    certified_for(folder, &["127.0.0.1"], protocols)
}

/// The same for other names and addresses.
pub fn certified_for(folder: &Path, names: &[&str], protocols: &[&[u8]]) -> tokio_rustls::TlsAcceptor {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let certified = rcgen::generate_simple_self_signed(names).expect("a certificate");
    std::fs::write(folder.join("ca.pem"), certified.cert.pem()).expect("written");
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut settings = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key.into())
        .expect("a certificate");
    settings.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(settings).into()
}
