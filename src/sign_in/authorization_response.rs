//! The authorization response (RFC 6749 sections 4.1.2 and 4.1.2.1): what the address says on which a browser ends. Pure.
//!
//! Whom it answers is read before what it says, so that an error in somebody else's address is nobody's refusal.

use crate::secret::Secret;

/// What an address says to the client. Parameters that are not known are ignored (section 4.1.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct AuthorizationResponse {
    /// Which request it answers.
    pub(super) state: Option<String>,
    /// Who answers (RFC 9207).
    pub(super) issuer: Option<String>,
    pub(super) outcome: Outcome,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// The code, good once.
    Code(Secret),
    /// The server's refusal, in its own words.
    Refused { error: String, description: Option<String> },
    /// Neither.
    Nothing,
    /// Something that may be there once is there with two values.
    Twice(&'static str),
}

impl AuthorizationResponse {
    /// Reads an address, or its query alone. Query and fragment are both read: some servers answer in the one, some in the
    /// other (OAuth 2.0 Multiple Response Types).
    pub(super) fn read(address: &str) -> Self {
        let (rest, fragment) = address.split_once('#').unwrap_or((address, ""));
        let query = match rest.split_once('?') {
            Some((_, query)) => query,
            None if rest.contains("://") => "",
            None => rest,
        };
        let parameters = || {
            let parts = [query, fragment.trim_start_matches(['?', '/'])];
            parts.into_iter().flat_map(|part| form_urlencoded::parse(part.as_bytes()))
        };
        let values = |name: &'static str| parameters().filter(move |(found, value)| found == name && !value.is_empty());
        let value = |name| values(name).next().map(|(_, value)| value.into_owned());
        // section 3.1: none is there more than once; of two, nobody knows which one the server has said
        let is_twice = |name: &&'static str| {
            let first = value(name);
            values(name).any(|(_, other)| Some(other.as_ref()) != first.as_deref())
        };
        let outcome = match (value("error"), ["code", "state", "iss"].iter().find(|name| is_twice(name))) {
            (Some(error), _) => Outcome::Refused { error, description: value("error_description") },
            (None, Some(name)) => Outcome::Twice(name),
            (None, None) => value("code").map_or(Outcome::Nothing, |code| Outcome::Code(Secret::new(code))),
        };
        Self { state: value("state"), issuer: value("iss"), outcome }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_whom_it_answers_and_what() {
        let code = |code: &str| Outcome::Code(Secret::new(code));
        let refused = |error: &str, words: Option<&str>| Outcome::Refused {
            error: error.to_owned(),
            description: words.map(str::to_owned),
        };
        let at = "http://127.0.0.1:1/callback";
        let rows = [
            ("a code", format!("{at}?code=c%2F1&state=s"), Some("s"), None, code("c/1")),
            (
                "with an issuer",
                format!("{at}?iss=https%3A%2F%2Fa&code=c&state=s"),
                Some("s"),
                Some("https://a"),
                code("c"),
            ),
            (
                "with unknown ones",
                format!("{at}?session_state=x&scope=y&authuser=0&code=c&state=s"),
                Some("s"),
                None,
                code("c"),
            ),
            ("in the fragment", format!("{at}#state=s&code=c"), Some("s"), None, code("c")),
            ("a path and query", "/callback?code=c&state=s".to_owned(), Some("s"), None, code("c")),
            ("a refusal", format!("{at}?error=access_denied&state=s"), Some("s"), None, refused("access_denied", None)),
            (
                "a refusal in words",
                format!("{at}?error=access_denied&error_description=not+today&state=s"),
                Some("s"),
                None,
                refused("access_denied", Some("not today")),
            ),
            ("a refusal beside a code", format!("{at}?code=c&error=x&state=s"), Some("s"), None, refused("x", None)),
            ("two codes", format!("{at}?code=a&code=b&state=s"), Some("s"), None, Outcome::Twice("code")),
            ("one code twice", format!("{at}?code=a&code=a&state=s"), Some("s"), None, code("a")),
            ("two states", format!("{at}?code=a&state=s&state=t"), Some("s"), None, Outcome::Twice("state")),
            ("nothing", at.to_owned(), None, None, Outcome::Nothing),
            ("empty ones", format!("{at}?code=&state="), None, None, Outcome::Nothing),
        ];
        for (case, address, state, issuer, outcome) in rows {
            let expected =
                AuthorizationResponse { state: state.map(str::to_owned), issuer: issuer.map(str::to_owned), outcome };
            assert_eq!(AuthorizationResponse::read(&address), expected, "{case}");
        }
    }
}
