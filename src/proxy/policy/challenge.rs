//! What a challenge says of a token that is good but not for this (RFC 6750 section 3.1). Pure.

use hyper::header::{HeaderMap, WWW_AUTHENTICATE};

use crate::oauth::challenge;

/// Longer lists of scopes are not repeated.
const LONGEST: usize = 500;

/// The scopes that a challenge of `insufficient_scope` asks for; none, if it does not name them, or in odd characters:
/// they come to stand in a command that a person runs.
pub(crate) fn lacking_scope(headers: &HeaderMap) -> Option<String> {
    let challenges = headers.get_all(WWW_AUTHENTICATE).iter();
    // a description beside it need not be ASCII
    let mut challenges = challenges.map(|value| String::from_utf8_lossy(value.as_bytes()));
    let field = challenges.find(|field| field.contains("insufficient_scope"))?;
    Some(challenge::parameter(&field, "scope").filter(|scope| is_plain(scope)).unwrap_or_default())
}

fn is_plain(scope: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b" :/._-+*@=,".contains(&byte);
    // what begins with a dash would be an option
    scope.len() <= LONGEST && scope.bytes().all(good) && !scope.starts_with('-')
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn the_scopes_of_a_challenge_are_read_if_a_person_can_be_shown_them() {
        for (challenge, expected) in [
            (r#"Bearer error="insufficient_scope", scope="files:read files:write""#, Some("files:read files:write")),
            (r#"Bearer scope=admin, error=insufficient_scope"#, Some("admin")),
            (r#"Bearer error="insufficient_scope", xscope="no", error_description="scope" , scope = "a""#, Some("a")),
            (r#"Bearer error="insufficient_scope""#, Some("")),
            (r#"Bearer error="insufficient_scope", scope="$(rm -rf ~)""#, Some("")),
            (r#"Bearer error="insufficient_scope", scope="--config=/tmp/x a""#, Some("")),
            (r#"Bearer error="insufficient_scope", error_description="Ungültig", scope="a""#, Some("a")),
            (r#"Bearer error="invalid_token", scope="a""#, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_bytes(challenge.as_bytes()).unwrap());
            assert_eq!(lacking_scope(&headers).as_deref(), expected, "{challenge}");
        }
        assert_eq!(lacking_scope(&HeaderMap::new()), None);
    }
}
