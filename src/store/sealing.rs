//! What stands between records and files: the ring, and those of its keys that are at hand.
//!
//! Without a ring, files are in the clear. With one, what is written is sealed under its active key or not written at all:
//! a store never becomes weaker by itself. What is read may be either, since sealing takes a file at a time.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::file::{self, Marked, Marks, Unreadable};
use super::record::Record;
use super::seal::{self, Envelope, Key, KeyId, NONCE_LENGTH, Ring, RingKey, SealedClient};
use crate::config::AccountId;
use crate::key_source::{Kind, NoSecret};
use crate::oauth::rfc7591::Registration;
use crate::secret::Secret;

/// The ring, and those of its keys that are at hand.
#[derive(Debug, Default)]
pub(super) struct Sealing {
    ring: Option<Ring>,
    keys: BTreeMap<KeyId, Held>,
    /// Why the ring, which there must be, cannot be used: then nothing can be opened, and nothing is written.
    trouble: Option<Trouble>,
    /// Whether the latest generations are kept in their file; see [`super::generations`].
    counts: bool,
    /// What is to be said of that file, in a sentence, if it was lost.
    doubt: Option<String>,
}

/// Why a ring cannot be used, in a sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Trouble {
    /// It may be whole, and something keeps us from reading it. Nothing takes its place: its keys would be lost.
    Unread(String),
    /// It is missing, or makes no sense: another one may be begun.
    Lost(String),
}

impl Trouble {
    pub(super) fn why(&self) -> &str {
        match self {
            Self::Unread(why) | Self::Lost(why) => why,
        }
    }
}

/// How a key of the ring stands.
#[derive(Clone, Debug)]
pub(super) enum Held {
    /// It is here.
    AtHand(Key),
    /// It may come; why it is not here.
    Away(String),
    /// It will not come back; how that shows.
    Gone(String),
}

impl Sealing {
    /// With a ring, none of whose keys has been asked for.
    pub(super) fn with(ring: Ring) -> Self {
        let unasked = |key: &RingKey| (key.id.clone(), Held::Away("it is being asked for".to_owned()));
        Self { keys: ring.keys.iter().map(unasked).collect(), ring: Some(ring), ..Self::default() }
    }

    /// With a ring that cannot be used, for this reason.
    pub(super) fn in_trouble(trouble: Trouble) -> Self {
        Self { trouble: Some(trouble), ..Self::default() }
    }

    /// The ring, if there is one that can be used.
    pub(super) fn ring(&self) -> Option<&Ring> {
        self.ring.as_ref()
    }

    /// Why the ring cannot be used, if there is one and it cannot.
    pub(super) fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// Another ring takes the place of this one. The keys that it shares with this one stay at hand.
    pub(super) fn replace_ring(&mut self, ring: Option<Ring>) {
        let is_sealed = ring.is_some();
        let Self { keys, counts, doubt, .. } = std::mem::replace(self, ring.map(Self::with).unwrap_or_default());
        self.counts = counts && is_sealed;
        self.doubt = doubt.filter(|_| is_sealed);
        for (id, held) in keys {
            self.hold(id, held);
        }
    }

    /// How a key of the ring stands from here on.
    pub(super) fn hold(&mut self, id: KeyId, held: Held) {
        if let Some(known) = self.keys.get_mut(&id) {
            *known = held;
        }
    }

    /// The keys that are not at hand.
    pub(super) fn missing(&self) -> Vec<RingKey> {
        let is_missing = |key: &&RingKey| !matches!(self.keys.get(&key.id), Some(Held::AtHand(_)));
        self.ring.iter().flat_map(|ring| &ring.keys).filter(is_missing).cloned().collect()
    }

    /// Forgets the keys, for this reason; the ring stays.
    pub(super) fn forget_keys(&mut self, why: &str) {
        for held in self.keys.values_mut() {
            *held = Held::Away(why.to_owned());
        }
    }

    /// Why nothing can be written, if that is so.
    pub(super) fn shut(&self) -> Option<Unreadable> {
        if let Some(trouble) = &self.trouble {
            return Some(Unreadable::Away(trouble.why().to_owned()));
        }
        let ring = self.ring.as_ref()?;
        match &ring.active {
            Some(active) => self.key(active).err(),
            // unsealing was cut short, and goes on when its keys come; one that will not come back keeps nobody waiting
            None => ring
                .keys
                .iter()
                .find_map(|key| self.key(&key.id).err().filter(|why| matches!(why, Unreadable::Away(_)))),
        }
    }

    /// The key that is sealed under, if anything is.
    pub(super) fn active(&self) -> Option<&KeyId> {
        self.ring.as_ref()?.active.as_ref()
    }

    /// The same, if it is at hand.
    pub(super) fn active_at_hand(&self) -> Option<(&KeyId, &Key)> {
        let id = self.active()?;
        Some((id, self.key(id).ok()?))
    }

    /// From here on, the latest generations are kept in their file, or not.
    pub(super) fn counts(&mut self, counts: bool) {
        self.counts = counts;
    }

    /// What is to be said of the file of the latest generations, if it was lost.
    pub(super) fn doubt(&self) -> Option<&String> {
        self.doubt.as_ref()
    }

    /// Sets that.
    pub(super) fn set_doubt(&mut self, doubt: Option<String>) {
        self.doubt = doubt;
    }

    /// Reads what stands in an account's file.
    pub(super) fn read(&self, bytes: &[u8], account: &AccountId) -> Result<Marked, Unreadable> {
        if file::version(bytes)? != seal::VERSION {
            return file::read_marked(bytes, account);
        }
        let rejected = |rejected: seal::Rejected| Unreadable::Garbage(rejected.to_string());
        let envelope = Envelope::read(bytes, account.as_str()).map_err(rejected)?;
        let key = self.key(&envelope.key)?;
        let generation = envelope.generation;
        let marked = file::read_marked(&envelope.open(account.as_str(), key).map_err(rejected)?, account)?;
        match marked.record.generation == generation {
            true => Ok(marked),
            false => Err(Unreadable::Garbage("is sealed, and its generation is not the one inside".to_owned())),
        }
    }

    /// What is to stand in a record's file.
    pub(super) fn write(
        &self,
        record: &Record,
        marks: Marks<'_>,
        nonce: [u8; NONCE_LENGTH],
    ) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
        if let Some(shut) = self.shut() {
            return Err(shut);
        }
        let Some(id) = self.active() else {
            // where everything lies in the clear, nothing has to say so
            return Ok(file::write_marked(record, Marks { lay_in_the_clear: false, is_counted: false, ..marks }));
        };
        let plain = file::write_marked(record, Marks { is_counted: self.counts, ..marks });
        let key = self.key(id)?;
        Ok(Zeroizing::new(Envelope::seal(record.account.as_str(), record.generation, (id, key), nonce, plain)))
    }

    /// Reads what stands in the file of an account's registered client.
    pub(super) fn read_client(&self, bytes: &[u8], account: &AccountId) -> Result<Registration, Unreadable> {
        let garbage = |why: &str| Unreadable::Garbage(why.to_owned());
        match file::version(bytes) {
            Ok(version) if version > seal::VERSION => Err(Unreadable::Newer(version)),
            Ok(seal::VERSION) => {
                let rejected = |rejected: seal::Rejected| garbage(&rejected.to_string());
                let sealed = SealedClient::read(bytes, account.as_str()).map_err(rejected)?;
                let key = self.key(&sealed.key)?;
                sealed.open(account.as_str(), key).map_err(rejected)
            }
            // one in the clear has no version
            Ok(_) | Err(_) => Registration::read_file(bytes, account.as_str())
                .ok_or_else(|| garbage("makes no sense, or belongs to another account")),
        }
    }

    /// What is to stand in the file of an account's registered client.
    pub(super) fn write_client(
        &self,
        account: &AccountId,
        registration: &Registration,
        nonce: [u8; NONCE_LENGTH],
    ) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
        if let Some(shut) = self.shut() {
            return Err(shut);
        }
        let Some(id) = self.ring.as_ref().and_then(|ring| ring.active.as_ref()) else {
            return Ok(Zeroizing::new(registration.write(account.as_str()).expose().as_bytes().to_vec()));
        };
        let key = self.key(id)?;
        Ok(Zeroizing::new(SealedClient::seal(account.as_str(), registration, (id, key), nonce)))
    }

    /// Whether a file stands as it would be written now.
    pub(super) fn is_as_written_now(&self, bytes: &[u8]) -> bool {
        let active = self.active();
        match is_sealed(bytes) {
            true => active.is_some() && key_of(bytes).as_ref() == active,
            false => active.is_none(),
        }
    }

    /// A key, if it is at hand.
    pub(super) fn key(&self, id: &KeyId) -> Result<&Key, Unreadable> {
        match (self.keys.get(id), &self.trouble) {
            (Some(Held::AtHand(key)), _) => Ok(key),
            (Some(Held::Away(why)), _) => Err(Unreadable::Away(why.clone())),
            (Some(Held::Gone(why)), _) => Err(Unreadable::Gone(why.clone())),
            (None, Some(trouble)) => Err(Unreadable::Away(trouble.why().to_owned())),
            (None, None) => Err(Unreadable::Gone(format!("the key {id} is in no ring of this store"))),
        }
    }
}

/// Fetches a key by any of its slots.
pub(super) fn fetch(key: &RingKey, ask: &mut impl FnMut(Kind, Option<&str>) -> Result<Secret, NoSecret>) -> Held {
    let mut why = None;
    for slot in &key.slots {
        let held = match Kind::named(&slot.source).map(|kind| ask(kind, slot.blob.as_deref())) {
            Some(Ok(secret)) => match slot.unwrap(&key.id, &secret) {
                Some(key) => return Held::AtHand(key),
                None if slot.source == Kind::Passphrase.name() => Held::Away("that is not the passphrase".to_owned()),
                None => Held::Away(format!("the {} gives another key than the one it was sealed with", slot.source)),
            },
            Some(Err(why @ NoSecret::NotAsked)) => Held::Away(why.to_string()),
            Some(Err(NoSecret::Away(why))) => Held::Away(format!("{}: {why}", slot.source)),
            Some(Err(NoSecret::Gone(why))) => Held::Gone(format!("{}: {why}", slot.source)),
            None => Held::Away(format!("it comes from {}, which this valetd does not know", slot.source)),
        };
        // the first one is that of every day; a recovery slot says no more than that it is one
        why.get_or_insert(held);
    }
    why.unwrap_or_else(|| Held::Gone("there is no way to it in the ring".to_owned()))
}

/// Whether a file says that it is sealed, whatever it is called and whoever it is for.
pub(super) fn is_sealed(bytes: &[u8]) -> bool {
    file::version(bytes).is_ok_and(|version| version == seal::VERSION)
}

/// The key that a file is sealed under, whatever it is called and whoever it is for; `None` if it is in the clear.
pub(super) fn key_of(bytes: &[u8]) -> Option<KeyId> {
    is_sealed(bytes).then(|| seal::key_named_in(bytes)).flatten()
}
