//! `valetd check`

use serde::Serialize;

use super::configuration::{Loaded, load_config, places, where_providers_are};
use super::failure::{Exit, Failure};
use super::options::Options;
use super::output::print;
use super::service::sockets;
use super::text::{count, printable};
use crate::advice::advised;
use crate::config::SealSetting;
use crate::config_files::unusable_authorities;
use crate::daemon::other_than_listed;
use crate::platform::log;
use crate::store::{self, SealState};

/// Check the configuration file and print every problem in it
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  valetd check
  valetd check --config new.toml && mv new.toml ~/.config/valetd/config.toml
  valetd check --json | jq -r '.problems[]'

Files that somebody else could change, and folders on the way to them, are
problems, too: each is named with the command that mends it.

With --json: { schema: 1, ok, file, accounts, routes, problems[], warnings[] }.

Exit codes: 0 it can be used, 1 it has problems.")]
pub(super) struct Arguments {
    /// Print the outcome for scripts
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Outcome {
    schema: u32,
    ok: bool,
    file: String,
    /// How many there are; null where the file cannot be used.
    accounts: Option<usize>,
    routes: Option<usize>,
    problems: Vec<String>,
    warnings: Vec<String>,
}

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let looked = look(options);
    if !arguments.json {
        let outcome = looked?;
        let warnings = outcome.warnings.iter().flat_map(|warning| warning.lines());
        let warnings: String = warnings.map(|line| format!("warning: {}\n", printable(line))).collect();
        let number = |number: Option<usize>| number.unwrap_or_default();
        let (accounts, routes) = (count(number(outcome.accounts), "account"), count(number(outcome.routes), "route"));
        print(&format!("{warnings}{}: good: {accounts}, {routes}\n", outcome.file))?;
        return Ok(Exit::Fine);
    }
    let outcome = looked.or_else(|failure| {
        let file = places(options)?.config_file.display().to_string();
        let problems = failure.problems_or_itself();
        Ok::<_, Failure>(Outcome {
            schema: 1,
            ok: false,
            file,
            accounts: None,
            routes: None,
            problems,
            warnings: Vec::new(),
        })
    })?;
    let text = serde_json::to_string_pretty(&outcome).expect("texts and numbers");
    print(&format!("{text}\n"))?;
    Ok(if outcome.ok { Exit::Fine } else { Exit::Failed })
}

fn look(options: &Options) -> Result<Outcome, Failure> {
    let places = places(options)?;
    let file = places.config_file.display().to_string();
    if !places.config_file.exists() {
        return Err(Failure::say(format!("there is no configuration at {file}")).with_remedy(format!(
            "'{}' makes one; {}",
            advised("add NAME PROVIDER"),
            where_providers_are()
        )));
    }
    let Loaded { config, warnings } = load_config(&places).map_err(|problems| {
        Failure::say(format!("{file} cannot be used: {}", count(problems.len(), "problem"))).with_problems(problems)
    })?;
    let unusable = unusable_authorities(&config);
    if !unusable.is_empty() {
        let problems = count(unusable.len(), "problem");
        return Err(Failure::say(format!("{file} cannot be used as it is: {problems}")).with_problems(unusable));
    }
    // a service has the usual places
    let served = if options.invocation() == "valetd" { sockets() } else { None };
    let differs = served.and_then(|sockets| other_than_listed(&config.listen, &sockets));
    let kept = store::seal_in(&places.state_dir);
    let forgets_nothing = (config.store.lock.all && kept == SealState::default())
        .then(|| format!("store.lock.all has no effect before credentials are sealed; {}", advised("seal on")));
    let doubt = kept.doubt.clone();
    let unsealed = unsealed(&config.store.seal, kept);
    let filter = log::chosen(options.log.as_deref()).map(|filter| match log::checked_filter(&filter) {
        Ok(filter) => log::unknown_modules(&filter),
        Err(unreadable) => vec![format!("no daemon could be started with this RUST_LOG: {unreadable}")],
    });
    let warnings = warnings.into_iter().chain(differs).chain(unsealed).chain(forgets_nothing).chain(doubt);
    let warnings = warnings.chain(filter.into_iter().flatten()).collect();
    let (accounts, routes) = (Some(config.accounts.len()), Some(config.routes.len()));
    Ok(Outcome { schema: 1, ok: true, file, accounts, routes, problems: Vec::new(), warnings })
}

/// What is to be said of how credentials are kept, if something is.
fn unsealed(setting: &SealSetting, SealState { sealed, locked, doubt: _ }: SealState) -> Option<String> {
    match (sealed, locked) {
        (None, Some(why)) => Some(format!("how credentials are sealed cannot be read: {why}")),
        (sealed, _) => {
            let source = sealed.map(|sealed| sealed.source);
            setting.differs_from(source.as_deref()).map(|(says, command)| format!("{says}; {command}"))
        }
    }
}
