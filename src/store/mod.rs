//! Credentials at rest: one file an account, replaced durably, under a lock.
//!
//! ```text
//! $XDG_STATE_HOME/valetd/      0700, ours, held by a kernel lock on `lock`
//!     gbdx.json                0600, one record
//!     .gbdx.json.tmp           a save under way; if it was cut short, the next start finishes it or removes it
//!     gbdx.sign-in.json        0600, a sign-in under way in a browser; ten minutes at the most
//!     gbdx.sign-in.lock        0600, held by the process in which a person is signing in, removed by a sign-out
//!     gbdx.client.json         0600, the client that was registered for it
//!     client.keys.json         0600, the client keys' hashes and rights
//!     seal.keys.json           0600, the keys that records are sealed under, wrapped; if they are sealed
//!     seal.generations.json    0600, sealed: the latest generation of each account; if they are sealed
//!     gbdx.json.corrupt-1      set aside because it could not be read; deleted by a logout alone
//! ```
//!
//! A save writes beside, reaches the disk, and only then takes the name, so that whatever happens at whatever moment,
//! the next load finds the old record or the new one, whole. Nothing is truncated in place, and nothing is written or
//! read through a symbolic link.
//!
//! * `file`: a record in the clear, and [`record`] itself; `seal`: a sealed one, and the ring; `sealing`: which of both it
//!   is to be; `reseal`: from the one to the other, and from key to key; `generations`: by which an older copy is known;
//! * `folder` and `disk`: files; `lock` and `holder`: who may use them.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::advice::advised;
use crate::config::{AccountId, Config, MachineSetting};
use crate::key_source::{KeySources, Kind, NoSecret, Offer};
use crate::platform::paths::{OwnFolder, Paths, knows_no_sync};
use crate::platform::{clock, machine, mounts};
use crate::secret::Secret;

mod change;
mod disk;
mod error;
#[cfg(test)]
mod faulty_disk;
mod file;
mod folder;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod generations;
#[cfg(test)]
mod generations_tests;
mod holder;
mod interrupted;
mod lock;
mod record;
#[cfg(test)]
mod registration_tests;
mod registrations;
mod reseal;
mod seal;
mod sealing;
#[cfg(test)]
mod sealing_tests;
mod spent;
#[cfg(test)]
mod tests;
mod turn;

pub(crate) use change::{SealChange, SealChanged};
use disk::{Disk, FolderDisk};
pub(crate) use error::StoreError;
use error::{CHANGE_MODE, io_error};
#[cfg(test)]
pub(crate) use faulty_disk::FaultyDisk;
use file::{Marked, Marks, Unreadable};
use folder::{CORRUPT, Folder, replace_beside_others, temporary_name};
use generations::Kept;
pub(crate) use holder::Holder;
use lock::lock;
pub(crate) use record::{Credential, NewCredential, Record, Servers, SetAside, Term, Trial};
pub(crate) use reseal::{Left, SealError};
use seal::NONCE_LENGTH;
use sealing::Sealing;
pub(crate) use turn::Turn;

/// Opens the store in its place, and fetches the keys that it is sealed with from where the configuration that is in force
/// says: nobody can open the store before having read that. A key that cannot be had is no error: see [`SealState`].
///
/// # Errors
///
/// Those of [`Store::open`].
pub(crate) fn open_store(paths: &Paths, config: &Config) -> Result<Store, StoreError> {
    open_store_with(paths, config, None)
}

/// The same with a passphrase that a person has typed.
///
/// # Errors
///
/// Those of [`Store::open`].
pub(crate) fn open_store_with(paths: &Paths, config: &Config, passphrase: Option<Secret>) -> Result<Store, StoreError> {
    let sources = KeySources::new(&config.store, &paths.state_dir).with_passphrase(passphrase);
    let mut store = open_soon(&paths.state_dir)?;
    store.follow(config);
    store.fetch(|kind, blob| sources.secret(kind, blob));
    Ok(store)
}

/// The same for who cannot wait for a source: a file may be a pipe, and a command or a service may take its time. All of
/// them are to be asked later ([`Store::unlock`]), and until then the store is opening.
///
/// # Errors
///
/// Those of [`Store::open`].
pub(crate) fn open_store_at_once(paths: &Paths, config: &Config) -> Result<Store, StoreError> {
    let mut store = open_soon(&paths.state_dir)?;
    store.follow(config);
    let is_opening = !store.inner().sealing.missing().is_empty();
    store.is_opening = AtomicBool::new(is_opening);
    Ok(store)
}

/// A command of the same user that has the folder just now needs a moment for what it does.
const MOMENT: Duration = Duration::from_secs(1);

/// How often it is looked whether it is done.
const GLANCE: Duration = Duration::from_millis(20);

/// Opens the folder, and waits a moment for another process that has it.
fn open_soon(dir: &Path) -> Result<Store, StoreError> {
    let deadline = clock::instant() + MOMENT;
    loop {
        match Store::open(dir) {
            Err(StoreError::Held { .. }) if clock::instant() < deadline => std::thread::sleep(GLANCE),
            opened => return opened,
        }
    }
}

/// How the credentials in a folder are sealed, if they are, and why their keys cannot be used, if it is not for the source:
/// read without the folder's lock, which a daemon may hold, and without asking anybody for a key.
pub(crate) fn seal_in(state_dir: &Path) -> SealState {
    if !state_dir.is_dir() {
        return SealState::default();
    }
    let Ok(beside) = Beside::open(state_dir) else { return SealState::default() };
    let mut folder = Folder { path: beside.folder, disk: Box::new(beside.disk) };
    let sealing = reseal::open(&mut folder);
    let SealState { sealed, locked, doubt: _ } = SealState::of(&sealing);
    let doubt = sealed.as_ref().and_then(|_| generations::doubt_of_file(&mut folder));
    SealState { sealed, locked: locked.filter(|_| sealing.trouble().is_some()), doubt }
}

/// On which machines records are used, and by what mark they are known to be this one's.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Machine {
    setting: MachineSetting,
    /// `None` where the system has no name for it: then any mark is another one's.
    mark: Option<String>,
}

impl Machine {
    /// Why a record with this mark is not used, if that is so.
    fn refuses(&self, found: Option<&str>) -> Option<&'static str> {
        match (self.setting, found, &self.mark) {
            (MachineSetting::Any, _, _) | (_, None | Some(ANY_MACHINE), _) => None,
            (MachineSetting::This, Some(found), Some(mark)) => (found != mark).then_some("another machine"),
            (MachineSetting::This, Some(_), None) => {
                Some("a machine that has a name (/etc/machine-id), which this one has not, so that it may be another")
            }
        }
    }
}

/// The mark of a record that any machine may use.
const ANY_MACHINE: &str = "any";

/// On which machines a record is used from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Adoption {
    /// On this one.
    ByThisMachine,
    /// On every one that has the folder.
    ByAnyMachine,
}

/// The folder of records. While it lives, no other process can open the same folder. Its calls wait for the disk.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    /// The mutex makes "compare the generation, then replace" one step for threads, as the lock does for processes.
    inner: Mutex<Inner>,
    /// How it is sealed, for who cannot wait for the disk.
    seal_state: watch::Sender<SealState>,
    is_opening: AtomicBool,
    is_held: AtomicBool,
    /// How often the keys were to be forgotten: what had been asked for before that opens nothing any more.
    holds: AtomicU64,
    machine: RwLock<Machine>,
    warnings: Vec<String>,
}

#[derive(Debug)]
struct Inner {
    folder: Folder,
    sealing: Sealing,
    /// Held for as long as the folder is; the tests' disks have none.
    lock: Option<File>,
    /// Where the process that holds it can be talked to, if it can.
    socket: Option<PathBuf>,
}

/// How the store is sealed. Nothing of it is secret.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct SealState {
    /// What it is sealed with; `None` if records are in the clear.
    pub sealed: Option<SealedWith>,
    /// Why records cannot be read or written now, if that is so.
    pub locked: Option<String>,
    /// Why it is not known of a record whether it is an older copy, if that is so.
    pub doubt: Option<String>,
}

/// What a store is sealed with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SealedWith {
    /// The active key's name.
    pub key: String,
    /// When it was made, in Unix seconds.
    pub since: u64,
    /// Where it comes from, in one word.
    pub source: String,
    /// Why from there, where the user has not named it, in sentences.
    pub because: Vec<String>,
    /// Whether there is a code that opens it, too.
    pub has_recovery: bool,
}

impl SealState {
    fn of(sealing: &Sealing) -> Self {
        let locked = sealing.shut().map(Unreadable::into_words);
        let ring = sealing.ring();
        // where unsealing was cut short, records are sealed still
        let key = ring.and_then(|ring| ring.active_key().or_else(|| ring.keys.last().filter(|_| locked.is_some())));
        let is_recovery = |slot: &&seal::Slot| slot.source == Kind::Recovery.name();
        let sealed = ring.zip(key).map(|(ring, key)| SealedWith {
            key: key.id.to_string(),
            since: key.made_at,
            source: key
                .slots
                .iter()
                .find(|slot| !is_recovery(slot))
                .map(|slot| slot.source.clone())
                .unwrap_or_default(),
            because: ring.because.clone(),
            has_recovery: key.slots.iter().any(|slot| is_recovery(&slot)),
        });
        Self { sealed, locked, doubt: sealing.doubt().cloned() }
    }
}

impl Store {
    /// Opens the folder, makes it if it is missing, and takes its lock. Repairs what others could read or write, finishes
    /// or removes what cut-off saves have left behind, and remembers in [`Store::warnings`] what a person should know of.
    ///
    /// # Errors
    ///
    /// [`StoreError::Held`] if another process has it; [`StoreError::Folder`] if it is a symbolic link or somebody
    /// else's; [`StoreError::Io`].
    pub(crate) fn open(dir: &Path) -> Result<Store, StoreError> {
        let mut warnings = Vec::new();
        let (folder, lock) = open_and_lock(dir, &mut warnings)?;
        let mut disk = FolderDisk::new(folder);
        if disk.sync().is_err_and(|error| knows_no_sync(&error)) {
            let dir = dir.display();
            warnings.push(format!(
                "the file system of {dir} cannot be asked to keep what is saved over a power cut: after one you may \
                 have to sign in again; --state-dir names a folder on another one"
            ));
        }
        if let Some(kind) = mounts::shared_without_locks(dir) {
            warnings.push(no_lock_for_others(dir, &kind));
        }
        for (name, mode) in disk.close_to_others().map_err(|error| io_error("look at", dir, error))? {
            warnings.push(opened_to_others(&dir.join(name), mode, 0o600));
        }
        Self::on(Box::new(disk), dir, Some(lock), warnings)
    }

    /// Has whoever finds the folder held know where its holder can be talked to.
    pub(crate) fn say_socket(&self, socket: &Path) {
        let mut inner = self.inner();
        inner.socket = Some(socket.to_owned());
        inner.say_socket();
    }

    /// A store for the simulation.
    #[cfg(test)]
    pub(crate) fn on_faulty_disk(disk: FaultyDisk) -> Self {
        Self::on(Box::new(disk), Path::new("/simulated"), None, Vec::new()).expect("no fault is planted yet")
    }

    /// A store on any disk.
    fn on(disk: Box<dyn Disk>, dir: &Path, lock: Option<File>, mut warnings: Vec<String>) -> Result<Self, StoreError> {
        let mut folder = Folder { path: dir.to_owned(), disk };
        for name in folder.disk.names().map_err(|error| io_error("read", dir, error))? {
            if name.contains(CORRUPT) {
                let path = dir.join(name);
                warnings.push(format!(
                    "{} was set aside because it could not be read; delete it when you have seen it",
                    path.display()
                ));
            }
        }
        let sealing = reseal::open(&mut folder);
        warnings.extend(interrupted::finish(&mut folder, &sealing)?);
        let seal_state = watch::Sender::new(SealState::of(&sealing));
        let inner = Mutex::new(Inner { folder, sealing, lock, socket: None });
        let is_opening = AtomicBool::new(false);
        Ok(Self {
            path: dir.to_owned(),
            inner,
            seal_state,
            is_opening,
            is_held: AtomicBool::new(false),
            holds: AtomicU64::new(0),
            machine: RwLock::new(Machine { setting: MachineSetting::This, mark: None }),
            warnings,
        })
    }

    /// What was found and repaired when the folder was opened, in sentences.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Reads an account's record; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] if the file could not be understood: it has another name now, and the next call finds
    /// `None`. [`StoreError::OtherMachine`] if it was last used on another machine; [`StoreError::OlderCopy`] if a later one
    /// was saved here. [`StoreError::Newer`], [`StoreError::NotOurFile`], [`StoreError::Io`].
    pub(crate) fn load(&self, account: &AccountId) -> Result<Option<Record>, StoreError> {
        let mut inner = self.inner();
        // before the record: another machine that has the folder writes it after the record
        let kept = inner.generations();
        let Some(Marked { record, machine, .. }) = inner.read(account)? else { return Ok(None) };
        if let Some(other) = self.machine().refuses(machine.as_deref()) {
            return Err(StoreError::OtherMachine { path: self.path(account), other });
        }
        if let Some(latest) = kept.latest(account).filter(|latest| *latest > record.generation) {
            return Err(StoreError::OlderCopy { path: self.path(account), found: record.generation, latest });
        }
        if let Kept::Known(..) = kept {
            self.note(&mut inner, kept, account, record.generation);
        }
        Ok(Some(record))
    }

    /// Notes a record's generation as the latest.
    fn note(&self, inner: &mut Inner, kept: Kept, account: &AccountId, generation: u64) {
        let Inner { folder, sealing, .. } = inner;
        generations::note(folder, sealing, kept, account, generation);
        if self.seal_state.borrow().doubt.as_ref() != sealing.doubt() {
            self.publish_seal(sealing);
        }
    }

    /// Uses records from here on as a configuration says. Returns whether that is something else than before.
    pub(crate) fn follow(&self, config: &Config) -> bool {
        self.use_machine(Machine { setting: config.store.machine, mark: machine::mark() })
    }

    fn use_machine(&self, machine: Machine) -> bool {
        let mut known = self.machine.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *known, machine.clone()) != machine
    }

    fn machine(&self) -> Machine {
        self.machine.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The accounts whose stored credential lay in the clear before it was sealed, and has not been replaced since.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`]
    pub(crate) fn still_exposed(&self) -> Result<Vec<AccountId>, StoreError> {
        let Inner { folder, sealing, .. } = &mut *self.inner();
        reseal::exposed(folder, sealing)
    }

    /// The generation that the store has, or had last, of an account; 0 if none is known.
    pub(crate) fn generation(&self, account: &AccountId) -> u64 {
        let mut inner = self.inner();
        let latest = inner.generations().latest(account).unwrap_or_default();
        inner.read(account).ok().flatten().map_or(latest, |found| found.record.generation.max(latest))
    }

    /// Has a record used on this machine from now on, or on any, also if it is an older copy: then it is the latest from now
    /// on. Returns whether there is one.
    ///
    /// # Errors
    ///
    /// Those of [`Store::load`] and [`Store::save`].
    pub(crate) fn adopt(&self, account: &AccountId, adoption: Adoption) -> Result<bool, StoreError> {
        let mut inner = self.inner();
        let kept = inner.generations();
        let Some(Marked { mut record, lay_in_the_clear, .. }) = inner.read(account)? else { return Ok(false) };
        if let Some(latest) = kept.latest(account).filter(|latest| *latest > record.generation) {
            record.generation = latest.saturating_add(1);
        }
        let machine = match adoption {
            Adoption::ByThisMachine => self.machine().mark,
            Adoption::ByAnyMachine => Some(ANY_MACHINE.to_owned()),
        };
        let marks = Marks { machine: machine.as_deref(), lay_in_the_clear, ..Marks::default() };
        let bytes = inner.written(&record, marks, &self.path(account))?;
        inner.folder.replace(&file_name(account), &bytes)?;
        self.note(&mut inner, kept, account, record.generation);
        Ok(true)
    }

    /// Replaces an account's record. When this has returned, the new one survives a power cut.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stale`] if the file holds a later generation (the same one may be saved again), or a later one was saved
    /// or removed here;
    /// [`StoreError::Locked`] and [`StoreError::KeyGone`] if it would have to be sealed and cannot be;
    /// [`StoreError::Newer`], [`StoreError::NotOurFile`], [`StoreError::Io`]. The old record is still there, whole,
    /// unless the very last step failed: then it is the new one, and saving it again is right in either case.
    pub(crate) fn save(&self, record: &Record) -> Result<(), StoreError> {
        self.in_its_folder(|| self.save_here(record))
    }

    /// Sees whether a record could be saved: as much as it has is made durable beside it, and removed. Holds nothing of it.
    ///
    /// # Errors
    ///
    /// Those of [`Store::save`] that its disk and its seal give.
    pub(crate) fn probe(&self, record: &Record) -> Result<(), StoreError> {
        self.in_its_folder(|| self.probe_here(record))
    }

    fn probe_here(&self, record: &Record) -> Result<(), StoreError> {
        let mut inner = self.inner();
        let path = self.path(&record.account);
        let length = inner.written(record, Marks::default(), &path)?.len();
        match inner.read(&record.account) {
            // that something can be sealed is known: a key that is away is an earlier one, as at a save
            Ok(_) | Err(StoreError::Corrupt { .. } | StoreError::KeyGone { .. } | StoreError::Locked { .. }) => {}
            Err(error) => return Err(error),
        }
        let disk = &mut inner.folder.disk;
        let name = temporary_name(PROBE);
        let mut written = disk.remove(&name); // of a probe that was cut short
        written = written.and_then(|()| disk.write_new(&name, &vec![b' '; length]));
        let _ = disk.remove(&name);
        written.map_err(|error| io_error("save", &path, error))
    }

    /// Does something in the folder that is held; once more in the one that has its name by now, if it is gone. Whatever is
    /// in that one is compared with, as ever.
    fn in_its_folder(&self, step: impl Fn() -> Result<(), StoreError>) -> Result<(), StoreError> {
        match step() {
            Err(StoreError::Io { error, .. })
                if error.kind() == io::ErrorKind::NotFound && self.inner().reopen(&self.path)? =>
            {
                step()
            }
            done => done,
        }
    }

    /// [`Store::save`] in the folder that is held.
    fn save_here(&self, record: &Record) -> Result<(), StoreError> {
        let mut inner = self.inner();
        let path = self.path(&record.account);
        // before anything is set aside for it
        let nonce = inner.nonce(&path)?;
        let name = file_name(&record.account);
        let kept = inner.generations();
        let latest = kept.latest(&record.account).unwrap_or_default();
        let found = match inner.read(&record.account) {
            Ok(found) => {
                let latest = found.as_ref().map_or(latest, |found| found.record.generation.max(latest));
                if latest > record.generation {
                    return Err(StoreError::Stale { path, found: latest, offered: record.generation });
                }
                found
            }
            // what could not be understood has been set aside: its name is free
            Err(StoreError::Corrupt { .. }) => None,
            // only a sign-in gets here: nobody has a record of this account at hand. That something can be sealed is known,
            // so a key that is away is an earlier one, which a person has left behind
            Err(StoreError::KeyGone { .. } | StoreError::Locked { .. }) => {
                inner.folder.set_aside(&name)?;
                None
            }
            Err(error) => return Err(error),
        };
        let mark = self.machine().mark;
        let is_for_any = found.as_ref().is_some_and(|found| found.machine.as_deref() == Some(ANY_MACHINE));
        let machine = if is_for_any { Some(ANY_MACHINE) } else { mark.as_deref() };
        let is_same = |found: &Marked| found.record.credential == record.credential;
        let lay_in_the_clear = found.is_some_and(|found| found.lay_in_the_clear && is_same(&found));
        let marks = Marks { machine, lay_in_the_clear, ..Marks::default() };
        let bytes = inner.written_with(nonce, record, marks, &path)?;
        inner.folder.replace(&name, &bytes)?;
        self.note(&mut inner, kept, &record.account, record.generation);
        Ok(())
    }

    /// Fetches the keys at the start. What is left undone, but for keys that are away, is a warning.
    fn fetch(&mut self, ask: impl FnMut(Kind, Option<&str>) -> Result<Secret, NoSecret>) {
        match self.unlock(ask) {
            Ok(Left(left)) => self.warnings.extend(left),
            Err(SealError::Locked(_)) => {} // the status says so for as long as it is so
            Err(error) => self.warnings.push(error.to_string()),
        }
    }

    /// Whether the key is being asked for, and nobody knows yet whether it will come.
    pub(crate) fn is_opening(&self) -> bool {
        self.is_opening.load(Ordering::Acquire)
    }

    /// Whether a person has had the keys forgotten: then nobody asks for them but a person.
    pub(crate) fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Acquire)
    }

    /// A person wants the keys forgotten: what is being asked for just now brings none, and nothing is read any more. What
    /// is at hand can still be saved, until [`Store::forget_keys`]. Returns the number of this order.
    pub(crate) fn hold(&self) -> u64 {
        let _whole = self.inner();
        self.is_held.store(true, Ordering::Release);
        self.holds.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The number of the latest order to hold: to be noted by who begins to ask for the keys again.
    pub(crate) fn latest_hold(&self) -> u64 {
        self.holds.load(Ordering::Acquire)
    }

    /// A person asks for the keys again, unless somebody wanted them forgotten after the order that was noted.
    pub(crate) fn let_go(&self, noted: u64) {
        let _whole = self.inner();
        if self.latest_hold() == noted {
            self.is_held.store(false, Ordering::Release);
        }
    }

    /// From here on it is known.
    pub(crate) fn has_been_asked(&self) {
        self.is_opening.store(false, Ordering::Release);
    }

    /// Fetches the keys that are not at hand from where `ask` says, and does what a crash in a save or in a change of the
    /// seal has left undone. Waits for the sources. Returns what was finished or could not be done, in sentences.
    ///
    /// # Errors
    ///
    /// [`SealError`], if nothing can be read or written.
    pub(crate) fn unlock(
        &self,
        mut ask: impl FnMut(Kind, Option<&str>) -> Result<Secret, NoSecret>,
    ) -> Result<Left, SealError> {
        let (missing, holds) = {
            let mut inner = self.inner();
            let Inner { folder, sealing, .. } = &mut *inner;
            if sealing.trouble().is_some() {
                *sealing = reseal::open(folder); // somebody may have mended it
            }
            (inner.sealing.missing(), self.latest_hold())
        };
        // not under the mutex: a command may take its time
        let fetch = |key: &seal::RingKey| {
            let mut is_asked = true;
            let held = sealing::fetch(key, &mut |kind, blob| {
                ask(kind, blob).inspect_err(|why| is_asked &= *why != NoSecret::NotAsked)
            });
            is_asked.then(|| (key.id.clone(), held))
        };
        let found: Vec<_> = missing.iter().filter_map(fetch).collect();
        self.change(|folder, sealing| {
            if self.latest_hold() != holds {
                return Err(SealError::Locked("somebody has locked it meanwhile".to_owned()));
            }
            for (id, held) in found {
                sealing.hold(id, held);
            }
            match sealing.shut() {
                Some(shut) => Err(SealError::Locked(shut.into_words())),
                None => {
                    let mut said = interrupted::finish(folder, sealing)?;
                    let Left(left) = reseal::finish(folder, sealing)?;
                    said.extend(left);
                    Ok(Left(said))
                }
            }
        })
    }

    /// Whether what `ask` says opens the active key, whether that is at hand or not. Waits for the sources.
    pub(crate) fn opens(&self, mut ask: impl FnMut(Kind, Option<&str>) -> Result<Secret, NoSecret>) -> bool {
        let key = self.inner().sealing.ring().and_then(|ring| ring.active_key().cloned());
        key.is_some_and(|key| matches!(sealing::fetch(&key, &mut ask), sealing::Held::AtHand(_)))
    }

    /// Seals every record, and every one that is saved from now on, under a new key, which is wrapped by what a source
    /// offers. Where they are sealed already, the new key takes the place of the old one. Safe to be cut short anywhere.
    ///
    /// # Errors
    ///
    /// [`SealError`]; then the next start goes on from where this has come to.
    pub(crate) fn seal(&self, offer: &Offer, unix_now: u64) -> Result<Left, SealError> {
        self.change(|folder, sealing| reseal::seal(folder, sealing, offer, false, unix_now))
    }

    /// The same where a key is away, and a person has said that it may stay so: what is sealed under it is left as it is, and
    /// its key in the ring.
    ///
    /// # Errors
    ///
    /// [`SealError`]
    pub(crate) fn seal_anew(&self, offer: &Offer, unix_now: u64) -> Result<Left, SealError> {
        self.change(|folder, sealing| reseal::seal(folder, sealing, offer, true, unix_now))
    }

    /// Whether the active key is kept as the sources have it now: by one of this kind, and it opens.
    fn is_kept_by(&self, kind: Kind, sources: &KeySources) -> bool {
        let key = self.inner().sealing.ring().and_then(|ring| ring.active_key().cloned());
        let Some(key) = key else { return false };
        let of_every_day = key.slots.iter().find(|slot| slot.source != Kind::Recovery.name());
        of_every_day.filter(|slot| slot.source == kind.name()).is_some_and(|slot| {
            let secret = sources.secret(kind, slot.blob.as_deref());
            secret.is_ok_and(|secret| slot.unwrap(&key.id, &secret).is_some())
        })
    }

    /// Whether what `ask` says opens any key of the ring, whether that is at hand or not. Waits for the sources.
    pub(crate) fn opens_any(&self, mut ask: impl FnMut(Kind, Option<&str>) -> Result<Secret, NoSecret>) -> bool {
        let ring = self.inner().sealing.ring().cloned();
        let opens = |key: &seal::RingKey| matches!(sealing::fetch(key, &mut ask), sealing::Held::AtHand(_));
        ring.is_some_and(|ring| ring.keys.iter().any(opens))
    }

    /// Whether there is a ring that can be used.
    ///
    /// # Errors
    ///
    /// [`SealError::Ring`], [`SealError::NotSealed`]
    fn has_ring(&self) -> Result<(), SealError> {
        reseal::ring_to_change(&self.inner().sealing).map(|_| ())
    }

    /// Whether another ring may take the place of the one that there is: not of one that may be whole and cannot be read, and
    /// of one that is lost where a person has given that up.
    ///
    /// # Errors
    ///
    /// [`SealError::Ring`]
    fn may_have_another_ring(&self, is_given_up: bool) -> Result<(), SealError> {
        match self.inner().sealing.trouble() {
            Some(sealing::Trouble::Unread(why)) => Err(SealError::Ring(why.clone())),
            Some(sealing::Trouble::Lost(why)) if !is_given_up => {
                Err(SealError::Ring(format!("{why}; where it is lost for good: {}", advised("seal on --new-key"))))
            }
            Some(sealing::Trouble::Lost(_)) | None => Ok(()),
        }
    }

    /// Brings what a change of the seal has left undone to its end, for a person who says that all be sealed.
    fn go_on(&self) -> Result<Left, SealError> {
        Ok(self.change(reseal::finish_vouched_for)?)
    }

    /// The recovery code that the sources have at hand has been seen: those before it are void.
    ///
    /// # Errors
    ///
    /// [`SealError::CodeVoid`] if it is void itself.
    fn void_codes_before(&self, sources: &KeySources) -> Result<(), SealError> {
        let code = sources.secret(Kind::Recovery, None).map_err(|_| SealError::CodeVoid)?;
        self.change(|folder, sealing| reseal::void_codes_before(folder, sealing, &code))
    }

    /// Brings every record into the clear. Safe to be cut short anywhere.
    ///
    /// # Errors
    ///
    /// [`SealError`]; then the next start goes on from where this has come to.
    pub(crate) fn unseal(&self) -> Result<Left, SealError> {
        self.change(reseal::unseal)
    }

    /// By which sources keys of the ring are kept, with what those want back.
    fn ways(&self) -> Vec<(Kind, Option<String>)> {
        let inner = self.inner();
        let slots = inner.sealing.ring().into_iter().flat_map(|ring| &ring.keys).flat_map(|key| &key.slots);
        slots.filter_map(|slot| Some((Kind::named(&slot.source)?, slot.blob.clone()))).collect()
    }

    /// Adds one more way to the active key; it takes the place of one of its kind.
    ///
    /// # Errors
    ///
    /// [`SealError`]
    pub(crate) fn add_way(&self, offer: &Offer) -> Result<(), SealError> {
        self.change(|folder, sealing| reseal::add_slot(folder, sealing, offer))
    }

    /// Forgets the keys, for this reason, if it is held still: from here on, what is sealed can be neither read nor
    /// replaced. Returns whether it is so.
    pub(crate) fn forget_keys(&self, why: &str) -> bool {
        self.change(|_, sealing| {
            let is_held = self.is_held();
            if is_held {
                sealing.forget_keys(why);
            }
            is_held
        })
    }

    /// How the store is sealed. Waits for nothing.
    pub(crate) fn seal_state(&self) -> SealState {
        self.seal_state.borrow().clone()
    }

    /// Tells of changes of the same.
    pub(crate) fn watch_seal(&self) -> watch::Receiver<SealState> {
        self.seal_state.subscribe()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Folder, &mut Sealing) -> T) -> T {
        let Inner { folder, sealing, .. } = &mut *self.inner();
        let changed = change(folder, sealing);
        self.publish_seal(sealing);
        changed
    }

    fn publish_seal(&self, sealing: &Sealing) {
        let state = SealState::of(sealing);
        self.seal_state.send_if_modified(|known| std::mem::replace(known, state.clone()) != state);
    }

    /// Forgets an account's record, and what was set aside of earlier ones, which may hold tokens; done if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub(crate) fn remove(&self, account: &AccountId) -> Result<(), StoreError> {
        self.remove_here(account, true)
    }

    /// Forgets an account's record that was a trial's and came to nothing; what was set aside of earlier ones stays.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub(crate) fn take_back(&self, account: &AccountId) -> Result<(), StoreError> {
        self.remove_here(account, false)
    }

    fn remove_here(&self, account: &AccountId, takes_what_was_set_aside: bool) -> Result<(), StoreError> {
        let Inner { folder, sealing, .. } = &mut *self.inner();
        let name = file_name(account);
        let last = folder.peek(&name).ok().flatten().and_then(|bytes| sealing.read(&bytes, account).ok());
        let disk = &mut folder.disk;
        let set_aside = format!("{name}{CORRUPT}");
        let mut steps = || {
            disk.remove(&temporary_name(&name))?; // of a save that failed: nothing is left to be finished
            disk.remove(&name)?;
            let kept = if takes_what_was_set_aside { disk.names()? } else { Vec::new() };
            for kept in kept.iter().filter(|found| found.starts_with(&set_aside)) {
                disk.remove(kept)?;
            }
            disk.settle()
        };
        steps().map_err(|error| io_error("remove", &self.path(account), error))?;
        if let Some(Marked { record, .. }) = last {
            generations::note_removed(folder, sealing, account, record.generation);
        }
        Ok(())
    }

    /// Forgets a sign-in that is under way in a browser. One that cannot be removed is of no use soon.
    pub(crate) fn forget_pending(&self, account: &AccountId) {
        let _ = self.inner().folder.disk.remove(&pending_name(account));
    }

    /// Ends a sign-in that is under way, in whichever process: what it brings is not wanted any more. Returns what it is known
    /// by, if there is one.
    pub(crate) fn end_sign_in(&self, account: &AccountId) -> Option<String> {
        let mut inner = self.inner();
        let (disk, name) = (&mut inner.folder.disk, turn::file_name(account));
        let id = disk.read(&name).ok().flatten().and_then(|file| turn::id_in(&file));
        let _ = disk.remove(&name);
        id
    }

    /// Reads a file that is no account's; `None` if there is none. Its name has a dot before the last one.
    ///
    /// # Errors
    ///
    /// Those of [`Store::load`]; [`StoreError::Corrupt`] with what `understand` says.
    pub(crate) fn read_file<T>(
        &self,
        name: &str,
        understand: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<Option<T>, StoreError> {
        self.inner().folder.read_as(name, |bytes| understand(bytes).map_err(Unreadable::Garbage))
    }

    /// Replaces a file that is no account's. When this has returned, the new one survives a power cut.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`]; the old file is still there, whole, as with [`Store::save`].
    pub(crate) fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.inner().folder.replace(name, bytes)
    }

    fn path(&self, account: &AccountId) -> PathBuf {
        self.path.join(file_name(account))
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        // a panic between two steps is no worse than a crash there, which every step is prepared for
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Takes hold of the folder that has the name now, if the one that is held has been removed and another one was made.
    /// One that nobody has made again is not made here: whoever removed it may have wanted that. Returns whether there is
    /// another one.
    fn reopen(&mut self, dir: &Path) -> Result<bool, StoreError> {
        let Some(held) = self.lock.as_ref().and_then(|lock| lock.metadata().ok()) else { return Ok(false) };
        let is_held = |found: Metadata| (found.dev(), found.ino()) == (held.dev(), held.ino());
        if dir.symlink_metadata().is_err() || dir.join(lock::LOCK).symlink_metadata().is_ok_and(is_held) {
            return Ok(false);
        }
        let (folder, lock) = open_and_lock(dir, &mut Vec::new())?;
        self.folder.disk = Box::new(FolderDisk::new(folder));
        self.lock = Some(lock);
        self.say_socket();
        // what is sealed is of no use without it
        if let Some(ring) = self.sealing.ring() {
            self.folder.replace(reseal::RING, &ring.write())?;
            self.sealing.counts(false); // nothing was counted in there
        }
        Ok(true)
    }

    fn say_socket(&mut self) {
        if let (Some(lock), Some(socket)) = (&mut self.lock, &self.socket) {
            lock::say_socket(lock, socket);
        }
    }

    fn generations(&mut self) -> Kept {
        generations::find(&mut self.folder, &self.sealing)
    }

    fn read(&mut self, account: &AccountId) -> Result<Option<Marked>, StoreError> {
        let Self { folder, sealing, .. } = self;
        folder.read_as(&file_name(account), |bytes| sealing.read(bytes, account))
    }

    /// What is to stand in a record's file.
    fn written(
        &self,
        record: &Record,
        marks: Marks<'_>,
        path: &Path,
    ) -> Result<zeroize::Zeroizing<Vec<u8>>, StoreError> {
        self.written_with(self.nonce(path)?, record, marks, path)
    }

    /// What a record is written with, once: where it can be had, a record can be written.
    fn nonce(&self, path: &Path) -> Result<zeroize::Zeroizing<[u8; NONCE_LENGTH]>, StoreError> {
        match self.sealing.shut() {
            Some(shut) => Err(not_written(shut, path)),
            None => reseal::random().map_err(|error| not_written(Unreadable::Away(error.to_string()), path)),
        }
    }

    fn written_with(
        &self,
        nonce: zeroize::Zeroizing<[u8; NONCE_LENGTH]>,
        record: &Record,
        marks: Marks<'_>,
        path: &Path,
    ) -> Result<zeroize::Zeroizing<Vec<u8>>, StoreError> {
        self.sealing.write(record, marks, *nonce).map_err(|unreadable| not_written(unreadable, path))
    }
}

/// What of a seal keeps something from being written, as an error of the store.
fn not_written(unreadable: Unreadable, path: &Path) -> StoreError {
    let path = path.to_owned();
    match unreadable {
        Unreadable::Gone(why) => StoreError::KeyGone { path, why },
        Unreadable::Away(why) | Unreadable::Garbage(why) => StoreError::Locked { path, why },
        Unreadable::Newer(version) => StoreError::Newer { path, version },
    }
}

/// Small files in the store's folder that are no records: they are read and replaced without its lock, which a daemon may
/// hold.
#[derive(Debug)]
pub(crate) struct Beside {
    folder: PathBuf,
    disk: FolderDisk,
}

impl Beside {
    /// Opens the folder, and makes it if it is missing.
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        Ok(Self { folder: dir.to_owned(), disk: FolderDisk::new(OwnFolder::open_or_make(dir)?) })
    }

    /// A whole file, if it is there and ours.
    pub(crate) fn read(&mut self, name: &str) -> Option<zeroize::Zeroizing<Vec<u8>>> {
        self.disk.read(name).ok().flatten()
    }

    /// Replaces a file, for us alone.
    pub(crate) fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        replace_beside_others(&mut self.disk, name, bytes)
            .map_err(|error| io_error("save", &self.folder.join(name), error))
    }

    /// Removes a file. One that cannot be removed is of no use soon.
    pub(crate) fn remove(&mut self, name: &str) {
        let _ = self.disk.remove(name);
    }
}

/// Opens the folder, closes it to others, and takes its lock.
fn open_and_lock(dir: &Path, warnings: &mut Vec<String>) -> Result<(OwnFolder, File), StoreError> {
    let folder = OwnFolder::open_or_make(dir)?;
    if folder.mode() != 0o700 {
        let path = dir.to_owned();
        let only_ours = folder.handle().set_permissions(PermissionsExt::from_mode(0o700));
        let is_open = folder.mode() & 0o077 != 0;
        match only_ours {
            Err(error) if is_open => return Err(StoreError::Io { action: CHANGE_MODE, path, error }),
            Ok(()) if is_open => warnings.push(opened_to_others(dir, folder.mode(), 0o700)),
            Ok(()) | Err(_) => {}
        }
    }
    let lock = lock(&folder)?;
    Ok((folder, lock))
}

// An account's name has no dot in it, so none of these names can meet another.

fn file_name(account: &AccountId) -> String {
    format!("{account}.json")
}

/// Of the sign-in that is under way in a browser.
pub(crate) fn pending_name(account: &AccountId) -> String {
    format!("{account}.sign-in.json")
}

/// What may come of a file system that other machines have, too, and whose locks are none for them.
pub(crate) fn no_lock_for_others(dir: &Path, kind: &str) -> String {
    format!(
        "{} lies on a file system ({kind}) that other machines may have, too, and no lock there keeps them out: two of \
         them that renew one sign-in look like a theft to the server; --state-dir names a folder on a local disk",
        dir.display()
    )
}
/// What [`Store::probe`] writes; the next start removes it.
const PROBE: &str = "probe";

fn opened_to_others(path: &Path, found: u32, now: u32) -> String {
    format!(
        "{} was open to other users (mode {found:04o}) and is {now:04o} now: if somebody may have read it, sign in again",
        path.display()
    )
}
