//! Whose token goes up, when it is renewed, and when nothing goes up at all.

use super::*;

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
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_good_answer_to_a_token_that_has_grown_older_is_told_once_more() {
    let origin = Upright::answering(|_| ok("good")).await;
    let mut proxy = Running::start(&origin, |_| {}).await;
    let value = HeaderValue::from_static("Bearer token-1");
    let name = HeaderName::from_static("authorization");
    let now = Clock::start().now();
    let (start, end) = (now - Duration::from_secs(3600), now + Duration::from_millis(700));
    let token = Arc::new(Published::new(RenewalId(1), (name, value), Timestamp::FAR, start));
    token.news_from.store(end.as_millis(), Ordering::Relaxed);
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
    // the new token is refused, too: its 401 is the response
    client.send("GET /lab/get HTTP/1.1\r\nHost: HERE\r\n\r\n").await;
    proxy.order().await;
    proxy.publish(2);
    assert_eq!(client.answer().await.status, 401);
    assert_eq!(origin.seen().len(), 6);
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
