//! The user's service manager, as systemctl and the files of its units tell of it.

use std::cmp::Ordering;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::StatVfsMountFlags;

use super::holder::{how_to_reach, lock_holder};
use super::options::Options;
use crate::control::report::{DaemonReport, PROGRAM_REPLACED};
use crate::platform::environment;
use crate::platform::paths::{self, Paths};

pub(super) const SERVICE: &str = "valetd.service";
pub(super) const SOCKET: &str = "valetd.socket";
pub(super) const CONTROL_SOCKET: &str = "valetd-control.socket";

/// The command that starts a daemon where there is none: the one place that looks at what is installed. `here` is how the
/// program is called so that it finds these places.
pub(super) fn start_command(options: &Options) -> String {
    let invocation = options.invocation();
    match manager() {
        _ if invocation != "valetd" => format!("{invocation} run"),
        Err(_) => "valetd run".to_owned(),
        Ok(()) if unit_file(SOCKET).is_some() && unstartable().is_none() => {
            "systemctl --user enable --now valetd.socket valetd.service".to_owned()
        }
        Ok(()) => "valetd service install".to_owned(),
    }
}

/// What to do where no daemon listens, in a line: how to talk to the one that holds the state folder all the same; or else
/// what starts one for good, and what does in this terminal.
pub(super) fn how_to_start(options: &Options) -> String {
    let state_dir = Paths::find(options.overrides()).ok().map(|places| places.state_dir);
    if let Some((folder, holder)) = state_dir.and_then(|folder| lock_holder(&folder).map(|holder| (folder, holder))) {
        return how_to_reach(&folder, &holder);
    }
    match start_command(options) {
        by_hand if by_hand.ends_with(" run") => format!("start it: {by_hand}"),
        for_good => format!("start it: {for_good}  (or, in this terminal: valetd run)"),
    }
}

/// The command that starts a running daemon anew. One that was started by hand is ended where it runs.
pub(super) fn restart_command(pid: u32) -> String {
    match manager().is_ok() && Unit::look(SERVICE).pid == pid.to_string() {
        true => "systemctl --user restart valetd.service".to_owned(),
        false => format!("end process {pid} (Ctrl-C where it runs) and start it again"),
    }
}

/// What is said of a daemon that is not of this program's version, and the command that mends it. `None` if it is.
pub(super) fn age(daemon: &DaemonReport) -> Option<(String, String)> {
    const OURS: &str = env!("CARGO_PKG_VERSION");
    let numbers =
        |version: &str| -> Vec<u64> { version.split(['.', '-', '+']).map_while(|n| n.parse().ok()).collect() };
    let theirs = &daemon.version;
    let words = match numbers(theirs).cmp(&numbers(OURS)) {
        _ if theirs == OURS => return None,
        Ordering::Less => format!("the daemon is older ({theirs}) than this program ({OURS})"),
        Ordering::Greater => format!("the daemon is newer ({theirs}) than this program ({OURS})"),
        Ordering::Equal => format!("the daemon is {theirs}, this program is {OURS}"),
    };
    Some((words, restart_command(daemon.pid)))
}

/// The command that mends what the daemon warns of, where it takes one.
pub(super) fn remedy_of(warning: &str, pid: u32) -> Option<String> {
    (warning == PROGRAM_REPLACED).then(|| restart_command(pid))
}

/// Why no units can be used here; `Ok` if they can.
pub(super) fn manager() -> Result<(), &'static str> {
    let Some(runtime) = paths::runtime_folder() else {
        return Err("neither XDG_RUNTIME_DIR nor /run/user/UID is there: this is no login session of systemd");
    };
    if !runtime.join("systemd/private").exists() {
        return Err("no systemd user manager runs for this user");
    }
    Ok(())
}

/// Where a user manager looks for units (systemd.unit(5)), as far as packages and people put any there.
fn unit_folders() -> Vec<PathBuf> {
    let base = directories::BaseDirs::new();
    let own = base.iter().map(|base| base.config_dir().join("systemd/user"));
    let runtime = paths::runtime_folder().map(|folder| folder.join("systemd/user"));
    let data = base.iter().map(|base| base.data_dir().join("systemd/user"));
    let packaged = ["/usr/local/share", "/usr/share", "/usr/local/lib", "/usr/lib"];
    own.chain([PathBuf::from("/etc/systemd/user")])
        .chain(runtime)
        .chain(data)
        .chain(packaged.map(|folder| Path::new(folder).join("systemd/user")))
        .collect()
}

/// The unit's file, if it is installed.
pub(super) fn unit_file(unit: &str) -> Option<PathBuf> {
    unit_folders().into_iter().map(|folder| folder.join(unit)).find(|file| file.exists())
}

/// The unit's file and its drop-ins, in the order in which they count.
pub(super) fn unit_texts(unit: &str) -> Option<Vec<String>> {
    let mut texts = vec![std::fs::read_to_string(unit_file(unit)?).ok()?];
    let mut drop_ins: Vec<PathBuf> = unit_folders()
        .into_iter()
        .filter_map(|folder| std::fs::read_dir(folder.join(format!("{unit}.d"))).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
        .filter(|file| file.extension().is_some_and(|end| end == "conf"))
        .collect();
    drop_ins.sort_by_key(|file| file.file_name().map(ToOwned::to_owned));
    texts.extend(drop_ins.into_iter().filter_map(|file| std::fs::read_to_string(file).ok()));
    Some(texts)
}

/// What mends a service whose program cannot be started from where it is.
pub(super) const ELSEWHERE: &str =
    "put the program where it stays, as in ~/.local/bin, and there: valetd service install";

/// Why the installed service cannot start its program, which is named; `None` if nothing is known against it.
pub(super) fn unstartable() -> Option<String> {
    let texts = unit_texts(SERVICE)?;
    let program = program_of(&texts)?;
    why_not_started(&program, &texts).map(|why| format!("{} {why}", program.display()))
}

/// Why a service whose unit and drop-ins say this cannot start the program, as the end of a sentence.
pub(super) fn why_not_started(program: &Path, texts: &[String]) -> Option<&'static str> {
    if let Some(why) = hidden(program, texts) {
        return Some(why);
    }
    let Ok(found) = std::fs::metadata(program) else { return Some("is not there") };
    let is_noexec = |flags: StatVfsMountFlags| flags.contains(StatVfsMountFlags::NOEXEC);
    match rustix::fs::statvfs(program) {
        _ if found.permissions().mode() & 0o111 == 0 => Some("may not be executed: chmod +x"),
        Ok(system) if is_noexec(system.f_flag) => Some("is on a file system that is mounted noexec"),
        Ok(_) | Err(_) => None,
    }
}

/// Why a service sees nothing at this path (systemd.exec(5), "Sandboxing"). Managers before systemd 254 have it see it all
/// the same, until they are replaced; a temporary folder is emptied by then. Pure.
fn hidden(program: &Path, texts: &[String]) -> Option<&'static str> {
    let last = |key: &str| values(texts, key).last().unwrap_or_default();
    let is_on = |value: &str| ["yes", "true", "on", "1", "disconnected"].contains(&value);
    let is_below = |folders: &[&str]| folders.iter().any(|folder| program.starts_with(folder));
    let home = last("ProtectHome");
    match () {
        () if is_on(last("PrivateTmp")) && is_below(&["/tmp", "/var/tmp"]) => {
            Some("is in a temporary folder, of which the service has one of its own (PrivateTmp)")
        }
        () if (is_on(home) || home == "tmpfs") && is_below(&["/home", "/root", "/run/user"]) => {
            Some("is in a home folder, which the service does not see (ProtectHome)")
        }
        () => None,
    }
}

/// What a key is set to in a unit and its drop-ins, in their order.
fn values<'t>(texts: &'t [String], key: &str) -> impl Iterator<Item = &'t str> {
    let lines = texts.iter().flat_map(|text| text.lines());
    lines.filter_map(move |line| {
        let (found, value) = line.trim().split_once('=')?;
        (found.trim() == key).then_some(value.trim())
    })
}

/// The program that a unit starts; `None` if it is started by a shell, or named with what only the manager knows. Pure.
fn program_of(texts: &[String]) -> Option<PathBuf> {
    let command = values(texts, "ExecStart").filter(|command| !command.is_empty()).last()?;
    let command = command.trim_start_matches(['@', '-', ':', '+', '!']);
    let word = match command.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => command.split_whitespace().next()?,
    };
    let path = word.replace("%%", "\0");
    let is_plain = !path.contains(['%', '$', '\\']) && path != "/bin/sh";
    is_plain.then(|| path.replace('\0', "%").into())
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
        let output = command("systemctl").args(["--user", "show", "-p", wanted, unit]).output();
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

/// A command that finds the user's manager, also where the environment does not say where it is (cron, su, ssh).
pub(super) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    if let Some(folder) = paths::runtime_folder() {
        command.env("XDG_RUNTIME_DIR", folder);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::tests::report;

    #[test]
    fn a_program_that_the_unit_hides_is_told_and_one_that_it_sees_is_not() {
        let shipped = include_str!("../../systemd/valetd.service");
        let rows = [
            ("/home/me/.cargo/bin/valetd", "", None),
            ("/usr/bin/valetd", "", None),
            ("/tmp/valetd/target/release/valetd", "", Some("temporary folder")),
            ("/var/tmp/valetd", "", Some("temporary folder")),
            ("/tmpfolder/valetd", "", None),
            ("/tmp/valetd", "PrivateTmp=no\n", None),
            ("/home/me/valetd", "ProtectHome=yes\n", Some("home folder")),
            ("/root/valetd", "ProtectHome = tmpfs\n", Some("home folder")),
            ("/srv/valetd", "ProtectHome=yes\n", None),
        ];
        for (program, drop_in, expected) in rows {
            let found = hidden(Path::new(program), &[shipped.to_owned(), format!("[Service]\n{drop_in}")]);
            assert_eq!(found.is_some(), expected.is_some(), "{program} {drop_in}");
            assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()), "{program}: {found:?}");
        }
    }

    #[test]
    fn the_program_of_a_unit_is_read_as_systemd_reads_it() {
        let rows = [
            ("ExecStart=/usr/bin/valetd run\n", Some("/usr/bin/valetd")),
            ("ExecStart=/a run\nExecStart=\nExecStart=-/b run\n", Some("/b")),
            ("ExecStart=\"/home/a b/100%%/valetd\" run\n", Some("/home/a b/100%/valetd")),
            ("ExecStart=%h/bin/valetd run\n", None),
            ("ExecStart=/bin/sh -c x\n", None),
            ("ExecStop=/x\n", None),
        ];
        for (text, expected) in rows {
            assert_eq!(program_of(&[text.to_owned()]).as_deref(), expected.map(Path::new), "{text}");
        }
    }

    #[test]
    fn a_daemon_of_another_version_is_told_by_its_age() {
        let rows = [
            (env!("CARGO_PKG_VERSION"), None),
            ("0.0.9", Some("the daemon is older (0.0.9) than this program (")),
            ("0.10.0", Some("the daemon is newer (0.10.0) than this program (")),
            ("0.1.0-rc1", Some("the daemon is 0.1.0-rc1, this program is ")),
        ];
        for (version, expected) in rows {
            let daemon = DaemonReport { version: version.to_owned(), ..report().daemon };
            let said = age(&daemon).map(|(words, _)| words);
            assert_eq!(said.is_some(), expected.is_some(), "{version}");
            assert!(said.unwrap_or_default().starts_with(expected.unwrap_or_default()), "{version}");
        }
    }
}
