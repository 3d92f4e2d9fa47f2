//! This program's own file, as the kernel knows it (proc_pid_exe(5)).

use std::io;
use std::path::PathBuf;

/// What the kernel puts behind the name of a file that is gone, or that an upgrade has replaced.
const DELETED: &str = " (deleted)";

/// Where the program is, or was when it started.
///
/// # Errors
///
/// The system's.
pub(crate) fn path() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    Ok(match path.to_str().and_then(|text| text.strip_suffix(DELETED)) {
        Some(before) => before.into(),
        None => path,
    })
}

/// Whether the file that this process was started from has been replaced since, as an upgrade does.
pub(crate) fn is_replaced() -> bool {
    let is_gone = std::env::current_exe().is_ok_and(|path| path.to_str().is_some_and(|text| text.ends_with(DELETED)));
    is_gone && path().is_ok_and(|path| path.exists())
}
