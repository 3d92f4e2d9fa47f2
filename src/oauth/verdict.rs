//! What the answer of a token endpoint means: tokens, or a refusal with a verdict.
//!
//! Tokens are read leniently, because a renewal is lost otherwise; refusals strictly, because a login is. Only a
//! well-formed OAuth error code, or the provider's own dialect of one, says anything about the credential. Everything
//! else (HTML, an empty body, redirects, 5xx, a proxy's 407, a captive portal) is no verdict, and is tried again.
//! What could damage a request header is refused whole.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::fmt::rfc2822;
use serde::Deserialize;
use serde_json::Value;

use super::grant::GrantRequest;
use super::jwt;
use super::{Client, Tokens};
use crate::renewal::{Failure, Why};
use crate::secret::Secret;

/// No life is believed to be longer: ten years, far from where arithmetic ends.
const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// How much of an `error_description` is quoted.
const LONGEST_QUOTE: usize = 200;

/// An HTTP answer, as far as it matters here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer<'a> {
    /// The status code.
    pub status: u16,
    /// `Retry-After`.
    pub retry_after: Option<&'a str>,
    /// `Date`: the server's clock.
    pub date: Option<&'a str>,
    /// `Content-Type`; only ever quoted, as servers label JSON in many ways.
    pub content_type: Option<&'a str>,
    /// The body, whole.
    pub body: &'a [u8],
}

/// An answer that brings no tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What it means for the renewal.
    pub failure: Failure,
    /// The server's code: an OAuth error, or a Cognito exception's name.
    pub oauth_error: Option<String>,
    /// What the server did, for people, to follow its name: "answered 400 invalid_grant: Token is not active". Never
    /// holds a secret that was sent or received, nor text of the body but the code and its description.
    pub detail: String,
}

/// Reads the answer to `request` of `client`. `now` is the wall clock's time, which matters only for a JWT without
/// `iat` and for a `Retry-After` date in an answer without `Date`.
///
/// # Errors
///
/// A [`Refusal`] if there is no usable token in it. It is never [`Failure::Ambiguous`]: an answer has arrived.
pub fn read(
    answer: &Answer<'_>,
    request: &GrantRequest<'_>,
    client: &Client,
    now: SystemTime,
) -> Result<Tokens, Refusal> {
    let reader = Reader { answer, request, client, server_now: http_date(answer.date).unwrap_or(unix_seconds(now)) };
    match request {
        GrantRequest::CognitoInitiateAuth { .. } | GrantRequest::CognitoGetTokens { .. } => reader.cognito(),
        GrantRequest::RefreshToken { .. } | GrantRequest::Password { .. } => reader.rfc6749(),
        GrantRequest::ClientCredentials | GrantRequest::AuthorizationCode { .. } => reader.rfc6749(),
    }
}

/// Reads the answer to a request that revokes `refresh_token` (RFC 7009 section 2.2): any 2xx means that it is dead,
/// also if it was before.
///
/// # Errors
///
/// A [`Refusal`], as of a token request.
pub fn read_revocation(
    answer: &Answer<'_>,
    refresh_token: &Secret,
    client: &Client,
    now: SystemTime,
) -> Result<(), Refusal> {
    let request = &GrantRequest::RefreshToken { refresh_token };
    let server_now = http_date(answer.date).unwrap_or(unix_seconds(now));
    let reader = Reader { answer, request, client, server_now };
    if (200..300).contains(&answer.status) {
        return Ok(());
    }
    Err(match reader.object::<Form>() {
        Some(Form { error, error_description, .. }) => reader.oauth_error(&error, &error_description, &[]),
        None => reader.no_verdict(),
    })
}

/// RFC 6749 sections 5.1 and 5.2, with what servers add. A member that is there twice makes serde refuse the whole.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Form {
    access_token: Option<Secret>,
    id_token: Option<Secret>,
    refresh_token: Option<Secret>,
    token_type: Value,
    expires_in: Value,
    /// Keycloak's name.
    refresh_expires_in: Value,
    /// Microsoft's and GitHub's name.
    refresh_token_expires_in: Value,
    error: Value,
    error_description: Value,
    /// GBDX's whole vocabulary: `{"Error": "401 Unauthorized: Unauthorized"}`.
    #[serde(rename = "Error")]
    gbdx_error: Value,
}

/// Cognito's JSON API: `InitiateAuth`, `GetTokensFromRefreshToken` and their exceptions.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Cognito {
    authentication_result: Option<AuthenticationResult>,
    challenge_name: Value,
    #[serde(rename = "__type")]
    exception: Value,
    #[serde(rename = "message", alias = "Message")]
    message: Value,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct AuthenticationResult {
    access_token: Option<Secret>,
    id_token: Option<Secret>,
    refresh_token: Option<Secret>,
    token_type: Value,
    expires_in: Value,
}

struct Reader<'a> {
    answer: &'a Answer<'a>,
    request: &'a GrantRequest<'a>,
    client: &'a Client,
    /// Unix seconds by the server's clock, as far as it told.
    server_now: i64,
}

impl Reader<'_> {
    fn rfc6749(&self) -> Result<Tokens, Refusal> {
        let Some(body) = self.object::<Form>() else { return Err(self.no_verdict()) };
        let Form {
            access_token,
            id_token,
            refresh_token,
            token_type,
            expires_in,
            refresh_expires_in,
            refresh_token_expires_in,
            error,
            error_description,
            gbdx_error,
        } = body;
        let found = Found { access_token, id_token, refresh_token, token_type, expires_in };
        if names_something(&error) {
            if found.holds_a_token() {
                return Err(self.transient(None, "with both tokens and an error"));
            }
            return Err(self.oauth_error(&error, &error_description, &found.secrets()));
        }
        if let (GrantRequest::Password { .. }, 401, Value::String(_)) = (self.request, self.answer.status, &gbdx_error)
        {
            // For a refresh token the same answer would be no verdict: nobody knows what GBDX says of an expired one.
            // A wrong password is not sent again, as that locks accounts.
            return Err(self.permanent(Why::Revoked, None, ": wrong user name or password"));
        }
        // Keycloak's 0 is a refresh token that does not expire.
        let refresh_lifetime =
            seconds(&refresh_expires_in).or_else(|| seconds(&refresh_token_expires_in)).filter(|life| !life.is_zero());
        Ok(Tokens { refresh_lifetime, ..self.tokens(found)? })
    }

    fn cognito(&self) -> Result<Tokens, Refusal> {
        let Some(body) = self.object::<Cognito>() else { return Err(self.no_verdict()) };
        let Cognito { authentication_result, challenge_name, exception, message } = body;
        if let Value::String(exception) = &exception {
            // "com.amazonaws.cognito...#NotAuthorizedException" as well as the bare name
            let name = exception.rsplit('#').next().unwrap_or(exception);
            return Err(self.exception(name, &message));
        }
        if let Value::String(challenge) = &challenge_name {
            let challenge = self.code(challenge).unwrap_or_default();
            let words = format!(": it wants a further proof from a person {challenge}");
            return Err(self.permanent(Why::Revoked, None, words.trim_end()));
        }
        let AuthenticationResult { access_token, id_token, refresh_token, token_type, expires_in } =
            authentication_result.unwrap_or_default();
        self.tokens(Found { access_token, id_token, refresh_token, token_type, expires_in })
    }

    /// The body as a JSON object; `None` if it is none.
    fn object<'b, T: Deserialize<'b>>(&'b self) -> Option<T> {
        let body = self.answer.body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(self.answer.body);
        // serde would take an array for a struct
        body.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(body).ok())?
    }

    fn tokens(&self, found: Found) -> Result<Tokens, Refusal> {
        if !(200..300).contains(&self.answer.status) {
            return Err(self.no_verdict());
        }
        if !found.holds_a_token() {
            return Err(self.transient(None, "without a token"));
        }
        if !found.secrets().into_iter().all(is_well_formed) {
            return Err(self.transient(None, "with a token that holds forbidden characters"));
        }
        let Found { access_token, id_token, refresh_token, token_type, expires_in } = found;
        let token_type = match token_type {
            Value::String(name) if !name.is_empty() => Some(name),
            Value::Null | Value::String(_) => None,
            _ => return Err(self.transient(None, "with a token_type that is no text")),
        };
        if let Some(name) = token_type.as_deref().filter(|name| !is_bearer(name)) {
            let shown = self.code(name).unwrap_or_else(|| "another".to_owned());
            return Err(
                self.transient(None, &format!("with a token of type {shown}, which cannot be used as a bearer token"))
            );
        }
        let [access_token, id_token, refresh_token] =
            [access_token, id_token, refresh_token].map(|token| token.filter(|token| !token.is_empty()));
        let lifetime = seconds(&expires_in)
            .or_else(|| self.jwt_life(access_token.as_ref()?))
            .or_else(|| self.jwt_life(id_token.as_ref()?));
        Ok(Tokens { access_token, id_token, refresh_token, lifetime, refresh_lifetime: None })
    }

    /// `exp - iat` is independent of any clock, but too long for a token that the server had kept and handed out again;
    /// where the server says what time it is, that is seen.
    fn jwt_life(&self, token: &Secret) -> Option<Duration> {
        let claims = jwt::claims(token.expose())?;
        let left = claims.exp?.saturating_sub(self.server_now);
        let life = match claims.iat {
            Some(iat) if self.answer.date.is_some() => claims.exp?.saturating_sub(iat).min(left.max(0)),
            Some(iat) => claims.exp?.saturating_sub(iat),
            None => left,
        };
        u64::try_from(life).ok().map(|life| Duration::from_secs(life).min(LONGEST_LIFE))
    }

    /// An `error` member. The code decides, not the status, unless the status is that of a hop or of overload.
    fn oauth_error(&self, error: &Value, description: &Value, received: &[&Secret]) -> Refusal {
        let code = match error {
            Value::String(code) => code,
            object => match object.get("code").or_else(|| object.get("type")) {
                Some(Value::String(code)) => code,
                _ => return self.transient(None, "with an error that is no OAuth error code"),
            },
        };
        let why = match code.as_str() {
            "invalid_grant" => Some(Why::Revoked),
            "invalid_client" | "unauthorized_client" | "unsupported_grant_type" | "invalid_scope" => {
                Some(Why::ClientRefused)
            }
            // `invalid_request` too: many servers and firewalls use it for whatever they did not like just then, and
            // it says nothing about the credential.
            _ => None,
        };
        let words = match (code.as_str(), self.request) {
            ("invalid_grant", GrantRequest::Password { .. }) => ": wrong user name or password".to_owned(),
            ("invalid_grant", GrantRequest::AuthorizationCode { .. }) => {
                ": the code has been used, has expired, or was issued to another client".to_owned()
            }
            _ => self.quote(description, received),
        };
        let known = why.is_some().then(|| code.clone());
        self.verdict(why, known.or_else(|| self.code(code)), &words)
    }

    /// One of Cognito's exceptions.
    fn exception(&self, name: &str, message: &Value) -> Refusal {
        let says = |word: &str| message.as_str().is_some_and(|text| text.to_ascii_lowercase().contains(word));
        let initiated = matches!(self.request, GrantRequest::CognitoInitiateAuth { .. });
        let why = match name {
            // The same name for three things. Where rotation is on, InitiateAuth is not for this client; where it is
            // off, GetTokensFromRefreshToken is not; and a client with a secret must show it.
            "NotAuthorizedException" if says("rotation") || (initiated && says("rotated")) || says("secret") => {
                Some(Why::ClientRefused)
            }
            "NotAuthorizedException" | "RefreshTokenReuseException" => Some(Why::Revoked),
            "UserNotFoundException" | "UserNotConfirmedException" | "PasswordResetRequiredException" => {
                Some(Why::Revoked)
            }
            "ResourceNotFoundException" => Some(Why::ClientRefused), // the user pool or its client does not exist
            "InvalidParameterException" if says("not enabled") || says("not supported") => Some(Why::ClientRefused),
            _ => None, // TooManyRequests, LimitExceeded, InternalError, a Lambda's troubles, ...
        };
        let known = why.is_some().then(|| name.to_owned());
        self.verdict(why, known.or_else(|| self.code(name)), &self.quote(message, &[]))
    }

    fn verdict(&self, why: Option<Why>, code: Option<String>, words: &str) -> Refusal {
        match why {
            Some(why) if gives_verdicts(self.answer.status) => self.permanent(why, code, words),
            _ => self.transient(code, words),
        }
    }

    fn permanent(&self, why: Why, code: Option<String>, words: &str) -> Refusal {
        Refusal { failure: Failure::Permanent(why), detail: self.detail(code.as_deref(), words), oauth_error: code }
    }

    fn transient(&self, code: Option<String>, words: &str) -> Refusal {
        let retry_after = self.answer.retry_after.and_then(|text| retry_after(text, self.server_now));
        let failure = Failure::Transient { retry_after };
        Refusal { failure, detail: self.detail(code.as_deref(), words), oauth_error: code }
    }

    fn no_verdict(&self) -> Refusal {
        let html = self.answer.content_type.is_some_and(|kind| kind.to_ascii_lowercase().contains("html"));
        self.transient(
            None,
            match self.answer.body {
                _ if (300..400).contains(&self.answer.status) => "with a redirect, which is not followed",
                [] => "with an empty body",
                _ if html => "with a web page",
                _ => "without an OAuth error code",
            },
        )
    }

    /// "answered 400 invalid_grant: Token is not active"
    fn detail(&self, code: Option<&str>, words: &str) -> String {
        let mut detail = format!("answered {}", self.answer.status);
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
    fn code(&self, code: &str) -> Option<String> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let short = (1..=LONGEST_WORD).contains(&code.len());
        (short && code.chars().all(good) && !looks_like_a_token(code) && !self.holds_a_secret(code, &[]))
            .then(|| code.to_owned())
    }

    /// A description as it may be shown, after a colon; nothing where it repeats what we sent or got.
    fn quote(&self, description: &Value, received: &[&Secret]) -> String {
        let Some(text) = description.as_str().filter(|text| !self.holds_a_secret(text, received)) else {
            return String::new();
        };
        let quoted = quotable(text);
        if quoted.is_empty() || self.holds_a_secret(&quoted, received) { quoted } else { format!(": {quoted}") }
    }

    fn holds_a_secret(&self, text: &str, received: &[&Secret]) -> bool {
        let sent = self.request.secret().into_iter().chain(&self.client.secret);
        sent.chain(received.iter().copied()).any(|secret| !secret.is_empty() && text.contains(secret.expose()))
    }
}

/// The members that both dialects share.
struct Found {
    access_token: Option<Secret>,
    id_token: Option<Secret>,
    refresh_token: Option<Secret>,
    token_type: Value,
    expires_in: Value,
}

impl Found {
    fn holds_a_token(&self) -> bool {
        [&self.access_token, &self.id_token].into_iter().flatten().any(|token| !token.is_empty())
    }

    fn secrets(&self) -> Vec<&Secret> {
        [&self.access_token, &self.id_token, &self.refresh_token].into_iter().flatten().collect()
    }
}

/// `null`, `""` and `false` are ways to say that there was no error.
fn names_something(error: &Value) -> bool {
    !matches!(error, Value::Null | Value::Bool(false)) && error.as_str() != Some("")
}

/// Whether an error code in an answer with this status is the authorization server's word: not that of a proxy on the
/// way (407), nor of a server in trouble (5xx, 408, 425, 429). 403 is: some refuse a refresh token with it.
fn gives_verdicts(status: u16) -> bool {
    matches!(status, 200..300 | 400..500) && !matches!(status, 407 | 408 | 425 | 429)
}

/// Narrower than RFC 6749 appendix A.12 by the blank: what stands in a header field must not be torn in two.
fn is_well_formed(token: &Secret) -> bool {
    token.expose().bytes().all(|byte| byte.is_ascii_graphic())
}

/// RFC 6749 section 5.1 makes the type case-insensitive; `N_A` is for answers without an access token (RFC 8693).
fn is_bearer(token_type: &str) -> bool {
    token_type.eq_ignore_ascii_case("bearer") || token_type.eq_ignore_ascii_case("N_A")
}

/// A span of time in seconds, as a number or as text; what is negative or no number counts as absent.
fn seconds(value: &Value) -> Option<Duration> {
    let seconds: f64 = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    (seconds.is_finite() && seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(LONGEST_LIFE.as_secs_f64())))
}

/// RFC 9110 section 10.2.3: seconds, or a date by the server's clock. As it was asked for: `renewal::policy` says how
/// much of it is obeyed.
fn retry_after(text: &str, server_now: i64) -> Option<Duration> {
    let wait = match text.trim() {
        digits if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().unwrap_or(u64::MAX)
        }
        date => u64::try_from(http_date(Some(date))?.saturating_sub(server_now)).unwrap_or(0),
    };
    Some(Duration::from_secs(wait))
}

/// RFC 9110 section 5.6.7's preferred form, as Unix seconds. The two obsolete forms count as absent.
fn http_date(text: Option<&str>) -> Option<i64> {
    let parser = rfc2822::DateTimeParser::new().relaxed_weekday(true);
    parser.parse_timestamp(text?.trim()).ok().map(|date| date.as_second())
}

fn unix_seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
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
    use super::*;
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use proptest::prelude::*;
    use serde_json::json;

    /// Sun, 06 Nov 1994 08:49:37 GMT, the date in RFC 9110.
    const NOW: u64 = 784_111_777;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW)
    }

    fn refresh_token() -> Secret {
        Secret::new("the-refresh-token-that-was-sent")
    }

    /// Reads the answer to a refresh token sent as a form.
    fn refreshed(status: u16, body: &str) -> Result<Tokens, Refusal> {
        let answer = Answer { status, body: body.as_bytes(), ..Answer::default() };
        read(&answer, &GrantRequest::RefreshToken { refresh_token: &refresh_token() }, &Client::default(), now())
    }

    fn get_tokens(status: u16, body: &str) -> Result<Tokens, Refusal> {
        let answer = Answer { status, body: body.as_bytes(), ..Answer::default() };
        read(&answer, &GrantRequest::CognitoGetTokens { refresh_token: &refresh_token() }, &Client::default(), now())
    }

    fn initiate_auth(status: u16, body: &str) -> Result<Tokens, Refusal> {
        let answer = Answer { status, body: body.as_bytes(), ..Answer::default() };
        read(&answer, &GrantRequest::CognitoInitiateAuth { refresh_token: &refresh_token() }, &Client::default(), now())
    }

    fn signed_in_with_password(status: u16, body: &str) -> Result<Tokens, Refusal> {
        let answer = Answer { status, body: body.as_bytes(), ..Answer::default() };
        let password = Secret::new("correct horse");
        read(&answer, &GrantRequest::Password { username: "me", password: &password }, &Client::default(), now())
    }

    fn jwt(claims: Value) -> String {
        format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    const TRANSIENT: Failure = Failure::Transient { retry_after: None };
    const REVOKED: Failure = Failure::Permanent(Why::Revoked);
    const CLIENT_REFUSED: Failure = Failure::Permanent(Why::ClientRefused);

    #[test]
    fn odd_but_usable_answers_are_taken() {
        let hour = Some(Duration::from_secs(3600));
        let ten_years = Some(LONGEST_LIFE);
        let table = [
            ("ordinary", r#"{"access_token":"a","token_type":"Bearer","expires_in":3600}"#, hour),
            ("type in lower case", r#"{"access_token":"a","token_type":"bearer","expires_in":3600}"#, hour),
            ("no type", r#"{"access_token":"a","expires_in":3600}"#, hour),
            ("type null", r#"{"access_token":"a","token_type":null,"expires_in":3600}"#, hour),
            ("type N_A", r#"{"id_token":"a","token_type":"N_A","expires_in":3600}"#, hour),
            ("life as text", r#"{"access_token":"a","expires_in":" 3600 "}"#, hour),
            ("life as a float", r#"{"access_token":"a","expires_in":3600.0}"#, hour),
            ("a fraction", r#"{"access_token":"a","expires_in":0.5}"#, Some(Duration::from_millis(500))),
            ("no life", r#"{"access_token":"a"}"#, None),
            ("life null", r#"{"access_token":"a","expires_in":null}"#, None),
            ("life zero", r#"{"access_token":"a","expires_in":0}"#, Some(Duration::ZERO)),
            ("life negative", r#"{"access_token":"a","expires_in":-5}"#, None),
            ("life NaN", r#"{"access_token":"a","expires_in":"NaN"}"#, None),
            ("life infinite", r#"{"access_token":"a","expires_in":"inf"}"#, None),
            ("life a word", r#"{"access_token":"a","expires_in":"soon"}"#, None),
            ("life an object", r#"{"access_token":"a","expires_in":{"s":1}}"#, None),
            ("life 10^12", r#"{"access_token":"a","expires_in":1000000000000}"#, ten_years),
            ("life 10^23", r#"{"access_token":"a","expires_in":100000000000000000000000}"#, ten_years),
            ("scopes as an array", r#"{"access_token":"a","scope":["x"],"expires_in":3600}"#, hour),
            ("no error, three ways", r#"{"access_token":"a","error":null,"expires_in":3600}"#, hour),
            ("error empty", r#"{"access_token":"a","error":"","expires_in":3600}"#, hour),
            ("error false", r#"{"access_token":"a","error":false,"expires_in":3600}"#, hour),
            ("a byte order mark", "\u{feff}{\"access_token\":\"a\",\"expires_in\":3600}", hour),
            ("blanks around", " \r\n{\"access_token\":\"a\",\"expires_in\":3600}\n", hour),
        ];
        for (name, body, lifetime) in table {
            let tokens = refreshed(200, body).expect(name);
            assert_eq!(tokens.lifetime, lifetime, "{name}");
            assert_eq!(tokens.access_token.or(tokens.id_token).expect(name).expose(), "a", "{name}");
        }
        assert!(refreshed(201, r#"{"access_token":"a"}"#).is_ok(), "201 is a success, too");
    }

    #[test]
    fn a_new_refresh_token_is_taken_and_no_new_one_means_that_the_old_one_stays() {
        let table = [
            ("absent", json!({"access_token": "a"}), None, None),
            ("null", json!({"access_token": "a", "refresh_token": null}), None, None),
            ("empty", json!({"access_token": "a", "refresh_token": ""}), None, None),
            ("new", json!({"access_token": "a", "refresh_token": "r"}), Some("r"), None),
            ("Keycloak's life", json!({"access_token": "a", "refresh_expires_in": 1800}), None, Some(1800)),
            ("Keycloak's for ever", json!({"access_token": "a", "refresh_expires_in": 0}), None, None),
            ("Microsoft's life", json!({"access_token": "a", "refresh_token_expires_in": "86399"}), None, Some(86399)),
        ];
        for (name, body, refresh_token, refresh_life) in table {
            let tokens = refreshed(200, &body.to_string()).expect(name);
            assert_eq!(tokens.refresh_token.as_ref().map(Secret::expose), refresh_token, "{name}");
            assert_eq!(tokens.refresh_lifetime, refresh_life.map(Duration::from_secs), "{name}");
        }
    }

    #[test]
    fn a_life_that_was_not_told_is_read_from_the_jwt() {
        let now = i64::try_from(NOW).unwrap();
        let date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        let table = [
            ("exp - iat, whatever our clock says", json!({"iat": 17, "exp": 3617}), None, Some(3600)),
            ("exp - now without iat", json!({"exp": now + 60}), None, Some(60)),
            ("expired by our clock, no iat", json!({"exp": now - 60}), None, None),
            (
                "handed out again, seen by the server's clock",
                json!({"iat": now - 3000, "exp": now + 600}),
                date,
                Some(600),
            ),
            ("fresh by the server's clock", json!({"iat": now, "exp": now + 600}), date, Some(600)),
            ("no exp", json!({"iat": now}), None, None),
        ];
        for (name, claims, date, life) in table {
            let body = json!({"access_token": "opaque", "id_token": jwt(claims)}).to_string();
            let answer = Answer { status: 200, date, body: body.as_bytes(), ..Answer::default() };
            let tokens = read(&answer, &GrantRequest::ClientCredentials, &Client::default(), self::now()).expect(name);
            assert_eq!(tokens.lifetime, life.map(Duration::from_secs), "{name}");
        }
    }

    #[test]
    fn hostile_answers_are_refused_whole() {
        let deep = format!(r#"{{"access_token":"a","expires_in":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        let table = [
            ("CRLF in the token", r#"{"access_token":"a\r\nX-Evil: 1"}"#),
            ("NUL in the token", r#"{"access_token":"a\u0000b"}"#),
            ("a blank in the token", r#"{"access_token":"a b"}"#),
            ("a non-ASCII token", r#"{"access_token":"ä"}"#),
            ("CRLF in the other token", r#"{"access_token":"a","id_token":"a\nb"}"#),
            ("CRLF in the refresh token", r#"{"access_token":"a","refresh_token":"a\nb"}"#),
            ("the token twice", r#"{"access_token":"a","access_token":"b"}"#),
            ("a token that is a number", r#"{"access_token":17}"#),
            ("an empty token", r#"{"access_token":""}"#),
            ("no token", r#"{"expires_in":3600}"#),
            ("an array", r#"["a","b","c"]"#),
            ("deep nesting", &deep),
            ("cut", r#"{"access_token":"a""#),
            ("garbage behind", r#"{"access_token":"a"}{"access_token":"b"}"#),
            ("a MAC token", r#"{"access_token":"a","token_type":"mac"}"#),
            ("a DPoP token", r#"{"access_token":"a","token_type":"DPoP"}"#),
            ("tokens and an error", r#"{"access_token":"a","error":"invalid_grant"}"#),
            ("Latin-1", "{\"access_token\":\"a\",\"x\":\"\u{fffd}\""),
        ];
        for (name, body) in table {
            let refusal = refreshed(200, body).expect_err(name);
            assert_eq!(refusal.failure, TRANSIENT, "{name}");
            assert_eq!(refusal.oauth_error, None, "{name}");
        }
        assert_eq!(refreshed(200, "\u{1}\u{2}").unwrap_err().failure, TRANSIENT);
    }

    #[test]
    fn only_a_well_formed_error_code_is_a_verdict() {
        let table = [
            ("spent", 400, r#"{"error":"invalid_grant"}"#, REVOKED, Some("invalid_grant")),
            ("with 401", 401, r#"{"error":"invalid_grant"}"#, REVOKED, Some("invalid_grant")),
            ("with 403, as Auth0 does", 403, r#"{"error":"invalid_grant"}"#, REVOKED, Some("invalid_grant")),
            ("with 200", 200, r#"{"error":"invalid_grant"}"#, REVOKED, Some("invalid_grant")),
            ("as an object", 400, r#"{"error":{"code":"invalid_grant"}}"#, REVOKED, Some("invalid_grant")),
            ("client", 401, r#"{"error":"invalid_client"}"#, CLIENT_REFUSED, Some("invalid_client")),
            ("scope", 400, r#"{"error":"invalid_scope"}"#, CLIENT_REFUSED, Some("invalid_scope")),
            ("not for it", 400, r#"{"error":"unauthorized_client"}"#, CLIENT_REFUSED, Some("unauthorized_client")),
            ("grant", 400, r#"{"error":"unsupported_grant_type"}"#, CLIENT_REFUSED, Some("unsupported_grant_type")),
            ("a catch-all", 400, r#"{"error":"invalid_request"}"#, TRANSIENT, Some("invalid_request")),
            ("busy", 400, r#"{"error":"temporarily_unavailable"}"#, TRANSIENT, Some("temporarily_unavailable")),
            ("other case", 400, r#"{"error":"INVALID_GRANT"}"#, TRANSIENT, Some("INVALID_GRANT")),
            ("object without code", 400, r#"{"error":{"message":"no"}}"#, TRANSIENT, None),
            ("code a number", 400, r#"{"error":{"code":400}}"#, TRANSIENT, None),
            ("server in trouble", 503, r#"{"error":"invalid_grant"}"#, TRANSIENT, Some("invalid_grant")),
            ("too many", 429, r#"{"error":"invalid_grant"}"#, TRANSIENT, Some("invalid_grant")),
            ("the proxy", 407, r#"{"error":"invalid_grant"}"#, TRANSIENT, Some("invalid_grant")),
            ("a bare 400, as glewlwyd says", 400, "", TRANSIENT, None),
            ("GBDX's 401", 401, r#"{"Error":"401 Unauthorized: Unauthorized"}"#, TRANSIENT, None),
            ("HTML", 200, "<html>Please log in to the Wi-Fi</html>", TRANSIENT, None),
            ("a redirect", 302, "", TRANSIENT, None),
            ("forbidden", 403, "<html>WAF</html>", TRANSIENT, None),
            ("not found", 404, r#"{"message":"no such path"}"#, TRANSIENT, None),
            ("a token with 500", 500, r#"{"access_token":"a"}"#, TRANSIENT, None),
            ("the name in a text", 400, "error=invalid_grant", TRANSIENT, None),
            ("error twice", 400, r#"{"error":"x","error":"invalid_grant"}"#, TRANSIENT, None),
            ("Cognito's dialect in a form's answer", 400, r#"{"__type":"NotAuthorizedException"}"#, TRANSIENT, None),
        ];
        for (name, status, body, failure, code) in table {
            let refusal = refreshed(status, body).expect_err(name);
            assert_eq!((refusal.failure, refusal.oauth_error.as_deref()), (failure, code), "{name}");
            assert!(refusal.detail.starts_with(&format!("answered {status}")), "{name}: {}", refusal.detail);
        }
    }

    #[test]
    fn cognitos_answers_are_read_in_its_own_dialect() {
        let body = json!({"ChallengeParameters": {}, "AuthenticationResult": {
            "AccessToken": "a", "IdToken": "i", "RefreshToken": "r", "ExpiresIn": 3600, "TokenType": "Bearer",
            "NewDeviceMetadata": {"DeviceKey": "d"}}});
        let tokens = get_tokens(200, &body.to_string()).unwrap();
        let texts = [&tokens.access_token, &tokens.id_token, &tokens.refresh_token];
        assert_eq!(texts.map(|token| token.as_ref().unwrap().expose()), ["a", "i", "r"]);
        assert_eq!(tokens.lifetime, Some(Duration::from_secs(3600)));

        let exception = |name: &str, message: &str| json!({"__type": name, "message": message}).to_string();
        let invalid = exception("NotAuthorizedException", "Invalid Refresh Token");
        let namespaced = exception("com.amazonaws.x#NotAuthorizedException", "Refresh Token has been revoked");
        let rotated = exception("NotAuthorizedException", "Refresh token has been rotated");
        let rotation = exception("NotAuthorizedException", "Refresh token rotation is not enabled for this client");
        let hash =
            exception("NotAuthorizedException", "Client x is configured with secret but SECRET_HASH was not received");
        let table = [
            ("refused", get_tokens(400, &invalid), REVOKED, "NotAuthorizedException"),
            ("with a namespace", initiate_auth(400, &namespaced), REVOKED, "NotAuthorizedException"),
            ("spent", get_tokens(400, &rotated), REVOKED, "NotAuthorizedException"),
            ("InitiateAuth with rotation on", initiate_auth(400, &rotated), CLIENT_REFUSED, "NotAuthorizedException"),
            ("GetTokens with rotation off", get_tokens(400, &rotation), CLIENT_REFUSED, "NotAuthorizedException"),
            ("a secret is wanted", initiate_auth(400, &hash), CLIENT_REFUSED, "NotAuthorizedException"),
            (
                "reused",
                get_tokens(400, &exception("RefreshTokenReuseException", "")),
                REVOKED,
                "RefreshTokenReuseException",
            ),
            (
                "no such client",
                get_tokens(400, &exception("ResourceNotFoundException", "User pool client x does not exist.")),
                CLIENT_REFUSED,
                "ResourceNotFoundException",
            ),
            (
                "flow switched off",
                initiate_auth(400, &exception("InvalidParameterException", "USER flow not enabled for this client")),
                CLIENT_REFUSED,
                "InvalidParameterException",
            ),
            (
                "an odd parameter",
                initiate_auth(400, &exception("InvalidParameterException", "1 validation error")),
                TRANSIENT,
                "InvalidParameterException",
            ),
            (
                "password to be reset",
                initiate_auth(400, &exception("PasswordResetRequiredException", "")),
                REVOKED,
                "PasswordResetRequiredException",
            ),
            (
                "too many",
                get_tokens(400, &exception("TooManyRequestsException", "Rate exceeded")),
                TRANSIENT,
                "TooManyRequestsException",
            ),
            (
                "server in trouble",
                get_tokens(500, &exception("InternalErrorException", "")),
                TRANSIENT,
                "InternalErrorException",
            ),
        ];
        for (name, answer, failure, code) in table {
            let refusal = answer.expect_err(name);
            assert_eq!((refusal.failure, refusal.oauth_error.as_deref()), (failure, Some(code)), "{name}");
        }
        let refusal = initiate_auth(200, r#"{"ChallengeName":"SMS_MFA","Session":"s"}"#).unwrap_err();
        assert_eq!(refusal.failure, REVOKED);
        assert_eq!(refusal.detail, "answered 200: it wants a further proof from a person SMS_MFA");
        assert_eq!(initiate_auth(200, "{}").unwrap_err().failure, TRANSIENT);
        assert_eq!(initiate_auth(400, r#"{"message":"Limit Exceeded"}"#).unwrap_err().failure, TRANSIENT);
    }

    #[test]
    fn a_wrong_password_is_said_in_words_in_both_dialects() {
        for (status, body) in [
            (401, r#"{"Error": "401 Unauthorized: Unauthorized"}"#),
            (400, r#"{"error":"invalid_grant","error_description":"Invalid user credentials"}"#),
        ] {
            let refusal = signed_in_with_password(status, body).unwrap_err();
            assert_eq!(refusal.failure, REVOKED);
            assert!(refusal.detail.ends_with(": wrong user name or password"), "{}", refusal.detail);
        }
        let page = signed_in_with_password(401, "<html>proxy login</html>").unwrap_err();
        assert_eq!(page.failure, TRANSIENT);
    }

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
            ("negative", "-5", None, None),
            ("words", "later", None, None),
            ("nothing", "", None, None),
        ];
        for (name, retry_after, date, expected) in table {
            let answer = Answer { status: 429, retry_after: Some(retry_after), date, ..Answer::default() };
            let request = GrantRequest::RefreshToken { refresh_token: &refresh_token() };
            let refusal = read(&answer, &request, &Client::default(), self::now()).expect_err(name);
            assert_eq!(
                refusal.failure,
                Failure::Transient { retry_after: expected.map(Duration::from_secs) },
                "{name}"
            );
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
        let html = Answer { status: 502, content_type: Some("text/html"), body: b"<p>", ..Answer::default() };
        let refusal = read(&html, &GrantRequest::ClientCredentials, &Client::default(), now()).unwrap_err();
        assert_eq!(refusal.detail, "answered 502 with a web page");
        assert_eq!(refreshed(302, "").unwrap_err().detail, "answered 302 with a redirect, which is not followed");
    }

    #[test]
    fn a_revocation_is_done_with_any_2xx_and_refused_by_code() {
        let read = |status, body: &'static str| {
            let answer = Answer { status, body: body.as_bytes(), retry_after: Some("7"), ..Answer::default() };
            read_revocation(&answer, &refresh_token(), &Client::default(), now())
        };
        assert_eq!(read(200, ""), Ok(()));
        let later = read(503, "").unwrap_err();
        assert_eq!(later.failure, Failure::Transient { retry_after: Some(Duration::from_secs(7)) });
        let refused = read(400, r#"{"error":"unsupported_token_type"}"#).unwrap_err();
        assert_eq!(refused.oauth_error.as_deref(), Some("unsupported_token_type"));
        assert_eq!(read(401, r#"{"error":"invalid_client"}"#).unwrap_err().failure, CLIENT_REFUSED);
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(
            status in 100u16..600,
            body in proptest::collection::vec(any::<u8>(), 0..200),
            text in ".*",
        ) {
            let token = refresh_token();
            for request in [
                GrantRequest::RefreshToken { refresh_token: &token },
                GrantRequest::CognitoGetTokens { refresh_token: &token },
            ] {
                for body in [&body[..], text.as_bytes()] {
                    let [retry_after, date, content_type] = [Some(text.as_str()); 3];
                    let answer = Answer { status, retry_after, date, content_type, body };
                    let _ = read(&answer, &request, &Client::default(), now());
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
            for request in [
                GrantRequest::RefreshToken { refresh_token: &token },
                GrantRequest::CognitoInitiateAuth { refresh_token: &token },
            ] {
                let answer = Answer { status, content_type: Some(&secret), body: body.as_bytes(), ..Answer::default() };
                if let Err(refusal) = read(&answer, &request, &Client::default(), now()) {
                    prop_assert!(!format!("{refusal:?}").contains(&secret), "{refusal:?}");
                }
            }
        }
    }
}
