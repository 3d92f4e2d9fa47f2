//! What this process owes before a signal ends it: a terminal that shows again what is typed, and no file half replaced.
//!
//! A thread takes the signals that end a process and have nobody else here to wait for them. It waits for what must not be cut
//! in half, puts the terminal back, and lets the signal do what it does by default, so that whoever started us sees which one
//! it was. A signal that was ignored when we were started (nohup) stays so.

use std::fs::{self, File};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// Held by what must not be cut in half.
static WHOLE: Mutex<()> = Mutex::new(());
/// A terminal that has been set otherwise, and how it was.
static TERMINAL: Mutex<Option<(File, Termios)>> = Mutex::new(None);

/// While this lives, no signal (but KILL) ends the process. For files and nothing that waits: no network, no question. Not to
/// be taken twice.
pub(crate) struct Uninterrupted(#[expect(dead_code, reason = "it is held")] MutexGuard<'static, ()>);

/// Begins what must not be cut in half.
pub(crate) fn uninterrupted() -> Uninterrupted {
    watch();
    Uninterrupted(lock(&WHOLE))
}

/// A terminal that is to be as it was, whatever ends this process. Dropping it puts the terminal back.
pub(crate) struct Restoration(());

/// Notes how a terminal is now, before it is set otherwise. One terminal at a time.
pub(crate) fn restores(terminal: File, now: Termios) -> Restoration {
    watch();
    *lock(&TERMINAL) = Some((terminal, now));
    Restoration(())
}

impl Drop for Restoration {
    fn drop(&mut self) {
        restore(OptionalActions::Drain);
    }
}

/// Puts the terminal back once, whoever comes first.
fn restore(when: OptionalActions) {
    if let Some((terminal, before)) = lock(&TERMINAL).take() {
        let _ = tcsetattr(&terminal, when, &before);
    }
}

fn lock<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the thread, once. Where none can be started, signals do at once what they do by default.
fn watch() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let taken = [SIGTERM, SIGHUP, SIGINT, SIGQUIT].into_iter().filter(|signal| !is_ignored(&status, *signal));
        let Ok(mut signals) = Signals::new(taken) else { return };
        let _ = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                let _whole = lock(&WHOLE);
                // a terminal that takes no more (Ctrl-S) must not keep us
                restore(OptionalActions::Now);
                let _ = emulate_default_handler(signal);
            }
        });
    });
}

/// Whether a signal is ignored, by what the kernel says of a process (proc_pid_status(5)). Pure.
fn is_ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_read_as_the_kernel_writes_it() {
        let status = "Name:\tvaletd\nSigBlk:\t0000000000004001\nSigIgn:\t0000000000000001\nSigCgt:\t0000000180004002\n";
        for (signal, expected) in [(SIGHUP, true), (SIGINT, false), (SIGTERM, false)] {
            assert_eq!(is_ignored(status, signal), expected, "{signal}");
        }
        assert!(!is_ignored("", SIGHUP));
    }
}
