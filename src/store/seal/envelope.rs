//! A sealed file as it is written: JSON, with what must be known of it while its key is away in the clear.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::key::{Key, KeyId, NONCE_LENGTH, TAG_LENGTH, bound_to};

/// The version of a sealed file; a plain record has an earlier one.
pub(in crate::store) const VERSION: u64 = 2;

/// A sealed file, read and not opened.
#[derive(PartialEq, Eq, Debug)]
pub(in crate::store) struct Envelope {
    /// The generation of what is in it.
    pub(in crate::store) generation: u64,
    /// Under which key.
    pub(in crate::store) key: KeyId,
    nonce: [u8; NONCE_LENGTH],
    sealed: Vec<u8>,
}

/// Why a sealed file says nothing; a predicate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(in crate::store) enum Rejected {
    /// It ends too early, or holds something else.
    #[error("is sealed, and not whole")]
    Cut,
    /// It says itself whose it is.
    #[error("is sealed for another account: it was copied or renamed")]
    Moved,
    /// Who seals it can make it open; whoever has changed it cannot.
    #[error("is sealed, and was changed after that, or its generation was, or it is of another store")]
    Changed,
}

#[derive(Serialize, Deserialize)]
struct Written {
    version: u64,
    account: String,
    generation: u64,
    key: KeyId,
    nonce: String,
    sealed: String,
}

impl Envelope {
    /// Seals what is to be kept for `account`. `plain` is taken over and encrypted where it lies.
    pub(in crate::store) fn seal(
        account: &str,
        generation: u64,
        (id, key): (&KeyId, &Key),
        nonce: [u8; NONCE_LENGTH],
        mut plain: Zeroizing<Vec<u8>>,
    ) -> Vec<u8> {
        if plain.capacity() < plain.len() + TAG_LENGTH {
            // one that grows in its place leaves a copy behind that nobody wipes
            let mut roomy = Zeroizing::new(Vec::with_capacity(plain.len() + TAG_LENGTH));
            roomy.extend_from_slice(&plain);
            plain = roomy;
        }
        key.seal(nonce, &record_of(account, generation, id), &mut plain);
        let written = Written {
            version: VERSION,
            account: account.to_owned(),
            generation,
            key: id.clone(),
            nonce: STANDARD.encode(nonce),
            sealed: STANDARD.encode(&*plain),
        };
        let mut bytes = serde_json::to_vec_pretty(&written).expect("strings and numbers become JSON");
        bytes.push(b'\n');
        bytes
    }

    /// Reads a file that says that it is sealed, for `account`, as the file's name has it.
    pub(in crate::store) fn read(bytes: &[u8], expected: &str) -> Result<Self, Rejected> {
        let Written { version: _, account, generation, key, nonce, sealed } =
            serde_json::from_slice(bytes).map_err(|_| Rejected::Cut)?;
        if account != expected {
            return Err(Rejected::Moved);
        }
        let nonce = STANDARD.decode(nonce).ok().and_then(|nonce| nonce.try_into().ok()).ok_or(Rejected::Cut)?;
        let sealed = STANDARD.decode(sealed).map_err(|_| Rejected::Cut)?;
        Ok(Self { generation, key, nonce, sealed })
    }

    /// What was sealed, if it was for `account` and under this key.
    pub(in crate::store) fn open(self, account: &str, key: &Key) -> Result<Zeroizing<Vec<u8>>, Rejected> {
        let Self { generation, key: id, nonce, sealed } = self;
        let mut bytes = Zeroizing::new(sealed);
        key.open(nonce, &record_of(account, generation, &id), &mut bytes).ok_or(Rejected::Changed)?;
        Ok(bytes)
    }
}

/// The key that a sealed file names, whatever is in it and whoever it is for.
pub(in crate::store) fn key_named_in(bytes: &[u8]) -> Option<KeyId> {
    #[derive(Deserialize)]
    struct Named {
        key: KeyId,
    }
    serde_json::from_slice(bytes).ok().map(|Named { key }| key)
}

fn record_of(account: &str, generation: u64, key: &KeyId) -> Vec<u8> {
    bound_to("valetd record v2", &[account.as_bytes(), &generation.to_be_bytes(), key.as_str().as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = br#"{"refresh_token": "the-token"}"#;

    fn id(number: u8) -> KeyId {
        KeyId::from_random([number; 8])
    }

    fn key(number: u8) -> Key {
        Key::from_bytes(&[number; 32]).unwrap()
    }

    fn sealed() -> Vec<u8> {
        Envelope::seal("gbdx", 7, (&id(1), &key(1)), [9; NONCE_LENGTH], Zeroizing::new(PLAIN.to_vec()))
    }

    fn open(bytes: &[u8], account: &str, key: &Key) -> Result<Vec<u8>, Rejected> {
        Envelope::read(bytes, account)?.open(account, key).map(|plain| plain.to_vec())
    }

    #[test]
    fn a_sealed_file_says_whose_it_is_and_nothing_of_what_is_in_it() {
        let text = String::from_utf8(sealed()).unwrap();
        for shown in ["\"version\": 2", "\"account\": \"gbdx\"", "\"generation\": 7", "0101010101010101"] {
            assert!(text.contains(shown), "{shown}: {text}");
        }
        assert!(!text.contains("the-token") && !text.contains("refresh_token"), "{text}");
        assert_eq!(open(&sealed(), "gbdx", &key(1)).unwrap(), PLAIN);
    }

    #[test]
    fn what_was_moved_renumbered_or_mixed_with_another_ring_is_refused_and_said() {
        let text = String::from_utf8(sealed()).unwrap();
        let rows = [
            ("as it is", text.clone(), "gbdx", 1, None),
            ("another account's file name", text.clone(), "gdh", 1, Some(Rejected::Moved)),
            ("and its text as well", text.replace("gbdx", "gdh"), "gdh", 1, Some(Rejected::Changed)),
            ("a later generation", text.replace(": 7", ": 8"), "gbdx", 1, Some(Rejected::Changed)),
            ("an earlier generation", text.replace(": 7", ": 6"), "gbdx", 1, Some(Rejected::Changed)),
            ("another key's name", text.replace("0101", "0201"), "gbdx", 1, Some(Rejected::Changed)),
            ("another key", text.clone(), "gbdx", 2, Some(Rejected::Changed)),
            ("no nonce", text.replace("CQkJ", ""), "gbdx", 1, Some(Rejected::Cut)),
        ];
        for (case, text, account, number, refused) in rows {
            let found = open(text.as_bytes(), account, &key(number));
            assert_eq!(found.err(), refused, "{case}: {text}");
        }
    }

    #[test]
    fn every_beginning_of_a_file_is_told_from_the_whole() {
        let whole = sealed();
        for length in 0..whole.len() - 2 {
            assert_eq!(open(&whole[..length], "gbdx", &key(1)), Err(Rejected::Cut), "{length} bytes");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_byte_of_a_sealed_file_can_be_changed_into_another_content(at in 0..400usize, to: u8) {
            let mut bytes = sealed();
            let at = at % bytes.len();
            bytes[at] = to;
            if let Ok(plain) = open(&bytes, "gbdx", &key(1)) {
                proptest::prop_assert_eq!(plain, PLAIN);
            }
        }
    }
}
