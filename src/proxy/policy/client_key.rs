//! The client key that a request presents, taken off it. Pure.
//!
//! As `X-Valetd-Key`, as `X-Api-Key` or `Api-Key`, as user name or password of Basic credentials
//! (`http://vk_...@localhost:8253/...`), as a Bearer token, or, for tools that can be told nothing but a URL, as the path's
//! first segment. Whichever it was, nothing of it is left: what goes on is the request as it would be without a key.
//!
//! A key anywhere else in a request's head is refused ([`Check::KeyMisplaced`]), plain or percent-encoded: it was not
//! meant for the upstream, and who presented it did not mean to go without.

use std::borrow::Cow;
use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, REFERER};
use hyper::http::uri::{PathAndQuery, Uri};
use zeroize::Zeroizing;

use crate::client_keys::{self, LENGTH, PREFIX};
use crate::proxy::policy::error::{Check, ProxyError};
use crate::proxy::policy::head::HeadFlags;

/// The field's name as it should be written, and as some servers read it; neither is ever let through.
const FIELDS: [HeaderName; 2] = [HeaderName::from_static("x-valetd-key"), HeaderName::from_static("x_valetd_key")];

/// Fields that SDKs put an API's key in. What has not the form of ours is for the upstream.
const API_FIELDS: [HeaderName; 4] = [
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x_api_key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("api_key"),
];

/// Fields in which a client that has the key in its address names that address as well (RFC 4918 sections 10.3 and 10.4).
const ADDRESS_FIELDS: [HeaderName; 2] = [HeaderName::from_static("destination"), HeaderName::from_static("if")];

/// Texts with the beginning of a key inside other words that are compared with the keys; of more, one is taken to be
/// there. Among 64 KiB of random base64url there is one in four times.
const MOST_COMPARED: usize = 8;

/// A key that was presented.
pub(crate) struct Presented {
    /// The key itself.
    pub(crate) key: Zeroizing<String>,
    /// Whether it was the path's first segment, and so belongs into every address that we write for this client.
    pub(crate) in_path: bool,
}

/// Whether a request could hold a key: in a field that never goes upstream, in a value that is long enough, or in its
/// target.
pub(crate) fn may_be_there(target: &Uri, flags: &HeadFlags) -> bool {
    flags.never_forwarded || flags.long_value || target_may_hold_key(target)
}

fn target_may_hold_key(target: &Uri) -> bool {
    let length = target.path_and_query().map_or(0, |target| target.as_str().len());
    length > LENGTH || target.authority().is_some_and(|authority| authority.as_str().len() > LENGTH)
}

/// Takes the key off a request. `None`, as for nearly all requests, if it presents none. `flags` are of these `headers`, and
/// say which fields need a look; `is_known` tells whether there is such a key, also one that has expired.
///
/// # Errors
///
/// If two different ones are presented, or one is where it is not looked for.
pub(crate) fn take(
    target: &mut Uri,
    headers: &mut HeaderMap,
    flags: &HeadFlags,
    is_known: impl Fn(&str) -> bool,
) -> Result<Option<Presented>, ProxyError> {
    let in_path = has_key_segment(target.path());
    let mut found: Option<Zeroizing<String>> = None;
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
    for field in FIELDS.iter().filter(|_| flags.never_forwarded) {
        headers.get_all(field).iter().try_for_each(|value| present(value.as_bytes()))?;
        headers.remove(field);
    }
    for field in API_FIELDS.iter().filter(|_| flags.long_value) {
        let mut is_ours = false;
        for value in headers.get_all(field) {
            if let Ok(key) = std::str::from_utf8(value.as_bytes()).map(str::trim)
                && client_keys::looks_like_key(key)
            {
                present(key.as_bytes())?;
                is_ours = true;
            }
        }
        if is_ours {
            headers.remove(field);
        }
    }
    if flags.never_forwarded {
        let mut is_ours = false;
        for value in headers.get_all(AUTHORIZATION) {
            for key in in_credentials(value.as_bytes())? {
                present(key.as_bytes())?;
                is_ours = true;
            }
        }
        if is_ours {
            headers.remove(AUTHORIZATION);
        }
    }
    if let Some(key) = found.as_ref().filter(|_| in_path) {
        remove_own_address(headers, key);
    }
    let mut search = Search { is_known, left: MOST_COMPARED };
    let target = [target.path_and_query().map(PathAndQuery::as_str), target.authority().map(|name| name.as_str())];
    let values = headers.values().filter(|_| flags.long_value).map(HeaderValue::as_bytes);
    let mut texts = target.into_iter().flatten().map(str::as_bytes).chain(values);
    if texts.any(|text| search.finds_key(text)) {
        return Err(ProxyError::NotAllowed(Check::KeyMisplaced));
    }
    Ok(found.map(|key| Presented { key, in_path }))
}

/// Removes the trailer fields of a request that hold what has the form of a key.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    let mut search = Search { is_known: |_: &str| true, left: MOST_COMPARED };
    let holding = trailers.iter().filter(|(_, value)| search.finds_key(value.as_bytes()));
    for name in holding.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
        trailers.remove(name);
    }
}

/// A client with the key in its address may say where it is: a page that was fetched with it, which the upstream is not
/// told of at all, or another resource beside it, whose address goes on without the key.
fn remove_own_address(headers: &mut HeaderMap, key: &str) {
    if headers.get_all(REFERER).iter().any(|page| contains(page.as_bytes(), key.as_bytes())) {
        headers.remove(REFERER);
    }
    let segment = format!("/{key}/");
    for (_, value) in headers.iter_mut().filter(|(name, _)| ADDRESS_FIELDS.contains(name)) {
        let Ok(text) = std::str::from_utf8(value.as_bytes()) else { continue };
        if text.contains(&segment) {
            *value = HeaderValue::from_str(&text.replace(&segment, "/")).expect("pieces of what was a value before");
        }
    }
}

/// A search for keys where none is meant to be.
struct Search<F> {
    is_known: F,
    /// How many more texts may be compared with the keys.
    left: usize,
}

impl<F: Fn(&str) -> bool> Search<F> {
    /// Whether a text holds a key: one that stands for itself, or one of ours inside another word. A long random word,
    /// such as a JSON Web Token, may hold what only looks like one.
    fn finds_key(&mut self, text: &[u8]) -> bool {
        if text.len() < LENGTH {
            return false;
        }
        let text = decoded(text);
        let mut found = false;
        for at in runs(&text) {
            let word = &text[at];
            let Some(first) = find(word, PREFIX.as_bytes()) else { continue };
            if first == 0 && word.len() == LENGTH {
                return true;
            }
            for at in first..=word.len() - LENGTH.min(word.len()) {
                let Some(key) = word.get(at..at + LENGTH).filter(|key| key.starts_with(PREFIX.as_bytes())) else {
                    continue;
                };
                if self.left == 0 {
                    return true;
                }
                self.left -= 1;
                found |= std::str::from_utf8(key).is_ok_and(&self.is_known);
            }
        }
        found
    }
}

/// Percent-decodes as often as there is something to decode, in one pass: `%2576` is a `v`.
fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'%') {
        return Cow::Borrowed(text);
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut bytes: Vec<u8> = Vec::with_capacity(text.len());
    for byte in text {
        bytes.push(*byte);
        while let [.., b'%', high, low] = bytes[..]
            && let (Some(high), Some(low)) = (digit(high), digit(low))
        {
            bytes.truncate(bytes.len() - 3);
            bytes.push(u8::try_from(16 * high + low).expect("two hexadecimal digits"));
        }
    }
    Cow::Owned(bytes)
}

/// The words of the letters that a key has.
fn runs(text: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        at += text[at..].iter().position(|byte| is_of_key(*byte))?;
        let start = at;
        at += text[at..].iter().position(|byte| !is_of_key(*byte)).unwrap_or(text.len() - at);
        Some(start..at)
    })
}

fn is_of_key(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|part| part == wanted)
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    find(&decoded(text), wanted).is_some()
}

/// A path as it may be shown: without what is, or was meant to be, a key.
pub(crate) fn without_first_key(path: &str) -> &str {
    let Some(rest) = path.strip_prefix('/').filter(|rest| rest.starts_with(PREFIX)) else { return path };
    rest.find('/').map_or("/", |end| &rest[end..])
}

/// What is shown where a whole key was.
const REDACTED: &str = "[key]";

/// Redacts keys in a path or another word of a request, wherever else a client may have put one, as in `//vk_...` or
/// `/gbdx/vk_...`, with what they cannot be told from; of segments that hold one in percent-encoding, nothing is left.
pub(crate) fn redact(path: &mut String) {
    let mut at = 0;
    while let Some(found) = path[at..].find(PREFIX) {
        at += found;
        let length = path.bytes().skip(at).take_while(|byte| is_of_key(*byte)).count();
        if length < LENGTH {
            at += length;
        } else {
            path.replace_range(at..at + length, REDACTED);
            at += REDACTED.len();
        }
    }
    if path.contains('%') {
        let hides_key = |segment: &str| {
            let text = decoded(segment.as_bytes());
            runs(&text).any(|at| find(&text[at.clone()], PREFIX.as_bytes()).is_some_and(|key| at.len() - key >= LENGTH))
        };
        let shown = |segment| if hides_key(segment) { REDACTED } else { segment };
        *path = path.split('/').map(shown).collect::<Vec<_>>().join("/");
    }
}

fn has_key_segment(path: &str) -> bool {
    path.starts_with("/vk_")
        && path.get(1..=LENGTH).is_some_and(client_keys::looks_like_key)
        && matches!(path.as_bytes().get(LENGTH + 1), None | Some(b'/'))
}

/// The keys in `Authorization`; what else may be there is the client's own business, and dropped later.
fn in_credentials(value: &[u8]) -> Result<Vec<Zeroizing<String>>, ProxyError> {
    let Some((scheme, rest)) = std::str::from_utf8(value).ok().and_then(|value| value.split_once(' ')) else {
        return Ok(Vec::new());
    };
    let rest = rest.trim();
    let words: Vec<Zeroizing<String>> = if scheme.eq_ignore_ascii_case("bearer") {
        vec![Zeroizing::new(rest.to_owned())]
    } else if scheme.eq_ignore_ascii_case("basic") {
        let Ok(pair) = STANDARD.decode(rest).map(Zeroizing::new) else { return Ok(Vec::new()) };
        pair.splitn(2, |byte| *byte == b':')
            .filter_map(|word| std::str::from_utf8(word).ok())
            .map(|word| Zeroizing::new(word.to_owned()))
            .collect()
    } else {
        return Ok(Vec::new());
    };
    let keys: Vec<_> = words.iter().filter(|word| word.starts_with(PREFIX)).cloned().collect();
    let mut search = Search { is_known: |_: &str| true, left: MOST_COMPARED };
    if keys.is_empty() && scheme.eq_ignore_ascii_case("basic") && words.iter().any(|w| search.finds_key(w.as_bytes())) {
        return Err(ProxyError::NotAllowed(Check::KeyMisplaced));
    }
    Ok(keys)
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
        let flags = HeadFlags::of(&head.headers);
        let found = take(&mut head.uri, &mut head.headers, &flags, |key| key == KEY);
        let found = found.map(|found| found.map(|found| (found.key.to_string(), found.in_path)));
        (found, head.uri.to_string(), head.headers)
    }

    #[test]
    fn a_key_is_found_wherever_a_tool_can_put_it() {
        let basic = format!("Basic {}", STANDARD.encode(format!("{KEY}:")));
        let with_password = format!("basic {}", STANDARD.encode(format!("{KEY}:x")));
        let as_password = format!("Basic {}", STANDARD.encode(format!("me:{KEY}")));
        let as_both = format!("Basic {}", STANDARD.encode(format!("{KEY}:{KEY}")));
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
            ("Basic's password", "/gbdx/x", vec![("authorization", &as_password)], found(false), "/gbdx/x"),
            ("Basic, both", "/gbdx/x", vec![("authorization", &as_both)], found(false), "/gbdx/x"),
            ("an SDK's field", "/gbdx/x", vec![("x-api-key", KEY)], found(false), "/gbdx/x"),
            ("an SDK's field, other spelling", "/gbdx/x", vec![("X_API_Key", KEY)], found(false), "/gbdx/x"),
            ("another SDK's field", "/gbdx/x", vec![("Api-Key", KEY)], found(false), "/gbdx/x"),
            (
                "second credentials",
                "/x",
                vec![("authorization", "Basic bWU6cHc="), ("authorization", &bearer)],
                found(false),
                "/x",
            ),
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
            assert!(!FIELDS.iter().chain(&API_FIELDS).any(|field| headers.contains_key(field)), "{case}");
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
    fn a_key_where_none_is_meant_is_refused_in_every_spelling() {
        let every_byte = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
        let twice = |text: &str| every_byte(text).replace('%', "%25");
        let (some, glued) = (KEY.replacen("vk_", "%76k_", 1), format!("x{KEY}y"));
        let jwt = format!("eyJ{OTHER}aaa");
        for (spelling, text, expected) in [
            ("plain", KEY.to_owned(), true),
            ("somebody else's", OTHER.to_owned(), true),
            ("a letter encoded", some.clone(), true),
            ("in upper case", some.replace("%76", "%56").replace("%56k", "%76K").replace('K', "%6B"), true),
            ("every byte", every_byte(KEY), true),
            ("every byte twice", twice(KEY), true),
            ("three times", twice(KEY).replace('%', "%25"), true),
            ("inside a word", glued, true),
            ("what only looks like one, inside a word", jwt, false),
            ("one byte short", KEY[..LENGTH - 1].to_owned(), false),
            ("a longer word of somebody's", format!("{OTHER}a"), false),
        ] {
            let basic = format!("Basic {}", STANDARD.encode(format!("me:x {text}")));
            let page = format!("http://localhost:8253/{text}/gbdx/page");
            let places: Vec<(&str, String, Fields<'_>)> = vec![
                ("first segment", format!("//{text}/gbdx/x"), vec![]),
                ("later segment", format!("/gbdx/{text}"), vec![]),
                ("segment's parameter", format!("/gbdx;k={text}/x"), vec![]),
                ("query", format!("/gbdx/x?key={text}"), vec![]),
                ("Referer", "/gbdx/x".into(), vec![("referer", &page)]),
                ("Cookie", "/gbdx/x".into(), vec![("cookie", &text)]),
                ("any field, last", "/gbdx/x".into(), vec![("x-a", "b"), ("x-a", &text)]),
                ("another scheme", "/gbdx/x".into(), vec![("authorization", &page)]),
                ("inside Basic", "/gbdx/x".into(), vec![("authorization", &basic)]),
                ("Destination", "/gbdx/x".into(), vec![("destination", &page)]),
            ];
            for (place, target, fields) in places {
                // of Basic credentials nothing goes upstream, so that no key has to be known to refuse what looks like one
                if place == "inside Basic" && !expected {
                    continue;
                }
                let refused = taken(&target, &fields).0 == Err(ProxyError::NotAllowed(Check::KeyMisplaced));
                assert_eq!(refused, expected, "{spelling}, {place}");
                let beside = [&fields[..], &[("x-valetd-key", OTHER)]].concat();
                let refused = taken(&target, &beside).0 == Err(ProxyError::NotAllowed(Check::KeyMisplaced));
                assert_eq!(refused, expected, "{spelling}, {place}, beside another key");
            }
        }
    }

    #[test]
    fn a_client_with_the_key_in_its_address_may_name_addresses_beside_it() {
        let there = format!("http://localhost:8253/{KEY}/gbdx/b");
        let tagged = format!("<{there}> (<urn:uuid:1>)");
        let fields = [("destination", &*there), ("if", &*tagged)];
        let (found, _, headers) = taken(&format!("/{KEY}/gbdx/a"), &fields);
        assert!(found.is_ok());
        assert_eq!(headers["destination"], "http://localhost:8253/gbdx/b");
        assert_eq!(headers["if"], "<http://localhost:8253/gbdx/b> (<urn:uuid:1>)");
        let refused = Err(ProxyError::NotAllowed(Check::KeyMisplaced));
        assert_eq!(taken(&format!("/{OTHER}/gbdx/a"), &fields).0, refused, "by another key");
    }

    #[test]
    fn a_flood_of_words_that_begin_like_keys_is_compared_with_few() {
        let compared = std::cell::Cell::new(0);
        let is_known = |_: &str| {
            compared.set(compared.get() + 1);
            false
        };
        let mut headers = HeaderMap::new();
        headers.insert("x-a", HeaderValue::from_str(&"vk_".repeat(5000)).unwrap());
        let flags = HeadFlags::of(&headers);
        let refused = take(&mut Uri::from_static("/x"), &mut headers, &flags, is_known).err();
        assert_eq!((refused, compared.get()), (Some(ProxyError::NotAllowed(Check::KeyMisplaced)), MOST_COMPARED));
    }

    #[test]
    fn trailers_with_keys_do_not_pass() {
        let mut trailers = HeaderMap::new();
        for (name, value) in [("x-a", format!("a {KEY}")), ("x-b", "b".into()), ("x-c", KEY.replace('k', "%6b"))] {
            trailers.append(name, HeaderValue::from_str(&value).unwrap());
        }
        clean_trailers(&mut trailers);
        assert_eq!(trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-b"]);
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
            (format!("/gbdx/{}/x%20y", KEY.replacen("vk_", "v%6B_", 1)), "/gbdx/[key]/x%20y"),
            (format!("/a%2F{KEY}/x"), "/a%2F[key]/x"),
            (format!("/%2576{}/x", &KEY[1..]), "/[key]/x"),
            ("/vk_".into(), "/vk_"),
        ] {
            let mut shown = path.clone();
            redact(&mut shown);
            assert_eq!(shown, expected, "{path}");
        }
    }
}
