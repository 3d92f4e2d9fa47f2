//! Tokens that others issue and a program prints or a file holds: the bare token, or a JSON document with it. What a
//! document says of the token's end is read as in a token response.

use std::time::SystemTime;

use jiff::fmt::rfc2822::DateTimePrinter;

use super::Dialect;
use super::grant::{Client, Grant, Tokens};
use super::verdict::TokenResponse;
use super::vocabulary::{Members, Pointer, Vocabulary};
use crate::secret::Secret;

/// Where documents have the token and its end, besides where RFC 6749 and the configuration have them: Kubernetes'
/// ExecCredential, Azure's command, and those that call it just the token.
const PLACES: [(&str, &str, &str); 3] =
    [("/status", "token", "expirationTimestamp"), ("", "accessToken", "expires_on"), ("", "token", "expires_at")];

/// Reads what was printed or kept. `vocabulary` is the account's own.
///
/// # Errors
///
/// What is wrong with it, as the end of a sentence that starts with its place. It quotes nothing.
pub(crate) fn read(text: &Secret, vocabulary: &Vocabulary, now: SystemTime) -> Result<Tokens, &'static str> {
    let bare = text.expose().trim_start_matches('\u{feff}').trim();
    if bare.is_empty() {
        return Err("holds nothing");
    }
    if bare.starts_with('{') {
        return document(bare, vocabulary, now);
    }
    if bare.chars().any(char::is_whitespace) {
        return Err("holds more than a token, and no JSON document");
    }
    // as a document with nothing but the token, so that the same rules decide what a token may be
    let alone = Secret::new(
        serde_json::to_string(&[("access_token", bare)].into_iter().collect::<Alone<'_>>()).expect("texts"),
    );
    document(alone.expose(), &Vocabulary::default(), now)
        .map_err(|_| "holds no token that could stand in a header field")
}

type Alone<'a> = std::collections::BTreeMap<&'a str, &'a str>;

fn document(text: &str, vocabulary: &Vocabulary, now: SystemTime) -> Result<Tokens, &'static str> {
    let elsewhere = PLACES.map(|(within, token, end)| {
        let place = |text: &str| Pointer::parse(text).ok().filter(|pointer| *pointer != Pointer::default());
        let (access_token, expires_at) = (place(token), place(end));
        let members =
            Members { within: place(within).into_iter().collect(), access_token, expires_at, ..Members::default() };
        Vocabulary { members, ..Vocabulary::default() }
    });
    // it was written by this machine's clock, so that an end that has passed is one
    let date = jiff::Timestamp::try_from(now).ok().map(|now| DateTimePrinter::new().timestamp_to_rfc9110_string(&now));
    let date = date.and_then(Result::ok);
    let response =
        TokenResponse { status: 200, date: date.as_deref(), body: text.as_bytes(), ..TokenResponse::default() };
    [vocabulary]
        .into_iter()
        .chain(&elsewhere)
        .find_map(|vocabulary| {
            let read = Dialect::Rfc6749.read(&response, &Grant::Issued, &Client::default(), vocabulary, now);
            read.ok().filter(|tokens| tokens.unusable.is_none())
        })
        .ok_or("is a JSON document without a token where one is looked for (see token_response)")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::testing::account;

    fn now() -> SystemTime {
        std::time::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn found(text: &str, lines: &str) -> Result<(String, Option<u64>), &'static str> {
        let vocabulary = account("lab", &format!("token_endpoint = \"https://auth.example/t\"\n{lines}\n")).vocabulary;
        let tokens = read(&Secret::new(text), &vocabulary, now())?;
        let token = tokens.access_token.expect("one was found").expose().to_owned();
        Ok((token, tokens.lifetime.as_ref().map(Duration::as_secs)))
    }

    #[test]
    fn a_token_is_found_in_every_form_that_programs_print() {
        let seconds = now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let in_a_minute = jiff::Timestamp::from_second(seconds as i64 + 60).unwrap();
        let before = jiff::Timestamp::from_second(seconds as i64 - 60).unwrap();
        let credential = |end: jiff::Timestamp| {
            format!(r#"{{"kind":"ExecCredential","status":{{"token":"t","expirationTimestamp":"{end}"}}}}"#)
        };
        let rows = [
            ("t\n".to_owned(), "", Some(None)),
            ("\u{feff}  t \r\n\n".to_owned(), "", Some(None)),
            (r#"{"access_token":"t","expires_in":60}"#.to_owned(), "", Some(Some(60))),
            (format!("{{\n  \"access_token\": \"t\",\n  \"expires_at\": \"{in_a_minute}\"\n}}\n"), "", Some(Some(60))),
            (credential(in_a_minute), "", Some(Some(60))),
            (credential(before), "", Some(Some(0))),
            (
                format!(r#"{{"accessToken":"t","expiresOn":"2026-01-01 00:00:00.0","expires_on":{}}}"#, seconds + 60),
                "",
                Some(Some(60)),
            ),
            (format!(r#"{{"token":"t","expires_at":{}}}"#, seconds + 60), "", Some(Some(60))),
            (
                r#"{"data":{"key":"t"}}"#.to_owned(),
                "token_response = { within = \"/data\", access_token = \"key\" }",
                Some(None),
            ),
            (r#"{"data":{"key":"t"}}"#.to_owned(), "", None),
            (r#"{"status":{"token":""}}"#.to_owned(), "", None),
            (r#"{"access_token":"t","token_type":"DPoP"}"#.to_owned(), "", None),
            ("Logged in as ada\nt".to_owned(), "", None),
            ("ERROR: run login".to_owned(), "", None),
            ("t\u{1}".to_owned(), "", None),
            ("ä".to_owned(), "", None),
            (" \n".to_owned(), "", None),
            ("{\"access_token\": \"t\"".to_owned(), "", None),
        ];
        for (text, lines, expected) in rows {
            let expected = expected.map(|life| ("t".to_owned(), life));
            assert_eq!(found(&text, lines).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_said_of_it_quotes_nothing() {
        for text in ["hunter2 x", "{\"hunter2\":1}", "hunter2\u{7f}", "{hunter2"] {
            let words = found(text, "").unwrap_err();
            assert!(!words.contains("hunter2"), "{words}");
        }
    }
}
