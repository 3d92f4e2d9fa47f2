//! What has changed: the events, and the memory of the last ones.
//!
//! Every event has an id that grows, so that a reader who comes back with `Last-Event-ID` is told what it missed, as
//! far as that is still remembered. No member of an event could hold a token.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::report::Moment;
use crate::config::Route;

/// What has happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
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
    /// A session with an MCP server has begun.
    McpSession,
    /// An MCP server asks for more scope than the account's token has.
    ScopeRequired,
}

impl Kind {
    /// `sign-in-required`
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Renewed => "renewed",
            Kind::Failed => "failed",
            Kind::SignInRequired => "sign-in-required",
            Kind::SignedIn => "signed-in",
            Kind::SignedOut => "signed-out",
            Kind::ConfigChanged => "config-changed",
            Kind::ConfigRefused => "config-refused",
            Kind::Withdrawn => "withdrawn",
            Kind::McpSession => "mcp-session",
            Kind::ScopeRequired => "scope-required",
        }
    }
}

/// One event, as its `data` shows it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Event {
    /// Grows by one with each event, across restarts too: it starts at the daemon's start, in milliseconds since 1970.
    pub id: u64,
    /// When.
    pub at: Moment,
    /// What.
    pub event: Kind,
    /// The account that it happened to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The route to the MCP server that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
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
    pub(super) kind: Kind,
    pub(super) account: Option<String>,
    pub(super) route: Option<String>,
    pub(super) detail: Option<String>,
    pub(super) usable_until: Option<Moment>,
    pub(super) next_action: Option<String>,
    pub(super) problems: Vec<String>,
}

impl News {
    pub(super) fn of_config(kind: Kind, problems: Vec<String>) -> Self {
        Self { kind, account: None, route: None, detail: None, usable_until: None, next_action: None, problems }
    }

    pub(super) fn of_account(kind: Kind, account: &str) -> Self {
        let account = Some(account.to_owned());
        Self { kind, account, route: None, detail: None, usable_until: None, next_action: None, problems: Vec::new() }
    }

    pub(super) fn of_route(kind: Kind, route: &Route) -> Self {
        Self { route: Some(route.name.to_string()), ..Self::of_account(kind, route.account.as_str()) }
    }
}

/// How many events are remembered for readers who come back.
const REMEMBERED: usize = 256;

/// A reader further behind than this is dropped.
const LONGEST_BACKLOG: usize = 256;

/// Where events are told and heard.
#[derive(Debug)]
pub(crate) struct Events {
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
    pub(crate) fn starting_after(first_id: u64) -> Self {
        let told = Mutex::new(Told { last_id: first_id, recent: VecDeque::new() });
        Self { sender: broadcast::Sender::new(LONGEST_BACKLOG), told }
    }

    pub(super) fn tell(&self, news: News, at: Moment) {
        let News { kind, account, route, detail, usable_until, next_action, problems } = news;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.last_id += 1;
        let id = told.last_id;
        let event =
            Arc::new(Event { id, at, event: kind, account, route, detail, usable_until, next_action, problems });
        if told.recent.len() == REMEMBERED {
            told.recent.pop_front();
        }
        told.recent.push_back(event.clone());
        let _ = self.sender.send(event); // nobody need listen
    }

    /// What was told after `last_id`, and what will be. Without an id: only what will be.
    pub(super) fn listen(&self, last_id: Option<u64>) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let missed = told.recent.iter().filter(|event| last_id.is_some_and(|last| event.id > last));
        (missed.cloned().collect(), self.sender.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::readings;
    use super::*;

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
