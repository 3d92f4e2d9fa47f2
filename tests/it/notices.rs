//! A person is told before the first tool fails: once a day, without a secret, also across restarts.

use std::fs;
use std::time::Duration;

use valetd::stand_in::{Options, Provider, Rotation};

use crate::support::lab::{self, Server, renew};
use crate::support::{Home, eventually};

/// A configuration whose notices are written to a file of the home, one line each.
fn noticing(server: &Server) -> Home {
    let home = Home::empty();
    let file = home.path("notices");
    let top = format!(
        "notice = {{ command = [\"sh\", \"-c\", \"printf '%s|%s|%s|%s|%s\\\\n' \\\"$1\\\" \\\"$VALETD_ACCOUNT\\\" \
         \\\"$VALETD_WHY\\\" \\\"$VALETD_REMEDY\\\" \\\"$VALETD_MESSAGE\\\" >> {}; env >> {}.env\", \"sh\", \
         \"{{why}}\"], before = \"3d\" }}",
        file.display(),
        file.display()
    );
    home.write_config(&lab::config(server, lab::EAGER, "", &top));
    lab::sign_in(&home, &server.sign_in());
    home
}

fn told(home: &Home) -> Vec<String> {
    fs::read_to_string(home.path("notices")).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn a_refused_refresh_token_is_told_once_with_its_remedy_and_not_again_after_a_restart() {
    let server = Server::start(Provider::Gdh, lab::rotating(Rotation::Off));
    let home = noticing(&server);
    let mut daemon = home.start();
    daemon.until("lab", "usable");
    server.revoke_refresh_tokens();
    assert_eq!(renew(&daemon)["why_code"], "revoked");
    let lines = eventually("the notice is given", || Some(told(&home)).filter(|lines| !lines.is_empty()));
    let parts: Vec<&str> = lines[0].split('|').collect();
    assert_eq!(parts[..3], ["revoked", "lab", "revoked"], "{lines:?}");
    assert!(parts[3].ends_with("login lab") && parts[4].contains("was refused"), "{lines:?}");
    daemon.signal("TERM");
    let daemon = home.start();
    daemon.until("lab", "sign-in-required");
    // a second cause passes the same way, so the first had its chance
    let read = || fs::read_to_string(home.path("notices.env")).ok();
    let environment = eventually("the environment, whole", || read().filter(|text| text.contains("VALETD_MESSAGE=")));
    for secret in server.secrets() {
        assert!(!environment.contains(&secret) && !lines[0].contains(&secret), "a secret was handed to the command");
    }
    lab::sign_in(&home, &server.sign_in());
    daemon.until("lab", "usable");
    assert_eq!(told(&home).len(), 1, "{:?}", told(&home));
    daemon.until_logged("the refresh token was refused");
}

#[test]
fn a_refresh_token_that_renewals_cannot_save_is_told_before_it_dies() {
    let options = Options {
        refresh_lifetime: Some(Duration::from_secs(2 * 86_400)),
        tell_refresh_lifetime: true,
        ..Options::default()
    };
    let server = Server::start(Provider::Gdh, options);
    let home = noticing(&server);
    let daemon = home.start();
    daemon.until("lab", "usable");
    renew(&daemon);
    let lines = eventually("the notice is given", || Some(told(&home)).filter(|lines| !lines.is_empty()));
    assert!(lines[0].starts_with("refresh-token-dies|lab|refresh-token-dies|"), "{lines:?}");
    assert!(lines[0].contains("dies in 47 h"), "{lines:?}");
    renew(&daemon);
    renew(&daemon);
    assert_eq!(told(&home).len(), 1, "once a day");
}

#[test]
fn an_account_that_nobody_has_signed_in_to_is_no_news() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = noticing(&server);
    fs::remove_file(home.path("state/valetd/lab.json")).expect("removed");
    let daemon = home.start();
    daemon.until("lab", "sign-in-required");
    lab::sign_in(&home, &server.sign_in());
    daemon.until("lab", "usable");
    assert_eq!(told(&home), [""; 0]);
}
