//! `valetd remove`

use super::arguments::parse_account;
use super::configuration::{Loaded, account_of, load_config, places};
use super::failure::{Exit, Failure};
use super::logout;
use super::options::Options;
use super::output::{print, remark};
use super::registered::{Kept, Registry};
use super::runtime::block_on;
use super::text::printable;
use super::{config_edit, config_file};
use crate::advice::advised;
use crate::config::{Account, AccountId};
use crate::control::client::{Client, ClientError};
use crate::discovery::{kept, register};
use crate::http_client::HttpClient;
use crate::platform::termination::uninterrupted;

/// Remove an account: sign out, and take it out of the configuration
#[derive(clap::Args, Debug)]
#[command(
    long_about = "\
Remove an account: revoke its refresh token at the server where it can be done,
forget it and what is known of its server, and take the account and its routes
out of the configuration. Everything else in the file stays as it is.",
    after_help = "\
Example:
  valetd remove gbdx

Exit codes: 0 it is gone, 1 it is not."
)]
pub(super) struct Arguments {
    /// The account
    #[arg(value_parser = parse_account)]
    account: AccountId,
}

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { account: id } = arguments;
    let doing = format!("removing {id}");
    let places = places(options)?;
    let Loaded { config, warnings: _ } = load_config(&places).map_err(|problems| {
        Failure::say("the configuration has problems").with_problems(problems).while_doing(doing.clone())
    })?;
    let account = account_of(&config, &id)?;
    let routes: Vec<&str> =
        config.routes.iter().filter(|route| route.account == id).map(|route| route.name.as_str()).collect();
    // first of all whether it can be done: an account that is signed out and stays would be neither
    let without = |text: &str| {
        config_edit::without_account(text, id.as_str(), &routes).map_err(|why| {
            let failure = Failure::say(format!("{} {why}", places.config_file.display()));
            failure
                .with_remedy(format!("run '{}' and take the account out by hand", advised(format_args!("logout {id}"))))
        })
    };
    without(&config_file::text(&places)?)?;
    let message = logout::sign_out(options, &places, &id).map_err(|failure| failure.while_doing(doing.clone()))?;
    let registry = Registry { options, places: &places, config: &config, passphrase: None };
    take_back_client(registry, account)?;
    // as the file is now: the server may have taken its time, in which it was edited
    let now = config_file::edit(&places, &uninterrupted(), without).map_err(|failure| failure.while_doing(doing))?;
    config_file::remove_secrets(&places, account, &now);
    kept::forget(&places.state_dir, &id);
    if let Err(failure) = registry.forget(&id) {
        remark(&format!("{id}: its client is not forgotten: {}", failure.problems_or_itself().join("; ")));
    }
    match block_on(async { Client::connect(&places.socket).await?.reload().await })? {
        Ok(()) | Err(ClientError::NotRunning(_)) => {}
        Err(error) => remark(&format!("the daemon has not taken it over yet: {error}")),
    }
    let also = match routes.len() {
        0 => String::new(),
        _ => format!(" with its routes ({})", routes.join(", ")),
    };
    print(&format!("{id}: {}; removed from {}{also}\n", printable(&message), places.config_file.display()))?;
    Ok(Exit::Fine)
}

/// Takes the account's client back at the server, if there is one. Says why not, if it stays there: that keeps nobody from
/// removing the account.
fn take_back_client(registry: Registry<'_>, account: &Account) -> Result<(), Failure> {
    let id = &account.id;
    if !registry.has_file(id) {
        return Ok(());
    }
    let why = match registry.of(id) {
        Ok(Kept::Usable(found)) => block_on(register::take_back(&HttpClient::from_environment(), account, &found))?,
        Ok(Kept::Nothing) => None,
        Ok(Kept::Unusable(why)) => Some(why),
        Err(failure) => Some(failure.problems_or_itself().join("; ")),
    };
    if let Some(why) = why {
        remark(&format!("{id}: the client stays registered at the server: {}", printable(&why)));
    }
    Ok(())
}
