//! The stream of MCP's older transport (HTTP+SSE, 2024-11-05), whose event `endpoint` tells a client where its messages
//! go: at the upstream, and so not where the client is. Pure.
//!
//! The event becomes the local address of the same place. One that leads anywhere else ends the stream: a client would
//! send its messages there, to another route of ours if it is one.

use bytes::Bytes;

use crate::config::Origin;

/// An event as short is held until it is whole; a longer one may not be an `endpoint`.
const LONGEST: usize = 4096;

/// How the place for messages is written for a client.
#[derive(Debug)]
pub(crate) struct Here {
    /// The upstream's origin and base path.
    pub(crate) origin: Origin,
    pub(crate) base_path: String,
    /// The `Host` that the client used.
    pub(crate) authority: String,
    /// What stands before the upstream's path here: `/NAME`, or nothing.
    pub(crate) prefix: String,
}

/// An event that leads elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Elsewhere;

/// A stream as it is handed on.
#[derive(Debug)]
pub(crate) struct Endpoints {
    here: Here,
    /// The event that is not whole yet.
    held: Vec<u8>,
    /// The line that is not whole yet; its beginning, if it is long.
    line: Vec<u8>,
    /// Whether the event is too long to be held, and handed on as it comes.
    is_long: bool,
    after_return: bool,
    is_endpoint: bool,
    data: Option<String>,
}

impl Endpoints {
    pub(crate) fn new(here: Here) -> Self {
        let (held, line) = (Vec::new(), Vec::new());
        Self { here, held, line, is_long: false, after_return: false, is_endpoint: false, data: None }
    }

    /// Takes what has come; gives what can be handed on.
    ///
    /// # Errors
    ///
    /// If an event leads elsewhere.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Bytes, Elsewhere> {
        let mut out = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if std::mem::take(&mut self.after_return) && *byte == b'\n' {
                if self.held.is_empty() { &mut out } else { &mut self.held }.push(b'\n');
                continue;
            }
            self.held.push(*byte);
            match byte {
                b'\n' | b'\r' => {
                    self.after_return = *byte == b'\r';
                    self.end_of_line(&mut out)?;
                }
                _ if self.line.len() < LONGEST => self.line.push(*byte),
                _ => {}
            }
            if self.is_long || self.held.len() > LONGEST {
                self.is_long = true;
                out.append(&mut self.held);
            }
        }
        Ok(out.into())
    }

    fn end_of_line(&mut self, out: &mut Vec<u8>) -> Result<(), Elsewhere> {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_start_matches('\u{feff}');
        let (name, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "" if text.is_empty() => return self.end_of_event(out),
            "event" => self.is_endpoint = value == "endpoint",
            "data" => {
                let data = self.data.take().map(|before| format!("{before}\n{value}"));
                self.data = Some(data.unwrap_or_else(|| value.to_owned())).filter(|_| !self.is_long);
            }
            _ => {}
        }
        if self.is_long && self.is_endpoint { Err(Elsewhere) } else { Ok(()) }
    }

    fn end_of_event(&mut self, out: &mut Vec<u8>) -> Result<(), Elsewhere> {
        let held = std::mem::take(&mut self.held);
        let data = self.data.take().filter(|_| self.is_endpoint);
        (self.is_endpoint, self.is_long) = (false, false);
        match data {
            None => out.extend(held),
            Some(said) => {
                let local = self.here.local(said.trim()).ok_or(Elsewhere)?;
                out.extend(format!("event: endpoint\ndata: {local}\n\n").into_bytes());
            }
        }
        Ok(())
    }
}

impl Here {
    /// The local address of a place at the upstream; `None` if it is elsewhere.
    fn local(&self, said: &str) -> Option<String> {
        let Self { origin, base_path, authority, prefix } = self;
        let is_plain = said.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        let path = said.split(['?', '#']).next().unwrap_or_default();
        let segments = path.split('/').map(|segment| segment.to_ascii_lowercase().replace("%2e", "."));
        if !is_plain || segments.into_iter().any(|segment| segment == "." || segment == "..") {
            return None;
        }
        let origin = origin.to_string();
        let (before, path) = match said.get(..origin.len()).filter(|start| start.eq_ignore_ascii_case(&origin)) {
            Some(_) => (format!("http://{authority}"), &said[origin.len()..]),
            None => (String::new(), said),
        };
        if before.is_empty() && !path.starts_with('/') {
            // behind the prefix, both addresses have the same folders
            let is_relative = !path.split(['/', '?']).next().unwrap_or_default().contains(':');
            return is_relative.then(|| path.to_owned());
        }
        let rest =
            path.strip_prefix(base_path.as_str()).filter(|rest| rest.starts_with('/') || rest.starts_with('?'))?;
        let is_path = !path.starts_with("//") && !rest.starts_with("//");
        is_path.then(|| format!("{before}{prefix}{rest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Upstream;

    fn endpoints(upstream: &str, prefix: &str) -> Endpoints {
        let Upstream { origin, base_path } = Upstream::parse(upstream).unwrap();
        Endpoints::new(Here { origin, base_path, authority: "localhost:8253".to_owned(), prefix: prefix.to_owned() })
    }

    #[test]
    fn the_place_for_messages_is_the_local_one_or_none() {
        for (said, expected) in [
            ("/messages?sessionId=1", Some("/lab/messages?sessionId=1")),
            ("https://mcp.example/m?x", Some("http://localhost:8253/lab/m?x")),
            ("messages?x", Some("messages?x")),
            ("?x=http://a/../b", Some("?x=http://a/../b")),
            ("https://mcp.example.evil.example/m", None),
            ("https://mcp.example:8443/m", None),
            ("https://evil.example/m", None),
            ("http://localhost:8253/other/m", None),
            ("//evil.example/m", None),
            ("https://mcp.example//evil.example", None),
            ("/../other/m", None),
            ("../other/m", None),
            ("%2e%2e/other/m", None),
            ("\\\\evil.example\\m", None),
            ("javascript:x", None),
            ("", Some("")),
        ] {
            assert_eq!(endpoints("https://mcp.example", "/lab").here.local(said).as_deref(), expected, "{said}");
        }
        let based = |said| endpoints("https://mcp.example/v1", "/lab").here.local(said);
        assert_eq!((based("/v1/m").as_deref(), based("/v2/m"), based("/v10")), (Some("/lab/m"), None, None));
    }

    #[test]
    fn a_stream_is_handed_on_as_it_is_but_for_that_event_wherever_it_is_cut() {
        let text = ": hello\n\nevent: endpoint\r\ndata: /m\r\n\r\nid: 1\rdata: /m\r\rdata: {\"a\":1}\n\ndata: /n\nevent: endpoint\n\n\
                    data: rest";
        let expected = ": hello\n\nevent: endpoint\ndata: /lab/m\n\n\nid: 1\rdata: /m\r\rdata: {\"a\":1}\n\n\
                        event: endpoint\ndata: /lab/n\n\n";
        for width in 1..=text.len() {
            let mut stream = endpoints("https://mcp.example", "/lab");
            let handed_on: Vec<Bytes> =
                text.as_bytes().chunks(width).map(|piece| stream.feed(piece).unwrap()).collect();
            assert_eq!(String::from_utf8_lossy(&handed_on.concat()), expected, "in pieces of {width}");
            assert_eq!(stream.held, b"data: rest");
        }
    }

    #[test]
    fn a_large_event_is_not_held_and_leads_nowhere() {
        let mut stream = endpoints("https://mcp.example", "/lab");
        let large = format!("data: {}\n\ndata: x\n\n", "x".repeat(1 << 20));
        let handed_on: Vec<Bytes> = large.as_bytes().chunks(9999).map(|piece| stream.feed(piece).unwrap()).collect();
        assert!(handed_on.concat() == large.as_bytes() && stream.held.is_empty());
        let late = format!("data: /{}\nevent: endpoint\n\n", "x".repeat(5000));
        assert_eq!(stream.feed(late.as_bytes()), Err(Elsewhere));
    }
}
