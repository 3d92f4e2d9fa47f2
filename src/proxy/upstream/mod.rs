//! Connections to an upstream: opened when none is free, kept warm, one pool a worker.
//!
//! HTTP/1.1 carries one exchange at a time, so a connection is leased, and given back when its answer has been read to
//! the end. One that ended otherwise, or was answered before its request had been sent, is never used again: dropping it
//! closes it. One such connection is in `link`; HTTP/2's are in `multiplexed`.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use hyper::http::uri::Authority;
use hyper::{Request, Response, Version};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;
use tracing::debug;

use crate::config::Origin;
use crate::platform::names;
use crate::proxy::authorization::Authorization;
use crate::proxy::downstream::connection::{SMALL_WRITE, joined};
use crate::proxy::policy::error::Fault;
use crate::proxy::replay::RequestBody;
use crate::token_source::Unavailable;
use http1::Link;
use http2::{Multiplexed, Sent};

pub(super) mod http1;
pub(super) mod http2;

/// A little below the 60 s after which many servers and load balancers close an idle connection: better that we do it.
const LONGEST_IDLE: Duration = Duration::from_secs(55);

/// More idle connections to one upstream than that are not worth their memory. As many as a crowd of clients uses at
/// once: with fewer, every request of a crowd would close one connection and open another.
const MOST_IDLE: usize = 1024;

/// RFC 8305 section 5: the time after which the next address is tried as well.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// So that a tunnel whose other end vanished ends some day.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);

/// An upstream as all workers know it.
pub(crate) struct UpstreamOrigin {
    /// Tells pools apart; never used twice in a process.
    pub(crate) id: u64,
    pub(crate) origin: Origin,
    /// The origin as text, for people.
    pub(crate) label: Arc<str>,
    pub(crate) tls: Option<Tls>,
    /// What `:authority` says.
    pub(crate) authority: Authority,
    /// Whether requests that come in HTTP/2 may go on in it: asked by ALPN over TLS, known beforehand in the clear.
    pub(crate) http2: bool,
    /// The certificate authorities besides the system's, as they were when this was made.
    pub(crate) extra_ca: Option<Vec<u8>>,
}

/// How TLS is spoken with an upstream.
pub(crate) struct Tls {
    name: ServerName<'static>,
    /// Offers HTTP/1.1 alone.
    http1: Arc<ClientConfig>,
    /// Offers HTTP/2, too.
    http2: Arc<ClientConfig>,
}

impl UpstreamOrigin {
    /// Numbers a new upstream.
    ///
    /// # Errors
    ///
    /// If TLS is to be spoken with something that is neither a host name nor an address.
    pub(crate) fn new(
        origin: Origin,
        tls: Option<Arc<ClientConfig>>,
        extra_ca: Option<Vec<u8>>,
        http2: bool,
    ) -> Result<Self, String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let tls = tls.map(|config| {
            let name = ServerName::try_from(origin.host.clone())
                .map_err(|_| format!("upstream {origin}: \"{}\" is no host name", origin.host))?;
            let mut both = (*config).clone();
            both.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            Ok::<_, String>(Tls { name, http1: config, http2: Arc::new(both) })
        });
        let authority = origin.authority().parse().map_err(|_| format!("\"{}\" is no host name", origin.host))?;
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            label: origin.to_string().into(),
            tls: tls.transpose()?,
            authority,
            origin,
            extra_ca,
            http2,
        })
    }

    /// Whether connections to one serve the other as well.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.origin == other.origin && self.extra_ca == other.extra_ca && self.http2 == other.http2
    }
}

/// One worker's connections to one upstream.
pub(crate) struct Pool {
    pub(crate) upstream: Arc<UpstreamOrigin>,
    /// The most recently used last.
    idle: RefCell<Vec<Idle>>,
    pub(crate) multiplexed: Multiplexed,
    /// Whether a task looks after the idle ones.
    is_looked_after: Cell<bool>,
    /// That task.
    caretaker: RefCell<Option<Waker>>,
    /// Whether some have become idle since it last looked.
    has_new_idle: Cell<bool>,
    /// What its routes want kept warm.
    pub(crate) warmth: Cell<Warmth>,
    /// Whether a task keeps a connection warm.
    warming: Cell<bool>,
    last_used: Cell<Instant>,
    /// Rung when a connection has ended.
    ended: Rc<Notify>,
}

/// For how long after its last use an upstream is kept one connection ready, so that a request that comes out of the
/// blue spares itself DNS, TCP and TLS.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Warmth {
    /// Zero for not at all.
    pub(crate) span: Duration,
    pub(crate) connect_timeout: Duration,
}

struct Idle {
    link: Link,
    since: Instant,
}

/// A connection that somebody uses, or a share of one.
pub(crate) struct Lease(Held);

enum Held {
    Alone {
        pool: Rc<Pool>,
        link: Link,
    },
    Shared {
        /// Ends with the lease.
        _stream: http2::Stream,
    },
}

/// Why there is no answer.
pub(crate) enum SendError {
    /// Not sent: there is no connection.
    NotConnected(Fault),
    /// Not sent: when there was a connection, there was no usable token any more.
    NotAuthorized(Unavailable),
    /// The connection failed before the answer's head was whole; the request may have been carried out.
    Lost {
        /// Whether others had used the connection before: then the upstream may just have closed it as idle.
        reused: bool,
        error: hyper::Error,
    },
}

impl Pool {
    pub(crate) fn new(upstream: Arc<UpstreamOrigin>) -> Rc<Self> {
        Rc::new(Self {
            upstream,
            idle: RefCell::default(),
            multiplexed: Multiplexed::default(),
            is_looked_after: Cell::new(false),
            caretaker: RefCell::default(),
            has_new_idle: Cell::new(false),
            warmth: Cell::default(),
            warming: Cell::new(false),
            last_used: Cell::new(Instant::now()),
            ended: Rc::default(),
        })
    }

    /// Sends a request on a free connection, or on a new one if there is none or `fresh` asks for it. A request that
    /// provably was not sent, as its connection had closed under it, goes to the next connection. What came in HTTP/2 goes
    /// on in it, if the upstream speaks it. The token must be usable now; where it takes time to get a connection, it is
    /// renewed.
    pub(crate) async fn send(
        self: &Rc<Self>,
        mut request: Request<RequestBody>,
        authorization: &mut Authorization<'_>,
        connect_timeout: Duration,
        fresh: bool,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        if request.version() == Version::HTTP_2 {
            if self.upstream.http2 {
                self.look_after_idle();
                match Box::pin(http2::send(self, request, authorization, connect_timeout)).await? {
                    Sent::Answered(response, lease) => return Ok((response, lease)),
                    Sent::NotSpoken(unsent) => request = unsent,
                }
            }
            *request.version_mut() = Version::HTTP_11;
        }
        loop {
            let free = if fresh { None } else { self.take_idle() };
            let (mut link, reused) = match free {
                Some(link) => (link, true),
                // boxed, as its state is large and hardly ever needed: a request's own is moved about
                None => Box::pin(self.connect_for(&mut request, authorization, connect_timeout)).await?,
            };
            match link.send(request, &self.ended).await {
                Ok(response) => return Ok((response, Lease(Held::Alone { pool: self.clone(), link }))),
                Err(mut refused) => match refused.take_message() {
                    Some(unsent) if reused => request = unsent,
                    _ => return Err(SendError::Lost { reused, error: refused.into_error() }),
                },
            }
        }
    }

    /// A new connection for a request, which leaves with a token that is usable then; and whether the connection has been
    /// idle meanwhile, so that it may have closed.
    async fn connect_for(
        self: &Rc<Self>,
        request: &mut Request<RequestBody>,
        authorization: &mut Authorization<'_>,
        timeout: Duration,
    ) -> Result<(Link, bool), SendError> {
        let link = self.connect(timeout).await.map_err(SendError::NotConnected)?;
        let waited = authorization.renew(request).await.map_err(SendError::NotAuthorized)?;
        Ok((link, waited))
    }

    /// The most recently used connection that is free; on the way, the closed ones are forgotten.
    fn take_idle(&self) -> Option<Link> {
        let mut idle = self.idle.borrow_mut();
        let mut at = idle.len();
        while at > 0 {
            at -= 1;
            if idle[at].link.is_closed() {
                idle.remove(at);
            } else if idle[at].link.is_free() {
                return Some(idle.remove(at).link);
            }
        }
        None
    }

    fn put_idle(self: &Rc<Self>, link: Link) {
        let Some(link) = link.rest(&self.ended) else { return };
        let now = Instant::now();
        {
            let mut idle = self.idle.borrow_mut();
            if idle.len() >= MOST_IDLE {
                idle.remove(0);
            }
            idle.push(Idle { link, since: now });
        }
        self.last_used.set(now);
        self.look_after_idle();
        if !self.warming.get() && !self.warmth.get().span.is_zero() {
            self.warming.set(true);
            tokio::task::spawn_local(keep_warm(Rc::downgrade(self)));
        }
    }

    /// Sees to it that connections which have become idle are looked after.
    fn look_after_idle(self: &Rc<Self>) {
        if !self.is_looked_after.replace(true) {
            tokio::task::spawn_local(look_after(Rc::downgrade(self)));
        }
        if !self.has_new_idle.replace(true)
            && let Some(caretaker) = &*self.caretaker.borrow()
        {
            caretaker.wake_by_ref();
        }
    }

    /// Closes what has been idle for too long, forgets what has ended, and has the task woken when another one ends; tells
    /// when to look again, if anything is left.
    fn tend(&self, cx: &mut Context<'_>, now: Instant) -> Option<Instant> {
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain_mut(|idle| now < idle.since + LONGEST_IDLE && idle.link.poll_idle(cx).is_pending());
        if idle.len() < before {
            self.ended.notify_waiters();
        }
        let multiplexed = self.multiplexed.reap(now, LONGEST_IDLE);
        let next = idle.iter().map(|idle| idle.since + LONGEST_IDLE).min();
        multiplexed.into_iter().chain(next).min()
    }

    async fn connect(self: &Rc<Self>, timeout: Duration) -> Result<Link, Fault> {
        Link::open(dial(&self.upstream, timeout).await?).await
    }

    /// When the youngest idle connection will have been idle for too long; `None` if there is none.
    fn warm_until(&self) -> Option<Instant> {
        let idle = self.idle.borrow();
        idle.iter().filter(|idle| !idle.link.is_closed()).map(|idle| idle.since + LONGEST_IDLE - HEAD_START).max()
    }
}

/// After a connection has become idle, for as long as it is likely to be used again at once: looking after it then would only
/// cost something.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// Looks after a pool's idle connections as long as there are any: closes them when their time has come, and notices when
/// the upstream closes one. Holds nothing of the pool meanwhile.
async fn look_after(pool: Weak<Pool>) {
    let mut timer = pin!(tokio::time::sleep(SETTLED_AFTER));
    let mut settling = true;
    poll_fn(|cx| {
        let Some(pool) = pool.upgrade() else { return Poll::Ready(()) };
        pool.caretaker.replace(Some(cx.waker().clone()));
        let is_due = timer.as_mut().poll(cx).is_ready();
        if !is_due && !settling && pool.has_new_idle.get() {
            settling = true;
            let settled = Instant::now() + SETTLED_AFTER;
            let earlier = timer.deadline().min(settled);
            timer.as_mut().reset(earlier);
            return timer.as_mut().poll(cx);
        }
        if !is_due && settling {
            return Poll::Pending; // if one has ended, it will be noticed then
        }
        // it is time, or one of those that are looked after has ended
        settling = false;
        pool.has_new_idle.set(false);
        let Some(next) = pool.tend(cx, Instant::now()) else {
            pool.is_looked_after.set(false);
            return Poll::Ready(());
        };
        timer.as_mut().reset(next);
        timer.as_mut().poll(cx)
    })
    .await;
}

/// A warm connection's successor is opened so long before it is closed as idle.
const HEAD_START: Duration = Duration::from_secs(5);

/// After a warm connection has ended unused, the next is opened no sooner than this, and twice as long after each
/// further one: some servers close what is idle at once.
const WARM_AGAIN: Duration = Duration::from_secs(5);

/// Keeps one connection ready while the upstream was in use lately. Sleeps until one is due, and holds nothing of the
/// pool meanwhile.
async fn keep_warm(pool: Weak<Pool>) {
    let mut distance = WARM_AGAIN;
    let mut opened: Option<Instant> = None;
    loop {
        let Some(this) = pool.upgrade() else { return };
        let (now, warmth) = (Instant::now(), this.warmth.get());
        let end = this.last_used.get() + warmth.span;
        if warmth.span.is_zero() || now >= end {
            this.warming.set(false);
            return;
        }
        if opened.is_some_and(|opened| this.last_used.get() > opened) {
            distance = WARM_AGAIN; // it was good for something
        }
        let due = match this.warm_until() {
            Some(until) => until,
            None => opened.map_or(now, |opened| opened + distance),
        };
        if now >= due {
            if opened.is_some() && this.warm_until().is_none() {
                distance = (distance * 2).min(LONGEST_IDLE);
            }
            opened = Some(now);
            match this.connect(warmth.connect_timeout).await {
                // behind those in use: it is for the one who finds no other
                Ok(link) => {
                    this.idle.borrow_mut().insert(0, Idle { link, since: Instant::now() });
                    this.look_after_idle();
                }
                Err(fault) => debug!(upstream = %this.upstream.label, ?fault, "no warm connection to be had"),
            }
            continue;
        }
        let bell = this.ended.clone();
        drop(this); // the pool may go meanwhile
        tokio::select! {
            () = tokio::time::sleep_until(due.min(end)) => {}
            () = bell.notified() => {}
        }
    }
}

impl Lease {
    /// A share of a connection, until this is dropped.
    pub(crate) fn shared(stream: http2::Stream) -> Self {
        Self(Held::Shared { _stream: stream })
    }

    /// The next frame of the answer that comes on the connection.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        incoming: &mut Incoming,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Held::Alone { link, .. } => link.poll_frame(cx, incoming),
            Held::Shared { .. } => Pin::new(incoming).poll_frame(cx),
        }
    }

    /// Makes the connection free for others, unless it is closed or its answer came before its request's end. Call it when
    /// its answer has been read to the end.
    pub(crate) fn give_back(self) {
        match self.0 {
            Held::Alone { pool, link } => pool.put_idle(link),
            Held::Shared { _stream } => {}
        }
    }
}

/// Connects, TLS included, within `timeout`.
pub(crate) async fn dial(upstream: &UpstreamOrigin, timeout: Duration) -> Result<UpstreamIo, Fault> {
    let connecting = async {
        let tcp = connect_tcp(&upstream.origin.host, upstream.origin.port).await?;
        let Some(tls) = &upstream.tls else { return Ok(UpstreamIo::Plain(tcp)) };
        Ok(UpstreamIo::Tls(Box::new(open_tls(&tls.http1, &tls.name, tcp).await?)))
    };
    tokio::time::timeout(timeout, connecting).await.unwrap_or(Err(Fault::ConnectTimeout))
}

/// Like [`dial`], for HTTP/2; `None` if the upstream chose HTTP/1.1.
pub(crate) async fn dial_http2(upstream: &UpstreamOrigin, timeout: Duration) -> Result<Option<UpstreamIo>, Fault> {
    let connecting = async {
        let tcp = connect_tcp(&upstream.origin.host, upstream.origin.port).await?;
        let Some(tls) = &upstream.tls else { return Ok(Some(UpstreamIo::Plain(tcp))) };
        let tls = open_tls(&tls.http2, &tls.name, tcp).await?;
        let chosen = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(chosen.then(|| UpstreamIo::Tls(Box::new(tls))))
    };
    tokio::time::timeout(timeout, connecting).await.unwrap_or(Err(Fault::ConnectTimeout))
}

async fn open_tls(
    config: &Arc<ClientConfig>,
    name: &ServerName<'static>,
    tcp: TcpStream,
) -> Result<TlsStream<TcpStream>, Fault> {
    let connector = tokio_rustls::TlsConnector::from(config.clone());
    connector.connect(name.clone(), tcp).await.map_err(|error| tls_fault(&error))
}

async fn connect_tcp(host: &str, port: u16) -> Result<TcpStream, Fault> {
    let addresses = names::look_up(host, port)
        .await
        .map_err(|error| Fault::Unreachable { error: "dns_error", detail: error.to_string() })?;
    let tcp = connect_any(addresses).await.map_err(|error| {
        let word = match error.kind() {
            io::ErrorKind::ConnectionRefused => "connection_refused",
            io::ErrorKind::NotFound => "dns_error",
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => "destination_ip_unroutable",
            _ => "destination_unavailable",
        };
        Fault::Unreachable { error: word, detail: error.to_string() }
    })?;
    // neither is worth failing for
    let _ = tcp.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(&tcp, true);
    let _ = rustix::net::sockopt::set_tcp_keepidle(&tcp, KEEPALIVE_AFTER);
    Ok(tcp)
}

/// RFC 8305: the families in turn, each further address a moment after the one before it or as soon as that has failed.
async fn connect_any(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first_is_v6);
    (first, second) = (first.into_iter().rev().collect(), second.into_iter().rev().collect());
    let mut attempts = JoinSet::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        if let Some(address) = first.pop() {
            attempts.spawn_local(TcpStream::connect(address));
            std::mem::swap(&mut first, &mut second);
        } else if let Some(address) = second.pop() {
            attempts.spawn_local(TcpStream::connect(address));
        }
        let all_started = first.is_empty() && second.is_empty();
        tokio::select! {
            ended = attempts.join_next() => match ended {
                Some(Ok(Ok(tcp))) => return Ok(tcp),
                Some(Ok(Err(error))) => failure = error,
                Some(Err(error)) => failure = io::Error::other(error),
                None => return Err(failure),
            },
            () = tokio::time::sleep(NEXT_ADDRESS_AFTER), if !all_started => {}
        }
    }
}

fn tls_fault(error: &io::Error) -> Fault {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    let word = match cause {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => "tls_certificate_error",
        Some(rustls::Error::AlertReceived(_)) => "tls_alert_received",
        _ => "tls_protocol_error",
    };
    Fault::Tls { error: word, detail: error.to_string() }
}

/// Whether the upstream ended the request's stream alone, on a connection that goes on.
pub(crate) fn is_reset(error: &hyper::Error) -> bool {
    http2_error(error).is_some_and(h2::Error::is_reset)
}

/// Whether the upstream says that it has not begun with the request, so that it can be sent again whatever it is (RFC 9113
/// section 8.7).
pub(crate) fn was_not_begun(error: &hyper::Error) -> bool {
    http2_error(error).is_some_and(|error| {
        let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
        let went_away = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
        error.is_remote() && (refused || went_away)
    })
}

fn http2_error(error: &hyper::Error) -> Option<&h2::Error> {
    std::error::Error::source(error).and_then(|cause| cause.downcast_ref())
}

/// What a lost connection means for the one who waits for the answer.
pub(crate) fn lost(error: &hyper::Error) -> Fault {
    let word = if error.is_parse() {
        "http_protocol_error"
    } else if error.is_incomplete_message() {
        "http_response_incomplete"
    } else {
        "connection_terminated"
    };
    let mut detail = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        detail = format!("{detail}: {error}");
        cause = error.source();
    }
    Fault::BrokenAnswer { error: word, detail }
}

/// A byte stream to an upstream.
pub(crate) enum UpstreamIo {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for UpstreamIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for UpstreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => {
                let mut small = [0; SMALL_WRITE];
                match joined(bufs, &mut small) {
                    Some(bytes) => Pin::new(tcp).poll_write(cx, bytes),
                    None => Pin::new(tcp).poll_write_vectored(cx, bufs),
                }
            }
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
