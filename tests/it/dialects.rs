//! A provider that speaks another dialect than RFC 6749's is a few lines of data, and loses no login.

use std::fs;
use std::io::{BufReader, Read, Write};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use valetd::stand_in::{Options, Provider, Rotation};

use crate::support::providers::{gdh_account, start};
use crate::support::upstreams::{mirror, read_head, serving};
use crate::support::{Home, eventually, free_address, get, words};

/// Heads and bodies of requests.
type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// A strict server that rotates: JSON both ways, names of its own, tokens below `data`. Each refresh token is good once.
/// Returns its address and what it was asked.
fn odd_server() -> (String, Asked) {
    let asked: Asked = Arc::default();
    let seen = asked.clone();
    let address = serving(move |mut stream| {
        let mut reader = BufReader::new(&stream);
        let head = read_head(&mut reader)?.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let mut body = vec![0; length.and_then(|length| length.parse().ok()).unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut asked = seen.lock().expect("no panic");
        let number = asked.len();
        let is_good = body["refreshToken"] == format!("refresh-{number}") && head.contains("\r\nx-api-version: 2\r\n");
        let answer = match is_good {
            true => {
                json!({"data": {"accessToken": format!("access-{number}"), "refreshToken": format!("refresh-{}", number + 1),
                "expiresIn": 3600}})
            }
            false => json!({"fault": {"code": 40_101, "text": "that token was used"}}),
        };
        if is_good {
            asked.push((head, body));
        }
        let text = answer.to_string();
        stream.write_all(
            format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}",
                text.len()
            )
            .as_bytes(),
        )
    });
    (address, asked)
}

#[test]
fn a_provider_with_json_requests_and_names_of_its_own_is_data_and_its_refusals_are_understood() {
    let (server, asked) = odd_server();
    let address = free_address();
    let home = Home::with(&format!(
        "listen = [\"{address}\"]\n[account.odd]\ntoken_endpoint = \"http://{server}/token\"\nclient_id = \"me\"\n\
         upstream = \"http://{}\"\nparameters = {{ audience = [\"a\", \"b\"] }}\n\
         token_request = {{ format = \"json\", names = {{ refresh_token = \"refreshToken\" }}, headers = {{ x-api-version = \"2\" }} }}\n\
         token_response = {{ within = \"/data\", access_token = \"accessToken\", refresh_token = \"refreshToken\", \
         expires_in = \"expiresIn\", error = \"/fault/code\", error_description = \"/fault/text\" }}\n\
         errors = {{ sign_in = [\"40101\"] }}\n",
        mirror()
    ));
    let checked = home.run(&["check"]);
    assert!(checked.status.success(), "{}", words(&checked));
    // tried before it is believed
    let signed_in = home.run_with_input(&["login", "odd", "--refresh-token-stdin"], "refresh-0");
    assert!(signed_in.status.success(), "{}", words(&signed_in));
    let daemon = home.start();
    daemon.until("odd", "usable");
    let head = get(&address, "/odd/x").expect("an answer").text();
    assert!(head.to_ascii_lowercase().contains("authorization: bearer access-1\r\n"), "{head}");
    assert!(home.run(&["refresh", "odd"]).status.success(), "{}", daemon.log());
    let requests = asked.lock().expect("no panic").clone();
    assert_eq!(requests.len(), 3, "one at the sign-in, one at the start, one by hand");
    for (number, (head, body)) in requests.iter().enumerate() {
        assert!(head.contains("\r\ncontent-type: application/json\r\n"), "{head}");
        let expected = json!({"grant_type": "refresh_token", "refreshToken": format!("refresh-{number}"), "client_id": "me",
            "audience": ["a", "b"]});
        assert_eq!(*body, expected);
    }
    // what it says of a token that is gone is a verdict, and what is stored stays
    let refused = home.run_with_input(&["login", "odd", "--refresh-token-stdin"], "refresh-0");
    assert!(!refused.status.success() && !words(&refused).contains("refresh-0"), "{}", words(&refused));
    eventually("the login that there was is still good", || {
        home.run(&["refresh", "odd"]).status.success().then_some(())
    });
}

#[test]
fn a_dialect_that_makes_no_sense_is_refused_with_each_place() {
    let home = Home::with(
        "[account.odd]\ntoken_endpoint = \"https://auth.example/token\"\n\
         token_request = { format = \"xml\", names = { refresh = \"x\" }, headers = { content-type = \"x\", host = \"y\" } }\n\
         token_response = { access_token = \"\", within = \"/a~2\", scope = \"x\" }\nparameters = { x = [1] }\n",
    );
    let checked = home.run(&["check"]);
    assert!(!checked.status.success());
    let said = words(&checked);
    for place in [
        "token_request.format",
        "token_request.names.refresh",
        "token_request.headers.content-type",
        "token_request.headers.host",
        "token_response.access_token",
        "token_response.within",
        "token_response.scope",
        "parameters.x",
    ] {
        assert!(said.contains(place), "{place}: {said}");
    }
}

#[test]
fn a_pool_that_rotates_is_found_out_and_asked_in_its_way_from_then_on() {
    let rotating =
        Options { access_lifetime: Duration::from_secs(3), rotation: Rotation::Strict, ..Options::default() };
    let gdh = start(Provider::Gdh, rotating);
    let operations = || -> Vec<String> {
        let calls = gdh.log().token_calls;
        calls
            .into_iter()
            .map(|call| format!("{} {}", call.grant, call.outcome))
            .filter(|said| !said.starts_with("revoke"))
            .collect()
    };
    let address = free_address();
    let home = Home::with(&format!("listen = [\"{address}\"]\n{}", gdh_account(&gdh)));
    // without a daemon, and with one: each finds it out with the first refresh token that it has to try
    let login = ["login", "gdh", "--refresh-token-stdin"];
    let output = home.run_with_input(&login, gdh.sign_in().expose());
    assert!(output.status.success(), "{}", words(&output));
    assert_eq!(operations(), ["InitiateAuth NotAuthorizedException", "GetTokensFromRefreshToken issued"]);
    let kept = || fs::read_to_string(home.path("state/valetd/gdh.json")).expect("saved");
    assert!(kept().contains("\"rotates\": true"), "{}", kept());
    let daemon = home.start();
    daemon.until("gdh", "usable");
    eventually("it goes on", || (operations().len() >= 5).then_some(()));
    assert_eq!(get(&address, "/gdh/ping").expect("an answer").status, 200);
    assert!(operations()[1..].iter().all(|said| said == "GetTokensFromRefreshToken issued"), "{:?}", operations());
    assert_eq!(gdh.log().reuse_detected, 0);
    assert!(home.run(&["logout", "gdh"]).status.success());
    let output = home.run_with_input(&login, gdh.sign_in().expose());
    assert!(output.status.success(), "{}", words(&output));
    // and where rotation is switched on while it runs
    gdh.change(|options| options.rotation = Rotation::Off);
    assert!(home.run(&["logout", "gdh"]).status.success());
    drop(daemon);
    let daemon = home.start();
    let output = home.run_with_input(&login, gdh.sign_in().expose());
    assert!(output.status.success(), "{}", words(&output));
    assert_eq!(operations().last().map(String::as_str), Some("InitiateAuth issued"));
    gdh.change(|options| options.rotation = Rotation::Strict);
    let before = operations().len();
    eventually("it is found out", || {
        let since = operations().split_off(before);
        since.iter().any(|said| said == "GetTokensFromRefreshToken issued").then_some(())
    });
    eventually("it is usable again", || (daemon.account("gdh")["usable"] == true).then_some(()));
    assert!(kept().contains("\"rotates\": true"), "{}", kept());
}

#[test]
fn an_id_token_is_used_for_its_own_life_whatever_is_said_of_the_access_token() {
    const LIFE: u64 = 4;
    let wall = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let server = serving(move |mut stream| {
        let head = read_head(&mut BufReader::new(&stream))?;
        let claims = json!({"iat": wall(), "exp": wall() + LIFE, "sub": "ada"}).to_string();
        let id_token = format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims));
        let body = json!({"access_token": "opaque", "id_token": id_token, "expires_in": 86_400}).to_string();
        assert!(head.starts_with("POST "), "{head}");
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
    });
    let address = free_address();
    let home = Home::with(&format!(
        "listen = [\"{address}\"]\n[account.id]\ntoken_endpoint = \"http://{server}/token\"\nclient_id = \"me\"\n\
         header = \"Authorization: {{id_token}}\"\nupstream = \"http://{}\"\nrenew = {{ minimum_spacing = \"10ms\" }}\n",
        mirror()
    ));
    let signed_in = home.run_with_input(&["login", "id", "--refresh-token-stdin"], "refresh-0");
    assert!(signed_in.status.success(), "{}", words(&signed_in));
    let daemon = home.start();
    daemon.until("id", "usable");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2 * LIFE) {
        let head = get(&address, "/id/x").expect("an answer").text();
        let token =
            head.lines().find_map(|line| line.strip_prefix("authorization: ").or(line.strip_prefix("Authorization: ")));
        let claims = token.and_then(|token| token.split('.').nth(1)).expect("a JWT");
        let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).expect("base64url");
        let claims: Value = serde_json::from_slice(&claims).expect("claims");
        assert!(claims["exp"].as_u64() >= Some(wall()), "it had ended: {claims}");
        sleep(Duration::from_millis(100)); // requests all along
    }
}
