//! How credentials are kept: `[store]`.

use super::read::{Located, Table, one_of};
use super::reader::Reader;
use super::secret_source::SecretSource;

/// How credentials are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StoreSettings {
    /// Where the key comes from that they are sealed with, once `valetd seal on` has been said.
    pub seal: SealSetting,
}

/// Where the key comes from that credentials are sealed with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SealSetting {
    /// From the best of what the machine has and no person is needed for.
    Auto,
    /// There is none, and nothing is sealed.
    Off,
    /// From what the user has made: a file, a command's output, or a credential of the service's unit.
    Held(SecretSource),
}

/// A setting that is one word.
type Word = (&'static str, fn() -> SealSetting);

const WORDS: &[Word] = &[("auto", || SealSetting::Auto), ("off", || SealSetting::Off)];

impl StoreSettings {
    pub(super) const DEFAULT: Self = Self { seal: SealSetting::Auto };
}

impl Reader<'_> {
    pub(super) fn store(&self, table: &Table<'_>) -> StoreSettings {
        table.only(&["seal"]);
        let seal = match table.string_or_table("seal") {
            None => None,
            Some(Ok(word)) => self.seal_word(&word),
            Some(Err(held)) => self.held_key(&held),
        };
        StoreSettings { seal: seal.unwrap_or(StoreSettings::DEFAULT.seal) }
    }

    fn seal_word(&self, Located { value, place }: &Located<'_, String>) -> Option<SealSetting> {
        match one_of(value, WORDS) {
            Ok(setting) => Some(setting()),
            Err(complaint) => {
                self.sink.error(place, complaint);
                None
            }
        }
    }

    fn held_key(&self, table: &Table<'_>) -> Option<SealSetting> {
        const KEYS: &[&str] = &["file", "command", "unit"];
        table.only(KEYS);
        self.exactly_one(table, KEYS)?;
        let file = || self.path(table, "file").map(SecretSource::File);
        let command = || self.command(table).map(SecretSource::Command);
        let unit = || self.credential(table, "unit").map(SecretSource::Credential);
        file().or_else(command).or_else(unit).map(SealSetting::Held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::testing::{config, facts, source};

    #[test]
    fn a_seal_is_a_word_or_says_where_the_key_lies() {
        let held = |source| SealSetting::Held(source);
        let rows = [
            ("", SealSetting::Auto),
            ("[store]\n", SealSetting::Auto),
            ("[store]\nseal = \"auto\"", SealSetting::Auto),
            ("[store]\nseal = \"off\"", SealSetting::Off),
            ("store.seal = { file = \"/media/key\" }", held(SecretSource::File("/media/key".into()))),
            (
                "store.seal = { command = [\"pass\", \"valetd\"] }",
                held(SecretSource::Command(vec!["pass".into(), "valetd".into()])),
            ),
            ("store.seal = { unit = \"store-key\" }", held(SecretSource::Credential("store-key".into()))),
        ];
        for (text, expected) in rows {
            assert_eq!(config(text).store.seal, expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_seal_is_refused_with_what_would_be_one() {
        let rows = [
            ("store.seal = \"of\"", "did you mean \"off\"?"),
            ("store.seal = true", "store.seal: must be"),
            ("store.seal = {}", "must have exactly one of file, command, unit"),
            ("store.seal = { file = \"/k\", unit = \"u\" }", "must have exactly one of file, command, unit"),
            ("store.seal = { command = [] }", "is empty"),
            ("store.seal = { unit = \"../u\" }", "is not the name of a systemd credential"),
            ("store.seals = \"off\"", "did you mean \"seal\"?"),
        ];
        for (text, expected) in rows {
            let problems = Config::parse(&source(text), &[], &facts()).unwrap_err().to_string();
            assert!(problems.contains(expected), "{text}: {problems}");
        }
    }
}
