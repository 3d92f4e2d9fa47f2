//! A point in time on the daemon's own time line.
//!
//! The time line is made by `platform::clock`: it starts at the wall clock's time, counts sleep, never runs backwards
//! and never falls behind the wall clock. Everything that decides takes a `Timestamp` as an argument.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds on the daemon's time line; close to milliseconds since 1970 unless somebody turned the clock back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Timestamp(u64);

impl Timestamp {
    /// A point that nothing comes after.
    pub(crate) const FAR: Timestamp = Timestamp(u64::MAX);

    /// The point `millis` milliseconds after the time line's zero.
    pub(crate) const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds after the time line's zero.
    pub(crate) const fn as_millis(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub(crate) fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Saturates: a point past the end of time is [`Timestamp::FAR`].
impl Add<Duration> for Timestamp {
    type Output = Timestamp;
    fn add(self, duration: Duration) -> Timestamp {
        Self(self.0.saturating_add(duration.as_millis().try_into().unwrap_or(u64::MAX)))
    }
}

/// Saturates at the time line's zero.
impl Sub<Duration> for Timestamp {
    type Output = Timestamp;
    fn sub(self, duration: Duration) -> Timestamp {
        Self(self.0.saturating_sub(duration.as_millis().try_into().unwrap_or(u64::MAX)))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// Unix seconds of a calendar's time; 0 before 1970.
pub(crate) fn unix_seconds(wall: SystemTime) -> u64 {
    wall.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let noon = Timestamp::from_millis(1_000);
        assert_eq!(noon + Duration::MAX, Timestamp::FAR);
        assert_eq!(noon - Duration::from_secs(9), Timestamp::from_millis(0));
        assert_eq!(noon.since(noon + Duration::from_secs(1)), Duration::ZERO);
        assert_eq!((noon + Duration::from_millis(5)).since(noon), Duration::from_millis(5));
    }
}
