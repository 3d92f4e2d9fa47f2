//! GBDX's stand-in: its token service, which knows no clients and no RFC 6749 errors, and an API that wants
//! `Bearer` and the access token. Bodies of errors are those that its client's tests recorded.

use std::time::SystemTime;

use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::body::{Reply, TokenReply, form, json_reply, text_reply, text_value};
use super::issuer::{Issuer, Kind, USERNAME};

/// Requests for tokens. The last `/` is optional here, and in every client.
pub(super) fn is_token_call(parts: &Parts) -> bool {
    parts.method == Method::POST && parts.uri.path().trim_end_matches('/') == "/auth/v1/oauth/token"
}

/// The token in an `Authorization` field, and what it has to be.
pub(super) fn token(authorization: &str) -> (Option<&str>, Kind) {
    let bearer = authorization.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    (bearer.map(|(_, token)| token.trim()), Kind::Access)
}

/// JSON, labelled as a web page.
pub(super) fn unauthorized() -> Reply {
    let body = json!({"status": "401 Unauthorized", "message": "Authentication Failed."});
    text_reply(401, "text/html", &body.to_string())
}

pub(super) fn redeem(issuer: &mut Issuer, parts: &Parts, body: &[u8], now: SystemTime) -> TokenReply {
    let kind = parts.headers.get(hyper::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let fields = if kind.contains("json") { json_fields(body) } else { form(body) };
    let field = |name| text_value(&fields, name).unwrap_or_default();
    let grant = text_value(&fields, "grant_type");
    let issued = match grant {
        Some("password") => issuer.redeem_password(field("username"), field("password"), now),
        Some("refresh_token") => issuer.redeem_refresh_token(field("refresh_token"), None, now),
        _ => Err("Unauthorized"),
    };
    let Ok(issued) = issued else {
        let body = json!({"Error": "401 Unauthorized: Unauthorized"});
        return TokenReply::new(grant, "refused", json_reply(StatusCode::UNAUTHORIZED.as_u16(), &body));
    };
    // A refresh token is in every response, also if it is the old one.
    let refresh_token = issued.refresh_token.as_deref().unwrap_or(field("refresh_token"));
    let mut answer = json!({"access_token": issued.access_token, "scope": "openid email offline_access",
        "token_type": "Bearer", "refresh_token": refresh_token});
    if let Some(seconds) = issued.expires_in() {
        answer["expires_in"] = seconds;
    }
    if let Some(life) = issued.refresh_lifetime {
        answer["refresh_expires_in"] = json!(life.as_secs());
    }
    TokenReply::new(grant, "issued", json_reply(200, &answer))
}

fn json_fields(body: &[u8]) -> Vec<(String, String)> {
    let Ok(Value::Object(members)) = serde_json::from_slice(body) else { return Vec::new() };
    let text = |value: Value| value.as_str().map(str::to_owned);
    members.into_iter().filter_map(|(name, value)| Some((name, text(value)?))).collect()
}

/// What needs no token.
pub(super) fn public(parts: &Parts) -> Option<Reply> {
    let heartbeat = parts.method == Method::GET && parts.uri.path() == "/orders/v2/heartbeat";
    heartbeat.then(|| json_reply(200, &json!("ok")))
}

/// The API itself, to somebody with a good token.
pub(super) fn api(parts: &Parts, body: &[u8]) -> Reply {
    let segments: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
    match (&parts.method, segments.as_slice()) {
        (&Method::GET, ["auth", "v1", "validate_token"]) => json_reply(
            200,
            &json!({"username": USERNAME, "user_id": "7", "account_id": "7", "roles": ["user"], "id": 7, "role": "user",
                "is_super_user": false, "email": USERNAME, "account_level": "Basic"}),
        ),
        (&Method::GET, ["catalog", "v2", "record", "missing"]) => {
            let body = json!({"status": "404 Not Found", "message": "Not Found: missing"});
            text_reply(404, "text/html", &body.to_string())
        }
        (&Method::GET, ["catalog", "v2", "record", id]) => json_reply(200, &record(id)),
        (&Method::POST, ["catalog", "v2", "search"]) => match serde_json::from_slice::<Value>(body) {
            Ok(_) => {
                json_reply(200, &json!({"stats": {"recordsReturned": 1}, "results": [record("1030010045539700")]}))
            }
            Err(_) => json_reply(400, &json!({"status": "400 Bad Request", "message": "no JSON"})),
        },
        (&Method::GET, ["workflows", "v1", "tasks"]) => json_reply(200, &json!({"tasks": ["AOP_Strip_Processor"]})),
        (&Method::DELETE, ["workflows", "v1", "tasks", _]) => text_reply(204, "text/plain", ""),
        (&Method::POST, ["workflows", "v1", "workflows"]) => json_reply(201, &json!({"id": "4350494649661385313"})),
        (&Method::GET, ["workflows", "v1", "workflows", id]) => {
            json_reply(200, &json!({"id": id, "state": {"state": "complete", "event": "succeeded"}}))
        }
        (&Method::POST, ["orders", "v2", "order"]) => json_reply(201, &order("c5cd8157-3001-4a03-a716-4ef673748c7a")),
        (&Method::GET, ["orders", "v2", "order", id]) => json_reply(200, &order(id)),
        (&Method::GET, ["s3creds", "v1", "prefix"]) => json_reply(
            200,
            &json!({"S3_access_key": "stand-in", "S3_secret_key": "stand-in", "S3_session_token": "stand-in",
                "bucket": "gbd-customer-data", "prefix": "7"}),
        ),
        (&Method::POST, ["insight-vector", "api", "index", "query", _, "items"]) => {
            let geometry = json!({"type": "Point", "coordinates": [30.0, 10.0]});
            json_reply(200, &json!([{"type": "Feature", "geometry": geometry, "properties": {"item_type": ["WV02"]}}]))
        }
        (&Method::GET, ["v1", "template", id, "metadata"]) => {
            json_reply(200, &json!({"imageMetadata": {"imageId": id, "tileXSize": 256, "tileYSize": 256}}))
        }
        _ => text_reply(404, "text/html", &json!({"status": "404 Not Found", "message": "Not Found"}).to_string()),
    }
}

fn order(id: &str) -> Value {
    json!({"order_id": id, "acquisitions": [{"acquisition_id": "10400100120FEA00", "state": "delivered",
        "location": "s3://receiving-dgcs-tdgplatform-com/x"}]})
}

fn record(id: &str) -> Value {
    json!({"identifier": id, "type": ["Acquisition", "DigitalGlobeAcquisition"],
        "properties": {"catalogID": id, "sensorPlatformName": "WORLDVIEW02", "cloudCover": 7}})
}
