//! A folder of our own, removed in the end, and the program in it that talks to the demonstration's daemon.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::cli::options::Options;
use crate::platform::paths::shell_word;
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

/// The program, in the demonstration's folder, that talks to its daemon.
const PROGRAM: &str = "valetd";

/// How a person calls the program so that it finds the demonstration's daemon.
pub(super) fn own_program(folder: &Path) -> String {
    format!("sh {}", shell_word(&folder.join(PROGRAM)))
}

/// Writes a shell's script that is the program with the options that lead to the demonstration's places. It is read by `sh`,
/// as nothing may be executed in some temporary folders.
#[expect(clippy::disallowed_methods, reason = "in a folder of ours that is thrown away")]
pub(super) fn write_program(folder: &Path, options: &Options) -> io::Result<()> {
    let program = shell_word(&std::env::current_exe()?);
    let invocation = options.invocation().replacen("valetd", &program, 1);
    fs::write(folder.join(PROGRAM), format!("exec {invocation} \"$@\"\n"))
}
