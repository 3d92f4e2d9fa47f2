//! The daemon that holds a state folder, whichever way it was started.

use std::fs::{File, TryLockError};
use std::io::Read;
use std::path::Path;

/// The process that holds the state folder, ` (pid N)` as far as it is known; `None` if nobody does.
pub(super) fn lock_holder(folder: &Path) -> Option<String> {
    let mut file = File::open(folder.join("lock")).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        Ok(()) | Err(TryLockError::Error(_)) => return None,
    }
    let mut words = String::new();
    let _ = file.read_to_string(&mut words);
    let pid = words.strip_prefix("pid ").and_then(|rest| rest.split_whitespace().next()).unwrap_or_default();
    Some(if pid.is_empty() { String::new() } else { format!(" (pid {pid})") })
}
