//! From the tables of a configuration to a [`Config`], and every problem on the way.
//!
//! Accounts come first, each from the user's table on top of its provider's. They bring routes; then the user's own
//! routes are laid over those or stand alone; then what concerns several of them is checked.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::account::{ACCOUNT_KEYS, Account};
use super::address::{Endpoint, ListenAddress, client_host};
use super::names::{AccountId, RouteName};
use super::problem::{Complaint, Problem, Problems, Severity, Sink, Source};
use super::provider;
use super::read::{Document, Layer, Located, Table, not_empty};
use super::reader::{CrossChecks, MachineFacts, Reader, bad_name};
use super::route::{PresetRoute, ROUTE_KEYS, Route, RouteContext};
use super::secret_source::SecretSource;
use super::store::{SealSetting, StoreSettings};
use super::value::{self, AllowedClient};
use crate::advice::advised;
use crate::names::did_you_mean;

/// Where all routes are served if nothing else is said: both loopback addresses, since a client's `localhost` may be either.
const LISTEN: [&str; 2] = ["127.0.0.1:8253", "[::1]:8253"];
/// More than the requests of one person can keep busy.
const MOST_WORKERS: u64 = 256;
/// Long enough for an ordinary answer, short enough that a logout is not held up.
const DRAIN: Duration = Duration::from_secs(10);
/// A weekend and a day.
const NOTICE_BEFORE: Duration = Duration::from_secs(3 * 24 * 60 * 60);
/// What a person reads in an editor.
const AUDIT_SIZE: u64 = 32 * 1024 * 1024;
const AUDIT_KEEP: u64 = 4;
/// Some lines at least; the longest has 14 kB.
const LEAST_AUDIT_SIZE: u64 = 64 * 1000;
/// All of them are renamed at each change.
const MOST_AUDIT_FILES: u64 = 100;

pub(super) const TOP_KEYS: &[&str] = &[
    "listen",
    "hosts",
    "workers",
    "drain",
    "clients",
    "require_key",
    "strict_exec",
    "containers_need_key",
    "audit",
    "audit_required",
    "audit_size",
    "audit_keep",
    "sandbox",
    "notice",
    "store",
    "account",
    "route",
];

/// A configuration that can be used.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Parsed {
    /// What it means.
    pub config: Config,
    /// What is strange about it, in the order of the file.
    pub warnings: Vec<Problem>,
}

/// Everything the user asked for.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Config {
    /// Where all routes are served, by path prefix and by host name.
    pub listen: Vec<ListenAddress>,
    /// Host names that clients may use besides the loopback ones (RFC 6761 `localhost` and its subdomains); with a port, by
    /// that alone.
    pub hosts: Vec<String>,
    /// Threads of the data plane; at least 1.
    pub workers: usize,
    /// How long running requests may go on after a stop.
    pub drain: Duration,
    /// Whose processes are given tokens without a client key.
    pub clients: Vec<AllowedClient>,
    /// Whether every request needs a client key, whoever sends it.
    pub require_key: bool,
    /// Whether `valetd exec` refuses to run a command while a route can be used without a client key.
    pub strict_exec: bool,
    /// Whether processes that run in containers, as far as that can be told, need a client key whoever they belong to.
    pub containers_need_key: bool,
    /// Where requests are noted.
    pub audit: AuditTarget,
    /// Whether a request that cannot be noted is refused.
    pub audit_required: bool,
    /// The size that an audit file has at most before it is renamed.
    pub audit_size: u64,
    /// How many renamed audit files are kept.
    pub audit_keep: u64,
    /// Whether the daemon gives up what it does not need of the system.
    pub sandbox: bool,
    /// How a person is told that an account needs them.
    pub notice: NoticeSettings,
    /// How credentials are kept.
    pub store: StoreSettings,
    /// By name.
    pub accounts: BTreeMap<AccountId, Account>,
    /// In the order of their names.
    pub routes: Vec<Route>,
    /// Where each file of `extra_ca` is named first: `FILE:LINE:COLUMN: KEY`.
    pub authority_files: BTreeMap<PathBuf, String>,
}

/// Where requests are noted, one line each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum AuditTarget {
    /// Nowhere.
    Off,
    /// In `audit.jsonl` in the state folder.
    StateFolder,
    /// In this file; absolute.
    File(PathBuf),
}

/// How a person is told, besides the log, that an account needs them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NoticeSettings {
    /// Program and arguments, run without a shell; empty for none.
    pub command: Vec<String>,
    /// How long before the expected death of a refresh token.
    pub before: Duration,
}

impl Config {
    /// What no configuration file at all means: the default listeners and no accounts.
    pub(crate) fn empty(facts: &MachineFacts) -> Self {
        Self {
            listen: LISTEN.map(|text| ListenAddress::Tcp(text.parse().expect("a literal address"))).to_vec(),
            hosts: Vec::new(),
            workers: facts.cores.clamp(1, 2),
            drain: DRAIN,
            clients: vec![AllowedClient::Own],
            require_key: false,
            strict_exec: false,
            containers_need_key: false,
            audit: AuditTarget::Off,
            audit_required: false,
            audit_size: AUDIT_SIZE,
            audit_keep: AUDIT_KEEP,
            sandbox: true,
            notice: NoticeSettings { command: Vec::new(), before: NOTICE_BEFORE },
            store: StoreSettings::DEFAULT,
            accounts: BTreeMap::new(),
            routes: Vec::new(),
            authority_files: BTreeMap::new(),
        }
    }

    /// Reads a configuration file. `providers` are the user's own provider files by name (`NAME.toml`); they take the
    /// place of presets of the same name.
    ///
    /// # Errors
    ///
    /// Every problem at once, warnings included, in the order of the file.
    pub(crate) fn parse(
        file: &Source,
        providers: &[(String, Source)],
        facts: &MachineFacts,
    ) -> Result<Parsed, Problems> {
        let sink = Sink::default();
        let reader = Reader { facts, sink: &sink, authority_files: RefCell::default() };
        let config = reader.config(file, providers);
        let config = Config { authority_files: reader.authority_files.take(), ..config };
        let problems = sink.finish(&file.name);
        if problems.iter().any(|problem| problem.severity == Severity::Error) {
            return Err(Problems(problems));
        }
        Ok(Parsed { config, warnings: problems })
    }

    /// The setting, if there is one, that has the daemon start other programs.
    pub(crate) fn starts_programs(&self) -> Option<String> {
        let commands = self.accounts.values().flat_map(|account| {
            let secrets = account.secrets().filter(|(_, source)| matches!(source, SecretSource::Command(_)));
            secrets.map(|(key, _)| format!("account.{}.{key}", account.id))
        });
        let first = { commands }.next();
        let seal = || matches!(self.store.seal, SealSetting::Held(SecretSource::Command(_))).then(|| "store.seal");
        let notice = || (!self.notice.command.is_empty()).then_some("notice");
        first.or_else(|| seal().or_else(notice).map(str::to_owned))
    }

    /// The files that secrets are read from, each with the key that names it.
    pub(crate) fn secret_files(&self) -> Vec<(String, &Path)> {
        let mut sources: Vec<(String, &SecretSource)> = Vec::new();
        for account in self.accounts.values() {
            let id = &account.id;
            sources.extend(account.secrets().map(|(key, source)| (format!("account.{id}.{key}"), source)));
            let headers = account.token_request.headers.iter();
            sources.extend(headers.map(|(name, source)| (format!("a header of account.{id}, {name}"), source)));
        }
        for route in &self.routes {
            let headers = route.request_headers.add.iter();
            sources.extend(headers.map(|(name, source)| (format!("a header of route.{}, {name}", route.name), source)));
        }
        if let SealSetting::Held(source) = &self.store.seal {
            sources.push(("store.seal".to_owned(), source));
        }
        let files = sources.into_iter().filter_map(|(key, source)| match source {
            SecretSource::File(path) => Some((key, path.as_path())),
            SecretSource::Command(_) | SecretSource::Credential(_) | SecretSource::Inline(_) => None,
        });
        files.collect()
    }

    /// The unix sockets that are listened on.
    pub(crate) fn unix_sockets(&self) -> impl Iterator<Item = &Path> {
        let own = self.routes.iter().filter_map(|route| route.listen.as_ref());
        self.listen.iter().chain(own).filter_map(|address| match address {
            ListenAddress::Unix(path) => Some(path.as_path()),
            ListenAddress::Tcp(_) => None,
        })
    }

    /// Returns whether `new` has an account's tokens be what they are here, and lets them go wherever they go here; it may
    /// let them go to further places.
    pub(crate) fn leaves_in_place(&self, new: &Config, account: &AccountId) -> bool {
        let (Some(was), Some(is)) = (self.accounts.get(account), new.accounts.get(account)) else { return false };
        let is_kept = |route: &Route| {
            let Route { name, account, upstream, extra_ca, .. } = route;
            let is_same = |other: &Route| {
                (name, account, upstream, extra_ca) == (&other.name, &other.account, &other.upstream, &other.extra_ca)
            };
            new.routes.iter().any(is_same)
        };
        let mut routes = self.routes.iter().filter(|route| route.account == *account);
        !was.security_relevant_change(is) && routes.all(is_kept)
    }
}

impl<'a> Reader<'a> {
    /// Reads everything. What it returns is whole only if the sink got no error.
    fn config(&self, file: &'a Source, providers: &[(String, Source)]) -> Config {
        let sources = provider::all(providers);
        let document = Document::read(file, self.sink);
        let root = Table::new([document.layer()], self.sink);
        root.only(TOP_KEYS);

        let mut config = Config::empty(self.facts);
        let mut checks = CrossChecks::default();
        if let Some(listen) = root.array("listen", |text| self.listen_address(text)) {
            config.listen = listen.iter().map(|address| address.value.clone()).collect();
            checks.listeners.extend(listen);
        } else if !root.has("listen") {
            // the defaults are taken as well: a route must not ask for one of them
            let place = root.place_of("listen");
            checks.listeners.extend(config.listen.iter().map(|at| Located { value: at.clone(), place: place.clone() }));
        }
        if let Some(hosts) = root.array("hosts", client_host) {
            config.hosts = hosts.into_iter().map(|host| host.value).collect();
        }
        if let Some(workers) = root.integer("workers", 1..=MOST_WORKERS) {
            config.workers = workers as usize; // at most MOST_WORKERS
        }
        if let Some(drain) = root.parsed("drain", value::duration) {
            config.drain = drain.value;
        }
        if let Some(clients) = root.array("clients", value::client) {
            config.clients = clients.into_iter().map(|client| client.value).collect();
        }
        config.require_key = root.boolean("require_key").unwrap_or(false);
        config.strict_exec = root.boolean("strict_exec").unwrap_or(false);
        config.sandbox = root.boolean("sandbox").unwrap_or(true);
        config.audit = match root.boolean_or_string("audit") {
            None | Some(Ok(false)) => AuditTarget::Off,
            Some(Ok(true)) => AuditTarget::StateFolder,
            Some(Err(file)) => AuditTarget::File(value::path(&file.value, &self.facts.folder, &self.facts.home)),
        };
        config.containers_need_key = root.boolean("containers_need_key").unwrap_or(false);
        config.audit_required = root.boolean("audit_required").unwrap_or(false);
        if config.audit_required && config.audit == AuditTarget::Off {
            let remedy = "say where requests are noted: audit = true";
            self.sink.error(&root.place_of("audit_required"), Complaint::new("needs an audit", remedy));
        }
        if let Some(size) = root.size("audit_size", value::bytes) {
            config.audit_size = size.value;
            if size.value < LEAST_AUDIT_SIZE {
                self.sink.error(&size.place, "is less than 64kB");
            }
        }
        if let Some(keep) = root.integer("audit_keep", 1..=MOST_AUDIT_FILES) {
            config.audit_keep = keep;
        }
        for listener in &checks.listeners {
            self.check_reach(listener, config.require_key, "require_key = true, at the top");
        }
        if let Some(notice) = root.table("notice") {
            notice.only(&["command", "before"]);
            let command = notice.array("command", not_empty).unwrap_or_default();
            config.notice.command = command.into_iter().map(|word| word.value).collect();
            config.notice.before = self.duration(&notice, "before", Duration::ZERO, NOTICE_BEFORE);
        }
        if let Some(store) = root.table("store") {
            config.store = self.store(&store);
        }

        let own =
            |key: &str| document.layer().below(key, self.sink).map(|layer| layer.tables(self.sink)).unwrap_or_default();
        let (accounts, routes) = (own("account"), own("route"));
        let presets = self.presets(&accounts, &sources, providers.len());
        let mut brought = BTreeMap::new();
        for (name, layer) in &accounts {
            let Some(id) = AccountId::new(name) else {
                self.sink.error(&layer.place(), bad_name("an account"));
                continue;
            };
            let preset = self.preset_of(layer, &presets).map(|(name, document)| (name, document.layer()));
            if preset.is_none() && Table::new([layer.clone()], self.sink).has("provider") {
                checks.unknown_provider.push(name.clone());
            }
            self.bring_routes(&id, layer, preset.as_ref().map(|(_, layer)| layer), &mut brought);
            if let Some(account) = self.account(&id, layer, preset, &mut checks) {
                config.accounts.insert(id, account);
            }
        }

        let names: BTreeSet<&str> =
            brought.keys().map(String::as_str).chain(routes.keys().map(String::as_str)).collect();
        let mut served = BTreeSet::new();
        let mut found_routes = Vec::new();
        let context = RouteContext {
            names: accounts.keys().map(String::as_str).collect(),
            accounts: &config.accounts,
            require_key: config.require_key,
        };
        for name in names {
            let Some(route) = self.route(name, routes.get(name), brought.get(name), &context, &mut checks) else {
                continue;
            };
            served.insert(route.account.clone());
            found_routes.push(route);
        }
        config.routes = found_routes;
        // while a route is wrong, nobody knows whose it would have been
        let without_route = |name: &str| !self.sink.has_errors() && !served.contains(name);
        for (name, layer) in accounts.iter().filter(|(name, _)| without_route(name)) {
            let remedy = format!("say upstream = \"https://...\" here, or add [route.{name}]");
            self.sink.warning(&layer.place(), Complaint::new("has no route, so no request can use it", remedy));
        }
        self.check_addresses(&checks);
        config
    }

    /// Reads the providers that some account names. The user's other provider files are read too, but what is wrong
    /// with them is no more than a warning.
    fn presets<'s>(
        &self,
        accounts: &BTreeMap<String, Layer<'_>>,
        sources: &'s [(String, Source)],
        user_files: usize,
    ) -> BTreeMap<&'s str, Option<Document<'s>>> {
        let unheard = Sink::default();
        let named =
            |layer: &Layer<'_>| Table::new([layer.clone()], &unheard).string("provider").map(|found| found.value);
        let used: BTreeSet<String> = accounts.values().filter_map(named).collect();
        let mut presets = BTreeMap::new();
        for (index, (name, source)) in sources.iter().enumerate() {
            if used.contains(name) {
                presets.insert(name.as_str(), Some(read_preset(source, self.sink)));
                continue;
            }
            if index < user_files {
                let scratch = Sink::default();
                read_preset(source, &scratch);
                self.sink.adopt_as_warnings(scratch);
            }
            presets.insert(name.as_str(), None);
        }
        presets
    }

    /// The provider that an account names, if it names one.
    fn preset_of<'p>(
        &self,
        account: &Layer<'_>,
        presets: &'p BTreeMap<&str, Option<Document<'_>>>,
    ) -> Option<(String, &'p Document<'p>)> {
        let known = || presets.keys().copied();
        let found = Table::new([account.clone()], self.sink).parsed("provider", |text| match presets.get(text) {
            Some(Some(document)) => Ok((text.to_owned(), document)),
            Some(None) | None => {
                let list = advised("providers");
                let remedy = match did_you_mean(text, known()) {
                    Some(question) => format!("{question} `{list}` lists all"),
                    None => format!("`{list}` lists them; or leave it out and say everything here"),
                };
                Err(Complaint::new("names no provider that is known", remedy))
            }
        });
        found.map(|found| found.value)
    }

    /// Notes the routes that come with an account: those of its provider, and its own upstream.
    fn bring_routes<'l>(
        &self,
        id: &AccountId,
        account: &Layer<'l>,
        preset: Option<&Layer<'l>>,
        brought: &mut BTreeMap<String, PresetRoute<'l>>,
    ) {
        let of_preset = preset.and_then(|preset| preset.below("route", self.sink));
        let mut routes = of_preset.map(|routes| routes.tables(self.sink)).unwrap_or_default();
        let mut bring = |name: String, layers: Vec<Layer<'l>>| {
            if RouteName::new(&name).is_none() {
                let message = format!("brings the route {name:?}, which is {}", bad_name("a route").0);
                return self.sink.error(&account.place(), Complaint::new(message, bad_name("a route").1));
            }
            match brought.get(&name) {
                Some(PresetRoute { account: other, .. }) => {
                    let message = format!("brings the route \"{name}\", which the account \"{other}\" brings too");
                    self.sink.error(&account.place(), Complaint::new(message, "rename one of the accounts"));
                }
                None => {
                    brought.insert(name, PresetRoute { account: id.clone(), layers });
                }
            }
        };
        let main = routes.remove("main");
        let says_upstream = Table::new([account.clone()], self.sink).has("upstream");
        if main.is_some() || says_upstream {
            bring(id.to_string(), [account.clone().showing(&["upstream"])].into_iter().chain(main).collect());
        }
        for (name, layer) in routes {
            bring(provider::Preset::route_name(id, &name), vec![layer]);
        }
    }

    fn check_addresses(&self, checks: &CrossChecks<'_>) {
        let mut taken = BTreeSet::new();
        for Located { value, place } in &checks.listeners {
            let any_port = matches!(value, ListenAddress::Tcp(address) if address.port() == 0);
            if !any_port && !taken.insert(value) {
                self.sink.error(place, format!("asks for {value}, which another listener has already"));
            }
        }
        for Located { value: Endpoint { origin, .. }, place } in &checks.upstreams {
            let ours = |listener: &ListenAddress| matches!(listener, ListenAddress::Tcp(at) if origin.leads_to(*at));
            if let Some(listener) = taken.iter().find(|listener| ours(listener)) {
                self.sink.error(place, format!("leads back to valetd itself, which listens on {listener}"));
            }
        }
    }
}

/// Reads a provider's file and checks its keys.
fn read_preset<'s>(source: &'s Source, sink: &Sink) -> Document<'s> {
    let document = Document::read(source, sink);
    // what an account says for itself alone
    let of_an_account = |key: &&str| !matches!(*key, "provider" | "upstream");
    let keys: Vec<&str> =
        ACCOUNT_KEYS.iter().copied().filter(of_an_account).chain(provider::PRESET_KEYS.iter().copied()).collect();
    Table::new([document.layer()], sink).only(&keys);
    provider::check_asked(&document, sink);
    // what a route cannot say for every account of a provider
    let of_a_route: Vec<&str> =
        ROUTE_KEYS.iter().copied().filter(|key| !matches!(*key, "account" | "listen")).collect();
    for layer in
        document.layer().below("route", sink).map(|routes| routes.tables(sink)).unwrap_or_default().into_values()
    {
        Table::new([layer], sink).only(&of_a_route);
    }
    document
}
