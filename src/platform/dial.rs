//! The one dialer: a byte stream to a server, straight to its addresses (in turn, as RFC 8305 has it) or through a proxy
//! ([`Way`]), with TLS over it.
//!
//! A proxy is always asked for a tunnel, and what goes through it is TLS with the server: it sees the server's name and how
//! much is sent, no more.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::io_error::words;
use super::names;
use super::tunnel::{self, Target, TunnelError};
use super::vectored::{SMALL_WRITE, joined};
use crate::config::{ForwardProxy, Origin, ProxyProtocol, Way, is_metadata_address, is_private_address};

/// RFC 8305 section 5: the time after which the next address is tried as well.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// So that a tunnel whose other end vanished ends some day.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);

/// How TLS is spoken with a server.
#[derive(Clone, Copy)]
pub(crate) struct Tls<'a> {
    /// Whose certificate it has to be.
    pub name: &'a ServerName<'static>,
    /// What is offered to the server.
    pub settings: &'a Arc<ClientConfig>,
    /// What is offered to a proxy, if TLS is spoken with it: HTTP/1.1.
    pub proxy_settings: &'a Arc<ClientConfig>,
}

/// Why there is no connection, in words that name the hop: "connecting to auth.example:443: connection refused". Holds no
/// proxy's user name or password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The environment's word for a proxy is none.
    #[error("{variable} {problem}")]
    Misnamed {
        /// Where it stands.
        variable: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A name has no address.
    #[error("looking up {host}: {}", words(why))]
    LookUp {
        /// The name.
        host: String,
        /// Why.
        why: io::Error,
    },
    /// No address takes a connection.
    #[error("connecting to {hop}: {}", words(why))]
    Connect {
        /// Host and port.
        hop: String,
        /// What came of the last one.
        why: io::Error,
    },
    /// The proxy is not to be reached.
    #[error("proxy: {0}")]
    Proxy(Box<DialError>),
    /// The proxy does not let us through.
    #[error("asking the proxy {proxy} for {target}: {why}")]
    Tunnel {
        /// The proxy's host and port.
        proxy: String,
        /// The server's.
        target: String,
        /// Its response.
        why: TunnelError,
    },
    /// No TLS.
    #[error("TLS with {hop}: {}", words(why))]
    Tls {
        /// Host and port.
        hop: String,
        /// Why.
        why: io::Error,
    },
    /// A step took too long.
    #[error("{step}: timed out")]
    TimedOut {
        /// What it was.
        step: String,
    },
}

/// Connects to `origin` by `way`, TLS included where the origin has it. No step (look-up, TCP, a proxy's answer, TLS) may
/// take longer than `step_limit`.
///
/// # Errors
///
/// [`DialError`]: not a byte of a request has left.
pub(crate) async fn dial(
    origin: &Origin,
    way: &Way,
    tls: Option<Tls<'_>>,
    step_limit: Duration,
) -> Result<ByteStream, DialError> {
    let tcp = match way {
        Way::Direct => connect(&origin.host, origin.port, step_limit, beside_metadata).await?,
        Way::Public => connect(&origin.host, origin.port, step_limit, beside_private).await?,
        // boxed, as its state is large, and few have a proxy
        Way::Through(proxy) => return Box::pin(through(proxy, origin, tls, step_limit, beside_metadata)).await,
        Way::PublicThrough(proxy) => return Box::pin(through(proxy, origin, tls, step_limit, beside_private)).await,
        Way::Misnamed { variable, problem } => {
            return Err(DialError::Misnamed { variable, problem: problem.clone() });
        }
    };
    let Some(tls) = tls else { return Ok(ByteStream::Tcp(tcp)) };
    let tls = handshake(tls.settings, tls.name.clone(), tcp, step_limit, || host_and_port(origin)).await?;
    Ok(ByteStream::Tls(Box::new(tls)))
}

/// Opens a tunnel to `origin` through a proxy that is spoken to in TLS. With the origin nothing is spoken yet: what goes
/// through is somebody else's affair.
///
/// # Errors
///
/// [`DialError`], as of [`dial`].
pub(crate) async fn tunnel(
    origin: &Origin,
    proxy: &ForwardProxy,
    proxy_settings: &Arc<ClientConfig>,
    step_limit: Duration,
) -> Result<ByteStream, DialError> {
    let stream = Box::pin(through_tls(proxy, origin, proxy_settings, step_limit)).await?;
    Ok(ByteStream::Tls(Box::new(stream)))
}

async fn through_tls(
    proxy: &ForwardProxy,
    origin: &Origin,
    settings: &Arc<ClientConfig>,
    step_limit: Duration,
) -> Result<TlsStream<TcpStream>, DialError> {
    let to_proxy = || format!("the proxy {}", proxy.host_and_port());
    let name = ServerName::try_from(proxy.host.clone())
        .map_err(|error| DialError::Tls { hop: to_proxy(), why: io::Error::other(error) })?;
    let reached = async {
        let tcp = connect(&proxy.host, proxy.port, step_limit, beside_metadata).await?;
        handshake(settings, name, tcp, step_limit, to_proxy).await
    };
    let target = host_and_port(origin);
    let mut stream = reached.await.map_err(|error| DialError::Proxy(Box::new(error)))?;
    let asking = tunnel::connect(&mut stream, proxy.login.as_ref(), &target);
    answered(proxy, origin, step_limit, asking).await?;
    Ok(stream)
}

async fn through(
    proxy: &ForwardProxy,
    origin: &Origin,
    tls: Option<Tls<'_>>,
    step_limit: Duration,
    guard: Guard,
) -> Result<ByteStream, DialError> {
    let to_proxy = || format!("the proxy {}", proxy.host_and_port());
    let target = host_and_port(origin);
    let reach = async || {
        connect(&proxy.host, proxy.port, step_limit, beside_metadata)
            .await
            .map_err(|error| DialError::Proxy(Box::new(error)))
    };
    let tcp = match (proxy.protocol, tls) {
        (ProxyProtocol::Http, _) => {
            let mut tcp = reach().await?;
            let asking = tunnel::connect(&mut tcp, proxy.login.as_ref(), &target);
            answered(proxy, origin, step_limit, asking).await?;
            tcp
        }
        (ProxyProtocol::Https, Some(tls)) => {
            let stream = through_tls(proxy, origin, tls.proxy_settings, step_limit).await?;
            let inner = handshake(tls.settings, tls.name.clone(), stream, step_limit, || target.clone()).await?;
            return Ok(ByteStream::TlsInTls(Box::new(inner)));
        }
        (ProxyProtocol::Https, None) => {
            let why = io::Error::new(io::ErrorKind::Unsupported, "plain http does not go through it");
            return Err(DialError::Tls { hop: to_proxy(), why });
        }
        (ProxyProtocol::Socks5, _) => {
            let mut addresses = look_up(&origin.host, origin.port, step_limit, guard).await?.into_iter();
            let mut next = addresses.next();
            loop {
                let Some(address) = next else {
                    let why = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                    return Err(DialError::LookUp { host: origin.host.clone(), why });
                };
                next = addresses.next();
                let mut tcp = reach().await?;
                let asking = tunnel::socks5(&mut tcp, proxy.login.as_ref(), Target::Address(address));
                match answered(proxy, origin, step_limit, asking).await {
                    Ok(()) => break tcp,
                    Err(DialError::Tunnel { why: TunnelError::Unreachable(_), .. }) if next.is_some() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        (ProxyProtocol::Socks5h, _) => {
            let target = match origin.host.parse::<IpAddr>() {
                Ok(ip) => Target::Address((ip, origin.port).into()),
                Err(_) => Target::Name(&origin.host, origin.port),
            };
            let mut tcp = reach().await?;
            answered(proxy, origin, step_limit, tunnel::socks5(&mut tcp, proxy.login.as_ref(), target)).await?;
            tcp
        }
    };
    let Some(tls) = tls else { return Ok(ByteStream::Tcp(tcp)) };
    let tls = handshake(tls.settings, tls.name.clone(), tcp, step_limit, || host_and_port(origin)).await?;
    Ok(ByteStream::Tls(Box::new(tls)))
}

async fn answered(
    proxy: &ForwardProxy,
    origin: &Origin,
    step_limit: Duration,
    asking: impl Future<Output = Result<(), TunnelError>>,
) -> Result<(), DialError> {
    let (proxy, target) = (proxy.host_and_port(), host_and_port(origin));
    match timeout(step_limit, asking).await {
        Ok(asked) => asked.map_err(|why| DialError::Tunnel { proxy, target, why }),
        Err(_) => Err(DialError::TimedOut { step: format!("asking the proxy {proxy} for {target}") }),
    }
}

/// Leaves out what may not be connected to; an error, if nothing is left.
type Guard = fn(Vec<SocketAddr>) -> io::Result<Vec<SocketAddr>>;

async fn look_up(host: &str, port: u16, step_limit: Duration, guard: Guard) -> Result<Vec<SocketAddr>, DialError> {
    match timeout(step_limit, names::look_up(host, port)).await {
        Ok(Ok(addresses)) => guard(addresses).map_err(|why| DialError::LookUp { host: host.to_owned(), why }),
        Ok(Err(why)) => Err(DialError::LookUp { host: host.to_owned(), why }),
        Err(_) => Err(DialError::TimedOut { step: format!("looking up {host}") }),
    }
}

/// Leaves out what no name may stand for: an address that is refused where it is configured as such.
fn beside_metadata(mut addresses: Vec<SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    let had_some = !addresses.is_empty();
    addresses.retain(|address| !is_metadata_address(address.ip()));
    if had_some && addresses.is_empty() {
        let says = "the name stands for a link-local address or a cloud's metadata service, which hands out the \
                    machine's own credentials; valetd does not connect to it";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, says));
    }
    Ok(addresses)
}

/// Leaves out private addresses, too.
fn beside_private(addresses: Vec<SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    let mut addresses = beside_metadata(addresses)?;
    let had_some = !addresses.is_empty();
    addresses.retain(|address| !is_private_address(address.ip()));
    if had_some && addresses.is_empty() {
        let says =
            "the name stands for a private address, which the account does not allow (private_addresses = false)";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, says));
    }
    Ok(addresses)
}

async fn connect(host: &str, port: u16, step_limit: Duration, guard: Guard) -> Result<TcpStream, DialError> {
    let addresses = look_up(host, port, step_limit, guard).await?;
    let hop = || if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let tcp = match timeout(step_limit, connect_any(addresses)).await {
        Ok(connected) => connected.map_err(|why| DialError::Connect { hop: hop(), why })?,
        Err(_) => return Err(DialError::TimedOut { step: format!("connecting to {}", hop()) }),
    };
    // neither is worth failing for
    let _ = tcp.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(&tcp, true);
    let _ = rustix::net::sockopt::set_tcp_keepidle(&tcp, KEEPALIVE_AFTER);
    Ok(tcp)
}

/// RFC 8305: the families in turn, each further address a moment after the one before it or as soon as that has failed.
async fn connect_any(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first_is_v6);
    (first, second) = (first.into_iter().rev().collect(), second.into_iter().rev().collect());
    let mut attempts = JoinSet::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        if let Some(address) = first.pop() {
            attempts.spawn(TcpStream::connect(address));
            std::mem::swap(&mut first, &mut second);
        } else if let Some(address) = second.pop() {
            attempts.spawn(TcpStream::connect(address));
        }
        let all_started = first.is_empty() && second.is_empty();
        tokio::select! {
            ended = attempts.join_next() => match ended {
                Some(Ok(Ok(tcp))) => return Ok(tcp),
                Some(Ok(Err(error))) => failure = error,
                Some(Err(error)) => failure = io::Error::other(error),
                None => return Err(failure),
            },
            () = tokio::time::sleep(NEXT_ADDRESS_AFTER), if !all_started => {}
        }
    }
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    settings: &Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: S,
    step_limit: Duration,
    hop: impl Fn() -> String,
) -> Result<TlsStream<S>, DialError> {
    match timeout(step_limit, TlsConnector::from(settings.clone()).connect(name, stream)).await {
        Ok(connected) => connected.map_err(|why| DialError::Tls { hop: hop(), why }),
        Err(_) => Err(DialError::TimedOut { step: format!("TLS with {}", hop()) }),
    }
}

/// "auth.example:443", the port always there: what a firewall's owner wants to know.
pub(crate) fn host_and_port(origin: &Origin) -> String {
    let Origin { tls: _, host, port } = origin;
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A byte stream to a server.
pub(crate) enum ByteStream {
    /// In the clear, on this machine.
    Tcp(TcpStream),
    /// TLS with the server, over TCP to it or to a proxy.
    Tls(Box<TlsStream<TcpStream>>),
    /// TLS with the server inside TLS with a proxy.
    TlsInTls(Box<TlsStream<TlsStream<TcpStream>>>),
}

impl ByteStream {
    /// The protocol that the server chose (RFC 7301), if it did.
    pub(crate) fn alpn_protocol(&self) -> Option<&[u8]> {
        match self {
            Self::Tcp(_) => None,
            Self::Tls(tls) => tls.get_ref().1.alpn_protocol(),
            Self::TlsInTls(tls) => tls.get_ref().1.alpn_protocol(),
        }
    }
}

impl AsyncRead for ByteStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::TlsInTls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
            Self::TlsInTls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => {
                let mut small = [0; SMALL_WRITE];
                match joined(bufs, &mut small) {
                    Some(bytes) => Pin::new(tcp).poll_write(cx, bytes),
                    None => Pin::new(tcp).poll_write_vectored(cx, bufs),
                }
            }
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Self::TlsInTls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
            Self::TlsInTls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Self::TlsInTls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::TlsInTls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_stands_for_a_metadata_service_is_not_connected_to() {
        let left = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 443)).collect();
            beside_metadata(addresses)
                .map(|left| left.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>())
        };
        for ip in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "2002:a9fe:a9fe::1",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "192.0.0.192",
        ] {
            let refused = left(&[ip]).expect_err(ip);
            assert!(refused.to_string().contains("metadata"), "{ip}: {refused}");
            assert_eq!(left(&[ip, "192.0.2.1"]).unwrap(), ["192.0.2.1"], "{ip}");
        }
        // what a person may well have meant
        for ip in ["127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "fd12::1", "2001:db8::1", "64:ff9b::192.0.2.1"] {
            assert_eq!(left(&[ip]).unwrap().len(), 1, "{ip}");
        }
        assert_eq!(left(&[]).unwrap().len(), 0);
    }

    /// Where a name is looked up here, the guard is ours, whoever connects.
    #[tokio::test]
    async fn no_proxy_is_asked_for_a_private_address_that_was_looked_up_here_where_none_is_allowed() {
        let endpoint = crate::config::Endpoint::parse("https://10.9.8.7/").unwrap();
        for (may_lead, expected) in [(false, "private address"), (true, "proxy")] {
            let proxy = ForwardProxy::parse("socks5://127.0.0.1:1").unwrap();
            let way = Way::Through(proxy).guarded(may_lead, &endpoint.origin);
            let error = dial(&endpoint.origin, &way, None, Duration::from_secs(5)).await.err().unwrap();
            assert!(error.to_string().contains(expected), "{may_lead}: {error}");
        }
    }
}
