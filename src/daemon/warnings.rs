//! What a person should look at some day, and what is said where a configuration cannot be used.

use tracing::warn;

use crate::config::Problem;
use crate::platform::paths::Paths;

/// The warnings that the status shows, by what changes them.
#[derive(Default)]
pub(super) struct Warnings {
    /// What was strange at the start, and stays so.
    pub(super) standing: Vec<String>,
    /// What is strange about the configuration in force.
    pub(super) config: Vec<String>,
    /// What we should listen on and do not.
    pub(super) listen: Vec<String>,
    /// That the service manager's sockets count, and not the configuration's `listen`.
    pub(super) sockets: Option<String>,
    /// Who has the half of `localhost` that we do not serve.
    pub(super) strangers: Vec<String>,
    /// What is strange about who may call, and about what a reload asked for that only a restart can bring.
    pub(super) access: Vec<String>,
}

impl Warnings {
    /// All of them, in the order in which they are shown.
    pub(super) fn all(&self) -> Vec<String> {
        let Self { standing, config, listen, sockets, strangers, access } = self;
        let before = [standing, config, listen].into_iter().flatten();
        before.chain(sockets).chain([strangers, access].into_iter().flatten()).cloned().collect()
    }
}

pub(super) fn texts(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// Logs problems and returns them as texts.
pub(super) fn said(problems: Vec<Problem>) -> Vec<String> {
    for problem in &problems {
        warn!("{problem}");
    }
    texts(&problems)
}

/// What answers of our own say while the configuration file cannot be used.
pub(super) fn advice(problems: &[String], paths: &Paths, invocation: &str) -> Option<String> {
    let first = problems.first()?.lines().next().unwrap_or_default();
    let file = paths.config_file.display();
    Some(format!("The configuration {file} cannot be used: {first}. For all of it, run: {invocation} check"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_the_first_problem_is_advice_enough() {
        let paths = Paths {
            config_file: "/c/config.toml".into(),
            providers_dir: "/c/providers".into(),
            state_dir: "/s".into(),
            socket: "/s/v".into(),
            home: None,
            notes: Vec::new(),
        };
        let problems = ["a is wrong\nmore of it".to_owned(), "b".to_owned()];
        let rows = [
            (&problems[..0], None),
            (
                &problems[..],
                Some("The configuration /c/config.toml cannot be used: a is wrong. For all of it, run: valetd check"),
            ),
        ];
        for (problems, expected) in rows {
            assert_eq!(advice(problems, &paths, "valetd").as_deref(), expected);
        }
    }
}
