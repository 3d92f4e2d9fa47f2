//! What every request that goes up has in common, whether it becomes a response or a tunnel.

use std::borrow::Cow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Body;
use hyper::ext::ReasonPhrase;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue};
use hyper::{StatusCode, Uri, Version};

use crate::proxy::connection::{Connection, Stream};
use crate::proxy::fault::Fault;
use crate::proxy::policy::error::ProxyError;
use crate::proxy::policy::headers::{self, Length, ResponseContext};
use crate::proxy::policy::redact::Confidential;
use crate::proxy::policy::rewrite::{Mapping, OwnAddresses, Sibling};
use crate::proxy::policy::route::Found;
use crate::proxy::replay::Kept;
use crate::proxy::table::{RouteEntry, Table};
use crate::proxy::upstream::{self, Error, Resend};
use crate::renewal::Place;
use crate::token_source::{Published, Unavailable, Withheld};

/// Waits for a response in the exchange's time.
pub(crate) async fn in_time(
    stream: &Stream,
    sending: Pin<&mut impl Future<Output = Result<upstream::Response, Error>>>,
) -> Result<upstream::Response, Error> {
    let sent = stream.in_time(sending).await;
    sent.unwrap_or_else(|fault| Err(Error::Lost { fault, resend: Resend::Never }))
}

/// Reports a 401 that rejects a token and, if the request can be sent again, waits for the next one. `None`: hand the 401
/// on.
pub(crate) async fn renewed_token(
    stream: &Stream,
    route: &RouteEntry,
    refused: &Published,
    place: Place,
    kept: Option<&Kept>,
) -> Option<Arc<Published>> {
    route.stats.rejected.add(1);
    let patience = if kept.is_some_and(Kept::survives_401) { route.config.wait } else { Duration::ZERO };
    let renewal = stream.in_time(pin!(route.tokens.token_after(refused, place, patience))).await;
    renewal.unwrap_or(None).filter(|_| !patience.is_zero())
}

/// What a response needs to know of its request.
pub(crate) struct RequestContext<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) table: &'a Table,
    pub(crate) authority: Option<HeaderValue>,
    pub(crate) is_head: bool,
    /// Whether the response may be an MCP server's first one, which says what it is.
    pub(crate) may_begin_mcp: bool,
    /// Whether the response may be the stream of an MCP server's older transport, which says where messages go.
    pub(crate) may_say_endpoint: bool,
    /// As the client asked for it.
    pub(crate) target: Uri,
    pub(crate) found: Found,
    pub(crate) prefix: Cow<'a, str>,
    /// Whether the address is one that routes share.
    pub(crate) shared: bool,
    pub(crate) via: Option<&'a HeaderValue>,
}

impl RequestContext<'_> {
    /// Has `act` see how the upstream's addresses map to those that the client knows.
    pub(crate) fn with_mapping<T>(&self, route: &RouteEntry, act: impl FnOnce(Mapping<'_>) -> T) -> T {
        let RequestContext { connection, table, target, found, prefix, .. } = self;
        let (scope, names_upstream) = (&connection.ingress.scope, connection.ingress.names_upstreams());
        let local_authority = self.authority.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
        let own = OwnAddresses {
            listeners: &connection.worker.listeners.borrow(),
            hosts: &table.hosts,
            ingress: &connection.ingress,
            shares_account: &|name| {
                table.position(name).map(|at| table.routes[at].config.account == route.config.account)
            },
            sibling: &|is_meant, path| {
                let leads = |other: &&Arc<RouteEntry>| {
                    let config = &other.config;
                    config.account == route.config.account
                        && config.name != route.config.name
                        && scope.has(config.name.as_str())
                        && is_meant(&config.upstream.origin)
                        && path
                            .strip_prefix(config.upstream.base_path.as_str())
                            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                let found = table.routes.iter().filter(leads).max_by_key(|one| one.config.upstream.base_path.len())?;
                let config = &found.config;
                Some(Sibling { name: config.name.clone(), base: config.upstream.base_path.len() })
            },
        };
        act(Mapping {
            origin: &route.upstream.origin,
            base_path: &route.config.upstream.base_path,
            asked: &target.path()[found.prefix..],
            // where the client names the upstream, nothing else is called by that name
            local_authority: if names_upstream { "" } else { local_authority },
            prefix,
            route_prefix: if found.prefix > 0 && !names_upstream { &route.prefix } else { "" },
            own,
        })
    }
}

/// Makes an upstream's head what the client may see.
pub(crate) fn clean(
    route: &RouteEntry,
    response: &mut upstream::Response,
    token: &Published,
    context: &RequestContext<'_>,
    switching: bool,
) -> Result<(), ProxyError> {
    if !switching && response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let detail = "101 without having been asked to switch".to_owned();
        return Err(upstream_error(route, Fault::BrokenAnswer { error: "http_protocol_error", detail }));
    }
    let confidential = Confidential::of(token, route.edits.secrets.as_deref());
    if response.extensions().get::<ReasonPhrase>().is_some_and(|phrase| confidential.is_in(phrase.as_bytes())) {
        response.extensions_mut().remove::<ReasonPhrase>();
    }
    if route.config.scrub
        && !response.body().is_end_stream()
        && let Some(fault) = headers::cannot_be_looked_through(response.status(), response.headers())
    {
        return Err(upstream_error(route, fault));
    }
    let length = Length::of(response.status(), context.is_head);
    let cleaned = context.with_mapping(route, |mapping| {
        let (via, shared) = (context.via, context.shared);
        let response_context = ResponseContext { via, confidential, mapping, shared, switching, length };
        headers::clean_response(response.headers_mut(), &response_context)
    });
    cleaned.map_err(|fault| upstream_error(route, fault))?;
    let has_content = !switching && response.status() != StatusCode::NO_CONTENT;
    if context.shared && has_content && headers::may_become_document(response.headers()) {
        // beside the upstream's own, and so in force together with it
        response.headers_mut().append(CONTENT_SECURITY_POLICY, headers::SANDBOX);
    }
    *response.version_mut() = Version::HTTP_11;
    Ok(())
}

pub(crate) fn upstream_error(route: &RouteEntry, fault: Fault) -> ProxyError {
    ProxyError::Upstream { upstream: route.upstream.label.clone(), fault }
}

/// What it means for the client that a request was not answered.
pub(crate) fn send_error(route: &RouteEntry, error: Error) -> ProxyError {
    match error {
        Error::NotConnected(fault) | Error::Lost { fault, .. } => upstream_error(route, fault),
        Error::BrokenRequest => ProxyError::BadRequest("its body is malformed, or broke off"),
        Error::NotAuthorized(why_not) => no_token(route, why_not),
    }
}

pub(crate) fn no_token(route: &RouteEntry, why_not: Unavailable) -> ProxyError {
    let account = route.config.account.clone();
    match why_not {
        Unavailable::SignInRequired { why } => ProxyError::SignInRequired { account, why },
        Unavailable::Withheld(Withheld { cause, why, .. }) => ProxyError::Withheld { account, cause, why },
        Unavailable::NotNow { retry_after, because } => ProxyError::TokenUnavailable { account, retry_after, because },
    }
}
