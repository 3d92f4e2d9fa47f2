//! A forward proxy for one command, which ends TLS for the hosts of the routes that the command was given, so that programs
//! which insist on those hosts get the routes' tokens.
//!
//! It runs in the process of `valetd exec`, and ends with it. The daemon knows nothing of certificates: it is asked at a unix
//! socket of the command's own, where a request names the upstream (`proxy/policy/scope.rs`), and everything that a request
//! must be, to be given a token, is decided there. What is not for a route goes through untouched, or is refused.
//!
//! * [`authority`]: the certificates, which are good for the routes' hosts alone;
//! * [`proxy`]: what the command asks of a proxy; [`tunnel`]: what comes in a tunnel to one of the hosts;
//! * [`daemon`]: requests on their way to the daemon;
//! * [`placeholder`]: what a program that insists on signing in is given for a token.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, ServerConfig};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixStream};
use tracing::debug;

use crate::config::{Endpoint, Origin, Proxies};
use crate::lent::Daemon;
use crate::platform::peer::{PeerLookup, own_uid};
use crate::secret::Secret;

mod authority;
mod daemon;
mod placeholder;
mod proxy;
mod tunnel;

pub(crate) use authority::{AuthorityError, CertificateAuthority, is_address};
pub(crate) use placeholder::PLACEHOLDER_JWT;

/// What is answered, whoever has made it.
type Body = BoxBody<Bytes, hyper::Error>;

/// RFC 9209.
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// What a command may reach, and how.
pub(crate) struct Settings {
    /// The origins that the routes lead to.
    pub(crate) origins: BTreeSet<Origin>,
    /// The endpoints where a program that insists on signing in is given a placeholder.
    pub(crate) sign_in: Vec<Endpoint>,
    /// Values that are no secrets: what the command was told to sign in with.
    pub(crate) placeholders: Vec<String>,
    /// How everything else goes where it would have gone: through the proxies that the environment named before, if any.
    pub(crate) outside: Proxies,
    /// What of it may: hosts, with what is below them; everything, if there is no list.
    pub(crate) allowed: Option<Vec<String>>,
    /// The password of the proxy, where not every process of the user may use it: a route asks for a key.
    pub(crate) password: Option<Secret>,
    /// Whether it is said what goes where.
    pub(crate) verbose: bool,
}

/// The user name of the command's proxy, where it has a password.
pub(crate) const USER: &str = "exec";

/// The proxy of one command.
pub(crate) struct Interceptor {
    settings: Settings,
    /// By host name and port, those that are spoken to in TLS.
    hosts: BTreeMap<(String, u16), Origin>,
    authority: RefCell<CertificateAuthority>,
    daemon: Daemon,
    /// How TLS is spoken with a proxy on the way outside.
    outside_tls: OnceCell<Result<Arc<ClientConfig>, String>>,
    /// Whether the command has been seen not to believe us.
    is_distrusted: Cell<bool>,
}

impl fmt::Debug for Interceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interceptor").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

/// The names that the certificates of a command are for.
pub(crate) fn names(settings: &Settings) -> Vec<String> {
    let all = settings.origins.iter().chain(settings.sign_in.iter().map(|endpoint| &endpoint.origin));
    let names: BTreeSet<&String> = all.filter(|origin| origin.tls).map(|origin| &origin.host).collect();
    names.into_iter().cloned().collect()
}

impl Interceptor {
    /// `authority` is for the [`names`] of the settings.
    pub(crate) fn new(settings: Settings, authority: CertificateAuthority, daemon: Daemon) -> Rc<Self> {
        let all = settings.origins.iter().chain(settings.sign_in.iter().map(|endpoint| &endpoint.origin));
        let hosts = all.filter(|origin| origin.tls).map(|origin| ((origin.host.clone(), origin.port), origin.clone()));
        Rc::new(Self {
            hosts: hosts.collect(),
            settings,
            authority: RefCell::new(authority),
            daemon,
            outside_tls: OnceCell::new(),
            is_distrusted: Cell::new(false),
        })
    }

    /// Whether a host may be reached that no route leads to.
    fn allows(&self, host: &str) -> bool {
        let is_at_or_below = |allowed: &String| {
            host.strip_suffix(allowed.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        self.settings.allowed.as_ref().is_none_or(|allowed| allowed.iter().any(is_at_or_below))
    }

    /// The hosts that are spoken to in TLS, with their ports.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = (&str, u16)> {
        self.hosts.keys().map(|(host, port)| (host.as_str(), *port))
    }

    /// Serves one connection of the command's, to which nobody else has access.
    pub(crate) async fn serve_stream(self: Rc<Self>, stream: UnixStream) {
        self.serve_client(stream).await;
    }

    /// Serves the command's connections for ever. To be run in a `LocalSet`.
    pub(crate) async fn serve(self: Rc<Self>, listener: TcpListener) {
        let mut peers = PeerLookup::new();
        let own = own_uid();
        loop {
            let (stream, client) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    debug!(%error, "cannot accept a connection just now");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let owner = stream.local_addr().ok().and_then(|server| peers.tcp_uid(client, server));
            if owner != Some(own) {
                self.tell(format_args!("a connection of another user was closed"));
                continue;
            }
            let _ = stream.set_nodelay(true); // not worth failing for
            tokio::task::spawn_local(self.clone().serve_client(stream));
        }
    }

    async fn serve_client<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self: Rc<Self>, stream: S) {
        let link = Rc::new(daemon::Link::default());
        let service = hyper::service::service_fn(move |request| {
            let (interceptor, link) = (self.clone(), link.clone());
            async move { Ok::<_, Infallible>(interceptor.as_proxy(request, &link).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.with_upgrades().await {
            debug!(%error, "a connection of the command ended badly");
        }
    }

    /// How TLS is spoken as one of the hosts.
    fn tls_as(&self, host: &str) -> Result<Arc<ServerConfig>, AuthorityError> {
        self.authority.borrow_mut().server_config(host)
    }

    /// Says what goes where, if that is wanted.
    fn tell(&self, what: fmt::Arguments<'_>) {
        if self.settings.verbose {
            anstream::eprintln!("valetd exec: {what}");
        }
    }
}

/// A problem document (RFC 9457) of our own.
fn problem(status: StatusCode, kind: &str, error: &'static str, detail: &str) -> Response<Body> {
    let document = json!({
        "type": format!("urn:valetd:problem:{kind}"),
        "title": kind.replace('-', " "),
        "status": status.as_u16(),
        "detail": detail,
    });
    let mut response = Response::new(full(document.to_string() + "\n"));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response.headers_mut().insert(PROXY_STATUS, HeaderValue::from_static(error));
    response
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}
