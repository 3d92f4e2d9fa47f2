//! A text in the pieces that it came in: a large message is neither copied nor joined.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};

/// A text in pieces; as a body, it is gone piece by piece.
#[derive(Clone, Default, Debug)]
pub(super) struct Chunks {
    pieces: VecDeque<Bytes>,
    length: usize,
}

impl Chunks {
    pub(super) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.length += piece.len();
            self.pieces.push_back(piece);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn pieces(self) -> impl Iterator<Item = Bytes> {
        self.pieces.into_iter()
    }

    /// Reads it without using it up.
    pub(super) fn reader(&self) -> impl Read {
        Reader { pieces: self.pieces.iter(), piece: &[] }
    }

    /// Whether it is nothing but white space.
    pub(super) fn is_blank(&self) -> bool {
        self.pieces.iter().all(|piece| piece.iter().all(u8::is_ascii_whitespace))
    }

    /// Its beginning, for people.
    pub(super) fn beginning(&self, most: usize) -> String {
        let mut text = Vec::new();
        let _ = self.reader().take(most as u64).read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// As one line: an end of a line in JSON is white space, as a string has none.
    pub(super) fn in_one_line(self) -> Self {
        let mut line = Self::default();
        for piece in self.pieces {
            let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
            line.push(match piece.iter().any(is_end) {
                false => piece,
                true => piece.iter().map(|byte| if is_end(byte) { b' ' } else { *byte }).collect(),
            });
        }
        line
    }
}

impl From<String> for Chunks {
    fn from(text: String) -> Self {
        let mut chunks = Self::default();
        chunks.push(text.into());
        chunks
    }
}

struct Reader<'c, I: Iterator<Item = &'c Bytes>> {
    pieces: I,
    piece: &'c [u8],
}

impl<'c, I: Iterator<Item = &'c Bytes>> Read for Reader<'c, I> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let Some(next) = self.pieces.next() else { return Ok(0) };
            self.piece = next;
        }
        let length = into.len().min(self.piece.len());
        into[..length].copy_from_slice(&self.piece[..length]);
        self.piece.advance(length);
        Ok(length)
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.pop_front();
        self.length -= piece.as_ref().map_or(0, Bytes::len);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length as u64)
    }
}
