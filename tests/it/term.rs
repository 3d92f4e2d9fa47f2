//! A sign-in that was given an end (`login --for`) ends then: no token of it leaves, and nothing of it is left.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use valetd::secret::Secret;
use valetd::stand_in::{Options, Provider};

use crate::support::lab::{self, Server, address, ping};
use crate::support::{Daemon, Home, eventually, words};

fn login_for(home: &Home, token: &Secret, term: &[&str]) -> String {
    let arguments = [&["login", "lab", "--refresh-token-stdin", "--untried"], term].concat();
    let output = home.run_with_input(&arguments, token.expose());
    assert!(output.status.success(), "{}", words(&output));
    words(&output)
}

/// A home that nobody has signed in to.
fn unsigned(server: &Server, top: &str) -> Home {
    Home::with(&lab::config(server, lab::EAGER, "", top))
}

fn record(home: &Home) -> std::path::PathBuf {
    home.path("state/valetd/lab.json")
}

/// Sees that the sign-in has ended as by a logout.
fn is_over(daemon: &Daemon<'_>, server: &Server, revoked: usize) {
    let account = daemon.until("lab", "sign-in-required");
    assert_eq!(account["why_code"], "term-over", "{account:#}");
    assert!(account["credential"].is_null() && account["usable"] == false, "{account:#}");
    assert!(account["next_action"].as_str().is_some_and(|command| command.ends_with("login lab")), "{account:#}");
    let answer = ping(&address(daemon));
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("the time that it was signed in for is over"), "{}", answer.text());
    eventually("it is revoked at the server", || (server.log().outcomes("revoked") == revoked).then_some(()));
    assert!(!record(daemon.home).exists(), "the credential is still on the disk");
}

#[test]
fn a_sign_in_for_a_while_ends_by_itself_as_by_a_logout_and_a_person_is_told() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = Home::empty();
    let notices = home.path("notices");
    let command = format!("notice = {{ command = [\"sh\", \"-c\", \"echo $VALETD_WHY >> {}\"] }}", notices.display());
    home.write_config(&lab::config(&server, lab::EAGER, "", &command));
    let daemon = home.start();
    let said = login_for(&home, &server.sign_in(), &["--for", "4s"]);
    assert!(said.contains("lab: signed in for 4 s; the token is usable for"), "{said}");
    assert_eq!(ping(&address(&daemon)).status, 200);
    let account = daemon.account("lab");
    assert!(account["credential"]["ends_at"].is_string() && account["seconds_left"].as_u64() <= Some(4), "{account:#}");
    let status = words(&home.run(&["status"]));
    assert!(status.contains("the sign-in ends in"), "{status}");
    is_over(&daemon, &server, 1);
    let told = || fs::read_to_string(&notices).ok().filter(|told| told == "term-over\n");
    eventually("the notice's command has run", told);
    assert!(words(&home.run(&["status"])).contains("the time that it was signed in for is over"));
    assert_eq!(home.run(&["status"]).status.code(), Some(3));
    // and a new one begins as after a logout
    login_for(&home, &server.sign_in(), &[]);
    assert!(daemon.until("lab", "usable")["credential"]["ends_at"].is_null());
    assert_eq!(ping(&address(&daemon)).status, 200);
}

#[test]
fn what_ends_while_no_daemon_runs_is_never_used_again() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = unsigned(&server, "");
    let said = login_for(&home, &server.sign_in(), &["--for", "1s"]);
    assert!(said.contains("lab: signed in for 1 s; saved for when the daemon runs"), "{said}");
    std::thread::sleep(Duration::from_secs(2));
    let daemon = home.start();
    is_over(&daemon, &server, 1);
    assert_eq!(server.issued(), 0, "no token was asked for");
}

#[test]
fn an_end_stays_where_it_is_over_reloads_stops_kills_and_a_clock_that_is_set_back() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = unsigned(&server, "");
    login_for(&home, &server.sign_in(), &["--for", "8h"]);
    let ends_at = |daemon: &Daemon<'_>| daemon.until("lab", "usable")["credential"]["ends_at"].clone();
    let mut daemon = home.start();
    let end = ends_at(&daemon);
    // a reload without the account, one that has it again, and one that changes where its tokens go
    let config = lab::config(&server, lab::EAGER, "", "");
    for text in
        ["listen = [\"127.0.0.1:0\"]\n", &config, &config.replace("[route.lab]", "[route.lab]\ndeny = [\"/x\"]")]
    {
        home.write_config(text);
        assert!(home.run(&["reload"]).status.success());
    }
    assert_eq!(ends_at(&daemon), end);
    for signal in ["KILL", "TERM"] {
        daemon.signal(signal);
        drop(daemon);
        daemon = home.start();
        let now = ends_at(&daemon);
        assert!(apart(&now, &end) <= 1, "after SIG{signal}: {now} and {end}");
    }
    // the clock is set back while no daemon runs, as far as the record can tell: an hour more would be left by its face
    daemon.signal("TERM");
    drop(daemon);
    set_back(&record(&home), 9 * 3600);
    let daemon = home.start();
    let left = daemon.until("lab", "usable");
    let left = apart(&left["credential"]["ends_at"], &daemon.status()["at"]);
    assert!(left <= 8 * 3600, "{left} s");
}

#[test]
fn a_sign_in_that_says_nothing_of_an_end_lifts_it_and_one_that_needs_none_takes_none() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = unsigned(&server, "");
    for running in [false, true] {
        let daemon = running.then(|| home.start());
        let token = server.sign_in();
        login_for(&home, &token, &["--for", "8h"]);
        assert!(fs::read_to_string(record(&home)).expect("a record").contains("\"ends_at\""));
        login_for(&home, &token, &[]); // also with the very same token
        let kept = || fs::read_to_string(record(&home)).expect("a record").contains("\"ends_at\"");
        eventually("it is lifted", || (!kept()).then_some(()));
        if let Some(daemon) = &daemon {
            assert!(daemon.until("lab", "usable")["credential"]["ends_at"].is_null());
        }
    }
    for (term, said) in [("0s", "less than a second"), ("soon", "write it like"), ("9000d", "longer than a year")] {
        let output = home.run(&["login", "lab", "--for", term]);
        assert_eq!(output.status.code(), Some(2), "{term}");
        assert!(words(&output).contains(said), "{term}: {}", words(&output));
    }
    let own = "[account.lab]\ngrant = \"client_credentials\"\ntoken_endpoint = \"http://127.0.0.1:1/t\"\n\
               client_auth = \"post\"\nclient_id = \"a\"\nclient_secret = { file = \"/dev/null\" }\n";
    home.write_config(own);
    let output = home.run(&["login", "lab", "--for", "8h"]);
    assert_eq!(output.status.code(), Some(2), "{}", words(&output));
    assert!(words(&output).contains("it needs no sign-in"), "{}", words(&output));
}

/// How far two moments are from each other, in seconds.
fn apart(one: &Value, other: &Value) -> u64 {
    let unix = |moment: &Value| {
        let moment: jiff::Timestamp = moment.as_str().expect("a moment").parse().expect("RFC 3339");
        moment.as_second()
    };
    unix(one).abs_diff(unix(other))
}

/// Sets the clock back, as far as a record can tell: all times that are kept lie so much further ahead.
fn set_back(file: &Path, seconds: u64) {
    let mut kept: Value = serde_json::from_slice(&fs::read(file).expect("the record")).expect("JSON");
    for time in ["ends_at", "seen_at"] {
        kept["term"][time] = (kept["term"][time].as_u64().expect("a time") + seconds).into();
    }
    fs::write(file, kept.to_string()).expect("written");
}
