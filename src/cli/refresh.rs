//! `valetd refresh`

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::arguments::parse_account;
use super::configuration::places;
use super::failure::{Exit, Failure};
use super::options::Options;
use super::output::print;
use super::runtime::block_on;
use super::text::{length, parse_length, printable};
use super::wait::GLANCE;
use crate::config::AccountId;
use crate::control::client::{Client, ClientError};
use crate::control::report::{AccountReport, State};

/// Renew an account's token now
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  valetd refresh gbdx

Exit codes: 0 renewed, 1 not renewed but the token in hand is still usable (or
the daemon does not run), 3 somebody must sign in, 4 there is no usable token,
5 the store is locked.")]
pub(super) struct Arguments {
    /// The account
    #[arg(value_parser = parse_account)]
    account: AccountId,
    /// How long to wait for the new token: 30s, 5m, 1h
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_length)]
    timeout: Duration,
}

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { account, timeout } = arguments;
    let socket = places(options)?.socket;
    let doing = format!("renewing {account}");
    let renewed = block_on(async {
        let mut client = Client::connect(&socket).await?;
        let before = client.account(account.as_str()).await?;
        if let Err(error) = client.refresh(account.as_str()).await {
            return Ok(Err((error, before.state)));
        }
        Ok(Ok(outcome(&mut client, &before, timeout).await?))
    })?;
    let in_words = |error| Failure::of_call(error, options).while_doing(doing.clone());
    match renewed.map_err(in_words)? {
        Ok((outcome, now)) => report(outcome, &now).map_err(|failure| failure.while_doing(doing.clone())),
        Err((error, state)) if needs_sign_in(state) => Err(in_words(error).with_exit(Exit::SignInRequired)),
        Err((error, _)) => Err(in_words(error)),
    }
}

/// What has become of a renewal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Renewed,
    Failed,
    /// No response in time.
    Pending,
}

/// Whether there is no renewal before a person has seen to the account.
fn needs_sign_in(state: State) -> bool {
    match state {
        State::SignInRequired | State::KeyGone | State::OtherMachine | State::OlderCopy => true,
        State::Usable | State::Waiting | State::Renewing | State::StoreLocked | State::Locked => false,
    }
}

/// Waits for the first renewal to end after `before` was seen.
pub(super) async fn outcome(
    client: &mut Client,
    before: &AccountReport,
    patience: Duration,
) -> Result<(Outcome, AccountReport), ClientError> {
    let deadline = Instant::now() + patience;
    loop {
        let now = client.account(&before.id).await?;
        match compare(before, &now) {
            Outcome::Pending if Instant::now() < deadline => sleep(GLANCE).await,
            outcome => return Ok((outcome, now)),
        }
    }
}

fn compare(before: &AccountReport, now: &AccountReport) -> Outcome {
    if now.renewals > before.renewals {
        return Outcome::Renewed;
    }
    let failed = now.last_failure.is_some() && now.last_failure != before.last_failure;
    let refused = now.state == State::SignInRequired && before.state != State::SignInRequired;
    if failed || refused { Outcome::Failed } else { Outcome::Pending }
}

/// Says how it ended.
pub(super) fn report(outcome: Outcome, now: &AccountReport) -> Result<Exit, Failure> {
    let sentence = match outcome {
        Outcome::Renewed => {
            let life = now.seconds_left.map(|left| format!("; usable for {}", length(left))).unwrap_or_default();
            print(&format!("{}: renewed{life}\n", printable(&now.id)))?;
            return Ok(Exit::Fine);
        }
        Outcome::Failed => {
            let failure = now.last_failure.as_ref().map(|failure| failure.detail.clone());
            failure.or_else(|| now.why.clone()).unwrap_or_else(|| "it failed".to_owned())
        }
        Outcome::Pending => "no answer yet; the daemon goes on trying".to_owned(),
    };
    let exit = match (now.state, now.usable) {
        (State::SignInRequired | State::KeyGone | State::OtherMachine | State::OlderCopy, _) => Exit::SignInRequired,
        (State::StoreLocked | State::Locked, _) => Exit::Locked,
        (State::Usable | State::Waiting | State::Renewing, true) => Exit::Failed,
        (State::Usable | State::Waiting | State::Renewing, false) => Exit::NotUsable,
    };
    let failure = Failure::say(sentence).with_exit(exit);
    Err(match &now.next_action {
        Some(command) => failure.with_remedy(command),
        None => failure,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::tests::report as examples;

    #[test]
    fn a_renewal_has_ended_when_a_counter_or_the_last_failure_has_changed() {
        let [usable, refused] = <[AccountReport; 2]>::try_from(examples().accounts).unwrap();
        let renewed = AccountReport { renewals: usable.renewals + 1, ..usable.clone() };
        let failed = AccountReport { last_failure: refused.last_failure.clone(), ..usable.clone() };
        let mut again = refused.clone();
        again.last_failure.as_mut().unwrap().attempt += 1;
        let signed_out = AccountReport { state: State::SignInRequired, ..usable.clone() };
        let table = [
            ("nothing new", &usable, &usable, Outcome::Pending),
            ("renewed", &usable, &renewed, Outcome::Renewed),
            ("the first failure", &usable, &failed, Outcome::Failed),
            ("an old failure", &refused, &refused, Outcome::Pending),
            ("another failure", &refused, &again, Outcome::Failed),
            ("somebody signed out meanwhile", &usable, &signed_out, Outcome::Failed),
        ];
        for (case, before, now, expected) in table {
            assert_eq!(compare(before, now), expected, "{case}");
        }
    }

    #[test]
    fn a_failure_says_how_the_account_stands() {
        let [usable, refused] = <[AccountReport; 2]>::try_from(examples().accounts).unwrap();
        let without = AccountReport { state: State::Waiting, usable: false, ..usable.clone() };
        for (case, now, expected) in [
            ("the old token is good", &usable, Exit::Failed),
            ("no token", &without, Exit::NotUsable),
            ("refused", &refused, Exit::SignInRequired),
        ] {
            assert_eq!(report(Outcome::Failed, now).unwrap_err().exit, expected, "{case}");
        }
        let failure = report(Outcome::Failed, &refused).unwrap_err();
        assert_eq!(failure.to_string(), "valetd: the server refused the refresh token\n  valetd login gdh\n");
    }
}
