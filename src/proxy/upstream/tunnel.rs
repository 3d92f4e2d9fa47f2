//! A connection that may stop to speak HTTP (RFC 9110 section 7.8): opened for one request, never one of the pool.

use std::io;
use std::time::Duration;

use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use crate::proxy::authorization::Authorization;
use crate::proxy::replay::RequestBody;
use crate::proxy::upstream::dial::dial;
use crate::proxy::upstream::error::Error;
use crate::proxy::upstream::http1::{Room, handshake};
use crate::proxy::upstream::origin::UpstreamOrigin;
use crate::proxy::upstream::response::{Response, UpstreamBody};

/// Sends a request to switch protocols on a connection of its own.
///
/// # Errors
///
/// If there is no response.
pub(crate) async fn send(
    upstream: &UpstreamOrigin,
    mut request: Request<RequestBody>,
    authorization: &mut Authorization<'_>,
    connect_timeout: Duration,
) -> Result<Response, Error> {
    let io = dial(upstream, connect_timeout).await.map_err(Error::NotConnected)?;
    let (mut sender, driver, allowance) = handshake(io, Room::Ample).await.map_err(Error::NotConnected)?;
    tokio::task::spawn_local(async move {
        if let Err(error) = driver.with_upgrades().await {
            debug!(%error, "an upstream connection ended");
        }
    });
    authorization.renew(&mut request).await.map_err(Error::NotAuthorized)?;
    allowance.limit();
    let response = sender.send_request(request).await;
    allowance.lift();
    let response = response.map_err(|error| Error::lost(&error, false))?;
    Ok(response.map(UpstreamBody::detached))
}

/// The bytes that follow a 101. To be asked for once, of the response that [`send`] has brought.
pub(crate) fn switched(
    response: &mut Response,
) -> impl Future<Output = io::Result<impl AsyncRead + AsyncWrite + Unpin + use<>>> + use<> {
    let upgraded = hyper::upgrade::on(response);
    async { upgraded.await.map(TokioIo::new).map_err(io::Error::other) }
}
