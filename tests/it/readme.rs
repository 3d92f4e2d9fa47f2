//! Every command in the README is run, every number in it has a source, its picture is true, and every test that the
//! security page names is there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use valetd::stand_in::{Options, PASSWORD, Provider, StandIn, USERNAME};

use crate::support::providers::start;
use crate::support::terminal::Terminal;
use crate::support::{Home, VALETD, free_address, words};

const README: &str = include_str!("../../README.md");

const SECURITY: &str = include_str!("../../SECURITY.md");

/// The lines of the README's shell blocks.
fn commands() -> Vec<&'static str> {
    let mut is_inside = false;
    let mut lines = Vec::new();
    for line in README.lines() {
        match line {
            "```sh" => is_inside = true,
            "```" => is_inside = false,
            line if is_inside => lines.push(line),
            _ => {}
        }
    }
    lines
}

#[test]
fn every_command_in_the_readme_works() {
    let server = start(Provider::Gbdx, Options::default());
    let home = home_with_presets(&[("cdse", &server, "/echo")]);
    let address = free_address();
    let port = address.rsplit(':').next().expect("a port").to_owned();

    let mut daemon = None;
    for line in commands() {
        let here = line.replace("8253", &port);
        match line {
            // the binary that it would install is the one that all of this runs
            line if line.starts_with("cargo install ") => {
                assert!(line.contains("--locked") && file("Cargo.toml").contains("[profile.quick]"), "{line}");
            }
            "valetd demo --once" => {
                let output = home.run(&["demo", "--once"]);
                assert!(output.status.success(), "{line}\n{}", words(&output));
            }
            "valetd login cdse" => {
                let mut terminal = Terminal::open(&home, line);
                terminal.answer("User name", USERNAME);
                terminal.answer("assword", PASSWORD);
                let (code, shown) = terminal.exit();
                assert_eq!(code, Some(0), "{line}\n{shown}");
                assert!(!shown.contains(PASSWORD), "the password shows: {shown}");
                let config = home.path("config/valetd/config.toml");
                let written = fs::read_to_string(&config).expect("login writes a configuration");
                fs::write(config, format!("listen = [\"{address}\"]\n{written}")).expect("written");
            }
            // it needs a service manager: tests/systemd follows it to the letter
            "valetd service install" => {
                assert!(file("tests/systemd/story").contains(line), "tests/systemd/story does not run: {line}");
                daemon = Some(home.start());
            }
            _ => {
                let daemon = daemon.as_ref().unwrap_or_else(|| panic!("{line} comes after the daemon"));
                daemon.until("cdse", "usable");
                let mut bash = Command::new("bash");
                bash.args(["-ec", &here.replace("curl ", "curl --fail --silent --show-error ")]);
                home.settle(&mut bash);
                let output = bash.env("PATH", home.bin()).output().expect("bash runs");
                assert!(output.status.success(), "{here}\n{}", words(&output));
            }
        }
    }
    assert!(daemon.is_some() && server.log().refused() == 0);
}

/// A home in which the built binary is on the `PATH`, and these presets lead to a stand-in, to a path of its API.
fn home_with_presets(servers: &[(&str, &StandIn, &str)]) -> Home {
    let home = Home::empty();
    fs::create_dir_all(home.path("bin")).expect("a folder");
    symlink(VALETD, home.path("bin/valetd")).expect("linked");
    fs::create_dir_all(home.path("config/valetd/providers")).expect("a folder");
    for (name, server, path) in servers {
        // the preset as it is, but for where it leads
        let preset = file(&format!("config/providers/{name}.toml"));
        let lines = preset.lines().map(|line| match line.split_once(" = \"https://") {
            Some(("token_endpoint", _)) => format!("token_endpoint = \"{}\"\n", server.token_endpoint()),
            Some(("cognito_endpoint", _)) => {
                format!("cognito_endpoint = \"{}\"\n", server.cognito_endpoint().expect("a preset of Cognito"))
            }
            Some(("revocation_endpoint", _)) => String::new(),
            Some(("upstream", _)) => format!("upstream = \"{}{path}\"\n", server.url()),
            Some(_) | None => format!("{line}\n"),
        });
        let preset: String = lines.collect();
        fs::write(home.path(&format!("config/valetd/providers/{name}.toml")), preset).expect("written");
    }
    home
}

/// A file of the source.
fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name))
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn the_readme_is_short_and_names_presets_that_there_are() {
    assert!(README.lines().count() <= 150, "{} lines", README.lines().count());
    let (_, table) = README.split_once("| preset |").expect("a table of providers");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let named: Vec<&str> =
        rows.filter_map(|row| row.split('|').nth(1)).flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(named.len() >= 10, "{named:?}");
    for name in named {
        assert!(file(&format!("config/providers/{name}.toml")).contains("description"), "{name}");
    }
}

/// Where each number in the README's sentences comes from: a phrase there, a file, and what stands in it.
const NUMBERS: [(&str, &str, &str); 7] = [
    ("Rust 1.90 or later", "Cargo.toml", "rust-version = \"1.90\""),
    ("HTTP/1.1, HTTP/2,", "Cargo.toml", "\"http1\", \"http2\""),
    ("An API's 401 renews", "src/proxy/exchange/service.rs", "async fn after_401("),
    ("(RFC 9457)", "src/proxy/policy/error.rs", "application/problem+json"),
    ("(RFC 9209)", "src/proxy/policy/error.rs", "\"proxy-status\""),
    ("localhost:8253/", "config/valetd.toml", "127.0.0.1:8253"),
    ("at most 15 seconds", "tests/it/ways.rs", "FROM_ADD_TO_RESPONSE: Duration = Duration::from_secs(15)"),
];

#[test]
fn every_number_in_the_readme_has_its_source() {
    for (phrase, name, part) in NUMBERS {
        assert!(README.contains(phrase), "{phrase:?} is gone");
        assert!(file(name).contains(part), "{phrase:?}: {name} has no {part:?}");
    }
    let mut is_inside = false;
    for line in README.lines() {
        is_inside ^= line.starts_with("```");
        if is_inside || line.starts_with("    ") {
            continue; // commands, which are run or read elsewhere
        }
        // what stands in backquotes is an example
        let mut said: String = line.split('`').step_by(2).collect();
        for (phrase, ..) in NUMBERS {
            said = said.replace(phrase, "");
        }
        assert!(!said.contains(|c: char| c.is_ascii_digit()), "a number without a source: {line}");
    }
}

#[test]
fn every_command_line_that_the_documents_and_the_help_show_is_understood() {
    let mut program = valetd::cli::command();
    program.build();
    let mut shown = Vec::new();
    for name in ["README.md", "examples/README.md", "tests/README.md", "SECURITY.md"] {
        shown.extend(file(name).lines().map(|line| (name.to_owned(), line.to_owned())));
    }
    let verbs = program.get_subcommands().flat_map(|verb| std::iter::once(verb).chain(verb.get_subcommands()));
    for verb in std::iter::once(&program).chain(verbs) {
        let texts = [verb.get_long_about(), verb.get_after_help(), verb.get_after_long_help()];
        for text in texts.into_iter().flatten() {
            shown.extend(text.to_string().lines().map(|line| (verb.get_name().to_owned(), line.to_owned())));
        }
    }
    let mut understood = 0;
    for (place, line) in shown {
        let Some(command) = line.strip_prefix("  ").map(str::trim_start).filter(|line| line.starts_with("valetd "))
        else {
            continue;
        };
        let words = shell_words(command);
        let parsed = program.clone().try_get_matches_from(&words);
        // help and version are answers, too
        assert!(
            parsed.as_ref().is_ok_and(|_| true) || parsed.as_ref().is_err_and(|e| e.exit_code() == 0),
            "{place}: {line}: {}",
            parsed.err().map(|error| error.to_string()).unwrap_or_default()
        );
        understood += 1;
    }
    assert!(understood >= 60, "{understood} commands");
}

/// The words of the first command on a line, without what explains it in the next column.
fn shell_words(line: &str) -> Vec<String> {
    let command = line.split("  ").next().unwrap_or_default();
    let mut words = Vec::new();
    for (index, part) in command.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
            continue;
        }
        for word in part.split_whitespace() {
            if word.starts_with(['|', '>', '<', '#', '&', '\\']) || word.starts_with("2>") || word == "..." {
                return words;
            }
            words.push(
                match word.trim_end_matches([';', ')']) {
                    "NAME" => "gbdx",
                    "sandbox" => "0", // a user of that machine
                    word => word,
                }
                .trim_matches('"')
                .to_owned(),
            );
        }
    }
    words
}

/// How the picture is drawn anew, once what it shows has changed.
const DRAW: &str = "cargo test --test it draw_the_picture -- --ignored";

#[test]
fn the_picture_shows_what_a_terminal_shows() {
    let drawn = picture(&free_address());
    assert_eq!(in_words(&file("examples/terminal.svg")), in_words(&drawn), "it is out of date: {DRAW}");
}

#[test]
#[ignore = "by hand: writes examples/terminal.svg"]
fn draw_the_picture() {
    let drawn = picture("127.0.0.1:8253");
    fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/terminal.svg"), drawn).expect("written");
}

/// A request and the status as a terminal shows them, drawn.
fn picture(address: &str) -> String {
    let lives = Options { access_lifetime: Duration::from_secs(50 * 60), ..Options::default() };
    let (cdse, gdh) = (start(Provider::Gbdx, lives), start(Provider::Gdh, lives));
    let home = home_with_presets(&[("cdse", &cdse, ""), ("gdh", &gdh, "")]);
    home.write_config(&format!(
        "listen = [\"{address}\"]\n[account.cdse]\nprovider = \"cdse\"\nlifetime = {{ refresh = \"30d\" }}\n[account.gdh]\nprovider = \"gdh\"\n"
    ));
    let daemon = home.start();
    let login = home.run_with_input(&["login", "cdse", "--username", USERNAME, "--password-stdin"], PASSWORD);
    assert!(login.status.success(), "{}", words(&login));
    let login = home.run(&["login", "gdh", "--code", &gdh.mint_code()]);
    assert!(login.status.success(), "{}", words(&login));
    daemon.until("gdh", "usable");
    let url = format!("http://{}/gdh/datasets", address.replace("127.0.0.1", "localhost"));
    let curl = format!("curl -s {url} | cut -c1-80");
    let line = format!("export TERM=xterm-256color; stty cols 100; {curl}; echo -----; valetd status");
    let (code, shown) = Terminal::open(&home, &line).exit();
    assert_eq!(code, Some(0), "{shown}");
    let (answer, status) = shown.split_once("-----").expect("both");
    let session = format!("$ {curl}\n{}\n\n$ valetd status\n{}\n", answer.trim(), status.trim());
    let mut python = Command::new("python3");
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/terminal_svg.py"));
    let drawn = crate::support::with_input(python, &session);
    assert!(drawn.status.success(), "{}", words(&drawn));
    String::from_utf8(drawn.stdout).expect("UTF-8")
}

/// What a picture says, with every number as 0.
fn in_words(svg: &str) -> Vec<String> {
    let texts = svg.lines().filter_map(|line| line.strip_prefix("<text ")?.split_once('>')?.1.strip_suffix("</text>"));
    let plain = |text: &str| {
        let mut said = String::new();
        for c in text.trim().chars() {
            match c {
                c if c.is_ascii_digit() || c == '.' || c == '&' => {
                    if !said.ends_with('0') {
                        said.push('0');
                    }
                }
                ' ' if said.ends_with(' ') => {}
                c => said.push(c),
            }
        }
        said
    };
    texts.map(plain).filter(|said| !said.is_empty()).collect()
}

#[test]
fn every_test_that_the_security_page_names_exists() {
    let stories = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it");
    let is_name =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    let named: Vec<(&str, &str)> = SECURITY
        .split('`')
        .filter_map(|text| text.split_once("::"))
        .filter(|(file, name)| is_name(file) && is_name(name))
        .collect();
    assert!(named.len() >= 30, "the page names {} tests", named.len());
    for (file, name) in named {
        let text = fs::read_to_string(format!("{stories}/{file}.rs")).unwrap_or_default();
        assert!(text.contains(&format!("fn {name}(")), "there is no {file}::{name}");
    }
}
