//! Links in an answer's head, back to the local address; and the token in a request's query. Pure.
//!
//! Without the first a redirect would send the tool past us to the real API, without a token. Only what leads to the
//! configured origin is rewritten.

use hyper::HeaderMap;
use hyper::Uri;
use hyper::header::{CONTENT_LOCATION, Entry, HeaderName, HeaderValue, LINK, LOCATION, SET_COOKIE};
use hyper::http::uri::PathAndQuery;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::headers::bare_token;
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

/// Rewrites `Location`, `Content-Location`, `Link` and `Set-Cookie`.
pub(super) fn links(headers: &mut HeaderMap, mapping: &Mapping<'_>) {
    for name in [LOCATION, CONTENT_LOCATION] {
        rewrite_all(headers, name, |link| location(link, mapping));
    }
    rewrite_all(headers, LINK, |links| link(links, mapping));
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

/// The targets between `<` and `>` in the local form (RFC 8288 section 3); quoted parameters stay. `None` if all can.
fn link(links: &str, mapping: &Mapping<'_>) -> Option<String> {
    let mut rewritten = String::with_capacity(links.len());
    let mut rest = links;
    let mut changed = false;
    while let Some(at) = rest.find(['<', '"']) {
        let (before, special) = rest.split_at(at);
        rewritten.push_str(before);
        let end = if special.starts_with('<') { special.find('>') } else { closing_quote(special) };
        let Some(end) = end else {
            rest = special;
            break;
        };
        match special[1..end].trim() {
            target
                if special.starts_with('<')
                    && let Some(local) = location(target, mapping) =>
            {
                rewritten.push('<');
                rewritten.push_str(&local);
                rewritten.push('>');
                changed = true;
            }
            _ => rewritten.push_str(&special[..=end]),
        }
        rest = &special[end + 1..];
    }
    rewritten.push_str(rest);
    changed.then_some(rewritten)
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
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let value = value.trim();
        match name.trim() {
            name if name.eq_ignore_ascii_case("domain") => continue,
            name if name.eq_ignore_ascii_case("path") => {
                if value.starts_with('/') {
                    rewritten.push_str("; Path=");
                    rewritten.push_str(&cookie_path(value, mapping));
                } // else it means the default, which is local by itself (RFC 6265 section 5.2.4)
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
    rewritten
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

/// What may stand in a query as it is (RFC 3986 section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The target with the token as the query's last parameter, and without the client's own parameters of that name.
pub(super) fn with_token(target: &Uri, name: &str, token: &HeaderValue) -> Uri {
    let mut parts = target.clone().into_parts();
    let mut text = format!("{}?", target.path());
    for pair in target.query().into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty()) {
        let key = pair.split_once('=').map_or(pair, |(key, _)| key);
        if !percent_decode_str(key).eq(name.bytes()) {
            text.push_str(pair);
            text.push('&');
        }
    }
    let token = String::from_utf8_lossy(bare_token(token));
    text.extend([name, "="]);
    text.extend(utf8_percent_encode(&token, UNRESERVED));
    parts.path_and_query = Some(PathAndQuery::try_from(text).expect("pieces of a query, and what is encoded"));
    Uri::from_parts(parts).expect("only the query has changed")
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
    fn links_between_pages_lead_back_here_and_everything_else_stays() {
        let origin = Origin { tls: true, host: "api.example".into(), port: 443 };
        let mapping = Mapping { origin: &origin, base_path: "/v1", local_authority: "localhost:8253", prefix: "/lab" };
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
            ("never closed", "</v1/x; rel=next", None),
            ("a quotation never closed", "</v1/x>; title=\"</v1/y>", Some("</lab/x>; title=\"</v1/y>")),
            ("nothing", "", None),
        ];
        for (case, given, expected) in rows {
            assert_eq!(link(given, &mapping).as_deref(), expected, "{case}");
        }
    }

    #[test]
    fn a_cookie_holds_for_its_route_and_for_no_other() {
        let origin = Origin { tls: true, host: "api.example".into(), port: 443 };
        let based = Mapping { origin: &origin, base_path: "/v1", local_authority: "localhost:8253", prefix: "/lab" };
        let bare = Mapping { base_path: "", ..based };
        let named = Mapping { prefix: "", ..based };
        let rows = [
            ("below the base", based, "a=b; Path=/v1/x", "a=b; Path=/lab/x"),
            ("the base", based, "a=b; path=/v1", "a=b; Path=/lab"),
            ("the base and a slash", based, "a=b; Path=/v1/", "a=b; Path=/lab"),
            ("everything", based, "a=b; Path=/", "a=b; Path=/lab"),
            ("beside the base", based, "a=b; Path=/v10/x", "a=b; Path=/lab/v10/x"),
            ("elsewhere", based, "a=b; Path=/login", "a=b; Path=/lab/login"),
            ("no path", based, "a=b", "a=b"),
            ("no path at all", based, "a=b; Path=", "a=b"),
            ("a relative path", based, "a=b; Path=x", "a=b"),
            ("no base", bare, "a=b; Path=/", "a=b; Path=/lab"),
            ("no base, below", bare, "a=b; Path=/x/", "a=b; Path=/lab/x/"),
            ("by host name", named, "a=b; Path=/v1/x", "a=b; Path=/x"),
            ("by host name, everything", named, "a=b; Path=/", "a=b; Path=/"),
            ("domain", based, "a=b; Domain=api.example; HttpOnly", "a=b; HttpOnly"),
            ("domain and a dot", based, "a=b; domain=.example", "a=b"),
            ("secure", based, "a=b; Secure; HttpOnly; Max-Age=3", "a=b; HttpOnly; Max-Age=3"),
            ("good only if secure", based, "a=b; SameSite=None; Secure; Partitioned", "a=b"),
            ("of this site", based, "a=b; SameSite=Lax; Secure", "a=b; SameSite=Lax"),
            ("named so", based, "__Secure-a=b; Secure; Path=/v1", "__Secure-a=b; Secure; Path=/lab"),
            ("named so for a host", named, "__Host-a=b; Secure; Path=/", "__Host-a=b; Secure; Path=/"),
            ("an equals sign", based, "a=b=c==; Path=/v1", "a=b=c==; Path=/lab"),
            ("an unknown attribute", based, "a=b; Priority=High", "a=b; Priority=High"),
        ];
        for (case, mapping, given, expected) in rows {
            assert_eq!(set_cookie(given, &mapping), expected, "{case}");
        }
    }

    #[test]
    fn a_token_in_the_query_is_the_only_one_of_its_name() {
        let token = HeaderValue::from_static("Bearer a+b/c=");
        let rows = [
            ("/x", "/x?access_token=a%2Bb%2Fc%3D"),
            ("/x?", "/x?access_token=a%2Bb%2Fc%3D"),
            ("/x?q=%2F..%2f&r", "/x?q=%2F..%2f&r&access_token=a%2Bb%2Fc%3D"),
            ("/x?access_token=theirs&q=1", "/x?q=1&access_token=a%2Bb%2Fc%3D"),
            ("/x?q=1&access%5ftoken=theirs&access_token", "/x?q=1&access_token=a%2Bb%2Fc%3D"),
            ("/x?access_tokens=1", "/x?access_tokens=1&access_token=a%2Bb%2Fc%3D"),
        ];
        for (given, expected) in rows {
            assert_eq!(with_token(&given.parse().unwrap(), "access_token", &token).to_string(), expected, "{given}");
        }
    }
}
