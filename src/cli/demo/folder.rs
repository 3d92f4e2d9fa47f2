//! A folder of our own, removed in the end.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

/// A folder of our own, removed when this is dropped.
pub(super) struct TemporaryFolder(pub(super) PathBuf);

impl TemporaryFolder {
    #[expect(clippy::disallowed_methods, reason = "a new folder, for us alone")]
    pub(super) fn new() -> io::Result<Self> {
        let mut random = [0; 6];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("no random numbers"))?;
        let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
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
