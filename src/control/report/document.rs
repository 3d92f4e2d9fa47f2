//! The document itself: its members, and how they are written as JSON and read back.
//!
//! `schema` grows when a member changes its meaning or goes away; new members may appear at any time. No member could
//! hold a token.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::accounts::Withholding;
use crate::renewal::{Reason, Why};
use crate::timestamp::Timestamp;

/// The version of the document that this program writes and reads.
pub(crate) const SCHEMA: u32 = 1;

/// The warning after an upgrade, until the daemon is started anew. Who reads it adds the command that does so: whether a
/// service manager runs the daemon is not for the daemon to say.
pub(crate) const PROGRAM_REPLACED: &str =
    "valetd's program file has been replaced since this daemon started, which still runs the old one";

/// The whole document.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When it was made; what `in_seconds` and `seconds_left` count from.
    pub at: Moment,
    /// The process.
    pub daemon: DaemonReport,
    /// In the order of their names.
    pub accounts: Vec<AccountReport>,
    /// In the order of their names.
    pub routes: Vec<RouteReport>,
}

/// The process.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct DaemonReport {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// How long it has been running, in seconds, sleep included.
    pub uptime_seconds: u64,
    /// Where routes are served, as bound.
    pub listen: Vec<String>,
    /// The file that it was configured from.
    pub config_file: PathBuf,
    /// Where credentials are kept.
    pub state_dir: PathBuf,
    /// Whether a configuration of the user's is in force: not after a start with a file that cannot be used, until it is
    /// mended.
    #[serde(default = "yes")]
    pub configured: bool,
    /// What is wrong with the file as it is now; while there is anything, the configuration before it stays in force.
    pub config_problems: Vec<String>,
    /// What a person should look at some day.
    pub warnings: Vec<String>,
    /// Connections open to the proxy now.
    pub connections: u64,
    /// Requests refused before they reached a route.
    pub refused: u64,
    /// Of these, root's, where the setting `clients` does not name root.
    #[serde(default)]
    pub refused_root: u64,
    /// The audit; `null` if there is none.
    #[serde(default)]
    pub audit: Option<AuditReport>,
    /// What the process has given up, or should have.
    #[serde(default)]
    pub hardening: Vec<MeasureReport>,
    /// The addresses of commands that run under `valetd exec -r`.
    #[serde(default)]
    pub own_addresses: Vec<OwnAddressReport>,
    /// Whether `valetd exec` refuses to run a command while a route can be used without a client key.
    #[serde(default)]
    pub strict_exec: bool,
    /// How credentials are kept.
    #[serde(default)]
    pub store: StoreReport,
}

/// What a daemon of an earlier version is taken to have said.
fn yes() -> bool {
    true
}

/// How credentials are kept.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct StoreReport {
    /// Whether they are encrypted on the disk.
    pub sealed: bool,
    /// Where the key comes from: `file`, `command`, `unit`, `systemd`, `passphrase`.
    pub source: Option<String>,
    /// The key's name.
    pub key_id: Option<String>,
    /// When it was made.
    pub since: Option<Moment>,
    /// Why from there, where the configuration does not say it.
    #[serde(default)]
    pub because: Vec<String>,
    /// Whether there is a recovery code, too.
    pub recovery: bool,
    /// Why nothing can be read or written now; `null` if it can.
    pub locked: Option<String>,
    /// Why it is not known of a credential whether it is an older copy, and what is to be done, if that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
    /// What is not as the configuration says, and what is to be done, if something is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmet: Option<String>,
}

/// An address that is lent to a command.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct OwnAddressReport {
    /// Where it is.
    pub address: String,
    /// The command's client key, with which it ends.
    pub key: String,
    /// The routes that exist there.
    pub routes: Vec<String>,
}

/// The audit.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct AuditReport {
    /// Its file.
    pub file: PathBuf,
    /// Lines written since the daemon started.
    pub written: u64,
    /// Lines lost: too many were waiting, or the file could not be written.
    pub dropped: u64,
    /// Requests refused because they could not have been noted (`audit_required`).
    #[serde(default)]
    pub refused: u64,
    /// Why nothing can be written just now; `null` if it can.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// One thing that the process has given up, or should have.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct MeasureReport {
    /// In one word: `no-trace`, `no-core`, `no-new-privileges`, `landlock`.
    pub name: String,
    /// Whether it is in force.
    pub in_force: bool,
    /// What that means.
    pub detail: String,
}

/// One account.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct AccountReport {
    /// Its name.
    pub id: String,
    /// The preset it was made from.
    pub provider: Option<String>,
    /// What it is, for people.
    pub description: Option<String>,
    /// In one word.
    pub state: State,
    /// Whether requests get a token now; possible in every state, since a token is valid while it is valid.
    pub usable: bool,
    /// Why it is not simply `usable`, for people.
    pub why: Option<String>,
    /// Why a person is needed, for scripts; present if and only if `state` is `sign-in-required`.
    pub why_code: Option<Why>,
    /// Until when the token in hand is handed out.
    pub usable_until: Option<Moment>,
    /// The same, counted from the document's `at`.
    pub seconds_left: Option<u64>,
    /// How long its tokens live, where the server states no life and it was learnt.
    #[serde(default)]
    pub learnt_life_seconds: Option<f64>,
    /// When something happens next without anybody asking.
    pub next_wakeup: Option<Wakeup>,
    /// When the last renewal succeeded.
    pub last_success: Option<Moment>,
    /// The last failure, also after a success: compare the times.
    pub last_failure: Option<FailureReport>,
    /// Failed attempts since the last success.
    pub failures: u32,
    /// The stored credential; `null` if there is none.
    pub credential: Option<CredentialReport>,
    /// Renewals that succeeded since the daemon started.
    pub renewals: u64,
    /// Requests to the token endpoint since the daemon started, also those that failed.
    pub token_requests: u64,
    /// The command to run, if a person has to do something.
    pub next_action: Option<String>,
}

/// An account in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// Requests get a token; its renewal is arranged.
    Usable,
    /// There is no token; the next attempt has its time.
    Waiting,
    /// There is no token; the authorization server has been asked for one.
    Renewing,
    /// A person has to sign in. A token in hand is still used up.
    SignInRequired,
    /// There is a credential, and the key that it is sealed with is away.
    StoreLocked,
    /// There is a credential, and the key that it is sealed with will not come back.
    KeyGone,
    /// There is a credential that was last used on another machine.
    OtherMachine,
    /// There is a credential, and it is an older copy: a later one was saved here.
    OlderCopy,
    /// A person has locked everything: `valetd lock`.
    Locked,
}

impl State {
    /// Whether it lasts until a person does something: valetd alone cannot end it.
    pub(crate) fn waits_for_a_person(self) -> bool {
        match self {
            Self::SignInRequired
            | Self::StoreLocked
            | Self::KeyGone
            | Self::OtherMachine
            | Self::OlderCopy
            | Self::Locked => true,
            Self::Usable | Self::Waiting | Self::Renewing => false,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Usable => "usable",
            State::Waiting => "waiting",
            State::Renewing => "renewing",
            State::SignInRequired => "sign-in-required",
            State::StoreLocked => Withholding::StoreLocked.code(),
            State::KeyGone => Withholding::KeyGone.code(),
            State::OtherMachine => Withholding::OtherMachine.code(),
            State::OlderCopy => Withholding::OlderCopy.code(),
            State::Locked => Withholding::Locked.code(),
        })
    }
}

/// When something happens next.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Wakeup {
    /// When.
    pub at: Moment,
    /// The same, counted from the document's `at`; 0 if it is due.
    pub in_seconds: u64,
    /// Why.
    pub reason: Reason,
}

/// A failed renewal.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct FailureReport {
    /// When.
    pub at: Moment,
    /// `transient`, `ambiguous` or `permanent`; or `unreadable`, when the stored credential could not be
    /// used, and `in-the-way`, when none could take its place either.
    pub class: String,
    /// The server's OAuth code (RFC 6749 section 5.2), if it gave one.
    pub oauth_error: Option<String>,
    /// The HTTP status, if there was a response.
    pub http_status: Option<u16>,
    /// What happened, for people.
    pub detail: String,
    /// How many attempts in a row had failed by then.
    pub attempt: u32,
}

/// A stored credential, without the credential.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct CredentialReport {
    /// Grows with every new credential.
    pub generation: u64,
    /// The first hex digits of the refresh token's SHA-256.
    pub fingerprint: String,
    /// Whether the newest one is on the disk; if not, it is lost when the daemon ends.
    pub saved: bool,
    /// What it is encrypted with at rest: `no` for the file's permissions alone.
    pub sealed: String,
    /// Who is signed in, as far as the server told.
    pub identity: Option<String>,
    /// What the server tells that person apart by: another one is kept out.
    #[serde(default)]
    pub subject: Option<String>,
    /// When the refresh token is expected to die, if anything is known of it.
    pub refresh_expires_at: Option<Moment>,
    /// When the sign-in ends (`login --for`), and the credential is removed; `null` if nothing was said.
    #[serde(default)]
    pub ends_at: Option<Moment>,
}

/// One route.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct RouteReport {
    /// Its name.
    pub name: String,
    /// Where tools reach it, the plainest first.
    pub urls: Vec<String>,
    /// Where it leads.
    pub upstream: String,
    /// Whose token is sent.
    pub account: String,
    /// The proxy on the way there, without user name and password; what is wrong with its name, if it is none.
    #[serde(default)]
    pub proxy: Option<String>,
    /// Whether every request needs a client key, whoever sends it.
    #[serde(default)]
    pub require_key: bool,
    /// What is known of the MCP server that it leads to, if it does.
    #[serde(default)]
    pub mcp: Option<McpReport>,
    /// Requests that reached it since the daemon started.
    pub requests: u64,
    /// Requests under way now.
    pub open: u64,
    /// Answers that valetd made itself, for want of a token or of the upstream.
    pub errors: u64,
    /// 401s that the upstream answered to our token.
    pub rejected: u64,
    /// Requests sent again after a 401.
    pub replayed: u64,
    /// Whether the upstream refused a token again that was renewed for its refusal, and no response since was a good one.
    #[serde(default)]
    pub refuses_token: bool,
    /// Half of the answers began within so many milliseconds; an upper bound, from buckets that double.
    #[serde(default)]
    pub median_ms: Option<f64>,
    /// The same for 99 of 100.
    #[serde(default)]
    pub p99_ms: Option<f64>,
}

/// An MCP server behind a route.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct McpReport {
    /// Where it is, behind the route's address.
    pub path: String,
    /// The protocol version that a client and the server have agreed on last.
    pub protocol_version: Option<String>,
    /// The server's own name, as it said it last.
    #[serde(default)]
    pub server_name: Option<String>,
    /// Its version.
    #[serde(default)]
    pub server_version: Option<String>,
    /// When a message of a session went through last.
    pub last_session: Option<Moment>,
    /// When it asked for more scope last.
    pub scope_required: Option<Moment>,
    /// The command that signs in with it.
    pub next_action: Option<String>,
}

/// An MCP server's name and version as they are shown: in quotation marks, as they are the server's own words.
pub(crate) fn server_in_words(name: &str, version: &str) -> String {
    format!("\"{name}\" {version}").trim_end().to_owned()
}

/// A point of the calendar; whole seconds, in UTC, as RFC 3339 writes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Moment(jiff::Timestamp);

impl StatusReport {
    /// The account of this name.
    pub(crate) fn account(&self, id: &str) -> Option<&AccountReport> {
        self.accounts.iter().find(|account| account.id == id)
    }
}

impl Moment {
    /// Seconds from `earlier` to this; negative if this comes first.
    pub(crate) fn seconds_since(self, earlier: Moment) -> i64 {
        self.0.as_second() - earlier.0.as_second()
    }

    /// A number of seconds since 1970; the end of the calendar, if it lies beyond that.
    pub(crate) fn of_unix(seconds: u64) -> Self {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX).min(jiff::Timestamp::MAX.as_second());
        Self(jiff::Timestamp::from_second(seconds).expect("it was clamped to jiff's range"))
    }

    /// Seconds since 1970.
    pub(crate) fn unix(self) -> i64 {
        self.0.as_second()
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// Two readings of one instant: what joins the daemon's time line to the calendar.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readings {
    /// On the time line.
    pub now: Timestamp,
    /// On the calendar.
    pub wall: SystemTime,
}

impl Readings {
    /// What a calendar shows at a point of the time line, cut down to whole seconds.
    pub(crate) fn moment(&self, at: Timestamp) -> Moment {
        let wall = self.wall.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let millis = i128::from(at.as_millis()) - i128::from(self.now.as_millis()) + wall.as_millis().cast_signed();
        let end = jiff::Timestamp::MAX.as_second();
        let seconds = i64::try_from(millis.div_euclid(1000)).unwrap_or(i64::MAX).clamp(0, end);
        Moment(jiff::Timestamp::from_second(seconds).expect("it was clamped to jiff's range"))
    }
}
