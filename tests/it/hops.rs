//! What one hop says in its own terms is said anew for the next: lengths, the absence of a body, the size of heads, the
//! version, and the port that a client was given.

use tokio::time::timeout;

use crate::support::PATIENCE;
use crate::support::http2::{Http2Client, Http2Origin, rest};
use crate::support::stage::{COLD, Stage};
use crate::support::tls::certified;
use crate::support::upstreams;
use crate::support::wire::{RawOrigin, Wire, serving, soon};

/// An upstream that answers everything with this head and the body `ok`, as often as it is asked.
async fn answering(head: &str) -> String {
    let head = head.to_owned();
    let address = serving(move |_, stream| {
        let head = head.clone();
        async move {
            let mut up = Wire::on(stream);
            while let Some(asked) = up.head_for_long().await {
                let body = if asked.starts_with("HEAD ") { "" } else { "ok" };
                up.send(format!("{head}\r\n\r\n{body}")).await;
            }
        }
    });
    format!("http://{}", address.await)
}

#[tokio::test]
async fn a_length_said_as_a_list_is_one_number_or_no_answer() {
    for (said, expected) in [
        ("2, 2", Some("2")),
        ("2,2", Some("2")),
        ("2 ,\t2, 2", Some("2")),
        ("2", Some("2")),
        ("2, 3", None),
        ("2, 02", None),
        ("2,", None),
        (", 2", None),
        ("+2", None),
        ("two", None),
        ("", None),
        ("99999999999999999999", None),
    ] {
        let url = answering(&format!("HTTP/1.1 200 OK\r\nContent-Length: {said}")).await;
        let stage = Stage::leading_to(&url, COLD);
        let daemon = stage.start();
        for method in ["GET", "HEAD"] {
            let mut client = Wire::connect(&stage.address).await;
            client.send(format!("{method} /api/x HTTP/1.1\r\nHost: {}\r\n\r\n", stage.address)).await;
            let head = client.head().await.to_ascii_lowercase();
            match expected {
                Some(length) => {
                    assert!(head.starts_with("http/1.1 200"), "{said:?} {method}: {head}");
                    assert!(head.contains(&format!("\r\ncontent-length: {length}\r\n")), "{said:?} {method}: {head}");
                }
                // of what is not sent, nobody has to know how long it is
                None if method == "HEAD" => {
                    assert!(head.starts_with("http/1.1 200"), "{said:?}: {head}");
                    assert!(!head.contains("content-length"), "{said:?}: {head}");
                }
                None => assert!(head.starts_with("http/1.1 502"), "{said:?} {method}: {head}"),
            }
        }
        drop(daemon);
    }
}

#[tokio::test]
async fn what_has_no_content_has_no_length_where_clients_would_wait_for_it() {
    for status in ["204 No Content", "304 Not Modified"] {
        let address = serving(move |_, stream| async move {
            let mut up = Wire::on(stream);
            while up.head_for_long().await.is_some() {
                up.send(format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n")).await;
            }
        });
        let stage = Stage::leading_to(&format!("http://{}", address.await), COLD);
        let daemon = stage.start();
        let mut client = Wire::connect(&stage.address).await;
        client.send(format!("GET /api/x HTTP/1.1\r\nHost: {}\r\n\r\n", stage.address)).await;
        let head = client.head().await.to_ascii_lowercase();
        assert!(head.starts_with(&format!("http/1.1 {}", &status[..3])), "{head}");
        assert!(!head.contains("content-length"), "{head}");
        let mut client = Http2Client::connect(&stage.address).await;
        for _ in 0..2 {
            let mut answer = client.get("/api/x").await;
            assert_eq!(answer.status().as_str(), &status[..3]);
            assert!(!answer.headers().contains_key("content-length"), "{:?}", answer.headers());
            assert_eq!(rest(answer.body_mut()).await.expect("an end").0, b"", "{status}");
        }
        drop(daemon);
    }
}

#[tokio::test]
async fn a_method_that_expects_content_has_a_length_upstream_though_http2_had_none() {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(&origin.url, COLD);
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;
    for (method, has_length) in [("POST", true), ("PUT", true), ("PATCH", true), ("GET", false), ("DELETE", false)] {
        let (answer, _) = client.send(method, "/api/x", true).await;
        let mut up = origin.accept().await;
        let head = up.head().await;
        assert_eq!(head.contains("\r\ncontent-length: 0\r\n"), has_length, "{method}: {head}");
        assert!(!head.contains("transfer-encoding"), "{method}: {head}");
        up.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
        assert_eq!(soon(answer).await.expect("an answer").status(), 204, "{method}");
    }
    drop(daemon);
}

#[tokio::test]
async fn our_own_answers_to_head_over_http2_are_heads() {
    let stage = Stage::leading_to("http://127.0.0.1:9", COLD);
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;
    // no route, a way that the guard closes, an upstream that is away, and more of each on the same connection
    for (path, status) in [("/nope", 404), ("/api/x", 502), ("/nope?again", 404), ("/", 404)] {
        let (answer, _) = client.send("HEAD", path, true).await;
        let mut answer = soon(answer).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json", "{path}");
        assert_eq!(rest(answer.body_mut()).await.expect("an end").0, b"", "{path}");
        let mut whole = client.get(path).await;
        let length = rest(whole.body_mut()).await.expect("a body").0.len();
        assert_eq!(answer.headers()["content-length"], length.to_string(), "{path}: as long as GET's");
    }
    drop(daemon);
}

/// A head with so many fields beside its usual ones, and so many bytes in another.
fn large_head(fields: usize, bytes: usize) -> String {
    let mut head = "HTTP/1.1 200 OK\r\nContent-Length: 2".to_owned();
    head.extend((0..fields).map(|number| format!("\r\nX-{number}: y")));
    head.extend((0..bytes / 8000).map(|number| format!("\r\nX-Long-{number}: {}", "z".repeat(8000))));
    head
}

#[tokio::test]
async fn large_heads_of_answers_pass_in_http1() {
    for (case, fields, bytes, passes) in [
        ("101 fields", 100, 0, true),
        ("990 fields", 989, 0, true),
        ("100 kB", 0, 100_000, true),
        ("256 KiB", 0, 256 * 1024, true),
        ("both", 900, 230_000, true),
        ("1001 fields", 1000, 0, false),
        ("600 kB", 0, 600_000, false),
    ] {
        let url = answering(&large_head(fields, bytes)).await;
        let stage = Stage::leading_to(&url, COLD);
        let daemon = stage.start();
        for turn in 0..3 {
            let mut client = Wire::connect(&stage.address).await;
            client.send(format!("GET /api/x HTTP/1.1\r\nHost: {}\r\n\r\n", stage.address)).await;
            let head = client.head().await;
            assert!(head.starts_with(if passes { "HTTP/1.1 200" } else { "HTTP/1.1 502" }), "{case} {turn}");
            if passes {
                let named = head.lines().filter(|line| line.starts_with("x-")).count();
                assert_eq!(named, fields + bytes / 8000, "{case} {turn}");
                assert_eq!(client.exactly(2).await, "ok", "{case} {turn}");
            }
        }
        drop(daemon);
    }
}

#[tokio::test]
async fn large_heads_of_answers_pass_in_http2_within_the_same_limits() {
    let mut origin = Http2Origin::plain().await;
    let stage = Stage::leading_to(&format!("http://{}", origin.address), "http2 = true");
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;
    for (case, fields, bytes, passes) in [
        ("990 fields", 989, 0, true),
        ("100 kB", 0, 100_000, true),
        ("256 KiB", 0, 256 * 1024, true),
        ("1001 fields", 1001, 0, false),
    ] {
        let (answer, _) = client.send("GET", "/api/x", true).await;
        let mut asked = origin.next().await;
        let mut head = hyper::Response::builder();
        for number in 0..fields {
            head = head.header(format!("x-{number}"), "y");
        }
        for number in 0..bytes / 8000 {
            head = head.header(format!("x-long-{number}"), "z".repeat(8000));
        }
        asked.respond.send_response(head.body(()).expect("a head"), true).expect("sent");
        let answer = soon(answer).await;
        let status = answer.as_ref().map(|answer| answer.status().as_u16());
        assert_eq!(status.ok(), Some(if passes { 200 } else { 502 }), "{case}");
    }
    drop(daemon);
}

#[tokio::test]
async fn a_clients_malformed_chunking_is_its_own_fault() {
    let url = answering("HTTP/1.1 200 OK\r\nContent-Length: 2").await;
    let rows = [
        ("no size", "Transfer-Encoding: chunked", "zz\r\nabc\r\n0\r\n\r\n"),
        ("an empty size", "Transfer-Encoding: chunked", "\r\nabc\r\n"),
        ("a size too large", "Transfer-Encoding: chunked", "fffffffffffffffff\r\nabc"),
        ("a negative size", "Transfer-Encoding: chunked", "-1\r\nabc\r\n"),
        ("no end of line behind data", "Transfer-Encoding: chunked", "3\r\nabcXX0\r\n\r\n"),
        ("a bare LF behind the size", "Transfer-Encoding: chunked", "3\nabc\r\n0\r\n\r\n"),
        ("nonsense later", "Transfer-Encoding: chunked", "3\r\nabc\r\nzz\r\n"),
    ];
    let silent = RawOrigin::start().await;
    for to in [&url, &silent.url] {
        let stage = Stage::leading_to(to, COLD);
        let daemon = stage.start();
        for (case, framing, body) in rows {
            if to == &url && case == "nonsense later" {
                continue; // the upstream's answer overtakes it
            }
            let mut client = Wire::connect(&stage.address).await;
            client.send(format!("POST /api/x HTTP/1.1\r\nHost: {}\r\n{framing}\r\n\r\n{body}", stage.address)).await;
            let answer = client.until_closed().await;
            assert!(
                answer.starts_with("HTTP/1.1 400") || (to == &url && answer.starts_with("HTTP/1.1 200")),
                "{case}: {answer}"
            );
            assert!(to == &url || answer.contains("urn:valetd:problem:bad-request"), "{case}: {answer}");
        }
        drop(daemon);
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_the_clients_own_fault() {
    let silent = RawOrigin::start().await;
    let stage = Stage::leading_to(&silent.url, COLD);
    let daemon = stage.start();
    let mut client = Wire::connect(&stage.address).await;
    client.send(format!("POST /api/x HTTP/1.1\r\nHost: {}\r\nContent-Length: 9\r\n\r\nabc", stage.address)).await;
    let mut up = silent.accept().await;
    up.until("abc").await;
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await;
    let answer = client.until_closed().await;
    assert!(answer.starts_with("HTTP/1.1 400") || answer.is_empty(), "{answer}");
    drop(daemon);
}

#[tokio::test]
async fn a_forwarded_port_is_served_and_kept_in_links_and_cookies() {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(&origin.url, COLD);
    let daemon = stage.start();
    for host in ["localhost:9000", "localhost", "127.0.0.1:9000", "[::1]:9000", "api.localhost:9000", "api.localhost"] {
        let prefix = if host.starts_with("api.") { "" } else { "/api" };
        let mut client = Wire::connect(&stage.address).await;
        client.send(format!("GET {prefix}/x HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let mut up = timeout(PATIENCE, origin.accept()).await.unwrap_or_else(|_| panic!("{host} is refused"));
        assert!(up.head().await.starts_with("GET /x HTTP/1.1\r\n"), "{host}");
        let links = format!("Location: {}/there\r\nSet-Cookie: a=b; Path=/; Domain=127.0.0.1", origin.url);
        up.send(format!("HTTP/1.1 302 Found\r\n{links}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")).await;
        let head = client.head().await;
        assert!(head.contains(&format!("location: http://{host}{prefix}/there\r\n")), "{host}: {head}");
        assert!(head.contains("set-cookie: a=b;") && !head.to_lowercase().contains("domain"), "{host}: {head}");
    }
    for host in ["evil.example:9000", "localhost.evil.example:9000", "10.0.0.1:9000", "localhost.:9000"] {
        let mut client = Wire::connect(&stage.address).await;
        client.send(format!("GET /api/x HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert!(client.head().await.starts_with("HTTP/1.1 403"), "{host}");
    }
    drop(daemon);
}

/// A server before one that speaks HTTP/2: it hangs up on everything else without a word. Returns its address.
fn hangs_up_on_http1(origin: &str) -> String {
    let origin = origin.to_owned();
    upstreams::serving(move |mut client| {
        let mut begins = [0; 3];
        client.peek(&mut begins)?;
        if begins != *b"PRI" {
            return Ok(());
        }
        let mut server = std::net::TcpStream::connect(&origin)?;
        let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
        let down = std::thread::spawn(move || {
            let _ = std::io::copy(&mut from_server, &mut to_client);
            to_client.shutdown(std::net::Shutdown::Both)
        });
        let _ = std::io::copy(&mut client, &mut server);
        let _ = server.shutdown(std::net::Shutdown::Both);
        let _ = down.join();
        Ok(())
    })
}

#[tokio::test]
async fn a_client_of_http1_is_served_by_an_upstream_that_speaks_only_http2_over_tls_and_in_the_clear() {
    let folder = tempfile::tempdir().expect("a folder");
    let acceptor = certified(folder.path(), &[b"h2"]);
    let trust = format!("extra_ca = \"{}\"", folder.path().join("ca.pem").display());
    for tls in [true, false] {
        let mut origin = Http2Origin::start(tls.then(|| acceptor.clone())).await;
        let stage = match tls {
            true => Stage::leading_to(&format!("https://{}", origin.address), &trust),
            false => {
                Stage::leading_to(&format!("http://{}", hangs_up_on_http1(&origin.address.to_string())), "http2 = true")
            }
        };
        let daemon = stage.start();
        for (turn, (request, body)) in [
            ("GET /api/x?y HTTP/1.1\r\nConnection: keep-alive\r\nTE: trailers\r\n", ""),
            ("POST /api/x?y HTTP/1.1\r\nContent-Length: 3\r\n", "abc"),
            ("PUT /api/x?y HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"),
            ("HEAD /api/x?y HTTP/1.0\r\n", ""),
        ]
        .into_iter()
        .enumerate()
        {
            let mut client = Wire::connect(&stage.address).await;
            client.send(format!("{request}Host: {}\r\n\r\n{body}", stage.address)).await;
            let mut asked = origin.next().await;
            assert_eq!(asked.request.method().as_str(), request.split(' ').next().expect("a method"), "{tls} {turn}");
            assert_eq!(asked.request.uri().path_and_query().expect("a path"), "/x?y", "{tls} {turn}");
            assert_eq!(asked.authorization().len(), 1, "{tls} {turn}");
            assert!(stage.is_ours(asked.authorization()[0]), "{tls} {turn}");
            let sent = rest(asked.request.body_mut()).await.expect("a body").0;
            assert_eq!(sent, if body.is_empty() { b"".as_slice() } else { b"abc" }, "{tls} {turn}");
            let is_head = asked.request.method() == "HEAD";
            let mut down = asked.answer();
            down.send_data(if is_head { "" } else { "hello" }.into(), true).expect("sent");
            let head = client.head().await;
            assert!(head.starts_with("HTTP/1.") && head[8..].starts_with(" 200"), "{tls} {turn}: {head}");
            if !is_head {
                assert!(client.until("hello").await.ends_with("hello"), "{tls} {turn}");
            }
        }
        drop(daemon);
    }
}
