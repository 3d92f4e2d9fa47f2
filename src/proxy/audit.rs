//! The audit: one JSON line for each request, when somebody has asked for it.
//!
//! Workers put entries into a bounded queue and never wait: what does not fit is counted and said in the status. One
//! thread writes, appending whole lines, and looks before it writes whether the file is still the one with the name,
//! so that logrotate may rename it at any time. It also finds out which process is at a client's end, once a connection,
//! which takes milliseconds.
//!
//! No entry has room for a token, a key or a query.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tracing::{error, info, warn};

use crate::config::{KeyName, RouteName};
use crate::platform::peer::{self, PeerLookup};
use crate::stats::Stats;

/// Entries that may wait: what a busy proxy makes in the tenth of a second that a slow disk may take.
const QUEUE: usize = 8192;

/// Entries that are written at once.
const BATCH: usize = 512;

/// How often a file that could not be opened or written is tried again, and that it is gone is said.
const RETRY: Duration = Duration::from_secs(5);

/// The writing thread. Dropping it lets what waits be written and ends it.
#[derive(Debug)]
pub struct Audit {
    log: AuditLog,
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

/// Where entries go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AuditLog {
    queue: SyncSender<Message>,
    stats: Arc<Stats>,
    next_seat: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Opened(u64, Ends),
    Closed(u64),
    Entry(Box<Entry>),
    /// Look anew; perhaps at another path.
    Reopen(PathBuf),
    End,
}

/// What is known of a connection's client when it has been accepted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ends {
    /// The client's address and ours.
    Tcp(SocketAddr, SocketAddr),
    /// The process.
    Unix(Option<u32>),
}

/// A connection's place in the audit. The process at its end is looked for when this is made, and forgotten when it is
/// dropped.
#[derive(Debug)]
pub(super) struct Seat {
    id: u64,
    log: AuditLog,
}

/// One request.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) at: SystemTime,
    pub(super) seat: u64,
    pub(super) uid: Option<u32>,
    pub(super) key: Option<KeyName>,
    pub(super) route: Option<RouteName>,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) status: u16,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) took: Duration,
    /// The renewal that the token came from which the request went up with first.
    pub(super) renewal: Option<u64>,
    /// `forwarded`, or why not.
    pub(super) verdict: &'static str,
}

/// An entry as it is written.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    peer: Peer<'a>,
    key: Option<&'a str>,
    route: Option<&'a str>,
    method: &'a str,
    path: &'a str,
    status: u16,
    bytes_in: u64,
    bytes_out: u64,
    ms: u64,
    renewal: Option<u64>,
    verdict: &'a str,
}

#[derive(Serialize)]
struct Peer<'a> {
    uid: Option<u32>,
    pid: Option<u32>,
    executable: Option<&'a str>,
}

impl Audit {
    /// Starts the thread. It opens the file when there is something to write, and says so if it cannot.
    ///
    /// # Errors
    ///
    /// If there can be no further thread.
    pub fn start(path: PathBuf, stats: Arc<Stats>) -> io::Result<Self> {
        let (queue, messages) = sync_channel(QUEUE);
        let log = AuditLog { queue, stats: stats.clone(), next_seat: Arc::default() };
        let writer = Writer { path: path.clone(), file: None, stats, trouble: false, processes: HashMap::new() };
        let thread = thread::Builder::new().name("audit".into()).spawn(move || writer.run(&messages))?;
        Ok(Self { log, path, thread: Some(thread) })
    }

    /// Where entries go.
    pub fn log(&self) -> AuditLog {
        self.log.clone()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes to this file from here on, opening it anew in any case. Waits for room in the queue.
    pub fn reopen(&mut self, path: PathBuf) {
        self.path.clone_from(&path);
        let _ = self.log.queue.send(Message::Reopen(path)); // an error means that it ended by a panic
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        let _ = self.log.queue.send(Message::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl AuditLog {
    pub(super) fn seat(&self, ends: Ends) -> Seat {
        let id = self.next_seat.fetch_add(1, Ordering::Relaxed);
        let _ = self.queue.try_send(Message::Opened(id, ends)); // without, the process stays unknown
        Seat { id, log: self.clone() }
    }
}

impl Seat {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Whether it is one of this audit: a reload may have brought another.
    pub(super) fn is_of(&self, log: &AuditLog) -> bool {
        Arc::ptr_eq(&self.log.next_seat, &log.next_seat)
    }

    pub(super) fn note(&self, entry: Box<Entry>) {
        if self.log.queue.try_send(Message::Entry(entry)).is_err() {
            self.log.stats.audit.dropped.add(1);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // a seat that is not given back costs a hundred bytes, and happens only under an overload
        let _ = self.log.queue.try_send(Message::Closed(self.id));
    }
}

/// The thread's own.
struct Writer {
    path: PathBuf,
    file: Option<File>,
    stats: Arc<Stats>,
    /// Whether it has been said that the file cannot be written.
    trouble: bool,
    processes: HashMap<u64, Process>,
}

#[derive(Default)]
struct Process {
    pid: Option<u32>,
    executable: Option<String>,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        let mut lookup = PeerLookup::new(); // now, since it takes longer than some clients live
        let mut lines = Vec::new();
        loop {
            let first = match messages.recv_timeout(if self.trouble { RETRY } else { Duration::MAX }) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => {
                    self.open();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut count = 0;
            let mut ended = false;
            for message in std::iter::once(first).chain(messages.try_iter()).take(BATCH) {
                match message {
                    Message::Opened(seat, ends) => {
                        let process = process(&mut lookup, ends);
                        self.processes.insert(seat, process);
                    }
                    Message::Closed(seat) => drop(self.processes.remove(&seat)),
                    Message::Entry(entry) => {
                        write_line(&mut lines, &entry, self.processes.get(&entry.seat));
                        count += 1;
                    }
                    Message::Reopen(path) => {
                        self.write(&mut lines, &mut count);
                        self.path = path;
                        self.file = None;
                    }
                    Message::End => ended = true,
                }
            }
            self.write(&mut lines, &mut count);
            if ended {
                return;
            }
        }
    }

    fn write(&mut self, lines: &mut Vec<u8>, count: &mut u64) {
        if *count == 0 {
            return;
        }
        if !self.is_still_there() {
            self.open();
        }
        let written = self.file.as_mut().map(|file| file.write_all(lines));
        match written {
            Some(Ok(())) => self.stats.audit.written.add(*count),
            Some(Err(error)) => {
                self.stats.audit.dropped.add(*count);
                self.complain(&error);
                self.file = None;
            }
            None => self.stats.audit.dropped.add(*count),
        }
        lines.clear();
        *count = 0;
    }

    /// Whether the open file still has the name.
    fn is_still_there(&self) -> bool {
        let identity = |found: std::fs::Metadata| (found.dev(), found.ino());
        let open = self.file.as_ref().and_then(|file| file.metadata().ok()).map(identity);
        open.is_some() && open == std::fs::metadata(&self.path).ok().map(identity)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a log is appended to, made for us alone, and reached through no link"
    )]
    fn open(&mut self) {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK; // a link or a named pipe is not what was meant
        let opened = File::options().append(true).create(true).mode(0o600).custom_flags(flags).open(&self.path);
        let ours = opened.and_then(|file| match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other("it is not a plain file")),
        });
        match ours {
            Ok(file) => {
                if std::mem::take(&mut self.trouble) {
                    info!(path = %self.path.display(), "the audit is written again");
                }
                self.file = Some(file);
            }
            Err(error) => {
                self.file = None;
                self.complain(&error);
            }
        }
    }

    fn complain(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.trouble, true) {
            error!(path = %self.path.display(), %error, "the audit cannot be written; requests go on unnoted");
        }
    }
}

fn process(lookup: &mut PeerLookup, ends: Ends) -> Process {
    let pid = match ends {
        Ends::Unix(pid) => pid,
        Ends::Tcp(client, server) => lookup.tcp_owner(client, server).and_then(peer::process_with_socket),
    };
    Process { pid, executable: pid.and_then(peer::executable) }
}

fn write_line(lines: &mut Vec<u8>, entry: &Entry, process: Option<&Process>) {
    let time = jiff::Timestamp::try_from(entry.at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let line = Line {
        time: time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
        peer: Peer {
            uid: entry.uid,
            pid: process.and_then(|process| process.pid),
            executable: process.and_then(|process| process.executable.as_deref()),
        },
        key: entry.key.as_ref().map(KeyName::as_str),
        route: entry.route.as_ref().map(RouteName::as_str),
        method: &entry.method,
        path: &entry.path,
        status: entry.status,
        bytes_in: entry.bytes_in,
        bytes_out: entry.bytes_out,
        ms: u64::try_from(entry.took.as_millis()).unwrap_or(u64::MAX),
        renewal: entry.renewal,
        verdict: entry.verdict,
    };
    match serde_json::to_writer(&mut *lines, &line) {
        Ok(()) => lines.push(b'\n'),
        Err(error) => warn!(%error, "an audit line could not be made"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn entry(seat: u64, path: &str) -> Box<Entry> {
        Box::new(Entry {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_123),
            seat,
            uid: Some(1000),
            key: KeyName::new("agent"),
            route: RouteName::new("gbdx"),
            method: "GET".into(),
            path: path.into(),
            status: 200,
            bytes_in: 0,
            bytes_out: 17,
            took: Duration::from_micros(1500),
            renewal: Some(7),
            verdict: "forwarded",
        })
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until so many lines have been written.
    fn until_written(audit: &Audit, count: u64) {
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while audit.log.stats.audit.written.get() < count {
            assert!(std::time::Instant::now() < end, "{:?}", audit.log.stats);
            thread::yield_now();
        }
    }

    #[test]
    fn a_line_has_these_members_and_cannot_be_broken_by_what_a_client_sends() {
        let mut bytes = Vec::new();
        let process = Process { pid: Some(4711), executable: Some("/usr/bin/curl".into()) };
        write_line(&mut bytes, &entry(0, "/a\nb\"\u{1b}"), Some(&process));
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.trim_end().contains(char::is_control), "{text}");
        let expected = json!({
            "time": "2026-09-21T14:13:20.123Z",
            "peer": {"uid": 1000, "pid": 4711, "executable": "/usr/bin/curl"},
            "key": "agent",
            "route": "gbdx",
            "method": "GET",
            "path": "/a\nb\"\u{1b}",
            "status": 200,
            "bytes_in": 0,
            "bytes_out": 17,
            "ms": 1,
            "renewal": 7,
            "verdict": "forwarded",
        });
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    }

    #[test]
    fn a_renamed_file_is_made_anew_and_a_reload_may_name_another() {
        let folder = tempfile::tempdir().unwrap();
        let [first, moved, second] =
            ["audit.jsonl", "audit.jsonl.1", "other.jsonl"].map(|name| folder.path().join(name));
        let mut audit = Audit::start(first.clone(), Arc::default()).unwrap();
        let seat = audit.log().seat(Ends::Unix(Some(std::process::id())));
        seat.note(entry(seat.id(), "/1"));
        until_written(&audit, 1);
        std::fs::rename(&first, &moved).unwrap();
        seat.note(entry(seat.id(), "/2"));
        until_written(&audit, 2);
        audit.reopen(second.clone());
        seat.note(entry(seat.id(), "/3"));
        drop(seat);
        drop(audit);
        for (path, expected) in [(&moved, "/1"), (&first, "/2"), (&second, "/3")] {
            let lines = lines(path);
            assert_eq!((lines.len(), &lines[0]["path"]), (1, &json!(expected)), "{}", path.display());
            assert_eq!(lines[0]["peer"]["pid"], std::process::id());
            assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn what_does_not_fit_is_counted_and_nobody_waits() {
        let folder = tempfile::tempdir().unwrap();
        let stats = Arc::new(Stats::default());
        let audit = Audit::start(folder.path().join("missing").join("audit.jsonl"), stats.clone()).unwrap();
        let seat = audit.log().seat(Ends::Unix(None));
        for _ in 0..3 {
            seat.note(entry(seat.id(), "/"));
        }
        drop(seat);
        drop(audit);
        assert_eq!((stats.audit.written.get(), stats.audit.dropped.get()), (0, 3));

        let (queue, messages) = sync_channel(2);
        let log = AuditLog { queue, stats: Arc::default(), next_seat: Arc::default() };
        let seat = log.seat(Ends::Unix(None)); // takes one of the two places
        for _ in 0..5 {
            seat.note(entry(seat.id(), "/"));
        }
        assert_eq!(log.stats.audit.dropped.get(), 4);
        drop((seat, messages));
    }
}
