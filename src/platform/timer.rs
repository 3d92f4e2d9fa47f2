//! Waits for a point of the daemon's time line, also through a night of sleep.
//!
//! The async runtime's own clock stops in suspend, so two timers of the kernel do the waiting. One, on
//! `CLOCK_BOOTTIME`, counts sleep and fires by itself when the machine wakes up late. The other, on `CLOCK_REALTIME`,
//! never fires: it is there for `TFD_TIMER_CANCEL_ON_SET`, by which the kernel tells that somebody has set the wall
//! clock, which moves the time line if it was set forward (see [`super::clock`]). Nothing polls.

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::clock::Clock;
use crate::timestamp::Timestamp;

/// Two kernel timers behind one wait.
#[derive(Debug)]
pub(crate) struct WakeTimer {
    boot: AsyncFd<OwnedFd>,
    wall: AsyncFd<OwnedFd>,
}

/// Why a wait has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wake {
    /// The time line has reached the point.
    Due,
    /// Somebody has set the wall clock (or the machine has slept, which sets it as well): read the time line again.
    ClockSet,
}

const ZERO: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

impl WakeTimer {
    /// Makes both timers. To be called inside a runtime with I/O enabled.
    ///
    /// # Errors
    ///
    /// The system's: no descriptors left, or a sandbox that forbids timers.
    pub(crate) fn new() -> io::Result<Self> {
        let boot = register(timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?)?;
        let wall = register(timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?)?;
        let never = Timespec { tv_sec: i64::MAX, tv_nsec: 0 };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        timerfd_settime(&wall, flags, &Itimerspec { it_interval: ZERO, it_value: never })?;
        Ok(Self { boot, wall })
    }

    /// Waits until the time line reaches `until` or somebody sets the wall clock; with `None`, for the latter alone.
    /// A setting of the clock between two calls is told by the second. Safe to drop at any point and to call again.
    pub(crate) async fn wait(&mut self, clock: &Clock, until: Option<Timestamp>) -> Wake {
        tokio::select! {
            biased; // a moved clock first: it may be what has made the point due
            () = clock_set(&self.wall) => Wake::ClockSet,
            () = reached(&self.boot, clock, until) => Wake::Due,
        }
    }
}

/// Answers when the time line has reached `until`.
async fn reached(timer: &AsyncFd<OwnedFd>, clock: &Clock, until: Option<Timestamp>) {
    let Some(until) = until else { return pending().await };
    while clock.now() < until {
        let at = clock.boot_time_of(until);
        let seconds = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
        // a time of zero would disarm the timer; a nanosecond after boot is as much in the past
        let nanos = i64::from(at.subsec_nanos()).max(1);
        let at = Itimerspec { it_interval: ZERO, it_value: Timespec { tv_sec: seconds, tv_nsec: nanos } };
        timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &at).expect("an armed timer that is ours takes any time");
        let _ = expired(timer).await;
    }
}

async fn clock_set(timer: &AsyncFd<OwnedFd>) {
    // it cannot expire, so whatever it says is that the clock was set
    let _ = expired(timer).await;
}

/// Waits for the timer's next word, and takes it: the next call waits for another.
async fn expired(timer: &AsyncFd<OwnedFd>) -> Result<(), Errno> {
    loop {
        let Ok(mut ready) = timer.readable().await else { return pending().await }; // the runtime is going away
        match rustix::io::read(timer, &mut [0; 8]) {
            Ok(_) => return Ok(()),
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error), // ECANCELED: the clock was set
        }
    }
}

/// Has the runtime say when a descriptor is readable.
///
/// # Errors
///
/// The system's: nothing that epoll(7) takes, no descriptors left.
#[allow(unsafe_code)]
pub(crate) fn register(timer: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the descriptor from here on; nothing else closes or replaces it.
    Ok(unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn in_runtime<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    /// Waits until `until` is due. Others may set the clock meanwhile (a test below does), but not all the time.
    async fn due(timer: &mut WakeTimer, clock: &Clock, until: Timestamp) {
        for _ in 0..100 {
            if timer.wait(clock, Some(until)).await == Wake::Due {
                return;
            }
        }
        panic!("nobody sets the clock a hundred times in a moment");
    }

    #[test]
    fn a_point_is_due_when_the_time_line_has_reached_it_and_not_before() {
        in_runtime(async {
            let clock = Clock::start();
            let mut timer = WakeTimer::new().unwrap();
            for millis in [0, 1, 2, 30] {
                let until = clock.now() + Duration::from_millis(millis);
                due(&mut timer, &clock, until).await;
                assert!(clock.now() >= until);
            }
            due(&mut timer, &clock, Timestamp::from_millis(0)).await;
        });
    }

    #[test]
    fn a_dropped_wait_leaves_nothing_behind_for_the_next() {
        in_runtime(async {
            let clock = Clock::start();
            let mut timer = WakeTimer::new().unwrap();
            let soon = clock.now() + Duration::from_millis(5);
            tokio::select! {
                biased;
                wake = timer.wait(&clock, Some(soon)) => assert_eq!(wake, Wake::ClockSet, "not yet due"),
                () = tokio::task::yield_now() => {}
            }
            // the first wait's timer goes off while nobody looks
            std::thread::sleep(Duration::from_millis(10));
            let later = clock.now() + Duration::from_millis(20);
            due(&mut timer, &clock, later).await;
            assert!(clock.now() >= later);
        });
    }

    #[test]
    fn without_a_point_and_far_from_it_the_wait_does_not_end() {
        in_runtime(async {
            let clock = Clock::start();
            let mut timer = WakeTimer::new().unwrap();
            for until in [None, Some(Timestamp::FAR), Some(clock.now() + Duration::from_secs(1_000_000))] {
                tokio::select! {
                    wake = timer.wait(&clock, until) => assert_eq!(wake, Wake::ClockSet, "{until:?}"), // it happens
                    () = tokio::time::sleep(Duration::from_millis(20)) => {}
                }
            }
        });
    }

    #[test]
    fn setting_the_wall_clock_ends_the_wait_once() {
        in_runtime(async {
            let clock = Clock::start();
            let mut timer = WakeTimer::new().unwrap();
            if !set_the_clock_by_a_nanosecond() {
                eprintln!("skipped: this user cannot set the clock");
                return;
            }
            assert_eq!(timer.wait(&clock, None).await, Wake::ClockSet, "told also to a wait that begins afterwards");
            let soon = clock.now() + Duration::from_millis(20);
            due(&mut timer, &clock, soon).await; // it was told once
            let (wake, ()) = tokio::join!(timer.wait(&clock, Some(Timestamp::FAR)), async {
                tokio::task::yield_now().await;
                assert!(set_the_clock_by_a_nanosecond());
            });
            assert_eq!(wake, Wake::ClockSet);
        });
    }

    /// The smallest step there is: the kernel takes it for a setting like any other, and nobody else will notice.
    #[allow(unsafe_code)]
    fn set_the_clock_by_a_nanosecond() -> bool {
        // SAFETY: all of timex is plain numbers, for which zero is a value.
        let mut step: libc::timex = unsafe { std::mem::zeroed() };
        step.modes = libc::ADJ_SETOFFSET | libc::ADJ_NANO;
        step.time.tv_usec = 1; // nanoseconds, because of ADJ_NANO
        // SAFETY: the argument is a timex of ours that lives through the call.
        unsafe { libc::adjtimex(&mut step) != -1 }
    }
}
