//! Python programs as clients, since those are what many users of an API have. What they do is in `session.py`.

use std::process::Stdio;

use anyhow::{Context, ensure};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::load::Target;
use crate::origin::Origin;

const PROGRAM: &str = include_str!("session.py");

pub(crate) fn version() -> anyhow::Result<String> {
    let told = std::process::Command::new("python3").arg("--version").output().context("python3 does not start")?;
    ensure!(told.status.success(), "python3 --version: {}", told.status);
    Ok(String::from_utf8_lossy(&told.stdout).trim().to_owned())
}

/// Gets `/small` from one Python program, in a new session each time; how long each took, in milliseconds. With `login`, the
/// URL of a token endpoint, it gets itself a token before each.
pub(crate) async fn sessions(
    target: &Target,
    login: Option<String>,
    calls: usize,
    origin: &Origin,
) -> anyhow::Result<Vec<f64>> {
    let order = json!({
        "url": target.url("/small"),
        "calls": calls,
        "token": target.access_token,
        "login": login,
        "authority": origin.authority,
    });
    // isolated (-I) from whatever this person's Python is set up to do, and from a proxy that the environment may name
    let mut python = Command::new("python3")
        .args(["-I", "-c", PROGRAM])
        .env("no_proxy", "*")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut order_in = python.stdin.take().context("it is piped")?;
    order_in.write_all(order.to_string().as_bytes()).await?;
    drop(order_in);
    let done = python.wait_with_output().await?;
    let complaint = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "python3: {}", complaint.lines().last().unwrap_or("it said nothing"));
    Ok(serde_json::from_slice(&done.stdout)?)
}
