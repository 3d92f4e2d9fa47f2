//! The proxies: how each is set up to do the same work, started, asked whether it does it, and ended.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::http2::{self, Call};
use crate::load::{Address, Connection, Target};
use crate::origin::{ACCESS_TOKEN_LENGTH, Origin, access_token};

/// The proxies' core; the load generator and the origin have the other one.
pub(crate) const PROXY_CORE: &str = "0";

/// The slowest of them needs a second to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longer than a peer that has heard us takes to end.
const ASKING_AGAIN: Duration = Duration::from_secs(2);

/// Above the 10,000 connections that it is asked to hold, with room for those to the origin.
const MOST_CONNECTIONS: usize = 10_500;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    Direct,
    Relay,
    Nginx,
    Haproxy,
    Caddy,
    Envoy,
    Valetd,
}

impl Kind {
    pub(crate) const ALL: [Kind; 7] =
        [Kind::Direct, Kind::Relay, Kind::Nginx, Kind::Haproxy, Kind::Caddy, Kind::Envoy, Kind::Valetd];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Direct => "direct",
            Kind::Relay => "relay",
            Kind::Nginx => "nginx",
            Kind::Haproxy => "haproxy",
            Kind::Caddy => "caddy",
            Kind::Envoy => "envoy",
            Kind::Valetd => "valetd",
        }
    }

    /// How it names its own version.
    pub(crate) fn version_argument(self) -> Option<&'static str> {
        match self {
            Kind::Direct | Kind::Relay => None,
            Kind::Nginx | Kind::Haproxy => Some("-v"),
            Kind::Caddy => Some("version"),
            Kind::Envoy | Kind::Valetd => Some("--version"),
        }
    }
}

/// The way to the origin, which is one route of the proxy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Via {
    Plain,
    Tls,
    /// TLS, with a round trip of [`crate::origin::ROUND_TRIP`].
    Distant,
    /// HTTP/2 from the client, HTTP/1.1 to the origin: nginx has no other way, and all the others can go it.
    H2c,
    /// HTTP/2 on both sides.
    Grpc,
}

impl Via {
    const ALL: [Via; 5] = [Via::Plain, Via::Tls, Via::Distant, Via::H2c, Via::Grpc];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Via::Plain => "plain",
            Via::Tls => "tls",
            Via::Distant => "distant",
            Via::H2c => "h2c",
            Via::Grpc => "grpc",
        }
    }

    /// Of the origin's address.
    fn scheme(self) -> &'static str {
        match self {
            Via::Plain | Via::H2c | Via::Grpc => "http",
            Via::Tls | Via::Distant => "https",
        }
    }

    /// Whether clients speak HTTP/2.
    fn over_http2(self) -> bool {
        matches!(self, Via::H2c | Via::Grpc)
    }

    fn upstream(self, origin: &Origin) -> SocketAddr {
        match self {
            Via::Plain | Via::H2c => origin.plain,
            Via::Grpc => origin.h2c,
            Via::Tls => origin.tls,
            Via::Distant => origin.distant,
        }
    }
}

/// Counts the instructions of a program in user space. What it counted is in [`COUNTED`] once the program has ended; that is
/// in the peer's folder, where valetd's sandbox lets it write, too.
const CALLGRIND: [&str; 4] =
    ["valgrind", "--tool=callgrind", "--trace-children=no", "--callgrind-out-file=instructions"];
const COUNTED: &str = "instructions";

/// A peer that is installed, and how to start it.
#[derive(Clone)]
pub(crate) struct Program {
    pub(crate) kind: Kind,
    /// None for [`Kind::Direct`].
    pub(crate) path: Option<PathBuf>,
    /// How many threads carry requests. Only valetd is ever given more than one.
    pub(crate) workers: usize,
    /// Where they may run, as `taskset` takes it.
    pub(crate) cores: &'static str,
    /// What stands before the program on the command line.
    pub(crate) wrapper: &'static [&'static str],
}

impl Program {
    /// Finds a peer's program: valetd where `valetd` says, the relay in this very program, the others in `PATH` and the
    /// folders for system programs.
    pub(crate) fn find(kind: Kind, valetd: Option<&Path>) -> anyhow::Result<Self> {
        let path = match kind {
            Kind::Direct => None,
            Kind::Relay => Some(std::env::current_exe()?),
            Kind::Valetd => Some(valetd.context("not built")?.to_owned()),
            Kind::Nginx | Kind::Haproxy | Kind::Caddy | Kind::Envoy => {
                let path = std::env::var("PATH").unwrap_or_default() + ":/usr/local/sbin:/usr/sbin:/sbin";
                let found =
                    std::env::split_paths(&path).map(|folder| folder.join(kind.name())).find(|file| file.is_file());
                Some(found.context("not installed")?)
            }
        };
        Ok(Self { kind, path, workers: 1, cores: PROXY_CORE, wrapper: &[] })
    }

    /// The same program, with its instructions counted: some fifty times slower.
    pub(crate) fn counted(&self) -> anyhow::Result<Self> {
        let runs = Command::new(CALLGRIND[0]).arg("--version").stdout(Stdio::null()).status();
        runs.with_context(|| format!("{} is not installed", CALLGRIND[0]))?;
        Ok(Self { wrapper: &CALLGRIND, ..self.clone() })
    }

    pub(crate) fn version(&self) -> Option<String> {
        let told = Command::new(self.path.as_ref()?).arg(self.kind.version_argument()?).output().ok()?;
        let text = [told.stdout, told.stderr].concat();
        Some(String::from_utf8_lossy(&text).lines().find(|line| !line.trim().is_empty())?.trim().to_owned())
    }
}

/// A running peer. Dropping it ends its process and removes its files.
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    process: Option<Process>,
    targets: BTreeMap<Via, Target>,
    /// valetd's status socket.
    pub(crate) control: Option<Target>,
    folder: TempDir,
}

impl Peer {
    /// Starts a peer and waits until it has answered a request.
    pub(crate) async fn start(program: &Program, origin: &Origin) -> anyhow::Result<Self> {
        let mut peer = Self::launch(program, origin)?;
        peer.first_answer().await?;
        Ok(peer)
    }

    /// Starts a peer's process, which is not yet ready.
    pub(crate) fn launch(program: &Program, origin: &Origin) -> anyhow::Result<Self> {
        let kind = program.kind;
        let folder = tempfile::Builder::new().prefix("side-by-side-").tempdir()?;
        let ports = Ports::free()?;
        let setup = match kind {
            Kind::Direct => None,
            Kind::Relay => Some(vec!["--relay".into(), ports.of(Via::Plain).to_string(), origin.plain.to_string()]),
            Kind::Nginx => Some(nginx(folder.path(), &ports, origin)?),
            Kind::Haproxy => Some(haproxy(folder.path(), &ports, origin)?),
            Kind::Caddy => Some(caddy(folder.path(), &ports, origin)?),
            Kind::Envoy => Some(envoy(folder.path(), &ports, origin)?),
            Kind::Valetd => Some(valetd(folder.path(), &ports, origin, program.workers)?),
        };
        let process = match (&program.path, setup) {
            (Some(path), Some(arguments)) => Some(Process::spawn(program, path, &arguments, folder.path())?),
            _ => None,
        };

        let mut targets = BTreeMap::new();
        for via in Via::ALL {
            // a relay of TLS bytes or HTTP/2 frames would do none of the work that the others do there
            if kind == Kind::Relay && via != Via::Plain {
                continue;
            }
            let direct = kind == Kind::Direct;
            let target = Target {
                address: Address::Tcp(match kind {
                    Kind::Direct if via.over_http2() => origin.h2c,
                    Kind::Direct => via.upstream(origin),
                    Kind::Valetd if via == Via::Grpc => ports.of(via),
                    Kind::Valetd => ports.of(Via::Plain),
                    Kind::Relay | Kind::Nginx | Kind::Haproxy | Kind::Caddy | Kind::Envoy => ports.of(via),
                }),
                tls: (direct && via.scheme() == "https").then(|| origin.trusting.clone()),
                tunnel: None,
                prefix: match kind {
                    Kind::Valetd if via != Via::Grpc => format!("/{}", via.name()),
                    _ => String::new(),
                },
                access_token: (direct || kind == Kind::Relay).then(|| access_token(0)),
            };
            targets.insert(via, target);
        }
        let control = (kind == Kind::Valetd).then(|| Target {
            address: Address::Unix(folder.path().join("valetd.sock")),
            tls: None,
            tunnel: None,
            prefix: String::new(),
            access_token: None,
        });
        Ok(Self { kind, process, targets, control, folder })
    }

    /// Waits for the first proxied answer.
    pub(crate) async fn first_answer(&mut self) -> anyhow::Result<()> {
        let target = self.targets[&Via::Plain].clone();
        let begun = Instant::now();
        loop {
            let asked = async { Connection::open(&target).await?.exchange(&target.get("/small", "")).await };
            let tried = tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|late| Err(late.into()));
            if let Ok(200) = tried {
                return Ok(());
            }
            if let Some(process) = &mut self.process {
                if let Some(status) = process.child.try_wait()? {
                    bail!("ended at once ({status}): {}", process.last_words());
                }
                ensure!(begun.elapsed() < PATIENCE, "no answer ({tried:?}): {}", process.last_words());
            }
            ensure!(begun.elapsed() < PATIENCE, "no answer: {tried:?}");
            // finer than the runtime's timer, whose millisecond would show in the time that a start takes
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Checks, on a route that the peer has, that the origin sees exactly one `Authorization` with a whole access token.
    pub(crate) async fn adds_the_token(&self, via: Via) -> anyhow::Result<()> {
        let Some(target) = self.target(via) else { return Ok(()) };
        let expected = format!(r#"{{"fields":1,"length":{}}}"#, "Bearer ".len() + ACCESS_TOKEN_LENGTH);
        let ask = async {
            if via.over_http2() {
                let call = Call::new(target, via, "/authorization")?;
                let answer = http2::Connection::open(target).await?.exchange(&call).await?;
                return Ok(String::from_utf8_lossy(&answer).into_owned());
            }
            let (status, body) = Connection::open(target).await?.ask(&target.get("/authorization", "")).await?;
            ensure!(status == 200, "status {status}: {body}");
            Ok(body)
        };
        let seen = tokio::time::timeout(PATIENCE, ask).await?.with_context(|| via.name())?;
        ensure!(seen == expected, "{}: the origin saw {seen}", via.name());
        Ok(())
    }

    /// Where to send requests for this route; None if the peer has no such route.
    pub(crate) fn target(&self, via: Via) -> Option<&Target> {
        self.targets.get(&via)
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        Some(self.process.as_ref()?.child.id())
    }

    /// One of valetd's verbs, beside the daemon and as pinned as it is. The process becomes the program itself.
    pub(crate) fn verb(&self, program: &Program, verb: &str) -> anyhow::Result<Command> {
        let folder = self.folder.path();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "taskset", "-c", program.cores]);
        command.arg(program.path.as_ref().context("not built")?).arg(verb);
        command.arg("--config").arg(folder.join("valetd.toml")).arg("--socket").arg(folder.join("valetd.sock"));
        command.current_dir(folder).env("HOME", folder).stdin(Stdio::null());
        Ok(command)
    }

    /// Asks a peer that was [counted](Program::counted) to end, and reads how many instructions it took, from its start on
    /// and on all threads.
    pub(crate) fn instructions(mut self) -> anyhow::Result<u64> {
        let process = self.process.as_mut().context("no process")?;
        let begun = Instant::now();
        let mut asked = 0;
        while process.child.try_wait()?.is_none() {
            ensure!(begun.elapsed() < PATIENCE, "does not end: {}", process.last_words());
            // again: one that comes between nginx's look at its flag and its wait for events wakes nobody
            if begun.elapsed() >= asked * ASKING_AGAIN {
                kill_process(Pid::from_child(&process.child), Signal::TERM)?;
                asked += 1;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let counted = fs::read_to_string(self.folder.path().join(COUNTED));
        let counted = counted.with_context(|| format!("nothing was counted: {}", process.last_words()))?;
        let total = counted.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
        total.with_context(|| format!("no totals in {COUNTED}"))
    }
}

/// A child that does not outlive us: dropped, it is killed; and if we die without dropping anything, the kernel does it.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn spawn(program: &Program, path: &Path, arguments: &[String], folder: &Path) -> anyhow::Result<Self> {
        let log = folder.join("log");
        let file = fs::File::create(&log)?;
        // each of these replaces itself by the next one, so that the child is the proxy itself
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "taskset", "-c", program.cores])
            .args(program.wrapper)
            .arg(path)
            .args(arguments)
            .current_dir(folder)
            .envs(
                ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"]
                    .map(|name| (name, folder)),
            )
            .env("GOMAXPROCS", "1")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("setpriv and taskset (util-linux) are needed to start a peer")?;
        Ok(Self { child, log })
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A free port for each route. Another program could take one before the peer does; on loopback and within milliseconds,
/// that has not been seen.
struct Ports(BTreeMap<Via, SocketAddr>);

impl Ports {
    fn free() -> anyhow::Result<Self> {
        let listeners: Vec<_> = Via::ALL
            .into_iter()
            .map(|via| Ok((via, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)))
            .collect::<std::io::Result<_>>()?;
        Ok(Self(
            listeners
                .iter()
                .map(|(via, listener)| Ok((*via, listener.local_addr()?)))
                .collect::<std::io::Result<_>>()?,
        ))
    }

    fn of(&self, via: Via) -> SocketAddr {
        self.0[&via]
    }
}

fn write(folder: &Path, name: &str, content: &str) -> anyhow::Result<String> {
    let path = folder.join(name);
    fs::write(&path, content)?;
    Ok(path.to_string_lossy().into_owned())
}

/// One process, buffers as they come; bodies are streamed, not spooled, since that is what all the others do.
fn nginx(folder: &Path, ports: &Ports, origin: &Origin) -> anyhow::Result<Vec<String>> {
    let authority = write(folder, "authority.pem", &origin.authority)?;
    let token = access_token(0);
    let mut servers = String::new();
    for via in Via::ALL {
        let (name, listen, upstream) = (via.name(), ports.of(via), via.upstream(origin));
        let http2 = if via.over_http2() { "http2" } else { "" };
        let (module, scheme) = if via == Via::Grpc { ("grpc", "grpc") } else { ("proxy", via.scheme()) };
        servers += &format!(
            "upstream {name} {{ server {upstream}; keepalive 512; keepalive_requests 1000000000; keepalive_timeout 600s; }}
             server {{ listen {listen} {http2} backlog=4096; location / {{ {module}_pass {scheme}://{name}; }} }}\n"
        );
    }
    let config = format!(
        r#"
daemon off; master_process off; pid nginx.pid; error_log stderr crit;
events {{ worker_connections {connections}; }}
http {{
  access_log off; server_tokens off; keepalive_requests 1000000000; keepalive_timeout 600s; client_max_body_size 0;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  map $http_upgrade $upgrade {{ default upgrade; "" ""; }}
  proxy_http_version 1.1; proxy_request_buffering off; proxy_max_temp_file_size 0; proxy_read_timeout 600s;
  proxy_set_header Host $http_host; proxy_set_header Connection $upgrade; proxy_set_header Upgrade $http_upgrade;
  proxy_set_header Authorization "Bearer {token}"; grpc_set_header Authorization "Bearer {token}";
  proxy_ssl_verify on; proxy_ssl_trusted_certificate {authority}; proxy_ssl_server_name on; proxy_ssl_name localhost;
  {servers}
}}
"#,
        connections = 2 * MOST_CONNECTIONS
    );
    Ok(vec!["-p".into(), folder.to_string_lossy().into_owned(), "-c".into(), write(folder, "nginx.conf", &config)?])
}

fn haproxy(folder: &Path, ports: &Ports, origin: &Origin) -> anyhow::Result<Vec<String>> {
    let authority = write(folder, "authority.pem", &origin.authority)?;
    let token = access_token(0);
    let mut proxies = String::new();
    for via in Via::ALL {
        let (name, listen, upstream) = (via.name(), ports.of(via), via.upstream(origin));
        let http2 = if via.over_http2() { "proto h2" } else { "" };
        let onward = match via {
            Via::Plain | Via::H2c => String::new(),
            Via::Tls | Via::Distant => {
                format!("ssl verify required ca-file {authority} sni str(localhost) verifyhost localhost")
            }
            Via::Grpc => "proto h2".into(),
        };
        proxies += &format!(
            "listen {name}\n  bind {listen} backlog 4096 {http2}\n  http-request set-header Authorization \"Bearer {token}\"\n  server origin {upstream} pool-purge-delay 600s {onward}\n"
        );
    }
    let config = format!(
        "global\n  nbthread 1\n  maxconn {MOST_CONNECTIONS}\n  no strict-limits\n\
         defaults\n  mode http\n  maxconn {MOST_CONNECTIONS}\n  http-reuse always\n  timeout connect 5s\n  timeout client 600s\n  \
         timeout server 600s\n  timeout tunnel 600s\n  timeout http-keep-alive 600s\n  timeout http-request 60s\n{proxies}"
    );
    Ok(vec!["-db".into(), "-f".into(), write(folder, "haproxy.cfg", &config)?])
}

fn caddy(folder: &Path, ports: &Ports, origin: &Origin) -> anyhow::Result<Vec<String>> {
    let authority = write(folder, "authority.pem", &origin.authority)?;
    let token = access_token(0);
    let (mut servers, mut sites) = (String::new(), String::new());
    for via in Via::ALL {
        let (port, upstream) = (ports.of(via).port(), via.upstream(origin));
        if via.over_http2() {
            servers += &format!(" servers 127.0.0.1:{port} {{\n protocols h1 h2c\n }}\n");
        }
        let onward = match via {
            Via::Plain | Via::H2c => "versions 1.1".into(),
            Via::Grpc => "versions h2c".into(),
            Via::Tls | Via::Distant => {
                format!("versions 1.1\n tls\n tls_trusted_ca_certs {authority}\n tls_server_name localhost")
            }
        };
        sites += &format!(
            ":{port} {{\n bind 127.0.0.1\n reverse_proxy {upstream} {{\n  header_up Authorization \"Bearer {token}\"\n  \
             transport http {{\n compression off\n keepalive 600s\n keepalive_idle_conns 1024\n \
             keepalive_idle_conns_per_host 512\n {onward}\n }}\n }}\n}}\n"
        );
    }
    let config = format!("{{\n admin off\n auto_https off\n log {{\n level ERROR\n }}\n{servers}}}\n{sites}");
    Ok(["run", "--adapter", "caddyfile", "--config"]
        .map(String::from)
        .into_iter()
        .chain([write(folder, "Caddyfile", &config)?])
        .collect())
}

fn envoy(folder: &Path, ports: &Ports, origin: &Origin) -> anyhow::Result<Vec<String>> {
    let authority = write(folder, "authority.pem", &origin.authority)?;
    let token = access_token(0);
    let (mut listeners, mut clusters) = (String::new(), String::new());
    for via in Via::ALL {
        let (name, port, upstream) = (via.name(), ports.of(via).port(), via.upstream(origin).port());
        let onward = match via {
            Via::Plain | Via::H2c => String::new(),
            Via::Grpc => r#", typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {
  "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}"#
                .into(),
            Via::Tls | Via::Distant => format!(
                r#", transport_socket: {{name: tls, typed_config: {{"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext,
  sni: localhost, common_tls_context: {{validation_context: {{trusted_ca: {{filename: "{authority}"}}}}}}}}}}"#
            ),
        };
        listeners += &format!(
            r#"
  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          generate_request_id: false
          upgrade_configs: [{{upgrade_type: websocket}}]
          http_filters: [{{name: router, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              request_headers_to_add: [{{header: {{key: Authorization, value: "Bearer {token}"}}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}]
              routes: [{{match: {{prefix: "/"}}, route: {{cluster: {name}, timeout: 0s}}}}]"#
        );
        clusters += &format!(
            r#"
  - {{name: {name}, connect_timeout: 5s, type: STATIC, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}}}]}}]}},
     circuit_breakers: {{thresholds: [{{max_connections: 20000, max_pending_requests: 20000, max_requests: 20000}}]}}{onward}}}"#
        );
    }
    let config = format!("static_resources:\n  listeners:{listeners}\n  clusters:{clusters}\n");
    let path = write(folder, "envoy.yaml", &config)?;
    Ok(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"]
        .map(String::from)
        .into_iter()
        .chain([path])
        .collect())
}

fn valetd(folder: &Path, ports: &Ports, origin: &Origin, workers: usize) -> anyhow::Result<Vec<String>> {
    use std::io::Write;

    let authority = write(folder, "authority.pem", &origin.authority)?;
    let secret = folder.join("client-secret");
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&secret)?.write_all(b"not a secret")?;
    let (listen, token_endpoint) = (ports.of(Via::Plain), origin.plain);
    let mut config = format!(
        r#"
listen = ["{listen}"]
workers = {workers}
[account.bench]
token_endpoint = "http://{token_endpoint}/token"
client_id = "bench"
client_auth = "post"
client_secret = {{ file = "{secret}" }}
grant = "client_credentials"
header = "Authorization: Bearer {{access_token}}"
renew = {{ minimum_spacing = "100ms" }}
extra_ca = "{authority}"
"#,
        secret = secret.display()
    );
    for via in Via::ALL {
        let (name, upstream) = (via.name(), via.upstream(origin));
        let upstream = match via {
            Via::Plain | Via::H2c | Via::Grpc => format!("http://{upstream}"),
            Via::Tls | Via::Distant => format!("https://localhost:{}", upstream.port()),
        };
        config += &format!("[route.{name}]\naccount = \"bench\"\nupstream = \"{upstream}\"\n");
        if via == Via::Grpc {
            // what gRPC's clients are given is a host: they have no place for a path's prefix
            config += &format!("listen = \"{}\"\nhttp2 = true\n", ports.of(via));
        }
    }
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let (config, state, socket) = (write(folder, "valetd.toml", &config)?, path("state"), path("valetd.sock"));
    Ok(["run", "--config", &config, "--state-dir", &state, "--socket", &socket].map(String::from).to_vec())
}
