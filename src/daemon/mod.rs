//! Builds, wires, starts, reloads, drains and stops the daemon.
//!
//! Four kinds of threads: this one (signals, the configuration, the control socket), the renewer's, the store's (so that a
//! slow disk delays no renewal and no sign of life), and the data plane's workers. Everything that comes from the world (places, clock,
//! seed) comes in at the top, as [`Surroundings`].
//!
//! * `running`: the parts, and what a reload changes of them;
//! * `listeners`, `own_address`, `control_socket`: what is bound;
//! * `confinement` and `observers`: the sandbox, and the threads that stay outside of it;
//! * `metadata`: what is known of issuers, kept fresh;
//! * `renewer_thread`, `key_keeper`, `auto_lock`, `watchdog`, `wiring`, `warnings`, `status_line`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval_at};
use tracing::{debug, error, info, warn};

use crate::accounts::Accounts;
use crate::client_keys::{self, KeyRing};
use crate::config::{Config, Parsed, Problem, Problems, Proxies};
use crate::config_files;
use crate::control::events::Events;
use crate::control::report::Facts;
use crate::control::{self, ControlState, LendRequest, ReloadRequest};
use crate::http_client::HttpClient;
use crate::notices;
use crate::platform::asked;
use crate::platform::clock::Clock;
use crate::platform::environment;
use crate::platform::harden::{self, Measure};
use crate::platform::hints::NetworkWatch;
use crate::platform::log::LogHandle;
use crate::platform::paths::Paths;
use crate::platform::socket::Listener;
use crate::platform::systemd::Notifier;
use crate::platform::watch::ConfigWatch;
use crate::proxy::Proxy;
use crate::renewer::{RenewerLoop, RenewerParts, Sources};
use crate::shutdown::{Shutdown, shutdown};
use crate::stats::Stats;
use crate::store::{Store, open_store_at_once};
use crate::token_endpoint::TokenEndpoint;

mod auto_lock;
mod confinement;
mod control_socket;
mod key_keeper;
mod listeners;
mod metadata;
mod observers;
mod own_address;
mod renewer_thread;
mod running;
mod status_line;
mod warnings;
mod watchdog;
mod wiring;

use control_socket::{ControlSocket, Inherited};
pub(crate) use listeners::other_than_listed;
use listeners::{Binding, Listeners};
use observers::Observers;
use renewer_thread::RenewerThread;
use running::{Published, Running};
use status_line::status_line;
use warnings::{Warnings, said};
use watchdog::Watchdog;

/// What a daemon finds around it.
pub(crate) struct Surroundings {
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

/// How often it is looked who has the half of `localhost` that we do not serve. One read of the kernel's tables; prime, to
/// stay out of step with everyone else's round numbers.
const LOCALHOST_CHECK_INTERVAL: Duration = Duration::from_secs(61);

/// Runs a daemon until SIGTERM or SIGINT, on this thread and those that it starts.
///
/// # Errors
///
/// Those of [`Daemon::build`] and [`Daemon::serve`].
pub(crate) fn run(surroundings: Surroundings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let ended = runtime.block_on(async {
        let (stop, stopped) = shutdown();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        asked::stops_in_order();
        let daemon = Daemon::build(surroundings)?;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stop.start();
        });
        daemon.serve(stopped).await
    });
    // whoever is asked for the store's key, and does not reply, is not waited for
    runtime.shutdown_timeout(LAST_WORK);
    ended
}

/// For work on the disk that is under way when everything else has ended.
const LAST_WORK: Duration = Duration::from_secs(1);

/// A daemon that is bound and wired, and runs from here on.
pub(crate) struct Daemon {
    running: Running,
    control: ControlSocket,
    requests: Requests,
}

/// What clients of the control socket ask of the daemon itself.
struct Requests {
    reload: mpsc::Receiver<ReloadRequest>,
    lend: mpsc::Receiver<LendRequest>,
}

/// The configuration to start with, and what is to be said of it.
struct Start {
    config: Arc<Config>,
    /// What is strange about it; or why it is none that the user wrote.
    outcome: Result<Vec<Problem>, Vec<Problem>>,
}

impl Start {
    fn read(paths: &Paths) -> Self {
        match config_files::load(paths) {
            Ok(Parsed { config, warnings }) => Self { config: Arc::new(config), outcome: Ok(warnings) },
            Err(Problems(problems)) => Self { config: Arc::new(config_files::empty(paths)), outcome: Err(problems) },
        }
    }

    /// Logs what is to be said. Returns the configuration, and why it is none that the user wrote.
    fn say(self, warnings: &mut Warnings) -> (Arc<Config>, Vec<String>) {
        let problems = match self.outcome {
            Ok(strange) => {
                warnings.config = said(strange);
                warnings.config.extend(config_files::unusable_authorities(&self.config).into_iter().map(|words| {
                    let words = format!("{words}; its requests fail until that is mended");
                    error!("{words}");
                    words
                }));
                Vec::new()
            }
            Err(problems) => {
                let problems = said(problems);
                error!("the configuration cannot be used; starting without accounts until it is mended");
                problems
            }
        };
        (self.config, problems)
    }
}

impl Daemon {
    /// Reads the configuration, takes the lock, binds the sockets, loads the credentials and starts the threads. Must be
    /// called on a tokio runtime. A configuration that cannot be used does not keep it from starting: it serves its
    /// status, says what is wrong, and waits for a better one.
    ///
    /// # Errors
    ///
    /// What it cannot do without: the state folder and its lock, the control socket, one listener; and if an address that
    /// it should serve is taken by another process, whatever else could be served.
    pub(crate) fn build(surroundings: Surroundings) -> anyhow::Result<Self> {
        let Surroundings { paths, invocation, inherited, warnings: standing, seed, hardening, log } = surroundings;
        let (clock, stats) = (Arc::new(Clock::start()), Arc::new(Stats::default()));
        let start = Start::read(&paths);
        let store = Arc::new(open_store_at_once(&paths, &start.config)?);
        let mut warnings = Warnings { standing, ..Warnings::default() };
        warnings.standing.extend(store.warnings().iter().chain(&paths.notes).cloned());
        for warning in &warnings.standing {
            warn!("{warning}");
        }
        let (config, problems) = start.say(&mut warnings);

        let mut inherited = Inherited::sort(inherited);
        let control = ControlSocket::open(&mut inherited, &paths.socket)?;
        if let Some(socket) = control.path() {
            store.say_socket(&socket);
        }
        own_address::remove_lent_sockets(&paths.socket);
        let listeners = Listeners::inherited(inherited.http);
        // before the sandbox is drawn, which would hide the processes that have an address already
        let binding = first_binding(&listeners, &config, !problems.is_empty())?;

        let (keys, keys_problem) = KeyRing::load(store.clone(), clock.clone());
        warnings.standing.extend(keys_problem.inspect(|problem| warn!("{problem}")));
        let observers = Observers::start(&config, &paths, &stats)?;
        let hardening = hardening.map(|mut measures| {
            measures.push(confinement::confine(&config, &problems, &paths, observers.outside()));
            warnings.standing.extend(harden::warning(&measures).inspect(|warning| warn!("{warning}")));
            measures
        });

        let (demands, demanded) = mpsc::unbounded_channel();
        let (commands, commanded) = mpsc::channel(8);
        let sources = wiring::sources(&config, &config, &Sources::new(), &clock, &demands);
        let (renewer, accounts) = RenewerLoop::new(RenewerParts {
            clock: clock.clone(),
            store: store.clone(),
            endpoint: TokenEndpoint::new(HttpClient::from_environment()),
            config: config.clone(),
            sources: sources.clone(),
            demands: demanded,
            notices: commanded,
            seed,
        })
        .context("starting the store's thread")?;

        let keys = Arc::new(keys);
        let (access, access_warnings) = observers.access(&config, &keys);
        warnings.access = access_warnings;
        let table = wiring::table(&config, &sources, &stats).map_err(|error| anyhow!(error))?.with_access(access);
        let proxy = Proxy::start(Vec::new(), table, stats.clone(), Some(wiring::peer_lookups()))?;
        let facts =
            Facts { configured: problems.is_empty(), ..facts(&paths, &clock, &observers, hardening, invocation) };
        let published = Published::new(config.clone(), problems, facts);
        let (state, requests) = control_state(&published, accounts, stats, clock, (keys, store), log);
        let mut running = Running {
            paths,
            notifier: Notifier::from_environment(),
            state,
            published,
            sources,
            demands,
            renewer: RenewerThread::start(renewer, commands)?,
            proxy,
            listeners,
            observers,
            warnings,
        };
        running.advise();
        running.listen(&config, binding);
        running.refuse_to_serve_nothing()?;
        Ok(Self { running, control, requests })
    }

    /// What the verbs of the control socket read, for the status.
    pub(crate) fn control_state(&self) -> ControlState {
        self.running.state.clone()
    }

    /// Serves until the stop has started; then drains: running requests end, renewals in flight are waited for.
    ///
    /// # Errors
    ///
    /// If the renewer ends on its own, or the kernel refuses what cannot be done without.
    pub(crate) async fn serve(self, mut shutdown: Shutdown) -> anyhow::Result<()> {
        let Self { mut running, control: ControlSocket { listener, file: _file }, mut requests } = self;
        let (control_stop, control_shutdown) = crate::shutdown::shutdown();
        let control = tokio::spawn(control::serve(listener, running.state.clone(), control_shutdown));
        let noticing = give_notices(&running, &shutdown);
        let following = tokio::spawn(metadata::follow(issuers(&running), shutdown.clone()));
        let keeping_keys = tokio::spawn(key_keeper::keep(key_keeper_parts(&running), shutdown.clone()));
        let locking = tokio::spawn(auto_lock::keep(running.state.clone(), shutdown.clone()));
        let keeping_time = tokio::spawn(client_keys::keep_time(running.state.keys.clone(), shutdown.clone()));
        for address in &running.published.facts.borrow().listen {
            info!(%address, "listening");
        }
        run_until_stopped(&mut running, &mut requests, &mut shutdown).await?;
        running.notifier.stopping();
        info!("stopping");
        requests.lend.close();
        let drain = running.published.config.borrow().drain;
        running.listeners.close();
        // the renewer last: a running request may still wait for the token that it brings
        running.proxy.stop(drain).await;
        let ended = running.renewer.stop().await;
        control_stop.start();
        let _ = control.await;
        let _ = noticing.await;
        let _ = following.await;
        let _ = keeping_time.await;
        let _ = keeping_keys.await;
        let _ = locking.await;
        match ended {
            Ok(()) if shutdown.has_started() => Ok(()),
            Ok(()) => Err(anyhow!("the renewer ended on its own")),
            Err(error) => Err(error),
        }
    }
}

/// What is true of the process, before it listens.
fn facts(
    paths: &Paths,
    clock: &Clock,
    observers: &Observers,
    hardening: Option<Vec<Measure>>,
    invocation: String,
) -> Facts {
    Facts {
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        started_at: clock.now(),
        config_file: paths.config_file.clone(),
        state_dir: paths.state_dir.clone(),
        configured: true,
        listen: Vec::new(),
        route_listen: BTreeMap::new(),
        warnings: Vec::new(),
        audit: observers.audit_file(),
        hardening: hardening.unwrap_or_default(),
        proxies: Proxies::read(environment::text),
        invocation,
    }
}

/// What the verbs of the control socket read, and where they ask.
fn control_state(
    published: &Published,
    accounts: Accounts,
    stats: Arc<Stats>,
    clock: Arc<Clock>,
    (keys, store): (Arc<KeyRing>, Arc<Store>),
    log: Option<LogHandle>,
) -> (ControlState, Requests) {
    let ((reload, reload_requests), (lend, lend_requests)) = (mpsc::channel(8), mpsc::channel(8));
    let facts = published.facts.subscribe();
    let started_at = facts.borrow().started_at;
    let state = ControlState {
        accounts,
        stats,
        clock,
        config: published.config.subscribe(),
        config_problems: published.problems.subscribe(),
        facts,
        reload,
        lend,
        keys,
        store,
        events: Arc::new(Events::starting_after(started_at.as_millis())),
        log,
    };
    (state, Requests { reload: reload_requests, lend: lend_requests })
}

/// Binds what the configuration lists, at the start. Where an address is taken by another process, nothing is served
/// beside it; where the configuration is unknown, so are its addresses, and the control socket is enough to mend it.
fn first_binding(listeners: &Listeners, config: &Config, has_problems: bool) -> anyhow::Result<Binding> {
    let mut binding = listeners.bind_missing(config, false);
    if binding.taken.is_empty() {
        return Ok(binding);
    }
    if !has_problems {
        return Err(anyhow!(binding.taken.join("; ")));
    }
    for words in &binding.taken {
        error!("{words}; nothing is served until the configuration is mended");
    }
    binding.withdraw();
    Ok(binding)
}

fn key_keeper_parts(running: &Running) -> key_keeper::Parts {
    key_keeper::Parts {
        store: running.state.store.clone(),
        accounts: running.state.accounts.clone(),
        config: running.published.config.subscribe(),
        facts: running.published.facts.subscribe(),
        paths: running.paths.clone(),
    }
}

fn give_notices(running: &Running, shutdown: &Shutdown) -> JoinHandle<()> {
    let parts = notices::NoticeSources {
        accounts: running.state.accounts.clone(),
        config: running.published.config.subscribe(),
        clock: running.state.clock.clone(),
        state_dir: running.paths.state_dir.clone(),
        invocation: running.published.facts.borrow().invocation.clone(),
    };
    tokio::spawn(notices::watch(parts, shutdown.clone()))
}

fn issuers(running: &Running) -> metadata::Parts {
    let state_dir = running.paths.state_dir.clone();
    metadata::Parts { config: running.published.config.subscribe(), state_dir, reload: running.state.reload.clone() }
}

/// Does what is asked, and what the machine's changes ask for, until the stop has started or the renewer has ended.
async fn run_until_stopped(
    running: &mut Running,
    requests: &mut Requests,
    shutdown: &mut Shutdown,
) -> anyhow::Result<()> {
    let mut network = NetworkWatch::new();
    let mut files = ConfigWatch::new(running.watched());
    let mut hangup = signal(SignalKind::hangup())?;
    let mut watchdog = Watchdog::new(&running.notifier);
    let mut look = interval_at(Instant::now() + LOCALHOST_CHECK_INTERVAL, LOCALHOST_CHECK_INTERVAL);
    let mut accounts = running.state.accounts.clone();
    let mut told = String::new();
    running.notifier.ready();
    loop {
        // the watchdog's beat keeps it true while nothing else happens
        if running.notifier.has_manager() {
            let words = status_line(&running.state.report());
            if words != told {
                running.notifier.status(&words);
                told = words;
            }
        }
        tokio::select! {
            () = shutdown.started() => return Ok(()),
            _ = accounts.changed() => {
                if running.renewer.has_ended() {
                    return Ok(());
                }
            }
            _ = hangup.recv() => {
                files = ConfigWatch::new(running.watched()); // what is read now is no change later
                let _ = running.reload().await;
                files.follow(running.watched());
            }
            () = network.changed() => {
                debug!("the network has changed");
                running.proxy.network_changed();
                running.renewer.network_changed().await;
            }
            () = files.changed() => {
                info!("the configuration has changed");
                let _ = running.reload().await;
                files.follow(running.watched());
            }
            Some(reply) = requests.reload.recv() => {
                files = ConfigWatch::new(running.watched());
                let outcome = running.reload().await;
                files.follow(running.watched());
                let _ = reply.send(outcome);
            }
            Some(LendRequest { routes, kind, reply }) = requests.lend.recv() => {
                let _ = reply.send(running.lend(&routes, kind)); // what nobody waits for any more is closed by its drop
            }
            _ = look.tick(), if !running.listeners.lone_halves().is_empty() => running.look_for_strangers(),
            alive = watchdog.answer(|| running.signs_of_life()) => match alive {
                true => running.notifier.watchdog(),
                false => error!("a thread has ended badly; the service manager is left to start us anew"),
            },
        }
    }
}
