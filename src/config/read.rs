//! TOML with places: reads a file as far as it can be read, and hands out values by key, each with where it stands.
//!
//! serde would stop at the first problem and forget where tables came from. Here every problem goes into the [`Sink`] and
//! reading goes on without that value. A [`Table`] may have several layers, of one or more files: the user's on top of
//! a preset's. A key is looked up in the topmost layer that has it; tables inside of tables are layered likewise.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Complaint, Place, Sink, Source};
use crate::names::did_you_mean;

/// A file, read as far as it can be read.
pub(super) struct Document<'a> {
    source: &'a Source,
    root: Spanned<DeTable<'a>>,
}

impl<'a> Document<'a> {
    /// Reads a text; its syntax errors go into the sink.
    pub(super) fn read(source: &'a Source, sink: &Sink) -> Self {
        let (root, errors) = DeTable::parse_recoverable(&source.text);
        for error in errors {
            let end = source.text.len();
            // toml proposes single quotes alone; double ones do as well
            let message = error.message().trim_end_matches(", expected literal string");
            sink.syntax_error(source, error.span().unwrap_or(end..end), message);
        }
        Self { source, root }
    }

    /// The whole file as a layer.
    pub(super) fn layer(&self) -> Layer<'_> {
        Layer { source: self.source, table: self.root.get_ref(), span: 0..0, path: String::new(), showing: None }
    }
}

/// One table of one file.
#[derive(Clone)]
pub(super) struct Layer<'a> {
    source: &'a Source,
    table: &'a DeTable<'a>,
    /// The table's name in the file.
    span: Range<usize>,
    path: String,
    /// The keys that can be seen, if not all.
    showing: Option<&'static [&'static str]>,
}

impl<'a> Layer<'a> {
    /// The same layer with all but these keys out of sight.
    pub(super) fn showing(self, keys: &'static [&'static str]) -> Self {
        Self { showing: Some(keys), ..self }
    }

    /// Where the table stands.
    pub(super) fn place(&self) -> Place<'a> {
        Place { source: self.source, span: self.span.clone(), key: self.path.clone() }
    }

    fn find(&self, key: &str) -> Option<Entry<'a>> {
        if self.showing.is_some_and(|keys| !keys.contains(&key)) {
            return None;
        }
        let (name, value) = self.table.get_key_value(key)?;
        let place = |span| Place { source: self.source, span, key: join(&self.path, key) };
        Some(Entry { name: place(name.span()), place: place(value.span()), value: value.get_ref() })
    }

    /// The table below a key, if that is a table. If it is something else, the sink is told.
    pub(super) fn below(&self, key: &str, sink: &Sink) -> Option<Layer<'a>> {
        let entry = self.find(key)?;
        match entry.value {
            DeValue::Table(table) => {
                Some(Layer { source: self.source, table, span: entry.name.span, path: entry.name.key, showing: None })
            }
            other => {
                sink.error(&entry.place, wrong_type("a table", other));
                None
            }
        }
    }

    /// The tables below this one, by name: `[account.NAME]`.
    pub(super) fn tables(&self, sink: &Sink) -> BTreeMap<String, Layer<'a>> {
        let names = self.table.keys().map(|name| name.get_ref().to_string());
        names.filter_map(|name| Some((name.clone(), self.below(&name, sink)?))).collect()
    }
}

/// A value as written, and where.
struct Entry<'a> {
    name: Place<'a>,
    place: Place<'a>,
    value: &'a DeValue<'a>,
}

/// A value as understood, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Located<'a, T> {
    pub(super) value: T,
    pub(super) place: Place<'a>,
}

/// A table of one or more layers.
#[derive(Clone)]
pub(super) struct Table<'a> {
    /// The topmost first.
    layers: Vec<Layer<'a>>,
    sink: &'a Sink,
}

impl<'a> Table<'a> {
    pub(super) fn new(layers: impl IntoIterator<Item = Layer<'a>>, sink: &'a Sink) -> Self {
        Self { layers: layers.into_iter().collect(), sink }
    }

    /// Where the topmost layer stands.
    pub(super) fn place(&self) -> Place<'a> {
        self.layers.first().expect("made from at least one layer, see `new` and `table`").place()
    }

    /// Where a key's value stands; where there is none, the table itself, with the key's name.
    pub(super) fn place_of(&self, key: &str) -> Place<'a> {
        self.find(key).map(|entry| entry.place).unwrap_or_else(|| {
            let place = self.place();
            Place { key: join(&place.key, key), ..place }
        })
    }

    /// Whether any layer has the key, also with a bad value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// Whether the topmost layer has the key: whether the user said it.
    pub(super) fn is_own(&self, key: &str) -> bool {
        self.layers.first().is_some_and(|layer| layer.find(key).is_some())
    }

    /// Whether the user has said otherwise than a layer below.
    pub(super) fn is_overridden(&self, key: &str) -> bool {
        self.is_own(key) && self.layers.iter().skip(1).any(|layer| layer.find(key).is_some())
    }

    /// Complains if no layer has the key, unless it may stand on a line that could not be read.
    pub(super) fn require(&self, key: &str, remedy: &str) {
        if !self.has(key) && self.layers.iter().all(|layer| self.sink.is_readable(layer.source)) {
            let remedy = self.place_for(key).map_or_else(|| remedy.to_owned(), |place| format!("it is {place}"));
            self.sink.error(&self.place_of(key), Complaint::new("is missing", remedy));
        }
    }

    /// Where a person finds the value of a key, if a provider's file says that each has another one.
    pub(super) fn place_for(&self, key: &str) -> Option<String> {
        let unheard = Sink::default();
        let asks = self.layers.iter().filter_map(|layer| layer.below("ask", &unheard));
        asks.filter_map(|ask| match ask.find(key)?.value {
            DeValue::String(place) => Some(place.to_string()),
            _ => None,
        })
        .next()
    }

    fn find(&self, key: &str) -> Option<Entry<'a>> {
        self.layers.iter().find_map(|layer| layer.find(key))
    }

    /// A string, as `parse` understands it.
    pub(super) fn parsed<T, E: Into<Complaint>>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Located<'a, T>> {
        let entry = self.find(key)?;
        let DeValue::String(text) = entry.value else {
            self.sink.error(&entry.place, wrong_type("a string in quotes", entry.value));
            return None;
        };
        self.understood(entry.place, parse(text))
    }

    /// A string as it is, but not an empty one.
    pub(super) fn string(&self, key: &str) -> Option<Located<'a, String>> {
        self.parsed(key, not_empty)
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Option<Located<'a, T>> {
        self.parsed(key, |text| one_of(text, words))
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, key: &str) -> Option<bool> {
        let entry = self.find(key)?;
        let DeValue::Boolean(value) = entry.value else {
            self.sink.error(&entry.place, wrong_type("true or false, without quotes", entry.value));
            return None;
        };
        Some(*value)
    }

    /// `true`, `false`, or a string.
    pub(super) fn boolean_or_string(&self, key: &str) -> Option<Result<bool, Located<'a, String>>> {
        match self.find(key)?.value {
            DeValue::String(_) => self.string(key).map(Err),
            _ => self.boolean(key).map(Ok),
        }
    }

    /// A whole number from `range`.
    pub(super) fn integer(&self, key: &str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let entry = self.find(key)?;
        let DeValue::Integer(digits) = entry.value else {
            self.sink.error(&entry.place, wrong_type("a whole number", entry.value));
            return None;
        };
        let value = u64::from_str_radix(digits.as_str(), digits.radix()).ok().filter(|value| range.contains(value));
        if value.is_none() {
            self.sink.error(&entry.place, format!("is not between {} and {}", range.start(), range.end()));
        }
        value
    }

    /// A number of bytes: a whole number, or a string that `parse` understands.
    pub(super) fn size(&self, key: &str, parse: fn(&str) -> Result<u64, Complaint>) -> Option<Located<'a, u64>> {
        let entry = self.find(key)?;
        match entry.value {
            DeValue::String(text) => self.understood(entry.place, parse(text)),
            DeValue::Integer(digits) => {
                let value = u64::from_str_radix(digits.as_str(), digits.radix()).map_err(|_| "is not a size");
                self.understood(entry.place, value)
            }
            other => {
                self.sink.error(&entry.place, wrong_type("a size, as in \"1MiB\" or 500", other));
                None
            }
        }
    }

    /// An array of strings, each as `parse` understands it. Elements that it does not understand are left out.
    pub(super) fn array<T, E: Into<Complaint>>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<Located<'a, T>>> {
        let elements = self.elements(key, "an array of strings, as in [\"a\", \"b\"]")?;
        let strings = elements.into_iter().filter_map(|Entry { place, value, .. }| match value {
            DeValue::String(text) => self.understood(place, parse(text)),
            other => {
                self.sink.error(&place, wrong_type("a string in quotes", other));
                None
            }
        });
        Some(strings.collect())
    }

    /// A string, or an array of strings, each as `parse` understands it.
    pub(super) fn one_or_several<T, E: Into<Complaint>>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<Located<'a, T>>> {
        match self.find(key)?.value {
            DeValue::Array(_) => self.array(key, parse),
            _ => Some(self.parsed(key, parse).into_iter().collect()),
        }
    }

    /// An array of tables.
    pub(super) fn array_of_tables(&self, key: &str) -> Option<Vec<Table<'a>>> {
        let elements = self.elements(key, "an array of tables, as in [{ a = \"b\" }]")?;
        let tables = elements.into_iter().filter_map(|Entry { place, value, .. }| match value {
            DeValue::Table(table) => {
                let Place { source, span, key } = place;
                Some(Table::new([Layer { source, table, span, path: key, showing: None }], self.sink))
            }
            other => {
                self.sink.error(&place, wrong_type("a table, as in { a = \"b\" }", other));
                None
            }
        });
        Some(tables.collect())
    }

    fn elements(&self, key: &str, expected: &str) -> Option<Vec<Entry<'a>>> {
        let entry = self.find(key)?;
        let DeValue::Array(elements) = entry.value else {
            self.sink.error(&entry.place, wrong_type(expected, entry.value));
            return None;
        };
        let at = |(index, element): (usize, &'a Spanned<DeValue<'a>>)| {
            let path = format!("{}[{index}]", entry.place.key);
            let place = Place { source: entry.place.source, span: element.span(), key: path };
            Entry { name: place.clone(), place, value: element.get_ref() }
        };
        Some(elements.iter().enumerate().map(at).collect())
    }

    /// The table below a key, of all layers that have one.
    pub(super) fn table(&self, key: &str) -> Option<Table<'a>> {
        let layers: Vec<_> = self.layers.iter().filter_map(|layer| layer.below(key, self.sink)).collect();
        (!layers.is_empty()).then_some(Table { layers, sink: self.sink })
    }

    /// The table below a key, or nothing but a string there, also an empty one. For keys that may be either.
    pub(super) fn string_or_table(&self, key: &str) -> Option<Result<Located<'a, String>, Table<'a>>> {
        // the topmost layer that has the key decides alone: a file and a command are no sum
        let layer = self.layers.iter().find(|layer| layer.find(key).is_some())?;
        let only = Table::new([layer.clone()], self.sink);
        match only.find(key)?.value {
            DeValue::String(_) => only.parsed(key, |text| Ok::<_, Complaint>(text.to_owned())).map(Ok),
            _ => only.table(key).map(Err),
        }
    }

    /// All keys, in the order of their names.
    pub(super) fn keys(&self) -> Vec<String> {
        let names = self.layers.iter().flat_map(|layer| layer.table.keys());
        let names: std::collections::BTreeSet<String> = names.map(|name| name.get_ref().to_string()).collect();
        names.into_iter().collect()
    }

    /// Complains of every key in any layer that is not one of these.
    pub(super) fn only(&self, known: &[&str]) {
        for layer in &self.layers {
            for (name, _) in layer.table.iter() {
                let key = name.get_ref();
                if known.contains(&key.as_ref()) {
                    continue;
                }
                let remedy = did_you_mean(key, known.iter().copied());
                let remedy = remedy.unwrap_or_else(|| format!("known here: {}", known.join(", ")));
                let place = Place { source: layer.source, span: name.span(), key: join(&layer.path, key) };
                self.sink.cause(&place, Complaint::new("is no key that is known here", remedy));
            }
        }
    }

    fn understood<T, E: Into<Complaint>>(&self, place: Place<'a>, value: Result<T, E>) -> Option<Located<'a, T>> {
        match value {
            Ok(value) => Some(Located { value, place }),
            Err(complaint) => {
                self.sink.error(&place, complaint);
                None
            }
        }
    }
}

/// Takes any string but an empty one.
pub(super) fn not_empty(text: &str) -> Result<String, Complaint> {
    if text.trim().is_empty() { Err("is empty".into()) } else { Ok(text.to_owned()) }
}

/// Takes one of a few words.
pub(super) fn one_of<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, Complaint> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let known = words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let remedy = match did_you_mean(text, words.iter().map(|(word, _)| *word)) {
            Some(question) => format!("{question} ({known})"),
            None => format!("write one of {known}"),
        };
        Complaint::new("is not one of the words that are known here", remedy)
    })
}

fn wrong_type(expected: &str, found: &DeValue<'_>) -> Complaint {
    format!("must be {expected}, but is of type {}", found.type_str()).into()
}

fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}
