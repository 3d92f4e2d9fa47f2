//! Opening the store while no daemon runs, with the passphrase where it takes one.

use super::failure::{Exit, Failure};
use crate::advice::advised;
use crate::config::Config;
use crate::key_source::Kind;
use crate::platform::paths::Paths;
use crate::secret::Secret;
use crate::sign_in::terminal::Terminal;
use crate::store::{Store, StoreError, open_store_with, seal_in};

/// Whether it takes a passphrase to open the store of these places.
pub(super) fn takes_passphrase(places: &Paths) -> bool {
    seal_in(&places.state_dir).sealed.is_some_and(|sealed| sealed.source == Kind::Passphrase.name())
}

/// Asks on the terminal for the passphrase that opens the store. Before the store is opened: a person may take a while, and
/// nobody else could have the folder.
pub(super) fn ask_passphrase() -> Result<Secret, Failure> {
    let asked = Terminal::open().and_then(|mut terminal| terminal.ask_hidden("Passphrase: "));
    asked.map_err(|error| {
        Failure::new(error)
            .while_doing("asking for the passphrase that the store is sealed by")
            .with_remedy(format!("start the daemon, and: {}", advised("unlock --passphrase-stdin")))
            .with_exit(Exit::Locked)
    })
}

/// Opens the store, for reading and for writing.
pub(super) fn open_unlocked(places: &Paths, config: &Config, passphrase: Option<Secret>) -> Result<Store, Failure> {
    open_store_with(places, config, passphrase).map_err(of_store).and_then(unlocked)
}

/// A store that can be read and written, if it is.
pub(super) fn unlocked(store: Store) -> Result<Store, Failure> {
    match store.seal_state().locked {
        None => Ok(store),
        Some(why) => Err(locked(&why)),
    }
}

pub(super) fn locked(why: &str) -> Failure {
    Failure::say(format!("the store is locked: {why}")).with_remedy(ways()).with_exit(Exit::Locked)
}

/// What opens a store while no daemon runs, and what to do where nothing does.
pub(super) fn ways() -> String {
    format!(
        "to try again: {}; where the key is lost for good: {}, or {} and then login",
        advised("unlock"),
        advised("unlock --recovery"),
        advised("seal on --new-key")
    )
}

/// A failure of the store, with its exit code.
pub(super) fn of_store(error: StoreError) -> Failure {
    match error {
        error @ StoreError::Locked { .. } => Failure::new(error).with_remedy(ways()).with_exit(Exit::Locked),
        error => Failure::new(error),
    }
}
