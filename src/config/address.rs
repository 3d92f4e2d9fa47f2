//! Where things are: endpoints of authorization servers, upstreams, and what we listen on.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};

use super::problem::Complaint;
use super::punycode;
use super::value::path;

/// The longest path that fits into `sockaddr_un` with its closing zero byte.
const LONGEST_SOCKET_PATH: usize = 107;

/// An absolute `https` URL, or an `http` one on loopback, without user name, password or fragment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Endpoint {
    /// Scheme, host and port.
    pub origin: Origin,
    /// Path and query as written, beginning with `/`.
    pub path_and_query: String,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path_and_query)
    }
}

/// Scheme, host and port (RFC 6454).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Origin {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// A name in lower case or an IP address; IPv6 without brackets.
    pub host: String,
    /// The port, also where it is the scheme's own.
    pub port: u16,
}

impl Origin {
    /// What `Host` carries: the host, in brackets if it is IPv6, and the port unless it is the scheme's own.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == if self.tls { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

/// Where a route leads.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Upstream {
    /// Scheme, host and port: what is dialled, and what `Host` and SNI say.
    pub origin: Origin,
    /// Put before every request's path: empty, or beginning with `/` and not ending with it.
    pub base_path: String,
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.base_path)
    }
}

/// One address to accept connections on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum ListenAddress {
    /// A TCP address; on loopback, unless whoever comes in there needs a client key.
    Tcp(SocketAddr),
    /// The path of a unix socket, absolute.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => address.fmt(f),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What a client's `Host` may say (RFC 9110 section 7.2): a host, IPv6 in brackets, with a port or without.
pub(super) fn client_host(text: &str) -> Result<String, String> {
    let end = match text.strip_prefix('[') {
        Some(_) => text.find(']').map(|at| at + 1),
        None => text.find(':'),
    };
    let (name, port) = text.split_at(end.unwrap_or(text.len()));
    if !port.is_empty() && !port.starts_with(':') {
        return Err("has something behind the address".to_owned());
    }
    let name = host(name)?;
    let name = if name.contains(':') { format!("[{name}]") } else { name };
    let Some(digits) = port.strip_prefix(':') else { return Ok(name) };
    let port = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    match port.and_then(|digits| digits.parse::<u16>().ok()).filter(|port| *port > 0) {
        Some(port) => Ok(format!("{name}:{port}")),
        None => Err("has a bad port".to_owned()),
    }
}

/// A host as RFC 3986 section 3.2.2 and DNS have it: in lower case, IPv6 without brackets, a name without the root's dot,
/// which certificates do not have either.
pub(super) fn host(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(v6) = bare {
        return v6.parse::<Ipv6Addr>().map(|ip| ip.to_string()).map_err(|_| "has a bad IPv6 address".into());
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let good_label = |label: &str| {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(good)
    };
    if name.len() > 253 || !name.split('.').all(good_label) {
        return Err(international(text)
            .unwrap_or_else(|| "has a bad host name (RFC 1123); write an international one in its xn-- form".into()));
    }
    // `127.1`, `0x7f000001` and `2130706433` are IPv4 addresses to resolvers: only the plain form may mean one
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = last.chars().all(|c| c.is_ascii_digit()) || last.starts_with("0x");
    if numeric && name.parse::<Ipv4Addr>().is_err() {
        return Err("has a bad IPv4 address".into());
    }
    Ok(name)
}

/// What is said of an international host name: DNS, TLS and HTTP know its ASCII form alone. `None` for any other name.
fn international(host: &str) -> Option<String> {
    let form = match (host.is_ascii(), punycode::to_ascii(host)) {
        (true, _) => return None,
        (false, Some(form)) => format!("\"{form}\""),
        (false, None) => "its form with xn--, as the registry or a browser's address bar shows it".to_owned(),
    };
    Some(format!("has an international host name, which is written in ASCII (RFC 5891): {form}"))
}

/// Whether a host name, in lower case, is this machine by itself: `localhost` or a name below it (RFC 6761 section 6.3).
pub(crate) fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

impl Endpoint {
    /// Reads an absolute URL: `https`, or `http` on loopback; no user name, password or fragment.
    ///
    /// # Errors
    ///
    /// What is wrong, as the end of a sentence that starts with the key's name.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if !text.bytes().all(|byte| byte.is_ascii_graphic())
            || text.contains(['\\', '"', '<', '>', '^', '`', '{', '|', '}'])
        {
            let host =
                text.split_once("://").map(|(_, rest)| rest.split(['/', '?', '#', ':']).next().unwrap_or_default());
            return Err(host.and_then(international).unwrap_or_else(|| {
                "has a character that a URL cannot have (RFC 3986 section 2); percent-encode it".into()
            }));
        }
        let (scheme, rest) = text.split_once("://").ok_or("is not an absolute URL, as in https://api.example/v1")?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err("has a scheme other than https (or http on loopback)".into()),
        };
        if rest.contains('#') {
            return Err("has a fragment (the part after #), which is never sent".into());
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("carries a user name or password, which do not belong into a URL".into());
        }
        let port_at = authority.rfind(':').filter(|colon| !authority[*colon..].contains(']'));
        let (name, port) = match port_at {
            Some(colon) => (&authority[..colon], Some(&authority[colon + 1..])),
            None => (authority, None),
        };
        let host = host(name)?;
        let port = match port {
            None => {
                if tls {
                    443
                } else {
                    80
                }
            }
            Some(digits) => {
                digits.parse().ok().filter(|port| *port != 0 && !digits.starts_with('+')).ok_or("has a bad port")?
            }
        };
        let origin = Origin { tls, host, port };
        if !tls && !origin.is_loopback() {
            return Err(
                "is plain http, over which anyone on the way can read tokens; use https (http is for loopback only)"
                    .into(),
            );
        }
        if origin.is_metadata_service() {
            return Err(
                "is link-local, or the address of a cloud's metadata service, which hands out the machine's own \
                        credentials"
                    .into(),
            );
        }
        let path_and_query = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { origin, path_and_query })
    }

    /// The path without the query.
    pub(crate) fn path(&self) -> &str {
        self.path_and_query.split('?').next().unwrap_or_default()
    }
}

impl Origin {
    /// Returns whether it is on this machine by its name alone: a loopback address, `localhost` or a name below it
    /// (RFC 6761 section 6.3).
    pub(crate) fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => ip.to_canonical().is_loopback(),
            Err(_) => is_localhost(&self.host),
        }
    }

    /// Returns whether a connection to it would arrive at a listener on `address`.
    pub(crate) fn leads_to(&self, address: SocketAddr) -> bool {
        let same_host = match self.host.parse::<IpAddr>() {
            Ok(ip) if address.ip().is_unspecified() => ip.to_canonical().is_loopback() || ip.is_unspecified(),
            Ok(ip) => ip.to_canonical() == address.ip().to_canonical(),
            Err(_) => self.is_loopback() && (address.ip().is_loopback() || address.ip().is_unspecified()),
        };
        same_host && self.port == address.port()
    }

    /// Whether it is one by its name alone; what a name stands for is looked at when it is dialled.
    fn is_metadata_service(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => is_metadata_address(ip),
            Err(_) => self.host == "metadata.google.internal",
        }
    }
}

/// Whether an address is one of this machine or of a network of somebody's own, which the internet does not lead to: RFC 1918,
/// RFC 6598, RFC 4193, loopback, link-local and what else is for special purposes (RFC 6890). The IPv4 address inside an IPv6
/// one counts.
pub(crate) fn is_private_address(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [first, second, third, _] = ip.octets();
            ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || first == 0
                || first == 100 && second & 0xc0 == 64
                || [first, second, third] == [192, 0, 0]
                || first == 198 && second & 0xfe == 18
                || first >= 224
        }
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_unicast_link_local()
                || ip.is_unique_local()
                || ip.is_multicast()
                || inside(ip).is_some_and(|ip| is_private_address(ip.into()))
        }
    }
}

/// The IPv4 address inside an IPv6 one: as it was mapped once, by a translator (RFC 6052), or in 6to4 (RFC 3056).
fn inside(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let (high, low) = match ip.segments() {
        [0, 0, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => (high, low),
        [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)))
}

/// Whether an address is link-local, as those are where clouds put their metadata services, or one of the others that are
/// known: Amazon's IPv6 block, Alibaba's and Oracle's address. The IPv4 address inside an IPv6 one counts.
pub(crate) fn is_metadata_address(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local() || [[100, 100, 100, 200], [192, 0, 0, 192]].contains(&ip.octets()),
        IpAddr::V6(ip) => {
            ip.is_unicast_link_local()
                || ip.segments()[..2] == [0xfd00, 0x0ec2]
                || inside(ip).is_some_and(|ip| is_metadata_address(ip.into()))
        }
    }
}

impl Upstream {
    /// Reads an upstream: an [`Endpoint`] whose path is put before every request's path.
    ///
    /// # Errors
    ///
    /// What is wrong, as the end of a sentence that starts with the key's name.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let endpoint = Endpoint::parse(text)?;
        if endpoint.path_and_query.contains('?') {
            return Err("has a query, which cannot be put before a request's path".into());
        }
        if has_dot_segment(&endpoint.path_and_query) {
            return Err("has a dot segment in its path".into());
        }
        let base_path = endpoint.path_and_query.trim_end_matches('/').to_owned();
        Ok(Self { origin: endpoint.origin, base_path })
    }
}

/// Whether a path has a segment `.` or `..`, also percent-encoded (RFC 3986 section 5.2.4).
fn has_dot_segment(path: &str) -> bool {
    path.split('/').any(|segment| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | ".."))
}

/// A path of an upstream that is refused with everything below it; without the `/` at its end.
pub(super) fn refused_path(text: &str) -> Result<String, Complaint> {
    if !text.starts_with('/')
        || !text.bytes().all(|byte| byte.is_ascii_graphic())
        || text.contains(['?', '#'])
        || has_dot_segment(text)
    {
        return Err(Complaint::new("is not a path", "write it as in \"/oauth/token\", without query"));
    }
    match text.trim_end_matches('/') {
        "" => Err("refuses everything".into()),
        path => Ok(path.to_owned()),
    }
}

/// An address to listen on: `127.0.0.1:8253`, `[::1]:8253` or `unix:/path`.
pub(super) fn listen_address(text: &str, folder: &Path, home: &Path) -> Result<ListenAddress, Complaint> {
    if let Some(socket) = text.strip_prefix("unix:") {
        let path = path(socket, folder, home);
        if socket.is_empty() || path.components().any(|part| part == Component::ParentDir) {
            return Err(Complaint::new(
                "is not the path of a socket",
                "write it as in \"unix:/run/user/1000/valetd.http\"",
            ));
        }
        if path.as_os_str().len() > LONGEST_SOCKET_PATH {
            return Err(
                format!("is longer than the {LONGEST_SOCKET_PATH} bytes that a unix socket's path may have").into()
            );
        }
        return Ok(ListenAddress::Unix(path));
    }
    let Ok(address) = text.parse::<SocketAddr>() else {
        let example = match text.strip_prefix("localhost:") {
            Some(port) if port.parse::<u16>().is_ok() => format!("write \"127.0.0.1:{port}\" and \"[::1]:{port}\""),
            _ => "write it as in \"127.0.0.1:8253\", \"[::1]:8253\" or \"unix:/path\"".into(),
        };
        return Err(Complaint::new("is not an address", example));
    };
    Ok(ListenAddress::Tcp(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_of_clients_may_name_a_port() {
        for (text, expected) in [
            ("valet.lan", Some("valet.lan")),
            ("Valet.LAN:9000", Some("valet.lan:9000")),
            ("192.168.1.5:80", Some("192.168.1.5:80")),
            ("[FD00::1]", Some("[fd00::1]")),
            ("[fd00::1]:9000", Some("[fd00::1]:9000")),
            ("valet.lan:", None),
            ("valet.lan:0", None),
            ("valet.lan:65536", None),
            ("valet.lan:+1", None),
            ("valet.lan:1:2", None),
            ("valet.lan:1/x", None),
            ("fd00::1", None),
            ("[fd00::1]9000", None),
            ("[fd00::1", None),
            (":9000", None),
            ("a b:9000", None),
        ] {
            assert_eq!(client_host(text).ok().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn endpoints_are_https_or_on_loopback() {
        let rows = [
            ("https://API.example", Some("https://api.example/")),
            ("https://api.example:443/v1?x=1", Some("https://api.example/v1?x=1")),
            ("https://api.example:8443?x", Some("https://api.example:8443/?x")),
            ("http://localhost:1", Some("http://localhost:1/")),
            ("http://api.localhost", Some("http://api.localhost/")),
            ("http://[0:0::1]:80/a", Some("http://[::1]/a")),
            ("https://192.0.2.7/", Some("https://192.0.2.7/")),
            ("https://api.example.", Some("https://api.example/")),
            ("https://api.example.:8443/x.", Some("https://api.example:8443/x.")),
            ("http://localhost.:1", Some("http://localhost:1/")),
            ("https://metadata.google.internal./", None),
            ("https://api.example../", None),
            ("https://./", None),
            ("http://api.example", None),
            ("http://localhost.example", None),
            ("ftp://localhost", None),
            ("api.example", None),
            ("https://me:pw@api.example", None),
            ("https://api.example/#top", None),
            ("https://api.example:0", None),
            ("https://api.example:99999", None),
            ("https://api.example:", None),
            ("https://api.example:+1", None),
            ("https://", None),
            ("https://a b", None),
            ("https://a\\b", None),
            ("https://ä.example", None),
            ("https://api..example", None),
            ("https://[::1", None),
            ("https://127.1/", None),
            ("https://0x7f000001/", None),
            ("https://169.254.169.254/latest", None),
            ("http://169.254.169.254/latest", None),
            ("https://[fd00:ec2::254]/", None),
            ("https://[::ffff:169.254.169.254]/", None),
            ("https://[fe80::1]/", None),
            ("https://[64:ff9b::a9fe:a9fe]/", None),
            ("https://[2002:a9fe:a9fe::]/", None),
            ("https://100.100.100.200/", None),
            ("https://metadata.google.internal/", None),
        ];
        for (text, expected) in rows {
            let parsed = Endpoint::parse(text).map(|endpoint| endpoint.to_string());
            assert_eq!(parsed.as_deref().ok(), expected, "{text:?}: {parsed:?}");
        }
    }

    #[test]
    fn an_upstreams_path_is_a_prefix() {
        let rows = [
            ("https://api.example/", Some("https://api.example")),
            ("https://api.example/v1/", Some("https://api.example/v1")),
            ("https://api.example/v1?x", None),
            ("https://api.example/a/%2E./b", None),
        ];
        for (text, expected) in rows {
            assert_eq!(
                Upstream::parse(text).map(|upstream| upstream.to_string()).as_deref().ok(),
                expected,
                "{text:?}"
            );
        }
    }

    #[test]
    fn an_origin_knows_the_listener_that_it_leads_to() {
        let listener: SocketAddr = "127.0.0.1:8253".parse().unwrap();
        let rows = [
            ("http://127.0.0.1:8253", true),
            ("http://localhost:8253", true),
            ("https://gdh.localhost:8253", true),
            ("http://127.0.0.1:8254", false),
            ("http://[::1]:8253", false),
            ("https://api.example:8253", false),
        ];
        for (text, expected) in rows {
            assert_eq!(Endpoint::parse(text).unwrap().origin.leads_to(listener), expected, "{text}");
        }
    }

    #[test]
    fn addresses_are_on_loopback_or_a_path() {
        let read = |text: &str| {
            listen_address(text, Path::new("/etc/v"), Path::new("/home/me")).map(|address| address.to_string())
        };
        assert_eq!(read("127.0.0.1:0").unwrap(), "127.0.0.1:0");
        assert_eq!(read("[::1]:8253").unwrap(), "[::1]:8253");
        assert_eq!(read("unix:/run/v.sock").unwrap(), "unix:/run/v.sock");
        assert_eq!(read("unix:~/v.sock").unwrap(), "unix:/home/me/v.sock");
        assert_eq!(read("unix:v.sock").unwrap(), "unix:/etc/v/v.sock");
        for bad in ["localhost:80", "8253", "unix:", "127.0.0.1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read(&format!("unix:/{}", "x".repeat(107))).is_err());
    }

    #[test]
    fn what_the_internet_does_not_lead_to_is_private_in_every_form() {
        let private = [
            "0.0.0.0",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.1.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::ffff:192.168.1.1",
            "::10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::c0a8:1",
            "2002:a00:1::",
            "2002:7f00:1::1",
        ];
        let public = [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:4860::1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:101:101::",
            "fbff::1",
            "fec0::1",
        ];
        for (addresses, expected) in [(&private[..], true), (&public[..], false)] {
            for address in addresses {
                assert_eq!(is_private_address(address.parse().unwrap()), expected, "{address}");
            }
        }
    }
}
