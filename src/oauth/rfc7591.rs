//! Registering a client (RFC 7591), and what is kept of it.
//!
//! The client is native and public: no secret, a redirect to loopback. What a server gives all the same is kept and used as it
//! says, as the refresh token is good with this client alone.

use serde::Deserialize;
use serde_json::{Value, json};

use super::grant::ClientAuth;
use super::metadata::{LONGEST, quoted};
use crate::secret::Secret;

/// A client that was registered for one account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Registration {
    /// Where: the issuer, or the registration endpoint of a server without one.
    pub registered_at: String,
    /// The client's id.
    pub client_id: String,
    /// How it proves who it is.
    pub client_auth: ClientAuth,
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
    Ok(Registration {
        registered_at: registered_at.to_owned(),
        client_id: answer.client_id,
        client_auth,
        client_secret,
        management: answer.registration_client_uri.zip(answer.registration_access_token),
    })
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

    /// The file; it may hold secrets.
    pub(crate) fn write(&self) -> Secret {
        let Self { registered_at, client_id, client_auth, client_secret, management } = self;
        let auth = match client_auth {
            ClientAuth::Post => "post",
            ClientAuth::Basic | ClientAuth::BasicRaw => "basic",
            ClientAuth::None => "none",
        };
        let (uri, token) = management.as_ref().map(|(uri, token)| (uri, token.expose())).unzip();
        let text = json!({
            "registered_at": registered_at, "client_id": client_id, "client_auth": auth,
            "client_secret": client_secret.as_ref().map(Secret::expose),
            "registration_client_uri": uri, "registration_access_token": token,
        });
        Secret::new(text.to_string())
    }

    /// Reads the file; `None` if it is none that we have written: then a client is registered anew.
    pub(crate) fn read_file(bytes: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct File {
            registered_at: String,
            client_id: String,
            client_auth: String,
            client_secret: Option<Secret>,
            registration_client_uri: Option<String>,
            registration_access_token: Option<Secret>,
        }
        let file: File = serde_json::from_slice(bytes).ok()?;
        let client_auth = match file.client_auth.as_str() {
            "none" => ClientAuth::None,
            "post" => ClientAuth::Post,
            "basic" => ClientAuth::Basic,
            _ => return None,
        };
        Some(Self {
            registered_at: file.registered_at,
            client_id: file.client_id,
            client_auth,
            client_secret: file.client_secret,
            management: file.registration_client_uri.zip(file.registration_access_token),
        })
    }
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
                    assert_eq!((found.client_auth, found.client_secret.is_some()), (auth, has_secret), "{body}");
                    assert_eq!(Registration::read_file(found.write().expose().as_bytes()), Some(found), "{body}");
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
        assert_eq!(Registration::read_file(b"{}"), None);
        assert_eq!(Registration::account_of("lab.client.json"), Some("lab"));
        assert_eq!(Registration::account_of("client.keys.json"), None);
    }
}
