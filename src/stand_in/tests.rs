//! What both stand-ins answer, and their faults.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::body::member;
use super::*;

/// Sends one request as bytes and reads until the server closes: the head, and the body as it came.
async fn raw(stand_in: &StandIn, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(stand_in.address()).await.unwrap();
    let (line, rest) = request.split_once("\r\n").unwrap();
    stream.write_all(format!("{line}\r\nHost: x\r\nConnection: close\r\n{rest}").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    (head.to_owned(), body.to_owned())
}

async fn get(stand_in: &StandIn, target: &str, fields: &str) -> (String, String) {
    raw(stand_in, &format!("GET {target} HTTP/1.1\r\n{fields}\r\n")).await
}

async fn post(stand_in: &StandIn, path: &str, fields: &str, body: &str) -> (String, Value) {
    let request = format!("POST {path} HTTP/1.1\r\nContent-Length: {}\r\n{fields}\r\n{body}", body.len());
    let (head, body) = raw(stand_in, &request).await;
    (head, serde_json::from_str(&body).unwrap_or_default())
}

async fn refresh(stand_in: &StandIn, token: &str) -> (String, Value) {
    let body = format!("grant_type=refresh_token&client_id=c&refresh_token={token}");
    post(stand_in, "/oauth2/token", "", &body).await
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    member(value, name).unwrap_or_else(|| panic!("no {name}: {value}"))
}

#[tokio::test]
async fn gdh_wants_the_raw_id_token_in_one_field_and_nothing_else() {
    let gdh = StandIn::start(Provider::Gdh, Options::default()).await.unwrap();
    let (_, tokens) = refresh(&gdh, gdh.sign_in().expose()).await;
    let (id, access) = (text(&tokens, "id_token"), text(&tokens, "access_token"));
    let table = [
        ("the raw ID token", format!("Authorization: {id}\r\n"), "HTTP/1.1 200"),
        ("with Bearer", format!("Authorization: Bearer {id}\r\n"), "HTTP/1.1 401"),
        ("the access token", format!("Authorization: {access}\r\n"), "HTTP/1.1 401"),
        ("twice", format!("Authorization: {id}\r\nAuthorization: {id}\r\n"), "HTTP/1.1 401"),
        ("none", String::new(), "HTTP/1.1 401"),
    ];
    for (name, fields, status) in &table {
        let (head, _) = get(&gdh, "/datasets?q=%7B%22a%22%3A+%22b%22%7D", fields).await;
        assert!(head.starts_with(status), "{name}: {head}");
    }
    let log = gdh.log();
    assert_eq!(
        log.api_calls.iter().map(|call| call.token_valid).collect::<Vec<_>>(),
        [true, false, false, false, false]
    );
    assert_eq!((log.refused(), log.outcomes("issued")), (4, 1));
    assert!(gdh.secrets().iter().any(|secret| secret == id));
    gdh.revoke_access_tokens();
    assert!(get(&gdh, "/ping", &table[0].1).await.0.starts_with("HTTP/1.1 401"));
}

#[tokio::test]
async fn gdhs_login_leads_from_the_page_over_the_code_to_tokens() {
    let gdh = StandIn::start(Provider::Gdh, Options::default()).await.unwrap();
    let (_, settings) = get(&gdh, "/login", "").await;
    assert!(settings.contains("redirection_url"));
    let (head, _) = get(&gdh, "/login?response_type=code&client_id=c", "").await;
    let code = head.split_once("?code=").unwrap().1.split_once("\r\n").unwrap().0;
    assert!(get(&gdh, &format!("/validate-code.html?code={code}"), "").await.1.contains(code));
    let body = format!("grant_type=authorization_code&client_id=c&redirect_uri=u&code={code}");
    let (_, tokens) = post(&gdh, "/oauth2/token", "", &body).await;
    assert_eq!(tokens["expires_in"], 3600);
    let (head, tokens) = refresh(&gdh, text(&tokens, "refresh_token")).await;
    assert!(head.starts_with("HTTP/1.1 200") && tokens.get("refresh_token").is_none());
    assert_eq!(post(&gdh, "/oauth2/token", "", &body).await.1, json!({"error": "invalid_grant"}));
}

#[tokio::test]
async fn cognitos_json_api_has_one_way_with_rotation_and_one_without() {
    let gdh = StandIn::start(Provider::Gdh, Options::default()).await.unwrap();
    let token = gdh.sign_in();
    let (initiate, get_tokens) = (
        json!({"ClientId": "c", "AuthFlow": "REFRESH_TOKEN_AUTH", "AuthParameters": {"REFRESH_TOKEN": token.expose()}}),
        json!({"ClientId": "c", "RefreshToken": token.expose()}),
    );
    let call = async |operation: &str, body: &Value| {
        let fields = format!("X-Amz-Target: AWSCognitoIdentityProviderService.{operation}\r\n");
        post(&gdh, "/", &fields, &body.to_string()).await.1
    };
    assert!(call("InitiateAuth", &initiate).await["AuthenticationResult"]["IdToken"].is_string());
    assert_eq!(call("GetTokensFromRefreshToken", &get_tokens).await["__type"], "NotAuthorizedException");
    gdh.change(|options| options.rotation = Rotation::Strict);
    assert_eq!(call("InitiateAuth", &initiate).await["__type"], "NotAuthorizedException");
    let new = call("GetTokensFromRefreshToken", &get_tokens).await;
    assert!(new["AuthenticationResult"]["RefreshToken"].is_string());
    assert_eq!(call("GetTokensFromRefreshToken", &get_tokens).await["message"], "Refresh token has been rotated");
    assert_eq!(gdh.log().reuse_detected, 1);
    let body = format!("client_id=c&token={}", token.expose());
    assert!(post(&gdh, "/oauth2/revoke", "", &body).await.0.starts_with("HTTP/1.1 200"));
    assert_eq!(gdh.log().outcomes("revoked"), 1);
}

#[tokio::test]
async fn gbdx_speaks_its_own_dialect_in_forms_and_json() {
    let gbdx = StandIn::start(Provider::Gbdx, Options::default()).await.unwrap();
    let (head, refused) = post(&gbdx, "/auth/v1/oauth/token/", "", "grant_type=password&username=x&password=y").await;
    assert!(head.starts_with("HTTP/1.1 401"));
    assert_eq!(refused, json!({"Error": "401 Unauthorized: Unauthorized"}));
    let body = json!({"grant_type": "password", "username": USERNAME, "password": PASSWORD}).to_string();
    let (_, tokens) = post(&gbdx, "/auth/v1/oauth/token/", "Content-Type: application/json\r\n", &body).await;
    let body = format!("grant_type=refresh_token&refresh_token={}", text(&tokens, "refresh_token"));
    let (_, renewed) = post(&gbdx, "/auth/v1/oauth/token/", "", &body).await;
    assert_eq!(renewed["refresh_token"], tokens["refresh_token"], "without rotation the old one comes again");
    let bearer = format!("Authorization: Bearer {}\r\n", text(&renewed, "access_token"));
    assert!(get(&gbdx, "/catalog/v2/record/1030010045539700", &bearer).await.1.contains("WORLDVIEW02"));
    assert_eq!(get(&gbdx, "/orders/v2/heartbeat", "").await.1, "\"ok\"");
    let (head, _) = get(&gbdx, "/auth/v1/validate_token", "Authorization: Bearer nonsense\r\n").await;
    assert!(head.starts_with("HTTP/1.1 401") && head.contains("text/html"));
}

#[tokio::test]
async fn both_echo_compress_stream_and_keep_silent() {
    let gdh = StandIn::start(Provider::Gdh, Options::default()).await.unwrap();
    let (_, tokens) = refresh(&gdh, gdh.sign_in().expose()).await;
    let id = format!("Authorization: {}\r\n", text(&tokens, "id_token"));
    let (_, echo) = post(&gdh, "/echo/%5B?a=[%22b%22]+*", &format!("X-A: 1\r\n{id}"), "abc").await;
    assert_eq!(echo["target"], "/echo/%5B?a=[%22b%22]+*");
    assert_eq!(echo["body"]["sha256"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert!(!echo.to_string().contains(text(&tokens, "id_token")));
    assert!(echo["headers"].as_array().unwrap().contains(&json!(["x-a", "1"])));
    let (head, body) = get(&gdh, "/download/200000", &id).await;
    assert!(head.contains("chunked") && body.matches('x').count() == 200_000);
    assert!(get(&gdh, "/gzip", &id).await.0.contains("content-encoding: gzip"));
    assert!(get(&gdh, "/no-content", &id).await.0.starts_with("HTTP/1.1 204"));
    let mut stream = TcpStream::connect(gdh.address()).await.unwrap();
    stream.write_all(format!("GET /ticks/1 HTTP/1.1\r\nHost: x\r\n{id}\r\n").as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("data: 3\n\n") {
        assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn faults_come_as_asked_and_end_as_asked() {
    let gdh =
        StandIn::start(Provider::Gdh, Options { rotation: Rotation::Strict, ..Options::default() }).await.unwrap();
    let token = gdh.sign_in();
    gdh.behave(Behaviour::ResetBefore, Some(1));
    assert_eq!(refresh(&gdh, token.expose()).await.0, "");
    gdh.behave(Behaviour::Status(503, "{}".to_owned(), vec![("Retry-After".to_owned(), "7".to_owned())]), Some(1));
    assert!(refresh(&gdh, token.expose()).await.0.contains("retry-after: 7"));
    gdh.behave(Behaviour::Html, Some(1));
    assert!(refresh(&gdh, token.expose()).await.0.contains("text/html"));
    gdh.behave(Behaviour::SlowDrip(Duration::ZERO), Some(1));
    let (_, tokens) = refresh(&gdh, token.expose()).await;
    gdh.behave(Behaviour::ResetAfter, Some(1));
    assert_eq!(refresh(&gdh, text(&tokens, "refresh_token")).await.0, "");
    assert_eq!(refresh(&gdh, text(&tokens, "refresh_token")).await.1, json!({"error": "invalid_grant"}));
    let log = gdh.until(|log| log.token_calls.len() == 6).await;
    let outcomes: Vec<_> = log.token_calls.iter().map(|call| call.outcome.as_str()).collect();
    assert_eq!(outcomes, ["reset-before", "status", "html", "issued", "issued", "invalid_grant"]);
    assert_eq!((log.reuse_detected, log.most_token_calls_at_once), (1, 1));
}

#[tokio::test]
async fn a_stopped_stand_in_is_gone_and_another_can_take_its_place() {
    let gdh = StandIn::start(Provider::Gdh, Options::default()).await.unwrap();
    let address = gdh.address();
    gdh.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
    let gdh = StandIn::start_on(address, Provider::Gdh, Options::default()).await.unwrap();
    assert!(get(&gdh, "/login", "").await.0.starts_with("HTTP/1.1 200"));
}
