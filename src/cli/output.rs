//! Where a verb's words go: its result to standard output, everything else to standard error, and questions to the terminal.

use std::io::{self, BufRead, IsTerminal, Write};

use super::failure::Failure;
use super::text::{columns_of, printable};
use crate::sign_in::terminal::folded;

/// Writes to standard output, coloured only where that is a terminal and `NO_COLOR` is not set. A reader who has left
/// (`valetd man | head`) is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(error).while_doing("writing to standard output"))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Says something beside the output proper.
pub(super) fn remark(text: &str) {
    complain(&format!("{}\n", printable(text)));
}

/// Writes to standard error; on a terminal, lines are broken between words.
pub(super) fn complain(text: &str) {
    let text = columns_of(io::stderr()).map_or(text.to_owned(), |columns| folded(text, columns, 2));
    let _ = anstream::stderr().write_all(text.as_bytes());
}

/// Asks at a terminal; elsewhere nobody agrees.
pub(super) fn is_agreed(question: &str) -> bool {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return false;
    }
    let _ = write!(anstream::stderr(), "{} [y/N] ", printable(question));
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
