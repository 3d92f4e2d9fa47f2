//! The revocation of a refresh token (RFC 7009).

use std::time::SystemTime;

use super::body::{encode, renamed};
use super::grant::{Client, EndpointKind, Grant, TokenRequest};
use super::rfc6749::{Response, authenticate, oauth_error};
use super::verdict::{Reader, Refusal, TokenResponse};
use super::vocabulary::Vocabulary;
use crate::secret::Secret;

/// Writes the request that revokes a refresh token and what was issued from it (RFC 7009 section 2.1).
///
/// # Errors
///
/// A sentence for people, where the client as configured cannot make this request.
pub(crate) fn request(refresh_token: &Secret, client: &Client) -> Result<TokenRequest, String> {
    let mut pairs = vec![("token", refresh_token.expose()), ("token_type_hint", "refresh_token")];
    let fields = authenticate(client, &mut pairs)?;
    let (content_type, body) = encode(&renamed(pairs, client), client);
    Ok(TokenRequest { endpoint: EndpointKind::Revocation, content_type, fields, body })
}

/// Reads the response to a request that revokes `refresh_token` (RFC 7009 section 2.2): a 2xx means that it is dead, also if
/// it was before; but not one that names an error, as some servers answer.
///
/// # Errors
///
/// A [`Refusal`], as of a token request.
pub(crate) fn read(
    response: &TokenResponse<'_>,
    refresh_token: &Secret,
    client: &Client,
    now: SystemTime,
) -> Result<(), Refusal> {
    let grant = &Grant::RefreshToken(refresh_token.clone());
    let vocabulary = Vocabulary::default();
    let reader = Reader::new(response, grant, client, &vocabulary, now);
    if (200..300).contains(&response.status) {
        let found = Response::read(&reader).and_then(|found| oauth_error(&reader, &found, &[]));
        return found.map_or(Ok(()), Err);
    }
    Err(match Response::read(&reader) {
        Some(found) => oauth_error(&reader, &found, &[]).unwrap_or_else(|| reader.no_verdict()),
        None => reader.no_verdict(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::{CLIENT_REFUSED, now, public, refresh_token};
    use super::*;
    use crate::renewal::Failure;

    #[test]
    fn a_revocation_names_the_refresh_token_and_the_client() {
        let request = request(&Secret::new("r/1"), &public()).unwrap();
        assert_eq!(request.endpoint, EndpointKind::Revocation);
        assert_eq!(request.body.expose(), "token=r%2F1&token_type_hint=refresh_token&client_id=valetd");
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
