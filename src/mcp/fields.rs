//! What the header fields of a request say of its message (MCP 2026-07-28, "Transports"): from that version on each
//! request stands for itself, and names its version, method and subject beside the body.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::message::Message;

pub(crate) const VERSION: &str = "mcp-protocol-version";
pub(crate) const METHOD: &str = "mcp-method";
pub(crate) const NAME: &str = "mcp-name";

/// The fields that a message needs, if it is of such a version.
pub(crate) fn fields(message: &Message) -> Vec<(&'static str, String)> {
    let (Some(version), Some(method)) = (&message.version, &message.method) else { return Vec::new() };
    let subject = subject(message).map(|subject| (NAME, encoded(subject)));
    [(VERSION, version.clone()), (METHOD, method.clone())].into_iter().chain(subject).collect()
}

/// Whether the fields of a request say the same as its messages: a server may go by either.
pub(crate) fn agree(method: &[&[u8]], name: &[&[u8]], messages: &[Message]) -> bool {
    if method.is_empty() && name.is_empty() {
        return true;
    }
    let [message] = messages else { return false };
    let is_method = |field: &&[u8]| message.method.as_deref().is_some_and(|method| method.as_bytes() == *field);
    let is_name = |field: &&[u8]| subject(message).is_some_and(|subject| encoded(subject).as_bytes() == *field);
    method.len() <= 1 && name.len() <= 1 && method.iter().all(is_method) && name.iter().all(is_name)
}

/// What the method is for: a tool, a prompt, a resource.
fn subject(message: &Message) -> Option<&str> {
    match message.method.as_deref()? {
        "tools/call" | "prompts/get" => message.name.as_deref(),
        "resources/read" => message.uri.as_deref(),
        _ => None,
    }
}

/// As a field's value: in Base64 what would not arrive as it is.
fn encoded(text: &str) -> String {
    let is_plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && text.trim() == text;
    match is_plain && !(text.starts_with("=?base64?") && text.ends_with("?=")) {
        true => text.to_owned(),
        false => format!("=?base64?{}?=", STANDARD.encode(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::read;

    fn one(text: &str) -> Message {
        read(text.as_bytes()).unwrap().remove(0)
    }

    fn call(name: &str) -> Message {
        let version = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
        one(&format!(r#"{{"id":1,"method":"tools/call","params":{{{version},"name":{}}}}}"#, serde_json::json!(name)))
    }

    #[test]
    fn a_message_that_stands_for_itself_is_named_beside_the_body() {
        let of = |name, encoded: &str| {
            assert_eq!(
                fields(&call(name)),
                [(VERSION, "2026-07-28"), (METHOD, "tools/call"), (NAME, encoded)].map(|(a, b)| (a, b.to_owned()))
            );
        };
        of("search issues", "search issues");
        of("größe", "=?base64?Z3LDtsOfZQ==?=");
        of(" a", "=?base64?IGE=?=");
        of("=?base64?IGE=?=", "=?base64?PT9iYXNlNjQ/SUdFPT89?=");
        assert_eq!(fields(&one(r#"{"id":1,"method":"tools/call","params":{"name":"a"}}"#)), [], "of an older version");
    }

    #[test]
    fn fields_that_say_something_else_are_found() {
        let list = one(r#"{"id":1,"method":"tools/list"}"#);
        for (method, name, messages, expected) in [
            (&[][..], &[][..], vec![call("a")], true),
            (&["tools/call"], &["a"], vec![call("a")], true),
            (&["tools/call"], &[], vec![call("a")], true),
            (&["tools/call"], &["=?base64?Z3LDtsOfZQ==?="], vec![call("größe")], true),
            (&["tools/list"], &[], vec![list.clone()], true),
            (&["tools/call"], &["b"], vec![call("a")], false),
            (&["tools/list"], &["a"], vec![call("a")], false),
            (&["Tools/Call"], &["a"], vec![call("a")], false),
            (&["tools/call", "tools/call"], &["a"], vec![call("a")], false),
            (&["tools/call"], &["a", "b"], vec![call("a")], false),
            (&["tools/call"], &["a"], vec![call("a"), call("a")], false),
            (&["tools/list"], &["a"], vec![list], false),
            (&["tools/list"], &[], vec![one(r#"{"id":1,"result":{}}"#)], false),
        ] {
            let bytes = |fields: &[&'static str]| fields.iter().map(|field| field.as_bytes()).collect::<Vec<_>>();
            assert_eq!(agree(&bytes(method), &bytes(name), &messages), expected, "{method:?} {name:?} {messages:?}");
        }
    }
}
