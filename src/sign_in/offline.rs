//! Signing in and out while no daemon runs: under the store's lock, in the person's own process.

use crate::accounts::NewCredential;
use crate::config::Account;
use crate::platform::clock::unix_seconds;
use crate::store::{Record, Store, StoreError};
use crate::token_endpoint::TokenEndpoint;

/// Saves a credential for the next daemon.
///
/// # Errors
///
/// Those of [`Store::save`].
pub fn save(store: &Store, account: &Account, new: NewCredential) -> Result<(), StoreError> {
    // what cannot be read is set aside by the store, and replaced
    let previous = store.load(&account.id).ok().flatten();
    let saved = previous.as_ref().map_or(0, |record| record.generation);
    store.save(&Record::succeeding(previous.as_ref(), saved, account, new, unix_seconds()))
}

/// Signs out: tells the server, then forgets. Returns what happened at the server, for people.
///
/// # Errors
///
/// Those of [`Store::load`] and [`Store::remove`].
pub async fn forget(store: &Store, endpoint: &TokenEndpoint, account: &Account) -> Result<String, StoreError> {
    let record = match store.load(&account.id) {
        Err(StoreError::Corrupt { .. }) => None, // it is removed below with what was set aside before
        loaded => loaded?,
    };
    let kept_from = record.as_ref().and_then(|record| record.not_to_be_revoked_at(account));
    let refresh_token = record.and_then(|record| record.credential.refresh_token);
    let outcome = match (&refresh_token, kept_from) {
        (Some(_), Some(because)) => format!("forgotten here, but not revoked at the server: {because}"),
        (Some(refresh_token), None) => endpoint.revoke_in_words(account, refresh_token).await,
        (None, _) => "there was no refresh token to revoke".to_owned(),
    };
    store.remove(&account.id)?;
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::account;
    use crate::http_client::HttpClient;
    use crate::secret::Secret;
    use crate::stand_in::{Options, Provider, StandIn};
    use crate::store::Credential;

    fn new(account: &Account, token: Secret) -> NewCredential {
        NewCredential::of(account, Credential { refresh_token: Some(token), password: None })
    }

    #[tokio::test]
    async fn what_is_saved_takes_the_last_ones_place_and_is_revoked_when_it_is_forgotten() {
        let gdh = StandIn::start(Provider::Gdh, Options::default()).await.unwrap();
        let (token, revocation) = (gdh.token_endpoint(), gdh.revocation_endpoint().unwrap());
        let lines =
            format!("token_endpoint = \"{token}\"\nrevocation_endpoint = \"{revocation}\"\nclient_id = \"lab\"\n");
        let account = account("lab", &lines);
        let endpoint = TokenEndpoint::new(HttpClient::direct());
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        for generation in [1, 2] {
            save(&store, &account, new(&account, gdh.sign_in())).unwrap();
            assert_eq!(store.load(&account.id).unwrap().unwrap().generation, generation);
        }
        let words = forget(&store, &endpoint, &account).await.unwrap();
        assert_eq!(words, "revoked at the server and forgotten here");
        assert_eq!(store.load(&account.id).unwrap(), None);
        let words = forget(&store, &endpoint, &account).await.unwrap();
        assert_eq!(words, "there was no refresh token to revoke");
    }

    #[tokio::test]
    async fn a_refresh_token_is_not_sent_to_a_server_that_the_sign_in_did_not_name() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let before = account("lab", "");
        save(&store, &before, new(&before, Secret::new("r"))).unwrap();
        let now = account("lab", "revocation_endpoint = \"https://elsewhere.example/revoke\"\n");
        let words = forget(&store, &TokenEndpoint::new(HttpClient::direct()), &now).await.unwrap();
        assert!(
            words.starts_with("forgotten here, but not revoked at the server: revocation_endpoint is now on"),
            "{words}"
        );
        assert_eq!(store.load(&now.id).unwrap(), None);
    }
}
