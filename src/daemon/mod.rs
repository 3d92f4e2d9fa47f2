//! Builds, wires, starts, reloads, drains and stops the daemon.
//!
//! Three kinds of threads: this one (signals, the configuration, the control socket), the renewer's (so that a slow
//! disk delays no status query), and the data plane's workers. Everything that comes from the world (places, clock,
//! seed) comes in at the top, as [`Surroundings`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, error, info, warn};

use crate::accounts::Accounts;
use crate::audit::{self, Audit};
use crate::client_keys::{self, KeyRing, OwnAddress};
use crate::config::{AccountId, Audit as AuditSetting, Client, Config, ListenAddress, Problem, Problems, RouteName};
use crate::config_files;
use crate::control::events::Events;
use crate::control::report::{Facts, State, StatusReport};
use crate::control::{self, ControlState, LendRequest, ReloadRequest};
use crate::http_client::HttpClient;
use crate::notices;
use crate::platform::clock::Clock;
use crate::platform::containers::Containers;
use crate::platform::harden::{self, LANDLOCK, Measure};
use crate::platform::hints::NetworkWatch;
use crate::platform::listeners;
use crate::platform::log::LogHandle;
use crate::platform::paths::{OwnFolder, Paths};
use crate::platform::peer::{self, PeerLookup};
use crate::platform::socket::{self, Bound, Listener, SocketFile};
use crate::platform::systemd::Notifier;
use crate::platform::users;
use crate::platform::watch::ConfigWatch;
use crate::proxy::{Access, Peer, PeerLookups, Proxy, ProxyListener, Table};
use crate::renewer::{Parts, RenewerCommand, RenewerLoop, Sources};
use crate::shutdown::{Shutdown, ShutdownTrigger, shutdown};
use crate::stats::Stats;
use crate::store::Store;
use crate::token_endpoint::TokenEndpoint;
use crate::token_source::{Said, TokenSource};

/// What a daemon finds around it.
pub struct Surroundings {
    /// Where it finds and leaves things.
    pub paths: Paths,
    /// How a person calls the program so that it finds this daemon: `valetd`, and options for other places.
    pub invocation: String,
    /// Sockets that the service manager has opened, by name.
    pub inherited: Vec<(String, Listener)>,
    /// What a person should know about the process, in sentences.
    pub warnings: Vec<String>,
    /// Spreads renewals over machines; nothing secret hangs on it.
    pub seed: u64,
    /// What the process has given up already; then it is the daemon's own and can be confined, too. `None` if others use
    /// it as well.
    pub hardening: Option<Vec<Measure>>,
    /// The process's log, if its filter may be changed over the control socket.
    pub log: Option<LogHandle>,
}

/// The name of inherited sockets on which all routes are served.
const HTTP: &str = "http";

/// The name of the inherited control socket.
const CONTROL: &str = "control";

/// How long the workers may take to let go of a listener; one that is not stuck does so at once.
const LETTING_GO: Duration = Duration::from_secs(2);

/// What to wait between two looks whether they have: the port is nobody's in between, so not long.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// How often it is looked who has the half of `localhost` that we do not serve. One read of the kernel's tables; prime, to
/// stay out of step with everyone else's round numbers.
const LOOK: Duration = Duration::from_secs(61);

/// Runs a daemon until SIGTERM or SIGINT, on this thread and those that it starts.
///
/// # Errors
///
/// Those of [`Daemon::build`] and [`Daemon::serve`].
pub fn run(surroundings: Surroundings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async {
        let (stop, stopped) = shutdown();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let daemon = Daemon::build(surroundings)?;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stop.start();
        });
        daemon.serve(stopped).await
    })
}

/// A daemon that is bound and wired, and runs from here on.
pub struct Daemon {
    paths: Paths,
    clock: Arc<Clock>,
    stats: Arc<Stats>,
    notifier: Notifier,
    config: watch::Sender<Arc<Config>>,
    problems: watch::Sender<Vec<String>>,
    facts: watch::Sender<Facts>,
    sources: Sources,
    orders: mpsc::UnboundedSender<Said>,
    notices: mpsc::Sender<RenewerCommand>,
    accounts: Accounts,
    proxy: Proxy,
    listening: Vec<Listening>,
    control: Option<(UnixListener, Option<SocketFile>)>,
    reload_requests: (mpsc::Sender<ReloadRequest>, mpsc::Receiver<ReloadRequest>),
    lend_requests: (mpsc::Sender<LendRequest>, mpsc::Receiver<LendRequest>),
    renewer: JoinHandle<io::Result<()>>,
    renewer_stop: ShutdownTrigger,
    standing_warnings: Vec<String>,
    keys: Arc<KeyRing>,
    audit: Option<Audit>,
    /// What looks for containers, and whether it was started within the sandbox.
    containers: Option<(Containers, bool)>,
    /// What is strange about who may call, and about what a reload asked for that only a restart can bring.
    access_warnings: Vec<String>,
    /// What is strange about the configuration in force.
    config_warnings: Vec<String>,
    /// What we should listen on and do not.
    listen_failures: Vec<String>,
    /// Who has the half of `localhost` that we do not serve.
    strangers: Vec<String>,
    events: Arc<Events>,
    log: Option<LogHandle>,
}

/// One socket that the proxy accepts on.
struct Listening {
    /// As the configuration has it; `None` for one that the service manager opened, which is never closed.
    address: Option<ListenAddress>,
    /// The route that it belongs to, if it is not for all.
    route: Option<RouteName>,
    listener: Listener,
    _file: Option<SocketFile>,
}

/// What binding came to.
#[derive(Default)]
struct Binding {
    /// What is new.
    bound: Vec<Listening>,
    /// Addresses that another process has: whoever calls there would talk to it, so nothing is served beside it.
    taken: Vec<String>,
    /// What else could not be bound.
    failures: Vec<String>,
    /// Whether something waits for a listener of ours that is not wanted any more, on the same port: 127.0.0.1 and all
    /// addresses exclude each other.
    waits_for_ours: bool,
}

impl Daemon {
    /// Takes the lock, binds the sockets, loads the credentials and starts the threads. Must be called on a tokio
    /// runtime. A configuration that cannot be used does not keep it from starting: it serves its status, says what is
    /// wrong, and waits for a better one.
    ///
    /// # Errors
    ///
    /// What it cannot do without: the state folder and its lock, the control socket, one listener; and if an address that
    /// it should serve is taken by another process, whatever else could be served.
    pub fn build(surroundings: Surroundings) -> anyhow::Result<Self> {
        let Surroundings { paths, invocation, inherited, mut warnings, seed, hardening, log } = surroundings;
        let clock = Arc::new(Clock::start());
        let stats = Arc::new(Stats::default());
        let store = Arc::new(Store::open(&paths.state_dir)?);
        warnings.extend(store.warnings().iter().cloned());
        warnings.extend(paths.notes.iter().cloned());
        for warning in &warnings {
            warn!("{warning}");
        }

        let (config, config_warnings, problems) = match config_files::load(&paths) {
            Ok(parsed) => (parsed.config, said(parsed.warnings), Vec::new()),
            Err(problems) => {
                let problems = said(problems.0);
                error!("the configuration cannot be used; starting without accounts until it is mended");
                (config_files::empty(&paths), Vec::new(), problems)
            }
        };
        let mut config_warnings = config_warnings;
        config_warnings.extend(config_files::unusable_authorities(&config).into_iter().map(|words| {
            let words = format!("{words}; its requests fail until that is mended");
            error!("{words}");
            words
        }));
        let config = Arc::new(config);

        let (mut http, mut control) = (Vec::new(), None);
        for (name, listener) in inherited {
            match (name.as_str(), listener) {
                (HTTP, listener) => http.push(listener),
                (CONTROL, Listener::Unix(listener)) => control = Some((listener, None)),
                (_, listener) => warn!(name, ?listener, "an inherited socket has a name that means nothing to us"),
            }
        }
        let control = match control {
            Some(control) => control,
            None => bind_control(&paths.socket)?,
        };
        control.0.set_nonblocking(true)?;
        remove_lent_sockets(&paths.socket);
        let control = (UnixListener::from_std(control.0)?, control.1);

        let mut listening: Vec<Listening> =
            http.into_iter().map(|listener| Listening { address: None, route: None, listener, _file: None }).collect();
        // before the walls are drawn, which would hide the processes that have an address already
        let mut binding = bind_missing(&config, &listening, false);
        if !binding.taken.is_empty() {
            // where the configuration is unknown, so are its addresses: the control socket is enough to mend it
            if problems.is_empty() {
                return Err(anyhow!(binding.taken.join("; ")));
            }
            for words in &binding.taken {
                error!("{words}; nothing is served until the configuration is mended");
            }
            binding.bound.clear();
            binding.failures.append(&mut binding.taken);
        }
        listening.append(&mut binding.bound);

        let (keys, keys_problem) = KeyRing::load(store.clone(), clock.clone());
        let keys = Arc::new(keys);
        warnings.extend(keys_problem.inspect(|problem| warn!("{problem}")));
        // its thread first: what it looks for, the processes of clients, the walls would hide from it
        let audit = match audit_settings(&config, &paths) {
            Some(settings) => Some(Audit::start(settings, stats.clone()).context("starting the audit's thread")?),
            None => None,
        };
        let containers = match config.containers_need_key {
            true => Some(Containers::start().context("starting the thread that looks for containers")?),
            false => None,
        };
        let mut hardening = hardening;
        if let Some(measures) = &mut hardening {
            measures.push(confinement(&config, &problems, &paths, audit.is_some(), containers.is_some()));
            warnings.extend(harden::warning(measures).inspect(|warning| warn!("{warning}")));
        }
        let (access, access_warnings) = access(&config, &keys, audit.as_ref(), containers.as_ref());

        let (orders, ordered) = mpsc::unbounded_channel();
        let (notices, noticed) = mpsc::channel(8);
        let sources = sources(&config, &config, &Sources::new(), &clock, &orders);
        let parts = Parts {
            clock: clock.clone(),
            store,
            endpoint: TokenEndpoint::new(HttpClient::from_environment()),
            config: config.clone(),
            sources: sources.clone(),
            demands: ordered,
            notices: noticed,
            seed,
        };
        let (renewer, accounts) = RenewerLoop::new(parts);

        let table = table(&config, &sources, &stats).map_err(|error| anyhow!(error))?.with_access(access);
        let mut proxy = Proxy::start(Vec::new(), table, stats.clone(), Some(peer_lookups()))?;
        proxy.advise(advice(&problems, &paths, &invocation));
        let started_at = clock.now();
        let facts = Facts {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            started_at,
            config_file: paths.config_file.clone(),
            state_dir: paths.state_dir.clone(),
            listen: Vec::new(),
            route_listen: BTreeMap::new(),
            warnings: Vec::new(),
            audit: audit.as_ref().map(|audit| audit.path().to_owned()),
            hardening: hardening.unwrap_or_default(),
            invocation,
        };
        let (renewer_stop, renewer_shutdown) = shutdown();
        let renewer = std::thread::Builder::new()
            .name("renewer".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(renewer.run(renewer_shutdown))
            })
            .context("starting the renewer's thread")?;

        let mut daemon = Self {
            paths,
            clock,
            stats,
            notifier: Notifier::from_environment(),
            config: watch::Sender::new(config.clone()),
            problems: watch::Sender::new(problems),
            facts: watch::Sender::new(facts),
            sources,
            orders,
            notices,
            accounts,
            proxy,
            listening,
            control: Some(control),
            reload_requests: mpsc::channel(8),
            lend_requests: mpsc::channel(8),
            renewer,
            renewer_stop,
            standing_warnings: warnings,
            keys,
            audit,
            containers: containers.map(|containers| (containers, false)),
            access_warnings,
            config_warnings,
            listen_failures: Vec::new(),
            strangers: Vec::new(),
            events: Arc::new(Events::starting_after(started_at.as_millis())),
            log,
        };
        daemon.listen(&config, binding);
        let is_configured = daemon.problems.borrow().is_empty();
        if is_configured && daemon.facts.borrow().listen.is_empty() && !daemon.listen_failures.is_empty() {
            return Err(anyhow!(daemon.listen_failures.join("; ")));
        }
        Ok(daemon)
    }

    /// The control socket's view of it, for the status.
    pub fn control_state(&self) -> ControlState {
        ControlState {
            accounts: self.accounts.clone(),
            stats: self.stats.clone(),
            clock: self.clock.clone(),
            config: self.config.subscribe(),
            config_problems: self.problems.subscribe(),
            facts: self.facts.subscribe(),
            reload: self.reload_requests.0.clone(),
            lend: self.lend_requests.0.clone(),
            keys: self.keys.clone(),
            events: self.events.clone(),
            log: self.log.clone(),
        }
    }

    /// Serves until the stop has started; then drains: running requests end, renewals in flight are waited for.
    ///
    /// # Errors
    ///
    /// If the renewer ends on its own, or the kernel refuses what cannot be done without.
    pub async fn serve(mut self, mut shutdown: Shutdown) -> anyhow::Result<()> {
        let (control_stop, control_shutdown) = crate::shutdown::shutdown();
        let (listener, _control_file) = self.control.take().expect("build put it there, and serve consumes self");
        let state = self.control_state();
        let control = tokio::spawn(control::serve(listener, state.clone(), control_shutdown));
        let notices = notices::Parts {
            accounts: self.accounts.clone(),
            config: self.config.subscribe(),
            clock: self.clock.clone(),
            state_dir: self.paths.state_dir.clone(),
            invocation: self.facts.borrow().invocation.clone(),
        };
        let noticing = tokio::spawn(notices::watch(notices, shutdown.clone()));
        let keeping_time = tokio::spawn(client_keys::keep_time(self.keys.clone(), shutdown.clone()));
        let mut network = NetworkWatch::new();
        let mut files = ConfigWatch::new(self.watched());
        let mut hangup = signal(SignalKind::hangup())?;
        let mut watchdog = self.notifier.watchdog_interval().map(tokio::time::interval);
        let mut all_alive = None;
        let mut look = tokio::time::interval_at(tokio::time::Instant::now() + LOOK, LOOK);
        let mut accounts = self.accounts.clone();
        let mut told = String::new();
        for address in &self.facts.borrow().listen {
            info!(%address, "listening");
        }
        self.notifier.ready();
        loop {
            // the watchdog's beat keeps it true while nothing else happens
            if self.notifier.has_manager() {
                let words = status_line(&state.report());
                if words != told {
                    self.notifier.status(&words);
                    told = words;
                }
            }
            tokio::select! {
                () = shutdown.started() => break,
                _ = accounts.changed() => {
                    if self.renewer.is_finished() {
                        break;
                    }
                }
                _ = hangup.recv() => {
                    files = ConfigWatch::new(self.watched()); // what is read now is no change later
                    let _ = self.reload().await;
                    files.follow(self.watched());
                }
                () = network.changed() => {
                    debug!("the network has changed");
                    let _ = self.notices.send(RenewerCommand::NetworkChanged).await;
                }
                () = files.changed() => {
                    info!("the configuration has changed");
                    let _ = self.reload().await;
                    files.follow(self.watched());
                }
                Some(reply) = self.reload_requests.1.recv() => {
                    files = ConfigWatch::new(self.watched());
                    let outcome = self.reload().await;
                    files.follow(self.watched());
                    let _ = reply.send(outcome);
                }
                Some(LendRequest { routes, reply }) = self.lend_requests.1.recv() => {
                    let _ = reply.send(self.lend(&routes)); // what nobody waits for any more is closed by its drop
                }
                _ = look.tick(), if !self.lone_halves().is_empty() => {
                    self.look_for_strangers();
                    self.warn();
                }
                // the manager hears of us only when the other threads have answered, too
                () = tick(&mut watchdog), if all_alive.is_none() => all_alive = Some(Box::pin(self.signs_of_life())),
                alive = answered(&mut all_alive) => {
                    all_alive = None;
                    match alive {
                        true => self.notifier.watchdog(),
                        false => error!("a thread has ended badly; the service manager is left to start us anew"),
                    }
                }
            }
        }
        self.notifier.stopping();
        info!("stopping");
        self.lend_requests.1.close();
        let drain = self.config.borrow().drain;
        self.listening.clear(); // or clients would still connect, and wait for nobody; systemd's sockets queue for the next
        // the renewer last: a running request may still wait for the token that it brings
        self.proxy.stop(drain).await;
        self.renewer_stop.start();
        let renewer = self.renewer;
        let ended = tokio::task::spawn_blocking(move || renewer.join()).await?;
        control_stop.start();
        let _ = control.await;
        let _ = noticing.await;
        let _ = keeping_time.await;
        match ended {
            Ok(Ok(())) if shutdown.has_started() => Ok(()),
            Ok(Ok(())) => Err(anyhow!("the renewer ended on its own")),
            Ok(Err(error)) => Err(anyhow!(error).context("the renewer ended")),
            Err(_) => Err(anyhow!("the renewer ended badly")),
        }
    }

    /// Ends when the renewer and every worker of the proxy have answered, with whether all are there; never, as long as
    /// one of them is stuck.
    fn signs_of_life(&self) -> impl Future<Output = bool> + use<> {
        let (reply, renewer) = oneshot::channel();
        let notices = self.notices.clone();
        let workers = self.proxy.ping();
        async move {
            let asked = notices.send(RenewerCommand::Ping(reply)).await.is_ok();
            asked && renewer.await.is_ok() && workers.await
        }
    }

    /// What a configuration is read from. Files of certificate authorities belong to it, as those who renew them tell nobody.
    fn watched(&self) -> Vec<PathBuf> {
        let config = self.config.borrow();
        let accounts = config.accounts.values().filter_map(|account| account.extra_ca.clone());
        let routes = config.routes.iter().filter_map(|route| route.extra_ca.clone());
        let authorities: BTreeSet<PathBuf> = accounts.chain(routes).collect();
        [self.paths.config_file.clone(), self.paths.providers_dir.clone()].into_iter().chain(authorities).collect()
    }

    /// Takes over a new configuration whole, or keeps the one in force and says why.
    async fn reload(&mut self) -> Result<(), Vec<String>> {
        self.notifier.reloading();
        let outcome = self.take_over().await;
        match &outcome {
            Ok(()) => info!("the configuration is in force"),
            Err(problems) => {
                error!(problems = problems.len(), "the configuration cannot be used; the last good one stays in force");
                for problem in problems {
                    error!("{problem}");
                }
                self.problems.send_replace(problems.clone());
                let invocation = self.facts.borrow().invocation.clone();
                self.proxy.advise(advice(problems, &self.paths, &invocation));
            }
        }
        self.notifier.ready();
        outcome
    }

    async fn take_over(&mut self) -> Result<(), Vec<String>> {
        let parsed = config_files::load(&self.paths).map_err(|Problems(problems)| texts(&problems))?;
        let config = Arc::new(parsed.config);
        let unusable = config_files::unusable_authorities(&config);
        if !unusable.is_empty() {
            return Err(unusable);
        }
        let sources = sources(&config, &self.config.borrow(), &self.sources, &self.clock, &self.orders);
        let table = table(&config, &sources, &self.stats).map_err(|error| vec![error])?;
        // first of all: where a new address cannot be had, the old ones stay, and so does the rest
        let binding = bind_missing(&config, &self.listening, self.is_confined());
        let Binding { taken, failures, waits_for_ours, .. } = &binding;
        if !taken.is_empty() || !failures.is_empty() {
            let again = taken.iter().map(|words| format!("{words}; then reload"));
            return Err(again.chain(failures.iter().cloned()).collect());
        }
        let waits_for_ours = *waits_for_ours;
        let ended_audit = self.follow_audit(&config).map_err(|error| vec![error])?;
        self.follow_containers(&config).map_err(|error| vec![error])?;
        let containers = self.containers.as_ref().map(|(containers, _)| containers);
        let (access, mut access_warnings) = access(&config, &self.keys, self.audit.as_ref(), containers);
        access_warnings.extend(self.beyond_the_walls(&config));
        self.access_warnings = access_warnings;
        let table = table.with_access(access);
        // the renewer first: a token that must not be used any more is withdrawn before a route could take it elsewhere
        let (done, configured) = oneshot::channel();
        let _ = self.notices.send(RenewerCommand::Configure(config.clone(), sources.clone(), done)).await;
        let _ = configured.await;
        // what was asked before, and has no token yet, must not carry one of now to where it was going
        let before = std::mem::replace(&mut self.sources, sources);
        for (id, source) in &before {
            if self.sources.get(id).is_none_or(|now| now.id() != source.id()) {
                source.end();
            }
        }
        self.proxy.replace(table);
        drop(ended_audit);
        self.config.send_replace(config.clone());
        self.problems.send_replace(Vec::new());
        self.config_warnings = said(parsed.warnings);
        self.listen(&config, binding);
        if waits_for_ours {
            self.follow_ours(&config).await;
        }
        if self.listen_failures.is_empty() { Ok(()) } else { Err(self.listen_failures.clone()) }
    }

    /// Binds what had to wait until a listener of ours is closed, which is when the last worker has let go of it.
    async fn follow_ours(&mut self, config: &Config) {
        let deadline = tokio::time::Instant::now() + LETTING_GO;
        loop {
            let mut binding = bind_missing(config, &self.listening, self.is_confined());
            if binding.taken.is_empty() || tokio::time::Instant::now() > deadline {
                // nothing is left of the old address to go back to
                binding.failures.append(&mut binding.taken);
                return self.listen(config, binding);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Starts, moves or stops the audit as the configuration says; in any case its file is opened anew. Returns the one
    /// that is to end when nobody writes to it any more.
    fn follow_audit(&mut self, config: &Config) -> Result<Option<Audit>, String> {
        let ended = match (audit_settings(config, &self.paths), &mut self.audit) {
            (Some(settings), Some(audit)) => {
                audit.reopen(settings);
                None
            }
            (Some(settings), none) => {
                let started = Audit::start(settings, self.stats.clone());
                *none = Some(started.map_err(|error| format!("cannot start the audit's thread: {error}"))?);
                None
            }
            (None, running) => running.take(),
        };
        let file = self.audit.as_ref().map(|audit| audit.path().to_owned());
        self.facts.send_modify(|facts| facts.audit = file);
        Ok(ended)
    }

    /// Starts what looks for containers, if the configuration asks for it. Within the sandbox it finds none, and every
    /// client needs a key.
    fn follow_containers(&mut self, config: &Config) -> Result<(), String> {
        if config.containers_need_key && self.containers.is_none() {
            let started = Containers::start();
            let failed = |error| format!("cannot start the thread that looks for containers: {error}");
            self.containers = Some((started.map_err(failed)?, self.is_confined()));
        }
        Ok(())
    }

    fn is_confined(&self) -> bool {
        self.facts.borrow().hardening.iter().any(|measure| measure.name == LANDLOCK && measure.in_force)
    }

    /// What the configuration asks for that the walls drawn at the start do not let through.
    fn beyond_the_walls(&self, config: &Config) -> Vec<String> {
        let program = config.starts_programs().filter(|_| self.is_confined()).map(|setting| {
            format!(
                "{setting} is a command, and the sandbox was drawn at the start without one: restart valetd, or it cannot run"
            )
        });
        let is_blind =
            config.containers_need_key && self.containers.as_ref().is_some_and(|(_, is_confined)| *is_confined);
        let containers = is_blind.then(|| {
            "containers_need_key was switched on after the sandbox had been drawn, from within which no client can be seen \
             to run outside of containers: restart valetd; until then every client needs a key"
                .to_owned()
        });
        program.into_iter().chain(containers).inspect(|warning| warn!("{warning}")).collect()
    }

    /// Opens an address for a command, where `routes` exist and no others: on 127.0.0.1, or, where no TCP address is
    /// served, a unix socket.
    fn lend(&self, routes: &[RouteName]) -> Result<OwnAddress, String> {
        let is_unix = |address: &ListenAddress| matches!(address, ListenAddress::Unix(_));
        let listen = &self.facts.borrow().listen;
        let address = match !listen.is_empty() && listen.iter().all(is_unix) {
            true => ListenAddress::Unix(lent_socket(&self.paths.socket)?),
            false => ListenAddress::Tcp((Ipv4Addr::LOCALHOST, 0).into()),
        };
        let Bound { listener, file } = socket::bind(&address).map_err(|error| error.to_string())?;
        if let ListenAddress::Unix(path) = &address {
            open_to_others(path, serves_others(&self.config.borrow()));
        }
        let (serving, ended) = shutdown();
        let lent = listener.local_addr().and_then(|address| {
            self.proxy.lend(&listener, routes, &ended)?;
            Ok(OwnAddress { address, serving, file })
        });
        lent.map_err(|error| error.to_string())
    }

    /// Serves what is newly bound, closes what the configuration no longer lists, and says what could not be bound.
    fn listen(&mut self, config: &Config, binding: Binding) {
        let Binding { bound, taken: _, failures, waits_for_ours: _ } = binding;
        self.listening.extend(bound);
        let wanted = wanted(config, &self.listening);
        self.listening.retain_mut(|listening| {
            let Some(address) = &listening.address else { return true };
            let Some((_, route)) = wanted.iter().find(|(wanted, _)| wanted == address) else { return false };
            listening.route.clone_from(route);
            true
        });
        self.listen_failures = failures;
        for words in &self.listen_failures {
            error!("{words}");
        }
        let others = serves_others(config);
        for listening in &self.listening {
            if let Some(ListenAddress::Unix(path)) = &listening.address {
                open_to_others(path, others);
            }
        }
        let copies = self.listening.iter().map(|listening| {
            let route = listening.route.clone();
            listening.listener.try_clone().map(|listener| ProxyListener { socket: listener, route })
        });
        if let Err(error) = copies.collect::<io::Result<Vec<_>>>().and_then(|listeners| self.proxy.listen(listeners)) {
            self.listen_failures.push(format!("cannot hand the listening sockets to the workers: {error}"));
        }
        self.facts.send_modify(|facts| {
            facts.listen.clear();
            facts.route_listen.clear();
            for Listening { route, listener, .. } in &self.listening {
                let Ok(address) = listener.local_addr() else { continue };
                match route {
                    Some(route) => {
                        facts.route_listen.insert(route.clone(), address);
                    }
                    None => facts.listen.push(address),
                }
            }
        });
        self.look_for_strangers();
        self.warn();
    }

    /// What a person should look at some day, as it is now.
    fn warn(&self) {
        let warnings = [
            &self.standing_warnings,
            &self.config_warnings,
            &self.listen_failures,
            &self.strangers,
            &self.access_warnings,
        ];
        let warnings: Vec<String> = warnings.into_iter().flatten().cloned().collect();
        self.facts.send_if_modified(|facts| {
            let is_news = facts.warnings != warnings;
            facts.warnings = warnings;
            is_news
        });
    }

    /// The addresses that `localhost` stands for besides those that we serve.
    fn lone_halves(&self) -> Vec<SocketAddr> {
        let served: Vec<SocketAddr> = self
            .listening
            .iter()
            .filter_map(|listening| match listening.listener.local_addr() {
                Ok(ListenAddress::Tcp(address)) => Some(address),
                Ok(ListenAddress::Unix(_)) | Err(_) => None,
            })
            .collect();
        let halves = served.iter().filter_map(|address| listeners::other_half(*address));
        halves.filter(|half| !served.iter().any(|served| covers(*served, *half))).collect()
    }

    /// Whether another user has the half of `localhost` that we do not serve: some of what tools send to `localhost` goes
    /// there. Who comes later is found at the next look.
    fn look_for_strangers(&mut self) {
        let found = self.lone_halves().into_iter().filter_map(listeners::occupant);
        let words = found.filter(|occupant| occupant.uid != peer::own_uid()).map(|occupant| {
            format!(
                "what tools send to http://localhost:{} may go to {occupant}: have it ended, or list 127.0.0.1 and [::1] \
                 both in `listen` with a port that is free",
                occupant.address.port()
            )
        });
        let strangers: Vec<String> = words.collect();
        for words in strangers.iter().filter(|words| !self.strangers.contains(words)) {
            error!("{words}");
        }
        self.strangers = strangers;
    }
}

/// Whether processes of other users may be served on a unix socket: the file's mode is not to keep them out.
fn serves_others(config: &Config) -> bool {
    config.clients.iter().any(|client| !matches!(client, Client::Own | Client::Root))
        || config.routes.iter().any(|route| route.require_key)
}

/// What follows the name of the control socket in those of the sockets that commands are lent.
const LENT: &str = ".exec-";

/// A unix socket for a command, beside the control socket. Its name does not come back: who still knows it after a
/// restart must not find another command's routes.
fn lent_socket(control: &Path) -> Result<PathBuf, String> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| "the system's random numbers cannot be had".to_owned())?;
    let mut name = control.file_name().unwrap_or_default().to_owned();
    name.push(LENT);
    name.push(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    Ok(control.with_file_name(name))
}

/// Removes the sockets that a daemon had lent to commands when it was killed.
#[expect(clippy::disallowed_methods, reason = "sockets that nobody listens on")]
fn remove_lent_sockets(control: &Path) {
    let Some(prefix) = control.file_name().and_then(|name| name.to_str()).map(|name| format!("{name}{LENT}")) else {
        return;
    };
    let entries = control.parent().and_then(|folder| std::fs::read_dir(folder).ok());
    for entry in entries.into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// What a configuration wants to be listened on, and for which route. Sockets of the service manager stand in place of
/// the common addresses.
fn wanted(config: &Config, listening: &[Listening]) -> Vec<(ListenAddress, Option<RouteName>)> {
    let mut wanted = Vec::new();
    if listening.iter().all(|listening| listening.address.is_some()) {
        wanted.extend(config.listen.iter().map(|address| (address.clone(), None)));
    }
    for route in &config.routes {
        wanted.extend(route.listen.iter().map(|address| (address.clone(), Some(route.name.clone()))));
    }
    wanted
}

/// Binds what the configuration lists and is not in `listening`.
fn bind_missing(config: &Config, listening: &[Listening], is_confined: bool) -> Binding {
    let mut binding = Binding::default();
    let wanted = wanted(config, listening);
    let stays = |ours: &ListenAddress| wanted.iter().any(|(address, _)| address == ours);
    for (address, route) in wanted.clone() {
        let ours = || listening.iter().chain(&binding.bound).filter_map(|listening| listening.address.as_ref());
        if ours().any(|other| *other == address) {
            continue;
        }
        match socket::bind(&address) {
            Ok(Bound { listener, file }) => {
                binding.bound.push(Listening { address: Some(address), route, listener, _file: file });
            }
            Err(error) if is_optional(&address, &error) => debug!(%address, %error, "not to be had here"),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                // our own socket on all addresses is in the way of one on a single one, and the other way round
                let in_the_way: Vec<&ListenAddress> = ours().filter(|other| overlap(other, &address)).collect();
                if in_the_way.is_empty() {
                    binding.taken.push(error.to_string());
                } else if in_the_way.into_iter().any(stays) {
                    binding.failures.push(error.to_string());
                } else {
                    binding.waits_for_ours = true;
                }
            }
            Err(error)
                if is_confined
                    && matches!(address, ListenAddress::Unix(_))
                    && error.kind() == io::ErrorKind::PermissionDenied =>
            {
                let words = format!("{error} (or restart valetd: its sandbox was drawn without this folder)");
                binding.failures.push(words);
            }
            Err(error) => binding.failures.push(error.to_string()),
        }
    }
    binding
}

/// Whether a TCP listener on `served` takes the connections to `address`, too.
fn covers(served: SocketAddr, address: SocketAddr) -> bool {
    let all = served.ip().is_unspecified() && (served.is_ipv6() || address.is_ipv4());
    served.port() == address.port() && (served.ip() == address.ip() || all)
}

fn overlap(one: &ListenAddress, other: &ListenAddress) -> bool {
    match (one, other) {
        (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) => covers(*one, *other) || covers(*other, *one),
        (ListenAddress::Unix(_), _) | (_, ListenAddress::Unix(_)) => false,
    }
}

/// Where the audit goes and how much of it is kept, if there is to be one.
fn audit_settings(config: &Config, paths: &Paths) -> Option<audit::Settings> {
    let path = match &config.audit {
        AuditSetting::Off => return None,
        AuditSetting::StateFolder => paths.state_dir.join("audit.jsonl"),
        AuditSetting::File(file) => file.clone(),
    };
    let Config { audit_required: is_required, audit_size: size, audit_keep: keep, .. } = *config;
    Some(audit::Settings { path, size, keep, is_required })
}

/// Who may call, and what could not be found out about that, in sentences.
fn access(
    config: &Config,
    keys: &Arc<KeyRing>,
    audit: Option<&Audit>,
    containers: Option<&Containers>,
) -> (Access, Vec<String>) {
    let (uids, problems) = users::resolve(&config.clients);
    for problem in &problems {
        warn!("{problem}");
    }
    let access = Access {
        uids: uids.into_iter().collect(),
        keys: keys.clone(),
        containers: containers.filter(|_| config.containers_need_key).cloned(),
        audit: audit.map(Audit::log),
        audit_required: config.audit_required,
    };
    (access, problems)
}

/// Gives up what the daemon does not need of the system, unless that would break what the configuration asks for.
fn confinement(
    config: &Config,
    problems: &[String],
    paths: &Paths,
    is_audited: bool,
    looks_for_containers: bool,
) -> Measure {
    if !config.sandbox {
        return Measure::waived(LANDLOCK, "switched off (sandbox = false)");
    }
    if !problems.is_empty() && config.accounts.is_empty() {
        return Measure::waived(
            LANDLOCK,
            "not drawn, since the configuration could not be used at the start: restart valetd",
        );
    }
    if let Some(setting) = config.starts_programs() {
        return Measure::waived(LANDLOCK, format!("not drawn, since {setting} is a command, which would inherit it"));
    }
    let own = config.routes.iter().filter_map(|route| route.listen.as_ref());
    let sockets = config.listen.iter().chain(own).filter_map(|address| match address {
        ListenAddress::Unix(path) => Some(path.as_path()),
        ListenAddress::Tcp(_) => None,
    });
    let sockets = sockets.chain([paths.socket.as_path()]);
    let mut folders: Vec<PathBuf> = sockets.filter_map(Path::parent).map(Path::to_owned).collect();
    for folder in &folders {
        let _ = OwnFolder::open_or_make(folder); // binding will say what is wrong with it
    }
    folders.push(paths.state_dir.clone());
    let mut measure = harden::confine(&folders);
    if measure.in_force {
        measure.detail += match (is_audited, looks_for_containers) {
            (false, false) => "",
            (true, false) => "; but for the audit's thread, which looks for the processes of clients",
            (false, true) => "; but for the thread that looks for the processes of clients",
            (true, true) => "; but for two threads, the audit's and another, which look for the processes of clients",
        };
    }
    measure
}

/// Lets other users connect to a socket, who are then asked who they are; or nobody else.
#[expect(clippy::disallowed_methods, reason = "the socket that was bound just now")]
fn open_to_others(path: &Path, others: bool) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(if others { 0o666 } else { 0o600 });
    if let Err(error) = std::fs::set_permissions(path, mode) {
        warn!(path = %path.display(), %error, "cannot change the mode of a socket");
    }
}

/// IPv6's loopback is listed by default, and not every machine has it.
fn is_optional(address: &ListenAddress, error: &io::Error) -> bool {
    let unavailable = matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT);
    matches!(address, ListenAddress::Tcp(tcp) if tcp.is_ipv6()) && unavailable
}

fn bind_control(path: &Path) -> anyhow::Result<(std::os::unix::net::UnixListener, Option<SocketFile>)> {
    let bound = socket::bind(&ListenAddress::Unix(path.to_owned())).context("the control socket")?;
    match bound.listener {
        Listener::Unix(listener) => Ok((listener, bound.file)),
        Listener::Tcp(_) => unreachable!("a path is bound as a unix socket"),
    }
}

/// Asks the kernel who is at the other end of each connection; every worker has a way of its own.
fn peer_lookups() -> PeerLookups {
    Arc::new(|| {
        let mut lookup = PeerLookup::new();
        Box::new(move |client, server| lookup.tcp_uid(client, server).map_or(Peer::Gone, Peer::Uid))
    })
}

/// A source for each account; accounts whose tokens are the same and go to the same places as in the configuration
/// before keep theirs.
fn sources(
    config: &Config,
    before: &Config,
    last: &Sources,
    clock: &Arc<Clock>,
    orders: &mpsc::UnboundedSender<Said>,
) -> Sources {
    let source = |id: &AccountId| {
        let kept = last.get(id).filter(|_| before.leaves_in_place(config, id)).cloned();
        kept.unwrap_or_else(|| TokenSource::new(id.clone(), clock.clone(), orders.clone()))
    };
    config.accounts.keys().map(|id| (id.clone(), source(id))).collect()
}

fn table(config: &Config, sources: &Sources, stats: &Stats) -> Result<Table, String> {
    let source = |id: &_| sources.get(id).cloned().expect("Config::parse saw to it that routes name accounts");
    Table::build(config, &source, stats).map_err(|error| error.to_string())
}

fn texts(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// Logs problems and returns them as texts.
fn said(problems: Vec<Problem>) -> Vec<String> {
    for problem in &problems {
        warn!("{problem}");
    }
    texts(&problems)
}

/// What answers of our own say while the configuration file cannot be used.
fn advice(problems: &[String], paths: &Paths, invocation: &str) -> Option<String> {
    let first = problems.first()?.lines().next().unwrap_or_default();
    let file = paths.config_file.display();
    Some(format!("The configuration {file} cannot be used: {first}. For all of it, run: {invocation} check"))
}

/// One line for `systemctl --user status`.
fn status_line(report: &StatusReport) -> String {
    let needs_person = report.accounts.iter().filter(|account| account.state == State::SignInRequired).count();
    let next = report.accounts.iter().filter_map(|a| a.next_wakeup.as_ref().map(|next| (next.in_seconds, &a.id))).min();
    let accounts = match report.accounts.len() {
        0 => "no accounts".to_owned(),
        1 => "1 account".to_owned(),
        many => format!("{many} accounts"),
    };
    let mut words = vec![accounts];
    if !report.daemon.config_problems.is_empty() {
        words.insert(0, "the configuration has problems (see valetd status)".to_owned());
    }
    if needs_person > 0 {
        words.push(format!("{needs_person} must be signed in to (see valetd status)"));
    }
    if report.accounts.iter().any(|account| account.credential.as_ref().is_some_and(|credential| !credential.saved)) {
        words.push("a refresh token is not saved".to_owned());
    }
    if let Some((seconds, id)) = next {
        words.push(format!("next renewal {id} {}", coarse(seconds)));
    }
    words.join(", ")
}

/// So coarse that the line need not be said anew all the time.
fn coarse(seconds: u64) -> String {
    match seconds {
        ..60 => "in less than a minute".to_owned(),
        60..5400 => format!("in {} min", seconds / 60),
        5400..172_800 => format!("in {} h", seconds / 3600),
        _ => format!("in {} days", seconds / 86_400),
    }
}

/// What a future says, once there is one.
async fn answered<F: Future + Unpin>(question: &mut Option<F>) -> F::Output {
    match question {
        Some(question) => question.await,
        None => std::future::pending().await,
    }
}

async fn tick(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}
