//! What a script hands in on standard input.

use std::io;

use crate::accounts::NewCredential;
use crate::config::Account;
use crate::secret::Secret;
use crate::store::Credential;

/// A refresh token that was issued elsewhere; taken as it is, and nobody is asked.
pub fn refresh_token(account: &Account, token: Secret) -> NewCredential {
    NewCredential::of(account, Credential { refresh_token: Some(token), password: None })
}

/// Reads a secret from standard input or a file like it: everything up to the end, without the line end that `echo`
/// and editors add. Blanks inside and around a password belong to it.
///
/// # Errors
///
/// If reading fails, or if it is empty, too long or not UTF-8.
pub fn read_secret(input: impl io::Read) -> io::Result<Secret> {
    /// More than any token or password; less than what somebody pipes in by mistake.
    const LONGEST: u64 = 32 * 1024;
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    io::Read::read_to_end(&mut io::Read::take(input, LONGEST + 1), &mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(invalid("it is longer than 32 KiB"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| invalid("it is not UTF-8"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(invalid("it is empty"));
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::account;

    #[test]
    fn a_refresh_token_is_taken_without_asking_anybody() {
        let new = refresh_token(&account("gdh", ""), Secret::new("r"));
        assert_eq!(new.credential.refresh_token, Some(Secret::new("r")));
    }

    #[test]
    fn a_secret_on_standard_input_loses_its_line_end_and_nothing_else() {
        let table = [
            ("echo", "hunter2\n", "hunter2"),
            ("printf", "hunter2", "hunter2"),
            ("from Windows", "hunter2\r\n", "hunter2"),
            ("blanks", " hunter 2 \n", " hunter 2 "),
            ("a line end of its own", "hunter2\n\n", "hunter2\n"),
        ];
        for (case, input, expected) in table {
            assert_eq!(read_secret(input.as_bytes()).unwrap().expose(), expected, "{case}");
        }
        let long = "x".repeat(40_000);
        for (case, input) in
            [("nothing", b"".as_slice()), ("a line", b"\n"), ("no text", b"\xff"), ("long", long.as_bytes())]
        {
            assert!(read_secret(input).is_err(), "{case}");
        }
    }
}
