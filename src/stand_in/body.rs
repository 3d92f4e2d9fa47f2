//! Responses and their bodies, and how requests' bodies are read.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use hyper::body::{Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde_json::Value;
use tokio::time::Sleep;

/// What the token service answers, and what the log says of it.
pub(super) struct TokenReply {
    pub(super) grant: String,
    pub(super) outcome: String,
    pub(super) reply: Reply,
}

impl TokenReply {
    pub(super) fn new(grant: Option<&str>, outcome: &str, reply: Reply) -> Self {
        Self { grant: grant.unwrap_or_default().to_owned(), outcome: outcome.to_owned(), reply }
    }
}

pub(super) type Reply = Response<Body>;

pub(super) fn json_reply(status: u16, body: &Value) -> Reply {
    json_text_reply(status, &body.to_string())
}

pub(super) fn json_text_reply(status: u16, body: &str) -> Reply {
    text_reply(status, "application/json", body)
}

pub(super) fn text_reply(status: u16, kind: &'static str, body: &str) -> Reply {
    let mut reply = with_type(Response::new(Body::whole(body.to_owned())), kind);
    *reply.status_mut() = status.try_into().expect("whoever scripts a status gives one of three digits");
    reply
}

pub(super) fn with_type(mut reply: Reply, kind: &'static str) -> Reply {
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

pub(super) fn form(body: &[u8]) -> Vec<(String, String)> {
    form_urlencoded::parse(body).into_owned().collect()
}

pub(super) fn text_value<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
}

pub(super) fn member<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.get(name)?.as_str()
}

/// A body made piece by piece, with a pause before each piece but the first.
pub(super) struct Body {
    next: Box<dyn FnMut() -> Option<Bytes> + Send>,
    /// Told in `Content-Length`; otherwise the body is chunked.
    length: Option<u64>,
    pace: Duration,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Body {
    pub(super) fn whole(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let length = Some(body.len() as u64);
        let mut body = Some(body).filter(|body| !body.is_empty());
        Self { length, ..Self::pieces(move || body.take()) }
    }

    pub(super) fn pieces(next: impl FnMut() -> Option<Bytes> + Send + 'static) -> Self {
        Self { next: Box::new(next), length: None, pace: Duration::ZERO, pause: None }
    }

    pub(super) fn paced(self, pace: Duration) -> Self {
        Self { pace, ..self }
    }

    /// The same with other bytes. For bodies that end.
    pub(super) fn altered(mut self, alter: impl FnOnce(&[u8]) -> Vec<u8>) -> Self {
        let pieces: Vec<Bytes> = std::iter::from_fn(|| (self.next)()).collect();
        Self::whole(alter(&pieces.concat()))
    }

    pub(super) fn dripping(mut self, pace: Duration) -> Self {
        let mut whole = Bytes::new();
        let next = move || {
            if whole.is_empty() {
                whole = (self.next)()?;
            }
            Some(whole.split_to(1))
        };
        Self { length: self.length, ..Self::pieces(next) }.paced(pace)
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let piece = (self.next)();
        if !self.pace.is_zero() {
            self.pause = Some(Box::pin(tokio::time::sleep(self.pace)));
        }
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.length == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map(SizeHint::with_exact).unwrap_or_default()
    }
}
