//! `valetd unlock`

use std::io::{self, IsTerminal};

use super::configuration::{load_config, places};
use super::failure::{Exit, Failure};
use super::options::Options;
use super::runtime::block_on;
use super::seal::{failure_of, show};
use crate::control::client::{Client, ClientError};
use crate::control::seal_verbs::SealAnswer;
use crate::key_source::KeySources;
use crate::platform::paths::Paths;
use crate::secret::Secret;
use crate::sign_in::handed_in;
use crate::sign_in::terminal::Terminal;
use crate::store::{Left, SealError, open_store};

/// Open a sealed store whose key was away
#[derive(clap::Args, Debug)]
#[command(
    long_about = "\
Open a sealed store whose key was away: asks the place that it is kept in once
more, or takes the recovery code. After the code, the key is kept in the place
that `store.seal` names from then on.",
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
    /// As JSON, as the control socket has it
    #[arg(long)]
    json: bool,
}

pub(super) fn perform(options: &Options, arguments: &Arguments) -> Result<Exit, Failure> {
    const DOING: &str = "opening the store";
    let places = places(options)?;
    let code = code(arguments).map_err(|failure| failure.while_doing(DOING))?;
    let asked = block_on(async { Client::connect(&places.socket).await?.unlock(code.as_ref()).await })?;
    let answer = match asked {
        Ok(answer) => answer,
        Err(ClientError::NotRunning(_)) => {
            unlock_here(&places, code.as_ref()).map_err(|failure| failure.while_doing(DOING))?
        }
        Err(error) => return Err(Failure::of_call(error, options).while_doing(DOING)),
    };
    show(&answer, arguments.json)
}

fn code(arguments: &Arguments) -> Result<Option<Secret>, Failure> {
    if arguments.recovery {
        let asked = Terminal::open().and_then(|mut terminal| terminal.ask_hidden("Recovery code: "));
        return asked.map(Some).map_err(Failure::new);
    }
    if !arguments.recovery_stdin {
        return Ok(None);
    }
    let stdin = io::stdin();
    if stdin.is_terminal() {
        let failure = Failure::say("standard input is a terminal").with_remedy("valetd unlock --recovery asks for it");
        return Err(failure.with_exit(Exit::Usage));
    }
    handed_in::read_secret(stdin.lock()).map(Some).map_err(Failure::new)
}

/// Opens the store while no daemon runs: what that changes is kept.
fn unlock_here(places: &Paths, code: Option<&Secret>) -> Result<SealAnswer, Failure> {
    let loaded = load_config(places)
        .map_err(|problems| Failure::say("the configuration has problems").with_problems(problems))?;
    let store = open_store(places, &loaded.config).map_err(Failure::new)?;
    let sources = KeySources::new(&loaded.config.store, &places.state_dir);
    let done = |said, left| SealAnswer { said, left, recovery_code: None };
    match code {
        Some(code) => store.recover(code, &sources).map(|said| done(said, Vec::new())).map_err(failure_of),
        None if store.seal_state().sealed.is_none() => Err(failure_of(SealError::NotSealed)),
        None => match store.unlock(|kind, blob| sources.secret(kind, blob)) {
            Ok(Left(left)) => Ok(done(vec!["the store can be opened; no daemon runs".to_owned()], left)),
            Err(error) => Err(failure_of(error)),
        },
    }
}
