//! What passes between a client and its authorization server: the authorization grant and who presents it, the request
//! that goes out, the tokens that come back. Each dialect writes and reads these in its own way.

use std::time::Duration;

use super::person::Whose;
use crate::secret::Secret;

/// An authorization grant (RFC 6749 section 1.3): what is presented to the authorization server in exchange for tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Grant {
    /// RFC 6749 section 6. Spent by this, where the server rotates.
    RefreshToken(Secret),
    /// RFC 6749 section 4.3.
    Password {
        /// As the person typed it.
        username: String,
        /// As the person typed it.
        password: Secret,
        /// A second factor that goes with it, in no RFC (Keycloak's `totp`): the parameter's name, and what is good once.
        otp: Option<(String, Secret)>,
    },
    /// RFC 6749 section 4.4: nothing but the client itself.
    ClientCredentials,
    /// Nothing is presented to a server: a program, or whoever fills a file, has the token.
    Issued,
    /// RFC 6749 section 4.1.3.
    AuthorizationCode {
        /// Good once.
        code: Secret,
        /// The same one as in the authorization request, if there was one in it.
        redirect_uri: Option<String>,
        /// What the request's code challenge was made of (RFC 7636), if it had one.
        code_verifier: Option<Secret>,
    },
    /// RFC 8628 section 3.4.
    DeviceCode {
        /// Good once, after the person has said yes.
        device_code: Secret,
        /// What the request's code challenge was made of, if it had one: openEO's, in no RFC.
        code_verifier: Option<Secret>,
    },
}

impl Grant {
    /// The secrets that are presented besides the client's own.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let (secret, verifier) = match self {
            Grant::RefreshToken(refresh_token) => (Some(refresh_token), None),
            Grant::Password { password, otp, .. } => (Some(password), otp.as_ref().map(|(_, code)| code)),
            Grant::AuthorizationCode { code, code_verifier, .. } => (Some(code), code_verifier.as_ref()),
            Grant::DeviceCode { device_code, code_verifier } => (Some(device_code), code_verifier.as_ref()),
            Grant::ClientCredentials | Grant::Issued => (None, None),
        };
        secret.into_iter().chain(verifier)
    }
}

/// Which grant renews an account's access token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum GrantType {
    /// RFC 6749 section 6.
    RefreshToken,
    /// RFC 6749 section 4.4: nobody signs in; the client's own secret is the credential.
    ClientCredentials,
    /// RFC 6749 section 4.3 at every renewal, with a kept password.
    Password,
    /// None: tokens are taken from where somebody else puts them.
    Issued,
}

impl GrantType {
    /// Whether a person has to sign in, and leaves a credential that is kept.
    pub(crate) fn needs_sign_in(self) -> bool {
        match self {
            GrantType::RefreshToken | GrantType::Password => true,
            GrantType::ClientCredentials | GrantType::Issued => false,
        }
    }
}

/// How the client proves who it is (RFC 6749 section 2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum ClientAuth {
    /// A public client: `client_id` alone, in the body.
    #[default]
    None,
    /// `client_secret_post`: id and secret in the body.
    Post,
    /// `client_secret_basic`: id and secret in the `Authorization` field, each form-encoded first.
    Basic,
    /// The same as they are, as in RFC 7617, for servers that do not decode them.
    BasicRaw,
}

/// Who asks, with the secret already at hand, and in which form.
#[derive(Clone, Debug, Default)]
pub(crate) struct Client {
    /// The client's id, where the server knows clients at all (GBDX does not).
    pub id: Option<String>,
    /// How it proves who it is.
    pub auth: ClientAuth,
    /// Its secret, where it has one; some have an empty one.
    pub secret: Option<Secret>,
    /// How its requests are written.
    pub form: RequestForm,
    /// Further header fields of its requests.
    pub fields: Vec<RequestField>,
}

impl Client {
    /// What of it must not be shown.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let in_fields = self.fields.iter().filter(|field| field.is_secret).map(|field| &field.value);
        self.secret.iter().chain(in_fields)
    }
}

/// How requests for tokens, and for their revocation, are written; by default as RFC 6749 has it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct RequestForm {
    /// How the body is encoded.
    pub format: BodyFormat,
    /// The parameters that have another name here: that of the RFC, and this server's.
    pub names: Vec<(String, String)>,
}

/// How a body is encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum BodyFormat {
    /// `application/x-www-form-urlencoded`
    #[default]
    Form,
    /// A JSON object of texts, and of arrays of texts for what is said several times.
    Json,
}

/// A header field that is added to requests.
#[derive(Clone, Debug)]
pub(crate) struct RequestField {
    /// Its name, in lower case.
    pub name: String,
    /// Its value.
    pub value: Secret,
    /// Whether the value is a secret.
    pub is_secret: bool,
}

/// What a positive answer holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tokens {
    /// The access token.
    pub access_token: Option<Secret>,
    /// The OpenID Connect ID token.
    pub id_token: Option<Secret>,
    /// A new refresh token; `None` means that the old one stays good.
    pub refresh_token: Option<Secret>,
    /// The access token's life from now on, if the response told it.
    pub lifetime: Option<Duration>,
    /// The ID token's own life from now on, which is its own affair: what the response tells is the access token's.
    pub id_token_lifetime: Option<Duration>,
    /// The refresh token's life from now on, if the response told it (`refresh_expires_in` and its spellings).
    pub refresh_lifetime: Option<Duration>,
    /// The scope that was granted, if the response told it: as it stands there.
    pub scope: Option<String>,
    /// Whose they are, where that was asked beside the ID token.
    pub whose: Whose,
    /// The server's `Retry-After`, which is obeyed where its tokens are worth nothing.
    pub retry_after: Option<Duration>,
    /// Why none of its tokens can be used, for people: then it is here for a new refresh token alone, which is to be kept.
    pub unusable: Option<String>,
}

/// A POST request, but for the address.
#[derive(Debug)]
pub(crate) struct TokenRequest {
    /// Where it goes.
    pub endpoint: EndpointKind,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Further header fields: names in lower case, values that may be secret.
    pub fields: Vec<(String, Secret)>,
    /// The body.
    pub body: Secret,
}

/// Which of an account's endpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EndpointKind {
    /// RFC 6749 section 3.2.
    Token,
    /// Cognito's JSON API.
    Cognito,
    /// RFC 7009.
    Revocation,
    /// The page that a person signs in on: the authorization endpoint (RFC 6749 section 3.1), or one that leads to it.
    LoginPage,
    /// RFC 6749 section 3.1.
    Authorization,
    /// RFC 8628 section 3.1.
    DeviceAuthorization,
    /// RFC 9126.
    PushedAuthorization,
    /// OpenID Connect Core section 5.3.
    Userinfo,
    /// RFC 7662.
    Introspection,
    /// RFC 7591.
    Registration,
}

impl EndpointKind {
    /// All of them, the token endpoint first.
    pub(crate) const ALL: [Self; 10] = [
        Self::Token,
        Self::Cognito,
        Self::Revocation,
        Self::LoginPage,
        Self::Authorization,
        Self::DeviceAuthorization,
        Self::PushedAuthorization,
        Self::Userinfo,
        Self::Introspection,
        Self::Registration,
    ];

    /// Its key in a configuration.
    pub(crate) fn key(self) -> &'static str {
        match self {
            EndpointKind::Token => "token_endpoint",
            EndpointKind::Cognito => "cognito_endpoint",
            EndpointKind::Revocation => "revocation_endpoint",
            EndpointKind::LoginPage => "login_page",
            EndpointKind::Authorization => "authorization_endpoint",
            EndpointKind::DeviceAuthorization => "device_authorization_endpoint",
            EndpointKind::PushedAuthorization => "pushed_authorization_endpoint",
            EndpointKind::Userinfo => "userinfo_endpoint",
            EndpointKind::Introspection => "introspection_endpoint",
            EndpointKind::Registration => "registration_endpoint",
        }
    }

    /// Whether we send it refresh tokens, passwords, or a token together with the client's secret: then a credential is
    /// bound to where it is, and no route leads there.
    pub(crate) fn takes_credentials(self) -> bool {
        match self {
            EndpointKind::Token | EndpointKind::Cognito | EndpointKind::Revocation | EndpointKind::Introspection => {
                true
            }
            // what a person types there, a browser sends
            EndpointKind::LoginPage | EndpointKind::Authorization => false,
            // before there is a credential
            EndpointKind::DeviceAuthorization | EndpointKind::PushedAuthorization | EndpointKind::Registration => false,
            EndpointKind::Userinfo => false, // an API: it is shown the access token, as upstreams are
        }
    }

    /// Whether it is asked with an access token whose that is.
    pub(crate) fn takes_access_tokens(self) -> bool {
        matches!(self, EndpointKind::Userinfo | EndpointKind::Introspection)
    }

    /// Whether tokens come from it: then those of another one are others, and without it nothing is renewed.
    pub(crate) fn issues_tokens(self) -> bool {
        match self {
            EndpointKind::Token | EndpointKind::Cognito => true,
            EndpointKind::Revocation
            | EndpointKind::LoginPage
            | EndpointKind::Authorization
            | EndpointKind::DeviceAuthorization
            | EndpointKind::PushedAuthorization
            | EndpointKind::Userinfo
            | EndpointKind::Introspection
            | EndpointKind::Registration => false,
        }
    }
}

/// The refusal of a parameter that the configuration adds and the grant sets already.
pub(super) fn taken_already(name: &str) -> String {
    format!("parameters.{name}: the grant itself sets {name}; take it out")
}
