//! A registered client as it is sealed: what is public of it stands beside what is sealed, in the clear, so that a
//! configuration can be read before the store is open; and it is bound to it, so that the secret of a client opens for its own
//! account, at its own server and under its own id alone.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::envelope::{Rejected, VERSION};
use super::key::{Key, KeyId, NONCE_LENGTH, TAG_LENGTH, bound_to};
use crate::oauth::rfc7591::{RegisteredClient, Registration};

/// A sealed registration, read and not opened.
#[derive(PartialEq, Eq, Debug)]
pub(in crate::store) struct SealedClient {
    /// Under which key.
    pub(in crate::store) key: KeyId,
    client: RegisteredClient,
    nonce: [u8; NONCE_LENGTH],
    sealed: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    version: u64,
    account: String,
    #[serde(flatten)]
    client: RegisteredClient,
    key: KeyId,
    nonce: String,
    sealed: String,
}

impl SealedClient {
    /// Seals what is to be kept for `account`.
    pub(in crate::store) fn seal(
        account: &str,
        registration: &Registration,
        (id, key): (&KeyId, &Key),
        nonce: [u8; NONCE_LENGTH],
    ) -> Vec<u8> {
        let secrets = registration.write_secrets();
        let mut sealed = Zeroizing::new(Vec::with_capacity(secrets.expose().len() + TAG_LENGTH));
        sealed.extend_from_slice(secrets.expose().as_bytes());
        key.seal(nonce, &client_of(account, &registration.client, id), &mut sealed);
        let written = Written {
            version: VERSION,
            account: account.to_owned(),
            client: registration.client.clone(),
            key: id.clone(),
            nonce: STANDARD.encode(nonce),
            sealed: STANDARD.encode(&*sealed),
        };
        let mut bytes = serde_json::to_vec_pretty(&written).expect("strings and numbers become JSON");
        bytes.push(b'\n');
        bytes
    }

    /// Reads a file that says that it is sealed, for `account`, as the file's name has it.
    pub(in crate::store) fn read(bytes: &[u8], expected: &str) -> Result<Self, Rejected> {
        let Written { version: _, account, client, key, nonce, sealed } =
            serde_json::from_slice(bytes).map_err(|_| Rejected::Cut)?;
        if account != expected {
            return Err(Rejected::Moved);
        }
        let nonce = STANDARD.decode(nonce).ok().and_then(|nonce| nonce.try_into().ok()).ok_or(Rejected::Cut)?;
        let sealed = STANDARD.decode(sealed).map_err(|_| Rejected::Cut)?;
        Ok(Self { key, client, nonce, sealed })
    }

    /// The registration, if it was sealed for `account`, beside what stands there in the clear, and under this key.
    pub(in crate::store) fn open(self, account: &str, key: &Key) -> Result<Registration, Rejected> {
        let Self { key: id, client, nonce, sealed } = self;
        let mut secrets = Zeroizing::new(sealed);
        key.open(nonce, &client_of(account, &client, &id), &mut secrets).ok_or(Rejected::Changed)?;
        Registration::of(client, &secrets).ok_or(Rejected::Cut)
    }
}

fn client_of(account: &str, client: &RegisteredClient, key: &KeyId) -> Vec<u8> {
    let client = serde_json::to_vec(client).expect("texts become JSON");
    bound_to("valetd client v2", &[account.as_bytes(), &client, key.as_str().as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::super::envelope::key_named_in;
    use super::*;
    use crate::oauth::ClientAuth;
    use crate::secret::Secret;

    fn id(number: u8) -> KeyId {
        KeyId::from_random([number; 8])
    }

    fn key(number: u8) -> Key {
        Key::from_bytes(&[number; 32]).unwrap()
    }

    fn registration() -> Registration {
        let client = RegisteredClient {
            registered_at: "https://i.example".into(),
            client_id: "the-client".into(),
            client_auth: ClientAuth::Post,
        };
        let management = Some(("https://i.example/register/1".to_owned(), Secret::new("the-access-token")));
        Registration { client, client_secret: Some(Secret::new("the-secret")), management }
    }

    fn sealed() -> String {
        String::from_utf8(SealedClient::seal("lab", &registration(), (&id(1), &key(1)), [9; NONCE_LENGTH])).unwrap()
    }

    fn open(text: &str, account: &str, key: &Key) -> Result<Registration, Rejected> {
        SealedClient::read(text.as_bytes(), account)?.open(account, key)
    }

    #[test]
    fn what_is_public_can_be_read_without_a_key_and_what_is_secret_cannot() {
        assert_eq!(RegisteredClient::read_file(sealed().as_bytes(), "lab"), Some(registration().client));
        assert_eq!(key_named_in(sealed().as_bytes()), Some(id(1)));
        for secret in ["the-secret", "the-access-token", "https://i.example/register/1"] {
            assert!(!sealed().contains(secret), "{secret}");
        }
        assert_eq!(open(&sealed(), "lab", &key(1)), Ok(registration()));
    }

    #[test]
    fn the_secret_opens_for_its_own_account_at_its_own_server_under_its_own_id_and_key_alone() {
        let rows = [
            ("another account's file name", sealed(), "gdh", 1, Rejected::Moved),
            ("and its text as well", sealed().replace("\"lab\"", "\"gdh\""), "gdh", 1, Rejected::Changed),
            ("another server", sealed().replace("//i.example", "//evil.example"), "lab", 1, Rejected::Changed),
            ("another client", sealed().replace("the-client", "a-client"), "lab", 1, Rejected::Changed),
            ("another way to prove it", sealed().replace("post", "basic"), "lab", 1, Rejected::Changed),
            ("another key's name", sealed().replace("0101", "0201"), "lab", 1, Rejected::Changed),
            ("another key", sealed(), "lab", 2, Rejected::Changed),
            ("no nonce", sealed().replace("CQkJ", ""), "lab", 1, Rejected::Cut),
        ];
        for (case, text, account, number, refused) in rows {
            assert_eq!(open(&text, account, &key(number)), Err(refused), "{case}: {text}");
        }
        for length in 0..sealed().len() - 2 {
            assert_eq!(open(&sealed()[..length], "lab", &key(1)), Err(Rejected::Cut), "{length} bytes");
        }
    }
}
