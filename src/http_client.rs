//! The small HTTP client for the authorization server: one request, one connection, one bounded answer.
//!
//! It follows no redirect, keeps no connection and decodes nothing. What it has to tell apart, because a refresh token
//! hangs on it, is whether a request that failed can have reached the server: see [`HttpError`].

use std::error::Error;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::config::{Endpoint, Origin, is_localhost};
use crate::platform::{environment, names, tls};

/// Makes requests. Cheap to clone; holds no connection.
#[derive(Clone, Debug, Default)]
pub struct HttpClient {
    proxies: Proxies,
    limits: Limits,
}

/// How long and how much.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For one address, for one TLS handshake, and for a proxy's answer. Long enough for a lost SYN or two.
    pub connect: Duration,
    /// For everything from the look-up of the name to the last byte: longer than any healthy server takes, short enough
    /// to try again while the token in hand lives.
    pub exchange: Duration,
    /// Bytes of an answer's body. Token answers have a few thousand.
    pub body: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), exchange: Duration::from_secs(30), body: 64 * 1024 }
    }
}

/// An address gets no more than this while there is another one to try: networks that lose IPv6 are common.
const WHILE_THERE_IS_ANOTHER: Duration = Duration::from_secs(3);

/// What is sent. `Host`, `Content-Length`, `User-Agent` and `Connection` are added.
#[derive(Debug)]
pub struct Outgoing {
    /// The method.
    pub method: Method,
    /// Header fields; mark those that are secret as sensitive.
    pub fields: HeaderMap,
    /// The body. [`secret_body`] makes one that is wiped.
    pub body: Bytes,
}

/// A body whose memory is overwritten when it has been sent.
pub fn secret_body(body: &str) -> Bytes {
    Bytes::from_owner(Zeroizing::new(body.as_bytes().to_vec()))
}

/// What came back. An answer that says no (a status other than 2xx) is complete with its head: if the rest of it was
/// lost or too long, its body is empty.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub fields: HeaderMap,
    /// The body, wiped when dropped.
    pub body: Zeroizing<Vec<u8>>,
}

/// Shows neither fields nor body: there may be tokens in them.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Why there is no answer, in words that name the hop: "connecting to auth.example:443: connection refused".
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HttpError {
    /// The request never left: the server cannot have carried it out.
    #[error("{0}")]
    NotSent(String),
    /// The request left, at least in part, and no whole answer came back: nobody here knows whether it was carried out.
    #[error("{0}")]
    AnswerLost(String),
}

impl HttpClient {
    /// A client that honours `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` as they are now, in either case.
    pub fn from_environment() -> Self {
        Self { proxies: Proxies::read(environment::text), limits: Limits::default() }
    }

    /// A client that uses no proxy.
    pub fn direct() -> Self {
        Self::default()
    }

    /// The same with other limits.
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Sends a request and reads the whole answer. `extra_ca` is a PEM file with authorities to trust besides the
    /// system's; it is read anew each time.
    ///
    /// # Errors
    ///
    /// [`HttpError`]; an answer is never an error, whatever it says.
    pub async fn send(
        &self,
        endpoint: &Endpoint,
        extra_ca: Option<&Path>,
        request: Outgoing,
    ) -> Result<Answer, HttpError> {
        let deadline = Instant::now() + self.limits.exchange;
        let origin = &endpoint.origin;
        let stream = timeout_at(deadline, self.connect(origin, extra_ca))
            .await
            .unwrap_or_else(|_| Err(format!("connecting to {}: timed out", host_and_port(origin))))
            .map_err(HttpError::NotSent)?;
        self.exchange(endpoint, stream, request, deadline).await
    }

    async fn exchange(
        &self,
        endpoint: &Endpoint,
        stream: Stream,
        request: Outgoing,
        deadline: Instant,
    ) -> Result<Answer, HttpError> {
        let hop = endpoint.origin.authority();
        let not_sent = |why: &dyn fmt::Display| HttpError::NotSent(format!("sending to {hop}: {why}"));
        let lost = |why: &dyn fmt::Display| HttpError::AnswerLost(format!("waiting for the answer of {hop}: {why}"));

        let request = http_request(endpoint, request).map_err(|error| not_sent(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| not_sent(&chain(&error)))?;
        let mut driver = JoinSet::new(); // dropped with everything it drives
        driver.spawn(connection);
        let (head, body) = match timeout_at(deadline, sender.try_send_request(request)).await {
            Ok(Ok(answer)) => answer.into_parts(),
            // hyper gives the request back if not a byte of it was written
            Ok(Err(error)) if error.message().is_some() => return Err(not_sent(&chain(error.error()))),
            Ok(Err(error)) => return Err(lost(&chain(error.error()))),
            Err(_) => return Err(lost(&"timed out")),
        };
        let body = match timeout_at(deadline, read_body(body, self.limits.body)).await {
            Ok(Ok(body)) => body,
            _ if !head.status.is_success() => Zeroizing::default(),
            Ok(Err(why)) => return Err(lost(&why)),
            Err(_) => return Err(lost(&"timed out")),
        };
        Ok(Answer { status: head.status, fields: head.headers, body })
    }

    async fn connect(&self, origin: &Origin, extra_ca: Option<&Path>) -> Result<Stream, String> {
        if !origin.tls {
            return self.tcp(&origin.host, origin.port).await;
        }
        let extra_ca = extra_ca.map(Path::to_owned);
        // it reads files
        let config = tokio::task::spawn_blocking(move || tls::client_config(extra_ca.as_deref(), &[b"http/1.1"]))
            .await
            .map_err(|error| format!("preparing TLS: {error}"))??;
        let stream = match self.proxies.to(origin) {
            Some(proxy) => self.tunnel(&proxy, origin, &config).await?,
            None => self.tcp(&origin.host, origin.port).await?,
        };
        self.tls(stream, &origin.host, config, &host_and_port(origin)).await
    }

    /// Tries all addresses of a host, one after the other, in the resolver's order.
    async fn tcp(&self, host: &str, port: u16) -> Result<Stream, String> {
        let hop = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let looked_up = timeout(self.limits.connect, names::look_up(host, port)).await;
        let addresses = match looked_up {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => return Err(format!("looking up {host}: {}", words(&error))),
            Err(_) => return Err(format!("looking up {host}: timed out")),
        };
        let mut last = format!("connecting to {hop}: the name has no address");
        for (left, address) in (0..addresses.len()).rev().zip(&addresses) {
            let limit = self.limits.connect;
            let patience = if left == 0 { limit } else { limit.min(WHILE_THERE_IS_ANOTHER) };
            match timeout(patience, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    let _ = stream.set_nodelay(true); // matters for nothing but speed
                    return Ok(Box::new(stream));
                }
                Ok(Err(error)) => last = format!("connecting to {hop}: {}", words(&error)),
                Err(_) => last = format!("connecting to {hop}: timed out"),
            }
        }
        Err(last)
    }

    async fn tls(&self, stream: Stream, host: &str, config: Arc<ClientConfig>, hop: &str) -> Result<Stream, String> {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| format!("TLS with {hop}: {error}"))?;
        match timeout(self.limits.connect, TlsConnector::from(config).connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(format!("TLS with {hop}: {}", words(&error))),
            Err(_) => Err(format!("TLS with {hop}: timed out")),
        }
    }

    /// Asks a proxy for a tunnel (RFC 9110 section 9.3.6).
    async fn tunnel(&self, proxy: &Intercept, origin: &Origin, tls: &Arc<ClientConfig>) -> Result<Stream, String> {
        let scheme = proxy.uri().scheme_str().unwrap_or("http");
        let default_port = match scheme {
            "http" => 80,
            "https" => 443,
            other => return Err(format!("the proxy's scheme {other} is not supported: use http or https")),
        };
        let host = proxy.uri().host().unwrap_or_default().trim_matches(['[', ']']);
        let port = proxy.uri().port_u16().unwrap_or(default_port);
        let hop = format!("the proxy {host}:{port}");
        let mut stream = self.tcp(host, port).await.map_err(|error| format!("proxy: {error}"))?;
        if scheme == "https" {
            stream = self.tls(stream, host, tls.clone(), &hop).await?;
        }
        match timeout(self.limits.connect, ask_for_tunnel(&mut stream, proxy, &host_and_port(origin))).await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(why)) => Err(format!("asking {hop} for {}: {why}", host_and_port(origin))),
            Err(_) => Err(format!("asking {hop} for {}: timed out", host_and_port(origin))),
        }
    }
}

trait ReadWrite: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> ReadWrite for T {}
/// TCP, TLS over it, or TLS over a tunnel over either.
type Stream = Box<dyn ReadWrite>;

/// Longer heads are not a proxy's answer.
const LONGEST_TUNNEL_ANSWER: usize = 8 * 1024;

async fn ask_for_tunnel(stream: &mut Stream, proxy: &Intercept, target: &str) -> Result<(), String> {
    let mut head = Zeroizing::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes());
    if let Some(basic) = proxy.basic_auth() {
        head.extend([b"Proxy-Authorization: ", basic.as_bytes(), b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    stream.write_all(&head).await.map_err(|error| words(&error))?;

    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= LONGEST_TUNNEL_ANSWER {
            return Err("its answer is too long".to_owned());
        }
        // byte by byte, as what follows the head belongs to the tunnel
        answer.push(stream.read_u8().await.map_err(|error| words(&error))?);
    }
    let answer = String::from_utf8_lossy(&answer);
    let mut lines = answer.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse::<u16>().ok());
    match status {
        Some(200..300) => Ok(()),
        Some(407) => {
            let asks = |line: &str| line.to_ascii_lowercase().starts_with("proxy-authenticate:");
            let schemes: Vec<_> = lines.filter(|line| asks(line)).filter_map(|line| line.split(' ').nth(1)).collect();
            Err(format!("407: it wants a user name and password ({}) in HTTPS_PROXY", schemes.join(", ")))
        }
        Some(status) => Err(format!("it answered {status}")),
        None => Err("it does not speak HTTP".to_owned()),
    }
}

fn http_request(endpoint: &Endpoint, request: Outgoing) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let Outgoing { method, fields, body } = request;
    let mut request = Request::builder().method(method).uri(&endpoint.path_and_query).body(Full::new(body))?;
    *request.headers_mut() = fields;
    request.headers_mut().insert(HOST, HeaderValue::try_from(endpoint.origin.authority())?);
    let agent = HeaderValue::from_static(concat!("valetd/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().insert(USER_AGENT, agent);
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

async fn read_body(mut body: Incoming, limit: usize) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut whole = Zeroizing::new(Vec::with_capacity(limit)); // at once: growing would leave copies of tokens behind
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| chain(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > limit {
            return Err(format!("it is longer than {} KiB", limit / 1024));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole)
}

/// The environment's proxies for https. Plain http is spoken on loopback alone, where no proxy is used.
#[derive(Clone, Default)]
struct Proxies {
    https: String,
    all: String,
    no: String,
}

/// Shows nothing: proxy URLs carry passwords.
impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies").finish_non_exhaustive()
    }
}

impl Proxies {
    fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| variable(name).or_else(|| variable(&name.to_ascii_lowercase())).unwrap_or_default();
        Self { https: either("HTTPS_PROXY"), all: either("ALL_PROXY"), no: either("NO_PROXY") }
    }

    /// The proxy on the way to an origin, if there is one.
    fn to(&self, origin: &Origin) -> Option<Intercept> {
        let ip = origin.host.parse::<IpAddr>();
        if is_localhost(&origin.host) || ip.is_ok_and(|ip| ip.is_loopback()) {
            return None;
        }
        let matcher = Matcher::builder().https(&self.https).all(&self.all).no(no_proxy(&self.no, origin.port)).build();
        matcher.intercept(&origin.to_string().parse::<Uri>().ok()?)
    }
}

/// `NO_PROXY` in the spelling that [`Matcher`] understands: it takes neither `*.corp.example` nor `host:8443`, which
/// people write and other programs take. Entries for another port go.
fn no_proxy(list: &str, port: u16) -> String {
    let entry = |entry: &str| {
        let entry = entry.trim();
        let (host, only) = match entry.rsplit_once(':') {
            // one colon: a port; more than one without brackets: an IPv6 address or network
            Some((host, digits)) if !host.contains(':') || host.ends_with(']') => (host, digits.parse::<u16>().ok()),
            _ => (entry, None),
        };
        let host = host.trim_matches(['[', ']']);
        let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
        only.is_none_or(|only| only == port).then(|| host.to_owned())
    };
    list.split([',', ' ']).filter_map(entry).collect::<Vec<_>>().join(",")
}

/// "auth.example:443", the port always there: what a firewall's owner wants to know.
fn host_and_port(origin: &Origin) -> String {
    let Origin { tls: _, host, port } = origin;
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// What went wrong, without "(os error 111)" where there are words for it.
fn words(error: &io::Error) -> String {
    let kind = error.kind().to_string();
    if error.raw_os_error().is_some() && kind != "uncategorized error" { kind } else { error.to_string() }
}

/// An error and its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = match error.downcast_ref::<io::Error>() {
            Some(error) => format!("{text}: {}", words(error)),
            None => format!("{text}: {error}"),
        };
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;
    use tokio_rustls::TlsAcceptor;

    const HURRIED: Limits =
        Limits { connect: Duration::from_millis(500), exchange: Duration::from_millis(600), body: 1024 };

    fn endpoint(tls: bool, host: &str, port: u16) -> Endpoint {
        Endpoint { origin: Origin { tls, host: host.to_owned(), port }, path_and_query: "/token?a=%5B".to_owned() }
    }

    fn post(body: &str) -> Outgoing {
        Outgoing { method: Method::POST, fields: HeaderMap::new(), body: secret_body(body) }
    }

    /// Reads the head of one request (and a body of four bytes), answers with `answer`, and closes.
    async fn answer_once(mut stream: impl ReadWrite, answer: &[u8]) -> String {
        let mut request = Vec::new();
        while !request.windows(8).any(|seen| seen.starts_with(b"\r\n\r\n") && seen.ends_with(b"body")) {
            if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                break;
            }
        }
        let _ = stream.write_all(answer).await;
        let _ = stream.shutdown().await;
        String::from_utf8_lossy(&request).into_owned()
    }

    async fn server(answer: &'static [u8]) -> (u16, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (port, tokio::spawn(async move { answer_once(listener.accept().await.unwrap().0, answer).await }))
    }

    #[tokio::test]
    async fn a_request_arrives_whole_and_its_answer_comes_back_whole() {
        let (port, seen) = server(b"HTTP/1.1 200 OK\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\n{}").await;
        let answer = HttpClient::direct().send(&endpoint(false, "127.0.0.1", port), None, post("body")).await.unwrap();
        assert_eq!((answer.status, answer.fields["retry-after"].as_bytes()), (StatusCode::OK, &b"7"[..]));
        assert_eq!(&answer.body[..], b"{}");
        let seen = seen.await.unwrap();
        assert!(seen.starts_with("POST /token?a=%5B HTTP/1.1\r\n") && seen.ends_with("\r\n\r\nbody"), "{seen}");
        for field in
            [&format!("host: 127.0.0.1:{port}"), "connection: close", "content-length: 4", "user-agent: valetd/"]
        {
            assert_eq!(seen.matches(&format!("\r\n{field}")).count(), 1, "{field}: {seen}");
        }
    }

    #[tokio::test]
    async fn what_may_have_been_carried_out_is_told_apart_from_what_was_not_and_from_a_no() {
        let long: &[u8] = Box::leak([&b"HTTP/1.1 200 OK\r\n\r\n"[..], &[b'a'; 2000]].concat().into_boxed_slice());
        let table: [(&str, &'static [u8], Result<u16, &str>); 8] = [
            ("closed without a word", b"", Err("connection closed before message completed")),
            ("a cut head", b"HTTP/1.1 200 O", Err("waiting for the answer of")),
            ("a cut yes", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", Err("waiting for the answer of")),
            ("an endless yes", long, Err("longer than 1 KiB")),
            ("no HTTP", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Err("waiting for the answer of")),
            ("a cut no", b"HTTP/1.1 502 Bad\r\nContent-Length: 9\r\n\r\n{}", Ok(502)),
            (
                "a redirect, which is not followed",
                b"HTTP/1.1 302 X\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
                Ok(302),
            ),
            (
                "chunked, after an interim answer",
                b"HTTP/1.1 103 X\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
                Ok(200),
            ),
        ];
        for (name, bytes, expected) in table {
            let (port, _) = server(bytes).await;
            let client = HttpClient::direct().with_limits(Limits { body: 1024, ..Limits::default() });
            match (client.send(&endpoint(false, "127.0.0.1", port), None, post("body")).await, expected) {
                (Ok(answer), Ok(status)) => assert_eq!(answer.status, status, "{name}"),
                (Err(HttpError::AnswerLost(text)), Err(part)) => assert!(text.contains(part), "{name}: {text}"),
                (other, _) => panic!("{name}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_server_that_takes_the_request_and_keeps_silent_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = HttpClient::direct().with_limits(HURRIED);
        let error = client.send(&endpoint(false, "127.0.0.1", port), None, post("body")).await.unwrap_err();
        assert_eq!(error, HttpError::AnswerLost(format!("waiting for the answer of 127.0.0.1:{port}: timed out")));
        let error = client.send(&endpoint(true, "127.0.0.1", port), None, post("body")).await.unwrap_err();
        assert!(matches!(&error, HttpError::NotSent(text) if text.ends_with("timed out")), "{error:?}");
    }

    #[tokio::test]
    async fn what_never_left_is_said_with_its_hop() {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let client = HttpClient::direct().with_limits(HURRIED);
        let error = client.send(&endpoint(false, "127.0.0.1", port), None, post("body")).await.unwrap_err();
        assert_eq!(error, HttpError::NotSent(format!("connecting to 127.0.0.1:{port}: connection refused")));
        let error = client.send(&endpoint(true, "no-such-host.invalid", 443), None, post("body")).await.unwrap_err();
        assert!(matches!(&error, HttpError::NotSent(text) if text.starts_with("looking up no-such")), "{error:?}");
        let missing = Some(Path::new("/nonexistent/ca.pem"));
        let error = client.send(&endpoint(true, "127.0.0.1", port), missing, post("body")).await.unwrap_err();
        assert!(matches!(&error, HttpError::NotSent(text) if text.contains("/nonexistent/ca.pem")), "{error:?}");
    }

    /// A TLS server's settings for localhost and auth.example, and a file with the authority to trust.
    fn certified() -> (TlsAcceptor, tempfile::NamedTempFile) {
        let names = ["localhost".to_owned(), "auth.example".to_owned()];
        let certified = rcgen::generate_simple_self_signed(names).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), certified.cert.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key).unwrap();
        (TlsAcceptor::from(Arc::new(config)), file)
    }

    const YES: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

    #[tokio::test]
    async fn https_is_spoken_to_those_whom_an_authority_vouches_for_and_to_nobody_else() {
        let (acceptor, ca) = certified();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let mut seen = Vec::new();
            for _ in 0..2 {
                match acceptor.accept(listener.accept().await.unwrap().0).await {
                    Ok(stream) => seen.push(answer_once(stream, YES).await),
                    Err(_) => seen.push("refused".to_owned()),
                }
            }
            seen
        });
        // "localhost" may also be ::1, where nobody listens: all addresses are tried
        let endpoint = endpoint(true, "localhost", port);
        let error = HttpClient::direct().send(&endpoint, None, post("body")).await.unwrap_err();
        let HttpError::NotSent(text) = &error else { panic!("{error:?}") };
        assert!(text.starts_with(&format!("TLS with localhost:{port}: invalid peer certificate")), "{text}");
        let answer = HttpClient::direct().send(&endpoint, Some(ca.path()), post("body")).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        let seen = server.await.unwrap();
        assert!(seen[0] == "refused" && seen[1].starts_with("POST /token"), "{seen:?}");
    }

    /// A proxy for one tunnel, which leads to a server of its own behind TLS. Returns the heads that both saw.
    async fn proxy(answer: &'static str, acceptor: TlsAcceptor) -> (u16, JoinHandle<(String, String)>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            let seen = match acceptor.accept(stream).await {
                Ok(stream) => answer_once(stream, YES).await,
                Err(_) => String::new(),
            };
            (String::from_utf8(head).unwrap(), seen)
        });
        (port, proxy)
    }

    fn behind(proxy: String) -> HttpClient {
        let proxies = Proxies::read(|name| (name == "https_proxy").then(|| proxy.clone()));
        HttpClient { proxies, ..HttpClient::default() }
    }

    #[tokio::test]
    async fn a_proxy_is_asked_for_a_tunnel_and_sees_nothing_of_what_goes_through() {
        let (acceptor, ca) = certified();
        let (port, proxy) = proxy("HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n", acceptor).await;
        let client = behind(format!("http://me:p%20w@127.0.0.1:{port}"));
        let answer = client.send(&endpoint(true, "auth.example", 8443), Some(ca.path()), post("body")).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        let (head, seen) = proxy.await.unwrap();
        assert!(head.starts_with("CONNECT auth.example:8443 HTTP/1.1\r\nHost: auth.example:8443\r\n"), "{head}");
        assert!(head.contains("\r\nProxy-Authorization: Basic bWU6cCB3\r\n"), "{head}");
        assert!(seen.starts_with("POST /token") && seen.contains("host: auth.example:8443"), "{seen}");
        assert!(!format!("{client:?}").contains("p%20w"));
    }

    #[tokio::test]
    async fn a_proxy_that_refuses_is_named_with_what_it_wants() {
        let table = [
            (
                "HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: Basic realm=x\r\n\r\n",
                "(Negotiate, Basic)",
            ),
            ("HTTP/1.1 403 Forbidden\r\n\r\n", "it answered 403"),
            ("nonsense\r\n\r\n", "it does not speak HTTP"),
        ];
        for (answer, part) in table {
            let (port, _proxy) = proxy(answer, certified().0).await;
            let client = behind(format!("127.0.0.1:{port}"));
            let error = client.send(&endpoint(true, "auth.example", 443), None, post("body")).await.unwrap_err();
            let HttpError::NotSent(text) = &error else { panic!("{error:?}") };
            let start = format!("asking the proxy 127.0.0.1:{port} for auth.example:443: ");
            assert!(text.starts_with(&start) && text.contains(part), "{text}");
        }
        let error = behind("socks5://127.0.0.1:1".to_owned());
        let error = error.send(&endpoint(true, "auth.example", 443), None, post("body")).await.unwrap_err();
        assert!(error.to_string().contains("socks5"), "{error}");
    }

    #[test]
    fn no_proxy_is_understood_in_the_spellings_that_people_use() {
        let table = [
            ("a name", "corp.example", "a.corp.example", 443, false),
            ("not its namesake", "corp.example", "xcorp.example", 443, true),
            ("with a dot", ".corp.example", "a.corp.example", 443, false),
            ("with a star", "*.corp.example", "a.corp.example", 443, false),
            ("everything", "*", "a.example", 443, false),
            ("with the port", "a.example:8443", "a.example", 8443, false),
            ("with another port", "a.example:8443", "a.example", 443, true),
            ("a network", "10.0.0.0/8, fd00::/8", "10.1.2.3", 443, false),
            ("an IPv6 network", "10.0.0.0/8, fd00::/8", "fd00::1", 443, false),
            ("an IPv6 address with a port", "[fd00::1]:443", "fd00::1", 443, false),
            ("blanks between", "x.example a.example", "a.example", 443, false),
            ("loopback, whatever is said", "", "127.0.0.2", 443, false),
            ("localhost, whatever is said", "", "idp.localhost", 443, false),
            ("nothing said", "", "a.example", 443, true),
        ];
        for (name, list, host, port, proxied) in table {
            let variables = |variable: &str| match variable {
                "ALL_PROXY" => Some("http://proxy.example:3128".to_owned()),
                "no_proxy" => Some(list.to_owned()),
                _ => None,
            };
            let origin = Origin { tls: true, host: host.to_owned(), port };
            assert_eq!(Proxies::read(variables).to(&origin).is_some(), proxied, "{name}");
        }
    }
}
