//! GDH's stand-in: Amazon Cognito's token endpoint and JSON API, and the GeoDataHub's API behind an authorizer that
//! wants the ID token as it is, without `Bearer`.

use std::time::SystemTime;

use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::body::{Reply, TokenReply, form, json_reply, member, text_reply, text_value};
use super::issuer::{Issued, Issuer, Kind, Rotation, uuid};

/// Requests for tokens: Cognito's, not the API's.
pub(super) fn is_token_call(parts: &Parts) -> bool {
    parts.method == Method::POST && matches!(parts.uri.path(), "/" | "/oauth2/token" | "/oauth2/revoke")
}

/// The token in an `Authorization` field, and what it has to be.
pub(super) fn token(authorization: &str) -> (Option<&str>, Kind) {
    (Some(authorization), Kind::Id)
}

pub(super) fn unauthorized() -> Reply {
    json_reply(401, &json!({"message": "Unauthorized"}))
}

pub(super) fn redeem(issuer: &mut Issuer, parts: &Parts, body: &[u8], now: SystemTime) -> TokenReply {
    match parts.uri.path() {
        "/oauth2/revoke" => revoke(issuer, body),
        "/oauth2/token" => token_endpoint(issuer, body, now),
        _ => json_api(issuer, parts, body, now),
    }
}

fn token_endpoint(issuer: &mut Issuer, body: &[u8], now: SystemTime) -> TokenReply {
    let fields = form(body);
    let (grant, client) = (text_value(&fields, "grant_type"), text_value(&fields, "client_id"));
    let Some(client) = client else { return oauth_error(grant, 400, "invalid_client") };
    let issued = match grant {
        Some("authorization_code") if text_value(&fields, "redirect_uri").is_none() => {
            return oauth_error(grant, 400, "invalid_request");
        }
        Some("authorization_code") => {
            let verifier = text_value(&fields, "code_verifier");
            issuer.redeem_code(text_value(&fields, "code").unwrap_or_default(), verifier, Some(client), now)
        }
        Some("refresh_token") => {
            let token = text_value(&fields, "refresh_token").unwrap_or_default();
            issuer.redeem_refresh_token(token, Some(client), now)
        }
        _ => return oauth_error(grant, 400, "unsupported_grant_type"),
    };
    let Ok(issued) = issued else { return oauth_error(grant, 400, "invalid_grant") };
    let mut answer = json!({"access_token": issued.access_token, "id_token": issued.id_token, "token_type": "Bearer"});
    if let Some(seconds) = issued.expires_in() {
        answer["expires_in"] = seconds;
    }
    add_refresh(&mut answer, &issued, "refresh_token", "refresh_expires_in");
    TokenReply::new(grant, "issued", json_reply(200, &answer))
}

fn json_api(issuer: &mut Issuer, parts: &Parts, body: &[u8], now: SystemTime) -> TokenReply {
    let target = parts.headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let operation = target.rsplit('.').next();
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let rotates = issuer.options.rotation != Rotation::Off;
    let exception =
        |name, message| TokenReply::new(operation, name, json_reply(400, &json!({"__type": name, "message": message})));
    let token = match operation {
        Some("InitiateAuth") if rotates => {
            return exception("NotAuthorizedException", "Refresh token rotation is enabled for this client");
        }
        Some("GetTokensFromRefreshToken") if !rotates => {
            return exception("NotAuthorizedException", "Refresh token rotation is not enabled for this client");
        }
        Some("InitiateAuth") if body["AuthFlow"] == "REFRESH_TOKEN_AUTH" => {
            member(&body["AuthParameters"], "REFRESH_TOKEN")
        }
        Some("GetTokensFromRefreshToken") => member(&body, "RefreshToken"),
        _ => return exception("UnknownOperationException", ""),
    };
    let Some(client) = member(&body, "ClientId") else {
        return exception("InvalidParameterException", "ClientId must not be null");
    };
    match issuer.redeem_refresh_token(token.unwrap_or_default(), Some(client), now) {
        Err(denied) => exception("NotAuthorizedException", denied),
        Ok(issued) => {
            let mut result = json!({"AccessToken": issued.access_token, "IdToken": issued.id_token,
                "TokenType": "Bearer"});
            if let Some(seconds) = issued.expires_in() {
                result["ExpiresIn"] = seconds;
            }
            add_refresh(&mut result, &issued, "RefreshToken", "RefreshExpiresIn");
            let answer = json!({"ChallengeParameters": {}, "AuthenticationResult": result});
            TokenReply::new(operation, "issued", json_reply(200, &answer))
        }
    }
}

/// 200 with an empty body, also for what is unknown or dead already.
fn revoke(issuer: &mut Issuer, body: &[u8]) -> TokenReply {
    let fields = form(body);
    let Some(token) = text_value(&fields, "token") else { return oauth_error(Some("revoke"), 400, "invalid_request") };
    let outcome = if issuer.revoke(token) { "revoked" } else { "unknown" };
    TokenReply::new(Some("revoke"), outcome, text_reply(200, "text/plain", ""))
}

fn oauth_error(grant: Option<&str>, status: u16, code: &'static str) -> TokenReply {
    TokenReply::new(grant, code, json_reply(status, &json!({"error": code})))
}

fn add_refresh(answer: &mut Value, issued: &Issued, token: &str, expires_in: &str) {
    if let Some(refresh_token) = &issued.refresh_token {
        answer[token] = json!(refresh_token);
    }
    if let Some(life) = issued.refresh_lifetime {
        answer[expires_in] = json!(life.as_secs());
    }
}

/// What needs no token: the settings for a login, and the pages that a person sees.
pub(super) fn public(issuer: &mut Issuer, parts: &Parts, url: &str) -> Option<Reply> {
    match (&parts.method, parts.uri.path(), parts.uri.query()) {
        // The API's /login; the authorization server's has a query.
        (&Method::GET, "/login", None) => Some(json_reply(
            200,
            &json!({"message": {"cli": {"response_type": "code", "redirection_url": format!("{url}/validate-code.html"),
                "app_id": "stand-in-client", "url": url}}}),
        )),
        (&Method::GET, "/login", Some(query)) => {
            let mut reply = text_reply(302, "text/plain", "");
            let asked = |name: &str| {
                let mut pairs = form_urlencoded::parse(query.as_bytes());
                pairs.find_map(|(found, value)| (found == name).then(|| value.into_owned()))
            };
            let code = issuer.mint_code(asked("code_challenge"));
            let state = asked("state").map(|state| format!("&state={state}")).unwrap_or_default();
            let location = format!("{url}/validate-code.html?code={code}{state}");
            let location = location.parse().expect("a URL is a field value");
            reply.headers_mut().insert(hyper::header::LOCATION, location);
            Some(reply)
        }
        (&Method::GET, "/validate-code.html", query) => {
            let code = query.and_then(|query| query.strip_prefix("code=")).unwrap_or("none");
            let code = code.split('&').next().unwrap_or_default();
            let code: String = code.chars().filter(|c| c.is_ascii_hexdigit() || *c == '-').collect();
            Some(text_reply(200, "text/html", &format!("<p>Your one-time code:</p>\n<pre>{code}</pre>\n")))
        }
        _ => None,
    }
}

/// The API itself, to somebody with a good token.
pub(super) fn api(parts: &Parts, body: &[u8]) -> Reply {
    let segments: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
    match (&parts.method, segments.as_slice()) {
        (&Method::GET, ["ping"]) => text_reply(200, "text/plain", "pong"),
        (&Method::GET, ["datasets"]) => {
            let query = parts.uri.query().unwrap_or_default();
            let q = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "q");
            match q.map(|(_, q)| serde_json::from_str::<Value>(&q)) {
                Some(Err(_)) => json_reply(400, &json!({"message": "q is no JSON"})),
                Some(Ok(q)) => json_reply(200, &json!([dataset("0001", &q.to_string())])),
                None => json_reply(200, &json!([dataset("0001", "gravity"), dataset("0002", "seismic")])),
            }
        }
        (&Method::POST, ["datasets"]) => match serde_json::from_slice::<Value>(body) {
            Ok(_) => json_reply(200, &json!({"id": uuid()})),
            Err(_) => json_reply(400, &json!({"message": "Could not parse request body into json"})),
        },
        (&Method::GET, ["datasets", id]) => json_reply(200, &dataset(id, "gravity")),
        (&Method::GET, ["schemas", "autocomplete"]) => json_reply(200, &json!(["gravity", "magnetic", "seismic"])),
        _ => json_reply(StatusCode::NOT_FOUND.as_u16(), &json!({"message": "Missing Authentication Token"})),
    }
}

/// Exactly the members that GDH's client knows: it fails at any other.
fn dataset(id: &str, datatype: &str) -> Value {
    json!({"identifier": id, "owner": "stand-in", "organization": "stand-in", "datatype": datatype, "citation": null,
        "description": "A dataset that is not there.", "larger_work": null, "distribution_info": {}, "result": {},
        "projected_geometry": "POINT (12.57 55.68)"})
}
