//! Authority ends with what gave it: when a client key is revoked or expires, when a command with a key of its own ends, and
//! when an account is logged out, everything that still runs by it is cut, in every protocol, on both sides, at once.

use std::io::Write;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::support::http2::{Http2Client, some};
use crate::support::keys::{add, line, ordered};
use crate::support::stage::{COLD, Stage};
use crate::support::wire::{Wire, eventually, serving, soon};
use crate::support::{Daemon, words};

/// An upstream with answers that never end: how often it was asked for one, and how many of its connections are open.
struct Endless {
    url: String,
    asked: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl Endless {
    async fn start() -> Self {
        let (asked, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counts = (asked.clone(), open.clone());
        let address = serving(move |_, stream| {
            let (asked, open) = counts.clone();
            async move {
                open.fetch_add(1, Ordering::SeqCst);
                let mut up = Wire::on(stream);
                while let Some(head) = up.head_for_long().await {
                    if head.starts_with("GET /short") {
                        up.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                        continue;
                    }
                    asked.fetch_add(1, Ordering::SeqCst);
                    if head.starts_with("GET /tunnel") {
                        up.send(
                            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello",
                        )
                        .await;
                    } else if head.starts_with("GET /events") {
                        let event =
                            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
                        up.send(format!("{event}5\r\nhello\r\n")).await;
                    } else if head.starts_with("GET /flood") {
                        up.send("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nhello").await;
                        while tokio::io::AsyncWriteExt::write_all(&mut up.stream, &[b'x'; 65536]).await.is_ok() {}
                    }
                    let mut byte = [0];
                    while up.stream.read(&mut byte).await.is_ok_and(|read| read > 0) {}
                    break;
                }
                open.fetch_sub(1, Ordering::SeqCst);
            }
        });
        Self { url: format!("http://{}", address.await), asked, open }
    }

    /// Waits until nothing runs upstream any more.
    async fn is_left_alone(&self, case: &str) {
        let open = || (self.open.load(Ordering::SeqCst) == 0).then_some(());
        eventually(&format!("{case}: the upstream's connections are closed"), open).await;
    }
}

/// How soon everything ends with its authority.
const AT_ONCE: Duration = Duration::from_secs(5);

/// What a client has running.
enum Running {
    Http1(&'static str, Wire),
    Http2(hyper::Response<h2::RecvStream>),
    /// Nothing has been answered yet.
    Waiting(Wire),
    WaitingInHttp2(h2::client::ResponseFuture),
}

/// One of everything, by this key or without; all of it has got to the upstream.
async fn all_kinds(stage: &Stage, upstream: &Endless, key: Option<&str>) -> Vec<Running> {
    let before = upstream.asked.load(Ordering::SeqCst);
    let mut running = Vec::new();
    let field = key.map(|key| format!("X-Valetd-Key: {key}\r\n")).unwrap_or_default();
    let ask = async |path: &str, more: &str| {
        let mut client = Wire::connect(&stage.address).await;
        client.send(format!("GET /api/{path} HTTP/1.1\r\nHost: {}\r\n{field}{more}\r\n", stage.address)).await;
        client
    };
    for (kind, more) in [("events", ""), ("flood", ""), ("tunnel", "Connection: upgrade\r\nUpgrade: echo\r\n")] {
        let mut client = ask(kind, more).await;
        let head = client.until("hello").await;
        assert!(head.starts_with(if kind == "tunnel" { "HTTP/1.1 101" } else { "HTTP/1.1 200" }), "{kind}: {head}");
        running.push(Running::Http1(kind, client));
    }
    running.push(Running::Waiting(ask("wait", "").await));
    if let Some(key) = key {
        // as a path's first segment, on a connection that has served others
        let mut client = Wire::connect(&stage.address).await;
        client.send(format!("GET /api/short HTTP/1.1\r\nHost: {}\r\n\r\n", stage.address)).await;
        assert!(client.until("ok").await.starts_with("HTTP/1.1 200"));
        client.send(format!("GET /{key}/api/events HTTP/1.1\r\nHost: {}\r\n\r\n", stage.address)).await;
        client.until("hello").await;
        running.push(Running::Http1("behind another", client));
    }
    let prefix = key.map(|key| format!("/{key}")).unwrap_or_default();
    let mut client = Http2Client::connect(&stage.address).await;
    for path in ["events", "flood"] {
        let mut answer = client.get(&format!("{prefix}/api/{path}")).await;
        assert!(some(answer.body_mut()).await.starts_with(b"hello"));
        running.push(Running::Http2(answer));
    }
    let (waiting, _) = client.send("GET", &format!("{prefix}/api/wait"), true).await;
    running.push(Running::WaitingInHttp2(waiting));
    let is_asked = || (upstream.asked.load(Ordering::SeqCst) == before + running.len()).then_some(());
    eventually("all of it is sent up", is_asked).await;
    running
}

/// Sees that everything has been cut, and that what waits for an answer is told why.
async fn is_cut(case: &str, running: Vec<Running>, status: u16, patience: Duration) {
    for one in running {
        match one {
            Running::Http1(kind, mut client) => {
                let end = async {
                    let mut buffer = vec![0; 65536];
                    while client.stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
                };
                timeout(patience, end).await.unwrap_or_else(|_| panic!("{case}: {kind} goes on"));
            }
            Running::Http2(mut answer) => {
                let end = async {
                    loop {
                        match answer.body_mut().data().await {
                            Some(Ok(data)) => drop(answer.body_mut().flow_control().release_capacity(data.len())),
                            Some(Err(_)) => return true,
                            None => return false,
                        }
                    }
                };
                let is_reset = timeout(patience, end).await;
                assert!(is_reset.unwrap_or_else(|_| panic!("{case}: a stream goes on")), "{case}: half looks whole");
            }
            Running::Waiting(mut client) => {
                let head = client.head().await;
                assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{case}: {head}");
            }
            Running::WaitingInHttp2(answer) => {
                assert_eq!(soon(answer).await.expect("an answer").status(), status, "{case}");
            }
        }
    }
}

fn run(stage: &Stage, arguments: &[&str]) {
    let output = stage.home.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", words(&output));
}

async fn goes_on(stage: &Stage, other: &mut Wire, daemon: &Daemon<'_>) {
    let more = timeout(Duration::from_millis(300), other.stream.read(&mut [0; 9])).await;
    assert!(more.is_err(), "another key's stream was cut: {more:?}");
    let mut client = Wire::connect(&stage.address).await;
    client.send(format!("GET /api/short HTTP/1.1\r\nHost: {}\r\n\r\n", stage.address)).await;
    assert!(client.until("ok").await.starts_with("HTTP/1.1 200"), "{}", daemon.log());
}

#[tokio::test]
async fn what_runs_by_a_key_ends_when_the_key_is_revoked() {
    let upstream = Endless::start().await;
    let stage = Stage::leading_to(&upstream.url, COLD);
    let daemon = stage.start();
    let (key, other) = (add(&stage.home, "one", &["--route", "api"]), add(&stage.home, "two", &["--route", "api"]));
    let mut others = Wire::connect(&stage.address).await;
    others.send(format!("GET /{other}/api/events HTTP/1.1\r\nHost: {}\r\n\r\n", stage.address)).await;
    others.until("hello\r\n").await;
    let running = all_kinds(&stage, &upstream, Some(&key)).await;
    run(&stage, &["key", "revoke", "one"]);
    is_cut("revoked", running, 403, AT_ONCE).await;
    goes_on(&stage, &mut others, &daemon).await;
    run(&stage, &["key", "revoke", "two"]);
    is_cut("revoked, too", vec![Running::Http1("the other's", others)], 403, AT_ONCE).await;
    drop(daemon);
    upstream.is_left_alone("revoked").await;
}

#[tokio::test]
async fn what_runs_by_a_key_ends_when_the_key_expires() {
    let upstream = Endless::start().await;
    let stage = Stage::leading_to(&upstream.url, COLD);
    let daemon = stage.start();
    let key = add(&stage.home, "short", &["--route", "api", "--expires", "8s"]);
    let running = all_kinds(&stage, &upstream, Some(&key)).await;
    is_cut("expired", running, 403, Duration::from_secs(8) + AT_ONCE).await;
    drop(daemon);
    upstream.is_left_alone("expired").await;
}

#[tokio::test]
async fn what_runs_by_a_commands_key_ends_with_the_command() {
    let upstream = Endless::start().await;
    let stage = Stage::leading_to(&upstream.url, COLD);
    let daemon = stage.start();
    let (mut held, mut answer) = line(&stage.home);
    let body = r#"{"routes": ["api"], "ephemeral": true}"#;
    let order = format!("POST /v1/keys HTTP/1.1\r\nHost: v\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    held.write_all(order.as_bytes()).expect("sent");
    let key = ordered(&mut answer);
    let running = all_kinds(&stage, &upstream, Some(&key)).await;
    held.shutdown(Shutdown::Both).expect("hung up");
    is_cut("its command has ended", running, 403, AT_ONCE).await;
    drop(daemon);
    upstream.is_left_alone("its command has ended").await;
}

#[tokio::test]
async fn what_runs_by_an_account_ends_when_it_is_logged_out_though_it_is_signed_in_again() {
    let upstream = Endless::start().await;
    let stage = Stage::leading_to(&upstream.url, COLD);
    let daemon = stage.start();
    for turn in ["logged out", "logged out again, after a reload"] {
        let running = all_kinds(&stage, &upstream, None).await;
        if turn.ends_with("reload") {
            // the account gets another source of tokens, and its streams go on
            stage.home.write_config(&stage.config(&format!("{}/elsewhere", upstream.url), COLD));
            run(&stage, &["reload"]);
        }
        run(&stage, &["logout", "gbdx"]);
        stage.home.sign_in("gbdx", &stage.gbdx.sign_in());
        is_cut(turn, running, 503, AT_ONCE).await;
        daemon.until("gbdx", "usable");
    }
    drop(daemon);
    upstream.is_left_alone("logged out").await;
}

#[tokio::test]
async fn what_runs_by_an_account_ends_with_the_time_that_it_was_signed_in_for() {
    let upstream = Endless::start().await;
    let stage = Stage::leading_to(&upstream.url, COLD);
    let daemon = stage.start();
    let term = ["login", "gbdx", "--refresh-token-stdin", "--untried", "--for", "8s"];
    let output = stage.home.run_with_input(&term, stage.gbdx.sign_in().expose());
    assert!(output.status.success(), "{}", words(&output));
    let running = all_kinds(&stage, &upstream, None).await;
    is_cut("its time is over", running, 503, Duration::from_secs(8) + AT_ONCE).await;
    drop(daemon);
    upstream.is_left_alone("its time is over").await;
}

#[tokio::test]
async fn what_runs_goes_on_through_a_reload_and_a_renewal() {
    let upstream = Endless::start().await;
    let stage = Stage::leading_to(&upstream.url, COLD);
    let daemon = stage.start();
    let key = add(&stage.home, "one", &["--route", "api"]);
    let mut streams = Vec::new();
    for prefix in ["", &format!("/{key}")] {
        let mut client = Wire::connect(&stage.address).await;
        client.send(format!("GET {prefix}/api/events HTTP/1.1\r\nHost: {}\r\n\r\n", stage.address)).await;
        client.until("hello\r\n").await;
        streams.push(client);
    }
    run(&stage, &["refresh", "gbdx"]);
    stage.home.write_config(&stage.config(&upstream.url, "warm = \"0s\"\nidle_timeout = \"77s\""));
    run(&stage, &["reload"]);
    for mut stream in streams {
        goes_on(&stage, &mut stream, &daemon).await;
    }
    drop(daemon);
}

#[tokio::test]
async fn an_upload_that_goes_on_after_an_early_response_goes_no_further_once_its_right_has_ended() {
    let received = Arc::new(AtomicUsize::new(0));
    let closed = Arc::new(AtomicUsize::new(0));
    let counts = (received.clone(), closed.clone());
    let address = serving(move |_, stream| {
        let (count, closed) = counts.clone();
        async move {
            let mut up = Wire::on(stream);
            if up.head_for_long().await.is_some_and(|head| head.starts_with("POST ")) {
                up.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                let mut bytes = vec![0; 65536];
                while let Ok(read) = up.stream.read(&mut bytes).await {
                    if read == 0 {
                        break;
                    }
                    count.fetch_add(read, Ordering::SeqCst);
                }
                closed.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    let stage = Stage::leading_to(&format!("http://{address}"), COLD);
    let daemon = stage.start();
    for (round, by) in ["key", "logout"].into_iter().enumerate() {
        let key = add(&stage.home, &format!("agent{round}"), &["--route", "api"]);
        let mut client = Wire::connect(&stage.address).await;
        let head = format!(
            "POST /api/x HTTP/1.1\r\nHost: {}\r\nX-Valetd-Key: {key}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            stage.address
        );
        client.send(head).await;
        assert!(client.until("ok").await.starts_with("HTTP/1.1 200"), "{by}");
        client.send("7\r\nmorning\r\n").await;
        eventually("it goes on", || (received.load(Ordering::SeqCst) > 0).then_some(())).await;
        match by {
            "key" => assert!(stage.home.run(&["key", "revoke", &format!("agent{round}")]).status.success()),
            _ => assert!(stage.home.run(&["logout", "gbdx"]).status.success()),
        }
        let before = received.load(Ordering::SeqCst);
        for _ in 0..20 {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut client.stream, b"6\r\nsecret\r\n").await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        eventually("the upstream's connection is closed", || {
            (closed.load(Ordering::SeqCst) == round + 1).then_some(())
        })
        .await;
        assert_eq!(received.load(Ordering::SeqCst), before, "{by}: {}", daemon.log());
        received.store(0, Ordering::SeqCst);
    }
}
