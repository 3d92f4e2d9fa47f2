//! What is different on a route that leads to an MCP server (the setting `mcp`): valetd signs in, so a client must find
//! nothing that has it sign in by itself, and what stands in its way is said in JSON-RPC, which every client shows.

use std::pin::pin;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};

use crate::config::Route;
use crate::mcp::{self, Message};
use crate::platform::clock::unix_seconds;
use crate::proxy::connection::Stream;
use crate::proxy::exchange::body::ResponseBody;
use crate::proxy::exchange::forward::upstream_error;
use crate::proxy::policy::challenge;
use crate::proxy::policy::error::ProxyError;
use crate::proxy::replay::{Right, Unread, Whole};
use crate::proxy::table::RouteEntry;

const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

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

/// Whether a request is one that rules over messages can be applied to: of Streamable HTTP, and at the server's own place.
pub(crate) fn is_under_rules(route: &Route, method: &Method, rest: &str) -> bool {
    let place = route.mcp.as_deref().unwrap_or_default().trim_end_matches('/');
    rest.trim_end_matches('/') == place && [Method::GET, Method::POST, Method::DELETE].contains(method)
}

/// What rules over messages make of a request.
pub(crate) enum Judged {
    /// They let it through.
    Through(Box<Whole>),
    /// They do not, and this says so.
    Refused(ProxyError, Box<Response<ResponseBody>>),
}

/// Reads a message and applies the route's rules to it. `noted` is told what it is.
///
/// # Errors
///
/// If it cannot be read, or is refused and nobody waits for a response.
pub(crate) async fn judge(
    stream: &Stream,
    route: &RouteEntry,
    request: Request<Incoming>,
    token_name: &HeaderName,
    right: Right,
    noted: impl FnOnce(String),
) -> Result<Judged, ProxyError> {
    let reading = pin!(Whole::read(request, route.config.replay_limit, &stream.activity, token_name, right));
    let whole = match stream.in_time(reading).await {
        Ok(Ok(whole)) => whole,
        Ok(Err(Unread::TooLarge)) => {
            return Err(ProxyError::BadRequest(
                "it is longer than the route's `replay_limit`, or there is no room for it, and its rules ask for all of it",
            ));
        }
        Ok(Err(Unread::Broken)) => return Err(ProxyError::BadRequest("its body is malformed, or broke off")),
        Err(fault) => return Err(upstream_error(route, fault)),
    };
    let Ok(messages) = mcp::read(whole.bytes()) else {
        return Err(ProxyError::BadRequest("its body is no message that the route's rules could be applied to"));
    };
    noted(messages.iter().take(MOST_NOTED).map(in_words).collect::<Vec<_>>().join(", "));
    let Some(refused) = messages.iter().find(|message| !route.config.mcp_rules.permit(message)) else {
        return Ok(Judged::Through(Box::new(whole)));
    };
    let error = ProxyError::ForbiddenMessage(in_words(refused));
    match error.in_json_rpc(&messages) {
        Some(response) => Ok(Judged::Refused(error, Box::new(response.map(ResponseBody::Full)))),
        None => Err(error),
    }
}

/// Method and name of a message, for people.
fn in_words(message: &Message) -> String {
    let Message { method, name, uri, is_odd, id: _ } = message;
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
            route.stats.mcp().scope_required = Some((unix_seconds(), error.login().unwrap_or_default()));
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

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

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
