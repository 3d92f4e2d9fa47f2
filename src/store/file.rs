//! A record as it is written: JSON, with a version.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::record::{Credential, Record, SetAside, Term};
use super::spent::Spent;
use crate::config::AccountId;
use crate::oauth::Person;
use crate::secret::Secret;

/// Grows when an older valetd would misunderstand the file or lose something by rewriting it.
pub(super) const VERSION: u64 = 1;

/// Why a file's content is not a record.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// Of a later version than any that is known.
    Newer(u64),
    /// Sealed, and its key is not at hand just now; why.
    Away(String),
    /// Sealed, and its key will not come back; why.
    Gone(String),
    /// Not one of ours; how that shows, as a predicate. Never quotes the content, which may be half a secret.
    Garbage(String),
}

impl Unreadable {
    /// What is wrong, for people.
    pub(super) fn into_words(self) -> String {
        match self {
            Self::Newer(version) => format!("it is of a later format ({version})"),
            Self::Garbage(why) | Self::Away(why) | Self::Gone(why) => why,
        }
    }
}

/// The file, field by field. Borrowed when written, so that no secret is copied.
#[derive(Serialize)]
struct WrittenRecord<'a> {
    version: u64,
    account: &'a str,
    generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    issued_by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    others: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<&'a str>,
    received_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_expires_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<&'a str>,
    /// An older valetd drops it, and lets anybody sign in.
    #[serde(skip_serializing_if = "Option::is_none")]
    person: Option<&'a Person>,
    /// An older valetd drops it, and learns it anew: that makes no new version.
    #[serde(skip_serializing_if = "Option::is_none")]
    learnt_life_ms: Option<u64>,
    /// Likewise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    rotates: bool,
    /// Likewise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unrotated: bool,
    redeeming: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    set_aside: Option<&'a SetAside>,
    #[serde(skip_serializing_if = "Option::is_none")]
    term: Option<&'a Term>,
    /// An older valetd drops it, and sends what is handed in to the server.
    #[serde(skip_serializing_if = "Spent::is_empty")]
    spent: &'a Spent,
    /// An older valetd drops it, and the next one marks it anew: that makes no new version.
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<&'a str>,
    /// An older valetd drops it, and says no more that it should be spent.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    lay_in_the_clear: bool,
    /// An older valetd drops it, and the next one counts it anew.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_counted: bool,
}

#[derive(Deserialize)]
struct StoredRecord {
    account: String,
    generation: u64,
    client_id: Option<String>,
    issued_by: String,
    others: Option<Vec<String>>,
    refresh_token: Option<Secret>,
    username: Option<String>,
    password: Option<Secret>,
    received_at: u64,
    refresh_expires_at: Option<u64>,
    identity: Option<String>,
    person: Option<Person>,
    learnt_life_ms: Option<u64>,
    #[serde(default)]
    rotates: bool,
    #[serde(default)]
    unrotated: bool,
    redeeming: bool,
    set_aside: Option<SetAside>,
    term: Option<Term>,
    #[serde(default)]
    spent: Spent,
}

/// A record, and what is noted of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Marked {
    pub(super) record: Record,
    /// The mark of the machine that it was last used on, if that is known.
    pub(super) machine: Option<String>,
    /// Whether it is sealed, and its credential lay in the clear before that: it may be found in old blocks and backups.
    pub(super) lay_in_the_clear: bool,
    /// Whether the latest generations were kept when it was written: then their file must be there.
    pub(super) is_counted: bool,
}

/// What is to be noted of a record; see [`Marked`].
#[derive(Clone, Copy, Default)]
pub(super) struct Marks<'a> {
    pub(super) machine: Option<&'a str>,
    pub(super) lay_in_the_clear: bool,
    pub(super) is_counted: bool,
}

#[derive(Deserialize)]
struct Noted {
    machine: Option<String>,
    #[serde(default)]
    lay_in_the_clear: bool,
    #[serde(default)]
    is_counted: bool,
}

/// Whether this is a record in the clear with a secret in it, whosever and whatever it is called.
pub(super) fn holds_a_credential(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Owned {
        account: String,
    }
    let account = serde_json::from_slice(bytes).ok().and_then(|Owned { account }| AccountId::new(&account));
    let record = account.and_then(|account| read(bytes, &account).ok());
    record.is_some_and(|record| record.credential != Credential::default())
}

/// What every version has.
#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

/// A record of a machine that has no mark.
#[cfg(any(test, fuzzing))]
pub(super) fn write(record: &Record) -> Zeroizing<Vec<u8>> {
    write_marked(record, Marks::default())
}

pub(super) fn write_marked(record: &Record, marks: Marks<'_>) -> Zeroizing<Vec<u8>> {
    let Marks { machine, lay_in_the_clear, is_counted } = marks;
    let Record {
        account,
        generation,
        client_id,
        issued_by,
        others,
        credential: Credential { refresh_token, password },
        received_at,
        refresh_expires_at,
        identity,
        person,
        learnt_life,
        rotates,
        unrotated,
        redeeming,
        set_aside,
        term,
        spent,
    } = record;
    let written = WrittenRecord {
        version: VERSION,
        account: account.as_str(),
        generation: *generation,
        client_id: client_id.as_deref(),
        issued_by,
        others: others.as_deref(),
        refresh_token: refresh_token.as_ref().map(Secret::expose),
        username: password.as_ref().map(|(username, _)| username.as_str()),
        password: password.as_ref().map(|(_, password)| password.expose()),
        received_at: *received_at,
        refresh_expires_at: *refresh_expires_at,
        identity: identity.as_deref(),
        person: person.as_ref(),
        learnt_life_ms: *learnt_life,
        rotates: *rotates,
        unrotated: *unrotated,
        redeeming: *redeeming,
        set_aside: set_aside.as_ref(),
        term: term.as_ref(),
        spent,
        machine,
        lay_in_the_clear,
        is_counted,
    };
    // measured first: a buffer that grows leaves copies behind that nobody wipes
    let mut length = Length(0);
    serde_json::to_writer_pretty(&mut length, &written).expect("strings and numbers become JSON");
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.0 + 1));
    serde_json::to_writer_pretty(&mut *bytes, &written).expect("strings and numbers become JSON");
    bytes.push(b'\n');
    bytes
}

/// The version of a file, whatever else it holds.
pub(super) fn version(bytes: &[u8]) -> Result<u64, Unreadable> {
    let Versioned { version } = serde_json::from_slice(bytes).map_err(|error| no_sense(bytes, &error))?;
    Ok(version)
}

/// Where a text stops making sense: serde_json's own words quote what they complain about.
fn no_sense(bytes: &[u8], error: &serde_json::Error) -> Unreadable {
    Unreadable::Garbage(match error.classify() {
        serde_json::error::Category::Eof if bytes.is_empty() => "is empty".to_owned(),
        serde_json::error::Category::Eof => "ends in the middle".to_owned(),
        _ => format!("makes no sense at line {} column {}", error.line(), error.column()),
    })
}

/// A record with its mark.
pub(super) fn read_marked(bytes: &[u8], expected: &AccountId) -> Result<Marked, Unreadable> {
    let record = read(bytes, expected)?;
    let noted = serde_json::from_slice(bytes).map_err(|error| no_sense(bytes, &error))?;
    let Noted { machine, lay_in_the_clear, is_counted } = noted;
    Ok(Marked { record, machine, lay_in_the_clear, is_counted })
}

pub(super) fn read(bytes: &[u8], expected: &AccountId) -> Result<Record, Unreadable> {
    let version = version(bytes)?;
    if version > VERSION {
        return Err(Unreadable::Newer(version));
    }
    if version < VERSION {
        return Err(Unreadable::Garbage(format!("says that its format is {version}, which never was")));
    }
    let StoredRecord {
        account,
        generation,
        client_id,
        issued_by,
        others,
        refresh_token,
        username,
        password,
        received_at,
        refresh_expires_at,
        identity,
        person,
        learnt_life_ms: learnt_life,
        rotates,
        unrotated,
        redeeming,
        set_aside,
        term,
        spent,
    } = serde_json::from_slice(bytes).map_err(|error| no_sense(bytes, &error))?;
    if account != expected.as_str() {
        return Err(Unreadable::Garbage("belongs to another account: it was copied or renamed".to_owned()));
    }
    let password = match (username, password) {
        (Some(username), Some(password)) => Some((username, password)),
        (None, None) => None,
        _ => return Err(Unreadable::Garbage("has one of user name and password without the other".to_owned())),
    };
    Ok(Record {
        account: expected.clone(),
        generation,
        client_id,
        issued_by,
        others,
        credential: Credential { refresh_token, password },
        received_at,
        refresh_expires_at,
        identity,
        person,
        learnt_life,
        rotates,
        unrotated,
        redeeming,
        set_aside,
        term,
        spent,
    })
}

/// Counts what would be written.
struct Length(usize);

impl std::io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::renewal::Why;

    fn record() -> Record {
        Record {
            account: AccountId::new("gbdx").unwrap(),
            generation: 7,
            client_id: Some("the-client".into()),
            issued_by: "https://auth.example".into(),
            others: Some(vec!["https://other.example".into()]),
            credential: Credential {
                refresh_token: Some(Secret::new("r-\"quoted\"-\u{e9}\n")),
                password: Some(("me@example.com".into(), Secret::new("p%w"))),
            },
            received_at: 1_700_000_000,
            refresh_expires_at: Some(1_702_592_000),
            identity: Some("me@example.com".into()),
            person: Some(Person { issuer: "https://auth.example".into(), subject: "0b1c".into() }),
            learnt_life: Some(6_012),
            rotates: true,
            unrotated: true,
            redeeming: true,
            set_aside: Some(SetAside {
                why: Why::Revoked,
                at: 1_700_000_001,
                oauth_error: Some("invalid_grant".into()),
            }),
            term: Some(Term { ends_at: 1_700_028_800, seen_at: 1_700_000_000 }),
            spent: {
                let [first, second, newest] = ["r1", "r2", "r3"].map(Secret::new);
                let mut spent = Spent::default();
                spent.note(&first, &second);
                spent.note(&second, &newest);
                spent
            },
        }
    }

    fn problem(bytes: &[u8]) -> String {
        match read(bytes, &record().account) {
            Err(Unreadable::Garbage(problem)) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let full = record();
        let bare = Record {
            client_id: None,
            credential: Credential::default(),
            refresh_expires_at: None,
            identity: None,
            person: None,
            learnt_life: None,
            rotates: false,
            unrotated: false,
            redeeming: false,
            set_aside: None,
            term: None,
            spent: Spent::default(),
            ..record()
        };
        for record in [full, bare] {
            assert_eq!(read(&write(&record), &record.account).unwrap(), record);
        }
    }

    #[test]
    fn the_format_is_the_one_of_version_one() {
        // a file of a released version: it must be readable for ever
        let file = br#"{
            "version": 1, "account": "gbdx", "generation": 3, "refresh_token": "rt", "received_at": 5,
            "issued_by": "https://auth.example",
            "redeeming": false, "set_aside": {"why": "revoked", "at": 6, "oauth_error": "invalid_grant"}
        }"#;
        let found = read(file, &record().account).unwrap();
        assert_eq!((found.generation, found.received_at, found.redeeming), (3, 5, false));
        assert_eq!(found.credential.refresh_token.unwrap().expose(), "rt");
        assert_eq!(found.set_aside.unwrap().why, Why::Revoked);
    }

    #[test]
    fn a_later_version_is_known_whatever_else_it_holds() {
        let file = br#"{"version": 2, "sealed": "AAAA", "account": ["new"]}"#;
        assert!(matches!(read(file, &record().account), Err(Unreadable::Newer(2))));
    }

    #[test]
    fn every_beginning_of_a_file_is_told_from_the_whole() {
        let whole = write(&record());
        for length in 0..whole.len() - 1 {
            let expected = if length == 0 { "is empty" } else { "ends in the middle" };
            assert_eq!(problem(&whole[..length]), expected, "{length} bytes");
        }
    }

    #[test]
    fn garbage_is_described_without_being_quoted() {
        for (name, text, expected) in [
            ("not JSON", "refresh-me-secret", "line 1 column"),
            ("a bare string", "\"refresh-me-secret\"", "line 1 column"),
            ("a wrong type", r#"{"version": 1, "refresh_token": {"refresh-me-secret": 1}}"#, "line 1 column"),
            ("a wrong type in version", r#"{"version": "refresh-me-secret"}"#, "line 1 column"),
            ("nothing but zeros", "\0\0\0\0\0\0", "line 1 column"),
            ("a version that never was", r#"{"version": 0}"#, "format is 0"),
            (
                "another account's",
                r#"{"version": 1, "account": "secret-one", "generation": 1, "issued_by": "x", "received_at": 0, "redeeming": false}"#,
                "another account",
            ),
            (
                "half a password",
                r#"{"version": 1, "account": "gbdx", "generation": 1, "issued_by": "x", "received_at": 0, "redeeming": false, "password": "secret"}"#,
                "without the other",
            ),
        ] {
            let problem = problem(text.as_bytes());
            assert!(problem.contains(expected) && !problem.contains("secret"), "{name}: {problem}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            let _ = read(&bytes, &record().account);
        }
    }
}
