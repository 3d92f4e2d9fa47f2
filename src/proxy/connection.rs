//! What requests know of a client's connection.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::audit;
use crate::platform::containers::Containers;
use crate::platform::peer::Ends;
use crate::proxy::Peer;
use crate::proxy::deadline::Activity;
use crate::proxy::fault::Fault;
use crate::proxy::policy::guard::{Caller, Door};
use crate::proxy::policy::scope::Scope;
use crate::proxy::worker::Worker;

/// A client's connection, or one stream of it, as its requests see it.
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) door: Door,
    /// The routes of the listener.
    pub(crate) scope: Scope,
    pub(crate) activity: Arc<Activity>,
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
            activity: Activity::new(),
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
            activity: Activity::new(),
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
            Poll::Pending if self.activity.has_timed_out() => Poll::Ready(Err(Fault::AnswerTimeout)),
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
    pub(crate) fn client_is_gone(&self) -> bool {
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
        carrier.activity.renew();
        if carrier.standing.get() == Standing::TurnedAway {
            carrier.wake();
        }
    }
}
