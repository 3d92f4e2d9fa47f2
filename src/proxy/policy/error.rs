//! What went wrong with a request, and the only place where that becomes a response.
//!
//! Every response that valetd makes itself, but for the redirect of a browser (`service.rs`), is a problem document (RFC
//! 9457), and all have a `Proxy-Status` field (RFC 9209), so that a script can tell "valetd said so" from "the API said
//! so". Never a bare 401: clients take it for the API's.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::advice::{advised, invocation};
use crate::config::{AccountId, RouteName};
use crate::mcp::{self, Message};
use crate::proxy::fault::Fault;
use crate::renewal::Why;
use crate::token_source::Withholding;

pub(crate) const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// What a browser keeps for the one origin that the response is from, service workers among it; not cookies, which all
/// ports of a host share.
pub(crate) const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");
pub(crate) const STORAGE: &str = "\"storage\"";

/// Why a request was not carried out, or its response not handed on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ProxyError {
    /// Neither the path's first segment nor the host name is a route's.
    NoRoute,
    /// None of the routes that a command was given leads to this path of a host; these are where those of the host lead to.
    NoRouteThere(Vec<String>),
    /// The guard said no.
    NotAllowed(Check),
    /// The client key is good, but not for this route, which a redirect of another one may have led to.
    KeyLacksRoute(RouteName),
    /// The route does not forward this path.
    ForbiddenByRoute,
    /// The route's rules do not let this method and path through.
    ForbiddenByRules,
    /// The route's rules do not let a message to an MCP server through: its method, and what it is for.
    ForbiddenMessage(String),
    /// The client key is not for a message to an MCP server.
    KeyLacksMessage(String),
    /// The route looks through what comes back, which it cannot where another protocol is switched to.
    ForbiddenByScrub,
    /// The client key has been used too often.
    TooManyRequests { retry_after: Duration },
    /// As many requests run with the client key as may at once.
    TooManyAtOnce,
    /// We are no forward proxy, and TRACE would show the token (RFC 9110 section 9.3.8).
    MethodNotAllowed,
    /// Malformed or ambiguous; the connection is closed.
    BadRequest(&'static str),
    /// The request target is longer than we take.
    TargetTooLong,
    /// The head is longer, or has more fields, than we take.
    HeadTooLarge,
    /// The request has been here before (RFC 9110 section 7.6.3).
    Loop,
    /// Nobody is signed in, or the refresh token is dead.
    SignInRequired { account: AccountId, why: Why },
    /// There is a credential, and it is not used.
    Withheld { account: AccountId, cause: Withholding, why: Arc<str> },
    /// The audit is required, and cannot be written just now.
    AuditUnavailable,
    /// On a route to an MCP server: nobody but valetd signs in.
    NothingToDiscover,
    /// On a route to an MCP server: it takes no token of the account, the newest included.
    TokenRefused { account: AccountId },
    /// On a route to an MCP server: the token is good, but not for this; the scopes, if it named them.
    ScopeRequired { account: AccountId, scope: String },
    /// No usable token just now.
    TokenUnavailable { account: AccountId, retry_after: Duration, because: Option<Arc<str>> },
    /// The upstream failed us.
    Upstream { upstream: Arc<str>, fault: Fault },
}

/// Which of the guard's checks failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Check {
    /// The process at the other end belongs to somebody else, or nobody knows to whom.
    Peer,
    /// The process at the other end is root's, and root is not named.
    Root,
    /// The process at the other end runs in a container, or nobody can tell that it does not.
    Container,
    /// The name that the client thinks it talks to is not ours: DNS rebinding, or a setting is missing.
    Host,
    /// A page of another origin sent it.
    Origin,
    /// The browser says that another site sent it.
    FetchSite,
    /// A page wants to leave a service worker at an address that routes share.
    ServiceWorker,
    /// The client key is wrong, revoked, or another one than the one presented beside it.
    Key,
    /// The client key has expired.
    KeyExpired,
    /// Without a client key, nobody is let in here.
    KeyRequired,
    /// The client key is good, and handed on with requests of processes that have shown none.
    KeyOfNobody,
    /// The client key is good, but not for this.
    KeyRights,
    /// The client key is somebody else's.
    KeyUser,
    /// As many bytes have gone through the client key as may.
    KeyBytes,
    /// What looks like a client key is where none is looked for.
    KeyMisplaced,
}

/// What all responses of one configuration say besides.
#[derive(Clone, Default, Debug)]
pub(crate) struct Advice {
    /// The prefixes of the routes, for "no such route".
    pub(crate) routes: Vec<String>,
    /// What to do first, if there is not a single account.
    pub(crate) first_steps: Option<String>,
    /// What is wrong with the configuration, in a sentence. Not for those whom the guard turns away.
    pub(crate) config_problem: Option<String>,
}

struct Problem {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: String,
    /// RFC 9209 section 2.3
    proxy_error: &'static str,
}

impl ProxyError {
    /// The command that signs in, where that helps.
    pub(crate) fn login(&self) -> Option<String> {
        match self {
            Self::SignInRequired { account, .. } | Self::TokenRefused { account } => {
                Some(advised(format_args!("login {account}")))
            }
            Self::ScopeRequired { account, scope } if scope.is_empty() => {
                Some(advised(format_args!("login {account}")))
            }
            Self::ScopeRequired { account, scope } => Some(advised(format_args!("login {account} --scope '{scope}'"))),
            _ => None,
        }
    }

    /// Whether the client's own doing is at fault: what a stranger can cause.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::NothingToDiscover => true,
            Self::TokenRefused { .. } | Self::ScopeRequired { .. } => false,
            Self::NoRoute
            | Self::NoRouteThere(_)
            | Self::NotAllowed(_)
            | Self::KeyLacksRoute(_)
            | Self::KeyLacksMessage(_) => true,
            Self::ForbiddenByRoute | Self::MethodNotAllowed => true,
            Self::ForbiddenByRules | Self::ForbiddenMessage(_) | Self::ForbiddenByScrub => true,
            Self::TooManyRequests { .. } | Self::TooManyAtOnce => true,
            Self::BadRequest(_) | Self::TargetTooLong | Self::HeadTooLarge | Self::Loop => true,
            Self::SignInRequired { .. } | Self::TokenUnavailable { .. } | Self::Upstream { .. } => false,
            Self::Withheld { .. } => false,
            Self::AuditUnavailable => false,
        }
    }

    /// In one word: what the problem's `type` ends in, and for what is not allowed the check.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::NotAllowed(check) => check.name(),
            Self::KeyLacksRoute(_) | Self::KeyLacksMessage(_) => Check::KeyRights.name(),
            _ => self.problem().kind,
        }
    }

    /// Whether the connection ends with it: what follows cannot be trusted to be a request, or comes from nobody's client.
    pub(crate) fn closes_connection(&self) -> bool {
        matches!(
            self,
            Self::BadRequest(_)
                | Self::TargetTooLong
                | Self::HeadTooLarge
                | Self::NotAllowed(Check::Peer | Check::Root)
        )
    }

    /// Makes the response.
    pub(crate) fn into_response(self, advice: &Advice) -> Response<Bytes> {
        let problem = self.problem();
        let mut document = Map::new();
        let mut detail = problem.detail;
        document.insert("type".into(), format!("urn:valetd:problem:{}", problem.kind).into());
        document.insert("title".into(), problem.title.into());
        document.insert("status".into(), problem.status.as_u16().into());
        match (&advice.config_problem, &advice.first_steps) {
            (Some(problem), _) if !matches!(self, Self::NotAllowed(_)) => {
                let _ = write!(detail, " {problem}");
            }
            (None, Some(first_steps)) => {
                let _ = write!(detail, " {first_steps}");
            }
            (Some(_), _) | (None, None) => {}
        }
        document.insert("detail".into(), detail.into());
        self.add_members(&mut document, advice);
        let mut text = serde_json::to_string_pretty(&Value::Object(document)).expect("a map of texts is JSON");
        text.push('\n');

        let length = HeaderValue::from(text.len());
        let mut response = Response::new(Bytes::from(text));
        *response.status_mut() = problem.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CONTENT_LENGTH, length);
        headers.insert(PROXY_STATUS, proxy_status(problem.proxy_error, problem.title));
        match &self {
            Self::TokenUnavailable { retry_after, .. } | Self::TooManyRequests { retry_after } => {
                let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
                headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
            }
            Self::Withheld { .. } | Self::AuditUnavailable => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("5")); // as often as the audit is tried again; a key that is away may take longer
            }
            Self::TooManyAtOnce => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1")); // nobody knows when one of them ends
            }
            Self::MethodNotAllowed => {
                headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
            }
            _ => {}
        }
        // one from before, which waits for its next version, goes with it
        if self == Self::NotAllowed(Check::ServiceWorker) {
            headers.insert(CLEAR_SITE_DATA, HeaderValue::from_static(STORAGE));
        }
        if self.closes_connection() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The same as responses (JSON-RPC 2.0) to the requests among messages, which is what MCP clients show. `None` if there
    /// is none.
    pub(crate) fn in_json_rpc(&self, messages: &[Message]) -> Option<Response<Bytes>> {
        let problem = self.problem();
        let mut data = Map::new();
        data.insert("type".into(), format!("urn:valetd:problem:{}", problem.kind).into());
        self.add_members(&mut data, &Advice::default());
        let (data, says) = (Value::Object(data), format!("valetd: {}", problem.detail));
        let ids = messages.iter().filter_map(Message::request);
        let answers: Vec<String> = ids.map(|id| mcp::error(Some(id), mcp::NOT_DONE, &says, data.clone())).collect();
        let text = match &answers[..] {
            [] => return None,
            [one] if messages.len() == 1 => one.clone(),
            many => format!("[{}]", many.join(",")),
        };
        let length = HeaderValue::from(text.len());
        let mut response = Response::new(Bytes::from(text));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, length);
        headers.insert(PROXY_STATUS, proxy_status(problem.proxy_error, problem.title));
        Some(response)
    }

    /// The same as an event at the end of an MCP server's stream: in response to the requests among messages, or, where there
    /// is none, as a message for the person (MCP, utilities/logging).
    pub(crate) fn in_event(&self, messages: &[Message]) -> Bytes {
        let says = match self.in_json_rpc(messages) {
            Some(response) => String::from_utf8_lossy(response.body()).into_owned(),
            None => {
                let problem = self.problem();
                let mut data = Map::new();
                data.insert("type".into(), format!("urn:valetd:problem:{}", problem.kind).into());
                data.insert("message".into(), format!("valetd: {}", problem.detail).into());
                self.add_members(&mut data, &Advice::default());
                let params = json!({"level": "error", "logger": "valetd", "data": data});
                json!({"jsonrpc": "2.0", "method": "notifications/message", "params": params}).to_string()
            }
        };
        format!("event: message\ndata: {says}\n\n").into()
    }

    fn problem(&self) -> Problem {
        match self {
            Self::NoRoute => Problem {
                status: StatusCode::NOT_FOUND,
                kind: "no-route",
                title: "No such route",
                proxy_error: "destination_not_found",
                detail: "Neither the first segment of the path nor the host name is the name of a route.".to_owned(),
            },
            Self::NoRouteThere(addresses) => Problem {
                status: StatusCode::NOT_FOUND,
                kind: "no-route",
                title: "No such route",
                proxy_error: "destination_not_found",
                detail: match addresses.is_empty() {
                    true => "No route that the command was given leads to this host.".to_owned(),
                    false => format!(
                        "No route that the command was given leads to this path: on this host they lead to {}. The host \
                         was not asked. A route to all of it has an upstream without a path.",
                        addresses.join(", ")
                    ),
                },
            },
            Self::NotAllowed(check) => Problem {
                status: StatusCode::FORBIDDEN,
                kind: "not-allowed",
                title: check.title(),
                proxy_error: "http_request_denied",
                detail: check.explanation().to_owned(),
            },
            Self::KeyLacksRoute(route) => Problem {
                status: StatusCode::FORBIDDEN,
                kind: "not-allowed",
                title: Check::KeyRights.title(),
                proxy_error: "http_request_denied",
                detail: format!(
                    "Check: client key. The one presented is valid, but not for the route \"{route}\", which an answer \
                     of another route may have led to. A key for both: {}, with --route {route} beside the other.",
                    advised("key add")
                ),
            },
            Self::ForbiddenByRoute => Problem {
                status: StatusCode::FORBIDDEN,
                kind: "forbidden-by-route",
                title: "The route does not forward this path",
                proxy_error: "http_request_denied",
                detail: "Token services are not proxied; the route's setting `refuse` names the paths.".to_owned(),
            },
            Self::KeyLacksMessage(what) => Problem {
                status: StatusCode::FORBIDDEN,
                kind: "not-allowed",
                title: Check::KeyRights.title(),
                proxy_error: "http_request_denied",
                detail: format!(
                    "Check: client key. The one presented is valid, but not for {what}; valetd key list shows what it is \
                     for. valetd refuses it; the MCP server was not asked."
                ),
            },
            Self::ForbiddenMessage(what) => Problem {
                status: StatusCode::FORBIDDEN,
                kind: "forbidden-by-route",
                title: "The route does not let this through",
                proxy_error: "http_request_denied",
                detail: format!(
                    "The route's settings `allow` and `deny` do not let {what} through. valetd refuses it; the MCP server \
                     was not asked."
                ),
            },
            Self::ForbiddenByScrub => Problem {
                status: StatusCode::FORBIDDEN,
                kind: "forbidden-by-route",
                title: "The route does not switch protocols",
                proxy_error: "http_request_denied",
                detail: "The request asks to switch to another protocol (Upgrade). The route has the setting `scrub`, \
                         and what comes back in another protocol cannot be looked through for the token."
                    .to_owned(),
            },
            Self::ForbiddenByRules => Problem {
                status: StatusCode::FORBIDDEN,
                kind: "forbidden-by-route",
                title: "The route does not let this through",
                proxy_error: "http_request_denied",
                detail: "The route's settings `allow` and `deny` do not let this method and path through, or the \
                 request tells some servers another method or path than its first line, in a field or in the query."
                    .to_owned(),
            },
            Self::TooManyRequests { .. } => Problem {
                status: StatusCode::TOO_MANY_REQUESTS,
                kind: "too-many-requests",
                title: "The client key has been used too often",
                proxy_error: "http_request_denied",
                detail: format!(
                    "The rate that the client key was made with ({}) is exhausted; the upstream was not asked.",
                    advised("key list")
                ),
            },
            Self::TooManyAtOnce => Problem {
                status: StatusCode::TOO_MANY_REQUESTS,
                kind: "too-many-requests",
                title: "The client key is used too often at once",
                proxy_error: "http_request_denied",
                detail: format!(
                    "As many requests run with the client key as it was made for ({}); the upstream was not asked.",
                    advised("key list")
                ),
            },
            Self::MethodNotAllowed => Problem {
                status: StatusCode::METHOD_NOT_ALLOWED,
                kind: "forbidden-by-route",
                title: "CONNECT and TRACE are not proxied",
                proxy_error: "http_request_denied",
                detail: "valetd is a reverse proxy for the routes in its configuration.".to_owned(),
            },
            Self::BadRequest(what) => Problem {
                status: StatusCode::BAD_REQUEST,
                kind: "bad-request",
                title: "Malformed or ambiguous request",
                proxy_error: "http_request_error",
                detail: format!("The request was refused: {what}."),
            },
            Self::TargetTooLong => Problem {
                status: StatusCode::URI_TOO_LONG,
                kind: "bad-request",
                title: "The request target is too long",
                proxy_error: "http_request_error",
                detail: "The request target is longer than 8 KiB.".to_owned(),
            },
            Self::HeadTooLarge => Problem {
                status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                kind: "bad-request",
                title: "The request's head is too large",
                proxy_error: "http_request_error",
                detail: "The head is longer than 64 KiB or has more than 100 fields.".to_owned(),
            },
            Self::Loop => Problem {
                status: StatusCode::LOOP_DETECTED,
                kind: "loop",
                title: "The route leads back to valetd",
                proxy_error: "proxy_loop_detected",
                detail: "The request has come through this valetd before: a route's upstream leads back \
                         to it."
                    .to_owned(),
            },
            Self::SignInRequired { account, why } => Problem {
                status: StatusCode::SERVICE_UNAVAILABLE,
                kind: "sign-in-required",
                title: "Sign-in required",
                proxy_error: "proxy_internal_response",
                detail: format!("Account \"{account}\": {why}. Run: {}", self.login().unwrap_or_default()),
            },
            Self::Withheld { account, cause, why } => Problem {
                status: StatusCode::SERVICE_UNAVAILABLE,
                kind: cause.code(),
                title: match cause {
                    Withholding::StoreLocked => "The store of credentials is locked",
                    Withholding::KeyGone => "The key of the stored credential is gone",
                    Withholding::Locked => "Somebody has locked valetd",
                    Withholding::OtherMachine => "The stored credential is another machine's",
                    Withholding::OlderCopy => "The stored credential is an older copy",
                },
                proxy_error: "proxy_internal_response",
                detail: format!("Account \"{account}\": {why}. Run: {}", cause.remedy(account, invocation())),
            },
            Self::NothingToDiscover => Problem {
                status: StatusCode::NOT_FOUND,
                kind: "nothing-to-discover",
                title: "valetd signs in here",
                proxy_error: "http_request_denied",
                detail: "The route leads to an MCP server, and valetd holds its sign-in: there is no authorization \
                         server for its clients. Use the route's URL without any authorization."
                    .to_owned(),
            },
            Self::TokenRefused { account } => Problem {
                status: StatusCode::BAD_GATEWAY,
                kind: "token-refused",
                title: "The MCP server refuses the token",
                proxy_error: "proxy_internal_response",
                detail: format!(
                    "The MCP server answers 401 to the newest token of account \"{account}\". If it goes on, sign in \
                     again: {}",
                    self.login().unwrap_or_default()
                ),
            },
            Self::ScopeRequired { account, .. } => Problem {
                status: StatusCode::FORBIDDEN,
                kind: "scope-required",
                title: "The sign-in lacks scope",
                proxy_error: "proxy_internal_response",
                detail: format!(
                    "The MCP server asks for more scope than the sign-in of account \"{account}\" has. Run: {}",
                    self.login().unwrap_or_default()
                ),
            },
            Self::AuditUnavailable => Problem {
                status: StatusCode::SERVICE_UNAVAILABLE,
                kind: "audit-unavailable",
                title: "The request cannot be noted",
                proxy_error: "proxy_internal_response",
                detail: format!(
                    "With the setting `audit_required` nothing is forwarded that cannot be noted, and the audit cannot be \
                     written just now, or has no room: {} tells why. The upstream was not asked.",
                    advised("status")
                ),
            },
            Self::TokenUnavailable { account, because, .. } => {
                let mut detail = format!("Account \"{account}\" has no usable token just now; it is being renewed.");
                if let Some(because) = because {
                    let _ = write!(detail, " Last failure: {because}.");
                }
                Problem {
                    status: StatusCode::SERVICE_UNAVAILABLE,
                    kind: "token-unavailable",
                    title: "No usable token just now",
                    proxy_error: "proxy_internal_response",
                    detail,
                }
            }
            Self::Upstream { upstream, fault } => fault.problem(upstream),
        }
    }

    fn add_members(&self, document: &mut Map<String, Value>, advice: &Advice) {
        match self {
            Self::NoRoute => {
                document.insert("routes".into(), json!(advice.routes));
            }
            Self::NoRouteThere(addresses) => {
                document.insert("upstreams".into(), json!(addresses));
            }
            Self::SignInRequired { account, why } => {
                document.insert("account".into(), account.as_str().into());
                document.insert("why".into(), json!(why));
                document.insert("login".into(), self.login().into());
            }
            Self::Withheld { account, cause, .. } => {
                document.insert("account".into(), account.as_str().into());
                document.insert("remedy".into(), cause.remedy(account, invocation()).into());
            }
            Self::TokenUnavailable { account, retry_after, .. } => {
                document.insert("account".into(), account.as_str().into());
                document.insert("retry_after_seconds".into(), retry_after.as_secs_f64().ceil().into());
            }
            Self::NotAllowed(check) => {
                document.insert("check".into(), check.name().into());
            }
            Self::KeyLacksRoute(route) => {
                document.insert("check".into(), Check::KeyRights.name().into());
                document.insert("route".into(), route.as_str().into());
            }
            Self::Upstream { upstream, .. } => {
                document.insert("upstream".into(), upstream.as_ref().into());
            }
            Self::TooManyRequests { retry_after } => {
                document.insert("retry_after_seconds".into(), retry_after.as_secs_f64().ceil().into());
            }
            Self::TokenRefused { account } => {
                document.insert("account".into(), account.as_str().into());
                document.insert("login".into(), self.login().into());
            }
            Self::ScopeRequired { account, scope } => {
                document.insert("account".into(), account.as_str().into());
                document.insert("scope".into(), scope.as_str().into());
                document.insert("login".into(), self.login().into());
            }
            Self::KeyLacksMessage(_) => {
                document.insert("check".into(), Check::KeyRights.name().into());
            }
            Self::NothingToDiscover | Self::ForbiddenMessage(_) => {}
            Self::ForbiddenByRoute | Self::ForbiddenByRules | Self::ForbiddenByScrub => {}
            Self::MethodNotAllowed | Self::BadRequest(_) | Self::TooManyAtOnce => {}
            Self::TargetTooLong | Self::HeadTooLarge | Self::Loop | Self::AuditUnavailable => {}
        }
    }
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::Peer | Check::Root => "peer",
            Check::Container => "container",
            Check::Host => "host",
            Check::Origin => "origin",
            Check::FetchSite => "sec-fetch-site",
            Check::ServiceWorker => "service-worker",
            Check::Key => "key",
            Check::KeyExpired => "key-expired",
            Check::KeyRequired | Check::KeyOfNobody => "key-required",
            Check::KeyRights => "key-rights",
            Check::KeyUser => "key-user",
            Check::KeyBytes => "key-bytes",
            Check::KeyMisplaced => "key-misplaced",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Check::Peer => "Not allowed: the client belongs to another user",
            Check::Root => "Not allowed: the client is root's",
            Check::Container => "Not allowed: the client runs in a container",
            Check::Host => "Not allowed: unknown host name",
            Check::Origin => "Not allowed: the request comes from another origin",
            Check::FetchSite => "Not allowed: the request comes from a web page",
            Check::ServiceWorker => "Not allowed: a service worker for all routes",
            Check::Key => "Not allowed: no such client key",
            Check::KeyExpired => "Not allowed: the client key has expired",
            Check::KeyRequired | Check::KeyOfNobody => "Not allowed: a client key is required",
            Check::KeyRights => "Not allowed: the client key is not for this",
            Check::KeyUser => "Not allowed: the client key is for another user",
            Check::KeyBytes => "Not allowed: the client key is used up",
            Check::KeyMisplaced => "Not allowed: a client key where none is looked for",
        }
    }

    fn explanation(self) -> &'static str {
        match self {
            Check::Peer => {
                "Check: peer. Only processes of the users in the setting `clients` (by default the one that valetd \
                 runs as) are served without a client key; who the client is could not be told, or it is somebody \
                 else."
            }
            Check::Root => {
                "Check: peer. The client is root's, and the setting `clients` does not name root. To let root's \
                 processes in, write clients = [\"self\", \"root\"] in the configuration; or run the client as the \
                 user that valetd runs as, or give it a key: valetd key add"
            }
            Check::Container => {
                "Check: container. With the setting `containers_need_key`, a client needs a key unless it is seen to \
                 run outside of containers, and this one is not: it has namespaces or a control group of its own, or \
                 its process may not be looked at. To make a key: valetd key add"
            }
            Check::Host => {
                "Check: Host. It must be localhost, a name below localhost, or a loopback address, with any port; the \
                 setting `hosts` adds further names."
            }
            Check::Origin => {
                "Check: Origin. Requests that web pages of another origin make are not given a token, nor are those of \
                 pages at an address that routes share; for a browser, a route is at http://NAME.localhost:PORT/."
            }
            Check::FetchSite => {
                "Check: Sec-Fetch-Site. Requests that web pages of another site make are not given a token, nor are \
                 those of pages at an address that routes share; for a browser, a route is at \
                 http://NAME.localhost:PORT/, and to be typed, not linked to."
            }
            Check::ServiceWorker => {
                "Check: Service-Worker. At an address that routes share it would see the requests to all of them; for \
                 a browser, a route is at http://NAME.localhost:PORT/."
            }
            Check::Key => {
                "Check: client key. The one presented is wrong or was revoked, or two different ones were presented. \
                 To see those that are valid: valetd key list"
            }
            Check::KeyExpired => "Check: client key. The one presented has expired. To make one: valetd key add",
            Check::KeyRequired => {
                "Check: client key. Here nobody is served without one: as X-Valetd-Key, X-Api-Key or Api-Key, as a \
                 Bearer token, as user name or password of Basic, or as the path's first segment. To make \
                 one: valetd key add"
            }
            Check::KeyOfNobody => {
                "Check: client key. This route asks for one since the setting `require_key`, and the command was started \
                 without: its proxy takes requests of every process of the user. Start the command anew: valetd exec"
            }
            Check::KeyRights => {
                "Check: client key. The one presented is valid, but not for this route, method or path; valetd key \
                 list shows what it is for."
            }
            Check::KeyUser => {
                "Check: client key. The one presented is only for the processes of one user, and the client is \
                 somebody else's, or whose it is cannot be told. A command that runs as another user needs \
                 valetd exec --for-user NAME, and one in a container or on another machine a key of valetd key add."
            }
            Check::KeyBytes => {
                "Check: client key. As many bytes as the one presented was made for have gone through it. To make one: \
                 valetd key add"
            }
            Check::KeyMisplaced => {
                "Check: client key. What looks like one is where none is looked for, and is not handed on. It can be \
                 presented as X-Valetd-Key, X-Api-Key or Api-Key, as a Bearer token, as user name or password of \
                 Basic, or as the path's first segment, as it is."
            }
        }
    }
}

impl Fault {
    fn problem(&self, upstream: &str) -> Problem {
        match self {
            Fault::Unreachable { error, detail } => Problem {
                status: StatusCode::BAD_GATEWAY,
                kind: "upstream-unreachable",
                title: "The upstream cannot be reached",
                proxy_error: error,
                detail: format!("Connecting valetd to {upstream} failed: {detail}."),
            },
            Fault::Tls { error, detail } | Fault::NoHttp1 { error: error @ "tls_alert_received", detail } => Problem {
                status: StatusCode::BAD_GATEWAY,
                kind: "upstream-tls",
                title: "TLS with the upstream failed",
                proxy_error: error,
                detail: format!("TLS between valetd and {upstream} failed: {detail}. No token was sent."),
            },
            Fault::ConnectTimeout => Problem {
                status: StatusCode::GATEWAY_TIMEOUT,
                kind: "upstream-timeout",
                title: "Connecting to the upstream took too long",
                proxy_error: "connection_timeout",
                detail: format!("Connecting valetd to {upstream} took longer than the route's `connect_timeout`."),
            },
            Fault::AnswerTimeout => Problem {
                status: StatusCode::GATEWAY_TIMEOUT,
                kind: "upstream-timeout",
                title: "The upstream did not answer in time",
                proxy_error: "http_response_timeout",
                detail: format!(
                    "{upstream} took the request from valetd, but no byte moved for the route's `idle_timeout`."
                ),
            },
            Fault::BrokenAnswer { error, detail } | Fault::NoHttp1 { error, detail } => Problem {
                status: StatusCode::BAD_GATEWAY,
                kind: "upstream-answer",
                title: "The upstream's answer is broken",
                proxy_error: error,
                detail: format!("The answer of {upstream} to valetd cannot be handed on: {detail}."),
            },
        }
    }
}

/// `valetd; error=...; details="..."`; all texts are our own and ASCII without quotes.
fn proxy_status(error: &str, details: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("valetd; error={error}; details=\"{details}\"")).expect("our own texts are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(error: ProxyError, advice: &Advice) -> (Response<()>, Value) {
        let (parts, bytes) = error.into_response(advice).into_parts();
        assert_eq!(parts.headers[CONTENT_LENGTH], bytes.len().to_string().as_str());
        (Response::from_parts(parts, ()), serde_json::from_slice(&bytes).unwrap())
    }

    #[test]
    fn every_error_has_its_status_type_and_proxy_status() {
        let account = AccountId::new("lab").unwrap();
        let upstream: Arc<str> = "https://api.example".into();
        let fault = |fault| ProxyError::Upstream { upstream: upstream.clone(), fault };
        let why = Why::NotSignedIn;
        let unreachable = Fault::Unreachable { error: "dns_error", detail: "x".into() };
        let tls = Fault::Tls { error: "tls_certificate_error", detail: "expired".into() };
        let broken = Fault::BrokenAnswer { error: "http_protocol_error", detail: "x".into() };
        let withheld =
            |cause| ProxyError::Withheld { account: AccountId::new("lab").unwrap(), cause, why: "no stick".into() };
        let unavailable =
            ProxyError::TokenUnavailable { account: account.clone(), retry_after: Duration::ZERO, because: None };
        let rows = [
            (ProxyError::NoRoute, 404, "no-route", "destination_not_found"),
            (ProxyError::NoRouteThere(Vec::new()), 404, "no-route", "destination_not_found"),
            (ProxyError::NotAllowed(Check::Host), 403, "not-allowed", "http_request_denied"),
            (ProxyError::ForbiddenByRoute, 403, "forbidden-by-route", "http_request_denied"),
            (ProxyError::ForbiddenByRules, 403, "forbidden-by-route", "http_request_denied"),
            (ProxyError::KeyLacksRoute(RouteName::new("zip").unwrap()), 403, "not-allowed", "http_request_denied"),
            (ProxyError::ForbiddenByScrub, 403, "forbidden-by-route", "http_request_denied"),
            (ProxyError::NotAllowed(Check::KeyRights), 403, "not-allowed", "http_request_denied"),
            (
                ProxyError::TooManyRequests { retry_after: Duration::from_millis(1) },
                429,
                "too-many-requests",
                "http_request_denied",
            ),
            (ProxyError::TooManyAtOnce, 429, "too-many-requests", "http_request_denied"),
            (ProxyError::NotAllowed(Check::KeyUser), 403, "not-allowed", "http_request_denied"),
            (ProxyError::NotAllowed(Check::KeyBytes), 403, "not-allowed", "http_request_denied"),
            (ProxyError::NotAllowed(Check::KeyMisplaced), 403, "not-allowed", "http_request_denied"),
            (ProxyError::MethodNotAllowed, 405, "forbidden-by-route", "http_request_denied"),
            (ProxyError::BadRequest("x"), 400, "bad-request", "http_request_error"),
            (ProxyError::TargetTooLong, 414, "bad-request", "http_request_error"),
            (ProxyError::HeadTooLarge, 431, "bad-request", "http_request_error"),
            (ProxyError::Loop, 508, "loop", "proxy_loop_detected"),
            (ProxyError::SignInRequired { account, why }, 503, "sign-in-required", "proxy_internal_response"),
            (withheld(Withholding::StoreLocked), 503, "store-locked", "proxy_internal_response"),
            (withheld(Withholding::KeyGone), 503, "key-gone", "proxy_internal_response"),
            (withheld(Withholding::Locked), 503, "locked", "proxy_internal_response"),
            (withheld(Withholding::OtherMachine), 503, "other-machine", "proxy_internal_response"),
            (withheld(Withholding::OlderCopy), 503, "older-copy", "proxy_internal_response"),
            (unavailable, 503, "token-unavailable", "proxy_internal_response"),
            (fault(unreachable), 502, "upstream-unreachable", "dns_error"),
            (fault(tls), 502, "upstream-tls", "tls_certificate_error"),
            (fault(Fault::ConnectTimeout), 504, "upstream-timeout", "connection_timeout"),
            (fault(Fault::AnswerTimeout), 504, "upstream-timeout", "http_response_timeout"),
            (fault(broken), 502, "upstream-answer", "http_protocol_error"),
        ];
        for (error, status, kind, proxy_error) in rows {
            let case = format!("{error:?}");
            let (response, document) = document(error, &Advice::default());
            assert_eq!(response.status(), status, "{case}");
            assert_eq!(document["status"], status, "{case}");
            assert_eq!(document["type"], format!("urn:valetd:problem:{kind}"), "{case}");
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json", "{case}");
            let said = response.headers()[&PROXY_STATUS].to_str().unwrap();
            assert!(said.starts_with(&format!("valetd; error={proxy_error}; details=\"")), "{case}: {said}");
            assert_eq!(response.headers().contains_key(CONNECTION), matches!(status, 400 | 414 | 431), "{case}");
        }
    }

    #[test]
    fn a_tool_learns_what_to_do() {
        let account = AccountId::new("lab").unwrap();
        let sign_in = ProxyError::SignInRequired { account: account.clone(), why: Why::Revoked };
        let (_, said) = document(sign_in, &Advice::default());
        assert_eq!(said["login"], "valetd login lab");
        assert!(said["detail"].as_str().unwrap().ends_with("Run: valetd login lab"), "{said}");

        let (cause, why) = (Withholding::StoreLocked, "its key is away".into());
        let (response, said) =
            document(ProxyError::Withheld { account: account.clone(), cause, why }, &Advice::default());
        assert_eq!(
            (&said["remedy"], &response.headers()[RETRY_AFTER]),
            (&json!("valetd unlock"), &HeaderValue::from(5))
        );

        let retry_after = Duration::from_millis(2100);
        let (response, said) = document(
            ProxyError::TokenUnavailable { account, retry_after, because: Some("HTTP 503".into()) },
            &Advice::default(),
        );
        assert_eq!(response.headers()[RETRY_AFTER], "3");
        assert!(said["detail"].as_str().unwrap().contains("HTTP 503"), "{said}");

        let advice = Advice {
            routes: vec!["/lab/".into()],
            first_steps: Some("Run: valetd login NAME".into()),
            config_problem: None,
        };
        let (_, said) = document(ProxyError::NoRoute, &advice);
        assert_eq!(said["routes"], json!(["/lab/"]));
        assert!(said["detail"].as_str().unwrap().ends_with("Run: valetd login NAME"), "{said}");
    }
}
