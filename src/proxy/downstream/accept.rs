//! Accepting clients' connections, and judging by how one has come in what it is given.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::{TcpListener, UnixListener};
use tracing::{debug, warn};

use crate::config::RouteName;
use crate::platform::socket;
use crate::proxy::connection::Connection;
use crate::proxy::downstream::io::Socket;
use crate::proxy::downstream::serve::{Downstream, serve, serve_stranger};
use crate::proxy::peer::{Peer, Process};
use crate::proxy::policy::guard;
use crate::proxy::policy::ingress::Ingress;
use crate::proxy::policy::rewrite::OwnListener;
use crate::proxy::policy::scope::Scope;
use crate::proxy::registry::ClientState;

/// Connections that are accepted before those that run have their turn: connecting costs a flood less than us accepting.
const ACCEPTED_AT_ONCE: usize = 8;

/// A listening socket, and the route that is served there without prefix, if it is not for all.
#[derive(Debug)]
pub(crate) struct ProxyListener {
    /// Bound and listening.
    pub socket: socket::Listener,
    /// The route that the address belongs to.
    pub route: Option<RouteName>,
}

impl ProxyListener {
    /// Another descriptor of the same listening socket.
    pub(crate) fn duplicate(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, route: self.route.clone() })
    }
}

/// Accepts on a listener for ever. Its connections end with the scope.
pub(crate) async fn accept(downstream: Rc<Downstream>, socket: socket::Listener, scope: Scope) {
    let (listener, ingress) = match listen(socket, scope) {
        Ok((listener, ingress)) => (listener, Rc::new(ingress)),
        Err(error) => return warn!(%error, "cannot accept connections"),
    };
    let mut at_once = 0;
    loop {
        downstream.worker.registry.has_room().await;
        at_once += 1;
        if at_once > ACCEPTED_AT_ONCE {
            at_once = 0;
            tokio::task::yield_now().await;
        }
        match listener.accept().await {
            Ok((socket, addresses)) => {
                let peer = Peer { addresses, process: process(&downstream, &socket, addresses) };
                receive(&downstream, socket, &ingress, peer);
            }
            Err(error) => {
                if let Some(pause) = socket::pause_after(&error) {
                    debug!(%error, "cannot accept a connection just now");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

/// Gives a connection a task like any client's, a stranger's, or a refusal.
fn receive(downstream: &Rc<Downstream>, socket: Socket, ingress: &Rc<Ingress>, peer: Peer) {
    let connection = |client_state| Connection::new(downstream.worker.clone(), ingress.clone(), peer, client_state);
    let table = downstream.worker.table();
    let access = &table.shared.access;
    match guard::needs_key(ingress, &peer, &access.uids) {
        None => spawn(&ingress.scope, serve(downstream.clone(), connection(ClientState::Admitted), socket)),
        Some(check) if access.keys.is_empty() => downstream.turn_away(socket, &peer, check, &[]),
        Some(_) => {
            let stranger = connection(ClientState::Stranger);
            downstream.worker.registry.add_stranger(&stranger.handle, &peer);
            spawn(&ingress.scope, serve_stranger(downstream.clone(), stranger, socket));
        }
    }
}

fn process(downstream: &Downstream, socket: &Socket, addresses: Option<(SocketAddr, SocketAddr)>) -> Process {
    match socket {
        Socket::Unix(unix) => unix.peer_cred().map_or(Process::Unknown, |peer| {
            let pid = peer.pid().and_then(|pid| pid.try_into().ok());
            Process::Of { uid: peer.uid(), pid }
        }),
        Socket::Tcp(_) => downstream.worker.look_up_process(addresses),
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

/// A listening socket of this worker's runtime.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Takes a listening socket into this worker's runtime.
fn listen(socket: socket::Listener, scope: Scope) -> io::Result<(Listener, Ingress)> {
    match socket {
        socket::Listener::Tcp(listener) => {
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            let ingress = match address.ip().is_loopback() {
                true => Ingress::loopback(scope),
                false => Ingress::remote(scope),
            };
            Ok((Listener::Tcp(TcpListener::from_std(listener)?), ingress))
        }
        socket::Listener::Unix(listener) => {
            listener.set_nonblocking(true)?;
            Ok((Listener::Unix(UnixListener::from_std(listener)?), Ingress::unix(scope)))
        }
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<(Socket, Option<(SocketAddr, SocketAddr)>)> {
        match self {
            Self::Tcp(listener) => {
                let (tcp, client) = listener.accept().await?;
                let _ = tcp.set_nodelay(true); // not worth failing for
                let addresses = tcp.local_addr().ok().map(|server| (client, server));
                Ok((Socket::Tcp(tcp), addresses))
            }
            Self::Unix(listener) => Ok((Socket::Unix(listener.accept().await?.0), None)),
        }
    }
}

/// What the upstreams' references are compared with; `None` on a unix socket, which no reference leads to.
pub(crate) fn own_listener(socket: &socket::Listener, route: Option<RouteName>, is_lent: bool) -> Option<OwnListener> {
    let socket::Listener::Tcp(tcp) = socket else { return None };
    let address = tcp.local_addr().ok()?;
    Some(OwnListener { port: address.port(), route, is_open: !address.ip().is_loopback(), is_lent })
}
