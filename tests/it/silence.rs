//! An upstream connection that is dead without a word costs one request a while, and the next ones nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Response;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::support::http2::{Http2Client, Http2Origin};
use crate::support::stage::{COLD, Stage};
use crate::support::wire::{Wire, serving};

/// A path to an origin on which, from a moment on, whatever is open swallows everything; new connections work.
async fn swallowing(origin: String, connections: Arc<AtomicUsize>) -> (String, watch::Sender<()>) {
    let (swallow, swallows) = watch::channel(());
    let address = serving(move |_, mut client| {
        connections.fetch_add(1, Ordering::SeqCst);
        let (origin, mut swallows) = (origin.clone(), swallows.clone());
        async move {
            swallows.mark_unchanged();
            let mut up = TcpStream::connect(origin).await.expect("the origin listens");
            tokio::select! {
                _ = copy_bidirectional(&mut client, &mut up) => {}
                _ = swallows.changed() => std::future::pending().await, // both ends stay open
            }
        }
    });
    (address.await, swallow)
}

fn answer_everything(mut origin: Http2Origin) {
    tokio::spawn(async move {
        while let Some(mut asked) = origin.streams.recv().await {
            let mut down = asked.respond.send_response(Response::new(()), false).expect("somebody listens");
            down.send_data(Bytes::from_static(b"ok"), true).expect("sent");
        }
    });
}

#[tokio::test]
async fn a_silent_http2_connection_is_asked_and_given_up_and_the_request_goes_by_another() {
    let origin = Http2Origin::plain().await;
    let connections = Arc::new(AtomicUsize::new(0));
    let (path, swallow) = swallowing(origin.address.clone(), connections.clone()).await;
    answer_everything(origin);
    let stage = Stage::leading_to(&format!("http://{path}"), "http2 = true\nwarm = \"0s\"\nidle_timeout = \"300s\"");
    stage.home.write_config(&format!(
        "workers = 1\n{}",
        stage.config(&format!("http://{path}"), "http2 = true\nwarm = \"0s\"\nidle_timeout = \"300s\"")
    ));
    let daemon = stage.start();
    let mut client = Http2Client::connect(&stage.address).await;
    for _ in 0..3 {
        assert_eq!(client.get("/api/x").await.status(), 200);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    swallow.send_replace(());
    let start = Instant::now();
    let (waiting, _) = client.send("GET", "/api/x", true).await;
    let answer = timeout(Duration::from_secs(45), waiting).await.expect("long before the limit").expect("an answer");
    assert_eq!(answer.status(), 200, "after {:?}", start.elapsed());
    let start = Instant::now();
    assert_eq!(client.get("/api/x").await.status(), 200);
    assert!(start.elapsed() < Duration::from_secs(5), "the next one waits for nothing");
    assert_eq!(connections.load(Ordering::SeqCst), 2);
    drop(daemon);
}

#[tokio::test]
async fn after_a_request_that_timed_out_the_next_goes_by_another_connection() {
    for http2 in [true, false] {
        let connections = Arc::new(AtomicUsize::new(0));
        let (path, swallow) = if http2 {
            let origin = Http2Origin::plain().await;
            let path = swallowing(origin.address.clone(), connections.clone()).await;
            answer_everything(origin);
            path
        } else {
            let origin = serving(|_, stream| async move {
                let mut up = Wire::on(stream);
                while up.head_for_long().await.is_some() {
                    up.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            });
            swallowing(origin.await, connections.clone()).await
        };
        let settings = format!("{COLD}\nhttp2 = {http2}\nidle_timeout = \"3s\"");
        let stage = Stage::leading_to(&format!("http://{path}"), &settings);
        stage.home.write_config(&format!("workers = 1\n{}", stage.config(&format!("http://{path}"), &settings)));
        let daemon = stage.start();
        let mut client = Http2Client::connect(&stage.address).await;
        // several at once, so that HTTP/1.1 has several idle connections
        let mut first = Vec::new();
        for _ in 0..3 {
            first.push(client.send("GET", "/api/x", true).await.0);
        }
        for answer in first {
            assert_eq!(answer.await.expect("an answer").status(), 200, "{http2}");
        }
        swallow.send_replace(());
        assert_eq!(client.get("/api/x").await.status(), 504, "{http2}");
        let start = Instant::now();
        assert_eq!(client.get("/api/x").await.status(), 200, "{http2}");
        assert!(start.elapsed() < Duration::from_secs(2), "{http2}: {:?}", start.elapsed());
        drop(daemon);
    }
}
