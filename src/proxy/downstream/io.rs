//! A client's bytes: the first of them tell HTTP/2 from HTTP/1.1; targets are escaped, and hyper's own error messages
//! replaced, on the way.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::Response;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::platform::vectored::{SMALL_WRITE, joined};
use crate::proxy::deadline::{Activity, Phase, Upload};
use crate::proxy::policy::error::{Advice, ProxyError};

/// How an HTTP/2 client begins (RFC 9113 section 3.4).
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Enough for most requests' heads, and little enough for the stack.
const FIRST_READ: usize = 2048;

/// What a client speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) enum Socket {
    /// From a TCP listener.
    Tcp(TcpStream),
    /// From a unix listener.
    Unix(UnixStream),
}

impl Socket {
    /// Takes it from the runtime.
    pub(crate) fn into_descriptor(self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(tcp) => Ok(tcp.into_std()?.into()),
            Self::Unix(unix) => Ok(unix.into_std()?.into()),
        }
    }
}

/// A client's bytes.
pub(crate) struct ClientIo {
    pub(crate) socket: Socket,
    activity: Arc<Activity>,
    /// What is left of a problem document that stands for hyper's own error message.
    own_words: Bytes,
    /// The last request whose response has gone out to its last byte.
    answered: u32,
    line: Line,
    /// The last four bytes that hyper was given, and where in its memory they ended.
    handed: ([u8; 4], usize),
    /// What was read and not yet handed on: the first bytes, or what escaping made longer than the buffer.
    pub(crate) surplus: Bytes,
}

/// How far a request line has been read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Line {
    Method,
    Target,
    /// To its end; or nobody knows for certain that what is read belongs to one.
    Over,
}

impl ClientIo {
    pub(crate) fn new(socket: Socket, activity: Arc<Activity>) -> Self {
        let (own_words, surplus) = (Bytes::new(), Bytes::new());
        Self { socket, activity, own_words, answered: 0, line: Line::Method, handed: ([0; 4], 0), surplus }
    }

    /// Puts back what was read and not used: what follows is the rest of a request's head.
    pub(crate) fn with(mut self, unused: Bytes) -> Self {
        if !unused.is_empty() {
            self.activity.enter(Phase::Head);
            self.line = Line::Over;
            self.surplus = unused;
        }
        self
    }

    /// Reads what comes first, until it can only be one protocol's. After an HTTP/1.1 exchange, that is HTTP/1.1.
    pub(crate) fn poll_protocol(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Protocol>> {
        let is_fresh = self.activity.is_fresh();
        if !is_fresh && !self.surplus.is_empty() {
            return Poll::Ready(Ok(Protocol::Http1));
        }
        let mut bytes = [0; FIRST_READ];
        let protocol = loop {
            let mut buf = ReadBuf::new(&mut bytes);
            ready!(self.poll_socket_read(cx, &mut buf)?);
            let read = buf.filled();
            if read.is_empty() {
                self.activity.half_close();
                break Protocol::Http1;
            }
            self.surplus = match self.surplus.is_empty() {
                true => Bytes::copy_from_slice(read),
                false => [&self.surplus, read].concat().into(),
            };
            if !is_fresh {
                self.activity.enter(Phase::Head);
                self.line = Line::Method; // hyper left nothing behind that could come before
                break Protocol::Http1;
            }
            if self.surplus.starts_with(PREFACE) {
                return Poll::Ready(Ok(Protocol::Http2));
            }
            if !PREFACE.starts_with(&self.surplus) {
                break Protocol::Http1;
            }
        };
        if let Some(escaped) = escape_target(&mut self.line, &self.surplus) {
            self.surplus = escaped.into();
        }
        Poll::Ready(Ok(protocol))
    }

    /// Reads more of a first head; false if no more will come.
    pub(crate) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut bytes = [0; 4 * FIRST_READ];
        let mut buf = ReadBuf::new(&mut bytes);
        ready!(self.poll_socket_read(cx, &mut buf)?);
        let read = buf.filled();
        if read.is_empty() {
            self.activity.half_close();
            return Poll::Ready(Ok(false));
        }
        let escaped = escape_target(&mut self.line, read);
        self.surplus = [&self.surplus, escaped.as_deref().unwrap_or(read)].concat().into();
        Poll::Ready(Ok(true))
    }

    /// Tells what was read, outside of an exchange, from body and answer, which may both last longer than it.
    ///
    /// Only a head's deadline may run while a head is read, and only its first line may be escaped: one byte changed in a
    /// body would change where that ends. So a head has begun if hyper has nothing left to read or to write of the last
    /// exchange; and it begins with these very bytes only if nothing is left in hyper's buffer. That is so where the last
    /// that it was given was the end of a body, or of a head: of what ends with an empty line, nothing but empty lines can
    /// be left when hyper asks for more.
    fn sort(&mut self) {
        let (last, end) = self.handed;
        let is_clean = match self.activity.upload() {
            Upload::Owed | Upload::Streaming => return,
            Upload::Abandoned => return self.activity.set_upload(Upload::Skipped),
            Upload::Skipped => false,
            Upload::Over => last == *b"\r\n\r\n" || end == self.activity.take_body_end(),
        };
        if matches!(self.activity.phase(), Phase::Idle | Phase::Resting) && self.has_answered() {
            self.activity.enter(Phase::Head);
            self.line = if is_clean { Line::Method } else { Line::Over };
        }
    }

    /// Whether nothing is to be written but what hyper has to say by itself.
    fn has_answered(&self) -> bool {
        self.answered == self.activity.serial()
            && !self.activity.exchange_runs()
            && self.activity.phase() != Phase::Tunnel
    }

    /// Notes what hyper is given.
    fn hand(&mut self, bytes: &[u8]) {
        let (last, end) = &mut self.handed;
        match bytes.last_chunk() {
            Some(four) => *last = *four,
            None => {
                last.rotate_left(bytes.len());
                last[4 - bytes.len()..].copy_from_slice(bytes);
            }
        }
        *end = bytes.as_ptr_range().end.addr();
    }

    /// Leaves the connection's deadlines to others: bytes come and go without a mark, as they are.
    pub(crate) fn unobserved(mut self) -> Self {
        self.activity = Activity::new();
        self.activity.enter(Phase::Tunnel);
        self.line = Line::Over;
        self
    }

    /// Escapes, in what a read brought from `before` on, the bytes of a request target that hyper refuses.
    fn escape_target(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        if let Some(escaped) = escape_target(&mut self.line, &buf.filled()[before..]) {
            buf.set_filled(before);
            let (now, later) = escaped.split_at(escaped.len().min(buf.remaining()));
            buf.put_slice(now);
            self.surplus = Bytes::copy_from_slice(later);
        }
    }

    fn poll_socket_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Socket::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
        }
    }

    fn poll_socket_write(&mut self, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut small = [0; SMALL_WRITE];
        let written = match (&mut self.socket, joined(bufs, &mut small)) {
            (Socket::Tcp(tcp), Some(bytes)) => Pin::new(tcp).poll_write(cx, bytes),
            (Socket::Tcp(tcp), None) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            (Socket::Unix(unix), Some(bytes)) => Pin::new(unix).poll_write(cx, bytes),
            (Socket::Unix(unix), None) => Pin::new(unix).poll_write_vectored(cx, bufs),
        };
        self.activity.set_congested(written.is_pending());
        written
    }

    fn poll_own_words(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.own_words.is_empty() {
            let words = self.own_words.clone();
            let written = ready!(self.poll_socket_write(cx, &[io::IoSlice::new(&words)])?);
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.own_words.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.surplus.is_empty() {
            let before = buf.filled().len();
            let fits = self.surplus.len().min(buf.remaining());
            buf.put_slice(&self.surplus.split_to(fits));
            self.hand(&buf.filled()[before..]);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        if !self.activity.is_half_closed() {
            ready!(self.poll_socket_read(cx, buf)?);
        }
        if buf.filled().len() > before {
            self.activity.mark();
            self.sort();
            if self.line != Line::Over && self.activity.phase() == Phase::Head {
                self.escape_target(buf, before);
            }
            self.hand(&buf.filled()[before..]);
            return Poll::Ready(Ok(()));
        }
        self.activity.half_close();
        // `serve` finds out whether anybody is left to answer
        let may_still_listen = self.activity.exchange_runs() && !self.activity.is_uploading();
        if may_still_listen { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.own_words.is_empty()
            && self.has_answered()
            && let Some(error) = hypers_own_error(buf)
        {
            self.own_words = spell_out(error.into_response(&Advice::default()));
        }
        if !self.own_words.is_empty() {
            ready!(self.poll_own_words(cx)?);
            return Poll::Ready(Ok(buf.len()));
        }
        let written = ready!(self.poll_socket_write(cx, &[io::IoSlice::new(buf)])?);
        self.activity.mark();
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.has_answered() {
            return self.poll_write(cx, bufs.iter().find(|buf| !buf.is_empty()).map_or(&[], |buf| &**buf));
        }
        let written = ready!(self.poll_socket_write(cx, bufs)?);
        self.activity.mark();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Sockets have no buffer of their own to flush; but hyper asks only when it has written all that it had.
    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.activity.exchange_runs() {
            self.answered = self.activity.serial();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let phase = self.activity.phase();
        if phase != Phase::Lingering {
            match &mut self.socket {
                Socket::Tcp(tcp) => ready!(Pin::new(tcp).poll_shutdown(cx)?),
                Socket::Unix(unix) => ready!(Pin::new(unix).poll_shutdown(cx)?),
            }
            // only where the client may still be sending; in a tunnel, what it sends is for the other end
            if phase == Phase::Tunnel || (phase != Phase::Head && !self.activity.is_uploading()) {
                return Poll::Ready(Ok(()));
            }
            self.activity.enter(Phase::Lingering);
        }
        let mut rest = [0; 4096];
        while !self.activity.is_half_closed() {
            let mut rest = ReadBuf::new(&mut rest);
            if ready!(self.poll_socket_read(cx, &mut rest)).is_err() || rest.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Percent-encodes what RFC 3986 forbids in a target but tools that send what was typed (curl) do not encode: quotation
/// marks of JSON, the comparisons of a filter. hyper would answer 400. `None` if there is nothing to do, as usual.
fn escape_target(line: &mut Line, bytes: &[u8]) -> Option<Vec<u8>> {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (head, rest) = bytes.split_at(end);
    let target = match (*line, head.iter().position(|byte| *byte == b' ')) {
        (Line::Method, Some(space)) => space,
        (Line::Method, None) => head.len(),
        (Line::Target, _) => 0,
        (Line::Over, _) => return None,
    };
    *line = match (rest.is_empty(), target < head.len()) {
        (false, _) => Line::Over,
        (true, true) => Line::Target,
        (true, false) => *line,
    };
    let forbidden = |byte: &u8| matches!(byte, b'"' | b'<' | b'>' | b'`');
    // one look at all of it, which the compiler can do many bytes at a time
    if !head[target..].iter().fold(false, |any, byte| any | forbidden(byte)) {
        return None;
    }
    let mut escaped = head[..target].to_vec();
    for byte in &head[target..] {
        match forbidden(byte) {
            true => escaped.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            false => escaped.push(*byte),
        }
    }
    escaped.extend_from_slice(rest);
    Some(escaped)
}

/// What hyper says by itself, before any request came through, as an error of ours: a bare head with one of three
/// statuses and no body.
fn hypers_own_error(head: &[u8]) -> Option<ProxyError> {
    let rest = head.strip_prefix(b"HTTP/1.1 ")?;
    let has = |phrase: &[u8]| head.windows(phrase.len()).any(|part| part == phrase);
    if head.len() > 200 || !head.ends_with(b"\r\n\r\n") || !has(b"\r\ncontent-length: 0\r\n") || has(b"\r\nvia: ") {
        return None;
    }
    match rest.get(..3)? {
        b"400" => Some(ProxyError::BadRequest("it is not well-formed HTTP/1.1")),
        b"414" => Some(ProxyError::TargetTooLong),
        b"431" => Some(ProxyError::HeadTooLarge),
        _ => None,
    }
}

/// A response of our own as bytes: for those that no request stands behind, and those that none is looked at for.
pub(crate) fn spell_out(response: Response<Bytes>) -> Bytes {
    let (head, body) = response.into_parts();
    let mut bytes = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&body);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_left_of_an_answer_is_not_taken_for_hypers_own_words() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        const LIKE_HYPERS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let activity = Activity::new();
        let mut io = ClientIo::new(Socket::Unix(ours), activity.clone());
        activity.begin(false);
        activity.answer();
        activity.end();
        // the next head has begun, and hyper has not yet written all of the last response
        theirs.write_all(b"GET /").await.unwrap();
        let mut head = [0; 5];
        io.read_exact(&mut head).await.unwrap();
        assert_eq!(io.write(LIKE_HYPERS).await.unwrap(), LIKE_HYPERS.len());
        let mut seen = vec![0; LIKE_HYPERS.len()];
        theirs.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, LIKE_HYPERS);
        // and now it has
        io.flush().await.unwrap();
        assert_eq!(io.write(LIKE_HYPERS).await.unwrap(), LIKE_HYPERS.len());
        drop(io);
        let mut rest = String::new();
        theirs.read_to_string(&mut rest).await.unwrap();
        assert!(rest.contains("application/problem+json"), "{rest}");
    }

    #[test]
    fn quotation_marks_and_comparisons_in_a_target_are_escaped_and_nothing_else() {
        let rows = [
            ("GET /x?y=[1] HTTP/1.1\r\nA: \"<>`\r\n\r\n\"", None, Line::Over),
            (
                "GET /`?{\"a\":1}&b<2&c>3 HTTP/1.1\r\nA: \"\r\n\r\n<",
                Some("GET /%60?{%22a%22:1}&b%3C2&c%3E3 HTTP/1.1\r\nA: \"\r\n\r\n<"),
                Line::Over,
            ),
            ("G<T", None, Line::Method),
            ("GET /<", Some("GET /%3C"), Line::Target),
        ];
        for (given, expected, then) in rows {
            let mut line = Line::Method;
            let escaped = escape_target(&mut line, given.as_bytes());
            assert_eq!(escaped.as_deref(), expected.map(str::as_bytes), "{given}");
            assert_eq!(line, then, "{given}");
        }
        let mut line = Line::Target;
        assert_eq!(escape_target(&mut line, b"> HTTP/1.1\r\n>").as_deref(), Some(&b"%3E HTTP/1.1\r\n>"[..]));
    }

    #[test]
    fn hypers_error_messages_are_told_from_answers() {
        let own = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\
                    date: Sat, 21 Nov 2026 12:00:00 GMT\r\n\r\n";
        assert_eq!(hypers_own_error(own), Some(ProxyError::HeadTooLarge));
        assert_eq!(hypers_own_error(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nvia: 1.1 valetd\r\n\r\n"), None);
        assert_eq!(hypers_own_error(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\nno"), None);
        assert_eq!(hypers_own_error(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), None);
    }
}
