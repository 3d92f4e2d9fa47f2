//! References in a response's head, back to the local address. Pure.
//!
//! Without this a redirect would send the tool past us to the real API, without a token; or to another route, with
//! that one's. Every reference is resolved against the address that the upstream was asked for (RFC 3986 section 5), and
//! then mapped: what is below the route's base becomes its local address, what else is at the upstream's origin becomes
//! the absolute address there. One that leads to a route of another account, or that clients could read in different
//! ways, is dropped.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::HeaderMap;
use hyper::header::{
    CONTENT_LOCATION, CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY_REPORT_ONLY, Entry, HeaderName, HeaderValue,
    LINK, LOCATION, REFRESH, SET_COOKIE,
};
use percent_encoding::percent_decode_str;
use tracing::debug;

use crate::client_keys;
use crate::config::{Origin, RouteName};
use crate::proxy::policy::ingress::Ingress;
use crate::proxy::policy::reference::{Authority, Reference, has_dot_segments, is_of, merged, without_dot_segments};
use crate::proxy::policy::route;

/// How the upstream's addresses map to local ones.
#[derive(Clone, Copy)]
pub(crate) struct Mapping<'a> {
    /// The upstream's origin.
    pub(crate) origin: &'a Origin,
    /// The upstream's base path: empty, or beginning with `/`.
    pub(crate) base_path: &'a str,
    /// The path that was asked for, behind the base path and behind the prefix: empty, or beginning with `/`.
    pub(crate) asked: &'a str,
    /// The `Host` that the client used; empty if there was none (HTTP/1.0), or if it names the upstream.
    pub(crate) local_authority: &'a str,
    /// `/NAME`, or empty where the route has a host name or listener of its own; behind the client key, if that is in the
    /// path.
    pub(crate) prefix: &'a str,
    /// The prefix without the key.
    pub(crate) route_prefix: &'a str,
    /// Where else an address can lead to us.
    pub(crate) own: OwnAddresses<'a>,
}

/// The addresses at which this process serves routes, of this account and of others.
#[derive(Clone, Copy)]
pub(crate) struct OwnAddresses<'a> {
    /// Those on TCP.
    pub(crate) listeners: &'a [OwnListener],
    /// Names besides the loopback ones, with or without a port.
    pub(crate) hosts: &'a [String],
    /// The one that the client has come in by.
    pub(crate) ingress: &'a Ingress,
    /// Whether the route of that name has this account; `None` if there is no such route.
    pub(crate) shares_account: &'a dyn Fn(&str) -> Option<bool>,
    /// Another route of this account that the client can reach, and that leads to such an origin and below it to such a
    /// path: the one with the longest base path.
    pub(crate) sibling: &'a FindSibling<'a>,
}

/// Finds a route by whether an origin is meant, and by a path there.
pub(crate) type FindSibling<'a> = dyn Fn(&dyn Fn(&Origin) -> bool, &str) -> Option<Sibling> + 'a;

/// Another route of a response's own account.
pub(crate) struct Sibling {
    pub(crate) name: RouteName,
    /// The length of its upstream's base path.
    pub(crate) base: usize,
}

/// A TCP listener, as far as it matters which references lead there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct OwnListener {
    pub(crate) port: u16,
    /// Whose it is alone.
    pub(crate) route: Option<RouteName>,
    /// Whether other machines can reach it, by names that nobody here knows.
    pub(crate) is_open: bool,
    /// Whether it ends with a command that runs, and not with the configuration.
    pub(crate) is_lent: bool,
}

/// What becomes of a field's value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Rewritten {
    Stays,
    Becomes(String),
    /// Nobody may follow it.
    Goes,
}

use Rewritten::{Becomes, Goes, Stays};

/// Fields whose value is one reference, as that of `Location` is, beside those of the RFCs: where Azure's clients ask how
/// far an operation has come, where browsers find a script's source, where htmx goes.
pub(crate) const REFERENCES: [&str; 5] =
    ["operation-location", "azure-asyncoperation", "sourcemap", "x-sourcemap", "hx-redirect"];

/// Whether [`links`] has anything to do with a field that is none of the five below.
pub(crate) fn may_lead(name: &HeaderName, value: &HeaderValue) -> bool {
    value.as_bytes().windows(2).any(|pair| pair == b"//") || REFERENCES.contains(&name.as_str())
}

/// Rewrites `Location`, `Content-Location`, `Refresh`, `Link`, `Set-Cookie` and [`REFERENCES`]. Other fields are left as
/// they are, or go if an absolute address in them leads to another account's route: there are clients that ask where
/// `WWW-Authenticate` tells them. Where the client names the upstream itself, that is all: its references are good as they
/// are.
pub(crate) fn links(headers: &mut HeaderMap, mapping: &Mapping<'_>) {
    if mapping.own.ingress.names_upstreams() {
        let astray: Vec<HeaderName> = headers
            .iter()
            .filter(|(_, value)| names_another_account(&text(value), mapping))
            .map(|(name, _)| name.clone())
            .collect();
        return astray.iter().for_each(|name| drop(headers.remove(name)));
    }
    for name in REFERENCES.map(HeaderName::from_static) {
        keep_if_one(headers, &name);
        rewrite_all(headers, name, |link| location(link, mapping));
    }
    let leads_astray = |name: &&HeaderName| {
        !matches!(**name, CONTENT_SECURITY_POLICY | CONTENT_SECURITY_POLICY_REPORT_ONLY | SET_COOKIE)
            && !matches!(**name, LOCATION | CONTENT_LOCATION | REFRESH | LINK)
            && !REFERENCES.contains(&name.as_str())
            && headers.get_all(*name).iter().any(|value| names_another_account(&text(value), mapping))
    };
    let astray: Vec<HeaderName> = headers.keys().filter(leads_astray).cloned().collect();
    for name in astray {
        debug!(field = %name, "dropped: it leads to another route");
        headers.remove(name);
    }
    for name in [LOCATION, CONTENT_LOCATION, REFRESH] {
        keep_if_one(headers, &name);
    }
    for name in [LOCATION, CONTENT_LOCATION] {
        rewrite_all(headers, name, |link| location(link, mapping));
    }
    rewrite_all(headers, REFRESH, |refresh| self::refresh(refresh, mapping));
    rewrite_all(headers, LINK, |links| link(links, mapping));
    rewrite_all(headers, SET_COOKIE, |cookie| Becomes(set_cookie(cookie, mapping)));
}

/// Whether an absolute address is somewhere in a text that leads to another account's route.
fn names_another_account(text: &str, mapping: &Mapping<'_>) -> bool {
    text.match_indices("//").any(|(at, slashes)| {
        let scheme = text[..at].strip_suffix(':').and_then(|front| front.rsplit(|c| !char::is_alphanumeric(c)).next());
        let rest = &text[at + slashes.len()..];
        let end = rest.find([' ', '\t', '"', '\'', '<', '>', '?', '#']).unwrap_or(rest.len());
        let address = rest[..end].replace('\\', "/"); // as browsers do
        let (authority, path) = address.split_at(address.find('/').unwrap_or(address.len()));
        let authority = authority.split([',', ';', ')', '}']).next().and_then(Authority::parse);
        authority.is_some_and(|authority| !mapping.own.admit(mapping, scheme.unwrap_or("http"), authority, path))
    })
}

/// Drops a field that says different things: some clients follow the first, some the last, some join them by a comma.
fn keep_if_one(headers: &mut HeaderMap, name: &HeaderName) {
    let Some(first) = headers.get(name).cloned() else { return };
    let mut others = headers.get_all(name).iter().skip(1).peekable();
    if others.peek().is_none() {
        return;
    }
    let is_one = others.all(|other| *other == first);
    headers.remove(name);
    if is_one {
        headers.insert(name.clone(), first);
    }
}

fn rewrite_all(headers: &mut HeaderMap, name: HeaderName, rewrite: impl Fn(&str) -> Rewritten) {
    let Entry::Occupied(mut entry) = headers.entry(name) else { return };
    let mut goes = false;
    for value in entry.iter_mut() {
        match rewrite(&text(value)) {
            Stays => {}
            // a character for a byte, as `text` made them
            Becomes(new) => match HeaderValue::from_bytes(&new.chars().map(|c| c as u8).collect::<Vec<_>>()) {
                Ok(new) => *value = new,
                Err(_) => goes = true,
            },
            Goes => goes = true,
        }
    }
    if goes {
        debug!(field = %entry.key(), "dropped: it leads to another route, or can be read in different ways");
        entry.remove();
    }
}

/// A field's value, one character for each byte: what is beyond ASCII has no meaning here, and must stay as it is.
pub(crate) fn text(value: &HeaderValue) -> Cow<'_, str> {
    match value.to_str() {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(value.as_bytes().iter().map(|byte| char::from(*byte)).collect()),
    }
}

/// A path, one character for each byte, as [`text`] makes them of values.
fn bytewise(path: &str) -> Cow<'_, str> {
    if path.is_ascii() { Cow::Borrowed(path) } else { Cow::Owned(path.bytes().map(char::from).collect()) }
}

/// The local form of a reference.
fn location(link: &str, mapping: &Mapping<'_>) -> Rewritten {
    let Mapping { origin, base_path, asked, own, .. } = mapping;
    match Reference::parse(link) {
        None => Goes,
        // without the scheme, as some read it, it is a host and a port
        Some(Reference::Foreign { scheme, rest }) => {
            let (port, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let authority = Authority { has_userinfo: false, host: scheme, port: port.parse().ok() };
            if authority.port.is_none() || own.admit(mapping, "http", authority, path) { Stays } else { Goes }
        }
        Some(Reference::Absolute { scheme, authority, path, tail }) => {
            let own_scheme = if origin.tls { "https" } else { "http" };
            let meant = scheme.unwrap_or(own_scheme);
            if is_of(meant, authority, origin) {
                return local_form(path, tail, Form::Absolute { link, has_scheme: scheme.is_some() }, mapping);
            }
            if let Some(local) = siblings_form(&|origin| is_of(meant, authority, origin), path, tail, mapping) {
                return Becomes(local);
            }
            if !own.admit(mapping, meant, authority, path) {
                return Goes;
            }
            match scheme {
                Some(_) => Stays,
                None => Becomes(format!("{own_scheme}:{}", link.trim_matches([' ', '\t']))),
            }
        }
        Some(Reference::Path { path, tail }) => local_form(path, tail, Form::Path, mapping),
        Some(Reference::Relative { path: "", .. }) => Stays,
        // behind the prefix, both addresses have the same folders
        Some(Reference::Relative { path, .. }) if !asked.is_empty() && !has_dot_segments(path) => Stays,
        Some(Reference::Relative { path, tail }) => {
            let base = format!("{base_path}{}", bytewise(asked));
            local_form(&merged(&base, path), tail, Form::Path, mapping)
        }
    }
}

/// How a reference to the upstream's origin was written.
#[derive(Clone, Copy)]
enum Form<'a> {
    Absolute { link: &'a str, has_scheme: bool },
    Path,
}

/// The local form of what is at the upstream's origin.
fn local_form(path: &str, tail: &str, form: Form<'_>, mapping: &Mapping<'_>) -> Rewritten {
    let Mapping { base_path, local_authority, prefix, origin, own, .. } = mapping;
    let has_dots = has_dot_segments(path);
    let path = if has_dots { Cow::Owned(without_dot_segments(path)) } else { Cow::Borrowed(path) };
    let below =
        path.strip_prefix(base_path).filter(|below| base_path.is_empty() || below.is_empty() || below.starts_with('/'));
    let Some(below) = below else {
        if let Some(local) = siblings_form(&|other| other == *origin, &path, tail, mapping) {
            return Becomes(local);
        }
        // curl would ask for it at the socket that it has come by
        if !origin.tls
            && own.is_by_unix_socket()
            && own.may_lead_to_another_account(own.ingress.own_route(), &origin.host, &path)
        {
            return Goes;
        }
        // outside the base path: no local address leads there
        return match form {
            Form::Absolute { has_scheme: true, .. } if !has_dots => Stays,
            Form::Absolute { link, .. } if !has_dots => {
                Becomes(format!("{}:{}", if origin.tls { "https" } else { "http" }, link.trim_matches([' ', '\t'])))
            }
            Form::Absolute { .. } | Form::Path => Becomes(format!("{origin}{path}{tail}")),
        };
    };
    // a path must not begin with what followed the authority or the base path, such as `?`
    let slash = if path.is_empty() && tail.is_empty() || prefix.is_empty() && below.is_empty() { "/" } else { "" };
    match form {
        // the client knows what it has asked
        Form::Absolute { .. } | Form::Path if local_authority.is_empty() => {
            let dot = if prefix.is_empty() && below.starts_with("//") { "/." } else { "" }; // RFC 3986 section 4.2
            Becomes(format!("{dot}{prefix}{slash}{below}{tail}"))
        }
        Form::Absolute { .. } => Becomes(format!("http://{local_authority}{prefix}{slash}{below}{tail}")),
        // by itself it would be read as another host's (RFC 3986 section 4.2)
        Form::Path if prefix.is_empty() && below.starts_with("//") => {
            Becomes(format!("http://{local_authority}{below}{tail}"))
        }
        Form::Path if prefix.is_empty() && base_path.is_empty() && !has_dots => Stays,
        Form::Path => Becomes(format!("{prefix}{slash}{below}{tail}")),
    }
}

/// The address here of what another route of the account leads to: at the place where the client is, by the way it came.
fn siblings_form(is_meant: &dyn Fn(&Origin) -> bool, path: &str, tail: &str, mapping: &Mapping<'_>) -> Option<String> {
    let Mapping { local_authority, prefix, route_prefix, own, .. } = mapping;
    let path = if has_dot_segments(path) { Cow::Owned(without_dot_segments(path)) } else { Cow::Borrowed(path) };
    let Sibling { name, base } = (own.sibling)(is_meant, &path)?;
    let below = &path[base..];
    let key = prefix.strip_suffix(route_prefix).unwrap_or_default();
    let home = if !route_prefix.is_empty() {
        format!("{local_authority}{key}/{name}")
    } else if own.ingress.own_route().is_none() {
        let (_, domain) = local_authority.split_once('.')?;
        format!("{name}.{domain}{key}")
    } else {
        let here = Authority::parse(local_authority)?;
        let is_open = |port: u16| own.listeners.iter().any(|listener| listener.port == port && listener.is_open);
        let here_is_open = is_open(here.port.unwrap_or(80));
        let mut near = own.listeners.iter().filter(|one| own.ingress.is_tcp() && !one.is_lent);
        let is_its = |one: &&OwnListener| one.route.as_ref().is_none_or(|route| *route == name);
        let at = near.find(|one| one.is_open == here_is_open && is_its(one))?;
        let prefix = if at.route.is_some() { String::new() } else { format!("/{name}") };
        format!("{}:{}{key}{prefix}", here.host, at.port)
    };
    let slash = if below.is_empty() && !home.contains('/') { "/" } else { "" };
    let scheme = if local_authority.is_empty() { "" } else { "http://" };
    Some(format!("{scheme}{home}{slash}{below}{tail}"))
}

impl OwnAddresses<'_> {
    /// Whether an address may stand in a response: it leads elsewhere, or to a route of the response's own account.
    fn admit(&self, mapping: &Mapping<'_>, scheme: &str, authority: Authority<'_>, path: &str) -> bool {
        let is_plain = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("ws");
        let host = authority.host.trim_end_matches('.');
        let port = authority.port.unwrap_or(if is_plain { 80 } else { 443 });
        let at_port = || self.listeners.iter().filter(move |listener| listener.port == port);
        let is_named = |name: &str| name.eq_ignore_ascii_case(host);
        let is_named_with_port =
            |name: &str| Authority::parse(name).is_some_and(|own| is_named(own.host) && own.port.unwrap_or(80) == port);
        let is_known = self.hosts.iter().any(|known| is_named(known));
        let is_clients_port =
            || Authority::parse(mapping.local_authority).is_some_and(|own| own.port.unwrap_or(80) == port);
        let is_ours = ((is_known || is_loopback(host)) && (at_port().next().is_some() || is_clients_port()))
            || is_named_with_port(mapping.local_authority)
            || self.hosts.iter().any(|known| known.contains(':') && is_named_with_port(known));
        if (is_ours || is_known) && (authority.has_userinfo || has_dot_segments(path)) {
            return false;
        }
        if is_ours {
            let mut owners = at_port().map(|listener| listener.route.as_ref());
            let owner = owners.next().unwrap_or(self.ingress.own_route());
            return self.leads_home(owner, host, path) && owners.all(|owner| self.leads_home(owner, host, path));
        }
        // what may be ours: a port that somebody forwards, a name of this machine on a network, curl's --unix-socket
        let goes_astray = |owner| self.may_lead_to_another_account(owner, host, path);
        !(is_known && goes_astray(None)
            || is_plain && self.is_by_unix_socket() && goes_astray(self.ingress.own_route())
            || at_port().any(|listener| listener.is_open && goes_astray(listener.route.as_ref())))
    }

    /// Whether the client came in by a unix socket: curl then asks there for whatever plain `http` address it is led to.
    fn is_by_unix_socket(&self) -> bool {
        !self.ingress.is_tcp() && !self.ingress.names_upstreams()
    }

    fn leads_home(&self, owner: Option<&RouteName>, host: &str, path: &str) -> bool {
        self.lead(owner, host, path) == Some(true)
    }

    /// Whether the route that an address leads to has this account; `None` if there is no such route.
    fn lead(&self, owner: Option<&RouteName>, host: &str, path: &str) -> Option<bool> {
        let found = route::find(|name| (self.shares_account)(name).map(usize::from), owner, host, path)?;
        Some(found.index == 1)
    }

    /// Whether a listener could take an address for another account's route: clients resolve and decode what they like,
    /// and a key may be in front.
    fn may_lead_to_another_account(&self, owner: Option<&RouteName>, host: &str, path: &str) -> bool {
        let path = if path.is_empty() { "/".to_owned() } else { without_dot_segments(path) };
        let first = path.split('/').find(|segment| !segment.is_empty()).unwrap_or_default();
        let first = percent_decode_str(first).decode_utf8_lossy();
        self.lead(owner, host, &path) == Some(false)
            || (owner.is_none()
                && ((self.shares_account)(&first) == Some(false) || first.starts_with(client_keys::PREFIX)))
    }
}

/// Whether a client that is sent to this host arrives on this machine, in any spelling of its address that any client
/// takes for one (`127.1`, `0x7f000001`).
fn is_loopback(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok_and(|address| {
            address.is_unspecified()
                || address.to_canonical().is_loopback()
                || address.to_ipv4().is_some_and(|address| address.is_loopback() || address.is_unspecified())
        });
    }
    let last = host.rsplit('.').next().unwrap_or_default();
    last.eq_ignore_ascii_case("localhost")
        || loose_ipv4(host).is_some_and(|address| address.is_loopback() || address.octets()[0] == 0)
}

/// An IPv4 address as inet_aton(3) and browsers read it: up to four numbers, decimal, octal or hexadecimal, the last for
/// all bytes that are left.
fn loose_ipv4(host: &str) -> Option<Ipv4Addr> {
    let numbers: Vec<&str> = host.split('.').collect();
    let (last, first) = numbers.split_last()?;
    if first.len() > 3 {
        return None;
    }
    let number = |text: &str| -> Option<u64> {
        let lower = text.to_ascii_lowercase();
        match lower.strip_prefix("0x") {
            Some("") => Some(0),
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None if lower.len() > 1 && lower.starts_with('0') => u64::from_str_radix(&lower, 8).ok(),
            None => lower.parse().ok(),
        }
    };
    let mut address = number(last).filter(|number| *number < 1 << (8 * (4 - first.len())))?;
    for (at, text) in first.iter().enumerate() {
        address |= number(text).filter(|number| *number < 256)? << (24 - 8 * at);
    }
    u32::try_from(address).ok().map(Ipv4Addr::from)
}

/// `Refresh`, which browsers take as a redirect: seconds, and perhaps where to.
fn refresh(refresh: &str, mapping: &Mapping<'_>) -> Rewritten {
    let (seconds, rest) = refresh.split_at(refresh.find([';', ',', ' ', '\t']).unwrap_or(refresh.len()));
    if !seconds.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Goes;
    }
    let rest = rest.trim_start_matches([' ', '\t']);
    let rest = rest.strip_prefix([';', ',']).unwrap_or(rest).trim_start_matches([' ', '\t']);
    if rest.is_empty() {
        return Stays;
    }
    if rest.starts_with([';', ',']) {
        return Goes;
    }
    let named = rest.get(..3).filter(|name| name.eq_ignore_ascii_case("url"));
    let value = named.and_then(|_| rest[3..].trim_start_matches([' ', '\t']).strip_prefix('='));
    let url = value.unwrap_or(rest).trim_matches([' ', '\t']);
    let quoted = ['\'', '"'].iter().find_map(|quote| url.strip_prefix(*quote)?.strip_suffix(*quote));
    let url = quoted.unwrap_or(url);
    // what follows a quotation mark, or has one left, ends here for some and there for others
    if url.contains(['\'', '"']) {
        return Goes;
    }
    match location(url, mapping) {
        Becomes(local) => Becomes(format!("{seconds};url={local}")),
        unchanged => unchanged,
    }
}

/// The targets between `<` and `>` in the local form (RFC 8288 section 3); quoted parameters stay.
///
/// Some clients look for `<` and `>` alone, and some take a value without them for a target: what does not begin with a
/// target goes, and so does a link whose quoted parameters hold one that leads astray as it stands.
fn link(links: &str, mapping: &Mapping<'_>) -> Rewritten {
    let mut rewritten = String::with_capacity(links.len());
    let mut rest = links;
    let mut changed = false;
    let mut begins = true;
    while let Some(at) = rest.find(['<', '>', '"']) {
        let (before, special) = rest.split_at(at);
        if !is_between_links(before, begins) {
            return Goes;
        }
        begins |= before.contains(',');
        rewritten.push_str(before);
        let end = if special.starts_with('<') { special.find('>') } else { closing_quote(special) };
        // a target where a link begins, and nowhere else
        let Some(end) = end.filter(|_| special.starts_with('<') == begins && !special.starts_with('>')) else {
            return Goes;
        };
        let within = &special[1..end];
        if !begins {
            if within.match_indices('<').any(|(at, _)| leads_astray_as_it_stands(&within[at + 1..], mapping)) {
                return Goes;
            }
            rewritten.push_str(&special[..=end]);
        } else if within.contains('<') {
            return Goes;
        } else {
            match location(within.trim(), mapping) {
                Stays => rewritten.push_str(&special[..=end]),
                Becomes(local) => {
                    rewritten.extend(["<", &local, ">"]);
                    changed = true;
                }
                Goes => return Goes,
            }
        }
        begins = false;
        rest = &special[end + 1..];
    }
    if !is_between_links(rest, begins) {
        return Goes;
    }
    rewritten.push_str(rest);
    if changed { Becomes(rewritten) } else { Stays }
}

/// Whether a text can stand outside of targets and quotations: there is nothing where a link `begins`, that is, at the
/// start and behind a comma.
fn is_between_links(text: &str, begins: bool) -> bool {
    text.split(',').skip(usize::from(!begins)).all(|part| part.trim().is_empty())
}

/// Whether a client that takes this for a target is led to another account's route: it is not rewritten, so what counts
/// is where the client is.
fn leads_astray_as_it_stands(text: &str, mapping: &Mapping<'_>) -> bool {
    let Mapping { asked, local_authority, prefix, own, .. } = mapping;
    let target = text.split('>').next().unwrap_or_default();
    let local_path = match Reference::parse(target) {
        None => return true,
        Some(Reference::Foreign { .. }) => return location(target, mapping) == Goes,
        Some(Reference::Absolute { scheme, authority, path, .. }) => {
            return !own.admit(mapping, scheme.unwrap_or("http"), authority, path);
        }
        Some(Reference::Path { path, .. }) => path.to_owned(),
        Some(Reference::Relative { path, .. }) => merged(&format!("{prefix}{}", bytewise(asked)), path),
    };
    let host = local_authority.split(':').next().unwrap_or_default();
    own.may_lead_to_another_account(own.ingress.own_route(), host, &local_path)
}

/// Where the quotation mark that closes a quoted string is (RFC 9110 section 5.6.4).
fn closing_quote(quoted: &str) -> Option<usize> {
    let mut escaped = false;
    quoted.bytes().enumerate().skip(1).find_map(|(at, byte)| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes.then_some(at)
    })
}

/// A cookie as the local address can hold it: no foreign `Domain`, the local `Path`, and without `Secure`, as we are
/// spoken to in the clear on loopback, nor what is good only with it.
fn set_cookie(cookie: &str, mapping: &Mapping<'_>) -> String {
    let mut parts = cookie.split(';');
    let mut rewritten = parts.next().unwrap_or_default().to_owned();
    // the browser demands what these name prefixes promise; without it the cookie would be thrown away
    let name = rewritten.trim_start().get(..9).unwrap_or(&rewritten).to_ascii_lowercase();
    let keeps_secure = name.starts_with("__host-") || name.starts_with("__secure-");
    let mut has_path = false;
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let value = value.trim();
        match name.trim() {
            name if name.eq_ignore_ascii_case("domain") => continue,
            name if name.eq_ignore_ascii_case("path") => {
                if value.starts_with('/') {
                    rewritten.push_str("; Path=");
                    rewritten.push_str(&cookie_path(value, mapping));
                }
                has_path = value.starts_with('/'); // else it means the default
            }
            _ if keeps_secure => {
                rewritten.push(';');
                rewritten.push_str(part);
            }
            name if name.eq_ignore_ascii_case("secure") || name.eq_ignore_ascii_case("partitioned") => continue,
            name if name.eq_ignore_ascii_case("samesite") && value.eq_ignore_ascii_case("none") => continue,
            _ => {
                rewritten.push(';');
                rewritten.push_str(part);
            }
        }
    }
    // of the prefix alone, a client's own default would be the folder of all routes
    if !has_path {
        rewritten.push_str("; Path=");
        rewritten.push_str(&cookie_path(&default_path(mapping), mapping));
    }
    rewritten
}

/// The path of a cookie that has none: the folder of what the upstream was asked for (RFC 6265 section 5.1.4). Of a folder
/// whose name would end the attribute, it is the one above.
fn default_path(mapping: &Mapping<'_>) -> String {
    let asked = format!("{}{}", mapping.base_path, bytewise(mapping.asked));
    let asked = asked.split(';').next().unwrap_or_default();
    match asked.rfind('/') {
        None | Some(0) => "/".to_owned(),
        Some(end) => asked[..end].to_owned(),
    }
}

/// The local form of a cookie's path: below the route's, so that no other route gets it.
fn cookie_path(path: &str, mapping: &Mapping<'_>) -> String {
    let Mapping { base_path, prefix, .. } = mapping;
    let is_parent = base_path.strip_prefix(path.trim_end_matches('/')).is_some_and(|rest| rest.starts_with('/'));
    let below = match path.strip_prefix(base_path) {
        Some(below) if below.is_empty() || below.starts_with('/') => below,
        _ if is_parent => "",
        _ => path, // nothing local leads there
    };
    match (prefix.is_empty(), below) {
        (true, "") => "/".to_owned(),
        (false, "/") => (*prefix).to_owned(), // with the slash it would not hold for the prefix alone
        _ => format!("{prefix}{below}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{LazyLock, OnceLock};

    use super::*;
    use crate::proxy::policy::scope::Scope;

    /// Ports at which every route is served, `lab` alone, `two` alone, and every route for other machines.
    /// A listener that all routes share.
    static SHARED: Ingress = Ingress::loopback(Scope::All);

    fn listeners() -> &'static [OwnListener] {
        static LISTENERS: LazyLock<Vec<OwnListener>> = LazyLock::new(|| {
            let at = |port, route: Option<&str>, is_open| OwnListener {
                port,
                route: route.and_then(RouteName::new),
                is_open,
                is_lent: false,
            };
            vec![
                at(8253, None, false),
                at(8253, None, false),
                at(8300, Some("lab"), false),
                at(8400, Some("two"), false),
                at(8500, None, true),
            ]
        });
        &LISTENERS
    }

    /// The routes `lab` and `same` are of one account, `two` is of another.
    fn shares_account(name: &str) -> Option<bool> {
        match name {
            "lab" | "same" => Some(true),
            "two" => Some(false),
            _ => None,
        }
    }

    /// `same` leads to another server, `else` to another path of the same.
    fn sibling(is_meant: &dyn Fn(&Origin) -> bool, path: &str) -> Option<Sibling> {
        let at = |host: &str| Origin { tls: true, host: host.into(), port: 443 };
        let rows =
            [("same", "zip.example", "/odata"), ("else", "api.example", "/v2"), ("deep", "zip.example", "/odata/a")];
        let leads = |(_, host, base): &&(&str, &str, &str)| {
            is_meant(&at(host)) && path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let found = rows.iter().filter(leads).max_by_key(|(_, _, base)| base.len());
        found.map(|(name, _, base)| Sibling { name: RouteName::new(name).unwrap(), base: base.len() })
    }

    fn mapping(origin: &Origin) -> Mapping<'_> {
        let own = OwnAddresses {
            listeners: listeners(),
            hosts: HOSTS.get_or_init(|| vec!["valet.lan".into(), "forwarded.lan:9999".into()]),
            ingress: &SHARED,
            shares_account: &shares_account,
            sibling: &sibling,
        };
        let prefix = "/lab";
        Mapping {
            origin,
            base_path: "/v1",
            asked: "/d/x",
            local_authority: "localhost:8253",
            prefix,
            route_prefix: prefix,
            own,
        }
    }

    static HOSTS: OnceLock<Vec<String>> = OnceLock::new();

    fn as_expected(expected: Option<&str>) -> Rewritten {
        expected.map_or(Stays, |expected| Becomes(expected.to_owned()))
    }

    #[test]
    fn a_forwarded_port_is_ours_by_every_loopback_name_and_links_keep_it() {
        let origin = Origin { tls: true, host: "api.example".into(), port: 443 };
        let forwarded = Mapping { local_authority: "localhost:9000", ..mapping(&origin) };
        let rows = [
            ("home", "https://api.example/v1/a", Becomes("http://localhost:9000/lab/a".into())),
            ("another account's route", "http://localhost:9000/two/a", Goes),
            ("by an address", "http://127.0.0.1:9000/two/a", Goes),
            ("by IPv6", "http://[::1]:9000/two/a", Goes),
            ("by its own name", "http://two.localhost:9000/", Goes),
            ("the same account's", "http://127.0.0.1:9000/same/a", Stays),
            ("another program's port", "http://127.0.0.1:9001/two/a", Stays),
        ];
        for (case, text, expected) in rows {
            assert_eq!(location(text, &forwarded), expected, "{case}");
        }
    }

    #[test]
    fn a_client_that_names_no_host_is_led_by_paths_alone() {
        let origin = Origin { tls: true, host: "api.example".into(), port: 443 };
        let based = Mapping { local_authority: "", ..mapping(&origin) };
        let alone = Mapping { prefix: "", route_prefix: "", base_path: "", ..based };
        let rows = [
            ("home", based, "https://api.example/v1/a?b", Becomes("/lab/a?b".into())),
            ("home, with the root's dot", based, "https://API.example.:443/v1/a", Becomes("/lab/a".into())),
            ("by a path", based, "/v1/a", Becomes("/lab/a".into())),
            ("to another route of the account", based, "https://zip.example/odata/f", Becomes("/same/f".into())),
            ("another account's route", based, "http://localhost:8253/two/a", Goes),
            ("elsewhere", based, "https://cdn.example/a", Stays),
            ("at a route's own listener", alone, "https://api.example/a", Becomes("/a".into())),
            ("its root", alone, "https://api.example", Becomes("/".into())),
            ("what looks like a host", alone, "https://api.example//evil.example", Becomes("/.//evil.example".into())),
        ];
        for (case, mapping, given, expected) in rows {
            assert_eq!(location(given, &mapping), expected, "{case}");
        }
    }

    #[test]
    fn a_reference_is_resolved_before_it_is_mapped() {
        let origin = Origin { tls: true, host: "api.example".into(), port: 443 };
        let based = mapping(&origin);
        let bare = Mapping { base_path: "", ..based };
        let alone = Mapping { asked: "", ..based };
        let bare_alone = Mapping { base_path: "", asked: "", ..based };
        let keyed = Mapping { prefix: "/vk_x/lab", ..based };
        let named =
            Mapping { prefix: "", route_prefix: "", base_path: "", local_authority: "lab.localhost:8253", ..based };
        let becomes = |local: &str| Becomes(local.to_owned());
        let rows = [
            ("into the folder above", based, "../two/x", becomes("/lab/two/x")),
            ("out of the base", based, "../../two/x", becomes("https://api.example/two/x")),
            ("and further", based, "../../../two/x", becomes("https://api.example/two/x")),
            ("spelt with one dot more", based, "./../../two", becomes("https://api.example/two")),
            ("encoded", based, "%2e%2E/.%2e/two", becomes("https://api.example/two")),
            ("an empty segment between", based, "a//../../../../../two", becomes("https://api.example/two")),
            ("the folder itself", based, "..", becomes("/lab/")),
            ("with query and fragment", based, "../y?q=../z#../w", becomes("/lab/y?q=../z#../w")),
            ("dots in the query alone", based, "y?q=../../z", Stays),
            ("no base", bare, "../../two/x", becomes("/lab/two/x")),
            ("beside the base", alone, "two/x", becomes("https://api.example/two/x")),
            ("beside the root", bare_alone, "two/x", becomes("/lab/two/x")),
            ("beside the root, a query", bare_alone, "?q", Stays),
            ("with a key", keyed, "../../vk_y/two", becomes("https://api.example/vk_y/two")),
            ("with a key, within", keyed, "../y", becomes("/vk_x/lab/y")),
            ("absolute path", based, "/v1/../two/x", becomes("https://api.example/two/x")),
            ("absolute path, within", based, "/v1/../v1/x", becomes("/lab/x")),
            ("absolute", based, "https://api.example/v1/../two/x", becomes("https://api.example/two/x")),
            ("absolute, within", based, "https://api.example/v1/a/%2e%2e/x", becomes("http://localhost:8253/lab/x")),
            ("no scheme", based, "//api.example/v1/../two", becomes("https://api.example/two")),
            (
                "to another host in the end",
                named,
                "/.//evil.example",
                becomes("http://lab.localhost:8253//evil.example"),
            ),
            ("by name", named, "../../../two", becomes("/two")),
            ("blanks in the path", based, "/v1/my file.txt", becomes("/lab/my file.txt")),
            ("wide letters in the path", based, "/v1/\u{e9}", becomes("/lab/\u{e9}")),
            ("elsewhere, as it is", based, "https://cdn.example/a/../b", Stays),
            ("an app's own", based, "myapp://callback?code=1", Stays),
            ("a tab", based, "..\t/two", Goes),
            ("a backslash", based, "..\\..\\two", Goes),
            ("one slash", based, "https:/api.example/v1/x", Goes),
            ("three slashes", based, "///two/x", Goes),
        ];
        for (case, mapping, given, expected) in rows {
            assert_eq!(location(given, &mapping), expected, "{case}");
        }
    }

    #[test]
    fn our_own_addresses_lead_to_routes_of_the_same_account_alone() {
        let origin = Origin { tls: true, host: "api.example".into(), port: 443 };
        let based = mapping(&origin);
        let unix = Ingress::unix(Scope::All);
        let own = OwnAddresses { ingress: &unix, ..based.own };
        let unix = Mapping { own, local_authority: "v", ..based };
        let lab = Ingress::loopback(Scope::Own(RouteName::new("lab").unwrap()));
        let own = OwnAddresses { ingress: &lab, ..based.own };
        let alone = Mapping { own, local_authority: "localhost:8300", prefix: "", route_prefix: "", ..based };
        let forwarded = Mapping { local_authority: "forwarded.lan:9999", ..based };
        let loopback = [
            "localhost",
            "LocalHost",
            "localhost.",
            "two.localhost",
            "a.b.localhost",
            "127.0.0.1",
            "127.0.0.1.",
            "127.1",
            "127.8.9.10",
            "2130706433",
            "0x7f.1",
            "0X7F000001",
            "0177.0.0.1",
            "0",
            "0.0.0.0",
            "[::1]",
            "[0:0::0:1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::127.0.0.1]",
            "valet.lan",
            "user@localhost",
            "vk_x:@127.0.0.1",
        ];
        for host in loopback {
            for port in ["8253", "08253", "8400", "8500"] {
                for start in ["http://", "HTTP://", "https://", "ws://"] {
                    for path in
                        ["/two/x", "", "/", "/two", "/nowhere", "/lab/../two/x", "/lab/%2e%2e/two", "/%74wo/x", "//two"]
                    {
                        let address = format!("{start}{host}:{port}{path}");
                        assert_eq!(location(&address, &based), Goes, "{address}");
                    }
                }
            }
            let address = format!("http://{host}:8254/two/x"); // somebody else's
            assert!(host.contains(['@']) || host == "valet.lan" || location(&address, &based) == Stays, "{address}");
        }
        let rows = [
            ("this route", based, "http://localhost:8253/lab/x", Stays),
            ("another route of the account", based, "http://127.0.0.1:8253/same/x?q", Stays),
            ("its own name", based, "http://same.localhost:8253/two/x", Stays),
            ("its own listener", based, "http://localhost:8300/two/x", Stays),
            ("out of it", based, "http://localhost:8253/lab/../two", Goes),
            ("a user", based, "http://user@localhost:8253/lab/x", Goes),
            ("without scheme", based, "//localhost:8253/two/x", Goes),
            ("without slashes", based, "localhost:8253/two/x", Goes),
            ("the name of a setting", based, "http://VALET.lan:8253/lab/x", Stays),
            ("and another port, which somebody may forward", based, "http://valet.lan/two/x", Goes),
            ("and what is no route", based, "http://valet.lan/x", Stays),
            ("the name and port of a setting", based, "http://forwarded.lan:9999/two/x", Goes),
            ("that name and another port", based, "http://forwarded.lan/two/x", Stays),
            ("the name that the client used", forwarded, "http://forwarded.lan:9999/lab/x", Stays),
            ("by a name of this machine", based, "http://box.lan:8500/two/x", Goes),
            ("by a name of this machine, and a key", based, "http://box.lan:8500/vk_x/two/x", Goes),
            ("some server at such a port", based, "http://box.lan:8500/x", Stays),
            ("from an address of its own", alone, "http://box.lan:8500/a/../two/x", Goes),
            ("from there to all routes", alone, "http://localhost:8253/two/x", Goes),
            ("curl asks its socket for any host", unix, "http://evil.example/two/x", Goes),
            ("encoded for nothing", unix, "http://evil.example//%74wo/x", Goes),
            ("by name", unix, "http://two.localhost/x", Goes),
            ("but TLS is not spoken there", unix, "https://evil.example/two/x", Stays),
            ("no route", unix, "http://evil.example/x", Stays),
        ];
        for (case, mapping, given, expected) in rows {
            assert_eq!(location(given, &mapping), expected, "{case}");
        }
    }

    #[test]
    fn what_another_route_of_the_account_leads_to_is_asked_for_here() {
        let origin = Origin { tls: true, host: "api.example".into(), port: 443 };
        let based = mapping(&origin);
        let keyed = Mapping { prefix: "/vk_x/lab", ..based };
        let named = Mapping { prefix: "", route_prefix: "", local_authority: "lab.localhost:8253", ..based };
        let named_keyed = Mapping { prefix: "/vk_x", ..named };
        let lab = Ingress::loopback(Scope::Own(RouteName::new("lab").unwrap()));
        let own = OwnAddresses { ingress: &lab, ..based.own };
        let alone = Mapping { own, local_authority: "127.0.0.1:8300", prefix: "", route_prefix: "", ..based };
        let rows = [
            ("by prefix", based, "https://zip.example/odata/x?y#z", Some("http://localhost:8253/same/x?y#z")),
            ("the base alone", based, "https://zip.example/odata", Some("http://localhost:8253/same")),
            ("the longest base", based, "https://zip.example/odata/a/b", Some("http://localhost:8253/deep/b")),
            ("in the clear", based, "http://zip.example/odata/x", Some("http://localhost:8253/same/x")),
            ("without scheme", based, "//zip.example/odata/x", Some("http://localhost:8253/same/x")),
            ("dots", based, "https://zip.example/x/../odata/x", Some("http://localhost:8253/same/x")),
            ("dots out of it", based, "https://zip.example/odata/../x", None),
            ("beside its base", based, "https://zip.example/odatas/x", None),
            ("another port", based, "https://zip.example:8443/odata/x", None),
            ("a user", based, "https://u@zip.example/odata/x", None),
            ("another base on this server", based, "https://api.example/v2/x", Some("http://localhost:8253/else/x")),
            ("and as a path", based, "/v2/x?y", Some("http://localhost:8253/else/x?y")),
            ("with a key in the path", keyed, "https://zip.example/odata/x", Some("http://localhost:8253/vk_x/same/x")),
            ("by host name", named, "https://zip.example/odata/x", Some("http://same.localhost:8253/x")),
            ("by host name, the base", named, "https://zip.example/odata?q", Some("http://same.localhost:8253/?q")),
            ("by host name and key", named_keyed, "https://zip.example/odata", Some("http://same.localhost:8253/vk_x")),
            ("from an address of its own", alone, "https://zip.example/odata/x", Some("http://127.0.0.1:8253/same/x")),
        ];
        for (case, mapping, given, expected) in rows {
            assert_eq!(location(given, &mapping), as_expected(expected), "{case}");
        }
        let expected = Becomes("0;url=http://localhost:8253/same/x".into());
        assert_eq!(refresh("0; url=https://zip.example/odata/x", &based), expected);
        let expected = Becomes("<http://localhost:8253/same/x>; rel=next".into());
        assert_eq!(link("<https://zip.example/odata/x>; rel=next", &based), expected);
    }

    #[test]
    fn a_refresh_is_a_redirect() {
        let origin = Origin { tls: true, host: "api.example".into(), port: 443 };
        let mapping = mapping(&origin);
        let becomes = |local: &str| Becomes(local.to_owned());
        let rows = [
            ("5", Stays),
            ("5; url=y", Stays),
            ("0;url=/v1/x", becomes("0;url=/lab/x")),
            ("0; URL = 'https://api.example/v1/x?a;b'", becomes("0;url=http://localhost:8253/lab/x?a;b")),
            ("1.5, ../../two", becomes("1.5;url=https://api.example/two")),
            ("0 url=../../two", becomes("0;url=https://api.example/two")),
            ("0;url=http://localhost:8253/two/x", Goes),
            ("0;url=\"http://localhost:8253/two/x", Goes),
            ("0;url='y'/../../../two", Goes),
            ("0;;url=//localhost:8253/two", Goes),
            ("x;url=/two", Goes),
        ];
        for (given, expected) in rows {
            assert_eq!(refresh(given, &mapping), expected, "{given}");
        }
    }

    #[test]
    fn what_is_said_twice_in_different_ways_is_not_said() {
        let origin = Origin { tls: true, host: "api.example".into(), port: 443 };
        let value = HeaderValue::from_static;
        let rows = [
            (vec![value("/v1/x")], vec!["/lab/x"]),
            (vec![value("/v1/x"), value("/v1/x")], vec!["/lab/x"]),
            (vec![value("/v1/x"), value("/v1/y")], vec![]),
            (vec![value("http://localhost:8253/two/x")], vec![]),
        ];
        for (given, expected) in rows {
            let mut headers = HeaderMap::new();
            for value in &given {
                headers.append(LOCATION, value.clone());
            }
            links(&mut headers, &mapping(&origin));
            assert_eq!(headers.get_all(LOCATION).iter().collect::<Vec<_>>(), expected, "{given:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(SET_COOKIE, HeaderValue::from_bytes(b"a=\xff; Path=/; Domain=x").unwrap());
        links(&mut headers, &mapping(&origin));
        assert_eq!(headers[SET_COOKIE].as_bytes(), b"a=\xff; Path=/lab", "bytes beyond ASCII open no way around");
    }

    #[test]
    fn links_to_the_upstream_lead_back_here() {
        let origin = Origin { tls: true, host: "api.example".into(), port: 443 };
        let prefixed = mapping(&origin);
        let bare = Mapping { base_path: "", ..prefixed };
        let named =
            Mapping { base_path: "", local_authority: "lab.localhost:8253", prefix: "", route_prefix: "", ..prefixed };
        let rows = [
            ("absolute", prefixed, "https://api.example/v1/x?y#z", Some("http://localhost:8253/lab/x?y#z")),
            ("port said", prefixed, "https://api.example:443/v1/x", Some("http://localhost:8253/lab/x")),
            ("case", prefixed, "HTTPS://API.example/v1/x", Some("http://localhost:8253/lab/x")),
            ("base alone", prefixed, "https://api.example/v1", Some("http://localhost:8253/lab")),
            ("base and query", prefixed, "https://api.example/v1?q", Some("http://localhost:8253/lab?q")),
            ("outside the base", prefixed, "https://api.example/login", None),
            ("beside the base", prefixed, "https://api.example/v10/x", None),
            ("other host", prefixed, "https://evil.example/v1/x", None),
            ("other port", prefixed, "https://api.example:8443/v1/x", None),
            ("longer host", prefixed, "https://api.example.evil/v1/x", None),
            ("userinfo", prefixed, "https://u@api.example/v1/x", None),
            ("other scheme", prefixed, "ftp://api.example/v1/x", None),
            ("in the clear", prefixed, "http://api.example/v1/x", Some("http://localhost:8253/lab/x")),
            ("in the clear, port said", prefixed, "HTTP://api.example:80/v1/x", Some("http://localhost:8253/lab/x")),
            ("in the clear, odd port", prefixed, "http://api.example:443/v1/x", Some("http://localhost:8253/lab/x")),
            ("in the clear, other port", prefixed, "http://api.example:8080/v1/x", None),
            ("in the clear, other host", prefixed, "http://cdn.example/v1/x", None),
            ("path", prefixed, "/v1/x", Some("/lab/x")),
            ("path outside", prefixed, "/login?x", Some("https://api.example/login?x")),
            ("relative", prefixed, "x/y", None),
            ("query", prefixed, "?page=2", None),
            ("empty", prefixed, "", None),
            ("no scheme", prefixed, "//api.example/v1/x", Some("http://localhost:8253/lab/x")),
            ("no scheme, foreign", prefixed, "//cdn.example/x", Some("https://cdn.example/x")),
            ("no scheme, outside", prefixed, "//api.example/login", Some("https://api.example/login")),
            ("no base", bare, "https://api.example/x", Some("http://localhost:8253/lab/x")),
            ("no base, no path", bare, "https://api.example", Some("http://localhost:8253/lab/")),
            ("no base, query", bare, "https://api.example?q", Some("http://localhost:8253/lab?q")),
            ("no base, path", bare, "/x", Some("/lab/x")),
            ("named", named, "https://api.example/x", Some("http://lab.localhost:8253/x")),
            ("named, query", named, "https://api.example?q", Some("http://lab.localhost:8253/?q")),
            ("named, path", named, "/x", None),
        ];
        for (case, mapping, link, expected) in rows {
            assert_eq!(location(link, &mapping), as_expected(expected), "{case}");
        }
        let named_base = Mapping { base_path: "/v1", ..named };
        assert_eq!(location("/v1/x", &named_base), Becomes("/x".into()));
        let two_slashes = Becomes("http://lab.localhost:8253//evil.example/x".into());
        assert_eq!(location("/v1//evil.example/x", &named_base), two_slashes, "no other host's");
        assert_eq!(location("/login", &named_base), Becomes("https://api.example/login".into()));
    }

    #[test]
    fn links_between_pages_lead_back_here_and_everything_else_stays() {
        let origin = Origin { tls: true, host: "api.example".into(), port: 443 };
        let mapping = mapping(&origin);
        let rows = [
            ("one", "<https://api.example/v1/x?p=2>; rel=next", Some("<http://localhost:8253/lab/x?p=2>; rel=next")),
            (
                "several",
                "<https://api.example/v1/x?p=2>; rel=\"next\", </v1/x?p=9>; rel=\"last\", <?p=1>; rel=first",
                Some("<http://localhost:8253/lab/x?p=2>; rel=\"next\", </lab/x?p=9>; rel=\"last\", <?p=1>; rel=first"),
            ),
            ("elsewhere", "<https://cdn.example/v1/x>; rel=preload", None),
            ("a comma in the target", "</v1/x?a=1,2>; rel=next", Some("</lab/x?a=1,2>; rel=next")),
            ("in quotes", "<x>; title=\"</v1/y> \\\" </v1/z>\"; rel=next", None),
            (
                "after quotes",
                "<x>; title=\"a\\\"<b\", </v1/y>; rel=next",
                Some("<x>; title=\"a\\\"<b\", </lab/y>; rel=next"),
            ),
            ("blanks", "< /v1/x >; rel=next", Some("</lab/x>; rel=next")),
            ("nothing", "", None),
        ];
        for (case, given, expected) in rows {
            assert_eq!(link(given, &mapping), as_expected(expected), "{case}");
        }
        let goes = [
            "</v1/x; rel=next",
            "</v1/x>; title=\"</v1/y>",
            "https://api.example/v1/x; rel=next",
            "/v1/x",
            "/two/x, </v1/x>; rel=next",
            "</v1/x>; rel=next, /two/x; rel=prev",
            "</v1/x>; rel=next; <http://localhost:8253/two/x>; rel=prev",
            "</v1/x>; rel=next > x",
            "<<http://localhost:8253/two/x>; rel=next",
            "</v1/x>; rel=next, <http://localhost:8253/two/x>; rel=prev",
            "</v1/x>; title=\"a, <http://localhost:8253/two/x>; rel=prev\"",
            "</v1/x>; title=\"a, <../../two/x>; rel=prev\"",
            "</v1/x>; title=\"a, </two/x\"",
        ];
        for links in goes {
            assert_eq!(link(links, &mapping), Goes, "{links}");
        }
    }

    #[test]
    fn a_cookie_holds_for_its_route_and_for_no_other() {
        let origin = Origin { tls: true, host: "api.example".into(), port: 443 };
        let based = mapping(&origin);
        let bare = Mapping { base_path: "", ..based };
        let named = Mapping { prefix: "", route_prefix: "", ..based };
        let alone = Mapping { asked: "", ..based };
        let rows = [
            ("below the base", based, "a=b; Path=/v1/x", "a=b; Path=/lab/x"),
            ("the base", based, "a=b; path=/v1", "a=b; Path=/lab"),
            ("the base and a slash", based, "a=b; Path=/v1/", "a=b; Path=/lab"),
            ("everything", based, "a=b; Path=/", "a=b; Path=/lab"),
            ("beside the base", based, "a=b; Path=/v10/x", "a=b; Path=/lab/v10/x"),
            ("elsewhere", based, "a=b; Path=/login", "a=b; Path=/lab/login"),
            ("no path", based, "a=b", "a=b; Path=/lab/d"),
            ("no path, a byte beyond ASCII", based, "a=\u{fc}; Secure; Domain=.example", "a=\u{fc}; Path=/lab/d"),
            ("no path, asked by host name", named, "a=b", "a=b; Path=/d"),
            ("no path, of the folder", Mapping { asked: "/d/", ..based }, "a=b", "a=b; Path=/lab/d"),
            ("no path, of the root", Mapping { asked: "/d", ..based }, "a=b", "a=b; Path=/lab"),
            ("no path, no base", Mapping { asked: "/d", ..bare }, "a=b", "a=b; Path=/lab"),
            ("no path, by name, no base", Mapping { asked: "/d", base_path: "", ..named }, "a=b", "a=b; Path=/"),
            ("no path, parameters in it", Mapping { asked: "/d;x/y/z", ..based }, "a=b", "a=b; Path=/lab"),
            (
                "no path, wide letters in it",
                Mapping { asked: "/\u{151}/y", ..based },
                "a=b",
                "a=b; Path=/lab/\u{c5}\u{91}",
            ),
            ("no path, asked of the prefix alone", alone, "a=b", "a=b; Path=/lab"),
            ("a relative path, likewise", alone, "a=b; Path=x; HttpOnly", "a=b; HttpOnly; Path=/lab"),
            ("no path at all", based, "a=b; Path=", "a=b; Path=/lab/d"),
            ("a relative path", based, "a=b; Path=x", "a=b; Path=/lab/d"),
            ("no base", bare, "a=b; Path=/", "a=b; Path=/lab"),
            ("no base, below", bare, "a=b; Path=/x/", "a=b; Path=/lab/x/"),
            ("by host name", named, "a=b; Path=/v1/x", "a=b; Path=/x"),
            ("by host name, everything", named, "a=b; Path=/", "a=b; Path=/"),
            ("domain", based, "a=b; Domain=api.example; HttpOnly", "a=b; HttpOnly; Path=/lab/d"),
            ("domain and a dot", based, "a=b; domain=.example", "a=b; Path=/lab/d"),
            ("secure", based, "a=b; Secure; HttpOnly; Max-Age=3", "a=b; HttpOnly; Max-Age=3; Path=/lab/d"),
            ("good only if secure", based, "a=b; SameSite=None; Secure; Partitioned", "a=b; Path=/lab/d"),
            ("of this site", based, "a=b; SameSite=Lax; Secure", "a=b; SameSite=Lax; Path=/lab/d"),
            ("named so", based, "__Secure-a=b; Secure; Path=/v1", "__Secure-a=b; Secure; Path=/lab"),
            ("named so for a host", named, "__Host-a=b; Secure; Path=/", "__Host-a=b; Secure; Path=/"),
            ("an equals sign", based, "a=b=c==; Path=/v1", "a=b=c==; Path=/lab"),
            ("an unknown attribute", based, "a=b; Priority=High", "a=b; Priority=High; Path=/lab/d"),
        ];
        for (case, mapping, given, expected) in rows {
            assert_eq!(set_cookie(given, &mapping), expected, "{case}");
        }
    }
}
