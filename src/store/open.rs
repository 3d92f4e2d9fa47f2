//! The one way to the store of a daemon, and of a verb while none runs.

use super::{Store, StoreError};
use crate::config::Config;
use crate::platform::paths::Paths;

/// Opens the store in its place. It takes the configuration that is in force, so that nobody can open the store before
/// having read it: how credentials are sealed at rest will be said there.
///
/// # Errors
///
/// Those of [`Store::open`].
pub(crate) fn open_store(paths: &Paths, _: &Config) -> Result<Store, StoreError> {
    Store::open(&paths.state_dir)
}
