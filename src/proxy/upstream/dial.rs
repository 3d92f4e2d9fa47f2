//! A connection to an upstream: name, addresses in turn, TLS.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use crate::platform::names;
use crate::proxy::fault::Fault;
use crate::proxy::upstream::origin::UpstreamOrigin;
use crate::proxy::vectored::{SMALL_WRITE, joined};

/// RFC 8305 section 5: the time after which the next address is tried as well.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// So that a tunnel whose other end vanished ends some day.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);

/// Connects, TLS included, within `timeout`.
pub(crate) async fn dial(upstream: &UpstreamOrigin, timeout: Duration) -> Result<UpstreamIo, Fault> {
    let connecting = async {
        let tcp = connect_tcp(&upstream.origin.host, upstream.origin.port).await?;
        let Some(tls) = &upstream.tls else { return Ok(UpstreamIo::Plain(tcp)) };
        Ok(UpstreamIo::Tls(Box::new(open_tls(&tls.http1, &tls.name, tcp).await?)))
    };
    tokio::time::timeout(timeout, connecting).await.unwrap_or(Err(Fault::ConnectTimeout))
}

/// Like [`dial`], for HTTP/2; `None` if the upstream chose HTTP/1.1.
pub(crate) async fn dial_http2(upstream: &UpstreamOrigin, timeout: Duration) -> Result<Option<UpstreamIo>, Fault> {
    let connecting = async {
        let tcp = connect_tcp(&upstream.origin.host, upstream.origin.port).await?;
        let Some(tls) = &upstream.tls else { return Ok(Some(UpstreamIo::Plain(tcp))) };
        let tls = open_tls(&tls.http2, &tls.name, tcp).await?;
        let chosen = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(chosen.then(|| UpstreamIo::Tls(Box::new(tls))))
    };
    tokio::time::timeout(timeout, connecting).await.unwrap_or(Err(Fault::ConnectTimeout))
}

async fn open_tls(
    config: &Arc<ClientConfig>,
    name: &ServerName<'static>,
    tcp: TcpStream,
) -> Result<TlsStream<TcpStream>, Fault> {
    let connector = tokio_rustls::TlsConnector::from(config.clone());
    connector.connect(name.clone(), tcp).await.map_err(|error| tls_fault(&error))
}

async fn connect_tcp(host: &str, port: u16) -> Result<TcpStream, Fault> {
    let addresses = names::look_up(host, port)
        .await
        .map_err(|error| Fault::Unreachable { error: "dns_error", detail: error.to_string() })?;
    let tcp = connect_any(addresses).await.map_err(|error| {
        let word = match error.kind() {
            io::ErrorKind::ConnectionRefused => "connection_refused",
            io::ErrorKind::NotFound => "dns_error",
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => "destination_ip_unroutable",
            _ => "destination_unavailable",
        };
        Fault::Unreachable { error: word, detail: error.to_string() }
    })?;
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
            attempts.spawn_local(TcpStream::connect(address));
            std::mem::swap(&mut first, &mut second);
        } else if let Some(address) = second.pop() {
            attempts.spawn_local(TcpStream::connect(address));
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

fn tls_fault(error: &io::Error) -> Fault {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    let word = match cause {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => "tls_certificate_error",
        Some(rustls::Error::AlertReceived(_)) => "tls_alert_received",
        _ => "tls_protocol_error",
    };
    Fault::Tls { error: word, detail: error.to_string() }
}

/// A byte stream to an upstream.
pub(crate) enum UpstreamIo {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for UpstreamIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for UpstreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => {
                let mut small = [0; SMALL_WRITE];
                match joined(bufs, &mut small) {
                    Some(bytes) => Pin::new(tcp).poll_write(cx, bytes),
                    None => Pin::new(tcp).poll_write_vectored(cx, bufs),
                }
            }
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
