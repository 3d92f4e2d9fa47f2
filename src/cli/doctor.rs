//! `valetd doctor`: looks at everything that a login and a request hang on, and says what to do about what is wrong.
//! It spends no credential: what it sends to servers is `OPTIONS` and `HEAD`, without one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anstyle::{AnsiColor, Style};
use hyper::Method;
use hyper::header::{DATE, HeaderMap};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::service::{self, Unit};
use super::text::{length, printable, styled, wrapped};
use super::{Exit, Failure, Loaded, Options, Paths, block_on, load_config, places, print};
use crate::config::{Config, Endpoint, ListenAddress};
use crate::control::client::{Client, ClientError};
use crate::control::report::{State, StatusReport};
use crate::http_client::{HttpClient, Limits, Outgoing};
use crate::platform::clock::wall;
use crate::platform::environment;
use crate::platform::listeners;
use crate::platform::paths::shell_word;

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

/// How it stands with one thing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    says: String,
    remedy: Option<String>,
}

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    ok: bool,
    findings: &'a [Finding],
}

fn ok(check: &'static str, says: impl Into<String>) -> Finding {
    Finding { check, level: Level::Ok, says: says.into(), remedy: None }
}

fn warn(check: &'static str, says: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { check, level: Level::Warn, says: says.into(), remedy: Some(remedy.into()) }
}

fn fail(check: &'static str, says: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { check, level: Level::Fail, says: says.into(), remedy: Some(remedy.into()) }
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
    let (config, mut findings) = configuration(places, &invocation);
    findings.extend(state_folder(places));
    let status = match Client::connect(&places.socket).await {
        Ok(mut client) => client.status().await,
        Err(error) => Err(error),
    };
    findings.extend(daemon(places, &status, &invocation));
    let status = status.ok();
    findings.extend(addresses(config.as_ref(), status.as_ref()));
    findings.extend(unit(status.is_some()));
    if let Some(status) = &status {
        findings.extend(guard(status).await);
        findings.extend(keyless(status));
    }
    findings.push(localhost_names().await);
    findings.extend(proxy_variables(environment::text));
    if let Some(config) = &config
        && !offline
    {
        findings.extend(servers(config).await);
    }
    if let Some(status) = &status {
        findings.extend(accounts(status));
    }
    findings
}

fn configuration(places: &Paths, invocation: &str) -> (Option<Config>, Vec<Finding>) {
    const CHECK: &str = "config";
    let file = places.config_file.display();
    if !places.config_file.exists() {
        let remedy = format!("{invocation} login NAME writes a first one");
        return (None, vec![warn(CHECK, format!("there is none at {file}"), remedy)]);
    }
    match load_config(places) {
        Ok(Loaded { config, warnings }) => {
            let says = format!("{file}: {} accounts, {} routes", config.accounts.len(), config.routes.len());
            let first_line = |text: String| text.lines().next().unwrap_or_default().to_owned();
            let strange = warnings.into_iter().map(|text| warn(CHECK, first_line(text), format!("{invocation} check")));
            (Some(config), std::iter::once(ok(CHECK, says)).chain(strange).collect())
        }
        Err(problems) => {
            let first = problems.first().and_then(|problem| problem.lines().next()).unwrap_or_default().to_owned();
            let says = format!("{file} cannot be used ({} problems): {first}", problems.len());
            (None, vec![fail(CHECK, says, format!("{invocation} check"))])
        }
    }
}

fn state_folder(places: &Paths) -> Vec<Finding> {
    const CHECK: &str = "credentials";
    let folder = &places.state_dir;
    let Ok(found) = fs::metadata(folder) else {
        return vec![ok(CHECK, format!("{} is not there yet: nobody has signed in", folder.display()))];
    };
    let mut findings = Vec::new();
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

fn daemon(places: &Paths, status: &Result<StatusReport, ClientError>, invocation: &str) -> Vec<Finding> {
    const CHECK: &str = "daemon";
    let report = match status {
        Ok(report) => report,
        Err(error) => {
            return vec![match lock_holder(&places.state_dir) {
                Some(pid) => fail(
                    CHECK,
                    format!("{error}, and another daemon{pid} holds {}", places.state_dir.display()),
                    "it was started with other options, or is on its way up or down: stop it, or use its --socket",
                ),
                None if invocation == "valetd" => {
                    fail(CHECK, error.to_string(), "valetd service install, or, in a terminal: valetd run")
                }
                None => fail(CHECK, error.to_string(), format!("{invocation} run")),
            }];
        }
    };
    let daemon = &report.daemon;
    let mut findings =
        vec![ok(CHECK, format!("valetd {}, pid {}, up {}", daemon.version, daemon.pid, length(daemon.uptime_seconds)))];
    if daemon.version != env!("CARGO_PKG_VERSION") {
        let says = format!("it is version {}, this program is {}", daemon.version, env!("CARGO_PKG_VERSION"));
        findings.push(warn(CHECK, says, "systemctl --user restart valetd"));
    }
    if daemon.config_file != places.config_file || daemon.state_dir != places.state_dir {
        let says = format!("it uses {} and {}", daemon.config_file.display(), daemon.state_dir.display());
        findings.push(warn(CHECK, says, "name the same --config and --state-dir here, or restart it"));
    }
    for problem in &daemon.config_problems {
        let says = format!("it does not use the configuration file: {problem}");
        findings.push(fail(CHECK, says, format!("{invocation} check; it takes the file over when it is mended")));
    }
    findings.extend(daemon.warnings.iter().map(|warning| Finding { remedy: None, ..warn(CHECK, warning, "") }));
    findings
}

/// The process that holds the state folder, ` (pid N)` as far as it is known; `None` if nobody does.
fn lock_holder(folder: &Path) -> Option<String> {
    let mut file = File::open(folder.join("lock")).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        Ok(()) | Err(TryLockError::Error(_)) => return None,
    }
    let mut words = String::new();
    let _ = file.read_to_string(&mut words);
    let pid = words.strip_prefix("pid ").and_then(|rest| rest.split_whitespace().next()).unwrap_or_default();
    Some(if pid.is_empty() { String::new() } else { format!(" (pid {pid})") })
}

/// Whether the daemon has its addresses, and if not, who has them.
fn addresses(config: Option<&Config>, status: Option<&StatusReport>) -> Vec<Finding> {
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

fn unit(runs: bool) -> Vec<Finding> {
    const CHECK: &str = "service";
    if let Err(why) = service::manager() {
        return vec![ok(CHECK, format!("{why}; valetd run works under any supervisor"))];
    }
    let socket = Unit::look(service::SOCKET);
    let unit = Unit::look(service::SERVICE);
    if unit.load != "loaded" {
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
            "systemctl --user enable --now valetd.socket",
        )),
    }
    if socket.enabled != "enabled" && unit.enabled != "enabled" {
        findings.push(warn(CHECK, "it does not start with your login", "systemctl --user enable valetd.socket"));
    }
    match service::has_linger() {
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
fn keyless(status: &StatusReport) -> Option<Finding> {
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

/// A request as a page that has rebound its name would send it.
async fn guard(status: &StatusReport) -> Option<Finding> {
    const CHECK: &str = "guard";
    let address: SocketAddr = status.daemon.listen.iter().find_map(|address| address.parse().ok())?;
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: rebound.example\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    Some(match timeout(Duration::from_secs(5), asked).await {
        Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 403") => {
            ok(CHECK, format!("{address} refuses a foreign Host (DNS rebinding)"))
        }
        Ok(Ok(answer)) => {
            let line = printable(answer.lines().next().unwrap_or("nothing"));
            fail(CHECK, format!("{address} answers a foreign Host with: {line}"), "take rebound.example out of `hosts`")
        }
        Ok(Err(error)) => fail(CHECK, format!("{address} cannot be asked: {error}"), "systemctl --user restart valetd"),
        Err(_) => fail(CHECK, format!("{address} does not answer"), "systemctl --user restart valetd"),
    })
}

async fn localhost_names() -> Finding {
    const CHECK: &str = "localhost";
    let looked_up = timeout(Duration::from_secs(5), lookup_host("valetd.localhost:80")).await;
    let addresses: Vec<SocketAddr> = match looked_up {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    match addresses.as_slice() {
        [] => warn(
            CHECK,
            "names below localhost do not resolve here (browsers and curl know them all the same)",
            "use http://localhost:8253/ROUTE/ instead of http://ROUTE.localhost:8253/, or install libnss-myhostname",
        ),
        found if found.iter().all(|address| address.ip().is_loopback()) => {
            ok(CHECK, "names below localhost resolve to loopback")
        }
        found => fail(
            CHECK,
            format!("valetd.localhost resolves to {}, which is not this machine", found[0].ip()),
            "your name server answers for localhost (RFC 6761 forbids it): use http://localhost:8253/ROUTE/",
        ),
    }
}

/// What the environment says of a company's proxy. User names and passwords in it are not shown.
fn proxy_variables(variable: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    const CHECK: &str = "proxy";
    let either = |name: &str| variable(name).or_else(|| variable(&name.to_lowercase())).filter(|text| !text.is_empty());
    let set: Vec<String> = ["HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"]
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
    if service::manager().is_ok() {
        findings.push(warn(
            CHECK,
            "a service has the service manager's environment, not this shell's",
            "put it into ~/.config/environment.d/proxy.conf, or: systemctl --user import-environment HTTPS_PROXY NO_PROXY",
        ));
    }
    findings
}

/// Something that is asked over the network.
struct Question {
    check: &'static str,
    /// Of whom.
    about: String,
    endpoint: Endpoint,
    method: Method,
    extra_ca: Option<PathBuf>,
}

/// Every server once: names, connection, TLS, an answer, and what time it is there.
async fn servers(config: &Config) -> Vec<Finding> {
    let mut questions: BTreeMap<String, Question> = BTreeMap::new();
    for account in config.accounts.values() {
        let endpoints = [Some(&account.token_endpoint), account.cognito_endpoint.as_ref()];
        for endpoint in endpoints.into_iter().flatten() {
            questions.entry(format!("0 {}", endpoint.origin)).or_insert_with(|| Question {
                check: "token server",
                about: endpoint.origin.to_string(),
                endpoint: endpoint.clone(),
                method: Method::OPTIONS,
                extra_ca: account.extra_ca.clone(),
            });
        }
    }
    for route in &config.routes {
        let origin = &route.upstream.origin;
        let account = config.accounts.get(&route.account);
        questions.entry(format!("1 {origin}")).or_insert_with(|| Question {
            check: "upstream",
            about: origin.to_string(),
            endpoint: Endpoint { origin: origin.clone(), path_and_query: format!("{}/", route.upstream.base_path) },
            method: Method::HEAD,
            extra_ca: route.extra_ca.clone().or_else(|| account.and_then(|account| account.extra_ca.clone())),
        });
    }
    let mut asked = JoinSet::new();
    for (index, (_, question)) in questions.into_iter().enumerate() {
        asked.spawn(async move { (index, ask(question).await) });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(index, _)| *index);
    let mut findings = Vec::new();
    let mut clocks = Vec::new();
    for (_, (finding, ahead)) in answers {
        clocks.extend(ahead.map(|ahead| (finding.says.split(' ').next().unwrap_or_default().to_owned(), ahead)));
        findings.push(finding);
    }
    findings.extend(clock(&clocks));
    findings
}

/// Asks one server; with the answer, how many seconds its clock is ahead of ours.
async fn ask(question: Question) -> (Finding, Option<i64>) {
    let Question { check, about, endpoint, method, extra_ca } = question;
    let limits = Limits { connect: Duration::from_secs(5), exchange: Duration::from_secs(10), ..Limits::default() };
    let client = HttpClient::from_environment().with_limits(limits);
    let outgoing = Outgoing { method: method.clone(), fields: HeaderMap::new(), body: Default::default() };
    match client.send(&endpoint, extra_ca.as_deref(), outgoing).await {
        Ok(answer) => {
            let ahead = answer.fields.get(DATE).and_then(|date| seconds_ahead(date.to_str().ok()?, wall()));
            let status = answer.status.as_u16();
            (ok(check, format!("{about} answers ({method}: {status})")), ahead)
        }
        Err(error) => {
            let words = error.to_string();
            let remedy = remedy(&words);
            (fail(check, format!("{about}: {words}"), remedy), None)
        }
    }
}

/// What can be done about a hop that failed, by what the client says of it.
fn remedy(words: &str) -> &'static str {
    let has = |part: &str| words.contains(part);
    match () {
        () if has("UnknownIssuer") || has("unknown issuer") || has("SelfSigned") => {
            "nobody that this machine trusts has signed it: if a company's proxy opens TLS, name its authority: \
             extra_ca = \"/path/ca.pem\""
        }
        () if has("xpired") || has("NotValidYet") => "its certificate is out of date, or this machine's clock is wrong",
        () if has("NotValidForName") || has("not valid for name") => {
            "its certificate is somebody else's: a captive portal, or a proxy that is not named in HTTPS_PROXY"
        }
        () if has("certificate") => {
            "this machine does not trust it: if the server or a company's proxy signs for itself, name the authority: \
             extra_ca = \"/path/ca.pem\""
        }
        () if has("looking up") => "no such name here: is there a network? behind a company's proxy, set HTTPS_PROXY",
        () if has("proxy") => "look at HTTPS_PROXY and NO_PROXY",
        () if has("refused") => "nothing listens there: look at the address in the configuration",
        () if has("timed out") => "a firewall swallows it: behind a company's proxy, set HTTPS_PROXY",
        () => "look at the address in the configuration, and at the network",
    }
}

/// How far a server's clock is ahead, by its `Date` (RFC 9110 section 6.6.1).
fn seconds_ahead(date: &str, now: SystemTime) -> Option<i64> {
    let there = jiff::fmt::rfc2822::parse(date).ok()?.timestamp().as_second();
    let here = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    Some(there - i64::try_from(here).ok()?)
}

/// Tokens are used by our clock; a small difference is within the margin that is left at their ends.
fn clock(seen: &[(String, i64)]) -> Option<Finding> {
    const CHECK: &str = "clock";
    let (server, ahead) = seen.iter().max_by_key(|(_, ahead)| ahead.unsigned_abs())?;
    let difference = length(ahead.unsigned_abs());
    let which = if *ahead > 0 { "behind" } else { "ahead of" };
    let says = format!("this machine's clock is {difference} {which} {server}");
    Some(match ahead.unsigned_abs() {
        0..=5 => ok(CHECK, "it agrees with the servers'"),
        6..=60 => ok(CHECK, says),
        61..=300 => warn(CHECK, says, "timedatectl set-ntp true"),
        _ => fail(CHECK, says, "set it: timedatectl set-ntp true"),
    })
}

fn accounts(status: &StatusReport) -> Vec<Finding> {
    const CHECK: &str = "account";
    let mut findings = Vec::new();
    for account in &status.accounts {
        let why = account.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let says = format!("{} is {}{why}", account.id, account.state);
        findings.push(match (account.state, account.usable) {
            (State::SignInRequired, _) => fail(CHECK, says, account.next_action.clone().unwrap_or_default()),
            (State::Waiting | State::Renewing, _) | (_, false) => warn(CHECK, says, "it is being worked on"),
            (State::Usable, true) => ok(CHECK, says),
        });
        if account.credential.as_ref().is_some_and(|credential| !credential.saved) {
            let says = format!("the newest refresh token of {} is not on the disk", account.id);
            findings.push(fail(CHECK, says, "make room there (df -h), before the daemon ends"));
        }
    }
    findings
}

/// A line for each finding, and one below for its remedy.
fn render(findings: &[Finding]) -> String {
    const GOOD: Style = AnsiColor::Green.on_default();
    const SOON: Style = AnsiColor::Yellow.on_default();
    const BAD: Style = AnsiColor::Red.on_default().bold();
    const INDENT: usize = 20;
    let mut out = String::new();
    for Finding { check, level, says, remedy } in findings {
        let (word, style) = match level {
            Level::Ok => ("ok  ", GOOD),
            Level::Warn => ("warn", SOON),
            Level::Fail => ("FAIL", BAD),
        };
        let text = wrapped(&printable(says), INDENT);
        out.push_str(&format!("{}  {check:<12}  {}", styled(word, style), text.trim_start()));
        if let Some(remedy) = remedy {
            out.push_str(&wrapped(&format!("-> {}", printable(remedy)), INDENT));
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    out.push_str(&match (count(Level::Fail), count(Level::Warn)) {
        (0, 0) => "\nAll is well.\n".to_owned(),
        (0, warnings) => format!("\nNothing fails; {warnings} to look at.\n"),
        (failures, warnings) => format!("\n{failures} to mend, {warnings} to look at.\n"),
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::tests::report;

    #[test]
    fn findings_are_lines_with_their_remedies_below() {
        let findings = [
            ok("config", "fine"),
            fail("token server", format!("https://auth.example: {}", "word ".repeat(20)), "do this"),
        ];
        let text = anstream::adapter::strip_str(&render(&findings)).to_string();
        assert!(text.starts_with("ok    config        fine\nFAIL  token server  https://auth.example: word"), "{text}");
        assert!(text.contains("\n                    -> do this\n"), "{text}");
        assert!(text.ends_with("\n1 to mend, 0 to look at.\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn a_proxys_password_is_not_shown() {
        let variable = |name: &str| (name == "https_proxy").then(|| "http://me:hunter2@proxy.example:3128".to_owned());
        let findings = proxy_variables(variable);
        assert_eq!(findings[0].says, "HTTPS_PROXY=...@proxy.example:3128");
    }

    #[test]
    fn the_clock_is_compared_with_the_servers() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        assert_eq!(seconds_ahead("Mon, 21 Sep 2026 14:13:20 GMT", now), Some(0));
        assert_eq!(seconds_ahead("Mon, 21 Sep 2026 14:23:20 GMT", now), Some(600));
        assert_eq!(seconds_ahead("yesterday", now), None);
        let level = |ahead| clock(&[("a".to_owned(), 1), ("b".to_owned(), ahead)]).unwrap().level;
        assert_eq!((level(-3), level(90), level(-3600)), (Level::Ok, Level::Warn, Level::Fail));
        assert_eq!(clock(&[]), None);
    }

    #[test]
    fn an_account_that_needs_a_person_fails_with_its_command() {
        let findings = accounts(&report());
        assert_eq!(findings[0].level, Level::Ok);
        assert_eq!((findings[1].level, findings[1].remedy.as_deref()), (Level::Fail, Some("valetd login gdh")));
    }

    #[test]
    fn the_failing_hop_names_its_remedy() {
        let table = [
            ("TLS with a:443: invalid peer certificate: UnknownIssuer", "extra_ca"),
            ("looking up a: no such name", "no such name here"),
            ("proxy: connecting to p:3128: connection refused", "HTTPS_PROXY"),
            ("TLS with a:443: invalid peer certificate: Other(CaUsedAsEndEntity)", "extra_ca"),
            ("connecting to a:443: connection refused", "nothing listens"),
            ("connecting to a:443: timed out", "firewall"),
        ];
        for (words, expected) in table {
            assert!(remedy(words).contains(expected), "{words}");
        }
    }
}
