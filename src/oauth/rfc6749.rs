//! RFC 6749's own dialect: a form goes out, a JSON object comes back.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use form_urlencoded::byte_serialize;
use serde_json::Value;

use super::body::{FORM, Pairs, encode, fields_of, renamed};
use super::challenge;
use super::ends::{Ends, seconds};
use super::grant::{Client, ClientAuth, EndpointKind, Grant, TokenRequest, Tokens, taken_already};
use super::members::{Fields, Json, Unreadable};
use super::verdict::{Reader, Refusal, TokenFields, names_something};
use super::vocabulary::{Members, Pointer};
use crate::renewal::{Failure, Why};
use crate::secret::Secret;

/// RFC 8628 section 3.4.
const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// Writes the request. `scopes` are asked for where the request may have a scope: with a code they were settled when the
/// person consented. So they were with a refresh token (section 6), where the caller mostly has none to ask for.
pub(super) fn request(
    grant: &Grant,
    client: &Client,
    scopes: &[String],
    parameters: &[(String, String)],
) -> Result<TokenRequest, String> {
    let scope = scopes.join(" ");
    let mut pairs = Vec::new();
    match grant {
        Grant::RefreshToken(refresh_token) => {
            pairs.extend([("grant_type", "refresh_token"), ("refresh_token", refresh_token.expose())]);
            pairs.extend((!scope.is_empty()).then_some(("scope", scope.as_str())));
        }
        Grant::Password { username, password, otp } => {
            let password = password.expose();
            pairs.extend([("grant_type", "password"), ("username", username.as_str()), ("password", password)]);
            pairs.extend(otp.as_ref().map(|(name, code)| (name.as_str(), code.expose())));
            pairs.extend((!scope.is_empty()).then_some(("scope", scope.as_str())));
        }
        Grant::Issued => return Err("nothing is asked of a server for a token that others issue".to_owned()),
        Grant::ClientCredentials => {
            pairs.push(("grant_type", "client_credentials"));
            pairs.extend((!scope.is_empty()).then_some(("scope", scope.as_str())));
        }
        Grant::AuthorizationCode { code, redirect_uri, code_verifier } => {
            pairs.extend([("grant_type", "authorization_code"), ("code", code.expose())]);
            pairs.extend(redirect_uri.as_deref().map(|uri| ("redirect_uri", uri)));
            pairs.extend(code_verifier.as_ref().map(|verifier| ("code_verifier", verifier.expose())));
        }
        Grant::DeviceCode { device_code, code_verifier } => {
            pairs.extend([("grant_type", DEVICE_CODE), ("device_code", device_code.expose())]);
            pairs.extend(code_verifier.as_ref().map(|verifier| ("code_verifier", verifier.expose())));
        }
    }
    let fields = authenticate(client, &mut pairs)?;
    let mut pairs = renamed(pairs, client);
    // RFC 6749 section 3.2 has each parameter once. RFC 8707's `resource` is one that may be there several times: that is
    // for the configuration to say, but not beside what is set here.
    let set_here = pairs.len();
    for (name, value) in parameters {
        if pairs[..set_here].iter().any(|(taken, _)| taken == name) {
            return Err(taken_already(name));
        }
        pairs.push((name, value));
    }
    let (content_type, body) = encode(&pairs, client);
    Ok(TokenRequest { endpoint: EndpointKind::Token, content_type, fields, body })
}

/// Says who asks, in the body or in the header fields it returns: one of the two, never both (RFC 6749 section 2.3).
pub(super) fn authenticate<'a>(client: &'a Client, pairs: &mut Pairs<'a>) -> Result<Vec<(String, Secret)>, String> {
    let Client { id, auth, secret, form: _, fields: _ } = client;
    let both = || match (id, secret) {
        (Some(id), Some(secret)) => Ok((id, secret)),
        (None, _) => Err("client_auth needs a client_id".to_owned()),
        (_, None) => Err("client_auth needs a client_secret".to_owned()),
    };
    let mut fields: Vec<(String, Secret)> = fields_of(client).collect();
    match auth {
        ClientAuth::None => pairs.extend(id.as_deref().map(|id| ("client_id", id))),
        ClientAuth::Post => {
            let (id, secret) = both()?;
            pairs.extend([("client_id", id.as_str()), ("client_secret", secret.expose())]);
        }
        ClientAuth::Basic => {
            let (id, secret) = both()?;
            // RFC 6749 section 2.3.1: each is form-urlencoded first, so that a colon in the id does no harm
            let encoded = |text: &str| Secret::new(byte_serialize(text.as_bytes()).collect::<String>());
            fields.push(basic(&encoded(id), &encoded(secret.expose())));
        }
        ClientAuth::BasicRaw => {
            let (id, secret) = both()?;
            fields.push(basic(&Secret::new(id.as_str()), secret));
        }
    }
    Ok(fields)
}

fn basic(id: &Secret, secret: &Secret) -> (String, Secret) {
    let pair = Secret::new(format!("{}:{}", id.expose(), secret.expose()));
    ("authorization".to_owned(), Secret::new(format!("Basic {}", BASE64_STANDARD.encode(pair.expose()))))
}

/// What a response holds: RFC 6749 sections 5.1 and 5.2, with what servers add.
#[derive(Default)]
pub(super) struct Response {
    access_token: Option<Secret>,
    id_token: Option<Secret>,
    refresh_token: Option<Secret>,
    token_type: Value,
    ends: Ends,
    /// Keycloak's name.
    refresh_expires_in: Value,
    /// Microsoft's and GitHub's name.
    refresh_token_expires_in: Value,
    scope: Value,
    error: Value,
    error_description: Value,
    /// Fitbit's: `{"errors": [{"errorType": "invalid_grant", "message": "..."}]}`.
    errors: Value,
    /// GoTrue's: `{"code": 400, "error_code": "refresh_token_not_found", "msg": "..."}`.
    error_code: Value,
    /// The same in others' spelling.
    error_code_in_camel_case: Value,
    code: Value,
    msg: Value,
    /// HubSpot's: `{"status": "BAD_REFRESH_TOKEN", "message": "..."}`.
    status: Value,
    message: Value,
    /// GBDX's whole vocabulary: `{"Error": "401 Unauthorized: Unauthorized"}`.
    gbdx_error: Value,
    /// Where a token stands in it that is not where it was looked for, as a JSON Pointer that may be shown.
    lookalike: Option<String>,
}

impl Response {
    /// The response, if it can be read: a member that is there twice, or a token that is no text, makes it worthless as a
    /// whole.
    pub(super) fn read(reader: &Reader<'_>) -> Option<Self> {
        let json = reader.object(|object| Self::of_json(object, reader));
        let within = || reader.object_within(|object| Self::of_json(object, reader)).filter(Self::holds_a_token);
        json.or_else(within).or_else(|| Self::of_form(reader))
    }

    fn holds_a_token(&self) -> bool {
        self.access_token.is_some() || self.id_token.is_some()
    }

    fn of_json(root: Json<'_>, reader: &Reader<'_>) -> Result<Self, Unreadable> {
        let names = &reader.vocabulary.members;
        let tokens = root.token_object(names)?;
        let below = |pointer: &Option<Pointer>, name: &str| match tokens {
            Some(tokens) => tokens.at(pointer.as_ref(), name),
            None => Ok(None),
        };
        let token = |pointer: &Option<Pointer>, name: &str| -> Result<Option<Secret>, Unreadable> {
            below(pointer, name)?.map_or(Ok(None), Json::take)
        };
        let told = |pointer: &Option<Pointer>, name: &str| -> Result<Value, Unreadable> {
            below(pointer, name)?.map_or(Ok(Value::Null), Json::take)
        };
        let beside = |name: &str| told(&None, name);
        let of_error = |pointer: &Option<Pointer>, name: &str| -> Result<Value, Unreadable> {
            root.at(pointer.as_ref(), name)?.map_or(Ok(Value::Null), Json::take)
        };
        let mut response = Self {
            access_token: token(&names.access_token, "access_token")?,
            id_token: token(&names.id_token, "id_token")?,
            refresh_token: below(&names.refresh_token, "refresh_token")?.map_or(Ok(None), Json::text)?,
            token_type: told(&names.token_type, "token_type")?,
            ends: Ends {
                expires_in: told(&names.expires_in, "expires_in")?,
                expires: beside("expires")?,
                expires_on: beside("expires_on")?,
                expires_at: told(&names.expires_at, "expires_at")?,
            },
            refresh_expires_in: told(&names.refresh_expires_in, "refresh_expires_in")?,
            refresh_token_expires_in: beside("refresh_token_expires_in")?,
            scope: beside("scope")?,
            error: code_where_named(of_error(&names.error, "error")?, names),
            error_description: of_error(&names.error_description, "error_description")?,
            errors: of_error(&None, "errors")?,
            error_code: of_error(&None, "error_code")?,
            error_code_in_camel_case: of_error(&None, "errorCode")?,
            code: of_error(&None, "code")?,
            msg: of_error(&None, "msg")?,
            status: of_error(&None, "status")?,
            message: of_error(&None, "message")?,
            gbdx_error: of_error(&None, "Error")?,
            lookalike: None,
        };
        if response.access_token.is_none() && response.id_token.is_none() {
            response.lookalike = root.lookalike().map(|path| reader.shown_path(&path));
        } else if response.refresh_token.is_none() && names.refresh_token_paths().is_none() {
            response.refresh_token = root.stray_refresh_token().and_then(|token| token.take().ok());
        }
        Ok(response)
    }

    /// A response that is form-encoded, as GitHub's is to who does not ask for JSON. Tokens are taken from any text that has
    /// them, unless they belong within an object, which a form has not; an error only where the response says that it is a
    /// form.
    fn of_form(reader: &Reader<'_>) -> Option<Self> {
        let body = reader.body().trim_ascii_end();
        if reader.is_web_page() || body.iter().any(|byte| !byte.is_ascii_graphic()) {
            return None;
        }
        let says_form = reader.response.content_type.is_some_and(|kind| kind.to_ascii_lowercase().starts_with(FORM));
        let (fields, names) = (Fields::read(body)?, &reader.vocabulary.members);
        let field = |pointer: &Option<Pointer>, name: &str| fields.at(pointer.as_ref(), name).cloned();
        let told = |pointer: &Option<Pointer>, name: &str| {
            field(pointer, name).map_or(Value::Null, |text| Value::String(text.expose().to_owned()))
        };
        let token = |pointer, name| if names.may_be_at_the_top() { field(pointer, name) } else { None };
        let mut form = Self {
            access_token: token(&names.access_token, "access_token"),
            id_token: token(&names.id_token, "id_token"),
            refresh_token: token(&names.refresh_token, "refresh_token"),
            token_type: told(&names.token_type, "token_type"),
            ends: Ends {
                expires_in: told(&names.expires_in, "expires_in"),
                expires: told(&None, "expires"),
                expires_on: told(&None, "expires_on"),
                expires_at: told(&names.expires_at, "expires_at"),
            },
            refresh_expires_in: told(&names.refresh_expires_in, "refresh_expires_in"),
            refresh_token_expires_in: told(&None, "refresh_token_expires_in"),
            scope: told(&None, "scope"),
            error: told(&names.error, "error"),
            error_description: told(&names.error_description, "error_description"),
            ..Self::default()
        };
        if form.refresh_token.is_none() && names.refresh_token_paths().is_none() {
            form.refresh_token = fields.stray_refresh_token().cloned();
        }
        (form.holds_a_token() || says_form).then_some(form)
    }

    /// The codes of an error, in the places in which servers put them, the RFC's own first.
    fn codes(&self) -> Vec<&str> {
        let Self { error, errors, error_code, code, error_code_in_camel_case, status, gbdx_error, .. } = self;
        let mut codes: Vec<&str> = code_of(error).into_iter().collect();
        match errors {
            Value::Array(errors) => codes.extend(errors.iter().filter_map(code_of)),
            errors => codes.extend(errors.is_object().then(|| code_of(errors)).flatten()),
        }
        let others = [error_code, error_code_in_camel_case, code, status, gbdx_error];
        codes.extend(others.into_iter().filter_map(Value::as_str));
        codes.retain(|code| !code.is_empty());
        codes
    }

    /// What it says beside the code, for people.
    fn description(&self) -> &Value {
        let Self { error, error_description, errors, msg, message, .. } = self;
        let [in_error, in_errors] = [error.get("message"), errors.get(0).and_then(|first| first.get("message"))];
        let places = [Some(error_description), in_error, in_errors, Some(msg), Some(message)];
        places.into_iter().flatten().find(|value| value.is_string()).unwrap_or(error_description)
    }
}

/// The error's code, where the configuration says in which member it is: a number is one, too, and 0 says that there was
/// no error.
fn code_where_named(error: Value, names: &Members) -> Value {
    match error {
        Value::Number(number) if names.error.is_some() && number.as_f64() == Some(0.0) => Value::Null,
        Value::Number(number) if names.error.is_some() => Value::String(number.to_string()),
        error => error,
    }
}

/// Whether a response that holds tokens names an error beside them. Where the configuration says in which member errors
/// are, that member may also say that there was none ("ok", "success"): there, only a word that is known is an error.
fn names_an_error(reader: &Reader<'_>, error: &Value) -> bool {
    let words = &reader.vocabulary.errors;
    let is_known =
        || code_of(error).is_some_and(|code| words.meaning(code).or(meaning(reader, code).map(Some)).is_some());
    let may_be_praise = reader.is_success() && reader.vocabulary.members.error.is_some() && error.is_string();
    names_something(error) && (!may_be_praise || is_known())
}

/// A text (section 3.3), or a list of texts.
fn scope_of(value: &Value) -> Option<String> {
    let list = |values: &Vec<Value>| values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ");
    value.as_str().map(str::to_owned).or_else(|| value.as_array().map(list))
}

fn code_of(error: &Value) -> Option<&str> {
    let inside = || ["code", "type", "errorType", "error", "status"].iter().find_map(|name| error.get(name)?.as_str());
    error.as_str().or_else(|| error.get(0)?.as_str()).or_else(inside).map(str::trim)
}

/// Reads the response to a form (RFC 6749 sections 5.1 and 5.2).
pub(super) fn read(reader: &Reader<'_>) -> Result<Tokens, Refusal> {
    let Some(mut body) = Response::read(reader) else { return Err(challenged(reader)) };
    let found = TokenFields {
        access_token: body.access_token.take(),
        id_token: body.id_token.take(),
        refresh_token: body.refresh_token.take(),
        token_type: std::mem::take(&mut body.token_type),
        ends: std::mem::take(&mut body.ends),
    };
    if found.holds_a_token() {
        if names_an_error(reader, &body.error) {
            return Err(reader.transient(None, "with both tokens and an error"));
        }
    } else {
        if let (Grant::Password { .. }, 401, Value::String(_)) =
            (reader.grant, reader.response.status, &body.gbdx_error)
        {
            // A wrong password is not sent again, as that locks accounts.
            return Err(reader.permanent(Why::Revoked, None, ": wrong user name or password"));
        }
        if let Some(refusal) = oauth_error(reader, &body, &found.secrets()) {
            return Err(refusal);
        }
        if let Some(place) = body.lookalike.filter(|_| reader.is_success()) {
            let words = format!("without a token where it is looked for, but with one at {place} (see token_response)");
            return Err(reader.transient(None, &words));
        }
        if !reader.is_success() {
            return Err(challenged(reader));
        }
    }
    // Keycloak's 0 is a refresh token that does not expire.
    let refresh_lifetime = seconds(&body.refresh_expires_in)
        .or_else(|| seconds(&body.refresh_token_expires_in))
        .filter(|life| !life.is_zero());
    let scope = scope_of(&body.scope);
    Ok(Tokens { refresh_lifetime, scope, ..reader.tokens(found)? })
}

/// What a code means for who presented a refresh token. It decides, not the status, unless the status is that of a hop or
/// of overload.
fn meaning(reader: &Reader<'_>, code: &str) -> Option<Failure> {
    if let Some(meaning) = reader.vocabulary.errors.meaning(code) {
        return meaning;
    }
    match code {
        "invalid_grant"
        // OpenID Connect Core section 3.1.2.6: what only a person can do
        | "interaction_required" | "login_required" | "consent_required" | "account_selection_required"
        // GitHub's, GoTrue's and HubSpot's
        | "bad_refresh_token" | "refresh_token_not_found" | "refresh_token_already_used" | "session_not_found"
        | "session_expired" | "BAD_REFRESH_TOKEN"
        // Auth0's and others'
        | "mfa_required" | "user_consent_required" | "expired_token" | "invalid_refresh_token" => Some(Failure::Permanent(Why::Revoked)),
        "invalid_client" | "unauthorized_client" | "unsupported_grant_type" | "invalid_scope"
        // GitHub's and HubSpot's
        | "incorrect_client_credentials" | "BAD_CLIENT_ID" | "BAD_CLIENT_SECRET" => {
            Some(Failure::Permanent(Why::ClientRefused))
        }
        // Spring's for a dead refresh token (RFC 6750 section 3.1), and a gateway's for a request without an access token;
        // of whoever presents none, it says nothing that a person could mend
        "invalid_token" if matches!(reader.grant, Grant::RefreshToken(_)) => Some(Failure::Unconfirmed { why: Why::Revoked, retry_after: None }),
        // `invalid_request` too: many servers and firewalls use it for whatever they did not like just then, and
        // it says nothing about the credential.
        _ => None,
    }
}

/// The refusal that a response names, if it names one. Where a success names what nobody knows, it is none.
pub(super) fn oauth_error(reader: &Reader<'_>, body: &Response, received: &[&Secret]) -> Option<Refusal> {
    let codes = body.codes();
    let known = codes.iter().find_map(|code| Some((*code, meaning(reader, code)?)));
    let says_so = names_something(&body.error);
    let (code, meaning) = match (known, codes.first()) {
        (Some((code, meaning)), _) => (code, Some(meaning)),
        (None, Some(code)) if says_so || (!reader.is_success() && body.gbdx_error.as_str() != Some(code)) => {
            (*code, None)
        }
        (None, None) if says_so => return Some(reader.transient(None, "with an error that is no OAuth error code")),
        (None, _) => return None,
    };
    let words = match (code, reader.grant) {
        ("invalid_grant", Grant::Password { .. }) => ": wrong user name or password".to_owned(),
        ("invalid_grant", Grant::AuthorizationCode { .. } | Grant::DeviceCode { .. }) => {
            ": the code has been used, has expired, or was issued to another client".to_owned()
        }
        _ => reader.quote(body.description(), received),
    };
    // a word of the RFCs' or of the configuration's is no secret
    let shown = reader.code(code).or_else(|| meaning.is_some().then(|| code.to_owned()));
    Some(reader.refusal(meaning, shown, &words))
}

/// What a refusal means whose body names no error: some servers name it in their challenge alone (RFC 6750 section 3.1). A
/// web page is somebody else's, whatever stands above it.
pub(super) fn challenged(reader: &Reader<'_>) -> Refusal {
    let field = reader.response.challenge.filter(|_| !reader.is_success() && !reader.is_web_page());
    let field = String::from_utf8_lossy(field.unwrap_or_default());
    let code = challenge::parameter(&field, "error");
    let known = code.as_deref().and_then(|code| Some((code, meaning(reader, code.trim())?)));
    let Some((code, meaning)) = known else { return reader.no_verdict() };
    let description = challenge::parameter(&field, "error_description").map_or(Value::Null, Value::String);
    let words = format!("in its WWW-Authenticate{}", reader.quote(&description, &[]));
    reader.refusal(Some(meaning), Some(code.trim().to_owned()), &words)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::super::ends::LONGEST_LIFE;
    use super::super::testing::{
        CLIENT_REFUSED, NOW, REVOKED, TRANSIENT, client, now, pairs, public, read, refreshed, words,
    };
    use super::super::{Dialect, ErrorWords, TokenResponse, Vocabulary};
    use super::{BASE64_STANDARD, ClientAuth, EndpointKind, Engine, FORM, Failure, Grant, Secret, Value, Why, request};
    use crate::oauth::Client;

    fn jwt(claims: Value) -> String {
        format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    #[test]
    fn every_form_grant_says_what_its_rfc_section_wants_and_no_more() {
        let password = Secret::new("p w%ö");
        let code = Secret::new("c-1");
        let refresh = Grant::RefreshToken(Secret::new("r+/=1&x"));
        let with_uri = Grant::AuthorizationCode {
            code: code.clone(),
            redirect_uri: Some("https://x.example/v?a=b".to_owned()),
            code_verifier: Some(Secret::new("v~1")),
        };
        let scopes = words(&["read", "a:b"]);
        let audience = pairs(&[("audience", "https://api.example/")]);
        let gbdx = client(None, ClientAuth::None, None);
        let post = client(Some("me"), ClientAuth::Post, Some("s&s"));
        let table = [
            (
                "a public client's id goes into the body, and a refresh without scopes asks for none",
                request(&refresh, &public(), &[], &[]),
                "grant_type=refresh_token&refresh_token=r%2B%2F%3D1%26x&client_id=valetd",
            ),
            (
                "a refresh that is to ask for scopes",
                request(&refresh, &public(), &scopes, &[]),
                "grant_type=refresh_token&refresh_token=r%2B%2F%3D1%26x&scope=read+a%3Ab&client_id=valetd",
            ),
            (
                "GBDX knows no client at all",
                request(&Grant::Password { username: "me@x.example".to_owned(), password, otp: None }, &gbdx, &[], &[]),
                "grant_type=password&username=me%40x.example&password=p+w%25%C3%B6",
            ),
            (
                "client_secret_post, scope and audience",
                request(&Grant::ClientCredentials, &post, &scopes, &audience),
                "grant_type=client_credentials&scope=read+a%3Ab&client_id=me&client_secret=s%26s\
                 &audience=https%3A%2F%2Fapi.example%2F",
            ),
            (
                "a code with its redirect URI and without a scope",
                request(&with_uri, &public(), &scopes, &[]),
                "grant_type=authorization_code&code=c-1&redirect_uri=https%3A%2F%2Fx.example%2Fv%3Fa%3Db\
                 &code_verifier=v%7E1&client_id=valetd",
            ),
            (
                "a code without one",
                request(
                    &Grant::AuthorizationCode { code, redirect_uri: None, code_verifier: None },
                    &public(),
                    &[],
                    &[],
                ),
                "grant_type=authorization_code&code=c-1&client_id=valetd",
            ),
        ];
        for (name, request, body) in table {
            let request = request.expect(name);
            assert_eq!(request.body.expose(), body, "{name}");
            assert_eq!((request.endpoint, request.content_type), (EndpointKind::Token, FORM), "{name}");
            assert!(request.fields.is_empty(), "{name}");
        }
    }

    #[test]
    fn basic_encodes_id_and_secret_before_joining_them_and_keeps_both_out_of_the_body() {
        let client = client(Some("my:id"), ClientAuth::Basic, Some("s e/c"));
        let request = request(&Grant::ClientCredentials, &client, &[], &[]).unwrap();
        let [(name, value)] = &request.fields[..] else { panic!("{:?}", request.fields) };
        assert_eq!(name, "authorization");
        let encoded = value.expose().strip_prefix("Basic ").unwrap();
        assert_eq!(BASE64_STANDARD.decode(encoded).unwrap(), b"my%3Aid:s+e%2Fc");
        assert_eq!(request.body.expose(), "grant_type=client_credentials");
        assert!(!format!("{request:?}").contains(encoded));
    }

    #[test]
    fn odd_but_usable_answers_are_taken() {
        let hour = Some(Duration::from_secs(3600));
        let ten_years = Some(LONGEST_LIFE);
        let table = [
            ("ordinary", r#"{"access_token":"a","token_type":"Bearer","expires_in":3600}"#, hour),
            ("type in lower case", r#"{"access_token":"a","token_type":"bearer","expires_in":3600}"#, hour),
            ("no type", r#"{"access_token":"a","expires_in":3600}"#, hour),
            ("type null", r#"{"access_token":"a","token_type":null,"expires_in":3600}"#, hour),
            ("eBay's type", r#"{"access_token":"a","token_type":"User Access Token","expires_in":3600}"#, hour),
            ("Apigee's type", r#"{"access_token":"a","token_type":"BearerToken","expires_in":3600}"#, hour),
            (
                "another type that needs no proof",
                r#"{"access_token":"a","token_type":"popular","expires_in":3600}"#,
                hour,
            ),
            ("type empty", r#"{"access_token":"a","token_type":"","expires_in":3600}"#, hour),
            ("type a number", r#"{"access_token":"a","token_type":1,"expires_in":3600}"#, hour),
            ("a form", "access_token=a&expires_in=3600&token_type=bearer&scope=", hour),
            ("a form with a line end before it", "\r\naccess_token=a&expires_in=3600", hour),
            ("a line end and NUL behind", "{\"access_token\":\"a\",\"expires_in\":3600}\n\0", hour),
            ("a comment behind", "{\"access_token\":\"a\",\"expires_in\":3600}<!-- 12 ms -->", hour),
            ("an end by another name", r#"{"access_token":"a","expires":"3600"}"#, hour),
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
            ("error 0", r#"{"access_token":"a","error":0,"expires_in":3600}"#, hour),
            ("error none", r#"{"access_token":"a","error":"none","expires_in":3600}"#, hour),
            ("no errors", r#"{"access_token":"a","error":[],"expires_in":3600}"#, hour),
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
            let answer = TokenResponse { status: 200, date, body: body.as_bytes(), ..TokenResponse::default() };
            let tokens = Dialect::Rfc6749
                .read(&answer, &Grant::ClientCredentials, &Client::default(), &Vocabulary::default(), self::now())
                .expect(name);
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
            // what became of the refresh token: see `salvage`
            assert!(!matches!(refusal.failure, Failure::Permanent(_)), "{name}");
            assert_eq!(refusal.oauth_error, None, "{name}");
            let password =
                Grant::Password { username: "me".to_owned(), password: Secret::new("correct horse"), otp: None };
            let unspent = read(Dialect::Rfc6749, &password, 200, body).expect_err(name);
            assert_eq!((unspent.failure, unspent.oauth_error), (TRANSIENT, None), "{name}");
        }
        let in_refresh_token = r#"{"access_token":"a","refresh_token":"a\nb"}"#;
        let tokens = refreshed(200, in_refresh_token).expect("the refresh token is kept");
        assert!(tokens.access_token.is_none() && tokens.unusable.is_some(), "and nothing else");
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
            ("GitHub's", 200, r#"{"error":"bad_refresh_token"}"#, REVOKED, Some("bad_refresh_token")),
            (
                "GoTrue's",
                400,
                r#"{"code":400,"error_code":"refresh_token_not_found","msg":"x"}"#,
                REVOKED,
                Some("refresh_token_not_found"),
            ),
            ("HubSpot's", 400, r#"{"status":"BAD_REFRESH_TOKEN","message":"x"}"#, REVOKED, Some("BAD_REFRESH_TOKEN")),
            (
                "Fitbit's",
                400,
                r#"{"errors":[{"errorType":"invalid_grant","message":"x"}],"success":false}"#,
                REVOKED,
                Some("invalid_grant"),
            ),
            (
                "a second error",
                400,
                r#"{"errors":[{"errorType":"x"},{"errorType":"invalid_grant"}]}"#,
                REVOKED,
                Some("invalid_grant"),
            ),
            (
                "MFA",
                400,
                r#"{"error":"interaction_required","suberror":"basic_action"}"#,
                REVOKED,
                Some("interaction_required"),
            ),
            ("consent", 400, r#"{"error":"consent_required"}"#, REVOKED, Some("consent_required")),
            ("MFA at Auth0", 403, r#"{"error":"mfa_required"}"#, REVOKED, Some("mfa_required")),
            ("as a code", 400, r#"{"code":"invalid_grant"}"#, REVOKED, Some("invalid_grant")),
            ("in camel case", 400, r#"{"errorCode":"invalid_grant"}"#, REVOKED, Some("invalid_grant")),
            ("an object of errors", 400, r#"{"errors":{"code":"invalid_grant"}}"#, REVOKED, Some("invalid_grant")),
            ("in a list", 400, r#"{"error":["invalid_grant"]}"#, REVOKED, Some("invalid_grant")),
            ("with blanks", 400, r#"{"error":" invalid_grant "}"#, REVOKED, Some("invalid_grant")),
            (
                "beside a line break",
                400,
                "{\"error\":\"invalid_grant\",\"error_description\":\"Token\nis not active\"}",
                REVOKED,
                Some("invalid_grant"),
            ),
            ("in a web page", 400, r#"<p>{"error":"invalid_grant"}</p>"#, TRANSIENT, None),
            ("login", 400, r#"{"error":"login_required"}"#, REVOKED, Some("login_required")),
            (
                "GitHub's client",
                200,
                r#"{"error":"incorrect_client_credentials"}"#,
                CLIENT_REFUSED,
                Some("incorrect_client_credentials"),
            ),
            ("a status that is no error", 400, r#"{"status":"error","message":"x"}"#, TRANSIENT, Some("error")),
            ("a status as a number", 400, r#"{"status":400}"#, TRANSIENT, None),
            (
                "GoTrue in trouble",
                500,
                r#"{"error_code":"refresh_token_not_found"}"#,
                TRANSIENT,
                Some("refresh_token_not_found"),
            ),
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
    fn an_error_that_only_the_challenge_names_is_heard_and_comes_last() {
        let unconfirmed = super::Failure::Unconfirmed { why: Why::Revoked, retry_after: None };
        let grant = r#"Bearer realm="x", error="invalid_grant", error_description="Token is not active""#;
        let table = [
            ("an empty body", 400, "", grant, REVOKED, Some("invalid_grant")),
            ("with 401", 401, "", grant, REVOKED, Some("invalid_grant")),
            ("a text", 401, "Unauthorized", grant, REVOKED, Some("invalid_grant")),
            ("JSON without a code", 401, "{}", grant, REVOKED, Some("invalid_grant")),
            ("the client", 401, "", "Basic error=invalid_client", CLIENT_REFUSED, Some("invalid_client")),
            ("a token that is none", 401, "", "Bearer error=\"invalid_token\"", unconfirmed, Some("invalid_token")),
            (
                "the body says otherwise",
                401,
                r#"{"error":"invalid_client"}"#,
                grant,
                CLIENT_REFUSED,
                Some("invalid_client"),
            ),
            ("a web page", 401, "<html>", grant, TRANSIENT, None),
            ("a server in trouble", 503, "", grant, TRANSIENT, Some("invalid_grant")),
            ("a success", 200, "{}", grant, Failure::Ambiguous, None),
            ("another word", 401, "", "Bearer error=\"nope\"", TRANSIENT, None),
            ("no error", 401, "", "Bearer realm=\"error\"", TRANSIENT, None),
        ];
        for (name, status, body, field, failure, code) in table {
            let challenge = Some(field.as_bytes());
            let response = TokenResponse { status, challenge, body: body.as_bytes(), ..TokenResponse::default() };
            let grant = Grant::RefreshToken(Secret::new("r"));
            let read = Dialect::Rfc6749.read(&response, &grant, &public(), &Vocabulary::default(), now());
            let refusal = read.expect_err(name);
            assert_eq!(
                (refusal.failure, refusal.oauth_error.as_deref()),
                (failure, code),
                "{name}: {}",
                refusal.detail
            );
        }
        let field = "Bearer error=\"invalid_token\"";
        for (body, challenge) in [("", Some(field.as_bytes())), (r#"{"error":"invalid_token"}"#, None)] {
            let response = TokenResponse { status: 401, challenge, body: body.as_bytes(), ..TokenResponse::default() };
            let grant = Grant::ClientCredentials;
            let read = Dialect::Rfc6749.read(&response, &grant, &public(), &Vocabulary::default(), now());
            assert_eq!(read.expect_err("refused").failure, TRANSIENT, "nobody has signed in: {body}");
        }
        let latin = b"Bearer error=\"invalid_grant\", error_description=\"Ung\xfcltig\"";
        let response = TokenResponse { status: 401, challenge: Some(latin), ..TokenResponse::default() };
        let grant = Grant::RefreshToken(Secret::new("r"));
        let read = Dialect::Rfc6749.read(&response, &grant, &public(), &Vocabulary::default(), now());
        assert_eq!(read.expect_err("refused").failure, REVOKED);
        let refused = refreshed(401, r#"{"error":"invalid_token"}"#).expect_err("refused");
        assert_eq!(refused.failure, unconfirmed);
    }

    #[test]
    fn a_code_is_heard_beside_bytes_that_are_not_utf_8_and_in_a_form_that_says_so() {
        let latin = b"{\"error\":\"invalid_grant\",\"error_description\":\"Ung\xfcltig\"}";
        let form = b"error=bad_refresh_token&error_description=The+refresh+token+is+incorrect";
        let table: [(&str, &[u8], Option<&str>, super::Failure); 4] = [
            ("Latin-1", latin, None, REVOKED),
            ("a form", form, Some("application/x-www-form-urlencoded; charset=utf-8"), REVOKED),
            ("the same in a text", form, Some("text/plain"), TRANSIENT),
            ("the same without a label", form, None, TRANSIENT),
        ];
        for (name, body, content_type, failure) in table {
            let response = TokenResponse { status: 400, content_type, body, ..TokenResponse::default() };
            let grant = Grant::RefreshToken(Secret::new("r"));
            let read = Dialect::Rfc6749.read(&response, &grant, &Client::default(), &Vocabulary::default(), now());
            assert_eq!(read.expect_err(name).failure, failure, "{name}");
        }
    }

    #[test]
    fn a_providers_own_words_are_heard_and_come_first() {
        let list = |word: &str| vec![word.to_owned()];
        let words = ErrorWords {
            sign_in: list("TOKEN_GONE"),
            sign_in_if_repeated: list("401 Unauthorized: Unauthorized"),
            again: list("invalid_grant"),
        };
        let words = Vocabulary { errors: words, ..Vocabulary::default() };
        let unconfirmed = Failure::Unconfirmed { why: Why::Revoked, retry_after: None };
        let table = [
            ("theirs", 400, r#"{"error":"TOKEN_GONE"}"#, REVOKED),
            ("in another place", 400, r#"{"errors":[{"code":"TOKEN_GONE"}]}"#, REVOKED),
            ("GBDX's", 401, r#"{"Error":"401 Unauthorized: Unauthorized"}"#, unconfirmed),
            ("of a hop", 503, r#"{"Error":"401 Unauthorized: Unauthorized"}"#, TRANSIENT),
            ("not theirs", 401, r#"{"Error":"500 Internal"}"#, TRANSIENT),
            ("no verdict here", 400, r#"{"error":"invalid_grant"}"#, TRANSIENT),
            ("a part of a word", 400, r#"{"error":"TOKEN_GONE_ASTRAY"}"#, TRANSIENT),
        ];
        for (name, status, body, failure) in table {
            let response = TokenResponse { status, body: body.as_bytes(), ..TokenResponse::default() };
            let grant = Grant::RefreshToken(Secret::new("r"));
            let read = Dialect::Rfc6749.read(&response, &grant, &Client::default(), &words, now());
            assert_eq!(read.expect_err(name).failure, failure, "{name}");
        }
        let body = br#"{"Error":"401 Unauthorized: Unauthorized"}"#;
        let response = TokenResponse { status: 401, retry_after: Some("8"), body, ..TokenResponse::default() };
        let grant = Grant::RefreshToken(Secret::new("r"));
        let read = Dialect::Rfc6749.read(&response, &grant, &Client::default(), &words, now());
        let later = Failure::Unconfirmed { why: Why::Revoked, retry_after: Some(Duration::from_secs(8)) };
        assert_eq!(read.expect_err("refused").failure, later);
    }

    #[test]
    fn a_life_in_milliseconds_is_seen_by_the_tokens_own_and_no_other_is() {
        let now = i64::try_from(NOW).unwrap();
        let table = [
            ("milliseconds", json!({"iat": now, "exp": now + 3600}), 3_600_000, 3600),
            ("less than ten times", json!({"iat": now, "exp": now + 3600}), 35_000, 35_000),
            ("shorter than its own", json!({"iat": now, "exp": now + 36_000}), 60, 60),
            ("one that hangs on our clock", json!({"exp": now + 60}), 3600, 3600),
            ("none of its own", json!({"iat": now, "exp": now}), 3600, 3600),
        ];
        for (name, claims, told, life) in table {
            let body = json!({"access_token": jwt(claims), "expires_in": told}).to_string();
            assert_eq!(refreshed(200, &body).expect(name).lifetime, Some(Duration::from_secs(life)), "{name}");
        }
    }

    #[test]
    fn a_wrong_password_is_said_in_words() {
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

    fn signed_in_with_password(status: u16, body: &str) -> Result<super::Tokens, super::Refusal> {
        let grant = Grant::Password { username: "me".to_owned(), password: Secret::new("correct horse"), otp: None };
        read(Dialect::Rfc6749, &grant, status, body)
    }
}
