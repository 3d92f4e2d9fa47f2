//! A command that is run as a child: its signals and its exit status are handed through.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::rc::Rc;

use rustix::process::{Pid, Signal};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::platform::child;

/// Signals that are handed on. What a terminal sends (INT, QUIT) it sends to the command, too, which is in the same group.
const HANDED_ON: [(SignalKind, Signal, bool); 7] = [
    (SignalKind::terminate(), Signal::TERM, false),
    (SignalKind::hangup(), Signal::HUP, false),
    (SignalKind::user_defined1(), Signal::USR1, false),
    (SignalKind::user_defined2(), Signal::USR2, false),
    (SignalKind::window_change(), Signal::WINCH, true),
    (SignalKind::interrupt(), Signal::INT, true),
    (SignalKind::quit(), Signal::QUIT, true),
];

/// Runs a command to its end. `deliver` has it get a signal that we were sent, by its process id; it also gets those whose
/// numbers come on `orders`.
///
/// # Errors
///
/// The system's, if it cannot be run.
pub(super) async fn run(
    mut command: std::process::Command,
    deliver: impl Fn(Pid, Signal) + 'static,
    orders: Option<UnixStream>,
) -> io::Result<ExitStatus> {
    child::ends_with_us(&mut command);
    let deliver = Rc::new(deliver);
    let mut listening = Vec::new();
    for (kind, number, by_terminal) in HANDED_ON {
        listening.push((signal(kind)?, number, by_terminal));
    }
    let mut child = Command::from(command).kill_on_drop(true).spawn()?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    for (mut received, number, by_terminal) in listening {
        let deliver = deliver.clone();
        tokio::task::spawn_local(async move {
            while received.recv().await.is_some() {
                if let Some(pid) = pid.filter(|_| !(by_terminal && is_in_foreground())) {
                    deliver(pid, number);
                }
            }
        });
    }
    if let (Some(mut orders), Some(pid)) = (orders, pid) {
        tokio::task::spawn_local(async move {
            while let Ok(number) = orders.read_u8().await {
                if let Some(signal) = signal_of(number) {
                    directly(pid, signal);
                }
            }
        });
    }
    child.wait().await
}

/// Delivers a signal to the process itself.
pub(super) fn directly(pid: Pid, signal: Signal) {
    let _ = rustix::process::kill_process(pid, signal);
}

/// The signal of a number that was handed on.
fn signal_of(number: u8) -> Option<Signal> {
    HANDED_ON.iter().map(|(_, signal, _)| *signal).find(|signal| signal.as_raw() == i32::from(number))
}

/// Whether our group is the one that the terminal sends its signals to.
fn is_in_foreground() -> bool {
    let group = rustix::termios::tcgetpgrp(io::stdin()).or_else(|_| rustix::termios::tcgetpgrp(io::stderr()));
    group.is_ok_and(|group| group == rustix::process::getpgrp())
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
