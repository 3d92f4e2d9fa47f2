//! What the audit is told of one request: gathered while it runs and handed over at its end; of one that runs long, or
//! becomes a tunnel, at a start as well.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::audit::{self, AuditLog, Entry, Place, Queue, Seat};
use crate::client_keys::KeyInUse;
use crate::config::{KeyName, RouteName};
use crate::platform::clock::wall;
use crate::platform::peer::own_uid;
use crate::proxy::deadline::Activity;
use crate::proxy::peer::{Peer, Process};
use crate::proxy::policy::{client_key, route};

/// One request's line, which is written when this is dropped.
pub(crate) struct Note {
    id: u64,
    content: Rc<RefCell<Content>>,
    running: Rc<Running>,
}

/// Of the connection that a request comes on: what a note of it needs.
pub(crate) struct Origin<'a> {
    pub(crate) peer: &'a Peer,
    /// The connection's place in the audit, once it has one.
    pub(crate) seat: &'a Rc<RefCell<Option<Seat>>>,
    pub(crate) activity: &'a Arc<Activity>,
}

struct Content {
    peer: Peer,
    seat: Rc<RefCell<Option<Seat>>>,
    activity: Arc<Activity>,
    log: AuditLog,
    /// Whether the caller needs no key.
    is_client: bool,
    at: SystemTime,
    began: Instant,
    method: String,
    path: String,
    cut: Vec<&'static str>,
    key: Option<KeyName>,
    route: Option<RouteName>,
    status: Option<u16>,
    /// Where it is not what the connection has counted.
    bytes_in: Option<u64>,
    bytes_out: u64,
    renewal: Option<u64>,
    /// Method and name of a message to an MCP server.
    message: Option<String>,
    verdict: &'static str,
    /// Room for the line, where it had to be promised.
    place: Option<Place>,
    /// Its number, once there is a line about its start.
    exchange: Option<u64>,
}

/// A worker's requests that are noted and have not ended.
#[derive(Default)]
pub(crate) struct Running {
    contents: RefCell<HashMap<u64, Rc<RefCell<Content>>>>,
    last_id: Cell<u64>,
}

impl Running {
    /// Writes a line about each that has become long.
    pub(crate) fn tell_of_long(&self) {
        for content in self.contents.borrow().values() {
            let mut content = content.borrow_mut();
            if content.began.elapsed() >= audit::LONG {
                content.start();
            }
        }
    }
}

impl Note {
    /// Begins with what a head says. `uids` are the users who need no key, in order.
    pub(crate) fn begin(
        running: &Rc<Running>,
        origin: Origin<'_>,
        log: &AuditLog,
        uids: &[u32],
        request: &Request<Incoming>,
    ) -> Self {
        let path = route::canonical(client_key::without_first_key(request.uri().path()));
        let mut path = match &*path {
            [] => "/".to_owned(),
            path => String::from_utf8_lossy(path).into_owned(),
        };
        let mut method = request.method().to_string();
        client_key::redact(&mut path);
        client_key::redact(&mut method);
        let path_is_cut = audit::cut(&mut path, audit::LONGEST_PATH);
        let method_is_cut = audit::cut(&mut method, audit::LONGEST_METHOD);
        let cut = [("method", method_is_cut), ("path", path_is_cut)];
        let content = Content {
            peer: *origin.peer,
            seat: origin.seat.clone(),
            activity: origin.activity.clone(),
            log: log.clone(),
            is_client: origin.peer.is_one_of(uids),
            at: wall(),
            began: Instant::now(),
            method,
            path,
            cut: cut.into_iter().filter(|(_, is_cut)| *is_cut).map(|(member, _)| member).collect(),
            key: None,
            route: None,
            status: None,
            bytes_in: None,
            bytes_out: 0,
            renewal: None,
            message: None,
            verdict: "abandoned", // by the client, before anything was decided
            place: None,
            exchange: None,
        };
        if content.is_client {
            content.take_seat(); // at once: the process at the other end may be gone soon
        }
        let id = running.last_id.get() + 1;
        running.last_id.set(id);
        let content = Rc::new(RefCell::new(content));
        running.contents.borrow_mut().insert(id, content.clone());
        Self { id, content, running: running.clone() }
    }

    pub(crate) fn is_keyed(&self, key: &KeyName) {
        let mut content = self.content.borrow_mut();
        content.key = Some(key.clone());
        content.take_seat();
    }

    pub(crate) fn reached(&self, route: &RouteName) {
        self.content.borrow_mut().route = Some(route.clone());
    }

    /// Makes sure that there will be a line, as far as anybody can know; false if that cannot be promised.
    pub(crate) fn is_promised(&self) -> bool {
        let mut content = self.content.borrow_mut();
        content.place = content.log.promised_place(content.queue());
        let is_promised = content.place.is_some();
        if !is_promised {
            content.log.refused();
        }
        is_promised
    }

    pub(crate) fn goes_up(&self, renewal: u64) {
        let mut content = self.content.borrow_mut();
        (content.renewal, content.verdict) = (Some(renewal), "forwarded");
    }

    pub(crate) fn says(&self, message: String) {
        self.content.borrow_mut().message = Some(message);
    }

    pub(crate) fn is_led_away(&self) {
        self.content.borrow_mut().verdict = "redirected";
    }

    pub(crate) fn failed(&self, verdict: &'static str) {
        self.content.borrow_mut().verdict = verdict;
    }

    pub(crate) fn answered(&self, status: StatusCode) {
        self.content.borrow_mut().status = Some(status.as_u16());
    }

    /// A part of the response's body is on its way to the client.
    pub(crate) fn sends(&self, bytes: usize) {
        self.content.borrow_mut().bytes_out += bytes as u64;
    }

    /// Writes a line about the start of what has no end in sight.
    pub(crate) fn becomes_tunnel(&self, status: StatusCode) {
        let mut content = self.content.borrow_mut();
        content.status = Some(status.as_u16());
        content.bytes_in = Some(content.activity.bytes_received());
        content.start();
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        let mut content = self.content.borrow_mut();
        self.running.contents.borrow_mut().remove(&self.id);
        content.end();
    }
}

impl Content {
    fn take_seat(&self) {
        let mut seat = self.seat.borrow_mut();
        if !seat.as_ref().is_some_and(|seat| seat.is_of(&self.log)) {
            *seat = Some(self.log.seat(self.peer.ends(), self.queue()));
        }
    }

    fn queue(&self) -> Queue {
        match self.peer.process {
            Process::NotAsked if self.key.is_none() => Queue::Own,
            Process::Of { uid, .. } if self.key.is_none() && uid == own_uid() => Queue::Own,
            Process::NotAsked | Process::Of { .. } | Process::Unknown => Queue::Others,
        }
    }

    fn is_strangers(&self) -> bool {
        !self.is_client && self.key.is_none()
    }

    /// The line about the start, once.
    fn start(&mut self) {
        if self.exchange.is_some() || self.is_strangers() {
            return;
        }
        self.exchange = Some(self.log.next_exchange());
        let place = self.log.place(self.queue());
        self.write(place, "started");
    }

    fn end(&mut self) {
        if self.is_strangers() {
            return self.log.note_stranger(self.peer.uid());
        }
        let place = self.place.take().or_else(|| self.log.place(self.queue()));
        self.write(place, self.verdict);
    }

    fn write(&self, place: Option<Place>, verdict: &'static str) {
        let seat = self.seat.borrow();
        let (Some(place), Some(seat)) = (place, &*seat) else { return self.log.dropped() };
        seat.note(Box::new(Entry {
            at: self.at,
            seat: seat.id(),
            uid: self.peer.uid(),
            key: self.key.clone(),
            route: self.route.clone(),
            method: self.method.clone(),
            path: self.path.clone(),
            status: self.status,
            bytes_in: self.bytes_in.unwrap_or_else(|| self.activity.bytes_received()),
            bytes_out: self.bytes_out,
            took: self.began.elapsed(),
            renewal: self.renewal,
            message: self.message.clone(),
            verdict,
            exchange: self.exchange,
            cut: self.cut.clone(),
            place,
        }));
    }
}

/// A tunnel's end on the client's side, whose bytes are noted, and counted with the client's key.
pub(crate) struct Noted<T> {
    io: T,
    note: Option<Note>,
    key: Option<KeyInUse>,
}

impl<T> Noted<T> {
    pub(crate) fn new(io: T, note: Option<Note>, key: Option<KeyInUse>) -> Self {
        Self { io, note, key }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Noted<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf)?);
        let bytes = (buf.filled().len() - before) as u64;
        if let Some(key) = &self.key {
            key.carries(bytes);
        }
        if let Some(note) = &self.note {
            *note.content.borrow_mut().bytes_in.get_or_insert_default() += bytes;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Noted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf)?);
        if let Some(note) = &self.note {
            note.sends(written);
        }
        if let Some(key) = &self.key {
            key.carries(written as u64);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
