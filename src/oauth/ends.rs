//! When an access token ends, in the ways in which answers tell it.

use std::time::Duration;

use jiff::fmt::rfc2822;
use serde_json::Value;

/// No life is believed to be longer: ten years, far from where arithmetic ends.
pub(super) const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

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
        seconds(expires_in).into_iter().chain(times).min()
    }
}

/// Less than this is no time since 1970 but a span: it would be in 2001.
const FIRST_TIME: f64 = 1e9;

/// What is more is counted in thousandths, or in thousandths of those: as seconds it would be in the year 5138.
const LAST_TIME: f64 = 1e11;

fn time(value: &Value, server_now: i64, says_date: bool) -> Option<Duration> {
    let mut time: f64 = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok().or_else(|| date(text.trim()))?,
        _ => return None,
    };
    if !time.is_finite() || time < FIRST_TIME {
        return seconds(value);
    }
    while time >= LAST_TIME {
        time /= 1000.0;
    }
    let left = (time - server_now as f64).round(); // servers count in whole seconds
    (left > 0.0 || says_date).then(|| span(left.max(0.0)))
}

/// RFC 3339, or RFC 9110's form of a date, as Unix seconds.
fn date(text: &str) -> Option<f64> {
    let time = text.parse::<jiff::Timestamp>().ok().map(|time| time.as_second());
    time.or_else(|| http_date(Some(text))).map(|seconds| seconds as f64)
}

/// RFC 9110 section 5.6.7's preferred form, as Unix seconds. The two obsolete forms count as absent.
pub(super) fn http_date(text: Option<&str>) -> Option<i64> {
    let parser = rfc2822::DateTimeParser::new().relaxed_weekday(true);
    parser.parse_timestamp(text?.trim()).ok().map(|date| date.as_second())
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
            (
                "one without an offset",
                json!({"expires_in": 3600, "expires_at": "2027-01-15T08:30:00"}),
                Some(3600),
                None,
            ),
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
