//! What of the system's settings is for some alone: an isolated command of root's would read it, and one of a member of its
//! group. Keys of hosts and services, hashes of passwords, and the like.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::services::Hidden;

/// The folders that hold settings of the system.
const SETTINGS: [&str; 2] = ["/etc", "/usr/local/etc"];

/// Deeper folders are hidden whole: nothing there is needed by programs, and links of mounts do not end.
const DEEPEST: usize = 12;

/// What not everybody may read of the settings of the system. `shown` are the folders that the command is given, without
/// links: what is in them is given, too.
pub(super) fn hidden_from(shown: &[PathBuf]) -> Hidden {
    let mut hidden = Hidden::default();
    for folder in SETTINGS {
        look(Path::new(folder), shown, 0, &mut hidden);
    }
    hidden
}

fn look(folder: &Path, shown: &[PathBuf], depth: usize, hidden: &mut Hidden) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        // a link is judged where it leads to
        let Ok(found) = entry.metadata() else { continue };
        if shown.contains(&path) {
            continue;
        }
        let mode = found.permissions().mode();
        match found.file_type() {
            kind if kind.is_dir() && (mode & 0o001 == 0 || depth == DEEPEST) => hidden.folders.push(path),
            kind if kind.is_dir() => look(&path, shown, depth + 1, hidden),
            kind if kind.is_file() && mode & 0o004 == 0 => hidden.files.push(path),
            _ => {}
        }
    }
}

/// Whether a file is at a path; a link to one is none.
pub(super) fn is_file(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_file())
}
