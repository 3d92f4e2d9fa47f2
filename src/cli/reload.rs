//! `valetd reload`

use super::configuration::places;
use super::failure::{Exit, Failure};
use super::options::Options;
use super::output::print;
use super::runtime::block_on;
use crate::control::client::Client;

/// Have the running daemon read its configuration again
#[derive(clap::Args, Debug)]
#[command(
    long_about = "\
Have the running daemon read its configuration again. Returns when the new one
is in force. If it has problems, they are printed and the daemon goes on with
the one before it. The daemon also notices by itself when the file changes.",
    after_help = "\
Example:
  valetd check && valetd reload

Exit codes: 0 the new one is in force, 1 it is not."
)]
pub(super) struct Arguments {}

pub(super) fn perform(options: &Options, _: Arguments) -> Result<Exit, Failure> {
    let places = places(options)?;
    let reloaded = block_on(async { Client::connect(&places.socket).await?.reload().await })?;
    reloaded.map_err(|error| Failure::of_call(error, options).while_doing("reloading"))?;
    print("the configuration was read again\n")?;
    Ok(Exit::Fine)
}
