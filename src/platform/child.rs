//! What a command is told of before it begins, between fork(2) and execve(2).

use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};

/// Has a command told to end (TERM) when the thread ends that has started it, however that ends.
#[allow(unsafe_code)]
pub(crate) fn ends_with_us(command: &mut Command) {
    // SAFETY: one system call, which allocates nothing and takes no lock
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?));
    }
}

/// Has a command take no notice of these signals.
#[allow(unsafe_code)]
pub(crate) fn ignores(command: &mut Command, numbers: Vec<i32>) {
    // SAFETY: system calls, which allocate nothing and take no lock; the list was made before
    unsafe {
        command.pre_exec(move || {
            for number in &numbers {
                libc::signal(*number, libc::SIG_IGN);
            }
            Ok(())
        });
    }
}

/// Has a command inherit these descriptors, and of all others none but the first three.
#[allow(unsafe_code)]
pub(crate) fn inherits_only(command: &mut Command, kept: Vec<RawFd>) {
    // SAFETY: system calls alone; the list was made before
    unsafe {
        command.pre_exec(move || {
            if libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) != 0 {
                return Err(io::Error::last_os_error());
            }
            for descriptor in &kept {
                if libc::fcntl(*descriptor, libc::F_SETFD, 0) != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}
