//! `valetd lock`

use super::configuration::places;
use super::failure::{Exit, Failure};
use super::options::Options;
use super::runtime::block_on;
use super::seal::show;
use crate::control::client::Client;

/// Hand out no token until 'valetd unlock'
#[derive(clap::Args, Debug)]
#[command(
    long_about = "\
Hand out no token until 'valetd unlock': requests are answered 503 locked, and
what was open is ended. Renewals go on, so that no sign-in is lost.

With --all, valetd also forgets the key of sealed credentials and the refresh
tokens themselves: nothing is renewed until 'valetd unlock' has brought the key
back, and a refresh token that dies meanwhile needs a new sign-in.

With store.seal = \"passphrase\" it takes the passphrase to unlock. Otherwise this
is a switch and not a wall: any program of yours can run 'valetd unlock'. A
restart of the daemon undoes it, but for what has to be brought back.",
    after_help = "\
Examples:
  valetd lock
  valetd lock --all

Exit codes: 0 locked, 1 not done."
)]
pub(super) struct Arguments {
    /// Forget the key and the refresh tokens, too
    #[arg(long)]
    all: bool,
    /// As JSON, as the control socket has it
    #[arg(long)]
    json: bool,
}

pub(super) fn perform(options: &Options, arguments: &Arguments) -> Result<Exit, Failure> {
    let places = places(options)?;
    let asked = block_on(async { Client::connect(&places.socket).await?.lock(arguments.all).await })?;
    let answer = asked.map_err(|error| Failure::of_call(error, options).while_doing("locking"))?;
    show(&answer, arguments.json)
}
