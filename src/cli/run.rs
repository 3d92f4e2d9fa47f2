//! `valetd run`

use super::configuration::places_to_run_in;
use super::failure::{Exit, Failure};
use super::options::{LogFormat, Options};
use crate::daemon::{self, Surroundings};
use crate::platform::log::{self, Format};
use crate::platform::{descriptors, harden, socket};

/// Run the daemon in this terminal, or under a service manager
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  valetd run                      until Ctrl-C
  valetd run --log debug          and say more about it
  valetd service install          for good, as a service")]
pub(super) struct Arguments {}

pub(super) fn perform(options: &Options, _: Arguments) -> Result<Exit, Failure> {
    // first, while there is one thread and nobody has opened a descriptor
    let inherited = socket::inherited().map_err(|error| Failure::new(error).while_doing("taking over sockets"))?;
    let paths = places_to_run_in(options)?;
    let format = match options.log_format {
        Some(LogFormat::Json) => Format::Json,
        Some(LogFormat::Text) | None => Format::Text,
    };
    let log = log::init(log::Options { filter: options.log.clone(), format })
        .map_err(|error| Failure::new(error).with_exit(Exit::Usage))?;
    let invocation = options.invocation();
    let seed = std::process::id().into();
    let hardening = Some(harden::harden());
    descriptors::raise();
    let warnings = log::unknown_modules(&log.filter());
    let log = Some(log);
    daemon::run(Surroundings { paths, invocation, inherited, warnings, seed, hardening, log }).map_err(Failure::new)?;
    Ok(Exit::Fine)
}
