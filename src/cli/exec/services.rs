//! Sockets of other programs in the folders of the system, which an isolated command sees: a mount that is read-only keeps
//! nobody from connecting, and who answers is outside (Nix's daemon starts programs).
//!
//! Known are those of this network namespace as exec starts.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::kept_out::{SYSTEM, is_system, real};
use super::mounts::Mount;

/// What hides sockets.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Hidden {
    /// Folders of sockets, to be empty: whoever replaces a socket would take a mask of it alone away.
    pub(super) folders: Vec<PathBuf>,
    /// Files and sockets in folders that the system itself is in.
    pub(super) files: Vec<PathBuf>,
}

/// Sockets at paths, as proc_net_unix(5) lists them; none, where the system does not say. A path that another user's mounts
/// have given its meaning leads to no socket here, and hides nothing.
pub(super) fn sockets() -> Vec<PathBuf> {
    let listed = listed(&std::fs::read("/proc/net/unix").unwrap_or_default());
    listed.into_iter().filter(|path| is_socket(path)).collect()
}

fn listed(text: &[u8]) -> Vec<PathBuf> {
    let path = |line: &[u8]| {
        let mut rest = line;
        for _ in 0..7 {
            rest = rest.trim_ascii_start();
            rest = &rest[rest.iter().position(|byte| *byte == b' ')?..];
        }
        // an abstract name, which begins with "@", can hold anything
        let path = rest.get(1..).filter(|path| path.starts_with(b"/"))?;
        Some(PathBuf::from(OsStr::from_bytes(path)))
    };
    text.split(|byte| *byte == b'\n').filter_map(path).collect()
}

/// What hides those that lie in the system, also where else they are mounted. `shown` are the folders that the command is
/// given, without links: what is in them is given, too.
pub(super) fn hidden(sockets: &[PathBuf], shown: &[PathBuf], mounts: &[Mount]) -> Hidden {
    let mut hidden = Hidden::default();
    for socket in sockets {
        let (Some(folder), Some(name)) = (socket.parent().map(real), socket.file_name()) else { continue };
        let elsewhere = Mount::elsewhere(mounts, &folder);
        for folder in std::iter::once(folder).chain(elsewhere) {
            let is_seen = SYSTEM.iter().any(|system| folder.starts_with(system));
            if !is_seen || shown.iter().any(|shown| folder.starts_with(shown)) {
                continue;
            }
            let (list, path) = match is_system(&folder) {
                true => (&mut hidden.files, folder.join(name)),
                false => (&mut hidden.folders, folder),
            };
            if !list.contains(&path) {
                list.push(path);
            }
        }
    }
    hidden
}

/// What hides them from a command that is given these folders.
pub(super) fn hidden_from(shown: &[PathBuf], mounts: &[Mount]) -> Hidden {
    hidden(&sockets(), shown, mounts)
}

/// Whether a socket is at a path; a link to one is none.
pub(super) fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_with_paths_are_listed_whatever_they_are_for() {
        let text = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 20123 /opt/a b/x.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 20124\n\
            0000000000000000: 00000002 00000000 00000000 0002 01 20125 @/abstract /opt\n\
            0000000000000000: 00000002 00000000 00000000 0002 01 20126 /run/log\n";
        assert_eq!(listed(text), [Path::new("/opt/a b/x.sock"), Path::new("/run/log")]);
    }

    #[test]
    fn a_services_folder_is_empty_where_it_is_the_systems_and_whole_where_it_is_given() {
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        for (socket, shown, folders, sockets) in [
            ("/opt/none/x.sock", &["/work"][..], &["/opt/none"][..], &[][..]),
            ("/nix/none/socket/socket", &["/work"], &["/nix/none/socket"], &[]),
            ("/opt/none.sock", &["/work"], &[], &["/opt/none.sock"]),
            ("/usr/lib/none.sock", &["/work"], &[], &["/usr/lib/none.sock"]),
            ("/run/none/x.sock", &["/work"], &[], &[]),
            ("/opt/none/x.sock", &["/opt/none"], &[], &[]),
            ("/opt/none/x.sock", &["/opt/none/work"], &["/opt/none"], &[]),
        ] {
            let found = hidden(&paths(&[socket, socket]), &paths(shown), &[]);
            assert_eq!(found, Hidden { folders: paths(folders), files: paths(sockets) }, "{socket} {shown:?}");
        }
    }
}
