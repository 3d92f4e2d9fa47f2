//! `valetd status`

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use tokio::time::{Instant, sleep, sleep_until};

use super::configuration::places;
use super::failure::{Exit, Failure, NOT_CONFIGURED};
use super::manager::{age, remedy_of};
use super::options::Options;
use super::output::print;
use super::runtime::block_on;
use super::screen::{Input, Screen};
use super::text::{Cell, Table, WIDTH, columns, count, cut, length, printable, relative, styled, wrapped};
use crate::advice::advised;
use crate::control::client::{Client, ClientError, EventStream};
use crate::control::report::{
    AccountReport, DaemonReport, McpReport, Moment, OwnAddressReport, RouteReport, State, StatusReport, Wakeup,
    server_in_words,
};
use crate::renewal::Reason;

/// Show accounts, routes and what to do next
#[derive(clap::Args, Debug)]
#[command(
    long_about = "\
Show accounts, routes and what to do next.

With --json, the status document. Its member 'schema' is 1 and grows when a
member changes its meaning or goes away; new members may appear at any time.
Times are RFC 3339 in UTC, lengths are seconds, what is not known is null.

  schema, at
  daemon     version pid uptime_seconds listen[] config_file state_dir
             configured (no: the file could not be used at the start)
             config_problems[] warnings[] connections refused refused_root
             audit { file written dropped refused trouble } strict_exec
             own_addresses[] { address key routes[] } (of exec -r)
  accounts[] id provider description usable usable_until seconds_left
             learnt_life_seconds (where the server states no life)
             state (usable, waiting, renewing, sign-in-required) why
             why_code (not-signed-in, revoked, ambiguous, client-refused,
             issued-elsewhere, term-over)
             next_wakeup { at in_seconds reason }
             last_success last_failure { at class oauth_error http_status
             detail attempt } failures renewals token_requests next_action
             credential { generation fingerprint saved sealed identity
             subject refresh_expires_at ends_at (of login --for) }
  routes[]   name urls[] upstream account proxy require_key requests open
             errors rejected replayed refuses_token median_ms p99_ms
             mcp { path protocol_version server_name server_version
             last_session scope_required next_action } (where an MCP
             server is)",
    after_help = "\
Examples:
  valetd status
  valetd status --watch
  valetd status --json | jq -r '.accounts[] | [.id, .state] | @tsv'
  valetd status >/dev/null || echo 'valetd wants a look'

Exit codes: 0 every account is usable, 1 the daemon does not run or cannot be
reached, 3 somebody must sign in, 4 some token is not usable now, 5 the store
is locked, 6 the daemon has no configuration: its file cannot be used."
)]
pub(super) struct Arguments {
    /// Print the status document (schema 1) for scripts
    #[arg(long)]
    json: bool,
    /// Keep it on the screen, up to date, until q or Ctrl-C
    #[arg(long, short, conflicts_with = "json")]
    watch: bool,
}

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let places = places(options)?;
    if arguments.watch {
        return block_on(watch(options, &places.socket))?;
    }
    let report = block_on(async { Client::connect(&places.socket).await?.status().await })?;
    let report = report.map_err(|error| Failure::of_call(error, options).while_doing("asking for the status"))?;
    if arguments.json {
        let text = serde_json::to_string_pretty(&report).expect("the document has string keys and no failing parts");
        print(&format!("{text}\n"))?;
    } else {
        print(&render(&with_age(report.clone()), &options.invocation(), columns().unwrap_or(usize::MAX)))?;
    }
    Ok(standing(&report))
}

/// The exit status that tells how all of it stands.
fn standing(report: &StatusReport) -> Exit {
    if report.daemon.configured { verdict(&report.accounts) } else { Exit::NotConfigured }
}

/// The same, with the remedies of its warnings, and a line for a daemon that is not of this program's version.
fn with_age(mut report: StatusReport) -> StatusReport {
    let pid = report.daemon.pid;
    for warning in &mut report.daemon.warnings {
        if let Some(remedy) = remedy_of(warning, pid) {
            warning.push_str(&format!(": {remedy}"));
        }
    }
    let age = age(&report.daemon).map(|(words, remedy)| format!("{words}: {remedy}"));
    report.daemon.warnings.extend(age);
    report
}

/// The counters of the routes make no events, and are looked at so often.
const COUNTERS: Duration = Duration::from_secs(5);

/// A daemon that is gone is looked for so often.
const AGAIN: Duration = Duration::from_secs(1);

/// Keeps the status on the screen. Events say when to ask anew; in between, the times run down by our own clock.
async fn watch(options: &Options, socket: &Path) -> Result<Exit, Failure> {
    let no_terminal = |error| Failure::new(error).while_doing("opening the terminal");
    if !std::io::stdout().is_terminal() {
        let failure = Failure::say("--watch needs a terminal").with_exit(Exit::Usage);
        return Err(failure.with_remedy(format!("for scripts: {}", advised("events --json"))));
    }
    let color = anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never;
    // before the screen is taken: who has no daemon is told so like everybody else
    let mut seen = Seen::now(socket).await.map_err(|error| Failure::of_call(error, options))?;
    let mut events = listen(socket).await.ok();
    let mut screen = Screen::open(color).map_err(no_terminal)?;
    let mut lost = false;
    loop {
        let (width, _) = screen.size();
        screen.show(&page(&seen, lost, width, &options.invocation())).map_err(no_terminal)?;
        let asked_again = seen.at + COUNTERS;
        tokio::select! {
            input = screen.input() => match input {
                Input::Quit => return Ok(standing(&seen.report)),
                Input::Resized => {
                    screen.clear().map_err(no_terminal)?;
                    continue;
                }
                Input::Key(_) => continue,
            },
            changed = change(&mut events) => {
                if !changed {
                    events = None;
                }
            }
            () = sleep_until(asked_again) => {}
            () = sleep(next_second(&seen)), if !lost => continue,
            () = sleep(AGAIN), if lost => {}
        }
        match Seen::now(socket).await {
            Ok(now) => {
                (seen, lost) = (now, false);
                if events.is_none() {
                    events = listen(socket).await.ok();
                }
            }
            Err(_) => lost = true,
        }
    }
}

/// A status document and when it came.
struct Seen {
    report: StatusReport,
    at: Instant,
}

impl Seen {
    async fn now(socket: &Path) -> Result<Self, ClientError> {
        let report = with_age(Client::connect(socket).await?.status().await?);
        Ok(Self { report, at: Instant::now() })
    }
}

async fn listen(socket: &Path) -> Result<EventStream, ClientError> {
    Client::connect(socket).await?.events(None).await
}

/// Waits for an event. `false` when there will be none any more.
async fn change(events: &mut Option<EventStream>) -> bool {
    match events {
        Some(events) => matches!(events.next().await, Ok(Some(_))),
        None => std::future::pending().await,
    }
}

/// Until the times on the screen show another second.
fn next_second(seen: &Seen) -> Duration {
    Duration::from_millis(1000 - u64::from(seen.at.elapsed().subsec_millis()))
}

/// The live view: what `status` shows, with a bar of each token's life.
fn page(seen: &Seen, lost: bool, width: usize, invocation: &str) -> String {
    let report = aged(&seen.report, seen.at.elapsed().as_secs());
    let mut out = match lost {
        true => format!("{}\n", styled("the daemon does not answer; this is the last that it said", BAD)),
        false => String::new(),
    };
    out.push_str(&header(&report.daemon));
    out.push('\n');
    out.push_str(&no_account(&report, invocation));
    let longest = report.accounts.iter().map(|account| account.id.chars().count()).max().unwrap_or(0);
    let name_width = longest.min(20).min(width / 4);
    let words_width = 40.min(width / 2);
    let bar_width = width.saturating_sub(name_width + words_width + 4).clamp(5, 60);
    for account in &report.accounts {
        let life = life(account);
        let color = match (account.state, account.usable) {
            (state, _) if state.waits_for_a_person() => BAD,
            (_, true) if account.failures == 0 => GOOD,
            _ => SOON,
        };
        let words = match (account.state, account.usable, account.seconds_left) {
            (State::SignInRequired, false, _) => "sign in".to_owned(),
            (State::StoreLocked | State::Locked, _, _) => "locked".to_owned(),
            (State::KeyGone | State::OtherMachine | State::OlderCopy, _, _) => "not used".to_owned(),
            (_, true, Some(left)) => format!("{} left, {}", length(left), next(account)),
            _ => format!("no token, {}", next(account)),
        };
        let id = cut(&account.id, name_width);
        out.push_str(&format!("{id:<name_width$}  {}  {words}\n", styled(&bar(life, bar_width), color)));
        for remark in remarks(account, &report) {
            out.push_str(&remark);
            out.push('\n');
        }
    }
    if !report.routes.is_empty() {
        out.push('\n');
        out.push_str(&routes(&report, width));
    }
    out.push_str(&styled("\nq ends\n", DIM));
    out
}

/// The document as it would be so many seconds later if nothing happened.
fn aged(report: &StatusReport, seconds: u64) -> StatusReport {
    let mut report = report.clone();
    report.daemon.uptime_seconds += seconds;
    for account in &mut report.accounts {
        if let Some(left) = &mut account.seconds_left {
            *left = left.saturating_sub(seconds);
            account.usable &= *left > 0;
        }
        if let Some(next) = &mut account.next_wakeup {
            next.in_seconds = next.in_seconds.saturating_sub(seconds);
        }
    }
    report
}

/// The share of a token's life that is left, from its last renewal to its end.
pub(super) fn life(account: &AccountReport) -> f64 {
    let (Some(until), Some(left), true) = (account.usable_until, account.seconds_left, account.usable) else {
        return 0.0;
    };
    let whole = account.last_success.map_or(0, |since| until.seconds_since(since)).max(1);
    (left as f64 / whole as f64).clamp(0.0, 1.0)
}

/// A bar in eighths of a column.
pub(super) fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share * (width * 8) as f64).round() as usize;
    let part = EIGHTHS[eighths % 8];
    let rest = width - eighths / 8 - usize::from(!part.is_empty());
    format!("{}{part}{}", "█".repeat(eighths / 8), "·".repeat(rest))
}

/// The exit status that tells how accounts stand: the most demanding one counts.
pub(super) fn verdict<'a>(accounts: impl IntoIterator<Item = &'a AccountReport>) -> Exit {
    let mut exit = Exit::Fine;
    for account in accounts {
        exit = match (account.state, account.usable) {
            (State::SignInRequired | State::KeyGone | State::OtherMachine | State::OlderCopy, _) => {
                return Exit::SignInRequired;
            }
            (State::StoreLocked | State::Locked, _) => Exit::Locked,
            _ if exit == Exit::Locked => exit,
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

/// Addresses of commands that have a line each.
const MOST_OWN_ADDRESSES: usize = 4;

/// A refresh token whose end is nearer than this is worth a line, in seconds.
const WORTH_A_WARNING: i64 = 7 * 86_400;

/// The status for people, at most as wide as the terminal but for URLs and names that are longer.
fn render(report: &StatusReport, invocation: &str, width: usize) -> String {
    let mut out = header(&report.daemon);
    out.push('\n');
    out.push_str(&no_account(report, invocation));
    if !report.accounts.is_empty() {
        out.push_str(&accounts(report, width));
    }
    if !report.routes.is_empty() {
        out.push('\n');
        out.push_str(&routes(report, width));
    }
    out
}

/// What to do where there is no account.
fn no_account(report: &StatusReport, invocation: &str) -> String {
    match (report.daemon.configured, report.accounts.is_empty()) {
        (false, _) => format!("{}  {invocation} check\n", wrapped(NOT_CONFIGURED, 0)),
        (true, true) => format!("No account yet. To add one: {invocation} login cdse\n"),
        (true, false) => String::new(),
    }
}

fn header(daemon: &DaemonReport) -> String {
    let DaemonReport { version, pid, uptime_seconds, listen, config_problems, warnings, .. } = daemon;
    let DaemonReport { refused_root, audit, own_addresses, store, .. } = daemon;
    let listen = if listen.is_empty() { "no address".to_owned() } else { listen.join(", ") };
    let uptime = length(*uptime_seconds);
    let mut out = wrapped(&format!("valetd {version}, pid {pid}, up {uptime}, serving {listen}"), 0);
    if !config_problems.is_empty() {
        let file = daemon.config_file.display();
        let line = match daemon.configured {
            true => format!("{file} has problems; what was in force before it stays so:"),
            false => format!("{file} cannot be used, and the daemon has no configuration:"),
        };
        out.push_str(&styled(wrapped(&printable(&line), 0).trim_end(), BAD));
        out.push('\n');
        for problem in config_problems {
            out.push_str(&wrapped(&printable(problem), 2));
        }
    }
    let (shown, more) = own_addresses.split_at(own_addresses.len().min(MOST_OWN_ADDRESSES));
    for OwnAddressReport { address, key: _, routes } in shown {
        out.push_str(&wrapped(&format!("for a command: {} on {address}", routes.join(", ")), 0));
    }
    if !more.is_empty() {
        out.push_str(&format!("for {}: see --json\n", count(more.len(), "more command")));
    }
    let root = (*refused_root > 0).then(|| {
        let requests = count(usize::try_from(*refused_root).unwrap_or(usize::MAX), "request");
        format!("refused, of root's: {requests}; to let root in: clients = [\"self\", \"root\"]")
    });
    let trouble = audit.as_ref().and_then(|audit| {
        let trouble = audit.trouble.as_ref()?;
        let (lost, refused) = (audit.dropped, audit.refused);
        Some(format!("the audit cannot be written: {trouble} ({lost} lines lost, {refused} requests refused)"))
    });
    if let Some(source) = &store.source {
        out.push_str(&format!("credentials are sealed, and their key is kept by: {}\n", printable(source)));
    }
    let locked =
        store.locked.as_ref().map(|why| format!("the store is locked: {why}; to try again: {}", advised("unlock")));
    for warning in locked.iter().chain(&store.unmet).chain(&store.doubt).chain(warnings).chain(&root).chain(&trouble) {
        out.push_str(&styled(wrapped(&printable(&format!("warning: {warning}")), 0).trim_end(), SOON));
        out.push('\n');
    }
    out
}

/// What there is no room for is left out, the last column first; what happens next has a line of its own then.
fn accounts(report: &StatusReport, width: usize) -> String {
    const SIGNED_IN: usize = 5;
    let whole = accounts_table(report, SIGNED_IN, 20);
    let without = accounts_table(report, 4, 0);
    let room = width.saturating_sub(without.width() + 2);
    let (table, has_next) = match () {
        () if whole.width() <= width => (whole, true),
        () if room >= "SIGNED IN".len() => (accounts_table(report, SIGNED_IN, room), true),
        () if without.width() <= width => (without, true),
        () => (accounts_table(report, 3, 0), false),
    };
    // where a name leaves no room for what is said of it, it has a line of its own
    let is_below = table.width() > width;
    let table = if is_below { table.without_first() } else { table };
    let mut lines = table.lines().into_iter();
    let mut out = String::new();
    let mut push = |line: Option<String>| {
        out.push_str(line.unwrap_or_default().trim_end());
        out.push('\n');
    };
    push(lines.next().map(|titles| if is_below { format!("{}  {titles}", styled("ACCOUNT:", BOLD)) } else { titles }));
    for (account, line) in report.accounts.iter().zip(lines) {
        if is_below {
            push(Some(format!("{}:", account.id)));
        }
        push(Some(if is_below { format!("  {line}") } else { line }));
        let next = Some(next(account)).filter(|next| !has_next && next != "-");
        for line in next.map(|next| format!("  {next}")).into_iter().chain(remarks(account, report)) {
            push(Some(line));
        }
    }
    out
}

/// The first so many columns; the last of all, who is signed in, is at most so wide.
fn accounts_table(report: &StatusReport, columns: usize, identity_width: usize) -> Table {
    let mut table = Table::default();
    let mut row = |mut cells: Vec<Cell>| {
        cells.truncate(columns);
        table.row(cells);
    };
    row(["ACCOUNT", "STATE", "TOKEN", "NEXT", "SIGNED IN"].map(|title| Cell::new(title).styled(BOLD)).into());
    for account in &report.accounts {
        let state = Cell::new(account.state.to_string()).styled(match account.state {
            State::Usable => GOOD,
            State::Waiting | State::Renewing => SOON,
            State::SignInRequired
            | State::StoreLocked
            | State::KeyGone
            | State::OtherMachine
            | State::OlderCopy
            | State::Locked => BAD,
        });
        let token = match account.seconds_left {
            Some(left) if account.usable => format!("{} left", length(left)),
            Some(_) | None => "none".to_owned(),
        };
        let identity = account.credential.as_ref().and_then(|credential| credential.identity.as_deref());
        let identity = cut(&printable(identity.unwrap_or("-")), identity_width);
        row(vec![Cell::new(&*account.id), state, Cell::new(token), Cell::new(next(account)), Cell::new(identity)]);
    }
    table
}

/// What happens next, in a few words.
fn next(account: &AccountReport) -> String {
    let Some(Wakeup { in_seconds, reason, at: _ }) = &account.next_wakeup else {
        return match account.state {
            State::SignInRequired
            | State::StoreLocked
            | State::KeyGone
            | State::OtherMachine
            | State::OlderCopy
            | State::Locked => "-",
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
    if let Some(life) = account.learnt_life_seconds {
        say(&format!("a token lives about {}, learnt", length(life.round() as u64)), DIM);
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
        if let Some(at) = credential.ends_at {
            say(&format!("the sign-in ends {}", relative(at.seconds_since(report.at))), DIM);
        }
        if let Some(at) = credential.refresh_expires_at {
            let ahead = at.seconds_since(report.at);
            if ahead < WORTH_A_WARNING {
                say(&format!("the refresh token is expected to die {}", relative(ahead)), SOON);
            }
        }
    }
    let refusing = report.routes.iter().filter(|route| route.account == account.id && route.refuses_token);
    let refusing: Vec<&str> = refusing.map(|route| route.name.as_str()).collect();
    if !refusing.is_empty() {
        let words = "the API refuses this token, also when it is fresh: may who is signed in use it, and is upstream the \
                     right one?";
        say(&format!("{words} ({})", refusing.join(", ")), SOON);
    }
    if let Some(command) = &account.next_action {
        say(&format!("-> {command}"), BOLD);
    }
    remarks
}

/// The routes; a URL has a line of its own where there is no room for it.
fn routes(report: &StatusReport, width: usize) -> String {
    let url = |route: &RouteReport| route.urls.first().map_or("-".to_owned(), Clone::clone);
    let numbers = routes_table(&report.routes, width, |_| None);
    let whole = routes_table(&report.routes, width, |route| Some(url(route)));
    let lines: Vec<String> = match whole.width() <= width || width >= WIDTH {
        true => whole.lines(),
        false => {
            let mut lines = numbers.lines().into_iter();
            let title = lines.next();
            let below = lines.zip(&report.routes).flat_map(|(line, route)| [line, format!("  {}", url(route))]);
            title.into_iter().chain(below).collect()
        }
    };
    let lines = lines.into_iter().chain(report.routes.iter().flat_map(|route| mcp_lines(route, report.at)));
    lines.map(|line| format!("{}\n", line.trim_end())).collect()
}

fn routes_table(routes: &[RouteReport], width: usize, url: impl Fn(&RouteReport) -> Option<String>) -> Table {
    let mut table = Table::default();
    let has_urls = routes.iter().any(|route| url(route).is_some());
    let titles = ["ROUTE", "REQS", "OPEN", "ERR", "401", "P99", "URL"].into_iter();
    let title = |title: &'static str| {
        let cell = Cell::new(title).styled(BOLD);
        if matches!(title, "ROUTE" | "URL") { cell } else { cell.leaning_right() }
    };
    table.row(titles.filter(|title| has_urls || *title != "URL").map(title).collect::<Vec<_>>());
    for route in routes {
        let millis = |millis: Option<f64>| Cell::new(millis.map_or("-".to_owned(), brief_millis)).leaning_right();
        let errors = Cell::number(route.errors).styled(if route.errors > 0 { SOON } else { Style::new() });
        let rejected = Cell::number(route.rejected).styled(if route.rejected > 0 { SOON } else { Style::new() });
        let mut cells = vec![
            Cell::new(cut(&route.name, width.min(WIDTH) / 4)),
            Cell::number(route.requests),
            Cell::number(route.open),
            errors,
            rejected,
            millis(route.p99_ms),
        ];
        cells.extend(url(route).map(Cell::new));
        table.row(cells);
    }
    table
}

/// What is known of the MCP server behind a route.
fn mcp_lines(route: &RouteReport, now: Moment) -> Vec<String> {
    let Some(mcp) = &route.mcp else { return Vec::new() };
    let when = |at: &Moment| relative(at.seconds_since(now));
    let mut lines = vec![styled(&printable(&format!("  {}: {}", route.name, mcp_in_words(mcp, now))), DIM)];
    if let (Some(at), Some(command)) = (&mcp.scope_required, &mcp.next_action) {
        let says = format!("  {}: the server asked for more scope {}", route.name, when(at));
        lines.push(styled(&printable(&says), SOON));
        lines.push(styled(&printable(&format!("  -> {command}")), BOLD));
    }
    lines
}

/// What is known of an MCP server, in a line.
pub(super) fn mcp_in_words(mcp: &McpReport, now: Moment) -> String {
    let McpReport { protocol_version, server_name, server_version, last_session, .. } = mcp;
    let version = protocol_version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
    let server = server_name.as_ref().map(|name| server_in_words(name, server_version.as_deref().unwrap_or_default()));
    let server = server.map(|server| format!(", {server}")).unwrap_or_default();
    let session = last_session.as_ref().map(|at| format!("last session {}", relative(at.seconds_since(now))));
    format!("MCP{version}{server}, {}", session.unwrap_or("no session yet".to_owned()))
}

/// `<4 ms`: the numbers are upper bounds.
fn brief_millis(millis: f64) -> String {
    match millis {
        ..1.0 => "<1ms".to_owned(),
        1.0..1000.0 => format!("<{}ms", millis.round()),
        _ => format!("<{}s", (millis / 1000.0).round()),
    }
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
        report.routes[0].p99_ms = Some(1024.0);
        assert_eq!(
            plain(&render(&report, "valetd", WIDTH)),
            "\
valetd 0.1.0, pid 4711, up 1 min, serving 127.0.0.1:8253, [::1]:8253
warning: lingering is off

ACCOUNT  STATE             TOKEN        NEXT              SIGNED IN
gbdx     usable            41 min left  renews in 36 min  me@example.com
  a token lives about 6 s, learnt
gdh      sign-in-required  none         -                 -
  the refresh token was refused: it was revoked or has expired
  last failure 12 s ago (permanent, HTTP 400, invalid_grant), attempt 1
  -> valetd login gdh

ROUTE  REQS  OPEN  ERR  401  P99  URL
gbdx    120     0    0    2  <1s  http://localhost:8253/gbdx/
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
        credential.ends_at = Some(Moment::of_unix(report.at.unix().unsigned_abs() + 7 * 3600));
        let text = plain(&render(&report, "valetd", WIDTH));
        for expected in [
            "has problems; what was in force before it\nstays so:\n",
            "  config.toml:3:1: route.x: no account named \"x\"\u{fffd}[2J\n",
            "  the newest refresh token is not saved: it is lost when the daemon ends\n",
            "  the sign-in ends in 7 h\n",
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
        let text = render(&report, "valetd --socket /tmp/v", WIDTH);
        assert!(text.ends_with("No account yet. To add one: valetd --socket /tmp/v login cdse\n"), "{text}");
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

    #[test]
    fn a_bar_is_as_long_as_the_life_that_is_left() {
        let table = [
            ("all", 1.0, "████"),
            ("none", 0.0, "····"),
            ("half", 0.5, "██··"),
            ("an eighth of a column more", 0.5 + 1.0 / 32.0, "██▏·"),
            ("almost nothing", 1.0 / 32.0, "▏···"),
        ];
        for (case, share, expected) in table {
            assert_eq!(bar(share, 4), expected, "{case}");
        }
    }

    #[tokio::test]
    async fn the_live_view_runs_down_by_itself_and_fits_80_columns() {
        let seen = Seen { report: aged(&report(), 60), at: Instant::now() };
        let text = plain(&page(&seen, false, 80, "valetd"));
        assert!(text.contains("██▌·  40 min left, renews in 35 min\n"), "{text}");
        assert!(text.contains("gdh   ··········") && text.contains("sign in\n  the refresh token was"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let late = aged(&report(), 4000);
        assert!(!late.accounts[0].usable, "a token is not shown as usable after its end");
        assert!(plain(&page(&seen, true, 80, "valetd")).starts_with("the daemon does not answer"));
    }

    #[test]
    fn a_narrow_terminal_has_the_names_whole_and_the_addresses_below() {
        let mut report = report();
        report.accounts[0].seconds_left = Some(588);
        // 60 columns are just enough for what happens next
        for (width, has_next) in [(58, false), (60, true), (70, true)] {
            let text = plain(&render(&report, "valetd", width));
            let tables = text.lines().filter(|line| line.starts_with(['A', 'R', 'g']));
            assert!(tables.clone().count() >= 4 && tables.clone().all(|line| line.chars().count() <= width), "{text}");
            assert_eq!(text.contains("  NEXT"), has_next, "{width}: {text}");
            assert_eq!(text.contains("\n  renews in "), !has_next, "{width}: {text}");
            assert!(!text.contains("SIGNED IN"), "{width}: {text}");
            assert_eq!(text.lines().any(|line| line.starts_with("  http://")), width < 70, "{width}: {text}");
        }
    }

    #[tokio::test]
    async fn a_long_name_breaks_no_line_of_a_narrow_terminal() {
        let mut report = report();
        let long = "a-name-as-long-as-people-give-them-to-accounts-of-a-team";
        report.accounts[0].id = long.into();
        report.routes[0].name = long.into();
        report.routes[0].account = long.into();
        for width in [60, 80] {
            let text = plain(&render(&report, "valetd", width));
            assert!(text.contains(long) && text.contains("  usable            41 min left"), "{width}: {text}");
            let seen = Seen { report: report.clone(), at: Instant::now() };
            for text in [text, plain(&page(&seen, false, width, "valetd"))] {
                // the others are broken as the terminal is, which has 80 columns here
                let is_of_a_table =
                    |line: &&str| line.contains(['█', '·']) || line.contains("a-name") || line.contains("  none");
                for line in text.lines().filter(is_of_a_table).filter(|line| !line.contains("http://")) {
                    assert!(line.chars().count() <= width, "{width}: {line:?} of {text}");
                }
            }
        }
    }

    /// The text as it is written where there is no colour.
    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }
}
