//! Why something could not be stored or read, in sentences for people.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::holder::Holder;
use super::seal;
use crate::advice::advised;
use crate::platform::io_error::words;
use crate::platform::paths::FolderError;
use crate::platform::paths::{READ_ONLY, shell_word};
use crate::platform::random::NoRandomNumbers;

/// Why something could not be stored or read. Each is one sentence with its remedy, and names no secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The folder cannot be used.
    #[error("credentials cannot be stored: {0}")]
    Folder(FolderError),
    /// Another process has the folder.
    #[error("{}", held(folder, by))]
    Held {
        /// The folder.
        folder: PathBuf,
        /// By whom.
        by: Holder,
    },
    /// The system says no. Worth another try when the cause is mended.
    #[error("cannot {action} {}: {}{}", path.display(), words(error), remedy(action, error))]
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
    #[error(
        "{} was written by a later valetd (format {version}, this one knows {}): use that one, or drop what it has stored, \
         as '{}' does, and sign in again",
        path.display(),
        seal::VERSION,
        advised("logout NAME")
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u64,
    },
    /// The file is sealed, and its key is not at hand just now. It is left alone, and nothing takes its place.
    #[error("{} is sealed, and its key is away: {why}", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
        /// Where the key is kept, and what is wrong there.
        why: String,
    },
    /// The file is sealed, and its key will not come back. It is left alone until a sign-in takes its place.
    #[error("{} is sealed, and its key is gone: {why}; sign in again", path.display())]
    KeyGone {
        /// The file.
        path: PathBuf,
        /// How that shows.
        why: String,
    },
    /// The client that was registered for an account is of no use. Its file is left alone until another one takes its place.
    #[error("{} {problem}: a sign-in registers another client", path.display())]
    Client {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The record was last used on another machine: two that spend one refresh token look like a theft. It is left alone.
    #[error("{} was last used on {other}: if both renew it, the server may take that for a theft and revoke it", path.display())]
    OtherMachine {
        /// The file.
        path: PathBuf,
        /// What is known of that machine.
        other: &'static str,
    },
    /// The record is of an earlier generation than one that was saved here: its refresh token is probably spent. It is left
    /// alone.
    #[error(
        "{} is an older copy (generation {found}; {latest} is the latest here), as from a backup, and its refresh token is \
         probably spent",
        path.display()
    )]
    OlderCopy {
        /// The file.
        path: PathBuf,
        /// The generation in it.
        found: u64,
        /// The latest one.
        latest: u64,
    },
    /// The file holds a later generation than the one that was to replace it. It is left alone.
    #[error("{} holds generation {found}, which is later than {offered}: it is not replaced", path.display())]
    Stale {
        /// The file.
        path: PathBuf,
        /// The generation in it, or the latest that was.
        found: u64,
        /// The generation that was to be saved.
        offered: u64,
    },
}

impl StoreError {
    /// Whether it keeps a new sign-in from being stored, too: signing in again does not mend it.
    pub(crate) fn is_in_the_way(&self) -> bool {
        match self {
            Self::Folder(_) | Self::Held { .. } | Self::Io { .. } | Self::NotOurFile { .. } | Self::Newer { .. } => {
                true
            }
            Self::Locked { .. } | Self::OtherMachine { .. } => true,
            Self::KeyGone { .. }
            | Self::OlderCopy { .. }
            | Self::Corrupt { .. }
            | Self::Client { .. }
            | Self::Stale { .. } => false,
        }
    }
}

// without a source, which the sentence has in it already
impl From<FolderError> for StoreError {
    fn from(error: FolderError) -> Self {
        Self::Folder(error)
    }
}

fn held(folder: &Path, Holder { pid, host, socket }: &Holder) -> String {
    let who = match (pid, host) {
        (Some(pid), Some(host)) => format!("another valetd (pid {pid} on the machine {host})"),
        (Some(pid), None) => format!("another valetd (pid {pid})"),
        (None, _) => "another valetd".to_owned(),
    };
    let folder = folder.display();
    match socket {
        Some(socket) => {
            format!(
                "{who} holds {folder} and listens on {}: talk to it with --socket {}, or stop it first",
                socket.display(),
                shell_word(socket)
            )
        }
        None => format!("{who} holds {folder}: stop it first, or use another --state-dir"),
    }
}

/// What cannot be done to a folder or its files on a file system that keeps no modes (FAT, some network file systems).
pub(super) const CHANGE_MODE: &str = "change the mode of";

/// What cannot be done on a file system without locks (flock(2)).
pub(super) const TAKE_LOCK: &str = "lock";

fn remedy(action: &str, error: &io::Error) -> &'static str {
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported if action == CHANGE_MODE => {
            ": it is open to other users, and its file system does not let that be changed; name a folder on another \
             file system with --state-dir"
        }
        _ if action == TAKE_LOCK
            && matches!(number, Some(Errno::NOLCK | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL)) =>
        {
            ": its file system has no locks, and without one two daemons would spend the same refresh tokens; name a \
             folder on another file system with --state-dir"
        }
        io::ErrorKind::NotFound => {
            ": its folder has been removed; make it again (mkdir -m 700), and what is at hand is saved there within seconds"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ": make room on its file system",
        io::ErrorKind::ReadOnlyFilesystem => READ_ONLY,
        io::ErrorKind::PermissionDenied => ": check who owns the folder and whether a sandbox forbids writing to it",
        _ => "",
    }
}

/// What nothing can be sealed without.
pub(super) fn no_randomness(path: PathBuf) -> StoreError {
    StoreError::Io { action: "seal", path, error: io::Error::other(NoRandomNumbers) }
}

pub(super) fn io_error(action: &'static str, path: &Path, error: io::Error) -> StoreError {
    StoreError::Io { action, path: path.to_owned(), error }
}
