//! Registering a client (RFC 7591), and what is kept of it.
//!
//! The client is native and public: no secret, a redirect to loopback. What a server gives all the same is kept and used as it
//! says, as the refresh token is good with this client alone.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::grant::ClientAuth;
use super::metadata::{LONGEST, quoted};
use crate::secret::Secret;

/// What of a registered client is no secret (RFC 6749 section 2.2): all that a configuration needs to know of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "PublicMembers", into = "PublicMembers")]
pub(crate) struct RegisteredClient {
    /// Where: the issuer, or the registration endpoint of a server without one.
    pub registered_at: String,
    /// The client's id.
    pub client_id: String,
    /// How it proves who it is: with a secret that the store has, unless it is a public client.
    pub client_auth: ClientAuth,
}

/// A client that was registered for one account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Registration {
    /// What is public of it.
    pub client: RegisteredClient,
    /// Its secret, if it was given one that it is to use.
    pub client_secret: Option<Secret>,
    /// Where, and with what, the registration can be taken back (RFC 7592).
    pub management: Option<(String, Secret)>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// The redirect URIs.
    pub redirect_uris: &'a [String],
    /// The scopes that will be asked for.
    pub scopes: &'a [String],
    /// The name of the grant for device codes, if they will be asked for.
    pub device: Option<&'a str>,
}

/// What the grant for device codes is called at a registration, the best first: RFC 8628 section 3.4, and what glewlwyd (2.7)
/// takes in its place, although its metadata announce the former.
pub(crate) const DEVICE_GRANTS: [&str; 2] = ["urn:ietf:params:oauth:grant-type:device_code", "device_authorization"];

/// Whether a response says that a server registers no client that is described so (RFC 7591 section 3.2.2).
pub(crate) fn refuses_metadata(status: u16, body: &[u8]) -> bool {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    status == 400 && body["error"] == "invalid_client_metadata"
}

/// The body of the request.
pub(crate) fn request(wanted: &Wanted<'_>) -> String {
    let mut grants = vec!["authorization_code", "refresh_token"];
    grants.extend(wanted.device);
    let mut body = json!({
        "client_name": "valetd",
        // without it OpenID Connect compares the port (Registration section 2, RFC 8252 section 7.3)
        "application_type": "native",
        "redirect_uris": wanted.redirect_uris,
        "grant_types": grants,
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
    });
    if !wanted.scopes.is_empty() {
        body["scope"] = wanted.scopes.join(" ").into();
    }
    body.to_string()
}

/// Reads the response.
///
/// # Errors
///
/// Why there is no client, as the end of a sentence that begins with the server's name.
pub(crate) fn read(status: u16, body: &[u8], registered_at: &str) -> Result<Registration, String> {
    #[derive(Deserialize)]
    struct Answer {
        client_id: String,
        client_secret: Option<Secret>,
        token_endpoint_auth_method: Option<String>,
        registration_access_token: Option<Secret>,
        registration_client_uri: Option<String>,
    }
    // section 3.2.1 says 201; some say 200
    if !matches!(status, 200 | 201) {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| body[name].as_str().map(quoted);
        let words: Vec<String> = ["error", "error_description"].into_iter().filter_map(text).collect();
        return Err(format!("answered {status} {}", words.join(": ")).trim_end().to_owned());
    }
    let answer: Answer =
        serde_json::from_slice(body).map_err(|_| "sent a registration that cannot be read".to_owned())?;
    let is_good = |text: &str| !text.is_empty() && text.len() <= LONGEST && text.chars().all(|c| !c.is_control());
    if !is_good(&answer.client_id) {
        return Err("sent a registration without a client_id that can be used".to_owned());
    }
    // one that says nothing has taken what was asked for
    let client_auth = match answer.token_endpoint_auth_method.as_deref() {
        None | Some("none") => ClientAuth::None,
        Some("client_secret_post") => ClientAuth::Post,
        Some("client_secret_basic") => ClientAuth::Basic,
        Some(_) => return Err("wants this client to prove who it is in a way that is not known here".to_owned()),
    };
    let client_secret =
        answer.client_secret.filter(|secret| client_auth != ClientAuth::None && is_good(secret.expose()));
    if client_auth != ClientAuth::None && client_secret.is_none() {
        return Err("wants a secret of this client, and sent none".to_owned());
    }
    let client = RegisteredClient { registered_at: registered_at.to_owned(), client_id: answer.client_id, client_auth };
    let management = answer.registration_client_uri.zip(answer.registration_access_token);
    Ok(Registration { client, client_secret, management })
}

/// The members of a file that are public, in the words of the file.
#[derive(Serialize, Deserialize)]
struct PublicMembers {
    registered_at: String,
    client_id: String,
    client_auth: String,
}

impl TryFrom<PublicMembers> for RegisteredClient {
    type Error = &'static str;

    fn try_from(members: PublicMembers) -> Result<Self, Self::Error> {
        let PublicMembers { registered_at, client_id, client_auth } = members;
        let client_auth = match client_auth.as_str() {
            "none" => ClientAuth::None,
            "post" => ClientAuth::Post,
            "basic" => ClientAuth::Basic,
            _ => return Err("a way to prove who it is that is not known"),
        };
        Ok(Self { registered_at, client_id, client_auth })
    }
}

impl From<RegisteredClient> for PublicMembers {
    fn from(client: RegisteredClient) -> Self {
        let RegisteredClient { registered_at, client_id, client_auth } = client;
        let client_auth = match client_auth {
            ClientAuth::Post => "post",
            ClientAuth::Basic | ClientAuth::BasicRaw => "basic",
            ClientAuth::None => "none",
        };
        Self { registered_at, client_id, client_auth: client_auth.to_owned() }
    }
}

impl RegisteredClient {
    /// Reads what is public in a file for `account`, whether its secrets are sealed or not; `None` if it is none that we have
    /// written, or names another account: then there is no client, and one is registered at the next sign-in.
    pub(crate) fn read_file(bytes: &[u8], account: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct File {
            account: Option<String>,
            #[serde(flatten)]
            client: RegisteredClient,
        }
        let File { account: named, client } = serde_json::from_slice(bytes).ok()?;
        named.is_none_or(|named| named == account).then_some(client)
    }
}

/// The members of a file that are secret, or lead to what is.
#[derive(Serialize, Default)]
struct SecretMembers<'a> {
    client_secret: Option<&'a str>,
    registration_client_uri: Option<&'a str>,
    registration_access_token: Option<&'a str>,
}

#[derive(Deserialize)]
struct StoredSecrets {
    client_secret: Option<Secret>,
    registration_client_uri: Option<String>,
    registration_access_token: Option<Secret>,
}

impl Registration {
    /// The name of the file for an account, in the state folder.
    pub(crate) fn file_name(account: &str) -> String {
        format!("{account}{KEPT}")
    }

    /// The account that a file of the state folder is for, if it is such a file.
    pub(crate) fn account_of(file_name: &str) -> Option<&str> {
        file_name.strip_suffix(KEPT).filter(|name| !name.is_empty() && !name.contains('.'))
    }

    /// The file for `account` in the clear; it may hold secrets.
    pub(crate) fn write(&self, account: &str) -> Secret {
        #[derive(Serialize)]
        struct File<'a> {
            account: &'a str,
            #[serde(flatten)]
            client: &'a RegisteredClient,
            #[serde(flatten)]
            secrets: SecretMembers<'a>,
        }
        written(&File { account, client: &self.client, secrets: self.secret_members() })
    }

    /// Reads the file for `account` in the clear; `None` if it is none that we have written, or names another account.
    pub(crate) fn read_file(bytes: &[u8], account: &str) -> Option<Self> {
        Self::of(RegisteredClient::read_file(bytes, account)?, bytes)
    }

    /// What is secret of it, or leads to what is: the part that is sealed.
    pub(crate) fn write_secrets(&self) -> Secret {
        written(&self.secret_members())
    }

    /// What is public of it, together with the part that was sealed.
    pub(crate) fn of(client: RegisteredClient, secrets: &[u8]) -> Option<Self> {
        let StoredSecrets { client_secret, registration_client_uri, registration_access_token } =
            serde_json::from_slice(secrets).ok()?;
        Some(Self { client, client_secret, management: registration_client_uri.zip(registration_access_token) })
    }

    /// Whether there is anything secret in it.
    pub(crate) fn holds_a_secret(&self) -> bool {
        self.client_secret.is_some() || self.management.is_some()
    }

    fn secret_members(&self) -> SecretMembers<'_> {
        let Self { client: _, client_secret, management } = self;
        let (uri, token) = management.as_ref().map(|(uri, token)| (uri.as_str(), token.expose())).unzip();
        SecretMembers {
            client_secret: client_secret.as_ref().map(Secret::expose),
            registration_client_uri: uri,
            registration_access_token: token,
        }
    }
}

/// A text that grows leaves copies behind that nobody wipes: no registration that is kept is larger.
const ROOM: usize = 128 * 1024;

fn written(file: &impl Serialize) -> Secret {
    let mut bytes = Vec::with_capacity(ROOM);
    serde_json::to_writer(&mut bytes, file).expect("texts become JSON");
    Secret::new(String::from_utf8(bytes).expect("JSON is UTF-8"))
}

/// What the name of such a file ends with. An account's name has no dot in it.
const KEPT: &str = ".client.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_native_client_without_a_secret_is_asked_for() {
        let (redirect_uris, scopes) = (["http://127.0.0.1/callback".to_owned()], ["openid".into(), "x".into()]);
        let wanted = Wanted { redirect_uris: &redirect_uris, scopes: &scopes, device: Some(DEVICE_GRANTS[0]) };
        let body: Value = serde_json::from_str(&request(&wanted)).unwrap();
        assert_eq!(
            (&body["application_type"], &body["token_endpoint_auth_method"]),
            (&json!("native"), &json!("none"))
        );
        assert_eq!((&body["scope"], body["grant_types"].as_array().unwrap().len()), (&json!("openid x"), 3));
        let bare = Wanted { scopes: &[], device: None, ..wanted };
        let body: Value = serde_json::from_str(&request(&bare)).unwrap();
        assert!(body.get("scope").is_none() && body["grant_types"].as_array().unwrap().len() == 2);
    }

    #[test]
    fn what_a_server_gives_is_kept_and_read_again() {
        let rows = [
            (201, r#"{"client_id":"c"}"#, Ok((ClientAuth::None, false))),
            (200, r#"{"client_id":"c","client_secret":"s"}"#, Ok((ClientAuth::None, false))),
            (
                201,
                r#"{"client_id":"c","client_secret":"s","token_endpoint_auth_method":"none"}"#,
                Ok((ClientAuth::None, false)),
            ),
            (
                201,
                r#"{"client_id":"c","client_secret":"s","token_endpoint_auth_method":"client_secret_post"}"#,
                Ok((ClientAuth::Post, true)),
            ),
            (201, r#"{"client_id":"c","token_endpoint_auth_method":"client_secret_basic"}"#, Err("sent none")),
            (201, r#"{"client_id":"c","token_endpoint_auth_method":"tls_client_auth"}"#, Err("not known here")),
            (201, r#"{"client_id":""}"#, Err("without a client_id")),
            (201, "<html>", Err("cannot be read")),
            (
                400,
                r#"{"error":"invalid_redirect_uri","error_description":"no \u001b"}"#,
                Err("400 \"invalid_redirect_uri\""),
            ),
            (401, "", Err("answered 401")),
        ];
        for (status, body, expected) in rows {
            let read = super::read(status, body.as_bytes(), "https://i.example");
            match (expected, read) {
                (Ok((auth, has_secret)), Ok(found)) => {
                    assert_eq!((found.client.client_auth, found.client_secret.is_some()), (auth, has_secret), "{body}");
                    assert_eq!(
                        Registration::read_file(found.write("lab").expose().as_bytes(), "lab"),
                        Some(found),
                        "{body}"
                    );
                }
                (Err(words), Err(why)) => assert!(why.contains(words), "{body}: {why}"),
                (_, read) => panic!("{body}: {read:?}"),
            }
        }
        let managed =
            br#"{"client_id":"c","registration_client_uri":"https://i.example/c","registration_access_token":"t"}"#;
        let found = super::read(201, managed, "i").unwrap();
        assert_eq!(found.management, Some(("https://i.example/c".to_owned(), Secret::new("t"))));
        assert!(!format!("{found:?}").contains("\"t\""));
        assert_eq!(Registration::read_file(b"{}", "lab"), None);
        let public = |text: &str| RegisteredClient::read_file(text.as_bytes(), "lab");
        assert_eq!(public(found.write("lab").expose()), Some(found.client.clone()));
        assert_eq!(
            Registration::of(found.client.clone(), found.write_secrets().expose().as_bytes()),
            Some(found.clone())
        );
        assert!(!found.write_secrets().expose().contains("client_id"), "{}", found.write_secrets().expose());
        assert_eq!(public(found.write("other").expose()), None, "a file that was moved");
        let of_before = found.write("lab").expose().replace(r#""account":"lab","#, "");
        assert_eq!(public(&of_before), Some(found.client.clone()), "a file of a valetd that did not note the account");
        assert_eq!(public(&found.write("lab").expose().replace("none", "tls")), None);
        assert_eq!(Registration::account_of("lab.client.json"), Some("lab"));
        assert_eq!(Registration::account_of("client.keys.json"), None);
    }
}
