//! What changes, as it changes: `GET /v1/events` as server-sent events (text/event-stream, WHATWG HTML section 9.2).
//!
//! What a change is, is decided by comparing two views (`changes`); signing in and out is told by the verbs that do
//! it. A reader who does not keep up is dropped: it delays nobody.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::{interval_at, timeout};
use tracing::debug;

use super::events::{Event, Kind, News};
use super::line::Line;
use super::report::{AccountReport, State, server_in_words};
use super::state::ControlState;
use crate::accounts::AccountView;
use crate::config::{Route, RouteName};
use crate::stats::McpSeen;

/// Something is said at least this often, so that both ends notice when the other is gone.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// A reader who takes nothing for so long is dropped.
const STALLED: Duration = Duration::from_secs(30);

/// How long what is known already of an MCP server is not told again.
const A_WHILE: Duration = Duration::from_secs(60);

/// Tells what changes, until the renewer has ended.
pub(super) async fn watch(state: ControlState) {
    let (mut accounts, mut config, mut problems) =
        (state.accounts.clone(), state.config.clone(), state.config_problems.clone());
    let mut before = state.accounts.views();
    let mut told: BTreeMap<RouteName, McpSeen> = BTreeMap::new();
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
            () = state.stats.mcp_changed() => {
                let config = state.config.borrow().clone();
                for route in config.routes.iter().filter(|route| route.mcp.is_some()) {
                    let now = state.stats.route(&route.name).mcp().clone();
                    let told = told.entry(route.name.clone()).or_default();
                    for news in mcp_changes(told, &now, route) {
                        let readings = state.readings();
                        state.events.tell(news, readings.moment(readings.now));
                    }
                }
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

/// What is new of an MCP server since something was `told`. A server that stays the same is told again after a while, so
/// that clients that begin one session after the other drive nothing else out of the memory.
fn mcp_changes(told: &mut McpSeen, now: &McpSeen, route: &Route) -> Vec<News> {
    let is_while = |then: Option<u64>, now: u64| then.is_none_or(|then| now >= then.saturating_add(A_WHILE.as_secs()));
    let mut news = Vec::new();
    if let (Some((name, version)), Some(at)) = (&now.server, now.last_session)
        && (told.server != now.server || is_while(told.last_session, at))
    {
        let protocol = now.protocol_version.as_deref().unwrap_or("?");
        let detail = format!("{}: {}, MCP {protocol}", route.name, server_in_words(name, version));
        news.push(News { detail: Some(detail), ..News::of_route(Kind::McpSession, route) });
        (told.server, told.last_session) = (now.server.clone(), now.last_session);
    }
    if let Some((at, command)) = &now.scope_required {
        let then = told.scope_required.as_ref();
        if then.is_none_or(|(then, before)| before != command || is_while(Some(*then), *at)) {
            let detail = Some(format!("{}: the MCP server asks for more scope", route.name));
            let next_action = Some(command.clone());
            news.push(News { detail, next_action, ..News::of_route(Kind::ScopeRequired, route) });
            told.scope_required = now.scope_required.clone();
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

    #[test]
    fn a_server_is_told_once_a_while_and_when_it_is_another() {
        let config = crate::config::testing::config(
            "[account.a]\ntoken_endpoint = \"https://a.example/t\"\nclient_id = \"c\"\n\
             [route.lab]\naccount = \"a\"\nupstream = \"https://a.example\"\nmcp = true\n",
        );
        let server = |name: &str, at| McpSeen {
            server: Some((name.to_owned(), "1".to_owned())),
            protocol_version: Some("2025-11-25".to_owned()),
            last_session: Some(at),
            scope_required: None,
        };
        let asks = |command: &str, at| McpSeen { scope_required: Some((at, command.to_owned())), ..server("x", 160) };
        let mut told = McpSeen::default();
        for (case, now, expected) in [
            ("nothing", McpSeen::default(), None),
            ("a first session", server("x", 100), Some("lab: \"x\" 1, MCP 2025-11-25")),
            ("the next", server("x", 159), None),
            ("a while later", server("x", 160), Some("lab: \"x\" 1, MCP 2025-11-25")),
            ("it asks for more", asks("login a", 161), Some("lab: the MCP server asks for more scope")),
            ("again", asks("login a", 162), None),
            ("for other scope", asks("login b", 163), Some("lab: the MCP server asks for more scope")),
            ("another server", server("y", 164), Some("lab: \"y\" 1, MCP 2025-11-25")),
        ] {
            let news = mcp_changes(&mut told, &now, &config.routes[0]);
            let details: Vec<&str> = news.iter().filter_map(|news| news.detail.as_deref()).collect();
            assert_eq!(details, Vec::from_iter(expected), "{case}");
        }
    }
}
