//! APIs that mean no good: whatever they send or keep back, an exchange with them ends in its route's time, costs little
//! memory, and delays no other route.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::support::frames::{STATUS_200, frame};
use crate::support::stage::Stage;
use crate::support::wire::{Wire, serving};

/// What an API sends once it has been asked: something first, and then the same again and again.
struct Row {
    name: &'static str,
    first: Vec<u8>,
    again: Vec<u8>,
    /// Between two times; none for as fast as it goes.
    pause: Option<Duration>,
}

/// An exchange that lasts longer does not end: its route allows a second of silence, and the machine may be busy.
const ENDLESS: Duration = Duration::from_secs(20);

/// An answer on another route that takes longer has been delayed.
const DELAYED: Duration = Duration::from_secs(5);

const DRIP: Option<Duration> = Some(Duration::from_millis(100));

fn row(name: &'static str, first: impl AsRef<[u8]>, again: impl AsRef<[u8]>, pause: Option<Duration>) -> Row {
    Row { name, first: first.as_ref().to_vec(), again: again.as_ref().to_vec(), pause }
}

fn http1() -> Vec<Row> {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    vec![
        row("nothing", "", "", DRIP),
        row("interim answers, slowly", "", interim, DRIP),
        row("interim answers, fast", "", interim.repeat(100), None),
        row("a head, slowly", "HTTP/1.1 200 OK\r\nX: ", "x", DRIP),
        row("a head without end", "HTTP/1.1 200 OK\r\n", "X: y\r\n".repeat(100), None),
        row("a field without end", "HTTP/1.1 200 OK\r\nX: ", "y".repeat(1000), None),
        row("empty lines before a head", "", "\r\n", DRIP),
        row("a chunk's size, slowly", chunked, "0", DRIP),
        row("a chunk's extension, slowly", [chunked, "1;"].concat(), "x", DRIP),
        row("a chunk's extension without end", [chunked, "1;"].concat(), "x".repeat(1000), None),
        row("trailers, slowly", [chunked, "0\r\nX: "].concat(), "x", DRIP),
        row("trailers without end", [chunked, "0\r\n"].concat(), "X: y\r\n".repeat(100), None),
    ]
}

fn http2() -> Vec<Row> {
    const STATUS_103: &[u8] = b"\x08\x03103";
    let head = frame(1, 4, 1, STATUS_200);
    let many = |frame: Vec<u8>| frame.repeat(100);
    vec![
        row("nothing", "", "", DRIP),
        row("PING, slowly", "", frame(6, 0, 0, b"12345678"), DRIP),
        row("PING, fast", "", many(frame(6, 0, 0, b"12345678")), None),
        row("SETTINGS, slowly", "", frame(4, 0, 0, b""), DRIP),
        row("SETTINGS, fast", "", many(frame(4, 0, 0, b"")), None),
        row("frames that nobody knows", "", many(frame(0xbe, 0, 0, b"x")), None),
        row("interim answers, slowly", "", frame(1, 4, 1, STATUS_103), DRIP),
        row("interim answers, fast", "", many(frame(1, 4, 1, STATUS_103)), None),
        row("interim answers that unfold, fast", "", many(frame(1, 4, 1, &[STATUS_103, &[0x90; 30]].concat())), None),
        row("a head, slowly", frame(1, 0, 1, STATUS_200), frame(9, 0, 1, b""), DRIP),
        row("a head without end", frame(1, 0, 1, STATUS_200), many(frame(9, 0, 1, b"\x00\x01x\x01y")), None),
        row("empty DATA, slowly", head.clone(), frame(0, 0, 1, b""), DRIP),
        row("empty DATA, fast", head.clone(), many(frame(0, 0, 1, b"")), None),
        row("padding alone, slowly", head.clone(), frame(0, 8, 1, &[3, 0, 0, 0]), DRIP),
        row("PING after the head, slowly", head, frame(6, 0, 0, b"12345678"), DRIP),
    ]
}

/// Serves one connection as the row says, until the other end closes.
async fn serve(mut stream: TcpStream, Row { first, again, pause, .. }: &Row, is_http2: bool) {
    let (mut from, mut to) = stream.split();
    let mut asked = vec![0; 4096];
    if is_http2 && to.write_all(&frame(4, 0, 0, b"")).await.is_err() {
        return;
    }
    // a request, whose head is the first frame of a stream
    let mut request = Vec::new();
    let is_there = |request: &[u8]| match is_http2 {
        true => request.windows(6).any(|part| part[0] == 1 && part[2..] == [0, 0, 0, 1]),
        false => request.ends_with(b"\r\n\r\n"),
    };
    while !is_there(&request) {
        if from.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    if to.write_all(first).await.is_err() {
        return;
    }
    let reads = async { while from.read(&mut asked).await.unwrap_or(0) > 0 {} };
    let writes = async {
        while to.write_all(again).await.is_ok() {
            match pause {
                Some(pause) => sleep(*pause).await,
                None => tokio::task::yield_now().await,
            }
        }
    };
    tokio::select! { () = reads => {}, () = writes => {} }
}

async fn story(rows: Vec<Row>, is_http2: bool) {
    let honest = serving(|_, stream| async move {
        let mut up = Wire::on(stream);
        up.head_for_long().await;
        up.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
    });
    let url = format!("http://{}", honest.await);
    let mut failures = Vec::new();
    for row in rows {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let settings = format!(
            "idle_timeout = \"1s\"\nhttp2 = {is_http2}\n[route.honest]\naccount = \"gbdx\"\nupstream = \"{url}\"\n"
        );
        let stage = Stage::leading_to(&format!("http://{address}"), &settings);
        let daemon = stage.start();
        let before = daemon.memory("VmHWM");
        let asks = async {
            let start = Instant::now();
            if is_http2 {
                let tcp = TcpStream::connect(&stage.address).await.expect("the daemon listens");
                let (mut sender, connection) = h2::client::handshake(tcp).await.expect("a handshake");
                tokio::spawn(async move { drop(connection.await) });
                let request = hyper::Request::get(format!("http://{}/api/x", stage.address)).body(()).expect("a head");
                let (answer, _) = sender.send_request(request, true).expect("sent");
                if let Ok(answer) = answer.await {
                    let mut body = answer.into_body();
                    while let Some(Ok(_)) = body.data().await {}
                }
            } else {
                let mut client = Wire::connect(&stage.address).await;
                client
                    .send(format!("GET /api/x HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", stage.address))
                    .await;
                client.until_closed().await;
            }
            start.elapsed()
        };
        let others = async {
            let mut slowest = Duration::ZERO;
            loop {
                sleep(Duration::from_millis(100)).await; // the pace of a neighbour
                let start = Instant::now();
                let mut client = Wire::connect(&stage.address).await;
                client
                    .send(format!("GET /honest/x HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", stage.address))
                    .await;
                assert!(client.until_closed().await.ends_with("ok"));
                slowest = slowest.max(start.elapsed());
                if slowest > DELAYED {
                    return slowest;
                }
            }
        };
        let serves = async {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                serve(stream, &row, is_http2).await;
            }
        };
        let name = row.name;
        tokio::select! {
            lasted = tokio::time::timeout(ENDLESS, asks) => match lasted {
                Ok(lasted) => eprintln!("{name}: {lasted:?}, {} KiB", daemon.memory("VmHWM") - before),
                Err(_) => failures.push(format!("{name}: it does not end")),
            },
            slowest = others => failures.push(format!("{name}: another route took {slowest:?}")),
            () = serves => {}
        }
        let grown = daemon.memory("VmHWM") - before;
        if grown > 16 * 1024 {
            failures.push(format!("{name}: {grown} KiB"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[tokio::test]
async fn an_api_that_speaks_http1_can_neither_hold_an_exchange_nor_fill_the_memory() {
    story(http1(), false).await;
}

#[tokio::test]
async fn an_api_that_speaks_http2_can_neither_hold_an_exchange_nor_fill_the_memory() {
    story(http2(), true).await;
}
