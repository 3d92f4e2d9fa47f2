//! Where one message ends and the next begins: what belongs to a body is never changed and never a request, however early
//! its answer comes, however the bytes are cut, and whatever the upstream does with them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::support::PATIENCE;
use crate::support::stage::{COLD, Stage};
use crate::support::wire::{RawOrigin, Wire, serving, soon};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A body whose end is a request, should something before it grow: what hyper refuses in a target is three times as long
/// when it is escaped.
fn poisoned(address: &str) -> Vec<u8> {
    let hidden = format!("GET /api/delete-everything HTTP/1.1\r\nHost: {address}\r\nX: \"<`>\"\r\n\r\n");
    let grows = ["<", ">", "\"", "`"].iter().cycle().take(hidden.len().div_ceil(2)).copied().collect::<String>();
    // filled up where the request's length is odd, so that the framing would shift by just that
    format!("csv {grows}\n{}{hidden}", " ".repeat(hidden.len() % 2)).into_bytes()
}

#[tokio::test]
async fn the_end_of_a_body_is_no_request_though_its_answer_came_early() {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(&origin.url, COLD);
    let daemon = stage.start();
    let body = poisoned(&stage.address);
    for method in ["POST", "PUT"] {
        for chunked in [false, true] {
            let mut client = Wire::connect(&stage.address).await;
            let framing = match chunked {
                true => "Transfer-Encoding: chunked".to_owned(),
                false => format!("Content-Length: {}", body.len() + 5),
            };
            let first: &[u8] = if chunked { b"5\r\nfirst\r\n" } else { b"first" };
            client.send(format!("{method} /api/up HTTP/1.1\r\nHost: {}\r\n{framing}\r\n\r\n", stage.address)).await;
            client.send(first).await;
            let mut up = origin.accept().await;
            assert!(up.head().await.starts_with(&format!("{method} /up HTTP/1.1\r\n")));
            up.send(OK).await;
            assert!(client.until("ok").await.starts_with("HTTP/1.1 200"), "{method}");
            sleep(Duration::from_millis(100)).await; // the exchange is over, which shows nowhere
            if chunked {
                client.send(format!("{:x}\r\n", body.len())).await;
            }
            for part in body.chunks(97) {
                client.send(part).await;
                sleep(Duration::from_millis(5)).await; // so that each part is read by itself
            }
            if chunked {
                client.send("\r\n0\r\n\r\n").await;
            }
            let whole = String::from_utf8(body.clone()).expect("text");
            let end = if chunked { "\r\n0\r\n\r\n" } else { "X: \"<`>\"\r\n\r\n" };
            let got = up.until(end).await;
            assert!(got.replace("\r\n", "").contains(&whole.replace("\r\n", "")), "{method} {chunked}: {got}");
            // and nothing else
            let more = timeout(Duration::from_millis(100), up.stream.read_buf(&mut up.buffer)).await;
            assert!(matches!(more, Err(_) | Ok(Ok(0))), "{method} {chunked}: {}", text(&up.buffer));
        }
    }
    drop(daemon);
}

#[tokio::test]
async fn what_follows_a_body_that_nobody_read_is_no_request() {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(&origin.url, COLD);
    let daemon = stage.start();
    let body = poisoned(&stage.address);
    // refused before anything was read, by us
    for part in [1, 7, 97, 4096] {
        let mut client = Wire::connect(&stage.address).await;
        let length = body.len();
        client
            .send(format!("POST /nowhere HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n\r\n", stage.address))
            .await;
        assert!(client.head().await.starts_with("HTTP/1.1 404"));
        for part in body.chunks(part) {
            if client.stream.write_all(part).await.is_err() {
                break;
            }
        }
        let rest = client.until_closed().await;
        assert!(!rest.contains("HTTP/1.1"), "{part}: {rest}");
    }
    // and with the body at hand, the connection serves on
    let mut client = Wire::connect(&stage.address).await;
    let mut request =
        format!("POST /nowhere HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n", stage.address, body.len());
    request += std::str::from_utf8(&body).expect("text");
    client.send(&request).await;
    assert!(client.until("}\n").await.starts_with("HTTP/1.1 404"));
    client.send(format!("GET /api/after HTTP/1.1\r\nHost: {}\r\nX: \"<`>\"\r\n\r\n", stage.address)).await;
    let mut up = origin.accept().await;
    let head = up.head().await;
    assert!(head.starts_with("GET /after HTTP/1.1\r\n") && head.contains("x: \"<`>\"\r\n"), "{head}");
    drop(daemon);
}

#[tokio::test]
async fn a_head_keeps_every_byte_of_its_fields_wherever_it_is_cut() {
    let echo = serving(|_, stream| async move {
        let mut up = Wire::on(stream);
        while let Some(head) = up.head_for_long().await {
            let length = head.find("length: 4").map_or(0, |_| 4);
            let body = up.until("<\"`>").await.len().min(length);
            let note = head.lines().find_map(|line| line.strip_prefix("x-note: ")).unwrap_or("none");
            let said = format!("{} {note} {body}", head.lines().next().unwrap_or_default());
            up.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{said}", said.len())).await;
        }
    });
    let stage = Stage::leading_to(&format!("http://{}", echo.await), "");
    let daemon = stage.start();
    let note = "a \"b\" <c> `d`";
    // the first one's end comes with the second one's beginning
    let first = format!("POST /api/1 HTTP/1.1\r\nHost: {}\r\nContent-Length: 4\r\n\r\n<\"`>", stage.address);
    let second =
        format!("POST /api/2 HTTP/1.1\r\nHost: {}\r\nX-Note: {note}\r\nContent-Length: 4\r\n\r\n<\"`>", stage.address);
    let whole = format!("{first}{second}");
    for cut in first.len()..whole.len() {
        let mut client = Wire::connect(&stage.address).await;
        client.send(&whole[..cut]).await;
        client.until("none 4").await;
        sleep(Duration::from_millis(2)).await; // the first exchange is over, and only a piece of the next is there
        client.send(&whole[cut..]).await;
        let answer = client.until(" 4").await;
        assert!(answer.ends_with(&format!("POST /2 HTTP/1.1 {note} 4")), "cut at {}: {answer}", cut - first.len());
    }
    drop(daemon);
}

#[tokio::test]
async fn targets_as_typed_are_understood_after_requests_of_every_kind() {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(&origin.url, COLD);
    let daemon = stage.start();
    let here = &stage.address;
    let rows = [
        format!("GET /api/x HTTP/1.1\r\nHost: {here}\r\n\r\n"),
        format!("POST /api/x HTTP/1.1\r\nHost: {here}\r\nContent-Length: 9\r\n\r\n{{\"a\":\"b\"}}"),
        format!("POST /api/x HTTP/1.1\r\nHost: {here}\r\nContent-Length: 0\r\n\r\n"),
        format!("POST /api/x HTTP/1.1\r\nHost: {here}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        format!("HEAD /api/x HTTP/1.1\r\nHost: {here}\r\n\r\n"),
        format!("GET /nowhere HTTP/1.1\r\nHost: {here}\r\n\r\n"),
    ];
    for row in &rows {
        let mut client = Wire::connect(here).await;
        client.send(row).await;
        if !row.contains("nowhere") {
            let mut up = origin.accept().await;
            up.head().await;
            match row.split_once("\r\n\r\n") {
                Some((_, body)) if body.starts_with('{') => drop(up.until("}").await),
                Some((_, "")) | None => {}
                Some(_) => drop(up.until("0\r\n\r\n").await),
            }
            up.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        }
        client.head().await;
        client.buffer.clear();
        sleep(Duration::from_millis(20)).await; // the exchange is over, which shows nowhere
        client.buffer.clear();
        client.send(format!("GET /api/q?\"<`>\" HTTP/1.1\r\nHost: {here}\r\nConnection: close\r\n\r\n")).await;
        let mut up = origin.accept().await;
        let head = up.head().await;
        assert!(head.starts_with("GET /q?%22%3C%60%3E%22 HTTP/1.1\r\n"), "{row}: {head}");
        up.send(OK).await;
        assert!(client.until_closed().await.ends_with("ok"));
    }
    drop(daemon);
}

#[tokio::test]
async fn an_upload_goes_on_after_its_answer_for_longer_than_a_head_may_take() {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(&origin.url, COLD);
    let daemon = stage.start();
    let mut client = Wire::connect(&stage.address).await;
    client.send(format!("PUT /api/up HTTP/1.1\r\nHost: {}\r\nContent-Length: 121\r\n\r\nx", stage.address)).await;
    let mut up = origin.accept().await;
    up.head().await;
    up.send(OK).await;
    assert!(client.until("ok").await.starts_with("HTTP/1.1 200"));
    let start = Instant::now();
    for _ in 0..12 {
        sleep(Duration::from_secs(1)).await; // a head may take ten
        client.send("<\"`>\n<\"`>\n").await;
    }
    let got = up.until(&"<\"`>\n".repeat(24)).await;
    assert_eq!(got.len(), 121, "after {:?}: {got}", start.elapsed());
    client.send(format!("GET /api/after HTTP/1.1\r\nHost: {}\r\n\r\n", stage.address)).await;
    assert!(origin.accept().await.head().await.starts_with("GET /after HTTP/1.1\r\n"));
    assert_eq!(up.until_closed().await, "");
    drop(daemon);
}

/// When an upstream answers an upload, seen from the upload's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Before,
    /// It begins before and ends after.
    Around,
    After,
}

#[tokio::test]
async fn a_connection_whose_answer_came_before_its_requests_end_serves_no_other() {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(&origin.url, COLD);
    let daemon = stage.start();
    let here = &stage.address;
    for answer in [Answer::Before, Answer::Around, Answer::After] {
        for (method, framing, first, second) in [
            ("POST", "Content-Length: 11", "first", "second"),
            ("POST", "Transfer-Encoding: chunked", "5\r\nfirst\r\n", "6\r\nsecond\r\n0\r\n\r\n"),
            ("PUT", "Content-Length: 11", "", "firstsecond"),
            ("DELETE", "Transfer-Encoding: chunked", "5\r\nfirst\r\n6\r\nsecond\r\n", "0\r\n\r\n"),
        ] {
            let row = format!("{method} {framing} {answer:?}");
            let mut client = Wire::connect(here).await;
            client.send(format!("{method} /api/up HTTP/1.1\r\nHost: {here}\r\n{framing}\r\n\r\n{first}")).await;
            let mut up = origin.accept().await;
            up.head().await;
            let (early, late) = match answer {
                Answer::Before => (OK, ""),
                Answer::Around => OK.split_at(OK.len() - 1),
                Answer::After => ("", OK),
            };
            up.send(early).await;
            if let Some((_, body)) = early.split_once("\r\n\r\n") {
                client.head().await;
                client.until(body).await;
            }
            client.send(second).await;
            assert!(up.until(second).await.ends_with(second), "{row}");
            up.send(late).await;
            if !late.is_empty() {
                client.until("k").await;
            }
            client.send(format!("GET /api/after HTTP/1.1\r\nHost: {here}\r\n\r\n")).await;
            if answer == Answer::After {
                assert!(up.head().await.starts_with("GET /after HTTP/1.1\r\n"), "{row}");
                up.send(OK).await;
            } else {
                // though the first connection's end reads nothing more
                let mut other = origin.accept().await;
                assert!(other.head().await.starts_with("GET /after HTTP/1.1\r\n"), "{row}");
                other.send(OK).await;
            }
            assert!(client.until("ok").await.starts_with("HTTP/1.1 200"), "{row}");
            if answer != Answer::After {
                assert_eq!(up.until_closed().await, "", "{row}");
            }
        }
    }
    drop(daemon);
}

// --- any timing, any cut ---------------------------------------------------------------------------------------------

/// What an upstream does with an upload.
#[derive(Clone, Copy, Debug)]
struct Manners {
    /// It answers when it has read so much of the body; 0 is at once.
    answers_after: usize,
    answer: &'static str,
    then: Then,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    ReadsOn,
    ReadsNoMore,
    Closes,
    Resets,
    ClosesWithoutAnAnswer,
}

/// An upload and what follows, as a client sends it.
#[derive(Clone, Debug)]
struct Upload {
    body: Vec<u8>,
    chunked: bool,
    expects: bool,
    /// How the bytes after the head are cut, in thousandths of their length, and whether time passes then.
    cuts: Vec<(u16, bool)>,
    manners: Manners,
}

fn uploads() -> impl Strategy<Value = Upload> {
    let piece = prop_oneof![
        4 => "[<>\"`]{1,60}",
        2 => "[ -~]{0,40}",
        1 => Just("\r\n\r\n".to_owned()),
        1 => Just("\n".to_owned()),
        1 => Just("0\r\n\r\n".to_owned()),
        3 => Just("GET /api/delete-everything HTTP/1.1\r\nHost: HERE\r\n\r\n".to_owned()),
    ];
    let body = prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat());
    let answer = prop_oneof![
        Just("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        Just("HTTP/1.1 204 No Content\r\n\r\n"),
        Just("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
        Just("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        Just("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig"),
        Just(
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer error=\"insufficient_scope\"\r\nContent-Length: 0\r\n\r\n"
        ),
    ];
    let then = prop_oneof![
        4 => Just(Then::ReadsOn),
        1 => Just(Then::ReadsNoMore),
        1 => Just(Then::Closes),
        1 => Just(Then::Resets),
        1 => Just(Then::ClosesWithoutAnAnswer),
    ];
    let answers_after = prop_oneof![3 => Just(0usize), 2 => 0usize..600, 1 => Just(usize::MAX)];
    let manners =
        (answers_after, answer, then).prop_map(|(answers_after, answer, then)| Manners { answers_after, answer, then });
    let cuts = prop::collection::vec((0u16..1000, any::<bool>()), 0..5);
    (body, any::<bool>(), prop::bool::weighted(0.2), cuts, manners).prop_map(
        |(body, chunked, expects, cuts, manners)| Upload { body: body.into_bytes(), chunked, expects, cuts, manners },
    )
}

/// An upstream with changing manners that keeps what it has read, by connection.
struct Witness {
    url: String,
    manners: Arc<Mutex<Manners>>,
    seen: Arc<Mutex<BTreeMap<usize, Vec<u8>>>>,
}

impl Witness {
    async fn start() -> Self {
        let manners = Manners { answers_after: 0, answer: OK, then: Then::ReadsOn };
        let (manners, seen) = (Arc::new(Mutex::new(manners)), Arc::new(Mutex::new(BTreeMap::<usize, Vec<u8>>::new())));
        let shared = (manners.clone(), seen.clone());
        let address = serving(move |number, stream| {
            let (manners, seen) = shared.clone();
            async move {
                attend(stream, &manners, |bytes| {
                    seen.lock().expect("no panic").entry(number).or_default().extend_from_slice(bytes);
                })
                .await;
            }
        });
        Self { url: format!("http://{}", address.await), manners, seen }
    }
}

/// Serves a connection; every request but an upload is answered at once.
async fn attend(mut stream: TcpStream, manners: &Mutex<Manners>, mut keep: impl FnMut(&[u8])) {
    let mut bytes = Vec::new();
    let mut at = 0;
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n\r\n") else {
            if !read(&mut stream, &mut bytes, &mut keep).await {
                return;
            }
            continue;
        };
        let head = at..at + end + 4;
        let text = String::from_utf8_lossy(&bytes[head.clone()]).into_owned();
        at = head.end;
        if !text.starts_with("POST ") {
            let _ = stream.write_all(OK.as_bytes()).await;
            continue;
        }
        let Manners { answers_after, answer, then } = *manners.lock().expect("no panic");
        let mut has_answered = false;
        loop {
            let end = body(&text, &bytes[at..]).1;
            if !has_answered && (end.is_some() || bytes.len() - at >= answers_after) {
                has_answered = true;
                if then != Then::ClosesWithoutAnAnswer {
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
                match then {
                    Then::ReadsOn => {}
                    // for longer than anybody waits
                    Then::ReadsNoMore => return sleep(2 * PATIENCE).await,
                    Then::Closes | Then::ClosesWithoutAnAnswer => return,
                    Then::Resets => {
                        let _ = stream.set_zero_linger();
                        return;
                    }
                }
            }
            if let Some(end) = end {
                at += end;
                break;
            }
            if !read(&mut stream, &mut bytes, &mut keep).await {
                return;
            }
        }
    }
}

async fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>, keep: &mut impl FnMut(&[u8])) -> bool {
    let before = bytes.len();
    let read = stream.read_buf(bytes).await.unwrap_or(0);
    keep(&bytes[before..]);
    read > 0
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|part| part == what)
}

/// What is there of a body, without its framing; and where it ends, if it does.
fn body(head: &str, bytes: &[u8]) -> (Vec<u8>, Option<usize>) {
    let head = head.to_ascii_lowercase();
    if let Some((_, length)) = head.split_once("\r\ncontent-length: ") {
        let length: usize = length.lines().next().expect("a line").parse().expect("a number");
        let there = length.min(bytes.len());
        return (bytes[..there].to_vec(), (bytes.len() >= length).then_some(length));
    }
    if !head.contains("\r\ntransfer-encoding: chunked") {
        return (Vec::new(), Some(0));
    }
    let (mut whole, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n") else { return (whole, None) };
        let size = std::str::from_utf8(&bytes[at..at + end]).expect("a chunk's size");
        let size = usize::from_str_radix(size, 16).expect("a chunk's size");
        at += end + 2;
        let there = size.min(bytes.len() - at);
        whole.extend_from_slice(&bytes[at..at + there]);
        if bytes.len() < at + size + 2 {
            return (whole, None);
        }
        assert_eq!(&bytes[at + size..at + size + 2], b"\r\n", "a chunk ends where it says");
        at += size + 2;
        if size == 0 {
            return (whole, Some(at));
        }
    }
}

/// Checks what a connection has brought: requests that were asked for, and uploads whose bodies are what was sent under
/// their number, or a beginning of that. Returns the numbers of those that were whole.
fn judge(bytes: &[u8], sent: &[Vec<u8>]) -> Result<Vec<usize>, String> {
    let (mut at, mut whole) = (0, Vec::new());
    while let Some(end) = find(&bytes[at..], b"\r\n\r\n") {
        let head = text(&bytes[at..at + end + 4]);
        at += end + 4;
        let line = head.lines().next().unwrap_or_default();
        if line == "GET /after HTTP/1.1" {
            continue;
        }
        let number = line.strip_prefix("POST /up/").and_then(|rest| rest.strip_suffix(" HTTP/1.1"));
        let Some(number) = number.and_then(|number| number.parse::<usize>().ok()) else {
            return Err(format!("nobody asked for {head:?}"));
        };
        let expected = &sent[number];
        let (got, end) = body(&head, &bytes[at..]);
        if !expected.starts_with(&got) || (end.is_some() && got != *expected) {
            return Err(format!("sent {:?}, got {:?}", text(expected), text(&got)));
        }
        let Some(end) = end else { break };
        at += end;
        whole.push(number);
    }
    Ok(whole)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Sends an upload as it is cut, and a request after it; reads until the connection has nothing more to say. Whether both
/// were answered.
async fn carry_out(address: &str, number: usize, upload: &Upload, body: &[u8]) -> bool {
    let mut stream = soon(TcpStream::connect(address)).await.expect("the daemon listens");
    let _ = stream.set_nodelay(true);
    let (mut from, mut to) = stream.split();
    let framing = match upload.chunked {
        true => "Transfer-Encoding: chunked".to_owned(),
        false => format!("Content-Length: {}", body.len()),
    };
    let expect = if upload.expects { "Expect: 100-continue\r\n" } else { "" };
    let head = format!("POST /api/up/{number} HTTP/1.1\r\nHost: {address}\r\n{expect}{framing}\r\n\r\n");
    let mut rest = Vec::new();
    match upload.chunked {
        false => rest.extend_from_slice(body),
        true => {
            for chunk in body.chunks(150) {
                rest.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                rest.extend_from_slice(chunk);
                rest.extend_from_slice(b"\r\n");
            }
            rest.extend_from_slice(b"0\r\n\r\n");
        }
    }
    rest.extend_from_slice(format!("GET /api/after HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes());
    let mut cuts: Vec<_> =
        upload.cuts.iter().map(|(at, waits)| (usize::from(*at) * rest.len() / 1000, *waits)).collect();
    cuts.sort_unstable();
    let writes = async {
        if to.write_all(head.as_bytes()).await.is_err() {
            return;
        }
        let mut at = 0;
        for (cut, waits) in cuts.into_iter().chain([(rest.len(), false)]) {
            if to.write_all(&rest[at..cut]).await.is_err() {
                return;
            }
            at = cut;
            sleep(Duration::from_millis(if waits { 12 } else { 1 })).await; // the timing of this case
        }
    };
    let is_patient = upload.manners.then == Then::ReadsOn;
    let reads = async {
        let mut bytes = Vec::new();
        loop {
            // both answers, or whatever an upstream that hangs lets through
            let answers = text(&bytes).matches("HTTP/1.1 ").count() - text(&bytes).matches("HTTP/1.1 100").count();
            let longest = if is_patient { PATIENCE } else { Duration::from_millis(150) };
            let read = timeout(longest, from.read_buf(&mut bytes));
            if answers >= 2 || read.await.map_or(0, |read| read.unwrap_or(0)) == 0 {
                return answers >= 2;
            }
        }
    };
    tokio::join!(writes, reads).1
}

#[test]
fn whatever_an_upstream_does_bodies_reach_it_unchanged_and_nothing_of_them_is_a_request() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let witness = runtime.block_on(Witness::start());
    let stage = Stage::leading_to(&witness.url, "");
    let daemon = stage.start();
    let sent = RefCell::new(Vec::new());
    let mut runner = TestRunner::new(Config { cases: 96, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&uploads(), |upload| {
        *witness.manners.lock().expect("no panic") = upload.manners;
        let body = text(&upload.body).replace("HERE", &stage.address).into_bytes();
        let number = sent.borrow().len();
        sent.borrow_mut().push(body.clone());
        let answered = runtime.block_on(carry_out(&stage.address, number, &upload, &body));
        let mut whole = Vec::new();
        for bytes in witness.seen.lock().expect("no panic").values() {
            whole.extend(judge(bytes, &sent.borrow()).map_err(TestCaseError::fail)?);
        }
        let keeps = !upload.manners.answer.contains("close");
        if upload.manners.then == Then::ReadsOn && keeps {
            prop_assert!(whole.contains(&number), "a patient upstream gets it all");
            prop_assert!(answered, "and what it answers comes, whatever its other connections wait for");
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| {
        panic!("{error}\n{}", daemon.log().lines().rev().take(20).collect::<Vec<_>>().join("\n"))
    });
    drop(daemon);
}
