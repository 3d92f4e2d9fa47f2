//! Which token goes out, when, and where to: only one that is usable at that moment, and only to where it was meant for when
//! the request was made.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::support::frames::{ACK, END_HEADERS, END_STREAM, Frame, HEADERS, SETTINGS, STATUS_200, frame, take_frame};
use crate::support::stage::COLD;
use crate::support::tls::certified;
use crate::support::wire::{RawOrigin, Wire, eventually, serving, soon};
use crate::support::{Daemon, Home, free_address, words};

/// A token endpoint by hand. Its tokens are its name and a number.
struct Issuer {
    url: String,
    state: Arc<Mutex<State>>,
}

struct State {
    lifetime: u64,
    /// Requests wait until it says otherwise.
    hangs: bool,
    issued: Vec<Instant>,
}

impl Issuer {
    async fn start(name: &'static str, lifetime: u64) -> Self {
        let state = Arc::new(Mutex::new(State { lifetime, hangs: false, issued: Vec::new() }));
        let shared = state.clone();
        let address = serving(move |_, stream| {
            let state = shared.clone();
            async move {
                let mut wire = Wire::on(stream);
                if wire.head().await.is_empty() {
                    return;
                }
                while state.lock().expect("no panic").hangs {
                    sleep(Duration::from_millis(5)).await; // a condition
                }
                let (number, lifetime) = {
                    let mut state = state.lock().expect("no panic");
                    state.issued.push(Instant::now());
                    (state.issued.len(), state.lifetime)
                };
                let body = format!(
                    "{{\"access_token\":\"{name}-{number}\",\"token_type\":\"Bearer\",\"expires_in\":{lifetime}}}"
                );
                let length = body.len();
                wire.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
                         Connection: close\r\n\r\n{body}"
                ))
                .await;
            }
        })
        .await;
        Self { url: format!("http://{address}/token"), state }
    }

    fn hang(&self, hangs: bool) {
        self.state.lock().expect("no panic").hangs = hangs;
    }

    fn issued(&self) -> usize {
        self.state.lock().expect("no panic").issued.len()
    }

    /// How old a token is.
    fn age(&self, token: &str) -> Duration {
        let number: usize = token.rsplit('-').next().expect("a number").parse().expect("a number");
        self.state.lock().expect("no panic").issued[number - 1].elapsed()
    }
}

fn authorization(head: &str) -> String {
    let field = head.lines().find_map(|line| line.strip_prefix("authorization: Bearer "));
    field.unwrap_or_else(|| panic!("no token in {head:?}")).to_owned()
}

/// What an account is configured as.
#[derive(Clone, Copy)]
struct As<'a> {
    issuer: &'a str,
    client: &'a str,
    upstream: &'a str,
    base: &'a str,
    more: &'a str,
}

/// A file with a client's secret, which tells an account's server who asks.
fn secret() -> &'static Path {
    static FILE: LazyLock<tempfile::NamedTempFile> = LazyLock::new(|| {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"secret").expect("written");
        file
    });
    FILE.path()
}

fn config(address: &str, account: Option<As<'_>>) -> String {
    let Some(As { issuer, client, upstream, base, more }) = account else {
        return format!("listen = [\"{address}\"]\n");
    };
    format!(
        "listen = [\"{address}\"]\n[account.lab]\ngrant = \"client_credentials\"\ntoken_endpoint = \"{issuer}\"\n\
         client_id = \"{client}\"\nclient_auth = \"post\"\nclient_secret = {{ file = \"{}\" }}\n\
         renew = {{ minimum_spacing = \"10ms\" }}\n\
         {more}\n[route.api]\naccount = \"lab\"\nupstream = \"{upstream}{base}\"\n{COLD}\n",
        secret().display()
    )
}

fn reload(home: &Home, text: &str) {
    home.write_config(text);
    let output = home.run(&["reload"]);
    assert!(output.status.success(), "{}", words(&output));
}

/// Waits until a request is under way, of which it waits for a token.
async fn until_open(daemon: &Daemon<'_>, case: &str) {
    let is_open = || (daemon.status()["routes"][0]["open"] == 1).then_some(());
    eventually(&format!("{case}: the request is there"), is_open).await;
}

/// A request on a connection of its own, in one of the ways that wait for a token.
async fn ask(address: &str, way: &str) -> Wire {
    let mut client = Wire::connect(address).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let fields = if way == "upgrade" { upgrade } else { "" };
    let (method, body) = if way == "POST" { ("POST", "Content-Length: 3\r\n\r\nabc") } else { ("GET", "\r\n") };
    client.send(format!("{method} /api/x HTTP/1.1\r\nHost: {address}\r\n{fields}{body}")).await;
    client
}

#[tokio::test]
async fn a_request_from_before_a_reload_takes_no_token_of_after_it_anywhere() {
    let (here, there) = (RawOrigin::start().await, RawOrigin::start().await);
    let (one, other) = (Issuer::start("one", 3600).await, Issuer::start("other", 3600).await);
    let ca = tempfile::NamedTempFile::new().expect("a file");
    let pem = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate").cert.pem();
    std::fs::write(ca.path(), pem).expect("written");
    let extra_ca = format!("extra_ca = \"{}\"", ca.path().display());
    let was = As { issuer: &one.url, client: "c", upstream: &here.url, base: "", more: "" };
    let rows: [(&str, As<'_>); 8] = [
        ("everything", As { issuer: &other.url, client: "d", upstream: &there.url, ..was }),
        ("only the upstream", As { upstream: &there.url, ..was }),
        ("only its path", As { base: "/v2", ..was }),
        ("only the issuer", As { issuer: &other.url, ..was }),
        ("only the client", As { client: "d", ..was }),
        ("only the scopes", As { more: "scopes = [\"read\"]", ..was }),
        ("only the authorities", As { more: &extra_ca, ..was }),
        ("away and back", was),
    ];
    for (what, is) in rows {
        for way in ["GET", "POST", "upgrade", "after a 401"] {
            let address = free_address();
            let home = Home::with(&config(&address, Some(was)));
            one.hang(way != "after a 401");
            other.hang(false);
            let daemon = home.start();
            let mut client = ask(&address, way).await;
            if way == "after a 401" {
                let mut up = here.accept().await;
                assert!(authorization(&up.head().await).starts_with("one-"));
                one.hang(true);
                up.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno").await;
            }
            until_open(&daemon, &format!("{what}, {way}")).await;
            if what == "away and back" {
                reload(&home, &config(&address, None));
            }
            reload(&home, &config(&address, Some(is)));
            one.hang(false);
            // nothing of it gets anywhere but home, and soon
            let asked = Instant::now();
            let status = client.head().await;
            let expected = if way == "after a 401" { "HTTP/1.1 401" } else { "HTTP/1.1 503" };
            assert!(status.starts_with(expected), "{what}, {way}: {status}");
            assert!(asked.elapsed() < Duration::from_secs(8), "{what}, {way}: {:?}", asked.elapsed());
            // and what is asked now, goes where it says now
            let _client = ask(&address, "GET").await;
            let (origin, elsewhere) = if is.upstream == here.url { (&here, &there) } else { (&there, &here) };
            let head = tokio::select! {
                mut up = origin.accept() => up.head().await,
                mut up = elsewhere.accept() => panic!("{what}, {way}: {}", up.head().await),
            };
            let issuer = if is.issuer == one.url { "one-" } else { "other-" };
            assert!(authorization(&head).starts_with(issuer), "{what}, {way}: {head}");
            assert!(head.starts_with(&format!("GET {}/x ", is.base)), "{what}, {way}: {head}");
        }
    }
}

#[tokio::test]
async fn what_changes_nothing_of_an_account_leaves_its_requests_waiting() {
    let here = RawOrigin::start().await;
    let one = Issuer::start("one", 3600).await;
    let was = As { issuer: &one.url, client: "c", upstream: &here.url, base: "", more: "" };
    let address = free_address();
    let home = Home::with(&config(&address, Some(was)));
    one.hang(true);
    let daemon = home.start();
    let mut client = ask(&address, "GET").await;
    until_open(&daemon, "what changes nothing").await;
    let settings = "idle_timeout = \"30s\"\n[route.other]\naccount = \"lab\"\nupstream = \"http://127.0.0.1:9\"\n";
    reload(&home, &(config(&address, Some(was)) + settings));
    one.hang(false);
    let mut up = here.accept().await;
    assert_eq!(authorization(&up.head().await), "one-1");
    up.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert!(client.until("ok").await.starts_with("HTTP/1.1 200"));
    drop(daemon);
}

#[tokio::test]
async fn a_401_of_a_server_from_before_a_reload_says_nothing_of_the_token_of_after_it() {
    let (here, there) = (RawOrigin::start().await, RawOrigin::start().await);
    let (one, other) = (Issuer::start("one", 3600).await, Issuer::start("other", 3600).await);
    let was = As { issuer: &one.url, client: "c", upstream: &here.url, base: "", more: "" };
    let moved = As { issuer: &other.url, upstream: &there.url, ..was };
    for (what, is, issuer) in [("moved", moved, &other), ("away and back", was, &one)] {
        let address = free_address();
        let home = Home::with(&config(&address, Some(was)));
        let daemon = home.start();
        let mut client = ask(&address, "GET").await;
        let mut up = here.accept().await;
        up.head().await;
        reload(&home, &config(&address, None));
        reload(&home, &config(&address, Some(is)));
        eventually(what, || (daemon.account("lab")["state"] == "usable").then_some(())).await;
        let before = issuer.issued();
        up.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno").await;
        assert!(client.head().await.starts_with("HTTP/1.1 401"), "{what}");
        sleep(Duration::from_millis(300)).await; // nothing is to happen: a renewal would have been asked for
        assert_eq!(issuer.issued(), before, "{what}: nobody renews for that");
        assert_eq!(daemon.account("lab")["usable"], true, "{what}");
    }
}

/// Longer than the tokens of the stories below live, which are handed out for three seconds of four: one from before a wait
/// of this time is older, and one that was good when it left is not, however busy the machine.
const AGE: Duration = Duration::from_secs(5);

/// An origin whose TLS handshakes take until a token of before has expired. It tells the tokens that it is sent.
async fn slow_origin(folder: &Path, protocol: &'static [u8]) -> (String, mpsc::UnboundedReceiver<String>) {
    let acceptor = certified(folder, &[protocol]);
    let (tell, told) = mpsc::unbounded_channel();
    let address = serving(move |_, tcp| {
        let (acceptor, tell) = (acceptor.clone(), tell.clone());
        async move {
            sleep(AGE).await; // what is told
            let Ok(mut tls) = acceptor.accept(tcp).await else { return };
            if protocol == b"h2" {
                return tell_tokens(tls, &tell).await;
            }
            let mut head = Vec::new();
            while !head.windows(4).any(|part| part == b"\r\n\r\n") {
                if tls.read_buf(&mut head).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let _ = tell.send(authorization(&String::from_utf8_lossy(&head)));
            let _ = tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
        }
    });
    (format!("https://{}", address.await), told)
}

/// Answers every request of an HTTP/2 connection, and tells its token.
async fn tell_tokens(io: impl AsyncRead + AsyncWrite + Unpin, tell: &mpsc::UnboundedSender<String>) {
    let Ok(mut connection) = h2::server::handshake(io).await else { return };
    while let Some(Ok((request, mut answer))) = connection.accept().await {
        let token = request.headers()["authorization"].to_str().expect("text").to_owned();
        let _ = tell.send(token.trim_start_matches("Bearer ").to_owned());
        let _ = answer.send_response(hyper::Response::new(()), true);
    }
}

#[tokio::test]
async fn no_request_leaves_with_a_token_that_expired_while_it_waited_for_a_connection() {
    let one = Issuer::start("one", 4).await;
    for protocol in [&b"http/1.1"[..], b"h2"] {
        let folder = tempfile::tempdir().expect("a folder");
        let (url, mut told) = slow_origin(folder.path(), protocol).await;
        let is = As { issuer: &one.url, client: "c", upstream: &url, base: "", more: "" };
        let address = free_address();
        let authorities = format!("extra_ca = \"{}\"\n", folder.path().join("ca.pem").display());
        let home = Home::with(&(config(&address, Some(is)) + &authorities));
        let daemon = home.start();
        let ways: &[&str] = if protocol == b"h2" { &["h2"] } else { &["GET", "POST", "upgrade"] };
        let mut clients = Vec::new();
        for way in ways {
            match *way {
                "h2" => {
                    let tcp = TcpStream::connect(&address).await.expect("the daemon listens");
                    let (mut sender, connection) = h2::client::handshake(tcp).await.expect("a handshake");
                    tokio::spawn(async move { drop(connection.await) });
                    let request = hyper::Request::get(format!("http://{address}/api/x")).body(()).expect("a head");
                    let (answer, _) = sender.send_request(request, true).expect("sent");
                    clients.push(tokio::spawn(async move {
                        let _sender = sender;
                        assert_eq!(answer.await.expect("an answer").status(), 200);
                    }));
                }
                way => {
                    let mut client = ask(&address, way).await;
                    clients.push(tokio::spawn(async move {
                        let head = client.head().await;
                        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
                    }));
                }
            }
        }
        for client in clients {
            let token = soon(told.recv()).await.expect("a request");
            assert!(one.age(&token) < AGE, "{ways:?}: {token} after {:?}", one.age(&token));
            soon(client).await.expect("an answer");
        }
        drop(daemon);
    }
}

/// What an origin has seen on its first connection.
#[derive(Default)]
struct Seen {
    requests: AtomicUsize,
    /// So often what it allows was taken note of.
    acknowledged: AtomicUsize,
}

/// An origin that answers one request on its first connection, and with the answer allows no more there until a token of
/// before has expired. It tells what it has seen there, and the tokens that it is sent elsewhere.
async fn closing_origin() -> (String, Arc<Seen>, mpsc::UnboundedReceiver<String>) {
    let (tell, told) = mpsc::unbounded_channel();
    let seen = Arc::new(Seen::default());
    let notes = seen.clone();
    let address = serving(move |number, stream| {
        let (notes, tell) = (notes.clone(), tell.clone());
        async move {
            match number {
                0 => close_streams(stream, &notes).await,
                _ => tell_tokens(stream, &tell).await,
            }
        }
    });
    (format!("http://{}", address.await), seen, told)
}

async fn close_streams(stream: TcpStream, seen: &Seen) {
    let settings = |most: u8| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, most]);
    let (mut from, to) = stream.into_split();
    let to = Arc::new(tokio::sync::Mutex::new(to));
    from.read_exact(&mut [0; 24]).await.expect("a preface");
    to.lock().await.write_all(&settings(100)).await.expect("sent");
    let mut buffer = Vec::new();
    loop {
        let Some(Frame { kind, flags, stream, .. }) = take_frame(&mut buffer) else {
            match from.read_buf(&mut buffer).await {
                Ok(1..) => continue,
                Ok(0) | Err(_) => return,
            }
        };
        if kind == SETTINGS && flags == ACK {
            seen.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        if kind != HEADERS {
            continue;
        }
        let is_first = seen.requests.fetch_add(1, Ordering::Relaxed) == 0;
        let answer = frame(HEADERS, END_STREAM | END_HEADERS, stream, STATUS_200);
        let bytes = [answer, settings(if is_first { 0 } else { 100 })].concat();
        to.lock().await.write_all(&bytes).await.expect("sent");
        if is_first {
            let (to, again) = (to.clone(), settings(100));
            tokio::spawn(async move {
                sleep(AGE).await; // what is told
                let _ = to.lock().await.write_all(&again).await; // it may be closed already
            });
        }
    }
}

#[tokio::test]
async fn no_request_leaves_with_a_token_that_expired_while_the_upstream_allowed_no_stream() {
    let one = Issuer::start("one", 4).await;
    let (url, seen, mut told) = closing_origin().await;
    let is = As { issuer: &one.url, client: "c", upstream: &url, base: "", more: "" };
    let address = free_address();
    let home = Home::with(&(config(&address, Some(is)) + "http2 = true\n"));
    let daemon = home.start();
    let tcp = TcpStream::connect(&address).await.expect("the daemon listens");
    let (mut sender, connection) = h2::client::handshake(tcp).await.expect("a handshake");
    tokio::spawn(async move { drop(connection.await) });
    for number in 0..3 {
        let request = hyper::Request::get(format!("http://{address}/api/{number}")).body(()).expect("a head");
        let (answer, _) = sender.send_request(request, true).expect("sent");
        assert_eq!(soon(answer).await.expect("an answer").status(), 200, "{number}");
        assert_eq!(seen.requests.load(Ordering::Relaxed), 1, "what waits for a stream waits with its token");
        if number > 0 {
            let token = soon(told.recv()).await.expect("a request");
            assert!(one.age(&token) < AGE, "{number}: {token} after {:?}", one.age(&token));
        }
        let is_known = || (seen.acknowledged.load(Ordering::Relaxed) >= 2).then_some(());
        eventually("it is known that no more is allowed", is_known).await;
    }
    drop(daemon);
}

#[tokio::test]
async fn no_second_sending_leaves_with_a_token_that_expired_during_the_first() {
    let one = Issuer::start("one", 4).await;
    let origin = RawOrigin::start().await;
    let is = As { issuer: &one.url, client: "c", upstream: &origin.url, base: "", more: "" };
    let address = free_address();
    let home = Home::with(&config(&address, Some(is)));
    let daemon = home.start();
    let mut client = ask(&address, "GET").await;
    let mut up = origin.accept().await;
    up.head().await;
    up.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert!(client.until("ok").await.starts_with("HTTP/1.1 200"));
    client.send(format!("GET /api/x HTTP/1.1\r\nHost: {address}\r\n\r\n")).await;
    let first = authorization(&up.head().await);
    sleep(AGE).await; // what is told
    drop(up); // as if it had been idle for too long
    let mut up = origin.accept().await;
    let second = authorization(&up.head().await);
    assert!(one.age(&second) < AGE, "{first}, then {second} after {:?}", one.age(&second));
    up.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert!(client.until("ok").await.starts_with("HTTP/1.1 200"));
    drop(daemon);
}
