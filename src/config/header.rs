//! Header fields of requests: the one that carries the token, and what a route changes in the others.

use super::problem::Complaint;
use super::read::{Located, Table};
use super::reader::Reader;
use super::secret_source::SecretSource;
use crate::secret::Secret;

/// Which token goes into which header field, and how: `Authorization: Bearer {access_token}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HeaderTemplate {
    /// The field's name, in lower case.
    pub name: String,
    /// What comes before the token.
    pub before: String,
    /// The token.
    pub token: TokenKind,
    /// What comes after the token.
    pub after: String,
}

/// Which of the tokens in a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TokenKind {
    /// `{access_token}`
    AccessToken,
    /// `{id_token}`
    IdToken,
}

/// What a route changes in requests' header fields. Names are in lower case.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct HeaderEdits {
    /// Taken out.
    pub remove: Vec<String>,
    /// Put in, in place of the client's own. Values may be keys, so they are treated as secrets.
    pub add: Vec<(String, SecretSource)>,
}

/// Fields that no setting may change, because the proxy is answerable for them: those of one hop (RFC 9110 section 7.6.1,
/// with the ones that its ancestors knew), and those that say whose message it is and where it ends.
const RESERVED_FIELDS: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A field's name in lower case, if it is one (RFC 9110 section 5.1).
fn field_name(text: &str) -> Option<String> {
    let of_a_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (!text.is_empty() && text.bytes().all(of_a_token)).then(|| text.to_ascii_lowercase())
}

impl HeaderTemplate {
    /// Reads a template: `Authorization: Bearer {access_token}`.
    ///
    /// # Errors
    ///
    /// What is wrong, as the end of a sentence that starts with the key's name.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (name, value) =
            text.split_once(':').ok_or("has no colon: write it as in \"Authorization: Bearer {access_token}\"")?;
        let name = field_name(name).ok_or("has a bad field name (RFC 9110 section 5.1)")?;
        if RESERVED_FIELDS.contains(&name.as_str()) {
            return Err(format!("sets {name}, which belongs to the connection and is not for a token"));
        }
        let value = value.trim_matches([' ', '\t']); // RFC 9110's OWS, no line breaks
        if !value.chars().all(|c| c == ' ' || c == '\t' || c.is_ascii_graphic()) {
            return Err("has a character that a field's value cannot have (RFC 9110 section 5.5)".into());
        }
        let places = [("{access_token}", TokenKind::AccessToken), ("{id_token}", TokenKind::IdToken)];
        let found: Vec<_> =
            places.iter().filter_map(|(mark, token)| value.split_once(mark).map(|around| (around, *token))).collect();
        let [((before, after), token)] = found[..] else {
            return Err("must hold exactly one of {access_token} and {id_token}".into());
        };
        if [before, after].iter().any(|part| part.contains(['{', '}'])) {
            return Err("must hold exactly one of {access_token} and {id_token}, and no other braces".into());
        }
        Ok(Self { name, before: before.to_owned(), token, after: after.to_owned() })
    }
}

pub(super) fn bearer() -> HeaderTemplate {
    HeaderTemplate {
        name: "authorization".into(),
        before: "Bearer ".into(),
        token: TokenKind::AccessToken,
        after: String::new(),
    }
}

impl<'a> Reader<'a> {
    /// `request_headers = { remove = ["cookie"], add = { X-Api-Key = { file = "key" } } }`
    pub(super) fn header_edits(&self, table: &Table<'a>) -> HeaderEdits {
        let Some(table) = table.table("request_headers") else { return HeaderEdits::default() };
        table.only(&["add", "remove"]);
        let remove = table.array("remove", edited_field).unwrap_or_default();
        let mut edits = HeaderEdits { remove: remove.into_iter().map(|name| name.value).collect(), add: Vec::new() };
        let Some(add) = table.table("add") else { return edits };
        edits.add = self.added_fields(&add, edited_field);
        edits
    }

    /// Fields with their values, as far as `name_of` knows their names; no value is asked of a command.
    pub(super) fn added_fields(
        &self,
        add: &Table<'a>,
        name_of: fn(&str) -> Result<String, Complaint>,
    ) -> Vec<(String, SecretSource)> {
        let mut added = Vec::new();
        for key in add.keys() {
            let place = add.place_of(&key);
            let name = match name_of(&key) {
                Ok(name) if added.iter().any(|(other, _): &(String, SecretSource)| *other == name) => {
                    self.sink.error(&place, "is there twice: names of fields know no capitals");
                    continue;
                }
                Ok(name) => name,
                Err(complaint) => {
                    self.sink.error(&place, complaint);
                    continue;
                }
            };
            let value = match add.string_or_table(&key) {
                Some(Ok(Located { value, place })) if value.trim().is_empty() => {
                    self.sink.error(&place, "is empty");
                    None
                }
                Some(Ok(Located { value, .. }))
                    if value.bytes().all(|byte| byte == b'\t' || byte >= b' ' && byte != 0x7f) =>
                {
                    Some(SecretSource::Inline(Secret::new(value)))
                }
                Some(Ok(Located { place, .. })) => {
                    self.sink.error(&place, "has a control character");
                    None
                }
                Some(Err(table)) => self.secret_source(&table),
                None => None,
            };
            if matches!(value, Some(SecretSource::Command(_))) {
                self.sink.error(&place, Complaint::new("cannot be asked of a command", "write { file = \"/path\" }"));
            }
            added.extend(value.map(|value| (name, value)));
        }
        added
    }
}

/// The name of a field that a route may change: no reserved one, nor `Authorization`, which the header template may be.
fn edited_field(text: &str) -> Result<String, Complaint> {
    match field_name(text) {
        None => Err("is not the name of a header field".into()),
        Some(name) if name == "authorization" || RESERVED_FIELDS.contains(&name.as_str()) => {
            Err("is a field that valetd itself is answerable for".into())
        }
        Some(name) => Ok(name),
    }
}

/// The name of a field that token requests may have besides, or with another value: none of the above, nor the one that the
/// body's format decides.
pub(super) fn token_request_field(text: &str) -> Result<String, Complaint> {
    match edited_field(text)? {
        name if name == "content-type" => {
            Err(Complaint::new("is what the format decides", "say token_request.format = \"json\""))
        }
        name if ["content-encoding", "accept-encoding", "range", "if-range"].contains(&name.as_str()) => {
            Err("would change what the request or its response is".into())
        }
        name => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_templates_hold_exactly_one_token() {
        let bearer = HeaderTemplate::parse("Authorization: Bearer {access_token}").unwrap();
        assert_eq!(
            (bearer.name.as_str(), bearer.before.as_str(), bearer.after.as_str()),
            ("authorization", "Bearer ", "")
        );
        assert_eq!(bearer.token, TokenKind::AccessToken);
        let raw = HeaderTemplate::parse("Authorization: {id_token}").unwrap();
        assert_eq!((raw.before.as_str(), raw.token), ("", TokenKind::IdToken));
        let bad = [
            "Authorization",
            "Authorization: Bearer eyJhbGciOi",
            "Authorization: {access_token}{id_token}",
            "Authorization: {access_token} {access_token}",
            "Authorization: {access-token}",
            "Bad Name: {access_token}",
            ": {access_token}",
            "Host: {access_token}",
            "Transfer-Encoding: {access_token}",
            "X-Token: ä{access_token}",
            "X-Token: \r\nEvil: {access_token}",
        ];
        for text in bad {
            let error = HeaderTemplate::parse(text).expect_err(text);
            assert!(!error.contains("eyJ"), "{error}");
        }
    }

    #[test]
    fn what_is_reserved_is_reserved_for_every_setting() {
        for name in RESERVED_FIELDS {
            assert!(edited_field(&name.to_uppercase()).is_err(), "{name}");
            assert!(HeaderTemplate::parse(&format!("{name}: {{access_token}}")).is_err(), "{name}");
        }
        assert!(edited_field("Authorization").is_err());
        assert!(HeaderTemplate::parse("Authorization: {access_token}").is_ok());
        assert_eq!(edited_field("X-Key"), Ok("x-key".to_owned()));
        for odd in ["", "a b", "ä"] {
            assert!(
                edited_field(odd).is_err() && HeaderTemplate::parse(&format!("{odd}: {{id_token}}")).is_err(),
                "{odd}"
            );
        }
    }
}
