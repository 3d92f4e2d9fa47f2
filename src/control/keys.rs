//! The documents of client keys: what asks for one, and what shows one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::report::Moment;
use crate::client_keys::{AddressKind, ClientKey, KeyRing, Limits, NewKey, Rate, Rights};
use crate::config::{Config, KeyName, Route, RouteName};
use crate::mcp::McpRule;
use crate::path_rules::{self, PathPattern};
use crate::secret::Secret;

/// What is said of an order that cannot be read, and so of one with a member that a newer version knows.
pub(crate) const UNKNOWN_JSON: &str = "not the expected JSON";

/// What `POST /v1/keys` takes.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyOrder {
    /// What it is for; an ephemeral one may go without.
    #[serde(default)]
    pub name: Option<String>,
    /// Which routes; at least one.
    pub routes: Vec<String>,
    /// Which methods; all, if there are none.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Which paths behind the route's name, as patterns; all, if there are none.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Which messages to an MCP server, as `mcp tools/call search_*`; all, if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<String>,
    /// How long it lives, in seconds.
    #[serde(default)]
    pub expires_in: Option<u64>,
    /// How often it may be used: `10/s`.
    #[serde(default)]
    pub rate: Option<String>,
    /// The id of the user whose processes may present it; anybody's, if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
    /// How many requests may run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u32>,
    /// How many bytes may go through it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Whether it lives in memory alone, and no longer than the response's body.
    #[serde(default)]
    pub ephemeral: bool,
    /// Whether an ephemeral key comes with an address of its own, where its routes exist and no others.
    #[serde(default)]
    pub address: bool,
    /// Whether that is a unix socket, whatever is listened on.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unix: bool,
    /// Whether it comes with one where a request names the upstream and not us.
    #[serde(default, skip_serializing_if = "is_false")]
    pub as_upstream: bool,
    /// Whether requests of processes that have shown nothing are handed on to it: routes that ask for a key refuse them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub open: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A key without the key: what `GET /v1/keys` shows.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct KeyReport {
    /// What it is for.
    pub name: String,
    /// Which routes.
    pub routes: Vec<String>,
    /// Which methods; all, if there are none.
    pub methods: Vec<String>,
    /// Which paths behind the route's name; all, if there are none.
    pub paths: Vec<String>,
    /// Which messages to an MCP server; all, if there are none.
    #[serde(default)]
    pub messages: Vec<String>,
    /// How often it may be used.
    pub rate: Option<String>,
    /// The id of the user whose processes may present it; anybody's, if there is none.
    #[serde(default)]
    pub user: Option<u32>,
    /// How many requests may run at once.
    #[serde(default)]
    pub concurrent: Option<u32>,
    /// How many bytes may go through it.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// How many of them have.
    #[serde(default)]
    pub bytes_used: Option<u64>,
    /// Whether it lives in memory alone.
    pub ephemeral: bool,
    /// When it was made.
    pub created_at: Moment,
    /// From when on it is refused.
    pub expires_at: Option<Moment>,
    /// Whether that is now.
    pub expired: bool,
    /// Requests that it was good for since the daemon started.
    pub requests: u64,
    /// When the last of them was.
    pub last_used_at: Option<Moment>,
    /// The address that ends with the key, where its routes exist and no others.
    #[serde(default)]
    pub address: Option<String>,
}

/// All keys.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct KeyList {
    /// In the order of their names.
    pub keys: Vec<KeyReport>,
}

/// A key that has just been made: the one time that it is shown.
#[derive(Serialize, Deserialize)]
pub(super) struct MadeKey {
    pub(super) key: String,
    #[serde(flatten)]
    pub(super) report: KeyReport,
}

impl KeyOrder {
    /// The same with an address of this kind.
    pub(super) fn with_address(self, kind: Option<AddressKind>) -> Self {
        match kind {
            None => self,
            Some(AddressKind::Routes) => Self { address: true, ..self },
            Some(AddressKind::RoutesOnUnix) => Self { address: true, unix: true, ..self },
            Some(AddressKind::Upstreams { open }) => Self { as_upstream: true, open, ..self },
        }
    }

    /// The address that it asks for, if any.
    pub(super) fn address_kind(&self) -> Option<AddressKind> {
        match (self.as_upstream, self.address, self.unix) {
            (true, ..) => Some(AddressKind::Upstreams { open: self.open }),
            (false, true, true) => Some(AddressKind::RoutesOnUnix),
            (false, true, false) => Some(AddressKind::Routes),
            (false, false, _) => None,
        }
    }

    /// The order for a key.
    pub(crate) fn of(new: &NewKey) -> Self {
        let NewKey { name, rights, lifetime, rate, limits, ephemeral } = new;
        let Rights { routes, methods, paths, messages } = rights;
        Self {
            name: name.as_ref().map(ToString::to_string),
            routes: routes.iter().map(ToString::to_string).collect(),
            methods: methods.clone(),
            paths: paths.iter().map(ToString::to_string).collect(),
            messages: messages.iter().map(ToString::to_string).collect(),
            expires_in: lifetime.map(|lifetime| lifetime.as_secs()),
            rate: rate.map(|rate| rate.to_string()),
            user: limits.user,
            concurrent: limits.concurrent,
            bytes: limits.bytes,
            ephemeral: *ephemeral,
            address: false,
            unix: false,
            as_upstream: false,
            open: false,
        }
    }

    /// What it asks for, if it makes sense.
    pub(super) fn read(self) -> Result<NewKey, String> {
        if self.address_kind().is_some() && (!self.ephemeral || self.expires_in.is_some()) {
            return Err("an address is for an ephemeral key without expires_in: it ends with the connection".to_owned());
        }
        let no_name = |what: &str, name: &str| format!("{name:?} is not the name of a {what}");
        let name = |name: String| KeyName::new(&name).ok_or_else(|| no_name("key", &name));
        let route = |name: &String| RouteName::new(name).ok_or_else(|| no_name("route", name));
        let routes: Result<Vec<RouteName>, String> = self.routes.iter().map(route).collect();
        let methods: Result<_, String> = self
            .methods
            .iter()
            .map(|text| path_rules::method(text).map_err(|wrong| format!("{text:?} {wrong}")))
            .collect();
        let paths: Result<_, String> = self
            .paths
            .iter()
            .map(|text| PathPattern::parse(text).map_err(|wrong| format!("{text:?} {wrong}")))
            .collect();
        let messages: Result<_, String> = self
            .messages
            .iter()
            .map(|text| McpRule::parse(text).map_err(|wrong| format!("{text:?} {wrong}")))
            .collect();
        Ok(NewKey {
            name: self.name.map(name).transpose()?,
            rights: Rights { routes: routes?, methods: methods?, paths: paths?, messages: messages? },
            lifetime: self.expires_in.map(Duration::from_secs),
            rate: self.rate.as_deref().map(Rate::parse).transpose().map_err(|wrong| format!("rate: {wrong}"))?,
            limits: Limits { user: self.user, concurrent: self.concurrent, bytes: self.bytes },
            ephemeral: self.ephemeral,
        })
    }
}

impl KeyReport {
    /// A key as of `now`, in Unix seconds.
    pub(crate) fn new(key: &ClientKey, now: u64) -> Self {
        let (requests, last_used) = key.uses();
        Self {
            name: key.name.to_string(),
            routes: key.rights.routes.iter().map(ToString::to_string).collect(),
            methods: key.rights.methods.clone(),
            paths: key.rights.paths.iter().map(ToString::to_string).collect(),
            messages: key.rights.messages.iter().map(ToString::to_string).collect(),
            rate: key.rate.map(|rate| rate.to_string()),
            user: key.limits.user,
            concurrent: key.limits.concurrent,
            bytes: key.limits.bytes,
            bytes_used: key.limits.bytes.map(|_| key.bytes()),
            ephemeral: key.ephemeral,
            created_at: Moment::of_unix(key.created_at),
            expires_at: key.expires_at.map(Moment::of_unix),
            expired: key.is_expired(now),
            requests,
            last_used_at: last_used.map(Moment::of_unix),
            address: key.own_address().map(ToString::to_string),
        }
    }

    /// All keys of a ring.
    pub(crate) fn all(ring: &KeyRing) -> Vec<KeyReport> {
        let now = ring.now();
        ring.keys().iter().map(|key| Self::new(key, now)).collect()
    }
}

/// Rules for messages say nothing of a route that is not known to lead to an MCP server: which one that is.
pub(crate) fn lacks_mcp(config: &Config, new: &NewKey) -> Option<String> {
    let is_other = |route: &&Route| route.mcp.is_none() && new.rights.routes.contains(&route.name);
    let other = config.routes.iter().find(is_other).filter(|_| !new.rights.messages.is_empty())?;
    Some(format!(
        "a rule for messages is for routes that lead to an MCP server, and {} is not said to: mcp = true, in its table",
        other.name
    ))
}

/// Reads what the daemon answers to a made key.
pub(super) fn read_made(body: &[u8]) -> Result<(Secret, KeyReport), String> {
    let MadeKey { key, report } = serde_json::from_slice(body).map_err(|_| "its key cannot be read".to_owned())?;
    Ok((Secret::new(key), report))
}
