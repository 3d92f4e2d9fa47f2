//! `valetd service`

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::failure::{Exit, Failure};
use super::options::Options;
use super::output::print;
use super::text::printable;
use crate::platform::environment;

/// Install valetd as a service of this user, remove it, or look at it
#[derive(clap::Args, Debug)]
#[command(
    disable_help_subcommand = true,
    long_about = "\
Install valetd as a service of this user, remove it, or look at it. For a binary
that no package has installed: 'install' writes systemd user units with the
path of this binary to ~/.config/systemd/user, and starts them. No root needed.

Without systemd, run 'valetd run' under any supervisor: it stays in the
foreground, logs to standard error, reloads on SIGHUP and drains on SIGTERM.
NOTIFY_SOCKET and LISTEN_FDS (names: http, control) are honoured where set.",
    after_help = "\
Examples:
  valetd service install            and it runs whenever you are logged in
  valetd service install --linger   also while you are not
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
    /// Write the units, enable them and start them
    Install {
        /// Also run while you are not logged in (loginctl enable-linger)
        #[arg(long)]
        linger: bool,
        /// Close it further, where user namespaces are allowed (strict.conf)
        #[arg(long)]
        strict: bool,
        /// Only print what would be written
        #[arg(long)]
        print: bool,
    },
    /// Stop it, disable it and remove the units
    Uninstall,
    /// Show whether it is installed, enabled and running
    Status,
}

/// The units as they are shipped, by name, and the drop-in.
const UNITS: [(&str, &str); 3] = [
    (SERVICE, include_str!("../../systemd/valetd.service")),
    (SOCKET, include_str!("../../systemd/valetd.socket")),
    (CONTROL_SOCKET, include_str!("../../systemd/valetd-control.socket")),
];
const STRICT: &str = include_str!("../../systemd/valetd.service.d/strict.conf");
pub(super) const SERVICE: &str = "valetd.service";
pub(super) const SOCKET: &str = "valetd.socket";
pub(super) const CONTROL_SOCKET: &str = "valetd-control.socket";

/// Where the shipped unit expects the program.
const PACKAGED: &str = "/usr/bin/valetd";

/// How a file of ours begins, so that one that somebody else wrote is never replaced.
const MARK: &str = "# Written by 'valetd service install'; to change a setting: systemctl --user edit valetd\n";

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    if options.invocation() != "valetd" {
        return Err(Failure::say("a service uses the usual places: leave out --config, --state-dir and --socket")
            .with_exit(Exit::Usage));
    }
    match arguments.action {
        Action::Install { linger, strict, print: true } => {
            let linger = if linger { "\n# then: loginctl enable-linger\n" } else { "" };
            let files = files(&own_path()?, strict)?;
            let text: Vec<String> = files.iter().map(|(path, text)| format!("# {}\n{text}", path.display())).collect();
            print(&format!("{}{linger}", text.join("\n")))?;
            Ok(Exit::Fine)
        }
        Action::Install { linger, strict, print: false } => install(linger, strict),
        Action::Uninstall => uninstall(),
        Action::Status => status(),
    }
}

fn install(linger: bool, strict: bool) -> Result<Exit, Failure> {
    let doing = |failure: Failure| failure.while_doing("installing the service");
    require_manager().map_err(doing)?;
    let program = own_path().map_err(doing)?;
    let mut said = Vec::new();
    let mut has_changed = false;
    for (path, text) in files(&program, strict).map_err(doing)? {
        match fs::read_to_string(&path) {
            Ok(found) if found == text => said.push(format!("unchanged  {}", path.display())),
            Ok(found) if !found.starts_with(MARK) => {
                let failure = Failure::say(format!("{} is there and was not written by valetd", path.display()));
                return Err(doing(failure.with_remedy("move it away, or use it as it is")));
            }
            Ok(_) | Err(_) => {
                write(&path, &text)
                    .map_err(|error| doing(Failure::new(error).while_doing(format!("writing {}", path.display()))))?;
                said.push(format!("written    {}", path.display()));
                has_changed = true;
            }
        }
    }
    print(&format!("{}\n", said.join("\n")))?;
    systemctl(&["daemon-reload"]).map_err(doing)?;
    let was_running = is(SERVICE, "is-active");
    // a manager that has given up on an earlier try remembers it
    let _ = systemctl(&["reset-failed", SERVICE, SOCKET, CONTROL_SOCKET]);
    systemctl(&["enable", SOCKET, CONTROL_SOCKET, SERVICE]).map_err(doing)?;
    // the sockets first: the service takes them over
    systemctl(&["start", SOCKET, CONTROL_SOCKET]).map_err(|failure| {
        doing(failure.with_remedy("a valetd that runs elsewhere holds the addresses: stop it; valetd doctor names it"))
    })?;
    systemctl(&[if was_running && has_changed { "restart" } else { "start" }, SERVICE]).map_err(doing)?;
    print("enabled and started; it starts with your login, and with the first connection\n")?;
    match (has_linger(), linger) {
        (Some(true), _) => print("it also runs while you are not logged in (lingering is on)\n")?,
        (_, true) => {
            run("loginctl", &["enable-linger"]).map_err(doing)?;
            print("lingering enabled: it also runs while you are not logged in\n")?;
        }
        (_, false) => print("it stops with your last logout; to keep it: loginctl enable-linger\n")?,
    }
    print("  valetd status                     accounts and routes\n  journalctl --user -u valetd       its log\n")?;
    Ok(Exit::Fine)
}

#[expect(clippy::disallowed_methods, reason = "units that this program has installed")]
fn uninstall() -> Result<Exit, Failure> {
    let doing = |failure: Failure| failure.while_doing("removing the service");
    let mut said = Vec::new();
    if manager().is_ok() {
        // what is not there is disabled already
        let _ = systemctl(&["disable", "--now", SOCKET, CONTROL_SOCKET, SERVICE]);
        said.push("stopped and disabled".to_owned());
    }
    let folder = unit_folder().map_err(doing)?;
    let drop_in = folder.join(format!("{SERVICE}.d/strict.conf"));
    for path in UNITS.iter().map(|(name, _)| folder.join(name)).chain([drop_in]) {
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
    let _ = fs::remove_dir(folder.join(format!("{SERVICE}.d"))); // which may hold somebody's own
    if manager().is_ok() {
        systemctl(&["daemon-reload"]).map_err(doing)?;
        let _ = systemctl(&["reset-failed", SERVICE, SOCKET, CONTROL_SOCKET]);
    }
    said.push("credentials and configuration are still there; valetd logout removes a login".to_owned());
    print(&format!("{}\n", said.join("\n")))?;
    Ok(Exit::Fine)
}

fn status() -> Result<Exit, Failure> {
    require_manager().map_err(|failure| failure.while_doing("looking at the service"))?;
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
    if !runs {
        out.push_str(
            "                       it does not run; the first connection starts it if its sockets are active\n",
        );
    }
    print(&out)?;
    Ok(if runs { Exit::Fine } else { Exit::Failed })
}

/// Every file to write, with its text.
fn files(program: &Path, strict: bool) -> Result<Vec<(PathBuf, String)>, Failure> {
    let folder = unit_folder()?;
    let command = command(program).ok_or_else(|| {
        let words = format!("{} cannot stand in a unit: it is no UTF-8, or has a line end in it", program.display());
        Failure::say(words)
    })?;
    let mut files: Vec<(PathBuf, String)> = UNITS
        .iter()
        .map(|(name, text)| (folder.join(name), format!("{MARK}{}", with_program(text, &command))))
        .collect();
    if strict {
        files.push((folder.join(format!("{SERVICE}.d/strict.conf")), format!("{MARK}{STRICT}")));
    }
    Ok(files)
}

/// The unit with another program; nothing else in it speaks of the shipped one.
fn with_program(unit: &str, program: &str) -> String {
    unit.lines().fold(String::new(), |out, line| {
        let line = match line.split_once('=') {
            Some((key @ ("ExecStart" | "ExecReload"), command)) => {
                format!("{key}={}", command.replacen(PACKAGED, program, 1))
            }
            _ => line.to_owned(),
        };
        out + &line + "\n"
    })
}

/// How a unit calls a program (systemd.service(5), "Command lines"). `None` if its path cannot stand in a unit.
///
/// systemd takes no quotes, backslashes or control characters in what is to be run, and reads `$$` there to the letter, but
/// takes all of them in an argument: such a path is handed to a shell that becomes the program.
fn command(program: &Path) -> Option<String> {
    let text = program.to_str().filter(|text| !text.contains(char::is_control))?;
    let is_odd = text.contains(['\'', '"', '\\', '$']);
    let word = quoted(text);
    Some(if is_odd { format!("/bin/sh -c \"exec \\\"$$0\\\" \\\"$$@\\\"\" {word}") } else { word })
}

/// One word of a command line in a unit.
fn quoted(text: &str) -> String {
    let escaped = text.replace('%', "%%").replace('$', "$$").replace('\\', "\\\\").replace('"', "\\\"");
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%".contains(c);
    if escaped.chars().all(plain) { escaped } else { format!("\"{escaped}\"") }
}

fn own_path() -> Result<PathBuf, Failure> {
    let path = std::env::current_exe().map_err(|error| Failure::new(error).while_doing("looking where valetd is"))?;
    // what the kernel says of a file that an upgrade has replaced
    match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(before) => Ok(before.into()),
        None => Ok(path),
    }
}

/// Where a user's units are.
fn unit_folder() -> Result<PathBuf, Failure> {
    let base = directories::BaseDirs::new().ok_or_else(|| Failure::say("this user has no home folder"))?;
    Ok(base.config_dir().join("systemd/user"))
}

#[expect(clippy::disallowed_methods, reason = "units are the person's, and readable by all")]
fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    let beside = path.with_extension("new");
    fs::write(&beside, text)?;
    fs::rename(beside, path)
}

/// Why no units can be used here; `Ok` if they can.
pub(super) fn manager() -> Result<(), &'static str> {
    let Some(runtime) = environment::value("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()) else {
        return Err("XDG_RUNTIME_DIR is not set: this is no login session of systemd");
    };
    if !Path::new(&runtime).join("systemd/private").exists() {
        return Err("no systemd user manager runs for this user");
    }
    Ok(())
}

fn require_manager() -> Result<(), Failure> {
    manager().map_err(|why| {
        Failure::say(why).with_remedy(
            "nothing was changed; run 'valetd run' under the supervisor that you have, or log in afresh (not by su)",
        )
    })
}

/// Whether this user's manager runs without a login; `None` if nobody knows.
pub(super) fn has_linger() -> Option<bool> {
    let folder = Path::new("/var/lib/systemd/linger");
    directories::BaseDirs::new()?;
    let name = environment::text("USER").or_else(|| environment::text("LOGNAME"))?;
    folder.parent()?.exists().then(|| folder.join(name).exists())
}

/// What the manager knows of a unit.
pub(super) struct Unit {
    /// `loaded`, `not-found`
    pub(super) load: String,
    /// `active`, `inactive`, `failed`
    pub(super) active: String,
    /// `enabled`, `disabled`
    pub(super) enabled: String,
    pub(super) path: String,
    /// The service's own line.
    pub(super) status: String,
    pub(super) pid: String,
}

impl Unit {
    pub(super) fn look(unit: &str) -> Self {
        let wanted = "LoadState,ActiveState,UnitFileState,FragmentPath,StatusText,MainPID";
        let output = Command::new("systemctl").args(["--user", "show", "-p", wanted, unit]).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let value = |name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or_default().to_owned()
        };
        Self {
            load: value("LoadState"),
            active: value("ActiveState"),
            enabled: value("UnitFileState"),
            path: value("FragmentPath"),
            status: value("StatusText"),
            pid: value("MainPID"),
        }
    }
}

fn is(unit: &str, question: &str) -> bool {
    let asked = Command::new("systemctl").args(["--user", "--quiet", question, unit]).status();
    asked.is_ok_and(|status| status.success())
}

fn systemctl(arguments: &[&str]) -> Result<(), Failure> {
    run("systemctl", &[&["--user"], arguments].concat())
}

fn run(program: &str, arguments: &[&str]) -> Result<(), Failure> {
    let command = format!("{program} {}", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| Failure::new(error).while_doing(format!("running {command}")))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let lines = words.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    Err(Failure::say(format!("{command} ended with {}", output.status)).with_problems(lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_run_this_binary_wherever_it_is() {
        let table = [
            ("/home/me/.cargo/bin/valetd", "ExecStart=/home/me/.cargo/bin/valetd run\n"),
            ("/home/a b/100%/valetd", "ExecStart=\"/home/a b/100%%/valetd\" run\n"),
            ("/a=b/\u{e9}/valetd", "ExecStart=\"/a=b/\u{e9}/valetd\" run\n"),
            ("/x/$HOME/\"v\"", "ExecStart=/bin/sh -c \"exec \\\"$$0\\\" \\\"$$@\\\"\" \"/x/$$HOME/\\\"v\\\"\" run\n"),
            ("/it's/a\\b", "ExecStart=/bin/sh -c \"exec \\\"$$0\\\" \\\"$$@\\\"\" \"/it's/a\\\\b\" run\n"),
        ];
        for (path, expected) in table {
            let text = with_program(UNITS[0].1, &command(Path::new(path)).unwrap());
            assert!(text.contains(expected), "{path}:\n{text}");
            assert!(text.contains("\nExecReload=") && !text.contains(PACKAGED), "{path}:\n{text}");
        }
        assert_eq!(command(Path::new("/a\nExecStart=/evil")), None);
    }

    #[test]
    fn nothing_but_the_commands_differs_from_the_shipped_unit() {
        for (name, text) in UNITS {
            assert_eq!(with_program(text, PACKAGED), text, "{name}");
        }
    }
}
