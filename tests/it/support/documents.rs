//! A server of documents: what a path answers is said, and changed, by the story.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What a path answers.
#[derive(Clone)]
struct Document {
    status: u16,
    fields: String,
    body: String,
}

/// A running server; it goes with the program.
pub struct Documents {
    address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    documents: BTreeMap<String, Document>,
    /// What a path answers to a body with a word in it.
    to_words: Vec<(String, String, Document)>,
    /// Method and path of what was asked, and the body.
    asked: Vec<(String, String)>,
}

impl Documents {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || answer(&state, stream));
            }
        });
        Self { address, state }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Says what a path answers from now on.
    pub fn put(&self, path: &str, body: impl ToString) {
        self.put_with(path, 200, "", body);
    }

    /// The same with a status and further header fields, each with its line end.
    pub fn put_with(&self, path: &str, status: u16, fields: &str, body: impl ToString) {
        let document = Document { status, fields: fields.to_owned(), body: body.to_string() };
        self.state.lock().expect("no panic").documents.insert(path.to_owned(), document);
    }

    /// Says what a path answers from now on to a body with this word in it.
    pub fn put_to(&self, path: &str, word: &str, status: u16, body: impl ToString) {
        let document = Document { status, fields: String::new(), body: body.to_string() };
        self.state.lock().expect("no panic").to_words.push((path.to_owned(), word.to_owned(), document));
    }

    /// What was asked so far: `GET /path`, and the body.
    pub fn asked(&self) -> Vec<(String, String)> {
        self.state.lock().expect("no panic").asked.clone()
    }
}

fn answer(state: &Mutex<State>, stream: TcpStream) {
    let mut reader = BufReader::new(&stream);
    let mut line = String::new();
    if reader.read_line(&mut line).is_err() {
        return;
    }
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let (mut length, mut validator) = (0, String::new());
    loop {
        let mut field = String::new();
        if reader.read_line(&mut field).is_err() || field.trim().is_empty() {
            break;
        }
        if let Some(value) = field.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if let Some(value) = field.strip_prefix("if-none-match:") {
            validator = value.trim().to_owned();
        }
    }
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let found = {
        let mut state = state.lock().expect("no panic");
        let unless = if validator.is_empty() { String::new() } else { format!(" unless {validator}") };
        let text = String::from_utf8_lossy(&body).into_owned();
        let to_word = state.to_words.iter().find(|(its, word, _)| *its == path && text.contains(word));
        let found = to_word.map(|(.., document)| document).or_else(|| state.documents.get(&path)).cloned();
        state.asked.push((format!("{method} {path}{unless}"), text));
        found
    };
    let missing = Document { status: 404, fields: String::new(), body: "{}".to_owned() };
    let Document { mut status, fields, mut body } = found.unwrap_or(missing);
    if !validator.is_empty() && fields.contains(&format!("ETag: {validator}\r\n")) {
        (status, body) = (304, String::new());
    }
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{fields}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = (&stream).write_all((head + &body).as_bytes());
}
