//! The store's thread: saves, removals and reads of records, one after another, in the order in which they are asked for.
//! The renewer's loop never waits for the disk: an account whose save takes long delays no other one's renewal, no status
//! and no sign of life.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::account::NotLoaded;
use super::world::{SaveError, StoreAnswer, Ticket};
use crate::accounts::Withholding;
use crate::config::AccountId;
use crate::store::{Record, Store, StoreError};

/// What the store is asked.
pub(super) enum Work {
    /// Make a record durable. Owes one [`Done::Stored`].
    Save(Ticket, Box<Record>),
    /// Forget an account's record. Owes one [`Done::Stored`].
    Remove(Ticket, AccountId),
    /// See whether a record could be saved. Owes one [`Done::Stored`].
    Probe(Ticket, Box<Record>),
    /// Read these accounts' records. Owes one [`Done::Read`].
    Read(Vec<AccountId>),
}

/// What the store has answered.
pub(super) enum Done {
    Stored(StoreAnswer),
    Read(Loaded),
}

/// What the store has of each account that was asked for.
pub(super) type Loaded = BTreeMap<AccountId, Result<Option<Record>, NotLoaded>>;

/// Starts the thread. Returns where the store is asked, and where its responses come. It ends when nobody can ask any more,
/// after what was asked.
///
/// # Errors
///
/// If the kernel gives no thread.
pub(super) fn start(store: Arc<Store>) -> io::Result<(mpsc::Sender<Work>, UnboundedReceiver<Done>)> {
    let (ask, asked) = mpsc::channel();
    let (done, responses) = unbounded_channel();
    std::thread::Builder::new().name("store".into()).spawn(move || {
        for work in asked {
            let _ = done.send(carry_out(&store, work)); // a renewer that has ended waits for nothing
        }
    })?;
    Ok((ask, responses))
}

const ENDED_BADLY: &str = "the store's work ended badly; this is a bug";

fn carry_out(store: &Store, work: Work) -> Done {
    match work {
        Work::Save(ticket, record) => {
            let saved = || store.save(&record).map_err(|error| save_error(store, &record.account, &error));
            Done::Stored(StoreAnswer { account: record.account.clone(), ticket, result: answered(saved) })
        }
        Work::Remove(ticket, account) => {
            let removed = || {
                store.forget_pending(&account);
                store.remove(&account).map_err(|error| SaveError::Failed(error.to_string()))
            };
            let result = answered(removed);
            Done::Stored(StoreAnswer { account, ticket, result })
        }
        Work::Probe(ticket, record) => {
            let probed = || store.probe(&record).map_err(|error| SaveError::Failed(error.to_string()));
            Done::Stored(StoreAnswer { account: record.account.clone(), ticket, result: answered(probed) })
        }
        Work::Read(accounts) => {
            let read = |id: AccountId| {
                let loaded = catch_unwind(AssertUnwindSafe(|| load(store, &id)));
                let ended_badly = |_| Err(NotLoaded::Unreadable(ENDED_BADLY.to_owned()));
                (id, loaded.unwrap_or_else(ended_badly))
            };
            Done::Read(accounts.into_iter().map(read).collect())
        }
    }
}

/// A panic in the store is a response that tells nothing: the machine must not wait for ever, and no account for another.
fn answered(work: impl FnOnce() -> Result<(), SaveError>) -> Result<(), SaveError> {
    let ended_badly = |_| Err(SaveError::Unknown(ENDED_BADLY.to_owned()));
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(ended_badly)
}

/// What a record that was not saved means for the one at hand.
fn save_error(store: &Store, account: &AccountId, error: &StoreError) -> SaveError {
    let words = error.to_string();
    match error {
        StoreError::Stale { found: latest, offered, .. } => match store.load(account) {
            Ok(Some(found)) if found.generation > *offered => SaveError::Stale { found: Box::new(found), words },
            Ok(_) | Err(_) => SaveError::Outnumbered { latest: *latest, words },
        },
        StoreError::Folder(_)
        | StoreError::Held { .. }
        | StoreError::Io { .. }
        | StoreError::NotOurFile { .. }
        | StoreError::Corrupt { .. }
        | StoreError::Locked { .. }
        | StoreError::KeyGone { .. }
        | StoreError::Client { .. }
        | StoreError::OtherMachine { .. }
        | StoreError::OlderCopy { .. }
        | StoreError::Newer { .. } => SaveError::Failed(words),
    }
}

/// What the store has of an account, or why it cannot be used. Waits for the disk.
pub(super) fn load(store: &Store, id: &AccountId) -> Result<Option<Record>, NotLoaded> {
    if store.is_held() {
        // also while its key is still at hand, for what is being saved
        return Err(NotLoaded::Withheld(Withholding::StoreLocked, "somebody has locked it".to_owned()));
    }
    let loaded = store.load(id);
    if store.is_opening() && matches!(loaded, Ok(Some(_))) {
        // where sealing was cut short, a record lies in the clear still: it could be read, and nothing could be saved
        return Err(NotLoaded::Opening);
    }
    loaded.map_err(|error| match error {
        StoreError::Locked { .. } if store.is_opening() => NotLoaded::Opening,
        // the store is open: it is an earlier key, and no unlocking brings it
        error @ StoreError::Locked { .. } if store.seal_state().locked.is_none() => {
            NotLoaded::Withheld(Withholding::KeyGone, error.to_string())
        }
        error @ StoreError::Locked { .. } => NotLoaded::Withheld(Withholding::StoreLocked, error.to_string()),
        error @ StoreError::OtherMachine { .. } => NotLoaded::Withheld(Withholding::OtherMachine, error.to_string()),
        error @ StoreError::OlderCopy { .. } => NotLoaded::Withheld(Withholding::OlderCopy, error.to_string()),
        error @ StoreError::KeyGone { .. } => NotLoaded::Withheld(Withholding::KeyGone, error.to_string()),
        error if error.is_in_the_way() => NotLoaded::InTheWay(error.to_string()),
        error => NotLoaded::Unreadable(error.to_string()),
    })
}
