//! Where else a folder is seen, as file systems can be mounted in several places: proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A file system, or a part of one, at a place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mount {
    /// The file system, by its device number.
    device: String,
    /// What of it is there.
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// Those of this process; none, where the system does not say.
    pub(super) fn of_this_process() -> Vec<Mount> {
        Self::read(&std::fs::read("/proc/self/mountinfo").unwrap_or_default())
    }

    fn read(text: &[u8]) -> Vec<Mount> {
        let mount = |line: &[u8]| {
            let mut fields = line.split(|byte| *byte == b' ').skip(2);
            let device = String::from_utf8_lossy(fields.next()?).into_owned();
            Some(Mount { device, root: unescaped(fields.next()?), point: unescaped(fields.next()?) })
        };
        text.split(|byte| *byte == b'\n').filter_map(mount).collect()
    }

    /// Where else a folder is, or a part of it: other paths, which lead to it without any link.
    pub(super) fn elsewhere(mounts: &[Mount], folder: &Path) -> Vec<PathBuf> {
        let covering = mounts.iter().filter(|mount| folder.starts_with(&mount.point));
        // of several at one place, the last is on top
        let Some(its) = covering.max_by_key(|mount| mount.point.components().count()) else { return Vec::new() };
        let Ok(rest) = folder.strip_prefix(&its.point) else { return Vec::new() };
        let inner = its.root.join(rest);
        let same = mounts.iter().filter(|mount| mount.device == its.device);
        let seen = same.filter_map(|mount| match inner.strip_prefix(&mount.root) {
            Ok(rest) => Some(mount.point.join(rest)),
            Err(_) => mount.root.starts_with(&inner).then(|| mount.point.clone()),
        });
        let seen = seen.map(|path| path.components().collect::<PathBuf>()); // `join` of nothing leaves a slash
        seen.filter(|path| path != folder).collect()
    }
}

/// A path of which blanks and backslashes are written as `\` and three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_found_wherever_its_file_system_is_mounted() {
        let text = b"21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            22 21 8:2 / /home rw - ext4 /dev/sda2 rw\n\
            23 21 8:2 /me/state /opt/a\\040b rw - ext4 /dev/sda2 rw\n\
            24 21 8:2 /me /srv/me rw - ext4 /dev/sda2 rw\n\
            25 21 8:2 /me/state/valetd/run /opt/run rw - ext4 /dev/sda2 rw\n\
            26 21 8:3 /me/state /opt/other rw - ext4 /dev/sdb1 rw\n";
        let mounts = Mount::read(text);
        assert_eq!(mounts.len(), 6);
        for (folder, expected) in [
            ("/home/me/state/valetd", &["/opt/a b/valetd", "/srv/me/state/valetd", "/opt/run"][..]),
            ("/opt/a b", &["/home/me/state", "/srv/me/state", "/opt/run"]),
            ("/home/you", &[]),
            ("/etc/valetd", &[]),
        ] {
            let found = Mount::elsewhere(&mounts, Path::new(folder));
            assert_eq!(found, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{folder}");
        }
    }
}
