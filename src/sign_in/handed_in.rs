//! What a script hands in on standard input: read, and cleaned of what clings to it where the meaning is certain.

use std::borrow::Cow;
use std::{fmt, io};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use zeroize::Zeroizing;

use crate::accounts::NewCredential;
use crate::config::Account;
use crate::secret::Secret;
use crate::store::Credential;

/// A refresh token that was issued elsewhere.
pub(crate) fn refresh_token(account: &Account, token: Secret) -> NewCredential {
    NewCredential::of(account, Credential { refresh_token: Some(token), password: None })
}

/// Reads a secret from standard input or a file like it: everything up to the end, without the line end that `echo`
/// and editors add and the byte order mark that Windows does. Blanks inside and around a password belong to it.
///
/// # Errors
///
/// If reading fails, or if it is empty, too long or neither UTF-8 nor UTF-16 with its mark.
pub(crate) fn read_secret(input: impl io::Read) -> io::Result<Secret> {
    /// More than any token or password; less than what somebody pipes in by mistake.
    const LONGEST: u64 = 32 * 1024;
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut bytes = Zeroizing::new(Vec::new());
    io::Read::read_to_end(&mut io::Read::take(input, LONGEST + 1), &mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(invalid("it is longer than 32 KiB"));
    }
    let text = decoded(&bytes).ok_or_else(|| invalid("it is not UTF-8"))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(invalid("it is empty"));
    }
    Ok(Secret::new(text))
}

/// Text in UTF-8, or in UTF-16 with a byte order mark, as PowerShell writes it; without the mark.
fn decoded(bytes: &[u8]) -> Option<Zeroizing<String>> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (units, rest) = bytes.as_chunks::<2>();
        let text = char::decode_utf16(units.iter().map(|two| unit(*two))).collect::<Result<String, _>>().ok()?;
        rest.is_empty().then_some(text)
    };
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes)?,
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes)?,
        [0xef, 0xbb, 0xbf, rest @ ..] => std::str::from_utf8(rest).ok()?.to_owned(),
        bytes => std::str::from_utf8(bytes).ok()?.to_owned(),
    };
    Some(Zeroizing::new(text))
}

/// Why a text is no refresh token for certain. Never quotes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Unclear {
    /// Nothing is left of it.
    #[error("there is nothing in it")]
    Nothing,
    /// Several lines, words or tokens.
    #[error("there is more in it than a token: send the refresh token alone")]
    More,
    /// A JSON document without a refresh token.
    #[error("it is a JSON document without a refresh_token")]
    NoMember,
    /// A JSON document with several.
    #[error("it is a JSON document with several refresh tokens: send one of them")]
    Members,
    /// It begins as JSON does, and is none.
    #[error("it is not the JSON that it looks like")]
    Json,
    /// A quote at one end only.
    #[error("it has a quotation mark at one end only: part of it may be missing")]
    Quote,
    /// What programs print where there is nothing.
    #[error("it is the word for nothing that a program has printed: it did not find the token")]
    Null,
    /// A shell variable that nobody replaced.
    #[error("it is the name of a shell variable, not what is in it")]
    Variable,
    /// An `Authorization` field.
    #[error("it is what goes to an API (Bearer ...), not a refresh token")]
    Bearer,
    /// A mask.
    #[error("it is a masked token: the program that printed it has hidden the token itself")]
    Masked,
    /// `NAME=...`, whose name says nothing.
    #[error(
        "it may be an assignment (NAME=...): send what stands behind the sign alone, or {{\"refresh_token\": ...}}"
    )]
    Assignment,
    /// A backslash that escapes nothing.
    #[error("it has a backslash in it that is no escape of JSON: part of it may be missing")]
    Backslash,
    /// Characters that no token has (RFC 6749 appendix A.17).
    #[error("it holds characters that no token has (RFC 6749 appendix A.17)")]
    Characters,
}

/// The refresh token in a text, cleaned of what clings to it: a byte order mark, blanks, quotes, the assignment of a shell
/// or of a `.env` file, the JSON document or the form that it stands in. Pure.
///
/// # Errors
///
/// [`Unclear`], where it is not certain which part of the text is meant, or that it is a token at all.
pub(crate) fn clean(text: &str) -> Result<Secret, Unclear> {
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}' || c == '\0');
    if text.starts_with(['{', '[']) {
        return in_json(text);
    }
    let mut lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.len() > 1 {
        // a `.env` file, or the printout of `set`: one of its names says what it is
        lines.retain(|line| assignment(line).is_some_and(|(name, _)| names_a_refresh_token(name)));
    }
    let line = match lines.as_slice() {
        [] if text.is_empty() => return Err(Unclear::Nothing),
        [line] => *line,
        [] | [..] => return Err(Unclear::More),
    };
    let assigned = assignment(line);
    let value = assigned.map_or(line, |(_, value)| value);
    let is_percent_encoded = || value.as_bytes().windows(3).any(is_percent_escape);
    let form = match assigned {
        // its beginning has been taken off as an assignment
        Some(("refresh_token", _)) if value.contains('&') || is_percent_encoded() => format!("refresh_token={value}"),
        Some(_) | None if value.contains('&') && line.contains("refresh_token=") => line.to_owned(),
        Some(_) | None => String::new(),
    };
    let value = if !form.is_empty() {
        let mut pairs = form_urlencoded::parse(form.as_bytes());
        let token = pairs.find_map(|(name, value)| (name == "refresh_token").then_some(value.into_owned()));
        Cow::Owned(token.ok_or(Unclear::More)?)
    } else {
        Cow::Borrowed(value)
    };
    let value = unquoted(&value)?;
    if assigned.is_none() && may_be_assignment(value) {
        return Err(Unclear::Assignment);
    }
    judged(unescaped(value)?.trim())
}

fn is_percent_escape(three: &[u8]) -> bool {
    three[0] == b'%' && three[1..].iter().all(u8::is_ascii_hexdigit)
}

/// Whether a text can be an assignment to a name that says nothing of a token. A token may end in `=`; few have it within.
fn may_be_assignment(text: &str) -> bool {
    const LONGEST_NAME: usize = 32;
    text.split_once('=')
        .is_some_and(|(name, value)| name.len() <= LONGEST_NAME && is_name(name) && !value.trim_matches('=').is_empty())
}

/// Takes JSON's escapes away: PHP and others write `\/` for every slash.
fn unescaped(text: &str) -> Result<Cow<'_, str>, Unclear> {
    match text.contains('\\') {
        true => serde_json::from_str(&format!("\"{text}\"")).map(Cow::Owned).map_err(|_| Unclear::Backslash),
        false => Ok(Cow::Borrowed(text)),
    }
}

/// Takes an assignment apart, where it is one for certain: `export X=`, `set X=`, `$env:X =`, `X_TOKEN=`, `refresh_token=`.
/// A token may itself end in `=`.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let command = ["export ", "set ", "setx ", "$env:", "$Env:", "declare -x ", "SET "];
    let stated = command.iter().find_map(|word| line.strip_prefix(word));
    let (name, value) = stated.unwrap_or(line).split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let is_variable = name.contains("TOKEN") && !name.contains(|c: char| c.is_ascii_lowercase());
    let is_certain = stated.is_some() || is_variable || names_a_refresh_token(name);
    let value = value.strip_suffix(';').unwrap_or(value).trim_end();
    (is_name(name) && is_certain && !value.trim_matches('=').is_empty()).then_some((name, value))
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

fn names_a_refresh_token(name: &str) -> bool {
    name.replace(['_', '-'], "").to_ascii_lowercase().ends_with("refreshtoken")
}

/// Takes one pair of quotes away.
fn unquoted(text: &str) -> Result<&str, Unclear> {
    const PAIRS: [(char, char); 8] =
        [('"', '"'), ('\'', '\''), ('`', '`'), ('“', '”'), ('‘', '’'), ('„', '“'), ('«', '»'), ('<', '>')];
    for (open, close) in PAIRS {
        if let Some(inner) = text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close)) {
            return Ok(inner.trim());
        }
    }
    let is_quote = |c: char| PAIRS.iter().any(|(open, close)| [*open, *close].contains(&c));
    if text.starts_with(is_quote) || text.ends_with(is_quote) { Err(Unclear::Quote) } else { Ok(text) }
}

fn judged(token: &str) -> Result<Secret, Unclear> {
    const NOTHING: [&str; 5] = ["null", "undefined", "none", "nil", "nan"];
    let words: Vec<&str> = token.split_whitespace().collect();
    let scheme = words.first().map(|word| word.trim_end_matches(':').to_ascii_lowercase());
    if words.len() > 1 && matches!(scheme.as_deref(), Some("bearer" | "authorization" | "basic")) {
        return Err(Unclear::Bearer);
    }
    match words.as_slice() {
        [] => Err(Unclear::Nothing),
        [_] if !token.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) && !is_mask(token) => Err(Unclear::Characters),
        [word] if NOTHING.contains(&word.to_ascii_lowercase().as_str()) => Err(Unclear::Null),
        [word] if word.starts_with(['$', '%']) => Err(Unclear::Variable),
        [word] if is_mask(word) => Err(Unclear::Masked),
        [word] => Ok(Secret::new(*word)),
        [..] => Err(Unclear::More),
    }
}

/// `****`, `xxxx…`, or a token whose middle is hidden.
fn is_mask(word: &str) -> bool {
    word.contains("***") || word.contains('•') || word.contains('…') || word.ends_with("...")
}

/// The one refresh token of a JSON document, at whatever depth.
fn in_json(text: &str) -> Result<Secret, Unclear> {
    let document = serde_json::from_str(text).or_else(|_| serde_json::from_str(&without_odd_words(text)));
    let mut found = match document.map_err(|_| Unclear::Json)? {
        Node::Tokens(found) => found,
        Node::Text(_) => Vec::new(),
    };
    found.sort_unstable();
    found.dedup();
    match found.as_slice() {
        [] => Err(Unclear::NoMember),
        [token] => judged(token.trim()),
        [..] => Err(Unclear::Members),
    }
}

/// A part of a JSON document, as far as it matters here. Of members of one name it knows all, not the last alone.
enum Node {
    Text(String),
    /// The refresh tokens in an object or array; none in what is no text.
    Tokens(Vec<String>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Gather)
    }
}

struct Gather;

impl<'de> Visitor<'de> for Gather {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Tokens(Vec::new()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Tokens(Vec::new()))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Tokens(Vec::new()))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Tokens(Vec::new()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Tokens(Vec::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Node, A::Error> {
        let mut found = Vec::new();
        while let Some(value) = array.next_element()? {
            match value {
                Node::Tokens(tokens) => found.extend(tokens),
                Node::Text(_) => {}
            }
        }
        Ok(Node::Tokens(found))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Node, A::Error> {
        let mut found = Vec::new();
        while let Some((name, value)) = object.next_entry::<String, Node>()? {
            match value {
                Node::Tokens(tokens) => found.extend(tokens),
                Node::Text(token) if names_a_refresh_token(&name) && !token.is_empty() => found.push(token),
                Node::Text(_) => {}
            }
        }
        Ok(Node::Tokens(found))
    }
}

/// A JSON text in which whatever is no string, `true` or `false` is `null`: numbers that are none (`NaN`, `Infinity`,
/// `1e999`, `01`) do not keep a refresh token beside them from being read.
pub(super) fn without_odd_words(text: &str) -> Zeroizing<String> {
    let mut plain = Zeroizing::new(String::with_capacity(text.len() * 2));
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '"' => {
                let mut is_escaped = false;
                let closing = rest[1..].find(|c| {
                    let closes = c == '"' && !is_escaped;
                    is_escaped = c == '\\' && !is_escaped;
                    closes
                });
                closing.map_or(rest.len(), |at| at + 2)
            }
            c if c.is_ascii_alphanumeric() || "+-._".contains(c) => {
                rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-._".contains(c))).unwrap_or(rest.len())
            }
            c => c.len_utf8(),
        };
        let (word, after) = rest.split_at(end);
        let is_odd = first != '"' && (first.is_ascii_alphanumeric() || "+-._".contains(first));
        plain.push_str(if is_odd && word != "true" && word != "false" { "null" } else { word });
        rest = after;
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::account;

    #[test]
    fn a_refresh_token_is_tried_before_it_takes_the_place_of_another() {
        let new = refresh_token(&account("gdh", ""), Secret::new("r"));
        assert_eq!(new.credential.refresh_token, Some(Secret::new("r")));
        assert_eq!(new.trial, crate::store::Trial::Required);
    }

    #[test]
    fn what_clings_to_a_token_is_taken_away_where_the_meaning_is_certain() {
        let jwt = "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.sig-_~+/=";
        let clinging: [(&str, &str); 40] = [
            ("bare", "@"),
            ("blanks and line ends", " \t @ \r\n\n"),
            ("a byte order mark", "\u{feff}@\r\n"),
            ("double quotes", "\"@\""),
            ("single quotes", "'@'\n"),
            ("backquotes", "`@`"),
            ("quotes of a text program", "“@”"),
            ("angle brackets", "<@>"),
            ("a mark and quotes", "\u{feff}\"@\"\r\n"),
            ("export", "export GDH_REFRESH_TOKEN=@"),
            ("export, quoted", "export X=\"@\"\n"),
            ("export, with a semicolon", "export X='@';"),
            ("set", "set X=@"),
            ("declare", "declare -x REFRESH_TOKEN=\"@\""),
            ("PowerShell", "$env:REFRESH_TOKEN = \"@\""),
            ("an assignment", "GDH_REFRESH_TOKEN=@"),
            ("an assignment of any token", "LAB_TOKEN=\"@\""),
            ("a key in lower case", "refresh_token=@"),
            ("an INI file's", "refresh_token = @"),
            ("an environment file", "CLIENT_ID=lab\n# a comment\nREFRESH_TOKEN=@\nACCESS_TOKEN=a\n"),
            ("an environment file with exports", "export CLIENT_ID=lab\nexport LAB_REFRESH_TOKEN='@'\n"),
            ("a form", "access_token=a&refresh_token=@form&expires_in=1"),
            ("a form that begins with it", "refresh_token=@form&token_type=Bearer"),
            ("JSON", "{\"refresh_token\": \"@\"}"),
            ("a token answer", "{\"access_token\":\"a\",\"expires_in\":3600,\"refresh_token\":\"@\"}\n"),
            ("JSON with a mark", "\u{feff}{\"refresh_token\":\"@\"}"),
            ("JSON over lines", "{\n  \"a\": 1,\n  \"refresh_token\": \"@\"\n}\n"),
            ("nested JSON", "{\"user\": {\"tokens\": [{\"refresh_token\": \"@\"}]}}"),
            ("camel case", "{\"accessToken\": \"a\", \"refreshToken\": \"@\"}"),
            ("Cognito's", "{\"AuthenticationResult\": {\"RefreshToken\": \"@\"}}"),
            ("a list", "[{\"refresh_token\": \"@\"}]"),
            ("a key with a hyphen", "refresh-token=@"),
            ("a form's one pair", "refresh_token=@form"),
            ("a form's one pair, exported", "export refresh_token=@form;"),
            ("slashes escaped", "@json"),
            ("slashes escaped, in quotes", "\"@json\""),
            ("slashes escaped, in JSON", "{\"refresh_token\": \"@json\"}"),
            ("the same twice", "[{\"refresh_token\": \"@\"}, {\"refresh_token\": \"@\"}]"),
            ("an end that is no number", "{\"expires_at\": NaN, \"refresh_token\": \"@\", \"x\": -Infinity}"),
            ("an end without an end", "{\"refresh_token\": \"@\", \"expires_at\": 1e999}"),
        ];
        for token in ["0f8fad5b-d9cb-469f-a165-70867728950e", "abcd==", "1//0gA:b~c", "made-up", jwt] {
            let form: String = form_urlencoded::byte_serialize(token.as_bytes()).collect();
            for (case, text) in clinging {
                let text =
                    text.replace("@form", &form).replace("@json", &token.replace('/', "\\/")).replace('@', token);
                assert_eq!(clean(&text), Ok(Secret::new(token)), "{case}: {text}");
            }
        }
    }

    #[test]
    fn what_is_no_token_for_certain_is_refused_in_words_that_do_not_quote_it() {
        let rows = [
            ("nothing", "", Unclear::Nothing),
            ("blanks", " \n\t", Unclear::Nothing),
            ("quotes around nothing", "\"\"", Unclear::Nothing),
            ("two lines", "hunter2-one\nhunter2-two\n", Unclear::More),
            ("the same line twice", "hunter2\nhunter2\n", Unclear::More),
            ("a sentence", "your token is hunter2", Unclear::More),
            ("a label", "Refresh token: hunter2", Unclear::More),
            ("two of an environment file", "A_REFRESH_TOKEN=hunter2\nB_REFRESH_TOKEN=hunter2\n", Unclear::More),
            ("an environment file without one", "CLIENT_ID=hunter2\nX=hunter2\n", Unclear::More),
            ("JSON without one", "{\"access_token\": \"hunter2\"}", Unclear::NoMember),
            ("JSON with null", "{\"refresh_token\": null}", Unclear::NoMember),
            ("JSON with a number", "{\"refresh_token\": 12345}", Unclear::NoMember),
            ("JSON with two", "[{\"refresh_token\": \"a\"}, {\"refresh_token\": \"hunter2\"}]", Unclear::Members),
            ("JSON with two of one name", r#"{"refresh_token": "a", "refresh_token": "hunter2"}"#, Unclear::Members),
            ("an assignment to any name", "RT=hunter2", Unclear::Assignment),
            ("one with quotes", "rt=\"hunter2\"", Unclear::Quote),
            ("one with a hyphen", "GDH-REFRESH=hunter2==", Unclear::Assignment),
            ("a backslash", "hunter2\\", Unclear::Backslash),
            ("half of a JSON document", "{\"refresh_token\": \"hunter2", Unclear::Json),
            ("a quote at the beginning", "\"hunter2", Unclear::Quote),
            ("a quote at the end", "hunter2'", Unclear::Quote),
            ("jq's null", "null\n", Unclear::Null),
            ("JavaScript's", "undefined", Unclear::Null),
            ("Python's", "None", Unclear::Null),
            ("a quoted null", "\"null\"", Unclear::Null),
            ("a variable", "$REFRESH_TOKEN", Unclear::Variable),
            ("a variable in braces", "export X=${REFRESH_TOKEN}", Unclear::Variable),
            ("a variable of cmd.exe", "%REFRESH_TOKEN%", Unclear::Variable),
            ("what goes to an API", "Bearer hunter2", Unclear::Bearer),
            ("the whole field", "Authorization: Bearer hunter2", Unclear::Bearer),
            ("stars", "********", Unclear::Masked),
            ("a masked middle", "hunt***er2", Unclear::Masked),
            ("dots", "hunt…", Unclear::Masked),
            ("a letter that no token has", "hünter2", Unclear::Characters),
            ("a mark in the middle", "hunter\u{feff}2", Unclear::Characters),
            ("a control character", "hunter\u{7}2", Unclear::Characters),
            ("a web page", "<!doctype html><title>hunter2</title>", Unclear::More),
        ];
        for (case, text, expected) in rows {
            assert_eq!(clean(text), Err(expected), "{case}");
            assert!(!expected.to_string().contains("hunter2"), "{case}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_token_comes_out_as_it_went_in(token in "[A-Za-z0-9][A-Za-z0-9._~+/-]{3,60}={0,2}") {
            proptest::prop_assume!(!token.ends_with("..."));
            for text in [token.clone(), format!("\u{feff}{token}\r\n"), format!("export X='{token}'\n")] {
                proptest::prop_assert_eq!(clean(&text), Ok(Secret::new(token.as_str())));
            }
        }

        #[test]
        fn no_text_makes_the_cleaning_panic(text: String) {
            let _ = clean(&text);
            let _ = without_odd_words(&text);
        }
    }

    #[test]
    fn text_with_a_byte_order_mark_is_read_as_what_the_mark_says() {
        let utf16 = |unit: fn(u16) -> [u8; 2]| "\u{feff}hünter2\r\n".encode_utf16().flat_map(unit).collect::<Vec<u8>>();
        let rows = [
            ("UTF-8", "\u{feff}hünter2\r\n".as_bytes().to_vec()),
            ("UTF-16, little end first", utf16(u16::to_le_bytes)),
            ("UTF-16, big end first", utf16(u16::to_be_bytes)),
        ];
        for (case, bytes) in rows {
            assert_eq!(read_secret(bytes.as_slice()).unwrap().expose(), "hünter2", "{case}");
        }
        assert!(read_secret([0xff, 0xfe, b'a'].as_slice()).is_err(), "half a character");
        assert!(read_secret([0xff, 0xfe, 0x00, 0xd8].as_slice()).is_err(), "half a pair");
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
