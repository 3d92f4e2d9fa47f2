//! Tells a person in time: an account must be signed in to, or its refresh token is about to die.
//!
//! Each notice is a line in the log and, where the configuration says `notice`, one run of a command; at most once a day
//! for each account and cause, also across restarts. A browser is never opened. `Cause` and `Forecast` decide; the
//! rest remembers, waits and runs.
//!
//! A refresh token's death is worth a notice only if renewing does not put it off. That is learnt by watching: an end
//! that moves with every renewal is no news while renewals succeed, however near it is.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, error, warn};

use crate::accounts::{self, AccountView, Accounts, NOT_SAVED, Withheld, Withholding};
use crate::config::{AccountId, Config};
use crate::platform::asked::Asked;
use crate::platform::clock::{Clock, wall};
use crate::platform::timer::WakeTimer;
use crate::renewal::{Phase, Why};
use crate::shutdown::Shutdown;
use crate::span::coarse;
use crate::timestamp::{Timestamp, unix_seconds};

/// For one account and cause, a person is told this often at the most.
const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A command that shows or sends a message takes a moment; one that hangs must not pile up.
const COMMAND_PATIENCE: Duration = Duration::from_secs(30);

/// Lives are told in whole seconds and counted from two different moments: less than this is no move.
const SAME_END: Duration = Duration::from_secs(5);

/// A network that is away for a moment is nobody's business: so many failures in a row are.
const LASTING: u32 = 3;

/// A key comes within a login, or a moment after it: later it is worth a word.
const LOCKED_FOR: Duration = Duration::from_secs(5 * 60);

/// What a person is told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cause {
    /// Nothing but a sign-in helps.
    SignInRequired(Why),
    /// What is stored is not used until somebody has done something about it.
    Withheld(Withholding),
    /// Renewals wait until something can be saved again.
    CannotSave,
    /// The refresh token dies then, and a renewal will not put that off.
    Dies(Timestamp),
}

impl Cause {
    /// For scripts, and for the memory of what was told.
    fn code(self) -> &'static str {
        match self {
            Cause::SignInRequired(why) => why.code(),
            Cause::Withheld(cause) => cause.code(),
            Cause::CannotSave => "cannot-save",
            Cause::Dies(_) => "refresh-token-dies",
        }
    }
}

/// What was seen of one account's refresh token.
#[derive(Clone, Copy, Debug, Default)]
struct Forecast {
    renewals: u64,
    generation_end: Option<Timestamp>,
    /// Whether the last renewal moved the end; unknown until there was one.
    moves: Option<bool>,
}

impl Forecast {
    /// Looks at an account anew.
    fn see(&mut self, view: &AccountView) {
        let end = view.snapshot.refresh_expires_at;
        let has_renewed = view.renewals > self.renewals;
        match (self.generation_end, end) {
            (Some(was), Some(is)) if has_renewed => self.moves = Some(is > was + SAME_END),
            (_, None) => self.moves = None,
            // a sign-in, or the first look
            (Some(was), Some(is)) if is > was + SAME_END => self.moves = None,
            (Some(_) | None, Some(_)) => {}
        }
        self.renewals = view.renewals;
        self.generation_end = end;
    }

    /// From when on the death is worth a notice; `None` if it is none that a person has to prevent.
    fn notable_from(&self, view: &AccountView, before: Duration) -> Option<Timestamp> {
        let end = view.snapshot.refresh_expires_at?;
        let is_failing = view.snapshot.failures >= LASTING;
        match (self.moves, view.last_success) {
            (Some(false), _) => Some(end - before),
            // it dies only because renewals fail; a short life is near its end all the time
            (Some(true), Some(last)) if is_failing => Some(end - before.min(end.since(last) / 3)),
            (None, _) if is_failing => Some(end - before.min(A_DAY)),
            (Some(true) | None, _) => None,
        }
    }
}

/// What a person should be told about an account now, and when to look again although nothing else happens.
fn cause(
    view: &AccountView,
    forecast: &Forecast,
    before: Duration,
    now: Timestamp,
) -> (Option<Cause>, Option<Timestamp>) {
    if let Some(Withheld { cause: Withholding::Locked, .. }) = &view.withheld {
        return (None, None); // who has locked it knows
    }
    if let Some(Withheld { cause, since, .. }) = &view.withheld {
        let from = *since + LOCKED_FOR;
        return if now < from { (None, Some(from)) } else { (Some(Cause::Withheld(*cause)), None) };
    }
    match view.snapshot.phase {
        // nobody has signed in yet, or somebody has just signed out: they know
        Phase::SignInRequired { why: Why::NotSignedIn } => return (None, None),
        Phase::SignInRequired { why } => return (Some(Cause::SignInRequired(why)), None),
        Phase::Scheduled { .. } | Phase::InFlight { .. } => {}
    }
    let is_unspent = view.last_failure.as_ref().is_some_and(|failure| failure.class == NOT_SAVED);
    if is_unspent && view.snapshot.failures >= LASTING {
        return (Some(Cause::CannotSave), None);
    }
    let (Some(from), Some(end)) = (forecast.notable_from(view, before), view.snapshot.refresh_expires_at) else {
        return (None, None);
    };
    if now < from { (None, Some(from)) } else { (Some(Cause::Dies(end)), None) }
}

/// What is said, in the words of log, command and environment.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Message {
    account: String,
    why: &'static str,
    remedy: String,
    text: String,
}

impl Message {
    fn new(account: &AccountId, cause: Cause, now: Timestamp, invocation: &str) -> Self {
        let remedy = match cause {
            Cause::SignInRequired(why) => accounts::remedy(why, account, invocation),
            Cause::Withheld(cause) => cause.remedy(account, invocation),
            Cause::CannotSave => format!("{invocation} doctor"),
            Cause::Dies(_) => accounts::login(account, invocation),
        };
        let what = match cause {
            Cause::SignInRequired(why) => why.to_string(),
            Cause::Withheld(Withholding::Locked) => "somebody has locked valetd".to_owned(),
            Cause::Withheld(Withholding::StoreLocked) => "the store is locked: its key is away".to_owned(),
            Cause::Withheld(Withholding::OtherMachine) => "the stored credential is another machine's".to_owned(),
            Cause::Withheld(Withholding::OlderCopy) => "the stored credential is an older copy".to_owned(),
            Cause::Withheld(Withholding::KeyGone) => "the key of the stored credential is gone".to_owned(),
            Cause::CannotSave => {
                "it is not renewed while the next refresh token cannot be saved: make room on the disk, or \
                                  make it writable"
                    .to_owned()
            }
            Cause::Dies(at) => format!("the refresh token dies in {}", coarse(at.since(now).as_secs())),
        };
        let text = format!("{account}: {what}. To mend it, run: {remedy}");
        Self { account: account.to_string(), why: cause.code(), remedy, text }
    }

    /// A command's word with the message's parts filled in.
    fn fill(&self, word: &str) -> String {
        word.replace("{account}", &self.account)
            .replace("{why}", self.why)
            .replace("{remedy}", &self.remedy)
            .replace("{message}", &self.text)
    }
}

/// When which notice was last given, by account and cause; kept in a small file beside the credentials.
#[derive(Debug)]
struct Memory {
    file: PathBuf,
    /// Unix seconds by `ACCOUNT CAUSE`.
    told: BTreeMap<String, u64>,
}

impl Memory {
    /// Not `.json`: the store takes those for accounts.
    const FILE: &'static str = "notices";

    /// What cannot be read was never told: then a person is told once too often.
    fn load(state_dir: &Path) -> Self {
        let file = state_dir.join(Self::FILE);
        let line = |line: &str| {
            let (name, at) = line.rsplit_once(' ')?;
            Some((name.to_owned(), at.parse().ok()?))
        };
        let told = std::fs::read_to_string(&file).unwrap_or_default().lines().filter_map(line).collect();
        Self { file, told }
    }

    /// When this may be told again; `None` if now.
    fn silent_until(&self, account: &AccountId, cause: Cause, wall: SystemTime) -> Option<SystemTime> {
        let told = UNIX_EPOCH + Duration::from_secs(*self.told.get(&key(account, cause))?);
        // a wall clock that was set back must not silence us for longer than a day
        (told <= wall && wall < told + A_DAY).then(|| told + A_DAY)
    }

    fn note(&mut self, account: &AccountId, cause: Cause, wall: SystemTime) {
        let seconds = unix_seconds(wall);
        self.told.insert(key(account, cause), seconds);
        self.told.retain(|_, at| at.saturating_add(A_DAY.as_secs()) > seconds);
        if let Err(error) = self.save() {
            debug!(file = %self.file.display(), %error, "the time of a notice is not saved; it may come twice");
        }
    }

    #[expect(clippy::disallowed_methods, reason = "what was told: made for us alone, and lost without harm")]
    fn save(&self) -> io::Result<()> {
        let beside = self.file.with_file_name(format!(".{}.tmp", Self::FILE));
        let text: String = self.told.iter().map(|(name, at)| format!("{name} {at}\n")).collect();
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?.write_all(text.as_bytes())?;
        std::fs::rename(&beside, &self.file)
    }
}

fn key(account: &AccountId, cause: Cause) -> String {
    format!("{account} {}", cause.code())
}

/// What the notices are made from.
pub(crate) struct NoticeSources {
    /// The accounts as they stand.
    pub accounts: Accounts,
    /// The configuration in force.
    pub config: watch::Receiver<Arc<Config>>,
    /// The time line.
    pub clock: Arc<Clock>,
    /// Where it is remembered what was told: the folder of the credentials, whose lock is ours.
    pub state_dir: PathBuf,
    /// How a person calls the program: `valetd`, and options for other places.
    pub invocation: String,
}

/// Gives notices until the stop has started. It sleeps until something changes or the next one is due.
pub(crate) async fn watch(sources: NoticeSources, mut shutdown: Shutdown) {
    let NoticeSources { mut accounts, mut config, clock, state_dir, invocation } = sources;
    let mut timer = match WakeTimer::new() {
        Ok(timer) => timer,
        Err(error) => return error!(%error, "no notices: the kernel gives no timer"),
    };
    let mut memory = Memory::load(&state_dir);
    let mut forecasts: BTreeMap<AccountId, Forecast> = BTreeMap::new();
    let mut commands = JoinSet::new();
    loop {
        let notice = config.borrow_and_update().notice.clone();
        let (now, wall) = (clock.now(), wall());
        let views = accounts.views();
        forecasts.retain(|id, _| views.iter().any(|view| view.id == *id));
        let mut next: Option<Timestamp> = None;
        for view in views.iter() {
            let forecast = forecasts.entry(view.id.clone()).or_default();
            forecast.see(view);
            let (cause, again) = cause(view, forecast, notice.before, now);
            let silent_until = cause.and_then(|cause| memory.silent_until(&view.id, cause, wall));
            let again = again.or_else(|| Some(clock.timestamp_of(silent_until?)));
            next = next.into_iter().chain(again).min();
            let (Some(cause), None) = (cause, silent_until) else { continue };
            let message = Message::new(&view.id, cause, now, &invocation);
            warn!(account = %view.id, why = message.why, "{}", message.text);
            memory.note(&view.id, cause, wall);
            next = next.into_iter().chain([now + A_DAY]).min();
            if !notice.command.is_empty() {
                let command = notice.command.clone();
                commands.spawn(async move { run(&command, &message).await });
            }
        }
        tokio::select! {
            () = shutdown.started() => break,
            changed = accounts.changed() => {
                if changed.is_err() {
                    break;
                }
            }
            changed = config.changed() => {
                if changed.is_err() {
                    break;
                }
            }
            _ = timer.wait(&clock, next) => {}
            Some(_) = commands.join_next() => {}
        }
    }
}

/// Runs the user's command once, without a shell. What it prints goes nowhere; how it ended, into the log.
async fn run(command: &[String], message: &Message) {
    let Some((program, arguments)) = command.split_first() else { return };
    let mut command = Command::new(program);
    command
        .args(arguments.iter().map(|word| message.fill(word)))
        .env("VALETD_ACCOUNT", &message.account)
        .env("VALETD_WHY", message.why)
        .env("VALETD_REMEDY", &message.remedy)
        .env("VALETD_MESSAGE", &message.text)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut asked = match Asked::start(&mut command) {
        Ok(asked) => asked,
        Err(error) => return warn!(account = message.account, program, %error, "the notice's command cannot be run"),
    };
    match tokio::time::timeout(COMMAND_PATIENCE, asked.ended()).await {
        Ok(Ok(status)) if status.success() => debug!(account = message.account, program, "notice given"),
        Ok(Ok(status)) => warn!(account = message.account, program, %status, "the notice's command has failed"),
        Ok(Err(error)) => warn!(account = message.account, program, %error, "the notice's command is lost"),
        Err(_) => {
            asked.end().await;
            let patience = COMMAND_PATIENCE.as_secs();
            warn!(account = message.account, program, "the notice's command was ended after {patience} s");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::renewal::AccountSnapshot;

    const T0: Timestamp = Timestamp::from_millis(1_000_000_000);
    const MINUTE: Duration = Duration::from_secs(60);
    const THREE_DAYS: Duration = Duration::from_secs(3 * 86_400);

    fn view(phase: Phase, renewals: u64, end: Option<Timestamp>) -> AccountView {
        AccountView {
            id: AccountId::new("lab").unwrap(),
            provider: None,
            description: None,
            snapshot: AccountSnapshot {
                phase,
                published: None,
                usable_until: None,
                next_wakeup: None,
                failures: 0,
                refresh_expires_at: end,
                learnt_life: None,
            },
            stored: None,
            withheld: None,
            last_success: Some(T0),
            last_failure: None,
            renewals,
            token_requests: renewals,
        }
    }

    fn scheduled() -> Phase {
        Phase::Scheduled { at: T0 + MINUTE }
    }

    #[test]
    fn a_key_that_stays_away_is_worth_a_notice() {
        let mut view = view(Phase::SignInRequired { why: Why::NotSignedIn }, 0, None);
        view.withheld = Some(Withheld { cause: Withholding::StoreLocked, why: "no stick".into(), since: T0 });
        let told = |now| cause(&view, &Forecast::default(), THREE_DAYS, now);
        assert_eq!(told(T0 + MINUTE), (None, Some(T0 + LOCKED_FOR)));
        assert_eq!(told(T0 + LOCKED_FOR), (Some(Cause::Withheld(Withholding::StoreLocked)), None));
        let message = Message::new(&view.id, Cause::Withheld(Withholding::StoreLocked), T0, "valetd");
        assert_eq!(message.text, "lab: the store is locked: its key is away. To mend it, run: valetd unlock");
    }

    #[test]
    fn a_refused_sign_in_is_worth_a_notice_and_an_account_that_never_had_one_is_not() {
        let rows = [(Why::NotSignedIn, None), (Why::Revoked, Some("revoked")), (Why::Ambiguous, Some("ambiguous"))];
        for (why, expected) in rows {
            let view = view(Phase::SignInRequired { why }, 0, None);
            let found = cause(&view, &Forecast::default(), THREE_DAYS, T0).0;
            assert_eq!(found.map(Cause::code), expected, "{why:?}");
        }
    }

    #[test]
    fn an_end_that_renewals_do_not_move_is_told_in_time() {
        let mut forecast = Forecast::default();
        let end = T0 + 27 * 1440 * MINUTE;
        forecast.see(&view(scheduled(), 0, Some(end)));
        assert_eq!(cause(&view(scheduled(), 0, Some(end)), &forecast, THREE_DAYS, T0), (None, None), "not known yet");
        let now = view(scheduled(), 1, Some(end));
        forecast.see(&now);
        assert_eq!(cause(&now, &forecast, THREE_DAYS, T0), (None, Some(end - THREE_DAYS)));
        let late = end - THREE_DAYS;
        assert_eq!(cause(&now, &forecast, THREE_DAYS, late), (Some(Cause::Dies(end)), None));
    }

    #[test]
    fn an_end_that_moves_with_every_renewal_is_no_news_while_they_succeed() {
        let mut forecast = Forecast::default();
        for renewal in 0..5_u32 {
            let now = T0 + renewal * 10 * MINUTE;
            let mut view = view(scheduled(), renewal.into(), Some(now + 30 * MINUTE));
            view.last_success = Some(now);
            forecast.see(&view);
            assert_eq!(cause(&view, &forecast, THREE_DAYS, now).0, None, "half an hour is its whole life");
            view.snapshot.failures = 1;
            assert_eq!(cause(&view, &forecast, THREE_DAYS, now + MINUTE).0, None, "one failure is none yet");
            view.snapshot.failures = LASTING;
            if renewal > 0 {
                assert_eq!(cause(&view, &forecast, THREE_DAYS, now + MINUTE).0, None, "there is time left");
                let end = now + 30 * MINUTE;
                assert_eq!(cause(&view, &forecast, THREE_DAYS, now + 25 * MINUTE).0, Some(Cause::Dies(end)));
            }
        }
    }

    #[test]
    fn a_message_names_account_cause_and_remedy() {
        let lab = AccountId::new("lab").unwrap();
        let message = Message::new(&lab, Cause::Dies(T0 + 50 * 60 * MINUTE), T0, "valetd");
        assert_eq!(message.text, "lab: the refresh token dies in 2 days. To mend it, run: valetd login lab");
        assert_eq!(message.fill("{account}/{why}: {remedy}"), "lab/refresh-token-dies: valetd login lab");
    }

    #[test]
    fn what_was_told_is_remembered_for_a_day_also_by_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let (lab, other) = (AccountId::new("lab").unwrap(), AccountId::new("other").unwrap());
        let (revoked, dies) = (Cause::SignInRequired(Why::Revoked), Cause::Dies(T0));
        let wall = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let mut memory = Memory::load(folder.path());
        assert_eq!(memory.silent_until(&lab, revoked, wall), None);
        memory.note(&lab, revoked, wall);
        let memory = Memory::load(folder.path());
        assert_eq!(memory.silent_until(&lab, revoked, wall + MINUTE), Some(wall + A_DAY));
        assert_eq!(memory.silent_until(&lab, revoked, wall + A_DAY), None, "the next day");
        assert_eq!(memory.silent_until(&lab, revoked, wall - MINUTE), None, "a clock that was set back");
        assert_eq!(memory.silent_until(&lab, dies, wall), None, "another cause");
        assert_eq!(memory.silent_until(&other, revoked, wall), None, "another account");
    }
}
