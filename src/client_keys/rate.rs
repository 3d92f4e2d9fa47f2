//! How often a key may be used.

use std::fmt;
use std::time::Duration;

/// So many requests in so much time. Shows as `10/s`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rate {
    requests: u32,
    unit: Unit,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unit {
    Second,
    Minute,
    Hour,
}

impl Rate {
    /// Reads `10/s`, `100/m` or `1000/h`.
    ///
    /// # Errors
    ///
    /// What to write.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "write it like 10/s, 100/m or 1000/h".to_owned();
        let (requests, unit) = text.split_once('/').ok_or_else(wrong)?;
        let unit = match unit {
            "s" => Unit::Second,
            "m" | "min" => Unit::Minute,
            "h" => Unit::Hour,
            _ => return Err(wrong()),
        };
        let requests = requests.parse().ok().filter(|requests| (1..=1_000_000).contains(requests)).ok_or_else(wrong)?;
        Ok(Self { requests, unit })
    }

    /// The time from one request to the next, and how many may come at once.
    fn spacing(self) -> (Duration, u32) {
        let per = match self.unit {
            Unit::Second => 1,
            Unit::Minute => 60,
            Unit::Hour => 3600,
        };
        (Duration::from_secs(per) / self.requests, self.requests)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Second => "s",
            Unit::Minute => "m",
            Unit::Hour => "h",
        };
        write!(f, "{}/{unit}", self.requests)
    }
}

/// The theoretical arrival time (TAT) after that of a request that may come at `now`: GCRA, the generic cell rate algorithm
/// (ITU-T I.371), with a burst as large as what may come in one unit. All in nanoseconds.
///
/// # Errors
///
/// How long to wait, if the request comes too soon.
pub(super) fn next_arrival(theoretical_arrival: u64, now: u64, rate: Rate) -> Result<u64, Duration> {
    let (spacing, at_once) = rate.spacing();
    let spacing = u64::try_from(spacing.as_nanos()).unwrap_or(u64::MAX);
    let ahead = spacing.saturating_mul(u64::from(at_once) - 1);
    let earliest = theoretical_arrival.saturating_sub(ahead);
    if now < earliest {
        return Err(Duration::from_nanos(earliest - now));
    }
    Ok(theoretical_arrival.max(now).saturating_add(spacing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_lets_a_burst_through_and_then_one_at_a_time() {
        let rate = Rate::parse("10/s").unwrap();
        let tenth = 100_000_000;
        let mut arrival = 0;
        for request in 0..10 {
            arrival = next_arrival(arrival, 5 * tenth, rate).unwrap_or_else(|_| panic!("request {request}"));
        }
        assert_eq!(next_arrival(arrival, 5 * tenth, rate), Err(Duration::from_millis(100)));
        arrival = next_arrival(arrival, 6 * tenth, rate).unwrap();
        assert!(next_arrival(arrival, 6 * tenth, rate).is_err());
        // after a pause, a whole burst again and no more
        for request in 0..10 {
            arrival = next_arrival(arrival, 100 * tenth, rate).unwrap_or_else(|_| panic!("request {request}"));
        }
        assert!(next_arrival(arrival, 100 * tenth, rate).is_err());
        for text in ["", "10", "0/s", "x/s", "10/d", "-1/s", "9999999/s"] {
            assert!(Rate::parse(text).is_err(), "{text}");
        }
        assert_eq!(Rate::parse("3/min").unwrap().to_string(), "3/m");
    }
}
