//! Which routes exist on a listener, and for how long.

use std::borrow::Cow;
use std::sync::Arc;

use crate::client_keys::{AddressKind, Rights};
use crate::config::RouteName;
use crate::proxy::policy::error::Advice;
use crate::shutdown::Shutdown;

/// Who reads a response of our own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reader<'a> {
    /// A client that needs no key, and has presented none.
    Owner,
    /// A client with a key of these rights.
    Holder(&'a Rights),
    /// Anybody else.
    Stranger,
}

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
    /// By prefix or by host name, or by where they lead to.
    pub(crate) routes: Vec<RouteName>,
    /// How they are reached: `exec --intercept` hands on requests that name the upstream, as their client knows of no other
    /// address.
    pub(crate) kind: AddressKind,
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

    /// Whether a request names an upstream here, and not us.
    pub(crate) fn names_upstreams(&self) -> bool {
        match self {
            Scope::All | Scope::Own(_) => false,
            Scope::Lent(lent) => matches!(lent.kind, AddressKind::Upstreams { .. }),
        }
    }

    /// Whether the key that is presented here says nothing of the process that asks: who holds it hands on what any of the
    /// user's sends.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Scope::All | Scope::Own(_) => false,
            Scope::Lent(lent) => lent.kind == AddressKind::Upstreams { open: true },
        }
    }

    /// What responses of our own say here: nothing of routes that do not exist, or that the client's key is not for, and to a
    /// client that would need a key nothing of the configuration and its places.
    pub(crate) fn advice<'a>(&self, all: &'a Advice, to: Reader<'_>) -> Cow<'a, Advice> {
        match to {
            Reader::Owner => {}
            Reader::Holder(rights) => {
                let is_theirs = |prefix: &&String| {
                    let name = prefix.trim_matches('/');
                    self.has(name) && rights.routes.iter().any(|route| route.as_str() == name)
                };
                let routes = all.routes.iter().filter(is_theirs).cloned().collect();
                return Cow::Owned(Advice { routes, ..Advice::default() });
            }
            Reader::Stranger => {
                // without the command, which names the places of our files
                let first_steps = all.first_steps.is_some().then(|| "No account is set up yet.".to_owned());
                return Cow::Owned(Advice { first_steps, ..Advice::default() });
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_no_route_and_no_file_that_its_reader_may_not_know() {
        let all = Advice {
            routes: vec!["/lab/".into(), "/gbdx/".into()],
            first_steps: None,
            config_problem: Some("/home/me/valetd.toml".into()),
        };
        let rights = |routes: &[&str]| Rights {
            routes: routes.iter().map(|name| RouteName::new(name).unwrap()).collect(),
            methods: Vec::new(),
            paths: Vec::new(),
            messages: Vec::new(),
        };
        let (lab, gdh) = (rights(&["lab", "gdh"]), rights(&["gdh"]));
        for (case, reader, routes, is_told) in [
            ("owner", Reader::Owner, 2, true),
            ("holder", Reader::Holder(&lab), 1, false),
            ("holder for a route that is gone", Reader::Holder(&gdh), 0, false),
            ("stranger", Reader::Stranger, 0, false),
        ] {
            let told = Scope::All.advice(&all, reader);
            assert_eq!((told.routes.len(), told.config_problem.is_some()), (routes, is_told), "{case}");
        }
    }
}
