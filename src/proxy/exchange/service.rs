//! One request from start to end: guard, route, token, forward, answer.

use std::borrow::Cow;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use hyper::body::{Body as _, Incoming};
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, LOCATION, VARY, VIA,
};
use hyper::{Method, Request, Response, StatusCode, Version};
use tracing::debug;

use crate::client_keys::{ClientKey, Exhausted, Refusal};
use crate::config::Upstream;
use crate::mcp::Message;
use crate::platform::clock;
use crate::platform::request_rest;
use crate::proxy::authorization::{Authorization, Rejection};
use crate::proxy::connection::{Authority, Connection, Lost, Stream};
use crate::proxy::exchange::accounting::{Counted, Exchange, Farewell};
use crate::proxy::exchange::body::{Overheard, ResponseBody};
use crate::proxy::exchange::forward::{
    RequestContext, clean, in_time, no_token, renewed_token, send_error, upstream_error,
};
use crate::proxy::exchange::mcp::{self, Judged};
use crate::proxy::exchange::upgrade;
use crate::proxy::fault::Fault;
use crate::proxy::local_table::{LocalRoute, LocalTable};
use crate::proxy::policy::client_key::{self, Presented};
use crate::proxy::policy::endpoint_event::{Endpoints, Here};
use crate::proxy::policy::error::{CLEAR_SITE_DATA, Check, PROXY_STATUS, ProxyError, STORAGE};
use crate::proxy::policy::guard::{self, Admission, Shared};
use crate::proxy::policy::head::{Head, HeadFlags};
use crate::proxy::policy::headers::{self, UpstreamFields};
use crate::proxy::policy::outward;
use crate::proxy::policy::route::{self, Found};
use crate::proxy::registry::ClientState;
use crate::proxy::replay::{self, Kept, RequestBody};
use crate::proxy::table::RouteEntry;
use crate::proxy::table::Table;
use crate::proxy::upstream::{self, Error, Resend};
use crate::renewal::Place;
use crate::token_source::Published;

/// Answers one request, whatever comes of it.
///
/// The exchange has begun when this returns, before the future is asked: hyper looks first whether the client has more
/// to say, and one that has closed its sending side right behind its request must not be taken for one that is gone.
pub(crate) fn answer(stream: Rc<Stream>, request: Request<Incoming>) -> impl Future<Output = Response<Counted>> {
    let table = stream.connection.worker.table();
    let mut exchange = Exchange::begin(&stream, &table, &request);
    async move {
        let answer = {
            let carried_out = pin!(carry_out(&stream, &table, &mut exchange, request));
            stream.while_authorized(carried_out).await
        };
        let answer = answer.unwrap_or_else(|lost| Err(no_right(&stream, lost)));
        let response = answer.unwrap_or_else(|error| {
            exchange.failed(&error);
            let connection = &stream.connection;
            let is_turned_away = connection.handle.client_state() != ClientState::Admitted
                || matches!(error, ProxyError::NotAllowed(Check::Peer | Check::Root));
            let mut response = error.into_response(&connection.advice(&table.shared, exchange.key()));
            if is_turned_away {
                connection.turn_away();
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response.map(ResponseBody::Full)
        });
        exchange.answered(response.status());
        response.map(|body| Counted::new(body, exchange))
    }
}

/// The steps of a request, in their order: whose it is, whether it comes in, where it leads, whether it may go there; then a
/// token, the upstream's response, and what the client gets of it.
async fn carry_out(
    stream: &Rc<Stream>,
    table: &LocalTable,
    exchange: &mut Exchange,
    mut request: Request<Incoming>,
) -> Result<Response<ResponseBody>, ProxyError> {
    let (connection, access) = (&stream.connection, &table.shared.access);
    let (caller, target, way_in) = match let_in(connection, table, exchange, &mut request).await {
        Ok(found) => found,
        Err(error) => {
            if !matches!(error, ProxyError::NotAllowed(Check::Peer | Check::Root)) {
                Box::pin(request_rest::read(request)).await;
            }
            return Err(error);
        }
    };
    let route = &*target.local.entry;
    if way_in == Shared::Navigation && connection.is_where_localhost_is() {
        exchange.led_away();
        return Ok(to_own_origin(route, target.rest(&request), &request));
    }
    stream.depends_on(Authority::of(caller.key.clone(), target.local.clone()));
    if access.audit_required && !exchange.is_promised_a_line() {
        return Err(ProxyError::AuditUnavailable);
    }

    let token = match route.tokens.usable() {
        Some(token) => token,
        None if route.config.mcp.is_some() => {
            // of a client that is told in JSON-RPC the request is still needed, so its wait is not cut: it ends by itself
            let authority = stream.is_independent();
            match Box::pin(route.tokens.token(route.config.wait)).await {
                Ok(token) => {
                    authority.into_iter().for_each(|authority| stream.depends_on(authority));
                    stream.look_at_authority();
                    tokio::task::yield_now().await; // here it ends, if its right was lost meanwhile
                    token
                }
                Err(why_not) => {
                    let (error, response) = mcp::refuse(stream, no_token(route, why_not), request).await?;
                    exchange.failed(&error);
                    return Ok(response);
                }
            }
        }
        None => match Box::pin(route.tokens.token(route.config.wait)).await {
            Ok(token) => token,
            Err(why_not) => {
                Box::pin(request_rest::read(request)).await;
                return Err(no_token(route, why_not));
            }
        },
    };
    exchange.goes_up_with(&token);

    let mut authorization = route.authorize(token);
    if route.config.mcp.is_some() {
        mcp::observe(route, request.headers());
    }
    let (context, switches) = prepare(connection, &table.shared, &caller, &target, &mut request, &authorization)?;
    if switches && route.config.scrub {
        return Err(ProxyError::ForbiddenByScrub);
    }
    let under_rules = mcp::has_rules(&route.config, caller.key.as_deref());
    // a server may read a message from whatever has content
    let has_message = under_rules && (request.method() == Method::POST || !request.body().is_end_stream());
    if switches && under_rules {
        return Err(ProxyError::ForbiddenByRules);
    }
    if switches {
        return Box::pin(upgrade::forward(stream, &target.local, request, authorization, context, exchange)).await;
    }
    let place = route.place(&request);
    let (request, kept) = if has_message {
        let name = &authorization.token().name;
        let rules_of = (route, caller.key.as_deref());
        let judging = mcp::judge(stream, rules_of, request, name, stream.right(), |what| exchange.says(what));
        let (mut request, kept) = match Box::pin(judging).await? {
            Judged::Through(whole) => whole.keep(route.replay_policy()),
            Judged::Refused(error, response) => {
                exchange.failed(&error);
                return Ok(*response);
            }
        };
        // it may have taken a while to come
        let renewed = stream.in_time(Box::pin(authorization.renew(&mut request)).as_mut()).await;
        let renewed = renewed.map_err(|fault| upstream_error(route, fault))?;
        renewed.map_err(|why_not| no_token(route, why_not))?;
        (request, kept)
    } else {
        replay::keep(request, route.replay_policy(), &stream.activity, &authorization.token().name, || stream.right())
    };
    let response = match send(stream, &target.local, request, &mut authorization, false).await {
        Ok(response) => response,
        Err(Error::Lost { fault, resend }) => {
            let again = send_again_if_lost(stream, &target.local, &mut authorization, kept.as_ref(), fault, resend);
            Box::pin(again).await?
        }
        Err(error) => return Err(send_error(route, error)),
    };
    exchange.goes_up_with(authorization.token()); // it may be another one by now
    // looked at now, as a second sending uses it up
    let refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&response.status());
    let speaks_mcp = route.config.mcp.is_some();
    let may_be_told = || refused || mcp::is_in_events(response.headers());
    let sent = if speaks_mcp && may_be_told() { kept.as_ref().and_then(mcp::sent) } else { None };
    if authorization.judge(&response) == Some(Rejection::Renew) {
        let response = Box::pin(after_401(stream, &target.local, authorization, place, kept, response, context)).await;
        return if speaks_mcp { in_mcp(stream, exchange, response, sent) } else { response };
    }
    let token = authorization.token();
    if response.status().is_success() {
        route.tokens.worked(token, place, || exchange.began.elapsed());
    }
    let response = respond(route, response, token, &context);
    if speaks_mcp { in_mcp(stream, exchange, response, sent) } else { response }
}

/// What has come of a request, as its MCP client is told.
fn in_mcp(
    stream: &Stream,
    exchange: &mut Exchange,
    outcome: Result<Response<ResponseBody>, ProxyError>,
    sent: Option<Vec<Message>>,
) -> Result<Response<ResponseBody>, ProxyError> {
    let response = match outcome {
        Ok(response) => response,
        Err(error) => return in_json_rpc(stream, exchange, error, sent),
    };
    let headers = response.headers();
    // where a length is stated, or the text is compressed, nothing can be put in
    let takes_an_event = response.status().is_success()
        && mcp::is_in_events(headers)
        && !headers.contains_key(CONTENT_LENGTH)
        && !headers.contains_key(CONTENT_ENCODING);
    if takes_an_event && let Some(authority) = stream.authority() {
        let sent = sent.unwrap_or_default();
        exchange.ends_with(Farewell::new(move |lost| why(&authority, lost).in_event(&sent)));
    }
    Ok(response)
}

/// The refusal of a message that has been sent, so that its client shows what a person can do; otherwise the refusal as it is.
fn in_json_rpc(
    stream: &Stream,
    exchange: &mut Exchange,
    error: ProxyError,
    sent: Option<Vec<Message>>,
) -> Result<Response<ResponseBody>, ProxyError> {
    let response = sent.filter(|_| error.login().is_some()).and_then(|messages| error.in_json_rpc(&messages));
    let Some(response) = response else { return Err(error) };
    stream.is_independent(); // a response of our own is for everybody
    exchange.failed(&error);
    Ok(response.map(ResponseBody::Full))
}

/// Who asks, as far as the request says it, and what one look at its fields has found.
struct Caller {
    flags: HeadFlags,
    presented: Option<Presented>,
    /// The key that was presented; valid.
    key: Option<Arc<ClientKey>>,
}

/// Where a request leads.
struct Target {
    local: Rc<LocalRoute>,
    found: Found,
    /// Whether the address is one that routes share, and that a browser can reach.
    is_shared: bool,
}

impl Target {
    /// The path behind the route's prefix.
    fn rest<'a>(&self, request: &'a Request<Incoming>) -> &'a str {
        &request.uri().path()[self.found.prefix..]
    }
}

/// Whose the request is, where it leads, and whether it may go there.
async fn let_in(
    connection: &Connection,
    table: &LocalTable,
    exchange: &mut Exchange,
    request: &mut Request<Incoming>,
) -> Result<(Caller, Target, Shared), ProxyError> {
    let caller = identify(connection, table, exchange, request)?;
    let host = admit(connection, &table.shared, &caller, request)?;
    if let Some(containers) = &table.shared.access.containers
        && caller.key.is_none()
        && !connection.is_outside_containers(containers).await
    {
        return Err(ProxyError::NotAllowed(Check::Container));
    }
    connection.admit();
    let target = find(connection, table, host, request)?;
    exchange.reached(&target.local);
    let way_in = permit(connection, &table.shared, &caller, &target, host, request, exchange)?;
    Ok((caller, target, way_in))
}

/// Takes the client key off a request, if it presents one, which must be valid.
fn identify(
    connection: &Connection,
    table: &LocalTable,
    exchange: &mut Exchange,
    request: &mut Request<Incoming>,
) -> Result<Caller, ProxyError> {
    let flags = HeadFlags::of(request.headers());
    let presented = take_key(table, request, &flags)?;
    let key = match &presented {
        Some(presented) => Some(valid_key(connection, table, exchange, presented)?),
        None => None,
    };
    Ok(Caller { flags, presented, key })
}

/// Whether the request may come in; its host name.
fn admit<'request>(
    connection: &Connection,
    table: &Table,
    caller: &Caller,
    request: &'request Request<Incoming>,
) -> Result<&'request str, ProxyError> {
    let admission = Admission { uids: &table.access.uids, hosts: &table.hosts, keyed: caller.key.is_some() };
    guard::admit(&connection.ingress, &connection.peer, admission, &Head::of(request, caller.flags))
}

/// Finds the route.
fn find(
    connection: &Connection,
    table: &LocalTable,
    host: &str,
    request: &Request<Incoming>,
) -> Result<Target, ProxyError> {
    let (ingress, path) = (&connection.ingress, request.uri().path());
    route::check_path(path)?;
    let found = match ingress.names_upstreams() {
        false => ingress.find(|name| table.shared.position(name), host, path).ok_or(ProxyError::NoRoute)?,
        true => {
            let field = request.headers().get(HOST).and_then(|host| host.to_str().ok());
            let authority = field.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
            let routes = table.shared.routes.iter().map(|route| &route.config);
            let authority = authority.ok_or(ProxyError::NoRoute)?;
            route::find_by_upstream(routes.clone(), &ingress.scope, authority, path)
                .ok_or_else(|| ProxyError::NoRouteThere(route::upstreams_at(routes, &ingress.scope, authority)))?
        }
    };
    let is_shared = found.prefix > 0 && connection.ingress.is_tcp();
    Ok(Target { local: table.routes[found.index].clone(), found, is_shared })
}

/// Whether the route and the client key let the request through.
fn permit(
    connection: &Connection,
    table: &Table,
    caller: &Caller,
    target: &Target,
    host: &str,
    request: &Request<Incoming>,
    exchange: &mut Exchange,
) -> Result<Shared, ProxyError> {
    let (route, head, rest) = (&*target.local.entry, Head::of(request, caller.flags), target.rest(request));
    let way_in = if target.is_shared { guard::admit_to_shared(&head, host)? } else { Shared::Use };
    if route.config.mcp.is_some() && mcp::is_discovery(rest) {
        return Err(ProxyError::NothingToDiscover);
    }
    if route::is_refused(&route.refuse, &route.config.upstream.base_path, rest) {
        return Err(ProxyError::ForbiddenByRoute);
    }
    if route.config.require_key && caller.key.is_none() {
        return Err(ProxyError::NotAllowed(Check::KeyRequired));
    }
    if route.config.require_key && connection.ingress.scope.is_open() {
        return Err(ProxyError::NotAllowed(Check::KeyOfNobody));
    }
    route::check_rules(&route.config, caller.key.as_deref(), &head, rest)?;
    mcp::check_place(&route.config, caller.key.as_deref(), request.method(), rest)?;
    if let Some(key) = &caller.key {
        let in_use = table.access.keys.admit(key).map_err(|exhausted| match exhausted {
            Exhausted::Rate(retry_after) => ProxyError::TooManyRequests { retry_after },
            Exhausted::Concurrent => ProxyError::TooManyAtOnce,
            Exhausted::Bytes => ProxyError::NotAllowed(Check::KeyBytes),
        })?;
        exchange.uses(in_use);
    }
    if caller.flags.via && has_been_here(request.headers(), &table.pseudonym) {
        return Err(ProxyError::Loop);
    }
    Ok(way_in)
}

/// Makes a client's request the upstream's. Returns what its response will need to know, and whether it wants to switch
/// protocols.
fn prepare<'a>(
    connection: &'a Connection,
    table: &'a Table,
    caller: &Caller,
    target: &'a Target,
    request: &mut Request<Incoming>,
    authorization: &Authorization<'_>,
) -> Result<(RequestContext<'a>, bool), ProxyError> {
    let (route, found) = (&*target.local.entry, target.found);
    let protocol = headers::upgrade_protocol(request.headers(), &caller.flags);
    let switches = protocol.is_some();
    let prefix = if found.prefix > 0 && !connection.ingress.names_upstreams() { route.prefix.as_str() } else { "" };
    let prefix = match &caller.presented {
        Some(Presented { key, in_path: true }) => Cow::Owned(format!("/{}{prefix}", **key)),
        Some(Presented { in_path: false, .. }) | None => Cow::Borrowed(prefix),
    };
    let asked = match route::target(&route.config.upstream.base_path, found.prefix, request.uri()) {
        Some(upstreams) => std::mem::replace(request.uri_mut(), upstreams),
        None => request.uri().clone(),
    };
    let context = RequestContext {
        connection,
        table,
        authority: request.headers().get(HOST).cloned(),
        is_head: *request.method() == Method::HEAD,
        may_say_endpoint: route.config.mcp.is_some()
            && !connection.ingress.names_upstreams()
            && mcp::may_open_older(request),
        may_begin_mcp: route.config.mcp.is_some() && mcp::may_begin(request),
        target: asked,
        found,
        prefix,
        shared: target.is_shared,
        via: route.config.via.then_some(&table.via_response),
    };
    if caller.flags.origin || caller.flags.references {
        let method = request.method().clone();
        let permit = |rest: Option<&str>| {
            route::check_other_path(&route.config, &route.refuse, caller.key.as_deref(), &method, rest)
        };
        context.with_mapping(route, |mapping| outward::translate(request.headers_mut(), &mapping, &permit))?;
    }
    if request.version() != Version::HTTP_2 {
        *request.version_mut() = Version::HTTP_11;
    }
    let fields = UpstreamFields {
        host: &route.host,
        via: route.config.via.then_some(&table.via_request),
        token_name: &authorization.token().name,
        edits: &route.edits,
        upgrade: protocol,
    };
    headers::prepare_request(request.headers_mut(), &caller.flags, fields);
    authorization.apply(request);
    if route.config.scrub || context.may_begin_mcp || context.may_say_endpoint {
        headers::ask_for_whole_text(request.headers_mut());
    }
    Ok((context, switches))
}

/// Leads a browser from an address that routes share to the route's own origin, where it can do no harm to another
/// route. Without the key that may have been in the path: the page's programs can read their own address.
fn to_own_origin(route: &RouteEntry, path: &str, request: &Request<Incoming>) -> Response<ResponseBody> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let mut location = guard::own_origin(route.config.name.as_str(), host);
    location.push_str(if path.is_empty() { "/" } else { path });
    if let Some(query) = request.uri().query() {
        location.extend(["?", query]);
    }
    let mut response = Response::new(ResponseBody::Empty);
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    let headers = response.headers_mut();
    headers.insert(LOCATION, HeaderValue::try_from(location).expect("pieces of a target and of a Host"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(VARY, HeaderValue::from_static("Sec-Fetch-Mode, Sec-Fetch-Site"));
    // what pages have left here when they still could, service workers among it
    headers.insert(CLEAR_SITE_DATA, HeaderValue::from_static(STORAGE));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    headers.insert(
        PROXY_STATUS,
        HeaderValue::from_static("valetd; details=\"a browser is led to the route's own origin\""),
    );
    response
}

/// Takes the client key off a request, if it presents one.
fn take_key(
    table: &LocalTable,
    request: &mut Request<Incoming>,
    flags: &HeadFlags,
) -> Result<Option<Presented>, ProxyError> {
    if !client_key::may_be_there(request.uri(), flags) {
        return Ok(None);
    }
    let mut target = std::mem::take(request.uri_mut());
    let is_known = |text: &str| !matches!(table.shared.access.keys.find(text), Err(Refusal::Unknown));
    let taken = client_key::take(&mut target, request.headers_mut(), flags, is_known);
    *request.uri_mut() = target;
    taken
}

/// The key that was presented, if it is one that is valid now.
fn valid_key(
    connection: &Connection,
    table: &LocalTable,
    exchange: &mut Exchange,
    presented: &Presented,
) -> Result<Arc<ClientKey>, ProxyError> {
    let found = table.shared.access.keys.find(&presented.key);
    let key = found.map_err(refused_key)?;
    // before the connection counts as a client's: the key may have been read from another user's arguments
    if !key.limits.user.is_none_or(|user| connection.peer.is_of(user)) {
        return Err(ProxyError::NotAllowed(Check::KeyUser));
    }
    exchange.is_keyed(&key);
    Ok(key)
}

fn refused_key(refusal: Refusal) -> ProxyError {
    ProxyError::NotAllowed(match refusal {
        Refusal::Unknown => Check::Key,
        Refusal::Expired => Check::KeyExpired,
    })
}

/// What a request is told that has lost its right before there was a response. The response that says so is for everybody.
fn no_right(stream: &Stream, lost: Lost) -> ProxyError {
    let authority = stream.is_independent();
    match (lost, authority) {
        (Lost::Key(refusal), None) => refused_key(refusal),
        (lost, Some(authority)) => why(&authority, lost),
        (Lost::Account, None) => unreachable!("what is lost was there"),
    }
}

fn why(authority: &Authority, lost: Lost) -> ProxyError {
    match lost {
        Lost::Key(refusal) => refused_key(refusal),
        Lost::Account => no_token(authority.route(), authority.route().tokens.why_withdrawn()),
    }
}

/// The upstream closed a connection that others had used before, before a whole head: most likely it had grown
/// tired of waiting just then. What may be carried out twice is sent once more (RFC 9110 section 9.2.2), and so is what
/// the upstream says it has not begun with.
async fn send_again_if_lost(
    stream: &Rc<Stream>,
    local: &LocalRoute,
    authorization: &mut Authorization<'_>,
    kept: Option<&Kept>,
    fault: Fault,
    resend: Resend,
) -> Result<upstream::Response, ProxyError> {
    let route = &*local.entry;
    let again = kept.filter(|kept| match resend {
        Resend::Always => true,
        Resend::IfIdempotent => kept.survives_lost_connection(),
        Resend::Never => false,
    });
    let Some(mut request) = again.and_then(|kept| kept.again(authorization)) else {
        return Err(upstream_error(route, fault));
    };
    debug!(?fault, "the answer was lost; sending once more");
    // also for what goes to a connection that is open: the first sending may have taken a while
    let renewed = stream.in_time(Box::pin(authorization.renew(&mut request)).as_mut()).await;
    let renewed = renewed.map_err(|fault| upstream_error(route, fault))?;
    renewed.map_err(|why_not| no_token(route, why_not))?;
    send(stream, local, request, authorization, true).await.map_err(|error| send_error(route, error))
}

/// Sends a request in the exchange's time.
async fn send(
    stream: &Stream,
    local: &LocalRoute,
    request: Request<RequestBody>,
    authorization: &mut Authorization<'_>,
    fresh: bool,
) -> Result<upstream::Response, Error> {
    let sending = pin!(upstream::send(&local.pool, request, authorization, local.entry.config.connect_timeout, fresh));
    let sent = in_time(stream, sending).await;
    if matches!(sent, Err(Error::Lost { fault: Fault::AnswerTimeout, .. })) {
        local.pool.retire_http1(); // the others may be as dead as the one that was silent
    }
    sent
}

/// The upstream did not like the token: one renewal, shared by all who were told so, and one replay. Where that cannot
/// be, the 401 is handed on.
async fn after_401(
    stream: &Rc<Stream>,
    local: &LocalRoute,
    rejected: Authorization<'_>,
    place: Place,
    kept: Option<Kept>,
    response: upstream::Response,
    context: RequestContext<'_>,
) -> Result<Response<ResponseBody>, ProxyError> {
    let (route, refused) = (&*local.entry, clock::instant());
    let token = rejected.token();
    let Some(new) = renewed_token(stream, route, token, place, kept.as_ref()).await else {
        return respond(route, response, token, &context);
    };
    let mut authorization = route.authorize(new);
    let Some(request) = kept.as_ref().and_then(|kept| kept.again(&authorization)) else {
        return respond(route, response, token, &context);
    };
    drop(response); // its body is not worth reading, so its connection goes, too
    route.stats.replayed.add(1);
    let response = match send(stream, local, request, &mut authorization, false).await {
        Ok(response) => response,
        Err(Error::Lost { fault, resend }) => {
            send_again_if_lost(stream, local, &mut authorization, kept.as_ref(), fault, resend).await?
        }
        Err(error) => return Err(send_error(route, error)),
    };
    let (new, outcome) = (authorization.token(), authorization.outcome(&response));
    route.note_replay(outcome);
    route.tokens.replayed(token, new, place, refused.elapsed(), outcome);
    respond(route, response, new, &context)
}

/// Makes the upstream's response the client's.
fn respond(
    route: &RouteEntry,
    mut response: upstream::Response,
    token: &Arc<Published>,
    context: &RequestContext<'_>,
) -> Result<Response<ResponseBody>, ProxyError> {
    if route.config.mcp.is_some() {
        mcp::without_challenge(route, &mut response)?;
    }
    let says_endpoint = context.may_say_endpoint && mcp::is_in_events(response.headers());
    if says_endpoint && let Some(fault) = headers::cannot_be_looked_through(response.status(), response.headers()) {
        return Err(upstream_error(route, fault));
    }
    clean(route, &mut response, token, context, false)?;
    let endpoints = says_endpoint.then(|| {
        response.headers_mut().remove(CONTENT_LENGTH); // it may become another one
        let authority = context.authority.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
        let Upstream { origin, base_path } = route.config.upstream.clone();
        Endpoints::new(Here { origin, base_path, authority, prefix: context.prefix.clone().into_owned() })
    });
    let (head, body) = response.into_parts();
    let overheard = (context.may_begin_mcp && head.status.is_success()).then(|| Overheard::of(route.stats.clone()));
    let body = ResponseBody::upstream(body, token, &route.edits, route.config.scrub, overheard, endpoints);
    Ok(Response::from_parts(head, body))
}

/// Whether a `Via` field carries the comment that only this process adds.
fn has_been_here(headers: &HeaderMap, pseudonym: &str) -> bool {
    let pseudonym = pseudonym.as_bytes();
    headers.get_all(VIA).iter().any(|via| via.as_bytes().windows(pseudonym.len()).any(|part| part == pseudonym))
}
