//! Requests on their way to the daemon: at the socket that it has lent to the command, with the command's key.

use std::cell::RefCell;

use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Request, Response, Uri, Version};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use crate::lent::Daemon;
use crate::platform::read_woken::ReadWoken;

/// Fields that are for us or for no one: the daemon must not take a command's word for its key.
const NOT_FOR_THE_DAEMON: [HeaderName; 3] = [
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("x-valetd-key"),
];

const KEY: HeaderName = HeaderName::from_static("x-valetd-key");

fn woken(stream: UnixStream) -> Result<ReadWoken, String> {
    ReadWoken::new(stream).map_err(|error| error.to_string())
}

/// The connection to the daemon that belongs to one of the command's: made with its first request, and kept.
#[derive(Default)]
pub(crate) struct Link {
    http1: RefCell<Option<(http1::SendRequest<Incoming>, HeaderValue)>>,
    http2: Mutex<Option<(http2::SendRequest<Incoming>, HeaderValue)>>,
}

/// Runs futures of this thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnThisThread;

impl<F: Future + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, future: F) {
        drop(tokio::task::spawn_local(async move { drop(future.await) }));
    }
}

impl Link {
    /// Sends a request that names `authority`. In HTTP/2 if it came in HTTP/2, so that gRPC passes.
    ///
    /// # Errors
    ///
    /// A sentence, if there is no response.
    pub(crate) async fn send(
        &self,
        daemon: &Daemon,
        authority: &str,
        mut request: Request<Incoming>,
    ) -> Result<Response<Incoming>, String> {
        for name in &NOT_FOR_THE_DAEMON {
            request.headers_mut().remove(name);
        }
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        match request.version() {
            Version::HTTP_2 => {
                let mut parts = hyper::http::uri::Parts::default();
                parts.scheme = Some(Scheme::HTTP);
                parts.authority = Some(authority.parse::<Authority>().map_err(|error| error.to_string())?);
                parts.path_and_query = Some(path);
                *request.uri_mut() = Uri::from_parts(parts).map_err(|error| error.to_string())?;
                request.headers_mut().remove(HOST);
                self.send_http2(daemon, request).await
            }
            _ => {
                *request.uri_mut() = path.into();
                *request.version_mut() = Version::HTTP_11;
                let host = HeaderValue::from_str(authority).map_err(|error| error.to_string())?;
                request.headers_mut().insert(HOST, host);
                self.send_http1(daemon, request).await
            }
        }
    }

    async fn send_http1(&self, daemon: &Daemon, mut request: Request<Incoming>) -> Result<Response<Incoming>, String> {
        let kept = self.http1.take();
        if let Some((mut sender, key)) = kept
            && sender.ready().await.is_ok()
        {
            request.headers_mut().insert(KEY, key.clone());
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.http1.replace(Some((sender, key)));
                    return Ok(response);
                }
                // the daemon has closed it just before: not a byte of the request has been read
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(error.into_error().to_string()),
                },
            }
        }
        let (stream, key) = daemon.connect().await?;
        let stream = woken(stream)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::task::spawn_local(async move { drop(connection.with_upgrades().await) });
        request.headers_mut().insert(KEY, key.clone());
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        self.http1.replace(Some((sender, key)));
        Ok(response)
    }

    async fn send_http2(&self, daemon: &Daemon, mut request: Request<Incoming>) -> Result<Response<Incoming>, String> {
        let (mut sender, key) = {
            let mut kept = self.http2.lock().await;
            match &*kept {
                Some((sender, key)) if !sender.is_closed() => (sender.clone(), key.clone()),
                _ => {
                    let (stream, key) = daemon.connect().await?;
                    let stream = woken(stream)?;
                    let handshake = http2::handshake(OnThisThread, TokioIo::new(stream)).await;
                    let (sender, connection) = handshake.map_err(|error| error.to_string())?;
                    tokio::task::spawn_local(async move { drop(connection.await) });
                    *kept = Some((sender.clone(), key.clone()));
                    (sender, key)
                }
            }
        };
        request.headers_mut().insert(KEY, key);
        sender.send_request(request).await.map_err(|error| error.to_string())
    }
}
