//! An upstream that reads by the letter, and tells what it has read.

use std::sync::{Arc, Mutex};

use crate::support::wire::{Wire, serving};

/// A request as the upstream saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub line: String,
    pub fields: Vec<(String, String)>,
    pub body: String,
}

impl Seen {
    pub fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.fields.iter().filter(|(field, _)| field == name);
        fields.map(|(_, value)| value.as_str()).collect()
    }
}

/// An upstream that reads strictly, notes everything, and says `ok`.
pub async fn strict_upstream() -> (String, Arc<Mutex<Vec<Seen>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let address = serving(move |_, stream| {
        let log = log.clone();
        async move {
            let mut wire = Wire::on(stream);
            while let Some(request) = strict_request(&mut wire).await {
                log.lock().expect("no panic").push(request);
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    (format!("http://{address}"), seen)
}

/// A request by the letter; what is not one is noted as it came, so that no row can expect it.
async fn strict_request(wire: &mut Wire) -> Option<Seen> {
    let head = wire.head_for_long().await?;
    let mut lines = head.trim_end_matches("\r\n").split("\r\n");
    let line = lines.next().unwrap_or_default().to_owned();
    let split = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap_or(("MALFORMED", line));
        (name.to_ascii_lowercase(), value.to_owned())
    };
    let fields: Vec<_> = lines.map(split).collect();
    let mut seen = Seen { line, fields, body: String::new() };
    if head.replace("\r\n", "").contains(['\r', '\n', '\0']) {
        seen.line = format!("MALFORMED {head:?}");
        return Some(seen);
    }
    seen.body = match (seen.all("content-length").as_slice(), seen.all("transfer-encoding").as_slice()) {
        ([], []) => String::new(),
        ([length], []) => wire.exactly(length.parse().expect("a number")).await,
        ([], ["chunked"]) => {
            let mut body = String::new();
            loop {
                let size = wire.until("\r\n").await;
                let size = usize::from_str_radix(size.trim_end(), 16).unwrap_or(0);
                if size == 0 {
                    wire.until("\r\n").await;
                    break body;
                }
                body += wire.exactly(size + 2).await.trim_end_matches("\r\n");
            }
        }
        framing => format!("MALFORMED {framing:?}"),
    };
    Some(seen)
}
