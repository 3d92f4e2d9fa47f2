//! Connections to an upstream: opened when none is free, kept warm, one pool a worker.
//!
//! HTTP/1.1 carries one exchange at a time, so a connection is taken out of the pool, and put back when its response has
//! been read to the end (`response`). One that ended otherwise, or was answered before its request had been sent, is never
//! used again: dropping it closes it. HTTP/2's connections are shared, and stay here (`http2`).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::debug;

use crate::proxy::fault::Fault;
use crate::proxy::upstream::dial::dial;
use crate::proxy::upstream::http1::{Http1Connection, Room};
use crate::proxy::upstream::http2::Multiplexed;
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
    idle: RefCell<Vec<IdleConnection>>,
    pub(super) multiplexed: Rc<Multiplexed>,
    /// Whether a task looks after the idle ones.
    has_reaper: Cell<bool>,
    /// That task.
    reaper: RefCell<Option<Waker>>,
    /// Whether some have become idle since it last looked.
    has_new_idle: Cell<bool>,
    /// What its routes want kept warm.
    pub(crate) warmth: Cell<Warmth>,
    /// Whether a task keeps a connection warm.
    warming: Cell<bool>,
    last_used: Cell<Instant>,
    /// Whether the upstream was seen to speak HTTP/2 where HTTP/1.1 was due.
    pub(super) speaks_only_http2: Cell<bool>,
    /// How often its connections have been retired.
    era: Cell<u32>,
    /// Notified when a connection has ended.
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

struct IdleConnection {
    connection: Http1Connection,
    since: Instant,
}

impl Pool {
    pub(crate) fn new(upstream: Arc<UpstreamOrigin>) -> Rc<Self> {
        Rc::new(Self {
            multiplexed: Multiplexed::new(upstream.clone()),
            upstream,
            idle: RefCell::default(),
            has_reaper: Cell::new(false),
            reaper: RefCell::default(),
            has_new_idle: Cell::new(false),
            warmth: Cell::default(),
            warming: Cell::new(false),
            last_used: Cell::new(Instant::now()),
            speaks_only_http2: Cell::new(false),
            era: Cell::new(0),
            ended: Rc::default(),
        })
    }

    /// The most recently used connection that is free; on the way, the closed ones are forgotten.
    pub(super) fn take(&self) -> Option<Http1Connection> {
        let mut idle = self.idle.borrow_mut();
        let mut at = idle.len();
        while at > 0 {
            at -= 1;
            if idle[at].connection.is_closed() {
                idle.remove(at);
            } else if idle[at].connection.is_free() {
                return Some(idle.remove(at).connection);
            }
        }
        None
    }

    /// Keeps a connection whose response has been read to the end, unless it is closed or that response came before its
    /// request's end.
    pub(super) fn put(self: &Rc<Self>, connection: Http1Connection) {
        if connection.era != self.era.get() {
            return;
        }
        let Some(connection) = connection.rest(&self.ended) else { return };
        let now = Instant::now();
        {
            let mut idle = self.idle.borrow_mut();
            if idle.len() >= MOST_IDLE {
                idle.remove(0);
            }
            idle.push(IdleConnection { connection, since: now });
        }
        self.last_used.set(now);
        self.watch_idle();
        if !self.warming.get() && !self.warmth.get().span.is_zero() {
            self.warming.set(true);
            tokio::task::spawn_local(keep_warm(Rc::downgrade(self)));
        }
    }

    /// Uses none of its connections for another request: the idle ones close at once, the others when what runs on them has
    /// ended.
    pub(crate) fn retire(&self) {
        self.multiplexed.retire();
        self.retire_http1();
    }

    /// The same of those that speak HTTP/1.1.
    pub(crate) fn retire_http1(&self) {
        self.era.set(self.era.get().wrapping_add(1));
        self.idle.borrow_mut().clear();
        self.ended.notify_waiters();
    }

    /// A response's head had no room: connections that are opened from here on have more.
    pub(super) fn needs_room(&self) {
        self.upstream.has_large_heads.store(true, Relaxed);
        self.retire_http1();
    }

    /// Sees to it that connections which have become idle are looked after.
    pub(super) fn watch_idle(self: &Rc<Self>) {
        if !self.has_reaper.replace(true) {
            tokio::task::spawn_local(reap_idle(Rc::downgrade(self)));
        }
        if !self.has_new_idle.replace(true)
            && let Some(reaper) = &*self.reaper.borrow()
        {
            reaper.wake_by_ref();
        }
    }

    /// Closes what has been idle for too long, forgets what has ended, and has the task woken when another one ends; tells
    /// when to look again, if anything is left.
    fn reap(&self, cx: &mut Context<'_>, now: Instant) -> Option<Instant> {
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain_mut(|idle| now < idle.since + LONGEST_IDLE && idle.connection.poll_idle(cx).is_pending());
        if idle.len() < before {
            self.ended.notify_waiters();
        }
        let multiplexed = self.multiplexed.reap(now, LONGEST_IDLE);
        let next = idle.iter().map(|idle| idle.since + LONGEST_IDLE).min();
        multiplexed.into_iter().chain(next).min()
    }

    /// A new connection.
    pub(super) async fn connect(&self, timeout: Duration) -> Result<Http1Connection, Fault> {
        let era = self.era.get();
        let io = dial(&self.upstream, timeout).await?;
        let room = if self.upstream.has_large_heads.load(Relaxed) { Room::Ample } else { Room::Usual };
        Http1Connection::open(io, room, era).await
    }

    /// Notified when a connection has ended.
    pub(super) fn ended(&self) -> &Rc<Notify> {
        &self.ended
    }

    /// When the youngest idle connection will have been idle for too long; `None` if there is none.
    fn warm_until(&self) -> Option<Instant> {
        let idle = self.idle.borrow();
        idle.iter().filter(|idle| !idle.connection.is_closed()).map(|idle| idle.since + LONGEST_IDLE - HEAD_START).max()
    }
}

/// After a connection has become idle, for as long as it is likely to be used again at once: looking after it then would only
/// cost something.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// Looks after a pool's idle connections as long as there are any: closes them when their time has come, and notices when
/// the upstream closes one. Holds nothing of the pool meanwhile.
async fn reap_idle(pool: Weak<Pool>) {
    let mut timer = pin!(tokio::time::sleep(SETTLED_AFTER));
    let mut settling = true;
    poll_fn(|cx| {
        let Some(pool) = pool.upgrade() else { return Poll::Ready(()) };
        pool.reaper.replace(Some(cx.waker().clone()));
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
        let Some(next) = pool.reap(cx, Instant::now()) else {
            pool.has_reaper.set(false);
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
                Ok(connection) => {
                    this.idle.borrow_mut().insert(0, IdleConnection { connection, since: Instant::now() });
                    this.watch_idle();
                }
                Err(fault) => debug!(upstream = %this.upstream.label, ?fault, "no warm connection to be had"),
            }
            continue;
        }
        let ended = this.ended.clone();
        drop(this); // the pool may go meanwhile
        tokio::select! {
            () = tokio::time::sleep_until(due.min(end)) => {}
            () = ended.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::runtime::{Builder, LocalOptions};

    use super::*;
    use crate::config::{Origin, Way};
    use crate::proxy::replay::RequestBody;
    use crate::proxy::upstream::error::{Error, Resend};

    /// A pool, and the upstream that its connections lead to.
    async fn pool() -> (Rc<Pool>, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = Origin { tls: false, host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        let upstream = UpstreamOrigin::new(origin, Way::Direct, None, None, false).unwrap();
        (Pool::new(Arc::new(upstream)), listener)
    }

    /// A connection, and the upstream's end of it.
    async fn connection(pool: &Pool, listener: &TcpListener) -> (Http1Connection, TcpStream) {
        let (connection, accepted) = tokio::join!(pool.connect(Duration::from_secs(10)), listener.accept());
        (connection.unwrap(), accepted.unwrap().0)
    }

    /// A connection that has served a request.
    async fn used(pool: &Pool, listener: &TcpListener) -> (Http1Connection, TcpStream) {
        let (mut connection, mut end) = connection(pool, listener).await;
        let upstream = async {
            let _ = end.read(&mut [0; 1024]).await;
            end.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        };
        let (sent, ()) = tokio::join!(connection.send(request(), pool.ended()), upstream);
        assert!(sent.is_ok());
        (connection, end)
    }

    fn request() -> Request<RequestBody> {
        Request::builder().uri("/x").header("host", "h").body(RequestBody::Empty).unwrap()
    }

    /// Whether our end of a connection closes.
    async fn closes(end: &mut TcpStream) -> bool {
        let read = tokio::time::timeout(Duration::from_secs(10), end.read(&mut [0; 16])).await;
        matches!(read, Ok(Ok(0)))
    }

    fn run(story: impl Future<Output = ()>) {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        let in_time = async { tokio::time::timeout(Duration::from_secs(60), story).await };
        runtime.block_on(in_time).expect("the story ends in time");
    }

    #[test]
    fn the_connection_that_was_used_last_is_taken_first() {
        run(async {
            let (pool, listener) = pool().await;
            let (first, mut first_end) = used(&pool, &listener).await;
            let (second, mut second_end) = used(&pool, &listener).await;
            pool.put(first);
            pool.put(second);
            drop(pool.take().expect("two are idle"));
            assert!(closes(&mut second_end).await);
            drop(pool.take().expect("one is idle"));
            assert!(closes(&mut first_end).await);
            assert!(pool.take().is_none());
        });
    }

    #[test]
    fn what_the_upstream_closes_is_forgotten_and_what_is_idle_for_too_long_is_closed() {
        run(async {
            let (pool, listener) = pool().await;
            let (first, mut first_end) = used(&pool, &listener).await;
            let (second, second_end) = used(&pool, &listener).await;
            pool.put(first);
            pool.put(second);
            drop(second_end);
            // until the end has been seen
            poll_fn(|cx| {
                pool.reap(cx, Instant::now());
                if pool.idle.borrow().len() == 1 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            let next = poll_fn(|cx| Poll::Ready(pool.reap(cx, Instant::now()))).await.expect("one is left");
            assert!(next > Instant::now() && next <= Instant::now() + LONGEST_IDLE);
            let next = poll_fn(|cx| Poll::Ready(pool.reap(cx, next))).await;
            assert_eq!(next, None, "nothing is left to look after");
            assert!(closes(&mut first_end).await);
            assert!(pool.take().is_none());
        });
    }

    #[test]
    fn a_request_may_be_sent_again_only_where_a_connection_in_use_ended_before_a_whole_head() {
        let rows: [(&str, &[u8], bool, Resend); 5] = [
            ("closed, as it was idle", b"", true, Resend::IfIdempotent),
            ("closed, and was new", b"", false, Resend::Never),
            ("half a head, and was in use", b"HTTP/1.1 200 OK\r\nA: b", true, Resend::IfIdempotent),
            ("nonsense, and was in use", b"nonsense\r\n\r\n", true, Resend::Never),
            ("nonsense, and was new", b"nonsense\r\n\r\n", false, Resend::Never),
        ];
        for (case, said, reused, expected) in rows {
            run(async {
                let (pool, listener) = pool().await;
                let (mut connection, mut end) = connection(&pool, &listener).await;
                let upstream = async {
                    let _ = end.read(&mut [0; 1024]).await;
                    let _ = end.write_all(said).await;
                    drop(end);
                };
                let (sent, ()) = tokio::join!(connection.send(request(), pool.ended()), upstream);
                let refused = sent.expect_err(case);
                let Error::Lost { fault, resend } = Error::lost(&refused.into_error(), reused) else {
                    panic!("{case}");
                };
                assert_eq!(resend, expected, "{case}: {fault:?}");
            });
        }
    }
}
