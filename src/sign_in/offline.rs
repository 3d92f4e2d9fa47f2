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
