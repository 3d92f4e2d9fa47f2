//! Connections on both sides: kept, closed, lost, switched to another protocol, and let go at a stop.

use super::*;

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
    let mut origin = Wire::accept(&listener).await;
    let head = origin.raw_head().await;
    assert!(head.contains("Bearer token-2") && head.contains("sec-websocket-key: k"), "{head}");
    origin.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst").await;
    let head = client.head().await;
    assert_eq!(
        (head.status, head.field("upgrade"), head.field("connection")),
        (101, Some("websocket"), Some("upgrade"))
    );
    assert_eq!(replayed(&proxy.order().await), Some(true), "a 101 is as good as a 200");
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
    // and in the middle of a response: broken off
    let mut client = proxy.connect().await;
    client.send("GET /lab/x HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    let mut origin = Wire::accept(&silent).await;
    origin.raw_head().await;
    origin.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    assert!(client.until_closed().await.ends_with("half"));
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
