//! Configurations for tests.

use super::{Config, Facts, Parsed, Source};

/// A machine like any other.
pub(crate) fn facts() -> Facts {
    Facts { folder: "/home/me/.config/valetd".into(), home: "/home/me".into(), cores: 8 }
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
