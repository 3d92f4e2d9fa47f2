//! The verbs of the store's seal: to change it, and to open a store whose key was away.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::answer::{Answer, Done, bad_request, json, stopping};
use super::line::Line;
use super::problem::{Problem, kind};
use super::state::ControlState;
use crate::accounts::{AccountView, RequestError};
use crate::advice::advised;
use crate::config::AccountId;
use crate::key_source::{KeySources, Kind};
use crate::platform::clock::unix_seconds;
use crate::renewal::Phase;
use crate::secret::Secret;
use crate::shutdown::shutdown;
use crate::store::{Adoption, Left, SealChange, SealChanged, SealError, Store, StoreError};

/// What `POST /v1/seal` takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealOrder {
    change: SealChange,
    /// What the key is to be kept by, where that is a passphrase.
    #[serde(default)]
    passphrase: Option<Secret>,
    /// The one that has been seen.
    #[serde(default)]
    recovery_code: Option<Secret>,
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

pub(super) async fn change(state: &ControlState, line: &Line, body: &[u8]) -> Result<Answer, Problem> {
    let example = r#"{"change": "on"}, or "off", "rotate", "recovery""#;
    let SealOrder { change, passphrase, recovery_code } = serde_json::from_slice(body)
        .map_err(|_| bad_request("not the expected JSON").with_remedy(format!("send {example}")))?;
    info!(?change, "a change of the store's seal was asked for over the control socket");
    refuse_behind_the_wall(state)?;
    if let (true, Some(problem)) = (change.makes_key(), state.not_configured()) {
        return Err(problem); // with what the user has named there, and not with the best that there is
    }
    let changed = work(state, line, passphrase, move |store, sources| {
        let sources = sources.clone().with_recovery_code(recovery_code);
        store.change_seal(change, &sources, unix_seconds())
    })
    .await?;
    state.accounts.look_again().await;
    let said = spend(state, changed.lay_in_the_clear.clone()).await;
    let mut answer = SealAnswer::new(changed);
    answer.said.extend(said);
    Ok(json(StatusCode::OK, &answer))
}

pub(super) async fn unlock(state: &ControlState, line: &Line, body: &[u8]) -> Result<Answer, Problem> {
    let order: UnlockOrder = match body {
        [] => UnlockOrder::default(),
        body => serde_json::from_slice(body).map_err(|_| {
            bad_request("not the expected JSON").with_remedy(r#"send nothing, or {"recovery_code": "..."}"#)
        })?,
    };
    info!("the store was to be opened over the control socket");
    let UnlockOrder { recovery_code, passphrase } = order;
    if recovery_code.is_some() && passphrase.is_some() {
        // a passphrase beside the code would take the place of the owner's
        return Err(bad_request("it has a recovery code and a passphrase").with_remedy("send the one that is known"));
    }
    let noted = (state.accounts.latest_lock(), state.store.latest_hold());
    let is_behind_the_wall = state.accounts.is_locked() && is_behind_a_passphrase(&state.store);
    let has_passphrase = passphrase.is_some();
    // that of an earlier key opens what that has sealed
    let is_checked = has_passphrase && is_behind_a_passphrase(&state.store);
    let opened = work(state, line, passphrase, move |store, sources| match recovery_code {
        Some(code) => Ok((store.recover(&code, sources)?, Vec::new())),
        // what a person has locked with a passphrase at hand, only that passphrase unlocks
        None if is_behind_the_wall && !store.opens(|kind, blob| sources.secret(kind, blob)) => {
            Err(SealError::Locked(match has_passphrase {
                true => "that is not the passphrase".to_owned(),
                false => "that takes the passphrase".to_owned(),
            }))
        }
        None if is_checked && !store.opens_any(|kind, blob| sources.secret(kind, blob)) => {
            Err(SealError::Locked("that is not the passphrase".to_owned()))
        }
        None => {
            let Left(left) = store.unlock(|kind, blob| sources.secret(kind, blob))?;
            Ok((vec!["the store is open".to_owned()], left))
        }
    });
    let invocation = state.facts.borrow().invocation.clone();
    let lost = match is_behind_the_wall {
        // what it would change is behind the wall as long as this daemon runs
        true => format!(
            "where it is forgotten for good: {invocation} unlock --recovery, or, after a restart of the daemon, \
             {invocation} seal on --new-key, and then login"
        ),
        false => format!(
            "where its key is lost for good: {invocation} unlock --recovery, or {invocation} seal on --new-key, and \
             then login"
        ),
    };
    let (mut said, left) = opened.await.map_err(|problem| match problem.is(kind::STORE_LOCKED) {
        true => problem.with_remedy(lost),
        false => problem,
    })?;
    state.store.let_go(noted.1);
    state.accounts.look_again().await;
    state.accounts.unlock(noted.0).await.map_err(|error| match error {
        RequestError::Refused(why) => store_locked(state, why),
        _ => stopping(),
    })?;
    if state.store.is_held() {
        return Err(store_locked(state, "somebody has locked it meanwhile"));
    }
    said.push("tokens are handed out".to_owned());
    Ok(json(StatusCode::OK, &SealAnswer { said, left, recovery_code: None }))
}

/// What `POST /v1/accounts/{id}/adopt` takes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AdoptOrder {
    pub(super) adoption: Adoption,
}

/// Has a record used here that was last used on another machine, or is an older copy of which nobody has a later one.
pub(super) async fn adopt(
    state: &ControlState,
    line: &Line,
    account: AccountId,
    body: &[u8],
) -> Result<Answer, Problem> {
    let example = r#"{"adoption": "by-this-machine"}, or "by-any-machine""#;
    let AdoptOrder { adoption } = serde_json::from_slice(body)
        .map_err(|_| bad_request("not the expected JSON").with_remedy(format!("send {example}")))?;
    info!(%account, ?adoption, "a credential of another machine was to be adopted over the control socket");
    refuse_behind_the_wall(state)?;
    let invocation = state.facts.borrow().invocation.clone();
    let login = format!("{invocation} login {account}");
    let refresh = format!("{invocation} refresh {account}");
    let is_dead = |view: &AccountView| matches!(view.snapshot.phase, Phase::SignInRequired { .. });
    let is_at_hand = |view: &AccountView| view.id == account && view.stored.is_some() && !is_dead(view);
    let is_at_hand = state.accounts.views().iter().any(is_at_hand);
    let adopted = work(state, line, None, move |store, _| match store.load(&account) {
        Err(StoreError::OlderCopy { .. }) if is_at_hand => Ok(None),
        _ => Ok(Some(store.adopt(&account, adoption)?)),
    });
    let Some(adopted) = adopted.await? else {
        // it would take the place of the one that works
        let words = "the daemon has a later one at hand, and the file is an older copy, which its next save replaces";
        return Err(Problem::new(409, kind::REFUSED, "that cannot be done now", words).with_remedy(refresh));
    };
    if !adopted {
        let problem = Problem::new(409, kind::REFUSED, "that cannot be done now", "nobody has signed in");
        return Err(problem.with_remedy(login));
    }
    state.accounts.look_again().await;
    Ok(json(StatusCode::OK, &Done { message: "used here from now on".to_owned() }))
}

/// What a passphrase has to undo is changed by nobody who has not said it: a seal that is taken off, another passphrase or
/// a recovery code would be ways around it.
fn refuse_behind_the_wall(state: &ControlState) -> Result<(), Problem> {
    match state.accounts.is_locked() && is_behind_a_passphrase(&state.store) {
        true => Err(store_locked(state, "somebody has locked it, and it takes the passphrase to change anything")),
        false => Ok(()),
    }
}

pub(super) fn store_locked(state: &ControlState, why: impl Into<String>) -> Problem {
    let problem = Problem::new(503, kind::STORE_LOCKED, "the store is locked", why);
    problem.with_remedy(format!("{} unlock", state.facts.borrow().invocation))
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
    let views = state.accounts.views();
    let rotates = |view: &&AccountView| view.stored.as_ref().is_some_and(|stored| stored.rotates);
    let at_risk: Vec<&str> = views.iter().filter(rotates).map(|view| view.id.as_str()).collect();
    if all {
        forget(state, "somebody has locked it").await.map_err(refused)?;
        said.push(format!(
            "the key and the refresh tokens are forgotten: nothing is renewed until {}",
            advised("unlock")
        ));
        if !at_risk.is_empty() {
            let at_risk = at_risk.join(", ");
            said.push(format!(
                "their servers replace refresh tokens, which may end if they are not renewed: {at_risk}"
            ));
        }
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
///
/// # Errors
///
/// Why not, in a sentence: a renewal that does not end, or somebody who has unlocked it meanwhile.
async fn forget(state: &ControlState, why: &str) -> Result<(), String> {
    const UNLOCKED: &str = "somebody has unlocked it meanwhile";
    // from here on, what was asked for before brings no key and no refresh token back
    let number = state.store.hold();
    let deadline = tokio::time::Instant::now() + FORGETTING;
    // a refresh token that is on its way is saved first
    while let Err(error) = state.accounts.forget(why).await {
        if !state.store.is_held() {
            return Err(UNLOCKED.to_owned());
        }
        if tokio::time::Instant::now() > deadline {
            state.store.let_go(number);
            return Err(format!("no token leaves, but the key is still here: {error}"));
        }
        tokio::time::sleep(GLANCE).await;
    }
    if state.store.forget_keys(why) {
        return Ok(());
    }
    state.accounts.look_again().await; // by who has unlocked it, before it was forgotten
    Err(UNLOCKED.to_owned())
}

/// What takes its time, for sources and the disk, while others are answered. A source is asked until the stop, or until
/// whoever wants that hangs up.
async fn work<T: Send + 'static>(
    state: &ControlState,
    line: &Line,
    passphrase: Option<Secret>,
    work: impl FnOnce(&Store, &KeySources) -> Result<T, SealError> + Send + 'static,
) -> Result<T, Problem> {
    let store = state.store.clone();
    let sources = KeySources::new(&state.config.borrow().store, &state.facts.borrow().state_dir);
    let (_wants, gone) = shutdown(); // dropped with this, when the connection has ended
    let sources = sources.with_passphrase(passphrase).until(line.stopping.clone()).while_asked(gone);
    let sources = sources.unknown(!state.facts.borrow().configured);
    let refused = |detail| Problem::new(409, kind::REFUSED, "that cannot be done now", detail);
    let done = tokio::task::spawn_blocking(move || work(&store, &sources)).await;
    match done.map_err(|_| refused("it ended badly".to_owned()))? {
        Ok(done) => Ok(done),
        Err(error) => {
            warn!(%error, "the store's seal is as it was");
            let words = error.to_string();
            Err(match error {
                SealError::Locked(_) => store_locked(state, words),
                SealError::Ring(_) => store_locked(state, words),
                SealError::CodeVoid => {
                    refused(words).with_remedy(format!("{} seal recovery", state.facts.borrow().invocation))
                }
                SealError::NoSource(_) | SealError::OlderCopies(_) | SealError::NotSealed | SealError::NoRandomness => {
                    refused(words)
                }
                SealError::Store(StoreError::Locked { .. }) => store_locked(state, words),
                SealError::Store(_) => refused(words),
            })
        }
    }
}

/// How long renewals are waited for after a store was sealed: that of an ordinary authorization server.
const SPENDING: Duration = Duration::from_secs(10);

/// What has become of a refresh token that lay in the clear.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Spending {
    /// It is worth nothing any more.
    Spent,
    /// The server was asked, and left it as it is.
    Kept,
    /// It was not renewed; why.
    Failed(String),
    /// Nobody knows yet.
    Pending,
}

impl Spending {
    /// By how the account stood before it was asked to renew, and how it stands now. Pure.
    fn of(is_exposed: bool, before: Option<&AccountView>, now: Option<&AccountView>) -> Self {
        if !is_exposed {
            return Self::Spent;
        }
        let (Some(before), Some(now)) = (before, now) else {
            return Self::Failed("no account of the configuration".to_owned());
        };
        let failed_at = |view: &AccountView| view.last_failure.as_ref().map(|failure| failure.at);
        match &now.last_failure {
            Some(failure) if failed_at(now) > failed_at(before) => Self::Failed(failure.detail.clone()),
            _ if now.renewals > before.renewals => Self::Kept,
            _ => Self::Pending,
        }
    }
}

/// Has the accounts renewed whose credentials lay on the disk in the clear, where they may still be found, or in a backup:
/// where the server gives a new refresh token for each renewal, the old one is worth nothing then. What has not come to
/// that stays noted with the record, and the next renewal does it. Returns what to say of each.
async fn spend(state: &ControlState, owed: Vec<AccountId>) -> Vec<String> {
    let before = state.accounts.views();
    let view = |views: &[AccountView], id: &AccountId| views.iter().find(|view| view.id == *id).cloned();
    let mut refused: BTreeMap<AccountId, String> = BTreeMap::new();
    for id in &owed {
        if let Err(error) = state.accounts.refresh(id.clone()).await {
            warn!(account = %id, %error, "not renewed after the store was sealed");
            refused.insert(id.clone(), error.to_string());
        }
    }
    let deadline = tokio::time::Instant::now() + SPENDING;
    loop {
        let store = state.store.clone();
        let exposed = tokio::task::spawn_blocking(move || store.still_exposed()).await;
        let exposed = exposed.ok().and_then(Result::ok).unwrap_or_else(|| owed.clone());
        let now = state.accounts.views();
        let found: Vec<(AccountId, Spending)> = owed
            .iter()
            .map(|id| match refused.get(id) {
                Some(why) => (id.clone(), Spending::Failed(why.clone())),
                None => {
                    let views = (view(&before, id), view(&now, id));
                    (id.clone(), Spending::of(exposed.contains(id), views.0.as_ref(), views.1.as_ref()))
                }
            })
            .collect();
        let is_pending = found.iter().any(|(_, spending)| *spending == Spending::Pending);
        if !is_pending || tokio::time::Instant::now() > deadline {
            return spendings_in_words(&found);
        }
        tokio::time::sleep(GLANCE).await;
    }
}

fn spendings_in_words(found: &[(AccountId, Spending)]) -> Vec<String> {
    let mut said = Vec::new();
    let spent: Vec<&str> =
        found.iter().filter(|(_, spending)| *spending == Spending::Spent).map(|(id, _)| id.as_str()).collect();
    if !spent.is_empty() {
        said.push(format!("renewed, so that what lay in the clear is spent: {}", spent.join(", ")));
    }
    for (id, spending) in found {
        said.push(match spending {
            Spending::Spent => continue,
            Spending::Kept => format!(
                "{id}: its server gives no new credential for a renewal, so what lay in the clear works on: {} and a new \
                 login end it, where the server can revoke",
                advised(format_args!("logout {id}"))
            ),
            Spending::Failed(why) => {
                format!("{id}: what lay in the clear works still, until it is renewed, which could not be done now: {why}")
            }
            Spending::Pending => {
                format!("{id}: what lay in the clear works still, until the renewal that is under way has ended")
            }
        });
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_spent_is_said_to_be_spent() {
        let id = |name: &str| AccountId::new(name).unwrap();
        let found = [
            (id("a"), Spending::Spent),
            (id("b"), Spending::Failed("connection refused".to_owned())),
            (id("c"), Spending::Kept),
            (id("d"), Spending::Pending),
            (id("e"), Spending::Spent),
        ];
        let said = spendings_in_words(&found);
        assert_eq!(said.len(), 4, "{said:?}");
        assert!(said[0].ends_with("spent: a, e"), "{said:?}");
        assert!(said[1..].iter().all(|words| words.contains("works")), "{said:?}");
        assert_eq!(spendings_in_words(&[]), [""; 0]);
        assert_eq!(Spending::of(false, None, None), Spending::Spent);
        assert!(matches!(Spending::of(true, None, None), Spending::Failed(_)));
    }
}
