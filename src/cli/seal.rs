//! `valetd seal`

use std::io::{self, IsTerminal};

use clap::{Args, Subcommand};

use super::configuration::{config_or_empty, load_config, places};
use super::failure::{Exit, Failure};
use super::opening::{ask_passphrase, of_store, takes_passphrase, ways};
use super::options::Options;
use super::output::{print, remark};
use super::runtime::block_on;
use super::text::{printable, relative};
use crate::advice::advised;
use crate::config::SealSetting;
use crate::control::client::{Client, ClientError};
use crate::control::report::StoreReport;
use crate::control::seal_verbs::SealAnswer;
use crate::key_source::KeySources;
use crate::platform::clock::unix_seconds;
use crate::platform::paths::Paths;
use crate::secret::Secret;
use crate::sign_in::handed_in;
use crate::sign_in::terminal::{Terminal, Unasked};
use crate::store::{SealChange, SealError, open_store_with, seal_in};

/// Encrypt credentials on the disk, and say how they are
#[derive(Args, Debug)]
#[command(
    long_about = "\
Seal credentials on the disk: encrypt each of them (AES-256-GCM-SIV) under a key
that is kept elsewhere. `store.seal` in the configuration says where.

Against a stolen disk, a backup, a synchronised or shared home folder, a program
that collects well-known files: sealed credentials are of no use to whoever has
not got the key as well. Against a program of yours that asks valetd, against
root, and against whoever has both: no help. Client keys are kept as hashes and
not sealed, nor is a sign-in that is under way in a browser.

What lay in the clear before may still be found: in backups, and in blocks of
the disk that nobody overwrites. So every account is renewed when sealing is
done, which spends the old refresh token where the server gives a new one.

Back to a valetd that knows of no seals: valetd seal off, first.",
    after_help = "\
Examples:
  valetd seal
  valetd seal on && valetd seal recovery
  valetd seal on --new-key        where the key is lost for good
  valetd seal --json | jq -r .source

Exit codes: 0 done, 1 not done, 5 the store is locked, 6 the daemon has no
configuration."
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// As JSON, as the control socket has it
    #[arg(long, global = true)]
    json: bool,
    /// Read the passphrase from standard input instead of asking for it: a new
    /// one; where no daemon runs, the one in force in a line before that
    #[arg(long, global = true)]
    passphrase_stdin: bool,
}

#[derive(Subcommand, Clone, Copy, Debug)]
enum Verb {
    /// Say how credentials are kept (what no subcommand does)
    #[command(after_help = "Example:\n  valetd seal status --json")]
    Status,
    /// Seal them, with a key from where `store.seal` says
    #[command(after_help = "\
Examples:
  valetd seal on
  valetd seal on --new-key

What is sealed under a key that is lost is left as it is, and the wrapped key,
too: if it comes back after all, 'valetd unlock' opens it. Until then such an
account needs a new sign-in.")]
    On {
        /// Begin with another key where the one in force is lost
        #[arg(long)]
        new_key: bool,
    },
    /// Bring them into the clear again
    #[command(after_help = "Example:\n  valetd seal off")]
    Off,
    /// Seal them with another key
    #[command(after_help = "Example:\n  valetd seal rotate")]
    Rotate,
    /// Make a code that opens them where the key is lost, and show it this once
    #[command(after_help = "\
Example:
  valetd seal recovery

Standard output has the code alone. Those that were made before are void as soon
as it is written there.")]
    Recovery,
}

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { verb, json, passphrase_stdin } = arguments;
    let (change, doing) = match verb {
        None | Some(Verb::Status) => return status(options, json),
        Some(Verb::On { new_key: false }) => (SealChange::On, "sealing credentials"),
        Some(Verb::On { new_key: true }) => (SealChange::OnAnew, "sealing credentials with another key"),
        Some(Verb::Off) => (SealChange::Off, "unsealing credentials"),
        Some(Verb::Rotate) => (SealChange::Rotate, "changing the key"),
        Some(Verb::Recovery) => (SealChange::Recovery, "making a recovery code"),
    };
    let places = places(options)?;
    let needs = Needs {
        // who has lost it cannot say it
        present: takes_passphrase(&places) && change != SealChange::OnAnew && !daemon_runs(&places)?,
        new: change.makes_key() && config_or_empty(&places).store.seal == SealSetting::Passphrase,
    };
    let passphrases = Passphrases::take(needs, passphrase_stdin).map_err(|failure| failure.while_doing(doing))?;
    let perform = |change, code: Option<&Secret>| -> Result<SealAnswer, Failure> {
        let new = passphrases.new.as_ref();
        match block_on(async { Client::connect(&places.socket).await?.change_seal(change, new, code).await })? {
            Ok(answer) => Ok(answer),
            Err(ClientError::NotRunning(_)) => {
                change_here(&places, change, &passphrases, code).map_err(|failure| failure.while_doing(doing))
            }
            Err(error) => Err(Failure::of_call(error, options).while_doing(doing)),
        }
    };
    let answer = perform(change, None)?;
    let exit = show(&answer, json)?;
    if change == SealChange::Recovery {
        // not before the new one stands where its owner wants it
        perform(SealChange::RecoverySeen, answer.recovery_code.as_deref().map(Secret::new).as_ref())?;
    }
    Ok(exit)
}

fn daemon_runs(places: &Paths) -> Result<bool, Failure> {
    let connected = block_on(async { Client::connect(&places.socket).await.map(|_| ()) })?;
    Ok(!matches!(connected, Err(ClientError::NotRunning(_))))
}

/// Which passphrases a change takes.
#[derive(Clone, Copy)]
struct Needs {
    present: bool,
    new: bool,
}

/// What a person has said before anything is opened.
struct Passphrases {
    present: Option<Secret>,
    new: Option<Secret>,
}

impl Passphrases {
    fn take(needs: Needs, from_stdin: bool) -> Result<Self, Failure> {
        if !from_stdin {
            let present = needs.present.then(ask_passphrase).transpose();
            let present = present.map_err(|failure| {
                failure.with_remedy(match needs.new {
                    true => "or send both through a pipe, the one in force and then the new one: --passphrase-stdin",
                    false => "or send it through a pipe: --passphrase-stdin",
                })
            })?;
            let new = needs.new.then(new_passphrase).transpose()?;
            return Ok(Self { present, new });
        }
        let said = if needs.present || needs.new { Some(secret_on_stdin()?) } else { None };
        let Some(said) = said else { return Ok(Self { present: None, new: None }) };
        Ok(match (needs.present, needs.new) {
            (true, true) => {
                // the new one is a line; the one in force may be of an earlier valetd, which took several
                let (present, new) = said.expose().rsplit_once('\n').ok_or_else(|| {
                    let words =
                        "standard input has one passphrase, and it takes two: the one in force, then the new one";
                    Failure::say(words).with_remedy("each in a line of its own").with_exit(Exit::Usage)
                })?;
                let present = present.strip_suffix('\r').unwrap_or(present);
                Self { present: Some(Secret::new(present)), new: Some(Secret::new(new)) }
            }
            (true, false) => Self { present: Some(said), new: None },
            (false, _) => Self { present: None, new: Some(said) },
        })
    }
}

/// Changes the seal while no daemon runs.
fn change_here(
    places: &Paths,
    change: SealChange,
    passphrases: &Passphrases,
    code: Option<&Secret>,
) -> Result<SealAnswer, Failure> {
    let loaded = load_config(places)
        .map_err(|problems| Failure::say("the configuration has problems").with_problems(problems))?;
    let store = open_store_with(places, &loaded.config, passphrases.present.clone()).map_err(of_store)?;
    let sources = KeySources::new(&loaded.config.store, &places.state_dir);
    let sources = sources.with_passphrase(passphrases.new.clone()).with_recovery_code(code.cloned());
    let changed = store.change_seal(change, &sources, unix_seconds()).map_err(failure_of)?;
    let exposed: Vec<String> = changed.lay_in_the_clear.iter().map(ToString::to_string).collect();
    let mut answer = SealAnswer::new(changed);
    if !exposed.is_empty() {
        let exposed = exposed.join(", ");
        answer.said.push(format!("what lay in the clear works until it is renewed, when valetd starts: {exposed}"));
    }
    Ok(answer)
}

/// A passphrase that a person makes up: typed twice, as nobody sees it.
fn new_passphrase() -> Result<Secret, Failure> {
    let ask = || -> Result<(Secret, Secret), Unasked> {
        let mut terminal = Terminal::open()?;
        Ok((terminal.ask_hidden("New passphrase: ")?, terminal.ask_hidden("Once more: ")?))
    };
    match ask().map_err(|error| Failure::new(error).with_remedy("or send it through a pipe: --passphrase-stdin"))? {
        (first, second) if first == second => Ok(first),
        _ => Err(Failure::say("the two are not the same")),
    }
}

/// A secret that comes through a pipe: on a terminal it would show.
pub(super) fn secret_on_stdin() -> Result<Secret, Failure> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        let failure =
            Failure::say("standard input is a terminal").with_remedy("leave the option out to be asked for it");
        return Err(failure.with_exit(Exit::Usage));
    }
    handed_in::read_secret(stdin.lock()).map_err(Failure::new)
}

pub(super) fn failure_of(error: SealError) -> Failure {
    match error {
        SealError::NoSource(why) => Failure::say("there is no key to seal with").with_problems(why),
        error @ SealError::Locked(_) => Failure::new(error).with_remedy(ways()).with_exit(Exit::Locked),
        error @ SealError::Ring(_) => Failure::new(error).with_exit(Exit::Locked),
        SealError::Store(error) => of_store(error),
        error @ SealError::CodeVoid => Failure::new(error).with_remedy(advised("seal recovery")),
        error @ (SealError::OlderCopies(_) | SealError::NotSealed | SealError::NoRandomness) => Failure::new(error),
    }
}

pub(super) fn show(answer: &SealAnswer, json: bool) -> Result<Exit, Failure> {
    if json {
        let document = serde_json::to_string_pretty(answer).expect("texts");
        print(&format!("{document}\n"))?;
        return Ok(Exit::Fine);
    }
    for words in &answer.left {
        remark(&format!("left as it was: {}", printable(words)));
    }
    match &answer.recovery_code {
        Some(code) => {
            answer.said.iter().for_each(|words| remark(words));
            print(&format!("{code}\n"))?;
        }
        None => print(&answer.said.iter().map(|words| format!("{}\n", printable(words))).collect::<String>())?,
    }
    Ok(Exit::Fine)
}

fn status(options: &Options, json: bool) -> Result<Exit, Failure> {
    let doing = "looking how credentials are kept";
    let places = places(options)?;
    let asked = block_on(async { Client::connect(&places.socket).await?.status().await })?;
    let report = match asked {
        Ok(report) => report.daemon.store,
        // without the folder's lock, and without its key, which may take a person
        Err(ClientError::NotRunning(_)) => StoreReport::new(&seal_in(&places.state_dir)),
        Err(error) => return Err(Failure::of_call(error, options).while_doing(doing)),
    };
    if json {
        let document = serde_json::to_string_pretty(&report).expect("texts and numbers");
        print(&format!("{document}\n"))?;
        return Ok(Exit::Fine);
    }
    print(&(lines(&report, unix_seconds()).join("\n") + "\n"))?;
    Ok(Exit::Fine)
}

fn lines(report: &StoreReport, now: u64) -> Vec<String> {
    let StoreReport { sealed, source, key_id, since, because, recovery, locked, doubt, unmet: _ } = report;
    let mut lines = Vec::new();
    match (sealed, since) {
        (false, _) if locked.is_some() => {
            lines.push("How credentials are sealed cannot be read, and nothing takes its place.".to_owned());
        }
        (false, _) => {
            lines.push(format!("Credentials are in the clear on the disk (0600). To seal them: {}", advised("seal on")))
        }
        (true, since) => {
            let since = since.map(|at| format!(", {}", relative(at.unix() - now.cast_signed()))).unwrap_or_default();
            let source = source.as_deref().unwrap_or("nothing that is known");
            let key = key_id.as_deref().unwrap_or_default();
            lines.push(format!("Credentials are sealed; the key {key} was made{since}, and is kept by: {source}"));
            lines.extend(because.iter().map(|words| format!("  {words}")));
            lines.push(match recovery {
                true => "There is a recovery code, too.".to_owned(),
                false => {
                    format!(
                        "There is no recovery code: whoever loses the key signs in again. {}",
                        advised("seal recovery")
                    )
                }
            });
        }
    }
    lines.extend(doubt.clone());
    lines.extend(locked.iter().map(|why| format!("The store is locked: {why}. To try again: {}", advised("unlock"))));
    lines.iter().map(|line| printable(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::Moment;

    #[test]
    fn the_status_says_how_credentials_are_kept_and_what_to_do() {
        let clear = StoreReport::default();
        let sealed = StoreReport {
            sealed: true,
            source: Some("file".to_owned()),
            key_id: Some("0123456789abcdef".to_owned()),
            since: Some(Moment::of_unix(1000)),
            ..StoreReport::default()
        };
        let locked = StoreReport { locked: Some("file: no stick".to_owned()), recovery: true, ..sealed.clone() };
        let first = "Credentials are sealed; the key 0123456789abcdef was made, 2 h ago, and is kept by: file";
        let rows = [
            (
                StoreReport { locked: Some("seal.keys.json is a symbolic link".to_owned()), ..clear.clone() },
                vec![
                    "How credentials are sealed cannot be read, and nothing takes its place.",
                    "The store is locked: seal.keys.json is a symbolic link. To try again: valetd unlock",
                ],
            ),
            (clear, vec!["Credentials are in the clear on the disk (0600). To seal them: valetd seal on"]),
            (
                sealed,
                vec![first, "There is no recovery code: whoever loses the key signs in again. valetd seal recovery"],
            ),
            (
                locked,
                vec![
                    first,
                    "There is a recovery code, too.",
                    "The store is locked: file: no stick. To try again: valetd unlock",
                ],
            ),
        ];
        for (report, expected) in rows {
            assert_eq!(lines(&report, 1000 + 7200), expected);
        }
    }
}
