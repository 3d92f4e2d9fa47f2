//! The demonstration, as a person at a terminal has it.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use valetd::stand_in::{PASSWORD, USERNAME};

use crate::support::terminal::Terminal;
use crate::support::{Home, Killed, VALETD, eventually, free_address, free_ports, get, words};

fn home() -> Home {
    let home = Home::empty();
    fs::create_dir_all(home.path("bin")).expect("a folder");
    symlink(VALETD, home.path("bin/valetd")).expect("linked");
    home
}

/// A text without its escape sequences.
fn plain(shown: &str) -> String {
    let mut parts = shown.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    // a sequence ends with its first letter; each line is put in its place by one
    first
        + &parts
            .map(|part| part.split_once(|c: char| c.is_ascii_alphabetic()).map_or("", |(_, rest)| rest))
            .collect::<Vec<_>>()
            .join("\n")
}

#[test]
fn the_live_demonstration_fits_the_terminal_and_does_what_its_keys_say() {
    for width in [60, 80, 140] {
        let home = home();
        let mut terminal = Terminal::open(&home, &format!("stty cols {width} rows 24; valetd demo --tokens 90s"));
        let page = plain(&terminal.until("/valetd status"));
        for line in page.lines().filter(|line| line.contains(['█', '·']) || line.contains("localhost:")) {
            assert!(line.trim_end().chars().count() <= width, "{width}: {line:?}\n{page}");
        }
        assert!(page.matches('█').count() >= 2 * 10, "two bars:\n{page}");
        terminal.press("o");
        terminal.until("No authorization server is in order");
        terminal.press("o");
        terminal.until("in order again");
        terminal.press("r");
        terminal.until("refuse every token");
        terminal.press("q");
        let (code, shown) = terminal.exit();
        assert_eq!(code, Some(0), "{shown}");
    }
}

#[test]
fn a_person_can_practise_signing_in_at_fixed_ports() {
    let home = home();
    let port = free_ports(3);
    let mut command = home.valetd(&["demo", &format!("--keep={port}")]);
    let log = fs::File::create(home.path("demo")).expect("a file");
    let demo = command.stdout(log).stderr(Stdio::null()).spawn().expect("it runs");
    let demo = Killed(demo);
    let shown = eventually("it says how", || {
        let shown = fs::read_to_string(home.path("demo")).expect("readable");
        shown.contains("Ctrl-C ends it").then_some(shown)
    });
    assert!(shown.contains(USERNAME) && shown.contains(PASSWORD), "{shown}");
    // the demonstration's own daemon, as it is said
    let line =
        |part: &str| shown.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}:\n{shown}"));
    let output = std::process::Command::new("sh").args(["-c", line("login gdh --code")]).output().expect("sh runs");
    assert!(output.status.success(), "{}", words(&output));
    let url = line("curl ").split_whitespace().nth(1).expect("a URL").to_owned();
    let (address, path) = url.trim_start_matches("http://").split_once('/').expect("a path");
    let get = |path: &str| get(&address.replace("localhost", "127.0.0.1"), path).expect("an answer");
    assert_eq!(get("/gdh/ping").status, 200);
    assert_eq!(get(&format!("/{path}")).status, 503, "nobody is signed in to this one");
    let mut terminal = Terminal::open(&home, line("login gbdx").trim());
    terminal.answer("User name", USERNAME);
    terminal.answer("assword", PASSWORD);
    assert_eq!(terminal.exit().0, Some(0));
    assert_eq!(get(&format!("/{path}")).status, 200);
    // a daemon of one's own, with the lines that it shows
    let own = free_address();
    let lines: Vec<&str> =
        shown.lines().skip_while(|line| !line.contains("[account.gbdx]")).take_while(|line| !line.is_empty()).collect();
    home.write_config(&format!("listen = [\"{own}\"]\n{}\n", lines.join("\n")));
    let daemon = home.start();
    let login = ["login", "gbdx", "--username", USERNAME, "--password-stdin"];
    let output = home.run_with_input(&login, PASSWORD);
    assert!(output.status.success(), "{}", words(&output));
    assert_eq!(crate::support::get(&own, "/gbdx/auth/v1/validate_token").expect("an answer").status, 200);
    drop(daemon);
    drop(demo);
    // and on the smallest terminal all of that is in sight
    let mut terminal = Terminal::open(&home, &format!("stty cols 80 rows 24; valetd demo --keep={port}"));
    let page = plain(&terminal.until("upstream = "));
    for part in ["q ends it", USERNAME, PASSWORD, "login gdh --code", "token_endpoint"] {
        assert!(page.contains(part), "{part}:\n{page}");
    }
    terminal.press("q");
    assert_eq!(terminal.exit().0, Some(0));
}

#[test]
fn a_taken_port_and_a_life_that_is_over_at_once_are_told() {
    let home = home();
    let port = free_ports(3);
    let _holder = std::net::TcpListener::bind(("127.0.0.1", port + 2)).expect("free");
    let mut terminal = Terminal::open(&home, &format!("stty cols 140 rows 30; valetd demo --keep={port}"));
    let page = plain(&terminal.until("upstream = "));
    assert!(page.contains(&format!("Port {} is taken, so this daemon is at http://localhost:", port + 2)), "{page}");
    // the page of the stand-in, and not the provider's
    let folder = page.split("sh ").nth(1).and_then(|rest| rest.split("/valetd login").next()).expect("its folder");
    let config = fs::read_to_string(format!("{folder}/config.toml")).expect("its configuration");
    assert!(config.contains(&format!("login_page = \"http://127.0.0.1:{port}/login?response_type=code\"")), "{config}");
    // a code is good once: the page shows another one then
    let code = |page: &str| page.split("login gdh --code ").last().expect("it is there")[..36].to_owned();
    let (first, program) = (code(&page), format!("{folder}/valetd"));
    let with_code = |code: &str| {
        let arguments = [program.as_str(), "login", "gdh", "--code", code];
        words(&std::process::Command::new("sh").args(arguments).output().expect("sh runs"))
    };
    assert!(with_code(&first).contains("gdh: signed in"));
    let second =
        eventually("another code is shown", || Some(code(&plain(&terminal.shown()))).filter(|second| *second != first));
    assert!(with_code(&second).contains("gdh: signed in"));
    terminal.press("q");
    assert_eq!(terminal.exit().0, Some(0));
    for life in ["0s", "1s"] {
        let refused = home.run(&["demo", "--once", "--tokens", life]);
        assert!(
            refused.status.code() == Some(2) && words(&refused).contains("name 5 s at least"),
            "{}",
            words(&refused)
        );
    }
}
