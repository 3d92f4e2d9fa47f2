//! Accounts whose tokens somebody else issues: a program prints them, or a file holds them; and Earthdata Login's, which come
//! for user name and password and are kept for weeks.

use std::fs;
use std::io::{BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::support::upstreams::{mirror, read_head, serving};
use crate::support::{Home, eventually, free_address, get, words};

/// An API that takes the tokens in the list and shows the head of what it was asked; everything else is 401.
fn api(good: Arc<Mutex<Vec<String>>>) -> String {
    serving(move |mut stream| {
        let head = read_head(&mut BufReader::new(&stream))?;
        let good = good.lock().expect("no panic");
        let is_good = good.iter().any(|token| head.to_ascii_lowercase().contains(&format!("bearer {token}\r\n")));
        let status = if is_good { "200 OK" } else { "401 Unauthorized" };
        let length = head.len();
        stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{head}").as_bytes())
    })
}

fn script(home: &Home, name: &str, text: &str) -> String {
    let path = home.path(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("a mode");
    path.display().to_string()
}

#[test]
fn a_program_is_asked_for_a_token_before_the_last_one_ends_and_when_it_is_refused() {
    let good = Arc::new(Mutex::new(vec!["t-1".to_owned(), "t-2".to_owned(), "t-3".to_owned()]));
    let (upstream, address) = (api(good.clone()), free_address());
    let home = Home::empty();
    let count = home.path("count");
    let program = script(
        &home,
        "print-token",
        &format!(
            "n=$(($(cat {count} 2>/dev/null || echo 0) + 1)); echo $n > {count}\n\
             end=$(date -u -d '+4 seconds' +%Y-%m-%dT%H:%M:%SZ)\n\
             echo '{{\"kind\": \"ExecCredential\",'; echo '\"status\": {{\"token\": \"t-'$n'\", \"expirationTimestamp\": \"'$end'\"}}}}'",
            count = count.display()
        ),
    );
    home.write_config(&format!(
        "listen = [\"{address}\"]\n[account.cloud]\ngrant = \"command\"\ntoken = {{ command = [\"{program}\"] }}\n\
         upstream = \"http://{upstream}\"\nrenew = {{ minimum_spacing = \"10ms\" }}\n"
    ));
    let checked = home.run(&["check"]);
    assert!(checked.status.success(), "{}", words(&checked));
    let daemon = home.start();
    daemon.until("cloud", "usable");
    let token = || {
        let answer = get(&address, "/cloud/x").expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text().to_ascii_lowercase().split("bearer t-").nth(1).expect("a token")[..1].to_owned()
    };
    assert_eq!(token(), "1");
    eventually("the next one comes in time", || (token() == "2").then_some(()));
    good.lock().expect("no panic").retain(|token| token == "t-3");
    assert_eq!(token(), "3", "a 401 asks for another at once");
    let login = home.run(&["login", "cloud"]);
    assert!(!login.status.success() && words(&login).contains("needs no sign-in"), "{}", words(&login));
    assert!(words(&login).contains("refresh cloud"), "{}", words(&login));
}

#[test]
fn a_program_that_fails_is_asked_again_and_one_that_wants_a_person_says_so() {
    let good = Arc::new(Mutex::new(vec!["good".to_owned()]));
    let (upstream, address) = (api(good), free_address());
    let home = Home::empty();
    let said = home.path("said");
    let program = script(&home, "print-token", &format!("cat {0} && exit $(cat {0}.exit)", said.display()));
    let says = |text: &str, exit: i32| {
        fs::write(&said, text).expect("written");
        fs::write(said.with_extension("exit"), exit.to_string()).expect("written");
    };
    says("canary-of-a-program", 1);
    home.write_config(&format!(
        "listen = [\"{address}\"]\n[account.cloud]\ngrant = \"command\"\ntoken = {{ command = [\"{program}\"] }}\n\
         upstream = \"http://{upstream}\"\nrenew = {{ minimum_spacing = \"10ms\" }}\n[route.cloud]\nwait = \"100ms\"\n"
    ));
    let daemon = home.start();
    let failed = || daemon.account("cloud")["last_failure"]["detail"].as_str().map(str::to_owned);
    let message = eventually("it has failed", failed);
    assert!(message.contains("print-token") && message.contains("exit status: 1"), "{message}");
    assert_eq!(get(&address, "/cloud/x").expect("an answer").status, 503);
    for (text, part) in [("two words", "more than a token"), ("{}", "without a token"), ("", "holds nothing")] {
        says(text, 0);
        let _ = home.run(&["refresh", "cloud"]);
        let said = |message: String| message.contains(part).then_some(());
        eventually(part, || failed().and_then(said));
    }
    says("canary-of-a-program", 77);
    let _ = home.run(&["refresh", "cloud"]);
    eventually("it is told", || failed().filter(|message| message.contains("it needs a person")));
    says("good\n", 0);
    let refreshed = home.run(&["refresh", "cloud"]);
    assert!(refreshed.status.success(), "{}", words(&refreshed));
    assert_eq!(get(&address, "/cloud/x").expect("an answer").status, 200);
    let status = words(&home.run(&["status", "--json"]));
    assert!(!status.contains("canary-of-a-program") && !daemon.log().contains("canary-of-a-program"), "{status}");
}

#[test]
fn a_key_in_a_file_is_read_again_when_it_is_refused_and_goes_in_the_field_that_the_account_names() {
    let (upstream, address) = (mirror(), free_address());
    let home = Home::empty();
    let key = home.path("key");
    fs::write(&key, "PL-key-1\n").expect("written");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("a mode");
    home.write_config(&format!(
        "listen = [\"{address}\"]\n[account.planet]\ngrant = \"static\"\ntoken = {{ file = \"{}\" }}\n\
         header = \"Authorization: api-key {{access_token}}\"\nupstream = \"http://{upstream}\"\n",
        key.display()
    ));
    let daemon = home.start();
    daemon.until("planet", "usable");
    let sent = || get(&address, "/planet/x").expect("an answer").text();
    assert!(sent().contains("api-key PL-key-1\r\n"), "{}", sent());
    fs::write(&key, "PL-key-2\n").expect("written");
    assert!(home.run(&["refresh", "planet"]).status.success());
    assert!(sent().contains("api-key PL-key-2\r\n"), "{}", sent());
    let status = words(&home.run(&["status", "--json"]));
    assert!(!status.contains("PL-key") && !daemon.log().contains("PL-key"), "{status}");
}

#[test]
fn what_cannot_bring_a_token_is_refused_with_each_place() {
    let home = Home::with(
        "[account.a]\ngrant = \"command\"\nupstream = \"https://api.example\"\n\
         [account.b]\ngrant = \"static\"\ntoken = { command = [\"x\"] }\nupstream = \"https://api.example\"\n\
         [account.c]\ngrant = \"command\"\ntoken = { file = \"/x\" }\nupstream = \"https://api.example\"\n\
         [account.d]\nprovider = \"gbdx\"\ntoken = { file = \"/x\" }\n",
    );
    let checked = home.run(&["check"]);
    for part in [
        "account.a.token: is missing",
        "account.b.token: is not what the grant is for",
        "account.c.token: is not what the grant is for",
        "account.d.token: is not used by this grant",
    ] {
        assert!(words(&checked).contains(part), "{part}: {}", words(&checked));
    }
    assert!(!words(&checked).contains("token_endpoint: is missing"), "{}", words(&checked));
}

#[test]
fn earthdatas_token_comes_for_user_name_and_password_and_a_wrong_one_is_sent_once() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    // ada:secret
    let server = serving(move |mut stream| {
        let head = read_head(&mut BufReader::new(&stream))?;
        counted.fetch_add(1, Ordering::SeqCst);
        let is_good = head.starts_with("POST /api/users/find_or_create_token ")
            && head.to_ascii_lowercase().contains("authorization: basic ywrhonnly3jlda==\r\n");
        let (status, body) = match is_good {
            true => ("200 OK", r#"{"access_token":"EDL-t","token_type":"Bearer","expiration_date":"12/31/2099"}"#),
            false => ("401 Unauthorized", r#"{"error":"invalid_credentials"}"#),
        };
        stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
    });
    let (upstream, address) = (mirror(), free_address());
    let home = Home::with(&format!(
        "listen = [\"{address}\"]\n[account.nasa]\ngrant = \"earthdata\"\n\
         token_endpoint = \"http://{server}/api/users/find_or_create_token\"\nkeep_password = true\n\
         upstream = \"http://{upstream}\"\n"
    ));
    let daemon = home.start();
    let login =
        |password: &str| home.run_with_input(&["login", "nasa", "--username", "ada", "--password-stdin"], password);
    let wrong = login("wrong");
    assert!(!wrong.status.success() && words(&wrong).contains("wrong user name or password"), "{}", words(&wrong));
    assert_eq!(asked.load(Ordering::SeqCst), 1, "a second one could lock the account");
    let good = login("secret");
    assert!(good.status.success(), "{}", words(&good));
    daemon.until("nasa", "usable");
    let head = get(&address, "/nasa/x").expect("an answer").text();
    assert!(head.to_ascii_lowercase().contains("authorization: bearer edl-t\r\n"), "{head}");
    let account: Value = daemon.account("nasa");
    assert!(account["seconds_left"].as_u64() > Some(30 * 86_400), "{account:#}");
}
