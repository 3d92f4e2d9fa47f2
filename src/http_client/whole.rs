//! Whether a body is whole, though its end was not seen: its connection was cut, or its length was said wrong. Pure.

/// Whether nothing can be missing from a body: it is a JSON object, or a form whose tokens have all come.
pub(super) fn is_whole(body: &[u8]) -> bool {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body); // a byte order mark
    is_json_object(body) || is_form(body)
}

fn is_json_object(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{") && serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

/// A form does not say where it ends, and its last value may be half of it. So both tokens must have come, each with what
/// follows it.
fn is_form(body: &[u8]) -> bool {
    let Some(end) = body.iter().rposition(|byte| *byte == b'&') else { return false };
    let has = |name: &[u8]| {
        body[..end].split(|byte| *byte == b'&').any(|pair| {
            let value = pair.strip_prefix(name).and_then(|rest| rest.strip_prefix(b"="));
            value.is_some_and(|value| !value.is_empty())
        })
    };
    body.iter().all(u8::is_ascii_graphic) && has(b"access_token") && has(b"refresh_token")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_half_of_something_is_not_whole() {
        let rows = [
            ("an object", r#"{"access_token":"a"}"#, true),
            ("with blanks", " {\"a\":{}}\r\n", true),
            ("after a byte order mark", "\u{feff}{}", true),
            ("half of one", r#"{"access_token":"a""#, false),
            ("one and more", "{}{", false),
            ("a number", "17", false),
            ("an array", "[]", false),
            ("nothing", "", false),
            ("a form", "access_token=a&refresh_token=b&token_type=bearer", true),
            ("a form in another order", "refresh_token=b&scope=&access_token=a&expires_in=36", true),
            ("one that may go on within a token", "access_token=a&refresh_token=b", false),
            ("one that may go on with a token", "access_token=a&token_type=bearer", false),
            ("one whose token is empty", "access_token=a&refresh_token=&x=1", false),
            ("a page", "<p>access_token=a&refresh_token=b&x</p> ", false),
        ];
        for (name, body, expected) in rows {
            assert_eq!(is_whole(body.as_bytes()), expected, "{name}");
        }
    }
}
