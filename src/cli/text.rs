//! How times, tables and foreign texts look to a person. Pure, but for the width of the terminal.

use std::fmt::Write;
use std::os::fd::AsFd;
use std::time::Duration;

use anstyle::Style;

use crate::platform::log::is_treacherous;
pub(super) use crate::span::length;

/// How wide output may be.
pub(super) const WIDTH: usize = 80;

/// The narrowest terminal that output is made to fit.
const NARROWEST: usize = 40;

/// How many columns the terminal has that output goes to; `None` if it is none.
pub(super) fn columns() -> Option<usize> {
    columns_of(std::io::stdout())
}

/// The same of standard error, or any other.
pub(super) fn columns_of(terminal: impl AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(terminal).ok().filter(|size| size.ws_col > 0)?;
    Some(usize::from(size.ws_col).max(NARROWEST))
}

/// How wide a text may be here: as wide as the terminal, and no wider than [`WIDTH`].
fn width() -> usize {
    columns().unwrap_or(WIDTH).min(WIDTH)
}

/// A point in time as people say it, from how many seconds it lies ahead: `in 41 min`, `3 d 4 h ago`, `now`.
pub(super) fn relative(seconds_ahead: i64) -> String {
    match seconds_ahead {
        0 => "now".to_owned(),
        1.. => format!("in {}", length(seconds_ahead.unsigned_abs())),
        _ => format!("{} ago", length(seconds_ahead.unsigned_abs())),
    }
}

/// Reads a length of time: `30s`, `500ms`, `5m`, `1h`, `7d`, or a bare number of seconds.
pub(super) fn parse_length(text: &str) -> Result<Duration, String> {
    let wrong = || "write it like 30s, 5m, 1h, 7d or 500ms".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit.trim_start() {
        "ms" => Some(number),
        "s" | "" => number.checked_mul(1000),
        "m" | "min" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => return Err(wrong()),
    };
    // a year: longer is a mistake, and far from every limit of the timers
    let millis = millis.filter(|millis| *millis <= 365 * 86_400_000).ok_or("that is longer than a year")?;
    Ok(Duration::from_millis(millis))
}

/// Reads a length of time that must say its unit: as how long something lasts, a bare `2` may mean hours or seconds.
pub(super) fn parse_term(text: &str) -> Result<Duration, String> {
    let is_bare = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match parse_length(text)? {
        length if length < Duration::from_secs(1) => Err("that is less than a second".to_owned()),
        _ if is_bare => Err(format!("say of what: {text}s, {text}m, {text}h or {text}d")),
        length => Ok(length),
    }
}

/// A text from elsewhere without what a terminal would take for an order.
pub(super) fn printable(text: &str) -> String {
    let harmless = |c: char| if is_treacherous(c) { '\u{fffd}' } else { c };
    text.chars().map(harmless).collect()
}

/// How many there are of something that takes an `s`.
pub(super) fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// At most `width` characters of a text; what is cut off shows as `…`.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// Breaks a text between words so that its lines, each after `indent` blanks, fit the terminal.
pub(super) fn wrapped(text: &str, indent: usize) -> String {
    wrapped_to(text, indent, width())
}

/// The same for a width that is said. Pure.
pub(super) fn wrapped_to(text: &str, indent: usize, width: usize) -> String {
    let margin = " ".repeat(indent);
    let mut out = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && indent + column + 1 + length > width {
            out.push('\n');
            column = 0;
        }
        if column == 0 {
            out.push_str(&margin);
        } else {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
    out
}

/// A text in a style; as it is where the style is plain.
pub(super) fn styled(text: &str, style: Style) -> String {
    format!("{style}{text}{style:#}")
}

/// Columns that are as wide as their widest cell.
#[derive(Default)]
pub(super) struct Table {
    rows: Vec<Vec<Cell>>,
}

/// One cell: what it says, how it looks, and which side it leans to.
#[derive(Clone)]
pub(super) struct Cell {
    text: String,
    style: Style,
    right: bool,
}

impl Cell {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: Style::new(), right: false }
    }

    pub(super) fn number(number: u64) -> Self {
        Self { text: number.to_string(), style: Style::new(), right: true }
    }

    pub(super) fn styled(self, style: Style) -> Self {
        Self { style, ..self }
    }

    pub(super) fn leaning_right(self) -> Self {
        Self { right: true, ..self }
    }
}

impl Table {
    pub(super) fn row(&mut self, cells: impl Into<Vec<Cell>>) {
        self.rows.push(cells.into());
    }

    /// The same without the first column.
    pub(super) fn without_first(mut self) -> Self {
        for row in &mut self.rows {
            row.remove(0);
        }
        self
    }

    /// How wide its lines are.
    pub(super) fn width(&self) -> usize {
        let widths = self.widths();
        widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1)
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0)
        };
        (0..columns).map(width).collect()
    }

    /// The lines, without line ends.
    pub(super) fn lines(&self) -> Vec<String> {
        let widths = self.widths();
        self.rows.iter().map(|row| line(row, &widths)).collect()
    }
}

fn line(row: &[Cell], widths: &[usize]) -> String {
    let mut line = String::new();
    for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
        let padding = " ".repeat(width - cell.text.chars().count());
        let text = styled(&cell.text, cell.style);
        let gap = if index == 0 { "" } else { "  " };
        let last = index + 1 == row.len();
        let written = match (cell.right, last) {
            (true, _) => write!(line, "{gap}{padding}{text}"),
            (false, true) => write!(line, "{gap}{text}"),
            (false, false) => write!(line, "{gap}{text}{padding}"),
        };
        written.expect("a String takes everything");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_from_now() {
        for (ahead, expected) in
            [(2460, "in 41 min"), (0, "now"), (-273_600, "3 d 4 h ago"), (i64::MIN, "106751991167300 d ago")]
        {
            assert_eq!(relative(ahead), expected);
        }
    }

    #[test]
    fn a_length_is_read_as_people_write_it() {
        let table = [
            ("30s", Some(30_000)),
            ("30", Some(30_000)),
            ("500ms", Some(500)),
            ("5m", Some(300_000)),
            ("5 min", Some(300_000)),
            ("1h", Some(3_600_000)),
            ("0", Some(0)),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("1.5h", None),
            ("9000h", None),
            ("99999999999999999999s", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_length(text).ok(), expected.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn how_long_something_lasts_says_its_unit() {
        for (text, expected) in [
            ("2h", Ok(7200)),
            ("1s", Ok(1)),
            ("2", Err("say of what: 2s, 2m, 2h or 2d")),
            ("500ms", Err("less than a second")),
            ("0", Err("less than a second")),
            ("soon", Err("write it like")),
        ] {
            match (parse_term(text), expected) {
                (Ok(found), Ok(seconds)) => assert_eq!(found, Duration::from_secs(seconds), "{text}"),
                (Err(said), Err(expected)) => assert!(said.contains(expected), "{text}: {said}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn long_texts_are_broken_or_cut_to_the_width() {
        let long = "word ".repeat(40);
        for width in [NARROWEST, WIDTH] {
            for line in wrapped_to(&long, 4, width).lines() {
                assert!(line.chars().count() <= width && line.starts_with("    word"), "{line:?}");
            }
        }
        assert_eq!(wrapped("a b", 2), "  a b\n");
        assert_eq!((cut("abc", 3), cut("abcd", 3)), ("abc".to_owned(), "ab…".to_owned()));
    }

    #[test]
    fn a_server_cannot_command_the_terminal() {
        assert_eq!(printable("a\x1b[2J\nb\u{9b}c"), "a\u{fffd}[2J\u{fffd}b\u{fffd}c");
        assert_eq!(printable("a\u{202e}b\u{2066}c\u{e0041}ä… –"), "a\u{fffd}b\u{fffd}c\u{fffd}ä… –");
    }

    #[test]
    fn columns_line_up_and_numbers_lean_right() {
        let mut table = Table::default();
        table.row([Cell::new("NAME"), Cell::new("N").leaning_right(), Cell::new("URL")]);
        table.row([Cell::new("a"), Cell::number(120), Cell::new("x")]);
        assert_eq!(table.lines(), ["NAME    N  URL", "a     120  x"]);
    }
}
