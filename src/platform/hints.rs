//! What the machine tells of itself that makes another look worth while: it has slept, or its network has changed.
//!
//! Hints only ever bring forward what would happen anyway; nothing is lost where they are not to be had. They come from
//! the kernel alone: changes of links and addresses over rtnetlink(7), sleep as the difference of two clocks. (logind
//! could announce both over D-Bus. Its client would be the largest dependency of this program, for news that the kernel
//! has told us already.) Nothing polls.

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, netlink};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;
use tracing::debug;

/// Tells when links or addresses of the machine have changed.
#[derive(Debug)]
pub(crate) struct NetworkWatch {
    /// `None` where the kernel or a sandbox does not let us listen.
    socket: Option<AsyncFd<OwnedFd>>,
    /// The first word of what has not been told yet.
    heard: Option<Instant>,
}

/// A network comes up in many small steps, and a host of containers changes all day: after the first word we let it
/// settle this long, then take all that was said for one.
const SETTLE: Duration = Duration::from_secs(1);

// linux/rtnetlink.h: RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
const GROUPS: u32 = 0x1 | 0x10 | 0x100;

impl NetworkWatch {
    /// Begins to listen. To be called inside a runtime with I/O enabled.
    pub(crate) fn new() -> Self {
        let socket = listen().inspect_err(|error| debug!(%error, "the kernel does not tell changes of the network"));
        Self { socket: socket.ok(), heard: None }
    }

    /// Waits until something has changed since the last call and has settled. Safe to drop at any point: what was
    /// heard is told by the next call.
    pub(crate) async fn changed(&mut self) {
        let Self { socket: Some(socket), heard } = self else { return pending().await };
        loop {
            let Ok(mut ready) = socket.readable().await else { return pending().await }; // the runtime is going away
            // kept, so that whoever drops us every moment does not put it off for ever
            tokio::time::sleep_until(*heard.get_or_insert_with(Instant::now) + SETTLE).await;
            let has_told = drain(socket);
            ready.clear_ready();
            *heard = None;
            if has_told {
                return;
            }
        }
    }
}

impl Default for NetworkWatch {
    fn default() -> Self {
        Self::new()
    }
}

#[allow(unsafe_code)]
fn listen() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let protocol = None; // NETLINK_ROUTE is number 0
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    rustix::net::bind(&socket, &netlink::SocketAddrNetlink::new(0, GROUPS))?;
    // SAFETY: the AsyncFd owns the descriptor from here on; nothing else closes or replaces it.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Reads all there is. What it says does not matter, so nothing is parsed. Returns whether there was anything.
fn drain(socket: &AsyncFd<OwnedFd>) -> bool {
    let mut has_told = false;
    let mut buffer = [0; 8192];
    loop {
        match rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok(_) | Err(Errno::NOBUFS) => has_told = true, // more was said than the kernel kept for us
            Err(Errno::INTR) => {}
            Err(_) => return has_told,
        }
    }
}

/// Finds out after the event that the machine has slept. The kernel wakes our timers when it resumes (see
/// [`super::timer`]), so whoever looks at every wake learns it at once.
#[derive(Debug)]
pub(crate) struct SleepMeter {
    slept: Duration,
}

/// Two readings of two clocks are never taken at once; no suspend is as short as this.
const NO_SLEEP: Duration = Duration::from_millis(500);

impl SleepMeter {
    /// Counts from now.
    pub(crate) fn start() -> Self {
        Self { slept: slept_since_boot() }
    }

    /// How long the machine has slept since the last call, if it has.
    pub(crate) fn slept(&mut self) -> Option<Duration> {
        self.slept_by(slept_since_boot())
    }

    fn slept_by(&mut self, slept: Duration) -> Option<Duration> {
        let more = slept.checked_sub(self.slept).filter(|more| *more >= NO_SLEEP)?;
        self.slept = slept;
        Some(more)
    }
}

/// `CLOCK_BOOTTIME` counts sleep, `CLOCK_MONOTONIC` does not.
#[expect(clippy::disallowed_methods, reason = "sleep is the difference of two clocks, which make no time line")]
fn slept_since_boot() -> Duration {
    let read = |clock| {
        let time = clock_gettime(clock);
        Duration::new(time.tv_sec.max(0).cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0))
    };
    let monotonic = read(ClockId::Monotonic); // first, so that a pause in between looks like no sleep shorter than it
    read(ClockId::Boottime).saturating_sub(monotonic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_is_told_once_and_a_waking_machine_has_none() {
        let mut meter = SleepMeter::start();
        assert_eq!(meter.slept(), None);
        let before = meter.slept;
        assert_eq!(meter.slept_by(before + Duration::from_millis(3)), None);
        let night = Duration::from_secs(8 * 3600);
        assert_eq!(meter.slept_by(before + night), Some(night));
        assert_eq!(meter.slept_by(before + night), None);
        assert_eq!(meter.slept_by(before + night + Duration::from_secs(2)), Some(Duration::from_secs(2)));
    }

    #[test]
    fn an_address_that_comes_is_told_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut watch = NetworkWatch::new();
            if watch.socket.is_none() || !ip(&["addr", "add", "127.83.2.1/32", "dev", "lo"]) {
                eprintln!("skipped: this user cannot change the network");
                return;
            }
            ip(&["addr", "del", "127.83.2.1/32", "dev", "lo"]);
            let end = Instant::now() + Duration::from_secs(20);
            // as in a loop that has much else to do
            while tokio::time::timeout(Duration::from_millis(50), watch.changed()).await.is_err() {
                assert!(Instant::now() < end, "it was never told");
            }
        });
    }

    fn ip(arguments: &[&str]) -> bool {
        std::process::Command::new("ip").args(arguments).output().is_ok_and(|output| output.status.success())
    }
}
