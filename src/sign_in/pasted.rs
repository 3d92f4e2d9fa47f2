//! What a person pastes after signing in: a one-time code with what clung to it, or the address that the browser ended
//! on. Pure.

use super::authorization_response::{AuthorizationResponse, Outcome};
use crate::secret::Secret;

/// Why what was pasted holds no code. Never quotes what was pasted, but for the server's own words.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum NotACode {
    /// Nothing was pasted.
    #[error("nothing was pasted")]
    Nothing,
    /// An address without a code.
    #[error("this address has no code in it: it is the one after the sign-in that is wanted")]
    AddressWithoutCode,
    /// An address that carries the server's refusal (RFC 6749 section 4.1.2.1).
    #[error("the authorization server said: {error}{}", .description.as_ref().map(|words| format!(" ({words})")).unwrap_or_default())]
    ServerSaid {
        /// Its code.
        error: String,
        /// Its words.
        description: Option<String>,
    },
    /// A token, which goes elsewhere.
    #[error("this is a token, not a code: a refresh token is handed in with --refresh-token-stdin")]
    Token,
    /// An address that says one thing in two ways.
    #[error("this address holds two different values of {0}: do the sign-in again")]
    Twice(&'static str),
    /// An address that answers another authorization request.
    #[error("this address answers another sign-in than the one that was begun here: do the sign-in again")]
    OtherSignIn,
    /// An address that does not say which authorization request it answers.
    #[error(
        "this address does not say which sign-in it answers (it has no state): if its page shows a code, paste that alone"
    )]
    NoState,
    /// An address that another authorization server has made (RFC 9207).
    #[error("this address comes from another authorization server than this account's (iss)")]
    OtherIssuer,
    /// Several words, and none of them is a code for certain.
    #[error("this is more than a code: paste the code alone")]
    ManyWords,
}

/// What was pasted: the code, and what came with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Pasted {
    /// The code.
    pub code: Secret,
    /// Whether it stood in an address, or the query of one.
    pub is_address: bool,
    /// `state` (RFC 6749 section 4.1.2).
    pub state: Option<String>,
    /// `iss` (RFC 9207).
    pub issuer: Option<String>,
}

impl Pasted {
    /// What an authorization response holds.
    ///
    /// # Errors
    ///
    /// [`NotACode`], if that is no code.
    pub(super) fn of(response: AuthorizationResponse) -> Result<Self, NotACode> {
        let AuthorizationResponse { state, issuer, outcome } = response;
        match outcome {
            Outcome::Code(code) => Ok(Self { code, is_address: true, state, issuer }),
            Outcome::Refused { error, description } => Err(NotACode::ServerSaid { error, description }),
            Outcome::Nothing => Err(NotACode::AddressWithoutCode),
            Outcome::Twice(name) => Err(NotACode::Twice(name)),
        }
    }

    fn bare(code: impl Into<String>) -> Self {
        Self { code: Secret::new(code), is_address: false, state: None, issuer: None }
    }
}

/// Finds the code in what was pasted.
///
/// # Errors
///
/// [`NotACode`] says what it is instead.
pub(crate) fn recognise(text: &str) -> Result<Pasted, NotACode> {
    let text = bare(text);
    if text.is_empty() {
        return Err(NotACode::Nothing);
    }
    if looks_like_address(text) {
        // an address has no blanks: those in it come from the line breaks of a terminal or a letter
        return Pasted::of(AuthorizationResponse::read(&text.split_whitespace().collect::<String>()));
    }
    let words: Vec<&str> = text.split_whitespace().map(bare).filter(|word| !word.is_empty()).collect();
    let codes: Vec<&str> = words.iter().copied().filter(|word| is_uuid(word)).collect();
    if let [code] = codes.as_slice() {
        return Ok(Pasted::bare(*code));
    }
    let joined = words.concat();
    if is_uuid(&joined) {
        return Ok(Pasted::bare(joined)); // a code that a line break has cut
    }
    match words.as_slice() {
        [word] if is_token(word) => Err(NotACode::Token),
        [word] => Ok(Pasted::bare(*word)),
        _ => Err(NotACode::ManyWords),
    }
}

/// Takes away what clings to a text that was copied out of a page, a letter or a shell.
fn bare(text: &str) -> &str {
    const CLINGING: [char; 13] = ['"', '\'', '`', '<', '>', '“', '”', '‘', '’', '«', '»', ',', ';'];
    text.trim_matches(|c: char| c.is_whitespace() || c.is_control() || c == '\u{feff}' || CLINGING.contains(&c))
}

fn looks_like_address(text: &str) -> bool {
    text.contains("://") || text.starts_with(['?', '#']) || text.contains("code=") || text.contains("error=")
}

fn is_uuid(word: &str) -> bool {
    let lengths: Vec<usize> = word.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && word.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

/// A JWT or a JWE: both begin with the base64url of `{"`.
fn is_token(word: &str) -> bool {
    word.starts_with("eyJ") && word.matches('.').count() >= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

    #[test]
    fn a_code_is_found_in_whatever_clings_to_it() {
        let table = [
            ("bare", UUID.to_owned(), UUID),
            ("a line end", format!("{UUID}\r\n"), UUID),
            ("quotes and blanks", format!("  \"{UUID}\" "), UUID),
            ("curly quotes", format!("“{UUID}”"), UUID),
            ("with its label", format!("One-time code: {UUID}"), UUID),
            ("in a sentence", format!("your code is <{UUID}>, good for 5 minutes"), UUID),
            ("cut by a line break", format!("{}\n{}", &UUID[..20], &UUID[20..]), UUID),
            ("capitals", UUID.to_uppercase(), "0F8FAD5B-D9CB-469F-A165-70867728950E"),
            ("not a UUID", "4/0AX4XfWh_x.y~z".to_owned(), "4/0AX4XfWh_x.y~z"),
            ("the address", format!("https://www.example/validate.html?code={UUID}"), UUID),
            ("further parameters", format!("https://www.example/?state=s&code={UUID}&iss=x"), UUID),
            ("in the fragment", format!("https://www.example/cb#code={UUID}&state=s"), UUID),
            ("in an application's fragment", format!("https://www.example/#/?code={UUID}"), UUID),
            ("the query alone", format!("?code={UUID}"), UUID),
            ("the parameter alone", format!("code={UUID}"), UUID),
            ("encoded", "https://www.example/?code=4%2F0AX%3D".to_owned(), "4/0AX="),
            ("an address in two lines", format!("'https://www.example/?co\n  de={UUID}'"), UUID),
        ];
        for (case, text, expected) in table {
            assert_eq!(recognise(&text).map(|pasted| pasted.code), Ok(Secret::new(expected)), "{case}");
        }
    }

    #[test]
    fn what_is_no_code_is_told_apart() {
        let said = |error: &str, description: Option<&str>| NotACode::ServerSaid {
            error: error.to_owned(),
            description: description.map(str::to_owned),
        };
        let table = [
            ("nothing", " \n", NotACode::Nothing),
            ("quotes around nothing", "\"\"", NotACode::Nothing),
            ("the page before the sign-in", "https://a.example/login?client_id=1", NotACode::AddressWithoutCode),
            ("an empty code", "https://a.example/?code=", NotACode::AddressWithoutCode),
            ("a refusal", "https://a.example/?error=access_denied", said("access_denied", None)),
            (
                "a refusal with words",
                "https://a.example/#error=access_denied&error_description=not+today",
                said("access_denied", Some("not today")),
            ),
            ("two codes", "https://a.example/?code=a&code=b", NotACode::Twice("code")),
            ("a second code in the fragment", "https://a.example/?code=a#code=b", NotACode::Twice("code")),
            ("two states", "https://a.example/?code=a&state=s&state=t", NotACode::Twice("state")),
            ("two issuers", "https://a.example/?code=a&iss=https://a&iss=https://b", NotACode::Twice("iss")),
            ("a token", "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.x", NotACode::Token),
            ("a sentence", "what is a code", NotACode::ManyWords),
        ];
        for (case, text, expected) in table {
            assert_eq!(recognise(text), Err(expected), "{case}");
        }
    }

    #[test]
    fn the_servers_words_are_shown() {
        let refusal = recognise("https://a/?error=access_denied&error_description=not+today").unwrap_err();
        assert_eq!(refusal.to_string(), "the authorization server said: access_denied (not today)");
    }
}
