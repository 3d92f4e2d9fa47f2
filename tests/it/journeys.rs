//! From nothing to a proxied request, in every way that a person or a script signs in.

use std::time::{Duration, Instant};

use valetd::stand_in::{Options, PASSWORD, Provider, USERNAME};

use crate::support::providers::{config, gbdx_account, gdh_account, start};
use crate::support::{Home, eventually, free_address, get, mode, send, words};

fn lives(seconds: u64) -> Options {
    Options { access_lifetime: Duration::from_secs(seconds), ..Options::default() }
}

#[test]
fn the_demonstration_runs_the_main_job_and_ends_well() {
    let home = Home::empty();
    let output = home.run(&["demo", "--once"]);
    let words = words(&output);
    assert!(output.status.success(), "{words}");
    for part in [
        "/gdh/datasets\n200 ",
        "/gbdx/auth/v1/validate_token\n200 ",
        "2 renewals so far",
        "An outage: ",
        "answered 503",
    ] {
        assert!(words.contains(part), "no {part:?} in:\n{words}");
    }
}

#[test]
fn without_a_configuration_the_daemon_says_how_to_begin() {
    let home = Home::with("listen = [\"unix:/nowhere/not/used\"]\n");
    let address = free_address();
    home.write_config(&format!("listen = [\"{address}\"]\n"));
    let daemon = home.start();
    let answer = get(&address, "/gbdx/anything").expect("an answer");
    assert_eq!(answer.status, 404);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert!(answer.text().contains("valetd login"), "{}", answer.text());
    assert_eq!(daemon.status()["accounts"].as_array().map(Vec::len), Some(0));
    let status = home.run(&["status"]);
    assert!(words(&status).contains("valetd login cdse"), "{}", words(&status));
}

#[test]
fn an_account_without_a_sign_in_answers_503_with_the_command_to_run() {
    let (gdh, gbdx) = (start(Provider::Gdh, lives(60)), start(Provider::Gbdx, lives(60)));
    let address = free_address();
    let home = Home::with(&config(&address, &gdh, &gbdx));
    let daemon = home.start();
    let answer = get(&address, "/gdh/datasets").expect("an answer");
    assert_eq!(answer.status, 503);
    let problem = answer.json();
    assert!(problem["type"].as_str().is_some_and(|kind| kind.ends_with("sign-in-required")), "{problem:#}");
    assert!(answer.text().contains("valetd login gdh"), "{problem:#}");
    assert!(answer.header("proxy-status").is_some_and(|status| status.starts_with("valetd; error=")));
    assert_eq!(home.run(&["status"]).status.code(), Some(3));
    assert_eq!(gdh.log().api_calls.len() + gdh.log().token_calls.len(), 0);
    drop(daemon);
    assert_eq!(home.run(&["status"]).status.code(), Some(1));
}

#[test]
fn signing_in_with_a_code_and_a_password_while_the_daemon_runs() {
    let (gdh, gbdx) = (start(Provider::Gdh, lives(60)), start(Provider::Gbdx, lives(60)));
    let address = free_address();
    let home = Home::with(&config(&address, &gdh, &gbdx));
    let daemon = home.start();
    let pasted = format!("https://www.geodatahub.dk/validate-code.html?code={}", gdh.mint_code());
    let output = home.run(&["login", "gdh", "--code", &pasted]);
    assert!(output.status.success(), "{}", words(&output));
    let output = home.run_with_input(&["login", "gbdx", "--username", USERNAME, "--password-stdin"], PASSWORD);
    assert!(output.status.success(), "{}", words(&output));
    for path in ["/gdh/datasets", "/gbdx/auth/v1/validate_token", "/gbdx-vector/auth/v1/validate_token"] {
        let answer = get(&address, path).expect("an answer");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    // by host name, and with a wrong credential of the client's own
    let host = format!("gbdx.localhost:{}", address.rsplit(':').next().expect("a port"));
    let headers = [("Host", host.as_str()), ("Authorization", "Bearer wrong"), ("Connection", "authorization")];
    assert_eq!(send(&address, "GET", "/auth/v1/validate_token", &headers, b"").expect("an answer").status, 200);
    // the token service itself is not to be had through the proxy
    assert_eq!(send(&address, "POST", "/gbdx/auth/v1/oauth/token/", &[], b"x").expect("an answer").status, 403);
    assert_eq!((gdh.log().refused(), gbdx.log().refused()), (0, 0));
    assert_eq!(home.run(&["status"]).status.code(), Some(0));
    assert_eq!(mode(&home.path("state/valetd")), 0o700);
    assert_eq!(mode(&home.path("state/valetd/gbdx.json")), 0o600);
    let stored = std::fs::read_to_string(home.path("state/valetd/gbdx.json")).expect("stored");
    assert!(!stored.contains(PASSWORD), "the password is kept only where the account says so");

    // out again: revoked at the server, forgotten here
    let output = home.run(&["logout", "gdh"]);
    assert!(output.status.success() && words(&output).contains("revoked"), "{}", words(&output));
    assert_eq!(get(&address, "/gdh/datasets").expect("an answer").status, 503);
    assert!(!home.path("state/valetd/gdh.json").exists());
    drop(daemon);
}

#[test]
fn signing_in_without_a_daemon_is_found_by_the_next_one() {
    let (gdh, gbdx) = (start(Provider::Gdh, lives(60)), start(Provider::Gbdx, lives(60)));
    let address = free_address();
    let home = Home::with(&config(&address, &gdh, &gbdx));
    home.sign_in("gbdx", &gbdx.sign_in());
    std::fs::create_dir_all(home.path(".gdh")).expect("a folder");
    let left = format!("{{\"refresh_token\": \"{}\"}}", gdh.sign_in().expose());
    std::fs::write(home.path(".gdh/authentication"), left).expect("written");
    let output = home.run(&["login", "gdh", "--import"]);
    assert!(output.status.success(), "{}", words(&output));
    let daemon = home.start();
    daemon.until("gdh", "usable");
    daemon.until("gbdx", "usable");
    assert_eq!(get(&address, "/gdh/ping").expect("an answer").status, 200);
    assert_eq!(get(&address, "/gbdx/auth/v1/validate_token").expect("an answer").status, 200);
}

#[test]
fn across_ten_renewals_no_request_fails_and_the_upstream_never_answers_401() {
    // good for two seconds longer than they are handed out: a busy machine may hold up a request
    let (gdh, gbdx) = (start(Provider::Gdh, lives(20)), start(Provider::Gbdx, lives(20)));
    let address = free_address();
    let mut text = config(&address, &gdh, &gbdx);
    // ten renewals in seconds: an early one is asked for as soon as the minimum spacing allows
    text = text.replace("provider = \"gdh\"", "provider = \"gdh\"\nrenew = { minimum_spacing = \"500ms\" }");
    let home = Home::with(&text);
    home.sign_in("gdh", &gdh.sign_in());
    home.sign_in("gbdx", &gbdx.sign_in());
    let daemon = home.start();
    daemon.until("gdh", "usable");
    daemon.until("gbdx", "usable");
    let end = Instant::now() + Duration::from_secs(60);
    let mut requests = 0;
    while daemon.account("gdh")["renewals"].as_u64() < Some(10) {
        assert!(Instant::now() < end, "ten renewals take too long");
        assert!(daemon.control("POST", "/v1/accounts/gdh/refresh").is_ok_and(|answer| answer.status < 300));
        for path in ["/gdh/datasets?q=%7B%22a%22%3A+%22b%22%7D", "/gbdx/auth/v1/validate_token"] {
            let answer = get(&address, path).expect("an answer");
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            requests += 1;
        }
        std::thread::sleep(Duration::from_millis(100)); // the pace of a tool
    }
    assert!(requests >= 20);
    assert_eq!((gdh.log().refused(), gbdx.log().refused()), (0, 0));
}

#[test]
fn a_new_configuration_is_taken_over_and_a_bad_one_is_reported_whole() {
    let (gdh, gbdx) = (start(Provider::Gdh, lives(60)), start(Provider::Gbdx, lives(60)));
    let address = free_address();
    let first = format!("listen = [\"{address}\"]\n{}", gbdx_account(&gbdx));
    let home = Home::with(&first);
    home.sign_in("gbdx", &gbdx.sign_in());
    let daemon = home.start();
    daemon.until("gbdx", "usable");
    let calls = gbdx.log().token_calls.len();

    home.write_config(&format!("{first}{}", gdh_account(&gdh)));
    eventually("the new account is there", || {
        daemon.status()["accounts"].as_array().filter(|accounts| accounts.len() == 2).map(|_| ())
    });
    assert_eq!(get(&address, "/gbdx/auth/v1/validate_token").expect("an answer").status, 200);
    assert_eq!(gbdx.log().token_calls.len(), calls, "the token in hand is kept");

    home.write_config(&format!("{first}[account.gdh]\nprovider = \"ghd\"\nupstraem = \"x\"\n"));
    let problems = eventually("the problems are reported", || {
        let status = daemon.status();
        let problems = status["daemon"]["config_problems"].as_array().cloned().unwrap_or_default();
        Some(problems).filter(|problems| problems.len() >= 2)
    });
    let text = format!("{problems:?}");
    assert!(text.contains("did you mean") && text.contains("upstraem"), "{text}");
    assert_eq!(daemon.status()["accounts"].as_array().map(Vec::len), Some(2), "the last good one stays in force");
    assert_eq!(get(&address, "/gbdx/auth/v1/validate_token").expect("an answer").status, 200);
    let check = home.run(&["check"]);
    assert_eq!(check.status.code(), Some(1));
    assert!(words(&check).contains("upstraem"), "{}", words(&check));
    assert_eq!(home.run(&["reload"]).status.code(), Some(1));

    home.write_config(&first);
    eventually("all is well again", || {
        let status = daemon.status();
        status["daemon"]["config_problems"].as_array().filter(|problems| problems.is_empty()).map(|_| ())
    });
    assert_eq!(home.run(&["reload"]).status.code(), Some(0));
}
