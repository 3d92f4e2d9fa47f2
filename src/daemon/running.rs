//! What a reload changes while the daemon runs: configuration, listeners, routing table, token sources, observers.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tracing::{error, info};

use super::confinement;
use super::listeners::{Binding, Listeners};
use super::observers::Observers;
use super::own_address;
use super::renewer_thread::RenewerThread;
use super::warnings::{Warnings, advice, said, texts};
use super::wiring::{sources, table};
use crate::audit::Audit;
use crate::client_keys::{AddressKind, OwnAddress};
use crate::config::{Config, Problems, RouteName};
use crate::config_files;
use crate::control::ControlState;
use crate::control::report::Facts;
use crate::platform::harden::LANDLOCK;
use crate::platform::paths::Paths;
use crate::platform::systemd::Notifier;
use crate::proxy::Proxy;
use crate::renewer::Sources;
use crate::token_source::SourceDemand;

/// How long the workers may take to let go of a listener; one that is not stuck does so at once.
const LETTING_GO: Duration = Duration::from_secs(2);

/// What to wait between two looks whether they have: the port is nobody's in between, so not long.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The daemon's parts, and what is published of them.
pub(super) struct Running {
    pub(super) paths: Paths,
    pub(super) notifier: Notifier,
    /// The readers' ends of what is published, the time line, the numbers, the keys.
    pub(super) state: ControlState,
    pub(super) published: Published,
    pub(super) sources: Sources,
    pub(super) demands: mpsc::UnboundedSender<SourceDemand>,
    pub(super) renewer: RenewerThread,
    pub(super) proxy: Proxy,
    pub(super) listeners: Listeners,
    pub(super) observers: Observers,
    pub(super) warnings: Warnings,
}

/// What others read of the daemon, by the way of [`ControlState`].
pub(super) struct Published {
    pub(super) config: watch::Sender<Arc<Config>>,
    pub(super) problems: watch::Sender<Vec<String>>,
    pub(super) facts: watch::Sender<Facts>,
}

impl Published {
    pub(super) fn new(config: Arc<Config>, problems: Vec<String>, facts: Facts) -> Self {
        let (config, problems, facts) =
            (watch::Sender::new(config), watch::Sender::new(problems), watch::Sender::new(facts));
        Self { config, problems, facts }
    }
}

impl Running {
    /// Takes over a new configuration whole, or keeps the one in force and says why.
    pub(super) async fn reload(&mut self) -> Result<(), Vec<String>> {
        self.notifier.reloading();
        let outcome = self.take_over().await;
        match &outcome {
            Ok(()) => info!("the configuration is in force"),
            Err(problems) => {
                error!(problems = problems.len(), "the configuration cannot be used; the last good one stays in force");
                for problem in problems {
                    error!("{problem}");
                }
                self.published.problems.send_replace(problems.clone());
                self.advise();
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
        let before = self.published.config.borrow().clone();
        let sources = sources(&config, &before, &self.sources, &self.state.clock, &self.demands);
        let table = table(&config, &sources, &self.state.stats).map_err(|error| vec![error])?;
        // first of all: where a new address cannot be had, the old ones stay, and so does the rest
        let binding = self.listeners.bind_missing(&config, self.is_confined());
        let Binding { taken, failures, waits_for_ours, .. } = &binding;
        if !taken.is_empty() || !failures.is_empty() {
            let again = taken.iter().map(|words| format!("{words}; then reload"));
            return Err(again.chain(failures.iter().cloned()).collect());
        }
        let waits_for_ours = *waits_for_ours;
        let ended_audit = self.observe(&config).map_err(|error| vec![error])?;
        let (access, access_warnings) = self.observers.access(&config, &self.state.keys);
        let beyond = confinement::beyond(&config, self.is_confined(), self.observers.is_blind());
        self.warnings.access = [access_warnings, beyond].concat();
        let table = table.with_access(access);
        // the renewer first: a token that must not be used any more is withdrawn before a route could take it elsewhere
        let is_elsewhere = self.state.store.follow(&config);
        self.renewer.configure(config.clone(), sources.clone()).await;
        if is_elsewhere {
            self.state.accounts.look_again().await; // records of other machines may be used from here on
        }
        self.end_replaced(sources);
        self.proxy.replace(table);
        drop(ended_audit);
        self.published.config.send_replace(config.clone());
        self.published.problems.send_replace(Vec::new());
        self.published.facts.send_modify(|facts| facts.configured = true);
        self.warnings.config = said(parsed.warnings);
        self.listen(&config, binding);
        if waits_for_ours {
            self.follow_ours(&config).await;
        }
        if self.warnings.listen.is_empty() { Ok(()) } else { Err(self.warnings.listen.clone()) }
    }

    /// Has the observers follow the configuration. Returns the audit that is to end when nobody writes to it any more.
    fn observe(&mut self, config: &Config) -> Result<Option<Audit>, String> {
        let ended = self.observers.follow_audit(config, &self.paths, &self.state.stats)?;
        let file = self.observers.audit_file();
        self.published.facts.send_modify(|facts| facts.audit = file);
        self.observers.follow_containers(config, self.is_confined())?;
        Ok(ended)
    }

    /// Takes over the token sources. What was asked before, and has no token yet, must not carry one of now to where it
    /// was going: the waits at a source that was replaced end.
    fn end_replaced(&mut self, sources: Sources) {
        let before = std::mem::replace(&mut self.sources, sources);
        for (id, source) in &before {
            if self.sources.get(id).is_none_or(|now| now.id() != source.id()) {
                source.end();
            }
        }
    }

    /// Binds what had to wait until a listener of ours is closed, which is when the last worker has let go of it.
    async fn follow_ours(&mut self, config: &Config) {
        let deadline = Instant::now() + LETTING_GO;
        loop {
            let mut binding = self.listeners.bind_missing(config, self.is_confined());
            if binding.taken.is_empty() || Instant::now() > deadline {
                // nothing is left of the old address to go back to
                binding.failures.append(&mut binding.taken);
                return self.listen(config, binding);
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Serves what is newly bound, closes what the configuration no longer lists, and says what could not be bound.
    pub(super) fn listen(&mut self, config: &Config, mut binding: Binding) {
        self.warnings.listen = std::mem::take(&mut binding.failures);
        for words in &self.warnings.listen {
            error!("{words}");
        }
        self.listeners.adopt(config, binding);
        self.warnings.sockets = self.listeners.other_than_listed(config);
        if let Err(error) = self.listeners.copies().and_then(|listeners| self.proxy.listen(listeners)) {
            self.warnings.listen.push(format!("cannot hand the listening sockets to the workers: {error}"));
        }
        self.published.facts.send_modify(|facts| (facts.listen, facts.route_listen) = self.listeners.addresses());
        self.look_for_strangers();
    }

    /// Looks who has the half of `localhost` that we do not serve.
    pub(super) fn look_for_strangers(&mut self) {
        self.warnings.strangers = self.listeners.strangers(&self.warnings.strangers);
        let warnings = self.warnings.all();
        self.published.facts.send_if_modified(|facts| {
            let is_news = facts.warnings != warnings;
            facts.warnings = warnings;
            is_news
        });
    }

    /// Refuses to start with no address of those that a good configuration lists.
    ///
    /// # Errors
    ///
    /// Why none of them can be had.
    pub(super) fn refuse_to_serve_nothing(&self) -> anyhow::Result<()> {
        let is_configured = self.published.problems.borrow().is_empty();
        let is_served = !self.published.facts.borrow().listen.is_empty();
        match is_configured && !is_served && !self.warnings.listen.is_empty() {
            true => Err(anyhow!(self.warnings.listen.join("; "))),
            false => Ok(()),
        }
    }

    /// Has answers of our own say that the configuration cannot be used, while that is so.
    pub(super) fn advise(&mut self) {
        let invocation = self.published.facts.borrow().invocation.clone();
        self.proxy.advise(advice(&self.published.problems.borrow(), &self.paths, &invocation));
    }

    /// Opens an address for a command, where `routes` exist and no others.
    pub(super) fn lend(&self, routes: &[RouteName], kind: AddressKind) -> Result<OwnAddress, String> {
        let listen = &self.published.facts.borrow().listen;
        own_address::lend(&self.proxy, routes, kind, listen, &self.paths.socket, &self.published.config.borrow())
    }

    /// Ends when the renewer and every worker of the proxy have answered, with whether all are there; never, as long as
    /// one of them is stuck.
    pub(super) fn signs_of_life(&self) -> impl Future<Output = bool> + use<> {
        let (renewer, workers) = (self.renewer.ping(), self.proxy.ping());
        async move { renewer.await && workers.await }
    }

    /// The places where a change means another configuration. Files of certificate authorities are among them, as those who
    /// renew them tell nobody.
    pub(super) fn watched(&self) -> Vec<PathBuf> {
        let config = self.published.config.borrow();
        let accounts = config.accounts.values().filter_map(|account| account.extra_ca.clone());
        let routes = config.routes.iter().filter_map(|route| route.extra_ca.clone());
        let authorities: BTreeSet<PathBuf> = accounts.chain(routes).collect();
        [self.paths.config_file.clone(), self.paths.providers_dir.clone()].into_iter().chain(authorities).collect()
    }

    fn is_confined(&self) -> bool {
        self.published.facts.borrow().hardening.iter().any(|measure| measure.name == LANDLOCK && measure.in_force)
    }
}
