//! An issuer is all that an account says of its server.

use serde_json::{Value, json};
use valetd::stand_in::{Behaviour, Options, Provider};

use crate::support::documents::Documents;
use crate::support::lab::{self, Server};
use crate::support::upstreams::Witness;
use crate::support::{Home, eventually, words};

const PLACE: &str = "/.well-known/oauth-authorization-server";

#[test]
fn an_issuer_is_found_kept_and_used_while_it_is_away() {
    let (server, issuer) = (Server::start(Provider::Gdh, Options::default()), Documents::start());
    let home = Home::with(&config(&issuer, &server, ""));
    // nothing is known, and nobody can sign in
    let refused = login(&home, &server);
    assert!(!refused.status.success() && words(&refused).contains("answered 404"), "{}", words(&refused));
    // the second of its places has it
    issuer.put("/.well-known/openid-configuration", metadata(&issuer, &server.token_endpoint()));
    let output = login(&home, &server);
    assert!(output.status.success(), "{}", words(&output));
    issuer.put_with("/.well-known/openid-configuration", 503, "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    assert_eq!(lab::ping(&lab::address(&daemon)).status, 200);
    // a sign-in while the issuer is away goes by what is known, and says so
    let output = login(&home, &server);
    assert!(output.status.success() && words(&output).contains("going by what is known"), "{}", words(&output));
    let asked = issuer.asked();
    assert!(asked.iter().all(|(line, body)| line.starts_with("GET ") && body.is_empty()), "no secret: {asked:?}");
}

#[test]
fn metadata_are_asked_for_once_a_day_and_not_sent_again_where_they_have_not_changed() {
    let (server, issuer) = (Server::start(Provider::Gdh, Options::default()), Documents::start());
    let home = Home::with(&config(&issuer, &server, ""));
    let document = metadata(&issuer, &server.token_endpoint());
    issuer.put_with(PLACE, 200, "ETag: \"one\"\r\nCache-Control: max-age=7200\r\n", &document);
    assert!(login(&home, &server).status.success());
    let file = home.path("state/valetd/lab.metadata.json");
    let kept = || -> Value { serde_json::from_slice(&std::fs::read(&file).expect("it is kept")).expect("JSON") };
    assert_eq!(kept()["fresh_for"], 7200);
    let mut old = kept();
    old["fetched_at"] = json!(1_000_000_000);
    std::fs::write(&file, old.to_string()).expect("written");
    let before = issuer.asked().len();
    let daemon = home.start();
    daemon.until("lab", "usable");
    eventually("it is known to be as it was", || (kept()["fetched_at"] != 1_000_000_000).then_some(()));
    let asked: Vec<String> = issuer.asked().into_iter().skip(before).map(|(line, _)| line).collect();
    assert_eq!(asked, [format!("GET {PLACE} unless \"one\"")]);
    assert_eq!(kept()["metadata"], old["metadata"]);
}

#[test]
fn a_daemon_that_knows_nothing_of_an_issuer_starts_and_finds_it_later() {
    let (server, issuer) = (Server::start(Provider::Gdh, Options::default()), Documents::start());
    let home = Home::with(&config(&issuer, &server, ""));
    let daemon = home.start();
    daemon.until("lab", "sign-in-required");
    daemon.until_logged("the issuer's metadata cannot be had");
    issuer.put(PLACE, metadata(&issuer, &server.token_endpoint()));
    // whoever signs in tells the daemon at once, whenever it would have looked again
    let output = login(&home, &server);
    assert!(output.status.success(), "{}", words(&output));
    daemon.until("lab", "usable");
}

#[test]
fn metadata_of_another_issuer_and_endpoints_that_may_not_be_are_refused_in_words() {
    let (server, issuer) = (Server::start(Provider::Gdh, Options::default()), Documents::start());
    let home = Home::with(&config(&issuer, &server, ""));
    let token = server.token_endpoint();
    let rows = [
        (
            json!({"issuer": "https://login.example", "token_endpoint": token}),
            "names the issuer \"https://login.example\"",
        ),
        (json!({"issuer": "https://login.example/{tenantid}/v2.0", "token_endpoint": token}), "your own tenant"),
        (json!({"issuer": issuer.url()}), "names no token_endpoint"),
        (json!({"issuer": issuer.url(), "token_endpoint": "http://auth.example/t"}), "is plain http"),
        (json!({"issuer": issuer.url(), "token_endpoint": 7}), "another type"),
        (json!("text"), "is no JSON object"),
    ];
    for (document, expected) in rows {
        issuer.put(PLACE, &document);
        let output = login(&home, &server);
        assert_eq!(output.status.code(), Some(1), "{document}");
        assert!(words(&output).contains(expected), "{document}: {}", words(&output));
    }
    // no redirect is followed
    let elsewhere = Witness::start();
    issuer.put_with(PLACE, 302, &format!("Location: {}/x\r\n", elsewhere.url), "");
    assert!(words(&login(&home, &server)).contains("answered 302"));
    assert_eq!(elsewhere.seen(), "");
    assert!(!home.path("state/valetd/lab.metadata.json").exists() && !home.path("state/valetd/lab.json").exists());
}

#[test]
fn a_refresh_token_does_not_follow_its_issuer_to_another_host_until_somebody_signs_in() {
    let (server, issuer) = (Server::start(Provider::Gdh, Options::default()), Documents::start());
    let home = Home::with(&config(&issuer, &server, lab::EAGER));
    issuer.put(PLACE, metadata(&issuer, &server.token_endpoint()));
    assert!(login(&home, &server).status.success());
    let elsewhere = Witness::start();
    issuer.put(PLACE, metadata(&issuer, &format!("{}/token", elsewhere.url)));
    age(&home);
    let daemon = home.start();
    daemon.until_logged("names another server for refresh tokens now");
    daemon.until("lab", "usable");
    lab::renew(&daemon);
    assert_eq!(elsewhere.seen(), "", "nothing was sent there");
    // a sign-in that comes to nothing leaves what is stored as good as it was
    let output = home.run_with_input(&["login", "lab", "--refresh-token-stdin"], "not-a-token");
    assert!(!output.status.success(), "{}", words(&output));
    lab::renew(&daemon);
    daemon.until("lab", "usable");
    // and one that succeeds follows
    let other = Server::start(Provider::Gdh, Options::default());
    issuer.put(PLACE, metadata(&issuer, &other.token_endpoint()));
    let output = login(&home, &other);
    assert!(output.status.success(), "{}", words(&output));
    eventually("it renews there", || (other.issued() > 0).then_some(()));
}

#[test]
fn a_sign_in_that_is_kept_is_renewed_at_its_own_server_though_its_first_renewal_fails() {
    let (server, issuer) = (Server::start(Provider::Gdh, Options::default()), Documents::start());
    let home = Home::with(&config(&issuer, &server, ""));
    issuer.put(PLACE, metadata(&issuer, &server.token_endpoint()));
    assert!(login(&home, &server).status.success());
    let daemon = home.start();
    daemon.until("lab", "usable");
    let other = Server::start(Provider::Gdh, Options::default());
    issuer.put(PLACE, metadata(&issuer, &other.token_endpoint()));
    other.behave(Behaviour::Status(503, String::new(), Vec::new()), Some(1));
    let output = login(&home, &other);
    assert!(!output.status.success(), "{}", words(&output));
    assert!(words(&output).contains("signed in, and the credential is saved"), "{}", words(&output));
    daemon.until("lab", "usable");
    assert!(other.issued() > 0);
}

#[test]
fn an_endpoint_that_moves_on_the_same_host_is_followed_within_a_day() {
    let (server, issuer) = (Server::start(Provider::Gdh, Options::default()), Documents::start());
    let home = Home::with(&config(&issuer, &server, lab::EAGER));
    issuer.put(PLACE, metadata(&issuer, &format!("{}/earlier", server.url())));
    assert!(login(&home, &server).status.success());
    issuer.put(PLACE, metadata(&issuer, &server.token_endpoint()));
    age(&home);
    let daemon = home.start();
    daemon.until("lab", "usable");
    assert_eq!(server.issued(), 1);
}

// --- the stage -------------------------------------------------------------------------------------------------------

fn config(issuer: &Documents, server: &Server, more: &str) -> String {
    format!(
        "listen = [\"127.0.0.1:0\"]\n[account.lab]\nissuer = \"{}\"\nclient_id = \"lab\"\nupstream = \"{}\"\n\
         header = \"Authorization: {{id_token}}\"\n{more}\n",
        issuer.url(),
        server.url()
    )
}

fn metadata(issuer: &Documents, token_endpoint: &str) -> Value {
    json!({"issuer": issuer.url(), "token_endpoint": token_endpoint, "scopes_supported": ["openid"]})
}

fn login(home: &Home, server: &Server) -> std::process::Output {
    let token = server.sign_in();
    home.run_with_input(&["login", "lab", "--refresh-token-stdin", "--untried"], token.expose())
}

/// What is kept was fetched two days ago.
fn age(home: &Home) {
    let file = home.path("state/valetd/lab.metadata.json");
    let mut kept: Value = serde_json::from_slice(&std::fs::read(&file).expect("it is kept")).expect("JSON");
    kept["fetched_at"] = json!(kept["fetched_at"].as_u64().expect("seconds") - 2 * 86_400);
    std::fs::write(&file, kept.to_string()).expect("written");
}
