//! `valetd adopt`

use super::arguments::parse_account;
use super::configuration::{account_of, load_config, places};
use super::failure::{Exit, Failure};
use super::opening::{ask_passphrase, of_store, open_unlocked, takes_passphrase};
use super::options::Options;
use super::output::print;
use super::runtime::block_on;
use super::seal::secret_on_stdin;
use crate::advice::advised;
use crate::config::AccountId;
use crate::control::client::{Client, ClientError};
use crate::secret::Secret;
use crate::store::Adoption;

/// Use a credential here that was last used on another machine, or put back
#[derive(clap::Args, Debug)]
#[command(
    long_about = "\
Use a credential here that was last used on another machine: after a move to a
new machine, or from a backup. Two machines that renew one sign-in look to the
server like a theft, and it may revoke both. So a record that was copied is not
used before somebody says that this is the only machine now. Where another one
goes on with it, sign in here instead: valetd login.

In a sealed store, a record that was put back as it was earlier is not used
either (older-copy), as its refresh token is probably spent. Adopt it if it is
the latest all the same; from then on it is.",
    after_help = "\
Examples:
  valetd adopt gbdx
  valetd adopt gbdx --any

Exit codes: 0 it is used here, 1 not done, 5 the store is locked."
)]
pub(super) struct Arguments {
    /// The account
    #[arg(value_parser = parse_account)]
    account: AccountId,
    /// On every machine that has this home folder from now on (login nodes):
    /// one of them at a time, or the sign-in is at risk
    #[arg(long)]
    any: bool,
    /// Read the passphrase of a sealed store from standard input instead of
    /// asking for it, where no daemon runs
    #[arg(long)]
    passphrase_stdin: bool,
}

fn passphrase(from_stdin: bool) -> Result<Secret, Failure> {
    if from_stdin { secret_on_stdin() } else { ask_passphrase() }
}

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { account: id, any, passphrase_stdin } = arguments;
    let doing = format!("adopting {id}");
    let places = places(options)?;
    let adoption = if any { Adoption::ByAnyMachine } else { Adoption::ByThisMachine };
    let asked = block_on(async { Client::connect(&places.socket).await?.adopt(&id, adoption).await })?;
    match asked {
        Ok(message) => print(&format!("{id}: {message}\n"))?,
        Err(ClientError::NotRunning(_)) => {
            let loaded = load_config(&places).map_err(|problems| {
                Failure::say("the configuration has problems").with_problems(problems).while_doing(doing.clone())
            })?;
            account_of(&loaded.config, &id)?;
            let failed = |failure: Failure| failure.while_doing(doing.clone());
            let passphrase = takes_passphrase(&places).then(|| passphrase(passphrase_stdin)).transpose();
            let store = open_unlocked(&places, &loaded.config, passphrase.map_err(failed)?).map_err(failed)?;
            let is_there = store.adopt(&id, adoption).map_err(|error| failed(of_store(error)))?;
            if !is_there {
                return Err(Failure::say("nobody has signed in")
                    .with_remedy(advised(format_args!("login {id}")))
                    .while_doing(doing));
            }
            print(&format!("{id}: used here from now on\n"))?;
        }
        Err(error) => return Err(Failure::of_call(error, options).while_doing(doing)),
    }
    Ok(Exit::Fine)
}
