//! What is decided about requests and responses. Pure.

pub(super) mod between_events;
pub(super) mod challenge;
pub(super) mod client_key;
pub(super) mod endpoint_event;
pub(super) mod error;
pub(super) mod guard;
pub(super) mod head;
pub(super) mod headers;
pub(super) mod ingress;
pub(super) mod outward;
pub(super) mod overrides;
pub(super) mod redact;
pub(super) mod reference;
pub(super) mod rewrite;
pub(super) mod route;
pub(super) mod scope;
