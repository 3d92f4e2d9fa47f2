//! What the renewer reaches, the truth behind it, and the observer who knows it.

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::promises::{Broken, Measure, Promise, Tally};
use super::state::{
    AccessToken, AskedOfStore, Disk, End, Fate, HOUR, InFlight, Message, RefreshToken, Rotation, SECOND, Server, index,
    name, number,
};
use crate::config::{Account, AccountId, Config};
use crate::oauth::{Grant, Person, Tokens};
use crate::platform::clock::Clock;
use crate::renewal::{Failure, Place, RenewalId, Why, policy};
use crate::renewer::world::{RevokeReply, StoreAnswer, Ticket, World};
use crate::secret::Secret;
use crate::split_mix::SplitMix64;
use crate::store::{FaultyDisk, Record, Store};
use crate::timestamp::Timestamp;
use crate::token_endpoint::GrantFailure;
use crate::token_source::Availability;

/// The last start of an account's renewal.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastStart {
    pub(super) id: RenewalId,
    pub(super) login: u64,
    pub(super) started: Timestamp,
    /// Nothing has happened that could start another one before this.
    pub(super) earliest: Option<Timestamp>,
}

/// What the observer knows of an account.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) is_configured: bool,
    /// Which sign-in the daemon has.
    pub(super) login: Option<u64>,
    /// What requests see.
    pub(super) usable: Option<(usize, RenewalId, Timestamp)>,
    pub(super) last_start: Option<LastStart>,
    pub(super) least_spacing: Duration,
    pub(super) early: Duration,
    /// The newest refresh token that the daemon has got.
    pub(super) newest: Option<usize>,
    /// The newest one that the disk has.
    pub(super) durable: Option<usize>,
    /// The last save failed, and said so.
    pub(super) is_loud: bool,
    /// The server has refused the client.
    pub(super) client_refused: bool,
    /// The configuration names another client than the one signed in to.
    pub(super) is_elsewhere: bool,
    /// When the usable token began to live.
    pub(super) start: Timestamp,
    /// When a successor of the usable token, or a token at all, is asked for, as requests were told.
    pub(super) next: Option<Timestamp>,
    /// The token that an upstream was last seen to take.
    pub(super) worked: Option<RenewalId>,
    /// The one of which that was told last, and from when on it is news again.
    pub(super) told: Option<(RenewalId, Timestamp)>,
    /// The next good response is news, as a request was refused that is not sent again.
    pub(super) is_awaited: bool,
    /// Requests were answered 401 for other reasons than a token's end, or nobody heard what became of them.
    pub(super) has_moods: bool,
    /// From now on every 401 must be healed.
    pub(super) must_heal: bool,
    /// 401s that upstreams answered to tokens that had ended, and those that clients were told of.
    pub(super) refused: u64,
    pub(super) unhealed: u64,
}

/// A request that was answered 401, and waits for the next token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) account: usize,
    pub(super) refused: RenewalId,
    pub(super) until: Timestamp,
    pub(super) process: u32,
    /// When its 401 came.
    pub(super) at: Timestamp,
    /// It is not sent again.
    pub(super) is_final: bool,
    /// Its place always says 401.
    pub(super) is_mood: bool,
}

/// Where requests go, and where one goes that is always answered 401.
pub(super) const GOOD: Place = Place { route: 1, resource: 1 };
pub(super) const MOODY: Place = Place { route: 1, resource: 2 };

/// So long a request waits for a token, as is the default.
pub(super) const WAIT: Duration = Duration::from_secs(10);

/// What the daemon reaches, and the truth behind it.
pub(super) struct Outside {
    pub(super) dice: SplitMix64,
    pub(super) off: Option<Measure>,
    pub(super) is_told: bool,
    /// Physical time, which is the servers', in milliseconds.
    pub(super) truth: u64,
    /// How far the machine's two clocks are from it.
    pub(super) boot: i64,
    pub(super) wall: i64,
    pub(super) clock: Clock,
    pub(super) disk: Disk,
    pub(super) is_disk_full: bool,
    /// The store is across a network, and other machines use it, too.
    pub(super) is_store_shared: bool,
    pub(super) is_network_down: bool,
    pub(super) is_calm: bool,
    pub(super) servers: Vec<Server>,
    pub(super) access: Vec<AccessToken>,
    pub(super) refresh: Vec<RefreshToken>,
    pub(super) logins: u64,
    pub(super) in_flight: Vec<InFlight>,
    /// What the store was asked and has not answered.
    pub(super) asked_of_store: Vec<AskedOfStore>,
    /// Its responses that the renewer has not taken in.
    pub(super) store_answers: VecDeque<(StoreAnswer, usize, Option<usize>)>,
    pub(super) waiting: Vec<Waiting>,
    /// When renewals started, by true time, and whose.
    pub(super) starts: Vec<(u64, usize)>,
    /// Answers that the renewer waits for.
    pub(super) owed: Vec<(u32, usize, u64, RenewalId)>,
    pub(super) process: u32,
    /// The process dies after so many more steps.
    pub(super) kill_in: Option<u64>,
    pub(super) is_dead: bool,
    pub(super) known: Vec<Known>,
    pub(super) broken: Option<Broken>,
    pub(super) tally: Tally,
}

/// So many lives are watched when the faults have ended.
pub(super) const LIVES: u64 = 10;

/// The accounts that histories take theirs from: all alike, at the same server.
pub(super) static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let text: String = (0..50)
        .map(|number| {
            format!(
                "[account.a{number}]\ntoken_endpoint = \"https://auth.example/token\"\nclient_id = \"valetd\"\n\
                 grant = \"refresh_token\"\nheader = \"Authorization: Bearer {{access_token}}\"\n\
                 upstream = \"https://api.example\"\n"
            )
        })
        .collect();
    crate::config::testing::parse_with(&text, &[]).config
});

impl Outside {
    pub(super) fn new(seed: u64, off: Option<Measure>, accounts: usize) -> Self {
        let (truth, boot) = (1_800_000_000_000, -1_799_999_000_000);
        let mut this = Self {
            dice: SplitMix64(seed),
            off,
            is_told: false,
            truth,
            boot,
            wall: 0,
            clock: Clock::start_at(truth as i64 + boot, truth as i64),
            disk: Disk::Plain(BTreeMap::new()),
            is_disk_full: false,
            is_store_shared: false,
            is_network_down: false,
            is_calm: false,
            servers: Vec::new(),
            access: Vec::new(),
            refresh: Vec::new(),
            logins: 0,
            in_flight: Vec::new(),
            asked_of_store: Vec::new(),
            store_answers: VecDeque::new(),
            waiting: Vec::new(),
            starts: Vec::new(),
            owed: Vec::new(),
            process: 0,
            kill_in: None,
            is_dead: false,
            known: vec![Known::default(); accounts],
            broken: None,
            tally: Tally { histories: 1, ..Tally::default() },
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
            this.disk = Disk::Store(Box::new(Store::on_faulty_disk(disk.clone())), disk);
        } else {
            this.is_store_shared = this.chance(3);
        }
        this
    }

    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.dice.next_u64() % sides.max(1)
    }

    pub(super) fn chance(&mut self, in_so_many: u64) -> bool {
        self.roll(in_so_many) == 0
    }

    pub(super) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.roll(choices.len() as u64) as usize]
    }

    pub(super) fn now(&self) -> Timestamp {
        let (boot, wall) = (self.truth as i64 + self.boot, self.truth as i64 + self.wall);
        if self.off == Some(Measure::TwoClocks) {
            return Timestamp::from_millis(wall.max(0) as u64);
        }
        self.clock.at(boot, wall)
    }

    pub(super) fn tell(&self, what: impl FnOnce() -> String) {
        if self.is_told {
            let millis = self.truth - 1_800_000_000_000;
            println!("{:>9}.{:03} {}", millis / 1000, millis % 1000, what());
        }
    }

    pub(super) fn breaks(&mut self, promise: Promise, how: String) {
        self.tell(|| format!("BROKEN: {promise}: {how}"));
        self.broken.get_or_insert(Broken { promise, how });
    }

    /// A point at which the process may be killed. Returns whether it is dead.
    pub(super) fn dies(&mut self) -> bool {
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

    pub(super) fn fate(&mut self) -> Fate {
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
            11 => Fate::FalseRefusal,
            12 => Fate::Garbled(self.chance(2)),
            _ => Fate::Answered,
        }
    }

    /// A response arrives where the process that waits for it still lives.
    pub(super) fn arrive(
        &mut self,
        in_flight: &InFlight,
        brought: Option<(usize, Option<usize>)>,
        answer: &Result<Tokens, GrantFailure>,
    ) {
        let InFlight { account, id, process, login, .. } = *in_flight;
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
            (Ok(tokens), Some((_, refresh))) => {
                state.may_be_lost = false;
                if let Some(refresh) = refresh {
                    known.newest = Some(refresh);
                    self.refresh[refresh].arrived_in = Some(process);
                }
                if let Some(last_start) = &mut known.last_start {
                    let lead = known.early.min(life / 3).mul_f64(1.1);
                    let end = life - lead.max(life / 10).max(Duration::from_millis(5)).min(life);
                    let is_usable = now < last_start.started + life * 8 / 10;
                    last_start.earliest = (is_usable && tells_life && !hands_back && tokens.unusable.is_none())
                        .then_some(last_start.started + end);
                }
            }
            (Err(GrantFailure { failure: Failure::Ambiguous, .. }), _) => state.may_be_lost = true,
            (Err(GrantFailure { failure: Failure::Transient { retry_after: Some(patience) }, .. }), _) => {
                if let Some(last_start) = &mut known.last_start {
                    last_start.earliest = Some(now + (*patience).min(policy::LONGEST_RETRY_AFTER));
                }
            }
            (Err(_) | Ok(_), _) => {}
        }
    }

    /// Whether requests would be given a token now, and if so, whether the server would take it.
    pub(super) fn look(&mut self) {
        let now = self.now();
        for account in 0..self.known.len() {
            let Some((token, _, usable_until)) = self.known[account].usable else { continue };
            if !self.known[account].is_configured || now >= usable_until {
                continue;
            }
            self.tally.served += 1;
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
    pub(super) fn judge(&mut self, account: usize, why: Why) {
        let known = &self.known[account];
        let Some(login) = known.login else { return };
        let state = &self.servers[account].logins[&login];
        let (lost, verdict) = (Promise::NoLoginLost, Promise::HonestVerdict);
        let broken = match (why, state.ended) {
            (Why::TermOver, _) => Some((lost, "nobody gave it an end")),
            (Why::NotSignedIn, _) => Some((lost, "it was forgotten")),
            (Why::IssuedElsewhere, _) if known.is_elsewhere => None,
            (Why::IssuedElsewhere, _) => Some((lost, "it was not issued elsewhere")),
            (Why::ClientRefused, _) if known.client_refused => None,
            (Why::ClientRefused, _) => Some((lost, "the client was not refused")),
            (Why::Revoked | Why::Ambiguous, _) if state.has_password && !state.was_falsely_refused => {
                Some((lost, "its password was never refused"))
            }
            // the server's word, which is asked again: see `UsableAgain`
            (Why::Revoked | Why::Ambiguous, _) if state.was_falsely_refused => None,
            (Why::Revoked | Why::Ambiguous, None) => Some((lost, "the server never ended it")),
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
            None if is_loss && known.usable.is_some() => self.tally.unavoidable_losses += 1,
            None => {}
        }
    }

    /// The process has died, or ended: what it had sent is processed or dropped, and nobody hears of it.
    pub(super) fn bury(&mut self) {
        let dead = self.process;
        self.process += 1;
        for in_flight in std::mem::take(&mut self.in_flight) {
            if let Message::Grant(fate) = in_flight.message
                && matches!(fate, Fate::Answered | Fate::AnsweredTwice | Fate::AnswerLost)
                && self.chance(2)
            {
                let in_flight = InFlight { at: self.truth, ..in_flight };
                let outcome = self.serve(&in_flight, self.truth);
                self.tell(|| format!("a{}: still processed for the dead: {outcome:?}", in_flight.account));
            }
            self.tally.answers_lost += 1;
        }
        self.store_answers.clear();
        for asked in std::mem::take(&mut self.asked_of_store) {
            if self.chance(2) {
                let _ = self.carry_out(&asked);
            }
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
            known.last_start = None;
            known.is_loud = false;
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
            }
            if is_older {
                let how = format!("a{account}: {dead} had saved r{durable:?}, its successor finds r{token:?}");
                self.breaks(Promise::NoLoginLost, how);
            }
        }
    }
}

impl Outside {
    pub(super) fn gives_a_reason(&mut self, account: usize) {
        if let Some(last_start) = &mut self.known[account].last_start {
            last_start.earliest = None;
        }
    }

    pub(super) fn signs_out(&mut self, account: usize) {
        let known = &mut self.known[account];
        known.login = None;
        known.newest = None;
        known.durable = None;
        known.usable = None;
        known.last_start = None;
    }
}

/// The renewer's way out, and the history's way in.
#[derive(Clone)]
pub(super) struct SimWorld(pub(super) Rc<RefCell<Outside>>);

impl SimWorld {
    pub(super) fn outside(&self) -> RefMut<'_, Outside> {
        self.0.borrow_mut()
    }
}

impl World for SimWorld {
    fn save(&mut self, ticket: Ticket, record: &Record) {
        self.outside().ask_store(index(&record.account), ticket, Some(record.clone()));
    }

    fn remove(&mut self, ticket: Ticket, account: &AccountId) {
        self.outside().ask_store(index(account), ticket, None);
    }

    fn probe(&mut self, _: Ticket, _: &Record) {
        unreachable!("no sign-in of a history is tried")
    }

    fn store_answer(&mut self) -> Option<StoreAnswer> {
        self.outside().store_answer()
    }

    fn redeem_and_ask(&mut self, account: Arc<Account>, id: RenewalId, grant: Grant, _: Option<Person>) {
        self.redeem(account, id, grant);
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
            Grant::ClientCredentials | Grant::Issued => unreachable!("each account has a credential"),
            Grant::AuthorizationCode { .. } | Grant::DeviceCode { .. } => unreachable!("no renewal has a code"),
        };
        outside.tell(|| format!("a{account}: renewal {} of login {login} starts", id.0));
        if outside.known[account].login != Some(login) {
            let how = format!("a{account}: login {login} is spent after its end");
            outside.breaks(Promise::NothingForgotten, how);
        }
        let process = outside.process;
        if matches!(grant, Grant::RefreshToken(_)) && outside.is_asked_of_store(account) {
            let how = format!("a{account}: renewal {} starts while its note is owed", id.0);
            outside.breaks(Promise::NotedBeforeSpent, how);
        }
        if outside.owed.iter().any(|owed| (owed.0, owed.1, owed.2) == (process, account, login)) {
            let how = format!("a{account}: login {login} is spent while an answer is owed");
            outside.breaks(Promise::OneGrantAtATime, how);
        }
        let Known { last_start, least_spacing, .. } = outside.known[account].clone();
        let mut started = now;
        if let Some(last_start) = last_start.filter(|last_start| last_start.login == login) {
            if last_start.id == id {
                started = last_start.started; // the password's turn
            } else if now < last_start.started + least_spacing {
                let how = format!("a{account}: two starts {:?} apart", now.since(last_start.started));
                outside.breaks(Promise::NoStorm, how);
            } else if let Some(earliest) = last_start.earliest.filter(|earliest| now < *earliest) {
                let how = format!("a{account}: started {:?} early, with no reason", earliest.since(now));
                outside.breaks(Promise::NoStorm, how);
            }
        }
        // a password has its turn within a renewal whose start may have been forgotten
        if last_start.is_some() || matches!(grant, Grant::RefreshToken(_)) {
            outside.known[account].last_start = Some(LastStart { id, login, started, earliest: None });
        }
        outside.owed.push((process, account, login, id));
        let truth = outside.truth;
        outside.starts.push((truth, account));
        outside.tally.grants += 1;
        let fate = outside.fate();
        let slow = if !outside.is_calm && outside.chance(12) { outside.roll(15_000) } else { outside.roll(300) };
        let at = outside.truth + slow;
        outside.in_flight.push(InFlight { at, account, id, process, login, grant, message: Message::Grant(fate) });
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

    fn who_is(&mut self, _: Arc<Account>, _: Secret, _: Option<Person>, _: RevokeReply) {}

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
                if is_new && !outside.refresh[refresh].is_answered {
                    let how =
                        format!("a{account}: t{access} is published, and the store has said nothing of r{refresh}");
                    outside.breaks(Promise::SavedBeforePublished, how);
                }
                let known = &mut outside.known[account];
                known.usable = Some((access, token.id, token.usable_until));
                (known.start, known.next) = (token.start, wished_for);
            }
            Availability::Waiting { retry_at, .. } => {
                outside.tell(|| format!("a{account}: wait until {retry_at:?}"));
                let now = outside.now();
                let known = &mut outside.known[account];
                (known.usable, known.next) = (None, Some(retry_at.unwrap_or(now)));
            }
            Availability::Withheld(_) => unreachable!("its store is not sealed"),
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
