//! Client keys, made and used.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::support::{Answer, Home, PATIENCE, send, words};

/// Makes a key by the command line.
pub fn add(home: &Home, name: &str, rights: &[&str]) -> String {
    let output = home.run(&[&["key", "add", name], rights].concat());
    assert!(output.status.success(), "{}", words(&output));
    let key = String::from_utf8(output.stdout).expect("text").trim().to_owned();
    assert!(key.starts_with("vk_") && key.len() == 46, "{} characters", key.len());
    key
}

/// The order for an ephemeral key for `lab`, by hand.
pub fn ephemeral_order(version: &str) -> String {
    let body = r#"{"routes": ["lab"], "ephemeral": true}"#;
    format!("POST /v1/keys {version}\r\nHost: v\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Opens the control socket for an order by hand: the line, and the end of it to read from.
pub fn line(home: &Home) -> (UnixStream, BufReader<UnixStream>) {
    let line = UnixStream::connect(home.socket()).expect("the control socket");
    line.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    let reader = BufReader::new(line.try_clone().expect("a copy"));
    (line, reader)
}

/// Reads the key that came of such an order, and leaves unread what follows it.
pub fn ordered(answer: &mut impl BufRead) -> String {
    let made = answer.by_ref().lines().map(|line| line.expect("a line")).find(|line| line.starts_with('{'));
    let made: Value = serde_json::from_str(&made.expect("the key")).expect("JSON");
    made["key"].as_str().expect("a key").to_owned()
}

/// A request with a key in its field.
pub fn keyed(address: &str, key: &str) -> Answer {
    send(address, "GET", "/lab/datasets", &[("X-Valetd-Key", key)], b"").expect("an answer")
}

/// Which check refused a request.
pub fn check(answer: &Answer) -> Option<String> {
    let problem: Value = serde_json::from_slice(&answer.body).ok()?;
    Some(problem["check"].as_str()?.to_owned())
}
