//! Who holds the folder's lock, as that process says in the lock's file. Pure, but for the reading.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::platform::machine;

/// What is read of it: a host's name has 64 bytes at the most, a socket's path 107.
const LONGEST: u64 = 1000;

/// Who has the lock, as that process says in the file: a help for people; the lock itself is what counts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Holder {
    /// The process.
    pub pid: Option<u32>,
    /// The machine that it runs on, if that is another one.
    pub host: Option<String>,
    /// Its control socket, if it is a daemon of this machine that has one already.
    pub socket: Option<PathBuf>,
}

impl Holder {
    /// Reads what stands in the file.
    pub(crate) fn read(file: &File) -> Self {
        let mut words = String::new();
        let _ = file.take(LONGEST).read_to_string(&mut words);
        Self::of(&words, &machine::host_and_boot().0)
    }

    /// The same from the text. `here` is this machine's name. Pure.
    fn of(words: &str, here: &str) -> Self {
        let mut lines = words.lines();
        let first = lines.next().unwrap_or_default();
        let value = |name: &str| first.split_whitespace().skip_while(|word| *word != name).nth(1);
        let host = value("host").filter(|host| *host != here).map(str::to_owned);
        let socket = lines.find_map(|line| line.strip_prefix(SOCKET)).map(PathBuf::from);
        let pid = value("pid").and_then(|pid| pid.parse().ok());
        Self { pid, socket: socket.filter(|_| host.is_none()), host }
    }
}

/// What the line begins with that names the daemon's control socket: a path may have blanks in it.
const SOCKET: &str = "socket ";

/// The line that names a daemon's control socket; nothing for a path that no line can hold.
pub(super) fn socket_line(socket: &Path) -> String {
    let path = socket.display().to_string();
    if path.contains('\n') { String::new() } else { format!("{SOCKET}{path}\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_the_lock_is_read_as_it_was_written_by_this_version_and_those_before() {
        let words = "pid 7 started 2026-11-29T10:00:00Z host here boot b\n";
        let socket = |path: &str| Some(PathBuf::from(path));
        let rows = [
            ("a command", words.to_owned(), (Some(7), None, None)),
            ("a daemon", format!("{words}socket /run/a b/v.sock\n"), (Some(7), None, socket("/run/a b/v.sock"))),
            ("before there were hosts", "pid 7 started x\n".to_owned(), (Some(7), None, None)),
            ("nothing yet", String::new(), (None, None, None)),
            (
                "elsewhere, where its socket is of no use",
                format!("{}socket /run/v.sock\n", words.replace("here", "there")),
                (Some(7), Some("there".to_owned()), None),
            ),
        ];
        for (case, words, (pid, host, socket)) in rows {
            assert_eq!(Holder::of(&words, "here"), Holder { pid, host, socket }, "{case}");
        }
    }
}
