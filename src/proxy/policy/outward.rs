//! References to us in a client's request, in the upstream's form. Pure.
//!
//! The client knows the local address alone, so it names that where a request speaks of another resource (`Destination`
//! and `If`, RFC 4918 section 10) or of the page that it comes from (`Origin`, `Referer`). The upstream would take it for
//! somebody else's. Where such a reference names a resource that the request acts on, the route's rules and the client
//! key's rights hold for that, too, however it is spelt.

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue, ORIGIN, REFERER};

use crate::client_keys;
use crate::proxy::policy::error::ProxyError;
use crate::proxy::policy::ingress::is_loopback_name;
use crate::proxy::policy::reference::{Authority, Reference, has_dot_segments, is_of};
use crate::proxy::policy::rewrite::{Mapping, text};

const DESTINATION: HeaderName = HeaderName::from_static("destination");
const IF: HeaderName = HeaderName::from_static("if");

/// What a reference names.
enum Named<'a> {
    /// Something below this route: its path there, its query and fragment.
    Here { rest: &'a str, tail: &'a str },
    /// Something at the upstream, in its own words: the path behind the base path, or `None` outside of it.
    There { rest: Option<&'a str> },
    /// An address of ours, but nothing below this route.
    Elsewhere,
    /// Nothing of ours.
    Foreign,
}

/// Translates what names us. `permit` decides about a path, behind the prefix, that the request acts on besides its own;
/// of `None`, which is outside the route's base path, too.
pub(crate) fn translate(
    headers: &mut HeaderMap,
    mapping: &Mapping<'_>,
    permit: &dyn Fn(Option<&str>) -> Result<(), ProxyError>,
) -> Result<(), ProxyError> {
    if headers.contains_key(ORIGIN) {
        // the guard let it pass, so it is ours
        let origin = HeaderValue::try_from(mapping.origin.to_string());
        headers.insert(ORIGIN, origin.map_err(|_| ProxyError::BadRequest("Origin cannot be translated"))?);
    }
    if let Some(page) = headers.get(REFERER) {
        let page = text(page).into_owned();
        match named(&page, mapping) {
            Some(Named::Here { rest, tail }) => insert(headers, REFERER, &there(rest, tail, mapping))?,
            Some(Named::There { .. } | Named::Foreign) => {}
            // where else the client has been here is not for this upstream
            Some(Named::Elsewhere) | None => drop(headers.remove(REFERER)),
        }
    }
    let destinations: Vec<String> = headers.get_all(DESTINATION).iter().map(|value| text(value).into_owned()).collect();
    match &*destinations {
        [] => {}
        [destination] => match named(destination, mapping) {
            Some(Named::Here { rest, tail }) => {
                permit(Some(rest))?;
                insert(headers, DESTINATION, &there(rest, tail, mapping))?;
            }
            Some(Named::There { rest }) => permit(rest)?,
            Some(Named::Foreign) => {}
            Some(Named::Elsewhere) | None => {
                return Err(ProxyError::BadRequest("Destination is not below this route"));
            }
        },
        _ => return Err(ProxyError::BadRequest("more than one Destination")),
    }
    let conditions: Vec<String> = headers.get_all(IF).iter().map(|value| text(value).into_owned()).collect();
    if !conditions.is_empty() {
        headers.remove(IF);
        for condition in conditions {
            let translated = tagged_lists(&condition, mapping).ok_or(ProxyError::BadRequest("If cannot be read"))?;
            headers.append(IF, value(&translated)?);
        }
    }
    Ok(())
}

fn insert(headers: &mut HeaderMap, name: HeaderName, text: &str) -> Result<(), ProxyError> {
    headers.insert(name, value(text)?);
    Ok(())
}

/// A value of which `text` has a character for each byte.
fn value(text: &str) -> Result<HeaderValue, ProxyError> {
    let bytes: Vec<u8> = text.chars().map(|c| c as u8).collect();
    HeaderValue::from_bytes(&bytes).map_err(|_| ProxyError::BadRequest("a field that names us cannot be translated"))
}

/// The upstream's form of what is below this route.
fn there(rest: &str, tail: &str, mapping: &Mapping<'_>) -> String {
    let Mapping { origin, base_path, .. } = mapping;
    let rest = if rest.is_empty() && base_path.is_empty() { "/" } else { rest };
    format!("{origin}{base_path}{rest}{tail}")
}

/// What a reference names; `None` if it could be read in different ways.
fn named<'a>(reference: &'a str, mapping: &Mapping<'_>) -> Option<Named<'a>> {
    let Mapping { origin, base_path, prefix, .. } = mapping;
    match Reference::parse(reference)? {
        Reference::Foreign { .. } | Reference::Relative { .. } => Some(Named::Foreign),
        Reference::Absolute { scheme, authority, path, tail } => {
            let scheme = scheme.unwrap_or(if origin.tls { "https" } else { "http" });
            // a listener of ours that is the upstream's own address is a loop, and found elsewhere
            if is_here(authority, mapping) {
                return Some(match below_route(path, mapping) {
                    Some(rest) if !has_dot_segments(rest) => Named::Here { rest, tail },
                    _ => Named::Elsewhere,
                });
            }
            if is_ours(authority, mapping) {
                return Some(Named::Elsewhere);
            }
            if !is_of(scheme, authority, origin) {
                return Some(Named::Foreign);
            }
            (!has_dot_segments(path)).then(|| Named::There { rest: below(base_path, path) })
        }
        Reference::Path { path, .. } if has_dot_segments(path) => None,
        Reference::Path { path, .. } if mapping.own.ingress.names_upstreams() => {
            Some(Named::There { rest: below(base_path, path) })
        }
        Reference::Path { path, tail } if !prefix.is_empty() || base_path.is_empty() => {
            Some(match below_route(path, mapping) {
                Some(rest) => Named::Here { rest, tail },
                None => Named::There { rest: below(base_path, path) },
            })
        }
        // at an address of the route's own it can be either; who says the upstream's means that
        Reference::Path { path, tail } => Some(match below(base_path, path) {
            Some(rest) => Named::There { rest: Some(rest) },
            None => Named::Here { rest: path, tail },
        }),
    }
}

fn below<'a>(base: &str, path: &'a str) -> Option<&'a str> {
    path.strip_prefix(base).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The path behind the prefix, with the client's key or another before it, or with none.
fn below_route<'a>(path: &'a str, mapping: &Mapping<'_>) -> Option<&'a str> {
    let without_key = path
        .strip_prefix('/')
        .filter(|rest| rest.starts_with(client_keys::PREFIX))
        .map(|rest| rest.find('/').map_or("", |end| &rest[end..]));
    below(mapping.route_prefix, without_key.unwrap_or(path))
}

/// Whether an authority is the address that the request itself was sent to, in the spelling of `Host` or another.
fn is_here(authority: Authority<'_>, mapping: &Mapping<'_>) -> bool {
    let Some(here) = Authority::parse(mapping.local_authority) else { return false };
    let is_numbered = |host: &str| is_loopback_name(host) && !host.to_ascii_lowercase().ends_with(".localhost");
    authority.port.unwrap_or(80) == here.port.unwrap_or(80)
        && (authority.host.eq_ignore_ascii_case(here.host) || is_numbered(authority.host) && is_numbered(here.host))
}

/// Whether an authority is an address of ours.
fn is_ours(authority: Authority<'_>, mapping: &Mapping<'_>) -> bool {
    let port = authority.port.unwrap_or(80);
    is_loopback_name(authority.host) && mapping.own.listeners.iter().any(|listener| listener.port == port)
        || mapping.own.hosts.iter().any(|host| host.eq_ignore_ascii_case(authority.host))
}

/// The tags of an `If` field's lists in the upstream's form (RFC 4918 section 10.4.2). State tokens and entity tags, which
/// stand in parentheses, stay.
fn tagged_lists(condition: &str, mapping: &Mapping<'_>) -> Option<String> {
    let mut translated = String::with_capacity(condition.len());
    let mut rest = condition;
    while let Some(at) = rest.find(['<', '(']) {
        let (before, list) = rest.split_at(at);
        translated.push_str(before);
        if list.starts_with('(') {
            let end = end_of_list(list)?;
            translated.push_str(&list[..end]);
            rest = &list[end..];
            continue;
        }
        let end = list.find('>').filter(|end| !list[1..*end].contains(['<', '(', ' ', '\t']))?;
        translated.push('<');
        match named(&list[1..end], mapping)? {
            Named::Here { rest, tail } => translated.push_str(&there(rest, tail, mapping)),
            Named::There { .. } | Named::Foreign => translated.push_str(&list[1..end]),
            Named::Elsewhere => return None,
        }
        rest = &list[end..];
    }
    translated.push_str(rest);
    Some(translated)
}

/// Where a list in parentheses ends: a closing one may stand in an entity tag or a state token.
fn end_of_list(list: &str) -> Option<usize> {
    let mut until = None;
    for (at, byte) in list.bytes().enumerate() {
        match (until, byte) {
            (Some(end), byte) if byte == end => until = None,
            (Some(_), _) => {}
            (None, b'"') => until = Some(b'"'),
            (None, b'<') => until = Some(b'>'),
            (None, b')') => return Some(at + 1),
            (None, _) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;
    use crate::proxy::policy::ingress::Ingress;
    use crate::proxy::policy::rewrite::{OwnAddresses, OwnListener};
    use crate::proxy::policy::scope::Scope;

    const KEY: &str = "vk_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG";

    fn translated(way: &str, name: &'static str, given: &str) -> Result<Option<String>, ProxyError> {
        let origin = Origin { tls: true, host: "dav.example".into(), port: 443 };
        let ingress = Ingress::loopback(Scope::All);
        let at = |port| OwnListener { port, route: None, is_open: false, is_lent: false };
        let listeners = [at(8253), at(8300)];
        let own = OwnAddresses {
            listeners: &listeners,
            hosts: &[],
            ingress: &ingress,
            shares_account: &|_| None,
            sibling: &|_, _| None,
        };
        let keyed = format!("/{KEY}/lab");
        let (local_authority, prefix, route_prefix) = match way {
            "keyed" => ("localhost:8253", keyed.as_str(), "/lab"),
            "named" => ("lab.localhost:8253", "", ""),
            _ => ("localhost:8253", "/lab", "/lab"),
        };
        let mapping =
            Mapping { origin: &origin, base_path: "/v1", asked: "/x", local_authority, prefix, route_prefix, own };
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static(name), value(given).unwrap());
        let permit = |rest: Option<&str>| match rest {
            Some(rest) if !rest.starts_with("/denied") => Ok(()),
            _ => Err(ProxyError::ForbiddenByRules),
        };
        translate(&mut headers, &mapping, &permit)?;
        Ok(headers.get(name).map(|value| text(value).into_owned()))
    }

    #[test]
    fn a_destination_is_the_upstreams_and_within_the_rules_however_it_is_spelt() {
        let bad = Err(ProxyError::BadRequest("Destination is not below this route"));
        let denied = Err(ProxyError::ForbiddenByRules);
        let rows = [
            ("", "http://localhost:8253/lab/a%20b?q", Ok("https://dav.example/v1/a%20b?q")),
            ("", "HTTP://LocalHost:8253/lab/a", Ok("https://dav.example/v1/a")),
            ("", "http://127.0.0.1:8253/lab/a", Ok("https://dav.example/v1/a")),
            ("", "http://localhost:8253/lab/\u{c3}\u{a9}", Ok("https://dav.example/v1/\u{c3}\u{a9}")),
            ("", "/lab/a", Ok("https://dav.example/v1/a")),
            ("", "/v1/a", Ok("/v1/a")),
            ("", "https://dav.example/v1/a", Ok("https://dav.example/v1/a")),
            ("", "https://other.example/lab/a", Ok("https://other.example/lab/a")),
            ("", "http://localhost:9999/lab/a", Ok("http://localhost:9999/lab/a")),
            ("", "Paris", Ok("Paris")),
            ("keyed", "http://localhost:8253/KEY/lab/a", Ok("https://dav.example/v1/a")),
            ("keyed", "/KEY/lab/a", Ok("https://dav.example/v1/a")),
            ("keyed", "http://localhost:8253/lab/a", Ok("https://dav.example/v1/a")),
            ("named", "http://lab.localhost:8253/a", Ok("https://dav.example/v1/a")),
            ("named", "/a", Ok("https://dav.example/v1/a")),
            ("named", "/v1/a", Ok("/v1/a")),
            ("", "http://localhost:8253/two/a", bad.clone()),
            ("", "http://localhost:8253/labs/a", bad.clone()),
            ("", "http://localhost:8253/lab/../two/a", bad.clone()),
            ("", "http://localhost:8253/lab/%2e%2e/two", bad.clone()),
            ("", "http://two.localhost:8253/a", bad.clone()),
            ("", "http://localhost:8300/lab/a", bad.clone()),
            ("named", "http://localhost:8253/lab/a", bad.clone()),
            ("", "http:\\\\localhost:8253\\lab", bad.clone()),
            ("", "/lab/../x", bad.clone()),
            ("", "https://dav.example/v1/../x", bad),
            ("", "http://localhost:8253/lab/denied", denied.clone()),
            ("", "/lab/denied", denied.clone()),
            ("", "/v1/denied", denied.clone()),
            ("", "https://dav.example/v1/denied", denied.clone()),
            ("", "http://DAV.example/v1/denied", denied.clone()),
            ("", "//dav.example/v1/denied", denied.clone()),
            ("", "https://dav.example/v2/x", denied.clone()),
            ("", "/v2/x", denied),
        ];
        for (way, given, expected) in rows {
            let given = given.replace("KEY", KEY);
            let expected = expected.map(|expected| Some(expected.to_owned()));
            assert_eq!(translated(way, "destination", &given), expected, "{way} {given}");
        }
    }

    #[test]
    fn the_tags_of_if_are_the_upstreams_and_what_is_in_parentheses_stays() {
        let rows = [
            (
                "(<urn:uuid:1> [\"http://localhost:8253/lab/)\"])",
                Some("(<urn:uuid:1> [\"http://localhost:8253/lab/)\"])"),
            ),
            (
                "<http://localhost:8253/lab/a> (<urn:uuid:1>) (Not <DAV:no-lock>) </lab/b> ([\"x\"])",
                Some(
                    "<https://dav.example/v1/a> (<urn:uuid:1>) (Not <DAV:no-lock>) <https://dav.example/v1/b> ([\"x\"])",
                ),
            ),
            ("<https://dav.example/v1/a> (<urn:uuid:1>)", Some("<https://dav.example/v1/a> (<urn:uuid:1>)")),
            ("<http://localhost:8253/two/a> (<urn:uuid:1>)", None),
            ("<http://localhost:8253/lab/a (<urn:uuid:1>", None),
            ("(<urn:uuid:1>", None),
        ];
        for (given, expected) in rows {
            let expected =
                expected.map(|expected| Some(expected.to_owned())).ok_or(ProxyError::BadRequest("If cannot be read"));
            assert_eq!(translated("", "if", given), expected, "{given}");
        }
    }

    #[test]
    fn the_page_that_a_request_comes_from_is_the_upstreams_or_goes_if_it_is_another_of_ours() {
        let rows = [
            ("", "http://localhost:8253/lab/a?b", Some("https://dav.example/v1/a?b")),
            ("keyed", "http://localhost:8253/KEY/lab/a", Some("https://dav.example/v1/a")),
            ("named", "http://lab.localhost:8253/", Some("https://dav.example/v1/")),
            ("", "https://elsewhere.example/KEY", Some("https://elsewhere.example/KEY")),
            ("", "http://localhost:8253/", None),
            ("", "http://localhost:8253/two/a", None),
            ("", "http://two.localhost:8253/a", None),
            ("", "http://localhost:8253\\two", None),
        ];
        for (way, given, expected) in rows {
            let given = given.replace("KEY", KEY);
            let expected = expected.map(|expected| expected.replace("KEY", KEY));
            assert_eq!(translated(way, "referer", &given), Ok(expected), "{way} {given}");
        }
        let origin = translated("", "origin", "http://localhost:8253");
        assert_eq!(origin, Ok(Some("https://dav.example".to_owned())));
    }
}
