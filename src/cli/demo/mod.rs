//! `valetd demo`: the main job, without any account. Both providers' stand-ins and a daemon run in this process, on
//! loopback, with everything they keep in a temporary folder.
//!
//! * `once`: requests, a renewal, a revocation and an outage, one after the other;
//! * `live`: how it stands, for a person who plays with it; `page`: what that looks like.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::configuration::places_to_run_in;
use super::failure::{Exit, Failure};
use super::options::Options;
use super::runtime::block_on;
use super::text::{length, parse_length};
use crate::advice;
use crate::config::{AccountId, Config};
use crate::config_files;
use crate::control::client::Client;
use crate::daemon::{Daemon, Surroundings};
use crate::http_client::HttpClient;
use crate::oauth::Grant;
use crate::platform::log::{self, Format, LogHandle};
use crate::secret::Secret;
use crate::shutdown::shutdown;
use crate::sign_in::{exchange, paste};
use crate::stand_in;
use crate::token_endpoint::TokenEndpoint;

mod folder;
mod live;
mod once;
mod page;
mod reports;
mod servers;

use folder::{TemporaryFolder, own_program, write_program};
use servers::{Servers, configuration};

/// Show everything without any account: stand-in providers, tokens renewed
/// every few seconds
#[derive(clap::Args, Debug)]
#[command(
    long_about = "\
Show everything without any account: stand-ins of two providers on loopback, a
daemon that is signed in to both, and tokens that are renewed every few seconds.
On a terminal, r has the APIs refuse every token that is out, o takes the
authorization servers away and brings them back, and q ends it.

With --keep nobody is signed in, so that you can practise it: the stand-ins are
at fixed ports (8251 and 8252), and the page shows the user name, the password
and a one-time code that they take.",
    after_help = "\
Examples:
  valetd demo                     then try the URLs that it prints
  valetd demo --once              a few requests, and out
  valetd demo --keep              practise signing in"
)]
pub(super) struct Arguments {
    /// Make requests through a renewal, a revocation and an outage, and end
    #[arg(long)]
    once: bool,
    /// Stay at fixed ports, with nobody signed in; PORT and the next are the
    /// stand-ins' (8251 and 8252)
    #[arg(long, value_name = "PORT", num_args = 0..=1, require_equals = true, default_missing_value = "8251",
          value_parser = clap::value_parser!(u16).range(1..=65533), conflicts_with = "once")]
    keep: Option<u16>,
    /// How long tokens live; 20s, with --keep 10m
    #[arg(long, value_name = "TIME", value_parser = parse_life)]
    tokens: Option<Duration>,
}

/// The shortest life of a token that leaves time to renew it, and to see that.
const SHORTEST_LIFE: Duration = Duration::from_secs(5);

fn parse_life(text: &str) -> Result<Duration, String> {
    match parse_length(text)? {
        life if life < SHORTEST_LIFE => {
            Err(format!("name {} at least: less is over before it is seen", length(SHORTEST_LIFE.as_secs())))
        }
        life => Ok(life),
    }
}

/// Where the demonstration listens if the address is free: the daemon's own default. With `--keep`, the port after those
/// of the stand-ins, which is the same if none is named.
const USUAL_PORT: u16 = 8253;

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let log = log::init(log::Options {
        filter: Some(options.log.clone().unwrap_or_else(|| "error".to_owned())),
        format: Format::Text,
    })
    .map_err(|error| Failure::new(error).with_exit(Exit::Usage))?;
    let folder = TemporaryFolder::new().map_err(|error| Failure::new(error).while_doing("making a folder"))?;
    block_on(demonstrate(&folder.0, log, &arguments))?
}

async fn demonstrate(folder: &Path, log: LogHandle, arguments: &Arguments) -> Result<Exit, Failure> {
    let (usual_life, ports, port) = match arguments.keep {
        Some(first) => (600, [first, first + 1], first + 2),
        None => (20, [0, 0], USUAL_PORT),
    };
    let access_lifetime = arguments.tokens.unwrap_or(Duration::from_secs(usual_life));
    let lives = stand_in::Options { access_lifetime, ..stand_in::Options::default() };
    let servers = Servers::start(lives, ports).await?;
    let options = Options {
        config: Some(folder.join("config.toml")),
        state_dir: Some(folder.join("state")),
        socket: Some(folder.join("valetd.sock")),
        ..Options::default()
    };
    advice::is_called(own_program(folder));
    let socket = places_to_run_in(&options)?.socket;
    let (config, daemon) = match build(&servers, &options, port, &log) {
        // somebody else's by now, or all the time
        Err(_) => build(&servers, &options, 0, &log)?,
        built => built?,
    };
    let state = daemon.control_state();
    write_program(folder, &options)
        .map_err(|error| Failure::new(error).while_doing("writing the demonstration's program"))?;
    let (stop, stopped) = shutdown();
    let show = async {
        let endpoint = TokenEndpoint::new(HttpClient::from_environment());
        let code = Secret::new(servers.gdh.mint_code());
        let password = Secret::new(stand_in::PASSWORD);
        let login = Grant::Password { username: stand_in::USERNAME.to_owned(), password, otp: None };
        let account = |name: &str| &config.accounts[&AccountId::new(name).expect("a name")];
        for (name, grant) in [("gdh", paste::grant(account("gdh"), code, None)), ("gbdx", login)] {
            if arguments.keep.is_some() {
                break;
            }
            let account = account(name);
            let new = exchange::redeem(account, &endpoint, grant)
                .await
                .map_err(|error| Failure::new(error).while_doing(format!("signing in to {name}")))?;
            let mut client = Client::connect(&socket).await.map_err(Failure::new)?;
            client.set_credential(name, &new).await.map_err(Failure::new)?;
        }
        let exit = match arguments.once {
            true => once::show(&state, &servers, &socket).await,
            false => live::show(&state, &servers, folder, arguments.keep.is_some(), port).await,
        };
        stop.start();
        exit
    };
    let (served, exit) = tokio::join!(daemon.serve(stopped), show);
    served.map_err(Failure::new)?;
    exit
}

/// A daemon for the stand-ins, on this port or (0) on any.
#[expect(clippy::disallowed_methods, reason = "in a folder of ours that is thrown away")]
fn build(servers: &Servers, options: &Options, port: u16, log: &LogHandle) -> Result<(Config, Daemon), Failure> {
    let paths = places_to_run_in(options)?;
    fs::write(&paths.config_file, configuration(servers, port))
        .map_err(|error| Failure::new(error).while_doing("writing the demonstration's configuration"))?;
    let config = config_files::load(&paths).map_err(Failure::new)?.config;
    let invocation = advice::invocation().to_owned();
    let (inherited, warnings, log) = (Vec::new(), Vec::new(), Some(log.clone()));
    let surroundings = Surroundings { paths, invocation, inherited, warnings, seed: 1, hardening: None, log };
    Ok((config, Daemon::build(surroundings).map_err(Failure::new)?))
}
