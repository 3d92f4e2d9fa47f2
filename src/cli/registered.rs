//! The client that was registered for an account: where it is kept, and its secret for who signs in. The store that has it
//! is asked through the daemon that has the store; where none runs, it is opened.

use super::configuration::{STORE_PATIENCE, when_free};
use super::failure::{Exit, Failure};
use super::opening::{of_store, unlocked};
use super::options::Options;
use super::runtime::block_on;
use crate::config::{Account, AccountId, Config};
use crate::control::client::{Client, ClientError};
use crate::control::problem::kind;
use crate::discovery::register;
use crate::http_client::HttpClient;
use crate::oauth::rfc7591::Registration;
use crate::platform::paths::Paths;
use crate::platform::termination::uninterrupted;
use crate::secret::Secret;
use crate::store::{Store, StoreError, open_store_at_once, open_store_with};

/// Where registrations are kept, and what it takes to get there.
#[derive(Clone, Copy)]
pub(super) struct Registry<'a> {
    pub(super) options: &'a Options,
    pub(super) places: &'a Paths,
    pub(super) config: &'a Config,
    /// What a person has typed, where the store takes that and no daemon runs.
    pub(super) passphrase: Option<&'a Secret>,
}

/// What is kept of an account's client.
pub(super) enum Kept {
    /// Nothing.
    Nothing,
    /// All of it.
    Usable(Registration),
    /// What nobody can use any more, for this reason.
    Unusable(String),
}

impl Registry<'_> {
    /// Whether there is a file for an account's client, whatever is in it: where there is none, nobody is asked for a key.
    pub(super) fn has_file(&self, id: &AccountId) -> bool {
        self.places.state_dir.join(Registration::file_name(id.as_str())).symlink_metadata().is_ok()
    }

    /// What is kept of an account's client.
    ///
    /// # Errors
    ///
    /// If that cannot be known now, as while the store is locked: then nobody may take it for nothing.
    pub(super) fn of(&self, id: &AccountId) -> Result<Kept, Failure> {
        let asked = when_free(STORE_PATIENCE, || {
            match block_on(async { Client::connect(&self.places.socket).await?.registration(id).await })? {
                Ok(found) => Ok(Ok(found.map_or(Kept::Nothing, Kept::Usable))),
                Err(ClientError::NotRunning(_)) => self.in_the_store(|store| kept(store, id)),
                Err(ClientError::Refused(problem)) if problem.is(kind::CLIENT_UNUSABLE) => {
                    Ok(Ok(Kept::Unusable(problem.detail)))
                }
                Err(error) => Err(Failure::of_call(error, self.options)),
            }
        })?;
        asked.map_err(of_store)
    }

    /// Registers a client for an account, and keeps it, in the place of one that was kept. What cannot be kept is taken back
    /// at the server.
    ///
    /// # Errors
    ///
    /// If nothing could be asked; within, why there is no client, in a sentence for people.
    pub(super) fn register(&self, account: &Account) -> Result<Result<Registration, String>, Failure> {
        let http = HttpClient::from_environment();
        let registration = match block_on(register::register(&http, account))? {
            Ok(registration) => registration,
            Err(why) => return Ok(Err(why)),
        };
        let whole = uninterrupted();
        let kept = self.keep(&account.id, &registration);
        drop(whole);
        let Err(failure) = kept else { return Ok(Ok(registration)) };
        // nobody knows of it here: it is of no use there either
        let client_id = &registration.client.client_id;
        let undone = match block_on(register::take_back(&http, account, &registration))? {
            None => "it was taken back at the server".to_owned(),
            Some(why) => format!("the client {client_id:?} stays registered at the server: {why}"),
        };
        let (exit, remedy) = (failure.exit, failure.remedy.clone());
        let why = failure.problems_or_itself().join("; ");
        let words = format!("the client was registered, and could not be kept: {why}; {undone}");
        match remedy {
            // somebody has locked meanwhile: that is no fault of the server's
            Some(remedy) if exit == Exit::Locked => Err(Failure::say(words).with_exit(exit).with_remedy(remedy)),
            Some(_) | None => Ok(Err(words)),
        }
    }

    fn keep(&self, id: &AccountId, registration: &Registration) -> Result<(), Failure> {
        let kept = when_free(STORE_PATIENCE, || {
            let asked = async { Client::connect(&self.places.socket).await?.keep_registration(id, registration).await };
            match block_on(asked)? {
                Err(ClientError::NotRunning(_)) => self.in_the_store(|store| store.keep_registration(id, registration)),
                asked => asked.map(Ok).map_err(|error| Failure::of_call(error, self.options)),
            }
        })?;
        kept.map_err(of_store)
    }

    /// Forgets an account's client, so that the next sign-in registers another one. That takes no key.
    ///
    /// # Errors
    ///
    /// If it is there still.
    pub(super) fn forget(&self, id: &AccountId) -> Result<(), Failure> {
        let forgotten = when_free(STORE_PATIENCE, || {
            match block_on(async { Client::connect(&self.places.socket).await?.forget_registration(id).await })? {
                Err(ClientError::NotRunning(_)) => {
                    let store = open_store_at_once(self.places, self.config);
                    Ok(store.and_then(|store| store.forget_registration(id)))
                }
                asked => asked.map(Ok).map_err(|error| Failure::of_call(error, self.options)),
            }
        })?;
        forgotten.map_err(of_store)
    }

    fn in_the_store<T>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError>,
    ) -> Result<Result<T, StoreError>, Failure> {
        match open_store_with(self.places, self.config, self.passphrase.cloned()) {
            Ok(store) => Ok(work(&unlocked(store)?)),
            Err(error) => Ok(Err(error)),
        }
    }
}

fn kept(store: &Store, id: &AccountId) -> Result<Kept, StoreError> {
    match store.registration(id) {
        Ok(found) => Ok(found.map_or(Kept::Nothing, Kept::Usable)),
        Err(error @ (StoreError::Client { .. } | StoreError::KeyGone { .. })) => Ok(Kept::Unusable(error.to_string())),
        Err(error) => Err(error),
    }
}
