//! An address as a QR code (ISO/IEC 18004) that a phone reads off a terminal. Pure.
//!
//! Two rows of modules make a line of half blocks, black on white whatever the terminal's own colours are: on a light theme
//! the terminal's own would show it inverted, which many phones do not read.

use fast_qr::qr::QRBuilder;
use fast_qr::{ECL, QRCode};

/// Light modules around it: two suffice to every reader that was tried, the standard's four would cost four lines.
const QUIET: usize = 2;
const COLOURS: &str = "\x1b[30;107m";
const USUAL: &str = "\x1b[0m";

/// A picture, and the room that it takes.
pub(super) struct Picture {
    /// With a line end after each line.
    pub(super) text: String,
    pub(super) columns: usize,
    pub(super) lines: usize,
}

/// The picture; `None` if the text is too long for one.
pub(super) fn picture(text: &str) -> Option<Picture> {
    // the lowest level of correction: a screen has no scratches, and the picture is the smallest
    let code = QRBuilder::new(text).ecl(ECL::L).build().ok()?;
    let width = code.size + 2 * QUIET;
    let mut picture = String::new();
    for row in (0..width).step_by(2) {
        picture.push_str(COLOURS);
        for column in 0..width {
            picture.push(match (is_dark(&code, row, column), is_dark(&code, row + 1, column)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        picture.push_str(USUAL);
        picture.push('\n');
    }
    Some(Picture { text: picture, columns: width, lines: width.div_ceil(2) })
}

fn is_dark(code: &QRCode, row: usize, column: usize) -> bool {
    let inside = |at: usize| at.checked_sub(QUIET).filter(|at| *at < code.size);
    match (inside(row), inside(column)) {
        (Some(row), Some(column)) => code[row][column].value(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_its_finder_patterns_a_quiet_zone_and_its_own_colours() {
        let text = "https://auth.example/device?user_code=WDJB-MJHT-0001";
        let Picture { text: picture, columns, lines } = picture(text).unwrap();
        assert_eq!((columns, lines), (33, 17));
        let lines: Vec<&str> = picture.lines().collect();
        assert_eq!(lines.len(), 17);
        let bare = |line: &str| {
            let inside = line.strip_prefix(COLOURS).and_then(|line| line.strip_suffix(USUAL)).expect("coloured");
            assert_eq!(inside.chars().count(), 33);
            inside.to_owned()
        };
        let bare: Vec<String> = lines.into_iter().map(bare).collect();
        assert!(bare[0].chars().all(|c| c == ' '), "the quiet zone");
        // a finder pattern: seven dark, one ring light, three by three dark
        for (line, expected) in [(1, "  █▀▀▀▀▀█ "), (2, "  █ ███ █ "), (3, "  █ ▀▀▀ █ "), (4, "  ▀▀▀▀▀▀▀ ")]
        {
            assert!(bare[line].starts_with(expected), "{line}: {:?}", bare[line]);
        }
    }

    #[test]
    fn what_no_code_can_hold_has_no_picture() {
        assert!(picture(&"x".repeat(8000)).is_none());
    }

    #[test]
    fn a_reader_reads_it_off_a_light_terminal_and_off_a_dark_one() {
        const SIZE: usize = 4; // pixels of a module
        const AROUND: usize = 6; // modules of the terminal around the picture
        let address = "https://auth.example/device?user_code=WDJB-MJHT-0001";
        let Picture { text, columns, lines } = picture(address).unwrap();
        let bare = |line: &str| line.replace(COLOURS, "").replace(USUAL, "").chars().collect::<Vec<_>>();
        let rows: Vec<Vec<char>> = text.lines().map(bare).collect();
        for terminal in [255, 0] {
            let pixel = |x: usize, y: usize| {
                let inside = |at: usize, end: usize| (at / SIZE).checked_sub(AROUND).filter(|at| *at < end);
                let (Some(column), Some(row)) = (inside(x, columns), inside(y, 2 * lines)) else { return terminal };
                let is_dark = match rows[row / 2][column] {
                    '█' => true,
                    '▀' => row % 2 == 0,
                    '▄' => row % 2 == 1,
                    _ => false,
                };
                if is_dark { 0 } else { 255 }
            };
            let (width, height) = ((columns + 2 * AROUND) * SIZE, (2 * lines + 2 * AROUND) * SIZE);
            let mut seen = rqrr::PreparedImage::prepare_from_greyscale(width, height, pixel);
            let read: Vec<_> = seen.detect_grids().iter().map(|grid| grid.decode().expect("it is whole").1).collect();
            assert_eq!(read, [address], "on {terminal}");
        }
    }
}
