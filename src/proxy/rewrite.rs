//! Links in an answer's head, back to the local address. Pure.
//!
//! Without this a redirect would send the tool past us to the real API, without a token.

use hyper::HeaderMap;
use hyper::header::{CONTENT_LOCATION, Entry, HeaderName, HeaderValue, LOCATION, SET_COOKIE};

use crate::config::Origin;

/// How the upstream's addresses map to local ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping<'a> {
    /// The upstream's origin.
    pub(super) origin: &'a Origin,
    /// The upstream's base path: empty, or beginning with `/`.
    pub(super) base_path: &'a str,
    /// The `Host` that the client used.
    pub(super) local_authority: &'a str,
    /// `/NAME`, or empty where the route has a host name or listener of its own.
    pub(super) prefix: &'a str,
}

/// Rewrites `Location`, `Content-Location` and `Set-Cookie`.
pub(super) fn links(headers: &mut HeaderMap, mapping: &Mapping<'_>) {
    for name in [LOCATION, CONTENT_LOCATION] {
        rewrite_all(headers, name, |link| location(link, mapping));
    }
    rewrite_all(headers, SET_COOKIE, |cookie| Some(set_cookie(cookie, mapping)));
}

fn rewrite_all(headers: &mut HeaderMap, name: HeaderName, rewrite: impl Fn(&str) -> Option<String>) {
    if let Entry::Occupied(mut entry) = headers.entry(name) {
        for value in entry.iter_mut() {
            let new = value.to_str().ok().and_then(&rewrite).and_then(|new| HeaderValue::try_from(new).ok());
            if let Some(new) = new {
                *value = new;
            }
        }
    }
}

/// The local form of a link; `None` if it can stay.
fn location(link: &str, mapping: &Mapping<'_>) -> Option<String> {
    let scheme = if mapping.origin.tls { "https:" } else { "http:" };
    // the path as the upstream means it; what has neither origin nor leading slash resolves rightly by itself
    let (path, absolute) = if let Some(rest) = strip_prefix_ignoring_case(link, scheme) {
        (strip_authority(rest.strip_prefix("//")?, mapping.origin)?, true)
    } else if let Some(rest) = link.strip_prefix("//") {
        match strip_authority(rest, mapping.origin) {
            Some(path) => (path, true),
            None => return Some(format!("{scheme}{link}")),
        }
    } else if link.starts_with('/') {
        (link, false)
    } else {
        return None;
    };
    let Mapping { base_path, local_authority, prefix, origin } = mapping;
    let below = path
        .strip_prefix(base_path)
        .filter(|below| base_path.is_empty() || below.is_empty() || below.starts_with(['/', '?', '#']));
    // a path must not begin with what followed the authority or the base path, such as `?`
    let bare = below.is_some_and(|below| !below.starts_with('/'));
    let slash = if path.is_empty() || (prefix.is_empty() && bare) { "/" } else { "" };
    match below {
        Some(below) if absolute => Some(format!("http://{local_authority}{prefix}{slash}{below}")),
        Some(_) if prefix.is_empty() && base_path.is_empty() => None,
        // by itself it would be read as another host's (RFC 3986 section 4.2)
        Some(below) if prefix.is_empty() && below.starts_with("//") => Some(format!("http://{local_authority}{below}")),
        Some(below) => Some(format!("{prefix}{slash}{below}")),
        // outside the base path: no local address leads there
        None if absolute => link.starts_with("//").then(|| format!("{scheme}{link}")),
        None => Some(format!("{origin}{path}")),
    }
}

/// What follows the authority, if that is the origin's.
fn strip_authority<'a>(rest: &'a str, origin: &Origin) -> Option<&'a str> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = authority.strip_suffix(if origin.tls { ":443" } else { ":80" }).unwrap_or(authority);
    authority.eq_ignore_ascii_case(&origin.authority()).then_some(path)
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

/// A cookie as the local address can hold it: no foreign `Domain`, the local `Path`, and without `Secure`, as we are
/// spoken to in the clear on loopback.
fn set_cookie(cookie: &str, mapping: &Mapping<'_>) -> String {
    let mut parts = cookie.split(';');
    let mut rewritten = parts.next().unwrap_or_default().to_owned();
    // the browser demands what these name prefixes promise; without it the cookie would be thrown away
    let keeps_secure = rewritten.starts_with("__Host-") || rewritten.starts_with("__Secure-");
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        match name.trim() {
            name if name.eq_ignore_ascii_case("domain") => continue,
            name if name.eq_ignore_ascii_case("secure") && !keeps_secure => continue,
            name if name.eq_ignore_ascii_case("path") => {
                let path = value.trim();
                let below = path.strip_prefix(mapping.base_path).unwrap_or(path);
                let local = format!("{}{below}", mapping.prefix);
                rewritten.push_str("; Path=");
                rewritten.push_str(if local.is_empty() { "/" } else { &local });
            }
            _ => {
                rewritten.push(';');
                rewritten.push_str(part);
            }
        }
    }
    rewritten
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_the_upstream_lead_back_here() {
        let origin = Origin { tls: true, host: "api.example".into(), port: 443 };
        let prefixed = Mapping { origin: &origin, base_path: "/v1", local_authority: "localhost:8253", prefix: "/lab" };
        let bare = Mapping { base_path: "", ..prefixed };
        let named = Mapping { base_path: "", local_authority: "lab.localhost:8253", prefix: "", ..prefixed };
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
            ("other scheme", prefixed, "http://api.example/v1/x", None),
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
            assert_eq!(location(link, &mapping).as_deref(), expected, "{case}");
        }
        let named_base = Mapping { base_path: "/v1", ..named };
        assert_eq!(location("/v1/x", &named_base).as_deref(), Some("/x"));
        let two_slashes = Some("http://lab.localhost:8253//evil.example/x");
        assert_eq!(location("/v1//evil.example/x", &named_base).as_deref(), two_slashes, "no other host's");
        assert_eq!(location("/login", &named_base).as_deref(), Some("https://api.example/login"));
    }

    #[test]
    fn cookies_live_at_the_local_address() {
        let origin = Origin { tls: true, host: "api.example".into(), port: 443 };
        let mapping = Mapping { origin: &origin, base_path: "/v1", local_authority: "localhost:8253", prefix: "/lab" };
        let rows = [
            ("a=b", "a=b"),
            ("a=b; Domain=api.example; Path=/; Secure; HttpOnly", "a=b; Path=/lab/; HttpOnly"),
            ("a=b; path=/v1/x; SameSite=Lax", "a=b; Path=/lab/x; SameSite=Lax"),
            ("__Secure-a=b; Secure", "__Secure-a=b; Secure"),
        ];
        for (given, expected) in rows {
            assert_eq!(set_cookie(given, &mapping), expected);
        }
    }
}
