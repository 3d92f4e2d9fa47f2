//! A folder of our own, removed in the end.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use crate::platform::random;

/// A folder of our own, removed when this is dropped.
pub(super) struct TemporaryFolder(pub(super) PathBuf);

impl TemporaryFolder {
    #[expect(clippy::disallowed_methods, reason = "a new folder, for us alone")]
    pub(super) fn new() -> io::Result<Self> {
        let name = random::name::<6>().map_err(io::Error::other)?;
        let path = std::env::temp_dir().join(format!("valetd-demo-{name}"));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryFolder {
    #[expect(clippy::disallowed_methods, reason = "the folder that this made")]
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
