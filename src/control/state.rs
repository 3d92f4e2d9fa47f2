//! What the verbs read and whom they ask.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::events::Events;
use super::problem::{Problem, kind};
use super::report::{Facts, PROGRAM_REPLACED, Readings, Sources, StatusReport};
use crate::accounts::Accounts;
use crate::client_keys::{AddressKind, KeyRing, OwnAddress};
use crate::config::{Config, RouteName};
use crate::platform::clock::Clock;
use crate::platform::log::LogHandle;
use crate::platform::program;
use crate::stats::Stats;
use crate::store::Store;

/// Asks for the configuration to be read again; answered when the reload is done, or with the problems that stopped it.
pub(crate) type ReloadRequest = oneshot::Sender<Result<(), Vec<String>>>;

/// Asks for an address where some routes exist and no others, for a command that runs with a key of its own.
pub(crate) struct LendRequest {
    /// The routes.
    pub routes: Vec<RouteName>,
    /// How they are reached there.
    pub kind: AddressKind,
    /// Answered with the address, or why there is none. An address that nobody waits for any more is closed again.
    pub reply: oneshot::Sender<Result<OwnAddress, String>>,
}

/// What the verbs read and whom they ask. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ControlState {
    /// The renewer.
    pub accounts: Accounts,
    /// The proxy's numbers.
    pub stats: Arc<Stats>,
    /// The time line.
    pub clock: Arc<Clock>,
    /// The configuration in force.
    pub config: watch::Receiver<Arc<Config>>,
    /// What is wrong with the configuration file, if the one in force is an older one.
    pub config_problems: watch::Receiver<Vec<String>>,
    /// The process.
    pub facts: watch::Receiver<Facts>,
    /// The daemon's ear for reloads.
    pub reload: mpsc::Sender<ReloadRequest>,
    /// The daemon's ear for those who want an address of their own.
    pub lend: mpsc::Sender<LendRequest>,
    /// The client keys.
    pub keys: Arc<KeyRing>,
    /// Credentials at rest: how they are sealed, and what changes that.
    pub store: Arc<Store>,
    /// Where changes are told.
    pub events: Arc<Events>,
    /// The running log; `None` if this process has none of its own.
    pub log: Option<LogHandle>,
}

impl ControlState {
    /// What is said while no configuration is in force: what is wrong with the file, and that it is followed.
    pub(super) fn not_configured(&self) -> Option<Problem> {
        let facts = self.facts.borrow();
        if facts.configured {
            return None;
        }
        let detail = format!("{} cannot be used, and no configuration is in force", facts.config_file.display());
        let check = format!("{} check", facts.invocation);
        let remedy = format!("Correct the file, which is then taken over by itself; to have it checked: {check}");
        let problem = Problem::new(503, kind::NOT_CONFIGURED, "no configuration is in force", detail);
        Some(problem.with_problems(self.config_problems.borrow().clone()).with_remedy(remedy))
    }

    /// One instant of both clocks.
    pub(crate) fn readings(&self) -> Readings {
        let now = self.clock.now();
        Readings { now, wall: self.clock.calendar(now) }
    }

    /// The status document as of now. Waits for nothing.
    pub(crate) fn report(&self) -> StatusReport {
        let mut report = StatusReport::new(&Sources {
            readings: self.readings(),
            facts: &self.facts.borrow(),
            config: &self.config.borrow(),
            config_problems: &self.config_problems.borrow(),
            views: &self.accounts.views(),
            stats: &self.stats,
            keys: &self.keys,
            store: &self.store.seal_state(),
        });
        report.daemon.warnings.extend(program::is_replaced().then(|| PROGRAM_REPLACED.to_owned()));
        report
    }
}
