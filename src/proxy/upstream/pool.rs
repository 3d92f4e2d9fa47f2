//! Connections to an upstream: opened when none is free, kept warm, one pool a worker.
//!
//! HTTP/1.1 carries one exchange at a time, so a connection is leased, and given back when its answer has been read to
//! the end. One that ended otherwise, or was answered before its request had been sent, is never used again: dropping it
//! closes it. One such connection is in `link`; HTTP/2's are in `multiplexed`.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use hyper::{Request, Response, Version};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::debug;

use crate::proxy::authorization::Authorization;
use crate::proxy::fault::Fault;
use crate::proxy::replay::RequestBody;
use crate::proxy::upstream::dial::dial;
use crate::proxy::upstream::error::SendError;
use crate::proxy::upstream::http1::Link;
use crate::proxy::upstream::http2::{self, Multiplexed, Sent};
use crate::proxy::upstream::origin::UpstreamOrigin;

/// A little below the 60 s after which many servers and load balancers close an idle connection: better that we do it.
const LONGEST_IDLE: Duration = Duration::from_secs(55);

/// More idle connections to one upstream than that are not worth their memory. As many as a crowd of clients uses at
/// once: with fewer, every request of a crowd would close one connection and open another.
const MOST_IDLE: usize = 1024;

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
