//! What is measured: each [`Workload`] drives one peer for a while and comes back with [`Figure`]s, the telling one first.

use std::fs;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::exec::{self, Exec};
use crate::http2::Call;
use crate::load::{Connection, Direction, EventStreams, Load, Outcome, Step, hold};
use crate::measure::{Usage, median, memory, percentile, usage};
use crate::origin::{BULK, EVENT_SPACING, Origin, ROUND_TRIP};
use crate::peers::{Kind, Peer, Program, Via};
use crate::python;

/// Connections of the workloads that do not vary them: enough to keep one worker busy.
const USUAL: usize = 50;

/// Clients that connect anew for each request; few, as each of them is a shell loop around curl.
const RECONNECTING: usize = 8;

/// Over HTTP/2 one connection carries many requests at a time: so many connections carry [`USUAL`].
const SHARED: usize = 5;

const STREAMS: usize = 1000;
const HELD: (usize, &str) = (1000, "at 1,000");
const HELD_AT_MOST: (usize, &str) = (10_000, "at 10,000");

/// Proxies keep a descriptor in reserve for the upstream side of every connection, so that where the hard limit is 20,000, as
/// it often is, they accept a few less than 10,000.
const FILES_FOR_ALL: u64 = 21_100;
const HELD_WITH_FEWER_FILES: (usize, &str) = (9500, "at 9,500");

/// `expires_in` under rotation: a third of a lifetime before its end is when a token is renewed, so every 2 s.
const ROTATING_LIFETIME: u64 = 3;
const STEADY_LIFETIME: u64 = 3600;

/// Requests of the two runs whose difference is counted: start and end are in both, and so is the filling of pools and caches.
/// Many, as no two starts are alike.
const FEW: u32 = 200;
const MANY: u32 = 8200;

/// Until start-up work and the first requests' echoes (timers, garbage collections) are over.
const SETTLING: Duration = Duration::from_secs(4);

/// Until idle connections cost what they will cost: valetd frees their buffers after two seconds, and its allocator gives the
/// pages back some seconds later.
const COMING_TO_REST: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    /// Small GETs on connections that stay.
    Small { via: Via, connections: usize },
    /// A new connection for each small GET.
    Fresh,
    /// Small GETs through a valetd with so many workers.
    Scaling { workers: usize },
    /// Small GETs over HTTP/2.
    H2c,
    /// gRPC's unary calls.
    Grpc,
    /// 64 MiB on one connection, again and again.
    Bulk { direction: Direction, via: Via },
    /// Server-sent events on 1,000 streams at once.
    Events,
    /// WebSocket frames there and back.
    WebSocket,
    /// One-shot clients of an API that is far away.
    Distant,
    /// The same from Python, which makes a new session for each call.
    PythonSession,
    /// What tools do that keep no token: each time they start they log in, and then make their call. With valetd there is
    /// only the call. The others have a fixed token and no login to spare anyone.
    LoginEachStart,
    /// From the start of the process to the first proxied byte.
    Start,
    /// Memory: fresh, and while it holds idle connections.
    Memory,
    /// Doing nothing; all peers at the same time.
    Idle,
    /// The origin turns against every token that there is: valetd renews and replays.
    Replay,
    /// Tokens that live 3 s, under load.
    Rotation,
    /// Status queries while proxying.
    Status,
    /// Small GETs of a command of `valetd exec --intercept`, at the API's own host: what its process costs, not the daemon.
    Exec { connections: usize },
    /// The program's file.
    Size,
    /// What a small GET costs in instructions: a figure that a busy machine does not spoil.
    Instructions { via: Via },
}

const fn small(via: Via, connections: usize) -> Workload {
    Workload::Small { via, connections }
}

const fn bulk(direction: Direction, via: Via) -> Workload {
    Workload::Bulk { direction, via }
}

impl Workload {
    pub(crate) const ALL: [Workload; 31] = [
        small(Via::Plain, 1),
        small(Via::Plain, 50),
        small(Via::Plain, 500),
        small(Via::Tls, 1),
        small(Via::Tls, 50),
        small(Via::Tls, 500),
        Workload::Fresh,
        Workload::Scaling { workers: 1 },
        Workload::Scaling { workers: 2 },
        Workload::H2c,
        Workload::Grpc,
        bulk(Direction::Down, Via::Plain),
        bulk(Direction::Down, Via::Tls),
        bulk(Direction::Up, Via::Plain),
        bulk(Direction::Up, Via::Tls),
        Workload::Events,
        Workload::WebSocket,
        Workload::Distant,
        Workload::PythonSession,
        Workload::LoginEachStart,
        Workload::Start,
        Workload::Memory,
        Workload::Idle,
        Workload::Replay,
        Workload::Rotation,
        Workload::Status,
        Workload::Exec { connections: 1 },
        Workload::Exec { connections: 50 },
        Workload::Size,
        Workload::Instructions { via: Via::Plain },
        Workload::Instructions { via: Via::Tls },
    ];

    /// The name that `--workloads` takes, by its beginning.
    pub(crate) fn name(self) -> String {
        match self {
            Workload::Small { via, connections } => format!("small-{}-{connections}", via.name()),
            Workload::Fresh => "fresh".into(),
            Workload::Scaling { workers } => format!("scaling-{workers}"),
            Workload::H2c => "h2c".into(),
            Workload::Grpc => "grpc".into(),
            Workload::Bulk { direction: Direction::Down, via } => format!("down-{}", via.name()),
            Workload::Bulk { direction: Direction::Up, via } => format!("up-{}", via.name()),
            Workload::Events => "sse".into(),
            Workload::WebSocket => "websocket".into(),
            Workload::Distant => "distant".into(),
            Workload::PythonSession => "python-session".into(),
            Workload::LoginEachStart => "login-each-start".into(),
            Workload::Start => "start".into(),
            Workload::Memory => "memory".into(),
            Workload::Idle => "idle".into(),
            Workload::Replay => "replay".into(),
            Workload::Rotation => "rotation".into(),
            Workload::Status => "status".into(),
            Workload::Exec { connections } => format!("exec-{connections}"),
            Workload::Size => "size".into(),
            Workload::Instructions { via } => format!("instructions-{}", via.name()),
        }
    }

    /// For a table's first column and a plot's headings.
    pub(crate) fn title(self) -> String {
        let away = ROUND_TRIP.as_millis();
        let secured = |via| if via == Via::Plain { "plain" } else { "TLS upstream" };
        match self {
            Workload::Small { via, connections: 1 } => format!("small GET, {}, 1 connection", secured(via)),
            Workload::Small { via, connections } => format!("small GET, {}, {connections} connections", secured(via)),
            Workload::Fresh => "small GET, plain, a connection each".into(),
            Workload::Scaling { workers } => format!("small GET, plain, 50 connections, workers: {workers}"),
            Workload::H2c => "small GET, HTTP/2 from the client, 50 streams".into(),
            Workload::Grpc => "gRPC unary call, HTTP/2 on both sides, 50 streams".into(),
            Workload::Bulk { direction: Direction::Down, via } => format!("64 MiB down, {}", secured(via)),
            Workload::Bulk { direction: Direction::Up, via } => format!("64 MiB up, {}", secured(via)),
            Workload::Events => "1,000 event streams".into(),
            Workload::WebSocket => "WebSocket echo, 50 connections".into(),
            Workload::Distant => format!("one-shot GET, TLS, {away} ms away"),
            Workload::PythonSession => format!("Python, a session each, TLS, {away} ms away"),
            Workload::LoginEachStart => format!("Python, a login at each start, TLS, {away} ms away"),
            Workload::Start => "start to first proxied byte".into(),
            Workload::Memory => "idle connections".into(),
            Workload::Idle => "idle".into(),
            Workload::Replay => "every token revoked, under load".into(),
            Workload::Rotation => "token rotation every 2 s".into(),
            Workload::Status => "status queries while proxying".into(),
            Workload::Exec { connections } => format!("exec --intercept, small GET, connections: {connections}"),
            Workload::Size => "program file".into(),
            Workload::Instructions { via } => format!("instructions for a small GET (user space), {}", secured(via)),
        }
    }

    /// Whether one round says all: the file does not change, instructions and memory hardly do, and idleness is watched for long.
    pub(crate) fn once(self) -> bool {
        matches!(self, Workload::Idle | Workload::Size | Workload::Memory | Workload::Instructions { .. })
    }

    /// Whether its client is a Python program.
    pub(crate) fn needs_python(self) -> bool {
        matches!(self, Workload::PythonSession | Workload::LoginEachStart)
    }

    /// Drives one peer; None where the workload means nothing to it.
    pub(crate) async fn measure(
        self,
        peer: &Peer,
        program: &Program,
        stage: &Stage<'_>,
    ) -> anyhow::Result<Option<Sample>> {
        let Stage { origin, pace, .. } = *stage;
        let valetd_only = matches!(
            self,
            Workload::Scaling { .. } | Workload::Replay | Workload::Rotation | Workload::Status | Workload::Exec { .. }
        );
        if valetd_only && peer.kind != Kind::Valetd {
            return Ok(None);
        }
        match self {
            Workload::Small { via, connections } => {
                requests(peer, via, "/small", Step::Request, connections, pace.window).await
            }
            Workload::Fresh => requests(peer, Via::Plain, "/small", Step::Reconnect, RECONNECTING, pace.window).await,
            Workload::Scaling { workers } => scaling(program, workers, stage).await,
            Workload::H2c => streams(peer, Via::H2c, pace.window).await,
            Workload::Grpc => streams(peer, Via::Grpc, pace.window).await,
            Workload::WebSocket => requests(peer, Via::Plain, "/echo", Step::Echo, USUAL, pace.window).await,
            Workload::Bulk { direction, via } => transfers(peer, via, direction, pace.window).await,
            Workload::Events => events(peer, pace.window).await,
            Workload::Distant => distant(peer, pace.one_shots).await,
            Workload::PythonSession => python_sessions(peer, None, stage).await,
            Workload::LoginEachStart => match peer.kind {
                Kind::Direct => python_sessions(peer, Some("/token"), stage).await,
                Kind::Valetd => python_sessions(peer, None, stage).await,
                Kind::Relay | Kind::Nginx | Kind::Haproxy | Kind::Caddy | Kind::Envoy => Ok(None),
            },
            Workload::Start => start(program, origin, pace.starts).await,
            Workload::Memory => held_connections(program, stage).await,
            Workload::Replay => replay(program, origin, pace.window).await.map(Some),
            Workload::Rotation => rotation(peer, program, origin, pace.rotation).await.map(Some),
            Workload::Status => status_queries(peer, pace.window).await.map(Some),
            Workload::Exec { connections } => intercepted(peer, program, connections, stage).await.map(Some),
            Workload::Size => match &program.path {
                Some(path) if program.kind != Kind::Relay => {
                    Ok(Some(vec![figure("size", "MiB", mebibytes(fs::metadata(path)?.len()))]))
                }
                _ => Ok(None),
            },
            Workload::Instructions { via } => instructions(program, via, origin).await,
            Workload::Idle => bail!("idleness is measured of all peers together"),
        }
    }
}

/// What every workload needs besides its peer.
pub(crate) struct Stage<'a> {
    pub(crate) origin: &'a Origin,
    pub(crate) pace: &'a Pace,
    /// Of this process and of each of its children.
    pub(crate) open_files: u64,
    /// Of this machine.
    pub(crate) cores: usize,
}

/// How long things are looked at.
pub(crate) struct Pace {
    window: Duration,
    rotation: Duration,
    idle: Duration,
    one_shots: usize,
    starts: usize,
}

impl Pace {
    /// A second for most things, so that a round over all peers and workloads takes minutes and not an hour.
    pub(crate) const FULL: Pace = Pace {
        window: Duration::from_millis(1000),
        rotation: Duration::from_millis(6000),
        idle: Duration::from_secs(20),
        one_shots: 10,
        starts: 3,
    };

    /// Shows that everything works; the figures are rough.
    pub(crate) const QUICK: Pace = Pace {
        window: Duration::from_millis(100),
        rotation: Duration::from_millis(2500),
        idle: Duration::from_secs(3),
        one_shots: 2,
        starts: 1,
    };
}

/// One number of one measurement.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
}

/// The figures of one measurement; the first is the one that the summary and the plot show.
pub(crate) type Sample = Vec<Figure>;

fn figure(name: &'static str, unit: &'static str, value: f64) -> Figure {
    Figure { name, unit, value }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn usage_of(peer: &Peer) -> anyhow::Result<Option<Usage>> {
    peer.pid().map(usage).transpose()
}

/// CPU for each of `count` things in the given part of a second, if there is a process to ask.
fn cpu_each(
    before: Option<Usage>,
    after: Option<Usage>,
    count: f64,
    unit: &'static str,
    per_second: f64,
) -> Option<Figure> {
    let spent = after?.since(before?).cpu;
    Some(figure("CPU", unit, spent.as_secs_f64() * per_second / count))
}

async fn requests(
    peer: &Peer,
    via: Via,
    path: &str,
    step: Step,
    connections: usize,
    window: Duration,
) -> anyhow::Result<Option<Sample>> {
    let Some(target) = peer.target(via) else { return Ok(None) };
    let load = Load::start(target, path, step, connections).await?;
    let unit = if step == Step::Echo { "µs/frame" } else { "µs/request" };
    count(peer, load, unit, window).await.map(Some)
}

/// On an instance of its own, even with one worker, so that the two differ in nothing else. The second worker gets a third
/// core. Where there is none it must share that of the load and the origin, and the rate goes by another name: it then says
/// how they get along on two cores, not what two workers could do.
async fn scaling(program: &Program, workers: usize, stage: &Stage<'_>) -> anyhow::Result<Option<Sample>> {
    let (cores, shared) = match workers {
        1 => (program.cores, false),
        _ if stage.cores > 2 => ("0,2", false),
        _ => ("0,1", true),
    };
    let peer = Peer::start(&Program { workers, cores, ..program.clone() }, stage.origin).await?;
    let mut measured = requests(&peer, Via::Plain, "/small", Step::Request, USUAL, stage.pace.window).await?;
    for figure in measured.iter_mut().flatten().filter(|figure| shared && figure.name == "rate") {
        figure.name = "rate, load on the same core";
    }
    Ok(measured)
}

async fn streams(peer: &Peer, via: Via, window: Duration) -> anyhow::Result<Option<Sample>> {
    let Some(target) = peer.target(via) else { return Ok(None) };
    peer.adds_the_token(via).await?;
    let call = Call::new(target, via, "/small")?;
    let load = Load::start_streams(target, call, SHARED, USUAL / SHARED).await?;
    count(peer, load, "µs/request", window).await.map(Some)
}

async fn count(peer: &Peer, mut load: Load, unit: &'static str, window: Duration) -> anyhow::Result<Sample> {
    let before = usage_of(peer)?;
    load.begin();
    tokio::time::sleep(window).await;
    let after = usage_of(peer)?;
    let outcome = load.finish().await;
    ensure!(outcome.requests > 0, "not one request was answered");
    let cpu = cpu_each(before, after, outcome.requests as f64, unit, 1e6);
    Ok(cpu.into_iter().chain(describe(&outcome)).collect())
}

fn describe(outcome: &Outcome) -> Sample {
    let Outcome { requests, errors, elapsed, latencies } = outcome;
    vec![
        figure("rate", "/s", *requests as f64 / elapsed.as_secs_f64()),
        figure("p50", "µs", percentile(latencies, 0.50) / 1e3),
        figure("p99", "µs", percentile(latencies, 0.99) / 1e3),
        figure("errors", "", *errors as f64),
    ]
}

async fn transfers(peer: &Peer, via: Via, direction: Direction, window: Duration) -> anyhow::Result<Option<Sample>> {
    let Some(target) = peer.target(via) else { return Ok(None) };
    let mut connection = Connection::open(target).await?;
    let warm_up = connection.transfer(target, direction).await?;
    ensure!(warm_up == 200, "status {warm_up}");
    let (before, begun) = (usage_of(peer)?, Instant::now());
    let mut count = 0;
    while count < 2 || begun.elapsed() < window {
        let status = connection.transfer(target, direction).await?;
        ensure!(status == 200, "status {status}");
        count += 1;
    }
    let (after, elapsed) = (usage_of(peer)?, begun.elapsed());
    let gigabytes = (count * BULK) as f64 / 1e9;
    let cpu = cpu_each(before, after, gigabytes, "ms/GB", 1e3);
    Ok(Some(cpu.into_iter().chain([figure("rate", "MB/s", gigabytes * 1e3 / elapsed.as_secs_f64())]).collect()))
}

async fn events(peer: &Peer, window: Duration) -> anyhow::Result<Option<Sample>> {
    let Some(target) = peer.target(Via::Plain) else { return Ok(None) };
    let mut streams = EventStreams::open(target, "/events", STREAMS).await?;
    // whole periods, so that the number of events to expect is a whole one too
    let window = EVENT_SPACING * (window.as_millis() / EVENT_SPACING.as_millis()).max(5) as u32;
    let (before, received, begun) = (usage_of(peer)?, streams.received(), Instant::now());
    tokio::time::sleep(window).await;
    let (after, received, elapsed) = (usage_of(peer)?, streams.received() - received, begun.elapsed());
    let expected = STREAMS as f64 * elapsed.as_secs_f64() / EVENT_SPACING.as_secs_f64();
    let cpu = cpu_each(before, after, received as f64, "µs/event", 1e6);
    let held = peer.pid().map(memory).transpose()?.and_then(|memory| memory.proportional);
    let rest = [
        held.map(|bytes| figure("PSS", "MiB", mebibytes(bytes))),
        Some(figure("delivered", "%", 100.0 * received as f64 / expected)),
        Some(figure("cut off", "", (STREAMS - streams.alive()) as f64)),
    ];
    Ok(Some(cpu.into_iter().chain(rest.into_iter().flatten()).collect()))
}

/// The client is new each time, as curl and scripts are. The first one comes after the pause since the last round (or since
/// the peer was set up), the others find the proxy as warm as it will be.
async fn distant(peer: &Peer, one_shots: usize) -> anyhow::Result<Option<Sample>> {
    let Some(target) = peer.target(Via::Distant) else { return Ok(None) };
    let request = target.get("/small", "");
    let mut spent = Vec::new();
    for _ in 0..=one_shots {
        let begun = Instant::now();
        let status = Connection::open(target).await?.exchange(&request).await?;
        ensure!(status == 200, "status {status}");
        spent.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Some(one_shots_that_took(spent)))
}

async fn python_sessions(peer: &Peer, login: Option<&str>, stage: &Stage<'_>) -> anyhow::Result<Option<Sample>> {
    let Some(target) = peer.target(Via::Distant) else { return Ok(None) };
    let login = login.map(|path| target.url(path));
    let spent = python::sessions(target, login, 1 + stage.pace.one_shots, stage.origin).await?;
    Ok(Some(one_shots_that_took(spent)))
}

/// In milliseconds; the first one came after a pause.
fn one_shots_that_took(mut spent: Vec<f64>) -> Sample {
    let first = spent.remove(0);
    let slowest = spent.iter().copied().fold(0.0, f64::max);
    let rest = [figure("slowest", "ms", slowest), figure("after a pause", "ms", first)];
    [figure("one-shot", "ms", median(spent))].into_iter().chain(rest).collect()
}

/// Includes what setpriv and taskset take before they have become the proxy; the relay's figure shows how much that is.
async fn start(program: &Program, origin: &Origin, starts: usize) -> anyhow::Result<Option<Sample>> {
    if program.path.is_none() {
        return Ok(None);
    }
    let mut spent = Vec::new();
    for _ in 0..starts {
        let begun = Instant::now();
        Peer::launch(program, origin)?.first_answer().await?;
        spent.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Some(vec![figure("start", "ms", median(spent))]))
}

async fn held_connections(program: &Program, stage: &Stage<'_>) -> anyhow::Result<Option<Sample>> {
    if program.path.is_none() {
        return Ok(None);
    }
    let peer = Peer::start(program, stage.origin).await?;
    let target = peer.target(Via::Plain).context("every peer has a plain route")?;
    let pid = peer.pid().context("it was started")?;
    let weigh = |name| {
        let memory = memory(pid)?;
        anyhow::Ok(figure(name, "MiB", mebibytes(memory.proportional.unwrap_or(memory.resident))))
    };
    let mut sample = vec![weigh("fresh")?];
    let most = if stage.open_files >= FILES_FOR_ALL { HELD_AT_MOST } else { HELD_WITH_FEWER_FILES };
    let mut held = Vec::new();
    for (connections, name) in [HELD, most] {
        // the relay needs a connection to the origin for each one, and the origin's descriptors are ours
        if program.kind == Kind::Relay && connections > HELD.0 {
            continue;
        }
        held.extend(hold(target, "/small", connections - held.len()).await?);
        tokio::time::sleep(COMING_TO_REST).await;
        sample.insert(0, weigh(name)?);
    }
    Ok(Some(sample))
}

/// Starts one of each, lets them settle, and watches all of them for the same while.
pub(crate) async fn idle(programs: &[&Program], stage: &Stage<'_>) -> Vec<(Kind, anyhow::Result<Sample>)> {
    let mut peers = Vec::new();
    for program in programs.iter().filter(|program| program.path.is_some()) {
        peers.push((program.kind, Peer::start(program, stage.origin).await));
    }
    let settling = SETTLING.min(stage.pace.idle);
    tokio::time::sleep(settling).await;
    let before: Vec<_> =
        peers.iter().map(|(_, peer)| peer.as_ref().ok().and_then(|peer| usage_of(peer).ok()?)).collect();
    tokio::time::sleep(stage.pace.idle).await;
    let figures = |peer: anyhow::Result<Peer>, before: Option<Usage>| {
        let peer = peer?;
        let pid = peer.pid().context("it was started")?;
        let (spent, memory) = (usage(pid)?.since(before.context("it ended")?), memory(pid)?);
        let proportional = memory.proportional.map(|bytes| figure("PSS", "MiB", mebibytes(bytes)));
        let rest = [figure("wakeups", "", spent.wakeups as f64), figure("CPU", "ms", spent.cpu.as_secs_f64() * 1e3)];
        Ok([figure("RSS", "MiB", mebibytes(memory.resident))].into_iter().chain(proportional).chain(rest).collect())
    };
    peers.into_iter().zip(before).map(|((kind, peer), before)| (kind, figures(peer, before))).collect()
}

/// On an instance of its own: after a token that was refused, valetd distrusts the upstream's 401s for a while.
async fn replay(program: &Program, origin: &Origin, window: Duration) -> anyhow::Result<Sample> {
    let peer = Peer::start(program, origin).await?;
    let target = peer.target(Via::Plain).context("every peer has a plain route")?;
    let knobs = &origin.knobs;
    knobs.oldest_accepted.store(0, Relaxed);
    let mut load = Load::start(target, "/guarded", Step::Request, USUAL).await?;
    let (issued, refused) = (knobs.issued.load(Relaxed), knobs.refused.load(Relaxed));
    load.begin();
    tokio::time::sleep(window / 2).await;
    knobs.refuse_all_issued();
    tokio::time::sleep(window / 2).await;
    let outcome = load.finish().await;
    let slowest = outcome.latencies.last().copied().unwrap_or(0);
    let first = [
        figure("slowest", "ms", f64::from(slowest) / 1e6),
        figure("refused", "", (knobs.refused.load(Relaxed) - refused) as f64),
        figure("renewals", "", (knobs.issued.load(Relaxed) - issued) as f64),
    ];
    Ok(first.into_iter().chain(describe(&outcome)).collect())
}

/// The same load on the instance whose token lives an hour and on one whose tokens live 3 s, one after the other.
async fn rotation(steady: &Peer, program: &Program, origin: &Origin, window: Duration) -> anyhow::Result<Sample> {
    let knobs = &origin.knobs;
    knobs.lifetime.store(ROTATING_LIFETIME, Relaxed);
    let rotating = Peer::start(program, origin).await;
    let issued = knobs.issued.load(Relaxed);
    let rotated = match &rotating {
        Ok(rotating) => under_load(rotating, window).await,
        Err(error) => Err(anyhow::anyhow!("{error:#}")),
    };
    let renewals = knobs.issued.load(Relaxed) - issued;
    // whatever happened: everyone else is promised an hour
    knobs.lifetime.store(STEADY_LIFETIME, Relaxed);
    drop(rotating);
    let (rotated, steady) = (rotated?, under_load(steady, window / 3).await?);
    let rate = |outcome: &Outcome| outcome.requests as f64 / outcome.elapsed.as_secs_f64();
    let kept = figure("throughput kept", "%", 100.0 * rate(&rotated) / rate(&steady));
    Ok([kept].into_iter().chain(describe(&rotated)).chain([figure("renewals", "", renewals as f64)]).collect())
}

async fn under_load(peer: &Peer, window: Duration) -> anyhow::Result<Outcome> {
    let target = peer.target(Via::Plain).context("every peer has a plain route")?;
    let mut load = Load::start(target, "/small", Step::Request, USUAL).await?;
    load.begin();
    tokio::time::sleep(window).await;
    Ok(load.finish().await)
}

async fn status_queries(peer: &Peer, window: Duration) -> anyhow::Result<Sample> {
    let target = peer.target(Via::Plain).context("every peer has a plain route")?;
    let control = peer.control.as_ref().context("no status socket")?;
    let mut load = Load::start(target, "/small", Step::Request, USUAL).await?;
    let mut queries = Load::start(control, "/v1/status", Step::Request, 1).await?;
    load.begin();
    queries.begin();
    tokio::time::sleep(window).await;
    let (queries, proxied) = (queries.finish().await, load.finish().await);
    let mut sample = describe(&queries);
    sample[0].name = "queries";
    sample.push(figure("proxied", "/s", proxied.requests as f64 / proxied.elapsed.as_secs_f64()));
    Ok(sample)
}

/// The CPU is that of the process of `exec`; the time to start is over that of an `exec` which becomes its command.
async fn intercepted(peer: &Peer, program: &Program, connections: usize, stage: &Stage<'_>) -> anyhow::Result<Sample> {
    let Stage { origin, pace, .. } = *stage;
    let exec = Exec::start(peer, program, origin)?;
    let mut load = Load::start(&exec.target, "/small", Step::Request, connections).await?;
    let before = usage(exec.pid())?;
    load.begin();
    tokio::time::sleep(pace.window).await;
    let after = usage(exec.pid())?;
    let outcome = load.finish().await;
    ensure!(outcome.requests > 0, "not one request was answered");
    let cpu = cpu_each(Some(before), Some(after), outcome.requests as f64, "µs/request", 1e6);
    drop(exec);
    let took = |option| -> anyhow::Result<f64> {
        let times = (0..2 * pace.one_shots).map(|_| Ok(exec::start(peer, program, option)?.as_secs_f64() * 1e3));
        Ok(median(times.collect::<anyhow::Result<_>>()?))
    };
    let over = figure("start, over plain exec", "ms", took("--intercept")? - took("--no-intercept")?);
    Ok(cpu.into_iter().chain(describe(&outcome)).chain([over]).collect())
}

/// Of the programs that callgrind runs: it comes to grief on Caddy's runtime, and has not been tried on Envoy.
async fn instructions(program: &Program, via: Via, origin: &Origin) -> anyhow::Result<Option<Sample>> {
    match program.kind {
        Kind::Relay | Kind::Nginx | Kind::Haproxy | Kind::Valetd => {}
        Kind::Direct | Kind::Caddy | Kind::Envoy => return Ok(None),
    }
    let program = program.counted()?;
    let count = async |requests: u32| {
        let peer = Peer::start(&program, origin).await?;
        let Some(target) = peer.target(via) else { return Ok(None) };
        let mut connection = Connection::open(target).await?;
        let request = target.get("/small", "");
        for _ in 0..requests {
            let status = connection.exchange(&request).await?;
            ensure!(status == 200, "status {status}");
        }
        drop(connection);
        peer.instructions().map(Some)
    };
    let (Some(few), Some(many)) = (count(FEW).await?, count(MANY).await?) else { return Ok(None) };
    Ok(Some(vec![figure("instructions", "", (many as f64 - few as f64) / f64::from(MANY - FEW))]))
}
