//! Pushed authorization requests (RFC 9126): the parameters go to the server first, and the browser's address says only
//! which they are.

use std::time::SystemTime;

use serde::Deserialize;
use serde_json::Value;

use super::body::{encode, renamed};
use super::grant::{Client, EndpointKind, Grant, TokenRequest};
use super::members::Json;
use super::rfc6749::{Response, authenticate, oauth_error};
use super::verdict::{Reader, Refusal, TokenResponse};
use super::vocabulary::Vocabulary;

/// Longer ones are no names of requests.
const LONGEST: usize = 2048;

/// Writes the request (section 2.1): the parameters of the authorization request, with the client's authentication.
///
/// # Errors
///
/// A sentence for people, where the client as configured cannot make this request.
pub(crate) fn request(parameters: &[(&str, String)], client: &Client) -> Result<TokenRequest, String> {
    let parameters = parameters.iter().filter(|(name, _)| *name != "client_id");
    let mut pairs: Vec<(&str, &str)> = parameters.map(|(name, value)| (*name, value.as_str())).collect();
    let fields = authenticate(client, &mut pairs)?;
    let (content_type, body) = encode(&renamed(pairs, client), client);
    Ok(TokenRequest { endpoint: EndpointKind::PushedAuthorization, content_type, fields, body })
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Body {
    request_uri: Value,
}

/// Reads the response (section 2.2): the name of the request.
///
/// # Errors
///
/// A [`Refusal`], as of a token request.
pub(crate) fn read(
    response: &TokenResponse<'_>,
    client: &Client,
    vocabulary: &Vocabulary,
    now: SystemTime,
) -> Result<String, Refusal> {
    let grant = &Grant::ClientCredentials;
    let reader = Reader::new(response, grant, client, vocabulary, now);
    if let Some(refusal) = Response::read(&reader).and_then(|found| oauth_error(&reader, &found, &[])) {
        return Err(refusal);
    }
    let body = reader.object(|body: Json<'_>| body.take::<Body>()).filter(|_| reader.is_success());
    let Some(Body { request_uri }) = body else { return Err(reader.no_verdict()) };
    let is_clean =
        |text: &&str| (1..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    match request_uri.as_str().filter(is_clean) {
        Some(request_uri) => Ok(request_uri.to_owned()),
        None => Err(reader.transient(None, "without a request_uri")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::grant::ClientAuth;
    use super::super::testing::{CLIENT_REFUSED, TRANSIENT, client, now, public};
    use super::*;

    #[test]
    fn a_push_says_the_whole_request_and_who_asks_once() {
        let parameters = [("client_id", "valetd".to_owned()), ("scope", "a b".to_owned()), ("state", "s".to_owned())];
        let pushed = request(&parameters, &public()).unwrap();
        assert_eq!(pushed.body.expose(), "scope=a+b&state=s&client_id=valetd");
        assert_eq!(pushed.endpoint, EndpointKind::PushedAuthorization);
        let basic = client(Some("valetd"), ClientAuth::Basic, Some("secret"));
        let pushed = request(&parameters, &basic).unwrap();
        assert_eq!(pushed.body.expose(), "scope=a+b&state=s");
        assert_eq!(pushed.fields[0].0, "authorization");
    }

    #[test]
    fn what_comes_back_names_the_request_or_refuses_it() {
        let answer = |status, body: &str| {
            let response = TokenResponse { status, body: body.as_bytes(), ..TokenResponse::default() };
            read(&response, &public(), &Vocabulary::default(), now())
        };
        let uri = "urn:ietf:params:oauth:request_uri:6esc_11ACC5bwc014ltc14eY22c";
        assert_eq!(answer(201, &format!("{{\"request_uri\":\"{uri}\",\"expires_in\":60}}")).as_deref(), Ok(uri));
        assert_eq!(answer(200, &format!("{{\"request_uri\":\"{uri}\"}}")).as_deref(), Ok(uri), "not 201");
        let rows = [
            (400, r#"{"error":"invalid_request"}"#, TRANSIENT, Some("invalid_request")),
            (401, r#"{"error":"invalid_client"}"#, CLIENT_REFUSED, Some("invalid_client")),
            (201, r#"{"expires_in":60}"#, TRANSIENT, None),
            (201, "{\"request_uri\":\"a b\"}", TRANSIENT, None),
            (200, "<html>", TRANSIENT, None),
        ];
        for (status, body, failure, code) in rows {
            let refusal = answer(status, body).unwrap_err();
            assert_eq!((refusal.failure, refusal.oauth_error.as_deref()), (failure, code), "{status} {body}");
        }
    }
}
