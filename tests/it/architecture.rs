//! The map in `src/lib.rs` is true: every import goes down its floors, and neither files nor folders beside each other
//! import each other in a circle. Stories import what they are told with, and no other story.
//!
//! It reads the source as text. Test modules, and modules that only tests, fuzzing or benchmarks have, may look anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module's path in the crate, as in `["proxy", "route"]`.
type Module = Vec<String>;

/// Circles that are still there. A list may shrink: what has left its circle must leave the list, too.
const KNOWN_CIRCLES: &[&[&str]] = &[];

/// What a pure floor has no use for, as it would stand in code.
const IMPURE: [&str; 13] = [
    "Instant",
    "SystemTime::now",
    "std::env",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::os",
    "std::process",
    "std::thread",
    "tokio::",
    "rustix::",
    "rand::",
    ".await",
];

/// Which of these a code has: whole words, for `awaited` waits for nothing.
fn impure(code: &str) -> impl Iterator<Item = &'static str> {
    let is_there = |word: &&str| {
        let goes_on = |at: usize| code[at..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
        code.match_indices(*word).any(|(at, _)| word.ends_with("::") || !goes_on(at + word.len()))
    };
    IMPURE.into_iter().filter(is_there)
}

/// The crate's modules that a release has, with their code.
struct House {
    files: BTreeMap<Module, String>,
}

impl House {
    fn read() -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut texts = BTreeMap::new();
        read_folder(&source, &source, &mut texts);
        let for_tests: Vec<Module> = texts.keys().filter(|module| is_for_tests(module, &texts)).cloned().collect();
        let kept = texts.into_iter().filter(|(module, _)| !for_tests.iter().any(|outer| module.starts_with(outer)));
        Self { files: kept.map(|(module, text)| (module, code(&text))).collect() }
    }

    /// Which modules each one names; the longest path that is a file counts.
    fn imports(&self, module: &Module) -> BTreeSet<Module> {
        let mut found = BTreeSet::new();
        for path in paths(&self.files[module]) {
            let mut from = Vec::new();
            let mut words = path.as_slice();
            if words[0] != "crate" {
                from.clone_from(module);
                while let Some((_, rest)) = words.split_first().filter(|(first, _)| *first == "super") {
                    from.pop();
                    words = rest;
                }
            } else {
                words = &words[1..];
            }
            from.extend_from_slice(words);
            while !from.is_empty() && !self.files.contains_key(&from) {
                from.pop();
            }
            if !from.is_empty() && from != *module {
                found.insert(from);
            }
        }
        found
    }
}

fn read_folder(root: &Path, folder: &Path, texts: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(folder).expect("a folder of the source") {
        let path: PathBuf = entry.expect("an entry").path();
        if path.is_dir() {
            read_folder(root, &path, texts);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let below = path.strip_prefix(root).expect("below it").with_extension("");
            let mut module: Module = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            if module == ["main"] {
                continue; // another crate
            }
            if module.last().is_some_and(|last| last == "mod" || last == "lib") {
                module.pop();
            }
            texts.insert(module, fs::read_to_string(&path).expect("UTF-8"));
        }
    }
}

/// Whether the module is declared under a `cfg` for tests, fuzzing or a feature.
fn is_for_tests(module: &Module, texts: &BTreeMap<Module, String>) -> bool {
    let Some((name, parent)) = module.split_last() else { return false };
    let lines: Vec<&str> = texts[parent].lines().collect();
    let declaration = format!("mod {name};");
    let at = lines.iter().position(|line| *line == declaration || line.ends_with(&format!(" {declaration}")));
    let at = at.unwrap_or_else(|| panic!("nobody declares {}", module.join("::")));
    lines[..at].iter().rev().take_while(|line| line.starts_with("#[")).any(|line| line.starts_with("#[cfg("))
}

/// The text without comments, without its tests and without imports that only tests have.
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod tests {").next().expect("there is always a first part");
    let mut kept = String::new();
    let mut skipping = false;
    for line in text.lines().map(|line| line.split("//").next().expect("a first part")) {
        if line.trim() == "#[cfg(test)]" {
            skipping = true; // the statement after it
        } else if skipping {
            skipping = !line.trim_end().ends_with([';', '}', ',']);
        } else {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// All paths that begin with `crate` or `super`, those in the braces of a `use` one by one.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue; // the middle of another path
            }
            expand(&code[at..], &mut Vec::new(), &mut found);
        }
    }
    found
}

/// Reads one path, or a group in braces behind one. Returns what follows it.
fn expand<'a>(mut text: &'a str, before: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> &'a str {
    let depth = before.len();
    loop {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        before.push(text[..end].to_owned());
        text = &text[end..];
        let Some(rest) = text.strip_prefix("::") else { break };
        text = rest;
        let Some(mut group) = text.strip_prefix('{') else { continue };
        loop {
            group = group.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            if let Some(rest) = group.strip_prefix('}') {
                before.truncate(depth);
                return rest;
            }
            group = expand(group, before, found);
            if let Some(renamed) = group.trim_start().strip_prefix("as ") {
                group = renamed.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
            }
            group = group.strip_prefix('*').unwrap_or(group);
        }
    }
    found.push(before.clone());
    before.truncate(depth);
    text
}

/// The floors of the table in `src/lib.rs`.
fn floors(map: &str, modules: &BTreeSet<String>) -> BTreeMap<String, usize> {
    let table = map.split("//! ```text\n").nth(1).and_then(|rest| rest.split("//! ```").next()).expect("the table");
    let mut floors = BTreeMap::new();
    let mut floor = None;
    for line in table.lines() {
        let mut words = line.trim_start_matches("//!").split_whitespace().peekable();
        if let Some(number) = words.peek().and_then(|word| word.parse().ok()) {
            floor = Some(number);
            words.next();
        }
        for module in words.take_while(|word| modules.contains(*word)) {
            let earlier = floors.insert(module.to_owned(), floor.expect("the first line has a number"));
            assert_eq!(earlier, None, "{module} is in the table twice");
        }
    }
    floors
}

/// The members of a folder, files and folders beside its `mod.rs`, that reach each other, in groups of more than one. A
/// folder reaches what any file below it imports. Arrows between a file and the `mod.rs` of a folder that it is in do not
/// count: a `mod.rs` is made of its files, and they may use what it says of them all.
fn circles(imports: &BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<Vec<String>> {
    let mut arrows: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (from, to) in imports.iter().flat_map(|(from, others)| others.iter().map(move |to| (from, to))) {
        let shared = from.iter().zip(to).take_while(|(one, other)| one == other).count();
        let (are_below_one_folder, is_in_the_others_folder) = (shared > 0, shared == from.len().min(to.len()));
        if are_below_one_folder && !is_in_the_others_folder {
            arrows.entry(from[..=shared].to_vec()).or_default().insert(to[..=shared].to_vec());
        }
    }
    let reached = |from: &Module| {
        let (mut seen, mut left) = (BTreeSet::new(), vec![from]);
        while let Some(next) = left.pop() {
            left.extend(arrows.get(next).into_iter().flatten().filter(|other| seen.insert((*other).clone())));
        }
        seen
    };
    let reach: BTreeMap<&Module, BTreeSet<Module>> = arrows.keys().map(|member| (member, reached(member))).collect();
    let circle = |member: &Module| -> Vec<String> {
        let leads_back = |other: &&Module| reach.get(*other).is_some_and(|reached| reached.contains(member));
        reach[member].iter().filter(leads_back).map(|other| other.join("::")).collect()
    };
    arrows.keys().map(circle).filter(|circle| circle.len() > 1).collect()
}

/// What a story imports of the test program that is not below `support`; a story has no modules of its own.
fn borrowed(text: &str) -> Vec<String> {
    let mut found = paths(&code(text));
    found.retain(|path| path[0] != "crate" || path.get(1).is_none_or(|module| module != "support"));
    found.iter().map(|path| path.join("::")).collect()
}

#[test]
fn imports_go_down_the_floors_of_the_map_and_neighbours_do_not_import_each_other() {
    let house = House::read();
    let modules: BTreeSet<String> = house.files.keys().filter_map(|module| module.first().cloned()).collect();
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("the map");
    let floors = floors(&map, &modules);
    let missing: Vec<&String> = modules.iter().filter(|module| !floors.contains_key(*module)).collect();
    assert!(missing.is_empty(), "give them a floor in the table of src/lib.rs: {missing:?}");
    let mut wrong = Vec::new();
    for module in house.files.keys().filter(|module| !module.is_empty()) {
        for other in house.imports(module) {
            let (here, there) = (floors[&module[0]], floors[&other[0]]);
            if module[0] != other[0] && there >= here {
                wrong.push(format!("{} (floor {here}) imports {} ({there})", module.join("::"), other.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_pure_floors_know_no_clock_no_file_no_socket_and_no_waiting() {
    let house = House::read();
    let mut wrong = Vec::new();
    for (module, code) in &house.files {
        if module.first().is_some_and(|first| {
            ["secret", "timestamp", "names", "span", "renewal", "path_rules", "oauth", "config"].contains(&&**first)
        }) {
            wrong.extend(impure(code).map(|word| (module.join("::"), word)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    for (code, expected) in
        [("sleep(x).await;", Some(".await")), ("self.awaited", None), ("tokio::spawn()", Some("tokio::"))]
    {
        assert_eq!(impure(code).next(), expected, "{code}");
    }
}

#[test]
fn nothing_in_a_folder_imports_each_other_in_a_circle_but_the_known_ones() {
    let house = House::read();
    let imports = house.files.keys().map(|module| (module.clone(), house.imports(module))).collect();
    let found = circles(&imports);
    let known: BTreeSet<Vec<String>> =
        KNOWN_CIRCLES.iter().map(|circle| circle.iter().map(|module| (*module).to_owned()).collect()).collect();
    let new: Vec<_> = found.difference(&known).collect();
    let gone: Vec<_> = known.difference(&found).collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "found, and not known: {new:#?}\nknown, and not found any more: {gone:#?}"
    );
}

#[test]
fn a_story_imports_what_stories_are_told_with_and_no_other_story() {
    let stories = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let mut wrong = Vec::new();
    for entry in fs::read_dir(&stories).expect("the stories") {
        let path = entry.expect("an entry").path();
        // this one has paths of every kind in its tables
        if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("architecture.rs") {
            let text = fs::read_to_string(&path).expect("UTF-8");
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            wrong.extend(borrowed(&text).into_iter().map(|other| format!("{name} imports {other}")));
        }
    }
    assert!(wrong.is_empty(), "what two stories need goes below support: {wrong:#?}");
    let rows: [(&str, &[&str]); 5] = [
        ("use crate::support::{Home, lab::{self, ping}};", &[]),
        ("use crate::keys::add;", &["crate::keys::add"]),
        ("use crate::{keys, support::Home};", &["crate::keys"]),
        ("fn f() { crate::peers::as_nobody(&[]) }", &["crate::peers::as_nobody"]),
        ("use super::keys::add;\nuse crate::{self as all};", &["crate::self", "super::keys::add"]),
    ];
    for (text, expected) in rows {
        assert_eq!(borrowed(text), expected, "{text}");
    }
}

#[test]
fn an_arrow_up_or_in_a_circle_is_seen_in_each_spelling() {
    let rows: [(&str, &[&str]); 7] = [
        ("use crate::store::Store;", &["crate::store::Store"]),
        (
            "use crate::{config, store::{self, Record as R, import::old}};",
            &["crate::config", "crate::store::self", "crate::store::Record", "crate::store::import::old"],
        ),
        ("pub(crate) use super::api::{\n    Answer,\n    json,\n};", &["super::api::Answer", "super::api::json"]),
        ("fn f() -> crate::store::Record { super::super::x() }", &["crate::store::Record", "super::super::x"]),
        ("// use crate::daemon;\n/// [`crate::cli`]", &[]),
        ("#[cfg(test)]\nuse crate::daemon;\nuse crate::secret::Secret;", &["crate::secret::Secret"]),
        ("use a::crate_like;\n\n#[cfg(test)]\nmod tests {\n    use crate::daemon;\n}", &[]),
    ];
    for (text, expected) in rows {
        let seen: BTreeSet<String> = paths(&code(text)).iter().map(|path| path.join("::")).collect();
        assert_eq!(seen, expected.iter().map(ToString::to_string).collect(), "{text}");
    }
    let module = |name: &str| name.split("::").map(str::to_owned).collect::<Module>();
    let circles_of = |arrows: &[(&str, &str)]| {
        let mut imports: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
        for (from, to) in arrows {
            imports.entry(module(from)).or_default().insert(module(to));
        }
        circles(&imports).into_iter().map(|circle| circle.join(" ")).collect::<Vec<_>>()
    };
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let rows: [Row<'_>; 7] = [
        ("files", &[("a::x", "a::y"), ("a::y", "a::z"), ("a::z", "a::x"), ("a::w", "a::x")], &["a::x a::y a::z"]),
        ("a line", &[("a::x", "a::y"), ("a::y", "a::z"), ("a::x", "a::z")], &[]),
        ("the floors' business", &[("b", "a"), ("a", "b"), ("a::x", "b::x"), ("b::x", "a::x")], &[]),
        ("a folder and its files", &[("a", "a::x"), ("a::x", "a"), ("a::w::x", "a"), ("a", "a::w::x")], &[]),
        ("folders, by different files", &[("a::v::x", "a::w::x"), ("a::w::y", "a::v::y")], &["a::v a::w"]),
        (
            "folders, by one's own file",
            &[("a::v", "a::w::x"), ("a::w::x", "a::x"), ("a::x", "a::v::y")],
            &["a::v a::w a::x"],
        ),
        ("files of a folder in a folder", &[("a::v::x", "a::v::y"), ("a::v::y", "a::v::x")], &["a::v::x a::v::y"]),
    ];
    for (name, arrows, expected) in rows {
        assert_eq!(circles_of(arrows), expected, "{name}");
    }
}
