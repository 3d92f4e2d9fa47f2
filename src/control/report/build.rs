//! What a document is made from, and the making.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::document::{
    AccountReport, AuditReport, CredentialReport, DaemonReport, FailureReport, McpReport, MeasureReport, Moment,
    OwnAddressReport, Readings, RouteReport, SCHEMA, State, StatusReport, StoreReport, Wakeup,
};
use crate::accounts::{AccountView, IN_THE_WAY, LastFailure, UNREADABLE, Withholding, remedy};
use crate::client_keys::{ClientKey, KeyRing};
use crate::config::{Config, ListenAddress, Proxies, ProxyChoice, Route, RouteName, Way};
use crate::platform::harden::Measure;
use crate::renewal::{AccountSnapshot, Phase, Why};
use crate::stats::{McpSeen, Stats};
use crate::store::{SealState, SealedWith};
use crate::timestamp::Timestamp;

/// What is true of the process, apart from accounts and routes. Replaced as a whole when a reload changes it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Facts {
    /// The program's version.
    pub version: &'static str,
    /// The process id.
    pub pid: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// The file that it was configured from.
    pub config_file: PathBuf,
    /// Whether a configuration of the user's is in force: not after a start with a file that cannot be used, until it is
    /// mended.
    pub configured: bool,
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
    /// The environment's proxies.
    pub proxies: Proxies,
    /// How a person calls the program so that it finds this daemon: `valetd`, and the options for folders other
    /// than the usual ones.
    pub invocation: String,
}

/// Everything that a document is made from.
#[derive(Clone, Copy)]
pub(crate) struct Sources<'a> {
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
    /// How credentials are kept.
    pub store: &'a SealState,
}

impl StatusReport {
    /// Makes the document.
    pub(crate) fn new(sources: &Sources<'_>) -> Self {
        let Sources { readings, facts, config, config_problems, views, stats, keys, store } = *sources;
        let daemon = DaemonReport {
            version: facts.version.to_owned(),
            pid: facts.pid,
            uptime_seconds: readings.now.since(facts.started_at).as_secs(),
            listen: facts.listen.iter().map(ToString::to_string).collect(),
            config_file: as_text(&facts.config_file),
            state_dir: as_text(&facts.state_dir),
            configured: facts.configured,
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
            store: StoreReport { unmet: unmet(config, store), ..StoreReport::new(store) },
        };
        Self {
            schema: SCHEMA,
            at: readings.moment(readings.now),
            daemon,
            accounts: views
                .iter()
                .map(|view| AccountReport::new(view, readings, &facts.invocation).kept_in(store))
                .collect(),
            routes: config.routes.iter().map(|route| route_report(route, config, facts, stats)).collect(),
        }
    }
}

/// What is to be said where credentials are not kept as the configuration says.
fn unmet(config: &Config, store: &SealState) -> Option<String> {
    let source = match store {
        SealState { sealed: None, locked: Some(_), doubt: _ } => return None, // how they are kept cannot be read
        SealState { sealed, .. } => sealed.as_ref().map(|sealed| sealed.source.as_str()),
    };
    config.store.seal.differs_from(source).map(|(says, command)| format!("{says}: {command}"))
}

/// A path as JSON can have it: bytes that are no UTF-8 are shown as U+FFFD.
fn as_text(path: &Path) -> PathBuf {
    path.to_string_lossy().into_owned().into()
}

impl StoreReport {
    /// Makes the part of the document that speaks of the store.
    pub(crate) fn new(state: &SealState) -> Self {
        let SealState { sealed, locked, doubt } = state.clone();
        let locked_alone = Self { locked, doubt, ..Self::default() };
        let Some(SealedWith { key, since, source, because, has_recovery }) = sealed else { return locked_alone };
        Self {
            sealed: true,
            source: Some(source),
            key_id: Some(key),
            since: Some(Moment::of_unix(since)),
            because,
            recovery: has_recovery,
            ..locked_alone
        }
    }
}

impl AccountReport {
    /// Adds what its credential is sealed with.
    pub(crate) fn kept_in(mut self, store: &SealState) -> Self {
        if let (Some(credential), Some(sealed)) = (&mut self.credential, &store.sealed) {
            credential.sealed.clone_from(&sealed.source);
        }
        self
    }

    /// Makes the part of the document that speaks of one account.
    pub(crate) fn new(view: &AccountView, readings: Readings, invocation: &str) -> Self {
        let AccountView {
            id,
            provider,
            description,
            snapshot,
            stored,
            withheld,
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
        let state = match withheld.as_ref().map(|withheld| withheld.cause) {
            None => state(phase, usable),
            Some(Withholding::StoreLocked) => State::StoreLocked,
            Some(Withholding::KeyGone) => State::KeyGone,
            Some(Withholding::OtherMachine) => State::OtherMachine,
            Some(Withholding::OlderCopy) => State::OlderCopy,
            Some(Withholding::Locked) => State::Locked,
        };
        let why_code = match phase {
            _ if withheld.is_some() => None,
            Phase::SignInRequired { why } => Some(why),
            Phase::Scheduled { .. } | Phase::InFlight { .. } => None,
        };
        let why = match state {
            State::StoreLocked | State::KeyGone | State::OtherMachine | State::OlderCopy | State::Locked => {
                withheld.as_ref().map(|withheld| withheld.why.to_string())
            }
            // what is stored cannot be used: that says more than that nobody is signed in
            State::SignInRequired => match (why_code, last_failure) {
                (Some(Why::NotSignedIn), Some(failure)) if [UNREADABLE, IN_THE_WAY].contains(&failure.class) => {
                    Some(failure.detail.clone())
                }
                (why, _) => why.map(|why| why.to_string()),
            },
            // a failure before the last success says nothing about now
            State::Usable | State::Waiting | State::Renewing if failures > 0 => {
                last_failure.as_ref().map(|failure| failure.detail.clone())
            }
            State::Usable | State::Waiting | State::Renewing => None,
        };
        let is_in_the_way = last_failure.as_ref().is_some_and(|failure| failure.class == IN_THE_WAY);
        let credential = stored.as_ref().map(|stored| CredentialReport {
            generation: stored.generation,
            fingerprint: stored.fingerprint.clone(),
            saved: stored.saved,
            sealed: "no".to_owned(),
            identity: stored.identity.clone(),
            subject: stored.subject.clone(),
            refresh_expires_at: refresh_expires_at.map(|at| readings.moment(at)),
            ends_at: stored.ends_at.map(|at| readings.moment(at)),
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
            next_action: match withheld {
                Some(withheld) => Some(withheld.cause.remedy(id, invocation)),
                None => why_code.filter(|_| !is_in_the_way).map(|why| remedy(why, id, invocation)),
            },
        }
    }
}

pub(super) fn state(phase: Phase, usable: bool) -> State {
    match phase {
        Phase::SignInRequired { .. } => State::SignInRequired,
        Phase::Scheduled { .. } | Phase::InFlight { .. } if usable => State::Usable,
        Phase::Scheduled { .. } => State::Waiting,
        Phase::InFlight { .. } => State::Renewing,
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

fn route_report(route: &Route, config: &Config, facts: &Facts, stats: &Stats) -> RouteReport {
    let numbers = stats.route(&route.name);
    let own = facts.route_listen.get(&route.name).or(route.listen.as_ref());
    let millis = |share| numbers.latency.quantile(share).map(|bound| bound.as_secs_f64() * 1000.0);
    RouteReport {
        name: route.name.to_string(),
        urls: urls(&route.name, &facts.listen, own),
        upstream: route.upstream.to_string(),
        account: route.account.to_string(),
        proxy: proxy(route, config, &facts.proxies),
        require_key: route.require_key,
        mcp: route.mcp.as_deref().map(|path| mcp_report(path, &numbers.mcp())),
        requests: numbers.requests.get(),
        open: numbers.open.get(),
        errors: numbers.errors.get(),
        rejected: numbers.rejected.get(),
        replayed: numbers.replayed.get(),
        refuses_token: numbers.refuses_tokens(),
        median_ms: millis(0.5),
        p99_ms: millis(0.99),
    }
}

fn mcp_report(path: &str, seen: &McpSeen) -> McpReport {
    let McpSeen { protocol_version, server, last_session, scope_required } = seen;
    let (server_name, server_version) = server.clone().unzip();
    let (asked, action) = scope_required.clone().unzip();
    McpReport {
        path: path.to_owned(),
        protocol_version: protocol_version.clone(),
        server_name,
        server_version,
        last_session: last_session.map(Moment::of_unix),
        scope_required: asked.map(Moment::of_unix),
        next_action: action,
    }
}

fn proxy(route: &Route, config: &Config, proxies: &Proxies) -> Option<String> {
    let choice = config.accounts.get(&route.account).map(|account| &account.proxy);
    match proxies.way(choice.unwrap_or(&ProxyChoice::Environment), &route.upstream.origin) {
        Way::Direct | Way::Public => None,
        Way::Through(proxy) | Way::PublicThrough(proxy) => Some(proxy.to_string()),
        Way::Misnamed { variable, problem } => Some(format!("{variable} {problem}")),
    }
}

/// What `localhost` and the names below it may stand for (RFC 6761 section 6.3).
const LOCALHOST: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Where tools reach a route: by path prefix on every listener, by host name on every port, and on its own address.
/// `localhost` is written as the first choice only where both its addresses answer, since a tool may try either.
/// A unix socket is written as nginx does: `http://unix:/path/to.sock:/prefix/`.
pub(super) fn urls(name: &RouteName, listen: &[ListenAddress], own: Option<&ListenAddress>) -> Vec<String> {
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
