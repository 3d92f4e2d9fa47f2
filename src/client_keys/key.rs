//! One client key: what it looks like, what it lets its holder do, and how it has been used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::rate::Rate;
use crate::config::{KeyName, ListenAddress, RouteName};
use crate::mcp::McpRule;
use crate::path_rules::{self, PathPattern, Reading};
use crate::platform::socket::SocketFile;
use crate::shutdown::ShutdownTrigger;

/// What every key begins with.
pub(crate) const PREFIX: &str = "vk_";

/// A key's length in characters: the prefix and 32 bytes in base64url (RFC 4648 section 5).
pub(crate) const LENGTH: usize = PREFIX.len() + 43;

/// Whether a text looks like a key.
pub(crate) fn looks_like_key(text: &str) -> bool {
    let in_base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    text.len() == LENGTH && text.starts_with(PREFIX) && text.bytes().all(in_base64url)
}

/// What a key lets its holder do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Rights {
    /// Which routes; at least one.
    pub routes: Vec<RouteName>,
    /// Which methods; all, if there are none.
    pub methods: Vec<String>,
    /// Which paths behind the route's name; all, if there are none.
    pub paths: Vec<PathPattern>,
    /// Which messages to an MCP server; all, if there are none. Otherwise the key is for the places alone where MCP is
    /// spoken.
    pub messages: Vec<McpRule>,
}

impl Rights {
    /// Whether a request to this route, with this method and path, is within them.
    pub(crate) fn permit(&self, route: &RouteName, method: &str, path: &Reading) -> bool {
        self.routes.contains(route)
            && (self.methods.is_empty() || self.methods.iter().any(|ours| path_rules::covers(ours, method)))
            && (self.paths.is_empty() || self.paths.iter().any(|pattern| pattern.matches_surely(path)))
    }

    /// Whether they are as wide as their routes, so that path and method need no look.
    pub(crate) fn is_whole_route(&self) -> bool {
        self.methods.is_empty() && self.paths.is_empty() && self.messages.is_empty()
    }
}

/// What bounds a key's use beside its rate and its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Limits {
    /// Whose processes may present it; anybody's, from anywhere, if nobody is named.
    pub user: Option<u32>,
    /// Requests that may run at once, their answers included.
    pub concurrent: Option<u32>,
    /// Bytes of content that may go through it, both ways together, before no further request is let in.
    pub bytes: Option<u64>,
}

/// A key that somebody asks for.
#[derive(Clone, Debug)]
pub(crate) struct NewKey {
    /// What it is for; an ephemeral one may go without.
    pub name: Option<KeyName>,
    /// What it lets its holder do.
    pub rights: Rights,
    /// How long it lives from now on.
    pub lifetime: Option<Duration>,
    /// How often it may be used.
    pub rate: Option<Rate>,
    /// How much, and by whom.
    pub limits: Limits,
    /// Whether it stays in memory, and dies with who asked for it.
    pub ephemeral: bool,
}

/// A key as it is kept.
#[derive(Debug)]
pub(crate) struct ClientKey {
    /// What it is for.
    pub name: KeyName,
    /// What it lets its holder do.
    pub rights: Rights,
    /// When it was made, in Unix seconds.
    pub created_at: u64,
    /// From when on it is refused, in Unix seconds.
    pub expires_at: Option<u64>,
    /// How often it may be used.
    pub rate: Option<Rate>,
    /// How much, and by whom.
    pub limits: Limits,
    /// Whether it is in memory alone.
    pub ephemeral: bool,
    /// The address that lives as long as the key.
    pub(super) own: Option<OwnAddress>,
    /// Of the key as it is presented.
    pub(super) sha256: [u8; 32],
    pub(super) used: Used,
    /// Revoked, or forgotten.
    pub(super) ended: AtomicBool,
}

/// How the routes of a key are reached at the address that it comes with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AddressKind {
    /// By prefix and by host name, on TCP where that is served at all.
    Routes,
    /// The same, on a unix socket, which nobody else can come to have.
    RoutesOnUnix,
    /// On a unix socket, where a request names the upstream and not us.
    Upstreams {
        /// Whether the holder of the key hands on requests of processes that have shown nothing.
        open: bool,
    },
}

/// An address that serves some routes and is lent to the holder of an ephemeral key; nobody is served there any more
/// once this is dropped.
#[derive(Debug)]
pub(crate) struct OwnAddress {
    /// Where it is.
    pub address: ListenAddress,
    /// Ends the listener and its connections.
    pub serving: ShutdownTrigger,
    /// The file of a unix socket, removed with this.
    pub _file: Option<SocketFile>,
}

/// What changes with every use.
#[derive(Debug, Default)]
pub(super) struct Used {
    pub(super) requests: AtomicU64,
    pub(super) last: AtomicU64,
    /// Requests that run.
    pub(super) open: AtomicU32,
    /// Bytes of content, both ways together.
    pub(super) bytes: AtomicU64,
    /// Whether it has been told that it is used up.
    pub(super) end_is_noted: AtomicBool,
    /// When the next request would come if they came evenly at the key's rate (see `rate`), in nanoseconds since the ring
    /// was made.
    pub(super) theoretical_arrival: AtomicU64,
}

/// A key while a request runs with it.
#[derive(Debug)]
pub(crate) struct KeyInUse(Arc<ClientKey>);

impl KeyInUse {
    /// Counts a request that runs; `None` if as many as may run at once do.
    pub(super) fn begin(key: &Arc<ClientKey>) -> Option<Self> {
        let most = key.limits.concurrent.unwrap_or(u32::MAX);
        let one_more = |open: u32| (open < most).then(|| open + 1);
        key.used.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Self(key.clone()))
    }

    /// Counts content that has gone through.
    pub(crate) fn carries(&self, bytes: u64) {
        if self.0.limits.bytes.is_some() {
            self.0.used.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for KeyInUse {
    fn drop(&mut self) {
        self.0.used.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ClientKey {
    /// Bytes that have gone through it, as far as they are counted: if there is a limit.
    pub(crate) fn bytes(&self) -> u64 {
        self.used.bytes.load(Ordering::Relaxed)
    }

    /// Whether as many bytes have gone through it as may.
    pub(crate) fn is_used_up(&self) -> bool {
        self.limits.bytes.is_some_and(|most| self.bytes() >= most)
    }

    /// Whether it has expired by `now`, in Unix seconds.
    pub(crate) fn is_expired(&self, now: u64) -> bool {
        self.expires_at.is_some_and(|end| now >= end)
    }

    /// Whether it has been revoked, or was ephemeral and is forgotten.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// The address that lives as long as the key, if it has one.
    pub(crate) fn own_address(&self) -> Option<&ListenAddress> {
        self.own.as_ref().map(|own| &own.address)
    }

    /// Ends what lives no longer than the key, though a request that it was good for may still have it in hand.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        if let Some(own) = &self.own {
            own.serving.start();
        }
    }

    /// Requests that it was used for since the daemon started, and when the last one was, in Unix seconds.
    pub(crate) fn uses(&self) -> (u64, Option<u64>) {
        let last = self.used.last.load(Ordering::Relaxed);
        (self.used.requests.load(Ordering::Relaxed), (last > 0).then_some(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(routes: &[&str], methods: &[&str], paths: &[&str]) -> Rights {
        Rights {
            routes: routes.iter().map(|route| RouteName::new(route).unwrap()).collect(),
            methods: methods.iter().map(|method| (*method).to_owned()).collect(),
            paths: paths.iter().map(|path| PathPattern::parse(path).unwrap()).collect(),
            messages: Vec::new(),
        }
    }

    #[test]
    fn rights_are_routes_methods_and_paths_together() {
        let narrow = rights(&["gbdx"], &["GET", "POST"], &["/catalog/**", "/search"]);
        let whole = rights(&["gbdx", "lab"], &[], &[]);
        let rows = [
            ("within", &narrow, "gbdx", "GET", "/catalog/v2/x", true),
            ("HEAD is a GET", &narrow, "gbdx", "HEAD", "/search", true),
            ("another route", &narrow, "lab", "GET", "/catalog/v2/x", false),
            ("another method", &narrow, "gbdx", "DELETE", "/catalog/v2/x", false),
            ("another path", &narrow, "gbdx", "GET", "/workflows", false),
            ("a path that may be another", &narrow, "gbdx", "GET", "/search%2fx", false),
            ("whole routes", &whole, "lab", "DELETE", "/x", true),
            ("but only those", &whole, "gdh", "GET", "/", false),
        ];
        for (case, rights, route, method, path, expected) in rows {
            let route = RouteName::new(route).unwrap();
            assert_eq!(rights.permit(&route, method, &Reading::of(path)), expected, "{case}");
        }
    }

    #[test]
    fn only_the_exact_form_looks_like_a_key() {
        let key = format!("vk_{}", "aB3-_".repeat(9)[..43].to_owned());
        assert!(looks_like_key(&key));
        for other in [&key[1..], &key[..45], &format!("{key}a"), &key.replace("vk_", "vk-"), &key.replace('B', "%")] {
            assert!(!looks_like_key(other), "{other}");
        }
    }
}
