//! `valetd run`

use super::{Exit, Failure, Options, run_daemon};

/// Run the daemon in this terminal, or under a service manager
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  valetd run                      until Ctrl-C
  valetd run --log debug          and say more about it
  systemctl --user enable --now valetd.socket valetd.service
                                  for good, as a service")]
pub(super) struct Arguments {}

pub(super) fn perform(options: &Options, _: Arguments) -> Result<Exit, Failure> {
    run_daemon(options)
}
