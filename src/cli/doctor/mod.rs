//! `valetd doctor`: looks at everything that a login and a request hang on, and says what to do about what is wrong.
//! It spends no credential: what it sends to servers is `OPTIONS` and `HEAD`, without one.

use super::configuration::places;
use super::failure::{Exit, Failure};
use super::options::Options;
use super::output::print;
use super::runtime::block_on;
use crate::control::client::Client;
use crate::platform::environment;
use crate::platform::paths::Paths;

mod finding;
mod local;
mod network;

use finding::{Finding, Level, Report, render};

/// Look for what is wrong: configuration, service, network, servers
#[derive(clap::Args, Debug)]
#[command(
    long_about = "\
Look at everything that a login and a request hang on, and say what to do about
what is wrong: configuration and permissions, the daemon and its addresses, the
service, the clock, names, proxies, certificates, servers, the guard. Spends no
credential, changes nothing.

With --json: { schema: 1, ok, findings: [{ check, level (ok, warn, fail), says,
remedy }] }.",
    after_help = "\
Examples:
  valetd doctor
  valetd doctor --json | jq -r '.findings[] | select(.level != \"ok\").says'

Exit codes: 0 nothing fails, 1 something does."
)]
pub(super) struct Arguments {
    /// Print the findings for scripts
    #[arg(long)]
    json: bool,
    /// Leave out what needs the network
    #[arg(long)]
    offline: bool,
}

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let places = places(options)?;
    let findings = block_on(examine(options, &places, arguments.offline))?;
    let failed = findings.iter().any(|finding| finding.level == Level::Fail);
    if arguments.json {
        let report = Report { schema: 1, ok: !failed, findings: &findings };
        let text = serde_json::to_string_pretty(&report).expect("findings have string keys and no failing parts");
        print(&format!("{text}\n"))?;
    } else {
        print(&render(&findings))?;
    }
    Ok(if failed { Exit::Failed } else { Exit::Fine })
}

async fn examine(options: &Options, places: &Paths, offline: bool) -> Vec<Finding> {
    let invocation = options.invocation();
    let (config, mut findings) = local::configuration(places, &invocation);
    findings.extend(local::state_folder(places));
    let status = match Client::connect(&places.socket).await {
        Ok(mut client) => client.status().await,
        Err(error) => Err(error),
    };
    findings.extend(local::daemon(places, &status, options));
    let status = status.ok();
    findings.extend(local::addresses(config.as_ref(), status.as_ref()));
    findings.extend(local::unit(status.is_some()));
    if let Some(status) = &status {
        findings.extend(network::guard(status).await);
        findings.extend(local::keyless(status));
    }
    findings.push(network::localhost_names().await);
    findings.extend(local::proxy_variables(environment::text));
    if let Some(config) = &config
        && !offline
    {
        findings.extend(network::servers(config).await);
    }
    if let Some(status) = &status {
        findings.extend(local::seal(status, config.as_ref(), &invocation));
        findings.extend(local::accounts(status));
        findings.extend(local::mcp_servers(status));
    }
    findings
}
