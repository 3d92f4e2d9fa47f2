//! The two threads that look at the processes of clients: the audit's, and the one that looks for containers. The sandbox
//! would hide those processes from them, so they start before it is drawn.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tracing::warn;

use super::confinement::Outside;
use crate::audit::{self, Audit};
use crate::client_keys::KeyRing;
use crate::config::{AuditTarget, Config};
use crate::platform::containers::Containers;
use crate::platform::paths::Paths;
use crate::platform::users;
use crate::proxy::Access;
use crate::stats::Stats;

pub(super) struct Observers {
    audit: Option<Audit>,
    containers: Option<ContainerWatch>,
}

/// What looks for containers, and whether it was started within the sandbox, where it sees none.
struct ContainerWatch {
    containers: Containers,
    is_blind: bool,
}

impl Observers {
    /// Starts those that the configuration asks for. To be called before the sandbox is drawn.
    pub(super) fn start(config: &Config, paths: &Paths, stats: &Arc<Stats>) -> anyhow::Result<Self> {
        let mut observers = Self { audit: None, containers: None };
        if let Some(settings) = audit_settings(config, paths) {
            observers.audit = Some(Audit::start(settings, stats.clone()).context("starting the audit's thread")?);
        }
        if config.containers_need_key {
            let containers = Containers::start().context("starting the thread that looks for containers")?;
            observers.containers = Some(ContainerWatch { containers, is_blind: false });
        }
        Ok(observers)
    }

    /// Which of them there are.
    pub(super) fn outside(&self) -> Outside {
        Outside { audit: self.audit.is_some(), containers: self.containers.is_some() }
    }

    /// Starts, moves or stops the audit as the configuration says; in any case its file is opened anew. Returns the one
    /// that is to end when nobody writes to it any more.
    pub(super) fn follow_audit(
        &mut self,
        config: &Config,
        paths: &Paths,
        stats: &Arc<Stats>,
    ) -> Result<Option<Audit>, String> {
        match (audit_settings(config, paths), &mut self.audit) {
            (Some(settings), Some(audit)) => {
                audit.reopen(settings);
                Ok(None)
            }
            (Some(settings), none) => {
                let started = Audit::start(settings, stats.clone());
                *none = Some(started.map_err(|error| format!("cannot start the audit's thread: {error}"))?);
                Ok(None)
            }
            (None, running) => Ok(running.take()),
        }
    }

    /// Starts what looks for containers, if the configuration asks for it. Within the sandbox it finds none, and every
    /// client needs a key.
    pub(super) fn follow_containers(&mut self, config: &Config, is_confined: bool) -> Result<(), String> {
        if config.containers_need_key && self.containers.is_none() {
            let started = Containers::start();
            let failed = |error| format!("cannot start the thread that looks for containers: {error}");
            self.containers = Some(ContainerWatch { containers: started.map_err(failed)?, is_blind: is_confined });
        }
        Ok(())
    }

    /// The audit's file, if there is an audit.
    pub(super) fn audit_file(&self) -> Option<PathBuf> {
        self.audit.as_ref().map(|audit| audit.path().to_owned())
    }

    /// Whether what looks for containers was started within the sandbox.
    pub(super) fn is_blind(&self) -> bool {
        self.containers.as_ref().is_some_and(|containers| containers.is_blind)
    }

    /// Who may call, and what could not be found out about that, in sentences.
    pub(super) fn access(&self, config: &Config, keys: &Arc<KeyRing>) -> (Access, Vec<String>) {
        let (uids, problems) = users::resolve(&config.clients);
        for problem in &problems {
            warn!("{problem}");
        }
        let containers = self.containers.as_ref().filter(|_| config.containers_need_key);
        let access = Access {
            uids: uids.into_iter().collect(),
            keys: keys.clone(),
            containers: containers.map(|watch| watch.containers.clone()),
            audit: self.audit.as_ref().map(Audit::log),
            audit_required: config.audit_required,
        };
        (access, problems)
    }
}

/// Where the audit goes and how much of it is kept, if there is to be one.
fn audit_settings(config: &Config, paths: &Paths) -> Option<audit::Settings> {
    let path = match &config.audit {
        AuditTarget::Off => return None,
        AuditTarget::StateFolder => paths.state_dir.join("audit.jsonl"),
        AuditTarget::File(file) => file.clone(),
    };
    let Config { audit_required: is_required, audit_size: size, audit_keep: keep, .. } = *config;
    Some(audit::Settings { path, size, keep, is_required })
}
