//! One door to each part of the machine we run on.

pub(crate) mod asked;
pub(crate) mod bus;
pub(crate) mod child;
pub(crate) mod clock;
pub(crate) mod containers;
pub(crate) mod descriptors;
pub(crate) mod dial;
pub(crate) mod environment;
pub(crate) mod harden;
pub(crate) mod hints;
pub(crate) mod io_error;
mod journal;
pub(crate) mod listeners;
pub(crate) mod log;
pub(crate) mod logind;
pub(crate) mod machine;
pub(crate) mod mounts;
pub(crate) mod names;
pub(crate) mod ownership;
pub(crate) mod paths;
pub(crate) mod peer;
pub(crate) mod program;
pub(crate) mod random;
pub(crate) mod read_woken;
pub(crate) mod replacement;
pub(crate) mod request_rest;
pub(crate) mod secret_page;
pub(crate) mod secret_source;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod systemd;
pub(crate) mod termination;
pub(crate) mod timer;
pub(crate) mod tls;
mod tunnel;
pub(crate) mod users;
pub(crate) mod varlink;
pub(crate) mod vectored;
pub(crate) mod watch;

#[cfg(test)]
pub(crate) mod rerun;
