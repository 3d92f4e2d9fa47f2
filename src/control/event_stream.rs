//! What changes, as it changes: `GET /v1/events` as server-sent events (text/event-stream, WHATWG HTML section 9.2).
//!
//! What a change is, is decided by comparing two views (`changes`); signing in and out is told by the verbs that do
//! it. A reader who does not keep up is dropped: it delays nobody.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::{interval_at, timeout};
use tracing::debug;

use super::events::{Event, Kind, News};
use super::line::Line;
use super::report::{AccountReport, State};
use super::state::ControlState;
use crate::accounts::AccountView;

/// Something is said at least this often, so that both ends notice when the other is gone.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// A reader who takes nothing for so long is dropped.
const STALLED: Duration = Duration::from_secs(30);

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
    use super::super::events::Events;
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
}
