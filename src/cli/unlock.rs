//! `valetd unlock`

use super::configuration::{config_or_empty, load_config, places};
use super::failure::{Exit, Failure};
use super::opening::{locked, of_store};
use super::options::Options;
use super::output::remark;
use super::runtime::block_on;
use super::seal::{failure_of, secret_on_stdin, show};
use crate::control::client::{Client, ClientError, Said};
use crate::control::seal_verbs::SealAnswer;
use crate::key_source::{KeySources, Kind};
use crate::platform::paths::Paths;
use crate::sign_in::terminal::Terminal;
use crate::store::{Left, SealError, SealState, open_store, seal_in};

/// Open a sealed store whose key was away, and undo a lock
#[derive(clap::Args, Debug)]
#[command(
    long_about = "\
Undo 'valetd lock', and open a sealed store whose key was away: asks the place
that it is kept in once more, a person for the passphrase, or has the keyring
ask for its password; or takes the recovery code. After the code, the key is
kept in the place that `store.seal` names from then on.",
    after_help = "\
Examples:
  valetd unlock
  valetd unlock --recovery

Exit codes: 0 it is open, 5 it is not, 1 nothing was tried."
)]
pub(super) struct Arguments {
    /// Ask for the recovery code on the terminal
    #[arg(long)]
    recovery: bool,
    /// Read the recovery code from standard input
    #[arg(long, conflicts_with = "recovery")]
    recovery_stdin: bool,
    /// Read the passphrase from standard input instead of asking for it
    #[arg(long, conflicts_with_all = ["recovery", "recovery_stdin"])]
    passphrase_stdin: bool,
    /// As JSON, as the control socket has it
    #[arg(long)]
    json: bool,
}

pub(super) fn perform(options: &Options, arguments: &Arguments) -> Result<Exit, Failure> {
    const DOING: &str = "unlocking";
    let places = places(options)?;
    let sources = KeySources::new(&config_or_empty(&places).store, &places.state_dir);
    let asked = block_on(async {
        let mut client = Client::connect(&places.socket).await?;
        let source = client.status().await?.daemon.store.source;
        let said = said(arguments, source.as_deref(), &sources);
        Ok::<_, ClientError>(match said {
            Ok(said) => Ok(client.unlock(&said).await?),
            Err(failure) => Err(failure),
        })
    })?;
    let answer = match asked {
        Ok(answer) => answer.map_err(|failure| failure.while_doing(DOING))?,
        Err(ClientError::NotRunning(_)) => {
            unlock_here(&places, arguments).map_err(|failure| failure.while_doing(DOING))?
        }
        Err(error) => return Err(Failure::of_call(error, options).while_doing(DOING)),
    };
    show(&answer, arguments.json)
}

/// What the person says, who is asked where it takes a passphrase.
fn said(arguments: &Arguments, source: Option<&str>, sources: &KeySources) -> Result<Said, Failure> {
    let ask = |prompt: &str, pipe: &str| {
        let asked = Terminal::open().and_then(|mut terminal| terminal.ask_hidden(prompt));
        asked.map_err(|error| Failure::new(error).with_remedy(format!("or send it through a pipe: {pipe}")))
    };
    match arguments {
        Arguments { recovery: true, .. } => ask("Recovery code: ", "--recovery-stdin").map(Said::RecoveryCode),
        Arguments { recovery_stdin: true, .. } => secret_on_stdin().map(Said::RecoveryCode),
        Arguments { passphrase_stdin: true, .. } => secret_on_stdin().map(Said::Passphrase),
        _ if source == Some(Kind::Passphrase.name()) => ask("Passphrase: ", "--passphrase-stdin").map(Said::Passphrase),
        _ if source == Some(Kind::SecretService.name()) => {
            remark("the keyring asks for its password, if it is locked");
            let opened = sources.ask_a_person(Kind::SecretService);
            opened.map_err(|why| Failure::new(why).with_exit(Exit::Locked))?;
            Ok(Said::Nothing)
        }
        _ => Ok(Said::Nothing),
    }
}

/// Opens the store while no daemon runs: what that changes is kept.
fn unlock_here(places: &Paths, arguments: &Arguments) -> Result<SealAnswer, Failure> {
    let loaded = load_config(places)
        .map_err(|problems| Failure::say("the configuration has problems").with_problems(problems))?;
    let SealState { sealed, locked: why, doubt: _ } = seal_in(&places.state_dir);
    let Some(sealed) = sealed else {
        return Err(why.map_or_else(|| failure_of(SealError::NotSealed), |why| locked(&why)));
    };
    // before the folder is taken: a person may take a while
    let sources = KeySources::new(&loaded.config.store, &places.state_dir);
    let said = said(arguments, Some(&sealed.source), &sources)?;
    let store = open_store(places, &loaded.config).map_err(of_store)?;
    let done = |said, left| SealAnswer { said, left, recovery_code: None };
    let passphrase = match said {
        Said::RecoveryCode(code) => {
            return store.recover(&code, &sources).map(|said| done(said, Vec::new())).map_err(failure_of);
        }
        Said::Passphrase(passphrase) => Some(passphrase),
        Said::Nothing => None,
    };
    let sources = sources.with_passphrase(passphrase);
    match store.unlock(|kind, blob| sources.secret(kind, blob)) {
        Ok(Left(left)) => Ok(done(vec!["the store can be opened; no daemon runs".to_owned()], left)),
        Err(error) => Err(failure_of(error)),
    }
}
