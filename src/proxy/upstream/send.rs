//! A request's way to an upstream: a connection, a token that is usable once there is one, the response's head.

use std::rc::Rc;
use std::time::Duration;

use hyper::{Request, Version};

use crate::proxy::authorization::Authorization;
use crate::proxy::fault::Fault;
use crate::proxy::replay::RequestBody;
use crate::proxy::upstream::error::{Error, Resend};
use crate::proxy::upstream::http1::{Http1Connection, Room};
use crate::proxy::upstream::http2::{self, Sent};
use crate::proxy::upstream::pool::Pool;
use crate::proxy::upstream::response::{Response, UpstreamBody};

/// Sends a request on a free connection, or on a new one if there is none or `fresh` asks for it. A request that provably
/// was not sent, as its connection had closed under it, goes to the next connection. What came in HTTP/2 goes on in it, if
/// the upstream speaks it. The token must be usable now; where it takes time to get a connection, it is renewed.
///
/// # Errors
///
/// If there is no response.
pub(crate) async fn send(
    pool: &Rc<Pool>,
    mut request: Request<RequestBody>,
    authorization: &mut Authorization<'_>,
    connect_timeout: Duration,
    fresh: bool,
) -> Result<Response, Error> {
    // nothing is agreed on in the clear: the configuration says that it is spoken, and an upstream that speaks nothing else
    // may hang up on HTTP/1.1 without a word
    let is_said = pool.upstream.http2 && pool.upstream.tls.is_none();
    if request.version() == Version::HTTP_2 || is_said || pool.speaks_only_http2.get() {
        if pool.upstream.http2 {
            match over_http2(pool, request, authorization, connect_timeout).await? {
                Ok(response) => return Ok(response),
                Err(unsent) => request = unsent,
            }
        }
        *request.version_mut() = Version::HTTP_11;
    }
    loop {
        let free = if fresh { None } else { pool.take() };
        let (mut connection, reused) = match free {
            Some(connection) => (connection, true),
            // boxed, as its state is large and hardly ever needed: a request's own is moved about
            None => match Box::pin(connect_for(pool, &mut request, authorization, connect_timeout)).await {
                Ok(connected) => connected,
                Err(Error::NotConnected(fault @ Fault::NoHttp1 { .. })) if pool.upstream.http2 => {
                    pool.speaks_only_http2.set(true);
                    let sent = over_http2(pool, request, authorization, connect_timeout).await?;
                    return sent.map_err(|_| Error::NotConnected(fault));
                }
                Err(error) => return Err(error),
            },
        };
        match connection.send(request, pool.ended()).await {
            Ok(response) => {
                return Ok(response.map(|incoming| UpstreamBody::of_http1(incoming, pool.clone(), connection)));
            }
            Err(mut refused) => match refused.take_message() {
                Some(unsent) if reused => request = unsent,
                _ => return Err(lost(pool, connection.room, &refused.into_error(), reused)),
            },
        }
    }
}

/// Sends a request on a connection that speaks HTTP/2; back comes the response, or the request if the upstream chose
/// HTTP/1.1. An upstream that was believed to speak nothing else is asked again after a failure.
async fn over_http2(
    pool: &Rc<Pool>,
    request: Request<RequestBody>,
    authorization: &mut Authorization<'_>,
    connect_timeout: Duration,
) -> Result<Result<Response, Request<RequestBody>>, Error> {
    pool.watch_idle();
    match Box::pin(http2::send(&pool.multiplexed, request, authorization, connect_timeout)).await {
        Ok(Sent::Answered(response, stream)) => {
            Ok(Ok(response.map(|incoming| UpstreamBody::of_http2(incoming, stream))))
        }
        Ok(Sent::NotSpoken(unsent)) => {
            pool.speaks_only_http2.set(false);
            Ok(Err(unsent))
        }
        Err(error) => {
            pool.speaks_only_http2.set(false);
            Err(error)
        }
    }
}

/// What a lost response means. One whose head had no room comes by a connection with more, where the request may be sent
/// again.
fn lost(pool: &Pool, room: Room, error: &hyper::Error, reused: bool) -> Error {
    match Error::lost(error, reused) {
        Error::Lost { fault, .. } if error.is_parse_too_large() && room == Room::Usual => {
            pool.needs_room();
            Error::Lost { fault, resend: Resend::IfIdempotent }
        }
        Error::Lost { fault: fault @ Fault::NoHttp1 { .. }, .. } if pool.upstream.http2 => {
            pool.speaks_only_http2.set(true);
            Error::Lost { fault, resend: Resend::Always }
        }
        lost => lost,
    }
}

/// A new connection for a request, which leaves with a token that is usable then; and whether the connection has been idle
/// meanwhile, so that it may have closed.
async fn connect_for(
    pool: &Rc<Pool>,
    request: &mut Request<RequestBody>,
    authorization: &mut Authorization<'_>,
    timeout: Duration,
) -> Result<(Http1Connection, bool), Error> {
    let connection = pool.connect(timeout).await.map_err(Error::NotConnected)?;
    let waited = authorization.renew(request).await.map_err(Error::NotAuthorized)?;
    Ok((connection, waited))
}
