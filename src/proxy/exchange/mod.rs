//! One request from start to end.

pub(super) mod accounting;
pub(super) mod body;
pub(super) mod forward;
pub(super) mod mcp;
pub(super) mod service;
pub(super) mod upgrade;
