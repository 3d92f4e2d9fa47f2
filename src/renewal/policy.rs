//! The rules of renewal as plain functions of plain numbers.

use std::time::Duration;

use crate::timestamp::Timestamp;

/// One account's settings for renewal, from its preset and the configuration's `renew`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Policy {
    /// How long before its end a token is renewed, at the most; a third of its life where that is shorter.
    pub early: Duration,
    /// The least time between two starts, after a success too.
    pub minimum_spacing: Duration,
    /// How long before its end a token is no longer handed out, at the most; a tenth of its life where that is shorter,
    /// but about a second at the least.
    pub margin: Duration,
    /// The life of an access token whose response did not tell one.
    pub assumed_lifetime: Duration,
    /// The life of a refresh token whose response did not tell one, where it is known.
    pub refresh_lifetime: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            early: Duration::from_secs(5 * 60),
            minimum_spacing: Duration::from_secs(1),
            margin: Duration::from_secs(10),
            assumed_lifetime: Duration::from_secs(60 * 60),
            refresh_lifetime: None,
        }
    }
}

/// Nobody asked for the token: then its successor can wait this long after the last start, however short its life.
/// A token of a few seconds is renewed for the requests that want it, not around the clock.
pub(crate) const UNASKED_SPACING: Duration = Duration::from_secs(5);

/// The first step of the back-off.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// Nobody waits: then a server in trouble is asked this often at the most.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5 * 60);

/// A request waits: then a server in trouble is asked again after this at the latest, unless it said otherwise.
const LONGEST_BACKOFF_IF_WANTED: Duration = Duration::from_secs(30);

/// `Retry-After` is obeyed up to here, and only here is it cut: a server that asks for more (or was misconfigured to)
/// must not keep a person from a token for a day. Asking every ten minutes harms nobody.
pub(crate) const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(10 * 60);

/// Hints cut the back-off once in so long: a host of containers has a change of its network every few seconds.
pub(crate) const HINTS_APART: Duration = Duration::from_secs(30);

/// A refresh token that was refused is presented again so long after its first refusal, and after its second: servers refuse
/// good ones in a bad minute (a database that lags, a bad release). What is refused a third time is refused.
pub(crate) const SECOND_LIFE: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(10 * 60)];

/// A refusal that counts only when it is repeated is one when it is said so long after the first time.
pub(crate) const CONFIRMED_AFTER: Duration = Duration::from_secs(60);

/// A place that has refused a token and its successor brings the next renewal about no sooner than this, and twice as long
/// after each further one: an upstream that always says 401 must not become a storm at the authorization server.
const FIRST_MOOD: Duration = Duration::from_secs(10 * 60);

/// Such a place's 401s are passed on at the most so long without a question to the authorization server.
const LONGEST_MOOD: Duration = Duration::from_secs(6 * 60 * 60);

/// So many renewals may 401s bring about one after the other: tokens that are revoked again and again, or whose life is not
/// learnt yet.
const FREE: f64 = 6.0;

/// The next waits so long, within the patience of most requests, and each further one twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// But no longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 60);

/// One more is free after this time, whatever the tokens' life; see [`refill`].
pub(crate) const LONGEST_REFILL: Duration = Duration::from_secs(10 * 60);

/// However short the life, not sooner.
const SHORTEST_REFILL: Duration = Duration::from_secs(10);

/// When a token is renewed: `min(early, lifetime / 3)` before its end, spread over a tenth of that to each side by
/// `spread`, which is in 0..=1.
pub(crate) fn renew_at(policy: &Policy, start: Timestamp, lifetime: Duration, spread: f64) -> Timestamp {
    let lead = policy.early.min(lifetime / 3);
    start + (lifetime - lead.mul_f64(0.9 + 0.2 * spread.clamp(0.0, 1.0)).min(lifetime))
}

/// Servers that count in whole seconds end a token up to this much earlier than they said.
const WHOLE_SECONDS: Duration = Duration::from_secs(1);

/// Until when a token is handed out: `min(margin, lifetime / 10)` before its end, but a second, or a third of its life if
/// that is shorter, at the least.
pub(crate) fn usable_until(policy: &Policy, start: Timestamp, lifetime: Duration) -> Timestamp {
    let margin = policy.margin.min(lifetime / 10);
    start + (lifetime - margin.max(WHOLE_SECONDS.min(lifetime / 3)))
}

/// How long to wait after the `failures`-th failure in a row (from 1): exponential with full jitter, from one second to
/// five minutes. `spread` is in 0..=1.
pub(crate) fn backoff(failures: u32, spread: f64) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(LONGEST_BACKOFF).mul_f64(spread.clamp(0.0, 1.0))
}

/// The same when a request waits or the server has spoken: `(earliest whoever asks, next of its own accord)`.
pub(crate) fn retry_times(now: Timestamp, backoff: Duration, retry_after: Option<Duration>) -> (Timestamp, Timestamp) {
    match retry_after {
        Some(asked) => {
            let earliest = now + asked.min(LONGEST_RETRY_AFTER);
            (earliest, earliest.max(now + backoff))
        }
        None => (now + backoff.min(LONGEST_BACKOFF_IF_WANTED), now + backoff),
    }
}

/// How long after a place's last renewal its 401s are passed on, after so many.
pub(crate) fn mood(times: u32) -> Duration {
    FIRST_MOOD.saturating_mul(1 << times.saturating_sub(1).min(16)).min(LONGEST_MOOD)
}

/// The time in which 401s may bring one more renewal about: where tokens live for seconds, some of them are revoked, or
/// end while nobody asks, in each minute.
pub(crate) fn refill(life: Duration) -> Duration {
    (8 * life).clamp(SHORTEST_REFILL, LONGEST_REFILL)
}

/// How long after the last renewal that a 401 brought about the next one may be, when so many were, less those regained.
pub(crate) fn pause(spent: f64, refill: Duration) -> Duration {
    let over = spent - (FREE - 1.0);
    if over <= 0.0 {
        return Duration::ZERO;
    }
    let grown = FIRST_PAUSE.mul_f64((over - 1.0).min(20.0).exp2()).min(LONGEST_PAUSE);
    grown.min(refill.mul_f64(over))
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp::from_millis(1_000_000);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_token_is_renewed_a_third_of_its_life_or_five_minutes_before_its_end() {
        let policy = Policy::default();
        for (name, lifetime, earliest, latest) in [
            ("an hour", 3600, 3600 - 330, 3600 - 270),
            ("half a minute", 30, 19, 21),
            ("a week", 604_800, 604_800 - 330, 604_800 - 270),
            ("nothing", 0, 0, 0),
        ] {
            for spread in [0.0, 0.5, 1.0] {
                let at = renew_at(&policy, T0, secs(lifetime), spread);
                assert!(T0 + secs(earliest) <= at && at <= T0 + secs(latest), "{name}: {at:?}");
            }
        }
    }

    #[test]
    fn a_token_is_handed_out_until_ten_seconds_or_a_tenth_of_its_life_before_its_end() {
        let policy = Policy::default();
        assert_eq!(usable_until(&policy, T0, secs(3600)), T0 + secs(3590));
        assert_eq!(usable_until(&policy, T0, secs(30)), T0 + secs(27));
        assert_eq!(usable_until(&policy, T0, secs(4)), T0 + secs(3), "a server may cut a second off");
        assert_eq!(usable_until(&policy, T0, secs(0)), T0);
    }

    #[test]
    fn back_off_doubles_to_five_minutes_and_never_ends() {
        let longest: Vec<u64> = (1..=11).map(|n| backoff(n, 1.0).as_secs()).collect();
        assert_eq!(longest, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(backoff(u32::MAX, 1.0), secs(300));
        assert_eq!(backoff(5, 0.0), Duration::ZERO);
    }

    #[test]
    fn a_servers_retry_after_binds_those_who_wait_too_but_not_for_ever() {
        assert_eq!(retry_times(T0, secs(300), None), (T0 + secs(30), T0 + secs(300)));
        assert_eq!(retry_times(T0, secs(1), Some(secs(120))), (T0 + secs(120), T0 + secs(120)));
        for asked in [601, 899, 86_400, u64::MAX] {
            assert_eq!(retry_times(T0, secs(1), Some(secs(asked))).0, T0 + secs(600), "{asked} s");
        }
    }

    #[test]
    fn a_places_mood_doubles_from_ten_minutes_to_six_hours() {
        let waits: Vec<u64> = (1..=8).map(|times| mood(times).as_secs()).collect();
        assert_eq!(waits, [600, 1200, 2400, 4800, 9600, 19_200, 21_600, 21_600]);
    }

    #[test]
    fn six_renewals_by_401s_are_free_and_then_each_waits_longer_until_some_are_regained() {
        let waits: Vec<u64> = (0..=14).map(|spent| pause(f64::from(spent), LONGEST_REFILL).as_secs()).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 0, 5, 10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!(pause(1e9, LONGEST_REFILL), LONGEST_PAUSE);
        assert_eq!(pause(12.0, SHORTEST_REFILL), secs(70), "what is regained sooner is permitted sooner");
        for (life, expected) in [(0, 10), (3, 24), (60, 480), (3600, 600)] {
            assert_eq!(refill(secs(life)), secs(expected), "{life}");
        }
    }
}
