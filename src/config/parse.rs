//! From the tables of a configuration to a [`Config`], and every problem on the way.
//!
//! Accounts come first, each from the user's table on top of its provider's. They bring routes; then the user's own
//! routes are laid over those or stand alone; then what concerns several of them is checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::problem::{Complaint, Problems, Severity, Sink, Source};
use super::read::{Document, Layer, Located, Table, not_empty, one_of};
use super::{
    Account, AccountId, Audit, Client, ClientAuth, Config, Dialect, Endpoint, Facts, GrantType, HeaderEdits,
    HeaderTemplate, ImportSource, ListenAddress, NoticeSettings, Parsed, Policy, Replay, Route, RouteName,
    SecretSource, SignIn, SignInMethod, TokenKind, Upstream, provider, value,
};
use crate::path_rules::{PathRules, Rule};
use crate::secret::Secret;

/// Where all routes are served if nothing else is said: both loopback addresses, since a client's `localhost` may be either.
const LISTEN: [&str; 2] = ["127.0.0.1:8253", "[::1]:8253"];
/// More than the requests of one person can keep busy.
const MOST_WORKERS: u64 = 256;
/// Long enough for an ordinary answer, short enough that a logout is not held up.
const DRAIN: Duration = Duration::from_secs(10);
/// A weekend and a day.
const NOTICE_BEFORE: Duration = Duration::from_secs(3 * 24 * 60 * 60);
/// A renewal takes a second or two; after ten a client does better to be told.
const WAIT: Duration = Duration::from_secs(10);
/// DNS, TCP and TLS to a distant host, with one lost packet each.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A person who works with an API now and then comes back within this.
const WARM: Duration = Duration::from_secs(15 * 60);
/// Long polls and event streams stay silent for a minute or two.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// The JSON of a search or an order; uploads are not replayed.
const REPLAY_LIMIT: u64 = 1 << 20;
/// A copy is kept in memory for each running request.
const MOST_REPLAY: u64 = 1 << 30;
/// What a person reads in an editor.
const AUDIT_SIZE: u64 = 32 * 1024 * 1024;
const AUDIT_KEEP: u64 = 4;
/// Some lines at least; the longest has 14 kB.
const LEAST_AUDIT_SIZE: u64 = 64 * 1000;
/// All of them are renamed at each change.
const MOST_AUDIT_FILES: u64 = 100;
/// Below this, an endpoint that hands out dead tokens would be asked a hundred times a second.
const LEAST_SPACING: Duration = Duration::from_millis(10);

const TOP_KEYS: &[&str] = &[
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
    "account",
    "route",
];

const ACCOUNT_KEYS: &[&str] = &[
    "provider",
    "upstream",
    "description",
    "grant",
    "token_endpoint",
    "cognito_endpoint",
    "revocation_endpoint",
    "client_id",
    "client_auth",
    "client_secret",
    "scopes",
    "parameters",
    "header",
    "renew",
    "lifetime",
    "sign_in",
    "login_page",
    "redirect_uri",
    "keep_password",
    "import",
    "extra_ca",
];

const ROUTE_KEYS: &[&str] = &[
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

const GRANTS: &[(&str, (GrantType, Dialect))] = &[
    ("refresh_token", (GrantType::RefreshToken, Dialect::Rfc6749)),
    ("client_credentials", (GrantType::ClientCredentials, Dialect::Rfc6749)),
    ("password", (GrantType::Password, Dialect::Rfc6749)),
    ("cognito_initiate_auth", (GrantType::RefreshToken, Dialect::CognitoInitiateAuth)),
    ("cognito_get_tokens", (GrantType::RefreshToken, Dialect::CognitoGetTokens)),
];

const CLIENT_AUTHS: &[(&str, ClientAuth)] =
    &[("none", ClientAuth::None), ("post", ClientAuth::Post), ("basic", ClientAuth::Basic)];

const SIGN_IN_METHODS: &[(&str, SignInMethod)] =
    &[("paste", SignInMethod::Paste), ("password", SignInMethod::Password)];

const REPLAYS: &[(&str, Replay)] =
    &[("any", Replay::Any), ("idempotent", Replay::Idempotent), ("never", Replay::Never)];

/// Parameters of token requests that the grant sets.
const GRANT_PARAMETERS: &[&str] = &[
    "client_assertion",
    "client_id",
    "client_secret",
    "code",
    "code_verifier",
    "grant_type",
    "password",
    "redirect_uri",
    "refresh_token",
    "scope",
    "username",
];

impl Config {
    /// What no configuration file at all means: the default listeners and no accounts.
    pub fn empty(facts: &Facts) -> Self {
        Self {
            listen: LISTEN.map(|text| ListenAddress::Tcp(text.parse().expect("a literal address"))).to_vec(),
            hosts: Vec::new(),
            workers: facts.cores.clamp(1, 2),
            drain: DRAIN,
            clients: vec![Client::Own],
            require_key: false,
            strict_exec: false,
            containers_need_key: false,
            audit: Audit::Off,
            audit_required: false,
            audit_size: AUDIT_SIZE,
            audit_keep: AUDIT_KEEP,
            sandbox: true,
            notice: NoticeSettings { command: Vec::new(), before: NOTICE_BEFORE },
            accounts: BTreeMap::new(),
            routes: Vec::new(),
        }
    }

    /// Reads a configuration file. `providers` are the user's own provider files by name (`NAME.toml`); they take the
    /// place of presets of the same name.
    ///
    /// # Errors
    ///
    /// Every problem at once, warnings included, in the order of the file.
    pub fn parse(file: &Source, providers: &[(String, Source)], facts: &Facts) -> Result<Parsed, Problems> {
        let sink = Sink::default();
        let config = Reader { facts, sink: &sink }.config(file, providers);
        let problems = sink.finish(&file.name);
        if problems.iter().any(|problem| problem.severity == Severity::Error) {
            return Err(Problems(problems));
        }
        Ok(Parsed { config, warnings: problems })
    }

    /// The setting, if there is one, that has the daemon start other programs.
    pub fn starts_programs(&self) -> Option<String> {
        let command = |account: &&Account| matches!(account.client_secret, Some(SecretSource::Command(_)));
        let account =
            self.accounts.values().find(command).map(|account| format!("account.{}.client_secret", account.id));
        account.or_else(|| (!self.notice.command.is_empty()).then(|| "notice".to_owned()))
    }

    /// Returns whether `new` has an account's tokens be what they are here, and lets them go wherever they go here; it may
    /// let them go to further places.
    pub fn leaves_in_place(&self, new: &Config, account: &AccountId) -> bool {
        let (Some(was), Some(is)) = (self.accounts.get(account), new.accounts.get(account)) else { return false };
        let is_kept = |route: &Route| {
            let Route { name, account, upstream, extra_ca, .. } = route;
            let is_same = |other: &Route| {
                (name, account, upstream, extra_ca) == (&other.name, &other.account, &other.upstream, &other.extra_ca)
            };
            new.routes.iter().any(is_same)
        };
        let mut routes = self.routes.iter().filter(|route| route.account == *account);
        !Config::security_relevant_change(was, is) && routes.all(is_kept)
    }

    /// Returns whether a change of an account's settings concerns what its tokens are or who may see them: then the
    /// tokens of the old account are not those of the new one, and must not be sent where it says.
    pub fn security_relevant_change(old: &Account, new: &Account) -> bool {
        // destructured whole: a new field must decide here
        let Account {
            id,
            provider: _,
            description: _,
            grant,
            dialect,
            token_endpoint,
            cognito_endpoint,
            revocation_endpoint: _,
            client_id,
            client_auth,
            client_secret,
            scopes,
            parameters,
            header: _, // which of the tokens in hand is sent, and how
            renew: _,
            sign_in: _,
            extra_ca,
        } = old;
        *id != new.id
            || *grant != new.grant
            || *dialect != new.dialect
            || *token_endpoint != new.token_endpoint
            || *cognito_endpoint != new.cognito_endpoint
            || *client_id != new.client_id
            || *client_auth != new.client_auth
            || *client_secret != new.client_secret
            || *scopes != new.scopes
            || *parameters != new.parameters
            || *extra_ca != new.extra_ca
    }
}

struct Reader<'a> {
    facts: &'a Facts,
    sink: &'a Sink,
}

/// A route that an account brings; the user's own `[route.NAME]` lies on top of it.
struct Brought<'a> {
    account: AccountId,
    /// The topmost first.
    layers: Vec<Layer<'a>>,
}

/// What was found where, for checks that concern several tables.
#[derive(Default)]
struct Found<'a> {
    listeners: Vec<Located<'a, ListenAddress>>,
    upstreams: Vec<Located<'a, Endpoint>>,
    /// Accounts whose provider is unknown: what is missing from them, and from their routes, may be in there.
    lost: Vec<String>,
}

impl<'a> Reader<'a> {
    /// Reads everything. What it returns is whole only if the sink got no error.
    fn config(&self, file: &'a Source, providers: &[(String, Source)]) -> Config {
        let sources = provider::all(providers);
        let document = Document::read(file, self.sink);
        let root = Table::new([document.layer()], self.sink);
        root.only(TOP_KEYS);

        let mut config = Config::empty(self.facts);
        let mut found = Found::default();
        if let Some(listen) = root.array("listen", |text| self.listen_address(text)) {
            config.listen = listen.iter().map(|address| address.value.clone()).collect();
            found.listeners.extend(listen);
        } else if !root.has("listen") {
            // the defaults are taken as well: a route must not ask for one of them
            let place = root.place_of("listen");
            found.listeners.extend(config.listen.iter().map(|at| Located { value: at.clone(), place: place.clone() }));
        }
        if let Some(hosts) = root.array("hosts", value::host) {
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
            None | Some(Ok(false)) => Audit::Off,
            Some(Ok(true)) => Audit::StateFolder,
            Some(Err(file)) => Audit::File(value::path(&file.value, &self.facts.folder, &self.facts.home)),
        };
        config.containers_need_key = root.boolean("containers_need_key").unwrap_or(false);
        config.audit_required = root.boolean("audit_required").unwrap_or(false);
        if config.audit_required && config.audit == Audit::Off {
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
        for listener in &found.listeners {
            self.check_reach(listener, config.require_key, "require_key = true, at the top");
        }
        if let Some(notice) = root.table("notice") {
            notice.only(&["command", "before"]);
            let command = notice.array("command", not_empty).unwrap_or_default();
            config.notice.command = command.into_iter().map(|word| word.value).collect();
            config.notice.before = self.duration(&notice, "before", Duration::ZERO, NOTICE_BEFORE);
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
                found.lost.push(name.clone());
            }
            self.bring_routes(&id, layer, preset.as_ref().map(|(_, layer)| layer), &mut brought);
            if let Some(account) = self.account(&id, layer, preset, &mut found) {
                config.accounts.insert(id, account);
            }
        }

        let names: BTreeSet<&str> =
            brought.keys().map(String::as_str).chain(routes.keys().map(String::as_str)).collect();
        let mut served = BTreeSet::new();
        for name in names {
            let Some(route) = self.route(name, routes.get(name), brought.get(name), &accounts, &config, &mut found)
            else {
                continue;
            };
            served.insert(route.account.clone());
            config.routes.push(route);
        }
        // while a route is wrong, nobody knows whose it would have been
        let without_route = |name: &str| !self.sink.has_errors() && !served.contains(name);
        for (name, layer) in accounts.iter().filter(|(name, _)| without_route(name)) {
            let remedy = format!("say upstream = \"https://...\" here, or add [route.{name}]");
            self.sink.warning(&layer.place(), Complaint::new("has no route, so no request can use it", remedy));
        }
        self.check_addresses(&found);
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
                let all = known().collect::<Vec<_>>().join(", ");
                let remedy = match value::nearest(text, known()) {
                    Some(near) => format!("did you mean \"{near}\"? (known: {all})"),
                    None => format!("known: {all}; or leave it out and say everything here"),
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
        brought: &mut BTreeMap<String, Brought<'l>>,
    ) {
        let of_preset = preset.and_then(|preset| preset.below("route", self.sink));
        let mut routes = of_preset.map(|routes| routes.tables(self.sink)).unwrap_or_default();
        let mut bring = |name: String, layers: Vec<Layer<'l>>| {
            if RouteName::new(&name).is_none() {
                let message = format!("brings the route {name:?}, which is {}", bad_name("a route").0);
                return self.sink.error(&account.place(), Complaint::new(message, bad_name("a route").1));
            }
            match brought.get(&name) {
                Some(Brought { account: other, .. }) => {
                    let message = format!("brings the route \"{name}\", which the account \"{other}\" brings too");
                    self.sink.error(&account.place(), Complaint::new(message, "rename one of the accounts"));
                }
                None => {
                    brought.insert(name, Brought { account: id.clone(), layers });
                }
            }
        };
        let main = routes.remove("main");
        let says_upstream = Table::new([account.clone()], self.sink).has("upstream");
        if main.is_some() || says_upstream {
            bring(id.to_string(), [account.clone().showing(&["upstream"])].into_iter().chain(main).collect());
        }
        for (name, layer) in routes {
            bring(format!("{id}-{name}"), vec![layer]);
        }
    }

    fn account(
        &self,
        id: &AccountId,
        own: &Layer<'a>,
        preset: Option<(String, Layer<'a>)>,
        found: &mut Found<'a>,
    ) -> Option<Account> {
        Table::new([own.clone()], self.sink).only(ACCOUNT_KEYS);
        let (provider, preset) = preset.unzip();
        let table = Table::new([own.clone()].into_iter().chain(preset), self.sink);

        let (grant, dialect) = table.word("grant", GRANTS).map_or(GRANTS[0].1, |found| found.value);
        if found.lost.contains(&id.to_string()) {
            return None;
        }
        table.require("token_endpoint", "say where grants are sent: token_endpoint = \"https://...\", or a provider");
        let mut endpoint = |key: &str| {
            let endpoint = table.parsed(key, Endpoint::parse)?;
            found.upstreams.push(endpoint.clone());
            Some(endpoint.value)
        };
        let token_endpoint = endpoint("token_endpoint");
        let revocation_endpoint = endpoint("revocation_endpoint");
        let cognito_endpoint = endpoint("cognito_endpoint");
        let client_id = table.string("client_id").map(|found| found.value);
        let cognito_endpoint = match dialect {
            Dialect::CognitoInitiateAuth | Dialect::CognitoGetTokens => {
                table.require("cognito_endpoint", "the grant needs it: \"https://cognito-idp.REGION.amazonaws.com/\"");
                table.require("client_id", "the grant needs it: the app client's id");
                cognito_endpoint
            }
            Dialect::Rfc6749 => {
                if table.is_own("cognito_endpoint") {
                    let remedy = "say grant = \"cognito_initiate_auth\" or \"cognito_get_tokens\", or leave it out";
                    self.sink.warning(
                        &table.place_of("cognito_endpoint"),
                        Complaint::new("is not used by this grant", remedy),
                    );
                }
                None
            }
        };
        let (client_auth, client_secret) = self.client(&table, grant);
        let sign_in = self.sign_in(&table, grant);
        let scopes = table.array("scopes", scope).unwrap_or_default();
        let account = Account {
            id: id.clone(),
            provider,
            description: table.string("description").map(|found| found.value),
            grant,
            dialect,
            token_endpoint: token_endpoint?,
            cognito_endpoint,
            revocation_endpoint,
            client_id,
            client_auth,
            client_secret,
            scopes: scopes.into_iter().map(|scope| scope.value).collect(),
            parameters: self.parameters(&table),
            header: table.parsed("header", HeaderTemplate::parse).map_or_else(bearer, |found| found.value),
            renew: self.policy(&table),
            sign_in,
            extra_ca: self.path(&table, "extra_ca"),
        };
        Some(account)
    }

    fn client(&self, table: &Table<'_>, grant: GrantType) -> (ClientAuth, Option<SecretSource>) {
        let auth = table.word("client_auth", CLIENT_AUTHS).map_or(ClientAuth::None, |found| found.value);
        let secret = match table.string_or_table("client_secret") {
            Some(Ok(inline)) => self.inline_secret(inline),
            Some(Err(table)) => self.secret_source(&table),
            None => None,
        };
        match auth {
            ClientAuth::Post | ClientAuth::Basic => {
                table.require("client_id", "client_auth needs it");
                table.require("client_secret", "client_auth needs it: client_secret = { file = \"/path\" }");
            }
            ClientAuth::None if grant == GrantType::ClientCredentials => {
                // RFC 6749 section 4.4: confidential clients only
                let remedy = "say client_auth = \"post\" or \"basic\", client_id and client_secret";
                let complaint = Complaint::new("cannot be \"none\" with the grant client_credentials", remedy);
                self.sink.follow_up(&table.place_of("client_auth"), complaint);
            }
            ClientAuth::None if table.is_own("client_secret") => {
                let place = table.place_of("client_secret");
                let remedy = "say client_auth = \"post\" or \"basic\"";
                let complaint = Complaint::new("is not sent as long as client_auth is \"none\"", remedy);
                if table.is_own("client_auth") {
                    self.sink.warning(&place, complaint); // they have said so
                } else {
                    self.sink.follow_up(&place, complaint);
                }
            }
            ClientAuth::None => {}
        }
        (auth, secret)
    }

    fn inline_secret(&self, Located { value, place }: Located<'_, String>) -> Option<SecretSource> {
        if place.source.readable_by_others {
            let message = "holds a secret in a file that others can read";
            let remedy =
                "chmod 600 the file, or write client_secret = { file = \"/path\" } (or command, or credential)";
            self.sink.error(&place, Complaint::new(message, remedy));
            return None;
        }
        if value.contains(['\r', '\n']) {
            self.sink.error(&place, "has more than one line");
            return None;
        }
        Some(SecretSource::Inline(Secret::new(value)))
    }

    fn secret_source(&self, table: &Table<'_>) -> Option<SecretSource> {
        const KEYS: &[&str] = &["file", "command", "credential"];
        table.only(KEYS);
        self.exactly_one(table, KEYS)?;
        let file = || self.path(table, "file").map(SecretSource::File);
        let command = || {
            let words: Vec<String> = table.array("command", not_empty)?.into_iter().map(|word| word.value).collect();
            if words.is_empty() {
                self.sink.error(&table.place_of("command"), "is empty");
                return None;
            }
            Some(SecretSource::Command(words))
        };
        let credential = || {
            let name = table.parsed("credential", |text| {
                let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
                let is_name = !text.is_empty() && !text.starts_with('.') && text.chars().all(good);
                if is_name { Ok(text.to_owned()) } else { Err("is not the name of a systemd credential") }
            });
            name.map(|found| SecretSource::Credential(found.value))
        };
        file().or_else(command).or_else(credential)
    }

    /// Complains unless the table has one of the keys, and only one.
    fn exactly_one(&self, table: &Table<'_>, keys: &[&str]) -> Option<()> {
        if keys.iter().filter(|key| table.has(key)).count() == 1 {
            return Some(());
        }
        self.sink.follow_up(&table.place(), format!("must have exactly one of {}", keys.join(", ")));
        None
    }

    fn parameters(&self, table: &Table<'_>) -> Vec<(String, String)> {
        let pairs = table.table("parameters").map(|parameters| parameters.pairs()).unwrap_or_default();
        for (name, found) in &pairs {
            if GRANT_PARAMETERS.contains(&name.as_str()) {
                self.sink.error(&found.place, "is a parameter that the grant sets itself");
            }
        }
        pairs.into_iter().map(|(name, found)| (name, found.value)).collect()
    }

    fn policy(&self, table: &Table<'_>) -> Policy {
        let mut policy = Policy::default();
        if let Some(renew) = table.table("renew") {
            renew.only(&["early", "minimum_spacing", "margin"]);
            policy.early = self.duration(&renew, "early", Duration::ZERO, policy.early);
            policy.minimum_spacing = self.duration(&renew, "minimum_spacing", LEAST_SPACING, policy.minimum_spacing);
            policy.margin = self.duration(&renew, "margin", Duration::ZERO, policy.margin);
        }
        if let Some(lifetime) = table.table("lifetime") {
            lifetime.only(&["access", "refresh"]);
            policy.assumed_lifetime =
                self.duration(&lifetime, "access", Duration::from_secs(1), policy.assumed_lifetime);
            if lifetime.has("refresh") {
                let second = Duration::from_secs(1);
                policy.refresh_lifetime = Some(self.duration(&lifetime, "refresh", second, second));
            }
        }
        policy
    }

    fn sign_in(&self, table: &Table<'_>, grant: GrantType) -> SignIn {
        let methods = match table.array("sign_in", |text| one_of(text, SIGN_IN_METHODS)) {
            Some(methods) => methods.into_iter().map(|method| method.value).collect(),
            None if grant == GrantType::Password => vec![SignInMethod::Password],
            None => Vec::new(),
        };
        if methods.contains(&SignInMethod::Paste) {
            table.require("login_page", "sign_in = [\"paste\"] needs it: the page that shows the code");
        }
        let keep_password = table.boolean("keep_password").unwrap_or(false);
        if grant == GrantType::Password && !keep_password {
            let message = "must be true for the grant password, which signs in anew each time";
            let remedy = "say keep_password = true, or grant = \"refresh_token\" to keep only that";
            self.sink.follow_up(&table.place_of("keep_password"), Complaint::new(message, remedy));
        }
        SignIn {
            methods,
            login_page: table
                .parsed("login_page", |text| Endpoint::parse(text).map(|_| text.to_owned()))
                .map(|found| found.value),
            redirect_uri: table.parsed("redirect_uri", redirect_uri).map(|found| found.value),
            keep_password,
            import: self.import(table),
        }
    }

    fn import(&self, table: &Table<'_>) -> Vec<ImportSource> {
        const KEYS: &[&str] = &["environment", "json_file", "gbdx_config"];
        let source = |table: Table<'_>| {
            table.only(KEYS);
            self.exactly_one(&table, KEYS)?;
            let variable = |text: &str| {
                let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let is_name = text.starts_with(|c: char| !c.is_ascii_digit()) && text.chars().all(good);
                if is_name { Ok(text.to_owned()) } else { Err("is not the name of an environment variable") }
            };
            let environment = table.parsed("environment", variable).map(|found| ImportSource::Environment(found.value));
            environment
                .or_else(|| self.path(&table, "json_file").map(ImportSource::JsonFile))
                .or_else(|| self.path(&table, "gbdx_config").map(ImportSource::GbdxConfig))
        };
        table.array_of_tables("import").unwrap_or_default().into_iter().filter_map(source).collect()
    }

    /// One route, from the user's table on top of what an account brings.
    fn route(
        &self,
        name: &str,
        own: Option<&Layer<'a>>,
        brought: Option<&Brought<'a>>,
        accounts: &BTreeMap<String, Layer<'a>>,
        config: &Config,
        found: &mut Found<'a>,
    ) -> Option<Route> {
        let below = brought.map(|brought| brought.layers.as_slice()).unwrap_or_default();
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
        if brought.is_none() && found.lost.iter().any(brings) {
            return None;
        }
        if brought.is_none() {
            table.require("account", "say whose token is sent: account = \"NAME\"");
        }
        // Not by `parsed`: that the account is missing may follow from a line that could not be read.
        let account = match table.string("account") {
            Some(Located { value, .. }) if accounts.contains_key(&value) => AccountId::new(&value),
            Some(Located { value, place }) => {
                let names = || accounts.keys().map(String::as_str);
                let remedy = match value::nearest(&value, names()) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None if accounts.is_empty() => format!("add [account.{value}]"),
                    None => format!("there are: {}", names().collect::<Vec<_>>().join(", ")),
                };
                self.sink.follow_up(&place, Complaint::new(format!("no account is named \"{value}\""), remedy));
                None
            }
            None => brought.map(|brought| brought.account.clone()),
        };
        table.require("upstream", "say where requests go: upstream = \"https://...\"");
        let upstream = table.parsed("upstream", Upstream::parse);
        if let Some(Located { value: Upstream { origin, base_path }, place }) = &upstream {
            let endpoint = Endpoint { origin: origin.clone(), path_and_query: base_path.clone() };
            found.upstreams.push(Located { value: endpoint, place: place.clone() });
        }
        let listen = table.parsed("listen", |text| self.listen_address(text));
        found.listeners.extend(listen.clone());
        let require_key = table.boolean("require_key").unwrap_or(config.require_key);
        if let Some(listener) = &listen {
            self.check_reach(listener, require_key, "require_key = true, here");
        }
        let rules = |key: &str| {
            let rules = table
                .array(key, |text| Rule::parse(text).map_err(|wrong| Complaint::new(wrong, Rule::EXAMPLE)))
                .unwrap_or_default();
            rules.into_iter().map(|rule| rule.value).collect()
        };
        let replay_limit = table.size("replay_limit", value::bytes).map_or(REPLAY_LIMIT, |limit| {
            if limit.value > MOST_REPLAY {
                self.sink.error(&limit.place, "is more than 1GiB, of which each running request would keep a copy");
            }
            limit.value
        });
        let refuse = table.array("refuse", value::refused_path).unwrap_or_default();
        let a_moment = Duration::from_millis(1);
        let mut route = Route {
            listen: listen.map(|found| found.value),
            replay: table.word("replay", REPLAYS).map_or(Replay::Any, |found| found.value),
            replay_limit: usize::try_from(replay_limit).unwrap_or(usize::MAX),
            refuse: refuse.into_iter().map(|path| path.value).collect(),
            wait: self.duration(&table, "wait", Duration::ZERO, WAIT),
            connect_timeout: self.duration(&table, "connect_timeout", a_moment, CONNECT_TIMEOUT),
            idle_timeout: self.duration(&table, "idle_timeout", a_moment, IDLE_TIMEOUT),
            warm: self.duration(&table, "warm", Duration::ZERO, WARM),
            via: table.boolean("via").unwrap_or(true),
            http2: true,
            request_headers: self.header_edits(&table),
            token_query: table.parsed("token_query", query_parameter).map(|found| found.value),
            scrub: table.boolean("scrub").unwrap_or(false),
            extra_ca: self.path(&table, "extra_ca"),
            require_key,
            rules: PathRules { allow: rules("allow"), deny: rules("deny") },
            name: route_name,
            account: account?,
            upstream: upstream?.value,
        };
        route.http2 = table.boolean("http2").unwrap_or(route.upstream.origin.tls);
        if let Some(account) = config.accounts.get(&route.account) {
            route.extra_ca = route.extra_ca.or_else(|| account.extra_ca.clone());
            refuse_token_service(&mut route.refuse, account, &route.upstream);
        }
        Some(route)
    }

    /// `request_headers = { remove = ["cookie"], add = { X-Api-Key = { file = "key" } } }`
    fn header_edits(&self, table: &Table<'a>) -> HeaderEdits {
        let Some(table) = table.table("request_headers") else { return HeaderEdits::default() };
        table.only(&["add", "remove"]);
        let remove = table.array("remove", edited_field).unwrap_or_default();
        let mut edits = HeaderEdits { remove: remove.into_iter().map(|name| name.value).collect(), add: Vec::new() };
        let Some(add) = table.table("add") else { return edits };
        for key in add.keys() {
            let place = add.place_of(&key);
            let name = match edited_field(&key) {
                Ok(name) => name,
                Err(complaint) => {
                    self.sink.error(&place, complaint);
                    continue;
                }
            };
            let value = match add.string_or_table(&key) {
                Some(Ok(Located { value, .. }))
                    if value.bytes().all(|byte| byte == b'\t' || byte >= b' ' && byte != 0x7f) =>
                {
                    Some(SecretSource::Inline(Secret::new(value)))
                }
                Some(Ok(Located { place, .. })) => {
                    self.sink.error(&place, "has a control character");
                    None
                }
                Some(Err(table)) => self.secret_source(&table),
                None => None,
            };
            if matches!(value, Some(SecretSource::Command(_))) {
                self.sink.error(&place, Complaint::new("cannot be asked of a command", "write { file = \"/path\" }"));
            }
            edits.add.extend(value.map(|value| (name, value)));
        }
        edits
    }

    /// What can be reached from other machines lets in nobody without a client key: there, nobody can say whose process
    /// it is.
    fn check_reach(&self, listener: &Located<'_, ListenAddress>, require_key: bool, remedy: &str) {
        if let Located { value: ListenAddress::Tcp(address), place } = listener
            && !address.ip().is_loopback()
            && !require_key
        {
            let remedy = format!("say {remedy}; or listen on loopback: \"127.0.0.1:{}\"", address.port());
            self.sink.error(place, Complaint::new("can be reached from other machines", remedy));
        }
    }

    fn check_addresses(&self, found: &Found<'_>) {
        let mut taken = BTreeSet::new();
        for Located { value, place } in &found.listeners {
            let any_port = matches!(value, ListenAddress::Tcp(address) if address.port() == 0);
            if !any_port && !taken.insert(value) {
                self.sink.error(place, format!("asks for {value}, which another listener has already"));
            }
        }
        for Located { value: Endpoint { origin, .. }, place } in &found.upstreams {
            let ours = |listener: &ListenAddress| matches!(listener, ListenAddress::Tcp(at) if origin.leads_to(*at));
            if let Some(listener) = taken.iter().find(|listener| ours(listener)) {
                self.sink.error(place, format!("leads back to valetd itself, which listens on {listener}"));
            }
        }
    }

    fn listen_address(&self, text: &str) -> Result<ListenAddress, Complaint> {
        value::listen_address(text, &self.facts.folder, &self.facts.home)
    }

    fn path(&self, table: &Table<'_>, key: &str) -> Option<PathBuf> {
        let text = table.string(key)?.value;
        Some(value::path(&text, &self.facts.folder, &self.facts.home))
    }

    /// A duration of at least `least`; `default` where there is none or a bad one.
    fn duration(&self, table: &Table<'_>, key: &str, least: Duration, default: Duration) -> Duration {
        let Some(Located { value, place }) = table.parsed(key, value::duration) else { return default };
        if value < least {
            self.sink.error(&place, format!("is less than {} ms", least.as_millis()));
        }
        value
    }
}

/// Reads a provider's file and checks its keys.
fn read_preset<'s>(source: &'s Source, sink: &Sink) -> Document<'s> {
    let document = Document::read(source, sink);
    // what an account says for itself alone
    let of_an_account = |key: &&str| !matches!(*key, "provider" | "upstream");
    let keys: Vec<&str> = ACCOUNT_KEYS.iter().copied().filter(of_an_account).chain(["route"]).collect();
    Table::new([document.layer()], sink).only(&keys);
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

/// The name of a field that a route may change: not those that say whose message it is, and where it ends.
fn edited_field(text: &str) -> Result<String, Complaint> {
    const OURS: &[&str] = &[
        "authorization",
        "connection",
        "content-length",
        "expect",
        "host",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let name = text.to_ascii_lowercase();
    let is_name =
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    match name {
        _ if !is_name => Err("is not the name of a header field".into()),
        name if OURS.contains(&name.as_str()) => Err("is a field that valetd itself is answerable for".into()),
        name => Ok(name),
    }
}

fn query_parameter(text: &str) -> Result<String, Complaint> {
    let is_name = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
    if is_name { Ok(text.to_owned()) } else { Err("is not a parameter's name: letters, digits and -._~".into()) }
}

/// Adds the account's endpoints to what a route refuses, where they are on the upstream's host: through the proxy
/// anyone could fetch tokens there.
fn refuse_token_service(refuse: &mut Vec<String>, account: &Account, upstream: &Upstream) {
    let Account { token_endpoint, cognito_endpoint, revocation_endpoint, .. } = account;
    let endpoints = [Some(token_endpoint), cognito_endpoint.as_ref(), revocation_endpoint.as_ref()];
    for endpoint in endpoints.into_iter().flatten().filter(|endpoint| endpoint.origin == upstream.origin) {
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

fn bearer() -> HeaderTemplate {
    HeaderTemplate {
        name: "authorization".into(),
        before: "Bearer ".into(),
        token: TokenKind::AccessToken,
        after: String::new(),
    }
}

/// A scope token (RFC 6749 section 3.3).
fn scope(text: &str) -> Result<String, Complaint> {
    let good = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    if !text.is_empty() && text.bytes().all(good) {
        return Ok(text.to_owned());
    }
    Err(Complaint::new("is not a scope (RFC 6749 section 3.3)", "write each scope as an element of its own"))
}

/// An absolute URI without fragment (RFC 6749 section 3.1.2); native apps may have schemes of their own (RFC 8252).
fn redirect_uri(text: &str) -> Result<String, Complaint> {
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
    let good_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    if !good_scheme || !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains('#') {
        return Err("is not an absolute URI without fragment (RFC 6749 section 3.1.2)".into());
    }
    Ok(text.to_owned())
}

struct BadName(String, &'static str);

impl From<BadName> for Complaint {
    fn from(BadName(message, remedy): BadName) -> Self {
        Complaint::new(format!("is {message}"), remedy)
    }
}

fn bad_name(what: &str) -> BadName {
    BadName(format!("not a name for {what}"), "use 1 to 63 of a-z, 0-9, - and _, beginning with a letter or digit")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::tests_support::{facts, parse_with, source};

    const EXAMPLE: &str = include_str!("../../config/valetd.toml");
    const LAB: &str = "[account.lab]\ntoken_endpoint = \"https://auth.lab.example/oauth2/token\"\n";

    /// Reads a good configuration.
    fn parse(text: &str) -> Config {
        parse_with(text, &[]).config
    }

    /// Reads a bad one: its problems, one a line.
    fn problems(text: &str) -> String {
        match Config::parse(&source(text), &[], &facts()) {
            Ok(parsed) => panic!("no error: {:?}", parsed.warnings),
            Err(problems) => problems.to_string(),
        }
    }

    fn uncommented(example: &str) -> String {
        let setting = |line: &str| {
            line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with([' ', '-'])).map(str::to_owned)
        };
        example.lines().map(|line| setting(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
    }

    #[test]
    fn an_empty_file_and_the_example_mean_what_no_file_means() {
        for text in ["", "# nothing\n", EXAMPLE] {
            assert_eq!(parse(text), Config::empty(&facts()));
        }
        assert_eq!(Config::empty(&Facts { cores: 0, ..facts() }).workers, 1);
        let listen: Vec<_> = Config::empty(&facts()).listen.iter().map(ToString::to_string).collect();
        assert_eq!(listen, ["127.0.0.1:8253", "[::1]:8253"]);
    }

    #[test]
    fn the_examples_settings_are_the_defaults() {
        let example = parse(&uncommented(EXAMPLE));
        let route = "[route.lab]\naccount = \"lab\"\nupstream = \"https://api.lab.example/v1\"\n";
        let mut bare = parse(&format!("{LAB}{route}"));
        // what has no default but an example
        let lab = bare.accounts.get_mut("lab").unwrap();
        lab.description = Some("The lab's archive".into());
        lab.client_id = Some("valetd".into());
        lab.revocation_endpoint = Some(Endpoint::parse("https://auth.lab.example/oauth2/revoke").unwrap());
        lab.sign_in.redirect_uri = Some("https://www.lab.example/code.html".into());
        assert_eq!(example, bare);
    }

    #[test]
    fn the_example_has_every_key_and_every_provider() {
        let lines: Vec<&str> = EXAMPLE.lines().map(|line| line.trim_start_matches(['#', ' '])).collect();
        for key in TOP_KEYS.iter().chain(ACCOUNT_KEYS).chain(ROUTE_KEYS) {
            let shown = lines
                .iter()
                .any(|line| line.starts_with(&format!("{key} = ")) || line.starts_with(&format!("[{key}.")));
            assert!(shown, "{key}");
        }
        for preset in provider::presets() {
            assert!(EXAMPLE.contains(&format!(" {}", preset.name)), "{}", preset.name);
        }
    }

    #[test]
    fn the_designs_example_means_what_the_design_says() {
        let text = r#"
            listen = ["127.0.0.1:8253", "[::1]:8253"]
            [account.gbdx]
            provider = "gbdx"
            [account.gdh]
            provider = "gdh"
            upstream = "https://api-dev.geodatahub.dk"
            [account.lab]
            token_endpoint = "https://auth.lab.example/oauth2/token"
            client_id = "valetd"
            client_auth = "post"
            client_secret = { file = "secret" }
            grant = "refresh_token"
            scopes = ["read"]
            header = "Authorization: Bearer {access_token}"
            renew = { early = "5m", minimum_spacing = "1s" }
            extra_ca = "/etc/ssl/lab-ca.pem"
            [route.lab]
            account = "lab"
            upstream = "https://api.lab.example/v1"
            listen = "127.0.0.1:8300"
            replay = "idempotent"
        "#;
        let config = parse(text);
        let routes: Vec<_> =
            config.routes.iter().map(|route| (route.name.as_str(), route.upstream.to_string())).collect();
        let expected = [
            ("gbdx", "https://geobigdata.io"),
            ("gbdx-idaho", "https://idaho.geobigdata.io"),
            ("gbdx-rda", "https://rda.geobigdata.io"),
            ("gbdx-vector", "https://vector.geobigdata.io"),
            ("gdh", "https://api-dev.geodatahub.dk"),
            ("lab", "https://api.lab.example/v1"),
        ];
        assert_eq!(routes, expected.map(|(name, upstream)| (name, upstream.to_owned())));
        let lab = &config.accounts["lab"];
        assert_eq!(lab.client_secret, Some(SecretSource::File("/home/me/.config/valetd/secret".into())));
        assert_eq!(config.routes[5].extra_ca, Some("/etc/ssl/lab-ca.pem".into()), "the account's, by default");
        assert_eq!(config.routes[5].replay, Replay::Idempotent);
    }

    #[test]
    fn an_account_overrides_single_values_of_its_provider() {
        let text = "[account.work]\nprovider = \"gdh\"\nclient_id = \"other\"\nrenew = { early = \"1m\" }\n\
                    lifetime = { access = \"2h\" }\ngrant = \"refresh_token\"\n[account.home]\nprovider = \"gdh\"\n";
        let config = parse(text);
        let (work, home) = (&config.accounts["work"], &config.accounts["home"]);
        assert_eq!(work.client_id.as_deref(), Some("other"));
        assert_eq!(work.renew.assumed_lifetime, Duration::from_secs(7200));
        assert_eq!(
            work.renew.refresh_lifetime, home.renew.refresh_lifetime,
            "the other half of the table is the preset's"
        );
        assert_eq!(work.cognito_endpoint, None, "not for this grant");
        assert_eq!((home.grant, home.dialect), (GrantType::RefreshToken, Dialect::CognitoInitiateAuth));
        assert_eq!(config.routes.len(), 2);
    }

    #[test]
    fn a_route_edits_fields_but_not_those_that_valetd_answers_for() {
        let route = "[route.lab]\naccount = \"lab\"\nupstream = \"https://api.lab.example/v1\"\n";
        let edits = "request_headers = { add = { User-Agent = \"lab/1\", X-Key = { file = \"key\" } }, remove = [\"Cookie\"] }\n\
                     token_query = \"access_token\"\nscrub = true\nhttp2 = false\n";
        let config = parse(&format!("{LAB}{route}{edits}"));
        let lab = config.routes.iter().find(|route| route.name.as_str() == "lab").unwrap();
        assert_eq!(lab.request_headers.remove, ["cookie"]);
        let added: Vec<_> = lab.request_headers.add.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(added, ["user-agent", "x-key"]);
        assert!(matches!(&lab.request_headers.add[1].1, SecretSource::File(path) if path.ends_with("key")));
        assert_eq!((lab.token_query.as_deref(), lab.scrub, lab.http2), (Some("access_token"), true, false));
        for (wrong, complaint) in [
            ("request_headers = { add = { Host = \"x\" } }", "is a field that valetd itself is answerable for"),
            ("request_headers = { remove = [\"Authorization\"] }", "is a field that valetd itself is answerable for"),
            ("request_headers = { add = { \"a b\" = \"x\" } }", "is not the name of a header field"),
            ("request_headers = { add = { A = \"x\\r\\ny\" } }", "has a control character"),
            ("request_headers = { add = { A = { command = [\"x\"] } } }", "cannot be asked of a command"),
            ("request_headers = { set = { } }", "is no key that is known here"),
            ("token_query = \"a&b\"", "is not a parameter's name"),
        ] {
            let found = problems(&format!("{LAB}{route}{wrong}"));
            assert!(found.contains(complaint), "{wrong}: {found}");
        }
    }

    #[test]
    fn a_route_overrides_single_values_of_a_providers_route() {
        let text = "[account.gbdx]\nprovider = \"gbdx\"\n[route.gbdx-vector]\nreplay = \"never\"\nlisten = \"127.0.0.1:9000\"\n\
                    [route.gbdx]\nupstream = \"https://standin.example\"\n";
        let config = parse(text);
        let route = |name: &str| config.routes.iter().find(|route| route.name.as_str() == name).unwrap();
        assert_eq!(route("gbdx-vector").replay, Replay::Never);
        assert_eq!(route("gbdx-vector").upstream.to_string(), "https://vector.geobigdata.io");
        assert_eq!(route("gbdx").upstream.to_string(), "https://standin.example");
        assert_eq!(route("gbdx").refuse, ["/auth/v1/oauth/token"], "still the preset's");
        assert_eq!(config.routes.len(), 4);
    }

    #[test]
    fn an_accounts_upstream_is_a_route_and_its_token_endpoint_is_never_proxied() {
        let text = "[account.lab]\ntoken_endpoint = \"https://lab.example/auth/token/\"\nupstream = \"https://lab.example/v1\"\n";
        let config = parse(text);
        assert_eq!(config.routes[0].name.as_str(), "lab");
        assert_eq!(config.routes[0].refuse, ["/auth/token"]);
        let refused = parse(&format!("{text}[route.lab]\nrefuse = [\"/auth/\"]\n"));
        assert_eq!(refused.routes[0].refuse, ["/auth"], "covers the endpoint");
    }

    #[test]
    fn all_problems_are_reported_at_once_with_place_and_remedy() {
        let text = "lisen = []\nworkers = \"two\"\n[account.lab]\ntoken_endpoint = \"http://auth.lab.example\"\n\
                    [route.a]\naccount = \"lba\"\nupstream = \"https://api.example\"\nwait = \"10\"\n";
        let expected = "config.toml:1:1: lisen: is no key that is known here; did you mean \"listen\"?\n\
            config.toml:2:11: workers: must be a whole number, but is of type string\n\
            config.toml:4:18: account.lab.token_endpoint: is plain http, over which anyone on the way can read tokens; \
            use https (http is for loopback only)\n\
            config.toml:6:11: route.a.account: no account is named \"lba\"; did you mean \"lab\"?\n\
            config.toml:8:8: route.a.wait: has no unit; write it with its unit, as in \"5m\", \"1h30m\" or \"27 days\"";
        assert_eq!(problems(text), expected);
    }

    #[test]
    fn each_mistake_is_named() {
        let rows = [
            ("unknown key without a near one", "banana = 1", "1:1: banana: is no key", "known here: listen"),
            ("syntax", "workers = \n[account", "1:11: workers: ", ""),
            ("bad type of table", "account = 5", "1:11: account: must be a table", ""),
            ("array of tables", "[[route]]\n", "route: must be a table, but is of type array", ""),
            ("no workers", "workers = 0", "is not between 1 and 256", ""),
            ("negative", "drain = \"-5s\"", "drain: is negative", ""),
            ("number for duration", "drain = 5", "must be a string in quotes, but is of type integer", ""),
            ("string for array", "listen = \"127.0.0.1:1\"", "must be an array of strings", ""),
            ("number in array", "hosts = [5]", "1:10: hosts[0]: must be a string", ""),
            ("bad host", "hosts = [\"a b\"]", "hosts[0]: has a bad host name", ""),
            (
                "open listener",
                "listen = [\"0.0.0.0:80\"]",
                "reached from other machines",
                "require_key = true, at the top",
            ),
            (
                "open listener of a route",
                "[account.a]\nprovider = \"gdh\"\n[route.a]\nlisten = \"192.0.2.1:80\"",
                "4:10: route.a.listen: can be reached",
                "require_key = true, here",
            ),
            ("clients", "clients = [\"alice\"]", "clients[0]: names no clients", "user:alice"),
            ("audit", "audit = 1", "audit: must be true or false", ""),
            ("audit required", "audit_required = true", "audit_required: needs an audit", "audit = true"),
            ("audit size", "audit_size = \"1kB\"", "audit_size: is less than 64kB", ""),
            ("audit keep", "audit_keep = 0", "audit_keep: is not between 1 and 100", ""),
            (
                "a rule without path",
                "[account.a]\nprovider = \"gdh\"\n[route.a]\ndeny = [\"DELETE\"]",
                "deny[0]: is not a path",
                "GET /catalog/**",
            ),
            (
                "listener twice",
                "listen = [\"[::1]:1\", \"[::1]:1\"]",
                "1:22: listen[1]: asks for [::1]:1, which another",
                "",
            ),
            (
                "account name",
                "[account.Lab]\ntoken_endpoint = \"https://a.example\"",
                "1:10: account.Lab: is not a name",
                "a-z",
            ),
            ("no endpoint", "[account.lab]", "1:10: account.lab.token_endpoint: is missing", "say where"),
            (
                "provider",
                "[account.a]\nprovider = \"gdhh\"",
                "names no provider that is known",
                "did you mean \"gdh\"?",
            ),
            (
                "provider far off",
                "[account.a]\nprovider = \"banana\"",
                "names no provider",
                "known: cdse, eumetsat, gbdx, gdh",
            ),
            (
                "grant",
                "[account.a]\nprovider = \"gdh\"\ngrant = \"refresh\"",
                "grant: is not one of",
                "\"refresh_token\"",
            ),
            (
                "secret unused",
                "[account.a]\nprovider = \"gdh\"\nclient_secret = \"x\"",
                "is not sent",
                "client_auth = \"post\"",
            ),
            (
                "auth without secret",
                "[account.a]\nprovider = \"gdh\"\nclient_auth = \"basic\"",
                "client_secret: is missing",
                "",
            ),
            (
                "secret of two",
                "[account.a]\nprovider = \"gdh\"\nclient_secret = { file = \"a\", credential = \"b\" }",
                "exactly one of file",
                "",
            ),
            (
                "no command",
                "[account.a]\nprovider = \"gdh\"\nclient_auth = \"post\"\nclient_secret = { command = [] }",
                "command: is empty",
                "",
            ),
            (
                "client credentials",
                "[account.a]\nprovider = \"gbdx\"\ngrant = \"client_credentials\"",
                "client_auth: cannot be \"none\"",
                "",
            ),
            (
                "cognito",
                "[account.a]\nprovider = \"gbdx\"\ngrant = \"cognito_get_tokens\"",
                "cognito_endpoint: is missing",
                "",
            ),
            (
                "cognito's client",
                "[account.a]\nprovider = \"gbdx\"\ngrant = \"cognito_get_tokens\"",
                "client_id: is missing",
                "",
            ),
            ("password", "[account.a]\nprovider = \"gbdx\"\ngrant = \"password\"", "keep_password: must be true", ""),
            ("paste", "[account.a]\nprovider = \"gbdx\"\nsign_in = [\"paste\"]", "login_page: is missing", ""),
            (
                "header",
                "[account.a]\nprovider = \"gdh\"\nheader = \"Authorization: x\"",
                "exactly one of {access_token}",
                "",
            ),
            ("scope", "[account.a]\nprovider = \"gdh\"\nscopes = [\"a b\"]", "scopes[0]: is not a scope", "of its own"),
            (
                "parameter",
                "[account.a]\nprovider = \"gdh\"\nparameters = { grant_type = \"x\" }",
                "grant sets itself",
                "",
            ),
            (
                "spacing",
                "[account.a]\nprovider = \"gdh\"\nrenew = { minimum_spacing = \"0s\" }",
                "is less than 10 ms",
                "",
            ),
            (
                "renew's keys",
                "[account.a]\nprovider = \"gdh\"\nrenew = { erly = \"1s\" }",
                "account.a.renew.erly: is no key",
                "early",
            ),
            (
                "import",
                "[account.a]\nprovider = \"gdh\"\nimport = [{ environment = \"A=B\" }]",
                "import[0].environment: is not",
                "",
            ),
            (
                "import of none",
                "[account.a]\nprovider = \"gdh\"\nimport = [{}]",
                "import[0]: must have exactly one of",
                "",
            ),
            (
                "redirect",
                "[account.a]\nprovider = \"gdh\"\nredirect_uri = \"x\"",
                "redirect_uri: is not an absolute URI",
                "",
            ),
            (
                "itself",
                "[account.a]\nprovider = \"gdh\"\nupstream = \"http://localhost:8253/\"",
                "leads back to valetd",
                "",
            ),
            (
                "metadata",
                "[account.a]\nprovider = \"gdh\"\nupstream = \"https://169.254.169.254\"",
                "metadata service",
                "",
            ),
            (
                "userinfo",
                "[account.a]\nprovider = \"gdh\"\nupstream = \"https://me:hunter2@a.example\"",
                "carries a user name",
                "",
            ),
            (
                "two of a name",
                "[account.gbdx]\nprovider = \"gbdx\"\n[account.gbdx-rda]\nprovider = \"gdh\"",
                "the route \"gbdx-rda\"",
                "rename",
            ),
            (
                "route without account",
                "[route.x]\nupstream = \"https://a.example\"",
                "1:8: route.x.account: is missing",
                "",
            ),
            (
                "route without upstream",
                "[account.a]\nprovider = \"gdh\"\n[route.x]\naccount = \"a\"",
                "route.x.upstream: is missing",
                "",
            ),
            (
                "route takes the listener",
                "[account.a]\nprovider = \"gdh\"\n[route.a]\nlisten = \"[::1]:8253\"",
                "4:10: route.a.listen: asks for",
                "",
            ),
            (
                "replay limit",
                "[account.a]\nprovider = \"gdh\"\n[route.a]\nreplay_limit = \"2GiB\"",
                "more than 1GiB",
                "",
            ),
            (
                "refuse",
                "[account.a]\nprovider = \"gdh\"\n[route.a]\nrefuse = [\"/\"]",
                "refuse[0]: refuses everything",
                "",
            ),
            ("via", "[account.a]\nprovider = \"gdh\"\n[route.a]\nvia = \"no\"", "via: must be true or false", ""),
            ("timeout", "[account.a]\nprovider = \"gdh\"\n[route.a]\nidle_timeout = \"0s\"", "is less than 1 ms", ""),
        ];
        for (name, text, message, remedy) in rows {
            let found = problems(text);
            assert!(found.contains(message) && found.contains(remedy), "{name}: {found}");
            assert!(!found.contains("hunter2"), "{name}: {found}");
        }
    }

    #[test]
    fn with_client_keys_alone_other_machines_may_call() {
        let config = parse("listen = [\"0.0.0.0:8253\"]\nrequire_key = true\n[account.a]\nprovider = \"gdh\"\n");
        assert!(config.require_key && config.routes[0].require_key);
        let own = "[account.a]\nprovider = \"gdh\"\n[route.a]\nlisten = \"192.0.2.1:80\"\nrequire_key = true\n";
        assert!(parse(own).routes[0].require_key);
    }

    #[test]
    fn clients_audit_and_rules_mean_what_they_say() {
        let text = r#"
            clients = ["self", "root", "user:alice", "group:1001"]
            containers_need_key = true
            audit = "log/audit.jsonl"
            audit_required = true
            audit_size = "1MB"
            audit_keep = 7
            sandbox = false
            strict_exec = true
            [account.a]
            provider = "gdh"
            [route.a]
            allow = ["GET /catalog/**"]
            deny = ["/admin/**"]
        "#;
        let config = parse(text);
        let expected = [Client::Own, Client::Root, Client::User("alice".into()), Client::Group("1001".into())];
        assert_eq!(config.clients, expected);
        assert_eq!(config.audit, Audit::File("/home/me/.config/valetd/log/audit.jsonl".into()));
        assert!(config.containers_need_key && config.audit_required);
        assert_eq!((config.audit_size, config.audit_keep), (1_000_000, 7));
        assert!(!config.sandbox && config.strict_exec);
        let rules = &config.routes[0].rules;
        assert_eq!((rules.allow.len(), rules.deny.len()), (1, 1));
        assert_eq!(parse("audit = true").audit, Audit::StateFolder);
        assert_eq!(config.starts_programs(), None);
        let command = format!(
            "{LAB}upstream = \"https://a.example\"\nclient_id = \"i\"\nclient_auth = \"post\"\nclient_secret = {{ command = [\"x\"] }}\n"
        );
        assert_eq!(parse(&command).starts_programs().as_deref(), Some("account.lab.client_secret"));
        assert_eq!(parse("notice = { command = [\"x\"] }").starts_programs().as_deref(), Some("notice"));
    }

    #[test]
    fn a_secret_may_stand_in_a_file_that_only_its_owner_can_read() {
        let text = "[account.a]\nprovider = \"sentinelhub\"\nclient_id = \"i\"\nclient_secret = \"hunter2\"\n";
        assert_eq!(parse(text).accounts["a"].client_secret, Some(SecretSource::Inline(Secret::new("hunter2"))));
        let open = Source { readable_by_others: true, ..source(text) };
        let problems = Config::parse(&open, &[], &facts()).unwrap_err();
        assert_eq!((problems.0.len(), problems.0[0].line), (1, 4));
        assert!(problems.to_string().contains("others can read; chmod 600"), "{problems}");
        assert!(!format!("{problems:?} {}", problems.rendered()).contains("hunter2"));
    }

    #[test]
    fn a_line_that_cannot_be_read_brings_no_complaints_about_what_it_may_have_said() {
        let found = problems(
            "[account.lab]\ntoken_endpoint = https://a.example\nclient_secret = hunter2\n[route.a]\nacount = \"lab\"",
        );
        let lines: Vec<&str> = found.lines().collect();
        assert_eq!(lines.len(), 3, "{found}");
        assert!(lines[0].starts_with("config.toml:2:"), "{found}");
        assert!(lines[1].starts_with("config.toml:3:") && lines[1].contains("client_secret"), "{found}");
        assert!(lines[2].starts_with("config.toml:5:1: route.a.acount: is no key"), "{found}");
        assert!(!found.contains("hunter2"));
    }

    #[test]
    fn a_broken_provider_file_is_an_error_where_it_is_used_and_a_warning_elsewhere() {
        let broken = Source { name: "providers/mine.toml".into(), ..source("token_endpont = \"https://a.example\"\n") };
        let providers = [("mine".to_owned(), broken)];
        let used = Config::parse(&source("[account.a]\nprovider = \"mine\""), &providers, &facts()).unwrap_err();
        assert!(used.to_string().contains("providers/mine.toml:1:1: token_endpont: is no key"), "{used}");
        let unused = Config::parse(&source(""), &providers, &facts()).unwrap();
        assert_eq!(unused.warnings.len(), 1);
        assert_eq!(unused.warnings[0].severity, Severity::Warning);
    }

    #[test]
    fn an_unknown_provider_brings_no_complaints_about_what_it_would_have_said() {
        let found =
            problems("[account.gbdx]\nprovider = \"gbxd\"\n[route.gbdx-rda]\nreplay = \"never\"\n[account.b]\n");
        let lines: Vec<&str> = found.lines().collect();
        assert_eq!(lines.len(), 2, "{found}");
        assert!(
            lines[0].contains("account.gbdx.provider: names no provider") && lines[1].contains("account.b"),
            "{found}"
        );
    }

    #[test]
    fn a_client_secret_that_is_not_sent_by_their_own_word_is_a_warning() {
        let text = format!(
            "{LAB}upstream = \"https://a.example\"\nclient_auth = \"none\"\nclient_secret = {{ file = \"x\" }}\n"
        );
        let parsed = Config::parse(&source(&text), &[], &facts()).unwrap();
        assert_eq!(parsed.warnings.len(), 1);
        assert!(parsed.warnings[0].to_string().contains("client_secret: is not sent"), "{:?}", parsed.warnings);
    }

    #[test]
    fn an_account_without_a_route_is_a_warning() {
        let parsed = Config::parse(&source(LAB), &[], &facts()).unwrap();
        assert_eq!(parsed.warnings.len(), 1);
        assert!(parsed.warnings[0].to_string().contains("account.lab: has no route"), "{:?}", parsed.warnings);
    }

    #[test]
    fn tokens_outlive_a_change_that_is_none_of_their_business() {
        let base = format!("{LAB}client_id = \"a\"\nupstream = \"https://api.example\"\n");
        let account = |text: &str| parse(text).accounts["lab"].clone();
        let old = account(&base);
        let rows = [
            ("nothing", base.clone(), false),
            ("the upstream", base.replace("api.example", "api2.example"), false),
            ("when to renew", format!("{base}renew = {{ early = \"1m\" }}\n"), false),
            ("the header", format!("{base}header = \"X-Token: {{access_token}}\"\n"), false),
            ("how to sign in", format!("{base}sign_in = [\"password\"]\n"), false),
            ("token endpoint", base.replace("auth.lab", "evil.lab"), true),
            ("client id", base.replace("\"a\"", "\"b\""), true),
            ("client secret", format!("{base}client_auth = \"post\"\nclient_secret = {{ file = \"/x\" }}\n"), true),
            ("grant", format!("{base}grant = \"password\"\nkeep_password = true\n"), true),
            ("scopes", format!("{base}scopes = [\"read\"]\n"), true),
            ("parameters", format!("{base}parameters = {{ audience = \"x\" }}\n"), true),
            ("trust", format!("{base}extra_ca = \"ca.pem\"\n"), true),
        ];
        for (name, text, expected) in rows {
            assert_eq!(Config::security_relevant_change(&old, &account(&text)), expected, "{name}");
        }
    }

    /// Reads anything; what it says must be fit to print.
    fn read_anything(bytes: &[u8]) {
        let read = Source::from_bytes("config.toml", bytes, false).and_then(|source| {
            Config::parse(&source, &[(String::new(), source.clone()), ("lab".into(), source.clone())], &facts())
        });
        if let Err(problems) = read {
            assert!(!problems.0.is_empty());
            let _ = (problems.to_string(), problems.rendered());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            read_anything(&bytes);
        }

        #[test]
        fn no_toml_like_text_makes_it_panic(text in "([a-z\\[\\]{}.=\"'# \n0-9é-]|account|route|lab|provider|\"gdh\"|\"\"\"){0,60}") {
            read_anything(text.as_bytes());
        }

        #[test]
        fn no_mutation_of_the_example_makes_it_panic_or_gives_the_secret_away(
            cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0..12_usize, "[\\[\\]{}=\"'\n#a.]{0,3}"), 1..5)
        ) {
            let secret = "client_auth = \"post\"\nclient_secret = \"hunter2hunter2\"";
            let mut text = uncommented(EXAMPLE).replace("client_auth = \"none\"", secret);
            for (at, length, instead) in cuts {
                let characters: Vec<char> = text.chars().collect();
                let from = at.index(characters.len());
                let to = (from + length).min(characters.len());
                text = characters[..from].iter().copied().chain(instead.chars()).chain(characters[to..].iter().copied()).collect();
            }
            read_anything(text.as_bytes());
            if let Err(problems) = Config::parse(&source(&text), &[], &facts()) {
                prop_assert!(!problems.rendered().contains("hunter2h"), "{}", problems.rendered());
            }
        }
    }
}
