//! What another process can feed to the control socket's pure parts. See [`crate::fuzzing`].

use super::api;

/// A request: method, blank, path, line end, body.
pub fn control_request(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (line, body) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let mut words = line.splitn(2, |byte| *byte == b' ');
    let method = hyper::Method::from_bytes(words.next().unwrap_or_default());
    let path = std::str::from_utf8(words.next().unwrap_or_default());
    if let (Ok(method), Ok(path)) = (method, path) {
        let _ = api::refusal(&method, path);
    }
    match api::read_credential(body) {
        Ok(new) => assert!(new.credential.refresh_token.is_some() || new.credential.password.is_some()),
        Err(problem) => {
            // what stands in the body may be half a token: no run of it is repeated
            let said = format!("{problem:?}");
            let text = String::from_utf8_lossy(body);
            let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.len() >= 24);
            for word in words {
                assert!(!said.contains(word), "{word} is quoted in {said}");
            }
        }
    }
}
