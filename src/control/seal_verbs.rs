//! The verbs of the store's seal: to change it, and to open a store whose key was away.

use std::time::Duration;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::answer::{Answer, Done, bad_request, json, stopping};
use super::problem::{Problem, kind};
use super::state::ControlState;
use crate::accounts::{AccountView, Withholding};
use crate::advice::advised;
use crate::config::AccountId;
use crate::key_source::{KeySources, Kind};
use crate::platform::clock::unix_seconds;
use crate::secret::Secret;
use crate::store::{Adoption, Left, SealChange, SealChanged, SealError, Store};

/// What `POST /v1/seal` takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealOrder {
    change: SealChange,
    /// What the key is to be kept by, where that is a passphrase.
    #[serde(default)]
    passphrase: Option<Secret>,
}

/// What `POST /v1/unlock` takes: how the store is to be opened; by its own source, if nothing is said.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnlockOrder {
    recovery_code: Option<Secret>,
    passphrase: Option<Secret>,
}

/// What both answer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SealAnswer {
    /// What is so now, in sentences.
    pub said: Vec<String>,
    /// What was left as it was, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
    /// The recovery code, this once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_code: Option<String>,
}

impl SealAnswer {
    /// What has become of a change.
    pub(crate) fn new(changed: SealChanged) -> Self {
        let SealChanged { said, left: Left(left), recovery_code, lay_in_the_clear: _ } = changed;
        Self { said, left, recovery_code: recovery_code.map(|code| code.expose().to_owned()) }
    }
}

pub(super) async fn change(state: &ControlState, body: &[u8]) -> Result<Answer, Problem> {
    let example = r#"{"change": "on"}, or "off", "rotate", "recovery""#;
    let SealOrder { change, passphrase } = serde_json::from_slice(body)
        .map_err(|_| bad_request("not the expected JSON").with_remedy(format!("send {example}")))?;
    info!(?change, "a change of the store's seal was asked for over the control socket");
    let changed =
        work(state, passphrase, move |store, sources| store.change_seal(change, sources, unix_seconds())).await?;
    let mut said = Vec::new();
    if changed.lay_in_the_clear {
        said.push(spend_what_lay_in_the_clear(state).await);
    }
    state.accounts.look_again().await;
    let mut answer = SealAnswer::new(changed);
    answer.said.extend(said);
    Ok(json(StatusCode::OK, &answer))
}

pub(super) async fn unlock(state: &ControlState, body: &[u8]) -> Result<Answer, Problem> {
    let order: UnlockOrder = match body {
        [] => UnlockOrder::default(),
        body => serde_json::from_slice(body).map_err(|_| {
            bad_request("not the expected JSON").with_remedy(r#"send nothing, or {"recovery_code": "..."}"#)
        })?,
    };
    info!("the store was to be opened over the control socket");
    let UnlockOrder { recovery_code, passphrase } = order;
    let is_locked = state.accounts.views().iter().any(is_locked);
    let opened = work(state, passphrase, move |store, sources| match recovery_code {
        Some(code) => Ok((store.recover(&code, sources)?, Vec::new())),
        // what a person has locked with a passphrase at hand, only that passphrase unlocks
        None if is_locked && is_behind_a_passphrase(store) && !store.opens(|kind, blob| sources.secret(kind, blob)) => {
            Err(SealError::Locked("that takes the passphrase".to_owned()))
        }
        None => {
            let Left(left) = store.unlock(|kind, blob| sources.secret(kind, blob))?;
            Ok((vec!["the store is open".to_owned()], left))
        }
    });
    let (mut said, left) = opened.await?;
    state.store.let_go();
    state.accounts.look_again().await;
    state.accounts.unlock().await.map_err(|_| stopping())?;
    said.push("tokens are handed out".to_owned());
    Ok(json(StatusCode::OK, &SealAnswer { said, left, recovery_code: None }))
}

/// What `POST /v1/accounts/{id}/adopt` takes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AdoptOrder {
    pub(super) adoption: Adoption,
}

/// Has a record used here that was last used on another machine.
pub(super) async fn adopt(state: &ControlState, account: AccountId, body: &[u8]) -> Result<Answer, Problem> {
    let example = r#"{"adoption": "by-this-machine"}, or "by-any-machine""#;
    let AdoptOrder { adoption } = serde_json::from_slice(body)
        .map_err(|_| bad_request("not the expected JSON").with_remedy(format!("send {example}")))?;
    info!(%account, ?adoption, "a credential of another machine was adopted over the control socket");
    let invocation = state.facts.borrow().invocation.clone();
    let login = format!("{invocation} login {account}");
    let adopted = work(state, None, move |store, _| Ok(store.adopt(&account, adoption)?)).await?;
    if !adopted {
        let problem = Problem::new(409, kind::REFUSED, "that cannot be done now", "nobody has signed in");
        return Err(problem.with_remedy(login));
    }
    state.accounts.look_again().await;
    Ok(json(StatusCode::OK, &Done { message: "used here from now on".to_owned() }))
}

fn is_locked(view: &AccountView) -> bool {
    view.withheld.as_ref().is_some_and(|withheld| withheld.cause == Withholding::Locked)
}

fn is_behind_a_passphrase(store: &Store) -> bool {
    store.seal_state().sealed.is_some_and(|sealed| sealed.source == Kind::Passphrase.name())
}

/// What `POST /v1/lock` takes.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LockOrder {
    /// Whether the key and the refresh tokens are forgotten, too.
    #[serde(default)]
    pub(super) all: bool,
}

/// What was begun before the lock may take so long: that of a slow authorization server.
const FORGETTING: Duration = Duration::from_secs(30);

/// How often it is looked whether it has ended.
const GLANCE: Duration = Duration::from_millis(100);

/// Hands out no token until somebody unlocks.
pub(super) async fn lock(state: &ControlState, body: &[u8]) -> Result<Answer, Problem> {
    let LockOrder { all } = match body {
        [] => LockOrder::default(),
        body => serde_json::from_slice(body)
            .map_err(|_| bad_request("not the expected JSON").with_remedy(r#"send nothing, or {"all": true}"#))?,
    };
    info!(all, "a lock was asked for over the control socket");
    let refused = |detail: String| Problem::new(409, kind::REFUSED, "that cannot be done now", detail);
    if all && !is_sealed(state) {
        return Err(refused(NOT_SEALED.to_owned()).with_remedy("without --all, no token leaves either"));
    }
    state.accounts.lock().await.map_err(|_| stopping())?;
    let mut said = vec!["locked: no token leaves, and what was open has ended".to_owned()];
    if all {
        forget(state, "somebody has locked it").await.map_err(refused)?;
        said.push(format!(
            "the key and the refresh tokens are forgotten: nothing is renewed until {}",
            advised("unlock")
        ));
    } else {
        said.push("renewals go on".to_owned());
    }
    said.push(match is_behind_a_passphrase(&state.store) {
        true => "it takes the passphrase to unlock; a restart of the daemon asks for it, too".to_owned(),
        false => format!("it is a switch and no wall: any program of this user can say {}", advised("unlock")),
    });
    Ok(json(StatusCode::OK, &SealAnswer { said, left: Vec::new(), recovery_code: None }))
}

const NOT_SEALED: &str = "the store is not sealed: its credentials can be read again by anybody who can read the disk";

fn is_sealed(state: &ControlState) -> bool {
    state.store.seal_state().sealed.is_some()
}

/// The same because of a setting. What cannot be forgotten is locked all the same.
///
/// # Errors
///
/// Why not all was done, in a sentence.
pub(crate) async fn lock_by_itself(state: &ControlState, all: bool) -> Result<(), String> {
    state.accounts.lock().await.map_err(|error| error.to_string())?;
    match all {
        false => Ok(()),
        true if is_sealed(state) => forget(state, "it has locked itself, as store.lock says").await,
        true => Err(format!("{NOT_SEALED}; store.lock.all has no effect before {}", advised("seal on"))),
    }
}

/// Forgets the key and the refresh tokens, for this reason.
async fn forget(state: &ControlState, why: &str) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + FORGETTING;
    // a refresh token that is on its way is saved first
    while let Err(error) = state.accounts.forget(why).await {
        if tokio::time::Instant::now() > deadline {
            return Err(format!("no token leaves, but the key is still here: {error}"));
        }
        tokio::time::sleep(GLANCE).await;
    }
    state.store.forget_keys(why);
    Ok(())
}

/// What takes its time, for sources and the disk, while others are answered.
async fn work<T: Send + 'static>(
    state: &ControlState,
    passphrase: Option<Secret>,
    work: impl FnOnce(&Store, &KeySources) -> Result<T, SealError> + Send + 'static,
) -> Result<T, Problem> {
    let store = state.store.clone();
    let sources = KeySources::new(&state.config.borrow().store, &state.facts.borrow().state_dir);
    let sources = sources.with_passphrase(passphrase);
    let refused = |detail| Problem::new(409, kind::REFUSED, "that cannot be done now", detail);
    let done = tokio::task::spawn_blocking(move || work(&store, &sources)).await;
    match done.map_err(|_| refused("it ended badly".to_owned()))? {
        Ok(done) => Ok(done),
        Err(error) => {
            warn!(%error, "the store's seal is as it was");
            let words = error.to_string();
            Err(match error {
                SealError::Locked(_) => Problem::new(503, kind::STORE_LOCKED, "the store is locked", words)
                    .with_remedy(format!("{} unlock", state.facts.borrow().invocation)),
                SealError::NoSource(_) | SealError::NotSealed | SealError::NoRandomness | SealError::Store(_) => {
                    refused(words)
                }
            })
        }
    }
}

/// A refresh token that lay on the disk in the clear may still be found there, or in a backup: where the server gives a new
/// one for each renewal, the old one is worth nothing then. Returns what to say of it.
async fn spend_what_lay_in_the_clear(state: &ControlState) -> String {
    let views = state.accounts.views();
    let stored = views.iter().filter(|view| view.stored.is_some()).map(|view| view.id.clone());
    for id in stored.collect::<Vec<_>>() {
        if let Err(error) = state.accounts.refresh(id.clone()).await {
            warn!(account = %id, %error, "not renewed after the store was sealed");
        }
    }
    "every account is renewed now: where the server gives a new refresh token each time, what lay in the clear is spent; \
     what lies in backups of other accounts still works"
        .to_owned()
}
