//! One door to each part of the machine we run on.

pub mod clock;
pub mod harden;
pub mod log;
pub mod paths;
pub mod peer;
pub mod socket;
pub mod systemd;
pub mod tls;
pub mod watch;
