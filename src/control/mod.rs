//! HTTP/1.1 and JSON on the unix socket: what the command line, scripts and `curl --unix-socket` talk to.
//!
//! Only the user whose daemon it is, and root, are heard. Answers are made from what is published already, so that a
//! hung authorization server delays a status query by nothing; every connection is a task of its own, so that a client
//! who stalls delays nobody else. Nothing here ever hands out a token.
//!
//! * `api`: the verbs, and `key_verbs`: those of client keys, whose documents are in [`keys`];
//! * `seal_verbs`: those of the store's seal;
//! * `state`: what the verbs read and whom they ask; `line`: the connection that a verb came on; `lifeline`: what it
//!   becomes when an ephemeral client key lives on it;
//! * [`report`]: the status document, and `metrics`: the same as numbers for Prometheus;
//! * [`events`]: what changes, and `event_stream`: how it is told, as it changes;
//! * `answer`: a response, and [`problem`]: what is answered when something cannot be done;
//! * [`client`]: the other end, for the command line.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::platform::{socket, users};
use crate::shutdown::Shutdown;

mod answer;
mod api;
pub(crate) mod client;
mod client_verbs;
mod event_stream;
pub(crate) mod events;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod key_verbs;
pub(crate) mod keys;
mod lifeline;
mod line;
mod metrics;
pub(crate) mod problem;
pub(crate) mod report;
pub(crate) mod seal_verbs;
mod state;

use lifeline::Lifeline;
use line::{Line, Seats};
pub(crate) use state::{ControlState, LendRequest, ReloadRequest};

/// How long a client may take for a request's head, and stay idle between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The head of the largest sensible request is a few hundred bytes.
const LARGEST_HEAD: usize = 16 * 1024;

/// How long a connection may last, but for one that carries events: the longest other verb is a sign-out whose server
/// is slow to revoke. The limit frees what a client holds who asks and never reads.
const LONGEST_CONNECTION: Duration = Duration::from_secs(5 * 60);

/// More connections than any number of scripts needs, fewer than the process has descriptors. Event streams and the lines
/// of ephemeral keys do not count: they have bounds of their own (`line::MOST_STREAMS`, and that of the client keys).
const MOST_CONNECTIONS: usize = 128;

/// What answers under way are given when the daemon stops.
const STOPPING_GRACE: Duration = Duration::from_secs(2);

/// Serves the verbs until the stop; returns when the last response is out or its grace is over. Leaves the socket's file
/// to whoever made it.
pub(crate) async fn serve(listener: UnixListener, state: ControlState, shutdown: Shutdown) {
    let mut stop = shutdown.clone();
    let mut connections: JoinSet<Option<(Lifeline, UnixStream)>> = JoinSet::new();
    let mut lifelines = JoinSet::new();
    let seats = Seats::new();
    let telling = tokio::spawn(event_stream::watch(state.clone()));
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
            () = seats.taken() => {}
            accepted = listener.accept(), if room => match accepted {
                Ok((stream, _)) => match admit(&stream) {
                    Ok(()) => drop(connections.spawn(connection(stream, state.clone(), seats.clone(), shutdown.clone()))),
                    Err(error) => debug!(%error, "connection to the control socket refused"),
                },
                Err(error) => {
                    if let Some(pause) = socket::pause_after(&error) {
                        warn!(%error, "cannot accept on the control socket");
                        sleep(pause).await;
                    }
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
    state: ControlState,
    seats: Seats,
    mut shutdown: Shutdown,
) -> Option<(Lifeline, UnixStream)> {
    let (line, mut lifelines) = Line::new(shutdown.clone(), seats);
    let service = service_fn(|request| {
        let (state, line) = (state.clone(), line.clone());
        async move { Ok::<_, Infallible>(api::answer(&state, &line, request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(LARGEST_HEAD);
    let mut serving = http.serve_connection(TokioIo::new(stream), service);
    let mut is_stopping = false;
    let mut too_long = pin!(async {
        sleep(LONGEST_CONNECTION).await;
        if line.is_stream() {
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
            () = line.hung_up() => return None,
        }
    }
}

#[cfg(test)]
mod tests;
