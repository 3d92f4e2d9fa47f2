//! Who somebody is, as a server says when it is asked: userinfo (OpenID Connect Core section 5.3), introspection (RFC 7662),
//! or an address of the provider's own.

use serde_json::Value;

use super::body::{encode, renamed};
use super::grant::{Client, EndpointKind, TokenRequest};
use super::rfc6749::authenticate;
use super::vocabulary::Pointer;
use crate::secret::Secret;

/// Writes the request that asks what an access token is good for (RFC 7662 section 2.1).
///
/// # Errors
///
/// A sentence for people, where the client as configured cannot make this request.
pub(crate) fn introspection(access_token: &Secret, client: &Client) -> Result<TokenRequest, String> {
    let mut pairs = vec![("token", access_token.expose()), ("token_type_hint", "access_token")];
    let fields = authenticate(client, &mut pairs)?;
    let (content_type, body) = encode(&renamed(pairs, client), client);
    Ok(TokenRequest { endpoint: EndpointKind::Introspection, content_type, fields, body })
}

/// Whether a response says that the token is good for nothing any more (RFC 7662 section 2.2).
pub(crate) fn is_inactive(body: &[u8]) -> bool {
    serde_json::from_slice::<Value>(body).is_ok_and(|answer| answer.get("active") == Some(&Value::Bool(false)))
}

/// A person, in a server's words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    /// The name that a person is shown.
    pub name: String,
    /// What the server tells people apart by: `sub`, or an id of its own.
    pub subject: Option<String>,
}

/// The members that name somebody to people, the best first.
const NAMES: [&str; 6] = ["email", "preferred_username", "username", "login", "name", "sub"];
/// Those that tell people apart. Never an address: it may be another's later.
const SUBJECTS: [&str; 3] = ["sub", "id", "user_id"];
/// Longer ones are nobody's.
const LONGEST: usize = 100;

impl Identity {
    /// Reads a response; `pointer` says where the name stands in it, where that is not the usual place. `None` if nobody is
    /// named.
    pub(crate) fn read(body: &[u8], pointer: Option<&Pointer>) -> Option<Self> {
        let document: Value = serde_json::from_slice(body).ok()?;
        if document.get("active") == Some(&Value::Bool(false)) {
            return None; // RFC 7662 section 2.2: of such a token nothing else is true
        }
        let at = |name: &&str| document.get(*name).and_then(text);
        let pointed = pointer.and_then(|pointer| pointer.find(&document)).and_then(text);
        let name = pointed.clone().or_else(|| if pointer.is_none() { NAMES.iter().find_map(at) } else { None })?;
        let subject = SUBJECTS.iter().find_map(at).or(pointed);
        Some(Self { name, subject })
    }
}

/// A text or a number, as it may be shown.
fn text(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let clean: String = text.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
    (!clean.trim().is_empty()).then_some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_found_where_servers_name_them() {
        let login = Pointer::parse("/login").unwrap();
        let deep = Pointer::parse("/data/viewer/name").unwrap();
        let rows = [
            ("userinfo", r#"{"sub":"1","email":"a@b"}"#, None, Some(("a@b", Some("1")))),
            ("userinfo, and nothing but the subject", r#"{"sub":"1"}"#, None, Some(("1", Some("1")))),
            (
                "GitHub",
                r#"{"id":583231,"login":"octocat","email":"x"}"#,
                Some(&login),
                Some(("octocat", Some("583231"))),
            ),
            ("deep down", r#"{"data":{"viewer":{"name":"ada"}}}"#, Some(&deep), Some(("ada", Some("ada")))),
            ("introspection", r#"{"active":true,"username":"ada","sub":"1"}"#, None, Some(("ada", Some("1")))),
            ("of a dead token", r#"{"active":false,"username":"ada"}"#, None, None),
            ("not where it should be", r#"{"sub":"1"}"#, Some(&login), None),
            ("nobody", r#"{"ok":true}"#, None, None),
            ("orders to the terminal", "{\"sub\":\"a\\u001b[2J\"}", None, Some(("a[2J", Some("a[2J")))),
            ("a web page", "<html>", None, None),
        ];
        for (case, body, pointer, expected) in rows {
            let expected = expected.map(|(name, subject): (&str, Option<&str>)| Identity {
                name: name.to_owned(),
                subject: subject.map(str::to_owned),
            });
            assert_eq!(Identity::read(body.as_bytes(), pointer), expected, "{case}");
        }
    }

    #[test]
    fn an_access_token_is_asked_about_by_the_client_that_holds_it() {
        let client = super::super::testing::public();
        let request = introspection(&Secret::new("a/1"), &client).unwrap();
        assert_eq!(request.body.expose(), "token=a%2F1&token_type_hint=access_token&client_id=valetd");
        let rows = [(r#"{"active":false}"#, true), (r#"{"active":true}"#, false), ("{}", false), ("<html>", false)];
        for (body, expected) in rows {
            assert_eq!(is_inactive(body.as_bytes()), expected, "{body}");
        }
    }
}
