//! The status document: what valetd tells people and scripts about itself. Pure: readings in, a document out.
//!
//! It is served as JSON by the control socket and read back by the command line. `schema` grows when a member changes
//! its meaning or goes away; new members may appear at any time. No member could hold a token.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::accounts::{AccountView, LastFailure, UNREADABLE};
use crate::client_keys::{ClientKey, KeyRing};
use crate::config::{Config, ListenAddress, Route, RouteName};
use crate::platform::harden::Measure;
use crate::renewal::{AccountSnapshot, Phase, Reason, Why};
use crate::stats::Stats;
use crate::timestamp::Timestamp;

/// The version of the document that this program writes and reads.
pub const SCHEMA: u32 = 1;

/// The whole document.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StatusReport {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When it was made; what `in_seconds` and `seconds_left` count from.
    pub at: Moment,
    /// The process.
    pub daemon: DaemonReport,
    /// In the order of their names.
    pub accounts: Vec<AccountReport>,
    /// In the order of their names.
    pub routes: Vec<RouteReport>,
}

/// The process.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DaemonReport {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// How long it has been running, in seconds, sleep included.
    pub uptime_seconds: u64,
    /// Where routes are served, as bound.
    pub listen: Vec<String>,
    /// The file that it was configured from.
    pub config_file: PathBuf,
    /// Where credentials are kept.
    pub state_dir: PathBuf,
    /// What is wrong with the file as it is now; while there is anything, the configuration before it stays in force.
    pub config_problems: Vec<String>,
    /// What a person should look at some day.
    pub warnings: Vec<String>,
    /// Connections open to the proxy now.
    pub connections: u64,
    /// Requests refused before they reached a route.
    pub refused: u64,
    /// Of these, root's, where the setting `clients` does not name root.
    #[serde(default)]
    pub refused_root: u64,
    /// The audit; `null` if there is none.
    #[serde(default)]
    pub audit: Option<AuditReport>,
    /// What the process has given up, or should have.
    #[serde(default)]
    pub hardening: Vec<MeasureReport>,
    /// The addresses of commands that run under `valetd exec -r`.
    #[serde(default)]
    pub own_addresses: Vec<OwnAddressReport>,
    /// Whether `valetd exec` refuses to run a command while a route can be used without a client key.
    #[serde(default)]
    pub strict_exec: bool,
}

/// An address that is lent to a command.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OwnAddressReport {
    /// Where it is.
    pub address: String,
    /// The command's client key, with which it ends.
    pub key: String,
    /// The routes that exist there.
    pub routes: Vec<String>,
}

/// The audit.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AuditReport {
    /// Its file.
    pub file: PathBuf,
    /// Lines written since the daemon started.
    pub written: u64,
    /// Lines lost: too many were waiting, or the file could not be written.
    pub dropped: u64,
    /// Requests refused because they could not have been noted (`audit_required`).
    #[serde(default)]
    pub refused: u64,
    /// Why nothing can be written just now; `null` if it can.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// One thing that the process has given up, or should have.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MeasureReport {
    /// In one word: `no-trace`, `no-core`, `no-new-privileges`, `landlock`.
    pub name: String,
    /// Whether it is in force.
    pub in_force: bool,
    /// What that means.
    pub detail: String,
}

/// One account.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AccountReport {
    /// Its name.
    pub id: String,
    /// The preset it was made from.
    pub provider: Option<String>,
    /// What it is, for people.
    pub description: Option<String>,
    /// In one word.
    pub state: State,
    /// Whether requests get a token now; possible in every state, since a token is valid while it is valid.
    pub usable: bool,
    /// Why it is not simply `usable`, for people.
    pub why: Option<String>,
    /// Why a person is needed, for scripts; present if and only if `state` is `sign-in-required`.
    pub why_code: Option<Why>,
    /// Until when the token in hand is handed out.
    pub usable_until: Option<Moment>,
    /// The same, counted from the document's `at`.
    pub seconds_left: Option<u64>,
    /// How long its tokens live, where the server states no life and it was learnt.
    #[serde(default)]
    pub learnt_life_seconds: Option<f64>,
    /// When something happens next without anybody asking.
    pub next_wakeup: Option<Wakeup>,
    /// When the last renewal succeeded.
    pub last_success: Option<Moment>,
    /// The last failure, also after a success: compare the times.
    pub last_failure: Option<FailureReport>,
    /// Failed attempts since the last success.
    pub failures: u32,
    /// The stored credential; `null` if there is none.
    pub credential: Option<CredentialReport>,
    /// Renewals that succeeded since the daemon started.
    pub renewals: u64,
    /// Requests to the token endpoint since the daemon started, also those that failed.
    pub token_requests: u64,
    /// The command to run, if a person has to do something.
    pub next_action: Option<String>,
}

/// An account in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Requests get a token; its renewal is arranged.
    Usable,
    /// There is no token; the next attempt has its time.
    Waiting,
    /// There is no token; the authorization server has been asked for one.
    Renewing,
    /// A person has to sign in. A token in hand is still used up.
    SignInRequired,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Usable => "usable",
            State::Waiting => "waiting",
            State::Renewing => "renewing",
            State::SignInRequired => "sign-in-required",
        })
    }
}

/// When something happens next.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Wakeup {
    /// When.
    pub at: Moment,
    /// The same, counted from the document's `at`; 0 if it is due.
    pub in_seconds: u64,
    /// Why.
    pub reason: Reason,
}

/// A failed renewal.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FailureReport {
    /// When.
    pub at: Moment,
    /// `transient`, `ambiguous` or `permanent`; or `unreadable`, when the stored credential could not be used.
    pub class: String,
    /// The server's OAuth code (RFC 6749 section 5.2), if it gave one.
    pub oauth_error: Option<String>,
    /// The HTTP status, if there was an answer.
    pub http_status: Option<u16>,
    /// What happened, for people.
    pub detail: String,
    /// How many attempts in a row had failed by then.
    pub attempt: u32,
}

/// A stored credential, without the credential.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CredentialReport {
    /// Grows with every new credential.
    pub generation: u64,
    /// The first hex digits of the refresh token's SHA-256.
    pub fingerprint: String,
    /// Whether the newest one is on the disk; if not, it is lost when the daemon ends.
    pub saved: bool,
    /// What it is encrypted with at rest: `no` for the file's permissions alone.
    pub sealed: String,
    /// Who is signed in, as far as the server told.
    pub identity: Option<String>,
    /// When the refresh token is expected to die, if anything is known of it.
    pub refresh_expires_at: Option<Moment>,
}

/// One route.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RouteReport {
    /// Its name.
    pub name: String,
    /// Where tools reach it, the plainest first.
    pub urls: Vec<String>,
    /// Where it leads.
    pub upstream: String,
    /// Whose token is sent.
    pub account: String,
    /// Whether every request needs a client key, whoever sends it.
    #[serde(default)]
    pub require_key: bool,
    /// Requests that reached it since the daemon started.
    pub requests: u64,
    /// Requests under way now.
    pub open: u64,
    /// Answers that valetd made itself, for want of a token or of the upstream.
    pub errors: u64,
    /// 401s that the upstream answered to our token.
    pub rejected: u64,
    /// Requests sent again after a 401.
    pub replayed: u64,
    /// Half of the answers began within so many milliseconds; an upper bound, from buckets that double.
    #[serde(default)]
    pub median_ms: Option<f64>,
    /// The same for 99 of 100.
    #[serde(default)]
    pub p99_ms: Option<f64>,
}

/// A point of the calendar; whole seconds, in UTC, as RFC 3339 writes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Moment(jiff::Timestamp);

impl Moment {
    /// Seconds from `earlier` to this; negative if this comes first.
    pub fn seconds_since(self, earlier: Moment) -> i64 {
        self.0.as_second() - earlier.0.as_second()
    }

    /// A number of seconds since 1970; the end of the calendar, if it lies beyond that.
    pub fn of_unix(seconds: u64) -> Self {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX).min(jiff::Timestamp::MAX.as_second());
        Self(jiff::Timestamp::from_second(seconds).expect("it was clamped to jiff's range"))
    }

    /// Seconds since 1970.
    pub fn unix(self) -> i64 {
        self.0.as_second()
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// What is true of the process, apart from accounts and routes. Replaced as a whole when a reload changes it.
#[derive(Clone, PartialEq, Debug)]
pub struct Facts {
    /// The program's version.
    pub version: &'static str,
    /// The process id.
    pub pid: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// The file that it was configured from.
    pub config_file: PathBuf,
    /// Where credentials are kept.
    pub state_dir: PathBuf,
    /// Where all routes are served, as bound: with the port that the system chose, where it was asked to.
    pub listen: Vec<ListenAddress>,
    /// The routes' own addresses, as bound.
    pub route_listen: BTreeMap<RouteName, ListenAddress>,
    /// What a person should look at some day.
    pub warnings: Vec<String>,
    /// The audit's file, if there is an audit.
    pub audit: Option<PathBuf>,
    /// What the process has given up, or should have.
    pub hardening: Vec<Measure>,
    /// How a person calls the program so that it finds this daemon: `valetd`, and the options for folders other
    /// than the usual ones.
    pub invocation: String,
}

/// Two readings of one instant: what joins the daemon's time line to the calendar.
#[derive(Clone, Copy, Debug)]
pub struct Readings {
    /// On the time line.
    pub now: Timestamp,
    /// On the calendar.
    pub wall: SystemTime,
}

impl Readings {
    /// What a calendar shows at a point of the time line, cut down to whole seconds.
    pub fn moment(&self, at: Timestamp) -> Moment {
        let wall = self.wall.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let millis = i128::from(at.as_millis()) - i128::from(self.now.as_millis()) + wall.as_millis().cast_signed();
        let end = jiff::Timestamp::MAX.as_second();
        let seconds = i64::try_from(millis.div_euclid(1000)).unwrap_or(i64::MAX).clamp(0, end);
        Moment(jiff::Timestamp::from_second(seconds).expect("it was clamped to jiff's range"))
    }
}

/// Everything that a document is made from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// What time it is.
    pub readings: Readings,
    /// The process.
    pub facts: &'a Facts,
    /// The configuration in force.
    pub config: &'a Config,
    /// What is wrong with the file, if the one in force is an older one.
    pub config_problems: &'a [String],
    /// The accounts.
    pub views: &'a [AccountView],
    /// The proxy's numbers.
    pub stats: &'a Stats,
    /// The client keys.
    pub keys: &'a KeyRing,
}

impl StatusReport {
    /// Makes the document.
    pub fn new(sources: &Sources<'_>) -> Self {
        let Sources { readings, facts, config, config_problems, views, stats, keys } = *sources;
        let daemon = DaemonReport {
            version: facts.version.to_owned(),
            pid: facts.pid,
            uptime_seconds: readings.now.since(facts.started_at).as_secs(),
            listen: facts.listen.iter().map(ToString::to_string).collect(),
            config_file: as_text(&facts.config_file),
            state_dir: as_text(&facts.state_dir),
            config_problems: config_problems.to_vec(),
            warnings: facts.warnings.clone(),
            connections: stats.connections.get(),
            refused: stats.refused.get(),
            refused_root: stats.refused_root.get(),
            audit: facts.audit.as_ref().map(|file| AuditReport {
                file: as_text(file),
                written: stats.audit.written.get(),
                dropped: stats.audit.dropped.get(),
                refused: stats.audit.refused.get(),
                trouble: stats.audit.trouble(),
            }),
            hardening: facts.hardening.iter().map(measure_report).collect(),
            own_addresses: own_addresses(keys),
            strict_exec: config.strict_exec,
        };
        Self {
            schema: SCHEMA,
            at: readings.moment(readings.now),
            daemon,
            accounts: views.iter().map(|view| AccountReport::new(view, readings, &facts.invocation)).collect(),
            routes: config.routes.iter().map(|route| route_report(route, facts, stats)).collect(),
        }
    }

    /// The account of this name.
    pub fn account(&self, id: &str) -> Option<&AccountReport> {
        self.accounts.iter().find(|account| account.id == id)
    }
}

/// A path as JSON can have it: bytes that are no UTF-8 are shown as U+FFFD.
fn as_text(path: &Path) -> PathBuf {
    path.to_string_lossy().into_owned().into()
}

impl AccountReport {
    /// Makes the part of the document that speaks of one account.
    pub fn new(view: &AccountView, readings: Readings, invocation: &str) -> Self {
        let AccountView {
            id,
            provider,
            description,
            snapshot,
            stored,
            last_success,
            last_failure,
            renewals,
            token_requests,
        } = view;
        let AccountSnapshot {
            phase,
            published: _,
            usable_until,
            next_wakeup,
            failures,
            refresh_expires_at,
            learnt_life,
        } = *snapshot;
        let usable = usable_until.is_some_and(|until| readings.now < until);
        let state = state(phase, usable);
        let why_code = match phase {
            Phase::SignInRequired { why } => Some(why),
            Phase::Scheduled { .. } | Phase::InFlight { .. } => None,
        };
        let why = match state {
            // what is stored cannot be used: that says more than that nobody is signed in
            State::SignInRequired => match (why_code, last_failure) {
                (Some(Why::NotSignedIn), Some(failure)) if failure.class == UNREADABLE => Some(failure.detail.clone()),
                (why, _) => why.map(|why| why.to_string()),
            },
            // a failure before the last success says nothing about now
            State::Usable | State::Waiting | State::Renewing if failures > 0 => {
                last_failure.as_ref().map(|failure| failure.detail.clone())
            }
            State::Usable | State::Waiting | State::Renewing => None,
        };
        let credential = stored.as_ref().map(|stored| CredentialReport {
            generation: stored.generation,
            fingerprint: stored.fingerprint.clone(),
            saved: stored.saved,
            sealed: "no".to_owned(),
            identity: stored.identity.clone(),
            refresh_expires_at: refresh_expires_at.map(|at| readings.moment(at)),
        });
        Self {
            id: id.to_string(),
            provider: provider.clone(),
            description: description.clone(),
            state,
            usable,
            why,
            why_code,
            usable_until: usable_until.map(|until| readings.moment(until)),
            seconds_left: usable_until.map(|until| until.since(readings.now).as_secs()),
            learnt_life_seconds: learnt_life.map(|life| life.as_secs_f64()),
            next_wakeup: next_wakeup.map(|(at, reason)| Wakeup {
                at: readings.moment(at),
                in_seconds: at.since(readings.now).as_secs(),
                reason,
            }),
            last_success: last_success.map(|at| readings.moment(at)),
            last_failure: last_failure.as_ref().map(|failure| failure_report(failure, readings)),
            failures,
            credential,
            renewals: *renewals,
            token_requests: *token_requests,
            next_action: why_code.map(|why| next_action(why, id.as_str(), invocation)),
        }
    }
}

fn state(phase: Phase, usable: bool) -> State {
    match phase {
        Phase::SignInRequired { .. } => State::SignInRequired,
        Phase::Scheduled { .. } | Phase::InFlight { .. } if usable => State::Usable,
        Phase::Scheduled { .. } => State::Waiting,
        Phase::InFlight { .. } => State::Renewing,
    }
}

/// The command that mends it. A refused client is mended in the configuration, which then has to be read again.
fn next_action(why: Why, account: &str, invocation: &str) -> String {
    match why {
        Why::NotSignedIn | Why::Revoked | Why::Ambiguous | Why::IssuedElsewhere => {
            format!("{invocation} login {account}")
        }
        Why::ClientRefused => format!("{invocation} reload"),
    }
}

fn failure_report(failure: &LastFailure, readings: Readings) -> FailureReport {
    let LastFailure { at, id: _, class, oauth_error, http_status, detail, attempt } = failure;
    FailureReport {
        at: readings.moment(*at),
        class: (*class).to_owned(),
        oauth_error: oauth_error.clone(),
        http_status: *http_status,
        detail: detail.clone(),
        attempt: *attempt,
    }
}

fn measure_report(measure: &Measure) -> MeasureReport {
    let Measure { name, in_force, detail, is_missed: _ } = measure;
    MeasureReport { name: (*name).to_owned(), in_force: *in_force, detail: detail.clone() }
}

fn own_addresses(keys: &KeyRing) -> Vec<OwnAddressReport> {
    let lent = |key: &Arc<ClientKey>| {
        Some(OwnAddressReport {
            address: key.own_address()?.to_string(),
            key: key.name.to_string(),
            routes: key.rights.routes.iter().map(ToString::to_string).collect(),
        })
    };
    keys.keys().iter().filter_map(lent).collect()
}

fn route_report(route: &Route, facts: &Facts, stats: &Stats) -> RouteReport {
    let numbers = stats.route(&route.name);
    let own = facts.route_listen.get(&route.name).or(route.listen.as_ref());
    let millis = |share| numbers.latency.quantile(share).map(|bound| bound.as_secs_f64() * 1000.0);
    RouteReport {
        name: route.name.to_string(),
        urls: urls(&route.name, &facts.listen, own),
        upstream: route.upstream.to_string(),
        account: route.account.to_string(),
        require_key: route.require_key,
        requests: numbers.requests.get(),
        open: numbers.open.get(),
        errors: numbers.errors.get(),
        rejected: numbers.rejected.get(),
        replayed: numbers.replayed.get(),
        median_ms: millis(0.5),
        p99_ms: millis(0.99),
    }
}

/// What `localhost` and the names below it may stand for (RFC 6761 section 6.3).
const LOCALHOST: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Where tools reach a route: by path prefix on every listener, by host name on every port, and on its own address.
/// `localhost` is written as the first choice only where both its addresses answer, since a tool may try either.
/// A unix socket is written as nginx does: `http://unix:/path/to.sock:/prefix/`.
fn urls(name: &RouteName, listen: &[ListenAddress], own: Option<&ListenAddress>) -> Vec<String> {
    let mut prefixed = Vec::new();
    let mut named = Vec::new();
    for address in listen {
        let url = match address {
            ListenAddress::Tcp(tcp) => {
                let answers = |ip: IpAddr| listen.contains(&ListenAddress::Tcp(SocketAddr::new(ip, tcp.port())));
                if LOCALHOST.contains(&tcp.ip()) {
                    named.push(format!("http://{name}.localhost:{}/", tcp.port()));
                }
                match LOCALHOST.contains(&tcp.ip()) && LOCALHOST.into_iter().all(answers) {
                    true => format!("http://localhost:{}/{name}/", tcp.port()),
                    false => format!("http://{tcp}/{name}/"),
                }
            }
            ListenAddress::Unix(path) => format!("http://unix:{}:/{name}/", path.display()),
        };
        prefixed.push(url);
    }
    let own = own.map(|address| match address {
        ListenAddress::Tcp(tcp) => format!("http://{tcp}/"),
        ListenAddress::Unix(path) => format!("http://unix:{}:/", path.display()),
    });
    let mut urls = Vec::new();
    for url in prefixed.into_iter().chain(named).chain(own) {
        if !urls.contains(&url) {
            urls.push(url);
        }
    }
    urls
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::accounts::Stored;
    use crate::config::{AccountId, Audit, Client, NoticeSettings, Origin, Replay, Upstream};
    use crate::renewal::RenewalId;

    /// The time line is an hour ahead of the calendar, so that a mix-up of the two shows.
    const NOW: Timestamp = Timestamp::from_millis(1_790_003_600_500);

    pub(crate) fn readings() -> Readings {
        Readings { now: NOW, wall: UNIX_EPOCH + Duration::from_secs(1_790_000_000) }
    }

    #[test]
    fn the_document_is_what_the_scripts_of_version_1_expect() {
        let (facts, config, stats) = (facts(), config(), Stats::default());
        stats.connections.add(2);
        stats.refused.add(3);
        stats.audit.written.add(5);
        stats.audit.dropped.add(1);
        let gbdx = stats.route(&name("gbdx"));
        gbdx.requests.add(120);
        gbdx.open.add(1);
        gbdx.rejected.add(2);
        gbdx.replayed.add(2);
        gbdx.answered(200, Duration::from_millis(3));
        let problems = ["route.x: no account named \"x\"".to_owned()];
        let views = [usable_view(), refused_view()];
        let sources = Sources {
            readings: readings(),
            facts: &facts,
            config: &config,
            config_problems: &problems,
            views: &views,
            stats: &stats,
            keys: &KeyRing::default(),
        };
        let report = StatusReport::new(&sources);
        let golden = json!({
            "schema": 1,
            "at": "2026-09-21T14:13:20Z",
            "daemon": {
                "version": "0.1.0",
                "pid": 4711,
                "uptime_seconds": 60,
                "listen": ["127.0.0.1:8253", "[::1]:8253"],
                "config_file": "/home/me/.config/valetd/config.toml",
                "state_dir": "/home/me/.local/state/valetd",
                "config_problems": ["route.x: no account named \"x\""],
                "warnings": ["lingering is off"],
                "connections": 2,
                "refused": 3,
                "refused_root": 0,
                "audit": { "file": "/var/log/audit.jsonl", "written": 5, "dropped": 1, "refused": 0, "trouble": null },
                "hardening": [{ "name": "landlock", "in_force": false, "detail": "switched off" }],
                "own_addresses": [],
                "strict_exec": false,
            },
            "accounts": [{
                "id": "gbdx",
                "provider": "gbdx",
                "description": null,
                "state": "usable",
                "usable": true,
                "why": null,
                "why_code": null,
                "usable_until": "2026-09-21T14:54:20Z",
                "seconds_left": 2460,
                "learnt_life_seconds": 6.25,
                "next_wakeup": { "at": "2026-09-21T14:49:20Z", "in_seconds": 2160, "reason": "before-expiry" },
                "last_success": "2026-09-21T14:12:20Z",
                "last_failure": null,
                "failures": 0,
                "credential": {
                    "generation": 3,
                    "fingerprint": "ba7816bf",
                    "saved": true,
                    "sealed": "no",
                    "identity": "me@example.com",
                    "refresh_expires_at": "2026-10-18T14:13:20Z",
                },
                "renewals": 7,
                "token_requests": 8,
                "next_action": null,
            }, {
                "id": "gdh",
                "provider": "gdh",
                "description": "GeoDataHub",
                "state": "sign-in-required",
                "usable": false,
                "why": "the refresh token was refused: it was revoked or has expired",
                "why_code": "revoked",
                "usable_until": null,
                "seconds_left": null,
                "learnt_life_seconds": null,
                "next_wakeup": null,
                "last_success": null,
                "last_failure": {
                    "at": "2026-09-21T14:13:08Z",
                    "class": "permanent",
                    "oauth_error": "invalid_grant",
                    "http_status": 400,
                    "detail": "the server refused the refresh token",
                    "attempt": 1,
                },
                "failures": 1,
                "credential": null,
                "renewals": 0,
                "token_requests": 1,
                "next_action": "valetd login gdh",
            }],
            "routes": [{
                "name": "gbdx",
                "urls": [
                    "http://localhost:8253/gbdx/",
                    "http://gbdx.localhost:8253/",
                    "http://127.0.0.1:8300/",
                ],
                "upstream": "https://geobigdata.io",
                "account": "gbdx",
                "require_key": false,
                "requests": 120,
                "open": 1,
                "errors": 0,
                "rejected": 2,
                "replayed": 2,
                "median_ms": 4.0,
                "p99_ms": 4.0,
            }],
        });
        assert_eq!(serde_json::to_value(&report).unwrap(), golden);
        let read_back: StatusReport = serde_json::from_value(golden).unwrap();
        assert_eq!(read_back, report);
    }

    #[test]
    fn a_reader_overlooks_members_that_it_does_not_know() {
        let text = r#"{"at": "2026-09-21T14:13:20Z", "in_seconds": 3, "reason": "retry", "mood": "fine"}"#;
        assert_eq!(serde_json::from_str::<Wakeup>(text).unwrap().reason, Reason::Retry);
    }

    #[test]
    fn the_state_is_one_word_for_phase_and_token() {
        let scheduled = Phase::Scheduled { at: NOW };
        let in_flight = Phase::InFlight { id: RenewalId(1) };
        let nobody = Phase::SignInRequired { why: Why::NotSignedIn };
        let table = [
            ("between renewals", scheduled, true, State::Usable),
            ("renewing early", in_flight, true, State::Usable),
            ("backing off without a token", scheduled, false, State::Waiting),
            ("the first renewal", in_flight, false, State::Renewing),
            ("refused, token used up", nobody, true, State::SignInRequired),
            ("nobody signed in", nobody, false, State::SignInRequired),
        ];
        for (case, phase, usable, expected) in table {
            assert_eq!(state(phase, usable), expected, "{case}");
        }
    }

    #[test]
    fn a_failed_early_renewal_shows_its_reason_and_leaves_the_account_usable() {
        let mut view = usable_view();
        view.snapshot.failures = 2;
        view.last_failure = refused_view().last_failure;
        let report = AccountReport::new(&view, readings(), "valetd");
        assert_eq!((report.state, report.usable), (State::Usable, true));
        assert_eq!(report.why.as_deref(), Some("the server refused the refresh token"));
        assert_eq!(report.next_action, None);
    }

    #[test]
    fn a_token_is_not_usable_at_the_very_end_of_its_life() {
        let mut view = usable_view();
        view.snapshot.usable_until = Some(NOW);
        let report = AccountReport::new(&view, readings(), "valetd");
        assert_eq!((report.state, report.usable, report.seconds_left), (State::Waiting, false, Some(0)));
    }

    #[test]
    fn the_next_action_reaches_the_daemon_that_named_it() {
        let report = AccountReport::new(&refused_view(), readings(), "valetd --socket /tmp/v.sock");
        assert_eq!(report.next_action.as_deref(), Some("valetd --socket /tmp/v.sock login gdh"));
    }

    #[test]
    fn urls_say_localhost_only_where_both_families_answer() {
        let (v4, v6) = (tcp("127.0.0.1:8253"), tcp("[::1]:8253"));
        let unix = ListenAddress::Unix("/run/v.sock".into());
        let cases = [
            ("both", vec![v4.clone(), v6.clone()], None, ["http://localhost:8253/lab/", "http://lab.localhost:8253/"]),
            ("IPv4", vec![v4.clone()], None, ["http://127.0.0.1:8253/lab/", "http://lab.localhost:8253/"]),
            ("IPv6", vec![v6], None, ["http://[::1]:8253/lab/", "http://lab.localhost:8253/"]),
            ("unix", vec![unix.clone()], Some(&unix), ["http://unix:/run/v.sock:/lab/", "http://unix:/run/v.sock:/"]),
            ("elsewhere", vec![tcp("127.0.0.2:80")], Some(&v4), ["http://127.0.0.2:80/lab/", "http://127.0.0.1:8253/"]),
        ];
        for (case, listen, own, expected) in cases {
            assert_eq!(urls(&name("lab"), &listen, own), expected, "{case}");
        }
    }

    #[test]
    fn the_end_of_time_is_a_date_too() {
        assert_eq!(readings().moment(Timestamp::FAR).to_string(), "9999-12-30T22:00:00Z");
        assert_eq!(readings().moment(Timestamp::from_millis(0)).to_string(), "1970-01-01T00:00:00Z");
    }

    // What the tests of this folder and of the command line start from.

    pub(crate) fn facts() -> Facts {
        Facts {
            version: "0.1.0",
            pid: 4711,
            started_at: NOW - Duration::from_secs(60),
            config_file: "/home/me/.config/valetd/config.toml".into(),
            state_dir: "/home/me/.local/state/valetd".into(),
            listen: vec![tcp("127.0.0.1:8253"), tcp("[::1]:8253")],
            route_listen: BTreeMap::from([(name("gbdx"), tcp("127.0.0.1:8300"))]),
            warnings: vec!["lingering is off".to_owned()],
            audit: Some("/var/log/audit.jsonl".into()),
            hardening: vec![Measure::waived("landlock", "switched off")],
            invocation: "valetd".to_owned(),
        }
    }

    pub(crate) fn config() -> Config {
        let origin = Origin { tls: true, host: "geobigdata.io".to_owned(), port: 443 };
        let route = Route {
            name: name("gbdx"),
            account: AccountId::new("gbdx").unwrap(),
            upstream: Upstream { origin, base_path: String::new() },
            listen: Some(tcp("127.0.0.1:0")),
            replay: Replay::Any,
            replay_limit: 65536,
            refuse: Vec::new(),
            wait: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            warm: Duration::from_secs(900),
            idle_timeout: Duration::from_secs(300),
            via: true,
            http2: false,
            request_headers: Default::default(),
            token_query: None,
            scrub: false,
            extra_ca: None,
            require_key: false,
            rules: Default::default(),
        };
        Config {
            listen: vec![tcp("127.0.0.1:8253"), tcp("[::1]:8253")],
            hosts: Vec::new(),
            workers: 1,
            drain: Duration::from_secs(10),
            clients: vec![Client::Own],
            require_key: false,
            strict_exec: false,
            containers_need_key: false,
            audit: Audit::Off,
            audit_required: false,
            audit_size: 1 << 20,
            audit_keep: 4,
            sandbox: true,
            notice: NoticeSettings { command: Vec::new(), before: Duration::from_secs(3 * 86_400) },
            accounts: BTreeMap::new(),
            routes: vec![route],
        }
    }

    pub(crate) fn usable_view() -> AccountView {
        AccountView {
            id: AccountId::new("gbdx").unwrap(),
            provider: Some("gbdx".to_owned()),
            description: None,
            snapshot: AccountSnapshot {
                phase: Phase::Scheduled { at: NOW + Duration::from_secs(2160) },
                published: Some(RenewalId(7)),
                usable_until: Some(NOW + Duration::from_secs(2460)),
                next_wakeup: Some((NOW + Duration::from_secs(2160), Reason::BeforeExpiry)),
                failures: 0,
                refresh_expires_at: Some(NOW + Duration::from_secs(27 * 86_400)),
                learnt_life: Some(Duration::from_millis(6250)),
            },
            stored: Some(Stored {
                generation: 3,
                fingerprint: "ba7816bf".to_owned(),
                saved: true,
                identity: Some("me@example.com".to_owned()),
            }),
            last_success: Some(NOW - Duration::from_secs(60)),
            last_failure: None,
            renewals: 7,
            token_requests: 8,
        }
    }

    pub(crate) fn refused_view() -> AccountView {
        AccountView {
            id: AccountId::new("gdh").unwrap(),
            provider: Some("gdh".to_owned()),
            description: Some("GeoDataHub".to_owned()),
            snapshot: AccountSnapshot {
                phase: Phase::SignInRequired { why: Why::Revoked },
                published: None,
                usable_until: None,
                next_wakeup: None,
                failures: 1,
                refresh_expires_at: None,
                learnt_life: None,
            },
            stored: None,
            last_success: None,
            last_failure: Some(LastFailure {
                at: NOW - Duration::from_secs(12),
                id: RenewalId(1),
                class: "permanent",
                oauth_error: Some("invalid_grant".to_owned()),
                http_status: Some(400),
                detail: "the server refused the refresh token".to_owned(),
                attempt: 1,
            }),
            renewals: 0,
            token_requests: 1,
        }
    }

    pub(crate) fn report() -> StatusReport {
        let (facts, config, stats) = (facts(), config(), Stats::default());
        let views = [usable_view(), refused_view()];
        let readings = readings();
        let sources = Sources {
            readings,
            facts: &facts,
            config: &config,
            config_problems: &[],
            views: &views,
            stats: &stats,
            keys: &KeyRing::default(),
        };
        StatusReport::new(&sources)
    }

    fn tcp(address: &str) -> ListenAddress {
        ListenAddress::Tcp(address.parse().unwrap())
    }

    fn name(name: &str) -> RouteName {
        RouteName::new(name).unwrap()
    }
}
