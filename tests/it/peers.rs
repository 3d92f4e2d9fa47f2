//! Another user of the same machine. Only root can play one.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use valetd::stand_in::{Options, Provider};

use crate::keys::add;
use crate::lab::{self, Server, address};
use crate::support::{Home, words};

/// A user that every machine has.
const NOBODY: (&str, &str) = ("nobody", "65534");

#[test]
fn another_user_is_refused_on_tcp_and_on_the_sockets_until_named_or_given_a_key() {
    if !can_play_nobody() {
        eprintln!("skipped: not root, or setpriv or curl is not installed");
        return;
    }
    let server = Server::start(Provider::Gdh, Options::default());
    let sockets = tempfile::tempdir().expect("a folder");
    let socket = sockets.path().join("http.sock");
    let unix = format!("\"unix:{}\"", socket.display());
    let config = |top: &str| {
        lab::config(&server, "", "", top)
            .replace("listen = [\"127.0.0.1:0\"]", &format!("listen = [\"127.0.0.1:0\", {unix}]"))
    };
    let home = Home::with(&config(""));
    lab::sign_in(&home, &server.sign_in());
    let daemon = home.start();
    daemon.until("lab", "usable");
    // whatever the folders let through
    for path in [home.path(""), home.path("run"), home.path("run/valetd"), sockets.path().to_owned()] {
        fs::set_permissions(&path, Permissions::from_mode(0o711)).expect("open to all");
    }
    let tcp = format!("http://{}/lab/datasets", address(&daemon));
    let over_unix = ["--unix-socket", socket.to_str().expect("text"), "http://v/lab/datasets"];
    let control = home.socket();
    let status = ["--unix-socket", control.to_str().expect("text"), "http://v/v1/status"];

    assert_eq!(as_nobody(&[&tcp]), "403");
    assert_eq!(as_nobody(&over_unix), "000", "no connection");
    assert_eq!(as_nobody(&status), "000", "no connection");
    let key = add(&home, "agent", &["--route", "lab"]);
    assert_eq!(as_nobody(&["--header", &format!("X-Valetd-Key: {key}"), &tcp]), "200");

    home.write_config(&config(&format!("clients = [\"self\", \"user:{}\"]", NOBODY.0)));
    assert!(home.run(&["reload"]).status.success(), "{}", daemon.log());
    let tcp = format!("http://{}/lab/datasets", address(&daemon));
    assert_eq!(as_nobody(&[&tcp]), "200");
    assert_eq!(as_nobody(&over_unix), "200");
    assert_eq!(as_nobody(&status), "000", "the control socket stays ours");
    assert_eq!(lab::ping(&address(&daemon)).status, 200, "and so do we");

    home.write_config(&config("clients = [\"user:nobody-of-that-name\"]"));
    assert!(home.run(&["reload"]).status.success(), "{}", daemon.log());
    let tcp = format!("http://{}/lab/datasets", address(&daemon));
    assert_eq!(as_nobody(&[&tcp]), "403");
    let refused = lab::ping(&address(&daemon));
    assert_eq!(refused.status, 403, "not even we are in the list: {}", refused.text());
    assert!(words(&home.run(&["status"])).contains("no user is named"), "{}", words(&home.run(&["status"])));
}

pub(crate) fn can_play_nobody() -> bool {
    let installed =
        |program: &str| Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
    rustix::process::geteuid().is_root() && installed("setpriv") && installed("curl")
}

/// The status that `nobody`'s curl gets; 000 without any.
pub(crate) fn as_nobody(arguments: &[&str]) -> String {
    let uid = NOBODY.1;
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        uid,
        "--regid",
        uid,
        "--clear-groups",
        "curl",
        "--silent",
        "--max-time",
        "30",
        "--noproxy",
        "*",
    ]);
    let output = command.args(["--output", "/dev/null", "--write-out", "%{http_code}"]).args(arguments).output();
    String::from_utf8(output.expect("setpriv runs").stdout).expect("a number")
}
