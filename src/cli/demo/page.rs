//! What the live demonstration looks like. Pure.

use std::path::Path;

use anstyle::{AnsiColor, Style};

use super::folder::own_program;
use super::servers::{REQUESTS, Servers, account};
use crate::cli::status::{bar, life};
use crate::cli::text::{Cell, Table, length, relative, styled};
use crate::control::report::{AccountReport, State, StatusReport};
use crate::sign_in::terminal::folded as folded_words;
use crate::stand_in::{PASSWORD, USERNAME};

/// What does not change while it is shown.
pub(super) struct Scene<'a> {
    /// Where all routes are served.
    pub(super) base: String,
    /// The port where it was to be, if somebody else has that.
    pub(super) elsewhere: Option<u16>,
    /// The demonstration's own, with the program in it that talks to its daemon.
    pub(super) folder: &'a Path,
    /// For who practises signing in: where, and a one-time code.
    pub(super) practice: Option<(&'a Servers, String)>,
}

const STRONG: Style = Style::new().bold();
const FAINT: Style = Style::new().dimmed();

/// The whole page; `told` is what a key has brought about.
pub(super) fn page(report: &StatusReport, scene: &Scene<'_>, told: &str, width: usize) -> String {
    let up = length(report.daemon.uptime_seconds);
    let mut out = format!("{}  {}\n", styled("valetd demo", STRONG), styled(&format!("up {up}"), FAINT));
    out.push_str(&styled("q ends it, r revokes the tokens, o is an outage", FAINT));
    out.push_str("\n\n");
    out.push_str(&tokens(&report.accounts, width));
    if scene.practice.is_none() {
        out.push('\n');
        out.push_str(&routes(report, &scene.base));
    }
    let told = folded_words(told, width, 0);
    out.push_str(&format!("\n{}\n", styled(&told, AnsiColor::Yellow.on_default())));
    out.push_str(&suggestions(scene, width));
    out
}

/// A bar of each token's life, as wide as the words leave room for.
fn tokens(accounts: &[AccountReport], width: usize) -> String {
    const NAME: usize = 4;
    let words: Vec<String> = accounts.iter().map(token_in_words).collect();
    let widest = words.iter().map(|words| words.chars().count()).max().unwrap_or(0);
    let beside = width.saturating_sub(NAME + widest + 4);
    // where there is no room for both, the words have a line of their own
    let (bar_width, gap) = match beside {
        10.. => (beside.min(60), "  ".to_owned()),
        _ => (width.saturating_sub(NAME + 2).clamp(10, 60), format!("\n{:1$}", "", NAME + 2)),
    };
    let line = |(account, words): (&AccountReport, String)| {
        let color = match account.state {
            state if state.waits_for_a_person() => AnsiColor::Red,
            State::Usable => AnsiColor::Green,
            _ => AnsiColor::Yellow,
        };
        let bar = styled(&bar(life(account), bar_width), color.on_default());
        format!("{:<NAME$}  {bar}{gap}{words}\n", account.id)
    };
    accounts.iter().zip(words).map(line).collect()
}

fn routes(report: &StatusReport, base: &str) -> String {
    let mut table = Table::default();
    let number = |title: &str| Cell::new(title).leaning_right();
    table.row([Cell::new("ROUTE"), number("REQUESTS"), number("ERR"), number("401")]);
    for route in &report.routes {
        let url = Cell::new(format!("{base}/{}/", route.name));
        table.row([url, Cell::number(route.requests), Cell::number(route.errors), Cell::number(route.rejected)]);
    }
    table.lines().into_iter().map(|line| line + "\n").collect()
}

/// What a person may try, in lines that fit the width where that is possible.
pub(super) fn suggestions(scene: &Scene<'_>, width: usize) -> String {
    let Scene { base, elsewhere, practice, folder } = scene;
    let valetd = own_program(folder);
    let elsewhere = elsewhere.map_or(String::new(), |port| {
        folded_words(&format!("Port {port} is taken, so this daemon is at {base}.\n"), width, 0)
    });
    let mut out = String::new();
    let mut offer = |command: String| out.push_str(&folded(&command, width));
    match practice {
        None => {
            for path in &REQUESTS[..3] {
                let command = format!("curl {base}{path}");
                if command.len() + 2 <= width {
                    offer(command);
                }
            }
            offer(format!("{valetd} status"));
            let words = folded_words("Try, in another shell; a wrong credential does no harm:", width, 0);
            format!("{elsewhere}{words}\n\n{out}\n")
        }
        Some((servers, code)) => {
            offer(format!("{valetd} login gbdx"));
            offer(format!("{valetd} login gdh --code {code}"));
            offer(format!("curl {base}/gbdx/auth/v1/validate_token"));
            let lines = account("gbdx", &servers.gbdx);
            let lines: String = lines.lines().map(|line| format!("  {line}\n")).collect();
            format!(
                "{elsewhere}Practise, in another shell:\n\n{out}\n  User name: {USERNAME}\n  Password:  {PASSWORD}\n\n\
                 Or from your own daemon, with this in its configuration:\n\n{lines}\n"
            )
        }
    }
}

/// A command as a shell takes it, over several lines where it is too wide for one.
fn folded(command: &str, width: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in command.split(' ') {
        if column > 0 && column + 1 + word.len() + 2 > width {
            out.push_str(" \\\n    ");
            column = 4;
        } else {
            out.push_str(if column == 0 { "  " } else { " " });
            column += if column == 0 { 2 } else { 1 };
        }
        out.push_str(word);
        column += word.len();
    }
    out.push('\n');
    out
}

pub(super) fn token_in_words(account: &AccountReport) -> String {
    let left = match (account.state, account.seconds_left) {
        (State::SignInRequired, _) => return "nobody is signed in".to_owned(),
        (_, Some(left)) => format!("{} left", length(left)),
        (_, None) => "no token".to_owned(),
    };
    let next = account.next_wakeup.as_ref();
    let next = next.map(|next| relative(i64::try_from(next.in_seconds).unwrap_or(i64::MAX)));
    if account.failures > 0 {
        return format!("{left}, renewal failed, again {}", next.as_deref().unwrap_or("soon"));
    }
    let next = next.map(|next| format!(", renewal {next}"));
    let renewals = match account.renewals {
        1 => "1 renewal".to_owned(),
        many => format!("{many} renewals"),
    };
    format!("{left}{}; {renewals} so far", next.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::Moment;
    use crate::control::report::tests::report;

    /// An account whose token lives so many seconds, of which so many are left.
    fn with_token(life: u64, left: u64) -> AccountReport {
        AccountReport {
            last_success: Some(Moment::of_unix(1_000_000)),
            usable_until: Some(Moment::of_unix(1_000_000 + life)),
            seconds_left: Some(left),
            usable: left > 0,
            ..report().accounts[0].clone()
        }
    }

    #[test]
    fn a_bar_shows_what_is_left_of_any_life_at_any_width() {
        for life in [20, 3600, 30 * 86_400] {
            for width in [60, 80, 140] {
                for (left, words) in [(life, "█"), (life / 2, "█"), (0, "·")] {
                    let shown = tokens(&[with_token(life, left)], width);
                    let shown = anstream::adapter::strip_str(&shown).to_string();
                    let widest = shown.lines().map(|line| line.chars().count()).max().unwrap_or(0);
                    assert!(widest <= width, "{life}, {width}:\n{shown}");
                    let full = shown.matches('█').count();
                    let room = full + shown.matches('·').count() + usize::from(left * 2 == life && full % 2 == 1);
                    assert!(room >= 10 && shown.contains(words), "{life}, {width}:\n{shown}");
                    assert!(full.abs_diff(room * left as usize / life as usize) <= 1, "{life}, {width}:\n{shown}");
                }
            }
        }
    }

    #[test]
    fn a_command_is_folded_where_a_shell_goes_on_reading() {
        assert_eq!(folded("valetd --socket /tmp/v.sock status", 80), "  valetd --socket /tmp/v.sock status\n");
        assert_eq!(folded("valetd --socket /tmp/v.sock status", 32), "  valetd --socket /tmp/v.sock \\\n    status\n");
        assert_eq!(folded("one", 2), "  one\n");
    }
}
