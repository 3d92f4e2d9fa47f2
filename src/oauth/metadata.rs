//! What an authorization server says of itself (RFC 8414, OpenID Connect Discovery). Bytes in; what is believed out, or a
//! refusal in words.
//!
//! Nothing here is followed: where endpoints may be is decided where addresses are read.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::grant::EndpointKind;

/// The longest text of a document that is believed: addresses and names are far shorter.
pub(super) const LONGEST: usize = 2000;
/// The most elements of a list.
pub(super) const MOST: usize = 500;

/// An authorization server's metadata, as far as they are used here.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Metadata {
    /// Who it says it is.
    pub issuer: String,
    token_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    authorization_endpoint: Option<String>,
    device_authorization_endpoint: Option<String>,
    pushed_authorization_request_endpoint: Option<String>,
    userinfo_endpoint: Option<String>,
    introspection_endpoint: Option<String>,
    registration_endpoint: Option<String>,
    /// Whether its authorization responses say who answers (RFC 9207 section 3).
    #[serde(default)]
    pub authorization_response_iss_parameter_supported: bool,
    /// The scopes that it names.
    #[serde(default)]
    pub scopes_supported: Vec<String>,
    /// The grants that it takes; `None` where it says nothing (RFC 8414 section 2 has a default).
    pub grant_types_supported: Option<Vec<String>>,
    /// How clients may prove who they are; `None` where it says nothing.
    pub token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

impl Metadata {
    /// Where the metadata of an issuer may be, the best first: RFC 8414 section 3, OpenID Connect Discovery section 4, and
    /// the latter at the place of the former (RFC 8414 section 5).
    pub(crate) fn places(issuer: &str) -> Vec<String> {
        let bare = issuer.trim_end_matches('/');
        let (origin, path) = split(bare);
        let mut places = vec![
            format!("{origin}/.well-known/oauth-authorization-server{path}"),
            format!("{bare}/.well-known/openid-configuration"),
            format!("{origin}/.well-known/openid-configuration{path}"),
        ];
        places.dedup();
        places
    }

    /// Reads a document that is to be that of `issuer`.
    ///
    /// # Errors
    ///
    /// Why it is not believed, as the end of a sentence that begins with where it was found.
    pub(crate) fn read(bytes: &[u8], issuer: &str) -> Result<Self, String> {
        let found = Self::read_any(bytes)?;
        if found.issuer == issuer {
            return Ok(found);
        }
        // RFC 8414 section 3.3: the issuer must be identical
        let theirs = quoted(&found.issuer);
        Err(match found.issuer.contains('{') {
            true => format!("names the issuer {theirs}, which stands for many: write your own tenant into the issuer"),
            false => format!("names the issuer {theirs}, and not \"{issuer}\": write it so, if that is the server"),
        })
    }

    /// Reads a document of whoever it names.
    ///
    /// # Errors
    ///
    /// Those of [`Metadata::read`].
    pub(crate) fn read_any(bytes: &[u8]) -> Result<Self, String> {
        let found: Self = document(bytes)?;
        let texts = found.endpoints().map(|(_, text)| text).chain([found.issuer.as_str()]);
        bounded(texts, 0)?;
        let others = [&found.grant_types_supported, &found.token_endpoint_auth_methods_supported];
        for list in [&found.scopes_supported].into_iter().chain(others.into_iter().flatten()) {
            bounded(list.iter().map(String::as_str), list.len())?;
        }
        if found.token_endpoint.is_none() {
            return Err("names no token_endpoint".to_owned());
        }
        Ok(found)
    }

    /// The endpoints that it names, the token endpoint first. One for registrations is none if it is on another host than
    /// the issuer: what a server says of others makes no clients of ours there.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = (EndpointKind, &str)> {
        [
            (EndpointKind::Token, &self.token_endpoint),
            (EndpointKind::Revocation, &self.revocation_endpoint),
            (EndpointKind::Authorization, &self.authorization_endpoint),
            (EndpointKind::DeviceAuthorization, &self.device_authorization_endpoint),
            (EndpointKind::PushedAuthorization, &self.pushed_authorization_request_endpoint),
            (EndpointKind::Userinfo, &self.userinfo_endpoint),
            (EndpointKind::Introspection, &self.introspection_endpoint),
            (EndpointKind::Registration, &self.registration_endpoint),
        ]
        .into_iter()
        .filter_map(|(kind, text)| Some((kind, text.as_deref()?)))
        .filter(|(kind, text)| *kind != EndpointKind::Registration || self.is_own_host(text))
    }

    /// The endpoint for registrations that is none, as it is on another host than the issuer.
    pub(crate) fn foreign_registration(&self) -> Option<&str> {
        self.registration_endpoint.as_deref().filter(|text| !self.is_own_host(text))
    }

    fn is_own_host(&self, text: &str) -> bool {
        split(text).0.eq_ignore_ascii_case(split(&self.issuer).0)
    }
}

/// Metadata that are kept for one account, so that nothing need be asked at a start, or while the server is away.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// When they were fetched, in Unix seconds.
    pub fetched_at: u64,
    /// What was found.
    pub metadata: Metadata,
    /// Where, and its validator (RFC 9110 section 8.8.3), if it has one: to be asked whether it has changed.
    #[serde(default)]
    pub validator: Option<(String, String)>,
    /// For how many seconds it is not asked for again.
    #[serde(default = "Kept::a_day")]
    pub fresh_for: u64,
}

impl Kept {
    /// The longest that metadata are not asked for again.
    pub(crate) fn a_day() -> u64 {
        24 * 60 * 60
    }

    /// The name of the file for an account, in the state folder.
    pub(crate) fn file_name(account: &str) -> String {
        format!("{account}{KEPT}")
    }

    /// The account that a file of the state folder is for, if it is such a file.
    pub(crate) fn account_of(file_name: &str) -> Option<&str> {
        file_name.strip_suffix(KEPT).filter(|name| !name.is_empty() && !name.contains('.'))
    }

    /// The file.
    pub(crate) fn write(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("texts and numbers")
    }

    /// Reads the file; `None` if it is none that we have written: then they are fetched anew.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// What the name of such a file ends with. An account's name has no dot in it.
const KEPT: &str = ".metadata.json";

/// Scheme and authority of an address, and the rest.
pub(super) fn split(address: &str) -> (&str, &str) {
    let authority = address.find("://").map_or(0, |at| at + 3);
    let end = address[authority..].find(['/', '?']).map_or(address.len(), |at| authority + at);
    address.split_at(end)
}

pub(super) fn document<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err("is no JSON object".to_owned());
    }
    // where it went wrong, and nothing of the text
    serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => "lacks a member that it must have, or has one of another type".to_owned(),
        _ => "is not JSON that can be read".to_owned(),
    })
}

pub(super) fn bounded<'a>(texts: impl Iterator<Item = &'a str>, elements: usize) -> Result<(), String> {
    if elements > MOST {
        return Err(format!("has a list of more than {MOST}"));
    }
    for text in texts {
        if text.len() > LONGEST || text.chars().any(char::is_control) {
            return Err("has a text that is too long, or that no terminal should show".to_owned());
        }
    }
    Ok(())
}

/// A foreign text for people: what could command a terminal, or look like another text, is left out.
pub(super) fn quoted(text: &str) -> String {
    let shown: String = text.chars().filter(char::is_ascii_graphic).take(200).collect();
    format!("\"{shown}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_are_looked_for_at_three_places() {
        let rows: [(&str, &[&str]); 3] = [
            (
                "https://a.example",
                &[
                    "https://a.example/.well-known/oauth-authorization-server",
                    "https://a.example/.well-known/openid-configuration",
                ],
            ),
            (
                "https://a.example/realms/r/",
                &[
                    "https://a.example/.well-known/oauth-authorization-server/realms/r",
                    "https://a.example/realms/r/.well-known/openid-configuration",
                    "https://a.example/.well-known/openid-configuration/realms/r",
                ],
            ),
            (
                "http://127.0.0.1:8080/x",
                &[
                    "http://127.0.0.1:8080/.well-known/oauth-authorization-server/x",
                    "http://127.0.0.1:8080/x/.well-known/openid-configuration",
                    "http://127.0.0.1:8080/.well-known/openid-configuration/x",
                ],
            ),
        ];
        for (issuer, expected) in rows {
            assert_eq!(Metadata::places(issuer), expected, "{issuer}");
        }
    }

    #[test]
    fn metadata_are_believed_of_exactly_the_issuer_that_was_asked_for() {
        let of = |issuer: &str| {
            let text = format!("{{\"issuer\":\"{issuer}\",\"token_endpoint\":\"https://a.example/t\",\"x\":[1]}}");
            Metadata::read(text.as_bytes(), "https://a.example/r")
        };
        let read = of("https://a.example/r").unwrap();
        assert_eq!(read.endpoints().collect::<Vec<_>>(), [(EndpointKind::Token, "https://a.example/t")]);
        for other in ["https://a.example/r/", "https://A.example/r", "https://a.example", "", "http://a.example/r"] {
            assert!(of(other).unwrap_err().contains("names the issuer"), "{other}");
        }
        assert!(of("https://a.example/{tenantid}").unwrap_err().contains("your own tenant"));
        let bad: [(&[u8], &str); 7] = [
            (b"<html>", "no JSON object"),
            (b"", "no JSON object"),
            (b"[1]", "no JSON object"),
            (b"{\"issuer\":", "cannot be read|not JSON"),
            (b"{\"issuer\":1}", "another type"),
            (b"{\"issuer\":\"https://a.example/r\"}", "no token_endpoint"),
            (b"{\"issuer\":\"x\\u001b[2J\",\"token_endpoint\":\"t\"}", "no terminal should show"),
        ];
        for (bytes, expected) in bad {
            let words = Metadata::read(bytes, "https://a.example/r").unwrap_err();
            assert!(expected.split('|').any(|part| words.contains(part)), "{words}");
        }
        for list in ["scopes_supported", "grant_types_supported", "token_endpoint_auth_methods_supported"] {
            let many = format!(
                "{{\"issuer\":\"i\",\"token_endpoint\":\"t\",\"{list}\":[{}]}}",
                vec!["\"s\""; MOST + 1].join(",")
            );
            assert!(Metadata::read(many.as_bytes(), "i").unwrap_err().contains("more than"), "{list}");
            let long = "s".repeat(LONGEST + 1);
            let long = format!("{{\"issuer\":\"i\",\"token_endpoint\":\"t\",\"{list}\":[\"{long}\"]}}");
            assert!(Metadata::read(long.as_bytes(), "i").unwrap_err().contains("too long"), "{list}");
        }
    }
}
