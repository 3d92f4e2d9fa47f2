//! A client's HTTP/2 bytes, and the gate before those of a stranger.
//!
//! HTTP/2 decides on memory by its settings, which are told once and hold for good: too many streams for a stranger would
//! be too few for who has shown a key. So a stranger's connection has the usual settings, but what comes after its first
//! request's head is not handed to hyper until the key in that head was good: it stays in the kernel's buffer.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::connection::Connection;
use crate::proxy::downstream::first_head::FirstHead;
use crate::proxy::downstream::io::ClientIo;
use crate::proxy::registry::ClientState;

/// What may come up to the end of the first head: as much as a head may have, and some settings before it.
const MOST_BEFORE: usize = 80 * 1024;

/// The bytes of one client's connection.
pub(crate) struct GatedIo {
    io: ClientIo,
    /// `None` once nobody stands at it any more.
    gate: Option<Box<Gate>>,
}

struct Gate {
    connection: Rc<Connection>,
    /// How many streams are open.
    open_streams: Rc<Cell<usize>>,
    first_head: FirstHead,
    passed: usize,
    /// What was read behind the first head.
    kept: Bytes,
    /// Everything that was said to who is turned away is on its way.
    has_flushed: bool,
}

impl GatedIo {
    pub(crate) fn new(io: ClientIo, connection: &Rc<Connection>, open_streams: &Rc<Cell<usize>>) -> Self {
        let gate = (connection.handle.client_state() != ClientState::Admitted).then(|| {
            Box::new(Gate {
                connection: connection.clone(),
                open_streams: open_streams.clone(),
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
        match gate.connection.handle.client_state() {
            ClientState::Admitted => {
                if gate.kept.is_empty() {
                    *there = None;
                    return Pin::new(io).poll_read(cx, buf);
                }
                let fits = gate.kept.len().min(buf.remaining());
                buf.put_slice(&gate.kept[..fits]);
                gate.kept.advance(fits);
                Poll::Ready(Ok(()))
            }
            ClientState::Stranger if gate.first_head.stream().is_some() => Poll::Pending, // who admits it wakes the task
            ClientState::Stranger => {
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
            ClientState::TurnedAway | ClientState::Closed => {
                let may_end = gate.open_streams.get() == 0;
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
