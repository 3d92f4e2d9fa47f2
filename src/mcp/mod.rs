//! The Model Context Protocol, as far as valetd looks into what it forwards: JSON-RPC 2.0, a message or a batch of them.

pub(crate) mod fields;
mod greeting;
mod message;
mod rules;

/// The code of errors of our own (JSON-RPC 2.0, section 5.1: of the server's range).
pub(crate) const NOT_DONE: i64 = -32000;

pub(crate) use greeting::{Greeting, greeting};
pub(crate) use message::{Message, error, read};
pub(crate) use rules::{McpRule, McpRules, allow};
