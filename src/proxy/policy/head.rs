//! A request's head, and what one look at all of its fields has found. Pure.

use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, FORWARDED, HOST,
    HeaderMap, HeaderName, ORIGIN, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, REFERER, TE, TRANSFER_ENCODING, UPGRADE,
    USER_AGENT, VIA,
};
use hyper::{Method, Uri, Version};

use crate::client_keys;
use crate::proxy::policy::overrides::is_of_another_proxy;

/// A request's head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    pub(crate) method: &'a Method,
    pub(crate) target: &'a Uri,
    pub(crate) version: Version,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) flags: HeadFlags,
}

impl<'a> Head<'a> {
    /// The head of `request`, whose fields `flags` were found in.
    pub(crate) fn of<B>(request: &'a hyper::Request<B>, flags: HeadFlags) -> Self {
        let (method, target, headers) = (request.method(), request.uri(), request.headers());
        Self { method, target, version: request.version(), headers, flags }
    }
}

/// What is in a request's head, as far as anybody has to act on it.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct HeadFlags {
    pub(crate) hosts: u8,
    pub(crate) origin: bool,
    /// A field that only browsers send: `Sec-Fetch-...`, `Service-Worker`.
    pub(crate) browser: bool,
    pub(crate) transfer_encoding: bool,
    pub(crate) upgrade: bool,
    pub(crate) via: bool,
    pub(crate) connection: bool,
    pub(crate) te: bool,
    pub(crate) expect: bool,
    /// A field besides `Origin` that may refer to us: `Referer`, `Destination`, `If`.
    pub(crate) references: bool,
    /// A field that is never forwarded, which is rare.
    pub(crate) never_forwarded: bool,
    /// A value as long as a client key.
    pub(crate) long_value: bool,
}

impl HeadFlags {
    /// Looks once at every field.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut flags = HeadFlags::default();
        for (name, value) in headers {
            flags.long_value |= value.len() >= client_keys::LENGTH;
            match *name {
                HOST => flags.hosts = flags.hosts.saturating_add(1),
                CONNECTION => flags.connection = true,
                ORIGIN => flags.origin = true,
                TRANSFER_ENCODING => flags.transfer_encoding = true,
                UPGRADE => flags.upgrade = true,
                TE => flags.te = true,
                EXPECT => flags.expect = true,
                VIA => flags.via = true,
                REFERER => flags.references = true,
                // of nearly every request, and nobody's concern
                ACCEPT | ACCEPT_ENCODING | USER_AGENT | CONTENT_TYPE | CONTENT_LENGTH => {}
                _ if is_browsers(name) => flags.browser = true,
                _ if matches!(name.as_str(), "if" | "destination") => flags.references = true,
                _ => flags.never_forwarded |= is_never_forwarded(name),
            }
        }
        flags
    }
}

fn is_browsers(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("sec-fetch-") || name == "service-worker"
}

/// Names that are never forwarded, also with `_` in place of any `-`, which some servers take for it: credentials.
const CREDENTIALS: [&str; 4] = ["proxy-connection", "authorization", "proxy-authorization", "x-valetd-key"];

/// Names that are never forwarded: hop-by-hop fields that `Connection` may have failed to name.
const HOP_BY_HOP: [&str; 2] = ["keep-alive", "http2-settings"];

/// What all names begin with that are never forwarded, apart from those matched as constants: nearly every other name is
/// told by its first byte.
const FIRST_BYTES: &[u8; 5] = b"apkhx";

/// Whether a field is never forwarded: credentials, hop-by-hop fields by name, and claims about who the client is.
pub(crate) fn is_never_forwarded(field: &HeaderName) -> bool {
    match *field {
        AUTHORIZATION | PROXY_AUTHORIZATION | PROXY_AUTHENTICATE | FORWARDED => return true,
        COOKIE => return false,
        _ => {}
    }
    let name = field.as_str();
    if !FIRST_BYTES.contains(&name.as_bytes()[0]) {
        return false;
    }
    let same = |other: &&str| {
        name.len() == other.len()
            && name.bytes().zip(other.bytes()).all(|(ours, other)| ours == other || (ours == b'_' && other == b'-'))
    };
    HOP_BY_HOP.contains(&name) || CREDENTIALS.iter().any(same) || is_of_another_proxy(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_that_is_never_forwarded_is_missed_by_its_first_byte() {
        let of_other_proxies = ["x-forwarded-for", "x_forwarded_host", "x-forwarded", "x-forwarded-prefix"];
        let with_underscores: Vec<String> = CREDENTIALS.map(|name| name.replace('-', "_")).into();
        let underscored = with_underscores.iter().map(String::as_str);
        let constants = [AUTHORIZATION, PROXY_AUTHORIZATION, PROXY_AUTHENTICATE, FORWARDED];
        let all = CREDENTIALS.into_iter().chain(HOP_BY_HOP).chain(of_other_proxies).chain(underscored);
        for name in all.chain(constants.iter().map(HeaderName::as_str)) {
            let field = HeaderName::from_bytes(name.as_bytes()).unwrap();
            assert!(is_never_forwarded(&field), "{name}");
            let mut headers = HeaderMap::new();
            headers.insert(field, "x".parse().unwrap());
            assert!(HeadFlags::of(&headers).never_forwarded, "{name}");
        }
        for name in ["cookie", "accept", "x-api-key", "host", "keep_alive", "authorizations", "x-forward"] {
            assert!(!is_never_forwarded(&HeaderName::from_static(name)), "{name}");
        }
    }
}
