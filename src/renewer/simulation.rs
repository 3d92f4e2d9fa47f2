//! The renewer in a simulated world: clocks, network, disk and authorization servers, all driven by one seed.
//!
//! What runs is the real thing: the desk, the machines, the time line of `platform::clock`, the reading of answers, and
//! in some of the histories the store on a disk that tears writes. What is simulated is what they reach. A history deals
//! out faults wherever the daemon meets the world: requests and answers lost, late, twice, refused; a full disk; a kill
//! or a power cut between any two steps, and a restart; clocks set forward and back, nights of sleep, a paused virtual
//! machine; sign-ins, sign-outs, revocations and reloads in between.
//!
//! An observer who knows the servers' truth looks at every step for a broken [`Promise`]. Each [`Measure`] that keeps
//! one can be switched off, to see that the observer is awake. A seed replays exactly:
//!
//! ```text
//! cargo test --release -- --ignored soak_histories --nocapture      millions, with VALETD_SIMULATION_HISTORIES=n
//! VALETD_SIMULATION_SEED=42 cargo test replay_one_seed -- --ignored --nocapture      one, step by step
//! ```

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::desk::{Renewer, RevokeReply, World};
use crate::accounts::NewCredential;
use crate::config::{Account, AccountId, Config};
use crate::oauth::{Client, Dialect, Grant, TokenResponse, Tokens};
use crate::platform::clock::Clock;
use crate::renewal::{Failure, Fault, Phase, Policy, RenewalId, Why, policy};
use crate::secret::Secret;
use crate::store::{Credential, FaultyDisk, Record, Store};
use crate::timestamp::Timestamp;
use crate::token_endpoint::GrantFailure;
use crate::token_source::{Availability, Order};

/// What keeps a promise, and can be switched off to see which one breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Measure {
    /// A rotated refresh token is saved before its grant is published.
    SaveBeforePublish,
    /// It is noted on the disk that a refresh token is about to be spent.
    NoteBeforeUse,
    /// An answer that nobody waits for any more changes nothing.
    IdCheck,
    /// Two starts keep their distance.
    Spacing,
    /// The time line follows the clock that says that more time has passed.
    TwoClocks,
    /// Only a well-formed refusal is a verdict, whatever the HTTP status.
    VerdictByCode,
    /// While an answer is owed, the same credential is not spent again.
    OneGrant,
    /// A 401 that the next token has healed makes nobody distrust the one after it.
    TrustAfterHealing,
}

impl Measure {
    /// The mistake of the machine that it is to be without the measure, if it is one of the machine's.
    pub(super) fn fault(self) -> Option<Fault> {
        match self {
            Measure::SaveBeforePublish => Some(Fault::PublishesBeforeSaving),
            Measure::IdCheck => Some(Fault::TakesForgottenAnswers),
            Measure::Spacing => Some(Fault::IgnoresSpacing),
            Measure::TrustAfterHealing => Some(Fault::DistrustsWhatWasHealed),
            Measure::NoteBeforeUse | Measure::TwoClocks | Measure::VerdictByCode | Measure::OneGrant => None,
        }
    }
}

/// What the daemon promises, whatever happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Promise {
    ValidWhileValid,
    NothingForgotten,
    SavedBeforePublished,
    NoLoginLost,
    HonestVerdict,
    OneGrantAtATime,
    NoStorm,
    EveryWaitEnds,
    UsableAgain,
    Healed,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Promise::ValidWhileValid => "no request is given a token past its end",
            Promise::NothingForgotten => "nothing of a replaced or removed credential is used",
            Promise::SavedBeforePublished => {
                "a refresh token is saved before its grant is published, or said not to be"
            }
            Promise::NoLoginLost => "no login is lost unless the server ended it",
            Promise::HonestVerdict => "a person is told truly why they must sign in",
            Promise::OneGrantAtATime => "a credential is spent once at a time",
            Promise::NoStorm => "a server is asked no more often than the settings and itself allow",
            Promise::EveryWaitEnds => "every wait ends",
            Promise::UsableAgain => "when the faults end, every living login is usable again",
            Promise::Healed => "no client is told of the end of a token whose life the server does not state",
        })
    }
}

/// A promise that a history has broken, and how.
#[derive(Clone, Debug)]
struct Broken {
    promise: Promise,
    how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken promise: {}: {}", self.promise, self.how)
    }
}

/// What histories add up to.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Ledger {
    histories: u64,
    grants: u64,
    rotations: u64,
    answers_lost: u64,
    kills: u64,
    served: u64,
    sign_ins: u64,
    /// Logins that ended because a server without grace had rotated and its answer never arrived. All were reported as
    /// ambiguous.
    unavoidable_losses: u64,
    /// Logins that a server or a person ended.
    revocations: u64,
}

impl Ledger {
    fn add(&mut self, other: &Ledger) {
        let Ledger { histories, grants, rotations, answers_lost, kills, served, sign_ins, .. } = other;
        self.histories += histories;
        self.grants += grants;
        self.rotations += rotations;
        self.answers_lost += answers_lost;
        self.kills += kills;
        self.served += served;
        self.sign_ins += sign_ins;
        self.unavoidable_losses += other.unavoidable_losses;
        self.revocations += other.revocations;
    }
}

/// How a server treats a refresh token that has been used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rotation {
    /// It stays good.
    Off,
    /// It is dead at once, and using it again ends the login (RFC 9700 section 4.14.2).
    Strict,
    /// It stays good until its successor has been used.
    Graceful,
}

/// One account's authorization server.
#[derive(Clone, Debug)]
struct Server {
    rotation: Rotation,
    /// An access token's life, in milliseconds.
    life: u64,
    /// Whether answers tell it.
    tells_life: bool,
    /// Whether an access token that has life left is handed out again.
    hands_back: bool,
    logins: BTreeMap<u64, Login>,
}

/// What a server knows of one sign-in.
#[derive(Clone, Debug)]
struct Login {
    /// The refresh token in force.
    current: usize,
    /// The access token given last.
    access: Option<usize>,
    ended: Option<End>,
    has_password: bool,
    /// The observer's note: an answer may have been lost since the last one that arrived.
    may_be_lost: bool,
    /// Likewise: the disk may know less of it than a process that died.
    may_be_stale: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Revoked,
    SignedOut,
    Reused,
}

#[derive(Clone, Debug)]
struct AccessToken {
    expires: u64,
    /// Whether the daemon can know when: it was told, or assumes the same.
    is_end_known: bool,
    is_revoked: bool,
    login: u64,
    refresh: usize,
}

#[derive(Clone, Debug)]
struct RefreshToken {
    login: u64,
    successor: Option<usize>,
    /// The process that has got it.
    arrived_in: Option<u32>,
    is_saved: bool,
}

/// What becomes of a grant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Answered,
    AnsweredTwice,
    NotSent,
    ResetBefore,
    AnswerLost,
    /// Status and `Retry-After`.
    Busy(u16, Option<u64>),
    /// A hop on the way speaks in the server's place, with this status.
    Stranger(u16),
    ClientRefused,
}

/// What came back.
#[derive(Clone, Debug)]
enum Outcome {
    NotSent,
    Lost,
    Http { status: u16, retry_after: Option<u64>, body: String },
}

#[derive(Clone, Debug)]
enum Cargo {
    Grant(Fate),
    Answer(Outcome, Option<(usize, Option<usize>)>),
}

/// A grant on its way to the server, or what comes back.
#[derive(Clone, Debug)]
struct Parcel {
    at: u64,
    account: usize,
    id: RenewalId,
    process: u32,
    login: u64,
    grant: Grant,
    cargo: Cargo,
}

/// The last start of an account's renewal.
#[derive(Clone, Copy, Debug)]
struct Pace {
    id: RenewalId,
    login: u64,
    started: Timestamp,
    /// Nothing has happened that could start another one before this.
    earliest: Option<Timestamp>,
}

/// What the observer knows of an account.
#[derive(Clone, Debug, Default)]
struct Known {
    is_configured: bool,
    /// Which sign-in the daemon has.
    login: Option<u64>,
    /// What requests see.
    usable: Option<(usize, RenewalId, Timestamp)>,
    pace: Option<Pace>,
    least_spacing: Duration,
    early: Duration,
    /// The newest refresh token that the daemon has got.
    newest: Option<usize>,
    /// The newest one that the disk has.
    durable: Option<usize>,
    /// The last save failed, and said so.
    is_loud: bool,
    /// The server has refused the client.
    client_refused: bool,
    /// The configuration names another client than the one signed in to.
    is_elsewhere: bool,
    /// From when on a good answer to the usable token is worth telling.
    outlived_from: Timestamp,
    /// When a successor of the usable token, or a token at all, is asked for, as requests were told.
    next: Option<Timestamp>,
    /// The token that an upstream was last seen to take.
    worked: Option<RenewalId>,
    /// The one of which that was told last, and whether from `outlived_from` on.
    told: Option<(RenewalId, bool)>,
    /// Requests were answered 401 for other reasons than a token's end, or nobody heard what became of them.
    has_moods: bool,
    /// From now on every 401 must be healed.
    must_heal: bool,
    /// 401s that upstreams answered to tokens that had ended, and those that clients were told of.
    refused: u64,
    unhealed: u64,
}

/// A request that was answered 401, and waits for the next token.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    account: usize,
    refused: RenewalId,
    until: Timestamp,
    process: u32,
    /// Its upstream always says 401.
    is_mood: bool,
}

/// So long a request waits for a token, as is the default.
const WAIT: Duration = Duration::from_secs(10);

/// Credentials at rest.
enum Disk {
    /// As values: fast.
    Plain(BTreeMap<AccountId, Record>),
    /// The real store.
    Store(Store, FaultyDisk),
}

impl Disk {
    fn load(&self, account: &AccountId) -> Result<Option<Record>, String> {
        match self {
            Disk::Plain(records) => Ok(records.get(account).cloned()),
            Disk::Store(store, _) => store.load(account).map_err(|error| error.to_string()),
        }
    }

    fn save(&mut self, record: &Record) -> Result<(), String> {
        match self {
            Disk::Plain(records) => {
                if records.get(&record.account).is_some_and(|found| found.generation > record.generation) {
                    return Err("a later generation is on the disk".into());
                }
                records.insert(record.account.clone(), record.clone());
                Ok(())
            }
            Disk::Store(store, _) => store.save(record).map_err(|error| error.to_string()),
        }
    }

    fn remove(&mut self, account: &AccountId) -> Result<(), String> {
        match self {
            Disk::Plain(records) => {
                records.remove(account);
                Ok(())
            }
            Disk::Store(store, _) => store.remove(account).map_err(|error| error.to_string()),
        }
    }
}

/// What the daemon reaches, and the truth behind it.
struct Outside {
    dice: u64,
    off: Option<Measure>,
    is_told: bool,
    /// Physical time, which is the servers', in milliseconds.
    truth: u64,
    /// How far the machine's two clocks are from it.
    boot: i64,
    wall: i64,
    clock: Clock,
    disk: Disk,
    is_disk_full: bool,
    is_network_down: bool,
    is_calm: bool,
    servers: Vec<Server>,
    access: Vec<AccessToken>,
    refresh: Vec<RefreshToken>,
    logins: u64,
    transit: Vec<Parcel>,
    waiting: Vec<Waiting>,
    /// When renewals started, by true time, and whose.
    starts: Vec<(u64, usize)>,
    /// Answers that the renewer waits for.
    owed: Vec<(u32, usize, u64, RenewalId)>,
    process: u32,
    /// The process dies after so many more steps.
    kill_in: Option<u64>,
    is_dead: bool,
    known: Vec<Known>,
    broken: Option<Broken>,
    ledger: Ledger,
}

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const ENOSPC: i32 = 28;

/// So many lives are watched when the faults have ended.
const LIVES: u64 = 10;

/// The accounts that histories take theirs from: all alike, at the same server.
static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let text: String = (0..50)
        .map(|number| {
            format!(
                "[account.a{number}]\ntoken_endpoint = \"https://auth.example/token\"\nclient_id = \"valetd\"\n\
                 grant = \"refresh_token\"\nheader = \"Authorization: Bearer {{access_token}}\"\n\
                 upstream = \"https://api.example\"\n"
            )
        })
        .collect();
    crate::config::tests_support::parse_with(&text, &[]).config
});

fn name(account: usize) -> AccountId {
    AccountId::new(&format!("a{account}")).expect("a name")
}

fn index(account: &AccountId) -> usize {
    account.as_str()[1..].parse().expect("a number")
}

fn number(token: &str) -> usize {
    token[1..].parse().expect("a number")
}

impl Outside {
    fn new(seed: u64, off: Option<Measure>, accounts: usize) -> Self {
        let (truth, boot) = (1_800_000_000_000, -1_799_999_000_000);
        let mut this = Self {
            dice: seed,
            off,
            is_told: false,
            truth,
            boot,
            wall: 0,
            clock: Clock::start_at(truth as i64 + boot, truth as i64),
            disk: Disk::Plain(BTreeMap::new()),
            is_disk_full: false,
            is_network_down: false,
            is_calm: false,
            servers: Vec::new(),
            access: Vec::new(),
            refresh: Vec::new(),
            logins: 0,
            transit: Vec::new(),
            waiting: Vec::new(),
            starts: Vec::new(),
            owed: Vec::new(),
            process: 0,
            kill_in: None,
            is_dead: false,
            known: vec![Known::default(); accounts],
            broken: None,
            ledger: Ledger { histories: 1, ..Ledger::default() },
        };
        for _ in 0..accounts {
            let server = Server {
                rotation: this.one_of(&[Rotation::Off, Rotation::Strict, Rotation::Strict, Rotation::Graceful]),
                life: this.one_of(&[3, 10, 30, 60, 600, 600, 3600]) * SECOND,
                tells_life: !this.chance(4),
                hands_back: this.chance(4),
                logins: BTreeMap::new(),
            };
            this.servers.push(server);
        }
        for server in &mut this.servers {
            // an hour is what is assumed; a stated life of seconds leaves gaps that nobody asked to be filled
            server.tells_life &= server.life != HOUR && server.life >= 10 * SECOND;
        }
        if this.chance(16) {
            let disk = FaultyDisk::default();
            this.disk = Disk::Store(Store::on_faulty_disk(disk.clone()), disk);
        }
        this
    }

    /// SplitMix64.
    fn roll(&mut self, sides: u64) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.dice;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides.max(1)
    }

    fn chance(&mut self, in_so_many: u64) -> bool {
        self.roll(in_so_many) == 0
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.roll(choices.len() as u64) as usize]
    }

    fn now(&self) -> Timestamp {
        let (boot, wall) = (self.truth as i64 + self.boot, self.truth as i64 + self.wall);
        if self.off == Some(Measure::TwoClocks) {
            return Timestamp::from_millis(wall.max(0) as u64);
        }
        self.clock.at(boot, wall)
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.is_told {
            let millis = self.truth - 1_800_000_000_000;
            println!("{:>9}.{:03} {}", millis / 1000, millis % 1000, what());
        }
    }

    fn breaks(&mut self, promise: Promise, how: String) {
        self.tell(|| format!("BROKEN: {promise}: {how}"));
        self.broken.get_or_insert(Broken { promise, how });
    }

    /// A point at which the process may be killed. Returns whether it is dead.
    fn dies(&mut self) -> bool {
        match self.kill_in {
            Some(0) if !self.is_dead => {
                self.kill_in = None;
                self.is_dead = true;
                self.tell(|| "killed here".into());
            }
            Some(left) => self.kill_in = Some(left - 1),
            None => {}
        }
        self.is_dead
    }

    fn fate(&mut self) -> Fate {
        if self.is_calm {
            return Fate::Answered;
        }
        if self.is_network_down {
            return self.one_of(&[Fate::NotSent, Fate::ResetBefore]);
        }
        match self.roll(48) {
            0 => Fate::NotSent,
            1 => Fate::ResetBefore,
            2 | 3 => Fate::AnswerLost,
            4 => Fate::AnsweredTwice,
            5 => Fate::Busy(503, None),
            6 | 7 => {
                let patience = Some(self.roll(1200));
                Fate::Busy(self.one_of(&[503, 429]), patience)
            }
            8 | 9 => Fate::Stranger(self.one_of(&[200, 302, 400, 401, 403, 404, 407, 502])),
            10 if self.chance(4) => Fate::ClientRefused,
            _ => Fate::Answered,
        }
    }

    /// A new sign-in at a server, by a person.
    fn sign_in(&mut self, account: usize) -> (u64, Secret) {
        self.logins += 1;
        let login = self.logins;
        let refresh = self.new_refresh_token(login);
        let has_password = self.chance(6);
        let at_server = Login {
            current: refresh,
            access: None,
            ended: None,
            has_password,
            may_be_lost: false,
            may_be_stale: false,
        };
        self.servers[account].logins.insert(login, at_server);
        self.ledger.sign_ins += 1;
        (login, Secret::new(format!("r{refresh}")))
    }

    fn new_refresh_token(&mut self, login: u64) -> usize {
        self.refresh.push(RefreshToken { login, successor: None, arrived_in: None, is_saved: false });
        self.refresh.len() - 1
    }

    /// The server's side of a grant, at `at`. Returns the answer, and what tokens are in it.
    fn serve(&mut self, parcel: &Parcel, at: u64) -> (Outcome, Option<(usize, Option<usize>)>) {
        let (account, login) = (parcel.account, parcel.login);
        let refused = Outcome::Http { status: 400, retry_after: None, body: r#"{"error":"invalid_grant"}"#.into() };
        let Some(state) = self.servers[account].logins.get(&login).cloned() else { return (refused, None) };
        let rotation = self.servers[account].rotation;
        let mut current = state.current;
        let is_password = !matches!(parcel.grant, Grant::RefreshToken(_));
        if is_password {
            if !state.has_password {
                return (refused, None);
            }
            current = self.new_refresh_token(login);
        } else if state.ended.is_some() {
            return (refused, None);
        }
        if let Grant::RefreshToken(token) = &parcel.grant {
            let token = number(token.expose());
            if let Some(successor) = self.refresh[token].successor {
                let RefreshToken { arrived_in, is_saved, .. } = self.refresh[successor];
                let is_ours = parcel.process == self.process && self.known[account].login == Some(login);
                if is_ours && (is_saved || arrived_in == Some(self.process)) {
                    let how = format!("r{token} was spent although r{successor} had come for it");
                    self.breaks(Promise::NoLoginLost, how);
                }
            }
            let is_previous = self.refresh[token].successor == Some(current);
            match rotation {
                Rotation::Off => {}
                Rotation::Strict | Rotation::Graceful if token == current => {
                    current = self.new_refresh_token(login);
                    self.refresh[token].successor = Some(current);
                    self.ledger.rotations += 1;
                }
                Rotation::Graceful if is_previous => {} // the same pair again
                Rotation::Strict | Rotation::Graceful => {
                    let state = self.servers[account].logins.get_mut(&login).expect("looked up above");
                    state.ended = Some(End::Reused);
                    self.tell(|| format!("a{account}: the server sees r{token} again and ends the login"));
                    return (refused, None);
                }
            }
        }
        let server = &self.servers[account];
        let kept = state.access.filter(|token| server.hands_back && self.access[*token].expires > at + 100);
        // without rotation every refresh token stays good, also one that is older than the server's newest
        let refresh = match &parcel.grant {
            Grant::RefreshToken(token) if rotation == Rotation::Off => number(token.expose()),
            Grant::RefreshToken(_) | Grant::Password { .. } | Grant::ClientCredentials => current,
            Grant::AuthorizationCode { .. } => unreachable!("no renewal has a code"),
        };
        let access = kept.filter(|_| rotation == Rotation::Off && server.tells_life).unwrap_or_else(|| {
            let is_end_known = server.tells_life || server.life >= HOUR;
            self.access.push(AccessToken {
                expires: at + server.life,
                is_end_known,
                is_revoked: false,
                login,
                refresh,
            });
            self.access.len() - 1
        });
        self.access[access].refresh = refresh;
        let tells_refresh = rotation != Rotation::Off || is_password;
        let life = (self.access[access].expires - at) / SECOND;
        let state = self.servers[account].logins.get_mut(&login).expect("looked up above");
        (state.current, state.access) = (current, Some(access));
        if is_password {
            state.ended = None;
        }
        let mut body = format!(r#"{{"access_token":"t{access}","token_type":"Bearer""#);
        if tells_refresh {
            body += &format!(r#","refresh_token":"r{current}""#);
        }
        if self.servers[account].tells_life {
            body += &format!(r#","expires_in":{life}"#);
        }
        body.push('}');
        (Outcome::Http { status: 200, retry_after: None, body }, Some((access, tells_refresh.then_some(current))))
    }

    /// A grant arrives at the server: what comes of it is put on its way back.
    fn process_grant(&mut self, parcel: Parcel, fate: Fate) {
        let (outcome, brought) = match fate {
            Fate::NotSent => (Outcome::NotSent, None),
            Fate::ResetBefore => (Outcome::Lost, None),
            Fate::Busy(status, retry_after) => (Outcome::Http { status, retry_after, body: String::new() }, None),
            Fate::Stranger(status) => {
                (Outcome::Http { status, retry_after: None, body: "<html>Log in to the wifi</html>".into() }, None)
            }
            Fate::ClientRefused => {
                self.known[parcel.account].client_refused = true;
                let body = r#"{"error":"invalid_client"}"#.into();
                (Outcome::Http { status: 401, retry_after: None, body }, None)
            }
            Fate::Answered | Fate::AnsweredTwice => self.serve(&parcel, parcel.at),
            Fate::AnswerLost => {
                self.ledger.answers_lost += 1;
                let _ = self.serve(&parcel, parcel.at);
                (Outcome::Lost, None)
            }
        };
        self.tell(|| format!("a{}: {:?} of {:?}: {fate:?}: {outcome:?}", parcel.account, parcel.id, shown(&parcel)));
        // where a password has its turn within the same renewal, a second answer would be taken for its
        let has_password =
            self.servers[parcel.account].logins.get(&parcel.login).is_some_and(|state| state.has_password);
        for _ in 0..if fate == Fate::AnsweredTwice && !has_password { 2 } else { 1 } {
            let slow = if !self.is_calm && self.chance(12) { self.roll(14_000) } else { self.roll(300) };
            let cargo = Cargo::Answer(outcome.clone(), brought);
            self.transit.push(Parcel { at: parcel.at + slow, cargo, ..parcel.clone() });
        }
    }

    /// What the token endpoint makes of what came back.
    fn read(&self, grant: &Grant, outcome: &Outcome) -> Result<Tokens, GrantFailure> {
        let failed = |failure, oauth_error, http_status, detail: String| {
            Err(GrantFailure { failure, oauth_error, http_status, detail })
        };
        let (status, retry_after, body) = match outcome {
            Outcome::NotSent => {
                return failed(Failure::Transient { retry_after: None }, None, None, "not sent".into());
            }
            Outcome::Lost if matches!(grant, Grant::RefreshToken(_)) => {
                return failed(Failure::Ambiguous, None, None, "connection reset".into());
            }
            Outcome::Lost => {
                return failed(Failure::Transient { retry_after: None }, None, None, "connection reset".into());
            }
            Outcome::Http { status, retry_after, body } => (*status, *retry_after, body),
        };
        let retry_after = retry_after.map(|seconds| seconds.to_string());
        let response = TokenResponse {
            status,
            retry_after: retry_after.as_deref(),
            body: body.as_bytes(),
            ..TokenResponse::default()
        };
        let wall = UNIX_EPOCH + Duration::from_millis(self.truth);
        Dialect::Rfc6749.read(&response, grant, &Client::default(), wall).or_else(|refusal| {
            let by_status = self.off == Some(Measure::VerdictByCode) && (400..500).contains(&status);
            let failure = if by_status { Failure::Permanent(Why::Revoked) } else { refusal.failure };
            failed(failure, refusal.oauth_error, Some(status), refusal.detail)
        })
    }

    /// An answer arrives where the process that waits for it still lives.
    fn arrive(
        &mut self,
        parcel: &Parcel,
        brought: Option<(usize, Option<usize>)>,
        answer: &Result<Tokens, GrantFailure>,
    ) {
        let Parcel { account, id, process, login, .. } = *parcel;
        let is_owed = self.owed.iter().position(|owed| *owed == (process, account, login, id));
        let Some(position) = is_owed else { return };
        self.owed.swap_remove(position);
        if self.known[account].login != Some(login) {
            return;
        }
        let now = self.now();
        let life = Duration::from_millis(self.servers[account].life);
        let Server { hands_back, tells_life, .. } = self.servers[account]; // what is not told may be learnt
        let known = &mut self.known[account];
        let state = self.servers[account].logins.get_mut(&login).expect("it was signed in to");
        match (answer, brought) {
            (Ok(_), Some((_, refresh))) => {
                (state.may_be_lost, state.may_be_stale) = (false, false);
                if let Some(refresh) = refresh {
                    known.newest = Some(refresh);
                    self.refresh[refresh].arrived_in = Some(process);
                }
                if let Some(pace) = &mut known.pace {
                    let lead = known.early.min(life / 3).mul_f64(1.1);
                    let end = life - lead.max(life / 10).max(Duration::from_millis(5)).min(life);
                    let is_usable = now < pace.started + life * 8 / 10;
                    pace.earliest = (is_usable && tells_life && !hands_back).then_some(pace.started + end);
                }
            }
            (Err(GrantFailure { failure: Failure::Ambiguous, .. }), _) => state.may_be_lost = true,
            (Err(GrantFailure { failure: Failure::Transient { retry_after: Some(patience) }, .. }), _) => {
                if let Some(pace) = &mut known.pace {
                    pace.earliest = Some(now + (*patience).min(policy::LONGEST_RETRY_AFTER));
                }
            }
            (Err(_) | Ok(_), _) => {}
        }
    }

    /// Whether requests would be given a token now, and if so, whether the server would take it.
    fn look(&mut self) {
        let now = self.now();
        for account in 0..self.known.len() {
            let Some((token, _, usable_until)) = self.known[account].usable else { continue };
            if !self.known[account].is_configured || now >= usable_until {
                continue;
            }
            self.ledger.served += 1;
            let AccessToken { expires, is_end_known, login, .. } = self.access[token];
            if self.truth >= expires && is_end_known {
                let how = format!("a{account}: t{token} is handed out {} ms after its end", self.truth - expires);
                self.breaks(Promise::ValidWhileValid, how);
            }
            if self.known[account].login != Some(login) {
                self.breaks(
                    Promise::NothingForgotten,
                    format!("a{account}: t{token} of another sign-in is handed out"),
                );
            }
        }
    }

    /// A person is asked to sign in. Must they?
    fn judge(&mut self, account: usize, why: Why) {
        let known = &self.known[account];
        let Some(login) = known.login else { return };
        let state = &self.servers[account].logins[&login];
        let (lost, verdict) = (Promise::NoLoginLost, Promise::HonestVerdict);
        let broken = match (why, state.ended) {
            (Why::NotSignedIn, _) => Some((lost, "it was forgotten")),
            (Why::IssuedElsewhere, _) if known.is_elsewhere => None,
            (Why::IssuedElsewhere, _) => Some((lost, "it was not issued elsewhere")),
            (Why::ClientRefused, _) if known.client_refused => None,
            (Why::ClientRefused, _) => Some((lost, "the client was not refused")),
            (Why::Revoked | Why::Ambiguous, _) if state.has_password => Some((lost, "its password was never refused")),
            (Why::Revoked | Why::Ambiguous, None) => Some((lost, "the server never ended it")),
            (Why::Revoked, Some(End::Reused)) if state.may_be_stale => None,
            (Why::Revoked, Some(End::Reused)) => Some((verdict, "a lost answer is told as a revocation")),
            (Why::Revoked, Some(End::Revoked | End::SignedOut)) => None,
            (Why::Ambiguous, Some(_)) if state.may_be_lost => None,
            (Why::Ambiguous, Some(_)) => Some((verdict, "a revocation is told as a lost answer")),
        };
        let is_loss = why == Why::Ambiguous && state.ended == Some(End::Reused);
        match broken {
            Some((promise, how)) => {
                self.breaks(promise, format!("a{account}: login {login} ends as {why:?}, but {how}"));
            }
            None if is_loss && known.usable.is_some() => self.ledger.unavoidable_losses += 1,
            None => {}
        }
    }

    /// The process has died, or ended: what it had sent is processed or dropped, and nobody hears of it.
    fn bury(&mut self) {
        let dead = self.process;
        self.process += 1;
        for parcel in std::mem::take(&mut self.transit) {
            if let Cargo::Grant(fate) = parcel.cargo
                && matches!(fate, Fate::Answered | Fate::AnsweredTwice | Fate::AnswerLost)
                && self.chance(2)
            {
                let parcel = Parcel { at: self.truth, ..parcel };
                let outcome = self.serve(&parcel, self.truth);
                self.tell(|| format!("a{}: still processed for the dead: {outcome:?}", parcel.account));
            }
            self.ledger.answers_lost += 1;
        }
        for (_, account, login, _) in std::mem::take(&mut self.owed) {
            if let Some(state) = self.servers[account].logins.get_mut(&login) {
                state.may_be_lost = true;
            }
        }
        self.is_dead = false;
        self.kill_in = None;
        for account in 0..self.known.len() {
            let found = self.disk.load(&name(account)).unwrap_or_else(|error| {
                self.breaks(Promise::NoLoginLost, format!("a{account}: {error}"));
                None
            });
            let token = found.as_ref().and_then(|record| record.credential.refresh_token.as_ref());
            let token = token.map(|token| number(token.expose()));
            let known = &mut self.known[account];
            known.usable = None;
            known.pace = None;
            let is_loud = std::mem::take(&mut known.is_loud);
            if is_loud && let Some(state) = known.login.and_then(|login| self.servers[account].logins.get_mut(&login)) {
                state.may_be_stale = true;
            }
            known.client_refused |= found.as_ref().is_some_and(|record| {
                record.set_aside.as_ref().is_some_and(|set_aside| set_aside.why == Why::ClientRefused)
            });
            let is_older = match (token, known.durable) {
                (_, None) => false,
                (Some(token), Some(durable)) => token < durable,
                (None, Some(_)) => found.as_ref().is_none_or(|record| record.credential.password.is_none()),
            };
            let durable = known.durable;
            match (&found, token) {
                (_, Some(token)) => {
                    known.login = Some(self.refresh[token].login);
                    known.newest = Some(token);
                    known.durable = Some(token);
                    self.refresh[token].is_saved = true;
                }
                (Some(record), None) => {
                    known.login = record.credential.password.as_ref().map(|(user, _)| number(user) as u64);
                    known.newest = None;
                }
                (None, None) => (known.login, known.newest) = (None, None),
            }
            if let Some(state) = known.login.and_then(|login| self.servers[account].logins.get_mut(&login)) {
                state.may_be_lost |= found.as_ref().is_some_and(|record| record.redeeming);
                state.may_be_stale |= is_loud;
            }
            if is_older {
                let how = format!("a{account}: {dead} had saved r{durable:?}, its successor finds r{token:?}");
                self.breaks(Promise::NoLoginLost, how);
            }
        }
    }
}

fn shown(parcel: &Parcel) -> String {
    match &parcel.grant {
        Grant::RefreshToken(token) => token.expose().to_owned(),
        Grant::Password { .. } => "the password".to_owned(),
        Grant::ClientCredentials => "nothing".to_owned(),
        Grant::AuthorizationCode { .. } => unreachable!("no renewal has a code"),
    }
}

/// The renewer's way out, and the history's way in.
#[derive(Clone)]
struct Way(Rc<RefCell<Outside>>);

impl Way {
    fn outside(&self) -> RefMut<'_, Outside> {
        self.0.borrow_mut()
    }
}

impl World for Way {
    fn save(&mut self, record: &Record) -> Result<(), String> {
        let mut outside = self.outside();
        let outside = &mut *outside;
        if outside.dies() {
            return Err("dead".into());
        }
        let account = index(&record.account);
        let token = record.credential.refresh_token.as_ref().map(|token| number(token.expose()));
        let saved = if let Disk::Store(_, disk) = &outside.disk {
            let disk = disk.clone();
            let steps = 8;
            if outside.kill_in.is_some_and(|left| left < steps) {
                disk.kill_at(outside.kill_in.take().unwrap_or_default() as usize);
            } else if outside.is_disk_full {
                let step = outside.roll(steps) as usize;
                disk.fail_at(step, ENOSPC);
            }
            let saved = outside.disk.save(record);
            if disk.is_dead() {
                outside.is_dead = true;
                outside.tell(|| "killed in the middle of a save".into());
                return Err("dead".into());
            }
            let _ = disk.fault_has_happened();
            saved
        } else if outside.is_disk_full {
            Err("no space left on device".into())
        } else {
            outside.disk.save(record)
        };
        outside.tell(|| {
            let note = if record.redeeming { ", being redeemed" } else { "" };
            format!("a{account}: save generation {} with r{token:?}{note}: {saved:?}", record.generation)
        });
        let known = &mut outside.known[account];
        known.is_loud = saved.is_err();
        if saved.is_ok() {
            if let Some(token) = token {
                known.durable = Some(token);
                outside.refresh[token].is_saved = true;
            } else {
                known.durable = None;
            }
        }
        let _ = outside.dies();
        saved
    }

    fn remove(&mut self, account: &AccountId) -> Result<(), String> {
        let mut outside = self.outside();
        if outside.dies() {
            return Err("dead".into());
        }
        let account = index(account);
        outside.known[account].durable = None;
        let removed =
            if outside.is_disk_full { Err("input/output error".into()) } else { outside.disk.remove(&name(account)) };
        outside.tell(|| format!("a{account}: remove: {removed:?}"));
        let _ = outside.dies();
        removed
    }

    fn saved_generation(&self, account: &AccountId) -> u64 {
        self.0.borrow().disk.load(account).ok().flatten().map_or(0, |record| record.generation)
    }

    fn redeem(&mut self, account: Arc<Account>, id: RenewalId, grant: Grant) {
        let mut outside = self.outside();
        if outside.dies() {
            return;
        }
        let account = index(&account.id);
        let now = outside.now();
        let login = match &grant {
            Grant::RefreshToken(token) => outside.refresh[number(token.expose())].login,
            Grant::Password { username: user, .. } => {
                outside.known[account].newest = None; // it was refused
                number(user) as u64
            }
            Grant::ClientCredentials => unreachable!("no account is its client's alone"),
            Grant::AuthorizationCode { .. } => unreachable!("no renewal has a code"),
        };
        outside.tell(|| format!("a{account}: renewal {} of login {login} starts", id.0));
        if outside.known[account].login != Some(login) {
            let how = format!("a{account}: login {login} is spent after its end");
            outside.breaks(Promise::NothingForgotten, how);
        }
        let process = outside.process;
        if outside.owed.iter().any(|owed| (owed.0, owed.1, owed.2) == (process, account, login)) {
            let how = format!("a{account}: login {login} is spent while an answer is owed");
            outside.breaks(Promise::OneGrantAtATime, how);
        }
        let Known { pace, least_spacing, .. } = outside.known[account].clone();
        let mut started = now;
        if let Some(pace) = pace.filter(|pace| pace.login == login) {
            if pace.id == id {
                started = pace.started; // the password's turn
            } else if now < pace.started + least_spacing {
                let how = format!("a{account}: two starts {:?} apart", now.since(pace.started));
                outside.breaks(Promise::NoStorm, how);
            } else if let Some(earliest) = pace.earliest.filter(|earliest| now < *earliest) {
                let how = format!("a{account}: started {:?} early, with no reason", earliest.since(now));
                outside.breaks(Promise::NoStorm, how);
            }
        }
        // a password has its turn within a renewal whose start may have been forgotten
        if pace.is_some() || matches!(grant, Grant::RefreshToken(_)) {
            outside.known[account].pace = Some(Pace { id, login, started, earliest: None });
        }
        outside.owed.push((process, account, login, id));
        let truth = outside.truth;
        outside.starts.push((truth, account));
        outside.ledger.grants += 1;
        let fate = outside.fate();
        let slow = if !outside.is_calm && outside.chance(12) { outside.roll(15_000) } else { outside.roll(300) };
        let at = outside.truth + slow;
        outside.transit.push(Parcel { at, account, id, process, login, grant, cargo: Cargo::Grant(fate) });
        let _ = outside.dies();
    }

    fn revoke(&mut self, account: Arc<Account>, refresh_token: Secret, reply: Option<RevokeReply>) {
        let mut outside = self.outside();
        if outside.dies() {
            return;
        }
        let account = index(&account.id);
        let login = outside.refresh[number(refresh_token.expose())].login;
        if !outside.is_network_down
            && let Some(state) = outside.servers[account].logins.get_mut(&login)
        {
            state.ended = state.ended.or(Some(End::SignedOut));
        }
        if let Some(reply) = reply {
            let _ = reply.send(Ok("revoked".into()));
        }
    }

    fn publish(&mut self, account: &AccountId, availability: Availability) {
        let mut outside = self.outside();
        if outside.dies() || !outside.known[index(account)].is_configured {
            return;
        }
        let account = index(account);
        match availability {
            Availability::Usable { token, wished_for } => {
                let value = token.value.to_str().expect("visible");
                let access = number(value.strip_prefix("Bearer ").expect("the header's template"));
                outside.tell(|| format!("a{account}: t{access} is usable until {:?}", token.usable_until));
                let refresh = outside.access[access].refresh;
                let is_new = outside.known[account].usable.is_none_or(|(_, id, _)| id != token.id);
                if is_new && !outside.refresh[refresh].is_saved && !outside.known[account].is_loud {
                    let how = format!("a{account}: t{access} is published and r{refresh} is not on the disk");
                    outside.breaks(Promise::SavedBeforePublished, how);
                }
                let known = &mut outside.known[account];
                known.usable = Some((access, token.id, token.usable_until));
                (known.outlived_from, known.next) = (token.outlived_from, wished_for);
            }
            Availability::Waiting { retry_at, .. } => {
                outside.tell(|| format!("a{account}: wait until {retry_at:?}"));
                let now = outside.now();
                let known = &mut outside.known[account];
                (known.usable, known.next) = (None, Some(retry_at.unwrap_or(now)));
            }
            Availability::Ended => unreachable!("only a reload ends a source"),
            Availability::SignInRequired { why } => {
                outside.tell(|| format!("a{account}: a person must sign in: {why:?}"));
                outside.judge(account, why);
                (outside.known[account].usable, outside.known[account].next) = (None, None);
            }
        }
        let _ = outside.dies();
    }

    fn calendar(&self, at: Timestamp) -> SystemTime {
        let outside = self.0.borrow();
        let wall = UNIX_EPOCH + Duration::from_millis((outside.truth as i64 + outside.wall).max(0) as u64);
        let now = outside.now();
        (wall + at.since(now)).checked_sub(now.since(at)).unwrap_or(UNIX_EPOCH)
    }

    fn timestamp_of(&self, wall: SystemTime) -> Timestamp {
        let outside = self.0.borrow();
        let today = UNIX_EPOCH + Duration::from_millis((outside.truth as i64 + outside.wall).max(0) as u64);
        match wall.duration_since(today) {
            Ok(ahead) => outside.now() + ahead,
            Err(behind) => outside.now() - behind.duration(),
        }
    }
}

/// One history: a daemon, its restarts, and what happens to it.
struct History {
    way: Way,
    renewer: Renewer<Way>,
    config: Config,
    /// What a reload brings back.
    all: BTreeMap<AccountId, Account>,
}

impl History {
    fn new(outside: Outside) -> Self {
        let mut config = CONFIG.clone();
        config.routes.clear();
        config.accounts.retain(|id, _| index(id) < outside.known.len());
        let all = config.accounts.clone();
        let way = Way(Rc::new(RefCell::new(outside)));
        let renewer = Renewer::new(way.clone(), 0);
        let mut this = Self { way, renewer, config, all };
        this.start();
        this
    }

    fn outside(&self) -> RefMut<'_, Outside> {
        self.way.outside()
    }

    fn now(&self) -> Timestamp {
        self.outside().now()
    }

    /// Starts a process on what the disk has.
    fn start(&mut self) {
        {
            let mut outside = self.outside();
            let (boot, wall) = (outside.truth as i64 + outside.boot, outside.truth as i64 + outside.wall);
            outside.clock = Clock::start_at(boot, wall);
            let process = outside.process;
            outside.tell(|| format!("process {process} starts"));
        }
        let seed = self.outside().roll(u64::MAX);
        let off = self.outside().off;
        self.renewer = Renewer::new(self.way.clone(), seed);
        self.renewer.off = off;
        for known in &mut self.outside().known {
            known.least_spacing = Duration::MAX;
        }
        self.configure();
    }

    fn configure(&mut self) {
        let mut records = BTreeMap::new();
        {
            let mut outside = self.outside();
            let outside = &mut *outside;
            for (account, known) in outside.known.iter_mut().enumerate() {
                let id = name(account);
                let configured = self.config.accounts.get(&id);
                if !known.is_configured {
                    known.usable = None;
                }
                known.is_configured = configured.is_some();
                let Some(configured) = configured else { continue };
                known.least_spacing = known.least_spacing.min(configured.renew.minimum_spacing);
                known.early = configured.renew.early;
                known.is_elsewhere = configured.client_id.as_deref() != Some("valetd");
                // a reload is reason enough to ask a server again that has refused the client
                known.pace = known.pace.filter(|_| !known.client_refused).map(|pace| Pace { earliest: None, ..pace });
                records.insert(id.clone(), outside.disk.load(&id));
            }
        }
        let now = self.now();
        self.renewer.configure(&self.config, |id| records.remove(id).unwrap_or(Ok(None)), now);
    }

    /// The process is gone; after a while there is a new one.
    fn restart(&mut self) {
        {
            let mut outside = self.outside();
            let outside = &mut *outside;
            outside.ledger.kills += 1;
            if let Disk::Store(_, disk) = &outside.disk {
                let disk = disk.clone();
                let is_power_cut = outside.chance(2);
                let disk = match is_power_cut {
                    true => disk.after_some_power_cut(|sides| outside.roll(sides)),
                    false => disk.after_a_kill(),
                };
                outside.disk = Disk::Store(Store::on_faulty_disk(disk.clone()), disk);
            }
            outside.bury();
            let pause = outside.roll(20 * SECOND);
            outside.truth += pause;
        }
        self.start();
    }

    /// After every step: a dead process is followed by another, and the observer looks.
    fn settle(&mut self) {
        self.serve_those_who_wait();
        for _ in 0..20 {
            if !self.outside().is_dead {
                break;
            }
            self.restart();
        }
        let now = self.now();
        let mut outside = self.way.outside();
        outside.look();
        for account in 0..outside.known.len() {
            let Some((snapshot, is_saved)) = self.renewer.observed(&name(account)) else { continue };
            if let Phase::InFlight { id } = snapshot.phase
                && outside.known[account].is_configured
            {
                let process = outside.process;
                if !outside.owed.iter().any(|owed| (owed.0, owed.1, owed.3) == (process, account, id)) {
                    let how = format!("a{account}: waits for the answer to {id:?}, which nobody owes");
                    outside.breaks(Promise::EveryWaitEnds, how);
                }
            }
            if let Phase::Scheduled { at } = snapshot.phase
                && at > now + Duration::from_secs(4 * 3600)
            {
                outside.breaks(Promise::EveryWaitEnds, format!("a{account}: waits {:?}", at.since(now)));
            }
            let newest = outside.known[account].newest;
            if is_saved
                && outside.known[account].login.is_some()
                && let Some(token) = newest.filter(|token| !outside.refresh[*token].is_saved)
            {
                outside.breaks(Promise::SavedBeforePublished, format!("a{account}: r{token} is said to be saved"));
            }
        }
    }

    /// Lets true time pass, with all that falls into it.
    fn pass(&mut self, millis: u64) {
        let until = self.outside().truth + millis;
        for _ in 0..20_000 {
            if self.outside().broken.is_some() {
                return;
            }
            let now = self.now();
            let wakeup = self.renewer.next_wakeup();
            let mut outside = self.outside();
            let truth = outside.truth;
            let wakeup = wakeup.map(|at| truth.saturating_add(at.since(now).as_millis() as u64));
            let parcel = outside.transit.iter().enumerate().min_by_key(|(_, parcel)| parcel.at);
            let parcel = parcel.map(|(position, parcel)| (position, parcel.at.max(truth)));
            let next = wakeup.into_iter().chain(parcel.map(|(_, at)| at)).min().unwrap_or(u64::MAX).max(truth);
            let next = next.min(until.max(truth));
            if next > truth && outside.chance(4) {
                outside.truth += 1 + outside.dice % (next - truth); // somebody looks in between
                outside.look();
                continue;
            }
            outside.truth = next;
            match parcel {
                Some((position, at)) if at <= next => {
                    let parcel = outside.transit.swap_remove(position);
                    drop(outside);
                    self.deliver(parcel);
                }
                _ if wakeup.is_some_and(|at| at <= next) => {
                    if !outside.is_calm && outside.chance(16) {
                        outside.truth += outside.dice % 2000; // a busy machine
                    }
                    outside.look();
                    drop(outside);
                    let now = self.now();
                    self.renewer.tick(now);
                    if !self.outside().is_dead && self.renewer.next_wakeup().is_some_and(|at| at <= now) {
                        self.outside().breaks(Promise::NoStorm, "the loop spins".into());
                    }
                }
                _ => return,
            }
            self.settle();
        }
        self.outside().breaks(Promise::NoStorm, "more than 20 000 steps".into());
    }

    fn deliver(&mut self, parcel: Parcel) {
        match &parcel.cargo {
            Cargo::Grant(fate) => {
                let fate = *fate;
                self.outside().process_grant(parcel, fate);
            }
            Cargo::Answer(outcome, brought) => {
                let answer = {
                    let mut outside = self.outside();
                    let answer = outside.read(&parcel.grant, outcome);
                    outside.arrive(&parcel, *brought, &answer);
                    answer
                };
                let now = self.now();
                self.renewer.answered(&name(parcel.account), parcel.id, answer, now);
            }
        }
    }

    /// Something happens.
    fn happen(&mut self) {
        let accounts = self.outside().known.len() as u64;
        let account = self.outside().roll(accounts) as usize;
        let id = name(account);
        let now = self.now();
        let dice = self.outside().roll(100);
        match dice {
            0..=24 => self.request(account),
            25..=29 => {
                self.outside().gives_a_reason(account);
                let usable = self.outside().known[account].usable;
                let which = self.outside().roll(3);
                match (usable, which) {
                    (None, _) => {}
                    (Some((access, ..)), 0) => {
                        self.outside().tell(|| format!("a{account}: t{access} is revoked"));
                        self.outside().access[access].is_revoked = true;
                        self.request(account);
                    }
                    (Some(_), 1) => self.ask(account, true),
                    (Some((_, renewal, _)), _) => {
                        self.outside().tell(|| format!("a{account}: an upstream says 401"));
                        self.outside().known[account].has_moods = true;
                        let worked = self.outside().roll(2) == 0;
                        let until = now; // it does not wait, and nobody hears more of it
                        self.renewer.orders([Order::Rejected { account: id, id: renewal, worked, until }], now);
                    }
                }
            }
            30..=32 => {
                self.outside().tell(|| format!("a{account}: a person asks for a renewal"));
                self.outside().gives_a_reason(account);
                let _ = self.renewer.refresh(&id, now);
            }
            33..=35 => {
                self.outside().tell(|| "a hint".into());
                (0..accounts as usize).for_each(|account| self.outside().gives_a_reason(account));
                if dice == 33 { self.renewer.resumed(now) } else { self.renewer.network_changed(now) }
            }
            36..=41 => {
                let mut outside = self.outside();
                outside.is_network_down = !outside.is_network_down && outside.chance(2);
                let down = outside.is_network_down;
                outside.tell(|| format!("the network is down: {down}"));
            }
            42..=47 => {
                let mut outside = self.outside();
                outside.is_disk_full = !outside.is_disk_full && outside.chance(2);
                let full = outside.is_disk_full;
                outside.tell(|| format!("the disk is full: {full}"));
            }
            48..=59 => {
                let mut outside = self.outside();
                outside.kill_in = Some(outside.dice % 14);
            }
            60..=61 => self.outside().is_dead = true,
            62..=63 => self.stop(),
            64..=68 => {
                let mut outside = self.outside();
                let step = outside.roll(4 * HOUR) as i64 - 2 * HOUR as i64;
                outside.wall += step;
                outside.tell(|| format!("the wall clock is set by {step} ms"));
            }
            69 if !self.outside().servers[account].tells_life => {
                let mut outside = self.outside();
                let life = outside.one_of(&[3, 10, 30, 60, 600]) * SECOND;
                outside.servers[account].life = life;
                outside.tell(|| format!("a{account}: tokens live {life} ms from now on"));
            }
            69..=73 => {
                let hours = self.outside().roll(10 * HOUR);
                self.sleep(hours, 0);
            }
            74..=76 => {
                let pause = self.outside().roll(2 * HOUR);
                self.sleep(pause, pause as i64);
            }
            77..=82 => self.person_signs_in(account),
            83..=84 if self.config.accounts.contains_key(&id) => {
                self.outside().tell(|| format!("a{account}: a person signs out"));
                self.outside().signs_out(account);
                let (reply, _heard) = tokio::sync::oneshot::channel();
                self.renewer.remove(&id, reply, now);
            }
            85..=86 => {
                let mut outside = self.outside();
                let login = outside.known[account].login;
                if let Some(login) = login.and_then(|login| outside.servers[account].logins.get_mut(&login)) {
                    login.ended = login.ended.or(Some(End::Revoked));
                    outside.ledger.revocations += 1;
                    outside.tell(|| format!("a{account}: the server revokes the login"));
                }
            }
            _ => self.reload(account),
        }
    }

    fn request(&mut self, account: usize) {
        self.ask(account, false);
    }

    /// A request comes, and goes to an upstream that judges its token, or to one that always says 401.
    fn ask(&mut self, account: usize, is_mood: bool) {
        let now = self.now();
        let order = {
            let mut outside = self.outside();
            let outside = &mut *outside;
            let (truth, process) = (outside.truth, outside.process);
            let known = &mut outside.known[account];
            if !known.is_configured {
                return;
            }
            known.has_moods |= is_mood;
            match known.usable.filter(|(_, _, until)| now < *until) {
                Some((access, id, _)) => {
                    let AccessToken { expires, is_revoked, .. } = outside.access[access];
                    if !is_mood && truth < expires && !is_revoked {
                        let is_outlived = now >= known.outlived_from;
                        let is_news = known.told.is_none_or(|(last, told)| last != id || (is_outlived && !told));
                        if is_news {
                            known.told = Some((id, is_outlived));
                        }
                        known.worked = Some(id);
                        is_news.then(|| Order::Worked { account: name(account), id, sent: now })
                    } else {
                        known.refused += u64::from(!is_mood);
                        let worked = known.worked == Some(id);
                        let until = now + WAIT;
                        outside.waiting.push(Waiting { account, refused: id, until, process, is_mood });
                        outside.gives_a_reason(account);
                        outside.tell(|| format!("a{account}: t{access} is answered 401, mood: {is_mood}"));
                        Some(Order::Rejected { account: name(account), id, worked, until })
                    }
                }
                None => {
                    outside.tell(|| format!("a{account}: a request wants a token"));
                    Some(Order::Wanted(name(account)))
                }
            }
        };
        self.renewer.orders(order, now);
        self.serve_those_who_wait();
    }

    /// What waits after a 401 is sent again with the next token, or handed its 401 when none will come in time.
    fn serve_those_who_wait(&mut self) {
        let now = self.now();
        let mut orders = Vec::new();
        {
            let mut outside = self.outside();
            let outside = &mut *outside;
            for waiting in std::mem::take(&mut outside.waiting) {
                let Waiting { account, refused, until, process, is_mood } = waiting;
                let known = &mut outside.known[account];
                if process != outside.process || outside.is_dead {
                    known.has_moods = true;
                    continue;
                }
                let next = known.usable.filter(|(_, id, usable_until)| *id > refused && now < *usable_until);
                let next = next.filter(|_| now < until);
                let gives_up = now >= until || known.next.is_none_or(|at| at >= until);
                match next {
                    Some((access, id, _)) => {
                        let AccessToken { expires, is_revoked, .. } = outside.access[access];
                        let accepted = !is_mood && outside.truth < expires && !is_revoked;
                        if accepted {
                            known.worked = Some(id);
                        }
                        // an answer that took longer than its token lives looks like a mood
                        known.has_moods |= !accepted;
                        known.unhealed += u64::from(!accepted && !is_mood);
                        let at = until - WAIT;
                        orders.push(Order::Replayed { account: name(account), refused, at, accepted });
                    }
                    None if gives_up => {
                        known.has_moods = true;
                        known.unhealed += u64::from(!is_mood);
                    }
                    None => outside.waiting.push(waiting),
                }
                if outside.known[account].unhealed > 0 && outside.known[account].must_heal {
                    let how = format!("a{account}: a client was told 401 after {refused:?}");
                    outside.breaks(Promise::Healed, how);
                }
            }
        }
        if !orders.is_empty() {
            self.renewer.orders(orders, now);
        }
    }

    fn person_signs_in(&mut self, account: usize) {
        if !self.outside().known[account].is_configured {
            return;
        }
        let new = {
            let mut outside = self.outside();
            let (login, refresh_token) = outside.sign_in(account);
            let token = number(refresh_token.expose());
            let has_password = outside.servers[account].logins[&login].has_password;
            let process = outside.process;
            outside.refresh[token].arrived_in = Some(process);
            outside.tell(|| format!("a{account}: a person signs in: login {login} with r{token}"));
            let known = &mut outside.known[account];
            known.login = Some(login);
            known.newest = Some(token);
            known.durable = None;
            known.client_refused = false;
            known.pace = None;
            let password = has_password.then(|| (format!("u{login}"), Secret::new("pw")));
            let credential = Credential { refresh_token: Some(refresh_token), password };
            NewCredential {
                credential,
                client_id: Some("valetd".into()),
                refresh_lifetime: None,
                identity: None,
                servers: None,
            }
        };
        let now = self.now();
        let _ = self.renewer.replace(&name(account), new, now);
    }

    /// The machine sleeps, or is paused: then the boot clock does not know of it.
    fn sleep(&mut self, millis: u64, unseen: i64) {
        let hint = {
            let mut outside = self.outside();
            outside.tell(|| format!("the machine sleeps for {millis} ms, {unseen} of them unseen by the boot clock"));
            outside.truth += millis;
            outside.boot -= unseen;
            let waking = outside.truth;
            // connections that slept too long are dead
            let mut lost = 0;
            let dice = outside.dice;
            for parcel in outside.transit.iter_mut().filter(|parcel| parcel.at < waking) {
                if let Cargo::Answer(outcome, brought) = &mut parcel.cargo
                    && dice.is_multiple_of(2)
                {
                    (*outcome, *brought) = (Outcome::Lost, None);
                    lost += 1;
                }
            }
            outside.ledger.answers_lost += lost;
            outside.look();
            outside.chance(2)
        };
        if hint {
            let accounts = self.outside().known.len();
            (0..accounts).for_each(|account| self.outside().gives_a_reason(account));
            let now = self.now();
            self.renewer.resumed(now);
        }
    }

    /// An orderly stop and a start: what is owed is waited for.
    fn stop(&mut self) {
        self.outside().tell(|| "the daemon stops".into());
        let now = self.now();
        self.renewer.stop(now);
        for _ in 0..1000 {
            let mut outside = self.outside();
            if outside.is_dead || outside.transit.is_empty() {
                break;
            }
            let first = outside.transit.iter().enumerate().min_by_key(|(_, parcel)| parcel.at);
            let position = first.map(|(position, _)| position).expect("it is not empty");
            let parcel = outside.transit.swap_remove(position);
            outside.truth = outside.truth.max(parcel.at);
            drop(outside);
            self.deliver(parcel);
        }
        self.restart();
    }

    /// The configuration changes, and is taken over.
    fn reload(&mut self, account: usize) {
        let id = name(account);
        let change = self.outside().roll(8);
        let mut next = self.config.accounts.get(&id).cloned();
        match (change, &mut next) {
            (0..=2, Some(_)) => next = None,
            (_, None) => next = self.all.get(&id).cloned(),
            (3, Some(account)) => account.scopes.push("more".into()),
            (4, Some(account)) => {
                let is_ours = account.client_id.as_deref() == Some("valetd");
                account.client_id = Some(if is_ours { "other" } else { "valetd" }.into());
            }
            (_, Some(account)) => {
                let seconds = self.outside().one_of(&[1, 5, 60, 300]);
                let minimum_spacing = Duration::from_millis(self.outside().one_of(&[500, 1000, 5000]));
                account.renew = Policy { early: Duration::from_secs(seconds), minimum_spacing, ..Policy::default() };
            }
        }
        {
            let mut outside = self.outside();
            outside.tell(|| {
                format!(
                    "a{account}: reload: {}",
                    match (change, &next) {
                        (_, None) => "removed".to_owned(),
                        (change, Some(account)) => format!("{change}: {:?} {:?}", account.client_id, account.renew),
                    }
                )
            });
            // starting over is starting anew
            if change <= 4 || !self.config.accounts.contains_key(&id) {
                outside.known[account].pace = None;
            }
        }
        match next {
            Some(account) => drop(self.config.accounts.insert(id, account)),
            None => drop(self.config.accounts.remove(&id)),
        }
        self.configure();
    }

    /// The faults end. Twenty minutes later every login that lives must be usable.
    fn calm_down(&mut self) {
        {
            let mut outside = self.outside();
            outside.is_calm = true;
            outside.is_disk_full = false;
            outside.is_network_down = false;
            outside.kill_in = None;
            outside.tell(|| "the faults end".into());
        }
        self.config.accounts = self.all.clone();
        self.outside().known.iter_mut().for_each(|known| known.pace = None);
        self.configure();
        self.settle();
        let accounts = self.outside().known.len();
        for _ in 0..40 {
            for account in 0..accounts {
                self.request(account);
            }
            self.pass(30 * SECOND);
            let is_broken = self.outside().broken.is_some();
            if is_broken || (0..accounts).all(|account| self.is_well(account)) {
                break;
            }
        }
        for account in 0..accounts {
            if !self.is_well(account) {
                let seen = self.renewer.observed(&name(account)).map(|(snapshot, _)| snapshot);
                let how = format!("a{account}: twenty minutes later it is {seen:?}");
                self.outside().breaks(Promise::UsableAgain, how);
            }
        }
    }

    /// Tokens end whose lives are not stated, and no client is told; nor is the server asked more often than it has to be.
    fn live_on(&mut self) {
        let accounts = self.outside().known.len();
        for account in 0..accounts {
            let snapshot = self.renewer.observed(&name(account)).map(|(snapshot, _)| snapshot);
            let is_at_rest = snapshot.is_some_and(|snapshot| {
                snapshot.failures == 0 && !matches!(snapshot.phase, Phase::SignInRequired { .. })
            });
            let (life, before) = {
                let mut outside = self.outside();
                let Server { life, tells_life, .. } = outside.servers[account];
                let login = outside.known[account].login;
                let lives = login.is_some_and(|login| outside.servers[account].logins[&login].ended.is_none());
                if tells_life || life == HOUR || !is_at_rest || !lives || outside.known[account].has_moods {
                    continue;
                }
                (outside.known[account].must_heal, outside.known[account].unhealed) = (true, 0);
                (life, outside.starts.len())
            };
            for _ in 0..LIVES * 4 {
                self.request(account);
                self.pass(life / 4);
            }
            let mut outside = self.outside();
            outside.known[account].must_heal = false;
            let calls = outside.starts[before..].iter().filter(|(_, whose)| *whose == account).count() as u64;
            if calls * 10 > LIVES * 16 + 40 {
                outside.breaks(Promise::NoStorm, format!("a{account}: {calls} calls in {LIVES} lives of {life} ms"));
            }
        }
    }

    /// Usable and saved, or a person is needed (which was judged when it was said).
    fn is_well(&self, account: usize) -> bool {
        let now = self.now();
        let outside = self.outside();
        let Some((snapshot, is_saved)) = self.renewer.observed(&name(account)) else { return false };
        let is_usable = outside.known[account].usable.is_some_and(|(_, _, until)| now < until);
        is_saved && (is_usable || matches!(snapshot.phase, Phase::SignInRequired { .. }))
    }
}

impl Outside {
    fn gives_a_reason(&mut self, account: usize) {
        if let Some(pace) = &mut self.known[account].pace {
            pace.earliest = None;
        }
    }

    fn signs_out(&mut self, account: usize) {
        let known = &mut self.known[account];
        known.login = None;
        known.newest = None;
        known.durable = None;
        known.usable = None;
        known.pace = None;
    }
}

/// One history of a seed.
fn history(seed: u64, off: Option<Measure>, is_told: bool) -> Result<Ledger, Broken> {
    let mut outside = Outside::new(seed, off, 1);
    let accounts = 1 + outside.roll(3) as usize;
    // most are short, so that there can be many
    let happenings = if seed.is_multiple_of(8) { 10 + outside.roll(30) } else { 3 + outside.roll(9) };
    let mut outside = Outside::new(outside.dice, off, accounts);
    outside.is_told = is_told;
    let shortest = outside.servers.iter().map(|server| server.life).min().unwrap_or(HOUR);
    let mut history = History::new(outside);
    history.settle();
    for account in 0..accounts {
        history.person_signs_in(account);
        history.settle();
    }
    for _ in 0..happenings {
        let gap = {
            let mut outside = history.outside();
            let longest = outside.one_of(&[SECOND, 30 * SECOND, shortest, 3 * shortest]);
            outside.roll(longest)
        };
        history.pass(gap);
        history.happen();
        history.settle();
        if let Some(broken) = history.outside().broken.clone() {
            return Err(broken);
        }
    }
    history.calm_down();
    history.live_on();
    let outside = history.outside();
    outside.broken.clone().map_or(Ok(outside.ledger), Err)
}

/// Runs the histories of all seeds from `first` on, until `is_enough` of the number that have run, on every processor.
/// Returns what they add up to, and the first seed among them that breaks a promise.
fn histories(
    first: u64,
    off: Option<Measure>,
    is_enough: impl Fn(u64) -> bool + Sync,
) -> (Ledger, Option<(u64, Broken)>) {
    let next = AtomicU64::new(0);
    let found: Mutex<(Ledger, Option<(u64, Broken)>)> = Mutex::default();
    let work = || loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if is_enough(number) {
            return;
        }
        let seed = first + number;
        let told = std::panic::catch_unwind(|| history(seed, off, false))
            .unwrap_or_else(|_| Err(Broken { promise: Promise::EveryWaitEnds, how: "the renewer panicked".into() }));
        let mut found = found.lock().expect("nothing in here panics");
        match told {
            Ok(one) => found.0.add(&one),
            Err(broken) => {
                // those before it are under way or done
                next.store(u64::MAX / 2, Ordering::Relaxed);
                if found.1.as_ref().is_none_or(|(earlier, _)| seed < *earlier) {
                    found.1 = Some((seed, broken));
                }
            }
        }
        if found.1.is_some() {
            return;
        }
    };
    std::thread::scope(|scope| {
        let processors = std::thread::available_parallelism().map_or(1, |number| number.get());
        (0..processors).for_each(|_| drop(scope.spawn(work)));
    });
    found.into_inner().expect("nothing in there panics")
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn ten_thousand_histories_lose_no_login_and_hand_out_no_dead_token() {
    let enough = from_environment("VALETD_SIMULATION_HISTORIES").unwrap_or(10_000);
    let (ledger, broken) = histories(0, None, |done| done >= enough);
    println!("{ledger:?}");
    if let Some((seed, broken)) = broken {
        panic!(
            "seed {seed}: {broken}\nreplay: VALETD_SIMULATION_SEED={seed} cargo test replay_one_seed -- --ignored --nocapture"
        );
    }
}

/// `cargo test --release -- --ignored soak_histories --nocapture`, for VALETD_SIMULATION_HISTORIES (a million), or for
/// VALETD_SIMULATION_SECONDS, from the seed VALETD_SIMULATION_FIRST on.
#[test]
#[ignore = "a soak: minutes to hours"]
fn soak_histories() {
    let seconds = from_environment("VALETD_SIMULATION_SECONDS");
    let enough = from_environment("VALETD_SIMULATION_HISTORIES").unwrap_or(1_000_000);
    let first = from_environment("VALETD_SIMULATION_FIRST").unwrap_or(0);
    let start = std::time::Instant::now();
    let (ledger, broken) = histories(first, None, |done| match seconds {
        Some(seconds) => start.elapsed().as_secs() >= seconds,
        None => done >= enough,
    });
    let rate = ledger.histories as f64 / start.elapsed().as_secs_f64();
    println!("{ledger:#?}\n{rate:.0} histories/s");
    if let Some((seed, broken)) = broken {
        panic!("seed {seed}: {broken}");
    }
    println!("logins lost that could have been kept: 0");
}

/// Each protective measure is there for a promise: without it, the histories break that one.
#[test]
fn without_any_one_measure_a_promise_breaks_and_is_named() {
    for (measure, promises) in [
        (Measure::SaveBeforePublish, &[Promise::SavedBeforePublished] as &[Promise]),
        (Measure::NoteBeforeUse, &[Promise::HonestVerdict]),
        (Measure::IdCheck, &[Promise::NothingForgotten]),
        (Measure::Spacing, &[Promise::NoStorm]),
        (Measure::TwoClocks, &[Promise::ValidWhileValid]),
        (Measure::VerdictByCode, &[Promise::NoLoginLost]),
        (Measure::OneGrant, &[Promise::OneGrantAtATime, Promise::SavedBeforePublished]),
        (Measure::TrustAfterHealing, &[Promise::Healed]),
    ] {
        let (ledger, broken) = histories(0, Some(measure), |done| done >= 5000);
        let (seed, broken) = broken.unwrap_or_else(|| panic!("nobody misses {measure:?}"));
        println!("without {measure:?}: {} histories kept every promise, then seed {seed}: {broken}", ledger.histories);
        assert!(promises.contains(&broken.promise), "without {measure:?}: seed {seed}: {broken}");
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..40 {
        let (first, second) = (history(seed, None, false), history(seed, None, false));
        assert_eq!(first.expect("keeps every promise"), second.expect("keeps every promise"), "seed {seed}");
    }
}

/// A quiet world: accounts of one server that gives tokens of a life, without faults. Returns the true times of the
/// starts in an hour, account by account, with requests every so often.
fn quiet_hour(accounts: usize, life: u64, tells_life: bool, request_every: Option<u64>) -> Vec<Vec<u64>> {
    let mut outside = Outside::new(7, None, accounts);
    outside.is_calm = true;
    outside.disk = Disk::Plain(BTreeMap::new());
    for server in &mut outside.servers {
        (server.rotation, server.life, server.tells_life) = (Rotation::Strict, life, tells_life);
        server.hands_back = false;
    }
    let mut history = History::new(outside);
    (0..accounts).for_each(|account| history.person_signs_in(account));
    history.outside().starts.clear();
    // a restart: the sign-ins were together, and the start must not be
    history.stop();
    let began = history.outside().truth;
    for _ in 0..HOUR / request_every.unwrap_or(HOUR) {
        history.pass(request_every.unwrap_or(HOUR));
        if request_every.is_some() {
            (0..accounts).for_each(|account| history.request(account));
        }
    }
    let outside = history.outside();
    assert!(outside.broken.is_none(), "{:?}", outside.broken);
    (0..accounts)
        .map(|account| {
            let of_account = outside.starts.iter().filter(|(_, whose)| *whose == account);
            of_account.map(|(at, _)| at - began).filter(|at| *at < HOUR).collect()
        })
        .collect()
}

#[test]
fn starts_per_hour_are_bounded_however_short_the_life() {
    println!("life      starts an hour, idle    with a request every 100 ms");
    for (name, life, tells_life, idle, busy) in [
        ("0 s", 0, true, 10..=45, 100..=150),
        ("1 s", 1, true, 500..=720, 500..=3600),
        ("10 s", 10, true, 400..=600, 400..=600),
        ("30 s", 30, true, 160..=200, 160..=200),
        ("60 s", 60, true, 80..=100, 80..=100),
        ("an hour", 3600, true, 1..=2, 1..=2),
        ("none stated", 3600, false, 1..=2, 1..=2),
    ] {
        let found = [None, Some(100)].map(|every| quiet_hour(1, life * SECOND, tells_life, every)[0].len());
        println!("{name:12} {:>12} {:>18}", found[0], found[1]);
        assert!(idle.contains(&found[0]) && busy.contains(&found[1]), "{name}: {found:?}");
    }
}

/// What happens beside ordinary requests to a server that does not state how long its tokens live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Beside {
    Nothing,
    /// A stop and a start in the middle.
    Restart,
    /// Another path, whose upstream always says 401, is asked as often.
    Mood,
    /// A token in ten is revoked.
    Revocations,
    /// Tokens live ten times as long from the middle on, or a tenth.
    Longer,
    Shorter,
}

/// Lives that no answer states, with requests at an even pace. Returns what upstreams and clients saw: token calls, 401s
/// to tokens that had ended in the last quarter of the time, and all those that clients were told of.
fn unstated_lives(life: u64, lives: u64, beside: Beside) -> (u64, u64, u64) {
    let mut outside = Outside::new(7, None, 1);
    outside.is_calm = true;
    outside.disk = Disk::Plain(BTreeMap::new());
    let server = &mut outside.servers[0];
    (server.rotation, server.life, server.tells_life, server.hands_back) = (Rotation::Strict, life, false, false);
    let mut history = History::new(outside);
    history.person_signs_in(0);
    let (mut calls, mut late) = (0, 0);
    const PACE: u64 = 20;
    for number in 0..lives * PACE {
        let is_middle = number == lives * PACE / 2;
        match beside {
            Beside::Restart if is_middle => history.stop(),
            Beside::Longer if is_middle => history.outside().servers[0].life = life * 10,
            Beside::Shorter if is_middle => history.outside().servers[0].life = life / 10,
            Beside::Mood => history.ask(0, true),
            Beside::Revocations if number % (10 * PACE) == PACE / 3 => {
                let usable = history.outside().known[0].usable;
                if let Some((access, ..)) = usable {
                    history.outside().access[access].is_revoked = true;
                }
            }
            _ => {}
        }
        if number == lives * PACE * 3 / 4 {
            late = history.outside().known[0].refused;
            calls = history.outside().starts.len() as u64;
        }
        let life = history.outside().servers[0].life;
        history.request(0);
        history.pass(life / PACE);
    }
    let outside = history.outside();
    assert!(outside.broken.is_none(), "{:?}", outside.broken);
    (outside.starts.len() as u64 - calls, outside.known[0].refused - late, outside.known[0].unhealed)
}

#[test]
fn lives_that_no_answer_states_are_learnt_and_no_client_is_told_of_an_end() {
    println!("in the last quarter of 80 lives:         calls a life   401s to upstreams   401s to clients");
    for life in [3 * SECOND, 6 * SECOND, MINUTE, 5 * MINUTE] {
        for beside in
            [Beside::Nothing, Beside::Restart, Beside::Revocations, Beside::Mood, Beside::Longer, Beside::Shorter]
        {
            if beside == Beside::Shorter && life < MINUTE {
                continue; // no life is shorter than a second
            }
            let (calls, refused, unhealed) = unstated_lives(life, 80, beside);
            let a_life = calls as f64 / 20.0;
            let named = format!("{} s, {beside:?}", life / SECOND);
            println!("{named:<40} {a_life:>12} {refused:>19} {unhealed:>17}");
            // beside one that nothing heals, the first ends can be told too late
            assert!(unhealed <= if beside == Beside::Mood { 5 } else { 0 }, "{named}: {unhealed}");
            // revocations may look like ends, until a token is let run to its own
            let most = if beside == Beside::Revocations { 3.0 } else { 1.6 };
            assert!(a_life <= most, "{named}: {a_life}");
            assert!(refused <= 12, "{named}: {refused}");
        }
    }
}

#[test]
fn fifty_accounts_at_one_server_are_spread_not_synchronised() {
    let accounts = quiet_hour(50, 10 * MINUTE, true, None);
    let mut seconds: BTreeMap<u64, usize> = BTreeMap::new();
    for at in accounts.iter().flatten() {
        *seconds.entry(at / SECOND).or_default() += 1;
    }
    let (starts, busiest) = (accounts.iter().flatten().count(), seconds.values().max().copied().unwrap_or_default());
    // the last round: each account's last start in the hour
    let last: Vec<u64> = accounts.iter().filter_map(|starts| starts.last().copied()).collect();
    let width = last.iter().max().expect("fifty") - last.iter().min().expect("fifty");
    println!(
        "{starts} starts of 50 accounts in an hour, {busiest} in the busiest second, the last round over {width} ms"
    );
    assert!((50 * 8..=50 * 12).contains(&starts), "{starts} starts");
    assert!(busiest <= 12, "{busiest} starts in one second");
    assert!(width > 30 * SECOND, "the last round took {width} ms");
}

#[test]
#[ignore = "by hand: prints what happened in the history of VALETD_SIMULATION_SEED"]
fn replay_one_seed() {
    let seed = from_environment("VALETD_SIMULATION_SEED").expect("VALETD_SIMULATION_SEED is a number");
    if let Err(broken) = history(seed, None, true) {
        panic!("seed {seed}: {broken}");
    }
}
