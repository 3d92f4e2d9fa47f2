//! Who is signed in, asked with an access token: of the account's own address for that, of userinfo (OpenID Connect Core
//! section 5.3), or by introspection (RFC 7662).

use hyper::Method;
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};

use super::{GrantFailure, TokenEndpoint, cannot_be_asked};
use crate::config::{Account, Endpoint, IdentitySource};
use crate::http_client::Outgoing;
use crate::oauth::Pointer;
use crate::oauth::identity::Identity;
use crate::renewal::{Failure, Why};
use crate::secret::Secret;
use crate::store::Person;

/// Where and how an account's person is asked for.
enum Asked<'a> {
    /// With a GET.
    At(&'a Endpoint, Option<&'a Pointer>),
    Nowhere,
}

impl TokenEndpoint {
    /// Asks the account's provider whose an access token is.
    ///
    /// # Errors
    ///
    /// [`GrantFailure`]: permanent where the provider does not know the token, or there is nobody to ask.
    pub(crate) async fn who_is(
        &self,
        account: &Account,
        access_token: &Secret,
    ) -> Result<(String, Option<Person>), GrantFailure> {
        let (endpoint, pointer) = match place(account) {
            Asked::At(endpoint, pointer) => (endpoint, pointer),
            Asked::Nowhere => {
                let words = "the account has neither `identity` nor a userinfo_endpoint";
                return Err(cannot_be_asked(words.to_owned()));
            }
        };
        let mut fields = HeaderMap::new();
        let bearer = Secret::new(format!("Bearer {}", access_token.expose()));
        let mut value = HeaderValue::from_str(bearer.expose())
            .map_err(|_| cannot_be_asked("the access token holds forbidden characters".to_owned()))?;
        value.set_sensitive(true);
        fields.insert(AUTHORIZATION, value);
        fields.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let request = Outgoing { method: Method::GET, fields, body: bytes::Bytes::new() };
        let transient = Failure::Transient { retry_after: None };
        let answer = self.http.send(endpoint, super::reach(account), request).await;
        let answer = answer.map_err(|error| GrantFailure::unanswered(transient, error.to_string()))?;
        let authority = endpoint.origin.authority();
        let failed = |failure, words: &str| GrantFailure {
            failure,
            oauth_error: None,
            http_status: Some(answer.status.as_u16()),
            detail: format!("{authority} answered {}{words}", answer.status.as_u16()),
        };
        match answer.status.as_u16() {
            200..300 => {}
            401 => return Err(failed(Failure::Permanent(Why::Revoked), ": the access token is not known there")),
            403 => return Err(failed(Failure::Permanent(Why::Revoked), ": the access token may not ask that")),
            _ => return Err(failed(transient, "")),
        }
        let Some(Identity { name, subject }) = Identity::read(&answer.body, pointer) else {
            return Err(failed(transient, " and named nobody"));
        };
        let issuer = match &account.server.issuer {
            Some(issuer) if pointer.is_none() => issuer.as_str().to_owned(),
            _ => endpoint.origin.to_string(),
        };
        Ok((name, subject.map(|subject| Person { issuer, subject })))
    }
}

fn place(account: &Account) -> Asked<'_> {
    match (&account.sign_in.identity, &account.server.userinfo) {
        (Some(IdentitySource::Address(endpoint, pointer)), _) => Asked::At(endpoint, Some(pointer)),
        (Some(IdentitySource::Userinfo) | None, Some(endpoint)) => Asked::At(endpoint, None),
        (Some(IdentitySource::Userinfo) | None, None) => Asked::Nowhere,
    }
}
