//! The body of a response on its way to the client: our own text, or what comes from the upstream, frame by frame.
//!
//! Nothing is kept and nothing is asked for before the client has taken the frame before: hyper pulls, so a slow reader
//! slows the upstream down. A body that breaks off upstream breaks off here, never looking whole.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::proxy::policy::headers::{self, Edits};
use crate::proxy::policy::redact::Confidential;
use crate::proxy::upstream::{BodyError, UpstreamBody};
use crate::spelling::{Scanner, Secrets};
use crate::token_source::Published;

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
    /// What its request carried, which trailers must not repeat.
    token: Arc<Published>,
    added: Option<Arc<Secrets>>,
    redactor: Option<Box<Redactor>>,
    /// What the upstream has broken off with, until what came before is on its way.
    broken: Option<BodyError>,
}

/// Replaces every occurrence of a secret by asterisks, byte for byte, so that lengths and ranges stay true. Holds back only
/// what may be the beginning of one.
struct Redactor {
    scanner: Scanner,
    held: Vec<u8>,
    /// How much has been handed on.
    gone: usize,
    /// What comes after the data that is held.
    then: Option<Frame<Bytes>>,
}

impl ResponseBody {
    /// What the upstream sends. Trailers lose their credentials and what repeats a secret; so do the data, if they are
    /// looked through.
    pub(crate) fn upstream(body: UpstreamBody, token: &Arc<Published>, edits: &Edits, scrub: bool) -> Self {
        if body.is_end_stream() {
            body.release();
            return Self::Empty;
        }
        let (token, added) = (token.clone(), edits.secrets.clone());
        let secrets = if scrub { Confidential::of(&token, added.as_deref()).all() } else { None };
        let redactor = secrets.map(|secrets| Box::new(Redactor::of(secrets)));
        Self::Upstream(Upstream { body, token, added, redactor, broken: None })
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
                    headers::clean_trailers(trailers, &self.token.name);
                    Confidential::of(&self.token, self.added.as_deref()).remove_from(trailers);
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
                // the end: what is held was no secret
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
    fn of(secrets: Secrets) -> Self {
        Self { scanner: Scanner::new(secrets), held: Vec::new(), gone: 0, then: None }
    }

    fn is_done(&self) -> bool {
        self.held.is_empty() && self.then.is_none()
    }

    /// What can be handed on after `data` has come.
    fn redact(&mut self, data: &[u8]) -> Bytes {
        let mut bytes = mem::take(&mut self.held);
        bytes.extend_from_slice(data);
        let mut found = Vec::new();
        self.scanner.feed(data, &mut found);
        for secret in found {
            bytes[secret.start - self.gone..secret.end - self.gone].fill(b'*');
        }
        self.held = bytes.split_off(self.scanner.undecided() - self.gone);
        self.gone += bytes.len();
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
        let text = b"a toto a token! a token!a%20token%21 a toke a tok";
        for cut in 0..=text.len() {
            for other in cut..=text.len() {
                let mut redactor = Redactor::of(Secrets::of_whole(b"a token!"));
                let mut clean = Vec::new();
                for part in [&text[..cut], &text[cut..other], &text[other..]] {
                    clean.extend_from_slice(&redactor.redact(part));
                    assert!(redactor.held.len() < 12);
                }
                clean.extend_from_slice(&redactor.held);
                assert_eq!(
                    String::from_utf8_lossy(&clean),
                    "a toto ******** ******************** a toke a tok",
                    "{cut} {other}"
                );
            }
        }
    }
}
