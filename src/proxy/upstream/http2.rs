//! HTTP/2 to an upstream: few connections, each shared by many exchanges, for the requests that came in HTTP/2.
//!
//! The client's version decides, so that what needs HTTP/2 from end to end (gRPC) has it, and what upgrades (WebSocket)
//! finds HTTP/1.1; but where an upstream is seen to speak nothing else, HTTP/1.1's requests go by HTTP/2 as well. Over TLS the upstream is asked by ALPN; in the clear it has to be known, by the route's setting.
//! Whoever needs a connection while one is being opened waits for that one and shares its fate, so that a burst of
//! requests costs one handshake. A connection that the upstream wants to be rid of (GOAWAY) is used no more; what runs on
//! it ends in peace, and what had not left yet goes to the next.
//!
//! A connection that goes silent is not trusted: see `pulse`.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2::{self, Builder, SendRequest};
use hyper::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use hyper::http::uri::{Authority, Scheme};
use hyper::rt::Executor;
use hyper::{Request, Response, Uri, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::task::coop;
use tokio::time::Instant;
use tracing::debug;

use crate::proxy::authorization::Authorization;
use crate::proxy::fault::Fault;
use crate::proxy::replay::RequestBody;
use crate::proxy::upstream::dial::dial_http2;
use crate::proxy::upstream::error::{self, Error, Resend};
use crate::proxy::upstream::origin::{LONGEST_HEAD, MOST_FIELDS, UpstreamOrigin};
use crate::proxy::upstream::pulse::{self, Observed, Pulse};

/// What an upstream may send on one stream before the client has read it: memory that a stalled client costs.
const STREAM_WINDOW: u32 = 256 * 1024;

/// Half of this is what h2 lets a peer spend on frames so small that their bookkeeping outweighs them. With a small window
/// here, one stalled reader of a stream of small frames would get the connection of all others closed.
const CONNECTION_WINDOW: u32 = 1 << 30;

/// What is kept of a request for an upstream that does not read it.
const SEND_BUFFER: usize = 256 * 1024;

/// Where an upstream allows more at once, further ones still go to a connection of their own: more than that suffer
/// together when one packet is lost.
const MOST_STREAMS: usize = 100;

/// After that time an upstream that spoke only HTTP/1.1 is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(600);

/// How often a request is handed to yet another connection, as the one before closed under it.
const MOST_TRIES: usize = 4;

/// Reads of one connection before other tasks have their turn. What has come for a request is kept until that has its
/// turn, and of interim answers, which no window holds back, a few bytes can be kilobytes of head.
const READS_A_TURN: usize = 8;

/// What tokio gives a task for one turn; a read costs one.
const BUDGET: usize = 128;

/// One worker's HTTP/2 connections to one upstream.
pub(crate) struct Multiplexed {
    upstream: Arc<UpstreamOrigin>,
    connections: RefCell<Vec<Rc<Shared>>>,
    /// How the opening of the next one ends.
    opening: RefCell<Option<watch::Receiver<Opening>>>,
    /// When the upstream last chose HTTP/1.1.
    declined: Cell<Option<Instant>>,
}

/// A connection that many share.
struct Shared {
    sender: SendRequest<RequestBody>,
    /// What gives it its requests, until it has ended; a task polls it.
    driver: Rc<RefCell<Option<Driver>>>,
    streams: Cell<usize>,
    /// Since when there has been no stream.
    idle_since: Cell<Instant>,
    has_worked: Cell<bool>,
    pulse: Rc<Pulse>,
}

type Driver = http2::Connection<TokioIo<InTurns>, RequestBody, LocalTasks>;

/// A stream that somebody uses.
pub(crate) struct Stream {
    connection: Rc<Shared>,
    began: Instant,
    /// What had been read on the connection when it began.
    read_before: u64,
}

/// How the opening of a connection goes.
#[derive(Clone)]
enum Opening {
    Begun,
    Done,
    Failed(Fault),
}

/// What came of a request.
pub(crate) enum Sent {
    Answered(Response<Incoming>, Stream),
    /// The upstream speaks only HTTP/1.1; here it is back, untouched.
    NotSpoken(Request<RequestBody>),
}

/// Sends a request on a connection that is open, or opens one.
pub(crate) async fn send(
    connections: &Rc<Multiplexed>,
    mut request: Request<RequestBody>,
    authorization: &mut Authorization<'_>,
    connect_timeout: Duration,
) -> Result<Sent, Error> {
    for attempt in 0..MOST_TRIES {
        let free = connections.free();
        let is_at_once = attempt == 0 && free.is_some();
        let connection = match free {
            Some(free) => Some(free),
            None => connection(connections, connect_timeout).await.map_err(Error::NotConnected)?,
        };
        let Some(connection) = connection else {
            if attempt == 0 {
                return Ok(Sent::NotSpoken(request));
            }
            break;
        };
        if attempt == 0 {
            let upstream = &connections.upstream;
            in_http2_terms(&mut request, upstream.tls.is_some(), &upstream.authority);
        }
        let reused = connection.has_worked.get();
        let stream = Stream::on(connection);
        if !is_at_once {
            authorization.renew(&mut request).await.map_err(Error::NotAuthorized)?;
        }
        let mut sender = stream.connection.sender.clone();
        match sender.try_send_request(request).await {
            Ok(response) => {
                stream.connection.has_worked.set(true);
                if response.headers().len() > MOST_FIELDS {
                    let detail = format!("more than {MOST_FIELDS} fields in an answer");
                    let fault = Fault::BrokenAnswer { error: "http_response_header_section_size", detail };
                    return Err(Error::Lost { fault, resend: Resend::Never });
                }
                return Ok(Sent::Answered(response, stream));
            }
            Err(mut refused) => {
                let unsent = refused.take_message();
                let error = refused.into_error();
                let Some(unsent) = unsent else {
                    return Err(Error::lost(&error, reused));
                };
                debug!(%error, "an upstream connection takes no more requests");
                connections.forget(&stream.connection);
                request = unsent;
            }
        }
    }
    let detail = "it closes every HTTP/2 connection at once".to_owned();
    Err(Error::NotConnected(Fault::Unreachable { error: "connection_terminated", detail }))
}

/// A connection with room for one more stream; `None` if the upstream speaks only HTTP/1.1.
async fn connection(multiplexed: &Rc<Multiplexed>, timeout: Duration) -> Result<Option<Rc<Shared>>, Fault> {
    let mut barren = 0;
    loop {
        if let Some(free) = multiplexed.free() {
            return Ok(Some(free));
        }
        if multiplexed.declined.get().is_some_and(|at| at.elapsed() < ASK_AGAIN_AFTER) {
            return Ok(None);
        }
        let running = multiplexed.opening.borrow().clone();
        let mut opening = running.unwrap_or_else(|| {
            let (say, opening) = watch::channel(Opening::Begun);
            multiplexed.opening.replace(Some(opening.clone()));
            let multiplexed = multiplexed.clone();
            // a task of its own: it is for everyone, also when the one who asked has left
            tokio::task::spawn_local(async move {
                let end = match open(&multiplexed, timeout).await {
                    Ok(()) => Opening::Done,
                    Err(fault) => Opening::Failed(fault),
                };
                multiplexed.opening.take();
                say.send_replace(end);
            });
            opening
        });
        let end = opening.wait_for(|opening| !matches!(opening, Opening::Begun)).await;
        if let Ok(Opening::Failed(fault)) = end.as_deref() {
            return Err(fault.clone());
        }
        if multiplexed.newest_allows_none() {
            barren += 1;
            if barren == MOST_TRIES {
                let detail = "it allows no requests on its HTTP/2 connections".to_owned();
                return Err(Fault::Unreachable { error: "destination_unavailable", detail });
            }
        }
    }
}

async fn open(multiplexed: &Rc<Multiplexed>, timeout: Duration) -> Result<(), Fault> {
    let Some(io) = dial_http2(&multiplexed.upstream, timeout).await? else {
        multiplexed.declined.set(Some(Instant::now()));
        return Ok(());
    };
    let pulse = Rc::new(Pulse::default());
    let io = Observed::new(io, pulse.clone());
    let (sender, connection) = Builder::new(LocalTasks)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(LONGEST_HEAD as u32)
        .handshake(TokioIo::new(InTurns(io)))
        .await
        .map_err(|error| error::fault(&error))?;
    let driver = Rc::new(RefCell::new(Some(connection)));
    let shared = Rc::new(Shared {
        sender,
        driver: driver.clone(),
        streams: Cell::new(0),
        idle_since: Cell::new(Instant::now()),
        has_worked: Cell::new(false),
        pulse: pulse.clone(),
    });
    multiplexed.connections.borrow_mut().push(shared.clone());
    // weakly, so that a connection that is forgotten ends with its last stream
    let (shared, multiplexed) = (Rc::downgrade(&shared), Rc::downgrade(multiplexed));
    tokio::task::spawn_local(async move {
        let is_waiting = || shared.upgrade().is_some_and(|shared| shared.streams.get() > 0);
        let mut silence = pin!(pulse::lost(&pulse, is_waiting));
        let ended = poll_fn(|cx| {
            if silence.as_mut().poll(cx).is_ready() {
                debug!("an upstream connection answers no PING; it is given up");
                return Poll::Ready(Ok(()));
            }
            match &mut *driver.borrow_mut() {
                Some(driver) => Pin::new(driver).poll(cx),
                None => Poll::Ready(Ok(())),
            }
        });
        let ended = ended.await;
        drop(driver.take()); // with it go the requests that it has not sent
        if let Err(error) = ended {
            debug!(%error, "an upstream connection ended");
        }
        if let (Some(multiplexed), Some(shared)) = (multiplexed.upgrade(), shared.upgrade()) {
            multiplexed.forget(&shared);
        }
    });
    Ok(())
}

impl Multiplexed {
    pub(crate) fn new(upstream: Arc<UpstreamOrigin>) -> Rc<Self> {
        Rc::new(Self {
            upstream,
            connections: RefCell::default(),
            opening: RefCell::default(),
            declined: Cell::default(),
        })
    }

    fn free(&self) -> Option<Rc<Shared>> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|shared| {
            let is_of_use = shared.streams.get() > 0 || shared.allows() > 0;
            is_of_use && !shared.sender.is_closed() && !shared.pulse.is_given_up()
        });
        connections.iter().find(|shared| shared.streams.get() < shared.allows()).cloned()
    }

    fn newest_allows_none(&self) -> bool {
        self.connections.borrow().last().is_some_and(|shared| shared.allows() == 0)
    }

    fn forget(&self, gone: &Rc<Shared>) {
        self.connections.borrow_mut().retain(|shared| !Rc::ptr_eq(shared, gone));
    }

    /// Uses none of the connections for another request; one closes with its last stream.
    pub(crate) fn retire(&self) {
        self.connections.borrow_mut().clear();
    }

    /// Forgets what has been idle for longer than `longest`, which closes it; tells when to look again, if anything is left.
    pub(crate) fn reap(&self, now: Instant, longest: Duration) -> Option<Instant> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|shared| shared.streams.get() > 0 || now < shared.idle_since.get() + longest);
        let since = |shared: &Rc<Shared>| if shared.streams.get() > 0 { now } else { shared.idle_since.get() };
        connections.iter().map(|shared| since(shared) + longest).min()
    }
}

impl Shared {
    /// Streams that the upstream allows just now; it may be none (RFC 9113 section 6.5.2). A request beyond them would wait
    /// inside of h2, and leave with the token that it has.
    fn allows(&self) -> usize {
        self.driver.borrow().as_ref().map_or(0, Driver::current_max_send_streams).min(MOST_STREAMS)
    }
}

impl Stream {
    fn on(connection: Rc<Shared>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        connection.pulse.asked();
        let read_before = connection.pulse.read();
        Self { began: Instant::now(), read_before, connection }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let Shared { streams, idle_since, pulse, .. } = &*self.connection;
        streams.set(streams.get() - 1);
        if pulse.read() == self.read_before && self.began.elapsed() >= pulse::UNANSWERED {
            pulse.give_up();
        }
        if streams.get() == 0 {
            idle_since.set(Instant::now());
        }
    }
}

/// Says in HTTP/2's terms what HTTP/1.1 says otherwise: to whom, and that there is a body.
fn in_http2_terms<B>(request: &mut Request<B>, tls: bool, authority: &Authority) {
    let mut target = std::mem::take(request.uri_mut()).into_parts();
    target.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
    target.authority = Some(authority.clone());
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = Uri::from_parts(target).expect("scheme, authority and path, each a parsed one");
    for field in [HOST, CONNECTION, TRANSFER_ENCODING] {
        request.headers_mut().remove(field);
    }
}

/// A byte stream that is read a few times a turn.
struct InTurns(Observed);

impl AsyncRead for InTurns {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.0).poll_read(cx, buf)?);
        for _ in 1..BUDGET / READS_A_TURN {
            match coop::poll_proceed(cx) {
                Poll::Ready(proceed) => proceed.made_progress(),
                Poll::Pending => break, // the next read finds nothing left
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for InTurns {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// hyper's tasks stay on this thread.
#[derive(Clone, Copy)]
struct LocalTasks;

impl<T: Future + 'static> Executor<T> for LocalTasks {
    fn execute(&self, task: T) {
        tokio::task::spawn_local(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_the_same_in_http2_terms() {
        let fields = ["host", "connection", "transfer-encoding", "te", "content-length"];
        let request = fields.iter().fold(Request::builder().uri("/x?y"), |request, name| request.header(*name, "1"));
        let mut request = request.body(()).unwrap();
        in_http2_terms(&mut request, true, &Authority::from_static("api.example"));
        assert_eq!(request.uri().to_string(), "https://api.example/x?y");
        let kept = ["te", "content-length"].map(|name| request.headers().contains_key(name));
        assert_eq!((request.headers().len(), kept), (2, [true; 2]));
    }
}
