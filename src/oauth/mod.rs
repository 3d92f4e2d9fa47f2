//! What to send to an authorization server, and what its response means. Pure: bytes in, bytes out.
//!
//! A [`Grant`] is what is presented, a [`Dialect`] how the server wants to hear it: one file for each, with its request
//! and its response.
//!
//! * `grant`: the types that every dialect speaks of;
//! * `rfc6749`, `cognito`, `earthdata`: the dialects; [`issued`]: what needs none; [`rfc7009`]: revocation; [`rfc8628`]: a code
//!   that is entered on any device; [`rfc9126`]: pushed authorization requests; [`identity`]: who somebody is, in a server's
//!   words;
//! * `verdict`: what they share in reading, leniently, and in judging what is no token; `ends`: the life of what is;
//! * `vocabulary`: a provider's own names of things; `members`: how a member is found in a response;
//! * [`challenge`]: what `WWW-Authenticate` says; `unwrapped`: what bodies come in; `salvage`: what becomes of a refresh token whose response cannot be used;
//! * [`metadata`], [`announced`]: what servers and APIs say of themselves; [`rfc7591`]: registration of a client;
//! * [`jwt`]: the times in a JWT, as a hint for the timer; no trust is involved. [`id_token`]: whether its claims count, and
//!   whom they name; `person`: how people are told apart.

use std::time::SystemTime;

pub(crate) mod announced;
mod body;
pub(crate) mod challenge;
mod cognito;
mod earthdata;
mod ends;
#[cfg(test)]
mod foreign;
mod grant;
pub(crate) mod id_token;
pub(crate) mod identity;
pub(crate) mod issued;
pub(crate) mod jwt;
mod members;
pub(crate) mod metadata;
mod person;
mod rfc6749;
pub(crate) mod rfc7009;
pub(crate) mod rfc7591;
pub(crate) mod rfc8628;
pub(crate) mod rfc9126;
mod salvage;
#[cfg(test)]
mod testing;
mod unwrapped;
mod verdict;
mod vocabulary;

pub(crate) use ends::http_date;
pub(crate) use grant::{BodyFormat, Client, ClientAuth, EndpointKind, Grant, GrantType};
pub(crate) use grant::{RequestField, RequestForm, TokenRequest, Tokens};
pub(crate) use person::{Comparison, Person, Whose};
pub(crate) use verdict::{Refusal, TokenResponse};
pub(crate) use vocabulary::{ErrorWords, Members, Pointer, Vocabulary};

use cognito::Operation;
use verdict::Reader;

use crate::renewal::Failure;
use crate::secret::Secret;

/// The language in which a server takes refresh tokens. All other grants go out as RFC 6749 has them: Cognito's hosted
/// pages have a token endpoint for codes, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dialect {
    /// A form to the token endpoint.
    Rfc6749,
    /// NASA Earthdata Login's `find_or_create_token`: Basic in, JSON out.
    Earthdata,
    /// Amazon Cognito's `InitiateAuth` with `REFRESH_TOKEN_AUTH`, as JSON; refused where rotation is on.
    CognitoInitiateAuth,
    /// Amazon Cognito's `GetTokensFromRefreshToken`, as JSON: what its app clients with rotation want.
    CognitoGetTokens,
}

impl Dialect {
    /// Cognito's operation that redeems the grant, if one does.
    fn operation(self, grant: &Grant) -> Option<(Operation, &Secret)> {
        match (self, grant) {
            (Dialect::CognitoInitiateAuth, Grant::RefreshToken(token)) => Some((Operation::InitiateAuth, token)),
            (Dialect::CognitoGetTokens, Grant::RefreshToken(token)) => {
                Some((Operation::GetTokensFromRefreshToken, token))
            }
            (Dialect::Rfc6749 | Dialect::Earthdata, Grant::RefreshToken(_)) => None,
            (
                _,
                Grant::Password { .. }
                | Grant::ClientCredentials
                | Grant::Issued
                | Grant::AuthorizationCode { .. }
                | Grant::DeviceCode { .. },
            ) => None,
        }
    }

    /// What the same server wants to hear where it rotates refresh tokens.
    pub(crate) fn with_rotation(self) -> Self {
        match self {
            Dialect::CognitoInitiateAuth | Dialect::CognitoGetTokens => Dialect::CognitoGetTokens,
            Dialect::Rfc6749 | Dialect::Earthdata => self,
        }
    }

    /// Whether a request in this dialect has a parameter of that name by itself, besides those of RFC 6749.
    pub(crate) fn sets_itself(self, name: &str) -> bool {
        match self {
            Dialect::Rfc6749 | Dialect::Earthdata => false,
            Dialect::CognitoInitiateAuth => Operation::InitiateAuth.sets_itself(name),
            Dialect::CognitoGetTokens => Operation::GetTokensFromRefreshToken.sets_itself(name),
        }
    }

    /// Whether its requests are objects of texts, in which a name stands once.
    pub(crate) fn takes_each_parameter_once(self) -> bool {
        match self {
            Dialect::Rfc6749 | Dialect::Earthdata => false,
            Dialect::CognitoInitiateAuth | Dialect::CognitoGetTokens => true,
        }
    }

    /// Whether a server that carries the request out may thereby have made the presented refresh token worthless, so that a
    /// lost response leaves us not knowing.
    pub(crate) fn spends_refresh_token(self, grant: &Grant) -> bool {
        match (self, grant) {
            (Dialect::Rfc6749 | Dialect::CognitoGetTokens, Grant::RefreshToken(_)) => true,
            (Dialect::CognitoInitiateAuth | Dialect::Earthdata, Grant::RefreshToken(_)) => false,
            (
                _,
                Grant::Password { .. }
                | Grant::ClientCredentials
                | Grant::Issued
                | Grant::AuthorizationCode { .. }
                | Grant::DeviceCode { .. },
            ) => false,
        }
    }

    /// Writes the request that redeems a grant. `scopes` are asked for with whatever grant may have any: all but a code.
    /// `parameters` go into every request to the token endpoint, into `AuthParameters` of `InitiateAuth`, and to the top of
    /// `GetTokensFromRefreshToken`; a name that stands there several times is said as often.
    ///
    /// # Errors
    ///
    /// A sentence for people, where the client as configured cannot make this request.
    pub(crate) fn request(
        self,
        grant: &Grant,
        client: &Client,
        scopes: &[String],
        parameters: &[(String, String)],
    ) -> Result<TokenRequest, String> {
        match self.operation(grant) {
            Some((operation, refresh_token)) => cognito::request(operation, refresh_token, client, parameters),
            None => match (self, grant) {
                (Dialect::Earthdata, Grant::Password { username, password, otp: _ }) => {
                    earthdata::request(username, password, client)
                }
                _ => rfc6749::request(grant, client, scopes, parameters),
            },
        }
    }

    /// Reads the response to that request. `now` is the wall clock's time, which matters only for a JWT without `iat`, for
    /// an end or a `Retry-After` that is a date in a response without `Date`. `vocabulary` is the provider's own.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] if there is nothing in it to keep. It is [`Ambiguous`](crate::renewal::Failure::Ambiguous) where the
    /// response is a success that cannot be read, and the refresh token that was sent may be spent.
    pub(crate) fn read(
        self,
        response: &TokenResponse<'_>,
        grant: &Grant,
        client: &Client,
        vocabulary: &Vocabulary,
        now: SystemTime,
    ) -> Result<Tokens, Refusal> {
        let inner = unwrapped::unwrapped(response.body);
        let response = &TokenResponse { body: inner.as_ref().map_or(response.body, |text| text), ..*response };
        let reader = Reader::new(response, grant, client, vocabulary, now);
        let read = match self.operation(grant) {
            Some((operation, _)) => cognito::read(operation, &reader),
            None => match (self, grant) {
                (Dialect::Earthdata, Grant::Password { .. }) => earthdata::read(&reader),
                _ => rfc6749::read(&reader),
            },
        };
        let read = match read {
            Err(refusal) if self.spends_refresh_token(grant) => salvage::rescue(&reader, refusal),
            Err(refusal) if reader.has_spent_device_code(&refusal) => {
                Err(Refusal { failure: Failure::Ambiguous, ..refusal })
            }
            read => read,
        };
        read.map(|tokens| Tokens { retry_after: reader.retry_after(), ..tokens })
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{client, now, pairs, public};
    use super::*;

    #[test]
    fn what_cannot_be_asked_is_refused_in_words() {
        let token = Grant::RefreshToken(Secret::new("r"));
        let refresh = |client: &Client, parameters: &[(String, String)]| {
            Dialect::Rfc6749.request(&token, client, &[], parameters)
        };
        let initiate = |client: &Client| Dialect::CognitoInitiateAuth.request(&token, client, &[], &[]);
        let no_id = client(None, ClientAuth::None, None);
        let no_secret = client(Some("me"), ClientAuth::Post, None);
        let nobody = client(None, ClientAuth::Basic, Some("s"));
        let confidential = client(Some("me"), ClientAuth::Post, Some("s"));
        let twice = pairs(&[("grant_type", "password")]);
        let table = [
            ("post without a secret", refresh(&no_secret, &[]), "client_secret"),
            ("basic without an id", refresh(&nobody, &[]), "client_id"),
            ("a parameter twice", refresh(&public(), &twice), "parameters.grant_type"),
            ("Cognito without an id", initiate(&no_id), "client_id"),
            ("InitiateAuth with a secret", initiate(&confidential), "cognito_get_tokens"),
        ];
        for (name, request, part) in table {
            let words = request.expect_err(name);
            assert!(words.contains(part), "{name}: {words}");
        }
    }

    #[test]
    fn only_rotating_grants_spend_the_refresh_token() {
        let token = Grant::RefreshToken(Secret::new("r"));
        let password = Grant::Password { username: "me".to_owned(), password: Secret::new("p"), otp: None };
        let code = Grant::AuthorizationCode { code: Secret::new("c"), redirect_uri: None, code_verifier: None };
        let dialects = [Dialect::Rfc6749, Dialect::CognitoGetTokens, Dialect::CognitoInitiateAuth];
        assert_eq!(dialects.map(|dialect| dialect.spends_refresh_token(&token)), [true, true, false]);
        for (dialect, grant) in
            dialects.iter().flat_map(|d| [&password, &code, &Grant::ClientCredentials].map(|g| (d, g)))
        {
            assert!(!dialect.spends_refresh_token(grant), "{dialect:?} {grant:?}");
        }
    }

    #[test]
    fn a_success_without_usable_tokens_has_spent_a_device_code_and_nothing_else_has() {
        let device = Grant::DeviceCode { device_code: Secret::new("device-code-1"), code_verifier: None };
        let code = Grant::AuthorizationCode { code: Secret::new("c"), redirect_uri: None, code_verifier: None };
        let read = |grant: &Grant, status: u16, body: &str| {
            let response = TokenResponse { status, body: body.as_bytes(), ..TokenResponse::default() };
            let read = Dialect::Rfc6749.read(&response, grant, &public(), &Vocabulary::default(), now());
            read.map(|_| ()).map_err(|refusal| refusal.failure == Failure::Ambiguous)
        };
        for (status, body, expected) in [
            (200, r#"{"access_token":"a","token_type":"mac"}"#, Err(true)),
            (200, r#"{"token_type":"bearer"}"#, Err(true)),
            (200, r#"{"access_token":"","token_type":"bearer"}"#, Err(true)),
            (200, r#"{"access_token":"a","token_type":"bearer"}"#, Ok(())),
            (200, r#"{"error":"authorization_pending"}"#, Err(false)), // GitHub's
            (200, "<html>sign in to this network</html>", Err(false)),
            (200, "", Err(false)),
            (400, r#"{"error":"authorization_pending"}"#, Err(false)),
            (502, r#"{"message":"upstream"}"#, Err(false)),
        ] {
            assert_eq!(read(&device, status, body), expected, "{status} {body}");
            assert_ne!(read(&code, status, body), Err(true), "{status} {body}");
        }
    }

    #[test]
    fn in_every_dialect_all_but_refresh_tokens_go_to_the_token_endpoint_as_forms() {
        let password = Grant::Password { username: "me".to_owned(), password: Secret::new("p"), otp: None };
        let code = Grant::AuthorizationCode { code: Secret::new("c"), redirect_uri: None, code_verifier: None };
        let token = Grant::RefreshToken(Secret::new("r"));
        for (dialect, endpoint) in [
            (Dialect::Rfc6749, EndpointKind::Token),
            (Dialect::CognitoInitiateAuth, EndpointKind::Cognito),
            (Dialect::CognitoGetTokens, EndpointKind::Cognito),
        ] {
            let goes_to = |grant: &Grant| dialect.request(grant, &public(), &[], &[]).unwrap().endpoint;
            assert_eq!(goes_to(&token), endpoint, "{dialect:?}");
            assert_eq!(
                [&password, &code, &Grant::ClientCredentials].map(goes_to),
                [EndpointKind::Token; 3],
                "{dialect:?}"
            );
        }
    }
}
