//! What a person may ask for: a seal, another key, no seal, a recovery code. The daemon does it, or, where none runs, the
//! person's own process under the store's lock.

use serde::{Deserialize, Serialize};

use super::reseal::{Left, SealError, random};
use super::{SealState, Store};
use crate::advice::advised;
use crate::config::AccountId;
use crate::key_source::{self, KeySources, Kind, NoSecret};
use crate::secret::Secret;

/// What a person asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SealChange {
    /// Seal everything, from the source that the configuration names or the best that there is.
    On,
    /// The same where the key in force cannot be had: what is sealed under it is left as it is.
    OnAnew,
    /// Another key takes the place of the one in force.
    Rotate,
    /// Everything in the clear.
    Off,
    /// Another way in, by a code that is shown once. Those before it open the store until it has been seen.
    Recovery,
    /// The code that is handed back has been seen: those before it are void.
    RecoverySeen,
}

impl SealChange {
    /// Whether a new key takes the place of the one in force.
    pub(crate) fn makes_key(self) -> bool {
        match self {
            Self::On | Self::OnAnew | Self::Rotate => true,
            Self::Off | Self::Recovery | Self::RecoverySeen => false,
        }
    }
}

/// What has become of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SealChanged {
    /// What is so now, in sentences.
    pub said: Vec<String>,
    /// What was left as it was, in sentences.
    pub left: Left,
    /// The recovery code, this once.
    pub recovery_code: Option<Secret>,
    /// The accounts whose credentials lay in the clear before, and may be found in what was written then: they should be
    /// spent.
    pub lay_in_the_clear: Vec<AccountId>,
}

impl Store {
    /// Does what a person asks for. Waits for the sources and for the disk.
    ///
    /// # Errors
    ///
    /// [`SealError`]; then the next start goes on from where this has come to.
    pub(crate) fn change_seal(
        &self,
        change: SealChange,
        sources: &KeySources,
        unix_now: u64,
    ) -> Result<SealChanged, SealError> {
        self.forgetting(sources, || self.change_seal_here(change, sources, unix_now))
    }

    /// Does something to the ring, and has the sources forget what they have kept for it and is of no use any more. A change
    /// that fails may have come as far as the disk: then nothing is forgotten.
    fn forgetting<T>(&self, sources: &KeySources, work: impl FnOnce() -> Result<T, SealError>) -> Result<T, SealError> {
        let before = self.ways();
        let done = work()?;
        let after = self.ways();
        for (kind, blob) in before.iter().filter(|way| !after.contains(way)) {
            sources.forget(*kind, blob.as_deref());
        }
        Ok(done)
    }

    fn change_seal_here(
        &self,
        change: SealChange,
        sources: &KeySources,
        unix_now: u64,
    ) -> Result<SealChanged, SealError> {
        if self.seal_state().locked.is_some() && !self.is_held() {
            // what was away may be back; if it is not, what follows says so
            let _ = self.unlock(|kind, blob| sources.secret(kind, blob));
        }
        let nothing =
            SealChanged { said: Vec::new(), left: Left::default(), recovery_code: None, lay_in_the_clear: Vec::new() };
        match change {
            SealChange::Off => {
                let left = self.unseal()?;
                let said = vec!["credentials are in the clear on the disk, for this user alone (0600)".to_owned()];
                Ok(SealChanged { said, left, ..nothing })
            }
            SealChange::Recovery => {
                let code = key_source::recovery_code(&*random()?);
                self.add_way(&key_source::recovery(&code))?;
                let said = vec![
                    "this is the only time that the code is shown: write it down and keep it away from this machine"
                        .to_owned(),
                    format!("it opens the store where its key is lost: {}", advised("unlock --recovery")),
                ];
                Ok(SealChanged { said, recovery_code: Some(code), ..nothing })
            }
            SealChange::RecoverySeen => {
                self.void_codes_before(sources)?;
                Ok(SealChanged { said: vec!["codes that were made before are void".to_owned()], ..nothing })
            }
            SealChange::Rotate | SealChange::On | SealChange::OnAnew => {
                let (said, left) = self.seal_as_configured(change, sources, unix_now)?;
                Ok(SealChanged { said, left, lay_in_the_clear: self.still_exposed()?, ..nothing })
            }
        }
    }

    /// Seals with a key from the configured source. Returns what is so now, in sentences.
    fn seal_as_configured(
        &self,
        change: SealChange,
        sources: &KeySources,
        unix_now: u64,
    ) -> Result<(Vec<String>, Left), SealError> {
        if change == SealChange::Rotate {
            self.has_ring()?;
        }
        self.may_have_another_ring(change == SealChange::OnAnew)?;
        let SealState { sealed: before, .. } = self.seal_state();
        let offer = sources.offer().map_err(SealError::NoSource)?;
        let source = offer.kind.name();
        let asks_for_another = change != SealChange::On;
        if !asks_for_another && before.is_some() && self.is_kept_by(offer.kind, sources) {
            sources.forget(offer.kind, offer.blob.as_deref()); // nothing is wrapped by what was offered
            // and what was cut short is done
            let left = self.go_on()?;
            return Ok((vec![format!("credentials are sealed by {source} already")], left));
        }
        let sealed = match change {
            SealChange::OnAnew => self.seal_anew(&offer, unix_now),
            _ => self.seal(&offer, unix_now),
        };
        if let Err(SealError::Locked(_) | SealError::Ring(_)) = &sealed {
            sources.forget(offer.kind, offer.blob.as_deref()); // refused, so that nothing is wrapped by it
        }
        let left = sealed?;
        let mut said = vec![format!("credentials are sealed, and the key is kept by: {source}")];
        said.extend(offer.because);
        match before {
            None => {
                let words = "what lay in the clear was overwritten once; a file system that copies on write, or a flash disk, \
                             keeps it for a while, and a backup for good";
                said.push(words.to_owned());
            }
            Some(before) if before.has_recovery => {
                let recovery = advised("seal recovery");
                said.push(format!("the recovery code was for the key before: {recovery} makes one for this key"));
            }
            Some(_) => {}
        }
        // a key that nothing needs any more is in the ring no more
        if !self.inner().sealing.missing().is_empty() {
            said.push(format!(
                "what is left as it was opens again when its key comes back, or by the recovery code of that time; to use \
                 such an account before that: {}",
                advised("login NAME")
            ));
        }
        Ok((said, left))
    }

    /// Opens the store by a recovery code, and has the configured source open it from now on, if that can be had. Returns
    /// what is so now, in sentences.
    ///
    /// # Errors
    ///
    /// [`SealError`]
    pub(crate) fn recover(&self, code: &Secret, sources: &KeySources) -> Result<Vec<String>, SealError> {
        self.has_ring()?;
        let offer = key_source::recovery(code);
        let ask = |kind, _: Option<&str>| match kind {
            Kind::Recovery => Ok(offer.secret.clone()),
            Kind::File | Kind::Command | Kind::Unit | Kind::Systemd | Kind::SecretService | Kind::Passphrase => {
                Err(NoSecret::Away("it is not asked".to_owned()))
            }
        };
        // also where the key is at hand: who has locked it wants the code, and not any
        if !self.opens_any(ask) {
            return Err(SealError::Locked("the code is not the one that opens it".to_owned()));
        }
        let Left(left) = self.unlock(ask)?;
        let mut said = vec!["the store is open".to_owned()];
        said.extend(left);
        match sources.offer() {
            Ok(offer) => {
                self.forgetting(sources, || self.add_way(&offer))?;
                said.push(format!("from now on, its key is kept by: {}", offer.kind.name()));
            }
            Err(why) => said.push(format!("it will be locked again after a restart: {}", why.join("; "))),
        }
        Ok(said)
    }
}
