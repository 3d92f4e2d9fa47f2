//! The verbs of an account's registered client (RFC 7591): the store that has it is the daemon's, and may be sealed; the
//! sign-in that needs its secret, and the removal that takes it back, run in the person's own process.
//!
//! What is handed out is the client's own secret and no token: as tokens it stays here while somebody has locked, and while
//! the store is.

use hyper::StatusCode;
use hyper::body::Bytes;
use tracing::info;

use super::answer::{Answer, Done, bad_request, json, text};
use super::problem::{Problem, kind};
use super::seal_verbs::store_locked;
use super::state::ControlState;
use crate::config::AccountId;
use crate::oauth::ClientAuth;
use crate::oauth::rfc7591::Registration;
use crate::store::{Store, StoreError};

/// The account of a path. It need not be one of the configuration: a sign-in may be ahead of that, and a removal behind.
fn account(id: &str) -> Result<AccountId, Problem> {
    AccountId::new(id).ok_or_else(|| {
        Problem::new(404, kind::NO_SUCH_ACCOUNT, "no such account", "the path has no account's name in it")
    })
}

pub(super) async fn show(state: &ControlState, id: &str) -> Result<Answer, Problem> {
    let account = account(id)?;
    if state.accounts.is_locked() || state.store.is_held() {
        return Err(store_locked(state, "nothing secret leaves while valetd is locked".to_owned()));
    }
    let name = account.clone();
    let found = work(state, move |store| store.registration(&name)).await?;
    let detail = || format!("no client is registered for {account}");
    let found = found.ok_or_else(|| Problem::new(404, kind::NO_SUCH_CLIENT, "no such client", detail()))?;
    info!(%account, "the secrets of its registered client were asked for over the control socket");
    Ok(text(StatusCode::OK, "application/json", found.write(account.as_str()).expose().to_owned()))
}

pub(super) async fn keep(state: &ControlState, id: &str, body: &Bytes) -> Result<Answer, Problem> {
    let account = account(id)?;
    // one that is sealed, say, would be one without its secret
    let is_whole = |found: &Registration| found.client_secret.is_some() || found.client.client_auth == ClientAuth::None;
    let registration = Registration::read_file(body, account.as_str())
        .filter(is_whole)
        .ok_or_else(|| bad_request("not a registration of this account"))?;
    info!(%account, "a registered client was handed in over the control socket");
    work(state, move |store| store.keep_registration(&account, &registration)).await?;
    Ok(json(StatusCode::OK, &Done { message: "the client is kept".to_owned() }))
}

pub(super) async fn forget(state: &ControlState, id: &str) -> Result<Answer, Problem> {
    let account = account(id)?;
    info!(%account, "its registered client was to be forgotten over the control socket");
    work(state, move |store| store.forget_registration(&account)).await?;
    Ok(json(StatusCode::OK, &Done { message: "the client is forgotten".to_owned() }))
}

/// What waits for the disk, while others are answered.
async fn work<T: Send + 'static>(
    state: &ControlState,
    work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Problem> {
    let store = state.store.clone();
    let refused = |detail| Problem::new(409, kind::REFUSED, "that cannot be done now", detail);
    let done = tokio::task::spawn_blocking(move || work(&store)).await;
    done.map_err(|_| refused("it ended badly".to_owned()))?.map_err(|error| match error {
        StoreError::Locked { .. } => store_locked(state, error.to_string()),
        StoreError::Client { .. } | StoreError::KeyGone { .. } | StoreError::Corrupt { .. } => {
            Problem::new(409, kind::CLIENT_UNUSABLE, "the registered client is of no use", error.to_string())
        }
        StoreError::Folder(_)
        | StoreError::Held { .. }
        | StoreError::Io { .. }
        | StoreError::NotOurFile { .. }
        | StoreError::Newer { .. }
        | StoreError::OtherMachine { .. }
        | StoreError::OlderCopy { .. }
        | StoreError::Stale { .. } => refused(error.to_string()),
    })
}
