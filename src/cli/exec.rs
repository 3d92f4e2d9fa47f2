//! `valetd exec`

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use super::text::parse_length;
use super::wait::until_usable;
use super::{Exit, Failure, Options, block_on, places};
use crate::client_keys::{NewKey, Rights};
use crate::config::{AccountId, RouteName};
use crate::control::client::Client;
use crate::control::report::{RouteReport, StatusReport};
use crate::secret::Secret;

/// Run a command that finds valetd in its environment
#[derive(clap::Args, Debug)]
#[command(
    long_about = "\
Run a command with the routes' addresses in its environment, as soon as their
accounts have a usable token. valetd is replaced by the command, so that its
exit code and its signals are its own.

  VALETD_URL     where all routes are: http://localhost:8253
  GBDX_URL       the route gbdx: http://localhost:8253/gbdx
  GBDX_RDA_URL   the route gbdx-rda, and so on: upper case, - becomes _
  VALETD_KEY     a client key for the routes of -r (all, without), which is
                 good for as long as the command and its children run",
    after_help = "\
Examples:
  valetd exec -r gbdx -- sh -c 'curl $GBDX_URL/catalog/v2/...'
  valetd exec --timeout 2m -- python3 nightly.py
  valetd exec -r gbdx --key-in-url -- sudo -u sandbox agent

Exit codes: the command's own; 126 it cannot be run, 127 there is none; before
it runs: 1 the daemon does not run or has no such route, 3 somebody must sign
in, 4 not usable in time."
)]
pub(super) struct Arguments {
    /// The route that is needed; may be given again. Without it, all of them
    #[arg(short, long = "route", value_name = "ROUTE", value_parser = parse_route)]
    routes: Vec<RouteName>,
    /// How long to wait for usable tokens: 30s, 5m, 1h
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_length)]
    timeout: Duration,
    /// Put the key into the addresses, for what runs as another user
    #[arg(long)]
    key_in_url: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<String>,
}

fn parse_route(name: &str) -> Result<RouteName, &'static str> {
    RouteName::new(name).ok_or("a name is 1 to 63 of a-z 0-9 - _ and begins with a letter or a digit")
}

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { routes, timeout, key_in_url, command } = arguments;
    let places = places(options)?;
    let (report, key) = block_on(async {
        let report = match Client::connect(&places.socket).await {
            Ok(mut client) => client.status().await.map_err(|error| Failure::of_call(error, options))?,
            // it may be on its way up
            Err(_) => until_usable(options, &places.socket, &[], timeout).await?,
        };
        let mut accounts: Vec<AccountId> = Vec::new();
        let mut rights = Rights { routes: Vec::new(), methods: Vec::new(), paths: Vec::new() };
        for route in wanted(&report, &routes)? {
            rights.routes.extend(RouteName::new(&route.name));
            accounts.extend(AccountId::new(&route.account).filter(|account| !accounts.contains(account)));
        }
        let report = match accounts.is_empty() {
            true => report,
            false => until_usable(options, &places.socket, &accounts, timeout).await?,
        };
        let new = NewKey { name: None, rights, lifetime: None, rate: None, ephemeral: true };
        let key = match new.rights.routes.is_empty() {
            true => None,
            false => {
                let held = Client::hold_key(&places.socket, new).await;
                let held = held.map_err(|error| Failure::of_call(error, options))?;
                Some(held.survive_exec().map_err(Failure::new)?)
            }
        };
        Ok::<_, Failure>((report, key))
    })??;
    let (program, rest) = command.split_first().expect("clap requires a command");
    let error = Command::new(program).args(rest).envs(variables(&report, key.as_ref(), key_in_url)).exec();
    let exit = match error.kind() {
        io::ErrorKind::NotFound => Exit::NoSuchCommand,
        _ => Exit::NotExecutable,
    };
    Err(Failure::new(error).while_doing(format!("running {program}")).with_exit(exit))
}

/// The routes that are named, or all.
fn wanted<'a>(report: &'a StatusReport, names: &[RouteName]) -> Result<Vec<&'a RouteReport>, Failure> {
    if names.is_empty() {
        return Ok(report.routes.iter().collect());
    }
    let find = |name: &RouteName| {
        report.routes.iter().find(|route| route.name == name.as_str()).ok_or_else(|| {
            let names: Vec<&str> = report.routes.iter().map(|route| route.name.as_str()).collect();
            Failure::say(format!("no route is named {name:?}"))
                .with_remedy(format!("the routes are: {}", names.join(", ")))
        })
    };
    names.iter().map(find).collect()
}

/// What the command finds in its environment: of all routes, since it may know more of them than were waited for.
fn variables(report: &StatusReport, key: Option<&Secret>, key_in_url: bool) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    let in_url = key.filter(|_| key_in_url).map(|key| format!("/{}", key.expose())).unwrap_or_default();
    for route in &report.routes {
        let Some(url) = route.urls.first() else { continue };
        if variables.is_empty()
            && let Some(base) = url.strip_suffix(&format!("/{}/", route.name))
        {
            variables.push(("VALETD_URL".to_owned(), format!("{base}{in_url}")));
        }
        let own = format!("/{}/", route.name);
        let url = url.replacen(&own, &format!("{in_url}{own}"), 1);
        let name = format!("{}_URL", route.name.to_ascii_uppercase().replace('-', "_"));
        variables.push((name, url.trim_end_matches('/').to_owned()));
    }
    variables.extend(key.map(|key| ("VALETD_KEY".to_owned(), key.expose().to_owned())));
    variables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::tests::report;

    #[test]
    fn every_route_has_a_variable_and_the_base_has_one() {
        let mut report = report();
        let mut rda = report.routes[0].clone();
        (rda.name, rda.urls) = ("gbdx-rda".to_owned(), vec!["http://localhost:8253/gbdx-rda/".to_owned()]);
        report.routes.push(rda);
        let expected = [
            ("VALETD_URL", "http://localhost:8253"),
            ("GBDX_URL", "http://localhost:8253/gbdx"),
            ("GBDX_RDA_URL", "http://localhost:8253/gbdx-rda"),
        ];
        let owned = |rows: &[(&str, &str)]| -> Vec<(String, String)> {
            rows.iter().map(|(name, url)| ((*name).to_owned(), (*url).to_owned())).collect()
        };
        assert_eq!(variables(&report, None, true), owned(&expected));
        let with_key = [
            ("VALETD_URL", "http://localhost:8253/vk_x"),
            ("GBDX_URL", "http://localhost:8253/vk_x/gbdx"),
            ("GBDX_RDA_URL", "http://localhost:8253/vk_x/gbdx-rda"),
            ("VALETD_KEY", "vk_x"),
        ];
        assert_eq!(variables(&report, Some(&Secret::new("vk_x")), true), owned(&with_key));
    }

    #[test]
    fn a_route_that_is_not_there_is_said_with_those_that_are() {
        let failure = wanted(&report(), &[RouteName::new("gdbx").unwrap()]).unwrap_err();
        assert_eq!(failure.remedy.as_deref(), Some("the routes are: gbdx"));
    }
}
