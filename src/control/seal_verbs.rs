//! The verbs of the store's seal: to change it, and to open a store whose key was away.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::answer::{Answer, bad_request, json};
use super::problem::{Problem, kind};
use super::state::ControlState;
use crate::key_source::KeySources;
use crate::platform::clock::unix_seconds;
use crate::secret::Secret;
use crate::store::{Left, SealChange, SealChanged, SealError, Store};

/// What `POST /v1/seal` takes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SealOrder {
    pub(super) change: SealChange,
}

/// What `POST /v1/unlock` takes: how the store is to be opened; by its own source, if nothing is said.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnlockOrder {
    recovery_code: Option<Secret>,
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
    let SealOrder { change } = serde_json::from_slice(body)
        .map_err(|_| bad_request("not the expected JSON").with_remedy(format!("send {example}")))?;
    info!(?change, "a change of the store's seal was asked for over the control socket");
    let changed = work(state, move |store, sources| store.change_seal(change, sources, unix_seconds())).await?;
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
    let opened = work(state, move |store, sources| match order.recovery_code {
        Some(code) => Ok((store.recover(&code, sources)?, Vec::new())),
        None => {
            let Left(left) = store.unlock(|kind, blob| sources.secret(kind, blob))?;
            Ok((vec!["the store is open".to_owned()], left))
        }
    });
    let (said, left) = opened.await?;
    state.accounts.look_again().await;
    Ok(json(StatusCode::OK, &SealAnswer { said, left, recovery_code: None }))
}

/// What takes its time, for sources and the disk, while others are answered.
async fn work<T: Send + 'static>(
    state: &ControlState,
    work: impl FnOnce(&Store, &KeySources) -> Result<T, SealError> + Send + 'static,
) -> Result<T, Problem> {
    let store = state.store.clone();
    let sources = KeySources::new(&state.config.borrow().store, &state.facts.borrow().state_dir);
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
