//! What a tool and an API say to each other through the daemon, in HTTP/2 and in HTTP/1.1, when things go well and when
//! either end leaves.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use hyper::http::HeaderMap;
use hyper::{Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use valetd::stand_in::{Options, Provider};

use crate::support::providers::{Running, start};
use crate::support::{Daemon, Home, PATIENCE, free_address, words};

/// A home with an account that is signed in, and the route `api` to an upstream.
pub struct Stage {
    pub home: Home,
    pub address: String,
    pub gbdx: Running,
}

impl Stage {
    /// `settings` are further lines of the route.
    pub fn leading_to(upstream: &str, settings: &str) -> Self {
        let options = Options { access_lifetime: Duration::from_secs(3600), ..Options::default() };
        let gbdx = start(Provider::Gbdx, options);
        let address = free_address();
        let home = Home::empty();
        let stage = Self { home, address, gbdx };
        stage.home.write_config(&stage.config(upstream, settings));
        let sign_in = stage.gbdx.sign_in();
        let output = stage.home.run_with_input(&["login", "gbdx", "--refresh-token-stdin"], sign_in.expose());
        assert!(output.status.success(), "{}", words(&output));
        stage
    }

    pub fn config(&self, upstream: &str, settings: &str) -> String {
        format!(
            "listen = [\"{}\"]\n{}[route.api]\naccount = \"gbdx\"\nupstream = \"{upstream}\"\n{settings}\n",
            self.address,
            crate::support::providers::gbdx_account(&self.gbdx)
        )
    }

    pub fn start(&self) -> Daemon<'_> {
        let daemon = self.home.start();
        daemon.until("gbdx", "usable");
        daemon
    }

    /// Whether a field's value carries a token that the account's server has given out.
    pub fn is_ours(&self, authorization: &str) -> bool {
        let token = authorization.strip_prefix("Bearer ");
        token.is_some_and(|token| self.gbdx.secrets().iter().any(|secret| secret == token))
    }
}

/// Waits, but not for ever.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it comes in time")
}

// --- HTTP/2 on both sides --------------------------------------------------------------------------------------------

/// An origin that speaks HTTP/2 and leaves every stream to the story.
struct Http2Origin {
    address: SocketAddr,
    streams: mpsc::UnboundedReceiver<Asked>,
    /// One entry a connection.
    shutdown: Arc<Mutex<Vec<mpsc::UnboundedSender<()>>>>,
}

/// A request as the origin got it, and the way to answer.
struct Asked {
    connection: usize,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
}

impl Http2Origin {
    async fn plain() -> Self {
        Self::start(None).await
    }

    async fn start(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (say, streams) = mpsc::unbounded_channel();
        let shutdown = Arc::new(Mutex::new(Vec::new()));
        let connections = shutdown.clone();
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((tcp, _)) = listener.accept().await else { return };
                let (stop, stopped) = mpsc::unbounded_channel();
                connections.lock().expect("no panic").push(stop);
                let (say, tls) = (say.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve_http2(tcp, connection, say, stopped).await,
                        Some(tls) => {
                            if let Ok(tls) = tls.accept(tcp).await {
                                serve_http2(tls, connection, say, stopped).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, streams, shutdown }
    }

    async fn next(&mut self) -> Asked {
        soon(self.streams.recv()).await.expect("the origin runs")
    }

    fn connections(&self) -> usize {
        self.shutdown.lock().expect("no panic").len()
    }

    fn go_away(&self, connection: usize) {
        self.shutdown.lock().expect("no panic")[connection].send(()).expect("the connection is open");
    }
}

async fn serve_http2<S: AsyncRead + AsyncWrite + Unpin>(
    io: S,
    connection: usize,
    say: mpsc::UnboundedSender<Asked>,
    mut stop: mpsc::UnboundedReceiver<()>,
) {
    let mut serving = h2::server::Builder::new().max_concurrent_streams(200).handshake(io).await.expect("a preface");
    loop {
        tokio::select! {
            asked = serving.accept() => match asked {
                Some(Ok((request, respond))) => {
                    if say.send(Asked { connection, request, respond }).is_err() { return }
                }
                _ => return,
            },
            Some(()) = stop.recv() => serving.graceful_shutdown(),
        }
    }
}

impl Asked {
    fn authorization(&self) -> Vec<&str> {
        self.request.headers().get_all("authorization").iter().map(|value| value.to_str().expect("text")).collect()
    }

    /// Sends the answer's head.
    fn answer(&mut self) -> SendStream<Bytes> {
        let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
        self.respond.send_response(head, false).expect("somebody listens")
    }
}

/// Reads a body and its trailers to the end.
async fn rest(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = soon(body.data()).await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, soon(body.trailers()).await?))
}

async fn some(body: &mut RecvStream) -> Bytes {
    let data = soon(body.data()).await.expect("not the end").expect("data");
    body.flow_control().release_capacity(data.len()).expect("taken");
    data
}

fn trailers(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(name.parse().expect("a name"), value.parse().expect("a value"))])
}

/// A client that speaks HTTP/2 with prior knowledge.
struct Http2Client {
    sender: SendRequest<Bytes>,
    address: String,
}

impl Http2Client {
    async fn connect(address: &str) -> Self {
        let tcp = TcpStream::connect(address).await.expect("the daemon listens");
        // h2 allows for small unread frames by the size of this window
        let (sender, connection) = h2::client::Builder::new()
            .initial_connection_window_size(1 << 30)
            .handshake(tcp)
            .await
            .expect("a handshake");
        tokio::spawn(async move { drop(connection.await) });
        Self { sender, address: address.to_owned() }
    }

    async fn send(&mut self, method: &str, path: &str, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        self.sender = soon(self.sender.clone().ready()).await.expect("the connection is open");
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", "Bearer theirs");
        self.sender.send_request(request.body(()).expect("a head"), end).expect("sent")
    }

    async fn get(&mut self, path: &str) -> Response<RecvStream> {
        let (answer, _) = self.send("GET", path, true).await;
        soon(answer).await.expect("an answer")
    }
}

const PRIOR_KNOWLEDGE: &str = "http2 = true\nidle_timeout = \"60s\"";

#[tokio::test]
async fn grpc_works_from_end_to_end() {
    let mut origin = Http2Origin::plain().await;
    let stage = Stage::leading_to(&format!("http://{}/v1", origin.address), PRIOR_KNOWLEDGE);
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;

    // one message each way, and trailers each way
    let (answer, mut up) = client.send("POST", "/api/pkg.Service/Unary?x=%2F..%2f", false).await;
    up.send_data(Bytes::from_static(b"\0\0\0\0\x02hi"), false).expect("sent");
    up.send_trailers(trailers("x-checksum", "1")).expect("sent");
    let mut asked = origin.next().await;
    assert_eq!(asked.request.uri().to_string(), format!("http://{}/v1/pkg.Service/Unary?x=%2F..%2f", origin.address));
    assert_eq!(asked.authorization().len(), 1);
    assert!(stage.is_ours(asked.authorization()[0]), "{:?}", asked.authorization());
    assert_eq!(asked.request.headers()["te"], "trailers");
    assert!(!asked.request.headers().contains_key("host"));
    let (body, sent_trailers) = rest(asked.request.body_mut()).await.expect("a body");
    assert_eq!(body, b"\0\0\0\0\x02hi");
    assert_eq!(sent_trailers.expect("trailers")["x-checksum"], "1");
    let mut down = asked.answer();
    down.send_data(Bytes::from_static(b"\0\0\0\0\x02yo"), false).expect("sent");
    down.send_trailers(trailers("grpc-status", "0")).expect("sent");
    let mut answer = soon(answer).await.expect("an answer");
    assert_eq!((answer.status().as_u16(), &answer.headers()["via"]), (200, &"1.1 valetd".parse().expect("a value")));
    let (body, status) = rest(answer.body_mut()).await.expect("a body");
    assert_eq!(
        (&body[..], &status.expect("trailers")["grpc-status"]),
        (&b"\0\0\0\0\x02yo"[..], &"0".parse().expect("a value"))
    );

    // a conversation: each message passes at once
    let (answer, mut up) = client.send("POST", "/api/pkg.Service/Talk", false).await;
    let mut asked = origin.next().await;
    let mut down = asked.answer();
    let mut answer = soon(answer).await.expect("an answer, before the request has ended");
    for word in ["one", "two", "three"] {
        up.send_data(Bytes::from(word), false).expect("sent");
        assert_eq!(some(asked.request.body_mut()).await, word);
        down.send_data(Bytes::from(word), false).expect("sent");
        assert_eq!(some(answer.body_mut()).await, word);
    }
    up.send_data(Bytes::new(), true).expect("sent");
    assert_eq!(rest(asked.request.body_mut()).await.expect("an end").0, b"");
    down.send_trailers(trailers("grpc-status", "5")).expect("sent");
    assert_eq!(rest(answer.body_mut()).await.expect("an end").1.expect("trailers")["grpc-status"], "5");

    // an answer of nothing but trailers
    let (answer, _) = client.send("POST", "/api/pkg.Service/Nothing", true).await;
    let mut asked = origin.next().await;
    let head = Response::builder().header("grpc-status", "12").body(()).expect("a head");
    asked.respond.send_response(head, true).expect("sent");
    let answer = soon(answer).await.expect("an answer");
    assert!(answer.body().is_end_stream());
    assert_eq!(answer.headers()["grpc-status"], "12");
    assert_eq!(origin.connections(), 1);
    drop(daemon);
}

#[tokio::test]
async fn a_burst_costs_one_handshake_a_worker() {
    let mut origin = Http2Origin::plain().await;
    let stage = Stage::leading_to(&format!("http://{}", origin.address), PRIOR_KNOWLEDGE);
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;
    let mut answers = Vec::new();
    for number in 0..60 {
        answers.push(client.send("GET", &format!("/api/{number}"), true).await.0);
    }
    for _ in 0..60 {
        let mut asked = origin.next().await;
        let path = asked.request.uri().path().to_owned();
        asked.answer().send_data(path.into(), true).expect("sent");
    }
    for (number, answer) in answers.into_iter().enumerate() {
        let (body, _) = rest(soon(answer).await.expect("an answer").body_mut()).await.expect("a body");
        assert_eq!(body, format!("/{number}").as_bytes());
    }
    assert_eq!(origin.connections(), 1);
    drop(daemon);
}

#[tokio::test]
async fn whoever_leaves_takes_the_other_end_along() {
    let mut origin = Http2Origin::plain().await;
    let stage = Stage::leading_to(&format!("http://{}", origin.address), PRIOR_KNOWLEDGE);
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;

    // the client, before any answer
    let (answer, mut up) = client.send("POST", "/api/waiting", false).await;
    let mut asked = origin.next().await;
    up.send_reset(Reason::CANCEL);
    drop(answer);
    assert_eq!(soon(poll_fn(|cx| asked.respond.poll_reset(cx))).await.expect("a reset"), Reason::CANCEL);

    // the client, in the middle of an answer
    let (answer, mut up) = client.send("POST", "/api/listening", false).await;
    let mut asked = origin.next().await;
    let mut down = asked.answer();
    down.send_data(Bytes::from_static(b"half"), false).expect("sent");
    let mut answer = soon(answer).await.expect("an answer");
    assert_eq!(some(answer.body_mut()).await, "half");
    up.send_reset(Reason::CANCEL);
    drop(answer);
    assert_eq!(soon(poll_fn(|cx| down.poll_reset(cx))).await.expect("a reset"), Reason::CANCEL);

    // the upstream, in the middle of an answer: its reason passes
    for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::ENHANCE_YOUR_CALM] {
        let (answer, _) = client.send("GET", "/api/breaking", true).await;
        let mut asked = origin.next().await;
        let mut down = asked.answer();
        down.send_data(Bytes::from_static(b"half"), false).expect("sent");
        let mut answer = soon(answer).await.expect("an answer");
        assert_eq!(some(answer.body_mut()).await, "half");
        down.send_reset(reason);
        let error = rest(answer.body_mut()).await.expect_err("not an end");
        assert_eq!(error.reason(), Some(reason));
    }

    // the upstream, before its answer
    let (answer, _) = client.send("POST", "/api/refusing", true).await;
    origin.next().await.respond.send_reset(Reason::INTERNAL_ERROR);
    let mut answer = soon(answer).await.expect("an answer of ours");
    assert_eq!(answer.status(), 502);
    let (body, _) = rest(answer.body_mut()).await.expect("a problem document");
    assert!(String::from_utf8_lossy(&body).contains("urn:valetd:problem:upstream-answer"));

    // what it has not begun with is sent again, a POST too
    let (answer, mut up) = client.send("POST", "/api/busy", false).await;
    up.send_data(Bytes::from_static(b"whole"), true).expect("sent");
    origin.next().await.respond.send_reset(Reason::REFUSED_STREAM);
    let mut asked = origin.next().await;
    assert_eq!(rest(asked.request.body_mut()).await.expect("a body").0, b"whole");
    asked.answer().send_data(Bytes::new(), true).expect("sent");
    assert_eq!(soon(answer).await.expect("an answer").status(), 200);
    assert_eq!(origin.connections(), 1, "all of this on one connection");

    // the whole connection of the client
    let (answer, _up) = client.send("POST", "/api/vanishing", false).await;
    let mut asked = origin.next().await;
    drop((client, answer, _up));
    assert!(soon(poll_fn(|cx| asked.respond.poll_reset(cx))).await.is_ok());
    drop(daemon);
}

#[tokio::test]
async fn an_upstream_that_says_goodbye_ends_what_runs_and_gets_the_next_on_a_new_connection() {
    let mut origin = Http2Origin::plain().await;
    let stage = Stage::leading_to(&format!("http://{}", origin.address), PRIOR_KNOWLEDGE);
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;
    for round in 0..5 {
        let (running, _) = client.send("GET", "/api/running", true).await;
        let mut asked = origin.next().await;
        assert_eq!(asked.connection, round);
        let mut down = asked.answer();
        let mut running = soon(running).await.expect("an answer");
        origin.go_away(round);
        let (next, mut up) = client.send("POST", "/api/next", false).await;
        up.send_data(Bytes::from_static(b"body"), true).expect("sent");
        let mut asked = origin.next().await;
        assert_eq!(rest(asked.request.body_mut()).await.expect("a body").0, b"body");
        asked.answer().send_data(Bytes::new(), true).expect("sent");
        assert_eq!(soon(next).await.expect("an answer").status(), 200);
        down.send_data(Bytes::from_static(b"the end"), true).expect("sent");
        assert_eq!(rest(running.body_mut()).await.expect("whole").0, b"the end");
    }
    drop(daemon);
}

#[tokio::test]
async fn readers_that_stall_leave_the_others_alone() {
    let mut origin = Http2Origin::plain().await;
    let stage = Stage::leading_to(&format!("http://{}", origin.address), PRIOR_KNOWLEDGE);
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;
    let mut stalled = Vec::new();
    for _ in 0..10 {
        let (answer, _) = client.send("GET", "/api/stalled", true).await;
        let mut asked = origin.next().await;
        let mut down = asked.answer();
        stalled.push(soon(answer).await.expect("an answer"));
        // small frames, as many as the window takes: their bookkeeping costs the reader more than their bytes
        tokio::spawn(async move {
            loop {
                down.reserve_capacity(20);
                match poll_fn(|cx| down.poll_capacity(cx)).await {
                    Some(Ok(room)) if room >= 20 => {
                        if down.send_data(Bytes::from_static(&[b'x'; 20]), false).is_err() {
                            return;
                        }
                    }
                    Some(Ok(_)) => {}
                    _ => return,
                }
            }
        });
    }
    let end = Instant::now() + Duration::from_secs(1);
    let mut asked_meanwhile = 0;
    while Instant::now() < end {
        let (answer, _) = client.send("GET", "/api/bystander", true).await;
        let mut asked = origin.next().await;
        asked.answer().send_data(Bytes::from_static(b"fine"), true).expect("sent");
        assert_eq!(rest(soon(answer).await.expect("an answer").body_mut()).await.expect("whole").0, b"fine");
        asked_meanwhile += 1;
    }
    assert!(asked_meanwhile > 10, "{asked_meanwhile}");
    assert_eq!(origin.connections(), 1);
    drop((stalled, daemon));
}

#[tokio::test]
async fn a_silent_upstream_ends_one_stream_and_not_the_connection() {
    let mut origin = Http2Origin::plain().await;
    let stage = Stage::leading_to(&format!("http://{}", origin.address), "http2 = true\nidle_timeout = \"1s\"");
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;
    let (silent, _) = client.send("GET", "/api/silent", true).await;
    let (half, _) = client.send("GET", "/api/half", true).await;
    let (mut first, mut second) = (origin.next().await, origin.next().await);
    let asked = if first.request.uri().path() == "/half" { &mut first } else { &mut second };
    let mut down = asked.answer();
    down.send_data(Bytes::from_static(b"half"), false).expect("sent");
    let mut half = soon(half).await.expect("an answer");
    assert_eq!(some(half.body_mut()).await, "half");
    rest(half.body_mut()).await.expect_err("broken off");
    let silent = soon(silent).await.expect("an answer of ours");
    assert_eq!(silent.status(), 504);
    soon(poll_fn(|cx| down.poll_reset(cx))).await.expect("the upstream's stream is reset");
    // one that drips is not silent
    let (dripping, _) = client.send("GET", "/api/dripping", true).await;
    let mut asked = origin.next().await;
    let mut down = asked.answer();
    let mut dripping = soon(dripping).await.expect("an answer");
    for _ in 0..10 {
        down.send_data(Bytes::from_static(b"."), false).expect("sent");
        assert_eq!(some(dripping.body_mut()).await, ".");
        tokio::time::sleep(Duration::from_millis(200)).await; // the pace of the story
    }
    drop(daemon);
}

#[tokio::test]
async fn a_401_is_survived_in_http2_too() {
    let mut origin = Http2Origin::plain().await;
    let stage = Stage::leading_to(&format!("http://{}", origin.address), PRIOR_KNOWLEDGE);
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;
    let (answer, mut up) = client.send("POST", "/api/x", false).await;
    up.send_data(Bytes::from_static(b"whole"), true).expect("sent");
    let mut asked = origin.next().await;
    let first = asked.authorization()[0].to_owned();
    asked.respond.send_response(Response::builder().status(401).body(()).expect("a head"), true).expect("sent");
    let mut asked = origin.next().await;
    assert_ne!(asked.authorization(), [first]);
    assert!(stage.is_ours(asked.authorization()[0]));
    assert_eq!(rest(asked.request.body_mut()).await.expect("a body").0, b"whole");
    asked.answer().send_data(Bytes::new(), true).expect("sent");
    assert_eq!(soon(answer).await.expect("an answer").status(), 200);
    drop(daemon);
}

// --- the versions meet -----------------------------------------------------------------------------------------------

/// A certificate for 127.0.0.1, and an acceptor that offers these protocols.
pub fn certified(folder: &Path, protocols: &[&[u8]]) -> tokio_rustls::TlsAcceptor {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    std::fs::write(folder.join("ca.pem"), certified.cert.pem()).expect("written");
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut settings = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key.into())
        .expect("a certificate");
    settings.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(settings).into()
}

#[tokio::test]
async fn over_tls_the_upstream_chooses_and_the_client_decides() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = format!("extra_ca = \"{}\"", folder.path().join("ca.pem").display());
    let mut origin = Http2Origin::start(Some(certified(folder.path(), &[b"h2", b"http/1.1"]))).await;
    let stage = Stage::leading_to(&format!("https://{}", origin.address), &settings);
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;
    for _ in 0..3 {
        let (answer, _) = client.send("GET", "/api/x", true).await;
        let mut asked = origin.next().await;
        assert_eq!((asked.connection, asked.request.uri().scheme_str()), (0, Some("https")));
        asked.answer().send_trailers(trailers("grpc-status", "0")).expect("sent");
        assert!(rest(soon(answer).await.expect("an answer").body_mut()).await.expect("whole").1.is_some());
    }
    drop(daemon);

    // an upstream without HTTP/2
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let acceptor = certified(folder.path(), &[b"http/1.1"]);
    let offers = Arc::new(Mutex::new(VecDeque::new()));
    let seen = offers.clone();
    tokio::spawn(async move {
        loop {
            let Ok((tcp, _)) = listener.accept().await else { return };
            let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
            let seen = seen.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while tls.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
                    if head.ends_with(b"\r\n\r\n") {
                        seen.lock().expect("no panic").push_back(String::from_utf8_lossy(&head).into_owned());
                        head.clear();
                        let _ = tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold").await;
                    }
                }
            });
        }
    });
    stage.home.write_config(&stage.config(&format!("https://{address}"), &settings));
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;
    for _ in 0..3 {
        let mut answer = client.get("/api/x").await;
        assert_eq!(rest(answer.body_mut()).await.expect("whole").0, b"old");
        let head = offers.lock().expect("no panic").pop_front().expect("asked");
        assert!(
            head.starts_with("GET /x HTTP/1.1\r\n") && head.contains(&format!("\r\nhost: {address}\r\n")),
            "{head}"
        );
        assert!(head.contains("connection: te") && head.contains("te: trailers"), "{head}");
    }
    drop(daemon);
}

/// An origin that speaks HTTP/1.1 by hand: what it is asked, and a way to answer.
pub struct RawOrigin {
    pub listener: TcpListener,
    pub url: String,
}

impl RawOrigin {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        Self { listener, url }
    }

    pub async fn accept(&self) -> Wire {
        Wire { stream: soon(self.listener.accept()).await.expect("accepted").0, buffer: Vec::new() }
    }
}

/// A connection, read and written by hand.
pub struct Wire {
    pub stream: TcpStream,
    pub buffer: Vec<u8>,
}

impl Wire {
    pub async fn connect(address: &str) -> Self {
        Self { stream: TcpStream::connect(address).await.expect("somebody listens"), buffer: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = soon(self.stream.write_all(bytes.as_ref())).await; // the other end may have hung up, which its answer shows
    }

    async fn more(&mut self) -> bool {
        soon(self.stream.read_buf(&mut self.buffer)).await.unwrap_or(0) > 0
    }

    /// What comes, up to and with `end`, or all there is.
    pub async fn until(&mut self, end: &str) -> String {
        loop {
            let found = self.buffer.windows(end.len()).position(|part| part == end.as_bytes());
            if found.is_some() || !self.more().await {
                let length = found.map_or(self.buffer.len(), |at| at + end.len());
                return String::from_utf8_lossy(&self.buffer.drain(..length).collect::<Vec<_>>()).into_owned();
            }
        }
    }

    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    pub async fn until_closed(&mut self) -> String {
        while self.more().await {}
        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned()
    }
}

#[tokio::test]
async fn an_http2_client_finds_an_http1_upstream_and_loses_nothing() {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(&origin.url, "");
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;
    // a body without length, also of a GET
    for method in ["POST", "GET"] {
        let (answer, mut up) = client.send(method, "/api/x", false).await;
        up.send_data(Bytes::from_static(b"abc"), true).expect("sent");
        let mut wire = origin.accept().await;
        let head = wire.head().await;
        assert!(head.starts_with(&format!("{method} /x HTTP/1.1\r\n")), "{head}");
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        assert_eq!(wire.until("0\r\n\r\n").await, "3\r\nabc\r\n0\r\n\r\n");
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\r\n").await;
        let mut answer = soon(answer).await.expect("an answer");
        assert!(!answer.headers().contains_key("x-hop") && !answer.headers().contains_key("connection"));
        wire.send("2\r\nok\r\n0\r\nX-Sum: 9\r\n\r\n").await;
        let (body, sum) = rest(answer.body_mut()).await.expect("whole");
        assert_eq!((&body[..], &sum.expect("trailers")["x-sum"]), (&b"ok"[..], &"9".parse().expect("a value")));
    }
    // crumbs of a cookie are one field again
    client.sender = soon(client.sender.clone().ready()).await.expect("open");
    let request =
        Request::get(format!("http://{}/api/c", stage.address)).header("cookie", "a=b").header("cookie", "c=d");
    let (answer, _) = client.sender.send_request(request.body(()).expect("a head"), true).expect("sent");
    let mut wire = origin.accept().await;
    let head = wire.head().await;
    assert!(head.contains("cookie: a=b; c=d\r\n"), "{head}");
    // an answer that breaks off is not an end
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    let mut answer = soon(answer).await.expect("an answer");
    assert_eq!(some(answer.body_mut()).await, "half");
    drop(wire);
    rest(answer.body_mut()).await.expect_err("broken off");
    // and an HTTP/1.1 client beside it
    let mut wire = Wire::connect(&stage.address).await;
    wire.send(format!("GET /api/y HTTP/1.1\r\nHost: {}\r\n\r\n", stage.address)).await;
    let mut up = origin.accept().await;
    assert!(up.head().await.starts_with("GET /y HTTP/1.1"));
    up.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(wire.head().await.starts_with("HTTP/1.1 204"));
    drop(daemon);
}

// --- what a route changes --------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_route_edits_fields_puts_the_token_into_the_query_and_blots_it_out() {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(
        &origin.url,
        "request_headers = { add = { User-Agent = \"lab/1\", X-Api-Key = { file = \"key\" } }, remove = [\"cookie\"] }\n\
         token_query = \"access_token\"\nscrub = true",
    );
    std::fs::write(stage.home.path("config/valetd/key"), "secret-key\n").expect("written");
    let daemon = stage.start();
    let mut client = Wire::connect(&stage.address).await;
    client
        .send(format!(
            "GET /api/x?access_token=theirs&q=1 HTTP/1.1\r\nHost: {}\r\nCookie: a=b\r\nUser-Agent: curl\r\n\
             Accept-Encoding: gzip\r\nAuthorization: Bearer theirs\r\n\r\n",
            stage.address
        ))
        .await;
    let mut up = origin.accept().await;
    let head = up.head().await;
    let token = head.split_once("access_token=").expect("a token").1.split_once(' ').expect("an end").0.to_owned();
    assert!(stage.is_ours(&format!("Bearer {token}")), "{head}");
    assert!(head.starts_with(&format!("GET /x?q=1&access_token={token} HTTP/1.1\r\n")), "{head}");
    assert!(head.contains("user-agent: lab/1\r\n") && head.contains("x-api-key: secret-key\r\n"), "{head}");
    for gone in ["cookie", "authorization", "accept-encoding", "theirs", "curl"] {
        assert!(!head.to_ascii_lowercase().contains(gone), "{gone}: {head}");
    }
    let (front, back) = token.split_at(token.len() / 2);
    up.send(format!(
        "HTTP/1.1 200 OK\r\nX-Echo: {token}\r\nContent-Length: {}\r\n\r\nyou sent {front}",
        9 + 1 + token.len()
    ))
    .await;
    let head = client.head().await;
    assert!(!head.contains("x-echo") && head.contains(&format!("content-length: {}", 10 + token.len())), "{head}");
    assert_eq!(client.until("you sent ").await, "you sent ");
    up.send(format!("{back}.")).await;
    assert_eq!(client.until(".").await, format!("{}.", "*".repeat(token.len())));
    // a 401 puts the new token into the same place
    client.send(format!("GET /api/y HTTP/1.1\r\nHost: {}\r\n\r\n", stage.address)).await;
    assert!(up.head().await.contains(&token));
    up.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").await;
    let mut up = origin.accept().await;
    let head = up.head().await;
    assert!(head.starts_with("GET /y?access_token=") && !head.contains(&token), "{head}");
    assert!(!daemon.log().contains(&token) && !daemon.log().contains("secret-key"));
    drop(daemon);
}

// --- time, and the end -----------------------------------------------------------------------------------------------

/// Sends a signal without waiting for what it does.
fn tell(daemon: &Daemon<'_>, signal: &str) {
    let told =
        std::process::Command::new("kill").args([&format!("-{signal}"), &daemon.child.id().to_string()]).status();
    assert!(told.expect("kill runs").success());
}

async fn ended(daemon: &mut Daemon<'_>) -> std::process::ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = daemon.child.try_wait().expect("waited") {
            return status;
        }
        assert!(start.elapsed() < PATIENCE, "it does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn open_stream(stage: &Stage, origin: &RawOrigin) -> (Wire, Wire) {
    let mut client = Wire::connect(&stage.address).await;
    client.send(format!("GET /api/events HTTP/1.1\r\nHost: {}\r\n\r\n", stage.address)).await;
    let mut up = origin.accept().await;
    up.head().await;
    up.send(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n",
    )
    .await;
    assert!(client.head().await.contains("text/event-stream"));
    assert_eq!(client.until("\n\n\r\n").await, "9\r\ndata: 1\n\n\r\n");
    (client, up)
}

async fn open_tunnel(stage: &Stage, origin: &RawOrigin) -> (Wire, Wire) {
    let mut client = Wire::connect(&stage.address).await;
    client
        .send(format!(
            "GET /api/ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            stage.address
        ))
        .await;
    let mut up = origin.accept().await;
    up.head().await;
    up.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 101"));
    (client, up)
}

#[tokio::test]
async fn a_stop_lets_streams_and_tunnels_end_in_the_time_of_grace() {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(&origin.url, "");
    stage.home.write_config(&format!("drain = \"20s\"\n{}", stage.config(&origin.url, "")));
    let mut daemon = stage.start();
    let (mut reader, mut writer) = open_stream(&stage, &origin).await;
    let (mut client, mut up) = open_tunnel(&stage, &origin).await;
    let mut http2 = Http2Client::connect(&stage.address).await;
    let (answer, _) = http2.send("GET", "/api/h2", true).await;
    let mut answering = origin.accept().await;
    answering.head().await;
    let start = Instant::now();
    tell(&daemon, "TERM");
    while TcpStream::connect(&stage.address).await.is_ok() {
        assert!(start.elapsed() < PATIENCE, "it still listens");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // all that was running goes on, and ends whole
    writer.send("9\r\ndata: 2\n\n\r\n0\r\n\r\n").await;
    assert_eq!(reader.until("0\r\n\r\n").await, "9\r\ndata: 2\n\n\r\n0\r\n\r\n");
    client.send("ping").await;
    assert_eq!(up.until("ping").await, "ping");
    up.send("pong").await;
    assert_eq!(client.until("pong").await, "pong");
    answering.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(rest(soon(answer).await.expect("an answer").body_mut()).await.expect("whole").0, b"ok");
    drop((client, up, reader, writer));
    assert!(ended(&mut daemon).await.success());
    assert!(start.elapsed() < Duration::from_secs(20), "it waited for nobody");
}

#[tokio::test]
async fn a_stop_cuts_off_what_does_not_end_in_time() {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(&origin.url, "");
    stage.home.write_config(&format!("drain = \"1s\"\n{}", stage.config(&origin.url, "")));
    let mut daemon = stage.start();
    let (mut reader, _writer) = open_stream(&stage, &origin).await;
    let (mut client, _up) = open_tunnel(&stage, &origin).await;
    let start = Instant::now();
    tell(&daemon, "TERM");
    assert!(ended(&mut daemon).await.success());
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    let rest = reader.until_closed().await;
    assert!(!rest.contains("0\r\n\r\n"), "cut off, not ended: {rest:?}");
    client.until_closed().await;
}

#[tokio::test]
async fn a_listener_that_leaves_the_configuration_takes_no_more_and_cuts_off_nobody() {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(&origin.url, "");
    let other = free_address();
    let config = stage.config(&origin.url, "");
    stage.home.write_config(&config.replace("]\n[account", &format!(", \"{other}\"]\n[account")));
    let daemon = stage.start();
    let mut client = Wire::connect(&other).await;
    client.send(format!("GET /api/x HTTP/1.1\r\nHost: {other}\r\n\r\n")).await;
    let mut up = origin.accept().await;
    up.head().await;
    stage.home.write_config(&config);
    let start = Instant::now();
    while TcpStream::connect(&other).await.is_ok() {
        assert!(start.elapsed() < PATIENCE, "it still listens");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    up.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert!(client.until("ok").await.starts_with("HTTP/1.1 200"));
    assert!(TcpStream::connect(&stage.address).await.is_ok());
    drop(daemon);
}

#[tokio::test]
async fn heads_that_drip_are_cut_off_and_delay_nobody() {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(&origin.url, "");
    let daemon = stage.start();
    let start = Instant::now();
    let mut dripping = Vec::new();
    for number in 0..40 {
        let mut wire = Wire::connect(&stage.address).await;
        // a half preface and half frames among them
        wire.send(["GET /api/x HTTP/1.1\r\nHost: ", "PRI * HTTP/2.0\r\n\r\n", ""][number % 3]).await;
        dripping.push(tokio::spawn(async move {
            let mut byte = [0];
            loop {
                tokio::select! {
                    read = wire.stream.read(&mut byte) => if read.unwrap_or(0) == 0 { return start.elapsed() },
                    () = tokio::time::sleep(Duration::from_millis(400)), if number % 3 == 0 => {
                        let _ = wire.stream.write_all(b"a").await;
                    }
                }
            }
        }));
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..40 {
        let asked = Instant::now();
        let mut client = Wire::connect(&stage.address).await;
        client.send(format!("GET /api/x HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", stage.address)).await;
        let mut up = origin.accept().await;
        up.head().await;
        up.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
        assert!(client.until_closed().await.ends_with("ok"));
        slowest = slowest.max(asked.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    for dripping in dripping {
        let lasted = soon(dripping).await.expect("no panic");
        assert!(lasted > Duration::from_secs(9) && lasted < Duration::from_secs(25), "{lasted:?}");
    }
    drop(daemon);
}

#[tokio::test]
async fn an_upstream_that_accepts_and_does_nothing_costs_no_longer_than_its_route_allows() {
    let origin = RawOrigin::start().await;
    let url = origin.url.replace("http", "https");
    let stage = Stage::leading_to(&url, "connect_timeout = \"500ms\"");
    let daemon = stage.start();
    let start = Instant::now();
    let mut client = Wire::connect(&stage.address).await;
    client.send(format!("GET /api/x HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", stage.address)).await;
    let answer = client.until_closed().await;
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("connection_timeout"), "{answer}");
    let mut client = Http2Client::connect(&stage.address).await;
    let (first, second) = (client.send("GET", "/api/x", true).await.0, client.send("GET", "/api/y", true).await.0);
    for answer in [first, second] {
        assert_eq!(soon(answer).await.expect("an answer").status(), 504);
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    drop(daemon);
}

#[tokio::test]
async fn a_verdict_in_the_middle_of_an_upload_is_heard() {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(&origin.url, "");
    let daemon = stage.start();
    let mut client = Wire::connect(&stage.address).await;
    client
        .send(format!(
            "PUT /api/x HTTP/1.1\r\nHost: {}\r\nContent-Length: 100000000\r\n\r\nthe beginning",
            stage.address
        ))
        .await;
    let mut up = origin.accept().await;
    up.head().await;
    assert_eq!(up.until("the beginning").await, "the beginning");
    up.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig").await;
    assert!(client.until("big").await.starts_with("HTTP/1.1 413"));
    // a client that leaves ends its request upstream
    let (client, mut up) = open_stream(&stage, &origin).await;
    drop(client);
    assert!(!up.until_closed().await.contains("HTTP"));
    // interim answers: our own 100, and none of the upstream's
    let mut client = Wire::connect(&stage.address).await;
    client
        .send(format!(
            "POST /api/x HTTP/1.1\r\nHost: {}\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n",
            stage.address
        ))
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 100"));
    client.send("abc").await;
    let mut up = origin.accept().await;
    assert!(!up.head().await.contains("expect"));
    assert_eq!(up.until("abc").await, "abc");
    up.send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert!(client.until("ok").await.starts_with("HTTP/1.1 200"));
    drop(daemon);
}

/// The most memory that the daemon has used, in KiB.
fn most_memory(daemon: &Daemon<'_>) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Sends `size` bytes up and gets as many down, in HTTP/1.1 and in HTTP/2, and sees how much memory that took.
async fn carry(size: u64, most_kib: u64) {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(&origin.url, "");
    let daemon = stage.start();
    let chunk = vec![b'x'; 1 << 20];
    let before = most_memory(&daemon);
    let echo = async {
        let mut up = origin.accept().await;
        up.head().await;
        up.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")).await;
        let (mut from, mut to) = up.stream.split();
        let early = up.buffer.len() as u64;
        to.write_all(&up.buffer).await.expect("carried");
        assert_eq!(tokio::io::copy(&mut (&mut from).take(size - early), &mut to).await.expect("carried"), size - early);
    };
    let client = async {
        let mut wire = Wire::connect(&stage.address).await;
        wire.send(format!("POST /api/x HTTP/1.1\r\nHost: {}\r\nContent-Length: {size}\r\n\r\n", stage.address)).await;
        let (mut from, mut to) = wire.stream.split();
        let sending = async {
            for _ in 0..size / chunk.len() as u64 {
                to.write_all(&chunk).await.expect("sent");
            }
        };
        let reading = async {
            let mut got = 0;
            let mut buffer = vec![0; 1 << 18];
            while got < size {
                match from.read(&mut buffer).await.expect("read") {
                    0 => break,
                    read => got += read as u64,
                }
            }
            assert!(got >= size, "{got}"); // and its head
        };
        tokio::join!(sending, reading);
    };
    let start = Instant::now();
    tokio::join!(echo, client);
    let grown = most_memory(&daemon) - before;
    eprintln!("{size} bytes each way in {:?}; memory grew by {grown} KiB from {before} KiB", start.elapsed());
    assert!(grown < most_kib, "{grown} KiB");
    drop(daemon);
}

#[tokio::test]
async fn large_bodies_pass_at_flat_memory() {
    carry(512 << 20, 16 << 10).await;
}

#[tokio::test]
#[ignore = "minutes"]
async fn soak_10_gib_each_way_at_flat_memory() {
    carry(10 << 30, 16 << 10).await;
}
