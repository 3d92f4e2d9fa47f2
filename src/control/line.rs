//! What a verb may do with the connection that it came on: mark it as a stream, hand it over to a lifeline, hang up.

use std::sync::{Arc, OnceLock};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use super::answer::Answer;
use super::lifeline::Lifeline;
use crate::shutdown::Shutdown;

/// Event streams, which stay open; counted apart, so that no number of status bars keeps anybody from revoking a key.
pub(super) const MOST_STREAMS: usize = 128;

/// Where event streams are counted. Cheap to clone.
#[derive(Clone)]
pub(super) struct Seats {
    free: Arc<Semaphore>,
    taken: Arc<Notify>,
}

impl Seats {
    pub(super) fn new() -> Self {
        Self { free: Arc::new(Semaphore::new(MOST_STREAMS)), taken: Arc::default() }
    }

    /// How many connections are streams.
    pub(super) fn streams(&self) -> usize {
        MOST_STREAMS - self.free.available_permits()
    }

    /// Returns when a connection has become a stream: there is room for another one.
    pub(super) async fn taken(&self) {
        self.taken.notified().await;
    }
}

/// The connection that a verb came on, and what the verb may do with it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Line {
    /// Says when the daemon stops.
    pub(super) stopping: Shutdown,
    /// Set where it carries a stream: it may live as long as that.
    streams: Arc<OnceLock<OwnedSemaphorePermit>>,
    seats: Seats,
    hung_up: Arc<Notify>,
    lifelines: mpsc::Sender<Lifeline>,
}

impl Line {
    /// A connection, and where it is said that it has become a lifeline.
    pub(super) fn new(stopping: Shutdown, seats: Seats) -> (Self, mpsc::Receiver<Lifeline>) {
        let (handed_over, lifelines) = mpsc::channel(1);
        let line = Self { stopping, streams: Arc::default(), seats, hung_up: Arc::default(), lifelines: handed_over };
        (line, lifelines)
    }

    /// Makes the connection a lifeline: HTTP is over on it, and the request that this is called for is answered there.
    /// Never returns.
    pub(super) async fn hand_over(&self, lifeline: Lifeline) -> Answer {
        // there is room for one, and no second request is read; if the connection has ended, so has the lifeline
        let _ = self.lifelines.try_send(lifeline);
        std::future::pending().await
    }

    /// From here on the connection lives as long as its reader keeps up. Returns whether there is room for one more such.
    pub(super) fn stream(&self) -> bool {
        let Ok(seat) = self.seats.free.clone().try_acquire_owned() else { return false };
        let _ = self.streams.set(seat); // a stream is a connection's last response
        self.seats.taken.notify_one();
        true
    }

    /// Closes the connection whatever the client does.
    pub(super) fn hang_up(&self) {
        self.hung_up.notify_one();
    }

    /// Whether the connection lives as long as its reader keeps up.
    pub(super) fn is_stream(&self) -> bool {
        self.streams.get().is_some()
    }

    /// Returns when a verb has asked for the connection to be closed.
    pub(super) async fn hung_up(&self) {
        self.hung_up.notified().await;
    }
}
