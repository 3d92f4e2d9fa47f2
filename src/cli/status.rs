//! `valetd status`

use anstyle::{AnsiColor, Style};

use super::text::{Cell, Table, WIDTH, cut, length, printable, relative, styled, wrapped};
use super::{Exit, Failure, Options, block_on, places, print};
use crate::control::client::Client;
use crate::control::report::{AccountReport, DaemonReport, State, StatusReport, Wakeup};
use crate::renewal::Reason;

/// Show accounts, routes and what to do next
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  valetd status
  valetd status --json | jq -r '.accounts[] | [.id, .state] | @tsv'
  valetd status >/dev/null || echo 'valetd wants a look'

Exit codes: 0 every account is usable, 1 the daemon does not run or cannot be
reached, 3 somebody must sign in, 4 some token is not usable now.")]
pub(super) struct Arguments {
    /// Print the status document (schema 1) for scripts
    #[arg(long)]
    json: bool,
}

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let places = places(options)?;
    let report = block_on(async { Client::connect(&places.socket).await?.status().await })?;
    let report = report.map_err(|error| Failure::of_call(error, options).while_doing("asking for the status"))?;
    if arguments.json {
        let text = serde_json::to_string_pretty(&report).expect("the document has string keys and no failing parts");
        print(&format!("{text}\n"))?;
    } else {
        print(&render(&report, &options.invocation()))?;
    }
    Ok(verdict(&report.accounts))
}

/// The exit status that tells how accounts stand: the most demanding one counts.
pub(super) fn verdict<'a>(accounts: impl IntoIterator<Item = &'a AccountReport>) -> Exit {
    let mut exit = Exit::Fine;
    for account in accounts {
        exit = match (account.state, account.usable) {
            (State::SignInRequired, _) => return Exit::SignInRequired,
            (State::Usable | State::Waiting | State::Renewing, false) => Exit::NotUsable,
            (State::Usable | State::Waiting | State::Renewing, true) => exit,
        };
    }
    exit
}

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();
const SOON: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// A refresh token whose end is nearer than this is worth a line, in seconds.
const WORTH_A_WARNING: i64 = 7 * 86_400;

/// The status for people, at most 80 columns wide but for URLs and names that are longer.
fn render(report: &StatusReport, invocation: &str) -> String {
    let mut out = header(&report.daemon);
    out.push('\n');
    if report.accounts.is_empty() {
        out.push_str(&format!("No account yet. To add one: {invocation} login gbdx\n"));
    } else {
        out.push_str(&accounts(report));
    }
    if !report.routes.is_empty() {
        out.push('\n');
        out.push_str(&routes(report));
    }
    out
}

fn header(daemon: &DaemonReport) -> String {
    let DaemonReport { version, pid, uptime_seconds, listen, config_problems, warnings, .. } = daemon;
    let listen = if listen.is_empty() { "no address".to_owned() } else { listen.join(", ") };
    let uptime = length(*uptime_seconds);
    let mut out = wrapped(&format!("valetd {version}, pid {pid}, up {uptime}, serving {listen}"), 0);
    if !config_problems.is_empty() {
        let line =
            format!("{} has problems; the configuration before it stays in force:", daemon.config_file.display());
        out.push_str(&styled(wrapped(&printable(&line), 0).trim_end(), BAD));
        out.push('\n');
        for problem in config_problems {
            out.push_str(&wrapped(&printable(problem), 2));
        }
    }
    for warning in warnings {
        out.push_str(&styled(wrapped(&printable(&format!("warning: {warning}")), 0).trim_end(), SOON));
        out.push('\n');
    }
    out
}

fn accounts(report: &StatusReport) -> String {
    let mut table = Table::default();
    table.row(["ACCOUNT", "STATE", "TOKEN", "NEXT", "SIGNED IN"].map(|title| Cell::new(title).styled(BOLD)));
    for account in &report.accounts {
        let state = Cell::new(account.state.to_string()).styled(match account.state {
            State::Usable => GOOD,
            State::Waiting | State::Renewing => SOON,
            State::SignInRequired => BAD,
        });
        let token = match account.seconds_left {
            Some(left) if account.usable => format!("{} left", length(left)),
            Some(_) | None => "none".to_owned(),
        };
        let identity = account.credential.as_ref().and_then(|credential| credential.identity.as_deref());
        // what is left of the line beside the widest of the other columns
        let identity = cut(&printable(identity.unwrap_or("-")), 20);
        table.row([Cell::new(&*account.id), state, Cell::new(token), Cell::new(next(account)), Cell::new(identity)]);
    }
    let mut lines = table.lines().into_iter();
    let mut out = String::new();
    let mut push = |line: Option<String>| {
        out.push_str(line.unwrap_or_default().trim_end());
        out.push('\n');
    };
    push(lines.next());
    for (account, line) in report.accounts.iter().zip(lines) {
        push(Some(line));
        for remark in remarks(account, report) {
            push(Some(remark));
        }
    }
    out
}

/// What happens next, in a few words.
fn next(account: &AccountReport) -> String {
    let Some(Wakeup { in_seconds, reason, at: _ }) = &account.next_wakeup else {
        return match account.state {
            State::SignInRequired => "-",
            State::Usable | State::Renewing | State::Waiting => "renewing",
        }
        .to_owned();
    };
    let what = match reason {
        Reason::First => "first token",
        Reason::BeforeExpiry | Reason::BeforeRefreshTokenDies => "renews",
        Reason::Retry => "retries",
        Reason::Asked => "renews",
        Reason::Withdraw => "ends",
    };
    format!("{what} {}", relative(i64::try_from(*in_seconds).unwrap_or(i64::MAX)))
}

/// The lines below an account's line: only what a person would want to know now.
fn remarks(account: &AccountReport, report: &StatusReport) -> Vec<String> {
    let mut remarks = Vec::new();
    let mut say = |text: &str, style: Style| {
        remarks.extend(wrapped(&printable(text), 2).lines().map(|line| styled(line, style)));
    };
    if let Some(why) = &account.why {
        say(why, DIM);
    }
    if account.failures > 0
        && let Some(failure) = &account.last_failure
    {
        let when = relative(failure.at.seconds_since(report.at));
        let code = failure.oauth_error.as_deref().map(|code| format!(", {code}")).unwrap_or_default();
        let status = failure.http_status.map(|status| format!(", HTTP {status}")).unwrap_or_default();
        say(&format!("last failure {when} ({}{status}{code}), attempt {}", failure.class, failure.attempt), DIM);
    }
    if let Some(credential) = &account.credential {
        if !credential.saved {
            say("the newest refresh token is not saved: it is lost when the daemon ends", BAD);
        }
        if let Some(at) = credential.refresh_expires_at {
            let ahead = at.seconds_since(report.at);
            if ahead < WORTH_A_WARNING {
                say(&format!("the refresh token is expected to die {}", relative(ahead)), SOON);
            }
        }
    }
    if let Some(command) = &account.next_action {
        say(&format!("-> {command}"), BOLD);
    }
    remarks
}

fn routes(report: &StatusReport) -> String {
    let mut table = Table::default();
    let titles = ["ROUTE", "REQUESTS", "OPEN", "ERRORS", "401S", "URL"];
    table.row(titles.map(|title| {
        let cell = Cell::new(title).styled(BOLD);
        if matches!(title, "ROUTE" | "URL") { cell } else { cell.leaning_right() }
    }));
    for route in &report.routes {
        let errors = Cell::number(route.errors).styled(if route.errors > 0 { SOON } else { Style::new() });
        let rejected = Cell::number(route.rejected).styled(if route.rejected > 0 { SOON } else { Style::new() });
        let url = route.urls.first().map_or("-", String::as_str);
        table.row([
            Cell::new(cut(&route.name, WIDTH / 4)),
            Cell::number(route.requests),
            Cell::number(route.open),
            errors,
            rejected,
            Cell::new(url),
        ]);
    }
    table.lines().iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::tests::report;

    #[test]
    fn the_status_reads_at_a_glance() {
        let mut report = report();
        report.routes[0].requests = 120;
        report.routes[0].rejected = 2;
        assert_eq!(
            plain(&render(&report, "valetd")),
            "\
valetd 0.1.0, pid 4711, up 1 min, serving 127.0.0.1:8253, [::1]:8253
warning: lingering is off

ACCOUNT  STATE             TOKEN        NEXT              SIGNED IN
gbdx     usable            41 min left  renews in 36 min  me@example.com
gdh      sign-in-required  none         -                 -
  the refresh token was refused: it was revoked or has expired
  last failure 12 s ago (permanent, HTTP 400, invalid_grant), attempt 1
  -> valetd login gdh

ROUTE  REQUESTS  OPEN  ERRORS  401S  URL
gbdx        120     0       0     2  http://localhost:8253/gbdx/
"
        );
    }

    #[test]
    fn trouble_is_said_where_it_belongs() {
        let mut report = report();
        report.daemon.config_problems = vec!["config.toml:3:1: route.x: no account named \"x\"\x1b[2J".to_owned()];
        let credential = report.accounts[0].credential.as_mut().unwrap();
        credential.saved = false;
        credential.identity = Some("somebody.with.a.long.name@example.com".to_owned());
        credential.refresh_expires_at = Some(report.at);
        let text = plain(&render(&report, "valetd"));
        for expected in [
            "has problems; the configuration before it\nstays in force:\n",
            "  config.toml:3:1: route.x: no account named \"x\"\u{fffd}[2J\n",
            "  the newest refresh token is not saved: it is lost when the daemon ends\n",
            "  the refresh token is expected to die now\n",
            "somebody.with.a.lon…\n",
        ] {
            assert!(text.contains(expected), "{expected} is not in:\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
    }

    #[test]
    fn without_accounts_the_first_step_is_shown() {
        let mut report = report();
        report.accounts.clear();
        report.routes.clear();
        let text = render(&report, "valetd --socket /tmp/v");
        assert!(text.ends_with("No account yet. To add one: valetd --socket /tmp/v login gbdx\n"), "{text}");
    }

    #[test]
    fn the_exit_status_is_that_of_the_most_demanding_account() {
        let [usable, refused] = <[AccountReport; 2]>::try_from(report().accounts).unwrap();
        let waiting = AccountReport { state: State::Waiting, usable: false, ..usable.clone() };
        let table = [
            ("none", vec![], Exit::Fine),
            ("all usable", vec![&usable, &usable], Exit::Fine),
            ("one waits", vec![&waiting, &usable], Exit::NotUsable),
            ("one needs a person", vec![&waiting, &refused, &usable], Exit::SignInRequired),
        ];
        for (case, accounts, expected) in table {
            assert_eq!(verdict(accounts), expected, "{case}");
        }
    }

    #[test]
    fn what_comes_next_is_said_in_a_few_words() {
        let mut account = report().accounts.remove(0);
        let mut at = |in_seconds, reason| {
            let wakeup = account.next_wakeup.as_mut().unwrap();
            (wakeup.in_seconds, wakeup.reason) = (in_seconds, reason);
            next(&account)
        };
        assert_eq!(at(0, Reason::First), "first token now");
        assert_eq!(at(12, Reason::Retry), "retries in 12 s");
        assert_eq!(at(60, Reason::Withdraw), "ends in 1 min");
        account.next_wakeup = None;
        assert_eq!(next(&account), "renewing");
    }

    /// The text as it is written where there is no colour.
    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }
}
