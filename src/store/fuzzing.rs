//! What may stand in a state file. See [`crate::fuzzing`].

use super::file;
use super::seal::{Envelope, Key, Ring, SealedClient, SealedGenerations};
use crate::config::AccountId;

/// A state file: what is read is written and read again as the same, and what is not is described without being quoted.
pub fn state_file(data: &[u8]) {
    let account = AccountId::new("gbdx").expect("a name");
    match file::read(data, &account) {
        Ok(record) => {
            let again = file::read(&file::write(&record), &account).expect("what is written can be read");
            assert_eq!(again, record);
        }
        Err(file::Unreadable::Newer(version)) => assert!(version > file::VERSION),
        Err(file::Unreadable::Garbage(problem)) => is_quoted_nowhere(data, &problem),
        Err(file::Unreadable::Away(_) | file::Unreadable::Gone(_)) => unreachable!("it is in the clear"),
    }
}

/// A sealed file, or a ring: what opens is what was sealed, and a ring that is read is written and read again as the same.
pub fn sealed_file(data: &[u8]) {
    const SEALED: &[u8] = b"what was sealed";
    let key = Key::from_bytes(&[7; 32]).expect("32 bytes");
    if let Ok(ring) = Ring::read(data) {
        assert_eq!(Ring::read(&ring.write()), Ok(ring));
    }
    if let Ok(generations) = SealedGenerations::read(data) {
        assert_eq!(generations.open(&key), None, "none was sealed under this key");
    }
    match Envelope::read(data, "gbdx").and_then(|envelope| envelope.open("gbdx", &key)) {
        Ok(opened) => assert_eq!(&opened[..], SEALED),
        Err(rejected) => is_quoted_nowhere(data, &rejected.to_string()),
    }
    let client = SealedClient::read(data, "gbdx").and_then(|client| client.open("gbdx", &key));
    assert!(client.is_err(), "nobody has sealed one: {client:?}");
}

fn is_quoted_nowhere(data: &[u8], problem: &str) {
    let text = String::from_utf8_lossy(data);
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.len() >= 16);
    for word in words {
        assert!(!problem.contains(word), "{word} is quoted in {problem}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::seal::{KeyId, NONCE_LENGTH};

    #[test]
    fn the_sealed_file_in_the_corpus_opens() {
        let id = KeyId::from_random([1; 8]);
        let key = Key::from_bytes(&[7; 32]).unwrap();
        let plain = zeroize::Zeroizing::new(b"what was sealed".to_vec());
        let sealed = Envelope::seal("gbdx", 7, (&id, &key), [9; NONCE_LENGTH], plain);
        let corpus = include_bytes!("../../fuzz/corpus/sealed_file/sealed");
        assert_eq!(String::from_utf8_lossy(corpus), String::from_utf8_lossy(&sealed));
    }
}
