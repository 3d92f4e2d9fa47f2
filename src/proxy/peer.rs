//! Who is at the other end of a client's connection.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::platform::peer::Ends;

/// Looks a client on TCP up, by its address and ours: the user that the process belongs to which has the socket open, for
/// writing or only for reading. `None` if nobody has it open any more, or if it could not be told. Asked right after
/// accepting, and again when a client has closed its sending side while a response is due. Must not block for long: the
/// worker waits.
pub(crate) type PeerLookup = Box<dyn FnMut(SocketAddr, SocketAddr) -> Option<u32>>;

/// Makes a [`PeerLookup`] for each worker, on the worker's thread.
pub(crate) type PeerLookups = Arc<dyn Fn() -> PeerLookup + Send + Sync>;

/// The client's end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Peer {
    /// On TCP: the client's address and ours.
    pub(crate) addresses: Option<(SocketAddr, SocketAddr)>,
    pub(crate) process: Process,
}

/// What is known of the process at the client's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Process {
    /// Nobody asks.
    NotAsked,
    /// It belongs to this user; on a unix socket the process is known as well.
    Of { uid: u32, pid: Option<u32> },
    /// Nobody knows whose it is.
    Unknown,
}

impl Peer {
    /// The user, if known.
    pub(crate) fn uid(&self) -> Option<u32> {
        match self.process {
            Process::Of { uid, .. } => Some(uid),
            Process::NotAsked | Process::Unknown => None,
        }
    }

    /// Whether it needs no client key; `uids` are those of the setting `clients`, in order.
    pub(crate) fn is_one_of(&self, uids: &[u32]) -> bool {
        match self.process {
            Process::NotAsked => true,
            Process::Of { uid, .. } => uids.binary_search(&uid).is_ok(),
            Process::Unknown => false,
        }
    }

    /// Whether it is a process of this user. Where nobody asks, it is anybody's.
    pub(crate) fn is_of(&self, user: u32) -> bool {
        match self.process {
            Process::NotAsked => true,
            Process::Of { uid, .. } => uid == user,
            Process::Unknown => false,
        }
    }

    /// By what the process can be found.
    pub(crate) fn ends(&self) -> Ends {
        match (self.addresses, self.process) {
            (Some((client, server)), _) => Ends::Tcp(client, server),
            (None, Process::Of { pid, .. }) => Ends::Unix(pid),
            (None, Process::NotAsked | Process::Unknown) => Ends::Unix(None),
        }
    }
}
