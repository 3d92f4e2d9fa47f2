//! What requests know of the client's connection that they come on.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use crate::audit::Seat;
use crate::client_keys::ClientKey;
use crate::platform::containers::Containers;
use crate::proxy::deadline::Activity;
use crate::proxy::fault::Fault;
use crate::proxy::peer::{Peer, Process};
use crate::proxy::policy::error::Advice;
use crate::proxy::policy::guard;
use crate::proxy::policy::ingress::Ingress;
use crate::proxy::policy::scope::{Reader, Scope};
use crate::proxy::registry::{Handle, Standing};
use crate::proxy::table::Table;
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

/// What a request comes on: all of an HTTP/1.1 connection, or one stream of an HTTP/2 connection.
pub(crate) struct Stream {
    pub(crate) connection: Rc<Connection>,
    /// The connection's own, or the stream's.
    pub(crate) activity: Arc<Activity>,
}

impl Connection {
    pub(crate) fn new(worker: Rc<Worker>, ingress: Rc<Ingress>, peer: Peer, standing: Standing) -> Rc<Self> {
        worker.stats.connections.add(1);
        Rc::new(Self {
            ingress,
            peer,
            handle: worker.registry.opened(standing),
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

    /// What an answer of our own says besides; `key` is the valid one that its request has presented.
    pub(crate) fn advice<'a>(&self, table: &'a Table, key: Option<&ClientKey>) -> Cow<'a, Advice> {
        let reader = match key {
            Some(key) => Reader::Holder(&key.rights),
            None if guard::needs_key(&self.ingress, &self.peer, &table.access.uids).is_some() => Reader::Stranger,
            None => Reader::Owner,
        };
        self.ingress.scope.advice(&table.advice, reader)
    }

    /// A request may come in, or has shown a valid client key: from here on it is a client's connection.
    pub(crate) fn vouch(&self) {
        self.worker.registry.vouch(&self.handle);
    }

    /// Its client was told no: the connection ends when that has been read.
    pub(crate) fn turn_away(&self) {
        self.handle.stands(Standing::TurnedAway);
    }

    /// Whether the client is known to run outside of containers; looked up once.
    pub(crate) async fn is_outside_containers(&self, containers: &Containers) -> bool {
        if let Some(known) = self.is_outside_containers.get() {
            return known;
        }
        let is_outside = containers.is_at_home(self.peer.ends()).await;
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
