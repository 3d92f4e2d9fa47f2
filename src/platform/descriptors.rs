//! How many descriptors this process may have.
//!
//! Each connection of a client costs one or two, and the usual soft limit of 1,024 is there for programs that use
//! select(2), which knows no higher numbers. This one does not, so it may have as many as the hard limit allows; what it
//! starts is given the limit that it was itself started with.

use std::sync::OnceLock;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use tracing::debug;

/// As many as anybody's clients have needed, several times over. A container's hard limit may be a thousand million, and
/// what counts by it would then know no bound.
const ENOUGH: u64 = 1 << 16;

/// What we were started with, where it has been changed.
static BEFORE: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit to the hard one, to `ENOUGH` at most; never lowers it. Call it before anything counts by it.
pub(crate) fn raise() {
    let before = getrlimit(Resource::Nofile);
    let most = before.maximum.unwrap_or(ENOUGH).min(ENOUGH);
    if before.current.is_none_or(|current| current >= most) {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: before.maximum }) {
        Ok(()) => _ = BEFORE.set(before),
        Err(error) => debug!(%error, "the limit of open descriptors stays as it is"),
    }
}

/// The soft limit as it is now.
pub(crate) fn limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    usize::try_from(limit).unwrap_or(1 << 20)
}

/// Gives a program that has just been started the limit that we were started with: it may use select(2).
pub(crate) fn restore(child: Option<u32>) {
    let pid = child.and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
    if let (Some(before), Some(_)) = (BEFORE.get(), pid) {
        _ = prlimit(pid, Resource::Nofile, *before); // it may have ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::rerun;

    #[test]
    fn the_soft_limit_is_raised_and_a_child_has_the_one_from_before() {
        let Some(parent) =
            rerun::parent("platform::descriptors::tests::the_soft_limit_is_raised_and_a_child_has_the_one_from_before")
        else {
            let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
            setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum }).unwrap();
            raise();
            let most = usize::try_from(maximum.unwrap_or(ENOUGH).min(ENOUGH)).unwrap();
            assert_eq!(limit(), most);
            raise();
            assert_eq!(limit(), most, "a second time changes nothing");
            let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
            restore(Some(child.id()));
            let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
            let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
            assert_eq!(line.split_whitespace().nth(3), Some("256"), "{line}");
            return;
        };
        parent.passes(&mut parent.command());
    }
}
