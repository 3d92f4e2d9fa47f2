//! What the proxy counts: written by the workers, read by the control socket. Numbers only.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::config::RouteName;

/// A number that many threads add to.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Takes `amount` away; for gauges.
    pub fn subtract(&self, amount: u64) {
        self.0.fetch_sub(amount, Ordering::Relaxed);
    }

    /// Reads it.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One route's numbers since the daemon started.
#[derive(Debug, Default)]
pub struct RouteStats {
    /// Requests that reached the route.
    pub requests: Counter,
    /// Requests under way now.
    pub open: Counter,
    /// Answers that valetd made itself (problem documents), for want of a token or of the upstream.
    pub errors: Counter,
    /// 401s that the upstream answered to our token.
    pub rejected: Counter,
    /// Requests sent again after a 401.
    pub replayed: Counter,
}

/// All routes' numbers. Survives a reload: a route that keeps its name keeps its numbers.
#[derive(Debug, Default)]
pub struct Stats {
    routes: RwLock<BTreeMap<RouteName, Arc<RouteStats>>>,
    /// Connections open to the proxy now.
    pub connections: Counter,
    /// Requests refused by the guard, for want of a route, or as malformed.
    pub refused: Counter,
    /// Lines of the audit.
    pub audit: AuditCounts,
}

/// What the audit has done so far.
#[derive(Debug, Default)]
pub struct AuditCounts {
    /// Lines written.
    pub written: Counter,
    /// Lines lost: too many were waiting, or the file could not be written.
    pub dropped: Counter,
}

impl Stats {
    /// The numbers of a route, made at the first call. Not for the path of a request.
    pub fn route(&self, name: &RouteName) -> Arc<RouteStats> {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        routes.entry(name.clone()).or_default().clone()
    }
}
