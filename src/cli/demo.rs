//! `valetd demo`: the main job, without any account. Both providers' stand-ins and a daemon run in this process, on
//! loopback, with everything they keep in a temporary folder.

use std::fs::{self, DirBuilder};
use std::io::{self, IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use hyper::Method;
use hyper::header::HeaderMap;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::configuration::places_to_run_in;
use super::failure::{Exit, Failure};
use super::options::Options;
use super::output::print;
use super::runtime::block_on;
use super::text::{length, printable, relative, styled};
use crate::config::{AccountId, Endpoint};
use crate::config_files;
use crate::control::ControlState;
use crate::control::client::Client;
use crate::control::report::{AccountReport, State, StatusReport};
use crate::daemon::{Daemon, Surroundings};
use crate::http_client::{HttpClient, Outgoing, Reach};
use crate::oauth::Grant;
use crate::platform::log::{self, Format, LogHandle};
use crate::secret::Secret;
use crate::shutdown::shutdown;
use crate::sign_in::{exchange, paste};
use crate::stand_in::{self, Provider, StandIn};
use crate::token_endpoint::TokenEndpoint;

/// Show everything without any account: stand-in providers, tokens renewed
/// every few seconds
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  valetd demo                     then try the URLs that it prints
  valetd demo --once              a few requests, and out")]
pub(super) struct Arguments {
    /// Make a few requests, show them, and end
    #[arg(long)]
    once: bool,
    /// How long tokens live
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = super::text::parse_length)]
    tokens: Duration,
}

/// Where the demonstration listens if the address is free: the daemon's own default.
const USUAL_PORT: u16 = 8253;

/// What `--once` asks for, and a live view suggests.
const REQUESTS: [&str; 4] =
    ["/gdh/datasets", "/gbdx/auth/v1/validate_token", "/gbdx/catalog/v2/record/1030010045539700", "/gdh/ping"];

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let log = log::init(log::Options {
        filter: Some(options.log.clone().unwrap_or_else(|| "error".to_owned())),
        format: Format::Text,
    })
    .map_err(|error| Failure::new(error).with_exit(Exit::Usage))?;
    let folder = TemporaryFolder::new().map_err(|error| Failure::new(error).while_doing("making a folder"))?;
    block_on(demonstrate(&folder.0, log, &arguments))?
}

#[expect(clippy::disallowed_methods, reason = "in a folder of ours that is thrown away")]
async fn demonstrate(folder: &Path, log: LogHandle, arguments: &Arguments) -> Result<Exit, Failure> {
    let lives = stand_in::Options { access_lifetime: arguments.tokens, ..stand_in::Options::default() };
    let start = |provider| async move {
        StandIn::start(provider, lives).await.map_err(|error| Failure::new(error).while_doing("starting a stand-in"))
    };
    let (gdh, gbdx) = (start(Provider::Gdh).await?, start(Provider::Gbdx).await?);
    let options = Options {
        config: Some(folder.join("config.toml")),
        state_dir: Some(folder.join("state")),
        socket: Some(folder.join("valetd.sock")),
        ..Options::default()
    };
    let paths = places_to_run_in(&options)?;
    fs::write(&paths.config_file, configuration(&gdh, &gbdx))
        .map_err(|error| Failure::new(error).while_doing("writing the demonstration's configuration"))?;
    let config = config_files::load(&paths).map_err(Failure::new)?.config;
    let socket = paths.socket.clone();
    let invocation = options.invocation();
    let (inherited, warnings, log) = (Vec::new(), Vec::new(), Some(log));
    let surroundings = Surroundings { paths, invocation, inherited, warnings, seed: 1, hardening: None, log };
    let daemon = Daemon::build(surroundings).map_err(Failure::new)?;
    let state = daemon.control_state();
    let (stop, stopped) = shutdown();
    let show = async {
        let endpoint = TokenEndpoint::new(HttpClient::from_environment());
        let code = Secret::new(gdh.mint_code());
        let password = Secret::new(stand_in::PASSWORD);
        let login = Grant::Password { username: stand_in::USERNAME.to_owned(), password };
        let account = |name: &str| &config.accounts[&AccountId::new(name).expect("a name")];
        for (name, grant) in [("gdh", paste::grant(account("gdh"), code, None)), ("gbdx", login)] {
            let account = account(name);
            let new = exchange::redeem(account, &endpoint, grant)
                .await
                .map_err(|error| Failure::new(error).while_doing(format!("signing in to {name}")))?;
            let mut client = Client::connect(&socket).await.map_err(Failure::new)?;
            client.set_credential(name, &new).await.map_err(Failure::new)?;
        }
        let exit = match arguments.once {
            true => once(&state, &socket).await,
            false => live(&state, folder, &options).await,
        };
        stop.start();
        exit
    };
    let (served, exit) = tokio::join!(daemon.serve(stopped), show);
    served.map_err(Failure::new)?;
    exit
}

/// The presets as they are, but for where they lead.
fn configuration(gdh: &StandIn, gbdx: &StandIn) -> String {
    let port = match TcpListener::bind((Ipv4Addr::LOCALHOST, USUAL_PORT)) {
        Ok(_) => USUAL_PORT,
        Err(_) => 0,
    };
    let (cognito, revocation) =
        (gdh.cognito_endpoint().unwrap_or_default(), gdh.revocation_endpoint().unwrap_or_default());
    let mut text = format!(
        "listen = [\"{listen}\"]\n\n\
         [account.gdh]\nprovider = \"gdh\"\ntoken_endpoint = \"{}\"\ncognito_endpoint = \"{cognito}\"\n\
         revocation_endpoint = \"{revocation}\"\nupstream = \"{}\"\n\n\
         [account.gbdx]\nprovider = \"gbdx\"\ntoken_endpoint = \"{}\"\nupstream = \"{}\"\n",
        gdh.token_endpoint(),
        gdh.url(),
        gbdx.token_endpoint(),
        gbdx.url(),
        listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
    );
    for route in ["vector", "rda", "idaho"] {
        text.push_str(&format!("\n[route.gbdx-{route}]\nupstream = \"{}\"\n", gbdx.url()));
    }
    text
}

/// Waits until every account has a usable token.
async fn all_usable(state: &ControlState) -> Result<StatusReport, Failure> {
    let mut accounts = state.accounts.clone();
    let usable = async {
        loop {
            let report = state.report();
            if report.accounts.iter().all(|account| account.usable) {
                return Ok(report);
            }
            accounts.changed().await.map_err(Failure::new)?;
        }
    };
    let late = |_| Failure::say("no token within 10 s");
    tokio::time::timeout(Duration::from_secs(10), usable).await.map_err(late)?
}

/// A few requests, each shown with its answer; a renewal; the same again.
async fn once(state: &ControlState, socket: &Path) -> Result<Exit, Failure> {
    let report = all_usable(state).await?;
    let base = base_url(&report)?;
    print("Both stand-ins are up, and a daemon is signed in to both. No request below carries a credential.\n\n")?;
    for path in REQUESTS {
        request(&base, path).await?;
    }
    print("\nA renewal, now:\n")?;
    let mut client = Client::connect(socket).await.map_err(Failure::new)?;
    let before = report.accounts.iter().map(|account| account.renewals).sum::<u64>();
    for account in &report.accounts {
        client.refresh(&account.id).await.map_err(Failure::new)?;
    }
    let mut accounts = state.accounts.clone();
    let renewed = async {
        while state.report().accounts.iter().map(|account| account.renewals).sum::<u64>() < before + 2 {
            if accounts.changed().await.is_err() {
                break;
            }
        }
    };
    let late = |_| Failure::say("no renewal within 10 s");
    tokio::time::timeout(Duration::from_secs(10), renewed).await.map_err(late)?;
    let report = state.report();
    for account in &report.accounts {
        print(&format!("  {:<5} {}\n", account.id, token_in_words(account)))?;
    }
    print("\n")?;
    for path in &REQUESTS[..2] {
        request(&base, path).await?;
    }
    let errors = state.report().routes.iter().map(|route| route.errors + route.rejected).sum::<u64>();
    if errors > 0 {
        return Err(Failure::say(format!("{errors} requests went wrong")));
    }
    print("\nThat is all of it; `valetd demo` shows it live.\n")?;
    Ok(Exit::Fine)
}

/// One request as a tool makes it: a URL, no credential.
async fn request(base: &str, path: &str) -> Result<(), Failure> {
    let url = format!("{base}{path}");
    let endpoint = Endpoint::parse(&url).map_err(Failure::say)?;
    let outgoing = Outgoing { method: Method::GET, fields: HeaderMap::new(), body: Default::default() };
    let answer = HttpClient::direct().send(&endpoint, Reach::default(), outgoing).await.map_err(Failure::new)?;
    let body = printable(&String::from_utf8_lossy(&answer.body).replace(['\n', '\r'], " "));
    let shown: String = body.chars().take(100).collect();
    let more = if body.chars().count() > 100 { "…" } else { "" };
    print(&format!("$ curl {url}\n{} {shown}{more}\n", answer.status.as_u16()))?;
    if !answer.status.is_success() {
        return Err(Failure::say(format!("{url} answered {}", answer.status)));
    }
    Ok(())
}

/// The first address that all routes are served on, as a URL without a path.
fn base_url(report: &StatusReport) -> Result<String, Failure> {
    let address = report.daemon.listen.first().ok_or_else(|| Failure::say("the daemon listens nowhere"))?;
    Ok(format!("http://{}", address.replace("127.0.0.1", "localhost")))
}

/// Shows how it stands until Ctrl-C: redrawn in place on a terminal, a line for each change elsewhere.
async fn live(state: &ControlState, folder: &Path, options: &Options) -> Result<Exit, Failure> {
    let report = all_usable(state).await?;
    let base = base_url(&report)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::new)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::new)?;
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let is_terminal = io::stdout().is_terminal();
    let mut accounts = state.accounts.clone();
    let mut told = String::new();
    if is_terminal {
        print("\x1b[2J\x1b[?25l")?;
    } else {
        print(&format!("{}\n", suggestions(&base, folder, options)))?;
    }
    loop {
        let report = state.report();
        if is_terminal {
            let page = page(&report, &base, folder, options).replace('\n', "\x1b[K\n");
            print(&format!("\x1b[H{page}\x1b[J"))?;
        } else {
            let line = report.accounts.iter().map(|a| format!("{}: {} renewals", a.id, a.renewals)).collect::<Vec<_>>();
            let requests: u64 = report.routes.iter().map(|route| route.requests).sum();
            let line = format!("{}, {requests} requests\n", line.join(", "));
            if line != told {
                print(&line)?;
                told = line;
            }
        }
        tokio::select! {
            _ = second.tick() => {}
            _ = accounts.changed() => {}
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
    }
    if is_terminal {
        print("\x1b[?25h\n")?;
        let _ = io::stdout().flush();
    }
    Ok(Exit::Fine)
}

const STRONG: Style = Style::new().bold();
const FAINT: Style = Style::new().dimmed();

fn page(report: &StatusReport, base: &str, folder: &Path, options: &Options) -> String {
    let mut out = format!(
        "{}  {}\n\n",
        styled("valetd demo", STRONG),
        styled(&format!("up {}; nothing leaves this machine", length(report.daemon.uptime_seconds)), FAINT)
    );
    for account in &report.accounts {
        let color = match account.state {
            State::Usable => AnsiColor::Green,
            State::Waiting | State::Renewing => AnsiColor::Yellow,
            State::SignInRequired | State::StoreLocked | State::KeyGone | State::OtherMachine | State::Locked => {
                AnsiColor::Red
            }
        };
        let bar = styled(&bar(account), color.on_default());
        out.push_str(&format!("  {:<6}{bar} {}\n", account.id, token_in_words(account)));
    }
    out.push_str(&format!("\n  {:<34}{:>10}{:>8}{:>8}\n", "route", "requests", "errors", "401s"));
    for route in &report.routes {
        let url = format!("{base}/{}/", route.name);
        out.push_str(&format!("  {url:<34}{:>10}{:>8}{:>8}\n", route.requests, route.errors, route.rejected));
    }
    out.push('\n');
    out.push_str(&suggestions(base, folder, options));
    out
}

fn suggestions(base: &str, folder: &Path, options: &Options) -> String {
    let mut out = "Try, in another shell (no credential needed, and a wrong one does no harm):\n\n".to_owned();
    for path in &REQUESTS[..3] {
        out.push_str(&format!("  curl {base}{path}\n"));
    }
    let program = std::env::current_exe().unwrap_or_else(|_| "valetd".into());
    let socket = options.socket.as_deref().unwrap_or(folder);
    out.push_str(&format!("  {} --socket {} status\n\n", program.display(), socket.display()));
    out.push_str(&format!("Ctrl-C ends it and removes {}\n", folder.display()));
    out
}

/// What is left of a token's life, as a bar of the demonstration's 20 seconds.
fn bar(account: &AccountReport) -> String {
    const LENGTH: usize = 20;
    let left = account.seconds_left.map_or(0, |left| usize::try_from(left).unwrap_or(LENGTH).min(LENGTH));
    format!("{}{}", "█".repeat(left), "░".repeat(LENGTH - left))
}

fn token_in_words(account: &AccountReport) -> String {
    let left = match account.seconds_left {
        Some(left) => format!("{} left", length(left)),
        None => "no token".to_owned(),
    };
    let next = account
        .next_wakeup
        .as_ref()
        .map(|next| format!(", renewal {}", relative(i64::try_from(next.in_seconds).unwrap_or(i64::MAX))));
    let renewals = match account.renewals {
        1 => "1 renewal".to_owned(),
        many => format!("{many} renewals"),
    };
    format!("{left}{}; {renewals} so far", next.unwrap_or_default())
}

/// A folder of our own, removed when this is dropped.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    #[expect(clippy::disallowed_methods, reason = "a new folder, for us alone")]
    fn new() -> io::Result<Self> {
        let mut random = [0; 6];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("no random numbers"))?;
        let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = std::env::temp_dir().join(format!("valetd-demo-{name}"));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryFolder {
    #[expect(clippy::disallowed_methods, reason = "the folder that this made")]
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
