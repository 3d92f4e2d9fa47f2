//! `valetd log`

use super::configuration::places;
use super::failure::{Exit, Failure};
use super::options::Options;
use super::output::{print, remark};
use super::runtime::block_on;
use crate::control::client::Client;
use crate::platform::log;

/// Show what the running daemon logs, or change it
#[derive(clap::Args, Debug)]
#[command(
    long_about = "\
Show what the running daemon logs, or change it until the daemon is started
anew. A filter is a level (error, warn, info, debug, trace), or levels by
module. What a stranger on the network can cause is logged at debug only.",
    after_help = "\
Examples:
  valetd log
  valetd log debug
  valetd log info,valetd::proxy=debug
  journalctl --user -u valetd -f"
)]
pub(super) struct Arguments {
    /// What is logged from now on
    filter: Option<String>,
}

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let places = places(options)?;
    let said = block_on(async {
        let mut client = Client::connect(&places.socket).await?;
        match &arguments.filter {
            Some(filter) => client.set_log_filter(filter).await.map(|()| filter.clone()),
            None => client.log_filter().await,
        }
    })?;
    let filter = said.map_err(|error| Failure::of_call(error, options).while_doing("asking for the log"))?;
    print(&format!("{filter}\n"))?;
    log::unknown_modules(&filter).iter().for_each(|words| remark(words));
    Ok(Exit::Fine)
}
