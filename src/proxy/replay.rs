//! Sending a request a second time: the bounded copy of its body, and what else is needed.
//!
//! The copy is taken of frames that are on their way anyway, so it delays nothing and holds, for most frames, a share
//! of hyper's buffer rather than bytes of its own. A second sending takes the source back from the first: it begins with
//! the copy and goes on with what the client has not sent yet, so a 401 that comes before the body's end is no obstacle.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Uri, Version};

use crate::config::Replay;
use crate::proxy::authorization::Authorization;
use crate::proxy::deadline::Activity;
use crate::proxy::policy::{client_key, headers};

/// Frames below this size are copied into one buffer: a share of hyper's would cost more than the bytes.
const SMALL: usize = 1024;

/// What all copies of all workers hold together: so many uploads at the usual limit. A copy that is larger by its route's
/// `replay_limit` alone is as large as that. Who finds no room goes without a copy, and gets a 401 as it is.
const ALL_COPIES: usize = 64 << 20;

/// Bytes that copies hold.
#[derive(Default)]
struct Budget(AtomicUsize);

static BUDGET: Budget = Budget(AtomicUsize::new(0));

/// A copy's part of the bytes that all hold, given back with it.
struct Held {
    budget: &'static Budget,
    bytes: usize,
}

impl Held {
    /// Takes more, as long as all together have no more than `most`.
    fn grow(&mut self, bytes: usize, most: usize) -> Option<()> {
        let more = |all: usize| all.checked_add(bytes).filter(|all| *all <= most);
        self.budget.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        self.bytes += bytes;
        Some(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A request's body on its way upstream. Little room for the most of them, which are empty: a request is moved often.
pub(crate) enum RequestBody {
    /// None.
    Empty,
    /// Straight through.
    Streamed(Box<Source>),
    /// Through, with a copy.
    Recorded(Rc<RefCell<Recording>>),
    /// The copy, then the rest.
    Replayed(Box<Replayed>),
    /// One of these, and others want to know when it is done with.
    Watched(Box<Watched>),
}

/// A body, and what goes with it.
pub(crate) struct Watched {
    body: RequestBody,
    held: Rc<()>,
}

/// A body that is sent a second time.
pub(crate) struct Replayed {
    /// What was copied.
    copy: VecDeque<Bytes>,
    /// What the client still sends, or sent last.
    rest: Rest,
    _held: Held,
}

/// The client's end of a body.
pub(crate) struct Source {
    incoming: Incoming,
    activity: Arc<Activity>,
    /// The request's number on its connection.
    serial: u32,
    token_name: HeaderName,
    right: Right,
}

/// Tells whether more of a body may go up: a response may have ended before it, and the right to it since.
pub(crate) type Right = Box<dyn Fn() -> bool>;

/// What comes after the copy.
pub(crate) enum Rest {
    /// More from the client.
    Source(Source),
    /// The trailers, and the end.
    Trailers(HeaderMap),
    /// The end.
    Nothing,
}

/// A body that is being sent for the first time, and its copy.
pub(crate) struct Recording {
    source: Option<Source>,
    /// `None` once there was more than `room`.
    copy: Option<BufferedBody>,
    trailers: Option<HeaderMap>,
    ended: bool,
}

struct BufferedBody {
    chunks: VecDeque<Bytes>,
    /// Small frames since the last chunk.
    tail: BytesMut,
    room: usize,
    /// What all copies may hold together.
    most: usize,
    held: Held,
}

/// Why the first sending of a body ends early: the second has taken the source.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the client's body broke off: {0}")]
    Client(#[from] hyper::Error),
    #[error("the request is being sent again")]
    TakenBack,
    #[error("the right to send it has ended")]
    Withdrawn,
}

/// What is needed to send a request again.
pub(crate) struct Kept {
    method: Method,
    target: Uri,
    version: Version,
    fields: Vec<(HeaderName, HeaderValue)>,
    body: KeptBody,
    /// Whether the route lets it be sent again after a 401.
    after_401: bool,
}

enum KeptBody {
    Empty,
    /// It was read before anything was sent.
    Whole(Bytes, #[expect(dead_code, reason = "held as long as the bytes are")] Held),
    Recorded(Rc<RefCell<Recording>>),
    Lost,
}

/// Which requests of a route may be sent again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplayPolicy {
    /// After a 401.
    pub(crate) mode: Replay,
    /// Of a body, so many bytes are kept at most.
    pub(crate) limit: usize,
}

impl ReplayPolicy {
    /// Whether a request of this method may be sent again after a 401.
    fn permits(self, method: &Method) -> bool {
        match self.mode {
            Replay::Any => true,
            Replay::Idempotent => is_idempotent(method),
            Replay::Never => false,
        }
    }
}

/// Wraps a client's body and keeps what a second sending needs, if there may be one. `request` is as it goes upstream;
/// `right` is asked for of requests that have a body.
pub(crate) fn keep(
    request: Request<Incoming>,
    policy: ReplayPolicy,
    activity: &Arc<Activity>,
    token_name: &HeaderName,
    right: impl FnOnce() -> Right,
) -> (Request<RequestBody>, Option<Kept>) {
    let (parts, incoming) = request.into_parts();
    let after_401 = policy.permits(&parts.method);
    let bodyless = incoming.is_end_stream();
    let (body, kept_body) = if bodyless {
        (RequestBody::Empty, KeptBody::Empty)
    } else {
        let fits = incoming.size_hint().lower() <= policy.limit as u64;
        let (activity, serial, right) = (activity.clone(), activity.serial(), right());
        let source = Source { incoming, activity: activity.clone(), serial, token_name: token_name.clone(), right };
        activity.uploads();
        if after_401 && fits {
            let copy = Some(BufferedBody::new(policy.limit, &BUDGET));
            let recording = Recording { source: Some(source), copy, trailers: None, ended: false };
            let recording = Rc::new(RefCell::new(recording));
            (RequestBody::Recorded(recording.clone()), KeptBody::Recorded(recording))
        } else {
            (RequestBody::Streamed(Box::new(source)), KeptBody::Lost)
        }
    };
    let wanted = after_401 || (bodyless && is_idempotent(&parts.method));
    let kept = wanted.then(|| kept_with(&parts, token_name, kept_body, after_401));
    (Request::from_parts(parts, body), kept)
}

fn kept_with(parts: &Parts, token_name: &HeaderName, body: KeptBody, after_401: bool) -> Kept {
    // a list, as a clone of the map would hash and allocate twice; without the token, which the second sending has of its own
    let fields = parts.headers.iter().filter(|(name, _)| *name != token_name);
    Kept {
        method: parts.method.clone(),
        target: parts.uri.clone(),
        version: parts.version,
        fields: fields.map(|(name, value)| (name.clone(), value.clone())).collect(),
        body,
        after_401,
    }
}

/// A request whose body has been read.
pub(crate) struct Whole {
    parts: Parts,
    bytes: Bytes,
    held: Held,
    token_name: HeaderName,
}

/// Why a body could not be read whole.
#[derive(Debug)]
pub(crate) enum Unread {
    /// It has more bytes than may be kept, or all copies together have.
    TooLarge,
    /// It broke off.
    Broken,
}

impl Whole {
    /// Reads a client's body to its end, if that can be kept.
    pub(crate) async fn read(
        request: Request<Incoming>,
        limit: usize,
        activity: &Arc<Activity>,
        token_name: &HeaderName,
        right: Right,
    ) -> Result<Self, Unread> {
        let (parts, incoming) = request.into_parts();
        let mut held = Held { budget: &BUDGET, bytes: 0 };
        if incoming.is_end_stream() {
            return Ok(Self { parts, bytes: Bytes::new(), held, token_name: token_name.clone() });
        }
        let (serial, its) = (activity.serial(), token_name.clone());
        let mut source = Source { incoming, activity: activity.clone(), serial, token_name: its, right };
        activity.uploads();
        let mut bytes = BytesMut::new();
        while let Some(frame) = poll_fn(|cx| source.poll_frame(cx)).await {
            let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
            let is_room = bytes.len() + data.len() <= limit && held.grow(data.len(), ALL_COPIES.max(limit)).is_some();
            if !is_room {
                return Err(Unread::TooLarge);
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Self { parts, bytes: bytes.freeze(), held, token_name: token_name.clone() })
    }

    /// What was read.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same as [`keep`] has it.
    pub(crate) fn keep(self, policy: ReplayPolicy) -> (Request<RequestBody>, Option<Kept>) {
        let Self { parts, bytes, held, token_name } = self;
        let after_401 = policy.permits(&parts.method);
        let kept = after_401.then(|| kept_with(&parts, &token_name, KeptBody::Whole(bytes.clone(), held), true));
        (Request::from_parts(parts, whole(&bytes)), kept)
    }
}

fn whole(bytes: &Bytes) -> RequestBody {
    let held = Held { budget: &BUDGET, bytes: 0 };
    RequestBody::Replayed(Box::new(Replayed { copy: [bytes.clone()].into(), rest: Rest::Nothing, _held: held }))
}

/// RFC 9110 section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

impl Kept {
    /// Whether it may be sent again on a new connection, after the upstream closed the old one before a whole head:
    /// an idempotent request without body.
    pub(crate) fn survives_lost_connection(&self) -> bool {
        matches!(self.body, KeptBody::Empty) && is_idempotent(&self.method)
    }

    /// Whether it may be sent again after a 401, and can be: as long as the copy is whole.
    pub(crate) fn survives_401(&self) -> bool {
        self.after_401
            && match &self.body {
                KeptBody::Empty => true,
                KeptBody::Whole(..) => true,
                KeptBody::Recorded(recording) => recording.borrow().copy.is_some(),
                KeptBody::Lost => false,
            }
    }

    /// The body, if all of it has come, is still there and is no longer than this.
    pub(crate) fn body(&self, most: usize) -> Option<Vec<u8>> {
        match &self.body {
            KeptBody::Whole(bytes, _) => (bytes.len() <= most).then(|| bytes.to_vec()),
            KeptBody::Recorded(recording) => recording.borrow().body(most),
            KeptBody::Empty | KeptBody::Lost => None,
        }
    }

    /// The request once more, with this authorization. The first sending, should it still be under way, breaks off. `None` if the body is not to be had any more.
    pub(crate) fn again(&self, authorization: &Authorization<'_>) -> Option<Request<RequestBody>> {
        let body = match &self.body {
            KeptBody::Empty => RequestBody::Empty,
            KeptBody::Whole(bytes, _) => whole(bytes),
            KeptBody::Recorded(recording) => recording.borrow_mut().rewind()?,
            KeptBody::Lost => return None,
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone();
        *request.version_mut() = self.version;
        let headers = request.headers_mut();
        headers.reserve(self.fields.len());
        for (name, value) in &self.fields {
            headers.append(name.clone(), value.clone());
        }
        authorization.apply(&mut request);
        Some(request)
    }
}

impl Recording {
    fn body(&self, most: usize) -> Option<Vec<u8>> {
        let copy = self.copy.as_ref().filter(|_| self.ended)?;
        let pieces = || copy.chunks.iter().map(|chunk| &chunk[..]).chain([&copy.tail[..]]);
        let length: usize = pieces().map(<[u8]>::len).sum();
        (length <= most).then(|| pieces().collect::<Vec<_>>().concat())
    }

    fn rewind(&mut self) -> Option<RequestBody> {
        let copy = self.copy.take()?;
        let rest = match (self.ended, self.trailers.take(), self.source.take()) {
            (true, Some(trailers), _) => Rest::Trailers(trailers),
            (true, None, _) => Rest::Nothing,
            (false, _, Some(source)) => Rest::Source(source),
            (false, _, None) => return None,
        };
        let (copy, held) = copy.into_chunks();
        Some(RequestBody::Replayed(Box::new(Replayed { copy, rest, _held: held })))
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Some(source) = &mut self.source else {
            // not an end, which would make half a body look whole
            return Poll::Ready(Some(Err(BodyError::TakenBack)));
        };
        let frame = ready!(source.poll_frame(cx));
        match &frame {
            None => self.ended = true,
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.copy = self.copy.take().and_then(|copy| copy.with(data));
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.trailers = Some(trailers.clone());
                }
                self.ended = source.incoming.is_end_stream();
            }
            Some(Err(_)) => self.copy = None,
        }
        Poll::Ready(frame)
    }
}

impl BufferedBody {
    fn new(limit: usize, budget: &'static Budget) -> Self {
        let held = Held { budget, bytes: 0 };
        Self { chunks: VecDeque::new(), tail: BytesMut::new(), room: limit, most: ALL_COPIES.max(limit), held }
    }

    /// With one more frame, if there is room.
    fn with(mut self, data: &Bytes) -> Option<Self> {
        self.room = self.room.checked_sub(data.len())?;
        self.held.grow(data.len(), self.most)?;
        if data.len() < SMALL {
            self.tail.extend_from_slice(data);
        } else {
            self.close_tail();
            self.chunks.push_back(data.clone());
        }
        Some(self)
    }

    fn into_chunks(mut self) -> (VecDeque<Bytes>, Held) {
        self.close_tail();
        (self.chunks, self.held)
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
    }
}

impl Source {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx)?);
        if frame.is_some() && !(self.right)() {
            return Poll::Ready(Some(Err(BodyError::Withdrawn)));
        }
        if let Some(trailers) = frame.as_mut().and_then(Frame::trailers_mut) {
            headers::clean_trailers(trailers, &self.token_name);
            client_key::clean_trailers(trailers);
        }
        let data = frame.as_ref().and_then(Frame::data_ref);
        self.activity.received(self.serial, data.map_or(0, Bytes::len));
        if frame.is_none() || self.incoming.is_end_stream() {
            self.activity.uploaded(self.serial, data);
        }
        Poll::Ready(frame.map(Ok))
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.activity.abandoned(self.serial);
    }
}

impl RequestBody {
    /// What is there for as long as this body is.
    pub(crate) fn watch(&mut self) -> Weak<()> {
        if let RequestBody::Watched(watched) = self {
            return Rc::downgrade(&watched.held); // it comes back from a connection that was closed
        }
        let watched = Watched { body: mem::replace(self, RequestBody::Empty), held: Rc::default() };
        let held = Rc::downgrade(&watched.held);
        *self = RequestBody::Watched(Box::new(watched));
        held
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Streamed(source) => source.poll_frame(cx),
            RequestBody::Recorded(recording) => recording.borrow_mut().poll_frame(cx),
            RequestBody::Watched(watched) => Pin::new(&mut watched.body).poll_frame(cx),
            RequestBody::Replayed(replayed) => {
                let Replayed { copy, rest, _held } = &mut **replayed;
                if let Some(chunk) = copy.pop_front() {
                    return Poll::Ready(Some(Ok(Frame::data(chunk))));
                }
                match rest {
                    Rest::Source(source) => source.poll_frame(cx),
                    Rest::Trailers(trailers) => {
                        let trailers = mem::take(trailers);
                        *rest = Rest::Nothing;
                        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                    }
                    Rest::Nothing => Poll::Ready(None),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Streamed(source) => source.incoming.is_end_stream(),
            RequestBody::Watched(watched) => watched.body.is_end_stream(),
            RequestBody::Recorded(recording) => {
                let recording = recording.borrow();
                recording.ended || recording.source.as_ref().is_some_and(|source| source.incoming.is_end_stream())
            }
            RequestBody::Replayed(replayed) => {
                replayed.copy.is_empty()
                    && match &replayed.rest {
                        Rest::Source(source) => source.incoming.is_end_stream(),
                        Rest::Trailers(_) => false,
                        Rest::Nothing => true,
                    }
            }
        }
    }

    /// The head says how long the body is, by `Content-Length` or `Transfer-Encoding`, which the guard has checked.
    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Streamed(source) => source.incoming.size_hint(),
            RequestBody::Watched(watched) => watched.body.size_hint(),
            RequestBody::Recorded(_) | RequestBody::Replayed(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> &'static Budget {
        Box::leak(Box::default())
    }

    #[test]
    fn all_copies_together_hold_no_more_than_there_is_room_for() {
        let (budget, frame) = (budget(), Bytes::from(vec![b'x'; 1 << 20]));
        let copy = || BufferedBody::new(1 << 20, budget).with(&frame);
        let mut copies: Vec<_> = (0..400).filter_map(|_| copy()).collect();
        assert_eq!((copies.len(), budget.0.load(Ordering::Relaxed)), (64, ALL_COPIES));
        assert!(BufferedBody::new(1, budget).with(&Bytes::from_static(b"x")).is_none(), "not a byte more");
        let (chunks, held) = copies.pop().expect("there are 64").into_chunks();
        assert!(copy().is_none(), "what is sent again is held as well");
        drop((chunks, held));
        copies.extend(copy());
        assert_eq!(copies.len(), 64);
        drop(copies);
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
        // what a route asks for by itself it gets, if nobody else has it
        let large = BufferedBody::new(2 * ALL_COPIES, budget);
        assert!((0..128).try_fold(large, |copy, _| copy.with(&frame)).is_some());
    }

    #[test]
    fn a_copy_is_whole_or_nothing() {
        let small = Bytes::from_static(b"abc");
        let large = Bytes::from(vec![b'x'; SMALL]);
        let copy = BufferedBody::new(2 * SMALL, budget());
        let copy = copy.with(&small).and_then(|copy| copy.with(&small)).and_then(|copy| copy.with(&large)).unwrap();
        let copy = copy.with(&small).unwrap();
        assert!(BufferedBody::new(2, budget()).with(&small).is_none());
        let (chunks, _held) = copy.into_chunks();
        assert_eq!(chunks.iter().map(Bytes::len).collect::<Vec<_>>(), [6, SMALL, 3]);
        assert_eq!(chunks[1].as_ptr(), large.as_ptr(), "a large frame is shared, not copied");
    }
}
