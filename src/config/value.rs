//! What one string of a configuration means: durations, sizes, paths, whose processes.
//!
//! Each function says what is wrong in a sentence that follows the key's name ("is not ...") and quotes nothing of the
//! text, which may hold a secret in the wrong place.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::problem::Complaint;

/// Longer waits are slips of the pen; also keeps every sum of durations far from overflow.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// A duration with its unit: `5m`, `1h 30m`, `27 days`. A day has 24 hours.
pub(super) fn duration(text: &str) -> Result<Duration, Complaint> {
    let example = "write it with its unit, as in \"5m\", \"1h30m\" or \"27 days\"";
    if text.trim().parse::<f64>().is_ok() {
        return Err(Complaint::new("has no unit", example));
    }
    let no_duration = || Complaint::new("is not a duration", example);
    let span: jiff::Span = text.trim().parse().map_err(|_| no_duration())?;
    if span.is_negative() {
        return Err("is negative".into());
    }
    // months and years have no fixed length: refused here
    let exact = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| no_duration())?;
    let duration = exact.unsigned_abs();
    if duration > LONGEST { Err("is longer than ten years".into()) } else { Ok(duration) }
}

/// [`bytes()`], for the command line.
pub(crate) fn size(text: &str) -> Option<u64> {
    bytes(text).ok()
}

/// A number of bytes: `1MiB`, `64 kB`, `500`.
pub(super) fn bytes(text: &str) -> Result<u64, Complaint> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => return Err(Complaint::new("is not a size", "write it as in \"1MiB\", \"64kB\" or 500 (bytes)")),
    };
    let number: u64 = number.parse().map_err(|_| Complaint::new("is not a size", "write it as in \"1MiB\""))?;
    number.checked_mul(factor).ok_or_else(|| "is too large".into())
}

/// A path as people write it: `~/` is the home folder, a relative one starts in `folder`.
pub(super) fn path(text: &str, folder: &Path, home: &Path) -> PathBuf {
    match text.strip_prefix("~/") {
        // one that begins with a slash would take the place of the home folder
        Some(below) => home.join(below.trim_start_matches('/')),
        None => folder.join(text),
    }
}

/// Whose processes may call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum AllowedClient {
    /// `self`: the user that valetd runs as.
    Own,
    /// `root`, who can read the tokens anyway, but whose jobs need not use them unawares.
    Root,
    /// `user:NAME` or `user:UID`.
    User(String),
    /// `group:NAME` or `group:GID`: all its members.
    Group(String),
}

/// Whose processes may call: `self`, `user:alice`, `group:gis`.
pub(super) fn client(text: &str) -> Result<AllowedClient, Complaint> {
    let name = |name: &str| {
        let good = |c: char| c.is_alphanumeric() || "._-@$".contains(c);
        (!name.is_empty() && name.chars().all(good)).then(|| name.to_owned())
    };
    let client = match text.split_once(':') {
        None if text == "self" => Some(AllowedClient::Own),
        None if text == "root" => Some(AllowedClient::Root),
        None => None,
        Some(("user", user)) => name(user).map(AllowedClient::User),
        Some(("group", group)) => name(group).map(AllowedClient::Group),
        Some(_) => None,
    };
    client
        .ok_or_else(|| Complaint::new("names no clients", "write \"self\", \"root\", \"user:alice\" or \"group:gis\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_a_fixed_length() {
        let rows = [
            ("5m", Some(300)),
            ("1h30m", Some(5400)),
            ("1 hour 30 minutes", Some(5400)),
            ("27 days", Some(27 * 86_400)),
            ("2w", Some(14 * 86_400)),
            ("PT10S", Some(10)),
            ("0s", Some(0)),
            ("5", None),
            ("1.5", None),
            ("-5m", None),
            ("5m ago", None),
            ("2 months", None),
            ("20000 days", None),
            ("", None),
            ("soon", None),
        ];
        for (text, seconds) in rows {
            assert_eq!(duration(text).ok(), seconds.map(Duration::from_secs), "{text:?}");
        }
        assert_eq!(duration("250ms").unwrap(), Duration::from_millis(250));
    }

    #[test]
    fn sizes_know_both_kinds_of_units() {
        let rows = [
            ("0", Some(0)),
            ("500", Some(500)),
            ("1MiB", Some(1 << 20)),
            ("64 kB", Some(64_000)),
            ("2GiB", Some(2 << 30)),
            ("MiB", None),
            ("-1", None),
            ("1 MiBit", None),
            ("99999999999GiB", None),
        ];
        for (text, expected) in rows {
            assert_eq!(bytes(text).ok(), expected, "{text:?}");
        }
    }
}
