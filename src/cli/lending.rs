//! Asking the daemon for an address and a key, for as long as this process runs.

use std::path::Path;

use crate::client_keys::{AddressKind, Limits, NewKey, Rights};
use crate::config::RouteName;
use crate::control::client::{Client, ClientError};
use crate::lent::Lent;
use crate::mcp::McpRule;
use crate::platform::peer::own_uid;

/// A unix socket where these routes are reached in one of the ways that there are on one, and its key, which is for
/// processes of this user, and for these messages if any are named.
pub(super) async fn lend(
    socket: &Path,
    routes: Vec<RouteName>,
    messages: Vec<McpRule>,
    kind: AddressKind,
) -> Result<Lent, ClientError> {
    let rights = Rights { routes, methods: Vec::new(), paths: Vec::new(), messages };
    let limits = Limits { user: Some(own_uid()), ..Limits::default() };
    let new = NewKey { name: None, rights, lifetime: None, rate: None, limits, ephemeral: true };
    let held = Client::hold_key(socket, new, Some(kind)).await?;
    let address = held.report.address.clone().unwrap_or_default();
    let (key, line) = held.into_parts();
    Ok(Lent { socket: address.trim_start_matches("unix:").into(), key, line })
}
