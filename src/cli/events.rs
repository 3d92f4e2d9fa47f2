//! `valetd events`

use anstyle::{AnsiColor, Style};

use super::configuration::places;
use super::failure::{Exit, Failure};
use super::options::Options;
use super::output::print;
use super::runtime::block_on;
use super::text::{columns, printable, styled};
use crate::control::client::Client;
use crate::control::events::{Event, Kind};
use crate::sign_in::terminal::folded;

/// Show what changes, as it changes: renewals, failures, sign-ins
#[derive(clap::Args, Debug)]
#[command(
    long_about = "\
Show what changes, as it changes, a line each: renewed, failed, withdrawn,
sign-in-required, signed-in, signed-out, config-changed, config-refused; of
MCP servers mcp-session (which server, and its protocol's version) and
scope-required. Ends with the daemon. The same as a stream of server-sent
events:

  curl -N --unix-socket $XDG_RUNTIME_DIR/valetd/valetd.sock http://v/v1/events

Members of an event in JSON: id (grows), at, event, and where they apply
account, route, detail, usable_until, next_action, problems. No secret is in
any.",
    after_help = "\
Examples:
  valetd events
  valetd events --json | jq -r 'select(.event == \"sign-in-required\").account'

Exit codes: 1 the daemon has ended or cannot be reached."
)]
pub(super) struct Arguments {
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// First show what has happened since the event of this id
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
}

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let places = places(options)?;
    let failed = |error| Failure::of_call(error, options).while_doing("listening to events");
    block_on(async {
        let report = Client::connect(&places.socket).await.map_err(failed)?.status().await.map_err(failed)?;
        let names = report.accounts.iter().map(|account| account.id.chars().count());
        let mut widest = names.max().unwrap_or(0);
        let client = Client::connect(&places.socket).await.map_err(failed)?;
        // a reader that is no terminal has a line for each event
        let columns = columns();
        let mut events = client.events(arguments.after).await.map_err(failed)?;
        while let Some(event) = events.next().await.map_err(failed)? {
            if arguments.json {
                let text = serde_json::to_string(&event).expect("an event has string keys and no failing parts");
                print(&format!("{text}\n"))?;
            } else {
                widest = widest.max(event.account.as_ref().map_or(0, |name| name.chars().count()));
                print(&line(&event, widest, columns))?;
            }
        }
        Err(Failure::say("the daemon has ended"))
    })?
}

/// An event in columns; that of the accounts has room for the widest name. On a terminal, which has so many columns, it goes
/// on below its beginning.
fn line(event: &Event, widest: usize, columns: Option<usize>) -> String {
    let Event { id: _, at, event: kind, account, route: _, detail, usable_until, next_action, problems } = event;
    let style = match kind {
        Kind::Renewed | Kind::SignedIn => AnsiColor::Green.on_default(),
        Kind::Failed | Kind::Withdrawn => AnsiColor::Yellow.on_default(),
        Kind::SignInRequired | Kind::ScopeRequired | Kind::ConfigRefused => AnsiColor::Red.on_default(),
        Kind::SignedOut | Kind::ConfigChanged | Kind::McpSession => Style::new(),
    };
    let mut words = String::new();
    if let Some(account) = account {
        let width = 16 - kind.name().len(); // of the longest
        words.push_str(&format!("{:width$}  {account:widest$}", ""));
    }
    if let Some(until) = usable_until {
        words.push_str(&format!("  usable until {until}"));
    }
    if let Some(detail) = detail {
        words.push_str(&format!("  {}", printable(detail)));
    }
    if let Some(command) = next_action {
        words.push_str(&format!("  -> {}", printable(command)));
    }
    let begins = format!("{at}  {}", kind.name());
    let mut line = format!("{begins}{words}");
    for problem in problems {
        line.push_str(&format!("\n  {}", printable(problem)));
    }
    // what it begins with is narrower than any terminal
    if let Some(columns) = columns {
        line = folded(&line, columns, 4);
    }
    let rest = line.strip_prefix(&begins).unwrap_or_default().trim_end();
    format!("{at}  {}{rest}\n", styled(kind.name(), style))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> String {
        anstream::adapter::strip_str(&line(&serde_json::from_str(json).unwrap(), 5, None)).to_string()
    }

    #[test]
    fn an_event_is_a_line_and_its_problems_are_lines_below() {
        let table = [
            (
                r#"{"id":1,"at":"2026-09-21T14:13:20Z","event":"renewed","account":"gbdx",
                    "usable_until":"2026-09-21T15:13:20Z"}"#,
                "2026-09-21T14:13:20Z  renewed           gbdx   usable until 2026-09-21T15:13:20Z\n",
            ),
            (
                r#"{"id":2,"at":"2026-09-21T14:13:20Z","event":"sign-in-required","account":"gdh",
                    "detail":"revoked\u001b","next_action":"valetd login gdh"}"#,
                "2026-09-21T14:13:20Z  sign-in-required  gdh    revoked\u{fffd}  -> valetd login gdh\n",
            ),
            (
                r#"{"id":3,"at":"2026-09-21T14:13:20Z","event":"signed-out","account":"gdh"}"#,
                "2026-09-21T14:13:20Z  signed-out        gdh\n",
            ),
            (
                r#"{"id":4,"at":"2026-09-21T14:13:20Z","event":"config-refused","problems":["a","b"]}"#,
                "2026-09-21T14:13:20Z  config-refused\n  a\n  b\n",
            ),
        ];
        for (json, expected) in table {
            assert_eq!(read(json), expected);
        }
    }

    #[test]
    fn on_a_narrow_terminal_an_event_goes_on_below() {
        let json = r#"{"id":2,"at":"2026-09-21T14:13:20Z","event":"sign-in-required","account":"gdh",
                       "detail":"the refresh token was refused","next_action":"valetd login gdh"}"#;
        let shown = line(&serde_json::from_str(json).unwrap(), 5, Some(60));
        let shown = anstream::adapter::strip_str(&shown).to_string();
        let expected =
            "2026-09-21T14:13:20Z  sign-in-required  gdh    the refresh\n    token was refused  -> valetd login gdh\n";
        assert_eq!(shown, expected);
    }
}
