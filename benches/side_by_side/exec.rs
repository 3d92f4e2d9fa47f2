//! A command of `valetd exec --intercept`, whose proxy the load goes through as the command's own requests would.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::load::{Address, Target};
use crate::origin::Origin;
use crate::peers::{Peer, Program, Via};

/// Tells what a command finds, and then does nothing.
const SCRIPT: &str = "echo \"$https_proxy $VALETD_CA\"; exec sleep 1000";

/// The command. Dropping it ends it.
pub(crate) struct Exec {
    child: Child,
    /// The API's own host, by the command's proxy.
    pub(crate) target: Target,
}

impl Exec {
    pub(crate) fn start(peer: &Peer, program: &Program, origin: &Origin) -> anyhow::Result<Self> {
        let mut command = exec(peer, program, &["--intercept"], &["sh", "-c", SCRIPT])?;
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut told = String::new();
        BufReader::new(child.stdout.take().context("piped")?).read_line(&mut told)?;
        let (proxy, root) = told.trim().split_once(' ').context("exec --intercept has run nothing")?;
        let proxy = proxy.strip_prefix("http://").context("no proxy")?.parse()?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(root)?)?;
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let target = Target {
            address: Address::Tcp(proxy),
            tls: Some(Arc::new(config)),
            tunnel: Some(format!("localhost:{}", origin.tls.port())),
            prefix: String::new(),
            access_token: None,
        };
        Ok(Self { child, target })
    }

    /// The process that has the proxy, not the command's.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// How long a command takes that does nothing, from the start to the end.
pub(crate) fn start(peer: &Peer, program: &Program, option: &str) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let status = exec(peer, program, &[option], &["true"])?.status()?;
    ensure!(status.success(), "exec {option} ended with {status}");
    Ok(begun.elapsed())
}

fn exec(peer: &Peer, program: &Program, options: &[&str], command: &[&str]) -> anyhow::Result<Command> {
    let mut exec = peer.verb(program, "exec")?;
    exec.args(["--route", Via::Tls.name()]).args(options).arg("--").args(command);
    Ok(exec)
}
