//! `valetd providers`

use clap::{Args, Subcommand};
use serde_json::json;

use super::configuration::places;
use super::failure::{Exit, Failure};
use super::options::Options;
use super::output::print;
use super::text::{Cell, Table, WIDTH, cut, printable, wrapped};
use crate::advice::advised;
use crate::config::Preset;
use crate::config_files;
use crate::names::UnknownName;

/// List the providers that valetd knows
#[derive(Args, Debug)]
#[command(
    long_about = "\
List the providers that valetd knows: those that come with it, and the files in
~/.config/valetd/providers. 'valetd add NAME PROVIDER' makes an account of one.

Their values are from the providers' documents; none of those that come with
valetd was run against the live service.",
    after_help = "\
Examples:
  valetd providers
  valetd providers --search google
  valetd providers show github
  valetd providers --json | jq -r '.providers[].name'

With --json: { schema: 1, providers[]: name, description, yours, find,
ask[]: key, place }."
)]
pub(super) struct Arguments {
    /// Only those with this in their name, description or addresses
    #[arg(long, value_name = "WORD")]
    search: Option<String>,
    /// Print the list for scripts
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Show(Show),
}

/// Show what a provider says, with its sources
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  valetd providers show github > ~/.config/valetd/providers/my-github.toml")]
struct Show {
    /// The provider
    name: String,
}

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let known = config_files::known_presets(&places(options)?);
    match arguments.verb {
        Some(Verb::Show(Show { name })) => show(&named(&known, &name)?.preset)?,
        None => list(&known, arguments.search.as_deref().unwrap_or_default(), arguments.json)?,
    }
    Ok(Exit::Fine)
}

/// The provider of this name.
///
/// # Errors
///
/// That there is none, and which was probably meant.
pub(super) fn named<'a>(
    known: &'a [config_files::KnownPreset],
    name: &str,
) -> Result<&'a config_files::KnownPreset, Failure> {
    known.iter().find(|known| known.preset.name == name).ok_or_else(|| {
        let names = known.iter().map(|known| known.preset.name.as_str());
        let words = UnknownName::new("provider", name, names).to_string();
        Failure::say(words).with_remedy(format!("`{}` lists them", advised("providers"))).with_exit(Exit::Usage)
    })
}

fn show(preset: &Preset) -> Result<(), Failure> {
    let Preset { name, text, .. } = preset;
    let text: String = text.lines().map(|line| printable(line) + "\n").collect();
    print(&format!("{text}\n# {}\n", advised(format_args!("add NAME {name}"))))
}

fn list(known: &[config_files::KnownPreset], word: &str, is_json: bool) -> Result<(), Failure> {
    let found: Vec<_> = known.iter().filter(|known| matches(&known.preset, word)).collect();
    if is_json {
        let providers = found.iter().map(|known| {
            let Preset { name, description, ask, find, text: _, further_routes: _ } = &known.preset;
            let ask = ask.iter().map(|asked| json!({ "key": asked.key, "place": asked.place }));
            let ask: Vec<_> = ask.collect();
            json!({ "name": name, "description": description, "yours": known.is_own, "find": find, "ask": ask })
        });
        let document = json!({ "schema": 1, "providers": providers.collect::<Vec<_>>() });
        return print(&format!("{document:#}\n"));
    }
    if found.is_empty() {
        let words = format!("no provider has {word:?} in its name, description or addresses");
        return Err(Failure::say(words).with_remedy(format!("`{}` asks a server itself", advised("add NAME URL"))));
    }
    let mut table = Table::default();
    let longest = found.iter().map(|known| known.preset.name.chars().count()).max().unwrap_or(0);
    for known in &found {
        let description = cut(&printable(&known.preset.description), WIDTH - longest - 2);
        table.row([Cell::new(known.preset.name.clone()), Cell::new(description)]);
    }
    let (add, show) = (advised("add NAME PROVIDER"), advised("providers show NAME"));
    let ask = advised("add NAME URL");
    let hint = format!(
        "'{add}' makes an account of one, '{show}' shows what it says, and '{ask}' asks a server that is not here."
    );
    print(&format!("{}\n\n{}", table.lines().join("\n"), wrapped(&hint, 0)))
}

/// Whether a word is in what a provider is called, or in one of its addresses; comments are left out. Pure.
fn matches(preset: &Preset, word: &str) -> bool {
    let word = word.to_lowercase();
    let is_in = |text: &str| text.to_lowercase().contains(&word);
    let settings = preset.text.lines().filter(|line| !line.starts_with('#'));
    is_in(&preset.name)
        || is_in(&preset.description)
        || settings.into_iter().any(|line| line.contains("://") && is_in(line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::presets;

    #[test]
    fn a_provider_is_found_by_its_name_its_description_or_an_address() {
        let found = |word: &str| -> Vec<String> {
            presets().filter(|preset| matches(preset, word)).map(|found| found.name).collect()
        };
        assert_eq!(found("").len(), presets().count());
        assert_eq!(found("GitHub"), ["github"]);
        assert!(found("googleapis.com").contains(&"gmail".to_owned()));
        assert!(found("jira").contains(&"atlassian".to_owned()));
        assert_eq!(found("documents; not run").len(), 0, "comments say nothing of what it is");
    }
}
