//! The one reader of [`SecretSource`]: the first line of a file, of a command's output or of a systemd credential; all of
//! it where that may be a document.
//!
//! What a wrong path leads to may be endless, or silent for ever (a pipe that nobody writes to), so that bytes and time
//! are bounded. What was read and is not the secret is wiped with the rest of the buffer.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use zeroize::Zeroizing;

use super::asked::Asked;
use super::ownership::{self, Refused};
use super::{clock, environment};
use crate::config::SecretSource;
use crate::secret::Secret;

/// A command, or who writes to a pipe, may ask a person something, or a password store may have to be unlocked; it must
/// not hang for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// The same where the thread that asks has other work waiting.
const PATIENCE_AT_REST: Duration = Duration::from_secs(5);

/// More than any secret.
const LONGEST_LINE: usize = 64 * 1024;

/// Why there is no secret. Shows where it was looked for, and nothing of what was there.
#[derive(Debug)]
pub(crate) struct SecretError {
    /// A path, `command NAME` or `credential NAME`; empty where there is none.
    place: String,
    why: Why,
}

/// What was wrong there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Why {
    /// The system refuses, or somebody else could change the file.
    #[error("{0}")]
    Refused(Refused),
    /// The system says no, after the file was opened or for the command.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// There is a first line, with nothing in it, or no line.
    #[error("its first line is empty")]
    Empty,
    /// Nobody's secret is so long: a wrong file, or an endless one.
    #[error("its first line is longer than {} KiB", LONGEST_LINE / 1024)]
    TooLong,
    /// It cannot be sent as text.
    #[error("its first line is no UTF-8 text")]
    NotText,
    /// A pipe without a writer, or with a silent one.
    #[error("nothing came within {} s", .0.as_secs())]
    Silent(Duration),
    /// The command is still running.
    #[error("did not end within {} s", .0.as_secs())]
    Endless(Duration),
    /// The command says no.
    #[error("{0}")]
    Failed(ExitStatus),
    /// The configuration names no program.
    #[error("it is empty")]
    NoCommand,
    /// Commands take time that is not there.
    #[error("cannot be asked of a command")]
    CommandAtRest,
    /// systemd has handed no credentials over.
    #[error("$CREDENTIALS_DIRECTORY is not set")]
    NoCredentials,
    /// It would lead out of the credentials' folder.
    #[error("a credential's name is no path")]
    CredentialIsPath,
}

/// `EX_NOPERM` of sysexits.h: what a command exits with that needs a person first.
const NEEDS_A_PERSON: i32 = 77;

impl SecretError {
    /// Whether the command has said that it cannot go on without a person.
    pub(crate) fn needs_a_person(&self) -> bool {
        matches!(&self.why, Why::Failed(status) if status.code() == Some(NEEDS_A_PERSON))
    }
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.why, self.place.as_str()) {
            // they name each file themselves
            (Why::Refused(Refused::Faults(_)), _) | (_, "") => self.why.fmt(f),
            (why, place) => write!(f, "{place}: {why}"),
        }
    }
}

impl std::error::Error for SecretError {}

/// Reads a secret from where the configuration says: the first line, without its end.
///
/// # Errors
///
/// [`SecretError`], within half a minute.
pub(crate) async fn read(source: &SecretSource) -> Result<Secret, SecretError> {
    read_part(source, Part::FirstLine).await
}

/// Like [`read`], but all that is there, which may be a document of several lines.
///
/// # Errors
///
/// [`SecretError`], within half a minute.
pub(crate) async fn read_whole(source: &SecretSource) -> Result<Secret, SecretError> {
    read_part(source, Part::Whole).await
}

/// How much of it is the secret.
#[derive(Clone, Copy)]
enum Part {
    FirstLine,
    Whole,
}

impl Part {
    fn of(self, text: &[u8]) -> Result<Secret, Why> {
        match (self, std::str::from_utf8(text)) {
            (Part::FirstLine, _) => first_line(text),
            (Part::Whole, Ok(text)) => Ok(Secret::new(text)),
            (Part::Whole, Err(_)) => Err(Why::NotText),
        }
    }
}

async fn read_part(source: &SecretSource, part: Part) -> Result<Secret, SecretError> {
    let path = match source {
        SecretSource::Inline(secret) => return Ok(secret.clone()),
        SecretSource::Command(command) => return from_command(command, PATIENCE, part).await,
        SecretSource::File(path) => path.clone(),
        SecretSource::Credential(name) => credential(name)?,
    };
    match tokio::task::spawn_blocking(move || from_file(&path, PATIENCE, part)).await {
        Ok(read) => read,
        Err(error) => Err(SecretError { place: String::new(), why: io::Error::other(error).into() }),
    }
}

/// Like [`read`], for what lies there already: asks no command, and blocks for no longer than a few seconds.
///
/// # Errors
///
/// [`SecretError`]
pub(crate) fn read_at_rest(source: &SecretSource) -> Result<Secret, SecretError> {
    match source {
        SecretSource::Inline(secret) => Ok(secret.clone()),
        SecretSource::File(path) => from_file(path, PATIENCE_AT_REST, Part::FirstLine),
        SecretSource::Credential(name) => from_file(&credential(name)?, PATIENCE_AT_REST, Part::FirstLine),
        SecretSource::Command(_) => Err(SecretError { place: String::new(), why: Why::CommandAtRest }),
    }
}

/// What a person knows a source by.
pub(crate) fn place(source: &SecretSource) -> String {
    match source {
        SecretSource::Inline(_) => "the configuration".to_owned(),
        SecretSource::File(path) => path.display().to_string(),
        SecretSource::Command(command) => format!("command {}", command.first().map_or("", String::as_str)),
        SecretSource::Credential(name) => format!("credential {name}"),
    }
}

fn credential(name: &str) -> Result<PathBuf, SecretError> {
    let failed = |why| SecretError { place: format!("credential {name}"), why };
    let folder = environment::value("CREDENTIALS_DIRECTORY").ok_or_else(|| failed(Why::NoCredentials))?;
    if name.contains('/') || name == ".." {
        return Err(failed(Why::CredentialIsPath));
    }
    Ok(PathBuf::from(folder).join(name))
}

fn from_file(path: &Path, patience: Duration, part: Part) -> Result<Secret, SecretError> {
    let file = ownership::open_without_waiting(path).map_err(Why::Refused);
    file.and_then(|file| part_of(file, patience, part))
        .map_err(|why| SecretError { place: path.display().to_string(), why })
}

/// Reads until the first line, or all of it, has ended. Each read waits until there is something: a pipe that nobody has opened for
/// writing yet would else look like one that has ended.
fn part_of(mut file: File, patience: Duration, part: Part) -> Result<Secret, Why> {
    let mut text = Zeroizing::new(vec![0; LONGEST_LINE]);
    let mut filled = 0;
    let deadline = clock::instant() + patience;
    while filled < text.len() {
        if !is_readable(&file, deadline)? {
            return Err(Why::Silent(patience));
        }
        let count = match file.read(&mut text[filled..]) {
            Ok(0) => return part.of(&text[..filled]),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => continue,
            Err(error) => return Err(error.into()),
        };
        let has_ended = matches!(part, Part::FirstLine) && text[filled..filled + count].contains(&b'\n');
        filled += count;
        if has_ended {
            return first_line(&text[..filled]);
        }
    }
    Err(Why::TooLong)
}

fn is_readable(file: &File, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(clock::instant());
        let left = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn from_command(command: &[String], patience: Duration, part: Part) -> Result<Secret, SecretError> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(SecretError { place: "command".to_owned(), why: Why::NoCommand });
    };
    let failed = |why| SecretError { place: format!("command {program}"), why };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(Stdio::null()); // who knows what it prints there
    let mut asked = Asked::start(&mut command).map_err(|error| failed(error.into()))?;
    let run = async {
        let stdout = asked.stdout().expect("stdout was asked to be piped");
        let secret = printed(stdout, part).await;
        let status = asked.ended().await?;
        if status.success() { secret } else { Err(Why::Failed(status)) }
    };
    match tokio::time::timeout(patience, run).await {
        Ok(outcome) => outcome.map_err(failed),
        Err(_) => {
            asked.end().await;
            Err(failed(Why::Endless(patience)))
        }
    }
}

/// Reads to the end, so that a command that prints more than one line does not fail for want of a reader.
async fn printed(source: impl AsyncRead + Unpin, part: Part) -> Result<Secret, Why> {
    let mut text = Zeroizing::new(Vec::with_capacity(LONGEST_LINE)); // at once: growing would leave copies behind
    source.take(LONGEST_LINE as u64).read_to_end(&mut text).await?;
    if text.len() == LONGEST_LINE && (matches!(part, Part::Whole) || !text.contains(&b'\n')) {
        return Err(Why::TooLong);
    }
    part.of(&text)
}

fn first_line(text: &[u8]) -> Result<Secret, Why> {
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok("") => Err(Why::Empty),
        Ok(line) => Ok(Secret::new(line)),
        Err(_) => Err(Why::NotText),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Write;
    use std::thread;

    #[tokio::test]
    async fn a_secret_is_the_first_line_of_its_source_by_the_same_rules_at_rest_and_with_patience() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            SecretSource::File(path)
        };
        let exactly = [b"x".repeat(LONGEST_LINE - 1), b"\n".to_vec()].concat();
        let longest = "x".repeat(LONGEST_LINE - 1);
        let table = [
            ("inline", SecretSource::Inline(Secret::new("s3cret")), Ok("s3cret")),
            ("a file", file("a", b"s3cret\r\nmore\n"), Ok("s3cret")),
            ("without an end of line", file("b", b"s3cret"), Ok("s3cret")),
            ("with blanks", file("c", b" s3 cret \n"), Ok(" s3 cret ")),
            ("an empty file", file("d", b""), Err("d: its first line is empty")),
            ("an empty line first", file("e", b"\ns3cret"), Err("e: its first line is empty")),
            ("no text", file("f", b"s3cret\xff\n"), Err("f: its first line is no UTF-8 text")),
            ("as long as may be", file("g", &exactly), Ok(&longest)),
            ("longer", file("h", &b"s3cret".repeat(LONGEST_LINE)), Err("h: its first line is longer than 64 KiB")),
            ("without end", SecretSource::File("/dev/zero".into()), Err("/dev/zero: its first line is longer")),
            ("nothing", SecretSource::File("/dev/null".into()), Err("/dev/null: its first line is empty")),
            ("no file", SecretSource::File(folder.path().join("none")), Err("none: No such file")),
            ("a folder", SecretSource::File(folder.path().into()), Err(": Is a directory")),
            ("a path as a credential", SecretSource::Credential("../x".into()), Err("credential ../x: ")),
        ];
        for (name, source, expected) in table {
            for found in [read(&source).await, read_at_rest(&source)] {
                match (found, expected) {
                    (Ok(secret), Ok(expected)) => assert!(secret.expose() == expected, "{name}"),
                    (Err(error), Err(part)) => {
                        let text = error.to_string();
                        assert!(text.contains(part) && !text.contains("s3cret"), "{name}: {text}");
                        assert!(!format!("{error:?}").contains("s3cret"), "{name}: {error:?}");
                    }
                    (other, _) => panic!("{name}: {other:?}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn a_command_is_asked_for_its_first_line_and_for_success() {
        let command = |words: &[&str]| SecretSource::Command(words.iter().map(|&word| word.to_owned()).collect());
        let table = [
            ("two lines", command(&["printf", "s3cret\nmore\n"]), Ok("s3cret")),
            ("one that fails", command(&["sh", "-c", "echo s3cret; exit 3"]), Err("command sh: exit status: 3")),
            ("nothing printed", command(&["true"]), Err("command true: its first line is empty")),
            ("without end", command(&["cat", "/dev/zero"]), Err("command cat: signal: 13")),
            ("no program", command(&["/nonexistent/program"]), Err("command /nonexistent/program: No such file")),
            ("none", command(&[]), Err("command: it is empty")),
        ];
        for (name, source, expected) in table {
            match (read(&source).await, expected) {
                (Ok(secret), Ok(expected)) => assert_eq!(secret.expose(), expected, "{name}"),
                (Err(error), Err(part)) => {
                    let text = error.to_string();
                    assert!(text.contains(part) && !text.contains("s3cret"), "{name}: {text}");
                }
                (other, _) => panic!("{name}: {other:?}"),
            }
            assert_eq!(read_at_rest(&source).unwrap_err().to_string(), "cannot be asked of a command", "{name}");
        }
        let slow = ["sleep", "1000"].map(str::to_owned);
        let error = from_command(&slow, Duration::from_secs(1), Part::FirstLine).await.unwrap_err();
        assert_eq!(error.to_string(), "command sleep: did not end within 1 s");
    }

    #[test]
    fn a_pipe_is_waited_for_and_not_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let brief = Duration::from_millis(100);
        let error = from_file(&path, brief, Part::FirstLine).unwrap_err();
        assert!(matches!(error.why, Why::Silent(_)), "nobody writes: {error}");

        let write = |bytes: &'static [u8], keeps_it_open: bool| {
            let path = path.clone();
            thread::spawn(move || {
                let mut pipe = File::options().write(true).open(path).unwrap();
                for part in bytes.chunks(4) {
                    pipe.write_all(part).unwrap();
                    thread::sleep(Duration::from_millis(20));
                }
                if keeps_it_open {
                    thread::sleep(Duration::from_millis(300));
                }
            })
        };
        let rows: [(&[u8], bool, Result<&str, &str>); 4] = [
            (b"s3cret\n", true, Ok("s3cret")),
            (b"s3cret", false, Ok("s3cret")),
            (b"", false, Err("its first line is empty")),
            (b"s3cr", true, Err("nothing came within")),
        ];
        for (bytes, keeps_it_open, expected) in rows {
            let writer = write(bytes, keeps_it_open);
            let patience = if expected.is_err() && keeps_it_open { brief } else { PATIENCE };
            match (from_file(&path, patience, Part::FirstLine), expected) {
                (Ok(secret), Ok(expected)) => assert_eq!(secret.expose(), expected),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (other, _) => panic!("{bytes:?}: {other:?}"),
            }
            writer.join().unwrap();
        }
    }
}
