//! A connection by hand, and an origin that is one.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::support::{PATIENCE, pause};

/// Waits, but not for ever.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it comes in time")
}

/// Waits until `condition` gives something, and lets the story's own servers run meanwhile.
pub async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        sleep(pause(what, start)).await;
    }
}

/// Serves each connection to a free port on a task of its own, and tells it its number, from 0. Returns the address.
pub async fn serving<S: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(usize, TcpStream) -> S + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        for number in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            tokio::spawn(serve(number, stream));
        }
    });
    address
}

/// An origin that speaks HTTP/1.1 by hand: what it is asked, and a way to answer.
pub struct RawOrigin {
    pub listener: TcpListener,
    pub url: String,
}

impl RawOrigin {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        Self { listener, url }
    }

    pub async fn accept(&self) -> Wire {
        Wire::on(soon(self.listener.accept()).await.expect("accepted").0)
    }
}

/// A connection, read and written by hand.
pub struct Wire {
    pub stream: TcpStream,
    pub buffer: Vec<u8>,
}

impl Wire {
    pub fn on(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub async fn connect(address: &str) -> Self {
        Self::on(TcpStream::connect(address).await.expect("somebody listens"))
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = soon(self.stream.write_all(bytes.as_ref())).await; // the other end may have hung up, which its answer shows
    }

    async fn more(&mut self) -> bool {
        soon(self.stream.read_buf(&mut self.buffer)).await.unwrap_or(0) > 0
    }

    /// What comes, up to and with `end`, or all there is.
    pub async fn until(&mut self, end: &str) -> String {
        loop {
            let found = self.buffer.windows(end.len()).position(|part| part == end.as_bytes());
            if found.is_some() || !self.more().await {
                let length = found.map_or(self.buffer.len(), |at| at + end.len());
                return String::from_utf8_lossy(&self.buffer.drain(..length).collect::<Vec<_>>()).into_owned();
            }
        }
    }

    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    pub async fn until_closed(&mut self) -> String {
        while self.more().await {}
        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned()
    }

    /// A head, however long it takes to begin; `None` at the end.
    pub async fn head_for_long(&mut self) -> Option<String> {
        if self.buffer.is_empty() && self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
            return None;
        }
        Some(self.head().await)
    }

    pub async fn exactly(&mut self, length: usize) -> String {
        while self.buffer.len() < length && soon(self.stream.read_buf(&mut self.buffer)).await.unwrap_or(0) > 0 {}
        let length = length.min(self.buffer.len());
        String::from_utf8_lossy(&self.buffer.drain(..length).collect::<Vec<_>>()).into_owned()
    }

    /// An answer's status and body; `None` if the connection has ended.
    pub async fn answer(&mut self, has_body: bool) -> Option<(u16, String)> {
        let head = self.head().await;
        let status = head.get(9..12)?.parse().ok()?;
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if (100..200).contains(&status) {
            return Box::pin(self.answer(has_body)).await;
        }
        let body = if has_body { self.exactly(length.unwrap_or(0)).await } else { String::new() };
        Some((status, body))
    }
}
