//! What the challenges of a response say (RFC 9110 section 11.6.1): read leniently, as servers write them. Pure.

/// The value of a parameter that any of the challenges in a field's value has, the first of them: `error="invalid_grant"`,
/// in quotes or without. Names are compared without regard to case.
pub(crate) fn parameter(field: &str, name: &str) -> Option<String> {
    let mut rest = field;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = match word {
            "" if after.starts_with('"') => quoted(&after[1..]).1, // a text that nothing has announced
            "" => after.get(after.chars().next()?.len_utf8()..)?,
            _ => after,
        };
        let Some(value) = rest.trim_start_matches([' ', '\t']).strip_prefix('=').filter(|_| !word.is_empty()) else {
            continue; // the name of a scheme
        };
        let value = value.trim_start_matches([' ', '\t']);
        let (text, after) = match value.strip_prefix('"') {
            Some(value) => quoted(value),
            None => {
                let end = value.find([',', ' ', '\t']).unwrap_or(value.len());
                (value[..end].to_owned(), &value[end..])
            }
        };
        if word.eq_ignore_ascii_case(name) {
            return Some(text);
        }
        rest = after;
    }
}

/// A text up to its closing quotation mark, or all of it, and what follows.
fn quoted(text: &str) -> (String, &str) {
    let mut plain = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (plain, &text[at + 1..]),
            '\\' => plain.extend(chars.next().map(|(_, escaped)| escaped)),
            c => plain.push(c),
        }
    }
    (plain, "")
}

/// RFC 9110 section 5.6.2.
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_found_in_whatever_challenge_has_it_and_nowhere_else() {
        for (field, expected) in [
            (r#"Bearer error="invalid_grant""#, Some("invalid_grant")),
            (r#"Bearer error=invalid_grant, scope=a"#, Some("invalid_grant")),
            (r#"Bearer realm="a, error=\"no\"", ERROR = "yes""#, Some("yes")),
            (r#"Basic realm="x", Bearer realm="y",error="e""#, Some("e")),
            (r#"Basic YWJjOmQ=, Bearer error="e""#, Some("e")),
            (r#"Negotiate YWJj==, error="e""#, Some("e")),
            (r#"Bearer error_description="the error = bad", xerror="no""#, None),
            (r#"Bearer realm="unclosed, error=no"#, None),
            (r#"Bearer error="unclosed"#, Some("unclosed")),
            (r#"error="bare""#, Some("bare")),
            (r#"Bearer "stray", error="e""#, Some("e")),
            (r#"Bearer é error="e""#, Some("e")),
            ("Bearer error", None),
            ("Bearer error=", Some("")),
            ("", None),
            ("=", None),
        ] {
            assert_eq!(parameter(field, "error").as_deref(), expected, "{field}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_field_makes_the_reader_panic_or_run_on(field in ".*", parts in "[a-z=\", \\\\é]{0,40}") {
            let _ = (parameter(&field, "error"), parameter(&parts, "error"));
        }
    }
}
