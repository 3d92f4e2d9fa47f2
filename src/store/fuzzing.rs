//! What may stand in a state file. See [`crate::fuzzing`].

use super::file;
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
        Err(file::Unreadable::Garbage(problem)) => {
            let text = String::from_utf8_lossy(data);
            let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.len() >= 16);
            for word in words {
                assert!(!problem.contains(word), "{word} is quoted in {problem}");
            }
        }
    }
}
