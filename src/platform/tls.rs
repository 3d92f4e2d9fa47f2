//! TLS as a client: the system's trust store, and further authorities where the configuration names them.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_platform_verifier::Verifier;

use super::ownership;

/// A trust store of all of a system's authorities has a quarter of a megabyte.
const LARGEST: u64 = 4 << 20;

/// Makes a client's TLS settings: TLS 1.2 and up, the operating system's verifier, `listed` besides the system's
/// authorities, and `alpn` in the order of preference. Reads the system's files: call it at a reload, not for a request.
///
/// `listed` are the [`authorities`] of `extra_ca`. Each is an authority. It is also a server's own where the server presents
/// the very same bytes and its name and dates fit, whatever it says that it may be used for: what `openssl req -x509` makes
/// is such a one.
///
/// # Errors
///
/// A sentence about the system's authorities.
pub(crate) fn client_config(listed: Vec<CertificateDer<'static>>, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let unusable = |error: &dyn std::fmt::Display| format!("the system's certificate authorities: {error}");
    let system = Verifier::new_with_extra_roots(listed.clone(), provider.clone()).map_err(|error| unusable(&error))?;
    let verifier: Arc<dyn ServerCertVerifier> = match listed.is_empty() {
        true => Arc::new(system),
        false => Arc::new(WithListed::new(system, listed, &provider)?),
    };
    settings(provider, verifier, alpn)
}

/// Settings with which no server is believed, and no connection is made: for whom `extra_ca` was to vouch for and cannot,
/// `why` saying so.
///
/// # Errors
///
/// The TLS library's.
pub(crate) fn refusing_config(why: String, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let refusing = Arc::new(Refusing { why, provider: provider.clone() });
    settings(provider, refusing, alpn)
}

fn settings(
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, String> {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous() // rustls's name for any verifier but its own; each of ours checks everything, or refuses all
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The certificates in a file of `extra_ca`: at least one.
///
/// # Errors
///
/// A sentence that names the file, if it cannot be read, could be changed by others, or is not PEM with certificates.
pub(crate) fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let named = |why: &dyn std::fmt::Display| format!("extra_ca: {}: {why}", path.display());
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(named(&"it is not a plain file")); // a pipe would be waited for
    }
    let file = ownership::open(path).map_err(|why| named(&why))?;
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| named(&error))?;
    if bytes.len() as u64 > LARGEST {
        return Err(named(&format!("it is larger than {} MiB", LARGEST >> 20)));
    }
    read(&bytes).map_err(|why| named(&why))
}

fn read(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes); // a byte order mark would hide the first line
    match text {
        [] => return Err("it is empty".to_owned()),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            return Err("it is UTF-16 text: save it as UTF-8, or export it again as PEM (Base64)".to_owned());
        }
        // a SEQUENCE longer than 127 bytes, or of a length that is not said before (X.690)
        [0x30, length @ 0x80..=0x84, rest @ ..] => {
            let content = rest.get(usize::from(length & 0x7f)..).unwrap_or_default();
            return Err(binary(content).to_owned());
        }
        _ => {}
    }
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(|error| format!("it is no good PEM: {}", in_words(&error)))?;
    for (index, certificate) in found.iter().enumerate() {
        let taken = RootCertStore::empty().add(certificate.clone());
        taken.map_err(|error| format!("its certificate number {} cannot be read: {error}", index + 1))?;
    }
    if found.is_empty() {
        let has = |mark: &str| text.windows(mark.len()).any(|part| part == mark.as_bytes());
        return Err(match () {
            () if has("PRIVATE KEY-----") => "it holds a private key, and no certificate",
            () if has("-----BEGIN TRUSTED CERTIFICATE-----") => {
                "it holds OpenSSL's own form of a certificate: openssl x509 -in FILE -out ca.pem"
            }
            () if has("-----BEGIN PKCS7-----") => "it holds PKCS #7: openssl pkcs7 -in FILE -print_certs -out ca.pem",
            () => "it holds no certificate (-----BEGIN CERTIFICATE-----)",
        }
        .to_owned());
    }
    Ok(found)
}

/// What is in a file that is not PEM but DER, by what its SEQUENCE begins with, and how it becomes PEM.
fn binary(content: &[u8]) -> &'static str {
    match content {
        // RFC 7292 section 4: version 3
        [2, 1, 3, ..] => {
            "it is PKCS #12, not PEM: openssl pkcs12 -in FILE -nokeys -out ca.pem (old ones: -legacy, too)"
        }
        // RFC 5208 section 5 and RFC 8017 section A.1.2: version 0 or 1
        [2, 1, 0 | 1, ..] => "it holds a private key, and no certificate",
        // RFC 2315 section 7: an object identifier
        [6, ..] => "it is PKCS #7, not PEM: openssl pkcs7 -inform DER -in FILE -print_certs -out ca.pem",
        _ => "it is DER, not PEM: openssl x509 -inform DER -in FILE -out ca.pem",
    }
}

fn in_words(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            let marker = String::from_utf8_lossy(end_marker);
            let label = marker.trim().trim_start_matches("-----END ").trim_matches('-');
            format!("the line -----END {label}----- is missing; part of it may be, too")
        }
        pem::Error::IllegalSectionStart { .. } => "a line that starts with -----BEGIN does not end in -----".to_owned(),
        pem::Error::Base64Decode(_) => "what stands between its first line and its last is not Base64".to_owned(),
        error => error.to_string(),
    }
}

/// The system's verifier, and a server's own certificate where the person has listed that.
#[derive(Debug)]
struct WithListed {
    system: Verifier,
    listed: Vec<CertificateDer<'static>>,
    /// Knows no other authorities than those.
    by_the_list: Arc<WebPkiServerVerifier>,
}

impl WithListed {
    fn new(
        system: Verifier,
        listed: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(listed.iter().cloned());
        let by_the_list = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone()).build();
        Ok(Self { system, listed, by_the_list: by_the_list.map_err(|error| format!("extra_ca: {error}"))? })
    }
}

impl ServerCertVerifier for WithListed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.listed.iter().any(|listed| listed.as_ref() == end_entity.as_ref()) {
            return self.system.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        }
        match self.by_the_list.verify_server_cert(end_entity, &[], server_name, ocsp_response, now) {
            // The dates are looked at before anything else, so they fit. What else can be wrong with these very bytes is
            // who has signed them and what for, and the person who has listed them vouches for that.
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::Other(_))) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.system.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.system.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.system.supported_verify_schemes()
    }
}

/// Believes nobody.
#[derive(Debug)]
struct Refusing {
    why: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Refusing {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Err(Error::General(self.why.clone()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd};

    use super::*;

    /// What `openssl req -x509` makes, but for what `change` does to it.
    fn own_authority(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut parameters = CertificateParams::new(["lab.example".to_owned()]).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut parameters);
        parameters.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn verdict(listed: &[CertificateDer<'static>], presented: &CertificateDer<'_>, name: &str) -> Result<(), Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let system = Verifier::new_with_extra_roots(listed.to_vec(), provider.clone()).unwrap();
        let verifier = WithListed::new(system, listed.to_vec(), &provider).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_790_000_000)); // September 2026
        verifier.verify_server_cert(presented, &[], &name, &[], now).map(drop)
    }

    #[test]
    fn a_listed_certificate_is_a_servers_own_where_its_bytes_name_and_dates_fit() {
        let plain = own_authority(|_| {});
        let other = own_authority(|_| {}); // the same names, another key
        let expired = own_authority(|it| it.not_after = date_time_ymd(2026, 1, 1));
        let to_come = own_authority(|it| it.not_before = date_time_ymd(2027, 1, 1));
        let for_clients = own_authority(|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
        let leaf = own_authority(|it| it.is_ca = IsCa::ExplicitNoCa);
        let all = [&plain, &expired, &to_come, &for_clients, &leaf].map(Clone::clone);
        for (case, listed, presented, name, is_believed) in [
            ("the very bytes", &[plain.clone()][..], &plain, "lab.example", true),
            ("among others", &all[..], &plain, "lab.example", true),
            ("no authority at all", &all[..], &leaf, "lab.example", true),
            ("whatever it is for", &all[..], &for_clients, "lab.example", true),
            ("another certificate of the same names", &all[..], &other, "lab.example", false),
            ("listed in no file of this account", &[other.clone()][..], &plain, "lab.example", false),
            ("another name", &all[..], &plain, "evil.example", false),
            ("a name below it", &all[..], &plain, "api.lab.example", false),
            ("an address", &all[..], &plain, "127.0.0.1", false),
            ("out of date", &all[..], &expired, "lab.example", false),
            ("not yet valid", &all[..], &to_come, "lab.example", false),
        ] {
            let verdict = verdict(listed, presented, name);
            assert_eq!(verdict.is_ok(), is_believed, "{case}: {verdict:?}");
        }
    }

    #[test]
    fn an_authority_of_the_file_signs_for_servers_as_before() {
        let ca_key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::<String>::new()).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "the authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = parameters.self_signed(&ca_key).unwrap().der().clone();
        let issuer = rcgen::Issuer::new(parameters, ca_key);
        let server = CertificateParams::new(["lab.example".to_owned()]).unwrap();
        let server = server.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone();
        assert!(verdict(from_ref(&ca), &server, "lab.example").is_ok());
        assert!(verdict(from_ref(&ca), &server, "evil.example").is_err());
        assert!(verdict(&[own_authority(|_| {})], &server, "lab.example").is_err());
        // the server's own, without who has signed it
        assert!(verdict(from_ref(&server), &server, "lab.example").is_ok());
        assert!(verdict(from_ref(&server), &server, "evil.example").is_err());
    }

    #[test]
    fn a_file_that_vouches_for_nobody_is_refused_in_words() {
        let pem = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let (der, key, pem) = (pem.cert.der().to_vec(), pem.signing_key.serialize_pem(), pem.cert.pem());
        let utf16: Vec<u8> = std::iter::once(0xfeff).chain(pem.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        let cut = pem.replacen("-----END CERTIFICATE-----", "", 1);
        let no_certificate = "-----BEGIN CERTIFICATE-----\nZ2FyYmFnZQ==\n-----END CERTIFICATE-----\n";
        let second_is_bad = format!("{pem}{no_certificate}");
        let trusted =
            pem.replace("CERTIFICATE-----", "TRUSTED CERTIFICATE-----").replace("BEGIN CERT", "BEGIN TRUSTED CERT");
        let trusted = trusted.replace("TRUSTED TRUSTED", "TRUSTED");
        for (case, bytes, words) in [
            ("empty", &b""[..], "it is empty"),
            ("a byte order mark alone", b"\xef\xbb\xbf", "it is empty"),
            ("DER", &der, "it is DER, not PEM"),
            ("UTF-16", &utf16, "it is UTF-16"),
            ("a private key", key.as_bytes(), "a private key, and no certificate"),
            ("OpenSSL's form", trusted.as_bytes(), "OpenSSL's own form"),
            ("some text", b"<html>not found</html>", "it holds no certificate"),
            ("cut off", cut.as_bytes(), "it is no good PEM: the line -----END CERTIFICATE----- is missing"),
            ("half a first line", b"-----BEGIN CERTIFICATE\nabc\n", "does not end in -----"),
            ("no Base64", b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "is not Base64"),
            ("PKCS #12", b"\x30\x82\x0a\x00\x02\x01\x03\x30", "openssl pkcs12 "),
            ("PKCS #12 of Windows", b"\x30\x80\x02\x01\x03\x30", "openssl pkcs12 "),
            ("PKCS #7", b"\x30\x82\x0a\x00\x06\x09", "openssl pkcs7 -inform DER"),
            ("a private key in DER", b"\x30\x82\x0a\x00\x02\x01\x00", "a private key"),
            ("a SEQUENCE and no more", b"\x30\x84", "it is DER"),
            ("garbage in PEM", no_certificate.as_bytes(), "its certificate number 1 cannot be read"),
            ("garbage behind a good one", second_is_bad.as_bytes(), "its certificate number 2 cannot be read"),
        ] {
            let why = read(bytes).expect_err(case);
            assert!(why.contains(words), "{case}: {why}");
        }
        for (case, text) in [
            ("plain", pem.clone()),
            ("with a byte order mark", format!("\u{feff}{pem}")),
            ("with line ends of Windows", pem.replace('\n', "\r\n")),
            ("with words around it", format!("subject=/CN=a\n{pem}the end\n")),
        ] {
            assert_eq!(read(text.as_bytes()).map(|found| found.len()), Ok(1), "{case}");
        }
    }
}
