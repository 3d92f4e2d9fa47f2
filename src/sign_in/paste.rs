//! A one-time code, or the address that it stands in, out of a browser anywhere.

use super::authorization_address::authorization_address;
use super::desktop::Place;
use super::error::SignInError;
use super::exchange::redeem_checked;
use super::login_url::login_url;
use super::method::{Attempt, Method, Titled, Wishes};
use super::pasted::{self, NotACode};
use super::pending::PendingSignIn;
use crate::accounts::NewCredential;
use crate::config::Account;
use crate::oauth::{Client, Grant};
use crate::secret::Secret;
use crate::token_endpoint::{TokenEndpoint, client_secret};

pub(super) const METHOD: Method = Method {
    in_words: "a one-time code, from a page in a browser",
    is_possible: |account: &Account, wishes: &Wishes| {
        let server = &account.server;
        wishes.username.is_none() && (server.login_page.is_some() || server.authorization.is_some())
    },
    sign_in: |attempt| Box::pin(sign_in(attempt)),
};

/// How often a person may paste something that is no code before we give up.
const TRIES: usize = 3;

/// The grant of a one-time code, which answers the sign-in that is under way, if one is.
pub(crate) fn grant(account: &Account, code: Secret, pending: Option<PendingSignIn>) -> Grant {
    let (redirect_uri, code_verifier) = match pending {
        Some(PendingSignIn { redirect_uri, verifier, .. }) => (redirect_uri, verifier),
        None => (None, None),
    };
    let redirect_uri = redirect_uri.or_else(|| account.sign_in.redirect_uri.clone());
    Grant::AuthorizationCode { code, redirect_uri, code_verifier }
}

/// The request, and the address to open: the account's page, which shows a code or hands it on; or else the authorization
/// endpoint, which sends the browser to an address that nobody answers, with the code in it.
async fn begin(
    account: &Account,
    wishes: &Wishes,
    endpoint: &TokenEndpoint,
    client: &Client,
) -> Result<(PendingSignIn, String), SignInError> {
    if account.server.login_page.is_some() {
        let pending = PendingSignIn::begin(account)?;
        let url = login_url(account, &pending).ok_or(SignInError::NoWay("this account has no login_page to open"))?;
        return Ok((pending, url));
    }
    let registered = account.sign_in.redirect_uri.clone();
    let redirect_uri = registered.unwrap_or_else(|| account.sign_in.redirect.uri(None));
    let pending = PendingSignIn::begin_with(redirect_uri)?;
    let url = authorization_address(account, endpoint, client, &pending, wishes).await?;
    Ok((pending, url))
}

async fn sign_in(attempt: Attempt<'_>) -> Result<NewCredential, SignInError> {
    let Attempt { account, wishes, endpoint, terminal, page: _ } = attempt;
    let client = client_secret(account).await.map_err(SignInError::NotExchanged)?;
    let (pending, url) = begin(account, wishes, endpoint, &client).await?;
    if let Some(Err(error)) = wishes.state_dir.as_deref().map(|folder| pending.save(folder, &account.id)) {
        terminal.say(&format!("Only this terminal can take the code: {error}.\n\n"))?;
    }
    terminal.say(&format!(
        "Sign in to {} in a browser, on this or any other machine:\n\n  {url}\n\n\
         Then paste the one-time code that it shows here, or the whole address that it ends on.\n\n",
        Titled(account)
    ))?;
    if wishes.browser {
        Place::here().open(&url);
    }
    let mut tries = 1;
    let code = loop {
        let pasted = pasted::recognise(&terminal.ask_line("Code: ")?);
        match pasted.and_then(|pasted| pending.check(account, &pasted).map(|()| pasted.code)) {
            Ok(code) => break code,
            Err(refused @ NotACode::ServerSaid { .. }) => return Err(SignInError::of_response(refused)),
            Err(other) if tries >= TRIES => return Err(other.into()),
            Err(other) => terminal.say(&format!("That is not it: {other}.\n"))?,
        }
        tries += 1;
    };
    let nonce = pending.nonce(account);
    let redeemed = redeem_checked(account, endpoint, &client, grant(account, code, Some(pending)), nonce).await;
    if let Some(folder) = &wishes.state_dir {
        PendingSignIn::forget(folder, &account.id);
    }
    redeemed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::account;

    #[test]
    fn a_code_is_exchanged_with_the_registered_redirect_uri() {
        let account = account("gdh", "redirect_uri = \"https://www.example/validate.html\"\n");
        let pending = PendingSignIn::begin(&account).unwrap();
        let verifier = pending.verifier.clone();
        let grant = grant(&account, Secret::new("c"), Some(pending));
        let Grant::AuthorizationCode { code, redirect_uri, code_verifier } = grant else { panic!() };
        assert!(verifier.is_some() && code_verifier == verifier);
        assert_eq!((code.expose(), redirect_uri.as_deref()), ("c", Some("https://www.example/validate.html")));
    }
}
