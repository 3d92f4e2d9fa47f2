//! Which routes exist on a listener, and for how long.

use std::borrow::Cow;
use std::sync::Arc;

use crate::config::RouteName;
use crate::proxy::policy::error::Advice;
use crate::shutdown::Shutdown;

/// The routes of a listener. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Scope {
    /// All, by prefix or by host name.
    All,
    /// This one, without prefix.
    Own(RouteName),
    /// Some, as long as a command runs.
    Lent(Arc<Lent>),
}

/// What a command is lent: for whoever comes in here no other route exists, whichever client key he presents.
pub(crate) struct Lent {
    /// By prefix or by host name.
    pub(crate) routes: Vec<RouteName>,
    /// Ends the listener and its connections.
    pub(crate) ended: Shutdown,
}

impl Scope {
    /// The route that needs no prefix.
    pub(crate) fn own(&self) -> Option<&RouteName> {
        match self {
            Scope::Own(route) => Some(route),
            Scope::All | Scope::Lent(_) => None,
        }
    }

    /// Whether a route of this name, if there is one, exists here.
    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Scope::All | Scope::Own(_) => true,
            Scope::Lent(lent) => lent.routes.iter().any(|route| route.as_str() == name),
        }
    }

    /// What answers of our own say here: nothing of routes that do not exist.
    pub(crate) fn advice<'a>(&self, all: &'a Advice) -> Cow<'a, Advice> {
        match self {
            Scope::All | Scope::Own(_) => Cow::Borrowed(all),
            Scope::Lent(_) => {
                let routes = all.routes.iter().filter(|prefix| self.has(prefix.trim_matches('/'))).cloned().collect();
                Cow::Owned(Advice { routes, ..all.clone() })
            }
        }
    }

    /// Returns when what was lent is at its end; otherwise never.
    pub(crate) async fn ended(&self) {
        match self {
            Scope::All | Scope::Own(_) => std::future::pending().await,
            Scope::Lent(lent) => lent.ended.clone().started().await,
        }
    }
}
