//! A connection to a unix socket that wakes us when there is something to read, and when there is room to write only if there
//! was none.
//!
//! Whoever reads from a unix socket makes room in it, and the kernel tells the other end each time (unix(7) has no
//! SOCK_NOSPACE): a client that waits for its response would be woken once for nothing with every request.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// The connection.
#[derive(Debug)]
pub(crate) struct ReadWoken {
    stream: AsyncFd<UnixStream>,
    /// While there is no room.
    full: Option<AsyncFd<UnixStream>>,
}

impl ReadWoken {
    /// Takes over a connection.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn new(stream: tokio::net::UnixStream) -> io::Result<Self> {
        Ok(Self { stream: told_of(stream.into_std()?, Interest::READABLE)?, full: None })
    }

    fn poll_to_write(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&mut &UnixStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match write(&mut self.stream.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                ended => {
                    self.full = None;
                    return Poll::Ready(ended);
                }
            }
            if self.full.is_none() {
                let same = self.stream.get_ref().try_clone()?;
                self.full = Some(told_of(same, Interest::WRITABLE)?);
            }
            let full = self.full.as_ref().expect("it was just made");
            ready!(full.poll_write_ready(cx))?.clear_ready();
        }
    }
}

#[allow(unsafe_code)]
fn told_of(stream: UnixStream, what: Interest) -> io::Result<AsyncFd<UnixStream>> {
    // SAFETY: the AsyncFd owns the descriptor from here on; nothing else closes or replaces it.
    Ok(unsafe { AsyncFd::register_with_interest(stream, what) }?)
}

impl AsyncRead for ReadWoken {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.stream.poll_read_ready(cx))?;
            let room = buf.initialize_unfilled();
            match ready.try_io(|stream| stream.get_ref().read(room)) {
                Ok(Ok(read)) => {
                    // less than there was room for: it is empty, and what comes next is told anew
                    if read > 0 && read < room.len() {
                        ready.clear_ready();
                    }
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for ReadWoken {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_to_write(cx, |stream| stream.write(buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_to_write(cx, |stream| stream.write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.get_ref().shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn more_than_there_is_room_for_goes_through_both_ways_and_ends() {
        let (one, mut other) = UnixStream::pair().unwrap();
        let mut stream = ReadWoken::new(one).unwrap();
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let expected = sent.clone();
        let echo = tokio::spawn(async move {
            let mut came = vec![0; 3_000_000];
            other.read_exact(&mut came).await.unwrap();
            other.write_all(&came).await.unwrap();
            let mut rest = Vec::new();
            other.read_to_end(&mut rest).await.unwrap();
            rest
        });
        stream.write_all(&sent).await.unwrap();
        assert!(stream.full.is_none(), "it was waited for room, and is no more");
        let mut back = vec![0; 3_000_000];
        stream.read_exact(&mut back).await.unwrap();
        assert!(back == expected);
        stream.write_all(b"the end").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(echo.await.unwrap(), b"the end");
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn who_is_gone_is_an_error_and_not_a_wait() {
        let (one, other) = UnixStream::pair().unwrap();
        let mut stream = ReadWoken::new(one).unwrap();
        drop(other);
        assert_eq!(stream.write_all(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
