//! The map in `src/lib.rs` is true: every import goes down its floors, and neither files nor folders beside each other
//! import each other in a circle. Stories import what they are told with, and no other story.
//!
//! [`CrateMap`] reads the source. Test modules, and modules that only tests, fuzzing or benchmarks have, may look anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use crate::support::crate_map::{CrateMap, Module, written};

/// What a pure floor has no use for.
const IMPURE: [&[&str]; 12] = [
    &["Instant"],
    &["SystemTime", "now"],
    &["std", "env"],
    &["std", "fs"],
    &["std", "net", "TcpListener"],
    &["std", "net", "TcpStream"],
    &["std", "os"],
    &["std", "process"],
    &["std", "thread"],
    &["tokio"],
    &["rustix"],
    &["rand"],
];

/// Which of these a path has in it.
fn impure(path: &[String]) -> Option<String> {
    let is_in = |words: &&&[&str]| path.windows(words.len()).any(|window| window == **words);
    IMPURE.iter().find(is_in).map(|words| words.join("::"))
}

fn the_crate() -> &'static CrateMap {
    static READ: LazyLock<CrateMap> =
        LazyLock::new(|| CrateMap::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")));
    &READ
}

fn imports(map: &CrateMap) -> BTreeMap<Module, BTreeSet<Module>> {
    map.files().map(|file| (file.clone(), map.imports(file))).collect()
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
/// count here: see [`users_of_their_folder`].
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

/// Files that use what the `mod.rs` of a folder that they are in defines, and are what that is made of: it uses them, by
/// itself or through others in the folder.
fn users_of_their_folder(uses: &BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (file, others) in uses {
        for folder in others.iter().filter(|folder| file.starts_with(folder)) {
            let (mut seen, mut left) = (BTreeSet::new(), vec![folder]);
            while let Some(next) = left.pop() {
                let below = uses.get(next).into_iter().flatten().filter(|other| other.starts_with(folder));
                left.extend(below.filter(|other| seen.insert(*other)));
            }
            if seen.contains(file) {
                found.insert(format!("{} -> {}", file.join("::"), folder.join("::")));
            }
        }
    }
    found
}

/// What a story imports of the test program that is not below `support`; a story has no modules of its own.
fn borrowed(text: &str) -> Vec<String> {
    let mut found = Vec::from_iter(written(text));
    found.retain(|path| match path[0].as_str() {
        "crate" => path.get(1).is_none_or(|module| module != "support"),
        "super" | "self" => path.len() > 1,
        _ => false,
    });
    found.iter().map(|path| path.join("::")).collect()
}

#[test]
fn imports_go_down_the_floors_of_the_map_and_neighbours_do_not_import_each_other() {
    let house = the_crate();
    assert!(house.forbidden.is_empty(), "nobody can tell where these lead: {:#?}", house.forbidden);
    let modules: BTreeSet<String> = house.files().filter_map(|module| module.first().cloned()).collect();
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("the map");
    let floors = floors(&map, &modules);
    let missing: Vec<&String> = modules.iter().filter(|module| !floors.contains_key(*module)).collect();
    assert!(missing.is_empty(), "give them a floor in the table of src/lib.rs: {missing:?}");
    let mut wrong = Vec::new();
    for (module, others) in imports(house) {
        for other in others.iter().filter(|_| !module.is_empty()) {
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
    let house = the_crate();
    let pure = ["secret", "timestamp", "names", "span", "renewal", "path_rules", "oauth", "config", "split_mix"];
    let mut wrong = Vec::new();
    for module in house.files().filter(|module| module.first().is_some_and(|first| pure.contains(&first.as_str()))) {
        wrong.extend(house.written(module).filter_map(impure).map(|word| (module.join("::"), word)));
        wrong.extend(house.awaits(module).then(|| (module.join("::"), ".await".to_owned())));
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    for (code, expected) in [
        ("use std::time::Instant as Moment;", Some("Instant")),
        ("fn f() { tokio::spawn(x) }", Some("tokio")),
        ("use std::{fs as files, io};", Some("std::fs")),
        ("fn f() { log!(std::env::var(1)) }", Some("std::env")),
        ("fn f(instant: u8) { self.tokio.awaited() }", None),
        ("/// [`std::fs`]\nfn f() { \"std::fs // tokio::\" }", None),
    ] {
        assert_eq!(written(code).iter().find_map(|path| impure(path)).as_deref(), expected, "{code}");
    }
}

#[test]
fn nothing_in_a_folder_imports_each_other_in_a_circle() {
    let map = the_crate();
    let circles = circles(&imports(map));
    assert!(circles.is_empty(), "{circles:#?}");
    // files that use what the `mod.rs` of their folder defines itself, which uses them
    let users = users_of_their_folder(&map.files().map(|file| (file.clone(), map.uses(file))).collect());
    assert!(users.is_empty(), "{users:#?}");
}

#[test]
fn a_story_imports_what_stories_are_told_with_and_no_other_story() {
    let stories = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let mut wrong = Vec::new();
    for entry in fs::read_dir(&stories).expect("the stories") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("main.rs") {
            let text = fs::read_to_string(&path).expect("UTF-8");
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            wrong.extend(borrowed(&text).into_iter().map(|other| format!("{name} imports {other}")));
        }
    }
    assert!(wrong.is_empty(), "what two stories need goes below support: {wrong:#?}");
    let rows: [(&str, &[&str]); 6] = [
        ("use crate::support::{Home, lab::{self, ping}};", &[]),
        ("use crate::keys::add;", &["crate::keys::add"]),
        ("use crate::{keys, support::Home};", &["crate::keys"]),
        ("fn f() { crate::peers::as_nobody(&[]) }", &["crate::peers::as_nobody"]),
        ("use super::keys::add;\nuse crate::{self as all};", &["crate", "super::keys::add"]),
        ("fn f() { assert!(self::super::keys::add()) }", &["self::super::keys::add"]),
    ];
    for (text, expected) in rows {
        assert_eq!(borrowed(text), expected, "{text}");
    }
}

/// A small crate: each file's path and text.
fn small(files: &[(&str, &str)]) -> CrateMap {
    let module = |name: &str| name.split("::").filter(|word| !word.is_empty()).map(str::to_owned).collect::<Module>();
    CrateMap::of(&files.iter().map(|(name, text)| (module(name), (*text).to_owned())).collect())
}

#[test]
fn an_arrow_is_seen_in_each_spelling() {
    // what stands in `low::x`, and what it names of a crate with `low::{x, y, z}` and `high`, all of which have an `Item`
    let rows: &[(&str, &[&str])] = &[
        ("use crate::high::Item;", &["high"]),
        ("use crate::{low::y, high::{self, Item as I}};", &["high", "low::y"]),
        ("use crate as x;\nfn f() { x::high::f() }", &["high"]),
        ("use super::super::high::Item;", &["high"]),
        ("use self::super::super::high;", &["high"]),
        ("use super::super as top;\nfn f() { top::high::f() }", &["high"]),
        ("fn f() -> crate::high::Item { super::super::high::x() }", &["high"]),
        ("fn f() { use crate::high; }", &["high"]),
        ("fn f() { println!(\"{}\", crate::high::NAME) }", &["high"]),
        ("fn f() { println!(\"// {}\", 1); crate::high::f() }", &["high"]),
        ("macro_rules! m { () => { $crate::high::f() } }", &["high"]),
        ("macro_rules! m { () => { m!($crate :: high :: f) } }", &["high"]),
        ("#[serde(with = \"crate::high\")]\nstruct S;", &["high"]),
        ("#[derive(crate::high::Item)]\nstruct S;", &["high"]),
        ("mod inner { use super::super::super::high; }", &["high"]),
        ("#[cfg(unix)]\nuse crate::high;", &["high"]),
        ("#[cfg(not(test))]\nuse crate::high;", &["high"]),
        ("#[cfg(any(test, unix))]\nmod inner { use crate::high; }", &["high"]),
        ("impl crate::high::Item for u8 {}", &["high"]),
        ("use crate::high::*;", &["high"]),
        // through what others call it
        ("use super::Renamed;", &["high", "low"]),
        ("use crate::low::Renamed as R;", &["high", "low"]),
        ("use super::y as other;\nuse other::Through;", &["high", "low::y"]),
        ("use super::*;\nfn f(_: Renamed) {}", &["high", "low"]),
        ("use super::Sibling;", &["low", "low::y"]),
        ("fn f<'a>(x: &'a str) { g('\"', b'\\'', '\\u{7b}', 1.0..crate::high::f()) }", &["high"]),
        // none
        ("const S: &str = r#\"\" crate::high::f() \"#; /* /* */ crate::high::f() */", &[]),
        ("fn high() { self.high.f(); low::high(high) }", &[]),
        ("// use crate::high;\n/// [`crate::high`]\nfn f() { \"crate::high::f()\" }", &[]),
        ("#[cfg(test)]\nuse crate::high;\nuse a::crate_like;", &[]),
        ("#[cfg(test)]\nmod tests { use crate::high; }", &[]),
        ("#[cfg(any(test, fuzzing))]\nfn f() { crate::high::f() }", &[]),
        ("#[cfg(all(test, unix))]\nfn f() { crate::high::f() }", &[]),
        ("struct S { #[cfg(test)] x: crate::high::Item, y: u8 }", &[]),
        ("pub(in crate::low) fn f() {}\npub(super) struct S;", &[]),
    ];
    for (text, expected) in rows {
        let map = small(&[
            ("", "mod low;\nmod high;"),
            ("low", "mod x;\nmod y;\nmod z;\npub use crate::high::Item as Renamed;\npub use y::Item as Sibling;"),
            ("low::x", text),
            ("low::y", "pub use crate::high::Item as Through;\npub struct Item;"),
            ("low::z", ""),
            ("high", "pub struct Item;"),
        ]);
        let imports = map.imports(&vec!["low".to_owned(), "x".to_owned()]);
        let seen: Vec<String> = imports.iter().map(|module| module.join("::")).collect();
        assert_eq!(seen, *expected, "{text}");
    }
}

#[test]
fn what_hides_where_a_name_comes_from_is_refused() {
    for text in [
        "#[path = \"high.rs\"]\nmod other;",
        "#[cfg_attr(unix, path = \"high.rs\")]\nmod other;",
        "#[path = \"high.rs\"]\nmod other { }",
        "include!(\"../high.rs\");",
        "fn f() { std::include!(\"../high.rs\") }",
        "extern crate self as everything;",
        "use crate as everything;",
        "use crate::{self as everything};",
        "use super as above;",
        "mod nowhere;",
    ] {
        let map = small(&[("", "mod low;"), ("low", text)]);
        assert!(!map.forbidden.is_empty(), "{text}");
    }
    assert!(!small(&[("", "mod low;"), ("low", ""), ("lost", "")]).forbidden.is_empty(), "a file that nobody declares");
    let fine = "#[cfg(test)]\nmod tests;\nconst TEXT: &str = include_str!(\"x\");\nuse std::{self, io};";
    assert_eq!(small(&[("", "mod low;"), ("low", fine), ("low::tests", "use crate as all;")]).forbidden, []);
}

#[test]
fn a_circle_is_found_among_files_and_among_folders() {
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
    let used_by = |files: &[(&str, &str)]| {
        let map = small(files);
        Vec::from_iter(users_of_their_folder(&map.files().map(|file| (file.clone(), map.uses(file))).collect()))
    };
    let folder = "mod x;\nmod y;\nuse y::f;\npub struct Item;\nfn g() { f() }";
    let rows: [(&str, &str, &str, &[&str]); 4] = [
        ("what the folder defines", "use super::Item;", "pub fn f() { super::x::g() }", &["a::x -> a"]),
        ("what it gives on", "use super::f;", "pub fn f() {}", &[]),
        ("nobody whom it uses", "use super::Item;", "pub fn f() {}", &[]),
        ("by itself", "", "pub fn f(_: super::Item) {}", &["a::y -> a"]),
    ];
    for (name, x, y, expected) in rows {
        assert_eq!(used_by(&[("", "mod a;"), ("a", folder), ("a::x", x), ("a::y", y)]), expected, "{name}");
    }
}
