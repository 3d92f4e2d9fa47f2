//! `valetd service`

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::configuration::{load_config, places};
use super::failure::{Exit, Failure};
use super::holder::{in_words, lock_holder};
use super::manager::{
    CONTROL_SOCKET, ELSEWHERE, SERVICE, SOCKET, Unit, command, has_linger, manager, unit_file, unit_texts, unstartable,
    why_not_started,
};
use super::options::Options;
use super::output::{is_agreed, print, remark};
use super::runtime::block_on;
use super::text::{length, printable};
use crate::config::Config;
use crate::control::client::{Client, ClientError};
use crate::control::report::{DaemonReport, StatusReport};
use crate::platform::listeners;
use crate::platform::paths::Paths;

mod units;

pub(super) use units::sockets;
use units::{DROP_INS, MARK, UNITS, Wishes, drop_in, files, own_path, packaged, unit_folder, write};

/// Install valetd as a service of this user, remove it, or look at it
#[derive(clap::Args, Debug)]
#[command(
    disable_help_subcommand = true,
    long_about = "\
Install valetd as a service of this user, remove it, or look at it. 'install'
writes systemd user units with the path of this binary to ~/.config/systemd/user
and starts them; where a package has installed units for it, those are used. No
root needed. After an upgrade, the same command starts the new binary: the
sockets stay open meanwhile, so that no connection is refused.

Without systemd, run 'valetd run' under any supervisor: it stays in the
foreground, logs to standard error, reloads on SIGHUP and drains on SIGTERM.
NOTIFY_SOCKET and LISTEN_FDS (names: http, control) are honoured where set.",
    after_help = "\
Examples:
  valetd service install            and it runs whenever you are logged in
  valetd service install --linger   also while you are not
  valetd service install --listen   where the configuration's 'listen' says
  valetd service install --print    only shows the units
  valetd service status
  valetd service uninstall          credentials and configuration stay

Exit codes: 0 done; for status, it runs; 1 not."
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Write the units, enable them and start them; after an upgrade, start the
    /// new binary
    Install {
        /// Also run while you are not logged in (loginctl enable-linger)
        #[arg(long)]
        linger: bool,
        /// Close it further, where user namespaces are allowed (strict.conf)
        #[arg(long)]
        strict: bool,
        /// Have its sockets listen where 'listen' in the configuration says
        /// (a drop-in)
        #[arg(long)]
        listen: bool,
        /// End a valetd that runs in a terminal, and go on in its place
        #[arg(long)]
        take_over: bool,
        /// Only print what would be written
        #[arg(long)]
        print: bool,
    },
    /// Stop it, disable it and remove the units
    Uninstall,
    /// Show whether it is installed, enabled and running
    Status,
}

/// How long a daemon that was started by hand may take to end: the drain of running requests, and the longest renewal.
const ENDING: Duration = Duration::from_secs(60);

/// How often it is looked whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    if options.invocation() != "valetd" {
        return Err(Failure::say("a service uses the usual places: leave out --config, --state-dir and --socket")
            .with_exit(Exit::Usage));
    }
    match arguments.action {
        Action::Install { linger, strict, listen, take_over, print: is_trial } => {
            let places = places(options)?;
            let config = if listen { Some(config_to_follow(&places)?) } else { None };
            let wishes = Wishes { strict, listen: config.as_ref() };
            if is_trial {
                return show(wishes, linger);
            }
            let installed = install(&places, wishes, linger, take_over);
            installed.map_err(|failure| failure.while_doing("installing the service"))
        }
        Action::Uninstall => uninstall(&places(options)?),
        Action::Status => status(),
    }
}

fn config_to_follow(places: &Paths) -> Result<Config, Failure> {
    let file = places.config_file.display().to_string();
    let loaded = load_config(places).map_err(|problems| {
        Failure::say(format!("{file} cannot be used, so nobody knows where to listen")).with_problems(problems)
    })?;
    Ok(loaded.config)
}

/// Prints what would be written.
fn show(wishes: Wishes<'_>, linger: bool) -> Result<Exit, Failure> {
    let linger = if linger { "\n# then: loginctl enable-linger\n" } else { "" };
    let files = files(&own_path()?, wishes)?;
    let text: Vec<String> = files.iter().map(|(path, text)| format!("# {}\n{text}", path.display())).collect();
    print(&format!("{}{linger}", text.join("\n")))?;
    Ok(Exit::Fine)
}

fn install(places: &Paths, wishes: Wishes<'_>, linger: bool, take_over: bool) -> Result<Exit, Failure> {
    require_manager()?;
    let program = own_path()?;
    let files = files(&program, wishes)?;
    let texts: Vec<String> = UNITS.iter().take(1).map(|(_, text)| (*text).to_owned()).collect();
    if let Some(why) = why_not_started(&program, &[texts, unit_texts(SERVICE).unwrap_or_default()].concat()) {
        let failure = Failure::say(format!("{} {why}; nothing was changed", program.display()));
        return Err(failure.with_remedy(ELSEWHERE));
    }
    for (path, _) in &files {
        if let Ok(found) = fs::read_to_string(path)
            && !found.starts_with(MARK)
        {
            let failure = Failure::say(format!("{} is there and was not written by valetd", path.display()));
            return Err(failure.with_remedy("move it away, or use it as it is"));
        }
    }
    let was_running = is(SERVICE, "is-active");
    let has_sockets = is(SOCKET, "is-active");
    // before anything is changed: what has the addresses would be left without its control socket half-way
    if !was_running && !has_sockets {
        make_room(places, wishes, take_over)?;
    }
    let is_older = was_running && runs_an_older_program(places, &program);

    let mut said = Vec::new();
    let (mut has_changed, mut has_moved) = (false, false);
    for (path, text) in files {
        if fs::read_to_string(&path).is_ok_and(|found| found == text) {
            said.push(format!("unchanged  {}", path.display()));
            continue;
        }
        write(&path, &text).map_err(|error| {
            Failure::new(error)
                .while_doing(format!("writing {}", path.display()))
                .with_remedy("a home that cannot be written to needs no units: 'valetd run' works under any supervisor")
        })?;
        has_moved |= path.ends_with("listen.conf");
        has_changed = true;
        said.push(format!("written    {}", path.display()));
    }
    if let Some(unit) = packaged(&program, &unit_folder()?) {
        said.push(format!("packaged   {}", unit.display()));
    }
    print(&format!("{}\n", said.join("\n")))?;
    systemctl(&["daemon-reload"])?;
    // a manager that has given up on an earlier try remembers it
    let _ = systemctl(&["reset-failed", SERVICE, SOCKET, CONTROL_SOCKET]);
    systemctl(&["enable", SOCKET, CONTROL_SOCKET, SERVICE])?;
    if has_moved && has_sockets {
        systemctl(&["stop", SERVICE, SOCKET, CONTROL_SOCKET])?;
    }
    // the sockets first: the service takes them over
    systemctl(&["start", SOCKET, CONTROL_SOCKET])
        .map_err(|failure| failure.with_remedy("another process holds the addresses: valetd doctor names it"))?;
    let is_anew = was_running && (has_changed || is_older);
    systemctl(&[if is_anew { "restart" } else { "start" }, SERVICE])?;
    print(match (was_running, is_anew) {
        (true, true) if is_older => "restarted with this program; its sockets stayed open\n",
        (true, true) => "enabled and restarted; it starts with your login, and with the first connection\n",
        (true, false) => "it runs already, with this program; nothing was restarted\n",
        (false, _) => "enabled and started; it starts with your login, and with the first connection\n",
    })?;
    match (has_linger(), linger) {
        (Some(true), _) => print("it also runs while you are not logged in (lingering is on)\n")?,
        (_, true) => {
            run("loginctl", &["enable-linger"])?;
            print("lingering enabled: it also runs while you are not logged in\n")?;
        }
        (_, false) => print("it stops with your last logout; to keep it: loginctl enable-linger\n")?,
    }
    print("  valetd status                     accounts and routes\n  journalctl --user -u valetd       its log\n")?;
    Ok(Exit::Fine)
}

/// Sees to it that the addresses can be had: a daemon of this user that was started by hand is ended, if that is wanted.
fn make_room(places: &Paths, wishes: Wishes<'_>, take_over: bool) -> Result<(), Failure> {
    let asked = block_on(async { Client::connect(&places.socket).await?.status().await })?;
    let holder = lock_holder(&places.state_dir).as_ref().map(in_words);
    if let Some(report) = daemon_in_the_way(asked, holder.as_deref())? {
        let DaemonReport { pid, uptime_seconds, .. } = report.daemon;
        let who = format!("a valetd that was started by hand runs (pid {pid}, up {})", length(uptime_seconds));
        if !take_over && !is_agreed(&format!("{who}. End it, and let the service go on in its place?")) {
            let failure = Failure::say(format!("{who} and holds the addresses; nothing was changed"));
            return Err(failure.with_remedy("valetd service install --take-over, or end it where it runs (Ctrl-C)"));
        }
        remark(&format!("ending pid {pid}: what is under way is finished first"));
        block_on(end(pid, &places.socket))??;
    }
    let wanted = match wishes.listen {
        Some(config) => config.listen.iter().map(ToString::to_string).collect(),
        None => sockets().unwrap_or_else(units::shipped_sockets),
    };
    let taken = wanted.iter().find_map(|address| listeners::occupant(address.parse().ok()?));
    match taken {
        Some(occupant) => {
            let failure = Failure::say(format!("{} is taken by {occupant}; nothing was changed", occupant.address));
            Err(failure.with_remedy(
                "end that process; or name another address, listen = [...], and: valetd service install --listen",
            ))
        }
        None => Ok(()),
    }
}

/// The daemon that must end before the service can start; `None` if there is none. What cannot be asked, or holds the
/// state folder and listens elsewhere, is not ended from here, and nothing may be put in its place while it is there. Pure.
fn daemon_in_the_way(
    asked: Result<StatusReport, ClientError>,
    holder: Option<&str>,
) -> Result<Option<StatusReport>, Failure> {
    let who = match (asked, holder) {
        (Ok(report), _) => return Ok(Some(report)),
        (Err(ClientError::NotRunning(_)), None) => return Ok(None),
        (Err(ClientError::NotRunning(_)), Some(pid)) => {
            format!("a valetd{pid} holds the credentials and listens elsewhere: it was started with other options")
        }
        (Err(error), pid) => format!("{error}{}", pid.unwrap_or_default()),
    };
    let failure = Failure::say(format!("{who}; nothing was changed"));
    Err(failure.with_remedy("end it where it runs (Ctrl-C), then: valetd service install"))
}

/// Ends a daemon as Ctrl-C does, and waits until it is gone.
async fn end(pid: u32, socket: &Path) -> Result<(), Failure> {
    let process = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let process = process.ok_or_else(|| Failure::say(format!("{pid} is no process")))?;
    let doing = || format!("ending process {pid}");
    rustix::process::kill_process(process, rustix::process::Signal::TERM)
        .map_err(|error| Failure::new(io::Error::from(error)).while_doing(doing()))?;
    let deadline = Instant::now() + ENDING;
    while rustix::process::test_kill_process(process).is_ok() || Client::connect(socket).await.is_ok() {
        if Instant::now() > deadline {
            let failure = Failure::say(format!("it has not ended within {}", length(ENDING.as_secs())));
            return Err(failure.while_doing(doing()).with_remedy("end it, then: valetd service install"));
        }
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Whether the service runs a program that has been replaced since: its file is newer than the process, or its version is
/// another. Started anew without need, it loses nothing: the sockets stay open.
fn runs_an_older_program(places: &Paths, program: &Path) -> bool {
    let asked = block_on(async { Client::connect(&places.socket).await?.status().await });
    let Ok(Ok(report)) = asked else { return true };
    let since_installed = std::os::unix::fs::MetadataExt::ctime;
    let installed = fs::metadata(program).map_or(0, |found| since_installed(&found));
    let started = report.at.unix() - i64::try_from(report.daemon.uptime_seconds).unwrap_or(i64::MAX);
    report.daemon.version != env!("CARGO_PKG_VERSION") || installed > started
}

#[expect(clippy::disallowed_methods, reason = "units that this program has installed")]
fn uninstall(places: &Paths) -> Result<Exit, Failure> {
    let doing = |failure: Failure| failure.while_doing("removing the service");
    let folder = unit_folder().map_err(doing)?;
    let drop_ins = DROP_INS.map(|name| drop_in(&folder, name));
    let is_there = UNITS.iter().any(|(name, _)| unit_file(name).is_some()) || drop_ins.iter().any(|file| file.exists());
    if !is_there {
        print("it is not installed; credentials and configuration are untouched\n")?;
        return Ok(Exit::Fine);
    }
    let mut said = Vec::new();
    let mut exit = Exit::Fine;
    if let Err(why) = manager() {
        remark(&format!("nothing was stopped: {why}"));
        if let Some(holder) = lock_holder(&places.state_dir) {
            remark(&format!("a daemon{} runs and goes on: end it where it runs, or with kill", in_words(&holder)));
            exit = Exit::Failed;
        }
        // as `systemctl disable` does where there is a manager
        for link in enabling_links(&folder) {
            fs::remove_file(&link)
                .map_err(|error| doing(Failure::new(error).while_doing(format!("removing {}", link.display()))))?;
            said.push(format!("removed    {}", link.display()));
        }
    } else {
        // a manager that cannot be told goes on running what has no unit any more
        systemctl(&["daemon-reload"]).map_err(|failure| {
            doing(failure.with_remedy("nothing was removed; end the daemon where it runs, or try again in a session"))
        })?;
        // what is not there is disabled already
        let _ = systemctl(&["disable", "--now", SOCKET, CONTROL_SOCKET, SERVICE]);
        said.push("stopped and disabled".to_owned());
    }
    for path in UNITS.iter().map(|(name, _)| folder.join(name)).chain(drop_ins.clone()) {
        match fs::read_to_string(&path) {
            Ok(found) if found.starts_with(MARK) => {
                fs::remove_file(&path)
                    .map_err(|error| doing(Failure::new(error).while_doing(format!("removing {}", path.display()))))?;
                said.push(format!("removed    {}", path.display()));
            }
            Ok(_) => said.push(format!("kept       {} (not written by valetd)", path.display())),
            Err(_) => {}
        }
    }
    for folder in drop_ins.iter().filter_map(|file| file.parent()) {
        let _ = fs::remove_dir(folder); // which may hold somebody's own
    }
    if manager().is_ok() {
        systemctl(&["daemon-reload"]).map_err(doing)?;
        let _ = systemctl(&["reset-failed", SERVICE, SOCKET, CONTROL_SOCKET]);
    }
    said.push("credentials and configuration are still there; valetd logout removes a login".to_owned());
    print(&format!("{}\n", said.join("\n")))?;
    Ok(exit)
}

/// The links that have a manager start our units (systemctl(1), "enable"), by their names.
fn enabling_links(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let wanting = entries(folder).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.ends_with(".wants") || name.ends_with(".requires")
    });
    let is_ours = |link: &PathBuf| {
        link.is_symlink() && UNITS.iter().any(|(name, _)| link.file_name().is_some_and(|found| found == *name))
    };
    wanting.collect::<Vec<_>>().iter().flat_map(|folder| entries(folder)).filter(is_ours).collect()
}

fn status() -> Result<Exit, Failure> {
    manager().map_err(|why| {
        let remedy = "'valetd run' works under any supervisor; a service wants a session of systemd (not by su)";
        Failure::say(why).with_remedy(remedy).while_doing("looking at the service")
    })?;
    let mut runs = false;
    let mut out = String::new();
    for unit in [SERVICE, SOCKET, CONTROL_SOCKET] {
        let Unit { load, active, enabled, path, status, pid } = Unit::look(unit);
        if load != "loaded" {
            out.push_str(&format!("{unit:<22} not installed\n"));
            continue;
        }
        runs |= unit == SERVICE && active == "active";
        let pid = if pid == "0" || pid.is_empty() { String::new() } else { format!(", pid {pid}") };
        out.push_str(&format!("{unit:<22} {active}{pid}, {enabled}, {path}\n"));
        if !status.is_empty() {
            out.push_str(&format!("{:<22} {}\n", "", printable(&status)));
        }
    }
    out.push_str(&match has_linger() {
        Some(true) => "lingering              on: it runs while you are not logged in\n".to_owned(),
        Some(false) => {
            "lingering              off: it stops with your last logout (loginctl enable-linger)\n".to_owned()
        }
        None => String::new(),
    });
    if let Some(why) = unstartable() {
        out.push_str(&format!("{:<22} it cannot start: {}\n{:<22} {ELSEWHERE}\n", "", printable(&why), ""));
    } else if !runs {
        let says = match unit_file(SOCKET) {
            Some(_) => "it does not run; the first connection starts it if its sockets are active",
            None => "to install it: valetd service install",
        };
        out.push_str(&format!("{:<22} {says}\n", ""));
    }
    print(&out)?;
    Ok(if runs { Exit::Fine } else { Exit::Failed })
}

fn require_manager() -> Result<(), Failure> {
    manager().map_err(|why| {
        Failure::say(why).with_remedy(
            "nothing was changed; run 'valetd run' under the supervisor that you have, or log in afresh (not by su)",
        )
    })
}

fn is(unit: &str, question: &str) -> bool {
    let asked = command("systemctl").args(["--user", "--quiet", question, unit]).status();
    asked.is_ok_and(|status| status.success())
}

fn systemctl(arguments: &[&str]) -> Result<(), Failure> {
    run("systemctl", &[&["--user"], arguments].concat())
}

fn run(program: &str, arguments: &[&str]) -> Result<(), Failure> {
    let words = format!("{program} {}", arguments.join(" "));
    let output = command(program)
        .args(arguments)
        .output()
        .map_err(|error| Failure::new(error).while_doing(format!("running {words}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines = said.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    Err(Failure::say(format!("{words} ended with {}", output.status)).with_problems(lines))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::tests::report;

    #[test]
    fn nothing_is_put_in_the_place_of_a_daemon_that_is_there() {
        let socket = || "/run/v.sock".into();
        let silent = ClientError::Silent { socket: socket(), after: Duration::from_secs(10) };
        let garbled = ClientError::Garbled { socket: socket(), detail: "its status has version 9".to_owned() };
        let foreign = ClientError::Foreign { socket: socket(), owner: 7 };
        let nobody = || Err(ClientError::NotRunning(socket()));
        assert!(daemon_in_the_way(nobody(), None).unwrap().is_none());
        assert!(daemon_in_the_way(Ok(report()), Some(" (pid 7)")).unwrap().is_some());
        for (case, asked, holder, expected) in [
            ("stopped", Err(silent), Some(" (pid 7)"), "did not answer within 10 s (pid 7)"),
            ("of another version", Err(garbled), None, "version 9"),
            ("somebody else's", Err(foreign), None, "is not yours"),
            ("with a socket of its own", nobody(), Some(" (pid 7)"), "a valetd (pid 7) holds the credentials"),
        ] {
            let said = daemon_in_the_way(asked, holder).unwrap_err().to_string();
            assert!(said.contains(expected) && said.contains("nothing was changed"), "{case}: {said}");
        }
    }
}
