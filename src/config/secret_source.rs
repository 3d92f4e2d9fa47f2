//! Where a secret comes from.

use std::path::PathBuf;

use super::problem::Complaint;
use super::read::{Located, Table, not_empty};
use super::reader::Reader;
use crate::secret::Secret;

/// Where a client secret comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SecretSource {
    /// The first line of a file; relative to the configuration's folder.
    File(PathBuf),
    /// The first line that a command prints.
    Command(Vec<String>),
    /// A systemd credential's name.
    Credential(String),
    /// The configuration itself, which nobody but its owner can read.
    Inline(Secret),
}

impl SecretSource {
    /// Whether a header field that is added holds a secret: where it is kept apart, and where the field's name says so.
    pub(crate) fn is_secret_in(&self, field: &str) -> bool {
        const WORDS: [&str; 9] =
            ["key", "token", "secret", "auth", "password", "cookie", "sign", "session", "credential"];
        match self {
            SecretSource::File(_) | SecretSource::Command(_) | SecretSource::Credential(_) => true,
            SecretSource::Inline(_) => WORDS.iter().any(|word| field.contains(word)),
        }
    }
}

impl Reader<'_> {
    pub(super) fn inline_secret(&self, Located { value, place }: Located<'_, String>) -> Option<SecretSource> {
        // some servers' clients have an empty one, which is none to be kept
        if place.source.readable_by_others && !value.is_empty() {
            let message = "holds a secret in a file that others can read";
            let remedy =
                "chmod 600 the file, or write client_secret = { file = \"/path\" } (or command, or credential)";
            self.sink.error(&place, Complaint::new(message, remedy));
            return None;
        }
        if value.trim().is_empty() && !value.is_empty() {
            self.sink.error(&place, "holds nothing but blanks");
            return None;
        }
        if value.contains(['\r', '\n']) {
            self.sink.error(&place, "has more than one line");
            return None;
        }
        Some(SecretSource::Inline(Secret::new(value)))
    }

    pub(super) fn secret_source(&self, table: &Table<'_>) -> Option<SecretSource> {
        const KEYS: &[&str] = &["file", "command", "credential"];
        table.only(KEYS);
        self.exactly_one(table, KEYS)?;
        let file = || self.path(table, "file").map(SecretSource::File);
        let command = || self.command(table).map(SecretSource::Command);
        let credential = || self.credential(table, "credential").map(SecretSource::Credential);
        file().or_else(command).or_else(credential)
    }

    /// A program and its arguments.
    pub(super) fn command(&self, table: &Table<'_>) -> Option<Vec<String>> {
        let words: Vec<String> = table.array("command", not_empty)?.into_iter().map(|word| word.value).collect();
        if words.is_empty() {
            self.sink.error(&table.place_of("command"), "is empty");
            return None;
        }
        Some(words)
    }

    /// The name of a systemd credential.
    pub(super) fn credential(&self, table: &Table<'_>, key: &str) -> Option<String> {
        let name = table.parsed(key, |text| {
            let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            let is_name = !text.is_empty() && !text.starts_with('.') && text.chars().all(good);
            if is_name { Ok(text.to_owned()) } else { Err("is not the name of a systemd credential") }
        });
        name.map(|found| found.value)
    }
}
