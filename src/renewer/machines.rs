//! What the renewer does, told apart from how: every account's machine, its credential and the order of things.
//!
//! [`Renewer`] owns the machines and the secrets, so there is no lock. It reaches the disk, the authorization servers
//! and the waiting requests through a [`World`] alone; the daemon's is real, the simulation's is not. Nothing in here
//! waits.
//!
//! The order on a rotation: note that generation N is being redeemed; redeem; save generation N + 1; publish. Each step
//! follows from the response to the one before it, also where the store takes its time. A process that dies in between comes
//! back with the newest credential whose response had reached it, and knows whether a response may have been lost.
//!
//! The store is brought to what stands here by one save or removal at a time for each account; what is wanted meanwhile is
//! one more after it. Where it holds a later generation, what a person has just handed in goes above that, and anything
//! else gives way to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::{error, info, warn};

use super::account::{AccountState, LastPublished, NotLoaded, SAVE_AGAIN, Saving, SignedOut, Waiters};
use super::world::{AskedReply, RevokeReply, SaveError, SavedReply, StoreAnswer, Ticket, World};
use crate::accounts::{
    self, AccountView, IN_THE_WAY, LastFailure, LockOrder, NOT_SAVED, NewCredential, RequestError, UNREADABLE,
    Withheld, Withholding,
};
use crate::advice::invocation;
use crate::config::{Account, AccountId, Config};
use crate::oauth::rfc7009::{Revoked, WANTS_ACCESS_TOKEN};
use crate::oauth::{Grant, Tokens};
use crate::renewal::{Action, Event, Failure, NotSaved, Phase, RenewalId, SaveId, Why};
use crate::store::{Record, SetAside};
use crate::timestamp::{Timestamp, unix_seconds};
use crate::token_endpoint::GrantFailure;
use crate::token_source::{Availability, Demand};

/// At a start, one account's first renewal follows another's at this distance, unless a request wants it sooner.
const STAGGER: Duration = Duration::from_millis(100);

/// All accounts' machines and credentials.
pub(super) struct Renewer<W> {
    /// The way out.
    pub(super) world: W,
    pub(super) accounts: BTreeMap<AccountId, AccountState>,
    seed: u64,
    pub(super) is_stopping: bool,
    /// A person has locked everything: no token is handed out.
    lock: Option<Withheld>,
    latest_lock: LockOrder,
    pub(super) tickets: u64,
    /// Answers of trials that first renewals have been given in place of one of their own.
    answers: Vec<(AccountId, RenewalId, Result<Tokens, GrantFailure>)>,
}

impl<W: World> Renewer<W> {
    /// A renewer without accounts. `seed` spreads renewals; nothing secret hangs on it.
    pub(super) fn new(world: W, seed: u64) -> Self {
        Self {
            world,
            accounts: BTreeMap::new(),
            seed,
            is_stopping: false,
            lock: None,
            latest_lock: LockOrder::default(),
            tickets: 0,
            answers: Vec::new(),
        }
    }

    /// Takes over a configuration: at the start and at every reload. `load` reads a record from the disk, and is asked
    /// for new accounts only. An account keeps its token unless something changed that its safety hangs on.
    pub(super) fn configure(
        &mut self,
        config: &Config,
        mut load: impl FnMut(&AccountId) -> Result<Option<Record>, NotLoaded>,
        now: Timestamp,
    ) {
        for (id, state) in &mut self.accounts {
            state.is_leaving = !config.accounts.contains_key(id);
        }
        self.part();
        let mut stagger = Duration::ZERO;
        for (id, account) in &config.accounts {
            // what could not be read may have been mended since, so it is read again
            if let Some(state) = self.accounts.get_mut(id).filter(|state| !state.is_unreadable()) {
                state.told = None; // it may have left and come back: whoever asks now knows nothing yet
                let is_elsewhere = state.record.as_ref().is_some_and(|record| !record.was_issued_to(account));
                let is_another = state.account.security_relevant_change(account);
                state.rotates &= !is_another;
                let has_changed = is_another
                    || is_elsewhere
                    || state.is_refused_for(Why::IssuedElsewhere)
                    || state.is_refused_for(Why::ClientRefused);
                state.account = Arc::new(account.clone());
                state.machine.set_policy(account.renew);
                if !has_changed && !state.is_stranded() {
                    self.tell(id, now, true);
                    continue;
                }
                info!(account = %id, "the account's server or client may have changed: starting over");
                if state.awaits_an_answer() {
                    // spent once more now, a refresh token that rotates would look stolen
                    state.starts_over = true;
                    self.handle(id, Event::SettingsChanged, now);
                    continue;
                }
                if state.machine.is_noting() && state.take_back_note() {
                    self.save(id, Waiters::default(), now);
                }
            } else {
                self.begin(account.clone(), load(id), now);
            }
            let Some(event) = self.first_event(id, stagger, now) else {
                self.tell(id, now, true);
                continue;
            };
            stagger += STAGGER;
            self.handle(id, event, now);
        }
    }

    /// Begins with an account, as the store has it.
    fn begin(&mut self, account: Account, loaded: Result<Option<Record>, NotLoaded>, now: Timestamp) {
        let id = account.id.clone();
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (record, not_loaded) = match loaded {
            Ok(record) => (record, None),
            Err(not_loaded) => (None, Some(not_loaded)),
        };
        let before = self.accounts.get(&id).and_then(|state| state.withheld.clone());
        let mut state = AccountState::new(account, record, self.seed);
        match not_loaded {
            None => {}
            Some(NotLoaded::Opening) => state.opening_since = Some(now),
            Some(NotLoaded::Withheld(cause, why)) => {
                let since = before.filter(|before| before.cause == cause).map_or(now, |before| before.since);
                error!(account = %id, cause = cause.code(), why, "the stored credential is not used");
                state.withheld = Some(Withheld { cause, why: why.into(), since });
            }
            Some(NotLoaded::Unreadable(error)) => state.last_failure = Some(not_usable(&id, UNREADABLE, error, now)),
            Some(NotLoaded::InTheWay(error)) => state.last_failure = Some(not_usable(&id, IN_THE_WAY, error, now)),
        }
        self.accounts.insert(id.clone(), state);
        self.note_end(&id, now);
    }

    /// The accounts of a configuration that [`Renewer::configure`] reads from the store.
    pub(super) fn not_read(&self, config: &Config) -> Vec<AccountId> {
        let is_read = |id: &&AccountId| self.accounts.get(*id).is_some_and(|state| !state.is_unreadable());
        config.accounts.keys().filter(|id| !is_read(id)).cloned().collect()
    }

    /// The accounts that [`Renewer::look_again`] reads.
    pub(super) fn unreadable(&self) -> Vec<AccountId> {
        let unreadable = self.accounts.iter().filter(|(_, state)| state.is_unreadable() && !state.is_leaving);
        unreadable.map(|(id, _)| id.clone()).collect()
    }

    /// The store may be readable now: reads what could not be read.
    pub(super) fn look_again(
        &mut self,
        mut load: impl FnMut(&AccountId) -> Result<Option<Record>, NotLoaded>,
        now: Timestamp,
    ) {
        let mut stagger = Duration::ZERO;
        for id in self.unreadable() {
            let Some(account) = self.accounts.get(&id).map(|state| (*state.account).clone()) else { continue };
            self.begin(account, load(&id), now);
            let Some(event) = self.first_event(&id, stagger, now) else {
                self.tell(&id, now, true);
                continue;
            };
            stagger += STAGGER;
            self.handle(&id, event, now);
        }
    }

    /// Lets go of the accounts that the configuration no longer has, but of none too early: a response that is owed may
    /// hold the only refresh token that still works, and so may a record that the store has not taken yet.
    fn part(&mut self) {
        self.accounts.retain(|_, state| {
            !state.is_leaving || !state.owed.is_empty() || !state.trials.is_empty() || !state.is_saved()
        });
    }

    /// What an account's record means for its machine.
    fn first_event(&self, id: &AccountId, patience: Duration, now: Timestamp) -> Option<Event> {
        let state = self.accounts.get(id)?;
        let Some(record) = &state.record else {
            if state.is_kept_from_us() {
                return None; // what it is will be known when it can be read
            }
            let needs_nobody = !state.account.grant.needs_sign_in();
            return Some(match needs_nobody {
                // nothing is kept of an account without a credential but what its machine has learnt so far
                true => Event::CredentialReplaced {
                    patience,
                    answer_lost: false,
                    refresh_expires_at: None,
                    learnt_life: state.machine.snapshot().learnt_life,
                },
                false => Event::CredentialRemoved,
            });
        };
        if state.is_over(now) {
            return Some(Event::CredentialRefused(Why::TermOver)); // and removed with the next tick, which is due
        }
        if !record.was_issued_to(&state.account) {
            let mut endpoints = state.account.server.credential_endpoints();
            if let Some((kind, endpoint)) = endpoints.find(|(_, endpoint)| !record.may_be_sent_to(&endpoint.origin)) {
                let (key, server, signed_in_to) = (kind.key(), &endpoint.origin, &record.issued_by);
                warn!(account = %id, %server, signed_in_to, "{key} is on a server that the sign-in did not name: take \
                    that back, or run `{}`", login(id));
            }
            return Some(Event::CredentialRefused(Why::IssuedElsewhere));
        }
        match &record.set_aside {
            // the configuration may have been mended since: worth one question
            None | Some(SetAside { why: Why::ClientRefused, .. }) => {}
            // never a password, which is locked by too many: only a refresh token's refusal may have been a bad minute
            Some(set_aside) if !matches!(state.grant(), Grant::RefreshToken(_)) => {
                return Some(Event::CredentialRefused(set_aside.why));
            }
            Some(_) => {}
        }
        let refresh_expires_at = record.refresh_expires_at.map(|at| self.world.timestamp_of(from_unix(at)).max(now));
        let learnt_life = record.learnt_life.map(Duration::from_millis);
        let answer_lost = record.redeeming;
        Some(match &record.set_aside {
            Some(SetAside { why: why @ (Why::Revoked | Why::Ambiguous), .. }) => {
                Event::CredentialDoubted { why: *why, patience, answer_lost, refresh_expires_at, learnt_life }
            }
            Some(SetAside { why: why @ (Why::NotSignedIn | Why::IssuedElsewhere | Why::TermOver), .. }) => {
                Event::CredentialRefused(*why)
            }
            Some(SetAside { why: Why::ClientRefused, .. }) | None => {
                Event::CredentialReplaced { patience, answer_lost, refresh_expires_at, learnt_life }
            }
        })
    }

    /// Takes note of what requests say. All that came since the last call are handed over together, so that a thousand
    /// wishes for one token are one.
    pub(super) fn demands(&mut self, demands: impl IntoIterator<Item = Demand>, now: Timestamp) {
        let mut asked: Vec<AccountId> = Vec::new();
        for demand in demands {
            let (account, event, is_answered) = match demand {
                Demand::Wanted(account) => (account, Event::Wanted, true),
                Demand::Rejected { account, id, place, worked, until } => {
                    (account, Event::Rejected { id, place, worked, until }, true)
                }
                Demand::Replayed { account, refused, place, at, accepted } => {
                    (account, Event::Replayed { refused, place, at, accepted }, false)
                }
                Demand::Worked { account, id, place, sent } => (account, Event::Worked { id, place, sent }, false),
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
        let Some(state) = self.accounts.get_mut(id).filter(|_| !self.is_stopping) else { return };
        let learnt = millis(state.machine.snapshot().learnt_life);
        let Some(record) = state.record.as_mut().filter(|record| record.learnt_life != learnt) else { return };
        record.learnt_life = learnt;
        match learnt.map(Duration::from_millis) {
            Some(life) => info!(account = %id, ?life, "learnt how long its tokens live"),
            None => info!(account = %id, "a token outlived what was learnt of their life"),
        }
        self.save(id, Waiters::default(), now);
    }

    /// Lets time pass: for every wakeup, and whenever anything suggests a look at the clock.
    pub(super) fn tick(&mut self, now: Timestamp) {
        self.each(Event::Tick, now);
        self.save_where(|state| state.save_again_at().is_some_and(|again| now >= again), now);
        self.part();
    }

    /// The machine has slept.
    pub(super) fn resumed(&mut self, now: Timestamp) {
        self.each(Event::Resumed, now);
    }

    /// The network has changed.
    pub(super) fn network_changed(&mut self, now: Timestamp) {
        self.each(Event::NetworkChanged, now);
    }

    fn each(&mut self, event: Event, now: Timestamp) {
        self.end_what_is_over(now);
        let ids: Vec<AccountId> = self.accounts.keys().cloned().collect();
        for id in ids {
            self.handle(&id, event, now);
        }
    }

    /// A person asks for a renewal. The reply comes when its request is sent, or why there will be none, for people.
    pub(super) fn refresh(&mut self, id: &AccountId, reply: AskedReply, now: Timestamp) {
        if let Err(why) = self.may_be_asked(id) {
            let _ = reply.send(Err(why));
            return;
        }
        let Some(state) = self.accounts.get_mut(id) else { return };
        state.asking.push(reply);
        if state.machine.owed_save().is_some() && !state.machine.is_noting() {
            state.asks_again = true; // the response has come, and is being saved
            return;
        }
        self.handle(id, Event::Asked, now);
    }

    fn may_be_asked(&self, id: &AccountId) -> Result<(), String> {
        if self.is_stopping {
            return Err(RequestError::Stopping.to_string());
        }
        let state = self.accounts.get(id).ok_or_else(|| no_account(id))?;
        if let Some(Withheld { cause, why, .. }) = &state.withheld {
            return Err(format!("{why}; run `{}`", cause.remedy(id, invocation())));
        }
        if state.opening_since.is_some() {
            return Err("the key of the store is being asked for".to_owned());
        }
        match state.machine.snapshot().phase {
            Phase::SignInRequired { why } if !state.machine.may_be_presented_again() => {
                Err(format!("{why}; run `{}`", login(id)))
            }
            Phase::SignInRequired { .. } | Phase::Scheduled { .. } | Phase::InFlight { .. } => Ok(()),
        }
    }

    /// Whoever has asked for a renewal is told what came of it, once its note is saved or cannot be.
    fn tell_who_asked(&mut self, id: &AccountId, now: Timestamp) {
        let has_nothing_to_tell = |state: &AccountState| state.asking.is_empty() || state.machine.owed_save().is_some();
        if self.accounts.get(id).is_none_or(has_nothing_to_tell) {
            return;
        }
        let may_be_asked = self.may_be_asked(id);
        let Some(state) = self.accounts.get_mut(id) else { return };
        if std::mem::take(&mut state.asks_again) && may_be_asked.is_ok() {
            return self.handle(id, Event::Asked, now);
        }
        let sent = may_be_asked.and(state.unspent().map_or(Ok(()), |unspent| Err(unspent.to_owned())));
        for reply in state.asking.drain(..) {
            let _ = reply.send(sent.clone());
        }
    }

    /// Asks the provider whose the access token at hand is.
    pub(super) fn who_is(&mut self, id: &AccountId, reply: RevokeReply) {
        let asked = self.accounts.get(id).ok_or_else(|| no_account(id)).and_then(|state| {
            let token = state.access_token_at_hand()?;
            let expected = state.record.as_ref().and_then(|record| record.person.clone());
            Ok((state.account.clone(), token, expected))
        });
        match asked {
            Ok((account, token, expected)) => self.world.who_is(account, token, expected, reply),
            Err(words) => drop(reply.send(Err(words))),
        }
    }

    /// A person has signed in: saves the credential, then starts its first renewal, whose response may be at hand already.
    /// The reply comes when the store has answered; with an error, the credential is used all the same.
    pub(super) fn take(
        &mut self,
        id: &AccountId,
        new: NewCredential,
        tried: Option<Result<Tokens, GrantFailure>>,
        reply: SavedReply,
        now: Timestamp,
    ) {
        let Some(state) = self.accounts.get_mut(id) else {
            let _ = reply.send(Err(RequestError::Refused(no_account(id))));
            return;
        };
        let unix_now = unix_seconds(self.world.calendar(now));
        let last = state.put(None);
        state.tried = tried;
        let record = Record::succeeding(last.as_ref(), state.stored_generation, &state.account, new, unix_now);
        let generation = record.generation;
        state.record = Some(record);
        state.is_new = true;
        self.note_end(id, now);
        info!(account = %id, generation, "signed in");
        self.save(id, Waiters { signed_in: vec![reply], ..Waiters::default() }, now);
        if let Some(event) = self.first_event(id, Duration::ZERO, now) {
            self.handle(id, event, now);
        }
    }

    /// A person signs out: forgets at once, also in the store, and tells the server. The reply comes when all have
    /// answered.
    pub(super) fn remove(&mut self, id: &AccountId, reply: RevokeReply, now: Timestamp) {
        let Some(state) = self.accounts.get_mut(id) else {
            let _ = reply.send(Err(no_account(id)));
            return;
        };
        state.end_trials();
        self.sign_out(id, Event::CredentialRemoved, Some(reply), now);
    }

    /// A sign-in whose time is over ends as one that a person ends. What is being tried meanwhile is a new one.
    fn end_what_is_over(&mut self, now: Timestamp) {
        if self.is_stopping {
            return; // the next process does it at its start
        }
        let over = self.accounts.iter().filter(|(_, state)| state.is_over(now)).map(|(id, _)| id.clone());
        for id in over.collect::<Vec<AccountId>>() {
            warn!(account = %id, "the time that it was signed in for is over");
            self.sign_out(&id, Event::CredentialRefused(Why::TermOver), None, now);
        }
    }

    /// Forgets the credential at once, also in the store, and tells the server.
    fn sign_out(&mut self, id: &AccountId, event: Event, reply: Option<RevokeReply>, now: Timestamp) {
        let Some(state) = self.accounts.get_mut(id) else { return };
        let was_kept = state.is_kept_from_us();
        let access_token = state.access_token_at_hand().ok();
        let record = state.put(None);
        state.unsaved = None;
        let account = state.account.clone();
        self.handle(id, event, now);
        let unread = was_kept.then(|| "it could not be read, and lives on until it expires".to_owned());
        let kept_from = record.as_ref().map_or(unread, |record| record.not_to_be_revoked_at(&account));
        let refresh_token = record.and_then(|record| record.credential.refresh_token);
        let refresh_token = refresh_token.filter(|_| kept_from.is_none());
        let (token, kept_from) = match account.revocation.takes {
            Revoked::AccessToken if refresh_token.is_some() && access_token.is_none() => {
                (None, Some(WANTS_ACCESS_TOKEN.to_owned()))
            }
            Revoked::AccessToken => (access_token.filter(|_| kept_from.is_none()), kept_from),
            Revoked::RefreshToken => (refresh_token, kept_from),
        };
        let signed_out = vec![SignedOut { account, token, kept_from, reply }];
        self.save(id, Waiters { signed_out, ..Waiters::default() }, now);
    }

    /// The store has answered: what a sign-out still has to do.
    fn signed_out(&mut self, id: &AccountId, signed_out: SignedOut, error: Option<&str>) {
        let SignedOut { account, token, kept_from, reply } = signed_out;
        if let Some(error) = error {
            warn!(account = %id, %error, "signed out, but the credential is still on the disk; removing it is tried again");
            let words = match token {
                // dead at the server, it is no harm on the disk
                Some(token) => {
                    self.world.revoke(account, token, None);
                    format!("{error}; the server is told to revoke it all the same")
                }
                None => error.to_owned(),
            };
            if let Some(reply) = reply {
                let _ = reply.send(Err(words));
            }
            return;
        }
        info!(account = %id, "signed out");
        match token {
            Some(token) => self.world.revoke(account, token, reply),
            None => {
                let words = match kept_from {
                    Some(because) => format!("forgotten here, but not revoked at the server: {because}"),
                    None => "there was no refresh token to revoke".to_owned(),
                };
                match reply {
                    Some(reply) => drop(reply.send(Ok(words))),
                    None => info!(account = %id, "{words}"),
                }
            }
        }
    }

    /// The one response that [`World::redeem`] owes.
    pub(super) fn answered(
        &mut self,
        id: &AccountId,
        renewal: RenewalId,
        answer: Result<Tokens, GrantFailure>,
        now: Timestamp,
    ) {
        let Some(state) = self.accounts.get_mut(id) else { return };
        let is_owed = state.owed.iter().position(|(id, _)| *id == renewal);
        let is_awaited = state.machine.snapshot().phase == (Phase::InFlight { id: renewal });
        let Some(position) = is_owed else { return };
        let (_, asked) = state.owed.swap_remove(position);
        if let Some(position) = state.trials.iter().position(|trial| trial.renewal == renewal) {
            let trial = state.trials.swap_remove(position);
            self.judge(id, trial, answer, now);
            return self.part();
        }
        state.token_requests += 1;
        match answer {
            answer if is_awaited && state.starts_over => self.start_over(id, renewal, answer, now),
            Ok(tokens) if is_awaited => self.renewed(id, renewal, tokens, now),
            Err(failure) if is_awaited => self.failed(id, renewal, failure, now),
            // somebody signed out while it was under way: what it brought must not live on unknown, at the server that
            // gave it, which may not be the configured one any more
            Ok(Tokens { refresh_token: Some(refresh_token), access_token, .. }) if state.record.is_none() => {
                match asked.revocation.takes {
                    Revoked::RefreshToken => self.world.revoke(asked, refresh_token, None),
                    Revoked::AccessToken => {
                        if let Some(token) = access_token {
                            self.world.revoke(asked, token, None);
                        }
                    }
                }
            }
            Ok(_) | Err(_) => {}
        }
        self.part();
    }

    /// The settings changed while this response was under way: what it says of the credential is kept, and the next token
    /// is asked for with the new ones.
    fn start_over(&mut self, id: &AccountId, renewal: RenewalId, answer: Result<Tokens, GrantFailure>, now: Timestamp) {
        let Some(state) = self.accounts.get_mut(id) else { return };
        state.starts_over = false;
        match answer {
            Ok(tokens) => {
                state.take_credential(tokens, self.world.calendar(now));
                state.confirm_with_the_next_save();
            }
            Err(failure) => {
                state.do_not_confirm(&RequestError::CredentialUntried(format!("not tried: {}", failure.detail)));
                let may_be_lost = failure.failure == Failure::Ambiguous || state.machine.may_have_lost_an_answer();
                state.note_failure(renewal, failure, now);
                if let Some(record) = &mut state.record {
                    record.redeeming = may_be_lost;
                }
            }
        }
        self.save(id, Waiters::default(), now);
        if let Some(event) = self.first_event(id, Duration::ZERO, now) {
            self.handle(id, event, now);
        }
    }

    fn renewed(&mut self, id: &AccountId, renewal: RenewalId, tokens: Tokens, now: Timestamp) {
        let Some(state) = self.accounts.get_mut(id) else { return };
        let (mut lifetime, refresh_lifetime) = (state.lifetime(&tokens), tokens.refresh_lifetime);
        let retry_after = tokens.retry_after;
        let header = tokens.unusable.clone().map_or_else(|| state.header(&tokens), Err);
        if let Err(detail) = &header {
            // what it rotated must be saved all the same: to the machine it is a token without life
            lifetime = Some(Duration::ZERO);
            let failure = GrantFailure::unanswered(Failure::Transient { retry_after: None }, detail.clone());
            state.note_failure(renewal, failure, now);
            warn!(account = %id, error = %detail, "the answer to the renewal cannot be used");
            state.do_not_confirm(&RequestError::CredentialUntried(format!("not tried: {detail}")));
        }
        state.confirm_with_the_next_save();
        let rotated = state.take_credential(tokens, self.world.calendar(now));
        state.at_hand = header.ok();
        let is_usable = state.at_hand.is_some();
        state.has_renewed = is_usable;
        self.handle(id, Event::Renewed { id: renewal, lifetime, rotated, refresh_lifetime, retry_after }, now);
        let Some(state) = self.accounts.get_mut(id) else { return };
        if is_usable {
            state.repeated = None;
        }
        if !rotated && state.record.is_some() {
            self.keep_lives(id);
            self.save(id, Waiters::default(), now); // the note that it was being redeemed is done with
        }
    }

    /// What the machine knows of lives goes into the record.
    fn keep_lives(&mut self, id: &AccountId) {
        let Some(state) = self.accounts.get_mut(id) else { return };
        let snapshot = state.machine.snapshot();
        if let Some(record) = &mut state.record {
            record.refresh_expires_at = snapshot.refresh_expires_at.map(|at| unix_seconds(self.world.calendar(at)));
            record.learnt_life = millis(snapshot.learnt_life);
        }
    }

    fn failed(&mut self, id: &AccountId, renewal: RenewalId, mut failure: GrantFailure, now: Timestamp) {
        let Some(state) = self.accounts.get_mut(id) else { return };
        if state.note_repeated(&mut failure, now) {
            error!(account = %id, error = %failure.detail, "the authorization server refuses, for a reason that is not \
                known: look at its answer, or run `{}`", login(id));
        }
        if failure.wants_rotation {
            // a token that may be spent is noted first: so it is the next renewal that asks in that way
            info!(account = %id, "the server rotates refresh tokens: it is asked in the way that it wants, from now on");
            state.rotates = true;
            failure.failure = Failure::Transient { retry_after: None };
        }
        let GrantFailure { failure: verdict, oauth_error, http_status: _, detail, wants_rotation } = failure.clone();
        state.note_failure(renewal, failure, now);
        if verdict == Failure::Permanent(Why::Revoked) && state.turns_to_password() {
            // the kept password signs in again, within the same renewal
            info!(account = %id, "the refresh token was refused; signing in again with the kept password");
            self.redeem(id, renewal, now);
            return;
        }
        // a password is not sent again, as that locks accounts
        let is_of_refresh_token = state.record.is_some() && matches!(state.grant(), Grant::RefreshToken(_));
        let verdict = match verdict {
            Failure::Permanent(Why::Revoked) if is_of_refresh_token => Failure::Refused,
            verdict => verdict,
        };
        if let Some(record) = &mut state.record {
            // a later answer that is no verdict does not bring the lost one back
            record.redeeming = verdict == Failure::Ambiguous || state.machine.may_have_lost_an_answer();
            let why = match verdict {
                Failure::Permanent(why) => Some(why),
                Failure::Refused => Some(Why::Revoked),
                Failure::Transient { .. } | Failure::Ambiguous | Failure::Unconfirmed { .. } => None,
            };
            if let Some(why) = why {
                record.set_aside = Some(SetAside { why, at: unix_seconds(self.world.calendar(now)), oauth_error });
            }
        }
        self.handle(id, Event::Failed { id: renewal, failure: verdict }, now);
        let Some(state) = self.accounts.get_mut(id) else { return };
        if !wants_rotation {
            state.do_not_confirm(&match verdict {
                Failure::Refused | Failure::Permanent(Why::Revoked) => RequestError::CredentialRefused(detail.clone()),
                Failure::Permanent(_)
                | Failure::Transient { .. }
                | Failure::Ambiguous
                | Failure::Unconfirmed { .. } => RequestError::CredentialUntried(format!("not tried: {detail}")),
            });
        }
        if state.record.is_some() && !matches!(verdict, Failure::Permanent(_) | Failure::Refused) {
            self.save(id, Waiters::default(), now);
        }
        let Some(state) = self.accounts.get_mut(id) else { return };
        let snapshot = state.machine.snapshot();
        match snapshot.phase {
            Phase::SignInRequired { why } => {
                error!(account = %id, error = %detail, %why, "a person must sign in: run `{}`", login(id));
            }
            _ if snapshot.published.is_some() => {
                warn!(account = %id, error = %detail, "renewal failed; the current token is still usable");
            }
            _ => warn!(account = %id, error = %detail, "renewal failed; no usable token"),
        }
    }

    /// Hands an event to a machine, does what it says, and takes in what the store says to that.
    pub(super) fn handle(&mut self, id: &AccountId, event: Event, now: Timestamp) {
        self.perform(id, event, now);
        self.settle(now);
        self.tell_who_asked(id, now);
        self.tell(id, now, false);
    }

    /// Hands an event to a machine and does what it says, in order.
    fn perform(&mut self, id: &AccountId, event: Event, now: Timestamp) {
        let Some(state) = self.accounts.get_mut(id) else { return };
        let is_answer =
            matches!(event, Event::Renewed { .. } | Event::Failed { .. } | Event::Saved(_) | Event::NotSaved { .. });
        if self.is_stopping && !is_answer {
            return;
        }
        for action in state.machine.handle(event, now) {
            let Some(state) = self.accounts.get_mut(id) else { return };
            match action {
                Action::Note(save) => self.note(id, save, now),
                Action::Renew(renewal) => self.redeem(id, renewal, now),
                Action::Save(save) => {
                    self.keep_lives(id);
                    self.ask_to_save(id, Waiters::machine(save));
                }
                Action::SetAside(why) => {
                    if let Some(record) = &mut state.record {
                        // the machine knows better: a response may have been lost, or this was said before
                        let at = unix_seconds(self.world.calendar(now));
                        let new = || SetAside { why, at, oauth_error: None };
                        record.set_aside.get_or_insert_with(new).why = why;
                    }
                    self.ask_to_save(id, Waiters::default());
                }
                Action::Publish { id: renewal, usable_until, start } => {
                    let field = state.at_hand.take();
                    state.published = field.map(|field| state.token(renewal, field, usable_until, start));
                    if let Some(token) = &state.published {
                        info!(account = %id, usable_for = ?token.usable_until.since(now), "renewed");
                    }
                }
                Action::Withdraw => state.published = None,
                Action::Adopt => self.adopt(id, now),
            }
        }
        if let Some(state) = self.accounts.get_mut(id)
            && state.machine.owed_save().is_none()
        {
            state.at_hand = None;
            if std::mem::take(&mut state.has_renewed) {
                // not before: whoever sees that it has succeeded finds its token
                state.renewals += 1;
                state.last_success = Some(now);
            }
        }
    }

    /// Notes that the credential is about to be spent, if that may use it up.
    fn note(&mut self, id: &AccountId, save: SaveId, now: Timestamp) {
        let Some(state) = self.accounts.get_mut(id) else { return };
        if self.is_stopping || state.is_leaving {
            return;
        }
        if let Some(record) = &mut state.record {
            record.note_servers(&state.account);
        }
        state.note_term(now);
        let is_spent = state.asked().dialect.spends_refresh_token(&state.grant());
        match &mut state.record {
            Some(record) if is_spent => {
                record.redeeming = true;
                self.ask_to_save(id, Waiters::machine(save));
            }
            Some(_) | None => self.perform(id, Event::Saved(save), now),
        }
    }

    /// Spends the credential.
    fn redeem(&mut self, id: &AccountId, renewal: RenewalId, now: Timestamp) {
        let Some(state) = self.accounts.get_mut(id) else { return };
        if self.is_stopping || state.is_leaving {
            // the stop came while the note was being saved: nothing is sent, so no response can be lost
            if state.take_back_note() {
                self.save(id, Waiters::default(), now);
            }
            return;
        }
        let grant = state.grant();
        state.owed.push((renewal, state.account.clone()));
        state.is_of_trial = state.tried.is_some();
        match state.tried.take() {
            Some(answer) => self.answers.push((id.clone(), renewal, answer)),
            None => self.world.redeem(state.asked(), renewal, grant),
        }
    }

    /// Takes over the later credential that the store was found to hold.
    fn adopt(&mut self, id: &AccountId, now: Timestamp) {
        let Some(state) = self.accounts.get_mut(id) else { return };
        if let Some(found) = state.found.take() {
            info!(account = %id, generation = found.generation, "the store holds a later credential, which is used now");
            state.stored_generation = found.generation;
            state.unsaved = None;
            state.rotates |= found.rotates;
            state.put(Some(*found));
            self.note_end(id, now);
        }
        if let Some(event) = self.first_event(id, Duration::ZERO, now) {
            self.perform(id, event, now);
        }
    }

    /// Finds the point of the time line where the sign-in ends: from here on, no clock that is set back puts it off.
    pub(super) fn note_end(&mut self, id: &AccountId, now: Timestamp) {
        let unix_now = unix_seconds(self.world.calendar(now));
        let Some(state) = self.accounts.get_mut(id) else { return };
        let term = state.record.as_ref().and_then(|record| record.term);
        state.ends_at = term.map(|term| now + term.left(unix_now));
    }

    /// Brings the store to what stands here, and takes in what it says.
    pub(super) fn save(&mut self, id: &AccountId, waiters: Waiters, now: Timestamp) {
        self.ask_to_save(id, waiters);
        self.settle(now);
    }

    fn save_where(&mut self, is_due: impl Fn(&AccountState) -> bool, now: Timestamp) {
        let due = self.accounts.iter().filter(|(_, state)| is_due(state)).map(|(id, _)| id.clone());
        for id in due.collect::<Vec<AccountId>>() {
            self.save(&id, Waiters::default(), now);
        }
    }

    /// Has the store brought to what stands here, now or after what is under way.
    fn ask_to_save(&mut self, id: &AccountId, waiters: Waiters) {
        let Some(state) = self.accounts.get_mut(id) else { return };
        state.save_next.get_or_insert_default().join(waiters);
        if state.saving.is_none() {
            self.write(id, false);
        }
    }

    fn write(&mut self, id: &AccountId, is_second_try: bool) {
        let Some(state) = self.accounts.get_mut(id) else { return };
        let Some(waiters) = state.save_next.take() else { return };
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let generation = state.record.as_ref().map(|record| record.generation);
        state.saving = Some(Saving { ticket, generation, credential: state.credential, is_second_try, waiters });
        match &state.record {
            Some(record) => self.world.save(ticket, record),
            None => self.world.remove(ticket, id),
        }
    }

    /// Takes in what the store has answered so far.
    pub(super) fn settle(&mut self, now: Timestamp) {
        while let Some(StoreAnswer { account, ticket, result }) = self.world.store_answer() {
            self.stored(&account, ticket, result, now);
        }
        while let Some((account, renewal, answer)) = self.answers.pop() {
            self.answered(&account, renewal, answer, now);
        }
    }

    /// The one response that [`World::save`], [`World::remove`] or [`World::probe`] owes.
    fn stored(&mut self, id: &AccountId, ticket: Ticket, result: Result<(), SaveError>, now: Timestamp) {
        let Some(state) = self.accounts.get_mut(id) else { return };
        if let Some(position) = state.trials.iter().position(|trial| trial.probe == Some(ticket)) {
            let trial = state.trials.swap_remove(position);
            return self.probed(id, trial, result, now);
        }
        let Some(saving) = state.saving.take_if(|saving| saving.ticket == ticket) else { return };
        let Saving { generation, credential, is_second_try, waiters, .. } = saving;
        let is_present = credential == state.credential;
        let (was_new, mut saves_again) = (state.is_new, false);
        let error = match result {
            Ok(()) => {
                state.stored_generation = generation.unwrap_or(0);
                state.is_new &= !is_present;
                if state.save_next.is_none() && state.unsaved.take().is_some() && generation.is_some() {
                    info!(account = %id, "saved at last");
                    // a credential that has just been put here is the machine's only with the event that follows
                    saves_again = state.unspent().is_some() && !was_new;
                }
                None
            }
            Err(error @ (SaveError::Stale { .. } | SaveError::Outnumbered { .. }))
                if is_present && state.is_new && !is_second_try =>
            {
                if let Some(record) = &mut state.record {
                    record.generation = record.generation.max(error.latest()).saturating_add(1);
                }
                let mut all = waiters;
                all.join(state.save_next.take().unwrap_or_default());
                state.save_next = Some(all);
                return self.write(id, true);
            }
            Err(SaveError::Stale { found, words }) if is_present && !state.is_new => {
                state.found = Some(found);
                Some((NotSaved::Stale, words))
            }
            Err(SaveError::Unknown(words)) => Some((NotSaved::Unknown, words)),
            Err(error @ (SaveError::Stale { .. } | SaveError::Outnumbered { .. } | SaveError::Failed(_))) => {
                Some((NotSaved::Failed, error.into_words()))
            }
        };
        if let Some((reason, words)) = &error {
            if *reason != NotSaved::Stale && state.unsaved.is_none() && generation.is_some() {
                match generation.is_some_and(|generation| generation <= state.stored_generation) {
                    true => error!(account = %id, error = %words, "nothing can be saved; what was saved last is kept"),
                    false => {
                        error!(account = %id, error = %words, "the credential is not saved; signed in until the daemon ends")
                    }
                }
            }
            state.unsaved = Some(now + SAVE_AGAIN);
        }
        let words = error.as_ref().map(|(_, words)| words.as_str());
        for reply in waiters.signed_in {
            let _ = reply.send(words.map_or(Ok(()), |words| Err(RequestError::Refused(words.to_owned()))));
        }
        for signed_out in waiters.signed_out {
            self.signed_out(id, signed_out, words);
        }
        // a refresh token that is not rotated stays good, whatever can be saved
        let is_unrotated = self.accounts.get(id).is_some_and(|state| {
            state.machine.is_noting() && state.record.as_ref().is_some_and(|record| record.unrotated)
        });
        let event = match (waiters.machine, &error) {
            (Some(save), None) => Some(Event::Saved(save)),
            (Some(save), Some((NotSaved::Failed, _))) if is_unrotated => Some(Event::Saved(save)),
            (Some(save), Some((reason, _))) => Some(Event::NotSaved { save, reason: *reason }),
            (None, Some((NotSaved::Stale, _))) => Some(Event::Superseded),
            (None, None) if saves_again => Some(Event::SavesAgain),
            (None, Some((NotSaved::Failed | NotSaved::Unknown, _)) | None) => None,
        };
        if let Some(event) = event {
            let (reason, words) = error.unzip();
            self.note_unspent(id, &event, reason.zip(words), now);
            self.perform(id, event, now);
            self.tell_who_asked(id, now);
            self.tell(id, now, false);
        }
        if self.accounts.get(id).is_some_and(|state| state.saving.is_none()) {
            self.write(id, false);
        }
    }

    /// What was to be noted is not, or nobody knows: nothing is spent for now, which is a failure of the renewal.
    fn note_unspent(&mut self, id: &AccountId, event: &Event, error: Option<(NotSaved, String)>, now: Timestamp) {
        let Some(state) = self.accounts.get_mut(id) else { return };
        let is_noting = matches!(event, Event::NotSaved { save, .. } if state.machine.owed_save() == Some(*save))
            && state.machine.is_noting();
        let (Some((reason, detail)), true, Phase::InFlight { id: renewal }) =
            (error, is_noting, state.machine.snapshot().phase)
        else {
            return;
        };
        let (class, detail) = match reason {
            NotSaved::Stale => return, // the later one is adopted
            NotSaved::Unknown => {
                warn!(account = %id, error = %detail, "not renewed: the store does not say what it holds");
                ("transient", detail)
            }
            NotSaved::Failed => {
                let before = "the refresh token is not spent, as the next one could not be saved";
                warn!(account = %id, error = %detail, "not renewed: {before}");
                (NOT_SAVED, format!("{before}: {detail}"))
            }
        };
        state.do_not_confirm(&RequestError::Refused(detail.clone()));
        let failure = GrantFailure::unanswered(Failure::Transient { retry_after: None }, detail);
        state.note_failure(renewal, failure, now);
        if let Some(failure) = &mut state.last_failure {
            failure.class = class;
        }
        state.take_back_note(); // it is offered again as it is
    }

    /// Whether the store owes a response.
    pub(super) fn awaits_the_store(&self) -> bool {
        let is_probing = |state: &AccountState| state.trials.iter().any(|trial| trial.probe.is_some());
        self.accounts.values().any(|state| state.saving.is_some() || is_probing(state))
    }

    /// Tells requests how the account stands, if that has changed or somebody has asked.
    pub(super) fn tell(&mut self, id: &AccountId, now: Timestamp, is_asked: bool) {
        let Some(state) = self.accounts.get_mut(id) else { return };
        let snapshot = state.machine.snapshot();
        let wished_for = state.machine.wished_for(now);
        let published = state.published.as_ref().map(|token| token.id);
        let told = LastPublished { published, wished_for, phase: snapshot.phase };
        if state.told == Some(told) && !is_asked {
            return;
        }
        state.told = Some(told);
        let availability = match (&state.published, snapshot.phase) {
            _ if self.lock.is_some() => Availability::Withheld(self.lock.clone().expect("it was looked at")),
            (Some(token), _) => Availability::Usable { token: token.clone(), wished_for },
            (None, _) if state.opening_since.is_some() => {
                let because = Some("the key of the store is being asked for".into());
                Availability::Waiting { retry_at: None, because }
            }
            (None, Phase::SignInRequired { why }) => match &state.withheld {
                Some(withheld) => Availability::Withheld(withheld.clone()),
                None => Availability::SignInRequired { why },
            },
            (None, phase) => {
                let retry_at = match phase {
                    Phase::Scheduled { at } => Some(at),
                    Phase::InFlight { .. } | Phase::SignInRequired { .. } => None,
                };
                let because = state.last_failure.as_ref().map(|failure| failure.detail.as_str().into());
                Availability::Waiting { retry_at, because }
            }
        };
        self.world.publish(id, availability);
    }

    /// Starts nothing any more; answers that are owed are still taken. What a full disk did not take is offered to it
    /// once more.
    pub(super) fn stop(&mut self, now: Timestamp) {
        self.is_stopping = true;
        for state in self.accounts.values_mut() {
            state.note_term(now);
        }
        self.save_where(|state| state.unsaved.is_some() || state.ends_at.is_some(), now);
    }

    /// When [`Renewer::tick`] should be called next.
    pub(super) fn next_wakeup(&self) -> Option<Timestamp> {
        let machines = self.accounts.values().filter_map(|state| state.machine.next_wakeup()).map(|(at, _)| at);
        let saves = self.accounts.values().filter_map(AccountState::save_again_at);
        let ends = self.accounts.values().filter_map(|state| state.ends_at);
        machines.chain(saves).chain(ends).min()
    }

    /// All accounts as they stand, in the order of their names.
    pub(super) fn views(&self) -> Vec<AccountView> {
        let view = |state: &AccountState| {
            let mut view = state.view();
            if let Some(lock) = &self.lock {
                view.withheld = Some(lock.clone());
                view.snapshot.usable_until = None;
            }
            view
        };
        self.accounts.values().filter(|state| !state.is_leaving).map(view).collect()
    }

    /// Hands out no token from here on; renewals go on.
    pub(super) fn lock(&mut self, order: LockOrder, now: Timestamp) {
        self.latest_lock = self.latest_lock.max(order);
        let why = "somebody has locked valetd".into();
        self.lock.get_or_insert(Withheld { cause: Withholding::Locked, why, since: now });
        self.tell_all(now);
    }

    /// Hands out tokens again.
    ///
    /// # Errors
    ///
    /// If a lock was ordered after the one that was noted when this began: that one stands.
    pub(super) fn unlock(&mut self, noted: LockOrder, now: Timestamp) -> Result<(), String> {
        if self.latest_lock > noted {
            return Err("somebody has locked it meanwhile".to_owned());
        }
        self.lock = None;
        self.tell_all(now);
        Ok(())
    }

    fn tell_all(&mut self, now: Timestamp) {
        let ids: Vec<AccountId> = self.accounts.keys().cloned().collect();
        for id in ids {
            self.tell(&id, now, true);
        }
    }

    /// Forgets every credential that the store has, until it is read again.
    ///
    /// # Errors
    ///
    /// Why it would be lost, for people; nothing is forgotten then.
    pub(super) fn forget_credentials(&mut self, why: &str, now: Timestamp) -> Result<(), String> {
        if let Some(busy) = self.accounts.values().find_map(AccountState::busy) {
            return Err(busy);
        }
        let kept = self.accounts.values().filter(|state| state.record.is_some());
        let kept: Vec<Account> = kept.map(|state| (*state.account).clone()).collect();
        for account in kept {
            let id = account.id.clone();
            self.begin(account, Err(NotLoaded::Withheld(Withholding::StoreLocked, why.to_owned())), now);
            self.tell(&id, now, true);
        }
        Ok(())
    }
}

pub(super) fn no_account(id: &AccountId) -> String {
    format!("there is no account named \"{id}\" in the configuration")
}

fn millis(span: Option<Duration>) -> Option<u64> {
    span.map(|span| span.as_millis().try_into().unwrap_or(u64::MAX))
}

fn from_unix(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn not_usable(id: &AccountId, class: &'static str, error: String, now: Timestamp) -> LastFailure {
    error!(account = %id, %error, "the stored credential cannot be used");
    let (oauth_error, http_status) = (None, None);
    LastFailure { at: now, id: RenewalId(0), class, oauth_error, http_status, detail: error, attempt: 1 }
}

/// The command that signs in to an account, for the log.
fn login(id: &AccountId) -> String {
    accounts::login(id, invocation())
}
