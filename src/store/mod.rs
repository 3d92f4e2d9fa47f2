//! Credentials at rest: one file an account, replaced durably, under a lock.
//!
//! ```text
//! $XDG_STATE_HOME/valetd/      0700, ours, held by a kernel lock on `lock`
//!     gbdx.json                0600, one record
//!     .gbdx.json.tmp           a save under way; removed at the next start if it was cut short
//!     gbdx.sign-in.json        0600, a sign-in under way in a browser; ten minutes at the most
//!     gbdx.sign-in.lock        0600, held by the process in which a person is signing in
//!     client.keys.json         0600, the client keys' hashes and rights
//!     gbdx.json.corrupt-1      set aside because it could not be read; deleted by a logout alone
//! ```
//!
//! A save writes beside, reaches the disk, and only then takes the name, so that whatever happens at whatever moment,
//! the next load finds the old record or the new one, whole. Nothing is truncated in place, and nothing is written or
//! read through a symbolic link.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::config::{AccountId, Config};
use crate::platform::paths::{OwnFolder, Paths, knows_no_sync};

mod disk;
mod error;
#[cfg(test)]
mod faulty_disk;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod lock;
mod record;
#[cfg(test)]
mod tests;

use disk::{Disk, FolderDisk};
pub(crate) use error::StoreError;
use error::{CHANGE_MODE, io_error};
#[cfg(test)]
pub(crate) use faulty_disk::FaultyDisk;
use lock::{lock, lock_file};
pub(crate) use record::{Credential, NewCredential, Record, Servers, SetAside, Term, Trial};

/// Opens the store in its place. It takes the configuration that is in force, so that nobody can open the store before
/// having read it: how credentials are sealed at rest will be said there.
///
/// # Errors
///
/// Those of [`Store::open`].
pub(crate) fn open_store(paths: &Paths, _: &Config) -> Result<Store, StoreError> {
    Store::open(&paths.state_dir)
}

/// The folder of records. While it lives, no other process can open the same folder. Its calls wait for the disk.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    /// The mutex makes "compare the generation, then replace" one step for threads, as the lock does for processes.
    disk: Mutex<Box<dyn Disk>>,
    warnings: Vec<String>,
    _lock: Option<File>,
}
impl Store {
    /// Opens the folder, makes it if it is missing, and takes its lock. Repairs what others could read or write, removes
    /// what cut-off saves have left behind, and remembers in [`Store::warnings`] what a person should know of.
    ///
    /// # Errors
    ///
    /// [`StoreError::Held`] if another process has it; [`StoreError::Folder`] if it is a symbolic link or somebody
    /// else's; [`StoreError::Io`].
    pub(crate) fn open(dir: &Path) -> Result<Store, StoreError> {
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
                "the file system of {dir} cannot be asked to keep what is saved over a power cut: after one you may \
                 have to sign in again; --state-dir names a folder on another one"
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
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Reads an account's record; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] if the file could not be understood: it has another name now, and the next call finds
    /// `None`. [`StoreError::Newer`], [`StoreError::NotOurFile`], [`StoreError::Io`].
    pub(crate) fn load(&self, account: &AccountId) -> Result<Option<Record>, StoreError> {
        self.read(&mut **self.disk(), account)
    }

    /// Replaces an account's record. When this has returned, the new one survives a power cut.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stale`] if the file holds a later generation (the same one may be saved again);
    /// [`StoreError::Newer`], [`StoreError::NotOurFile`], [`StoreError::Io`]. The old record is still there, whole,
    /// unless the very last step failed: then it is the new one, and saving it again is right in either case.
    pub(crate) fn save(&self, record: &Record) -> Result<(), StoreError> {
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
    pub(crate) fn remove(&self, account: &AccountId) -> Result<(), StoreError> {
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

    /// Forgets a sign-in that is under way in a browser. One that cannot be removed is of no use soon.
    pub(crate) fn forget_pending(&self, account: &AccountId) {
        let _ = self.disk().remove(&pending_name(account));
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
        let understand = |bytes: &[u8]| understand(bytes).map_err(file::Unreadable::Garbage);
        self.read_as(&mut **self.disk(), name, understand)
    }

    /// Replaces a file that is no account's. When this has returned, the new one survives a power cut.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`]; the old file is still there, whole, as with [`Store::save`].
    pub(crate) fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
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

    /// Takes the kernel lock of an account's sign-in, without waiting for it. It ends with the file, or with the process.
    ///
    /// # Errors
    ///
    /// [`StoreError::Held`] if another process has it; [`StoreError::Io`].
    pub(crate) fn hold(dir: &Path, account: &AccountId) -> Result<File, StoreError> {
        lock_file(&OwnFolder::open_or_make(dir)?, &format!("{account}.sign-in.lock"))
    }

    /// A whole file, if it is there and ours.
    pub(crate) fn read(&mut self, name: &str) -> Option<zeroize::Zeroizing<Vec<u8>>> {
        self.disk.read(name).ok().flatten()
    }

    /// Replaces a file, for us alone.
    pub(crate) fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        replace(&mut self.disk, name, bytes).map_err(|error| io_error("save", &self.folder.join(name), error))
    }

    /// Removes a file. One that cannot be removed is of no use soon.
    pub(crate) fn remove(&mut self, name: &str) {
        let _ = self.disk.remove(name);
    }
}

/// What a file that could not be read has in its new name, before a number.
const CORRUPT: &str = ".corrupt-";

// An account's name has no dot in it, so none of these names can meet another.

fn file_name(account: &AccountId) -> String {
    format!("{account}.json")
}

/// Of the sign-in that is under way in a browser.
pub(crate) fn pending_name(account: &AccountId) -> String {
    format!("{account}.sign-in.json")
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

fn opened_to_others(path: &Path, found: u32, now: u32) -> String {
    format!(
        "{} was open to other users (mode {found:04o}) and is {now:04o} now: if somebody may have read it, sign in again",
        path.display()
    )
}
