//! What changes, as it changes: `GET /v1/events` as server-sent events (text/event-stream, WHATWG HTML section 9.2).
//!
//! What a change is, is decided by comparing two views (`changes`); signing in and out is told by the verbs that do
//! it. Every event has an id that grows, so that a reader who comes back with `Last-Event-ID` is told what it missed,
//! as far as that is still remembered. A reader who does not keep up is dropped: it delays nobody. No member of an event
//! could hold a token.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{interval_at, timeout};
use tracing::debug;

use super::report::{AccountReport, Moment, State};
use super::{ControlState, Line};
use crate::accounts::AccountView;

/// What has happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An account has a new token.
    Renewed,
    /// A renewal failed.
    Failed,
    /// A person has to sign in from now on.
    SignInRequired,
    /// A person has signed in.
    SignedIn,
    /// A person has signed out.
    SignedOut,
    /// Another configuration is in force.
    ConfigChanged,
    /// A configuration has problems; the one before it stays in force.
    ConfigRefused,
    /// An account has no usable token any more.
    Withdrawn,
}

impl Kind {
    /// `sign-in-required`
    pub fn name(self) -> &'static str {
        match self {
            Kind::Renewed => "renewed",
            Kind::Failed => "failed",
            Kind::SignInRequired => "sign-in-required",
            Kind::SignedIn => "signed-in",
            Kind::SignedOut => "signed-out",
            Kind::ConfigChanged => "config-changed",
            Kind::ConfigRefused => "config-refused",
            Kind::Withdrawn => "withdrawn",
        }
    }
}

/// One event, as its `data` shows it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one with each event, across restarts too: it starts at the daemon's start, in milliseconds since 1970.
    pub id: u64,
    /// When.
    pub at: Moment,
    /// What.
    pub event: Kind,
    /// The account that it happened to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// More about it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Until when the new token is handed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usable_until: Option<Moment>,
    /// The command to run, if a person has to do something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_action: Option<String>,
    /// The problems of a configuration that was refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// An event before it has an id and a time.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct News {
    kind: Kind,
    account: Option<String>,
    detail: Option<String>,
    usable_until: Option<Moment>,
    next_action: Option<String>,
    problems: Vec<String>,
}

impl News {
    fn of_config(kind: Kind, problems: Vec<String>) -> Self {
        Self { kind, account: None, detail: None, usable_until: None, next_action: None, problems }
    }

    pub(super) fn of_account(kind: Kind, account: &str) -> Self {
        let account = Some(account.to_owned());
        Self { kind, account, detail: None, usable_until: None, next_action: None, problems: Vec::new() }
    }
}

/// How many events are remembered for readers who come back.
const REMEMBERED: usize = 256;

/// A reader further behind than this is dropped.
const LONGEST_BACKLOG: usize = 256;

/// Something is said at least this often, so that both ends notice when the other is gone.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// A reader who takes nothing for so long is dropped.
const STALLED: Duration = Duration::from_secs(30);

/// Where events are told and heard.
#[derive(Debug)]
pub struct Events {
    sender: broadcast::Sender<Arc<Event>>,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    last_id: u64,
    recent: VecDeque<Arc<Event>>,
}

impl Events {
    /// A beginning. Ids go on from `first_id`: the start in milliseconds since 1970, so that no restart repeats one.
    pub fn starting_after(first_id: u64) -> Self {
        let told = Mutex::new(Told { last_id: first_id, recent: VecDeque::new() });
        Self { sender: broadcast::Sender::new(LONGEST_BACKLOG), told }
    }

    pub(super) fn tell(&self, news: News, at: Moment) {
        let News { kind, account, detail, usable_until, next_action, problems } = news;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.last_id += 1;
        let id = told.last_id;
        let event = Arc::new(Event { id, at, event: kind, account, detail, usable_until, next_action, problems });
        if told.recent.len() == REMEMBERED {
            told.recent.pop_front();
        }
        told.recent.push_back(event.clone());
        let _ = self.sender.send(event); // nobody need listen
    }

    /// What was told after `last_id`, and what will be. Without an id: only what will be.
    fn listen(&self, last_id: Option<u64>) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let missed = told.recent.iter().filter(|event| last_id.is_some_and(|last| event.id > last));
        (missed.cloned().collect(), self.sender.subscribe())
    }
}

/// Tells what changes, until the renewer has ended.
pub(super) async fn watch(state: ControlState) {
    let (mut accounts, mut config, mut problems) =
        (state.accounts.clone(), state.config.clone(), state.config_problems.clone());
    let mut before = state.accounts.views();
    config.mark_unchanged();
    problems.mark_unchanged();
    loop {
        tokio::select! {
            changed = accounts.changed() => {
                if changed.is_err() {
                    return;
                }
                let after = state.accounts.views();
                let readings = state.readings();
                let invocation = state.facts.borrow().invocation.clone();
                for news in changes(&before, &after, |view| AccountReport::new(view, readings, &invocation)) {
                    state.events.tell(news, readings.moment(readings.now));
                }
                before = after;
            }
            Ok(()) = config.changed() => tell_of_config(&state, Kind::ConfigChanged, Vec::new()),
            Ok(()) = problems.changed() => {
                let found = problems.borrow_and_update().clone();
                if !found.is_empty() {
                    tell_of_config(&state, Kind::ConfigRefused, found);
                }
            }
        }
    }
}

fn tell_of_config(state: &ControlState, kind: Kind, problems: Vec<String>) {
    let readings = state.readings();
    state.events.tell(News::of_config(kind, problems), readings.moment(readings.now));
}

/// What happened between two views of the accounts. Several renewals or failures between two looks are told as one.
fn changes(before: &[AccountView], after: &[AccountView], report: impl Fn(&AccountView) -> AccountReport) -> Vec<News> {
    let mut news = Vec::new();
    for now in after {
        let then = before.iter().find(|then| then.id == now.id);
        let (report, then_report) = (report(now), then.map(&report));
        let about = |kind| News::of_account(kind, now.id.as_str());
        if now.last_failure.is_some() && then.and_then(|then| then.last_failure.as_ref()) != now.last_failure.as_ref() {
            news.push(News { detail: report.last_failure.map(|failure| failure.detail), ..about(Kind::Failed) });
        }
        if now.renewals > then.map_or(0, |then| then.renewals) {
            news.push(News { usable_until: report.usable_until, ..about(Kind::Renewed) });
        }
        let had_token = then.is_some_and(|then| then.snapshot.published.is_some());
        if had_token && now.snapshot.published.is_none() {
            news.push(about(Kind::Withdrawn));
        }
        let needed_person = then_report.is_some_and(|then| then.state == State::SignInRequired);
        if report.state == State::SignInRequired && !needed_person {
            let next_action = report.next_action;
            news.push(News { detail: report.why, next_action, ..about(Kind::SignInRequired) });
        }
    }
    news
}

/// Feeds one reader until it leaves, falls behind, or the daemon stops.
pub(super) async fn feed(state: ControlState, last_id: Option<u64>, reader: mpsc::Sender<Bytes>, mut line: Line) {
    let (missed, mut coming) = state.events.listen(last_id);
    let greeting = Bytes::from_static(b"retry: 2000\n: what changes in valetd, as it changes\n\n");
    let mut waiting: VecDeque<Bytes> = std::iter::once(greeting).chain(missed.iter().map(|e| encode(e))).collect();
    let mut heartbeat = interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
    loop {
        while let Some(piece) = waiting.pop_front() {
            match timeout(STALLED, reader.send(piece)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return, // it has left
                Err(_) => {
                    debug!("a reader of events takes nothing: dropped");
                    return line.hang_up();
                }
            }
        }
        tokio::select! {
            event = coming.recv() => match event {
                Ok(event) => waiting.push_back(encode(&event)),
                Err(RecvError::Lagged(_)) => {
                    debug!("a reader of events has fallen behind: dropped");
                    return line.hang_up();
                }
                Err(RecvError::Closed) => return,
            },
            _ = heartbeat.tick() => waiting.push_back(Bytes::from_static(b": still here\n\n")),
            () = reader.closed() => return,
            () = line.stopping.started() => return,
        }
    }
}

/// One event as the stream has it. JSON on one line has no line end to split it.
fn encode(event: &Event) -> Bytes {
    let data = serde_json::to_string(event).expect("an event has string keys and no failing parts");
    Bytes::from(format!("id: {}\nevent: {}\ndata: {data}\n\n", event.id, event.event.name()))
}

#[cfg(test)]
mod tests {
    use super::super::report::Readings;
    use super::super::report::tests::{readings, refused_view, usable_view};
    use super::*;
    use crate::renewal::RenewalId;

    fn kinds(before: &[AccountView], after: &[AccountView]) -> Vec<(Kind, Option<String>)> {
        let news = changes(before, after, |view| AccountReport::new(view, readings(), "valetd"));
        news.into_iter().map(|news| (news.kind, news.account)).collect()
    }

    #[test]
    fn what_differs_between_two_views_is_told_once() {
        let gbdx = usable_view();
        let mut renewed = gbdx.clone();
        (renewed.renewals, renewed.snapshot.published) = (8, Some(RenewalId(8)));
        let mut failed = gbdx.clone();
        failed.last_failure = refused_view().last_failure;
        let mut withdrawn = failed.clone();
        withdrawn.snapshot.published = None;
        let mut refused = withdrawn.clone();
        refused.snapshot.phase = refused_view().snapshot.phase;
        let table = [
            ("nothing", &gbdx, &gbdx, vec![]),
            ("a renewal", &gbdx, &renewed, vec![Kind::Renewed]),
            ("a failed renewal", &gbdx, &failed, vec![Kind::Failed]),
            ("the token's end", &failed, &withdrawn, vec![Kind::Withdrawn]),
            ("a refusal", &withdrawn, &refused, vec![Kind::SignInRequired]),
            ("all at once", &gbdx, &refused, vec![Kind::Failed, Kind::Withdrawn, Kind::SignInRequired]),
        ];
        for (case, before, after, expected) in table {
            let told = kinds(std::slice::from_ref(before), std::slice::from_ref(after));
            let expected: Vec<_> = expected.into_iter().map(|kind| (kind, Some("gbdx".to_owned()))).collect();
            assert_eq!(told, expected, "{case}");
        }
    }

    #[test]
    fn a_sign_in_that_is_needed_comes_with_its_command() {
        let news = changes(&[], &[refused_view()], |view| AccountReport::new(view, readings(), "valetd"));
        let needed = news.iter().find(|news| news.kind == Kind::SignInRequired).unwrap();
        assert_eq!(needed.next_action.as_deref(), Some("valetd login gdh"));
        assert!(needed.detail.as_deref().unwrap().contains("was refused"), "{needed:?}");
    }

    #[test]
    fn an_event_is_three_lines_and_an_empty_one() {
        let Readings { now, .. } = readings();
        let events = Events::starting_after(7);
        events.tell(News::of_account(Kind::SignedIn, "gbdx"), readings().moment(now));
        let (missed, _) = events.listen(Some(7));
        let expected = "id: 8\nevent: signed-in\n\
                        data: {\"id\":8,\"at\":\"2026-09-21T14:13:20Z\",\"event\":\"signed-in\",\"account\":\"gbdx\"}\n\n";
        assert_eq!(encode(&missed[0]), expected);
    }

    #[test]
    fn who_comes_back_is_told_what_it_missed_and_who_comes_new_is_not() {
        let events = Events::starting_after(0);
        let at = readings().moment(readings().now);
        for _ in 0..REMEMBERED + 3 {
            events.tell(News::of_config(Kind::ConfigChanged, Vec::new()), at);
        }
        assert_eq!(events.listen(None).0.len(), 0);
        assert_eq!(events.listen(Some(257)).0.iter().map(|event| event.id).collect::<Vec<_>>(), [258, 259]);
        assert_eq!(events.listen(Some(0)).0.len(), REMEMBERED);
    }
}
