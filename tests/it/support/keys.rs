//! Client keys, made and used.

use serde_json::Value;

use crate::support::{Answer, Home, send, words};

/// Makes a key by the command line.
pub fn add(home: &Home, name: &str, rights: &[&str]) -> String {
    let output = home.run(&[&["key", "add", name], rights].concat());
    assert!(output.status.success(), "{}", words(&output));
    let key = String::from_utf8(output.stdout).expect("text").trim().to_owned();
    assert!(key.starts_with("vk_") && key.len() == 46, "{} characters", key.len());
    key
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
