//! A company's proxy on the way out: CONNECT or SOCKS 5, for upstreams and for token endpoints.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::company::{LOGIN, Manner, NAMES, World};
use crate::support::http2::{Http2Client, Http2Origin, rest};
use crate::support::stage::Stage;
use crate::support::tls::certified_for;
use crate::support::upstreams::mirror;
use crate::support::wire::Wire;
use crate::support::{Daemon, eventually, get, words};

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
