//! The reverse proxy's data plane: requests in on loopback, out to the APIs with the right header, answers back.
//!
//! [`Proxy`] is a few worker threads. Each accepts from the same listening sockets, has a runtime of its own and its own
//! connections to the upstreams; [`Table`] is what they have been told. Where to read on:
//!
//! * `thread`: a worker's thread, which is told what to do;
//! * `downstream`: the client's side: accepting, serving HTTP/1.1 and HTTP/2, what a stranger may cost;
//! * `exchange`: one request from start to end (`service`), a tunnel (`upgrade`), and what is counted of it;
//! * `connection`: what requests know of the client's connection; `worker`: what a worker has; `local_table`: the table
//!   with its pools; `registry`: the open connections, as far as they are stopped or make room; `note`: what the audit is
//!   told of a request;
//! * `table`: what the workers have been told: the routes, prepared;
//! * `upstream`: the API's side: connections kept and shared, HTTP/1.1 and HTTP/2 on them;
//! * `replay`: the bounded copy of a body, and the second sending; `authorization`: what a request is authorized by;
//! * `policy`: what is decided about requests and responses (pure), and what a tool sees when something is wrong;
//! * `peer`: who is at a connection's other end; `deadline`: its phases and its one timer; `fault`: what can be wrong with
//!   an upstream.
//!
//! Imports go down this list only, from wing to wing and within a wing; `tests/it/architecture.rs` sees to it that there
//! is no circle.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::client_keys::AddressKind;
use crate::config::RouteName;
use crate::platform::socket;
use crate::shutdown::Shutdown;
use crate::stats::Stats;

use policy::scope::Lent;
use thread::{Command, WorkerThread};

pub(crate) use downstream::accept::ProxyListener;
pub(crate) use peer::PeerLookups;
pub(crate) use table::{Access, Table};

mod authorization;
#[cfg(feature = "benchmarks")]
pub mod benchmarks;
mod connection;
mod deadline;
mod downstream;
mod exchange;
mod fault;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod local_table;
mod note;
mod peer;
mod policy;
mod registry;
mod replay;
mod table;
#[cfg(test)]
mod tests;
mod thread;
mod upstream;
mod worker;

/// The running data plane. Dropping it ends it at once; [`Proxy::stop`] lets running requests end first.
pub(crate) struct Proxy {
    workers: Vec<WorkerThread>,
    table: Arc<Table>,
}

impl Proxy {
    /// Starts as many threads as the table's configuration says, all accepting on `listeners`. Without `peers`, clients
    /// on TCP are not asked who they are.
    ///
    /// # Errors
    ///
    /// If a thread, its runtime or another descriptor of a listener cannot be had.
    pub(crate) fn start(
        listeners: Vec<ProxyListener>,
        table: Table,
        stats: Arc<Stats>,
        peers: Option<PeerLookups>,
    ) -> io::Result<Proxy> {
        let table = Arc::new(table);
        let mut workers = Vec::with_capacity(table.workers);
        for index in 0..table.workers {
            workers.push(thread::start(index, table.clone(), stats.clone(), peers.clone())?);
        }
        let proxy = Proxy { workers, table };
        proxy.listen(listeners)?;
        Ok(proxy)
    }

    /// Serves by another table from the next request on. No connection is dropped, neither a client's nor one to an
    /// upstream that is still in the table. The number of threads stays.
    pub(crate) fn replace(&mut self, mut table: Table) {
        table.adopt(&self.table);
        self.table = Arc::new(table);
        self.tell(|| Command::Table(self.table.clone()));
    }

    /// Has the responses that valetd makes itself say so, or no longer: what is wrong with the configuration.
    pub(crate) fn advise(&mut self, config_problem: Option<String>) {
        if self.table.advice.config_problem == config_problem {
            return;
        }
        let mut table = Table::clone(&self.table);
        table.advice.config_problem = config_problem;
        self.table = Arc::new(table);
        self.tell(|| Command::Table(self.table.clone()));
    }

    /// Uses no connection to an upstream for another request that was opened before now: the machine's network has changed,
    /// and they may lead nowhere. What runs on them goes on.
    pub(crate) fn network_changed(&self) {
        self.tell(|| Command::NetworkChanged);
    }

    /// Asks every worker for a sign of life. The future ends when all have given it, with whether all are still there;
    /// never, as long as one of them is stuck.
    pub(crate) fn ping(&self) -> impl Future<Output = bool> + Send + use<> {
        let ask = |worker: &WorkerThread| {
            let (reply, answer) = oneshot::channel();
            let _ = worker.commands.send(Command::Ping(reply));
            answer
        };
        let answers: Vec<_> = self.workers.iter().map(ask).collect();
        async move {
            let mut all = true;
            for answer in answers {
                all &= answer.await.is_ok();
            }
            all
        }
    }

    /// Accepts on `listeners` from here on, and on no others but those that are lent. Accepted connections go on. To
    /// keep a socket's queue of connections that wait to be accepted, hand in another descriptor of the same socket.
    ///
    /// # Errors
    ///
    /// If another descriptor of a listener cannot be had; then nothing has changed.
    pub(crate) fn listen(&self, listeners: Vec<ProxyListener>) -> io::Result<()> {
        let copies: Vec<Vec<_>> = self
            .workers
            .iter()
            .map(|_| listeners.iter().map(ProxyListener::duplicate).collect())
            .collect::<io::Result<_>>()?;
        for (worker, listeners) in self.workers.iter().zip(copies) {
            let _ = worker.commands.send(Command::Listen(listeners));
        }
        Ok(())
    }

    /// Accepts on one more listener, whatever [`Proxy::listen`] is told, until `ended`; then its connections are closed,
    /// wherever their requests are. Only `routes` exist there; `kind` says how they
    /// are reached.
    ///
    /// # Errors
    ///
    /// If another descriptor of the listener cannot be had; then nothing has changed.
    pub(crate) fn lend(
        &self,
        listener: &socket::Listener,
        routes: &[RouteName],
        kind: AddressKind,
        ended: &Shutdown,
    ) -> io::Result<()> {
        let copies: Vec<_> = self.workers.iter().map(|_| listener.try_clone()).collect::<io::Result<_>>()?;
        for (worker, listener) in self.workers.iter().zip(copies) {
            let lent = Lent { routes: routes.to_vec(), kind, ended: ended.clone() };
            let _ = worker.commands.send(Command::Lend(listener, lent));
        }
        Ok(())
    }

    /// Accepts no more, lets running requests end, closes what is left after `drain`, and returns when the threads have
    /// ended.
    pub(crate) async fn stop(self, drain: Duration) {
        self.tell(|| Command::Stop(drain));
        for worker in self.workers {
            let _ = worker.ended.await; // an error means that it ended by a panic
            let _ = worker.thread.join(); // has nothing left to do
        }
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            let _ = worker.commands.send(command()); // an error means that it ended by a panic
        }
    }
}
