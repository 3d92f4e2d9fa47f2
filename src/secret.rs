//! Words that must not be seen: tokens, passwords and client secrets.
//!
//! A [`Secret`] shows as `[secret]` wherever it is printed and is wiped from memory when dropped. It leaves through
//! [`Secret::expose`] alone, which appears where a secret is saved, sent to a token endpoint, or put into a header.

use std::fmt;

use zeroize::Zeroizing;

/// A secret text. Prints as `[secret]`; its memory is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes ownership of a text that is secret from here on.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// Hands out the secret itself. Every call is a place to look at in a review.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the first eight hex digits of its SHA-256: enough to see that two are the same, too little to guess one.
    pub fn fingerprint(&self) -> String {
        self.hash(4)
    }

    /// Returns twice as many: enough to know one among many again.
    pub(crate) fn mark(&self) -> String {
        self.hash(8)
    }

    fn hash(&self, bytes: usize) -> String {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.0.as_bytes());
        digest.as_ref()[..bytes].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints_itself() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "[secret] Some([secret])");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn a_fingerprint_tells_secrets_apart_and_gives_nothing_away() {
        assert_eq!(Secret::new("abc").fingerprint(), "ba7816bf"); // FIPS 180-2, appendix B.1
        assert_ne!(Secret::new("abd").fingerprint(), Secret::new("abc").fingerprint());
    }
}
