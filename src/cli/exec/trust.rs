//! What a command is told to trust, and how programs are told.
//!
//! A variable that takes the place of what a program trusts names what was trusted before, and our root besides; one that
//! adds to it names our root alone.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Variables whose file a program trusts in place of all others: OpenSSL and what is built on it, curl, requests, git, pip,
/// boto3, cargo, Perl's LWP, gcloud, gRPC, httplib2, R, Nix, Ruby's bundler, GDAL and PROJ (rasterio has them trust certifi's where these are not set).
const REPLACING: [&str; 16] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "PERL_LWP_SSL_CA_FILE",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "HTTPLIB2_CA_CERTS",
    "NIX_SSL_CERT_FILE",
    "BUNDLE_SSL_CA_CERT",
    "JULIA_SSL_CA_ROOTS_PATH",
    "GDAL_CURL_CA_BUNDLE",
    "PROJ_CURL_CA_BUNDLE",
];

/// Variables whose file a program trusts besides: Node (npm included) and Deno.
const ADDING: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

/// Names the file with our root alone, for programs that are told by an option, or by a store of their own.
const ALONE: &str = "VALETD_CA";

/// Variables without which a program does not listen to the proxy's: Node from 22.21 and 24.0 on, Perl's LWP.
const SWITCHES: [(&str, &str); 2] = [("NODE_USE_ENV_PROXY", "1"), ("PERL_LWP_ENV_PROXY", "1")];

/// The files of one command, which go with it.
#[derive(Debug)]
pub(super) struct Bundles {
    made: Vec<PathBuf>,
    /// Our root alone.
    alone: String,
    /// Variables and their values.
    pub(super) variables: Vec<(String, String)>,
}

impl Drop for Bundles {
    #[expect(clippy::disallowed_methods, reason = "files of the command alone")]
    fn drop(&mut self) {
        for path in &self.made {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Bundles {
    /// Writes what is to be trusted: `root`, a PEM, and beside it what `variable` names, or what the system trusts.
    ///
    /// # Errors
    ///
    /// The system's, with the file.
    pub(super) fn write(folder: &Path, root: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let mut bundles = Self { made: Vec::new(), alone: String::new(), variables: Vec::new() };
        bundles.alone = bundles.add(folder, root)?;
        for name in ADDING {
            // there is one file, and another may be named already
            let value = match variable(name).and_then(|file| std::fs::read_to_string(file).ok()) {
                Some(before) => bundles.add(folder, &joined(&before, root))?,
                None => bundles.alone.clone(),
            };
            bundles.variables.push((name.to_owned(), value));
        }
        let mut known: BTreeMap<Option<String>, String> = BTreeMap::new();
        for name in REPLACING {
            let before = variable(name).filter(|file| !file.is_empty() && Path::new(file).is_file());
            let value = match known.get(&before) {
                Some(value) => value.clone(),
                None => {
                    let trusted = match &before {
                        Some(file) => {
                            std::fs::read_to_string(file).map_err(|error| format!("{name}={file}: {error}"))?
                        }
                        None => systems(),
                    };
                    let value = bundles.add(folder, &joined(&trusted, root))?;
                    known.insert(before, value.clone());
                    value
                }
            };
            bundles.variables.push((name.to_owned(), value));
        }
        bundles.variables.push((ALONE.to_owned(), bundles.alone.clone()));
        bundles.variables.extend(SWITCHES.map(|(name, value)| (name.to_owned(), value.to_owned())));
        Ok(bundles)
    }

    /// The file that a variable names.
    pub(super) fn of(&self, variable: &str) -> Option<&str> {
        self.variables.iter().find(|(name, _)| name == variable).map(|(_, value)| value.as_str())
    }

    /// What Java is told: a store with what it trusts already and our root, made by its own keytool, and the proxy.
    ///
    /// # Errors
    ///
    /// A sentence, if there is no Java, or its keytool does not take the certificate.
    pub(super) fn for_java(
        &mut self,
        proxy: SocketAddr,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<String, String> {
        let home = match variable("JAVA_HOME").filter(|home| !home.is_empty()) {
            Some(home) => PathBuf::from(home),
            None => java_home()?,
        };
        let store = Path::new(&self.alone).with_extension("p12");
        let before = home.join("lib/security/cacerts");
        copy(&before, &store).map_err(|error| format!("{}: {error}", before.display()))?;
        self.made.push(store.clone());
        let mut keytool = Command::new(home.join("bin/keytool"));
        keytool.args([
            "-importcert",
            "-noprompt",
            "-alias",
            "valetd-exec",
            "-storepass",
            "changeit",
            "-file",
            &self.alone,
        ]);
        let output = keytool.arg("-keystore").arg(&store).output().map_err(|error| format!("keytool: {error}"))?;
        if !output.status.success() {
            return Err(format!("keytool: {}", String::from_utf8_lossy(&output.stdout).trim()));
        }
        let (host, port) = (proxy.ip(), proxy.port());
        let mut options = variable("JAVA_TOOL_OPTIONS").map(|before| before + " ").unwrap_or_default();
        options.push_str(&format!(
            "-Djavax.net.ssl.trustStore={} -Djavax.net.ssl.trustStorePassword=changeit -Dhttps.proxyHost={host} \
             -Dhttps.proxyPort={port} -Dhttp.proxyHost={host} -Dhttp.proxyPort={port} \
             -Dhttp.nonProxyHosts=localhost|127.*|[::1]",
            store.display()
        ));
        Ok(options)
    }

    fn add(&mut self, folder: &Path, text: &str) -> Result<String, String> {
        let path = folder.join(format!("trust-{}.pem", self.made.len()));
        make(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        self.made.push(path.clone());
        path.into_os_string().into_string().map_err(|path| format!("{} is not UTF-8", path.display()))
    }
}

#[expect(clippy::disallowed_methods, reason = "nothing secret, and nothing that must outlive a crash")]
fn make(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(text.as_bytes())
}

/// Where the Java is that is called by that name.
fn java_home() -> Result<PathBuf, String> {
    let output = Command::new("java").args(["-XshowSettings:properties", "-version"]).output();
    let output = output.map_err(|error| format!("java: {error} (JAVA_HOME may name another)"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let home = said.lines().find_map(|line| line.trim().strip_prefix("java.home = "));
    home.map(PathBuf::from).ok_or_else(|| "java does not say where it is: set JAVA_HOME".to_owned())
}

#[expect(clippy::disallowed_methods, reason = "nothing secret, and nothing that must outlive a crash")]
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let content = std::fs::read(from)?;
    let _ = std::fs::remove_file(to);
    std::fs::write(to, content)
}

fn joined(before: &str, root: &str) -> String {
    let line = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    format!("{before}{line}{root}")
}

/// The system's authorities as PEM, wherever it keeps them.
fn systems() -> String {
    let mut text = String::new();
    for certificate in rustls_native_certs::load_native_certs().certs {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(&*certificate);
        for line in encoded.as_bytes().chunks(64) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exec::clients;

    #[test]
    fn the_table_in_the_help_has_what_a_command_is_told_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let bundles = Bundles::write(folder.path(), "ROOT\n", |_| None).unwrap();
        let told: Vec<&str> = bundles.variables.iter().map(|(name, _)| name.as_str()).collect();
        for name in told.iter().filter(|name| **name != ALONE) {
            assert!(clients::names(name), "{name} is set, and in no row");
        }
        let table = clients::table();
        let variables = table.split_whitespace().filter(|word| {
            word.len() > 5 && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
        });
        for name in variables {
            assert!(told.contains(&name), "{name} is in the table, and is not set");
        }
    }

    #[test]
    fn what_was_trusted_before_still_is_and_files_go_with_the_command() {
        let folder = tempfile::tempdir().unwrap();
        let corporate = folder.path().join("corporate.pem");
        std::fs::write(&corporate, "CORPORATE").unwrap();
        let runtime = folder.path().join("run");
        let set = |name: &str| match name {
            "REQUESTS_CA_BUNDLE" | "NODE_EXTRA_CA_CERTS" => Some(corporate.display().to_string()),
            "PIP_CERT" => Some("/there/is/no/such.pem".to_owned()),
            _ => None,
        };
        std::fs::create_dir(&runtime).unwrap();
        let bundles = Bundles::write(&runtime, "ROOT\n", set).unwrap();
        let content = |name: &str| {
            let (_, file) = bundles.variables.iter().find(|(variable, _)| variable == name).unwrap();
            std::fs::read_to_string(file).unwrap()
        };
        assert_eq!(content("REQUESTS_CA_BUNDLE"), "CORPORATE\nROOT\n");
        assert_eq!(content("NODE_EXTRA_CA_CERTS"), "CORPORATE\nROOT\n");
        assert_eq!((content("DENO_CERT"), content("VALETD_CA")), ("ROOT\n".to_owned(), "ROOT\n".to_owned()));
        for name in ["SSL_CERT_FILE", "PIP_CERT", "GIT_SSL_CAINFO"] {
            assert!(content(name).ends_with("ROOT\n"), "{name}");
        }
        assert_eq!(content("SSL_CERT_FILE"), content("PIP_CERT"));
        drop(bundles);
        assert_eq!(std::fs::read_dir(&runtime).unwrap().count(), 0);
    }
}
