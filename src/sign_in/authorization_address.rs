//! The address of an authorization request at the authorization endpoint.

use super::authorization_request::{AuthorizationRequest, address};
use super::error::SignInError;
use super::method::Wishes;
use super::pending::PendingSignIn;
use crate::config::{Account, Endpoint};
use crate::oauth::Client;
use crate::token_endpoint::TokenEndpoint;

/// The address that the browser is to open: the whole request, or, where the server takes them, the name of a pushed one.
pub(super) async fn authorization_address(
    account: &Account,
    endpoint: &TokenEndpoint,
    client: &Client,
    pending: &PendingSignIn,
    wishes: &Wishes,
) -> Result<String, SignInError> {
    let Some(page) = account.server.authorization.as_ref().map(Endpoint::to_string) else {
        return Err(SignInError::NoWay("this account has no authorization_endpoint"));
    };
    let mut further = account.sign_in.authorize.clone();
    let is_openid = account.scopes.iter().any(|scope| scope == "openid");
    if wishes.switch_user && is_openid && !further.iter().any(|(name, _)| name == "prompt") {
        // OpenID Connect Core section 3.1.2.1: else the browser's own session signs the same person in again
        further.push(("prompt".to_owned(), "login".to_owned()));
    }
    let (challenge, nonce) = (pending.challenge(), pending.nonce(account));
    let request = AuthorizationRequest {
        client_id: client.id.as_deref(),
        redirect_uri: pending.redirect_uri.as_deref(),
        scopes: &account.scopes,
        state: &pending.state,
        code_challenge: challenge.as_deref(),
        nonce: nonce.as_deref(),
        resources: &account.resource,
        further: &further,
    };
    let parameters = request.parameters();
    if account.server.pushed_authorization.is_none() {
        return Ok(address(&page, &parameters));
    }
    let request_uri = endpoint.push(account, client, &parameters).await?;
    let mut pushed = vec![("request_uri", request_uri)];
    pushed.extend(client.id.clone().map(|id| ("client_id", id)));
    Ok(address(&page, &pushed))
}
