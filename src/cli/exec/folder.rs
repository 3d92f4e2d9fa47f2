//! The folder of one command's sockets and files, which goes with it.
//!
//! Who was killed leaves it behind, and the next command sweeps. Whether a folder's command lives is told by a lock on it: the
//! number of a process says nothing to those in other namespaces of processes.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::cli::failure::Failure;
use crate::platform::paths::OwnFolder;
use crate::platform::random;

/// What its name begins with.
const PREFIX: &str = "exec-";

/// Held while folders are made and swept, so that nobody sweeps one that is not locked yet.
const SWEEPING: &str = ".exec.lock";

/// The lock in each folder.
const LIVING: &str = "lock";

#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Locked as long as this lives.
    _living: File,
}

impl Folder {
    /// Makes one below `runtime`, and removes those whose commands are no more.
    pub(super) fn make(runtime: &Path) -> Result<Self, Failure> {
        let runtime = OwnFolder::open_or_make(runtime).map_err(Failure::new)?;
        let making =
            |error| Failure::new(error).while_doing(format!("making a folder in {}", runtime.path().display()));
        let sweeping = lock_file(&runtime.path().join(SWEEPING)).map_err(making)?;
        sweeping.lock().map_err(making)?;
        sweep(runtime.path());
        let path = runtime.path().join(format!("{PREFIX}{}", random::name::<8>().map_err(Failure::new)?));
        OwnFolder::open_or_make(&path).map_err(Failure::new)?;
        let living = lock_file(&path.join(LIVING)).map_err(making)?;
        living.lock().map_err(making)?;
        Ok(Self { path, _living: living })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file that the command may read.
    #[expect(clippy::disallowed_methods, reason = "nothing secret, and nothing that must outlive a crash")]
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        let path = self.path.join(name);
        std::fs::write(&path, text)
            .map_err(|error| Failure::new(error).while_doing(format!("writing {}", path.display())))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

#[expect(clippy::disallowed_methods, reason = "nothing is written to it")]
fn lock_file(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)
}

#[expect(clippy::disallowed_methods, reason = "a command's own folder")]
fn remove(folder: &Path) {
    let _ = std::fs::remove_dir_all(folder);
}

/// Removes the folders that nobody holds the lock of.
fn sweep(runtime: &Path) {
    for entry in std::fs::read_dir(runtime).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_ours && is_folder && !is_locked(&entry.path().join(LIVING)) {
            remove(&entry.path());
        }
    }
}

fn is_locked(lock: &Path) -> bool {
    match File::open(lock).map(|file| file.try_lock()) {
        Ok(Ok(())) => false,
        Ok(Err(_)) => true,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_with_its_command_and_what_a_killed_one_has_left_with_the_next() {
        let runtime = tempfile::tempdir().unwrap();
        let runtime = runtime.path().join("valetd");
        let living = Folder::make(&runtime).unwrap();
        let killed = Folder::make(&runtime).unwrap();
        killed.write("file", "text").unwrap();
        let left = killed.path().to_owned();
        drop(killed);
        assert!(!left.exists());
        // killed: the lock is gone, and the folder is not
        for folder in ["exec-killed", "exec-unlocked"] {
            std::fs::create_dir(runtime.join(folder)).unwrap();
        }
        std::fs::write(runtime.join("exec-killed/lock"), "").unwrap();
        std::fs::write(runtime.join("valetd.sock.exec-x"), "").unwrap();
        let next = Folder::make(&runtime).unwrap();
        assert!(living.path().exists() && next.path().exists() && living.path() != next.path());
        assert!(!runtime.join("exec-killed").exists() && !runtime.join("exec-unlocked").exists());
        assert!(runtime.join("valetd.sock.exec-x").exists(), "a socket of the daemon's");
    }
}
