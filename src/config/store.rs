//! How credentials are kept: `[store]`.

use std::time::Duration;

use super::read::{Located, Table, one_of};
use super::reader::Reader;
use super::secret_source::SecretSource;
use crate::advice::advised;

/// How credentials are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StoreSettings {
    /// Where the key comes from that they are sealed with, once `valetd seal on` has been said.
    pub seal: SealSetting,
    /// On which machine a record is used.
    pub machine: MachineSetting,
    /// When no token is to leave any more, until somebody unlocks.
    pub lock: LockSettings,
}

/// What locks by itself, as `valetd lock` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LockSettings {
    /// So long a time without a request.
    pub idle: Option<Duration>,
    /// The locked screen of a session.
    pub screen: bool,
    /// The machine's sleep.
    pub suspend: bool,
    /// Whether the key and the refresh tokens are forgotten, too, as by `valetd lock --all`.
    pub all: bool,
}

impl LockSettings {
    const DEFAULT: Self = Self { idle: None, screen: false, suspend: false, all: false };

    /// Whether it takes news from logind.
    pub(crate) fn hears(self) -> bool {
        self.screen || self.suspend
    }
}

/// On which machine a record is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MachineSetting {
    /// On the one that it was last used on: a copy on another is not used before a person says so.
    This,
    /// On any that has the folder: one after the other, for login nodes and for images with a new machine-id each time.
    Any,
}

/// Where the key comes from that credentials are sealed with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SealSetting {
    /// From the best of what the machine has and no person is needed for.
    Auto,
    /// There is none, and nothing is sealed.
    Off,
    /// From systemd's credential service, also where that binds it to a TPM.
    Systemd,
    /// From the keyring of the desktop.
    SecretService,
    /// From a passphrase that a person types after each start.
    Passphrase,
    /// From what the user has made: a file, a command's output, or a credential of the service's unit.
    Held(SecretSource),
}

/// A setting that is one word.
type Word = (&'static str, fn() -> SealSetting);

const WORDS: &[Word] = &[
    ("auto", || SealSetting::Auto),
    ("off", || SealSetting::Off),
    ("systemd", || SealSetting::Systemd),
    ("secret-service", || SealSetting::SecretService),
    ("passphrase", || SealSetting::Passphrase),
];

impl SealSetting {
    /// In one word: that of the setting, or of the source that it names.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
            Self::Systemd => "systemd",
            Self::SecretService => "secret-service",
            Self::Passphrase => "passphrase",
            Self::Held(SecretSource::File(_) | SecretSource::Inline(_)) => "file",
            Self::Held(SecretSource::Command(_)) => "command",
            Self::Held(SecretSource::Credential(_)) => "unit",
        }
    }

    /// What is to be done where the store is not as this says, in a sentence and a command. `source` is what the store is
    /// sealed by, if it is: a setting changes nothing before somebody says so.
    pub(crate) fn differs_from(&self, source: Option<&str>) -> Option<(String, String)> {
        let word = self.word();
        match (self, source) {
            (Self::Auto, _) | (Self::Off, None) => None,
            (Self::Off, Some(source)) => {
                let says = format!("store.seal is \"off\", and credentials are sealed still, by: {source}");
                Some((says, advised("seal off")))
            }
            (_, None) => {
                let says = format!("store.seal names {word}, and credentials are in the clear still");
                Some((says, advised("seal on")))
            }
            (_, Some(source)) if source == word => None,
            (_, Some(source)) => {
                let says = format!("store.seal names {word}, and the key of credentials is kept still by: {source}");
                Some((says, advised("seal on")))
            }
        }
    }
}

impl StoreSettings {
    pub(super) const DEFAULT: Self =
        Self { seal: SealSetting::Auto, machine: MachineSetting::This, lock: LockSettings::DEFAULT };
}

impl Reader<'_> {
    pub(super) fn store(&self, table: &Table<'_>) -> StoreSettings {
        table.only(&["seal", "machine", "lock"]);
        let seal = match table.string_or_table("seal") {
            None => None,
            Some(Ok(word)) => self.seal_word(&word),
            Some(Err(held)) => self.held_key(&held),
        };
        let machines = [("this", MachineSetting::This), ("any", MachineSetting::Any)];
        let machine = table.word("machine", &machines).map(|found| found.value);
        let lock = table.table("lock").map(|lock| self.lock(&lock));
        StoreSettings {
            lock: lock.unwrap_or(LockSettings::DEFAULT),
            seal: seal.unwrap_or(StoreSettings::DEFAULT.seal),
            machine: machine.unwrap_or(StoreSettings::DEFAULT.machine),
        }
    }

    fn lock(&self, table: &Table<'_>) -> LockSettings {
        table.only(&["idle", "screen", "suspend", "all"]);
        let is = |key| table.boolean(key).unwrap_or(false);
        LockSettings {
            idle: Some(self.duration(table, "idle", Duration::ZERO, Duration::ZERO)).filter(|idle| !idle.is_zero()),
            screen: is("screen"),
            suspend: is("suspend"),
            all: is("all"),
        }
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
            ("store.seal = \"systemd\"", SealSetting::Systemd),
            ("store.seal = \"secret-service\"", SealSetting::SecretService),
            ("store.seal = \"passphrase\"", SealSetting::Passphrase),
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
    fn a_record_is_used_on_one_machine_unless_any_is_said() {
        assert_eq!(config("").store.machine, MachineSetting::This);
        assert_eq!(config("store.machine = \"this\"").store.machine, MachineSetting::This);
        assert_eq!(config("store.machine = \"any\"").store.machine, MachineSetting::Any);
    }

    #[test]
    fn nothing_locks_by_itself_unless_it_is_said_what() {
        assert_eq!(config("").store.lock, LockSettings::DEFAULT);
        let found = config("store.lock = { idle = \"15m\", screen = true, suspend = true, all = true }").store.lock;
        let idle = Some(Duration::from_secs(900));
        assert_eq!(found, LockSettings { idle, screen: true, suspend: true, all: true });
        assert_eq!(config("store.lock = { idle = \"0s\" }").store.lock, LockSettings::DEFAULT);
        assert!(!config("store.lock.idle = \"1h\"").store.lock.hears());
    }

    #[test]
    fn a_setting_that_nobody_has_put_in_force_yet_is_told_with_what_would() {
        let file = || SealSetting::Held(SecretSource::File("/k".into()));
        let rows = [
            (SealSetting::Auto, None, None),
            (SealSetting::Auto, Some("command"), None),
            (SealSetting::Off, None, None),
            (SealSetting::Off, Some("file"), Some("valetd seal off")),
            (file(), None, Some("valetd seal on")),
            (file(), Some("file"), None),
            (file(), Some("systemd"), Some("valetd seal on")),
            (SealSetting::Passphrase, Some("file"), Some("valetd seal on")),
        ];
        for (setting, source, expected) in rows {
            let found = setting.differs_from(source).map(|(_, command)| command);
            assert_eq!(found.as_deref(), expected, "{setting:?} {source:?}");
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
            ("store.machine = \"all\"", "\"this\", \"any\""),
            ("store.lock = { idle = \"15\" }", "has no unit"),
            ("store.lock = { screens = true }", "did you mean \"screen\"?"),
            ("store.seals = \"off\"", "did you mean \"seal\"?"),
        ];
        for (text, expected) in rows {
            let problems = Config::parse(&source(text), &[], &facts()).unwrap_err().to_string();
            assert!(problems.contains(expected), "{text}: {problems}");
        }
    }
}
