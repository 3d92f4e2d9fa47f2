//! One line for the service manager: `systemctl --user status` shows it.

use crate::advice::advised;
use crate::control::report::{State, StatusReport};
use crate::span::coarse;

/// One line for `systemctl --user status`.
pub(super) fn status_line(report: &StatusReport) -> String {
    let needs_person = report.accounts.iter().filter(|account| account.state == State::SignInRequired).count();
    let next = report.accounts.iter().filter_map(|a| a.next_wakeup.as_ref().map(|next| (next.in_seconds, &a.id))).min();
    let accounts = match report.accounts.len() {
        0 => "no accounts".to_owned(),
        1 => "1 account".to_owned(),
        many => format!("{many} accounts"),
    };
    let see = advised("status");
    let mut words = vec![accounts];
    if !report.daemon.config_problems.is_empty() {
        words.insert(0, format!("the configuration has problems (see {see})"));
    }
    if report.daemon.store.locked.is_some() {
        words.push(format!("the store is locked (see {see})"));
    }
    if needs_person > 0 {
        words.push(format!("{needs_person} must be signed in to (see {see})"));
    }
    if report.accounts.iter().any(|account| account.credential.as_ref().is_some_and(|credential| !credential.saved)) {
        words.push("a refresh token is not saved".to_owned());
    }
    if let Some((seconds, id)) = next {
        words.push(format!("next renewal {id} in {}", coarse(seconds)));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::tests::report;

    #[test]
    fn the_line_names_what_a_person_should_know_first() {
        let both = report();
        let one = StatusReport { accounts: vec![both.accounts[0].clone()], ..report() };
        let mut unsaved = one.clone();
        unsaved.accounts[0].credential.as_mut().unwrap().saved = false;
        let none = StatusReport { accounts: Vec::new(), ..report() };
        let mut broken = none.clone();
        broken.daemon.config_problems = vec!["no".to_owned()];
        let rows = [
            ("no accounts", &none, "no accounts"),
            ("one", &one, "1 account, next renewal gbdx in 36 min"),
            ("not saved", &unsaved, "1 account, a refresh token is not saved, next renewal gbdx in 36 min"),
            ("a sign-in", &both, "2 accounts, 1 must be signed in to (see valetd status), next renewal gbdx in 36 min"),
            ("problems", &broken, "the configuration has problems (see valetd status), no accounts"),
        ];
        for (case, report, expected) in rows {
            assert_eq!(status_line(report), expected, "{case}");
        }
    }
}
