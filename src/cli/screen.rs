//! A terminal as a page that is kept up to date: only lines that changed are written, in one go, so that nothing
//! flickers; what was there before comes back at the end.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::platform::timer;

/// What the person, or the terminal, did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Input {
    /// `q`, Ctrl-C, Ctrl-D, or the terminal is gone.
    Quit,
    /// The window has another size: draw everything anew.
    Resized,
    /// Any other key.
    Key(u8),
}

/// The terminal that this process was started from, as a page. Dropping it puts everything back.
pub(super) struct Screen {
    terminal: File,
    keys: AsyncFd<OwnedFd>,
    before: Termios,
    resized: Signal,
    ended: [Signal; 4],
    color: bool,
    shown: Vec<String>,
}

/// The other screen; no cursor; long lines end at the edge.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H\x1b[2J";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// What is in between shows at once, on terminals that know it; others overlook it.
const BEGIN: &str = "\x1b[?2026h";
const END: &str = "\x1b[?2026l";

impl Screen {
    /// Takes the terminal over. Must be called on a runtime.
    ///
    /// # Errors
    ///
    /// If there is none, or it cannot be set.
    #[expect(clippy::disallowed_methods, reason = "a terminal is no file")]
    pub(super) fn open(color: bool) -> io::Result<Self> {
        let terminal = File::options().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&terminal)?;
        let mut keys = before.clone();
        keys.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        // a read takes what is there and never waits
        keys.special_codes[SpecialCodeIndex::VMIN] = 0;
        keys.special_codes[SpecialCodeIndex::VTIME] = 0;
        let [int, term, hup, quit] =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()].map(signal);
        let ended = [int?, term?, hup?, quit?];
        let resized = signal(SignalKind::window_change())?;
        tcsetattr(&terminal, OptionalActions::Flush, &keys)?;
        let keys = timer::register(terminal.try_clone()?.into())?;
        let screen = Self { terminal, keys, before, resized, ended, color, shown: Vec::new() };
        screen.write(ENTER)?;
        Ok(screen)
    }

    /// Columns and rows.
    pub(super) fn size(&self) -> (usize, usize) {
        match tcgetwinsize(&self.terminal) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => (80, 24),
        }
    }

    /// Shows a page: writes the lines that differ from those that stand there.
    ///
    /// # Errors
    ///
    /// If the terminal is gone.
    pub(super) fn show(&mut self, page: &str) -> io::Result<()> {
        let (_, rows) = self.size();
        let plain = (!self.color).then(|| anstream::adapter::strip_str(page).to_string());
        let lines: Vec<String> = plain.as_deref().unwrap_or(page).lines().take(rows).map(str::to_owned).collect();
        let changes = difference(&self.shown, &lines);
        if !changes.is_empty() {
            self.write(&format!("{BEGIN}{changes}{END}"))?;
        }
        self.shown = lines;
        Ok(())
    }

    /// Forgets what stands there: the next page is drawn whole.
    ///
    /// # Errors
    ///
    /// If the terminal is gone.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.shown.clear();
        self.write("\x1b[2J")
    }

    /// Waits for what the person does. Safe to drop and to call again.
    pub(super) async fn input(&mut self) -> Input {
        let [interrupt, terminate, hangup, quit] = &mut self.ended;
        loop {
            tokio::select! {
                _ = self.resized.recv() => return Input::Resized,
                _ = interrupt.recv() => return Input::Quit,
                _ = terminate.recv() => return Input::Quit,
                _ = hangup.recv() => return Input::Quit,
                _ = quit.recv() => return Input::Quit,
                ready = self.keys.readable() => {
                    let Ok(mut ready) = ready else { return Input::Quit };
                    let mut keys = [0; 64];
                    match rustix::io::read(&self.keys, &mut keys) {
                        Ok(length) if keys[..length].iter().any(|key| matches!(key, b'q' | b'Q' | 3 | 4)) => {
                            return Input::Quit;
                        }
                        Ok(1) => return Input::Key(keys[0].to_ascii_lowercase()),
                        // nobody types there any more, and that is told for ever: the signal may be ignored, or be later
                        Ok(0) if ready.ready().is_read_closed() => return Input::Quit,
                        // none; or several at once, as of an arrow: they mean nothing here
                        Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => ready.clear_ready(),
                        Err(_) => return Input::Quit,
                    }
                }
            }
        }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let mut terminal = &self.terminal;
        terminal.write_all(text.as_bytes())?;
        terminal.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.write(LEAVE);
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// What to write so that a screen with the lines `before` shows the lines `after`.
fn difference(before: &[String], after: &[String]) -> String {
    let mut out = String::new();
    for (row, line) in after.iter().enumerate() {
        if before.get(row) != Some(line) {
            // cleared first: behind a line that fills its row the cursor still stands on its last column
            out.push_str(&format!("\x1b[{};1H\x1b[K{line}", row + 1));
        }
    }
    if before.len() > after.len() {
        out.push_str(&format!("\x1b[{};1H\x1b[J", after.len() + 1));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_that_changed_are_written() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let table = [
            ("nothing changed", "a\nb", "a\nb", ""),
            ("the first page", "", "a", "\x1b[1;1H\x1b[Ka"),
            ("one line of three", "a\nb\nc", "a\nB\nc", "\x1b[2;1H\x1b[KB"),
            ("one line more", "a", "a\nb", "\x1b[2;1H\x1b[Kb"),
            ("one line less", "a\nb", "a", "\x1b[2;1H\x1b[J"),
        ];
        for (case, before, after, expected) in table {
            assert_eq!(difference(&lines(before), &lines(after)), expected, "{case}");
        }
    }
}
