//! What requests and upstreams can feed to the proxy's pure parts. See [`crate::fuzzing`].

use hyper::header::{CONTENT_LOCATION, HeaderMap, HeaderValue, LOCATION, SET_COOKIE};
use hyper::{Method, Uri, Version};

use super::guard::{self, Admission, Caller, Door};
use super::headers::Survey;
use super::{rewrite, route};
use crate::config::Origin;
use crate::config::path::{PathPattern, Reading, RefusedPath};

/// A request's target: whatever the guard lets through leads nowhere but below the route, however often the upstream
/// decodes it.
pub fn request_path(data: &[u8]) {
    let Ok(target) = Uri::try_from(data) else { return };
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("localhost:8253"));
    let survey = Survey::of(&headers);
    let door = Door { port: Some(8253), key_required: false, caller: Caller::NotAsked };
    let admission = Admission { uids: &[], hosts: &[], keyed: false };
    let admitted = guard::admit(door, admission, &Method::GET, &target, Version::HTTP_11, &headers, &survey);
    if admitted.is_err() || route::check_path(target.path()).is_err() {
        return;
    }
    let Some(found) = route::find(|name| (name == "lab").then_some(0), None, "localhost", target.path()) else {
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

/// An answer's links: each line is a value, its first byte chooses the field.
pub fn links(data: &[u8]) {
    let origin = Origin { tls: data.len().is_multiple_of(2), host: "api.example".into(), port: 443 };
    let bases = ["", "/v1"];
    let prefixes = ["", "/lab"];
    let mapping = rewrite::Mapping {
        origin: &origin,
        base_path: bases[data.len() / 2 % 2],
        local_authority: "localhost:8253",
        prefix: prefixes[data.len() / 4 % 2],
    };
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').filter(|line| line.len() > 1) {
        let Ok(value) = HeaderValue::from_bytes(&line[1..]) else { continue };
        let name = [LOCATION, CONTENT_LOCATION, SET_COOKIE][usize::from(line[0]) % 3].clone();
        headers.append(name, value);
    }
    let before = headers.clone();
    rewrite::links(&mut headers, &mapping);
    assert_eq!(before.len(), headers.len(), "no field is lost");
    for (old, new) in before.get_all(LOCATION).iter().zip(headers.get_all(LOCATION)) {
        let (Ok(old), Ok(new)) = (old.to_str(), new.to_str()) else { continue };
        let is_absolute =
            |link: &str| link.starts_with("//") || link.split('/').next().is_some_and(|s| s.ends_with(':'));
        if old != new
            && is_absolute(old)
            && !["api.example", "localhost:8253"].iter().any(|ours| old.to_ascii_lowercase().contains(ours))
        {
            assert!(!new.starts_with("http://localhost:8253"), "a link to elsewhere leads here: {old} became {new}");
        }
        assert!(new.contains("//") || old.contains("//") || !new.starts_with("//"), "{old} became {new}");
        assert!(!new.starts_with("//"), "{old} became {new}: a link to another host");
    }
    for cookie in headers.get_all(SET_COOKIE) {
        let Ok(cookie) = cookie.to_str() else { continue };
        let attributes = cookie.split(';').skip(1).map(|part| part.split('=').next().unwrap_or_default().trim());
        assert!(attributes.into_iter().all(|name| !name.eq_ignore_ascii_case("domain")), "{cookie}");
    }
}
