//! What is asked of the authorization server before there is a grant: a code for a device (RFC 8628), and a place for an
//! authorization request (RFC 9126).

use super::{GrantFailure, TokenEndpoint, as_read, cannot_be_asked, refused};
use crate::config::Account;
use crate::http_client::Answer;
use crate::oauth::rfc8628::DeviceAuthorization;
use crate::oauth::{Client, EndpointKind, Refusal, TokenRequest, TokenResponse, rfc8628, rfc9126};
use crate::platform::clock::wall;
use crate::renewal::Failure;

impl TokenEndpoint {
    /// Asks for a code that a person enters on any device. `code_challenge` is of the method S256.
    ///
    /// # Errors
    ///
    /// [`GrantFailure`], never ambiguous.
    pub(crate) async fn authorize_device(
        &self,
        account: &Account,
        client: &Client,
        code_challenge: Option<&str>,
    ) -> Result<DeviceAuthorization, GrantFailure> {
        let further = &account.sign_in.authorize;
        let request = rfc8628::request(client, &account.scopes, &account.resource, further, code_challenge);
        self.ask(account, request, |answer| rfc8628::read(answer, client, &account.vocabulary, wall())).await
    }

    /// Pushes the parameters of an authorization request; returns its name.
    ///
    /// # Errors
    ///
    /// [`GrantFailure`], never ambiguous.
    pub(crate) async fn push(
        &self,
        account: &Account,
        client: &Client,
        parameters: &[(&str, String)],
    ) -> Result<String, GrantFailure> {
        let request = rfc9126::request(parameters, client);
        self.ask(account, request, |answer| rfc9126::read(answer, client, &account.vocabulary, wall())).await
    }

    async fn ask<T>(
        &self,
        account: &Account,
        request: Result<TokenRequest, String>,
        read: impl FnOnce(&TokenResponse<'_>) -> Result<T, Refusal>,
    ) -> Result<T, GrantFailure> {
        let request = request.map_err(cannot_be_asked)?;
        let kind: EndpointKind = request.endpoint;
        let missing = || cannot_be_asked(format!("no {} is configured", kind.key()));
        let endpoint = account.server.endpoint(kind).ok_or_else(missing)?;
        let answer: Answer = self
            .send(account, endpoint, request)
            .await
            .map_err(|error| GrantFailure::unanswered(Failure::Transient { retry_after: None }, error.to_string()))?;
        read(&as_read(&answer)).map_err(|refusal| refused(endpoint, answer.status, refusal))
    }
}
