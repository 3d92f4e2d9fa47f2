//! Which upstream, and which path there. Pure.
//!
//! A route is found by the listener (an address of its own), by host name (`NAME.localhost`) or by the path's first
//! segment (`/NAME/...`), in this order. The path is looked at, never rewritten: what could be read as a way out of the
//! route is refused, every other byte of path and query goes through as it came.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Uri};

use crate::client_keys::ClientKey;
use crate::config::{Route, RouteName};
pub(crate) use crate::path_rules::canonical;
use crate::path_rules::{self, Reading, RefusedPath, decode, is_encoded_over_and_over};
use crate::proxy::policy::error::{Check, ProxyError};
use crate::proxy::policy::head::Head;
use crate::proxy::policy::overrides;
use crate::proxy::policy::reference::{Authority, is_of};
use crate::proxy::policy::scope::Scope;

/// What [`find`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// Where in the table.
    pub(crate) index: usize,
    /// Bytes of the path that are the route's prefix.
    pub(crate) prefix: usize,
}

/// Finds the route. `position` tells where a name is in the table; `own` is the route that the listener belongs to, if
/// it has one.
pub(crate) fn find(
    position: impl Fn(&str) -> Option<usize>,
    own: Option<&RouteName>,
    host: &str,
    path: &str,
) -> Option<Found> {
    if let Some(own) = own {
        return Some(Found { index: position(own.as_str())?, prefix: 0 });
    }
    if let Some((label, rest)) = host.split_once('.')
        && rest.eq_ignore_ascii_case("localhost")
    {
        // route names are lower case; host names are compared without regard to case
        let index = if label.bytes().any(|byte| byte.is_ascii_uppercase()) {
            position(&label.to_ascii_lowercase())?
        } else {
            position(label)?
        };
        return Some(Found { index, prefix: 0 });
    }
    let segment = path.strip_prefix('/')?;
    let segment = segment.split_once('/').map_or(segment, |(first, _)| first);
    Some(Found { index: position(segment)?, prefix: 1 + segment.len() })
}

/// Finds the route, of those of a scope, by the upstream's authority and path, which the client names there: the one with
/// the longest base path.
pub(crate) fn find_by_upstream<'a>(
    routes: impl Iterator<Item = &'a Route>,
    scope: &Scope,
    authority: &str,
    path: &str,
) -> Option<Found> {
    let authority = Authority::parse(authority)?;
    let leads = |route: &Route| {
        let upstream = &route.upstream;
        let scheme = if upstream.origin.tls { "https" } else { "http" };
        let rest = path.strip_prefix(upstream.base_path.as_str());
        scope.has(route.name.as_str())
            && is_of(scheme, authority, &upstream.origin)
            && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let found = routes.enumerate().filter(|(_, route)| leads(route));
    let (index, route) = found.max_by_key(|(_, route)| route.upstream.base_path.len())?;
    Some(Found { index, prefix: route.upstream.base_path.len() })
}

/// Where the routes of a scope lead to on the upstream that the client names, each once.
pub(crate) fn upstreams_at<'a>(routes: impl Iterator<Item = &'a Route>, scope: &Scope, authority: &str) -> Vec<String> {
    let Some(authority) = Authority::parse(authority) else { return Vec::new() };
    let of = |route: &'a Route| {
        let origin = &route.upstream.origin;
        let scheme = if origin.tls { "https" } else { "http" };
        (scope.has(route.name.as_str()) && is_of(scheme, authority, origin))
            .then(|| format!("{origin}{}", route.upstream.base_path))
    };
    let mut found: Vec<String> = routes.filter_map(of).collect();
    found.sort();
    found.dedup();
    found
}

/// The target upstream: base path, the path without its first `prefix` bytes, and the query, in one buffer. `None` if
/// the target can stay as it is.
pub(crate) fn target(base_path: &str, prefix: usize, target: &Uri) -> Option<Uri> {
    if base_path.is_empty() && prefix == 0 && target.authority().is_none() {
        return None;
    }
    let rest = &target.path()[prefix..];
    let rest = if rest.is_empty() && base_path.is_empty() { "/" } else { rest };
    // the rest is a slice of what was a URI, and the base path came out of one
    let uri = match target.query() {
        None if base_path.is_empty() => path_and_query(Bytes::copy_from_slice(rest.as_bytes())),
        query => {
            let mut buffer = BytesMut::with_capacity(base_path.len() + rest.len() + query.map_or(0, |q| 1 + q.len()));
            buffer.put_slice(base_path.as_bytes());
            buffer.put_slice(rest.as_bytes());
            if let Some(query) = query {
                buffer.put_u8(b'?');
                buffer.put_slice(query.as_bytes());
            }
            path_and_query(buffer.freeze())
        }
    };
    Some(uri)
}

fn path_and_query(bytes: Bytes) -> Uri {
    PathAndQuery::from_maybe_shared(bytes).expect("pieces of paths and queries that were parsed before").into()
}

/// Refuses paths that a server could read as leading out of the route, or that are not text.
///
/// Dot segments in any spelling: `%2e`, doubly encoded, before `;` (which some servers cut off), next to an encoded
/// slash. Backslashes (some servers take them for slashes) and control bytes, also encoded. A `%2F` by itself is
/// ordinary: it keeps a slash inside a segment.
pub(crate) fn check_path(path: &str) -> Result<(), ProxyError> {
    let bytes = path.as_bytes();
    // nothing to decode, no dot at a segment's start: nearly every path
    let mut is_odd = false;
    let mut before = b'/';
    for byte in bytes {
        is_odd |= matches!(byte, b'%' | b'\\' | 0..=0x1f | 0x7f) || (before == b'/' && *byte == b'.');
        before = *byte;
    }
    if !is_odd {
        return Ok(());
    }
    let mut dots = 0; // of this segment, if it has nothing else
    let mut only_dots = true;
    let mut is_encoded_again = false;
    let mut at = 0;
    while at < bytes.len() {
        let (byte, width) = decode(&bytes[at..]);
        let deeply = width > 3;
        match byte {
            0..=0x1f | 0x7f if !deeply => return Err(ProxyError::BadRequest("a control byte in the path")),
            b'\\' => return Err(ProxyError::BadRequest("a backslash in the path")),
            b'/' | b';' => {
                if only_dots && (dots == 1 || dots == 2) {
                    return Err(DOT_SEGMENT);
                }
                dots = 0;
                only_dots = byte == b'/';
            }
            b'.' => dots += 1,
            _ => {
                is_encoded_again |= byte == b'%';
                only_dots = false;
            }
        }
        at += width;
    }
    if only_dots && (dots == 1 || dots == 2) {
        return Err(DOT_SEGMENT);
    }
    // what stands side by side now can be an encoding itself: `%%32e` is `%2e` is a dot
    if is_encoded_again && is_encoded_over_and_over(bytes) {
        return Err(ProxyError::BadRequest("a path that is encoded over and over"));
    }
    Ok(())
}

const DOT_SEGMENT: ProxyError = ProxyError::BadRequest("a dot segment in the path");

/// Whether `base_path` and `rest` lead to one of the refused paths, or below it.
pub(crate) fn is_refused(refuse: &[RefusedPath], base_path: &str, rest: &str) -> bool {
    if refuse.is_empty() {
        return false;
    }
    let path = match base_path {
        "" => Cow::Borrowed(rest),
        _ => Cow::Owned([base_path, rest].concat()),
    };
    path_rules::is_refused(refuse, &path)
}

/// Whether a request, whose path is `rest` behind the route's name, is within the route's rules and the client key's
/// rights. Where there are any, what tells some servers another method or path than the request line is refused, unless it
/// never goes up anyway, as `X-Forwarded-Host`, which another proxy on this machine may add.
pub(crate) fn check_rules(
    route: &Route,
    key: Option<&ClientKey>,
    head: &Head<'_>,
    rest: &str,
) -> Result<(), ProxyError> {
    if let Some(key) = key
        && !key.rights.routes.contains(&route.name)
    {
        return Err(ProxyError::KeyLacksRoute(route.name.clone()));
    }
    let narrow_key = key.filter(|key| !key.rights.is_whole_route());
    if route.rules.is_empty() && route.mcp_rules.is_empty() && narrow_key.is_none() {
        return Ok(());
    }
    if head.headers.keys().any(|name| overrides::is_override(name) && !overrides::is_of_another_proxy(name))
        || head.target.query().is_some_and(overrides::query_overrides_method)
    {
        return Err(ProxyError::ForbiddenByRules);
    }
    is_within(route, narrow_key, head.method, rest)
}

/// Whether a method and a path are within the route's rules and the rights of a key that has less than the whole route.
fn is_within(route: &Route, narrow_key: Option<&ClientKey>, method: &Method, rest: &str) -> Result<(), ProxyError> {
    let (method, reading) = (method.as_str(), Reading::of(rest));
    if !route.rules.permit(method, &reading) {
        return Err(ProxyError::ForbiddenByRules);
    }
    match narrow_key {
        Some(key) if !key.rights.permit(&route.name, method, &reading) => Err(ProxyError::NotAllowed(Check::KeyRights)),
        _ => Ok(()),
    }
}

/// Whether a path that a request acts on besides its own, as `Destination` names one, is within what holds for its own.
/// One that is outside the route's base path is, where nothing is narrower than the route.
pub(crate) fn check_other_path(
    route: &Route,
    refuse: &[RefusedPath],
    key: Option<&ClientKey>,
    method: &Method,
    rest: Option<&str>,
) -> Result<(), ProxyError> {
    let narrow_key = key.filter(|key| !key.rights.is_whole_route());
    let Some(rest) = rest else {
        let has_rules = !route.rules.is_empty() || !route.mcp_rules.is_empty();
        let is_bounded = has_rules || narrow_key.is_some() || !refuse.is_empty();
        return if is_bounded { Err(ProxyError::ForbiddenByRules) } else { Ok(()) };
    };
    check_path(rest)?;
    if is_refused(refuse, &route.upstream.base_path, rest) {
        return Err(ProxyError::ForbiddenByRoute);
    }
    is_within(route, narrow_key, method, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_found_by_listener_host_or_first_segment() {
        let own = RouteName::new("lab").unwrap();
        let lab = |prefix| Some(Found { index: 1, prefix });
        let rows = [
            ("own listener", Some(&own), "localhost", "/gbdx/x", lab(0)),
            ("own listener, any host", Some(&own), "gbdx.localhost", "/", lab(0)),
            ("host name", None, "lab.localhost", "/gbdx/x", lab(0)),
            ("host name, upper case", None, "LAB.LocalHost", "/", lab(0)),
            ("unknown host name", None, "x.localhost", "/lab/", None),
            ("prefix", None, "localhost", "/lab/x/y", lab(4)),
            ("prefix alone", None, "127.0.0.1", "/lab", lab(4)),
            ("prefix and slash", None, "", "/lab/", lab(4)),
            ("a longer first segment", None, "localhost", "/labs/x", None),
            ("upper case prefix", None, "localhost", "/LAB/x", None),
            ("nothing", None, "localhost", "/", None),
            ("double slash", None, "localhost", "//lab/x", None),
        ];
        for (case, own, host, path, expected) in rows {
            assert_eq!(find(|name| ["gbdx", "lab"].binary_search(&name).ok(), own, host, path), expected, "{case}");
        }
    }

    #[test]
    fn where_a_request_names_the_upstream_the_longest_base_path_of_the_scope_has_it() {
        use crate::shutdown::shutdown;
        let routes: Vec<Route> = [
            ("all", "https://api.example"),
            ("other", "https://other.example"),
            ("port", "https://api.example:8443"),
            ("v1", "https://api.example/v1"),
            ("zip", "https://api.example/v1/zip"),
        ]
        .map(|(name, upstream)| {
            let text =
                format!("[account.{name}]\ntoken_endpoint = \"https://auth.example/t\"\nupstream = \"{upstream}\"\n");
            crate::config::testing::config(&text).routes.remove(0)
        })
        .into();
        let scope = |names: &[&str]| {
            let routes = names.iter().map(|name| RouteName::new(name).unwrap()).collect();
            Scope::Lent(std::sync::Arc::new(crate::proxy::policy::scope::Lent {
                routes,
                kind: crate::client_keys::AddressKind::Upstreams { open: false },
                ended: shutdown().1,
            }))
        };
        let all = ["all", "other", "port", "v1", "zip"];
        type Row<'a> = (&'a [&'a str], &'a str, &'a str, Option<(usize, usize)>);
        let rows: [Row<'_>; 14] = [
            (&all, "api.example", "/x", Some((0, 0))),
            (&all, "API.Example:443", "/x", Some((0, 0))),
            (&all, "api.example", "/v1", Some((3, 3))),
            (&all, "api.example", "/v1/x", Some((3, 3))),
            (&all, "api.example", "/v1/zip/x", Some((4, 7))),
            (&all, "api.example", "/v10", Some((0, 0))),
            (&["v1"], "api.example", "/v10", None),
            (&["v1"], "api.example", "/x", None),
            (&["all", "v1"], "api.example", "/v1/zip/x", Some((3, 3))),
            (&all, "api.example:8443", "/v1/x", Some((2, 0))),
            (&all, "api.example:80", "/", None),
            (&["all"], "other.example", "/", None),
            (&all, "api.example.evil.example", "/", None),
            (&all, "me@api.example", "/", None),
        ];
        for (names, authority, path, expected) in rows {
            let found = find_by_upstream(routes.iter(), &scope(names), authority, path);
            assert_eq!(found.map(|found| (found.index, found.prefix)), expected, "{names:?} {authority} {path}");
        }
    }

    #[test]
    fn the_target_keeps_every_byte_but_the_prefix() {
        let rows = [
            ("", 4, "/lab/x", Some("/x")),
            ("", 4, "/lab", Some("/")),
            ("", 4, "/lab/", Some("/")),
            ("", 4, "/lab?q=1", Some("/?q=1")),
            ("/v1", 4, "/lab", Some("/v1")),
            ("/v1", 4, "/lab/", Some("/v1/")),
            ("/v1", 4, "/lab?q", Some("/v1?q")),
            ("/v1", 0, "/x", Some("/v1/x")),
            ("", 0, "/x?y", None),
            ("", 0, "http://localhost:1/x?y", Some("/x?y")),
            ("", 4, "/lab//x", Some("//x")),
            (
                "",
                4,
                "/lab/a%2Fb%20c+d*e?u=http://h:1/p?q=[1]&w=%2F..%2f",
                Some("/a%2Fb%20c+d*e?u=http://h:1/p?q=[1]&w=%2F..%2f"),
            ),
            ("", 4, "/lab/[x]|{y}\"^~!$&'(),:@=", Some("/[x]|{y}\"^~!$&'(),:@=")),
            ("", 4, "/lab/é?ü=|{}[]^`\\", Some("/é?ü=|{}[]^`\\")),
            ("", 4, "/lab/x?", Some("/x?")),
        ];
        for (base, prefix, given, expected) in rows {
            let uri: Uri = given.parse().unwrap_or_else(|error| panic!("{given}: {error}"));
            assert_eq!(target(base, prefix, &uri).map(|uri| uri.to_string()).as_deref(), expected, "{base} {given}");
        }
    }

    #[test]
    fn paths_that_could_leave_the_route_are_refused() {
        let bad = [
            "/..",
            "/../x",
            "/x/..",
            "/x/../y",
            "/.",
            "/./x",
            "/x/.",
            "/%2e%2e/x",
            "/%2E./x",
            "/.%2e",
            "/%2e",
            "/..;/x",
            "/.;x=1/y",
            "/..%3b/x",
            "/..%2fx",
            "/x%2f..%2fy",
            "/%2f..",
            "/%252e%252e/x",
            "/%25252e./x",
            "/%%32e%%32e/x",
            "/.%%32%65/x",
            "/%%36fauth/token",
            "/..%252fx",
            "/x\\y",
            "/x%5cy",
            "/..%5cx",
            "/%255c",
            "/a%00b",
            "/a%0d%0ab",
            "/a%1fb",
            "/a%7fb",
            "/a\u{7f}b",
        ];
        for path in bad {
            assert!(matches!(check_path(path), Err(ProxyError::BadRequest(_))), "{path:?}");
        }
        let good = [
            "/",
            "//",
            "/x",
            "/...",
            "/x/.../y",
            "/.well-known/x",
            "/..x",
            "/x..",
            "/x../y",
            "/a.b/c..d",
            "/%2F",
            "/a%2Fb",
            "/a%2eb",
            "/%2ehidden",
            "/100%",
            "/a%zz",
            "/%",
            "/a;b=c",
            "/a;..",
            "/;",
            "/%41",
            "/é",
            "/a%250ab",
            "/a%25",
            "/[x]/\"y\"/|",
            "/a:b@c",
        ];
        for path in good {
            assert_eq!(check_path(path), Ok(()), "{path:?}");
        }
    }

    #[test]
    fn refused_paths_are_refused_in_any_spelling() {
        let refuse = ["/oauth/token", "/v1/auth"].map(RefusedPath::new);
        let yes = [
            ("", "/oauth/token"),
            ("", "/oauth/token/"),
            ("", "/oauth/token/x"),
            ("", "//oauth//token"),
            ("", "/oauth%2ftoken"),
            ("", "/o%61uth/token"),
            ("", "/oauth/token;x=1"),
            ("", "/oauth;x/token"),
            ("", "/%256fauth/token"),
            ("/v1", "/auth"),
            ("/v1", "/auth/x"),
            ("", "/v1/auth"),
            ("", "/OAuth/TOKEN"),
            ("", "/oauth/token%20"),
            ("", "/oauth./token."),
            ("", "/oauth/token%3Fx"),
            ("", "/oauth%EF%BC%8Ftoken/x"),
            ("/v1", "/Auth/x"),
        ];
        for (base, path) in yes {
            assert!(is_refused(&refuse, base, path), "{base} {path}");
        }
        let no = [
            ("", "/oauth"),
            ("", "/oauth/tokens"),
            ("", "/x/oauth/token"),
            ("/v1", "/oauth/token"),
            ("", "/oauth/token.json"),
            ("", "/x%20/y."),
        ];
        for (base, path) in no {
            assert!(!is_refused(&refuse, base, path), "{base} {path}");
        }
        assert!(!is_refused(&[], "", "/oauth/token"));
        let token = [RefusedPath::new("/token")];
        for everyday in ["/%E2%82%AC%E2%82%ACa", "/%E2%80%9C%E2%80%9Da", "/%E2%80%93%E2%80%93"] {
            assert!(!is_refused(&token, "", everyday), "{everyday}");
        }
    }
}
