//! The body of an answer on its way to the client: our own text, or what comes from the upstream, frame by frame.
//!
//! Nothing is kept and nothing is asked for before the client has taken the frame before: hyper pulls, so a slow reader
//! slows the upstream down. A body that breaks off upstream breaks off here, never looking whole.

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::HeaderName;

use crate::proxy::exchange::service::Exchange;
use crate::proxy::policy::headers;
use crate::proxy::upstream::{BodyError, UpstreamBody};

/// What hyper sends to the client.
pub(crate) struct AnswerBody {
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
    body: UpstreamBody,
    token_name: HeaderName,
    scrubber: Option<Box<Scrubber>>,
    /// What the upstream has broken off with, until what came before is on its way.
    broken: Option<BodyError>,
}

/// Blots out every occurrence of a token, byte for byte, so that lengths and ranges stay true. Holds back only what may
/// be the beginning of one.
struct Scrubber {
    token: Box<[u8]>,
    held: Vec<u8>,
    /// What comes after the data that is held.
    then: Option<Frame<Bytes>>,
}

impl AnswerBody {
    /// Nothing at all.
    pub(crate) fn empty() -> Self {
        Self { content: Content::Empty, exchange: None }
    }

    /// A text of our own.
    pub(crate) fn full(text: Bytes) -> Self {
        Self { content: Content::Full(text), exchange: None }
    }

    /// What the upstream sends. Trailers lose their credentials and the field `token_name`; the data lose `scrub`.
    pub(crate) fn upstream(body: UpstreamBody, token_name: HeaderName, scrub: Option<&[u8]>) -> Self {
        if body.is_end_stream() {
            body.release();
            return Self::empty();
        }
        let scrubber = scrub.map(|token| Box::new(Scrubber::of(token)));
        Self { content: Content::Upstream(Upstream { body, token_name, scrubber, broken: None }), exchange: None }
    }

    /// Ties the exchange's end to this body's.
    pub(crate) fn of(mut self, exchange: Exchange) -> Self {
        self.exchange = Some(exchange);
        self
    }

    /// The text, if it is our own.
    pub(crate) fn text(&self) -> &[u8] {
        match &self.content {
            Content::Full(text) => text,
            Content::Empty | Content::Upstream(_) => &[],
        }
    }
}

impl Upstream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let mut frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &mut frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::clean_trailers(trailers, &self.token_name);
                }
            }
            Some(Err(_)) => {
                // hyper drops what it has not sent yet when it hears of an error; so it hears of it in its next turn
                self.broken = frame.and_then(Result::err);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            None => {}
        }
        Poll::Ready(frame)
    }

    fn poll_scrubbed(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if let Some(then) = self.scrubber.as_mut().and_then(|scrubber| scrubber.then.take()) {
                return Poll::Ready(Some(Ok(then)));
            }
            let frame = ready!(self.poll_frame(cx)?);
            let Some(scrubber) = &mut self.scrubber else { return Poll::Ready(frame.map(Ok)) };
            match frame.map(Frame::into_data) {
                Some(Ok(data)) => {
                    let clean = scrubber.scrub(&data);
                    if !clean.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(clean))));
                    }
                }
                // the end: what is held was no token
                other => {
                    let held = mem::take(&mut scrubber.held);
                    let then = other.and_then(Result::err);
                    if held.is_empty() {
                        return Poll::Ready(then.map(Ok));
                    }
                    scrubber.then = then;
                    return Poll::Ready(Some(Ok(Frame::data(held.into()))));
                }
            }
        }
    }
}

impl Scrubber {
    fn of(token: &[u8]) -> Self {
        Self { token: token.into(), held: Vec::new(), then: None }
    }

    fn is_done(&self) -> bool {
        self.held.is_empty() && self.then.is_none()
    }

    /// What can be handed on after `data` has come.
    fn scrub(&mut self, data: &[u8]) -> Bytes {
        let mut bytes = mem::take(&mut self.held);
        bytes.extend_from_slice(data);
        let mut at = 0;
        while at + self.token.len() <= bytes.len() {
            if bytes[at..].starts_with(&self.token) {
                bytes[at..at + self.token.len()].fill(b'*');
                at += self.token.len();
            } else {
                at += 1;
            }
        }
        let tail = (at..bytes.len()).find(|from| self.token.starts_with(&bytes[*from..])).unwrap_or(bytes.len());
        self.held = bytes.split_off(tail);
        bytes.into()
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
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
        let frame =
            ready!(if upstream.scrubber.is_some() { upstream.poll_scrubbed(cx) } else { upstream.poll_frame(cx) });
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            sends(data);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Full(text) => text.is_empty(),
            Content::Upstream(upstream) => {
                upstream.body.is_end_stream()
                    && upstream.broken.is_none()
                    && upstream.scrubber.as_ref().is_none_or(|scrubber| scrubber.is_done())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Full(text) => SizeHint::with_exact(text.len() as u64),
            Content::Upstream(upstream) => upstream.body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_blotted_out_wherever_it_is_cut() {
        let text = b"a toto token tokentoken toke tok";
        for cut in 0..=text.len() {
            for other in cut..=text.len() {
                let mut scrubber = Scrubber::of(b"token");
                let mut clean = Vec::new();
                for part in [&text[..cut], &text[cut..other], &text[other..]] {
                    clean.extend_from_slice(&scrubber.scrub(part));
                    assert!(scrubber.held.len() < 5);
                }
                clean.extend_from_slice(&scrubber.held);
                assert_eq!(String::from_utf8_lossy(&clean), "a toto ***** ********** toke tok", "{cut} {other}");
            }
        }
    }
}
