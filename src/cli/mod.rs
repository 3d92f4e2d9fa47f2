//! The person at the keyboard: one file a verb, and what the verbs share.
//!
//! A verb returns an `Exit` or a `Failure`; [`main`] turns either into an exit status and prints one error chain.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::anyhow;
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::accounts::NewCredential;
use crate::config::{self, Account, Config, ImportSource, Problem};
use crate::control::client::ClientError;
use crate::daemon;
use crate::http_client::HttpClient;
use crate::oauth::grant::GrantRequest;
use crate::oauth::jwt;
use crate::platform::clock::unix_seconds;
use crate::platform::paths::{Overrides, Paths, shell_word};
use crate::platform::peer::own_uid;
use crate::platform::{environment, harden};
use crate::sign_in::{Exchanged, Offer};
use crate::store::{Credential, Record, Servers, Store, StoreError, import};
use crate::token_endpoint::{TokenEndpoint, client_secret};

mod check;
mod completions;
mod demo;
mod doctor;
mod events;
mod exec;
mod help;
mod key;
mod log;
mod login;
mod logout;
mod man;
mod refresh;
mod reload;
mod run;
mod screen;
mod service;
mod status;
mod text;
mod wait;

use text::printable;

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let program = match Program::try_parse() {
        Ok(program) => program,
        Err(error) => {
            // a reader who has left needs no help text
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match program.perform() {
        Ok(exit) => exit.into(),
        Err(failure) => {
            let _ = anstream::stderr().write_all(failure.to_string().as_bytes());
            failure.exit.into()
        }
    }
}

/// The program's command, for its man pages and completions.
pub fn command() -> clap::Command {
    Program::command()
}

/// Holds OAuth refresh tokens, renews access tokens, and proxies localhost
/// requests to APIs with the right Authorization header
#[derive(Parser, Debug)]
#[command(
    name = "valetd",
    version,
    long_about = help::ABOUT,
    after_help = "See 'valetd --help' for the first steps, files and exit codes.",
    after_long_help = help::AFTER,
    max_term_width = 80,
    styles = STYLES,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
struct Program {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    verb: Verb,
}

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// What every verb understands.
#[derive(Args, Clone, Default, Debug)]
pub struct Options {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Where credentials are kept
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub state_dir: Option<PathBuf>,
    /// The daemon's control socket
    #[arg(long, global = true, value_name = "PATH", help_heading = "Global options")]
    pub socket: Option<PathBuf>,
    /// What the daemon logs: error, warn, info, debug, trace, or by module
    #[arg(long, global = true, value_name = "FILTER", help_heading = "Global options")]
    pub log: Option<String>,
    /// What a line of the daemon's log looks like
    #[arg(long, global = true, value_name = "FORMAT", value_enum, help_heading = "Global options")]
    pub log_format: Option<LogFormat>,
}

/// What a line of the log looks like.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people, and for the journal.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Run(run::Arguments),
    Login(login::Arguments),
    Logout(logout::Arguments),
    Status(status::Arguments),
    Events(events::Arguments),
    Refresh(refresh::Arguments),
    Wait(wait::Arguments),
    Exec(exec::Arguments),
    Key(key::Arguments),
    Doctor(doctor::Arguments),
    Check(check::Arguments),
    Reload(reload::Arguments),
    Log(log::Arguments),
    Service(service::Arguments),
    Demo(demo::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
}

impl Program {
    fn perform(self) -> Result<Exit, Failure> {
        let options = &self.options;
        // what has a token, a password or a key in its hands for a moment; the daemon does more, by itself
        if matches!(self.verb, Verb::Login(_) | Verb::Logout(_) | Verb::Key(_) | Verb::Exec(_)) {
            harden::keep_memory_private();
        }
        match self.verb {
            Verb::Run(arguments) => run::perform(options, arguments),
            Verb::Login(arguments) => login::perform(options, arguments),
            Verb::Logout(arguments) => logout::perform(options, arguments),
            Verb::Status(arguments) => status::perform(options, arguments),
            Verb::Events(arguments) => events::perform(options, arguments),
            Verb::Exec(arguments) => exec::perform(options, arguments),
            Verb::Key(arguments) => key::perform(options, arguments),
            Verb::Doctor(arguments) => doctor::perform(options, arguments),
            Verb::Log(arguments) => log::perform(options, arguments),
            Verb::Service(arguments) => service::perform(options, arguments),
            Verb::Refresh(arguments) => refresh::perform(options, arguments),
            Verb::Wait(arguments) => wait::perform(options, arguments),
            Verb::Check(arguments) => check::perform(options, arguments),
            Verb::Reload(arguments) => reload::perform(options, arguments),
            Verb::Demo(arguments) => demo::perform(options, arguments),
            Verb::Completions(arguments) => completions::perform(arguments),
            Verb::Man(arguments) => man::perform(arguments),
        }
    }
}

impl Options {
    /// How a person calls the program so that it finds the same places: `valetd` and the options that name them.
    pub fn invocation(&self) -> String {
        let Options { config, state_dir, socket, log: _, log_format: _ } = self;
        let mut words = "valetd".to_owned();
        for (option, path) in [("--config", config), ("--state-dir", state_dir), ("--socket", socket)] {
            if let Some(path) = path {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                words.push_str(&format!(" {option} {}", shell_word(&path)));
            }
        }
        words
    }
}

/// How a verb ended: the process's exit status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Exit {
    /// All is well; for `status` and `wait`, every account is usable.
    Fine = 0,
    /// It could not be done; the daemon does not run or cannot be reached.
    Failed = 1,
    /// The arguments make no sense.
    Usage = 2,
    /// Somebody must sign in.
    SignInRequired = 3,
    /// There is no usable token now; nobody needs to do anything.
    NotUsable = 4,
    /// For `exec`: the command cannot be run, as a shell has it.
    NotExecutable = 126,
    /// For `exec`: there is no such command.
    NoSuchCommand = 127,
    /// Ctrl-C at a question.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why a verb was not carried out. Shows as one line with the whole chain of causes, then single problems, then what
/// can be done about it.
#[derive(Debug)]
struct Failure {
    chain: anyhow::Error,
    problems: Vec<String>,
    remedy: Option<String>,
    exit: Exit,
}

impl Failure {
    fn new(chain: impl Into<anyhow::Error>) -> Self {
        Self { chain: chain.into(), problems: Vec::new(), remedy: None, exit: Exit::Failed }
    }

    fn say(sentence: impl fmt::Display + fmt::Debug + Send + Sync + 'static) -> Self {
        Self::new(anyhow!(sentence))
    }

    /// What was being done when it happened.
    fn while_doing(mut self, doing: impl fmt::Display + Send + Sync + 'static) -> Self {
        self.chain = self.chain.context(doing);
        self
    }

    fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    fn with_problems(mut self, problems: Vec<String>) -> Self {
        self.problems = problems;
        self
    }

    fn with_exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// A call to the daemon that has no result.
    fn of_call(error: ClientError, options: &Options) -> Self {
        match error {
            ClientError::Refused(problem) => {
                let failure = Self::say(problem.detail).with_problems(problem.problems);
                match problem.remedy {
                    Some(remedy) => failure.with_remedy(remedy),
                    None => failure,
                }
            }
            ClientError::NotRunning(_) => {
                let start = "systemctl --user enable --now valetd.socket valetd.service";
                let remedy = match options.invocation() {
                    plain if plain == "valetd" => format!("start it: {start}  (or, here: valetd run)"),
                    elsewhere => format!("start it: {elsewhere} run"),
                };
                Self::new(error).with_remedy(remedy)
            }
            ClientError::Foreign { owner, .. } => {
                let remedy = match own_uid() {
                    0 => {
                        format!("act as that user: setpriv --reuid {owner} --clear-groups {} ...", options.invocation())
                    }
                    _ => "nothing was sent to it; start your own daemon, and name its socket with --socket".to_owned(),
                };
                Self::new(error).with_remedy(remedy)
            }
            // the system's words for it name no option
            ClientError::Unreachable { error: ref too_long, .. } if too_long.kind() == io::ErrorKind::InvalidInput => {
                let remedy = "a unix socket's path has at most 107 bytes: name a shorter one with --socket, for this command \
                              and for 'valetd run'";
                Self::new(error).with_remedy(remedy)
            }
            ClientError::Unreachable { .. } | ClientError::Silent { .. } | ClientError::Garbled { .. } => {
                Self::new(error)
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "valetd: {}", printable(&format!("{:#}", self.chain)))?;
        for problem in &self.problems {
            for line in problem.lines() {
                writeln!(f, "  {}", printable(line))?;
            }
        }
        match &self.remedy {
            Some(remedy) => writeln!(f, "  {}", printable(remedy)),
            None => Ok(()),
        }
    }
}

/// Writes to standard output, coloured only where that is a terminal and `NO_COLOR` is not set. A reader who has left
/// (`valetd man | head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(error).while_doing("writing to standard output"))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Says something beside the output proper.
fn remark(text: &str) {
    let _ = writeln!(anstream::stderr(), "{}", printable(text));
}

/// Runs a verb's conversation with the daemon or a server.
fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|error| Failure::new(error).while_doing("starting the runtime"))?.block_on(future))
}

// -------------------------------------------------------------------------------------------------------------------
// What the verbs need of the lower floors, each behind one small function.

/// A configuration that can be used, and what is strange about it.
struct Loaded {
    config: Config,
    warnings: Vec<String>,
}

/// What another tool has left.
struct Imported {
    new: NewCredential,
    /// Where it was found, for people.
    from: String,
}

/// Where this process finds and leaves things.
fn places(options: &Options) -> Result<Paths, Failure> {
    let Options { config, state_dir, socket, log: _, log_format: _ } = options.clone();
    Paths::find(Overrides { config, state_dir, socket }).map_err(Failure::new)
}

/// A configuration that can be used, and what is strange about it. An error is every problem, for a terminal.
fn load_config(places: &Paths) -> Result<Loaded, Vec<String>> {
    let rendered = |problems: &[Problem]| problems.iter().map(Problem::rendered).collect();
    match daemon::load_config(places) {
        Ok(parsed) => Ok(Loaded { config: parsed.config, warnings: rendered(&parsed.warnings) }),
        Err(problems) => Err(rendered(&problems.0)),
    }
}

/// The presets, by name.
fn preset_names() -> Vec<&'static str> {
    config::presets().map(|preset| preset.name).collect()
}

/// Sends what a person has to offer to the account's token endpoint.
async fn exchange(account: &Account, offer: Offer<'_>) -> Result<Exchanged, String> {
    let client = client_secret(account).await?;
    let request = match offer {
        Offer::Code { code, redirect_uri } => GrantRequest::AuthorizationCode { code, redirect_uri },
        Offer::Password { username, password } => GrantRequest::Password { username, password },
    };
    let endpoint = TokenEndpoint::new(HttpClient::from_environment());
    let tokens = endpoint.redeem(account, &client, request).await.map_err(|failure| failure.detail)?;
    let claimed = [&tokens.id_token, &tokens.access_token].into_iter().flatten();
    let identity = claimed.filter_map(|token| jwt::claims(token.expose())).find_map(|claims| claims.identity);
    Ok(Exchanged { tokens, identity })
}

/// Saves a credential under the store's lock, while no daemon runs.
fn save(places: &Paths, account: &Account, new: NewCredential) -> Result<(), String> {
    let store = Store::open(&places.state_dir).map_err(|error| error.to_string())?;
    // what cannot be read is set aside by the store, and replaced
    let generation = store.load(&account.id).ok().flatten().map_or(0, |record| record.generation) + 1;
    store.save(&Record::new(account, generation, new, unix_seconds())).map_err(|error| error.to_string())
}

/// Signs out while no daemon runs. Returns what happened at the server, for people.
async fn forget(places: &Paths, account: &Account) -> Result<String, String> {
    let store = Store::open(&places.state_dir).map_err(|error| error.to_string())?;
    let record = match store.load(&account.id) {
        Err(StoreError::Corrupt { .. }) => None, // it is removed below with what was set aside before
        loaded => loaded.map_err(|error| error.to_string())?,
    };
    let kept_from = record.as_ref().and_then(|record| record.not_to_be_revoked_at(account));
    let refresh_token = record.and_then(|record| record.credential.refresh_token);
    let outcome = match (&refresh_token, kept_from) {
        (Some(_), Some(because)) => format!("forgotten here, but not revoked at the server: {because}"),
        (Some(refresh_token), None) => {
            let endpoint = TokenEndpoint::new(HttpClient::from_environment());
            endpoint.revoke_in_words(account, refresh_token).await
        }
        (None, _) => "there was no refresh token to revoke".to_owned(),
    };
    store.remove(&account.id).map_err(|error| error.to_string())?;
    Ok(outcome)
}

/// What another tool has left, from the first of the account's places that has something.
fn import(account: &Account) -> Result<Imported, String> {
    for source in &account.sign_in.import {
        let found = import::import(source, environment::text).map_err(|error| error.to_string())?;
        let Some(import::Imported { mut credential, warnings }) = found else { continue };
        for warning in warnings {
            remark(&warning);
        }
        if !account.sign_in.keep_password {
            credential.password = None;
        }
        if credential == Credential::default() {
            continue;
        }
        let from = match source {
            ImportSource::Environment(name) => format!("${name}"),
            ImportSource::JsonFile(path) | ImportSource::GbdxConfig(path) => path.display().to_string(),
        };
        let servers = Some(Servers::of(account));
        let new = NewCredential { credential, client_id: None, refresh_lifetime: None, identity: None, servers };
        return Ok(Imported { new, from });
    }
    Err("no other tool has left a refresh token in the places that its preset names".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn every_verb_can_be_said() {
        let table = [
            "run",
            "login gbdx",
            "login gbdx --username me --password-stdin",
            "login gdh --code 0f8fad5b-d9cb-469f-a165-70867728950e --no-browser",
            "login lab --refresh-token-stdin --state-dir /tmp/s",
            "login gdh --import",
            "logout gbdx",
            "status",
            "--socket /tmp/v.sock status --json",
            "refresh gbdx",
            "wait",
            "wait gbdx --timeout 500ms",
            "check --config c.toml",
            "reload",
            "completions bash",
            "man",
            "man --dir /tmp/man",
        ];
        for line in table {
            let words = ["valetd"].into_iter().chain(line.split(' '));
            assert!(Program::try_parse_from(words).is_ok(), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_a_usage_error() {
        let table = [
            "stauts",
            "login",
            "login gbdx --code a --password-stdin",
            "login gbdx --code a --username me",
            "login gbdx --import --refresh-token-stdin",
            "login gbdx --password-stdin --refresh-token-stdin",
            "login GBDX",
            "login ../gbdx",
            "wait --timeout soon",
            "run --log-format xml",
        ];
        for line in table {
            let words = ["valetd"].into_iter().chain(line.split(' '));
            let error = Program::try_parse_from(words).err().unwrap_or_else(|| panic!("{line} was taken"));
            assert_eq!(error.exit_code(), Exit::Usage as i32, "{line}");
        }
    }

    #[test]
    fn no_help_is_wider_than_80_columns() {
        let program = command();
        for command in [&program].into_iter().chain(program.get_subcommands()) {
            // as written: clap would break a longer line, and with it what stands in columns
            let texts = [command.get_long_about(), command.get_after_help(), command.get_after_long_help()];
            for text in texts.into_iter().flatten().map(ToString::to_string) {
                assert!(text.lines().all(|line| line.chars().count() <= 80), "{}:\n{text}", command.get_name());
            }
            let help = command.clone().term_width(80).render_long_help().to_string();
            assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
        }
    }

    #[test]
    fn the_help_begins_with_what_to_do() {
        let help = command().render_long_help().to_string();
        assert!(help.find("valetd login gbdx") < help.find("Usage:"), "{help}");
    }

    #[test]
    fn every_verb_has_an_example() {
        for mut verb in command().get_subcommands().cloned() {
            let help = verb.render_long_help().to_string();
            assert!(help.contains("Example"), "{}:\n{help}", verb.get_name());
        }
    }

    #[test]
    fn a_failure_is_one_chain_its_problems_and_a_remedy() {
        let failure = Failure::new(io::Error::other("no space left"))
            .while_doing("saving gbdx")
            .with_problems(vec!["a\nb".to_owned()])
            .with_remedy("make room\x1b[2J");
        assert_eq!(failure.to_string(), "valetd: saving gbdx: no space left\n  a\n  b\n  make room\u{fffd}[2J\n");
    }

    #[test]
    fn the_remedy_for_a_missing_daemon_starts_the_one_that_was_asked_for() {
        let missing = || ClientError::NotRunning("/tmp/v.sock".into());
        let failure = Failure::of_call(missing(), &Options::default());
        assert_eq!(failure.exit, Exit::Failed);
        assert!(failure.remedy.unwrap().contains("systemctl --user enable --now valetd.socket"));
        let options = Options { socket: Some("/tmp/my v.sock".into()), ..Options::default() };
        let remedy = Failure::of_call(missing(), &options).remedy.unwrap();
        assert_eq!(remedy, "start it: valetd --socket '/tmp/my v.sock' run");
    }
}
