//! What a 2xx that cannot be used says of the refresh token all the same: a server that rotates has spent the one that was
//! sent. A new one in it is kept before anything is judged; where there is none to be seen, the response counts as lost.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use zeroize::Zeroizing;

use super::grant::{Grant, Tokens};
use super::members::plain;
use super::unwrapped::without_controls;
use super::verdict::{Reader, Refusal};
use crate::renewal::Failure;
use crate::secret::Secret;

/// The refusal of a response to a refresh token, or what it brought besides.
pub(super) fn rescue(reader: &Reader<'_>, refusal: Refusal) -> Result<Tokens, Refusal> {
    let has_verdict = !matches!(refusal.failure, Failure::Transient { .. });
    if has_verdict || !reader.is_success() {
        return Err(refusal);
    }
    let named = reader.vocabulary.members.refresh_token_paths();
    let text = Zeroizing::new(String::from_utf8_lossy(reader.body()).into_owned());
    let seen = if reader.is_web_page() { Seen::default() } else { look(text.as_bytes(), named.as_deref()) };
    let Seen { refresh_token, is_odd, holds_token, names_error, is_whole } = seen;
    // where it may be at several places, the best of them may be in what was cut off
    let refresh_token = refresh_token.filter(|(rank, _)| is_whole || *rank == 0).map(|(_, token)| token);
    let refresh_token = match refresh_token {
        None if !is_whole => scan(&text, named.as_deref()),
        found => found,
    };
    let names_error = names_error || refusal.oauth_error.is_some();
    match (refresh_token, reader.grant) {
        (Some(same), Grant::RefreshToken(sent)) if same == *sent => Err(refusal),
        (Some(new), _) => Ok(Tokens { refresh_token: Some(new), unusable: Some(refusal.detail), ..Tokens::default() }),
        (None, _) if reader.is_web_page() => Err(refusal),
        // section 6 of RFC 6749: without a new one the old one stays
        (None, _) if !is_odd && (names_error || (is_whole && holds_token)) => Err(refusal),
        (None, _) => Err(Refusal { failure: Failure::Ambiguous, ..refusal }),
    }
}

/// What was seen in a body, as far as it could be read.
#[derive(Default)]
struct Seen {
    /// With the rank of its place.
    refresh_token: Option<(usize, Secret)>,
    /// Something else is where a refresh token would be.
    is_odd: bool,
    holds_token: bool,
    names_error: bool,
    is_whole: bool,
}

/// Looks for a refresh token: at the paths that are named, the best first, and, where none are, under its name at any depth.
fn look(body: &[u8], named: Option<&[Vec<String>]>) -> Seen {
    let mut seen = Seen::default();
    let paths = named.map(|paths| paths.iter().map(Vec::as_slice).enumerate().collect());
    let clean = without_controls(body);
    let body = clean.as_ref().map_or(body, |clean| clean);
    if body.starts_with(b"{") || body.starts_with(b"[") {
        let mut json = serde_json::Deserializer::from_slice(body);
        let root = Look { seen: &mut seen, member: Member::Other, paths };
        let is_read = root.deserialize(&mut json).is_ok();
        seen.is_whole = is_read && json.end().is_ok();
        return seen;
    }
    for (name, value) in form_urlencoded::parse(body) {
        let (member, _) = below(paths.as_ref(), &name, Member::of(&name));
        seen.take(member, &value);
    }
    // a form has no blanks: what has some is another thing, which is searched as text
    seen.is_whole = body.iter().all(|byte| byte.is_ascii_graphic());
    seen
}

/// Looks for a refresh token in a text that no parser takes: a quoted name, a colon, a quoted value. Of two that differ,
/// neither.
fn scan(text: &str, named: Option<&[Vec<String>]>) -> Option<Secret> {
    let is_name = |name: &str| match named {
        None => plain(name) == "refreshtoken",
        Some(paths) => paths.iter().any(|path| path.last().is_some_and(|last| last == name)),
    };
    let mut found: Option<Secret> = None;
    for (start, _) in text.match_indices('"') {
        let Some((name, rest)) = quoted(&text[start..], LONGEST_NAME) else { continue };
        let value = rest.trim_start().strip_prefix(':').map(str::trim_start).filter(|_| is_name(&name));
        let Some((value, _)) = value.and_then(|value| quoted(value, usize::MAX)) else { continue };
        match &found {
            _ if value.is_empty() => {}
            Some(before) if *before.expose() != **value => return None,
            Some(_) => break, // said twice: enough
            None => found = Some(Secret::new(&**value)),
        }
    }
    found
}

/// No member has a longer name. A text of quotation marks alone would else be read again from each of them.
const LONGEST_NAME: usize = 80;

/// The JSON text of so many bytes at the most that begins here, and what follows it.
fn quoted(text: &str, most: usize) -> Option<(Zeroizing<String>, &str)> {
    let mut is_escaped = false;
    let within = text.strip_prefix('"')?;
    let end = within.bytes().take(most).position(|byte| match byte {
        b'"' => !std::mem::take(&mut is_escaped),
        b'\\' => {
            is_escaped = !is_escaped;
            false
        }
        _ => {
            is_escaped = false;
            false
        }
    })?;
    let (whole, rest) = text.split_at(end + 2);
    Some((Zeroizing::new(serde_json::from_str(whole).ok()?), rest))
}

/// The rest of each path, with its rank.
type Paths<'p> = Vec<(usize, &'p [String])>;

/// What a member is, and the paths that go on below it. `by_name` is what its name says.
fn below<'p>(paths: Option<&Paths<'p>>, name: &str, by_name: Member) -> (Member, Option<Paths<'p>>) {
    let Some(paths) = paths else { return (by_name, None) };
    let on: Paths<'p> = paths
        .iter()
        .filter_map(|(rank, path)| {
            path.split_first().filter(|(first, _)| *first == name).map(|(_, rest)| (*rank, rest))
        })
        .collect();
    let member = match (on.iter().find(|(_, rest)| rest.is_empty()), by_name) {
        (Some((rank, _)), _) => Member::RefreshToken(*rank),
        (None, Member::RefreshToken(_)) => Member::Other, // somebody else's
        (None, by_name) => by_name,
    };
    (member, Some(on))
}

impl Seen {
    fn take(&mut self, member: Member, text: &str) {
        match member {
            _ if text.is_empty() => {}
            Member::RefreshToken(rank) => {
                // of two at the same place, the last one
                if self.refresh_token.as_ref().is_none_or(|(best, _)| rank <= *best) {
                    self.refresh_token = Some((rank, Secret::new(text)));
                }
            }
            Member::Token => self.holds_token = true,
            Member::Error => self.names_error = true,
            Member::Other => {}
        }
    }
}

#[derive(Clone, Copy)]
enum Member {
    /// With the rank of its place.
    RefreshToken(usize),
    Token,
    Error,
    Other,
}

impl Member {
    /// In every dialect: `refresh_token`, `refreshToken`, `RefreshToken`.
    fn of(name: &str) -> Self {
        match plain(name).as_str() {
            "refreshtoken" => Member::RefreshToken(0),
            "accesstoken" | "idtoken" => Member::Token,
            "error" | "errors" | "errorcode" => Member::Error,
            _ => Member::Other,
        }
    }
}

/// Reads a value at any depth, and takes note of what its members hold; also of those before the place where it breaks off.
struct Look<'s, 'p> {
    seen: &'s mut Seen,
    member: Member,
    paths: Option<Paths<'p>>,
}

impl<'de> DeserializeSeed<'de> for Look<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Look<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.seen.take(self.member, text);
        Ok(())
    }

    fn visit_bool<E>(self, is_so: bool) -> Result<(), E> {
        self.seen.names_error |= is_so && matches!(self.member, Member::Error);
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        match self.member {
            Member::Token => self.seen.holds_token = true,
            Member::Error => self.seen.names_error = true,
            Member::RefreshToken(_) => self.seen.take(self.member, &number.to_string()),
            Member::Other => {}
        }
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        for index in 0_usize.. {
            let (member, paths) = below(self.paths.as_ref(), &index.to_string(), self.member);
            if values.next_element_seed(Look { seen: &mut *self.seen, member, paths })?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        self.seen.is_odd |= matches!(self.member, Member::RefreshToken(_));
        while let Some(name) = members.next_key::<String>()? {
            self.seen.names_error |= matches!(self.member, Member::Error);
            let (member, paths) = below(self.paths.as_ref(), &name, Member::of(&name));
            members.next_value_seed(Look { seen: &mut *self.seen, member, paths })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{REVOKED, TRANSIENT, read, refresh_token, refreshed};
    use super::super::{Dialect, Grant};
    use super::*;

    #[test]
    fn a_new_refresh_token_of_an_answer_that_cannot_be_used_is_kept() {
        let table = [
            ("a token that needs a proof", r#"{"access_token":"a","token_type":"DPoP","refresh_token":"r2"}"#),
            ("CRLF in the token", r#"{"access_token":"a\r\nX: 1","refresh_token":"r2"}"#),
            ("the token twice", r#"{"access_token":"a","access_token":"b","refresh_token":"r2"}"#),
            ("no access token", r#"{"refresh_token":"r2"}"#),
            ("beside an error", r#"{"access_token":"a","refresh_token":"r2","error":"server_error"}"#),
            ("cut behind it", r#"{"refresh_token":"r2","access_token":"aaaa"#),
            ("another object behind", r#"{"access_token":"a","refresh_token":"r2"}{"b":1}"#),
            ("nested", r#"{"data":{"accessToken":"a","refreshToken":"r2"}}"#),
            ("said twice, the last one", r#"{"refresh_token":"r1","access_token":"a","refresh_token":"r2"}"#),
            ("a life that is no text", r#"{"access_token":["a"],"refresh_token":"r2"}"#),
            ("as a form, without an access token", "refresh_token=r2&expires_in=60"),
            ("not a number", r#"{"expires_in":NaN,"access_token":"a","refresh_token":"r2"}"#),
            ("a number beyond all", r#"{"access_token":["a"],"x":1e999,"refresh_token":"r2"}"#),
            ("a line break in a text", "{\"x\":\"a\nb\",\"access_token\":[],\"refresh_token\":\"r2\"}"),
            ("in a web page", r#"<html><script>var t = {"refresh_token" : "r2"}</script>"#),
            ("a comment within", r#"{"access_token":"a", /* new */ "refresh_token":"r2"}"#),
            ("in a list", r#"{"access_token":["a"],"refresh_token":["r2"]}"#),
        ];
        for (name, body) in table {
            let tokens = refreshed(200, body).expect(name);
            assert_eq!(tokens.refresh_token.as_ref().map(Secret::expose), Some("r2"), "{name}");
            assert!(tokens.access_token.is_none() && tokens.id_token.is_none(), "{name}");
            assert!(tokens.unusable.expect(name).starts_with("answered 200 "), "{name}");
        }
    }

    #[test]
    fn tokens_are_taken_out_of_whatever_an_answer_comes_in() {
        let whole = r#"{"access_token":"a","refresh_token":"r2","expires_in":60}"#;
        let quoted = serde_json::to_string(whole).unwrap();
        let warned = format!("<br />\n<b>Deprecated</b>: strlen() in /x.php on line <b>3</b><br />\n{whole}");
        let broken = whole.replace("60}", "60,\"x\":\"a\nb\tc\"}");
        let numbered = whole.replace("\"r2\"", "2");
        let rows = [
            ("as it should be", whole, "r2"),
            ("a JSON text", &quoted, "r2"),
            ("behind a warning of PHP", &warned, "r2"),
            ("behind a guard", &format!(")]}}',\n{whole}"), "r2"),
            ("in a call", &format!("cb({whole});"), "r2"),
            ("behind a comment", &format!("/* */{whole}"), "r2"),
            ("a line break and a tab in a text", &broken, "r2"),
            ("a number", &numbered, "2"),
            ("in an array", r#"[{"access_token":"a","refresh_token":"r2"}]"#, "r2"),
            ("by another name", r#"{"access_token":"a","refreshToken":"r2"}"#, "r2"),
            ("by another name, a form", "access_token=a&refreshToken=r2", "r2"),
            ("in an object of its own", r#"{"access_token":"a","data":{"refresh_token":"r2"}}"#, "r2"),
        ];
        for (name, body, refresh_token) in rows {
            let tokens = refreshed(200, body).expect(name);
            assert_eq!(tokens.access_token.as_ref().map(Secret::expose), Some("a"), "{name}");
            assert_eq!(tokens.refresh_token.as_ref().map(Secret::expose), Some(refresh_token), "{name}");
        }
        // of two that differ neither is believed, and none that another access token stands beside
        for body in [
            r#"{"access_token":"a","refreshToken":"x","RefreshToken":"y"}"#,
            r#"{"access_token":"a","authed_user":{"access_token":"b","refresh_token":"x"}}"#,
        ] {
            assert_eq!(refreshed(200, body).expect(body).refresh_token, None, "{body}");
        }
    }

    #[test]
    fn a_text_that_is_no_document_is_searched_in_a_time_that_grows_with_it() {
        let long = "{\"".to_owned() + &"\\\"".repeat(400_000);
        let began = std::time::Instant::now();
        assert!(refreshed(200, &long).is_err());
        assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
    }

    #[test]
    fn what_may_have_replaced_the_refresh_token_is_an_answer_lost_and_nothing_else_is() {
        let same = format!(r#"{{"refresh_token":"{}"}}"#, refresh_token().expose());
        let table = [
            ("nothing", 200, "", Failure::Ambiguous),
            ("no content", 204, "", Failure::Ambiguous),
            ("an empty object", 200, "{}", Failure::Ambiguous),
            ("nonsense", 200, "{", Failure::Ambiguous),
            ("a word", 200, "OK", Failure::Ambiguous),
            ("cut in the new one", 200, r#"{"access_token":"a","refresh_token":"r2"#, Failure::Ambiguous),
            ("cut before it", 200, r#"{"access_token":"a","refre"#, Failure::Ambiguous),
            ("another thing in its place", 200, r#"{"access_token":"a","refresh_token":{"v":1}}"#, Failure::Ambiguous),
            ("two that differ", 200, r#"{"x":NaN,"refresh_token":"r2","refreshToken":"r3"}"#, Failure::Ambiguous),
            ("the same one", 200, same.as_str(), TRANSIENT),
            (
                "a token that needs a proof, and no new one",
                200,
                r#"{"access_token":"a","token_type":"mac"}"#,
                TRANSIENT,
            ),
            ("an error", 200, r#"{"error":"server_error"}"#, TRANSIENT),
            ("an error by another name", 200, r#"{"errors":[{"message":"no"}]}"#, TRANSIENT),
            ("a verdict", 200, r#"{"error":"invalid_grant","refresh_token":"r2"}"#, REVOKED),
            ("a web page", 200, "<html>Welcome</html>", TRANSIENT),
            ("a redirect", 302, "", TRANSIENT),
            ("a server in trouble", 500, r#"{"refresh_token":"r2"}"#, TRANSIENT),
        ];
        for (name, status, body, failure) in table {
            assert_eq!(refreshed(status, body).expect_err(name).failure, failure, "{name}");
        }
        for (dialect, failure) in
            [(Dialect::CognitoGetTokens, Failure::Ambiguous), (Dialect::CognitoInitiateAuth, TRANSIENT)]
        {
            let grant = Grant::RefreshToken(refresh_token());
            assert_eq!(read(dialect, &grant, 200, "{}").expect_err("no token").failure, failure, "{dialect:?}");
        }
        let nobody = read(Dialect::Rfc6749, &Grant::ClientCredentials, 200, "{}").expect_err("no token");
        assert_eq!(nobody.failure, TRANSIENT, "nothing was spent");
    }
}
