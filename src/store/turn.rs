//! A person's sign-in that is under way: one of an account at a time, and void from when somebody signs out.
//!
//! Its file is held by a kernel lock and names the sign-in. A sign-out removes the file, so that whoever still has it open
//! sees that it is gone, and whoever has signed out knows which sign-in it was.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::error::StoreError;
use super::lock::lock_file;
use crate::config::AccountId;
use crate::platform::paths::OwnFolder;
use crate::platform::random;

/// A sign-in under way. It ends when this is dropped, or with the process.
#[derive(Debug)]
pub(crate) struct Turn {
    file: File,
    id: Option<String>,
}

impl Turn {
    /// Begins one, without waiting for another that is under way.
    ///
    /// # Errors
    ///
    /// [`StoreError::Held`] if another process has it; [`StoreError::Io`].
    pub(crate) fn take(dir: &Path, account: &AccountId) -> Result<Self, StoreError> {
        let folder = OwnFolder::open_or_make(dir)?;
        loop {
            let mut turn = Self { file: lock_file(&folder, &file_name(account))?, id: None };
            if turn.is_void() {
                continue; // somebody has signed out between opening and locking it: the next one is another file
            }
            let id = random::name::<8>().ok();
            // where nothing can be written it has no name, and is a turn all the same
            turn.id = id.filter(|id| turn.file.write_all(format!("{ID}{id}\n").as_bytes()).is_ok());
            return Ok(turn);
        }
    }

    /// What it is known by to whoever is handed what it brings.
    pub(crate) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Whether somebody has signed out since it was begun: then what it brings is not wanted any more.
    pub(crate) fn is_void(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }
}

/// What the line of the file begins with that names the sign-in.
const ID: &str = "sign-in ";

/// The name of the file.
pub(super) fn file_name(account: &AccountId) -> String {
    format!("{account}.sign-in.lock")
}

/// The sign-in that such a file names. Pure.
pub(super) fn id_in(file: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(ID)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;

    #[test]
    fn a_sign_in_is_one_at_a_time_and_void_after_a_sign_out() {
        let folder = tempfile::tempdir().unwrap();
        let lab = AccountId::new("lab").unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.end_sign_in(&lab), None, "there is none");
        let turn = Turn::take(folder.path(), &lab).unwrap();
        assert!(!turn.is_void() && turn.id().is_some());
        let error = Turn::take(folder.path(), &lab).unwrap_err();
        assert!(matches!(&error, StoreError::Held { by, .. } if by.pid == Some(std::process::id())), "{error:?}");
        assert_eq!(store.end_sign_in(&lab).as_deref(), turn.id());
        assert!(turn.is_void());
        let next = Turn::take(folder.path(), &lab).unwrap();
        assert!(!next.is_void() && turn.is_void() && next.id() != turn.id());
    }
}
