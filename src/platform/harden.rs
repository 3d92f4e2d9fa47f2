//! What the process gives up at its start, so that nobody reads its memory and it can gain nothing.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::set_no_new_privs;

/// Closes the process: no core dumps, no debugger, no new privileges. Returns what could not be done, in sentences.
///
/// Call it before any thread is started (`no_new_privs` holds for the calling thread and for those it starts later)
/// and after the environment has been read: from here on the kernel treats `/proc/self` as root's, so that an ordinary
/// user's process cannot read its own `environ` and `mem` there; `status`, `statm`, `maps` and `fd` stay readable to
/// itself. Safe to call twice.
pub fn harden() -> Vec<String> {
    // not ptraced and not read through /proc/PID/mem by other processes of the same user
    let no_tracing = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    // a core dump would write every token to the disk; the hard limit keeps it from coming back
    let no_core = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // a helper that we start (a password command, a browser) cannot become another user
    let no_privileges = set_no_new_privs(true);
    [
        (no_tracing, "other processes of this user can read our memory (PR_SET_DUMPABLE"),
        (no_core, "a crash can write secrets to a core file (RLIMIT_CORE"),
        (no_privileges, "programs that we start can gain privileges (PR_SET_NO_NEW_PRIVS"),
    ]
    .into_iter()
    .filter_map(|(outcome, consequence)| outcome.err().map(|error| format!("{consequence}: {error})")))
    .collect()
}

#[cfg(test)]
mod tests {
    use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};

    use super::harden;
    use crate::platform::rerun;

    #[test]
    fn a_hardened_process_leaves_no_core_is_not_traceable_and_gains_nothing() {
        let Some(parent) = rerun::parent(
            "platform::harden::tests::a_hardened_process_leaves_no_core_is_not_traceable_and_gains_nothing",
        ) else {
            assert_eq!(harden(), [""; 0]);
            assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
            let core = getrlimit(Resource::Core);
            assert_eq!((core.current, core.maximum), (Some(0), Some(0)));
            assert!(rustix::thread::no_new_privs().unwrap());
            assert_eq!(harden(), [""; 0], "once more changes nothing");
            return;
        };
        parent.passes(&mut parent.command());
    }
}
