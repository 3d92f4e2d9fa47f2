//! Header fields on their way through. Pure.
//!
//! Out first: hop-by-hop fields and those that `Connection` names (RFC 9110 section 7.6.1), the client's credentials in
//! any spelling. In last: ours, exactly once, so that nothing a client sends can remove, double or replace it.
//! Each head is looked over once ([`HeadFlags`], [`clean_response`]); only what was seen is then searched for.

use std::sync::Arc;

use hyper::header::{
    ACCEPT_ENCODING, ALT_SVC, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_LOCATION, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, EXPECT, HOST, HeaderName, HeaderValue, IF_RANGE,
    LAST_MODIFIED, LINK, LOCATION, PROXY_AUTHENTICATE, RANGE, REFRESH, SERVER, SET_COOKIE, TE, TRANSFER_ENCODING,
    UPGRADE, VARY, VIA,
};
use hyper::{HeaderMap, StatusCode};

use crate::proxy::fault::Fault;
use crate::proxy::policy::head::{HeadFlags, is_never_forwarded};
use crate::proxy::policy::overrides::is_override;
use crate::proxy::policy::redact::Confidential;
use crate::proxy::policy::rewrite::{self, Mapping};
use crate::spelling::Secrets;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Makes a document an origin of its own that shares nothing with any other: what it asks us for says `Origin: null`.
pub(crate) const SANDBOX: HeaderValue =
    HeaderValue::from_static("sandbox allow-scripts allow-forms allow-popups allow-downloads");

/// What a route changes besides.
#[derive(Default)]
pub(crate) struct Edits {
    pub(crate) remove: Vec<HeaderName>,
    /// In place of the client's own.
    pub(crate) add: Vec<(HeaderName, HeaderValue)>,
    /// Those among the values added that must not be seen in a response, if there are any.
    pub(crate) secrets: Option<Arc<Secrets>>,
}

/// What goes into every request of a route.
pub(crate) struct UpstreamFields<'a> {
    pub(crate) host: &'a HeaderValue,
    pub(crate) via: Option<&'a HeaderValue>,
    /// The token's field, which is to be free for it.
    pub(crate) token_name: &'a HeaderName,
    pub(crate) edits: &'a Edits,
    /// The protocol asked for, if the request is to be upgraded.
    pub(crate) upgrade: Option<HeaderValue>,
}

/// Makes a client's head the upstream's: removes hop-by-hop fields, those that are never forwarded and the route's, and
/// adds what goes into every request, except the token. `Transfer-Encoding` stays: the guard saw to it that it is one
/// `chunked`, and it says that there is a body where the method would not.
pub(crate) fn prepare_request(headers: &mut HeaderMap, flags: &HeadFlags, fields: UpstreamFields<'_>) {
    if flags.connection {
        remove_connection_options(headers);
    }
    let trailers = flags.te && headers.get_all(TE).iter().any(|te| lists(te, "trailers"));
    if flags.transfer_encoding {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked")); // in one spelling
    }
    if flags.te {
        headers.remove(TE);
    }
    if flags.upgrade {
        headers.remove(UPGRADE);
    }
    if flags.expect && headers.get(EXPECT).is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    {
        headers.remove(EXPECT); // answered here, as soon as somebody wants the body
    }
    if flags.never_forwarded {
        let dropped: Vec<_> = headers.keys().filter(|name| is_never_forwarded(name)).cloned().collect();
        for name in dropped {
            headers.remove(name);
        }
    }
    if *fields.token_name != AUTHORIZATION {
        remove_spellings(headers, fields.token_name);
    }
    for name in &fields.edits.remove {
        headers.remove(name);
    }
    for (name, value) in &fields.edits.add {
        remove_spellings(headers, name);
        headers.insert(name.clone(), value.clone());
    }
    match fields.upgrade {
        Some(protocol) => {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, protocol);
        }
        None if trailers => {
            headers.insert(CONNECTION, HeaderValue::from_static("te"));
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        None => {}
    }
    if let Some(via) = fields.via {
        headers.append(VIA, via.clone());
    }
    headers.insert(HOST, fields.host.clone());
}

/// Removes `Connection` and what it names. Three fields are not its business: without them the message could not be
/// told from the next one, or would lose its addressee.
fn remove_connection_options(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter(|value| !names_no_field(value))
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|option| HeaderName::from_bytes(option.trim_ascii()).ok())
        .filter(|name| !matches!(*name, CONTENT_LENGTH | TRANSFER_ENCODING | HOST | TE | UPGRADE))
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
}

/// The two usual values: `close` is not a field's name, and `Keep-Alive` goes in any case.
fn names_no_field(connection: &HeaderValue) -> bool {
    let value = connection.as_bytes();
    value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
}

/// Removes what a server that takes `_` for `-` would take for `name`.
fn remove_spellings(headers: &mut HeaderMap, name: &HeaderName) {
    let same = |other: &HeaderName| {
        let (name, other) = (name.as_str(), other.as_str());
        name.len() == other.len()
            && name
                .bytes()
                .zip(other.bytes())
                .all(|(a, b)| a == b || (a == b'-' && b == b'_') || (a == b'_' && b == b'-'))
    };
    let spellings: Vec<_> = headers.keys().filter(|other| same(other)).cloned().collect();
    for spelling in spellings {
        headers.remove(spelling);
    }
}

/// Whether a list-valued field has `option`, without regard to case and parameters.
pub(crate) fn lists(value: &HeaderValue, option: &str) -> bool {
    value.as_bytes().split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
}

/// The one protocol that a request wants to switch to, if it does and if we go along: anything but HTTP/2, which we
/// speak only from the first byte on, and what is no list of protocols (RFC 9110 section 7.8), which servers may read
/// as they like.
pub(crate) fn upgrade_protocol(headers: &HeaderMap, flags: &HeadFlags) -> Option<HeaderValue> {
    if !flags.upgrade || !headers.get_all(CONNECTION).iter().any(|value| lists(value, "upgrade")) {
        return None;
    }
    let protocols = headers.get(UPGRADE)?;
    let is_ours = |protocol: &[u8]| {
        let mut parts = protocol.trim_ascii().splitn(2, |byte| *byte == b'/');
        let (name, version) = (parts.next().unwrap_or_default(), parts.next());
        let is_http2 = name.eq_ignore_ascii_case(b"h2")
            || name.eq_ignore_ascii_case(b"h2c")
            || (name.eq_ignore_ascii_case(b"http") && version.is_none_or(|version| !version.starts_with(b"1.")));
        is_token(name) && version.is_none_or(is_token) && !is_http2
    };
    protocols.as_bytes().split(|byte| *byte == b',').all(is_ours).then(|| protocols.clone())
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Whether a trailer field may not pass: credentials, framing and routing have no business there (RFC 9110 6.5.1).
pub(crate) fn clean_trailers(trailers: &mut HeaderMap, token_name: &HeaderName) {
    let bad: Vec<_> = trailers
        .keys()
        .filter(|name| {
            is_never_forwarded(name)
                || is_override(name)
                || matches!(**name, HOST | CONTENT_LENGTH | TRANSFER_ENCODING | CONNECTION | TE | UPGRADE)
                || *name == token_name
        })
        .cloned()
        .collect();
    for name in bad {
        trailers.remove(name);
    }
    remove_spellings(trailers, token_name);
}

/// What an upstream's head becomes the client's by.
pub(crate) struct ResponseContext<'a> {
    /// What we append to `Via`.
    pub(crate) via: Option<&'a HeaderValue>,
    /// What was sent and is not to be seen in a response.
    pub(crate) confidential: Confidential<'a>,
    /// Where links lead.
    pub(crate) mapping: Mapping<'a>,
    /// Whether the address is one that routes share.
    pub(crate) shared: bool,
    /// Whether the response is `101 Switching Protocols`, whose `Connection` and `Upgrade` are for the client.
    pub(crate) switching: bool,
    pub(crate) length: Length,
}

/// What `Content-Length` says in a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Length {
    /// Where the content ends.
    Frames,
    /// How long it would be: there is none in response to HEAD.
    Informs,
    /// Nothing that may be said: with 204 (RFC 9110 section 8.6), and with 304, where some clients wait for so many bytes
    /// (section 15.4.5 has servers leave it out).
    IsNone,
}

impl Length {
    pub(crate) fn of(status: StatusCode, is_to_head: bool) -> Self {
        match status {
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => Self::IsNone,
            _ if is_to_head => Self::Informs,
            _ => Self::Frames,
        }
    }
}

/// Makes an upstream's head the client's: removes hop-by-hop fields, cross-origin grants, and what shows the token; leads
/// references to the local address.
///
/// # Errors
///
/// If the head could be read in two ways (RFC 9112 section 6.3): it is handed on to nobody.
pub(crate) fn clean_response(headers: &mut HeaderMap, context: &ResponseContext<'_>) -> Result<(), Fault> {
    let mut connection = false;
    let mut transfer_encoding = false;
    let mut content_length = false;
    let mut length_is_plain = true;
    let mut links = false;
    let mut unwanted = false;
    let mut repeats = false;
    for (name, value) in headers.iter() {
        match *name {
            CONNECTION => connection = true,
            TRANSFER_ENCODING => transfer_encoding = true,
            CONTENT_LENGTH if content_length => return Err(broken("two Content-Length fields")),
            CONTENT_LENGTH => {
                content_length = true;
                length_is_plain = is_plain_length(value.as_bytes());
            }
            LOCATION | CONTENT_LOCATION | LINK | REFRESH | SET_COOKIE => links = true,
            PROXY_AUTHENTICATE | UPGRADE | TE | ALT_SVC => unwanted = true,
            CONTENT_TYPE | DATE | SERVER | CACHE_CONTROL | ETAG | LAST_MODIFIED | VARY => {} // of nearly every response
            _ => {
                unwanted |= is_never_returned(name) || (context.shared && speaks_for_the_origin(name));
                links |= rewrite::may_lead(name, value);
            }
        }
        repeats |= context.confidential.is_in_field(name, value);
    }
    if transfer_encoding {
        let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
        let only_chunked = codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !only_chunked || codings.next().is_some() {
            return Err(broken("Transfer-Encoding is not exactly one \"chunked\""));
        }
        if content_length {
            return Err(broken("both Transfer-Encoding and Content-Length"));
        }
        headers.remove(TRANSFER_ENCODING);
    }
    if content_length && (!length_is_plain || context.length == Length::IsNone) {
        match (one_length(&headers[CONTENT_LENGTH]), context.length) {
            (_, Length::IsNone) | (None, Length::Informs) => drop(headers.remove(CONTENT_LENGTH)),
            (Some(one), Length::Frames | Length::Informs) => drop(headers.insert(CONTENT_LENGTH, one)),
            (None, Length::Frames) => return Err(broken("Content-Length is not a number")),
        }
    }
    if connection {
        remove_connection_options(headers);
    }
    if unwanted {
        let names: Vec<_> = headers
            .keys()
            .filter(|name| {
                is_never_returned(name)
                    || (context.shared && speaks_for_the_origin(name))
                    || matches!(**name, PROXY_AUTHENTICATE | TE | ALT_SVC)
                    || (**name == UPGRADE && !context.switching)
            })
            .cloned()
            .collect();
        for name in names {
            headers.remove(name);
        }
    }
    if repeats {
        context.confidential.remove_from(headers);
    }
    if links {
        rewrite::links(headers, &context.mapping);
    }
    if context.switching {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if let Some(via) = context.via {
        headers.append(VIA, via.clone());
    }
    Ok(())
}

/// Digits, of a number that everybody can hold.
fn is_plain_length(value: &[u8]) -> bool {
    const LONGEST: usize = 18; // of those that are sure to fit into 63 bits
    (1..=LONGEST).contains(&value.len()) && value.iter().all(u8::is_ascii_digit)
}

/// The number that a list says several times (RFC 9110 section 8.6): what follows us may read a list otherwise than we do.
fn one_length(list: &HeaderValue) -> Option<HeaderValue> {
    let mut members = list.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let first = members.next().filter(|first| is_plain_length(first))?;
    let is_said_again = members.all(|member| member == first);
    is_said_again.then(|| HeaderValue::from_bytes(first).expect("digits"))
}

fn broken(detail: &str) -> Fault {
    Fault::BrokenAnswer { error: "http_protocol_error", detail: detail.to_owned() }
}

/// Why a secret could be in a response's content and not be found there: it is in an encoding that must be undone first, or
/// is a part, which may begin or end within a secret.
pub(crate) fn cannot_be_looked_through(status: StatusCode, headers: &HeaderMap) -> Option<Fault> {
    let codings =
        headers.get_all(CONTENT_ENCODING).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let is_coding = |coding: &[u8]| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity");
    let is_encoded = codings.map(<[u8]>::trim_ascii).any(is_coding);
    let of_parts = b"multipart/byteranges";
    let has_parts = |value: &HeaderValue| {
        value.as_bytes().trim_ascii().get(..of_parts.len()).is_some_and(|start| start.eq_ignore_ascii_case(of_parts))
    };
    let is_part = status == StatusCode::PARTIAL_CONTENT
        || status.is_success() && headers.contains_key(CONTENT_RANGE)
        || headers.get_all(CONTENT_TYPE).iter().any(has_parts);
    let (error, what) = match (is_encoded, is_part) {
        (true, _) => ("http_response_content_coding", "its content is encoded"),
        (false, true) => ("http_protocol_error", "it is a part of the content"),
        (false, false) => return None,
    };
    let detail = format!("{what}, which nobody asked for, so with `scrub` it cannot be looked through");
    Some(Fault::BrokenAnswer { error, detail })
}

/// Asks for a response that can be looked through: whole (RFC 9110 section 14.2 lets servers pass over a `Range`), and not
/// encoded.
pub(crate) fn ask_for_whole_text(headers: &mut HeaderMap) {
    for name in [ACCEPT_ENCODING, RANGE, IF_RANGE, REQUEST_RANGE] {
        headers.remove(name);
    }
}

/// `Range`, before it was called so; some servers still know it.
const REQUEST_RANGE: HeaderName = HeaderName::from_static("request-range");

/// Hop-by-hop fields by name, and cross-origin grants: no page of another origin is ever allowed in.
fn is_never_returned(name: &HeaderName) -> bool {
    match name.as_str().as_bytes()[0] {
        b'k' => *name == KEEP_ALIVE,
        b'p' => *name == PROXY_CONNECTION,
        b'h' => *name == HTTP2_SETTINGS,
        b'a' => name.as_str().starts_with("access-control-"),
        _ => false,
    }
}

/// What an API tells a browser about its whole origin, which is not its own where routes share one: the reach of its
/// service workers, the end of everybody's storage, and where reports and rules for all addresses go and come from.
fn speaks_for_the_origin(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "clear-site-data"
            | "nel"
            | "report-to"
            | "reporting-endpoints"
            | "service-worker-allowed"
            | "speculation-rules"
            | "use-as-dictionary"
    )
}

/// Whether a browser could make a document of a response, and of what is in it a program. It could of what has no type,
/// two of them, or one that is not known here as harmless; none of those known is taken for another (MIME Sniffing
/// section 7).
pub(crate) fn may_become_document(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(content_type), None) = (types.next(), types.next()) else { return true };
    let content_type = content_type.as_bytes();
    if content_type == b"application/json" {
        return false; // of nearly every response
    }
    let end = content_type.iter().position(|byte| *byte == b';').unwrap_or(content_type.len());
    let essence = content_type[..end].trim_ascii();
    let is = |known: &[u8]| essence.eq_ignore_ascii_case(known);
    let is_harmless = is(b"application/json")
        || is(b"application/octet-stream")
        || is(b"text/plain")
        || is(b"text/csv")
        || is(b"text/event-stream")
        || is(b"application/x-ndjson")
        || is(b"application/x-protobuf")
        || is(b"application/grpc")
        || is(b"application/zip")
        || is(b"image/png")
        || is(b"image/jpeg")
        || is(b"image/tiff")
        || is_json_by_suffix(essence);
    // a list has two types, and browsers take the last
    !is_harmless || content_type.contains(&b',')
}

/// Whether this is a media type whose suffix is `+json` (RFC 6839 section 3.1). Without a slash it is no type at all, and
/// browsers look at the content; behind a blank or a bracket they do not look at it, and see `text/html +json` as HTML.
fn is_json_by_suffix(essence: &[u8]) -> bool {
    let mut halves = essence.split(|byte| *byte == b'/');
    let (Some(kind), Some(subtype), None) = (halves.next(), halves.next(), halves.next()) else { return false };
    let is_name = |name: &[u8]| {
        let is_good = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(byte); // RFC 6838 section 4.2
        !name.is_empty() && name.iter().all(is_good)
    };
    let front = subtype.len().checked_sub(b"+json".len()).map(|at| subtype.split_at(at));
    is_name(kind) && front.is_some_and(|(front, suffix)| is_name(front) && suffix.eq_ignore_ascii_case(b"+json"))
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;
    use crate::config::Origin;
    use crate::proxy::authorization::TokenMethod;
    use crate::proxy::policy::ingress::Ingress;
    use crate::proxy::policy::rewrite::OwnAddresses;
    use crate::proxy::policy::scope::Scope;
    use crate::renewal::RenewalId;
    use crate::timestamp::Timestamp;
    use crate::token_source::Published;

    /// A listener that all routes share.
    static SHARED: Ingress = Ingress::loopback(Scope::All);

    type Fields<'a> = &'a [(&'a str, &'a str)];

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn published(name: &HeaderName, value: &'static str) -> Published {
        let field = (name.clone(), HeaderValue::from_static(value));
        Published::new(RenewalId(1), field, Timestamp::FAR, Timestamp::FAR)
    }

    fn prepared(fields: &[(&str, &str)], token_name: &HeaderName) -> HeaderMap {
        edited(fields, token_name, &Edits::default())
    }

    fn edited(fields: &[(&str, &str)], token_name: &HeaderName, edits: &Edits) -> HeaderMap {
        let mut headers = map(fields);
        let flags = HeadFlags::of(&headers);
        let upgrade = upgrade_protocol(&headers, &flags);
        let host = HeaderValue::from_static("api.example");
        prepare_request(&mut headers, &flags, UpstreamFields { host: &host, via: None, token_name, edits, upgrade });
        let mut request = Request::new(());
        *request.headers_mut() = headers;
        TokenMethod::Field.apply(&published(token_name, "Bearer ours-and-only-ours"), &mut request);
        std::mem::take(request.headers_mut())
    }

    #[test]
    fn there_is_exactly_one_authorization_whatever_the_client_sends() {
        let nasty: &[&[(&str, &str)]] = &[
            &[],
            &[("authorization", "Bearer theirs")],
            &[("authorization", "a"), ("authorization", "b")],
            &[("Authorization", "a"), ("AUTHORIZATION", "b"), ("aUthorization", "c")],
            &[("connection", "authorization"), ("authorization", "theirs")],
            &[("connection", "close, Authorization"), ("authorization", "theirs")],
            &[("connection", "authorization"), ("connection", "host")],
            &[("connection", "keep-alive,authorization,,;")],
            &[("proxy-authorization", "Basic theirs")],
            &[("proxy_authorization", "Basic theirs")],
            &[("proxy-connection", "authorization"), ("keep-alive", "1")],
            &[("authorization_", "x"), ("x-authorization", "fine")],
            &[("connection", "content-length, host, transfer-encoding")],
            &[("te", "trailers, authorization"), ("trailer", "authorization")],
            &[("upgrade", "websocket"), ("connection", "upgrade, authorization")],
            &[("upgrade", "h2c"), ("connection", "upgrade, http2-settings"), ("http2-settings", "x")],
            &[("x-forwarded-for", "1.2.3.4"), ("x_forwarded_for", "1.2.3.4"), ("forwarded", "for=x")],
            &[("authorization", "")],
            &[("expect", "100-continue"), ("connection", "expect")],
            &[("host", "localhost"), ("connection", "Host")],
            &[("proxy_authorization", "x"), ("proxy-authorization", "y"), ("connection", "proxy_authorization")],
        ];
        for fields in nasty {
            let headers = prepared(fields, &AUTHORIZATION);
            let ours: Vec<_> = headers.get_all(AUTHORIZATION).iter().collect();
            assert_eq!(ours, ["Bearer ours-and-only-ours"], "{fields:?}");
            assert_eq!(headers.get_all(HOST).iter().collect::<Vec<_>>(), ["api.example"], "{fields:?}");
            for name in headers.keys().map(HeaderName::as_str) {
                assert!(!name.starts_with("proxy"), "{fields:?}: {name}");
                assert!(!name.contains("forwarded"), "{fields:?}: {name}");
            }
            for gone in ["keep-alive", "http2-settings", "expect"] {
                assert!(!headers.contains_key(gone), "{fields:?}: {gone}");
            }
        }
    }

    #[test]
    fn the_routes_own_field_replaces_the_clients_in_any_spelling() {
        let name = HeaderName::from_static("x-api-key");
        let headers =
            prepared(&[("x-api-key", "a"), ("x_api_key", "b"), ("x-api_key", "c"), ("authorization", "d")], &name);
        assert_eq!(headers.get_all(&name).iter().collect::<Vec<_>>(), ["Bearer ours-and-only-ours"]);
        assert_eq!(headers.len(), 2, "{headers:?}"); // it and Host
    }

    #[test]
    fn a_routes_edits_replace_and_remove_but_never_the_token() {
        let edits = Edits {
            remove: vec![hyper::header::COOKIE],
            add: vec![
                (HeaderName::from_static("user-agent"), HeaderValue::from_static("lab/1")),
                (HeaderName::from_static("x-api-key"), HeaderValue::from_static("key")),
            ],
            secrets: None,
        };
        let client =
            [("user-agent", "curl"), ("user-agent", "b"), ("x_api_key", "theirs"), ("cookie", "a"), ("accept", "x")];
        let headers = edited(&client, &AUTHORIZATION, &edits);
        assert_eq!(headers.get_all("user-agent").iter().collect::<Vec<_>>(), ["lab/1"]);
        assert_eq!(headers["x-api-key"], "key");
        assert_eq!(headers[AUTHORIZATION], "Bearer ours-and-only-ours");
        assert_eq!(headers.len(), 5, "{headers:?}"); // these, Accept and Host
    }

    #[test]
    fn hop_by_hop_fields_stay_here_and_the_rest_passes() {
        let headers = prepared(
            &[
                ("connection", "x-hop, keep-alive, te"),
                ("x-hop", "1"),
                ("keep-alive", "timeout=5"),
                ("te", "gzip, trailers"),
                ("content-length", "3"),
                ("cookie", "a=b"),
                ("accept", "a"),
                ("accept", "b"),
                ("x-end", "2"),
            ],
            &AUTHORIZATION,
        );
        assert!(!headers.contains_key("x-hop"));
        assert_eq!(headers[TE], "trailers");
        assert_eq!(headers[CONNECTION], "te");
        assert_eq!(headers["content-length"], "3");
        assert_eq!(headers["cookie"], "a=b");
        assert_eq!(headers.get_all("accept").iter().count(), 2);
        assert_eq!(headers["x-end"], "2");
    }

    #[test]
    fn only_an_upgrade_that_connection_names_and_that_is_not_http2_is_one() {
        let rows: &[(&str, Fields<'_>, bool)] = &[
            ("websocket", &[("connection", "Upgrade"), ("upgrade", "websocket")], true),
            ("in a list", &[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")], true),
            ("not named", &[("upgrade", "websocket")], false),
            ("h2c", &[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c")], false),
            ("no upgrade", &[("connection", "upgrade")], false),
            ("h2c with parameters", &[("connection", "upgrade"), ("upgrade", "h2c;a")], false),
            ("and a space", &[("connection", "upgrade"), ("upgrade", "h2c ; a=b")], false),
            ("another's parameters", &[("connection", "upgrade"), ("upgrade", "websocket;h2c")], false),
            ("h2c with a version", &[("connection", "upgrade"), ("upgrade", "H2C/1")], false),
            ("h2", &[("connection", "upgrade"), ("upgrade", "websocket, h2")], false),
            ("HTTP/2", &[("connection", "upgrade"), ("upgrade", "HTTP/2")], false),
            ("HTTP/2.0", &[("connection", "upgrade"), ("upgrade", "http/2.0")], false),
            ("HTTP/3", &[("connection", "upgrade"), ("upgrade", "HTTP/3")], false),
            ("quoted", &[("connection", "upgrade"), ("upgrade", "\"h2c\"")], false),
            ("two words", &[("connection", "upgrade"), ("upgrade", "h2c websocket")], false),
            ("an empty member", &[("connection", "upgrade"), ("upgrade", "websocket,,")], false),
            ("two versions", &[("connection", "upgrade"), ("upgrade", "foo/1/2")], false),
            ("with a version", &[("connection", "upgrade"), ("upgrade", "SPDY/3.1")], true),
            ("IRC", &[("connection", "upgrade"), ("upgrade", "IRC/6.9, RTA/x11")], true),
        ];
        for (case, fields, expected) in rows {
            let headers = map(fields);
            assert_eq!(upgrade_protocol(&headers, &HeadFlags::of(&headers)).is_some(), *expected, "{case}");
        }
        let headers = prepared(&[("connection", "Upgrade"), ("upgrade", "websocket")], &AUTHORIZATION);
        assert_eq!(
            (&headers[CONNECTION], &headers[UPGRADE]),
            (&"upgrade".parse().unwrap(), &"websocket".parse().unwrap())
        );
    }

    fn cleaned(fields: &[(&str, &str)]) -> Result<HeaderMap, Fault> {
        cleaned_at(false, fields)
    }

    fn cleaned_at(shared: bool, fields: &[(&str, &str)]) -> Result<HeaderMap, Fault> {
        cleaned_with(shared, Length::Frames, fields)
    }

    fn cleaned_with(shared: bool, length: Length, fields: &[(&str, &str)]) -> Result<HeaderMap, Fault> {
        let mut headers = map(fields);
        let origin = Origin { tls: true, host: "api.example".into(), port: 443 };
        let own = OwnAddresses {
            listeners: &[],
            hosts: &[],
            ingress: &SHARED,
            shares_account: &|name| (name == "lab").then_some(true),
            sibling: &|_, _| None,
        };
        let local_authority = "localhost:8253";
        let mapping = Mapping {
            origin: &origin,
            base_path: "",
            asked: "/x",
            local_authority,
            prefix: "/lab",
            route_prefix: "/lab",
            own,
        };
        let token = published(&AUTHORIZATION, "Bearer ours-and-only-ours");
        let context = ResponseContext {
            via: None,
            confidential: Confidential::of(&token, None),
            mapping,
            shared,
            switching: false,
            length,
        };
        clean_response(&mut headers, &context).map(|()| headers)
    }

    #[test]
    fn an_answer_loses_what_is_not_for_the_client() {
        let headers = cleaned(&[
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authenticate", "Basic"),
            ("alt-svc", "h3=\":443\""),
            ("access-control-allow-origin", "*"),
            ("access-control-allow-private-network", "true"),
            ("upgrade", "h2"),
            ("transfer-encoding", "chunked"),
            ("www-authenticate", "Bearer"),
            ("x-echo", "you sent ours-and-only-ours, did you?"),
            ("authorization", "Bearer ours-and-only-ours"),
            ("x-fine", "ours"),
        ]);
        let headers = headers.unwrap();
        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(headers.contains_key("www-authenticate") && headers.contains_key("x-fine"));
    }

    #[test]
    fn what_is_encoded_or_a_part_cannot_be_looked_through() {
        let rows: &[(&str, u16, Fields<'_>, bool)] = &[
            ("plain", 200, &[("content-type", "text/plain")], false),
            ("in its own encoding", 200, &[("content-encoding", "identity")], false),
            ("gzip", 200, &[("content-encoding", "gzip")], true),
            ("gzip in a list", 200, &[("content-encoding", "identity, gzip")], true),
            ("gzip in a second field", 200, &[("content-encoding", ""), ("content-encoding", "br")], true),
            ("a part", 206, &[("content-range", "bytes 0-9/31")], true),
            ("a part of nothing said", 206, &[], true),
            ("a part by another status", 200, &[("content-range", "bytes 0-9/31")], true),
            ("no part", 416, &[("content-range", "bytes */31")], false),
            ("parts", 200, &[("content-type", "Multipart/ByteRanges; boundary=x")], true),
            ("other parts", 200, &[("content-type", "multipart/mixed; boundary=x")], false),
        ];
        for (case, status, fields, expected) in rows {
            let status = StatusCode::from_u16(*status).unwrap();
            assert_eq!(cannot_be_looked_through(status, &map(fields)).is_some(), *expected, "{case}");
        }
    }

    #[test]
    fn what_speaks_for_a_whole_origin_stays_with_a_route_that_has_one() {
        let fields = [
            ("service-worker-allowed", "/"),
            ("clear-site-data", "\"*\""),
            ("nel", "{}"),
            ("report-to", "{}"),
            ("reporting-endpoints", "x=\"/y\""),
            ("speculation-rules", "\"/y\""),
            ("use-as-dictionary", "match=\"/*\""),
        ];
        assert_eq!(cleaned_at(true, &fields).unwrap().len(), 0);
        assert_eq!(cleaned_at(false, &fields).unwrap().len(), fields.len());
    }

    #[test]
    fn only_what_is_known_never_to_become_a_document_is_taken_for_harmless() {
        let harmless = [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/geo+json",
            "text/plain;charset=utf-8",
            "application/octet-stream",
            "image/png",
        ];
        for content_type in harmless {
            assert!(!may_become_document(&map(&[("content-type", content_type)])), "{content_type}");
        }
        let documents: [Fields<'_>; 13] = [
            &[],
            &[("content-type", "")],
            &[("content-type", "text/html")],
            &[("content-type", "TEXT/HTML;x=application/json")],
            &[("content-type", "application/xhtml+xml")],
            &[("content-type", "image/svg+xml")],
            &[("content-type", "text/xml")],
            &[("content-type", "application/pdf")],
            &[("content-type", "multipart/x-mixed-replace; boundary=x")],
            &[("content-type", "application/json, text/html")],
            &[("content-type", "application/json;a=\", text/html\"")],
            &[("content-type", "application/json"), ("content-type", "text/html")],
            &[("content-type", "*/*")],
        ];
        for fields in documents {
            assert!(may_become_document(&map(fields)), "{fields:?}");
        }
    }

    #[test]
    fn an_answer_with_two_readings_is_refused() {
        for fields in [
            [("content-length", "3"), ("content-length", "3")],
            [("content-length", "3"), ("transfer-encoding", "chunked")],
            [("transfer-encoding", "gzip, chunked"), ("x", "")],
            [("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
        ] {
            assert!(matches!(cleaned(&fields), Err(Fault::BrokenAnswer { .. })), "{fields:?}");
        }
    }

    #[test]
    fn a_length_that_is_none_is_handed_on_to_nobody() {
        use Length::{Frames, Informs, IsNone};
        let rows = [
            ("3", Frames, Ok(Some("3"))),
            ("3, 3", Frames, Ok(Some("3"))),
            ("3, 4", Frames, Err(())),
            ("", Frames, Err(())),
            (",", Frames, Err(())),
            ("+3", Frames, Err(())),
            ("99999999999999999999", Frames, Err(())),
            ("3", Informs, Ok(Some("3"))),
            ("3,3", Informs, Ok(Some("3"))),
            ("3, 4", Informs, Ok(None)),
            ("", Informs, Ok(None)),
            ("-1", Informs, Ok(None)),
            ("99999999999999999999", Informs, Ok(None)),
            ("0", IsNone, Ok(None)),
            ("3", IsNone, Ok(None)),
            ("x", IsNone, Ok(None)),
        ];
        for (given, length, expected) in rows {
            let cleaned = cleaned_with(false, length, &[("content-length", given)]);
            let cleaned =
                cleaned.map(|headers| headers.get(CONTENT_LENGTH).map(|value| value.to_str().unwrap().to_owned()));
            assert_eq!(cleaned.map_err(drop), expected.map(|one| one.map(str::to_owned)), "{given:?} {length:?}");
        }
        let rows = [
            (200, false, Frames),
            (200, true, Informs),
            (204, false, IsNone),
            (204, true, IsNone),
            (304, false, IsNone),
            (304, true, IsNone),
            (206, false, Frames),
        ];
        for (status, is_to_head, expected) in rows {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(Length::of(status, is_to_head), expected, "{status} {is_to_head}");
        }
    }

    #[test]
    fn trailers_carry_no_credentials_and_no_overrides() {
        let mut trailers = map(&[
            ("authorization", "x"),
            ("x-api_key", "y"),
            ("host", "h"),
            ("x_http_method_override", "DELETE"),
            ("x-original-url", "/admin"),
            ("grpc-status", "0"),
        ]);
        clean_trailers(&mut trailers, &HeaderName::from_static("x-api-key"));
        assert_eq!(trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["grpc-status"]);
    }
}
