//! A command that is run as a child: its signals and its exit status are handed through.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::Command;

use crate::cli::failure::{Exit, Failure};
use crate::platform::child;
use crate::platform::signals::{Received, Signals, is_ignored};

/// Signals that are handed on.
const HANDED_ON: [Signal; 7] =
    [Signal::TERM, Signal::HUP, Signal::USR1, Signal::USR2, Signal::WINCH, Signal::INT, Signal::QUIT];

/// What a terminal sends it sends to the command, too, which is in the same group.
const BY_TERMINAL: [Signal; 3] = [Signal::WINCH, Signal::INT, Signal::QUIT];

/// Those of them of which this process takes no notice, and so has no command of its take any. To be asked before any of
/// them is waited for.
pub(super) fn ignored() -> Vec<Signal> {
    HANDED_ON.into_iter().filter(|signal| is_ignored(signal.as_raw())).collect()
}

/// Why a command has not run.
pub(super) fn cannot_be_run(error: io::Error, program: &OsStr) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::NotFound => Exit::NoSuchCommand,
        _ => Exit::NotExecutable,
    };
    Failure::new(error).while_doing(format!("running {}", program.display())).with_exit(exit)
}

/// Runs a command to its end, in which it takes no notice of what is `ignored`. `deliver` has it get a signal that we were
/// sent, by its process id; it is told whether the command has got it already. The command also gets those whose numbers
/// come on `orders`.
///
/// # Errors
///
/// The system's, if it cannot be run.
pub(super) async fn run(
    mut command: std::process::Command,
    ignored: &[Signal],
    deliver: impl Fn(Pid, Signal, bool) + 'static,
    orders: Option<UnixStream>,
) -> io::Result<ExitStatus> {
    child::ignores(&mut command, ignored.iter().map(|signal| signal.as_raw()).collect());
    let heard: Vec<i32> =
        HANDED_ON.iter().filter(|signal| !ignored.contains(signal)).map(|signal| signal.as_raw()).collect();
    let mut signals = Signals::listen(&heard)?;
    let mut child = Command::from(command).kill_on_drop(true).spawn()?;
    let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) else {
        return child.wait().await;
    };
    tokio::task::spawn_local(async move {
        loop {
            let Received { number, by_kernel } = signals.next().await;
            if let Some(signal) = signal_of(number) {
                deliver(pid, signal, by_kernel && BY_TERMINAL.contains(&signal));
            }
        }
    });
    if let Some(mut orders) = orders {
        tokio::task::spawn_local(async move {
            while let Ok(number) = orders.read_u8().await {
                if let Some(signal) = signal_of(i32::from(number)) {
                    directly(pid, signal, false);
                }
            }
        });
    }
    child.wait().await
}

/// Delivers a signal to the process itself, unless it has got it.
pub(super) fn directly(pid: Pid, signal: Signal, has_it: bool) {
    if has_it {
        return;
    }
    let _ = rustix::process::kill_process(pid, signal);
}

/// The signal of a number, if it is one that is handed on.
pub(super) fn signal_of(number: i32) -> Option<Signal> {
    HANDED_ON.into_iter().find(|signal| signal.as_raw() == number)
}

/// The exit status that a shell shows of a command that a signal has ended.
pub(super) fn code_of(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX)
}

/// The exit status that a shell shows: the command's own, or 128 and the signal that ended it.
pub(super) fn code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code & 0xff).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_as_a_shell_shows_it() {
        for (raw, expected) in [(0, 0), (7 << 8, 7), (255 << 8, 255), (9, 137), (15, 143)] {
            assert_eq!(code(ExitStatus::from_raw(raw)), expected, "{raw}");
        }
    }
}
