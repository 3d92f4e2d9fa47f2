//! The seam between the store and the disk: seven operations on one folder. The real folder is here; the tests have one
//! that tears writes, runs full and loses power.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::platform::paths::{OwnFolder, knows_no_sync};

/// The largest file that is read. A record has a few kilobytes.
pub(super) const LARGEST: usize = 1024 * 1024;

/// One folder with small files. Names are plain: no slashes.
pub(super) trait Disk: Debug + Send {
    /// The names of everything in the folder that is UTF-8, in no particular order.
    fn names(&mut self) -> io::Result<Vec<String>>;

    /// The whole of a file; `None` if there is none.
    fn read(&mut self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, ReadError>;

    /// Makes a new file. When this has returned, its content survives a power cut; its name need not.
    fn write_new(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// When this has returned, the content of a file that is there survives a power cut.
    fn sync_file(&mut self, name: &str) -> io::Result<()>;

    /// Gives a file another name, in place of what had that name.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; done if there is none.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// A file that is to be overwritten when its name has gone to another, or is no more; `None` if that cannot be done.
    fn hold(&mut self, _name: &str) -> Option<File> {
        None
    }

    /// When this has returned, the names survive a power cut.
    fn sync(&mut self) -> io::Result<()>;

    /// The same, but done where the file system has no such thing: what was saved is there, and nobody can do more.
    fn settle(&mut self) -> io::Result<()> {
        match self.sync() {
            Err(error) if knows_no_sync(&error) => Ok(()),
            synced => synced,
        }
    }
}

/// Why a file is not read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// It has more than [`LARGEST`] bytes.
    TooLarge,
    /// It is not a plain file of this user; what it is instead, as a predicate.
    NotOurs(String),
    /// The system says no.
    Io(io::Error),
}

impl<E: Into<io::Error>> From<E> for ReadError {
    fn from(error: E) -> Self {
        ReadError::Io(error.into())
    }
}

/// Overwrites what a file without a name has, if nobody else has a name for it: a backup that shares it stays as it is. Where
/// a file system writes elsewhere instead (copy-on-write, flash), the old bytes stay until they are needed for others.
pub(super) fn overwrite(mut file: File) -> io::Result<()> {
    let found = file.metadata()?;
    if found.nlink() > 0 {
        return Ok(());
    }
    file.write_all(&vec![0; LARGEST.min(found.size() as usize)])?;
    file.sync_all()
}

/// A folder of the file system. Everything goes through the folder's open handle and stops at symbolic links.
#[derive(Debug)]
pub(super) struct FolderDisk {
    folder: OwnFolder,
}

impl FolderDisk {
    pub(super) fn new(folder: OwnFolder) -> Self {
        Self { folder }
    }

    /// Takes the permissions of other users from all plain files of ours, and returns those that had any, with the mode
    /// they had.
    pub(super) fn close_to_others(&self) -> io::Result<Vec<(String, u32)>> {
        let mut closed = Vec::new();
        for name in self.list()? {
            let Ok(file) = self.open(&name) else { continue }; // whoever reads it will be told
            let Ok(found) = file.metadata() else { continue };
            let mode = found.mode() & 0o7777;
            if found.is_file() && found.uid() == rustix::process::geteuid().as_raw() && mode & 0o077 != 0 {
                file.set_permissions(PermissionsExt::from_mode(0o600))?;
                closed.push((name, mode));
            }
        }
        Ok(closed)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let entries = rustix::fs::Dir::read_from(&self.folder)?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_str().unwrap_or_default().to_owned()));
        let names: Result<Vec<String>, io::Error> = names.collect();
        Ok(names?.into_iter().filter(|name| !matches!(name.as_str(), "" | "." | "..")).collect())
    }

    #[expect(clippy::disallowed_methods, reason = "a file of the store, in its folder")]
    fn open(&self, name: &str) -> rustix::io::Result<File> {
        // NONBLOCK: opening a named pipe would wait for a writer
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(&self.folder, name, flags, Mode::empty()).map(File::from)
    }
}

#[expect(clippy::disallowed_methods, reason = "the store's own files, in its folder")]
impl Disk for FolderDisk {
    fn names(&mut self) -> io::Result<Vec<String>> {
        self.list()
    }

    fn read(&mut self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, ReadError> {
        let file = match self.open(name) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(ReadError::NotOurs("is a symbolic link".to_owned())),
            Err(Errno::NXIO) => return Err(ReadError::NotOurs("is not a plain file".to_owned())), // a socket
            Err(error) => return Err(error.into()),
        };
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(ReadError::NotOurs("is not a plain file".to_owned()));
        }
        if found.uid() != rustix::process::geteuid().as_raw() {
            return Err(ReadError::NotOurs(format!("belongs to another user (uid {})", found.uid())));
        }
        // one allocation: a buffer that grows leaves copies behind that nobody wipes
        let mut bytes = Zeroizing::new(Vec::with_capacity(LARGEST.min(found.size() as usize) + 1));
        file.take(LARGEST as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > LARGEST { Err(ReadError::TooLarge) } else { Ok(Some(bytes)) }
    }

    fn write_new(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut file = File::from(rustix::fs::openat(&self.folder, name, flags, mode)?);
        // a strict umask could have taken more than others' permissions; a file system that keeps no modes says no, which
        // matters only where it shows the file to others
        if let Err(error) = rustix::fs::fchmod(&file, mode)
            && file.metadata()?.mode() & 0o077 != 0
        {
            drop(file);
            let _ = self.remove(name);
            return Err(error.into());
        }
        file.write_all(bytes)?;
        sync_content(&file)
    }

    fn sync_file(&mut self, name: &str) -> io::Result<()> {
        sync_content(&self.open(name)?)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.folder, from, &self.folder, to)?)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn hold(&mut self, name: &str) -> Option<File> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.folder, name, flags, Mode::empty()).ok()?);
        file.metadata().is_ok_and(|found| found.is_file()).then_some(file)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.folder.handle().sync_all()
    }
}

/// Done where the file system has no such thing, as with [`Disk::settle`].
fn sync_content(file: &File) -> io::Result<()> {
    match file.sync_all() {
        Err(error) if knows_no_sync(&error) => Ok(()),
        synced => synced,
    }
}
