//! Stories over real sockets: a raw client, the proxy's threads, and a raw origin. Here is the stage; each file beside it
//! has the stories of one subject.

mod connections;
mod requests;
mod tokens;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Access, PeerLookups, Proxy, ProxyListener, Table};
use crate::client_keys::{KeyRing, Limits, NewKey, Rights};
use crate::config::{self, AccountId, Config, KeyName, Replay, RouteName};
use crate::platform::clock::Clock;
use crate::platform::socket;
use crate::renewal::{RenewalId, Why};
use crate::stats::Stats;
use crate::timestamp::Timestamp;
use crate::token_source::{Availability, Demand, Published, SourceDemand, TokenSource};

/// Longer than anything here takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is said of the first token when the upstream did not like it.
fn is_rejection(order: &Demand) -> bool {
    matches!(order, Demand::Rejected { id: RenewalId(1), worked: None, .. })
}

/// What is said of a request that was sent again with the second token.
fn replayed(order: &Demand) -> Option<bool> {
    match order {
        Demand::Replayed { refused: RenewalId(1), accepted, .. } => Some(*accepted),
        _ => None,
    }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn unauthorized(challenge: &str) -> String {
    format!("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 2\r\n\r\nno")
}

fn config(upstream: SocketAddr) -> Config {
    let patience = format!("{} s", PATIENCE.as_secs());
    config::testing::config(&format!(
        "listen = []\nworkers = 1\nsandbox = false\ndrain = \"{patience}\"\n\
         [account.lab]\nprovider = \"any\"\nupstream = \"http://{upstream}\"\n\
         [route.lab]\nwait = \"{patience}\"\nconnect_timeout = \"{patience}\"\nidle_timeout = \"{patience}\"\n\
         warm = \"0 s\"\n"
    ))
}

/// A proxy in front of one origin, with a token.
struct Running {
    proxy: Proxy,
    address: SocketAddr,
    /// Where the route is served without prefix.
    own_address: SocketAddr,
    config: Config,
    source: Arc<TokenSource>,
    orders: mpsc::UnboundedReceiver<SourceDemand>,
    stats: Arc<Stats>,
}

impl Running {
    async fn start(origin: &Upright, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_at(origin.address, change).await
    }

    async fn start_at(upstream: SocketAddr, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_on(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), upstream, change).await
    }

    async fn start_on(listener: std::net::TcpListener, upstream: SocketAddr, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(upstream);
        change(&mut config);
        Self::begin(listener, config, None)
    }

    async fn with_peers(upstream: SocketAddr, peers: PeerLookups) -> Self {
        Self::begin(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), config(upstream), Some(peers))
    }

    fn begin(listener: std::net::TcpListener, config: Config, peers: Option<PeerLookups>) -> Self {
        let stats = Arc::new(Stats::default());
        let (sender, orders) = mpsc::unbounded_channel();
        let source = TokenSource::new(AccountId::new("lab").unwrap(), Arc::new(Clock::start()), sender);
        let table = Table::build(&config, &|_| source.clone(), &stats).unwrap();
        let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, own_address) = (listener.local_addr().unwrap(), own.local_addr().unwrap());
        let listeners = vec![
            ProxyListener { socket: socket::Listener::Tcp(listener), route: None },
            ProxyListener { socket: socket::Listener::Tcp(own), route: Some(config.routes[0].name.clone()) },
        ];
        let proxy = Proxy::start(listeners, table, stats.clone(), peers).unwrap();
        let running = Self { proxy, address, own_address, config, source, orders, stats };
        running.publish(1);
        running
    }

    fn publish(&self, id: u64) {
        let mut value = HeaderValue::from_str(&format!("Bearer token-{id}")).unwrap();
        value.set_sensitive(true);
        let name = HeaderName::from_static("authorization");
        let token = Published::new(RenewalId(id), (name, value), Timestamp::FAR, Timestamp::FAR);
        self.source.publish(Availability::Usable { token: Arc::new(token), wished_for: None });
    }

    /// What the proxy asks of the renewer next.
    async fn order(&mut self) -> Demand {
        timeout(PATIENCE, self.orders.recv()).await.unwrap().unwrap().1
    }

    /// Answers, as the renewer would, a request that has asked for a token that nobody can bring.
    fn answer_wanted(&self) {
        let source = self.source.clone();
        tokio::spawn(async move {
            loop {
                source.publish(Availability::SignInRequired { why: Why::NotSignedIn });
                tokio::task::yield_now().await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }

    fn replace(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        let table = Table::build(&self.config, &|_| self.source.clone(), &self.stats).unwrap();
        self.proxy.replace(table);
    }

    async fn connect(&self) -> Wire<TcpStream> {
        self.connect_to(self.address).await
    }

    async fn connect_to(&self, address: SocketAddr) -> Wire<TcpStream> {
        Wire::new(TcpStream::connect(address).await.unwrap(), address)
    }

    async fn stop(self) {
        timeout(PATIENCE, self.proxy.stop(Duration::from_millis(200))).await.unwrap();
    }

    async fn stop_now(self) {
        timeout(PATIENCE, self.proxy.stop(Duration::ZERO)).await.unwrap();
    }
}

/// An origin that reads requests whole and answers each.
struct Upright {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A request as an origin saw it.
#[derive(Clone, Debug)]
struct Seen {
    connection: usize,
    line: String,
    head: String,
    body: Vec<u8>,
}

impl Seen {
    fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap()
    }

    fn all(&self, name: &str) -> Vec<String> {
        fields(&self.head, name)
    }
}

impl Upright {
    async fn answering(script: impl Fn(&Seen) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, script) = (seen.clone(), Arc::new(script));
        tokio::spawn(async move {
            for connection in 0.. {
                let mut wire = Wire::new(listener.accept().await.unwrap().0, address);
                let (log, script) = (log.clone(), script.clone());
                tokio::spawn(async move {
                    loop {
                        let head = wire.raw_head().await;
                        if head.is_empty() {
                            return;
                        }
                        let line = head.lines().next().unwrap().to_owned();
                        // an early verdict, before the body: what many servers do
                        let mut request = Seen { connection, line, head, body: Vec::new() };
                        let early = request.all("transfer-encoding").len() == 1
                            && request.all("authorization") == ["Bearer token-1"];
                        if early && script(&request).starts_with("HTTP/1.1 401") {
                            log.lock().unwrap().push(request.clone());
                            wire.send(&script(&request)).await;
                            return;
                        }
                        request.body = wire.body(&request.head).await;
                        log.lock().unwrap().push(request.clone());
                        wire.send(&script(&request)).await;
                    }
                });
            }
        });
        Self { address, seen }
    }

    /// An origin that says the same to everybody, once it has read a head, and hangs up.
    async fn closing(answer: &str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = answer.to_owned();
        tokio::spawn(async move {
            loop {
                let mut wire = Wire::accept(&listener).await;
                wire.raw_head().await;
                wire.send(&answer).await;
            }
        });
        address
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn fields(head: &str, name: &str) -> Vec<String> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).collect()
}

/// One end of a connection, read and written by hand. `HERE` and `PORT` stand for the other end's address.
struct Wire<S> {
    stream: S,
    address: SocketAddr,
    buffer: Vec<u8>,
}

/// A response, read by its own framing.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn field(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }
}

impl Wire<TcpStream> {
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, address) = timeout(PATIENCE, listener.accept()).await.expect("somebody connects").unwrap();
        Self::new(stream, address)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    fn new(stream: S, address: SocketAddr) -> Self {
        Self { stream, address, buffer: Vec::new() }
    }

    async fn send(&mut self, text: &str) {
        let port = self.address.port().to_string();
        let text = text.replace("HERE", &self.address.to_string()).replace("PORT", &port);
        // the other end may have hung up, which the response will show
        let _ = timeout(PATIENCE, self.stream.write_all(text.as_bytes())).await.expect("somebody reads");
    }

    /// Reads on; false at the end.
    async fn more(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await.expect("somebody writes");
        read.unwrap_or(0) > 0
    }

    /// A head, or what there was of it.
    async fn raw_head(&mut self) -> String {
        loop {
            let end = self.buffer.windows(4).position(|part| part == b"\r\n\r\n");
            if end.is_some() || !self.more().await {
                let end = end.map_or(self.buffer.len(), |end| end + 4);
                return String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
            }
        }
    }

    async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count && self.more().await {}
        let count = count.min(self.buffer.len());
        self.buffer.drain(..count).collect()
    }

    async fn expect(&mut self, text: &str) {
        assert_eq!(String::from_utf8_lossy(&self.bytes(text.len()).await), text);
    }

    async fn body(&mut self, head: &str) -> Vec<u8> {
        if !fields(head, "transfer-encoding").is_empty() {
            let mut body = Vec::new();
            loop {
                while !self.buffer.windows(2).any(|part| part == b"\r\n") {
                    if !self.more().await {
                        return body;
                    }
                }
                let end = self.buffer.windows(2).position(|part| part == b"\r\n").unwrap();
                let size: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let size = usize::from_str_radix(std::str::from_utf8(&size[..end]).unwrap(), 16).unwrap();
                let mut chunk = self.bytes(size + 2).await;
                if size == 0 {
                    return body;
                }
                chunk.truncate(size);
                body.extend(chunk);
            }
        }
        let length = fields(head, "content-length").first().map_or(0, |length| length.parse().unwrap());
        self.bytes(length).await
    }

    async fn head(&mut self) -> Answer {
        let head = self.raw_head().await;
        let status = head.get(9..12).and_then(|status| status.parse().ok());
        Answer { status: status.unwrap_or_else(|| panic!("no head: {head:?}")), head, body: Vec::new() }
    }

    async fn answer(&mut self) -> Answer {
        self.answer_to("GET").await
    }

    async fn answer_to(&mut self, method: &str) -> Answer {
        let mut answer = self.head().await;
        if method != "HEAD" && !matches!(answer.status, 204 | 304) {
            answer.body = self.body(&answer.head).await;
        }
        answer
    }

    async fn until_closed(&mut self) -> String {
        while self.more().await {}
        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned()
    }
}
