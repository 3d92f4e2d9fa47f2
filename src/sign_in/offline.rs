//! Signing in and out while no daemon runs: under the store's lock, in the person's own process.

use super::exchange;
use crate::accounts::{NewCredential, SPENT, elsewhere};
use crate::config::{Account, AccountId, Config};
use crate::oauth::rfc7009::{Revoked, WANTS_ACCESS_TOKEN};
use crate::oauth::{Grant, Tokens, Whose, id_token};
use crate::platform::clock::unix_seconds;
use crate::renewal::{Failure, Why};
use crate::store::{Credential, Record, Store, StoreError, Trial};
use crate::token_endpoint::{GrantFailure, TokenEndpoint, client};

/// Why a credential did not take the place of what is stored, which stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotTaken {
    /// The server has refused it, in these words.
    #[error("{0}")]
    Refused(String),
    /// Its refresh token was spent before, and replaced.
    #[error("{SPENT}")]
    Spent,
    /// Its refresh token is of another account's sign-in.
    #[error("{}", elsewhere(_0))]
    Elsewhere(AccountId),
    /// It is another person's than what is stored.
    #[error("{0}")]
    AnotherPerson(String),
    /// It could not be tried, for this reason.
    #[error("not tried: {0}")]
    Untried(String),
    /// It cannot be saved.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was taken.
#[derive(Debug)]
pub(crate) struct Taken {
    /// Who is signed in, as far as the server told.
    pub identity: Option<String>,
    /// Why it could not be tried, if it was to be: nothing else was there to lose.
    pub untried: Option<String>,
    /// Whether it took the place of a sign-in of which nobody knew whose it was.
    pub was_nobodys: bool,
}

/// Tries a credential where that is wanted (one renewal), and saves it for the next daemon. What is stored already stays
/// until the new one has worked. A response that is lost is asked for once more at once, for servers with a grace period.
///
/// # Errors
///
/// [`NotTaken`].
pub(crate) async fn take(
    store: &Store,
    endpoint: &TokenEndpoint,
    config: &Config,
    account: &Account,
    mut new: NewCredential,
) -> Result<Taken, NotTaken> {
    // what cannot be read is set aside by the store, and replaced
    let loaded = store.load(&account.id);
    // somebody may yet adopt it, and its key may come back
    let is_withheld = matches!(
        loaded,
        Err(StoreError::OtherMachine { .. }
            | StoreError::OlderCopy { .. }
            | StoreError::KeyGone { .. }
            | StoreError::Locked { .. })
    );
    let previous = loaded.ok().flatten();
    if let Some(words) = previous.as_ref().and_then(|record| record.keeps_out_untried(&new)) {
        return Err(NotTaken::AnotherPerson(words));
    }
    if previous.as_ref().is_some_and(|record| record.has_spent(&new)) {
        if new.credential.password.is_none() {
            return Err(NotTaken::Spent);
        }
        new.credential.refresh_token = None; // the password beside it is as good as ever
    }
    if new.credential.refresh_token.is_some() {
        let would_lose = |other: &&Account| {
            let is_other = other.id != account.id && other.client_id == account.client_id;
            is_other && store.load(&other.id).is_ok_and(|record| record.is_some_and(|it| it.would_lose(account, &new)))
        };
        match config.accounts.values().find(would_lose) {
            Some(other) if new.credential.password.is_none() => return Err(NotTaken::Elsewhere(other.id.clone())),
            Some(_) => new.credential.refresh_token = None,
            None => {}
        }
    }
    let was_nobodys = previous.as_ref().is_some_and(|record| record.person.is_none() && !record.holds(&new));
    let is_wanted = match new.trial {
        Trial::Required | Trial::Proven => account.grant.needs_sign_in(),
        // the exchange that has just brought it was its trial; a running daemon has its first renewal for one. Where it could
        // not be learnt whose it is, and somebody is to be compared with, another one may tell
        Trial::Preferred => {
            new.unnamed.is_some() && previous.as_ref().is_some_and(|record| record.keeps_out(&new).is_some())
        }
        Trial::Skipped => false,
    };
    if !is_wanted {
        let identity = new.identity.clone();
        save(store, account, new, false)?;
        return Ok(Taken { identity, untried: None, was_nobodys });
    }
    let is_at_hand = |record: &Record| record.holds(&new);
    // nothing is spent that could not be saved; what may be the only copy is on the disk before it is spent
    let grant = |new: &NewCredential| new.credential.clone().grant(account.grant);
    let note = |asked: &Account| {
        let redeeming = asked.dialect.spends_refresh_token(&grant(&new));
        match &previous {
            Some(record) if is_at_hand(record) => Record { redeeming, ..record.clone() },
            Some(record) => record.clone(),
            None => {
                let saved = store.generation(&account.id);
                Record { redeeming, ..Record::succeeding(None, saved, account, new.clone(), unix_seconds()) }
            }
        }
    };
    let mut rotates = previous.as_ref().is_some_and(|record| record.rotates && record.was_issued_to(account));
    let mut asked = if rotates { account.with_rotation() } else { account.clone() };
    let mut noted = note(&asked);
    let replaces_another = is_withheld || previous.as_ref().is_some_and(|record| !is_at_hand(record));
    let take_note = |noted: &Record| if is_withheld { store.probe(noted) } else { store.save(noted) };
    take_note(&noted)?;
    let take_back = || match &previous {
        Some(record) => store.save(record),
        None if is_withheld => Ok(()),
        None => store.take_back(&account.id),
    };
    let mut answer = redeem(endpoint, &asked, &grant(&new)).await;
    if answer.as_ref().is_err_and(|failure| failure.wants_rotation) {
        (rotates, asked) = (true, account.with_rotation());
        noted = note(&asked);
        take_note(&noted)?;
        answer = redeem(endpoint, &asked, &grant(&new)).await;
    }
    let is_of_refresh_token = matches!(grant(&new), Grant::RefreshToken(_));
    if answer.as_ref().is_err_and(is_refused) && is_of_refresh_token && new.credential.password.is_some() {
        new.credential.refresh_token = None;
        answer = redeem(endpoint, &asked, &grant(&new)).await;
    }
    match answer {
        // a response that cannot be used has not shown that what was handed in works
        // it has put another in its place, which nothing could be done with
        Ok(Tokens { unusable: Some(detail), refresh_token: Some(_), .. }) if replaces_another => {
            Err(NotTaken::Refused(format!("the server took it, and it is spent now, but {detail}")))
        }
        Ok(Tokens { unusable: Some(detail), .. }) if replaces_another => Err(NotTaken::Untried(detail)),
        Ok(tokens) => {
            let is = previous.as_ref().filter(|record| record.person.is_some() && !new.switches_user);
            let Whose { person, name, unnamed } = match is {
                Some(is) => endpoint.whose(account, &tokens, None, is.person_at(account)).await,
                None => Whose { person: id_token::person(&tokens, account.expected(None)), ..Whose::default() },
            };
            let presented = new.credential.refresh_token.clone();
            let brought = match exchange::lasting(account, grant(&new), tokens, None) {
                Ok(brought) => brought,
                Err(error) => {
                    take_back()?;
                    return Err(NotTaken::Refused(error.to_string()));
                }
            };
            let NewCredential {
                credential: Credential { refresh_token, password }, refresh_lifetime, identity, ..
            } = brought;
            new.credential = Credential { refresh_token, password: password.or(new.credential.password) };
            new.spent = presented.filter(|spent| new.credential.refresh_token.as_ref().is_some_and(|new| new != spent));
            new.refresh_lifetime = refresh_lifetime.or(new.refresh_lifetime);
            new.identity = name.or(identity).or(new.identity);
            new.person = person.or(new.person);
            new.unnamed = unnamed;
            // now it is known who comes: what is stored stays that person's, though what was handed in may be spent
            let keeps_out = previous.as_ref().filter(|_| replaces_another);
            if let Some(words) = keeps_out.and_then(|record| record.keeps_out(&new)) {
                return Err(NotTaken::AnotherPerson(words));
            }
            let identity = new.identity.clone();
            save(store, account, new, rotates)?;
            Ok(Taken { identity, untried: None, was_nobodys })
        }
        Err(failure) if is_refused(&failure) => {
            take_back()?;
            Err(NotTaken::Refused(failure.detail))
        }
        Err(GrantFailure { failure, detail, .. }) => {
            if previous.is_some() || is_withheld || new.trial == Trial::Proven {
                if failure != Failure::Ambiguous {
                    take_back()?;
                }
                return Err(NotTaken::Untried(detail));
            }
            let identity = new.identity.clone();
            store.save(&Record { redeeming: failure == Failure::Ambiguous, ..noted })?;
            Ok(Taken { identity, untried: Some(detail), was_nobodys })
        }
    }
}

/// Whether the credential is refused for good: that the client is refused says nothing of it.
fn is_refused(failure: &GrantFailure) -> bool {
    matches!(failure.failure, Failure::Permanent(why) if why != Why::ClientRefused)
}

/// Redeems a grant, and once more at once if the response was lost.
async fn redeem(endpoint: &TokenEndpoint, account: &Account, grant: &Grant) -> Result<Tokens, GrantFailure> {
    let client = client(account).await?;
    match endpoint.redeem(account, &client, grant).await {
        Err(GrantFailure { failure: Failure::Ambiguous, detail: lost, .. }) => {
            let again = endpoint.redeem(account, &client, grant).await;
            again.map_err(|failure| match failure.failure {
                // no verdict does not bring the lost response back
                Failure::Transient { .. } | Failure::Unconfirmed { .. } => {
                    GrantFailure { failure: Failure::Ambiguous, ..failure }
                }
                Failure::Permanent(_) | Failure::Refused => {
                    let detail = format!("{lost}; asked once more: {}", failure.detail);
                    GrantFailure { detail, ..failure }
                }
                Failure::Ambiguous => failure,
            })
        }
        answer => answer,
    }
}

/// Saves a credential for the next daemon; `rotates`, if its server was found to rotate refresh tokens.
///
/// # Errors
///
/// Those of [`Store::save`].
fn save(store: &Store, account: &Account, new: NewCredential, rotates: bool) -> Result<(), StoreError> {
    // what cannot be read is set aside by the store, and replaced
    let previous = store.load(&account.id).ok().flatten();
    let saved = store.generation(&account.id);
    let mut record = Record::succeeding(previous.as_ref(), saved, account, new, unix_seconds());
    record.rotates |= rotates;
    store.save(&record)
}

/// Signs out: tells the server, then forgets. Returns what happened at the server, for people.
///
/// # Errors
///
/// Those of [`Store::load`] and [`Store::remove`].
pub(crate) async fn forget(store: &Store, endpoint: &TokenEndpoint, account: &Account) -> Result<String, StoreError> {
    let record = match store.load(&account.id) {
        // removed below, with what was set aside before: the person wants it gone, and it cannot be revoked unread
        Err(StoreError::Corrupt { .. } | StoreError::Newer { .. }) => None,
        // what is not ours to spend, or cannot be read, is forgotten here alone
        Err(
            error @ (StoreError::Locked { .. }
            | StoreError::KeyGone { .. }
            | StoreError::OtherMachine { .. }
            | StoreError::OlderCopy { .. }),
        ) => {
            store.forget_pending(&account.id);
            store.end_sign_in(&account.id);
            store.remove(&account.id)?;
            return Ok(format!("forgotten here, but not revoked at the server: {error}"));
        }
        loaded => loaded?,
    };
    let kept_from = record.as_ref().and_then(|record| record.not_to_be_revoked_at(account));
    let refresh_token = record.and_then(|record| record.credential.refresh_token);
    let outcome = match (&refresh_token, kept_from) {
        (Some(_), None) if account.revocation.takes == Revoked::AccessToken => {
            format!("forgotten here, but not revoked at the server: {WANTS_ACCESS_TOKEN}")
        }
        (Some(_), Some(because)) => format!("forgotten here, but not revoked at the server: {because}"),
        (Some(refresh_token), None) => match store.with_client_secret(account) {
            Ok(account) => endpoint.revoke_in_words(&account, refresh_token).await,
            Err(error) => format!("forgotten here, but not revoked at the server: {error}"),
        },
        (None, _) => "there was no refresh token to revoke".to_owned(),
    };
    store.forget_pending(&account.id);
    store.end_sign_in(&account.id);
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
            save(&store, &account, new(&account, gdh.sign_in()), false).unwrap();
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
        save(&store, &before, new(&before, Secret::new("r")), false).unwrap();
        let now = account("lab", "revocation_endpoint = \"https://elsewhere.example/revoke\"\n");
        let words = forget(&store, &TokenEndpoint::new(HttpClient::direct()), &now).await.unwrap();
        assert!(
            words.starts_with("forgotten here, but not revoked at the server: revocation_endpoint is now on"),
            "{words}"
        );
        assert_eq!(store.load(&now.id).unwrap(), None);
    }
}
