//! An OpenID provider's stand-in: the authorization endpoint with a person who decides at once, codes for devices (RFC 8628),
//! pushed requests (RFC 9126), userinfo, introspection, and every odd manner that a sign-in may meet.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::body::{Reply, TokenReply, form, json_reply, text_reply, text_value};
use super::issuer::{Code, Issued, Issuer, Kind, uuid};

/// Who sits at the browser, what that person decides, and what the server makes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manners {
    /// The person's `sub`.
    pub person: String,
    /// What the person decides.
    pub decision: Decision,
    /// `iss` of the redirect, if it is not the server's own; empty: none.
    pub iss: Option<String>,
    /// `scope` of the responses, if it is not what was asked for.
    pub scope: Option<String>,
    /// Whether answers to codes bring a refresh token.
    pub refresh_token: bool,
    /// `nonce` of the ID tokens, if it is not that of the request.
    pub nonce: Option<String>,
    /// The one-time password that a password needs.
    pub totp: Option<String>,
    /// Whether ID tokens come.
    pub id_token: bool,
    /// Claims of the ID tokens that are others than they ought to be; `null` takes one out.
    pub claims: Vec<(&'static str, Value)>,
    /// Whether device codes are refused as GitHub does: with status 200, and names of its own.
    pub github: bool,
    /// Answers to device codes before the decision counts, the first ones first.
    pub device_answers: Vec<&'static str>,
    /// `interval` of device codes.
    pub interval: u64,
    /// The life of device codes.
    pub device_lifetime: Duration,
    /// An error with which the pushed and device requests are refused.
    pub refuses: Option<&'static str>,
    /// Statuses that userinfo answers before it tells who it is, the first ones first.
    pub userinfo_answers: Vec<u16>,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            person: "ada".to_owned(),
            decision: Decision::Yes,
            iss: None,
            scope: None,
            refresh_token: true,
            nonce: None,
            totp: None,
            id_token: true,
            claims: Vec::new(),
            github: false,
            device_answers: Vec::new(),
            interval: 1,
            device_lifetime: Duration::from_secs(300),
            refuses: None,
            userinfo_answers: Vec::new(),
        }
    }
}

/// What the person decides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Agrees.
    Yes,
    /// Does not, or the server does not: an error code with a description.
    No(&'static str, &'static str),
}

/// Where the client `lab` revokes access tokens in GitHub's form.
const GITHUB_REVOCATION: &str = "/applications/lab/token";

/// Requests to the token service and its neighbours.
pub(super) fn is_token_call(parts: &Parts) -> bool {
    let paths = ["/token", "/revoke", "/device_authorization", "/par", "/introspect"];
    (parts.method == Method::DELETE && parts.uri.path() == GITHUB_REVOCATION)
        || parts.method == Method::POST && paths.contains(&parts.uri.path())
}

/// The token in an `Authorization` field, and what it has to be.
pub(super) fn token(authorization: &str) -> (Option<&str>, Kind) {
    (authorization.strip_prefix("Bearer "), Kind::Access)
}

pub(super) fn unauthorized() -> Reply {
    json_reply(401, &json!({"error": "invalid_token"}))
}

/// What is remembered of requests that are under way.
#[derive(Default)]
pub(super) struct Desk {
    pub(super) manners: Manners,
    /// By their `request_uri`.
    pushed: Vec<(String, Vec<(String, String)>)>,
    devices: Vec<Device>,
}

struct Device {
    device_code: String,
    challenge: Option<String>,
    scope: Option<String>,
}

pub(super) fn redeem(
    desk: &mut Desk,
    issuer: &mut Issuer,
    parts: &Parts,
    body: &[u8],
    url: &str,
    now: SystemTime,
) -> TokenReply {
    let fields = form(body);
    match parts.uri.path() {
        "/revoke" => {
            let outcome = match issuer.revoke(text_value(&fields, "token").unwrap_or_default()) {
                true => "revoked",
                false => "unknown",
            };
            TokenReply::new(Some("revoke"), outcome, text_reply(200, "text/plain", ""))
        }
        GITHUB_REVOCATION => {
            let is_lab = parts.headers.get("authorization").is_some_and(|value| value == "Basic bGFiOm9wZW4tc2VzYW1l");
            let body: Value = serde_json::from_slice(body).unwrap_or_default();
            let token = body["access_token"].as_str().unwrap_or_default();
            match (is_lab, issuer.judge(token, now)) {
                (false, _) => error("revoke", 401, "bad_credentials"),
                (true, None) => error("revoke", 404, "not_found"),
                (true, Some(_)) => {
                    issuer.revoke_tokens();
                    TokenReply::new(Some("revoke"), "revoked", text_reply(204, "text/plain", ""))
                }
            }
        }
        "/introspect" => {
            let active = issuer.judge(text_value(&fields, "token").unwrap_or_default(), now).is_some();
            let answer = json!({"active": active, "sub": desk.manners.person, "username": desk.manners.person});
            TokenReply::new(Some("introspect"), "answered", json_reply(200, &answer))
        }
        "/par" => push(desk, issuer, fields),
        "/device_authorization" => device_authorization(desk, issuer, &fields, url),
        _ => token_endpoint(desk, issuer, &fields, now),
    }
}

fn push(desk: &mut Desk, issuer: &mut Issuer, fields: Vec<(String, String)>) -> TokenReply {
    if let Some(code) = desk.manners.refuses {
        return error("par", 400, code);
    }
    note_secrets(issuer, &fields);
    let request_uri = format!("urn:ietf:params:oauth:request_uri:{}", uuid());
    desk.pushed.push((request_uri.clone(), fields));
    TokenReply::new(Some("par"), "pushed", json_reply(201, &json!({"request_uri": request_uri, "expires_in": 60})))
}

fn device_authorization(desk: &mut Desk, issuer: &mut Issuer, fields: &[(String, String)], url: &str) -> TokenReply {
    if let Some(code) = desk.manners.refuses {
        return error("device", if desk.manners.github { 200 } else { 400 }, code);
    }
    if text_value(fields, "client_id").is_none() {
        return error("device", 400, "invalid_client");
    }
    let (device_code, user_code) = (uuid(), "WDJB-MJHT");
    issuer.secrets.push(device_code.clone());
    let text = |name| text_value(fields, name).map(str::to_owned);
    desk.devices.push(Device {
        device_code: device_code.clone(),
        challenge: text("code_challenge"),
        scope: text("scope"),
    });
    let mut answer = json!({"device_code": device_code, "user_code": user_code, "interval": desk.manners.interval,
        "verification_uri": format!("{url}/device"), "expires_in": desk.manners.device_lifetime.as_secs()});
    if !desk.manners.github {
        answer["verification_uri_complete"] = json!(format!("{url}/device?user_code={user_code}"));
    }
    TokenReply::new(Some("device"), "begun", json_reply(200, &answer))
}

fn token_endpoint(desk: &mut Desk, issuer: &mut Issuer, fields: &[(String, String)], now: SystemTime) -> TokenReply {
    let text = |name| text_value(fields, name);
    let grant = text("grant_type").unwrap_or_default().to_owned();
    let Some(client) = text("client_id") else { return error(&grant, 401, "invalid_client") };
    note_secrets(issuer, fields);
    let (redeemed, scope) = match grant.as_str() {
        "authorization_code" => {
            let (code, uri) = (text("code").unwrap_or_default(), text("redirect_uri"));
            let scope = issuer.scope_of(code);
            match issuer.redirect_uri_of(code) {
                Some(asked) if Some(asked.as_str()) != uri => (Err("Another redirect_uri"), None),
                _ => (issuer.redeem_code(code, text("code_verifier"), Some(client), now), scope),
            }
        }
        "refresh_token" => {
            let token = text("refresh_token").unwrap_or_default();
            (issuer.redeem_refresh_token(token, Some(client), now), None)
        }
        "urn:ietf:params:oauth:grant-type:device_code" => {
            match device_code(desk, issuer, text("device_code").unwrap_or_default(), text("code_verifier"), client, now)
            {
                Ok(redeemed) => redeemed,
                Err(code) => return error("device_code", if desk.manners.github { 200 } else { 400 }, code),
            }
        }
        "password" if desk.manners.totp.is_none() || desk.manners.totp.as_deref() == text("totp") => {
            let found =
                issuer.redeem_password(text("username").unwrap_or_default(), text("password").unwrap_or_default(), now);
            (found, text("scope").map(str::to_owned))
        }
        "password" => return error(&grant, 401, "invalid_grant"),
        _ => return error(&grant, 400, "unsupported_grant_type"),
    };
    let grant = grant.rsplit(':').next().unwrap_or_default().to_owned();
    let Ok(issued) = redeemed else { return error(&grant, 400, "invalid_grant") };
    let scope = desk.manners.scope.clone().or(scope);
    let keeps = desk.manners.refresh_token || grant == "refresh_token";
    TokenReply::new(Some(&grant), "issued", json_reply(200, &answer(&issued, &desk.manners, scope, keeps)))
}

/// The person's decision comes after the responses that are wanted before.
fn device_code(
    desk: &mut Desk,
    issuer: &mut Issuer,
    device_code: &str,
    verifier: Option<&str>,
    client: &str,
    now: SystemTime,
) -> Result<(Result<Issued, &'static str>, Option<String>), &'static str> {
    let Some(place) = desk.devices.iter().position(|device| device.device_code == device_code) else {
        return Err(if desk.manners.github { "incorrect_device_code" } else { "invalid_grant" });
    };
    if !desk.manners.device_answers.is_empty() {
        return Err(desk.manners.device_answers.remove(0));
    }
    let Device { challenge, scope, .. } = desk.devices.remove(place);
    match &desk.manners.decision {
        Decision::No(code, _) => Err(code),
        Decision::Yes => {
            let code = issuer.mint(Code { challenge, sub: Some(desk.manners.person.clone()), ..Code::default() });
            Ok((issuer.redeem_code(&code, verifier, Some(client), now), scope))
        }
    }
}

/// What clients send that nobody else may see.
fn note_secrets(issuer: &mut Issuer, fields: &[(String, String)]) {
    let once = ["code_verifier", "totp"].map(|name| text_value(fields, name).map(str::to_owned));
    issuer.secrets.extend(once.into_iter().flatten());
}

fn answer(issued: &Issued, manners: &Manners, scope: Option<String>, keeps: bool) -> Value {
    let mut answer = json!({"access_token": issued.access_token, "token_type": "Bearer"});
    if manners.id_token {
        answer["id_token"] = json!(with_claims(&issued.id_token, &manners.claims));
    }
    if let Some(seconds) = issued.expires_in() {
        answer["expires_in"] = seconds;
    }
    if let Some(scope) = scope {
        answer["scope"] = json!(scope);
    }
    if let Some(refresh_token) = issued.refresh_token.as_ref().filter(|_| keeps) {
        answer["refresh_token"] = json!(refresh_token);
    }
    answer
}

fn with_claims(token: &str, others: &[(&str, Value)]) -> String {
    let parts: Vec<&str> = token.split('.').collect();
    let ([header, claims, signature], false) = (parts.as_slice(), others.is_empty()) else { return token.to_owned() };
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).expect("we have encoded it");
    let mut claims: Value = serde_json::from_slice(&claims).expect("it is JSON");
    for (name, value) in others {
        claims[*name] = value.clone();
    }
    format!("{header}.{}.{signature}", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn error(grant: &str, status: u16, code: &'static str) -> TokenReply {
    TokenReply::new(Some(grant), code, json_reply(status, &json!({"error": code})))
}

/// What needs no token: the metadata, and the pages that a person sees.
pub(super) fn public(desk: &mut Desk, issuer: &mut Issuer, parts: &Parts, url: &str) -> Option<Reply> {
    match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/.well-known/openid-configuration" | "/.well-known/oauth-authorization-server") => {
            Some(json_reply(200, &metadata(url)))
        }
        (&Method::GET, "/authorize") => Some(authorize(desk, issuer, parts.uri.query().unwrap_or_default(), url)),
        (&Method::GET, "/userinfo") if !desk.manners.userinfo_answers.is_empty() => {
            let status = desk.manners.userinfo_answers.remove(0);
            Some(text_reply(status, "text/html", "<p>Not now.</p>"))
        }
        (&Method::GET, "/device") => Some(text_reply(200, "text/html", "<p>Enter the code.</p>")),
        _ => None,
    }
}

fn metadata(url: &str) -> Value {
    json!({"issuer": url, "authorization_endpoint": format!("{url}/authorize"), "token_endpoint": format!("{url}/token"),
        "device_authorization_endpoint": format!("{url}/device_authorization"),
        "pushed_authorization_request_endpoint": format!("{url}/par"), "revocation_endpoint": format!("{url}/revoke"),
        "introspection_endpoint": format!("{url}/introspect"), "userinfo_endpoint": format!("{url}/userinfo"),
        "code_challenge_methods_supported": ["S256"], "authorization_response_iss_parameter_supported": true,
        "response_types_supported": ["code"], "scopes_supported": ["openid", "offline_access"]})
}

/// Decides at once and sends the browser back, as after a page on which the person has agreed or not.
fn authorize(desk: &mut Desk, issuer: &mut Issuer, query: &str, url: &str) -> Reply {
    let asked = form(query.as_bytes());
    let asked = match text_value(&asked, "request_uri") {
        None => asked,
        Some(name) => match desk.pushed.iter().position(|(pushed, _)| pushed == name) {
            Some(place) => desk.pushed.remove(place).1,
            None => return refused("the request_uri is not known"),
        },
    };
    let text = |name| text_value(&asked, name).map(str::to_owned);
    let has_openid = text("scope").is_some_and(|scope| scope.split(' ').any(|word| word == "openid"));
    let Some(redirect_uri) = text("redirect_uri") else { return refused("there is no redirect_uri") };
    if text("code_challenge_method").as_deref() != Some("S256") || text("response_type").as_deref() != Some("code") {
        return refused("it wants response_type=code and S256");
    }
    if text("nonce").is_some() && !has_openid {
        return refused("a nonce is for openid");
    }
    let manners = &desk.manners;
    let mut back = form_urlencoded::Serializer::new(String::new());
    match &manners.decision {
        Decision::Yes => {
            let code = Code {
                challenge: text("code_challenge"),
                redirect_uri: Some(redirect_uri.clone()),
                nonce: manners.nonce.clone().or_else(|| text("nonce")),
                sub: Some(manners.person.clone()),
                scope: text("scope"),
            };
            back.append_pair("code", &issuer.mint(code));
        }
        Decision::No(error, description) => {
            back.append_pair("error", error).append_pair("error_description", description);
        }
    }
    if let Some(state) = text("state") {
        back.append_pair("state", &state);
    }
    let iss = manners.iss.as_deref().unwrap_or(url);
    if !iss.is_empty() {
        back.append_pair("iss", iss);
    }
    let mut reply = text_reply(302, "text/plain", "");
    let location = format!("{redirect_uri}?{}", back.finish());
    reply.headers_mut().insert(hyper::header::LOCATION, location.parse().expect("a URL is a field value"));
    reply
}

fn refused(words: &str) -> Reply {
    text_reply(StatusCode::BAD_REQUEST.as_u16(), "text/html", &format!("<p>{words}</p>"))
}

/// What is there with a good token.
pub(super) fn api(manners: &Manners, parts: &Parts) -> Reply {
    let person = &manners.person;
    match parts.uri.path() {
        "/userinfo" => json_reply(
            200,
            &json!({"sub": person, "preferred_username": person, "email": format!("{person}@example.org")}),
        ),
        "/user" => json_reply(200, &json!({"id": 583_231, "login": person})),
        "/ping" => text_reply(200, "text/plain", "pong"),
        _ => json_reply(404, &json!({"message": "not found"})),
    }
}
