//! `valetd check`

use super::configuration::{Loaded, load_config, places, preset_names};
use super::failure::{Exit, Failure};
use super::options::Options;
use super::output::print;
use super::text::printable;
use crate::config_files::unusable_authorities;

/// Check the configuration file and print every problem in it
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  valetd check
  valetd check --config new.toml && mv new.toml ~/.config/valetd/config.toml

Files that somebody else could change, and folders on the way to them, are
problems, too: each is named with the command that mends it.

Exit codes: 0 it can be used, 1 it has problems.")]
pub(super) struct Arguments {}

pub(super) fn perform(options: &Options, _: Arguments) -> Result<Exit, Failure> {
    let places = places(options)?;
    let file = places.config_file.display().to_string();
    if !places.config_file.exists() {
        let presets = preset_names().join(", ");
        return Err(Failure::say(format!("there is no configuration at {file}"))
            .with_remedy(format!("'{} login NAME' makes one, for NAME = {presets}", options.invocation())));
    }
    let Loaded { config, warnings } = load_config(&places).map_err(|problems| {
        Failure::say(format!("{file} cannot be used: {}", count(problems.len(), "problem"))).with_problems(problems)
    })?;
    let unusable = unusable_authorities(&config);
    if !unusable.is_empty() {
        let problems = count(unusable.len(), "problem");
        return Err(Failure::say(format!("{file} cannot be used as it is: {problems}")).with_problems(unusable));
    }
    let mut out = String::new();
    for warning in &warnings {
        for line in warning.lines() {
            out.push_str(&format!("warning: {}\n", printable(line)));
        }
    }
    let (accounts, routes) = (count(config.accounts.len(), "account"), count(config.routes.len(), "route"));
    print(&format!("{out}{file}: good: {accounts}, {routes}\n"))?;
    Ok(Exit::Fine)
}

fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}
