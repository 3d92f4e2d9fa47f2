//! Requests, a renewal, a revocation and an outage, one after the other, each shown with what came of it.

use std::path::Path;

use hyper::Method;
use hyper::header::HeaderMap;

use super::page::token_in_words;
use super::reports::{base_url, renewals, until};
use super::servers::{REQUESTS, Servers};
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::print;
use crate::cli::text::printable;
use crate::config::Endpoint;
use crate::control::ControlState;
use crate::control::client::Client;
use crate::control::report::StatusReport;
use crate::http_client::{HttpClient, Outgoing, Reach};

pub(super) async fn show(state: &ControlState, servers: &Servers, socket: &Path) -> Result<Exit, Failure> {
    let report = until(state, "token", |report| report.accounts.iter().all(|account| account.usable)).await?;
    let base = base_url(&report)?;
    print("Both stand-ins are up, and a daemon is signed in to both. No request below carries a credential.\n\n")?;
    for path in REQUESTS {
        request(&base, path).await?;
    }
    print("\nA renewal, now:\n")?;
    let before = renewals(&report);
    refresh(&report, socket).await?;
    let report = until(state, "renewal", |report| renewals(report) >= before + 2).await?;
    for account in &report.accounts {
        print(&format!("  {:<5} {}\n", account.id, token_in_words(account)))?;
    }
    for path in &REQUESTS[..2] {
        request(&base, path).await?;
    }
    print("\nA revocation: the APIs refuse every token that is out. The requests that find out wait for a new one:\n")?;
    servers.revoke();
    for path in &REQUESTS[..2] {
        request(&base, path).await?;
    }
    print("\nAn outage: no authorization server is in order. The tokens stay in use until their end:\n")?;
    servers.break_down(true);
    refresh(&state.report(), socket).await?;
    let report = until(state, "failure", |report| report.accounts.iter().all(|account| account.failures > 0)).await?;
    for account in &report.accounts {
        print(&format!("  {:<5} {}\n", account.id, printable(account.why.as_deref().unwrap_or("no failure"))))?;
    }
    for path in &REQUESTS[..2] {
        request(&base, path).await?;
    }
    servers.break_down(false);
    let is_over = |report: &StatusReport| report.accounts.iter().all(|account| account.usable && account.failures == 0);
    until(state, "recovery", is_over).await?;
    print("  over: renewed again\n")?;
    let errors = state.report().routes.iter().map(|route| route.errors).sum::<u64>();
    if errors > 0 {
        return Err(Failure::say(format!("{errors} requests went wrong")));
    }
    print("\nThat is all of it; `valetd demo` shows it live.\n")?;
    Ok(Exit::Fine)
}

async fn refresh(report: &StatusReport, socket: &Path) -> Result<(), Failure> {
    let mut client = Client::connect(socket).await.map_err(Failure::new)?;
    for account in &report.accounts {
        client.refresh(&account.id).await.map_err(Failure::new)?;
    }
    Ok(())
}

/// One request as a tool makes it: a URL, no credential.
async fn request(base: &str, path: &str) -> Result<(), Failure> {
    let url = format!("{base}{path}");
    let endpoint = Endpoint::parse(&url).map_err(Failure::say)?;
    let outgoing = Outgoing { method: Method::GET, fields: HeaderMap::new(), body: Default::default() };
    let answer = HttpClient::direct().send(&endpoint, Reach::default(), outgoing).await.map_err(Failure::new)?;
    let body = printable(&String::from_utf8_lossy(&answer.body).replace(['\n', '\r'], " "));
    let shown: String = body.chars().take(100).collect();
    let more = if body.chars().count() > 100 { "…" } else { "" };
    print(&format!("$ curl {url}\n{} {shown}{more}\n", answer.status.as_u16()))?;
    if !answer.status.is_success() {
        return Err(Failure::say(format!("{url} answered {}", answer.status)));
    }
    Ok(())
}
