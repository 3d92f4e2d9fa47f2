//! The status document: what valetd tells people and scripts about itself. Pure: readings in, a document out.
//!
//! It is served as JSON by the control socket and read back by the command line. [`document`] has its members, [`build`]
//! makes it.

pub(crate) mod build;
pub(crate) mod document;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use build::{Facts, Sources};
pub(crate) use document::{
    AccountReport, CredentialReport, DaemonReport, McpReport, Moment, OwnAddressReport, PROGRAM_REPLACED, Readings,
    RouteReport, SCHEMA, State, StatusReport, StoreReport, Wakeup, server_in_words,
};
