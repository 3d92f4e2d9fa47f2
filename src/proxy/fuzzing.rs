//! What requests and upstreams can feed to the proxy's pure parts. See [`crate::fuzzing`].

use hyper::header::{CONTENT_LOCATION, HeaderMap, HeaderValue, LOCATION, SET_COOKIE};
use hyper::{Method, Uri, Version};

use crate::config::{Origin, RouteName};
use crate::path_rules::{PathPattern, Reading, RefusedPath};
use crate::proxy::peer::{Peer, Process};
use crate::proxy::policy::guard::{self, Admission};
use crate::proxy::policy::head::{Head, HeadFlags};
use crate::proxy::policy::ingress::Ingress;
use crate::proxy::policy::rewrite::{self, OwnListener};
use crate::proxy::policy::route;
use crate::proxy::policy::scope::Scope;

/// A request's target: whatever the guard lets through leads nowhere but below the route, however often the upstream
/// decodes it.
pub fn request_path(data: &[u8]) {
    let Ok(target) = Uri::try_from(data) else { return };
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("localhost:8253"));
    let flags = HeadFlags::of(&headers);
    let head = Head { method: &Method::GET, target: &target, version: Version::HTTP_11, headers: &headers, flags };
    let ingress = Ingress::loopback(Scope::All);
    let peer = Peer { addresses: None, process: Process::NotAsked };
    let admission = Admission { uids: &[], hosts: &[], keyed: false };
    let admitted = guard::admit(&ingress, &peer, admission, &head);
    if admitted.is_err() || route::check_path(target.path()).is_err() {
        return;
    }
    let Some(found) = ingress.find(|name| (name == "lab").then_some(0), "localhost", target.path()) else {
        return;
    };
    let rest = &target.path()[found.prefix..];
    let refuse = vec![RefusedPath::new("/base/oauth")];
    let is_refused = route::is_refused(&refuse, "/base", rest);
    let is_denied = PathPattern::parse("/oauth/**").expect("a pattern").matches_possibly(&Reading::of(rest));
    let sent = route::target("/base", found.prefix, &target).expect("there is a base path");
    let sent = sent.to_string();
    assert!(sent.starts_with("/base"), "{sent}");
    assert_eq!(sent["/base".len()..], target.path_and_query().expect("it has a path").as_str()[found.prefix..]);
    // as a careless upstream sees it
    let mut seen = format!("/base{rest}").into_bytes();
    for decoded in 0..3 {
        let mut path: Vec<&[u8]> = Vec::new();
        for segment in seen.split(|byte| matches!(byte, b'/' | b'\\')) {
            let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
            match name {
                b"." | b".." => panic!("decoded {decoded} times, {target} has a dot segment"),
                b"" => {}
                _ => path.push(name),
            }
        }
        if path.starts_with(&[b"base", b"oauth"]) {
            assert!(is_refused, "decoded {decoded} times, {target} leads to a refused path");
            assert!(is_denied, "decoded {decoded} times, {target} leads to a denied path");
        }
        seen = percent_encoding::percent_decode(&seen).collect();
    }
}

/// A response's references: each line is a value, its first byte chooses the field. Whatever the upstream says, no client
/// that follows it comes to the other account's route.
pub fn links(data: &[u8]) {
    let origin = Origin { tls: data.len().is_multiple_of(2), host: "api.example".into(), port: 443 };
    let bases = ["", "/v1"];
    let prefixes = ["", "/lab"];
    let asked = ["", "/x/y"];
    let prefix = prefixes[data.len() / 4 % 2];
    let own_route = RouteName::new("lab").filter(|_| prefix.is_empty());
    let ingress = Ingress::loopback(own_route.clone().map_or(Scope::All, Scope::Own));
    let mapping = rewrite::Mapping {
        origin: &origin,
        base_path: bases[data.len() / 2 % 2],
        asked: asked[data.len() / 8 % 2],
        local_authority: "localhost:8253",
        prefix,
        route_prefix: prefix,
        own: rewrite::OwnAddresses {
            listeners: &[OwnListener { port: 8253, route: own_route.clone(), is_open: false, is_lent: false }],
            hosts: &[],
            ingress: &ingress,
            shares_account: &|name| match name {
                "lab" => Some(true),
                "two" => Some(false),
                _ => None,
            },
            sibling: &|_, _| None,
        },
    };
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').filter(|line| line.len() > 1) {
        let Ok(value) = HeaderValue::from_bytes(&line[1..]) else { continue };
        let name = [LOCATION, CONTENT_LOCATION, SET_COOKIE][usize::from(line[0]) % 3].clone();
        headers.append(name, value);
    }
    rewrite::links(&mut headers, &mapping);
    for name in [LOCATION, CONTENT_LOCATION] {
        for value in &headers.get_all(name) {
            let bytes = value.as_bytes();
            let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
            assert!(bytes.is_ascii() || !prefix.is_empty() || !text.starts_with("//"), "{text}: another host's");
            if prefix.is_empty() {
                continue; // all that is at this address is the route's own
            }
            let here = "http://localhost:8253";
            let path = match text.to_ascii_lowercase().strip_prefix(here) {
                Some(path) => path.to_owned(),
                None if text.starts_with('/') => text.clone(),
                None if text.contains("://") => continue,
                None => format!("{prefix}{}{text}", if mapping.asked.is_empty() { "/../" } else { "/x/" }),
            };
            // as a careless client sees it
            let path = path.split(['?', '#']).next().unwrap_or_default().replace('\\', "/").replace("%2e", ".");
            let mut segments: Vec<&str> = Vec::new();
            for segment in path.split('/') {
                match segment {
                    "" | "." => {}
                    ".." => drop(segments.pop()),
                    _ => segments.push(segment),
                }
            }
            assert_ne!(segments.first(), Some(&"two"), "{text} leads to another account's route");
        }
    }
    for cookie in headers.get_all(SET_COOKIE) {
        let Ok(cookie) = cookie.to_str() else { continue };
        let attributes = cookie.split(';').skip(1).map(|part| part.split('=').next().unwrap_or_default().trim());
        assert!(attributes.into_iter().all(|name| !name.eq_ignore_ascii_case("domain")), "{cookie}");
    }
}
