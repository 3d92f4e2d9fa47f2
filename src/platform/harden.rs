//! What the process gives up at its start, so that nobody reads its memory, it can gain nothing, and whoever takes it
//! over can do little with it.
//!
//! [`harden`] closes the process; [`confine`] takes from its threads the right to write outside their own folders and to
//! start programs (Landlock). Reading stays free: certificate files, configurations behind links and secrets in files
//! may be anywhere, and a reload may name others. Connecting and binding stay free, since upstreams and listeners come
//! from a configuration that can be reloaded, and a unix socket's path is not among what Landlock keeps: the user's bus
//! (`$XDG_RUNTIME_DIR/bus`) and the service manager on it can be asked to start programs by whoever takes the process over. A
//! user of its own for the daemon is what keeps it from there. The filter of system calls (seccomp) is the service unit's, which the
//! distribution keeps in step with its C library, as a list in this program could not be; here it is only reported.
//!
//! Nor is memory locked, but for the key of sealed credentials (`secret_page`). Every token passes through buffers of HTTP, TLS and the kernel's sockets, which nobody locks;
//! locking one copy would promise what it does not keep. Against swap helps an encrypted one, or `MemorySwapMax=0` in
//! the unit.

use std::path::PathBuf;

use landlock::{
    ABI, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::set_no_new_privs;

/// One thing that is given up, or should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Measure {
    /// In one word, for scripts: `no-trace`, `no-core`, `no-new-privileges`, `seccomp`, `landlock`.
    pub name: &'static str,
    /// Whether it is in force.
    pub in_force: bool,
    /// What it means, or what its absence does.
    pub detail: String,
    /// Whether its absence is nobody's wish, and worth a warning.
    pub is_missed: bool,
}

impl Measure {
    fn new(name: &'static str, outcome: Result<(), String>, gain: &str, loss: &str) -> Self {
        match outcome {
            Ok(()) => Self { name, in_force: true, detail: gain.to_owned(), is_missed: false },
            Err(error) => Self { name, in_force: false, detail: format!("{loss}: {error}"), is_missed: true },
        }
    }

    /// A measure that is not taken on purpose.
    pub(crate) fn waived(name: &'static str, why: impl Into<String>) -> Self {
        Self { name, in_force: false, detail: why.into(), is_missed: false }
    }
}

/// The [`Measure`] that [`confine`] takes.
pub(crate) const LANDLOCK: &str = "landlock";

/// The one warning for everything that is missed; `None` if nothing is.
pub(crate) fn warning(measures: &[Measure]) -> Option<String> {
    let missed: Vec<&str> =
        measures.iter().filter(|measure| measure.is_missed).map(|measure| measure.detail.as_str()).collect();
    (!missed.is_empty()).then(|| format!("the process is less closed than it could be: {}", missed.join("; ")))
}

/// Closes the process: no core dumps, no debugger, no new privileges.
///
/// Call it before any thread is started (`no_new_privs` holds for the calling thread and for those it starts later)
/// and after the environment has been read: from here on the kernel treats `/proc/self` as root's, so that an ordinary
/// user's process cannot read its own `environ` and `mem` there; `status`, `statm`, `maps` and `fd` stay readable to
/// itself. Safe to call twice.
pub(crate) fn harden() -> Vec<Measure> {
    // not ptraced and not read through /proc/PID/mem by other processes of the same user, whatever Yama allows
    let no_tracing = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    // a core dump would write every token to the disk; the hard limit keeps it from coming back
    let no_core = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // a helper that we start (a password command, a browser) cannot become another user
    let no_privileges = set_no_new_privs(true);
    let said = |outcome: rustix::io::Result<()>| outcome.map_err(|error| error.to_string());
    vec![
        Measure::new(
            "no-trace",
            said(no_tracing),
            "other processes of this user cannot read our memory",
            "other processes of this user can read our memory (PR_SET_DUMPABLE)",
        ),
        Measure::new(
            "no-core",
            said(no_core),
            "a crash writes no core file",
            "a crash can write secrets to a core file (RLIMIT_CORE)",
        ),
        Measure::new(
            "no-new-privileges",
            said(no_privileges),
            "programs that we start can gain no privileges",
            "programs that we start can gain privileges (PR_SET_NO_NEW_PRIVS)",
        ),
        filter_of_system_calls(),
    ]
}

/// Keeps the memory of a command that holds a secret for a moment from other processes of this user and from core files
/// (PR_SET_DUMPABLE). That is all that costs it nothing, since what it starts inherits the rest: a browser needs privileges
/// for its own sandbox.
pub(crate) fn keep_memory_private() {
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable); // refused, it leaves us as we were
}

/// Whether somebody, mostly the service manager, filters our system calls (proc_pid_status(5), `Seccomp`).
fn filter_of_system_calls() -> Measure {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim);
    match mode {
        Some("2") => Measure::new("seccomp", Ok(()), "system calls that we do not need are refused to us", ""),
        _ => Measure::waived("seccomp", "nobody filters our system calls; the service unit does"),
    }
}

/// What a library may open for writing without meaning harm.
const DEVICES: [&str; 2] = ["/dev/null", "/dev/tty"];

/// The oldest kernel that has a part of it is 5.13; what an older one does not know is left out.
const NEWEST: ABI = ABI::V6;

/// From here on this thread, and those that it starts later, can write only below `folders` (and to what is open
/// already), start no programs, and signal no process but their own. For good: there is no way back, so a folder that is
/// not there now can be named by a later configuration only after a restart.
///
/// A folder that cannot be opened is left out.
pub(crate) fn confine(folders: &[PathBuf]) -> Measure {
    let gain = "we can write only in our own folders and those of our sockets, and start no program";
    let loss = "we can write to all files of this user and start programs (Landlock)";
    Measure::new(LANDLOCK, restrict(folders), gain, loss)
}

fn restrict(folders: &[PathBuf]) -> Result<(), String> {
    let said = |error: landlock::RulesetError| error.to_string();
    let writing = AccessFs::from_write(NEWEST);
    let handled: BitFlags<AccessFs> = writing | AccessFs::Execute;
    let ruleset = Ruleset::default().handle_access(handled).map_err(said)?;
    let ruleset = ruleset.scope(Scope::Signal).map_err(said)?;
    let mut ruleset = ruleset.create().map_err(said)?;
    for folder in folders {
        let Ok(opened) = PathFd::new(folder) else { continue };
        ruleset = ruleset.add_rule(PathBeneath::new(opened, writing)).map_err(said)?;
    }
    for device in DEVICES {
        let Ok(opened) = PathFd::new(device) else { continue };
        ruleset = ruleset.add_rule(PathBeneath::new(opened, AccessFs::WriteFile)).map_err(said)?;
    }
    match ruleset.restrict_self().map_err(said)?.ruleset {
        RulesetStatus::FullyEnforced => Ok(()),
        // an older kernel: it lacks single rights, not the wall
        RulesetStatus::PartiallyEnforced => Ok(()),
        RulesetStatus::NotEnforced => Err("this kernel has none".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};

    use super::*;
    use crate::platform::rerun;

    #[test]
    fn a_hardened_process_leaves_no_core_is_not_traceable_and_gains_nothing() {
        let Some(parent) = rerun::parent(
            "platform::harden::tests::a_hardened_process_leaves_no_core_is_not_traceable_and_gains_nothing",
        ) else {
            let measures = harden();
            // whether system calls are filtered is the service manager's affair
            let ours = measures.iter().filter(|measure| measure.name != "seccomp");
            assert!(ours.clone().count() == 3 && ours.clone().all(|measure| measure.in_force), "{measures:?}");
            assert_eq!(warning(&measures), None);
            assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
            let core = getrlimit(Resource::Core);
            assert_eq!((core.current, core.maximum), (Some(0), Some(0)));
            assert!(rustix::thread::no_new_privs().unwrap());
            assert_eq!(harden(), measures, "once more changes nothing");
            return;
        };
        parent.passes(&mut parent.command());
    }

    #[test]
    fn a_confined_process_writes_in_its_folders_alone_reads_everywhere_and_starts_nothing() {
        let Some(parent) = rerun::parent(
            "platform::harden::tests::a_confined_process_writes_in_its_folders_alone_reads_everywhere_and_starts_nothing",
        ) else {
            let folder = PathBuf::from(std::env::var_os("FOLDER").unwrap());
            let (ours, others) = (folder.join("ours"), folder.join("others"));
            harden();
            let measure = confine(&[ours.clone(), folder.join("missing")]);
            if !measure.in_force {
                eprintln!("skipped: {}", measure.detail);
                return;
            }
            std::fs::write(ours.join("file.tmp"), "x").unwrap();
            std::fs::rename(ours.join("file.tmp"), ours.join("file")).unwrap();
            std::fs::remove_file(ours.join("file")).unwrap();
            std::os::unix::net::UnixListener::bind(ours.join("socket")).unwrap();
            assert_eq!(std::fs::read_to_string(others.join("file")).unwrap(), "theirs");
            let denied = std::io::ErrorKind::PermissionDenied;
            assert_eq!(std::fs::write(others.join("file"), "ours").unwrap_err().kind(), denied);
            assert_eq!(std::fs::remove_file(others.join("file")).unwrap_err().kind(), denied);
            assert_eq!(std::os::unix::net::UnixListener::bind(others.join("socket")).unwrap_err().kind(), denied);
            assert_eq!(std::process::Command::new("/bin/true").status().unwrap_err().kind(), denied);
            // and so do threads that are started later
            let later = std::thread::spawn(move || File::create(others.join("new")).map(drop));
            assert_eq!(later.join().unwrap().unwrap_err().kind(), denied);
            assert!(std::net::TcpListener::bind("127.0.0.1:0").is_ok());
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        for name in ["ours", "others"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("others/file"), "theirs").unwrap();
        parent.passes(parent.command().env("FOLDER", folder.path()));
    }

    #[test]
    fn there_is_one_warning_for_all_that_is_missed() {
        let missed = |name, why: &str| Measure::new(name, Err(why.to_owned()), "", "a loss");
        let measures = [missed("no-core", "x"), Measure::waived("landlock", "as configured"), missed("no-trace", "y")];
        let expected = "the process is less closed than it could be: a loss: x; a loss: y";
        assert_eq!(warning(&measures).as_deref(), Some(expected));
        assert_eq!(warning(&measures[1..2]), None);
    }
}
