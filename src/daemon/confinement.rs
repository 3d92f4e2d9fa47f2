//! The sandbox: when it is drawn, and what a later configuration asks for that it does not let through.

use std::path::{Path, PathBuf};

use tracing::warn;

use crate::config::Config;
use crate::platform::harden::{self, LANDLOCK, Measure};
use crate::platform::paths::{OwnFolder, Paths};

/// Which threads are left outside of the sandbox, since they look at the processes of clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Outside {
    /// The audit's.
    pub(super) audit: bool,
    /// The one that looks for containers.
    pub(super) containers: bool,
}

impl Outside {
    /// What is added to the sandbox's description.
    fn in_words(self) -> &'static str {
        match (self.audit, self.containers) {
            (false, false) => "",
            (true, false) => "; but for the audit's thread, which looks for the processes of clients",
            (false, true) => "; but for the thread that looks for the processes of clients",
            (true, true) => "; but for two threads, the audit's and another, which look for the processes of clients",
        }
    }
}

/// Gives up what the daemon does not need of the system, unless that would break what the configuration asks for.
pub(super) fn confine(config: &Config, problems: &[String], paths: &Paths, outside: Outside) -> Measure {
    if let Some(why) = waiver(config, problems) {
        return Measure::waived(LANDLOCK, why);
    }
    let folders = folders(config, paths);
    for folder in &folders {
        let _ = OwnFolder::open_or_make(folder); // binding will say what is wrong with it
    }
    let mut measure = harden::confine(&[folders, vec![paths.state_dir.clone()]].concat());
    if measure.in_force {
        measure.detail += outside.in_words();
    }
    measure
}

/// Why no sandbox is drawn, if that is so.
fn waiver(config: &Config, problems: &[String]) -> Option<String> {
    if !config.sandbox {
        return Some("switched off (sandbox = false)".to_owned());
    }
    if !problems.is_empty() && config.accounts.is_empty() {
        let why = "not drawn, since the configuration could not be used at the start: restart valetd";
        return Some(why.to_owned());
    }
    let setting = config.starts_programs()?;
    Some(format!("not drawn, since {setting} is a command, which would inherit it"))
}

/// The folders of the unix sockets: a reload may bind and remove files there.
fn folders(config: &Config, paths: &Paths) -> Vec<PathBuf> {
    let sockets = config.unix_sockets().chain([paths.socket.as_path()]);
    sockets.filter_map(Path::parent).map(Path::to_owned).collect()
}

/// What a configuration asks for that the sandbox drawn at the start does not let through. `is_blind`: the thread that
/// looks for containers was started within it.
pub(super) fn beyond(config: &Config, is_confined: bool, is_blind: bool) -> Vec<String> {
    let program = config.starts_programs().filter(|_| is_confined).map(|setting| {
        format!(
            "{setting} is a command, and the sandbox was drawn at the start without one: restart valetd, or it cannot run"
        )
    });
    let containers = (config.containers_need_key && is_blind).then(|| {
        "containers_need_key was switched on after the sandbox had been drawn, from within which no client can be seen \
         to run outside of containers: restart valetd; until then every client needs a key"
            .to_owned()
    });
    program.into_iter().chain(containers).inspect(|warning| warn!("{warning}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::tests::config;

    #[test]
    fn a_sandbox_is_drawn_unless_it_would_break_what_was_asked_for() {
        let (plain, off, mut program) = (config(), Config { sandbox: false, ..config() }, config());
        program.notice.command = vec!["notify-send".to_owned()];
        let problem = ["no".to_owned()];
        let rows: [(&str, &Config, &[String], Option<&str>); 5] = [
            ("plain", &plain, &[], None),
            ("switched off", &off, &[], Some("switched off (sandbox = false)")),
            ("switched off, with problems", &off, &problem, Some("switched off (sandbox = false)")),
            ("problems", &plain, &problem, Some("not drawn, since the configuration could not be used")),
            ("a program", &program, &[], Some("is a command, which would inherit it")),
        ];
        for (case, config, problems, expected) in rows {
            let found = waiver(config, problems);
            let is_as_expected = match expected {
                Some(words) => found.as_ref().is_some_and(|found| found.contains(words)),
                None => found.is_none(),
            };
            assert!(is_as_expected, "{case}: {found:?}");
        }
    }

    #[test]
    fn what_came_after_the_sandbox_is_told() {
        let (plain, containers, mut program) = (config(), Config { containers_need_key: true, ..config() }, config());
        program.notice.command = vec!["notify-send".to_owned()];
        let rows = [
            ("nothing", &plain, true, false, 0),
            ("a program, and no sandbox", &program, false, false, 0),
            ("a program", &program, true, false, 1),
            ("containers, looked for from outside", &containers, true, false, 0),
            ("containers, looked for from within", &containers, true, true, 1),
            ("containers that need no key any more", &plain, true, true, 0),
        ];
        for (case, config, is_confined, is_blind, expected) in rows {
            assert_eq!(beyond(config, is_confined, is_blind).len(), expected, "{case}");
        }
    }
}
