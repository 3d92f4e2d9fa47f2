//! One request from start to end: guard, route, token, forward, answer.

use std::borrow::Cow;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hyper::body::{Body, Incoming};
use hyper::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, HOST, HeaderMap, HeaderValue,
    LOCATION, VARY, VIA,
};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use tracing::{Level, debug, enabled};

use crate::client_keys::{ClientKey, Refusal};
use crate::config::KeyName;
use crate::proxy::Table;
use crate::proxy::authorization::Authorization;
use crate::proxy::downstream::connection::{Connection, Standing};
use crate::proxy::exchange::body::AnswerBody;
use crate::proxy::exchange::note::Note;
use crate::proxy::exchange::upgrade;
use crate::proxy::fault::Fault;
use crate::proxy::policy::client_key::{self, Presented};
use crate::proxy::policy::error::{CLEAR_SITE_DATA, Check, PROXY_STATUS, ProxyError, STORAGE};
use crate::proxy::policy::guard::{self, Admission, Shared};
use crate::proxy::policy::headers::{self, Homeward, Ours, Survey};
use crate::proxy::policy::rewrite::{self, Mapping, OwnAddresses};
use crate::proxy::policy::route::{self, Found};
use crate::proxy::replay::{self, Kept, RequestBody};
use crate::proxy::table::RouteEntry;
use crate::proxy::upstream::{self, Error, Resend};
use crate::proxy::worker::{LocalRoute, LocalTable};
use crate::token_source::{Published, Unavailable};

/// Answers one request, whatever comes of it.
///
/// The exchange has begun when this returns, before the future is asked: hyper looks first whether the client has more
/// to say, and one that has closed its sending side right behind its request must not be taken for one that is gone.
pub(crate) fn answer(
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> impl Future<Output = Response<AnswerBody>> {
    let table = connection.worker.table();
    let mut exchange = Exchange::begin(&connection, &table, &request);
    async move {
        let answer = carry_out(&connection, &table, &mut exchange, request).await;
        let response = answer.unwrap_or_else(|error| {
            exchange.failed(&error);
            let is_turned_away = connection.standing() != Standing::Client
                || matches!(error, ProxyError::NotAllowed(Check::Peer | Check::Root));
            let mut response = error.into_response(&connection.scope.advice(&table.shared.advice));
            if is_turned_away {
                connection.turn_away();
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        });
        exchange.answered(response.status());
        response.map(|body| body.of(exchange))
    }
}

async fn carry_out(
    connection: &Rc<Connection>,
    table: &LocalTable,
    exchange: &mut Exchange,
    mut request: Request<Incoming>,
) -> Result<Response<AnswerBody>, ProxyError> {
    let survey = Survey::of(request.headers());
    let presented = take_key(&mut request, &survey)?;
    let key = match &presented {
        Some(presented) => Some(valid_key(table, exchange, presented)?),
        None => None,
    };
    let (target, method) = (request.uri(), request.method());
    let Table { hosts, access, .. } = &*table.shared;
    let host = guard::admit(
        connection.door,
        Admission { uids: &access.uids, hosts, keyed: key.is_some() },
        method,
        target,
        request.version(),
        request.headers(),
        &survey,
    )?;
    if let Some(containers) = &access.containers
        && key.is_none()
        && !connection.is_at_home(containers).await
    {
        return Err(ProxyError::NotAllowed(Check::Container));
    }
    connection.vouch();
    route::check_path(target.path())?;
    let scope = &connection.scope;
    let position = |name: &str| if scope.has(name) { table.shared.position(name) } else { None };
    let found = route::find(position, scope.own(), host, target.path()).ok_or(ProxyError::NoRoute)?;
    let local = table.routes[found.index].clone();
    let route = &*local.entry;
    exchange.reached(&local);
    let shared = found.prefix > 0 && connection.door.is_tcp();
    let way_in = if shared { guard::admit_to_shared(method, host, request.headers(), &survey)? } else { Shared::Use };
    if route::is_refused(&route.refuse, &route.config.upstream.base_path, &target.path()[found.prefix..]) {
        return Err(ProxyError::ForbiddenByRoute);
    }
    if route.config.require_key && key.is_none() {
        return Err(ProxyError::NotAllowed(Check::KeyRequired));
    }
    let rest = &target.path()[found.prefix..];
    route::check_rules(&route.config, key.as_deref(), method, target, rest, request.headers())?;
    if let Some(key) = &key {
        let admitted = access.keys.admit(key);
        admitted.map_err(|retry_after| ProxyError::TooManyRequests { retry_after })?;
    }
    if survey.via && has_been_here(request.headers(), &table.shared.pseudonym) {
        return Err(ProxyError::Loop);
    }
    if way_in == Shared::Navigation && connection.is_where_localhost_is() {
        exchange.led_away();
        return Ok(to_own_origin(route, &target.path()[found.prefix..], &request));
    }
    if access.audit_required && !exchange.is_promised_a_line() {
        return Err(ProxyError::AuditUnavailable);
    }

    let token = match route.tokens.usable() {
        Some(token) => token,
        None => Box::pin(route.tokens.token(route.config.wait)).await.map_err(|why_not| no_token(route, why_not))?,
    };

    exchange.goes_up_with(&token);

    let protocol = headers::upgrade_protocol(request.headers(), &survey);
    let prefix = if found.prefix > 0 { route.prefix.as_str() } else { "" };
    let prefix = match &presented {
        Some(Presented { key, in_path: true }) => Cow::Owned(format!("/{}{prefix}", **key)),
        Some(Presented { in_path: false, .. }) | None => Cow::Borrowed(prefix),
    };
    let target = match route::target(&route.config.upstream.base_path, found.prefix, request.uri()) {
        Some(target) => std::mem::replace(request.uri_mut(), target),
        None => request.uri().clone(),
    };
    let home = Home {
        connection,
        table: &table.shared,
        authority: request.headers().get(HOST).cloned(),
        target,
        found,
        prefix: &prefix,
        shared,
        via: route.config.via.then_some(&table.shared.via_home),
    };
    if request.version() != Version::HTTP_2 {
        *request.version_mut() = Version::HTTP_11;
    }
    let ours = Ours {
        host: &route.host,
        via: route.config.via.then_some(&table.shared.via_out),
        token_name: &token.name,
        token: &token.value,
        edits: &route.edits,
        upgrade: protocol.clone(),
    };
    headers::prepare_request(request.headers_mut(), &survey, ours);

    if let Some(name) = &route.token_query {
        request.headers_mut().remove(&token.name); // one place is enough (RFC 6750 section 2)
        *request.uri_mut() = rewrite::with_token(request.uri(), name, &token.value);
    }
    if route.config.scrub {
        request.headers_mut().remove(ACCEPT_ENCODING);
    }

    if protocol.is_some() {
        return Box::pin(upgrade::forward(connection, &local, request, token, home, exchange)).await;
    }
    let (request, kept) = replay::keep(request, route, &connection.pulse, &token.name);
    let mut authorization = Authorization::with(route, token);
    let response = match send(connection, &local, request, &mut authorization, false).await {
        Ok(response) => response,
        Err(Error::Lost { fault, resend }) => {
            let again = send_again_if_lost(connection, &local, &mut authorization, kept.as_ref(), fault, resend);
            Box::pin(again).await?
        }
        Err(error) => return Err(send_error(route, error)),
    };
    let token = authorization.token();
    exchange.goes_up_with(token); // it may be another one by now
    if response.status() == StatusCode::UNAUTHORIZED {
        let token = token.clone();
        return Box::pin(after_401(connection, &local, token, kept, response, home)).await;
    }
    if response.status().is_success() && token.is_watched.load(Ordering::Relaxed) {
        route.tokens.worked(token, exchange.began.elapsed());
    }
    hand_on(route, response, token, &home)
}

/// Leads a browser from an address that routes share to the route's own origin, where it can do no harm to another
/// route. Without the key that may have been in the path: the page's programs can read their own address.
fn to_own_origin(route: &RouteEntry, path: &str, request: &Request<Incoming>) -> Response<AnswerBody> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let mut location = guard::own_origin(route.config.name.as_str(), host);
    location.push_str(if path.is_empty() { "/" } else { path });
    if let Some(query) = request.uri().query() {
        location.extend(["?", query]);
    }
    let mut response = Response::new(AnswerBody::empty());
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
fn take_key(request: &mut Request<Incoming>, survey: &Survey) -> Result<Option<Presented>, ProxyError> {
    if !client_key::may_be_there(request.uri(), survey) {
        return Ok(None);
    }
    let mut target = std::mem::take(request.uri_mut());
    let taken = client_key::take(&mut target, request.headers_mut());
    *request.uri_mut() = target;
    taken
}

/// The key that was presented, if it is one that is valid now.
fn valid_key(table: &LocalTable, exchange: &mut Exchange, presented: &Presented) -> Result<Arc<ClientKey>, ProxyError> {
    let found = table.shared.access.keys.find(&presented.key);
    let key = found.map_err(|refusal| {
        ProxyError::NotAllowed(match refusal {
            Refusal::Unknown => Check::Key,
            Refusal::Expired => Check::KeyExpired,
        })
    })?;
    exchange.is_keyed(&key.name);
    Ok(key)
}

/// The upstream closed a connection that others had used before, without a byte of answer: most likely it had grown
/// tired of waiting just then. What may be carried out twice is sent once more (RFC 9110 section 9.2.2), and so is what
/// the upstream says it has not begun with.
async fn send_again_if_lost(
    connection: &Rc<Connection>,
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
    let token = authorization.token();
    let Some(mut request) = again.and_then(|kept| kept.again(token)) else {
        return Err(upstream_error(route, fault));
    };
    debug!(?fault, "an idle connection had closed; sending once more");
    // also for what goes to a connection that is open: the first sending may have taken a while
    let renewed = connection.in_time(Box::pin(authorization.renew(&mut request)).as_mut()).await;
    let renewed = renewed.map_err(|fault| upstream_error(route, fault))?;
    renewed.map_err(|why_not| no_token(route, why_not))?;
    send(connection, local, request, authorization, true).await.map_err(|error| send_error(route, error))
}

/// Sends a request in the exchange's time.
async fn send(
    connection: &Connection,
    local: &LocalRoute,
    request: Request<RequestBody>,
    authorization: &mut Authorization<'_>,
    fresh: bool,
) -> Result<upstream::Response, Error> {
    let sending = pin!(upstream::send(&local.pool, request, authorization, local.entry.config.connect_timeout, fresh));
    in_time(connection, sending).await
}

/// Waits for a response in the exchange's time.
pub(crate) async fn in_time(
    connection: &Connection,
    sending: Pin<&mut impl Future<Output = Result<upstream::Response, Error>>>,
) -> Result<upstream::Response, Error> {
    let sent = connection.in_time(sending).await;
    sent.unwrap_or_else(|fault| Err(Error::Lost { fault, resend: Resend::Never }))
}

/// The upstream did not like the token: one renewal, shared by all who were told so, and one replay. Where that cannot
/// be, the 401 is handed on.
async fn after_401(
    connection: &Rc<Connection>,
    local: &LocalRoute,
    token: Arc<Published>,
    kept: Option<Kept>,
    response: upstream::Response,
    home: Home<'_>,
) -> Result<Response<AnswerBody>, ProxyError> {
    let (route, refused) = (&*local.entry, Instant::now());
    let Some(new) = renewed_token(connection, route, &token, kept.as_ref(), response.headers()).await else {
        return hand_on(route, response, &token, &home);
    };
    let Some(request) = kept.as_ref().and_then(|kept| kept.again(&new)) else {
        return hand_on(route, response, &token, &home);
    };
    drop(response); // its body is not worth reading, so its connection goes, too
    route.stats.replayed.add(1);
    let mut authorization = Authorization::with(route, new);
    let response = match send(connection, local, request, &mut authorization, false).await {
        Ok(response) => response,
        Err(Error::Lost { fault, resend }) => {
            send_again_if_lost(connection, local, &mut authorization, kept.as_ref(), fault, resend).await?
        }
        Err(error) => return Err(send_error(route, error)),
    };
    let new = authorization.token();
    route.tokens.replayed(&token, new, refused.elapsed(), replay::outcome(&response));
    hand_on(route, response, new, &home)
}

/// Reports a 401 and, if the request can be sent again, waits for the next token. `None`: hand the 401 on.
pub(crate) async fn renewed_token(
    connection: &Connection,
    route: &RouteEntry,
    refused: &Published,
    kept: Option<&Kept>,
    answer: &HeaderMap,
) -> Option<Arc<Published>> {
    if replay::lacks_scope(answer) {
        return None;
    }
    route.stats.rejected.add(1);
    let patience = if kept.is_some_and(Kept::survives_401) { route.config.wait } else { Duration::ZERO };
    let renewal = connection.in_time(pin!(route.tokens.token_after(refused, patience))).await;
    renewal.unwrap_or(None).filter(|_| !patience.is_zero())
}

/// What an answer needs to know of the request that it belongs to.
pub(crate) struct Home<'a> {
    connection: &'a Connection,
    table: &'a Table,
    authority: Option<HeaderValue>,
    /// As the client asked for it.
    target: Uri,
    found: Found,
    prefix: &'a str,
    /// Whether the address is one that routes share.
    shared: bool,
    via: Option<&'a HeaderValue>,
}

/// Makes the upstream's answer the client's.
fn hand_on(
    route: &RouteEntry,
    mut response: upstream::Response,
    token: &Published,
    home: &Home<'_>,
) -> Result<Response<AnswerBody>, ProxyError> {
    clean(route, &mut response, token, home, false)?;
    let (head, body) = response.into_parts();
    let scrub = route.config.scrub.then(|| headers::telltale(&token.value)).filter(|token| !token.is_empty());
    Ok(Response::from_parts(head, AnswerBody::upstream(body, token.name.clone(), scrub)))
}

/// Makes an upstream's head what the client may see.
pub(crate) fn clean(
    route: &RouteEntry,
    response: &mut upstream::Response,
    token: &Published,
    home: &Home<'_>,
    switching: bool,
) -> Result<(), ProxyError> {
    if !switching && response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let detail = "101 without having been asked to switch".to_owned();
        return Err(upstream_error(route, Fault::BrokenAnswer { error: "http_protocol_error", detail }));
    }
    let local_authority = home.authority.as_ref().and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let origin = &route.upstream.origin;
    let Home { connection, table, target, found, prefix, shared, .. } = home;
    let own = OwnAddresses {
        listeners: &connection.worker.listeners.borrow(),
        hosts: &table.hosts,
        own_route: connection.scope.own(),
        by_unix_socket: !connection.door.is_tcp(),
        shares_account: &|name| table.position(name).map(|at| table.routes[at].config.account == route.config.account),
    };
    let asked = &target.path()[found.prefix..];
    let mapping = Mapping { origin, base_path: &route.config.upstream.base_path, asked, local_authority, prefix, own };
    let homeward = Homeward { via: home.via, token: &token.value, mapping, shared: *shared, switching };
    headers::clean_answer(response.headers_mut(), &homeward).map_err(|fault| upstream_error(route, fault))?;
    let has_content = !switching && response.status() != StatusCode::NO_CONTENT;
    if *shared && has_content && headers::may_become_document(response.headers()) {
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
        Error::NotAuthorized(why_not) => no_token(route, why_not),
    }
}

fn no_token(route: &RouteEntry, why_not: Unavailable) -> ProxyError {
    let account = route.config.account.clone();
    match why_not {
        Unavailable::SignInRequired { why } => ProxyError::SignInRequired { account, why },
        Unavailable::NotNow { retry_after, because } => ProxyError::TokenUnavailable { account, retry_after, because },
    }
}

/// Whether a `Via` field carries the comment that only this process adds.
fn has_been_here(headers: &HeaderMap, pseudonym: &str) -> bool {
    let pseudonym = pseudonym.as_bytes();
    headers.get_all(VIA).iter().any(|via| via.as_bytes().windows(pseudonym.len()).any(|part| part == pseudonym))
}

/// One request and its answer, counted as open from the head's last byte until the answer's body is dropped.
pub(crate) struct Exchange {
    connection: Rc<Connection>,
    /// From the time on when it is known.
    route: Option<Rc<LocalRoute>>,
    began: Instant,
    /// For the log, and only if it is asked for.
    log: Option<Method>,
    /// For the audit, and only if there is one.
    note: Option<Note>,
    status: StatusCode,
}

impl Exchange {
    fn begin(connection: &Rc<Connection>, table: &LocalTable, request: &Request<Incoming>) -> Self {
        connection.pulse.begin(!request.body().is_end_stream());
        let note = table
            .shared
            .access
            .audit
            .as_ref()
            .map(|log| Note::begin(connection, log, &table.shared.access.uids, request));
        let log = enabled!(Level::DEBUG).then(|| request.method().clone());
        let began = Instant::now();
        Self { connection: connection.clone(), route: None, began, log, note, status: StatusCode::OK }
    }

    fn is_keyed(&mut self, key: &KeyName) {
        self.connection.vouch();
        if let Some(note) = &self.note {
            note.is_keyed(key);
        }
    }

    /// Whether the audit will have a line about it, as far as anybody can know.
    fn is_promised_a_line(&self) -> bool {
        self.note.as_ref().is_some_and(Note::is_promised)
    }

    fn goes_up_with(&mut self, token: &Published) {
        if let Some(note) = &self.note {
            note.goes_up(token.id.0);
        }
    }

    fn led_away(&self) {
        if let Some(note) = &self.note {
            note.is_led_away();
        }
    }

    /// A part of the answer's body is on its way to the client.
    pub(crate) fn sends(&mut self, bytes: usize) {
        if let Some(note) = &self.note {
            note.sends(bytes);
        }
    }

    /// The answer is a switch to another protocol; what the audit will be told goes with the bytes.
    pub(crate) fn becomes_tunnel(&mut self, status: StatusCode) -> Option<Note> {
        self.note.take().inspect(|note| note.becomes_tunnel(status))
    }

    fn reached(&mut self, local: &Rc<LocalRoute>) {
        let route = &local.entry;
        self.connection.pulse.limit(route.config.idle_timeout);
        route.stats.requests.add(1);
        route.stats.open.add(1);
        if let Some(note) = &self.note {
            note.reached(&route.config.name);
        }
        self.route = Some(local.clone());
    }

    fn failed(&mut self, error: &ProxyError) {
        if let Some(note) = &self.note {
            note.failed(error.word());
        }
        if *error == ProxyError::NotAllowed(Check::Root) {
            self.connection.worker.stats.refused_root.add(1);
        }
        match &self.route {
            Some(local) if !error.is_refusal() => local.entry.stats.errors.add(1),
            _ => self.connection.worker.stats.refused.add(1),
        }
        self.connection.pulse.refused();
        debug!(?error, "a request was not carried out");
    }

    fn answered(&mut self, status: StatusCode) {
        self.status = status;
        if let Some(note) = &self.note {
            note.answered(status);
        }
        self.connection.pulse.answer();
        if let Some(local) = &self.route {
            local.entry.stats.answered(status.as_u16(), self.began.elapsed());
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.connection.pulse.end();
        if let Some(note) = self.note.take() {
            note.answered(self.status);
        }
        let route = self.route.as_ref().map(|local| &local.entry);
        if let Some(route) = route {
            route.stats.open.subtract(1);
        }
        if let Some(method) = &self.log {
            let name = route.map_or("-", |route| route.config.name.as_str());
            let millis = self.began.elapsed().as_millis();
            debug!(route = name, %method, status = self.status.as_u16(), ms = millis, "request");
        }
    }
}
