//! A company's network: a proxy on the way out, and servers in TLS behind it whose names nobody here can look up.

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::support::stage::Stage;
use crate::support::tls::certified_for;
use crate::support::upstreams::mirror;
use crate::support::{Daemon, Home, words};

/// What is on the other side of the proxy: names that nobody here can look up, and an address that leads nowhere.
pub const NAMES: [&str; 4] = ["api.example", "auth.example", "192.0.2.1", "127.0.0.1"];

pub const LOGIN: &str = "me:p w";

/// Whether this machine lets us make walls around a command.
pub(crate) fn has_walls() -> bool {
    has_walls_as(&["env"])
}

/// Whether it lets whoever a command makes us.
pub(crate) fn has_walls_as(who: &[&str]) -> bool {
    let probe = ["--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"];
    let works = Command::new(who[0])
        .args(&who[1..])
        .arg("bwrap")
        .args(probe)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !works {
        eprintln!("skipped: bubblewrap is not installed, or may not make namespaces here");
    }
    works
}

/// How a proxy behaves.
#[derive(Clone, Copy, PartialEq)]
pub enum Manner {
    Open,
    /// Asks for [`LOGIN`].
    Guarded,
    Refusing,
    /// Takes a connection and says nothing.
    Silent,
}

/// One tunnel: where to, and what went up through it.
#[derive(Default, Clone)]
pub struct Tunnel {
    pub target: String,
    pub bytes: Vec<u8>,
}

pub type Tunnels = Arc<Mutex<Vec<Tunnel>>>;

/// Everything outside of the daemon.
pub struct World {
    pub runtime: Handle,
    pub folder: tempfile::TempDir,
    pub tls: TlsAcceptor,
    /// Everything ends with it.
    pub _stop: oneshot::Sender<()>,
}

pub struct Proxy {
    pub address: SocketAddr,
    pub tunnels: Tunnels,
}

impl World {
    pub fn new() -> Self {
        let own = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let runtime = own.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::spawn(move || own.block_on(stopped));
        let folder = tempfile::tempdir().expect("a folder");
        let tls = certified_for(folder.path(), &NAMES, &[b"http/1.1"]);
        Self { runtime, folder, tls, _stop: stop }
    }

    pub fn trust(&self) -> String {
        format!("extra_ca = \"{}\"", self.folder.path().join("ca.pem").display())
    }

    pub fn listener(&self) -> (TcpListener, SocketAddr) {
        let listener = self.runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address");
        (listener, address)
    }

    /// TLS before a server in the clear.
    pub fn behind_tls(&self, server: &str) -> SocketAddr {
        let (listener, address) = self.listener();
        let (tls, server) = (self.tls.clone(), server.to_owned());
        self.runtime.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (tls, server) = (tls.clone(), server.clone());
                tokio::spawn(async move {
                    let (Ok(mut client), Ok(mut server)) = (tls.accept(tcp).await, TcpStream::connect(server).await)
                    else {
                        return;
                    };
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        address
    }

    /// A proxy for whom all targets are `origin`, those that begin with `auth` being `auth`.
    pub fn proxy(&self, manner: Manner, over_tls: bool, origin: SocketAddr, auth: SocketAddr) -> Proxy {
        let (listener, address) = self.listener();
        let tunnels = Tunnels::default();
        let (tls, seen) = (over_tls.then(|| self.tls.clone()), tunnels.clone());
        self.runtime.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (tls, seen) = (tls.clone(), seen.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(tcp, manner, origin, auth, seen).await,
                        Some(tls) => match tls.accept(tcp).await {
                            Ok(stream) => serve(stream, manner, origin, auth, seen).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        Proxy { address, tunnels }
    }
}

impl Proxy {
    pub fn targets(&self) -> Vec<String> {
        self.tunnels.lock().expect("no panic").iter().map(|tunnel| tunnel.target.clone()).collect()
    }

    /// Whether something that went up through it contains this.
    pub fn has_seen(&self, part: &str) -> bool {
        let tunnels = self.tunnels.lock().expect("no panic");
        let has = |tunnel: &Tunnel| tunnel.bytes.windows(part.len()).any(|seen| seen == part.as_bytes());
        tunnels.iter().any(has)
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut client: S,
    manner: Manner,
    origin: SocketAddr,
    auth: SocketAddr,
    seen: Tunnels,
) -> Option<()> {
    if manner == Manner::Silent {
        std::future::pending::<()>().await;
    }
    let first = client.read_u8().await.ok()?;
    let target = if first == 5 { socks(&mut client, manner).await? } else { connect(&mut client, manner).await? };
    let server = TcpStream::connect(if target.starts_with("auth") { auth } else { origin }).await.ok()?;
    let at = {
        let mut seen = seen.lock().expect("no panic");
        seen.push(Tunnel { target, bytes: Vec::new() });
        seen.len() - 1
    };
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read) = from_client.read(&mut buffer).await {
            if read == 0 {
                break;
            }
            seen.lock().expect("no panic")[at].bytes.extend_from_slice(&buffer[..read]);
            if to_server.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
        let _ = to_server.shutdown().await;
    };
    let down = async {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
        let _ = to_client.shutdown().await;
    };
    tokio::join!(up, down);
    Some(())
}

async fn connect<S: AsyncRead + AsyncWrite + Unpin>(client: &mut S, manner: Manner) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let answer = match manner {
        // of me:p w
        Manner::Guarded if !head.contains("\r\nProxy-Authorization: Basic bWU6cCB3\r\n") => {
            "HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n"
        }
        Manner::Refusing => "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
        Manner::Open | Manner::Guarded | Manner::Silent => "HTTP/1.1 200 Connection established\r\n\r\n",
    };
    client.write_all(answer.as_bytes()).await.ok()?;
    let target = head.strip_prefix("ONNECT ")?.split(' ').next()?.to_owned(); // its C has been read
    answer.contains(" 200 ").then_some(target)
}

async fn socks<S: AsyncRead + AsyncWrite + Unpin>(client: &mut S, manner: Manner) -> Option<String> {
    let mut methods = vec![0; usize::from(client.read_u8().await.ok()?)];
    client.read_exact(&mut methods).await.ok()?;
    if manner == Manner::Guarded {
        if !methods.contains(&2) {
            client.write_all(&[5, 0xff]).await.ok()?;
            return None;
        }
        client.write_all(&[5, 2]).await.ok()?;
        let mut login = [0; 1 + 1 + 2 + 1 + 3];
        client.read_exact(&mut login).await.ok()?;
        let is_right = login == *b"\x01\x02me\x03p w";
        client.write_all(&[1, u8::from(!is_right)]).await.ok()?;
        if !is_right {
            return None;
        }
    } else {
        client.write_all(&[5, 0]).await.ok()?;
    }
    let mut request = [0; 4];
    client.read_exact(&mut request).await.ok()?;
    let host = match request[3] {
        1 => {
            let mut address = [0; 4];
            client.read_exact(&mut address).await.ok()?;
            std::net::Ipv4Addr::from(address).to_string()
        }
        3 => {
            let mut name = vec![0; usize::from(client.read_u8().await.ok()?)];
            client.read_exact(&mut name).await.ok()?;
            String::from_utf8(name).ok()?
        }
        _ => return None,
    };
    let port = client.read_u16().await.ok()?;
    let code = if manner == Manner::Refusing { 2 } else { 0 };
    client.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).await.ok()?;
    (code == 0).then(|| format!("{host}:{port}"))
}

/// A route whose upstream is `https://api.example`, which is behind a company's proxy, as everything else is.
pub struct Scene {
    pub world: World,
    pub proxy: Proxy,
    pub stage: Stage,
}

impl Scene {
    pub fn new(settings: &str) -> Self {
        Self::before(&mirror(), settings)
    }

    pub fn before(upstream: &str, settings: &str) -> Self {
        let world = World::new();
        let origin = world.behind_tls(upstream);
        let proxy = world.proxy(Manner::Open, false, origin, origin);
        let stage = Stage::leading_to("https://api.example", &format!("{}\n{settings}", world.trust()));
        Self { world, proxy, stage }
    }

    pub fn start(&self) -> Daemon<'_> {
        let mut command = self.stage.home.valetd(&["run", "--log", "debug"]);
        command.env("https_proxy", self.proxy_url());
        let daemon = self.stage.home.start_as(command);
        daemon.until("gbdx", "usable");
        daemon
    }

    pub fn proxy_url(&self) -> String {
        format!("http://{}", self.proxy.address)
    }

    pub fn home(&self) -> &Home {
        &self.stage.home
    }

    /// `valetd exec` with these words, in the company's network.
    pub fn exec(&self, arguments: &[&str]) -> Command {
        let mut command = self.home().valetd(&["exec"]);
        command.args(arguments).env("https_proxy", self.proxy_url());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.exec(arguments).output().expect("valetd runs")
    }

    /// The head that the upstream got, from what the command has printed, with a token of the account's.
    pub fn upstreams_head(&self, output: &Output) -> String {
        let head = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}", words(output));
        let fields: Vec<(&str, &str)> = head.lines().filter_map(|line| line.split_once(": ")).collect();
        let tokens: Vec<&str> = fields
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("authorization"))
            .map(|(_, value)| *value)
            .collect();
        assert!(tokens.len() == 1 && self.stage.is_ours(tokens[0]), "{}", words(output));
        head
    }
}
