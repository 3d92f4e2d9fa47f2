//! The user's service manager, as systemctl and the files of its units tell of it.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::options::Options;
use crate::control::report::DaemonReport;
use crate::platform::environment;
use crate::platform::paths;

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
        Ok(()) if unit_file(SOCKET).is_some() => {
            "systemctl --user enable --now valetd.socket valetd.service".to_owned()
        }
        Ok(()) => "valetd service install".to_owned(),
    }
}

/// What to do where no daemon runs, in a line: what starts it for good, and what does in this terminal.
pub(super) fn how_to_start(options: &Options) -> String {
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
