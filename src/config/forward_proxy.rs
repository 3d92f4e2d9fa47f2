//! Proxies on the way out: which one leads to an origin, by the environment's words or by an account's own.
//!
//! The environment's variables are read as curl reads them: lower case before upper case, an empty one counts as not set,
//! `ALL_PROXY` where `HTTPS_PROXY` says nothing. `HTTP_PROXY` has no part in it: plain http is spoken on this machine
//! alone, and what is on this machine is never asked of a proxy.

use std::fmt;
use std::net::IpAddr;

use percent_encoding::percent_decode_str;

use super::Origin;
use crate::secret::Secret;

/// A proxy that carries bytes to a server: asked by CONNECT (RFC 9110 section 9.3.6) or in SOCKS 5 (RFC 1928). Prints
/// without its user name and password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ForwardProxy {
    /// How it is asked.
    pub protocol: ProxyProtocol,
    /// A name in lower case or an IP address; IPv6 without brackets.
    pub host: String,
    /// The port, also where it is the scheme's own.
    pub port: u16,
    /// What it may want to know.
    pub login: Option<ProxyLogin>,
}

/// How a proxy is asked for a way through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ProxyProtocol {
    /// CONNECT, in the clear.
    Http,
    /// CONNECT, over TLS.
    Https,
    /// SOCKS 5, with an address that was looked up here.
    Socks5,
    /// SOCKS 5, with a name that the proxy looks up.
    Socks5h,
}

impl ProxyProtocol {
    const ALL: [(&'static str, Self, u16); 4] = [
        ("http", Self::Http, 80),
        ("https", Self::Https, 443),
        ("socks5", Self::Socks5, 1080),
        ("socks5h", Self::Socks5h, 1080),
    ];

    fn scheme(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Socks5 => "socks5",
            Self::Socks5h => "socks5h",
        }
    }
}

/// A user name and a password for a proxy. Shows neither.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ProxyLogin {
    /// The user name: where a token stands for both, it is the secret.
    pub username: Secret,
    /// The password; may be empty.
    pub password: Secret,
}

impl ForwardProxy {
    /// Reads `[SCHEME://][USER[:PASSWORD]@]HOST[:PORT]`; user name and password are percent-decoded, and `http` is meant
    /// where no scheme is.
    ///
    /// # Errors
    ///
    /// The end of a sentence, without anything of what was given but its scheme.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "socks" => "socks5".to_owned(), // as desktops write it
            other => other.to_owned(),
        };
        let Some((_, protocol, default_port)) = ProxyProtocol::ALL.into_iter().find(|(name, ..)| *name == scheme)
        else {
            let is_word = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
            let named = if is_word { format!(" {scheme}") } else { String::new() };
            return Err(format!("has a scheme{named} that is not supported: use http, https, socks5 or socks5h"));
        };
        let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (login, authority) = match rest.rsplit_once('@') {
            Some((login, authority)) => (Some(login), authority),
            None => (None, rest),
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let port = match port {
            None | Some("") => default_port,
            Some(digits) => digits.parse().ok().filter(|port| *port != 0).ok_or("has a port that is none")?,
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bare {
            Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => address.to_ascii_lowercase(),
            None if !host.is_empty() && host.bytes().all(is_of_a_name) => host.to_ascii_lowercase(),
            _ => return Err("names no host".to_owned()),
        };
        let login = login.map(|login| {
            let (username, password) = login.split_once(':').unwrap_or((login, ""));
            Ok::<_, String>(ProxyLogin { username: decoded(username)?, password: decoded(password)? })
        });
        Ok(Self { protocol, host, port, login: login.transpose()? })
    }

    /// "proxy.example:3128", the port always there.
    pub(crate) fn host_and_port(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

fn decoded(text: &str) -> Result<Secret, String> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| "has a user name or password that is no text")?;
    // RFC 1929 has one byte for their length, and no field may hold a line's end
    if text.len() > 255 || text.bytes().any(|byte| byte.is_ascii_control()) {
        return Err("has a user name or password that no proxy takes".to_owned());
    }
    Ok(Secret::new(text.into_owned()))
}

impl fmt::Display for ForwardProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.protocol.scheme(), self.host_and_port())
    }
}

impl fmt::Debug for ForwardProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}{}", if self.login.is_some() { " with [secret]" } else { "" })
    }
}

/// What an account says of proxies.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) enum ProxyChoice {
    /// Nothing: the environment decides.
    #[default]
    Environment,
    /// None, whatever the environment says.
    Direct,
    /// This one, whatever the environment says, `NO_PROXY` included.
    Proxy(ForwardProxy),
}

impl ProxyChoice {
    /// Reads `direct`, or a proxy's URL.
    ///
    /// # Errors
    ///
    /// [`ForwardProxy::parse`]
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text.trim() {
            "direct" | "none" => Ok(Self::Direct),
            text => ForwardProxy::parse(text).map(Self::Proxy),
        }
    }
}

/// The way to an origin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// Straight to its address.
    Direct,
    /// The same, where its name stands for no private address.
    Public,
    /// Through a proxy.
    Through(ForwardProxy),
    /// The same, where a name that is looked up here stands for no private address.
    PublicThrough(ForwardProxy),
    /// There is a word for a proxy, and it is none: going past it might be forbidden.
    Misnamed {
        /// Where it stands.
        variable: &'static str,
        /// What is wrong with it, as the end of a sentence.
        problem: String,
    },
}

impl Way {
    /// The way for an account that says whether names may stand for private addresses. What a proxy looks up is its affair, and
    /// what is on this machine by its name alone was meant.
    #[must_use]
    pub(crate) fn guarded(self, may_lead: bool, origin: &Origin) -> Self {
        match self {
            Way::Direct if !may_lead && !origin.is_loopback() => Way::Public,
            Way::Through(proxy) if !may_lead && !origin.is_loopback() => Way::PublicThrough(proxy),
            way => way,
        }
    }
}

/// The proxies of the environment. Shows no password.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Proxies {
    https: Option<Way>,
    http: Option<Way>,
    all: Option<Way>,
    no: NoProxy,
}

impl Proxies {
    /// Reads the environment's variables.
    pub(crate) fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let either = |name: &str| set(&name.to_ascii_lowercase()).or_else(|| set(name));
        let way = |name: &'static str| {
            either(name).map(|text| match ForwardProxy::parse(&text) {
                Ok(proxy) => Way::Through(proxy),
                Err(problem) => Way::Misnamed { variable: name, problem },
            })
        };
        Self {
            https: way("HTTPS_PROXY"),
            http: way("HTTP_PROXY"),
            all: way("ALL_PROXY"),
            no: NoProxy::parse(&either("NO_PROXY").unwrap_or_default()),
        }
    }

    /// The way of a request in plain http to `origin` that is nobody's but a command's own.
    pub(crate) fn plain_way(&self, origin: &Origin) -> Way {
        match origin.is_loopback() || self.no.covers(origin) {
            true => Way::Direct,
            false => self.http.as_ref().or(self.all.as_ref()).cloned().unwrap_or(Way::Direct),
        }
    }

    /// The way to `origin` for an account that says `choice`. On this machine, and in plain http, there is no proxy.
    pub(crate) fn way(&self, choice: &ProxyChoice, origin: &Origin) -> Way {
        if !origin.tls || origin.is_loopback() {
            return Way::Direct;
        }
        match choice {
            ProxyChoice::Direct => Way::Direct,
            ProxyChoice::Proxy(proxy) => Way::Through(proxy.clone()),
            ProxyChoice::Environment if self.no.covers(origin) => Way::Direct,
            ProxyChoice::Environment => self.https.as_ref().or(self.all.as_ref()).cloned().unwrap_or(Way::Direct),
        }
    }
}

/// `NO_PROXY`: what is reached directly. Entries stand between commas or blanks: `*`; a name, which stands for what is
/// below it, too, with or without a dot or `*.` before it; an address; a network (`10.0.0.0/8`); each of them with a port
/// behind it, if only that is meant.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct NoProxy(Vec<Exception>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Exception {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Hosts {
    All,
    /// In lower case, without a dot at either end.
    Below(String),
    Network {
        address: IpAddr,
        bits: u8,
    },
}

impl NoProxy {
    fn parse(list: &str) -> Self {
        Self(list.split(|c: char| c == ',' || c.is_whitespace()).filter_map(Exception::parse).collect())
    }

    fn covers(&self, origin: &Origin) -> bool {
        self.0.iter().any(|exception| exception.covers(origin))
    }
}

impl Exception {
    /// `None` for what can be no entry, as other programs have it.
    fn parse(entry: &str) -> Option<Self> {
        let (host, port) = match entry.rsplit_once(':') {
            // one colon: a port; more than one without brackets: an IPv6 address or network
            Some((host, digits)) if !host.contains(':') || host.ends_with(']') => (host, Some(digits.parse().ok()?)),
            _ => (entry, None),
        };
        let host = host.to_ascii_lowercase();
        let (address, prefix) = match host.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (host.as_str(), None),
        };
        let hosts = match (address.trim_matches(['[', ']']).parse::<IpAddr>(), prefix) {
            (Ok(address), prefix) => {
                let longest = if address.is_ipv4() { 32 } else { 128 };
                let bits = prefix.map_or(Some(longest), |bits| bits.parse().ok().filter(|bits| *bits <= longest))?;
                Hosts::Network { address, bits }
            }
            (Err(_), Some(_)) => return None,
            (Err(_), None) if host == "*" => Hosts::All,
            (Err(_), None) => {
                let name = host.strip_prefix('*').unwrap_or(&host).trim_matches('.');
                Hosts::Below((!name.is_empty()).then(|| name.to_owned())?)
            }
        };
        Some(Self { hosts, port })
    }

    fn covers(&self, origin: &Origin) -> bool {
        if self.port.is_some_and(|port| port != origin.port) {
            return false;
        }
        match &self.hosts {
            Hosts::All => true,
            Hosts::Below(name) => {
                let host = origin.host.trim_end_matches('.');
                host.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            Hosts::Network { address, bits } => {
                origin.host.parse::<IpAddr>().is_ok_and(|host| is_within(host.to_canonical(), *address, *bits))
            }
        }
    }
}

fn is_within(host: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (host, network, width) = match (host, network) {
        (IpAddr::V4(host), IpAddr::V4(network)) => (u32::from(host).into(), u32::from(network).into(), 32),
        (IpAddr::V6(host), IpAddr::V6(network)) => (u128::from(host), u128::from(network), 128),
        _ => return false,
    };
    bits == 0 || host >> (width - bits) == network >> (width - bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(host: &str, port: u16) -> Origin {
        Origin { tls: true, host: host.to_owned(), port }
    }

    fn among(set: &[(&str, &str)]) -> Proxies {
        Proxies::read(|name| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_proxy_is_read_from_its_url() {
        let rows = [
            ("http://proxy.example:3128", Ok(("http://proxy.example:3128", None))),
            ("proxy.example:3128", Ok(("http://proxy.example:3128", None))),
            ("Proxy.Example", Ok(("http://proxy.example:80", None))),
            ("https://proxy.example/", Ok(("https://proxy.example:443", None))),
            ("HTTPS://me:p%40w@proxy.example:8443", Ok(("https://proxy.example:8443", Some(("me", "p@w"))))),
            ("http://me@proxy.example", Ok(("http://proxy.example:80", Some(("me", ""))))),
            ("http://me:p@w@proxy.example", Ok(("http://proxy.example:80", Some(("me", "p@w"))))),
            ("socks5://10.0.0.1", Ok(("socks5://10.0.0.1:1080", None))),
            ("socks5h://[FD00::1]:1081", Ok(("socks5h://[fd00::1]:1081", None))),
            ("socks://proxy.example", Ok(("socks5://proxy.example:1080", None))),
            (
                "socks4://proxy.example",
                Err("has a scheme socks4 that is not supported: use http, https, socks5 or socks5h"),
            ),
            ("ftp://proxy.example", Err("has a scheme ftp that is not")),
            ("my:secret://x", Err("has a scheme that is not")),
            ("http://", Err("names no host")),
            ("http://me:secret@", Err("names no host")),
            ("http://pro xy", Err("names no host")),
            ("http://fd00::1", Err("names no host")),
            ("http://[secret]", Err("names no host")),
            ("http://proxy.example:x", Err("has a port that is none")),
            ("http://proxy.example:0", Err("has a port that is none")),
            ("http://me:%ff@proxy.example", Err("that is no text")),
            ("http://me:%0d%0aX@proxy.example", Err("that no proxy takes")),
        ];
        for (text, expected) in rows {
            match (ForwardProxy::parse(text), expected) {
                (Ok(proxy), Ok((shown, login))) => {
                    assert_eq!(proxy.to_string(), shown, "{text}");
                    let found = proxy.login.as_ref().map(|login| (login.username.expose(), login.password.expose()));
                    assert_eq!(found, login, "{text}");
                    let debugged = format!("{proxy:?}");
                    assert!(!debugged.contains("p@w") && !debugged.contains("me"), "{debugged}");
                }
                (Err(problem), Err(part)) => {
                    assert!(problem.contains(part) && !problem.contains("secret"), "{text}: {problem}");
                }
                (other, _) => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_environment_is_read_as_curl_reads_it() {
        type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], Option<&'a str>);
        let rows: [Row<'_>; 9] = [
            ("nothing", &[], None),
            ("upper case", &[("HTTPS_PROXY", "a:1")], Some("http://a:1")),
            ("lower case before upper case", &[("HTTPS_PROXY", "a:1"), ("https_proxy", "b:1")], Some("http://b:1")),
            ("an empty one is not set", &[("HTTPS_PROXY", "a:1"), ("https_proxy", "")], Some("http://a:1")),
            ("for all", &[("all_proxy", "socks5h://a")], Some("socks5h://a:1080")),
            ("its own before the one for all", &[("ALL_PROXY", "a:1"), ("HTTPS_PROXY", "b:1")], Some("http://b:1")),
            ("that for http is for http", &[("http_proxy", "a:1"), ("HTTP_PROXY", "a:1")], None),
            ("lower case of NO_PROXY", &[("ALL_PROXY", "a:1"), ("NO_PROXY", ""), ("no_proxy", "x.example")], None),
            ("upper case of NO_PROXY", &[("ALL_PROXY", "a:1"), ("NO_PROXY", "x.example")], None),
        ];
        for (name, set, expected) in rows {
            let way = among(set).way(&ProxyChoice::Environment, &origin("x.example", 443));
            let found = match &way {
                Way::Through(proxy) | Way::PublicThrough(proxy) => Some(proxy.to_string()),
                Way::Direct | Way::Public => None,
                Way::Misnamed { .. } => panic!("{name}: {way:?}"),
            };
            assert_eq!(found.as_deref(), expected, "{name}");
        }
        let misnamed = among(&[("https_proxy", "gopher://me:pw@a"), ("ALL_PROXY", "b:1")]);
        let way = misnamed.way(&ProxyChoice::Environment, &origin("x.example", 443));
        assert!(matches!(&way, Way::Misnamed { variable: "HTTPS_PROXY", .. }), "{way:?}");
        assert!(!format!("{way:?}").contains("pw"), "{way:?}");
    }

    #[test]
    fn an_accounts_own_word_comes_before_the_environments_and_this_machine_before_both() {
        let proxies = among(&[("HTTPS_PROXY", "env:1"), ("NO_PROXY", "inside.example")]);
        let own = ProxyChoice::parse("socks5://own").unwrap();
        let direct = ProxyChoice::parse("direct").unwrap();
        assert_eq!(ProxyChoice::parse("none").unwrap(), direct);
        let rows = [
            (&ProxyChoice::Environment, "x.example", Some("http://env:1")),
            (&ProxyChoice::Environment, "inside.example", None),
            (&direct, "x.example", None),
            (&own, "x.example", Some("socks5://own:1080")),
            (&own, "inside.example", Some("socks5://own:1080")),
            (&own, "localhost", None),
            (&own, "idp.localhost", None),
            (&own, "127.0.0.2", None),
            (&own, "::1", None),
            (&own, "::ffff:127.0.0.1", None),
            (&ProxyChoice::Environment, "127.0.0.1", None),
        ];
        for (choice, host, expected) in rows {
            let found = match proxies.way(choice, &origin(host, 443)) {
                Way::Through(proxy) | Way::PublicThrough(proxy) => Some(proxy.to_string()),
                Way::Direct | Way::Public | Way::Misnamed { .. } => None,
            };
            assert_eq!(found.as_deref(), expected, "{choice:?} {host}");
        }
        let plain = Origin { tls: false, ..origin("localhost", 80) };
        assert_eq!(proxies.way(&own, &plain), Way::Direct);
    }

    #[test]
    fn no_proxy_is_understood_in_the_spellings_that_people_use() {
        let table = [
            ("a name", "corp.example", "a.corp.example", 443, false),
            ("itself", "corp.example", "corp.example", 443, false),
            ("not its namesake", "corp.example", "xcorp.example", 443, true),
            ("with a dot", ".corp.example", "a.corp.example", 443, false),
            ("with a dot, itself", ".corp.example", "corp.example", 443, false),
            ("with a dot, not its namesake", ".corp.example", "xcorp.example", 443, true),
            ("with a star", "*.corp.example", "a.corp.example", 443, false),
            ("with a dot at the end", "corp.example.", "a.corp.example", 443, false),
            ("with capitals", "Corp.Example", "a.corp.example", 443, false),
            ("everything", "*", "a.example", 443, false),
            ("everything, an address", "*", "192.0.2.1", 443, false),
            ("everything among others", "x.example,*", "a.example", 443, false),
            ("everything, on a port", "*:8443", "a.example", 443, true),
            ("with the port", "a.example:8443", "a.example", 8443, false),
            ("with another port", "a.example:8443", "a.example", 443, true),
            ("with no port", "a.example:x", "a.example", 443, true),
            ("an address", "10.1.2.3", "10.1.2.3", 443, false),
            ("another address", "10.1.2.3", "10.1.2.30", 443, true),
            ("a network", "10.0.0.0/8, fd00::/8", "10.1.2.3", 443, false),
            ("another network", "10.0.0.0/8, fd00::/8", "11.1.2.3", 443, true),
            ("a network by an address in it", "10.9.9.9/8", "10.1.2.3", 443, false),
            ("an odd network", "10.0.0.0/9", "10.128.0.1", 443, true),
            ("all networks", "0.0.0.0/0", "10.128.0.1", 443, false),
            ("all networks of the other family", "::/0", "10.128.0.1", 443, true),
            ("a network too long", "10.0.0.0/33", "10.0.0.0", 443, true),
            ("a network with a port", "10.0.0.0/8:8443", "10.1.2.3", 443, true),
            ("an IPv6 network", "10.0.0.0/8, fd00::/8", "fd00::1", 443, false),
            ("an IPv6 address", "fd00::1", "fd00::1", 443, false),
            ("an IPv6 address with a port", "[fd00::1]:443", "fd00::1", 443, false),
            ("an IPv6 address with another port", "[fd00::1]:8443", "fd00::1", 443, true),
            ("an address in IPv6 clothes", "10.0.0.0/8", "::ffff:10.1.2.3", 443, false),
            ("blanks between", "x.example a.example", "a.example", 443, false),
            ("commas and blanks", " x.example ,, a.example ", "a.example", 443, false),
            ("nothing but dots", ". ,*.,", "a.example", 443, true),
            ("loopback, whatever is said", "", "127.0.0.2", 443, false),
            ("localhost, whatever is said", "", "idp.localhost", 443, false),
            ("nothing said", "", "a.example", 443, true),
        ];
        for (name, list, host, port, proxied) in table {
            let proxies = among(&[("ALL_PROXY", "http://proxy.example:3128"), ("no_proxy", list)]);
            let way = proxies.way(&ProxyChoice::Environment, &origin(host, port));
            assert_eq!(way != Way::Direct, proxied, "{name}");
        }
    }
}
