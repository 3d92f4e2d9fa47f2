//! The first five minutes: advice that is true where it is given.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::terminal::Terminal;
use crate::support::{Home, VALETD, eventually, free_address, words};

/// What a service manager and its units look like to who does not ask them.
fn with_manager(home: &Home) {
    fs::create_dir_all(home.path("run/systemd")).expect("a folder");
    fs::write(home.path("run/systemd/private"), "").expect("written");
}

fn with_units(home: &Home) {
    fs::create_dir_all(home.path("config/systemd/user")).expect("a folder");
    for unit in ["valetd.service", "valetd.socket", "valetd-control.socket"] {
        let shipped = fs::read_to_string(format!("{}/systemd/{unit}", env!("CARGO_MANIFEST_DIR"))).expect("shipped");
        let unit = home.path(&format!("config/systemd/user/{unit}"));
        fs::write(unit, shipped.replace("/usr/bin/valetd", VALETD)).expect("written");
    }
}

#[test]
fn the_command_that_is_said_to_start_the_daemon_is_one_that_works_here() {
    const UNITS: &str = "systemctl --user enable --now valetd.socket";
    type Row<'a> = (&'a str, fn(&Home), &'a str, &'a [&'a str]);
    let rows: [Row<'_>; 3] = [
        ("no service manager", |_| {}, "valetd run", &["systemctl", "service install"]),
        ("no units yet", with_manager, "valetd service install", &["systemctl"]),
        (
            "units",
            |home| {
                with_manager(home);
                with_units(home);
            },
            UNITS,
            &["service install"],
        ),
    ];
    for (case, prepare, expected, wrong) in rows {
        let home = Home::with("[account.gbdx]\nprovider = \"gbdx\"\n");
        prepare(&home);
        let login = home.run_with_input(&["login", "gbdx", "--refresh-token-stdin", "--untried"], "rt-of-a-person");
        assert!(login.status.success(), "{case}: {}", words(&login));
        for (verb, output) in [
            ("login", login),
            ("status", home.run(&["status"])),
            ("refresh", home.run(&["refresh", "gbdx"])),
            ("wait", home.run(&["wait", "--timeout", "0s"])),
            ("doctor", home.run(&["doctor", "--offline"])),
        ] {
            let said = words(&output);
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(said.contains(expected), "{case}, {verb}: {said}");
            for wrong in wrong {
                assert!(!said.contains(wrong), "{case}, {verb}: {said}");
            }
        }
    }
}

#[test]
fn a_daemon_of_a_place_without_a_session_is_found_from_a_session() {
    let address = free_address();
    let home = Home::with(&format!("listen = [\"{address}\"]\n"));
    // nobody makes /run/user/UID where there is no session; a user of this machine may have one all the same
    let mut command = home.valetd(&["run"]);
    command.env_remove("XDG_RUNTIME_DIR");
    let socket = home.path("state/valetd/run/valetd.sock");
    command.args(["--socket".as_ref(), socket.as_os_str()]);
    let log = fs::File::create(home.path("daemon.log")).expect("a log");
    let child = command.stderr(log).spawn().expect("it runs");
    let _daemon = crate::support::Killed(child);
    crate::support::eventually("it answers in a session", || {
        let status = home.run(&["status"]);
        words(&status).contains("No account yet").then_some(())
    });
    let status = home.run(&["status"]);
    assert_eq!(status.status.code(), Some(0), "{}", words(&status));
}

#[test]
fn a_daemon_that_listens_elsewhere_is_named_with_its_socket_and_none_is_said_to_be_started_beside_it() {
    let home = Home::with("listen = []\n[account.gbdx]\nprovider = \"gbdx\"\n");
    let socket = home.path("run/my own.sock");
    let mut command = home.valetd(&["run", "--socket"]);
    command.arg(&socket);
    let child = command.stderr(fs::File::create(home.path("daemon.log")).expect("a log")).spawn().expect("it runs");
    let _daemon = crate::support::Killed(child);
    crate::support::eventually("it serves", || {
        home.run_at(&socket, &["status"]).status.code().filter(|code| *code == 3)
    });
    let named = format!("--socket '{}'", socket.display());
    for verb in [
        &["status"][..],
        &["wait", "--timeout", "20s"],
        &["exec", "--timeout", "20s", "true"],
        &["refresh", "gbdx"],
        &["login", "gbdx", "--username", "me", "--password-stdin"],
        &["login", "gbdx", "--check"],
        &["logout", "gbdx"],
        &["lock"],
        &["events"],
        &["doctor", "--offline"],
    ] {
        let begun = Instant::now();
        let output = home.run(verb);
        let said = words(&output);
        assert!(output.status.code() == Some(1) && said.contains(&named), "{verb:?}: {said}");
        assert!(!said.contains("start it: "), "{verb:?}: it cannot be started: {said}");
        assert!(begun.elapsed() < Duration::from_secs(12), "{verb:?} waits for nothing");
    }
    let status = home.run_at(&socket, &["status"]);
    assert_eq!(status.status.code(), Some(3), "as it is said: {}", words(&status));
}

#[test]
fn a_misspelt_module_of_the_log_is_said_wherever_it_is_set_and_refuses_nothing() {
    let home = Home::with("listen = []\n");
    let told = "the log filter names \"reenwer\", and no module of that name logs anything (did you mean \
                \"valetd::renewer\"?)";
    let flat = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut check = home.valetd(&["check"]);
    let check = check.env("RUST_LOG", "valetd=debug,reenwer=trace").output().expect("it runs");
    assert!(check.status.success() && words(&check).contains(&format!("warning: {told}")), "{}", words(&check));
    let daemon = home.start_as(home.valetd(&["run", "--log", "valetd=debug,reenwer=trace"]));
    assert!(flat(daemon.log()).contains(told), "{}", daemon.log());
    assert!(flat(words(&home.run(&["status"]))).contains(&format!("warning: {told}")));
    let changed = home.run(&["log", "info,valetd::proxi=debug"]);
    let said = words(&changed);
    assert!(changed.status.success() && said.contains("(did you mean \"valetd::proxy\"?)"), "{said}");
    assert!(!words(&home.run(&["log", "info,valetd::proxy=debug"])).contains("did you mean"));
}

#[test]
fn who_waits_for_a_daemon_is_told_so() {
    let home = Home::with("[account.gbdx]\nprovider = \"gbdx\"\n");
    let waited = home.run(&["wait", "--timeout", "2s"]);
    assert_eq!(waited.status.code(), Some(1));
    assert!(words(&waited).contains("; waiting up to 2 s for one\n"), "{}", words(&waited));
}

#[test]
fn the_configurations_addresses_are_compared_with_the_installed_socket() {
    let home = Home::with("listen = [\"127.0.0.1:9000\"]\n");
    with_manager(&home);
    let check = home.run(&["check"]);
    assert!(!words(&check).contains("valetd.socket"), "no unit is installed: {}", words(&check));
    with_units(&home);
    let check = home.run(&["check"]);
    let said = words(&check);
    assert!(check.status.success() && said.contains("warning: the service listens where valetd.socket says"), "{said}");
    assert!(said.contains("not where listen does (127.0.0.1:9000)") && said.contains("service install --listen"));
    // the drop-in that this prints is what mends it
    let printed = home.run(&["service", "install", "--listen", "--print"]);
    let said = words(&printed);
    assert!(
        said.contains("valetd.socket.d/listen.conf\n") && said.contains("ListenStream=\nListenStream=127.0.0.1:9000\n")
    );
    let drop_in = said.split("listen.conf\n").nth(1).expect("the drop-in comes last");
    fs::create_dir_all(home.path("config/systemd/user/valetd.socket.d")).expect("a folder");
    fs::write(home.path("config/systemd/user/valetd.socket.d/listen.conf"), drop_in).expect("written");
    assert!(!words(&home.run(&["check"])).contains("warning"), "{}", words(&home.run(&["check"])));
}

#[test]
fn sockets_that_stand_in_for_the_configurations_are_told_by_the_daemon() {
    if !Command::new("systemd-socket-activate").arg("--version").output().is_ok_and(|said| said.status.success()) {
        eprintln!("skipped: no systemd-socket-activate");
        return;
    }
    let (manager, listed) = (free_address(), free_address());
    let home = Home::with(&format!("listen = [\"{listed}\"]\n"));
    fs::create_dir_all(home.path("run/valetd")).expect("a folder");
    let mut command = Command::new("systemd-socket-activate");
    let socket = home.socket().display().to_string();
    command.args(["-l", &manager, "-l", &socket, "--fdname=http:control"]);
    for name in ["HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"] {
        command.args(["-E", name]);
    }
    command.args([VALETD, "run"]);
    home.settle(&mut command);
    let _daemon = home.start_as(command);
    let said = words(&home.run(&["status"]));
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains(&format!("valetd.socket says ({manager}), not where listen does ({listed})")), "{said}");
    let said = words(&home.run(&["doctor", "--offline"]));
    assert!(said.contains("valetd.socket says"), "{said}");
}

#[test]
fn a_program_that_was_replaced_is_told_until_the_daemon_is_started_anew() {
    let address = free_address();
    let home = Home::with(&format!("listen = [\"{address}\"]\n"));
    fs::create_dir_all(home.path("bin")).expect("a folder");
    let program = home.path("bin/valetd");
    fs::copy(VALETD, &program).expect("copied");
    let start = || {
        let mut command = Command::new(&program);
        home.settle(&mut command);
        command.arg("run");
        home.start_as(command)
    };
    let daemon = start();
    assert!(!words(&home.run(&["status"])).contains("replaced"), "{}", daemon.log());
    fs::copy(VALETD, home.path("bin/new")).expect("copied");
    fs::rename(home.path("bin/new"), &program).expect("as cargo and packages do");
    for verb in [&["status"][..], &["doctor", "--offline"]] {
        let said = words(&home.run(verb)).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains("program file has been replaced since this daemon started"), "{said}");
        let restart = format!("end process {} (Ctrl-C where it runs) and start it again", daemon.child.id());
        assert!(said.contains(&restart) && !said.contains("systemctl"), "no service manager runs it: {said}");
    }
    drop(daemon);
    let _daemon = start();
    assert!(!words(&home.run(&["status"])).contains("replaced"));
}

#[test]
fn a_topic_is_explained_and_a_verb_shows_its_help() {
    let home = Home::empty();
    let topics = words(&home.run(&["help"]));
    for topic in ["config", "providers", "sign-in", "agents", "service", "backup", "exit-codes"] {
        assert!(topics.contains(&format!("valetd help {topic} ")), "{topics}");
        let output = home.run(&["help", topic]);
        assert!(output.status.success() && output.stdout.len() > 500, "{topic}: {}", words(&output));
    }
    for verb in [&["login"][..], &["key", "add"]] {
        let (said, help) = (home.run(&[&["help"], verb].concat()), home.run(&[verb, &["--help"]].concat()));
        assert_eq!(words(&said), words(&help), "{verb:?}");
    }
    let unknown = home.run(&["help", "backups"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(words(&unknown).contains("(did you mean \"backup\"?)"), "{}", words(&unknown));
}

/// An account whose endpoints are at `address`, with everything that a story here needs.
fn lab(listen: &str, address: &str) -> String {
    format!(
        "listen = [\"{listen}\"]\n[account.lab]\ntoken_endpoint = \"http://{address}/token\"\nclient_id = \"x\"\n\
         upstream = \"http://{address}/\"\nsign_in = [\"password\"]\nimport = [{{ environment = \"LAB_TOKEN\" }}, \
         {{ json_file = \"~/.lab/token.json\" }}]\n"
    )
}

#[test]
fn what_cannot_be_done_says_the_remedy_and_says_it_once() {
    let (taken, nowhere) = (free_address(), free_address());
    let _holder = std::net::TcpListener::bind(&taken).expect("free until now");
    let home = Home::with(&lab(&taken, &nowhere));
    let login = &["login", "lab", "--username", "me", "--password-stdin"][..];
    let untried = &["login", "lab", "--refresh-token-stdin", "--untried"][..];
    type Row<'a> = (&'a str, &'a [&'a str], &'a [(&'a str, &'a str)], i32, &'a str, &'a str);
    let rows: [Row<'_>; 12] = [
        ("a taken port", &["run"], &[], 1, "is taken by process", "name another address"),
        ("no unit", &["key", "add", "a", "--route", "lab", "--expires", "2"], &[], 2, "'2'", "say of what: 2s, 2m, 2h"),
        (
            "no level",
            &["run", "--log", "loud"],
            &[],
            2,
            "\"loud\" is no level",
            "(off, error, warn, info, debug, trace)",
        ),
        ("no level, from outside", &["run"], &[("RUST_LOG", "dbug")], 2, "RUST_LOG: ", "(did you mean \"debug\"?)"),
        ("nobody answers", login, &[], 1, "connection refused", "look at the network"),
        ("nothing may be kept", untried, &[("XDG_STATE_HOME", "/sys")], 1, "permission denied", "name another place"),
        (
            "a daemon that may keep nothing",
            &["run"],
            &[("XDG_STATE_HOME", "/sys")],
            1,
            "permission denied",
            "name another place",
        ),
        (
            "nothing may be configured",
            &["login", "gbdx"],
            &[("XDG_CONFIG_HOME", "/sys")],
            1,
            "permission denied",
            "--config",
        ),
        (
            "nothing may be added",
            &["add", "mine", "gbdx"],
            &[("XDG_CONFIG_HOME", "/sys")],
            1,
            "permission denied",
            "--config",
        ),
        ("a folder", &["check", "--config", "/usr"], &[], 1, "is a folder", "name a file"),
        (
            "no level at all",
            &["run", "--log", ","],
            &[],
            2,
            "it names no level",
            "(off, error, warn, info, debug, trace)",
        ),
        ("no service manager", &["service", "status"], &[], 1, "no systemd user manager", "works under any supervisor"),
    ];
    for (case, verb, variables, code, cause, remedy) in rows {
        let mut command = home.valetd(verb);
        command.envs(variables.iter().copied());
        let said = crate::support::with_input(command, "a-secret");
        assert_eq!(said.status.code(), Some(code), "{case}: {}", words(&said));
        let said = words(&said);
        for once in [cause, remedy] {
            assert_eq!(said.matches(once).count(), 1, "{case}, {once}: {said}");
        }
        assert!(!said.contains("os error"), "{case}: {said}");
    }
    let import = words(&home.run(&["login", "lab", "--import"]));
    let place = home.path(".lab/token.json");
    assert!(import.contains(&format!("looked in $LAB_TOKEN, {}", place.display())), "{import}");
}

#[test]
fn a_live_view_ends_when_its_terminal_is_gone() {
    let home = Home::with(&lab("127.0.0.1:0", "127.0.0.1:9"));
    let _daemon = home.start();
    for before in ["", "trap '' HUP; "] {
        let line = format!("{before}echo pid=$$=; exec '{VALETD}' status --watch");
        let mut terminal = Terminal::open(&home, &line);
        terminal.until("pid=");
        let process = format!("/proc/{}/stat", terminal.until("="));
        terminal.until("lab");
        terminal.hang_up();
        eventually("it has ended", || {
            let stat = fs::read_to_string(&process).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        });
    }
}

#[test]
fn what_a_later_version_has_stored_stays_until_a_person_drops_it() {
    let (address, nowhere) = (free_address(), free_address());
    let home = Home::with(&lab(&address, &nowhere));
    fs::create_dir_all(home.path("state/valetd")).expect("a folder");
    let (file, later) = (home.path("state/valetd/lab.json"), "{\"version\": 999, \"sealed\": \"AAAA\"}");
    fs::write(&file, later).expect("written");
    let daemon = home.start();
    let login = || home.run_with_input(&["login", "lab", "--refresh-token-stdin", "--untried"], "a-refresh-token");
    for said in [words(&home.run(&["status"])), words(&login())] {
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains("written by a later valetd") && said.contains("'valetd logout NAME'"), "{said}");
        assert!(!said.contains("valetd login"), "this does not mend it: {said}");
    }
    assert_eq!(fs::read_to_string(&file).expect("still there"), later);
    let logout = home.run(&["logout", "lab"]);
    assert!(logout.status.success() && !file.exists(), "{}", words(&logout));
    assert!(words(&login()).contains("lab: signed in"), "the remedy works");
    assert!(fs::read_to_string(&file).expect("saved").contains("a-refresh-token"));
    drop(daemon);
    fs::write(&file, later).expect("written");
    let said = words(&login());
    assert!(said.contains("written by a later valetd"), "{said}");
    assert!(home.run(&["logout", "lab"]).status.success() && !file.exists(), "also while no daemon runs");
}

#[test]
fn every_command_that_is_advised_reaches_the_daemon_that_it_is_about() {
    let (address, nowhere) = (free_address(), free_address());
    let home = Home::empty();
    let (config, socket) = (home.path("other.toml"), home.path("run/other.sock"));
    fs::write(&config, lab(&address, &nowhere)).expect("written");
    let places = ["--config", config.to_str().expect("text"), "--socket", socket.to_str().expect("text")];
    let log = fs::File::create(home.path("daemon.log")).expect("a log");
    let child = home.valetd(&[&["run"][..], &places].concat()).stderr(log).spawn().expect("it runs");
    let _daemon = crate::support::Killed(child);
    let answer = crate::support::eventually("it answers", || {
        crate::support::get(&address, "/lab/x").ok().filter(|answer| answer.status == 503)
    });
    let login = format!("valetd {} login lab", places.join(" "));
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).expect("a problem document");
    assert_eq!(problem["login"], login.as_str());
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.ends_with(&format!("Run: {login}"))), "{problem:#}");
    let with_places = |verb: &[&str]| {
        let said = words(&home.run(&[verb, &places].concat()));
        said.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for verb in [&["status"][..], &["refresh", "lab"], &["wait", "lab"], &["doctor", "--offline"]] {
        let said = with_places(verb);
        assert!(said.contains(&login), "{verb:?}: {said}");
    }
    let (list, add) = (with_places(&["key", "list"]), format!("valetd {} key add NAME", places.join(" ")));
    assert!(list.contains(&add), "{list}");
    // and it does reach it
    let reached = with_places(&["login", "lab", "--code", "x"]);
    assert!(reached.contains("signing in to lab"), "{reached}");
}

#[test]
fn a_login_proposes_no_way_that_the_account_has_not() {
    let home = Home::with(&lab(&free_address(), &free_address()));
    let login = words(&home.run(&["login", "lab"]));
    assert!(login.contains("--username NAME --password-stdin, --refresh-token-stdin or --import"), "{login}");
    for wrong in ["--code", "--device", "--browser"] {
        assert!(!login.contains(wrong), "{login}");
    }
    let device = words(&home.run(&["login", "lab", "--device"]));
    assert!(device.contains("no device_authorization_endpoint") && device.contains("use --username NAME"), "{device}");
}

#[test]
fn a_program_that_the_service_would_not_see_is_not_installed() {
    let home = Home::empty();
    with_manager(&home);
    fs::create_dir_all(home.path("bin")).expect("a folder");
    let program = home.path("bin/valetd");
    fs::copy(VALETD, &program).expect("copied");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        home.settle(&mut command);
        command.args(arguments).output().expect("it runs")
    };
    let install = run(&["service", "install"]);
    let said = words(&install);
    assert_eq!(install.status.code(), Some(1), "{said}");
    assert!(said.contains("in a temporary folder") && said.contains("nothing was changed"), "{said}");
    assert!(said.contains("~/.local/bin"), "{said}");
    assert!(!home.path("config/systemd").exists(), "nothing is written");
    // units that were installed for it before
    with_units(&home);
    let unit = home.path("config/systemd/user/valetd.service");
    let text = fs::read_to_string(&unit).expect("a unit");
    fs::write(&unit, text.replace(VALETD, program.to_str().expect("text"))).expect("written");
    for verb in [&["service", "status"][..], &["doctor", "--offline"]] {
        let said = words(&run(verb)).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains("it cannot start: ") && said.contains("in a temporary folder"), "{verb:?}: {said}");
    }
    let status = words(&run(&["status"]));
    assert!(status.contains("valetd service install") && !status.contains("systemctl"), "{status}");
}

#[test]
fn what_is_not_installed_is_not_said_to_have_been_stopped() {
    let home = Home::empty();
    with_manager(&home);
    let said = words(&home.run(&["service", "uninstall"]));
    assert!(said.contains("it is not installed") && !said.contains("stopped"), "{said}");
}

#[test]
fn a_server_that_cannot_be_asked_is_not_blamed() {
    let home = Home::with("");
    let address = free_address();
    let said = words(&home.run(&["add", "x", &format!("http://{address}/mcp")]));
    assert!(said.contains("connection refused") && said.contains("look at the address, the network"), "{said}");
    assert!(!said.contains("does not say how to sign in"), "{said}");
}

#[test]
fn a_renewal_that_wants_a_sign_in_first_says_so_once_and_by_its_exit_code() {
    let home = Home::with(&lab(&free_address(), &free_address()));
    let _daemon = home.start();
    let refresh = home.run(&["refresh", "lab"]);
    let said = words(&refresh);
    assert_eq!(refresh.status.code(), Some(3), "{said}");
    assert_eq!(said.matches("valetd login lab").count(), 1, "{said}");
}

#[test]
fn who_waits_for_a_daemon_that_does_not_answer_waits_no_longer_than_was_said() {
    let home = Home::with(&lab(&free_address(), &free_address()));
    let daemon = home.start();
    daemon.tell("STOP");
    let began = Instant::now();
    let wait = home.run(&["wait", "lab", "--timeout", "1s"]);
    let said = words(&wait);
    assert_eq!(wait.status.code(), Some(1), "{said}");
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}: {said}", began.elapsed());
    assert!(said.contains("did not answer within 1 s") && said.contains("doctor' names its process"), "{said}");
    let doctor = words(&home.run(&["doctor", "--offline"])).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        doctor.contains(&format!("(pid {})", daemon.child.id())) && doctor.contains("end it, and start"),
        "{doctor}"
    );
    assert!(!doctor.contains("start it: valetd"), "what is there cannot be started: {doctor}");
    daemon.tell("CONT");
}

#[test]
fn without_a_service_manager_the_units_are_removed_and_what_was_not_done_is_said() {
    let home = Home::with("listen = []\n");
    with_units(&home);
    let units = home.path("config/systemd/user");
    let written = "# Written by 'valetd service install'; to change a setting: systemctl --user edit valetd\n";
    for unit in ["valetd.service", "valetd.socket", "valetd-control.socket"] {
        let text = fs::read_to_string(units.join(unit)).expect("a unit");
        fs::write(units.join(unit), format!("{written}{text}")).expect("written");
        let wants = if unit == "valetd.service" { "default.target.wants" } else { "sockets.target.wants" };
        fs::create_dir_all(units.join(wants)).expect("a folder");
        std::os::unix::fs::symlink(units.join(unit), units.join(wants).join(unit)).expect("a link");
    }
    std::os::unix::fs::symlink("/x/other.service", units.join("default.target.wants/other.service")).expect("a link");
    let daemon = home.start();
    let uninstall = home.run(&["service", "uninstall"]);
    let said = words(&uninstall);
    assert_eq!(uninstall.status.code(), Some(1), "{said}");
    assert!(said.contains("nothing was stopped: ") && said.contains("runs and goes on: end it"), "{said}");
    let pid = daemon.status()["daemon"]["pid"].to_string();
    assert!(said.contains(&format!("(pid {pid})")), "{said}");
    let left = |folder: &str| fs::read_dir(units.join(folder)).expect("a folder").count();
    assert_eq!((left("default.target.wants"), left("sockets.target.wants"), left(".")), (1, 0, 2), "{said}");
}

#[test]
fn units_stay_where_the_service_manager_cannot_be_told() {
    let home = Home::empty();
    with_manager(&home); // at whose socket nobody listens
    with_units(&home);
    let unit = home.path("config/systemd/user/valetd.service");
    let written = "# Written by 'valetd service install'; to change a setting: systemctl --user edit valetd\n";
    let text = fs::read_to_string(&unit).expect("a unit");
    fs::write(&unit, format!("{written}{text}")).expect("written");
    let uninstall = home.run(&["service", "uninstall"]);
    let said = words(&uninstall);
    assert_eq!(uninstall.status.code(), Some(1), "{said}");
    assert!(said.contains("nothing was removed") && !said.contains("stopped"), "{said}");
    assert!(unit.exists(), "what runs on can still be stopped by its name");
}
