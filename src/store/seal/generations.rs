//! The latest generation of each account, as a sealed file: JSON, with what must be known of it while its key is away in the
//! clear, and bound to the rest.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::key::{Key, KeyId, NONCE_LENGTH, TAG_LENGTH, bound_to};
use super::ring::Unreadable;

/// Grows when an older valetd would misunderstand the file or lose something by rewriting it.
const VERSION: u64 = 1;

/// The latest generation of each account that was saved here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::store) struct Generations {
    /// By the account's name. One that has been signed out has the number after its last one: no record of before that is
    /// as late.
    pub(in crate::store) latest: BTreeMap<String, u64>,
    /// Whether the file before this one was lost: what was put back before this one was begun is not known.
    pub(in crate::store) begun_anew: bool,
}

/// The file, read and not opened.
#[derive(PartialEq, Eq, Debug)]
pub(in crate::store) struct SealedGenerations {
    /// Under which key.
    pub(in crate::store) key: KeyId,
    /// See [`Generations::begun_anew`].
    pub(in crate::store) begun_anew: bool,
    nonce: [u8; NONCE_LENGTH],
    sealed: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u64,
    key: KeyId,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    begun_anew: bool,
    nonce: String,
    sealed: String,
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

impl Generations {
    /// As they are written.
    pub(in crate::store) fn seal(&self, (id, key): (&KeyId, &Key), nonce: [u8; NONCE_LENGTH]) -> Vec<u8> {
        let Self { latest, begun_anew } = self;
        let mut sealed = serde_json::to_vec(latest).expect("names and numbers become JSON");
        sealed.reserve(TAG_LENGTH);
        key.seal(nonce, &generations_of(id, *begun_anew), &mut sealed);
        let written = Written {
            version: VERSION,
            key: id.clone(),
            begun_anew: *begun_anew,
            nonce: STANDARD.encode(nonce),
            sealed: STANDARD.encode(&sealed),
        };
        let mut bytes = serde_json::to_vec_pretty(&written).expect("strings and numbers become JSON");
        bytes.push(b'\n');
        bytes
    }
}

impl SealedGenerations {
    /// Reads the file.
    pub(in crate::store) fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        const NO_SENSE: Unreadable = Unreadable::Garbage("makes no sense");
        let Versioned { version } = serde_json::from_slice(bytes).map_err(|_| NO_SENSE)?;
        if version > VERSION {
            return Err(Unreadable::Newer(version));
        }
        let Written { version: _, key, begun_anew, nonce, sealed } =
            serde_json::from_slice(bytes).map_err(|_| NO_SENSE)?;
        let nonce = STANDARD.decode(nonce).ok().and_then(|nonce| nonce.try_into().ok()).ok_or(NO_SENSE)?;
        let sealed = STANDARD.decode(sealed).map_err(|_| NO_SENSE)?;
        Ok(Self { key, begun_anew, nonce, sealed })
    }

    /// What was sealed under this key, if it was.
    pub(in crate::store) fn open(self, key: &Key) -> Option<Generations> {
        let Self { key: id, begun_anew, nonce, sealed } = self;
        let mut bytes = Zeroizing::new(sealed);
        key.open(nonce, &generations_of(&id, begun_anew), &mut bytes)?;
        Some(Generations { latest: serde_json::from_slice(&bytes).ok()?, begun_anew })
    }
}

fn generations_of(key: &KeyId, begun_anew: bool) -> Vec<u8> {
    bound_to("valetd generations v1", &[key.as_str().as_bytes(), &[u8::from(begun_anew)]])
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

    fn generations() -> Generations {
        let latest = [("gbdx", 7), ("gdh", 1)].map(|(account, generation)| (account.to_owned(), generation));
        Generations { latest: latest.into(), begun_anew: true }
    }

    fn open(text: &str, number: u8) -> Option<Generations> {
        SealedGenerations::read(text.as_bytes()).ok()?.open(&key(number))
    }

    #[test]
    fn what_is_written_opens_under_its_key_and_as_it_was_alone() {
        let text = String::from_utf8(generations().seal((&id(1), &key(1)), [9; NONCE_LENGTH])).unwrap();
        assert!(!text.contains("gbdx"), "{text}");
        assert_eq!(open(&text, 1), Some(generations()));
        let rows = [
            ("another key", text.clone(), 2),
            ("another key's name", text.replace("0101", "0201"), 1),
            ("not begun anew", text.replace("true", "false"), 1),
            ("no nonce", text.replace("CQkJ", ""), 1),
            ("cut", text[..text.len() / 2].to_owned(), 1),
            ("something more", text.replace("\"version\"", "\"more\": 1, \"version\""), 1),
        ];
        for (case, text, number) in rows {
            assert_eq!(open(&text, number), None, "{case}");
        }
        let later = SealedGenerations::read(br#"{"version": 2, "anything": []}"#);
        assert_eq!(later, Err(Unreadable::Newer(2)));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            let _ = SealedGenerations::read(&bytes);
        }
    }
}
