//! What one worker has: its table and pools, its connections, and the requests that it notes.
//!
//! Nothing here is shared with another worker but the listening sockets, the immutable table, the tokens and the
//! counters, so that a usual request takes no lock and never leaves its thread.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::proxy::local_table::LocalTable;
use crate::proxy::note::Running;
use crate::proxy::peer::{PeerLookup, PeerLookups, Process};
use crate::proxy::policy::rewrite::OwnListener;
use crate::proxy::registry::{Handle, Registry};
use crate::proxy::table::Table;
use crate::stats::Stats;
use crate::token_source::TokenSource;

/// One worker, as its connections see it.
pub(crate) struct Worker {
    table: RefCell<Rc<LocalTable>>,
    pub(crate) stats: Arc<Stats>,
    /// Where clients connect to on TCP, so that no upstream leads them to another route.
    pub(crate) listeners: RefCell<Vec<OwnListener>>,
    pub(crate) registry: Registry,
    peers: Option<RefCell<PeerLookup>>,
    /// What the audit will be told.
    pub(crate) notes: Rc<Running>,
    /// Rung when a client key is valid no longer, or an account was logged out.
    pub(crate) authority_changed: Notify,
    /// The tasks that ring it.
    watching: RefCell<JoinSet<()>>,
}

impl Worker {
    /// One of as many as the table says.
    pub(crate) fn new(table: Arc<Table>, stats: Arc<Stats>, peers: Option<&PeerLookups>) -> Rc<Self> {
        Rc::new(Self {
            registry: Registry::new(table.workers),
            table: RefCell::new(LocalTable::new(table, &[])),
            stats,
            listeners: RefCell::default(),
            peers: peers.map(|peers| RefCell::new(peers())),
            notes: Rc::default(),
            authority_changed: Notify::new(),
            watching: RefCell::default(),
        })
    }

    /// The table as it is now.
    pub(crate) fn table(&self) -> Rc<LocalTable> {
        self.table.borrow().clone()
    }

    /// Serves by this table from here on.
    pub(crate) fn replace_table(&self, shared: Arc<Table>) {
        let table = LocalTable::new(shared, &self.table().routes);
        self.table.replace(table);
    }

    /// Has every exchange that has lost its right cut, now and whenever a client key ends or an account is logged out from now
    /// on, as far as both are in the table of now.
    pub(crate) fn watch_authority(self: &Rc<Self>) {
        let table = self.table();
        let mut sources: Vec<&Arc<TokenSource>> = table.routes.iter().map(|route| &route.entry.tokens).collect();
        sources.sort_by_key(|source| Arc::as_ptr(source));
        sources.dedup_by_key(|source| Arc::as_ptr(source));
        let mut watching = JoinSet::new();
        let mut ends = table.shared.access.keys.ends();
        let worker = Rc::downgrade(self);
        watching.spawn_local(async move {
            while ends.changed().await.is_ok()
                && let Some(worker) = worker.upgrade()
            {
                worker.look_at_authority();
            }
        });
        for source in sources {
            let mut publications = source.publications();
            let (source, worker) = (source.clone(), Rc::downgrade(self));
            let mut before = source.withdrawals();
            watching.spawn_local(async move {
                while publications.changed().await.is_ok()
                    && let Some(worker) = worker.upgrade()
                {
                    let now = source.withdrawals();
                    if std::mem::replace(&mut before, now) != now {
                        worker.look_at_authority();
                    }
                }
            });
        }
        self.watching.replace(watching);
        self.look_at_authority(); // what has ended while nobody watched
    }

    fn look_at_authority(&self) {
        self.authority_changed.notify_waiters();
        self.registry.to_all(Handle::look_at_authority);
    }

    /// Who is at the client's end of a TCP connection. `None` for addresses if even they cannot be told.
    pub(crate) fn look_up_process(&self, addresses: Option<(SocketAddr, SocketAddr)>) -> Process {
        match (&self.peers, addresses) {
            (None, _) => Process::NotAsked,
            (Some(peers), Some((client, server))) => match peers.borrow_mut()(client, server) {
                Some(uid) => Process::Of { uid, pid: None },
                None => Process::Unknown,
            },
            (Some(_), None) => Process::Unknown,
        }
    }
}
