//! What the response of a token endpoint is worth: tokens, or a refusal with a verdict. What all dialects share.
//!
//! Tokens are read leniently, because a renewal is lost otherwise; refusals strictly, because a login is. Only a
//! well-formed OAuth error code, or the provider's own dialect of one, says anything about the credential. Everything
//! else (HTML, an empty body, redirects, 5xx, a proxy's 407, a captive portal) is no verdict, and is tried again. What a 2xx
//! that cannot be used means for the refresh token that was sent: `salvage`.
//! What could damage a request header is refused whole.

use std::time::{Duration, SystemTime};

use serde_json::Value;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::ends::{Ends, LONGEST_LIFE, http_date};
use super::grant::{Client, Grant, Tokens};
use super::jwt;
use super::members::{Json, Unreadable};
use super::unwrapped::{document_within, without_controls};
use super::vocabulary::Vocabulary;
use crate::renewal::{Failure, Why};
use crate::secret::Secret;
use crate::timestamp;

/// How much of an `error_description` is quoted.
const LONGEST_QUOTE: usize = 200;

/// An HTTP response, as far as it matters here.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TokenResponse<'a> {
    /// The status code.
    pub status: u16,
    /// `Retry-After`.
    pub retry_after: Option<&'a str>,
    /// `Date`: the server's clock.
    pub date: Option<&'a str>,
    /// `Content-Type`; only ever quoted, as servers label JSON in many ways.
    pub content_type: Option<&'a str>,
    /// `WWW-Authenticate`: the first field that names an error, if one does. In whatever bytes: a description need not be ASCII.
    pub challenge: Option<&'a [u8]>,
    /// The body, whole.
    pub body: &'a [u8],
}

impl TokenResponse<'_> {
    /// When the server wants to be asked again, if it says so. `now` is as in [`Reader::new`].
    pub(crate) fn asks_for_a_pause(&self, now: SystemTime) -> Option<Duration> {
        retry_after(self.retry_after?, http_date(self.date).unwrap_or(unix_seconds(now)))
    }
}

/// A response that brings no tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    /// What it means for the renewal.
    pub failure: Failure,
    /// The server's code: an OAuth error, or a Cognito exception's name.
    pub oauth_error: Option<String>,
    /// What the server did, for people, to follow its name: "answered 400 invalid_grant: Token is not active". Never
    /// holds a secret that was sent or received, nor text of the body but the code and its description.
    pub detail: String,
    /// The server rotates refresh tokens and was not asked in the dialect for that: it says nothing of the one presented.
    pub wants_rotation: bool,
}

/// One response, read with what it answers.
pub(super) struct Reader<'a> {
    pub(super) response: &'a TokenResponse<'a>,
    pub(super) grant: &'a Grant,
    pub(super) vocabulary: &'a Vocabulary,
    client: &'a Client,
    /// Unix seconds by the server's clock, as far as it told.
    server_now: i64,
}

impl<'a> Reader<'a> {
    /// `now` is the wall clock's time, which matters only for a JWT without `iat` and for a `Retry-After` date in a response
    /// without `Date`.
    pub(super) fn new(
        response: &'a TokenResponse<'a>,
        grant: &'a Grant,
        client: &'a Client,
        vocabulary: &'a Vocabulary,
        now: SystemTime,
    ) -> Self {
        Self { response, grant, vocabulary, client, server_now: http_date(response.date).unwrap_or(unix_seconds(now)) }
    }

    /// The body, without a byte order mark and blanks before it.
    pub(super) fn body(&self) -> &'a [u8] {
        let body = self.response.body;
        body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii_start()
    }

    /// What `read` makes of the body, if it is a JSON object. Bytes that are not UTF-8 become U+FFFD, which no token may hold.
    /// What follows it does no harm, unless it is more of the same kind.
    pub(super) fn object<T>(&self, read: impl FnOnce(Json<'_>) -> Result<T, Unreadable>) -> Option<T> {
        let body = self.body();
        let clean = if first_object(body).is_none() { without_controls(body) } else { None };
        let body = clean.as_ref().map_or(body, |clean| clean);
        if std::str::from_utf8(body).is_ok() {
            return read(first_object(body)?).ok();
        }
        let text = Zeroizing::new(String::from_utf8_lossy(body).into_owned());
        read(first_object(text.as_bytes())?).ok()
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.response.status)
    }

    /// Whether a device code is spent although its tokens cannot be used: by a success that names no error. To ask on would be
    /// answered with refusals of the code until its time is over.
    pub(super) fn has_spent_device_code(&self, refusal: &Refusal) -> bool {
        matches!(self.grant, Grant::DeviceCode { .. })
            && self.is_success()
            && refusal.oauth_error.is_none()
            && matches!(refusal.failure, Failure::Transient { .. })
            && self.body().starts_with(b"{")
    }

    /// Whether it is somebody's web page rather than a response to a token request. HTML is the label of whatever a server has
    /// not labelled, so that only the body tells.
    pub(super) fn is_web_page(&self) -> bool {
        self.body().starts_with(b"<")
    }

    /// What `read` makes of a document that stands behind something else: a warning of the server's own, a guard against
    /// scripts, a call. For successes alone: an error in a page is no verdict.
    pub(super) fn object_within<T>(&self, read: impl FnOnce(Json<'_>) -> Result<T, Unreadable>) -> Option<T> {
        let document = document_within(self.body()).filter(|_| self.is_success())?;
        let text = Zeroizing::new(String::from_utf8_lossy(document).into_owned());
        let mut stream = serde_json::Deserializer::from_str(&text).into_iter::<&RawValue>();
        read(Json::new(stream.next()?.ok()?)).ok()
    }

    pub(super) fn tokens(&self, found: TokenFields) -> Result<Tokens, Refusal> {
        if !self.is_success() {
            return Err(self.no_verdict());
        }
        if !found.holds_a_token() {
            return Err(self.transient(None, "without a token"));
        }
        if !found.secrets().into_iter().all(is_well_formed) {
            return Err(self.transient(None, "with a token that holds forbidden characters"));
        }
        let TokenFields { access_token, id_token, refresh_token, token_type, ends } = found;
        if needs_a_proof(&token_type) {
            let shown = token_type.as_str().and_then(|name| self.code(name)).unwrap_or_else(|| "another".to_owned());
            return Err(
                self.transient(None, &format!("with a token of type {shown}, which cannot be used as a bearer token"))
            );
        }
        let [access_token, id_token, refresh_token] =
            [access_token, id_token, refresh_token].map(|token| token.filter(|token| !token.is_empty()));
        let id_token_lifetime = id_token.as_ref().and_then(|token| self.jwt_life(token));
        let told = ends.life(self.server_now, self.response.date.is_some());
        let own = access_token.as_ref().and_then(|token| self.sure_jwt_life(token));
        let lifetime = match (told, own) {
            // orders of magnitude apart: milliseconds where seconds belong
            (Some(told), Some(own)) if told >= own * 10 => Some(own),
            _ => told.or_else(|| self.jwt_life(access_token.as_ref()?)).or(id_token_lifetime),
        };
        Ok(Tokens { access_token, id_token, refresh_token, lifetime, id_token_lifetime, ..Tokens::default() })
    }

    /// A JWT's own life, where it does not hang on our clock. None is no contradiction.
    fn sure_jwt_life(&self, token: &Secret) -> Option<Duration> {
        let is_sure = self.response.date.is_some() || jwt::claims(token.expose())?.iat.is_some();
        self.jwt_life(token).filter(|life| is_sure && !life.is_zero())
    }

    /// `exp - iat` is independent of any clock, but too long for a token that the server had kept and handed out again;
    /// where the server says what time it is, that is seen.
    fn jwt_life(&self, token: &Secret) -> Option<Duration> {
        let claims = jwt::claims(token.expose())?;
        let left = claims.exp?.saturating_sub(self.server_now);
        let life = match claims.iat {
            Some(iat) if self.response.date.is_some() => claims.exp?.saturating_sub(iat).min(left.max(0)),
            Some(iat) => claims.exp?.saturating_sub(iat),
            None => left,
        };
        u64::try_from(life).ok().map(|life| Duration::from_secs(life).min(LONGEST_LIFE))
    }

    /// A refusal that means this, if the status is one with which verdicts are given.
    pub(super) fn refusal(&self, meaning: Option<Failure>, code: Option<String>, words: &str) -> Refusal {
        match meaning {
            Some(Failure::Unconfirmed { why, .. }) if gives_verdicts(self.response.status) => {
                self.refused(Failure::Unconfirmed { why, retry_after: self.retry_after() }, code, words)
            }
            Some(failure) if gives_verdicts(self.response.status) => self.refused(failure, code, words),
            _ => self.transient(code, words),
        }
    }

    fn refused(&self, failure: Failure, code: Option<String>, words: &str) -> Refusal {
        let detail = self.detail(code.as_deref(), words);
        Refusal { failure, oauth_error: code, detail, wants_rotation: false }
    }

    pub(super) fn permanent(&self, why: Why, code: Option<String>, words: &str) -> Refusal {
        self.refused(Failure::Permanent(why), code, words)
    }

    pub(super) fn transient(&self, code: Option<String>, words: &str) -> Refusal {
        self.refused(Failure::Transient { retry_after: self.retry_after() }, code, words)
    }

    /// When the server wants to be asked again, if it says so.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.response.retry_after.and_then(|text| retry_after(text, self.server_now))
    }

    pub(super) fn no_verdict(&self) -> Refusal {
        self.transient(
            None,
            match self.response.body {
                _ if (300..400).contains(&self.response.status) => "with a redirect, which is not followed",
                [] => "with an empty body",
                _ if self.is_web_page() => "with a web page",
                _ if self.is_success() => "with nothing that can be read as tokens",
                _ => "without an OAuth error code",
            },
        )
    }

    /// "answered 400 invalid_grant: Token is not active"
    fn detail(&self, code: Option<&str>, words: &str) -> String {
        let mut detail = format!("answered {}", self.response.status);
        if let Some(code) = code {
            detail = format!("{detail} {code}");
        }
        match words {
            "" => detail,
            words if words.starts_with(':') => detail + words,
            words => format!("{detail} {words}"),
        }
    }

    /// A code as it may be shown: short, of a name's characters, and nothing like a token.
    pub(super) fn code(&self, code: &str) -> Option<String> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let short = (1..=LONGEST_WORD).contains(&code.len());
        (short && code.chars().all(good) && !looks_like_a_token(code) && !self.holds_a_secret(code, &[]))
            .then(|| code.to_owned())
    }

    /// A path of a response's own names as it may be shown: a JSON Pointer.
    pub(super) fn shown_path(&self, path: &[Zeroizing<String>]) -> String {
        path.iter().map(|name| format!("/{}", self.code(name).unwrap_or_else(|| "[...]".to_owned()))).collect()
    }

    /// A description as it may be shown, after a colon; nothing where it repeats what we sent or got.
    pub(super) fn quote(&self, description: &Value, received: &[&Secret]) -> String {
        let Some(text) = description.as_str().filter(|text| !self.holds_a_secret(text, received)) else {
            return String::new();
        };
        let quoted = quotable(text);
        if quoted.is_empty() || self.holds_a_secret(&quoted, received) { quoted } else { format!(": {quoted}") }
    }

    fn holds_a_secret(&self, text: &str, received: &[&Secret]) -> bool {
        let sent = self.grant.secrets().chain(self.client.secrets());
        sent.chain(received.iter().copied()).any(|secret| !secret.is_empty() && text.contains(secret.expose()))
    }
}

/// The members that both dialects share.
pub(super) struct TokenFields {
    pub(super) access_token: Option<Secret>,
    pub(super) id_token: Option<Secret>,
    pub(super) refresh_token: Option<Secret>,
    pub(super) token_type: Value,
    pub(super) ends: Ends,
}

impl TokenFields {
    pub(super) fn holds_a_token(&self) -> bool {
        [&self.access_token, &self.id_token].into_iter().flatten().any(|token| !token.is_empty())
    }

    pub(super) fn secrets(&self) -> Vec<&Secret> {
        [&self.access_token, &self.id_token, &self.refresh_token].into_iter().flatten().collect()
    }
}

/// `null`, `""` and `false` are ways to say that there was no error.
pub(super) fn names_something(error: &Value) -> bool {
    match error {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !NO_ERROR.contains(&text.trim().to_ascii_lowercase().as_str()),
        Value::Array(errors) => !errors.is_empty(),
        Value::Object(error) => !error.is_empty(),
    }
}

/// What stands where errors are and says that there was none.
const NO_ERROR: [&str; 8] = ["", "0", "false", "none", "null", "ok", "success", "no error"];

/// Whether an error code in a response with this status is the authorization server's word: not that of a proxy on the
/// way (407), nor of a server in trouble (5xx, 408, 425, 429). 403 is: some refuse a refresh token with it.
fn gives_verdicts(status: u16) -> bool {
    matches!(status, 200..300 | 400..500) && !matches!(status, 407 | 408 | 425 | 429)
}

/// Narrower than RFC 6749 appendix A.12 by the blank: what stands in a header field must not be torn in two.
fn is_well_formed(token: &Secret) -> bool {
    token.expose().bytes().all(|byte| byte.is_ascii_graphic())
}

/// The types of tokens that are worth nothing without a proof of possession. Every other is a bearer token by whatever name
/// ("User Access Token", "BearerToken"; `N_A` is for answers without an access token, RFC 8693).
fn needs_a_proof(token_type: &Value) -> bool {
    const WITH_PROOF: [&str; 5] = ["dpop", "mac", "pop", "hoba", "httpsig"];
    let text = match token_type {
        Value::Null => return false,
        Value::String(text) => text.to_ascii_lowercase(),
        other => other.to_string().to_ascii_lowercase(),
    };
    text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| WITH_PROOF.contains(&word))
}

/// The JSON object that the bytes begin with, if no other follows.
fn first_object(body: &[u8]) -> Option<Json<'_>> {
    if !body.starts_with(b"{") {
        return None;
    }
    let mut stream = serde_json::Deserializer::from_slice(body).into_iter::<&RawValue>();
    let first = stream.next()?.ok()?;
    let rest = &body[stream.byte_offset()..];
    (!rest.contains(&b'{')).then_some(Json::new(first))
}

/// RFC 9110 section 10.2.3: seconds, or a date by the server's clock; also with a fraction, and said twice, of which the
/// longer counts. As it was asked for: `renewal::policy` says how much of it is obeyed.
fn retry_after(text: &str, server_now: i64) -> Option<Duration> {
    let seconds = |text: &str| match text.trim() {
        digits if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().unwrap_or(u64::MAX))
        }
        number => number.parse().ok().filter(|seconds: &f64| *seconds >= 0.0).map(|seconds| seconds.ceil() as u64),
    };
    let date = |text: &str| Some(u64::try_from(http_date(Some(text))?.saturating_sub(server_now)).unwrap_or(0));
    let wait = date(text).or_else(|| text.split(',').map(seconds).collect::<Option<Vec<_>>>()?.into_iter().max());
    wait.map(Duration::from_secs)
}

fn unix_seconds(time: SystemTime) -> i64 {
    i64::try_from(timestamp::unix_seconds(time)).unwrap_or(i64::MAX)
}

/// Longer words are never shown.
const LONGEST_WORD: usize = 40;

/// Long and with a digit, or very long: nothing that a description needs.
fn looks_like_a_token(word: &str) -> bool {
    word.len() > LONGEST_WORD || (word.len() >= 16 && word.bytes().any(|byte| byte.is_ascii_digit()))
}

/// A server's text with everything token-like taken out, on one line, of bounded length.
fn quotable(text: &str) -> String {
    let mut quoted = String::new();
    let in_token = |c: char| c.is_ascii_alphanumeric() || "-._~+/=%".contains(c);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = match rest.find(|c| !in_token(c)) {
            Some(0) => first.len_utf8(),
            Some(end) => end,
            None => rest.len(),
        };
        let (word, after) = rest.split_at(end);
        match word {
            word if looks_like_a_token(word) => quoted.push_str("[...]"),
            _ if !first.is_alphanumeric() && !first.is_ascii_graphic() => quoted.push(' '),
            word => quoted.push_str(word),
        }
        rest = after;
    }
    let on_one_line = quoted.split_whitespace().collect::<Vec<_>>().join(" ");
    on_one_line.chars().take(LONGEST_QUOTE).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::Dialect;
    use super::super::testing::{now, refresh_token, refreshed};
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        let table = [
            ("seconds", "120", None, Some(120)),
            ("zero", "0", None, Some(0)),
            ("a day", "86400", None, Some(86_400)),
            ("too long for a number", "99999999999999999999999", None, Some(u64::MAX)),
            ("a date against Date", "Sun, 06 Nov 1994 08:50:37 GMT", now, Some(60)),
            ("a date against our clock", "Sun, 06 Nov 1994 08:50:37 GMT", None, Some(60)),
            ("a date with a wrong weekday", "Mon, 06 Nov 1994 08:50:37 GMT", now, Some(60)),
            ("a date that has passed", "Sun, 06 Nov 1994 08:00:00 GMT", now, Some(0)),
            ("RFC 850's form", "Sunday, 06-Nov-94 08:50:37 GMT", now, Some(60)),
            ("asctime's form", "Sun Nov  6 08:50:37 1994", now, Some(60)),
            ("a fraction", "6.5", None, Some(7)),
            ("said twice", "6, 8", None, Some(8)),
            ("negative", "-5", None, None),
            ("words", "later", None, None),
            ("nothing", "", None, None),
        ];
        for (name, retry_after, date, expected) in table {
            let answer =
                TokenResponse { status: 429, retry_after: Some(retry_after), date, ..TokenResponse::default() };
            let grant = Grant::RefreshToken(refresh_token());
            let refusal = Dialect::Rfc6749
                .read(&answer, &grant, &Client::default(), &Vocabulary::default(), self::now())
                .expect_err(name);
            assert_eq!(
                refusal.failure,
                Failure::Transient { retry_after: expected.map(Duration::from_secs) },
                "{name}"
            );
            let body = br#"{"access_token":"a","expires_in":0}"#;
            let success = TokenResponse { status: 200, body, ..answer };
            let read = Dialect::Rfc6749.read(&success, &grant, &Client::default(), &Vocabulary::default(), self::now());
            assert_eq!(read.expect(name).retry_after, expected.map(Duration::from_secs), "{name}, with a dead token");
        }
    }

    #[test]
    fn people_read_the_servers_words_and_no_more_of_its_body() {
        let token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln";
        let long = "very ".repeat(100) + "long";
        let table = [
            ("plain", json!("Token is not active"), "answered 400 invalid_grant: Token is not active".to_owned()),
            ("none", json!(null), "answered 400 invalid_grant".to_owned()),
            ("no text", json!({"a": 1}), "answered 400 invalid_grant".to_owned()),
            ("a token", json!(format!("unknown {token}.")), "answered 400 invalid_grant: unknown [...]".to_owned()),
            ("control bytes", json!("a\r\n\u{1b}[31mb\u{202e}"), "answered 400 invalid_grant: a [31mb".to_owned()),
            (
                "what we sent",
                json!(format!("unknown {}", refresh_token().expose())),
                "answered 400 invalid_grant".to_owned(),
            ),
            ("long", json!(long), format!("answered 400 invalid_grant: {}", &long[..200])),
        ];
        for (name, description, detail) in table {
            let body = json!({"error": "invalid_grant", "error_description": description}).to_string();
            assert_eq!(refreshed(400, &body).expect_err(name).detail, detail, "{name}");
        }
        let html =
            TokenResponse { status: 502, content_type: Some("text/html"), body: b"<p>", ..TokenResponse::default() };
        let refusal = Dialect::Rfc6749
            .read(&html, &Grant::ClientCredentials, &Client::default(), &Vocabulary::default(), now())
            .unwrap_err();
        assert_eq!(refusal.detail, "answered 502 with a web page");
        assert_eq!(refreshed(302, "").unwrap_err().detail, "answered 302 with a redirect, which is not followed");
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(
            status in 100u16..600,
            body in proptest::collection::vec(any::<u8>(), 0..200),
            text in ".*",
        ) {
            let token = refresh_token();
            let grant = Grant::RefreshToken(token);
            for dialect in [Dialect::Rfc6749, Dialect::CognitoGetTokens] {
                for body in [&body[..], text.as_bytes()] {
                    let [retry_after, date, content_type] = [Some(text.as_str()); 3];
                    let challenge = Some(text.as_bytes());
                    let response = TokenResponse { status, retry_after, date, content_type, challenge, body };
                    let _ = dialect.read(&response, &grant, &Client::default(), &Vocabulary::default(), now());
                }
            }
        }

        /// Wherever a server puts a secret, its own or one of ours, it is not repeated to people.
        #[test]
        fn no_secret_of_a_body_is_ever_shown(
            status in 100u16..600,
            secret in "[A-Za-z0-9_.~+/-]{12,60}[0-9]{4}",
            before in ".{0,20}",
            after in ".{0,20}",
            kind in 0..8,
            sent in any::<bool>(),
        ) {
            let text = format!("{before}{secret}{after}");
            let body = match kind {
                0 => json!({"access_token": secret, "token_type": text}),
                1 => json!({"refresh_token": secret, "error": "invalid_grant", "error_description": text}),
                2 => json!({"error": secret, "error_description": text}),
                3 => json!({"error": {"code": text, "message": secret}}),
                4 => json!({"__type": text, "message": secret}),
                5 => json!({"__type": "NotAuthorizedException", "message": text}),
                6 => json!({"ChallengeName": secret}),
                _ => json!(text),
            };
            let (body, token) = (body.to_string(), if sent { Secret::new(&*secret) } else { refresh_token() });
            let grant = Grant::RefreshToken(token);
            for dialect in [Dialect::Rfc6749, Dialect::CognitoInitiateAuth] {
                let response = TokenResponse { status, content_type: Some(&secret), body: body.as_bytes(), ..TokenResponse::default() };
                if let Err(refusal) = dialect.read(&response, &grant, &Client::default(), &Vocabulary::default(), now()) {
                    prop_assert!(!format!("{refusal:?}").contains(&secret), "{refusal:?}");
                }
            }
        }
    }
}
