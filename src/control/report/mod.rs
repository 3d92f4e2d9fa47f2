//! The status document: what valetd tells people and scripts about itself. Pure: readings in, a document out.
//!
//! It is served as JSON by the control socket and read back by the command line. [`document`] has its members, [`build`]
//! makes it.

pub mod build;
pub mod document;
#[cfg(test)]
pub(crate) mod tests;

pub use build::{Facts, Sources};
pub use document::{
    AccountReport, AuditReport, CredentialReport, DaemonReport, FailureReport, MeasureReport, Moment, OwnAddressReport,
    Readings, RouteReport, SCHEMA, State, StatusReport, Wakeup,
};
