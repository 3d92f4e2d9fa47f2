//! Configurations for tests.

use std::collections::BTreeMap;

use super::{Account, AccountId, Config, MachineFacts, Parsed, Source};

/// A machine like any other.
pub(crate) fn facts() -> MachineFacts {
    MachineFacts {
        folder: "/home/me/.config/valetd".into(),
        home: "/home/me".into(),
        cores: 8,
        metadata: BTreeMap::new(),
    }
}

/// A file that only its owner can read.
pub(crate) fn source(text: &str) -> Source {
    Source { name: "config.toml".into(), text: text.into(), readable_by_others: false }
}

/// Reads a configuration that has neither errors nor warnings.
pub(crate) fn parse_with(text: &str, providers: &[(String, Source)]) -> Parsed {
    let parsed = Config::parse(&source(text), providers, &facts()).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(parsed.warnings, []);
    parsed
}

/// What the provider `any` says: no more than an account and its route need.
const ANY: &str = "token_endpoint = \"https://auth.example/oauth2/token\"\n\
                   [route.main]\nupstream = \"https://api.example\"\n";

/// Reads a good configuration, whose accounts may be on top of `provider = "any"`.
pub(crate) fn config(text: &str) -> Config {
    parse_with(text, &[("any".to_owned(), source(ANY))]).config
}

/// An account that its own lines lay over what any account needs.
pub(crate) fn account(name: &str, lines: &str) -> Account {
    let mut config = config(&format!("[account.{name}]\nprovider = \"any\"\n{lines}"));
    let account = config.accounts.remove(&AccountId::new(name).expect("a name")).expect("it is in there");
    Account { provider: None, ..account }
}
