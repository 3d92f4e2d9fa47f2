//! What a tool and an API say to each other through the daemon in HTTP/1.1, when things go well and when either end leaves.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::support::http2::{Http2Client, rest};
use crate::support::stage::{COLD, Stage};
use crate::support::wire::{RawOrigin, Wire, eventually, soon};
use crate::support::{Daemon, free_address};

// --- what a route changes --------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_route_edits_fields_puts_the_token_into_the_query_and_blots_it_out() {
    let origin = RawOrigin::start().await;
    let edits = "request_headers = { add = { User-Agent = \"lab/1\", X-Api-Key = { file = \"key\" } }, \
                 remove = [\"cookie\"] }\ntoken_query = \"access_token\"\nscrub = true";
    let stage = Stage::leading_to(&origin.url, &format!("{COLD}\n{edits}"));
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

async fn ended(daemon: &mut Daemon<'_>) -> ExitStatus {
    eventually("it ends", || daemon.child.try_wait().expect("waited")).await
}

/// Waits until nobody takes a connection there.
async fn closed(address: &str) {
    eventually("it listens no more", || std::net::TcpStream::connect(address).is_err().then_some(())).await;
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
    let stage = Stage::leading_to(&origin.url, COLD);
    stage.home.write_config(&format!("drain = \"20s\"\n{}", stage.config(&origin.url, COLD)));
    let mut daemon = stage.start();
    let (mut reader, mut writer) = open_stream(&stage, &origin).await;
    let (mut client, mut up) = open_tunnel(&stage, &origin).await;
    let mut http2 = Http2Client::connect(&stage.address).await;
    let (answer, _) = http2.send("GET", "/api/h2", true).await;
    let mut answering = origin.accept().await;
    answering.head().await;
    let start = Instant::now();
    daemon.tell("TERM");
    closed(&stage.address).await;
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
    let stage = Stage::leading_to(&origin.url, COLD);
    stage.home.write_config(&format!("drain = \"1s\"\n{}", stage.config(&origin.url, COLD)));
    let mut daemon = stage.start();
    let (mut reader, _writer) = open_stream(&stage, &origin).await;
    let (mut client, _up) = open_tunnel(&stage, &origin).await;
    let start = Instant::now();
    daemon.tell("TERM");
    assert!(ended(&mut daemon).await.success());
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    let rest = reader.until_closed().await;
    assert!(!rest.contains("0\r\n\r\n"), "cut off, not ended: {rest:?}");
    client.until_closed().await;
}

#[tokio::test]
async fn a_listener_that_leaves_the_configuration_takes_no_more_and_cuts_off_nobody() {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(&origin.url, COLD);
    let other = free_address();
    let config = stage.config(&origin.url, COLD);
    stage.home.write_config(&config.replace("]\n[account", &format!(", \"{other}\"]\n[account")));
    let daemon = stage.start();
    let mut client = Wire::connect(&other).await;
    client.send(format!("GET /api/x HTTP/1.1\r\nHost: {other}\r\n\r\n")).await;
    let mut up = origin.accept().await;
    up.head().await;
    stage.home.write_config(&config);
    closed(&other).await;
    up.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert!(client.until("ok").await.starts_with("HTTP/1.1 200"));
    assert!(TcpStream::connect(&stage.address).await.is_ok());
    drop(daemon);
}

/// Between two bytes of a head that never ends: so often that no end of silence cuts it off.
const DRIP: Duration = Duration::from_millis(400);

#[tokio::test]
async fn heads_that_drip_are_cut_off_and_delay_nobody() {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(&origin.url, COLD);
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
                    () = sleep(DRIP), if number % 3 == 0 => {
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
    // before any of the others is cut off, on a machine that may be busy
    assert!(slowest < Duration::from_secs(8), "{slowest:?}");
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
    let stage = Stage::leading_to(&origin.url, COLD);
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

/// Sends `size` bytes up and gets as many down, in HTTP/1.1 and in HTTP/2, and sees how much memory that took.
async fn carry(size: u64, most_kib: u64) {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(&origin.url, COLD);
    let daemon = stage.start();
    let chunk = vec![b'x'; 1 << 20];
    let before = daemon.memory("VmHWM");
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
    let grown = daemon.memory("VmHWM") - before;
    eprintln!("{size} bytes each way in {:?}; memory grew by {grown} KiB from {before} KiB", start.elapsed());
    assert!(grown < most_kib, "{grown} KiB");
    drop(daemon);
}

#[tokio::test]
async fn large_bodies_pass_at_flat_memory() {
    carry(128 << 20, 16 << 10).await;
}

#[tokio::test]
#[ignore = "minutes"]
async fn soak_10_gib_each_way_at_flat_memory() {
    carry(10 << 30, 16 << 10).await;
}
