//! A request's way through the proxy's pure parts, one step at a time, for `benches/parts.rs`.
//!
//! Each step does what `service.rs` does there, on what that has by then, and tells what came of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use tokio::sync::mpsc;

use crate::config::{Config, MachineFacts, Source};
use crate::platform::clock::Clock;
use crate::proxy::Table;
use crate::proxy::peer::{Peer, Process};
use crate::proxy::policy::client_key;
use crate::proxy::policy::guard::{self, Admission};
use crate::proxy::policy::head::{Head, HeadFlags};
use crate::proxy::policy::headers::{self, Length, ResponseContext, UpstreamFields};
use crate::proxy::policy::ingress::Ingress;
use crate::proxy::policy::redact::Confidential;
use crate::proxy::policy::rewrite::{Mapping, OwnAddresses};
use crate::proxy::policy::route::{self, Found};
use crate::proxy::policy::scope::Scope;
use crate::proxy::table::RouteEntry;
use crate::renewal::RenewalId;
use crate::stats::Stats;
use crate::timestamp::Timestamp;
use crate::token_source::{Availability, Published, TokenSource};

/// Who calls, and is let in.
const OWN: u32 = 1000;

/// As long as the access tokens that Cognito and Keycloak hand out.
const TOKEN_LENGTH: usize = 900;

/// `lab` is a route as most are, `ruled` one that lets little through. The API and its token endpoint share a host, as GBDX's
/// do, so that both routes refuse the way to the latter.
const CONFIG: &str = r#"
[account.work]
token_endpoint = "https://api.example/v1/oauth/token"
client_id = "bench"
[route.cdse]
account = "work"
upstream = "https://cdse.example"
[route.gdh]
account = "work"
upstream = "https://gdh.example"
[route.lab]
account = "work"
upstream = "https://api.example/v1"
[route.ruled]
account = "work"
upstream = "https://api.example/v1"
allow = ["GET /catalog/**", "POST /catalog/search"]
deny = ["/catalog/*/secret"]
"#;

/// What a worker knows: the routes, and a token that is usable.
pub struct Stage {
    table: Table,
    tokens: Arc<TokenSource>,
    token: Arc<Published>,
    ingress: Ingress,
    peer: Peer,
}

/// A request as hyper hands it over, ready for any of the steps.
pub struct Request {
    head: Parts,
    flags: HeadFlags,
    found: Found,
    authority: Option<HeaderValue>,
}

/// Four routes, and a token that is usable.
impl Default for Stage {
    fn default() -> Self {
        let facts = MachineFacts {
            folder: "/".into(),
            home: "/".into(),
            cores: 1,
            metadata: BTreeMap::new(),
            clients: BTreeMap::new(),
        };
        let source = Source::from_bytes("config.toml", CONFIG.as_bytes(), false);
        let parsed = source.and_then(|source| Config::parse(&source, &[], &facts));
        let config = parsed.unwrap_or_else(|problems| panic!("{problems}")).config;
        let account = config.accounts.keys().next().expect("there is one").clone();
        let tokens = TokenSource::new(account, Arc::new(Clock::start()), mpsc::unbounded_channel().0);
        let mut value = HeaderValue::try_from(format!("Bearer {}", "x".repeat(TOKEN_LENGTH))).expect("it is text");
        value.set_sensitive(true);
        let token = Published::new(RenewalId(1), (AUTHORIZATION, value), Timestamp::FAR, Timestamp::FAR);
        token.is_watched.store(false, Ordering::Relaxed); // as after its first good response
        let token = Arc::new(token);
        tokens.publish(Availability::Usable { token: token.clone(), wished_for: None });
        let table = Table::build(&config, &|_| tokens.clone(), &Stats::default());
        let table = table.unwrap_or_else(|problem| panic!("{problem}"));
        let peer = Peer { addresses: None, process: Process::Of { uid: OWN, pid: None } };
        Self { table, tokens, token, ingress: Ingress::loopback(Scope::All), peer }
    }
}

impl Request {
    fn head(&self) -> Head<'_> {
        let Parts { method, uri: target, version, headers, .. } = &self.head;
        Head { method, target, version: *version, headers, flags: self.flags }
    }
}

impl Stage {
    /// Gets a request ready.
    pub fn request(&self, head: Parts) -> Request {
        let (flags, authority) = (HeadFlags::of(&head.headers), head.headers.get(HOST).cloned());
        let mut request = Request { head, flags, found: Found { index: 0, prefix: 0 }, authority };
        assert!(self.route(&mut request), "benchmarks call routes that exist");
        request
    }

    /// Looks the head over, and takes the client key off, if there is one.
    pub fn key(&self, request: &mut Request) -> bool {
        let Request { head, flags, .. } = request;
        *flags = HeadFlags::of(&head.headers);
        client_key::may_be_there(&head.uri, flags)
            && client_key::take(&mut head.uri, &mut head.headers, flags, |_| false).is_ok_and(|key| key.is_some())
    }

    /// Decides whether it may be given a token.
    pub fn guard(&self, request: &Request) -> bool {
        let admission = Admission { uids: &[0, OWN], hosts: &self.table.hosts, keyed: false };
        guard::admit(&self.ingress, &self.peer, admission, &request.head()).is_ok()
    }

    /// Looks for a way out of the route in the path.
    pub fn path(&self, request: &Request) -> bool {
        route::check_path(request.head.uri.path()).is_ok()
    }

    /// Finds the route.
    pub fn route(&self, request: &mut Request) -> bool {
        let found = self.ingress.find(|name| self.table.position(name), "localhost", request.head.uri.path());
        found.map(|found| request.found = found).is_some()
    }

    /// Asks the route's rules.
    pub fn rules(&self, request: &Request) -> bool {
        let (route, rest) = (self.route_of(request), &request.head.uri.path()[request.found.prefix..]);
        !route::is_refused(&route.refuse, &route.config.upstream.base_path, rest)
            && route::check_rules(&route.config, None, &request.head(), rest).is_ok()
    }

    /// Borrows the token.
    pub fn token(&self) -> bool {
        self.tokens.usable().is_some()
    }

    /// Makes the target the upstream's.
    pub fn target(&self, request: &mut Request) {
        let base_path = &self.route_of(request).config.upstream.base_path;
        if let Some(target) = route::target(base_path, request.found.prefix, &request.head.uri) {
            request.head.uri = target;
        }
    }

    /// Makes the head ours.
    pub fn headers(&self, request: &mut Request) {
        request.authority = request.head.headers.get(HOST).cloned();
        let route = self.route_of(request);
        let fields = UpstreamFields {
            host: &route.host,
            via: route.config.via.then_some(&self.table.via_request),
            token_name: &self.token.name,
            edits: &route.edits,
            upgrade: None,
        };
        headers::prepare_request(&mut request.head.headers, &request.flags, fields);
        request.head.headers.insert(self.token.name.clone(), self.token.value.clone()); // as `Authorization::apply`
    }

    /// Makes the head of a response ours.
    pub fn answer(&self, request: &Request, answer: &mut HeaderMap) -> bool {
        let route = self.route_of(request);
        let mapping = Mapping {
            origin: &route.upstream.origin,
            base_path: &route.config.upstream.base_path,
            asked: "/x",
            local_authority: request.authority.as_ref().and_then(|host| host.to_str().ok()).unwrap_or("localhost"),
            prefix: &route.prefix,
            route_prefix: &route.prefix,
            own: OwnAddresses {
                listeners: &[],
                hosts: &self.table.hosts,
                ingress: &self.ingress,
                shares_account: &|name| self.table.position(name).map(|_| true),
                sibling: &|_, _| None,
            },
        };
        let via = route.config.via.then_some(&self.table.via_response);
        let context = ResponseContext {
            via,
            confidential: Confidential::of(&self.token, None),
            mapping,
            shared: true,
            switching: false,
            length: Length::Frames,
        };
        headers::clean_response(answer, &context).is_ok() && !headers::may_become_document(answer)
    }

    /// Counts a request and its response.
    pub fn count(&self, request: &Request, took: Duration) {
        let stats = &self.route_of(request).stats;
        stats.requests.add(1);
        stats.open.add(1);
        stats.answered(200, took);
        stats.open.subtract(1);
    }

    /// All of it.
    pub fn everything(&self, request: &mut Request, answer: &mut HeaderMap, took: Duration) -> bool {
        let goes_up = !self.key(request)
            && self.guard(request)
            && self.path(request)
            && self.route(request)
            && self.rules(request)
            && self.token();
        self.target(request);
        self.headers(request);
        let comes_back = self.answer(request, answer);
        self.count(request, took);
        goes_up && comes_back
    }

    fn route_of(&self, request: &Request) -> &RouteEntry {
        &self.table.routes[request.found.index]
    }
}
