//! WebSocket and other protocols that begin as HTTP/1.1 (RFC 9110 section 7.8).
//!
//! A tunnel has an upstream connection of its own, never one of the pool. The handshake is an ordinary exchange, so a
//! 401 to it brings a renewal and a second try; from the 101 on, bytes go both ways until both ends are done. A tunnel
//! has no idle limit: its protocol has its own heartbeat, and the sockets' keep-alive finds a vanished end.

use std::io;
use std::pin::pin;
use std::rc::Rc;

use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, on};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use crate::client_keys::KeyInUse;
use crate::platform::clock;
use crate::proxy::authorization::{Authorization, Rejection};
use crate::proxy::connection::{Authority, Connection, Lost, Stream};
use crate::proxy::exchange::accounting::Exchange;
use crate::proxy::exchange::body::ResponseBody;
use crate::proxy::exchange::forward::{self, RequestContext, send_error};
use crate::proxy::local_table::LocalRoute;
use crate::proxy::note::{Note, Noted};
use crate::proxy::policy::error::ProxyError;
use crate::proxy::replay::{self, RequestBody};
use crate::proxy::upstream::{self, tunnel};

/// Forwards a request to switch protocols, and switches if the upstream does.
pub(crate) async fn forward(
    stream: &Rc<Stream>,
    local: &LocalRoute,
    mut request: Request<Incoming>,
    mut authorization: Authorization<'_>,
    context: RequestContext<'_>,
    exchange: &mut Exchange,
) -> Result<Response<ResponseBody>, ProxyError> {
    let route = &*local.entry;
    // before anything is answered: hyper resolves it only after our 101 has gone out
    let client = on(&mut request);
    let place = route.place(&request);
    let (request, kept) =
        replay::keep(request, route.replay_policy(), &stream.activity, &authorization.token().name, || stream.right());
    let began = clock::instant();
    let mut response = send(stream, local, request, &mut authorization).await?;
    exchange.goes_up_with(authorization.token()); // it may be another one by now
    let (refused, refused_at) = (authorization.token().clone(), clock::instant());
    if authorization.judge(&response) == Some(Rejection::Renew)
        && let Some(new) = forward::renewed_token(stream, route, &refused, place, kept.as_ref()).await
        && let renewed = route.authorize(new)
        && let Some(request) = kept.and_then(|kept| kept.again(&renewed))
    {
        route.stats.replayed.add(1);
        authorization = renewed;
        response = send(stream, local, request, &mut authorization).await?;
        let outcome = authorization.outcome(&response);
        route.note_replay(outcome);
        route.tokens.replayed(&refused, authorization.token(), place, refused_at.elapsed(), outcome);
    }
    let token = authorization.token();
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switching || response.status().is_success() {
        route.tokens.worked(token, place, || began.elapsed());
    }
    let upstream = switching.then(|| tunnel::switched(&mut response));
    forward::clean(route, &mut response, token, &context, switching)?;
    let (head, body) = response.into_parts();
    let Some(upstream) = upstream else {
        return Ok(Response::from_parts(
            head,
            ResponseBody::upstream(body, token, &route.edits, route.config.scrub, None, None),
        ));
    };
    stream.activity.switch();
    let noted = exchange.becomes_tunnel(head.status);
    let authority = stream.authority();
    tokio::task::spawn_local(join(stream.connection.clone(), authority, client, upstream, noted));
    Ok(Response::from_parts(head, ResponseBody::Empty))
}

/// Sends a handshake on a connection of its own.
async fn send(
    stream: &Stream,
    local: &LocalRoute,
    request: Request<RequestBody>,
    authorization: &mut Authorization<'_>,
) -> Result<upstream::Response, ProxyError> {
    let route = &*local.entry;
    let sending = pin!(tunnel::send(&route.upstream, request, authorization, route.config.connect_timeout));
    let sent = forward::in_time(stream, sending).await;
    sent.map_err(|error| send_error(route, error))
}

/// Carries bytes both ways until both ends have closed, or what the tunnel has its right from has ended. Holds the client's
/// connection, so that it counts as open, and what the audit will be told.
async fn join(
    connection: Rc<Connection>,
    authority: Option<Authority>,
    client: OnUpgrade,
    upstream: impl Future<Output = io::Result<impl AsyncRead + AsyncWrite + Unpin>>,
    (note, key): (Option<Note>, Option<KeyInUse>),
) {
    let client = async { client.await.map_err(io::Error::other) };
    match tokio::join!(client, upstream) {
        (Ok(client), Ok(mut upstream)) => {
            let mut client = Noted::new(TokioIo::new(client), note, key);
            tokio::select! {
                ended = tokio::io::copy_bidirectional(&mut client, &mut upstream) => debug!(?ended, "a tunnel ended"),
                lost = lost(&connection, authority) => debug!(?lost, "a tunnel was cut: its client key or its account has ended"),
                () = connection.ingress.scope.ended() => debug!("a tunnel ended with the command that it was lent to"),
            }
        }
        (Err(error), _) | (_, Err(error)) => debug!(%error, "a tunnel did not come about"),
    }
    drop(connection);
}

/// Returns when the tunnel has lost its right.
async fn lost(connection: &Connection, authority: Option<Authority>) -> Lost {
    match authority {
        Some(authority) => authority.ended(&connection.worker).await,
        None => std::future::pending().await,
    }
}
