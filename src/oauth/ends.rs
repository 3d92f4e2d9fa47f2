//! When an access token ends, in the ways in which answers tell it.

use std::time::Duration;

use serde_json::Value;

use crate::timestamp::unix_seconds;

/// No life is believed to be longer: ten years, far from where arithmetic ends.
pub(super) const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

const YEAR: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// The members that tell it. RFC 6749 knows `expires_in` alone.
#[derive(Default)]
pub(super) struct Ends {
    /// Seconds from now.
    pub(super) expires_in: Value,
    /// Facebook's and others' name for the same; also a time.
    pub(super) expires: Value,
    /// Microsoft's: a time.
    pub(super) expires_on: Value,
    /// A time.
    pub(super) expires_at: Value,
}

impl Ends {
    /// The life from now on; the earliest of several. `server_now` is by the server's clock if it `says_date`, else by ours:
    /// then an end that has passed tells of that clock, and counts as absent.
    pub(super) fn life(&self, server_now: i64, says_date: bool) -> Option<Duration> {
        let Self { expires_in, expires, expires_on, expires_at } = self;
        let times = [expires, expires_on, expires_at];
        let times = times.into_iter().filter_map(|value| time(value, server_now, says_date));
        // some put a time there: it is one if it lies within the next year
        let misplaced = time(expires_in, server_now, says_date).filter(|life| !life.is_zero() && *life <= YEAR);
        misplaced.or_else(|| seconds(expires_in)).into_iter().chain(times).min()
    }
}

/// Less than this is no time since 1970 but a span: it would be in 2001.
const FIRST_TIME: f64 = 1e9;

/// What is more is counted in thousandths, or in thousandths of those: as seconds it would be in the year 5138.
const LAST_TIME: f64 = 1e11;

fn time(value: &Value, server_now: i64, says_date: bool) -> Option<Duration> {
    let mut time: f64 = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => {
            text.trim().parse().ok().or_else(|| date(text.trim())).or_else(|| span_in_words(text))?
        }
        _ => return None,
    };
    if !time.is_finite() || time < FIRST_TIME {
        return (time.is_finite() && time >= 0.0).then(|| span(time));
    }
    while time >= LAST_TIME {
        time /= 1000.0;
    }
    let left = (time - server_now as f64).round(); // servers count in whole seconds
    (left > 0.0 || says_date).then(|| span(left.max(0.0)))
}

/// RFC 3339, the same without an offset (UTC is what servers mean by it), or one of RFC 9110's forms of a date, as Unix
/// seconds.
fn date(text: &str) -> Option<f64> {
    let time = text.parse::<jiff::Timestamp>().ok().map(|time| time.as_second());
    let local = || {
        let date = text.parse::<jiff::civil::DateTime>().ok().filter(|_| text.len() > "2027-01-15".len())?;
        Some(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
    };
    time.or_else(local).or_else(|| http_date(Some(text))).map(|seconds| seconds as f64)
}

/// One of the three forms of RFC 9110 section 5.6.7, all of which a recipient must accept, as Unix seconds.
pub(crate) fn http_date(text: Option<&str>) -> Option<i64> {
    let text = text?.trim();
    let strict = httpdate::parse_http_date(text).ok().and_then(|date| i64::try_from(unix_seconds(date)).ok());
    // servers that get the day of the week wrong, or give an offset
    let parser = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true);
    strict.or_else(|| parser.parse_timestamp(text).ok().map(|date| date.as_second()))
}

/// "300s", "5 min", "PT5M", in seconds.
fn span_in_words(text: &str) -> Option<f64> {
    text.trim().parse::<jiff::SignedDuration>().ok().map(|span| span.as_secs_f64())
}

/// A span of time in seconds, as a number or as text; what is negative or no number counts as absent.
pub(super) fn seconds(value: &Value) -> Option<Duration> {
    let seconds: f64 = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    (seconds.is_finite() && seconds >= 0.0).then(|| span(seconds))
}

fn span(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.min(LONGEST_LIFE.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn an_end_is_read_in_every_spelling_that_occurs_and_the_earlier_one_wins() {
        let hour = NOW + 3600;
        let table = [
            ("none", json!({}), Some(3600), None),
            ("RFC 6749", json!({"expires_in": 3600}), Some(3600), None),
            ("a time", json!({"expires_on": hour}), Some(3600), None),
            ("as text", json!({"expires_on": hour.to_string()}), Some(3600), None),
            ("with a fraction", json!({"expires_at": hour as f64 + 0.25}), Some(3600), None),
            ("milliseconds", json!({"expires_at": hour * 1000}), Some(3600), None),
            ("nanoseconds", json!({"expires_at": hour as f64 * 1e9}), Some(3600), None),
            ("RFC 3339", json!({"expires_at": "2027-01-15T09:00:00Z"}), Some(3600), None),
            ("with an offset and a fraction", json!({"expires_at": "2027-01-15T10:00:00.000+01:00"}), Some(3600), None),
            ("a header field's form", json!({"expires": "Fri, 15 Jan 2027 09:00:00 GMT"}), Some(3600), None),
            ("seconds by that name", json!({"expires": 3600}), Some(3600), None),
            ("seconds by another", json!({"expires_at": "3600"}), Some(3600), None),
            ("a time by that name", json!({"expires": hour}), Some(3600), None),
            ("the earlier of two", json!({"expires_in": 7200, "expires_at": hour}), Some(3600), None),
            ("the other way round", json!({"expires_in": 3600, "expires_on": hour + 3600}), Some(3600), None),
            ("one that says nothing", json!({"expires_in": 3600, "expires_at": "soon"}), Some(3600), None),
            ("one without an offset", json!({"expires_at": "2027-01-15T09:00:00"}), Some(3600), None),
            ("a date alone", json!({"expires_in": 3600, "expires_at": "2027-01-15"}), Some(3600), None),
            ("RFC 850's form", json!({"expires": "Friday, 15-Jan-27 09:00:00 GMT"}), Some(3600), None),
            ("asctime's form", json!({"expires": "Fri Jan 15 09:00:00 2027"}), Some(3600), None),
            ("a time where seconds belong", json!({"expires_in": hour}), Some(3600), None),
            ("in milliseconds, too", json!({"expires_in": hour * 1000}), Some(3600), None),
            ("with a unit", json!({"expires_in": "3600s"}), Some(3600), None),
            ("ISO 8601's span", json!({"expires_in": "PT1H"}), Some(3600), None),
            ("a negative span", json!({"expires_in": "-1h"}), None, None),
            ("passed by our clock", json!({"expires_in": 3600, "expires_at": NOW - 60}), Some(3600), Some(0)),
            ("far away", json!({"expires_at": 9e10}), Some(LONGEST_LIFE.as_secs()), None),
        ];
        for (name, members, life, life_by_date) in table {
            let member = |name: &str| members.get(name).cloned().unwrap_or_default();
            let [expires_in, expires, expires_on, expires_at] =
                ["expires_in", "expires", "expires_on", "expires_at"].map(member);
            let ends = Ends { expires_in, expires, expires_on, expires_at };
            let life = life.filter(|_| name != "none").map(Duration::from_secs);
            let by_date = life_by_date.map(Duration::from_secs).or(life);
            assert_eq!((ends.life(NOW, false), ends.life(NOW, true)), (life, by_date), "{name}");
        }
    }
}
