//! Providers' own dialects as data, from the key in the configuration to the byte that is sent and the token that is taken.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::testing::{REVOKED, TRANSIENT, client, now, pairs, public, refresh_token};
use super::{BodyFormat, Client, ClientAuth, Dialect, Grant, Refusal, RequestForm, TokenResponse, Tokens, Vocabulary};
use crate::config::testing::account;
use crate::oauth::rfc6749::request;
use crate::secret::Secret;

/// What an account's lines make of names.
fn vocabulary(lines: &str) -> Vocabulary {
    account("lab", &format!("token_endpoint = \"https://auth.example/t\"\n{lines}\n")).vocabulary
}

fn read(lines: &str, status: u16, body: &str) -> Result<Tokens, Refusal> {
    let grant = Grant::RefreshToken(refresh_token());
    let response = TokenResponse { status, body: body.as_bytes(), ..TokenResponse::default() };
    Dialect::Rfc6749.read(&response, &grant, &Client::default(), &vocabulary(lines), now())
}

#[test]
fn requests_are_json_where_that_is_wanted_under_the_servers_names_and_a_parameter_may_be_said_several_times() {
    let json = |client: Client, names: &[(&str, &str)]| Client {
        form: RequestForm { format: BodyFormat::Json, names: pairs(names) },
        ..client
    };
    let refresh = Grant::RefreshToken(Secret::new("r\"1\\ö"));
    let twice = pairs(&[("resource", "https://a.example"), ("x", "1"), ("resource", "https://b.example")]);
    let table = [
        (
            json(public(), &[]),
            vec![],
            r#"{"grant_type":"refresh_token","refresh_token":"r\"1\\ö","client_id":"valetd"}"#,
        ),
        (
            json(
                client(Some("me"), ClientAuth::Post, Some("s")),
                &[("refresh_token", "refreshToken"), ("client_id", "clientId")],
            ),
            vec![],
            r#"{"grant_type":"refresh_token","refreshToken":"r\"1\\ö","clientId":"me","client_secret":"s"}"#,
        ),
        (
            json(public(), &[]),
            twice.clone(),
            r#"{"grant_type":"refresh_token","refresh_token":"r\"1\\ö","client_id":"valetd","resource":["https://a.example","https://b.example"],"x":"1"}"#,
        ),
    ];
    for (client, parameters, body) in table {
        let made = request(&refresh, &client, &[], &parameters).unwrap();
        assert_eq!((made.content_type, made.body.expose()), ("application/json", body));
    }
    let form = request(&Grant::ClientCredentials, &public(), &[], &twice).unwrap();
    let said = "grant_type=client_credentials&client_id=valetd&resource=https%3A%2F%2Fa.example&x=1\
                &resource=https%3A%2F%2Fb.example";
    assert_eq!(form.body.expose(), said);
}

#[test]
fn basic_is_sent_raw_where_servers_do_not_decode_it_and_a_secret_may_be_empty() {
    for (auth, secret, pair) in [
        (ClientAuth::BasicRaw, "s e/c+1", "my id:s e/c+1"),
        (ClientAuth::BasicRaw, "", "my id:"),
        (ClientAuth::Basic, "", "my+id:"),
    ] {
        let made = request(&Grant::ClientCredentials, &client(Some("my id"), auth, Some(secret)), &[], &[]).unwrap();
        let value = made.fields.iter().find(|(name, _)| name == "authorization").map(|(_, value)| value.expose());
        let encoded = value.unwrap().strip_prefix("Basic ").unwrap();
        assert_eq!(BASE64_STANDARD.decode(encoded).unwrap(), pair.as_bytes());
    }
    let posted = request(&Grant::ClientCredentials, &client(Some("me"), ClientAuth::Post, Some("")), &[], &[]).unwrap();
    assert!(posted.body.expose().ends_with("client_id=me&client_secret="), "{}", posted.body.expose());
}

#[test]
fn tokens_are_found_where_the_provider_has_them_and_nowhere_else() {
    let camel = "token_response = { access_token = \"accessToken\", refresh_token = \"refreshToken\", expires_in = \"expiresIn\" }";
    let nested = "token_response = { within = \"/data\" }";
    let either = "token_response = { within = [\"/authed_user\", \"\"] }";
    let deep = "token_response = { access_token = \"/result/0/token\", expires_in = \"/result/0/life\" }";
    let said = "token_response = { error = \"status\" }";
    let listed = r#"{"result":[{"token":"a","life":600}],"access_token":"other"}"#;
    type Row<'a> = (&'a str, &'a str, Option<(&'a str, Option<&'a str>, Option<u64>)>);
    let table: [Row<'_>; 18] = [
        (camel, r#"{"accessToken":"a","refreshToken":"n","expiresIn":60}"#, Some(("a", Some("n"), Some(60)))),
        (camel, "accessToken=a&refreshToken=n&expiresIn=60", Some(("a", Some("n"), Some(60)))),
        (camel, r#"{"access_token":"a","refresh_token":"n"}"#, None),
        (
            nested,
            r#"{"data":{"access_token":"a","refresh_token":"n","expires_in":60}}"#,
            Some(("a", Some("n"), Some(60))),
        ),
        (nested, r#"{"access_token":"a","refresh_token":"n"}"#, None),
        (either, r#"{"ok":true,"access_token":"bot","authed_user":{"access_token":"a"}}"#, Some(("a", None, None))),
        (either, r#"{"ok":true,"access_token":"bot","authed_user":{"id":"U"}}"#, Some(("bot", None, None))),
        // somebody else's refresh token beside the named place is not ours, nor a form's, which has no places
        (
            either,
            r#"{"access_token":"bot","refresh_token":"b","authed_user":{"access_token":"a","refresh_token":"u"}}"#,
            Some(("a", Some("u"), None)),
        ),
        (
            either,
            r#"{"access_token":"bot","refresh_token":"b","authed_user":{"access_token":"a"}}"#,
            Some(("a", None, None)),
        ),
        (nested, r#"{"refresh_token":"b","data":{"access_token":"a"}}"#, Some(("a", None, None))),
        (nested, "access_token=a&refresh_token=n", None),
        (either, "access_token=a&refresh_token=n", Some(("a", Some("n"), None))),
        // what stands where errors are may also say that there was none
        (said, r#"{"status":"ok","access_token":"a"}"#, Some(("a", None, None))),
        (said, r#"{"status":200,"access_token":"a"}"#, Some(("a", None, None))),
        (said, r#"{"status":"invalid_grant","access_token":"a"}"#, None),
        (deep, listed, Some(("a", None, Some(600)))),
        (deep, r#"{"result":[]}"#, None),
        ("", r#"{"data":{"access_token":"a"}}"#, None),
    ];
    for (lines, body, expected) in table {
        let found = read(lines, 200, body).ok().filter(|tokens| tokens.unusable.is_none()).map(|tokens| {
            let text = |token: Option<Secret>| token.map(|token| token.expose().to_owned());
            (text(tokens.access_token), text(tokens.refresh_token), tokens.lifetime)
        });
        let expected = expected.map(|(access, refresh, life)| {
            (Some(access.to_owned()), refresh.map(str::to_owned), life.map(Duration::from_secs))
        });
        assert_eq!(found, expected, "{lines}: {body}");
    }
    // a person is told where to look
    let refusal = read("", 200, r#"{"data":{"accessToken":"a"}}"#).map(|tokens| tokens.unusable);
    let said = refusal.map_or_else(|refusal| refusal.detail, Option::unwrap_or_default);
    assert!(said.contains("/data/accessToken") && said.contains("token_response"), "{said}");
}

#[test]
fn a_refusal_is_found_where_the_provider_has_it_and_a_new_refresh_token_is_never_lost_in_a_dialect() {
    let lines = "token_response = { within = \"/data\", error = \"/fault/code\", refresh_token = \"newToken\" }\n\
                 errors = { sign_in = [\"40101\"] }";
    let failure = |body: &str| read(lines, 200, body).err().map(|refusal| refusal.failure);
    assert_eq!(failure(r#"{"fault":{"code":40101}}"#), Some(REVOKED));
    assert_eq!(failure(r#"{"fault":{"code":"40101"}}"#), Some(REVOKED));
    assert_eq!(failure(r#"{"fault":{"code":50000}}"#), Some(TRANSIENT));
    // not understood, and yet what may have replaced the old one is kept
    for body in [
        r#"{"data":{"access_token":5,"newToken":"n"}}"#,
        r#"{"data":{"newToken":"n"}}"#,
        r#"{"data":{"access_token":"a","token_type":"DPoP","newToken":"n"}}"#,
        r#"{"newToken":"other","data":{"newToken":"n"}}"#,
        r#"{"data":{"newToken":"n"},"newToken":"other"}"#,
    ] {
        let tokens = read(lines, 200, body).unwrap_or_else(|refusal| panic!("{body}: {refusal:?}"));
        assert_eq!(tokens.refresh_token.as_ref().map(Secret::expose), Some("n"), "{body}");
    }
}
