//! HTTP/1.1 and JSON on the unix socket: what the command line, scripts and `curl --unix-socket` talk to.
//!
//! Only the user whose daemon it is, and root, are heard. Answers are made from what is published already, so that a
//! hung authorization server delays a status query by nothing; every connection is a task of its own, so that a client
//! who stalls delays nobody else. Nothing here ever hands out a token.
//!
//! * [`api`]: the verbs;
//! * [`report`]: the status document, and [`metrics`]: the same as numbers for Prometheus;
//! * [`events`]: what changes, as it changes;
//! * [`keys`]: client keys;
//! * [`problem`]: what is answered when something cannot be done;
//! * [`client`]: the other end, for the command line.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::accounts::Accounts;
use crate::client_keys::{KeyRing, OwnAddress};
use crate::config::{Config, RouteName};
use crate::platform::clock::Clock;
use crate::platform::log::LogHandle;
use crate::platform::users;
use crate::shutdown::Shutdown;
use crate::stats::Stats;

pub mod api;
pub mod client;
pub mod events;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod keys;
pub mod metrics;
pub mod problem;
pub mod report;

use api::Answer;
use events::Events;
use keys::Lifeline;
use report::{Facts, Readings, Sources, StatusReport};

/// How long a client may take for a request's head, and stay idle between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The head of the largest sensible request is a few hundred bytes.
const LARGEST_HEAD: usize = 16 * 1024;

/// Nobody needs a connection for longer, but who listens to events: the longest other verb is a sign-out whose server is slow to revoke. It frees what
/// a client holds who asks and never reads.
const LONGEST_CONNECTION: Duration = Duration::from_secs(5 * 60);

/// More connections than any number of scripts needs, fewer than the process has descriptors. Event streams and the lines
/// of ephemeral keys do not count: see [`MOST_STREAMS`] and [`crate::client_keys`].
const MOST_CONNECTIONS: usize = 128;

/// Event streams, which stay open; counted apart, so that no number of status bars keeps anybody from revoking a key.
const MOST_STREAMS: usize = 128;

/// What answers under way are given when the daemon stops.
const STOPPING_GRACE: Duration = Duration::from_secs(2);

/// What to wait after a failed accept: it is mostly for want of descriptors, which come back in their own time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Asks for the configuration to be read again; answered when the reload is done, or with the problems that stopped it.
pub type ReloadRequest = oneshot::Sender<Result<(), Vec<String>>>;

/// Asks for an address where some routes exist and no others, for a command that runs with a key of its own.
pub struct LendRequest {
    /// The routes.
    pub routes: Vec<RouteName>,
    /// Answered with the address, or why there is none. An address that nobody waits for any more is closed again.
    pub reply: oneshot::Sender<Result<OwnAddress, String>>,
}

/// What the verbs read and whom they ask. Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    /// The renewer.
    pub accounts: Accounts,
    /// The proxy's numbers.
    pub stats: Arc<Stats>,
    /// The time line.
    pub clock: Arc<Clock>,
    /// The configuration in force.
    pub config: watch::Receiver<Arc<Config>>,
    /// What is wrong with the configuration file, if the one in force is an older one.
    pub config_problems: watch::Receiver<Vec<String>>,
    /// The process.
    pub facts: watch::Receiver<Facts>,
    /// The daemon's ear for reloads.
    pub reload: mpsc::Sender<ReloadRequest>,
    /// The daemon's ear for those who want an address of their own.
    pub lend: mpsc::Sender<LendRequest>,
    /// The client keys.
    pub keys: Arc<KeyRing>,
    /// Where changes are told.
    pub events: Arc<Events>,
    /// The running log; `None` if this process has none of its own.
    pub log: Option<LogHandle>,
}

impl Desk {
    /// One instant of both clocks.
    pub fn readings(&self) -> Readings {
        let now = self.clock.now();
        Readings { now, wall: self.clock.calendar(now) }
    }

    /// The status document as of now. Waits for nothing.
    pub fn report(&self) -> StatusReport {
        StatusReport::new(&Sources {
            readings: self.readings(),
            facts: &self.facts.borrow(),
            config: &self.config.borrow(),
            config_problems: &self.config_problems.borrow(),
            views: &self.accounts.views(),
            stats: &self.stats,
            keys: &self.keys,
        })
    }
}

/// What a verb may do with the connection that it came on. Cheap to clone.
#[derive(Clone)]
struct Line {
    /// Says when the daemon stops.
    stopping: Shutdown,
    /// Set where it carries a stream: it may live as long as that.
    streams: Arc<OnceLock<OwnedSemaphorePermit>>,
    seats: Seats,
    hung_up: Arc<Notify>,
    lifelines: mpsc::Sender<Lifeline>,
}

impl Line {
    /// Makes the connection a lifeline: HTTP is over on it, and the request that this is called for is answered there.
    /// Never returns.
    async fn hand_over(&self, lifeline: Lifeline) -> Answer {
        // there is room for one, and no second request is read; if the connection has ended, so has the lifeline
        let _ = self.lifelines.try_send(lifeline);
        std::future::pending().await
    }

    /// From here on the connection lives as long as its reader keeps up. Returns whether there is room for one more such.
    fn stream(&self) -> bool {
        let Ok(seat) = self.seats.free.clone().try_acquire_owned() else { return false };
        let _ = self.streams.set(seat); // a stream is a connection's last answer
        self.seats.taken.notify_one();
        true
    }

    /// Closes the connection whatever the client does.
    fn hang_up(&self) {
        self.hung_up.notify_one();
    }
}

/// Where event streams are counted. Cheap to clone.
#[derive(Clone)]
struct Seats {
    free: Arc<Semaphore>,
    /// A connection has become a stream: there is room for another one.
    taken: Arc<Notify>,
}

impl Seats {
    fn new() -> Self {
        Self { free: Arc::new(Semaphore::new(MOST_STREAMS)), taken: Arc::default() }
    }

    fn streams(&self) -> usize {
        MOST_STREAMS - self.free.available_permits()
    }
}

/// Serves the verbs until the stop; returns when the last answer is out or its grace is over. Leaves the socket's file
/// to whoever made it.
pub async fn serve(listener: UnixListener, desk: Desk, shutdown: Shutdown) {
    let mut stop = shutdown.clone();
    let mut connections: JoinSet<Option<(Lifeline, UnixStream)>> = JoinSet::new();
    let mut lifelines = JoinSet::new();
    let seats = Seats::new();
    let telling = tokio::spawn(events::watch(desk.clone()));
    loop {
        let room = connections.len().saturating_sub(seats.streams()) < MOST_CONNECTIONS;
        tokio::select! {
            () = stop.started() => break,
            Some(ended) = connections.join_next() => {
                if let Ok(Some((lifeline, stream))) = ended {
                    lifelines.spawn(lifeline.live(stream, shutdown.clone()));
                }
            }
            Some(_) = lifelines.join_next() => {}
            () = seats.taken.notified() => {}
            accepted = listener.accept(), if room => match accepted {
                Ok((stream, _)) => match admit(&stream) {
                    Ok(()) => drop(connections.spawn(connection(stream, desk.clone(), seats.clone(), shutdown.clone()))),
                    Err(error) => debug!(%error, "connection to the control socket refused"),
                },
                Err(error) => {
                    warn!(%error, "cannot accept on the control socket");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    telling.abort();
    let all_out = async {
        while connections.join_next().await.is_some() {}
        while lifelines.join_next().await.is_some() {}
    };
    if timeout(STOPPING_GRACE, all_out).await.is_err() {
        debug!("clients of the control socket were cut off by the stop");
    }
}

/// Lets in this user and root. The folder and the socket have modes that say the same; this also holds where somebody
/// has widened them.
fn admit(stream: &UnixStream) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if may_ask(peer, rustix::process::geteuid().as_raw(), users::shown_for_others()) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("the peer is user {peer}")))
}

/// `others` is what everybody is shown as whom our user namespace does not know, if there may be such.
fn may_ask(peer: u32, ours: u32, others: Option<u32>) -> bool {
    (peer == ours || peer == 0) && Some(peer) != others
}

/// Serves requests until the connection ends, or becomes the line that an ephemeral client key lives on.
async fn connection(
    stream: UnixStream,
    desk: Desk,
    seats: Seats,
    mut shutdown: Shutdown,
) -> Option<(Lifeline, UnixStream)> {
    let (handed_over, mut lifelines) = mpsc::channel(1);
    let (stopping, streams, hung_up) = (shutdown.clone(), Arc::default(), Arc::default());
    let line = Line { stopping, streams, seats, hung_up, lifelines: handed_over };
    let service = service_fn(|request| {
        let (desk, line) = (desk.clone(), line.clone());
        async move { Ok::<_, Infallible>(api::answer(&desk, &line, request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(LARGEST_HEAD);
    let mut serving = http.serve_connection(TokioIo::new(stream), service);
    let mut is_stopping = false;
    let mut too_long = pin!(async {
        sleep(LONGEST_CONNECTION).await;
        if line.streams.get().is_some() {
            std::future::pending::<()>().await;
        }
    });
    loop {
        tokio::select! {
            Some(lifeline) = lifelines.recv() => {
                // the bytes that were read behind the request go with the rest
                let http1::Parts { io, .. } = serving.into_parts();
                return Some((lifeline, io.into_inner()));
            }
            () = shutdown.started(), if !is_stopping => {
                is_stopping = true;
                std::pin::Pin::new(&mut serving).graceful_shutdown();
            }
            ended = &mut serving => {
                if let Err(error) = ended {
                    debug!(%error, "connection to the control socket broke");
                }
                return None;
            }
            () = too_long.as_mut() => {
                debug!("connection to the control socket was closed: it had been open for too long");
                return None;
            }
            () = line.hung_up.notified() => return None,
        }
    }
}

#[cfg(test)]
mod tests;
