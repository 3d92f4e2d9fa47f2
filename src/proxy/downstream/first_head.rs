//! Where the head of an HTTP/2 connection's first request ends: looked for in the frames, without decoding any. Pure.

use crate::proxy::downstream::io::PREFACE;

/// Frames up to the end of the first head, at most. Clients say some settings, a window, and a PING, old browsers five
/// priorities, and then they ask; each frame costs a look and many cost a response, and the smallest are nine bytes.
const MOST_FRAMES: usize = 128;

/// Looks for the end of the first request's head in the frames of a client (RFC 9113 sections 3.4, 4.1 and 6.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FirstHead {
    state: State,
    /// So many frames have begun.
    frames: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// So many bytes of the preface are there.
    Preface(usize),
    /// A frame's header begins; so many bytes of it are there.
    Header([u8; HEADER], usize),
    /// A frame's payload, of which so many bytes are to come.
    Payload {
        left: usize,
        is_last: bool,
        stream: u32,
    },
    Over {
        stream: u32,
    },
}

/// A frame's header.
const HEADER: usize = 9;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

impl FirstHead {
    pub(crate) fn new() -> Self {
        Self { state: State::Preface(0), frames: 0 }
    }

    /// Whether so many frames have come that no client's first head would still be among them.
    pub(crate) fn is_too_late(&self) -> bool {
        self.frames > MOST_FRAMES
    }

    /// The stream of the first request, if its head has been whole.
    pub(crate) fn stream(&self) -> Option<u32> {
        match self.state {
            State::Over { stream } => Some(stream),
            State::Preface(_) | State::Header(..) | State::Payload { .. } => None,
        }
    }

    /// Goes on by these bytes. Returns how many of them come before the end, or before it is too late for one.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let rest = bytes.len() - at;
            self.state = match self.state {
                State::Over { .. } => return at,
                _ if self.is_too_late() => return at,
                State::Payload { left: 0, is_last: true, stream } => State::Over { stream },
                State::Payload { left: 0, is_last: false, .. } => State::Header([0; HEADER], 0),
                _ if rest == 0 => return at,
                State::Preface(there) => {
                    let more = rest.min(PREFACE.len() - there);
                    at += more;
                    match there + more == PREFACE.len() {
                        true => State::Header([0; HEADER], 0),
                        false => State::Preface(there + more),
                    }
                }
                State::Header(mut header, there) => {
                    let more = rest.min(HEADER - there);
                    header[there..there + more].copy_from_slice(&bytes[at..at + more]);
                    at += more;
                    self.frames += usize::from(there + more == HEADER);
                    match there + more == HEADER {
                        true => State::payload(header),
                        false => State::Header(header, there + more),
                    }
                }
                State::Payload { left, is_last, stream } => {
                    let more = rest.min(left);
                    at += more;
                    State::Payload { left: left - more, is_last, stream }
                }
            };
        }
    }
}

impl State {
    /// What follows a frame's header.
    fn payload([high, middle, low, kind, flags, stream @ ..]: [u8; HEADER]) -> Self {
        Self::Payload {
            left: u32::from_be_bytes([0, high, middle, low]) as usize,
            is_last: matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS != 0,
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        bytes.extend(vec![b'x'; length.into()]);
        bytes
    }

    #[test]
    fn what_comes_in_many_small_frames_is_looked_at_no_further() {
        let most = [PREFACE.to_vec(), frame(4, 0, 0).repeat(MOST_FRAMES - 1)].concat();
        let asked = [most.clone(), frame(HEADERS, END_HEADERS, 3)].concat();
        let many = [most, frame(4, 0, 0).repeat(1000)].concat();
        for step in [1, 7, 4096, many.len()] {
            let mut gate = FirstHead::new();
            asked.chunks(step).for_each(|chunk| _ = gate.take(chunk));
            assert_eq!((gate.stream(), gate.is_too_late()), (Some(1), false), "{step} at a time");
            let mut gate = FirstHead::new();
            let passed: usize = many.chunks(step).map(|chunk| gate.take(chunk)).sum();
            assert_eq!(passed, PREFACE.len() + (MOST_FRAMES + 1) * HEADER, "{step} at a time");
            assert_eq!((gate.stream(), gate.is_too_late()), (None, true), "{step} at a time");
        }
    }

    #[test]
    fn the_first_head_ends_at_the_same_byte_however_it_is_cut() {
        let settings = frame(4, 0, 6);
        let cases = [
            ("one frame", [PREFACE.to_vec(), settings.clone(), frame(HEADERS, END_HEADERS | 1, 20)].concat()),
            ("empty", [PREFACE.to_vec(), settings.clone(), frame(HEADERS, END_HEADERS, 0)].concat()),
            (
                "continued",
                [
                    PREFACE.to_vec(),
                    settings.clone(),
                    frame(8, 0, 4),
                    frame(HEADERS, 1, 20),
                    frame(CONTINUATION, 0, 0),
                    frame(CONTINUATION, END_HEADERS, 9),
                ]
                .concat(),
            ),
        ];
        for (case, first) in cases {
            let bytes = [first.clone(), frame(HEADERS, END_HEADERS, 30), frame(0, 1, 40)].concat();
            for step in 1..=bytes.len() {
                let mut gate = FirstHead::new();
                let passed: usize = bytes.chunks(step).map(|chunk| gate.take(chunk)).sum();
                assert_eq!((passed, gate.stream()), (first.len(), Some(1)), "{case}, {step} at a time");
            }
            let mut gate = FirstHead::new();
            assert_eq!(gate.take(&first[..first.len() - 1]), first.len() - 1, "{case}");
            assert_eq!(gate.stream(), None, "{case}");
        }
    }
}
