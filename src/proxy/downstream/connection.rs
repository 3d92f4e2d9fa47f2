//! One client's connection: its bytes, its phases, its deadlines and its end.
//!
//! The first bytes tell HTTP/2 from HTTP/1.1 (RFC 9113 section 3.3: prior knowledge). What follows here is HTTP/1.1;
//! HTTP/2 is in `http2`, where each stream has the pulse and the alarm that a whole connection has here.
//!
//! A connection that has nothing to do is given no buffers: before its first byte and some time after its last one, there
//! is the socket and nothing of hyper's, whose two buffers of 8 KiB would be most of what an idle client costs.
//!
//! The deadlines cost nothing while all is well. Bytes that move only leave a mark ([`Pulse`]); a single timer looks
//! for it now and then, and a deadline has passed when it has found none four times in a row, at quarters of the time
//! allowed. Only what must not be stretched by a dripping client (a request's head) has a deadline of its own, which is
//! set when the head does not arrive in one piece, that is, hardly ever.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::Response;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep, sleep};
use tracing::debug;

use crate::audit;
use crate::platform::containers::Containers;
use crate::platform::peer::Ends;
use crate::proxy::Peer;
use crate::proxy::downstream::{http2, stranger};
use crate::proxy::exchange::body::AnswerBody;
use crate::proxy::exchange::service;
use crate::proxy::fault::Fault;
use crate::proxy::policy::error::{Advice, ProxyError};
use crate::proxy::policy::guard::{Caller, Door};
use crate::proxy::policy::scope::Scope;
use crate::proxy::vectored::{SMALL_WRITE, joined};
use crate::proxy::worker::Worker;

/// For the whole head of a request, from its first byte on; long enough for a person with telnet.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Without a byte, for an exchange that has reached no route, which would set its own limit: a refusal, that is.
const BEFORE_ROUTE: Duration = Duration::from_secs(10);

/// For the next request; as long as common servers allow, so that clients' pools, which know them, rarely lose a race.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// After this time without a byte between requests, hyper and its buffers are let go.
const REST_AFTER: Duration = Duration::from_secs(2);

/// After our last word, for the client to read it and to hang up: closing at once would reset the connection if the
/// client is still sending, and the reset would overtake what we said (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(2);

/// Requests' heads, and the chunks of bodies, at most.
const BUFFER: usize = 64 * 1024;

/// Looks without a mark that make a deadline.
const STRIKES: u8 = 4;

/// How an HTTP/2 client begins (RFC 9113 section 3.4).
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Enough for most requests' heads, and little enough for the stack.
const FIRST_READ: usize = 2048;

/// What a connection is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Between requests.
    Idle,
    /// Between requests, for some time already.
    Resting,
    /// A head has begun.
    Head,
    /// A request is being carried out; nothing has been answered.
    Waiting,
    /// The answer is on its way.
    Answering,
    /// All is said; the client may read it.
    Lingering,
    /// What passes is another protocol's.
    Tunnel,
}

/// How far the last request's body has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Upload {
    /// It has been read to its end, or there was none.
    Over,
    /// Nobody has begun to read it.
    Owed,
    /// It is on its way upstream, maybe for longer than its answer.
    Streaming,
    /// Nobody reads the rest. hyper looks whether that has come already, and otherwise reads nothing more.
    Abandoned,
    /// hyper has read on since: it is done with the body.
    Skipped,
}

/// What the parts of a connection tell each other. Written and read by one thread; atomics only because what hyper
/// upgrades has to be `Send`, so no order is asked of them.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// Bytes have moved since somebody looked.
    moved: AtomicBool,
    phase: AtomicU8,
    /// Numbers the requests.
    serial: AtomicU32,
    /// The running exchange's limit.
    idle_timeout_millis: AtomicU32,
    /// The running exchange has passed its limit.
    timed_out: AtomicBool,
    /// Bytes of the request's body that have been read.
    received: AtomicU64,
    upload: AtomicU8,
    /// Where in memory the last byte of the request's body ended, if that was a body of announced length.
    body_end: AtomicUsize,
    /// The client has closed its sending side.
    half_closed: AtomicBool,
    /// The client takes no more just now of what is to be sent.
    congested: AtomicBool,
}

impl Pulse {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            moved: AtomicBool::new(false),
            phase: AtomicU8::new(Phase::Head as u8), // the first request is due, not just possible
            serial: AtomicU32::new(0),
            idle_timeout_millis: AtomicU32::new(BEFORE_ROUTE.as_millis() as u32),
            timed_out: AtomicBool::new(false),
            received: AtomicU64::new(0),
            upload: AtomicU8::new(Upload::Over as u8),
            body_end: AtomicUsize::new(0),
            half_closed: AtomicBool::new(false),
            congested: AtomicBool::new(false),
        })
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Resting,
            2 => Phase::Head,
            3 => Phase::Waiting,
            4 => Phase::Answering,
            5 => Phase::Lingering,
            _ => Phase::Tunnel,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    /// Bytes have moved.
    pub(crate) fn mark(&self) {
        self.moved.store(true, Relaxed);
    }

    /// The exchange has passed its limit, and hears of it the next time it is asked; false if it has been told before.
    pub(crate) fn time_out(&self) -> bool {
        !self.timed_out.swap(true, Relaxed)
    }

    /// Begins the present phase anew.
    pub(crate) fn renew(&self) {
        self.serial.store(self.serial.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// A request's head is whole; `uploading` says whether it has a body.
    pub(crate) fn begin(&self, uploading: bool) {
        self.renew();
        self.limit(BEFORE_ROUTE);
        self.timed_out.store(false, Relaxed);
        self.received.store(0, Relaxed);
        self.set_upload(if uploading { Upload::Owed } else { Upload::Over });
        self.body_end.store(0, Relaxed);
        self.enter(Phase::Waiting);
    }

    /// From here on, the exchange may be without a byte for at most `limit`.
    pub(crate) fn limit(&self, limit: Duration) {
        self.idle_timeout_millis.store(limit.as_millis().try_into().unwrap_or(u32::MAX), Relaxed);
    }

    /// The answer's head is there.
    pub(crate) fn answer(&self) {
        if self.phase() == Phase::Waiting {
            self.enter(Phase::Answering);
        }
    }

    /// The answer is a switch to another protocol.
    pub(crate) fn switch(&self) {
        self.enter(Phase::Tunnel);
    }

    /// The answer is handed out to its end, or to nobody.
    pub(crate) fn end(&self) {
        if matches!(self.phase(), Phase::Waiting | Phase::Answering) {
            self.enter(Phase::Idle);
        }
    }

    /// Which request is the last one.
    pub(crate) fn serial(&self) -> u32 {
        self.serial.load(Relaxed)
    }

    fn upload(&self) -> Upload {
        match self.upload.load(Relaxed) {
            0 => Upload::Over,
            1 => Upload::Owed,
            2 => Upload::Streaming,
            3 => Upload::Abandoned,
            _ => Upload::Skipped,
        }
    }

    fn set_upload(&self, upload: Upload) {
        self.upload.store(upload as u8, Relaxed);
    }

    /// A part of the body of request `serial` has been read. A body can be read after its answer has ended and the next
    /// request has begun: that must not be told of the next one's.
    pub(crate) fn received(&self, serial: u32, bytes: usize) {
        if serial == self.serial() {
            self.mark();
            self.received.store(self.received.load(Relaxed) + bytes as u64, Relaxed);
        }
    }

    /// Bytes of the request's body so far.
    pub(crate) fn bytes_received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// The body of the last request goes upstream from now on.
    pub(crate) fn uploads(&self) {
        self.set_upload(Upload::Streaming);
    }

    /// The body of request `serial` has been read to its end; `last` was the last of it.
    pub(crate) fn uploaded(&self, serial: u32, last: Option<&Bytes>) {
        if serial == self.serial() {
            self.set_upload(Upload::Over);
            self.body_end.store(last.map_or(0, |last| last.as_ptr_range().end.addr()), Relaxed);
        }
    }

    /// Where the last request's body ended, said once: whatever is read later may lie at the same place.
    fn take_body_end(&self) -> usize {
        let end = self.body_end.load(Relaxed);
        self.body_end.store(0, Relaxed);
        end
    }

    /// Nobody will read what is left of the body of request `serial`, if anything is.
    pub(crate) fn abandoned(&self, serial: u32) {
        if serial == self.serial() && self.upload() == Upload::Streaming {
            self.set_upload(Upload::Abandoned);
        }
    }

    /// The last request was answered without its body having been looked at, if it had one.
    pub(crate) fn refused(&self) {
        if self.upload() == Upload::Owed {
            self.set_upload(Upload::Abandoned);
        }
    }

    /// Whether no whole request has come yet.
    fn is_fresh(&self) -> bool {
        self.serial.load(Relaxed) == 0
    }

    /// Whether nothing is left of the last exchange that hyper would have to send or to read.
    fn is_all_done(&self) -> bool {
        !self.congested.load(Relaxed) && !self.is_uploading()
    }

    /// Whether the client may still owe a part of the request's body.
    fn is_uploading(&self) -> bool {
        self.upload() != Upload::Over
    }

    fn exchange_runs(&self) -> bool {
        matches!(self.phase(), Phase::Waiting | Phase::Answering)
    }

    /// What the timer should look for.
    pub(crate) fn watch(&self) -> Watch {
        let phase = self.phase();
        let span = match phase {
            Phase::Idle => REST_AFTER / u32::from(STRIKES),
            Phase::Resting | Phase::Tunnel => KEEP_ALIVE / u32::from(STRIKES),
            Phase::Head => HEAD_TIMEOUT,
            Phase::Waiting | Phase::Answering => {
                Duration::from_millis(self.idle_timeout_millis.load(Relaxed).into()) / u32::from(STRIKES)
            }
            Phase::Lingering => LINGER,
        };
        Watch { phase, serial: self.serial.load(Relaxed), span }
    }
}

/// What a timer was set for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Watch {
    phase: Phase,
    serial: u32,
    span: Duration,
}

impl Watch {
    /// Whether moving bytes extend it.
    fn can_be_extended(&self) -> bool {
        match self.phase {
            Phase::Idle | Phase::Resting | Phase::Waiting | Phase::Answering | Phase::Tunnel => true,
            Phase::Head | Phase::Lingering => false,
        }
    }

    fn is_same_wait(&self, other: &Watch) -> bool {
        self.phase == other.phase && self.serial == other.serial
    }
}

/// The one timer of a connection.
pub(crate) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    watch: Watch,
    strikes: u8,
}

impl Alarm {
    pub(crate) fn new(watch: Watch) -> Self {
        Self { sleep: Box::pin(sleep(watch.span)), watch, strikes: 0 }
    }

    fn set(&mut self, watch: Watch) {
        let at = Instant::now() + watch.span;
        self.sleep.as_mut().reset(at);
        self.watch = watch;
    }

    /// Follows a change of phase, where the new one cannot wait for the next look. Not on a usual request's path.
    pub(crate) fn follow(&mut self, pulse: &Pulse) {
        let now = pulse.watch();
        let is_new_deadline = !now.can_be_extended() && !now.is_same_wait(&self.watch);
        if is_new_deadline || now.span < self.watch.span {
            self.set(now);
            self.strikes = 0;
        }
    }

    /// Whether the deadline of what goes on has passed. Looks, and sets itself again.
    pub(crate) fn poll_passed(&mut self, cx: &mut Context<'_>, pulse: &Pulse) -> Poll<Phase> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let now = pulse.watch();
            let moved = pulse.moved.swap(false, Relaxed);
            let same = now.is_same_wait(&self.watch);
            if !same || (now.can_be_extended() && moved) {
                self.strikes = 0;
            } else if now.can_be_extended() && self.strikes + 1 < STRIKES {
                self.strikes += 1;
            } else {
                self.strikes = 0;
                self.set(now);
                return Poll::Ready(now.phase);
            }
            self.set(now);
        }
    }
}

/// A client's connection, or one stream of it, as its requests see it.
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) door: Door,
    /// The routes of the listener.
    pub(crate) scope: Scope,
    pub(crate) pulse: Arc<Pulse>,
    /// Its place in the audit, from its first noted request on.
    pub(crate) seat: Rc<RefCell<Option<audit::Seat>>>,
    /// Both ends, on TCP: the client's, ours.
    pub(crate) ends: Option<(SocketAddr, SocketAddr)>,
    /// Whether the client runs outside of containers, once somebody has looked.
    at_home: Cell<Option<bool>>,
    id: u64,
    /// A stream's is its connection's.
    standing: Cell<Standing>,
    stopping: Cell<Stopping>,
    waker: RefCell<Option<Waker>>,
    /// The connection that this is a stream of.
    carrier: Option<Rc<Connection>>,
    /// How many streams are open.
    streams: Cell<usize>,
}

/// What is known of a connection's client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// It may come in, or has shown a client key.
    Client,
    /// It has yet to show a client key.
    Stranger,
    /// It was told no, and may read so.
    TurnedAway,
    /// Others need its place.
    Closed,
}

/// How far the end of a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stopping {
    No,
    /// As soon as it has been used: who has only just connected is about to ask, and is answered.
    Used,
    /// Whatever it is at, once the running exchange has ended.
    Now,
    Told,
}

impl Connection {
    pub(crate) fn new(
        worker: Rc<Worker>,
        door: Door,
        scope: Scope,
        ends: Option<(SocketAddr, SocketAddr)>,
        standing: Standing,
    ) -> Rc<Self> {
        let id = worker.next_id();
        let connection = Rc::new(Self {
            door,
            scope,
            pulse: Pulse::new(),
            seat: Rc::default(),
            ends,
            at_home: Cell::new(None),
            id,
            standing: Cell::new(standing),
            stopping: Cell::new(Stopping::No),
            waker: RefCell::new(None),
            carrier: None,
            streams: Cell::new(0),
            worker,
        });
        connection.worker.opened(id, &connection);
        connection
    }

    /// Opens a stream: to its request, a connection like any other.
    pub(crate) fn stream(self: &Rc<Self>) -> Rc<Self> {
        self.streams.set(self.streams.get() + 1);
        Rc::new(Self {
            worker: self.worker.clone(),
            door: self.door,
            scope: self.scope.clone(),
            pulse: Pulse::new(),
            seat: self.seat.clone(),
            ends: self.ends,
            at_home: Cell::new(None),
            id: self.id,
            standing: self.standing.clone(),
            stopping: Cell::new(Stopping::No),
            waker: RefCell::new(None),
            carrier: Some(self.clone()),
            streams: Cell::new(0),
        })
    }

    /// Whether names below `localhost` lead to the same listener: clients take them for the usual addresses. What a command
    /// is lent is on one of the two only, and anybody may have the other.
    pub(crate) fn is_where_localhost_is(&self) -> bool {
        !matches!(self.scope, Scope::Lent(_))
            && self.ends.is_some_and(|(_, server)| match server.ip().to_canonical() {
                IpAddr::V4(address) => address == Ipv4Addr::LOCALHOST,
                IpAddr::V6(address) => address == Ipv6Addr::LOCALHOST,
            })
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The connection that this is, or is a stream of.
    fn whole(&self) -> &Self {
        self.carrier.as_deref().unwrap_or(self)
    }

    pub(crate) fn standing(&self) -> Standing {
        self.whole().standing.get()
    }

    /// A request may come in, or has shown a valid client key: from here on it is a client's connection.
    pub(crate) fn vouch(&self) {
        let whole = self.whole();
        if whole.standing.get() == Standing::Stranger {
            whole.worker.strangers.leave(whole.id);
            whole.stands(Standing::Client);
        }
    }

    /// Its client was told no: the connection ends when that has been read.
    pub(crate) fn turn_away(&self) {
        self.whole().stands(Standing::TurnedAway);
    }

    /// Ends a stranger's connection at once.
    pub(crate) fn close(&self) {
        self.whole().stands(Standing::Closed);
    }

    fn stands(&self, standing: Standing) {
        self.standing.set(standing);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn has_streams(&self) -> bool {
        self.streams.get() > 0
    }

    /// Whether it is to end now, which is said once. `is_fresh` is whether a first exchange may still come. Wakes the
    /// asking task when there is anything new.
    pub(crate) fn is_told_to_stop(&self, cx: &Context<'_>, is_fresh: bool) -> bool {
        if self.waker.borrow().is_none() {
            *self.waker.borrow_mut() = Some(cx.waker().clone());
        }
        let stops = match self.stopping.get() {
            Stopping::No | Stopping::Told => false,
            Stopping::Used => !is_fresh,
            Stopping::Now => true,
        };
        if stops {
            self.stopping.set(Stopping::Told);
        }
        stops
    }

    /// Lets the running exchange end, and no other begin; but a first one, if there was none yet, until
    /// [`Connection::stop_waiting`].
    pub(crate) fn stop(&self) {
        self.stop_at(Stopping::Used);
    }

    /// Waits no longer for a first exchange.
    pub(crate) fn stop_waiting(&self) {
        self.stop_at(Stopping::Now);
    }

    fn stop_at(&self, stopping: Stopping) {
        if self.stopping.get() != Stopping::Told {
            self.stopping.set(stopping);
        }
        self.wake();
    }

    /// Waits for `answer`, unless the exchange passes its limit first.
    pub(crate) async fn in_time<T>(&self, mut answer: Pin<&mut impl Future<Output = T>>) -> Result<T, Fault> {
        poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Ok(answer)),
            Poll::Pending if self.pulse.timed_out.load(Relaxed) => Poll::Ready(Err(Fault::AnswerTimeout)),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Whether the client is known to run outside of containers; looked up once.
    pub(crate) async fn is_at_home(&self, containers: &Containers) -> bool {
        let connection = self.carrier.as_deref().unwrap_or(self);
        if let Some(known) = connection.at_home.get() {
            return known;
        }
        let at_home = match (self.ends, self.door.caller) {
            (Some((client, server)), _) => containers.is_at_home(Ends::Tcp(client, server)).await,
            (None, Caller::Of { pid, .. }) => containers.is_at_home(Ends::Unix(pid)).await,
            (None, Caller::NotAsked | Caller::Unknown) => false,
        };
        connection.at_home.set(Some(at_home));
        at_home
    }

    /// A client that has closed its sending side while an answer is due may only be done with asking, or be gone.
    /// Where nobody can tell, it is taken to be gone, as most servers do.
    fn client_is_gone(&self) -> bool {
        match self.ends {
            Some((client, server)) => !matches!(self.worker.look_up_peer(client, server), Some(Peer::Uid(_))),
            None => true,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(carrier) = &self.carrier else { return self.worker.closed(self.id) };
        carrier.streams.set(carrier.streams.get() - 1);
        carrier.pulse.renew();
        if carrier.standing.get() == Standing::TurnedAway {
            carrier.wake();
        }
    }
}

/// Serves a stranger's connection, which ends with [`stranger::PATIENCE`] unless a request has shown a client key.
pub(crate) async fn serve_stranger(connection: Rc<Connection>, socket: Socket) {
    let mut patience = pin!(sleep(stranger::PATIENCE));
    let mut serving = pin!(serve(connection.clone(), socket));
    poll_fn(|cx| {
        if serving.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match connection.standing() {
            Standing::Client => Poll::Pending,
            Standing::Stranger | Standing::TurnedAway => patience.as_mut().poll(cx),
            Standing::Closed => Poll::Ready(()),
        }
    })
    .await;
}

/// Serves a connection until either side ends it.
pub(crate) async fn serve(connection: Rc<Connection>, socket: Socket) {
    let pulse = connection.pulse.clone();
    let mut io = ClientIo::new(socket, pulse.clone());
    let mut alarm = Alarm::new(pulse.watch());
    loop {
        let protocol = poll_fn(|cx| {
            if connection.is_told_to_stop(cx, pulse.is_fresh()) {
                return Poll::Ready(None);
            }
            if let Poll::Ready(protocol) = io.poll_protocol(cx) {
                return Poll::Ready(protocol.ok());
            }
            alarm.poll_passed(cx, &pulse).map(|_| None)
        });
        let protocol = protocol.await;
        if protocol == Some(Protocol::Http1)
            && connection.standing() == Standing::Stranger
            && shows_no_key(&connection, &mut io).await
            && let Some(check) = connection.worker.bar(connection.door)
        {
            return connection.worker.turn_away(io.socket, connection.door.caller, check, &io.surplus);
        }
        // boxed, so that a connection without them takes no room for them
        match protocol {
            Some(Protocol::Http1) => match Box::pin(serve_http1(&connection, io, &mut alarm)).await {
                Some(at_rest) => io = at_rest,
                None => return,
            },
            Some(Protocol::Http2) => return Box::pin(http2::serve(connection, io)).await,
            None => return,
        }
    }
}

/// Reads a stranger's first head as far as it has to, without hyper, to see that it shows no client key. What comes in
/// very small pieces is left to hyper.
async fn shows_no_key(connection: &Connection, io: &mut ClientIo) -> bool {
    let mut seen = 0;
    for _ in 0..stranger::MOST_READS {
        if let Some(shows_no_key) = stranger::shows_no_key(&io.surplus, seen) {
            return shows_no_key;
        }
        seen = io.surplus.len();
        let more = poll_fn(|cx| match connection.is_told_to_stop(cx, true) {
            true => Poll::Ready(Ok(false)),
            false => io.poll_more(cx),
        });
        if !matches!(more.await, Ok(true)) {
            return false;
        }
    }
    false
}

/// Serves requests until the connection has come to an end, or to rest: then it gives back the client's bytes.
async fn serve_http1(connection: &Rc<Connection>, io: ClientIo, alarm: &mut Alarm) -> Option<ClientIo> {
    let pulse = connection.pulse.clone();
    let is_unix = matches!(io.socket, Socket::Unix(_));
    let service = service_fn(|request| {
        // boxed, as hyper would move its whole state about before it begins
        let answer = Box::pin(service::answer(connection.clone(), request));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    // no header_read_timeout: it counts the time between requests, too, and sets a timer for each
    let mut serving =
        http1::Builder::new().max_buf_size(BUFFER).serve_connection(TokioIo::new(io), service).with_upgrades();
    let mut gone_was_asked = false;
    let ended = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut serving).poll(cx) {
                return Poll::Ready(Ended::Over(ended));
            }
            // after the poll: hyper closes a connection that it has read nothing from, and now it has read what is there
            if connection.is_told_to_stop(cx, pulse.is_fresh()) {
                Pin::new(&mut serving).graceful_shutdown();
                continue;
            }
            if pulse.half_closed.load(Relaxed) && pulse.exchange_runs() && !gone_was_asked {
                gone_was_asked = true;
                if is_unix || connection.client_is_gone() {
                    return Poll::Ready(Ended::Over(Ok(())));
                }
            }
            alarm.follow(&pulse);
            match ready!(alarm.poll_passed(cx, &pulse)) {
                // the request says so itself, the next time it is asked
                Phase::Waiting if pulse.time_out() => {}
                Phase::Idle => {
                    pulse.enter(Phase::Resting);
                    if pulse.is_all_done() {
                        return Poll::Ready(Ended::AtRest);
                    }
                }
                phase => {
                    debug!(?phase, "a client's connection timed out");
                    return Poll::Ready(Ended::Over(Ok(())));
                }
            }
        }
    })
    .await;
    match ended {
        Ended::AtRest => {
            let parts = serving.into_parts()?;
            Some(parts.io.into_inner().with(parts.read_buf))
        }
        Ended::Over(Ok(())) => None,
        Ended::Over(Err(error)) => {
            if error.is_parse() {
                connection.worker.stats.refused.add(1);
            }
            debug!(%error, "a client's connection ended");
            None
        }
    }
}

/// How serving a connection ended.
enum Ended {
    Over(hyper::Result<()>),
    AtRest,
}

/// What a client speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Protocol {
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
    socket: Socket,
    pulse: Arc<Pulse>,
    /// What is left of a problem document that stands for hyper's own error message.
    own_words: Bytes,
    /// The last request whose answer has gone out to its last byte.
    answered: u32,
    line: Line,
    /// The last four bytes that hyper was given, and where in its memory they ended.
    handed: ([u8; 4], usize),
    /// What was read and not yet handed on: the first bytes, or what escaping made longer than the buffer.
    surplus: Bytes,
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
    fn new(socket: Socket, pulse: Arc<Pulse>) -> Self {
        let (own_words, surplus) = (Bytes::new(), Bytes::new());
        Self { socket, pulse, own_words, answered: 0, line: Line::Method, handed: ([0; 4], 0), surplus }
    }

    /// Puts back what was read and not used: what follows is the rest of a request's head.
    fn with(mut self, unused: Bytes) -> Self {
        if !unused.is_empty() {
            self.pulse.enter(Phase::Head);
            self.line = Line::Over;
            self.surplus = unused;
        }
        self
    }

    /// Reads what comes first, until it can only be one protocol's. After an HTTP/1.1 exchange, that is HTTP/1.1.
    fn poll_protocol(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Protocol>> {
        let is_fresh = self.pulse.is_fresh();
        if !is_fresh && !self.surplus.is_empty() {
            return Poll::Ready(Ok(Protocol::Http1));
        }
        let mut bytes = [0; FIRST_READ];
        let protocol = loop {
            let mut buf = ReadBuf::new(&mut bytes);
            ready!(self.poll_socket_read(cx, &mut buf)?);
            let read = buf.filled();
            if read.is_empty() {
                self.pulse.half_closed.store(true, Relaxed);
                break Protocol::Http1;
            }
            self.surplus = match self.surplus.is_empty() {
                true => Bytes::copy_from_slice(read),
                false => [&self.surplus, read].concat().into(),
            };
            if !is_fresh {
                self.pulse.enter(Phase::Head);
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
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut bytes = [0; 4 * FIRST_READ];
        let mut buf = ReadBuf::new(&mut bytes);
        ready!(self.poll_socket_read(cx, &mut buf)?);
        let read = buf.filled();
        if read.is_empty() {
            self.pulse.half_closed.store(true, Relaxed);
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
        let is_clean = match self.pulse.upload() {
            Upload::Owed | Upload::Streaming => return,
            Upload::Abandoned => return self.pulse.set_upload(Upload::Skipped),
            Upload::Skipped => false,
            Upload::Over => last == *b"\r\n\r\n" || end == self.pulse.take_body_end(),
        };
        if matches!(self.pulse.phase(), Phase::Idle | Phase::Resting) && self.has_answered() {
            self.pulse.enter(Phase::Head);
            self.line = if is_clean { Line::Method } else { Line::Over };
        }
    }

    /// Whether nothing is to be written but what hyper has to say by itself.
    fn has_answered(&self) -> bool {
        self.answered == self.pulse.serial() && !self.pulse.exchange_runs() && self.pulse.phase() != Phase::Tunnel
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
        self.pulse = Pulse::new();
        self.pulse.enter(Phase::Tunnel);
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
        self.pulse.congested.store(written.is_pending(), Relaxed);
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
        if !self.pulse.half_closed.load(Relaxed) {
            ready!(self.poll_socket_read(cx, buf)?);
        }
        if buf.filled().len() > before {
            self.pulse.moved.store(true, Relaxed);
            self.sort();
            if self.line != Line::Over && self.pulse.phase() == Phase::Head {
                self.escape_target(buf, before);
            }
            self.hand(&buf.filled()[before..]);
            return Poll::Ready(Ok(()));
        }
        self.pulse.half_closed.store(true, Relaxed);
        // `serve` finds out whether anybody is left to answer
        let may_still_listen = self.pulse.exchange_runs() && !self.pulse.is_uploading();
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
        self.pulse.moved.store(true, Relaxed);
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
        self.pulse.moved.store(true, Relaxed);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Sockets have no buffer of their own to flush; but hyper asks only when it has written all that it had.
    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.pulse.exchange_runs() {
            self.answered = self.pulse.serial();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let phase = self.pulse.phase();
        if phase != Phase::Lingering {
            match &mut self.socket {
                Socket::Tcp(tcp) => ready!(Pin::new(tcp).poll_shutdown(cx)?),
                Socket::Unix(unix) => ready!(Pin::new(unix).poll_shutdown(cx)?),
            }
            // only where the client may still be sending; in a tunnel, what it sends is for the other end
            if phase == Phase::Tunnel || (phase != Phase::Head && !self.pulse.is_uploading()) {
                return Poll::Ready(Ok(()));
            }
            self.pulse.enter(Phase::Lingering);
        }
        let mut rest = [0; 4096];
        while !self.pulse.half_closed.load(Relaxed) {
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

/// An answer of our own as bytes: for those that no request stands behind, and those that none is looked at for.
pub(crate) fn spell_out(response: Response<AnswerBody>) -> Bytes {
    let (head, body) = response.into_parts();
    let mut bytes = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body.text());
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_exchange_times_out_after_four_quarters_without_a_byte_and_not_before() {
        let pulse = Pulse::new();
        pulse.begin(false);
        pulse.limit(Duration::from_secs(8));
        let mut alarm = Alarm::new(pulse.watch());
        let start = Instant::now();
        for second in [1, 3, 5, 7, 9, 11] {
            let until = start + Duration::from_secs(second);
            let early = tokio::time::timeout_at(until, poll_fn(|cx| alarm.poll_passed(cx, &pulse))).await;
            assert!(early.is_err(), "{second}");
            pulse.moved.store(true, Relaxed);
        }
        assert_eq!(poll_fn(|cx| alarm.poll_passed(cx, &pulse)).await, Phase::Waiting);
        assert_eq!(start.elapsed().as_secs(), 20); // the look at 12 s found a mark; 14, 16, 18, 20 did not
    }

    #[tokio::test(start_paused = true)]
    async fn a_dripping_head_is_not_extended_and_a_new_deadline_is_followed_at_once() {
        let pulse = Pulse::new();
        pulse.begin(false);
        pulse.end();
        let mut alarm = Alarm::new(pulse.watch());
        let start = Instant::now();
        pulse.enter(Phase::Head);
        alarm.follow(&pulse);
        pulse.moved.store(true, Relaxed);
        assert_eq!(poll_fn(|cx| alarm.poll_passed(cx, &pulse)).await, Phase::Head);
        assert_eq!(start.elapsed().as_secs(), HEAD_TIMEOUT.as_secs());
    }

    #[test]
    fn a_body_that_is_read_after_the_next_request_has_begun_says_nothing_of_that_ones() {
        let pulse = Pulse::new();
        pulse.begin(true);
        let first = pulse.serial();
        pulse.uploads();
        pulse.end();
        pulse.begin(true);
        pulse.uploads();
        pulse.received(first, 5);
        pulse.uploaded(first, None);
        pulse.abandoned(first);
        assert_eq!((pulse.upload(), pulse.bytes_received()), (Upload::Streaming, 0));
        pulse.received(pulse.serial(), 5);
        pulse.uploaded(pulse.serial(), None);
        assert_eq!((pulse.upload(), pulse.bytes_received()), (Upload::Over, 5));
    }

    #[tokio::test]
    async fn what_is_left_of_an_answer_is_not_taken_for_hypers_own_words() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        const LIKE_HYPERS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let pulse = Pulse::new();
        let mut io = ClientIo::new(Socket::Unix(ours), pulse.clone());
        pulse.begin(false);
        pulse.answer();
        pulse.end();
        // the next head has begun, and hyper has not yet written all of the last answer
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
