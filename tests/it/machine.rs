//! What machines are like: names that are no UTF-8, long paths, no IPv6, others' sockets, names that lead elsewhere.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use valetd::stand_in::{Options, Provider};

use crate::support::lab::{self, Server, address};
use crate::support::{Home, eventually, words};

const NOBODY: u32 = 65534;
/// Somebody else.
const STRANGER: u32 = 65533;

/// The home with folders whose names are no UTF-8.
fn oddly(home: &Home, arguments: &[&str]) -> Command {
    let odd = |name: &[u8]| home.path("").join(OsStr::from_bytes(name));
    let mut command = home.valetd(arguments);
    command.env("HOME", odd(b"h\xff")).env("XDG_CONFIG_HOME", odd(b"c\xe9")).env("XDG_STATE_HOME", odd(b"s\xc3"));
    command
}

#[test]
fn a_home_that_is_no_utf_8_is_one_like_any_other() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = Home::empty();
    let folder = home.path("").join(OsStr::from_bytes(b"c\xe9/valetd"));
    fs::create_dir_all(&folder).expect("a folder");
    fs::create_dir_all(home.path("").join(OsStr::from_bytes(b"h\xff"))).expect("a folder");
    fs::write(folder.join("config.toml"), lab::config(&server, "", "", "audit = true")).expect("a configuration");
    let mut login = oddly(&home, &["login", "lab", "--refresh-token-stdin"]);
    let mut login = login.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    login.stdin.take().expect("piped").write_all(server.sign_in().expose().as_bytes()).expect("written");
    assert!(login.wait().expect("it ends").success());
    let daemon = home.start_as(oddly(&home, &["run", "--log", "debug"]));
    daemon.until("lab", "usable");
    assert_eq!(lab::ping(&address(&daemon)).status, 200);
    assert!(daemon.status()["daemon"]["state_dir"].as_str().is_some_and(|path| path.ends_with("s\u{fffd}/valetd")));
    let run = |arguments: &[&str]| oddly(&home, arguments).output().expect("it runs");
    for arguments in [&["status"][..], &["status", "--json"], &["check"], &["reload"], &["key", "list"]] {
        let output = run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", words(&output));
    }
    for arguments in [&["doctor", "--offline"][..], &["service", "install", "--print"], &["login", "gdh", "--import"]] {
        let said = words(&run(arguments));
        assert!(!said.contains("panicked") && !said.is_empty(), "{arguments:?}: {said}");
    }
    let mut exec = oddly(&home, &["exec", "-r", "lab", "--", "printf", "%s"]);
    let output = exec.arg(OsStr::from_bytes(b"/x\xff")).output().expect("it runs");
    assert_eq!(output.stdout, b"/x\xff", "{}", words(&output));
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

#[test]
fn a_socket_path_that_is_too_long_is_said_with_the_option_that_shortens_it() {
    let home = Home::with("listen = [\"127.0.0.1:0\"]\n");
    let long = home.path(&"x".repeat(120));
    fs::create_dir(&long).expect("a folder");
    let run = |arguments: &[&str]| {
        let mut command = home.valetd(arguments);
        command.env("HOME", &long).env("XDG_STATE_HOME", long.join("state")).env_remove("XDG_RUNTIME_DIR");
        command.output().expect("it runs")
    };
    for arguments in [&["run"][..], &["status"], &["reload"], &["key", "list"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", words(&output));
        assert!(words(&output).contains("--socket"), "{arguments:?}: {}", words(&output));
    }
}

#[test]
fn where_ipv6_is_switched_off_the_default_addresses_are_served_without_it() {
    let off = "ip link set lo up && ip -6 addr del ::1/128 dev lo";
    if !can(&["unshare", "-n", "sh", "-c", off]) {
        eprintln!("skipped: no network namespace can be had here");
        return;
    }
    let home = Home::with("");
    let command = home.valetd_by(&["unshare", "-n", "sh", "-c", &format!("{off} && exec \"$@\""), "sh"], &["run"]);
    let daemon = home.start_as(command);
    assert_eq!(daemon.status()["daemon"]["listen"], serde_json::json!(["127.0.0.1:8253"]), "{}", daemon.log());
    assert!(home.run(&["status"]).status.success());
}

#[test]
fn names_below_localhost_are_this_machine_whatever_the_resolver_says() {
    let home = Home::empty();
    let hosts = home.path("hosts");
    fs::write(&hosts, "192.0.2.1 localhost api.localhost\n").expect("hosts");
    let elsewhere = format!("mount --bind '{}' /etc/hosts", hosts.display());
    if !can(&["unshare", "-m", "sh", "-c", &elsewhere]) {
        eprintln!("skipped: no mount namespace can be had here");
        return;
    }
    let server = Server::start(Provider::Gdh, Options::default());
    let named = lab::config(&server, "", "", "").replace("http://127.0.0.1:", "http://api.localhost:");
    home.write_config(&named.replacen("http://api.localhost:", "http://localhost:", 1));
    lab::sign_in(&home, &server.sign_in());
    let script = format!("{elsewhere} && exec \"$@\"");
    let daemon =
        home.start_as(home.valetd_by(&["unshare", "-m", "sh", "-c", &script, "sh"], &["run", "--log", "debug"]));
    daemon.until("lab", "usable"); // so the token endpoint was reached
    assert_eq!(lab::ping(&address(&daemon)).status, 200, "{}", daemon.log());
}

#[test]
fn nothing_is_told_to_a_socket_that_another_user_serves() {
    if !as_user(NOBODY, Command::new("true")).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: only root can play others");
        return;
    }
    let server = Server::start(Provider::Gdh, Options::default());
    let home = Home::with(&lab::config(&server, "", "", ""));
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("open to all");
    let socket = folder.path().join("v.sock");
    let listener = {
        let socket = socket.clone();
        std::thread::spawn(move || {
            let stranger = rustix::process::Uid::from_raw(STRANGER);
            rustix::thread::set_thread_res_uid(None, stranger, None).expect("root may");
            UnixListener::bind(socket).expect("a socket of theirs")
        })
        .join()
        .expect("bound")
    };
    fs::set_permissions(&socket, Permissions::from_mode(0o666)).expect("open to all");
    for path in [home.path(""), home.path("config"), home.path("state"), home.path("run")] {
        assert!(Command::new("chown").args(["-R", "65534:65534"]).arg(path).status().expect("chown runs").success());
    }
    let named = socket.to_str().expect("text");
    let heard = std::thread::spawn(move || {
        let mut heard = Vec::new();
        listener.set_nonblocking(false).expect("blocking");
        for stream in listener.incoming() {
            let _ = stream.expect("a connection").read_to_end(&mut heard);
            if heard.ends_with(b"the end") {
                break;
            }
        }
        heard
    });
    let token = server.sign_in();
    let rows: [(&[&str], &str); 6] = [
        (&["login", "lab", "--refresh-token-stdin"], token.expose()),
        (&["logout", "lab"], ""),
        (&["key", "add", "agent", "--route", "lab"], ""),
        (&["exec", "-r", "lab", "--", "echo", "ran"], ""),
        (&["status"], ""),
        (&["wait", "--timeout", "60s"], ""),
    ];
    for (arguments, input) in rows {
        let arguments: Vec<&str> = ["--socket", named].iter().chain(arguments).copied().collect();
        let output = talk(as_user(NOBODY, home.valetd(&arguments)), input);
        let said = words(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("is not yours: user 65533") && said.contains("--socket"), "{arguments:?}: {said}");
    }
    UnixStream::connect(&socket).expect("it listens").write_all(b"the end").expect("written");
    assert_eq!(heard.join().expect("it listened"), b"the end", "not a byte of ours");
}

#[test]
fn root_gives_its_credentials_to_no_daemon_of_a_users() {
    if rustix::process::geteuid().as_raw() != 0 {
        eprintln!("skipped: only root can play others");
        return;
    }
    let server = Server::start(Provider::Gdh, Options::default());
    let home = Home::with(&lab::config(&server, "", "", ""));
    assert!(Command::new("chown").args(["-R", "65534:65534"]).arg(home.path("")).status().expect("it runs").success());
    let command = as_user(NOBODY, home.valetd(&["run"]));
    if !as_user(NOBODY, home.valetd(&["--version"])).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: the program is where others cannot read it");
        return;
    }
    let _daemon = home.start_as(command);
    let roots = tempfile::tempdir().expect("a folder of root's");
    let (config, socket) = (roots.path().join("roots.toml"), home.socket());
    fs::write(&config, lab::config(&server, "", "", "")).expect("a configuration of root's");
    let places = ["--config", config.to_str().expect("text"), "--socket", socket.to_str().expect("text")];
    let run = |arguments: &[&str], input: &str| {
        let arguments: Vec<&str> = places.iter().chain(arguments).copied().collect();
        talk(home.valetd(&arguments), input)
    };
    let refused = run(&["login", "lab", "--refresh-token-stdin"], server.sign_in().expose());
    assert_eq!(refused.status.code(), Some(1), "{}", words(&refused));
    assert!(words(&refused).contains("is not yours: user 65534"), "{}", words(&refused));
    let status = run(&["status"], "");
    assert!(words(&status).contains("lab") && status.status.code() == Some(3), "root may look: {}", words(&status));
}

#[test]
fn the_memory_of_a_login_is_closed_to_other_processes_of_the_user() {
    let home = Home::with("[account.gbdx]\nprovider = \"gbdx\"\n");
    let given = Command::new("chown").args(["-R", "65534:65534"]).arg(home.path("")).status();
    let program = as_user(NOBODY, home.valetd(&["--version"])).status();
    if !given.is_ok_and(|status| status.success()) || !program.is_ok_and(|status| status.success()) {
        eprintln!("skipped: only root can play others, or the program is where others cannot read it");
        return;
    }
    let rows: [&[&str]; 2] =
        [&["login", "gbdx", "--refresh-token-stdin"], &["login", "gbdx", "--password-stdin", "--username", "me"]];
    for arguments in rows {
        let mut waiting = as_user(NOBODY, home.valetd(arguments)).stdin(Stdio::piped()).spawn().expect("it runs");
        let readable = |what: &str| {
            let mut cat = Command::new("cat");
            cat.arg(format!("/proc/{}/{what}", waiting.id()));
            as_user(NOBODY, cat).stdout(Stdio::null()).stderr(Stdio::null()).status().expect("cat runs").success()
        };
        // setpriv becomes the program, and the program closes itself
        eventually("its memory is closed", || (!readable("maps") && !readable("environ")).then_some(()));
        assert!(waiting.try_wait().expect("asked").is_none(), "{arguments:?}: it still waits for its input");
        let _ = waiting.kill();
        let _ = waiting.wait();
    }
}

#[test]
fn a_command_of_exec_does_not_have_the_refresh_tokens_that_are_in_the_environment() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "import = [{ environment = \"LAB_TOKEN\" }]", "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    for route in [&["exec"][..], &["exec", "-r", "lab"]] {
        let arguments =
            [route, &["--", "sh", "-c", "echo \"$GDH_REFRESH_TOKEN-$LAB_TOKEN-$LAB_TOKENS-$LAB_URL\""]].concat();
        let mut command = home.valetd(&arguments);
        command.env("GDH_REFRESH_TOKEN", "secret").env("LAB_TOKEN", "secret").env("LAB_TOKENS", "mine");
        let output = command.output().expect("it runs");
        assert!(words(&output).starts_with("--mine-http://"), "{}", words(&output));
    }
}

#[test]
fn a_logout_leaves_no_copy_of_a_credential_behind() {
    let server = Server::start(Provider::Gdh, Options::default());
    for is_running in [true, false] {
        let home = lab::home(&server, "", "", "");
        let folder = home.path("state/valetd");
        fs::write(folder.join("lab.json.corrupt-1"), "{\"refresh_token\": \"once mine").expect("a file set aside");
        if !is_running {
            // what cannot be read is set aside by the logout itself, and goes with the rest
            fs::write(folder.join("lab.json"), "{\"refresh_token\": \"half").expect("cut off");
        }
        let daemon = is_running.then(|| home.start());
        let output = home.run(&["logout", "lab"]);
        assert!(output.status.success(), "{}", words(&output));
        let left: Vec<OsString> =
            fs::read_dir(&folder).expect("the folder").map(|entry| entry.expect("an entry").file_name()).collect();
        assert!(left.iter().all(|name| !name.as_bytes().starts_with(b"lab")), "{left:?}");
        drop(daemon);
    }
}

#[test]
fn units_for_a_program_in_any_folder_are_taken_by_systemd() {
    if !can(&["systemd-analyze", "--version"]) {
        eprintln!("skipped: systemd-analyze is not installed");
        return;
    }
    let home = Home::empty();
    for odd in
        ["plain", "a b", "100%h", "it's", "$HOME", "a\"b\"", "back\\slash\\n", "all $H 'q' \"d\" \\x41 %i", "\u{e9}=;#"]
    {
        let folder = home.path("programs").join(odd);
        fs::create_dir_all(&folder).expect("a folder");
        let program = folder.join("valetd");
        if fs::hard_link(env!("CARGO_BIN_EXE_valetd"), &program).is_err() {
            fs::copy(env!("CARGO_BIN_EXE_valetd"), &program).expect("a copy");
        }
        let mut command = Command::new(&program);
        command.args(["service", "install", "--print"]).env_clear().env("HOME", home.path(""));
        let printed = words(&command.output().expect("it runs"));
        let units = home.path("units").join(odd);
        fs::create_dir_all(&units).expect("a folder");
        let mut names: Vec<PathBuf> = Vec::new();
        for text in printed.split("\n# /").map(|text| text.trim_start_matches("# /")) {
            let (path, unit) = text.split_once('\n').expect("a path, and the unit below it");
            let name = units.join(Path::new(path).file_name().expect("a name"));
            fs::write(&name, unit).expect("the unit");
            names.push(name);
        }
        assert_eq!(names.len(), 3, "{printed}");
        let mut verify = Command::new("systemd-analyze");
        verify.args(["--user", "--man=no", "verify"]).args(&names).env("XDG_RUNTIME_DIR", home.path("run"));
        let verified = verify.output();
        let verified = verified.expect("it runs");
        let said: Vec<_> = words(&verified).lines().filter(|line| line.contains("valetd")).map(str::to_owned).collect();
        assert!(verified.status.success() && said.is_empty(), "{odd}: {said:?}\n{printed}");
    }
}

fn can(command: &[&str]) -> bool {
    let output = Command::new(command[0]).args(&command[1..]).output();
    output.is_ok_and(|output| output.status.success())
}

/// A command as another user.
fn as_user(uid: u32, plain: Command) -> Command {
    let uid = uid.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups"]).arg(plain.get_program()).args(plain.get_args());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// Runs a command to its end, with something on its standard input.
fn talk(mut command: Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes()); // it may have left already
    child.wait_with_output().expect("it ends")
}
