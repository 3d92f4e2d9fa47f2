//! A person's file, replaced as a whole: written beside, then renamed. Whoever reads it meanwhile reads the old one or the new
//! one; what comes to nothing leaves nothing.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::io::Errno;

/// A file beside another one, whose place it takes or else is removed.
#[derive(Debug)]
pub(crate) struct Replacement {
    path: PathBuf,
    beside: PathBuf,
    is_due: bool,
}

impl Replacement {
    /// Writes the whole text beside `path`, with this mode whatever the umask is, and onto the disk. A folder that is missing is
    /// made, for us alone. A file of ours that a kill has left there is written anew.
    ///
    /// # Errors
    ///
    /// The system's; then nothing is left of it.
    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    pub(crate) fn write(path: &Path, text: &str, mode: u32) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // not a name that a daemon looks at
        let beside = path.with_file_name(format!(".{name}.valetd-new"));
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        let written = Self { path: path.to_owned(), beside, is_due: true };
        file.set_permissions(fs::Permissions::from_mode(mode))?; // the umask has taken some away
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(written)
    }

    /// Where it is until it takes its place.
    pub(crate) fn beside(&self) -> &Path {
        &self.beside
    }

    /// Takes the other one's place.
    ///
    /// # Errors
    ///
    /// The system's; then the other one is as it was.
    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    pub(crate) fn take_place(mut self) -> io::Result<()> {
        fs::rename(&self.beside, &self.path)?;
        self.is_due = false;
        // also after a power cut; a folder that cannot be synced keeps nobody from going on
        let _ = self.path.parent().map(File::open).map(|folder| folder.and_then(|folder| folder.sync_all()));
        Ok(())
    }
}

impl Drop for Replacement {
    #[expect(clippy::disallowed_methods, reason = "what was written here and is not wanted")]
    fn drop(&mut self) {
        if self.is_due {
            let _ = fs::remove_file(&self.beside);
        }
    }
}

/// As many as Linux follows (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// The file that a path means: what its links lead to, also where there is no file yet at their end (as in a repository of
/// dot files). Whoever replaces that leaves the links as they are.
///
/// # Errors
///
/// The system's; [`io::ErrorKind::NotFound`] where a link leads into a folder that is not there, or links lead in a circle.
pub(crate) fn leads_to(path: &Path) -> io::Result<PathBuf> {
    let mut at = path.to_owned();
    for _ in 0..MOST_LINKS {
        match fs::canonicalize(&at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => break,
            led => return led,
        }
        let Ok(to) = fs::read_link(&at) else {
            // nothing is there: the path itself may be made with its folders, and what a link names may not
            let is_led = at != path;
            return match at.parent().zip(at.file_name()).filter(|_| is_led) {
                Some((folder, name)) => Ok(fs::canonicalize(folder)?.join(name)),
                None => Ok(at),
            };
        };
        at = at.parent().unwrap_or(Path::new("/")).join(to);
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "its links lead in a circle"))
}

/// Somebody who changes a file under the same lock takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// The kernel lock of the folder that a file is in: of those that change files there by this, one at a time. It ends with the
/// process, and leaves no file. `None` where the file system has no such lock.
///
/// # Errors
///
/// [`io::ErrorKind::TimedOut`] if somebody has had it for long; the system's.
#[expect(clippy::disallowed_methods, reason = "the folder has to be there to be locked")]
pub(crate) fn lock_folder_of(path: &Path) -> io::Result<Option<File>> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let folder = File::open(folder)?;
    let start = super::clock::instant();
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(Some(folder)),
            Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => sleep(Duration::from_millis(20)),
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "another program has been changing it for 10 s"));
            }
            Err(TryLockError::Error(_)) => return Ok(None), // NFS locks no folders
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_what_comes_to_nothing_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("config.toml");
        let names = || {
            let entries = fs::read_dir(path.parent().unwrap()).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        Replacement::write(&path, "one\n", 0o640).unwrap().take_place().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        let dropped = Replacement::write(&path, "two\n", 0o600).unwrap();
        assert_eq!(fs::read_to_string(dropped.beside()).unwrap(), "two\n");
        // as a kill leaves it
        std::mem::forget(dropped);
        drop(Replacement::write(&path, "three\n", 0o600).unwrap());
        assert_eq!((names(), fs::read_to_string(&path).unwrap()), (vec!["config.toml".to_owned()], "one\n".to_owned()));
    }

    #[test]
    fn a_path_means_what_its_links_lead_to_whether_that_is_there_yet_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().canonicalize().unwrap();
        let at = |name: &str| base.join(name);
        fs::create_dir(at("dots")).unwrap();
        fs::write(at("dots/there"), "").unwrap();
        let links = [
            ("whole", "dots/there"),
            ("dangling", "dots/new"),
            ("twice", "dangling"),
            ("far", "/nowhere/at/all"),
            ("round", "about"),
            ("about", "round"),
            ("folder", "dots"),
        ];
        for (link, to) in links {
            std::os::unix::fs::symlink(to, at(link)).unwrap();
        }
        let rows = [
            ("dots/there", Ok("dots/there")),
            ("new/one", Ok("new/one")),
            ("whole", Ok("dots/there")),
            ("dangling", Ok("dots/new")),
            ("twice", Ok("dots/new")),
            ("far", Err(io::ErrorKind::NotFound)),
            ("round", Err(io::ErrorKind::NotFound)),
        ];
        for (path, expected) in rows {
            let found = leads_to(&at(path)).map_err(|error| error.kind());
            assert_eq!(found, expected.map(at), "{path}");
        }
        assert_eq!(leads_to(&at("folder/there")).unwrap(), at("dots/there"));
    }

    #[test]
    fn the_lock_is_one_at_a_time_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let held = lock_folder_of(&path).unwrap().expect("flock(2) on folders");
        assert!(matches!(File::open(folder.path()).unwrap().try_lock(), Err(TryLockError::WouldBlock)));
        drop(held);
        assert!(lock_folder_of(&path).unwrap().is_some());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
