//! Edits of the configuration's text: one account in, or out, with everything else as it was written. Pure.

use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, value};

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

/// A text with one more account at its end, and its route, where that has something to say. Pure.
///
/// # Errors
///
/// Why it cannot be added, as the end of a sentence that begins with the file.
pub(super) fn with_account(
    text: &str,
    name: &str,
    settings: &[(&str, Setting)],
    of_the_route: &[(&str, Setting)],
) -> Result<String, String> {
    let with_account = with_table(text, "account", name, settings)?;
    match of_the_route {
        [] => Ok(with_account),
        settings => with_table(&with_account, "route", name, settings),
    }
}

/// A text with one more table of a kind at its end.
fn with_table(text: &str, kind: &str, name: &str, settings: &[(&str, Setting)]) -> Result<String, String> {
    let mut document: DocumentMut = text.parse().map_err(|_| "is not TOML that can be edited")?;
    let tables = document.entry(kind).or_insert_with(|| {
        let mut kind = Table::new();
        kind.set_implicit(true);
        Item::Table(kind)
    });
    let tables = tables.as_table_mut().ok_or_else(|| format!("has `{kind}` in a form that is not edited here"))?;
    if tables.contains_key(name) {
        let a = if kind == "account" { "an" } else { "a" };
        return Err(format!("has {a} {kind} {name} already"));
    }
    let mut table = Table::new();
    for (key, setting) in settings {
        let item = match setting {
            Setting::Text(text) => value(text),
            Setting::List(texts) => value(texts.iter().collect::<Array>()),
            Setting::Pairs(pairs) => {
                value(pairs.iter().map(|(key, text)| (*key, text.as_str())).collect::<InlineTable>())
            }
            Setting::True => value(true),
        };
        table.insert(key, item);
    }
    let is_first = text.trim().is_empty();
    table.decor_mut().set_prefix(if is_first { "" } else { "\n" });
    // behind all that is there, whatever order the tables are in
    table.set_position(Some(isize::MAX));
    // a comment at the end of the file stays before it
    let trailing = document.trailing().as_str().unwrap_or_default().to_owned();
    let tables = document[kind].as_table_mut().expect("it was one just now");
    if !trailing.is_empty() {
        table.decor_mut().set_prefix(format!("{}\n\n", trailing.trim_end_matches('\n')));
    }
    tables.insert(name, Item::Table(table));
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

/// Edits a text and keeps its line ends, each line its own, and its byte order mark. A new line ends as most do. Pure.
///
/// # Errors
///
/// Those of `edit`.
pub(super) fn keeping_line_ends<E>(text: &str, edit: impl FnOnce(&str) -> Result<String, E>) -> Result<String, E> {
    const MARK: &str = "\u{feff}";
    let (mark, text) = text.strip_prefix(MARK).map_or(("", text), |text| (MARK, text));
    let edited = edit(&text.replace("\r\n", "\n"))?;
    let (with_return, lines) = (text.matches("\r\n").count(), text.matches('\n').count());
    if with_return == 0 {
        return Ok(format!("{mark}{edited}"));
    }
    let usual = if with_return * 2 > lines { "\r\n" } else { "\n" };
    let before: Vec<&str> = text.split_inclusive('\n').collect();
    let mut rest = before.as_slice();
    let mut after = mark.to_owned();
    for line in edited.split_inclusive('\n') {
        let words = line.strip_suffix('\n').unwrap_or(line);
        let is_it = |old: &&str| old.trim_end_matches('\n').trim_end_matches('\r') == words.trim_end_matches('\r');
        match rest.iter().position(is_it) {
            Some(at) => {
                after.push_str(rest[at]);
                // the last line may have had no end until now
                if !rest[at].ends_with('\n') && line.ends_with('\n') {
                    after.push_str(usual);
                }
                rest = &rest[at + 1..];
            }
            None => {
                after.push_str(words);
                after.push_str(if line.ends_with('\n') { usual } else { "" });
            }
        }
    }
    Ok(after)
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
        let added = with_account(FILE, "lab", &settings, &[]).unwrap();
        assert_eq!(added, format!("{FILE}\n{block}"));
        assert_eq!(with_account("", "lab", &settings, &[]).unwrap(), block);
        assert_eq!(with_account("# only words\n", "lab", &settings, &[]).unwrap(), format!("# only words\n\n{block}"));
        let mcp = [("mcp", Setting::Text("/mcp".into()))];
        let with_route = with_account(FILE, "lab", &settings, &mcp).unwrap();
        assert_eq!(with_route, format!("{FILE}\n{block}\n[route.lab]\nmcp = \"/mcp\"\n"));
        assert!(with_account(FILE.replace("account.work", "account.x").as_str(), "work", &settings, &mcp).is_err());
        assert!(with_account(FILE, "work", &settings, &[]).unwrap_err().contains("already"));
        assert!(with_account("account = 1\n", "work", &settings, &[]).unwrap_err().contains("form"));
        assert!(with_account("= 1\n", "work", &settings, &[]).unwrap_err().contains("TOML"));
    }

    #[test]
    fn what_came_in_goes_out_again() {
        for text in [FILE, "", "# only words\n"] {
            let settings = [("provider", Setting::Text("x".into()))];
            let added = with_account(text, "lab", &settings, &[]).unwrap();
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

    #[test]
    fn line_ends_and_a_byte_order_mark_stay_as_they_are() {
        let add = |text: &str| keeping_line_ends(text, |text| with_account(text, "lab", &[("x", Setting::True)], &[]));
        let dos = FILE.replace('\n', "\r\n");
        let block = "\r\n[account.lab]\r\nx = true\r\n";
        assert_eq!(add(&dos).unwrap(), format!("{dos}{block}"));
        assert_eq!(add(&format!("\u{feff}{dos}")).unwrap(), format!("\u{feff}{dos}{block}"));
        assert_eq!(add(&format!("\u{feff}{FILE}")).unwrap(), format!("\u{feff}{FILE}{}", block.replace('\r', "")));
        // each line its own
        let mixed = dos.replacen("\r\n", "\n", 2);
        assert_eq!(add(&mixed).unwrap(), format!("{mixed}{block}"));
        assert_eq!(keeping_line_ends(&mixed, |text| Ok::<_, String>(text.to_owned())).unwrap(), mixed);
        let without = |text: &str| keeping_line_ends(text, |text| without_account(text, "work", &["work"]));
        let without_work =
            "# mine\nlisten = []   # none\n\n# the other\n[account.home]\nprovider = \"gbdx\"\n# the end\n";
        assert_eq!(without(&dos).unwrap(), without_work.replace('\n', "\r\n"));
        assert_eq!(without(&mixed).unwrap(), without_work.replace('\n', "\r\n").replacen("\r\n", "\n", 2));
        // a last line without an end
        let cut = "a = 1\r\nb = 2";
        assert_eq!(add(cut).unwrap(), format!("{cut}\r\n{block}"));
    }
}
