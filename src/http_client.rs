//! The small HTTP client for the authorization server: one request, one connection, one bounded answer.
//!
//! It follows no redirect and keeps no connection. It asks for no content coding, and undoes those that are sent all the
//! same (`http_client/coding.rs`). What it has to tell apart, because a refresh token hangs on it, is whether a request
//! that failed can have reached the server: see [`HttpError`].

use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

mod coding;
mod whole;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use crate::config::{Endpoint, Origin, Proxies, ProxyChoice};
use crate::platform::dial::{self, ByteStream, host_and_port};
use crate::platform::io_error::words;
use crate::platform::{environment, tls};

/// Makes requests. Cheap to clone; holds no connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct HttpClient {
    proxies: Proxies,
    limits: Limits,
}

/// How long and how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// For a host's addresses, for one TLS handshake, and for a proxy's answer. Long enough for a lost SYN or two.
    pub connect: Duration,
    /// For everything from the look-up of the name to the last byte: longer than any healthy server takes, short enough
    /// to try again while the token in hand lives.
    pub exchange: Duration,
    /// Bytes of a response's body. Token answers have a few thousand; those with a person's groups and rights have had more
    /// than a hundred thousand.
    pub body: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), exchange: Duration::from_secs(30), body: 1024 * 1024 }
    }
}

/// What an account says of the connections to its servers.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Reach<'a> {
    /// A PEM file with authorities to trust besides the system's; it is read anew each time.
    pub extra_ca: Option<&'a Path>,
    /// The proxy, if not the environment's; nothing said means the environment's, too.
    pub proxy: Option<&'a ProxyChoice>,
    /// Whether names may not stand for private addresses.
    pub is_public: bool,
}

/// What is sent. `Host`, `Content-Length` and `Connection` are added, and `User-Agent` where it is missing.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// The method.
    pub method: Method,
    /// Header fields; mark those that are secret as sensitive.
    pub fields: HeaderMap,
    /// The body. [`secret_body`] makes one that is wiped.
    pub body: Bytes,
}

/// A body whose memory is overwritten when it has been sent.
pub(crate) fn secret_body(body: &str) -> Bytes {
    Bytes::from_owner(Zeroizing::new(body.as_bytes().to_vec()))
}

/// What came back, its content codings undone. A response that says no (a status other than 2xx) is complete with its head:
/// if the rest of it was lost, too long or cannot be decoded, its body is empty.
pub(crate) struct Answer {
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

/// Why there is no response, in words that name the hop: "connecting to auth.example:443: connection refused".
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// The request never left: the server cannot have carried it out.
    #[error("{0}")]
    NotSent(String),
    /// The request left, at least in part, and no whole response came back: nobody here knows whether it was carried out.
    #[error("{0}")]
    AnswerLost(String),
}

impl HttpClient {
    /// A client that honours `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` as they are now.
    pub(crate) fn from_environment() -> Self {
        Self { proxies: Proxies::read(environment::text), limits: Limits::default() }
    }

    /// A client that uses no proxy but an account's own.
    pub(crate) fn direct() -> Self {
        Self::default()
    }

    /// The same with other limits.
    pub(crate) fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Sends a request and reads the whole response.
    ///
    /// # Errors
    ///
    /// [`HttpError`]; a response is never an error, whatever it says.
    pub(crate) async fn send(
        &self,
        endpoint: &Endpoint,
        reach: Reach<'_>,
        request: Outgoing,
    ) -> Result<Answer, HttpError> {
        let deadline = Instant::now() + self.limits.exchange;
        let origin = &endpoint.origin;
        let stream = timeout_at(deadline, self.connect(origin, reach))
            .await
            .unwrap_or_else(|_| Err(format!("connecting to {}: timed out", host_and_port(origin))))
            .map_err(HttpError::NotSent)?;
        self.exchange(endpoint, stream, request, deadline).await
    }

    async fn exchange(
        &self,
        endpoint: &Endpoint,
        stream: ByteStream,
        request: Outgoing,
        deadline: Instant,
    ) -> Result<Answer, HttpError> {
        let hop = endpoint.origin.authority();
        let not_sent = |why: &dyn fmt::Display| HttpError::NotSent(format!("sending to {hop}: {why}"));
        let lost = |why: &dyn fmt::Display| HttpError::AnswerLost(format!("waiting for the answer of {hop}: {why}"));

        let request = http_request(endpoint, request).map_err(|error| not_sent(&error))?;
        let (mut sender, connection) =
            lenient().handshake(TokioIo::new(stream)).await.map_err(|error| not_sent(&chain(&error)))?;
        let mut driver = JoinSet::new(); // dropped with everything it drives
        driver.spawn(connection);
        let (head, body) = match timeout_at(deadline, sender.try_send_request(request)).await {
            Ok(Ok(answer)) => answer.into_parts(),
            // hyper gives the request back if not a byte of it was written
            Ok(Err(error)) if error.message().is_some() => return Err(not_sent(&chain(error.error()))),
            Ok(Err(error)) => return Err(lost(&chain(error.error()))),
            Err(_) => return Err(lost(&"timed out")),
        };
        let limit = self.limits.body;
        let mut came = Zeroizing::new(Vec::with_capacity(USUAL_BODY.min(limit)));
        let end = timeout_at(deadline, read_body(body, &mut came, limit)).await;
        let end = end.unwrap_or_else(|_| Err("timed out".to_owned()));
        let decoded = coding::undo(&head.headers, came, limit).ok_or("it cannot be decoded");
        let body = match (end, decoded) {
            (Ok(()), Ok(body)) => body,
            // Many servers cut TLS short of close_notify, and some count their bytes wrong.
            (Err(_), Ok(body)) if whole::is_whole(&body) => body,
            _ if !head.status.is_success() => Zeroizing::default(),
            (Err(why), _) => return Err(lost(&why)),
            (Ok(()), Err(why)) => return Err(lost(&why)),
        };
        Ok(Answer { status: head.status, fields: head.headers, body })
    }

    async fn connect(&self, origin: &Origin, reach: Reach<'_>) -> Result<ByteStream, String> {
        let Reach { extra_ca, proxy, is_public } = reach;
        let way = self.proxies.way(proxy.unwrap_or(&ProxyChoice::Environment), origin);
        let way = way.guarded(!is_public, origin);
        let limit = self.limits.connect;
        if !origin.tls {
            return dial::dial(origin, &way, None, limit).await.map_err(|error| error.to_string());
        }
        let extra_ca = extra_ca.map(Path::to_owned);
        // it reads files
        let settings = tokio::task::spawn_blocking(move || {
            let listed = extra_ca.as_deref().map(tls::authorities).transpose()?;
            tls::client_config(listed.unwrap_or_default(), &[b"http/1.1"])
        });
        let settings = settings.await.map_err(|error| format!("preparing TLS: {error}"))??;
        let name = ServerName::try_from(origin.host.clone())
            .map_err(|error| format!("TLS with {}: {error}", host_and_port(origin)))?;
        let tls = dial::Tls { name: &name, settings: &settings, proxy_settings: &settings };
        dial::dial(origin, &way, Some(tls), limit).await.map_err(|error| error.to_string())
    }
}

fn http_request(endpoint: &Endpoint, request: Outgoing) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let Outgoing { method, fields, body } = request;
    let mut request = Request::builder().method(method).uri(&endpoint.path_and_query).body(Full::new(body))?;
    *request.headers_mut() = fields;
    request.headers_mut().insert(HOST, HeaderValue::try_from(endpoint.origin.authority())?);
    let agent = HeaderValue::from_static(concat!("valetd/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().entry(USER_AGENT).or_insert(agent);
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

/// A response's fields, at most: as many as an upstream's may have.
const MOST_FIELDS: usize = 1000;

/// Takes what old servers send as well: a folded field (RFC 9112 section 5.2), a blank before the colon, a line that is no
/// field. Where messages follow each other that may hide one from somebody; here none follows.
fn lenient() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_headers(MOST_FIELDS)
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .ignore_invalid_headers_in_responses(true);
    builder
}

/// Room for nearly every response.
const USUAL_BODY: usize = 64 * 1024;

/// Reads a body. What has come stands there also where the end of it has not.
async fn read_body(mut body: Incoming, whole: &mut Zeroizing<Vec<u8>>, limit: usize) -> Result<(), String> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| chain(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        let length = whole.len() + data.len();
        if length > limit {
            return Err(format!("it is longer than {} KiB", limit / 1024));
        }
        if length > whole.capacity() {
            // growing in place would leave copies of tokens behind
            let mut larger = Zeroizing::new(Vec::with_capacity(length.next_power_of_two()));
            larger.extend_from_slice(whole);
            *whole = larger;
        }
        whole.extend_from_slice(&data);
    }
    Ok(())
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

    use std::sync::Arc;

    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
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

    fn trusting(path: &Path) -> Reach<'_> {
        Reach { extra_ca: Some(path), ..Reach::default() }
    }

    /// Reads the head of one request (and a body of four bytes), answers with `answer`, and closes.
    async fn answer_once(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) -> String {
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
        let answer = HttpClient::direct()
            .send(&endpoint(false, "127.0.0.1", port), Reach::default(), post("body"))
            .await
            .unwrap();
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
            ("a cut yes", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", Err("waiting for the answer of")),
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
            match (client.send(&endpoint(false, "127.0.0.1", port), Reach::default(), post("body")).await, expected) {
                (Ok(answer), Ok(status)) => assert_eq!(answer.status, status, "{name}"),
                (Err(HttpError::AnswerLost(text)), Err(part)) => assert!(text.contains(part), "{name}: {text}"),
                (other, _) => panic!("{name}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn whole_json_is_whole_however_its_connection_ends() {
        let (acceptor, ca) = certified();
        let table: [(&str, &'static [u8], bool); 10] = [
            ("whole", b"HTTP/1.1 200 OK\r\n\r\n{\"a\":\"b\"}", true),
            ("with blanks", b"HTTP/1.1 200 OK\r\n\r\n {\"a\":\"b\"}\n", true),
            (
                "chunked, without the last chunk",
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
                true,
            ),
            ("half", b"HTTP/1.1 200 OK\r\n\r\n{\"a\":\"b\"", false),
            ("nothing", b"HTTP/1.1 200 OK\r\n\r\n", false),
            ("a number, which may go on", b"HTTP/1.1 200 OK\r\n\r\n17", false),
            ("shorter than its length", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", true),
            ("half, and shorter", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"a\":", false),
            ("a form", b"HTTP/1.1 200 OK\r\n\r\naccess_token=a&refresh_token=b&token_type=bearer", true),
            ("half a form", b"HTTP/1.1 200 OK\r\n\r\naccess_token=a&token_type=bearer&refresh_token=b", false),
        ];
        for (name, answer, is_whole) in table {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let acceptor = acceptor.clone();
            let server = tokio::spawn(async move {
                let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"body") {
                    stream.read_buf(&mut request).await.unwrap();
                }
                stream.write_all(answer).await.unwrap();
                stream.flush().await.unwrap();
                stream.get_mut().0.shutdown().await.unwrap(); // TCP's end, without TLS's
            });
            let endpoint = endpoint(true, "localhost", port);
            let answer = HttpClient::direct().send(&endpoint, trusting(ca.path()), post("body")).await;
            server.await.unwrap();
            assert_eq!(answer.is_ok(), is_whole, "{name}: {answer:?}");
        }
    }

    #[tokio::test]
    async fn heads_and_bodies_are_taken_as_old_and_wordy_servers_send_them() {
        let rows = [
            ("many fields", "X: y\r\n".repeat(900), 2, true),
            ("too many fields", "X: y\r\n".repeat(1100), 2, false),
            ("a long head", format!("X: {}\r\n", "y".repeat(250 * 1024)), 2, true),
            ("a folded field", "X: y\r\n z\r\n".to_owned(), 2, true),
            ("a blank before the colon", "X : y\r\n".to_owned(), 2, true),
            ("a line that is no field", "what is this?\r\n".to_owned(), 2, true),
            ("a long body", String::new(), 1 << 20, true),
            ("too long a body", String::new(), (1 << 20) + 1, false),
        ];
        for (name, fields, length, is_taken) in rows {
            let body = "{}".to_owned() + &" ".repeat(length - 2);
            let answer = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {length}\r\n\r\n{body}");
            let (port, _) = server(Box::leak(answer.into_boxed_str()).as_bytes()).await;
            let client = HttpClient::direct();
            let answer = client.send(&endpoint(false, "127.0.0.1", port), Reach::default(), post("body")).await;
            assert_eq!(answer.as_ref().is_ok_and(|answer| answer.body.len() == length), is_taken, "{name}: {answer:?}");
        }
    }

    #[tokio::test]
    async fn a_coding_that_nobody_asked_for_is_undone_and_one_that_cannot_be_is_an_answer_lost() {
        let zipped = coding::tests::gzip(br#"{"a":"b"}"#);
        let head = |status: &str, coding: &str, length: usize| {
            format!("HTTP/1.1 {status}\r\n{coding}Content-Length: {length}\r\n\r\n").into_bytes()
        };
        let named = "Content-Encoding: gzip\r\n";
        let table = [
            ("gzip", head("200 OK", named, zipped.len()), &zipped[..], Some(&br#"{"a":"b"}"#[..])),
            ("gzip that is not said", head("200 OK", "", zipped.len()), &zipped[..], Some(br#"{"a":"b"}"#)),
            ("half of it", head("200 OK", named, 14), &zipped[..14], None),
            ("half of a no", head("400 No", named, 14), &zipped[..14], Some(b"")),
        ];
        for (name, head, body, expected) in table {
            let (port, _) = server(Box::leak([&head, body].concat().into_boxed_slice())).await;
            let client = HttpClient::direct();
            let answer = client.send(&endpoint(false, "127.0.0.1", port), Reach::default(), post("body")).await;
            assert_eq!(answer.ok().as_ref().map(|answer| &answer.body[..]), expected, "{name}");
        }
    }

    #[tokio::test]
    async fn a_server_that_takes_the_request_and_keeps_silent_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = HttpClient::direct().with_limits(HURRIED);
        let error = client.send(&endpoint(false, "127.0.0.1", port), Reach::default(), post("body")).await.unwrap_err();
        assert_eq!(error, HttpError::AnswerLost(format!("waiting for the answer of 127.0.0.1:{port}: timed out")));
        let error = client.send(&endpoint(true, "127.0.0.1", port), Reach::default(), post("body")).await.unwrap_err();
        assert!(matches!(&error, HttpError::NotSent(text) if text.ends_with("timed out")), "{error:?}");
    }

    #[tokio::test]
    async fn what_never_left_is_said_with_its_hop() {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let client = HttpClient::direct().with_limits(HURRIED);
        let error = client.send(&endpoint(false, "127.0.0.1", port), Reach::default(), post("body")).await.unwrap_err();
        assert_eq!(error, HttpError::NotSent(format!("connecting to 127.0.0.1:{port}: connection refused")));
        let error = client
            .send(&endpoint(true, "no-such-host.invalid", 443), Reach::default(), post("body"))
            .await
            .unwrap_err();
        assert!(matches!(&error, HttpError::NotSent(text) if text.starts_with("looking up no-such")), "{error:?}");
        let missing = trusting(Path::new("/nonexistent/ca.pem"));
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
        let error = HttpClient::direct().send(&endpoint, Reach::default(), post("body")).await.unwrap_err();
        let HttpError::NotSent(text) = &error else { panic!("{error:?}") };
        assert!(text.starts_with(&format!("TLS with localhost:{port}: invalid peer certificate")), "{text}");
        let answer = HttpClient::direct().send(&endpoint, trusting(ca.path()), post("body")).await.unwrap();
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
        let answer =
            client.send(&endpoint(true, "auth.example", 8443), trusting(ca.path()), post("body")).await.unwrap();
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
            let error =
                client.send(&endpoint(true, "auth.example", 443), Reach::default(), post("body")).await.unwrap_err();
            let HttpError::NotSent(text) = &error else { panic!("{error:?}") };
            let start = format!("asking the proxy 127.0.0.1:{port} for auth.example:443: ");
            assert!(text.starts_with(&start) && text.contains(part), "{text}");
        }
        let error = behind("socks4://127.0.0.1:1".to_owned());
        let error = error.send(&endpoint(true, "auth.example", 443), Reach::default(), post("body")).await.unwrap_err();
        assert!(error.to_string().starts_with("HTTPS_PROXY has a scheme socks4"), "{error}");
    }
}
