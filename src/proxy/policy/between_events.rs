//! Where one event of a stream has ended and the next has not begun (WHATWG HTML, section 9.2.6): there, and nowhere else,
//! another one can be put in. Pure.

/// What has gone of a stream, as far as that matters.
#[derive(Debug)]
pub(crate) struct BetweenEvents {
    line: Line,
    /// Whether fields have come since the last empty line.
    has_fields: bool,
    after_return: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Line {
    Empty,
    Comment,
    Field,
}

impl BetweenEvents {
    pub(crate) fn new() -> Self {
        Self { line: Line::Empty, has_fields: false, after_return: false }
    }

    /// Takes what has gone.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let is_second_half = std::mem::take(&mut self.after_return) && *byte == b'\n';
            match byte {
                _ if is_second_half => {}
                b'\n' | b'\r' => {
                    self.after_return = *byte == b'\r';
                    match self.line {
                        Line::Empty => self.has_fields = false,
                        Line::Comment => {}
                        Line::Field => self.has_fields = true,
                    }
                    self.line = Line::Empty;
                }
                b':' if self.line == Line::Empty => self.line = Line::Comment,
                _ if self.line == Line::Empty => self.line = Line::Field,
                _ => {}
            }
        }
    }

    /// Whether no event, and no line, has begun.
    pub(crate) fn is_between(&self) -> bool {
        self.line == Line::Empty && !self.has_fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_ended_with_an_empty_line_in_each_of_its_spellings_and_no_sooner() {
        for (text, expected) in [
            ("", true),
            ("data: x", false),
            ("data: x\n", false),
            ("data: x\n\n", true),
            ("data: x\r\n", false),
            ("data: x\r\n\r", true),
            ("data: x\r\n\r\n", true),
            ("data: x\r\r", true),
            ("data: x\n\r\n", true),
            ("data: x\n\nid", false),
            (": silence", false),
            (": silence\n", true),
            ("data: x\n: silence\n", false),
            ("data: x\n: silence\n\n", true),
            ("\n\n\n", true),
            ("\u{feff}", false),
        ] {
            for cut in (0..=text.len()).filter(|cut| text.is_char_boundary(*cut)) {
                let mut events = BetweenEvents::new();
                events.feed(&text.as_bytes()[..cut]);
                events.feed(&text.as_bytes()[cut..]);
                assert_eq!(events.is_between(), expected, "{text:?} {cut}");
            }
        }
    }
}
