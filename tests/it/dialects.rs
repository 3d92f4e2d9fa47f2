//! A provider that speaks another dialect than RFC 6749's is a few lines of data, and loses no login.

use std::io::{BufReader, Read, Write};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

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
