//! The daemon's time line, from two clocks of the machine.
//!
//! A token's life ends by the server's clock while ours may be stepped, slewed or asleep. So the time line advances with
//! whichever of two clocks says that more time has passed: `CLOCK_BOOTTIME`, which counts sleep and cannot be set, and
//! `CLOCK_REALTIME`, which also knows of a sleep that the kernel itself did not see (a paused virtual machine). It
//! never runs backwards. An error is on the safe side: a clock set forward makes tokens look older than they are,
//! which costs one early renewal.
//!
//! What has an end is judged by the time line alone. The bare wall clock ([`wall`]) is for what is shown or noted, and for
//! comparing with the dates of a server; nobody else reads it (clippy.toml sees to that).

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::timestamp::{self, Timestamp};

/// Reads the time line. One for each process; shared by reference count.
#[derive(Debug)]
pub(crate) struct Clock {
    /// The time line's difference to the boot clock, in milliseconds: only ever grows.
    ahead: AtomicI64,
    /// How much of the wall clock's difference to the boot clock is in `ahead` already.
    seen: AtomicI64,
    /// Held while the two change.
    changing: Mutex<()>,
}

/// The wall clock is slewed, and read a moment after the boot clock: what it falls behind by less than this, it has not
/// been set back. If it has, in milliseconds, the next step forward counts from there.
const SLEW: i64 = 1000;

impl Clock {
    /// Starts a time line at the wall clock's time.
    pub(crate) fn start() -> Self {
        Self::start_at(boot_millis(), wall_millis())
    }

    /// The same from given readings, in milliseconds.
    pub(crate) fn start_at(boot: i64, wall: i64) -> Self {
        let lead = wall - boot;
        Self { ahead: AtomicI64::new(lead), seen: AtomicI64::new(lead), changing: Mutex::new(()) }
    }

    /// As if the wall clock had been seen so far ahead, and were set back since.
    #[cfg(test)]
    pub(crate) fn was_ahead_by(&self, lead: Duration) {
        self.ahead.fetch_add(i64::try_from(lead.as_millis()).expect("less than an age"), Ordering::Relaxed);
    }

    /// Reads the time line: two clock readings and an atomic load, no system call on Linux.
    pub(crate) fn now(&self) -> Timestamp {
        self.at(boot_millis(), wall_millis())
    }

    /// The same from given readings, in milliseconds.
    pub(crate) fn at(&self, boot: i64, wall: i64) -> Timestamp {
        let lead = wall - boot;
        // Acquire, and `ahead` is written first: who sees a step in `seen` sees it in `ahead`
        let seen = self.seen.load(Ordering::Acquire);
        if lead > seen || lead < seen - SLEW {
            self.step(lead);
        }
        Timestamp::from_millis((boot + self.ahead.load(Ordering::Acquire)).max(0).cast_unsigned())
    }

    /// The wall clock has gone forward, which the time line follows, or back, which it does not: but a sleep that the
    /// boot clock does not see must be noticed afterwards too.
    #[cold]
    fn step(&self, lead: i64) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = self.seen.load(Ordering::Acquire);
        if lead > seen {
            self.ahead.fetch_add(lead - seen, Ordering::Release);
            self.seen.store(lead, Ordering::Release);
        } else if lead < seen - SLEW {
            self.seen.store(lead, Ordering::Release);
        }
    }

    /// The reading of `CLOCK_BOOTTIME` at which the time line reaches `at`, unless the wall clock is set forward first.
    pub(crate) fn boot_time_of(&self, at: Timestamp) -> Duration {
        let ahead = self.ahead.load(Ordering::Relaxed);
        let at = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
        Duration::from_millis(at.saturating_sub(ahead).max(0).cast_unsigned())
    }

    /// What a calendar shows at a point of the time line, as far as can be told now.
    pub(crate) fn calendar(&self, at: Timestamp) -> SystemTime {
        let now = self.now();
        let wall = wall();
        let after = wall.checked_add(at.since(now)).unwrap_or(wall);
        after.checked_sub(now.since(at)).unwrap_or(UNIX_EPOCH)
    }

    /// The point of the time line at which a calendar shows `wall`, as far as can be told now.
    pub(crate) fn timestamp_of(&self, wall: SystemTime) -> Timestamp {
        let now = self.now();
        match wall.duration_since(self::wall()) {
            Ok(ahead) => now + ahead,
            Err(behind) => now - behind.duration(),
        }
    }
}

/// What the machine's calendar shows now: it may be set back or forward at any time.
#[expect(clippy::disallowed_methods, reason = "the one reader of the wall clock")]
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}

/// The same in Unix seconds.
pub(crate) fn unix_seconds() -> u64 {
    timestamp::unix_seconds(wall())
}

/// A point from which is measured how long something takes while the machine is awake: nothing that has an end is judged by
/// it.
#[expect(clippy::disallowed_methods, reason = "the one reader of the monotonic clock")]
pub(crate) fn instant() -> Instant {
    Instant::now()
}

/// How long ago the machine was started, with its sleep.
pub(crate) fn since_boot() -> Duration {
    Duration::from_millis(boot_millis().max(0).cast_unsigned())
}

fn wall_millis() -> i64 {
    millis(ClockId::Realtime)
}

fn boot_millis() -> i64 {
    millis(ClockId::Boottime)
}

#[expect(clippy::disallowed_methods, reason = "the one reader of the clocks")]
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
        clock.was_ahead_by(Duration::from_secs(3600));
        let later = clock.now();
        assert!(later.since(start) >= Duration::from_secs(3600));
        assert!(clock.now() >= later);
    }

    #[test]
    fn a_pause_that_only_the_wall_clock_sees_counts_also_after_it_was_set_back() {
        const HOUR: i64 = 3_600_000;
        let clock = Clock::start_at(0, 10 * HOUR);
        assert_eq!(clock.at(1000, 9 * HOUR + 1000).as_millis(), 10 * 3_600_000 + 1000, "set back by an hour");
        // a virtual machine is paused for half an hour
        assert_eq!(clock.at(2000, 9 * HOUR + 2000 + HOUR / 2).as_millis(), 10 * 3_600_000 + 2000 + 1_800_000);
        // and slewing there and back adds nothing up
        let now = clock.at(3000, 9 * HOUR + 3000 + HOUR / 2);
        for round in 0..1000 {
            clock.at(3000, 9 * HOUR + 3000 + HOUR / 2 - round % 2 * 400);
        }
        assert_eq!(clock.at(3000, 9 * HOUR + 3000 + HOUR / 2), now);
    }

    #[test]
    fn calendar_and_timestamp_are_each_others_inverse() {
        let clock = Clock::start();
        let at = clock.now() + Duration::from_secs(777);
        let back = clock.timestamp_of(clock.calendar(at));
        assert!(back.as_millis().abs_diff(at.as_millis()) < 50);
    }
}
