//! The sockets that the proxy accepts on: bound, kept or closed as the configuration lists them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use tracing::{debug, error, warn};

use crate::config::{AllowedClient, Config, ListenAddress, RouteName};
use crate::platform::listeners;
use crate::platform::peer;
use crate::platform::socket::{self, Bound, Listener, SocketFile};
use crate::proxy::ProxyListener;

/// One socket that the proxy accepts on.
struct Listening {
    /// As the configuration has it; `None` for one that the service manager opened, which is never closed.
    address: Option<ListenAddress>,
    /// The route that it belongs to, if it is not for all.
    route: Option<RouteName>,
    listener: Listener,
    _file: Option<SocketFile>,
}

/// What binding came to.
#[derive(Default)]
pub(super) struct Binding {
    /// What is new.
    bound: Vec<Listening>,
    /// Addresses that another process has: whoever calls there would talk to it, so nothing is served beside it.
    pub(super) taken: Vec<String>,
    /// What else could not be bound.
    pub(super) failures: Vec<String>,
    /// Whether something waits for a listener of ours that is not wanted any more, on the same port: 127.0.0.1 and all
    /// addresses exclude each other.
    pub(super) waits_for_ours: bool,
}

impl Binding {
    /// Gives back what was bound: nothing is served of a configuration that is not known.
    pub(super) fn withdraw(&mut self) {
        self.bound.clear();
        self.failures.append(&mut self.taken);
    }
}

/// All that the proxy accepts on.
#[derive(Default)]
pub(super) struct Listeners(Vec<Listening>);

impl Listeners {
    /// What the service manager has opened, which stands in place of the common addresses.
    pub(super) fn inherited(sockets: Vec<Listener>) -> Self {
        let listening = |listener| Listening { address: None, route: None, listener, _file: None };
        Self(sockets.into_iter().map(listening).collect())
    }

    /// Binds what the configuration lists and is not here yet.
    pub(super) fn bind_missing(&self, config: &Config, is_confined: bool) -> Binding {
        let mut binding = Binding::default();
        let wanted = wanted(config, &self.0);
        let stays = |ours: &ListenAddress| wanted.iter().any(|(address, _)| address == ours);
        for (address, route) in wanted.clone() {
            let ours = || self.0.iter().chain(&binding.bound).filter_map(|listening| listening.address.as_ref());
            if ours().any(|other| *other == address) {
                continue;
            }
            let error = match socket::bind(&address) {
                Ok(Bound { listener, file }) => {
                    binding.bound.push(Listening { address: Some(address), route, listener, _file: file });
                    continue;
                }
                Err(error) => error,
            };
            // our own socket on all addresses is in the way of one on a single one, and the other way round
            let in_the_way: Vec<&ListenAddress> = ours().filter(|other| overlap(other, &address)).collect();
            match obstacle(&address, &error, !in_the_way.is_empty(), in_the_way.into_iter().any(stays)) {
                Obstacle::NotNeeded => debug!(%address, %error, "not to be had here"),
                Obstacle::Taken => binding.taken.push(error.to_string()),
                Obstacle::OursOfNow => binding.waits_for_ours = true,
                Obstacle::Other if is_beyond_the_sandbox(&address, &error, is_confined) => binding
                    .failures
                    .push(format!("{error} (or restart valetd: its sandbox was drawn without this folder)")),
                Obstacle::Other => binding.failures.push(error.to_string()),
            }
        }
        binding
    }

    /// Takes over what was bound and closes what the configuration no longer lists.
    pub(super) fn adopt(&mut self, config: &Config, binding: Binding) {
        self.0.extend(binding.bound);
        let wanted = wanted(config, &self.0);
        self.0.retain_mut(|listening| {
            let Some(address) = &listening.address else { return true };
            let Some((_, route)) = wanted.iter().find(|(wanted, _)| wanted == address) else { return false };
            listening.route.clone_from(route);
            true
        });
        let others = serves_others(config);
        for listening in &self.0 {
            if let Some(ListenAddress::Unix(path)) = &listening.address {
                open_to_others(path, others);
            }
        }
    }

    /// Closes all, or clients would still connect, and wait for nobody; the service manager's sockets queue for the next
    /// daemon.
    pub(super) fn close(&mut self) {
        self.0.clear();
    }

    /// Copies of the sockets, for the workers.
    pub(super) fn copies(&self) -> io::Result<Vec<ProxyListener>> {
        let copy = |listening: &Listening| {
            let route = listening.route.clone();
            listening.listener.try_clone().map(|socket| ProxyListener { socket, route })
        };
        self.0.iter().map(copy).collect()
    }

    /// Where all routes are served, and the routes' own addresses, as bound.
    pub(super) fn addresses(&self) -> (Vec<ListenAddress>, BTreeMap<RouteName, ListenAddress>) {
        let (mut common, mut own) = (Vec::new(), BTreeMap::new());
        for Listening { route, listener, .. } in &self.0 {
            let Ok(address) = listener.local_addr() else { continue };
            match route {
                Some(route) => drop(own.insert(route.clone(), address)),
                None => common.push(address),
            }
        }
        (common, own)
    }

    /// What is strange about sockets that the service manager has opened: the configuration's `listen` is without effect.
    pub(super) fn other_than_listed(&self, config: &Config) -> Option<String> {
        let inherited = self.0.iter().filter(|listening| listening.address.is_none());
        let inherited: Vec<String> =
            inherited.filter_map(|listening| Some(listening.listener.local_addr().ok()?.to_string())).collect();
        if inherited.is_empty() { None } else { other_than_listed(&config.listen, &inherited) }
    }

    /// The addresses that `localhost` stands for besides those that we serve.
    pub(super) fn lone_halves(&self) -> Vec<SocketAddr> {
        let tcp = |listening: &Listening| match listening.listener.local_addr() {
            Ok(ListenAddress::Tcp(address)) => Some(address),
            Ok(ListenAddress::Unix(_)) | Err(_) => None,
        };
        let served: Vec<SocketAddr> = self.0.iter().filter_map(tcp).collect();
        let halves = served.iter().filter_map(|address| listeners::other_half(*address));
        halves.filter(|half| !served.iter().any(|served| covers(*served, *half))).collect()
    }

    /// Whether another user has the half of `localhost` that we do not serve, in words: some of what tools send to
    /// `localhost` goes there. Who comes later is found at the next look. Those who are not `known` yet are logged.
    pub(super) fn strangers(&self, known: &[String]) -> Vec<String> {
        let found = self.lone_halves().into_iter().filter_map(listeners::occupant);
        let words = found.filter(|occupant| occupant.uid != peer::own_uid()).map(|occupant| {
            format!(
                "what tools send to http://localhost:{} may go to {occupant}: have it ended, or list 127.0.0.1 and \
                 [::1] both in `listen` with a port that is free",
                occupant.address.port()
            )
        });
        words
            .inspect(|words| {
                if !known.contains(words) {
                    error!("{words}")
                }
            })
            .collect()
    }
}

/// What is said where a service manager's sockets stand in the place of what a configuration lists, and differ from it.
pub(crate) fn other_than_listed(listed: &[ListenAddress], sockets: &[String]) -> Option<String> {
    let listed: BTreeSet<String> = listed.iter().map(ToString::to_string).collect();
    let sockets: BTreeSet<String> = sockets.iter().cloned().collect();
    (listed != sockets).then(|| {
        let shown = |addresses: BTreeSet<String>| Vec::from_iter(addresses).join(", ");
        format!(
            "the service listens where valetd.socket says ({}), not where listen does ({}); to have it follow: valetd \
             service install --listen",
            shown(sockets),
            shown(listed)
        )
    })
}

/// Why an address could not be bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Obstacle {
    /// The machine has no such address, and it need not have one.
    NotNeeded,
    /// Another process has it.
    Taken,
    /// A listener of ours has it that is to be closed.
    OursOfNow,
    /// Anything else, a listener of ours that stays included.
    Other,
}

fn obstacle(address: &ListenAddress, error: &io::Error, is_ours: bool, stays: bool) -> Obstacle {
    match error.kind() {
        _ if is_optional(address, error) => Obstacle::NotNeeded,
        io::ErrorKind::AddrInUse if !is_ours => Obstacle::Taken,
        io::ErrorKind::AddrInUse if !stays => Obstacle::OursOfNow,
        _ => Obstacle::Other,
    }
}

/// The sandbox was drawn around the folders of the sockets that were listed at the start.
fn is_beyond_the_sandbox(address: &ListenAddress, error: &io::Error, is_confined: bool) -> bool {
    let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
    is_confined && matches!(address, ListenAddress::Unix(_)) && is_denied
}

/// What a configuration wants to be listened on, and for which route. Sockets of the service manager stand in place of
/// the common addresses.
fn wanted(config: &Config, listening: &[Listening]) -> Vec<(ListenAddress, Option<RouteName>)> {
    let mut wanted = Vec::new();
    if listening.iter().all(|listening| listening.address.is_some()) {
        wanted.extend(config.listen.iter().map(|address| (address.clone(), None)));
    }
    for route in &config.routes {
        wanted.extend(route.listen.iter().map(|address| (address.clone(), Some(route.name.clone()))));
    }
    wanted
}

/// Whether a TCP listener on `served` takes the connections to `address`, too.
fn covers(served: SocketAddr, address: SocketAddr) -> bool {
    let all = served.ip().is_unspecified() && (served.is_ipv6() || address.is_ipv4());
    served.port() == address.port() && (served.ip() == address.ip() || all)
}

fn overlap(one: &ListenAddress, other: &ListenAddress) -> bool {
    match (one, other) {
        (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) => covers(*one, *other) || covers(*other, *one),
        (ListenAddress::Unix(_), _) | (_, ListenAddress::Unix(_)) => false,
    }
}

/// IPv6's loopback is listed by default, and not every machine has it.
fn is_optional(address: &ListenAddress, error: &io::Error) -> bool {
    let unavailable = matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT);
    matches!(address, ListenAddress::Tcp(tcp) if tcp.is_ipv6()) && unavailable
}

/// Lets other users connect to a socket, who are then asked who they are; or nobody else.
#[expect(clippy::disallowed_methods, reason = "the socket that was bound just now")]
pub(super) fn open_to_others(path: &Path, others: bool) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(if others { 0o666 } else { 0o600 });
    if let Err(error) = std::fs::set_permissions(path, mode) {
        warn!(path = %path.display(), %error, "cannot change the mode of a socket");
    }
}

/// Whether processes of other users may be served on a unix socket: the file's mode is not to keep them out.
pub(super) fn serves_others(config: &Config) -> bool {
    config.clients.iter().any(|client| !matches!(client, AllowedClient::Own | AllowedClient::Root))
        || config.routes.iter().any(|route| route.require_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> ListenAddress {
        match text.strip_prefix("unix:") {
            Some(path) => ListenAddress::Unix(path.into()),
            None => ListenAddress::Tcp(text.parse().unwrap()),
        }
    }

    #[test]
    fn what_keeps_an_address_from_being_bound_is_told_apart() {
        let in_use = || io::Error::from_raw_os_error(libc::EADDRINUSE);
        let no_address = || io::Error::from_raw_os_error(libc::EADDRNOTAVAIL);
        let no_family = || io::Error::from_raw_os_error(libc::EAFNOSUPPORT);
        let denied = || io::Error::from_raw_os_error(libc::EACCES);
        let rows = [
            ("no IPv6", "[::1]:1", no_family(), false, false, Obstacle::NotNeeded),
            ("no IPv6 address", "[::1]:1", no_address(), false, false, Obstacle::NotNeeded),
            ("no such IPv4 address", "192.0.2.1:1", no_address(), false, false, Obstacle::Other),
            ("somebody else's", "127.0.0.1:1", in_use(), false, false, Obstacle::Taken),
            ("ours, on its way out", "127.0.0.1:1", in_use(), true, false, Obstacle::OursOfNow),
            ("ours, and it stays", "127.0.0.1:1", in_use(), true, true, Obstacle::Other),
            ("a low port", "127.0.0.1:80", denied(), false, false, Obstacle::Other),
        ];
        for (case, text, error, is_ours, stays, expected) in rows {
            assert_eq!(obstacle(&address(text), &error, is_ours, stays), expected, "{case}");
        }
        let rows = [
            ("a new folder", "unix:/n/v.sock", denied(), true, true),
            ("no sandbox", "unix:/n/v.sock", denied(), false, false),
            ("a port", "127.0.0.1:80", denied(), true, false),
            ("another error", "unix:/n/v.sock", in_use(), true, false),
        ];
        for (case, text, error, is_confined, expected) in rows {
            assert_eq!(is_beyond_the_sandbox(&address(text), &error, is_confined), expected, "{case}");
        }
    }

    #[test]
    fn all_addresses_and_a_single_one_exclude_each_other_on_one_port() {
        let rows = [
            ("the same", "127.0.0.1:1", "127.0.0.1:1", true),
            ("another port", "0.0.0.0:1", "127.0.0.1:2", false),
            ("all of IPv4", "0.0.0.0:1", "127.0.0.1:1", true),
            ("all of IPv4, and IPv6", "0.0.0.0:1", "[::1]:1", false),
            ("all of both", "[::]:1", "127.0.0.1:1", true),
            ("two single ones", "127.0.0.2:1", "127.0.0.1:1", false),
            ("a path", "unix:/v", "127.0.0.1:1", false),
        ];
        for (case, one, other, expected) in rows {
            let (one, other) = (address(one), address(other));
            assert_eq!((overlap(&one, &other), overlap(&other, &one)), (expected, expected), "{case}");
        }
    }
}
