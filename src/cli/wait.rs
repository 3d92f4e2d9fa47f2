//! `valetd wait`

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::arguments::parse_account;
use super::configuration::places;
use super::failure::{Exit, Failure};
use super::holder::listens_elsewhere;
use super::options::Options;
use super::output::remark;
use super::runtime::block_on;
use super::status::verdict;
use super::text::{length, parse_length};
use crate::config::AccountId;
use crate::control::client::{Client, ClientError};
use crate::control::report::{AccountReport, State, StatusReport};
use crate::names::UnknownName;
use crate::platform::paths::Paths;

/// Wait until an account, or every account, is usable
#[derive(clap::Args, Debug)]
#[command(
    long_about = "\
Wait until an account, or every account, is usable: the first thing in a
script. A daemon that is not there yet is waited for as well. Returns at once
if somebody has to sign in, or to correct the configuration: waiting would not
help.",
    after_help = "\
Examples:
  valetd wait && ./nightly.sh
  valetd wait gbdx --timeout 2m

Exit codes: 0 usable, 1 the daemon does not run or cannot be reached,
3 somebody must sign in, 4 not usable in time, 5 the store is still locked,
6 the daemon has no configuration: its file cannot be used."
)]
pub(super) struct Arguments {
    /// The account; without it, all of them
    #[arg(value_parser = parse_account)]
    account: Option<AccountId>,
    /// How long to wait: 30s, 5m, 1h
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_length)]
    timeout: Duration,
}

/// How often to look. There is no more to it than a read of what the daemon has at hand.
pub(super) const GLANCE: Duration = Duration::from_millis(150);

/// A daemon has at least so long to say how it stands, however short the wait is to be.
const LEAST: Duration = Duration::from_secs(1);

/// Who has waited for so long is told what for.
const WORTH_A_WORD: Duration = Duration::from_secs(1);

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { account, timeout } = arguments;
    let places = places(options)?;
    block_on(until_usable(options, &places.socket, timeout, |report| wanted(report, account.as_ref())))?
        .map(|_| Exit::Fine)
}

/// The account that is named, or all.
fn wanted<'a>(report: &'a StatusReport, account: Option<&AccountId>) -> Result<Vec<&'a AccountReport>, Failure> {
    let Some(id) = account else { return Ok(report.accounts.iter().collect()) };
    let found = report.account(id.as_str()).ok_or_else(|| {
        Failure::unknown(&UnknownName::new("account", id.as_str(), report.accounts.iter().map(|account| &*account.id)))
    })?;
    Ok(vec![found])
}

/// Waits until the accounts are usable that `wanted` finds in the daemon's status, also for a daemon that is not there
/// yet. Returns the status that says so. A failure of `wanted` ends the wait.
pub(super) async fn until_usable(
    options: &Options,
    socket: &std::path::Path,
    timeout: Duration,
    wanted: impl for<'a> Fn(&'a StatusReport) -> Result<Vec<&'a AccountReport>, Failure>,
) -> Result<StatusReport, Failure> {
    let began = Instant::now();
    let deadline = began + timeout;
    let mut connection = None;
    let mut is_told = false;
    loop {
        let patience = deadline.saturating_duration_since(Instant::now()).max(LEAST);
        let looked = tokio::time::timeout(patience, look(&mut connection, socket)).await;
        let silent = |_| Err(ClientError::Silent { socket: socket.to_owned(), after: patience });
        let outcome = match looked.unwrap_or_else(silent) {
            Ok(report) => {
                let usable = match Failure::of_missing_configuration(&report.daemon, options) {
                    Some(failure) => Outlook::InVain(failure),
                    None => wanted(&report).map_or_else(Outlook::InVain, |accounts| judge(&accounts, timeout)),
                };
                match usable {
                    Outlook::Usable => return Ok(report),
                    outlook => outlook,
                }
            }
            Err(error) if !is_told && began.elapsed() >= WORTH_A_WORD && is_elsewhere(options, socket) => {
                Outlook::InVain(Failure::of_call(error, options))
            }
            Err(error) if error.is_unreachable() => {
                if !is_told && began.elapsed() >= WORTH_A_WORD {
                    is_told = true;
                    remark(&format!("{error}; waiting up to {} for one", length(timeout.as_secs())));
                }
                Outlook::NotYet(Failure::of_call(error, options))
            }
            Err(error) => Outlook::InVain(Failure::of_call(error, options)),
        };
        match outcome {
            Outlook::NotYet(_) if Instant::now() < deadline => sleep(GLANCE.min(deadline - Instant::now())).await,
            Outlook::NotYet(failure) | Outlook::InVain(failure) => return Err(failure),
            Outlook::Usable => {}
        }
    }
}

/// Whether the daemon of these places listens at another socket, so that none comes to listen at this one.
fn is_elsewhere(options: &Options, socket: &std::path::Path) -> bool {
    Paths::find(options.overrides()).is_ok_and(|places| listens_elsewhere(&places.state_dir, socket).is_some())
}

/// Looks once, over the connection that is open; a new daemon in the place of an old one is a reason to look again.
async fn look(connection: &mut Option<Client>, socket: &std::path::Path) -> Result<StatusReport, ClientError> {
    if let Some(client) = connection
        && let Ok(report) = client.status().await
    {
        return Ok(report);
    }
    let client = connection.insert(Client::connect(socket).await?);
    client.status().await
}

/// What a look says of the wait.
#[derive(Debug)]
enum Outlook {
    Usable,
    /// Why it ends with nothing if time is up now.
    NotYet(Failure),
    InVain(Failure),
}

fn judge(wanted: &[&AccountReport], timeout: Duration) -> Outlook {
    let unusable: Vec<&AccountReport> = wanted.iter().copied().filter(|account| !account.usable).collect();
    let Some(first) = unusable.iter().find(|account| needs_person(account.state)).or(unusable.first()) else {
        return Outlook::Usable; // a token in hand is good also where somebody has to sign in for the next one
    };
    let why = first.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    match verdict(unusable.iter().copied()) {
        exit @ Exit::SignInRequired => {
            let failure = Failure::say(format!("{}: somebody must sign in{why}", first.id)).with_exit(exit);
            Outlook::InVain(match &first.next_action {
                Some(command) => failure.with_remedy(command),
                None => failure,
            })
        }
        exit @ Exit::Locked => {
            let failure = Failure::say(format!("{}: locked{why}", first.id)).with_exit(exit);
            Outlook::NotYet(match &first.next_action {
                Some(command) => failure.with_remedy(command),
                None => failure,
            })
        }
        exit => {
            let waited = length(timeout.as_secs());
            let failure = Failure::say(format!("{}: no usable token after {waited}{why}", first.id));
            Outlook::NotYet(failure.with_exit(exit))
        }
    }
}

/// Who is named first: those whom time alone does not help.
fn needs_person(state: State) -> bool {
    match state {
        State::SignInRequired | State::KeyGone | State::OtherMachine | State::OlderCopy => true,
        State::StoreLocked | State::Locked => true,
        State::Usable | State::Waiting | State::Renewing => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::tests::report;

    const LONG: Duration = Duration::from_secs(30);

    fn judge(report: &StatusReport, account: Option<&str>) -> Outlook {
        let account = account.map(|name| AccountId::new(name).unwrap());
        wanted(report, account.as_ref()).map_or_else(Outlook::InVain, |accounts| super::judge(&accounts, LONG))
    }

    #[test]
    fn a_usable_account_ends_the_wait_whatever_the_others_do() {
        assert!(matches!(judge(&report(), Some("gbdx")), Outlook::Usable));
    }

    #[test]
    fn a_token_in_hand_counts_also_where_somebody_must_sign_in_for_the_next() {
        let mut report = report();
        report.accounts[1].usable = true;
        assert!(matches!(judge(&report, None), Outlook::Usable));
    }

    #[test]
    fn waiting_for_a_person_is_in_vain() {
        let Outlook::InVain(failure) = judge(&report(), None) else { panic!("it goes on") };
        assert_eq!(failure.exit, Exit::SignInRequired);
        assert_eq!(failure.remedy.as_deref(), Some("valetd login gdh"));
        assert!(failure.to_string().contains("gdh: somebody must sign in: the refresh token was refused"), "{failure}");
    }

    #[test]
    fn a_renewal_under_way_is_worth_waiting_for() {
        let mut report = report();
        (report.accounts[0].usable, report.accounts[0].state) = (false, State::Renewing);
        report.accounts[0].why = Some("connecting: refused".to_owned());
        let Outlook::NotYet(failure) = judge(&report, Some("gbdx")) else { panic!("it ends") };
        assert_eq!(failure.exit, Exit::NotUsable);
        assert_eq!(failure.to_string(), "valetd: gbdx: no usable token after 30 s: connecting: refused\n");
    }

    #[test]
    fn an_account_that_is_not_there_is_not_waited_for() {
        let Outlook::InVain(failure) = judge(&report(), Some("gdbx")) else { panic!("it goes on") };
        assert_eq!((failure.exit, failure.remedy.as_deref()), (Exit::Failed, Some("the accounts are: gbdx, gdh")));
    }
}
