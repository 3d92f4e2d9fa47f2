//! Which routes a command is given: those of `-r` and of `--account`, or all.

use crate::cli::failure::Failure;
use crate::config::{AccountId, RouteName};
use crate::control::report::{AccountReport, RouteReport, StatusReport};
use crate::names::UnknownName;

/// What was asked for on the command line.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) routes: Vec<RouteName>,
    /// Accounts all of whose routes are meant.
    pub(super) accounts: Vec<AccountId>,
}

impl Asked {
    /// Whether some are named, rather than all meant.
    pub(super) fn is_named(&self) -> bool {
        !self.routes.is_empty() || !self.accounts.is_empty()
    }

    /// The routes, in the order of the status, each once.
    ///
    /// # Errors
    ///
    /// [`Failure`] if there is no such route or account, or if there would be no route at all.
    pub(super) fn of<'a>(&self, report: &'a StatusReport) -> Result<Vec<&'a RouteReport>, Failure> {
        for name in &self.routes {
            if !report.routes.iter().any(|route| route.name == name.as_str()) {
                let routes = report.routes.iter().map(|route| route.name.as_str());
                return Err(Failure::unknown(&UnknownName::new("route", name.as_str(), routes)));
            }
        }
        for id in &self.accounts {
            if report.account(id.as_str()).is_none() {
                let accounts = report.accounts.iter().map(|account| account.id.as_str());
                return Err(Failure::unknown(&UnknownName::new("account", id.as_str(), accounts)));
            }
            if !report.routes.iter().any(|route| route.account == id.as_str()) {
                let remedy = format!("add to the configuration: [route.NAME] with account = \"{id}\" and an upstream");
                return Err(Failure::say(format!("the account {id} has no route")).with_remedy(remedy));
            }
        }
        if report.routes.is_empty() {
            let remedy = "add an account of a provider, which brings its routes, or [route.NAME], to the configuration";
            return Err(Failure::say("there is no route that a command could use").with_remedy(remedy));
        }
        let is_meant = |route: &&RouteReport| {
            !self.is_named()
                || self.routes.iter().any(|name| name.as_str() == route.name)
                || self.accounts.iter().any(|id| id.as_str() == route.account)
        };
        Ok(report.routes.iter().filter(is_meant).collect())
    }
}

/// The accounts of routes, which are waited for.
pub(super) fn accounts_of<'a>(report: &'a StatusReport, routes: &[&RouteReport]) -> Vec<&'a AccountReport> {
    report.accounts.iter().filter(|account| routes.iter().any(|route| route.account == account.id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::tests::report;

    fn asked(routes: &[&str], accounts: &[&str]) -> Asked {
        Asked {
            routes: routes.iter().map(|name| RouteName::new(name).unwrap()).collect(),
            accounts: accounts.iter().map(|name| AccountId::new(name).unwrap()).collect(),
        }
    }

    /// Routes `gbdx` and `rda` of the account gbdx, and `other` of gdh.
    fn three() -> StatusReport {
        let mut report = report();
        for (name, account) in [("rda", "gbdx"), ("other", "gdh")] {
            let mut route = report.routes[0].clone();
            (route.name, route.account) = (name.to_owned(), account.to_owned());
            report.routes.push(route);
        }
        report
    }

    #[test]
    fn routes_are_named_by_themselves_or_by_their_account_and_the_accounts_that_are_waited_for_are_theirs() {
        let report = three();
        for (routes, accounts, expected, waited) in [
            (&[][..], &[][..], &["gbdx", "rda", "other"][..], &["gbdx", "gdh"][..]),
            (&["rda"], &[], &["rda"], &["gbdx"]),
            (&[], &["gbdx"], &["gbdx", "rda"], &["gbdx"]),
            (&["other", "rda"], &["gbdx"], &["gbdx", "rda", "other"], &["gbdx", "gdh"]),
            (&["other"], &["gdh"], &["other"], &["gdh"]),
        ] {
            let found = asked(routes, accounts).of(&report).unwrap();
            let names: Vec<&str> = found.iter().map(|route| route.name.as_str()).collect();
            assert_eq!(names, expected, "{routes:?}, {accounts:?}");
            let ids: Vec<&str> = accounts_of(&report, &found).iter().map(|account| account.id.as_str()).collect();
            assert_eq!(ids, waited, "{routes:?}, {accounts:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_said_with_what_is_and_a_command_without_any_route_is_told_how() {
        let mut report = report();
        let remedy = |report: &StatusReport, asked: Asked| {
            let failure = asked.of(report).unwrap_err();
            (failure.to_string(), failure.remedy.unwrap_or_default())
        };
        assert_eq!(remedy(&report, asked(&["gdbx"], &[])).1, "the routes are: gbdx");
        assert_eq!(remedy(&report, asked(&[], &["gdbx"])).1, "the accounts are: gbdx, gdh");
        let (says, how) = remedy(&report, asked(&[], &["gdh"]));
        assert!(says.contains("the account gdh has no route") && how.contains("account = \"gdh\""), "{says} {how}");
        report.routes.clear();
        let (says, how) = remedy(&report, asked(&[], &[]));
        assert!(says.contains("there is no route") && how.contains("[route.NAME]"), "{says} {how}");
    }
}
