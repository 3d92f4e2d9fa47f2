//! The connection that an ephemeral client key lives on.
//!
//! It is inherited by programs that may do less than its maker, so it carries no authority: nothing is read from it any
//! more, what was sent behind the request included.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::Version;
use rustix::net::Shutdown as Direction;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tracing::{debug, info};
use zeroize::Zeroizing;

use super::keys::MadeKey;
use crate::client_keys::{ClientKey, KeyRing};
use crate::lent::REVOKED;
use crate::platform::clock::wall;
use crate::shutdown::Shutdown;

/// For the one response on a lifeline: its reader is on the same machine, and waits for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The connection that an ephemeral key lives on, once the order for the key has been read from it.
pub(super) struct Lifeline {
    held: Held,
    answer: Zeroizing<Vec<u8>>,
    /// Whether its body is in chunks.
    is_chunked: bool,
}

impl Lifeline {
    /// Writes the response's head by hand, since no HTTP library may hold the connection any longer. HTTP/1.0 knows no
    /// chunks (RFC 9112 section 7.1): there the body ends with the connection.
    pub(super) fn new(held: Held, version: Version, made: &MadeKey) -> Self {
        let is_chunked = version >= Version::HTTP_11;
        let protocol = if is_chunked { "HTTP/1.1" } else { "HTTP/1.0" };
        let coding = if is_chunked { "transfer-encoding: chunked\r\n" } else { "" };
        let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
        let date = jiff::Timestamp::try_from(wall()).and_then(|now| printer.timestamp_to_rfc9110_string(&now));
        let date = date.map(|date| format!("date: {date}\r\n")).unwrap_or_default();
        let mut answer = format!(
            "{protocol} 201 Created\r\ncontent-type: application/x-ndjson\r\ncache-control: no-store\r\n\
             connection: close\r\n{coding}{date}\r\n"
        )
        .into_bytes();
        let mut body = Zeroizing::new(serde_json::to_vec(made).expect("texts and numbers"));
        body.push(b'\n');
        answer.append(&mut said(is_chunked, &body));
        Self { held, answer: Zeroizing::new(answer), is_chunked }
    }

    /// Answers, and keeps the key until the other end is closed by the last process that has it, or the daemon stops.
    pub(super) async fn live(self, mut stream: UnixStream, mut stopping: Shutdown) {
        let Self { held, answer, is_chunked } = self;
        let end: &[u8] = if is_chunked { b"0\r\n\r\n" } else { b"" };
        // before the key is told: whoever learns it finds that the connection takes nothing
        let answered = match rustix::net::shutdown(&stream, Direction::Read) {
            Ok(()) => {
                timeout(ANSWER_TIMEOUT, stream.write_all(&answer)).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
            }
            Err(error) => Err(error.into()),
        };
        drop(answer);
        if let Err(error) = answered {
            return debug!(%error, "an ephemeral client key was not handed over");
        }
        tokio::select! {
            () = closed(&stream) => {}
            () = held.revoked() => drop(rustix::io::write(&stream, &[said(is_chunked, REVOKED), end.to_vec()].concat())),
            // not by way of the runtime, which was told to forget that it is writable; who has not read so far needs no end
            () = stopping.started() => drop(rustix::io::write(&stream, end)),
        }
        drop(held);
    }
}

/// A part of the response's body.
fn said(is_chunked: bool, part: &[u8]) -> Vec<u8> {
    match is_chunked {
        true => [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat(),
        false => part.to_vec(),
    }
}

/// Returns when the other end of a connection that is shut down for reading has been closed (unix(7): EPOLLHUP).
async fn closed(stream: &UnixStream) {
    while let Ok(ready) = stream.ready(Interest::WRITABLE).await
        && !ready.is_write_closed()
    {
        // forgets that it is writable, or the next wait would end at once
        let _ = stream.try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
}

/// An ephemeral key, as long as somebody is there who holds it.
pub(super) struct Held {
    ring: Arc<KeyRing>,
    key: Arc<ClientKey>,
}

impl Held {
    pub(super) fn new(ring: Arc<KeyRing>, key: Arc<ClientKey>) -> Self {
        Self { ring, key }
    }
}

impl Held {
    /// Returns when the key has been revoked.
    async fn revoked(&self) {
        let mut ends = self.ring.ends();
        while self.ring.check(&self.key).is_ok() {
            if ends.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.ring.forget(&self.key);
        info!(key = %self.key.name, "an ephemeral client key has ended");
    }
}
