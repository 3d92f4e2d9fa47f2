//! The ring: which keys there are, and each of them wrapped in one slot or several. No secret stands in it in the clear.

use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::key::{Key, KeyId, NONCE_LENGTH, TAG_LENGTH, bound_to};
use crate::secret::Secret;

/// Grows when an older valetd would misunderstand the ring or lose something by rewriting it.
const VERSION: u64 = 1;

const SALT_LENGTH: usize = 16;

/// Random bytes that a slot takes.
pub(in crate::store) const SLOT_RANDOM: usize = SALT_LENGTH + NONCE_LENGTH;

/// The keys that records may be sealed under.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::store) struct Ring {
    /// The one that is sealed under from now on; `None` while everything is being unsealed.
    pub(in crate::store) active: Option<KeyId>,
    /// All of them, the oldest first; the active one is among them.
    pub(in crate::store) keys: Vec<RingKey>,
    /// Why the source of the active key was chosen, where nobody has named one, in sentences.
    pub(in crate::store) because: Vec<String>,
}

/// A key, wrapped. Any slot is enough.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct RingKey {
    pub(in crate::store) id: KeyId,
    /// In Unix seconds.
    pub(in crate::store) made_at: u64,
    pub(in crate::store) slots: Vec<Slot>,
}

/// One way to a key: wrapped under what a source gives.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct Slot {
    /// The source, in one word.
    pub(in crate::store) source: String,
    /// What the source itself wants back, if it keeps nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::store) blob: Option<String>,
    /// How the secret is stretched first, if it is one that can be guessed: a passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    argon2id: Option<Stretch>,
    salt: String,
    nonce: String,
    wrapped: String,
}

/// Each takes 64 MiB: a dozen wrong guesses at once would be a lot of memory, and be no faster.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The cost of a guess (RFC 9106).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct Stretch {
    memory_kib: u32,
    passes: u32,
}

impl Stretch {
    /// The second choice of RFC 9106 section 4, for less than the first one's 2 GiB: a fifth of a second here.
    pub(in crate::store) const FOR_PASSPHRASES: Self = Self { memory_kib: 64 * 1024, passes: 3 };

    /// What a ring that somebody else has written may cost us.
    const MOST: Self = Self { memory_kib: 1024 * 1024, passes: 16 };

    fn of(self, secret: &[u8], salt: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
        let Self { memory_kib, passes } = self;
        if memory_kib > Self::MOST.memory_kib || passes > Self::MOST.passes {
            return None;
        }
        let cost = argon2::Params::new(memory_kib, passes, 1, None).ok()?;
        let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, cost);
        let mut stretched = Zeroizing::new([0; 32]);
        let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        argon2.hash_password_into(secret, salt, stretched.as_mut_slice()).ok()?;
        Some(stretched)
    }
}

/// Why a ring cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::store) enum Unreadable {
    /// Of a later version.
    Newer(u64),
    /// Not one of ours; a predicate.
    Garbage(&'static str),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u64,
    active: Option<KeyId>,
    keys: Vec<RingKey>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    because: Vec<String>,
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

impl Ring {
    /// Reads a ring. What it returns names no key twice, and its active one is there.
    pub(in crate::store) fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        let no_sense = |_| Unreadable::Garbage("makes no sense");
        let Versioned { version } = serde_json::from_slice(bytes).map_err(no_sense)?;
        if version > VERSION {
            return Err(Unreadable::Newer(version));
        }
        let Written { version: _, active, keys, because } = serde_json::from_slice(bytes).map_err(no_sense)?;
        let ring = Self { active, keys, because };
        if ring.active.as_ref().is_some_and(|active| ring.key(active).is_none()) {
            return Err(Unreadable::Garbage("lacks the key that it calls active"));
        }
        let is_double = |key: &RingKey| ring.keys.iter().filter(|other| other.id == key.id).count() > 1;
        if ring.keys.iter().any(is_double) {
            return Err(Unreadable::Garbage("has a key twice"));
        }
        Ok(ring)
    }

    /// As it is written.
    pub(in crate::store) fn write(&self) -> Vec<u8> {
        let Self { active, keys, because } = self.clone();
        let written = Written { version: VERSION, active, keys, because };
        let mut bytes = serde_json::to_vec_pretty(&written).expect("strings and numbers become JSON");
        bytes.push(b'\n');
        bytes
    }

    /// The key of this name.
    pub(in crate::store) fn key(&self, id: &KeyId) -> Option<&RingKey> {
        self.keys.iter().find(|key| key.id == *id)
    }

    /// The key that is sealed under.
    pub(in crate::store) fn active_key(&self) -> Option<&RingKey> {
        self.key(self.active.as_ref()?)
    }
}

impl Slot {
    /// Wraps a key under a secret of at least 128 bits, or one that is stretched.
    pub(in crate::store) fn wrap(
        source: &str,
        blob: Option<String>,
        (secret, argon2id): (&Secret, Option<Stretch>),
        random: [u8; SLOT_RANDOM],
        (id, key): (&KeyId, &Key),
    ) -> Self {
        let (salt, nonce) = random.split_at(SALT_LENGTH);
        let nonce: [u8; NONCE_LENGTH] = nonce.try_into().expect("what is left of SLOT_RANDOM");
        let mut bytes = Zeroizing::new(Vec::with_capacity(key.expose().len() + TAG_LENGTH));
        bytes.extend_from_slice(key.expose());
        let wrapping = wrapping(secret, argon2id, salt).expect("a cost of our own is one that can be paid");
        wrapping.seal(nonce, &slot_of(source, id), &mut bytes);
        let [salt, nonce, wrapped] = [salt, &nonce, &bytes].map(|bytes| STANDARD.encode(bytes));
        Self { source: source.to_owned(), blob, argon2id, salt, nonce, wrapped }
    }

    /// The key `id`, if this is the secret that it was wrapped under.
    pub(in crate::store) fn unwrap(&self, id: &KeyId, secret: &Secret) -> Option<Key> {
        let decode = |text: &str| STANDARD.decode(text).ok();
        let nonce = decode(&self.nonce)?.try_into().ok()?;
        let mut bytes = Zeroizing::new(decode(&self.wrapped)?);
        let wrapping = wrapping(secret, self.argon2id, &decode(&self.salt)?)?;
        wrapping.open(nonce, &slot_of(&self.source, id), &mut bytes)?;
        Key::from_bytes(&bytes)
    }
}

fn wrapping(secret: &Secret, argon2id: Option<Stretch>, salt: &[u8]) -> Option<Key> {
    let secret = secret.expose().as_bytes();
    const PURPOSE: &[u8] = b"valetd seal slot v1";
    match argon2id {
        None => Some(Key::derived(secret, salt, PURPOSE)),
        Some(stretch) => Some(Key::derived(stretch.of(secret, salt)?.as_slice(), salt, PURPOSE)),
    }
}

fn slot_of(source: &str, id: &KeyId) -> Vec<u8> {
    bound_to("valetd slot v1", &[source.as_bytes(), id.as_str().as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> KeyId {
        KeyId::from_random([number; 8])
    }

    fn key(number: u8) -> Key {
        Key::from_bytes(&[number; 32]).unwrap()
    }

    fn slot(source: &str, secret: &str, number: u8) -> Slot {
        Slot::wrap(source, None, (&Secret::new(secret), None), [5; SLOT_RANDOM], (&id(number), &key(number)))
    }

    fn ring() -> Ring {
        let slots = |number| vec![slot("file", "a long secret", number), slot("recovery", "another", number)];
        let keys = [1, 2].map(|number| RingKey { id: id(number), made_at: 1_700_000_000, slots: slots(number) });
        Ring { active: Some(id(2)), keys: keys.to_vec(), because: vec!["nothing else was there".to_owned()] }
    }

    #[test]
    fn what_is_written_is_read_and_has_no_key_in_the_clear() {
        let bytes = ring().write();
        assert_eq!(Ring::read(&bytes).unwrap(), ring());
        let text = String::from_utf8(bytes).unwrap();
        assert!(!text.contains(&STANDARD.encode([2; 32])[..8]) && !text.contains("secret"), "{text}");
    }

    #[test]
    fn each_slot_alone_opens_its_key_with_its_own_secret() {
        let ring = ring();
        let [file, recovery] = &ring.active_key().unwrap().slots[..] else { panic!("two slots") };
        let rows = [
            ("the file's", file, 2, "a long secret", true),
            ("the recovery's", recovery, 2, "another", true),
            ("the other one's", file, 2, "another", false),
            ("for another key", file, 1, "a long secret", false),
        ];
        for (case, slot, number, secret, opens) in rows {
            let found = slot.unwrap(&id(number), &Secret::new(secret));
            assert_eq!(found, opens.then(|| key(2)), "{case}");
        }
        let renamed = Slot { source: "recovery".to_owned(), ..file.clone() };
        assert_eq!(renamed.unwrap(&id(2), &Secret::new("a long secret")), None);
    }

    #[test]
    fn a_passphrase_is_stretched_by_argon2id_and_a_cost_beyond_reason_is_not_paid() {
        let secret = Secret::new("four words of mine");
        let cheap = Stretch { memory_kib: 64, passes: 2 };
        let slot = Slot::wrap("passphrase", None, (&secret, Some(cheap)), [5; SLOT_RANDOM], (&id(1), &key(1)));
        assert_eq!(slot.unwrap(&id(1), &secret), Some(key(1)));
        assert_eq!(slot.unwrap(&id(1), &Secret::new("four words of hers")), None);
        for argon2id in [
            None,
            Some(Stretch { passes: 3, ..cheap }),
            Some(Stretch { memory_kib: u32::MAX, ..cheap }),
            Some(Stretch { passes: u32::MAX, ..cheap }),
            Some(Stretch { memory_kib: 0, ..cheap }),
        ] {
            assert_eq!(Slot { argon2id, ..slot.clone() }.unwrap(&id(1), &secret), None, "{argon2id:?}");
        }
        // as the reference implementation has it (phc-winner-argon2, test.c: 256 KiB, two passes, one lane)
        let found = Stretch { memory_kib: 256, passes: 2 }.of(b"password", b"somesalt").unwrap();
        let hex: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe");
    }

    #[test]
    fn what_is_no_ring_is_refused_and_a_later_version_is_known() {
        let text = String::from_utf8(ring().write()).unwrap();
        let (first, second) = (id(1), id(2));
        let rows = [
            ("cut", text[..text.len() / 2].to_owned(), Unreadable::Garbage("makes no sense")),
            ("empty", String::new(), Unreadable::Garbage("makes no sense")),
            ("unknown members", text.replace("made_at", "made_on"), Unreadable::Garbage("makes no sense")),
            ("twice the same", text.replace(first.as_str(), second.as_str()), Unreadable::Garbage("has a key twice")),
            (
                "an active one that is not there",
                text.replacen(second.as_str(), "ffffffffffffffff", 1),
                Unreadable::Garbage("lacks the key that it calls active"),
            ),
            ("later", r#"{"version": 2, "anything": []}"#.to_owned(), Unreadable::Newer(2)),
        ];
        for (case, text, expected) in rows {
            assert_eq!(Ring::read(text.as_bytes()), Err(expected), "{case}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            let _ = Ring::read(&bytes);
        }
    }
}
