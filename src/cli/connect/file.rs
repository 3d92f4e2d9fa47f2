//! A client's configuration file: read, kept as it was, replaced as a whole.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::platform::io_error::words;
use crate::platform::replacement::{Replacement, leads_to, lock_folder_of};
use crate::platform::termination::uninterrupted;

/// A larger one is no configuration that a person looks at.
const LARGEST: u64 = 16 * 1024 * 1024;

/// A file as it is now.
#[derive(Debug)]
pub(super) struct Current {
    /// Where it is: what a link leads to.
    path: PathBuf,
    /// `None` if there is none.
    pub(super) text: Option<String>,
    mode: u32,
}

impl Current {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// Why not, as the end of a sentence.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let path = leads_to(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                "is a link that leads nowhere: make the folder that it leads to, or remove it".to_owned()
            }
            _ => format!("cannot be read: {error}"),
        })?;
        let mut text = String::new();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self { path, text: None, mode: 0o600 }),
            Err(error) => return Err(format!("cannot be read: {error}")),
        };
        let metadata = file.metadata().map_err(|error| format!("cannot be read: {error}"))?;
        if !metadata.is_file() || metadata.len() > LARGEST {
            return Err("is no configuration file".to_owned());
        }
        match file.take(LARGEST).read_to_string(&mut text) {
            Ok(_) => Ok(Self { path, text: Some(text), mode: metadata.mode() & 0o777 }),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err("is no UTF-8 text".to_owned()),
            Err(error) => Err(format!("cannot be read: {error}")),
        }
    }

    /// Where it is kept as it was before.
    pub(super) fn backup(&self) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".before-valetd");
        self.path.with_file_name(name)
    }

    /// As it was before, if that is kept.
    pub(super) fn before(&self) -> Option<String> {
        fs::read_to_string(self.backup()).ok()
    }

    /// Replaces it, and keeps what it was, unless there is no reason to.
    ///
    /// # Errors
    ///
    /// Why not, as the end of a sentence.
    pub(super) fn replace(&self, text: &str, keeps: bool) -> Result<(), String> {
        if self.text.is_some() && self.mode & 0o222 == 0 {
            return Err("is read-only: chmod u+w, if it is yours to change".to_owned());
        }
        let done = || {
            let _ours = lock_folder_of(&self.path)?;
            let _whole = uninterrupted();
            let now = Self::read(&self.path).map_err(io::Error::other)?;
            if now.text != self.text {
                return Err(io::Error::other("somebody else has changed it meanwhile: try again"));
            }
            // both are on the disk before either takes its place: a full one leaves all as it was
            let kept = self.text.as_ref().filter(|_| keeps);
            let kept = kept.map(|before| Replacement::write(&self.backup(), before, self.mode)).transpose()?;
            let new = Replacement::write(&self.path, text, self.mode)?;
            let Some(kept) = kept else { return new.take_place() };
            let last = self.before();
            kept.take_place()?;
            new.take_place().inspect_err(|_| match last {
                Some(last) => {
                    let _ = Replacement::write(&self.backup(), &last, self.mode).and_then(Replacement::take_place);
                }
                None => drop(self.remove_backup()),
            })
        };
        done().map_err(|error| format!("cannot be written: {}", words(&error)))
    }

    /// Removes it; a link to it stays.
    ///
    /// # Errors
    ///
    /// Why not, as the end of a sentence.
    pub(super) fn remove(&self) -> Result<(), String> {
        remove(&self.path)
    }

    /// Removes what is kept of it as it was before.
    ///
    /// # Errors
    ///
    /// Those of [`Current::remove`].
    pub(super) fn remove_backup(&self) -> Result<(), String> {
        remove(&self.backup())
    }
}

#[expect(clippy::disallowed_methods, reason = "what this program has made")]
fn remove(path: &Path) -> Result<(), String> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("cannot be removed: {error}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_somebody_else_has_written_meanwhile_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.json");
        let none = Current::read(&path).unwrap();
        fs::write(&path, "{}").unwrap();
        assert!(none.replace("{\"a\": 1}", true).is_err_and(|why| why.contains("meanwhile")));
        let current = Current::read(&path).unwrap();
        fs::write(&path, "{\"theirs\": 1}").unwrap();
        assert!(current.replace("{\"a\": 1}", true).is_err());
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), current.before()), ("{\"theirs\": 1}", None));
    }
}
