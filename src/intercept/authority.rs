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
        Self::within(Some(constraints(hosts)), now)
    }

    fn within(constraints: Option<NameConstraints>, now: u64) -> Result<Self, AuthorityError> {
        let now = i64::try_from(now).ok().and_then(|now| OffsetDateTime::from_unix_timestamp(now).ok());
        let now = now.ok_or_else(|| AuthorityError::Made("the clock is beyond the calendar".to_owned()))?;
        let root_key = key()?;
        let root = authority("valetd exec, root", 1, constraints.clone(), now);
        let certificate = root.self_signed(&root_key).map_err(made)?;
        let root_issuer = Issuer::new(root, root_key); // dropped at the end of this function
        let (key, mut params) = (key()?, authority("valetd exec", 0, constraints, now));
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

/// These hosts, what is below them, and no address.
fn constraints(hosts: &[String]) -> NameConstraints {
    NameConstraints {
        permitted_subtrees: hosts.iter().map(|host| GeneralSubtree::DnsName(host.clone())).collect(),
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    }
}

fn authority(name: &str, below: u8, constraints: Option<NameConstraints>, now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.name_constraints = constraints;
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

    /// Serves TLS with a certificate that somebody has made who has the intermediate's key. Returns the port.
    fn serve(authority: &CertificateAuthority, host: &str) -> u16 {
        let (key, mut params) = (key().unwrap(), CertificateParams::new([host.to_owned()]).unwrap());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = (authority.now - BEFORE, authority.now + LIFE);
        let leaf = params.signed_by(&key, &authority.issuer).unwrap().der().clone();
        let config = ServerConfig::builder_with_provider(authority.provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf, authority.intermediate.clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let config = Arc::new(config);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let connection = rustls::ServerConnection::new(config.clone()).unwrap();
                let mut tls = rustls::StreamOwned::new(connection, stream);
                let mut request = [0; 4096];
                if std::io::Read::read(&mut tls, &mut request).is_ok() {
                    let response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
                    let _ = std::io::Write::write_all(&mut tls, response);
                    tls.conn.send_close_notify();
                    let _ = tls.conn.complete_io(&mut tls.sock);
                }
            }
        });
        port
    }

    /// Each implementation of TLS, as a shell's script that succeeds if it believes `$HOST` at `$PORT` by `$ROOT`.
    const BELIEVERS: [(&str, &str, &str); 8] = [
        (
            "OpenSSL",
            "openssl",
            "openssl s_client -connect 127.0.0.1:$PORT -servername $HOST -verify_return_error $VERIFY $HOST -CAfile $ROOT",
        ),
        ("curl", "curl", "curl -sS --cacert $ROOT --resolve $HOST:$PORT:127.0.0.1 https://$URLHOST:$PORT/"),
        ("GnuTLS", "gnutls-cli", "gnutls-cli --x509cafile $ROOT --verify-hostname $HOST -p $PORT 127.0.0.1"),
        (
            "NSS",
            "tstclnt",
            "N=sql:$FOLDER/nss-$PORT && mkdir $FOLDER/nss-$PORT && certutil -N -d $N --empty-password && \
          certutil -A -d $N -n a -t C,, -i $ROOT && tstclnt -h 127.0.0.1 -a $HOST -p $PORT -d $N -4 -Q",
        ),
        (
            "Python",
            "python3",
            "python3 -c \"import socket,ssl,os; c=ssl.create_default_context(cafile=os.environ['ROOT']); \
          c.wrap_socket(socket.create_connection(('127.0.0.1',int(os.environ['PORT']))),server_hostname=os.environ['HOST'])\"",
        ),
        (
            "Node",
            "node",
            "node -e \"const e=process.env; require('tls').connect({host:'127.0.0.1',port:e.PORT,\
          servername:/[:]|^[0-9.]+$/.test(e.HOST)?undefined:e.HOST,ca:require('fs').readFileSync(e.ROOT),\
          checkServerIdentity:(h,c)=>require('tls').checkServerIdentity(e.HOST,c)},()=>process.exit(0)).on('error',\
          ()=>process.exit(1))\"",
        ),
        ("Go", "go", "cd $FOLDER && GO111MODULE=off GOCACHE=$FOLDER/cache go run a.go"),
        (
            "Java",
            "keytool",
            "cd $FOLDER && rm -f store && keytool -importcert -noprompt -alias a -storepass changeit -file $ROOT \
          -keystore store >/dev/null 2>&1 && java -Djavax.net.ssl.trustStore=store \
          -Djavax.net.ssl.trustStorePassword=changeit A.java",
        ),
    ];

    #[test]
    fn no_implementation_of_tls_believes_a_leaked_key_beyond_the_routes_hosts() {
        let now = crate::platform::clock::unix_seconds();
        let ours = CertificateAuthority::new(&["api.example".to_owned()], now).unwrap();
        // without constraints each of them is believed, so that it is these that are seen to hold
        let anybodys = CertificateAuthority::within(None, now).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let go = "package main\nimport (\"crypto/tls\"; \"crypto/x509\"; \"os\")\nfunc main() { p := x509.NewCertPool(); b, _ := \
                  os.ReadFile(os.Getenv(\"ROOT\")); p.AppendCertsFromPEM(b); _, e := tls.Dial(\"tcp\", \"127.0.0.1:\" + \
                  os.Getenv(\"PORT\"), &tls.Config{RootCAs: p, ServerName: os.Getenv(\"HOST\")}); if e != nil { panic(e) } }\n";
        let java = "import javax.net.ssl.*; public class A { public static void main(String[] a) throws Exception { String h = \
                    System.getenv(\"HOST\"); int p = Integer.parseInt(System.getenv(\"PORT\")); SSLSocketFactory f = \
                    (SSLSocketFactory) SSLSocketFactory.getDefault(); SSLSocket s = (SSLSocket) f.createSocket(new \
                    java.net.Socket(\"127.0.0.1\", p), h, p, true); SSLParameters q = s.getSSLParameters(); \
                    q.setEndpointIdentificationAlgorithm(\"HTTPS\"); s.setSSLParameters(q); s.startHandshake(); } }";
        std::fs::write(folder.path().join("a.go"), go).unwrap();
        std::fs::write(folder.path().join("A.java"), java).unwrap();
        let hosts = [("api.example", true), ("evil.example", false), ("127.0.0.1", false)];
        let by = |authority: &CertificateAuthority, name: &str, is_ours: bool| {
            let root = folder.path().join(name);
            std::fs::write(&root, authority.root()).unwrap();
            hosts.map(|(host, good)| (root.clone(), host, good || !is_ours, serve(authority, host)))
        };
        let served = [by(&ours, "ours.pem", true), by(&anybodys, "anybodys.pem", false)].concat();
        for (name, program, script) in BELIEVERS {
            let is_there = std::process::Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
            if !is_there.is_ok_and(|output| output.status.success()) {
                eprintln!("skipped: {name}, as {program} is not installed");
                continue;
            }
            for (root, host, good, port) in &served {
                let verify = if is_address(host) { "-verify_ip" } else { "-verify_hostname" };
                let output = std::process::Command::new("timeout")
                    .args(["60", "sh", "-c", script])
                    .env("ROOT", root)
                    .env("FOLDER", folder.path())
                    .env("HOST", host)
                    .env("URLHOST", host)
                    .env("PORT", port.to_string())
                    .env("VERIFY", verify)
                    .env_remove("SSL_CERT_FILE")
                    .stdin(std::process::Stdio::null())
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert_eq!(output.status.success(), *good, "{name}: {host} by {}: {said}", root.display());
            }
        }
    }
}
