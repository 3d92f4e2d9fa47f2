//! What requests know of the client's connection that they come on.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::audit::Seat;
use crate::client_keys::{ClientKey, KeyRing, Refusal};
use crate::platform::containers::Containers;
use crate::proxy::deadline::{Activity, Phase};
use crate::proxy::fault::Fault;
use crate::proxy::local_table::LocalRoute;
use crate::proxy::peer::{Peer, Process};
use crate::proxy::policy::error::Advice;
use crate::proxy::policy::guard;
use crate::proxy::policy::ingress::Ingress;
use crate::proxy::policy::scope::{Reader, Scope};
use crate::proxy::registry::{ClientState, Handle};
use crate::proxy::table::{RouteEntry, Table};
use crate::proxy::worker::Worker;

/// A client's connection. It is one of its worker's until it is dropped.
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    /// The listener that it was accepted on.
    pub(crate) ingress: Rc<Ingress>,
    pub(crate) peer: Peer,
    pub(crate) handle: Rc<Handle>,
    pub(crate) activity: Arc<Activity>,
    /// Its place in the audit, from its first noted request on.
    pub(crate) seat: Rc<RefCell<Option<Seat>>>,
    /// Whether the client runs outside of containers, once somebody has looked.
    is_outside_containers: Cell<Option<bool>>,
}

/// What a running exchange owes its right to. It is lost with either, and so is the exchange.
#[derive(Clone)]
pub(crate) struct Authority {
    /// The client key that was presented, if one was.
    key: Option<Arc<ClientKey>>,
    route: Rc<LocalRoute>,
    /// Of the account's logouts, when the exchange began.
    withdrawals: u64,
}

impl Authority {
    pub(crate) fn of(key: Option<Arc<ClientKey>>, route: Rc<LocalRoute>) -> Self {
        Self { withdrawals: route.entry.tokens.withdrawals(), key, route }
    }

    pub(crate) fn route(&self) -> &RouteEntry {
        &self.route.entry
    }

    /// Returns when it is lost.
    pub(crate) async fn ended(&self, worker: &Worker) -> Lost {
        loop {
            let changed = worker.authority_changed.notified();
            if let Some(lost) = self.lost(&worker.table().shared.access.keys) {
                return lost;
            }
            changed.await;
        }
    }

    /// Why it is no more.
    fn lost(&self, keys: &KeyRing) -> Option<Lost> {
        if let Some(refusal) = self.key.as_ref().and_then(|key| keys.check(key).err()) {
            Some(Lost::Key(refusal))
        } else if self.route.entry.tokens.withdrawals() != self.withdrawals {
            Some(Lost::Account)
        } else {
            None
        }
    }
}

/// What an exchange has lost its right with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lost {
    /// The client key was revoked, or its command has ended; or it has expired.
    Key(Refusal),
    /// The account was logged out.
    Account,
}

/// Whether a response whose right is lost ends by itself, and says why.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Farewell {
    /// It cannot just now.
    #[default]
    None,
    /// It does when it is next asked to go on.
    Possible,
    /// It has.
    Said,
}

impl Farewell {
    pub(crate) fn possible_if(can: bool) -> Self {
        if can { Self::Possible } else { Self::None }
    }
}

/// What a request comes on: all of an HTTP/1.1 connection, or one stream of an HTTP/2 connection.
pub(crate) struct Stream {
    pub(crate) connection: Rc<Connection>,
    /// The connection's own, or the stream's.
    pub(crate) activity: Arc<Activity>,
    /// The running exchange's.
    authority: RefCell<Option<Authority>>,
    /// It is lost.
    lost: Cell<Option<Lost>>,
    /// What the response itself can say of that.
    farewell: Cell<Farewell>,
    /// The task that serves an HTTP/2 stream.
    waker: RefCell<Option<Waker>>,
}

impl Connection {
    pub(crate) fn new(worker: Rc<Worker>, ingress: Rc<Ingress>, peer: Peer, client_state: ClientState) -> Rc<Self> {
        worker.stats.connections.add(1);
        Rc::new(Self {
            ingress,
            peer,
            handle: worker.registry.opened(client_state),
            activity: Activity::new(),
            seat: Rc::default(),
            is_outside_containers: Cell::new(None),
            worker,
        })
    }

    /// Whether names below `localhost` lead to the same listener: clients take them for the usual addresses. What a command
    /// is lent is on one of the two only, and anybody may have the other.
    pub(crate) fn is_where_localhost_is(&self) -> bool {
        !matches!(self.ingress.scope, Scope::Lent(_))
            && self.peer.addresses.is_some_and(|(_, server)| match server.ip().to_canonical() {
                IpAddr::V4(address) => address == Ipv4Addr::LOCALHOST,
                IpAddr::V6(address) => address == Ipv6Addr::LOCALHOST,
            })
    }

    /// What a response of our own says besides; `key` is the valid one that its request has presented.
    pub(crate) fn advice<'a>(&self, table: &'a Table, key: Option<&ClientKey>) -> Cow<'a, Advice> {
        let reader = match key {
            Some(key) => Reader::Holder(&key.rights),
            None if guard::needs_key(&self.ingress, &self.peer, &table.access.uids).is_some() => Reader::Stranger,
            None => Reader::Owner,
        };
        self.ingress.scope.advice(&table.advice, reader)
    }

    /// A request may come in, or has shown a valid client key: from here on it is a client's connection.
    pub(crate) fn admit(&self) {
        self.worker.registry.admit(&self.handle);
    }

    /// Its client was told no: the connection ends when that has been read.
    pub(crate) fn turn_away(&self) {
        self.handle.set_client_state(ClientState::TurnedAway);
    }

    /// Whether the client is known to run outside of containers; looked up once.
    pub(crate) async fn is_outside_containers(&self, containers: &Containers) -> bool {
        if let Some(known) = self.is_outside_containers.get() {
            return known;
        }
        let is_outside = containers.is_outside_containers(self.peer.ends()).await;
        self.is_outside_containers.set(Some(is_outside));
        is_outside
    }

    /// Whether nobody is left at the client's end. A client that has closed its sending side while a response is due may
    /// only be done with asking, or be gone; where that cannot be told, it is taken to be gone, as most servers do.
    pub(crate) fn client_is_gone(&self) -> bool {
        self.peer.addresses.is_none() || !matches!(self.worker.look_up_process(self.peer.addresses), Process::Of { .. })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.worker.stats.connections.subtract(1);
        self.worker.registry.closed(&self.handle);
    }
}

impl Stream {
    pub(crate) fn new(connection: Rc<Connection>, activity: Arc<Activity>) -> Rc<Self> {
        Rc::new(Self {
            connection,
            activity,
            authority: RefCell::default(),
            lost: Cell::default(),
            farewell: Cell::default(),
            waker: RefCell::default(),
        })
    }

    /// From here on, the running exchange ends when this does.
    pub(crate) fn depends_on(&self, authority: Authority) {
        self.authority.replace(Some(authority));
    }

    /// Tells whether the running exchange has still its right, also when it has ended.
    pub(crate) fn right(&self) -> Box<dyn Fn() -> bool> {
        let (authority, worker) = (self.authority(), self.connection.worker.clone());
        Box::new(move || {
            let keys = &worker.table().shared.access.keys;
            authority.as_ref().is_none_or(|authority| authority.lost(keys).is_none())
        })
    }

    /// What the running exchange depends on.
    pub(crate) fn authority(&self) -> Option<Authority> {
        self.authority.borrow().clone()
    }

    /// What goes on from here depends on nothing; on what it did before.
    pub(crate) fn is_independent(&self) -> Option<Authority> {
        self.lost.set(None);
        self.farewell.set(Farewell::None);
        self.authority.take()
    }

    /// Looks whether the running exchange has still its right.
    pub(crate) fn look_at_authority(&self) {
        let keys = &self.connection.worker.table().shared.access.keys;
        let lost = self.authority.borrow().as_ref().and_then(|authority| authority.lost(keys));
        if lost.is_some() {
            self.lost.set(lost);
            if let Some(waker) = &*self.waker.borrow() {
                waker.wake_by_ref();
            }
        }
    }

    /// Whether a response is on its way that nobody may have any more, and that does not end by itself.
    pub(crate) fn is_to_be_cut(&self) -> bool {
        self.is_lost_midway() && self.farewell.get() == Farewell::None
    }

    /// The same once the response has been asked to go on: where its client takes nothing, it has not been, and the reason
    /// would wait for that client, and with it the upstream.
    pub(crate) fn is_to_be_cut_now(&self) -> bool {
        self.is_lost_midway() && self.farewell.get() != Farewell::Said
    }

    fn is_lost_midway(&self) -> bool {
        self.lost.get().is_some() && self.activity.phase() == Phase::Answering
    }

    /// With what the running exchange has lost its right, if it has.
    pub(crate) fn lost(&self) -> Option<Lost> {
        self.lost.get()
    }

    /// What the running response says of it, should its right be lost now.
    pub(crate) fn says(&self, farewell: Farewell) {
        self.farewell.set(farewell);
    }

    /// The task of an HTTP/2 stream, which is woken when there is something to be cut.
    pub(crate) fn is_served_by(&self, task: &Waker) {
        if self.waker.borrow().is_none() {
            self.waker.replace(Some(task.clone()));
        }
    }

    /// Waits for what comes of a request, unless it loses its right first.
    pub(crate) async fn while_authorized<T>(&self, mut exchange: Pin<&mut impl Future<Output = T>>) -> Result<T, Lost> {
        poll_fn(|cx| match self.lost.get() {
            Some(lost) => Poll::Ready(Err(lost)),
            None => exchange.as_mut().poll(cx).map(Ok),
        })
        .await
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
}
