//! What goes up and what comes back: heads, bodies, frames, references, refusals.

use super::*;

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
    let rights = Rights {
        routes: vec![RouteName::new("lab").unwrap()],
        methods: Vec::new(),
        paths: Vec::new(),
        messages: Vec::new(),
    };
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
    // the response begins before the request has ended
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
