//! What is counted, logged and noted of one exchange, from the request's head to the end of the response's body.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::{Method, Request, StatusCode};
use tracing::{Level, debug, enabled};

use crate::client_keys::{ClientKey, KeyInUse};
use crate::platform::clock;
use crate::proxy::connection::{self, Lost, Stream};
use crate::proxy::exchange::body::ResponseBody;
use crate::proxy::local_table::{LocalRoute, LocalTable};
use crate::proxy::note::{Note, Origin};
use crate::proxy::policy::between_events::BetweenEvents;
use crate::proxy::policy::error::{Check, ProxyError};
use crate::proxy::upstream::BodyError;
use crate::token_source::Published;

/// A response's body, and the exchange that ends when this is dropped: sent, broken off, or nobody left to send it to.
pub(crate) struct Counted {
    body: ResponseBody,
    farewell: Option<Box<Farewell>>,
    /// `None` for a refusal that began none.
    exchange: Option<Exchange>,
}

impl Counted {
    /// Ties the exchange's end to the body's.
    pub(crate) fn new(body: ResponseBody, mut exchange: Exchange) -> Self {
        let farewell = exchange.farewell.take();
        exchange.stream.says(connection::Farewell::possible_if(farewell.is_some()));
        Self { body, farewell, exchange: Some(exchange) }
    }

    /// The same exchange, of whose response the client gets the head alone.
    pub(crate) fn without_content(self) -> Self {
        Self { body: ResponseBody::Empty, farewell: None, ..self }
    }

    /// A text of our own, in response to what was no exchange.
    pub(crate) fn without_exchange(text: Bytes) -> Self {
        Self { body: ResponseBody::Full(text), farewell: None, exchange: None }
    }
}

/// How a stream of events ends that has lost its right: with an event that says why.
pub(crate) struct Farewell {
    events: BetweenEvents,
    event: Box<dyn Fn(Lost) -> Bytes>,
    is_said: bool,
}

impl Farewell {
    pub(crate) fn new(event: impl Fn(Lost) -> Bytes + 'static) -> Self {
        Self { events: BetweenEvents::new(), event: Box::new(event), is_said: false }
    }
}

impl Counted {
    /// What comes in the place of the next frame, where the right is lost and an event can be put in: the reason, then the end.
    fn farewell(&mut self) -> Option<Option<Bytes>> {
        let farewell = self.farewell.as_mut()?;
        let stream = &self.exchange.as_ref()?.stream;
        let lost = stream.lost().filter(|_| farewell.events.is_between())?;
        let is_said = std::mem::replace(&mut farewell.is_said, true);
        stream.says(connection::Farewell::Said);
        Some((!is_said).then(|| (farewell.event)(lost)))
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(instead) = self.farewell() {
            return Poll::Ready(instead.map(|event| Ok(Frame::data(event))));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Self { farewell: Some(farewell), exchange: Some(exchange), .. } = &mut *self
            && let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            farewell.events.feed(data);
            exchange.stream.says(connection::Farewell::possible_if(farewell.events.is_between()));
        }
        if let Some(exchange) = &self.exchange
            && let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            exchange.sends(data.len());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// One request and its response, counted as open from the head's last byte until the response's body is dropped.
pub(crate) struct Exchange {
    stream: Rc<Stream>,
    /// From the time on when it is known.
    route: Option<Rc<LocalRoute>>,
    pub(crate) began: Instant,
    /// For the log, and only if it is asked for.
    log: Option<Method>,
    /// For the audit, and only if there is one.
    note: Option<Note>,
    status: StatusCode,
    /// The valid key that was presented.
    key: Option<Arc<ClientKey>>,
    /// The same, once it has let the request through.
    in_use: Option<KeyInUse>,
    /// How its response ends, should its right be lost.
    farewell: Option<Box<Farewell>>,
}

impl Exchange {
    pub(crate) fn begin(stream: &Rc<Stream>, table: &LocalTable, request: &Request<Incoming>) -> Self {
        stream.activity.begin(!request.body().is_end_stream());
        let access = &table.shared.access;
        let note = access.audit.as_ref().map(|log| {
            let connection = &stream.connection;
            let origin = Origin { peer: &connection.peer, seat: &connection.seat, activity: &stream.activity };
            Note::begin(&connection.worker.notes, origin, log, &access.uids, request)
        });
        let log = enabled!(Level::DEBUG).then(|| request.method().clone());
        let began = clock::instant();
        Self {
            stream: stream.clone(),
            route: None,
            began,
            log,
            note,
            status: StatusCode::OK,
            key: None,
            in_use: None,
            farewell: None,
        }
    }

    /// The response is a stream of events, and ends with one that says why it does.
    pub(crate) fn ends_with(&mut self, farewell: Farewell) {
        self.farewell = Some(Box::new(farewell));
    }

    pub(crate) fn is_keyed(&mut self, key: &Arc<ClientKey>) {
        self.stream.connection.admit();
        if let Some(note) = &self.note {
            note.is_keyed(&key.name);
        }
        self.key = Some(key.clone());
    }

    /// The valid key that was presented.
    pub(crate) fn key(&self) -> Option<&ClientKey> {
        self.key.as_deref()
    }

    /// The key lets it through; its content is counted from here on.
    pub(crate) fn uses(&mut self, key: KeyInUse) {
        self.in_use = Some(key);
    }

    /// Whether the audit will have a line about it, as far as anybody can know.
    pub(crate) fn is_promised_a_line(&self) -> bool {
        self.note.as_ref().is_some_and(Note::is_promised)
    }

    pub(crate) fn goes_up_with(&mut self, token: &Published) {
        if let Some(note) = &self.note {
            note.goes_up(token.id.0);
        }
    }

    pub(crate) fn led_away(&self) {
        if let Some(note) = &self.note {
            note.is_led_away();
        }
    }

    /// What the message to an MCP server is.
    pub(crate) fn says(&self, what: String) {
        if let Some(note) = &self.note {
            note.says(what);
        }
    }

    /// A part of the response's body is on its way to the client.
    fn sends(&self, bytes: usize) {
        if let Some(key) = &self.in_use {
            key.carries(bytes as u64);
        }
        if let Some(note) = &self.note {
            note.sends(bytes);
        }
    }

    /// The response is a switch to another protocol; what the audit will be told goes with the bytes.
    pub(crate) fn becomes_tunnel(&mut self, status: StatusCode) -> (Option<Note>, Option<KeyInUse>) {
        (self.note.take().inspect(|note| note.becomes_tunnel(status)), self.in_use.take())
    }

    pub(crate) fn reached(&mut self, local: &Rc<LocalRoute>) {
        let route = &local.entry;
        self.stream.activity.limit(route.config.idle_timeout);
        route.stats.requests.add(1);
        route.stats.open.add(1);
        if let Some(note) = &self.note {
            note.reached(&route.config.name);
        }
        self.route = Some(local.clone());
    }

    pub(crate) fn failed(&mut self, error: &ProxyError) {
        if let Some(note) = &self.note {
            note.failed(error.word());
        }
        if *error == ProxyError::NotAllowed(Check::Root) {
            self.stream.connection.worker.stats.refused_root.add(1);
        }
        match &self.route {
            Some(local) if !error.is_refusal() => local.entry.stats.errors.add(1),
            _ => self.stream.connection.worker.stats.refused.add(1),
        }
        self.stream.activity.refused();
        debug!(?error, "a request was not carried out");
    }

    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.status = status;
        if let Some(note) = &self.note {
            note.answered(status);
        }
        self.stream.activity.answer();
        if let Some(local) = &self.route {
            local.entry.stats.answered(status.as_u16(), self.began.elapsed());
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(key) = &self.in_use {
            key.carries(self.stream.activity.bytes_received());
        }
        self.stream.activity.end();
        self.stream.is_independent();
        if let Some(note) = self.note.take() {
            note.answered(self.status);
        }
        let route = self.route.as_ref().map(|local| &local.entry);
        if let Some(route) = route {
            route.stats.open.subtract(1);
        }
        if let Some(method) = &self.log {
            let name = route.map_or("-", |route| route.config.name.as_str());
            let millis = self.began.elapsed().as_millis();
            debug!(route = name, %method, status = self.status.as_u16(), ms = millis, "request");
        }
    }
}
