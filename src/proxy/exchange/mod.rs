//! One request from start to end.

pub(super) mod body;
pub(super) mod note;
pub(super) mod service;
pub(super) mod upgrade;
