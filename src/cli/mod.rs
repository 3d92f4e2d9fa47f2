//! The person at the keyboard: one file a verb, and beside them what the verbs share.
//!
//! A verb returns an `Exit` or a `Failure`; [`main`] turns either into an exit status and prints one error chain.

use std::process::ExitCode;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{CommandFactory, Parser, Subcommand};

use crate::advice;
use crate::platform::harden;

#[cfg(test)]
mod advised_commands;

// what the verbs share
mod arguments;
mod config_edit;
mod config_file;
mod configuration;
mod discovered;
mod failure;
mod lending;
mod manager;
mod opening;
mod options;
mod output;
mod runtime;
mod screen;
mod text;

// the verbs
mod add;
mod adopt;
mod check;
mod completions;
mod connect;
mod demo;
mod doctor;
mod events;
mod exec;
mod help;
mod holder;
mod key;
mod lock;
mod log;
mod login;
mod logout;
mod man;
mod mcp;
mod providers;
mod refresh;
mod registered;
mod reload;
mod remove;
mod run;
mod seal;
mod service;
mod status;
mod unlock;
mod wait;

use failure::{Exit, Failure};
use options::Options;

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
            output::complain(&failure.to_string());
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
    after_help = "See 'valetd --help' for the first steps, files and exit codes,
and 'valetd help' for topics.",
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

#[derive(Subcommand, Debug)]
enum Verb {
    Run(run::Arguments),
    Login(login::Arguments),
    Logout(logout::Arguments),
    Add(add::Arguments),
    Remove(remove::Arguments),
    Providers(providers::Arguments),
    Status(status::Arguments),
    Events(events::Arguments),
    Refresh(refresh::Arguments),
    Wait(wait::Arguments),
    Exec(exec::Arguments),
    #[command(hide = true)]
    ExecRelay(exec::relay::Arguments),
    Mcp(mcp::Arguments),
    Connect(connect::Arguments),
    Key(key::Arguments),
    Seal(seal::Arguments),
    Lock(lock::Arguments),
    Unlock(unlock::Arguments),
    Adopt(adopt::Arguments),
    Doctor(doctor::Arguments),
    Check(check::Arguments),
    Reload(reload::Arguments),
    Log(log::Arguments),
    Service(service::Arguments),
    Demo(demo::Arguments),
    Help(help::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
}

impl Program {
    fn perform(self) -> Result<Exit, Failure> {
        let options = &self.options;
        // the demonstration's places are not there yet
        if !matches!(self.verb, Verb::Demo(_)) {
            advice::is_called(options.invocation());
        }
        // what has a token, a password or a key in its hands for a moment; the daemon does more, by itself
        if matches!(
            self.verb,
            Verb::Login(_)
                | Verb::Logout(_)
                | Verb::Key(_)
                | Verb::Exec(_)
                | Verb::Mcp(_)
                | Verb::Seal(_)
                | Verb::Unlock(_)
                | Verb::Add(_)
                | Verb::Remove(_)
        ) {
            harden::keep_memory_private();
        }
        match self.verb {
            Verb::Run(arguments) => run::perform(options, arguments),
            Verb::Add(arguments) => add::perform(options, arguments),
            Verb::Remove(arguments) => remove::perform(options, arguments),
            Verb::Providers(arguments) => providers::perform(options, arguments),
            Verb::Login(arguments) => login::perform(options, arguments),
            Verb::Logout(arguments) => logout::perform(options, arguments),
            Verb::Status(arguments) => status::perform(options, arguments),
            Verb::Events(arguments) => events::perform(options, arguments),
            Verb::Exec(arguments) => exec::perform(options, arguments),
            Verb::ExecRelay(arguments) => exec::relay::perform(arguments),
            Verb::Connect(arguments) => connect::perform(options, arguments),
            Verb::Mcp(arguments) => mcp::perform(options, arguments),
            Verb::Key(arguments) => key::perform(options, arguments),
            Verb::Seal(arguments) => seal::perform(options, arguments),
            Verb::Lock(arguments) => lock::perform(options, &arguments),
            Verb::Unlock(arguments) => unlock::perform(options, &arguments),
            Verb::Adopt(arguments) => adopt::perform(options, arguments),
            Verb::Doctor(arguments) => doctor::perform(options, arguments),
            Verb::Log(arguments) => log::perform(options, arguments),
            Verb::Service(arguments) => service::perform(options, arguments),
            Verb::Refresh(arguments) => refresh::perform(options, arguments),
            Verb::Wait(arguments) => wait::perform(options, arguments),
            Verb::Check(arguments) => check::perform(options, arguments),
            Verb::Reload(arguments) => reload::perform(options, arguments),
            Verb::Demo(arguments) => demo::perform(options, arguments),
            Verb::Help(arguments) => help::perform(command(), arguments),
            Verb::Completions(arguments) => completions::perform(&mut command(), arguments),
            Verb::Man(arguments) => man::perform(command(), arguments),
        }
    }
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
            "add gbdx gbdx",
            "add work github --client-id x --scope a --scope b --no-input",
            "add notes https://mcp.example/mcp --upstream https://api.example",
            "remove gbdx",
            "providers",
            "providers --search google --json",
            "providers show github",
            "status",
            "--socket /tmp/v.sock status --json",
            "refresh gbdx",
            "wait",
            "wait gbdx --timeout 500ms",
            "check --config c.toml",
            "reload",
            "help",
            "help key add",
            "seal",
            "seal on",
            "seal status --json",
            "lock --all",
            "unlock --recovery",
            "adopt gbdx --any",
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
        assert!(help.find("valetd login cdse") < help.find("Usage:"), "{help}");
    }

    #[test]
    fn every_verb_has_an_example() {
        for mut verb in command().get_subcommands().cloned() {
            let help = verb.render_long_help().to_string();
            assert!(help.contains("Example"), "{}:\n{help}", verb.get_name());
        }
    }
}
