//! Another user of the same machine. Only root can play one.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use valetd::stand_in::{Options, Provider};

use crate::support::keys::add;
use crate::support::lab::{self, Server, address};
use crate::support::nobody::{AS_NOBODY, NOBODY, as_nobody, can_play_nobody, curl};
use crate::support::{Daemon, Home, get, words};

const RUN: &[&str] = &["run", "--log", "debug"];

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

#[test]
fn root_is_a_client_only_where_it_is_named() {
    if !can_play_nobody() {
        eprintln!("skipped: not root, or setpriv or curl is not installed");
        return;
    }
    let server = Server::start(Provider::Gdh, Options::default());
    let config = |clients: &str| lab::config(&server, "", "", clients);
    let home = Home::with(&config(""));
    let Some(daemon) = start_as_nobody(&home) else { return };
    let token = server.sign_in();
    owners(&home, &["login", "lab", "--refresh-token-stdin", "--untried"], token.expose());
    daemon.until("lab", "usable"); // the control socket hears root
    let refused = lab::ping(&address(&daemon));
    assert_eq!(refused.status, 403, "{}", daemon.log());
    let detail = refused.json()["detail"].to_string();
    for part in ["root's", r#"clients = [\"self\", \"root\"]"#, "valetd key add"] {
        assert!(detail.contains(part), "{part} is not in {detail}");
    }
    assert_eq!(refused.json()["check"], "peer");
    assert_eq!(as_nobody(&[&format!("http://{}/lab/datasets", address(&daemon))]), "200", "whose it is");
    assert_eq!(daemon.status()["daemon"]["refused_root"], 1);
    assert!(owners(&home, &["status"], "").contains("refused, of root's: 1 request;"));
    let metrics = daemon.control("GET", "/metrics").expect("metrics").text();
    assert!(metrics.contains("valetd_requests_refused_root_total 1\n"), "{metrics}");
    let key = owners(&home, &["key", "add", "roots", "--route", "lab"], "");
    let key = key.split_whitespace().find(|word| word.starts_with("vk_")).expect("a key").to_owned();
    assert_eq!(get(&address(&daemon), &format!("/{key}/lab/ping")).expect("an answer").status, 200);

    for named in [r#"clients = ["self", "root"]"#, r#"clients = ["self", "user:root"]"#, r#"clients = ["user:0"]"#] {
        home.write_config(&config(named));
        owners(&home, &["reload"], "");
        assert_eq!(lab::ping(&address(&daemon)).status, 200, "{named}");
    }
    home.write_config(&config(r#"clients = ["self", "user:alice-of-no-name"]"#));
    owners(&home, &["reload"], "");
    assert_eq!(lab::ping(&address(&daemon)).status, 403);
}

#[test]
fn whom_the_daemons_user_namespace_does_not_know_is_nobody_whatever_is_named() {
    let alone = ["--user", "--map-root-user"];
    if !can_play_nobody() || !can_unshare(&alone) {
        eprintln!("skipped: not root, or no user namespace can be had");
        return;
    }
    let server = Server::start(Provider::Gdh, Options::default());
    let clients = r#"clients = ["self", "user:nobody", "user:65534"]"#;
    let home = Home::with(&lab::config(&server, "", "", clients));
    let unshare = [&["unshare"][..], &alone].concat();
    let daemon = home.start_as(home.valetd_by(&unshare, RUN));
    lab::sign_in(&home, &server.sign_in());
    daemon.until("lab", "usable");
    // everybody but ourselves is shown as user 65534 in there
    let tcp = format!("http://{}/lab/datasets", address(&daemon));
    assert_eq!(as_nobody(&[&tcp]), "403");
    assert_eq!(lab::ping(&address(&daemon)).status, 200, "and we are ourselves");
    let key = add(&home, "agent", &["--route", "lab"]);
    assert_eq!(as_nobody(&["--header", &format!("X-Valetd-Key: {key}"), &tcp]), "200");
    assert!(daemon.status()["daemon"]["warnings"].to_string().contains("user 65534 stands for everybody"));
}

#[test]
fn a_container_needs_a_key_where_the_setting_says_so() {
    let kinds: [&[&str]; 3] = [
        &["--pid", "--fork"],
        &["--user", "--map-root-user"],
        &["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"],
    ];
    if !can_play_nobody() || !kinds.iter().all(|kind| can_unshare(kind)) {
        eprintln!("skipped: not root, or no namespaces can be had");
        return;
    }
    let server = Server::start(Provider::Gdh, Options::default());
    let sockets = tempfile::tempdir().expect("a folder");
    let socket = sockets.path().join("http.sock");
    let config = |top: &str| {
        lab::config(&server, "", "", top).replace(
            "listen = [\"127.0.0.1:0\"]",
            &format!("listen = [\"127.0.0.1:0\", \"unix:{}\"]", socket.display()),
        )
    };
    let home = Home::with(&config("containers_need_key = true"));
    lab::sign_in(&home, &server.sign_in());
    let daemon = home.start();
    daemon.until("lab", "usable");
    let tcp = format!("http://{}/lab/datasets", address(&daemon));
    let over_unix = ["--unix-socket", socket.to_str().expect("text"), "http://v/lab/datasets"];
    let key = format!("X-Valetd-Key: {}", add(&home, "agent", &["--route", "lab"]));
    assert_eq!(curl(&mut Command::new("curl"), &[&tcp]), "200", "{}", daemon.log());
    assert_eq!(curl(&mut Command::new("curl"), &over_unix), "200", "{}", daemon.log());
    for kind in kinds {
        let contained = |arguments: &[&str]| curl(Command::new("unshare").args(kind).arg("curl"), arguments);
        assert_eq!(contained(&[&tcp]), "403", "{kind:?}");
        assert_eq!(contained(&over_unix), "403", "{kind:?}");
        assert_eq!(contained(&["--header", &key, &tcp]), "200", "{kind:?}");
        assert_eq!(contained(&["--header", &key, over_unix[0], over_unix[1], over_unix[2]]), "200", "{kind:?}");
        assert_eq!(contained(&["--http2-prior-knowledge", &tcp]), "403", "{kind:?}");
    }
    // in namespaces of the host, and in the control group of an engine
    match engines_group() {
        None => eprintln!("skipped the control group: none can be made"),
        Some(group) => {
            let script = format!("echo $$ >{}/cgroup.procs && exec curl \"$@\"", group.display());
            let status = curl(Command::new("sh").args(["-c", &script, "sh"]), &[&tcp]);
            let _ = fs::remove_dir(group);
            assert_eq!(status, "403", "{}", daemon.log());
        }
    }

    home.write_config(&config(""));
    assert!(home.run(&["reload"]).status.success(), "{}", daemon.log());
    let tcp = format!("http://{}/lab/datasets", address(&daemon));
    for kind in kinds {
        assert_eq!(curl(Command::new("unshare").args(kind).arg("curl"), &[&tcp]), "200", "off by default: {kind:?}");
    }
}

/// A control group named as an engine names its containers', in which a process is seen to be.
///
/// The folder alone proves nothing: where no hierarchy is mounted, it is one of a plain file system.
fn engines_group() -> Option<std::path::PathBuf> {
    let groups = std::path::Path::new("/sys/fs/cgroup");
    let name = format!("docker-{:064x}.scope", std::process::id());
    [groups.join("unified"), groups.join("pids"), groups.to_owned()].into_iter().find_map(|root| {
        let group = root.join(&name);
        fs::create_dir(&group).ok()?;
        let joined = group.join("cgroup.procs").exists() && {
            let script = format!("echo $$ >{}/cgroup.procs && exec grep -q {name} /proc/self/cgroup", group.display());
            Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        if !joined {
            let _ = fs::remove_dir(&group);
        }
        joined.then_some(group)
    })
}

fn can_unshare(arguments: &[&str]) -> bool {
    let status = Command::new("unshare").args(arguments).arg("true").stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// What a command says that `nobody` runs in their home.
fn owners(home: &Home, arguments: &[&str], input: &str) -> String {
    let mut command = home.valetd_by(&AS_NOBODY, arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("setpriv runs");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{arguments:?}: {}", words(&output));
    words(&output)
}

/// A daemon of `nobody`'s in a home that is given to them. `None` where they cannot read the program.
fn start_as_nobody(home: &Home) -> Option<Daemon<'_>> {
    let uid = NOBODY.1;
    let program = home.valetd_by(&AS_NOBODY, &["--version"]).output();
    if !program.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: the program is where others cannot read it");
        return None;
    }
    let given = Command::new("chown").args(["-R", &format!("{uid}:{uid}")]).arg(home.path("")).status();
    assert!(given.is_ok_and(|status| status.success()));
    Some(home.start_as(home.valetd_by(&AS_NOBODY, RUN)))
}
