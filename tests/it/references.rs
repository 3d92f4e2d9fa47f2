//! What an upstream repeats, where its answers lead, and what it is told of our addresses, seen at both ends of the wire.

use crate::support::keys::add;
use crate::support::stage::{COLD, Stage};
use crate::support::wire::{RawOrigin, Wire};

/// What the token was that a request carried.
fn token_of(head: &str) -> String {
    let token = head.lines().find_map(|line| line.strip_prefix("authorization: Bearer "));
    token.unwrap_or_else(|| panic!("no token in {head}")).trim().to_owned()
}

/// A text as servers may spell it.
fn spellings(text: &str) -> Vec<String> {
    let each = |spell: &dyn Fn(u8) -> String| text.bytes().map(spell).collect::<String>();
    vec![
        text.to_owned(),
        each(&|byte| format!("%{byte:02X}")),
        each(&|byte| format!("%{byte:02x}")),
        each(&|byte| format!("%25{byte:02x}")),
        each(&|byte| format!("\\u{byte:04x}")),
        each(&|byte| format!("&#{byte};")),
        each(&|byte| format!("&#{byte:09};")),
        each(&|byte| format!("&#{byte}")),
        each(&|byte| format!("&#x{byte:X}")),
    ]
}

async fn ask(client: &mut Wire, stage: &Stage, target: &str, fields: &str) {
    client.send(format!("GET {target} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", stage.address)).await;
}

#[tokio::test]
async fn whatever_the_upstream_repeats_the_client_sees_no_secret_in_it() {
    let origin = RawOrigin::start().await;
    let edits = "request_headers = { add = { X-Api-Key = { file = \"key\" }, Accept = \"application/json\" } }";
    let stage = Stage::leading_to(&origin.url, &format!("{COLD}\n{edits}"));
    std::fs::write(stage.home.path("config/valetd/key"), "key-of/the+lab\n").expect("written");
    let _daemon = stage.start();
    let mut client = Wire::connect(&stage.address).await;
    ask(&mut client, &stage, "/api/x", "").await;
    let mut up = origin.accept().await;
    let token = token_of(&up.head().await);
    up.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
    client.head().await;
    for secret in [token.as_str(), "key-of/the+lab"] {
        for spelling in spellings(secret) {
            ask(&mut client, &stage, "/api/x", "TE: trailers\r\nConnection: TE\r\n").await;
            let mut up = origin.accept().await;
            up.head().await;
            up.send(format!(
                "HTTP/1.1 302 You sent {spelling}\r\nConnection: close\r\nLocation: /next?access_token={spelling}&page=2\r\n\
                 Link: </x?p=2&access_token={spelling}>; rel=\"next\"\r\nX-Echo: ({spelling})\r\nX-Fine: 1\r\n\
                 Set-Cookie: a=b\r\nSet-Cookie: t={spelling}\r\nContent-Type: application/json\r\n\
                 Trailer: X-End\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-End: {spelling}\r\nX-Sum: 2\r\n\r\n"
            ))
            .await;
            let answer = client.head().await + &client.until("\r\n\r\n").await;
            for spelling in spellings(secret) {
                assert!(!answer.contains(&spelling), "{answer}");
            }
            for kept in [
                "HTTP/1.1 302 ",
                "location: /api/next?page=2\r\n",
                "link: </api/x?p=2>; rel=\"next\"\r\n",
                "x-fine: 1\r\n",
                "set-cookie: a=b; Path=/api\r\n",
                "content-type: application/json\r\n",
            ] {
                assert!(answer.contains(kept), "no {kept} in {answer}");
            }
            assert!(!answer.contains("x-echo") && !answer.contains("t="), "{answer}");
        }
    }
}

#[tokio::test]
async fn with_scrub_nothing_comes_back_that_was_not_looked_through() {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(&origin.url, &format!("{COLD}\nscrub = true"));
    let _daemon = stage.start();
    let mut client = Wire::connect(&stage.address).await;
    ask(&mut client, &stage, "/api/x", "").await;
    let mut up = origin.accept().await;
    let token = token_of(&up.head().await);
    up.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    client.head().await;
    for spelling in spellings(&token) {
        for cut in [1, spelling.len() / 2, spelling.len() - 1] {
            ask(&mut client, &stage, "/api/x", "").await;
            up.head().await;
            up.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\nsent: {}",
                7 + spelling.len(),
                &spelling[..cut]
            ))
            .await;
            client.head().await;
            assert_eq!(client.until("sent: ").await, "sent: ");
            up.send(format!("{}.", &spelling[cut..])).await;
            assert_eq!(client.exactly(spelling.len() + 1).await, format!("{}.", "*".repeat(spelling.len())));
        }
    }
    drop(up);
    for (answer, why) in [
        ("200 OK\r\nContent-Encoding: gzip", "its content is encoded"),
        ("206 Partial\r\nContent-Range: bytes 0-2/9", "it is a part of the content"),
        ("200 OK\r\nContent-Type: multipart/byteranges; boundary=x", "it is a part of the content"),
    ] {
        let fields = "Accept-Encoding: gzip\r\nRange: bytes=0-2\r\nIf-Range: \"a\"\r\nRequest-Range: bytes=0-2\r\n";
        ask(&mut client, &stage, "/api/x", fields).await;
        let mut up = origin.accept().await; // what is refused takes its connection with it
        let head = up.head().await;
        assert!(!head.contains("gzip") && !head.contains("ange: "), "{head}");
        up.send(format!("HTTP/1.1 {answer}\r\nContent-Length: 3\r\n\r\nabc")).await;
        let (status, body) = client.answer(true).await.expect("an answer");
        assert!(status == 502 && body.contains(why), "{status} {body}");
    }
    ask(&mut client, &stage, "/api/x", "").await;
    let mut up = origin.accept().await;
    up.head().await;
    up.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\0".as_slice()).await;
    assert!(client.head().await.contains("content-length: 4"));
    assert_eq!(client.until_closed().await, "", "gzip that is not said");
    let mut client = Wire::connect(&stage.address).await;
    ask(&mut client, &stage, "/api/ws", "Connection: Upgrade\r\nUpgrade: websocket\r\n").await;
    let (status, body) = client.answer(true).await.expect("an answer");
    assert!(status == 403 && body.contains("scrub"), "{status} {body}");
}

#[tokio::test]
async fn a_client_that_says_no_host_is_led_by_a_path_and_the_roots_dot_names_the_same_host() {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(&origin.url.replace("127.0.0.1", "localhost."), COLD);
    let _daemon = stage.start();
    for (host, home) in [("", "/api"), ("Host: localhost:9\r\n", "http://localhost:9/api")] {
        for name in ["localhost", "localhost."] {
            let mut client = Wire::connect(&stage.address).await;
            client.send(format!("GET /api/x HTTP/1.0\r\n{host}\r\n")).await;
            let mut up = origin.accept().await;
            up.head().await;
            let there = origin.url.replace("127.0.0.1", name);
            up.send(format!("HTTP/1.1 302 Found\r\nLocation: {there}/a?b\r\nContent-Length: 0\r\n\r\n")).await;
            let head = client.head().await;
            assert!(head.contains(&format!("location: {home}/a?b\r\n")), "{host}{name}: {head}");
            drop(up);
        }
    }
}

#[tokio::test]
async fn an_answer_leads_to_the_accounts_other_routes_here_and_the_403_of_a_key_names_one_that_it_lacks() {
    let (origin, zip) = (RawOrigin::start().await, RawOrigin::start().await);
    let other = format!("[route.zip]\naccount = \"gbdx\"\nupstream = \"{}/odata\"\n{COLD}", zip.url);
    let stage = Stage::leading_to(&origin.url, &format!("{COLD}\n{other}"));
    let _daemon = stage.start();
    let key = add(&stage.home, "narrow", &["--route", "api"]);
    let mut client = Wire::connect(&stage.address).await;
    ask(&mut client, &stage, "/api?x", "").await;
    let mut up = origin.accept().await;
    up.head().await;
    let mut answer = format!("HTTP/1.1 302 Found\r\nLocation: {}/odata/f?n=", zip.url).into_bytes();
    answer.extend(b"\xc3\xa9\r\nSet-Cookie: a=\xff; Secure; Domain=api.example\r\nContent-Length: 0\r\n");
    answer.extend(format!("Refresh: 0; url={}/odata/g\r\n\r\n", zip.url).into_bytes());
    up.send(answer).await;
    let head = client.head().await;
    let here = &stage.address;
    assert!(head.contains(&format!("location: http://{here}/zip/f?n=\u{e9}\r\n")), "{head}");
    assert!(head.contains(&format!("refresh: 0;url=http://{here}/zip/g\r\n")), "{head}");
    assert!(head.contains("set-cookie: a=\u{fffd}; Path=/api\r\n"), "{head}");
    ask(&mut client, &stage, "/zip/f", &format!("X-Valetd-Key: {key}\r\n")).await;
    let (status, body) = client.answer(true).await.expect("an answer");
    assert!(status == 403 && body.contains("\"route\": \"zip\"") && body.contains("key-rights"), "{status} {body}");
    ask(&mut client, &stage, "/zip/f", "").await;
    let head = zip.accept().await.head().await;
    assert!(head.starts_with("GET /odata/f ") && !token_of(&head).is_empty(), "{head}");
}

#[tokio::test]
async fn what_names_us_in_a_request_names_the_upstream_there() {
    let origin = RawOrigin::start().await;
    let stage = Stage::leading_to(&format!("{}/dav", origin.url), &format!("{COLD}\nrefuse = [\"/dav/private\"]"));
    let _daemon = stage.start();
    let (here, there) = (&stage.address, &origin.url);
    let mut client = Wire::connect(here).await;
    client
        .send(format!(
            "MOVE /api/a HTTP/1.1\r\nHost: {here}\r\nDestination: http://{here}/api/b%20c\r\n\
             If: <http://{here}/api/a> (<urn:uuid:1>)\r\nOrigin: http://{here}\r\nReferer: http://{here}/api/\r\n\r\n"
        ))
        .await;
    let mut up = origin.accept().await;
    let head = up.head().await;
    for expected in [
        "MOVE /dav/a HTTP/1.1\r\n".to_owned(),
        format!("destination: {there}/dav/b%20c\r\n"),
        format!("if: <{there}/dav/a> (<urn:uuid:1>)\r\n"),
        format!("origin: {there}\r\n"),
        format!("referer: {there}/dav/\r\n"),
    ] {
        assert!(head.contains(&expected), "no {expected} in {head}");
    }
    assert!(!head.contains(here.as_str()), "{head}");
    up.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
    client.head().await;
    for destination in ["/api/private/x", "/dav/private/x", "/api/%70rivate/x"] {
        for front in ["", &format!("http://{here}"), there.as_str()] {
            let destination = format!("{front}{destination}");
            let is_ours = front.ends_with(here.as_str()) || front.is_empty();
            if is_ours == destination.contains("/dav/") && !front.is_empty()
                || front == there && destination.contains("/api/")
            {
                continue; // leads elsewhere
            }
            client.send(format!("COPY /api/a HTTP/1.1\r\nHost: {here}\r\nDestination: {destination}\r\n\r\n")).await;
            let (status, body) = client.answer(true).await.expect("an answer");
            assert_eq!(status, 403, "{destination}: {body}");
        }
    }
}
