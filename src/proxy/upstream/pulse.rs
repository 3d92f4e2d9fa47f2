//! Whether anybody is still there at the other end of an HTTP/2 connection.
//!
//! A path that swallows packets tells nothing: everything that is sent on such a connection would wait for its whole limit.
//! So a connection on which a request was sent, and no byte has come since for a while, is asked by a PING (RFC 9113 section
//! 6.7); without a response it is given up, and what may be sent again goes to another. One whose stream ended unanswered
//! without a byte of anybody's takes no further requests either.
//!
//! gRPC's servers take more than two PINGs without anything between them for an attack, and close the connection. So only
//! silence after a request is a reason for one, never silence alone, and after [`MOST_PINGS`] that brought nothing but their
//! answer there is none until something else comes. hyper's own PINGs go on for as long as a stream is open, whatever they
//! bring; these are written between two of its frames.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use crate::proxy::upstream::dial::UpstreamIo;

/// Without a byte after a request; longer than nearly every response takes to begin.
const SILENCE: Duration = Duration::from_secs(10);

/// For the response to a PING: three retransmissions on a bad line.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request that was given up after less says nothing of the connection: its client may just have left.
pub(super) const UNANSWERED: Duration = Duration::from_secs(1);

const MOST_PINGS: u8 = 2;

/// Length 8, type PING, no flags, stream 0; any eight bytes.
const PING: &[u8; 17] = b"\0\0\x08\x06\0\0\0\0\0valetd\0\0";

/// What is known of one connection.
#[derive(Default)]
pub(super) struct Pulse {
    /// Bytes so far.
    read: Cell<u64>,
    /// A request was sent, and nothing has been read since.
    has_asked: Cell<bool>,
    /// One is to be written.
    wants_ping: Cell<bool>,
    /// Those that brought nothing but their answer, one after the other.
    barren_pings: Cell<u8>,
    given_up: Cell<bool>,
    /// Nobody is there; whatever runs on it fails.
    dead: Cell<bool>,
    /// The task that reads.
    reader: RefCell<Option<Waker>>,
}

impl Pulse {
    pub(super) fn read(&self) -> u64 {
        self.read.get()
    }

    pub(super) fn asked(&self) {
        self.has_asked.set(true);
    }

    /// No further request goes there.
    pub(super) fn give_up(&self) {
        self.given_up.set(true);
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.get()
    }

    fn is_read_by(&self, task: &Waker) {
        let mut reader = self.reader.borrow_mut();
        if !reader.as_ref().is_some_and(|reader| reader.will_wake(task)) {
            *reader = Some(task.clone());
        }
    }

    /// Has the reading task do what is wanted.
    fn wake(&self) {
        if let Some(reader) = &*self.reader.borrow() {
            reader.wake_by_ref();
        }
    }
}

/// Returns when nobody is there any more; `is_waiting` tells whether a request is open.
pub(super) async fn lost(pulse: &Pulse, is_waiting: impl Fn() -> bool) {
    loop {
        let before = pulse.read();
        sleep(SILENCE).await;
        let is_silent = pulse.read() == before && pulse.has_asked.get() && is_waiting();
        if !is_silent || pulse.barren_pings.get() >= MOST_PINGS {
            continue;
        }
        pulse.wants_ping.set(true);
        pulse.wake();
        sleep(PATIENCE).await;
        match pulse.read() - before {
            0 => {
                pulse.give_up();
                pulse.dead.set(true);
                pulse.wake();
                return;
            }
            read if read <= PING.len() as u64 => pulse.barren_pings.set(pulse.barren_pings.get() + 1),
            _ => pulse.barren_pings.set(0),
        }
    }
}

/// A connection's bytes, counted, with a PING in between where one is wanted.
pub(super) struct Observed {
    io: UpstreamIo,
    pulse: Rc<Pulse>,
    frames: Frames,
    /// What is left of a PING that has been begun.
    ping: &'static [u8],
}

impl Observed {
    pub(super) fn new(io: UpstreamIo, pulse: Rc<Pulse>) -> Self {
        Self { io, pulse, frames: Frames::default(), ping: &[] }
    }

    /// Writes the PING that is wanted, if it is not in the middle of a frame.
    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.pulse.wants_ping.get() && self.frames.is_between() {
            self.pulse.wants_ping.set(false);
            self.ping = PING;
        }
        while !self.ping.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, self.ping)?);
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.ping = &self.ping[written..];
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Observed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.pulse.is_read_by(cx.waker());
        if self.pulse.dead.get() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "it answers no PING")));
        }
        if self.pulse.wants_ping.get() {
            if let Poll::Ready(Err(error)) = self.poll_ping(cx) {
                return Poll::Ready(Err(error));
            }
            if let Poll::Ready(Err(error)) = Pin::new(&mut self.io).poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf)?);
        let read = (buf.filled().len() - before) as u64;
        self.pulse.read.set(self.pulse.read.get() + read);
        self.pulse.has_asked.set(false);
        if read > PING.len() as u64 {
            self.pulse.barren_pings.set(0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Observed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_ping(cx)?);
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf)?);
        self.frames.pass(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_ping(cx)?);
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs)?);
        let mut left = written;
        for buf in bufs {
            let passed = left.min(buf.len());
            self.frames.pass(&buf[..passed]);
            left -= passed;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A frame's head: its length in three bytes, and six more (RFC 9113 section 4.1).
const FRAME_HEAD: usize = 9;

/// The client's connection preface (RFC 9113 section 3.4), which is no frame.
const PREFACE: usize = 24;

/// Where frames end in what is written.
struct Frames {
    /// Bytes that the running frame's payload still has.
    left: usize,
    head: [u8; FRAME_HEAD],
    /// Bytes of the running frame's head.
    in_head: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self { left: PREFACE, head: [0; FRAME_HEAD], in_head: 0 }
    }
}

impl Frames {
    fn is_between(&self) -> bool {
        self.left == 0 && self.in_head == 0
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let passed = self.left.min(bytes.len());
                self.left -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            let passed = (FRAME_HEAD - self.in_head).min(bytes.len());
            self.head[self.in_head..self.in_head + passed].copy_from_slice(&bytes[..passed]);
            self.in_head += passed;
            bytes = &bytes[passed..];
            if self.in_head == FRAME_HEAD {
                let [one, two, three, ..] = self.head;
                (self.left, self.in_head) = (u32::from_be_bytes([0, one, two, three]) as usize, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_stands_between_frames_however_they_are_cut() {
        let mut written = vec![b'P'; PREFACE];
        let mut ends = vec![written.len()];
        for length in [0_usize, 1, 300, 70_000] {
            written.extend(&u32::try_from(length).unwrap().to_be_bytes()[1..]);
            written.extend([9; FRAME_HEAD - 3]);
            written.extend(vec![7; length]);
            ends.push(written.len());
        }
        for step in [1, 2, 8, 9, 10, 4096, 100_000] {
            let mut frames = Frames::default();
            let mut at = 0;
            assert!(!frames.is_between());
            for part in written.chunks(step) {
                frames.pass(part);
                at += part.len();
                assert_eq!(frames.is_between(), ends.contains(&at), "{step} {at}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_silence_after_a_request_is_asked_about_and_two_answers_without_news_are_enough() {
        let answering = |bytes: u64, times: usize| async move {
            let pulse = Pulse::default();
            let mut pings = 0;
            let end = tokio::time::timeout(Duration::from_secs(600), async {
                tokio::select! {
                    () = lost(&pulse, || true) => {}
                    () = async {
                        loop {
                            pulse.asked();
                            sleep(Duration::from_secs(1)).await;
                            if pulse.wants_ping.replace(false) {
                                pings += 1;
                                if pings <= times {
                                    pulse.read.set(pulse.read.get() + bytes);
                                }
                            }
                        }
                    } => {}
                }
            });
            let is_lost = end.await.is_ok();
            (is_lost, pulse.is_given_up(), pings)
        };
        assert_eq!(answering(0, 0).await, (true, true, 1), "nobody answers");
        assert_eq!(answering(17, 9).await, (false, false, 2), "nothing but answers to PING");
        assert_eq!(answering(100, 9).await, (true, true, 10), "it answers for a while");
        let pulse = Pulse::default();
        let silent = tokio::time::timeout(Duration::from_secs(600), lost(&pulse, || true)).await;
        assert!(silent.is_err() && !pulse.wants_ping.get(), "nobody has asked for anything");
    }
}
