//! Amazon Cognito's dialect: JSON goes out to its API, which redeems refresh tokens alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::body::fields_of;
use super::ends::Ends;
use super::grant::{Client, EndpointKind, TokenRequest, Tokens, taken_already};
use super::members::Json;
use super::verdict::{Reader, Refusal, TokenFields};
use crate::renewal::{Failure, Why};
use crate::secret::Secret;

const AMAZON_JSON: &str = "application/x-amz-json-1.1";

/// The API's two operations that redeem a refresh token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    /// With the flow `REFRESH_TOKEN_AUTH`; never rotates, and is refused where rotation is on.
    InitiateAuth,
    /// Rotates, where rotation is on.
    GetTokensFromRefreshToken,
}

impl Operation {
    /// Whether its request has that parameter by itself.
    pub(super) fn sets_itself(self, name: &str) -> bool {
        match self {
            Operation::InitiateAuth => name == REFRESH_TOKEN,
            Operation::GetTokensFromRefreshToken => ["ClientId", "ClientSecret", "RefreshToken"].contains(&name),
        }
    }
}

const REFRESH_TOKEN: &str = "REFRESH_TOKEN";

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct InitiateAuth<'a> {
    client_id: &'a str,
    auth_flow: &'a str,
    auth_parameters: BTreeMap<&'a str, &'a str>,
}

/// Writes the request of an operation.
pub(super) fn request(
    operation: Operation,
    refresh_token: &Secret,
    client: &Client,
    parameters: &[(String, String)],
) -> Result<TokenRequest, String> {
    match operation {
        Operation::InitiateAuth => initiate_auth(refresh_token, client, parameters),
        Operation::GetTokensFromRefreshToken => get_tokens(refresh_token, client, parameters),
    }
}

fn initiate_auth(token: &Secret, client: &Client, parameters: &[(String, String)]) -> Result<TokenRequest, String> {
    if client.secret.is_some() {
        return Err("InitiateAuth wants a client with a secret to hash it with the user's name, which is not known \
                    here: use grant = \"cognito_get_tokens\" or \"refresh_token\""
            .to_owned());
    }
    let auth_parameters = members([(REFRESH_TOKEN, token.expose())], parameters)?;
    let body = InitiateAuth { client_id: cognito_id(client)?, auth_flow: "REFRESH_TOKEN_AUTH", auth_parameters };
    Ok(post("AWSCognitoIdentityProviderService.InitiateAuth", &body, token, client))
}

fn get_tokens(token: &Secret, client: &Client, parameters: &[(String, String)]) -> Result<TokenRequest, String> {
    let client_id = ("ClientId", cognito_id(client)?);
    let secret = client.secret.as_ref().map(|secret| ("ClientSecret", secret.expose()));
    let own = [client_id, ("RefreshToken", token.expose())].into_iter().chain(secret);
    let body = members(own, parameters)?;
    Ok(post("AWSCognitoIdentityProviderService.GetTokensFromRefreshToken", &body, token, client))
}

fn cognito_id(client: &Client) -> Result<&str, String> {
    client.id.as_deref().ok_or_else(|| "Cognito's API needs a client_id".to_owned())
}

fn members<'a>(
    own: impl IntoIterator<Item = (&'a str, &'a str)>,
    parameters: &'a [(String, String)],
) -> Result<BTreeMap<&'a str, &'a str>, String> {
    let mut members = BTreeMap::from_iter(own);
    for (name, value) in parameters {
        if members.insert(name, value).is_some() {
            return Err(taken_already(name));
        }
    }
    Ok(members)
}

fn post(target: &'static str, body: &impl Serialize, token: &Secret, client: &Client) -> TokenRequest {
    let mut json = Vec::with_capacity(2 * token.expose().len() + 4096); // room enough not to leave copies behind
    serde_json::to_writer(&mut json, body).expect("texts in maps and structs always have a JSON form");
    let body = Secret::new(String::from_utf8(json).expect("JSON is UTF-8"));
    let target = ("x-amz-target".to_owned(), Secret::new(target));
    let fields = fields_of(client).chain([target]).collect();
    TokenRequest { endpoint: EndpointKind::Cognito, content_type: AMAZON_JSON, fields, body }
}

/// Cognito's JSON API: `InitiateAuth`, `GetTokensFromRefreshToken` and their exceptions.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Response {
    authentication_result: Option<AuthenticationResult>,
    challenge_name: Value,
    #[serde(rename = "__type")]
    exception: Value,
    #[serde(rename = "message", alias = "Message")]
    message: Value,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct AuthenticationResult {
    access_token: Option<Secret>,
    id_token: Option<Secret>,
    refresh_token: Option<Secret>,
    token_type: Value,
    expires_in: Value,
}

/// Reads the response to an operation.
pub(super) fn read(operation: Operation, reader: &Reader<'_>) -> Result<Tokens, Refusal> {
    let Some(body) = reader.object(|body: Json<'_>| body.take::<Response>()) else { return Err(reader.no_verdict()) };
    let Response { authentication_result, challenge_name, exception, message } = body;
    if let Value::String(exception) = &exception {
        // "com.amazonaws.cognito...#NotAuthorizedException" as well as the bare name
        let name = exception.rsplit('#').next().unwrap_or(exception);
        return Err(judge(operation, reader, name, &message));
    }
    if let Value::String(challenge) = &challenge_name {
        let challenge = reader.code(challenge).unwrap_or_default();
        let words = format!(": it wants a further proof from a person {challenge}");
        return Err(reader.permanent(Why::Revoked, None, words.trim_end()));
    }
    let AuthenticationResult { access_token, id_token, refresh_token, token_type, expires_in } =
        authentication_result.unwrap_or_default();
    let ends = Ends { expires_in, ..Ends::default() };
    reader.tokens(TokenFields { access_token, id_token, refresh_token, token_type, ends })
}

/// One of Cognito's exceptions.
fn judge(operation: Operation, reader: &Reader<'_>, name: &str, message: &Value) -> Refusal {
    let says = |word: &str| message.as_str().is_some_and(|text| text.to_ascii_lowercase().contains(word));
    let initiated = operation == Operation::InitiateAuth;
    let why = match name {
        // The same name for three things. Where rotation is on, InitiateAuth is not for this client; where it is
        // off, GetTokensFromRefreshToken is not; and a client with a secret must show it.
        "NotAuthorizedException" if says("rotation") || (initiated && says("rotated")) || says("secret") => {
            Some(Why::ClientRefused)
        }
        "NotAuthorizedException" | "RefreshTokenReuseException" => Some(Why::Revoked),
        "UserNotFoundException" | "UserNotConfirmedException" | "PasswordResetRequiredException" => Some(Why::Revoked),
        "ResourceNotFoundException" => Some(Why::ClientRefused), // the user pool or its client does not exist
        "InvalidParameterException" if says("not enabled") || says("not supported") => Some(Why::ClientRefused),
        _ => None, // TooManyRequests, LimitExceeded, InternalError, a Lambda's troubles, ...
    };
    // rotation takes REFRESH_TOKEN_AUTH out of the flows that a client may use
    let wants_rotation = initiated
        && match name {
            "NotAuthorizedException" => says("rotation") || says("rotated"),
            "InvalidParameterException" => says("not enabled") || says("not supported"),
            _ => false,
        };
    // the account's own words come first; a user pool's Lambda says them in its message
    let message_word = message.as_str().map(str::trim);
    let own = [Some(name), message_word].into_iter().flatten().find_map(|word| reader.vocabulary.errors.meaning(word));
    let meaning = own.unwrap_or_else(|| why.map(Failure::Permanent));
    let known = meaning.is_some().then(|| name.to_owned());
    let refusal = reader.refusal(meaning, known.or_else(|| reader.code(name)), &reader.quote(message, &[]));
    Refusal { wants_rotation, ..refusal }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::super::testing::{
        CLIENT_REFUSED, REVOKED, TRANSIENT, client, pairs, public, read, refresh_token, words,
    };
    use super::super::{ClientAuth, Dialect, Grant};
    use super::{AMAZON_JSON, EndpointKind, Refusal, Secret, Tokens};

    fn get_tokens(status: u16, body: &str) -> Result<Tokens, Refusal> {
        read(Dialect::CognitoGetTokens, &Grant::RefreshToken(refresh_token()), status, body)
    }

    fn initiate_auth(status: u16, body: &str) -> Result<Tokens, Refusal> {
        read(Dialect::CognitoInitiateAuth, &Grant::RefreshToken(refresh_token()), status, body)
    }

    #[test]
    fn cognitos_two_ways_are_json_with_a_target() {
        let token = Secret::new("r\"1");
        let device = pairs(&[("DEVICE_KEY", "d")]);
        let grant = Grant::RefreshToken(token);
        let request = Dialect::CognitoInitiateAuth.request(&grant, &public(), &words(&["openid"]), &device).unwrap();
        assert_eq!(
            request.body.expose(),
            r#"{"ClientId":"valetd","AuthFlow":"REFRESH_TOKEN_AUTH","AuthParameters":{"DEVICE_KEY":"d","REFRESH_TOKEN":"r\"1"}}"#
        );
        assert_eq!((request.endpoint, request.content_type), (EndpointKind::Cognito, AMAZON_JSON));
        assert_eq!(request.fields[0].0, "x-amz-target");
        assert_eq!(request.fields[0].1.expose(), "AWSCognitoIdentityProviderService.InitiateAuth");

        let confidential = client(Some("valetd"), ClientAuth::Post, Some("s"));
        let request = Dialect::CognitoGetTokens.request(&grant, &confidential, &[], &[]).unwrap();
        assert_eq!(request.body.expose(), r#"{"ClientId":"valetd","ClientSecret":"s","RefreshToken":"r\"1"}"#);
        assert!(request.fields[0].1.expose().ends_with(".GetTokensFromRefreshToken"));
    }

    #[test]
    fn cognitos_answers_are_read_in_its_own_dialect() {
        let body = json!({"ChallengeParameters": {}, "AuthenticationResult": {
            "AccessToken": "a", "IdToken": "i", "RefreshToken": "r", "ExpiresIn": 3600, "TokenType": "Bearer",
            "NewDeviceMetadata": {"DeviceKey": "d"}}});
        let tokens = get_tokens(200, &body.to_string()).unwrap();
        let texts = [&tokens.access_token, &tokens.id_token, &tokens.refresh_token];
        assert_eq!(texts.map(|token| token.as_ref().unwrap().expose()), ["a", "i", "r"]);
        assert_eq!(tokens.lifetime, Some(Duration::from_secs(3600)));

        let exception = |name: &str, message: &str| json!({"__type": name, "message": message}).to_string();
        let invalid = exception("NotAuthorizedException", "Invalid Refresh Token");
        let namespaced = exception("com.amazonaws.x#NotAuthorizedException", "Refresh Token has been revoked");
        let rotated = exception("NotAuthorizedException", "Refresh token has been rotated");
        let rotation = exception("NotAuthorizedException", "Refresh token rotation is not enabled for this client");
        let hash =
            exception("NotAuthorizedException", "Client x is configured with secret but SECRET_HASH was not received");
        let table = [
            ("refused", get_tokens(400, &invalid), REVOKED, "NotAuthorizedException"),
            ("with a namespace", initiate_auth(400, &namespaced), REVOKED, "NotAuthorizedException"),
            ("spent", get_tokens(400, &rotated), REVOKED, "NotAuthorizedException"),
            ("InitiateAuth with rotation on", initiate_auth(400, &rotated), CLIENT_REFUSED, "NotAuthorizedException"),
            ("GetTokens with rotation off", get_tokens(400, &rotation), CLIENT_REFUSED, "NotAuthorizedException"),
            ("a secret is wanted", initiate_auth(400, &hash), CLIENT_REFUSED, "NotAuthorizedException"),
            (
                "reused",
                get_tokens(400, &exception("RefreshTokenReuseException", "")),
                REVOKED,
                "RefreshTokenReuseException",
            ),
            (
                "no such client",
                get_tokens(400, &exception("ResourceNotFoundException", "User pool client x does not exist.")),
                CLIENT_REFUSED,
                "ResourceNotFoundException",
            ),
            (
                "flow switched off",
                initiate_auth(400, &exception("InvalidParameterException", "USER flow not enabled for this client")),
                CLIENT_REFUSED,
                "InvalidParameterException",
            ),
            (
                "an odd parameter",
                initiate_auth(400, &exception("InvalidParameterException", "1 validation error")),
                TRANSIENT,
                "InvalidParameterException",
            ),
            (
                "password to be reset",
                initiate_auth(400, &exception("PasswordResetRequiredException", "")),
                REVOKED,
                "PasswordResetRequiredException",
            ),
            (
                "too many",
                get_tokens(400, &exception("TooManyRequestsException", "Rate exceeded")),
                TRANSIENT,
                "TooManyRequestsException",
            ),
            (
                "server in trouble",
                get_tokens(500, &exception("InternalErrorException", "")),
                TRANSIENT,
                "InternalErrorException",
            ),
        ];
        for (name, answer, failure, code) in table {
            let refusal = answer.expect_err(name);
            assert_eq!((refusal.failure, refusal.oauth_error.as_deref()), (failure, Some(code)), "{name}");
            let wants_rotation = ["InitiateAuth with rotation on", "flow switched off"].contains(&name);
            assert_eq!(refusal.wants_rotation, wants_rotation, "{name}");
        }
        let refusal = initiate_auth(200, r#"{"ChallengeName":"SMS_MFA","Session":"s"}"#).unwrap_err();
        assert_eq!(refusal.failure, REVOKED);
        assert_eq!(refusal.detail, "answered 200: it wants a further proof from a person SMS_MFA");
        assert_eq!(initiate_auth(200, "{}").unwrap_err().failure, TRANSIENT);
        assert_eq!(initiate_auth(400, r#"{"message":"Limit Exceeded"}"#).unwrap_err().failure, TRANSIENT);
    }
}
