//! Saves that a kill or a power cut has interrupted: what is whole is finished, the rest is removed.
//!
//! A temporary file may be the only copy of a refresh token that the server has just issued, in the place of the one that
//! the record has. It takes its name if it is the save that the record was waiting for: it can be read, is of this account,
//! is of the next generation, and may be sent to the same servers as the record's. A save of the same generation changes
//! nothing that cannot be learnt anew.
//!
//! So is one of a client that was registered, where there is no other: the server knows it already. Beside one that is whole
//! it is removed: nobody can tell which of both came later.

use super::disk::{Disk, ReadError};
use super::error::{StoreError, io_error};
use super::file::Unreadable;
use super::folder::{Folder, account_of, name_of_temporary};
use super::record::Record;
use super::sealing::Sealing;
use crate::config::AccountId;
use crate::oauth::rfc7591::Registration;

/// What becomes of a temporary file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// It takes its name.
    Finish,
    /// Nobody misses it.
    Remove,
    /// It cannot be read now, or the record cannot: nobody knows yet.
    Keep,
}

/// Decides on every temporary file. The lock is ours, so nobody is still writing one. Returns what was done, and what could
/// not be, in sentences.
///
/// # Errors
///
/// If a save cannot be finished: the refresh token in the record is spent, and must not be presented again.
pub(super) fn finish(folder: &mut Folder, sealing: &Sealing) -> Result<Vec<String>, StoreError> {
    let mut said = Vec::new();
    for temporary in folder.names()? {
        let Some(name) = name_of_temporary(&temporary) else { continue };
        let path = folder.path.join(name);
        let (fate, what) = match (account_of(name), Registration::account_of(name).and_then(AccountId::new)) {
            (Some(account), _) => (fate(folder, sealing, &account, name, &temporary), "login"),
            (None, Some(account)) => (fate_of_client(folder, sealing, &account, name, &temporary), "client"),
            (None, None) => (Fate::Remove, ""),
        };
        match fate {
            Fate::Finish => {
                take_name(&mut *folder.disk, &temporary, name)
                    .map_err(|error| io_error("finish the save of", &path, error))?;
                let path = path.display();
                said.push(format!("{path}: a save that was cut short has been finished, and its {what} is kept"));
            }
            Fate::Remove => {
                if let Err(error) = folder.disk.remove(&temporary) {
                    said.push(io_error("remove", &folder.path.join(&temporary), error).to_string());
                }
            }
            Fate::Keep => {}
        }
    }
    Ok(said)
}

/// A kill may have come before its content had reached the disk.
fn take_name(disk: &mut dyn Disk, temporary: &str, name: &str) -> std::io::Result<()> {
    disk.sync_file(temporary)?;
    disk.rename(temporary, name)?;
    disk.settle()
}

fn fate(folder: &mut Folder, sealing: &Sealing, account: &AccountId, name: &str, temporary: &str) -> Fate {
    let mut read = |name: &str| match folder.disk.read(name) {
        Ok(None) => Ok(None),
        Ok(Some(bytes)) => match sealing.read(&bytes, account) {
            Ok(marked) => Ok(Some(marked.record)),
            Err(Unreadable::Away(_) | Unreadable::Gone(_)) => Err(Fate::Keep),
            Err(Unreadable::Newer(_) | Unreadable::Garbage(_)) => Err(Fate::Remove),
        },
        Err(ReadError::TooLarge | ReadError::NotOurs(_)) => Err(Fate::Remove),
        Err(ReadError::Io(_)) => Err(Fate::Keep),
    };
    let unfinished = match read(temporary) {
        Ok(Some(unfinished)) => unfinished,
        Ok(None) => return Fate::Remove,
        Err(fate) => return fate,
    };
    match read(name) {
        Ok(record) if is_next(&unfinished, record.as_ref()) => Fate::Finish,
        Ok(_) => Fate::Remove,
        Err(fate) => fate,
    }
}

fn fate_of_client(folder: &mut Folder, sealing: &Sealing, account: &AccountId, name: &str, temporary: &str) -> Fate {
    match folder.disk.read(name) {
        Ok(None) => {}
        Ok(Some(_)) | Err(ReadError::TooLarge | ReadError::NotOurs(_)) => return Fate::Remove,
        Err(ReadError::Io(_)) => return Fate::Keep,
    }
    match folder.disk.read(temporary) {
        Ok(Some(bytes)) => match sealing.read_client(&bytes, account) {
            Ok(_) => Fate::Finish,
            Err(Unreadable::Away(_) | Unreadable::Gone(_)) => Fate::Keep,
            Err(Unreadable::Newer(_) | Unreadable::Garbage(_)) => Fate::Remove,
        },
        Ok(None) | Err(ReadError::TooLarge | ReadError::NotOurs(_)) => Fate::Remove,
        Err(ReadError::Io(_)) => Fate::Keep,
    }
}

/// Whether a record is the one that was to take the place of `last`.
fn is_next(unfinished: &Record, last: Option<&Record>) -> bool {
    let is_to_the_same_servers = |last: &Record| {
        (&last.client_id, &last.issued_by, &last.others)
            == (&unfinished.client_id, &unfinished.issued_by, &unfinished.others)
    };
    unfinished.generation == last.map_or(0, |last| last.generation).saturating_add(1)
        && last.is_none_or(is_to_the_same_servers)
}
