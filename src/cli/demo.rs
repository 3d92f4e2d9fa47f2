//! `valetd demo`

use super::{Exit, Failure, Options};

/// Show everything without any account: stand-in providers, tokens renewed
/// every few seconds
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  valetd demo                     then try the URLs that it prints")]
pub(super) struct Arguments {}

/// SEAM: the stand-ins and the live view go here.
pub(super) fn perform(_: &Options, _: Arguments) -> Result<Exit, Failure> {
    Err(Failure::say("this build has no demonstration yet"))
}
