//! An upstream as the table knows it: its origin, and how it is spoken with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hyper::http::uri::Authority;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::config::{Origin, Way};

/// A response's head, at most, in HTTP/1.1 and HTTP/2 (RFC 9113 section 6.5.2 counts 32 bytes more for each field): 256 KiB,
/// and what a thousand fields cost besides.
pub(crate) const LONGEST_HEAD: usize = 320 * 1024;

/// A response's fields, at most.
pub(crate) const MOST_FIELDS: usize = 1000;

/// An upstream as all workers know it.
pub(crate) struct UpstreamOrigin {
    /// Tells pools apart; never used twice in a process.
    pub(crate) id: u64,
    pub(crate) origin: Origin,
    /// Straight to it, or through a proxy.
    pub(crate) way: Way,
    /// The origin as text, for people.
    pub(crate) label: Arc<str>,
    pub(crate) tls: Option<Tls>,
    /// What `:authority` says.
    pub(crate) authority: Authority,
    /// Whether requests that come in HTTP/2 may go on in it: asked by ALPN over TLS, known beforehand in the clear.
    pub(crate) http2: bool,
    /// The certificate authorities besides the system's, as they were when this was made.
    pub(crate) extra_ca: Option<Vec<u8>>,
    /// Whether an HTTP/1.1 response's head had no room once.
    pub(crate) has_large_heads: AtomicBool,
}

/// How TLS is spoken with an upstream.
pub(crate) struct Tls {
    pub(crate) name: ServerName<'static>,
    /// Offers HTTP/1.1 alone.
    pub(crate) http1: Arc<ClientConfig>,
    /// Offers HTTP/2, too.
    pub(crate) http2: Arc<ClientConfig>,
}

impl UpstreamOrigin {
    /// Numbers a new upstream.
    ///
    /// # Errors
    ///
    /// If TLS is to be spoken with something that is neither a host name nor an address.
    pub(crate) fn new(
        origin: Origin,
        way: Way,
        tls: Option<Arc<ClientConfig>>,
        extra_ca: Option<Vec<u8>>,
        http2: bool,
    ) -> Result<Self, String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let tls = tls.map(|config| {
            let name = ServerName::try_from(origin.host.clone())
                .map_err(|_| format!("upstream {origin}: \"{}\" is no host name", origin.host))?;
            let mut both = (*config).clone();
            both.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            Ok::<_, String>(Tls { name, http1: config, http2: Arc::new(both) })
        });
        let authority = origin.authority().parse().map_err(|_| format!("\"{}\" is no host name", origin.host))?;
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            label: origin.to_string().into(),
            tls: tls.transpose()?,
            authority,
            origin,
            way,
            extra_ca,
            http2,
            has_large_heads: AtomicBool::new(false),
        })
    }

    /// Whether connections to one serve the other as well.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.origin == other.origin
            && self.way == other.way
            && self.extra_ca == other.extra_ca
            && self.http2 == other.http2
    }
}
