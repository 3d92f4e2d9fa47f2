//! Both ends of HTTP/2, as a story leads them: an origin that leaves every stream to it, and a client.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use hyper::http::HeaderMap;
use hyper::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::support::wire::{serving, soon};

/// An origin that speaks HTTP/2 and leaves every stream to the story.
pub struct Http2Origin {
    pub address: String,
    pub streams: mpsc::UnboundedReceiver<Asked>,
    /// One entry a connection.
    shutdown: Arc<Mutex<Vec<mpsc::UnboundedSender<()>>>>,
}

/// A request as the origin got it, and the way to answer.
pub struct Asked {
    pub connection: usize,
    pub request: Request<RecvStream>,
    pub respond: SendResponse<Bytes>,
}

impl Http2Origin {
    pub async fn plain() -> Self {
        Self::start(None).await
    }

    pub async fn start(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let (say, streams) = mpsc::unbounded_channel();
        let shutdown = Arc::new(Mutex::new(Vec::new()));
        let connections = shutdown.clone();
        let address = serving(move |connection, tcp| {
            let (stop, stopped) = mpsc::unbounded_channel();
            connections.lock().expect("no panic").push(stop);
            let (say, tls) = (say.clone(), tls.clone());
            async move {
                match tls {
                    None => serve_http2(tcp, connection, say, stopped).await,
                    Some(tls) => {
                        if let Ok(tls) = tls.accept(tcp).await {
                            serve_http2(tls, connection, say, stopped).await;
                        }
                    }
                }
            }
        })
        .await;
        Self { address, streams, shutdown }
    }

    pub async fn next(&mut self) -> Asked {
        soon(self.streams.recv()).await.expect("the origin runs")
    }

    pub fn connections(&self) -> usize {
        self.shutdown.lock().expect("no panic").len()
    }

    pub fn go_away(&self, connection: usize) {
        self.shutdown.lock().expect("no panic")[connection].send(()).expect("the connection is open");
    }
}

async fn serve_http2<S: AsyncRead + AsyncWrite + Unpin>(
    io: S,
    connection: usize,
    say: mpsc::UnboundedSender<Asked>,
    mut stop: mpsc::UnboundedReceiver<()>,
) {
    let mut serving = h2::server::Builder::new().max_concurrent_streams(200).handshake(io).await.expect("a preface");
    loop {
        tokio::select! {
            asked = serving.accept() => match asked {
                Some(Ok((request, respond))) => {
                    if say.send(Asked { connection, request, respond }).is_err() { return }
                }
                _ => return,
            },
            Some(()) = stop.recv() => serving.graceful_shutdown(),
        }
    }
}

impl Asked {
    pub fn authorization(&self) -> Vec<&str> {
        self.request.headers().get_all("authorization").iter().map(|value| value.to_str().expect("text")).collect()
    }

    /// Sends the answer's head.
    pub fn answer(&mut self) -> SendStream<Bytes> {
        let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
        self.respond.send_response(head, false).expect("somebody listens")
    }
}

/// Reads a body and its trailers to the end.
pub async fn rest(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = soon(body.data()).await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, soon(body.trailers()).await?))
}

pub async fn some(body: &mut RecvStream) -> Bytes {
    let data = soon(body.data()).await.expect("not the end").expect("data");
    body.flow_control().release_capacity(data.len()).expect("taken");
    data
}

pub fn trailers(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(name.parse().expect("a name"), value.parse().expect("a value"))])
}

/// A client that speaks HTTP/2 with prior knowledge.
pub struct Http2Client {
    pub sender: SendRequest<Bytes>,
    pub address: String,
}

impl Http2Client {
    pub async fn connect(address: &str) -> Self {
        let tcp = TcpStream::connect(address).await.expect("the daemon listens");
        // h2 allows for small unread frames by the size of this window
        let (sender, connection) = h2::client::Builder::new()
            .initial_connection_window_size(1 << 30)
            .handshake(tcp)
            .await
            .expect("a handshake");
        tokio::spawn(async move { drop(connection.await) });
        Self { sender, address: address.to_owned() }
    }

    pub async fn send(&mut self, method: &str, path: &str, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        self.sender = soon(self.sender.clone().ready()).await.expect("the connection is open");
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", "Bearer theirs");
        self.sender.send_request(request.body(()).expect("a head"), end).expect("sent")
    }

    pub async fn get(&mut self, path: &str) -> Response<RecvStream> {
        let (answer, _) = self.send("GET", path, true).await;
        soon(answer).await.expect("an answer")
    }
}
