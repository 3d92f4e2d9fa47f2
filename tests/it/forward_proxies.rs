//! A company's proxy on the way out: CONNECT or SOCKS 5, for upstreams and for token endpoints.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::support::http2::{Http2Client, Http2Origin, rest};
use crate::support::stage::Stage;
use crate::support::tls::certified_for;
use crate::support::upstreams::mirror;
use crate::support::wire::Wire;
use crate::support::{Daemon, eventually, get, words};

/// What is on the other side of the proxy: names that nobody here can look up, and an address that leads nowhere.
const NAMES: [&str; 4] = ["api.example", "auth.example", "192.0.2.1", "127.0.0.1"];

const LOGIN: &str = "me:p w";

/// How a proxy behaves.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Open,
    /// Asks for [`LOGIN`].
    Guarded,
    Refusing,
    /// Takes a connection and says nothing.
    Silent,
}

/// One tunnel: where to, and what went up through it.
#[derive(Default, Clone)]
struct Tunnel {
    target: String,
    bytes: Vec<u8>,
}

type Tunnels = Arc<Mutex<Vec<Tunnel>>>;

/// Everything outside of the daemon.
struct World {
    runtime: Handle,
    folder: tempfile::TempDir,
    tls: TlsAcceptor,
    /// Everything ends with it.
    _stop: oneshot::Sender<()>,
}

struct Proxy {
    address: SocketAddr,
    tunnels: Tunnels,
}

impl World {
    fn new() -> Self {
        let own = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let runtime = own.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::spawn(move || own.block_on(stopped));
        let folder = tempfile::tempdir().expect("a folder");
        let tls = certified_for(folder.path(), &NAMES, &[b"http/1.1"]);
        Self { runtime, folder, tls, _stop: stop }
    }

    fn trust(&self) -> String {
        format!("extra_ca = \"{}\"", self.folder.path().join("ca.pem").display())
    }

    fn listener(&self) -> (TcpListener, SocketAddr) {
        let listener = self.runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address");
        (listener, address)
    }

    /// TLS before a server in the clear.
    fn behind_tls(&self, server: &str) -> SocketAddr {
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
    fn proxy(&self, manner: Manner, over_tls: bool, origin: SocketAddr, auth: SocketAddr) -> Proxy {
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
    fn targets(&self) -> Vec<String> {
        self.tunnels.lock().expect("no panic").iter().map(|tunnel| tunnel.target.clone()).collect()
    }

    /// Whether something that went up through it contains this.
    fn has_seen(&self, part: &str) -> bool {
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

/// A daemon in whose environment this is said.
fn start<'a>(stage: &'a Stage, environment: &[(&str, &str)]) -> Daemon<'a> {
    let mut command = stage.home.valetd(&["run", "--log", "debug"]);
    command.envs(environment.iter().copied());
    let daemon = stage.home.start_as(command);
    daemon.until("gbdx", "usable");
    daemon
}

/// The configuration of a stage whose account says this, too.
fn with_account(stage: &Stage, account: &str, upstream: &str, settings: &str) -> String {
    let config = stage.config(upstream, settings);
    config.replacen("[account.gbdx]\n", &format!("[account.gbdx]\n{account}\n"), 1)
}

#[test]
fn each_kind_of_proxy_carries_requests_and_sees_neither_token_nor_path() {
    let world = World::new();
    let origin = world.behind_tls(&mirror());
    let stage = Stage::leading_to("https://api.example", &world.trust());
    let rows = [
        ("CONNECT", "http://", Manner::Open, false, "https://api.example", "api.example:443"),
        ("CONNECT with Basic", "http://me:p%20w@", Manner::Guarded, false, "https://api.example", "api.example:443"),
        (
            "CONNECT over TLS",
            "https://me:p%20w@",
            Manner::Guarded,
            true,
            "https://api.example:8443",
            "api.example:8443",
        ),
        ("CONNECT to an address", "", Manner::Open, false, "https://192.0.2.1", "192.0.2.1:443"),
        ("SOCKS with a name", "socks5h://", Manner::Open, false, "https://api.example", "api.example:443"),
        ("SOCKS with a login", "socks5h://me:p%20w@", Manner::Guarded, false, "https://api.example", "api.example:443"),
        ("SOCKS with an address", "socks5://", Manner::Open, false, "https://192.0.2.1", "192.0.2.1:443"),
    ];
    for (name, before, manner, over_tls, upstream, target) in rows {
        let proxy = world.proxy(manner, over_tls, origin, origin);
        stage.home.write_config(&stage.config(upstream, &world.trust()));
        let url = format!("{before}{}", proxy.address);
        let daemon = start(&stage, &[("https_proxy", &url), ("NO_PROXY", "elsewhere.example")]);
        let answer = get(&stage.address, "/api/deep/path").expect("an answer");
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let head = answer.text();
        let authorization =
            head.lines().find_map(|line| line.strip_prefix("Authorization: ").or(line.strip_prefix("authorization: ")));
        assert!(stage.is_ours(authorization.expect("a token")), "{name}: {head}");
        assert!(!head.to_ascii_lowercase().contains("proxy-"), "{name}: {head}");
        assert_eq!(proxy.targets(), [target], "{name}");
        assert!(!proxy.has_seen("deep/path") && !proxy.has_seen("earer"), "{name}");

        // shown without its secret, wherever it is shown
        let shown = daemon.status()["routes"].to_string();
        assert!(shown.contains(&proxy.address.to_string()), "{name}: {shown}");
        let log = daemon.log();
        for secret in ["p%20w", "p w@", LOGIN, "bWU6cCB3"] {
            assert!(!shown.contains(secret) && !log.contains(secret), "{name}: {secret}");
        }
    }
}

#[test]
fn a_proxy_that_does_not_let_through_is_said_and_nothing_goes_past_it() {
    let world = World::new();
    let origin = world.behind_tls(&mirror());
    let settings = format!("{}\nconnect_timeout = \"1s\"", world.trust());
    let stage = Stage::leading_to("https://api.example", &settings);
    let rows = [
        ("407", "http://", Manner::Guarded, 502, "wants a user name and password (Basic)"),
        ("a wrong password", "http://me:hunter2@", Manner::Guarded, 502, "refuses the user name and password (Basic)"),
        ("403", "http://", Manner::Refusing, 502, "it answered 403"),
        ("silence", "http://", Manner::Silent, 504, ""),
        ("SOCKS without a login", "socks5h://", Manner::Guarded, 502, "wants a user name and password"),
        ("SOCKS, forbidden", "socks5h://", Manner::Refusing, 502, "its rules forbid it"),
        ("SOCKS, silence", "socks5h://", Manner::Silent, 504, ""),
        ("no such kind", "gopher://me:hunter2@", Manner::Open, 502, "HTTPS_PROXY has a scheme gopher"),
    ];
    for (name, before, manner, status, part) in rows {
        let proxy = world.proxy(manner, false, origin, origin);
        let url = format!("{before}{}", proxy.address);
        let daemon = start(&stage, &[("HTTPS_PROXY", &url)]);
        let begun = Instant::now();
        let answer = get(&stage.address, "/api/x").expect("an answer");
        assert_eq!(answer.status, status, "{name}: {}", answer.text());
        assert!(begun.elapsed() < Duration::from_secs(10), "{name}: {:?}", begun.elapsed());
        let log = daemon.log();
        assert!(answer.text().contains(part) || log.contains(part), "{name}: {}\n{log}", answer.text());
        assert!(!answer.text().contains("hunter2") && !log.contains("hunter2"), "{name}: {log}");
        assert!(proxy.targets().is_empty(), "{name}");
    }
}

#[test]
fn a_reload_moves_an_accounts_requests_to_its_new_proxy_and_its_token_requests_too() {
    let world = World::new();
    let origin = world.behind_tls(&mirror());
    let stage = Stage::leading_to("https://api.example", "");
    let auth = world.behind_tls(stage.gbdx.url().strip_prefix("http://").expect("in the clear"));
    let (one, other) =
        (world.proxy(Manner::Open, false, origin, auth), world.proxy(Manner::Guarded, false, origin, auth));
    let through = |proxy: &str| {
        let account = format!("{}\nproxy = \"{proxy}\"", world.trust());
        let config = with_account(&stage, &account, "https://api.example", "");
        let local = stage.gbdx.token_endpoint();
        let (_, path) = local.strip_prefix("http://").expect("in the clear").split_once('/').expect("a path");
        config.replace(&local, &format!("https://auth.example/{path}"))
    };
    // where a proxy is named, NO_PROXY is for others
    stage.home.write_config(&through(&format!("socks5h://{}", one.address)));
    let sign_in = stage.gbdx.sign_in();
    let output = stage.home.run_with_input(&["login", "gbdx", "--refresh-token-stdin", "--untried"], sign_in.expose());
    assert!(output.status.success(), "{}", words(&output));
    let daemon = start(&stage, &[("HTTPS_PROXY", "http://127.0.0.1:1"), ("NO_PROXY", "*")]);
    assert_eq!(get(&stage.address, "/api/x").expect("an answer").status, 200);
    assert_eq!(get(&stage.address, "/api/x").expect("an answer").status, 200);
    assert_eq!(one.targets().iter().filter(|target| *target == "auth.example:443").count(), 1, "{:?}", one.targets());
    assert!(one.targets().contains(&"api.example:443".to_owned()), "{:?}", one.targets());
    let before = one.targets().len();

    stage.home.write_config(&through(&format!("http://me:p%20w@{}", other.address)));
    let file = stage.home.path("config/valetd/config.toml");
    std::fs::set_permissions(file, PermissionsExt::from_mode(0o600)).expect("for nobody else's eyes");
    assert!(stage.home.run(&["reload"]).status.success(), "{}", daemon.log());
    assert_eq!(get(&stage.address, "/api/x").expect("an answer").status, 200, "{}", daemon.log());
    assert_eq!(other.targets(), ["api.example:443"]);
    let output = stage.home.run(&["refresh", "gbdx"]);
    assert!(output.status.success(), "{}", words(&output));
    eventually("the token request goes through the new one", || {
        other.targets().contains(&"auth.example:443".to_owned()).then_some(())
    });
    assert_eq!(one.targets().len(), before, "{:?}", one.targets());
    assert!(!other.has_seen("refresh_token") && !one.has_seen("refresh_token"));

    // and a loopback upstream is asked of none
    let here = through("http://127.0.0.1:1").replace("https://api.example", &format!("http://{}", mirror()));
    stage.home.write_config(&here);
    assert!(stage.home.run(&["reload"]).status.success(), "{}", daemon.log());
    assert_eq!(get(&stage.address, "/api/ping").expect("an answer").status, 200, "{}", daemon.log());
}

#[test]
fn http_2_and_websockets_go_through_a_proxy() {
    let world = World::new();
    let h2 = certified_for(world.folder.path(), &NAMES, &[b"h2", b"http/1.1"]);
    let trust = world.trust();
    let mut origin = world.runtime.block_on(Http2Origin::start(Some(h2)));
    let stage = Stage::leading_to("https://api.example", &format!("{trust}\nhttp2 = true"));
    let address = origin.address.parse().expect("an address");
    let proxy = world.proxy(Manner::Open, false, address, address);
    let url = format!("http://{}", proxy.address);
    let daemon = start(&stage, &[("ALL_PROXY", &url)]);
    world.runtime.block_on(async {
        let mut client = Http2Client::connect(&stage.address).await;
        for _ in 0..3 {
            let (answer, _) = client.send("GET", "/api/x", true).await;
            let mut asked = origin.next().await;
            assert_eq!(asked.request.uri().authority().map(|at| at.as_str()), Some("api.example"));
            asked.answer().send_data(Bytes::from_static(b"yes"), true).expect("sent");
            let mut answer = answer.await.expect("an answer");
            assert_eq!(rest(answer.body_mut()).await.expect("whole").0, b"yes");
        }
    });
    assert_eq!(proxy.targets(), ["api.example:443"], "one connection for all");
    drop(daemon);

    // a protocol that is switched to: the echo of what comes behind the head
    let (listener, echo) = world.listener();
    let world = World { tls: certified_for(world.folder.path(), &NAMES, &[b"http/1.1"]), ..world };
    world.runtime.spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(tcp.read_u8().await.expect("a head"));
            }
            let yes = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
            tcp.write_all(yes.as_bytes()).await.expect("sent");
            let (mut from, mut to) = tcp.split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
        }
    });
    let origin = world.behind_tls(&echo.to_string());
    let proxy = world.proxy(Manner::Open, false, origin, origin);
    let url = format!("socks5h://{}", proxy.address);
    let _daemon = start(&stage, &[("ALL_PROXY", &url)]);
    world.runtime.block_on(async {
        let mut wire = Wire::connect(&stage.address).await;
        wire.send(format!(
            "GET /api/x HTTP/1.1\r\nHost: {}\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
            stage.address
        ))
        .await;
        assert!(wire.head().await.starts_with("HTTP/1.1 101 "));
        wire.send("hello").await;
        assert_eq!(wire.exactly(5).await, "hello");
    });
    assert_eq!(proxy.targets(), ["api.example:443"]);
}

#[test]
fn doctor_shows_the_way_to_each_server_without_its_secret() {
    let world = World::new();
    let origin = world.behind_tls(&mirror());
    let stage = Stage::leading_to("https://api.example", &world.trust());
    let proxy = world.proxy(Manner::Guarded, false, origin, origin);
    let mut command = stage.home.valetd(&["doctor"]);
    command.env("HTTPS_PROXY", format!("http://me:p%20w@{}", proxy.address));
    let output = words(&command.output().expect("valetd runs"));
    let output = output.split_whitespace().collect::<Vec<_>>().join(" "); // wherever its lines end
    let expected = format!("https://api.example (through http://{}) answers (HEAD: 200)", proxy.address);
    assert!(output.contains(&expected), "{output}");
    assert!(!output.contains("p%20w") && !output.contains("p w"), "{output}");
    let direct = format!("{} answers", stage.gbdx.url());
    assert!(output.contains(&direct), "{output}");
}
