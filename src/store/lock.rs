//! The kernel lock on the folder: one process has it at a time, and it ends with the process however that ends.

use std::fs::{File, TryLockError};
use std::io::{self, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::error::{StoreError, TAKE_LOCK, io_error};
use super::holder::{Holder, socket_line};
use crate::platform::clock::wall;
use crate::platform::machine;
use crate::platform::paths::OwnFolder;

/// Of the file under which the kernel lock is held.
pub(super) const LOCK: &str = "lock";

/// Says in the file of a lock that is held where the holder can be talked to. One that cannot be written is a help less.
pub(super) fn say_socket(lock: &mut File, socket: &Path) {
    let _ = lock.write_all(socket_line(socket).as_bytes());
}

/// Takes the folder's kernel lock, which ends with the process however it ends, and says in the file whose it is.
pub(super) fn lock(folder: &OwnFolder) -> Result<File, StoreError> {
    lock_file(folder, LOCK)
}

/// The same with a file of another name in the folder.
#[expect(clippy::disallowed_methods, reason = "a lock's file, in the store's folder")]
pub(super) fn lock_file(folder: &OwnFolder, name: &str) -> Result<File, StoreError> {
    let failed = |error: io::Error| io_error(TAKE_LOCK, &folder.path().join(name), error);
    let open = |flags| {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)
    };
    let opened = match open(OFlags::RDWR | OFlags::CREATE) {
        // what is stored there can still be used; where nothing is, it is the disk that is in the way, not the missing file
        Err(Errno::ROFS) => {
            open(OFlags::RDONLY).map_err(|error| if error == Errno::NOENT { Errno::ROFS } else { error })
        }
        opened => opened,
    };
    let mut file = File::from(opened.map_err(|error| failed(error.into()))?);
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(StoreError::Held { folder: folder.path().to_owned(), by: Holder::read(&file) });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let now = jiff::Timestamp::try_from(wall()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let (host, boot) = machine::host_and_boot();
    let words = format!("pid {} started {} host {host} boot {boot}\n", std::process::id(), now.strftime("%FT%TZ"));
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
