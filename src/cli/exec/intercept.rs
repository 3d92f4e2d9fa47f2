//! `exec --intercept`: the command is a child, and finds a proxy that it trusts for the routes' hosts.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::supervise;
use super::trust::Bundles;
use crate::cli::failure::Failure;
use crate::config::{Account, Endpoint, ForwardProxy, Origin, Proxies, ProxyProtocol, Upstream};
use crate::intercept::{self, CertificateAuthority, Daemon, Interceptor, Outside, PLACEHOLDER_JWT, Settings};
use crate::oauth::EndpointKind;
use crate::platform::clock;
use crate::platform::environment;

/// What the routes of a command lead to.
pub(super) struct Reached {
    pub(super) upstreams: Vec<(String, Upstream)>,
    pub(super) accounts: Vec<Account>,
}

/// Why there can be no interception of these routes: what a certificate cannot be made for, and what cannot be told apart.
pub(super) fn refuse_what_cannot_be(reached: &Reached) -> Result<(), Failure> {
    for (route, upstream) in &reached.upstreams {
        if intercept::is_address(&upstream.origin.host) {
            let says = format!("the route {route} leads to the address {}, which no name stands for", upstream.origin);
            return Err(Failure::say(says).with_remedy("name the upstream by a host name, or use the route's URL"));
        }
    }
    for (at, (route, upstream)) in reached.upstreams.iter().enumerate() {
        if let Some((other, _)) = reached.upstreams[..at].iter().find(|(_, other)| other == upstream) {
            let says = format!("the routes {other} and {route} both lead to {upstream}");
            return Err(Failure::say(says).with_remedy("name one of them: -r ROUTE"));
        }
    }
    Ok(())
}

/// What the proxy of a command does.
pub(super) fn settings(reached: &Reached, only: bool, verbose: bool) -> Settings {
    let origins: BTreeSet<Origin> = reached.upstreams.iter().map(|(_, upstream)| upstream.origin.clone()).collect();
    let answered = reached.accounts.iter().filter(|account| account.exec.placeholder_token);
    let sign_in = answered.clone().flat_map(|account| {
        let kinds = [EndpointKind::Token, EndpointKind::Revocation];
        kinds.into_iter().filter_map(|kind| account.server.endpoint(kind).cloned())
    });
    let sign_in: Vec<Endpoint> = sign_in.filter(|endpoint| !intercept::is_address(&endpoint.origin.host)).collect();
    let placeholders = reached.accounts.iter().flat_map(|account| &account.exec.env).map(|(_, value)| value.clone());
    let outside = match only {
        true => None,
        false => {
            let plain = environment::text("http_proxy").and_then(|text| ForwardProxy::parse(&text).ok());
            let plain = plain.filter(|proxy| proxy.protocol == ProxyProtocol::Http);
            Some(Outside { proxies: Proxies::read(environment::text), plain })
        }
    };
    Settings { origins, sign_in, placeholders: placeholders.collect(), outside, verbose }
}

/// Runs a command with a proxy of its own. Returns its exit status, as a shell shows it.
///
/// # Errors
///
/// [`Failure`] if there can be no proxy, and the system's if the command cannot be run.
pub(super) async fn run(
    mut command: Command,
    settings: Settings,
    daemon: Daemon,
    folder: &Path,
    env: &[(String, String)],
) -> Result<std::io::Result<u8>, Failure> {
    let names = intercept::names(&settings);
    let authority = CertificateAuthority::new(&names, clock::unix_seconds()).map_err(Failure::new)?;
    let bundles = Bundles::write(folder, authority.root(), environment::text);
    let bundles = bundles.map_err(|why| Failure::say(why).while_doing("writing what the command is to trust"))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.map_err(|error| Failure::new(error).while_doing("opening the command's proxy"))?;
    let address = listener.local_addr().map_err(Failure::new)?;
    for name in ["https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"] {
        command.env(name, format!("http://{address}"));
    }
    let no_proxy = without(environment::text("no_proxy").or_else(|| environment::text("NO_PROXY")), &names);
    for name in ["no_proxy", "NO_PROXY"] {
        command.env(name, &no_proxy);
    }
    command.envs(bundles.variables.iter().map(|(name, value)| (name, value)));
    command.envs(env.iter().map(|(name, value)| (name, value.replace("{placeholder_jwt}", PLACEHOLDER_JWT))));
    let interceptor = Interceptor::new(settings, authority, daemon);
    let everything = LocalSet::new();
    let ran = everything.run_until(async move {
        let serving = tokio::task::spawn_local(interceptor.serve(listener));
        let ran = supervise::run(command).await;
        serving.abort();
        ran
    });
    let ran = ran.await;
    drop(bundles);
    Ok(ran.map(supervise::code))
}

/// What is reached past proxies: as before, but for what covers a host that we stand for, and this machine.
fn without(before: Option<String>, hosts: &[String]) -> String {
    let covers = |entry: &str| {
        let entry = entry.split(':').next().unwrap_or_default().trim_start_matches('*').trim_matches('.');
        let entry = entry.to_ascii_lowercase();
        hosts.iter().any(|host| *host == entry || host.ends_with(&format!(".{entry}")) || entry.is_empty())
    };
    let before = before.unwrap_or_default();
    let mut kept: Vec<&str> = before
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|entry| !entry.is_empty() && !covers(entry))
        .collect();
    let missing: Vec<&str> = ["localhost", "127.0.0.1", "::1"].into_iter().filter(|own| !kept.contains(own)).collect();
    kept.extend(missing);
    kept.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_environment_excepts_from_proxies_stays_excepted_but_for_hosts_that_we_stand_for() {
        let hosts = ["api.example".to_owned(), "auth.corp.example".to_owned()];
        for (before, expected) in [
            (None, ""),
            (Some("*"), ""),
            (Some("intranet,10.0.0.0/8"), "intranet,10.0.0.0/8,"),
            (Some("api.example, other.example"), "other.example,"),
            (Some(".corp.example example"), ""),
            (Some("xapi.example,api.example:443"), "xapi.example,"),
            (Some("localhost,*.local"), "localhost,*.local,"),
        ] {
            let found = without(before.map(str::to_owned), &hosts);
            let own = if expected.contains("localhost") { "127.0.0.1,::1" } else { "localhost,127.0.0.1,::1" };
            assert_eq!(found, format!("{expected}{own}"), "{before:?}");
        }
    }
}
