//! The keys themselves, and the one cipher: AES-256-GCM-SIV (RFC 8452), which forgives a nonce that is used twice.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::platform::secret_page::SecretPage;

/// Bytes of a nonce, which are chosen at random.
pub(in crate::store) const NONCE_LENGTH: usize = NONCE_LEN;

/// Bytes that the cipher adds.
pub(super) const TAG_LENGTH: usize = 16;

/// A key of 32 bytes, in memory that is not swapped; wiped with its last copy.
#[derive(Clone)]
pub(in crate::store) struct Key(Arc<SecretPage>);

/// Bytes of a key.
const KEY_LENGTH: usize = 32;

impl Key {
    /// Takes 32 bytes over, if they are that many.
    pub(in crate::store) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == KEY_LENGTH).then(|| Self(Arc::new(SecretPage::holding(bytes))))
    }

    /// The key that a secret of high entropy stands for (HKDF-SHA256, RFC 5869).
    pub(super) fn derived(secret: &[u8], salt: &[u8], purpose: &[u8]) -> Self {
        let mut key = Zeroizing::new([0; KEY_LENGTH]);
        let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
        let purpose = [purpose];
        let okm = derived.expand(&purpose, hkdf::HKDF_SHA256).expect("32 bytes are asked for, as SHA-256 has them");
        okm.fill(key.as_mut_slice()).expect("32 bytes are asked for, as SHA-256 has them");
        Self(Arc::new(SecretPage::holding(key.as_slice())))
    }

    /// The bytes, to be wrapped.
    pub(super) fn expose(&self) -> &[u8] {
        self.0.expose()
    }

    /// Encrypts a buffer in place, and appends the tag: give it room for that, or it leaves a copy behind.
    pub(super) fn seal(&self, nonce: [u8; NONCE_LENGTH], bound_to: &[u8], bytes: &mut Vec<u8>) {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = self.cipher().seal_in_place_append_tag(nonce, Aad::from(bound_to), bytes);
        sealed.expect("no file of ours comes near the cipher's limit of 64 GiB");
    }

    /// Decrypts a buffer in place, and cuts the tag off. `None` if it was sealed under another key, bound to something
    /// else, or changed since.
    pub(super) fn open(&self, nonce: [u8; NONCE_LENGTH], bound_to: &[u8], bytes: &mut Vec<u8>) -> Option<()> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let length = self.cipher().open_in_place(nonce, Aad::from(bound_to), bytes).ok()?.len();
        bytes.truncate(length);
        Some(())
    }

    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, self.expose()).expect("it has 32 bytes"))
    }
}

#[cfg(test)]
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Which key, for files that name theirs: 16 hex digits, chosen at random, so that no two rings have the same.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(in crate::store) struct KeyId(String);

impl KeyId {
    /// The name that random bytes give.
    pub(in crate::store) fn from_random(bytes: [u8; 8]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The digits.
    pub(in crate::store) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for KeyId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_name = text.len() == 16 && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
        if is_name { Ok(Self(text)) } else { Err("not the name of a key") }
    }
}

impl From<KeyId> for String {
    fn from(KeyId(text): KeyId) -> Self {
        text
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a ciphertext is bound to: a purpose, and parts that nobody can shift against each other.
pub(super) fn bound_to(purpose: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut bound = Vec::from(purpose);
    bound.push(0);
    for part in parts {
        bound.extend((part.len() as u64).to_be_bytes());
        bound.extend_from_slice(part);
    }
    bound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_under_its_key_its_nonce_and_what_it_is_bound_to_alone() {
        let key = Key::from_bytes(&[7; 32]).unwrap();
        let mut sealed = b"a token".to_vec();
        key.seal([1; NONCE_LENGTH], b"gbdx", &mut sealed);
        assert_eq!(sealed.len(), 7 + TAG_LENGTH);
        let rows: [(&str, u8, u8, &[u8], bool); 4] = [
            ("as it was sealed", 7, 1, b"gbdx", true),
            ("another key", 8, 1, b"gbdx", false),
            ("another nonce", 7, 2, b"gbdx", false),
            ("bound to something else", 7, 1, b"gdh", false),
        ];
        for (case, key, nonce, bound, opens) in rows {
            let mut bytes = sealed.clone();
            let opened = Key::from_bytes(&[key; 32]).unwrap().open([nonce; NONCE_LENGTH], bound, &mut bytes);
            assert_eq!((opened.is_some(), bytes == b"a token"), (opens, opens), "{case}");
        }
        for at in 0..sealed.len() {
            let mut bytes = sealed.clone();
            bytes[at] ^= 1;
            assert_eq!(key.open([1; NONCE_LENGTH], b"gbdx", &mut bytes), None, "byte {at}");
        }
    }

    #[test]
    fn the_cipher_is_that_of_rfc_8452() {
        // appendix C.2, the second case
        let mut key = [0; 32];
        key[0] = 1;
        let mut nonce = [0; NONCE_LENGTH];
        nonce[0] = 3;
        let mut bytes = vec![1, 0, 0, 0, 0, 0, 0, 0];
        Key::from_bytes(&key).unwrap().seal(nonce, b"", &mut bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "c2ef328e5c71c83b843122130f7364b761e0b97427e3df28");
    }

    #[test]
    fn the_derivation_is_that_of_rfc_5869() {
        // appendix A.3, its first 32 bytes: no salt, no purpose
        let key = Key::derived(&[0x0b; 22], b"", b"");
        let hex: String = key.expose().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d");
    }

    #[test]
    fn parts_cannot_be_shifted_against_each_other() {
        assert_ne!(bound_to("p", &[b"ab", b"c"]), bound_to("p", &[b"a", b"bc"]));
        assert_ne!(bound_to("p", &[b"ab"]), bound_to("pab", &[]));
    }

    #[test]
    fn a_key_never_prints_itself_and_its_name_is_16_digits() {
        assert_eq!(format!("{:?}", Key::from_bytes(&[7; 32])), "Some([secret])");
        assert_eq!(Key::from_bytes(&[7; 31]), None);
        let name = KeyId::from_random([0, 1, 0xab, 0xff, 4, 5, 6, 7]);
        assert_eq!(name.as_str(), "0001abff04050607");
        for bad in ["", "0001abff0405060", "0001ABFF04050607", "../../etc/passwd"] {
            assert!(KeyId::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
