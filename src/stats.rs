//! What the proxy counts: written by the workers, read by the control socket. Numbers only.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;

use crate::config::RouteName;
use crate::mcp::Greeting;

/// A number that many threads add to.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`.
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Takes `amount` away; for gauges.
    pub(crate) fn subtract(&self, amount: u64) {
        self.0.fetch_sub(amount, Ordering::Relaxed);
    }

    /// Reads it.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One route's numbers since the daemon started.
#[derive(Debug, Default)]
pub(crate) struct RouteStats {
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
    /// Whether the upstream refused a token again that was renewed for its refusal, and no response since was a good one.
    refuses: AtomicBool,
    /// How long answers took.
    pub latency: Latency,
    mcp: Mutex<McpSeen>,
    mcp_changed: Arc<Notify>,
}

/// What the traffic with an MCP server has shown.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct McpSeen {
    /// The protocol version that a client and the server have agreed on last.
    pub protocol_version: Option<String>,
    /// The server's own name and version, as it said them last.
    pub server: Option<(String, String)>,
    /// When a message of a session went through last, in seconds since 1970.
    pub last_session: Option<u64>,
    /// When the server asked for more scope last, in seconds since 1970, and what to run then.
    pub scope_required: Option<(u64, String)>,
}

impl McpSeen {
    /// Notes what a server said of itself, `now` in seconds since 1970.
    pub(crate) fn greeted(&mut self, greeting: Greeting, now: u64) {
        let Greeting { name, version, protocol_version } = greeting;
        self.server = Some((name, version));
        self.protocol_version = protocol_version.or(self.protocol_version.take());
        self.last_session = Some(now);
    }
}

impl RouteStats {
    /// Notes what the traffic with an MCP server has shown, and tells whoever waits for it.
    pub(crate) fn mcp_shows(&self, note: impl FnOnce(&mut McpSeen)) {
        note(&mut self.mcp());
        self.mcp_changed.notify_one();
    }

    /// What the traffic with an MCP server has shown.
    pub(crate) fn mcp(&self) -> MutexGuard<'_, McpSeen> {
        self.mcp.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a response by its status and the time from the request's head to the response's.
    pub(crate) fn answered(&self, status: u16, took: Duration) {
        if (200..400).contains(&status) && self.refuses.load(Ordering::Relaxed) {
            self.refuses.store(false, Ordering::Relaxed);
        }
        self.latency.add(StatusClass::of(status), took);
    }

    /// Notes whether a token was refused though it had been renewed for a refusal.
    pub(crate) fn replayed_with(&self, refused_again: bool) {
        self.refuses.store(refused_again, Ordering::Relaxed);
    }

    /// Whether the upstream refuses our tokens, as far as the last answers tell.
    pub(crate) fn refuses_tokens(&self) -> bool {
        self.refuses.load(Ordering::Relaxed)
    }
}

/// The first digit of an HTTP status.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum StatusClass {
    /// 1xx: a switch to another protocol.
    Informational,
    /// 2xx
    Success,
    /// 3xx
    Redirection,
    /// 4xx
    ClientError,
    /// 5xx, and whatever a server may make up.
    ServerError,
}

impl StatusClass {
    /// All of them, in order.
    pub(crate) const ALL: [StatusClass; 5] =
        [Self::Informational, Self::Success, Self::Redirection, Self::ClientError, Self::ServerError];

    /// The class of a status.
    pub(crate) fn of(status: u16) -> Self {
        match status / 100 {
            1 => Self::Informational,
            2 => Self::Success,
            3 => Self::Redirection,
            4 => Self::ClientError,
            _ => Self::ServerError,
        }
    }

    /// `2xx`
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Informational => "1xx",
            Self::Success => "2xx",
            Self::Redirection => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
        }
    }
}

/// The upper bound of a histogram's first bucket; each further one is twice the one before.
const SMALLEST: Duration = Duration::from_micros(250);

/// Bounded buckets: 250 us to 65.5 s. One more takes what is longer.
const BOUNDED: usize = 19;

/// Times in buckets that double, for each class of status. A response costs two relaxed additions and takes no lock.
#[derive(Debug, Default)]
pub(crate) struct Latency([ClassLatency; 5]);

#[derive(Debug, Default)]
struct ClassLatency {
    buckets: [Counter; BOUNDED + 1],
    micros: Counter,
}

/// A class's times as they stand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Histogram {
    /// How many took at most so long and longer than the bucket before, in the order of the bounds; `None` is "longer".
    pub buckets: Vec<(Option<Duration>, u64)>,
    /// All times together.
    pub sum: Duration,
}

impl Histogram {
    /// How many were counted.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

impl Latency {
    fn add(&self, class: StatusClass, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let ClassLatency { buckets, micros: sum } = &self.0[class as usize];
        buckets[bucket(micros)].add(1);
        sum.add(micros);
    }

    /// The times of one class. The numbers are read one by one: a response in between may be in some of them only.
    pub(crate) fn of(&self, class: StatusClass) -> Histogram {
        let ClassLatency { buckets, micros } = &self.0[class as usize];
        let bound = |index: usize| (index < BOUNDED).then(|| SMALLEST * (1 << index));
        let buckets = buckets.iter().enumerate().map(|(index, count)| (bound(index), count.get())).collect();
        Histogram { buckets, sum: Duration::from_micros(micros.get()) }
    }

    /// The bound that `share` (0 to 1) of all answers stayed below; `None` without responses, or where it is unbounded.
    pub(crate) fn quantile(&self, share: f64) -> Option<Duration> {
        let all: Vec<Histogram> = StatusClass::ALL.iter().map(|class| self.of(*class)).collect();
        let total: u64 = all.iter().map(Histogram::count).sum();
        let rank = (share * total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bounds = (0..=BOUNDED).map(|index| {
            seen += all.iter().map(|histogram| histogram.buckets[index].1).sum::<u64>();
            (all[0].buckets[index].0, seen)
        });
        bounds.into_iter().find(|(_, seen)| *seen >= rank).and_then(|(bound, _)| bound)
    }
}

/// The first bucket whose bound is not below so many microseconds.
fn bucket(micros: u64) -> usize {
    let firsts = micros.div_ceil(250).max(1); // how many times the first bucket's width
    let index = u64::BITS - (firsts - 1).leading_zeros();
    (index as usize).min(BOUNDED)
}

/// All routes' numbers. Survives a reload: a route that keeps its name keeps its numbers.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    routes: RwLock<BTreeMap<RouteName, Arc<RouteStats>>>,
    /// Connections open to the proxy now.
    pub connections: Counter,
    /// Requests refused by the guard, for want of a route, or as malformed.
    pub refused: Counter,
    /// Requests of root's that were refused because `clients` does not name root.
    pub refused_root: Counter,
    /// Lines of the audit.
    pub audit: AuditCounts,
    mcp_changed: Arc<Notify>,
}

/// What the audit has done so far.
#[derive(Debug, Default)]
pub(crate) struct AuditCounts {
    /// Lines written.
    pub written: Counter,
    /// Lines lost: too many were waiting, or the file could not be written.
    pub dropped: Counter,
    /// Requests refused because the audit is required and could not be promised.
    pub refused: Counter,
    trouble: Mutex<Option<String>>,
}

impl AuditCounts {
    /// Why nothing can be written, if that is so.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says why nothing can be written, or that it can.
    pub(crate) fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

impl Stats {
    /// How many requests there have been, on all routes.
    pub(crate) fn requests(&self) -> u64 {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        routes.values().map(|route| route.requests.get()).sum()
    }

    /// The numbers of a route, made at the first call. Not for the path of a request.
    pub(crate) fn route(&self, name: &RouteName) -> Arc<RouteStats> {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(RouteStats { mcp_changed: self.mcp_changed.clone(), ..RouteStats::default() });
        routes.entry(name.clone()).or_insert_with(new).clone()
    }

    /// Returns when the traffic with an MCP server has shown something new. For one waiter.
    pub(crate) async fn mcp_changed(&self) {
        self.mcp_changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_falls_into_the_first_bucket_that_it_does_not_exceed() {
        let table = [
            ("nothing", 0, 0),
            ("the first bound", 250, 0),
            ("just above it", 251, 1),
            ("the second bound", 500, 1),
            ("a millisecond", 1_000, 2),
            ("just above that", 1_001, 3),
            ("the last bound", 65_536_000, 18),
            ("longer than all", 65_536_001, 19),
            ("for ever", u64::MAX, 19),
        ];
        for (case, micros, expected) in table {
            assert_eq!(bucket(micros), expected, "{case}");
        }
    }

    #[test]
    fn answers_are_kept_apart_by_class_and_their_bounds_double() {
        let stats = RouteStats::default();
        for (status, millis) in [(200, 1), (204, 3), (404, 1), (999, 100_000)] {
            stats.answered(status, Duration::from_millis(millis));
        }
        let success = stats.latency.of(StatusClass::Success);
        assert_eq!((success.count(), success.sum), (2, Duration::from_millis(4)));
        assert_eq!(success.buckets[2], (Some(Duration::from_millis(1)), 1));
        assert_eq!(success.buckets[4], (Some(Duration::from_millis(4)), 1));
        assert_eq!(stats.latency.of(StatusClass::ServerError).buckets.last(), Some(&(None, 1)));
        assert_eq!(stats.latency.of(StatusClass::Redirection).count(), 0);
    }

    #[test]
    fn a_quantile_is_the_bound_below_which_so_many_stayed() {
        let stats = RouteStats::default();
        assert_eq!(stats.latency.quantile(0.5), None);
        for millis in [1, 1, 1, 1, 1, 1, 1, 1, 1, 60] {
            stats.answered(200, Duration::from_millis(millis));
        }
        assert_eq!(stats.latency.quantile(0.5), Some(Duration::from_millis(1)));
        assert_eq!(stats.latency.quantile(0.99), Some(Duration::from_millis(64)));
    }
}
