//! Routes: what one is, and how its table is read on top of what an account brings.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::account::Account;
use super::address::{Endpoint, ListenAddress, Upstream, refused_path};
use super::header::HeaderEdits;
use super::names::{AccountId, RouteName};
use super::problem::Complaint;
use super::read::{Layer, Located, Table};
use super::reader::{CrossChecks, Reader, bad_name};
use super::value;
use crate::mcp::{McpRule, McpRules};
use crate::names::did_you_mean;
use crate::path_rules::{PathRules, Rule};

/// A renewal takes a second or two; after ten a client does better to be told.
const WAIT: Duration = Duration::from_secs(10);
/// DNS, TCP and TLS to a distant host, with one lost packet each.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A person who works with an API now and then comes back within this.
const WARM: Duration = Duration::from_secs(15 * 60);
/// Long polls and event streams stay silent for a minute or two.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// An MCP server has nothing to say for longer, and a tool may take its time; clients have limits of their own.
const MCP_IDLE_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// The JSON of a search or an order; uploads are not replayed.
const REPLAY_LIMIT: u64 = 1 << 20;
/// A copy is kept in memory for each running request.
const MOST_REPLAY: u64 = 1 << 30;

pub(super) const ROUTE_KEYS: &[&str] = &[
    "account",
    "upstream",
    "listen",
    "replay",
    "replay_limit",
    "refuse",
    "wait",
    "connect_timeout",
    "idle_timeout",
    "warm",
    "mcp",
    "via",
    "http2",
    "request_headers",
    "token_query",
    "scrub",
    "extra_ca",
    "require_key",
    "allow",
    "deny",
];

const REPLAYS: &[(&str, Replay)] =
    &[("any", Replay::Any), ("idempotent", Replay::Idempotent), ("never", Replay::Never)];

/// A local address that forwards to one upstream with one account's token.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Route {
    /// Its name.
    pub name: RouteName,
    /// Whose token is sent.
    pub account: AccountId,
    /// Where to.
    pub upstream: Upstream,
    /// An address of its own, where it is served without prefix.
    pub listen: Option<ListenAddress>,
    /// Which requests are sent again, once, after the upstream answered 401 and the token was renewed.
    pub replay: Replay,
    /// Bytes of a request's body that are kept for the replay.
    pub replay_limit: usize,
    /// Paths of the upstream (and everything below them) that are never proxied: token services on an API's host. They
    /// begin with `/`, do not end with it, and the account's own endpoints are among them if they are on this host.
    pub refuse: Vec<String>,
    /// How long a request waits for a usable token.
    pub wait: Duration,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// For how long after its last use one connection to the upstream is kept ready; zero for not at all.
    pub warm: Duration,
    /// How long an exchange may stay without a byte in either direction.
    pub idle_timeout: Duration,
    /// Where the upstream speaks MCP, behind its base path, if it does: empty, or beginning with `/`.
    pub mcp: Option<String>,
    /// Whether answers carry `Via: 1.1 valetd` (RFC 9110 section 7.6.3).
    pub via: bool,
    /// Whether requests that come in HTTP/2 go on in it: where TLS agrees on it (RFC 7301), or, in the clear, always.
    pub http2: bool,
    /// What becomes of requests' header fields besides the token's.
    pub request_headers: HeaderEdits,
    /// The query parameter that carries the token, where the upstream wants it there and in no field.
    pub token_query: Option<String>,
    /// Whether the token, should it come back in a response's body, is blotted out.
    pub scrub: bool,
    /// A PEM file with certificate authorities to trust besides the system's.
    pub extra_ca: Option<PathBuf>,
    /// Whether every request needs a client key, whoever sends it.
    pub require_key: bool,
    /// Which methods and paths go through.
    pub rules: PathRules,
    /// Which messages to an MCP server go through.
    pub mcp_rules: McpRules,
}

/// Which requests may be sent again after a 401.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Replay {
    /// All whose body is kept whole: a 401 means that the request was not carried out.
    Any,
    /// Only idempotent methods (RFC 9110 section 9.2.2).
    Idempotent,
    /// None.
    Never,
}

/// A route that an account brings; the user's own `[route.NAME]` lies on top of it.
pub(super) struct PresetRoute<'a> {
    pub(super) account: AccountId,
    /// The topmost first.
    pub(super) layers: Vec<Layer<'a>>,
}

/// What the tables above the routes have said.
pub(super) struct RouteContext<'r> {
    /// The names of all accounts, also of those that could not be read.
    pub(super) names: Vec<&'r str>,
    /// The accounts.
    pub(super) accounts: &'r BTreeMap<AccountId, Account>,
    /// Whether every request needs a client key, where a route does not say.
    pub(super) require_key: bool,
}

impl<'a> Reader<'a> {
    /// One route, from the user's table on top of what an account brings.
    pub(super) fn route(
        &self,
        name: &str,
        own: Option<&Layer<'a>>,
        preset: Option<&PresetRoute<'a>>,
        context: &RouteContext<'_>,
        checks: &mut CrossChecks<'a>,
    ) -> Option<Route> {
        let below = preset.map(|preset| preset.layers.as_slice()).unwrap_or_default();
        let table = Table::new(own.into_iter().chain(below).cloned(), self.sink);
        if let Some(own) = own {
            Table::new([own.clone()], self.sink).only(ROUTE_KEYS);
        }
        let Some(route_name) = RouteName::new(name) else {
            self.sink.error(&table.place(), bad_name("a route"));
            return None;
        };
        let brings = |account: &String| {
            name.strip_prefix(account.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        if preset.is_none() && checks.unknown_provider.iter().any(brings) {
            return None;
        }
        if preset.is_none() {
            table.require("account", "say whose token is sent: account = \"NAME\"");
        }
        // Not by `parsed`: that the account is missing may follow from a line that could not be read.
        let account = match table.string("account") {
            Some(Located { value, .. }) if context.names.contains(&value.as_str()) => AccountId::new(&value),
            Some(Located { value, place }) => {
                let names = || context.names.iter().copied();
                let remedy = match did_you_mean(&value, names()) {
                    Some(question) => question,
                    None if context.names.is_empty() => format!("add [account.{value}]"),
                    None => format!("there are: {}", names().collect::<Vec<_>>().join(", ")),
                };
                self.sink.follow_up(&place, Complaint::new(format!("no account is named \"{value}\""), remedy));
                None
            }
            None => preset.map(|preset| preset.account.clone()),
        };
        table.require("upstream", "say where requests go: upstream = \"https://...\"");
        let upstream = table.parsed("upstream", Upstream::parse);
        if let Some(Located { value: Upstream { origin, base_path }, place }) = &upstream {
            let endpoint = Endpoint { origin: origin.clone(), path_and_query: base_path.clone() };
            checks.upstreams.push(Located { value: endpoint, place: place.clone() });
        }
        let listen = table.parsed("listen", |text| self.listen_address(text));
        checks.listeners.extend(listen.clone());
        let require_key = table.boolean("require_key").unwrap_or(context.require_key);
        if let Some(listener) = &listen {
            self.check_reach(listener, require_key, "require_key = true, here");
        }
        let rules = |key: &str| {
            let rules = table.array(key, |text| match text.trim_start().starts_with(McpRule::WORD) {
                true => McpRule::parse(text).map(Err).map_err(|wrong| Complaint::new(wrong, McpRule::EXAMPLE)),
                false => Rule::parse(text).map(Ok).map_err(|wrong| Complaint::new(wrong, Rule::EXAMPLE)),
            });
            let (mut paths, mut messages) = (Vec::new(), Vec::new());
            for rule in rules.unwrap_or_default() {
                match rule.value {
                    Ok(path) => paths.push(path),
                    Err(message) => messages.push((message, rule.place)),
                }
            }
            (paths, messages)
        };
        let ((allow, mcp_allow), (deny, mcp_deny)) = (rules("allow"), rules("deny"));
        let replay_limit = table.size("replay_limit", value::bytes).map_or(REPLAY_LIMIT, |limit| {
            if limit.value > MOST_REPLAY {
                self.sink.error(&limit.place, "is more than 1GiB, of which each running request would keep a copy");
            }
            limit.value
        });
        let mcp = match table.boolean_or_string("mcp") {
            None | Some(Ok(false)) => None,
            Some(Ok(true)) => Some(String::new()),
            Some(Err(path)) if is_path(&path.value) => Some(path.value),
            Some(Err(path)) => {
                let remedy = "write true, or where it is behind the upstream: \"/mcp\"";
                self.sink.error(&path.place, Complaint::new("is no path", remedy));
                None
            }
        };
        if mcp.is_none()
            && let Some((_, place)) = mcp_allow.iter().chain(&mcp_deny).next()
        {
            let remedy = "add mcp = true, or where it is behind the upstream: mcp = \"/mcp\"";
            self.sink.error(
                place,
                Complaint::new("is a rule for an MCP server, and the route is not said to lead to one", remedy),
            );
        }
        let of_mcp = |rules: Vec<(McpRule, _)>| rules.into_iter().map(|(rule, _)| rule).collect();
        let refuse = table.array("refuse", refused_path).unwrap_or_default();
        let a_moment = Duration::from_millis(1);
        let mut route = Route {
            listen: listen.map(|found| found.value),
            replay: table.word("replay", REPLAYS).map_or(Replay::Any, |found| found.value),
            replay_limit: usize::try_from(replay_limit).unwrap_or(usize::MAX),
            refuse: refuse.into_iter().map(|path| path.value).collect(),
            wait: self.duration(&table, "wait", Duration::ZERO, WAIT),
            connect_timeout: self.duration(&table, "connect_timeout", a_moment, CONNECT_TIMEOUT),
            idle_timeout: {
                let usual = if mcp.is_some() { MCP_IDLE_TIMEOUT } else { IDLE_TIMEOUT };
                self.duration(&table, "idle_timeout", a_moment, usual)
            },
            warm: self.duration(&table, "warm", Duration::ZERO, WARM),
            mcp,
            via: table.boolean("via").unwrap_or(true),
            http2: true,
            request_headers: self.header_edits(&table),
            token_query: table.parsed("token_query", query_parameter).map(|found| found.value),
            scrub: table.boolean("scrub").unwrap_or(false),
            extra_ca: self.authority_file(&table),
            require_key,
            rules: PathRules { allow, deny },
            mcp_rules: McpRules { allow: of_mcp(mcp_allow), deny: of_mcp(mcp_deny) },
            name: route_name,
            account: account?,
            upstream: upstream?.value,
        };
        route.http2 = table.boolean("http2").unwrap_or(route.upstream.origin.tls);
        if let Some(account) = context.accounts.get(&route.account) {
            route.extra_ca = route.extra_ca.or_else(|| account.extra_ca.clone());
            refuse_token_service(&mut route.refuse, account, &route.upstream);
        }
        Some(route)
    }
}

/// Whether a text can stand behind an upstream's base path.
fn is_path(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_graphic() && !b"?#\\\"<>%".contains(&byte);
    text.starts_with('/') && text.bytes().all(good) && !text.split('/').any(|one| one == "." || one == "..")
}

fn query_parameter(text: &str) -> Result<String, Complaint> {
    let is_name = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
    if is_name { Ok(text.to_owned()) } else { Err("is not a parameter's name: letters, digits and -._~".into()) }
}

/// Adds the account's endpoints to what a route refuses, where they are on the upstream's host: through the proxy
/// anyone could fetch tokens there.
fn refuse_token_service(refuse: &mut Vec<String>, account: &Account, upstream: &Upstream) {
    for (_, endpoint) in account.server.credential_endpoints().filter(|(_, at)| at.origin == upstream.origin) {
        let path = endpoint.path().trim_end_matches('/');
        let covered = |refused: &String| {
            path.strip_prefix(refused.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        // an endpoint at the root cannot be told from the API
        if !path.is_empty() && !refuse.iter().any(covered) {
            refuse.push(path.to_owned());
        }
    }
}
