//! The client's end: lines out, lines in.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, Stdout, stdout};
use tokio::sync::{Mutex, Notify};

use super::chunks::Chunks;

/// What is read at once.
const PIECE: usize = 64 * 1024;
/// A shorter piece is copied, so that it does not keep what it was read with.
const SMALL: usize = 16 * 1024;

/// Standard output, a message a line.
pub(super) struct Output {
    stdout: Mutex<Stdout>,
    /// Told when nobody reads any more.
    pub(super) closed: Notify,
}

impl Output {
    pub(super) fn new() -> Self {
        Self { stdout: Mutex::new(stdout()), closed: Notify::new() }
    }

    /// Writes a message.
    pub(super) async fn write(&self, message: Chunks) {
        let mut stdout = self.stdout.lock().await;
        let written = async {
            if message.len() < PIECE {
                let mut line: Vec<u8> = message.in_one_line().pieces().flatten().collect();
                line.push(b'\n');
                stdout.write_all(&line).await?;
            } else {
                for piece in message.in_one_line().pieces() {
                    stdout.write_all(&piece).await?;
                }
                stdout.write_all(b"\n").await?;
            }
            stdout.flush().await
        };
        if written.await.is_err() {
            self.closed.notify_one();
        }
    }
}

/// Lines of an input. One that is longer than `most` is skipped.
pub(super) struct Lines<R> {
    input: R,
    most: usize,
    read: BytesMut,
    line: Chunks,
    is_too_long: bool,
}

/// What a line was.
pub(super) enum Line {
    Of(Chunks),
    TooLong,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(input: R, most: usize) -> Self {
        Self { input, most, read: BytesMut::new(), line: Chunks::default(), is_too_long: false }
    }

    /// The next line; what is left without a line's end is one, too.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let piece = self.read.split_to(end + 1);
                self.take(&piece[..end], None);
                return Ok(Some(self.end()));
            }
            if !self.read.is_empty() {
                let piece = self.read.split().freeze();
                self.take(&piece, Some(&piece));
            }
            self.read.reserve(PIECE);
            if self.input.read_buf(&mut self.read).await? == 0 {
                let is_nothing = self.line.len() == 0 && !self.is_too_long;
                return Ok((!is_nothing).then(|| self.end()));
            }
        }
    }

    fn take(&mut self, piece: &[u8], shared: Option<&Bytes>) {
        self.is_too_long |= self.line.len() + piece.len() > self.most;
        if self.is_too_long {
            self.line = Chunks::default();
            return;
        }
        self.line.push(match shared.filter(|piece| piece.len() >= SMALL) {
            Some(piece) => piece.clone(),
            None => Bytes::copy_from_slice(piece),
        });
    }

    fn end(&mut self) -> Line {
        let line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.is_too_long) { Line::TooLong } else { Line::Of(line) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_read_whole_and_one_that_is_too_long_is_skipped() {
        let input = format!("a\n\n{}\nb\r\n{}\nlast", "x".repeat(200_000), "y".repeat(300_001));
        let mut lines = Lines::new(input.as_bytes(), 300_000);
        let mut seen = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            seen.push(match line {
                Line::Of(line) => line.len() as i64,
                Line::TooLong => -1,
            });
        }
        assert_eq!(seen, [1, 0, 200_000, 2, -1, 4]);
    }
}
