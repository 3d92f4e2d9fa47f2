//! The latest generation of each account that was saved here, in a sealed file beside the records: a record that is put back
//! as a whole, from a backup or by a program that synchronises folders, is known for an older copy by it.
//!
//! The file is written after the record, and never ahead of it. A record that is ahead of the file is right: a crash came in
//! between, or another valetd has written it. What is noted here never decides whether a record can be saved, and where it
//! is lost, records are used as they are: that is said, until a person seals anew. Who puts this file back as well is not
//! seen.

use std::collections::BTreeMap;

use tracing::{debug, warn};

use super::disk::{LARGEST, ReadError};
use super::error::{StoreError, io_error, no_randomness};
use super::file;
use super::folder::{Folder, account_of};
use super::seal::{Generations, KeyId, NONCE_LENGTH, SealedGenerations, Unreadable};
use super::sealing::Sealing;
use crate::advice::advised;
use crate::config::AccountId;
use crate::platform::random;

/// The file. Its name has two dots: it is no account's.
pub(super) const GENERATIONS: &str = "seal.generations.json";

/// What there is of them.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Kept {
    /// Nothing is sealed, or can be written now.
    Nowhere,
    /// There is no file.
    Missing,
    /// They are known, from a file under this key.
    Known(KeyId, Generations),
    /// The file's key is away; a sentence.
    Away(String),
    /// The file may be whole, and something keeps us from reading it; a sentence.
    Unread(String),
    /// The file is of no use to anybody; a predicate.
    Lost(String),
}

impl Kept {
    /// An account's, if it is known.
    pub(super) fn latest(&self, account: &AccountId) -> Option<u64> {
        match self {
            Self::Known(_, generations) => generations.latest.get(account.as_str()).copied(),
            Self::Nowhere | Self::Missing | Self::Away(_) | Self::Unread(_) | Self::Lost(_) => None,
        }
    }
}

/// Reads the file.
pub(super) fn find(folder: &mut Folder, sealing: &Sealing) -> Kept {
    if sealing.active_at_hand().is_none() {
        return Kept::Nowhere;
    }
    let path = folder.path.join(GENERATIONS).display().to_string();
    let bytes = match folder.disk.read(GENERATIONS) {
        Ok(None) => return Kept::Missing,
        Ok(Some(bytes)) => bytes,
        Err(ReadError::TooLarge) => return Kept::Lost(format!("is larger than {LARGEST} bytes")),
        Err(ReadError::NotOurs(problem)) => return Kept::Unread(format!("{path} {problem}: move it away")),
        Err(ReadError::Io(error)) => {
            return Kept::Unread(io_error("read", &folder.path.join(GENERATIONS), error).to_string());
        }
    };
    let sealed = match SealedGenerations::read(&bytes) {
        Ok(sealed) => sealed,
        Err(Unreadable::Newer(version)) => {
            return Kept::Unread(format!("{path} was written by a later valetd (format {version})"));
        }
        Err(Unreadable::Garbage(problem)) => return Kept::Lost(problem.to_owned()),
    };
    let id = sealed.key.clone();
    match sealing.key(&id) {
        Ok(key) => match sealed.open(key) {
            Some(generations) => Kept::Known(id, generations),
            None => Kept::Lost("was changed after it was sealed".to_owned()),
        },
        Err(file::Unreadable::Away(why)) => Kept::Away(format!("{path}: {why}")),
        Err(why) => Kept::Lost(format!("cannot be opened ({})", why.into_words())),
    }
}

/// Notes that a record of this generation was saved, if it is later than what is noted. Where that fails, the record is
/// ahead, until it is saved or read again.
pub(super) fn note(folder: &mut Folder, sealing: &mut Sealing, kept: Kept, account: &AccountId, generation: u64) {
    let noted = match kept {
        Kept::Known(_, generations) if generations.latest.get(account.as_str()) >= Some(&generation) => return,
        Kept::Known(_, mut generations) => {
            generations.latest.insert(account.as_str().to_owned(), generation);
            write(folder, sealing, &generations)
        }
        // somebody has removed it, or put something else there
        Kept::Missing | Kept::Lost(_) => keep(folder, sealing, false).map(|_| ()),
        Kept::Nowhere | Kept::Away(_) | Kept::Unread(_) => return,
    };
    if let Err(error) = noted {
        debug!(%account, generation, %error, "the latest generation is not noted");
    }
}

/// Has the file kept, under the active key: at every start, and after every change of the seal. `is_vouched_for`: a person
/// seals anew, and what is there now is as it should be. Returns what keeps it from being so, in sentences.
///
/// # Errors
///
/// [`StoreError::Io`] if the file cannot be written.
pub(super) fn keep(
    folder: &mut Folder,
    sealing: &mut Sealing,
    is_vouched_for: bool,
) -> Result<Vec<String>, StoreError> {
    let problem = match find(folder, sealing) {
        Kept::Nowhere => return Ok(Vec::new()),
        Kept::Known(key, mut generations) => {
            let begun_anew = generations.begun_anew && !is_vouched_for;
            let is_as_it_should_be = sealing.active() == Some(&key) && begun_anew == generations.begun_anew;
            generations.begun_anew = begun_anew;
            if !is_as_it_should_be {
                begin(folder, sealing, &generations)?;
            }
            doubt(folder, sealing, begun_anew);
            return Ok(Vec::new());
        }
        Kept::Unread(why) => return Ok(vec![format!("older copies cannot be told from records: {why}")]),
        Kept::Away(why) if !is_vouched_for => {
            return Ok(vec![format!("older copies cannot be told from records: {why}")]);
        }
        Kept::Away(_) | Kept::Missing => None,
        Kept::Lost(problem) => Some(problem),
    };
    let (latest, was_there) = of_records(folder, sealing)?;
    let begun_anew = !is_vouched_for && (was_there || problem.is_some());
    if let Some(problem) = problem.filter(|_| begun_anew) {
        warn!("{} {problem}", folder.path.join(GENERATIONS).display());
    }
    begin(folder, sealing, &Generations { latest, begun_anew })?;
    doubt(folder, sealing, begun_anew);
    Ok(Vec::new())
}

/// Notes that an account's record was removed: none of before that is as late as what is noted now.
pub(super) fn note_removed(folder: &mut Folder, sealing: &mut Sealing, account: &AccountId, last: u64) {
    let kept = find(folder, sealing);
    let last = kept.latest(account).unwrap_or_default().max(last);
    note(folder, sealing, kept, account, last.saturating_add(1));
}

/// Removes the file, where nothing is sealed any more, or yet.
///
/// # Errors
///
/// [`StoreError::Io`]; then it is there still.
pub(super) fn forget(folder: &mut Folder) -> Result<(), StoreError> {
    let removed = folder.disk.remove(GENERATIONS).and_then(|()| folder.disk.settle());
    removed.map_err(|error| io_error("remove", &folder.path.join(GENERATIONS), error))
}

/// The key that the file is sealed under.
pub(super) fn key_in_use(folder: &mut Folder) -> Option<KeyId> {
    let bytes = folder.peek(GENERATIONS).ok().flatten()?;
    SealedGenerations::read(&bytes).ok().map(|sealed| sealed.key)
}

/// Whether the file says that one before it was lost, in a sentence; read without its key, which only vouches for it.
pub(super) fn doubt_of_file(folder: &mut Folder) -> Option<String> {
    let bytes = folder.peek(GENERATIONS).ok().flatten()?;
    let begun_anew = SealedGenerations::read(&bytes).is_ok_and(|sealed| sealed.begun_anew);
    begun_anew.then(|| in_doubt(folder))
}

/// What the records have, and whether one of them says that it was noted in a file that must be there, then.
fn of_records(folder: &mut Folder, sealing: &Sealing) -> Result<(BTreeMap<String, u64>, bool), StoreError> {
    let mut latest = BTreeMap::new();
    let mut was_there = false;
    for name in folder.names()? {
        let Some(account) = account_of(&name) else { continue };
        let Some(bytes) = folder.peek(&name)? else { continue };
        let Ok(found) = sealing.read(&bytes, &account) else { continue };
        was_there |= found.is_counted;
        latest.insert(account.as_str().to_owned(), found.record.generation);
    }
    Ok((latest, was_there))
}

/// One more write for a save, and one fsync: after a power cut it may be the one before, and the record is ahead.
fn write(folder: &mut Folder, sealing: &Sealing, generations: &Generations) -> Result<(), StoreError> {
    let Some(bytes) = sealed(folder, sealing, generations)? else { return Ok(()) };
    folder.replace_unsettled(GENERATIONS, &bytes)
}

/// The same for one that is begun, or is under another key from here on: it is on the disk before the first record that says
/// that it is counted, and before the key of the one before leaves the ring.
fn begin(folder: &mut Folder, sealing: &Sealing, generations: &Generations) -> Result<(), StoreError> {
    let Some(bytes) = sealed(folder, sealing, generations)? else { return Ok(()) };
    folder.replace(GENERATIONS, &bytes)
}

fn sealed(folder: &Folder, sealing: &Sealing, generations: &Generations) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(active) = sealing.active_at_hand() else { return Ok(None) };
    let nonce = random::bytes::<NONCE_LENGTH>().map_err(|_| no_randomness(folder.path.join(GENERATIONS)))?;
    Ok(Some(generations.seal(active, *nonce)))
}

fn doubt(folder: &Folder, sealing: &mut Sealing, begun_anew: bool) {
    sealing.counts(true);
    let doubt = begun_anew.then(|| in_doubt(folder));
    if let Some(doubt) = doubt.as_ref().filter(|_| sealing.doubt().is_none()) {
        warn!("{doubt}");
    }
    sealing.set_doubt(doubt);
}

fn in_doubt(folder: &Folder) -> String {
    format!(
        "{}, by which older copies of credentials are known, was missing or damaged, and has been begun anew: if somebody \
         may have put back a file, sign in again ({}); when all is well: {}",
        folder.path.join(GENERATIONS).display(),
        advised("login NAME"),
        advised("seal on"),
    )
}
