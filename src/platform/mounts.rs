//! What file system a folder lies on, and whether a lock that is taken there is one for other machines, too.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Where the kernel says what is mounted (proc_pid_mountinfo(5)).
const MOUNTS: &str = "/proc/self/mountinfo";

/// The file system of a folder, if other machines may have it, too, and a lock (flock(2)) is none for them.
pub(crate) fn shared_without_locks(folder: &Path) -> Option<String> {
    let device = fs::metadata(folder).ok()?.dev();
    let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let (kind, options) = mounted(&fs::read_to_string(MOUNTS).ok()?, &device)?;
    (reach(&kind, &options) == Reach::ThisMachine).then_some(kind)
}

/// For whom a lock is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reach {
    /// For whoever has the file system.
    Everybody,
    /// For this machine, and others have the file system, too.
    ThisMachine,
}

/// The type of what is mounted from a device, and its options, separated by commas. Of mounts one over another, the last one.
fn mounted(table: &str, device: &str) -> Option<(String, String)> {
    // 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    let mut mounts = table.lines().filter_map(|line| line.split_once(" - "));
    let (_, end) = mounts.rfind(|(start, _)| start.split(' ').nth(2) == Some(device))?;
    let mut words = end.split(' ');
    Some((words.next()?.to_owned(), words.nth(1).unwrap_or_default().to_owned()))
}

/// nfs(5), mount.cifs(8), mount.lustre(8). What the kernel does not know the server of (FUSE, 9p, shared folders of virtual
/// machines) may do as it likes.
fn reach(kind: &str, options: &str) -> Reach {
    let has = |option: &str| options.split(',').any(|found| found == option);
    let is_for_all = match kind {
        "nfs" | "nfs4" => !(has("nolock") || has("local_lock=all") || has("local_lock=flock")),
        "cifs" | "smb3" => !has("nobrl"),
        "lustre" => has("flock"),
        "9p" | "afs" | "beegfs" | "coda" | "prl_fs" | "vboxsf" | "virtiofs" | "vmhgfs" | "fuse" => false,
        // ceph, gfs2, ocfs2 and gpfs lock for all; a local disk is nobody else's
        kind => !kind.starts_with("fuse."),
    };
    if is_for_all { Reach::Everybody } else { Reach::ThisMachine }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_a_lock_reaches_other_machines_is_known_by_type_and_options() {
        let rows = [
            ("ext4", "rw", Reach::Everybody),
            ("overlay", "rw,lowerdir=/fuse.", Reach::Everybody),
            ("fuseblk", "rw", Reach::Everybody),
            ("nfs4", "rw,vers=4.2,local_lock=none", Reach::Everybody),
            ("nfs", "rw,vers=3,nolock", Reach::ThisMachine),
            ("nfs", "rw,local_lock=flock", Reach::ThisMachine),
            ("nfs", "rw,local_lock=posix", Reach::Everybody),
            ("cifs", "rw,vers=3.1.1", Reach::Everybody),
            ("cifs", "rw,nobrl,vers=3.1.1", Reach::ThisMachine),
            ("lustre", "rw,flock", Reach::Everybody),
            ("lustre", "rw,localflock", Reach::ThisMachine),
            ("9p", "rw,trans=virtio", Reach::ThisMachine),
            ("fuse.sshfs", "rw", Reach::ThisMachine),
            ("ceph", "rw", Reach::Everybody),
        ];
        for (kind, options, expected) in rows {
            assert_eq!(reach(kind, options), expected, "{kind} {options}");
        }
    }

    #[test]
    fn a_mount_is_found_by_its_device() {
        let table = "36 35 98:0 /mnt1 /a rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
                     37 35 0:45 / /home rw shared:2 master:3 - nfs4 server:/home rw,vers=4.2,local_lock=none\n\
                     38 35 0:46 / /b rw - fuse.sshfs me@host: rw,user_id=0\n\
                     39 35 0:46 / /b\\040c rw - fuse.other x rw\n";
        let found = |device| mounted(table, device).map(|(kind, options)| format!("{kind} {options}"));
        assert_eq!(found("0:45").as_deref(), Some("nfs4 rw,vers=4.2,local_lock=none"));
        assert_eq!(found("0:46").as_deref(), Some("fuse.other rw"));
        assert_eq!(found("98:0").as_deref(), Some("ext3 rw,errors=continue"));
        assert_eq!(found("98:1"), None);
        assert_eq!(shared_without_locks(Path::new("/proc")), None);
        assert_eq!(shared_without_locks(Path::new("/nowhere")), None);
    }
}
