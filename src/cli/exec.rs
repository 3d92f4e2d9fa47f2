//! `valetd exec`

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use super::text::parse_length;
use super::wait::until_usable;
use super::{Exit, Failure, Options, block_on, places};
use crate::config::{AccountId, RouteName};
use crate::control::client::Client;
use crate::control::report::{RouteReport, StatusReport};

/// Run a command that finds valetd in its environment
#[derive(clap::Args, Debug)]
#[command(
    long_about = "\
Run a command with the routes' addresses in its environment, as soon as their
accounts have a usable token. valetd is replaced by the command, so that its
exit code and its signals are its own.

  VALETD_URL     where all routes are: http://localhost:8253
  GBDX_URL       the route gbdx: http://localhost:8253/gbdx
  GBDX_RDA_URL   the route gbdx-rda, and so on: upper case, - becomes _",
    after_help = "\
Examples:
  valetd exec -r gbdx -- sh -c 'curl $GBDX_URL/catalog/v2/...'
  valetd exec --timeout 2m -- python3 nightly.py

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
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<String>,
}

fn parse_route(name: &str) -> Result<RouteName, &'static str> {
    RouteName::new(name).ok_or("a name is 1 to 63 of a-z 0-9 - _ and begins with a letter or a digit")
}

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { routes, timeout, command } = arguments;
    let places = places(options)?;
    let report = block_on(async {
        let report = match Client::connect(&places.socket).await {
            Ok(mut client) => client.status().await.map_err(|error| Failure::of_call(error, options))?,
            // it may be on its way up
            Err(_) => until_usable(options, &places.socket, &[], timeout).await?,
        };
        let mut accounts: Vec<AccountId> = Vec::new();
        for route in wanted(&report, &routes)? {
            accounts.extend(AccountId::new(&route.account).filter(|account| !accounts.contains(account)));
        }
        match accounts.is_empty() {
            true => Ok(report),
            false => until_usable(options, &places.socket, &accounts, timeout).await,
        }
    })??;
    let (program, rest) = command.split_first().expect("clap requires a command");
    let error = Command::new(program).args(rest).envs(variables(&report)).exec();
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
fn variables(report: &StatusReport) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for route in &report.routes {
        let Some(url) = route.urls.first() else { continue };
        if variables.is_empty()
            && let Some(base) = url.strip_suffix(&format!("/{}/", route.name))
        {
            variables.push(("VALETD_URL".to_owned(), base.to_owned()));
        }
        let name = format!("{}_URL", route.name.to_ascii_uppercase().replace('-', "_"));
        variables.push((name, url.trim_end_matches('/').to_owned()));
    }
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
        assert_eq!(variables(&report), expected.map(|(name, url)| (name.to_owned(), url.to_owned())));
    }

    #[test]
    fn a_route_that_is_not_there_is_said_with_those_that_are() {
        let failure = wanted(&report(), &[RouteName::new("gdbx").unwrap()]).unwrap_err();
        assert_eq!(failure.remedy.as_deref(), Some("the routes are: gbdx"));
    }
}
