//! What of the system's settings is for some alone: an isolated command of root's would read it, and one of a member of its
//! group. Keys of hosts and services, hashes of passwords, and the like.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::kept_out::real;
use super::services::Hidden;

/// The folders that hold settings of the system.
const SETTINGS: [&str; 2] = ["/etc", "/usr/local/etc"];

/// Deeper folders are hidden whole: nothing there is needed by programs, and links of mounts do not end.
const DEEPEST: usize = 12;

/// Where more files of a folder are hidden, all of it is: each mount makes every other one slower, and bubblewrap takes only
/// so many.
const MOST_FILES: usize = 32;

/// What not everybody may read of the settings of the system. `shown` are the folders that the command is given, without
/// links: what is in them is given, too.
pub(super) fn hidden_from(shown: &[PathBuf]) -> Hidden {
    hidden(&SETTINGS.map(|folder| real(Path::new(folder))), shown)
}

fn hidden(settings: &[PathBuf], shown: &[PathBuf]) -> Hidden {
    let mut hidden = Hidden::default();
    for folder in settings.iter().filter(|folder| !shown.iter().any(|shown| folder.starts_with(shown))) {
        look(folder, shown, 0, &mut hidden);
    }
    hidden
}

fn look(folder: &Path, shown: &[PathBuf], depth: usize, hidden: &mut Hidden) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let before = hidden.files.len();
    let mut folders = Vec::new();
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
            kind if kind.is_dir() => folders.push(path),
            kind if kind.is_file() && mode & 0o004 == 0 => hidden.files.push(path),
            _ => {}
        }
    }
    if hidden.files.len() - before > MOST_FILES && depth > 0 {
        hidden.files.truncate(before);
        hidden.folders.push(folder.to_owned());
        return;
    }
    for folder in folders {
        look(&folder, shown, depth + 1, hidden);
    }
}

/// Whether a file is at a path; a link to one is none.
pub(super) fn is_file(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_file())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn what_is_for_some_alone_is_hidden_and_a_folder_with_much_of_it_as_a_whole() {
        let temporary = tempfile::tempdir().unwrap();
        let settings = real(temporary.path());
        let at = |path: &str| settings.join(path);
        for folder in ["closed/in", "few/in", "many/in"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        let names = |count: usize| (0..count).map(move |number| format!("many/{number}"));
        let private = ["few/in/secret", "closed/in/secret", "top", "many/in/secret"].map(str::to_owned);
        for path in private.into_iter().chain(names(MOST_FILES)) {
            fs::write(at(&path), "").unwrap();
            fs::set_permissions(at(&path), Permissions::from_mode(0o640)).unwrap();
        }
        fs::write(at("few/open"), "").unwrap();
        fs::set_permissions(at("few/open"), Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(at("closed"), Permissions::from_mode(0o750)).unwrap();
        let found = |shown: &[&str]| {
            let shown: Vec<PathBuf> = shown.iter().map(|path| at(path)).collect();
            let Hidden { mut folders, mut files } = hidden(std::slice::from_ref(&settings), &shown);
            folders.sort();
            files.sort();
            (folders, files.into_iter().filter(|file| !file.starts_with(at("many"))).collect::<Vec<_>>())
        };
        assert_eq!(found(&[]), (vec![at("closed")], vec![at("few/in/secret"), at("top")]));
        assert_eq!(found(&["few"]), (vec![at("closed")], vec![at("top")]));
        assert_eq!(found(&[""]), (Vec::new(), Vec::new()), "all of it is given");
        fs::write(at("many/more"), "").unwrap();
        fs::set_permissions(at("many/more"), Permissions::from_mode(0o600)).unwrap();
        assert_eq!(found(&[]).0, [at("closed"), at("many")]);
    }
}
