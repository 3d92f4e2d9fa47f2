//! What this machine shows without asking anybody else: files, the daemon's own status, addresses, the service.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;

use super::super::configuration::{Loaded, load_config};
use super::super::holder::{how_to_reach, in_words, lock_holder};
use super::super::manager::{self, Unit};
use super::super::options::Options;
use super::super::status::mcp_in_words;
use super::super::text::{count, length, printable};
use super::finding::{Finding, fail, ok, warn};
use crate::advice::advised;
use crate::config::{Config, ListenAddress};
use crate::control::client::ClientError;
use crate::control::report::{State, StatusReport, StoreReport};
use crate::platform::paths::{Paths, is_read_only, shell_word};
use crate::platform::{listeners, mounts};
use crate::store::no_lock_for_others;

pub(super) fn configuration(places: &Paths, invocation: &str) -> (Option<Config>, Vec<Finding>) {
    const CHECK: &str = "config";
    let file = places.config_file.display();
    if !places.config_file.exists() {
        let remedy = format!("'{invocation} login NAME' writes a first one");
        return (None, vec![warn(CHECK, format!("there is none at {file}"), remedy)]);
    }
    match load_config(places) {
        Ok(Loaded { config, warnings }) => {
            let (accounts, routes) = (config.accounts.len(), config.routes.len());
            let says = format!("{file}: {}, {}", count(accounts, "account"), count(routes, "route"));
            let first_line = |text: String| text.lines().next().unwrap_or_default().to_owned();
            let strange = warnings.into_iter().map(|text| warn(CHECK, first_line(text), format!("{invocation} check")));
            (Some(config), std::iter::once(ok(CHECK, says)).chain(strange).collect())
        }
        Err(problems) => {
            let first = problems.first().and_then(|problem| problem.lines().next()).unwrap_or_default().to_owned();
            let says = format!("{file} cannot be used ({}): {first}", count(problems.len(), "problem"));
            (None, vec![fail(CHECK, says, format!("{invocation} check"))])
        }
    }
}

pub(super) fn state_folder(places: &Paths) -> Vec<Finding> {
    const CHECK: &str = "credentials";
    let folder = &places.state_dir;
    let mut findings = Vec::new();
    if is_read_only(folder) {
        let says = format!("nothing can be saved in {}: its file system is read-only", folder.display());
        findings.push(fail(CHECK, says, "mount it writable, or name another folder with --state-dir"));
    }
    if let Some(kind) = mounts::shared_without_locks(folder) {
        let remedy = "name a folder on a local disk with --state-dir";
        findings.push(warn(CHECK, no_lock_for_others(folder, &kind), remedy));
    }
    let Ok(found) = fs::metadata(folder) else {
        if findings.is_empty() {
            findings.push(ok(CHECK, format!("{} is not there yet: nobody has signed in", folder.display())));
        }
        return findings;
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let ours = rustix::process::geteuid().as_raw();
    for path in std::iter::once(folder.clone()).chain(entries) {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        let (mode, owner) = (found.mode() & 0o7777, found.uid());
        if owner != ours {
            let says = format!("{} belongs to user {owner}", path.display());
            findings.push(fail(CHECK, says, "a daemon was run as somebody else (sudo?): give it back with chown"));
        } else if mode & 0o077 != 0 && !found.file_type().is_symlink() {
            let says = format!("{} is open to other users (mode {mode:04o})", path.display());
            findings.push(fail(CHECK, says, format!("chmod go= {}", shell_word(&path))));
        }
    }
    if findings.is_empty() {
        findings.push(ok(CHECK, format!("{} (mode {:04o})", folder.display(), found.mode() & 0o777)));
    }
    findings
}

pub(super) fn daemon(places: &Paths, status: &Result<StatusReport, ClientError>, options: &Options) -> Vec<Finding> {
    let invocation = options.invocation();
    const CHECK: &str = "daemon";
    let report = match status {
        Ok(report) => report,
        Err(error) => {
            let folder = places.state_dir.display();
            return vec![match (error, lock_holder(&places.state_dir)) {
                (ClientError::NotRunning(_), Some(holder)) => {
                    fail(CHECK, error.to_string(), how_to_reach(&places.state_dir, &holder))
                }
                (ClientError::NotRunning(_), None) => fail(CHECK, error.to_string(), manager::how_to_start(options)),
                // one is there: another that is started would find everything taken
                (error, Some(holder)) => {
                    let pid = in_words(&holder);
                    fail(CHECK, format!("{error}; a daemon{pid} holds {folder}"), "end it, and start it again")
                }
                (error, None) => fail(CHECK, error.to_string(), "end what listens there, and start the daemon again"),
            }];
        }
    };
    let daemon = &report.daemon;
    let mut findings =
        vec![ok(CHECK, format!("valetd {}, pid {}, up {}", daemon.version, daemon.pid, length(daemon.uptime_seconds)))];
    findings.extend(manager::age(daemon).map(|(says, remedy)| warn(CHECK, says, remedy)));
    if daemon.config_file != places.config_file || daemon.state_dir != places.state_dir {
        let says = format!("it uses {} and {}", daemon.config_file.display(), daemon.state_dir.display());
        findings.push(warn(CHECK, says, "name the same --config and --state-dir here, or restart it"));
    }
    let instead = if daemon.configured { "the configuration before it" } else { "no configuration at all" };
    for problem in &daemon.config_problems {
        let says = format!("it has {instead} in force, as {} cannot be used: {problem}", daemon.config_file.display());
        findings.push(fail(CHECK, says, format!("{invocation} check; it takes the file over when it is mended")));
    }
    let remedied =
        |warning: &String| Finding { remedy: manager::remedy_of(warning, daemon.pid), ..warn(CHECK, warning, "") };
    findings.extend(daemon.warnings.iter().map(remedied));
    findings
}

/// Whether the daemon has its addresses, and if not, who has them.
pub(super) fn addresses(config: Option<&Config>, status: Option<&StatusReport>) -> Vec<Finding> {
    const CHECK: &str = "address";
    let served: Vec<String> = status.map(|status| status.daemon.listen.clone()).unwrap_or_default();
    let mut findings: Vec<Finding> = served.iter().map(|address| ok(CHECK, format!("{address} is served"))).collect();
    let wanted = config.map(|config| config.listen.clone()).unwrap_or_default();
    for address in wanted {
        let ListenAddress::Tcp(tcp) = &address else { continue };
        if served.contains(&address.to_string()) {
            continue;
        }
        match listeners::occupant(*tcp) {
            None if status.is_none() => findings.push(ok(CHECK, format!("{address} is free"))),
            // the service manager's own sockets count instead of the configuration's
            None => {}
            // which hands the socket over at the first connection
            Some(listeners::Occupant { process: Some((_, name)), .. }) if name == "systemd" => {
                findings.push(ok(CHECK, format!("{address} is held by the service manager")));
            }
            Some(occupant) => {
                let says = format!("{address} is taken by {}", printable(&occupant.to_string()));
                findings.push(fail(CHECK, says, "stop it, or name another address: listen = [...]"));
            }
        }
    }
    let ours = rustix::process::geteuid().as_raw();
    let own = status.map(|status| &status.routes).into_iter().flatten().flat_map(|route| &route.urls);
    let own = own.filter_map(|url| url.strip_prefix("http://")?.trim_end_matches('/').parse::<SocketAddr>().ok());
    let served: BTreeSet<SocketAddr> = served.iter().filter_map(|address| address.parse().ok()).chain(own).collect();
    let halves = served.iter().filter_map(|address| listeners::other_half(*address));
    for half in halves.filter(|half| !served.contains(half)) {
        if let Some(stranger) = listeners::occupant(half).filter(|occupant| occupant.uid != ours) {
            let says = format!(
                "what tools send to http://localhost:{} may go to {}",
                half.port(),
                printable(&stranger.to_string())
            );
            findings.push(fail(CHECK, says, "have it ended, or list 127.0.0.1 and [::1] both: listen = [...]"));
        }
    }
    findings
}

pub(super) fn unit(runs: bool) -> Vec<Finding> {
    const CHECK: &str = "service";
    if let Err(why) = manager::manager() {
        return vec![ok(CHECK, format!("{why}; '{}' works under any supervisor", advised("run")))];
    }
    if let Some(why) = manager::unstartable() {
        return vec![fail(CHECK, format!("it cannot start: {}", printable(&why)), manager::ELSEWHERE)];
    }
    let socket = Unit::look(manager::SOCKET);
    let unit = Unit::look(manager::SERVICE);
    if unit.load != "loaded" {
        if manager::unit_file(manager::SERVICE).is_some() {
            let says = "its units are there, and the service manager has not read them";
            return vec![warn(CHECK, says, "systemctl --user daemon-reload")];
        }
        let says = "it is not installed as a service";
        return vec![match runs {
            true => ok(CHECK, format!("{says}; the daemon was started by hand")),
            false => warn(CHECK, says, "valetd service install"),
        }];
    }
    let mut findings = Vec::new();
    match (socket.active.as_str(), unit.active.as_str()) {
        (_, "failed") | ("failed", _) => findings.push(fail(
            CHECK,
            format!("{} has failed", if unit.active == "failed" { &unit.path } else { &socket.path }),
            "journalctl --user -u valetd; then: systemctl --user reset-failed valetd.service valetd.socket",
        )),
        ("active", active) => findings.push(ok(CHECK, format!("socket active, service {active} ({})", unit.path))),
        (socket, active) => findings.push(warn(
            CHECK,
            format!("socket {socket}, service {active}"),
            "systemctl --user enable --now valetd.socket valetd.service",
        )),
    }
    if socket.enabled != "enabled" && unit.enabled != "enabled" {
        findings.push(warn(CHECK, "it does not start with your login", "systemctl --user enable valetd.socket"));
    }
    match manager::has_linger() {
        Some(true) => findings.push(ok(CHECK, "lingering is on: it runs while nobody is logged in")),
        Some(false) => findings.push(warn(
            CHECK,
            "lingering is off: it stops with the last logout, and nothing is renewed then",
            "loginctl enable-linger",
        )),
        None => {}
    }
    findings
}

/// What a client key, and `valetd exec -r`, do not keep a process of this user from.
pub(super) fn keyless(status: &StatusReport) -> Option<Finding> {
    const CHECK: &str = "client keys";
    if status.routes.is_empty() {
        return None;
    }
    Some(match status.routes.iter().find(|route| !route.require_key) {
        None => ok(CHECK, "every request needs one"),
        Some(route) => ok(
            CHECK,
            format!(
                "a process of yours that leaves its key out, under exec -r too, still reaches {} on the common \
                 addresses, unless require_key = true",
                route.name
            ),
        ),
    })
}

/// What the environment says of a company's proxy. User names and passwords in it are not shown.
pub(super) fn proxy_variables(variable: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    const CHECK: &str = "proxy";
    let set = |name: &str| variable(name).filter(|text| !text.is_empty());
    let either = |name: &str| set(&name.to_lowercase()).or_else(|| set(name));
    let set: Vec<String> = ["HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "HTTP_PROXY"]
        .into_iter()
        .filter_map(|name| {
            let value = either(name)?;
            let shown = value.rsplit_once('@').map_or(value.clone(), |(_, host)| format!("...@{host}"));
            Some(format!("{name}={}", printable(&shown)))
        })
        .collect();
    if set.is_empty() {
        return vec![ok(CHECK, "none is set")];
    }
    let mut findings = vec![ok(CHECK, set.join(" "))];
    if manager::manager().is_ok() {
        findings.push(warn(
            CHECK,
            "a service has the service manager's environment, not this shell's",
            "put it into ~/.config/environment.d/proxy.conf, or: systemctl --user import-environment HTTPS_PROXY NO_PROXY",
        ));
    }
    findings
}

/// How credentials are kept, and whether somebody can get at their key.
pub(super) fn seal(status: &StatusReport, config: Option<&Config>, invocation: &str) -> Vec<Finding> {
    const CHECK: &str = "seal";
    let StoreReport { sealed, source, recovery, locked, doubt, .. } = &status.daemon.store;
    let mut findings = Vec::new();
    // a ring that cannot be read is no store in the clear
    let is_unread = !sealed && locked.is_some();
    let config = config.filter(|_| !is_unread);
    let differs = config.and_then(|config| config.store.seal.differs_from(source.as_deref()));
    let is_said = differs.is_some();
    findings.extend(differs.map(|(says, remedy)| warn(CHECK, says, remedy)));
    let source = source.as_deref().unwrap_or_default();
    if let Some(why) = locked {
        findings.push(fail(CHECK, format!("the store is locked: {why}"), format!("{invocation} unlock")));
    }
    if let Some(doubt) = doubt {
        findings.push(warn(CHECK, doubt, format!("{invocation} seal on")));
    }
    if is_unread || (is_said && !sealed) {
        return findings;
    }
    findings.push(match (sealed, recovery) {
        (false, _) => {
            let says = "credentials are in the clear on the disk, for you alone; to seal them";
            ok(CHECK, format!("{says}: {}", advised("seal on")))
        }
        (true, true) => ok(CHECK, format!("credentials are sealed; the key is kept by: {source}")),
        (true, false) => {
            let says = format!("credentials are sealed, and who loses the key, kept by {source} alone, signs in again");
            warn(CHECK, says, format!("{invocation} seal recovery"))
        }
    });
    findings
}

pub(super) fn accounts(status: &StatusReport) -> Vec<Finding> {
    const CHECK: &str = "account";
    let mut findings = Vec::new();
    for account in &status.accounts {
        let why = account.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let says = format!("{} is {}{why}", account.id, account.state);
        findings.push(match (account.state, account.usable) {
            (state, _) if state.waits_for_a_person() => {
                fail(CHECK, says, account.next_action.clone().unwrap_or_default())
            }
            (State::Usable, true) => ok(CHECK, says),
            _ => warn(CHECK, says, "it is being worked on"),
        });
        if account.credential.as_ref().is_some_and(|credential| !credential.saved) {
            let says = format!("the newest refresh token of {} is not on the disk", account.id);
            findings.push(fail(CHECK, says, "make room there (df -h), before the daemon ends"));
        }
    }
    findings
}

/// What is known of the MCP servers that routes lead to.
pub(super) fn mcp_servers(status: &StatusReport) -> Vec<Finding> {
    const CHECK: &str = "mcp";
    let servers = status.routes.iter().filter_map(|route| Some((route, route.mcp.as_ref()?)));
    let findings = servers.map(|(route, mcp)| {
        let says = format!("{}: {}", route.name, printable(&mcp_in_words(mcp, status.at)));
        match (&mcp.next_action, &mcp.last_session) {
            (Some(command), _) => warn(CHECK, format!("{says}; the server has asked for more scope"), command.clone()),
            (None, None) => ok(CHECK, format!("{says}; to connect a program: {}", advised("connect"))),
            (None, Some(_)) => ok(CHECK, says),
        }
    });
    findings.collect()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use crate::control::report::tests::report;

    #[test]
    fn a_proxys_password_is_not_shown() {
        let variable = |name: &str| (name == "https_proxy").then(|| "http://me:hunter2@proxy.example:3128".to_owned());
        let findings = proxy_variables(variable);
        assert_eq!(findings[0].says, "HTTPS_PROXY=...@proxy.example:3128");
        let findings = proxy_variables(|name| (name == "HTTP_PROXY").then(|| "http://me:hunter2@p".to_owned()));
        assert_eq!(findings[0].says, "HTTP_PROXY=...@p", "it is none of ours, and what exec runs has it");
    }

    #[test]
    fn an_account_that_needs_a_person_fails_with_its_command() {
        let findings = accounts(&report());
        assert_eq!(findings[0].level, Level::Ok);
        assert_eq!((findings[1].level, findings[1].remedy.as_deref()), (Level::Fail, Some("valetd login gdh")));
    }
}
