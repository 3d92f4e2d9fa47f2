//! Whether a file is ours alone to change, so that what it says may be acted on.
//!
//! A configuration decides where tokens go and which programs run. So it, and what it names, must belong to us or to root
//! and must not be writable by others, and the same goes for every folder up to `/`: whoever can write to one of them can
//! put another file in its place. Symbolic links are followed, and the folders that they stand in are looked at, too.
//!
//! A named pipe counts as a file where a secret may come from it; nobody waits for the other end of another. Not looked at:
//! programs that the configuration names, a terminal, and a pipe without a name that a person hands over (`<(...)`, standard
//! input).

use std::cell::OnceCell;
use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::paths::shell_word;
use super::users;

/// Links on the way to one file; as many as the kernel follows.
const MOST_LINKS: usize = 40;

/// A file or folder that somebody else could change, with what mends it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Fault {
    /// The file or folder.
    pub path: PathBuf,
    /// Who can change it, and by what, as the end of a sentence that starts with the path.
    pub problem: String,
    /// The command that mends it.
    pub remedy: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.path.display(), self.problem, self.remedy)
    }
}

/// Why a file is not read.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The system says no.
    Io(io::Error),
    /// Others could change it, or a folder on the way to it.
    Faults(BTreeSet<Fault>),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Faults(faults) => {
                let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
                f.write_str(&faults.join("; "))
            }
        }
    }
}

/// Opens a file for reading, if nobody else could have changed it.
///
/// # Errors
///
/// [`Refused`], with everything that is wrong on the way.
pub(crate) fn open(path: &Path) -> Result<File, Refused> {
    let (file, faults) = open_and_judge(path)?;
    if faults.is_empty() { Ok(file) } else { Err(Refused::Faults(faults)) }
}

/// Like [`open()`], and named pipes as well, without waiting for their other end: whoever reads has to wait until there is
/// something.
///
/// # Errors
///
/// [`Refused`]
pub(crate) fn open_without_waiting(path: &Path) -> Result<File, Refused> {
    let (file, faults) = judge_and_open(path, Pipes::Opened)?;
    if faults.is_empty() { Ok(file) } else { Err(Refused::Faults(faults)) }
}

/// Opens a file for reading and says who else could have changed it: the very file that is open, and the way to it. A
/// named pipe is not opened, since reading it would wait for whoever writes to it.
///
/// # Errors
///
/// What the system says, or that it is a pipe, and what is wrong with that.
pub(crate) fn open_and_judge(path: &Path) -> Result<(File, BTreeSet<Fault>), Refused> {
    judge_and_open(path, Pipes::Refused)
}

/// What becomes of named pipes. Those without a name have their writer already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pipes {
    /// Opened without waiting, and so everything else.
    Opened,
    Refused,
}

fn judge_and_open(path: &Path, pipes: Pipes) -> Result<(File, BTreeSet<Fault>), Refused> {
    let view = View::of_this_process();
    // an editor may put a new file in its place between the two looks; a stranger's would be a fault of the folder
    for _ in 0..3 {
        let mut faults = BTreeSet::new();
        let end = walk(path, &view, &mut faults)?;
        if let Way::To(end) = &end
            && end.metadata.file_type().is_fifo()
        {
            faults.extend(view.judge(&end.path, &Seen::of(&end.metadata, acl_at(&end.path)), end.in_sticky));
            if !faults.is_empty() {
                return Err(Refused::Faults(faults));
            }
            if pipes == Pipes::Refused {
                return Err(io::Error::other("it is a named pipe, which nothing may ever come through").into());
            }
        }
        // also where there was a file a moment ago
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?);
        if pipes == Pipes::Refused {
            let flags = rustix::fs::fcntl_getfl(&file).map_err(io::Error::from)?;
            rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK).map_err(io::Error::from)?;
        }
        let found = file.metadata()?;
        let seen = Seen::of(&found, has_acl(&file));
        match end {
            Way::To(end) if (end.metadata.dev(), end.metadata.ino()) == (found.dev(), found.ino()) => {
                // who may write to a terminal or to /dev/null says nothing about what is read there
                if !found.file_type().is_char_device() {
                    faults.extend(view.judge(&end.path, &seen, end.in_sticky));
                }
                return Ok((file, faults));
            }
            Way::Handed => {
                faults.extend(Some(path).filter(|_| found.is_file()).and_then(|path| view.judge(path, &seen, false)));
                return Ok((file, faults));
            }
            Way::To(_) | Way::Nowhere => {}
        }
    }
    Err(io::Error::other("it was exchanged while it was being looked at").into())
}

/// Says who else could change a folder, or put another in its place. None if it is not there.
pub(crate) fn judge_folder(path: &Path) -> BTreeSet<Fault> {
    let view = View::of_this_process();
    let mut faults = BTreeSet::new();
    if let Ok(Way::To(end)) = walk(path, &view, &mut faults) {
        let seen = Seen::of(&end.metadata, acl_at(&end.path));
        faults.extend(view.judge(&end.path, &seen, end.in_sticky));
        return faults;
    }
    BTreeSet::new()
}

/// Where a path leads, when every link is followed.
enum Way {
    To(Box<End>),
    /// To one of our own descriptors, whose file has no name: a pipe, or what has been deleted.
    Handed,
    /// Something on the way has gone.
    Nowhere,
}

/// Where a path ends.
struct End {
    path: PathBuf,
    metadata: Metadata,
    /// Whether it stands in a folder where everybody may put something.
    in_sticky: bool,
}

/// Goes to a path's end and judges every folder and link before it.
fn walk(path: &Path, view: &View, faults: &mut BTreeSet<Fault>) -> io::Result<Way> {
    let path = std::path::absolute(path)?;
    let mut rest: VecDeque<OsString> = parts(&path);
    let mut here = End { path: PathBuf::from("/"), metadata: fs::symlink_metadata("/")?, in_sticky: false };
    let mut links = 0;
    let mut is_handed = false;
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            here.path.pop();
            here = End { metadata: fs::symlink_metadata(&here.path)?, in_sticky: false, ..here };
            continue;
        }
        if !here.metadata.is_dir() {
            return Ok(Way::Nowhere);
        }
        let seen = Seen::of(&here.metadata, acl_at(&here.path));
        faults.extend(view.judge(&here.path, &seen, here.in_sticky));
        let in_sticky = seen.is_sticky() && seen.mode & 0o002 != 0;
        let next = here.path.join(&name);
        let metadata = match fs::symlink_metadata(&next) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_handed => return Ok(Way::Handed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Way::Nowhere),
            Err(error) => return Err(error),
        };
        let is_descriptor = rest.is_empty() && are_our_descriptors(&here.path);
        is_handed |= is_descriptor;
        if is_descriptor && !metadata.is_symlink() {
            return Ok(Way::Handed); // where they are no links
        }
        if !metadata.is_symlink() {
            here = End { path: next, metadata, in_sticky };
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(io::Error::other("too many symbolic links"));
        }
        // nobody writes to a link; whose it is says who chose where it leads
        faults.extend(view.judge(&next, &Seen { mode: 0, ..Seen::of(&metadata, false) }, in_sticky));
        let target = fs::read_link(&next)?;
        if target.is_absolute() {
            here = End { path: PathBuf::from("/"), metadata: fs::symlink_metadata("/")?, in_sticky: false };
        }
        for part in parts(&target).into_iter().rev() {
            rest.push_front(part);
        }
    }
    Ok(Way::To(Box::new(here)))
}

/// Whether a folder is the one in which the kernel shows this process its descriptors.
fn are_our_descriptors(folder: &Path) -> bool {
    let ours = || Some(Path::new("/proc").join(fs::read_link("/proc/self").ok()?).join("fd"));
    folder == Path::new("/dev/fd") || (folder.starts_with("/proc") && Some(folder) == ours().as_deref())
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(part).collect()
}

/// Whether a file has an access control list, whose widest entry shows as the group's permissions.
fn has_acl(file: &File) -> bool {
    cfg!(target_os = "linux") && rustix::fs::fgetxattr_query(file, ACL).is_ok_and(|length| length > 0)
}

fn acl_at(path: &Path) -> bool {
    cfg!(target_os = "linux") && rustix::fs::lgetxattr_query(path, ACL).is_ok_and(|length| length > 0)
}

/// The extended attribute that holds it (acl(5)).
const ACL: &str = "system.posix_acl_access";

/// What there is to know of a file.
#[derive(Clone, Copy, Debug)]
struct Seen {
    mode: u32,
    owner: u32,
    group: u32,
    is_dir: bool,
    has_acl: bool,
}

impl Seen {
    fn of(metadata: &Metadata, has_acl: bool) -> Self {
        let (mode, is_dir) = (metadata.mode() & 0o7777, metadata.is_dir());
        Self { mode, owner: metadata.uid(), group: metadata.gid(), is_dir, has_acl }
    }

    fn is_sticky(&self) -> bool {
        self.is_dir && self.mode & 0o1000 != 0
    }
}

/// From where owners and groups are seen.
struct View {
    own: u32,
    /// The uid that root shows as, inside a user namespace that has no root.
    overflow: Option<u32>,
    /// `/etc/passwd` and `/etc/group`, read when a group has to be looked at.
    accounts: OnceCell<(String, String)>,
}

impl View {
    fn of_this_process() -> Self {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid").ok();
        let overflow = overflow.and_then(|text| text.trim().parse().ok()).and_then(|uid| root_as(uid, &map));
        Self { own: rustix::process::geteuid().as_raw(), overflow, accounts: OnceCell::new() }
    }

    /// What is wrong with a file or folder, if anything. `in_sticky` says that everybody may put something beside it.
    fn judge(&self, path: &Path, seen: &Seen, in_sticky: bool) -> Option<Fault> {
        let Seen { mode, owner, group, .. } = *seen;
        let what = shell_word(path);
        let fault = |problem: String, remedy: String| Some(Fault { path: path.to_owned(), problem, remedy });
        // where everybody may put something, what shows as root may be anybody's
        let is_trusted = owner == self.own || owner == 0 || (self.overflow == Some(owner) && !in_sticky);
        let whose = format!("mode {mode:04o}, owner uid {owner}");
        if !is_trusted {
            let remedy = match self.own {
                // under sudo, what is a user's had better stay so
                0 => format!("run valetd as uid {owner}, or chown 0 {what}"),
                own => format!("chown {own} {what}, as root"),
            };
            return fault(format!("belongs to another user ({whose}), who can change it"), remedy);
        }
        let for_all = mode & 0o002 != 0;
        let for_group = mode & 0o020 != 0;
        if seen.is_sticky() || (!for_all && !for_group) {
            return None;
        }
        if for_all {
            return fault(format!("can be changed by everybody ({whose})"), format!("chmod go-w {what}"));
        }
        if seen.has_acl {
            return fault(
                format!("can be changed by whom its access control list names ({whose})"),
                format!("setfacl -b {what}; chmod go-w {what}"),
            );
        }
        if self.is_private_group(group, owner) {
            return None;
        }
        fault(format!("can be changed by its group, gid {group} ({whose})"), format!("chmod g-w {what}"))
    }

    /// Whether a group has nobody in it but the owner, us and root.
    fn is_private_group(&self, group: u32, owner: u32) -> bool {
        let (passwd, groups) = self.accounts.get_or_init(|| {
            let read = |path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            (read("/etc/passwd").unwrap_or_default(), read("/etc/group").unwrap_or_default())
        });
        let members = users::group_members(group, passwd, groups);
        members.is_some_and(|members| members.iter().all(|uid| [owner, self.own, 0].contains(uid)))
    }
}

/// The overflow uid, if it is what root shows as: in a user namespace where neither root nor that uid is anybody's.
fn root_as(overflow: u32, uid_map: &str) -> Option<u32> {
    let mut ranges = uid_map.lines().map(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().ok());
        Some((numbers.next()??, numbers.nth(1)??))
    });
    // what cannot be understood proves nothing
    let maps = |uid: u32| {
        move |range: &Option<(u64, u64)>| {
            range.is_none_or(|(start, length)| (start..start.saturating_add(length)).contains(&u64::from(uid)))
        }
    };
    let is_namespace = !uid_map.trim().is_empty();
    let all: Vec<_> = ranges.by_ref().collect();
    (is_namespace && !all.iter().any(maps(overflow)) && !all.iter().any(maps(0))).then_some(overflow)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\nalice:x:1001:1001::/:/bin/sh\n\
                          bob:x:1002:2000::/:/bin/sh\n";
    const GROUP: &str =
        "root:x:0:\nme:x:1000:\nalice:x:1001:me\ngis:x:2000:\nmine:x:2001:me\nstaff:x:50:\nlost:x:51:zoe\n";

    fn view(overflow: Option<u32>) -> View {
        let accounts = OnceCell::new();
        accounts.set((PASSWD.to_owned(), GROUP.to_owned())).expect("it is empty");
        View { own: 1000, overflow, accounts }
    }

    #[test]
    fn what_others_can_change_is_told_from_what_they_cannot() {
        let file = |mode, owner, group| Seen { mode, owner, group, is_dir: false, has_acl: false };
        let folder = |mode, owner, group| Seen { is_dir: true, ..file(mode, owner, group) };
        let rows = [
            ("ours", file(0o644, 1000, 1000), None),
            ("root's", file(0o644, 0, 0), None),
            ("everybody's", file(0o666, 1000, 1000), Some("chmod go-w /x")),
            ("everybody's, without reading", file(0o602, 1000, 1000), Some("chmod go-w /x")),
            ("another user's", file(0o400, 1001, 1001), Some("chown 1000 /x, as root")),
            ("the overflow uid's outside a namespace", file(0o644, 65534, 65534), Some("chown 1000 /x, as root")),
            ("a group of one's own (umask 002)", file(0o664, 1000, 1000), None),
            ("a further group of one's own", file(0o664, 1000, 2001), None),
            ("another's own group that we are in", file(0o664, 1000, 1001), Some("chmod g-w /x")),
            ("a group that is somebody's primary one", file(0o664, 1000, 2000), Some("chmod g-w /x")),
            ("a group without members", folder(0o2775, 0, 50), None),
            ("a group with a member that nobody knows", file(0o664, 1000, 51), Some("chmod g-w /x")),
            ("a group that nobody knows", file(0o664, 1000, 4711), Some("chmod g-w /x")),
            (
                "an access control list",
                Seen { has_acl: true, ..file(0o664, 1000, 1000) },
                Some("setfacl -b /x; chmod go-w /x"),
            ),
            ("one that lets nobody write", Seen { has_acl: true, ..file(0o644, 1000, 1000) }, None),
            ("/tmp", folder(0o1777, 0, 0), None),
            ("/nix/store", folder(0o1775, 0, 2000), None),
            ("a sticky folder of another", folder(0o1777, 1001, 1001), Some("chown 1000 /x, as root")),
            ("a folder of everybody", folder(0o777, 0, 0), Some("chmod go-w /x")),
            ("a file with the sticky bit", file(0o1666, 1000, 1000), Some("chmod go-w /x")),
        ];
        for (case, seen, remedy) in rows {
            let fault = view(None).judge(Path::new("/x"), &seen, false);
            assert_eq!(fault.as_ref().map(|fault| fault.remedy.as_str()), remedy, "{case}: {fault:?}");
        }
        let fault = view(None).judge(Path::new("/it's"), &file(0o666, 1000, 0), false).expect("a fault");
        assert_eq!(
            fault.to_string(),
            r"/it's can be changed by everybody (mode 0666, owner uid 1000): chmod go-w '/it'\''s'"
        );
    }

    #[test]
    fn root_shows_as_nobody_only_where_there_is_no_root() {
        let rows = [
            ("the first namespace", "         0          0 4294967295\n", None),
            ("the unit's own", "      1000       1000          1\n", Some(65534)),
            ("a container with root", "         0       1000          1\n", None),
            ("a container with everybody", "0 1000 1\n1 100000 65536\n", None),
            ("nobody is somebody there", "1000 1000 1\n65534 5 1\n", None),
            ("no such file", "", None),
            ("nonsense", "a b c\n", None),
        ];
        for (case, map, expected) in rows {
            assert_eq!(root_as(65534, map), expected, "{case}");
        }
        let seen = |owner, mode| Seen { mode, owner, group: 65534, is_dir: true, has_acl: false };
        let inside = view(Some(65534));
        assert_eq!(inside.judge(Path::new("/"), &seen(65534, 0o755), false), None);
        assert_eq!(inside.judge(Path::new("/tmp"), &seen(65534, 0o1777), false), None);
        assert!(inside.judge(Path::new("/tmp/x"), &seen(65534, 0o755), true).is_some(), "may be anybody's");
        assert!(inside.judge(Path::new("/x"), &seen(65534, 0o777), false).is_some());
        assert!(inside.judge(Path::new("/x"), &seen(1001, 0o755), false).is_some());
    }

    #[test]
    fn what_a_person_hands_over_needs_no_name() {
        use std::os::fd::AsRawFd;
        let (reader, _writer) = io::pipe().expect("a pipe");
        let deleted = tempfile::tempfile().expect("a file");
        let number = |of: &dyn AsRawFd| PathBuf::from(format!("/dev/fd/{}", of.as_raw_fd()));
        for path in [number(&reader), number(&deleted)] {
            assert!(open(&path).is_ok(), "{}: {:?}", path.display(), open(&path));
        }
        assert!(open(Path::new("/dev/null")).is_ok());
        let handed = open(&number(&reader)).expect("it is open");
        let flags = rustix::fs::fcntl_getfl(&handed).expect("its flags");
        assert!(!flags.contains(OFlags::NONBLOCK), "its writer is waited for");
        deleted.set_permissions(PermissionsExt::from_mode(0o666)).expect("a mode");
        assert!(matches!(open(&number(&deleted)), Err(Refused::Faults(_))));
    }

    #[test]
    fn the_way_to_a_file_counts_and_so_do_links_and_their_folders() {
        let home = tempfile::tempdir().expect("a folder");
        let base = home.path().canonicalize().expect("a path");
        let at = |name: &str| base.join(name);
        for folder in ["good", "open", "open/inner"] {
            fs::create_dir(at(folder)).expect("a folder");
            fs::set_permissions(at(folder), PermissionsExt::from_mode(0o755)).expect("a mode");
        }
        for file in ["good/file", "open/file", "open/inner/file", "good/open-file"] {
            fs::write(at(file), "x").expect("a file");
            fs::set_permissions(at(file), PermissionsExt::from_mode(0o644)).expect("a mode");
        }
        fs::set_permissions(at("open"), PermissionsExt::from_mode(0o777)).expect("a mode");
        fs::set_permissions(at("good/open-file"), PermissionsExt::from_mode(0o666)).expect("a mode");
        symlink("../open/file", at("good/link-out")).expect("a link");
        symlink(at("good/file"), at("open/link-in")).expect("a link");
        symlink(at("good"), at("linked")).expect("a link");
        symlink("loop", at("good/loop")).expect("a link");
        let rows: [(&str, &[&str]); 9] = [
            ("good/file", &[]),
            ("linked/file", &[]),
            ("good/../good/./file", &[]),
            ("open/file", &["open"]),
            ("open/inner/file", &["open"]),
            ("good/open-file", &["good/open-file"]),
            ("good/link-out", &["open"]),
            ("open/link-in", &["open"]),
            ("open/../good/open-file", &["good/open-file"]),
        ];
        for (path, expected) in rows {
            let (_, faults) = open_and_judge(&at(path)).expect("it is there");
            let found: Vec<_> = faults.into_iter().map(|fault| fault.path).collect();
            assert_eq!(found, expected.iter().map(|path| at(path)).collect::<Vec<_>>(), "{path}");
            assert_eq!(open(&at(path)).is_ok(), expected.is_empty(), "{path}");
        }
        assert!(matches!(open(&at("good/loop")), Err(Refused::Io(_))));

        // whoever may write to a folder may put a pipe there and say anything through it
        for pipe in ["open/pipe", "good/pipe"] {
            let made = std::process::Command::new("mkfifo").args(["-m", "600"]).arg(at(pipe)).status();
            assert!(made.expect("mkfifo runs").success());
        }
        assert!(matches!(open(&at("open/pipe")), Err(Refused::Faults(_))), "and it is not waited for");
        let other_end = File::options().read(true).write(true).open(at("good/pipe")).expect("it is open");
        assert!(open_without_waiting(&at("good/pipe")).is_ok());
        drop(other_end);
        let refused = open(&at("good/pipe"));
        assert!(matches!(&refused, Err(Refused::Io(error)) if error.to_string().contains("named pipe")), "{refused:?}");
        assert!(matches!(open(&at("good/none")), Err(Refused::Io(error)) if error.kind() == io::ErrorKind::NotFound));
        assert_eq!(judge_folder(&at("open/inner")).len(), 1);
        assert_eq!(judge_folder(&at("none")), BTreeSet::new());
    }
}
