//! Locks by itself, where `store.lock` says so: after a while without a request, when the screen is locked, before a sleep.

use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use crate::config::LockSettings;
use crate::control::ControlState;
use crate::control::seal_verbs::lock_by_itself;
use crate::platform::logind::{Logind, News};
use crate::shutdown::Shutdown;
use crate::timestamp::Timestamp;

/// Where there is no logind, one may come. (And where nothing is to be locked, a look at nothing now and then.)
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How often it is looked for requests, at the most and at the least. A lock is late by a quarter of its time at the most.
const SHORTEST_GLANCE: Duration = Duration::from_millis(250);
const LONGEST_GLANCE: Duration = Duration::from_secs(60);

/// Runs until the stop.
pub(super) async fn keep(state: ControlState, mut shutdown: Shutdown) {
    let mut config = state.config.clone();
    let mut idle = Idle::default();
    let mut logind = None;
    let mut has_complained = false;
    loop {
        let settings = config.borrow_and_update().store.lock;
        if !settings.hears() {
            logind = None;
        } else if logind.is_none() {
            logind = listen(&mut has_complained).await;
        }
        let news = tokio::select! {
            () = shutdown.started() => return,
            changed = config.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            () = sleep(glance(settings)) => None,
            news = next(&mut logind) => news,
        };
        let (requests, is_locked) = (state.stats.requests(), state.accounts.is_locked());
        let has_idled = idle.look(requests, is_locked, settings.idle, state.clock.now());
        let why = reason(news, settings).or(has_idled.then_some("no request has come for a while"));
        if let Some(why) = why {
            info!(why, "locking");
            if let Err(error) = lock_by_itself(&state, settings.all).await {
                warn!(%error, "not all is locked");
            }
        }
        match (news, &mut logind) {
            (Some(News::Sleeps), Some(logind)) => logind.let_go(),
            (Some(News::Wakes), Some(logind)) => logind.hold().await,
            (Some(News::ScreenLocked) | None, _) | (_, None) => {}
        }
    }
}

async fn listen(has_complained: &mut bool) -> Option<Logind> {
    match Logind::listen().await {
        Ok(logind) => Some(logind),
        Err(error) => {
            if !std::mem::replace(has_complained, true) {
                warn!(%error, "no lock with the screen or before a sleep: logind cannot be heard");
            }
            None
        }
    }
}

/// The next piece of news; forgets a logind that has gone.
async fn next(logind: &mut Option<Logind>) -> Option<News> {
    let Some(listening) = logind else { return std::future::pending().await };
    let news = listening.next().await;
    if news.is_none() {
        *logind = None;
    }
    news
}

/// When to look again, though nothing is heard. Pure.
fn glance(settings: LockSettings) -> Duration {
    let for_requests = settings.idle.map(|idle| (idle / 4).clamp(SHORTEST_GLANCE, LONGEST_GLANCE));
    for_requests.unwrap_or(LOOK_AGAIN)
}

/// Why a piece of news locks, if it does. Pure.
fn reason(news: Option<News>, settings: LockSettings) -> Option<&'static str> {
    match news? {
        News::Sleeps => settings.suspend.then_some("the machine is about to sleep"),
        News::ScreenLocked => settings.screen.then_some("the screen is locked"),
        News::Wakes => None,
    }
}

/// Since when no request has come, as far as somebody has looked. Pure.
#[derive(Debug, Default)]
struct Idle {
    /// How many there had been then, and when that was.
    seen: Option<(u64, Timestamp)>,
}

impl Idle {
    /// Whether no request has come for as long as is allowed. While it is locked, and from each request on, time begins anew.
    fn look(&mut self, requests: u64, is_locked: bool, limit: Option<Duration>, now: Timestamp) -> bool {
        let Some(limit) = limit.filter(|_| !is_locked) else {
            self.seen = None;
            return false;
        };
        match self.seen {
            Some((seen, since)) if seen == requests => now.since(since) >= limit,
            Some(_) | None => {
                self.seen = Some((requests, now));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: LockSettings =
        LockSettings { idle: Some(Duration::from_secs(60)), screen: true, suspend: true, all: false };
    const NONE: LockSettings = LockSettings { idle: None, screen: false, suspend: false, all: false };

    #[test]
    fn what_locks_is_what_the_setting_names() {
        let rows = [
            (News::Sleeps, ALL, true),
            (News::ScreenLocked, ALL, true),
            (News::Wakes, ALL, false),
            (News::Sleeps, LockSettings { suspend: true, ..NONE }, true),
            (News::ScreenLocked, LockSettings { suspend: true, ..NONE }, false),
            (News::ScreenLocked, LockSettings { screen: true, ..NONE }, true),
            (News::Sleeps, LockSettings { screen: true, ..NONE }, false),
        ];
        for (news, settings, locks) in rows {
            assert_eq!(reason(Some(news), settings).is_some(), locks, "{news:?} {settings:?}");
        }
        assert_eq!(reason(None, ALL), None);
    }

    #[test]
    fn idle_is_a_time_without_a_request_and_a_night_asleep_is_one() {
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        let limit = Some(Duration::from_secs(60));
        // when, how many requests there have been, whether it is locked; whether that locks
        let rows = [
            (0, 0, false, false),
            (59, 0, false, false),
            (60, 0, false, true),
            (75, 1, false, false),
            (134, 1, false, false),
            (135, 1, true, false),
            (500, 1, true, false),
            (501, 1, false, false), // unlocked: from here on
            (560, 1, false, false),
            (30_000, 1, false, true),
        ];
        let mut idle = Idle::default();
        for (seconds, requests, is_locked, locks) in rows {
            assert_eq!(idle.look(requests, is_locked, limit, at(seconds)), locks, "{seconds}");
        }
        assert!(!idle.look(1, false, None, at(90_000)), "nothing is said of idle");
        assert!(!idle.look(1, false, limit, at(180_000)), "since that was said");
    }

    #[test]
    fn a_lock_is_late_by_a_quarter_at_the_most() {
        let of = |seconds| glance(LockSettings { idle: Some(Duration::from_secs(seconds)), ..NONE }).as_millis();
        assert_eq!((of(1), of(60), of(3600)), (250, 15_000, 60_000));
        assert_eq!(glance(NONE), LOOK_AGAIN);
    }
}
