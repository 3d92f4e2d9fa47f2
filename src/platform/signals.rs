//! Signals, and whether a terminal or another process has sent them, which a handler is told and tokio does not say.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream as StdStream;
use std::ptr;
use std::sync::Arc;

use signal_hook_registry::SigId;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

/// A signal that has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Received {
    /// signal(7)
    pub(crate) number: i32,
    /// Whether the kernel has sent it of itself, as for what is typed at a terminal; else a process has.
    pub(crate) by_kernel: bool,
}

/// The signals that come from the making of this on, to its end.
#[derive(Debug)]
pub(crate) struct Signals {
    handlers: Vec<SigId>,
    stream: UnixStream,
}

/// Set in the byte that stands for a signal, whose number is below.
const BY_KERNEL: u8 = 0x80;

impl Signals {
    /// # Errors
    ///
    /// The system's.
    #[allow(unsafe_code)]
    pub(crate) fn listen(numbers: &[i32]) -> io::Result<Self> {
        let (from, to) = StdStream::pair()?;
        from.set_nonblocking(true)?;
        to.set_nonblocking(true)?; // of more signals than the socket holds, none is news
        let mut signals = Self { handlers: Vec::new(), stream: UnixStream::from_std(from)? };
        let to = Arc::new(to);
        for number in numbers {
            let (to, number) = (to.clone(), *number);
            let handler = move |info: &libc::siginfo_t| {
                let by_kernel = if info.si_code > 0 { BY_KERNEL } else { 0 }; // sigaction(2): SI_KERNEL
                let byte = u8::try_from(number).unwrap_or_default() | by_kernel;
                // SAFETY: one system call, which may be made in a handler (signal-safety(7)), of a byte that lives longer
                let _ = unsafe { libc::write(to.as_raw_fd(), ptr::from_ref(&byte).cast(), 1) };
            };
            // SAFETY: the handler allocates nothing, takes no lock and does not panic
            signals.handlers.push(unsafe { signal_hook_registry::register_sigaction(number, handler) }?);
        }
        Ok(signals)
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Received {
        match self.stream.read_u8().await {
            Ok(byte) => Received { number: i32::from(byte & !BY_KERNEL), by_kernel: byte & BY_KERNEL != 0 },
            Err(_) => std::future::pending().await, // the handlers have the other end
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            signal_hook_registry::unregister(handler);
        }
    }
}

/// Whether this process takes no notice of a signal, as nohup(1) and a shell's `trap ''` have it.
#[allow(unsafe_code)]
pub(crate) fn is_ignored(number: i32) -> bool {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the kernel writes a whole one, and all zeroes are one as well
    let now = unsafe {
        libc::sigaction(number, ptr::null(), now.as_mut_ptr());
        now.assume_init()
    };
    now.sa_sigaction == libc::SIG_IGN
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn a_signal_of_a_process_is_told_from_one_of_the_kernel() {
        let mut signals = Signals::listen(&[libc::SIGWINCH, libc::SIGURG]).unwrap();
        kill_process(getpid(), Signal::URG).unwrap();
        assert_eq!(signals.next().await, Received { number: libc::SIGURG, by_kernel: false });
        assert!(!is_ignored(libc::SIGURG));
        // Rust's runtime has this one ignored (std::process)
        assert!(is_ignored(libc::SIGPIPE));
    }
}
