//! The open connections of a worker, as far as others have to know them: to end them, and to bound what they cost.
//!
//! Connections without a client key that would need one ("strangers") have a few places of their own: they take none of
//! the clients', and who has waited longest makes room for who comes.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;
use std::task::{Context, Waker};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::platform::descriptors;
use crate::proxy::peer::{Peer, Process};

/// Strangers' connections at once; and as many that are being turned away. A request with a valid client key makes an
/// ordinary connection of a stranger's.
const STRANGERS: usize = 64;

/// What others may know and ask of a connection.
pub(crate) struct Handle {
    id: u64,
    client_state: Cell<ClientState>,
    stopping: Cell<Stopping>,
    /// Whether the rights of what runs on it are to be looked at.
    doubted: Cell<bool>,
    /// The task that serves the connection.
    waker: RefCell<Option<Waker>>,
}

/// What is known of a connection's client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ClientState {
    /// It may come in, or has shown a client key.
    Admitted,
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

impl Handle {
    pub(crate) fn client_state(&self) -> ClientState {
        self.client_state.get()
    }

    /// Changes the state, which the serving task takes notice of.
    pub(crate) fn set_client_state(&self, state: ClientState) {
        self.client_state.set(state);
        self.wake();
    }

    /// Has the serving task look again.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Whether the connection is to end now, which is said once. `is_fresh` is whether a first exchange may still come. The
    /// asking task is woken when there is anything new.
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

    /// Has the serving task look whether what runs on the connection has still its right.
    pub(crate) fn look_at_authority(&self) {
        self.doubted.set(true);
        self.wake();
    }

    /// Whether that is to be looked at, which is said once.
    pub(crate) fn is_doubted(&self) -> bool {
        self.doubted.get() && self.doubted.replace(false)
    }

    /// Lets the running exchange end, and no other begin; but a first one, if there was none yet, until
    /// [`Handle::stop_waiting`].
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
}

/// The connections of a worker.
pub(crate) struct Registry {
    connections: RefCell<HashMap<u64, Rc<Handle>>>,
    last_id: Cell<u64>,
    places: Places,
    strangers: Strangers,
    connection_closed: Notify,
}

impl Registry {
    /// With places for one of so many workers.
    pub(crate) fn new(workers: usize) -> Self {
        let places = Places::of(descriptors::limit(), workers);
        Self {
            connections: RefCell::default(),
            last_id: Cell::new(0),
            places,
            strangers: Strangers::new(places.strangers),
            connection_closed: Notify::new(),
        }
    }

    /// Strangers' places, of which there are as many for those that are being turned away.
    pub(crate) fn strangers_places(&self) -> usize {
        self.places.strangers
    }

    /// Enters a connection.
    pub(crate) fn opened(&self, state: ClientState) -> Rc<Handle> {
        let id = self.last_id.get() + 1;
        self.last_id.set(id);
        let handle = Rc::new(Handle {
            id,
            client_state: Cell::new(state),
            stopping: Cell::new(Stopping::No),
            doubted: Cell::new(false),
            waker: RefCell::new(None),
        });
        self.connections.borrow_mut().insert(id, handle.clone());
        handle
    }

    pub(crate) fn closed(&self, handle: &Handle) {
        self.connections.borrow_mut().remove(&handle.id);
        self.strangers.leave(handle.id);
        self.connection_closed.notify_waiters();
    }

    /// Gives a stranger's connection a place. One user or address has at most half of them; where there is none left, the
    /// connection that has waited longest is closed.
    pub(crate) fn add_stranger(&self, handle: &Rc<Handle>, peer: &Peer) {
        self.strangers.enter(handle, peer);
    }

    /// A request on the connection may come in, or has shown a valid client key: from here on it is a client's.
    pub(crate) fn admit(&self, handle: &Handle) {
        if handle.client_state() == ClientState::Stranger {
            self.strangers.leave(handle.id);
            handle.set_client_state(ClientState::Admitted);
        }
    }

    /// Returns when there is a place for another connection.
    pub(crate) async fn has_room(&self) {
        while self.connections.borrow().len() - self.strangers.count() >= self.places.clients {
            self.connection_closed.notified().await;
        }
    }

    /// Orders all connections to do something.
    pub(crate) fn to_all(&self, order: impl Fn(&Handle)) {
        let all: Vec<_> = self.connections.borrow().values().cloned().collect();
        all.iter().for_each(|handle| order(handle));
    }

    /// Returns when there is no connection any more, at the deadline at the latest.
    pub(crate) async fn emptied(&self, deadline: Instant) {
        loop {
            let closed = self.connection_closed.notified();
            if self.connections.borrow().is_empty() || tokio::time::timeout_at(deadline, closed).await.is_err() {
                return;
            }
        }
    }
}

/// How many connections a worker may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Places {
    clients: usize,
    strangers: usize,
}

impl Places {
    /// Of the descriptors we may have, half of what is left to each worker is for clients: each connection needs another
    /// one upstream, and renewals need a few as well. Strangers have a small part of their own.
    fn of(descriptors: usize, workers: usize) -> Self {
        let workers = workers.max(1);
        let strangers = (descriptors / 32 / workers).clamp(2, STRANGERS);
        let rest = descriptors.saturating_sub(64 + 2 * strangers * workers);
        Self { clients: (rest / 2 / workers).max(16), strangers }
    }
}

/// The connections of those who have yet to show a client key.
struct Strangers {
    /// In the order in which they came.
    places: RefCell<VecDeque<Place>>,
    most: usize,
}

struct Place {
    origin: Origin,
    handle: Rc<Handle>,
}

/// Whose a stranger's connection is, for all that can be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Origin {
    User(u32),
    /// Of an IPv6 address the network's half, as who has one has them all.
    Address(IpAddr),
    Unknown,
}

impl Origin {
    fn of(peer: &Peer) -> Self {
        match (peer.process, peer.addresses.map(|(client, _)| client.ip())) {
            (Process::Of { uid, .. }, _) => Self::User(uid),
            (Process::NotAsked | Process::Unknown, Some(IpAddr::V6(address))) if address.to_ipv4_mapped().is_none() => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                Self::Address(Ipv6Addr::from_bits(network).into())
            }
            (Process::NotAsked | Process::Unknown, Some(address)) => Self::Address(address.to_canonical()),
            (Process::NotAsked | Process::Unknown, None) => Self::Unknown,
        }
    }
}

impl Strangers {
    fn new(most: usize) -> Self {
        Self { places: RefCell::default(), most }
    }

    fn count(&self) -> usize {
        self.places.borrow().len()
    }

    fn enter(&self, handle: &Rc<Handle>, peer: &Peer) {
        let origin = Origin::of(peer);
        let mut places = self.places.borrow_mut();
        let of_this_origin = places.iter().filter(|place| place.origin == origin).count();
        let full = if of_this_origin >= self.most.div_ceil(2) {
            places.iter().position(|place| place.origin == origin)
        } else {
            (places.len() >= self.most).then_some(0)
        };
        let oldest = full.and_then(|at| places.remove(at));
        places.push_back(Place { origin, handle: handle.clone() });
        drop(places);
        if let Some(oldest) = oldest {
            oldest.handle.set_client_state(ClientState::Closed);
        }
    }

    /// Takes a place back, if the connection has one.
    fn leave(&self, id: u64) {
        let mut places = self.places.borrow_mut();
        if let Some(at) = places.iter().position(|place| place.handle.id == id) {
            places.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_take_no_place_of_a_client_and_all_places_together_fit() {
        for descriptors in [128, 256, 1024, 4096, 20_000, 65_536] {
            for workers in [1, 2, 8] {
                let Places { clients, strangers } = Places::of(descriptors, workers);
                let used = workers * (2 * clients + 2 * strangers);
                assert!(used <= descriptors || clients == 16, "{descriptors}, {workers}: {clients}, {strangers}");
                assert!(clients >= 16 && (2..=STRANGERS).contains(&strangers), "{descriptors}, {workers}");
            }
        }
        assert_eq!(Places::of(1024, 1), Places { clients: 448, strangers: 32 });
    }

    #[test]
    fn strangers_are_told_apart_by_user_or_by_network() {
        let of = |process, address: &str| {
            let client = address.parse().ok().map(|address: IpAddr| (address, 1).into());
            Origin::of(&Peer { addresses: client.map(|client| (client, client)), process })
        };
        assert_eq!(of(Process::Of { uid: 7, pid: None }, "127.0.0.1"), Origin::User(7));
        assert_eq!(of(Process::Unknown, "2001:db8::1"), of(Process::Unknown, "2001:db8::2:3"));
        assert_ne!(of(Process::Unknown, "2001:db8::1"), of(Process::Unknown, "2001:db8:0:1::1"));
        assert_eq!(of(Process::Unknown, "::ffff:10.0.0.1"), of(Process::Unknown, "10.0.0.1"));
        assert_ne!(of(Process::Unknown, "10.0.0.2"), of(Process::Unknown, "10.0.0.1"));
        assert_eq!(of(Process::Unknown, ""), Origin::Unknown);
    }

    #[test]
    fn who_has_waited_longest_makes_room_and_nobody_has_more_than_half() {
        let strangers = Strangers::new(4);
        let registry = Registry::new(1);
        let of = |uid| Peer { addresses: None, process: Process::Of { uid, pid: None } };
        let enter = |uid| {
            let handle = registry.opened(ClientState::Stranger);
            strangers.enter(&handle, &of(uid));
            handle
        };
        let (first, second, other) = (enter(1), enter(1), enter(2));
        let third = enter(1);
        assert_eq!(
            (first.client_state(), second.client_state()),
            (ClientState::Closed, ClientState::Stranger),
            "half are taken"
        );
        let (last, over) = (enter(3), enter(4));
        assert_eq!(
            (second.client_state(), other.client_state()),
            (ClientState::Closed, ClientState::Stranger),
            "all are taken"
        );
        strangers.leave(third.id);
        let free = enter(5);
        for handle in [&other, &last, &over, &free] {
            assert_eq!(handle.client_state(), ClientState::Stranger);
        }
    }
}
