//! The environment, which every child process inherits. It is read here, and not changed once other threads run.

use std::ffi::OsString;

/// A variable's value; `None` where it is not set or not UTF-8.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment, for texts")]
pub(crate) fn text(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A variable's value as the system has it: a path may have any bytes.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment, for paths")]
pub(crate) fn value(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Whether a variable is set, to anything but nothing.
pub(crate) fn is_set(name: &str) -> bool {
    value(name).is_some_and(|value| !value.is_empty())
}
