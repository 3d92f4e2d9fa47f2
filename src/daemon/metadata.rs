//! Keeps what is known of issuers fresh: fetched where nothing is known, and once a day.
//!
//! What is found comes into force by a reload, as everything that a configuration means. Metadata that would have credentials
//! sent to another server are not taken over: that needs a sign-in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::advice::advised;
use crate::config::{Account, AccountId, Config};
use crate::control::ReloadRequest;
use crate::discovery::{self, kept};
use crate::http_client::HttpClient;
use crate::oauth::metadata::Kept;
use crate::platform::clock::unix_seconds;
use crate::shutdown::Shutdown;

/// From the first failure to the next try; doubled each time. A laptop that has just been opened has no network yet.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause: an hour, as the server may be away for days.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// What it needs.
pub(super) struct Parts {
    pub(super) config: watch::Receiver<Arc<Config>>,
    pub(super) state_dir: PathBuf,
    pub(super) reload: mpsc::Sender<ReloadRequest>,
}

/// When an account's issuer is asked again after it failed.
struct Failed {
    again: Instant,
    pause: Duration,
}

/// Runs until the stop has started.
pub(super) async fn follow(parts: Parts, mut shutdown: Shutdown) {
    let Parts { mut config, state_dir, reload } = parts;
    let http = HttpClient::from_environment();
    let mut failed: BTreeMap<AccountId, Failed> = BTreeMap::new();
    loop {
        let now = config.borrow_and_update().clone();
        let accounts: Vec<&Account> = now.accounts.values().filter(|account| account.server.issuer.is_some()).collect();
        failed.retain(|id, _| accounts.iter().any(|account| account.id == *id));
        let (mut due, mut is_news) = (None, false);
        for account in accounts {
            let look = async { refresh(&http, &state_dir, account, failed.get(&account.id)).await };
            let outcome = tokio::select! {
                () = shutdown.started() => return,
                outcome = look => outcome,
            };
            let next = match outcome {
                Outcome::Known { until } => {
                    failed.remove(&account.id);
                    until
                }
                Outcome::Waits(again) => again,
                Outcome::News => {
                    failed.remove(&account.id);
                    is_news = true;
                    Instant::now() + Duration::from_secs(Kept::a_day())
                }
                Outcome::Failed(why) => {
                    let pause = failed.get(&account.id).map_or(FIRST_PAUSE, |failed| failed.pause * 2);
                    let pause = pause.min(LONGEST_PAUSE);
                    warn!(account = %account.id, error = %why, again_in = ?pause, "the issuer's metadata cannot be had");
                    let again = Instant::now() + pause;
                    failed.insert(account.id.clone(), Failed { again, pause });
                    again
                }
            };
            due = Some(due.map_or(next, |due: Instant| due.min(next)));
        }
        if is_news {
            let (reply, replied) = oneshot::channel();
            if reload.send(reply).await.is_err() {
                return;
            }
            tokio::select! {
                () = shutdown.started() => return,
                _ = replied => {}
            }
            continue; // with the configuration that is in force now
        }
        let pause = async {
            match due {
                // timers stand still while the machine sleeps: look now and then whether it is time
                Some(due) => sleep_until(due.min(Instant::now() + LONGEST_PAUSE)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.started() => return,
            changed = config.changed() => if changed.is_err() { return },
            () = pause => {}
        }
    }
}

/// What became of one look at an account's issuer.
enum Outcome {
    /// What is kept is good, for so long.
    Known { until: Instant },
    /// It failed, and it is not time yet.
    Waits(Instant),
    /// There is something new, which is kept, and not yet in force.
    News,
    /// Why there is no response that could be believed.
    Failed(String),
}

async fn refresh(
    http: &HttpClient,
    state_dir: &std::path::Path,
    account: &Account,
    failed: Option<&Failed>,
) -> Outcome {
    let Some(issuer) = &account.server.issuer else { return Outcome::Waits(Instant::now() + LONGEST_PAUSE) };
    let before = kept::of(state_dir, &account.id, issuer);
    // one that was fetched in the future was fetched before the clock was set
    let age = before.as_ref().and_then(|kept| unix_seconds().checked_sub(kept.fetched_at));
    let fresh_for = before.as_ref().map_or(0, |kept| kept.fresh_for.min(Kept::a_day()));
    if let Some(left) = age.and_then(|age| fresh_for.checked_sub(age)).filter(|left| *left > 0) {
        return Outcome::Known { until: Instant::now() + Duration::from_secs(left) };
    }
    if let Some(failed) = failed.filter(|failed| failed.again > Instant::now()) {
        return Outcome::Waits(failed.again);
    }
    let found = match discovery::metadata_of(http, issuer, discovery::reach(account), before.as_ref()).await {
        Ok(found) => found,
        Err(why) => return Outcome::Failed(why),
    };
    let moved = before.as_ref().and_then(|before| kept::moved_to(issuer, &before.metadata, &found.metadata));
    let found = match (moved, &before) {
        (Some(server), Some(before)) => {
            warn!(account = %account.id, %server, "the issuer names another server for refresh tokens now, which is not \
                followed without a person: run `{}`", advised(format_args!("login {}", account.id)));
            kept::found_now(before.metadata.clone())
        }
        _ => found,
    };
    if let Err(error) = kept::keep(state_dir, &account.id, &found) {
        return Outcome::Failed(error.to_string());
    }
    let is_news = before.is_none_or(|Kept { metadata, .. }| metadata != found.metadata);
    match is_news {
        true => {
            info!(account = %account.id, issuer = issuer.as_str(), "what is known of the issuer has changed");
            Outcome::News
        }
        false => Outcome::Known { until: Instant::now() + Duration::from_secs(found.fresh_for) },
    }
}
