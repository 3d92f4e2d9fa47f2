//! One client's connection, from its first byte to its end.
//!
//! The first bytes tell HTTP/2 from HTTP/1.1 (RFC 9113 section 3.3: prior knowledge). What follows here is HTTP/1.1;
//! HTTP/2 is in `http2`, where each stream has the activity and the timer that a whole connection has here.
//!
//! A connection that has nothing to do is given no buffers: before its first byte and some time after its last one, there
//! is the socket and nothing of hyper's, whose two buffers of 8 KiB would be most of what an idle client costs.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Poll, ready};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::sleep;
use tracing::debug;

use crate::proxy::connection::{Connection, Stream};
use crate::proxy::deadline::{IdleTimer, Phase};
use crate::proxy::downstream::http2::StreamBudget;
use crate::proxy::downstream::io::{ClientIo, Protocol, Socket};
use crate::proxy::downstream::stranger::{LingeringClose, ReadyMade};
use crate::proxy::downstream::{http2, stranger};
use crate::proxy::exchange::service;
use crate::proxy::local_table::LocalTable;
use crate::proxy::peer::Peer;
use crate::proxy::policy::error::Check;
use crate::proxy::policy::guard;
use crate::proxy::registry::ClientState;
use crate::proxy::worker::Worker;

/// Requests' heads, and the chunks of bodies, at most.
const BUFFER: usize = 64 * 1024;

/// A worker's client side.
pub(crate) struct Downstream {
    pub(crate) worker: Rc<Worker>,
    lingering_close: Rc<LingeringClose>,
    stream_budget: Rc<StreamBudget>,
    refusals: RefCell<Refusals>,
}

/// What strangers are told by one table, as far as there has been one.
#[derive(Default)]
struct Refusals {
    table: Weak<LocalTable>,
    made: Vec<(Check, Rc<ReadyMade>)>,
}

impl Downstream {
    pub(crate) fn new(worker: Rc<Worker>) -> Rc<Self> {
        let lingering_close = LingeringClose::new(worker.registry.strangers_places(), worker.stats.clone());
        Rc::new(Self { worker, lingering_close, stream_budget: Rc::default(), refusals: RefCell::default() })
    }

    /// Refuses what comes on a connection without looking closer; `read` is what has come already.
    pub(crate) fn turn_away(&self, socket: Socket, peer: &Peer, check: Check, read: &[u8]) {
        if let Ok(socket) = socket.into_descriptor() {
            let table = self.worker.table();
            let audit = table.shared.access.audit.clone();
            self.lingering_close.turn_away(socket, peer.uid(), audit, self.refusal(&table, check), read);
        }
    }

    /// The refusal for this reason, made when it is first wanted.
    fn refusal(&self, table: &Rc<LocalTable>, check: Check) -> Rc<ReadyMade> {
        let mut refusals = self.refusals.borrow_mut();
        if !std::ptr::eq(refusals.table.as_ptr(), Rc::as_ptr(table)) {
            *refusals = Refusals { table: Rc::downgrade(table), made: Vec::new() };
        }
        if let Some((_, refusal)) = refusals.made.iter().find(|(of, _)| *of == check) {
            return refusal.clone();
        }
        let refusal = ReadyMade::new(check, &table.shared.advice);
        refusals.made.push((check, refusal.clone()));
        refusal
    }
}

/// Serves a stranger's connection, which ends with [`stranger::PATIENCE`] unless a request has shown a client key.
pub(crate) async fn serve_stranger(downstream: Rc<Downstream>, connection: Rc<Connection>, socket: Socket) {
    let mut patience = pin!(sleep(stranger::PATIENCE));
    let mut serving = pin!(serve(downstream, connection.clone(), socket));
    poll_fn(|cx| {
        if serving.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match connection.handle.client_state() {
            ClientState::Admitted => Poll::Pending,
            ClientState::Stranger | ClientState::TurnedAway => patience.as_mut().poll(cx),
            ClientState::Closed => Poll::Ready(()),
        }
    })
    .await;
}

/// Serves a connection until either side ends it.
pub(crate) async fn serve(downstream: Rc<Downstream>, connection: Rc<Connection>, socket: Socket) {
    let activity = connection.activity.clone();
    let mut io = ClientIo::new(socket, activity.clone());
    let mut timer = IdleTimer::new(activity.deadline());
    loop {
        let protocol = poll_fn(|cx| {
            if connection.handle.is_told_to_stop(cx, activity.is_fresh()) {
                return Poll::Ready(None);
            }
            if let Poll::Ready(protocol) = io.poll_protocol(cx) {
                return Poll::Ready(protocol.ok());
            }
            timer.poll_expired(cx, &activity).map(|_| None)
        });
        let protocol = protocol.await;
        if protocol == Some(Protocol::Http1)
            && connection.handle.client_state() == ClientState::Stranger
            && shows_no_key(&connection, &mut io).await
            && let Some(check) = needs_key(&connection)
        {
            return downstream.turn_away(io.socket, &connection.peer, check, &io.surplus);
        }
        // boxed, so that a connection without them takes no room for them
        match protocol {
            Some(Protocol::Http1) => match Box::pin(serve_http1(&connection, io, &mut timer)).await {
                Some(at_rest) => io = at_rest,
                None => return,
            },
            Some(Protocol::Http2) => {
                return Box::pin(http2::serve(connection, io, downstream.stream_budget.clone())).await;
            }
            None => return,
        }
    }
}

/// Why the client is not served without a client key, as things are now.
fn needs_key(connection: &Connection) -> Option<Check> {
    guard::needs_key(&connection.ingress, &connection.peer, &connection.worker.table().shared.access.uids)
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
        let more = poll_fn(|cx| match connection.handle.is_told_to_stop(cx, true) {
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
async fn serve_http1(connection: &Rc<Connection>, io: ClientIo, timer: &mut IdleTimer) -> Option<ClientIo> {
    let activity = connection.activity.clone();
    let stream = Stream::new(connection.clone(), activity.clone());
    let served = stream.clone();
    let service = service_fn(move |request| {
        // boxed, as hyper would move its whole state about before it begins
        let answer = Box::pin(service::answer(stream.clone(), request));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    // no header_read_timeout: it counts the time between requests, too, and sets a timer for each
    let mut serving =
        http1::Builder::new().max_buf_size(BUFFER).serve_connection(TokioIo::new(io), service).with_upgrades();
    let mut gone_was_asked = false;
    let ended = poll_fn(|cx| {
        if connection.handle.is_doubted() {
            served.look_at_authority();
            if served.is_to_be_cut() {
                debug!("an answer was cut: its client key or its account has ended");
                return Poll::Ready(Ended::Over(Ok(())));
            }
        }
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut serving).poll(cx) {
                return Poll::Ready(Ended::Over(ended));
            }
            if served.is_to_be_cut_now() {
                debug!("an answer was cut: its client key or its account has ended, and its client takes nothing");
                return Poll::Ready(Ended::Over(Ok(())));
            }
            // after the poll: hyper closes a connection that it has read nothing from, and now it has read what is there
            if connection.handle.is_told_to_stop(cx, activity.is_fresh()) {
                Pin::new(&mut serving).graceful_shutdown();
                continue;
            }
            if activity.is_half_closed() && activity.exchange_runs() && !gone_was_asked {
                gone_was_asked = true;
                if connection.client_is_gone() {
                    return Poll::Ready(Ended::Over(Ok(())));
                }
            }
            timer.follow(&activity);
            match ready!(timer.poll_expired(cx, &activity)) {
                // the request says so itself, the next time it is asked
                Phase::Waiting if activity.time_out() => {}
                Phase::Idle => {
                    activity.enter(Phase::Resting);
                    if activity.is_all_done() {
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
