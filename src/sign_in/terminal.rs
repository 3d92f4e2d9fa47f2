//! Questions to the person at the terminal, also where standard input and output lead elsewhere.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::unix::AsyncFd;
use zeroize::Zeroizing;

use crate::platform::termination::{Restoration, restores};
use crate::platform::timer;
use crate::secret::Secret;

/// More than any answer; an end to what is pasted by mistake.
const LONGEST: usize = 32 * 1024;

/// The terminal that this process was started from; or, where there is none, what is shown in its place.
#[derive(Debug)]
pub(crate) struct Terminal {
    screen: File,
    /// Whether there is somebody to answer.
    has_keys: bool,
}

/// What came first.
#[derive(Debug)]
pub(crate) enum Came<T> {
    /// A line, if it was not empty.
    Line(Option<String>),
    /// What else was waited for.
    Other(T),
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unasked {
    /// Nobody to ask.
    #[error("there is no terminal to ask on")]
    NoTerminal,
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// Ctrl-D, or the terminal is gone.
    #[error("no answer was given")]
    NoAnswer,
    /// The terminal failed.
    #[error("cannot ask on the terminal: {0}")]
    Broken(#[from] io::Error),
}

impl Terminal {
    /// Opens the process's controlling terminal.
    ///
    /// # Errors
    ///
    /// [`Unasked::NoTerminal`] if it has none: under cron, in a service.
    #[expect(clippy::disallowed_methods, reason = "a terminal is no file")]
    pub(crate) fn open() -> Result<Self, Unasked> {
        let opened = File::options().read(true).write(true).open("/dev/tty");
        opened.map(|screen| Self { screen, has_keys: true }).map_err(|_| Unasked::NoTerminal)
    }

    /// Standard error in the place of a terminal, for what needs no answers: each question has the response that there is
    /// nobody.
    ///
    /// # Errors
    ///
    /// [`Unasked::Broken`] if it is closed.
    pub(crate) fn without_keys() -> Result<Self, Unasked> {
        let screen = io::stderr().as_fd().try_clone_to_owned()?.into();
        Ok(Self { screen, has_keys: false })
    }

    /// Whether there is somebody to answer.
    pub(crate) fn has_keys(&self) -> bool {
        self.has_keys
    }

    /// Takes the keys, until what is returned is dropped.
    fn raw(&self) -> Result<Raw, Unasked> {
        match self.has_keys {
            true => Ok(Raw::begin(&self.screen)?),
            false => Err(Unasked::NoTerminal),
        }
    }

    /// Shows a text, without what a terminal would take for an order. Sentences that are wider than it go on in the next line;
    /// what is indented (an address, a command) stays as it is.
    ///
    /// # Errors
    ///
    /// [`Unasked::Broken`] if the terminal fails.
    pub(crate) fn say(&self, text: &str) -> Result<(), Unasked> {
        let harmless: String = text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect();
        let mut screen = &self.screen;
        screen.write_all(wrapped(&harmless, self.size().0).as_bytes())?;
        Ok(screen.flush()?)
    }

    /// Asks for a line that may be seen; asks again as long as the line is empty. What is pasted in one go counts as
    /// one line, also with line ends in it.
    ///
    /// # Errors
    ///
    /// [`Unasked`] if there is no answer.
    pub(crate) fn ask_line(&mut self, prompt: &str) -> Result<String, Unasked> {
        loop {
            if let Some(line) = self.ask_line_or_none(prompt)? {
                return Ok(line);
            }
        }
    }

    /// The same once; `None` if the line is empty.
    ///
    /// # Errors
    ///
    /// [`Unasked`] if there is no answer.
    pub(crate) fn ask_line_or_none(&mut self, prompt: &str) -> Result<Option<String>, Unasked> {
        let line = {
            // before the question is seen: from then on, what is typed is the answer
            let _raw = self.raw()?;
            self.say(prompt)?;
            let screen = self.screen.try_clone()?;
            read_line(&self.screen, Some(screen), || follows_at_once(&self.screen))
        };
        self.say("\n")?;
        let line = line?;
        let line = line.expose().trim();
        Ok((!line.is_empty()).then(|| line.to_owned()))
    }

    /// Shows a picture of our own making, with the orders that colour it; never a text from elsewhere.
    ///
    /// # Errors
    ///
    /// [`Unasked::Broken`] if the terminal fails.
    pub(crate) fn draw(&self, picture: &str) -> Result<(), Unasked> {
        let mut screen = &self.screen;
        screen.write_all(picture.as_bytes())?;
        Ok(screen.flush()?)
    }

    /// How many columns and rows it has.
    pub(crate) fn size(&self) -> (usize, usize) {
        match tcgetwinsize(&self.screen) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => (80, 24),
        }
    }

    /// Asks for a line while something else goes on, and returns what comes first. What is pasted in one go counts as one
    /// line, and an empty line as none. Where nobody can answer, nobody is asked. To be called inside a runtime.
    ///
    /// # Errors
    ///
    /// [`Unasked`] if the person leaves.
    pub(crate) async fn ask_line_beside<T>(
        &mut self,
        prompt: &str,
        other: impl Future<Output = T>,
    ) -> Result<Came<T>, Unasked> {
        if !self.has_keys {
            return Ok(Came::Other(other.await));
        }
        let came = {
            let _raw = self.raw()?;
            self.say(prompt)?;
            let keys = timer::register(self.screen.try_clone()?.into())?;
            tokio::select! {
                biased;
                other = other => Ok(Came::Other(other)),
                line = typed_line(&keys, Some(&self.screen)) => line.map(Came::Line),
            }
        };
        self.say("\n")?;
        came
    }

    /// Waits for something with a line that says how it stands, written anew each second. To be called inside a runtime.
    ///
    /// # Errors
    ///
    /// [`Unasked`] if the person leaves.
    pub(crate) async fn wait_beside<T>(
        &mut self,
        mut status: impl FnMut() -> String,
        other: impl Future<Output = T>,
    ) -> Result<T, Unasked> {
        const EACH: Duration = Duration::from_secs(1);
        if !self.has_keys {
            self.say(&format!("{}\n", status()))?;
            return Ok(other.await);
        }
        let came = {
            let _raw = self.raw()?;
            let keys = timer::register(self.screen.try_clone()?.into())?;
            let mut ticks = tokio::time::interval(EACH);
            let mut width = 0;
            let mut other = pin!(other);
            let mut leaving = pin!(async {
                loop {
                    // there is no question, so a line is no answer
                    if let Err(left) = typed_line(&keys, None).await {
                        return left;
                    }
                }
            });
            loop {
                tokio::select! {
                    biased;
                    other = &mut other => break Ok(other),
                    left = &mut leaving => break Err(left),
                    _ = ticks.tick() => {
                        // a line that goes on in the next one would not be written over
                        let line: String = status().chars().take(self.size().0.saturating_sub(1)).collect();
                        self.draw("\r")?;
                        self.say(&format!("{line:width$}"))?;
                        width = line.chars().count();
                    }
                }
            }
        };
        self.say("\n")?;
        came
    }

    /// Asks for a secret that is not shown.
    ///
    /// # Errors
    ///
    /// [`Unasked`] if there is no answer.
    pub(crate) fn ask_hidden(&mut self, prompt: &str) -> Result<Secret, Unasked> {
        let answer = {
            let _raw = self.raw()?;
            self.say(prompt)?;
            read_line(&self.screen, None::<File>, || false)
        };
        self.say("\n")?;
        match answer? {
            secret if secret.is_empty() => Err(Unasked::NoAnswer),
            secret => Ok(secret),
        }
    }
}

/// Keys come one by one, unseen, Ctrl-C among them, until this is dropped, or until a signal ends the process: there is no
/// moment at which it could end with a terminal that shows nothing. It also lifts the line's limit of 4096 bytes, which a
/// redirected address may exceed.
struct Raw(Restoration);

impl Raw {
    fn begin(terminal: &File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut raw = before.clone();
        raw.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG | LocalModes::IEXTEN;
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        let restoration = restores(terminal.try_clone()?, before);
        // what was typed before the question was there is no answer to it
        tcsetattr(terminal, OptionalActions::Flush, &raw)?;
        Ok(Self(restoration))
    }
}

/// A text whose sentences are broken between words. An indented line stays whole: it is there to be copied. Pure.
fn wrapped(text: &str, columns: usize) -> String {
    let line = |line: &str| if line.starts_with(' ') { line.to_owned() } else { folded_line(line, columns, 0) };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// Whether the next key is there already: no person types that fast, so it belongs to what was pasted.
fn follows_at_once(terminal: impl AsFd) -> bool {
    is_readable(terminal, Timespec { tv_sec: 0, tv_nsec: 20_000_000 })
}

/// Whether a key is there, or the terminal gone, within so long.
fn is_readable(terminal: impl AsFd, within: Timespec) -> bool {
    let mut ready = [PollFd::new(&terminal, PollFlags::IN)];
    matches!(poll(&mut ready, Some(&within)), Ok(1..))
}

/// The next line, trimmed; `None` if it is empty. What was typed of it is lost when this is dropped.
async fn typed_line(keys: &AsyncFd<OwnedFd>, screen: Option<&File>) -> Result<Option<String>, Unasked> {
    let mut line = Line::new(screen);
    loop {
        let mut ready = keys.readable().await?;
        // a read waits for a key, and nothing else must wait for that
        if !is_readable(keys, Timespec { tv_sec: 0, tv_nsec: 0 }) {
            ready.clear_ready();
            continue;
        }
        let mut key = [0];
        match rustix::io::read(keys, &mut key) {
            Ok(0) => return Err(Unasked::NoAnswer),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(io::Error::from(error).into()),
        }
        if line.press(key[0], || follows_at_once(keys))? {
            let line = line.finish()?;
            let line = line.expose().trim();
            return Ok((!line.is_empty()).then(|| line.to_owned()));
        }
    }
}

/// Reads keys up to the end of the line after which nothing `follows`, with the few keys that edit it; shows them on
/// `screen`, if there is one.
fn read_line(
    mut keys: impl Read,
    screen: Option<impl Write>,
    mut follows: impl FnMut() -> bool,
) -> Result<Secret, Unasked> {
    let mut line = Line::new(screen);
    loop {
        let mut key = [0];
        match keys.read(&mut key) {
            Ok(0) => return Err(Unasked::NoAnswer),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        }
        if line.press(key[0], &mut follows)? {
            return line.finish();
        }
    }
}

/// A line that is being typed, and the screen that shows it, if one does.
struct Line<W> {
    bytes: Zeroizing<Vec<u8>>,
    screen: Option<W>,
}

impl<W: Write> Line<W> {
    fn new(screen: Option<W>) -> Self {
        Self { bytes: Zeroizing::new(Vec::with_capacity(LONGEST)), screen } // never moved: no copies are left behind
    }

    /// Takes a key. Returns whether the line has ended; a line end after which something `follows` is part of it.
    fn press(&mut self, key: u8, mut follows: impl FnMut() -> bool) -> Result<bool, Unasked> {
        const CTRL_C: u8 = 0x03;
        const CTRL_D: u8 = 0x04;
        const CTRL_U: u8 = 0x15;
        const CTRL_W: u8 = 0x17;
        match key {
            b'\n' | b'\r' if !follows() => return Ok(true),
            CTRL_C => return Err(Unasked::Interrupted),
            CTRL_D if self.bytes.is_empty() => return Err(Unasked::NoAnswer),
            CTRL_D => return Ok(true),
            0x7f | 0x08 => {
                if forget_character(&mut self.bytes) {
                    self.show(b"\x08 \x08")?;
                }
            }
            CTRL_U | CTRL_W => {
                while forget_character(&mut self.bytes) {
                    self.show(b"\x08 \x08")?;
                }
            }
            byte if byte < b' ' && !byte.is_ascii_whitespace() => {}
            _ if self.bytes.len() == LONGEST => {}
            byte => {
                self.bytes.push(byte);
                self.show(if byte < b' ' { b" " } else { std::slice::from_ref(&byte) })?;
            }
        }
        Ok(false)
    }

    fn show(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.screen.as_mut().map_or(Ok(()), |screen| screen.write_all(bytes))
    }

    fn finish(self) -> Result<Secret, Unasked> {
        let text = std::str::from_utf8(&self.bytes);
        let text = text.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))?;
        Ok(Secret::new(text))
    }
}

/// Takes the last character away; `false` if there is none.
fn forget_character(line: &mut Vec<u8>) -> bool {
    while let Some(byte) = line.pop() {
        let continues = byte & 0xc0 == 0x80; // UTF-8: the first byte of a character has another beginning
        if !continues {
            return true;
        }
    }
    false
}

/// A text whose lines are broken between words to fit a terminal; what goes on is `hang` columns further in than its line
/// begins. A word that is wider stays whole, as an address must. Pure.
pub(crate) fn folded(text: &str, columns: usize, hang: usize) -> String {
    text.split('\n').map(|line| folded_line(line, columns, hang)).collect::<Vec<_>>().join("\n")
}

fn folded_line(line: &str, columns: usize, hang: usize) -> String {
    let words = line.trim_start_matches(' ');
    let indent = line.len() - words.len();
    let margin = " ".repeat(indent + hang);
    let mut out = " ".repeat(indent);
    let (mut column, mut begins) = (indent, true);
    for (index, word) in words.split(' ').enumerate() {
        let width = word.chars().count();
        if index > 0 && width > 0 && !begins && column + 1 + width > columns {
            out.truncate(out.trim_end_matches(' ').len());
            out.push('\n');
            out.push_str(&margin);
            column = margin.len();
        } else if index > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += width;
        begins = false;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words_and_an_address_stays_whole() {
        let rows = [
            ("fits", 10, "fits"),
            ("one two three", 8, "one two\nthree"),
            ("  one two three\n\nx", 8, "  one\n  two\n  three\n\nx"),
            ("  https://auth.example/authorize?x=y\n", 10, "  https://auth.example/authorize?x=y\n"),
            ("Which one? [1] ", 40, "Which one? [1] "),
            ("a  b  c", 40, "a  b  c"),
        ];
        for (text, columns, expected) in rows {
            assert_eq!(folded(text, columns, 0), expected, "{text:?}");
        }
        assert_eq!(folded("one two three", 9, 2), "one two\n  three");
    }

    fn typed(keys: &[u8]) -> Result<String, Unasked> {
        read_line(keys, None::<File>, || false).map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn keys_make_a_line() {
        let table: [(&str, &[u8], &str); 8] = [
            ("return", b"hunter2\r", "hunter2"),
            ("line feed", b"hunter2\nmore", "hunter2"),
            ("blanks belong to it", b" a b \n", " a b "),
            ("backspace", b"hx\x7funter2\n", "hunter2"),
            ("backspace over two bytes", "hé\x7funter2\n".as_bytes(), "hunter2"),
            ("backspace over nothing", b"\x7f\x08hunter2\n", "hunter2"),
            ("from the start", b"wrong\x15hunter2\n", "hunter2"),
            ("other control keys are none", b"hun\x01\x1bter2\n", "hunter2"),
        ];
        for (case, keys, expected) in table {
            assert_eq!(typed(keys).unwrap(), expected, "{case}");
        }
    }

    #[test]
    fn sentences_are_broken_between_words_and_nothing_else_is() {
        let rows = [
            ("short\n", 10, "short\n"),
            ("ten letter\n", 10, "ten letter\n"),
            ("one two three\nfour\n", 8, "one two\nthree\nfour\n"),
            ("  https://a.example/as-it-is x\n", 8, "  https://a.example/as-it-is x\n"),
            ("averylongword and\n", 5, "averylongword\nand\n"),
            ("which one? ", 11, "which one? "),
            ("which one is it? ", 9, "which one\nis it? "),
        ];
        for (text, columns, expected) in rows {
            assert_eq!(wrapped(text, columns), expected, "{text:?}");
        }
    }

    #[test]
    fn a_person_can_leave() {
        assert!(matches!(typed(b"hun\x03ter2\n"), Err(Unasked::Interrupted)));
        assert!(matches!(typed(b"\x04"), Err(Unasked::NoAnswer)));
        assert!(matches!(typed(b"hun"), Err(Unasked::NoAnswer)), "a terminal that is gone");
    }

    #[test]
    fn what_is_pasted_in_one_go_is_one_line() {
        let mut more = [true, true, false].into_iter();
        let pasted = read_line(b"\r\nhunter2\n".as_slice(), None::<File>, || more.next().unwrap()).unwrap();
        assert_eq!(pasted.expose(), "\r\nhunter2");
    }

    #[test]
    fn a_seen_line_is_shown_as_it_is_edited() {
        let mut screen = Vec::new();
        let line = read_line(b"ab\x7fc\n".as_slice(), Some(&mut screen), || false).unwrap();
        assert_eq!((line.expose(), screen.as_slice()), ("ac", b"ab\x08 \x08c".as_slice()));
    }
}
