//! The daemon's time line, from two clocks of the machine.
//!
//! A token's life ends by the server's clock while ours may be stepped, slewed or asleep. So the time line advances with
//! whichever of two clocks says that more time has passed: `CLOCK_BOOTTIME`, which counts sleep and cannot be set, and
//! `CLOCK_REALTIME`, which also knows of a sleep that the kernel itself did not see (a paused virtual machine). It
//! never runs backwards. An error is on the safe side: a clock set forward makes tokens look older than they are,
//! which costs one early renewal.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::timestamp::Timestamp;

/// Reads the time line. One for each process; shared by reference count.
#[derive(Debug)]
pub struct Clock {
    /// The greatest difference seen so far, in milliseconds, of the wall clock to the boot clock.
    ahead: AtomicI64,
}

impl Clock {
    /// Starts a time line at the wall clock's time.
    pub fn start() -> Self {
        Self::start_at(boot_millis(), wall_millis())
    }

    /// The same from given readings, in milliseconds.
    pub(crate) fn start_at(boot: i64, wall: i64) -> Self {
        Self { ahead: AtomicI64::new(wall - boot) }
    }

    /// Reads the time line: two clock readings and an atomic load, no system call on Linux.
    pub fn now(&self) -> Timestamp {
        self.at(boot_millis(), wall_millis())
    }

    /// The same from given readings, in milliseconds.
    pub(crate) fn at(&self, boot: i64, wall: i64) -> Timestamp {
        let ahead = wall - boot;
        // Relaxed: the value only ever grows, and no other memory hangs on it.
        let mut greatest = self.ahead.load(Ordering::Relaxed);
        if ahead > greatest {
            greatest = self.ahead.fetch_max(ahead, Ordering::Relaxed).max(ahead);
        }
        Timestamp::from_millis((boot + greatest).max(0).cast_unsigned())
    }

    /// The reading of `CLOCK_BOOTTIME` at which the time line reaches `at`, unless the wall clock is set forward first.
    pub fn boot_time_of(&self, at: Timestamp) -> Duration {
        let ahead = self.ahead.load(Ordering::Relaxed);
        let at = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
        Duration::from_millis(at.saturating_sub(ahead).max(0).cast_unsigned())
    }

    /// What a calendar shows at a point of the time line, as far as can be told now.
    pub fn calendar(&self, at: Timestamp) -> SystemTime {
        let now = self.now();
        let wall = SystemTime::now();
        let after = wall.checked_add(at.since(now)).unwrap_or(wall);
        after.checked_sub(now.since(at)).unwrap_or(UNIX_EPOCH)
    }

    /// The point of the time line at which a calendar shows `wall`, as far as can be told now.
    pub fn timestamp_of(&self, wall: SystemTime) -> Timestamp {
        let now = self.now();
        match wall.duration_since(SystemTime::now()) {
            Ok(ahead) => now + ahead,
            Err(behind) => now - behind.duration(),
        }
    }
}

fn wall_millis() -> i64 {
    millis(ClockId::Realtime)
}

fn boot_millis() -> i64 {
    millis(ClockId::Boottime)
}

fn millis(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_line_starts_at_the_wall_clock_and_follows_a_step_forward_but_not_back() {
        let clock = Clock::start();
        let start = clock.now();
        assert!(start.as_millis().abs_diff(wall_millis().cast_unsigned()) < 1000);
        // as if the wall clock had once been seen an hour ahead: the time line keeps that hour
        clock.ahead.fetch_add(3_600_000, Ordering::Relaxed);
        let later = clock.now();
        assert!(later.since(start) >= Duration::from_secs(3600));
        assert!(clock.now() >= later);
    }

    #[test]
    fn calendar_and_timestamp_are_each_others_inverse() {
        let clock = Clock::start();
        let at = clock.now() + Duration::from_secs(777);
        let back = clock.timestamp_of(clock.calendar(at));
        assert!(back.as_millis().abs_diff(at.as_millis()) < 50);
    }
}
