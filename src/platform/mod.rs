//! One door to each part of the machine we run on.

pub mod clock;
pub mod containers;
pub mod descriptors;
pub mod dial;
pub mod environment;
pub mod harden;
pub mod hints;
pub(crate) mod io_error;
mod journal;
pub mod listeners;
pub mod log;
pub mod names;
pub mod ownership;
pub mod paths;
pub mod peer;
pub mod secret_source;
pub mod socket;
pub mod systemd;
pub mod timer;
pub mod tls;
mod tunnel;
pub mod users;
pub mod vectored;
pub mod watch;

#[cfg(test)]
pub(crate) mod rerun;
