//! What comes in a tunnel to one of the hosts: TLS, and in it requests to that host.

use std::convert::Infallible;
use std::io;
use std::rc::Rc;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{HOST, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::daemon::{Link, OnThisThread};
use super::{Body, Interceptor, problem};
use crate::config::Origin;
use crate::platform::request_rest;

impl Interceptor {
    /// Serves a tunnel to an origin to its end.
    pub(super) async fn serve_tunnel(self: Rc<Self>, origin: Origin, tunnel: Upgraded) {
        let config = match self.tls_as(&origin.host) {
            Ok(config) => config,
            Err(error) => return self.tell(format_args!("{error}")),
        };
        let tls = match TlsAcceptor::from(config).accept(TokioIo::new(tunnel)).await {
            Ok(tls) => tls,
            Err(error) => return self.note_distrust(&origin, &error),
        };
        let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let link = Rc::new(Link::default());
        let interceptor = self.clone();
        let service = hyper::service::service_fn(move |request| {
            let (interceptor, origin, link) = (interceptor.clone(), origin.clone(), link.clone());
            async move { Ok::<_, Infallible>(interceptor.in_tunnel(&origin, request, &link).await) }
        });
        let io = TokioIo::new(tls);
        let ended = match is_http2 {
            true => {
                let mut builder = hyper::server::conn::http2::Builder::new(OnThisThread);
                builder.timer(TokioTimer::new()).serve_connection(io, service).await
            }
            false => hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades().await,
        };
        if let Err(error) = ended {
            debug!(%error, "a tunnel of the command ended badly");
        }
    }

    /// Serves a tunnel to the usual port of plain http of an origin that is spoken to in TLS.
    pub(super) async fn serve_plain_tunnel(self: Rc<Self>, origin: Origin, tunnel: Upgraded) {
        let link = Rc::new(Link::default());
        let service = hyper::service::service_fn(move |request| {
            let (interceptor, origin, link) = (self.clone(), origin.clone(), link.clone());
            async move { Ok::<_, Infallible>(interceptor.in_tunnel(&origin, request, &link).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(tunnel, service);
        if let Err(error) = connection.with_upgrades().await {
            debug!(%error, "a tunnel of the command ended badly");
        }
    }

    async fn in_tunnel(&self, origin: &Origin, request: Request<Incoming>, link: &Link) -> Response<Body> {
        let named = match request.version() {
            Version::HTTP_2 => request.uri().authority().map(|authority| authority.as_str()),
            _ => request.headers().get(HOST).and_then(|host| host.to_str().ok()),
        };
        if !named.is_some_and(|named| is_named(origin, named)) {
            request_rest::read(request).await;
            return problem(
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected-request",
                "valetd; error=http_request_denied",
                &format!("this is a tunnel to {origin}, and the request names another host"),
            );
        }
        self.forward(origin, request, link).await
    }

    /// Has the daemon answer a request to an origin.
    pub(super) async fn forward(&self, origin: &Origin, mut request: Request<Incoming>, link: &Link) -> Response<Body> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let is_there = |endpoint: &crate::config::Endpoint| {
            endpoint.origin == *origin && endpoint.path().trim_end_matches('/') == path.trim_end_matches('/')
        };
        if self.settings.sign_in.iter().any(is_there) {
            self.tell(format_args!("{method} {origin}{path}: a placeholder"));
            return self.sign_in(request).await;
        }
        let clients = request.headers().contains_key(UPGRADE).then(|| hyper::upgrade::on(&mut request));
        match link.send(&self.daemon, &origin.authority(), request).await {
            Ok(mut response) => {
                self.tell(format_args!("{method} {origin}{path}: {}", response.status().as_u16()));
                if response.status() == StatusCode::SWITCHING_PROTOCOLS
                    && let Some(clients) = clients
                {
                    let upstreams = hyper::upgrade::on(&mut response);
                    tokio::task::spawn_local(async move {
                        if let (Ok(client), Ok(upstream)) = tokio::join!(clients, upstreams) {
                            let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
                            let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
                        }
                    });
                }
                response.map(BodyExt::boxed)
            }
            Err(why) => {
                self.tell(format_args!("{method} {origin}{path}: {why}"));
                problem(
                    StatusCode::BAD_GATEWAY,
                    "daemon-unreachable",
                    "valetd; error=destination_unavailable",
                    &format!("the daemon cannot be asked: {why}"),
                )
            }
        }
    }

    /// Says once that the command does not believe our certificates, which no log of its own will say so plainly.
    fn note_distrust(&self, origin: &Origin, error: &io::Error) {
        use rustls::AlertDescription::{BadCertificate, CertificateUnknown, UnknownCA};
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if matches!(inner, Some(rustls::Error::AlertReceived(UnknownCA | BadCertificate | CertificateUnknown)))
            && !self.is_distrusted.replace(true)
        {
            anstream::eprintln!(
                "valetd exec: the command does not trust the certificate authority that it was given, for {origin}: it \
                 reads none of the variables that name one ('valetd exec --help')"
            );
        }
        debug!(%error, "no TLS with the command");
    }
}

/// Whether a request's authority is an origin's: with its port, with none or that of plain http if it is the usual one, and
/// with the dot that ends a whole name.
fn is_named(origin: &Origin, named: &str) -> bool {
    let (host, port) = match named.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (named, None),
    };
    let is_usual = origin.port == 443;
    let is_port = port.map_or(is_usual, |port| port.parse() == Ok(origin.port) || is_usual && port == "80");
    host.strip_suffix('.').unwrap_or(host).eq_ignore_ascii_case(&origin.host) && is_port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_in_a_tunnel_names_the_host_that_the_tunnel_leads_to() {
        let origin = |port| Origin { tls: true, host: "api.example".to_owned(), port };
        for (port, named, expected) in [
            (443, "api.example", true),
            (443, "API.example.", true),
            (443, "api.example:443", true),
            (443, "api.example:80", true),
            (443, "api.example:8443", false),
            (443, "api.example.evil.example", false),
            (443, "evil.example", false),
            (443, "api.example:443:443", false),
            (443, "", false),
            (8443, "api.example", false),
            (8443, "api.example:80", false),
            (8443, "api.example.:8443", true),
        ] {
            assert_eq!(is_named(&origin(port), named), expected, "{port} {named}");
        }
    }
}
