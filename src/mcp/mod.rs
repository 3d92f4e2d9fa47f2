//! The Model Context Protocol, as far as valetd looks into what it forwards: JSON-RPC 2.0, a message or a batch of them.

mod message;

pub(crate) use message::{Message, error, read};
