//! The body of an answer on its way to the client: our own text, or what comes from the upstream, frame by frame.
//!
//! Nothing is kept and nothing is asked for before the client has taken the frame before: hyper pulls, so a slow reader
//! slows the upstream down. A body that breaks off upstream breaks off here, never looking whole.

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::HeaderName;

use super::headers;
use super::service::Exchange;
use super::upstream::Lease;

/// What hyper sends to the client.
pub(super) struct AnswerBody {
    content: Content,
    /// Ends when this is dropped: sent, broken off, or nobody left to send it to.
    exchange: Option<Exchange>,
}

enum Content {
    /// Nothing, or nothing more.
    Empty,
    /// Our own words.
    Full(Bytes),
    /// The upstream's.
    Upstream(Upstream),
}

struct Upstream {
    incoming: Incoming,
    /// The connection it comes on, given back at its end and only then.
    lease: Option<Lease>,
    token_name: HeaderName,
}

impl AnswerBody {
    /// Nothing at all.
    pub(super) fn empty() -> Self {
        Self { content: Content::Empty, exchange: None }
    }

    /// A text of our own.
    pub(super) fn full(text: Bytes) -> Self {
        Self { content: Content::Full(text), exchange: None }
    }

    /// What the upstream sends. Trailers lose their credentials and the field `token_name`.
    pub(super) fn upstream(incoming: Incoming, lease: Option<Lease>, token_name: HeaderName) -> Self {
        if incoming.is_end_stream() {
            if let Some(lease) = lease {
                lease.give_back();
            }
            return Self::empty();
        }
        Self { content: Content::Upstream(Upstream { incoming, lease, token_name }), exchange: None }
    }

    /// Ties the exchange's end to this body's.
    pub(super) fn of(mut self, exchange: Exchange) -> Self {
        self.exchange = Some(exchange);
        self
    }

    /// The text, if it is our own.
    pub(super) fn text(&self) -> &[u8] {
        match &self.content {
            Content::Full(text) => text,
            Content::Empty | Content::Upstream(_) => &[],
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let AnswerBody { content, exchange } = &mut *self;
        let mut sends = |data: &Bytes| {
            if let Some(exchange) = exchange {
                exchange.sends(data.len());
            }
        };
        let upstream = match content {
            Content::Empty => return Poll::Ready(None),
            Content::Full(text) => {
                let text = mem::take(text);
                *content = Content::Empty;
                sends(&text);
                return Poll::Ready(Some(Ok(Frame::data(text))));
            }
            Content::Upstream(upstream) => upstream,
        };
        let frame = ready!(Pin::new(&mut upstream.incoming).poll_frame(cx));
        let ended = match &frame {
            None => true,
            Some(Err(_)) => false, // the connection goes with the lease
            Some(Ok(_)) => upstream.incoming.is_end_stream(),
        };
        if ended && let Some(lease) = upstream.lease.take() {
            lease.give_back();
        }
        Poll::Ready(frame.map(|frame| {
            frame.map(|mut frame| {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::clean_trailers(trailers, &upstream.token_name);
                }
                if let Some(data) = frame.data_ref() {
                    sends(data);
                }
                frame
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Full(text) => text.is_empty(),
            Content::Upstream(upstream) => upstream.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Full(text) => SizeHint::with_exact(text.len() as u64),
            Content::Upstream(upstream) => upstream.incoming.size_hint(),
        }
    }
}
