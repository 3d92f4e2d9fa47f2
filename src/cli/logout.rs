//! `valetd logout`

use super::arguments::parse_account;
use super::configuration::{STORE_PATIENCE, account_of, load_config, places, when_free};
use super::failure::{Exit, Failure};
use super::options::Options;
use super::output::print;
use super::runtime::block_on;
use super::text::printable;
use crate::config::AccountId;
use crate::control::client::{Client, ClientError};
use crate::http_client::HttpClient;
use crate::platform::paths::Paths;
use crate::sign_in::offline;
use crate::store::open_store;
use crate::token_endpoint::TokenEndpoint;

/// Sign out: revoke the refresh token at the server, then forget it
#[derive(clap::Args, Debug)]
#[command(
    long_about = "\
Sign out: revoke the refresh token at the server where it can be done (RFC
7009), then forget it. Access tokens that are out already live on until they
expire, as far as the server lets them.",
    after_help = "\
Example:
  valetd logout gbdx"
)]
pub(super) struct Arguments {
    /// The account
    #[arg(value_parser = parse_account)]
    account: AccountId,
}

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { account: id } = arguments;
    let message = sign_out(options, &places(options)?, &id)?;
    print(&format!("{id}: {}\n", printable(&message)))?;
    Ok(Exit::Fine)
}

/// Revokes and forgets. Returns what happened at the server, for people.
///
/// # Errors
///
/// If it cannot be forgotten.
pub(super) fn sign_out(options: &Options, places: &Paths, id: &AccountId) -> Result<String, Failure> {
    let doing = format!("signing out of {id}");
    let signed_out = when_free(STORE_PATIENCE, || {
        match block_on(async { Client::connect(&places.socket).await?.remove_credential(id.as_str()).await })? {
            Ok(message) => Ok(Ok(message)),
            Err(ClientError::NotRunning(_)) => {
                let loaded = load_config(places).map_err(|problems| {
                    Failure::say("the configuration has problems").with_problems(problems).while_doing(doing.clone())
                })?;
                let account = account_of(&loaded.config, id)?;
                let endpoint = TokenEndpoint::new(HttpClient::from_environment());
                match open_store(places, &loaded.config) {
                    Ok(store) => block_on(offline::forget(&store, &endpoint, account)),
                    Err(error) => Ok(Err(error)),
                }
            }
            Err(error) => Err(Failure::of_call(error, options).while_doing(doing.clone())),
        }
    })?;
    signed_out.map_err(|error| Failure::say(error.to_string()).while_doing(doing))
}
