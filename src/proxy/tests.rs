//! Stories over real sockets: a raw client, the proxy's threads, and a raw origin.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Access, PeerLookups, Proxy, ProxyListener, Table};
use crate::client_keys::{KeyRing, Limits, NewKey, Rights};
use crate::config::{self, AccountId, Config, KeyName, Replay, RouteName};
use crate::platform::clock::Clock;
use crate::platform::socket;
use crate::renewal::{RenewalId, Why};
use crate::stats::Stats;
use crate::timestamp::Timestamp;
use crate::token_source::{Availability, Demand, Published, Said, TokenSource};

/// Longer than anything here takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is said of the first token when the upstream did not like it.
fn is_rejection(order: &Demand) -> bool {
    matches!(order, Demand::Rejected { id: RenewalId(1), worked: false, .. })
}

/// What is said of a request that was sent again with the second token.
fn replayed(order: &Demand) -> Option<bool> {
    match order {
        Demand::Replayed { refused: RenewalId(1), accepted, .. } => Some(*accepted),
        _ => None,
    }
}

#[tokio::test]
async fn a_request_goes_up_with_one_token_and_the_answer_comes_back() {
    let origin = Upright::answering(|_| ok("hello")).await;
    let proxy = Running::start(&origin, |_| {}).await;
    let mut client = proxy.connect().await;
    client
        .send("GET /lab/a%2Fb?q=[1]&w=\"x\" HTTP/1.1\r\nHost: HERE\r\nAuthorization: Bearer theirs\r\nX-A: b\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text()), (200, "hello"));
    assert_eq!(answer.field("via"), Some("1.1 valetd"));
    let seen = origin.seen();
    assert_eq!(seen[0].line, "GET /a%2Fb?q=[1]&w=%22x%22 HTTP/1.1");
    assert_eq!(seen[0].all("authorization"), ["Bearer token-1"]);
    assert_eq!(seen[0].all("host"), [origin.address.to_string()]);
    assert_eq!(seen[0].all("x-a"), ["b"]);
    assert!(seen[0].all("via")[0].starts_with("1.1 valetd ("), "{seen:?}");
    proxy.stop().await;
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let origin = Upright::answering(|seen| {
        if seen.line.starts_with("HEAD") { "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".into() } else { ok("hello") }
    })
    .await;
    let proxy = Running::start(&origin, |_| {}).await;
    let mut client = proxy.connect().await;
    for _ in 0..5 {
        client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
        assert_eq!(client.answer().await.text(), "hello");
    }
    client.send("HEAD /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    let head = client.answer_to("HEAD").await;
    assert_eq!((head.status, head.field("content-length"), head.text()), (200, Some("5"), ""));
    client.send("POST /lab/x HTTP/1.1\r\nHost: HERE\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "hello");
    client.send("POST /lab/x HTTP/1.1\r\nHost: HERE\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "hello");
    client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "hello");
    client.send("POST /lab/x HTTP/1.1\r\nHost: HERE\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(client.head().await.status, 100);
    client.send("fgh").await;
    assert_eq!(client.answer().await.text(), "hello");
    let seen = origin.seen();
    let bodies: Vec<_> = seen.iter().map(|seen| String::from_utf8_lossy(&seen.body).into_owned()).collect();
    assert_eq!(bodies, ["", "", "", "", "", "", "", "abc", "de", "fgh"]);
    assert_eq!(seen[6].all("content-length"), ["0"]);
    assert!(seen.iter().all(|seen| seen.connection == 0), "one upstream connection for all: {seen:?}");
    proxy.stop().await;
}

#[tokio::test]
async fn answers_without_body_and_interim_answers_leave_the_connection_in_step() {
    let origin = Upright::answering(|seen| match seen.path() {
        "/204" => "HTTP/1.1 204 No Content\r\n\r\n".into(),
        "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n".into(),
        "/103" => format!("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n{}", ok("final")),
        "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n".into(),
        "/empty" => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into(),
        _ => ok("rest"),
    })
    .await;
    let proxy = Running::start(&origin, |_| {}).await;
    let mut client = proxy.connect().await;
    for (path, status, body) in [
        ("204", 204, ""),
        ("304", 304, ""),
        ("103", 200, "final"),
        ("chunked", 200, "abcdef"),
        ("empty", 200, ""),
        ("x", 200, "rest"),
    ] {
        client.send(&format!("GET /lab/{path} HTTP/1.1\r\nHost: HERE\r\n\r\n")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text()), (status, body), "{path}");
    }
    assert!(origin.seen().iter().all(|seen| seen.connection == 0));
    proxy.stop().await;
}

#[tokio::test]
async fn routes_answer_by_prefix_host_name_and_listener_of_their_own() {
    let origin = Upright::answering(|_| ok("x")).await;
    let proxy = Running::start(&origin, |config| config.routes[0].upstream.base_path = "/v1".into()).await;
    for (target, host, expected) in [
        ("/lab/a", "HERE", "/v1/a"),
        ("/lab", "HERE", "/v1"),
        ("/lab?q=http://h/p?x", "HERE", "/v1?q=http://h/p?x"),
        ("/a/b", "lab.localhost:PORT", "/v1/a/b"),
        ("http://HERE/lab/abs", "HERE", "/v1/abs"),
    ] {
        let mut client = proxy.connect().await;
        client.send(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(client.answer().await.status, 200, "{target}");
        assert_eq!(origin.seen().last().unwrap().path(), expected, "{target}");
    }
    let mut client = proxy.connect_to(proxy.own_address).await;
    client.send(&format!("GET /lab/a HTTP/1.1\r\nHost: {}\r\n\r\n", proxy.own_address)).await;
    client.answer().await;
    assert_eq!(origin.seen().last().unwrap().path(), "/v1/lab/a");
    proxy.stop().await;
}

#[tokio::test]
async fn redirects_lead_back_here() {
    let origin = Upright::answering(|seen| {
        let host = seen.all("host")[0].clone();
        format!("HTTP/1.1 302 Found\r\nLocation: http://{host}/next?x\r\nContent-Length: 0\r\n\r\n")
    })
    .await;
    let proxy = Running::start(&origin, |_| {}).await;
    let mut client = proxy.connect().await;
    client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    let expected = format!("http://{}/lab/next?x", proxy.address);
    assert_eq!(client.answer().await.field("location"), Some(&*expected));
    proxy.stop().await;
}

#[tokio::test]
async fn redirects_keep_the_key_that_came_in_the_path_and_the_upstream_never_sees_it() {
    let origin = Upright::answering(|seen| {
        let host = seen.all("host")[0].clone();
        format!("HTTP/1.1 302 Found\r\nLocation: http://{host}/next?x\r\nContent-Length: 0\r\n\r\n")
    })
    .await;
    let mut proxy = Running::start(&origin, |_| {}).await;
    let keys = Arc::new(KeyRing::default());
    let rights = Rights { routes: vec![RouteName::new("lab").unwrap()], methods: Vec::new(), paths: Vec::new() };
    let new = NewKey {
        name: KeyName::new("agent"),
        rights,
        lifetime: None,
        rate: None,
        limits: Limits::default(),
        ephemeral: true,
    };
    let (key, held) = keys.add(new).unwrap();
    let key = key.expose();
    let table = Table::build(&proxy.config, &|_| proxy.source.clone(), &proxy.stats).unwrap();
    proxy.proxy.replace(table.with_access(Access { keys: keys.clone(), ..Access::default() }));
    let mut client = proxy.connect().await;
    let page = format!("http://localhost/{key}/lab/");
    client.send(&format!("GET /{key}/lab/x?q HTTP/1.1\r\nHost: HERE\r\nReferer: {page}\r\n\r\n")).await;
    let expected = format!("http://{}/{key}/lab/next?x", proxy.address);
    assert_eq!(client.answer().await.field("location"), Some(&*expected));
    client
        .send(&format!("POST /lab/y HTTP/1.1\r\nHost: HERE\r\nX-Valetd-Key: {key}\r\nContent-Length: 0\r\n\r\n"))
        .await;
    assert_eq!(client.answer().await.status, 302);
    let seen = origin.seen();
    assert_eq!((seen[0].path(), seen[1].path()), ("/x?q", "/y"));
    assert!(seen.iter().all(|seen| !seen.head.contains("vk_") && !seen.head.contains("valetd-key")), "{seen:?}");
    // on a connection that is open already, too
    keys.forget(&held);
    client.send(&format!("GET /lab/z HTTP/1.1\r\nHost: HERE\r\nX-Valetd-Key: {key}\r\n\r\n")).await;
    assert_eq!(client.answer().await.status, 403);
    assert_eq!(origin.seen().len(), 2);
    proxy.stop().await;
}

#[tokio::test]
async fn a_401_brings_one_renewal_and_one_replay_with_the_whole_body() {
    let origin = Upright::answering(|seen| {
        if seen.all("authorization") == ["Bearer token-2"] {
            ok("done")
        } else {
            unauthorized("Bearer error=\"invalid_token\"")
        }
    })
    .await;
    let mut proxy = Running::start(&origin, |_| {}).await;
    let large = "z".repeat(300_000);
    let mut clients = Vec::new();
    for body in ["", "small", &large] {
        let mut client = proxy.connect().await;
        let length = body.len();
        client.send(&format!("POST /lab/x HTTP/1.1\r\nHost: HERE\r\nContent-Length: {length}\r\n\r\n{body}")).await;
        clients.push((client, body));
    }
    let mut chunked = proxy.connect().await;
    chunked.send("PUT /lab/x HTTP/1.1\r\nHost: HERE\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nparts\r\n").await;
    for _ in 0..3 {
        assert!(is_rejection(&proxy.order().await));
    }
    proxy.publish(2);
    for (client, body) in &mut clients {
        assert_eq!(client.answer().await.text(), "done");
        let found = origin
            .seen()
            .iter()
            .any(|seen| seen.all("authorization") == ["Bearer token-2"] && seen.body == body.as_bytes());
        assert!(found, "a body of {} bytes came whole", body.len());
    }
    chunked.send("5\r\n more\r\n0\r\n\r\n").await;
    assert_eq!(chunked.answer().await.text(), "done");
    assert_eq!(origin.seen().last().unwrap().body, b"parts more");
    proxy.stop().await;
}

#[tokio::test]
async fn a_replay_tells_whether_the_next_token_was_taken_and_so_does_the_first_good_answer() {
    let again = |line: &str| format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n");
    for (name, answer, status, said) in [
        ("taken", ok("done"), 200, Some(true)),
        ("not found is no 401", again("404 Not Found"), 404, Some(true)),
        ("not allowed is no 401", again("403 Forbidden"), 403, Some(true)),
        ("good, but not for this", unauthorized("Bearer error=\"insufficient_scope\""), 401, Some(true)),
        ("refused again", unauthorized("Bearer"), 401, Some(false)),
        ("busy", again("429 Too Many Requests"), 429, None),
        ("in trouble", again("503 Service Unavailable"), 503, None),
    ] {
        let origin = Upright::answering(move |seen| {
            if seen.path() == "/good" {
                ok("good")
            } else if seen.all("authorization") == ["Bearer token-1"] {
                unauthorized("Bearer")
            } else {
                answer.clone()
            }
        })
        .await;
        let mut proxy = Running::start(&origin, |_| {}).await;
        let mut client = proxy.connect().await;
        client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
        assert!(is_rejection(&proxy.order().await), "{name}");
        proxy.publish(2);
        assert_eq!(client.answer().await.status, status, "{name}");
        let second = proxy.source.usable().unwrap();
        assert_eq!(second.has_worked.load(Ordering::Relaxed), said == Some(true), "{name}");
        if let Some(accepted) = said {
            assert_eq!(replayed(&proxy.order().await), Some(accepted), "{name}");
        }
        for _ in 0..2 {
            client.send("GET /lab/good HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
            assert_eq!(client.answer().await.text(), "good", "{name}");
        }
        let order = proxy.order().await;
        assert!(matches!(order, Demand::Worked { id: RenewalId(2), .. }), "{name}: {order:?}");
        assert!(proxy.orders.try_recv().is_err(), "{name}: once is enough");
        assert!(second.has_worked.load(Ordering::Relaxed), "{name}");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_good_answer_past_a_learnt_end_is_told_once_more() {
    let origin = Upright::answering(|_| ok("good")).await;
    let mut proxy = Running::start(&origin, |_| {}).await;
    let value = HeaderValue::from_static("Bearer token-1");
    let name = HeaderName::from_static("authorization");
    let end = Clock::start().now() + Duration::from_millis(700);
    let token = Arc::new(Published::new(RenewalId(1), (name, value), Timestamp::FAR, end));
    proxy.source.publish(Availability::Usable { token, wished_for: None });
    let mut client = proxy.connect().await;
    let mut told = Vec::new();
    while told.len() < 2 {
        client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200);
        while let Ok(order) = proxy.orders.try_recv() {
            let (_, Demand::Worked { id: RenewalId(1), sent, .. }) = order else { panic!("{order:?}") };
            told.push(sent);
        }
    }
    assert!(told[0] < end && told[1] >= end, "{told:?} {end:?}");
    for _ in 0..3 {
        client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200);
    }
    assert!(proxy.orders.try_recv().is_err());
    proxy.stop().await;
}

#[tokio::test]
async fn a_401_that_no_renewal_helps_or_whose_request_is_gone_is_handed_on() {
    let origin = Upright::answering(|seen| match seen.path() {
        "/scope" => unauthorized("Bearer error=\"insufficient_scope\""),
        _ => unauthorized("Bearer"),
    })
    .await;
    let mut proxy = Running::start(&origin, |config| {
        config.routes[0].replay = Replay::Idempotent;
        config.routes[0].replay_limit = 4;
    })
    .await;
    let mut client = proxy.connect().await;
    client.send("GET /lab/scope HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 401);
    for request in [
        "POST /lab/post HTTP/1.1\r\nHost: HERE\r\nContent-Length: 0\r\n\r\n",
        "PUT /lab/large HTTP/1.1\r\nHost: HERE\r\nContent-Length: 5\r\n\r\nabcde",
        "PUT /lab/grew HTTP/1.1\r\nHost: HERE\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
    ] {
        client.send(request).await;
        assert_eq!(client.answer().await.status, 401, "{request}");
        assert!(is_rejection(&proxy.order().await), "{request}");
    }
    assert_eq!(origin.seen().len(), 4, "nothing was sent twice");
    // the new token is refused, too: its 401 is the answer
    client.send("GET /lab/get HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    proxy.order().await;
    proxy.publish(2);
    assert_eq!(client.answer().await.status, 401);
    assert_eq!(origin.seen().len(), 6);
    proxy.stop().await;
}

#[tokio::test]
async fn a_connection_that_has_come_to_rest_serves_on_and_loses_nothing() {
    // longer than a connection keeps its buffers for
    let pause = Duration::from_millis(3500);
    // so that for some, all is handed over and not all has gone out
    let sizes: Vec<usize> = (0..48).map(|step| (1 << 20) + step * 80_000).collect();
    let origin = Upright::answering(|seen| {
        let size = seen.path().trim_start_matches('/').parse().unwrap_or(0);
        ok(&"x".repeat(size))
    })
    .await;
    let proxy = Running::start(&origin, |_| {}).await;
    let mut used = proxy.connect().await;
    let mut cut = proxy.connect().await;
    let mut cheat = proxy.connect().await;
    let mut slow = Vec::new();
    for size in &sizes {
        let mut client = proxy.connect().await;
        client.send(&format!("GET /lab/{size} HTTP/1.1\r\nHost: HERE\r\n\r\n")).await;
        slow.push(client);
    }
    used.send("GET /lab/1 HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    assert_eq!(used.answer().await.text(), "x");
    // the beginning of the next head comes with the first
    cut.send("GET /lab/2 HTTP/1.1\r\nHost: HERE\r\n\r\nGET /lab").await;
    assert_eq!(cut.answer().await.text(), "xx");
    // answered before its body has come
    cheat.send("POST /nowhere HTTP/1.1\r\nHost: HERE\r\nContent-Length: 200\r\n\r\n").await;
    assert_eq!(cheat.answer().await.status, 404);
    tokio::time::sleep(pause).await;

    for request in ["GET /lab/3 HTTP/1.1\r\nHost: HERE\r\n\r\n", "GET /lab/3?q=\"<\" HTTP/1.1\r\nHost: HERE\r\n\r\n"] {
        let (first, rest) = request.split_at(1);
        used.send(first).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        used.send(rest).await;
        assert_eq!(used.answer().await.status, 200, "{request}");
    }
    cut.send("/4 HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    assert_eq!(cut.answer().await.text(), "xxxx");
    cheat.send("GET /lab/5 HTTP/1.1\r\nHost: HERE\r\nX: ").await;
    for (client, size) in slow.iter_mut().zip(&sizes) {
        assert_eq!(client.answer().await.body.len(), *size);
    }
    let seen: Vec<String> = origin.seen().iter().map(|seen| seen.path().to_owned()).collect();
    assert!(seen.contains(&"/3?q=%22%3C%22".to_owned()) && seen.contains(&"/4".to_owned()), "{seen:?}");
    assert!(!seen.contains(&"/5".to_owned()), "a body was taken for a request: {seen:?}");
    // and again, to the end
    tokio::time::sleep(pause).await;
    used.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert_eq!(used.until_closed().await, "", "HTTP/2 is spoken from the first byte on or not at all");
    proxy.stop().await;
}

#[tokio::test]
async fn what_nobody_asked_for_is_nobodys_answer() {
    const UNASKED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nunasked";
    for later in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let mut wire = Wire::accept(&listener).await;
                tokio::spawn(async move {
                    while !wire.raw_head().await.is_empty() {
                        if later {
                            wire.send(&ok("asked")).await;
                            tokio::time::sleep(Duration::from_millis(20)).await;
                            wire.send(UNASKED).await;
                        } else {
                            wire.send(&format!("{}{UNASKED}", ok("asked"))).await;
                        }
                    }
                });
            }
        });
        let proxy = Running::start_at(address, |_| {}).await;
        let mut client = proxy.connect().await;
        for _ in 0..3 {
            client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
            assert_eq!(client.answer().await.text(), "asked", "later: {later}");
            tokio::time::sleep(Duration::from_millis(if later { 120 } else { 0 })).await;
        }
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_connection_that_closed_while_idle_costs_a_get_nothing_and_a_post_is_never_doubled() {
    // answers once on each connection, and closes when the second request arrives
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    tokio::spawn(async move {
        loop {
            let mut client = Wire::accept(&listener).await;
            let seen = seen.clone();
            tokio::spawn(async move {
                let head = client.raw_head().await;
                seen.lock().unwrap().push(head);
                client.send(&ok("once")).await;
                let head = client.raw_head().await;
                seen.lock().unwrap().push(head);
            });
        }
    });
    let proxy = Running::start_at(address, |_| {}).await;
    let mut client = proxy.connect().await;
    for _ in 0..3 {
        client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
        assert_eq!(client.answer().await.text(), "once");
    }
    client.send("POST /lab/y HTTP/1.1\r\nHost: HERE\r\nContent-Length: 0\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert!(answer.field("proxy-status").unwrap().contains("http_response_incomplete"), "{answer:?}");
    let posts = heads.lock().unwrap().iter().filter(|head| head.starts_with("POST")).count();
    assert_eq!(posts, 1);
    proxy.stop().await;
}

#[tokio::test]
async fn an_upstream_in_use_is_kept_one_connection_warm_and_one_that_closes_it_at_once_is_not_stormed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy =
        Running::start_at(listener.local_addr().unwrap(), |config| config.routes[0].warm = Duration::from_secs(900))
            .await;
    let mut client = proxy.connect().await;
    client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    let mut origin = Wire::accept(&listener).await;
    origin.raw_head().await;
    origin.send(&ok("first")).await;
    assert_eq!(client.answer().await.text(), "first");
    drop(origin); // as a server that is tired of waiting
    let mut warm = Wire::accept(&listener).await; // nobody has asked for anything
    for _ in 0..3 {
        // the kernel has accepted it before the worker knows: a few turns of the worker's loop
        client.send("GET /nowhere HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 404);
    }
    client.send("GET /lab/y HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    assert!(warm.raw_head().await.starts_with("GET /y "));
    warm.send(&ok("second")).await;
    assert_eq!(client.answer().await.text(), "second");
    // closed again and again: one more at once, as the last was good for something, and then none for five seconds
    drop(warm);
    drop(Wire::accept(&listener).await);
    let early = timeout(Duration::from_secs(2), listener.accept()).await;
    assert!(early.is_err(), "a connection is opened as soon as the last is closed");
    proxy.stop().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_looks_whole() {
    for head in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let body = if head.starts_with('C') { "half" } else { "4\r\nhalf\r\n" };
        let origin = Upright::closing(&format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}")).await;
        let proxy = Running::start_at(origin, |_| {}).await;
        let mut client = proxy.connect().await;
        client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
        let all = client.until_closed().await;
        assert!(all.contains("half") && !all.ends_with("0\r\n\r\n"), "{all}");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn lying_answers_are_refused() {
    for lie in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "nonsense\r\n\r\n",
        "",
    ] {
        let origin = Upright::closing(lie).await;
        let proxy = Running::start_at(origin, |_| {}).await;
        let mut client = proxy.connect().await;
        client.send("POST /lab/x HTTP/1.1\r\nHost: HERE\r\nContent-Length: 0\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 502, "{lie:?}: {answer:?}");
        assert!(answer.text().contains("urn:valetd:problem:upstream-answer"), "{lie:?}");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn frames_pass_at_once_in_both_directions_and_a_slow_reader_slows_the_upstream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = Running::start_at(address, |_| {}).await;
    let mut client = proxy.connect().await;
    client.send("POST /lab/x HTTP/1.1\r\nHost: HERE\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut origin = Wire::accept(&listener).await;
    origin.raw_head().await;
    for word in ["one", "two"] {
        client.send(&format!("3\r\n{word}\r\n")).await;
        origin.expect(&format!("3\r\n{word}\r\n")).await;
    }
    // the answer begins before the request has ended
    origin.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert_eq!(client.head().await.status, 200);
    for word in ["six", "ten"] {
        origin.send(&format!("3\r\n{word}\r\n")).await;
        client.expect(&format!("3\r\n{word}\r\n")).await;
    }
    client.send("0\r\n\r\n").await;
    origin.expect("0\r\n\r\n").await;
    // nobody reads: the origin can push only as much as the buffers on the way hold
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let mut pushed = 0;
    while pushed < 64 << 20
        && timeout(Duration::from_millis(500), origin.stream.write_all(chunk.as_bytes())).await.is_ok()
    {
        pushed += chunk.len();
    }
    assert!(pushed < 32 << 20, "{pushed} bytes went nowhere");
    proxy.stop_now().await;
}

#[tokio::test]
async fn large_bodies_pass_whole_both_ways() {
    let origin = Upright::answering(|seen| {
        let body = "r".repeat(3_000_000);
        format!("HTTP/1.1 200 OK\r\nX-Got: {}\r\nContent-Length: {}\r\n\r\n{body}", seen.body.len(), body.len())
    })
    .await;
    let proxy = Running::start(&origin, |_| {}).await;
    let mut client = proxy.connect().await;
    let body = "q".repeat(5_000_000);
    client.send(&format!("PUT /lab/x HTTP/1.1\r\nHost: HERE\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    let answer = client.answer().await;
    assert_eq!((answer.field("x-got"), answer.body.len()), (Some("5000000"), 3_000_000));
    proxy.stop().await;
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways_and_its_handshake_survives_a_401() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut proxy = Running::start_at(address, |_| {}).await;
    let mut client = proxy.connect().await;
    client
        .send("GET /lab/ws HTTP/1.1\r\nHost: HERE\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n")
        .await;
    let mut refusing = Wire::accept(&listener).await;
    let head = refusing.raw_head().await;
    assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
    refusing.send(&unauthorized("Bearer")).await;
    proxy.order().await;
    proxy.publish(2);
    let refreshed = proxy.source.usable().unwrap();
    let mut origin = Wire::accept(&listener).await;
    let head = origin.raw_head().await;
    assert!(head.contains("Bearer token-2") && head.contains("sec-websocket-key: k"), "{head}");
    origin.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst").await;
    let head = client.head().await;
    assert_eq!(
        (head.status, head.field("upgrade"), head.field("connection")),
        (101, Some("websocket"), Some("upgrade"))
    );
    assert_eq!(replayed(&proxy.order().await), Some(true));
    assert!(refreshed.has_worked.load(Ordering::Relaxed), "a 101 is as good as a 200");
    client.expect("first").await;
    client.send("POST \"<ping>\"").await;
    origin.expect("POST \"<ping>\"").await;
    origin.send("pong").await;
    client.expect("pong").await;
    drop(origin);
    assert_eq!(client.until_closed().await, "");
    proxy.stop().await;
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let origin = Upright::answering(|_| "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno".into()).await;
    let proxy = Running::start(&origin, |_| {}).await;
    let mut client = proxy.connect().await;
    client.send("GET /lab/ws HTTP/1.1\r\nHost: HERE\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text()), (403, "no"));
    proxy.stop().await;
}

#[tokio::test]
async fn a_new_table_drops_no_connection_and_keeps_those_to_the_same_upstream() {
    let origin = Upright::answering(|_| ok("x")).await;
    let mut proxy = Running::start(&origin, |_| {}).await;
    let mut client = proxy.connect().await;
    client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    client.answer().await;
    proxy.replace(|config| {
        config.routes[0].name = RouteName::new("new").unwrap();
        config.routes[0].upstream.base_path = "/v2".into();
    });
    // a message to the worker overtakes nothing: ask until it has arrived
    let answer = loop {
        client.send("GET /new/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
        let answer = client.answer().await;
        if answer.status != 404 {
            break answer;
        }
    };
    assert_eq!(answer.status, 200);
    let seen = origin.seen();
    assert_eq!((seen[1].path(), seen[1].connection), ("/v2/x", 0));
    client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 404);
    assert!(answer.text().contains("\"/new/\""), "{}", answer.text());
    proxy.stop().await;
}

#[tokio::test]
async fn what_is_refused_reaches_nobody_and_is_explained() {
    let origin = Upright::answering(|_| ok("x")).await;
    let proxy = Running::start(&origin, |config| config.routes[0].refuse = vec!["/oauth/token".into()]).await;
    let long = format!("GET /lab/{} HTTP/1.1\r\nHost: HERE\r\n\r\n", "x".repeat(9000));
    let fields = format!("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n{}\r\n", "A: b\r\n".repeat(120));
    let rows = [
        ("no route", "GET /nowhere HTTP/1.1\r\nHost: HERE\r\n\r\n", 404, "no-route"),
        ("foreign host", "GET /lab/x HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403, "not-allowed"),
        ("foreign origin", "GET /lab/x HTTP/1.1\r\nHost: HERE\r\nOrigin: http://evil\r\n\r\n", 403, "not-allowed"),
        ("token service", "POST /lab/oauth/token HTTP/1.1\r\nHost: HERE\r\n\r\n", 403, "forbidden-by-route"),
        ("dot segment", "GET /lab/%2e%2e/x HTTP/1.1\r\nHost: HERE\r\n\r\n", 400, "bad-request"),
        ("no host", "GET /lab/x HTTP/1.1\r\n\r\n", 400, "bad-request"),
        ("TRACE", "TRACE /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n", 405, "forbidden-by-route"),
        ("CONNECT", "CONNECT HERE HTTP/1.1\r\nHost: HERE\r\n\r\n", 405, "forbidden-by-route"),
        ("space before colon", "GET /lab/x HTTP/1.1\r\nHost : HERE\r\n\r\n", 400, "bad-request"),
        ("obs-fold", "GET /lab/x HTTP/1.1\r\nHost: HERE\r\nA: b\r\n c\r\n\r\n", 400, "bad-request"),
        ("nonsense", "\x01\x02\x03\r\n\r\n", 400, "bad-request"),
        ("bad length", "POST /lab/x HTTP/1.1\r\nHost: HERE\r\nContent-Length: -1\r\n\r\n", 400, "bad-request"),
        ("long target", &long, 414, "bad-request"),
        ("many fields", &fields, 431, "bad-request"),
    ];
    for (case, request, status, kind) in rows {
        let mut client = proxy.connect().await;
        client.send(request).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status, "{case}: {answer:?}");
        assert!(answer.text().contains(&format!("urn:valetd:problem:{kind}")), "{case}: {answer:?}");
        assert_eq!(answer.field("content-type"), Some("application/problem+json"), "{case}");
        assert!(answer.field("proxy-status").unwrap().starts_with("valetd; error="), "{case}");
        if status == 400 {
            assert_eq!(client.until_closed().await, "", "{case}: the connection is closed");
        }
    }
    assert!(origin.seen().is_empty(), "{:?}", origin.seen());
    proxy.stop().await;
}

#[tokio::test]
async fn a_request_with_two_framings_is_read_by_the_safe_one_and_is_the_last() {
    let origin = Upright::answering(|_| ok("x")).await;
    let proxy = Running::start(&origin, |_| {}).await;
    for fields in ["Content-Length: 3\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 3"]
    {
        let mut client = proxy.connect().await;
        let smuggled = "GET /lab/smuggled HTTP/1.1\r\nHost: HERE\r\n\r\n";
        client.send(&format!("POST /lab/x HTTP/1.1\r\nHost: HERE\r\n{fields}\r\n\r\n0\r\n\r\n{smuggled}")).await;
        assert_eq!(client.answer().await.text(), "x");
        assert_eq!(client.until_closed().await, "");
        let seen = origin.seen();
        assert!(seen.last().unwrap().all("content-length").is_empty(), "{seen:?}");
        assert!(seen.iter().all(|seen| seen.path() == "/x"), "{seen:?}");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_refusal_is_heard_by_a_client_that_is_still_sending() {
    let origin = Upright::answering(|_| ok("x")).await;
    let proxy = Running::start(&origin, |_| {}).await;
    let mut client = proxy.connect().await;
    let body = "q".repeat(5_000_000);
    client.send(&format!("PUT /lab/../x HTTP/1.1\r\nHost: HERE\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    assert_eq!(client.answer().await.status, 400);
    proxy.stop().await;
}

#[tokio::test]
async fn without_a_token_nothing_goes_up() {
    let origin = Upright::answering(|_| ok("x")).await;
    let proxy = Running::start(&origin, |config| config.routes[0].wait = Duration::from_millis(20)).await;
    let mut client = proxy.connect().await;
    proxy.source.publish(Availability::Waiting { retry_at: None, because: Some("HTTP 503".into()) });
    client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.field("retry-after")), (503, Some("1")), "{answer:?}");
    assert!(answer.text().contains("token-unavailable"), "{answer:?}");

    proxy.source.publish(Availability::SignInRequired { why: Why::NotSignedIn });
    client.send("HEAD /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    let answer = client.answer_to("HEAD").await;
    assert_eq!((answer.status, answer.text()), (503, ""));
    proxy.answer_wanted();
    client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    assert!(client.answer().await.text().contains("valetd login lab"));
    assert!(origin.seen().is_empty());
    proxy.stop().await;
}

#[tokio::test]
async fn an_upstream_that_is_away_or_silent_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxy = Running::start_at(free, |_| {}).await;
    let mut client = proxy.connect().await;
    client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 502);
    assert!(answer.field("proxy-status").unwrap().contains("connection_refused"), "{answer:?}");
    assert!(answer.text().contains(&free.to_string()), "{answer:?}");
    proxy.stop().await;

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Running::start_at(silent.local_addr().unwrap(), |config| {
        config.routes[0].idle_timeout = Duration::from_secs(1);
    })
    .await;
    let mut client = proxy.connect().await;
    client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    let first = Wire::accept(&silent).await;
    let answer = client.answer().await;
    drop(first);
    assert_eq!(answer.status, 504, "{answer:?}");
    assert!(answer.text().contains("upstream-timeout"), "{answer:?}");
    // and in the middle of an answer: broken off
    let mut client = proxy.connect().await;
    client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    let mut origin = Wire::accept(&silent).await;
    origin.raw_head().await;
    origin.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    assert!(client.until_closed().await.ends_with("half"));
    proxy.stop().await;
}

#[tokio::test]
async fn a_token_goes_only_to_an_upstream_that_proves_who_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca.pem");
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&authority, certified.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let settings = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(settings));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, client) = listener.accept().await.unwrap();
            let Ok(tls) = acceptor.accept(tcp).await else { continue };
            let mut wire = Wire::new(tls, client);
            if wire.raw_head().await.contains("Bearer token-1") {
                wire.send(&ok("for your eyes only")).await;
            }
        }
    });
    let known = Running::start_at(address, |config| {
        config.routes[0].upstream.origin.tls = true;
        config.routes[0].extra_ca = Some(authority.clone());
    })
    .await;
    let mut client = known.connect().await;
    client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "for your eyes only");
    known.stop().await;

    let unknown = Running::start_at(address, |config| config.routes[0].upstream.origin.tls = true).await;
    let mut client = unknown.connect().await;
    client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(answer.field("proxy-status").unwrap().contains("tls_certificate_error"), "{answer:?}");
    unknown.stop().await;
}

#[tokio::test]
async fn what_comes_back_to_us_is_a_loop() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = Running::start_on(listener, address, |config| {
        config.routes[0].upstream.base_path = "/lab".into();
    })
    .await;
    let mut client = proxy.connect().await;
    client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 508, "{answer:?}");
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_request_and_one_that_only_stops_talking_does_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let peer = Arc::new(Mutex::new(Some(rustix::process::geteuid().as_raw())));
    let said = peer.clone();
    let lookups: PeerLookups = Arc::new(move || {
        let said = said.clone();
        Box::new(move |_, _| *said.lock().unwrap())
    });
    let proxy = Running::with_peers(address, lookups).await;
    let mut client = proxy.connect().await;
    client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    client.stream.shutdown().await.unwrap();
    let mut origin = Wire::accept(&listener).await;
    origin.raw_head().await;
    origin.send(&ok("still here")).await;
    assert_eq!(client.answer().await.text(), "still here");
    drop(origin);

    let mut client = proxy.connect().await;
    client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    let mut origin = Wire::accept(&listener).await;
    origin.raw_head().await;
    *peer.lock().unwrap() = None;
    drop(client);
    assert_eq!(origin.until_closed().await, "");

    *peer.lock().unwrap() = None;
    let mut client = proxy.connect().await;
    client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.text().contains("\"check\": \"peer\""), "{answer:?}");
    proxy.stop().await;
}

#[tokio::test]
async fn who_has_just_connected_when_the_stop_begins_is_answered_and_who_says_nothing_delays_it_a_little() {
    let origin = Upright::answering(|_| ok("hello")).await;
    let proxy = Running::start(&origin, |_| {}).await;
    let mut client = proxy.connect().await;
    let _silent = proxy.connect().await;
    // both are accepted: a later connection is answered
    let mut used = proxy.connect().await;
    used.send("GET /lab/ HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    assert_eq!(used.answer().await.status, 200);
    let stopping = tokio::spawn(proxy.proxy.stop(PATIENCE));
    assert_eq!(used.until_closed().await, "");
    client.send("GET /lab/ HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
    timeout(PATIENCE / 2, stopping).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stop_lets_running_requests_end_and_takes_no_new_ones() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = Running::start_at(address, |_| {}).await;
    let (here, stats) = (proxy.address, proxy.stats.clone());
    let mut idle = proxy.connect().await;
    let mut client = proxy.connect().await;
    client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    let mut origin = Wire::accept(&listener).await;
    origin.raw_head().await;
    let stopping = tokio::spawn(proxy.proxy.stop(PATIENCE));
    assert_eq!(idle.until_closed().await, "");
    assert!(TcpStream::connect(here).await.is_err());
    origin.send(&ok("in time")).await;
    assert_eq!(client.answer().await.text(), "in time");
    drop((client, idle));
    timeout(PATIENCE, stopping).await.unwrap().unwrap();
    assert_eq!(stats.connections.get(), 0);
    let route = stats.route(&RouteName::new("lab").unwrap());
    assert_eq!((route.requests.get(), route.open.get()), (1, 0));
}

// --- the stage -------------------------------------------------------------------------------------------------------

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn unauthorized(challenge: &str) -> String {
    format!("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 2\r\n\r\nno")
}

fn config(upstream: SocketAddr) -> Config {
    let patience = format!("{} s", PATIENCE.as_secs());
    config::testing::config(&format!(
        "listen = []\nworkers = 1\nsandbox = false\ndrain = \"{patience}\"\n\
         [account.lab]\nprovider = \"any\"\nupstream = \"http://{upstream}\"\n\
         [route.lab]\nwait = \"{patience}\"\nconnect_timeout = \"{patience}\"\nidle_timeout = \"{patience}\"\n\
         warm = \"0 s\"\n"
    ))
}

/// A proxy in front of one origin, with a token.
struct Running {
    proxy: Proxy,
    address: SocketAddr,
    /// Where the route is served without prefix.
    own_address: SocketAddr,
    config: Config,
    source: Arc<TokenSource>,
    orders: mpsc::UnboundedReceiver<Said>,
    stats: Arc<Stats>,
}

impl Running {
    async fn start(origin: &Upright, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_at(origin.address, change).await
    }

    async fn start_at(upstream: SocketAddr, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_on(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), upstream, change).await
    }

    async fn start_on(listener: std::net::TcpListener, upstream: SocketAddr, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(upstream);
        change(&mut config);
        Self::begin(listener, config, None)
    }

    async fn with_peers(upstream: SocketAddr, peers: PeerLookups) -> Self {
        Self::begin(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), config(upstream), Some(peers))
    }

    fn begin(listener: std::net::TcpListener, config: Config, peers: Option<PeerLookups>) -> Self {
        let stats = Arc::new(Stats::default());
        let (sender, orders) = mpsc::unbounded_channel();
        let source = TokenSource::new(AccountId::new("lab").unwrap(), Arc::new(Clock::start()), sender);
        let table = Table::build(&config, &|_| source.clone(), &stats).unwrap();
        let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, own_address) = (listener.local_addr().unwrap(), own.local_addr().unwrap());
        let listeners = vec![
            ProxyListener { socket: socket::Listener::Tcp(listener), route: None },
            ProxyListener { socket: socket::Listener::Tcp(own), route: Some(config.routes[0].name.clone()) },
        ];
        let proxy = Proxy::start(listeners, table, stats.clone(), peers).unwrap();
        let running = Self { proxy, address, own_address, config, source, orders, stats };
        running.publish(1);
        running
    }

    fn publish(&self, id: u64) {
        let mut value = HeaderValue::from_str(&format!("Bearer token-{id}")).unwrap();
        value.set_sensitive(true);
        let name = HeaderName::from_static("authorization");
        let token = Published::new(RenewalId(id), (name, value), Timestamp::FAR, Timestamp::FAR);
        self.source.publish(Availability::Usable { token: Arc::new(token), wished_for: None });
    }

    /// What the proxy asks of the renewer next.
    async fn order(&mut self) -> Demand {
        timeout(PATIENCE, self.orders.recv()).await.unwrap().unwrap().1
    }

    /// Answers, as the renewer would, a request that has asked for a token that nobody can bring.
    fn answer_wanted(&self) {
        let source = self.source.clone();
        tokio::spawn(async move {
            loop {
                source.publish(Availability::SignInRequired { why: Why::NotSignedIn });
                tokio::task::yield_now().await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }

    fn replace(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        let table = Table::build(&self.config, &|_| self.source.clone(), &self.stats).unwrap();
        self.proxy.replace(table);
    }

    async fn connect(&self) -> Wire<TcpStream> {
        self.connect_to(self.address).await
    }

    async fn connect_to(&self, address: SocketAddr) -> Wire<TcpStream> {
        Wire::new(TcpStream::connect(address).await.unwrap(), address)
    }

    async fn stop(self) {
        timeout(PATIENCE, self.proxy.stop(Duration::from_millis(200))).await.unwrap();
    }

    async fn stop_now(self) {
        timeout(PATIENCE, self.proxy.stop(Duration::ZERO)).await.unwrap();
    }
}

/// An origin that reads requests whole and answers each.
struct Upright {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A request as an origin saw it.
#[derive(Clone, Debug)]
struct Seen {
    connection: usize,
    line: String,
    head: String,
    body: Vec<u8>,
}

impl Seen {
    fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap()
    }

    fn all(&self, name: &str) -> Vec<String> {
        fields(&self.head, name)
    }
}

impl Upright {
    async fn answering(script: impl Fn(&Seen) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, script) = (seen.clone(), Arc::new(script));
        tokio::spawn(async move {
            for connection in 0.. {
                let mut wire = Wire::new(listener.accept().await.unwrap().0, address);
                let (log, script) = (log.clone(), script.clone());
                tokio::spawn(async move {
                    loop {
                        let head = wire.raw_head().await;
                        if head.is_empty() {
                            return;
                        }
                        let line = head.lines().next().unwrap().to_owned();
                        // an early verdict, before the body: what many servers do
                        let mut request = Seen { connection, line, head, body: Vec::new() };
                        let early = request.all("transfer-encoding").len() == 1
                            && request.all("authorization") == ["Bearer token-1"];
                        if early && script(&request).starts_with("HTTP/1.1 401") {
                            log.lock().unwrap().push(request.clone());
                            wire.send(&script(&request)).await;
                            return;
                        }
                        request.body = wire.body(&request.head).await;
                        log.lock().unwrap().push(request.clone());
                        wire.send(&script(&request)).await;
                    }
                });
            }
        });
        Self { address, seen }
    }

    /// An origin that says the same to everybody, once it has read a head, and hangs up.
    async fn closing(answer: &str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = answer.to_owned();
        tokio::spawn(async move {
            loop {
                let mut wire = Wire::accept(&listener).await;
                wire.raw_head().await;
                wire.send(&answer).await;
            }
        });
        address
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn fields(head: &str, name: &str) -> Vec<String> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).collect()
}

/// One end of a connection, read and written by hand. `HERE` and `PORT` stand for the other end's address.
struct Wire<S> {
    stream: S,
    address: SocketAddr,
    buffer: Vec<u8>,
}

/// An answer, read by its own framing.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn field(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }
}

impl Wire<TcpStream> {
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, address) = timeout(PATIENCE, listener.accept()).await.expect("somebody connects").unwrap();
        Self::new(stream, address)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    fn new(stream: S, address: SocketAddr) -> Self {
        Self { stream, address, buffer: Vec::new() }
    }

    async fn send(&mut self, text: &str) {
        let port = self.address.port().to_string();
        let text = text.replace("HERE", &self.address.to_string()).replace("PORT", &port);
        // the other end may have hung up, which the answer will show
        let _ = timeout(PATIENCE, self.stream.write_all(text.as_bytes())).await.expect("somebody reads");
    }

    /// Reads on; false at the end.
    async fn more(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await.expect("somebody writes");
        read.unwrap_or(0) > 0
    }

    /// A head, or what there was of it.
    async fn raw_head(&mut self) -> String {
        loop {
            let end = self.buffer.windows(4).position(|part| part == b"\r\n\r\n");
            if end.is_some() || !self.more().await {
                let end = end.map_or(self.buffer.len(), |end| end + 4);
                return String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
            }
        }
    }

    async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count && self.more().await {}
        let count = count.min(self.buffer.len());
        self.buffer.drain(..count).collect()
    }

    async fn expect(&mut self, text: &str) {
        assert_eq!(String::from_utf8_lossy(&self.bytes(text.len()).await), text);
    }

    async fn body(&mut self, head: &str) -> Vec<u8> {
        if !fields(head, "transfer-encoding").is_empty() {
            let mut body = Vec::new();
            loop {
                while !self.buffer.windows(2).any(|part| part == b"\r\n") {
                    if !self.more().await {
                        return body;
                    }
                }
                let end = self.buffer.windows(2).position(|part| part == b"\r\n").unwrap();
                let size: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let size = usize::from_str_radix(std::str::from_utf8(&size[..end]).unwrap(), 16).unwrap();
                let mut chunk = self.bytes(size + 2).await;
                if size == 0 {
                    return body;
                }
                chunk.truncate(size);
                body.extend(chunk);
            }
        }
        let length = fields(head, "content-length").first().map_or(0, |length| length.parse().unwrap());
        self.bytes(length).await
    }

    async fn head(&mut self) -> Answer {
        let head = self.raw_head().await;
        let status = head.get(9..12).and_then(|status| status.parse().ok());
        Answer { status: status.unwrap_or_else(|| panic!("no head: {head:?}")), head, body: Vec::new() }
    }

    async fn answer(&mut self) -> Answer {
        self.answer_to("GET").await
    }

    async fn answer_to(&mut self, method: &str) -> Answer {
        let mut answer = self.head().await;
        if method != "HEAD" && !matches!(answer.status, 204 | 304) {
            answer.body = self.body(&answer.head).await;
        }
        answer
    }

    async fn until_closed(&mut self) -> String {
        while self.more().await {}
        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned()
    }
}
