//! What the tests of the dialects share.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Client, ClientAuth, Dialect, Grant, Refusal, TokenResponse, Tokens, Vocabulary};
use crate::renewal::{Failure, Why};
use crate::secret::Secret;

/// Sun, 06 Nov 1994 08:49:37 GMT, the date in RFC 9110.
pub(super) const NOW: u64 = 784_111_777;

pub(super) const TRANSIENT: Failure = Failure::Transient { retry_after: None };
pub(super) const REVOKED: Failure = Failure::Permanent(Why::Revoked);
pub(super) const CLIENT_REFUSED: Failure = Failure::Permanent(Why::ClientRefused);

pub(super) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

pub(super) fn refresh_token() -> Secret {
    Secret::new("the-refresh-token-that-was-sent")
}

/// Reads the response to a grant of nobody in particular.
pub(super) fn read(dialect: Dialect, grant: &Grant, status: u16, body: &str) -> Result<Tokens, Refusal> {
    let response = TokenResponse { status, body: body.as_bytes(), ..TokenResponse::default() };
    dialect.read(&response, grant, &Client::default(), &Vocabulary::default(), now())
}

/// Reads the response to a refresh token sent as a form.
pub(super) fn refreshed(status: u16, body: &str) -> Result<Tokens, Refusal> {
    read(Dialect::Rfc6749, &Grant::RefreshToken(refresh_token()), status, body)
}

pub(super) fn client(id: Option<&str>, auth: ClientAuth, secret: Option<&str>) -> Client {
    Client { id: id.map(str::to_owned), auth, secret: secret.map(Secret::new), ..Client::default() }
}

pub(super) fn public() -> Client {
    client(Some("valetd"), ClientAuth::None, None)
}

pub(super) fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|&word| word.to_owned()).collect()
}

pub(super) fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}
