//! Refresh tokens that other tools have left: the GDH client's file, gbdx-auth's file, an environment variable.
//! The formats are theirs; nothing of theirs is changed. Only the reader at the end touches the machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::handed_in;
use crate::accounts::NewCredential;
use crate::config::{Account, ImportSource};
use crate::platform::paths::shell_word;
use crate::secret::Secret;
use crate::store::Credential;

/// What was found in one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Imported {
    /// The refresh token, and user name and password where the place holds them.
    pub credential: Credential,
    /// What a person should know, in sentences.
    pub warnings: Vec<String>,
}

/// Why a place that is there holds nothing for us. Never quotes what it found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    /// The system says no.
    #[error("cannot read {place}: {error}")]
    Io {
        /// Which file.
        place: String,
        /// What the system said.
        error: io::Error,
    },
    /// It was read, and is not what it should be.
    #[error("{place} {problem}")]
    Unusable {
        /// Which file or variable.
        place: String,
        /// What is wrong, as a predicate.
        problem: String,
    },
}

/// From a text to what it holds, or what is wrong with it.
type Parser = fn(&str) -> Result<Imported, String>;

/// The largest file that is read: these have a few kilobytes.
const LARGEST: u64 = 1024 * 1024;

/// Reads a JSON object with a `refresh_token` member (`~/.gdh/authentication`). The error is a predicate.
pub(crate) fn from_json(text: &str) -> Result<Imported, String> {
    let refresh_token = Some(read_token(text)?.ok_or("holds no refresh_token")?);
    let credential = Credential { refresh_token, password: None };
    Ok(Imported { credential, warnings: Vec::new() })
}

/// Reads gbdx-auth's INI file (`~/.gbdx-config`): the token in `[gbdx_token] json`, and `user_name` and `user_password`
/// in `[gbdx]`. One of the two is enough. (The Java client's keys in `[gbdx]` hold an access token only.) The error is a
/// predicate.
pub(crate) fn from_gbdx_config(text: &str) -> Result<Imported, String> {
    let mut sections = read_ini(text);
    let mut take = |section: &str, key: &str| -> Option<Zeroizing<String>> {
        sections.get_mut(section)?.remove(key).filter(|value| !value.is_empty())
    };
    let mut warnings = Vec::new();
    let mut refresh_token = None;
    if let Some(json) = take("gbdx_token", "json") {
        match read_token(&json) {
            Ok(token) => refresh_token = token,
            Err(problem) => warnings.push(format!("the value of [gbdx_token] json {problem}")),
        }
    }
    let password = take("gbdx", "user_name").zip(take("gbdx", "user_password"));
    let password = password.map(|(name, password)| (name.to_string(), Secret::new(password.as_str())));
    if refresh_token.is_none() && password.is_none() {
        let because = warnings.first().map(|warning| format!(" ({warning})")).unwrap_or_default();
        return Err(format!(
            "holds neither a refresh token in [gbdx_token] nor user_name and user_password in [gbdx]{because}"
        ));
    }
    Ok(Imported { credential: Credential { refresh_token, password }, warnings })
}

/// Reads one place; `None` if there is no such file or variable. Symbolic links are followed: the file belongs to another
/// tool.
///
/// # Errors
///
/// [`ImportError`] if it is there and holds nothing for us.
pub(crate) fn import(
    source: &ImportSource,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Imported>, ImportError> {
    let (file, parse) = match source {
        ImportSource::JsonFile(file) => (file, from_json as Parser),
        ImportSource::GbdxConfig(file) => (file, from_gbdx_config as Parser),
        ImportSource::Environment(name) => {
            let Some(text) = variable(name).filter(|text| !text.trim().is_empty()) else { return Ok(None) };
            let problem = |unclear: handed_in::Unclear| ImportError::Unusable {
                place: format!("${name}"),
                problem: format!("holds no refresh token: {unclear}"),
            };
            let token = handed_in::clean(&text).map_err(problem)?;
            return Ok(Some(Imported {
                credential: Credential { refresh_token: Some(token), password: None },
                warnings: vec![format!("{name} is in the environment, which every child process inherits: unset it")],
            }));
        }
    };
    let place = file.display().to_string();
    let found = read_file(file).map_err(|error| ImportError::Io { place: place.clone(), error })?;
    let Some((text, mode)) = found else { return Ok(None) };
    let mut imported = parse(&text).map_err(|problem| ImportError::Unusable { place: place.clone(), problem })?;
    if mode & 0o077 != 0 {
        let remedy = format!("chmod 600 {}", shell_word(file));
        imported.warnings.push(format!("{place} is readable by others (mode {mode:04o}): `{remedy}`, or delete it"));
    }
    Ok(Some(imported))
}

/// What another tool has left.
#[derive(Debug)]
pub(crate) struct TakenOver {
    /// What was found.
    pub found: Found,
    /// Where it was found, for people.
    pub from: String,
    /// User name and password beside a refresh token, which the account may not keep: good for one password grant, should
    /// the token be refused.
    pub password: Option<(String, Secret)>,
}

/// What signs in, of what another tool has left.
#[derive(Debug)]
pub(crate) enum Found {
    /// A refresh token, or a password that the account may keep.
    Credential(Box<NewCredential>),
    /// User name and password alone, which the account may not keep: good for one password grant.
    Password {
        /// The user name.
        username: String,
        /// The password.
        password: Secret,
    },
}

/// What another tool has left, from the first of the account's places that has something. `warn` hears what a person
/// should know, also of places that had nothing for us in the end.
///
/// # Errors
///
/// A sentence for people: what is wrong with a place, or that there is nothing in any.
pub(crate) fn take_over(
    account: &Account,
    variable: impl Fn(&str) -> Option<String>,
    mut warn: impl FnMut(&str),
) -> Result<TakenOver, String> {
    let mut problems = Vec::new();
    for source in &account.sign_in.import {
        let (mut credential, warnings) = match import(source, &variable) {
            Ok(Some(Imported { credential, warnings })) => (credential, warnings),
            Ok(None) => continue,
            Err(error) => {
                problems.push(error.to_string());
                continue;
            }
        };
        let mut unkept = credential.password.take_if(|_| !account.sign_in.keep_password);
        let found = match (&credential.refresh_token, &credential.password) {
            (None, None) => match unkept.take() {
                Some((username, password)) => Found::Password { username, password },
                None => continue,
            },
            (Some(_), _) | (None, Some(_)) => Found::Credential(Box::new(NewCredential::of(account, credential))),
        };
        for warning in problems.iter().chain(&warnings) {
            warn(warning);
        }
        return Ok(TakenOver { found, from: place(source), password: unkept });
    }
    if !problems.is_empty() {
        return Err(problems.join("; "));
    }
    let places: Vec<String> = account.sign_in.import.iter().map(place).collect();
    Err(match places.is_empty() {
        true => "no place is named where another tool could have left a refresh token".to_owned(),
        false => format!("no other tool has left a refresh token; looked in {}", places.join(", ")),
    })
}

/// A place, for people.
fn place(source: &ImportSource) -> String {
    match source {
        ImportSource::Environment(name) => format!("${name}"),
        ImportSource::JsonFile(path) | ImportSource::GbdxConfig(path) => path.display().to_string(),
    }
}

/// The text of a file and its mode; `None` if there is none.
fn read_file(path: &Path) -> io::Result<Option<(Zeroizing<String>, u32)>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK; // without waiting for the other end of a pipe
    let file = match rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from) {
        Ok(file) => File::from(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let found = file.metadata()?;
    if !found.is_file() || found.len() > LARGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a file of at most 1 MiB"));
    }
    let mut text = Zeroizing::new(String::with_capacity(found.len() as usize + 1));
    file.take(LARGEST).read_to_string(&mut text)?;
    Ok(Some((text, found.mode() & 0o7777)))
}

/// A token response as these tools keep it. They keep more; the rest is of no use here.
#[derive(Deserialize)]
struct KeptToken {
    refresh_token: Option<Secret>,
}

/// The refresh token in such a response, cleaned as one that is handed in is. The error is a predicate.
fn read_token(text: &str) -> Result<Option<Secret>, String> {
    let text = text.trim_start_matches('\u{feff}');
    let kept = serde_json::from_str(text).or_else(|error| {
        // an end that is no number (Python writes NaN and Infinity) is of no use here, and no reason to lose what is
        let plain = serde_json::from_str::<KeptToken>(&handed_in::without_odd_words(text));
        // serde_json's own words quote what they complain about
        let words = || format!("is not the JSON that it should be (line {} column {})", error.line(), error.column());
        plain.ok().filter(|token| token.refresh_token.is_some()).ok_or_else(words)
    });
    let token = kept?.refresh_token.filter(|token| !token.is_empty());
    let cleaned = token.map(|token| handed_in::clean(token.expose())).transpose();
    cleaned.map_err(|unclear| format!("holds no refresh token: {unclear}"))
}

/// Reads an INI file as Python's `ConfigParser` does: sections of keys in lower case; `=` or `:` between key and value,
/// whichever comes first; comments are whole lines; a line that is indented continues the value above; `%%` means `%`.
/// What makes no sense is left out.
fn read_ini(text: &str) -> BTreeMap<String, BTreeMap<String, Zeroizing<String>>> {
    let mut sections: BTreeMap<String, BTreeMap<String, Zeroizing<String>>> = BTreeMap::new();
    let mut section = None;
    let mut key = None;
    for line in text.trim_start_matches('\u{feff}').lines() {
        let content = line.trim();
        if content.is_empty() || content.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = content.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = Some(name.to_owned());
            key = None;
            continue;
        }
        let Some(keys) = section.clone().map(|section| sections.entry(section).or_default()) else { continue };
        let continued = line.starts_with([' ', '\t']).then_some(()).and_then(|()| keys.get_mut(key.as_ref()?));
        if let Some(value) = continued {
            let longer = Zeroizing::new(format!("{}\n{}", **value, content.replace("%%", "%")));
            *value = longer;
        } else if let Some((name, value)) = content.split_once(['=', ':']) {
            let name = name.trim_end().to_lowercase();
            keys.insert(name.clone(), Zeroizing::new(value.trim_start().replace("%%", "%")));
            key = Some(name);
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const GBDX: &str = r#"# written by gbdx-auth
[gbdx]
auth_url = https://geobigdata.io/auth/v1/oauth/token/
User_Name = me@example.com
user_password: p%%w ; not a comment

[gbdx_token]
json = {"access_token": "at", "scope": ["openid", "email"], "token_type": "Bearer", "expires_in": 604800,
    "refresh_token": "rt%%1", "expires_at": 1522343028.07}
"#;

    fn token(imported: &Imported) -> Option<&str> {
        imported.credential.refresh_token.as_ref().map(Secret::expose)
    }

    #[test]
    fn the_gdh_clients_file_is_read() {
        for (name, text, expected) in [
            ("as it is written", r#"{"refresh_token": "eyJj.x.y"}"#, Ok("eyJj.x.y")),
            (
                "with more in it",
                "\u{feff}{\"id_token\": 1, \"refresh_token\": \"rt\", \"expires_at\": null}\r\n",
                Ok("rt"),
            ),
            ("an end that is no number", r#"{"expires_at": NaN, "refresh_token": "rt"}"#, Ok("rt")),
            ("an end without end", r#"{"refresh_token": "rt", "expires_at": -Infinity, "scope": ["a"]}"#, Ok("rt")),
            ("an end beyond numbers", r#"{"expires_at": 1e999, "refresh_token": "rt"}"#, Ok("rt")),
            ("an end with a zero before it", r#"{"expires_at": 0123, "refresh_token": "rt"}"#, Ok("rt")),
            ("an end in words", r#"{"expires_at": "soon \" NaN", "refresh_token": "r\"t"}"#, Ok("r\"t")),
            ("an end of another type", r#"{"expires_at": {"$date": 1}, "refresh_token": "rt"}"#, Ok("rt")),
            ("an end that is missing", r#"{"expires_at": , "refresh_token": "secret"}"#, Err("line 1")),
            ("no token", r#"{"access_token": "secret"}"#, Err("holds no refresh_token")),
            ("an empty token", r#"{"refresh_token": ""}"#, Err("holds no refresh_token")),
            ("null", r#"{"refresh_token": null}"#, Err("holds no refresh_token")),
            ("a number", r#"{"refresh_token": 12345}"#, Err("line 1")),
            ("a bare token", "\"secret\"", Err("line 1")),
            ("not JSON", "secret", Err("line 1")),
            ("nothing", "", Err("line 1")),
        ] {
            match (from_json(text), expected) {
                (Ok(imported), Ok(expected)) => assert_eq!(token(&imported), Some(expected), "{name}"),
                (Err(problem), Err(expected)) => {
                    assert!(problem.contains(expected) && !problem.contains("secret"), "{name}: {problem}");
                }
                (found, _) => panic!("{name}: {found:?}"),
            }
        }
    }

    #[test]
    fn gbdx_auths_file_is_read_as_python_reads_it() {
        let imported = from_gbdx_config(GBDX).unwrap();
        assert_eq!(token(&imported), Some("rt%1"));
        assert_eq!(imported.credential.password, Some(("me@example.com".into(), Secret::new("p%w ; not a comment"))));
        assert_eq!(imported.warnings, [""; 0]);
    }

    #[test]
    fn either_half_of_gbdx_auths_file_is_enough() {
        let token_only = from_gbdx_config("[gbdx_token]\njson={\"refresh_token\":\"rt\"}").unwrap();
        assert_eq!((token(&token_only), &token_only.credential.password), (Some("rt"), &None));
        let half = "[gbdx]\r\nuser_name=me\r\nuser_password=pw\r\n[gbdx_token]\r\njson={\"refresh_tok";
        let password_only = from_gbdx_config(half).unwrap();
        assert_eq!(
            password_only.credential,
            Credential { refresh_token: None, password: Some(("me".into(), Secret::new("pw"))) }
        );
        assert!(password_only.warnings[0].starts_with("the value of [gbdx_token] json is not the JSON"));
        for (name, text) in [
            ("nothing", ""),
            ("no sections", "user_name = me\nuser_password = secret"),
            ("a name without a password", "[gbdx]\nuser_name = me\nuser_password ="),
            ("Java's keys", "[gbdx]\ngbdx_token = secret\naccess_token_expiration = 1\nservice_base_url = https://x"),
            ("a token that is none", "[gbdx_token]\njson = \"secret\""),
            ("another case of a section", "[GBDX]\nuser_name = me\nuser_password = secret"),
        ] {
            let problem = from_gbdx_config(text).unwrap_err();
            assert!(problem.contains("holds neither") && !problem.contains("secret"), "{name}: {problem}");
        }
    }

    #[test]
    fn files_that_others_can_read_are_read_and_said_to_be() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("my gdh")).unwrap();
        let path = home.path().join("my gdh/authentication");
        std::fs::write(&path, r#"{"refresh_token": "rt"}"#).unwrap();
        let source = ImportSource::JsonFile(path.clone());
        let found = |mode| {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            import(&source, |_| None).unwrap().unwrap()
        };
        assert_eq!(found(0o600).warnings, [""; 0]);
        let warnings = found(0o644).warnings;
        let place = path.display();
        assert!(warnings[0].starts_with(&format!("{place} is readable by others (mode 0644)")), "{warnings:?}");
        assert!(warnings[0].contains(&format!("`chmod 600 '{place}'`")), "a shell takes it as it is: {warnings:?}");
    }

    #[test]
    fn a_missing_place_is_nothing_and_a_broken_one_is_an_error_with_its_name() {
        let home = tempfile::tempdir().unwrap();
        let source = ImportSource::GbdxConfig(home.path().join(".gbdx-config"));
        let imported = || import(&source, |_| None);
        assert_eq!(imported().unwrap(), None);
        std::fs::write(home.path().join(".gbdx-config"), b"[gbdx]\nuser_name = \xff").unwrap();
        let error = imported().unwrap_err().to_string();
        let place = home.path().join(".gbdx-config").display().to_string();
        assert!(error.starts_with(&format!("cannot read {place}")), "{error}");
        std::fs::write(home.path().join(".gbdx-config"), "[gbdx]\n").unwrap();
        let error = imported().unwrap_err().to_string();
        assert!(error.starts_with(&format!("{place} holds neither")), "{error}");
        std::fs::write(home.path().join(".gbdx-config"), GBDX).unwrap();
        assert_eq!(token(&imported().unwrap().unwrap()), Some("rt%1"));
    }

    #[test]
    fn a_variable_holds_the_token_itself() {
        let source = ImportSource::Environment("GDH_REFRESH_TOKEN".into());
        let with = |value: Option<&str>| {
            let value = value.map(str::to_owned);
            import(&source, |name| (name == "GDH_REFRESH_TOKEN").then(|| value.clone()).flatten())
        };
        assert_eq!(with(None).unwrap(), None);
        assert_eq!(with(Some(" \n")).unwrap(), None);
        let imported = with(Some(" rt\n")).unwrap().unwrap();
        assert_eq!(token(&imported), Some("rt"));
        assert!(imported.warnings[0].contains("GDH_REFRESH_TOKEN is in the environment"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text: String) {
            let _ = from_json(&text);
            let _ = from_gbdx_config(&text);
        }

        #[test]
        fn nothing_like_an_ini_file_makes_a_parser_panic(text in r#"(\[?[ \t%=:;#\]a-z{}"\\\n]{0,12}(gbdx|json|gbdx_token)?){0,12}"#) {
            let _ = from_gbdx_config(&text);
        }

        #[test]
        fn any_password_comes_back_as_python_would_have_written_it(password in "[!-~][ -~]{0,30}[!-~]") {
            let text = format!("[gbdx]\nuser_name = me\nuser_password = {}\n", password.replace('%', "%%"));
            let imported = from_gbdx_config(&text).unwrap();
            proptest::prop_assert_eq!(imported.credential.password, Some(("me".to_owned(), Secret::new(password))));
        }
    }
}
