//! Entries in a configuration file that people and programs write, too: what is not the entry stays as it is, comments,
//! order and blanks included. Pure.

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstObject, CstRootNode};
use serde_json::Value;
use toml_edit::{DocumentMut, Item, Table, TableLike};

/// What a file is written in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    /// JSON, with comments and commas at the end where the file has them.
    Json,
    Toml,
}

/// An entry's members, in their order.
pub(super) type Entry = Vec<(&'static str, Value)>;

/// Where the entries of a file are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) format: Format,
    /// The table or object that holds them, by name.
    pub(super) table: &'static str,
}

const BOM: &str = "\u{feff}";

impl Place {
    /// The text with an entry of this name, which takes the place of one that is there.
    ///
    /// # Errors
    ///
    /// What is wrong with the text, as the end of a sentence.
    pub(super) fn with(self, text: &str, name: &str, entry: &Entry) -> Result<String, String> {
        if self.find(text, name)?.is_some_and(|found| found == as_value(entry)) {
            return Ok(text.to_owned());
        }
        self.edit(text, |file| match file {
            File::Json(root) => {
                let table = root.object_value_or_create().and_then(|root| root.object_value_or_create(self.table));
                let table = table.ok_or_else(|| self.no_table())?;
                match table.get(name) {
                    Some(old) => old.set_value(in_json(entry)),
                    None => drop(table.append(name, in_json(entry))),
                }
                Ok(())
            }
            File::Toml(root) => {
                let mut implicit = Table::new();
                implicit.set_implicit(true);
                let table = root.entry(self.table).or_insert(Item::Table(implicit));
                let table = table.as_table_like_mut().ok_or_else(|| self.no_table())?;
                table.insert(name, in_toml(entry));
                Ok(())
            }
        })
    }

    /// The text without the entry.
    ///
    /// # Errors
    ///
    /// What is wrong with the text, as the end of a sentence.
    pub(super) fn without(self, text: &str, name: &str) -> Result<String, String> {
        if self.find(text, name)?.is_none() {
            return Ok(text.to_owned());
        }
        self.edit(text, |file| {
            match file {
                File::Json(root) => {
                    let table = root.object_value().and_then(|root| root.object_value(self.table));
                    if let Some(entry) = table.and_then(|table| table.get(name)) {
                        entry.remove();
                    }
                }
                File::Toml(root) => {
                    if let Some(table) = root.get_mut(self.table).and_then(Item::as_table_like_mut) {
                        table.remove(name);
                    }
                }
            }
            Ok(())
        })
    }

    /// The entry of this name.
    ///
    /// # Errors
    ///
    /// What is wrong with the text, as the end of a sentence.
    pub(super) fn find(self, text: &str, name: &str) -> Result<Option<Value>, String> {
        Ok(self.all(text)?.into_iter().find(|(its, _)| its == name).map(|(_, entry)| entry))
    }

    /// All entries.
    ///
    /// # Errors
    ///
    /// What is wrong with the text, as the end of a sentence.
    pub(super) fn all(self, text: &str) -> Result<Vec<(String, Value)>, String> {
        match self.read(text.trim_start_matches(BOM))? {
            File::Json(root) => {
                if root.value().is_some() && root.object_value().is_none() {
                    return Err(self.no_table());
                }
                let Some(table) = root.object_value().map(|root| table(&root, self.table)).transpose()?.flatten()
                else {
                    return Ok(Vec::new());
                };
                let table = table.as_object().ok_or_else(|| self.no_table())?;
                unambiguous(&table)?;
                let entries = table.properties().into_iter();
                Ok(entries.filter_map(|entry| Some((entry.decoded_name()?, entry.to_serde_value()?))).collect())
            }
            File::Toml(root) => {
                let Some(table) = root.get(self.table) else { return Ok(Vec::new()) };
                let table = table.as_table_like().ok_or_else(|| self.no_table())?;
                Ok(table.iter().map(|(name, entry)| (name.to_owned(), from_toml(entry))).collect())
            }
        }
    }

    fn read(self, text: &str) -> Result<File, String> {
        match self.format {
            Format::Json => {
                let root = CstRootNode::parse(text, &JSON).map_err(|error| format!("is no JSON: {error}"))?;
                Ok(File::Json(root))
            }
            Format::Toml => {
                let root = text.parse::<DocumentMut>().map_err(|error| format!("is no TOML: {}", error.message()))?;
                Ok(File::Toml(Box::new(root)))
            }
        }
    }

    fn edit(self, text: &str, edit: impl FnOnce(&mut File) -> Result<(), String>) -> Result<String, String> {
        let (bom, rest) = match text.strip_prefix(BOM) {
            Some(rest) => (BOM, rest),
            None => ("", text),
        };
        let mut file = self.read(rest)?;
        edit(&mut file)?;
        let mut edited = match file {
            File::Json(root) => root.to_string(),
            File::Toml(root) => root.to_string(),
        };
        if rest.trim().is_empty() && !edited.ends_with('\n') {
            edited.push('\n');
        }
        Ok(format!("{bom}{edited}"))
    }

    fn no_table(self) -> String {
        format!("has something else where {:?} is to be", self.table)
    }
}

/// JSON with comments and commas at the end, and nothing else that a client might read otherwise.
const JSON: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_trailing_commas: true,
    allow_loose_object_property_names: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

enum File {
    Json(CstRootNode),
    Toml(Box<DocumentMut>),
}

/// The value of the member `name`.
fn table(object: &CstObject, name: &str) -> Result<Option<jsonc_parser::cst::CstNode>, String> {
    unambiguous(object)?;
    Ok(object.get(name).and_then(|member| member.value()))
}

/// A name that stands there twice is read in different ways.
fn unambiguous(object: &CstObject) -> Result<(), String> {
    let mut names: Vec<String> = object.properties().iter().filter_map(|member| member.decoded_name()).collect();
    names.sort();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("has {:?} twice", pair[0])),
        None => Ok(()),
    }
}

pub(super) fn as_value(entry: &Entry) -> Value {
    Value::Object(entry.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

fn in_json(entry: &Entry) -> CstInputValue {
    CstInputValue::Object(entry.iter().map(|(name, value)| ((*name).to_owned(), to_json(value))).collect())
}

fn to_json(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(value) => CstInputValue::Bool(*value),
        Value::Number(number) => CstInputValue::Number(number.to_string()),
        Value::String(text) => CstInputValue::String(text.clone()),
        Value::Array(list) => CstInputValue::Array(list.iter().map(to_json).collect()),
        Value::Object(members) => {
            CstInputValue::Object(members.iter().map(|(name, one)| (name.clone(), to_json(one))).collect())
        }
    }
}

/// Our entries have texts, booleans and lists of texts.
fn in_toml(entry: &Entry) -> Item {
    let mut table = Table::new();
    for (name, value) in entry {
        table.insert(name, Item::Value(to_toml(value)));
    }
    Item::Table(table)
}

fn to_toml(value: &Value) -> toml_edit::Value {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::Array(list) => list.iter().map(to_toml).collect::<toml_edit::Array>().into(),
        Value::String(text) => text.as_str().into(),
        other => other.to_string().into(),
    }
}

/// A value as far as it is looked at: texts, booleans, lists and tables.
fn from_toml(item: &Item) -> Value {
    match item {
        Item::Value(value) => value_from_toml(value),
        other => other.as_table_like().map_or(Value::Null, members),
    }
}

fn value_from_toml(value: &toml_edit::Value) -> Value {
    match value {
        toml_edit::Value::String(text) => text.value().as_str().into(),
        toml_edit::Value::Boolean(value) => (*value.value()).into(),
        toml_edit::Value::Integer(number) => (*number.value()).into(),
        toml_edit::Value::Array(list) => list.iter().map(value_from_toml).collect(),
        toml_edit::Value::InlineTable(table) => members(table),
        other => other.to_string().into(),
    }
}

fn members(table: &dyn TableLike) -> Value {
    Value::Object(table.iter().map(|(name, item)| (name.to_owned(), from_toml(item))).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const JSON: Place = Place { format: Format::Json, table: "mcpServers" };
    const TOML: Place = Place { format: Format::Toml, table: "mcp_servers" };

    fn entry() -> Entry {
        vec![("type", json!("http")), ("url", json!("http://localhost:8253/lab/mcp"))]
    }

    #[test]
    fn an_entry_is_put_in_and_taken_out_and_nothing_else_changes() {
        let json = "{\n  // mine\n  \"theme\": \"dark\", /* odd */\n  \"mcpServers\": {\n    \"other\": { \"command\": \"x\" },\n  },\n}\n";
        let toml = "# mine\nmodel = \"x\" # odd\n\n[mcp_servers.other]\ncommand = \"y\"\n\n[profiles.a]\nb = 1\n";
        for (place, before) in [(JSON, json), (TOML, toml), (TOML, "mcp_servers = { other = { url = \"y\" } }\n")] {
            let with = place.with(before, "lab", &entry()).unwrap();
            assert_eq!(place.find(&with, "lab").unwrap(), Some(as_value(&entry())));
            let mut rest = with.lines();
            let is_kept = before.lines().all(|line| rest.any(|other| other == line));
            assert!(is_kept || before.lines().count() == 1, "{with}");
            assert_eq!(place.with(&with, "lab", &entry()).unwrap(), with, "the second time nothing changes");
            assert_eq!(place.without(&with, "lab").unwrap(), before);
        }
        let other = vec![("url", json!("http://localhost:1/"))];
        let with = JSON.with(json, "other", &other).unwrap();
        assert_eq!(JSON.all(&with).unwrap(), [("other".to_owned(), as_value(&other))]);
    }

    #[test]
    fn odd_files_are_written_into_and_what_cannot_be_read_is_refused() {
        for (place, before) in [
            (JSON, ""),
            (JSON, "  \n"),
            (JSON, "// nothing yet\n"),
            (JSON, "{}"),
            (JSON, "\u{feff}{\r\n  \"a\": 1\r\n}\r\n"),
            (JSON, "{\"mcpServers\": {}}"),
            (TOML, ""),
            (TOML, "\u{feff}a = 1\n"),
            (TOML, "a = 1"),
        ] {
            let with = place.with(before, "lab", &entry()).unwrap_or_else(|why| panic!("{before:?} {why}"));
            assert_eq!(place.find(&with, "lab").unwrap(), Some(as_value(&entry())), "{before:?}");
            assert_eq!(with.starts_with(BOM), before.starts_with(BOM));
        }
        for (place, wrong) in [
            (JSON, "{"),
            (JSON, "[]"),
            (JSON, "{\"mcpServers\": []}"),
            (JSON, "{mcpServers: {}}"),
            (JSON, "{\"a\": 1 \"mcpServers\": {}}"),
            (JSON, "{\"mcpServers\": {}, \"mcpServers\": {}}"),
            (TOML, "a = "),
            (TOML, "mcp_servers = 7\n"),
        ] {
            assert!(place.with(wrong, "lab", &entry()).is_err(), "{wrong}");
            assert!(place.without(wrong, "lab").is_err(), "{wrong}");
        }
    }
}
