//! Upstreams on threads, for stories that are told without async.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// Serves each connection to a free port on a thread of its own. Returns the address.
pub fn serving(serve: fn(TcpStream) -> io::Result<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// An upstream that answers every request with the request's head.
pub fn mirror() -> String {
    serving(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
        let length = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", head.len());
        let body = if head.starts_with("HEAD ") { "" } else { &head };
        stream.write_all(format!("{length}{body}").as_bytes())
    })
}
