//! Sending a request a second time: the bounded copy of its body, and what else is needed.
//!
//! The copy is taken of frames that are on their way anyway, so it delays nothing and holds, for most frames, a share
//! of hyper's buffer rather than bytes of its own. A second sending takes the source back from the first: it begins with
//! the copy and goes on with what the client has not sent yet, so a 401 that comes before the body's end is no obstacle.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::mem;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri, Version};

use crate::config::Replay;
use crate::proxy::authorization::Authorization;
use crate::proxy::deadline::Activity;
use crate::proxy::policy::headers;

/// Frames below this size are copied into one buffer: a share of hyper's would cost more than the bytes.
const SMALL: usize = 1024;

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
}

/// The client's end of a body.
pub(crate) struct Source {
    incoming: Incoming,
    activity: Arc<Activity>,
    /// The request's number on its connection.
    serial: u32,
    token_name: HeaderName,
}

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
    copy: Option<Copy>,
    trailers: Option<HeaderMap>,
    ended: bool,
}

#[derive(Default)]
struct Copy {
    chunks: VecDeque<Bytes>,
    /// Small frames since the last chunk.
    tail: BytesMut,
    room: usize,
}

/// Why the first sending of a body ends early: the second has taken the source.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the client's body broke off: {0}")]
    Client(#[from] hyper::Error),
    #[error("the request is being sent again")]
    TakenBack,
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

/// Wraps a client's body and keeps what a second sending needs, if there may be one. `request` is as it goes upstream.
pub(crate) fn keep(
    request: Request<Incoming>,
    policy: ReplayPolicy,
    activity: &Arc<Activity>,
    token_name: &HeaderName,
) -> (Request<RequestBody>, Option<Kept>) {
    let (parts, incoming) = request.into_parts();
    let after_401 = match policy.mode {
        Replay::Any => true,
        Replay::Idempotent => is_idempotent(&parts.method),
        Replay::Never => false,
    };
    let bodyless = incoming.is_end_stream();
    let (body, kept_body) = if bodyless {
        (RequestBody::Empty, KeptBody::Empty)
    } else {
        let fits = incoming.size_hint().lower() <= policy.limit as u64;
        let source =
            Source { incoming, activity: activity.clone(), serial: activity.serial(), token_name: token_name.clone() };
        activity.uploads();
        if after_401 && fits {
            let copy = Some(Copy { room: policy.limit, ..Copy::default() });
            let recording = Recording { source: Some(source), copy, trailers: None, ended: false };
            let recording = Rc::new(RefCell::new(recording));
            (RequestBody::Recorded(recording.clone()), KeptBody::Recorded(recording))
        } else {
            (RequestBody::Streamed(Box::new(source)), KeptBody::Lost)
        }
    };
    let wanted = after_401 || (bodyless && is_idempotent(&parts.method));
    let kept = wanted.then(|| Kept {
        method: parts.method.clone(),
        target: parts.uri.clone(),
        version: parts.version,
        // a list, as a clone of the map would hash and allocate twice
        fields: parts.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        body: kept_body,
        after_401,
    });
    (Request::from_parts(parts, body), kept)
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
                KeptBody::Recorded(recording) => recording.borrow().copy.is_some(),
                KeptBody::Lost => false,
            }
    }

    /// The request once more, with this authorization. The first sending, should it still be under way, breaks off. `None` if the body is not to be had any more.
    pub(crate) fn again(&self, authorization: &Authorization<'_>) -> Option<Request<RequestBody>> {
        let body = match &self.body {
            KeptBody::Empty => RequestBody::Empty,
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
    fn rewind(&mut self) -> Option<RequestBody> {
        let copy = self.copy.take()?;
        let rest = match (self.ended, self.trailers.take(), self.source.take()) {
            (true, Some(trailers), _) => Rest::Trailers(trailers),
            (true, None, _) => Rest::Nothing,
            (false, _, Some(source)) => Rest::Source(source),
            (false, _, None) => return None,
        };
        Some(RequestBody::Replayed(Box::new(Replayed { copy: copy.into_chunks(), rest })))
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

impl Copy {
    /// With one more frame, if there is room.
    fn with(mut self, data: &Bytes) -> Option<Self> {
        self.room = self.room.checked_sub(data.len())?;
        if data.len() < SMALL {
            self.tail.extend_from_slice(data);
        } else {
            self.close_tail();
            self.chunks.push_back(data.clone());
        }
        Some(self)
    }

    fn into_chunks(mut self) -> VecDeque<Bytes> {
        self.close_tail();
        self.chunks
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
        if let Some(trailers) = frame.as_mut().and_then(Frame::trailers_mut) {
            headers::clean_trailers(trailers, &self.token_name);
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
                let Replayed { copy, rest } = &mut **replayed;
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

    #[test]
    fn a_copy_is_whole_or_nothing() {
        let small = Bytes::from_static(b"abc");
        let large = Bytes::from(vec![b'x'; SMALL]);
        let copy = Copy { room: 2 * SMALL, ..Copy::default() };
        let copy = copy.with(&small).and_then(|copy| copy.with(&small)).and_then(|copy| copy.with(&large)).unwrap();
        let copy = copy.with(&small).unwrap();
        assert!(Copy { room: 2, ..Copy::default() }.with(&small).is_none());
        let chunks = copy.into_chunks();
        assert_eq!(chunks.iter().map(Bytes::len).collect::<Vec<_>>(), [6, SMALL, 3]);
        assert_eq!(chunks[1].as_ptr(), large.as_ptr(), "a large frame is shared, not copied");
    }
}
