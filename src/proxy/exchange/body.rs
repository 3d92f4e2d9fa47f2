//! The body of a response on its way to the client: our own text, or what comes from the upstream, frame by frame.
//!
//! Nothing is kept and nothing is asked for before the client has taken the frame before: hyper pulls, so a slow reader
//! slows the upstream down. A body that breaks off upstream breaks off here, never looking whole.

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::HeaderName;

use crate::proxy::policy::headers;
use crate::proxy::upstream::{BodyError, UpstreamBody};

/// The content of a response to a client.
pub(crate) enum ResponseBody {
    /// Nothing, or nothing more.
    Empty,
    /// Our own text.
    Full(Bytes),
    /// The upstream's.
    Upstream(Upstream),
}

/// What an upstream sends, as a client may see it.
pub(crate) struct Upstream {
    body: UpstreamBody,
    token_name: HeaderName,
    redactor: Option<Box<Redactor>>,
    /// What the upstream has broken off with, until what came before is on its way.
    broken: Option<BodyError>,
}

/// Replaces every occurrence of a token by asterisks, byte for byte, so that lengths and ranges stay true. Holds back only what may
/// be the beginning of one.
struct Redactor {
    token: Box<[u8]>,
    held: Vec<u8>,
    /// What comes after the data that is held.
    then: Option<Frame<Bytes>>,
}

impl ResponseBody {
    /// What the upstream sends. Trailers lose their credentials and the field `token_name`; the data lose `redact`.
    pub(crate) fn upstream(body: UpstreamBody, token_name: HeaderName, redact: Option<&[u8]>) -> Self {
        if body.is_end_stream() {
            body.release();
            return Self::Empty;
        }
        let redactor = redact.map(|token| Box::new(Redactor::of(token)));
        Self::Upstream(Upstream { body, token_name, redactor, broken: None })
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

    fn poll_redacted(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if let Some(then) = self.redactor.as_mut().and_then(|redactor| redactor.then.take()) {
                return Poll::Ready(Some(Ok(then)));
            }
            let frame = ready!(self.poll_frame(cx)?);
            let Some(redactor) = &mut self.redactor else { return Poll::Ready(frame.map(Ok)) };
            match frame.map(Frame::into_data) {
                Some(Ok(data)) => {
                    let clean = redactor.redact(&data);
                    if !clean.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(clean))));
                    }
                }
                // the end: what is held was no token
                other => {
                    let held = mem::take(&mut redactor.held);
                    let then = other.and_then(Result::err);
                    if held.is_empty() {
                        return Poll::Ready(then.map(Ok));
                    }
                    redactor.then = then;
                    return Poll::Ready(Some(Ok(Frame::data(held.into()))));
                }
            }
        }
    }
}

impl Redactor {
    fn of(token: &[u8]) -> Self {
        Self { token: token.into(), held: Vec::new(), then: None }
    }

    fn is_done(&self) -> bool {
        self.held.is_empty() && self.then.is_none()
    }

    /// What can be handed on after `data` has come.
    fn redact(&mut self, data: &[u8]) -> Bytes {
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

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(text) => {
                let text = mem::take(text);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(text))))
            }
            Self::Upstream(upstream) if upstream.redactor.is_some() => upstream.poll_redacted(cx),
            Self::Upstream(upstream) => upstream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(text) => text.is_empty(),
            Self::Upstream(upstream) => {
                upstream.body.is_end_stream()
                    && upstream.broken.is_none()
                    && upstream.redactor.as_ref().is_none_or(|redactor| redactor.is_done())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(text) => SizeHint::with_exact(text.len() as u64),
            Self::Upstream(upstream) => upstream.body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_redacted_wherever_it_is_cut() {
        let text = b"a toto token tokentoken toke tok";
        for cut in 0..=text.len() {
            for other in cut..=text.len() {
                let mut redactor = Redactor::of(b"token");
                let mut clean = Vec::new();
                for part in [&text[..cut], &text[cut..other], &text[other..]] {
                    clean.extend_from_slice(&redactor.redact(part));
                    assert!(redactor.held.len() < 5);
                }
                clean.extend_from_slice(&redactor.held);
                assert_eq!(String::from_utf8_lossy(&clean), "a toto ***** ********** toke tok", "{cut} {other}");
            }
        }
    }
}
