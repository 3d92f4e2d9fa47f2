//! Server-sent events (WHATWG HTML, section 9.2.6) as they arrive, cut anywhere.

use bytes::{Buf, Bytes};

use super::chunks::Chunks;

/// Fields other than `data` are this long at most; a longer one is cut off there.
const LONGEST_FIELD: usize = 4096;

/// One event.
#[derive(Default, Debug)]
pub(super) struct Event {
    /// Its type; `message`, if it has none.
    pub(super) kind: Option<String>,
    pub(super) data: Chunks,
}

/// What has come of a stream.
#[derive(Default)]
pub(super) struct Parser {
    line: Chunks,
    event: Event,
    has_data: bool,
    /// Whether an event has had something to say.
    pub(super) has_spoken: bool,
    /// A line feed that comes next belongs to the line end before it.
    after_return: bool,
    /// The newest event's id: where to go on from.
    pub(super) last_id: Option<String>,
    /// How many milliseconds the server wants to be left alone for before the next attempt.
    pub(super) retry: Option<u64>,
}

impl Parser {
    /// For a stream that goes on where another has ended.
    pub(super) fn after(last_id: Option<String>, retry: Option<u64>) -> Self {
        Self { last_id, retry, ..Self::default() }
    }

    /// Takes what came next; gives the events that are whole now.
    pub(super) fn feed(&mut self, mut bytes: Bytes) -> Vec<Event> {
        let mut events = Vec::new();
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_return) && bytes[0] == b'\n' {
                bytes.advance(1);
                continue;
            }
            let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
                self.line.push(bytes);
                break;
            };
            self.line.push(bytes.split_to(end));
            self.after_return = bytes[0] == b'\r';
            bytes.advance(1);
            let line = std::mem::take(&mut self.line);
            events.extend(self.end_of_line(line));
        }
        events
    }

    /// How much is held that is no whole event yet.
    pub(super) fn held(&self) -> usize {
        self.line.len() + self.event.data.len()
    }

    fn end_of_line(&mut self, line: Chunks) -> Option<Event> {
        if line.len() == 0 {
            let event = std::mem::take(&mut self.event);
            self.has_spoken |= event.data.len() > 0;
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        let beginning = line.beginning(12);
        let name = beginning.trim_start_matches('\u{feff}').split(':').next().unwrap_or_default().to_owned();
        let mut skip = beginning.find(':').map_or(line.len(), |colon| colon + 1);
        if beginning.as_bytes().get(skip) == Some(&b' ') {
            skip += 1;
        }
        let short = |line: &Chunks| {
            let text = line.beginning(LONGEST_FIELD);
            text.get(skip.min(text.len())..).unwrap_or_default().to_owned()
        };
        match name.as_str() {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push(Bytes::from_static(b"\n"));
                }
                for mut piece in line.pieces() {
                    let cut = skip.min(piece.len());
                    piece.advance(cut);
                    skip -= cut;
                    self.event.data.push(piece);
                }
            }
            "event" => self.event.kind = Some(short(&line)),
            "id" => self.last_id = Some(short(&line)).filter(|id| !id.contains('\0')),
            "retry" => self.retry = short(&line).parse().ok().or(self.retry),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_means_the_same_wherever_it_is_cut() {
        let text = "\u{feff}data: a\n\n: silence\r\nid: 7\r\nevent: endpoint\rdata:{\"b\":\ndata: 1}\r\n\r\nretry: 500\nid: 8\n\
                    data\n\ndata:  c\n\ndata: cut off";
        for width in 1..=text.len() {
            let mut parser = Parser::default();
            let mut events = Vec::new();
            for piece in text.as_bytes().chunks(width) {
                events.extend(parser.feed(Bytes::copy_from_slice(piece)));
            }
            let events: Vec<(Option<&str>, String)> =
                events.iter().map(|event| (event.kind.as_deref(), event.data.beginning(100))).collect();
            let expected = [(None, "a"), (Some("endpoint"), "{\"b\":\n1}"), (None, ""), (None, " c")];
            let expected = expected.map(|(kind, data)| (kind, data.to_owned()));
            assert_eq!(events, expected, "in pieces of {width}");
            assert_eq!((parser.last_id.as_deref(), parser.retry), (Some("8"), Some(500)));
            assert_eq!(parser.held(), "data: cut off".len());
        }
    }
}
