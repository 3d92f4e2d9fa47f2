//! What the command asks of a proxy: tunnels (RFC 9110 section 9.3.6), and requests whose targets are in absolute form.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION};
use hyper::http::uri::PathAndQuery;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tracing::debug;

use super::daemon::Link;
use super::{Body, Interceptor, USER, full, problem};
use crate::config::{ForwardProxy, Origin, ProxyChoice, ProxyProtocol, Way};
use crate::platform::dial::{self, ByteStream};
use crate::platform::tls;

/// As for the daemon's own connections.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// What is spoken in a tunnel.
#[derive(Clone, Copy)]
enum InTunnel {
    Tls,
    /// HTTP/1.1 in the clear, which goes on in TLS.
    Plain,
}

impl Interceptor {
    /// Answers a request that was sent to us as to a proxy.
    pub(super) async fn as_proxy(self: Rc<Self>, request: Request<Incoming>, link: &Link) -> Response<Body> {
        if !self.admits(&request) {
            let detail =
                "this proxy is another command's, whose routes ask for a key: its URL has user name and password";
            let status = StatusCode::PROXY_AUTHENTICATION_REQUIRED;
            let mut response = problem(status, "not-allowed", "valetd; error=http_request_denied", detail);
            response.headers_mut().insert(PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"valetd exec\""));
            return response;
        }
        let target = request.uri();
        let is_tunnel = request.method() == Method::CONNECT;
        let authority = target.authority().filter(|authority| !authority.as_str().contains('@'));
        let scheme = target.scheme_str();
        let (Some(authority), true) = (authority, is_tunnel || matches!(scheme, Some("http" | "https"))) else {
            return problem(
                StatusCode::BAD_REQUEST,
                "bad-request",
                "valetd; error=http_request_error",
                "this is the proxy of a command that 'valetd exec' runs: it takes CONNECT, and http:// URLs",
            );
        };
        let host = authority.host().trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
        let port = authority.port_u16();
        if is_tunnel {
            let Some(port) = port else {
                return refused_target("CONNECT names a host and a port");
            };
            return match (self.hosts.get(&(host.clone(), port)), self.upgraded(&host, port)) {
                (Some(origin), _) => self.clone().intercept(origin.clone(), InTunnel::Tls, request),
                (None, Some(origin)) => self.clone().intercept(origin.clone(), InTunnel::Plain, request),
                (None, None) => self.pass(Origin { tls: true, host, port }, request).await,
            };
        }
        if scheme == Some("https") {
            return match self.hosts.get(&(host, port.unwrap_or(443))).cloned() {
                Some(origin) => self.forward(&origin, request, link).await,
                None => {
                    refused_target("https:// URLs of hosts that no route leads to are asked for in a tunnel (CONNECT)")
                }
            };
        }
        // whoever asks in the clear for what a route leads to in TLS is led there in TLS
        let port = port.unwrap_or(80);
        let plain = Origin { tls: false, host, port };
        let ours = self.upgraded(&plain.host, port).or_else(|| self.settings.origins.get(&plain)).cloned();
        match ours {
            Some(origin) => self.forward(&origin, request, link).await,
            None => self.pass_plain(plain, request).await,
        }
    }

    /// The origin that is meant where a host is asked in the clear at the usual port.
    fn upgraded(&self, host: &str, port: u16) -> Option<&Origin> {
        if port == 80 { self.hosts.get(&(host.to_owned(), 443)) } else { None }
    }

    /// Whether who asks knows the password, if there is one.
    fn admits(&self, request: &Request<Incoming>) -> bool {
        let Some(password) = &self.settings.password else { return true };
        let expected = format!("{USER}:{}", password.expose());
        let presented = request.headers().get(PROXY_AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let (scheme, pair) = presented.split_at(presented.len().min(6));
        let pair = STANDARD.decode(pair.trim_ascii()).unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"basic ") && verify_slices_are_equal(&pair, expected.as_bytes()).is_ok()
    }

    /// How TLS is spoken with a proxy that the environment named before; made when the first is asked, as it reads files.
    fn outside_tls(&self) -> Result<&Arc<ClientConfig>, String> {
        let made = self.outside_tls.get_or_init(|| tls::client_config(Vec::new(), &[b"http/1.1"]));
        made.as_ref().map_err(Clone::clone)
    }

    fn intercept(self: Rc<Self>, origin: Origin, how: InTunnel, request: Request<Incoming>) -> Response<Body> {
        tokio::task::spawn_local(async move {
            match (hyper::upgrade::on(request).await, how) {
                (Ok(tunnel), InTunnel::Tls) => self.serve_tunnel(origin, tunnel).await,
                (Ok(tunnel), InTunnel::Plain) => self.serve_plain_tunnel(origin, tunnel).await,
                (Err(_), _) => {}
            }
        });
        Response::new(full(""))
    }

    /// Carries a tunnel to a host that no route leads to.
    async fn pass(&self, origin: Origin, request: Request<Incoming>) -> Response<Body> {
        let named = dial::host_and_port(&origin);
        if !self.allows(&origin.host) {
            self.tell(format_args!("{named}: refused, as no route leads there"));
            return not_ours(&named);
        }
        let way = self.outward(&origin, self.settings.outside.way(&ProxyChoice::Environment, &origin));
        let how =
            if let Way::Through(proxy) = &way { format!(", by {}", proxy.host_and_port()) } else { String::new() };
        // in a tunnel everything is the command's own affair, TLS included
        let opened = match &way {
            Way::Through(proxy) if proxy.protocol == ProxyProtocol::Https => match self.outside_tls() {
                Ok(settings) => dial::tunnel(&origin, proxy, settings, STEP_LIMIT).await.map_err(|why| why.to_string()),
                Err(why) => Err(why),
            },
            way => dial::dial(&origin, way, None, STEP_LIMIT).await.map_err(|why| why.to_string()),
        };
        match opened {
            Ok(stream) => {
                self.tell(format_args!("{named}: passed through{how}"));
                tokio::task::spawn_local(carry(request, stream));
                Response::new(full(""))
            }
            Err(error) => {
                self.tell(format_args!("{named}: {error}"));
                unreachable(&error)
            }
        }
    }

    /// The way to a host that no route leads to. Where only some are let through, the name of one is no way to this machine
    /// or to a private network: whoever is asked for names below it would else choose where the command gets.
    fn outward(&self, origin: &Origin, way: Way) -> Way {
        let is_by_name = origin.host.parse::<std::net::IpAddr>().is_err() && !origin.is_loopback();
        match way {
            Way::Direct if self.settings.allowed.is_some() && is_by_name => Way::Public,
            way => way,
        }
    }

    /// Passes a plain request on that is for no route.
    async fn pass_plain(&self, origin: Origin, mut request: Request<Incoming>) -> Response<Body> {
        let named = dial::host_and_port(&origin);
        if !self.allows(&origin.host) {
            self.tell(format_args!("{named}: refused, as no route leads there"));
            return not_ours(&named);
        }
        let way = self.settings.outside.plain_way(&origin);
        let proxy = match &way {
            Way::Through(proxy) if matches!(proxy.protocol, ProxyProtocol::Http | ProxyProtocol::Https) => {
                Some(proxy.clone())
            }
            _ => None,
        };
        let (next, way) = match &proxy {
            Some(proxy) => {
                let tls = proxy.protocol == ProxyProtocol::Https;
                (Origin { tls, host: proxy.host.clone(), port: proxy.port }, Way::Direct)
            }
            None => (origin, way),
        };
        self.tell(format_args!("{} http://{named}{}: passed through", request.method(), request.uri().path()));
        request.headers_mut().remove("proxy-connection");
        request.headers_mut().remove(PROXY_AUTHORIZATION);
        match &proxy {
            Some(proxy) => {
                if let Some(login) = login(proxy) {
                    request.headers_mut().insert(PROXY_AUTHORIZATION, login);
                }
            }
            None => {
                let host = request.uri().authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
                if let Some(host) = host {
                    request.headers_mut().insert(HOST, host);
                }
                let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
                *request.uri_mut() = path.into();
            }
        }
        let exchange = async {
            let dialled = match next.tls {
                false if proxy.is_some() => dial::dial(&next, &way, None, STEP_LIMIT).await,
                false => dial::dial(&next, &self.outward(&next, way), None, STEP_LIMIT).await,
                true => {
                    let name = ServerName::try_from(next.host.clone()).map_err(|error| error.to_string())?;
                    let settings = self.outside_tls()?;
                    let tls = dial::Tls { name: &name, settings, proxy_settings: settings };
                    dial::dial(&next, &Way::Direct, Some(tls), STEP_LIMIT).await
                }
            };
            let stream = dialled.map_err(|error| error.to_string())?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
            tokio::task::spawn_local(async move { drop(connection.await) });
            sender.send_request(request).await.map_err(|error| error.to_string())
        };
        match exchange.await {
            Ok(response) => response.map(BodyExt::boxed),
            Err(why) => unreachable(&why),
        }
    }
}

async fn carry(request: Request<Incoming>, mut stream: ByteStream) {
    let tunnel: Result<Upgraded, _> = hyper::upgrade::on(request).await;
    if let Ok(tunnel) = tunnel
        && let Err(error) = tokio::io::copy_bidirectional(&mut TokioIo::new(tunnel), &mut stream).await
    {
        debug!(%error, "a tunnel that was passed through ended badly");
    }
}

/// Basic (RFC 7617), as the proxy wants it.
fn login(proxy: &ForwardProxy) -> Option<HeaderValue> {
    let login = proxy.login.as_ref()?;
    let pair = format!("{}:{}", login.username.expose(), login.password.expose());
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn refused_target(detail: &str) -> Response<Body> {
    problem(StatusCode::BAD_REQUEST, "bad-request", "valetd; error=http_request_error", detail)
}

fn not_ours(named: &str) -> Response<Body> {
    let detail = format!("no route of this command leads to {named}, and it is let out nowhere else");
    problem(StatusCode::FORBIDDEN, "no-route", "valetd; error=http_request_denied", &detail)
}

fn unreachable(why: &str) -> Response<Body> {
    problem(StatusCode::BAD_GATEWAY, "upstream-unreachable", "valetd; error=destination_unavailable", why)
}
