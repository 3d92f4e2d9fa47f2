//! The audit: one JSON line for each request of a client, when somebody has asked for it.
//!
//! Workers put entries into bounded queues and never wait: what does not fit is counted and said in the status, or, if
//! the audit is required, not forwarded. The owner's entries have a queue of their own, which goes first when it fills, so
//! that neither other users nor keys can push them out. Strangers, who have not shown what would let them in, are counted: one
//! line a minute for each user.
//!
//! One thread writes, appending whole lines, and looks before it writes whether the file is still the one with the name,
//! so that logrotate may rename it at any time; a file that is full is renamed by the thread itself. It leaves a reserve on
//! the disk, for what must be saved. It also finds out which process is at a client's end, once a connection, which takes
//! milliseconds.
//!
//! No entry has room for a token, a key or a query.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use tracing::{error, info, warn};

use crate::config::{KeyName, RouteName};
use crate::platform::clock::{self, wall};
use crate::platform::peer::{self, Ends, PeerLookup};
use crate::stats::Stats;

/// Entries of the owner's that may wait: what a busy proxy makes in the tenth of a second that a slow disk may take.
const OWN_SHARE: usize = 8192;

/// Entries of all others, together, that may wait.
const OTHERS_SHARE: usize = 4096;

/// Bytes that are written at once. With the longest line they stay below the least size of a file.
const BATCH: usize = 32 * 1024;

/// How often a file that could not be opened or written is tried again, and that it is gone is said.
const RETRY: Duration = Duration::from_secs(5);

/// For how long strangers are counted before their line is written.
const STRANGERS_EVERY: Duration = Duration::from_secs(60);

/// Users that are counted apart; a namespace of a stranger's may have sixty thousand.
const MOST_STRANGERS: usize = 64;

/// An exchange that has run for so long has a line of its own when it is noticed, before the one at its end.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// How often a worker looks for exchanges that have become long.
pub(crate) const LONG_CHECK_INTERVAL: Duration = Duration::from_secs(13);

/// The free space, or a twentieth of the file system if that is less, that the audit leaves to others: a credential that
/// cannot be saved is a login lost.
const RESERVE: u64 = 16 * 1024 * 1024;

/// The longest path that is written whole, in bytes.
pub(crate) const LONGEST_PATH: usize = 1024;

/// The longest method that is written whole: what the guard takes at most.
pub(crate) const LONGEST_METHOD: usize = 32;

/// The longest path of a program that is written whole.
const LONGEST_EXECUTABLE: usize = 512;

/// Where the audit goes, and how much of it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Settings {
    /// The file.
    pub path: PathBuf,
    /// A file that would grow beyond this is renamed first.
    pub size: u64,
    /// Renamed files that are kept: `FILE.1`, the youngest, to `FILE.N`.
    pub keep: u64,
    /// Whether nothing is forwarded that cannot be noted: then what was forwarded is kept until it can be written.
    pub is_required: bool,
}

/// The writing thread. Dropping it lets what waits be written and ends it.
#[derive(Debug)]
pub(crate) struct Audit {
    log: AuditLog,
    reopen: Sender<Reopen>,
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

/// Where entries go. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct AuditLog {
    own: Sender<(u64, Message)>,
    others: Sender<(u64, Message)>,
    thread: Thread,
    shared: Arc<Shared>,
}

/// What the workers and the thread have in common.
#[derive(Debug)]
struct Shared {
    stats: Arc<Stats>,
    next_seat: AtomicU64,
    next_exchange: AtomicU64,
    /// Numbers what is sent, so that it can be written in that order.
    next_message: AtomicU64,
    own: AtomicUsize,
    others: AtomicUsize,
    /// Whether the file could be written when it was last tried, and the disk has its reserve.
    is_writable: AtomicBool,
    strangers: Mutex<Strangers>,
    is_ending: AtomicBool,
}

/// Those who have not shown what would let them in, since the last lines about them.
#[derive(Debug, Default)]
struct Strangers {
    since: Option<(SystemTime, Instant)>,
    requests: BTreeMap<Option<u32>, u64>,
}

#[derive(Debug)]
enum Message {
    Opened(u64, Ends, #[expect(dead_code, reason = "it is given back when this is dropped")] Place),
    Closed(u64),
    Entry(Box<Entry>),
}

/// To look anew, perhaps at another path. Answered when that is done.
type Reopen = (Settings, Sender<()>);

/// The queue that an entry waits in: each has its share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Queue {
    /// The user's that valetd runs as, without a key.
    Own,
    /// Another user's, or a key's.
    Others,
}

/// Room for one entry, from the time when it is promised until it is written or given up.
#[derive(Debug)]
pub(crate) struct Place {
    queue: Queue,
    /// Whether something was forwarded because of it.
    is_promised: bool,
    shared: Arc<Shared>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.share(self.queue).0.fetch_sub(1, Relaxed);
    }
}

/// A connection's place in the audit. The process at its end is looked for when this is made, and forgotten when it is
/// dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    id: u64,
    queue: Queue,
    /// Whether the thread has heard of it.
    is_known: bool,
    log: AuditLog,
}

/// One request.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) at: SystemTime,
    pub(crate) seat: u64,
    pub(crate) uid: Option<u32>,
    pub(crate) key: Option<KeyName>,
    pub(crate) route: Option<RouteName>,
    pub(crate) method: String,
    pub(crate) path: String,
    /// `None` before there is a response.
    pub(crate) status: Option<u16>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) took: Duration,
    /// The renewal that the token came from which the request went up with first.
    pub(crate) renewal: Option<u64>,
    /// Method and name of a message to an MCP server, never its arguments; of a route that has rules for them.
    pub(crate) message: Option<String>,
    /// `forwarded`, `started`, or why not.
    pub(crate) verdict: &'static str,
    /// Joins the two lines of an exchange that has two.
    pub(crate) exchange: Option<u64>,
    /// The members that were too long to be written whole.
    pub(crate) cut: Vec<&'static str>,
    /// Given back when the line is written.
    pub(crate) place: Place,
}

/// An entry as it is written.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    peer: Peer<'a>,
    key: Option<&'a str>,
    route: Option<&'a str>,
    method: Option<&'a str>,
    path: Option<&'a str>,
    status: Option<u16>,
    bytes_in: u64,
    bytes_out: u64,
    ms: u64,
    renewal: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    verdict: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exchange: Option<u64>,
    /// How many requests this line stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<u64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    cut: &'a [&'static str],
}

#[derive(Serialize)]
struct Peer<'a> {
    uid: Option<u32>,
    pid: Option<u32>,
    executable: Option<&'a str>,
}

impl Audit {
    /// Opens the file, says so if that cannot be done, and starts the thread, which will try again.
    ///
    /// # Errors
    ///
    /// If there can be no further thread.
    pub(crate) fn start(settings: Settings, stats: Arc<Stats>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            stats,
            next_seat: AtomicU64::new(0),
            next_exchange: AtomicU64::new(1),
            next_message: AtomicU64::new(0),
            own: AtomicUsize::new(0),
            others: AtomicUsize::new(0),
            is_writable: AtomicBool::new(false),
            strangers: Mutex::default(),
            is_ending: AtomicBool::new(false),
        });
        let ((own, owns), (others, of_others), (reopen, reopens)) = (channel(), channel(), channel());
        let path = settings.path.clone();
        let mut writer = Writer {
            settings,
            file: None,
            shared: shared.clone(),
            failed_at: None,
            processes: HashMap::new(),
            lines: Vec::new(),
            places: Vec::new(),
            count: 0,
        };
        writer.open();
        let thread =
            thread::Builder::new().name("audit".into()).spawn(move || writer.run(&owns, &of_others, &reopens))?;
        let log = AuditLog { own, others, thread: thread.thread().clone(), shared };
        Ok(Self { log, reopen, path, thread: Some(thread) })
    }

    /// Where entries go.
    pub(crate) fn log(&self) -> AuditLog {
        self.log.clone()
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes to this file from here on, opening it anew in any case. Waits until that is done, but not for a disk that
    /// does not answer.
    pub(crate) fn reopen(&mut self, settings: Settings) {
        self.path.clone_from(&settings.path);
        let (done, opened) = channel();
        let _ = self.reopen.send((settings, done)); // an error means that the thread has ended by a panic
        self.log.thread.unpark();
        let _ = opened.recv_timeout(RETRY);
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.log.shared.is_ending.store(true, Relaxed);
        self.log.thread.unpark();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The entries that wait, and how many may.
    fn share(&self, queue: Queue) -> (&AtomicUsize, usize) {
        match queue {
            Queue::Own => (&self.own, OWN_SHARE),
            Queue::Others => (&self.others, OTHERS_SHARE),
        }
    }

    fn strangers(&self) -> std::sync::MutexGuard<'_, Strangers> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AuditLog {
    pub(crate) fn seat(&self, ends: Ends, queue: Queue) -> Seat {
        let id = self.shared.next_seat.fetch_add(1, Relaxed);
        let place = self.place(queue); // without, the process stays unknown
        let is_known = place.is_some_and(|place| self.send(queue, Message::Opened(id, ends, place)));
        Seat { id, queue, is_known, log: self.clone() }
    }

    /// Room for one entry, if there is any.
    pub(crate) fn place(&self, queue: Queue) -> Option<Place> {
        let (taken, most) = self.shared.share(queue);
        let one_more = |taken: usize| (taken < most).then_some(taken + 1);
        taken.fetch_update(Relaxed, Relaxed, one_more).ok()?;
        Some(Place { queue, is_promised: false, shared: self.shared.clone() })
    }

    /// Room for one entry that will be written, as far as anybody can know: the file could be written when it was last
    /// tried, and there is space for what waits.
    pub(crate) fn promised_place(&self, queue: Queue) -> Option<Place> {
        let mut place = self.shared.is_writable.load(Relaxed).then(|| self.place(queue)).flatten()?;
        place.is_promised = true;
        Some(place)
    }

    /// Counts a request of somebody who has not shown what would let them in.
    pub(crate) fn note_stranger(&self, uid: Option<u32>) {
        let mut strangers = self.shared.strangers();
        let Strangers { since, requests } = &mut *strangers;
        let is_counted_apart = requests.len() < MOST_STRANGERS || requests.contains_key(&uid);
        *requests.entry(uid.filter(|_| is_counted_apart)).or_default() += 1;
        if since.is_none() {
            *since = Some((wall(), clock::instant()));
            drop(strangers);
            self.thread.unpark(); // it must know when to look
        }
    }

    pub(crate) fn next_exchange(&self) -> u64 {
        self.shared.next_exchange.fetch_add(1, Relaxed)
    }

    /// Counts a request that was refused because it could not have been noted.
    pub(crate) fn refused(&self) {
        self.shared.stats.audit.refused.add(1);
    }

    /// Counts an entry that did not fit.
    pub(crate) fn dropped(&self) {
        self.shared.stats.audit.dropped.add(1);
    }

    fn send(&self, queue: Queue, message: Message) -> bool {
        let queue = match queue {
            Queue::Own => &self.own,
            Queue::Others => &self.others,
        };
        let number = self.shared.next_message.fetch_add(1, Relaxed);
        let sent = queue.send((number, message)).is_ok(); // an error means that the thread has ended
        self.thread.unpark();
        sent
    }
}

impl Seat {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Whether it is one of this audit: a reload may have brought another.
    pub(crate) fn is_of(&self, log: &AuditLog) -> bool {
        Arc::ptr_eq(&self.log.shared, &log.shared)
    }

    pub(crate) fn note(&self, entry: Box<Entry>) {
        if !self.log.send(entry.place.queue, Message::Entry(entry)) {
            self.log.dropped();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.is_known {
            self.log.send(self.queue, Message::Closed(self.id));
        }
    }
}

/// The thread's own.
struct Writer {
    settings: Settings,
    file: Option<File>,
    shared: Arc<Shared>,
    /// Since when the file cannot be written; then that has been said.
    failed_at: Option<Instant>,
    processes: HashMap<u64, Process>,
    /// What is to be written next.
    lines: Vec<u8>,
    places: Vec<Place>,
    count: u64,
}

#[derive(Default)]
struct Process {
    pid: Option<u32>,
    executable: Option<String>,
    is_cut: bool,
}

/// Whoever asks for a promise after the thread has ended, however it has, must not be given one.
struct NotAfterUs(Arc<Shared>);

impl Drop for NotAfterUs {
    fn drop(&mut self) {
        self.0.is_writable.store(false, Relaxed);
    }
}

impl Writer {
    fn run(mut self, owns: &Receiver<(u64, Message)>, others: &Receiver<(u64, Message)>, reopens: &Receiver<Reopen>) {
        let _end = NotAfterUs(self.shared.clone());
        let mut lookup = PeerLookup::new(); // now, since it takes longer than some clients live
        let (mut own, mut other) = (None, None);
        loop {
            let is_ending = self.shared.is_ending.load(Relaxed); // before looking: what is sent later is not waited for
            let mut idle = true;
            while let Ok((settings, done)) = reopens.try_recv() {
                self.settings = settings;
                self.open();
                let _ = done.send(());
            }
            // what a promise was given for is kept until it can be written, and nothing is taken up before
            if self.lines.is_empty() {
                while self.lines.len() < BATCH {
                    own = own.or_else(|| owns.try_recv().ok());
                    other = other.or_else(|| others.try_recv().ok());
                    let next = match (&own, &other) {
                        (Some((number, _)), Some((others, _))) if *number < *others || self.own_queue_is_long() => {
                            own.take()
                        }
                        (Some(_), None) => own.take(),
                        (_, Some(_)) => other.take(),
                        (None, None) => break,
                    };
                    let Some((_, message)) = next else { break };
                    idle = false;
                    self.take(message, &mut lookup);
                }
                self.count_strangers(is_ending);
            }
            let waits = self.file.is_none()
                && self.failed_at.is_some_and(|at| at.elapsed() < RETRY)
                && self.settings.is_required
                && !is_ending;
            if !waits {
                self.write();
            }
            if is_ending && (idle || !self.lines.is_empty()) {
                self.shared.stats.audit.dropped.add(self.count);
                return;
            }
            if idle || !self.lines.is_empty() {
                thread::park_timeout(self.next_look());
                if self.failed_at.is_some_and(|at| at.elapsed() >= RETRY) && self.lines.is_empty() {
                    self.open();
                }
            }
        }
    }

    /// Whether the owner's entries have waited for so long that they go first: looking for others' processes takes its
    /// time.
    fn own_queue_is_long(&self) -> bool {
        self.shared.own.load(Relaxed) > OWN_SHARE / 8
    }

    /// How long nothing is to be done, unless somebody sends.
    fn next_look(&self) -> Duration {
        // as long as their lines cannot be written, there is nothing to do for them
        let since = self.shared.strangers().since.filter(|_| self.lines.is_empty() && !self.has_only_promises());
        let strangers = since.map(|(_, at)| STRANGERS_EVERY.saturating_sub(at.elapsed()));
        let retry = self.failed_at.map(|_| RETRY);
        [strangers, retry].into_iter().flatten().min().unwrap_or(Duration::from_secs(3600))
    }

    fn take(&mut self, message: Message, lookup: &mut PeerLookup) {
        match message {
            Message::Opened(seat, ends, _) => drop(self.processes.insert(seat, process(lookup, ends))),
            Message::Closed(seat) => drop(self.processes.remove(&seat)),
            // the reserve is for what was forwarded
            Message::Entry(entry) if self.has_only_promises() && !entry.place.is_promised => {
                self.shared.stats.audit.dropped.add(1);
            }
            Message::Entry(entry) => {
                let process = self.processes.get(&entry.seat);
                write_entry(&mut self.lines, &entry, process);
                self.places.push(entry.place);
                self.count += 1;
            }
        }
    }

    /// Whether nothing is to be written but what was promised.
    fn has_only_promises(&self) -> bool {
        self.settings.is_required && self.failed_at.is_some()
    }

    fn count_strangers(&mut self, is_ending: bool) {
        if self.has_only_promises() {
            return;
        }
        let mut strangers = self.shared.strangers();
        let due = strangers.since.filter(|(_, since)| is_ending || since.elapsed() >= STRANGERS_EVERY);
        let Some((at, since)) = due else { return };
        let Strangers { requests, .. } = mem::take(&mut *strangers);
        drop(strangers);
        for (uid, requests) in requests {
            let line = Line {
                time: spell_time(at),
                peer: Peer { uid, pid: None, executable: None },
                key: None,
                route: None,
                method: None,
                path: None,
                status: Some(403),
                bytes_in: 0,
                bytes_out: 0,
                ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
                renewal: None,
                message: None,
                verdict: "strangers",
                exchange: None,
                requests: Some(requests),
                cut: &[],
            };
            write_line(&mut self.lines, &line);
            self.count += 1;
        }
    }

    fn write(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let written = self.try_to_write();
        if let Err(error) = &written {
            self.complain(error);
            self.file = None;
            // what was promised is kept, to be tried again
            if self.settings.is_required {
                return;
            }
        }
        let counter = &self.shared.stats.audit;
        if written.is_ok() { &counter.written } else { &counter.dropped }.add(self.count);
        self.lines.clear();
        self.places.clear();
        self.count = 0;
    }

    fn try_to_write(&mut self) -> io::Result<()> {
        if !self.is_still_there() {
            self.open();
        }
        let mut length = self.length()?; // anew, since logrotate's copytruncate makes it shorter
        if length > 0 && length + self.lines.len() as u64 > self.settings.size {
            rotate(&self.settings)?;
            self.open();
            length = self.length()?;
        }
        let file = self.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
        let reserve = has_reserve(file);
        if let Err(error) = &reserve
            && !self.settings.is_required
        {
            return Err(io::Error::other(error.to_string()));
        }
        // what was promised may take from the reserve, and there are no more promises
        let written = file.write_all(&self.lines);
        if written.is_err() {
            let _ = file.set_len(length); // half a line would spoil the next one
        }
        written?;
        match reserve {
            Ok(()) => self.recovered(),
            Err(error) => self.complain(&error),
        }
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        let file = self.file.as_ref().ok_or_else(|| io::Error::other("it cannot be opened"))?;
        file.metadata().map(|found| found.len())
    }

    /// Whether the open file still has the name.
    fn is_still_there(&self) -> bool {
        let identity = |found: std::fs::Metadata| (found.dev(), found.ino());
        let open = self.file.as_ref().and_then(|file| file.metadata().ok()).map(identity);
        open.is_some() && open == std::fs::symlink_metadata(&self.settings.path).ok().map(identity)
    }

    fn open(&mut self) {
        self.file = None;
        let ready = open(&self.settings.path).and_then(|file| has_reserve(self.file.insert(file)));
        match ready {
            Ok(()) => self.recovered(),
            Err(error) => self.complain(&error),
        }
    }

    fn recovered(&mut self) {
        self.shared.is_writable.store(true, Relaxed);
        if self.failed_at.take().is_some() {
            self.shared.stats.audit.set_trouble(None);
            info!(path = %self.settings.path.display(), "the audit is written again");
        }
    }

    fn complain(&mut self, error: &io::Error) {
        self.shared.is_writable.store(false, Relaxed);
        let is_news = self.failed_at.replace(clock::instant()).is_none();
        self.shared.stats.audit.set_trouble(Some(error.to_string()));
        if is_news {
            let path = self.settings.path.display();
            match self.settings.is_required {
                true => error!(%path, %error, "the audit cannot be written; requests are refused until it can"),
                false => error!(%path, %error, "the audit cannot be written; requests go on unnoted"),
            }
        }
    }
}

/// Opens a file that is ours to append to, and ends the line that a crash has cut.
#[expect(clippy::disallowed_methods, reason = "a log is appended to, made for us alone, and reached through no link")]
fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK; // a link or a named pipe is not what was meant
    let mut file = File::options().read(true).append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a plain file"));
    }
    if found.uid() != peer::own_uid() {
        return Err(io::Error::other(format!("it belongs to another user (uid {})", found.uid())));
    }
    let mut last = [b'\n'];
    if found.len() > 0 {
        file.read_exact_at(&mut last, found.len() - 1)?;
    }
    if last != [b'\n'] {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

/// Gives the file its first number, and those before it the next. From the oldest on, so that a crash in between leaves a
/// number out and no file is lost but the oldest. A link is renamed, or replaced, as a link.
#[expect(clippy::disallowed_methods, reason = "a log that is full gets another name")]
fn rotate(settings: &Settings) -> io::Result<()> {
    let numbered = |number: u64| {
        let mut name = settings.path.clone().into_os_string();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (1..settings.keep).rev() {
        match std::fs::rename(numbered(number), numbered(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot_rotate(&error)),
            Ok(()) | Err(_) => {}
        }
    }
    std::fs::rename(&settings.path, numbered(1)).map_err(|error| cannot_rotate(&error))
}

fn cannot_rotate(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("it has reached audit_size, and cannot be renamed: {error}"))
}

/// Whether the file system has more room than what the audit leaves to others.
fn has_reserve(file: &File) -> io::Result<()> {
    let found = rustix::fs::fstatvfs(file)?;
    let reserve = RESERVE.min(found.f_blocks.saturating_mul(found.f_frsize) / 20);
    if found.f_bavail.saturating_mul(found.f_frsize) > reserve {
        return Ok(());
    }
    let words = format!("less than {} kB are free on its disk, which are left for credentials", reserve / 1000);
    Err(io::Error::new(io::ErrorKind::StorageFull, words))
}

fn process(lookup: &mut PeerLookup, ends: Ends) -> Process {
    let pid = match ends {
        Ends::Unix(pid) => pid,
        Ends::Tcp(client, server) => lookup.tcp_owner(client, server).and_then(peer::process_with_socket),
    };
    let mut executable = pid.and_then(peer::executable);
    let is_cut = executable.as_mut().is_some_and(|executable| cut(executable, LONGEST_EXECUTABLE));
    Process { pid, executable, is_cut }
}

/// Cuts a text down to so many bytes. Whether something was cut off.
pub(crate) fn cut(text: &mut String, most: usize) -> bool {
    if text.len() <= most {
        return false;
    }
    let boundary = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.truncate(boundary);
    true
}

fn spell_time(at: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn write_entry(lines: &mut Vec<u8>, entry: &Entry, process: Option<&Process>) {
    let executable_is_cut = process.is_some_and(|process| process.is_cut);
    let cut = [&*entry.cut, if executable_is_cut { &["executable"] } else { &[] }].concat();
    let line = Line {
        time: spell_time(entry.at),
        peer: Peer {
            uid: entry.uid,
            pid: process.and_then(|process| process.pid),
            executable: process.and_then(|process| process.executable.as_deref()),
        },
        key: entry.key.as_ref().map(KeyName::as_str),
        route: entry.route.as_ref().map(RouteName::as_str),
        method: Some(&entry.method),
        path: Some(&entry.path),
        status: entry.status,
        bytes_in: entry.bytes_in,
        bytes_out: entry.bytes_out,
        ms: u64::try_from(entry.took.as_millis()).unwrap_or(u64::MAX),
        renewal: entry.renewal,
        message: entry.message.as_deref(),
        verdict: entry.verdict,
        exchange: entry.exchange,
        requests: None,
        cut: &cut,
    };
    write_line(lines, &line);
}

fn write_line(lines: &mut Vec<u8>, line: &Line<'_>) {
    let before = lines.len();
    match line.serialize(&mut serde_json::Serializer::with_formatter(&mut *lines, Plain)) {
        Ok(()) => lines.push(b'\n'),
        Err(error) => {
            lines.truncate(before);
            warn!(%error, "an audit line could not be made");
        }
    }
}

/// JSON in which no character does anything to a terminal or to the order of others: beyond printable ASCII, letters and
/// digits are written as they are, and everything else (controls, marks of direction, what cannot be seen) as `\uXXXX`.
struct Plain;

impl serde_json::ser::Formatter for Plain {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, letter)) = rest.char_indices().find(|(_, letter)| !is_plain(*letter)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            for unit in letter.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + letter.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

fn is_plain(letter: char) -> bool {
    // letters to Unicode, and nothing to the eye
    const FILLERS: [char; 6] = ['\u{115f}', '\u{1160}', '\u{17b4}', '\u{17b5}', '\u{3164}', '\u{ffa0}'];
    match letter {
        ' '..='~' => true,
        _ => letter.is_alphanumeric() && !FILLERS.contains(&letter),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn settings(path: &Path) -> Settings {
        Settings { path: path.to_owned(), size: 1 << 20, keep: 2, is_required: false }
    }

    fn entry(log: &AuditLog, seat: u64, path: &str) -> Box<Entry> {
        Box::new(Entry {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_123),
            seat,
            uid: Some(1000),
            key: KeyName::new("agent"),
            route: RouteName::new("gbdx"),
            method: "GET".into(),
            path: path.into(),
            status: Some(200),
            bytes_in: 0,
            bytes_out: 17,
            took: Duration::from_micros(1500),
            renewal: Some(7),
            message: None,
            verdict: "forwarded",
            exchange: None,
            cut: Vec::new(),
            place: log.place(Queue::Own).unwrap(),
        })
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until so many lines have been written.
    fn until_written(audit: &Audit, count: u64) {
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while audit.log.shared.stats.audit.written.get() < count {
            assert!(std::time::Instant::now() < end, "{:?}", audit.log.shared.stats);
            thread::yield_now();
        }
    }

    #[test]
    fn a_line_has_these_members_and_cannot_be_broken_by_what_a_client_sends() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::start(settings(&folder.path().join("a")), Arc::default()).unwrap();
        let mut bytes = Vec::new();
        let process = Process { pid: Some(4711), executable: Some("/usr/bin/curl".into()), is_cut: false };
        write_entry(&mut bytes, &entry(&audit.log, 0, "/a\nb\"\u{1b}"), Some(&process));
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
    fn strangers_whose_lines_cannot_be_written_keep_nobody_awake() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { is_required: true, ..settings(&folder.path().join("none/a")) };
        let audit = Audit::start(settings.clone(), Arc::default()).unwrap();
        let writer = |lines: &[u8]| Writer {
            settings: settings.clone(),
            file: None,
            shared: audit.log.shared.clone(),
            failed_at: Some(Instant::now()),
            processes: HashMap::new(),
            lines: lines.to_vec(),
            places: Vec::new(),
            count: 0,
        };
        let overdue = Instant::now().checked_sub(STRANGERS_EVERY).expect("the machine runs for a minute");
        audit.log.shared.strangers().since = Some((wall(), overdue));
        for lines in [&b""[..], b"one that was promised\n"] {
            assert_eq!(writer(lines).next_look(), RETRY);
        }
        let recovered = Writer { failed_at: None, ..writer(b"") };
        assert_eq!(recovered.next_look(), Duration::ZERO);
    }

    #[test]
    fn nothing_that_is_written_moves_a_cursor_hides_or_turns_text_around() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::start(settings(&folder.path().join("a")), Arc::default()).unwrap();
        let ranges = [
            0..=0x1f,
            0x7f..=0xa0,
            0xad..=0xad,
            0x61c..=0x61c,
            0x115f..=0x1160,
            0x180b..=0x180f,
            0x2000..=0x206f,
            0x3164..=0x3164,
            0xfe00..=0xfe0f,
            0xfeff..=0xfeff,
            0xfff0..=0xffff,
            0x1d173..=0x1d17a,
            0xe0000..=0xe0fff,
            0x10_fffd..=0x10_ffff,
        ];
        for letter in ranges.into_iter().flatten().filter_map(char::from_u32) {
            let path = format!("/a{letter}b");
            let process = Process { pid: None, executable: Some(path.clone()), is_cut: false };
            let mut bytes = Vec::new();
            write_entry(&mut bytes, &entry(&audit.log, 0, &path), Some(&process));
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.trim_end().chars().all(|found| matches!(found, ' '..='~')), "{letter:?}: {text}");
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&value["path"], &value["peer"]["executable"]), (&json!(path), &json!(path)), "{letter:?}");
        }
        let mut bytes = Vec::new();
        write_entry(&mut bytes, &entry(&audit.log, 0, "/Größe/地図/٣"), None);
        assert!(String::from_utf8(bytes).unwrap().contains("/Größe/地図/٣"), "letters stay readable");
    }

    #[test]
    fn the_longest_line_is_short_beside_the_least_file() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::start(settings(&folder.path().join("a")), Arc::default()).unwrap();
        let mut worst = "\u{7f}".repeat(4000);
        assert!(cut(&mut worst, LONGEST_PATH));
        let mut executable = "\u{7f}".repeat(4000);
        assert!(cut(&mut executable, LONGEST_EXECUTABLE));
        let mut entry = entry(&audit.log, 0, &worst);
        (entry.key, entry.route) = (KeyName::new(&"k".repeat(63)), RouteName::new(&"r".repeat(63)));
        entry.cut = vec!["method", "path"];
        let mut bytes = Vec::new();
        let process = Process { pid: Some(u32::MAX), executable: Some(executable), is_cut: true };
        write_entry(&mut bytes, &entry, Some(&process));
        assert!(bytes.len() + BATCH < 64_000, "{}", bytes.len());
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["cut"], json!(["method", "path", "executable"]));
        let mut text = format!("x{}", "ä".repeat(700)); // the limit is in the middle of a letter
        assert!(cut(&mut text, LONGEST_PATH) && text.len() == LONGEST_PATH - 1);
    }

    #[test]
    fn a_renamed_file_is_made_anew_and_a_reload_may_name_another() {
        let folder = tempfile::tempdir().unwrap();
        let [first, moved, second] =
            ["audit.jsonl", "audit.jsonl.1", "other.jsonl"].map(|name| folder.path().join(name));
        let mut audit = Audit::start(settings(&first), Arc::default()).unwrap();
        let log = audit.log();
        let seat = log.seat(Ends::Unix(Some(std::process::id())), Queue::Own);
        seat.note(entry(&log, seat.id(), "/1"));
        until_written(&audit, 1);
        std::fs::rename(&first, &moved).unwrap();
        seat.note(entry(&log, seat.id(), "/2"));
        until_written(&audit, 2);
        audit.reopen(settings(&second));
        seat.note(entry(&log, seat.id(), "/3"));
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
    fn a_full_file_is_numbered_and_so_many_are_kept_whatever_lies_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let numbered = |number: u64| folder.path().join(format!("a.{number}"));
        let path = folder.path().join("a");
        let precious = folder.path().join("precious");
        std::fs::write(&precious, "precious").unwrap();
        // a crash has left a number out, and somebody has put a link in the place of one
        std::os::unix::fs::symlink(&precious, numbered(2)).unwrap();
        let audit = Audit::start(Settings { size: 64_000, keep: 3, ..settings(&path) }, Arc::default()).unwrap();
        let log = audit.log();
        let seat = log.seat(Ends::Unix(None), Queue::Own);
        let long = "x".repeat(1000);
        for count in 1..=300 {
            seat.note(entry(&log, seat.id(), &format!("/{count}/{long}")));
            until_written(&audit, count);
        }
        drop(seat);
        drop(audit);
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
        assert!(!numbered(4).exists());
        let mut next = 300;
        for path in [path, numbered(1), numbered(2), numbered(3)] {
            assert!(path.symlink_metadata().unwrap().is_file(), "{}", path.display());
            assert!(path.metadata().unwrap().len() <= 64_000, "{}", path.display());
            for line in lines(&path).iter().rev() {
                assert!(line["path"].as_str().unwrap().starts_with(&format!("/{next}/")), "{next}: {line}");
                next -= 1;
            }
        }
        assert!(next < 150, "{next}: all that was kept is the youngest, without a gap");
    }

    #[test]
    fn links_pipes_and_the_files_of_others_are_not_written_to_and_half_a_line_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let [target, link, half] = ["target", "link", "half"].map(|name| folder.path().join(name));
        std::fs::write(&target, "").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        std::fs::write(&half, "{\"half\":").unwrap();
        open(&link).unwrap_err();
        open(folder.path()).unwrap_err();
        if std::os::unix::fs::chown(&target, Some(65533), None).is_ok() {
            assert!(open(&target).unwrap_err().to_string().contains("another user"));
        }
        open(&half).unwrap();
        open(&half).unwrap();
        assert_eq!(std::fs::read_to_string(&half).unwrap(), "{\"half\":\n");
    }

    #[test]
    fn the_owners_lines_are_not_pushed_out_by_others_nor_by_looking_for_their_processes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let stats = Arc::new(Stats::default());
        let audit = Audit::start(settings(&path), stats.clone()).unwrap();
        let log = audit.log();
        let seat = log.seat(Ends::Unix(None), Queue::Own);
        let nowhere = Ends::Tcp("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        let mut refused = 0;
        let mut seats = Vec::new();
        for count in 0..3 * OTHERS_SHARE {
            seats.push(log.seat(nowhere, Queue::Others));
            match log.place(Queue::Others) {
                None => refused += 1,
                Some(place) => seat.note(Box::new(Entry { place, ..*entry(&log, 7, "/others") })),
            }
            if count % 100 == 0 {
                seat.note(entry(&log, seat.id(), "/own"));
            }
        }
        assert!(refused > 0, "others have filled their share");
        drop((seat, seats));
        drop(audit);
        let own = 3 * OTHERS_SHARE / 100 + 1;
        assert_eq!(lines(&path).iter().filter(|line| line["path"] == "/own").count(), own);
        assert_eq!(stats.audit.dropped.get(), 0);
    }

    #[test]
    fn what_does_not_fit_is_counted_and_nobody_waits() {
        let folder = tempfile::tempdir().unwrap();
        let stats = Arc::new(Stats::default());
        let missing = folder.path().join("missing").join("audit.jsonl");
        let audit = Audit::start(settings(&missing), stats.clone()).unwrap();
        let log = audit.log();
        assert!(log.promised_place(Queue::Own).is_none(), "nothing is promised");
        let seat = log.seat(Ends::Unix(None), Queue::Own);
        for _ in 0..3 {
            seat.note(entry(&log, seat.id(), "/"));
        }
        drop(seat);
        drop(audit);
        assert_eq!((stats.audit.written.get(), stats.audit.dropped.get()), (0, 3));
        assert!(stats.audit.trouble().is_some());
        assert!(log.promised_place(Queue::Own).is_none(), "and less so when nobody writes any more");

        let places: Vec<_> = std::iter::from_fn(|| log.place(Queue::Own)).collect();
        assert_eq!(places.len(), OWN_SHARE);
        assert!(log.place(Queue::Others).is_some(), "a share of their own");
        drop(places);
        assert!(log.place(Queue::Own).is_some());
    }

    #[test]
    fn what_was_promised_is_kept_until_it_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let (path, away) = (folder.path().join("a"), folder.path().join("away"));
        let required = Settings { is_required: true, ..settings(&path) };
        let mut audit = Audit::start(required.clone(), Arc::default()).unwrap();
        let log = audit.log();
        let seat = log.seat(Ends::Unix(None), Queue::Own);
        let place = log.promised_place(Queue::Own).unwrap();
        std::fs::rename(&path, &away).unwrap();
        std::fs::create_dir(&path).unwrap(); // as good as a disk that is full
        seat.note(Box::new(Entry { place, ..*entry(&log, 0, "/promised") }));
        let end = Instant::now() + Duration::from_secs(20);
        while log.promised_place(Queue::Own).is_some() {
            assert!(Instant::now() < end, "it is still promised");
            thread::yield_now();
        }
        std::fs::remove_dir(&path).unwrap();
        audit.reopen(required);
        until_written(&audit, 1);
        assert_eq!(lines(&path)[0]["path"], "/promised");
        assert!(log.promised_place(Queue::Own).is_some());
        assert_eq!(log.shared.stats.audit.dropped.get(), 0);
    }

    #[test]
    fn strangers_are_one_line_for_each_user_and_not_more_than_so_many_users() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let audit = Audit::start(settings(&path), Arc::default()).unwrap();
        for uid in (100_000..100_000 + 2 * MOST_STRANGERS as u32).chain([100_000; 5000]) {
            audit.log.note_stranger(Some(uid));
        }
        audit.log.note_stranger(None);
        drop(audit);
        let lines = lines(&path);
        assert_eq!(lines.len(), MOST_STRANGERS + 1);
        assert!(lines.iter().all(|line| line["verdict"] == "strangers" && line["status"] == 403), "{lines:#?}");
        let of = |uid: Value| lines.iter().find(|line| line["peer"]["uid"] == uid).unwrap()["requests"].clone();
        assert_eq!((of(json!(100_000)), of(json!(100_001)), of(Value::Null)), (json!(5001), json!(1), json!(65)));
    }
}
