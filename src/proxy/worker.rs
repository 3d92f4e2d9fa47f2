//! One thread of the data plane: a current-thread runtime, its connections, and its own pools to the upstreams.
//!
//! Nothing here is shared with another worker but the listening sockets, the immutable table, the tokens and the
//! counters, so that a usual request takes no lock and never leaves its thread.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::audit;
use crate::config::{Route, RouteName};
use crate::platform::{descriptors, socket};
use crate::proxy::connection::{Connection, Standing};
use crate::proxy::downstream::http2::Shares;
use crate::proxy::downstream::io::Socket;
use crate::proxy::downstream::serve::{serve, serve_stranger};
use crate::proxy::downstream::stranger::{ReadyMade, Strangers, Turnstile};
use crate::proxy::exchange::note::Running;
use crate::proxy::policy::error::Check;
use crate::proxy::policy::guard::{self, Caller, Door};
use crate::proxy::policy::rewrite::OwnListener;
use crate::proxy::policy::scope::{Lent, Scope};
use crate::proxy::table::RouteEntry;
use crate::proxy::upstream::{Pool, Warmth};
use crate::proxy::{Peer, PeerLookup, PeerLookups, ProxyListener, Table};
use crate::stats::Stats;

/// After an accept that failed for want of descriptors or memory: somebody else has to give some back first.
const BREATH: Duration = Duration::from_millis(100);

/// Who has connected when a stop begins is given so long to ask: the bytes are on their way. Those who connect in
/// advance and say nothing delay the stop by no more.
const FIRST_WORDS: Duration = Duration::from_secs(1);

/// Connections that are accepted before those that run have their turn: connecting costs a flood less than us accepting.
const ACCEPTED_AT_ONCE: usize = 8;

/// Strangers' connections at once; and as many that are being turned away. A request with a valid client key makes an
/// ordinary connection of a stranger's.
const STRANGERS: usize = 64;

/// What a worker is told.
pub(crate) enum Command {
    /// Serve by this table from here on.
    Table(Arc<Table>),
    /// Accept on these, and on no others but those that are lent.
    Listen(Vec<ProxyListener>),
    /// Accept on this one as well, until what is lent has ended.
    Lend(socket::Listener, Lent),
    /// Say that you are there.
    Ping(oneshot::Sender<()>),
    /// Accept no more, let running exchanges end within the time, and end.
    Stop(Duration),
}

/// Both ends of a TCP connection: the client's, ours.
pub(crate) type Ends = (SocketAddr, SocketAddr);

/// One worker, as its connections see it.
pub(crate) struct Worker {
    table: RefCell<Rc<LocalTable>>,
    pub(crate) stats: Arc<Stats>,
    /// Where clients connect to on TCP, so that no upstream leads them to another route.
    pub(crate) listeners: RefCell<Vec<OwnListener>>,
    connections: RefCell<HashMap<u64, Weak<Connection>>>,
    last_id: Cell<u64>,
    /// Clients' connections, at most.
    most_clients: usize,
    pub(crate) strangers: Strangers,
    turnstile: Rc<Turnstile>,
    pub(crate) shares: Shares,
    /// Somebody has closed a connection.
    one_less: Notify,
    peers: Option<RefCell<PeerLookup>>,
    /// What the audit will be told.
    pub(crate) notes: Running,
}

/// The table with this worker's pools.
pub(crate) struct LocalTable {
    pub(crate) shared: Arc<Table>,
    /// In the order of the table.
    pub(crate) routes: Vec<Rc<LocalRoute>>,
    /// What strangers are told, as far as there has been one.
    refusals: RefCell<Vec<(Check, Rc<ReadyMade>)>>,
}

/// A route with this worker's connections to its upstream.
pub(crate) struct LocalRoute {
    pub(crate) entry: Arc<RouteEntry>,
    pub(crate) pool: Rc<Pool>,
}

impl LocalTable {
    /// Joins a table with the pools of `before`, as far as their upstreams are still in it.
    fn new(shared: Arc<Table>, before: &[Rc<LocalRoute>]) -> Rc<Self> {
        let mut pools: HashMap<u64, Rc<Pool>> =
            before.iter().map(|route| (route.pool.upstream.id, route.pool.clone())).collect();
        let routes = shared.routes.iter().map(|entry| {
            let upstream = &entry.upstream;
            let pool = pools.entry(upstream.id).or_insert_with(|| Pool::new(upstream.clone())).clone();
            Rc::new(LocalRoute { entry: entry.clone(), pool })
        });
        let routes: Vec<Rc<LocalRoute>> = routes.collect();
        for route in &routes {
            route.pool.warmth.set(Warmth::default());
        }
        for route in &routes {
            let (pool, Route { warm, connect_timeout, .. }) = (&route.pool, &route.entry.config);
            if *warm > pool.warmth.get().span {
                pool.warmth.set(Warmth { span: *warm, connect_timeout: *connect_timeout });
            }
        }
        Rc::new(Self { shared, routes, refusals: RefCell::default() })
    }

    /// The refusal for this reason, made when it is first wanted.
    fn refusal(&self, check: Check) -> Rc<ReadyMade> {
        let mut refusals = self.refusals.borrow_mut();
        if let Some((_, refusal)) = refusals.iter().find(|(of, _)| *of == check) {
            return refusal.clone();
        }
        let refusal = ReadyMade::new(check, &self.shared.advice);
        refusals.push((check, refusal.clone()));
        refusal
    }
}

impl Worker {
    pub(crate) fn new(table: Arc<Table>, stats: Arc<Stats>, peers: Option<&PeerLookups>, workers: usize) -> Rc<Self> {
        let places = Places::of(descriptors::limit(), workers);
        Rc::new(Self {
            table: RefCell::new(LocalTable::new(table, &[])),
            listeners: RefCell::default(),
            connections: RefCell::default(),
            last_id: Cell::new(0),
            most_clients: places.clients,
            strangers: Strangers::new(places.strangers),
            turnstile: Turnstile::new(places.strangers, stats.clone()),
            shares: Shares::default(),
            stats,
            one_less: Notify::new(),
            peers: peers.map(|peers| RefCell::new(peers())),
            notes: Running::default(),
        })
    }

    /// The table as it is now.
    pub(crate) fn table(&self) -> Rc<LocalTable> {
        self.table.borrow().clone()
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.last_id.set(self.last_id.get() + 1);
        self.last_id.get()
    }

    pub(crate) fn opened(&self, id: u64, connection: &Rc<Connection>) {
        self.stats.connections.add(1);
        self.connections.borrow_mut().insert(id, Rc::downgrade(connection));
    }

    pub(crate) fn closed(&self, id: u64) {
        self.stats.connections.subtract(1);
        self.connections.borrow_mut().remove(&id);
        self.strangers.leave(id);
        self.one_less.notify_waiters();
    }

    /// Who is at the client's end of a TCP connection; `None` if nobody looks.
    pub(crate) fn look_up_peer(&self, client: SocketAddr, server: SocketAddr) -> Option<Peer> {
        self.peers.as_ref().map(|peers| peers.borrow_mut()(client, server))
    }

    fn has_room(&self) -> bool {
        self.connections.borrow().len() - self.strangers.count() < self.most_clients
    }

    /// Does what it is told until it is told to stop, or nobody is left to tell.
    pub(crate) async fn run(self: Rc<Self>, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut accepting: Vec<AbortHandle> = Vec::new();
        let mut lending: Vec<AbortHandle> = Vec::new();
        let mut look = tokio::time::interval(audit::LOOK);
        let drain = loop {
            let is_audited = self.table.borrow().shared.access.audit.is_some();
            let command = tokio::select! {
                command = commands.recv() => command,
                _ = look.tick(), if is_audited => {
                    self.notes.tell_of_long();
                    continue;
                }
            };
            match command {
                Some(Command::Table(shared)) => {
                    let table = LocalTable::new(shared, &self.table().routes);
                    self.table.replace(table);
                }
                Some(Command::Listen(listeners)) => {
                    accepting.drain(..).for_each(|task| task.abort());
                    let mut own = self.listeners.borrow_mut();
                    own.retain(|listener| listener.is_lent);
                    for ProxyListener { socket, route } in listeners {
                        own.extend(own_listener(&socket, route.clone(), false));
                        let scope = route.map_or(Scope::All, Scope::Own);
                        let task = tokio::task::spawn_local(self.clone().accept(socket, scope));
                        accepting.push(task.abort_handle());
                    }
                }
                Some(Command::Lend(socket, lent)) => {
                    let (scope, worker) = (Scope::Lent(Arc::new(lent)), self.clone());
                    let own = own_listener(&socket, None, true);
                    self.listeners.borrow_mut().extend(own.clone());
                    let task = tokio::task::spawn_local(async move {
                        tokio::select! {
                            () = scope.ended() => {}
                            () = worker.clone().accept(socket, scope.clone()) => {}
                        }
                        worker.listeners.borrow_mut().retain(|listener| Some(listener) != own.as_ref());
                    });
                    lending.retain(|task| !task.is_finished());
                    lending.push(task.abort_handle());
                }
                Some(Command::Ping(reply)) => drop(reply.send(())),
                Some(Command::Stop(drain)) => break drain,
                None => break Duration::ZERO,
            }
        };
        accepting.into_iter().chain(lending).for_each(|task| task.abort());
        self.drain(Instant::now() + drain).await;
    }

    async fn drain(&self, deadline: Instant) {
        self.to_all(Connection::stop);
        self.emptied(deadline.min(Instant::now() + FIRST_WORDS)).await;
        self.to_all(Connection::stop_waiting);
        self.emptied(deadline).await;
    }

    fn to_all(&self, order: impl Fn(&Connection)) {
        let running: Vec<_> = self.connections.borrow().values().filter_map(Weak::upgrade).collect();
        running.iter().for_each(|connection| order(connection));
    }

    /// Returns when there is no connection any more, at the deadline at the latest.
    async fn emptied(&self, deadline: Instant) {
        loop {
            let one_less = self.one_less.notified();
            if self.connections.borrow().is_empty() || tokio::time::timeout_at(deadline, one_less).await.is_err() {
                return;
            }
        }
    }

    async fn accept(self: Rc<Self>, socket: socket::Listener, scope: Scope) {
        let listener = match Listener::new(socket) {
            Ok(listener) => listener,
            Err(error) => return warn!(%error, "cannot accept connections"),
        };
        let mut at_once = 0;
        loop {
            while !self.has_room() {
                self.one_less.notified().await;
            }
            at_once += 1;
            if at_once > ACCEPTED_AT_ONCE {
                at_once = 0;
                tokio::task::yield_now().await;
            }
            match listener.accept().await {
                Ok((socket, door, ends)) => {
                    let door = Door { caller: self.caller(&socket, ends), ..door };
                    self.receive(socket, door, &scope, ends);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    debug!(%error, "cannot accept a connection just now");
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }

    /// Judges by how a connection has come in what it is given: a task like any client's, a stranger's, or an answer.
    fn receive(self: &Rc<Self>, socket: Socket, door: Door, scope: &Scope, ends: Option<Ends>) {
        let connection = |standing| Connection::new(self.clone(), door, scope.clone(), ends, standing);
        match self.bar(door) {
            None => spawn(scope, serve(connection(Standing::Client), socket)),
            Some(check) if self.table().shared.access.keys.is_empty() => {
                self.turn_away(socket, door.caller, check, &[])
            }
            Some(_) => {
                let stranger = connection(Standing::Stranger);
                self.strangers.enter(stranger.id(), door, ends.map(|(client, _)| client.ip()), &stranger);
                spawn(scope, serve_stranger(stranger, socket));
            }
        }
    }

    /// Why nobody is served without a client key who comes in like this; `None` if they are.
    pub(crate) fn bar(&self, door: Door) -> Option<Check> {
        guard::bar(door, &self.table.borrow().shared.access.uids)
    }

    /// Refuses what comes on a connection without looking closer; `read` is what has come already.
    pub(crate) fn turn_away(&self, socket: Socket, caller: Caller, check: Check, read: &[u8]) {
        if let Ok(socket) = socket.into_descriptor() {
            let table = self.table();
            let audit = table.shared.access.audit.clone();
            self.turnstile.turn_away(socket, caller.uid(), audit, table.refusal(check), read);
        }
    }

    fn caller(&self, socket: &Socket, ends: Option<Ends>) -> Caller {
        match (socket, ends) {
            (Socket::Unix(unix), _) => unix.peer_cred().map_or(Caller::Unknown, |peer| {
                let pid = peer.pid().and_then(|pid| pid.try_into().ok());
                Caller::Of { uid: peer.uid(), pid }
            }),
            (Socket::Tcp(_), Some((client, server))) => match self.look_up_peer(client, server) {
                None => Caller::NotAsked,
                Some(Peer::Uid(uid)) => Caller::Of { uid, pid: None },
                Some(Peer::Gone | Peer::Unknown) => Caller::Unknown,
            },
            (Socket::Tcp(_), None) if self.peers.is_none() => Caller::NotAsked,
            (Socket::Tcp(_), None) => Caller::Unknown,
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

/// Runs what serves a connection, no longer than its listener's scope lasts.
fn spawn(scope: &Scope, serving: impl Future<Output = ()> + 'static) {
    match scope.clone() {
        Scope::All | Scope::Own(_) => drop(tokio::task::spawn_local(serving)),
        scope @ Scope::Lent(_) => drop(tokio::task::spawn_local(async move {
            tokio::select! {
                () = scope.ended() => {}
                () = serving => {}
            }
        })),
    }
}

/// Errors of accept(2) that concern the connection which would have been accepted, not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, PermissionDenied};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | ConnectionRefused | Interrupted | PermissionDenied)
}

/// A listening socket of this worker's runtime.
enum Listener {
    Tcp(TcpListener, Door),
    Unix(UnixListener),
}

impl Listener {
    fn new(socket: socket::Listener) -> io::Result<Self> {
        match socket {
            socket::Listener::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                let address = listener.local_addr()?;
                let key_required = !address.ip().is_loopback();
                let port = (!key_required).then_some(address.port());
                let door = Door { port, key_required, caller: Caller::Unknown };
                Ok(Self::Tcp(TcpListener::from_std(listener)?, door))
            }
            socket::Listener::Unix(listener) => {
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(UnixListener::from_std(listener)?))
            }
        }
    }

    async fn accept(&self) -> io::Result<(Socket, Door, Option<Ends>)> {
        match self {
            Self::Tcp(listener, door) => {
                let (tcp, client) = listener.accept().await?;
                let _ = tcp.set_nodelay(true); // not worth failing for
                let ends = tcp.local_addr().ok().map(|server| (client, server));
                Ok((Socket::Tcp(tcp), *door, ends))
            }
            Self::Unix(listener) => {
                let (unix, _) = listener.accept().await?;
                let door = Door { port: None, key_required: false, caller: Caller::Unknown };
                Ok((Socket::Unix(unix), door, None))
            }
        }
    }
}

/// What the upstreams' references are compared with; `None` on a unix socket, which no reference leads to.
fn own_listener(socket: &socket::Listener, route: Option<RouteName>, is_lent: bool) -> Option<OwnListener> {
    let socket::Listener::Tcp(tcp) = socket else { return None };
    let address = tcp.local_addr().ok()?;
    Some(OwnListener { port: address.port(), route, is_open: !address.ip().is_loopback(), is_lent })
}

/// Makes another descriptor of the same listening socket.
pub(crate) fn duplicate(listener: &ProxyListener) -> io::Result<ProxyListener> {
    Ok(ProxyListener { socket: listener.socket.try_clone()?, route: listener.route.clone() })
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
}
