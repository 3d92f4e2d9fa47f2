//! The commands of this program that its messages advise, as they must be typed to reach what this process works with: a
//! daemon with a configuration or a socket of its own is not found by a bare `valetd`.

use std::fmt::Display;
use std::sync::OnceLock;

/// `valetd`, and the options that name places other than the usual ones.
static INVOCATION: OnceLock<String> = OnceLock::new();

/// Says once, before anything else is done, how this process is called. Without it, and for whoever comes second, nothing
/// changes.
pub(crate) fn is_called(invocation: String) {
    let _ = INVOCATION.set(invocation);
}

/// How this process is called, for what takes it as an argument.
pub(crate) fn invocation() -> &'static str {
    INVOCATION.get().map_or("valetd", String::as_str)
}

/// A command of this program in a message, from what stands behind `valetd `: `advised("status")`. Whoever reads the message
/// learns where this process has its files, so it is not for strangers.
pub(crate) fn advised(command: impl Display) -> String {
    format!("{} {command}", invocation())
}
