//! Verbs that talk to a daemon or a server run on one thread.

use super::failure::Failure;

/// Runs a verb's conversation with the daemon or a server.
pub(super) fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|error| Failure::new(error).while_doing("starting the runtime"))?.block_on(future))
}
