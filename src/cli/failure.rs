//! How a verb ends: an exit status that scripts can tell apart, or a failure that a person can mend.

use std::process::ExitCode;
use std::{fmt, io};

use anyhow::anyhow;

use super::manager::how_to_start;
use super::options::Options;
use super::text::printable;
use crate::control::client::ClientError;
use crate::control::problem::kind;
use crate::control::report::DaemonReport;
use crate::names::UnknownName;
use crate::platform::peer::own_uid;

/// What mends a file that cannot be used, before the command that checks it.
pub(super) const NOT_CONFIGURED: &str = "Correct the file, which is then taken over by itself; to have it checked:";

/// How a verb ended: the process's exit status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Exit {
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
    /// The store is locked: the key that credentials are sealed with is away.
    Locked = 5,
    /// The daemon has no configuration: its file could not be used when it started, and cannot yet.
    NotConfigured = 6,
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
pub(super) struct Failure {
    chain: anyhow::Error,
    problems: Vec<String>,
    pub(super) remedy: Option<String>,
    pub(super) exit: Exit,
}

impl Failure {
    pub(super) fn new(chain: impl Into<anyhow::Error>) -> Self {
        Self { chain: chain.into(), problems: Vec::new(), remedy: None, exit: Exit::Failed }
    }

    pub(super) fn say(sentence: impl fmt::Display + fmt::Debug + Send + Sync + 'static) -> Self {
        Self::new(anyhow!(sentence))
    }

    /// What was being done when it happened.
    pub(super) fn while_doing(mut self, doing: impl fmt::Display + Send + Sync + 'static) -> Self {
        self.chain = self.chain.context(doing);
        self
    }

    pub(super) fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    pub(super) fn with_problems(mut self, problems: Vec<String>) -> Self {
        self.problems = problems;
        self
    }

    /// What happened, in a line.
    pub(super) fn sentence(&self) -> String {
        format!("{:#}", self.chain)
    }

    /// Its single problems; where there are none, the whole of it in a line.
    pub(super) fn problems_or_itself(self) -> Vec<String> {
        match self.problems.is_empty() {
            true => vec![self.sentence()],
            false => self.problems,
        }
    }

    pub(super) fn with_exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// A name that nothing has, with those that there are.
    pub(super) fn unknown(name: &UnknownName<'_>) -> Self {
        let failure = Self::say(name.to_string());
        match name.choice() {
            Some(choice) => failure.with_remedy(choice),
            None => failure,
        }
    }

    /// A daemon that has no configuration, with what is wrong with its file; `None` if it has one.
    pub(super) fn of_missing_configuration(daemon: &DaemonReport, options: &Options) -> Option<Self> {
        if daemon.configured {
            return None;
        }
        let file = daemon.config_file.display();
        let failure = Self::say(format!("{file} cannot be used, and the daemon has no configuration"));
        let remedy = format!("{NOT_CONFIGURED} {} check", options.invocation());
        let problems = daemon.config_problems.clone();
        Some(failure.with_problems(problems).with_remedy(remedy).with_exit(Exit::NotConfigured))
    }

    /// A call to the daemon that has no result.
    pub(super) fn of_call(error: ClientError, options: &Options) -> Self {
        match error {
            ClientError::Refused(problem) => {
                let exit = match () {
                    () if problem.is(kind::STORE_LOCKED) => Exit::Locked,
                    () if problem.is(kind::NOT_CONFIGURED) => Exit::NotConfigured,
                    () => Exit::Failed,
                };
                let failure = Self::say(problem.detail).with_problems(problem.problems).with_exit(exit);
                match problem.remedy {
                    Some(remedy) => failure.with_remedy(remedy),
                    None => failure,
                }
            }
            ClientError::NotRunning(_) => Self::new(error).with_remedy(how_to_start(options)),
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
                let remedy = "a unix socket's path has at most 107 bytes: name a shorter one with --socket, for this \
                              command and for the daemon";
                Self::new(error).with_remedy(remedy)
            }
            ClientError::Silent { .. } => {
                let doctor = format!("{} doctor", options.invocation());
                Self::new(error).with_remedy(format!("'{doctor}' names its process: end that, and start it again"))
            }
            ClientError::Unreachable { .. } | ClientError::Ended { .. } | ClientError::Garbled { .. } => {
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

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

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
        assert_eq!(Failure::of_call(missing(), &Options::default()).exit, Exit::Failed);
        let options = Options { socket: Some("/tmp/my v.sock".into()), ..Options::default() };
        let remedy = Failure::of_call(missing(), &options).remedy.unwrap();
        assert_eq!(remedy, "start it: valetd --socket '/tmp/my v.sock' run");
    }
}
