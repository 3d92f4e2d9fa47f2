//! Stopping, as a value that can be cloned and awaited.

use tokio::sync::watch;

/// Says when to stop. Cheap to clone; every loop has an arm for it.
#[derive(Clone, Debug)]
pub(crate) struct Shutdown(watch::Receiver<bool>);

/// Starts the stop. Dropping it starts the stop as well.
#[derive(Debug)]
pub(crate) struct ShutdownTrigger(watch::Sender<bool>);

/// A trigger and what it triggers.
pub(crate) fn shutdown() -> (ShutdownTrigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (ShutdownTrigger(sender), Shutdown(receiver))
}

impl ShutdownTrigger {
    /// Starts the stop; may be called again.
    pub(crate) fn start(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Returns when the stop has started; at once if it has already. Safe to drop and to call again.
    pub(crate) async fn started(&mut self) {
        // an error means that the trigger was dropped, which starts the stop as well
        let _ = self.0.wait_for(|stopping| *stopping).await;
    }

    /// Whether the stop has started.
    pub(crate) fn has_started(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}
