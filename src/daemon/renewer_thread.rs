//! The renewer's thread, and what the daemon tells it.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, anyhow};
use tokio::sync::{mpsc, oneshot};

use crate::config::Config;
use crate::renewer::{RenewerCommand, RenewerLoop, Sources};
use crate::shutdown::{ShutdownTrigger, shutdown};

/// Runs until it is stopped.
pub(super) struct RenewerThread {
    commands: mpsc::Sender<RenewerCommand>,
    thread: JoinHandle<io::Result<()>>,
    stop: ShutdownTrigger,
}

impl RenewerThread {
    /// Starts the loop, whose other end of `commands` it has already.
    pub(super) fn start(renewer: RenewerLoop, commands: mpsc::Sender<RenewerCommand>) -> anyhow::Result<Self> {
        let (stop, stopped) = shutdown();
        let thread = std::thread::Builder::new()
            .name("renewer".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(renewer.run(stopped))
            })
            .context("starting the renewer's thread")?;
        Ok(Self { commands, thread, stop })
    }

    /// Whether it has ended, which it does on its own only if something is wrong.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Hands over a configuration; returns when it is in force there.
    pub(super) async fn configure(&self, config: Arc<Config>, sources: Sources) {
        let (done, configured) = oneshot::channel();
        let _ = self.commands.send(RenewerCommand::Configure(config, sources, done)).await;
        let _ = configured.await;
    }

    /// Tells it that the network has changed.
    pub(super) async fn network_changed(&self) {
        let _ = self.commands.send(RenewerCommand::NetworkChanged).await;
    }

    /// Returns when it has given a sign of life, with whether there was one; never, as long as it is stuck.
    pub(super) fn ping(&self) -> impl Future<Output = bool> + use<> {
        let (reply, replied) = oneshot::channel();
        let commands = self.commands.clone();
        async move { commands.send(RenewerCommand::Ping(reply)).await.is_ok() && replied.await.is_ok() }
    }

    /// Stops it, and returns when no response is owed any more.
    ///
    /// # Errors
    ///
    /// If it ended badly.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.stop.start();
        let thread = self.thread;
        match tokio::task::spawn_blocking(move || thread.join()).await? {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(anyhow!(error).context("the renewer ended")),
            Err(_) => Err(anyhow!("the renewer ended badly")),
        }
    }
}
