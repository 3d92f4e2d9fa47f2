//! Registered clients at rest (RFC 7591): a file an account, beside its record and sealed as that is.
//!
//! What is public of a client stands in the clear in a sealed file, too: the configuration is read before the store is open,
//! and needs no more than that. So an account whose client has a secret is configured while the store is locked, and waits for
//! its key as any other. The secret is asked for when it is used, and kept nowhere else.
//!
//! A registration is bound to no machine: its copy on another one spends nothing.

use std::borrow::Cow;

use super::disk::ReadError;
use super::error::{StoreError, io_error};
use super::file::Unreadable;
use super::folder::{CORRUPT, temporary_name};
use super::sealing::is_sealed;
use super::{Inner, Store, not_written};
use crate::config::{Account, AccountId, ClientSecret};
use crate::oauth::rfc7591::Registration;

impl Store {
    /// Reads an account's registration; `None` if there is none. One that cannot be read is left where it is: the next sign-in
    /// puts another in its place.
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] while the store is; [`StoreError::KeyGone`] if the store is open and this one's key is an earlier
    /// one; [`StoreError::Client`] if it is of no use; [`StoreError::Newer`], [`StoreError::NotOurFile`], [`StoreError::Io`].
    pub(crate) fn registration(&self, account: &AccountId) -> Result<Option<Registration>, StoreError> {
        self.inner().registration(account, &self.path)
    }

    /// Replaces an account's registration. When this has returned, the new one survives a power cut. One that cannot be read
    /// is set aside.
    ///
    /// # Errors
    ///
    /// Those of [`Store::save`].
    pub(crate) fn keep_registration(&self, account: &AccountId, registration: &Registration) -> Result<(), StoreError> {
        self.in_its_folder(|| self.keep_registration_here(account, registration))
    }

    fn keep_registration_here(&self, account: &AccountId, registration: &Registration) -> Result<(), StoreError> {
        let mut inner = self.inner();
        let name = Registration::file_name(account.as_str());
        let path = self.path.join(&name);
        let nonce = inner.nonce(&path)?;
        match inner.registration(account, &self.path) {
            Ok(_) => {}
            Err(StoreError::KeyGone { .. } | StoreError::Client { .. }) => {
                inner.folder.set_aside(&name)?;
            }
            Err(error) => return Err(error),
        }
        let bytes = inner.sealing.write_client(account, registration, *nonce);
        let bytes = bytes.map_err(|unreadable| not_written(unreadable, &path))?;
        match is_sealed(&bytes) {
            true => inner.folder.replace_and_overwrite(&name, &bytes),
            false => inner.folder.replace(&name, &bytes),
        }
    }

    /// Forgets an account's registration, and what was set aside of earlier ones; done if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`].
    pub(crate) fn forget_registration(&self, account: &AccountId) -> Result<(), StoreError> {
        let mut inner = self.inner();
        let disk = &mut inner.folder.disk;
        let name = Registration::file_name(account.as_str());
        let set_aside = format!("{name}{CORRUPT}");
        let mut steps = || {
            disk.remove(&temporary_name(&name))?;
            disk.remove(&name)?;
            for kept in disk.names()?.iter().filter(|found| found.starts_with(&set_aside)) {
                disk.remove(kept)?;
            }
            disk.settle()
        };
        steps().map_err(|error| io_error("remove", &self.path.join(&name), error))
    }

    /// The account with the secret of its registered client at hand, if it has one. Waits for the disk.
    ///
    /// # Errors
    ///
    /// Those of [`Store::registration`]. [`StoreError::Client`] also if there is none, or that of another client or server
    /// than the account's: its secret would be sent to where it is not from.
    pub(crate) fn with_client_secret<'a>(&self, account: &'a Account) -> Result<Cow<'a, Account>, StoreError> {
        if account.client_secret != Some(ClientSecret::Registered) {
            return Ok(Cow::Borrowed(account));
        }
        let path = self.path.join(Registration::file_name(account.id.as_str()));
        let unusable = |problem: &str| StoreError::Client { path: path.clone(), problem: problem.to_owned() };
        if self.is_held() {
            return Err(StoreError::Locked { path, why: "somebody has locked it".to_owned() });
        }
        let found = self.registration(&account.id)?.ok_or_else(|| unusable("is gone"))?;
        let is_its_own = account.client_id.as_ref() == Some(&found.client.client_id)
            && account.server.registrar() == found.client.registered_at;
        match found.client_secret {
            Some(secret) if is_its_own => Ok(Cow::Owned(account.with_client_secret(secret))),
            Some(_) => Err(unusable("is of another client than the account's")),
            None => Err(unusable("has no secret")),
        }
    }
}

impl Inner {
    fn registration(
        &mut self,
        account: &AccountId,
        folder: &std::path::Path,
    ) -> Result<Option<Registration>, StoreError> {
        let name = Registration::file_name(account.as_str());
        let path = folder.join(&name);
        let bytes = match self.folder.disk.read(&name) {
            Ok(None) => return Ok(None),
            Ok(Some(bytes)) => bytes,
            Err(ReadError::TooLarge) => return Err(StoreError::Client { path, problem: "is too large".to_owned() }),
            Err(ReadError::NotOurs(problem)) => return Err(StoreError::NotOurFile { path, problem }),
            Err(ReadError::Io(error)) => return Err(StoreError::Io { action: "read", path, error }),
        };
        let is_open = self.sealing.shut().is_none();
        self.sealing.read_client(&bytes, account).map(Some).map_err(|unreadable| match unreadable {
            // that something can be sealed is known: it is an earlier key, which a person has left behind
            Unreadable::Away(why) if is_open => StoreError::KeyGone { path, why },
            Unreadable::Away(why) => StoreError::Locked { path, why },
            Unreadable::Gone(why) => StoreError::KeyGone { path, why },
            Unreadable::Newer(version) => StoreError::Newer { path, version },
            Unreadable::Garbage(problem) => StoreError::Client { path, problem },
        })
    }
}
