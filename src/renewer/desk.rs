//! What the renewer does, told apart from how: every account's machine, its credential and the order of things.
//!
//! [`Renewer`] owns the machines and the secrets, so there is no lock. It reaches the disk, the authorization servers
//! and the waiting requests through a [`World`] alone; the daemon's is real, the simulation's is not. Nothing in here
//! waits.
//!
//! The order on a rotation: note that generation N is being redeemed; redeem; save generation N + 1; publish. A process
//! that dies in between comes back with the newest credential whose answer had reached it, and knows whether an answer
//! may have been lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::header::{HeaderName, HeaderValue};
use tracing::{error, info, warn};

use crate::accounts::{AccountView, LastFailure, NewCredential, Stored, UNREADABLE};
use crate::config::{Account, AccountId, Config, TokenKind};
use crate::oauth::{Grant, GrantType, Tokens, jwt};
use crate::renewal::{Action, Event, Failure, Phase, Renewal, RenewalId, Why};
use crate::secret::Secret;
use crate::store::{Credential, Record, SetAside};
use crate::timestamp::Timestamp;
use crate::token_endpoint::GrantFailure;
use crate::token_source::{Availability, Order, Published};

/// What the renewer reaches the rest of the world by. No method waits for the network.
pub trait World {
    /// Makes a record durable, replacing the account's last one.
    ///
    /// # Errors
    ///
    /// A sentence for people: what could not be done, to what, and why.
    fn save(&mut self, record: &Record) -> Result<(), String>;

    /// Forgets an account's record.
    ///
    /// # Errors
    ///
    /// Likewise.
    fn remove(&mut self, account: &AccountId) -> Result<(), String>;

    /// The generation of the record that the disk has of an account; 0 if none can be read. A lower one is never saved
    /// in its place.
    fn saved_generation(&self, account: &AccountId) -> u64;

    /// Sends a grant. Owes exactly one [`Renewer::answered`] with this account and id, also when the server never
    /// replies.
    fn redeem(&mut self, account: Arc<Account>, id: RenewalId, grant: Grant);

    /// Tells the server that a refresh token is not wanted any more. What comes of it is told to whoever waits.
    fn revoke(&mut self, account: Arc<Account>, refresh_token: Secret, reply: Option<RevokeReply>);

    /// Replaces what requests see of an account, and wakes those who wait.
    fn publish(&mut self, account: &AccountId, availability: Availability);

    /// The calendar at a point of the time line.
    fn calendar(&self, at: Timestamp) -> SystemTime;

    /// The point of the time line at a calendar's time.
    fn timestamp_of(&self, wall: SystemTime) -> Timestamp;
}

/// Where the outcome of a sign-out goes: a sentence for people.
pub type RevokeReply = tokio::sync::oneshot::Sender<Result<String, String>>;

/// Room on the disk is looked for this often after a save has failed.
const SAVE_AGAIN: Duration = Duration::from_secs(5);

/// At a start, one account's first renewal follows another's at this distance, unless a request wants it sooner.
const STAGGER: Duration = Duration::from_millis(100);

/// Whether the simulation has switched a protective measure off; never in the daemon.
macro_rules! off {
    ($renewer:expr, $measure:ident) => {{
        #[cfg(test)]
        let off = $renewer.off == Some(super::simulation::Measure::$measure);
        #[cfg(not(test))]
        let off = false;
        off
    }};
}

/// All accounts' machines and credentials.
pub struct Renewer<W> {
    /// The way out.
    pub world: W,
    desks: BTreeMap<AccountId, Desk>,
    seed: u64,
    is_stopping: bool,
    /// A measure that the simulation has switched off.
    #[cfg(test)]
    pub(super) off: Option<super::simulation::Measure>,
}

/// One account.
struct Desk {
    account: Arc<Account>,
    machine: Renewal,
    record: Option<Record>,
    /// Whether the disk has `record` as it stands here; if not, when to try again.
    unsaved: Option<Timestamp>,
    published: Option<Arc<Published>>,
    /// The header field of the answer at hand, between taking it and publishing it.
    at_hand: Option<(HeaderName, HeaderValue)>,
    /// What requests were told last, so that they are not woken for nothing.
    told: Option<Told>,
    last_success: Option<Timestamp>,
    last_failure: Option<LastFailure>,
    renewals: u64,
    token_requests: u64,
    /// Renewals whose answers are still under way, also those that nobody waits for any more.
    owed: Vec<(RenewalId, Arc<Account>)>,
    /// The settings have changed while an answer is owed: when it has come, everything starts over with them.
    starts_over: bool,
    /// The configuration no longer has it; it stays only until the answers that are owed have come.
    is_leaving: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Told {
    published: Option<RenewalId>,
    wished_for: Option<Timestamp>,
    phase: Phase,
}

impl<W: World> Renewer<W> {
    /// A renewer without accounts. `seed` spreads renewals; nothing secret hangs on it.
    pub fn new(world: W, seed: u64) -> Self {
        Self {
            world,
            desks: BTreeMap::new(),
            seed,
            is_stopping: false,
            #[cfg(test)]
            off: None,
        }
    }

    /// Takes over a configuration: at the start and at every reload. `load` reads a record from the disk, and is asked
    /// for new accounts only. An account keeps its token unless something changed that its safety hangs on.
    pub fn configure(
        &mut self,
        config: &Config,
        mut load: impl FnMut(&AccountId) -> Result<Option<Record>, String>,
        now: Timestamp,
    ) {
        for (id, desk) in &mut self.desks {
            desk.is_leaving = !config.accounts.contains_key(id);
        }
        self.part();
        let mut stagger = Duration::ZERO;
        for (id, account) in &config.accounts {
            // what could not be read may have been mended since, so it is read again
            if let Some(desk) = self.desks.get_mut(id).filter(|desk| !desk.is_unreadable()) {
                desk.told = None; // it may have left and come back: whoever asks now knows nothing yet
                let is_elsewhere = desk.record.as_ref().is_some_and(|record| !record.was_issued_to(account));
                let has_changed = Config::security_relevant_change(&desk.account, account)
                    || is_elsewhere
                    || desk.is_refused_for(Why::IssuedElsewhere)
                    || desk.is_refused_for(Why::ClientRefused);
                desk.account = Arc::new(account.clone());
                desk.machine.set_policy(account.renew);
                if !has_changed && !desk.is_stranded() {
                    self.tell(id, now, true);
                    continue;
                }
                info!(account = %id, "the account's server or client may have changed: starting over");
                if desk.awaits_an_answer() && !off!(self, OneGrant) {
                    // spent once more now, a refresh token that rotates would look stolen
                    desk.starts_over = true;
                    self.handle(id, Event::SettingsChanged, now);
                    continue;
                }
            } else {
                self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (record, error) = match load(id) {
                    Ok(record) => (record, None),
                    Err(error) => (None, Some(error)),
                };
                let mut desk = Desk::new(account.clone(), record, self.seed);
                if let Some(error) = error {
                    error!(account = %id, %error, "the stored credential cannot be used");
                    desk.last_failure = Some(LastFailure {
                        at: now,
                        id: RenewalId(0),
                        class: UNREADABLE,
                        oauth_error: None,
                        http_status: None,
                        detail: error,
                        attempt: 1,
                    });
                }
                #[cfg(test)]
                let desk = desk.with_fault(self.off);
                self.desks.insert(id.clone(), desk);
            }
            let Some(event) = self.first_event(id, stagger, now) else { continue };
            stagger += STAGGER;
            self.handle(id, event, now);
        }
    }

    /// Lets go of the accounts that the configuration no longer has, but of none too early: an answer that is owed may
    /// hold the only refresh token that still works, and so may a record that a full disk did not take.
    fn part(&mut self) {
        self.desks.retain(|_, desk| !desk.is_leaving || !desk.owed.is_empty() || desk.unsaved.is_some());
    }

    /// What an account's record means for its machine.
    fn first_event(&self, id: &AccountId, patience: Duration, now: Timestamp) -> Option<Event> {
        let desk = self.desks.get(id)?;
        let Some(record) = &desk.record else {
            let needs_nobody = desk.account.grant == GrantType::ClientCredentials;
            return Some(match needs_nobody {
                // nothing is kept of an account without a credential but what its machine has learnt so far
                true => Event::CredentialReplaced {
                    patience,
                    answer_lost: false,
                    refresh_expires_at: None,
                    learnt_life: desk.machine.snapshot().learnt_life,
                },
                false => Event::CredentialRemoved,
            });
        };
        if !record.was_issued_to(&desk.account) {
            let mut endpoints = desk.account.credential_endpoints();
            if let Some((key, endpoint)) = endpoints.find(|(_, endpoint)| !record.may_be_sent_to(&endpoint.origin)) {
                let (server, signed_in_to) = (&endpoint.origin, &record.issued_by);
                warn!(account = %id, %server, signed_in_to, "{key} is on a server that the sign-in did not name: take \
                    that back, or run `valetd login {id}`");
            }
            return Some(Event::CredentialRefused(Why::IssuedElsewhere));
        }
        match &record.set_aside {
            // the configuration may have been mended since: worth one question
            None | Some(SetAside { why: Why::ClientRefused, .. }) => {}
            Some(set_aside) => return Some(Event::CredentialRefused(set_aside.why)),
        }
        let refresh_expires_at = record.refresh_expires_at.map(|at| self.world.timestamp_of(from_unix(at)).max(now));
        let learnt_life = record.learnt_life.map(Duration::from_millis);
        Some(Event::CredentialReplaced { patience, answer_lost: record.redeeming, refresh_expires_at, learnt_life })
    }

    /// Takes note of what requests say. All that came since the last call are handed over together, so that a thousand
    /// wishes for one token are one.
    pub fn orders(&mut self, orders: impl IntoIterator<Item = Order>, now: Timestamp) {
        let mut asked: Vec<AccountId> = Vec::new();
        for order in orders {
            let (account, event, is_answered) = match order {
                Order::Wanted(account) => (account, Event::Wanted, true),
                Order::Rejected { account, id, worked, until } => {
                    (account, Event::Rejected { id, worked, until }, true)
                }
                Order::Replayed { account, refused, at, accepted } => {
                    (account, Event::Replayed { refused, at, accepted }, false)
                }
                Order::Worked { account, id, sent } => (account, Event::Worked { id, sent }, false),
            };
            self.handle(&account, event, now);
            self.keep_what_was_learnt(&account, now);
            if is_answered && !asked.contains(&account) {
                asked.push(account);
            }
        }
        for account in asked {
            self.tell(&account, now, true);
        }
    }

    /// What is known of tokens' lives is kept with the account, for the next process.
    fn keep_what_was_learnt(&mut self, id: &AccountId, now: Timestamp) {
        let Some(desk) = self.desks.get_mut(id).filter(|_| !self.is_stopping) else { return };
        let learnt = millis(desk.machine.snapshot().learnt_life);
        let Some(record) = desk.record.as_mut().filter(|record| record.learnt_life != learnt) else { return };
        record.learnt_life = learnt;
        match learnt.map(Duration::from_millis) {
            Some(life) => info!(account = %id, ?life, "learnt how long its tokens live"),
            None => info!(account = %id, "a token outlived what was learnt of their life"),
        }
        let _ = desk.save(&mut self.world, now);
    }

    /// Lets time pass: for every wakeup, and whenever anything suggests a look at the clock.
    pub fn tick(&mut self, now: Timestamp) {
        self.each(Event::Tick, now);
        for desk in self.desks.values_mut() {
            if desk.unsaved.is_some_and(|again| now >= again) {
                desk.catch_up(&mut self.world, now);
            }
        }
        self.part();
    }

    /// The machine has slept.
    pub fn resumed(&mut self, now: Timestamp) {
        self.each(Event::Resumed, now);
    }

    /// The network has changed.
    pub fn network_changed(&mut self, now: Timestamp) {
        self.each(Event::NetworkChanged, now);
    }

    fn each(&mut self, event: Event, now: Timestamp) {
        let ids: Vec<AccountId> = self.desks.keys().cloned().collect();
        for id in ids {
            self.handle(&id, event, now);
        }
    }

    /// A person asks for a renewal.
    ///
    /// # Errors
    ///
    /// Why there will be none, for people.
    pub fn refresh(&mut self, id: &AccountId, now: Timestamp) -> Result<(), String> {
        let desk = self.desks.get(id).ok_or_else(|| no_account(id))?;
        if let Phase::SignInRequired { why } = desk.machine.snapshot().phase {
            return Err(format!("{why}; run `valetd login {id}`"));
        }
        self.handle(id, Event::Asked, now);
        Ok(())
    }

    /// A person has signed in: saves the credential, then starts its first renewal.
    ///
    /// # Errors
    ///
    /// A sentence for people if it could not be saved; it is used all the same.
    pub fn replace(&mut self, id: &AccountId, new: NewCredential, now: Timestamp) -> Result<(), String> {
        let desk = self.desks.get_mut(id).ok_or_else(|| no_account(id))?;
        let today = unix(self.world.calendar(now));
        let generation = desk.record.as_ref().map_or(0, |record| record.generation);
        let generation = generation.max(self.world.saved_generation(id)) + 1;
        desk.starts_over = false;
        let last = desk.record.take();
        let mut record = Record::new(&desk.account, generation, new, today);
        // how long tokens live is the server's doing, whoever signs in
        let same_server = last.filter(|last| last.issued_by == record.issued_by && last.client_id == record.client_id);
        record.learnt_life = same_server.and_then(|last| last.learnt_life);
        desk.record = Some(record);
        let saved = desk.save(&mut self.world, now);
        info!(account = %id, generation, "signed in");
        if let Some(event) = self.first_event(id, Duration::ZERO, now) {
            self.handle(id, event, now);
        }
        saved
    }

    /// A person signs out: forgets at once, and tells the server. The reply comes when the server has answered.
    pub fn remove(&mut self, id: &AccountId, reply: RevokeReply, now: Timestamp) {
        let Some(desk) = self.desks.get_mut(id) else {
            let _ = reply.send(Err(no_account(id)));
            return;
        };
        let record = desk.record.take();
        desk.unsaved = None;
        desk.starts_over = false;
        let account = desk.account.clone();
        self.handle(id, Event::CredentialRemoved, now);
        let kept_from = record.as_ref().and_then(|record| record.not_to_be_revoked_at(&account));
        let refresh_token = record.and_then(|record| record.credential.refresh_token);
        let refresh_token = refresh_token.filter(|_| kept_from.is_none());
        if let Err(error) = self.world.remove(id) {
            warn!(account = %id, %error, "signed out, but the credential is still on the disk; removing it is tried again");
            if let Some(desk) = self.desks.get_mut(id) {
                desk.unsaved = Some(now + SAVE_AGAIN);
            }
            let words = match refresh_token {
                // dead at the server, it is no harm on the disk
                Some(refresh_token) => {
                    self.world.revoke(account, refresh_token, None);
                    format!("{error}; the server is told to revoke it all the same")
                }
                None => error,
            };
            let _ = reply.send(Err(words));
            return;
        }
        info!(account = %id, "signed out");
        match refresh_token {
            Some(refresh_token) => self.world.revoke(account, refresh_token, Some(reply)),
            None => {
                let words = match kept_from {
                    Some(because) => format!("forgotten here, but not revoked at the server: {because}"),
                    None => "there was no refresh token to revoke".to_owned(),
                };
                let _ = reply.send(Ok(words));
            }
        }
    }

    /// The one answer that [`World::redeem`] owes.
    pub fn answered(
        &mut self,
        id: &AccountId,
        renewal: RenewalId,
        answer: Result<Tokens, GrantFailure>,
        now: Timestamp,
    ) {
        let Some(desk) = self.desks.get_mut(id) else { return };
        let is_owed = desk.owed.iter().position(|(id, _)| *id == renewal);
        let is_awaited = desk.machine.snapshot().phase == (Phase::InFlight { id: renewal }) || off!(self, IdCheck);
        let asked = match is_owed {
            Some(position) => desk.owed.swap_remove(position).1,
            None if off!(self, IdCheck) => desk.account.clone(),
            None => return,
        };
        desk.token_requests += 1;
        match answer {
            answer if is_awaited && desk.starts_over => self.start_over(id, renewal, answer, now),
            Ok(tokens) if is_awaited => self.renewed(id, renewal, tokens, now),
            Err(failure) if is_awaited => self.failed(id, renewal, failure, now),
            // somebody signed out while it was under way: what it brought must not live on unknown, at the server that
            // gave it, which may not be the configured one any more
            Ok(Tokens { refresh_token: Some(refresh_token), .. }) if desk.record.is_none() => {
                self.world.revoke(asked, refresh_token, None);
            }
            Ok(_) | Err(_) => {}
        }
        self.part();
    }

    /// The settings changed while this answer was under way: what it says of the credential is kept, and the next token
    /// is asked for with the new ones.
    fn start_over(&mut self, id: &AccountId, renewal: RenewalId, answer: Result<Tokens, GrantFailure>, now: Timestamp) {
        let Some(desk) = self.desks.get_mut(id) else { return };
        desk.starts_over = false;
        match answer {
            Ok(tokens) => {
                desk.take_credential(tokens, self.world.calendar(now));
            }
            Err(failure) => {
                let may_be_lost = failure.failure == Failure::Ambiguous || desk.machine.may_have_lost_an_answer();
                desk.note_failure(renewal, failure, now);
                if let Some(record) = &mut desk.record {
                    record.redeeming = may_be_lost;
                }
            }
        }
        let _ = desk.save(&mut self.world, now);
        if let Some(event) = self.first_event(id, Duration::ZERO, now) {
            self.handle(id, event, now);
        }
    }

    fn renewed(&mut self, id: &AccountId, renewal: RenewalId, tokens: Tokens, now: Timestamp) {
        let Some(desk) = self.desks.get_mut(id) else { return };
        let (mut lifetime, refresh_lifetime) = (tokens.lifetime, tokens.refresh_lifetime);
        let header = desk.header(&tokens);
        if let Err(detail) = &header {
            // what it rotated must be saved all the same: to the machine it is a token without life
            lifetime = Some(Duration::ZERO);
            let failure = Failure::Transient { retry_after: None };
            let failure = GrantFailure { failure, oauth_error: None, http_status: None, detail: detail.clone() };
            desk.note_failure(renewal, failure, now);
            warn!(account = %id, error = %detail, "the answer to the renewal cannot be used");
        }
        let rotated = desk.take_credential(tokens, self.world.calendar(now));
        desk.at_hand = header.ok();
        let is_usable = desk.at_hand.is_some();
        self.handle(id, Event::Renewed { id: renewal, lifetime, rotated, refresh_lifetime }, now);
        let Some(desk) = self.desks.get_mut(id) else { return };
        desk.at_hand = None;
        if is_usable {
            desk.renewals += 1;
            desk.last_success = Some(now);
        }
        let snapshot = desk.machine.snapshot();
        let (expected_death, learnt_life) = (snapshot.refresh_expires_at, millis(snapshot.learnt_life));
        if let Some(record) = &mut desk.record {
            record.refresh_expires_at = expected_death.map(|at| unix(self.world.calendar(at)));
            record.learnt_life = learnt_life;
            if !rotated {
                let _ = desk.save(&mut self.world, now); // the note that it was being redeemed is done with
            }
        }
    }

    fn failed(&mut self, id: &AccountId, renewal: RenewalId, failure: GrantFailure, now: Timestamp) {
        let Some(desk) = self.desks.get_mut(id) else { return };
        let GrantFailure { failure: verdict, oauth_error, http_status: _, detail } = failure.clone();
        desk.note_failure(renewal, failure, now);
        let has_password = desk.record.as_ref().is_some_and(|record| record.credential.password.is_some());
        if verdict == Failure::Permanent(Why::Revoked) && has_password && desk.drop_refresh_token() {
            // the kept password signs in again, within the same renewal
            info!(account = %id, "the refresh token was refused; signing in again with the kept password");
            self.redeem(id, renewal, now);
            return;
        }
        if let Some(record) = &mut desk.record {
            // a later answer that is no verdict does not bring the lost one back
            record.redeeming = verdict == Failure::Ambiguous || desk.machine.may_have_lost_an_answer();
            if let Failure::Permanent(why) = verdict {
                record.set_aside = Some(SetAside { why, at: unix(self.world.calendar(now)), oauth_error });
            }
        }
        self.handle(id, Event::Failed { id: renewal, failure: verdict }, now);
        let Some(desk) = self.desks.get_mut(id) else { return };
        if desk.record.is_some() && !matches!(verdict, Failure::Permanent(_)) {
            let _ = desk.save(&mut self.world, now);
        }
        let snapshot = desk.machine.snapshot();
        match snapshot.phase {
            Phase::SignInRequired { why } => {
                error!(account = %id, error = %detail, %why, "a person must sign in: run `valetd login {id}`");
            }
            _ if snapshot.published.is_some() => {
                warn!(account = %id, error = %detail, "renewal failed; the current token is still usable");
            }
            _ => warn!(account = %id, error = %detail, "renewal failed; no usable token"),
        }
    }

    /// Hands an event to a machine and does what it says, in order.
    fn handle(&mut self, id: &AccountId, event: Event, now: Timestamp) {
        let Some(desk) = self.desks.get_mut(id) else { return };
        if self.is_stopping && !matches!(event, Event::Renewed { .. } | Event::Failed { .. }) {
            return;
        }
        let actions = desk.machine.handle(event, now);
        for action in actions {
            let Some(desk) = self.desks.get_mut(id) else { return };
            match action {
                Action::Renew(renewal) => self.redeem(id, renewal, now),
                Action::SaveRefreshToken => {
                    if off!(self, SaveBeforePublish) {
                        self.tell(id, now, false);
                    }
                    let Some(desk) = self.desks.get_mut(id) else { return };
                    let _ = desk.save(&mut self.world, now);
                }
                Action::SetAside(why) => {
                    if let Some(set_aside) = desk.record.as_mut().and_then(|record| record.set_aside.as_mut()) {
                        set_aside.why = why; // the machine knows better: an answer may have been lost
                    }
                    let _ = desk.save(&mut self.world, now);
                }
                Action::Publish { id: renewal, usable_until, outlived_from } => {
                    let header = desk.at_hand.take();
                    desk.published = header.map(|header| {
                        info!(account = %id, usable_for = ?usable_until.since(now), "renewed");
                        Arc::new(Published::new(renewal, header, usable_until, outlived_from))
                    });
                }
                Action::Withdraw => desk.published = None,
            }
        }
        self.tell(id, now, false);
    }

    /// Notes that the credential is about to be spent, and spends it.
    fn redeem(&mut self, id: &AccountId, renewal: RenewalId, now: Timestamp) {
        let Some(desk) = self.desks.get_mut(id) else { return };
        if self.is_stopping || desk.is_leaving {
            return;
        }
        if let Some(record) = &mut desk.record {
            record.note_servers(&desk.account);
        }
        let grant = desk.grant();
        if matches!(grant, Grant::RefreshToken(_))
            && !off!(self, NoteBeforeUse)
            && let Some(record) = &mut desk.record
        {
            record.redeeming = true;
            let _ = desk.save(&mut self.world, now);
        }
        desk.owed.push((renewal, desk.account.clone()));
        self.world.redeem(desk.account.clone(), renewal, grant);
    }

    /// Tells requests how the account stands, if that has changed or somebody has asked.
    fn tell(&mut self, id: &AccountId, now: Timestamp, is_asked: bool) {
        let Some(desk) = self.desks.get_mut(id) else { return };
        let snapshot = desk.machine.snapshot();
        let wished_for = desk.machine.wished_for(now);
        let published = desk.published.as_ref().map(|token| token.id);
        let told = Told { published, wished_for, phase: snapshot.phase };
        if desk.told == Some(told) && !is_asked {
            return;
        }
        desk.told = Some(told);
        let availability = match (&desk.published, snapshot.phase) {
            (Some(token), _) => Availability::Usable { token: token.clone(), wished_for },
            (None, Phase::SignInRequired { why }) => Availability::SignInRequired { why },
            (None, phase) => {
                let retry_at = match phase {
                    Phase::Scheduled { at } => Some(at),
                    Phase::InFlight { .. } | Phase::SignInRequired { .. } => None,
                };
                let because = desk.last_failure.as_ref().map(|failure| failure.detail.as_str().into());
                Availability::Waiting { retry_at, because }
            }
        };
        self.world.publish(id, availability);
    }

    /// Starts nothing any more; answers that are owed are still taken. What a full disk did not take is offered to it
    /// once more.
    pub fn stop(&mut self, now: Timestamp) {
        self.is_stopping = true;
        for desk in self.desks.values_mut().filter(|desk| desk.unsaved.is_some()) {
            desk.catch_up(&mut self.world, now);
        }
    }

    /// What the simulation's observer sees of an account: the machine, and whether the disk is said to have it all.
    #[cfg(test)]
    pub(super) fn observed(&self, id: &AccountId) -> Option<(crate::renewal::AccountSnapshot, bool)> {
        self.desks.get(id).map(|desk| (desk.machine.snapshot(), desk.unsaved.is_none()))
    }

    /// When [`Renewer::tick`] should be called next.
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        let machines = self.desks.values().filter_map(|desk| desk.machine.next_wakeup()).map(|(at, _)| at);
        let saves = self.desks.values().filter_map(|desk| desk.unsaved);
        machines.chain(saves).min()
    }

    /// All accounts as they stand, in the order of their names.
    pub fn views(&self) -> Vec<AccountView> {
        self.desks.values().filter(|desk| !desk.is_leaving).map(Desk::view).collect()
    }
}

impl Desk {
    fn new(account: Account, record: Option<Record>, seed: u64) -> Self {
        Self {
            machine: Renewal::new(account.renew, seed),
            account: Arc::new(account),
            record,
            unsaved: None,
            published: None,
            at_hand: None,
            told: None,
            last_success: None,
            last_failure: None,
            renewals: 0,
            token_requests: 0,
            owed: Vec::new(),
            starts_over: false,
            is_leaving: false,
        }
    }

    #[cfg(test)]
    fn with_fault(mut self, off: Option<super::simulation::Measure>) -> Self {
        self.machine.fault = off.and_then(super::simulation::Measure::fault);
        self
    }

    /// Whether nothing more is tried for this reason, which a change of the configuration may have mended.
    fn is_refused_for(&self, reason: Why) -> bool {
        self.machine.snapshot().phase == Phase::SignInRequired { why: reason }
    }

    /// What is on the disk could not be used when it was looked at, and nobody has signed in since.
    fn is_unreadable(&self) -> bool {
        self.record.is_none() && self.last_failure.as_ref().is_some_and(|failure| failure.class == UNREADABLE)
    }

    /// Whether the answer to the machine's renewal is under way.
    fn awaits_an_answer(&self) -> bool {
        matches!(self.machine.snapshot().phase, Phase::InFlight { id } if self.owed.iter().any(|(owed, _)| *owed == id))
    }

    /// Whether the machine waits for an answer that nobody owes: its renewal began while the account was leaving the
    /// configuration, and was not sent.
    fn is_stranded(&self) -> bool {
        matches!(self.machine.snapshot().phase, Phase::InFlight { .. }) && !self.awaits_an_answer()
    }

    /// What is presented to the authorization server this time, taken out of the credential.
    fn grant(&self) -> Grant {
        let credential = self.record.as_ref().map(|record| record.credential.clone()).unwrap_or_default();
        match (self.account.grant, credential) {
            (GrantType::ClientCredentials, _) => Grant::ClientCredentials,
            (GrantType::Password, Credential { password: Some((username, password)), .. }) => {
                Grant::Password { username, password }
            }
            (_, Credential { refresh_token: Some(refresh_token), .. }) => Grant::RefreshToken(refresh_token),
            (_, Credential { password: Some((username, password)), .. }) => Grant::Password { username, password },
            (_, Credential { refresh_token: None, password: None }) => Grant::ClientCredentials,
        }
    }

    /// The header field for the token that the account's template names.
    fn header(&self, tokens: &Tokens) -> Result<(HeaderName, HeaderValue), String> {
        let template = &self.account.header;
        let (token, name) = match template.token {
            TokenKind::AccessToken => (&tokens.access_token, "access_token"),
            TokenKind::IdToken => (&tokens.id_token, "id_token"),
        };
        let token = token.as_ref().ok_or_else(|| format!("the answer holds no {name}, which `header` asks for"))?;
        let text = format!("{}{}{}", template.before, token.expose(), template.after);
        let mut value =
            HeaderValue::try_from(text).map_err(|_| format!("the {name} cannot stand in a header field"))?;
        value.set_sensitive(true);
        let field = HeaderName::try_from(template.name.as_str()).map_err(|_| "`header` has no valid field name")?;
        Ok((field, value))
    }

    /// Takes what an answer says of the credential into the record. Returns whether the refresh token is a new one.
    fn take_credential(&mut self, tokens: Tokens, today: SystemTime) -> bool {
        let identity =
            tokens.id_token.as_ref().and_then(|token| jwt::claims(token.expose())).and_then(|claims| claims.identity);
        let Some(record) = &mut self.record else { return false };
        record.redeeming = false;
        record.set_aside = None;
        if record.identity.is_some() && identity.is_some() && record.identity != identity {
            // The server says whose token this is. It was given for our refresh token, so requests go on; that it is
            // somebody else's now must not go unnoticed.
            let [was, is] = [&record.identity, &identity].map(|who| who.as_deref().unwrap_or_default());
            warn!(account = %record.account, was, is, "the server now answers for another identity");
        }
        record.identity = identity.or(record.identity.take());
        match tokens.refresh_token {
            Some(new) if record.credential.refresh_token.as_ref() != Some(&new) => {
                record.credential.refresh_token = Some(new);
                record.generation += 1;
                record.received_at = unix(today);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Gives up the refresh token for the kept password. Returns whether there was one to give up.
    fn drop_refresh_token(&mut self) -> bool {
        self.record.as_mut().is_some_and(|record| record.credential.refresh_token.take().is_some())
    }

    /// Brings the disk to what is at hand, after that has failed.
    fn catch_up(&mut self, world: &mut impl World, now: Timestamp) {
        if self.record.is_some() {
            let _ = self.save(world, now);
        } else {
            let removed = world.remove(&self.account.id);
            self.unsaved = removed.is_err().then_some(now + SAVE_AGAIN);
        }
    }

    fn save(&mut self, world: &mut impl World, now: Timestamp) -> Result<(), String> {
        let Some(record) = &self.record else { return Ok(()) };
        let saved = world.save(record);
        match &saved {
            Ok(()) if self.unsaved.take().is_some() => info!(account = %record.account, "saved at last"),
            Ok(()) => {}
            Err(error) => {
                if self.unsaved.is_none() {
                    error!(account = %record.account, %error, "the credential is not saved; signed in until the daemon ends");
                }
                self.unsaved = Some(now + SAVE_AGAIN);
            }
        }
        saved
    }

    fn note_failure(&mut self, id: RenewalId, failure: GrantFailure, at: Timestamp) {
        let GrantFailure { failure, oauth_error, http_status, detail } = failure;
        let class = match failure {
            Failure::Transient { .. } => "transient",
            Failure::Ambiguous => "ambiguous",
            Failure::Permanent(_) => "permanent",
        };
        let attempt = self.machine.snapshot().failures + 1;
        self.last_failure = Some(LastFailure { at, id, class, oauth_error, http_status, detail, attempt });
    }

    fn view(&self) -> AccountView {
        AccountView {
            id: self.account.id.clone(),
            provider: self.account.provider.clone(),
            description: self.account.description.clone(),
            snapshot: self.machine.snapshot(),
            stored: self.record.as_ref().map(|record| Stored {
                generation: record.generation,
                fingerprint: record.credential.refresh_token.as_ref().map(Secret::fingerprint).unwrap_or_default(),
                saved: self.unsaved.is_none(),
                identity: record.identity.clone(),
            }),
            last_success: self.last_success,
            last_failure: self.last_failure.clone(),
            renewals: self.renewals,
            token_requests: self.token_requests,
        }
    }
}

fn no_account(id: &AccountId) -> String {
    format!("there is no account named \"{id}\" in the configuration")
}

fn millis(span: Option<Duration>) -> Option<u64> {
    span.map(|span| span.as_millis().try_into().unwrap_or(u64::MAX))
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn from_unix(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A world that writes down what it is told.
    #[derive(Default)]
    struct Diary {
        lines: Vec<String>,
        is_disk_full: bool,
        generation: u64,
        replies: Vec<RevokeReply>,
        revoked_at: Vec<Option<String>>,
    }

    impl World for Diary {
        fn save(&mut self, record: &Record) -> Result<(), String> {
            let token = record.credential.refresh_token.as_ref().map_or("none", Secret::expose);
            let note = if record.redeeming { " being redeemed" } else { "" };
            let verdict = record.set_aside.as_ref().map(|s| format!(" set aside: {:?}", s.why)).unwrap_or_default();
            let learnt = record.learnt_life.map(|life| format!(" learnt {life} ms")).unwrap_or_default();
            self.lines.push(format!("save {} {token}{note}{verdict}{learnt}", record.generation));
            if self.is_disk_full {
                return Err("no space left on device".into());
            }
            self.generation = record.generation;
            Ok(())
        }

        fn remove(&mut self, _: &AccountId) -> Result<(), String> {
            self.lines.push("remove".into());
            if self.is_disk_full {
                return Err("input/output error".into());
            }
            self.generation = 0;
            Ok(())
        }

        fn saved_generation(&self, _: &AccountId) -> u64 {
            self.generation
        }

        fn redeem(&mut self, _: Arc<Account>, id: RenewalId, grant: Grant) {
            let what = match &grant {
                Grant::RefreshToken(token) => token.expose().to_owned(),
                Grant::Password { username, .. } => format!("the password of {username}"),
                Grant::ClientCredentials => "nothing".to_owned(),
                Grant::AuthorizationCode { .. } => unreachable!("no renewal has a code"),
            };
            self.lines.push(format!("redeem {} {what}", id.0));
        }

        fn revoke(&mut self, account: Arc<Account>, refresh_token: Secret, reply: Option<RevokeReply>) {
            self.revoked_at.push(account.revocation_endpoint.as_ref().map(ToString::to_string));
            self.lines.push(format!("revoke {}", refresh_token.expose()));
            self.replies.extend(reply);
        }

        fn publish(&mut self, _: &AccountId, availability: Availability) {
            self.lines.push(match availability {
                Availability::Usable { token, wished_for } => {
                    let value = token.value.to_str().expect("visible").to_owned();
                    assert!(token.value.is_sensitive());
                    format!("publish {value}{}", if wished_for.is_some() { " (renewing)" } else { "" })
                }
                Availability::Waiting { retry_at: None, .. } => "publish wait".into(),
                Availability::Waiting { retry_at: Some(_), .. } => "publish wait for a retry".into(),
                Availability::SignInRequired { why } => format!("publish {why:?}"),
                Availability::Ended => unreachable!("only a reload ends a source"),
            });
        }

        fn calendar(&self, at: Timestamp) -> SystemTime {
            UNIX_EPOCH + Duration::from_millis(at.as_millis())
        }

        fn timestamp_of(&self, wall: SystemTime) -> Timestamp {
            Timestamp::from_millis(wall.duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64)
        }
    }

    const T0: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn lab() -> AccountId {
        AccountId::new("lab").expect("a name")
    }

    fn parsed(text: &str) -> Config {
        crate::config::tests_support::parse_with(text, &[]).config
    }

    fn config() -> Config {
        parsed(
            "[account.lab]\ntoken_endpoint = \"https://auth.lab.example/token\"\nclient_id = \"valetd\"\n\
             grant = \"refresh_token\"\nheader = \"Authorization: Bearer {access_token}\"\nupstream = \"https://api.lab.example\"\n",
        )
    }

    fn signed_in(token: &str) -> NewCredential {
        NewCredential {
            credential: Credential { refresh_token: Some(Secret::new(token)), password: None },
            client_id: None,
            refresh_lifetime: None,
            identity: None,
            servers: None,
        }
    }

    /// A renewer whose first renewal, with refresh token `r1`, is under way.
    fn started() -> Renewer<Diary> {
        let mut renewer = Renewer::new(Diary::default(), 7);
        renewer.configure(&config(), |_| Ok(None), T0);
        renewer.replace(&lab(), signed_in("r1"), T0).expect("saved");
        let lines = std::mem::take(&mut renewer.world.lines);
        let expected = ["publish NotSignedIn", "save 1 r1", "save 1 r1 being redeemed", "redeem 1 r1", "publish wait"];
        assert_eq!(lines, expected);
        renewer
    }

    fn tokens(access: &str, refresh: Option<&str>) -> Result<Tokens, GrantFailure> {
        Ok(Tokens {
            access_token: Some(Secret::new(access)),
            refresh_token: refresh.map(Secret::new),
            lifetime: Some(HOUR),
            ..Tokens::default()
        })
    }

    fn refused() -> Result<Tokens, GrantFailure> {
        Err(GrantFailure {
            failure: Failure::Permanent(Why::Revoked),
            oauth_error: Some("invalid_grant".into()),
            http_status: Some(400),
            detail: "auth.lab.example answered 400 invalid_grant".into(),
        })
    }

    fn lost() -> Result<Tokens, GrantFailure> {
        let detail = "the connection was reset".to_owned();
        Err(GrantFailure { failure: Failure::Ambiguous, oauth_error: None, http_status: None, detail })
    }

    #[test]
    fn a_rotated_refresh_token_is_on_the_disk_before_its_grant_is_published() {
        let mut renewer = started();
        renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
        assert_eq!(renewer.world.lines, ["save 2 r2", "publish Bearer a1"]);
    }

    #[test]
    fn a_full_disk_costs_no_request_and_is_tried_again() {
        let mut renewer = started();
        renewer.world.is_disk_full = true;
        renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
        assert_eq!(renewer.world.lines, ["save 2 r2", "publish Bearer a1"]);
        assert!(!renewer.views()[0].stored.as_ref().expect("stored").saved);
        assert_eq!(renewer.next_wakeup(), Some(T0 + SAVE_AGAIN));
        renewer.world.is_disk_full = false;
        renewer.tick(T0 + SAVE_AGAIN);
        assert_eq!(renewer.world.lines[2..], ["save 2 r2"]);
        assert!(renewer.views()[0].stored.as_ref().expect("stored").saved);
    }

    #[test]
    fn a_refusal_after_a_lost_answer_is_kept_as_ambiguous() {
        let mut renewer = started();
        renewer.answered(&lab(), RenewalId(1), lost(), T0);
        renewer.tick(T0 + Duration::from_secs(1));
        renewer.world.lines.clear();
        renewer.answered(&lab(), RenewalId(2), refused(), T0 + Duration::from_secs(2));
        assert_eq!(renewer.world.lines, ["save 1 r1 being redeemed set aside: Ambiguous", "publish Ambiguous"]);
    }

    #[test]
    fn a_restart_in_the_middle_of_a_renewal_knows_that_an_answer_may_be_lost() {
        let mut record = Record::new(&config().accounts[&lab()], 1, signed_in("r1"), 0);
        record.redeeming = true;
        let mut renewer = Renewer::new(Diary::default(), 7);
        renewer.configure(&config(), |_| Ok(Some(record.clone())), T0);
        renewer.answered(&lab(), RenewalId(1), refused(), T0);
        assert_eq!(renewer.world.lines.last().expect("a line"), "publish Ambiguous");
    }

    #[test]
    fn a_credential_is_never_sent_to_another_server_than_the_one_that_issued_it() {
        let mut record = Record::new(&config().accounts[&lab()], 1, signed_in("r1"), 0);
        record.issued_by = "https://evil.example".into();
        let mut renewer = Renewer::new(Diary::default(), 7);
        renewer.configure(&config(), |_| Ok(Some(record.clone())), T0);
        renewer.orders([Order::Wanted(lab())], T0);
        renewer.tick(T0 + HOUR);
        assert!(renewer.world.lines.iter().all(|line| line == "publish IssuedElsewhere"), "{:?}", renewer.world.lines);
    }

    fn with_endpoints(more: &str) -> Config {
        let text = "[account.lab]\ntoken_endpoint = \"https://auth.lab.example/token\"\nclient_id = \"valetd\"\n\
            upstream = \"https://api.lab.example\"\n";
        parsed(&format!("{text}{more}"))
    }

    #[test]
    fn an_endpoint_on_another_origin_gets_nothing_and_going_back_works_again() {
        let cognito =
            |at: &str| with_endpoints(&format!("grant = \"cognito_initiate_auth\"\ncognito_endpoint = \"{at}\"\n"));
        let revocation = |at: &str| with_endpoints(&format!("revocation_endpoint = \"{at}\"\n"));
        let (own, other) = ("https://auth.lab.example/cognito", "https://cognito.lab.example/");
        let rows = [
            ("another host", cognito(other), cognito("https://evil.example/"), true),
            ("another port", cognito(other), cognito("https://cognito.lab.example:444/"), true),
            ("a host that ends alike", cognito(other), cognito("https://cognito.lab.example.evil.example/"), true),
            ("another path", cognito(other), cognito("https://cognito.lab.example/v2"), false),
            ("the token endpoint's origin", cognito(other), cognito(own), false),
            ("where there was none", config(), revocation("https://evil.example/revoke"), true),
            ("where there was none, but on the same origin", config(), revocation("https://auth.lab.example/r"), false),
            (
                "the revocation elsewhere",
                revocation("https://auth.lab.example/r"),
                revocation("https://x.example/"),
                true,
            ),
        ];
        for (case, before, after, needs_sign_in) in rows {
            let mut renewer = Renewer::new(Diary::default(), 7);
            renewer.configure(&before, |_| Ok(None), T0);
            renewer.replace(&lab(), signed_in("r1"), T0).expect("saved");
            renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
            renewer.world.lines.clear();
            renewer.configure(&after, |_| Ok(None), T0);
            renewer.orders([Order::Wanted(lab())], T0);
            renewer.tick(T0 + HOUR);
            let lines = &renewer.world.lines;
            let refused = lines.iter().all(|line| line == "publish IssuedElsewhere");
            assert_eq!(refused, needs_sign_in, "{case}: {lines:?}");
            if needs_sign_in {
                renewer.configure(&before, |_| Ok(None), T0 + HOUR);
                renewer.tick(T0 + 2 * HOUR);
                let lines = &renewer.world.lines;
                assert!(
                    lines.iter().any(|line| line.starts_with("redeem") && line.ends_with("r2")),
                    "{case}: {lines:?}"
                );
            }
        }
    }

    #[test]
    fn a_renewal_under_way_while_an_endpoint_moves_is_the_last() {
        let mut renewer = started();
        let moved = with_endpoints("revocation_endpoint = \"https://evil.example/revoke\"\n");
        renewer.configure(&moved, |_| Ok(None), T0);
        renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
        renewer.tick(T0 + HOUR);
        let lines = &renewer.world.lines;
        assert!(lines.contains(&"save 2 r2".to_owned()), "what it brought is kept: {lines:?}");
        assert_eq!(lines.last().expect("a line"), "publish IssuedElsewhere", "{lines:?}");
        assert!(!lines.iter().any(|line| line.contains("Bearer") || line.starts_with("redeem")), "{lines:?}");
    }

    #[test]
    fn a_sign_out_tells_a_server_of_before_and_no_other() {
        let mut renewer = started();
        let moved = with_endpoints("revocation_endpoint = \"https://evil.example/revoke\"\n");
        renewer.configure(&moved, |_| Ok(None), T0);
        let (reply, mut answer) = tokio::sync::oneshot::channel();
        renewer.remove(&lab(), reply, T0);
        let words = answer.try_recv().expect("answered").expect("signed out");
        assert!(words.contains("not revoked") && words.contains("https://evil.example"), "{words}");
        renewer.world.revoked_at.clear();
        renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
        assert_eq!(renewer.world.revoked_at, [None], "where the account had nowhere to revoke");
        assert!(!renewer.world.lines.contains(&"revoke r1".to_owned()));
    }

    #[test]
    fn a_sign_in_that_was_made_at_another_server_is_kept_and_not_used() {
        let mut renewer = Renewer::new(Diary::default(), 7);
        renewer.configure(&with_endpoints("revocation_endpoint = \"https://new.example/r\"\n"), |_| Ok(None), T0);
        let servers = Some(crate::store::Servers::of(&config().accounts[&lab()]));
        renewer.replace(&lab(), NewCredential { servers, ..signed_in("r1") }, T0).expect("saved");
        assert_eq!(renewer.world.lines.last().expect("a line"), "publish IssuedElsewhere");
        renewer.configure(&config(), |_| Ok(None), T0);
        assert!(renewer.world.lines.contains(&"redeem 1 r1".to_owned()), "{:?}", renewer.world.lines);
    }

    #[test]
    fn a_record_of_before_counts_as_bound_to_its_token_endpoint_and_to_what_its_preset_ships_with() {
        let gdh = AccountId::new("gdh").expect("a name");
        let preset = |more: &str| parsed(&format!("[account.gdh]\nprovider = \"gdh\"\n{more}"));
        let mut record = Record::new(&preset("").accounts[&gdh], 1, signed_in("r1"), 0);
        assert_eq!(record.others.as_deref(), Some(&["https://cognito-idp.eu-west-1.amazonaws.com".to_owned()][..]));
        record.others = None;
        assert!(record.was_issued_to(&preset("").accounts[&gdh]));
        let moved = preset("cognito_endpoint = \"https://cognito-idp.us-east-1.amazonaws.com/\"\n");
        assert!(!record.was_issued_to(&moved.accounts[&gdh]));
        let own = with_endpoints(
            "grant = \"cognito_initiate_auth\"\ncognito_endpoint = \"https://cognito-idp.eu-west-1.amazonaws.com/\"\n",
        );
        let mut record = Record::new(&own.accounts[&lab()], 1, signed_in("r1"), 0);
        record.others = None;
        assert!(!record.was_issued_to(&own.accounts[&lab()]), "no preset's token endpoint");
        record.note_servers(&own.accounts[&lab()]);
        assert_eq!(record.others, None, "what was not issued to an account is not bound to it");
        record.note_servers(&config().accounts[&lab()]);
        assert_eq!(record.others, Some(Vec::new()));
    }

    #[test]
    fn signing_out_during_a_renewal_forgets_at_once_and_revokes_what_comes_back() {
        let mut renewer = started();
        let (reply, _answer) = tokio::sync::oneshot::channel();
        renewer.remove(&lab(), reply, T0);
        assert_eq!(renewer.world.lines, ["publish NotSignedIn", "remove", "revoke r1"]);
        renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
        assert_eq!(renewer.world.lines[3..], ["revoke r2"]);
    }

    #[test]
    fn a_sign_in_during_a_renewal_wins_over_the_answer_that_is_still_owed() {
        let mut renewer = started();
        renewer.replace(&lab(), signed_in("n1"), T0).expect("saved");
        renewer.world.lines.clear();
        renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
        assert_eq!(renewer.world.lines, [] as [&str; 0]);
        renewer.answered(&lab(), RenewalId(2), tokens("a2", Some("n2")), T0);
        assert_eq!(renewer.world.lines, ["save 3 n2", "publish Bearer a2"]);
    }

    #[test]
    fn an_account_that_leaves_the_configuration_waits_for_the_answer_that_is_owed() {
        let mut renewer = started();
        renewer.configure(&parsed(""), |_| Ok(None), T0);
        assert!(renewer.views().is_empty());
        renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
        assert_eq!(renewer.world.lines[0], "save 2 r2");
        assert_eq!(renewer.next_wakeup(), None);
    }

    #[test]
    fn a_reload_during_a_renewal_does_not_spend_the_refresh_token_twice() {
        let mut renewer = started();
        renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
        renewer.tick(T0 + HOUR - Duration::from_secs(200));
        renewer.world.lines.clear();
        let mut changed = config();
        changed.accounts.get_mut(&lab()).expect("it is there").scopes.push("more".into());
        let later = T0 + HOUR - Duration::from_secs(199);
        renewer.configure(&changed, |_| Ok(None), later);
        assert_eq!(renewer.world.lines, ["publish wait"], "the old scopes' token is not used any more");
        renewer.answered(&lab(), RenewalId(2), tokens("a2", Some("r3")), later);
        let expected = ["save 3 r3", "save 3 r3 being redeemed", "redeem 3 r3", "publish wait"];
        assert_eq!(renewer.world.lines[1..], expected, "and the answer's is not either");
        renewer.answered(&lab(), RenewalId(3), tokens("a3", Some("r4")), later);
        assert_eq!(renewer.world.lines[5..], ["save 4 r4", "publish Bearer a3"]);
    }

    #[test]
    fn an_answer_that_is_no_verdict_does_not_make_a_lost_one_forgotten() {
        let mut renewer = started();
        renewer.answered(&lab(), RenewalId(1), lost(), T0);
        renewer.tick(T0 + Duration::from_secs(1));
        renewer.world.lines.clear();
        let failure = Failure::Transient { retry_after: None };
        let busy = GrantFailure { failure, oauth_error: None, http_status: Some(503), detail: "busy".into() };
        renewer.answered(&lab(), RenewalId(2), Err(busy), T0 + Duration::from_secs(2));
        assert_eq!(renewer.world.lines.last().expect("a line"), "save 1 r1 being redeemed");
    }

    #[test]
    fn an_account_that_leaves_with_an_unsaved_credential_and_comes_back_still_has_it() {
        let mut renewer = started();
        renewer.world.is_disk_full = true;
        renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
        renewer.configure(&parsed(""), |_| Ok(None), T0);
        renewer.world.is_disk_full = false;
        renewer.world.lines.clear();
        renewer.configure(&config(), |_| panic!("it is still at hand"), T0);
        assert_eq!(renewer.world.lines, ["publish Bearer a1"], "the new listener is told at once");
        renewer.tick(T0 + SAVE_AGAIN);
        assert_eq!(renewer.world.lines[1..], ["save 2 r2"]);
        renewer.configure(&parsed(""), |_| Ok(None), T0);
        assert_eq!(renewer.next_wakeup(), None, "what is saved may go");
    }

    #[test]
    fn an_account_that_comes_back_never_waits_for_an_answer_that_nobody_owes() {
        let mut renewer = started();
        renewer.replace(&lab(), signed_in("n1"), T0).expect("saved"); // renewal 2; the answer to 1 is still under way
        renewer.configure(&parsed(""), |_| Ok(None), T0);
        renewer.answered(&lab(), RenewalId(2), lost(), T0);
        renewer.tick(T0 + HOUR); // would be tried again now, but the account is leaving
        renewer.world.lines.clear();
        renewer.configure(&config(), |_| Ok(None), T0 + HOUR);
        assert!(renewer.world.lines.iter().any(|line| line.starts_with("redeem")), "{:?}", renewer.world.lines);
    }

    #[test]
    fn an_answer_to_a_forgotten_sign_in_is_not_taken_for_one_of_its_successor() {
        let mut renewer = started();
        let (reply, _answer) = tokio::sync::oneshot::channel();
        renewer.remove(&lab(), reply, T0);
        renewer.configure(&parsed(""), |_| Ok(None), T0);
        renewer.configure(&config(), |_| Ok(None), T0);
        renewer.replace(&lab(), signed_in("n1"), T0).expect("saved");
        renewer.world.lines.clear();
        renewer.answered(&lab(), RenewalId(1), tokens("a1", None), T0);
        assert_eq!(renewer.world.lines, [] as [&str; 0]);
        renewer.answered(&lab(), RenewalId(2), tokens("a2", None), T0);
        assert_eq!(renewer.world.lines[0], "publish Bearer a2");
    }

    #[test]
    fn a_sign_out_that_the_disk_refuses_revokes_is_tried_again_and_blocks_no_sign_in() {
        let mut renewer = started();
        renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
        renewer.world.is_disk_full = true;
        renewer.world.lines.clear();
        let (reply, mut answer) = tokio::sync::oneshot::channel();
        renewer.remove(&lab(), reply, T0);
        assert_eq!(renewer.world.lines, ["publish NotSignedIn", "remove", "revoke r2"]);
        assert!(answer.try_recv().expect("answered").is_err());
        renewer.tick(T0 + SAVE_AGAIN);
        assert_eq!(renewer.world.lines[3..], ["remove"]);
        renewer.world.is_disk_full = false;
        renewer.replace(&lab(), signed_in("n1"), T0 + SAVE_AGAIN).expect("saved");
        assert_eq!(renewer.world.lines[4], "save 3 n1", "above what is still on the disk");
    }

    #[test]
    fn a_stop_offers_a_full_disk_the_credential_once_more() {
        let mut renewer = started();
        renewer.world.is_disk_full = true;
        renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
        renewer.world.is_disk_full = false;
        renewer.world.lines.clear();
        renewer.stop(T0);
        assert_eq!(renewer.world.lines, ["save 2 r2"]);
    }

    #[test]
    fn an_answer_for_another_identity_is_used_and_says_whose_it_is() {
        let mut renewer = started();
        for (id, payload, who) in [(1, "eyJzdWIiOiJtZSJ9", "me"), (2, "eyJzdWIiOiJ5b3UifQ", "you")] {
            let mut tokens = tokens(&format!("a{id}"), None).expect("tokens");
            tokens.id_token = Some(Secret::new(format!("e30.{payload}.x")));
            renewer.answered(&lab(), RenewalId(id), Ok(tokens), T0);
            let seen = renewer.views()[0].stored.clone().expect("stored").identity;
            assert_eq!(seen.as_deref(), Some(who), "after renewal {id}");
            renewer.tick(T0 + HOUR);
        }
        assert!(renewer.world.lines.contains(&"publish Bearer a2".to_owned()), "{:?}", renewer.world.lines);
    }

    #[test]
    fn the_life_of_tokens_is_learnt_kept_with_the_account_and_known_to_the_next_process() {
        let unstated = |access| {
            let tokens = tokens(access, None).expect("tokens");
            Ok(Tokens { lifetime: None, ..tokens })
        };
        let mut renewer = started();
        renewer.answered(&lab(), RenewalId(1), unstated("a1"), T0);
        let mut now = T0;
        for id in 1..=2 {
            now = now + Duration::from_secs(6);
            let (account, refused) = (lab(), RenewalId(id));
            renewer.orders([Order::Rejected { account, id: refused, worked: true, until: now }], now);
            renewer.answered(&lab(), RenewalId(id + 1), unstated("a"), now);
            renewer.world.lines.clear();
            renewer.orders([Order::Replayed { account: lab(), refused, at: now, accepted: true }], now);
        }
        assert_eq!(
            renewer.world.lines,
            ["publish Bearer a", "save 1 r1 learnt 6000 ms"],
            "it is renewed at another time"
        );
        // the next person to sign in is given tokens by the same server
        renewer.replace(&lab(), signed_in("n1"), now).expect("saved");
        assert_eq!(renewer.views()[0].snapshot.learnt_life, Some(Duration::from_secs(6)));
        let record = renewer.desks[&lab()].record.clone().expect("a record");
        let mut renewer = Renewer::new(Diary::default(), 7);
        renewer.configure(&config(), |_| Ok(Some(record.clone())), now);
        assert_eq!(renewer.views()[0].snapshot.learnt_life, Some(Duration::from_secs(6)));
        renewer.answered(&lab(), RenewalId(1), unstated("a1"), now);
        assert!(renewer.next_wakeup().expect("it is renewed") <= now + Duration::from_secs(6));
    }

    #[test]
    fn a_thousand_wishes_are_one_renewal() {
        let mut renewer = started();
        renewer.answered(&lab(), RenewalId(1), tokens("a1", None), T0);
        renewer.world.lines.clear();
        let later = T0 + 2 * HOUR;
        renewer.orders((0..1000).map(|_| Order::Wanted(lab())), later);
        let expected = ["save 1 r1 being redeemed", "redeem 2 r1", "publish wait", "publish wait"];
        assert_eq!(renewer.world.lines, expected);
    }

    #[test]
    fn a_kept_password_signs_in_again_when_the_refresh_token_is_refused() {
        let mut renewer = started();
        let mut new = signed_in("r1");
        new.credential.password = Some(("me".into(), Secret::new("pw")));
        renewer.replace(&lab(), new, T0).expect("saved");
        renewer.world.lines.clear();
        renewer.answered(&lab(), RenewalId(2), refused(), T0);
        assert_eq!(renewer.world.lines, ["redeem 2 the password of me"]);
        renewer.answered(&lab(), RenewalId(2), tokens("a2", Some("r5")), T0);
        assert_eq!(renewer.world.lines[1..], ["save 3 r5", "publish Bearer a2"]);
    }
}
