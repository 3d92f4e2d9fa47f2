//! A client's HTTP/2 bytes, and the gate before those of a stranger.
//!
//! HTTP/2 decides on memory by its settings, which are told once and hold for good: too many streams for a stranger would
//! be too few for who has shown a key. So a stranger's connection has the usual settings, but what comes after its first
//! request's head is not handed to hyper until the key in that head was good: it stays in the kernel's buffer.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::connection::{Connection, Standing};
use crate::proxy::downstream::io::{ClientIo, PREFACE};

/// What may come up to the end of the first head: as much as a head may have, and some settings before it.
const MOST_BEFORE: usize = 80 * 1024;

/// Frames up to the end of the first head, at most. Clients say some settings, a window, and a PING, old browsers five
/// priorities, and then they ask; each frame costs a look and many cost an answer, and the smallest are nine bytes.
const MOST_FRAMES: usize = 128;

/// The bytes of one client's connection.
pub(crate) struct GatedIo {
    io: ClientIo,
    /// `None` once nobody stands at it any more.
    gate: Option<Box<Gate>>,
}

struct Gate {
    connection: Rc<Connection>,
    first_head: FirstHead,
    passed: usize,
    /// What was read behind the first head.
    kept: Bytes,
    /// Everything that was said to who is turned away is on its way.
    has_flushed: bool,
}

impl GatedIo {
    pub(crate) fn new(io: ClientIo, connection: &Rc<Connection>) -> Self {
        let gate = (connection.standing() != Standing::Client).then(|| {
            Box::new(Gate {
                connection: connection.clone(),
                first_head: FirstHead::new(),
                passed: 0,
                kept: Bytes::new(),
                has_flushed: false,
            })
        });
        Self { io, gate }
    }

    /// Reads what there is and forgets it. Ready when the client will send no more.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut rest = [0; 4096];
        loop {
            let mut rest = ReadBuf::new(&mut rest);
            if ready!(Pin::new(&mut self.io).poll_read(cx, &mut rest)).is_err() || rest.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

impl AsyncRead for GatedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { io, gate: there } = &mut *self;
        let Some(gate) = there else { return Pin::new(io).poll_read(cx, buf) };
        match gate.connection.standing() {
            Standing::Client => {
                if gate.kept.is_empty() {
                    *there = None;
                    return Pin::new(io).poll_read(cx, buf);
                }
                let fits = gate.kept.len().min(buf.remaining());
                buf.put_slice(&gate.kept[..fits]);
                gate.kept.advance(fits);
                Poll::Ready(Ok(()))
            }
            Standing::Stranger if gate.first_head.stream().is_some() => Poll::Pending, // who vouches for it wakes the task
            Standing::Stranger => {
                let before = buf.filled().len();
                ready!(Pin::new(io).poll_read(cx, buf)?);
                let read = &buf.filled()[before..];
                let passes = gate.first_head.take(read);
                gate.kept = Bytes::copy_from_slice(&read[passes..]);
                gate.passed += passes;
                buf.set_filled(before + passes);
                match gate.passed > MOST_BEFORE || gate.first_head.is_too_late() {
                    true => Poll::Ready(Err(io::Error::other("a stranger says too much before its first request"))),
                    false => Poll::Ready(Ok(())),
                }
            }
            Standing::TurnedAway | Standing::Closed => {
                let may_end = !gate.connection.has_streams();
                if may_end && gate.has_flushed {
                    return Poll::Ready(Ok(())); // the end, to hyper
                }
                // hyper writes after it has read: when it asks again, it has
                gate.has_flushed = may_end;
                if may_end {
                    cx.waker().wake_by_ref();
                }
                self.poll_discard(cx).map(Ok)
            }
        }
    }
}

impl AsyncWrite for GatedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_shutdown(cx)?);
        match self.gate.is_some() {
            // what is unread when the socket is closed would reset the connection, and take along what we said
            true => self.poll_discard(cx).map(Ok),
            false => Poll::Ready(Ok(())),
        }
    }
}

/// Looks for the end of the first request's head in the frames of a client (RFC 9113 sections 3.4, 4.1 and 6.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FirstHead {
    look: Look,
    /// So many frames have begun.
    frames: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Look {
    /// So many bytes of the preface are there.
    Preface(usize),
    /// A frame's header begins; so many bytes of it are there.
    Header([u8; HEADER], usize),
    /// A frame's payload, of which so many bytes are to come.
    Payload {
        left: usize,
        is_last: bool,
        stream: u32,
    },
    Over {
        stream: u32,
    },
}

/// A frame's header.
const HEADER: usize = 9;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

impl FirstHead {
    pub(crate) fn new() -> Self {
        Self { look: Look::Preface(0), frames: 0 }
    }

    /// Whether so many frames have come that no client's first head would still be among them.
    pub(crate) fn is_too_late(&self) -> bool {
        self.frames > MOST_FRAMES
    }

    /// The stream of the first request, if its head has been whole.
    pub(crate) fn stream(&self) -> Option<u32> {
        match self.look {
            Look::Over { stream } => Some(stream),
            Look::Preface(_) | Look::Header(..) | Look::Payload { .. } => None,
        }
    }

    /// Goes on by these bytes. Returns how many of them come before the end, or before it is too late for one.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let rest = bytes.len() - at;
            self.look = match self.look {
                Look::Over { .. } => return at,
                _ if self.is_too_late() => return at,
                Look::Payload { left: 0, is_last: true, stream } => Look::Over { stream },
                Look::Payload { left: 0, is_last: false, .. } => Look::Header([0; HEADER], 0),
                _ if rest == 0 => return at,
                Look::Preface(there) => {
                    let more = rest.min(PREFACE.len() - there);
                    at += more;
                    match there + more == PREFACE.len() {
                        true => Look::Header([0; HEADER], 0),
                        false => Look::Preface(there + more),
                    }
                }
                Look::Header(mut header, there) => {
                    let more = rest.min(HEADER - there);
                    header[there..there + more].copy_from_slice(&bytes[at..at + more]);
                    at += more;
                    self.frames += usize::from(there + more == HEADER);
                    match there + more == HEADER {
                        true => Look::payload(header),
                        false => Look::Header(header, there + more),
                    }
                }
                Look::Payload { left, is_last, stream } => {
                    let more = rest.min(left);
                    at += more;
                    Look::Payload { left: left - more, is_last, stream }
                }
            };
        }
    }
}

impl Look {
    /// What follows a frame's header.
    fn payload([high, middle, low, kind, flags, stream @ ..]: [u8; HEADER]) -> Self {
        Self::Payload {
            left: u32::from_be_bytes([0, high, middle, low]) as usize,
            is_last: matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS != 0,
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        bytes.extend(vec![b'x'; length.into()]);
        bytes
    }

    #[test]
    fn what_comes_in_many_small_frames_is_looked_at_no_further() {
        let most = [PREFACE.to_vec(), frame(4, 0, 0).repeat(MOST_FRAMES - 1)].concat();
        let asked = [most.clone(), frame(HEADERS, END_HEADERS, 3)].concat();
        let many = [most, frame(4, 0, 0).repeat(1000)].concat();
        for step in [1, 7, 4096, many.len()] {
            let mut gate = FirstHead::new();
            asked.chunks(step).for_each(|chunk| _ = gate.take(chunk));
            assert_eq!((gate.stream(), gate.is_too_late()), (Some(1), false), "{step} at a time");
            let mut gate = FirstHead::new();
            let passed: usize = many.chunks(step).map(|chunk| gate.take(chunk)).sum();
            assert_eq!(passed, PREFACE.len() + (MOST_FRAMES + 1) * HEADER, "{step} at a time");
            assert_eq!((gate.stream(), gate.is_too_late()), (None, true), "{step} at a time");
        }
    }

    #[test]
    fn the_first_head_ends_at_the_same_byte_however_it_is_cut() {
        let settings = frame(4, 0, 6);
        let cases = [
            ("one frame", [PREFACE.to_vec(), settings.clone(), frame(HEADERS, END_HEADERS | 1, 20)].concat()),
            ("empty", [PREFACE.to_vec(), settings.clone(), frame(HEADERS, END_HEADERS, 0)].concat()),
            (
                "continued",
                [
                    PREFACE.to_vec(),
                    settings.clone(),
                    frame(8, 0, 4),
                    frame(HEADERS, 1, 20),
                    frame(CONTINUATION, 0, 0),
                    frame(CONTINUATION, END_HEADERS, 9),
                ]
                .concat(),
            ),
        ];
        for (case, first) in cases {
            let bytes = [first.clone(), frame(HEADERS, END_HEADERS, 30), frame(0, 1, 40)].concat();
            for step in 1..=bytes.len() {
                let mut gate = FirstHead::new();
                let passed: usize = bytes.chunks(step).map(|chunk| gate.take(chunk)).sum();
                assert_eq!((passed, gate.stream()), (first.len(), Some(1)), "{case}, {step} at a time");
            }
            let mut gate = FirstHead::new();
            assert_eq!(gate.take(&first[..first.len() - 1]), first.len() - 1, "{case}");
            assert_eq!(gate.stream(), None, "{case}");
        }
    }
}
