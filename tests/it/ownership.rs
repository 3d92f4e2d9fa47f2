//! Configurations that others can change.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::process::Command;

use valetd::stand_in::{Options, Provider};

use crate::support::lab::{self, Server};
use crate::support::tls::certified;
use crate::support::{Home, eventually, words};

/// A home whose configuration names a file of each kind, and the files and folders that decide.
fn home(server: &Server) -> Home {
    let account = "extra_ca = \"ca.pem\"\nclient_auth = \"post\"\nclient_secret = { file = \"secret\" }";
    let route = "request_headers = { add = { X-Lab-Key = { file = \"header\" } } }";
    let home = Home::with(&lab::config(server, account, route, ""));
    let config = home.path("config/valetd");
    fs::create_dir(config.join("providers")).expect("a folder");
    certified(&config, &[]); // its ca.pem
    let files = [("secret", "lab-secret"), ("header", "lab-key"), ("providers/own.toml", OWN)];
    for (name, text) in files {
        fs::write(config.join(name), text).expect("a file");
    }
    for name in ["", "config", "config/valetd", "config/valetd/providers"] {
        fs::set_permissions(home.path(name), Permissions::from_mode(0o700)).expect("a mode");
    }
    for name in ["config.toml", "ca.pem", "secret", "header", "providers/own.toml"] {
        fs::set_permissions(config.join(name), Permissions::from_mode(0o600)).expect("a mode");
    }
    home
}

const OWN: &str = "token_endpoint = \"https://auth.own.example/t\"\n[route.main]\nupstream = \"https://own.example\"\n";

#[test]
fn what_others_can_change_is_refused_with_the_command_that_mends_it() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = home(&server);
    let check = || home.run(&["check"]);
    assert!(check().status.success(), "{}", words(&check()));
    let rows = [
        ("config/valetd/config.toml", 0o606, 0o600),
        ("config/valetd/providers/own.toml", 0o646, 0o600),
        ("config/valetd/providers", 0o707, 0o700),
        ("config/valetd/ca.pem", 0o666, 0o600),
        ("config/valetd/secret", 0o602, 0o600),
        ("config/valetd/header", 0o602, 0o600),
        ("config/valetd", 0o703, 0o700),
        ("config", 0o777, 0o700),
        ("", 0o777, 0o700),
    ];
    for (name, open, closed) in rows {
        let path = home.path(name);
        fs::set_permissions(&path, Permissions::from_mode(open)).expect("a mode");
        let output = check();
        let said = words(&output);
        let shown = path.display().to_string();
        let shown = shown.trim_end_matches('/');
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        for part in [&format!("mode {open:04o}"), &format!("chmod go-w {shown}"), "owner uid"] {
            assert!(said.contains(part), "{name}: {part} is not in {said}");
        }
        fs::set_permissions(&path, Permissions::from_mode(closed)).expect("a mode");
    }
    assert!(check().status.success(), "{}", words(&check()));

    // all of them at once, beside what else is wrong
    for (name, open, _) in rows {
        fs::set_permissions(home.path(name), Permissions::from_mode(open)).expect("a mode");
    }
    let said = words(&check());
    assert_eq!(said.matches("chmod go-w").count(), rows.len(), "{said}");
    fs::write(home.path("config/valetd/config.toml"), "nonsense = 1\n").expect("written in place");
    let said = words(&check());
    assert!(said.contains("nonsense") && said.contains("mode 0606"), "{said}");
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_judged_like_one_and_not_waited_for() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = home(&server);
    let check = || words(&home.valetd(&["check"]).output().expect("it runs"));
    let folder = home.path("config/valetd");
    for name in ["config.toml", "ca.pem", "secret", "providers/own.toml"] {
        let path = folder.join(name);
        let kept = fs::read(&path).expect("a file");
        fs::remove_file(&path).expect("removed");
        let made = Command::new("mkfifo").args(["-m", "666"]).arg(&path).status();
        assert!(made.expect("mkfifo runs").success());
        let said = check();
        assert!(said.contains(&format!("chmod go-w {}", path.display())), "{name}: {said}");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a mode");
        // one of our own is waited for when its content is needed, and that is a secret
        let ended = home.valetd_by(&["timeout", "20"], &["check"]).output().expect("timeout runs");
        let said = words(&ended);
        assert!(ended.status.code().is_some_and(|code| code < 2), "{name}: {said}");
        assert!(!name.ends_with(".toml") || said.contains("named pipe"), "{name}: {said}");
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).expect("a mode");
        let said = check();
        assert!(said.contains(&format!("chmod go-w {}", folder.display())), "{name}: {said}");
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).expect("a mode");
        fs::remove_file(&path).expect("removed");
        fs::write(&path, kept).expect("a file");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a mode");
    }
    assert!(home.run(&["check"]).status.success(), "{}", check());
}

#[test]
fn a_running_daemon_keeps_its_last_good_configuration_and_a_new_one_waits_for_a_better() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    let config = home.path("config/valetd/config.toml");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = lab::address(&daemon);
    fs::set_permissions(&config, Permissions::from_mode(0o666)).expect("a mode");
    let reload = home.run(&["reload"]);
    assert!(!reload.status.success());
    assert!(words(&reload).contains("chmod go-w"), "{}", words(&reload));
    assert_eq!(lab::ping(&address).status, 200, "as before");
    assert!(daemon.status().to_string().contains("mode 0666"), "{:#}", daemon.status());
    drop(daemon);

    let daemon = home.start();
    assert!(daemon.status()["accounts"].as_array().is_some_and(Vec::is_empty), "{:#}", daemon.status());
    fs::set_permissions(&config, Permissions::from_mode(0o600)).expect("a mode");
    assert!(home.run(&["reload"]).status.success(), "{}", daemon.log());
    daemon.until("lab", "usable");
}

#[test]
fn what_never_ends_in_the_place_of_the_configuration_stops_no_daemon() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    let config = home.path("config/valetd/config.toml");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = lab::address(&daemon);
    let kept = fs::read(&config).expect("a file");
    let folder = home.path("config/valetd");
    for (what, mode) in [("a pipe", 0o777), ("a pipe", 0o700), ("a device", 0o777)] {
        fs::set_permissions(&folder, Permissions::from_mode(mode)).expect("a mode");
        fs::remove_file(&config).expect("removed");
        match what {
            "a pipe" => assert!(Command::new("mkfifo").arg(&config).status().expect("mkfifo runs").success()),
            _ => symlink("/dev/zero", &config).expect("a link"),
        }
        let reload = home.run(&["reload"]);
        assert!(!reload.status.success(), "{what}: {}", words(&reload));
        assert_eq!(lab::ping(&address).status, 200, "{what}: as before");
        assert!(home.run(&["status"]).status.code().is_some(), "{what}");
        // seen by the watch as well, which must go on
        fs::remove_file(&config).expect("removed");
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).expect("a mode");
        let before = daemon.log().matches("the configuration is in force").count();
        fs::write(&config, [&b"# mended\n"[..], &kept].concat()).expect("written");
        fs::set_permissions(&config, Permissions::from_mode(0o600)).expect("a mode");
        eventually("it is read again by itself", || {
            (daemon.log().matches("the configuration is in force").count() > before).then_some(())
        });
    }
}

#[test]
fn links_are_followed_and_sticky_folders_of_root_are_fine() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = home(&server);
    let open = tempfile::tempdir().expect("a folder");
    let config = home.path("config/valetd/config.toml");
    let other = open.path().join("config.toml");
    fs::copy(&config, &other).expect("a copy");
    fs::remove_file(&config).expect("removed");
    symlink(&other, &config).expect("a link");
    assert!(home.run(&["check"]).status.success(), "a link into a folder of ours in /tmp");
    fs::set_permissions(open.path(), Permissions::from_mode(0o777)).expect("a mode");
    let output = home.run(&["check"]);
    assert!(words(&output).contains(&format!("chmod go-w {}", open.path().display())), "{}", words(&output));
}

#[test]
fn a_file_of_another_user_is_refused_and_root_is_known_in_a_user_namespace() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can give files away");
        return;
    }
    let server = Server::start(Provider::Gdh, Options::default());
    let home = home(&server);
    let secret = home.path("config/valetd/secret");
    chown(&secret, Some(4711), None).expect("given away");
    let said = words(&home.run(&["check"]));
    assert!(said.contains("owner uid 4711") && said.contains("chown 0 "), "{said}");
    assert!(said.contains("run valetd as uid 4711"), "under sudo, a home must not be given to root: {said}");
    chown(&secret, Some(0), None).expect("taken back");

    // as an ordinary user, in a namespace where root is nobody, as under the unit's PrivateUsers=
    const USER: u32 = 4711;
    let give = |name: &str| chown(home.path(name), Some(USER), Some(USER)).expect("given away");
    for name in ["", "config", "config/valetd", "config/valetd/providers"] {
        give(name);
    }
    for name in ["config.toml", "ca.pem", "secret", "header", "providers/own.toml"] {
        give(&format!("config/valetd/{name}"));
    }
    // where the user can reach it
    let binary = home.path("valetd");
    fs::copy(env!("CARGO_BIN_EXE_valetd"), &binary).expect("a copy");
    let id = USER.to_string();
    let as_user = |namespace: bool| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        if namespace {
            command.args(["unshare", "--user", &format!("--map-user={id}"), &format!("--map-group={id}")]);
        }
        command.arg(&binary).arg("check");
        home.settle(&mut command);
        command.output()
    };
    let Some(output) = as_user(false).ok().filter(|output| output.status.code() != Some(127)) else {
        eprintln!("skipped: setpriv is not installed");
        return;
    };
    assert!(output.status.success(), "{}", words(&output));
    let output = as_user(true).expect("it runs");
    if words(&output).contains("unshare") {
        eprintln!("skipped: no user namespace may be made here");
        return;
    }
    assert!(output.status.success(), "{}", words(&output));
    let authorities = home.path("config/valetd/ca.pem");
    fs::set_permissions(&authorities, Permissions::from_mode(0o644)).expect("a mode");
    chown(&authorities, Some(4712), None).expect("given away");
    let said = words(&as_user(false).expect("it runs"));
    assert!(said.contains("owner uid 4712"), "{said}");
}
