//! What the workers have been told: the routes of a configuration, prepared so that a request copies as little as possible.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use hyper::Request;
use hyper::header::{HeaderName, HeaderValue};
use hyper::http::uri::PathAndQuery;
use rustls::ClientConfig;

use crate::advice::advised;
use crate::audit::AuditLog;
use crate::client_keys::KeyRing;
use crate::config::{AccountId, Config, HeaderEdits, Proxies, Route, RouteName, Way};
use crate::path_rules::RefusedPath;
use crate::platform::containers::Containers;
use crate::platform::secret_source::{self, SecretError};
use crate::platform::{environment, random, tls};
use crate::proxy::authorization::{Authorization, TokenMethod};
use crate::proxy::policy::error::Advice;
use crate::proxy::policy::headers::Edits;
use crate::proxy::replay::ReplayPolicy;
use crate::proxy::upstream::UpstreamOrigin;
use crate::renewal::Place;
use crate::spelling::Secrets;
use crate::stats::{RouteStats, Stats};
use crate::token_source::{Outcome, Published, TokenSource};

/// Who may call, and who is told of it.
#[derive(Clone)]
pub(crate) struct Access {
    /// Users whose processes need no client key, in order.
    pub uids: Vec<u32>,
    /// The client keys.
    pub keys: Arc<KeyRing>,
    /// Asked where a client without a key runs, if containers need one.
    pub containers: Option<Containers>,
    /// Where requests are noted, if they are.
    pub audit: Option<AuditLog>,
    /// Whether nothing is forwarded that cannot be noted.
    pub audit_required: bool,
}

/// Our own processes, no keys, no audit.
impl Default for Access {
    fn default() -> Self {
        let uids = vec![rustix::process::geteuid().as_raw()];
        Self { uids, keys: Arc::default(), containers: None, audit: None, audit_required: false }
    }
}

/// Why a configuration cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TableError {
    /// A route cannot be.
    #[error("route {route}: {problem}")]
    Route {
        /// Its name.
        route: RouteName,
        /// What stands in its way.
        problem: RouteProblem,
    },
    /// Without them no request could be told to be our own.
    #[error("the system's random numbers cannot be had")]
    NoRandomNumbers,
}

/// What stands in a route's way. Holds no secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RouteProblem {
    /// The upstream's host cannot be in a `Host` field.
    #[error("\"{0}\" is no host name")]
    NoHostName(String),
    /// The upstream's path cannot be in a request.
    #[error("\"{0}\" is no path")]
    NoPath(String),
    /// A field is to be added or removed whose name is none.
    #[error("request_headers: \"{0}\" is no field's name")]
    NoFieldName(String),
    /// The value of a field that is to be added cannot be had.
    #[error("request_headers: {field}: {why}")]
    NoValue {
        /// The field.
        field: String,
        /// Why.
        why: SecretError,
    },
    /// The value of a field that is to be added cannot be in one.
    #[error("request_headers: {field}: the value is no text")]
    NotText {
        /// The field.
        field: String,
    },
    /// There is no TLS with these certificate authorities.
    #[error("{0}")]
    Tls(String),
    /// The upstream cannot be dialled.
    #[error("{0}")]
    Upstream(String),
}

/// What the workers have been told: immutable, replaced as a whole.
#[derive(Clone)]
pub(crate) struct Table {
    /// In the order of their names.
    pub(super) routes: Vec<Arc<RouteEntry>>,
    pub(super) hosts: Vec<String>,
    pub(super) access: Access,
    pub(super) workers: usize,
    pub(super) advice: Advice,
    /// Known to this process alone; in our `Via`, so that we recognise what comes back (RFC 9110 section 7.6.3).
    pub(super) pseudonym: Arc<str>,
    pub(super) via_request: HeaderValue,
    pub(super) via_response: HeaderValue,
}

impl Table {
    /// Prepares the routes of `config`. `sources` gives each account's tokens, `stats` each route's numbers. Reads
    /// certificate files, so it may block for some milliseconds.
    ///
    /// # Errors
    ///
    /// `TableError`. An `extra_ca` that cannot be used is none: no connection is made where it was to vouch for the
    /// server, and the other routes are served.
    pub(crate) fn build(
        config: &Config,
        sources: &dyn Fn(&AccountId) -> Arc<TokenSource>,
        stats: &Stats,
    ) -> Result<Table, TableError> {
        let proxies = Proxies::read(environment::text);
        let mut origins = Origins::default();
        let mut routes = Vec::with_capacity(config.routes.len());
        for route in &config.routes {
            let account = &config.accounts[&route.account];
            let extra_ca = route.extra_ca.as_ref().or(account.extra_ca.as_ref());
            let origin = &route.upstream.origin;
            let way = proxies.way(&account.proxy, origin).guarded(account.private_addresses, origin);
            let failed = |problem| TableError::Route { route: route.name.clone(), problem };
            let upstream = origins.upstream(route, extra_ca, way).map_err(failed)?;
            let entry = RouteEntry::new(route, upstream, sources(&route.account), stats).map_err(failed)?;
            routes.push(Arc::new(entry));
        }
        routes.sort_by(|one, other| one.config.name.cmp(&other.config.name));
        let first_steps = config.accounts.is_empty().then(|| {
            format!("No account is set up yet: {}, then: {}", advised("add NAME PROVIDER"), advised("login NAME"))
        });
        let routes_by_prefix = routes.iter().map(|route| format!("{}/", route.prefix)).collect();
        let advice = Advice { routes: routes_by_prefix, first_steps, config_problem: None };
        let pseudonym: Arc<str> = random::name::<8>().map_err(|_| TableError::NoRandomNumbers)?.into();
        Ok(Table {
            routes,
            hosts: config.hosts.clone(),
            access: Access::default(),
            workers: config.workers.max(1),
            advice,
            via_request: HeaderValue::try_from(format!("1.1 valetd ({pseudonym})"))
                .expect("hex digits are visible ASCII"),
            via_response: HeaderValue::from_static("1.1 valetd"),
            pseudonym,
        })
    }

    /// Where a route is.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.routes.binary_search_by(|route| route.config.name.as_str().cmp(name)).ok()
    }

    /// The same table for these callers.
    #[must_use]
    pub(crate) fn with_access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// Takes over what must outlive a reload: upstreams that have not changed, so that their connections are kept, and
    /// our pseudonym, so that a request on its way is still recognised.
    pub(super) fn adopt(&mut self, before: &Table) {
        for route in &mut self.routes {
            let kept = before.routes.iter().find(|old| old.upstream.is_same(&route.upstream));
            if let (Some(old), Some(route)) = (kept, Arc::get_mut(route)) {
                route.upstream = old.upstream.clone();
            }
        }
        self.pseudonym = before.pseudonym.clone();
        self.via_request = before.via_request.clone();
    }
}

/// One route: what the configuration says, and what was prepared from it.
pub(crate) struct RouteEntry {
    /// What is used as it stands there.
    pub(crate) config: Route,
    /// `/NAME`
    pub(crate) prefix: String,
    pub(crate) tokens: Arc<TokenSource>,
    pub(crate) stats: Arc<RouteStats>,
    pub(crate) upstream: Arc<UpstreamOrigin>,
    /// What `Host` says upstream.
    pub(crate) host: HeaderValue,
    /// `config.refuse`, read.
    pub(crate) refuse: Vec<RefusedPath>,
    /// `config.request_headers`, with the values from where they are kept.
    pub(crate) edits: Edits,
    /// How its requests carry their token: `config.token_query`.
    pub(crate) method: TokenMethod,
    /// Of what is known of its places.
    place: u32,
}

impl RouteEntry {
    fn new(
        config: &Route,
        upstream: Arc<UpstreamOrigin>,
        tokens: Arc<TokenSource>,
        stats: &Stats,
    ) -> Result<Self, RouteProblem> {
        let target = &config.upstream;
        let host = HeaderValue::try_from(target.origin.authority())
            .map_err(|_| RouteProblem::NoHostName(target.origin.host.clone()))?;
        if PathAndQuery::try_from(format!("{}/", target.base_path)).is_err() {
            return Err(RouteProblem::NoPath(target.base_path.clone()));
        }
        Ok(Self {
            prefix: format!("/{}", config.name),
            tokens,
            stats: stats.route(&config.name),
            upstream,
            host,
            refuse: config.refuse.iter().map(|path| RefusedPath::new(path)).collect(),
            edits: edits(&config.request_headers)?,
            method: match config.token_query.clone() {
                None => TokenMethod::Field,
                Some(parameter) => TokenMethod::Query { parameter },
            },
            place: Place::route(config.name.as_str()),
            config: config.clone(),
        })
    }

    /// Where a request goes.
    pub(crate) fn place<B>(&self, request: &Request<B>) -> Place {
        Place::on(self.place, request.method().as_str(), request.uri().path())
    }

    /// Which of its requests may be sent again.
    pub(crate) fn replay_policy(&self) -> ReplayPolicy {
        ReplayPolicy { mode: self.config.replay, limit: self.config.replay_limit }
    }

    /// What authorizes a request of this route, beginning with `token`.
    pub(crate) fn authorize(&self, token: Arc<Published>) -> Authorization<'_> {
        Authorization::new(&self.method, &self.tokens, self.config.wait, token)
    }

    /// Notes what the second sending of a request said of its token, for people.
    pub(crate) fn note_replay(&self, outcome: Outcome) {
        match outcome {
            Outcome::Accepted => self.stats.replayed_with(false),
            Outcome::Refused => self.stats.replayed_with(true),
            Outcome::Unknown => {}
        }
    }
}

/// Reads the values of the fields that a route adds.
fn edits(edits: &HeaderEdits) -> Result<Edits, RouteProblem> {
    let name = |name: &String| HeaderName::try_from(name).map_err(|_| RouteProblem::NoFieldName(name.clone()));
    let remove = edits.remove.iter().map(name).collect::<Result<_, _>>()?;
    let mut add = Vec::with_capacity(edits.add.len());
    let mut secrets = Secrets::default();
    for (field, source) in &edits.add {
        let text =
            secret_source::read_at_rest(source).map_err(|why| RouteProblem::NoValue { field: field.clone(), why })?;
        // blanks around a value are no part of it (RFC 9110 section 5.5)
        let mut value = HeaderValue::try_from(text.expose().trim_ascii())
            .map_err(|_| RouteProblem::NotText { field: field.clone() })?;
        value.set_sensitive(true);
        if source.is_secret_in(field) {
            let found = Secrets::of_field(value.as_bytes());
            secrets = secrets.and(&found).and(&Secrets::of_whole(value.as_bytes()));
        }
        add.push((name(field)?, value));
    }
    Ok(Edits { remove, add, secrets: (!secrets.is_empty()).then(|| Arc::new(secrets)) })
}

/// The upstreams of one table: routes to the same origin share theirs, and TLS settings are made once for each set of
/// certificate authorities, as reading the system's takes milliseconds.
#[derive(Default)]
struct Origins {
    settings: HashMap<Option<PathBuf>, Settings>,
    upstreams: Vec<Arc<UpstreamOrigin>>,
}

/// How TLS is spoken, and the certificates of `extra_ca`, or, where there are none, what is wrong: such an upstream is the
/// same as no other.
type Settings = (Option<Arc<ClientConfig>>, Option<Vec<u8>>);

impl Origins {
    fn upstream(
        &mut self,
        route: &Route,
        extra_ca: Option<&PathBuf>,
        way: Way,
    ) -> Result<Arc<UpstreamOrigin>, RouteProblem> {
        let origin = &route.upstream.origin;
        let extra_ca = extra_ca.filter(|_| origin.tls);
        let (settings, authorities) = match origin.tls {
            true => self.settings(extra_ca)?,
            false => (None, None),
        };
        let known = self.upstreams.iter().find(|known| {
            known.origin == *origin && known.way == way && known.extra_ca == authorities && known.http2 == route.http2
        });
        if let Some(known) = known {
            return Ok(known.clone());
        }
        let upstream = Arc::new(
            UpstreamOrigin::new(origin.clone(), way, settings, authorities, route.http2)
                .map_err(RouteProblem::Upstream)?,
        );
        self.upstreams.push(upstream.clone());
        Ok(upstream)
    }

    /// The settings for what a file vouches for. It is read once, so that what tells upstreams apart is what is believed.
    fn settings(&mut self, extra_ca: Option<&PathBuf>) -> Result<Settings, RouteProblem> {
        const ALPN: &[&[u8]] = &[b"http/1.1"];
        if let Some(known) = self.settings.get(&extra_ca.cloned()) {
            return Ok(known.clone());
        }
        let (settings, authorities) = match extra_ca.map(|path| tls::authorities(path)).transpose() {
            Ok(listed) => {
                let bytes = listed.as_ref().map(|listed| listed.iter().flat_map(|one| one.to_vec()).collect());
                (tls::client_config(listed.unwrap_or_default(), ALPN), bytes)
            }
            // one account's file must not keep the others from being served
            Err(why) => (tls::refusing_config(why.clone(), ALPN), Some(why.into_bytes())),
        };
        let made = (Some(settings.map_err(RouteProblem::Tls)?), authorities);
        self.settings.insert(extra_ca.cloned(), made.clone());
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ProxyChoice, testing};

    #[test]
    fn routes_share_connections_if_they_lead_to_one_origin_by_one_way() {
        let lines = "[account.a]\nprovider = \"any\"\n[account.b]\nprovider = \"any\"\n[account.c]\nprovider = \"any\"\n\
                     [account.d]\nprovider = \"any\"\n";
        let at = |name: &str, proxy: &str| {
            let before = format!("[account.{name}]\n");
            (before.clone(), format!("{before}upstream = \"https://api.example\"\n{proxy}"))
        };
        let proxies = [
            at("a", "proxy = \"direct\"\n"),
            at("b", "proxy = \"http://me:one@proxy.example\"\n"),
            at("c", "proxy = \"http://me:one@proxy.example:80\"\n"),
            at("d", "proxy = \"http://me:two@proxy.example\"\n"),
        ];
        let text = proxies.iter().fold(lines.to_owned(), |text, (before, after)| text.replace(before, after));
        let config = testing::config(&text);
        let mut origins = Origins::default();
        let mut upstream = |name: &str| {
            let route = config.routes.iter().find(|route| route.name.as_str() == name).unwrap();
            let choice = &config.accounts[&route.account].proxy;
            assert_ne!(*choice, ProxyChoice::Environment);
            let way = Proxies::default().way(choice, &route.upstream.origin);
            origins.upstream(route, None, way).unwrap()
        };
        let [a, b, c, d] = ["a", "b", "c", "d"].map(&mut upstream);
        assert_eq!(b.id, c.id);
        assert!(a.id != b.id && b.id != d.id && a.id != d.id);
        assert!(!a.is_same(&b) && !b.is_same(&d), "nor after a reload");
    }
}
