//! A disk with the folder's name: files read as something, or set aside; files replaced as a whole.

use std::io;
use std::path::PathBuf;

use tracing::debug;
use zeroize::Zeroizing;

use super::disk::{self, Disk};
use super::error::StoreError;
use super::file::Unreadable;
use crate::config::AccountId;

/// What a file that could not be read has in its new name, before a number.
pub(super) const CORRUPT: &str = ".corrupt-";

/// A disk, and what its folder is called.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) disk: Box<dyn Disk>,
}

impl Folder {
    /// The names of everything in it.
    pub(super) fn names(&mut self) -> Result<Vec<String>, StoreError> {
        self.disk.names().map_err(|error| StoreError::Io { action: "read", path: self.path.clone(), error })
    }

    /// Reads a file as something; `None` if there is none. What cannot be understood gets another name.
    pub(super) fn read_as<T>(
        &mut self,
        name: &str,
        understand: impl FnOnce(&[u8]) -> Result<T, Unreadable>,
    ) -> Result<Option<T>, StoreError> {
        let path = self.path.join(name);
        let problem = match self.disk.read(name) {
            Ok(None) => return Ok(None),
            Ok(Some(bytes)) => match understand(&bytes) {
                Ok(found) => return Ok(Some(found)),
                Err(Unreadable::Newer(version)) => return Err(StoreError::Newer { path, version }),
                Err(Unreadable::Away(why)) => return Err(StoreError::Locked { path, why }),
                Err(Unreadable::Gone(why)) => return Err(StoreError::KeyGone { path, why }),
                Err(Unreadable::Garbage(problem)) => problem,
            },
            Err(disk::ReadError::TooLarge) => format!("is larger than {} bytes", disk::LARGEST),
            Err(disk::ReadError::NotOurs(problem)) => return Err(StoreError::NotOurFile { path, problem }),
            Err(disk::ReadError::Io(error)) => return Err(StoreError::Io { action: "read", path, error }),
        };
        let kept_as = self.set_aside(name)?;
        Err(StoreError::Corrupt { path, problem, kept_as })
    }

    /// The bytes of a file that is ours and no larger than ours are.
    pub(super) fn peek(&mut self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        match self.disk.read(name) {
            Ok(bytes) => Ok(bytes),
            Err(disk::ReadError::TooLarge | disk::ReadError::NotOurs(_)) => Ok(None),
            Err(disk::ReadError::Io(error)) => {
                Err(StoreError::Io { action: "read", path: self.path.join(name), error })
            }
        }
    }

    /// Gives a file a name that nobody asks for; returns that.
    pub(super) fn set_aside(&mut self, name: &str) -> Result<String, StoreError> {
        let mut steps = || {
            let names = self.disk.names()?;
            let free = |number: &u64| !names.contains(&format!("{name}{CORRUPT}{number}"));
            let number = (1..).find(free).expect("there are more numbers than files");
            let kept_as = format!("{name}{CORRUPT}{number}");
            self.disk.rename(name, &kept_as)?;
            self.disk.settle()?;
            Ok(kept_as)
        };
        let path = self.path.join(name);
        steps().map_err(|error| StoreError::Io { action: "set aside the unreadable", path, error })
    }

    /// The same, and what was there before is overwritten, as far as that can be done.
    pub(super) fn replace_and_overwrite(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let before = self.disk.hold(name);
        self.replace(name, bytes)?;
        // where names are not kept over a power cut, the name may be that of the old file again
        let is_settled = before.is_some() && self.disk.sync().is_ok();
        if let Some(Err(error)) = before.filter(|_| is_settled).map(disk::overwrite) {
            debug!(name, %error, "what lay there in the clear is not overwritten");
        }
        Ok(())
    }

    /// Removes a file, and overwrites what was in it, as far as that can be done. Its name may come back after a power cut.
    pub(super) fn remove_and_overwrite(&mut self, name: &str) -> Result<(), StoreError> {
        let before = self.disk.hold(name);
        let path = self.path.join(name);
        self.disk.remove(name).map_err(|error| StoreError::Io { action: "remove", path, error })?;
        if let Some(Err(error)) = before.map(disk::overwrite) {
            debug!(name, %error, "what lay there in the clear is not overwritten");
        }
        Ok(())
    }

    /// Replaces a file. After a power cut it is the old one or the new one, whole.
    pub(super) fn replace_unsettled(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path.join(name);
        let replaced = replace_by(&mut *self.disk, name, &temporary_name(name), bytes, Settling::Later);
        replaced.map_err(|error| StoreError::Io { action: "save", path, error })
    }

    /// Replaces a file. When this has returned, the new one survives a power cut.
    pub(super) fn replace(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path.join(name);
        replace(&mut *self.disk, name, bytes).map_err(|error| StoreError::Io { action: "save", path, error })
    }
}

/// Writes beside, reaches the disk, and only then takes the name.
pub(super) fn replace(disk: &mut dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    replace_by(disk, name, &temporary_name(name), bytes, Settling::Now)
}

/// The same for a file that several processes may write at a time, each beside under a name of its own. One that starts
/// clears away what it takes for the rest of a save that was cut off: then once more.
pub(super) fn replace_beside_others(disk: &mut dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_name(&format!("{name}.{}", std::process::id()));
    match replace_by(disk, name, &temporary, bytes, Settling::Now) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            replace_by(disk, name, &temporary, bytes, Settling::Now)
        }
        replaced => replaced,
    }
}

/// When a new name reaches the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settling {
    Now,
    /// With whatever is settled next.
    Later,
}

fn replace_by(disk: &mut dyn Disk, name: &str, temporary: &str, bytes: &[u8], settling: Settling) -> io::Result<()> {
    let mut steps = || {
        disk.remove(temporary)?; // of a save that failed so badly that not even this could be done
        disk.write_new(temporary, bytes)?;
        disk.rename(temporary, name)?;
        match settling {
            Settling::Now => disk.settle(),
            Settling::Later => Ok(()),
        }
    };
    let replaced = steps();
    if replaced.is_err() {
        let _ = disk.remove(temporary);
    }
    replaced
}

/// Whose record a file of this name is, if it is one's.
pub(super) fn account_of(name: &str) -> Option<AccountId> {
    AccountId::new(name.strip_suffix(".json")?)
}

/// Of a save under way.
pub(super) fn temporary_name(name: &str) -> String {
    format!(".{name}.tmp")
}

/// The name that a save under way is to take.
pub(super) fn name_of_temporary(temporary: &str) -> Option<&str> {
    temporary.strip_prefix('.')?.strip_suffix(".tmp")
}
