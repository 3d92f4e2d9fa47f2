//! The system's random numbers, for what nobody may guess.

use aws_lc_rs::rand;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// The system has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the system's random numbers cannot be had")]
pub(crate) struct NoRandomNumbers;

/// So many bytes, wiped when they are dropped.
///
/// # Errors
///
/// [`NoRandomNumbers`]
pub(crate) fn bytes<const N: usize>() -> Result<Zeroizing<[u8; N]>, NoRandomNumbers> {
    let mut bytes = Zeroizing::new([0; N]);
    rand::fill(bytes.as_mut_slice()).map_err(|_| NoRandomNumbers)?;
    Ok(bytes)
}

/// So many bytes as a secret text: base64url without padding.
///
/// # Errors
///
/// [`NoRandomNumbers`]
pub(crate) fn secret<const N: usize>() -> Result<Secret, NoRandomNumbers> {
    bytes::<N>().map(|bytes| Secret::new(BASE64_URL_SAFE_NO_PAD.encode(bytes.as_slice())))
}

/// So many bytes as a name that does not come back: hex.
///
/// # Errors
///
/// [`NoRandomNumbers`]
pub(crate) fn name<const N: usize>() -> Result<String, NoRandomNumbers> {
    bytes::<N>().map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_random_has_its_length_and_does_not_come_back() {
        assert_ne!(*bytes::<16>().unwrap(), *bytes::<16>().unwrap());
        assert_eq!(secret::<32>().unwrap().expose().len(), 43);
        let name = name::<8>().unwrap();
        assert!(name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
    }
}
