//! What differs between listeners: which `Host` leads there, which routes exist there, and who is let in. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::config::RouteName;
use crate::proxy::policy::route::{self, Found};
use crate::proxy::policy::scope::Scope;

/// A listener, as far as a request's fate depends on which one it has come in by.
pub(crate) struct Ingress {
    reach: Reach,
    /// The routes that exist there.
    pub(crate) scope: Scope,
}

/// From where a listener can be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reach {
    /// TCP, from this machine. A web page can reach it by a name of its own that resolves to us (DNS rebinding), so only
    /// loopback names are ours: those no page can have resolve elsewhere. With any port, as a page chooses the port but
    /// not the name, and whoever forwards one (`ssh -L`, containers) names his own.
    Loopback,
    /// A unix socket. The file's permissions decide who comes in, and no browser does.
    Unix,
    /// A unix socket where a request names the upstream that it is for.
    Upstream,
    /// TCP, from other machines. Nobody comes in without a client key, which no web page knows, so any name is ours.
    Remote,
}

impl Ingress {
    /// A listener on a loopback address.
    pub(crate) const fn loopback(scope: Scope) -> Self {
        Self { reach: Reach::Loopback, scope }
    }

    /// A listener on a unix socket.
    pub(crate) fn unix(scope: Scope) -> Self {
        let reach = if scope.names_upstreams() { Reach::Upstream } else { Reach::Unix };
        Self { reach, scope }
    }

    /// A listener that other machines can reach.
    pub(crate) const fn remote(scope: Scope) -> Self {
        Self { reach: Reach::Remote, scope }
    }

    /// Whether it is on TCP; a browser reaches nothing else.
    pub(crate) fn is_tcp(&self) -> bool {
        match self.reach {
            Reach::Loopback | Reach::Remote => true,
            Reach::Unix | Reach::Upstream => false,
        }
    }

    /// Whether nobody is served without a client key.
    pub(crate) fn requires_key(&self) -> bool {
        match self.reach {
            Reach::Loopback | Reach::Unix | Reach::Upstream => false,
            Reach::Remote => true,
        }
    }

    /// Whether a `Host` of this name, with any port, is ours, whatever the setting `hosts` adds.
    pub(crate) fn admits_host(&self, name: &str) -> bool {
        match self.reach {
            Reach::Loopback => is_loopback_name(name),
            Reach::Unix | Reach::Upstream | Reach::Remote => true,
        }
    }

    /// Whether a request names an upstream there, so that what comes back needs no other address.
    pub(crate) fn names_upstreams(&self) -> bool {
        self.reach == Reach::Upstream
    }

    /// The route that a host name and a path lead to there. `position` tells where a name is in the table.
    pub(crate) fn find(&self, position: impl Fn(&str) -> Option<usize>, host: &str, path: &str) -> Option<Found> {
        let position = |name: &str| if self.scope.has(name) { position(name) } else { None };
        route::find(position, self.own_route(), host, path)
    }

    /// The route that needs no prefix there, if it belongs to one.
    pub(crate) fn own_route(&self) -> Option<&RouteName> {
        self.scope.own()
    }
}

/// Host name (brackets and all) and port of a `Host` field's value (RFC 9110 section 7.2).
pub(crate) fn split_port(host: &str) -> Option<(&str, Option<u16>)> {
    let end = match host.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => host.find(':').unwrap_or(host.len()),
    };
    let (name, port) = host.split_at(end);
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        None => return None,
        Some(digits) => Some(digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())??),
    };
    let in_names = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    (!name.is_empty() && name.bytes().all(in_names)).then_some((name, port))
}

/// RFC 6761 section 6.3 names, and the loopback addresses as browsers and tools write them.
pub(crate) fn is_loopback_name(name: &str) -> bool {
    if let Some(address) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback());
    }
    let tail = name.len().saturating_sub("localhost".len());
    if name.as_bytes()[tail..].eq_ignore_ascii_case(b"localhost") {
        let labels = &name[..tail];
        return labels.is_empty() || (labels.ends_with('.') && !labels.starts_with('.') && !labels.contains(".."));
    }
    name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_listener_asks_for_follows_from_where_it_can_be_reached() {
        let loopback = || Ingress::loopback(Scope::All);
        let rows = [
            ("loopback", loopback(), true, false, [true, true, false]),
            ("unix", Ingress::unix(Scope::All), false, false, [true, true, true]),
            ("remote", Ingress::remote(Scope::All), true, true, [true, true, true]),
        ];
        for (case, ingress, is_tcp, requires_key, admits) in rows {
            assert_eq!((ingress.is_tcp(), ingress.requires_key()), (is_tcp, requires_key), "{case}");
            let hosts = ["lab.localhost", "127.0.0.1", "evil.example"];
            assert_eq!(hosts.map(|name| ingress.admits_host(name)), admits, "{case}");
        }
    }
}
