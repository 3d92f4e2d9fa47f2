//! What the running daemon has given up, and that nobody is surprised by it.

use std::fs;

use serde_json::Value;
use valetd::stand_in::{Options, Provider};

use crate::support::lab::{self, Server, address};
use crate::support::{Daemon, words};

#[test]
fn the_status_says_what_is_in_force_and_a_reload_what_needs_a_restart() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    for name in ["no-trace", "no-core", "no-new-privileges"] {
        assert_eq!(measure(&daemon, name)["in_force"], true, "{name}");
    }
    let landlock = measure(&daemon, "landlock");
    if landlock["in_force"] != true {
        eprintln!("skipped: {landlock}");
        let warnings = daemon.status()["daemon"]["warnings"].to_string();
        assert_eq!(warnings.matches("less closed").count(), 1, "{warnings}");
        return;
    }
    // a socket in a folder of its own is beyond the walls, and said so; until a restart the old configuration is in force
    let elsewhere = tempfile::tempdir().expect("a folder");
    let unix = format!("\"unix:{}\"", elsewhere.path().join("http.sock").display());
    let listen = format!("listen = [\"127.0.0.1:0\", {unix}]");
    home.write_config(&lab::config(&server, "", "", "").replace("listen = [\"127.0.0.1:0\"]", &listen));
    let reload = home.run(&["reload"]);
    assert!(words(&reload).contains("restart valetd"), "{}", words(&reload));
    assert_eq!(lab::ping(&address(&daemon)).status, 200);
    drop(daemon);
    let daemon = home.start();
    daemon.until("lab", "usable");
    assert!(elsewhere.path().join("http.sock").exists(), "after a restart it is there");
    assert_eq!(measure(&daemon, "landlock")["in_force"], true);
}

#[test]
fn files_anywhere_can_be_read_and_commands_run_as_they_are_configured() {
    let server = Server::start(Provider::Gdh, Options::default());
    let elsewhere = tempfile::tempdir().expect("a folder");
    let secret = elsewhere.path().join("secret");
    fs::write(&secret, "hunter2\n").expect("a secret");
    let marker = elsewhere.path().join("was-run");
    let from_file = format!("client_auth = \"post\"\nclient_secret = {{ file = \"{}\" }}", secret.display());
    let script = format!("touch {} && echo hunter2", marker.display());
    let from_command =
        format!("client_auth = \"post\"\nclient_secret = {{ command = [\"sh\", \"-c\", \"{script}\"] }}");

    let home = lab::home(&server, &from_file, "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let confined = measure(&daemon, "landlock")["in_force"] == true;
    home.write_config(&lab::config(&server, &from_command, "", ""));
    assert!(home.run(&["reload"]).status.success());
    let warned = daemon.status()["daemon"]["warnings"].to_string().contains("restart valetd");
    assert_eq!(warned, confined, "{}", daemon.log());
    drop(daemon);
    let _ = fs::remove_file(&marker);
    let daemon = home.start();
    daemon.until("lab", "usable");
    assert!(marker.exists(), "the command has run, and has written where it wanted");
    let landlock = measure(&daemon, "landlock");
    assert!(
        landlock["detail"].as_str().is_some_and(|detail| detail.contains("account.lab.client_secret")),
        "{landlock}"
    );
    assert!(!daemon.status()["daemon"]["warnings"].to_string().contains("less closed"), "a choice is no fault");
    drop(daemon);

    home.write_config(&lab::config(&server, &from_file, "", "sandbox = false"));
    let daemon = home.start();
    assert!(measure(&daemon, "landlock")["detail"].as_str().is_some_and(|detail| detail.contains("switched off")));
}

fn measure(daemon: &Daemon<'_>, name: &str) -> Value {
    let status = daemon.status();
    let measures = status["daemon"]["hardening"].as_array().expect("measures");
    measures.iter().find(|measure| measure["name"] == name).unwrap_or_else(|| panic!("no {name}: {status:#}")).clone()
}
