//! From a grant to what is stored.

use super::error::SignInError;
use super::scopes;
use crate::accounts::NewCredential;
use crate::config::Account;
use crate::oauth::id_token::{self, Misfit};
use crate::oauth::{Client, Grant, Tokens, Whose, jwt};
use crate::store::{Credential, Trial};
use crate::token_endpoint::{TokenEndpoint, client_secret};

/// Redeems a grant that a person, or a script, has brought: one request to the account's token endpoint.
///
/// # Errors
///
/// [`SignInError`] if it is refused, or if its tokens hold nothing that lasts.
pub(crate) async fn redeem(
    account: &Account,
    endpoint: &TokenEndpoint,
    grant: Grant,
) -> Result<NewCredential, SignInError> {
    redeem_begun(account, endpoint, grant, None).await
}

/// [`redeem`] for a sign-in that was begun with a request that had this `nonce`.
///
/// # Errors
///
/// As [`redeem`], and if the ID token was issued to another request.
pub(crate) async fn redeem_begun(
    account: &Account,
    endpoint: &TokenEndpoint,
    grant: Grant,
    nonce: Option<String>,
) -> Result<NewCredential, SignInError> {
    let client = client_secret(account).await.map_err(SignInError::NotExchanged)?;
    redeem_checked(account, endpoint, &client, grant, nonce).await
}

/// [`redeem`] with the client at hand. An ID token that names another `nonce` than this was issued to another request (OpenID
/// Connect Core section 3.1.3.7).
pub(super) async fn redeem_checked(
    account: &Account,
    endpoint: &TokenEndpoint,
    client: &Client,
    grant: Grant,
    nonce: Option<String>,
) -> Result<NewCredential, SignInError> {
    let redeemed = endpoint.redeem(account, client, &grant).await;
    let tokens = redeemed.map_err(|failure| SignInError::of_grant(failure, &grant))?;
    if id_token::claims(&tokens, account.expected(nonce.as_deref())) == Err(Misfit::OtherNonce) {
        let words = "the ID token was issued to another sign-in (its nonce is not this one's)";
        return Err(SignInError::NotExchanged(words.to_owned()));
    }
    settle(account, endpoint, grant, tokens, nonce.as_deref()).await
}

/// What is stored of the tokens that a grant has brought, with who has signed in: as the ID token has it, or as the provider
/// says when it is asked.
pub(super) async fn settle(
    account: &Account,
    endpoint: &TokenEndpoint,
    grant: Grant,
    tokens: Tokens,
    nonce: Option<&str>,
) -> Result<NewCredential, SignInError> {
    let new = lasting(account, grant, tokens.clone(), nonce)?;
    let Whose { person, name, unnamed } = endpoint.whose(account, &tokens, nonce, None).await;
    Ok(NewCredential { identity: name.or(new.identity), person, unnamed, ..new })
}

/// What is stored of the tokens that a grant has brought: the refresh token, or the one that was presented, and the
/// password where the account says so. Whose they are is not said yet. Pure.
pub(super) fn lasting(
    account: &Account,
    grant: Grant,
    tokens: Tokens,
    nonce: Option<&str>,
) -> Result<NewCredential, SignInError> {
    let claimed = id_token::claims(&tokens, account.expected(nonce)).ok().flatten().and_then(|claims| claims.identity);
    let claimed = claimed.or_else(|| jwt::claims(tokens.access_token.as_ref()?.expose())?.identity);
    let missing_scopes = missing_scopes(account, &grant, &tokens);
    let (presented, username, password) = match grant {
        Grant::RefreshToken(token) => (Some(token), None, None),
        Grant::Password { username, password, otp: _ } => {
            let kept = account.sign_in.keep_password.then(|| (username.clone(), password));
            (None, Some(username), kept)
        }
        Grant::AuthorizationCode { .. } | Grant::DeviceCode { .. } | Grant::ClientCredentials | Grant::Issued => {
            (None, None, None)
        }
    };
    let refresh_token = tokens.refresh_token.filter(|token| !token.is_empty()).or(presented);
    if refresh_token.is_none() && password.is_none() {
        return Err(SignInError::NothingLasting(why_nothing_lasts(account)));
    }
    Ok(NewCredential {
        refresh_lifetime: tokens.refresh_lifetime.map(|life| life.as_secs()),
        identity: claimed.or(username),
        missing_scopes,
        trial: Trial::Preferred,
        ..NewCredential::of(account, Credential { refresh_token, password })
    })
}

/// What a person's grant was asked for, and has not got.
fn missing_scopes(account: &Account, grant: &Grant, tokens: &Tokens) -> Vec<String> {
    match grant {
        Grant::AuthorizationCode { .. } | Grant::DeviceCode { .. } | Grant::Password { .. } => {}
        Grant::RefreshToken(_) | Grant::ClientCredentials | Grant::Issued => return Vec::new(),
    }
    let openid = tokens.id_token.as_ref().map(|_| "openid");
    let offline = tokens.refresh_token.as_ref().map(|_| "offline_access");
    let came: Vec<&str> = openid.into_iter().chain(offline).collect();
    scopes::missing(&account.scopes, tokens.scope.as_deref(), &came)
}

/// The remedy for a missing refresh token, as this account's provider has it.
fn why_nothing_lasts(account: &Account) -> &'static str {
    let is_at = |host: &str| account.server.token.as_ref().is_some_and(|token| token.origin.host.ends_with(host));
    let says = |name: &str| account.sign_in.authorize.iter().any(|(said, _)| said == name);
    match account.scopes.iter().any(|scope| scope == "offline_access") {
        _ if is_at("googleapis.com") && !(says("access_type") && says("prompt")) => {
            "say authorize = { access_type = \"offline\", prompt = \"consent\" } for the account: Google gives one only then"
        }
        _ if is_at("globus.org") && !says("access_type") => {
            "say authorize = { access_type = \"offline\" } for the account: Globus has it in the place of offline_access"
        }
        _ if is_at("github.com") => {
            "GitHub gives one to GitHub Apps with expiring user tokens alone: switch that on in the app's settings"
        }
        true if !says("prompt") => {
            "say authorize = { prompt = \"consent\" } for the account: servers may ignore offline_access without it"
        }
        true => "the server gave none for offline_access: the client, or you, may lack the right to it",
        false => "ask for one with a scope (often \"offline_access\"), or set keep_password for the account",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;

    use super::*;
    use crate::config::testing::account;
    use crate::http_client::HttpClient;
    use crate::secret::Secret;
    use crate::stand_in::{Options, Provider, StandIn};

    /// The client of the preset.
    const GDH: &str = "7aetu7cj45ah6m494hutdldbd1";

    fn lasting(account: &Account, grant: Grant, tokens: Tokens) -> Result<NewCredential, SignInError> {
        super::lasting(account, grant, tokens, None)
    }

    /// Tokens that tell whose they are, if that is known.
    fn tokens(refresh_token: Option<&str>, identity: Option<&str>) -> Tokens {
        let jwt = |who: &str| {
            let claims = format!("{{\"email\":\"{who}\",\"sub\":\"{who}\",\"aud\":\"{GDH}\",\"exp\":9}}");
            format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims))
        };
        Tokens {
            access_token: Some(Secret::new("a")),
            id_token: identity.map(|who| Secret::new(jwt(who))),
            id_token_lifetime: Some(Duration::from_secs(3600)),
            refresh_token: refresh_token.map(Secret::new),
            refresh_lifetime: Some(Duration::from_secs(86_400)),
            ..Tokens::default()
        }
    }

    fn code() -> Grant {
        Grant::AuthorizationCode {
            code: Secret::new("c"),
            redirect_uri: Some("https://x.example/code".to_owned()),
            code_verifier: None,
        }
    }

    #[test]
    fn what_a_code_brings_is_kept_with_whose_it_is() {
        let new = lasting(&account("gdh", ""), code(), tokens(Some("r"), Some("me@example.com"))).unwrap();
        assert_eq!(new.credential.refresh_token, Some(Secret::new("r")));
        assert_eq!((new.refresh_lifetime, new.identity.as_deref()), (Some(86_400), Some("me@example.com")));
        assert!(new.servers.is_some());
    }

    #[test]
    fn a_password_is_kept_only_where_the_account_says_so() {
        let grant = Grant::Password { username: "me".to_owned(), password: Secret::new("p"), otp: None };
        let new = lasting(&account("gbdx", ""), grant.clone(), tokens(Some("r"), None)).unwrap();
        assert_eq!((new.credential.password, new.identity.as_deref()), (None, Some("me")));
        let new = lasting(&account("gbdx", "keep_password = true\n"), grant, tokens(None, None)).unwrap();
        assert_eq!(new.credential.password, Some(("me".to_owned(), Secret::new("p"))));
    }

    #[test]
    fn tokens_that_do_not_last_are_no_sign_in() {
        let error = lasting(&account("gdh", ""), code(), tokens(None, None)).unwrap_err();
        assert!(matches!(error, SignInError::NothingLasting(remedy) if remedy.contains("offline_access")));
    }

    #[test]
    fn a_refresh_token_that_was_presented_lasts_unless_another_one_comes() {
        let grant = Grant::RefreshToken(Secret::new("r1"));
        for (comes, lasts) in [(None, "r1"), (Some(""), "r1"), (Some("r2"), "r2")] {
            let new = lasting(&account("gdh", ""), grant.clone(), tokens(comes, None)).unwrap();
            assert_eq!(new.credential.refresh_token, Some(Secret::new(lasts)), "{comes:?}");
        }
    }

    #[tokio::test]
    async fn the_servers_refusal_is_passed_on_in_its_words() {
        let gdh = StandIn::start(Provider::Gdh, Options::default()).await.unwrap();
        let lines = format!("token_endpoint = \"{}\"\nclient_id = \"lab\"\n", gdh.token_endpoint());
        let endpoint = TokenEndpoint::new(HttpClient::direct());
        let error = redeem(&account("lab", &lines), &endpoint, code()).await.unwrap_err();
        assert!(matches!(error, SignInError::NotExchanged(_)), "{error:?}");
        assert!(error.to_string().contains("invalid_grant"), "{error}");
    }
}
