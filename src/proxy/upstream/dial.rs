//! A connection to an upstream, by the way that the table says.

use std::io;
use std::time::Duration;

use crate::platform::dial::{self, DialError};
use crate::proxy::fault::Fault;
use crate::proxy::upstream::origin::UpstreamOrigin;

pub(crate) use crate::platform::dial::ByteStream as UpstreamIo;

/// Connects, TLS included, within `timeout`.
pub(crate) async fn dial(upstream: &UpstreamOrigin, timeout: Duration) -> Result<UpstreamIo, Fault> {
    let tls = upstream.tls.as_ref();
    let tls = tls.map(|tls| dial::Tls { name: &tls.name, settings: &tls.http1, proxy_settings: &tls.http1 });
    connect(upstream, tls, timeout).await
}

/// Like [`dial()`], for HTTP/2; `None` if the upstream chose HTTP/1.1.
pub(crate) async fn dial_http2(upstream: &UpstreamOrigin, timeout: Duration) -> Result<Option<UpstreamIo>, Fault> {
    let tls = upstream.tls.as_ref();
    let tls = tls.map(|tls| dial::Tls { name: &tls.name, settings: &tls.http2, proxy_settings: &tls.http1 });
    let io = connect(upstream, tls, timeout).await?;
    let is_chosen = upstream.tls.is_none() || io.alpn_protocol() == Some(b"h2");
    Ok(is_chosen.then_some(io))
}

async fn connect(
    upstream: &UpstreamOrigin,
    tls: Option<dial::Tls<'_>>,
    timeout: Duration,
) -> Result<UpstreamIo, Fault> {
    match tokio::time::timeout(timeout, dial::dial(&upstream.origin, &upstream.way, tls, timeout)).await {
        Ok(connected) => connected.map_err(fault),
        Err(_) => Err(Fault::ConnectTimeout),
    }
}

/// What the want of a connection means for the one who waits for the response.
fn fault(error: DialError) -> Fault {
    match error {
        DialError::TimedOut { .. } => Fault::ConnectTimeout,
        DialError::LookUp { why, .. } => Fault::Unreachable { error: "dns_error", detail: why.to_string() },
        DialError::Connect { why, .. } => {
            let error = match why.kind() {
                io::ErrorKind::ConnectionRefused => "connection_refused",
                io::ErrorKind::NotFound => "dns_error",
                io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => "destination_ip_unroutable",
                _ => "destination_unavailable",
            };
            Fault::Unreachable { error, detail: why.to_string() }
        }
        DialError::Tls { why, .. } => tls_fault(&why),
        DialError::Proxy(_) | DialError::Tunnel { .. } | DialError::Misnamed { .. } => {
            Fault::Unreachable { error: "destination_unavailable", detail: error.to_string() }
        }
    }
}

fn tls_fault(error: &io::Error) -> Fault {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    let word = match cause {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => "tls_certificate_error",
        Some(rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)) => {
            return Fault::NoHttp1 { error: "tls_alert_received", detail: error.to_string() };
        }
        Some(rustls::Error::AlertReceived(_)) => "tls_alert_received",
        _ => "tls_protocol_error",
    };
    Fault::Tls { error: word, detail: error.to_string() }
}
