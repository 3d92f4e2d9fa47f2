//! References to other addresses (RFC 3986 section 4.1) as every client reads them. Pure.
//!
//! Browsers follow the URL Standard, most tools RFC 3986, and they part where a reference is malformed: the one drops
//! tabs, takes `\` for `/`, `http:x` for a host and `%2e` for a dot, the other does not. What two of them could take
//! for different addresses is no reference here, with one exception: dot segments, however written, are resolved, and
//! what comes of that is the same for all.

use crate::config::Origin;

/// A reference, cut into its parts. `tail` is the query and the fragment, with their `?` and `#`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reference<'a> {
    /// `mailto:x`: a scheme that HTTP clients do not follow to a server.
    Foreign { scheme: &'a str, rest: &'a str },
    /// `http://h/x`, or `//h/x` without scheme; the path is empty or begins with `/`.
    Absolute { scheme: Option<&'a str>, authority: Authority<'a>, path: &'a str, tail: &'a str },
    /// `/x`
    Path { path: &'a str, tail: &'a str },
    /// `x`, `../x`, `?q` or nothing at all.
    Relative { path: &'a str, tail: &'a str },
}

/// Which server a reference names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Authority<'a> {
    pub(crate) has_userinfo: bool,
    /// A name or an address as it was written; IPv6 in brackets.
    pub(crate) host: &'a str,
    pub(crate) port: Option<u16>,
}

impl<'a> Reference<'a> {
    /// Reads a reference; `None` if clients could read it in different ways, or not at all.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let text = text.trim_matches([' ', '\t']);
        if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            return None;
        }
        let (front, tail) = text.split_at(text.find(['?', '#']).unwrap_or(text.len()));
        if front.contains('\\') {
            return None;
        }
        let first_segment = front.split('/').next().unwrap_or_default();
        if let Some((scheme, _)) = first_segment.split_once(':') {
            let rest = &front[scheme.len() + 1..];
            if !scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
            {
                return None;
            }
            if !["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
                // who does not know the scheme may take it for a segment
                return (!has_dot_segments(rest)).then_some(Self::Foreign { scheme, rest });
            }
            return Self::absolute(Some(scheme), rest.strip_prefix("//")?, tail);
        }
        match front.strip_prefix("//") {
            Some(rest) => Self::absolute(None, rest, tail),
            None if front.starts_with('/') => Some(Self::Path { path: front, tail }),
            None => Some(Self::Relative { path: front, tail }),
        }
    }

    fn absolute(scheme: Option<&'a str>, rest: &'a str, tail: &'a str) -> Option<Self> {
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        Some(Self::Absolute { scheme, authority: Authority::parse(authority)?, path, tail })
    }
}

impl<'a> Authority<'a> {
    /// Reads `user@host:port`. Only plain names are hosts: browsers decode `%6c` and wide letters, others do not.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (userinfo, host_and_port) = match text.rsplit_once('@') {
            Some((userinfo, rest)) => (Some(userinfo), rest),
            None => (None, text),
        };
        if userinfo.is_some_and(|userinfo| !userinfo.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'@')) {
            return None;
        }
        let end = match host_and_port.strip_prefix('[') {
            Some(rest) => rest.find(']')? + 2,
            None => host_and_port.find(':').unwrap_or(host_and_port.len()),
        };
        let (host, port) = host_and_port.split_at(end);
        let is_good = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            Some("") => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
            None | Some(_) => return None,
        };
        is_good.then_some(Self { has_userinfo: userinfo.is_some(), host, port })
    }
}

/// A relative path, put behind the last `/` of the path that it is relative to (RFC 3986 section 5.2.3).
pub(crate) fn merged(base: &str, path: &str) -> String {
    let folder = base.rfind('/').map_or("/", |end| &base[..=end]);
    format!("{folder}{path}")
}

/// Whether a segment is `.` or `..`, also where the dots are encoded.
pub(crate) fn has_dot_segments(path: &str) -> bool {
    path.split('/').any(|segment| dots(segment) > 0)
}

/// A path, which begins with `/`, without its dot segments (RFC 3986 section 5.2.4).
pub(crate) fn without_dot_segments(path: &str) -> String {
    let mut kept = Vec::new();
    let mut is_folder = false;
    for segment in path.split('/').skip(1) {
        is_folder = true;
        match dots(segment) {
            0 => {
                kept.push(segment);
                is_folder = false;
            }
            1 => {}
            _ => drop(kept.pop()),
        }
    }
    if is_folder {
        kept.push("");
    }
    format!("/{}", kept.join("/"))
}

/// How many dots a segment is, if it is a dot segment; else 0.
fn dots(segment: &str) -> usize {
    let mut rest = segment;
    let mut dots = 0;
    while !rest.is_empty() {
        rest = match rest.strip_prefix('.') {
            Some(rest) => rest,
            None if rest.get(..3).is_some_and(|byte| byte.eq_ignore_ascii_case("%2e")) => &rest[3..],
            None => return 0,
        };
        dots += 1;
        if dots > 2 {
            return 0;
        }
    }
    dots
}

/// Whether a reference names the upstream's own server, and nobody who signs in there. Plain `http` there means the same
/// where we speak TLS: who followed it would ask in the clear, and without a token.
pub(crate) fn is_of(scheme: &str, authority: Authority<'_>, origin: &Origin) -> bool {
    let host = authority.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(authority.host);
    let host = host.strip_suffix('.').unwrap_or(host); // the root's, which is left out nearly always (RFC 1034 section 3.1)
    let port = authority.port.unwrap_or(if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 });
    let is_plain = scheme.eq_ignore_ascii_case("http");
    let is_there = if origin.tls && is_plain {
        port == origin.port || (port == 80 && origin.port == 443)
    } else {
        port == origin.port && (is_plain || scheme.eq_ignore_ascii_case("https") && origin.tls)
    };
    !authority.has_userinfo && host.eq_ignore_ascii_case(&origin.host) && is_there
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_read_differently_is_no_reference() {
        let none = [
            "..\t/x",
            "a\rb",
            "\u{7f}",
            "..\\two",
            "/\\evil.example",
            "\\\\evil.example",
            "http:x",
            "http:/h/x",
            "http:///h/x",
            "HTTPS:\\\\h",
            "///two/x",
            "//",
            "http://",
            "http://@",
            "http://a@b@c/x",
            "http://%6cocalhost/x",
            "http://ｌocalhost/x",
            "http://local host/x",
            "http://[::1/x",
            "http://[::1%25lo]/x",
            "http://[localhost]/x",
            "http://h:x/",
            "http://h:99999/",
            "http://h:+1/",
            "x:../two",
            "x:/%2E%2e/two",
            "1x:y",
            ":x",
            "127.0.0.1:8253/x",
        ];
        for text in none {
            assert_eq!(Reference::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_reference_is_cut_where_the_rfc_cuts_it() {
        let authority = |host, port| Authority { has_userinfo: false, host, port };
        let absolute = |scheme, host, port, path, tail| {
            Some(Reference::Absolute { scheme, authority: authority(host, port), path, tail })
        };
        let rows = [
            ("http://h", absolute(Some("http"), "h", None, "", "")),
            ("hTTps://h:08/x/../y?a\\b#c:d", absolute(Some("hTTps"), "h", Some(8), "/x/../y", "?a\\b#c:d")),
            ("//h:/x", absolute(None, "h", None, "/x", "")),
            ("ws://[::1]:1?q", absolute(Some("ws"), "[::1]", Some(1), "", "?q")),
            ("mailto:a@b", Some(Reference::Foreign { scheme: "mailto", rest: "a@b" })),
            ("/x y/é?z", Some(Reference::Path { path: "/x y/é", tail: "?z" })),
            (" x/a:b\t", Some(Reference::Relative { path: "x/a:b", tail: "" })),
            ("?a:b", Some(Reference::Relative { path: "", tail: "?a:b" })),
            ("", Some(Reference::Relative { path: "", tail: "" })),
        ];
        for (text, expected) in rows {
            assert_eq!(Reference::parse(text), expected, "{text:?}");
        }
        let with_user = Authority::parse("vk:x@h:1").unwrap();
        assert!(with_user.has_userinfo && with_user.host == "h" && with_user.port == Some(1));
    }

    #[test]
    fn dot_segments_are_resolved_in_any_spelling() {
        // RFC 3986 section 5.4, whose base is http://a/b/c/d;p?q
        let rows = [
            ("g", "/b/c/g"),
            ("./g", "/b/c/g"),
            ("g/", "/b/c/g/"),
            (";x", "/b/c/;x"),
            (".", "/b/c/"),
            ("./", "/b/c/"),
            ("..", "/b/"),
            ("../", "/b/"),
            ("../g", "/b/g"),
            ("../..", "/"),
            ("../../../g", "/g"),
            ("g.", "/b/c/g."),
            ("..g", "/b/c/..g"),
            ("./../g", "/b/g"),
            ("./g/.", "/b/c/g/"),
            ("g/../h", "/b/c/h"),
            ("g;x=1/../y", "/b/c/y"),
            ("%2e%2E/g", "/b/g"),
            (".%2e/%2e/g", "/b/g"),
            ("a//../g", "/b/c/a/g"),
            ("...", "/b/c/..."),
            ("%252e%252e/g", "/b/c/%252e%252e/g"),
        ];
        for (path, expected) in rows {
            assert_eq!(without_dot_segments(&merged("/b/c/d;p", path)), expected, "{path}");
            assert!(!has_dot_segments(expected), "{path}");
        }
    }
}
