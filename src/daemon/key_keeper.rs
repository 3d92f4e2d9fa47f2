//! Asks for the store's key for as long as it is away: at the start, where asking takes its time, and again later: at once
//! when the keyring that has it says that something has changed, else with growing pauses.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::accounts::Accounts;
use crate::config::Config;
use crate::control::report::Facts;
use crate::key_source::{KeySources, KeyringWatch, Kind, NoSecret};
use crate::platform::paths::Paths;
use crate::shutdown::Shutdown;
use crate::store::{Left, SealError, Store};

/// What a stick that was just plugged in, or a service that is on its way up, needs.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// A key that has been away for long comes because of somebody, who can say so: valetd unlock.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// What it needs.
pub(super) struct Parts {
    pub(super) store: Arc<Store>,
    pub(super) accounts: Accounts,
    pub(super) config: watch::Receiver<Arc<Config>>,
    pub(super) facts: watch::Receiver<Facts>,
    pub(super) paths: Paths,
}

/// Runs until the stop. A command is asked once, since it may ask a person; then only when somebody says so.
pub(super) async fn keep(parts: Parts, mut shutdown: Shutdown) {
    let Parts { store, accounts, mut config, facts, paths } = parts;
    let mut seal = store.watch_seal();
    let mut pause = FIRST_PAUSE;
    let mut is_first = true;
    let mut has_asked = false;
    let mut keyring = None;
    loop {
        let is_open = seal.borrow_and_update().locked.is_none() && !store.is_opening();
        if is_open || store.is_held() {
            pause = FIRST_PAUSE;
            keyring = None; // what it says now is of no interest
            tokio::select! {
                () = shutdown.started() => return,
                changed = seal.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
        }
        // before it is asked: an unlock in between is heard
        if keyring.is_none() && is_in_keyring(&store) {
            keyring = KeyringWatch::new().await;
        }
        let sources = KeySources::new(&config.borrow_and_update().store, &paths.state_dir).until(shutdown.clone());
        let is_known = facts.borrow().configured;
        let sources = sources.unknown(!is_known);
        let asking = store.clone();
        let may_take_long = !has_asked;
        has_asked |= is_known;
        let asked = spawn_blocking(move || {
            asking.unlock(|kind, blob| match kind {
                Kind::Command if !may_take_long => Err(NoSecret::NotAsked),
                kind => sources.secret(kind, blob),
            })
        });
        let outcome = tokio::select! {
            () = shutdown.started() => return,
            outcome = asked => outcome,
        };
        match outcome {
            Ok(Ok(Left(left))) => {
                info!("the store is open: its key has come");
                left.iter().for_each(|words| warn!("left as it was: {words}"));
            }
            Ok(Err(SealError::Locked(why))) if is_first => error!("the store is locked: {why}"),
            Ok(Err(SealError::Locked(_))) => {}
            Ok(Err(error)) => warn!(%error, "the store's seal is not as it should be"),
            Err(_) => error!("asking for the store's key ended badly"),
        }
        if std::mem::take(&mut is_first) || store.seal_state().locked.is_none() {
            store.has_been_asked();
            accounts.look_again().await;
        }
        seal.borrow_and_update();
        tokio::select! {
            () = shutdown.started() => return,
            () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            _ = seal.changed() => {}
            // another source may be named now, or what was in the way is mended
            Ok(()) = config.changed() => pause = FIRST_PAUSE,
            has_more = changed(&mut keyring) => if !has_more {
                keyring = None;
            },
        }
    }
}

/// Whether the store's key is kept by the keyring.
fn is_in_keyring(store: &Store) -> bool {
    store.seal_state().sealed.is_some_and(|sealed| sealed.source == Kind::SecretService.name())
}

async fn changed(keyring: &mut Option<KeyringWatch>) -> bool {
    match keyring {
        Some(keyring) => keyring.changed().await,
        None => std::future::pending().await,
    }
}
