//! The reverse proxy's data plane: requests in on loopback, out to the APIs with the right header, answers back.
//!
//! [`Proxy`] is a few worker threads. Each accepts from the same listening sockets, has a runtime of its own and its own
//! connections to the upstreams; [`Table`] is what they have been told: the routes, prepared so that a request copies
//! as little as possible. Where to read on:
//!
//! * `downstream`: the client's side: connections, who is at their other end, what a stranger may cost;
//! * `exchange`: one request from start to end (`service`), its note for the audit;
//! * `policy`: what is decided about requests and responses (pure), and what a tool sees when something is wrong;
//! * `upstream`: the API's side: connections kept and shared, HTTP/1.1 and HTTP/2 on them;
//! * `authorization`: which token a request leaves with; `replay`: the bounded copy of a body, and the second sending;
//! * `worker`: a thread's state.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc as blocking_mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use rustls::ClientConfig;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};

use crate::client_keys::KeyRing;
use crate::config::{AccountId, Config, HeaderEdits, Route, RouteName, SecretSource};
use crate::path_rules::RefusedPath;
use crate::platform::containers::Containers;
use crate::platform::{environment, ownership, socket, tls};
use crate::secret::Secret;
use crate::shutdown::Shutdown;
use crate::stats::Stats;
use crate::token_source::TokenSource;

use crate::audit::AuditLog;
use policy::error::Advice;
use policy::headers::Edits;
use policy::route::RouteEntry;
use policy::scope::Lent;
use upstream::UpstreamOrigin;
use worker::{Command, Worker};

mod authorization;
#[cfg(feature = "benchmarks")]
pub mod benchmarks;
mod downstream;
mod exchange;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod policy;
mod replay;
#[cfg(test)]
mod tests;
mod upstream;
mod worker;

/// A listening socket, and the route that is served there without prefix, if it is not for all.
#[derive(Debug)]
pub struct ProxyListener {
    /// Bound and listening.
    pub socket: socket::Listener,
    /// The route that the address belongs to.
    pub route: Option<RouteName>,
}

/// What is known of the process at the client's end of a TCP connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// It has the socket open, for writing or only for reading, and belongs to this user.
    Uid(u32),
    /// Nobody has the socket open any more.
    Gone,
    /// It could not be told.
    Unknown,
}

/// Looks a client up: its address, then ours. Asked right after accepting, and again when a client has closed its
/// sending side while an answer is due. Must not block for long: the worker waits.
pub type PeerLookup = Box<dyn FnMut(SocketAddr, SocketAddr) -> Peer>;

/// Makes a [`PeerLookup`] for each worker, on the worker's thread.
pub type PeerLookups = Arc<dyn Fn() -> PeerLookup + Send + Sync>;

/// Who may call, and who is told of it.
#[derive(Clone)]
pub struct Access {
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

/// What the workers have been told: immutable, replaced as a whole.
#[derive(Clone)]
pub struct Table {
    /// In the order of their names.
    routes: Vec<Arc<RouteEntry>>,
    hosts: Vec<String>,
    access: Access,
    workers: usize,
    advice: Advice,
    /// Known to this process alone; in our `Via`, so that we recognise what comes back (RFC 9110 section 7.6.3).
    pseudonym: Arc<str>,
    via_out: HeaderValue,
    via_home: HeaderValue,
}

impl Table {
    /// Prepares the routes of `config`. `sources` gives each account's tokens, `stats` each route's numbers. Reads
    /// certificate files, so it may block for some milliseconds.
    ///
    /// # Errors
    ///
    /// A sentence that names the route, if its upstream cannot be used. Where its `extra_ca` cannot, no connection is made for
    /// it, and the others are served.
    pub fn build(
        config: &Config,
        sources: &dyn Fn(&AccountId) -> Arc<TokenSource>,
        stats: &Stats,
    ) -> Result<Table, String> {
        let mut origins = Origins::default();
        let mut routes = Vec::with_capacity(config.routes.len());
        for route in &config.routes {
            let account = &config.accounts[&route.account];
            let extra_ca = route.extra_ca.as_ref().or(account.extra_ca.as_ref());
            let upstream =
                origins.upstream(route, extra_ca).map_err(|problem| format!("route {}: {problem}", route.name))?;
            routes.push(Arc::new(entry(route, upstream, sources(&route.account), stats)?));
        }
        routes.sort_by(|one, other| one.name.cmp(&other.name));
        let first_steps = config
            .accounts
            .is_empty()
            .then(|| "No account is set up yet: name one in the configuration, then run: valetd login NAME".to_owned());
        let routes_by_prefix = routes.iter().map(|route| format!("{}/", route.prefix)).collect();
        let advice = Advice { routes: routes_by_prefix, first_steps, config_problem: None };
        let pseudonym: Arc<str> = pseudonym()?.into();
        Ok(Table {
            routes,
            hosts: config.hosts.clone(),
            access: Access::default(),
            workers: config.workers.max(1),
            advice,
            via_out: HeaderValue::try_from(format!("1.1 valetd ({pseudonym})")).expect("hex digits are visible ASCII"),
            via_home: HeaderValue::from_static("1.1 valetd"),
            pseudonym,
        })
    }

    /// Where a route is.
    fn position(&self, name: &str) -> Option<usize> {
        self.routes.binary_search_by(|route| route.name.as_str().cmp(name)).ok()
    }

    /// The same table for these callers.
    #[must_use]
    pub fn with_access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// Takes over what must outlive a reload: upstreams that have not changed, so that their connections are kept, and
    /// our pseudonym, so that a request on its way is still recognised.
    fn adopt(&mut self, before: &Table) {
        for route in &mut self.routes {
            let kept = before.routes.iter().find(|old| old.upstream.is_same(&route.upstream));
            if let (Some(old), Some(route)) = (kept, Arc::get_mut(route)) {
                route.upstream = old.upstream.clone();
            }
        }
        self.pseudonym = before.pseudonym.clone();
        self.via_out = before.via_out.clone();
    }
}

fn entry(
    route: &Route,
    upstream: Arc<UpstreamOrigin>,
    tokens: Arc<TokenSource>,
    stats: &Stats,
) -> Result<RouteEntry, String> {
    let Route { name, account, upstream: target, listen: _, replay, replay_limit, refuse, .. } = route;
    let Route { wait, connect_timeout, idle_timeout, warm, via, extra_ca: _, require_key, rules, .. } = route;
    let Route { request_headers, token_query, scrub, http2: _, .. } = route;
    let host = HeaderValue::try_from(target.origin.authority())
        .map_err(|_| format!("route {name}: \"{}\" is no host name", target.origin.host))?;
    if hyper::http::uri::PathAndQuery::try_from(format!("{}/", target.base_path)).is_err() {
        return Err(format!("route {name}: \"{}\" is no path", target.base_path));
    }
    Ok(RouteEntry {
        name: name.clone(),
        prefix: format!("/{name}"),
        account: account.clone(),
        tokens,
        stats: stats.route(name),
        upstream,
        host,
        base_path: target.base_path.clone(),
        replay: *replay,
        replay_limit: *replay_limit,
        refuse: refuse.iter().map(|path| RefusedPath::new(path)).collect(),
        wait: *wait,
        connect_timeout: *connect_timeout,
        warm: *warm,
        idle_timeout: *idle_timeout,
        via: *via,
        edits: edits(request_headers).map_err(|problem| format!("route {name}: request_headers: {problem}"))?,
        token_query: token_query.as_deref().map(Arc::from),
        scrub: *scrub,
        require_key: *require_key,
        rules: rules.clone(),
    })
}

/// Reads the values of the fields that a route adds.
fn edits(edits: &HeaderEdits) -> Result<Edits, String> {
    let name = |name: &String| HeaderName::try_from(name).map_err(|_| format!("\"{name}\" is no field's name"));
    let remove = edits.remove.iter().map(name).collect::<Result<_, _>>()?;
    let mut add = Vec::with_capacity(edits.add.len());
    for (field, source) in &edits.add {
        let text = match source {
            SecretSource::Inline(value) => value.clone(),
            SecretSource::File(path) => first_line(path)?,
            SecretSource::Credential(credential) => {
                let folder = environment::value("CREDENTIALS_DIRECTORY").ok_or("$CREDENTIALS_DIRECTORY is not set")?;
                first_line(&PathBuf::from(folder).join(credential))?
            }
            SecretSource::Command(_) => return Err(format!("{field}: cannot be asked of a command")),
        };
        let mut value = HeaderValue::try_from(text.expose()).map_err(|_| format!("{field}: the value is no text"))?;
        value.set_sensitive(true);
        add.push((name(field)?, value));
    }
    Ok(Edits { remove, add })
}

fn first_line(path: &Path) -> Result<Secret, String> {
    let file = ownership::open(path).map_err(|why| format!("{}: {why}", path.display()))?;
    let text = std::io::read_to_string(file).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Secret::new(text.lines().next().unwrap_or_default().trim_end().to_owned()))
}

/// The upstreams of one table: routes to the same origin share theirs, and TLS settings are made once for each set of
/// certificate authorities, as reading the system's takes milliseconds.
#[derive(Default)]
struct Origins {
    settings: HashMap<Option<PathBuf>, Arc<ClientConfig>>,
    upstreams: Vec<Arc<UpstreamOrigin>>,
}

impl Origins {
    fn upstream(&mut self, route: &Route, extra_ca: Option<&PathBuf>) -> Result<Arc<UpstreamOrigin>, String> {
        let origin = &route.upstream.origin;
        let extra_ca = extra_ca.filter(|_| origin.tls);
        // the certificates, or, where there are none, what is wrong: such an upstream is the same as no other
        let authorities = extra_ca.map(|path| tls::authorities(path));
        let authorities = authorities.map(|found| {
            found.map_or_else(String::into_bytes, |found| found.iter().flat_map(|one| one.to_vec()).collect())
        });
        let known = self
            .upstreams
            .iter()
            .find(|known| known.origin == *origin && known.extra_ca == authorities && known.http2 == route.http2);
        if let Some(known) = known {
            return Ok(known.clone());
        }
        let tls = match (origin.tls, self.settings.get(&extra_ca.cloned())) {
            (false, _) => None,
            (true, Some(settings)) => Some(settings.clone()),
            (true, None) => {
                const ALPN: &[&[u8]] = &[b"http/1.1"];
                let path = extra_ca.map(PathBuf::as_path);
                // one account's file must not keep the others from being served
                let settings = match path.map(tls::authorities).transpose() {
                    Ok(_) => tls::client_config(path, ALPN)?,
                    Err(why) => tls::refusing_config(why, ALPN)?,
                };
                self.settings.insert(extra_ca.cloned(), settings.clone());
                Some(settings)
            }
        };
        let upstream = Arc::new(UpstreamOrigin::new(origin.clone(), tls, authorities, route.http2)?);
        self.upstreams.push(upstream.clone());
        Ok(upstream)
    }
}

fn pseudonym() -> Result<String, String> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| "the system's random numbers cannot be had".to_owned())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The running data plane. Dropping it ends it at once; [`Proxy::stop`] lets running requests end first.
pub struct Proxy {
    workers: Vec<Running>,
    table: Arc<Table>,
}

struct Running {
    commands: mpsc::UnboundedSender<Command>,
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

impl Proxy {
    /// Starts as many threads as the table's configuration says, all accepting on `listeners`. Without `peers`, clients
    /// on TCP are not asked who they are.
    ///
    /// # Errors
    ///
    /// If a thread, its runtime or another descriptor of a listener cannot be had.
    pub fn start(
        listeners: Vec<ProxyListener>,
        table: Table,
        stats: Arc<Stats>,
        peers: Option<PeerLookups>,
    ) -> io::Result<Proxy> {
        let table = Arc::new(table);
        let mut workers = Vec::with_capacity(table.workers);
        for index in 0..table.workers {
            workers.push(start_worker(index, table.clone(), stats.clone(), peers.clone())?);
        }
        let proxy = Proxy { workers, table };
        proxy.listen(listeners)?;
        Ok(proxy)
    }

    /// Serves by another table from the next request on. No connection is dropped, neither a client's nor one to an
    /// upstream that is still in the table. The number of threads stays.
    pub fn replace(&mut self, mut table: Table) {
        table.adopt(&self.table);
        self.table = Arc::new(table);
        self.tell(|| Command::Table(self.table.clone()));
    }

    /// Has the answers that valetd makes itself say so, or no longer: what is wrong with the configuration.
    pub fn advise(&mut self, config_problem: Option<String>) {
        if self.table.advice.config_problem == config_problem {
            return;
        }
        let mut table = Table::clone(&self.table);
        table.advice.config_problem = config_problem;
        self.table = Arc::new(table);
        self.tell(|| Command::Table(self.table.clone()));
    }

    /// Asks every worker for a sign of life. The future ends when all have given it, with whether all are still there;
    /// never, as long as one of them is stuck.
    pub fn ping(&self) -> impl Future<Output = bool> + Send + use<> {
        let ask = |worker: &Running| {
            let (reply, answer) = oneshot::channel();
            let _ = worker.commands.send(Command::Ping(reply));
            answer
        };
        let answers: Vec<_> = self.workers.iter().map(ask).collect();
        async move {
            let mut all = true;
            for answer in answers {
                all &= answer.await.is_ok();
            }
            all
        }
    }

    /// Accepts on `listeners` from here on, and on no others but those that are lent. Accepted connections go on. To
    /// keep a socket's queue of connections that wait to be accepted, hand in another descriptor of the same socket.
    ///
    /// # Errors
    ///
    /// If another descriptor of a listener cannot be had; then nothing has changed.
    pub fn listen(&self, listeners: Vec<ProxyListener>) -> io::Result<()> {
        let copies: Vec<Vec<_>> = self
            .workers
            .iter()
            .map(|_| listeners.iter().map(worker::duplicate).collect())
            .collect::<io::Result<_>>()?;
        for (worker, listeners) in self.workers.iter().zip(copies) {
            let _ = worker.commands.send(Command::Listen(listeners));
        }
        Ok(())
    }

    /// Accepts on one more listener, whatever [`Proxy::listen`] is told, until `ended`; then its connections are closed,
    /// wherever their requests are. Only `routes` exist there, by prefix and by host name.
    ///
    /// # Errors
    ///
    /// If another descriptor of the listener cannot be had; then nothing has changed.
    pub fn lend(&self, listener: &socket::Listener, routes: &[RouteName], ended: &Shutdown) -> io::Result<()> {
        let copies: Vec<_> = self.workers.iter().map(|_| listener.try_clone()).collect::<io::Result<_>>()?;
        for (worker, listener) in self.workers.iter().zip(copies) {
            let lent = Lent { routes: routes.to_vec(), ended: ended.clone() };
            let _ = worker.commands.send(Command::Lend(listener, lent));
        }
        Ok(())
    }

    /// Accepts no more, lets running requests end, closes what is left after `drain`, and returns when the threads have
    /// ended.
    pub async fn stop(self, drain: Duration) {
        self.tell(|| Command::Stop(drain));
        for worker in self.workers {
            let _ = worker.ended.await; // an error means that it ended by a panic
            let _ = worker.thread.join(); // has nothing left to do
        }
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            let _ = worker.commands.send(command()); // an error means that it ended by a panic
        }
    }
}

fn start_worker(index: usize, table: Arc<Table>, stats: Arc<Stats>, peers: Option<PeerLookups>) -> io::Result<Running> {
    let (commands, orders) = mpsc::unbounded_channel();
    let (started, has_started) = blocking_mpsc::sync_channel(1);
    let (ending, ended) = oneshot::channel();
    let thread = thread::Builder::new().name(format!("proxy-{index}")).spawn(move || {
        let runtime = match Builder::new_current_thread().enable_io().enable_time().build_local(LocalOptions::default())
        {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        let _ = started.send(Ok(()));
        runtime.block_on(async {
            let workers = table.workers;
            Worker::new(table, stats, peers.as_ref(), workers).run(orders).await;
        });
        // a name server that does not answer must not hold up the end
        runtime.shutdown_background();
        let _ = ending.send(());
    })?;
    has_started.recv().map_err(io::Error::other)??;
    Ok(Running { commands, ended, thread })
}
