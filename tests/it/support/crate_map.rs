//! A crate as its source says it is: its modules, what each of them names, and where that is defined.
//!
//! It is read as tokens: a path is one however it is spelled (`self::super`, `$crate`, a new name, a glob, inside a macro),
//! and a name is followed through re-exports to the module that defines it. What only tests, fuzzing or benchmarks have may
//! name anything; any other `cfg` counts as there. What this cannot follow is told as [`CrateMap::forbidden`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::tokens::Token::{self, Group, Sign, Text, Word};
use super::tokens::tokens;

/// A module's path in the crate, as in `["proxy", "route"]`.
pub type Module = Vec<String>;

/// A path as it is written; `$crate` is `crate`.
type Written = Vec<String>;

/// The modules that a release has.
#[derive(Default)]
pub struct CrateMap {
    modules: BTreeMap<Module, Scope>,
    /// Modules that have a file, with the inline modules in it.
    files: BTreeMap<Module, Vec<Module>>,
    /// What hides where a name comes from: the module, and what is written there.
    pub forbidden: Vec<(Module, String)>,
}

/// What a module says.
#[derive(Default)]
struct Scope {
    /// Names that `use` brings, and where from.
    brought: BTreeMap<String, Written>,
    /// What `use` brings whole.
    globs: Vec<Written>,
    /// Every path that is written, those of `use` among them.
    written: BTreeSet<Written>,
    /// Those that only give a name on.
    given_on: BTreeSet<Written>,
    awaits: bool,
}

/// Modules that paths lead to.
struct Found {
    /// Also those that they lead through.
    through: bool,
    modules: BTreeSet<Module>,
}

impl CrateMap {
    /// The crate in a folder; `main.rs` is another one.
    pub fn read(source: &Path) -> Self {
        let mut texts = BTreeMap::new();
        read_folder(source, source, &mut texts);
        Self::of(&texts)
    }

    /// The crate of these files.
    pub fn of(texts: &BTreeMap<Module, String>) -> Self {
        let mut this = Self::default();
        let mut declared = BTreeSet::new();
        this.file(&Vec::new(), texts, &mut declared);
        for module in texts.keys().filter(|module| !declared.contains(*module)) {
            this.forbidden.push((module.clone(), "a file that nobody declares".to_owned()));
        }
        this
    }

    /// The modules with a file.
    pub fn files(&self) -> impl Iterator<Item = &Module> {
        self.files.keys()
    }

    /// Which other files a file names: those that define what it names, and those that it is named through.
    pub fn imports(&self, file: &Module) -> BTreeSet<Module> {
        let mut found = Found { through: true, modules: BTreeSet::new() };
        for (module, scope) in self.of_file(file) {
            scope.written.iter().for_each(|path| self.follow(module, path, 0, &mut found));
        }
        self.others(file, found)
    }

    /// Which other files define what a file uses itself, and does not only give on.
    pub fn uses(&self, file: &Module) -> BTreeSet<Module> {
        let mut found = Found { through: false, modules: BTreeSet::new() };
        for (module, scope) in self.of_file(file) {
            scope.written.difference(&scope.given_on).for_each(|path| self.follow(module, path, 0, &mut found));
        }
        self.others(file, found)
    }

    fn others(&self, file: &Module, found: Found) -> BTreeSet<Module> {
        let mut files: BTreeSet<Module> = found.modules.iter().map(|module| self.file_of(module)).collect();
        files.retain(|other| !other.is_empty() && other != file);
        files
    }

    /// The paths that are written in a file, without what stands for tests.
    pub fn written<'a>(&'a self, file: &Module) -> impl Iterator<Item = &'a [String]> + use<'a> {
        self.of_file(file).flat_map(|(_, scope)| scope.written.iter().map(Vec::as_slice))
    }

    /// Whether something in a file waits.
    pub fn awaits(&self, file: &Module) -> bool {
        self.of_file(file).any(|(_, scope)| scope.awaits)
    }

    fn of_file<'a>(&'a self, file: &Module) -> impl Iterator<Item = (&'a Module, &'a Scope)> + use<'a> {
        self.files[file].iter().filter_map(|module| self.modules.get_key_value(module))
    }

    fn file_of(&self, module: &Module) -> Module {
        let mut file = module.clone();
        while !self.files.contains_key(&file) {
            file.pop();
        }
        file
    }

    /// Adds the module that a path leads to, and those that it leads through if they are wanted. A name of another crate, or of something in the module itself,
    /// leads nowhere.
    fn follow(&self, from: &Module, path: &[String], depth: usize, found: &mut Found) {
        if depth > 16 {
            return; // names that lead to each other: `use serde;`, read as itself
        }
        let mut at = from.clone();
        let mut rest = path;
        let mut is_ours = false;
        while let Some((first, after)) = rest.split_first() {
            match first.as_str() {
                "crate" => at.clear(),
                "self" => {}
                "super" => drop(at.pop()),
                _ => break,
            }
            (rest, is_ours) = (after, true);
        }
        while let Some((name, after)) = rest.split_first() {
            let below = [at.as_slice(), std::slice::from_ref(name)].concat();
            // alone, it is the name of something else: of a variable, of a field
            if self.modules.contains_key(&below) && (path.len() > 1 || depth > 0) {
                (at, rest, is_ours) = (below, after, true);
                continue;
            }
            let Some(scope) = self.modules.get(&at) else { break };
            if let Some(brought) = scope.brought.get(name) {
                if is_ours && found.through {
                    found.modules.insert(at.clone());
                }
                return self.follow(&at, &[brought.as_slice(), after].concat(), depth + 1, found);
            }
            for glob in scope.globs.iter().filter(|glob| glob.as_slice() != path && self.brings(&at, glob, name)) {
                self.follow(&at, &[glob.as_slice(), rest].concat(), depth + 1, found);
            }
            break;
        }
        if is_ours {
            found.modules.insert(at);
        }
    }

    fn is_module(&self, at: &Module, name: &str) -> bool {
        let mut below = at.clone();
        below.push(name.to_owned());
        self.modules.contains_key(&below)
    }

    /// Whether the module that a glob brings has a module of this name, or a name from elsewhere.
    fn brings(&self, from: &Module, glob: &[String], name: &str) -> bool {
        let mut there = Found { through: false, modules: BTreeSet::new() };
        self.follow(from, glob, 1, &mut there);
        there.modules.iter().any(|module| {
            self.is_module(module, name)
                || self.modules.get(module).is_some_and(|scope| scope.brought.contains_key(name))
        })
    }

    fn file(&mut self, module: &Module, texts: &BTreeMap<Module, String>, declared: &mut BTreeSet<Module>) {
        declared.insert(module.clone());
        self.files.insert(module.clone(), Vec::new());
        let mut reader = Reader { map: self, module: module.clone(), texts, declared };
        reader.open();
        reader.read(&tokens(&texts[module]));
    }
}

/// The paths that are written in a text, without what stands for tests.
pub fn written(text: &str) -> BTreeSet<Vec<String>> {
    let texts = BTreeMap::from([(Module::new(), text.to_owned())]);
    CrateMap::of(&texts).modules.into_values().flat_map(|scope| scope.written).collect()
}

fn read_folder(root: &Path, folder: &Path, texts: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(folder).expect("a folder of the source") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read_folder(root, &path, texts);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let below = path.strip_prefix(root).expect("below it").with_extension("");
            let mut module: Module = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            if module == ["main"] {
                continue;
            }
            if module.last().is_some_and(|last| last == "mod" || last == "lib") {
                module.pop();
            }
            texts.insert(module, fs::read_to_string(&path).expect("UTF-8"));
        }
    }
}

/// Reads one file, and those that it declares.
struct Reader<'a> {
    map: &'a mut CrateMap,
    module: Module,
    texts: &'a BTreeMap<Module, String>,
    declared: &'a mut BTreeSet<Module>,
}

impl Reader<'_> {
    /// Begins with a module.
    fn open(&mut self) {
        let file = self.map.file_of(&self.module);
        self.map.files.entry(file).or_default().push(self.module.clone());
        self.map.modules.insert(self.module.clone(), Scope::default());
    }

    fn scope(&mut self) -> &mut Scope {
        self.map.modules.get_mut(&self.module).expect("it was begun with")
    }

    fn write(&mut self, path: Written) {
        self.scope().written.insert(path);
    }

    fn forbid(&mut self, what: &str) {
        self.map.forbidden.push((self.module.clone(), what.to_owned()));
    }

    /// Reads what stands in a file or in brackets.
    fn read(&mut self, all: &[Token]) {
        let mut rest = all;
        let (mut is_shown, mut is_member) = (false, false);
        while let Some((first, after)) = rest.split_first() {
            if let [Sign('#'), Group('[', attribute), after @ ..]
            | [Sign('#'), Sign('!'), Group('[', attribute), after @ ..] = rest
            {
                rest = after;
                if is_for_tests(attribute) {
                    rest = self.skip(after);
                } else {
                    self.attribute(attribute);
                }
                continue;
            }
            (is_shown, rest) = match (first, after) {
                // whom it is shown to is no import
                (Word(word), [Group('(', _), after @ ..]) if word == "pub" => (true, after),
                (Word(word), _) if word == "pub" => (true, after),
                (Word(word), [Word(name), Sign(';'), after @ ..]) if word == "mod" => {
                    self.declared(name);
                    (false, after)
                }
                (Word(word), [Word(name), Group('{', inside), after @ ..]) if word == "mod" => {
                    self.module.push(name.clone());
                    self.open();
                    self.read(inside);
                    self.module.pop();
                    (false, after)
                }
                // not `impl Trait + use<'a>`
                (Word(word), after) if word == "use" && !after.starts_with(&[Sign('<')]) => {
                    let end = after.iter().position(|token| *token == Sign(';')).unwrap_or(after.len());
                    let before = self.scope().written.clone();
                    self.branches(&after[..end], &[]);
                    if is_shown {
                        let scope = self.scope();
                        scope.given_on.extend(scope.written.difference(&before).cloned());
                    }
                    (false, &after[end..])
                }
                (Word(one), [Word(two), Word(three), ..])
                    if (&**one, &**two, &**three) == ("extern", "crate", "self") =>
                {
                    self.forbid("extern crate self");
                    (false, after)
                }
                (Word(_), _) => {
                    let length = path_length(rest);
                    let path: Written = rest[..length].iter().filter_map(name).collect();
                    if rest.get(length) == Some(&Sign('!')) && path.last().is_some_and(|last| last == "include") {
                        self.forbid("include!");
                    }
                    match (is_member, path[0].as_str()) {
                        (true, "await") => self.scope().awaits = true,
                        (true, _) => {}
                        (false, _) => self.write(path),
                    }
                    (false, &rest[length..])
                }
                (Group(_, inside), _) => {
                    self.read(inside);
                    (false, after)
                }
                (Sign('.'), [Sign('.'), after @ ..]) => (false, after), // a range, or the rest of a struct: no member
                (Sign(_) | Text(_), _) => (false, after),
            };
            is_member = *first == Sign('.') && rest.len() == after.len();
        }
    }

    /// A module with a file.
    fn declared(&mut self, name: &str) {
        let mut module = self.module.clone();
        module.push(name.to_owned());
        match self.texts.contains_key(&module) {
            true => self.map.file(&module, self.texts, self.declared),
            false => self.forbid(&format!("mod {name} has no file of its name")),
        }
    }

    /// Passes over what stands behind an attribute. Returns what follows it.
    fn skip<'t>(&mut self, rest: &'t [Token]) -> &'t [Token] {
        let mut rest = rest;
        while let [Sign('#'), Group('[', _), after @ ..] = rest {
            rest = after;
        }
        let start = match rest {
            [Word(word), Group('(', _), after @ ..] if word == "pub" => after,
            [Word(word), after @ ..] if word == "pub" => after,
            _ => rest,
        };
        if let [Word(word), Word(name), Sign(';'), ..] = start
            && word == "mod"
        {
            let mut module = self.module.clone();
            module.push(name.clone());
            self.declared.extend(self.texts.keys().filter(|other| other.starts_with(&module)).cloned());
        }
        let ends = end_of(start);
        let end = start.iter().enumerate().position(|(at, token)| ends(&start[..at], token));
        end.map_or(&[], |end| &start[end + 1..])
    }

    /// The branches of a `use`, behind what leads to them.
    fn branches(&mut self, tree: &[Token], before: &[String]) {
        for branch in tree.split(|token| *token == Sign(',')).filter(|branch| !branch.is_empty()) {
            let length = path_length(branch);
            let names = branch[..length].iter().filter_map(name);
            let path: Written = before.iter().cloned().chain(names).collect();
            match &branch[length..] {
                [] => self.bring(path, None),
                [Word(word), Word(renamed)] if word == "as" => self.bring(path, Some(renamed.clone())),
                [.., Sign('*')] => {
                    self.write(path.clone());
                    self.scope().globs.push(path);
                }
                [.., Group('{', inside)] => self.branches(inside, &path),
                strange => self.forbid(&format!("use … {strange:?}")),
            }
        }
    }

    fn bring(&mut self, mut path: Written, renamed: Option<String>) {
        if path.len() > 1 {
            path.pop_if(|last| last == "self");
        }
        if path.iter().all(|word| ["crate", "self", "super"].contains(&word.as_str())) {
            self.forbid("a new name for a module above, or for the crate");
        }
        self.write(path.clone());
        if let Some(known_as) = renamed.or_else(|| path.last().cloned()) {
            self.scope().brought.insert(known_as, path);
        }
    }

    /// Macros look for paths in attributes, also in their strings.
    fn attribute(&mut self, attribute: &[Token]) {
        let sets_path = |tokens: &[Token]| tokens.windows(2).any(|two| two == [Word("path".to_owned()), Sign('=')]);
        match attribute {
            [Word(word), Sign('='), ..] if word == "doc" => return,
            [Word(word), Group('(', inside)] if word == "cfg_attr" && sets_path(inside) => self.forbid("#[path]"),
            attribute if sets_path(attribute) => self.forbid("#[path]"),
            _ => {}
        }
        self.read(attribute);
        self.strings(attribute);
    }

    fn strings(&mut self, within: &[Token]) {
        for token in within {
            match token {
                Text(text) if text.contains("::") => self.read(&tokens(text)),
                Group(_, inside) => self.strings(inside),
                Text(_) | Word(_) | Sign(_) => {}
            }
        }
    }
}

fn name(token: &Token) -> Option<String> {
    match token {
        Word(word) => Some(word.clone()),
        Text(_) | Sign(_) | Group(..) => None,
    }
}

/// How many tokens of these are one path: `a::b::c`.
fn path_length(tokens: &[Token]) -> usize {
    let start = if tokens.starts_with(&[Sign(':'), Sign(':')]) || tokens.starts_with(&[Sign('$')]) { 1 } else { 0 };
    let mut length = start + tokens[start..].iter().take_while(|token| **token == Sign(':')).count();
    if !matches!(tokens.get(length), Some(Word(_))) {
        return length;
    }
    length += 1;
    while let Some([Sign(':'), Sign(':'), Word(_)]) = tokens.get(length..length + 3) {
        length += 3;
    }
    length
}

/// Where something ends that an attribute stands before, from its first token on: what came so far, and a token.
fn end_of(start: &[Token]) -> fn(&[Token], &Token) -> bool {
    let words = start.iter().map_while(name).collect::<Vec<_>>();
    let is = |words: &[String], any: &[&str]| words.iter().any(|word| any.contains(&word.as_str()));
    let is_fn = is(&words, &["fn"]);
    match words.first().map(String::as_str) {
        None => |_, token| matches!(token, Group('{', _) | Sign(',' | ';')),
        Some("use" | "let" | "static" | "type") => |_, token| *token == Sign(';'),
        Some("const") if !is_fn => |_, token| *token == Sign(';'),
        Some(
            "async" | "const" | "enum" | "extern" | "fn" | "for" | "impl" | "loop" | "macro_rules" | "match" | "mod"
            | "struct" | "trait" | "unsafe" | "while",
        ) => |_, token| matches!(token, Group('{', _) | Sign(';')),
        // a field, a variant, an arm, a statement
        Some(_) => |before, token| {
            let is_arm = before.windows(2).any(|two| two == [Sign('='), Sign('>')]);
            let opened = |sign: char| before.iter().filter(|token| **token == Sign(sign)).count();
            match token {
                Sign(';') => true,
                Sign(',') => is_arm || opened('<') <= opened('>'),
                Group('{', _) => before.ends_with(&[Sign('='), Sign('>')]),
                Word(_) | Text(_) | Sign(_) | Group(..) => false,
            }
        },
    }
}

/// Whether a `cfg` keeps what follows out of every release.
fn is_for_tests(attribute: &[Token]) -> bool {
    matches!(attribute, [Word(word), Group('(', condition)] if word == "cfg" && is_never_released(condition))
}

fn is_never_released(condition: &[Token]) -> bool {
    let members = |inside: &[Token], all: bool| {
        let mut members = inside.split(|token| *token == Sign(',')).filter(|member| !member.is_empty());
        if all { members.all(is_never_released) } else { members.any(is_never_released) }
    };
    match condition {
        [Word(word)] => word == "test" || word == "fuzzing",
        [Word(word), Sign('='), Text(name)] => word == "feature" && name == "benchmarks",
        [Word(word), Group('(', inside)] if word == "any" => members(inside, true),
        [Word(word), Group('(', inside)] if word == "all" => members(inside, false),
        _ => false,
    }
}
