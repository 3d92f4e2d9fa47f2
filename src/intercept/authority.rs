//! The certificate authority of one command: it vouches for the hosts of the routes that the command was given, and is
//! good for nothing else, whoever gets hold of it.
//!
//! A root signs one intermediate, and its key is dropped; the intermediate signs a certificate for each host. Both are
//! constrained to the hosts (RFC 5280 section 4.2.1.10), and all addresses are excluded, since a constraint on names says
//! nothing of them. The root's is there for those who read no other, the intermediate's for those who do not read a root's
//! (Java). X.509 has it that a permitted name permits the names below it as well.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256,
};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};

/// So that a client whose clock is behind believes it, too.
const BEFORE: Duration = Duration::HOUR;

/// The longest that a command can go on: what it has read at its start cannot be replaced.
const LIFE: Duration = Duration::days(90);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// Constraints are on names.
    #[error("{0} is an address, and an address cannot be vouched for alone: name the upstream by a host name")]
    Address(String),
    /// The cryptography failed.
    #[error("making a certificate: {0}")]
    Made(String),
}

/// The authority. Its key is in memory only.
pub(crate) struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    intermediate: CertificateDer<'static>,
    root: String,
    provider: Arc<CryptoProvider>,
    now: OffsetDateTime,
    served: BTreeMap<String, Arc<ServerConfig>>,
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority").finish_non_exhaustive()
    }
}

impl CertificateAuthority {
    /// Makes one for these hosts, which are names, at a time in seconds since 1970.
    ///
    /// # Errors
    ///
    /// [`AuthorityError`] if a host is an address, or if the cryptography fails.
    pub(crate) fn new(hosts: &[String], now: u64) -> Result<Self, AuthorityError> {
        if let Some(address) = hosts.iter().find(|host| is_address(host)) {
            return Err(AuthorityError::Address(address.clone()));
        }
        let now = i64::try_from(now).ok().and_then(|now| OffsetDateTime::from_unix_timestamp(now).ok());
        let now = now.ok_or_else(|| AuthorityError::Made("the clock is beyond the calendar".to_owned()))?;
        let root_key = key()?;
        let root = authority("valetd exec, root", 1, hosts, now);
        let certificate = root.self_signed(&root_key).map_err(made)?;
        let root_issuer = Issuer::new(root, root_key); // dropped at the end of this function
        let (key, mut params) = (key()?, authority("valetd exec", 0, hosts, now));
        params.use_authority_key_identifier_extension = true;
        let intermediate = params.signed_by(&key, &root_issuer).map_err(made)?.der().clone();
        Ok(Self {
            issuer: Issuer::new(params, key),
            intermediate,
            root: certificate.pem(),
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
            now,
            served: BTreeMap::new(),
        })
    }

    /// The root's certificate, as PEM: what the command is told to trust.
    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    /// How TLS is spoken in the name of one of the hosts; its certificate is made at the first call.
    ///
    /// # Errors
    ///
    /// [`AuthorityError`] if the cryptography fails.
    pub(crate) fn server_config(&mut self, host: &str) -> Result<Arc<ServerConfig>, AuthorityError> {
        if let Some(known) = self.served.get(host) {
            return Ok(known.clone());
        }
        let (key, mut params) = (key()?, CertificateParams::new([host.to_owned()]).map_err(made)?);
        params.distinguished_name = DistinguishedName::new();
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = (self.now - BEFORE, self.now + LIFE);
        let leaf = params.signed_by(&key, &self.issuer).map_err(made)?.der().clone();
        let private =
            PrivateKeyDer::try_from(key.serialize_der()).map_err(|why| AuthorityError::Made(why.to_owned()))?;
        let config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder.with_no_client_auth().with_single_cert(vec![leaf, self.intermediate.clone()], private)
            });
        let mut config = config.map_err(|error| AuthorityError::Made(error.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let config = Arc::new(config);
        self.served.insert(host.to_owned(), config.clone());
        Ok(config)
    }
}

fn key() -> Result<KeyPair, AuthorityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(made)
}

fn made(error: rcgen::Error) -> AuthorityError {
    AuthorityError::Made(error.to_string())
}

/// Whether a host is an address, in any form that the configuration takes.
pub(crate) fn is_address(host: &str) -> bool {
    host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok()
}

fn authority(name: &str, below: u8, hosts: &[String], now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: hosts.iter().map(|host| GeneralSubtree::DnsName(host.clone())).collect(),
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    });
    (params.not_before, params.not_after) = (now - BEFORE, now + LIFE);
    params
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    const NOW: u64 = 1_795_000_000;

    /// Whether a client that trusts the root believes that a certificate is a host's.
    fn is_believed(authority: &CertificateAuthority, leaf: &CertificateDer<'_>, host: &str, at: u64) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.root().as_bytes()).unwrap()).unwrap();
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), authority.provider.clone());
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at));
        let chain = [authority.intermediate.clone()];
        verifier.build().unwrap().verify_server_cert(leaf, &chain, &name, &[], at).is_ok()
    }

    /// What somebody who has got hold of the intermediate's key would make.
    fn forged(authority: &CertificateAuthority, host: &str) -> CertificateDer<'static> {
        let (key, mut params) = (key().unwrap(), CertificateParams::new([host.to_owned()]).unwrap());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = (authority.now - BEFORE, authority.now + LIFE);
        params.signed_by(&key, &authority.issuer).unwrap().der().clone()
    }

    #[test]
    fn a_command_believes_the_hosts_of_its_routes_and_a_leaked_key_is_good_for_no_other_name_and_no_address() {
        let hosts = ["api.example".to_owned(), "auth.example".to_owned()];
        let mut authority = CertificateAuthority::new(&hosts, NOW).unwrap();
        for host in &hosts {
            authority.server_config(host).unwrap();
            assert!(is_believed(&authority, &forged(&authority, host), host, NOW), "{host}");
        }
        for host in ["evil.example", "example", "apiXexample", "xapi.example", "127.0.0.1", "::1", "8.8.8.8"] {
            assert!(!is_believed(&authority, &forged(&authority, host), host, NOW), "{host}");
        }
        // as X.509 has it
        assert!(is_believed(&authority, &forged(&authority, "x.api.example"), "x.api.example", NOW));
        let leaf = forged(&authority, "api.example");
        let day = 86_400;
        assert!(is_believed(&authority, &leaf, "api.example", NOW - 1800), "a clock that is behind");
        assert!(!is_believed(&authority, &leaf, "api.example", NOW - day));
        assert!(is_believed(&authority, &leaf, "api.example", NOW + 89 * day));
        assert!(!is_believed(&authority, &leaf, "api.example", NOW + 91 * day));
    }

    #[test]
    fn an_address_is_refused_in_words() {
        for host in ["127.0.0.1", "::1", "[::1]"] {
            let error = CertificateAuthority::new(&[host.to_owned()], NOW).unwrap_err();
            assert!(error.to_string().contains("host name"), "{error}");
        }
    }
}
