//! Strangers: clients that are not served without a client key, until a request of theirs has shown one.
//!
//! Whoever can reach the port can connect as often as they like, so what a stranger costs is bounded before a word is
//! read. Where there is no client key at all, nothing that a stranger says can change the response: it is ready-made, and
//! the [`LingeringClose`] gives it without a task and without hyper. Where there are keys, a stranger has one of a few places
//! (`registry.rs`) and [`PATIENCE`] to show one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONNECTION, HeaderValue};
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::audit::AuditLog;
use crate::client_keys;
use crate::proxy::downstream::first_head::FirstHead;
use crate::proxy::downstream::io::{PREFACE, spell_out};
use crate::proxy::policy::error::{Advice, Check, ProxyError};
use crate::stats::Stats;

/// For a request that shows a valid client key, from the connection's beginning on; and for reading a refusal.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked whether somebody has asked. Nobody notices so little before a refusal, and a look at all
/// that stand there costs less than one who comes.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What is read and thrown away at one look at one connection: a request's head, hardly ever more.
const READ_AT_ONCE: usize = 16 * 1024;

/// A refusal as bytes, in the two languages that a client may speak.
pub(crate) struct ReadyMade {
    check: Check,
    http1: Bytes,
    /// The length of the head in `http1`.
    head: usize,
    /// The head's fields for HTTP/2 (RFC 7541).
    block: Vec<u8>,
    body: Bytes,
}

impl ReadyMade {
    pub(crate) fn new(check: Check, advice: &Advice) -> Rc<Self> {
        let mut response = ProxyError::NotAllowed(check).into_response(advice);
        let mut block = literal(b":status", response.status().as_str().as_bytes());
        for (name, value) in response.headers().iter().filter(|(name, _)| **name != CONNECTION) {
            block.extend(literal(name.as_str().as_bytes(), value.as_bytes()));
        }
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        let body = response.body().clone();
        let http1 = spell_out(response);
        Rc::new(Self { check, head: http1.len() - body.len(), http1, block, body })
    }

    /// The response to an HTTP/1.1 request that begins like this.
    fn to(&self, request: &[u8]) -> &[u8] {
        if request.starts_with(b"HEAD ") { &self.http1[..self.head] } else { &self.http1 }
    }

    /// The response on an HTTP/2 stream, and the connection's end. That the client's window may be smaller than the body is
    /// not looked at: then it is the client that ends the connection.
    fn on(&self, stream: u32) -> Vec<u8> {
        let (headers, data) = (frame(1, 4, stream, &self.block), frame(0, 1, stream, &self.body)); // END_HEADERS, END_STREAM
        [headers, data, goaway(stream)].concat()
    }
}

/// Our settings, which a connection begins with (RFC 9113 section 3.4): those that hold without any.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// A frame (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("our own texts are short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// GOAWAY, NO_ERROR (RFC 9113 section 6.8): nothing after `last` was looked at.
fn goaway(last: u32) -> Vec<u8> {
    frame(7, 0, 0, &[last.to_be_bytes(), [0; 4]].concat())
}

/// A field that is put into no table (RFC 7541 sections 5.1, 5.2 and 6.2.2).
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        match u8::try_from(text.len()).expect("our own fields are short") {
            length @ 0..127 => bytes.push(length),
            length => bytes.extend([127, length - 127]), // less than 128 more, as it is a byte
        }
        bytes.extend_from_slice(text);
    }
    bytes
}

/// The part of a first head in which a stranger has to show a client key: more is not read for who may not come in.
const FIRST_BYTES: usize = 16 * 1024;

/// Reads of a stranger's first head until hyper is left to wait for its end; enough for [`FIRST_BYTES`] from most networks.
pub(crate) const MOST_READS: usize = 16;

/// Whether a request that begins with these bytes cannot show a client key: nothing in its head, or in the part of it that
/// counts, looks like the beginning of one, neither plain nor anywhere in Basic credentials. `None` if that cannot be told
/// yet. The first `seen` bytes have been asked about before.
pub(crate) fn shows_no_key(bytes: &[u8], seen: usize) -> Option<bool> {
    /// [`client_keys::PREFIX`] in base64: at its beginning, and what is left of it behind one byte, or two, of another
    /// group of three.
    const IN_BASE64: [&[u8]; 3] = [b"dmtf", b"ZrX", b"2a1"];
    let mut is_whole = false;
    for (at, byte) in bytes.iter().enumerate().skip(seen.saturating_sub(IN_BASE64[0].len() - 1)) {
        match byte {
            b'v' if bytes[at..].starts_with(client_keys::PREFIX.as_bytes()) => return Some(false),
            b'd' | b'Z' | b'2' if IN_BASE64.iter().any(|part| bytes[at..].starts_with(part)) => return Some(false),
            b'\r' if bytes[at..].starts_with(b"\r\n\r\n") => is_whole = true,
            _ => {}
        }
    }
    (is_whole || bytes.len() >= FIRST_BYTES).then_some(true)
}

/// Where those go who are refused whatever they say. They are given their answer when they have asked, since some
/// clients take one that comes before for an error; then they may read it and hang up. However many come, `room` of them
/// stand here, and none for longer than [`PATIENCE`].
pub(crate) struct LingeringClose {
    leaving: RefCell<VecDeque<Leaving>>,
    room: usize,
    /// Whether somebody looks after them.
    is_polling: Cell<bool>,
    stats: Arc<Stats>,
}

struct Leaving {
    socket: OwnedFd,
    uid: Option<u32>,
    /// Where it is noted that somebody was refused, if it is.
    audit: Option<AuditLog>,
    refusal: Rc<ReadyMade>,
    stage: Stage,
    until: Instant,
}

/// How far a refusal has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Silent,
    /// It speaks HTTP/2, and has been told our settings; many wait for them before they ask.
    Greeted(FirstHead),
    Told,
}

impl LingeringClose {
    pub(crate) fn new(room: usize, stats: Arc<Stats>) -> Rc<Self> {
        Rc::new(Self { leaving: RefCell::default(), room, is_polling: Cell::new(false), stats })
    }

    /// Refuses what comes on a connection; `read` is what has come already.
    pub(crate) fn turn_away(
        self: &Rc<Self>,
        socket: OwnedFd,
        uid: Option<u32>,
        audit: Option<AuditLog>,
        refusal: Rc<ReadyMade>,
        read: &[u8],
    ) {
        let now = Instant::now();
        let mut client = Leaving { socket, uid, audit, refusal, stage: Stage::Silent, until: now + PATIENCE };
        if !read.is_empty() {
            client.hear(read, &self.stats);
        }
        if client.is_gone(now, &self.stats) {
            return;
        }
        let mut leaving = self.leaving.borrow_mut();
        if leaving.len() >= self.room
            && let Some(mut first) = leaving.pop_front()
        {
            first.leave(&self.stats);
        }
        leaving.push_back(client);
        if !self.is_polling.replace(true) {
            tokio::task::spawn_local(self.clone().poll_leaving());
        }
    }

    /// Looks after those that stand here, until none does.
    async fn poll_leaving(self: Rc<Self>) {
        while self.is_polling.get() {
            sleep(POLL_INTERVAL).await;
            let now = Instant::now();
            let mut leaving = self.leaving.borrow_mut();
            leaving.retain_mut(|client| !client.is_gone(now, &self.stats));
            self.is_polling.set(!leaving.is_empty());
        }
    }
}

impl Leaving {
    /// Reads what has come, answers the first request in it, and says whether the connection can be closed.
    fn is_gone(&mut self, now: Instant, stats: &Stats) -> bool {
        let mut bytes = [0; READ_AT_ONCE];
        match rustix::net::recv(&self.socket, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((read, _)) if read > 0 => self.hear(&bytes[..read], stats),
            Ok(_) => return true,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => return true,
        }
        now >= self.until
    }

    fn hear(&mut self, bytes: &[u8], stats: &Stats) {
        if self.stage == Stage::Silent {
            let is_http2 = bytes.len() >= 3 && (bytes.starts_with(PREFACE) || PREFACE.starts_with(bytes));
            if !is_http2 {
                let refusal = self.refusal.clone();
                return self.tell(refusal.to(bytes), stats);
            }
            self.say(&SETTINGS);
            self.stage = Stage::Greeted(FirstHead::new());
        }
        if let Stage::Greeted(head) = &mut self.stage {
            head.take(bytes);
            if let Some(stream) = head.stream() {
                let answer = self.refusal.on(stream);
                self.tell(&answer, stats);
            } else if head.is_too_late() {
                self.tell(&goaway(0), stats);
            }
        }
    }

    /// Makes room for another. Who is silent may only have been slow to ask.
    fn leave(&mut self, stats: &Stats) {
        match self.stage {
            Stage::Silent => {
                let refusal = self.refusal.clone();
                self.tell(refusal.to(b""), stats);
            }
            Stage::Greeted(_) => self.say(&goaway(0)),
            Stage::Told => {}
        }
    }

    /// Says no, and that nothing will follow.
    fn tell(&mut self, answer: &[u8], stats: &Stats) {
        self.say(answer);
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write); // it may have ended
        self.stage = Stage::Told;
        stats.refused.add(1);
        if self.refusal.check == Check::Root {
            stats.refused_root.add(1);
        }
        if let Some(audit) = &self.audit {
            audit.note_stranger(self.uid);
        }
        debug!("a stranger was turned away");
    }

    /// What does not fit into a fresh socket's buffer, nobody reads.
    fn say(&self, bytes: &[u8]) {
        let _ = rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_without_anything_like_a_key_shows_none() {
        let long = [b"GET / HTTP/1.1\r\nA: ", &[b'x'; FIRST_BYTES][..]].concat();
        let rows: [(&[u8], Option<bool>); 12] = [
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Some(true)),
            (b"GET / HTTP/1.1\r\nHost: x\r\n", None),
            (b"GET /vk_ HTTP/1.1\r\n\r\n", Some(false)),
            (b"GET / HTTP/1.1\r\nX-Valetd-Key: vk_x\r\n", Some(false)),
            (b"GET / HTTP/1.1\r\nAuthorization: Basic dmtfeDo=\r\n\r\n", Some(false)),
            (b"GET / HTTP/1.1\r\nAuthorization: Basic OnZrX3g=\r\n\r\n", Some(false)), // :vk_x
            (b"GET / HTTP/1.1\r\nAuthorization: Basic YTp2a194\r\n\r\n", Some(false)), // a:vk_x
            (b"GET / HTTP/1.1\r\nAuthorization: Basic YWI6dmtfeA==\r\n\r\n", Some(false)), // ab:vk_x
            (b"GET / HTTP/1.1\r\nAuthorization: Basic bWU6cHc=\r\n\r\n", Some(true)),
            (b"", None),
            (&long, Some(true)),
            (&long[..1000], None),
        ];
        for (bytes, expected) in rows {
            assert_eq!(
                shows_no_key(bytes, 0),
                expected,
                "{} bytes: {}",
                bytes.len(),
                String::from_utf8_lossy(&bytes[..bytes.len().min(99)])
            );
            for cut in 0..bytes.len().min(99) {
                let told = shows_no_key(&bytes[..cut], 0).or_else(|| shows_no_key(bytes, cut));
                assert_eq!(told, expected, "{cut} of {}", String::from_utf8_lossy(&bytes[..bytes.len().min(99)]));
            }
        }
    }

    #[test]
    fn a_refusal_is_in_the_clients_own_language() {
        let refusal = ReadyMade::new(Check::Peer, &Advice::default());
        let text = |request: &[u8]| String::from_utf8_lossy(refusal.to(request)).into_owned();
        let whole = text(b"GET / HTTP/1.1\r\n");
        let (head, body) = whole.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 403 Forbidden\r\n") && head.contains("\r\nconnection: close"), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        assert!(body.contains("\"check\": \"peer\""), "{body}");
        assert_eq!(text(b"HEAD / HTTP/1.1\r\n"), format!("{head}\r\n\r\n"));
        assert_eq!(text(b""), whole);
        let answer = refusal.on(5);
        let (headers, rest) = answer.split_at(9 + refusal.block.len());
        assert_eq!(headers[3..9], [1, 4, 0, 0, 0, 5]);
        assert!(headers[9..].starts_with(b"\0\x07:status\x03403"), "{headers:?}");
        assert!(!String::from_utf8_lossy(headers).contains("connection"), "HTTP/2 has none");
        assert_eq!(rest[3..9], [0, 1, 0, 0, 0, 5]);
        assert!(rest[9..].starts_with(body.as_bytes()) && rest.ends_with(&[0, 0, 0, 5, 0, 0, 0, 0]), "{rest:?}");
    }
}
