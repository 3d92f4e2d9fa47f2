//! One thread of the data plane: it starts a worker's runtime and does what it is told until it is told to stop.

use std::io;
use std::rc::Rc;
use std::sync::{Arc, mpsc as blocking_mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::audit;
use crate::platform::socket;
use crate::proxy::downstream::accept::{ProxyListener, accept, own_listener};
use crate::proxy::downstream::serve::Downstream;
use crate::proxy::peer::PeerLookups;
use crate::proxy::policy::scope::{Lent, Scope};
use crate::proxy::registry::Handle;
use crate::proxy::table::Table;
use crate::proxy::worker::Worker;
use crate::stats::Stats;

/// Grace for a connection's first request once draining has begun: its bytes are on their way. Those who connect in
/// advance and say nothing delay the stop by no more.
const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// What a worker is told.
pub(crate) enum Command {
    /// Serve by this table from here on.
    Table(Arc<Table>),
    /// Accept on these, and on no others but those that are lent.
    Listen(Vec<ProxyListener>),
    /// Accept on this one as well, until what is lent has ended.
    Lend(socket::Listener, Lent),
    /// Use no connection to an upstream again that was opened before now.
    NetworkChanged,
    /// Say that you are there.
    Ping(oneshot::Sender<()>),
    /// Accept no more, let running exchanges end within the time, and end.
    Stop(Duration),
}

/// A thread that runs.
pub(crate) struct WorkerThread {
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) ended: oneshot::Receiver<()>,
    pub(crate) thread: JoinHandle<()>,
}

/// Starts a worker on a thread of its own.
///
/// # Errors
///
/// If the thread or its runtime cannot be had.
pub(crate) fn start(
    index: usize,
    table: Arc<Table>,
    stats: Arc<Stats>,
    peers: Option<PeerLookups>,
) -> io::Result<WorkerThread> {
    let (commands, orders) = mpsc::unbounded_channel();
    let (started, has_started) = blocking_mpsc::sync_channel(1);
    let (ending, ended) = oneshot::channel();
    let thread = thread::Builder::new().name(format!("proxy-{index}")).spawn(move || {
        let runtime = match Builder::new_current_thread().enable_io().enable_time().build_local(LocalOptions::default())
        {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        let _ = started.send(Ok(()));
        runtime.block_on(async {
            let worker = Worker::new(table, stats, peers.as_ref());
            run(Downstream::new(worker), orders).await;
        });
        // a name server that does not answer must not hold up the end
        runtime.shutdown_background();
        let _ = ending.send(());
    })?;
    has_started.recv().map_err(io::Error::other)??;
    Ok(WorkerThread { commands, ended, thread })
}

/// Does what it is told until it is told to stop, or nobody is left to tell.
async fn run(downstream: Rc<Downstream>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let worker = downstream.worker.clone();
    worker.watch_authority();
    let mut accepting: Vec<AbortHandle> = Vec::new();
    let mut lending: Vec<AbortHandle> = Vec::new();
    let mut look = tokio::time::interval(audit::LONG_CHECK_INTERVAL);
    let drain = loop {
        let is_audited = worker.table().shared.access.audit.is_some();
        let command = tokio::select! {
            command = commands.recv() => command,
            _ = look.tick(), if is_audited => {
                worker.notes.tell_of_long();
                continue;
            }
        };
        match command {
            Some(Command::Table(shared)) => {
                worker.replace_table(shared);
                worker.watch_authority();
            }
            Some(Command::Listen(listeners)) => {
                accepting.drain(..).for_each(|task| task.abort());
                let mut own = worker.listeners.borrow_mut();
                own.retain(|listener| listener.is_lent);
                for ProxyListener { socket, route } in listeners {
                    own.extend(own_listener(&socket, route.clone(), false));
                    let scope = route.map_or(Scope::All, Scope::Own);
                    let task = tokio::task::spawn_local(accept(downstream.clone(), socket, scope));
                    accepting.push(task.abort_handle());
                }
            }
            Some(Command::Lend(socket, lent)) => {
                lending.retain(|task| !task.is_finished());
                lending.push(tokio::task::spawn_local(lend(downstream.clone(), socket, lent)).abort_handle());
            }
            Some(Command::NetworkChanged) => worker.table().routes.iter().for_each(|route| route.pool.retire()),
            Some(Command::Ping(reply)) => drop(reply.send(())),
            Some(Command::Stop(drain)) => break drain,
            None => break Duration::ZERO,
        }
    };
    accepting.into_iter().chain(lending).for_each(|task| task.abort());
    let deadline = Instant::now() + drain;
    worker.registry.to_all(Handle::stop);
    worker.registry.emptied(deadline.min(Instant::now() + FIRST_REQUEST_GRACE)).await;
    worker.registry.to_all(Handle::stop_waiting);
    worker.registry.emptied(deadline).await;
}

/// Accepts on a listener until what is lent has ended.
async fn lend(downstream: Rc<Downstream>, socket: socket::Listener, lent: Lent) {
    let (scope, worker) = (Scope::Lent(Arc::new(lent)), downstream.worker.clone());
    let own = own_listener(&socket, None, true);
    worker.listeners.borrow_mut().extend(own.clone());
    tokio::select! {
        () = scope.ended() => {}
        () = accept(downstream, socket, scope.clone()) => {}
    }
    worker.listeners.borrow_mut().retain(|listener| Some(listener) != own.as_ref());
}
