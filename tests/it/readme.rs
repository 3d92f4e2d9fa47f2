//! Every command in the README is run, and every test that the security page names is there.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use valetd::stand_in::{Options, PASSWORD, Provider, USERNAME};

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
    let gbdx = start(Provider::Gbdx, Options::default());
    let home = Home::empty();
    fs::create_dir_all(home.path("bin")).expect("a folder");
    symlink(VALETD, home.path("bin/valetd")).expect("linked");
    // the preset as it is, but for where it leads
    fs::create_dir_all(home.path("config/valetd/providers")).expect("a folder");
    let preset = include_str!("../../config/providers/gbdx.toml").replace("https://geobigdata.io", gbdx.url());
    fs::write(home.path("config/valetd/providers/gbdx.toml"), preset).expect("written");
    let address = free_address();
    let port = address.rsplit(':').next().expect("a port").to_owned();

    let mut daemon = None;
    for line in commands() {
        let here = line.replace("8253", &port);
        match line {
            "cargo test" => {}             // which is running this
            "cargo install --path ." => {} // the binary it would install is the one that all of this runs
            "valetd run" => daemon = Some(home.start()),
            line if line.starts_with("cargo run --release -- ") => {
                let arguments: Vec<&str> = line.split(' ').skip(4).collect();
                let output = home.run(&arguments);
                assert!(output.status.success(), "{line}\n{}", words(&output));
            }
            // these need a service manager: tests/systemd follows them to the letter
            line if line.contains("systemd") || line.contains("systemctl") || line.starts_with("valetd service") => {
                let story = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/systemd/story"));
                assert!(story.expect("the story").contains(line), "tests/systemd/story does not run: {line}");
            }
            "valetd login gbdx" => {
                let mut terminal = Terminal::open(&home, line);
                terminal.answer("User name", USERNAME);
                terminal.answer("assword", PASSWORD);
                let (code, shown) = terminal.exit();
                assert_eq!(code, Some(0), "{line}\n{shown}");
                assert!(!shown.contains(PASSWORD), "the password shows: {shown}");
                let file = home.path("config/valetd/config.toml");
                let written = fs::read_to_string(&file).expect("login writes a configuration");
                fs::write(file, format!("listen = [\"{address}\"]\n{written}")).expect("written");
            }
            _ => {
                assert!(daemon.is_some(), "{line} comes after valetd run");
                daemon.as_ref().expect("running").until("gbdx", "usable");
                let mut bash = Command::new("bash");
                bash.args(["-ec", &here.replace("curl ", "curl --fail --silent --show-error ")]);
                home.settle(&mut bash);
                let output = bash.env("PATH", home.bin()).output().expect("bash runs");
                assert!(output.status.success(), "{here}\n{}", words(&output));
            }
        }
    }
    assert_eq!(gbdx.log().refused(), 0);
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
