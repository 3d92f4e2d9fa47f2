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
use tracing::{debug, warn};

use crate::mcp;
use crate::platform::clock::unix_seconds;
use crate::proxy::policy::endpoint_event::{Elsewhere, Endpoints};
use crate::proxy::policy::headers::{self, Edits};
use crate::proxy::policy::redact::Confidential;
use crate::proxy::upstream::{BodyError, UpstreamBody};
use crate::spelling::{Scanner, Secrets};
use crate::stats::RouteStats;
use crate::token_source::Published;

/// RFC 1952 section 2.3: the two magic bytes and the one method that there is.
const GZIP: [u8; 3] = [0x1f, 0x8b, 8];

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
    overheard: Option<Box<Overheard>>,
    /// Where the body may say where messages go.
    endpoints: Option<Box<Endpoints>>,
    /// What the upstream has broken off with, until what came before is on its way.
    broken: Option<BodyError>,
}

/// The beginning of a body, read along for what an MCP server says of itself.
pub(crate) struct Overheard {
    text: Vec<u8>,
    pieces: usize,
    stats: Arc<RouteStats>,
}

/// A server's instructions may be long, and stand before its name; what is longer is not read along.
const LONGEST_GREETING: usize = 64 * 1024;

/// All of the text is looked at with each piece, so of a text in crumbs only so many.
const MOST_PIECES: usize = 64;

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
    pub(crate) fn upstream(
        body: UpstreamBody,
        token: &Arc<Published>,
        edits: &Edits,
        scrub: bool,
        overheard: Option<Overheard>,
        endpoints: Option<Endpoints>,
    ) -> Self {
        if body.is_end_stream() {
            body.release();
            return Self::Empty;
        }
        let (token, added) = (token.clone(), edits.secrets.clone());
        let secrets = if scrub { Confidential::of(&token, added.as_deref()).all() } else { None };
        let redactor = secrets.map(|secrets| Box::new(Redactor::of(secrets)));
        let (overheard, endpoints) = (overheard.map(Box::new), endpoints.map(Box::new));
        Self::Upstream(Upstream { body, token, added, redactor, overheard, endpoints, broken: None })
    }
}

impl Overheard {
    pub(crate) fn of(stats: Arc<RouteStats>) -> Self {
        Self { text: Vec::new(), pieces: 0, stats }
    }
}

impl Upstream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let mut frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Err(error)) => return self.breaks_off(error, cx),
            frame => frame,
        };
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            headers::clean_trailers(trailers, &self.token.name);
            Confidential::of(&self.token, self.added.as_deref()).remove_from(trailers);
        }
        if let Some(Ok(frame)) = &mut frame
            && let Some(data) = frame.data_ref()
        {
            self.overhears(data);
            if let Some(endpoints) = &mut self.endpoints {
                match endpoints.feed(data) {
                    // what is held comes with what is next
                    Ok(here) => *frame = Frame::data(here),
                    Err(Elsewhere) => {
                        warn!("a stream is cut: {}", BodyError::LeadsElsewhere);
                        return self.breaks_off(BodyError::LeadsElsewhere, cx);
                    }
                }
            }
        }
        Poll::Ready(frame)
    }

    fn overhears(&mut self, data: &[u8]) {
        let Some(overheard) = &mut self.overheard else { return };
        overheard.text.extend_from_slice(data);
        overheard.pieces += 1;
        let greeting = mcp::greeting(&overheard.text);
        if greeting.is_none() && overheard.text.len() < LONGEST_GREETING && overheard.pieces < MOST_PIECES {
            return;
        }
        let confidential = || Confidential::of(&self.token, self.added.as_deref());
        let is_secret = |text: &String| confidential().is_in(text.as_bytes());
        if let Some(greeting) = greeting
            && ![&greeting.name, &greeting.version].into_iter().chain(&greeting.protocol_version).any(is_secret)
        {
            overheard.stats.mcp_shows(|seen| seen.greeted(greeting, unix_seconds()));
        }
        self.overheard = None;
    }

    /// hyper drops what it has not sent yet when it hears of an error; so it hears of it in its next turn.
    fn breaks_off<T>(&mut self, error: BodyError, cx: &mut Context<'_>) -> Poll<T> {
        self.broken = Some(error);
        cx.waker().wake_by_ref();
        Poll::Pending
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
                    let Some(clean) = redactor.redact(&data) else {
                        debug!("a body is cut: {}", BodyError::Compressed);
                        return self.breaks_off(BodyError::Compressed, cx);
                    };
                    if !clean.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(clean))));
                    }
                }
                other => {
                    let held = redactor.finish();
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

    /// What can be handed on after `data` has come; `None` if the text begins as gzip does, in which nothing is found.
    fn redact(&mut self, data: &[u8]) -> Option<Bytes> {
        let mut bytes = mem::take(&mut self.held);
        bytes.extend_from_slice(data);
        if self.gone == 0 && bytes.starts_with(&GZIP) {
            return None;
        }
        let mut found = Vec::new();
        self.scanner.feed(data, &mut found);
        for secret in found {
            bytes[secret.start - self.gone..secret.end - self.gone].fill(b'*');
        }
        let may_be_gzip = self.gone == 0 && GZIP.starts_with(&bytes);
        let decided = if may_be_gzip { 0 } else { self.scanner.undecided() - self.gone };
        self.held = bytes.split_off(decided);
        self.gone += bytes.len();
        Some(bytes.into())
    }

    /// What is held when nothing more comes.
    fn finish(&mut self) -> Vec<u8> {
        let mut bytes = mem::take(&mut self.held);
        let mut found = Vec::new();
        self.scanner.finish(&mut found);
        for secret in found {
            bytes[secret.start - self.gone..secret.end - self.gone].fill(b'*');
        }
        self.gone += bytes.len();
        bytes
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
            Self::Upstream(upstream) if upstream.endpoints.is_some() => SizeHint::default(),
            Self::Upstream(upstream) => upstream.body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_redacted_wherever_it_is_cut() {
        let text = b"a toto a token! a token!a%20token%21 a toke a token&#33";
        for cut in 0..=text.len() {
            for other in cut..=text.len() {
                let mut redactor = Redactor::of(Secrets::of_whole(b"a token!"));
                let mut clean = Vec::new();
                for part in [&text[..cut], &text[cut..other], &text[other..]] {
                    clean.extend_from_slice(&redactor.redact(part).expect("plain text"));
                    assert!(redactor.held.len() < 12);
                }
                clean.extend_from_slice(&redactor.finish());
                assert_eq!(
                    String::from_utf8_lossy(&clean),
                    "a toto ******** ******************** a toke ***********",
                    "{cut} {other}"
                );
            }
        }
    }

    #[test]
    fn what_begins_as_gzip_does_is_not_handed_on() {
        let rows: [(&[u8], Option<&[u8]>); 5] = [
            (b"\x1f\x8b\x08\0...", None),
            (b"\x1f\x8b\x09...", Some(b"\x1f\x8b\x09...")),
            (b"\x1f\x8b", Some(b"\x1f\x8b")),
            (b"x\x1f\x8b\x08", Some(b"x\x1f\x8b\x08")),
            (b"", Some(b"")),
        ];
        for (text, expected) in rows {
            for cut in 0..=text.len() {
                let mut redactor = Redactor::of(Secrets::of_whole(b"a token!"));
                let parts = [&text[..cut], &text[cut..]].map(|part| redactor.redact(part));
                let whole = parts.into_iter().collect::<Option<Vec<_>>>();
                let whole = whole.map(|parts| [parts.concat(), redactor.finish()].concat());
                assert_eq!(whole.as_deref(), expected, "{text:?} {cut}");
            }
        }
    }
}
