//! Spans of time in words: as exact as a person wants them, or so coarse that they change seldom. Pure.

/// A length of time as people say it, in two units at the most: `41 min`, `3 d 4 h`.
pub(crate) fn length(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let two = |large: u64, name: &str, small: u64, small_name: &str| match small {
        0 => format!("{large} {name}"),
        small => format!("{large} {name} {small} {small_name}"),
    };
    match seconds {
        0..MINUTE => format!("{seconds} s"),
        // the last minutes before an end are worth their seconds
        MINUTE..600 => two(seconds / MINUTE, "min", seconds % MINUTE, "s"),
        600..HOUR => format!("{} min", seconds / MINUTE),
        HOUR..DAY => two(seconds / HOUR, "h", seconds % HOUR / MINUTE, "min"),
        DAY..864_000 => two(seconds / DAY, "d", seconds % DAY / HOUR, "h"),
        _ => format!("{} d", seconds / DAY),
    }
}

/// A length of time in one unit, rounded down: `41 min`, `3 days`. It changes no oftener than once a minute.
pub(crate) fn coarse(seconds: u64) -> String {
    match seconds {
        ..60 => "less than a minute".to_owned(),
        60..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        172_800.. => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_said_in_two_units_at_the_most() {
        let table = [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (70, "1 min 10 s"),
            (599, "9 min 59 s"),
            (600, "10 min"),
            (2_499, "41 min"),
            (3_600, "1 h"),
            (3_900, "1 h 5 min"),
            (86_399, "23 h 59 min"),
            (86_400, "1 d"),
            (273_600, "3 d 4 h"),
            (604_800, "7 d"),
            (2_332_800, "27 d"),
        ];
        for (seconds, expected) in table {
            assert_eq!(length(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn coarse_lengths_are_said_in_one_unit_and_never_as_one_hour_or_day() {
        let table = [
            (0, "less than a minute"),
            (59, "less than a minute"),
            (60, "1 min"),
            (2_499, "41 min"),
            (7_199, "119 min"),
            (7_200, "2 h"),
            (172_799, "47 h"),
            (172_800, "2 days"),
            (2_332_800, "27 days"),
        ];
        for (seconds, expected) in table {
            assert_eq!(coarse(seconds), expected, "{seconds}");
        }
    }
}
