//! The service manager hears of us only while the other threads answer, too.

use std::pin::Pin;

use tokio::time::{Interval, interval};

use crate::platform::systemd::Notifier;

type Question = Pin<Box<dyn Future<Output = bool>>>;

/// When to ask the other threads, and what they have answered.
pub(super) struct Watchdog {
    /// `None` if the service manager wants to hear nothing.
    interval: Option<Interval>,
    asked: Option<Question>,
}

impl Watchdog {
    /// As often as the service manager wants to hear of us.
    pub(super) fn new(notifier: &Notifier) -> Self {
        Self { interval: notifier.watchdog_interval().map(interval), asked: None }
    }

    /// Asks when it is time, and returns with what `ask` says: whether all threads are there. Never, as long as one of
    /// them is stuck. May be dropped at any time and called again.
    pub(super) async fn answer<F: Future<Output = bool> + 'static>(&mut self, ask: impl FnOnce() -> F) -> bool {
        let Some(interval) = &mut self.interval else { return std::future::pending().await };
        let question = match &mut self.asked {
            Some(question) => question,
            none => {
                interval.tick().await;
                none.insert(Box::pin(ask()))
            }
        };
        let answer = question.await;
        self.asked = None;
        answer
    }
}
