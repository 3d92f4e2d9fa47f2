//! The client key that a request presents, taken off it. Pure.
//!
//! As `X-Valetd-Key`, as the user name of Basic credentials (`http://vk_...@localhost:8253/...`), as a Bearer token, or,
//! for tools that can be told nothing but a URL, as the path's first segment. Whichever it was, nothing of it is left:
//! what goes on is the request as it would be without a key.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, REFERER};
use hyper::http::uri::{PathAndQuery, Uri};
use zeroize::Zeroizing;

use crate::client_keys::{self, LENGTH, PREFIX};
use crate::proxy::policy::error::{Check, ProxyError};
use crate::proxy::policy::head::HeadFlags;

/// The field's name as it should be written.
const FIELD: HeaderName = HeaderName::from_static("x-valetd-key");

/// As some servers read the name above, and so never let through either.
const SPELLING: HeaderName = HeaderName::from_static("x_valetd_key");

/// A key that was presented.
pub(crate) struct Presented {
    /// The key itself.
    pub(crate) key: Zeroizing<String>,
    /// Whether it was the path's first segment, and so belongs into every address that we write for this client.
    pub(crate) in_path: bool,
}

/// Whether a request could present a key: a field that may carry one is among those that never go upstream.
pub(crate) fn may_be_there(target: &Uri, flags: &HeadFlags) -> bool {
    flags.never_forwarded || has_key_segment(target.path())
}

/// Takes the key off a request. `None`, as for nearly all requests, if it presents none.
pub(crate) fn take(target: &mut Uri, headers: &mut HeaderMap) -> Result<Option<Presented>, ProxyError> {
    let in_field = headers.contains_key(FIELD) || headers.contains_key(SPELLING);
    let in_path = has_key_segment(target.path());
    let in_credentials = headers.get(AUTHORIZATION).and_then(|value| in_credentials(value.as_bytes()));
    if !in_field && !in_path && in_credentials.is_none() {
        return Ok(None);
    }
    let mut found: Option<Zeroizing<String>> = in_credentials;
    let mut present = |key: &[u8]| {
        // what is not even text is a wrong key, like any other
        let key = Zeroizing::new(String::from_utf8_lossy(key).into_owned());
        match &found {
            Some(other) if *other != key => Err(ProxyError::NotAllowed(Check::Key)),
            _ => {
                found = Some(key);
                Ok(())
            }
        }
    };
    if in_path {
        present(&target.path().as_bytes()[1..=LENGTH])?;
        *target = without_segment(target);
    }
    if in_field {
        for field in [FIELD, SPELLING] {
            headers.get_all(&field).iter().try_for_each(|value| present(value.as_bytes()))?;
            headers.remove(&field);
        }
    }
    // a page that was fetched with the key in its address would tell the upstream of it
    if headers.get(REFERER).is_some_and(|page| contains_key(page.as_bytes())) {
        headers.remove(REFERER);
    }
    Ok(found.map(|key| Presented { key, in_path }))
}

/// A path as it may be shown: without what is, or was meant to be, a key.
pub(crate) fn without_first_key(path: &str) -> &str {
    let Some(rest) = path.strip_prefix('/').filter(|rest| rest.starts_with(PREFIX)) else { return path };
    rest.find('/').map_or("/", |end| &rest[end..])
}

/// What is shown where a whole key was.
const REDACTED: &str = "[key]";

/// Redacts keys in a path, wherever else a client may have put one, as in `//vk_...` or `/gbdx/vk_...`, with what they
/// cannot be told from.
pub(crate) fn redact(path: &mut String) {
    let mut at = 0;
    while let Some(found) = path[at..].find(PREFIX) {
        at += found;
        let is_of_key = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let length = path.bytes().skip(at).take_while(is_of_key).count();
        if length < LENGTH {
            at += length;
        } else {
            path.replace_range(at..at + length, REDACTED);
            at += REDACTED.len();
        }
    }
}

fn has_key_segment(path: &str) -> bool {
    path.starts_with("/vk_")
        && path.get(1..=LENGTH).is_some_and(client_keys::looks_like_key)
        && matches!(path.as_bytes().get(LENGTH + 1), None | Some(b'/'))
}

fn contains_key(bytes: &[u8]) -> bool {
    bytes.windows(LENGTH).any(|part| std::str::from_utf8(part).is_ok_and(client_keys::looks_like_key))
}

/// The key in `Authorization`; what else may be there is the client's own business, and dropped later.
fn in_credentials(value: &[u8]) -> Option<Zeroizing<String>> {
    let (scheme, rest) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    let rest = rest.trim();
    let key = if scheme.eq_ignore_ascii_case("bearer") {
        Zeroizing::new(rest.to_owned())
    } else if scheme.eq_ignore_ascii_case("basic") {
        let pair = Zeroizing::new(STANDARD.decode(rest).ok()?);
        let user = pair.split(|byte| *byte == b':').next()?;
        Zeroizing::new(std::str::from_utf8(user).ok()?.to_owned())
    } else {
        return None;
    };
    key.starts_with(PREFIX).then_some(key)
}

/// The target without its path's first segment.
fn without_segment(target: &Uri) -> Uri {
    let rest = &target.path()[1 + LENGTH..];
    let rest = if rest.is_empty() { "/" } else { rest };
    let text = match target.query() {
        Some(query) => format!("{rest}?{query}"),
        None => rest.to_owned(),
    };
    let mut parts = target.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(text).expect("pieces of what was a target before"));
    Uri::from_parts(parts).expect("only the path is another")
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    const KEY: &str = "vk_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG";
    const OTHER: &str = "vk_GFEDCBAzyxwvutsrqponmlkjihgfedcba9876543210";

    /// The key, and whether it was in the path.
    type Found = Result<Option<(String, bool)>, ProxyError>;
    type Fields<'a> = Vec<(&'a str, &'a str)>;

    fn taken(target: &str, fields: &[(&str, &str)]) -> (Found, String, HeaderMap) {
        let mut request = Request::builder().uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        let found = take(&mut head.uri, &mut head.headers);
        let found = found.map(|found| found.map(|found| (found.key.to_string(), found.in_path)));
        (found, head.uri.to_string(), head.headers)
    }

    #[test]
    fn a_key_is_found_wherever_a_tool_can_put_it() {
        let basic = format!("Basic {}", STANDARD.encode(format!("{KEY}:")));
        let with_password = format!("basic {}", STANDARD.encode(format!("{KEY}:x")));
        let (bearer, in_path, alone) = (format!("Bearer {KEY}"), format!("/{KEY}/gbdx/x?q=1"), format!("/{KEY}"));
        let absolute = format!("http://localhost:8253/{KEY}/gbdx");
        let found = |in_path| Ok(Some((KEY.to_owned(), in_path)));
        let rows: Vec<(&str, &str, Fields<'_>, Found, &str)> = vec![
            ("none", "/gbdx/x", vec![("authorization", "Basic bWU6cHc=")], Ok(None), "/gbdx/x"),
            ("field", "/gbdx/x", vec![("X-Valetd-Key", KEY)], found(false), "/gbdx/x"),
            ("field, other spelling", "/gbdx/x", vec![("X_Valetd_Key", KEY)], found(false), "/gbdx/x"),
            ("Basic", "/gbdx/x", vec![("authorization", &basic)], found(false), "/gbdx/x"),
            ("Basic with password", "/gbdx/x", vec![("authorization", &with_password)], found(false), "/gbdx/x"),
            ("Bearer", "/gbdx/x", vec![("authorization", &bearer)], found(false), "/gbdx/x"),
            ("path", &in_path, vec![], found(true), "/gbdx/x?q=1"),
            ("path alone", &alone, vec![], found(true), "/"),
            ("absolute form", &absolute, vec![], found(true), "http://localhost:8253/gbdx"),
            ("twice the same", &in_path, vec![("X-Valetd-Key", KEY)], found(true), "/gbdx/x?q=1"),
            ("not quite a key", "/vk_short/x", vec![], Ok(None), "/vk_short/x"),
            ("somebody else's token", "/x", vec![("authorization", "Bearer abc")], Ok(None), "/x"),
        ];
        for (case, target, fields, expected, then) in rows {
            let (found, target, headers) = taken(target, &fields);
            assert_eq!((found, target.as_str()), (expected, then), "{case}");
            assert!(!headers.contains_key(FIELD) && !headers.contains_key(SPELLING), "{case}");
        }
    }

    #[test]
    fn two_different_keys_are_no_key() {
        let refused = Err(ProxyError::NotAllowed(Check::Key));
        assert_eq!(taken(&format!("/{KEY}/x"), &[("x-valetd-key", OTHER)]).0, refused);
        assert_eq!(taken("/x", &[("x-valetd-key", OTHER), ("x-valetd-key", KEY)]).0, refused);
        assert_eq!(taken("/x", &[("x-valetd-key", OTHER), ("authorization", &format!("Bearer {KEY}"))]).0, refused);
    }

    #[test]
    fn no_page_tells_the_upstream_of_the_key_in_its_address() {
        let page = format!("http://localhost:8253/{KEY}/gbdx/page");
        let (_, _, headers) = taken(&format!("/{KEY}/gbdx/x"), &[("referer", &page), ("x-a", "b")]);
        assert!(!headers.contains_key(REFERER) && headers.contains_key("x-a"));
        let (_, _, headers) = taken(&format!("/{KEY}/gbdx/x"), &[("referer", "http://localhost:8253/")]);
        assert!(headers.contains_key(REFERER));
    }

    #[test]
    fn paths_are_shown_without_keys_and_what_was_meant_for_one() {
        let rows = [
            (format!("/{KEY}/gbdx/x"), "/gbdx/x"),
            ("/vk_mistyped/gbdx".into(), "/gbdx"),
            (format!("/{KEY}"), "/"),
            ("/gbdx/vk_x".into(), "/gbdx/vk_x"),
        ];
        for (path, expected) in rows {
            assert_eq!(without_first_key(&path), expected);
        }
    }

    #[test]
    fn whole_keys_are_redacted_in_a_path_wherever_they_are() {
        for (path, expected) in [
            (format!("//{KEY}/gbdx/x"), "//[key]/gbdx/x"),
            (format!("/gbdx/{KEY}{OTHER}"), "/gbdx/[key]"),
            (format!("/gbdx/vk_{KEY}é/vk_{KEY}"), "/gbdx/[key]é/[key]"),
            (format!("/gbdx/{}", &KEY[1..]), &*format!("/gbdx/{}", &KEY[1..])),
            ("/gbdx/vk_é".into(), "/gbdx/vk_é"),
            ("/vk_".into(), "/vk_"),
        ] {
            let mut shown = path.clone();
            redact(&mut shown);
            assert_eq!(shown, expected, "{path}");
        }
    }
}
