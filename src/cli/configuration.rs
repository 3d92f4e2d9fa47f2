//! Where the verbs find things, and the configuration as they need it: loaded, or its problems in words for a terminal.

use std::thread::sleep;
use std::time::Duration;

use super::failure::Failure;
use super::options::Options;
use super::output::remark;
use crate::advice::advised;
use crate::config::{self, Account, AccountId, Config, Problem};
use crate::config_files;
use crate::names::UnknownName;
use crate::platform::clock;
use crate::platform::paths::Paths;
use crate::store::StoreError;

/// Where a verb finds things, the socket of the daemon that runs included.
pub(super) fn places(options: &Options) -> Result<Paths, Failure> {
    let places = places_to_run_in(options)?;
    Ok(if options.socket.is_none() { places.of_a_running_daemon() } else { places })
}

/// Where a daemon that is started now finds and leaves things.
pub(super) fn places_to_run_in(options: &Options) -> Result<Paths, Failure> {
    Paths::find(options.overrides()).map_err(Failure::new)
}

/// A configuration that can be used, and what is strange about it.
pub(super) struct Loaded {
    pub(super) config: Config,
    pub(super) warnings: Vec<String>,
}

/// A configuration that can be used, and what is strange about it. An error is every problem, for a terminal.
pub(super) fn load_config(places: &Paths) -> Result<Loaded, Vec<String>> {
    let rendered = |problems: &[Problem]| problems.iter().map(Problem::rendered).collect();
    match config_files::load(places) {
        Ok(parsed) => Ok(Loaded { config: parsed.config, warnings: rendered(&parsed.warnings) }),
        Err(problems) => Err(rendered(&problems.0)),
    }
}

/// The configuration, or, where it has problems, the one that a daemon would start with: a key can be revoked all the
/// same.
pub(super) fn config_or_empty(places: &Paths) -> Config {
    config_files::load(places).map_or_else(|_| config_files::empty(places), |parsed| parsed.config)
}

/// For how long the store is waited for. Whoever holds it and serves nobody is a command like this one, or a daemon that is about
/// to serve: neither takes long.
pub(super) const STORE_PATIENCE: Duration = Duration::from_secs(5);

/// The same where what a person has just signed in for would be lost: a renewal on a slow line.
pub(super) const STORE_PATIENCE_AT_THE_END: Duration = Duration::from_secs(30);

/// Tries again what needs the store, as long as another process holds it.
///
/// # Errors
///
/// Those of the attempt; [`StoreError::Held`] when patience ends.
pub(super) fn when_free<T>(
    patience: Duration,
    mut attempt: impl FnMut() -> Result<Result<T, StoreError>, Failure>,
) -> Result<Result<T, StoreError>, Failure> {
    let begun = clock::instant();
    let mut is_told = false;
    loop {
        match attempt()? {
            Err(error @ StoreError::Held { .. }) if begun.elapsed() < patience => {
                if !is_told && begun.elapsed() > Duration::from_secs(1) {
                    remark(&format!("waiting: {error}"));
                    is_told = true;
                }
                sleep(Duration::from_millis(100));
            }
            tried => return Ok(tried),
        }
    }
}

/// Whether a provider that comes with valetd has this name, and an account of it needs to say no more.
pub(super) fn is_enough(name: &AccountId) -> bool {
    config::presets().any(|preset| preset.name == name.as_str() && preset.is_enough())
}

/// Where the providers are listed.
pub(super) fn where_providers_are() -> String {
    format!("`{}` lists those that valetd knows", advised("providers"))
}

/// The account of this name.
///
/// # Errors
///
/// Names the accounts that there are, or the lines that add this one.
pub(super) fn account_of<'a>(config: &'a Config, id: &AccountId) -> Result<&'a Account, Failure> {
    if let Some(account) = config.accounts.get(id) {
        return Ok(account);
    }
    if config::presets().any(|preset| preset.name == id.as_str()) {
        let failure = Failure::say(format!("the configuration has no account named \"{id}\""));
        return Err(
            failure.with_remedy(format!("'{}' makes one of that provider", advised(format_args!("add {id} {id}"))))
        );
    }
    let failure =
        Failure::unknown(&UnknownName::new("account", id.as_str(), config.accounts.keys().map(AccountId::as_str)));
    Err(match config.accounts.is_empty() {
        true => {
            let add = advised(format_args!("add {id} PROVIDER"));
            failure.with_remedy(format!("'{add}' makes one; {}", where_providers_are()))
        }
        false => failure,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::tests::config;

    #[test]
    fn a_known_provider_that_is_not_configured_is_two_lines_away() {
        let failure = account_of(&config(), &AccountId::new("gdh").unwrap()).unwrap_err();
        let text = failure.to_string();
        assert!(text.contains("valetd add gdh gdh"), "{text}");
        let failure = account_of(&config(), &AccountId::new("lab").unwrap()).unwrap_err();
        assert!(failure.remedy.unwrap().contains("valetd providers"));
    }
}
