//! Bodies that are what they should be in some wrapping: UTF-16, a JSON text in a JSON text, a document behind a warning, a
//! guard or a call, line breaks within texts. Each is taken off; what is within is read as always.

use zeroize::Zeroizing;

/// The body in UTF-8, out of the JSON text that it may be in; borrowed where there is nothing to do, as nearly always.
pub(super) fn unwrapped(body: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let utf8 = of_utf16(body);
    let text = utf8.as_ref().map_or(body, |text| text.as_slice());
    let inner = of_json_text(text);
    inner.or(utf8)
}

fn of_utf16(body: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (pairs, is_little) = match body {
        [0xff, 0xfe, rest @ ..] => (rest, true),
        [0xfe, 0xff, rest @ ..] => (rest, false),
        [first, 0, second, 0, ..] if *first != 0 && *second != 0 => (body, true),
        [0, first, 0, second, ..] if *first != 0 && *second != 0 => (body, false),
        _ => return None,
    };
    let unit = |pair: &[u8]| match (pair, is_little) {
        ([low, high], true) | ([high, low], false) => u16::from_be_bytes([*high, *low]),
        _ => u16::from(b' '),
    };
    let mut text = Zeroizing::new(Vec::with_capacity(body.len() * 2)); // at once: growing would leave copies behind
    for character in char::decode_utf16(pairs.chunks(2).map(unit)) {
        let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
        text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Some(text)
}

fn of_json_text(body: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii();
    if !text.starts_with(b"\"") {
        return None;
    }
    serde_json::from_slice::<String>(text).ok().map(|inner| Zeroizing::new(inner.into_bytes()))
}

/// The JSON document that a body has after something else, from its first brace on; `None` where it begins with one.
pub(super) fn document_within(body: &[u8]) -> Option<&[u8]> {
    let start = body.iter().position(|byte| *byte == b'{').filter(|start| *start > 0)?;
    Some(&body[start..])
}

/// The text with line breaks, tabs and other control characters made blanks: between values they are that already, and within
/// texts, where JSON allows none (RFC 8259 section 7), they are a server's mistake. `None` if there are none.
pub(super) fn without_controls(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let is_control = |byte: &u8| *byte < b' ';
    if !text.iter().any(is_control) {
        return None;
    }
    Some(Zeroizing::new(text.iter().map(|byte| if is_control(byte) { b' ' } else { *byte }).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_body_is_in_is_taken_off() {
        let utf16 = |text: &str, mark: bool, little: bool| {
            let units = mark.then_some(0xfeff).into_iter().chain(text.encode_utf16());
            units.flat_map(|unit| if little { unit.to_le_bytes() } else { unit.to_be_bytes() }).collect::<Vec<u8>>()
        };
        let document = "{\"a\":\"ö\"}";
        for (mark, little) in [(true, true), (true, false), (false, true), (false, false)] {
            let found = unwrapped(&utf16(document, mark, little)).expect("it is in UTF-16");
            assert_eq!(&**found, document.as_bytes(), "{mark} {little}");
        }
        let quoted = serde_json::to_string(document).unwrap();
        assert_eq!(&**unwrapped(quoted.as_bytes()).unwrap(), document.as_bytes());
        assert_eq!(&**unwrapped(&utf16(&quoted, true, true)).unwrap(), document.as_bytes(), "both");
        for plain in [document, "", "{", "\"", "a=b", "<p>", "\u{feff}{}", "[\"x\"]"] {
            assert!(unwrapped(plain.as_bytes()).is_none(), "{plain}");
        }
        assert_eq!(document_within(b"cb({\"a\":1})"), Some(&b"{\"a\":1})"[..]));
        assert_eq!(document_within(b"{\"a\":1}"), None);
        assert_eq!(&**without_controls(b"{\"a\":\"x\r\ny\"}").unwrap(), b"{\"a\":\"x  y\"}");
    }
}
