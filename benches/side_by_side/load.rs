//! The load: connections that each send a request, wait for the whole answer and send the next (a closed loop). Requests are
//! bytes made beforehand and answers are scanned for no more than their length, so that the generator costs less than what
//! it measures. (Over HTTP/2 a library has both ends; what it costs more, shared connections save.)

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::http2::{self, Call};
use crate::origin::{BULK, EVENT_END};

/// Lets caches, pools and the branch predictor settle before anything counts.
const WARM_UP: Duration = Duration::from_millis(100);

/// Enough for every head here; bodies are read through it in pieces.
const SMALL_BUFFER: usize = 4096;

/// For large bodies, so that reading them is mostly the kernel's work.
const LARGE_BUFFER: usize = 256 * 1024;

/// Answers the key in [`WEBSOCKET`], both from RFC 6455 section 1.3.
pub(crate) const SWITCHING_PROTOCOLS: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

const WEBSOCKET: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A masked text frame of 64 bytes. The origin sends it back as it came: no proxy here looks into frames.
const FRAME: [u8; 70] = {
    let mut frame = [0x2a; 70];
    frame[0] = 0x81;
    frame[1] = 0x80 | 64;
    frame
};

/// Where requests go.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: Address,
    /// For direct calls over TLS, and those in a tunnel; every other proxy is spoken to in plain text.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// The host and port to ask a forward proxy for a tunnel to, in which TLS is spoken.
    pub(crate) tunnel: Option<String>,
    /// Stands before every path.
    pub(crate) prefix: String,
    /// Where nobody adds it on the way.
    pub(crate) access_token: Option<String>,
}

#[derive(Clone)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Target {
    /// Bytes of a GET; `fields` are whole lines.
    pub(crate) fn get(&self, path: &str, fields: &str) -> Vec<u8> {
        self.request("GET", path, fields)
    }

    fn request(&self, method: &str, path: &str, fields: &str) -> Vec<u8> {
        let (prefix, host) = (&self.prefix, self.host());
        let authorization = match &self.access_token {
            Some(token) => format!("Authorization: Bearer {token}\r\n"),
            None => String::new(),
        };
        format!("{method} {prefix}{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: side-by-side\r\nAccept: */*\r\n{authorization}{fields}\r\n")
            .into_bytes()
    }

    /// For whoever makes the request from that.
    pub(crate) fn url(&self, path: &str) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{}{path}", self.host(), self.prefix)
    }

    fn host(&self) -> String {
        if let Some(authority) = &self.tunnel {
            return authority.clone();
        }
        match &self.address {
            Address::Tcp(address) if self.tls.is_some() => format!("localhost:{}", address.port()),
            Address::Tcp(address) => address.to_string(),
            Address::Unix(_) => "valetd".into(),
        }
    }
}

/// One client connection.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// RFC 9110 section 9.3.6.
async fn open_tunnel(stream: &mut TcpStream, authority: &str) -> io::Result<()> {
    stream.write_all(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes()).await?;
    let mut head = Vec::new();
    // a byte at a time: what follows is the tunnel's
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    match head.starts_with(b"HTTP/1.1 200") {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&head).into_owned())),
    }
}

impl Connection {
    pub(crate) async fn open(target: &Target) -> io::Result<Self> {
        let stream: Box<dyn Stream> = match (&target.address, &target.tls) {
            (Address::Unix(path), _) => Box::new(UnixStream::connect(path).await?),
            (Address::Tcp(address), tls) => {
                let mut stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                if let Some(authority) = &target.tunnel {
                    open_tunnel(&mut stream, authority).await?;
                }
                match tls {
                    None => Box::new(stream),
                    Some(config) => {
                        let name = "localhost".try_into().expect("localhost is a name");
                        Box::new(TlsConnector::from(config.clone()).connect(name, stream).await?)
                    }
                }
            }
        };
        Ok(Self { stream, buffer: vec![0; SMALL_BUFFER] })
    }

    /// Sends a request and reads the whole answer; its status.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        self.answer().await.map(|(status, _)| status)
    }

    /// Sends a request and reads an answer that fits into the buffer; its status and body.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> io::Result<(u16, String)> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        let (status, body) = self.answer().await?;
        Ok((status, String::from_utf8_lossy(&self.buffer[body]).into_owned()))
    }

    /// Fetches `/down`, or sends `/up`, once.
    pub(crate) async fn transfer(&mut self, target: &Target, direction: Direction) -> io::Result<u16> {
        self.buffer.resize(LARGE_BUFFER, 0);
        match direction {
            Direction::Down => self.exchange(&target.get("/down", "")).await,
            Direction::Up => {
                let head = target.request(
                    "PUT",
                    "/up",
                    &format!("Content-Type: application/octet-stream\r\nContent-Length: {BULK}\r\n"),
                );
                self.stream.write_all(&head).await?;
                for _ in 0..BULK / LARGE_BUFFER as u64 {
                    self.stream.write_all(&self.buffer).await?;
                }
                self.stream.flush().await?;
                self.answer().await.map(|(status, _)| status)
            }
        }
    }

    async fn answer(&mut self) -> io::Result<(u16, std::ops::Range<usize>)> {
        let mut filled = 0;
        let head = loop {
            filled += self.read_after(filled).await?;
            if let Some(end) = head_end(&self.buffer[..filled]) {
                break end;
            }
        };
        let status = self.buffer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        let status = status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no status line"))?;
        if status == 101 || status == 204 {
            return Ok((status, head..head));
        }
        if let Some(length) = content_length(&self.buffer[..head]) {
            let mut left = length.saturating_sub((filled - head) as u64);
            while left > 0 {
                let from = if filled < self.buffer.len() { filled } else { 0 };
                let read = self.read_after(from).await?;
                filled = from + read;
                left = left.saturating_sub(read as u64);
            }
            return Ok((status, head.min(filled)..filled));
        }
        // chunked: the answers that come so are small, and none of them ends a chunk with these bytes before the last
        while !self.buffer[..filled].ends_with(b"0\r\n\r\n") {
            filled += self.read_after(filled).await?;
        }
        Ok((status, head..filled))
    }

    async fn read_after(&mut self, filled: usize) -> io::Result<usize> {
        match self.stream.read(&mut self.buffer[filled..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }

    async fn echo(&mut self) -> io::Result<()> {
        self.stream.write_all(&FRAME).await?;
        let mut received = 0;
        while received < FRAME.len() {
            received += self.read_after(received).await?;
        }
        if self.buffer[..received] == FRAME { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Down,
    Up,
}

/// What each connection of a [`Load`] does again and again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A request on the connection that is there.
    Request,
    /// Connect, one request, disconnect.
    Reconnect,
    /// A WebSocket frame there and back.
    Echo,
}

/// Connections at work, from [`Load::start`] to [`Load::finish`].
pub(crate) struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<Vec<u32>>,
    begun: Instant,
}

/// What came of a [`Load`], between `begin` and `finish`.
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) elapsed: Duration,
    /// In nanoseconds, sorted.
    pub(crate) latencies: Vec<u32>,
}

#[derive(Default)]
struct Shared {
    /// 0 while it warms up, then [`COUNTING`], then [`OVER`].
    phase: AtomicU8,
    ready: AtomicU64,
    errors: AtomicU64,
}

const COUNTING: u8 = 1;
const OVER: u8 = 2;

impl Load {
    /// Opens the connections, lets each finish a step, and warms up.
    pub(crate) async fn start(target: &Target, path: &str, step: Step, connections: usize) -> anyhow::Result<Self> {
        let request: Arc<[u8]> = match step {
            Step::Request | Step::Reconnect => target.get(path, "").into(),
            Step::Echo => target.get(path, WEBSOCKET).into(),
        };
        let mut workers = Vec::new();
        for _ in 0..connections {
            let connection = Some(Connection::open(target).await.context("connecting")?);
            let (target, request) = (target.clone(), request.clone());
            workers.push(Worker::Alone { target, request, step, connection, switched: false });
        }
        Self::warm_up(workers, path).await
    }

    /// The same over HTTP/2, with so many streams at a time on each connection.
    pub(crate) async fn start_streams(
        target: &Target,
        call: Call,
        connections: usize,
        streams: usize,
    ) -> anyhow::Result<Self> {
        let (call, mut workers) = (Arc::new(call), Vec::new());
        for _ in 0..connections {
            let connection = http2::Connection::open(target).await.context("connecting")?;
            for _ in 0..streams {
                let (target, call, connection) = (target.clone(), call.clone(), Some(connection.clone()));
                workers.push(Worker::Stream { target, call, connection });
            }
        }
        Self::warm_up(workers, call.path()).await
    }

    async fn warm_up(workers: Vec<Worker>, path: &str) -> anyhow::Result<Self> {
        let (shared, count) = (Arc::new(Shared::default()), workers.len() as u64);
        let tasks: JoinSet<_> = workers.into_iter().map(|worker| work(worker, shared.clone())).collect();
        while shared.ready.load(Relaxed) < count {
            ensure!(shared.errors.load(Relaxed) == 0, "the first {path} failed");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(WARM_UP).await;
        Ok(Self { shared, tasks, begun: Instant::now() })
    }

    /// Counts from now on.
    pub(crate) fn begin(&mut self) {
        self.shared.phase.store(COUNTING, Relaxed);
        self.begun = Instant::now();
    }

    /// Counts no more, and waits for the steps that are under way.
    pub(crate) async fn finish(mut self) -> Outcome {
        self.shared.phase.store(OVER, Relaxed);
        let elapsed = self.begun.elapsed();
        let errors = self.shared.errors.load(Relaxed);
        let mut latencies = Vec::new();
        while let Some(of_one) = self.tasks.join_next().await {
            latencies.extend(of_one.unwrap_or_default());
        }
        latencies.sort_unstable();
        Outcome { requests: latencies.len() as u64, errors, elapsed, latencies }
    }
}

/// What one task of a [`Load`] does, again and again. After a step that failed it connects anew.
enum Worker {
    /// On a connection of its own, over HTTP/1.1.
    Alone {
        target: Target,
        request: Arc<[u8]>,
        step: Step,
        connection: Option<Connection>,
        /// Whether this connection speaks WebSocket by now.
        switched: bool,
    },
    /// On a connection that it shares. What it opens after a failure it does not share, but then the figure is none anyway.
    Stream { target: Target, call: Arc<Call>, connection: Option<http2::Connection> },
}

impl Worker {
    async fn step(&mut self) -> anyhow::Result<()> {
        // taken out in both arms, so that a step that fails leaves no connection behind
        match self {
            Worker::Alone { target, request, step, connection, switched } => {
                let mut open = match connection.take() {
                    Some(open) => open,
                    None => {
                        *switched = false;
                        Connection::open(target).await?
                    }
                };
                if *switched {
                    open.echo().await?;
                } else {
                    let expected = if *step == Step::Echo { 101 } else { 200 };
                    let status = open.exchange(request).await?;
                    ensure!(status == expected, "status {status}");
                    *switched = *step == Step::Echo;
                }
                *connection = Some(open);
            }
            Worker::Stream { target, call, connection } => {
                let mut open = match connection.take() {
                    Some(open) => open,
                    None => http2::Connection::open(target).await?,
                };
                open.exchange(call).await?;
                *connection = Some(open);
            }
        }
        Ok(())
    }

    fn end_step(&mut self) {
        if let Worker::Alone { step: Step::Reconnect, connection, .. } = self {
            *connection = None;
        }
    }
}

/// The latencies of the steps that ended while it counted.
async fn work(mut worker: Worker, shared: Arc<Shared>) -> Vec<u32> {
    let mut latencies = Vec::new();
    let mut ready = false;
    loop {
        let from = Instant::now();
        let done = worker.step().await;
        let phase = shared.phase.load(Relaxed);
        match done {
            Ok(()) if phase == COUNTING => {
                latencies.push(from.elapsed().as_nanos().try_into().unwrap_or(u32::MAX));
            }
            Ok(()) if !ready => {
                ready = true;
                shared.ready.fetch_add(1, Relaxed);
            }
            Ok(()) => {}
            Err(_) => {
                shared.errors.fetch_add(1, Relaxed);
                // a peer that refuses everything must not turn this into a busy loop
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        if phase == OVER {
            return latencies;
        }
        // not part of the step, whose time is over with the answer
        worker.end_step();
    }
}

/// Opens connections that each carry one request and then stay, idle, until they are dropped.
pub(crate) async fn hold(target: &Target, path: &str, connections: usize) -> anyhow::Result<Vec<Connection>> {
    /// As many at once as a listener's backlog takes in every peer's default settings.
    const TOGETHER: usize = 50;
    let request: Arc<[u8]> = target.get(path, "").into();
    let mut held = Vec::with_capacity(connections);
    while held.len() < connections {
        let mut opening = JoinSet::new();
        for _ in 0..TOGETHER.min(connections - held.len()) {
            let (target, request) = (target.clone(), request.clone());
            opening.spawn(async move {
                let mut connection = Connection::open(&target).await?;
                match connection.exchange(&request).await? {
                    200 => Ok(connection),
                    status => Err(io::Error::other(format!("status {status}"))),
                }
            });
        }
        while let Some(opened) = opening.join_next().await {
            held.push(opened?.with_context(|| format!("after {} connections", held.len()))?);
        }
    }
    Ok(held)
}

/// Open event streams; dropped, they end.
pub(crate) struct EventStreams {
    received: Arc<AtomicU64>,
    readers: JoinSet<()>,
}

impl EventStreams {
    /// Opens the streams and waits until each could have delivered an event.
    pub(crate) async fn open(target: &Target, path: &str, streams: usize) -> anyhow::Result<Self> {
        let received = Arc::new(AtomicU64::new(0));
        let mut readers = JoinSet::new();
        let request: Arc<[u8]> = target.get(path, "Accept-Encoding: identity\r\n").into();
        for _ in 0..streams {
            let mut connection = Connection::open(target).await?;
            let (received, request) = (received.clone(), request.clone());
            readers.spawn(async move {
                if connection.stream.write_all(&request).await.is_err() {
                    return;
                }
                while let Ok(read @ 1..) = connection.stream.read(&mut connection.buffer).await {
                    let events = connection.buffer[..read].iter().filter(|&&byte| byte == EVENT_END).count();
                    received.fetch_add(events as u64, Relaxed);
                }
            });
        }
        let patience = Instant::now() + Duration::from_secs(10);
        while received.load(Relaxed) < streams as u64 {
            ensure!(Instant::now() < patience, "{} events from {streams} streams", received.load(Relaxed));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(Self { received, readers })
    }

    /// Events since the streams were opened, all together.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// How many streams have not been cut off.
    pub(crate) fn alive(&mut self) -> usize {
        while self.readers.try_join_next().is_some() {}
        self.readers.len()
    }
}

/// The first byte behind the empty line, if it has come.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    if bytes.ends_with(b"\r\n\r\n") && bytes.starts_with(b"GET ") {
        return Some(bytes.len());
    }
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// The values of a field in a head, by its name in lower case.
pub(crate) fn field<'a>(head: &'a [u8], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    head.split(|&byte| byte == b'\n').filter_map(move |line| {
        let (found, value) = line.split_at_checked(name.len())?;
        (found.eq_ignore_ascii_case(name.as_bytes()) && value.first() == Some(&b':')).then(|| value[1..].trim_ascii())
    })
}

pub(crate) fn content_length(head: &[u8]) -> Option<u64> {
    std::str::from_utf8(field(head, "content-length").next()?).ok()?.parse().ok()
}
