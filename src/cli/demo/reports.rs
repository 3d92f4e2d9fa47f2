//! What the demonstration reads in the daemon's status.

use std::time::Duration;

use crate::cli::failure::Failure;
use crate::cli::text::length;
use crate::control::ControlState;
use crate::control::report::{AccountReport, StatusReport};

/// Waits until the accounts are as wanted.
pub(super) async fn until(
    state: &ControlState,
    what: &str,
    wanted: impl Fn(&StatusReport) -> bool,
) -> Result<StatusReport, Failure> {
    const PATIENCE: Duration = Duration::from_secs(20);
    let mut accounts = state.accounts.clone();
    let found = async {
        loop {
            let report = state.report();
            if wanted(&report) {
                return Ok(report);
            }
            accounts.changed().await.map_err(Failure::new)?;
        }
    };
    let late = |_| Failure::say(format!("no {what} within {}", length(PATIENCE.as_secs())));
    tokio::time::timeout(PATIENCE, found).await.map_err(late)?
}

/// The first address that all routes are served on, as a URL without a path.
pub(super) fn base_url(report: &StatusReport) -> Result<String, Failure> {
    let address = report.daemon.listen.first().ok_or_else(|| Failure::say("the daemon listens nowhere"))?;
    Ok(format!("http://{}", address.replace("127.0.0.1", "localhost")))
}

pub(super) fn renewals(report: &StatusReport) -> u64 {
    report.accounts.iter().map(|account: &AccountReport| account.renewals).sum()
}
