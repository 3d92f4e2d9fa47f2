//! What one worker has: its table and pools, its connections, and the requests that it notes.
//!
//! Nothing here is shared with another worker but the listening sockets, the immutable table, the tokens and the
//! counters, so that a usual request takes no lock and never leaves its thread.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::proxy::local_table::LocalTable;
use crate::proxy::note::Running;
use crate::proxy::peer::{PeerLookup, PeerLookups, Process};
use crate::proxy::policy::rewrite::OwnListener;
use crate::proxy::registry::Registry;
use crate::proxy::table::Table;
use crate::stats::Stats;

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
