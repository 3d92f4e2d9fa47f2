//! An HTTP/1.1 connection to an upstream, and who drives it.
//!
//! hyper's connection moves bytes only while somebody polls it. That could be a task of its own, but then each request
//! would change tasks four times. So whoever waits for the response drives it, in place: a request without a body has
//! nothing else to wait for. One with a body has: its client may read no response before it has sent everything, so that
//! nobody would poll the response meanwhile; then the connection gets a task of its own after all, and keeps it. What is
//! idle is driven by nobody, but looked after by the pool ([`Http1Connection::poll_idle`]).
//!
//! A connection whose response came before its request had been sent to its end serves no other. The upload goes on, but
//! whether the upstream still reads it nobody knows, and a request behind it would wait for that.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tracing::debug;

use crate::proxy::fault::Fault;
use crate::proxy::replay::RequestBody;
use crate::proxy::upstream::dial::UpstreamIo;
use crate::proxy::upstream::origin::{LONGEST_HEAD, MOST_FIELDS};

/// Answers' heads and the chunks of bodies are read into buffers of at most this size, in [`Room::Usual`].
const BUFFER: usize = 64 * 1024;

/// What an upstream may send before its response's head is whole: the head, and interim responses. One that sent those as fast
/// as it can would keep the worker busy, however short the exchange's limit is.
const MOST_BEFORE_ANSWER: usize = 512 * 1024;

/// How large a response's head a connection can take. More than the usual costs two allocations with every response, and for
/// every stalled upload a larger buffer, so it is for upstreams that are known to need it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Room {
    /// 64 KiB and 100 fields.
    Usual,
    /// [`LONGEST_HEAD`] and [`MOST_FIELDS`].
    Ample,
}

type Http1 = http1::Connection<TokioIo<Limited>, RequestBody>;

/// One connection. Dropping it closes it.
pub(crate) struct Http1Connection {
    sender: SendRequest<RequestBody>,
    allowance: Allowance,
    /// `None` if a task of its own drives it, or if it has ended.
    driver: Option<Driver>,
    pub(super) room: Room,
    /// Its pool's when it was opened; in a later one it serves no other request.
    pub(super) era: u32,
    /// A response has overtaken its request.
    overtaken: bool,
}

impl Http1Connection {
    /// Opens HTTP/1.1 on a byte stream.
    pub(crate) async fn open(io: UpstreamIo, room: Room, era: u32) -> Result<Self, Fault> {
        let (sender, connection, allowance) = handshake(io, room).await?;
        let handoff = Arc::new(HandoffWaker::default());
        let waker = handoff.clone().into();
        let driver = Some(Driver { connection: Box::pin(connection), handoff, waker });
        Ok(Self { sender, allowance, driver, room, era, overtaken: false })
    }

    /// Whether it can take a request, as far as is known. What is driven in place can always, between two responses.
    pub(crate) fn is_free(&self) -> bool {
        self.driver.is_some() || self.sender.is_ready()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request; the response's head.
    ///
    /// # Errors
    ///
    /// If there is none; with the request, if it was provably not sent.
    pub(crate) async fn send(
        &mut self,
        mut request: Request<RequestBody>,
        ended: &Rc<Notify>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        let upload = if request.body().is_end_stream() {
            Weak::new()
        } else {
            self.hand_over(ended.clone());
            request.body_mut().watch()
        };
        self.allowance.limit();
        let mut answer = pin!(self.sender.try_send_request(request));
        let answer = poll_fn(|cx| drive(&mut self.driver, cx, |cx| answer.as_mut().poll(cx))).await;
        self.allowance.lift();
        // hyper drops a body when it has taken the last of it
        self.overtaken |= upload.strong_count() > 0;
        answer
    }

    /// The next frame of a response that comes on this connection.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        incoming: &mut Incoming,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut incoming = Pin::new(incoming);
        let Some(driver) = &self.driver else { return incoming.poll_frame(cx) };
        // what has come together with the head, before anything else is read
        if let Poll::Ready(frame) = incoming.as_mut().poll_frame(&mut Context::from_waker(&driver.waker)) {
            return Poll::Ready(frame);
        }
        drive(&mut self.driver, cx, |cx| incoming.as_mut().poll_frame(cx))
    }

    /// Drives it from now on with a task of its own, which notifies `ended` at its end.
    fn hand_over(&mut self, ended: Rc<Notify>) {
        let Some(driver) = self.driver.take() else { return };
        tokio::task::spawn_local(async move {
            if let Err(error) = driver.connection.await {
                debug!(%error, "an upstream connection ended");
            }
            ended.notify_waiters();
        });
    }

    /// After a response's end: makes sure that it comes to rest. `None` if it is of no use to others; then it is closed when
    /// its request has been sent to the end.
    pub(crate) fn rest(mut self, ended: &Rc<Notify>) -> Option<Self> {
        if self.overtaken || self.is_closed() {
            return None;
        }
        match &self.driver {
            // as always, but for answers whose end is not the end of what is sent
            Some(_) if !self.sender.is_ready() => self.hand_over(ended.clone()),
            Some(driver) => driver.handoff.take_note(),
            None => {}
        }
        Some(self)
    }

    /// Whether it has ended while it was idle. If not, the task is woken when it has.
    pub(crate) fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _: Poll<()> = drive(&mut self.driver, cx, |_| Poll::Pending);
        if self.is_closed() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// A connection to be driven, and what hyper wakes.
struct Driver {
    connection: Pin<Box<Http1>>,
    handoff: Arc<HandoffWaker>,
    /// The same as hyper knows it.
    waker: Waker,
}

/// Turns of [`drive`] before other tasks have theirs.
const MOST_TURNS: usize = 4;

/// Drives the connection, if it is for us to drive, and then asks for what may have come of it; both as often as there is
/// something to do.
fn drive<T>(
    driver: &mut Option<Driver>,
    cx: &mut Context<'_>,
    mut outcome: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    for _ in 0..MOST_TURNS {
        let Some(running) = driver else { return outcome(cx) };
        running.handoff.take_note();
        let mut inner = Context::from_waker(&running.waker);
        if let Poll::Ready(ended) = running.connection.as_mut().poll(&mut inner) {
            if let Err(error) = ended {
                debug!(%error, "an upstream connection ended");
            }
            // which tells whoever still waits for something
            *driver = None;
            continue;
        }
        if let Poll::Ready(outcome) = outcome(&mut inner) {
            return Poll::Ready(outcome);
        }
        if running.handoff.hand_to(cx.waker()) {
            return Poll::Pending;
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// What hyper wakes in place of a task: the connection changes hands, and what one task learns while it is driving needs
/// to wake nobody.
#[derive(Default)]
struct HandoffWaker(Mutex<WakeState>);

#[derive(Default)]
enum WakeState {
    #[default]
    /// A wake is noted, and wakes nobody.
    Idle,
    /// A wake wakes this task.
    Task(Waker),
    /// It has been woken since it was last said what a wake does.
    Woken,
}

impl HandoffWaker {
    fn set(&self, state: WakeState) -> WakeState {
        mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), state)
    }

    /// From now on a wake is only noted.
    fn take_note(&self) {
        self.set(WakeState::Idle);
    }

    /// Has a wake wake this task from now on; false if there has been one meanwhile, so that there is something to do.
    fn hand_to(&self, task: &Waker) -> bool {
        !matches!(self.set(WakeState::Task(task.clone())), WakeState::Woken)
    }
}

impl Wake for HandoffWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let WakeState::Task(task) = self.set(WakeState::Woken) {
            task.wake();
        }
    }
}

/// Opens HTTP/1.1 on a connection. Whoever takes it has to drive the second half, and to limit what comes before a response.
pub(crate) async fn handshake(
    io: UpstreamIo,
    room: Room,
) -> Result<(SendRequest<RequestBody>, Http1, Allowance), Fault> {
    let allowance = Allowance(Arc::new(AtomicUsize::new(usize::MAX)));
    let mut builder = http1::Builder::new();
    match room {
        Room::Usual => builder.max_buf_size(BUFFER),
        Room::Ample => builder.max_buf_size(LONGEST_HEAD).max_headers(MOST_FIELDS),
    };
    let (sender, connection) = builder
        .handshake(TokioIo::new(Limited { io, allowance: allowance.clone() }))
        .await
        .map_err(|error| Fault::BrokenAnswer { error: "http_protocol_error", detail: error.to_string() })?;
    Ok((sender, connection, allowance))
}

/// How many bytes more may come on a connection. Read and written by one thread; an atomic only because what hyper upgrades
/// has to be `Send`.
#[derive(Clone)]
pub(crate) struct Allowance(Arc<AtomicUsize>);

impl Allowance {
    /// A request is sent: its response's head has to come within [`MOST_BEFORE_ANSWER`].
    pub(crate) fn limit(&self) {
        self.0.store(MOST_BEFORE_ANSWER, Relaxed);
    }

    /// The head is there. Of what follows the client takes as much as it likes.
    pub(crate) fn lift(&self) {
        self.0.store(usize::MAX, Relaxed);
    }
}

/// Its first bytes are not HTTP/1.1's.
#[derive(Debug, thiserror::Error)]
#[error("it speaks HTTP/2, which the route's setting http2 = true lets requests go by")]
pub(super) struct AnswersInHttp2;

/// Whether a response begins with the head of a SETTINGS frame, which no server of HTTP/2 sends later than first (RFC 9113
/// section 3.4), or of the GOAWAY frame that says why there will be none.
fn begins_http2(bytes: &[u8]) -> bool {
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    matches!(bytes, [0, _, _, SETTINGS | GOAWAY, 0, 0, 0, 0, 0, ..])
}

/// An upstream's bytes, as many as are allowed.
pub(crate) struct Limited {
    io: UpstreamIo,
    allowance: Allowance,
}

impl AsyncRead for Limited {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf)?);
        let left = self.allowance.0.load(Relaxed);
        if left == usize::MAX {
            return Poll::Ready(Ok(()));
        }
        if left == MOST_BEFORE_ANSWER && begins_http2(&buf.filled()[before..]) {
            return Poll::Ready(Err(io::Error::other(AnswersInHttp2)));
        }
        match left.checked_sub(buf.filled().len() - before) {
            Some(left) => self.allowance.0.store(left, Relaxed),
            None => return Poll::Ready(Err(io::Error::other("more than 512 KiB came before the answer"))),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Limited {
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
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
