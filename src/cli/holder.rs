//! The daemon that holds a state folder, whichever way it was started.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::platform::paths::shell_word;
use crate::store::Holder;

/// The daemon that holds the state folder and listens at another socket than this one: as long as it does, none can be
/// started that would listen here.
pub(super) fn listens_elsewhere(folder: &Path, socket: &Path) -> Option<Holder> {
    lock_holder(folder).filter(|holder| holder.socket.as_ref().is_some_and(|its| its != socket))
}

/// What to do where no daemon listens, and a process holds the state folder: none can be started beside it. Pure.
pub(super) fn how_to_reach(folder: &Path, holder: &Holder) -> String {
    let (folder, who) = (folder.display(), in_words(holder));
    match &holder.socket {
        Some(socket) => {
            format!("a daemon{who} holds {folder} and listens on another socket: add --socket {}", shell_word(socket))
        }
        None => format!(
            "another valetd{who} holds {folder}: it is on its way up or down, or listens elsewhere; try again, name its \
             socket with --socket, or stop it"
        ),
    }
}

/// The process that holds the state folder; `None` if nobody does.
pub(super) fn lock_holder(folder: &Path) -> Option<Holder> {
    let file = File::open(folder.join("lock")).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        Ok(()) | Err(TryLockError::Error(_)) => return None,
    }
    Some(Holder::read(&file))
}

/// Its number for people: ` (pid N)`, or nothing where it is not known.
pub(super) fn in_words(holder: &Holder) -> String {
    match (holder.pid, &holder.host) {
        (Some(pid), Some(host)) => format!(" (pid {pid} on the machine {host})"),
        (Some(pid), None) => format!(" (pid {pid})"),
        (None, _) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_finds_the_folder_held_is_told_where_its_daemon_listens() {
        let holder = |socket: Option<&str>| Holder { pid: Some(7), host: None, socket: socket.map(Into::into) };
        let rows = [
            (
                holder(Some("/run/my own/v.sock")),
                "a daemon (pid 7) holds /s and listens on another socket: add --socket '/run/my own/v.sock'",
            ),
            (holder(None), "another valetd (pid 7) holds /s: it is on its way up or down, or listens elsewhere; try"),
            (Holder { host: Some("b".to_owned()), ..holder(None) }, "another valetd (pid 7 on the machine b) holds /s"),
        ];
        for (holder, expected) in rows {
            let words = how_to_reach(Path::new("/s"), &holder);
            assert!(words.starts_with(expected), "{words}");
        }
    }
}
