//! What a tool and an API say to each other through the daemon in HTTP/2, on one side or on both, when things go well and
//! when either end leaves.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use hyper::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::http2::{Http2Client, Http2Origin, rest, some, trailers};
use crate::support::stage::{COLD, Stage};
use crate::support::tls::certified;
use crate::support::wire::{RawOrigin, Wire, serving, soon};

const PRIOR_KNOWLEDGE: &str = "http2 = true\nidle_timeout = \"60s\"";

#[tokio::test]
async fn grpc_works_from_end_to_end() {
    let mut origin = Http2Origin::plain().await;
    let stage = Stage::leading_to(&format!("http://{}/v1", origin.address), PRIOR_KNOWLEDGE);
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;

    // one message each way, and trailers each way
    let (answer, mut up) = client.send("POST", "/api/pkg.Service/Unary?x=%2F..%2f", false).await;
    up.send_data(Bytes::from_static(b"\0\0\0\0\x02hi"), false).expect("sent");
    up.send_trailers(trailers("x-checksum", "1")).expect("sent");
    let mut asked = origin.next().await;
    assert_eq!(asked.request.uri().to_string(), format!("http://{}/v1/pkg.Service/Unary?x=%2F..%2f", origin.address));
    assert_eq!(asked.authorization().len(), 1);
    assert!(stage.is_ours(asked.authorization()[0]), "{:?}", asked.authorization());
    assert_eq!(asked.request.headers()["te"], "trailers");
    assert!(!asked.request.headers().contains_key("host"));
    let (body, sent_trailers) = rest(asked.request.body_mut()).await.expect("a body");
    assert_eq!(body, b"\0\0\0\0\x02hi");
    assert_eq!(sent_trailers.expect("trailers")["x-checksum"], "1");
    let mut down = asked.answer();
    down.send_data(Bytes::from_static(b"\0\0\0\0\x02yo"), false).expect("sent");
    down.send_trailers(trailers("grpc-status", "0")).expect("sent");
    let mut answer = soon(answer).await.expect("an answer");
    assert_eq!((answer.status().as_u16(), &answer.headers()["via"]), (200, &"1.1 valetd".parse().expect("a value")));
    let (body, status) = rest(answer.body_mut()).await.expect("a body");
    assert_eq!(
        (&body[..], &status.expect("trailers")["grpc-status"]),
        (&b"\0\0\0\0\x02yo"[..], &"0".parse().expect("a value"))
    );

    // a conversation: each message passes at once
    let (answer, mut up) = client.send("POST", "/api/pkg.Service/Talk", false).await;
    let mut asked = origin.next().await;
    let mut down = asked.answer();
    let mut answer = soon(answer).await.expect("an answer, before the request has ended");
    for word in ["one", "two", "three"] {
        up.send_data(Bytes::from(word), false).expect("sent");
        assert_eq!(some(asked.request.body_mut()).await, word);
        down.send_data(Bytes::from(word), false).expect("sent");
        assert_eq!(some(answer.body_mut()).await, word);
    }
    up.send_data(Bytes::new(), true).expect("sent");
    assert_eq!(rest(asked.request.body_mut()).await.expect("an end").0, b"");
    down.send_trailers(trailers("grpc-status", "5")).expect("sent");
    assert_eq!(rest(answer.body_mut()).await.expect("an end").1.expect("trailers")["grpc-status"], "5");

    // an answer of nothing but trailers
    let (answer, _) = client.send("POST", "/api/pkg.Service/Nothing", true).await;
    let mut asked = origin.next().await;
    let head = Response::builder().header("grpc-status", "12").body(()).expect("a head");
    asked.respond.send_response(head, true).expect("sent");
    let answer = soon(answer).await.expect("an answer");
    assert!(answer.body().is_end_stream());
    assert_eq!(answer.headers()["grpc-status"], "12");
    assert_eq!(origin.connections(), 1);
    drop(daemon);
}

#[tokio::test]
async fn a_burst_costs_one_handshake_a_worker() {
    let mut origin = Http2Origin::plain().await;
    let stage = Stage::leading_to(&format!("http://{}", origin.address), PRIOR_KNOWLEDGE);
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;
    let mut answers = Vec::new();
    for number in 0..60 {
        answers.push(client.send("GET", &format!("/api/{number}"), true).await.0);
    }
    for _ in 0..60 {
        let mut asked = origin.next().await;
        let path = asked.request.uri().path().to_owned();
        asked.answer().send_data(path.into(), true).expect("sent");
    }
    for (number, answer) in answers.into_iter().enumerate() {
        let (body, _) = rest(soon(answer).await.expect("an answer").body_mut()).await.expect("a body");
        assert_eq!(body, format!("/{number}").as_bytes());
    }
    assert_eq!(origin.connections(), 1);
    drop(daemon);
}

#[tokio::test]
async fn whoever_leaves_takes_the_other_end_along() {
    let mut origin = Http2Origin::plain().await;
    let stage = Stage::leading_to(&format!("http://{}", origin.address), PRIOR_KNOWLEDGE);
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;

    // the client, before any answer
    let (answer, mut up) = client.send("POST", "/api/waiting", false).await;
    let mut asked = origin.next().await;
    up.send_reset(Reason::CANCEL);
    drop(answer);
    assert_eq!(soon(poll_fn(|cx| asked.respond.poll_reset(cx))).await.expect("a reset"), Reason::CANCEL);

    // the client, in the middle of an answer
    let (answer, mut up) = client.send("POST", "/api/listening", false).await;
    let mut asked = origin.next().await;
    let mut down = asked.answer();
    down.send_data(Bytes::from_static(b"half"), false).expect("sent");
    let mut answer = soon(answer).await.expect("an answer");
    assert_eq!(some(answer.body_mut()).await, "half");
    up.send_reset(Reason::CANCEL);
    drop(answer);
    assert_eq!(soon(poll_fn(|cx| down.poll_reset(cx))).await.expect("a reset"), Reason::CANCEL);

    // the upstream, in the middle of an answer: its reason passes
    for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::ENHANCE_YOUR_CALM] {
        let (answer, _) = client.send("GET", "/api/breaking", true).await;
        let mut asked = origin.next().await;
        let mut down = asked.answer();
        down.send_data(Bytes::from_static(b"half"), false).expect("sent");
        let mut answer = soon(answer).await.expect("an answer");
        assert_eq!(some(answer.body_mut()).await, "half");
        down.send_reset(reason);
        let error = rest(answer.body_mut()).await.expect_err("not an end");
        assert_eq!(error.reason(), Some(reason));
    }

    // the upstream, before its answer
    let (answer, _) = client.send("POST", "/api/refusing", true).await;
    origin.next().await.respond.send_reset(Reason::INTERNAL_ERROR);
    let mut answer = soon(answer).await.expect("an answer of ours");
    assert_eq!(answer.status(), 502);
    let (body, _) = rest(answer.body_mut()).await.expect("a problem document");
    assert!(String::from_utf8_lossy(&body).contains("urn:valetd:problem:upstream-answer"));

    // what it has not begun with is sent again, a POST too
    let (answer, mut up) = client.send("POST", "/api/busy", false).await;
    up.send_data(Bytes::from_static(b"whole"), true).expect("sent");
    origin.next().await.respond.send_reset(Reason::REFUSED_STREAM);
    let mut asked = origin.next().await;
    assert_eq!(rest(asked.request.body_mut()).await.expect("a body").0, b"whole");
    asked.answer().send_data(Bytes::new(), true).expect("sent");
    assert_eq!(soon(answer).await.expect("an answer").status(), 200);
    assert_eq!(origin.connections(), 1, "all of this on one connection");

    // the whole connection of the client
    let (answer, _up) = client.send("POST", "/api/vanishing", false).await;
    let mut asked = origin.next().await;
    drop((client, answer, _up));
    assert!(soon(poll_fn(|cx| asked.respond.poll_reset(cx))).await.is_ok());
    drop(daemon);
}

#[tokio::test]
async fn an_upstream_that_says_goodbye_ends_what_runs_and_gets_the_next_on_a_new_connection() {
    let mut origin = Http2Origin::plain().await;
    let stage = Stage::leading_to(&format!("http://{}", origin.address), PRIOR_KNOWLEDGE);
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;
    for round in 0..5 {
        let (running, _) = client.send("GET", "/api/running", true).await;
        let mut asked = origin.next().await;
        assert_eq!(asked.connection, round);
        let mut down = asked.answer();
        let mut running = soon(running).await.expect("an answer");
        origin.go_away(round);
        let (next, mut up) = client.send("POST", "/api/next", false).await;
        up.send_data(Bytes::from_static(b"body"), true).expect("sent");
        let mut asked = origin.next().await;
        assert_eq!(rest(asked.request.body_mut()).await.expect("a body").0, b"body");
        asked.answer().send_data(Bytes::new(), true).expect("sent");
        assert_eq!(soon(next).await.expect("an answer").status(), 200);
        down.send_data(Bytes::from_static(b"the end"), true).expect("sent");
        assert_eq!(rest(running.body_mut()).await.expect("whole").0, b"the end");
    }
    drop(daemon);
}

#[tokio::test]
async fn readers_that_stall_leave_the_others_alone() {
    let mut origin = Http2Origin::plain().await;
    let stage = Stage::leading_to(&format!("http://{}", origin.address), PRIOR_KNOWLEDGE);
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;
    let mut stalled = Vec::new();
    for _ in 0..10 {
        let (answer, _) = client.send("GET", "/api/stalled", true).await;
        let mut asked = origin.next().await;
        let mut down = asked.answer();
        stalled.push(soon(answer).await.expect("an answer"));
        // small frames, as many as the window takes: their bookkeeping costs the reader more than their bytes
        tokio::spawn(async move {
            loop {
                down.reserve_capacity(20);
                match poll_fn(|cx| down.poll_capacity(cx)).await {
                    Some(Ok(room)) if room >= 20 => {
                        if down.send_data(Bytes::from_static(&[b'x'; 20]), false).is_err() {
                            return;
                        }
                    }
                    Some(Ok(_)) => {}
                    _ => return,
                }
            }
        });
    }
    let end = Instant::now() + Duration::from_secs(1);
    let mut asked_meanwhile = 0;
    // each of them comes soon; on a busy machine so many take more than a second
    while Instant::now() < end || asked_meanwhile <= 10 {
        let (answer, _) = client.send("GET", "/api/bystander", true).await;
        let mut asked = origin.next().await;
        asked.answer().send_data(Bytes::from_static(b"fine"), true).expect("sent");
        assert_eq!(rest(soon(answer).await.expect("an answer").body_mut()).await.expect("whole").0, b"fine");
        asked_meanwhile += 1;
    }
    assert_eq!(origin.connections(), 1);
    drop((stalled, daemon));
}

#[tokio::test]
async fn a_silent_upstream_ends_one_stream_and_not_the_connection() {
    let mut origin = Http2Origin::plain().await;
    let stage = Stage::leading_to(&format!("http://{}", origin.address), "http2 = true\nidle_timeout = \"2s\"");
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;
    let (silent, _) = client.send("GET", "/api/silent", true).await;
    let (half, _) = client.send("GET", "/api/half", true).await;
    let (mut first, mut second) = (origin.next().await, origin.next().await);
    let asked = if first.request.uri().path() == "/half" { &mut first } else { &mut second };
    let mut down = asked.answer();
    down.send_data(Bytes::from_static(b"half"), false).expect("sent");
    let mut half = soon(half).await.expect("an answer");
    assert_eq!(some(half.body_mut()).await, "half");
    rest(half.body_mut()).await.expect_err("broken off");
    let silent = soon(silent).await.expect("an answer of ours");
    assert_eq!(silent.status(), 504);
    soon(poll_fn(|cx| down.poll_reset(cx))).await.expect("the upstream's stream is reset");
    // one that drips is not silent, for longer than silence may last
    let (dripping, _) = client.send("GET", "/api/dripping", true).await;
    let mut asked = origin.next().await;
    let mut down = asked.answer();
    let mut dripping = soon(dripping).await.expect("an answer");
    for _ in 0..8 {
        down.send_data(Bytes::from_static(b"."), false).expect("sent");
        assert_eq!(some(dripping.body_mut()).await, ".");
        tokio::time::sleep(Duration::from_millis(300)).await; // the pace of the story
    }
    drop(daemon);
}

#[tokio::test]
async fn a_401_is_survived_in_http2_too() {
    let mut origin = Http2Origin::plain().await;
    let stage = Stage::leading_to(&format!("http://{}", origin.address), PRIOR_KNOWLEDGE);
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;
    let (answer, mut up) = client.send("POST", "/api/x", false).await;
    up.send_data(Bytes::from_static(b"whole"), true).expect("sent");
    let mut asked = origin.next().await;
    let first = asked.authorization()[0].to_owned();
    asked.respond.send_response(Response::builder().status(401).body(()).expect("a head"), true).expect("sent");
    let mut asked = origin.next().await;
    assert_ne!(asked.authorization(), [first]);
    assert!(stage.is_ours(asked.authorization()[0]));
    assert_eq!(rest(asked.request.body_mut()).await.expect("a body").0, b"whole");
    asked.answer().send_data(Bytes::new(), true).expect("sent");
    assert_eq!(soon(answer).await.expect("an answer").status(), 200);
    drop(daemon);
}

// --- the versions meet -----------------------------------------------------------------------------------------------

#[tokio::test]
async fn over_tls_the_upstream_chooses_and_the_client_decides() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = format!("extra_ca = \"{}\"", folder.path().join("ca.pem").display());
    let mut origin = Http2Origin::start(Some(certified(folder.path(), &[b"h2", b"http/1.1"]))).await;
    let stage = Stage::leading_to(&format!("https://{}", origin.address), &settings);
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;
    for _ in 0..3 {
        let (answer, _) = client.send("GET", "/api/x", true).await;
        let mut asked = origin.next().await;
        assert_eq!((asked.connection, asked.request.uri().scheme_str()), (0, Some("https")));
        asked.answer().send_trailers(trailers("grpc-status", "0")).expect("sent");
        assert!(rest(soon(answer).await.expect("an answer").body_mut()).await.expect("whole").1.is_some());
    }
    drop(daemon);

    // an upstream without HTTP/2
    let acceptor = certified(folder.path(), &[b"http/1.1"]);
    let offers = Arc::new(Mutex::new(VecDeque::new()));
    let seen = offers.clone();
    let address = serving(move |_, tcp| {
        let (acceptor, seen) = (acceptor.clone(), seen.clone());
        async move {
            let Ok(mut tls) = acceptor.accept(tcp).await else { return };
            let mut head = Vec::new();
            while tls.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
                if head.ends_with(b"\r\n\r\n") {
                    seen.lock().expect("no panic").push_back(String::from_utf8_lossy(&head).into_owned());
                    head.clear();
                    let _ = tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold").await;
                }
            }
        }
    })
    .await;
    stage.home.write_config(&stage.config(&format!("https://{address}"), &settings));
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;
    for _ in 0..3 {
        let mut answer = client.get("/api/x").await;
        assert_eq!(rest(answer.body_mut()).await.expect("whole").0, b"old");
        let head = offers.lock().expect("no panic").pop_front().expect("asked");
        assert!(
            head.starts_with("GET /x HTTP/1.1\r\n") && head.contains(&format!("\r\nhost: {address}\r\n")),
            "{head}"
        );
        assert!(head.contains("connection: te") && head.contains("te: trailers"), "{head}");
    }
    drop(daemon);
}

#[tokio::test]
async fn an_http2_client_finds_an_http1_upstream_and_loses_nothing() {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(&origin.url, COLD);
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;
    // a body without length, also of a GET
    for method in ["POST", "GET"] {
        let (answer, mut up) = client.send(method, "/api/x", false).await;
        up.send_data(Bytes::from_static(b"abc"), true).expect("sent");
        let mut wire = origin.accept().await;
        let head = wire.head().await;
        assert!(head.starts_with(&format!("{method} /x HTTP/1.1\r\n")), "{head}");
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        assert_eq!(wire.until("0\r\n\r\n").await, "3\r\nabc\r\n0\r\n\r\n");
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\r\n").await;
        let mut answer = soon(answer).await.expect("an answer");
        assert!(!answer.headers().contains_key("x-hop") && !answer.headers().contains_key("connection"));
        wire.send("2\r\nok\r\n0\r\nX-Sum: 9\r\n\r\n").await;
        let (body, sum) = rest(answer.body_mut()).await.expect("whole");
        assert_eq!((&body[..], &sum.expect("trailers")["x-sum"]), (&b"ok"[..], &"9".parse().expect("a value")));
    }
    // crumbs of a cookie are one field again
    client.sender = soon(client.sender.clone().ready()).await.expect("open");
    let request =
        Request::get(format!("http://{}/api/c", stage.address)).header("cookie", "a=b").header("cookie", "c=d");
    let (answer, _) = client.sender.send_request(request.body(()).expect("a head"), true).expect("sent");
    let mut wire = origin.accept().await;
    let head = wire.head().await;
    assert!(head.contains("cookie: a=b; c=d\r\n"), "{head}");
    // an answer that breaks off is not an end
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    let mut answer = soon(answer).await.expect("an answer");
    assert_eq!(some(answer.body_mut()).await, "half");
    drop(wire);
    rest(answer.body_mut()).await.expect_err("broken off");
    // and an HTTP/1.1 client beside it
    let mut wire = Wire::connect(&stage.address).await;
    wire.send(format!("GET /api/y HTTP/1.1\r\nHost: {}\r\n\r\n", stage.address)).await;
    let mut up = origin.accept().await;
    assert!(up.head().await.starts_with("GET /y HTTP/1.1"));
    up.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(wire.head().await.starts_with("HTTP/1.1 204"));
    drop(daemon);
}
