//! Credentials at rest: one file an account, replaced durably, under a lock.
//!
//! ```text
//! $XDG_STATE_HOME/valetd/      0700, ours, held by a kernel lock on `lock`
//!     gbdx.json                0600, one record
//!     .gbdx.json.tmp           a save under way; removed at the next start if it was cut short
//!     client.keys.json         0600, the client keys' hashes and rights
//!     gbdx.json.corrupt-1      set aside because it could not be read; deleted by a logout alone
//! ```
//!
//! A save writes beside, reaches the disk, and only then takes the name, so that whatever happens at whatever moment,
//! the next load finds the old record or the new one, whole. Nothing is truncated in place, and nothing is written or
//! read through a symbolic link.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::config::{Account, AccountId, Origin, provider};
use crate::platform::clock::wall;
use crate::platform::paths::{FolderError, OwnFolder, knows_no_sync};
use crate::renewal::Why;
use crate::secret::Secret;

mod disk;
#[cfg(test)]
mod faulty_disk;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod import;

use disk::{Disk, FolderDisk};
#[cfg(test)]
pub(crate) use faulty_disk::FaultyDisk;

/// What is stored of one account. Times are Unix seconds by the wall clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose.
    pub account: AccountId,
    /// Grows by one with every new credential; a file is never replaced by one with a lower number.
    pub generation: u64,
    /// The client that the refresh token was issued to: another one cannot use it.
    pub client_id: Option<String>,
    /// The origin of the token endpoint that issued it.
    pub issued_by: String,
    /// The origins of the other endpoints that it may be sent to; `None` in a record of a valetd that did not note them.
    pub others: Option<Vec<String>>,
    /// What signs in without a person.
    pub credential: Credential,
    /// When this credential was received.
    pub received_at: u64,
    /// When the refresh token is expected to die, if anything is known of it.
    pub refresh_expires_at: Option<u64>,
    /// Who is signed in, as far as the server told (`sub`, `email` or user name).
    pub identity: Option<String>,
    /// How long access tokens live whose answers do not state it, in milliseconds, if that was learnt.
    pub learnt_life: Option<u64>,
    /// Set before the refresh token is spent, cleared by the answer: a record loaded with it set means that an answer
    /// may have been lost.
    pub redeeming: bool,
    /// The server's last word on this credential, if it was a refusal. The credential is kept, but not used.
    pub set_aside: Option<SetAside>,
}

/// What signs in without a person. At least one of the two is there, except for grants that need neither.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credential {
    /// The refresh token.
    pub refresh_token: Option<Secret>,
    /// User name and password, only where the account says `keep_password`.
    pub password: Option<(String, Secret)>,
}

/// What a sign-in hands in.
#[derive(Clone, Debug)]
pub struct NewCredential {
    /// What signs in from now on.
    pub credential: Credential,
    /// The client that the refresh token was issued to, where it is not the configured one.
    pub client_id: Option<String>,
    /// The refresh token's life from now on, in seconds, if the server told it.
    pub refresh_lifetime: Option<u64>,
    /// Who signed in, as far as the server told.
    pub identity: Option<String>,
    /// The servers that were configured where the person signed in, if that is known: the account as it is saved may
    /// name others by now.
    pub servers: Option<Servers>,
}

/// The servers that a credential may be sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Servers {
    /// The token endpoint's origin.
    pub issued_by: String,
    /// The other endpoints' origins, each once, without that one.
    pub others: Vec<String>,
}

impl Servers {
    /// Those of an account as it is configured.
    pub fn of(account: &Account) -> Self {
        let mut origins = account.credential_endpoints().map(|(_, endpoint)| endpoint.origin.to_string());
        let issued_by = origins.next().expect("a token endpoint comes first");
        let others: BTreeSet<String> = origins.filter(|origin| *origin != issued_by).collect();
        Self { issued_by, others: others.into_iter().collect() }
    }
}

/// A refusal that only a new sign-in can mend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// Why.
    pub why: Why,
    /// When.
    pub at: u64,
    /// The server's code, if it gave one.
    pub oauth_error: Option<String>,
}

impl Record {
    /// The record of a sign-in. `today` is in Unix seconds.
    pub fn new(account: &Account, generation: u64, new: NewCredential, today: u64) -> Self {
        let NewCredential { credential, client_id, refresh_lifetime, identity, servers } = new;
        let Servers { issued_by, others } = servers.unwrap_or_else(|| Servers::of(account));
        Self {
            account: account.id.clone(),
            generation,
            client_id: client_id.or_else(|| account.client_id.clone()),
            issued_by,
            others: Some(others),
            credential,
            received_at: today,
            refresh_expires_at: refresh_lifetime.map(|life| today.saturating_add(life)),
            identity,
            learnt_life: None,
            redeeming: false,
            set_aside: None,
        }
    }

    /// Whether the account, as it is configured now, is the one that this was issued to: the same client, the same token
    /// endpoint's origin, and no endpoint that would be sent the credential on an origin that was not there then.
    pub fn was_issued_to(&self, account: &Account) -> bool {
        self.issued_by == account.token_endpoint.origin.to_string()
            && self.client_id == account.client_id
            && account.credential_endpoints().all(|(_, endpoint)| self.may_be_sent_to(&endpoint.origin))
    }

    /// Whether the credential may be sent to an origin. Where the others were not noted, those are taken that the presets
    /// in the binary itself name beside this token endpoint: nobody's edits are among them.
    pub fn may_be_sent_to(&self, origin: &Origin) -> bool {
        let origin = origin.to_string();
        self.issued_by == origin
            || match &self.others {
                Some(others) => others.contains(&origin),
                None => provider::shipped_origins(&self.issued_by).contains(&origin),
            }
    }

    /// Why the refresh token is not sent to where the account would revoke it, as the end of a sentence. `None` if it may
    /// be, or if there is no such place.
    pub fn not_to_be_revoked_at(&self, account: &Account) -> Option<String> {
        let endpoint = account.revocation_endpoint.as_ref()?;
        (!self.may_be_sent_to(&endpoint.origin)).then(|| {
            let Self { issued_by, .. } = self;
            let origin = &endpoint.origin;
            format!(
                "revocation_endpoint is now on {origin}, and the refresh token is of {issued_by}, where it lives on until \
                 it expires"
            )
        })
    }

    /// Notes the servers of the account, if this was issued to it, where that was not done at the sign-in.
    pub fn note_servers(&mut self, account: &Account) {
        if self.others.is_none() && self.was_issued_to(account) {
            self.others = Some(Servers::of(account).others);
        }
    }
}

/// The folder of records. While it lives, no other process can open the same folder. Its calls wait for the disk.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    /// The mutex makes "compare the generation, then replace" one step for threads, as the lock does for processes.
    disk: Mutex<Box<dyn Disk>>,
    warnings: Vec<String>,
    _lock: Option<File>,
}

/// Why something could not be stored or read. Each is one sentence with its remedy, and names no secret.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder cannot be used.
    #[error("credentials cannot be stored: {0}")]
    Folder(#[from] FolderError),
    /// Another process has the folder.
    #[error("{} holds {}: stop it first, or use another --state-dir", holder(*pid), folder.display())]
    Held {
        /// The folder.
        folder: PathBuf,
        /// The process that has it, if it has left its number.
        pid: Option<u32>,
    },
    /// The system says no. Worth another try when the cause is mended.
    #[error("cannot {action} {}: {error}{}", path.display(), remedy(action, error))]
    Io {
        /// What we were doing: "save", "read", ...
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The name belongs to something that is not a file of ours: a symbolic link, a folder, somebody else's file.
    #[error("{} {problem}: move it away, then try again", path.display())]
    NotOurFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The file could not be understood, and has got another name.
    #[error("{} {problem}; it is kept as {kept_as}: sign in again", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// Its new name, in the same folder.
        kept_as: String,
    },
    /// The file was written by a later valetd. It is left alone.
    #[error("{} was written by a later valetd (format {version}, this one knows {}): use that one", path.display(), file::VERSION)]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u64,
    },
    /// The file holds a later generation than the one that was to replace it. It is left alone.
    #[error("{} holds generation {found}, which is later than {offered}: it is not replaced", path.display())]
    Stale {
        /// The file.
        path: PathBuf,
        /// The generation in it.
        found: u64,
        /// The generation that was to be saved.
        offered: u64,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another valetd".to_owned(), |pid| format!("another valetd (pid {pid})"))
}

/// What cannot be done to a folder or its files on a file system that keeps no modes (FAT, some network file systems).
const CHANGE_MODE: &str = "change the mode of";

/// What cannot be done on a file system without locks (flock(2)).
const TAKE_LOCK: &str = "lock";

fn remedy(action: &str, error: &io::Error) -> &'static str {
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported if action == CHANGE_MODE => {
            ": it is open to other users, and its file system does not let that be changed; name a folder on another file \
             system with --state-dir"
        }
        _ if action == TAKE_LOCK
            && matches!(number, Some(Errno::NOLCK | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL)) =>
        {
            ": its file system has no locks, and without one two daemons would spend the same refresh tokens; name a folder \
             on another file system with --state-dir"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ": make room on its file system",
        io::ErrorKind::ReadOnlyFilesystem => {
            ": its file system is read-only; mount it writable, or use another --state-dir"
        }
        io::ErrorKind::PermissionDenied => ": check who owns the folder and whether a sandbox forbids writing to it",
        _ => "",
    }
}

/// Of the file under which the kernel lock is held.
const LOCK: &str = "lock";

impl Store {
    /// Opens the folder, makes it if it is missing, and takes its lock. Repairs what others could read or write, removes
    /// what cut-off saves have left behind, and remembers in [`Store::warnings`] what a person should know of.
    ///
    /// # Errors
    ///
    /// [`StoreError::Held`] if another process has it; [`StoreError::Folder`] if it is a symbolic link or somebody
    /// else's; [`StoreError::Io`].
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        let folder = OwnFolder::open_or_make(dir)?;
        let mut warnings = Vec::new();
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
        let mut disk = FolderDisk::new(folder);
        if disk.sync().is_err_and(|error| knows_no_sync(&error)) {
            let dir = dir.display();
            warnings.push(format!(
                "the file system of {dir} cannot be asked to keep what is saved over a power cut: after one you may have to \
                 sign in again; --state-dir names a folder on another one"
            ));
        }
        for (name, mode) in disk.close_to_others().map_err(|error| io_error("look at", dir, error))? {
            warnings.push(opened_to_others(&dir.join(name), mode, 0o600));
        }
        Self::on(Box::new(disk), dir, Some(lock), warnings)
    }

    /// A store for the simulation.
    #[cfg(test)]
    pub(crate) fn on_faulty_disk(disk: FaultyDisk) -> Self {
        Self::on(Box::new(disk), Path::new("/simulated"), None, Vec::new()).expect("no fault is planted yet")
    }

    /// A store on any disk.
    fn on(
        mut disk: Box<dyn Disk>,
        dir: &Path,
        lock: Option<File>,
        mut warnings: Vec<String>,
    ) -> Result<Self, StoreError> {
        for name in disk.names().map_err(|error| io_error("read", dir, error))? {
            if is_temporary(&name) {
                // the lock is ours, so nobody is still writing it
                if let Err(error) = disk.remove(&name) {
                    warnings.push(io_error("remove", &dir.join(name), error).to_string());
                }
            } else if name.contains(CORRUPT) {
                let path = dir.join(name);
                warnings.push(format!(
                    "{} was set aside because it could not be read; delete it when you have seen it",
                    path.display()
                ));
            }
        }
        Ok(Self { folder: dir.to_owned(), disk: Mutex::new(disk), warnings, _lock: lock })
    }

    /// What was found and repaired when the folder was opened, in sentences.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Reads an account's record; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] if the file could not be understood: it has another name now, and the next call finds
    /// `None`. [`StoreError::Newer`], [`StoreError::NotOurFile`], [`StoreError::Io`].
    pub fn load(&self, account: &AccountId) -> Result<Option<Record>, StoreError> {
        self.read(&mut **self.disk(), account)
    }

    /// Replaces an account's record. When this has returned, the new one survives a power cut.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stale`] if the file holds a later generation (the same one may be saved again);
    /// [`StoreError::Newer`], [`StoreError::NotOurFile`], [`StoreError::Io`]. The old record is still there, whole,
    /// unless the very last step failed: then it is the new one, and saving it again is right in either case.
    pub fn save(&self, record: &Record) -> Result<(), StoreError> {
        let mut disk = self.disk();
        let path = self.path(&record.account);
        match self.read(&mut **disk, &record.account) {
            Ok(Some(found)) if found.generation > record.generation => {
                return Err(StoreError::Stale { path, found: found.generation, offered: record.generation });
            }
            // what could not be understood has been set aside: its name is free
            Ok(_) | Err(StoreError::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
        let name = file_name(&record.account);
        let bytes = file::write(record);
        replace(&mut **disk, &name, &bytes).map_err(|error| StoreError::Io { action: "save", path, error })
    }

    /// Forgets an account's record, and what was set aside of earlier ones, which may hold tokens; done if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub fn remove(&self, account: &AccountId) -> Result<(), StoreError> {
        let mut disk = self.disk();
        let name = file_name(account);
        let set_aside = format!("{name}{CORRUPT}");
        let mut steps = || {
            disk.remove(&name)?;
            for kept in disk.names()?.iter().filter(|found| found.starts_with(&set_aside)) {
                disk.remove(kept)?;
            }
            disk.settle()
        };
        steps().map_err(|error| io_error("remove", &self.path(account), error))
    }

    /// Reads a file that is no account's; `None` if there is none. Its name has a dot before the last one.
    ///
    /// # Errors
    ///
    /// Those of [`Store::load`]; [`StoreError::Corrupt`] with what `understand` says.
    pub fn read_file<T>(
        &self,
        name: &str,
        understand: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<Option<T>, StoreError> {
        let understand = |bytes: &[u8]| understand(bytes).map_err(file::Unreadable::Garbage);
        self.read_as(&mut **self.disk(), name, understand)
    }

    /// Replaces a file that is no account's. When this has returned, the new one survives a power cut.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`]; the old file is still there, whole, as with [`Store::save`].
    pub fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        replace(&mut **self.disk(), name, bytes).map_err(|error| io_error("save", &self.folder.join(name), error))
    }

    fn read(&self, disk: &mut dyn Disk, account: &AccountId) -> Result<Option<Record>, StoreError> {
        self.read_as(disk, &file_name(account), |bytes| file::read(bytes, account))
    }

    fn read_as<T>(
        &self,
        disk: &mut dyn Disk,
        name: &str,
        understand: impl FnOnce(&[u8]) -> Result<T, file::Unreadable>,
    ) -> Result<Option<T>, StoreError> {
        let path = self.folder.join(name);
        let problem = match disk.read(name) {
            Ok(None) => return Ok(None),
            Ok(Some(bytes)) => match understand(&bytes) {
                Ok(found) => return Ok(Some(found)),
                Err(file::Unreadable::Newer(version)) => return Err(StoreError::Newer { path, version }),
                Err(file::Unreadable::Garbage(problem)) => problem,
            },
            Err(disk::ReadError::TooLarge) => format!("is larger than {} bytes", disk::LARGEST),
            Err(disk::ReadError::NotOurs(problem)) => return Err(StoreError::NotOurFile { path, problem }),
            Err(disk::ReadError::Io(error)) => return Err(StoreError::Io { action: "read", path, error }),
        };
        let mut set_aside = || {
            let names = disk.names()?;
            let free = |number: &u64| !names.contains(&format!("{name}{CORRUPT}{number}"));
            let number = (1..).find(free).expect("there are more numbers than files");
            let kept_as = format!("{name}{CORRUPT}{number}");
            disk.rename(name, &kept_as)?;
            disk.settle()?;
            Ok(kept_as)
        };
        match set_aside() {
            Ok(kept_as) => Err(StoreError::Corrupt { path, problem, kept_as }),
            Err(error) => Err(StoreError::Io { action: "set aside the unreadable", path, error }),
        }
    }

    fn path(&self, account: &AccountId) -> PathBuf {
        self.folder.join(file_name(account))
    }

    fn disk(&self) -> std::sync::MutexGuard<'_, Box<dyn Disk>> {
        // a panic between two steps is no worse than a crash there, which every step is prepared for
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a file that could not be read has in its new name, before a number.
const CORRUPT: &str = ".corrupt-";

// An account's name has no dot in it, so none of these names can meet another.

fn file_name(account: &AccountId) -> String {
    format!("{account}.json")
}

fn temporary_name(name: &str) -> String {
    format!(".{name}.tmp")
}

/// Writes beside, reaches the disk, and only then takes the name.
fn replace(disk: &mut dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_name(name);
    let mut steps = || {
        disk.remove(&temporary)?; // of a save that failed so badly that not even this could be done
        disk.write_new(&temporary, bytes)?;
        disk.rename(&temporary, name)?;
        disk.settle()
    };
    let replaced = steps();
    if replaced.is_err() {
        let _ = disk.remove(&temporary);
    }
    replaced
}

fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".tmp")
}

fn io_error(action: &'static str, path: &Path, error: io::Error) -> StoreError {
    StoreError::Io { action, path: path.to_owned(), error }
}

fn opened_to_others(path: &Path, found: u32, now: u32) -> String {
    format!(
        "{} was open to other users (mode {found:04o}) and is {now:04o} now: if somebody may have read it, sign in again",
        path.display()
    )
}

/// Takes the folder's kernel lock, which ends with the process however it ends, and says in the file whose it is.
fn lock(folder: &OwnFolder) -> Result<File, StoreError> {
    let failed = |error: io::Error| io_error(TAKE_LOCK, &folder.path().join(LOCK), error);
    let open = |flags| {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(folder, LOCK, flags, Mode::RUSR | Mode::WUSR)
    };
    let opened = match open(OFlags::RDWR | OFlags::CREATE) {
        Err(Errno::ROFS) => open(OFlags::RDONLY), // what is stored there can still be used
        opened => opened,
    };
    let mut file = File::from(opened.map_err(|error| failed(error.into()))?);
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut words = String::new();
            let _ = file.take(100).read_to_string(&mut words); // a help for people; the lock itself is what counts
            let pid = words.strip_prefix("pid ").and_then(|rest| rest.split_whitespace().next()?.parse().ok());
            return Err(StoreError::Held { folder: folder.path().to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let now = jiff::Timestamp::try_from(wall()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let words = format!("pid {} started {}\n", std::process::id(), now.strftime("%FT%TZ"));
    let write = |file: &mut File| {
        match file.set_permissions(PermissionsExt::from_mode(0o600)) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {} // it has no modes there, and no secret in it
            changed => changed?,
        }
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(words.as_bytes())
    };
    match write(&mut file).map_err(|error| (error.kind(), error)) {
        // a lock without words is still a lock
        Ok(()) | Err((io::ErrorKind::StorageFull | io::ErrorKind::ReadOnlyFilesystem, _)) => Ok(file),
        Err((_, error)) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests;
