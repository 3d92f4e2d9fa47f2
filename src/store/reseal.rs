//! Sealing a store, changing its key, and unsealing it, in place: a crash at any step loses nothing, and the next start
//! goes on.
//!
//! The order is what makes it safe. The ring with the new key is on the disk before the first file that needs it, and an
//! old key leaves the ring after the last file that needs it: at every moment, the key of each record and of each registration
//! is in the ring.

use zeroize::Zeroizing;

use super::disk::{LARGEST, ReadError};
use super::error::{StoreError, io_error, no_randomness};
use super::file::{self, Marked, Marks, Unreadable};
use super::folder::{CORRUPT, Folder, account_of};
use super::generations;
use super::record::Credential;
use super::seal::{self, Key, KeyId, NONCE_LENGTH, Ring, RingKey, SLOT_RANDOM, Slot, Stretch};
use super::sealing::{Held, Sealing, Trouble, is_sealed, key_of};
use crate::advice::advised;
use crate::config::AccountId;
use crate::key_source::{Kind, Offer};
use crate::oauth::rfc7591::Registration;
use crate::platform::random;
use crate::secret::Secret;

/// The ring's file. Its name has two dots: it is no account's.
pub(super) const RING: &str = "seal.keys.json";

/// Why a store's seal was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    /// A record cannot be brought under another key before its own is at hand.
    #[error("the store is locked: {0}")]
    Locked(String),
    /// No source can be had, or none that is worth it; each in a sentence.
    #[error("there is no key to seal with: {}", .0.join("; "))]
    NoSource(Vec<String>),
    /// There is a ring, and it cannot be read, or is gone.
    #[error("the keys that credentials are sealed with cannot be used: {0}")]
    Ring(String),
    /// Somebody else has made a code, or another key, since this code was made.
    #[error("another recovery code or key was made meanwhile, and the code shown here opens nothing")]
    CodeVoid,
    /// In the clear, nobody could tell older copies from records; their files.
    #[error(
        "{} is an older copy, as from a backup, which would be used in the clear: first sign in ({}), or adopt it if it is the \
         latest all the same ({}), or remove the file",
        .0.join(", "), advised("login NAME"), advised("adopt NAME")
    )]
    OlderCopies(Vec<String>),
    /// There is no seal to change.
    #[error("the store is not sealed")]
    NotSealed,
    /// The system gives no random numbers.
    #[error("the system's random numbers cannot be had")]
    NoRandomness,
    /// The disk says no.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a change of the seal has left undone, in sentences: what could not be opened stays as it was. And which saves it
/// has finished.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Left(pub(crate) Vec<String>);

/// Reads the ring at the start. A ring that is missing where records need one is as bad as one that cannot be read.
pub(super) fn open(folder: &mut Folder) -> Sealing {
    let path = folder.path.join(RING).display().to_string();
    let unread = |why: String| Sealing::in_trouble(Trouble::Unread(why));
    let bytes = match folder.disk.read(RING) {
        Ok(bytes) => bytes,
        Err(ReadError::NotOurs(problem)) => {
            return unread(format!("{path} {problem}: put the file itself there, owned by you"));
        }
        Err(ReadError::TooLarge) => return unread(format!("{path} is larger than {LARGEST} bytes")),
        Err(ReadError::Io(error)) => return unread(io_error("read", &folder.path.join(RING), error).to_string()),
    };
    if let Some(bytes) = bytes {
        return match Ring::read(&bytes) {
            Ok(ring) => Sealing::with(ring),
            Err(seal::Unreadable::Newer(version)) => {
                unread(format!("{path} was written by a later valetd (format {version}): use that one"))
            }
            Err(seal::Unreadable::Garbage(problem)) => Sealing::in_trouble(Trouble::Lost(format!("{path} {problem}"))),
        };
    }
    let files = sealable(folder.disk.names().unwrap_or_default());
    let mut needs_ring =
        |file: &Sealable| folder.peek(&file.name).ok().flatten().is_some_and(|bytes| is_sealed(&bytes));
    match files.iter().any(&mut needs_ring) {
        true => {
            let why =
                format!("{path}, which holds the wrapped keys, is missing: put it back, from a backup if need be");
            Sealing::in_trouble(Trouble::Lost(why))
        }
        false => Sealing::default(),
    }
}

/// A new key, wrapped by what a source offers, takes the place of the one before. What is sealed under a key that is away
/// stays so, and its key stays in the ring: that is refused, unless the caller `leaves_behind` what it may. `unix_now`: for
/// the ring.
pub(super) fn seal(
    folder: &mut Folder,
    sealing: &mut Sealing,
    offer: &Offer,
    leaves_behind: bool,
    unix_now: u64,
) -> Result<Left, SealError> {
    if let Some(Trouble::Unread(why)) = sealing.trouble() {
        return Err(SealError::Ring(why.clone()));
    }
    if !leaves_behind {
        refuse_to_leave_behind(folder, sealing)?;
    }
    let id = KeyId::from_random(*random::<8>()?);
    let key = Key::from_bytes(random::<32>()?.as_slice()).expect("32 bytes");
    let slot = Slot::wrap(
        offer.kind.name(),
        offer.blob.clone(),
        (&offer.secret, stretch(offer.kind)),
        *random::<SLOT_RANDOM>()?,
        (&id, &key),
    );
    let mut ring = sealing.ring().cloned().unwrap_or_default();
    if ring.active.is_none() {
        // of a seal before this one: what was saved in the clear since was not counted. What somebody has put in its place is
        // told of by what follows
        let _ = generations::forget(folder);
    }
    ring.keys.push(RingKey { id: id.clone(), made_at: unix_now, slots: vec![slot] });
    ring.active = Some(id.clone());
    ring.because.clone_from(&offer.because);
    if sealing.trouble().is_some() && folder.peek(RING)?.is_some() {
        folder.set_aside(RING)?;
    }
    folder.replace(RING, &ring.write())?;
    sealing.replace_ring(Some(ring));
    sealing.hold(id, Held::AtHand(key));
    kept_generations(folder, sealing, true); // what keeps it from being so is said by what follows
    let mut left = finish(folder, sealing)?;
    forget_what_was_set_aside(folder)?;
    left.0.extend(copies_in_the_clear(folder)?);
    Ok(left)
}

/// Everything is in the clear again, and the ring is gone. Refused while there is an older copy of a record: that it is one
/// would be forgotten, and its refresh token presented.
pub(super) fn unseal(folder: &mut Folder, sealing: &mut Sealing) -> Result<Left, SealError> {
    refuse_to_leave_behind(folder, sealing)?;
    let older = older_copies(folder, sealing)?;
    if !older.is_empty() {
        return Err(SealError::OlderCopies(older));
    }
    let mut ring = ring_to_change(sealing)?;
    ring.active = None;
    folder.replace(RING, &ring.write())?;
    sealing.replace_ring(Some(ring));
    Ok(finish(folder, sealing)?)
}

/// Another way to the active key. Any but a recovery code takes the place of the one before: what opened the store until
/// now may be lost, and opens it no more. A recovery code stands beside those before it until its owner has seen it:
/// see [`void_codes_before`].
pub(super) fn add_slot(folder: &mut Folder, sealing: &mut Sealing, offer: &Offer) -> Result<(), SealError> {
    let mut ring = ring_to_change(sealing)?;
    let Some(id) = ring.active.clone() else { return Err(SealError::NotSealed) };
    let key = sealing.key(&id).map_err(|why| SealError::Locked(why.into_words()))?;
    let kind = offer.kind.name();
    let slot = Slot::wrap(
        kind,
        offer.blob.clone(),
        (&offer.secret, stretch(offer.kind)),
        *random::<SLOT_RANDOM>()?,
        (&id, key),
    );
    for key in ring.keys.iter_mut().filter(|key| key.id == id) {
        if offer.kind == Kind::Recovery {
            key.slots.push(slot.clone());
        } else {
            key.slots.retain(is_code);
            key.slots.insert(0, slot.clone());
        }
    }
    if offer.kind != Kind::Recovery {
        ring.because.clone_from(&offer.because);
    }
    folder.replace(RING, &ring.write())?;
    sealing.replace_ring(Some(ring));
    Ok(())
}

/// A recovery code of the active key has been seen: those before it are void. One that was made after it, by somebody else
/// at the same time, is not: nobody may have seen that yet.
///
/// # Errors
///
/// [`SealError::CodeVoid`] if it opens nothing any more.
pub(super) fn void_codes_before(folder: &mut Folder, sealing: &mut Sealing, code: &Secret) -> Result<(), SealError> {
    let mut ring = ring_to_change(sealing)?;
    let active = ring.active.clone();
    let key = ring.keys.iter_mut().find(|key| Some(&key.id) == active.as_ref()).ok_or(SealError::NotSealed)?;
    let is_seen = |slot: &Slot| is_code(slot) && slot.unwrap(&key.id, code).is_some();
    let seen = key.slots.iter().position(is_seen).ok_or(SealError::CodeVoid)?;
    let mut number = 0..;
    key.slots.retain(|slot| number.next() >= Some(seen) || !is_code(slot));
    folder.replace(RING, &ring.write())?;
    sealing.replace_ring(Some(ring));
    Ok(())
}

fn is_code(slot: &Slot) -> bool {
    slot.source == Kind::Recovery.name()
}

/// Brings every record and registration to how it would be written now, and drops the keys that none needs any more. Also
/// at every start: what a crash has left undone is done then.
pub(super) fn finish(folder: &mut Folder, sealing: &mut Sealing) -> Result<Left, StoreError> {
    let Some(ring) = sealing.ring().cloned() else { return Ok(Left::default()) };
    // before the first record that says that it is counted
    let mut left = Left(kept_generations(folder, sealing, false));
    let mut needed: Vec<KeyId> = ring.active.clone().into_iter().collect();
    for file in sealable(folder.names()?) {
        let Some(bytes) = folder.peek(&file.name)? else { continue };
        if sealing.is_as_written_now(&bytes) {
            // a record says so itself when it is loaded; a registration is read when it is used, which may be long after
            if let (SealableKind::Registration, Err(why)) = (file.kind, sealing.read_client(&bytes, &file.account)) {
                left.0.push(format!("{}: {}", file.name, why.into_words()));
            }
            continue;
        }
        let path = folder.path.join(&file.name);
        let nonce = random::<NONCE_LENGTH>().map_err(|_| no_randomness(path.clone()))?;
        match written_anew(sealing, &file, &bytes, *nonce) {
            Ok(written) => {
                let written = written.map_err(|why| StoreError::Locked { path, why: why.into_words() })?;
                match is_sealed(&bytes) {
                    false => folder.replace_and_overwrite(&file.name, &written)?,
                    true => folder.replace(&file.name, &written)?,
                }
            }
            // it stays as it is
            Err(why) => left.0.push(format!("{}: {}", file.name, why.into_words())),
        }
    }
    needed.extend(keys_in_use(folder)?);
    if ring.active.is_some() {
        needed.extend(generations::key_in_use(folder));
    }
    let mut kept =
        Ring { keys: ring.keys.iter().filter(|key| needed.contains(&key.id)).cloned().collect(), ..ring.clone() };
    if kept.keys.len() == ring.keys.len() {
        return Ok(left);
    }
    if kept.keys.is_empty() {
        // what somebody has put in its place is in nobody's way
        left.0.extend(generations::forget(folder).err().map(|error| error.to_string()));
        let path = folder.path.join(RING);
        let removed = folder.disk.remove(RING).and_then(|()| folder.disk.settle());
        removed.map_err(|error| StoreError::Io { action: "remove", path, error })?;
        sealing.replace_ring(None);
        return Ok(left);
    }
    if kept.active.is_none() {
        kept.because.clear();
    }
    folder.replace(RING, &kept.write())?;
    sealing.replace_ring(Some(kept));
    Ok(left)
}

/// Has the latest generations kept. No change and no start fails for that: what keeps it from being so, in sentences.
fn kept_generations(folder: &mut Folder, sealing: &mut Sealing, is_vouched_for: bool) -> Vec<String> {
    generations::keep(folder, sealing, is_vouched_for).unwrap_or_else(|error| vec![error.to_string()])
}

/// The same where a person seals what is sealed already: what is there now is as it should be.
pub(super) fn finish_vouched_for(folder: &mut Folder, sealing: &mut Sealing) -> Result<Left, StoreError> {
    kept_generations(folder, sealing, true);
    let mut left = finish(folder, sealing)?;
    // as where it is sealed for the first time: something may have come in the clear since
    forget_what_was_set_aside(folder)?;
    left.0.extend(copies_in_the_clear(folder)?);
    Ok(left)
}

/// What is to stand in a file, by what stands there.
///
/// # Errors
///
/// Why what stands there cannot be read; within, why nothing can be written.
fn written_anew(
    sealing: &Sealing,
    file: &Sealable,
    bytes: &[u8],
    nonce: [u8; NONCE_LENGTH],
) -> Result<Result<Zeroizing<Vec<u8>>, Unreadable>, Unreadable> {
    match file.kind {
        // as it is marked: what was copied from another machine does not become ours by this
        SealableKind::Record => {
            let Marked { record, machine, lay_in_the_clear, is_counted: _ } = sealing.read(bytes, &file.account)?;
            let has_credential = record.credential != Credential::default();
            let lay_in_the_clear = has_credential && (lay_in_the_clear || !is_sealed(bytes));
            let marks = Marks { machine: machine.as_deref(), lay_in_the_clear, ..Marks::default() };
            Ok(sealing.write(&record, marks, nonce))
        }
        SealableKind::Registration => {
            let registration = sealing.read_client(bytes, &file.account)?;
            Ok(sealing.write_client(&file.account, &registration, nonce))
        }
    }
}

/// The accounts whose credential lay in the clear before it was sealed, and has not been replaced since.
pub(super) fn exposed(folder: &mut Folder, sealing: &Sealing) -> Result<Vec<AccountId>, StoreError> {
    let mut found = Vec::new();
    for file in sealable(folder.names()?) {
        if file.kind != SealableKind::Record {
            continue; // no renewal spends it
        }
        let Some(bytes) = folder.peek(&file.name)?.filter(|bytes| is_sealed(bytes)) else { continue };
        if sealing.read(&bytes, &file.account).is_ok_and(|marked| marked.lay_in_the_clear) {
            found.push(file.account);
        }
    }
    Ok(found)
}

/// The keys that anything in the folder is sealed under, whatever it is called: what was renamed, swapped or set aside may
/// be put back.
fn keys_in_use(folder: &mut Folder) -> Result<Vec<KeyId>, StoreError> {
    let mut keys = Vec::new();
    for name in folder.names()? {
        keys.extend(folder.peek(&name)?.and_then(|bytes| key_of(&bytes)));
    }
    Ok(keys)
}

/// The ring, to be changed.
///
/// # Errors
///
/// [`SealError::Ring`] if it cannot be used; [`SealError::NotSealed`] if there is none.
pub(super) fn ring_to_change(sealing: &Sealing) -> Result<Ring, SealError> {
    match (sealing.ring(), sealing.trouble()) {
        (Some(ring), _) => Ok(ring.clone()),
        (None, Some(trouble)) => Err(SealError::Ring(trouble.why().to_owned())),
        (None, None) => Err(SealError::NotSealed),
    }
}

/// What people remember can be guessed; what machines make cannot.
fn stretch(kind: Kind) -> Option<Stretch> {
    match kind {
        Kind::Passphrase => Some(Stretch::FOR_PASSPHRASES),
        Kind::File | Kind::Command | Kind::Unit | Kind::Systemd | Kind::SecretService | Kind::Recovery => None,
    }
}

/// A change is refused while the key of a record or a registration is away: it would have to be left under the old one.
fn refuse_to_leave_behind(folder: &mut Folder, sealing: &Sealing) -> Result<(), SealError> {
    if sealing.trouble().is_some() {
        return Ok(()); // nothing of it can be opened any more; what is there stays
    }
    for Sealable { kind, account, name } in sealable(folder.names()?) {
        let Some(bytes) = folder.peek(&name)? else { continue };
        let read = match kind {
            SealableKind::Record => sealing.read(&bytes, &account).map(drop),
            SealableKind::Registration => sealing.read_client(&bytes, &account).map(drop),
        };
        if let Err(why @ Unreadable::Away(_)) = read {
            return Err(SealError::Locked(why.into_words()));
        }
    }
    Ok(())
}

/// The files of the records of which a later one was saved here.
fn older_copies(folder: &mut Folder, sealing: &Sealing) -> Result<Vec<String>, StoreError> {
    let kept = generations::find(folder, sealing);
    let mut found = Vec::new();
    for Sealable { kind, account, name } in sealable(folder.names()?) {
        let Some(latest) = kept.latest(&account).filter(|_| kind == SealableKind::Record) else { continue };
        let Some(bytes) = folder.peek(&name)? else { continue };
        if sealing.read(&bytes, &account).is_ok_and(|found| found.record.generation < latest) {
            found.push(folder.path.join(&name).display().to_string());
        }
    }
    Ok(found)
}

/// What could not be read, and was set aside in the clear, may hold a token.
fn forget_what_was_set_aside(folder: &mut Folder) -> Result<(), StoreError> {
    for name in folder.names()? {
        let Some((file, _)) = name.split_once(CORRUPT) else { continue };
        if Sealable::called(file).is_none() {
            continue;
        }
        let is_in_the_clear = folder.peek(&name)?.is_some_and(|bytes| !is_sealed(&bytes));
        if is_in_the_clear {
            folder.remove_and_overwrite(&name)?;
        }
    }
    let path = folder.path.clone();
    folder.disk.settle().map_err(|error| StoreError::Io { action: "save", path, error })
}

/// What is no file of ours and holds a credential in the clear all the same, as editors and people make copies. It is not ours
/// to remove.
fn copies_in_the_clear(folder: &mut Folder) -> Result<Vec<String>, StoreError> {
    let mut found = Vec::new();
    for name in folder.names()? {
        let holds_a_secret = |bytes: &[u8]| file::holds_a_credential(bytes) || holds_a_client(bytes);
        if Sealable::called(&name).is_none() && folder.peek(&name)?.is_some_and(|bytes| holds_a_secret(&bytes)) {
            found.push(format!("{name}: a copy of a credential, in the clear, that valetd has not made: remove it"));
        }
    }
    found.sort();
    Ok(found)
}

/// A file that is sealed where the store is, by its name.
struct Sealable {
    kind: SealableKind,
    account: AccountId,
    name: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SealableKind {
    Record,
    Registration,
}

impl Sealable {
    /// What a file of this name is, if it is one of these.
    fn called(name: &str) -> Option<Self> {
        let (kind, account) = match Registration::account_of(name) {
            Some(account) => (SealableKind::Registration, AccountId::new(account)?),
            None => (SealableKind::Record, account_of(name)?),
        };
        Some(Self { kind, account, name: name.to_owned() })
    }
}

/// The files that are sealed where the store is, in the order of their names.
fn sealable(mut names: Vec<String>) -> Vec<Sealable> {
    names.sort();
    names.iter().filter_map(|name| Sealable::called(name)).collect()
}

/// Whether this is a registration in the clear with a secret in it, whosever and whatever it is called.
fn holds_a_client(bytes: &[u8]) -> bool {
    let client = serde_json::from_slice(bytes).ok();
    client.and_then(|client| Registration::of(client, bytes)).is_some_and(|found| found.holds_a_secret())
}

pub(super) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, SealError> {
    random::bytes().map_err(|_| SealError::NoRandomness)
}
