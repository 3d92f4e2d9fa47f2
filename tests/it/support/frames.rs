//! HTTP/2 as bytes, for what no library would send: frames (RFC 9113 section 4.1), and heads in HPACK (RFC 7541) of which
//! nothing is compressed but what is in the static table.

use std::io::{self, Read};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const WITH_PRIORITY: u8 = 0x20;

/// A block that says `:status: 200`.
pub const STATUS_200: &[u8] = &[0x88];

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A client's beginning; `window` is what the server may send on a stream.
pub fn preface(window: u32) -> Vec<u8> {
    let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
    [PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat()
}

/// A whole GET: `:method` and `:scheme` are in the table, all the rest are literals of less than 127 bytes.
pub fn get(stream: u32, path: &str, authority: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8][..], text.as_bytes()].concat();
    let mut block = [&[0x82, 0x86, 0x04][..], &text(path), &[0x01], &text(authority)].concat();
    for (name, value) in fields {
        block.extend([&[0][..], &text(name), &text(value)].concat());
    }
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block)
}

#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// Takes a whole frame from the front of what has come.
pub fn take_frame(buffer: &mut Vec<u8>) -> Option<Frame> {
    let mut front = buffer.as_slice();
    let frame = read_frame(&mut front).ok()?;
    let left = front.len();
    buffer.drain(..buffer.len() - left);
    Some(frame)
}

/// Reads the next frame.
pub fn read_frame(stream: &mut impl Read) -> io::Result<Frame> {
    let mut header = [0; 9];
    stream.read_exact(&mut header)?;
    let number = |bytes: [u8; 4]| u32::from_be_bytes(bytes);
    let mut payload = vec![0; number([0, header[0], header[1], header[2]]) as usize];
    stream.read_exact(&mut payload)?;
    let stream = number([header[5], header[6], header[7], header[8]]);
    Ok(Frame { kind: header[3], flags: header[4], stream, payload })
}
