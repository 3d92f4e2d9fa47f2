//! The request for each grant: a form (RFC 6749) or JSON (Amazon Cognito's API), and the request that revokes a
//! refresh token (RFC 7009). Decides what is sent; `token_endpoint` sends it.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use form_urlencoded::{Serializer, byte_serialize};
use serde::Serialize;

use super::{Client, ClientAuth};
use crate::secret::Secret;

/// What is presented to the authorization server in exchange for tokens.
#[derive(Clone, Copy, Debug)]
pub enum GrantRequest<'a> {
    /// RFC 6749 section 6.
    RefreshToken {
        /// Spent by this, where the server rotates.
        refresh_token: &'a Secret,
    },
    /// RFC 6749 section 4.3.
    Password {
        /// As the person typed it.
        username: &'a str,
        /// As the person typed it.
        password: &'a Secret,
    },
    /// RFC 6749 section 4.4.
    ClientCredentials,
    /// RFC 6749 section 4.1.3.
    AuthorizationCode {
        /// Good once.
        code: &'a Secret,
        /// The same one as in the authorization request, if there was one in it.
        redirect_uri: Option<&'a str>,
    },
    /// Cognito's `InitiateAuth` with the flow `REFRESH_TOKEN_AUTH`; refused where rotation is on.
    CognitoInitiateAuth {
        /// Never rotated by this.
        refresh_token: &'a Secret,
    },
    /// Cognito's `GetTokensFromRefreshToken`.
    CognitoGetTokens {
        /// Spent by this, where rotation is on.
        refresh_token: &'a Secret,
    },
}

/// A POST request, but for the address.
#[derive(Debug)]
pub struct TokenRequest {
    /// Where it goes.
    pub endpoint: EndpointKind,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Further header fields: names in lower case, values that may be secret.
    pub fields: Vec<(&'static str, Secret)>,
    /// The body.
    pub body: Secret,
}

/// Which of an account's endpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndpointKind {
    /// RFC 6749 section 3.2.
    Token,
    /// Cognito's JSON API.
    Cognito,
    /// RFC 7009.
    Revocation,
}

const FORM: &str = "application/x-www-form-urlencoded";
const AMAZON_JSON: &str = "application/x-amz-json-1.1";

impl<'a> GrantRequest<'a> {
    /// Whether a server that carries this out may thereby have made the presented refresh token worthless, so that a
    /// lost answer leaves us not knowing.
    pub fn spends_refresh_token(&self) -> bool {
        match self {
            GrantRequest::RefreshToken { .. } | GrantRequest::CognitoGetTokens { .. } => true,
            GrantRequest::CognitoInitiateAuth { .. } => false,
            GrantRequest::Password { .. } | GrantRequest::ClientCredentials => false,
            GrantRequest::AuthorizationCode { .. } => false,
        }
    }

    /// The secret that is presented, if there is one besides the client's own.
    pub fn secret(&self) -> Option<&'a Secret> {
        match *self {
            GrantRequest::RefreshToken { refresh_token }
            | GrantRequest::CognitoInitiateAuth { refresh_token }
            | GrantRequest::CognitoGetTokens { refresh_token } => Some(refresh_token),
            GrantRequest::Password { password, .. } => Some(password),
            GrantRequest::AuthorizationCode { code, .. } => Some(code),
            GrantRequest::ClientCredentials => None,
        }
    }

    /// Writes the request. `scopes` are asked for where the grant has a scope of its own: with a refresh token (RFC
    /// 6749 section 6) and a code they were settled when the person consented. `parameters` go into every form, into
    /// `AuthParameters` of `InitiateAuth`, and to the top of `GetTokensFromRefreshToken`.
    ///
    /// # Errors
    ///
    /// A sentence for people, where the client as configured cannot make this request.
    pub fn request(
        &self,
        client: &Client,
        scopes: &[String],
        parameters: &[(String, String)],
    ) -> Result<TokenRequest, String> {
        let scope = scopes.join(" ");
        let mut pairs = Vec::new();
        match *self {
            GrantRequest::RefreshToken { refresh_token } => {
                pairs.extend([("grant_type", "refresh_token"), ("refresh_token", refresh_token.expose())]);
            }
            GrantRequest::Password { username, password } => {
                let password = password.expose();
                pairs.extend([("grant_type", "password"), ("username", username), ("password", password)]);
                pairs.extend((!scope.is_empty()).then_some(("scope", scope.as_str())));
            }
            GrantRequest::ClientCredentials => {
                pairs.push(("grant_type", "client_credentials"));
                pairs.extend((!scope.is_empty()).then_some(("scope", scope.as_str())));
            }
            GrantRequest::AuthorizationCode { code, redirect_uri } => {
                pairs.extend([("grant_type", "authorization_code"), ("code", code.expose())]);
                pairs.extend(redirect_uri.map(|uri| ("redirect_uri", uri)));
            }
            GrantRequest::CognitoInitiateAuth { refresh_token } => {
                return initiate_auth(refresh_token, client, parameters);
            }
            GrantRequest::CognitoGetTokens { refresh_token } => {
                return get_tokens(refresh_token, client, parameters);
            }
        }
        let fields = authenticate(client, &mut pairs)?;
        for (name, value) in parameters {
            // RFC 6749 section 3.2: parameters MUST NOT be included more than once
            if pairs.iter().any(|(taken, _)| taken == name) {
                return Err(taken_already(name));
            }
            pairs.push((name, value));
        }
        Ok(TokenRequest { endpoint: EndpointKind::Token, content_type: FORM, fields, body: form(&pairs) })
    }
}

/// Writes the request that revokes a refresh token and what was issued from it (RFC 7009 section 2.1).
///
/// # Errors
///
/// A sentence for people, where the client as configured cannot make this request.
pub fn revocation(refresh_token: &Secret, client: &Client) -> Result<TokenRequest, String> {
    let mut pairs = vec![("token", refresh_token.expose()), ("token_type_hint", "refresh_token")];
    let fields = authenticate(client, &mut pairs)?;
    Ok(TokenRequest { endpoint: EndpointKind::Revocation, content_type: FORM, fields, body: form(&pairs) })
}

/// Says who asks, in the body or in the header fields it returns: one of the two, never both (RFC 6749 section 2.3).
fn authenticate<'a>(
    client: &'a Client,
    pairs: &mut Vec<(&'a str, &'a str)>,
) -> Result<Vec<(&'static str, Secret)>, String> {
    let Client { id, auth, secret } = client;
    let both = || match (id, secret) {
        (Some(id), Some(secret)) => Ok((id, secret)),
        (None, _) => Err("client_auth needs a client_id".to_owned()),
        (_, None) => Err("client_auth needs a client_secret".to_owned()),
    };
    match auth {
        ClientAuth::None => {
            pairs.extend(id.as_deref().map(|id| ("client_id", id)));
            Ok(Vec::new())
        }
        ClientAuth::Post => {
            let (id, secret) = both()?;
            pairs.extend([("client_id", id.as_str()), ("client_secret", secret.expose())]);
            Ok(Vec::new())
        }
        ClientAuth::Basic => {
            let (id, secret) = both()?;
            // RFC 6749 section 2.3.1: each is form-urlencoded first, so that a colon in the id does no harm
            let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
            let pair = Secret::new(format!("{}:{}", encoded(id), encoded(secret.expose())));
            let value = Secret::new(format!("Basic {}", BASE64_STANDARD.encode(pair.expose())));
            Ok(vec![("authorization", value)])
        }
    }
}

fn form(pairs: &[(&str, &str)]) -> Secret {
    // Three bytes for each at the worst: the text never grows, so that no copy of a secret stays in freed memory.
    let room = pairs.iter().map(|(name, value)| 3 * (name.len() + value.len()) + 2).sum();
    Secret::new(Serializer::new(String::with_capacity(room)).extend_pairs(pairs).finish())
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct InitiateAuth<'a> {
    client_id: &'a str,
    auth_flow: &'a str,
    auth_parameters: BTreeMap<&'a str, &'a str>,
}

fn initiate_auth(token: &Secret, client: &Client, parameters: &[(String, String)]) -> Result<TokenRequest, String> {
    if client.secret.is_some() {
        return Err("InitiateAuth wants a client with a secret to hash it with the user's name, which is not known \
                    here: use grant = \"cognito_get_tokens\" or \"refresh_token\""
            .to_owned());
    }
    let auth_parameters = members([("REFRESH_TOKEN", token.expose())], parameters)?;
    let body = InitiateAuth { client_id: cognito_id(client)?, auth_flow: "REFRESH_TOKEN_AUTH", auth_parameters };
    Ok(cognito("AWSCognitoIdentityProviderService.InitiateAuth", &body, token))
}

fn get_tokens(token: &Secret, client: &Client, parameters: &[(String, String)]) -> Result<TokenRequest, String> {
    let client_id = ("ClientId", cognito_id(client)?);
    let secret = client.secret.as_ref().map(|secret| ("ClientSecret", secret.expose()));
    let own = [client_id, ("RefreshToken", token.expose())].into_iter().chain(secret);
    let body = members(own, parameters)?;
    Ok(cognito("AWSCognitoIdentityProviderService.GetTokensFromRefreshToken", &body, token))
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

fn taken_already(name: &str) -> String {
    format!("parameters.{name}: the grant itself sets {name}; take it out")
}

fn cognito(target: &'static str, body: &impl Serialize, token: &Secret) -> TokenRequest {
    let mut json = Vec::with_capacity(2 * token.expose().len() + 4096); // room enough not to leave copies behind
    serde_json::to_writer(&mut json, body).expect("texts in maps and structs always have a JSON form");
    let body = Secret::new(String::from_utf8(json).expect("JSON is UTF-8"));
    let fields = vec![("x-amz-target", Secret::new(target))];
    TokenRequest { endpoint: EndpointKind::Cognito, content_type: AMAZON_JSON, fields, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(id: Option<&str>, auth: ClientAuth, secret: Option<&str>) -> Client {
        Client { id: id.map(str::to_owned), auth, secret: secret.map(Secret::new) }
    }

    fn public() -> Client {
        client(Some("valetd"), ClientAuth::None, None)
    }

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|&word| word.to_owned()).collect()
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn every_form_grant_says_what_its_rfc_section_wants_and_no_more() {
        let token = Secret::new("r+/=1&x");
        let password = Secret::new("p w%ö");
        let code = Secret::new("c-1");
        let refresh = GrantRequest::RefreshToken { refresh_token: &token };
        let with_uri = GrantRequest::AuthorizationCode { code: &code, redirect_uri: Some("https://x.example/v?a=b") };
        let scopes = words(&["read", "a:b"]);
        let audience = pairs(&[("audience", "https://api.example/")]);
        let gbdx = client(None, ClientAuth::None, None);
        let post = client(Some("me"), ClientAuth::Post, Some("s&s"));
        let table = [
            (
                "a public client's id goes into the body, and a refresh asks for no scope",
                refresh.request(&public(), &scopes, &[]),
                "grant_type=refresh_token&refresh_token=r%2B%2F%3D1%26x&client_id=valetd",
            ),
            (
                "GBDX knows no client at all",
                GrantRequest::Password { username: "me@x.example", password: &password }.request(&gbdx, &[], &[]),
                "grant_type=password&username=me%40x.example&password=p+w%25%C3%B6",
            ),
            (
                "client_secret_post, scope and audience",
                GrantRequest::ClientCredentials.request(&post, &scopes, &audience),
                "grant_type=client_credentials&scope=read+a%3Ab&client_id=me&client_secret=s%26s\
                 &audience=https%3A%2F%2Fapi.example%2F",
            ),
            (
                "a code with its redirect URI and without a scope",
                with_uri.request(&public(), &scopes, &[]),
                "grant_type=authorization_code&code=c-1&redirect_uri=https%3A%2F%2Fx.example%2Fv%3Fa%3Db\
                 &client_id=valetd",
            ),
            (
                "a code without one",
                GrantRequest::AuthorizationCode { code: &code, redirect_uri: None }.request(&public(), &[], &[]),
                "grant_type=authorization_code&code=c-1&client_id=valetd",
            ),
        ];
        for (name, request, body) in table {
            let request = request.expect(name);
            assert_eq!(request.body.expose(), body, "{name}");
            assert_eq!((request.endpoint, request.content_type), (EndpointKind::Token, FORM), "{name}");
            assert!(request.fields.is_empty(), "{name}");
        }
    }

    #[test]
    fn basic_encodes_id_and_secret_before_joining_them_and_keeps_both_out_of_the_body() {
        let client = client(Some("my:id"), ClientAuth::Basic, Some("s e/c"));
        let request = GrantRequest::ClientCredentials.request(&client, &[], &[]).unwrap();
        let [("authorization", value)] = &request.fields[..] else { panic!("{:?}", request.fields) };
        let encoded = value.expose().strip_prefix("Basic ").unwrap();
        assert_eq!(BASE64_STANDARD.decode(encoded).unwrap(), b"my%3Aid:s+e%2Fc");
        assert_eq!(request.body.expose(), "grant_type=client_credentials");
        assert!(!format!("{request:?}").contains(encoded));
    }

    #[test]
    fn cognitos_two_ways_are_json_with_a_target() {
        let token = Secret::new("r\"1");
        let device = pairs(&[("DEVICE_KEY", "d")]);
        let request = GrantRequest::CognitoInitiateAuth { refresh_token: &token };
        let request = request.request(&public(), &words(&["openid"]), &device).unwrap();
        assert_eq!(
            request.body.expose(),
            r#"{"ClientId":"valetd","AuthFlow":"REFRESH_TOKEN_AUTH","AuthParameters":{"DEVICE_KEY":"d","REFRESH_TOKEN":"r\"1"}}"#
        );
        assert_eq!((request.endpoint, request.content_type), (EndpointKind::Cognito, AMAZON_JSON));
        assert_eq!(request.fields[0].0, "x-amz-target");
        assert_eq!(request.fields[0].1.expose(), "AWSCognitoIdentityProviderService.InitiateAuth");

        let request = GrantRequest::CognitoGetTokens { refresh_token: &token };
        let confidential = client(Some("valetd"), ClientAuth::Post, Some("s"));
        let request = request.request(&confidential, &[], &[]).unwrap();
        assert_eq!(request.body.expose(), r#"{"ClientId":"valetd","ClientSecret":"s","RefreshToken":"r\"1"}"#);
        assert!(request.fields[0].1.expose().ends_with(".GetTokensFromRefreshToken"));
    }

    #[test]
    fn what_cannot_be_asked_is_refused_in_words() {
        let token = Secret::new("r");
        let refresh = GrantRequest::RefreshToken { refresh_token: &token };
        let initiate = GrantRequest::CognitoInitiateAuth { refresh_token: &token };
        let no_id = client(None, ClientAuth::None, None);
        let no_secret = client(Some("me"), ClientAuth::Post, None);
        let nobody = client(None, ClientAuth::Basic, Some("s"));
        let confidential = client(Some("me"), ClientAuth::Post, Some("s"));
        let twice = pairs(&[("grant_type", "password")]);
        let table = [
            ("post without a secret", refresh.request(&no_secret, &[], &[]), "client_secret"),
            ("basic without an id", refresh.request(&nobody, &[], &[]), "client_id"),
            ("a parameter twice", refresh.request(&public(), &[], &twice), "parameters.grant_type"),
            ("Cognito without an id", initiate.request(&no_id, &[], &[]), "client_id"),
            ("InitiateAuth with a secret", initiate.request(&confidential, &[], &[]), "cognito_get_tokens"),
        ];
        for (name, request, part) in table {
            let words = request.expect_err(name);
            assert!(words.contains(part), "{name}: {words}");
        }
    }

    #[test]
    fn a_revocation_names_the_refresh_token_and_the_client() {
        let request = revocation(&Secret::new("r/1"), &public()).unwrap();
        assert_eq!(request.endpoint, EndpointKind::Revocation);
        assert_eq!(request.body.expose(), "token=r%2F1&token_type_hint=refresh_token&client_id=valetd");
    }

    #[test]
    fn only_rotating_grants_spend_the_refresh_token() {
        let token = Secret::new("r");
        assert!(GrantRequest::RefreshToken { refresh_token: &token }.spends_refresh_token());
        assert!(GrantRequest::CognitoGetTokens { refresh_token: &token }.spends_refresh_token());
        assert!(!GrantRequest::CognitoInitiateAuth { refresh_token: &token }.spends_refresh_token());
        assert!(!GrantRequest::ClientCredentials.spends_refresh_token());
    }
}
