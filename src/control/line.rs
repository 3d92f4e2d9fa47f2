//! What a verb may do with the connection that it came on: mark it as a stream, hand it over to a lifeline, hang up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Notify, mpsc};

use super::answer::Answer;
use super::lifeline::Lifeline;
use crate::shutdown::Shutdown;

/// The connection that a verb came on, and what the verb may do with it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Line {
    /// Says when the daemon stops.
    pub(super) stopping: Shutdown,
    /// Whether it carries a stream, and may live as long as that.
    streams: Arc<AtomicBool>,
    hung_up: Arc<Notify>,
    lifelines: mpsc::Sender<Lifeline>,
}

impl Line {
    /// A connection, and where it is said that it has become a lifeline.
    pub(super) fn new(stopping: Shutdown) -> (Self, mpsc::Receiver<Lifeline>) {
        let (handed_over, lifelines) = mpsc::channel(1);
        let line = Self { stopping, streams: Arc::default(), hung_up: Arc::default(), lifelines: handed_over };
        (line, lifelines)
    }

    /// Makes the connection a lifeline: HTTP is over on it, and the request that this is called for is answered there.
    /// Never returns.
    pub(super) async fn hand_over(&self, lifeline: Lifeline) -> Answer {
        // there is room for one, and no second request is read; if the connection has ended, so has the lifeline
        let _ = self.lifelines.try_send(lifeline);
        std::future::pending().await
    }

    /// From here on the connection lives as long as its reader keeps up.
    pub(super) fn stream(&self) {
        self.streams.store(true, Ordering::Relaxed);
    }

    /// Closes the connection whatever the client does.
    pub(super) fn hang_up(&self) {
        self.hung_up.notify_one();
    }

    /// Whether the connection lives as long as its reader keeps up.
    pub(super) fn is_stream(&self) -> bool {
        self.streams.load(Ordering::Relaxed)
    }

    /// Returns when a verb has asked for the connection to be closed.
    pub(super) async fn hung_up(&self) {
        self.hung_up.notified().await;
    }
}
