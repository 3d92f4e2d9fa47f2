//! The revocation of a token (RFC 7009), and the forms of it that some servers have instead.

use std::time::SystemTime;

use super::body::{encode, renamed};
use super::grant::{BodyFormat, Client, ClientAuth, EndpointKind, Grant, TokenRequest};
use super::rfc6749::{Response, authenticate, challenged, oauth_error};
use super::verdict::{Reader, Refusal, TokenResponse};
use super::vocabulary::Vocabulary;
use crate::secret::Secret;

/// How a server takes revocations; by default as RFC 7009 has it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct RevocationForm {
    /// Whether it is a DELETE, not a POST.
    pub is_delete: bool,
    /// Which token it takes.
    pub takes: Revoked,
    /// The token's name, where it is not `token`; then nothing says of which kind it is.
    pub name: Option<String>,
    /// How the body is encoded, where that is not as in token requests.
    pub format: Option<BodyFormat>,
    /// How the client shows itself, where that is not as in token requests.
    pub client: Option<ShownClient>,
}

/// Which token is presented to be revoked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Revoked {
    /// With it goes whatever was issued from it (RFC 7009 section 2.1).
    #[default]
    RefreshToken,
    /// The one at hand.
    AccessToken,
}

/// Why nothing is revoked where there is no access token: the end of a sentence.
pub(crate) const WANTS_ACCESS_TOKEN: &str =
    "it takes an access token for that, and none is at hand; the provider's own settings end the sign-in there";

/// How a client shows itself to be allowed to revoke.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ShownClient {
    /// Not at all: whoever has the token may.
    Absent,
    /// In this way.
    By(ClientAuth),
}

/// Writes the request that revokes a token, and what was issued from it (RFC 7009 section 2.1).
///
/// # Errors
///
/// A sentence for people, where the client as configured cannot make this request.
pub(crate) fn request(token: &Secret, client: &Client, form: &RevocationForm) -> Result<TokenRequest, String> {
    let RevocationForm { is_delete: _, takes, name, format, client: shown } = form;
    let mut client = client.clone();
    client.form.format = format.unwrap_or(client.form.format);
    match shown {
        None => {}
        Some(ShownClient::Absent) => (client.id, client.auth) = (None, ClientAuth::None),
        Some(ShownClient::By(auth)) => client.auth = *auth,
    }
    let hint = match takes {
        Revoked::RefreshToken => "refresh_token",
        Revoked::AccessToken => "access_token",
    };
    let mut pairs = vec![(name.as_deref().unwrap_or("token"), token.expose())];
    pairs.extend(name.is_none().then_some(("token_type_hint", hint)));
    let fields = authenticate(&client, &mut pairs)?;
    let (content_type, body) = encode(&renamed(pairs, &client), &client);
    Ok(TokenRequest { endpoint: EndpointKind::Revocation, content_type, fields, body })
}

/// Reads the response to a request that revokes `token` (RFC 7009 section 2.2): a 2xx means that it is dead, also if it was
/// before; but not one that names an error, as some servers answer. Others say `invalid_token` of one that was dead before.
///
/// # Errors
///
/// A [`Refusal`], as of a token request.
pub(crate) fn read(
    response: &TokenResponse<'_>,
    token: &Secret,
    client: &Client,
    now: SystemTime,
) -> Result<(), Refusal> {
    let grant = &Grant::RefreshToken(token.clone());
    let vocabulary = Vocabulary::default();
    let reader = Reader::new(response, grant, client, &vocabulary, now);
    if (200..300).contains(&response.status) {
        let found = Response::read(&reader).and_then(|found| oauth_error(&reader, &found, &[]));
        return found.map_or(Ok(()), Err);
    }
    let refusal = Response::read(&reader).and_then(|found| oauth_error(&reader, &found, &[]));
    match refusal {
        Some(refusal) if refusal.oauth_error.as_deref() == Some("invalid_token") => Ok(()),
        Some(refusal) => Err(refusal),
        // an `invalid_token` there is as well a gateway's, which has revoked nothing
        None => Err(challenged(&reader)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::{CLIENT_REFUSED, now, public, refresh_token};
    use super::*;
    use crate::renewal::Failure;

    #[test]
    fn a_revocation_names_the_refresh_token_and_the_client() {
        let request = request(&Secret::new("r/1"), &public(), &RevocationForm::default()).unwrap();
        assert_eq!(request.endpoint, EndpointKind::Revocation);
        assert_eq!(request.body.expose(), "token=r%2F1&token_type_hint=refresh_token&client_id=valetd");
    }

    #[test]
    fn other_forms_of_a_revocation_are_googles_and_githubs() {
        let client = Client { secret: Some(Secret::new("s")), ..public() };
        let google = RevocationForm { client: Some(ShownClient::Absent), ..RevocationForm::default() };
        let found = request(&Secret::new("r"), &client, &google).unwrap();
        assert_eq!((found.body.expose(), found.fields.len()), ("token=r&token_type_hint=refresh_token", 0));
        let github = RevocationForm {
            is_delete: true,
            takes: Revoked::AccessToken,
            name: Some("access_token".to_owned()),
            format: Some(BodyFormat::Json),
            client: Some(ShownClient::By(ClientAuth::Basic)),
        };
        let found = request(&Secret::new("a"), &client, &github).unwrap();
        assert_eq!((found.content_type, found.body.expose()), ("application/json", r#"{"access_token":"a"}"#));
        let shown: Vec<_> = found.fields.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(shown, [("authorization", "Basic dmFsZXRkOnM=")]);
        let without = request(&Secret::new("a"), &public(), &github).unwrap_err();
        assert!(without.contains("needs a client_secret"), "{without}");
    }

    #[test]
    fn a_revocation_is_done_with_any_2xx_and_refused_by_code() {
        let read = |status, body: &'static str| {
            let response =
                TokenResponse { status, body: body.as_bytes(), retry_after: Some("7"), ..TokenResponse::default() };
            super::read(&response, &refresh_token(), &Client::default(), now())
        };
        assert_eq!(read(200, ""), Ok(()));
        let later = read(503, "").unwrap_err();
        assert_eq!(later.failure, Failure::Transient { retry_after: Some(Duration::from_secs(7)) });
        assert_eq!(read(400, r#"{"error":"invalid_token"}"#), Ok(()), "Google's word for what is dead already");
        let refused = read(400, r#"{"error":"unsupported_token_type"}"#).unwrap_err();
        assert_eq!(refused.oauth_error.as_deref(), Some("unsupported_token_type"));
        assert_eq!(read(401, r#"{"error":"invalid_client"}"#).unwrap_err().failure, CLIENT_REFUSED);
        for body in
            [r#"{"error":"server_error"}"#, r#"{"ok":false,"error":"invalid_auth"}"#, r#"{"error":"invalid_client"}"#]
        {
            assert!(read(200, body).is_err(), "a success that names an error is none: {body}");
        }
        for body in ["", "{}", "OK", r#"{"ok":true}"#, r#"{"error":null}"#] {
            assert!(read(200, body).is_ok(), "{body}");
        }
    }
}
