//! What is different on a route that leads to an MCP server (the setting `mcp`): valetd signs in, so a client must find
//! nothing that has it sign in by itself, and what stands in its way is said in JSON-RPC, which every client shows.

use std::pin::pin;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};

use crate::client_keys::ClientKey;
use crate::config::Route;
use crate::mcp::{self, Message, fields};
use crate::platform::clock::unix_seconds;
use crate::proxy::connection::Stream;
use crate::proxy::exchange::body::ResponseBody;
use crate::proxy::exchange::forward::upstream_error;
use crate::proxy::policy::challenge;
use crate::proxy::policy::error::{Check, ProxyError};
use crate::proxy::replay::{Kept, Right, Unread, Whole};
use crate::proxy::table::RouteEntry;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static(fields::VERSION);
const METHOD: HeaderName = HeaderName::from_static(fields::METHOD);
const NAME: HeaderName = HeaderName::from_static(fields::NAME);

/// Of a method or a name, so much is shown.
const LONGEST_WORD: usize = 100;

/// Of a batch, so many messages are noted.
const MOST_NOTED: usize = 10;

/// The largest message whose id is looked for, so that a refusal can answer it.
const LARGEST: usize = 64 * 1024;

/// Whether a path is one where clients look for an authorization server (RFC 8414, RFC 9728, OpenID Connect Discovery):
/// at the host, or below the server's own address.
pub(crate) fn is_discovery(rest: &str) -> bool {
    let name = rest.split("/.well-known/").nth(1);
    name.is_some_and(|name| name.starts_with("oauth-") || name.starts_with("openid-configuration"))
}

/// Notes what a message's head says of its session.
pub(crate) fn observe(route: &RouteEntry, headers: &HeaderMap) {
    let Some(version) = headers.get(VERSION).and_then(|version| version.to_str().ok()) else { return };
    let mut seen = route.stats.mcp();
    seen.last_session = Some(unix_seconds());
    let is_version = version.len() <= 32 && version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if is_version && seen.protocol_version.as_deref() != Some(version) {
        seen.protocol_version = Some(version.to_owned());
    }
}

/// Lets a request through where no rules over messages are, or they can be applied to it.
///
/// # Errors
///
/// Whose rules they are.
pub(crate) fn check_place(
    route: &Route,
    key: Option<&ClientKey>,
    method: &Method,
    rest: &str,
) -> Result<(), ProxyError> {
    if !has_rules(route, key) || is_under_rules(route, method, rest) {
        return Ok(());
    }
    Err(match route.mcp_rules.is_empty() {
        true => ProxyError::NotAllowed(Check::KeyRights),
        false => ProxyError::ForbiddenByRules,
    })
}

/// Whether a request is one that rules over messages can be applied to: of Streamable HTTP, and at the server's own place.
fn is_under_rules(route: &Route, method: &Method, rest: &str) -> bool {
    let Some(place) = route.mcp.as_deref() else { return false };
    let place = place.trim_end_matches('/');
    rest.trim_end_matches('/') == place && [Method::GET, Method::POST, Method::DELETE].contains(method)
}

/// Whether a request may be the one that a server says who it is to: of no session yet, and without an agreed version, or
/// the one that asks for it.
pub(crate) fn may_begin<B>(request: &Request<B>) -> bool {
    let has = |name: &HeaderName| request.headers().contains_key(name);
    let discovers = request.headers().get(METHOD).is_some_and(|method| method == "server/discover");
    request.method() == Method::POST && (discovers || !has(&VERSION) && !has(&SESSION))
}

/// Whether a request may be the one that opens the stream of the older transport (HTTP+SSE, 2024-11-05): of no session.
pub(crate) fn may_open_older<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET && !request.headers().contains_key(SESSION)
}

/// Whether a response is such a stream, or what a client takes for one.
pub(crate) fn is_in_events(headers: &HeaderMap) -> bool {
    let is = |kind: &HeaderValue| {
        let kind = kind.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    };
    headers.get_all(CONTENT_TYPE).iter().any(is)
}

/// Whether messages on a route are looked at, for its own rules or those of the key that a request presents.
pub(crate) fn has_rules(route: &Route, key: Option<&ClientKey>) -> bool {
    !route.mcp_rules.is_empty() || key.is_some_and(|key| !key.rights.messages.is_empty())
}

/// What rules over messages make of a request.
pub(crate) enum Judged {
    /// They let it through.
    Through(Box<Whole>),
    /// They do not, and this says so.
    Refused(ProxyError, Box<Response<ResponseBody>>),
}

/// Reads a message and applies the route's rules to it, and those of the key. `noted` is told what it is.
///
/// # Errors
///
/// If it cannot be read, or is refused and nobody waits for a response.
pub(crate) async fn judge(
    stream: &Stream,
    (route, key): (&RouteEntry, Option<&ClientKey>),
    request: Request<Incoming>,
    token_name: &HeaderName,
    right: Right,
    noted: impl FnOnce(String),
) -> Result<Judged, ProxyError> {
    if !is_in_utf8(request.headers()) {
        return Err(ProxyError::BadRequest(
            "its Content-Type is not JSON in UTF-8, or its content is encoded, so that no rules for messages can be \
             applied",
        ));
    }
    let all = |name: HeaderName| request.headers().get_all(name).iter().cloned().collect::<Vec<_>>();
    let (method, subject) = (all(METHOD), all(NAME));
    let reading = pin!(Whole::read(request, route.config.replay_limit, &stream.activity, token_name, right));
    let whole = match stream.in_time(reading).await {
        Ok(Ok(whole)) => whole,
        Ok(Err(Unread::TooLarge)) => {
            return Err(ProxyError::BadRequest(
                "it is longer than the route's `replay_limit`, or there is no room for it, and rules for messages ask for all of it",
            ));
        }
        Ok(Err(Unread::Broken)) => return Err(ProxyError::BadRequest("its body is malformed, or broke off")),
        Err(fault) => return Err(upstream_error(route, fault)),
    };
    let text = std::str::from_utf8(whole.bytes()); // what decodes to more than it shows is no text here
    let Some(messages) = text.ok().and_then(|text| mcp::read(text.as_bytes()).ok()) else {
        return Err(ProxyError::BadRequest("its body is no message that rules could be applied to"));
    };
    let [method, subject] = [&method, &subject].map(|all| all.iter().map(HeaderValue::as_bytes).collect::<Vec<_>>());
    if !fields::agree(&method, &subject, &messages) {
        return Err(ProxyError::BadRequest("its fields Mcp-Method and Mcp-Name say something else than its message"));
    }
    noted(messages.iter().take(MOST_NOTED).map(in_words).collect::<Vec<_>>().join(", "));
    let Some(error) = messages.iter().find_map(|message| refusal(&route.config, key, message)) else {
        return Ok(Judged::Through(Box::new(whole)));
    };
    match error.in_json_rpc(&messages) {
        Some(response) => Ok(Judged::Refused(error, Box::new(response.map(ResponseBody::Full)))),
        None => Err(error),
    }
}

/// Why a message does not go through, if it does not.
fn refusal(route: &Route, key: Option<&ClientKey>, message: &Message) -> Option<ProxyError> {
    if !route.mcp_rules.permit(message) {
        return Some(ProxyError::ForbiddenMessage(in_words(message)));
    }
    let of_key = key.is_none_or(|key| mcp::allow(&key.rights.messages, message));
    (!of_key).then(|| ProxyError::KeyLacksMessage(in_words(message)))
}

/// Method and name of a message, for people.
fn in_words(message: &Message) -> String {
    let Message { method, name, uri, is_odd, id: _, version: _, cancels: _ } = message;
    let words =
        [method, name, uri].into_iter().flatten().map(|word| word.chars().take(LONGEST_WORD).collect::<String>());
    let words: Vec<String> = words.collect();
    match (is_odd, &words[..]) {
        (true, _) => format!("a message that can be read in two ways ({})", words.join(" ")),
        (false, []) => "a response".to_owned(),
        (false, words) => words.join(" "),
    }
}

/// Refuses to hand on what would have a client sign in by itself, and takes the challenge off what is handed on.
///
/// # Errors
///
/// What the challenge means for the person.
pub(crate) fn without_challenge<B>(route: &RouteEntry, response: &mut Response<B>) -> Result<(), ProxyError> {
    let account = route.config.account.clone();
    let lacking = challenge::lacking_scope(response.headers());
    match (response.status(), lacking) {
        (StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED, Some(scope)) => {
            tracing::warn!(%account, route = %route.config.name, scope, "the MCP server asks for more scope");
            let error = ProxyError::ScopeRequired { account, scope };
            let command = error.login().unwrap_or_default();
            route.stats.mcp_shows(|seen| seen.scope_required = Some((unix_seconds(), command)));
            Err(error)
        }
        (StatusCode::UNAUTHORIZED, None) => Err(ProxyError::TokenRefused { account }),
        _ => {
            response.headers_mut().remove(WWW_AUTHENTICATE);
            Ok(())
        }
    }
}

/// The refusal of a request in JSON-RPC, if the request is in it; otherwise the refusal as it is.
///
/// # Errors
///
/// The refusal.
pub(crate) async fn refuse(
    stream: &Stream,
    error: ProxyError,
    request: Request<Incoming>,
) -> Result<(ProxyError, Response<ResponseBody>), ProxyError> {
    if request.method() != Method::POST || !is_json(request.headers()) {
        return Err(error);
    }
    stream.is_independent(); // the account may be what is lost, and a response of our own is for everybody
    let body = pin!(Limited::new(request.into_body(), LARGEST).collect());
    let Ok(Ok(body)) = stream.in_time(body).await else { return Err(error) };
    let Ok(messages) = mcp::read(&body.to_bytes()[..]) else { return Err(error) };
    match error.in_json_rpc(&messages) {
        Some(response) => Ok((error, response.map(ResponseBody::Full))),
        None => Err(error),
    }
}

/// What a request said that has been sent, from its copy.
pub(crate) fn sent(kept: &Kept) -> Option<Vec<Message>> {
    mcp::read(&kept.body(LARGEST)?[..]).ok()
}

/// Whether a body says of itself that it is JSON as it is read here: JSON is UTF-8 (RFC 8259 section 8.1), but some servers
/// obey a `charset`, and in UTF-7 a text without quotation marks may have some.
fn is_in_utf8(headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(CONTENT_TYPE).iter();
    let (Some(kind), None) = (kinds.next().and_then(|kind| kind.to_str().ok()), kinds.next()) else { return false };
    let is_utf8 = |parameter: &str| {
        parameter.split_once('=').is_some_and(|(name, value)| {
            name.trim().eq_ignore_ascii_case("charset") && value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        })
    };
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    is_json(headers)
        && kind.split(';').skip(1).filter(|parameter| !parameter.trim().is_empty()).all(is_utf8)
        && codings.all(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_applied_to_what_every_server_reads_alike() {
        let one = |kind: &'static str| vec![("content-type", kind)];
        for (fields, expected) in [
            (one("application/json"), true),
            (one("Application/JSON; Charset=\"UTF-8\""), true),
            (one("application/json;"), true),
            (one("application/json; charset=utf-7"), false),
            (one("application/json; charset=utf-16"), false),
            (one("application/json; charset=utf-8; charset=utf-7"), false),
            (one("application/json; x=\"; charset=utf-7\""), false),
            (one("text/plain"), false),
            (vec![], false),
            (vec![("content-type", "application/json"), ("content-type", "application/json; charset=utf-7")], false),
            (vec![("content-type", "application/json"), ("content-encoding", "identity")], true),
            (vec![("content-type", "application/json"), ("content-encoding", "gzip")], false),
            (vec![("content-type", "application/json"), ("content-encoding", "identity, br")], false),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in &fields {
                headers.append(*name, hyper::header::HeaderValue::from_static(value));
            }
            assert_eq!(is_in_utf8(&headers), expected, "{fields:?}");
        }
    }

    #[test]
    fn where_clients_look_for_an_authorization_server_there_is_none() {
        for (rest, expected) in [
            ("/.well-known/oauth-protected-resource", true),
            ("/.well-known/oauth-protected-resource/mcp", true),
            ("/.well-known/oauth-authorization-server", true),
            ("/mcp/.well-known/openid-configuration", true),
            ("/.well-known/mcp.json", false),
            ("/mcp", false),
            ("", false),
        ] {
            assert_eq!(is_discovery(rest), expected, "{rest}");
        }
    }
}
