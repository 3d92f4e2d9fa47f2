//! What to send to a token endpoint, and what its answer means. Pure: bytes in, bytes out.
//!
//! * [`grant`]: the request for each grant, as a form (RFC 6749) or as JSON (Amazon Cognito's API);
//! * [`verdict`]: reading answers leniently, and the verdict on those that are none;
//! * [`jwt`]: the times in a JWT, as a hint for the timer; no trust is involved.

use std::time::Duration;

use crate::secret::Secret;

pub mod grant;
pub mod jwt;
pub mod verdict;

/// How an account's access token is renewed: the configuration's `grant`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grant {
    /// RFC 6749 section 6, as a form.
    RefreshToken,
    /// RFC 6749 section 4.4: nobody signs in; the client's own secret is the credential.
    ClientCredentials,
    /// RFC 6749 section 4.3 at every renewal, with a kept password.
    Password,
    /// Amazon Cognito's `InitiateAuth` with `REFRESH_TOKEN_AUTH`, as JSON.
    CognitoInitiateAuth,
    /// Amazon Cognito's `GetTokensFromRefreshToken`, as JSON: what its app clients with rotation want.
    CognitoGetTokens,
}

/// How the client proves who it is (RFC 6749 section 2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ClientAuth {
    /// A public client: `client_id` alone, in the body.
    #[default]
    None,
    /// `client_secret_post`: id and secret in the body.
    Post,
    /// `client_secret_basic`: id and secret in the `Authorization` field.
    Basic,
}

/// Who asks, with the secret already at hand.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// The client's id, where the server knows clients at all (GBDX does not).
    pub id: Option<String>,
    /// How it proves who it is.
    pub auth: ClientAuth,
    /// Its secret, where it has one.
    pub secret: Option<Secret>,
}

/// What a well-formed, positive answer holds.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// The access token.
    pub access_token: Option<Secret>,
    /// The OpenID Connect ID token.
    pub id_token: Option<Secret>,
    /// A new refresh token; `None` means that the old one stays good.
    pub refresh_token: Option<Secret>,
    /// The access token's life from now on, if the answer told it.
    pub lifetime: Option<Duration>,
    /// The refresh token's life from now on, if the answer told it (`refresh_expires_in` and its spellings).
    pub refresh_lifetime: Option<Duration>,
}
