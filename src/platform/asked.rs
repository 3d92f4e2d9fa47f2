//! A program that is waited for, and that ends together with whatever it has started.
//!
//! A daemon's leads a process group of its own, so that a shell's pipeline ends with the shell. It stays in our group
//! where whoever ends us ends that: below a verb of the command line, and in the foreground of a terminal, where it may
//! ask a person, and Ctrl-C is for it as well. There, we end only the program itself.

use std::fs::File;
use std::io;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpgrp, kill_process_group, waitid};
use rustix::termios::tcgetpgrp;
use tokio::process::{Child, ChildStdout, Command};

use super::{clock, descriptors};

/// What a program may take to clean up after TERM. A daemon that stops waits for it, so that it is less than the
/// daemon's last second.
const GRACE: Duration = Duration::from_millis(500);

/// How often it is looked whether it has ended.
const GLANCE: Duration = Duration::from_millis(5);

/// Whether this process ends what it has started before it ends itself.
static STOPS_IN_ORDER: AtomicBool = AtomicBool::new(false);

/// Has programs lead groups of their own from here on. For a process that no signal ends at once: what it has started
/// would go on else.
pub(crate) fn stops_in_order() {
    STOPS_IN_ORDER.store(true, Ordering::Relaxed);
}

/// Dropping it ends the program: TERM, and KILL after half a second, for which the thread is blocked.
#[derive(Debug)]
pub(crate) struct Asked {
    child: Child,
    /// The group that it leads, until it has ended by itself.
    group: Option<Pid>,
}

impl Asked {
    /// Starts a program.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        Self::start_as(command, STOPS_IN_ORDER.load(Ordering::Relaxed) && !is_in_foreground())
    }

    fn start_as(command: &mut Command, leads: bool) -> io::Result<Self> {
        if leads {
            command.process_group(0);
        }
        let child = command.kill_on_drop(true).spawn()?;
        descriptors::restore(child.id());
        let group = child.id().filter(|_| leads).and_then(|id| Pid::from_raw(id.try_into().ok()?));
        Ok(Self { child, group })
    }

    /// Its standard output, the first time, if that is piped.
    pub(crate) fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Waits until it has ended by itself. What it has left running is not touched any more: an agent is to stay.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.group = None;
        Ok(status)
    }

    /// Ends it, with whatever it has started.
    pub(crate) async fn end(self) {
        let _ = tokio::task::spawn_blocking(move || drop(self)).await; // it cannot panic
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let Some(group) = self.group else { return };
        _ = kill_process_group(group, Signal::TERM); // whoever has ended already is no fault
        let deadline = clock::instant() + GRACE;
        while !has_ended(group) && clock::instant() < deadline {
            thread::sleep(GLANCE);
        }
        // also where the leader has ended: others may take no notice of a TERM
        _ = kill_process_group(group, Signal::KILL);
    }
}

/// Whether a group's leader has ended. It is not reaped here: until it is, the group's number is nobody else's.
fn has_ended(leader: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::Pid(leader), options), Ok(None))
}

/// Whether the keys of a terminal reach us.
fn is_in_foreground() -> bool {
    File::open("/dev/tty").is_ok_and(|terminal| tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp()))
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use tokio::io::AsyncReadExt;
    use tokio::time::timeout;

    use super::*;

    /// Starts a shell, which has said `on` when everything has begun. All that it starts holds its standard error.
    async fn shell(script: &str) -> (Asked, tokio::process::ChildStderr) {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut asked = Asked::start_as(&mut command, true).unwrap();
        let stderr = asked.child.stderr.take().unwrap();
        let mut said = [0; 3];
        asked.stdout().unwrap().read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"on\n");
        (asked, stderr)
    }

    #[tokio::test]
    async fn whatever_a_program_has_started_ends_with_it() {
        let scripts = [
            ("a pipeline", "echo on; sleep 1000 | cat"),
            ("in the background", "sleep 1000 & echo on; wait"),
            (
                "the program has ended, and what it left holds on",
                "(trap '' TERM; echo on; sleep 1000; sleep 1000) & exit",
            ),
            ("none takes notice of a TERM", "trap '' TERM; (sleep 1000; sleep 1000) & echo on; sleep 1000; sleep 1000"),
        ];
        for (name, script) in scripts {
            for is_dropped in [true, false] {
                let (asked, mut stderr) = shell(script).await;
                let began = clock::instant();
                if is_dropped {
                    drop(asked);
                } else {
                    asked.end().await;
                }
                let took = began.elapsed();
                assert!(took < GRACE * 2, "{name}: {took:?}");
                let mut said = Vec::new();
                let closed = timeout(Duration::from_secs(5), stderr.read_to_end(&mut said)).await;
                assert!(closed.is_ok(), "{name}: something is still running");
            }
        }
    }

    #[tokio::test]
    async fn a_program_has_time_to_clean_up_and_what_outlives_it_by_itself_stays() {
        let (asked, mut stderr) =
            shell("trap 'sleep 0.1; echo cleaned >&2; exit' TERM; echo on; sleep 1000 & wait").await;
        asked.end().await;
        let mut said = String::new();
        stderr.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "cleaned\n");

        let (mut asked, mut stderr) = shell("sleep 1000 >&2 & echo $! >&2; echo on").await;
        assert!(asked.ended().await.unwrap().success());
        drop(asked);
        let mut agent = [0; 32];
        let count = stderr.read(&mut agent).await.unwrap();
        let agent = std::str::from_utf8(&agent[..count]).unwrap().trim().parse().unwrap();
        let agent = Pid::from_raw(agent).unwrap();
        rustix::process::kill_process(agent, Signal::KILL).expect("it is still there");
    }
}
