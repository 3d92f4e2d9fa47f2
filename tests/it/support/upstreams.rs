//! Upstreams on threads, for stories that are told without async.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Serves each connection to a free port on a thread of its own. Returns the address.
pub fn serving(serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Reads a head, with the line that ends it; what there is of it where the connection ends first.
pub fn read_head(stream: &mut impl BufRead) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head)? > 0 {}
    Ok(head)
}

/// An upstream that answers every request with the request's head.
pub fn mirror() -> String {
    serving(|mut stream| {
        let head = read_head(&mut BufReader::new(&stream))?;
        let length = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", head.len());
        let body = if head.starts_with("HEAD ") { "" } else { &head };
        stream.write_all(format!("{length}{body}").as_bytes())
    })
}

/// A server that answers everything with nothing, and remembers what it was sent.
pub struct Witness {
    pub url: String,
    seen: Arc<Mutex<String>>,
}

impl Witness {
    pub fn start() -> Self {
        let seen = Arc::new(Mutex::new(String::new()));
        let notes = seen.clone();
        let address = serving(move |mut stream| {
            let head = read_head(&mut BufReader::new(&stream))?;
            notes.lock().expect("nobody panics").push_str(&head);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        });
        Self { url: format!("http://{address}"), seen }
    }

    pub fn seen(&self) -> String {
        self.seen.lock().expect("nobody panics").clone()
    }
}
