//! Edits of the configuration file: one account in, or out, with everything else as it was written.
//!
//! The pure part is from text to text. The file is replaced whole, and only by a text that can be used.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, value};

use super::failure::Failure;
use crate::config::{Config, Problem};
use crate::config_files;
use crate::platform::paths::Paths;

/// What a key of an account is set to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Setting {
    /// `key = "text"`
    Text(String),
    /// `key = ["a", "b"]`
    List(Vec<String>),
    /// `key = { name = "text" }`
    Pairs(Vec<(&'static str, String)>),
    /// `key = true`
    True,
}

/// A text with one more account at its end. Pure.
///
/// # Errors
///
/// Why it cannot be added, as the end of a sentence that begins with the file.
pub(super) fn with_account(text: &str, name: &str, settings: &[(&str, Setting)]) -> Result<String, String> {
    let mut document: DocumentMut = text.parse().map_err(|_| "is not TOML that can be edited")?;
    let accounts = document.entry("account").or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    let accounts = accounts.as_table_mut().ok_or("has `account` in a form that is not edited here")?;
    if accounts.contains_key(name) {
        return Err(format!("has an account {name} already"));
    }
    let mut account = Table::new();
    for (key, setting) in settings {
        let item = match setting {
            Setting::Text(text) => value(text),
            Setting::List(texts) => value(texts.iter().collect::<Array>()),
            Setting::Pairs(pairs) => {
                value(pairs.iter().map(|(key, text)| (*key, text.as_str())).collect::<InlineTable>())
            }
            Setting::True => value(true),
        };
        account.insert(key, item);
    }
    let is_first = text.trim().is_empty();
    account.decor_mut().set_prefix(if is_first { "" } else { "\n" });
    // behind all that is there, whatever order the tables are in
    account.set_position(Some(isize::MAX));
    // a comment at the end of the file stays before it
    let trailing = document.trailing().as_str().unwrap_or_default().to_owned();
    let accounts = document["account"].as_table_mut().expect("it was one just now");
    if !trailing.is_empty() {
        account.decor_mut().set_prefix(format!("{}\n\n", trailing.trim_end_matches('\n')));
    }
    accounts.insert(name, Item::Table(account));
    document.set_trailing("");
    let text = document.to_string();
    Ok(if text.ends_with('\n') { text } else { text + "\n" })
}

/// A text without an account, and without these routes. What stands above a table without a blank line in between goes with
/// it; what stands further up stays. Pure.
///
/// # Errors
///
/// Why it cannot be taken out, as the end of a sentence that begins with the file.
pub(super) fn without_account(text: &str, name: &str, routes: &[&str]) -> Result<String, String> {
    let mut document: DocumentMut = text.parse().map_err(|_| "is not TOML that can be edited")?;
    let mut kept = Vec::new();
    for (kind, name) in [("account", name)].into_iter().chain(routes.iter().map(|route| ("route", *route))) {
        let Some(tables) = document.get_mut(kind) else { continue };
        let tables = tables.as_table_like_mut().ok_or(format!("has `{kind}` in a form that is not edited here"))?;
        let Some(removed) = tables.remove(name) else { continue };
        if let Item::Table(table) = removed {
            let above = table.decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default();
            let stays = above.rfind("\n\n").map_or("", |at| &above[..at + 1]);
            // the head of a file begins without a blank line
            kept.extend(stays.contains('#').then(|| (table.position(), stays.to_owned())));
        }
        if tables.is_empty() {
            document.remove(kind);
        }
    }
    for (position, comments) in kept {
        keep_comments(&mut document, position, &comments);
    }
    Ok(document.to_string())
}

/// Puts comments before the first table that stands behind a place, or at the end.
fn keep_comments(document: &mut DocumentMut, position: Option<isize>, comments: &str) {
    fn next<'t>(table: &'t mut Table, after: Option<isize>, best: &mut Option<(isize, &'t mut Table)>) {
        for (_, item) in table.iter_mut() {
            let Item::Table(inner) = item else { continue };
            if inner.is_implicit() {
                next(inner, after, best);
                continue;
            }
            let Some(at) = inner.position().filter(|at| Some(*at) > after) else { continue };
            if best.as_ref().is_none_or(|(least, _)| at < *least) {
                *best = Some((at, inner));
            }
        }
    }
    let mut found = None;
    next(document.as_table_mut(), position, &mut found);
    match found {
        Some((_, table)) => {
            let own = table.decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default().to_owned();
            table.decor_mut().set_prefix(format!("{comments}{own}"));
        }
        None => {
            let own = document.trailing().as_str().unwrap_or_default().to_owned();
            document.set_trailing(format!("{comments}{own}"));
        }
    }
}

/// The file's text; an empty one if there is no file.
///
/// # Errors
///
/// If it cannot be read.
pub(super) fn read(places: &Paths) -> Result<String, Failure> {
    match std::fs::read_to_string(&places.config_file) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Failure::new(error).while_doing(format!("reading {}", places.config_file.display()))),
    }
}

/// Replaces the file by a text that can be used, and reads it back.
///
/// # Errors
///
/// What is wrong with it, or why it cannot be written: then the file is as it was.
pub(super) fn replace(places: &Paths, text: &str) -> Result<Config, Failure> {
    // an editor's link stays a link
    let file = places.config_file.canonicalize().unwrap_or_else(|_| places.config_file.clone());
    let doing = format!("writing {}", file.display());
    let beside = beside(&file);
    let written = write_new(&file, &beside, text);
    written.map_err(|error| Failure::new(error).while_doing(doing.clone()))?;
    let tried = config_files::load(&Paths { config_file: beside.clone(), ..places.clone() });
    if let Err(problems) = tried {
        remove(&beside);
        let problems: Vec<String> = problems.0.iter().map(Problem::to_string).collect();
        let failure = Failure::say("the configuration could not be used with it, and stays as it was");
        return Err(failure.with_problems(problems).while_doing(doing));
    }
    take_its_name(&beside, &file).map_err(|error| Failure::new(error).while_doing(doing.clone()))?;
    let read = config_files::load(places);
    read.map(|parsed| parsed.config).map_err(|problems| {
        let problems = problems.0.iter().map(Problem::to_string).collect();
        Failure::say("what was written cannot be used").with_problems(problems).while_doing(doing)
    })
}

/// Not a name that a daemon looks at.
fn beside(file: &Path) -> PathBuf {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    file.with_file_name(format!(".{name}.{}.new", std::process::id()))
}

/// Writes a file beside another one, with its mode, or for us alone.
#[expect(clippy::disallowed_methods, reason = "the configuration: only a person's own command writes it")]
fn write_new(file: &Path, beside: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mode = file.metadata().map_or(0o600, |metadata| metadata.permissions().mode() & 0o777);
    let mut written = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(beside)?;
    written.set_permissions(PermissionsExt::from_mode(mode))?;
    written.write_all(text.as_bytes())?;
    written.sync_all()
}

/// Writes a secret into a file of its own in the configuration's folder, for us alone. Returns its name.
///
/// # Errors
///
/// If it cannot be written.
#[expect(
    clippy::disallowed_methods,
    reason = "a secret that the configuration names: only a person's own command writes it"
)]
pub(super) fn write_secret(places: &Paths, account: &str, secret: &crate::secret::Secret) -> Result<String, Failure> {
    let name = secret_name(account);
    let folder = places.config_file.parent().unwrap_or(Path::new("/"));
    let file = folder.join(&name);
    let write = || {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
        written.write_all(secret.expose().as_bytes())?;
        written.write_all(b"\n")?;
        written.sync_all()
    };
    write().map_err(|error: io::Error| Failure::new(error).while_doing(format!("writing {}", file.display())))?;
    Ok(name)
}

/// Removes that file; done if there is none.
pub(super) fn remove_secret(places: &Paths, account: &str) {
    let folder = places.config_file.parent().unwrap_or(Path::new("/"));
    remove(&folder.join(secret_name(account)));
}

#[expect(clippy::disallowed_methods, reason = "the configuration: only a person's own command changes it")]
fn take_its_name(beside: &Path, file: &Path) -> io::Result<()> {
    std::fs::rename(beside, file)
}

#[expect(clippy::disallowed_methods, reason = "files of ours beside the configuration, by a person's own command")]
fn remove(file: &Path) {
    let _ = std::fs::remove_file(file);
}

fn secret_name(account: &str) -> String {
    format!("{account}.client-secret")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# mine\nlisten = []   # none\n\n# Work.\n[account.work]\nprovider = \"gdh\" # the good one\n\n\
                        [route.work]\nwait = \"1s\"\n\n# the other\n[account.home]\nprovider = \"gbdx\"\n# the end\n";

    #[test]
    fn an_account_comes_in_behind_everything_and_nothing_else_changes() {
        let settings = [
            ("provider", Setting::Text("git\"hub".into())),
            ("scopes", Setting::List(vec!["a".into(), "b".into()])),
            ("client_secret", Setting::Pairs(vec![("file", "x".into())])),
            ("device_pkce", Setting::True),
        ];
        let block = "[account.lab]\nprovider = 'git\"hub'\nscopes = [\"a\", \"b\"]\nclient_secret = { file = \"x\" }\ndevice_pkce = true\n";
        let added = with_account(FILE, "lab", &settings).unwrap();
        assert_eq!(added, format!("{FILE}\n{block}"));
        assert_eq!(with_account("", "lab", &settings).unwrap(), block);
        assert_eq!(with_account("# only words\n", "lab", &settings).unwrap(), format!("# only words\n\n{block}"));
        assert!(with_account(FILE, "work", &settings).unwrap_err().contains("already"));
        assert!(with_account("account = 1\n", "work", &settings).unwrap_err().contains("form"));
        assert!(with_account("= 1\n", "work", &settings).unwrap_err().contains("TOML"));
    }

    #[test]
    fn what_came_in_goes_out_again() {
        for text in [FILE, "", "# only words\n"] {
            let settings = [("provider", Setting::Text("x".into()))];
            let added = with_account(text, "lab", &settings).unwrap();
            let removed = without_account(&added, "lab", &[]).unwrap();
            assert_eq!(removed.trim_end(), text.trim_end(), "{added}");
        }
    }

    #[test]
    fn an_account_goes_out_with_its_routes_and_the_comment_on_it_alone() {
        let without_work =
            "# mine\nlisten = []   # none\n\n# the other\n[account.home]\nprovider = \"gbdx\"\n# the end\n";
        assert_eq!(without_account(FILE, "work", &["work"]).unwrap(), without_work);
        let without_home = without_account(FILE, "home", &[]).unwrap();
        assert!(without_home.ends_with("[route.work]\nwait = \"1s\"\n# the end\n"), "{without_home}");
        // the head of the file is nobody's
        let headed = "# valetd's configuration\n\n# on lab\n[account.lab]\nx = 1\n\n[account.b]\ny = 2\n";
        let removed = without_account(headed, "lab", &[]).unwrap();
        assert_eq!(removed, "# valetd's configuration\n\n[account.b]\ny = 2\n");
        let last = without_account("# head\n\n[account.lab]\nx = 1\n", "lab", &[]).unwrap();
        assert_eq!(last.trim_end(), "# head");
        let inline = without_account("account.lab = { provider = \"x\" }\nlisten = []\n", "lab", &[]).unwrap();
        assert_eq!(inline, "listen = []\n");
    }
}
