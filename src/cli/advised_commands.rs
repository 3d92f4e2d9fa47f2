//! Every command that a message advises is one that the command line takes, and is said so that it reaches this daemon.
//! Both are read from the sources.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;

use super::{Program, command};

/// What stands in a message for a name.
const PLACEHOLDERS: [(&str, &str); 12] = [
    ("{account}", "gbdx"),
    ("{id}", "gbdx"),
    ("{name}", "gbdx"),
    ("{route}", "gbdx"),
    ("{provider}", "gbdx"),
    ("{scope}", "read"),
    ("{}", "gbdx"),
    ("NAME", "gbdx"),
    ("PROVIDER", "gbdx"),
    ("ROUTE", "gbdx"),
    ("URL", "https://api.example"),
    ("'", ""),
];

/// Where a bare `valetd VERB` is right, with what it is there. `valetd service` takes no options for places.
const BARE: [(&str, &str); 11] = [
    ("cli/exec.rs", "who speaks"),
    ("cli/exec/isolate.rs", "who speaks"),
    ("cli/help/", "a text for whoever has no daemon yet"),
    ("cli/exec/help.rs", "the same"),
    ("cli/demo/", "the demonstration's own name"),
    ("cli/manager.rs", "what starts a daemon at the usual places"),
    ("cli/service/", "the same"),
    ("intercept/", "who speaks"),
    ("bridge/mod.rs", "who speaks"),
    ("control/api.rs", "what a process is called"),
    ("proxy/policy/error.rs", "told to strangers, whom our places do not concern"),
];

/// A file of the sources, without its tests, its comments and the help texts of clap.
fn messages_of(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let mut rest = text;
    let mut out = String::new();
    while let Some(start) = rest.find("#[command(").into_iter().chain(rest.find("#[arg(")).min() {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        rest = rest.find(")]").map_or("", |end| &rest[end + 2..]);
    }
    out.push_str(rest);
    let lines = out.lines().filter(|line| !line.trim_start().starts_with("//"));
    // a literal goes on after a backslash, where its line does not begin with blanks
    lines.fold(String::new(), |text, line| match text.strip_suffix("\\\n") {
        Some(before) => format!("{before}{}\n", line.trim_start()),
        None => format!("{text}{line}\n"),
    })
}

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders: Vec<PathBuf> = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().display().to_string();
            let is_for_tests = ["tests", "testing", "fuzzing", "simulation", "stand_in", "advised_commands"];
            if is_for_tests.iter().any(|part| name.contains(part)) {
                continue;
            }
            match path.is_dir() {
                true => folders.push(path),
                false if name.ends_with(".rs") => found.push((name, messages_of(&path))),
                false => {}
            }
        }
    }
    found
}

/// The commands that a text advises by the door of `advice`, or behind `{invocation}`.
fn advised_in(text: &str) -> Vec<String> {
    let after = |mark: &'static str| text.split(mark).skip(1);
    let ends = |rest: &str, at: &[char]| rest.split(at).next().unwrap_or_default().to_owned();
    let by_door = after("advised(\"").chain(after("advised(format_args!(\"")).map(|rest| ends(rest, &['"']));
    let behind = after("{invocation} ").map(|rest| ends(rest, &['"', '`', '\'', ';', ',', '(', ')', '\\']));
    by_door.chain(behind).filter(|command| !command.is_empty()).collect()
}

#[test]
fn every_command_that_a_message_advises_is_one_that_the_command_line_takes() {
    let mut seen = 0;
    for (file, text) in sources() {
        for advised in advised_in(&text) {
            let mut words = advised.clone();
            for (placeholder, meant) in PLACEHOLDERS {
                words = words.replace(placeholder, meant);
            }
            // a list of verbs ends with words for people
            let parsed = Program::try_parse_from(["valetd"].into_iter().chain(words.split_whitespace()));
            let is_part = ["key add", "login gbdx --scope"].contains(&words.trim());
            assert!(parsed.is_ok() || is_part, "{file}: {advised}: {}", parsed.unwrap_err());
            seen += 1;
        }
    }
    assert!(seen > 40, "they are found: {seen}");
}

#[test]
fn no_message_advises_a_command_that_reaches_the_usual_places_alone() {
    let program = command();
    let verbs: Vec<&str> = program.get_subcommands().map(clap::Command::get_name).collect();
    let mut bare = Vec::new();
    for (file, text) in sources() {
        if BARE.iter().any(|(exempt, _)| file.starts_with(exempt)) {
            continue;
        }
        for rest in text.split("valetd ").skip(1) {
            let verb = rest.split(|c: char| !c.is_ascii_lowercase() && c != '-').next().unwrap_or_default();
            // the service has the usual places alone; and a key's label
            let is_bare = rest.starts_with("service ") || rest.starts_with("seal slot");
            if verbs.contains(&verb) && !is_bare {
                bare.push(format!("{file}: valetd {}", rest.lines().next().unwrap_or_default()));
            }
        }
    }
    assert!(bare.is_empty(), "say it with advised(): {bare:#?}");
}
